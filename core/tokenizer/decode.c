/*
 * Token ids to text: single pieces, whole texts, and a stream that never splits a UTF-8 character.
 * Bytes that are not valid UTF-8 come out as they are; nothing is replaced.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/tokenizer_internal.h"
#include "util/text.h"

static const pico_token *token_of(const pico_tokenizer *tokenizer, int32_t id) {
    return id >= 0 && (uint32_t)id < tokenizer->n ? &tokenizer->token[id] : NULL;
}

/* The bytes of id after prev; borrowed from the tokenizer. */
static const char *piece_of(const pico_tokenizer *tokenizer, int32_t prev, int32_t id, size_t *n) {
    const pico_token *token = token_of(tokenizer, id);
    if (token == NULL) {
        *n = 0;
        return tokenizer->text;
    }
    const char *text = tokenizer->text + token->offset;
    int at_start = prev < 0 || prev == tokenizer->bos;
    /* The space that encoding put in front of the text; a space written as a byte is not that. */
    size_t skip = tokenizer->space_prefix && at_start && token->n > 0 && text[0] == ' ' &&
                  token->type != PICO_PIECE_BYTE;
    *n = token->n - skip;
    return text + skip;
}

size_t pico_tokenizer_piece(const pico_tokenizer *tokenizer, int32_t prev, int32_t id, char *out,
                            size_t capacity) {
    size_t n;
    const char *text = piece_of(tokenizer, prev, id, &n);
    size_t fits = n < capacity ? n : capacity;
    if (fits > 0) {
        memcpy(out, text, fits);
    }
    return n;
}

pico_status pico_tokenizer_decode(const pico_tokenizer *tokenizer, const int32_t *ids, size_t n,
                                  char **text, size_t *size, pico_error *err) {
    uint64_t total = 0;
    size_t length;
    for (size_t i = 0; i < n; i++) {
        (void)piece_of(tokenizer, i > 0 ? ids[i - 1] : -1, ids[i], &length);
        if (__builtin_add_overflow(total, length, &total) || total >= SIZE_MAX) {
            return pico_fail(err, PICO_E_LIMIT, "%zu tokens are too many to decode at once", n);
        }
    }
    char *out = malloc((size_t)total + 1);
    if (out == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "no memory for %zu bytes of text", (size_t)total);
    }
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        const char *piece = piece_of(tokenizer, i > 0 ? ids[i - 1] : -1, ids[i], &length);
        memcpy(out + used, piece, length);
        used += length;
    }
    out[used] = '\0';
    *text = out;
    *size = used;
    return PICO_OK;
}

uint32_t pico_tokenizer_n_vocab(const pico_tokenizer *tokenizer) {
    return tokenizer->n;
}

int32_t pico_tokenizer_bos(const pico_tokenizer *tokenizer) {
    return tokenizer->bos;
}

int32_t pico_tokenizer_eos(const pico_tokenizer *tokenizer) {
    return tokenizer->eos;
}

int pico_tokenizer_adds_bos(const pico_tokenizer *tokenizer) {
    return tokenizer->adds_bos != 0;
}

int pico_tokenizer_is_end(const pico_tokenizer *tokenizer, int32_t id) {
    const pico_token *token = token_of(tokenizer, id);
    return token != NULL && (token->flags & PICO_TOKEN_END) != 0;
}

int pico_tokenizer_is_control(const pico_tokenizer *tokenizer, int32_t id) {
    const pico_token *token = token_of(tokenizer, id);
    return token != NULL && token->type == PICO_PIECE_CONTROL;
}

size_t pico_tokenizer_max_piece(const pico_tokenizer *tokenizer) {
    return tokenizer->max_piece;
}

void pico_token_stream_begin(pico_token_stream *stream, const pico_tokenizer *tokenizer,
                             int32_t prev) {
    *stream = (pico_token_stream){.tokenizer = tokenizer, .prev = prev};
}

size_t pico_token_stream_next(pico_token_stream *stream, int32_t id, char *out, size_t capacity) {
    assert(capacity >= stream->tokenizer->max_piece + sizeof stream->hold);
    (void)capacity;
    size_t n;
    const char *piece = piece_of(stream->tokenizer, stream->prev, id, &n);
    memcpy(out, stream->hold, stream->held);
    memcpy(out + stream->held, piece, n);
    size_t total = stream->held + n;
    size_t complete = pico_utf8_complete(out, total);
    stream->held = total - complete; /* at most 3 */
    memcpy(stream->hold, out + complete, stream->held);
    stream->prev = id;
    return complete;
}

size_t pico_token_stream_end(pico_token_stream *stream, char *out, size_t capacity) {
    size_t n = stream->held < capacity ? stream->held : capacity;
    memcpy(out, stream->hold, n);
    stream->held = 0;
    return n;
}
