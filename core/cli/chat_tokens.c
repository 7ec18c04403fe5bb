/* A conversation as tokens, turn by turn; see chat_tokens.h. */
#include "cli/chat_tokens.h"

#include <stdlib.h>
#include <string.h>

/* ---- special tokens of the template ---- */

/* The special token whose name begins at text, or -1; the longest one if there are several. */
static int32_t special_in(const pico_vocab *vocab, const char *text, size_t n, size_t *length) {
    int32_t best = -1;
    *length = 0;
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        const pico_piece *piece = &vocab->piece[i];
        int special = piece->type == PICO_PIECE_CONTROL || piece->type == PICO_PIECE_USER;
        if (special && piece->n > *length && piece->n <= n &&
            memcmp(piece->text, text, piece->n) == 0) {
            best = (int32_t)i;
            *length = piece->n;
        }
    }
    return best;
}

/* The same among those that the template names. */
static int32_t special_at(const pico_chat_tokens *tokens, const char *text, size_t *length) {
    size_t n = strlen(text);
    int32_t best = -1;
    *length = 0;
    for (uint32_t i = 0; i < tokens->n_special; i++) {
        const pico_chat_special *special = &tokens->special[i];
        if (special->n > *length && special->n <= n &&
            memcmp(special->text, text, special->n) == 0) {
            best = special->id;
            *length = special->n;
        }
    }
    return best;
}

static pico_status find_specials(pico_chat_tokens *tokens, const char *literal, pico_error *err) {
    size_t length;
    for (const char *at = literal; at != NULL && *at != '\0'; at++) {
        int32_t id = *at == '<' ? special_in(tokens->vocab, at, strlen(at), &length) : -1;
        if (id < 0 || special_at(tokens, at, &length) == id) {
            continue;
        }
        if (tokens->n_special == PICO_CHAT_SPECIALS) {
            return pico_fail(err, PICO_E_LIMIT,
                             "chat template %s names more than %d special tokens",
                             tokens->chat_template->name, PICO_CHAT_SPECIALS);
        }
        const pico_piece *piece = &tokens->vocab->piece[id];
        tokens->special[tokens->n_special++] =
            (pico_chat_special){.text = piece->text, .n = piece->n, .id = id};
    }
    return PICO_OK;
}

pico_status pico_chat_tokens_open(pico_chat_tokens *tokens, const pico_chat_template *chat_template,
                                  const pico_vocab *vocab, const pico_tokenizer *tokenizer,
                                  pico_error *err) {
    const pico_chat_template *t = chat_template;
    const char *const literals[] = {t->begin,         t->system_before, t->system_after,
                                    t->user_before,   t->user_after,    t->answer_before,
                                    t->answer_after,  t->python_before, t->python_after,
                                    t->output_before, t->output_after};
    pico_status status = PICO_OK;
    *tokens =
        (pico_chat_tokens){.chat_template = chat_template, .vocab = vocab, .tokenizer = tokenizer};
    for (size_t i = 0; i < sizeof literals / sizeof *literals && status == PICO_OK; i++) {
        status = find_specials(tokens, literals[i], err);
    }
    return status;
}

void pico_chat_tokens_close(pico_chat_tokens *tokens) {
    free(tokens->ids);
    free(tokens->mask);
    free(tokens->text.data);
    *tokens = (pico_chat_tokens){0};
}

int32_t pico_chat_token(const pico_chat_tokens *tokens, const char *literal, int begins) {
    size_t length;
    int32_t id = literal == NULL ? -1 : special_at(tokens, literal, &length);
    return id >= 0 && (begins || literal[length] == '\0') ? id : -1;
}

int pico_chat_tokens_missing(const pico_chat_tokens *tokens, char out[64]) {
    const pico_chat_template *t = tokens->chat_template;
    const char *const literals[] = {t->begin,       t->system_before, t->system_after,
                                    t->user_before, t->user_after,    t->answer_before,
                                    t->answer_after};
    size_t length;
    for (size_t i = 0; i < sizeof literals / sizeof *literals; i++) {
        const char *at = literals[i] == NULL ? NULL : strstr(literals[i], "<|");
        for (; at != NULL; at = strstr(at + 1, "<|")) {
            const char *end = strstr(at, "|>");
            if (end != NULL && special_at(tokens, at, &length) < 0) {
                (void)snprintf(out, 64, "%.*s", (int)(end + 2 - at < 63 ? end + 2 - at : 63), at);
                return 1;
            }
        }
    }
    return 0;
}

/* ---- the timeline ---- */

static pico_status fail_memory(pico_error *err) {
    return pico_fail(err, PICO_E_NOMEM, "out of memory for the conversation");
}

void pico_chat_tokens_truncate(pico_chat_tokens *tokens, size_t n) {
    tokens->n = n < tokens->n ? n : tokens->n;
    tokens->text.n = 0;
    tokens->continues =
        tokens->n != 0 && !pico_tokenizer_is_control(tokens->tokenizer, tokens->ids[tokens->n - 1]);
}

static pico_status append_ids(pico_chat_tokens *tokens, const int32_t *ids, size_t n, uint8_t mask,
                              pico_error *err) {
    if (tokens->capacity - tokens->n < n) {
        size_t capacity = 2 * tokens->capacity + n + 64;
        int32_t *ids_grown = realloc(tokens->ids, capacity * sizeof *ids_grown);
        if (ids_grown == NULL) {
            return fail_memory(err);
        }
        tokens->ids = ids_grown;
        uint8_t *mask_grown = realloc(tokens->mask, capacity);
        if (mask_grown == NULL) {
            return fail_memory(err);
        }
        tokens->mask = mask_grown;
        tokens->capacity = capacity;
    }
    if (n != 0) {
        memcpy(tokens->ids + tokens->n, ids, n * sizeof *ids);
        memset(tokens->mask + tokens->n, mask, n);
        tokens->n += n;
    }
    return PICO_OK;
}

/* Encodes the text that was collected. */
static pico_status flush(pico_chat_tokens *tokens, pico_error *err) {
    int32_t *ids = NULL;
    size_t n = 0;
    if (tokens->text.n == 0) {
        return PICO_OK;
    }
    pico_status status =
        pico_tokenizer_encode(tokens->tokenizer, tokens->text.data, tokens->text.n,
                              tokens->continues ? PICO_ENCODE_CONTINUES : 0, &ids, &n, err);
    if (status == PICO_OK) {
        status = append_ids(tokens, ids, n, tokens->text_mask, err);
    }
    free(ids);
    tokens->text.n = 0;
    tokens->continues = 1;
    return status;
}

static pico_status add_text(pico_chat_tokens *tokens, const char *text, size_t n, uint8_t mask,
                            pico_error *err) {
    if (n == 0) {
        return PICO_OK;
    }
    if (mask != tokens->text_mask) {
        pico_status status = flush(tokens, err);
        if (status != PICO_OK) {
            return status;
        }
    }
    if (!pico_string_add(&tokens->text, text, n)) {
        return fail_memory(err);
    }
    tokens->text_mask = mask;
    return PICO_OK;
}

/* A text of the template: names of special tokens become those tokens. */
static pico_status add_literal(pico_chat_tokens *tokens, const char *text, uint8_t mask,
                               pico_error *err) {
    pico_status status = PICO_OK;
    size_t length;
    for (const char *at = text; status == PICO_OK && *at != '\0'; at += length) {
        int32_t id = special_at(tokens, at, &length);
        if (id < 0) {
            length = 1;
            status = add_text(tokens, at, 1, mask, err);
            continue;
        }
        status = flush(tokens, err);
        status = status == PICO_OK ? append_ids(tokens, &id, 1, mask, err) : status;
        tokens->continues = 0;
    }
    return status;
}

pico_status pico_chat_add_ids(pico_chat_tokens *tokens, const int32_t *ids, size_t n, uint8_t mask,
                              pico_error *err) {
    pico_status status = flush(tokens, err);
    if (status == PICO_OK && n != 0) {
        status = append_ids(tokens, ids, n, mask, err);
        tokens->continues = (uint8_t)!pico_tokenizer_is_control(tokens->tokenizer, ids[n - 1]);
    }
    return status;
}

/* ---- turns ---- */

static pico_status add_begin(pico_chat_tokens *tokens, pico_error *err) {
    int32_t bos = pico_tokenizer_bos(tokens->tokenizer);
    if (tokens->chat_template->begin != NULL) {
        return add_literal(tokens, tokens->chat_template->begin, 0, err);
    }
    return bos >= 0 && pico_tokenizer_adds_bos(tokens->tokenizer)
               ? append_ids(tokens, &bos, 1, 0, err)
               : PICO_OK;
}

static pico_status add_system(pico_chat_tokens *tokens, const char *system, size_t n,
                              pico_error *err) {
    const pico_chat_template *t = tokens->chat_template;
    if (n == 0) {
        return PICO_OK;
    }
    pico_status status = add_literal(tokens, t->system_before, 0, err);
    status = status == PICO_OK ? add_text(tokens, system, n, 0, err) : status;
    return status == PICO_OK ? add_literal(tokens, t->system_after, 0, err) : status;
}

pico_status pico_chat_add_user(pico_chat_tokens *tokens, const char *system, size_t n_system,
                               const char *text, size_t n, pico_error *err) {
    const pico_chat_template *t = tokens->chat_template;
    int first = tokens->n == 0;
    pico_status status = first ? add_begin(tokens, err) : PICO_OK;
    if (status == PICO_OK && first && !t->system_in_user) {
        status = add_system(tokens, system, n_system, err);
    }
    status = status == PICO_OK ? add_literal(tokens, t->user_before, 0, err) : status;
    if (status == PICO_OK && first && t->system_in_user) {
        status = add_system(tokens, system, n_system, err);
    }
    status = status == PICO_OK ? add_text(tokens, text, n, 0, err) : status;
    status = status == PICO_OK ? add_literal(tokens, t->user_after, 0, err) : status;
    return status;
}

pico_status pico_chat_begin_answer(pico_chat_tokens *tokens, pico_error *err) {
    pico_status status = add_literal(tokens, tokens->chat_template->answer_before, 0, err);
    status = status == PICO_OK ? flush(tokens, err) : status;
    tokens->answer_begin = tokens->n;
    return status;
}

pico_status pico_chat_add_part(pico_chat_tokens *tokens, const pico_chat_part *part,
                               pico_error *err) {
    const pico_chat_template *t = tokens->chat_template;
    const char *before = part->type == PICO_CHAT_PYTHON   ? t->python_before
                         : part->type == PICO_CHAT_OUTPUT ? t->output_before
                                                          : "";
    const char *after = part->type == PICO_CHAT_PYTHON   ? t->python_after
                        : part->type == PICO_CHAT_OUTPUT ? t->output_after
                                                         : "";
    uint8_t mask = part->type != PICO_CHAT_OUTPUT;
    if (before == NULL || after == NULL) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "chat template %s has no form for the calculator's expressions and values",
                         t->name);
    }
    pico_status status = add_literal(tokens, before, mask, err);
    status = status == PICO_OK ? add_text(tokens, part->text, part->n, mask, err) : status;
    status = status == PICO_OK ? add_literal(tokens, after, mask, err) : status;
    return status == PICO_OK ? flush(tokens, err) : status;
}

pico_status pico_chat_end_answer(pico_chat_tokens *tokens, pico_error *err) {
    const char *after = tokens->chat_template->answer_after;
    size_t length;
    int32_t end = special_at(tokens, after, &length);
    if (end >= 0 && tokens->text.n == 0 && tokens->n > tokens->answer_begin &&
        tokens->ids[tokens->n - 1] == end) {
        after += length;
    }
    pico_status status = add_literal(tokens, after, 1, err);
    return status == PICO_OK ? flush(tokens, err) : status;
}
