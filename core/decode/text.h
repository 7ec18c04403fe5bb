/*
 * The text of an answer as it is made: complete UTF-8 characters only, and never a part of a stop
 * string. Sized when opened; nothing is allocated afterwards.
 */
#ifndef PICO_DECODE_TEXT_H
#define PICO_DECODE_TEXT_H

#include "tokenizer/tokenizer.h"

typedef void (*pico_text_fn)(void *arg, const char *text, size_t n);

typedef struct pico_text_out {
    const pico_tokenizer *tokenizer; /* NULL: there is no text */
    pico_token_stream stream;
    char *pending; /* (capacity) decoded, not yet handed out */
    size_t n_pending, capacity;
    const char *const *stop; /* (n_stop) NUL-terminated, borrowed */
    size_t n_stop;
    pico_text_fn fn;
    void *arg;
} pico_text_out;

/* max_stop: bytes of the longest stop string that begin() will see. */
pico_status pico_text_open(pico_text_out *text, const pico_tokenizer *tokenizer, size_t max_stop,
                           pico_error *err);
void pico_text_close(pico_text_out *text);
/* prev: the token before the answer. fn gets the text piece by piece; it may be NULL. */
void pico_text_begin(pico_text_out *text, int32_t prev, const char *const *stop, size_t n_stop,
                     pico_text_fn fn, void *arg);
/* Adds a token; returns 1 if a stop string is complete: what precedes it has been handed out, and
 * the answer is over. */
int pico_text_add(pico_text_out *text, int32_t token);
/* Whether adding the token would complete a stop string. scratch: room for `capacity` bytes. */
int pico_text_would_stop(const pico_text_out *text, int32_t token, char *scratch);
/* Makes a text that hands out nothing the copy of another; both have been opened alike. */
void pico_text_copy(pico_text_out *to, const pico_text_out *from);
/* Hands out what is left. */
void pico_text_end(pico_text_out *text);

#endif
