/*
 * The vocabulary in a GGUF file: tokenizer.ggml.* keys, with the defaults that are customary where
 * keys are absent. SentencePiece-style ("llama") and byte-level BPE ("gpt2") only; every id is
 * checked against the number of pieces. Texts are copied, so the file may be unmapped afterwards.
 */
#include <math.h>
#include <string.h>

#include "formats/gguf.h"

enum { MAX_PIECE_BYTES = 65535 };
static const char space_mark[] = "\xe2\x96\x81"; /* U+2581 */

typedef struct vocab_reader {
    const pico_gguf *gguf;
    pico_arena *arena;
    pico_vocab *vocab;
    pico_error *err;
} vocab_reader;

/* ---- pieces ---- */

static int is_byte_piece(const pico_piece *piece) {
    static const char digits[] = "0123456789ABCDEFabcdef";
    return piece->n == 6 && memcmp(piece->text, "<0x", 3) == 0 && piece->text[5] == '>' &&
           piece->text[3] != '\0' && piece->text[4] != '\0' &&
           strchr(digits, piece->text[3]) != NULL && strchr(digits, piece->text[4]) != NULL;
}

/* Copies n texts of an array into one block; extra bytes stay free at its end. */
static pico_status copy_texts(const vocab_reader *r, const pico_gguf_value *array, uint32_t room,
                              pico_piece **out) {
    const unsigned char *at = array->data;
    uint64_t n, total = room;
    for (uint64_t i = 0; i < array->n; i++) {
        (void)pico_gguf_string_next(&at, &n);
        total += n; /* within the size of the file */
        if (n > MAX_PIECE_BYTES) {
            return pico_fail(r->err, PICO_E_CORRUPT,
                             "key %s: text %llu has %llu bytes, expected at most %d", array->key,
                             (unsigned long long)i, (unsigned long long)n, MAX_PIECE_BYTES);
        }
    }
    pico_piece *pieces = pico_arena_alloc(r->arena, (size_t)array->n, sizeof *pieces);
    char *block = pico_arena_alloc(r->arena, (size_t)total, 1);
    if (pieces == NULL || block == NULL) {
        return pico_fail(r->err, PICO_E_NOMEM, "out of memory for the vocabulary");
    }
    at = array->data;
    for (uint64_t i = 0; i < array->n; i++) {
        const char *text = pico_gguf_string_next(&at, &n);
        memcpy(block, text, (size_t)n);
        pieces[i] = (pico_piece){.text = block, .n = (uint32_t)n, .type = PICO_PIECE_NORMAL};
        block += n;
    }
    *out = pieces;
    return PICO_OK;
}

/* An array parallel to the pieces; NULL if absent and optional. */
static pico_status parallel_array(const vocab_reader *r, const char *key, int required, int want,
                                  const pico_gguf_value **out) {
    pico_status status = pico_gguf_array(r->gguf, key, required, want, out, r->err);
    if (status == PICO_OK && *out != NULL && (*out)->n != r->vocab->n_piece) {
        return pico_fail(r->err, PICO_E_CORRUPT, "key %s has %llu elements, expected %u (tokens)",
                         key, (unsigned long long)(*out)->n, r->vocab->n_piece);
    }
    return status;
}

static pico_status read_scores(const vocab_reader *r, pico_piece *pieces) {
    static const char key[] = "tokenizer.ggml.scores";
    const pico_gguf_value *scores;
    int required = r->vocab->kind == PICO_VOCAB_SPM;
    pico_status status = parallel_array(r, key, required, PICO_GGUF_WANT_FLOAT, &scores);
    for (uint32_t i = 0; status == PICO_OK && scores != NULL && i < r->vocab->n_piece; i++) {
        pieces[i].score = (float)pico_gguf_float_at(scores, i);
        if (isnan(pieces[i].score)) {
            status = pico_fail(r->err, PICO_E_CORRUPT, "key %s: score %u is not a number", key, i);
        }
    }
    return status;
}

static pico_status read_types(const vocab_reader *r, pico_piece *pieces) {
    static const char key[] = "tokenizer.ggml.token_type";
    const pico_gguf_value *types;
    pico_status status = parallel_array(r, key, 0, PICO_GGUF_WANT_INTEGER, &types);
    int spm = r->vocab->kind == PICO_VOCAB_SPM;
    for (uint32_t i = 0; status == PICO_OK && i < r->vocab->n_piece; i++) {
        if (types == NULL) {
            pieces[i].type = spm && is_byte_piece(&pieces[i]) ? PICO_PIECE_BYTE : PICO_PIECE_NORMAL;
            continue;
        }
        int64_t type = pico_gguf_integer_at(types, i);
        if (type < 0 || type > PICO_PIECE_BYTE) {
            return pico_fail(r->err, PICO_E_CORRUPT, "key %s: type %lld of token %u, expected 0..6",
                             key, (long long)type, i);
        }
        pieces[i].type = type == 0 ? (uint32_t)PICO_PIECE_NORMAL : (uint32_t)type;
        if (spm && type == PICO_PIECE_BYTE && !is_byte_piece(&pieces[i])) {
            return pico_fail(r->err, PICO_E_CORRUPT,
                             "key tokenizer.ggml.tokens: byte token %u is not written <0xNN>", i);
        }
    }
    return status;
}

/* Undoes what gguf_vocab_write.c did for other programs: U+2581 for the space, <s> and </s>. */
static void unescape(pico_vocab *vocab, pico_piece *pieces, char *room) {
    static const char *const controls[] = {"\n<s>\n", "\n</s>\n"};
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        char *text = (char *)(uintptr_t)pieces[i].text; /* our own copy */
        uint32_t n = 0;
        for (uint32_t j = 0; j < pieces[i].n; j++) {
            int mark = pieces[i].n - j >= 3 && memcmp(text + j, space_mark, 3) == 0;
            text[n++] = mark ? ' ' : text[j];
            j += mark ? 2 : 0;
        }
        pieces[i].n = n;
    }
    for (uint32_t i = 0; i < 2 && i + 1 < vocab->n_piece; i++) {
        size_t n = strlen(controls[i]);
        memcpy(room, controls[i], n);
        pieces[i + 1].text = room;
        pieces[i + 1].n = (uint32_t)n;
        room += n;
    }
}

static pico_status read_pieces(const vocab_reader *r) {
    enum { ROOM = 16 };
    const pico_gguf_value *tokens;
    pico_piece *pieces = NULL;
    uint32_t escaped = 0;
    pico_status status = pico_gguf_array(r->gguf, "tokenizer.ggml.tokens", PICO_GGUF_REQUIRED,
                                         PICO_GGUF_WANT_STRING, &tokens, r->err);
    if (status == PICO_OK && (tokens->n == 0 || tokens->n > PICO_MAX_VOCAB)) {
        status = pico_fail(r->err, PICO_E_CORRUPT,
                           "key tokenizer.ggml.tokens has %llu elements, expected 1 to %d",
                           (unsigned long long)tokens->n, PICO_MAX_VOCAB);
    }
    if (status == PICO_OK) {
        status = copy_texts(r, tokens, ROOM, &pieces);
    }
    if (status != PICO_OK) {
        return status;
    }
    r->vocab->n_piece = (uint32_t)tokens->n;
    r->vocab->piece = pieces;
    status = read_scores(r, pieces);
    if (status == PICO_OK) {
        status = read_types(r, pieces);
    }
    if (status == PICO_OK) {
        status = pico_gguf_bool(r->gguf, "picochat.tokenizer.llama2c", PICO_GGUF_OPTIONAL,
                                &r->vocab->llama2c, r->err);
    }
    if (status == PICO_OK) {
        status = pico_gguf_bool(r->gguf, "picochat.tokenizer.escaped", PICO_GGUF_OPTIONAL, &escaped,
                                r->err);
    }
    if (status == PICO_OK && escaped) {
        char *room = pico_arena_alloc(r->arena, ROOM, 1);
        if (room == NULL) {
            return pico_fail(r->err, PICO_E_NOMEM, "out of memory for the vocabulary");
        }
        unescape(r->vocab, pieces, room);
    }
    return status;
}

static pico_status read_merges(const vocab_reader *r) {
    static const char key[] = "tokenizer.ggml.merges";
    const pico_gguf_value *merges;
    pico_piece *pieces = NULL;
    int required = r->vocab->kind == PICO_VOCAB_BPE;
    pico_status status =
        pico_gguf_array(r->gguf, key, required, PICO_GGUF_WANT_STRING, &merges, r->err);
    if (status != PICO_OK || merges == NULL || !required) {
        return status; /* SentencePiece has no use for merges */
    }
    if (merges->n > PICO_MAX_VOCAB) {
        return pico_fail(r->err, PICO_E_CORRUPT, "key %s has %llu elements, expected at most %d",
                         key, (unsigned long long)merges->n, PICO_MAX_VOCAB);
    }
    status = copy_texts(r, merges, 0, &pieces);
    for (uint64_t i = 0; status == PICO_OK && i < merges->n; i++) {
        const pico_piece *m = &pieces[i];
        if (m->n < 3 || memchr(m->text + 1, ' ', m->n - 2) == NULL) {
            status = pico_fail(r->err, PICO_E_CORRUPT,
                               "key %s: merge %llu is not two pieces with a space between", key,
                               (unsigned long long)i);
        }
    }
    r->vocab->merge = pieces;
    r->vocab->n_merge = (uint32_t)merges->n;
    return status;
}

/* ---- ids and switches ---- */

static int32_t find_piece(const pico_vocab *vocab, const char *text) {
    size_t n = strlen(text);
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        if (vocab->piece[i].n == n && memcmp(vocab->piece[i].text, text, n) == 0) {
            return (int32_t)i;
        }
    }
    return -1;
}

void pico_gguf_vocab_defaults(pico_vocab *vocab) {
    static const char *const ends_of_turn[] = {"<|eot_id|>", "<|im_end|>", "<|end|>",
                                               "<end_of_turn>"};
    static const char *const bos_by_default[] = {"llama3", "llama-v3", "llama-bpe", "tekken"};
    int spm = vocab->kind == PICO_VOCAB_SPM;
    int32_t n = (int32_t)vocab->n_piece;
    int32_t end = spm ? -1 : find_piece(vocab, "<|endoftext|>");
    vocab->bos = spm ? (n > 1 ? 1 : -1) : end;
    vocab->eos = spm ? (n > 2 ? 2 : -1) : end;
    vocab->unk = spm ? 0 : -1;
    vocab->pad = vocab->eot = -1;
    for (size_t i = 0; vocab->eot < 0 && i < sizeof ends_of_turn / sizeof *ends_of_turn; i++) {
        vocab->eot = find_piece(vocab, ends_of_turn[i]);
    }
    vocab->add_bos = (uint32_t)spm;
    vocab->add_eos = 0;
    vocab->add_space_prefix = (uint32_t)spm;
    for (size_t i = 0; i < sizeof bos_by_default / sizeof *bos_by_default; i++) {
        if (!spm && vocab->pre != NULL && strcmp(vocab->pre, bos_by_default[i]) == 0) {
            vocab->add_bos = 1;
        }
    }
}

static pico_status read_ids(const vocab_reader *r) {
    pico_vocab *v = r->vocab;
    const struct {
        const char *key;
        int32_t *out;
    } ids[] = {
        {"tokenizer.ggml.bos_token_id", &v->bos},     {"tokenizer.ggml.eos_token_id", &v->eos},
        {"tokenizer.ggml.unknown_token_id", &v->unk}, {"tokenizer.ggml.padding_token_id", &v->pad},
        {"tokenizer.ggml.eot_token_id", &v->eot},
    };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        int64_t id = *ids[i].out;
        pico_status status = pico_gguf_integer(r->gguf, ids[i].key, 0, -1, UINT32_MAX, &id, r->err);
        id = id == UINT32_MAX ? -1 : id; /* how "none" is written */
        if (status == PICO_OK && id >= v->n_piece) {
            status = pico_fail(r->err, PICO_E_CORRUPT,
                               "key %s is %lld, but the vocabulary has %u tokens", ids[i].key,
                               (long long)id, v->n_piece);
        }
        if (status != PICO_OK) {
            return status;
        }
        *ids[i].out = (int32_t)id;
    }
    return PICO_OK;
}

static pico_status read_switches(const vocab_reader *r) {
    pico_vocab *v = r->vocab;
    const struct {
        const char *key;
        uint32_t *out;
    } switches[] = {
        {"tokenizer.ggml.add_bos_token", &v->add_bos},
        {"tokenizer.ggml.add_eos_token", &v->add_eos},
        {"tokenizer.ggml.add_space_prefix", &v->add_space_prefix},
    };
    pico_status status = PICO_OK;
    for (size_t i = 0; status == PICO_OK && i < sizeof switches / sizeof *switches; i++) {
        status = pico_gguf_bool(r->gguf, switches[i].key, 0, switches[i].out, r->err);
    }
    return status;
}

/* Files without types: the special ids tell which pieces are control tokens. */
static void mark_special(const vocab_reader *r, pico_piece *pieces) {
    const pico_vocab *v = r->vocab;
    if (pico_gguf_find(r->gguf, "tokenizer.ggml.token_type") != NULL) {
        return;
    }
    if (v->bos >= 0) {
        pieces[v->bos].type = PICO_PIECE_CONTROL;
    }
    if (v->eos >= 0) {
        pieces[v->eos].type = PICO_PIECE_CONTROL;
    }
    if (v->unk >= 0) {
        pieces[v->unk].type = PICO_PIECE_UNKNOWN;
    }
}

pico_status pico_gguf_read_vocab(const pico_gguf *gguf, pico_arena *arena, pico_vocab *vocab,
                                 pico_error *err) {
    const vocab_reader r = {.gguf = gguf, .arena = arena, .vocab = vocab, .err = err};
    const char *model = "none";
    *vocab = (pico_vocab){.bos = -1, .eos = -1, .unk = -1, .pad = -1, .eot = -1};
    pico_status status = pico_gguf_text(gguf, "tokenizer.ggml.model", 0, &model, err);
    if (status != PICO_OK || strcmp(model, "none") == 0 || strcmp(model, "no_vocab") == 0) {
        return status;
    }
    vocab->kind = strcmp(model, "llama") == 0  ? PICO_VOCAB_SPM
                  : strcmp(model, "gpt2") == 0 ? PICO_VOCAB_BPE
                                               : PICO_VOCAB_NONE;
    if (vocab->kind == PICO_VOCAB_NONE) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "key tokenizer.ggml.model is \"%.64s\"; supported are llama and gpt2",
                         model);
    }
    status = pico_gguf_text(gguf, "tokenizer.ggml.pre", 0, &vocab->pre, err);
    if (status == PICO_OK) {
        status = read_pieces(&r);
    }
    if (status == PICO_OK) {
        status = read_merges(&r);
    }
    if (status == PICO_OK) {
        pico_gguf_vocab_defaults(vocab);
        status = read_ids(&r);
    }
    if (status == PICO_OK) {
        status = read_switches(&r);
    }
    if (status == PICO_OK) {
        mark_special(&r, (pico_piece *)(uintptr_t)vocab->piece);
        status = pico_gguf_text(gguf, "tokenizer.chat_template", 0, &vocab->chat_template, err);
    }
    return status;
}
