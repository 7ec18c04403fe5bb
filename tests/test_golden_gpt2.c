/* labels: golden */
/*
 * The GPT-2 fixture: logits within 2e-4 of an independent implementation for any schedule, up to a
 * full context, greedy tokens equal up to there; with the tanh GELU of its configuration and with
 * the erf GELU that another configuration asks for; from the folder and after a conversion to GGUF.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "golden_kit.h"

static golden_tally tally;

typedef struct reference {
    int32_t token[GOLDEN_TOKENS]; /* the prompt, then the greedy tokens */
    size_t n_prompt, n_greedy, n_full;
    float *logits; /* (n_prompt, n_vocab) */
    float *full;   /* (n_full, n_vocab), or NULL */
} reference;

static void compare_form(test_run *run, void *arg) {
    reference *ref = arg;
    golden_compare_schedules(run, &tally, ref->token, (uint32_t)ref->n_prompt, NULL, ref->logits,
                             NULL, 2e-4);
    if (ref->full != NULL) {
        golden_compare_schedules(run, &tally, ref->token, (uint32_t)ref->n_full, NULL, ref->full,
                                 NULL, 2e-4);
    }
    golden_greedy(run, &tally, ref->token, ref->n_prompt, ref->token + ref->n_prompt,
                  ref->n_greedy);
}

static void take_greedy(reference *ref, const json_t *greedy) {
    size_t room = GOLDEN_TOKENS - ref->n_prompt;
    json_t *before = json_object_get(greedy, "tokens_before_overflow");
    ref->n_greedy = golden_ids(json_object_get(greedy, "tokens"), ref->token + ref->n_prompt, room);
    if (before != NULL) { /* what follows depends on what is done when the context is full */
        ref->n_greedy = (size_t)json_integer_value(before);
    }
}

/* The folder again, with one word of its configuration replaced; returns its path. */
static char *with_other_gelu(const char *folder) {
    static char path[] = "/tmp/pico_gpt2_XXXXXX";
    char from[4096], to[4200];
    json_t *config = golden_json(folder, "config.json");
    assert_non_null(mkdtemp(path));
    assert_int_equal(json_object_set_new(config, "activation_function", json_string("gelu")), 0);
    (void)snprintf(to, sizeof to, "%s/config.json", path);
    assert_int_equal(json_dump_file(config, to, 0), 0);
    (void)snprintf(to, sizeof to, "%s/model.safetensors", path);
    assert_int_equal(symlink(golden_path(from, folder, "model.safetensors"), to), 0);
    json_decref(config);
    return path;
}

static void remove_folder(const char *path) {
    char file[4200];
    (void)snprintf(file, sizeof file, "%s/config.json", path);
    (void)unlink(file);
    (void)snprintf(file, sizeof file, "%s/model.safetensors", path);
    (void)unlink(file);
    (void)rmdir(path);
}

static void fixture_is_reproduced(void **state) {
    (void)state;
    char path[4096];
    size_t n_rows = 0;
    json_t *manifest = golden_manifest();
    const char *where = json_string_value(json_object_get(manifest, "gpt2"));
    reference *ref = calloc(1, sizeof *ref);
    assert_true(where != NULL && ref != NULL);
    json_t *root = golden_json(NULL, where), *files = json_object_get(root, "files");
    ref->n_prompt = golden_ids(json_object_get(root, "prompt_ids"), ref->token, GOLDEN_TOKENS);
    ref->logits = golden_array("gpt2", files, "logits", &n_rows);
    assert_int_equal(n_rows, ref->n_prompt);
    ref->full = golden_array("gpt2", files, "logits_full_context", &ref->n_full);
    take_greedy(ref, json_object_get(root, "greedy"));
    golden_each_form(golden_path(path, NULL, "gpt2"), NULL, compare_form, ref);
    tally.n_checkpoint++;
    free(ref->logits);
    free(ref->full);

    ref->full = NULL;
    ref->logits = golden_array("gpt2", files, "logits_gelu_erf", &n_rows);
    take_greedy(ref, json_object_get(root, "greedy_gelu_erf"));
    const char *other = with_other_gelu("gpt2");
    golden_each_form(other, NULL, compare_form, ref);
    remove_folder(other);
    tally.n_checkpoint++;
    free(ref->logits);
    free(ref);
    json_decref(root);
    json_decref(manifest);
}

int main(void) {
    const struct CMUnitTest test = cmocka_unit_test(fixture_is_reproduced);
    return golden_main(&test, &tally);
}
