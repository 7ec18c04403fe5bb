/*
 * One answer in a conversation. Tokens go in up to where the model answers and come out with the
 * answer as it was produced, id by id, and what stands after it, so that the next turn finds its KV
 * pages. While the answer is made, the calculator may be called.
 *
 * What stays of an answer: everything up to its end token, which is there exactly once, whatever
 * ended the answer; a foreign end token (BOS, end of text) makes place for the template's. After a
 * stop string what was shown stays: tokens of the stop text go, and of a token that the stop text
 * begins inside of, the part before it is written anew.
 */
#ifndef PICO_CLI_CHAT_TURN_H
#define PICO_CLI_CHAT_TURN_H

#include "cli/answer.h"
#include "cli/chat_tokens.h"

typedef struct pico_chat_tool {
    int32_t python_start, python_end; /* around what the model wants to know */
} pico_chat_tool;

/* 1 if each text around expressions and values is one special token. */
int pico_chat_tool_find(const pico_chat_tokens *tokens, pico_chat_tool *out);

enum { PICO_CHAT_HIDE_CALLS = 0, PICO_CHAT_SHOW_CALLS = 1, PICO_CHAT_DIM_CALLS = 2 };

typedef struct pico_chat_turn {
    pico_decode *decode; /* its slot 0 is used */
    pico_chat_tokens *tokens;
    pico_answer *out;           /* opened with keep = 1 */
    pico_log *log;              /* calls are mentioned at level debug */
    const pico_chat_tool *tool; /* NULL: none */
    uint32_t show;              /* PICO_CHAT_x_CALLS: whether calls appear in the text, [2+2 = 4] */
    pico_request request; /* seed, sample, ignore_end, stop strings, and max_tokens of the whole
                                   answer, values of calls included */
    uint32_t finish;      /* result: PICO_FINISH_x of the answer */
} pico_chat_turn;

/* Makes one answer; tokens end with what the model continues, and afterwards with what stands behind
 * the answer. PICO_E_LIMIT: the conversation does not fit the context, nothing was produced. Ctrl-C
 * is no failure. After a failure cut the tokens back. */
pico_status pico_chat_turn_run(pico_chat_turn *turn, pico_error *err);

#endif
