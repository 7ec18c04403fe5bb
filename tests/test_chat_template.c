/* layers: cli */
/*
 * Conversations as tokens: what every template makes of one, how a template is chosen, templates
 * from files and their errors, roles, what is and is not a special token, where texts are cut.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/chat_tokens.h"

enum { FIRST_BYTE = 3, FIRST_SPECIAL = FIRST_BYTE + 256, MAX_PIECES = 300 };

/* A byte vocabulary with special tokens, and what is opened on it. */
typedef struct kit {
    pico_piece piece[MAX_PIECES];
    char byte_name[256][8];
    pico_vocab vocab;
    pico_tokenizer *tokenizer;
    pico_arena arena;
    pico_chat_template chosen;
    pico_chat_tokens tokens;
    int known;
    pico_error err;
} kit;

static const char *const nanochat_names[] = {"<|bos|>",           "<|user_start|>",
                                             "<|user_end|>",      "<|assistant_start|>",
                                             "<|assistant_end|>", "<|python_start|>",
                                             "<|python_end|>",    "<|output_start|>",
                                             "<|output_end|>",    NULL};
static const char *const all_names[] = {"<|im_start|>",      "<|im_end|>", "<|start_header_id|>",
                                        "<|end_header_id|>", "<|eot_id|>", NULL};

static void open_kit(kit *k, const char *const *names, int space_prefix) {
    memset(k, 0, sizeof *k);
    k->piece[0] = (pico_piece){.text = "<unk>", .n = 5, .type = PICO_PIECE_UNKNOWN};
    k->piece[1] = (pico_piece){.text = "<s>", .n = 3, .type = PICO_PIECE_CONTROL};
    k->piece[2] = (pico_piece){.text = "</s>", .n = 4, .type = PICO_PIECE_CONTROL};
    for (uint32_t i = 0; i < 256; i++) {
        (void)snprintf(k->byte_name[i], sizeof k->byte_name[i], "<0x%02X>", i);
        k->piece[FIRST_BYTE + i] =
            (pico_piece){.text = k->byte_name[i], .n = 6, .type = PICO_PIECE_BYTE};
    }
    uint32_t n = FIRST_SPECIAL;
    for (; names != NULL && *names != NULL; names++, n++) {
        k->piece[n] =
            (pico_piece){.text = *names, .n = (uint32_t)strlen(*names), .type = PICO_PIECE_CONTROL};
    }
    k->vocab = (pico_vocab){.kind = PICO_VOCAB_SPM,
                            .n_piece = n,
                            .piece = k->piece,
                            .bos = 1,
                            .eos = 2,
                            .unk = 0,
                            .pad = -1,
                            .eot = -1,
                            .add_bos = 1,
                            .add_space_prefix = (uint32_t)space_prefix};
    assert_int_equal(pico_tokenizer_open(&k->vocab, &k->tokenizer, &k->err), PICO_OK);
}

static void choose(kit *k, const char *choice) {
    if (pico_chat_template_select(choice, &k->vocab, &k->arena, &k->chosen, &k->known, &k->err) !=
            PICO_OK ||
        pico_chat_tokens_open(&k->tokens, &k->chosen, &k->vocab, k->tokenizer, &k->err) !=
            PICO_OK) {
        fail_msg("%s", k->err.message);
    }
}

static void close_kit(kit *k) {
    pico_chat_tokens_close(&k->tokens);
    pico_tokenizer_close(k->tokenizer);
    pico_arena_free(&k->arena);
}

/* The tokens as text: bytes as they are, special tokens by name in braces; with the mask, * before
 * every token that is trained. */
static const char *spell(const kit *k, int with_mask) {
    static char out[4096];
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < k->tokens.n; i++) {
        int32_t id = k->tokens.ids[i];
        const char *star = with_mask && k->tokens.mask[i] ? "*" : "";
        assert_true(used + 64 < sizeof out);
        if (id >= FIRST_BYTE && id < FIRST_SPECIAL) {
            used += (size_t)sprintf(out + used, "%s%c", star, id - FIRST_BYTE);
        } else {
            const pico_piece *piece = &k->vocab.piece[id];
            used += (size_t)sprintf(out + used, "%s{%.*s}", star, (int)piece->n, piece->text);
        }
    }
    return out;
}

#define PART(kind, words)                                                                          \
    { .type = (kind), .text = (words), .n = sizeof(words) - 1 }
static const pico_chat_part be_nice = PART(PICO_CHAT_TEXT, "Be."), hi = PART(PICO_CHAT_TEXT, "Hi"),
                            yo = PART(PICO_CHAT_TEXT, "Yo"), so = PART(PICO_CHAT_TEXT, "So?");
static const pico_chat_message talk[] = {{PICO_CHAT_SYSTEM, &be_nice, 1},
                                         {PICO_CHAT_USER, &hi, 1},
                                         {PICO_CHAT_ASSISTANT, &yo, 1},
                                         {PICO_CHAT_USER, &so, 1}};

/* ---- the list ---- */

/* The same conversation in every form, as a prompt. */
static void every_form(void **state) {
    static const struct {
        const char *name, *text;
    } forms[] = {
        {"chatml",
         "{<s>}{<|im_start|>}system\nBe.{<|im_end|>}\n{<|im_start|>}user\nHi{<|im_end|>}\n"
         "{<|im_start|>}assistant\nYo{<|im_end|>}\n{<|im_start|>}user\nSo?{<|im_end|>}\n"
         "{<|im_start|>}assistant\n"},
        {"llama3", "{<s>}{<|start_header_id|>}system{<|end_header_id|>}\n\nBe.{<|eot_id|>}"
                   "{<|start_header_id|>}user{<|end_header_id|>}\n\nHi{<|eot_id|>}"
                   "{<|start_header_id|>}assistant{<|end_header_id|>}\n\nYo{<|eot_id|>}"
                   "{<|start_header_id|>}user{<|end_header_id|>}\n\nSo?{<|eot_id|>}"
                   "{<|start_header_id|>}assistant{<|end_header_id|>}\n\n"},
        {"llama2",
         "{<s>}[INST] <<SYS>>\nBe.\n<</SYS>>\n\nHi [/INST]Yo{</s>}{<s>}[INST] So? [/INST]"},
        {"plain", "{<s>}Be.\n\nUser: Hi\nAssistant:Yo\nUser: So?\nAssistant:"}};
    kit k;
    (void)state;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        open_kit(&k, all_names, 0);
        choose(&k, forms[i].name);
        assert_int_equal(pico_chat_render_prompt(&k.tokens, talk, 4, 2048, &k.err), PICO_OK);
        assert_string_equal(spell(&k, 0), forms[i].text);
        close_kit(&k);
    }
    open_kit(&k, nanochat_names, 0);
    choose(&k, "nanochat");
    assert_int_equal(pico_chat_render_prompt(&k.tokens, talk, 4, 2048, &k.err), PICO_OK);
    assert_string_equal(
        spell(&k, 0), "{<|bos|>}{<|user_start|>}Be.\n\nHi{<|user_end|>}{<|assistant_start|>}Yo"
                      "{<|assistant_end|>}{<|user_start|>}So?{<|user_end|>}{<|assistant_start|>}");
    close_kit(&k);
}

/* What is trained: what the assistant says, its end included; nothing that the calculator says. */
static void masks_and_cuts(void **state) {
    static const pico_chat_part parts[] = {PART(PICO_CHAT_TEXT, "a"), PART(PICO_CHAT_PYTHON, "b"),
                                           PART(PICO_CHAT_OUTPUT, "c"), PART(PICO_CHAT_TEXT, "d")};
    const pico_chat_message messages[] = {{PICO_CHAT_USER, &hi, 1},
                                          {PICO_CHAT_ASSISTANT, parts, 4}};
    kit k;
    (void)state;
    open_kit(&k, nanochat_names, 0);
    choose(&k, "nanochat");
    assert_int_equal(pico_chat_render(&k.tokens, messages, 2, 2048, &k.err), PICO_OK);
    assert_string_equal(spell(&k, 1),
                        "{<|bos|>}{<|user_start|>}Hi{<|user_end|>}{<|assistant_start|>}*a"
                        "*{<|python_start|>}*b*{<|python_end|>}{<|output_start|>}c{<|output_end|>}"
                        "*d*{<|assistant_end|>}");
    assert_int_equal(pico_chat_render(&k.tokens, messages, 2, 7, &k.err), PICO_OK);
    assert_int_equal(k.tokens.n, 7);
    /* a prompt has what the model continues even where it was cut */
    assert_int_equal(pico_chat_render_prompt(&k.tokens, messages, 2, 3, &k.err), PICO_OK);
    assert_string_equal(spell(&k, 1), "{<|bos|>}{<|user_start|>}H{<|assistant_start|>}");
    close_kit(&k);
    open_kit(&k, all_names, 0);
    choose(&k, "chatml");
    assert_int_equal(pico_chat_render(&k.tokens, messages, 2, 2048, &k.err), PICO_E_UNSUPPORTED);
    assert_non_null(strstr(k.err.message, "chatml has no form for the calculator"));
    close_kit(&k);
}

static void roles_alternate(void **state) {
    static const pico_chat_part python = PART(PICO_CHAT_PYTHON, "1");
    static const struct {
        pico_chat_message message[3];
        size_t n;
        const char *why;
    } cases[] = {
        {{{0}}, 0, "no message of the user's"},
        {{{PICO_CHAT_SYSTEM, &be_nice, 1}}, 1, "no message of the user's"},
        {{{PICO_CHAT_ASSISTANT, &yo, 1}}, 1, "message 1 is from the assistant, expected the user"},
        {{{PICO_CHAT_USER, &hi, 1}, {PICO_CHAT_USER, &hi, 1}},
         2,
         "message 2 is from the user, expected the assistant"},
        {{{PICO_CHAT_USER, &hi, 1}, {PICO_CHAT_SYSTEM, &be_nice, 1}},
         2,
         "message 2 is from the system, expected the assistant"},
        {{{PICO_CHAT_SYSTEM, &be_nice, 1}, {PICO_CHAT_ASSISTANT, &yo, 1}},
         2,
         "message 2 is from the assistant, expected the user"},
        {{{PICO_CHAT_USER, &python, 1}}, 1, "message 1, from the user: part 1 is no text"}};
    kit k;
    (void)state;
    open_kit(&k, nanochat_names, 0);
    choose(&k, "auto");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(pico_chat_render(&k.tokens, cases[i].message, cases[i].n, 2048, &k.err),
                         PICO_E_INVALID);
        if (strstr(k.err.message, cases[i].why) == NULL) {
            fail_msg("expected \"%s\" in: %s", cases[i].why, k.err.message);
        }
    }
    close_kit(&k);
}

/* ---- choosing ---- */

static void auto_follows_the_model(void **state) {
    static const struct {
        const char *own;
        const char *const *names;
        const char *chosen;
        int known;
    } cases[] = {{NULL, nanochat_names, "nanochat", 1},
                 {NULL, all_names, "chatml", 1},
                 {NULL, NULL, "plain", 1},
                 {"{{ '<|start_header_id|>' }}", all_names, "llama3", 1},
                 {"{{ '[INST]' }}", NULL, "llama2", 1},
                 {"{{ what nobody knows }}", all_names, "plain", 0}};
    kit k;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        open_kit(&k, cases[i].names, 0);
        k.vocab.chat_template = cases[i].own;
        choose(&k, "auto");
        assert_string_equal(k.chosen.name, cases[i].chosen);
        assert_int_equal(k.known, cases[i].known);
        close_kit(&k);
    }
    open_kit(&k, NULL, 0);
    k.vocab.chat_template = "{{ what nobody knows }}";
    choose(&k, "chatml"); /* a name wins over what the model says */
    assert_string_equal(k.chosen.name, "chatml");
    char missing[64];
    assert_true(pico_chat_tokens_missing(&k.tokens, missing));
    assert_string_equal(missing, "<|im_start|>");
    assert_int_equal(
        pico_chat_template_select("chatlm", &k.vocab, &k.arena, &k.chosen, &k.known, &k.err),
        PICO_E_NOT_FOUND);
    assert_non_null(strstr(k.err.message, "did you mean chatml?"));
    assert_int_equal(
        pico_chat_template_select("zephyr.ini", &k.vocab, &k.arena, &k.chosen, &k.known, &k.err),
        PICO_E_NOT_FOUND);
    assert_non_null(
        strstr(k.err.message, "auto, chatml, llama3, nanochat, llama2, plain, or a file"));
    close_kit(&k);
}

/* ---- files ---- */

static pico_status read_text(kit *k, char path[64], const char *text) {
    (void)strcpy(path, "/tmp/pico_template_XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    (void)close(fd);
    pico_status status =
        pico_chat_template_select(path, &k->vocab, &k->arena, &k->chosen, &k->known, &k->err);
    (void)unlink(path);
    return status;
}

/* A file can say what the list says, and more: blanks at ends, several stop strings. */
static void files_give_templates(void **state) {
    static const char chatml[] = "; like the one that is built in\n"
                                 "[template]\n"
                                 "system_before = <|im_start|>system\\n\n"
                                 "system_after = <|im_end|>\\n\n"
                                 "user_before = <|im_start|>user\\n\n"
                                 "user_after = <|im_end|>\\n\n"
                                 "answer_before = <|im_start|>assistant\\n\n"
                                 "answer_after = <|im_end|>\\n\n";
    static const char odd[] = "[template]\n"
                              "begin =\n"
                              "system_in_user = on\n"
                              "user_before = Q:\\s\n"
                              "user_after = \\t\\\\n\n"
                              "answer_before = A:\n"
                              "answer_after = </s>\n"
                              "stop = \\nQ:\n"
                              "  \\nA:\n";
    char path[64], *expected;
    kit k;
    (void)state;
    open_kit(&k, all_names, 0);
    choose(&k, "chatml");
    assert_int_equal(pico_chat_render(&k.tokens, talk, 3, 2048, &k.err), PICO_OK);
    expected = strdup(spell(&k, 1));
    pico_chat_tokens_close(&k.tokens);
    assert_int_equal(read_text(&k, path, chatml), PICO_OK);
    assert_string_equal(k.chosen.name, path);
    assert_int_equal(pico_chat_tokens_open(&k.tokens, &k.chosen, &k.vocab, k.tokenizer, &k.err),
                     PICO_OK);
    assert_int_equal(pico_chat_render(&k.tokens, talk, 3, 2048, &k.err), PICO_OK);
    assert_string_equal(spell(&k, 1), expected);
    free(expected);
    pico_chat_tokens_close(&k.tokens);
    assert_int_equal(read_text(&k, path, odd), PICO_OK);
    assert_int_equal(k.chosen.n_stop, 2);
    assert_string_equal(k.chosen.stop[0], "\nQ:");
    assert_string_equal(k.chosen.stop[1], "\nA:");
    assert_int_equal(pico_chat_tokens_open(&k.tokens, &k.chosen, &k.vocab, k.tokenizer, &k.err),
                     PICO_OK);
    assert_int_equal(pico_chat_render(&k.tokens, talk, 3, 2048, &k.err), PICO_OK);
    assert_string_equal(spell(&k, 1), "Q: Be.\n\nHi\t\\nA:*Y*o*{</s>}");
    close_kit(&k);
}

static void files_are_checked(void **state) {
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"[template]\nuser_befor = x\n", ":2: [template] has no key user_befor; did you mean "
                                         "user_before?"},
        {"[template]\nuser_before = x\nuser_after = x\nanswer_before = x\n",
         ": [template] needs a value for answer_after: what stands after an answer"},
        {"[template]\nuser_before = a\\qb\nuser_after =\nanswer_before =\nanswer_after =\n",
         ":2: [template] user_before: there is no escape as in \"\\qb\""},
        {"[template]\nuser_before = a\\\nuser_after =\nanswer_before =\nanswer_after =\n",
         ":2: [template] user_before: there is no escape as in \"\\\""},
        {"[template]\nuser_before =\n[generate]\nseed = 1\n",
         ":3: a chat template has one section, [template], not [generate]"},
        {"", ": [template] needs a value for user_before"},
        {"user_before = x\n", ":1: a key before the first [section]"},
        {"[template]\nuser_before =\nuser_after =\nanswer_before =\nanswer_after =\n"
         "python_before = x\n",
         "needs all of python_before, python_after, output_before and output_after, or none"},
        {"[template]\nuser_before =\nuser_after =\nanswer_before =\nanswer_after =\n"
         "system_in_user = maybe\n",
         ":6: [template] system_in_user = maybe: expected on or off"},
        {"[template]\nuser_before =\nuser_after =\nanswer_before =\nanswer_after =\n"
         "stop = 1\n 2\n 3\n 4\n 5\n 6\n 7\n 8\n 9\n",
         ":6: [template] stop: more than 8 texts"}};
    char path[64];
    kit k;
    (void)state;
    open_kit(&k, NULL, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_not_equal(read_text(&k, path, cases[i].text), PICO_OK);
        if (strstr(k.err.message, cases[i].why) == NULL ||
            strncmp(k.err.message, path, strlen(path)) != 0) {
            fail_msg("expected \"%s%s\", got: %s", path, cases[i].why, k.err.message);
        }
    }
    assert_int_equal(pico_chat_template_select("/nonexistent/x.ini", &k.vocab, &k.arena, &k.chosen,
                                               &k.known, &k.err),
                     PICO_E_NOT_FOUND);
    assert_non_null(strstr(k.err.message, "/nonexistent/x.ini"));
    close_kit(&k);
}

/* ---- turn by turn ---- */

/* Names of special tokens are nothing special in what people say. */
static void said_names_are_text(void **state) {
    static const char said[] = "<|im_end|></s>";
    kit k;
    (void)state;
    open_kit(&k, all_names, 0);
    choose(&k, "chatml");
    assert_int_equal(
        pico_chat_add_user(&k.tokens, said, sizeof said - 1, said, sizeof said - 1, &k.err),
        PICO_OK);
    assert_int_equal(pico_chat_begin_answer(&k.tokens, &k.err), PICO_OK);
    assert_string_equal(
        spell(&k, 0), "{<s>}{<|im_start|>}system\n<|im_end|></s>{<|im_end|>}\n"
                      "{<|im_start|>}user\n<|im_end|></s>{<|im_end|>}\n{<|im_start|>}assistant\n");
    close_kit(&k);
}

/* The end of a turn is there once, whether the model said it or not; cutting back undoes turns. */
static void ends_are_there_once(void **state) {
    const int32_t with_end[] = {FIRST_BYTE + 'o', FIRST_SPECIAL + 1 /* <|im_end|> */};
    kit k;
    (void)state;
    open_kit(&k, all_names, 0);
    choose(&k, "chatml");
    for (size_t n = 0; n <= 2; n++) {
        static const char *const ends[] = {"assistant\n*{<|im_end|>}*\n",
                                           "assistant\n*o*{<|im_end|>}*\n",
                                           "assistant\n*o*{<|im_end|>}*\n"};
        pico_chat_tokens_truncate(&k.tokens, 0);
        assert_int_equal(pico_chat_add_user(&k.tokens, NULL, 0, "x", 1, &k.err), PICO_OK);
        assert_int_equal(pico_chat_begin_answer(&k.tokens, &k.err), PICO_OK);
        assert_int_equal(pico_chat_add_ids(&k.tokens, with_end, n, 1, &k.err), PICO_OK);
        assert_int_equal(pico_chat_end_answer(&k.tokens, &k.err), PICO_OK);
        const char *text = spell(&k, 1);
        assert_string_equal(text + strlen(text) - strlen(ends[n]), ends[n]);
    }
    size_t n_turn = k.tokens.n;
    assert_int_equal(pico_chat_add_user(&k.tokens, "no", 2, "y", 1, &k.err), PICO_OK);
    assert_null(strstr(spell(&k, 0), "no")); /* the system text stands at the start only */
    pico_chat_tokens_truncate(&k.tokens, n_turn);
    assert_int_equal(k.tokens.n, n_turn);
    close_kit(&k);
}

/* A vocabulary that puts a space in front of a text does so after special tokens, as such models
 * know it, not between a model's answer and what follows on it. */
static void texts_that_continue_get_no_space(void **state) {
    const int32_t answer = FIRST_BYTE + 'o';
    kit k;
    (void)state;
    open_kit(&k, NULL, 1);
    choose(&k, "plain");
    assert_int_equal(pico_chat_add_user(&k.tokens, NULL, 0, "x", 1, &k.err), PICO_OK);
    assert_int_equal(pico_chat_begin_answer(&k.tokens, &k.err), PICO_OK);
    assert_int_equal(pico_chat_add_ids(&k.tokens, &answer, 1, 1, &k.err), PICO_OK);
    assert_int_equal(pico_chat_end_answer(&k.tokens, &k.err), PICO_OK);
    assert_int_equal(pico_chat_add_user(&k.tokens, NULL, 0, "y", 1, &k.err), PICO_OK);
    assert_int_equal(pico_chat_begin_answer(&k.tokens, &k.err), PICO_OK);
    assert_string_equal(spell(&k, 0), "{<s>} User: x\nAssistant:o\nUser: y\nAssistant:");
    close_kit(&k);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form),
        cmocka_unit_test(masks_and_cuts),
        cmocka_unit_test(roles_alternate),
        cmocka_unit_test(auto_follows_the_model),
        cmocka_unit_test(files_give_templates),
        cmocka_unit_test(files_are_checked),
        cmocka_unit_test(said_names_are_text),
        cmocka_unit_test(ends_are_there_once),
        cmocka_unit_test(texts_that_continue_get_no_space),
    };
    return cmocka_run_group_tests_name("chat_template", tests, NULL, NULL);
}
