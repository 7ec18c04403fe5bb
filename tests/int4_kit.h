/*
 * What the tests of compress_int4 share: instances of the plugin through the registry, a model file
 * of one layer, and a host whose model computes activations that the test has made up.
 */
#ifndef PICO_TESTS_INT4_KIT_H
#define PICO_TESTS_INT4_KIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conform/rig.h"
#include "transform/compress.h"
#include "transform/tensors.h"

enum { INT4_TOKENS = 4000 };

/* Activations are a pure function of the row of the pass and the tap, multiples of 1/8 below 32, so
 * that sums of their products are exact in F32. Channels depend on each other, and some are large. */
static inline void int4_activations(uint32_t row, uint32_t kind, uint32_t width, float *out) {
    uint64_t random = (uint64_t)row * 5 + kind + 1;
    double base[4];
    for (size_t i = 0; i < 4; i++) {
        base[i] = 4 * rig_uniform(&random) - 2;
    }
    for (uint32_t i = 0; i < width; i++) {
        const double own = 2 * rig_uniform(&random) - 1;
        const double large = i % 29 == 7 ? 8 : i % 5 == 0 ? 2 : 1;
        out[i] = (float)(round(8 * large * (base[i % 4] + 0.6 * base[(i / 3) % 4] + own)) / 8);
    }
}

typedef struct int4_rig {
    pico_config *config;
    pico_registry *registry;
    pico_pool *pool;
    pico_host host;
    pico_instance instance;
    const pico_compressor_ops *ops;
    pico_model_file *file;
    /* the made-up model */
    uint64_t n_tokens; /* that the calibration text has */
    pico_feed feed;    /* the last that was asked for */
    uint32_t n_rows;   /* run so far */
} int4_rig;

/* The model that the plugin is given is the rig. */
static inline int4_rig *int4_of(const void *handle) {
    return (int4_rig *)(uintptr_t)handle;
}

static inline const pico_model_desc *int4_desc(const pico_model *model) {
    return &int4_of(model)->file->desc;
}

/* One forward pass. */
static inline void int4_forward(int4_rig *r, uint32_t n) {
    static const char *const names[] = {"attn_norm", "attended", "ffn_norm", "ffn_inner", "hidden"};
    const pico_model_desc *desc = &r->file->desc;
    const uint32_t widths[] = {desc->n_embd, desc->layer[0].n_head * desc->layer[0].head_dim,
                               desc->n_embd, desc->layer[0].n_ff, desc->n_embd};
    assert_true(r->n_rows + n <= INT4_TOKENS);
    for (uint32_t kind = 0; kind < 5 && (kind < 4 || r->feed.want != 0); kind++) {
        float *x = malloc((size_t)n * widths[kind] * sizeof *x);
        assert_non_null(x);
        for (uint32_t i = 0; i < n; i++) {
            int4_activations(r->n_rows + i, kind, widths[kind], x + (size_t)i * widths[kind]);
        }
        r->feed.tap(r->feed.arg, kind == 4 ? desc->n_layer : 0, names[kind], x, n, widths[kind]);
        free(x);
    }
    r->n_rows += n;
}

/* Pieces with a begin-of-text token in each, as many as fit or are asked for. */
static inline pico_status int4_feed(const pico_host *host, pico_model *model, const pico_feed *feed,
                                    pico_error *err) {
    int4_rig *r = int4_of(model);
    (void)host, (void)err;
    assert_int_equal(feed->struct_size, sizeof *feed);
    assert_true(feed->piece > 1 && feed->max_rows > 0 && feed->path != NULL && feed->what != NULL);
    r->feed = *feed;
    const uint64_t room = r->n_tokens / (feed->piece - 1),
                   pieces = feed->n_piece != 0 ? feed->n_piece : room;
    for (uint64_t i = 0; i < pieces; i++) {
        for (uint32_t at = 0; at < feed->piece; at += feed->max_rows) {
            const uint32_t left = feed->piece - at;
            int4_forward(r, left < feed->max_rows ? left : feed->max_rows);
        }
    }
    return PICO_OK;
}

static inline uint32_t int4_n_threads(void *ctx) {
    return pico_pool_n_threads(((int4_rig *)ctx)->pool);
}

static inline void
int4_parallel_for(void *ctx, uint64_t n, uint64_t grain,
                  void (*fn)(void *arg, uint64_t begin, uint64_t end, uint32_t thread), void *arg) {
    pico_pool_for(((int4_rig *)ctx)->pool, n, grain, fn, arg);
}

static const pico_session_api int4_session = {.struct_size = sizeof int4_session,
                                              .feed = int4_feed};

static inline void int4_check(pico_status status, const pico_error *err) {
    if (status != PICO_OK) {
        fail_msg("%s", err->message);
    }
}

/* A model of one layer with these widths, and an instance with options "key=value", NULL-ended. */
static inline void int4_rig_open_as(int4_rig *r, const char *family, uint32_t head_dim,
                                    uint32_t n_ff, uint32_t n_threads, const char *const *options) {
    const tiny_model tiny = {.family = family,
                             .n_layer = 1,
                             .n_head = 4,
                             .n_kv_head = 4,
                             .head_dim = head_dim,
                             .n_ff = n_ff,
                             .n_vocab = 96,
                             .n_ctx = 64,
                             .seed = 8};
    pico_error err = {0};
    char assignment[4200];
    memset(r, 0, sizeof *r);
    r->n_tokens = 640;
    int4_check(tiny_model_file(&tiny, &r->file, &err), &err);
    int4_check(pico_config_open(&r->config, &err), &err);
    for (size_t i = 0; options[i] != NULL; i++) {
        (void)snprintf(assignment, sizeof assignment, "compress.1.int4.%s", options[i]);
        int4_check(pico_config_set(r->config, assignment, "--set", &err), &err);
    }
    int4_check(pico_registry_open(PICO_BUILD_DIR "/plugins", &r->registry, &err), &err);
    int4_check(pico_pool_open(n_threads, &r->pool, &err), &err);
    r->host = (pico_host){.struct_size = sizeof(pico_host),
                          .abi_minor = PICO_ABI_MINOR,
                          .ctx = r,
                          .n_threads = int4_n_threads,
                          .parallel_for = int4_parallel_for,
                          .session = &int4_session,
                          .tensors = &pico_tensors_table,
                          .model_desc = int4_desc};
    int4_check(pico_registry_create(r->registry, r->config, PICO_KIND_COMPRESSOR, "int4",
                                    "compress.1.int4", &r->host, &r->instance, &err),
               &err);
    r->ops = &r->instance.loaded->ops.compressor;
}

static inline void int4_rig_open(int4_rig *r, uint32_t head_dim, uint32_t n_ff, uint32_t n_threads,
                                 const char *const *options) {
    int4_rig_open_as(r, "llama", head_dim, n_ff, n_threads, options);
}

static inline void int4_rig_close(int4_rig *r) {
    pico_registry_destroy(r->registry, &r->instance);
    pico_model_file_close(r->file);
    pico_registry_close(r->registry);
    pico_pool_close(r->pool);
    pico_config_close(r->config);
}

static inline pico_status int4_open_model(void *arg, pico_model_file *file, pico_model **out,
                                          pico_error *err) {
    (void)file, (void)err;
    *out = arg;
    return PICO_OK;
}

static inline void int4_close_model(void *arg, pico_model *model) {
    (void)arg, (void)model;
}

/* Plan, calibrate, apply, compare with the plan. */
static inline pico_status int4_run(int4_rig *r, pico_error *err) {
    const pico_stage stage = {.number = 1, .name = "int4", .ops = r->ops, .self = r->instance.self};
    const pico_chain_callbacks callbacks = {
        .open_model = int4_open_model, .close_model = int4_close_model, .arg = r};
    return pico_compress_chain(r->file, &stage, 1, &callbacks, err);
}

/* A calibration text; the made-up model never looks into it. Returns "calibration=PATH". */
static inline const char *int4_text_option(char out[64]) {
    char path[] = "/tmp/pico-int4-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, "text", 4) == 4);
    (void)close(fd);
    (void)snprintf(out, 64, "calibration=%s", path);
    return out;
}

static inline void int4_text_remove(const char *option) {
    (void)unlink(strchr(option, '=') + 1);
}

static inline pico_file_tensor *int4_tensor(const int4_rig *r, const char *name) {
    for (uint32_t i = 0; i < r->file->n_tensor; i++) {
        if (strcmp(r->file->tensor[i].name, name) == 0) {
            return &r->file->tensor[i];
        }
    }
    fail_msg("no tensor %s", name);
    return NULL;
}

/* The effective weight, (rows, cols); malloc-ed. */
static inline float *int4_values(const pico_file_tensor *tensor) {
    const pico_weight_desc *w = &tensor->data;
    float *out = malloc((size_t)(w->rows * w->cols) * sizeof *out);
    assert_non_null(out);
    for (int64_t row = 0; row < w->rows; row++) {
        pico_weight_row_f32(w, row, out + row * w->cols);
    }
    return out;
}

/* Code of column j, whatever the format. */
static inline uint8_t int4_code(const pico_weight_desc *w, int64_t row, int64_t j) {
    const uint8_t *p =
        (const uint8_t *)w->codes + row * (int64_t)(w->codes_bytes / (uint64_t)w->rows);
    if (w->dtype == PICO_DTYPE_NF4) {
        return (uint8_t)(j % 2 == 0 ? p[j / 2] >> 4 : p[j / 2] & 15);
    }
    const uint8_t byte = p[j / 32 * 18 + 2 + j % 16];
    return (uint8_t)(j % 32 < 16 ? byte & 15 : byte >> 4);
}

#endif
