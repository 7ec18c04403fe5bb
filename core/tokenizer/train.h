/*
 * Training a byte-level BPE vocabulary. Text is cut by a split pattern; equal pieces are counted once;
 * then the most frequent pair of neighbours becomes a token, again and again. Ties go to the pair with
 * the lowest ids (left, then right), ids 0 to 255 are the bytes, merged tokens follow in order: what
 * nanochat's trainer does. The result depends on the counts alone, not on the order of the text.
 *
 * Memory: the distinct pieces, about 40 bytes for each of their bytes while pairs are merged; the
 * text itself is not kept. One thread.
 */
#ifndef PICO_TOKENIZER_TRAIN_H
#define PICO_TOKENIZER_TRAIN_H

#include "formats/model_file.h"
#include "plugin.h"

typedef struct pico_bpe pico_bpe;

typedef struct pico_bpe_stats {
    uint64_t n_byte;     /* of text */
    uint64_t n_piece;    /* that it was cut into */
    uint64_t n_distinct; /* of them */
    uint64_t n_token;    /* that the text is with the merges so far */
    uint32_t n_vocab;    /* bytes and merged tokens so far */
} pico_bpe_stats;

/* pre: name of a split pattern as in tokenizer.ggml.pre, or regex:PATTERN; PICO_E_UNSUPPORTED if it
 * is unknown. */
pico_status pico_bpe_open(const char *pre, pico_bpe **out, pico_error *err);
void pico_bpe_close(pico_bpe *bpe); /* NULL is allowed */

/* Counts the pieces of one document; any bytes. Bytes that are no UTF-8 are pieces of their own. Not
 * after pico_bpe_merge. PICO_E_LIMIT if the distinct pieces have 4 GB. */
pico_status pico_bpe_count(pico_bpe *bpe, const char *text, size_t n, pico_error *err);

typedef struct pico_bpe_hooks {
    int (*should_stop)(void *arg); /* 1: PICO_E_CANCELLED */
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
} pico_bpe_hooks;

/* Merges until there are n_vocab tokens (at least 256, the bytes among them) or nothing is left to
 * merge; stats say how far it came. hooks and its functions may be NULL. */
pico_status pico_bpe_merge(pico_bpe *bpe, uint32_t n_vocab, const pico_bpe_hooks *hooks,
                           pico_error *err);
void pico_bpe_stats_of(const pico_bpe *bpe, pico_bpe_stats *out);

/* The special tokens of a vocabulary; they get the last ids, in order. */
typedef struct pico_bpe_special {
    const char *const *text; /* (n) */
    uint32_t n;
    int32_t bos, eos, eot; /* indices into text; -1: none */
} pico_bpe_special;

/* The vocabulary as files have it, in the arena. PICO_E_INVALID if a special token is empty or there
 * twice. */
pico_status pico_bpe_vocab(const pico_bpe *bpe, const pico_bpe_special *special, pico_arena *arena,
                           pico_vocab *out, pico_error *err);

#endif
