/* eval --reference on the command line: what it prints, for which configuration, and what it refuses. */
#include "cli_support.h"

#include <jansson.h>

typedef struct context {
    char *folder;
    char model[64], other[64], file[64], text[64];
    cli_run run;
} context;

#define RUN (&c->run)
#define TOY PICO_BUILD_DIR "/tests/plugins"

static int setup(void **state) {
    static const char text[] =
        "Once upon a time.\n\nThere was a bird, and it sang: \xc3\xa9t\xc3\xa9.\n";
    context *c = calloc(1, sizeof *c);
    pico_layer_desc layer[1];
    assert_non_null(c);
    c->folder = cli_folder();
    (void)snprintf(c->model, sizeof c->model, "%s/tiny.gguf", c->folder);
    (void)snprintf(c->other, sizeof c->other, "%s/other.gguf", c->folder);
    (void)snprintf(c->file, sizeof c->file, "%s/file", c->folder);
    (void)snprintf(c->text, sizeof c->text, "%s/text", c->folder);
    cli_make_tiny(c->model, NULL);
    pico_model_desc desc = cli_tiny_desc(layer, 1);
    cli_make_model(c->other, &desc, NULL);
    cli_write(c->text, text, sizeof text - 1);
    *state = c;
    return 0;
}

static int teardown(void **state) {
    context *c = *state;
    cli_remove(c->folder);
    free(c->folder);
    free(c);
    return 0;
}

/* The number at a path such as "kl.mean"; the test fails if it is none. */
static double number_at(const cli_run *run, const char *path) {
    char part[64];
    json_t *root = json_loads(run->out, 0, NULL);
    const json_t *at = root;
    assert_non_null(root);
    for (const char *from = path; from != NULL;) {
        const char *dot = strchr(from, '.');
        size_t n = dot == NULL ? strlen(from) : (size_t)(dot - from);
        (void)snprintf(part, sizeof part, "%.*s", (int)n, from);
        at = json_object_get(at, part);
        from = dot == NULL ? NULL : dot + 1;
    }
    if (!json_is_number(at)) {
        fail_msg("%s is no number in: %s", path, run->out);
    }
    double value = json_number_value(at);
    json_decref(root);
    return value;
}

/* Every key is there; those of the plain eval mean the model. */
static void keys_are_complete(void **state) {
    static const char *const keys[] = {
        "nll_mean",      "nll_sum",       "nll_se",           "ppl",
        "bpb",           "tokens",        "predictions",      "documents",
        "bytes",         "documents_cut", "tokens_cut",       "reference.nll_mean",
        "reference.ppl", "reference.bpb", "reference.nll_se", "ppl_ratio",
        "ppl_ratio_se",  "ln_ppl_ratio",  "ln_ppl_ratio_se",  "kl.mean",
        "kl.se",         "kl.median",     "kl.p99",           "kl.p999",
        "kl.max",        "same_top1",     "same_top1_se",     "p_diff.rms",
        "p_diff.rms_se", "p_diff.mean",   "p_diff.mean_se",   "reference.nll_sum"};
    context *c = *state;
    cli_expect(RUN, 0, "eval", "-m", c->model, "-f", c->text, "--split-docs", "-o", "json");
    double ppl = number_at(RUN, "ppl");
    assert_null(strstr(c->run.out, "reference"));
    cli_expect(RUN, 0, "eval", "-m", c->other, "-f", c->text, "--split-docs", "-o", "json");
    double other = number_at(RUN, "ppl");
    cli_expect(RUN, 0, "eval", "-m", c->model, "--reference", c->other, "-f", c->text,
               "--split-docs", "-o", "json");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        (void)number_at(RUN, keys[i]);
    }
    assert_true(number_at(RUN, "ppl") == ppl && number_at(RUN, "reference.ppl") == other);
    assert_true(number_at(RUN, "documents") == 2.0 && number_at(RUN, "kl.mean") > 0.0);
    cli_expect(RUN, 0, "eval", "-m", c->model, "--reference", c->other, "-f", c->text);
    assert_contains(c->run.out, "ratio ");
    assert_contains(c->run.out, "KL      mean ");
    assert_contains(c->run.out, "% the same");
    assert_contains(c->run.out, "RMS difference");
    assert_contains(c->run.out, "1 documents");
}

/* The same bytes from every number of threads. */
static void threads_change_nothing(void **state) {
    static const char *const threads[] = {"1", "2", "5"};
    context *c = *state;
    char first[4096] = "";
    for (size_t i = 0; i < 3; i++) {
        cli_expect(RUN, 0, "eval", "-m", c->model, "--reference", c->other, "-f", c->text, "-t",
                   threads[i], "-o", "json");
        assert_true(c->run.n_out < sizeof first);
        if (i == 0) {
            memcpy(first, c->run.out, c->run.n_out + 1);
        }
        assert_string_equal(c->run.out, first);
    }
}

/* The configuration is the model's: the same file as reference shows what each part of it costs. */
static void configurations_are_judged(void **state) {
    context *c = *state;
    cli_expect(RUN, 0, "eval", "-m", c->model, "--reference", c->model, "-f", c->text, "-o",
               "json");
    assert_true(number_at(RUN, "kl.max") == 0.0 && number_at(RUN, "ppl_ratio") == 1.0);
    assert_true(number_at(RUN, "same_top1") == 1.0 && number_at(RUN, "p_diff.rms") == 0.0);
    double ppl = number_at(RUN, "ppl");
    static const char *const settings[] = {"attention.kv_type=bf16", "attention.mha.window=4",
                                           "compress.1.plugin=toy"};
    for (size_t i = 0; i < 3; i++) {
        cli_expect(RUN, 0, "eval", "-m", c->model, "--reference", c->model, "-f", c->text, "-o",
                   "json", "--plugin-path", TOY, "--set", settings[i]);
        assert_true(number_at(RUN, "kl.mean") > 0.0 && number_at(RUN, "ppl") != ppl);
        assert_true(number_at(RUN, "reference.ppl") == ppl);
    }
    /* Without --set nothing changes, the other plugins or not. */
    cli_expect(RUN, 0, "eval", "-m", c->model, "--reference", c->model, "-f", c->text, "-o", "json",
               "--plugin-path", TOY);
    assert_true(number_at(RUN, "kl.max") == 0.0);
    cli_expect(RUN, 0, "eval", "-m", c->model, "--reference", c->model, "-f", c->text, "-o", "json",
               "--attention", "mqa", "--set", "attention.mqa.convert=mean");
    assert_true(number_at(RUN, "kl.mean") > 0.0 && number_at(RUN, "reference.ppl") == ppl);
}

/* The other model with its vocabulary changed. */
static void write_changed(context *c, uint32_t kind, const char *text) {
    static pico_piece piece[TINY_VOCAB];
    pico_error err = {0};
    pico_model_file *file = NULL;
    assert_int_equal(pico_model_file_open(c->other, NULL, &file, &err), PICO_OK);
    memcpy(piece, file->vocab.piece, sizeof piece);
    piece[260].text = text;
    piece[260].n = (uint32_t)strlen(text);
    file->vocab.piece = piece;
    file->vocab.kind = kind;
    if (pico_gguf_write(file, c->file, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    pico_model_file_close(file);
}

#define REFUSED(code, reference, part)                                                             \
    cli_expect(RUN, code, "eval", "-m", c->model, "--reference", reference, "-f", c->text);        \
    assert_one_message(RUN);                                                                       \
    assert_contains(c->run.err, part);                                                             \
    assert_string_equal(c->run.out, "")

static void what_cannot_be_compared_is_refused(void **state) {
    context *c = *state;
    char *data = NULL;
    uint64_t n = 0;
    REFUSED(3, "/nonexistent/model", "the reference: /nonexistent/model: ");
    REFUSED(3, c->text, c->text);
    assert_int_equal(pico_file_read(c->model, 1 << 24, &data, &n, NULL), PICO_OK);
    cli_write(c->file, data, (size_t)n / 2);
    free(data);
    REFUSED(3, c->file, c->file);
    REFUSED(3, PICO_SOURCE_DIR "/models/bytes-vocab.gguf", "a vocabulary but no model");
    REFUSED(2, PICO_SOURCE_DIR "/models/tiny.gguf", "the model has 261 tokens, the reference ");
    write_changed(c, PICO_VOCAB_SPM, "<|fin|>");
    REFUSED(2, c->file, "token 260 is \"<|im_end|>\" in the model, \"<|fin|>\" in the reference");
    cli_expect(RUN, 2, "eval", "-m", c->model, "--reference", c->other, "--tokens", c->text,
               "--logits", c->file);
    assert_contains(c->run.err, "--reference");
    cli_expect(RUN, 2, "eval", "-m", c->model, "--reference", c->other);
    assert_contains(c->run.err, "-f TEXT");
}

/* A reference without a vocabulary is run with the model's, and that is said. */
static void a_vocabulary_can_be_lent(void **state) {
    context *c = *state;
    write_changed(c, PICO_VOCAB_NONE, "");
    cli_expect(RUN, 0, "eval", "-m", c->other, "--reference", c->file, "-f", c->text, "-o", "json");
    assert_contains(c->run.err, "no vocabulary of its own");
    assert_true(number_at(RUN, "kl.max") == 0.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(keys_are_complete, setup, teardown),
        cmocka_unit_test_setup_teardown(threads_change_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(configurations_are_judged, setup, teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_compared_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_vocabulary_can_be_lent, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
