/*
 * The first half of training: text becomes distinct pieces with counts. Also opening and closing, and
 * the table of distinct texts that pieces and tokens share.
 */
#include <stdlib.h>
#include <string.h>

#include "tokenizer/train_internal.h"
#include "util/text.h"

enum { FIRST_SLOTS = 1 << 12 };

static pico_status no_memory(pico_error *err) {
    return pico_fail(err, PICO_E_NOMEM, "no memory to train a vocabulary");
}

/* ---- distinct texts ---- */

static uint32_t hash_of(const char *s, size_t n) {
    uint64_t h = n * 0x9e3779b97f4a7c15u, word;
    for (; n >= 8; n -= 8, s += 8) {
        memcpy(&word, s, 8);
        h = (h ^ word) * 0xd6e8feb86659fd93u;
        h ^= h >> 32;
    }
    word = 0;
    memcpy(&word, s, n);
    h = (h ^ word) * 0xd6e8feb86659fd93u;
    h ^= h >> 32;
    return (uint32_t)((h * 0x9e3779b97f4a7c15u) >> 32);
}

static pico_status grow_slots(bpe_texts *texts, pico_error *err) {
    const uint64_t size = texts->slot == NULL ? FIRST_SLOTS : 2 * (texts->mask + 1);
    uint32_t *slot = calloc(size, sizeof *slot);
    if (slot == NULL) {
        return no_memory(err);
    }
    for (uint32_t i = 0; i < texts->n; i++) {
        uint64_t at = texts->text[i].hash & (size - 1);
        while (slot[at] != 0) {
            at = (at + 1) & (size - 1);
        }
        slot[at] = i + 1;
    }
    free(texts->slot);
    texts->slot = slot;
    texts->mask = size - 1;
    return PICO_OK;
}

static pico_status add_text(bpe_texts *texts, const char *s, size_t n, uint32_t hash,
                            pico_error *err) {
    if (texts->n_byte + n > UINT32_MAX || texts->n == UINT32_MAX - 1) {
        return pico_fail(err, PICO_E_LIMIT,
                         "the distinct pieces of the text have more than 4 GB: take less text");
    }
    if (texts->n == texts->capacity) {
        const uint32_t capacity =
            texts->capacity < UINT32_MAX / 2 ? 2 * texts->capacity + 1024 : UINT32_MAX;
        bpe_text *bigger = realloc(texts->text, (size_t)capacity * sizeof *bigger);
        if (bigger == NULL) {
            return no_memory(err);
        }
        texts->text = bigger;
        texts->capacity = capacity;
    }
    if (texts->n_byte + n > texts->capacity_byte) {
        const uint64_t capacity = 2 * (texts->n_byte + n) + 4096;
        char *bigger = realloc(texts->bytes, (size_t)capacity);
        if (bigger == NULL) {
            return no_memory(err);
        }
        texts->bytes = bigger;
        texts->capacity_byte = capacity;
    }
    memcpy(texts->bytes + texts->n_byte, s, n);
    texts->text[texts->n++] = (bpe_text){.offset = texts->n_byte, .n = (uint32_t)n, .hash = hash};
    texts->n_byte += n;
    return PICO_OK;
}

pico_status pico_bpe_find(bpe_texts *texts, const char *s, size_t n, uint32_t *index, int *is_new,
                          pico_error *err) {
    const uint32_t hash = hash_of(s, n);
    if (texts->slot == NULL || 2 * (uint64_t)texts->n > texts->mask) {
        pico_status status = grow_slots(texts, err);
        if (status != PICO_OK) {
            return status;
        }
    }
    uint64_t at = hash & texts->mask;
    for (; texts->slot[at] != 0; at = (at + 1) & texts->mask) {
        const bpe_text *text = &texts->text[texts->slot[at] - 1];
        if (text->hash == hash && text->n == n && memcmp(texts->bytes + text->offset, s, n) == 0) {
            *index = texts->slot[at] - 1;
            *is_new = 0;
            return PICO_OK;
        }
    }
    pico_status status = add_text(texts, s, n, hash, err);
    if (status == PICO_OK) {
        *index = texts->n - 1;
        *is_new = 1;
        texts->slot[at] = texts->n;
    }
    return status;
}

void pico_bpe_texts_free(bpe_texts *texts) {
    free(texts->text);
    free(texts->bytes);
    free(texts->slot);
    *texts = (bpe_texts){0};
}

/* ---- open and close ---- */

pico_status pico_bpe_open(const char *pre, pico_bpe **out, pico_error *err) {
    uint32_t whole_first, index;
    int is_new;
    pico_bpe *bpe = calloc(1, sizeof *bpe);
    *out = NULL;
    if (bpe == NULL) {
        return no_memory(err);
    }
    bpe->pre = strdup(pre);
    pico_status status = bpe->pre == NULL
                             ? no_memory(err)
                             : pico_splitter_open(pre, &bpe->splitter, &whole_first, err);
    for (uint32_t i = 0; status == PICO_OK && i < 256; i++) {
        const char byte = (char)i;
        status = pico_bpe_find(&bpe->token, &byte, 1, &index, &is_new, err);
    }
    if (status != PICO_OK) {
        pico_bpe_close(bpe);
        return status;
    }
    *out = bpe;
    return PICO_OK;
}

void pico_bpe_close(pico_bpe *bpe) {
    if (bpe != NULL) {
        pico_splitter_close(bpe->splitter);
        pico_bpe_texts_free(&bpe->piece);
        pico_bpe_texts_free(&bpe->token);
        free(bpe->merge);
        free(bpe->pre);
        free(bpe);
    }
}

/* ---- counting ---- */

static pico_status count_piece(pico_bpe *bpe, const char *s, size_t n, pico_error *err) {
    uint32_t index;
    int is_new;
    pico_status status = pico_bpe_find(&bpe->piece, s, n, &index, &is_new, err);
    if (status == PICO_OK) {
        bpe->piece.text[index].count++;
        bpe->n_piece++;
        bpe->n_byte += n;
        bpe->n_token += n; /* a byte each, as nothing is merged yet */
    }
    return status;
}

/* The end of the valid UTF-8 that begins at `at`. */
static size_t valid_end(const char *text, size_t n, size_t at) {
    uint32_t code;
    while (at < n) {
        const size_t length =
            (unsigned char)text[at] < 0x80 ? 1 : pico_utf8_decode(text + at, n - at, &code);
        if (length == 0) {
            break;
        }
        at += length;
    }
    return at;
}

/* Cut as the tokenizer will cut it: a byte that is no UTF-8 stands alone, and text ends before it. */
pico_status pico_bpe_count(pico_bpe *bpe, const char *text, size_t n, pico_error *err) {
    pico_split_state *split = pico_split_begin(bpe->splitter);
    pico_status status = split == NULL ? no_memory(err) : PICO_OK;
    for (size_t from = 0; status == PICO_OK && from < n;) {
        const size_t valid = valid_end(text, n, from) - from;
        for (size_t at = 0, end = 0; status == PICO_OK && at < valid; at = end) {
            status = pico_split_next(split, text + from, valid, at, &end, err);
            if (status == PICO_OK) {
                status = count_piece(bpe, text + from + at, end - at, err);
            }
        }
        from += valid;
        if (status == PICO_OK && from < n) {
            status = count_piece(bpe, text + from++, 1, err);
        }
    }
    pico_split_end(split);
    return status;
}

void pico_bpe_stats_of(const pico_bpe *bpe, pico_bpe_stats *out) {
    *out = (pico_bpe_stats){.n_byte = bpe->n_byte,
                            .n_piece = bpe->n_piece,
                            .n_distinct = bpe->piece.n,
                            .n_token = bpe->n_token,
                            .n_vocab = bpe->token.n};
}
