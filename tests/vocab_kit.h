/*
 * What the tests of Hugging Face's tokenizer files share: the files made from a vocabulary in
 * memory, and a vocabulary of bytes with a few merges to make them from.
 */
#ifndef PICO_TESTS_VOCAB_KIT_H
#define PICO_TESTS_VOCAB_KIT_H

#include "hf_kit.h"

/* ---- protobuf ---- */

typedef struct kit_bytes {
    unsigned char *at;
    size_t n;
} kit_bytes;

static inline void kit_put(kit_bytes *to, const void *bytes, size_t n) {
    kit_grow(&to->at, to->n, bytes, n);
    to->n += n;
}

static inline void kit_put_varint(kit_bytes *to, uint64_t x) {
    do {
        unsigned char byte = (unsigned char)((x & 0x7fu) | (x > 0x7f ? 0x80u : 0u));
        kit_put(to, &byte, 1);
        x >>= 7;
    } while (x != 0);
}

static inline void kit_put_number(kit_bytes *to, uint32_t field, uint64_t x) {
    kit_put_varint(to, field << 3);
    kit_put_varint(to, x);
}

static inline void kit_put_bytes(kit_bytes *to, uint32_t field, const void *bytes, size_t n) {
    kit_put_varint(to, field << 3 | 2);
    kit_put_varint(to, n);
    kit_put(to, bytes, n);
}

/* Puts part into to as a message, and frees it. */
static inline void kit_put_message(kit_bytes *to, uint32_t field, kit_bytes *part) {
    kit_put_bytes(to, field, part->at, part->n);
    free(part->at);
    *part = (kit_bytes){0};
}

static inline void kit_put_piece(kit_bytes *to, const pico_piece *piece) {
    kit_bytes message = {0};
    kit_put_bytes(&message, 1, piece->text, piece->n);
    kit_put_varint(&message, 2 << 3 | 5);
    kit_put(&message, &piece->score, 4);
    if (piece->type != PICO_PIECE_NORMAL) {
        kit_put_number(&message, 3, piece->type);
    }
    kit_put_message(to, 1, &message);
}

/* Settings that are read here. */
typedef struct kit_spm {
    uint64_t model_type, remove_extra_whitespaces, dummy_prefix;
    const char *charsmap;
} kit_spm;
static const kit_spm kit_spm_plain = {.model_type = 2, .dummy_prefix = 1, .charsmap = ""};

/* A tokenizer.model with the pieces of vocab; malloc-ed. */
static inline kit_bytes kit_spm_file(const pico_vocab *vocab, const kit_spm *settings) {
    kit_bytes file = {0}, trainer = {0}, normalizer = {0};
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        kit_put_piece(&file, &vocab->piece[i]);
    }
    kit_put_bytes(&trainer, 1, "input.txt", 9); /* not read */
    kit_put_number(&trainer, 3, settings->model_type);
    kit_put_number(&trainer, 35, 1);
    kit_put_number(&trainer, 43, UINT64_MAX); /* no padding */
    kit_put_bytes(&normalizer, 1, "rule", 4);
    kit_put_bytes(&normalizer, 2, settings->charsmap, strlen(settings->charsmap));
    kit_put_number(&normalizer, 3, settings->dummy_prefix);
    kit_put_number(&normalizer, 4, settings->remove_extra_whitespaces);
    kit_put_message(&file, 2, &trainer);
    kit_put_message(&file, 3, &normalizer);
    return file;
}

/* ---- tokenizer.json from a vocabulary with scores ---- */

typedef struct kit_merge {
    const pico_piece *whole;
    uint32_t n_left;
} kit_merge;

static inline int kit_compare_texts(const void *a, const void *b) {
    const pico_piece *const *x = a, *const *y = b;
    uint32_t n = (*x)->n < (*y)->n ? (*x)->n : (*y)->n;
    int order = memcmp((*x)->text, (*y)->text, n);
    return order != 0 ? order : ((*x)->n > (*y)->n) - ((*x)->n < (*y)->n);
}

/* Best score first, then the longest left part, as converters sort them. */
static inline int kit_compare_merges(const void *a, const void *b) {
    const kit_merge *x = a, *y = b;
    if (x->whole->score < y->whole->score || x->whole->score > y->whole->score) {
        return x->whole->score > y->whole->score ? -1 : 1;
    }
    if (x->n_left != y->n_left) {
        return x->n_left > y->n_left ? -1 : 1;
    }
    return (x->whole->n < y->whole->n) - (x->whole->n > y->whole->n);
}

static inline int kit_has(const pico_piece *const *sorted, uint32_t n, const char *text,
                          uint32_t length) {
    const pico_piece wanted = {.text = text, .n = length}, *key = &wanted;
    return bsearch(&key, sorted, n, sizeof *sorted, kit_compare_texts) != NULL;
}

/* Every way to put a piece together from two others, as ["left", "right"] or "left right". */
static inline json_t *kit_all_merges(const pico_vocab *vocab, int as_pairs) {
    const pico_piece **sorted = malloc((vocab->n_piece + 1) * sizeof *sorted);
    size_t n = 0, capacity = 0;
    kit_merge *merges = NULL;
    uint32_t n_sorted = 0;
    assert_non_null(sorted);
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        sorted[n_sorted] = &vocab->piece[i];
        n_sorted += vocab->piece[i].type == PICO_PIECE_NORMAL;
    }
    qsort(sorted, n_sorted, sizeof *sorted, kit_compare_texts);
    for (uint32_t i = 0; i < n_sorted; i++) {
        const pico_piece *p = sorted[i];
        for (uint32_t left = 1; left < p->n; left++) {
            if (kit_has(sorted, n_sorted, p->text, left) &&
                kit_has(sorted, n_sorted, p->text + left, p->n - left)) {
                if (n == capacity) {
                    capacity = 2 * capacity + 64;
                    merges = realloc(merges, capacity * sizeof *merges);
                    assert_non_null(merges);
                }
                merges[n++] = (kit_merge){p, left};
            }
        }
    }
    qsort(merges, n, sizeof *merges, kit_compare_merges);
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        const pico_piece *p = merges[i].whole;
        int l = (int)merges[i].n_left, r = (int)p->n - l;
        json_t *entry = as_pairs ? json_pack("[s%, s%]", p->text, (size_t)l, p->text + l, (size_t)r)
                                 : json_sprintf("%.*s %.*s", l, p->text, r, p->text + l);
        assert_int_equal(json_array_append_new(list, entry), 0);
    }
    free(merges);
    free(sorted);
    return list;
}

/* A tokenizer.json as converters make it from SentencePiece. */
static inline json_t *kit_spm_json(const pico_vocab *vocab, int as_pairs) {
    json_t *pieces = json_object(), *added = json_array();
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        const pico_piece *p = &vocab->piece[i];
        json_t *name = json_stringn(p->text, p->n);
        assert_int_equal(
            json_object_set_new(pieces, json_string_value(name), json_integer((json_int_t)i)), 0);
        if (p->type == PICO_PIECE_CONTROL || p->type == PICO_PIECE_UNKNOWN) {
            json_t *token =
                json_pack("{s:i, s:O, s:b}", "id", (int)i, "content", name, "special", 1);
            assert_int_equal(json_array_append_new(added, token), 0);
        }
        json_decref(name);
    }
    return json_pack("{s:o, s:{s:s, s:[{s:s, s:s}, {s:s, s:{s:s}, s:s}]}, s:n,"
                     " s:{s:s, s:[{s:{s:s}}, {s:{s:s}}]},"
                     " s:{s:s, s:s, s:b, s:b, s:o, s:o}}",
                     "added_tokens", added, "normalizer", "type", "Sequence", "normalizers", "type",
                     "Prepend", "prepend", "\xe2\x96\x81", "type", "Replace", "pattern", "String",
                     " ", "content", "\xe2\x96\x81", "pre_tokenizer", "post_processor", "type",
                     "TemplateProcessing", "single", "SpecialToken", "id", "<s>", "Sequence", "id",
                     "A", "model", "type", "BPE", "unk_token", "<unk>", "fuse_unk", 1,
                     "byte_fallback", 1, "vocab", pieces, "merges",
                     kit_all_merges(vocab, as_pairs));
}

#endif
