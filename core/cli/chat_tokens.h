/*
 * A conversation as tokens. One object holds the timeline and what of it a model is trained to say;
 * turns are added at its end, and it can be cut back. What a model really produced goes in as its
 * token ids, because another way of writing the same text would not be what its KV pages hold.
 *
 * Texts are encoded on their own: between special tokens, and wherever the mask changes or a part
 * ends. The names of special tokens count only in the template's own texts, never in what people or
 * models say.
 */
#ifndef PICO_CLI_CHAT_TOKENS_H
#define PICO_CLI_CHAT_TOKENS_H

#include "cli/chat_template.h"
#include "tokenizer/tokenizer.h"
#include "util/text.h"

enum { PICO_CHAT_SYSTEM = 1, PICO_CHAT_USER = 2, PICO_CHAT_ASSISTANT = 3 };
enum { PICO_CHAT_TEXT = 1, PICO_CHAT_PYTHON = 2, PICO_CHAT_OUTPUT = 3 };
enum { PICO_CHAT_SPECIALS = 64 };

typedef struct pico_chat_part {
    uint32_t type; /* PICO_CHAT_TEXT, an expression, or its value */
    const char *text;
    size_t n;
} pico_chat_part;

typedef struct pico_chat_message {
    uint32_t role;              /* PICO_CHAT_SYSTEM, _USER or _ASSISTANT */
    const pico_chat_part *part; /* (n_part); only an assistant's may be other than text */
    size_t n_part;
} pico_chat_message;

/* A special token that the template names. */
typedef struct pico_chat_special {
    const char *text; /* (n) in the vocabulary */
    uint32_t n;
    int32_t id;
} pico_chat_special;

typedef struct pico_chat_tokens {
    const pico_chat_template *chat_template; /* borrowed, as the next two */
    const pico_vocab *vocab;
    const pico_tokenizer *tokenizer;
    int32_t *ids;  /* (n) */
    uint8_t *mask; /* (n) 1: the model is trained to say it */
    size_t n, capacity;
    size_t answer_begin; /* where the last answer begins */
    pico_chat_special special[PICO_CHAT_SPECIALS];
    uint32_t n_special;
    pico_string text; /* not yet encoded */
    uint8_t text_mask;
    uint8_t continues; /* 1: the tokens end with text, which what comes next continues */
} pico_chat_tokens;

/* Finds the special tokens; PICO_E_LIMIT if a template names more than there is room for. After
 * that, and for a zeroed struct, close is safe. */
pico_status pico_chat_tokens_open(pico_chat_tokens *tokens, const pico_chat_template *chat_template,
                                  const pico_vocab *vocab, const pico_tokenizer *tokenizer,
                                  pico_error *err);
void pico_chat_tokens_close(pico_chat_tokens *tokens);
/* Cuts the timeline back to n tokens. */
void pico_chat_tokens_truncate(pico_chat_tokens *tokens, size_t n);

/* The token that a text of the template is, whole, or, with begins = 1, begins with; -1: none. */
int32_t pico_chat_token(const pico_chat_tokens *tokens, const char *literal, int begins);
/* A name like <|this|> in the template that the vocabulary has no token for, so that it is spelt
 * out in text; 0 if there is none. Texts of the calculator do not count. */
int pico_chat_tokens_missing(const pico_chat_tokens *tokens, char out[64]);

/* ---- turns. Only PICO_E_NOMEM and failures of encoding. After a failure cut back. ---- */

/* What the user says, with all that stands around it. At the very start that includes the begin of
 * the conversation and the system text (n_system 0: none). */
pico_status pico_chat_add_user(pico_chat_tokens *tokens, const char *system, size_t n_system,
                               const char *text, size_t n, pico_error *err);
/* What the model continues. */
pico_status pico_chat_begin_answer(pico_chat_tokens *tokens, pico_error *err);
/* Ids as a model or the calculator gave them. */
pico_status pico_chat_add_ids(pico_chat_tokens *tokens, const int32_t *ids, size_t n, uint8_t mask,
                              pico_error *err);
/* A part of an answer. PICO_E_UNSUPPORTED when the template has no form for it. */
pico_status pico_chat_add_part(pico_chat_tokens *tokens, const pico_chat_part *part,
                               pico_error *err);
/* What stands after an answer; its first token is not repeated if the answer ends with it. */
pico_status pico_chat_end_answer(pico_chat_tokens *tokens, pico_error *err);

/* ---- whole conversations, into empty tokens ---- */

/* Renders messages, as for training: an optional system message first, then user and assistant in
 * turn, beginning with the user. Cut to max_tokens. PICO_E_INVALID when roles or parts are in the
 * wrong place. */
pico_status pico_chat_render(pico_chat_tokens *tokens, const pico_chat_message *messages, size_t n,
                             size_t max_tokens, pico_error *err);
/* The same as a prompt: without the last message if that is the assistant's, and with what the model
 * continues, which may come as one more than max_tokens. */
pico_status pico_chat_render_prompt(pico_chat_tokens *tokens, const pico_chat_message *messages,
                                    size_t n, size_t max_tokens, pico_error *err);

#endif
