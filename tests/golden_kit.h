/*
 * Reference outputs of independent implementations: a folder with a MANIFEST.json, which is
 * PICOCHAT_FIXTURES or tests/golden. Where the variable is set a missing file is a failure; the
 * folder in the tree is complete as far as its manifest goes. Tests that use this carry the label
 * golden, and their last line says how much was compared.
 */
#ifndef PICO_TESTS_GOLDEN_KIT_H
#define PICO_TESTS_GOLDEN_KIT_H

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "session/internal.h"
#include "test_run.h"

enum { GOLDEN_TOKENS = 2048 };

/* How much was compared by this program. */
typedef struct golden_tally {
    size_t n_checkpoint, n_row, n_greedy;
    double worst;
} golden_tally;

static inline const char *golden_folder(void) {
    const char *named = getenv("PICOCHAT_FIXTURES");
    return named != NULL ? named : PICO_SOURCE_DIR "/tests/golden";
}

static inline const char *golden_path(char out[4096], const char *folder, const char *name) {
    int n = folder == NULL ? snprintf(out, 4096, "%s/%s", golden_folder(), name)
                           : snprintf(out, 4096, "%s/%s/%s", golden_folder(), folder, name);
    assert_in_range(n, 1, 4095);
    return out;
}

static inline json_t *golden_json(const char *folder, const char *name) {
    char path[4096];
    json_error_t why;
    json_t *root = json_load_file(golden_path(path, folder, name), JSON_ALLOW_NUL, &why);
    if (root == NULL) {
        fail_msg("%s: %s", path, why.text);
    }
    return root;
}

static inline json_t *golden_manifest(void) {
    return golden_json(NULL, "MANIFEST.json");
}

/* n floats; malloc-ed. */
static inline float *golden_floats(const char *folder, const char *name, size_t n) {
    char path[4096];
    pico_error err = {0};
    pico_map map;
    test_check(pico_map_open(golden_path(path, folder, name), &map, &err), &err);
    if (map.size != n * sizeof(float)) {
        fail_msg("%s has %llu bytes, expected %zu", path, (unsigned long long)map.size,
                 n * sizeof(float));
    }
    float *values = malloc(map.size);
    assert_non_null(values);
    memcpy(values, map.data, map.size);
    pico_map_close(&map);
    return values;
}

/* The floats of entry `name` of a "files" object {file, shape}; NULL if there is no such entry. */
static inline float *golden_array(const char *folder, const json_t *files, const char *name,
                                  size_t *n_rows) {
    const json_t *entry = json_object_get(files, name);
    size_t n = 1, i;
    json_t *extent;
    if (entry == NULL) {
        return NULL;
    }
    json_array_foreach(json_object_get(entry, "shape"), i, extent) {
        n *= (size_t)json_integer_value(extent);
    }
    *n_rows = (size_t)json_integer_value(json_array_get(json_object_get(entry, "shape"), 0));
    return golden_floats(folder, json_string_value(json_object_get(entry, "file")), n);
}

static inline size_t golden_ids(const json_t *list, int32_t *out, size_t capacity) {
    size_t n = json_array_size(list);
    assert_in_range(n, 1, capacity);
    for (size_t i = 0; i < n; i++) {
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    }
    return n;
}

/* ---- logits ---- */

/* Rope tables (positions, rope_dim / 2) that take the place of the session's own; NULL: none. */
typedef struct golden_rope {
    const float *cosine, *sine;
    size_t n_positions;
} golden_rope;

static inline pico_session *golden_session(test_run *run, uint32_t max_positions, uint32_t max_rows,
                                           const golden_rope *rope) {
    pico_session *session = NULL;
    pico_error err = {0};
    pico_session_params params = {.n_slots = 1,
                                  .max_rows = max_rows,
                                  .max_logit_rows = max_rows,
                                  .max_top_k = 1,
                                  .max_positions = max_positions};
    test_check(pico_session_open(run->model, &params, &session, &err), &err);
    if (rope != NULL) {
        size_t n = (size_t)max_positions * pico_model_describe(run->model)->rope_dim / 2;
        const pico_backend_ops *ops = run->device.ops;
        assert_true(rope->n_positions >= max_positions);
        test_check(ops->buffer_write(run->device.self, session->rope, session->rope_cos.offset,
                                     rope->cosine, n * sizeof(float)),
                   &err);
        test_check(ops->buffer_write(run->device.self, session->rope, session->rope_sin.offset,
                                     rope->sine, n * sizeof(float)),
                   &err);
    }
    return session;
}

/* Runs tokens [begin, begin + n) of slot 0; every row wants logits. */
static inline pico_forward_out golden_forward(pico_session *session, const int32_t *token,
                                              uint32_t begin, uint32_t n) {
    pico_row *rows = malloc(n * sizeof *rows);
    pico_forward_out out;
    pico_error err = {0};
    assert_non_null(rows);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t pos = begin + i;
        rows[i] = (pico_row){.token = token[pos],
                             .prev = pos == 0 ? -1 : token[pos - 1],
                             .pos = (int32_t)pos,
                             .parent = (int32_t)i - 1,
                             .want = PICO_ROW_LOGITS};
    }
    test_check(pico_session_forward(session, rows, n, &out, &err), &err);
    free(rows);
    return out;
}

static inline void golden_read(const test_run *run, const pico_tensor *tensor, float *out,
                               size_t n) {
    pico_error err = {0};
    test_check(run->device.ops->buffer_read(run->device.self, tensor->buffer, tensor->offset, out,
                                            n * sizeof *out, &err),
               &err);
}

static inline double golden_difference(const float *a, const float *b, size_t n) {
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        worst = d > worst || isnan(d) ? d : worst;
    }
    return worst;
}

/* Feeds n tokens in pieces of the given lengths (0: the last one repeats) and compares every row
 * with want (n, n_vocab). */
static inline void golden_compare(test_run *run, golden_tally *tally, const int32_t *token,
                                  uint32_t n, const uint32_t *pieces, const float *want,
                                  const golden_rope *rope, double tolerance, const char *what) {
    uint32_t n_vocab = pico_model_describe(run->model)->n_vocab;
    pico_session *session = golden_session(run, n, n, rope);
    float *got = malloc((size_t)n * n_vocab * sizeof *got);
    double worst = 0;
    uint32_t piece = 0;
    for (uint32_t begin = 0; begin < n; begin += piece) {
        piece = *pieces != 0 ? *pieces++ : piece;
        piece = piece < n - begin ? piece : n - begin;
        pico_forward_out out = golden_forward(session, token, begin, piece);
        golden_read(run, &out.logits, got, (size_t)piece * n_vocab);
        double d = golden_difference(got, want + (size_t)begin * n_vocab, (size_t)piece * n_vocab);
        worst = d > worst || isnan(d) ? d : worst;
        tally->n_row += piece;
    }
    tally->worst = worst > tally->worst ? worst : tally->worst;
    print_message("    %s: largest difference %.2e\n", what, worst);
    if (!(worst <= tolerance)) {
        fail_msg("%s: off by %g, allowed is %g", what, worst, tolerance);
    }
    free(got);
    pico_session_close(session);
}

/* All at once, in chunks, in the given segments (NULL: none), one by one. */
static inline void golden_compare_schedules(test_run *run, golden_tally *tally,
                                            const int32_t *token, uint32_t n,
                                            const uint32_t *segments, const float *want,
                                            const golden_rope *rope, double tolerance) {
    const uint32_t whole[] = {n, 0}, chunks[] = {7, 0}, steps[] = {1, 0};
    golden_compare(run, tally, token, n, whole, want, rope, tolerance, "whole prompt");
    golden_compare(run, tally, token, n, chunks, want, rope, tolerance, "chunks of 7");
    golden_compare(run, tally, token, n, steps, want, rope, tolerance, "single steps");
    if (segments != NULL) {
        golden_compare(run, tally, token, n, segments, want, rope, tolerance, "segments");
    }
}

/* The tokens that follow the prompt at temperature 0 are exactly these. */
static inline void golden_greedy(test_run *run, golden_tally *tally, const int32_t *prompt,
                                 size_t n_prompt, const int32_t *want, size_t n_want) {
    pico_decode_params params = {.sampler = &run->sampler.loaded->ops.sampler,
                                 .sampler_self = run->sampler.self,
                                 .decoder = &run->decoder.loaded->ops.decoder,
                                 .decoder_self = run->decoder.self,
                                 .n_slots = 1,
                                 .max_positions = (uint32_t)(n_prompt + n_want),
                                 .ubatch = 512,
                                 .repetition = 1};
    const pico_model_desc *desc = pico_model_describe(run->model);
    if (desc->pos == PICO_POS_LEARNED) {
        params.max_positions = desc->n_ctx_train;
    }
    pico_decode *decode = NULL;
    pico_error err = {0};
    test_check(pico_decode_open(run->model, &params, &decode, &err), &err);
    pico_request request = {.prompt = prompt, .n_prompt = n_prompt, .max_tokens = n_want};
    test_check(pico_decode_start(decode, 0, &request, &err), &err);
    test_check(pico_decode_run(decode, NULL, NULL, &err), &err);
    pico_slot_state slot = pico_decode_slot(decode, 0);
    assert_int_equal(slot.n_token, n_prompt + n_want);
    for (size_t i = 0; i < n_want; i++) {
        if (slot.token[n_prompt + i] != want[i]) {
            fail_msg("greedy token %zu is %d, expected %d", i, slot.token[n_prompt + i], want[i]);
        }
    }
    tally->n_greedy += n_want;
    pico_decode_close(decode);
}

/* ---- checkpoints ---- */

/* Opens a model file of the folder with the CPU backend and one option line for it. */
static inline void golden_open(test_run *run, const char *path, const char *tokenizer,
                               const char *backend_option) {
    char ini[512];
    pico_error err = {0};
    pico_model_file *file = NULL;
    (void)snprintf(ini, sizeof ini, "[backend.cpu]\n%s\n[sampler.standard]\ntemperature = 0\n",
                   backend_option);
    test_run_open_plugins(run, ini);
    test_check(pico_model_file_open(path, tokenizer, &file, &err), &err);
    test_run_open_model(run, file);
}

static inline int golden_has_avx2(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;
#endif
}

/* Calls fn for the file as it is with portable, AVX2 and the best kernels, and converted to GGUF;
 * inputs of products are not rounded. */
static inline void golden_each_form(const char *path, const char *tokenizer,
                                    void (*fn)(test_run *run, void *arg), void *arg) {
    char gguf[] = "/tmp/pico_golden_XXXXXX";
    pico_model_file *file = NULL;
    pico_error err = {0};
    test_run run;
    const struct {
        const char *path, *tokenizer, *isa, *what;
    } forms[] = {{path, tokenizer, "isa = portable\nactivations = f32", "portable kernels"},
                 {path, tokenizer, "isa = avx2\nactivations = f32", "AVX2 kernels"},
                 {path, tokenizer, "isa = auto\nactivations = f32", "best kernels"},
                 {gguf, NULL, "isa = auto\nactivations = f32", "as GGUF"}};
    int fd = mkstemp(gguf);
    assert_true(fd >= 0);
    (void)close(fd);
    test_check(pico_model_file_open(path, tokenizer, &file, &err), &err);
    test_check(pico_gguf_write(file, gguf, &err), &err);
    pico_model_file_close(file);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (strncmp(forms[i].isa, "isa = avx2", 10) == 0 && !golden_has_avx2()) {
            print_message("  %s, skipped: this machine has no AVX2\n", path);
            continue;
        }
        print_message("  %s, %s\n", path, forms[i].what);
        golden_open(&run, forms[i].path, forms[i].tokenizer, forms[i].isa);
        fn(&run, arg);
        test_run_close(&run);
    }
    (void)unlink(gguf);
}

/* Runs the one test of a program, whose tally is `tally`; the last line says what was compared. */
static inline int golden_main(const struct CMUnitTest *test, const golden_tally *tally) {
    int failed = _cmocka_run_group_tests("golden", test, 1, NULL, NULL);
    (void)fflush(stderr);
    (void)printf(
        "compared %zu checkpoints, %zu rows of logits (largest difference %.2e), %zu greedy "
        "tokens\n",
        tally->n_checkpoint, tally->n_row, tally->worst, tally->n_greedy);
    return failed;
}

#endif
