/*
 * Vocabularies from JSON: pieces by id, special tokens, gaps; and GPT-2's two files, vocab.json with
 * merges.txt. Refuses ids that are there twice or far beyond the number of tokens.
 */
#include "formats/vocab_json.h"

#include <string.h>

#include "formats/gguf.h"

static const char end_of_text[] = "<|endoftext|>";

void pico_vocab_begin(pico_vocab *vocab, uint32_t kind) {
    *vocab = (pico_vocab){.kind = kind, .bos = -1, .eos = -1, .unk = -1, .pad = -1, .eot = -1};
}

pico_status pico_vocab_resize(pico_arena *arena, pico_vocab *vocab, uint32_t n, pico_error *err) {
    if (n > PICO_MAX_VOCAB) {
        return pico_fail(err, PICO_E_LIMIT, "%u tokens, at most %d are taken", n, PICO_MAX_VOCAB);
    }
    if (n <= vocab->n_piece) {
        return PICO_OK;
    }
    pico_piece *pieces = pico_arena_alloc(arena, n, sizeof *pieces);
    if (pieces == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for %u tokens", n);
    }
    if (vocab->n_piece > 0) {
        memcpy(pieces, vocab->piece, vocab->n_piece * sizeof *pieces);
    }
    vocab->piece = pieces;
    vocab->n_piece = n;
    return PICO_OK;
}

/* Gives id a text of its own, in the arena. */
static pico_status put_text(pico_arena *arena, pico_vocab *vocab, uint32_t id, const char *text,
                            pico_error *err) {
    size_t n = strlen(text);
    pico_piece *piece = &pico_vocab_pieces(vocab)[id];
    if (n > PICO_VOCAB_MAX_PIECE) {
        return pico_fail(err, PICO_E_CORRUPT, "token %u has %zu bytes, expected at most %d", id, n,
                         PICO_VOCAB_MAX_PIECE);
    }
    piece->text = pico_arena_strndup(arena, text, n);
    piece->n = (uint32_t)n;
    return piece->text != NULL ? PICO_OK : pico_fail(err, PICO_E_NOMEM, "out of memory");
}

pico_status pico_vocab_from_object(const json_t *object, pico_arena *arena, pico_vocab *vocab,
                                   pico_error *err) {
    const char *text;
    const json_t *id;
    json_t *pieces = (json_t *)(uintptr_t)object; /* walked, not changed */
    int64_t limit = (int64_t)json_object_size(object) + PICO_VOCAB_MAX_GAP, last = -1;
    json_object_foreach(pieces, text, id) {
        int64_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value >= limit) {
            return pico_fail(err, PICO_E_CORRUPT,
                             "token \"%.64s\": its id is %s, expected an integer from 0 to %lld "
                             "(%zu tokens, and some gaps)",
                             text, json_is_integer(id) ? "out of range" : pico_json_type_name(id),
                             (long long)limit - 1, json_object_size(object));
        }
        last = value > last ? value : last;
    }
    if (last < 0) {
        return pico_fail(err, PICO_E_CORRUPT, "the vocabulary has no token");
    }
    pico_status status = last >= PICO_MAX_VOCAB
                             ? pico_fail(err, PICO_E_LIMIT, "token id %lld, at most %d are taken",
                                         (long long)last, PICO_MAX_VOCAB)
                             : pico_vocab_resize(arena, vocab, (uint32_t)last + 1, err);
    json_object_foreach(pieces, text, id) {
        uint32_t i = (uint32_t)json_integer_value(id);
        if (status != PICO_OK) {
            return status;
        }
        pico_piece *piece = &pico_vocab_pieces(vocab)[i];
        if (piece->text != NULL) {
            return pico_fail(err, PICO_E_CORRUPT, "tokens \"%.64s\" and \"%.64s\" have the id %u",
                             piece->text, text, i);
        }
        piece->type = PICO_PIECE_NORMAL;
        status = put_text(arena, vocab, i, text, err);
    }
    return status;
}

int32_t pico_vocab_find(const pico_vocab *vocab, const char *text) {
    size_t n = strlen(text);
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        const pico_piece *piece = &vocab->piece[i];
        if (piece->text != NULL && piece->n == n && memcmp(piece->text, text, n) == 0) {
            return (int32_t)i;
        }
    }
    return -1;
}

/* ---- special tokens ---- */

/* How a user-defined token takes text from its neighbours; that is not done here. */
static pico_status check_greed(const json_t *token, const char *content, pico_error *err) {
    static const char *const keys[] = {"lstrip", "rstrip", "single_word"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        uint32_t set = 0;
        pico_status status = pico_json_bool(token, keys[i], &set, err);
        if (status == PICO_OK && set) {
            status = pico_fail(err, PICO_E_UNSUPPORTED,
                               "token \"%.64s\" is found in text with \"%s\", which is not done "
                               "here",
                               content, keys[i]);
        }
        if (status != PICO_OK) {
            return status;
        }
    }
    return PICO_OK;
}

pico_status pico_vocab_add_token(const json_t *token, int64_t id, pico_arena *arena,
                                 pico_vocab *vocab, pico_error *err) {
    const char *content = "";
    uint32_t special = 0;
    if (!json_is_object(token)) {
        return pico_fail(err, PICO_E_CORRUPT, "a token that is %s, expected an object",
                         pico_json_type_name(token));
    }
    if (id < 0 || id >= (int64_t)vocab->n_piece + PICO_VOCAB_MAX_GAP) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "a token with the id %lld, but there are only %u others", (long long)id,
                         vocab->n_piece);
    }
    pico_status status = pico_json_text(token, "content", PICO_JSON_REQUIRED, &content, err);
    if (status == PICO_OK) {
        status = pico_json_bool(token, "special", &special, err);
    }
    if (status == PICO_OK && !special) {
        status = check_greed(token, content, err);
    }
    if (status == PICO_OK) {
        status = pico_vocab_resize(arena, vocab, (uint32_t)id + 1, err);
    }
    if (status == PICO_OK) {
        status = put_text(arena, vocab, (uint32_t)id, content, err);
    }
    pico_piece *piece = status == PICO_OK ? &pico_vocab_pieces(vocab)[id] : NULL;
    if (piece != NULL && piece->type != PICO_PIECE_UNKNOWN && piece->type != PICO_PIECE_BYTE) {
        piece->type = special ? PICO_PIECE_CONTROL : PICO_PIECE_USER;
    }
    return status;
}

int pico_vocab_needs_merges(const pico_vocab *vocab) {
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        const pico_piece *piece = &vocab->piece[i];
        uint32_t characters = 0;
        for (uint32_t j = 0; piece->type == PICO_PIECE_NORMAL && j < piece->n; j++) {
            characters += ((unsigned char)piece->text[j] & 0xc0u) != 0x80;
        }
        if (characters > 1) {
            return 1;
        }
    }
    return 0;
}

static pico_status name_gaps(pico_arena *arena, pico_vocab *vocab, pico_error *err) {
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        char text[24];
        pico_piece *piece = &pico_vocab_pieces(vocab)[i];
        if (piece->text != NULL) {
            continue;
        }
        (void)snprintf(text, sizeof text, "[PAD%u]", i);
        *piece = (pico_piece){.type = PICO_PIECE_UNUSED, .score = -1e6f};
        pico_status status = put_text(arena, vocab, i, text, err);
        if (status != PICO_OK) {
            return status;
        }
    }
    return PICO_OK;
}

pico_status pico_vocab_finish(uint32_t n_vocab, pico_arena *arena, pico_vocab *vocab,
                              pico_error *err) {
    pico_status status = PICO_OK;
    if (n_vocab > vocab->n_piece && n_vocab - vocab->n_piece <= PICO_VOCAB_MAX_GAP) {
        status = pico_vocab_resize(arena, vocab, n_vocab, err);
    }
    if (status == PICO_OK) {
        status = name_gaps(arena, vocab, err);
    }
    if (status != PICO_OK) {
        return status;
    }
    int spm = vocab->kind == PICO_VOCAB_SPM;
    int32_t begin = pico_vocab_find(vocab, spm ? "<s>" : end_of_text);
    int32_t end = pico_vocab_find(vocab, spm ? "</s>" : end_of_text);
    pico_vocab customary = *vocab;
    pico_gguf_vocab_defaults(&customary);
    vocab->bos = vocab->bos < 0 ? begin : vocab->bos;
    vocab->eos = vocab->eos < 0 ? end : vocab->eos;
    vocab->eot = vocab->eot < 0 ? customary.eot : vocab->eot;
    return PICO_OK;
}

/* ---- GPT-2's two files ---- */

static uint32_t count_lines(const char *text, uint64_t n) {
    uint32_t lines = 0;
    for (uint64_t i = 0; i < n; i++) {
        lines += text[i] == '\n';
    }
    return lines + 1;
}

static pico_status read_merges(const pico_map *map, pico_arena *arena, pico_vocab *vocab,
                               pico_error *err) {
    static const char version[] = "#version";
    if (map->size > UINT32_MAX) {
        return pico_fail(err, PICO_E_LIMIT, "%llu bytes of merges are too many",
                         (unsigned long long)map->size);
    }
    const char *text = pico_arena_strndup(arena, (const char *)map->data, (size_t)map->size);
    pico_piece *merges =
        text == NULL ? NULL : pico_arena_alloc(arena, count_lines(text, map->size), sizeof *merges);
    if (merges == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for the merges");
    }
    const char *end = text + map->size;
    uint32_t line = 0;
    for (const char *at = text; at < end; line++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        const char *next = stop == NULL ? end : stop + 1;
        stop = stop == NULL ? end : stop;
        stop -= stop > at && stop[-1] == '\r';
        size_t n = (size_t)(stop - at);
        const char *space = n < 3 || at[0] == ' ' ? NULL : memchr(at + 1, ' ', n - 2);
        int skipped = n == 0 || (line == 0 && n >= sizeof version - 1 &&
                                 memcmp(at, version, sizeof version - 1) == 0);
        if (!skipped && (n > PICO_VOCAB_MAX_PIECE || space == NULL ||
                         memchr(space + 1, ' ', (size_t)(stop - space - 1)) != NULL)) {
            return pico_fail(err, PICO_E_CORRUPT,
                             "line %u, \"%.*s\", is not two pieces with a space between", line + 1,
                             (int)(n < 64 ? n : 64), at);
        }
        if (!skipped) {
            merges[vocab->n_merge++] = (pico_piece){.text = at, .n = (uint32_t)n};
        }
        at = next;
    }
    vocab->merge = merges;
    return PICO_OK;
}

pico_status pico_vocab_json_pair(const json_t *pieces, const pico_map *merges, pico_arena *arena,
                                 pico_vocab *vocab, pico_error *err) {
    pico_error inner = {0};
    pico_vocab_begin(vocab, PICO_VOCAB_BPE);
    vocab->pre = "gpt-2";
    pico_status status = pico_vocab_from_object(pieces, arena, vocab, err);
    if (status != PICO_OK) {
        return status;
    }
    int32_t end = pico_vocab_find(vocab, end_of_text);
    if (end >= 0) {
        pico_vocab_pieces(vocab)[end].type = PICO_PIECE_CONTROL;
    }
    status = read_merges(merges, arena, vocab, &inner);
    if (status == PICO_OK && vocab->n_merge == 0 && pico_vocab_needs_merges(vocab)) {
        status = pico_fail(&inner, PICO_E_CORRUPT, "none, but there are tokens of several bytes");
    }
    return status == PICO_OK ? PICO_OK : pico_fail(err, status, "its merges: %s", inner.message);
}
