/*
 * How a conversation becomes tokens: a closed list of templates, as data. The one that the model
 * file's own (Jinja) template is written in is recognised by its marks; a model without a known one
 * gets a plain transcript. Jinja itself is not interpreted. The names of special tokens count only
 * in the templates' own text, never in what people say.
 */
#ifndef PICO_CLI_CHAT_TEMPLATE_H
#define PICO_CLI_CHAT_TEMPLATE_H

#include "formats/model_file.h"
#include "tokenizer/tokenizer.h"

typedef struct pico_chat_template {
    const char *name;
    const char *mark; /* what the model's template contains; NULL: the plain transcript */
    const char *system_before, *system_after;
    const char *user_before, *user_after;
    const char *answer_before, *answer_after; /* answer_before is what the model continues */
    uint32_t system_in_user; /* 1: the system text stands inside the first user turn */
    const char *stop;        /* ends an answer besides the end tokens; NULL: none */
} pico_chat_template;

/* *known gets 0 if the vocabulary has a template that is none of the list. */
const pico_chat_template *pico_chat_template_for(const pico_vocab *vocab, int *known);

enum { PICO_CHAT_USER = 1, PICO_CHAT_ANSWER = 2 };
typedef struct pico_chat_message {
    uint32_t role; /* PICO_CHAT_x */
    char *text;
    size_t n;
} pico_chat_message;

/* The tokens of a conversation, up to where the model answers. *ids is malloc-ed. */
pico_status pico_chat_render(const pico_chat_template *chat_template, const pico_vocab *vocab,
                             const pico_tokenizer *tokenizer, const char *system,
                             const pico_chat_message *messages, size_t n, int32_t **ids,
                             size_t *n_ids, pico_error *err);

#endif
