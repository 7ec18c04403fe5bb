/* labels: golden */
/*
 * The program on real models: greedy text against what llama2.c prints, from every format, thread
 * count and ubatch; llama2.c's own command line; damaged files. Needs the shared data.
 */
#include "cli_support.h"

#define MODELS "data/models/"

typedef struct real_model {
    const char *bin, *tokenizer, *expected, *prompt;
    int steps; /* of llama2.c: tokens of the text, the prompt's included, BOS not */
} real_model;

static const real_model real_models[] = {
    {SHARED(MODELS "stories260K/stories260K.bin"), SHARED(MODELS "stories260K/tok512.bin"),
     SHARED(MODELS "expected/stories260K.once.txt"), "Once upon a time", 256},
    {SHARED(MODELS "stories260K/stories260K_v1.bin"), SHARED(MODELS "stories260K/tok512.bin"),
     SHARED(MODELS "expected/stories260K.once.txt"), "Once upon a time", 256},
    {SHARED(MODELS "stories260K/stories260K.bin"), SHARED(MODELS "stories260K/tok512.bin"),
     SHARED(MODELS "expected/stories260K.tim.txt"), "Tim and Sue went", 256},
    {SHARED(MODELS "babyllama105/babyllama105.bin"), SHARED(MODELS "babyllama105/tok105.bin"),
     SHARED(MODELS "expected/babyllama105.once.txt"), "once upon a time", 200}};

typedef struct context {
    char *folder;
    char gguf[64], file[64];
    cli_run run;
    char expected[8192];
} context;

#define RUN (&c->run)

static int setup(void **state) {
    context *c = calloc(1, sizeof *c);
    assert_non_null(c);
    c->folder = cli_folder();
    (void)snprintf(c->gguf, sizeof c->gguf, "%s/model.gguf", c->folder);
    (void)snprintf(c->file, sizeof c->file, "%s/damaged", c->folder);
    *state = c;
    return 0;
}

static int teardown(void **state) {
    context *c = *state;
    (void)unlink(c->gguf);
    (void)unlink(c->file);
    assert_int_equal(rmdir(c->folder), 0);
    free(c->folder);
    free(c);
    return 0;
}

static void need_shared(void) {
    for (size_t i = 0; i < sizeof real_models / sizeof *real_models; i++) {
        if (access(real_models[i].bin, R_OK) != 0) {
            print_message("skipped: %s is not there\n", real_models[i].bin);
            skip();
        }
    }
}

static size_t load_expected(context *c, const real_model *model) {
    int fd = open(model->expected, O_RDONLY);
    assert_true(fd >= 0);
    return cli_slurp(fd, c->expected, sizeof c->expected);
}

/* Tokens of a prompt without BOS, as the program counts them. */
static int count_prompt(context *c, const real_model *model) {
    int n = 0;
    cli_expect(RUN, 0, "tokenize", "-m", model->bin, "--tokenizer", model->tokenizer, "-p",
               model->prompt);
    for (const char *at = c->run.out; *at != '\0'; at++) {
        n += *at == '\n';
    }
    return n;
}

/* --echo and the tokens that llama2.c's steps leave give exactly its text, from the .bin files and
 * from GGUF, with 1 and 2 threads, in steps of 1 and of 512 rows. */
static void greedy_text_is_llama2cs(void **state) {
    static const char *const threads[] = {"1", "2"}, *const ubatch[] = {"1", "512"};
    context *c = *state;
    need_shared();
    for (size_t i = 0; i < sizeof real_models / sizeof *real_models; i++) {
        const real_model *model = &real_models[i];
        char n[16];
        (void)load_expected(c, model);
        (void)snprintf(n, sizeof n, "%d", model->steps - count_prompt(c, model));
        cli_expect(RUN, 0, "convert", model->bin, c->gguf, "--tokenizer", model->tokenizer);
        for (size_t k = 0; k < 4; k++) {
            const char *t = threads[k % 2], *ub = ubatch[k / 2];
            cli_expect(RUN, 0, "run", "-m", model->bin, "--tokenizer", model->tokenizer, "-p",
                       model->prompt, "-n", n, "--temp", "0", "--echo", "-t", t, "--ubatch", ub);
            assert_string_equal(c->run.out, c->expected);
            cli_expect(RUN, 0, "run", "-m", c->gguf, "-p", model->prompt, "-n", n, "--temp", "0",
                       "--echo", "-t", t, "--ubatch", ub);
            assert_string_equal(c->run.out, c->expected);
        }
    }
}

/* llama2.c's command line prints llama2.c's bytes, under its name and with --compat. */
static void compat_is_llama2c(void **state) {
    context *c = *state;
    need_shared();
    for (size_t i = 0; i < sizeof real_models / sizeof *real_models; i++) {
        const real_model *model = &real_models[i];
        char steps[16];
        (void)load_expected(c, model);
        (void)snprintf(steps, sizeof steps, "%d", model->steps);
        cli_setup as_run = {.program = "./run"};
        cli_expect_with(RUN, 0, &as_run,
                        CLI_WORDS(model->bin, "-t", "0", "-n", steps, "-i", model->prompt, "-z",
                                  model->tokenizer));
        assert_string_equal(c->run.out, c->expected);
        assert_contains(c->run.err, "achieved tok/s: ");
        cli_expect(RUN, 0, "--compat=llama2c", model->bin, "-t", "0", "-n", steps, "-i",
                   model->prompt, "-z", model->tokenizer);
        assert_string_equal(c->run.out, c->expected);
    }
}

/* Its odd corners: fewer steps than prompt tokens, its default tokenizer, chat, its usage. */
static void compat_corners(void **state) {
    const real_model *model = &real_models[0];
    context *c = *state;
    need_shared();
    cli_setup as_run = {.program = "run"};
    cli_expect_with(
        RUN, 0, &as_run,
        CLI_WORDS(model->bin, "-t", "0", "-n", "2", "-i", model->prompt, "-z", model->tokenizer));
    assert_string_equal(c->run.out, "Once upon\n");
    cli_expect_with(RUN, 3, &as_run, CLI_WORDS(model->bin, "-t", "0"));
    assert_contains(c->run.err, "tokenizer.bin");
    assert_contains(c->run.err, "-z FILE");
    cli_expect_with(RUN, 2, &as_run, CLI_WORDS(model->bin, "-t"));
    assert_contains(c->run.err, "Usage:");
    cli_setup talk = {.program = "run", .input = "\nHello\n"};
    cli_expect_with(
        RUN, 0, &talk,
        CLI_WORDS(model->bin, "-t", "0", "-n", "60", "-m", "chat", "-z", model->tokenizer));
    assert_contains(c->run.out, "Enter system prompt (optional): User: Assistant: ");
}

/* ---- damaged files ---- */

/* A file with something wrong either still makes sense or is refused: exit code 0, or 3 with one
 * message; 1 is for a model that computes nothing but NaN, 2 for a vocabulary that does not encode.
 */
static void expect_survival(context *c, const unsigned char *data, size_t n, const char *tokenizer,
                            size_t where) {
    cli_setup plain = {0};
    cli_write(c->file, data, n);
    cli_spawn(RUN, &plain,
              tokenizer != NULL
                  ? CLI_WORDS("run", "-m", c->file, "--tokenizer", tokenizer, "-p", "Once", "-n",
                              "4", "-q", "-t", "1")
                  : CLI_WORDS("run", "-m", c->file, "-p", "Once", "-n", "4", "-q", "-t", "1"));
    if (c->run.code < 0 || c->run.code > 3) {
        fail_msg("damage at %zu of %zu bytes: exit code %d: %s", where, n, c->run.code, c->run.err);
    }
    if (c->run.code != 0) {
        assert_one_message(RUN);
    }
}

static unsigned char *read_all(const char *path, size_t *n) {
    char *data = NULL;
    uint64_t size = 0;
    assert_int_equal(pico_file_read(path, 1 << 26, &data, &size, NULL), PICO_OK);
    *n = (size_t)size;
    return (unsigned char *)data;
}

static void damage(context *c, const char *path, const char *tokenizer) {
    size_t n;
    unsigned char *data = read_all(path, &n);
    for (size_t i = 0; i < 12; i++) { /* every part of the head, then coarser */
        size_t length = i < 8 ? (size_t)1 << (i + 1) : n * (i - 7) / 5;
        cli_write(c->file, data, length < n ? length : n - 1);
        cli_expect(RUN, 3, "run", "-m", c->file, "--tokenizer",
                   tokenizer == NULL ? path : tokenizer, "-p", "Once", "-n", "4");
        assert_one_message(RUN);
    }
    for (size_t i = 0; i < 48; i++) {
        size_t at = i < 32 ? i * 3 : (n - 1) / 16 * (i - 32);
        unsigned char old = data[at];
        data[at] = (unsigned char)(old ^ (i % 2 == 0 ? 0x80 : 0xff));
        expect_survival(c, data, n, tokenizer, at);
        data[at] = old;
    }
    free(data);
}

/* Cut and flipped files of each format end with one message and exit code 3, never with a signal.
 */
static void damaged_files_are_refused(void **state) {
    context *c = *state;
    need_shared();
    const real_model *v0 = &real_models[0], *v1 = &real_models[1];
    cli_expect(RUN, 0, "convert", v0->bin, c->gguf, "--tokenizer", v0->tokenizer);
    damage(c, c->gguf, NULL);
    damage(c, v0->bin, v0->tokenizer);
    damage(c, v1->bin, v1->tokenizer);
}

/* Model and tokenizer that do not belong together are refused by name. */
static void foreign_tokenizers_are_refused(void **state) {
    context *c = *state;
    need_shared();
    cli_expect(RUN, 3, "run", "-m", real_models[0].bin, "--tokenizer", real_models[3].tokenizer,
               "-p", "x");
    assert_one_message(RUN);
    cli_expect(RUN, 2, "run", "-m", real_models[0].bin, "-p", "x");
    assert_contains(c->run.err, "--tokenizer");
    cli_expect(RUN, 3, "run", "-m", real_models[0].tokenizer, "-p", "x");
    assert_one_message(RUN);
}

/* A file with a vocabulary alone can be looked at and used, but not run. */
static void vocabularies_alone(void **state) {
    static const char *const path = SHARED("data/tokenizers/gguf/ggml-vocab-gpt-2.gguf");
    context *c = *state;
    if (access(path, R_OK) != 0) {
        print_message("skipped: %s is not there\n", path);
        skip();
    }
    cli_expect(RUN, 0, "inspect", path);
    assert_contains(c->run.out, "50257");
    cli_expect(RUN, 0, "tokenize", "-m", path, "-p", "Hello world", "--json");
    assert_string_equal(c->run.out, "[15496,995]\n");
    cli_expect(RUN, 3, "run", "-m", path, "-p", "x");
    assert_contains(c->run.err, "no model");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_text_is_llama2cs),
        cmocka_unit_test(compat_is_llama2c),
        cmocka_unit_test(compat_corners),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(foreign_tokenizers_are_refused),
        cmocka_unit_test(vocabularies_alone),
    };
    return cmocka_run_group_tests_name("cli_models", tests, setup, teardown);
}
