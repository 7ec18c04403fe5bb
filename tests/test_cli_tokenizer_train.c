/* layers: cli */
/*
 * The command tokenizer train: a vocabulary from files and folders that other commands take, its
 * size and special tokens, the same file for the same text; and what is refused, with its exit code
 * and without a file left behind.
 */
#include "cli_support.h"

typedef struct context {
    char *folder;
    char text[64], more[64], out[64], again[64];
    cli_run run;
} context;

#define RUN (&c->run)

static const char story[] = "the cat sat on the mat and the dog sat on the log\n<|endoftext|>\n"
                            "then the cat and the dog ate the thing that was on the mat\n";

static int setup(void **state) {
    context *c = calloc(1, sizeof *c);
    assert_non_null(c);
    c->folder = cli_folder();
    (void)snprintf(c->more, sizeof c->more, "%s/texts", c->folder);
    assert_int_equal(mkdir(c->more, 0777), 0);
    (void)snprintf(c->text, sizeof c->text, "%s/texts/b.txt", c->folder);
    cli_write(c->text, "what is that? it is a bat\xff, a rat and a hat", 43);
    (void)snprintf(c->text, sizeof c->text, "%s/text.txt", c->folder);
    (void)snprintf(c->out, sizeof c->out, "%s/out.gguf", c->folder);
    (void)snprintf(c->again, sizeof c->again, "%s/again.gguf", c->folder);
    cli_write(c->text, story, sizeof story - 1);
    *state = c;
    return 0;
}

static int teardown(void **state) {
    context *c = *state;
    char path[64];
    (void)unlink(c->text);
    (void)unlink(c->out);
    (void)unlink(c->again);
    (void)snprintf(path, sizeof path, "%s/texts/b.txt", c->folder);
    (void)unlink(path);
    assert_int_equal(rmdir(c->more), 0);
    assert_int_equal(rmdir(c->folder), 0); /* nothing else was left */
    free(c->folder);
    free(c);
    return 0;
}

static void same_bytes(const char *a, const char *b) {
    pico_error err = {0};
    char *x = NULL, *y = NULL;
    uint64_t n = 0, m = 0;
    assert_int_equal(pico_file_read(a, 1 << 24, &x, &n, &err), PICO_OK);
    assert_int_equal(pico_file_read(b, 1 << 24, &y, &m, &err), PICO_OK);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x);
    free(y);
}

static void a_vocabulary_is_made_and_used(void **state) {
    context *c = *state;
    cli_expect(RUN, 0, "tokenizer", "train", "--data", c->text, "--data", c->more, "--vocab-size",
               "290", "-o", c->out);
    assert_contains(c->run.err, "290 tokens");
    assert_contains(c->run.err, "3 documents");
    cli_expect(RUN, 0, "inspect", c->out);
    assert_contains(c->run.out, "nanochat");
    cli_expect(RUN, 0, "tokenize", "-m", c->out, "-p", "the cat sat", "--bos", "--json");
    assert_contains(c->run.out, "[281,"); /* 290 - 9 special tokens: <|bos|> is the first of them */
    cli_expect(RUN, 0, "tokenize", "-m", c->out, "-p", "the cat", "--json");
    assert_true(strlen(c->run.out) < strlen("[116,104,101,32,99,97]")); /* fewer than bytes */
    cli_expect_with(RUN, 0, &(const cli_setup){.input = c->run.out},
                    CLI_WORDS("tokenize", "-m", c->out, "--decode", "-f", "-"));
    assert_string_equal(c->run.out, "the cat\n");
    /* The same files in another order, and the same text again: the same bytes. */
    cli_expect(RUN, 0, "tokenizer", "train", "--data", c->more, "--data", c->text,
               "--vocab-size=290", "-o", c->again);
    same_bytes(c->out, c->again);
    /* [trainer] data serves as well. */
    cli_expect(RUN, 0, "tokenizer", "train", "--set", "trainer.data=/nowhere", "--data", c->more,
               "--data", c->text, "--vocab-size=290", "--output", c->again);
    same_bytes(c->out, c->again);
    char setting[80];
    (void)snprintf(setting, sizeof setting, "trainer.data=%s", c->text);
    cli_expect(RUN, 0, "tokenizer", "train", "--set", setting, "--vocab-size=280", "-o", c->again);
    assert_contains(c->run.err, "2 documents");
}

static void special_tokens_and_patterns_can_be_chosen(void **state) {
    context *c = *state;
    cli_expect(RUN, 0, "tokenizer", "train", "--data", c->text, "--vocab-size", "270", "--special",
               "<s>,</s>", "--pattern", "gpt-2", "-o", c->out);
    cli_expect(RUN, 0, "inspect", c->out);
    assert_contains(c->run.out, "gpt-2");
    assert_contains(c->run.out, "268"); /* bos */
    assert_contains(c->run.out, "269"); /* eos */
    cli_expect(RUN, 0, "tokenizer", "train", "--data", c->text, "--vocab-size", "256", "--special",
               "none", "-o", c->out);
    cli_expect(RUN, 2, "tokenize", "-m", c->out, "-p", "a", "--bos");
    cli_expect(RUN, 2, "tokenizer", "train", "--data", c->text, "--vocab-size", "270", "--special",
               "<s>,,</s>", "-o", c->again);
    assert_contains(c->run.err, "--special");
    cli_expect(RUN, 2, "tokenizer", "train", "--data", c->text, "--vocab-size", "270", "--special",
               "<s>,<s>", "-o", c->again);
    assert_contains(c->run.err, "<s> is there twice");
    cli_expect(RUN, 2, "tokenizer", "train", "--data", c->text, "--pattern", "gpt9", "-o",
               c->again);
    assert_contains(c->run.err, "gpt9");
    assert_false(pico_is_file(c->again));
}

static void what_is_refused(void **state) {
    context *c = *state;
    char missing[80];
    (void)snprintf(missing, sizeof missing, "%s/none/out.gguf", c->folder);
    cli_expect(RUN, 2, "tokenizer");
    cli_expect(RUN, 2, "tokenizer", "tran", "-o", c->again);
    cli_expect(RUN, 2, "tokenizer", "train", "-o", c->again);
    assert_contains(c->run.err, "--data");
    cli_expect(RUN, 2, "tokenizer", "train", "--data", c->text);
    cli_expect(RUN, 2, "tokenizer", "train", "--data", c->text, "--vocab-size", "264", "-o",
               c->again);
    assert_contains(c->run.err, "at least 265");
    cli_expect(RUN, 2, "tokenizer", "train", "--data", c->text, "--vocab-size", "2k", "-o",
               c->again);
    cli_expect(RUN, 2, "tokenizer", "train", "--data", c->text, "--vocab-size", "9999", "-o",
               c->again);
    assert_contains(c->run.err, "merges were possible");
    assert_one_message(RUN);
    cli_expect(RUN, 2, "tokenizer", "train", "--data", "/nowhere/text", "-o", c->again);
    assert_contains(c->run.err, "/nowhere/text");
    cli_expect(RUN, 2, "tokenizer", "train", "--data", c->text, "-o", missing);
    assert_contains(c->run.err, missing);
    cli_expect(RUN, 2, "tokenizer", "train", "--data", c->text, "-o", c->text);
    assert_contains(c->run.err, "is the text to read");
    assert_false(pico_is_file(c->again));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_vocabulary_is_made_and_used, setup, teardown),
        cmocka_unit_test_setup_teardown(special_tokens_and_patterns_can_be_chosen, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
