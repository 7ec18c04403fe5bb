/* layers: cli */
/*
 * train with a shape instead of a model file: a vocabulary, a model and a run from text alone; a run
 * in pieces that ends with the same bits; extra heads that a student learns beside; what is refused.
 */
#include "cli_support.h"

typedef struct context {
    char *folder;
    char text[64], vocab[64], out[2][64], loose[64];
    cli_run run;
} context;

#define RUN (&c->run)
#define FRESH                                                                                      \
    "--data", c->text, "--tokenizer", c->vocab, "--depth", "2", "-t", "2", "-q", "--set",          \
        "shape.n_embd=32", "--set", "shape.n_head=2", "--set", "shape.context=64", "--set",        \
        "trainer.distill.length=16", "--set", "trainer.distill.batch=4", "--set",                  \
        "trainer.distill.steps=6", "--set", "trainer.eval_rows=4"

static int setup(void **state) {
    context *c = calloc(1, sizeof *c);
    char text[4000];
    size_t n = 0;
    assert_non_null(c);
    c->folder = cli_folder();
    (void)snprintf(c->text, sizeof c->text, "%s/text.txt", c->folder);
    (void)snprintf(c->vocab, sizeof c->vocab, "%s/vocab.gguf", c->folder);
    (void)snprintf(c->loose, sizeof c->loose, "%s/loose.gguf", c->folder);
    for (int i = 0; i < 2; i++) {
        (void)snprintf(c->out[i], sizeof c->out[i], "%s/out%d", c->folder, i);
    }
    for (int i = 0; n + 64 < sizeof text; i++) {
        n += (size_t)snprintf(text + n, sizeof text - n, "the %s saw %d stones\n",
                              i % 2 == 0 ? "cat" : "dog", i % 5);
    }
    cli_write(c->text, text, n);
    cli_expect(RUN, 0, "tokenizer", "train", "--data", c->text, "--vocab-size", "280", "-o",
               c->vocab);
    *state = c;
    return 0;
}

static int teardown(void **state) {
    context *c = *state;
    cli_remove(c->out[0]);
    cli_remove(c->out[1]);
    cli_remove(c->folder);
    free(c->folder);
    free(c);
    return 0;
}

static void same_files(const char *a, const char *b, const char *name) {
    char path[2][128], *data[2] = {NULL, NULL};
    uint64_t n[2] = {0, 0};
    pico_error err = {0};
    for (int i = 0; i < 2; i++) {
        (void)snprintf(path[i], sizeof path[i], "%s/%s", i == 0 ? a : b, name);
        assert_int_equal(pico_file_read(path[i], 1 << 26, &data[i], &n[i], &err), PICO_OK);
    }
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(data[0], data[1], n[0]);
    free(data[0]);
    free(data[1]);
}

static void a_model_comes_from_text_alone(void **state) {
    context *c = *state;
    char model[80];
    cli_expect(RUN, 0, "train", FRESH, "--out", c->out[0]);
    cli_expect(RUN, 0, "train", FRESH, "--out", c->out[1], "--set", "trainer.stop_at=2");
    cli_expect(RUN, 0, "train", FRESH, "--out", c->out[1], "--resume", "-t", "1");
    same_files(c->out[0], c->out[1], "last.gguf");
    same_files(c->out[0], c->out[1], "last.state");
    (void)snprintf(model, sizeof model, "%s/last.gguf", c->out[0]);
    cli_expect(RUN, 0, "inspect", model);
    assert_contains(c->run.out, "nanochat");
    assert_contains(c->run.out, "smear"); /* the newest generation */
    cli_expect(RUN, 0, "-m", model, "-p", "the cat", "-n", "8", "--temp", "0", "-q");
}

static void families_and_heads_can_be_asked_for(void **state) {
    context *c = *state;
    char model[80], teacher[120];
    cli_expect(RUN, 0, "train", FRESH, "--family", "llama", "--out", c->out[0], "-v");
    assert_contains(c->run.err, "a fresh llama model: 2 layers, width 32, 2 heads (2 of KV)");
    (void)snprintf(model, sizeof model, "%s/last.gguf", c->out[0]);
    (void)snprintf(teacher, sizeof teacher, "trainer.distill.teacher=%s", model);
    /* a student with the teacher's vocabulary, one KV head and heads to draft with */
    cli_expect(RUN, 0, "train", "--depth", "1", "--tokenizer", model, "--data", c->text, "--set",
               teacher, "--set", "model.generation=g2", "--set", "shape.n_embd=32", "--set",
               "shape.n_head=4", "--set", "shape.n_kv_head=1", "--set", "shape.mtp_heads=2",
               "--set", "shape.draft_slots=3", "--set", "shape.context=64", "--set",
               "trainer.distill.length=16", "--set", "trainer.distill.batch=4", "--set",
               "trainer.distill.steps=3", "-q", "--out", c->out[1]);
    (void)snprintf(model, sizeof model, "%s/last.gguf", c->out[1]);
    cli_expect(RUN, 0, "inspect", model);
    assert_contains(c->run.out, "slots 3, hidden 16");
    assert_contains(c->run.out, "n_kv_head 1");
    assert_null(strstr(c->run.out, "shared_output"));
    assert_null(strstr(c->run.out, "smear"));
}

/* A draft head that shares the output matrix: it is there, it is small, it drafts the plain text. */
static void draft_heads_can_share_the_output(void **state) {
    context *c = *state;
    char model[80], plain[256];
    cli_expect(RUN, 0, "train", FRESH, "--set", "shape.draft_slots=3", "--set",
               "shape.draft_head=shared", "--out", c->out[0]);
    (void)snprintf(model, sizeof model, "%s/last.gguf", c->out[0]);
    cli_expect(RUN, 0, "inspect", model);
    assert_contains(c->run.out, "slots 3, hidden 16");
    assert_contains(c->run.out, "shared_output");
    assert_contains(c->run.out, "(96, 16)"); /* 3 slots of the width */
    cli_expect(RUN, 0, "-m", model, "-p", "the cat", "-n", "12", "--temp", "0", "-q");
    (void)snprintf(plain, sizeof plain, "%s", c->run.out);
    cli_expect(RUN, 0, "-m", model, "-p", "the cat", "-n", "12", "--temp", "0", "-q", "--decoder",
               "spec_draft");
    assert_string_equal(c->run.out, plain);
}

/* One that knows the twelve most frequent tokens: the same with a file of tokens and after an
 * interruption; the text stays what it was. */
static void draft_heads_can_know_some_tokens(void **state) {
    context *c = *state;
    char model[80], cache[96], plain[256];
    (void)snprintf(cache, sizeof cache, "trainer.cache=%s/tokens", c->folder);
#define KNOWN                                                                                      \
    "--set", "shape.draft_slots=3", "--set", "shape.draft_head=shared", "--set",                   \
        "shape.draft_vocab=12"
    cli_expect(RUN, 0, "train", FRESH, KNOWN, "--out", c->out[0]);
    cli_expect(RUN, 0, "train", FRESH, KNOWN, "--out", c->out[1], "--set", cache, "--set",
               "trainer.stop_at=2");
    cli_expect(RUN, 0, "train", FRESH, KNOWN, "--out", c->out[1], "--set", cache, "--resume");
    same_files(c->out[0], c->out[1], "last.gguf");
    same_files(c->out[0], c->out[1], "last.state");
    (void)snprintf(model, sizeof model, "%s/last.gguf", c->out[0]);
    cli_expect(RUN, 0, "inspect", model);
    assert_contains(c->run.out, "vocab 12");
    pico_model_file *file = NULL;
    pico_error err = {0};
    assert_int_equal(pico_model_file_open(model, NULL, &file, &err), PICO_OK);
    assert_int_equal(file->desc.n_draft_vocab, 12);
    int newline = 0;
    for (uint32_t i = 0; i < 12; i++) {
        newline |= file->desc.draft_vocab[i] == '\n';
        assert_true(file->desc.draft_vocab[i] != 'q'); /* which the text does not have */
    }
    assert_true(newline);
    pico_model_file_close(file);
    cli_expect(RUN, 0, "-m", model, "-p", "the cat", "-n", "12", "--temp", "0", "-q");
    (void)snprintf(plain, sizeof plain, "%s", c->run.out);
    cli_expect(RUN, 0, "-m", model, "-p", "the cat", "-n", "12", "--temp", "0", "-q", "--decoder",
               "spec_draft");
    assert_string_equal(c->run.out, plain);
    /* codes and one scale a row: the head's rows are gathered from them */
    cli_expect(RUN, 0, "compress", "-m", model, "-o", c->loose, "--set", "compress.1.plugin=int8",
               "--set", "compress.1.int8.keep=", "--set", "compress.1.int8.granularity=row");
    cli_expect(RUN, 0, "inspect", c->loose);
    assert_contains(c->run.out, "shared_output yes, vocab 12");
    cli_expect(RUN, 0, "-m", c->loose, "-p", "the cat", "-n", "12", "--temp", "0", "-q");
    (void)snprintf(plain, sizeof plain, "%s", c->run.out);
    cli_expect(RUN, 0, "-m", c->loose, "-p", "the cat", "-n", "12", "--temp", "0", "-q",
               "--decoder", "spec_draft");
    assert_string_equal(c->run.out, plain);
    cli_remove(c->out[0]);
    cli_expect(RUN, 2, "train", FRESH, KNOWN, "--out", c->out[0], "--set", "shape.draft_vocab=281");
    assert_contains(c->run.err, "as many tokens as it knows (280)");
    cli_expect(RUN, 2, "train", FRESH, KNOWN, "--out", c->out[0], "--set", "shape.draft_head=full");
    assert_contains(c->run.err, "draft_head = shared");
#undef KNOWN
}

static void what_is_refused(void **state) {
    context *c = *state;
    cli_expect(RUN, 2, "train", "--depth", "2", "--data", c->text, "--out", c->out[0]);
    assert_contains(c->run.err, "--tokenizer");
    cli_expect(RUN, 2, "train", "--data", c->text, "--out", c->out[0]);
    assert_contains(c->run.err, "--depth");
    cli_expect(RUN, 2, "train", FRESH, "-m", c->vocab, "--out", c->out[0]);
    assert_contains(c->run.err, "leave one of them out");
    cli_expect(RUN, 2, "train", FRESH, "--init", "model", "--out", c->out[0]);
    assert_contains(c->run.err, "no values to begin with");
    cli_expect(RUN, 2, "train", FRESH, "--set", "shape.n_kv_head=3", "--out", c->out[0]);
    assert_contains(c->run.err, "[shape]: ");
    cli_expect(RUN, 2, "train", FRESH, "--family", "gpt9", "--out", c->out[0]);
    cli_expect(RUN, 3, "train", "--depth", "2", "--tokenizer", c->text, "--data", c->text, "--out",
               c->out[0]);
    assert_contains(c->run.err, c->text);
    cli_expect(RUN, 3, "train", "--depth", "2", "--tokenizer", "/nowhere", "--data", c->text,
               "--out", c->out[0]);
    assert_one_message(RUN);
    cli_expect(RUN, 2, "run", "--depth", "2", "-p", "a"); /* nobody runs noise */
    assert_false(pico_is_folder(c->out[0]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_model_comes_from_text_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(families_and_heads_can_be_asked_for, setup, teardown),
        cmocka_unit_test_setup_teardown(draft_heads_can_share_the_output, setup, teardown),
        cmocka_unit_test_setup_teardown(draft_heads_can_know_some_tokens, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
