/*
 * The chat command as users meet it: its commands, messages of several lines, templates by name and
 * from files, the calculator, Ctrl-C, and that a conversation is never run twice. Models are made
 * here; one test takes a real one from the shared data.
 */
#include "cli_support.h"

#include "chat_kit.h"

#define STORIES SHARED("data/models/stories260K/stories260K.bin")
#define STORIES_TOKENIZER SHARED("data/models/stories260K/tok512.bin")

typedef struct context {
    char *folder;
    char model[64], scripted[64], file[64], ini[64];
    cli_run run;
} context;

#define MODEL c->model
#define RUN (&c->run)

static int setup(void **state) {
    context *c = calloc(1, sizeof *c);
    ck_script script;
    pico_error err = {0};
    assert_non_null(c);
    c->folder = cli_folder();
    (void)snprintf(c->model, sizeof c->model, "%s/tiny.gguf", c->folder);
    (void)snprintf(c->scripted, sizeof c->scripted, "%s/scripted.gguf", c->folder);
    (void)snprintf(c->file, sizeof c->file, "%s/form.ini", c->folder);
    (void)snprintf(c->ini, sizeof c->ini, "%s/config.ini", c->folder);
    cli_make_tiny(c->model, NULL);
    ck_begin(&script);
    ck_say(&script, CK_ASSISTANT_START, "ab", CK_PYTHON_START);
    ck_say(&script, CK_PYTHON_START, "6*7", CK_PYTHON_END);
    ck_say(&script, CK_PYTHON_END, "e", CK_ASSISTANT_END);
    ck_say(&script, CK_OUTPUT_END, "cd\xc3\xa9", CK_ASSISTANT_END);
    pico_model_file *file = ck_make(&script);
    if (pico_gguf_write(file, c->scripted, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    pico_model_file_close(file);
    (void)setenv("NO_COLOR", "1", 1);
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

static size_t lines_of(const char *text) {
    size_t n = 0;
    for (; *text != '\0'; text++) {
        n += *text == '\n';
    }
    return n;
}

/* ---- what is run ---- */

typedef struct figures {
    unsigned prompt, kept, new_tokens;
} figures;

/* The figures of each turn, from what -v says. */
static size_t read_figures(const char *err, figures *out, size_t capacity) {
    size_t n = 0;
    for (const char *at = strstr(err, " prompt token"); at != NULL;
         at = strstr(at + 1, " prompt token")) {
        const char *begin = at, *end = strchr(at, '\n');
        const char *kept = strstr(at, " kept)"), *made = strstr(at, " new token");
        while (begin > err && begin[-1] >= '0' && begin[-1] <= '9') {
            begin--;
        }
        assert_true(n < capacity && end != NULL && made != NULL && made < end);
        out[n] = (figures){.prompt = (unsigned)atoi(begin)};
        for (; made > at && made[-1] >= '0' && made[-1] <= '9'; made--) {
            out[n].new_tokens = (unsigned)atoi(made - 1);
        }
        if (kept != NULL && kept < end) {
            while (kept[-1] != '(') {
                kept--;
            }
            out[n].kept = (unsigned)atoi(kept);
        }
        n++;
    }
    return n;
}

/* Of every turn before it, a turn runs nothing again but the newest token. */
static void expect_all_kept(const cli_run *run, size_t n_turn) {
    figures turn[16];
    assert_int_equal(read_figures(run->err, turn, 16), n_turn);
    assert_int_equal(turn[0].kept, 0);
    for (size_t k = 1; k < n_turn; k++) {
        unsigned before = turn[k - 1].kept + turn[k - 1].prompt + turn[k - 1].new_tokens;
        if (turn[k].kept != before - 1) {
            fail_msg("turn %zu kept %u tokens of %u: %s", k + 1, turn[k].kept, before, run->err);
        }
    }
}

/* Sampled bytes say nothing that encodes to the same tokens again. */
static void nothing_is_run_twice(void **state) {
    context *c = *state;
    cli_setup in = {.input = "a\nbc\ndef\ng\n"};
    cli_expect_with(RUN, 0, &in,
                    CLI_WORDS("chat", "-m", MODEL, "-n", "9", "--temp", "1", "-v", "--set",
                              "sampler.logit_bias=260:-inf,1:-inf,2:-inf"));
    expect_all_kept(RUN, 4);
    if (access(STORIES, R_OK) != 0) {
        print_message("skipped: %s is not there\n", STORIES);
        skip();
    }
    cli_setup talk = {.input = "Once upon a time\nWho was it?\nAnd then?\nWhy?\nThe end.\n"};
    cli_expect_with(RUN, 0, &talk,
                    CLI_WORDS("chat", "-m", STORIES, "--tokenizer", STORIES_TOKENIZER, "-n", "40",
                              "--temp", "1", "-v"));
    assert_contains(c->run.err, "chat template plain, no tool");
    expect_all_kept(RUN, 5);
}

/* ---- commands ---- */

static void commands_change_the_conversation(void **state) {
    context *c = *state;
    cli_setup in = {.input = "/regen\n/undo\none\n/stats\n/regen\n/stats\ntwo\n/stats\n/undo\n"
                             "/stats\n/clear\n/stats\n/systems\n/help\n/exit\nnever said\n"};
    cli_expect_with(RUN, 0, &in,
                    CLI_WORDS("chat", "-m", MODEL, "-n", "8", "--temp", "1", "--set",
                              "sampler.logit_bias=13:-inf,260:-inf,2:-inf"));
    assert_contains(c->run.err, "There is no answer yet.\nThere is nothing to undo.\n");
    const char *at = c->run.err;
    static const char *const counts[] = {"2 messages", "2 messages", "4 messages", "2 messages",
                                         "0 messages"};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        at = strstr(at, " messages; ");
        assert_non_null(at);
        assert_memory_equal(at - 1, counts[i], strlen(counts[i]));
        at++;
    }
    at = strstr(c->run.err, "4 messages; "); /* what was taken back is not used any more */
    assert_non_null(at);
    int after_two = atoi(at + 12), after_undo = atoi(strstr(at, "2 messages; ") + 12);
    assert_in_range(after_undo, 1, after_two - 1);
    assert_contains(at, "0 messages; 0 of");
    assert_contains(c->run.err, "There is no command /systems.");
    assert_contains(c->run.err, "/regen  ");
    assert_int_equal(lines_of(c->run.out), 3);
    const char *second = strchr(c->run.out, '\n') + 1, *third = strchr(second, '\n') + 1;
    size_t n = (size_t)(second - c->run.out);
    assert_true((size_t)(third - second) != n || memcmp(c->run.out, second, n) != 0);
}

/* /regen of turn n is not turn n + 1: the same conversation gives the same answers again. */
static void answers_are_reproducible(void **state) {
    context *c = *state;
    static char first[1 << 12];
    cli_setup in = {.input = "one\n/regen\ntwo\n/undo\ntwo\n"};
    for (int i = 0; i < 2; i++) {
        cli_expect_with(RUN, 0, &in, CLI_WORDS("chat", "-m", MODEL, "-n", "12", "-s", "5"));
        if (i == 0) {
            (void)snprintf(first, sizeof first, "%s", c->run.out);
        }
        assert_string_equal(c->run.out, first);
    }
}

/* The system text can be looked at and changed; then the conversation begins anew. */
static void the_system_text_changes(void **state) {
    context *c = *state;
    cli_setup in = {.input =
                        "hi\n/system\n/system You are a cat.\\\nBe brief.\n/system\n/stats\nhi\n"};
    cli_expect_with(RUN, 0, &in, CLI_WORDS("chat", "-m", MODEL, "-n", "2", "-v"));
    assert_contains(c->run.err, "The model is told nothing.\nThe conversation begins anew.\n"
                                "You are a cat.\nBe brief.\n");
    assert_contains(c->run.err, "conversation: 0 messages");
    figures turn[4];
    assert_int_equal(read_figures(c->run.err, turn, 4), 3); /* that of /stats is the first again */
    assert_int_equal(turn[2].kept, 2);                      /* BOS, <|im_start|> */
}

/* Lines that end with a backslash are one message; the end of the input ends it too. */
static void lines_continue(void **state) {
    context *c = *state;
    figures turn[4];
    cli_setup one = {.input = "abcd\n"}, split = {.input = "ab\\\ncd\n"}, cut = {.input = "abc\\"};
    cli_expect_with(RUN, 0, &one, CLI_WORDS("chat", "-m", MODEL, "-n", "1", "-v"));
    assert_int_equal(read_figures(c->run.err, turn, 4), 1);
    unsigned n = turn[0].prompt;
    cli_expect_with(RUN, 0, &split, CLI_WORDS("chat", "-m", MODEL, "-n", "1", "-v"));
    assert_int_equal(read_figures(c->run.err, turn, 4), 1);
    assert_int_equal(turn[0].prompt, n + 1);
    cli_expect_with(RUN, 0, &cut, CLI_WORDS("chat", "-m", MODEL, "-n", "1", "-v"));
    assert_int_equal(read_figures(c->run.err, turn, 4), 1);
    assert_int_equal(turn[0].prompt, n);
}

/* ---- templates ---- */

static void templates_are_chosen(void **state) {
    static const char form[] = "[template]\nuser_before = Q\nuser_after =\nanswer_before = A\n"
                               "answer_after = \\n\n";
    static const char ini[] = "[chat]\ntemplate = ./form.ini\n";
    static const char broken[] = "[template]\nuser_before = \\x\nuser_after =\nanswer_before =\n"
                                 "answer_after =\n";
    context *c = *state;
    figures turn[2];
    cli_setup in = {.input = "hi\n"};
    cli_expect_with(RUN, 0, &in, CLI_WORDS("chat", "-m", MODEL, "-n", "1", "-v"));
    assert_contains(c->run.err, "chat template chatml, no tool");
    cli_expect_with(RUN, 0, &in,
                    CLI_WORDS("chat", "-m", MODEL, "-n", "1", "-v", "--chat-template", "plain"));
    assert_contains(c->run.err, "chat template plain, no tool");
    cli_expect_with(RUN, 0, &in,
                    CLI_WORDS("chat", "-m", MODEL, "-n", "1", "--chat-template", "llama3"));
    assert_contains(c->run.err, "warning: chat template llama3: the vocabulary has no token "
                                "<|start_header_id|>; its name is given as text");
    cli_expect_with(RUN, 2, &in, CLI_WORDS("chat", "-m", MODEL, "--chat-template", "lama3"));
    assert_one_message(RUN);
    assert_contains(c->run.err, "did you mean llama3?");
    /* from a file, found from the folder of the configuration */
    cli_write(c->file, form, sizeof form - 1);
    cli_write(c->ini, ini, sizeof ini - 1);
    cli_expect_with(RUN, 0, &in,
                    CLI_WORDS("chat", "--config", c->ini, "-m", MODEL, "-n", "1", "-v"));
    assert_contains(c->run.err, "form.ini, no tool");
    assert_int_equal(read_figures(c->run.err, turn, 2), 1);
    assert_int_equal(turn[0].prompt, 5); /* BOS Q h i A */
    cli_write(c->file, broken, sizeof broken - 1);
    cli_expect_with(RUN, 2, &in,
                    CLI_WORDS("chat", "-m", MODEL, "-n", "1", "--chat-template", c->file));
    assert_one_message(RUN);
    assert_contains(c->run.err, "form.ini:2: [template] user_before");
    cli_expect_with(RUN, 2, &in,
                    CLI_WORDS("chat", "-m", MODEL, "-n", "1", "--chat-template", "/nonexistent/x"));
    assert_one_message(RUN);
}

/* ---- the calculator ---- */

/* It is there by itself where the model knows it; what it says is not part of the text on a pipe. */
static void the_calculator_is_called(void **state) {
    context *c = *state;
    cli_setup in = {.input = "hi\nho\n"};
    cli_expect_with(RUN, 0, &in, CLI_WORDS("chat", "-m", c->scripted, "-v", "--temp", "0"));
    assert_string_equal(c->run.out, "abcd\xc3\xa9\nabcd\xc3\xa9\n");
    assert_contains(c->run.err, "chat template nanochat, with the calculator");
    assert_contains(c->run.err, "calculator: 6*7 = 42\n");
    cli_expect_with(RUN, 0, &in,
                    CLI_WORDS("chat", "-m", c->scripted, "--temp", "0", "--tool", "calculator"));
    assert_string_equal(c->run.out, "abcd\xc3\xa9\nabcd\xc3\xa9\n");
    cli_expect_with(RUN, 0, &in,
                    CLI_WORDS("chat", "-m", c->scripted, "--temp", "0", "--tool", "none"));
    assert_string_equal(c->run.out, "ab6*7e\nab6*7e\n");
    cli_expect_with(RUN, 2, &in, CLI_WORDS("chat", "-m", MODEL, "--tool", "calculator"));
    assert_one_message(RUN);
    assert_contains(c->run.err, "[chat] tool = calculator: chat template chatml has no tokens");
    cli_expect_with(RUN, 2, &in, CLI_WORDS("chat", "-m", MODEL, "--tool", "abacus"));
    assert_contains(c->run.err, "auto, none or calculator");
}

/* ---- Ctrl-C ---- */

/* It ends the answer, not the conversation; what there is of the answer stays in it. */
static void interrupts_end_answers(void **state) {
    context *c = *state;
    cli_setup in = {.input = "one\n/stats\n", .interrupt = 1};
    cli_expect_with(RUN, 0, &in,
                    CLI_WORDS("chat", "-m", MODEL, "-n", "130000", "--ignore-eos", "--overflow",
                              "slide", "-v", "--set", "sampler.logit_bias=13:-inf"));
    assert_contains(c->run.err, "ended by cancelled\n");
    assert_contains(c->run.err, "conversation: 2 messages");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_run_twice),
        cmocka_unit_test(commands_change_the_conversation),
        cmocka_unit_test(answers_are_reproducible),
        cmocka_unit_test(the_system_text_changes),
        cmocka_unit_test(lines_continue),
        cmocka_unit_test(templates_are_chosen),
        cmocka_unit_test(the_calculator_is_called),
        cmocka_unit_test(interrupts_end_answers),
    };
    return cmocka_run_group_tests_name("cli_chat", tests, setup, teardown);
}
