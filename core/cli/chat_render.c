/* Whole conversations; see chat_tokens.h. Refuses roles that do not alternate. */
#include "cli/chat_tokens.h"

#include <stdlib.h>
#include <string.h>

static const char *role_name(uint32_t role) {
    static const char *const names[] = {"?", "system", "user", "assistant"};
    return names[role <= PICO_CHAT_ASSISTANT ? role : 0];
}

/* Texts in turn as one; malloc-ed. */
static char *join(const pico_chat_message *message, size_t *n) {
    size_t used = 0;
    *n = 0;
    for (size_t i = 0; i < message->n_part; i++) {
        *n += message->part[i].n;
    }
    char *text = malloc(*n + 1);
    for (size_t i = 0; text != NULL && i < message->n_part; i++) {
        if (message->part[i].n != 0) {
            memcpy(text + used, message->part[i].text, message->part[i].n);
            used += message->part[i].n;
        }
    }
    return text;
}

static pico_status check(const pico_chat_message *messages, size_t n, pico_error *err) {
    size_t first = n != 0 && messages[0].role == PICO_CHAT_SYSTEM;
    if (n == first) {
        return pico_fail(err, PICO_E_INVALID,
                         "the conversation has no message of the user's; one is needed");
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t expected = i < first              ? PICO_CHAT_SYSTEM
                            : (i - first) % 2 == 0 ? PICO_CHAT_USER
                                                   : PICO_CHAT_ASSISTANT;
        if (messages[i].role != expected) {
            return pico_fail(
                err, PICO_E_INVALID,
                "message %zu is from the %s, expected the %s: after an optional system "
                "message user and assistant alternate, beginning with the user",
                i + 1, role_name(messages[i].role), role_name(expected));
        }
        for (size_t j = 0; j < messages[i].n_part && expected != PICO_CHAT_ASSISTANT; j++) {
            if (messages[i].part[j].type != PICO_CHAT_TEXT) {
                return pico_fail(err, PICO_E_INVALID,
                                 "message %zu, from the %s: part %zu is no text; only an assistant "
                                 "uses the calculator",
                                 i + 1, role_name(expected), j + 1);
            }
        }
    }
    return PICO_OK;
}

static pico_status add_answer(pico_chat_tokens *tokens, const pico_chat_message *message,
                              pico_error *err) {
    pico_status status = pico_chat_begin_answer(tokens, err);
    for (size_t i = 0; i < message->n_part && status == PICO_OK; i++) {
        status = pico_chat_add_part(tokens, &message->part[i], err);
    }
    return status == PICO_OK ? pico_chat_end_answer(tokens, err) : status;
}

static pico_status add_message(pico_chat_tokens *tokens, const char *system, size_t n_system,
                               const pico_chat_message *message, pico_error *err) {
    size_t n = 0;
    if (message->role == PICO_CHAT_ASSISTANT) {
        return add_answer(tokens, message, err);
    }
    char *text = join(message, &n);
    pico_status status = text == NULL
                             ? pico_fail(err, PICO_E_NOMEM, "out of memory for the conversation")
                             : pico_chat_add_user(tokens, system, n_system, text, n, err);
    free(text);
    return status;
}

pico_status pico_chat_render(pico_chat_tokens *tokens, const pico_chat_message *messages, size_t n,
                             size_t max_tokens, pico_error *err) {
    char *system = NULL;
    size_t n_system = 0;
    pico_status status = check(messages, n, err);
    int has_system = status == PICO_OK && messages[0].role == PICO_CHAT_SYSTEM;
    if (has_system) {
        system = join(&messages[0], &n_system);
        if (system == NULL) {
            status = pico_fail(err, PICO_E_NOMEM, "out of memory for the conversation");
        }
    }
    pico_chat_tokens_truncate(tokens, 0);
    for (size_t i = (size_t)has_system; i < n && status == PICO_OK; i++) {
        status = add_message(tokens, system, n_system, &messages[i], err);
    }
    status = status == PICO_OK ? pico_chat_add_ids(tokens, NULL, 0, 0, err) : status;
    if (status == PICO_OK) {
        pico_chat_tokens_truncate(tokens, max_tokens);
    }
    free(system);
    return status;
}

pico_status pico_chat_render_prompt(pico_chat_tokens *tokens, const pico_chat_message *messages,
                                    size_t n, size_t max_tokens, pico_error *err) {
    n -= n != 0 && messages[n - 1].role == PICO_CHAT_ASSISTANT;
    pico_status status = pico_chat_render(tokens, messages, n, max_tokens, err);
    return status == PICO_OK ? pico_chat_begin_answer(tokens, err) : status;
}
