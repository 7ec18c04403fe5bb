/*
 * Tokenizers: text to token ids and back. One interface for SentencePiece-style BPE (scores, byte
 * fallback) and byte-level BPE (merges, PCRE2 split patterns). Special tokens are never recognised
 * inside text. Encoding is thread-safe: an instance does not change after open, but for what it
 * remembers of questions that always have the same answer.
 */
#ifndef PICO_TOKENIZER_TOKENIZER_H
#define PICO_TOKENIZER_TOKENIZER_H

#include "formats/model_file.h"
#include "plugin.h"

typedef struct pico_tokenizer pico_tokenizer;

/* Copies what it needs from vocab. PICO_E_UNSUPPORTED for an unknown kind or split pattern (named),
 * PICO_E_CORRUPT for a vocabulary that cannot work. */
pico_status pico_tokenizer_open(const pico_vocab *vocab, pico_tokenizer **out, pico_error *err);
void pico_tokenizer_close(pico_tokenizer *tokenizer); /* NULL is allowed */

enum {
    PICO_ENCODE_BOS = 1,
    PICO_ENCODE_EOS = 2,
    PICO_ENCODE_CONTINUES = 4 /* other text stands before it: no space is put in front */
};

/* Encodes text[0..n) (any bytes; invalid UTF-8 falls back to bytes or unknown). *ids is malloc-ed,
 * the caller frees it. flags add the special tokens where the vocabulary has them. */
pico_status pico_tokenizer_encode(const pico_tokenizer *tokenizer, const char *text, size_t n,
                                  uint32_t flags, int32_t **ids, size_t *n_ids, pico_error *err);

/* The bytes of one token as it appears after token `prev` (-1: at the start of the text): writes at
 * most capacity bytes to out and returns the full length, which may be 0 for a control token.
 * An id outside the vocabulary has length 0. Never allocates. */
size_t pico_tokenizer_piece(const pico_tokenizer *tokenizer, int32_t prev, int32_t id, char *out,
                            size_t capacity);

/* Decodes ids[0..n); *text is malloc-ed with a NUL at the end, *size its length. */
pico_status pico_tokenizer_decode(const pico_tokenizer *tokenizer, const int32_t *ids, size_t n,
                                  char **text, size_t *size, pico_error *err);

uint32_t pico_tokenizer_n_vocab(const pico_tokenizer *tokenizer);
int32_t pico_tokenizer_bos(const pico_tokenizer *tokenizer); /* -1: none */
int32_t pico_tokenizer_eos(const pico_tokenizer *tokenizer); /* -1: none */
int pico_tokenizer_adds_bos(const pico_tokenizer *tokenizer);
/* Whether a generation ends at id: end of text or end of turn. */
int pico_tokenizer_is_end(const pico_tokenizer *tokenizer, int32_t id);
int pico_tokenizer_is_control(const pico_tokenizer *tokenizer, int32_t id);
size_t pico_tokenizer_max_piece(const pico_tokenizer *tokenizer); /* bytes of the longest piece */

/*
 * Streaming: turns token ids into text that never splits a UTF-8 character.
 */
typedef struct pico_token_stream {
    const pico_tokenizer *tokenizer;
    int32_t prev;
    size_t held; /* bytes of an incomplete character, kept back */
    char hold[8];
} pico_token_stream;

/* Starts after token prev (-1: at the start of the text). */
void pico_token_stream_begin(pico_token_stream *stream, const pico_tokenizer *tokenizer,
                             int32_t prev);
/* Writes the complete characters that id adds to out; capacity >= pico_tokenizer_max_piece() + 8.
 * Returns the number of bytes. Never allocates. */
size_t pico_token_stream_next(pico_token_stream *stream, int32_t id, char *out, size_t capacity);
/* Writes what is held back (an incomplete character, as it is). */
size_t pico_token_stream_end(pico_token_stream *stream, char *out, size_t capacity);

#endif
