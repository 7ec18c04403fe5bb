/* Holding back stop strings; see text.h. */
#include "decode/text.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

pico_status pico_text_open(pico_text_out *text, const pico_tokenizer *tokenizer, size_t max_stop,
                           pico_error *err) {
    *text = (pico_text_out){.tokenizer = tokenizer};
    if (tokenizer == NULL) {
        return PICO_OK;
    }
    text->capacity = max_stop + pico_tokenizer_max_piece(tokenizer) + 16;
    text->pending = malloc(text->capacity);
    return text->pending == NULL ? pico_fail(err, PICO_E_NOMEM, "out of memory") : PICO_OK;
}

void pico_text_close(pico_text_out *text) {
    free(text->pending);
    *text = (pico_text_out){0};
}

void pico_text_begin(pico_text_out *text, int32_t prev, const char *const *stop, size_t n_stop,
                     pico_text_fn fn, void *arg) {
    text->n_pending = 0;
    text->stop = stop;
    text->n_stop = n_stop;
    text->fn = fn;
    text->arg = arg;
    if (text->tokenizer != NULL) {
        pico_token_stream_begin(&text->stream, text->tokenizer, prev);
    }
}

static void hand_out(pico_text_out *text, size_t n) {
    if (n > 0 && text->fn != NULL) {
        text->fn(text->arg, text->pending, n);
    }
    memmove(text->pending, text->pending + n, text->n_pending - n);
    text->n_pending -= n;
}

/* Where the first complete stop string in bytes[0..n) begins, or n. */
static size_t find_stop(const pico_text_out *text, const char *bytes, size_t n) {
    size_t first = n;
    for (size_t i = 0; i < text->n_stop; i++) {
        size_t length = strlen(text->stop[i]);
        const char *at = length == 0 ? NULL : memmem(bytes, n, text->stop[i], length);
        if (at != NULL && (size_t)(at - bytes) < first) {
            first = (size_t)(at - bytes);
        }
    }
    return first;
}

/* How many bytes at the end may be the beginning of a stop string. */
static size_t held_back(const pico_text_out *text) {
    size_t most = 0;
    for (size_t i = 0; i < text->n_stop; i++) {
        size_t n = strlen(text->stop[i]);
        size_t length = n == 0 ? 0 : n - 1;
        length = length < text->n_pending ? length : text->n_pending;
        while (length > most &&
               memcmp(text->pending + text->n_pending - length, text->stop[i], length) != 0) {
            length--;
        }
        most = length > most ? length : most;
    }
    return most;
}

int pico_text_add(pico_text_out *text, int32_t token) {
    if (text->tokenizer == NULL) {
        return 0;
    }
    size_t room = text->capacity - text->n_pending;
    text->n_pending +=
        pico_token_stream_next(&text->stream, token, text->pending + text->n_pending, room);
    assert(text->n_pending <= text->capacity);
    if (text->n_stop != 0) {
        size_t at = find_stop(text, text->pending, text->n_pending);
        if (at < text->n_pending) {
            hand_out(text, at);
            text->n_pending = 0;
            text->stream.held = 0;
            return 1;
        }
    }
    hand_out(text, text->n_pending - held_back(text));
    return 0;
}

int pico_text_would_stop(const pico_text_out *text, int32_t token, char *scratch) {
    if (text->tokenizer == NULL || text->n_stop == 0) {
        return 0;
    }
    pico_token_stream stream = text->stream;
    size_t n = text->n_pending;
    memcpy(scratch, text->pending, n);
    n += pico_token_stream_next(&stream, token, scratch + n, text->capacity - n);
    return find_stop(text, scratch, n) < n;
}

void pico_text_copy(pico_text_out *to, const pico_text_out *from) {
    assert(to->capacity == from->capacity && from->fn == NULL);
    if (from->tokenizer != NULL) {
        memcpy(to->pending, from->pending, from->n_pending);
    }
    to->n_pending = from->n_pending;
    to->stream = from->stream;
    to->stop = from->stop;
    to->n_stop = from->n_stop;
    to->fn = NULL;
}

void pico_text_end(pico_text_out *text) {
    if (text->tokenizer != NULL) {
        text->n_pending += pico_token_stream_end(&text->stream, text->pending + text->n_pending,
                                                 text->capacity - text->n_pending);
        hand_out(text, text->n_pending);
    }
}
