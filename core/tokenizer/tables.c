/*
 * Open and close, and the tables that encoding looks things up in: pieces by their bytes, merges by
 * their two pieces. Refuses merges and special tokens that name pieces that do not exist.
 */
#include "tokenizer/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

#include "util/checked.h"

static uint64_t mix(uint64_t h) {
    h *= 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

static uint64_t hash_bytes(const char *s, size_t n) {
    uint64_t h = n, word;
    for (; n >= 8; n -= 8, s += 8) {
        memcpy(&word, s, 8);
        h = mix(h ^ word);
    }
    if (n >= 4) { /* two loads that may overlap: quicker than a copy of n bytes */
        uint32_t low, high;
        memcpy(&low, s, 4);
        memcpy(&high, s + n - 4, 4);
        h = mix(h ^ (((uint64_t)high << 32) | low));
    } else if (n > 0) {
        const unsigned char *bytes = (const unsigned char *)s;
        h = mix(h ^ (bytes[0] | ((uint64_t)bytes[n / 2] << 8) | ((uint64_t)bytes[n - 1] << 16)));
    }
    return mix(h);
}

int32_t pico_piece_find(const pico_tokenizer *tokenizer, const char *s, size_t n) {
    uint64_t hash = hash_bytes(s, n);
    for (uint64_t i = hash & tokenizer->piece_mask;; i = (i + 1) & tokenizer->piece_mask) {
        pico_piece_slot slot = tokenizer->piece_slot[i];
        if (slot.id_plus_1 == 0) {
            return -1;
        }
        if (slot.hash == (uint32_t)(hash >> 32)) {
            const pico_token *token = &tokenizer->token[slot.id_plus_1 - 1];
            if (token->n == n && memcmp(tokenizer->text + token->offset, s, n) == 0) {
                return (int32_t)(slot.id_plus_1 - 1);
            }
        }
    }
}

static uint64_t hash_pair(uint32_t left, uint32_t right) {
    return mix(mix(((uint64_t)left << 32) | right));
}

const pico_pair_slot *pico_pair_find(const pico_tokenizer *tokenizer, int32_t left, int32_t right) {
    if (left < 0 || right < 0) {
        return NULL;
    }
    uint64_t i = hash_pair((uint32_t)left, (uint32_t)right) & tokenizer->pair_mask;
    for (;; i = (i + 1) & tokenizer->pair_mask) {
        const pico_pair_slot *slot = &tokenizer->pair_slot[i];
        if (slot->left_plus_1 == 0) {
            return NULL;
        }
        if (slot->left_plus_1 == (uint32_t)left + 1 && slot->right == (uint32_t)right) {
            return slot;
        }
    }
}

/* Slots for n entries, at most half full. */
static uint64_t table_size(uint64_t n) {
    uint64_t size = 16;
    while (size < 2 * n) {
        size *= 2;
    }
    return size;
}

/* Of pieces with the same bytes the last one counts, as for other readers of these files; a piece
 * in use goes before an unused one. */
static void piece_insert(pico_tokenizer *tokenizer, uint32_t id) {
    const pico_token *token = &tokenizer->token[id];
    const char *s = tokenizer->text + token->offset;
    uint64_t hash = hash_bytes(s, token->n);
    uint64_t i = hash & tokenizer->piece_mask;
    for (; tokenizer->piece_slot[i].id_plus_1 != 0; i = (i + 1) & tokenizer->piece_mask) {
        pico_piece_slot slot = tokenizer->piece_slot[i];
        const pico_token *other = &tokenizer->token[slot.id_plus_1 - 1];
        if (slot.hash == (uint32_t)(hash >> 32) && other->n == token->n &&
            memcmp(tokenizer->text + other->offset, s, token->n) == 0) {
            if (token->type == PICO_PIECE_UNUSED && other->type != PICO_PIECE_UNUSED) {
                return;
            }
            break;
        }
    }
    tokenizer->piece_slot[i] = (pico_piece_slot){(uint32_t)(hash >> 32), id + 1};
}

static int continues_over_space(const char *s, uint32_t n) {
    for (uint32_t i = 1; i < n; i++) {
        if (s[i] == ' ' && s[i - 1] != ' ') {
            return 1;
        }
    }
    return 0;
}

static pico_status build_pieces_table(pico_tokenizer *tokenizer, pico_error *err) {
    uint64_t size = table_size(tokenizer->n);
    tokenizer->piece_slot =
        pico_arena_alloc(&tokenizer->arena, size, sizeof *tokenizer->piece_slot);
    if (tokenizer->piece_slot == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "no memory for a vocabulary of %u pieces",
                         tokenizer->n);
    }
    tokenizer->piece_mask = size - 1;
    tokenizer->words_apart = 1;
    for (uint32_t i = 0; i < 256; i++) {
        tokenizer->byte_id[i] = -1;
    }
    for (uint32_t i = 0; i < tokenizer->n; i++) {
        const pico_token *token = &tokenizer->token[i];
        const char *text = tokenizer->text + token->offset;
        if (token->type == PICO_PIECE_BYTE && tokenizer->kind == PICO_VOCAB_SPM) {
            tokenizer->byte_id[(unsigned char)text[0]] = (int32_t)i;
        } else if ((token->flags & PICO_TOKEN_MERGED) && token->n > 0) {
            piece_insert(tokenizer, i);
            tokenizer->words_apart &= !continues_over_space(text, token->n);
        }
    }
    for (uint32_t i = 0; i < 256 && tokenizer->kind == PICO_VOCAB_BPE; i++) {
        char byte = (char)i;
        tokenizer->byte_id[i] = pico_piece_find(tokenizer, &byte, 1);
    }
    return PICO_OK;
}

/* One merge, "left right" in the byte alphabet; room has as many bytes as the merge. */
static pico_status add_merge(pico_tokenizer *tokenizer, uint32_t rank, const pico_piece *merge,
                             char *room, pico_error *err) {
    const char *space = merge->n < 3 ? NULL : memchr(merge->text + 1, ' ', merge->n - 1);
    size_t n_left = 0, n_right = 0;
    int32_t left = -1, right = -1, id = -1;
    if (space != NULL) {
        size_t split = (size_t)(space - merge->text);
        if (pico_bytes_of_alphabet(merge->text, split, room, &n_left) &&
            pico_bytes_of_alphabet(space + 1, merge->n - split - 1, room + n_left, &n_right) &&
            n_right > 0) {
            left = pico_piece_find(tokenizer, room, n_left);
            right = pico_piece_find(tokenizer, room + n_left, n_right);
            id = pico_piece_find(tokenizer, room, n_left + n_right);
        }
    }
    if (left < 0 || right < 0 || id < 0) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "vocabulary: merge %u, \"%.*s\", %s (expected: two pieces of the "
                         "vocabulary that together are a third, with a space between)",
                         rank, (int)(merge->n < 64 ? merge->n : 64), merge->text,
                         n_right == 0 ? "is not two texts in the byte alphabet"
                                      : "names a piece that does not exist");
    }
    uint64_t i = hash_pair((uint32_t)left, (uint32_t)right) & tokenizer->pair_mask;
    for (; tokenizer->pair_slot[i].left_plus_1 != 0; i = (i + 1) & tokenizer->pair_mask) {
        const pico_pair_slot *slot = &tokenizer->pair_slot[i];
        if (slot->left_plus_1 == (uint32_t)left + 1 && slot->right == (uint32_t)right) {
            return PICO_OK; /* listed twice: the better rank came first */
        }
    }
    tokenizer->pair_slot[i] = (pico_pair_slot){(uint32_t)left + 1, (uint32_t)right, rank, id};
    return PICO_OK;
}

static pico_status build_merges(pico_tokenizer *tokenizer, const pico_vocab *vocab,
                                pico_error *err) {
    size_t longest = 0;
    for (uint32_t i = 0; i < vocab->n_merge; i++) {
        longest = vocab->merge[i].n > longest ? vocab->merge[i].n : longest;
    }
    uint64_t size = table_size(vocab->n_merge);
    char *room = malloc(longest + 1);
    tokenizer->pair_slot = pico_arena_alloc(&tokenizer->arena, size, sizeof *tokenizer->pair_slot);
    pico_status status = PICO_OK;
    if (room == NULL || tokenizer->pair_slot == NULL) {
        status = pico_fail(err, PICO_E_NOMEM, "no memory for %u merges", vocab->n_merge);
    }
    tokenizer->pair_mask = size - 1;
    for (uint32_t i = 0; i < vocab->n_merge && status == PICO_OK; i++) {
        status = add_merge(tokenizer, i, &vocab->merge[i], room, err);
    }
    free(room);
    return status;
}

pico_status pico_tables_build(pico_tokenizer *tokenizer, const pico_vocab *vocab, pico_error *err) {
    pico_status status = build_pieces_table(tokenizer, err);
    if (status == PICO_OK && vocab->kind == PICO_VOCAB_BPE && vocab->n_merge > 0) {
        status = build_merges(tokenizer, vocab, err);
    }
    if (status == PICO_OK && vocab->kind == PICO_VOCAB_BPE && !tokenizer->whole_first) {
        tokenizer->whole =
            pico_arena_alloc(&tokenizer->arena, tokenizer->n, sizeof *tokenizer->whole);
        if (tokenizer->whole == NULL) {
            status = pico_fail(err, PICO_E_NOMEM, "no memory for a vocabulary of %u pieces",
                               tokenizer->n);
        }
    }
    return status;
}

static pico_status check_special(const pico_vocab *vocab, const char *what, int32_t id,
                                 pico_error *err) {
    if (id < -1 || (id >= 0 && (uint32_t)id >= vocab->n_piece)) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "vocabulary: the %s token is %d, but there are %u pieces", what, (int)id,
                         vocab->n_piece);
    }
    return PICO_OK;
}

static pico_status check_vocab(const pico_vocab *vocab, pico_error *err) {
    if (vocab->kind == PICO_VOCAB_NONE) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "the model file has no tokenizer: name one with --tokenizer FILE");
    }
    if (vocab->kind != PICO_VOCAB_SPM && vocab->kind != PICO_VOCAB_BPE) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "tokenizer kind %u is unknown; known: 1 (SentencePiece BPE), 2 (byte-level"
                         " BPE)",
                         vocab->kind);
    }
    if (vocab->n_piece == 0 || vocab->n_piece > PICO_MAX_VOCAB || vocab->piece == NULL) {
        return pico_fail(err, PICO_E_CORRUPT, "vocabulary: %u pieces, expected 1 to %d",
                         vocab->n_piece, (int)PICO_MAX_VOCAB);
    }
    if (vocab->n_merge > 0 && vocab->merge == NULL) {
        return pico_fail(err, PICO_E_CORRUPT, "vocabulary: the list of %u merges is missing",
                         vocab->n_merge);
    }
    pico_status status = check_special(vocab, "BOS", vocab->bos, err);
    status = status != PICO_OK ? status : check_special(vocab, "EOS", vocab->eos, err);
    status = status != PICO_OK ? status : check_special(vocab, "unknown", vocab->unk, err);
    return status != PICO_OK ? status : check_special(vocab, "end-of-turn", vocab->eot, err);
}

/* A vocabulary that names no unknown token may still have a piece of that type. */
static int32_t find_unknown(const pico_vocab *vocab) {
    for (uint32_t i = 0; vocab->unk < 0 && i < vocab->n_piece; i++) {
        if (vocab->piece[i].type == PICO_PIECE_UNKNOWN) {
            return (int32_t)i;
        }
    }
    return vocab->unk;
}

pico_status pico_tokenizer_open(const pico_vocab *vocab, pico_tokenizer **out, pico_error *err) {
    pico_status status = check_vocab(vocab, err);
    if (status != PICO_OK) {
        return status;
    }
    pico_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (tokenizer == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "no memory for a tokenizer");
    }
    tokenizer->kind = vocab->kind;
    tokenizer->n = vocab->n_piece;
    tokenizer->llama2c = vocab->kind == PICO_VOCAB_SPM && vocab->llama2c;
    tokenizer->space_prefix =
        vocab->kind == PICO_VOCAB_SPM && (vocab->llama2c || vocab->add_space_prefix);
    tokenizer->adds_bos = vocab->add_bos && vocab->bos >= 0;
    tokenizer->bos = vocab->bos;
    tokenizer->eos = vocab->eos;
    tokenizer->eot = vocab->eot;
    tokenizer->unk = find_unknown(vocab);
    if (vocab->kind == PICO_VOCAB_BPE) {
        status = pico_splitter_open(vocab->pre, &tokenizer->splitter, &tokenizer->whole_first, err);
        tokenizer->whole_first |= vocab->n_merge == 0; /* ranks alone: as tiktoken does it */
    }
    status = status != PICO_OK ? status : pico_pieces_build(tokenizer, vocab, err);
    status = status != PICO_OK ? status : pico_tables_build(tokenizer, vocab, err);
    status = status != PICO_OK ? status : pico_user_build(tokenizer, err);
    if (status != PICO_OK) {
        pico_tokenizer_close(tokenizer);
        return status;
    }
    *out = tokenizer;
    return PICO_OK;
}

void pico_tokenizer_close(pico_tokenizer *tokenizer) {
    if (tokenizer != NULL) {
        pico_splitter_close(tokenizer->splitter);
        pico_arena_free(&tokenizer->arena);
        free(tokenizer);
    }
}
