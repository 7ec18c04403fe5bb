/* layers: cli */
/*
 * Turns of a conversation on a model that says what the test wants: which tokens stay, how much of
 * them the next turn finds in the KV pages, how answers end, the calculator inside of them, and what
 * is shown.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "chat_kit.h"
#include "cli/chat_turn.h"
#include "test_run.h"

typedef struct rig {
    test_run run;
    pico_tokenizer *tokenizer;
    pico_decode *decode;
    pico_arena arena;
    pico_chat_template chosen;
    pico_chat_tokens tokens;
    pico_chat_tool tool;
    pico_log log;
    pico_answer out;
    FILE *file;
    char shown[1024];
    pico_chat_turn turn;
    pico_error err;
} rig;

static void open_rig(rig *r, const ck_script *script, const char *choice) {
    int known;
    memset(r, 0, sizeof *r);
    test_run_open_plugins(&r->run, "[sampler.standard]\ntemperature = 0\n");
    test_run_open_model(&r->run, ck_make(script));
    const pico_vocab *vocab = &r->run.model->file->vocab;
    test_check(pico_tokenizer_open(vocab, &r->tokenizer, &r->err), &r->err);
    pico_decode_params params = {.sampler = &r->run.sampler.loaded->ops.sampler,
                                 .sampler_self = r->run.sampler.self,
                                 .decoder = &r->run.decoder.loaded->ops.decoder,
                                 .decoder_self = r->run.decoder.self,
                                 .tokenizer = r->tokenizer,
                                 .n_slots = 1,
                                 .ubatch = 32,
                                 .max_stop = 16,
                                 .repetition = 1};
    test_check(pico_decode_open(r->run.model, &params, &r->decode, &r->err), &r->err);
    test_check(pico_chat_template_select(choice, vocab, &r->arena, &r->chosen, &known, &r->err),
               &r->err);
    test_check(pico_chat_tokens_open(&r->tokens, &r->chosen, vocab, r->tokenizer, &r->err),
               &r->err);
    pico_log_init(&r->log, PICO_LOG_ERROR);
    r->turn = (pico_chat_turn){.decode = r->decode,
                               .tokens = &r->tokens,
                               .out = &r->out,
                               .log = &r->log,
                               .tool = pico_chat_tool_find(&r->tokens, &r->tool) ? &r->tool : NULL,
                               .request = {.max_tokens = 40}};
}

static void close_rig(rig *r) {
    pico_chat_tokens_close(&r->tokens);
    pico_decode_close(r->decode);
    pico_tokenizer_close(r->tokenizer);
    pico_arena_free(&r->arena);
    test_run_close(&r->run);
}

/* One turn; what is shown ends up in r->shown. */
static pico_status try_turn(rig *r, const char *text) {
    r->file = tmpfile();
    assert_non_null(r->file);
    test_check(pico_chat_add_user(&r->tokens, NULL, 0, text, strlen(text), &r->err), &r->err);
    test_check(pico_chat_begin_answer(&r->tokens, &r->err), &r->err);
    pico_answer_open(&r->out, r->file, 0, 1);
    pico_status status = pico_chat_turn_run(&r->turn, &r->err);
    assert_int_equal(r->out.error, 0);
    pico_answer_close(&r->out);
    rewind(r->file);
    r->shown[fread(r->shown, 1, sizeof r->shown - 1, r->file)] = '\0';
    (void)fclose(r->file);
    return status;
}

static void take_turn(rig *r, const char *text) {
    test_check(try_turn(r, text), &r->err);
}

/* The last answer and what stands behind it: bytes as they are, special tokens as {name}. */
static const char *answer_of(const rig *r) {
    static char out[2048];
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = r->tokens.answer_begin; i < r->tokens.n; i++) {
        int32_t id = r->tokens.ids[i];
        const pico_piece *piece = &r->tokens.vocab->piece[id];
        assert_true(used + 64 < sizeof out);
        used += id >= CK_BYTE && id < CK_USER_START
                    ? (size_t)sprintf(out + used, "%c", id - CK_BYTE)
                    : (size_t)sprintf(out + used, "{%.*s}", (int)piece->n - 4, piece->text + 2);
    }
    return out;
}

/* ---- what the next turn finds ---- */

/* Every turn finds all of the turns before in the pages, but their newest token: one that ended by
 * itself, by its length, with a foreign end token, and one with a call in it. */
static void turns_find_everything_before(void **state) {
    static const struct {
        const char *text;
        int32_t then;
        uint64_t max_tokens;
        uint32_t finish;
    } ends[] = {{"abc", CK_ASSISTANT_END, 40, PICO_FINISH_END},
                {"abcdefgh", CK_ASSISTANT_END, 5, PICO_FINISH_LENGTH},
                {"abc", CK_BOS, 40, PICO_FINISH_END},
                {"abc", CK_EOS, 40, PICO_FINISH_END},
                {"abc", CK_PYTHON_START, 40, PICO_FINISH_END}};
    (void)state;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        ck_script script;
        rig r;
        ck_begin(&script);
        ck_say(&script, CK_ASSISTANT_START, ends[i].text, ends[i].then);
        ck_say(&script, CK_PYTHON_START, "6*7", CK_PYTHON_END);
        open_rig(&r, &script, "auto");
        r.turn.request.max_tokens = ends[i].max_tokens;
        size_t n_before = 0;
        for (int k = 0; k < 4; k++) {
            uint64_t n_run = pico_decode_statistics(r.decode)->n_prefill;
            take_turn(&r, "hello");
            assert_int_equal(r.turn.finish, ends[i].finish);
            assert_int_equal(r.tokens.ids[r.tokens.n - 1], CK_ASSISTANT_END);
            assert_int_not_equal(r.tokens.ids[r.tokens.n - 2], CK_ASSISTANT_END);
            assert_int_not_equal(r.tokens.ids[r.tokens.n - 2],
                                 ends[i].then == CK_BOS ? CK_BOS : CK_EOS);
            n_run = pico_decode_statistics(r.decode)->n_prefill - n_run;
            size_t n_new =
                r.tokens.answer_begin - n_before; /* what the user said, with its marks */
            if (ends[i].then != CK_PYTHON_START) {
                assert_int_equal(pico_decode_slot(r.decode, 0).n_reused,
                                 k == 0 ? 0
                                        : n_before - (ends[i].finish == PICO_FINISH_LENGTH
                                                          ? 2 /* and the end that was added */
                                                          : 1));
                assert_true(n_run <= n_new + 2);
            } else { /* inside the answer only the call's last token and its value are run */
                assert_string_equal(answer_of(&r), "abc{python_start}6*7{python_end}{output_start}"
                                                   "42{output_end}{assistant_end}");
                assert_true(n_run <= n_new + 1 + 1 + 5);
            }
            n_before = r.tokens.n;
        }
        close_rig(&r);
    }
}

/* ---- ends ---- */

/* What a stop string leaves is what was shown, and the next turn finds that. */
static void stop_strings_leave_what_was_shown(void **state) {
    static const char *const stop[] = {"\nU"};
    ck_script script;
    rig r;
    (void)state;
    ck_begin(&script);
    ck_say(&script, CK_ASSISTANT_START, "abc\nUx", CK_ASSISTANT_END);
    open_rig(&r, &script, "auto");
    r.turn.request.stop = stop;
    r.turn.request.n_stop = 1;
    take_turn(&r, "hello");
    assert_int_equal(r.turn.finish, PICO_FINISH_STOP);
    assert_string_equal(r.shown, "abc");
    assert_string_equal(answer_of(&r), "abc{assistant_end}");
    size_t n = r.tokens.n;
    take_turn(&r, "more");
    assert_int_equal(pico_decode_slot(r.decode, 0).n_reused, n - 1);
    close_rig(&r);
}

/* A token that the stop string begins inside of is written anew, as far as it was shown. */
static void stop_strings_cut_tokens(void **state) {
    static const char *const stop[] = {"\nU"};
    ck_script script;
    rig r;
    (void)state;
    ck_begin(&script);
    ck_say(&script, CK_ASSISTANT_START, "ab", CK_LONG);
    open_rig(&r, &script, "auto");
    r.turn.request.stop = stop;
    r.turn.request.n_stop = 1;
    for (int k = 0; k < 2; k++) {
        size_t n = r.tokens.n;
        take_turn(&r, "hello");
        assert_int_equal(r.turn.finish, PICO_FINISH_STOP);
        assert_string_equal(r.shown, "abz");
        assert_string_equal(answer_of(&r), "abz{assistant_end}");
        assert_int_equal(pico_decode_slot(r.decode, 0).n_reused, k == 0 ? 0 : n - 2);
    }
    close_rig(&r);
}

/* ignore_end: the answer runs on over end tokens, which are not shown, to its length. */
static void ends_can_be_ignored(void **state) {
    ck_script script;
    rig r;
    (void)state;
    ck_begin(&script);
    ck_say(&script, CK_ASSISTANT_START, "ab", CK_ASSISTANT_END);
    ck_say(&script, CK_ASSISTANT_END, "cd", CK_BOS);
    ck_say(&script, CK_BOS, "e", CK_ASSISTANT_END);
    open_rig(&r, &script, "auto");
    r.turn.request.ignore_end = 1;
    r.turn.request.max_tokens = 7;
    take_turn(&r, "hello");
    assert_int_equal(r.turn.finish, PICO_FINISH_LENGTH);
    assert_string_equal(r.shown, "abcde");
    assert_string_equal(answer_of(&r), "ab{assistant_end}cd{bos}e{assistant_end}");
    close_rig(&r);
}

/* A conversation that does not fit says so and can be cut back; an answer ends at the edge. */
static void contexts_end(void **state) {
    char text[CK_CONTEXT + 1];
    ck_script script;
    rig r;
    (void)state;
    ck_begin(&script);
    ck_say(&script, CK_ASSISTANT_START, "abcdefgh", CK_ASSISTANT_END);
    open_rig(&r, &script, "auto");
    memset(text, 'x', sizeof text - 1);
    text[CK_CONTEXT] = '\0';
    assert_int_equal(try_turn(&r, text), PICO_E_LIMIT);
    pico_chat_tokens_truncate(&r.tokens, 0);
    text[CK_CONTEXT - 8] = '\0'; /* and four special tokens: four places are left */
    take_turn(&r, text);
    assert_int_equal(r.turn.finish, PICO_FINISH_CONTEXT);
    assert_string_equal(r.shown, "abcde");
    close_rig(&r);
    ck_say(&script, CK_ASSISTANT_START, "a", CK_PYTHON_START);
    ck_say(&script, CK_PYTHON_START, "6", CK_PYTHON_END);
    open_rig(&r, &script, "auto"); /* the value would not fit */
    take_turn(&r, text);
    assert_int_equal(r.turn.finish, PICO_FINISH_CONTEXT);
    assert_string_equal(r.shown, "a");
    close_rig(&r);
}

/* ---- the calculator ---- */

typedef struct tool_case {
    const char *expression;
    uint64_t max_tokens;
    uint32_t show;
    const char *answer, *shown;
} tool_case;

static const tool_case tool_cases[] = {
    {"6*7", 40, PICO_CHAT_HIDE_CALLS,
     "ab{python_start}6*7{python_end}{output_start}42{output_end}cd{assistant_end}", "abcd"},
    {"6*7", 40, PICO_CHAT_SHOW_CALLS,
     "ab{python_start}6*7{python_end}{output_start}42{output_end}cd{assistant_end}",
     "ab[6*7 = 42]cd"},
    {"6*7", 40, PICO_CHAT_DIM_CALLS,
     "ab{python_start}6*7{python_end}{output_start}42{output_end}cd{assistant_end}",
     "ab\x1b[2m[6*7 = 42]\x1b[0mcd"},
    /* no value, nothing to evaluate: the model goes on after the expression */
    {"6/0", 40, PICO_CHAT_SHOW_CALLS, "ab{python_start}6/0{python_end}e{assistant_end}",
     "ab[6/0]e"},
    {"", 40, PICO_CHAT_SHOW_CALLS, "ab{python_start}{python_end}e{assistant_end}", "abe"},
    /* the answer's length counts all of it; a value comes whole or not at all */
    {"6*7", 4, PICO_CHAT_SHOW_CALLS, "ab{python_start}6{assistant_end}", "ab[6]"},
    {"6*7", 7, PICO_CHAT_SHOW_CALLS, "ab{python_start}6*7{python_end}{assistant_end}", "ab[6*7]"},
    {"6*7", 10, PICO_CHAT_HIDE_CALLS, "ab{python_start}6*7{python_end}{assistant_end}", "ab"},
    {"6*7", 11, PICO_CHAT_HIDE_CALLS,
     "ab{python_start}6*7{python_end}{output_start}42{output_end}{assistant_end}", "ab"},
    {"6*7", 12, PICO_CHAT_HIDE_CALLS,
     "ab{python_start}6*7{python_end}{output_start}42{output_end}c{assistant_end}", "abc"},
};

static void open_tool(rig *r, const char *expression) {
    ck_script script;
    ck_begin(&script);
    ck_say(&script, CK_ASSISTANT_START, "ab", CK_PYTHON_START);
    ck_say(&script, CK_PYTHON_START, expression, CK_PYTHON_END);
    ck_say(&script, CK_PYTHON_END, "e", CK_ASSISTANT_END);
    ck_say(&script, CK_OUTPUT_END, "cd", CK_ASSISTANT_END);
    open_rig(r, &script, "auto");
    assert_non_null(r->turn.tool);
}

static void expressions_are_evaluated(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof tool_cases / sizeof *tool_cases; i++) {
        const tool_case *c = &tool_cases[i];
        rig r;
        open_tool(&r, c->expression);
        r.turn.request.max_tokens = c->max_tokens;
        r.turn.show = c->show;
        take_turn(&r, "hello");
        assert_string_equal(answer_of(&r), c->answer);
        assert_string_equal(r.shown, c->shown);
        int cut = c->max_tokens < 40;
        assert_int_equal(r.turn.finish, cut ? PICO_FINISH_LENGTH : PICO_FINISH_END);
        for (size_t j = r.tokens.answer_begin; j < r.tokens.n; j++) { /* what is trained */
            int32_t id = r.tokens.ids[j];
            int output = id == CK_OUTPUT_START || id == CK_OUTPUT_END || id == CK_BYTE + '4' ||
                         id == CK_BYTE + '2';
            assert_int_equal(r.tokens.mask[j], !output);
        }
        close_rig(&r);
    }
}

/* Without the tool the same tokens are only tokens: they stay, and are not shown. */
static void without_the_tool_they_are_tokens(void **state) {
    rig r;
    (void)state;
    open_tool(&r, "6*7");
    r.turn.tool = NULL;
    take_turn(&r, "hello");
    assert_string_equal(answer_of(&r), "ab{python_start}6*7{python_end}e{assistant_end}");
    assert_string_equal(r.shown, "ab6*7e");
    close_rig(&r);
}

/* An expression that begins anew counts from there; an end without a beginning is nothing. */
static void odd_marks(void **state) {
    ck_script script;
    rig r;
    (void)state;
    ck_begin(&script);
    ck_say(&script, CK_ASSISTANT_START, "a", CK_PYTHON_END);
    ck_say(&script, CK_PYTHON_END, "b", CK_ASSISTANT_END);
    open_rig(&r, &script, "auto");
    take_turn(&r, "hello");
    assert_string_equal(answer_of(&r), "a{python_end}b{assistant_end}");
    assert_string_equal(r.shown, "ab");
    close_rig(&r);
    ck_begin(&script);
    ck_say(&script, CK_ASSISTANT_START, "", CK_PYTHON_START);
    ck_say(&script, CK_PYTHON_START, "8", CK_PYTHON_START);
    open_rig(&r, &script, "auto");
    r.turn.request.max_tokens = 5;
    r.turn.show = PICO_CHAT_SHOW_CALLS;
    take_turn(&r, "hello");
    assert_string_equal(answer_of(&r),
                        "{python_start}8{python_start}8{python_start}{assistant_end}");
    close_rig(&r);
    open_rig(&r, &script, "plain"); /* a form without the calculator */
    assert_null(r.turn.tool);
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_find_everything_before),
        cmocka_unit_test(stop_strings_leave_what_was_shown),
        cmocka_unit_test(stop_strings_cut_tokens),
        cmocka_unit_test(ends_can_be_ignored),
        cmocka_unit_test(contexts_end),
        cmocka_unit_test(expressions_are_evaluated),
        cmocka_unit_test(without_the_tool_they_are_tokens),
        cmocka_unit_test(odd_marks),
    };
    return cmocka_run_group_tests_name("chat_turn", tests, NULL, NULL);
}
