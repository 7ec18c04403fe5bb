/*
 * What a running `chat` holds, and its loop: reading messages, commands, answers. cmd_chat.c opens
 * and closes it.
 */
#ifndef PICO_CLI_CHAT_LOOP_H
#define PICO_CLI_CHAT_LOOP_H

#include "cli/chat_turn.h"
#include "cli/cli.h"
#include "cli/line_input.h"

/* Where an exchange begins and where its answer does, in tokens. */
typedef struct pico_chat_exchange {
    size_t begin, answer;
} pico_chat_exchange;

typedef struct pico_chat_state {
    const pico_cli *cli;
    pico_line_input *input;
    pico_runtime runtime;
    int runtime_open;
    pico_decode *decode;
    pico_arena arena;
    pico_chat_template chat_template;
    pico_chat_tokens tokens;
    pico_chat_tool tool;
    int has_tool;
    uint32_t show_calls;
    char *system;                 /* malloc-ed */
    pico_chat_exchange *exchange; /* (n_exchange) */
    size_t n_exchange, capacity;
    char *message;     /* malloc-ed; what was typed, lines joined */
    const char **stop; /* (n_stop) malloc-ed: those of [generate] and the template's */
    size_t n_stop;
    int64_t max_tokens; /* of one answer */
    uint32_t n_answers;
    int output_error;
    char figures[512];   /* of the last answer */
    int drafts_reported; /* 1: it was said that no draft is ever right */
    pico_error err;
} pico_chat_state;

/* What the model is told; NULL: nothing. */
pico_status pico_chat_set_system(pico_chat_state *chat, const char *text);
/* Says `first` (may be NULL) and then what is typed, until the end; returns the exit code and has
 * printed what went wrong. */
int pico_chat_converse(pico_chat_state *chat, const char *first);

#endif
