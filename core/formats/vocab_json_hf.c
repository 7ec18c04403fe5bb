/*
 * tokenizer.json of Hugging Face, models of type BPE: byte-level ones, and those that came from
 * SentencePiece. Every step that changes text or tokens is looked at (vocab_json_steps.c), and refused
 * by name if it is not what the tokenizers here do.
 */
#include <string.h>

#include "formats/vocab_json.h"

int pico_tokenizer_json_is(const json_t *root) {
    return json_is_object(json_object_get(root, "model"));
}

/* ---- pieces ---- */

static pico_status read_added_tokens(const pico_tokenizer_json *r) {
    const json_t *list = NULL, *token;
    size_t i;
    pico_status status =
        pico_json_child(r->root, "added_tokens", PICO_JSON_OPTIONAL, JSON_ARRAY, &list, r->err);
    json_array_foreach(list, i, token) {
        int64_t id = -1;
        if (status == PICO_OK && json_is_object(token)) {
            status = pico_json_integer(token, "id", PICO_JSON_REQUIRED, 0, PICO_MAX_VOCAB - 1, &id,
                                       r->err);
        }
        if (status == PICO_OK) {
            status = pico_vocab_add_token(token, id, r->arena, r->vocab, r->err);
        }
        if (status != PICO_OK) {
            return status;
        }
    }
    return status;
}

/* "left right", or ["left", "right"] as newer files have it. */
static pico_status read_merge(const pico_tokenizer_json *r, const json_t *merge, size_t i,
                              pico_piece *out) {
    const char *left = json_string_value(json_array_get(merge, 0));
    const char *right = json_string_value(json_array_get(merge, 1));
    char *text = NULL;
    if (json_is_string(merge)) {
        text = pico_arena_strdup(r->arena, json_string_value(merge));
    } else if (json_array_size(merge) == 2 && left != NULL && right != NULL) {
        text = pico_arena_printf(r->arena, "%s %s", left, right);
    } else {
        return pico_fail(r->err, PICO_E_CORRUPT,
                         "key \"merges\": entry %zu is %s, expected \"left right\"", i,
                         pico_json_type_name(merge));
    }
    if (text == NULL) {
        return pico_fail(r->err, PICO_E_NOMEM, "out of memory for the merges");
    }
    size_t n = strlen(text);
    const char *space = n < 3 || text[0] == ' ' ? NULL : memchr(text + 1, ' ', n - 2);
    if (space == NULL || strchr(space + 1, ' ') != NULL || n > PICO_VOCAB_MAX_PIECE) {
        return pico_fail(r->err, PICO_E_CORRUPT,
                         "key \"merges\": entry %zu, \"%.64s\", is not two pieces with a space "
                         "between",
                         i, text);
    }
    *out = (pico_piece){.text = text, .n = (uint32_t)n};
    return PICO_OK;
}

static pico_status read_merges(const pico_tokenizer_json *r, const json_t *list) {
    size_t n = json_array_size(list);
    if (n > UINT32_MAX) {
        return pico_fail(r->err, PICO_E_LIMIT, "%zu merges are too many", n);
    }
    if (n == 0 && pico_vocab_needs_merges(r->vocab)) {
        return pico_fail(r->err, PICO_E_CORRUPT,
                         "key \"merges\": none, but there are tokens of several bytes");
    }
    pico_piece *merges = pico_arena_alloc(r->arena, n, sizeof *merges);
    if (merges == NULL) {
        return pico_fail(r->err, PICO_E_NOMEM, "out of memory for %zu merges", n);
    }
    pico_status status = PICO_OK;
    for (size_t i = 0; status == PICO_OK && i < n; i++) {
        status = read_merge(r, json_array_get(list, i), i, &merges[i]);
    }
    r->vocab->merge = merges;
    r->vocab->n_merge = (uint32_t)n;
    return status;
}

/* ---- from SentencePiece ---- */

static int is_byte_name(const pico_piece *piece) {
    static const char digits[] = "0123456789ABCDEF";
    return piece->n == 6 && memcmp(piece->text, "<0x", 3) == 0 && piece->text[5] == '>' &&
           memchr(digits, piece->text[3], 16) != NULL && memchr(digits, piece->text[4], 16) != NULL;
}

static pico_status mark_bytes(const pico_tokenizer_json *r) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->vocab->n_piece; i++) {
        pico_piece *piece = &pico_vocab_pieces(r->vocab)[i];
        if (piece->text != NULL && is_byte_name(piece)) {
            piece->type = PICO_PIECE_BYTE;
            n++;
        }
    }
    return n == 256 ? PICO_OK
                    : pico_fail(r->err, PICO_E_CORRUPT,
                                "key \"byte_fallback\" is true, but there are %u tokens for bytes, "
                                "expected 256 from <0x00> to <0xFF>",
                                n);
}

static pico_status read_spm(const pico_tokenizer_json *r, const json_t *pieces,
                            const json_t *merges, const json_t *const *pre, size_t n_pre) {
    const char *unknown = NULL;
    pico_status status =
        pico_json_text(r->model, "unk_token", PICO_JSON_OPTIONAL, &unknown, r->err);
    if (status == PICO_OK) {
        status = pico_tokenizer_json_spaces(r, pre, n_pre);
    }
    if (status == PICO_OK) {
        status = mark_bytes(r);
    }
    r->vocab->unk = status == PICO_OK && unknown != NULL ? pico_vocab_find(r->vocab, unknown) : -1;
    if (r->vocab->unk >= 0) {
        pico_vocab_pieces(r->vocab)[r->vocab->unk].type = PICO_PIECE_UNKNOWN;
    }
    if (status == PICO_OK) {
        status = read_added_tokens(r);
    }
    for (uint32_t i = 0; status == PICO_OK && i < r->vocab->n_piece; i++) {
        if (r->vocab->piece[i].type == PICO_PIECE_USER && r->vocab->add_space_prefix) {
            status = pico_fail(r->err, PICO_E_UNSUPPORTED,
                               "token \"%.64s\" is found in text and followed by another leading "
                               "space, which is not done here; if there is a tokenizer.model, name "
                               "it with --tokenizer",
                               r->vocab->piece[i].text);
        }
    }
    return status == PICO_OK ? pico_vocab_scores_of_merges(pieces, merges, r->vocab, r->err)
                             : status;
}

/* ---- tokens at the ends of a text ---- */

static pico_status read_template(const pico_tokenizer_json *r, const json_t *step) {
    const json_t *single = NULL, *item;
    size_t i;
    int seen_text = 0;
    pico_status status =
        pico_json_child(step, "single", PICO_JSON_REQUIRED, JSON_ARRAY, &single, r->err);
    json_array_foreach(single, i, item) {
        const json_t *special = pico_json_get(item, "SpecialToken");
        int32_t id = special == NULL
                         ? -1
                         : pico_vocab_find(r->vocab, pico_tokenizer_json_word(special, "id"));
        uint32_t *adds = seen_text ? &r->vocab->add_eos : &r->vocab->add_bos;
        if (pico_json_get(item, "Sequence") != NULL && !seen_text) {
            seen_text = 1;
        } else if (id >= 0 && !*adds) {
            *adds = 1;
            *(seen_text ? &r->vocab->eos : &r->vocab->bos) = id;
        } else {
            return pico_tokenizer_json_refuse(r, "post_processor", step);
        }
    }
    return status;
}

static pico_status read_ends(const pico_tokenizer_json *r) {
    const json_t *steps[4];
    size_t n = 0;
    pico_status status = pico_tokenizer_json_steps(r, "post_processor", "processors", steps, 4, &n);
    for (size_t i = 0; status == PICO_OK && i < n; i++) {
        if (pico_tokenizer_json_is_type(steps[i], "TemplateProcessing")) {
            status = read_template(r, steps[i]);
        } else if (!pico_tokenizer_json_is_type(steps[i],
                                                "ByteLevel")) { /* that one changes offsets only */
            status = pico_tokenizer_json_refuse(r, "post_processor", steps[i]);
        }
    }
    return status;
}

/* ---- all of it ---- */

/* What marks parts of words, or drops merges at random. */
static pico_status check_model(const pico_tokenizer_json *r) {
    const char *type = "BPE", *before = "", *after = "";
    double dropout = 0;
    pico_status status = pico_json_text(r->model, "type", PICO_JSON_OPTIONAL, &type, r->err);
    if (status == PICO_OK && strcmp(type, "BPE") != 0) {
        return pico_fail(r->err, PICO_E_UNSUPPORTED,
                         "a tokenizer of type \"%.64s\"; supported is BPE", type);
    }
    if (status == PICO_OK) {
        status = pico_json_text(r->model, "continuing_subword_prefix", 0, &before, r->err);
    }
    if (status == PICO_OK) {
        status = pico_json_text(r->model, "end_of_word_suffix", 0, &after, r->err);
    }
    if (status == PICO_OK) {
        status = pico_json_number(r->model, "dropout", PICO_JSON_OPTIONAL, &dropout, r->err);
    }
    if (status == PICO_OK && (before[0] != '\0' || after[0] != '\0' || dropout > 0)) {
        status = pico_fail(r->err, PICO_E_UNSUPPORTED,
                           "key \"%s\" of the model is set, which is not done here",
                           before[0] != '\0'  ? "continuing_subword_prefix"
                           : after[0] != '\0' ? "end_of_word_suffix"
                                              : "dropout");
    }
    return status;
}

static pico_status read_model(const pico_tokenizer_json *r) {
    const json_t *pieces = NULL, *merges = NULL, *pre[4];
    uint32_t byte_fallback = 0;
    size_t n_pre = 0;
    pico_status status =
        pico_json_child(r->model, "vocab", PICO_JSON_REQUIRED, JSON_OBJECT, &pieces, r->err);
    if (status == PICO_OK) {
        status =
            pico_json_child(r->model, "merges", PICO_JSON_REQUIRED, JSON_ARRAY, &merges, r->err);
    }
    if (status == PICO_OK) {
        status = pico_json_bool(r->model, "byte_fallback", &byte_fallback, r->err);
    }
    if (status == PICO_OK) {
        status = pico_tokenizer_json_steps(r, "pre_tokenizer", "pretokenizers", pre, 4, &n_pre);
    }
    if (status == PICO_OK) {
        pico_vocab_begin(r->vocab, byte_fallback ? PICO_VOCAB_SPM : PICO_VOCAB_BPE);
        status = pico_vocab_from_object(pieces, r->arena, r->vocab, r->err);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (byte_fallback) {
        return read_spm(r, pieces, merges, pre, n_pre);
    }
    if (n_pre == 0 || !pico_tokenizer_json_is_type(pre[n_pre - 1], "ByteLevel")) {
        return pico_tokenizer_json_refuse(r, "pre_tokenizer", n_pre == 0 ? NULL : pre[n_pre - 1]);
    }
    status = pico_tokenizer_json_byte_level(r, pre, n_pre);
    if (status == PICO_OK) {
        status = read_added_tokens(r);
    }
    return status == PICO_OK ? read_merges(r, merges) : status;
}

pico_status pico_tokenizer_json_read(const json_t *root, pico_arena *arena, pico_vocab *vocab,
                                     pico_error *err) {
    const pico_tokenizer_json r = {.root = root,
                                   .model = json_object_get(root, "model"),
                                   .arena = arena,
                                   .vocab = vocab,
                                   .err = err};
    pico_status status = check_model(&r);
    if (status == PICO_OK) {
        status = read_model(&r);
    }
    return status == PICO_OK ? read_ends(&r) : status;
}
