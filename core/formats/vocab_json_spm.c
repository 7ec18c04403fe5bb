/*
 * A list of merges as SentencePiece scores. A list takes the pair that it has first; scores take the
 * pair whose result is best; both the leftmost of equals. Merging never looks beyond the symbols
 * that it joins, so whatever text a piece is in, it comes from the same two symbols: those to which
 * merging the piece's own text comes last. Therefore the place of that one merge in the list is the
 * order of the piece, and both ways always do the same. Refused is what only one of them would do:
 * a last pair that is not listed, a piece with a character that is none itself.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/vocab_json.h"

static const uint64_t MAX_LOOKUPS = 200000000; /* of all pieces together; Llama's take 2 million */

typedef struct merge {
    uint32_t left, right, rank;
} merge;

typedef struct converter {
    const json_t *pieces;
    pico_vocab *vocab;
    merge *merge; /* (n_merge), sorted by left and right */
    size_t n_merge;
    uint32_t *symbol; /* (longest piece in bytes): ids while a piece is merged */
    uint64_t lookups;
    pico_error *err;
} converter;

static pico_status refuse(const converter *c, const char *why, const char *text, size_t n) {
    return pico_fail(c->err, PICO_E_UNSUPPORTED,
                     "key \"merges\": %s (\"%.*s\"), so scores cannot stand for them; if there is "
                     "a tokenizer.model, name it with --tokenizer",
                     why, (int)(n < 64 ? n : 64), text);
}

/* The piece with this text, or -1. Ids were checked when the pieces were made. */
static int64_t find(const converter *c, const char *text, size_t n) {
    const json_t *id = json_object_getn(c->pieces, text, n);
    return id == NULL ? -1 : json_integer_value(id);
}

static uint32_t type_of(const converter *c, int64_t id) {
    return id < 0 ? 0 : c->vocab->piece[id].type;
}

/* ---- the list ---- */

static int compare_pairs(const void *a, const void *b) {
    const merge *x = a, *y = b;
    if (x->left != y->left) {
        return x->left < y->left ? -1 : 1;
    }
    if (x->right != y->right) {
        return x->right < y->right ? -1 : 1;
    }
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* Takes one entry, "left right" or ["left", "right"], apart; room gets the two together. */
static pico_status read_merge(converter *c, const json_t *entry, size_t i, char *room) {
    const char *left = json_string_value(json_is_string(entry) ? entry : json_array_get(entry, 0));
    const char *right = json_string_value(json_array_get(entry, 1));
    size_t n_left = left == NULL ? 0 : strlen(left);
    if (left != NULL && json_is_string(entry)) {
        const char *space = strchr(left, ' ');
        n_left = space == NULL ? 0 : (size_t)(space - left);
        right = space == NULL ? NULL : space + 1;
    }
    size_t n_right = right == NULL ? 0 : strlen(right);
    if (n_left == 0 || n_right == 0 || n_left + n_right > PICO_VOCAB_MAX_PIECE) {
        return pico_fail(c->err, PICO_E_CORRUPT, "key \"merges\": entry %zu is not \"left right\"",
                         i);
    }
    memcpy(room, left, n_left);
    memcpy(room + n_left, right, n_right);
    int64_t l = find(c, room, n_left), r = find(c, room + n_left, n_right);
    int64_t both = find(c, room, n_left + n_right);
    if (l < 0 || r < 0 || both < 0) {
        return pico_fail(
            c->err, PICO_E_CORRUPT,
            "key \"merges\": entry %zu, \"%.*s\" and \"%.*s\", names a piece that does "
            "not exist",
            i, (int)(n_left < 64 ? n_left : 64), room, (int)(n_right < 64 ? n_right : 64),
            room + n_left);
    }
    if (type_of(c, l) == PICO_PIECE_BYTE || type_of(c, r) == PICO_PIECE_BYTE ||
        type_of(c, both) == PICO_PIECE_BYTE) {
        return refuse(c, "one has to do with a token for a byte", room, n_left + n_right);
    }
    /* Special tokens are found before anything is merged: what makes or takes one never happens. */
    if (type_of(c, l) == PICO_PIECE_NORMAL && type_of(c, r) == PICO_PIECE_NORMAL &&
        type_of(c, both) == PICO_PIECE_NORMAL) {
        c->merge[c->n_merge++] =
            (merge){.left = (uint32_t)l, .right = (uint32_t)r, .rank = (uint32_t)i};
    }
    return PICO_OK;
}

/* The place of a pair in the list, or UINT32_MAX. */
static uint32_t rank_of(const converter *c, uint32_t left, uint32_t right) {
    const merge wanted = {.left = left, .right = right};
    size_t low = 0, high = c->n_merge;
    while (low < high) { /* the first that is not before the wanted one */
        size_t middle = low + (high - low) / 2;
        int before = compare_pairs(&c->merge[middle], &wanted) < 0;
        low = before ? middle + 1 : low;
        high = before ? high : middle;
    }
    const merge *m = &c->merge[low];
    return low < c->n_merge && m->left == left && m->right == right ? m->rank : UINT32_MAX;
}

/* ---- pieces ---- */

static size_t character(const char *s, size_t n) {
    size_t length = 1;
    while (length < n && ((unsigned char)s[length] & 0xc0u) == 0x80) {
        length++;
    }
    return length;
}

/* Merges the piece's own text by the list. *rank is the place of the merge that completes it, or
 * UINT32_MAX if text never becomes this piece. */
static pico_status complete(converter *c, const pico_piece *piece, uint32_t *rank) {
    size_t n = 0;
    *rank = UINT32_MAX;
    for (size_t at = 0, length; at < piece->n; at += length) {
        length = character(piece->text + at, piece->n - at);
        int64_t id = find(c, piece->text + at, length);
        if (type_of(c, id) != PICO_PIECE_NORMAL) {
            return refuse(c, "a character of a piece is none itself", piece->text, piece->n);
        }
        c->symbol[n++] = (uint32_t)id;
    }
    while (n > 1) {
        uint32_t best = UINT32_MAX;
        size_t where = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            uint32_t found = rank_of(c, c->symbol[i], c->symbol[i + 1]);
            where = found < best ? i : where;
            best = found < best ? found : best;
        }
        c->lookups += n;
        if (c->lookups > MAX_LOOKUPS) {
            return refuse(c, "the pieces are too long to check", piece->text, piece->n);
        }
        if (best == UINT32_MAX) {
            return n == 2 ? refuse(c, "a pair of pieces that is a piece is not there", piece->text,
                                   piece->n)
                          : PICO_OK;
        }
        const pico_piece *left = &c->vocab->piece[c->symbol[where]];
        const pico_piece *right = &c->vocab->piece[c->symbol[where + 1]];
        size_t n_both = (size_t)left->n + right->n;
        size_t at = 0;
        for (size_t i = 0; i < where; i++) {
            at += c->vocab->piece[c->symbol[i]].n;
        }
        c->symbol[where] = (uint32_t)find(c, piece->text + at, n_both);
        memmove(&c->symbol[where + 1], &c->symbol[where + 2], (n - where - 2) * sizeof *c->symbol);
        *rank = --n == 1 ? best : UINT32_MAX;
    }
    return PICO_OK;
}

static pico_status score_all(converter *c) {
    pico_status status = PICO_OK;
    uint32_t last = PICO_MAX_VOCAB;
    for (uint32_t i = 0; status == PICO_OK && i < c->vocab->n_piece; i++) {
        pico_piece *piece = &pico_vocab_pieces(c->vocab)[i];
        if (piece->type == PICO_PIECE_NORMAL) {
            uint32_t rank;
            status = complete(c, piece, &rank);
            piece->score = 0.0f - (float)(rank == UINT32_MAX ? last : rank);
        }
    }
    return status;
}

pico_status pico_vocab_scores_of_merges(const json_t *pieces, const json_t *merges,
                                        pico_vocab *vocab, pico_error *err) {
    converter c = {.pieces = pieces, .vocab = vocab, .err = err};
    size_t n = json_array_size(merges), longest = 1;
    char *room = malloc(PICO_VOCAB_MAX_PIECE);
    pico_status status = PICO_OK;
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        longest = vocab->piece[i].n > longest ? vocab->piece[i].n : longest;
    }
    c.merge = calloc(n + 1, sizeof *c.merge);
    c.symbol = calloc(longest, sizeof *c.symbol);
    if (room == NULL || c.merge == NULL || c.symbol == NULL) {
        status = pico_fail(err, PICO_E_NOMEM, "out of memory for %zu merges", n);
    } else if (n > PICO_MAX_VOCAB) { /* beyond it ranks are not exact as scores */
        status =
            pico_fail(err, PICO_E_LIMIT, "%zu merges, at most %d are taken", n, PICO_MAX_VOCAB);
    }
    for (size_t i = 0; status == PICO_OK && i < n; i++) {
        status = read_merge(&c, json_array_get(merges, i), i, room);
    }
    if (status == PICO_OK) {
        qsort(c.merge, c.n_merge, sizeof *c.merge, compare_pairs);
        status = score_all(&c);
    }
    free(c.symbol);
    free(c.merge);
    free(room);
    return status;
}
