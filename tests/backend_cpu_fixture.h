/*
 * What the tests of backend_cpu share: the plugin loaded from the build folder, a small host with
 * threads of its own, tensors surrounded by sentinels, random data. Each test runs for every
 * instruction set that the machine has. PICOCHAT_TEST_BACKEND=FILE runs the tests of pico.train/1 on
 * another backend, with its default options.
 */
#ifndef PICO_TESTS_BACKEND_CPU_FIXTURE_H
#define PICO_TESTS_BACKEND_CPU_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "ref_ops.h"

#define FIX_GUARD 64
#define FIX_SENTINEL 0x7fb1e55du /* a NaN that no op computes */
#define FIX_MAX_THREADS 4

enum {
    FIX_AUTO,
    FIX_PORTABLE,
    FIX_AVX2,
    FIX_AVX512,
    FIX_AMX,
    FIX_ISA_END,
    FIX_FLOAT_INPUT = 16 /* activations = f32 */
};

typedef struct fix {
    const pico_plugin *plugin;
    const pico_backend_ops *ops;
    void *self;
    pico_host host;
    uint32_t n_threads, float_input;
    pico_buffer *buffer[1024];
    uint32_t n_buffer;
    pico_weight *weight[64];
    uint32_t n_weight;
    uint64_t random;
    pico_range told[2 * FIX_MAX_THREADS]; /* what will be read, and how often that was said */
    uint32_t n_told;
} fix;

/* ---- a host ---- */

typedef struct fix_job {
    void (*fn)(void *arg, uint64_t begin, uint64_t end, uint32_t thread);
    void *arg;
    uint64_t n, grain;
    atomic_uint_fast64_t next;
} fix_job;

typedef struct fix_worker {
    fix_job *job;
    uint32_t thread;
} fix_worker;

static void *fix_work(void *arg) {
    const fix_worker *worker = arg;
    fix_job *job = worker->job;
    for (;;) {
        const uint64_t begin = atomic_fetch_add(&job->next, job->grain);
        if (begin >= job->n) {
            return NULL;
        }
        const uint64_t end = job->n - begin < job->grain ? job->n : begin + job->grain;
        job->fn(job->arg, begin, end, worker->thread);
    }
}

static uint32_t fix_n_threads(void *ctx) {
    return ((const fix *)ctx)->n_threads;
}

static void fix_parallel_for(void *ctx, uint64_t n, uint64_t grain,
                             void (*fn)(void *arg, uint64_t begin, uint64_t end, uint32_t thread),
                             void *arg) {
    const fix *f = ctx;
    fix_job job = {.fn = fn, .arg = arg, .n = n, .grain = grain};
    fix_worker worker[FIX_MAX_THREADS];
    pthread_t thread[FIX_MAX_THREADS];
    assert_true(grain > 0);
    for (uint32_t i = 0; i < f->n_threads; i++) {
        worker[i] = (fix_worker){&job, i};
    }
    for (uint32_t i = 1; i < f->n_threads; i++) {
        assert_int_equal(pthread_create(&thread[i], NULL, fix_work, &worker[i]), 0);
    }
    (void)fix_work(&worker[0]);
    for (uint32_t i = 1; i < f->n_threads; i++) {
        pthread_join(thread[i], NULL);
    }
}

static void fix_will_read(void *ctx, const pico_range *range, uint32_t n) {
    fix *f = ctx;
    assert_in_range(n, 1, 2);
    memcpy(f->told, range, sizeof *range * n * f->n_threads);
    f->n_told++;
}

static const char *fix_other(void) {
    return getenv("PICOCHAT_TEST_BACKEND");
}

static const pico_plugin *fix_plugin(void) {
    const char *path = fix_other() != NULL ? fix_other() : PICO_BUILD_DIR "/plugins/backend_cpu.so";
    void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (file == NULL) {
        fail_msg("%s", dlerror());
    }
    const pico_plugin *(*query)(uint32_t);
    *(void **)&query = dlsym(file, "pico_plugin_query");
    assert_non_null(query);
    return query(0);
}

/* The options of a plugin at their defaults: whole numbers, switches and words. */
static void fix_defaults(const pico_plugin *plugin, char *bound) {
    for (uint32_t i = 0; i < plugin->n_options; i++) {
        const pico_option *option = &plugin->options[i];
        uint32_t value = 0;
        if (option->type == PICO_OPT_INT) {
            const int64_t number = strtoll(option->def, NULL, 10);
            memcpy(bound + option->offset, &number, sizeof number);
            continue;
        }
        assert_true(option->type == PICO_OPT_BOOL || option->type == PICO_OPT_ENUM);
        if (option->type == PICO_OPT_BOOL) {
            value = strcmp(option->def, "on") == 0;
        } else {
            while (strcmp(option->choices[value], option->def) != 0) {
                value++;
            }
        }
        memcpy(bound + option->offset, &value, sizeof value);
    }
}

/* 1, or 0 when the machine lacks the instruction set. */
static int fix_open(fix *f, uint32_t isa, uint32_t n_threads) {
    pico_error err = {0};
    *f = (fix){.plugin = fix_plugin(),
               .n_threads = n_threads,
               .float_input = isa / FIX_FLOAT_INPUT,
               .random = 88172645463325252u};
    f->host = (pico_host){.struct_size = sizeof f->host,
                          .ctx = f,
                          .n_threads = fix_n_threads,
                          .parallel_for = fix_parallel_for,
                          .will_read = fix_will_read};
    union {
        uint32_t cpu[2];
        int64_t align;
        char other[256];
    } options = {.cpu = {isa % FIX_FLOAT_INPUT, isa / FIX_FLOAT_INPUT}};
    if (fix_other() != NULL) {
        if (isa != FIX_PORTABLE || n_threads != 1) {
            return 0;
        }
        assert_true(f->plugin->options_bytes <= sizeof options);
        memset(&options, 0, sizeof options);
        fix_defaults(f->plugin, options.other);
    } else {
        assert_int_equal(f->plugin->options_bytes, sizeof options.cpu);
    }
    const pico_status status = f->plugin->create(&f->host, &options, &f->self, &err);
    if (status == PICO_E_DEVICE && isa % FIX_FLOAT_INPUT > FIX_PORTABLE) {
        assert_non_null(strstr(err.message, "portable")); /* says what to do instead */
        print_message("[  SKIPPED ] %s\n", err.message);
        return 0;
    }
    assert_int_equal(status, PICO_OK);
    f->ops = f->plugin->ops;
    const pico_reserve need = {.max_rows = 512,
                               .max_in = 2048,
                               .max_out = 4096,
                               .max_head = 32,
                               .max_head_dim = 256,
                               .max_positions = 1024,
                               .max_logit_rows = 64,
                               .max_top_k = 256,
                               .max_edits = 256};
    assert_int_equal(f->ops->reserve(f->self, &need, &err), PICO_OK);
    return 1;
}

static void fix_reset(fix *f) {
    for (uint32_t i = 0; i < f->n_weight; i++) {
        f->ops->weight_free(f->self, f->weight[i]);
    }
    for (uint32_t i = 0; i < f->n_buffer; i++) {
        f->ops->buffer_free(f->self, f->buffer[i]);
    }
    f->n_weight = 0;
    f->n_buffer = 0;
}

static void fix_close(fix *f) {
    fix_reset(f);
    f->plugin->destroy(f->self);
}

/* Calls test for each instruction set, with FIX_x options, and for 1 and 2 threads. */
static inline void fix_each_with(uint32_t options, void (*test)(fix *f)) {
    for (uint32_t isa = FIX_PORTABLE; isa < FIX_ISA_END; isa++) {
        for (uint32_t threads = 1; threads <= 2; threads++) {
            fix f;
            if (fix_open(&f, isa + options, threads)) {
                test(&f);
                fix_close(&f);
            }
        }
    }
}

static inline void fix_each(void (*test)(fix *f)) {
    fix_each_with(0, test);
}

/* ---- data ---- */

static uint32_t fix_bits(fix *f) {
    f->random ^= f->random << 13;
    f->random ^= f->random >> 7;
    f->random ^= f->random << 17;
    return (uint32_t)(f->random >> 32);
}

/* uniform in [-size, size) */
static float fix_float(fix *f, float size) {
    return ((float)(fix_bits(f) >> 8) * 0x1p-23f - 1.0f) * size;
}

static inline float *fix_floats(fix *f, int64_t n, float size) {
    float *x = malloc(sizeof *x * (size_t)(n > 0 ? n : 1));
    for (int64_t i = 0; i < n; i++) {
        x[i] = fix_float(f, size);
    }
    return x;
}

static pico_buffer *fix_buffer(fix *f, uint64_t bytes) {
    pico_buffer *buffer = NULL;
    pico_error err;
    assert_int_equal(f->ops->buffer_alloc(f->self, bytes, &buffer, &err), PICO_OK);
    assert_true(f->n_buffer < sizeof f->buffer / sizeof *f->buffer);
    f->buffer[f->n_buffer++] = buffer;
    return buffer;
}

/* (rows, cols), rows ld apart, with sentinels around the rows. data is dense; NULL: undefined */
static pico_tensor fix_tensor(fix *f, uint32_t dtype, const void *data, int64_t rows, int64_t cols,
                              int64_t ld) {
    const int64_t n = 2 * FIX_GUARD + rows * ld;
    uint32_t *words = malloc(sizeof *words * (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        words[i] = FIX_SENTINEL;
    }
    for (int64_t r = 0; data != NULL && r < rows; r++) {
        memcpy(words + FIX_GUARD + r * ld, (const char *)data + r * cols * 4, (size_t)cols * 4);
    }
    pico_buffer *buffer = fix_buffer(f, (uint64_t)n * 4);
    assert_int_equal(f->ops->buffer_write(f->self, buffer, 0, words, (uint64_t)n * 4), PICO_OK);
    free(words);
    return (pico_tensor){.buffer = buffer,
                         .offset = FIX_GUARD * 4,
                         .dtype = dtype,
                         .rank = 2,
                         .shape = {rows, cols, 1, 1},
                         .stride = {ld, 1, 0, 0}};
}

static inline pico_tensor fix_f32(fix *f, const float *data, int64_t rows, int64_t cols) {
    return fix_tensor(f, PICO_DTYPE_F32, data, rows, cols, cols + 3);
}

static inline pico_tensor fix_vector(fix *f, uint32_t dtype, const void *data, int64_t n) {
    pico_tensor t = fix_tensor(f, dtype, data, 1, n, n);
    t.rank = 1;
    t.shape[0] = n;
    t.stride[0] = 1;
    return t;
}

/* (rows, cols) as (rows, heads, cols / heads) */
static inline pico_tensor fix_heads(pico_tensor t, int64_t heads) {
    const int64_t width = t.shape[1] / heads;
    t.rank = 3;
    t.shape[1] = heads;
    t.shape[2] = width;
    t.stride[1] = width;
    t.stride[2] = 1;
    return t;
}

/* The values, dense; fails if anything outside the rows has changed. */
static inline float *fix_get(fix *f, const pico_tensor *t) {
    const int64_t vector = t->rank == 1, rows = vector ? 1 : t->shape[0];
    const int64_t cols = vector ? t->shape[0] : t->shape[1] * (t->rank == 3 ? t->shape[2] : 1);
    const int64_t ld = vector ? cols : t->stride[0], n = 2 * FIX_GUARD + rows * ld;
    uint32_t *words = malloc(sizeof *words * (size_t)n);
    float *out = malloc(sizeof *out * (size_t)(rows * cols > 0 ? rows * cols : 1));
    pico_error err;
    assert_int_equal(f->ops->buffer_read(f->self, t->buffer, 0, words, (uint64_t)n * 4, &err),
                     PICO_OK);
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = i - FIX_GUARD, row = at < 0 ? -1 : at / ld;
        const int inside = at >= 0 && row < rows && at % ld < cols;
        if (inside) {
            memcpy(&out[row * cols + at % ld], &words[i], 4);
        } else if (words[i] != FIX_SENTINEL) {
            fail_msg("element %lld outside the tensor was written", (long long)at);
        }
    }
    free(words);
    return out;
}

static inline pico_weight *fix_weight(fix *f, const pico_weight_desc *desc, uint32_t stays) {
    pico_weight *weight = NULL;
    pico_error err = {0};
    if (f->ops->weight_create(f->self, desc, PICO_USE_PRODUCT | PICO_USE_LOOKUP, stays, &weight,
                              &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    assert_true(f->n_weight < sizeof f->weight / sizeof *f->weight);
    f->weight[f->n_weight++] = weight;
    return weight;
}

static inline void fix_close_to(const float *got, const double *want, int64_t n, double limit) {
    const double nmse = ref_nmse(got, want, n);
    if (!(nmse <= limit)) {
        fail_msg("normalised mean square error %g, at most %g expected", nmse, limit);
    }
}

static inline void fix_same_bits(const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], 4) != 0) {
            fail_msg("element %lld: %.9g and %.9g", (long long)i, (double)a[i], (double)b[i]);
        }
    }
}

/* Of a weight's codes, by the ABI's description of its layout. */
static inline uint64_t fix_code_bytes(uint32_t dtype, int64_t rows, int64_t cols) {
    const uint64_t n = (uint64_t)(rows * cols);
    switch (dtype) {
    case PICO_DTYPE_F32:
        return n * 4;
    case PICO_DTYPE_F16:
    case PICO_DTYPE_BF16:
        return n * 2;
    case PICO_DTYPE_Q8_0:
        return n / 32 * 34;
    case PICO_DTYPE_Q4_0:
        return n / 32 * 18;
    case PICO_DTYPE_NF4:
        return (uint64_t)rows * (uint64_t)((cols + 1) / 2);
    default:
        return n;
    }
}

#endif
