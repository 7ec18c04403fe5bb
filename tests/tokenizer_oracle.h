/*
 * Slow, plain tokenizers to compare with: quadratic greedy merging over the pieces exactly as the
 * file has them. Also small vocabularies made on the spot, and a random source for the tests.
 */
#ifndef PICO_TESTS_TOKENIZER_ORACLE_H
#define PICO_TESTS_TOKENIZER_ORACLE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "formats/model_file.h"
#include "util/text.h"

typedef struct oracle {
    const pico_vocab *vocab;
    uint32_t *sorted; /* mergeable pieces by text */
    uint32_t n;
} oracle;

static inline uint32_t random_below(uint64_t *state, uint32_t n) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*state >> 33) % n);
}

static inline int piece_order(const void *a, const void *b, void *pieces) {
    const pico_piece *x = (const pico_piece *)pieces + *(const uint32_t *)a;
    const pico_piece *y = (const pico_piece *)pieces + *(const uint32_t *)b;
    int order = memcmp(x->text, y->text, x->n < y->n ? x->n : y->n);
    return order != 0 ? order : (x->n > y->n) - (x->n < y->n);
}

static inline oracle oracle_open(const pico_vocab *vocab) {
    oracle o = {vocab, malloc((vocab->n_piece + 1) * sizeof *o.sorted), 0};
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        const pico_piece *piece = &vocab->piece[i];
        int named_byte = piece->n == 6 && memcmp(piece->text, "<0x", 3) == 0;
        if (piece->type == PICO_PIECE_NORMAL && !named_byte && piece->n > 0) {
            o.sorted[o.n++] = i;
        }
    }
    qsort_r(o.sorted, o.n, sizeof *o.sorted, piece_order, (void *)(uintptr_t)vocab->piece);
    return o;
}

static inline int32_t oracle_find(const oracle *o, const char *s, size_t n) {
    uint32_t low = 0, high = o->n;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        const pico_piece *piece = &o->vocab->piece[o->sorted[middle]];
        int order = memcmp(piece->text, s, piece->n < n ? piece->n : n);
        order = order != 0 ? order : (piece->n > n) - (piece->n < n);
        if (order == 0) {
            return (int32_t)o->sorted[middle];
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return -1;
}

/* The piece that s[0..n) makes when s[0..n_left) merges with the rest, or -1. Higher priority
 * merges first: by score, or by place in the list of merges, or by the id of the result. */
static inline int32_t oracle_pair(const oracle *o, const char *s, size_t n_left, size_t n,
                                  double *priority) {
    const pico_vocab *vocab = o->vocab;
    int32_t id = oracle_find(o, s, n);
    if (id < 0 || (vocab->llama2c &&
                   (oracle_find(o, s, n_left) < 0 || oracle_find(o, s + n_left, n - n_left) < 0))) {
        return -1; /* for llama2.c what is no piece is bytes already */
    }
    *priority = vocab->kind == PICO_VOCAB_SPM ? (double)vocab->piece[id].score : -(double)id;
    for (uint32_t i = 0; i < vocab->n_merge; i++) {
        const pico_piece *merge = &vocab->merge[i];
        if (merge->n == n + 1 && memcmp(merge->text, s, n_left) == 0 &&
            merge->text[n_left] == ' ' &&
            memcmp(merge->text + n_left + 1, s + n_left, n - n_left) == 0) {
            *priority = -(double)i;
            return id;
        }
    }
    return vocab->n_merge > 0 ? -1 : id;
}

/* Merges s[0..n), character by character. ids has n entries of room; returns their number. What is
 * no piece becomes its bytes: "<0xNN>" pieces are looked up by name, llama2c adds 3. */
static inline size_t oracle_merge(const oracle *o, const char *s, size_t n, int32_t *ids) {
    size_t *start = malloc((n + 1) * sizeof *start), k = 0, n_ids = 0;
    for (size_t i = 0; i < n;) {
        uint32_t code;
        size_t length = pico_utf8_decode(s + i, n - i, &code);
        start[k++] = i;
        i += length > 0 ? length : 1;
    }
    start[k] = n;
    for (;;) {
        double best = -1e300;
        size_t best_at = SIZE_MAX;
        for (size_t i = 0; i + 1 < k; i++) {
            double priority;
            int32_t id = oracle_pair(o, s + start[i], start[i + 1] - start[i],
                                     start[i + 2] - start[i], &priority);
            if (id >= 0 && priority > best) {
                best = priority;
                best_at = i;
            }
        }
        if (best_at == SIZE_MAX) {
            break;
        }
        memmove(start + best_at + 1, start + best_at + 2, (k - best_at - 1) * sizeof *start);
        k--;
    }
    for (size_t i = 0; i < k; i++) {
        int32_t id = oracle_find(o, s + start[i], start[i + 1] - start[i]);
        for (size_t j = start[i]; id < 0 && j < start[i + 1]; j++) {
            ids[n_ids++] = (unsigned char)s[j] + 3;
        }
        if (id >= 0) {
            ids[n_ids++] = id;
        }
    }
    free(start);
    return n_ids;
}

/* The SentencePiece way, on text with U+2581 for spaces and one in front; llama2.c keeps spaces. */
static inline size_t oracle_spm(const oracle *o, const char *s, size_t n, int32_t **ids) {
    const char *space = o->vocab->llama2c ? " " : "\xe2\x96\x81";
    size_t width = strlen(space), m = 0;
    char *escaped = malloc((n + 1) * 3);
    for (size_t i = n > 0 ? 0 : 1; i <= n; i++) {
        if (i == 0 || s[i - 1] == ' ') {
            memcpy(escaped + m, space, width);
            m += width;
        } else {
            escaped[m++] = s[i - 1];
        }
    }
    *ids = malloc((m + 1) * sizeof **ids);
    size_t n_ids = oracle_merge(o, escaped, m, *ids);
    free(escaped);
    return n_ids;
}

static inline void oracle_close(oracle *o) {
    free(o->sorted);
}

/* GPT-2's alphabet, made the way it was published: printable bytes are themselves, the others
 * count up from 256. */
static inline size_t alphabet_character(int byte, char out[4]) {
    uint32_t extra = 256;
    for (int b = 0; b < 256; b++) {
        int printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        if (b == byte) {
            return pico_utf8_encode(printable ? (uint32_t)b : extra, out);
        }
        extra += !printable;
    }
    return 0;
}

static inline size_t to_alphabet(const char *s, size_t n, char *out) {
    size_t written = 0;
    for (size_t i = 0; i < n; i++) {
        written += alphabet_character((unsigned char)s[i], out + written);
    }
    return written;
}

/* A vocabulary under construction; texts are copied. */
typedef struct maker {
    pico_vocab vocab;
    pico_arena arena;
    pico_piece *piece, *merge; /* room for MAKER_MAX */
} maker;

enum { MAKER_MAX = 1024 };

static inline maker maker_begin(uint32_t kind) {
    maker m = {.vocab = {.kind = kind,
                         .bos = -1,
                         .eos = -1,
                         .unk = -1,
                         .pad = -1,
                         .eot = -1,
                         .add_space_prefix = kind == PICO_VOCAB_SPM}};
    m.piece = pico_arena_alloc(&m.arena, MAKER_MAX, sizeof *m.piece);
    m.merge = pico_arena_alloc(&m.arena, MAKER_MAX, sizeof *m.merge);
    m.vocab.piece = m.piece;
    m.vocab.merge = m.merge;
    return m;
}

static inline int32_t maker_piece_n(maker *m, const char *text, size_t n, uint32_t type,
                                    float score) {
    m->piece[m->vocab.n_piece] = (pico_piece){.text = pico_arena_strndup(&m->arena, text, n),
                                              .n = (uint32_t)n,
                                              .type = type,
                                              .score = score};
    return (int32_t)m->vocab.n_piece++;
}

static inline int32_t maker_piece(maker *m, const char *text, uint32_t type, float score) {
    return maker_piece_n(m, text, strlen(text), type, score);
}

/* "left right", both given as they stand in the file. */
static inline void maker_merge(maker *m, const char *text) {
    m->merge[m->vocab.n_merge++] =
        (pico_piece){.text = pico_arena_strdup(&m->arena, text), .n = (uint32_t)strlen(text)};
}

static inline void maker_bytes(maker *m) {
    for (int b = 0; b < 256; b++) {
        char text[8];
        if (m->vocab.kind == PICO_VOCAB_SPM) {
            (void)snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
            maker_piece(m, text, PICO_PIECE_BYTE, 0.0f);
        } else {
            maker_piece_n(m, text, alphabet_character(b, text), PICO_PIECE_NORMAL, 0.0f);
        }
    }
}

/* <unk> <s> </s>, the 256 bytes, as Llama-2's vocabulary begins. */
static inline maker maker_spm(void) {
    maker m = maker_begin(PICO_VOCAB_SPM);
    m.vocab.unk = maker_piece(&m, "<unk>", PICO_PIECE_UNKNOWN, 0.0f);
    m.vocab.bos = maker_piece(&m, "<s>", PICO_PIECE_CONTROL, 0.0f);
    m.vocab.eos = maker_piece(&m, "</s>", PICO_PIECE_CONTROL, 0.0f);
    maker_bytes(&m);
    return m;
}

static inline void maker_end(maker *m) {
    pico_arena_free(&m->arena);
}

#endif
