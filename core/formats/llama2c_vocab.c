/*
 * llama2.c's tokenizer.bin: the length of the longest piece, then score, length and bytes of every
 * piece. It does not say how many pieces there are: the model does, and the file must end there.
 */
#include <math.h>
#include <string.h>

#include "formats/reader.h"

enum { HEADER = 4, PIECE_HEADER = 8, MAX_PIECE_BYTES = 65535 };

static int is_hex(char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f');
}

static uint32_t type_of(uint32_t id, const char *text, uint32_t n) {
    if (id < 3) {
        return id == 0 ? PICO_PIECE_UNKNOWN : PICO_PIECE_CONTROL;
    }
    int byte = n == 6 && memcmp(text, "<0x", 3) == 0 && is_hex(text[3]) && is_hex(text[4]) &&
               text[5] == '>';
    return byte ? PICO_PIECE_BYTE : PICO_PIECE_NORMAL;
}

/* Checks one piece at *at, and moves on. text is in the file. */
static pico_status read_piece(const pico_map *map, uint64_t *at, uint32_t id, int32_t longest,
                              pico_piece *piece, pico_error *err) {
    int32_t n = 0;
    float score = 0.0f;
    if (map->size - *at < PIECE_HEADER) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "tokenizer: the file ends at offset %llu, before piece %u: truncated, or "
                         "for a smaller vocabulary",
                         (unsigned long long)*at, id);
    }
    memcpy(&score, map->data + *at, sizeof score);
    memcpy(&n, map->data + *at + 4, sizeof n);
    if (n < 0 || n > longest || isnan(score)) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "tokenizer: piece %u at offset %llu has %d bytes and score %g, expected 0 "
                         "to %d bytes and a number",
                         id, (unsigned long long)*at, n, (double)score, longest);
    }
    *at += PIECE_HEADER;
    if (map->size - *at < (uint64_t)n) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "tokenizer: piece %u at offset %llu has %d bytes, the file has %llu left",
                         id, (unsigned long long)*at, n, (unsigned long long)(map->size - *at));
    }
    piece->text = (const char *)map->data + *at;
    piece->n = (uint32_t)n;
    piece->score = score;
    piece->type = type_of(id, piece->text, piece->n);
    *at += (uint64_t)n;
    return PICO_OK;
}

pico_status pico_llama2c_read_vocab(const pico_map *map, uint32_t n_vocab, pico_arena *arena,
                                    pico_vocab *vocab, pico_error *err) {
    int32_t longest = 0;
    uint64_t at = HEADER;
    pico_status status = PICO_OK;
    if (n_vocab == 0) {
        return pico_fail(
            err, PICO_E_INVALID,
            "tokenizer: a tokenizer.bin needs a model that says how many pieces it has");
    }
    if (map->size < HEADER || (map->size - HEADER) / PIECE_HEADER < n_vocab) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "tokenizer: %llu bytes cannot hold the %u pieces of the model",
                         (unsigned long long)map->size, n_vocab);
    }
    memcpy(&longest, map->data, sizeof longest);
    if (longest < 1 || longest > MAX_PIECE_BYTES) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "tokenizer: max_token_length is %d, expected 1 to %d: not a tokenizer.bin "
                         "of llama2.c, or damaged",
                         longest, MAX_PIECE_BYTES);
    }
    pico_piece *pieces = pico_arena_alloc(arena, n_vocab, sizeof *pieces);
    char *texts = pico_arena_alloc(arena, (size_t)map->size, 1);
    if (pieces == NULL || texts == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "tokenizer: out of memory for %u pieces", n_vocab);
    }
    for (uint32_t i = 0; status == PICO_OK && i < n_vocab; i++) {
        status = read_piece(map, &at, i, longest, &pieces[i], err);
        if (status == PICO_OK) {
            memcpy(texts, pieces[i].text, pieces[i].n);
            pieces[i].text = texts;
            texts += pieces[i].n;
        }
    }
    if (status == PICO_OK && at != map->size) {
        status = pico_fail(err, PICO_E_CORRUPT,
                           "tokenizer: %llu bytes are left over after the %u pieces of the model: "
                           "it belongs to a larger vocabulary",
                           (unsigned long long)(map->size - at), n_vocab);
    }
    *vocab = (pico_vocab){.kind = PICO_VOCAB_SPM,
                          .n_piece = n_vocab,
                          .piece = pieces,
                          .bos = n_vocab > 1 ? 1 : -1,
                          .eos = n_vocab > 2 ? 2 : -1,
                          .pad = -1,
                          .eot = -1,
                          .add_bos = 1,
                          .add_space_prefix = 1,
                          .llama2c = 1};
    return status;
}
