/* labels: golden */
/*
 * The Llama fixtures: logits within 1e-4 of an independent implementation for a full prefill, for
 * chunks and for single steps, greedy tokens equal; in F32 and with int8 weights (weight-only),
 * from the original file and after a conversion to GGUF. The folder is PICOCHAT_FIXTURES or
 * tests/golden; with PICOCHAT_FIXTURES set a missing file is a failure.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test_run.h"

enum { MAX_TOKENS = 256 };

static size_t n_checkpoints, n_rows;

static const char *folder(void) {
    const char *named = getenv("PICOCHAT_FIXTURES");
    return named != NULL ? named : PICO_SOURCE_DIR "/tests/golden";
}

typedef struct reference {
    int32_t prompt[MAX_TOKENS], greedy[MAX_TOKENS];
    size_t n_prompt, n_greedy;
    float *logits; /* (n_prompt, n_vocab) */
} reference;

static size_t read_ids(const json_t *list, int32_t *out) {
    size_t n = json_array_size(list);
    assert_in_range(n, 1, MAX_TOKENS);
    for (size_t i = 0; i < n; i++) {
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    }
    return n;
}

static float *read_floats(const char *name, size_t n) {
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/llama2/%s", folder(), name);
    pico_error err = {0};
    pico_map map;
    if (pico_map_open(path, &map, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(map.size, n * sizeof(float));
    float *values = malloc(map.size);
    memcpy(values, map.data, map.size);
    pico_map_close(&map);
    return values;
}

/* Feeds the prompt in pieces of `chunk` rows and compares every row. */
static void compare_logits(test_run *run, const reference *ref, uint32_t chunk) {
    uint32_t n_vocab = pico_model_describe(run->model)->n_vocab;
    pico_session_params params = {.n_slots = 1,
                                  .max_rows = chunk,
                                  .max_logit_rows = chunk,
                                  .max_top_k = 1,
                                  .max_positions = MAX_TOKENS};
    pico_session *session = NULL;
    pico_error err = {0};
    if (pico_session_open(run->model, &params, &session, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    float *row = malloc(n_vocab * sizeof *row);
    double worst = 0;
    for (uint32_t begin = 0; begin < ref->n_prompt; begin += chunk) {
        pico_row rows[MAX_TOKENS];
        uint32_t n =
            (uint32_t)ref->n_prompt - begin < chunk ? (uint32_t)ref->n_prompt - begin : chunk;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t pos = begin + i;
            rows[i] = (pico_row){.token = ref->prompt[pos],
                                 .prev = pos == 0 ? -1 : ref->prompt[pos - 1],
                                 .pos = (int32_t)pos,
                                 .parent = (int32_t)i - 1,
                                 .want = PICO_ROW_LOGITS};
        }
        pico_forward_out out;
        if (pico_session_forward(session, rows, n, &out, &err) != PICO_OK) {
            fail_msg("%s", err.message);
        }
        for (uint32_t i = 0; i < n; i++) {
            pico_tensor view = pico_view_rows(&out.logits, i, 1);
            assert_int_equal(run->device.ops->buffer_read(run->device.self, view.buffer,
                                                          view.offset, row, n_vocab * 4ull, &err),
                             PICO_OK);
            for (uint32_t v = 0; v < n_vocab; v++) {
                double diff =
                    fabs((double)row[v] - (double)ref->logits[(size_t)(begin + i) * n_vocab + v]);
                worst = diff > worst || isnan(diff) ? diff : worst;
            }
            n_rows++;
        }
    }
    print_message("    chunks of %u: largest difference %.2e\n", chunk, worst);
    assert_true(worst <= 1e-4);
    free(row);
    pico_session_close(session);
}

static void compare_greedy(test_run *run, const reference *ref) {
    pico_decode_params params = {.sampler = &run->sampler.loaded->ops.sampler,
                                 .sampler_self = run->sampler.self,
                                 .decoder = &run->decoder.loaded->ops.decoder,
                                 .decoder_self = run->decoder.self,
                                 .n_slots = 1,
                                 .max_positions = MAX_TOKENS,
                                 .ubatch = 512,
                                 .repetition = 1};
    pico_decode *decode = NULL;
    pico_error err = {0};
    if (pico_decode_open(run->model, &params, &decode, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    pico_request request = {
        .prompt = ref->prompt, .n_prompt = ref->n_prompt, .max_tokens = ref->n_greedy};
    assert_int_equal(pico_decode_start(decode, 0, &request, &err), PICO_OK);
    assert_int_equal(pico_decode_run(decode, NULL, NULL, &err), PICO_OK);
    pico_slot_state slot = pico_decode_slot(decode, 0);
    assert_int_equal(slot.n_token, ref->n_prompt + ref->n_greedy);
    assert_memory_equal(slot.token + ref->n_prompt, ref->greedy,
                        ref->n_greedy * sizeof *ref->greedy);
    pico_decode_close(decode);
}

static void compare_file(const char *path, const char *backend_option, const reference *ref) {
    test_run run;
    test_run_open(&run, path, backend_option);
    const uint32_t chunks[] = {MAX_TOKENS, 7, 1};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        compare_logits(&run, ref, chunks[i]);
    }
    compare_greedy(&run, ref);
    test_run_close(&run);
    n_checkpoints++;
}

/* The original, then the same through GGUF. */
static void compare_checkpoint(const char *name, const reference *ref) {
    char path[4096], gguf[] = "/tmp/pico_golden_XXXXXX";
    (void)snprintf(path, sizeof path, "%s/llama2/%s", folder(), name);
    print_message("  %s\n", name);
    compare_file(path, "isa = portable", ref);
    compare_file(path, "isa = auto", ref);
    pico_model_file *file = NULL;
    pico_error err = {0};
    int fd = mkstemp(gguf);
    assert_true(fd >= 0);
    (void)close(fd);
    if (pico_model_file_open(path, NULL, &file, &err) != PICO_OK ||
        pico_gguf_write(file, gguf, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    pico_model_file_close(file);
    print_message("  %s as GGUF\n", name);
    compare_file(gguf, "isa = auto", ref);
    (void)unlink(gguf);
}

static void fixtures_are_reproduced(void **state) {
    (void)state;
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/llama2/ref.json", folder());
    json_error_t why;
    json_t *root = json_load_file(path, 0, &why);
    if (root == NULL) {
        fail_msg("%s: %s", path, why.text);
    }
    size_t i;
    json_t *model;
    json_array_foreach(json_object_get(root, "models"), i, model) {
        const char *name = json_string_value(json_object_get(model, "name"));
        const json_t *args = json_object_get(model, "args");
        size_t n_vocab = (size_t)json_integer_value(json_object_get(args, "vocab_size"));
        reference ref = {0};
        char logits[256];
        ref.n_prompt = read_ids(json_object_get(model, "prompt_ids"), ref.prompt);
        ref.n_greedy =
            read_ids(json_object_get(json_object_get(model, "greedy"), "tokens"), ref.greedy);
        (void)snprintf(logits, sizeof logits, "%s_logits.bin", name);
        ref.logits = read_floats(logits, ref.n_prompt * n_vocab);
        compare_checkpoint(json_string_value(json_object_get(model, "v0")), &ref);
        free(ref.logits);
        ref.n_greedy =
            read_ids(json_object_get(json_object_get(model, "greedy_q80_weight_only"), "tokens"),
                     ref.greedy);
        (void)snprintf(logits, sizeof logits, "%s_logits_q80_weight_only.bin", name);
        ref.logits = read_floats(logits, ref.n_prompt * n_vocab);
        compare_checkpoint(json_string_value(json_object_get(model, "q80")), &ref);
        free(ref.logits);
    }
    json_decref(root);
    print_message("compared %zu checkpoints, %zu rows of logits\n", n_checkpoints, n_rows);
    assert_true(n_checkpoints >= 12);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(fixtures_are_reproduced)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
