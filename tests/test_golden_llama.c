/* labels: golden */
/*
 * The Llama fixtures: logits within 1e-4 of an independent implementation for a full prefill, for
 * chunks and for single steps, greedy tokens equal; in F32 and with int8 weights (weight-only),
 * from the original file and after a conversion to GGUF. With inputs rounded to int8, too, within
 * 0.15: a code on the other side of a tie moves logits by a few hundredths.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "golden_kit.h"

static golden_tally tally;
static golden_tally rounded; /* its largest difference is another's */

typedef struct reference {
    int32_t prompt[GOLDEN_TOKENS], greedy[GOLDEN_TOKENS];
    size_t n_prompt, n_greedy;
    float *logits; /* (n_prompt, n_vocab) */
} reference;

static void compare_form(test_run *run, void *arg) {
    const reference *ref = arg;
    golden_compare_schedules(run, &tally, ref->prompt, (uint32_t)ref->n_prompt, NULL, ref->logits,
                             NULL, 1e-4);
    golden_greedy(run, &tally, ref->prompt, ref->n_prompt, ref->greedy, ref->n_greedy);
}

static void compare_file(reference *ref, const char *folder, const json_t *model,
                         const char *file_key, const char *suffix, const char *greedy_key) {
    char logits[256], path[4096];
    const char *name = json_string_value(json_object_get(model, "name"));
    const char *file = json_string_value(json_object_get(model, file_key));
    const json_t *args = json_object_get(model, "args");
    size_t n_vocab = (size_t)json_integer_value(json_object_get(args, "vocab_size"));
    ref->n_prompt = golden_ids(json_object_get(model, "prompt_ids"), ref->prompt, GOLDEN_TOKENS);
    ref->n_greedy = golden_ids(json_object_get(json_object_get(model, greedy_key), "tokens"),
                               ref->greedy, GOLDEN_TOKENS);
    (void)snprintf(logits, sizeof logits, "%s%s", name, suffix);
    ref->logits = golden_floats(folder, logits, ref->n_prompt * n_vocab);
    golden_each_form(golden_path(path, folder, file), NULL, compare_form, ref);
    tally.n_checkpoint++;
    free(ref->logits);
}

/* Products of integers: rows of the decode class; prompts may be computed in BF16. */
static void compare_rounded(reference *ref, const char *folder, const json_t *model) {
    static const char *const sets[] = {"isa = portable", "isa = auto"};
    char logits[256], path[4096];
    const char *name = json_string_value(json_object_get(model, "name"));
    const char *file = json_string_value(json_object_get(model, "q80"));
    const json_t *args = json_object_get(model, "args");
    size_t n_vocab = (size_t)json_integer_value(json_object_get(args, "vocab_size"));
    ref->n_prompt = golden_ids(json_object_get(model, "prompt_ids"), ref->prompt, GOLDEN_TOKENS);
    (void)snprintf(logits, sizeof logits, "%s_logits_q80_w8a8.bin", name);
    ref->logits = golden_floats(folder, logits, ref->n_prompt * n_vocab);
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        test_run run;
        golden_open(&run, golden_path(path, folder, file), NULL, sets[i]);
        print_message("  %s, inputs in int8, %s\n", path, sets[i]);
        const uint32_t chunks[] = {7, 0}, steps[] = {1, 0}, n = (uint32_t)ref->n_prompt;
        golden_compare(&run, &rounded, ref->prompt, n, chunks, ref->logits, NULL, 0.15, "chunks");
        golden_compare(&run, &rounded, ref->prompt, n, steps, ref->logits, NULL, 0.15, "steps");
        test_run_close(&run);
    }
    free(ref->logits);
}

static void fixtures_are_reproduced(void **state) {
    (void)state;
    reference ref = {0};
    json_t *manifest = golden_manifest(), *model;
    const char *where = json_string_value(json_object_get(manifest, "llama2"));
    assert_non_null(where);
    json_t *root = golden_json(NULL, where);
    size_t i;
    json_array_foreach(json_object_get(root, "models"), i, model) {
        compare_file(&ref, "llama2", model, "v0", "_logits.bin", "greedy");
        compare_file(&ref, "llama2", model, "q80", "_logits_q80_weight_only.bin",
                     "greedy_q80_weight_only");
        compare_rounded(&ref, "llama2", model);
    }
    json_decref(root);
    json_decref(manifest);
}

int main(void) {
    const struct CMUnitTest test = cmocka_unit_test(fixtures_are_reproduced);
    return golden_main(&test, &tally);
}
