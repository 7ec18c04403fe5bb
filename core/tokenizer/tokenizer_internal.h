/*
 * What the files of this folder share: the tables of an open tokenizer, the split patterns, the
 * merge engine, the memo of pieces. Nothing outside the folder but tests includes it.
 *
 * Pieces are kept as the bytes that they stand for (U+2581 is already a space, GPT-2's byte
 * alphabet is already undone), so that looking text up and printing tokens need no translation.
 */
#ifndef PICO_TOKENIZER_INTERNAL_H
#define PICO_TOKENIZER_INTERNAL_H

#include "tokenizer/tokenizer.h"
#include "util/arena.h"

enum {
    PICO_TOKEN_MERGED = 1, /* may come out of merging text */
    PICO_TOKEN_END = 2     /* a generation ends here */
};

typedef struct pico_token {
    uint32_t offset, n; /* tokenizer->text[offset .. offset + n) */
    uint32_t order;     /* pairs whose result has the lowest order merge first */
    uint8_t type;       /* PICO_PIECE_x */
    uint8_t flags;      /* PICO_TOKEN_x */
} pico_token;

enum { PICO_WHOLE_UNKNOWN, PICO_WHOLE_NO, PICO_WHOLE_YES };

/* Open addressing; all-zero slots are empty. */
typedef struct pico_piece_slot {
    uint32_t hash;
    uint32_t id_plus_1;
} pico_piece_slot;

typedef struct pico_pair_slot {
    uint32_t left_plus_1, right;
    uint32_t rank;
    int32_t id;
} pico_pair_slot;

typedef struct pico_splitter pico_splitter;

struct pico_tokenizer {
    uint32_t kind, n;
    uint32_t llama2c, space_prefix;
    uint32_t adds_bos;
    int32_t bos, eos, unk, eot;
    pico_token *token; /* (n) */
    char *text;
    pico_piece_slot *piece_slot; /* (piece_mask + 1) */
    uint64_t piece_mask;
    pico_pair_slot *pair_slot; /* (pair_mask + 1); NULL: merge by the text of the result */
    uint64_t pair_mask;
    int32_t byte_id[256]; /* -1: none */
    int32_t *user;        /* (n_user): user-defined pieces, sorted by their bytes */
    uint32_t n_user;
    uint8_t user_first[256]; /* 1: some user-defined piece begins with this byte */
    uint32_t max_piece;      /* bytes of the longest piece */
    uint32_t max_merged;     /* bytes of the longest piece that may come out of merging */
    uint32_t words_apart;    /* no piece continues over a space: words merge independently */
    uint32_t whole_first;    /* a split piece that is a token is not merged */
    /* (n) PICO_WHOLE_x: whether merging the bytes of a token makes that token. Found out when the
     * token is first met; every thread finds the same. NULL if whole_first, and for SPM. */
    _Atomic uint8_t *whole;
    pico_splitter *splitter; /* byte-level BPE only */
    pico_arena arena;
};

/* tables.c */
/* The token whose bytes are s[0..n), or -1. */
int32_t pico_piece_find(const pico_tokenizer *tokenizer, const char *s, size_t n);
const pico_pair_slot *pico_pair_find(const pico_tokenizer *tokenizer, int32_t left, int32_t right);
pico_status pico_tables_build(pico_tokenizer *tokenizer, const pico_vocab *vocab, pico_error *err);

/* pieces.c: fills token and text. */
pico_status pico_pieces_build(pico_tokenizer *tokenizer, const pico_vocab *vocab, pico_error *err);
/* Undoes GPT-2's byte alphabet: writes at most n bytes to out and returns 1 and their number, or 0
 * if s has a character that stands for no byte. */
int pico_bytes_of_alphabet(const char *s, size_t n, char *out, size_t *n_out);

/* user.c: pieces that are found in text before anything is merged. */
pico_status pico_user_build(pico_tokenizer *tokenizer, pico_error *err);
/* The longest user-defined piece at the start of s[0..n), or -1. */
int32_t pico_user_match(const pico_tokenizer *tokenizer, const char *s, size_t n);

/* split.c: cuts valid UTF-8 into the pieces within which byte-level BPE merges. */
typedef struct pico_split_state pico_split_state; /* of one encode call */
pico_status pico_splitter_open(const char *pre, pico_splitter **out, uint32_t *whole_first,
                               pico_error *err);
void pico_splitter_close(pico_splitter *splitter); /* NULL is allowed */
/* The regular expression that a built-in pattern stands for; NULL: no such pattern. */
const char *pico_split_pattern(const char *name);
pico_split_state *pico_split_begin(const pico_splitter *splitter); /* NULL: out of memory */
void pico_split_end(pico_split_state *state);
/* The end of the piece that starts at `at` < n. */
pico_status pico_split_next(pico_split_state *state, const char *text, size_t n, size_t at,
                            size_t *end, pico_error *err);

/* merge.c */
typedef struct pico_symbol {
    uint32_t start, n; /* bytes in the text that is merged; n = 0: merged into its left neighbour */
    int32_t prev, next;
    int32_t id; /* -1: these bytes are no token */
} pico_symbol;

typedef struct pico_candidate {
    uint64_t key; /* order of the result, then position: the lowest merges first */
    uint32_t right;
    int32_t id;
} pico_candidate;

/* The memory of one encode call. */
typedef struct pico_work {
    pico_symbol *symbol; /* (capacity) */
    pico_candidate *heap;
    size_t capacity;
    uint32_t n_symbol, n_heap;
    int32_t *ids;
    size_t n_ids, capacity_ids;
} pico_work;

/* Makes room for n symbols and empties the list. */
pico_status pico_work_reserve(pico_work *work, size_t n, pico_error *err);
void pico_work_symbol(pico_work *work, size_t start, size_t n, int32_t id);
/* Makes room for n more ids. */
pico_status pico_work_grow(pico_work *work, size_t n, pico_error *err);
pico_status pico_work_emit(pico_work *work, int32_t id, pico_error *err);
void pico_work_free(pico_work *work);
/* Merges the symbols of `text` until no pair can be merged; those that are left come first, in
 * order, n_symbol of them. */
void pico_work_merge(const pico_tokenizer *tokenizer, pico_work *work, const char *text);

/* memo.c: what short pieces became, so that a word is merged once and not each time it comes. */
enum { PICO_MEMO_BYTES = 15, PICO_MEMO_IDS = 3 };

typedef struct pico_memo_entry {
    uint64_t key[2]; /* the bytes, then 0, and their number in the last byte; 0: empty */
    int32_t id[PICO_MEMO_IDS];
    uint32_t n;
} pico_memo_entry;

typedef struct pico_memo {
    pico_memo_entry *entry; /* (mask + 1); NULL: off */
    uint64_t mask;
    const char *end; /* of the text that pieces point into */
} pico_memo;

/* For the pieces of text[0..n), which must stay where it is; off when n is small. */
pico_status pico_memo_open(pico_memo *memo, const char *text, size_t n, pico_error *err);
void pico_memo_close(pico_memo *memo);
/* Where the piece s[0..n), 1 to PICO_MEMO_BYTES bytes of the text, is or may be put. The key is
 * written to key[2]; the entry is the piece's if its key is the same. */
pico_memo_entry *pico_memo_at(const pico_memo *memo, const char *s, size_t n, uint64_t *key);

#endif
