/*
 * A session over a small random model, for the tests of sessions: opens the pieces, runs chains of
 * rows, compares logits. Failures end the test with a message that names model and backend.
 */
#ifndef PICO_TESTS_SESSION_KIT_H
#define PICO_TESTS_SESSION_KIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conform/rig.h"

enum { KIT_VARIANTS = 3, KIT_MODELS = 7, KIT_TOKENS = 512 };

/* A backend to run on. */
typedef struct kit_variant {
    const char *name;
    const char *backend;
    char set[2][512];
    uint32_t n_threads;
    int hide_optional;
} kit_variant;

typedef struct kit_options {
    uint32_t n_slots, max_rows, max_positions, window_limit, kv_dtype;
    uint32_t head_dim; /* 0: the model's */
    int32_t window[4];
    const char *set; /* one more assignment */
    uint32_t draft;  /* TINY_DRAFT_x */
} kit_options;

typedef struct kit {
    rig rig;
    pico_model *model;
    pico_session *session;
    uint32_t n_vocab, n_slots, max_rows;
    int32_t token[KIT_TOKENS];
    uint64_t random;
    char what[96];
    int32_t memo[KIT_TOKENS]; /* what the oracle's slot holds */
    uint32_t memo_n;
} kit;

/* Portable kernels without the optional slots, the best kernels with two threads, and the deferred
 * device around them if that plugin was built; or the backend that PICOCHAT_TEST_BACKEND names alone,
 * a file, with PICOCHAT_TEST_SETTING ("backend.NAME.key=value"). */
static inline uint32_t kit_variants(kit_variant out[KIT_VARIANTS]) {
    static const char deferred[] = PICO_BUILD_DIR "/tests/plugins/backend_deferred.so";
    const char *other = getenv("PICOCHAT_TEST_BACKEND"), *set = getenv("PICOCHAT_TEST_SETTING");
    if (other != NULL) {
        out[0] = (kit_variant){.name = "the one asked for", .backend = other, .n_threads = 1};
        (void)snprintf(out[0].set[0], sizeof out[0].set[0], "%s", set == NULL ? "" : set);
        return 1;
    }
    out[0] =
        (kit_variant){.name = "cpu, portable, no optional slots", .backend = "cpu", .n_threads = 1};
    (void)snprintf(out[0].set[0], sizeof out[0].set[0], "backend.cpu.isa=portable");
    out[0].hide_optional = 1;
    out[1] = (kit_variant){.name = "cpu, best instruction set", .backend = "cpu", .n_threads = 2};
    if (access(deferred, R_OK) != 0) {
        print_message("skipped: %s is not there\n", deferred);
        return 2;
    }
    out[2] = (kit_variant){.name = "deferred device", .backend = deferred, .n_threads = 1};
    (void)snprintf(out[2].set[0], sizeof out[2].set[0], "backend.deferred.inner=%s",
                   PICO_BUILD_DIR "/plugins/backend_cpu.so");
    return 3;
}

/* The tests on one backend: the state of each is the kit_variant. Gives the number of failures. */
static inline int kit_run_variant(const char *name, struct CMUnitTest *tests, size_t n,
                                  kit_variant *variant) {
    for (size_t t = 0; t < n; t++) {
        tests[t].initial_state = variant;
    }
    print_message("backend: %s\n", variant->name);
    return _cmocka_run_group_tests(name, tests, n, NULL, NULL);
}

/* The same on every backend. */
static inline int kit_run_group(const char *name, struct CMUnitTest *tests, size_t n) {
    kit_variant variants[KIT_VARIANTS];
    uint32_t n_variant = kit_variants(variants);
    int failed = 0;
    for (uint32_t i = 0; i < n_variant; i++) {
        failed += kit_run_variant(name, tests, n, &variants[i]);
    }
    return failed;
}

/* The same with the AVX2 kernels, which are not the best everywhere; none where the CPU lacks
 * them. */
static inline int kit_run_avx2(const char *name, struct CMUnitTest *tests, size_t n) {
    if (getenv("PICOCHAT_TEST_BACKEND") != NULL) {
        return 0;
    }
    kit_variant avx2 = {
        .name = "cpu, AVX2", .backend = "cpu", .set = {"backend.cpu.isa=avx2"}, .n_threads = 2};
    const char *set[] = {avx2.set[0], NULL};
    const rig_setup setup = {.search = PICO_BUILD_DIR "/plugins", .set = set};
    pico_error err = {0};
    rig r;
    const pico_status status = rig_open(&r, &setup, &err);
    if (status == PICO_OK) {
        rig_close(&r);
        return kit_run_variant(name, tests, n, &avx2);
    }
    print_message("skipped: %s\n", err.message);
    return status == PICO_E_DEVICE ? 0 : 1;
}

/* On an array, as with cmocka's own macro. */
#define KIT_RUN(name, tests) kit_run_group(name, tests, sizeof(tests) / sizeof *(tests))
#define KIT_RUN_AVX2(name, tests) kit_run_avx2(name, tests, sizeof(tests) / sizeof *(tests))

static inline float *kit_floats(size_t n) {
    float *values = calloc(n + 1, sizeof *values);
    assert_non_null(values);
    return values;
}

/* llama with grouped KV heads, nanochat g0, gpt2, llama with one KV head, nanochat g2 with one KV
 * head and extra heads, nanochat g4, llama with biases. */
static inline tiny_model kit_model(uint32_t index) {
    const tiny_model models[KIT_MODELS] = {
        {.family = "llama",
         .n_layer = 2,
         .n_head = 4,
         .n_kv_head = 2,
         .head_dim = 8,
         .n_ff = 40,
         .n_vocab = 61,
         .n_ctx = 320},
        {.family = "nanochat",
         .n_layer = 4,
         .n_head = 2,
         .n_kv_head = 2,
         .head_dim = 12,
         .n_ff = 64,
         .n_vocab = 50,
         .n_ctx = 320},
        {.family = "gpt2",
         .n_layer = 2,
         .n_head = 3,
         .n_kv_head = 3,
         .head_dim = 10,
         .n_ff = 49,
         .n_vocab = 67,
         .n_ctx = 380},
        {.family = "llama",
         .n_layer = 3,
         .n_head = 6,
         .n_kv_head = 1,
         .head_dim = 6,
         .n_ff = 33,
         .n_vocab = 37,
         .n_ctx = 320},
        {.family = "nanochat-g2",
         .n_layer = 4,
         .n_head = 3,
         .n_kv_head = 1,
         .head_dim = 8,
         .n_ff = 40,
         .n_vocab = 53,
         .n_ctx = 320},
        {.family = "nanochat-g4",
         .n_layer = 3,
         .n_head = 4,
         .n_kv_head = 2,
         .head_dim = 6,
         .n_ff = 44,
         .n_vocab = 47,
         .n_ctx = 320},
        {.family = "llama-biased",
         .n_layer = 2,
         .n_head = 2,
         .n_kv_head = 2,
         .head_dim = 8,
         .n_ff = 24,
         .n_vocab = 31,
         .n_ctx = 320},
    };
    tiny_model tiny = models[index % KIT_MODELS];
    tiny.seed = 7 + index;
    return tiny;
}

static inline void kit_open(kit *k, const kit_variant *variant, uint32_t model,
                            const kit_options *options) {
    pico_error err = {0};
    const char *set[4] = {0};
    uint32_t n_set = 0;
    for (uint32_t i = 0; i < 2; i++) {
        if (variant->set[i][0] != '\0') {
            set[n_set++] = variant->set[i];
        }
    }
    set[n_set] = options->set;
    rig_setup setup = {.search = PICO_BUILD_DIR "/plugins",
                       .backend = variant->backend,
                       .set = set,
                       .n_threads = variant->n_threads,
                       .hide_optional = variant->hide_optional};
    tiny_model tiny = kit_model(model);
    tiny.draft = options->draft;
    memset(k, 0, sizeof *k);
    memcpy(tiny.window, options->window, sizeof tiny.window);
    tiny.head_dim = options->head_dim == 0 ? tiny.head_dim : options->head_dim;
    k->n_slots = options->n_slots;
    k->max_rows = options->max_rows;
    k->n_vocab = tiny.n_vocab;
    k->random = 1000 + model;
    (void)snprintf(k->what, sizeof k->what, "%s %u on %s", tiny.family, model, variant->name);
    pico_session_params params = {.n_slots = options->n_slots,
                                  .max_positions = options->max_positions,
                                  .window_limit = options->window_limit,
                                  .max_rows = options->max_rows,
                                  .max_logit_rows = options->max_rows,
                                  .max_top_k = 1};
    uint32_t kv_dtype = options->kv_dtype == 0 ? PICO_DTYPE_F32 : options->kv_dtype;
    if (rig_open(&k->rig, &setup, &err) != PICO_OK ||
        tiny_model_open(&k->rig, &tiny, kv_dtype, &k->model, &err) != PICO_OK ||
        pico_session_open(k->model, &params, &k->session, &err) != PICO_OK) {
        fail_msg("%s: %s", k->what, err.message);
    }
}

static inline void kit_close(kit *k) {
    pico_session_close(k->session);
    pico_model_close(k->model);
    rig_close(&k->rig);
}

/* Draws the first n tokens of the common text. */
static inline void kit_tokens(kit *k, uint32_t n) {
    assert_true(n <= KIT_TOKENS);
    for (uint32_t i = 0; i < n; i++) {
        k->token[i] = (int32_t)rig_below(&k->random, k->n_vocab);
    }
}

/* Adds rows for tokens [begin, begin + n) of the common text to rows; returns the new count. */
static inline uint32_t kit_chain(const kit *k, pico_row *rows, uint32_t count, uint32_t slot,
                                 uint32_t begin, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t pos = begin + i;
        rows[count + i] = (pico_row){.token = k->token[pos],
                                     .prev = pos == 0 ? -1 : k->token[pos - 1],
                                     .slot = slot,
                                     .pos = (int32_t)pos,
                                     .parent = i == 0 ? -1 : (int32_t)(count + i - 1),
                                     .want = PICO_ROW_LOGITS};
    }
    return count + n;
}

/* One forward; all rows want logits, which go to out (n, n_vocab). */
static inline void kit_forward(kit *k, const pico_row *rows, uint32_t n, float *out) {
    pico_error err = {0};
    pico_forward_out result;
    if (pico_session_forward(k->session, rows, n, &result, &err) != PICO_OK) {
        fail_msg("%s: %s", k->what, err.message);
    }
    assert_int_equal(result.n, n);
    if (rig_read(&k->rig, &result.logits, out, (size_t)n * k->n_vocab) != PICO_OK) {
        fail_msg("%s: the logits cannot be read", k->what);
    }
}

static inline void kit_run(kit *k, uint32_t slot, uint32_t begin, uint32_t n, float *out) {
    pico_row rows[KIT_TOKENS];
    kit_chain(k, rows, 0, slot, begin, n);
    kit_forward(k, rows, n, out);
}

static inline void kit_empty(kit *k, uint32_t slot) {
    assert_int_equal(pico_session_truncate(k->session, slot, 0, NULL), PICO_OK);
}

/* The common text in chunks of random size, none smaller than least; the last may be up to least -
 * 1 rows larger than most. */
static inline void kit_chunks(kit *k, uint32_t slot, uint32_t n, uint32_t least, uint32_t most,
                              float *out) {
    assert_true(n >= least && most + least - 1 <= k->max_rows);
    for (uint32_t at = 0; at < n;) {
        uint32_t take = least + rig_below(&k->random, most - least + 1);
        take = n - at < take + least ? n - at : take;
        kit_run(k, slot, at, take, out + (size_t)at * k->n_vocab);
        at += take;
    }
}

static inline void kit_same(const float *want, const float *got, size_t n) {
    if (memcmp(want, got, n * sizeof *want) != 0) {
        size_t i = 0;
        while (memcmp(want + i, got + i, sizeof *want) == 0) {
            i++;
        }
        fail_msg("value %zu of %zu is %.9g, expected %.9g bit for bit", i, n, (double)got[i],
                 (double)want[i]);
    }
}

static inline void kit_close_to(const float *want, const float *got, size_t n, double limit) {
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)want[i] - (double)got[i]);
        if (!(d <= limit)) {
            fail_msg("value %zu of %zu is %.9g, expected %.9g within %g", i, n, (double)got[i],
                     (double)want[i], limit);
        }
    }
}

#endif
