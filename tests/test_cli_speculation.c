/*
 * Speculation as users meet it: the text is the one without, alone and with --parallel; what it was
 * worth is said; models that do not fit together and drafts that are never right are explained; the
 * second model has its own compression; bench compares decoders and sees that the texts agree.
 */
#include "cli_support.h"

#include <jansson.h>

typedef struct context {
    char *folder;
    char model[64], other[64], prompts[64], draft[128];
    cli_run run, plain;
} context;

#define RUN (&c->run)
#define LOOKUP "--decoder", "spec_lookup", "--set", "decoder.spec_lookup.ngram_min=1"
#define DRAFT "--decoder", "spec_model", "--set", c->draft

static int setup(void **state) {
    context *c = calloc(1, sizeof *c);
    pico_model_file *file = NULL;
    pico_error err = {0};
    assert_non_null(c);
    c->folder = cli_folder();
    (void)snprintf(c->model, sizeof c->model, "%s/tiny.gguf", c->folder);
    (void)snprintf(c->other, sizeof c->other, "%s/other.gguf", c->folder);
    (void)snprintf(c->prompts, sizeof c->prompts, "%s/prompts.jsonl", c->folder);
    (void)snprintf(c->draft, sizeof c->draft, "decoder.spec_model.draft_model=%s", c->model);
    cli_make_tiny(c->model, NULL);
    cli_make_tiny(c->other, NULL);
    /* the same but for one token's text */
    static char text[] = "<0x7F>";
    if (pico_model_file_open(c->other, NULL, &file, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    pico_piece *piece = (pico_piece *)(uintptr_t)file->vocab.piece;
    piece[100].text = text;
    assert_int_equal(pico_gguf_write(file, c->other, &err), PICO_OK);
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

static void assert_same_text(const context *c) {
    assert_int_equal(c->plain.n_out, c->run.n_out);
    assert_memory_equal(c->plain.out, c->run.out, c->run.n_out);
}

static void the_text_stays(void **state) {
    context *c = *state;
    const char *const temperatures[] = {"0", "0.9"}, *const lengths[] = {"auto", "1", "5", "31"};
    for (uint32_t t = 0; t < 2; t++) {
        cli_expect(&c->plain, 0, "-m", c->model, "-p", "abcabcabc", "-n", "60", "--temp",
                   temperatures[t]);
        assert_null(strstr(c->plain.err, "speculation"));
        for (uint32_t k = 0; k < 4; k++) {
            cli_expect(RUN, 0, "-m", c->model, "-p", "abcabcabc", "-n", "60", "--temp",
                       temperatures[t], "--draft-n", lengths[k], LOOKUP);
            assert_same_text(c);
            cli_expect(RUN, 0, "-m", c->model, "-p", "abcabcabc", "-n", "60", "--temp",
                       temperatures[t], "--draft-n", lengths[k], DRAFT);
            assert_same_text(c);
            if (k != 0) { /* how much is drafted at auto depends on the machine */
                assert_contains(c->run.err, "drafts accepted (100.0 %)");
                assert_contains(c->run.err, "right by place: 100");
                assert_contains(c->run.err, "speculation: drafting");
            }
        }
    }
}

static void many_answers_speculate_too(void **state) {
    context *c = *state;
    static const char prompts[] =
        "{\"prompt\": \"abab\"}\n{\"prompt\": \"one two one two\"}\n"
        "{\"prompt\": \"x\", \"max_tokens\": 9}\n{\"prompt\": \"yyyy\"}\n";
    cli_write(c->prompts, prompts, sizeof prompts - 1);
    cli_expect(&c->plain, 0, "-m", c->model, "--prompts", c->prompts, "-n", "40", "--samples", "2");
    cli_expect(RUN, 0, "-m", c->model, "--prompts", c->prompts, "-n", "40", "--samples", "2",
               "--parallel", "8", "--draft-n", "3", DRAFT);
    assert_same_text(c);
    assert_contains(c->run.err,
                    "right by place: 100 100 100 %" /* some answers end before their drafts do */);
    cli_expect(RUN, 0, "-m", c->model, "--prompts", c->prompts, "-n", "40", "--samples", "2",
               "--parallel", "4", LOOKUP);
    assert_same_text(c);
}

/* Every turn begins where the last one ended, and so does the draft model's cache. */
static void conversations_stay(void **state) {
    context *c = *state;
    const cli_setup turns = {.input = "hello hello\nwhat?\nhello hello hello\n"};
    cli_expect_with(&c->plain, 0, &turns,
                    CLI_WORDS("chat", "-m", c->model, "--chat-template", "chatml", "-n", "12"));
    assert_true(c->plain.n_out > 12);
    cli_expect_with(RUN, 0, &turns,
                    CLI_WORDS("chat", "-m", c->model, "--chat-template", "chatml", "-n", "12",
                              "--draft-n", "4", DRAFT));
    assert_same_text(c);
    cli_expect_with(
        RUN, 0, &turns,
        CLI_WORDS("chat", "-m", c->model, "--chat-template", "chatml", "-n", "12", LOOKUP));
    assert_same_text(c);
}

static void rejection_runs_and_is_reproducible(void **state) {
    context *c = *state;
    cli_expect(&c->plain, 0, "-m", c->model, "-p", "ab", "-n", "60", "--draft-n", "4", "--set",
               "decoder.accept=rejection", DRAFT);
    cli_expect(RUN, 0, "-m", c->model, "-p", "ab", "-n", "60", "--draft-n", "4", "--set",
               "decoder.accept=rejection", DRAFT);
    assert_same_text(c);
}

static void what_does_not_fit_is_explained(void **state) {
    context *c = *state;
    char other[128];
    (void)snprintf(other, sizeof other, "decoder.spec_model.draft_model=%s", c->other);
    cli_expect(RUN, 2, "-m", c->model, "-p", "a", "--decoder", "spec_model", "--set", other);
    assert_one_message(RUN);
    assert_contains(c->run.err, "token 100 is \"<0x7F>\" in the draft model but \"<0x61>\"");
    assert_contains(c->run.err, c->other);
    cli_expect(RUN, 2, "-m", c->model, "-p", "a", "--decoder", "spec_model");
    assert_contains(c->run.err, "draft_model");
    cli_expect(RUN, 2, "-m", c->model, "-p", "a", "--decoder", "spec_model", "--set",
               "decoder.spec_model.draft_model=/nowhere/x.gguf");
    assert_contains(c->run.err, "/nowhere/x.gguf");
    cli_expect(RUN, 2, "-m", c->model, "-p", "a", "--decoder", "spec_draft");
    assert_contains(c->run.err, "no multi-token or draft heads");
    cli_expect(RUN, 2, "-m", c->model, "-p", "a", "--draft-n", "32", LOOKUP);
    assert_contains(c->run.err, "draft_n");
    cli_expect(RUN, 2, "-m", c->model, "-p", "a", "--decoder", "spec_lookup", "--set",
               "decoder.spec_lookup.ngram_min=9");
    assert_contains(c->run.err, "ngram_min is 9, ngram_max 8");
}

static void drafts_that_are_never_right_are_reported_once(void **state) {
    context *c = *state;
    cli_expect(RUN, 0, "-m", c->model, "-p", "abcabc", "-n", "400", "--temp", "100", "--top-k", "0",
               "--top-p", "1", "--draft-n", "1", "--ignore-eos", "--overflow", "slide", "-s", "3",
               LOOKUP);
    assert_contains(c->run.err, "drafts of decoder spec_lookup was right");
    const char *found = strstr(c->run.err, "was right");
    assert_non_null(found);
    assert_null(strstr(found + 1, "was right"));
    cli_expect(RUN, 0, "-m", c->model, "-p", "abcabc", "-n", "100", "--draft-n", "2", DRAFT);
    assert_null(strstr(c->run.err, "was right"));
}

static void the_second_model_has_stages_of_its_own(void **state) {
    context *c = *state;
    static const char *const to[] = {"model", "draft", "both"};
    static const int n_stage[] = {1, 1, 2};
    cli_expect(&c->plain, 0, "-m", c->model, "-p", "abc", "-n", "50", "--temp", "0");
    for (uint32_t i = 0; i < 3; i++) {
        char set[64];
        int n = 0;
        (void)snprintf(set, sizeof set, "compress.1.apply_to=%s", to[i]);
        cli_expect(RUN, 0, "-m", c->model, "-p", "abc", "-n", "50", "--temp", "0", "--draft-n", "3",
                   "--plugin-path", PICO_BUILD_DIR "/tests/plugins", "--set",
                   "compress.1.plugin=toy", "--set", set, DRAFT);
        for (const char *at = c->run.err; (at = strstr(at, "[compress.1] toy: ")) != NULL; at++) {
            n++;
        }
        assert_int_equal(n, n_stage[i]);
        if (i == 1) { /* rounded weights draft; the text is that of the others */
            assert_same_text(c);
            assert_contains(c->run.err, "drafts accepted");
        }
    }
}

static void bench_compares_decoders(void **state) {
    context *c = *state;
    json_error_t why;
    cli_expect(RUN, 0, "bench", "-m", c->model, "--decoders", "greedy,spec_lookup,spec_model",
               "--set", c->draft, "--accept", "0.5", "--gamma", "1..2,auto", "--draft-cost", "0.1",
               "-n", "30", "-r", "2", "-o", "json");
    json_t *root = json_loads(c->run.out, 0, &why);
    assert_non_null(root);
    const json_t *rows = json_object_get(root, "rows");
    assert_int_equal(json_array_size(rows), 9);
    for (size_t i = 0; i < 9; i++) {
        static const char *const decoders[] = {"spec_lookup", "spec_model", "scripted"};
        static const char *const gammas[] = {"1", "2", "auto"};
        const json_t *row = json_array_get(rows, i);
        assert_string_equal(json_string_value(json_object_get(row, "decoder")), decoders[i / 3]);
        assert_string_equal(json_string_value(json_object_get(row, "gamma")), gammas[i % 3]);
        assert_true(json_real_value(json_object_get(row, "speedup")) > 0);
        assert_true(json_real_value(json_object_get(row, "predicted")) > 0);
        double tokens = json_real_value(json_object_get(row, "tokens_per_round"));
        assert_true(tokens >= 1 && tokens <= 32);
        if (i / 3 == 1 && i % 3 != 2) { /* the same model */
            assert_true(json_real_value(json_object_get(row, "acceptance")) == 1);
        }
    }
    assert_true(json_array_size(json_object_get(root, "v")) >= 3);
    json_decref(root);
    cli_expect(RUN, 0, "bench", "-m", c->model, "--accept", "1", "--gamma", "4", "-n", "40", "-r",
               "1");
    assert_contains(c->run.out, "| scripted | 4 |");
    assert_contains(c->run.out, "| 100.0 % | 5.00 |");
    assert_contains(c->run.out, "right with probability 1");
    cli_expect(RUN, 0, "bench", "-m", c->model, "--accept", "0", "--gamma", "2", "-n", "20", "-r",
               "1", "-o", "csv");
    assert_contains(c->run.out, "\nscripted,2,");
}

static void bench_refuses_what_makes_no_sense(void **state) {
    context *c = *state;
    cli_expect(RUN, 2, "bench", "-m", c->model, "--gamma", "4");
    assert_contains(c->run.err, "belong to --decoders");
    cli_expect(RUN, 2, "bench", "-m", c->model, "--accept", "1.5");
    assert_contains(c->run.err, "--accept is a number from 0 to 1");
    cli_expect(RUN, 2, "bench", "-m", c->model, "--accept", "1", "--gamma", "5..3");
    assert_contains(c->run.err, "--gamma is a list");
    cli_expect(RUN, 2, "bench", "-m", c->model, "--accept", "1", "--gamma", "0");
    cli_expect(RUN, 2, "bench", "-m", c->model, "--accept", "1", "--gamma", "1..99");
    cli_expect(RUN, 2, "bench", "-m", c->model, "--decoders", "greedy");
    assert_contains(c->run.err, "no decoder but greedy");
    cli_expect(RUN, 4, "bench", "-m", c->model, "--decoders", "nosuch");
    cli_expect(RUN, 2, "bench", "-m", c->model, "--accept", "1", "-n", "1");
    cli_expect(RUN, 2, "bench", "-m", c->model, "--accept", "1", "--prompt-file", "/nowhere/x");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_text_stays),
        cmocka_unit_test(many_answers_speculate_too),
        cmocka_unit_test(conversations_stay),
        cmocka_unit_test(rejection_runs_and_is_reproducible),
        cmocka_unit_test(what_does_not_fit_is_explained),
        cmocka_unit_test(drafts_that_are_never_right_are_reported_once),
        cmocka_unit_test(the_second_model_has_stages_of_its_own),
        cmocka_unit_test(bench_compares_decoders),
        cmocka_unit_test(bench_refuses_what_makes_no_sense),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
