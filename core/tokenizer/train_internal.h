/* What the files of the BPE trainer share; see train.h. Nothing else includes it. */
#ifndef PICO_TOKENIZER_TRAIN_INTERNAL_H
#define PICO_TOKENIZER_TRAIN_INTERNAL_H

#include "tokenizer/tokenizer_internal.h"
#include "tokenizer/train.h"

/* Distinct texts: pieces, or tokens. Open addressing; a slot holds an index + 1. */
typedef struct bpe_text {
    uint64_t offset; /* into bytes */
    uint32_t n;
    uint32_t hash;
    uint64_t count;
} bpe_text;

typedef struct bpe_texts {
    bpe_text *text; /* (n) */
    uint32_t n, capacity;
    char *bytes;
    uint64_t n_byte, capacity_byte;
    uint32_t *slot; /* (mask + 1) */
    uint64_t mask;
} bpe_texts;

typedef struct bpe_merge { /* merge i makes token 256 + i */
    uint32_t left, right;
} bpe_merge;

struct pico_bpe {
    pico_splitter *splitter;
    char *pre;
    bpe_texts piece;
    bpe_texts token;  /* index = id; the first 256 are the bytes */
    bpe_merge *merge; /* (n_merge) */
    uint32_t n_merge, capacity_merge;
    uint64_t n_byte, n_piece;
    uint64_t n_token; /* that the text is now */
};

/* The index of s[0..n), which is added with count 0 if it is not there; *is_new says so. */
pico_status pico_bpe_find(bpe_texts *texts, const char *s, size_t n, uint32_t *index, int *is_new,
                          pico_error *err);
void pico_bpe_texts_free(bpe_texts *texts);

/* train_pairs.c: how often pairs of neighbours occur, and where. */
typedef struct bpe_pair {
    uint64_t key;   /* left << 32 | right; BPE_NO_PAIR: an empty slot */
    int64_t count;  /* occurrences in the text */
    uint32_t *word; /* (n) pieces that may hold it */
    uint32_t n, capacity;
    uint32_t is_touched, reserved;
} bpe_pair;
#define BPE_NO_PAIR UINT64_MAX

typedef struct bpe_candidate {
    int64_t count;
    uint64_t key;
} bpe_candidate;

typedef struct bpe_pairs {
    bpe_pair *slot; /* (mask + 1) */
    uint64_t mask, n_used;
    bpe_candidate *heap; /* the best first; counts may be out of date */
    size_t n_heap, capacity_heap;
    uint64_t *touched; /* keys whose count has grown since pico_bpe_pairs_settle */
    size_t n_touched, capacity_touched;
} bpe_pairs;

pico_status pico_bpe_pairs_open(bpe_pairs *pairs, pico_error *err);
void pico_bpe_pairs_close(bpe_pairs *pairs);
/* NULL: the pair is not there. The pointer is good until a pair is added. */
bpe_pair *pico_bpe_pair_find(const bpe_pairs *pairs, uint64_t key);
/* Adds change to the count of a pair; when it grows, word is noted as a place of it. */
pico_status pico_bpe_pair_change(bpe_pairs *pairs, uint64_t key, int64_t change, uint32_t word,
                                 pico_error *err);
/* Makes the pairs that have grown candidates. */
pico_status pico_bpe_pairs_settle(bpe_pairs *pairs, pico_error *err);
/* Takes the most frequent pair, of equals the one with the lowest ids. 0: there is none. */
int pico_bpe_pairs_take(bpe_pairs *pairs, uint64_t *key);

#endif
