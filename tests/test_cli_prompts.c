/*
 * run --prompts, --parallel and --samples as users meet them: the answers are those of single runs,
 * in the order of the prompts, whatever runs beside them; mistakes in the file are named; a prompt
 * that cannot run and Ctrl-C leave the other answers whole.
 */
#include "cli_support.h"

#include <jansson.h>

#include "util/text.h"

enum { MAX_LINES = 16 };

typedef struct context {
    char *folder;
    char model[64], file[64];
    cli_run run;
    json_t *line[MAX_LINES]; /* of the last run */
    size_t n;
} context;

#define MODEL c->model
#define RUN (&c->run)
#define QUIET "-q"

static int setup(void **state) {
    context *c = calloc(1, sizeof *c);
    assert_non_null(c);
    c->folder = cli_folder();
    (void)snprintf(c->model, sizeof c->model, "%s/tiny.gguf", c->folder);
    (void)snprintf(c->file, sizeof c->file, "%s/prompts.jsonl", c->folder);
    cli_make_tiny(c->model, NULL);
    (void)setenv("NO_COLOR", "1", 1);
    *state = c;
    return 0;
}

static void forget(context *c) {
    for (size_t i = 0; i < c->n; i++) {
        json_decref(c->line[i]);
    }
    c->n = 0;
}

static int teardown(void **state) {
    context *c = *state;
    forget(c);
    cli_remove(c->folder);
    free(c->folder);
    free(c);
    return 0;
}

static void write_prompts(context *c, const char *text) {
    cli_write(c->file, text, strlen(text));
}

/* Every line of the output is a JSON object. */
static void parse(context *c) {
    char *save = NULL;
    forget(c);
    for (char *line = strtok_r(c->run.out, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        json_error_t why;
        assert_true(c->n < MAX_LINES);
        c->line[c->n] = json_loads(line, JSON_ALLOW_NUL, &why);
        if (!json_is_object(c->line[c->n])) {
            fail_msg("%s: %s", why.text, line);
        }
        c->n++;
    }
}

static const char *text_of(const context *c, size_t line, const char *key) {
    const char *text = json_string_value(json_object_get(c->line[line], key));
    assert_non_null(text);
    return text;
}

static long long number_of(const context *c, size_t line, const char *key) {
    const json_t *value = json_object_get(c->line[line], key);
    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

/* What JSON makes of an answer: no byte that is not UTF-8; and what a plain run does not print. */
static void as_json_text(const cli_run *run, char *out) {
    size_t n = run->n_out, used = 0;
    while (n > 0 && run->out[n - 1] == '\n') {
        n--;
    }
    for (size_t i = 0; i < n;) {
        uint32_t code;
        size_t length = pico_utf8_decode(run->out + i, n - i, &code);
        memcpy(out + used, length == 0 ? "\xef\xbf\xbd" : run->out + i, length == 0 ? 3 : length);
        used += length == 0 ? 3 : length;
        i += length == 0 ? 1 : length;
    }
    out[used] = '\0';
}

/* `run -p` gives the text of line `line`, but for the newlines at its end. */
static void assert_single(context *c, size_t line, const char *const *words) {
    static char want[1 << 16], got[1 << 16];
    static cli_run run;
    cli_expect_with(&run, 0, &(const cli_setup){0}, words);
    as_json_text(&run, want);
    (void)snprintf(got, sizeof got, "%s", text_of(c, line, "text"));
    for (size_t n = strlen(got); n > 0 && got[n - 1] == '\n'; n--) {
        got[n - 1] = '\0';
    }
    assert_string_equal(got, want);
}

/* ---- many prompts ---- */

static const char four[] =
    "\xef\xbb\xbf{\"prompt\": \"hello\"}\n" /* a byte order mark does no harm */
    "\n"
    "  \t\r\n"
    "{\"prompt\": \"a much longer prompt than the others\", \"seed\": 7}\n"
    "{\"max_tokens\": 3, \"prompt\": \"x\"}\n"
    "{\"prompt\": \"\\u00e4\\n\\\"\", \"seed\": -1, \"max_tokens\": 33}";

static void answers_are_those_of_single_runs(void **state) {
    context *c = *state;
    static char first[1 << 16];
    static const char *const parallel[] = {"1", "2", "3", "64"};
    write_prompts(c, four);
    for (size_t i = 0; i < sizeof parallel / sizeof *parallel; i++) {
        cli_expect(RUN, 0, "run", "-m", MODEL, "--prompts", c->file, "--parallel", parallel[i],
                   "-n", "20", "--temp", "1.3");
        if (i == 0) {
            memcpy(first, c->run.out, sizeof first);
        }
        assert_string_equal(c->run.out, first);
        assert_contains(c->run.err, "4 prompts, up to ");
        assert_contains(c->run.err, "new tokens at ");
    }
    assert_contains(c->run.err, "up to 4 answers at once"); /* no more slots than prompts */
    cli_expect(RUN, 0, "run", "-m", MODEL, "--prompts", c->file, "-n", "20", "--temp", "1.3",
               QUIET);
    assert_string_equal(c->run.out, first);
    assert_string_equal(c->run.err, "");
    parse(c);
    assert_int_equal(c->n, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(number_of(c, i, "index"), i);
        assert_int_equal(json_object_size(c->line[i]), 5);
    }
    assert_int_equal(number_of(c, 0, "n_prompt"), 6); /* <s> and five letters */
    assert_int_equal(number_of(c, 2, "n_tokens"), 3);
    assert_string_equal(text_of(c, 2, "finish"), "length");
    assert_single(c, 0,
                  CLI_WORDS("run", "-m", MODEL, "-p", "hello", "-n", "20", "--temp", "1.3", QUIET));
    assert_single(c, 1,
                  CLI_WORDS("run", "-m", MODEL, "-p", "a much longer prompt than the others", "-n",
                            "20", "--temp", "1.3", "--seed", "7", QUIET));
    assert_single(c, 2,
                  CLI_WORDS("run", "-m", MODEL, "-p", "x", "-n", "3", "--temp", "1.3", QUIET));
    assert_single(c, 3,
                  CLI_WORDS("run", "-m", MODEL, "-p", "\xc3\xa4\n\"", "-n", "33", "--temp", "1.3",
                            "--seed", "-1", QUIET));
    cli_setup in = {.input = four};
    cli_expect_with(RUN, 0, &in,
                    CLI_WORDS("run", "-m", MODEL, "--prompts", "-", "--parallel", "3", "-n", "20",
                              "--temp", "1.3", QUIET));
    assert_string_equal(c->run.out, first);
}

/* --echo brings the prompts along; stop strings and a full context end answers, and say so. */
static void ends_and_echoes(void **state) {
    context *c = *state;
    write_prompts(c, "{\"prompt\": \"ab\\u0000c\"}\n{\"prompt\": \"\"}\n");
    cli_expect(RUN, 0, "run", "-m", MODEL, "--prompts", c->file, "--parallel", "2", "-n", "400",
               "--echo", "--ignore-eos");
    assert_contains(c->run.err, "2 answers end where the context of 128 tokens was full");
    parse(c);
    assert_int_equal(c->n, 2);
    const json_t *prompt = json_object_get(c->line[0], "prompt");
    assert_int_equal(json_string_length(prompt), 4);
    assert_memory_equal(json_string_value(prompt), "ab\0c", 4);
    assert_string_equal(text_of(c, 1, "prompt"), "");
    assert_string_equal(text_of(c, 1, "finish"), "context");
    assert_int_equal(number_of(c, 1, "n_prompt") + number_of(c, 1, "n_tokens"), 129);
    write_prompts(c, "{\"prompt\": \"ab\"}\n{\"prompt\": \"ab\", \"max_tokens\": 0}\n");
    cli_expect(RUN, 0, "run", "-m", MODEL, "--prompts", c->file, "-n", "9", "--logit-bias",
               "100:100", "--stop", "aa", QUIET);
    parse(c);
    assert_string_equal(text_of(c, 0, "finish"), "stop");
    assert_string_equal(text_of(c, 0, "text"), "");
    assert_int_equal(number_of(c, 0, "n_tokens"), 2);
    assert_string_equal(text_of(c, 1, "finish"), "length");
    assert_int_equal(number_of(c, 1, "n_tokens"), 0);
}

/* ---- samples ---- */

/* Sample 0 is the single run; all are the same however many run at once; each prompt is run once. */
static void samples_are_numbered(void **state) {
    context *c = *state;
    static char first[1 << 16];
    static const char *const parallel[] = {"5", "1", "2", "64"};
    for (size_t i = 0; i < sizeof parallel / sizeof *parallel; i++) {
        cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "hello", "--samples", "5", "--parallel",
                   parallel[i], "-n", "20", "--temp", "1.3");
        if (i == 0) {
            memcpy(first, c->run.out, sizeof first);
            assert_contains(c->run.err, ": 6 prompt tokens, "); /* once for all samples */
        }
        assert_string_equal(c->run.out, first);
    }
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "hello", "--samples", "5", "-n", "20", "--temp",
               "1.3", QUIET);
    assert_string_equal(c->run.out, first);
    parse(c);
    assert_int_equal(c->n, 5);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(number_of(c, i, "index"), 0);
        assert_int_equal(number_of(c, i, "sample"), i);
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(text_of(c, i, "text"), text_of(c, j, "text"));
        }
    }
    assert_single(c, 0,
                  CLI_WORDS("run", "-m", MODEL, "-p", "hello", "-n", "20", "--temp", "1.3", QUIET));
    write_prompts(c, four);
    cli_expect(RUN, 0, "run", "-m", MODEL, "--prompts", c->file, "--samples", "2", "-n", "20");
    memcpy(first, c->run.out, sizeof first);
    assert_contains(c->run.err, "up to 2 answers at once");
    parse(c);
    assert_int_equal(c->n, 8);
    for (size_t i = 0; i < 8; i++) {
        assert_int_equal(number_of(c, i, "index"), i / 2);
        assert_int_equal(number_of(c, i, "sample"), i % 2);
    }
    cli_expect(RUN, 0, "run", "-m", MODEL, "--prompts", c->file, "--samples", "2", "--parallel",
               "5", "-n", "20");
    assert_string_equal(c->run.out, first);
    assert_contains(c->run.err, "up to 4 answers at once"); /* a fifth slot fits no pair */
}

/* ---- beam search ---- */

/* The best answers of a search are the samples, in order; the first is what a plain run prints. */
static void beams_are_samples(void **state) {
    context *c = *state;
    static char first[1 << 16];
    static const char *const parallel[] = {"1", "2", "64"};
    write_prompts(c, four);
    for (size_t i = 0; i < sizeof parallel / sizeof *parallel; i++) {
        cli_expect(RUN, 0, "run", "-m", MODEL, "--prompts", c->file, "--parallel", parallel[i],
                   "-n", "20", "--decoder", "beam", "--samples", "3");
        if (i == 0) {
            memcpy(first, c->run.out, sizeof first);
            assert_contains(c->run.err, "decoder beam keeps 4 hypotheses: the sampler is not used");
        }
        assert_string_equal(c->run.out, first);
    }
    assert_contains(c->run.err, "up to 4 answers at once");
    parse(c);
    assert_int_equal(c->n, 12);
    for (size_t i = 0; i < 12; i++) {
        double score = json_real_value(json_object_get(c->line[i], "score"));
        assert_int_equal(number_of(c, i, "index"), i / 3);
        assert_int_equal(number_of(c, i, "sample"), i % 3);
        assert_true(score < 0);
        if (i % 3 != 0) {
            assert_true(score <= json_real_value(json_object_get(c->line[i - 1], "score")));
        }
    }
    assert_single(c, 0,
                  CLI_WORDS("run", "-m", MODEL, "-p", "hello", "-n", "20", "--decoder", "beam",
                            "--temp", "2", QUIET));
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "hello", "-n", "20", "--decoder", "beam", "--set",
               "decoder.beam.width=1", QUIET);
    memcpy(first, c->run.out, sizeof first);
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "hello", "-n", "20", "--temp", "0", QUIET);
    assert_string_equal(c->run.out, first);
    cli_expect(RUN, 2, "run", "-m", MODEL, "-p", "hello", "--decoder", "beam", "--samples", "5");
    assert_contains(c->run.err, "--samples 5: decoder beam keeps 4 answers");
    cli_expect(RUN, 2, "run", "-m", MODEL, "-p", "x", "--decoder", "beam", "--set",
               "decoder.beam.width=33");
    assert_one_message(RUN);
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "x", "--decoder", "beam", "--overflow", "slide",
               "-n", "200", "--ignore-eos", QUIET);
}

/* ---- mistakes ---- */

static void mistakes_in_the_file_are_named(void **state) {
    context *c = *state;
    static const struct {
        const char *text, *message;
    } mistakes[] = {
        {"{\"prompt\": \"a\"}\n{\"promt\": \"b\"}\n",
         ":2: unknown key \"promt\"; did you mean prompt"},
        {"{\"prompt\": \"a\", \"temperature\": 1}\n", ":1: unknown key \"temperature\""},
        {"\n\n{\"max_tokens\": 4}\n", ":3: there is no key \"prompt\""},
        {"{\"prompt\": 5}\n", ":1: prompt must be a string"},
        {"{\"prompt\": \"a\", \"max_tokens\": -1}\n", ":1: max_tokens must be a whole number"},
        {"{\"prompt\": \"a\", \"max_tokens\": 1.5}\n", ":1: max_tokens must be a whole number"},
        {"{\"prompt\": \"a\", \"seed\": \"1\"}\n", ":1: seed must be a whole number"},
        {"{\"prompt\": \"a\", \"prompt\": \"b\"}\n", ":1: no JSON: duplicate object key"},
        {"[\"a\"]\n", ":1: expected a JSON object"},
        {"{\"prompt\": \"a\"\n", ":1: no JSON: "},
        {"{\"prompt\": \"\xff\"}\n", ":1: no JSON: "},
        {"{\"prompt\": \"a\"} x\n", ":1: no JSON: "},
        {"\n \n", " holds no prompts"},
        {"", " holds no prompts"}};
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        write_prompts(c, mistakes[i].text);
        cli_expect(RUN, 2, "run", "-m", MODEL, "--prompts", c->file);
        assert_one_message(RUN);
        assert_contains(c->run.err, c->file);
        assert_contains(c->run.err, mistakes[i].message);
        assert_int_equal(c->run.n_out, 0);
    }
    cli_expect(RUN, 2, "run", "-m", MODEL, "--prompts", "/nonexistent/prompts");
    assert_contains(c->run.err, "/nonexistent/prompts");
    write_prompts(c, four);
    cli_expect(RUN, 2, "run", "-m", MODEL, "--prompts", c->file, "-p", "x");
    assert_one_message(RUN);
    cli_expect(RUN, 2, "run", "-m", MODEL, "--prompts", c->file, "-f", c->file);
    cli_expect(RUN, 2, "run", "-m", MODEL, "-p", "x", "--parallel", "2");
    assert_contains(c->run.err, "--prompts or --samples");
    cli_expect(RUN, 2, "run", "-m", MODEL, "-p", "x", "--samples", "0");
    cli_expect(RUN, 2, "run", "-m", MODEL, "-p", "x", "--samples", "many");
    assert_contains(c->run.err, "--samples many");
}

/* A prompt that is too long has an object that says so; the others are answered; exit code 1. */
static void impossible_prompts_stand_aside(void **state) {
    context *c = *state;
    write_prompts(c, "{\"prompt\": \"ab\"}\n{\"prompt\": \"far too long for it\"}\n"
                     "{\"prompt\": \"cd\"}\n");
    for (int samples = 0; samples < 2; samples++) {
        cli_expect(RUN, 1, "run", "-m", MODEL, "--prompts", c->file, "-c", "12", "-n", "3",
                   "--parallel", "2", "--samples", samples ? "2" : "1");
        assert_contains(c->run.err, "1 of 3 prompts could not be run");
        parse(c);
        assert_int_equal(c->n, samples ? 5 : 3);
        size_t at = samples ? 2 : 1;
        assert_int_equal(number_of(c, at, "index"), 1);
        assert_int_equal(json_object_size(c->line[at]), 2);
        assert_contains(text_of(c, at, "error"), "the context 12");
        assert_int_equal(number_of(c, at + 1, "index"), 2);
        assert_int_equal(number_of(c, at + 1, "n_tokens"), 3);
    }
}

/* Ctrl-C: what is finished is there, in whole lines, also behind what is not. */
static void interrupt_keeps_what_is_finished(void **state) {
    context *c = *state;
    cli_setup set = {.interrupt = 1};
    write_prompts(c, "{\"prompt\": \"a\", \"max_tokens\": 2}\n"
                     "{\"prompt\": \"b\", \"max_tokens\": 2000000000}\n"
                     "{\"prompt\": \"c\", \"max_tokens\": 2}\n"
                     "{\"prompt\": \"d\", \"max_tokens\": 2000000000}\n");
    cli_expect_with(RUN, 130, &set,
                    CLI_WORDS("run", "-m", MODEL, "--prompts", c->file, "--parallel", "4",
                              "--ignore-eos", "--overflow", "slide"));
    parse(c);
    assert_true(c->n >= 1 && c->n <= 2);
    assert_int_equal(number_of(c, 0, "index"), 0);
    if (c->n == 2) {
        assert_int_equal(number_of(c, 1, "index"), 2);
    }
    assert_null(strstr(c->run.err, "error"));
}

static void full_disk_is_noticed(void **state) {
    context *c = *state;
    if (access("/dev/full", W_OK) != 0) {
        print_message("skipped: there is no /dev/full\n");
        skip();
    }
    cli_setup set = {.output = "/dev/full"};
    cli_expect_with(RUN, 1, &set,
                    CLI_WORDS("run", "-m", MODEL, "-p", "x", "--samples", "2", "-n", "3", QUIET));
    assert_contains(c->run.err, "cannot write to standard output");
    assert_one_message(RUN);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_those_of_single_runs),
        cmocka_unit_test(ends_and_echoes),
        cmocka_unit_test(samples_are_numbered),
        cmocka_unit_test(beams_are_samples),
        cmocka_unit_test(mistakes_in_the_file_are_named),
        cmocka_unit_test(impossible_prompts_stand_aside),
        cmocka_unit_test(interrupt_keeps_what_is_finished),
        cmocka_unit_test(full_disk_is_noticed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
