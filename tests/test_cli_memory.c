/* layers: model */
/*
 * Memory of keys and values: what `inspect` says about multi-head and multi-query attention is what
 * a run of 2,048 tokens really takes, by its peak resident size; a window keeps less. And of weights:
 * a run takes what their file takes, once.
 */
#include "cli_support.h"

#include <jansson.h>

enum { N_LAYER = 8, N_HEAD = 8, HEAD_DIM = 64, CONTEXT = 2048, N_NEW = 8 };

typedef struct paths {
    char *folder;
    char model[64], prompt[64];
} paths;

static int make_files(void **state) {
    static paths p;
    static char text[CONTEXT - N_NEW - 1];
    pico_layer_desc layer[N_LAYER];
    pico_model_desc desc = cli_tiny_desc(layer, N_LAYER);
    for (uint32_t i = 0; i < N_LAYER; i++) {
        layer[i].n_head = layer[i].n_kv_head = N_HEAD;
        layer[i].head_dim = HEAD_DIM;
    }
    desc.n_embd = desc.rope_dim = HEAD_DIM;
    desc.n_ctx_train = CONTEXT;
    p.folder = cli_folder();
    (void)snprintf(p.model, sizeof p.model, "%s/model.gguf", p.folder);
    (void)snprintf(p.prompt, sizeof p.prompt, "%s/prompt.txt", p.folder);
    cli_make_model(p.model, &desc, NULL);
    memset(text, 'x', sizeof text); /* a token each, and the beginning of text */
    cli_write(p.prompt, text, sizeof text);
    *state = &p;
    return 0;
}

static int remove_files(void **state) {
    paths *p = *state;
    (void)unlink(p->model);
    (void)unlink(p->prompt);
    (void)rmdir(p->folder);
    free(p->folder);
    return 0;
}

/* Peak KiB of a run that fills the context. */
static double peak(const paths *p, const char *attention, const char *set) {
    static cli_run run;
    char tokens[16];
    (void)snprintf(tokens, sizeof tokens, "%d", N_NEW);
    cli_expect(&run, 0, "-m", p->model, "-f", p->prompt, "-n", tokens, "--ignore-eos",
               "--attention", attention, "--set", "attention.mqa.convert=mean", "--set", set,
               "--ubatch", "64");
    assert_contains(run.err, "8 new tokens");
    return (double)run.peak_kib;
}

static double inspected(const paths *p, const char *key) {
    static cli_run run;
    json_error_t why;
    cli_expect(&run, 0, "inspect", "--json", p->model);
    json_t *root = json_loads(run.out, 0, &why);
    assert_non_null(root);
    json_int_t bytes = json_integer_value(json_object_get(json_object_get(root, key), "f32"));
    json_decref(root);
    return (double)bytes;
}

static void what_inspect_says_is_what_a_run_takes(void **state) {
    const paths *p = *state;
    double mha = inspected(p, "kv_bytes_per_token"), mqa = inspected(p, "kv_bytes_per_token_mqa");
    assert_true(mha == 2.0 * 4 * N_LAYER * N_HEAD * HEAD_DIM && mqa == mha / N_HEAD);
    double full = peak(p, "mha", "attention.mha.window=auto");
    double pooled = peak(p, "mqa", "attention.mha.window=auto");
    double windowed = peak(p, "mha", "attention.mha.window=200");
    double said = (mha - mqa) * CONTEXT / 1024;
    print_message("peak KiB: MHA %.0f, MQA %.0f, window of 200 %.0f; MQA saves %.0f, said %.0f\n",
                  full, pooled, windowed, full - pooled, said);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(full - pooled > 0.9 * said && full - pooled < 1.15 * said);
    assert_true(full - windowed > 0.7 * mha * CONTEXT / 1024);
#endif
}

/* Packed weights, more than one run of another model takes: about their file, not file and copy. */
static void quantised_weights_are_there_once(void **state) {
    const paths *p = *state;
    static cli_run run;
    char wide[80], q8[80];
    pico_layer_desc layer[N_LAYER];
    pico_model_desc desc = cli_tiny_desc(layer, N_LAYER);
    struct stat info;
    for (uint32_t i = 0; i < N_LAYER; i++) {
        layer[i] = (pico_layer_desc){
            .n_head = 8, .n_kv_head = 8, .head_dim = HEAD_DIM, .n_ff = 1024, .window = -1};
    }
    desc.n_embd = 512;
    desc.rope_dim = HEAD_DIM;
    (void)snprintf(wide, sizeof wide, "%s/wide.gguf", p->folder);
    (void)snprintf(q8, sizeof q8, "%s/q8.gguf", p->folder);
    cli_make_model(wide, &desc, NULL);
    cli_expect(&run, 0, "compress", "-m", wide, "-o", q8, "--plugin", "int8", "--set",
               "compress.1.int8.layout=q8_0");
    assert_int_equal(unlink(wide), 0);
    cli_expect(&run, 0, "-m", p->model, "-p", "x", "-n", "2", "--ignore-eos");
    const double other = (double)run.peak_kib;
    cli_expect(&run, 0, "-m", q8, "-p", "x", "-n", "2", "--ignore-eos");
    assert_int_equal(stat(q8, &info), 0);
    assert_int_equal(unlink(q8), 0);
    const double file = (double)info.st_size / 1024, more = (double)run.peak_kib - other;
    print_message("peak KiB: %.0f more than a small model's for a file of %.0f\n", more, file);
    assert_true(file > 16384);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(more < 1.25 * file); /* file and copy would be 2 */
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_inspect_says_is_what_a_run_takes),
                                       cmocka_unit_test(quantised_weights_are_there_once)};
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
