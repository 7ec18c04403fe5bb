/* layers: cli */
/* labels: golden */
/*
 * Conversations of the fixtures as tokens: ids, loss mask and the prompt for a completion, exactly
 * as the reference renders them, with every tokenizer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/chat_tokens.h"
#include "formats/reader.h"
#include "golden_kit.h"

enum { MAX_MESSAGES = 16, MAX_PARTS = 16 };

static size_t n_conversation, n_token, n_prompt;

typedef struct conversation {
    pico_chat_message message[MAX_MESSAGES];
    pico_chat_part part[MAX_MESSAGES][MAX_PARTS];
    size_t n;
} conversation;

static pico_chat_part part_of(const json_t *text, uint32_t type) {
    assert_true(json_is_string(text));
    return (pico_chat_part){
        .type = type, .text = json_string_value(text), .n = json_string_length(text)};
}

static uint32_t type_of(const char *name) {
    return strcmp(name, "text") == 0     ? PICO_CHAT_TEXT
           : strcmp(name, "python") == 0 ? PICO_CHAT_PYTHON
                                         : PICO_CHAT_OUTPUT;
}

static uint32_t role_of(const char *name) {
    return strcmp(name, "system") == 0 ? PICO_CHAT_SYSTEM
           : strcmp(name, "user") == 0 ? PICO_CHAT_USER
                                       : PICO_CHAT_ASSISTANT;
}

static void load(conversation *c, const json_t *messages) {
    json_t *message, *part;
    size_t i, j;
    c->n = json_array_size(messages);
    assert_in_range(c->n, 1, MAX_MESSAGES);
    json_array_foreach(messages, i, message) {
        const json_t *content = json_object_get(message, "content");
        pico_chat_message *out = &c->message[i];
        *out = (pico_chat_message){
            .role = role_of(json_string_value(json_object_get(message, "role"))),
            .part = c->part[i],
            .n_part = json_is_string(content) ? 1 : json_array_size(content)};
        assert_in_range(out->n_part, 1, MAX_PARTS);
        if (json_is_string(content)) {
            c->part[i][0] = part_of(content, PICO_CHAT_TEXT);
            continue;
        }
        json_array_foreach(content, j, part) {
            c->part[i][j] = part_of(json_object_get(part, "text"),
                                    type_of(json_string_value(json_object_get(part, "type"))));
        }
    }
}

static void same(const json_t *want, const pico_chat_tokens *got, const uint8_t *mask,
                 const char *what) {
    assert_int_equal(got->n, json_array_size(want));
    for (size_t i = 0; i < got->n; i++) {
        json_int_t value = json_integer_value(json_array_get(want, i));
        if (value != (mask != NULL ? mask[i] : got->ids[i])) {
            fail_msg("conversation %zu: %s %zu is %d, expected %lld", n_conversation, what, i,
                     mask != NULL ? mask[i] : got->ids[i], (long long)value);
        }
    }
}

static void compare(pico_chat_tokens *tokens, const json_t *entry) {
    static conversation c;
    pico_error err = {0};
    const json_t *prompt = json_object_get(entry, "completion_prompt_ids");
    size_t most = (size_t)json_integer_value(json_object_get(entry, "max_tokens"));
    load(&c, json_object_get(json_object_get(entry, "conversation"), "messages"));
    test_check(pico_chat_render(tokens, c.message, c.n, most, &err), &err);
    same(json_object_get(entry, "ids"), tokens, NULL, "token");
    same(json_object_get(entry, "mask"), tokens, tokens->mask, "mask");
    n_token += tokens->n;
    if (prompt != NULL) {
        test_check(pico_chat_render_prompt(tokens, c.message, c.n, most, &err), &err);
        same(prompt, tokens, NULL, "prompt token");
        n_prompt++;
    }
    n_conversation++;
}

static void compare_tokenizer(const json_t *entry) {
    char path[4096];
    pico_arena arena = {0};
    pico_vocab vocab;
    pico_tokenizer *tokenizer = NULL;
    pico_chat_template chosen;
    pico_chat_tokens tokens;
    pico_error err = {0};
    json_t *root = golden_json(NULL, json_string_value(json_object_get(entry, "chat"))), *each;
    int known;
    size_t i;
    golden_path(path, NULL, json_string_value(json_object_get(entry, "pkl")));
    test_check(pico_vocab_open(path, 0, &arena, &vocab, &err), &err);
    test_check(pico_tokenizer_open(&vocab, &tokenizer, &err), &err);
    test_check(pico_chat_template_select("auto", &vocab, &arena, &chosen, &known, &err), &err);
    assert_string_equal(chosen.name, "nanochat");
    test_check(pico_chat_tokens_open(&tokens, &chosen, &vocab, tokenizer, &err), &err);
    json_array_foreach(json_object_get(root, "conversations"), i, each) {
        compare(&tokens, each);
    }
    pico_chat_tokens_close(&tokens);
    pico_tokenizer_close(tokenizer);
    pico_arena_free(&arena);
    json_decref(root);
}

static void conversations_are_reproduced(void **state) {
    const char *name;
    json_t *manifest = golden_manifest(), *entry;
    (void)state;
    json_object_foreach(json_object_get(manifest, "tokenizers"), name, entry) {
        compare_tokenizer(entry);
    }
    json_decref(manifest);
    assert_true(n_conversation > 0 && n_prompt > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(conversations_are_reproduced)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)fflush(stderr);
    (void)printf("compared %zu conversations of %zu tokens, %zu prompts\n", n_conversation, n_token,
                 n_prompt);
    return failed;
}
