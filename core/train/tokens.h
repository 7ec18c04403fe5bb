/*
 * Documents as tokens, and a file that keeps them, so that a text is tokenised once. The file knows
 * which texts and which vocabulary it was made of; it is only taken for the same ones, and only whole.
 */
#ifndef PICO_TRAIN_TOKENS_H
#define PICO_TRAIN_TOKENS_H

#include "formats/model_file.h"
#include "plugin.h"
#include "tokenizer/tokenizer.h"
#include "util/file.h"

typedef struct pico_train_text {
    const char *text; /* n bytes */
    size_t n;
} pico_train_text;

/* Documents one after the other, without special tokens. */
typedef struct pico_train_tokens {
    const int32_t *id;   /* (n) */
    const uint64_t *end; /* (n_document) where each ends in id */
    uint64_t n, n_document;
    int32_t bos; /* the vocabulary's begin-of-text token; -1: none */
    void *own_id, *own_end;
    pico_map map; /* of a file; then nothing is owned */
} pico_train_tokens;

pico_status pico_train_tokenise(const pico_tokenizer *tokenizer, const pico_train_text *documents,
                                size_t n, pico_train_tokens *out, pico_error *err);
void pico_train_tokens_free(pico_train_tokens *tokens); /* zeroed ones are allowed */

/* The n most frequent ids below n_vocab in documents [0, n_document), each of which has its
 * begin-of-text token once; of equally frequent ones the lowest. out (n) ascends. */
pico_status pico_train_most_frequent(const pico_train_tokens *tokens, uint64_t n_document,
                                     uint32_t n_vocab, uint32_t n, int32_t *out, pico_error *err);

/* What tokens depend on: the documents, where they begin and end, and the vocabulary. */
typedef struct pico_token_key {
    uint64_t texts, vocabulary;
} pico_token_key;

pico_token_key pico_token_key_of(const pico_train_text *documents, size_t n,
                                 const pico_vocab *vocab);
/* PICO_E_NOT_FOUND: there is no such file; PICO_E_INVALID: it is of other texts or of another
 * vocabulary; PICO_E_CORRUPT: it is damaged. The file stays mapped. */
pico_status pico_token_file_read(const char *path, const pico_token_key *key,
                                 const pico_tokenizer *tokenizer, pico_train_tokens *out,
                                 pico_error *err);
/* Atomically. */
pico_status pico_token_file_write(const char *path, const pico_token_key *key,
                                  const pico_train_tokens *tokens, pico_error *err);

#endif
