/*
 * SentencePiece's tokenizer.model: a ModelProto in protobuf's wire format, of which the pieces and
 * a few settings are read. BPE models only. Refuses models that normalise text before they cut it,
 * because nothing here would do that.
 */
#include <math.h>
#include <string.h>

#include "formats/vocab_json.h"

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

typedef struct span {
    const unsigned char *at, *end;
} span;

typedef struct field {
    uint32_t number, wire;
    uint64_t value; /* of a varint, or the bits of a fixed one */
    span bytes;
} field;

/* ---- wire format ---- */

static int read_varint(span *s, uint64_t *out) {
    *out = 0;
    for (unsigned shift = 0; shift < 70 && s->at < s->end; shift += 7) {
        unsigned char byte = *s->at++;
        *out |= shift < 64 ? (uint64_t)(byte & 0x7fu) << shift : 0;
        if (byte < 0x80) {
            return 1;
        }
    }
    return 0;
}

static int read_fixed(span *s, size_t n, uint64_t *out) {
    if ((size_t)(s->end - s->at) < n) {
        return 0;
    }
    *out = 0;
    memcpy(out, s->at, n);
    s->at += n;
    return 1;
}

/* 1 and the next field, or 0 if the bytes are none. */
static int read_field(span *s, field *f) {
    uint64_t tag, n;
    *f = (field){0};
    if (!read_varint(s, &tag) || tag >> 3 == 0 || tag >> 3 > UINT32_MAX) {
        return 0;
    }
    f->number = (uint32_t)(tag >> 3);
    f->wire = (uint32_t)(tag & 7);
    switch (f->wire) {
    case WIRE_VARINT:
        return read_varint(s, &f->value);
    case WIRE_64:
        return read_fixed(s, 8, &f->value);
    case WIRE_32:
        return read_fixed(s, 4, &f->value);
    case WIRE_BYTES:
        if (!read_varint(s, &n) || n > (uint64_t)(s->end - s->at)) {
            return 0;
        }
        f->bytes = (span){s->at, s->at + n};
        s->at += n;
        return 1;
    default:
        return 0;
    }
}

static pico_status malformed(const pico_map *map, const span *s, pico_error *err) {
    return pico_fail(err, PICO_E_CORRUPT,
                     "tokenizer.model: no protobuf field ends within the message at offset %llu: "
                     "truncated or damaged",
                     (unsigned long long)(s->at - map->data));
}

/* The first piece: its length, then the length of its text. No tokenizer.bin of llama2.c begins
 * like that, because its longest piece would be too long. */
int pico_vocab_spm_detect(const pico_map *map) {
    return map->size > 4 && map->data[0] == 0x0a && map->data[1] > 2 && map->data[1] < 0x80 &&
           map->data[2] == 0x0a && map->data[3] < map->data[1];
}

/* ---- settings ---- */

/* What ModelProto says beyond the pieces; the values here are protobuf's defaults. */
typedef struct settings {
    uint64_t model_type; /* 1: unigram, 2: BPE */
    uint64_t unk, bos, eos, pad;
    uint64_t whitespace_as_suffix;
    uint64_t dummy_prefix, remove_extra_whitespaces, escape_whitespaces;
    span rule, charsmap, rules;
} settings;
static const settings defaults = {.model_type = 1,
                                  .unk = 0,
                                  .bos = 1,
                                  .eos = 2,
                                  .pad = UINT64_MAX,
                                  .dummy_prefix = 1,
                                  .remove_extra_whitespaces = 1,
                                  .escape_whitespaces = 1};

static int read_trainer_spec(span s, settings *out) {
    const struct {
        uint32_t number;
        uint64_t *out;
    } wanted[] = {{3, &out->model_type}, {24, &out->whitespace_as_suffix},
                  {40, &out->unk},       {41, &out->bos},
                  {42, &out->eos},       {43, &out->pad}};
    field f;
    while (s.at < s.end) {
        if (!read_field(&s, &f)) {
            return 0;
        }
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
            if (f.number == wanted[i].number && f.wire == WIRE_VARINT) {
                *wanted[i].out = f.value;
            }
        }
    }
    return 1;
}

static int read_normalizer_spec(span s, settings *out) {
    const struct {
        uint32_t number, wire;
        uint64_t *value;
        span *bytes;
    } wanted[] = {{1, WIRE_BYTES, NULL, &out->rule},
                  {2, WIRE_BYTES, NULL, &out->charsmap},
                  {3, WIRE_VARINT, &out->dummy_prefix, NULL},
                  {4, WIRE_VARINT, &out->remove_extra_whitespaces, NULL},
                  {5, WIRE_VARINT, &out->escape_whitespaces, NULL},
                  {6, WIRE_BYTES, NULL, &out->rules}};
    field f;
    while (s.at < s.end) {
        if (!read_field(&s, &f)) {
            return 0;
        }
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
            if (f.number != wanted[i].number || f.wire != wanted[i].wire) {
                continue;
            }
            if (wanted[i].value != NULL) {
                *wanted[i].value = f.value;
            } else {
                *wanted[i].bytes = f.bytes;
            }
        }
    }
    return 1;
}

static pico_status check_settings(const settings *s, pico_error *err) {
    static const char *const names[] = {"none", "unigram", "BPE", "word", "char"};
    if (s->model_type != 2) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "tokenizer.model: a SentencePiece model of type %s; supported is BPE",
                         s->model_type < 5 ? names[s->model_type] : "unknown");
    }
    if (s->charsmap.at != s->charsmap.end || s->rules.at != s->rules.end) {
        size_t n = (size_t)(s->rule.end - s->rule.at);
        return pico_fail(
            err, PICO_E_UNSUPPORTED,
            "tokenizer.model: text is normalised by the rule \"%.*s\" first; supported "
            "is identity",
            (int)(n < 64 ? n : 64), n == 0 ? "" : (const char *)s->rule.at);
    }
    const char *what = s->remove_extra_whitespaces ? "extra spaces are removed"
                       : !s->escape_whitespaces    ? "spaces are not escaped"
                       : s->whitespace_as_suffix   ? "spaces end words"
                                                   : NULL;
    return what == NULL ? PICO_OK
                        : pico_fail(err, PICO_E_UNSUPPORTED,
                                    "tokenizer.model: %s, which is not done here", what);
}

/* ---- pieces ---- */

static pico_status read_piece(const pico_map *map, span s, uint32_t id, pico_piece *piece,
                              pico_error *err) {
    *piece = (pico_piece){.type = PICO_PIECE_NORMAL};
    uint64_t type = PICO_PIECE_NORMAL;
    field f;
    while (s.at < s.end) {
        if (!read_field(&s, &f)) {
            return malformed(map, &s, err);
        }
        if (f.number == 1 && f.wire == WIRE_BYTES) {
            piece->text = (const char *)f.bytes.at;
            piece->n = (uint32_t)(f.bytes.end - f.bytes.at); /* checked with the total */
        } else if (f.number == 2 && f.wire == WIRE_32) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&piece->score, &bits, sizeof piece->score);
        } else if (f.number == 3 && f.wire == WIRE_VARINT) {
            type = f.value;
        }
    }
    if (piece->text == NULL || piece->n > PICO_VOCAB_MAX_PIECE || type < PICO_PIECE_NORMAL ||
        type > PICO_PIECE_BYTE || isnan(piece->score)) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "tokenizer.model: piece %u has %u bytes, type %llu and score %g; expected "
                         "at most %d bytes, type 1 to 6 and a number",
                         id, piece->n, (unsigned long long)type, (double)piece->score,
                         PICO_VOCAB_MAX_PIECE);
    }
    piece->type = (uint32_t)type;
    return PICO_OK;
}

/* Goes through the message: counts pieces, or reads them where pieces is not NULL. */
static pico_status walk(const pico_map *map, settings *s, pico_piece *pieces, uint64_t *n,
                        pico_error *err) {
    span message = {map->data, map->data + map->size};
    field f;
    *n = 0;
    while (message.at < message.end) {
        if (!read_field(&message, &f)) {
            return malformed(map, &message, err);
        }
        pico_status status = PICO_OK;
        int known = f.wire == WIRE_BYTES;
        if (known && f.number == 1) {
            status =
                pieces == NULL ? PICO_OK : read_piece(map, f.bytes, (uint32_t)*n, &pieces[*n], err);
            ++*n;
        } else if ((known && f.number == 2 && !read_trainer_spec(f.bytes, s)) ||
                   (known && f.number == 3 && !read_normalizer_spec(f.bytes, s))) {
            status = malformed(map, &f.bytes, err);
        }
        if (status != PICO_OK) {
            return status;
        }
    }
    return PICO_OK;
}

static pico_status copy_texts(pico_arena *arena, pico_vocab *vocab, pico_error *err) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        total += vocab->piece[i].n; /* within the size of the file */
    }
    char *block = pico_arena_alloc(arena, (size_t)total + 1, 1);
    if (block == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for the vocabulary");
    }
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        pico_piece *piece = &pico_vocab_pieces(vocab)[i];
        memcpy(block, piece->text, piece->n);
        piece->text = block;
        block += piece->n;
    }
    return PICO_OK;
}

/* Ids are int32 on the wire: -1 is 2^64 - 1. */
static pico_status read_ids(const settings *s, pico_vocab *vocab, pico_error *err) {
    const struct {
        const char *what;
        uint64_t id;
        int32_t *out;
    } ids[] = {{"unk_id", s->unk, &vocab->unk},
               {"bos_id", s->bos, &vocab->bos},
               {"eos_id", s->eos, &vocab->eos},
               {"pad_id", s->pad, &vocab->pad}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        if (ids[i].id != UINT64_MAX && ids[i].id >= vocab->n_piece) {
            return pico_fail(err, PICO_E_CORRUPT,
                             "tokenizer.model: %s is %lld, but there are %u "
                             "pieces",
                             ids[i].what, (long long)ids[i].id, vocab->n_piece);
        }
        *ids[i].out = ids[i].id == UINT64_MAX ? -1 : (int32_t)ids[i].id;
    }
    return PICO_OK;
}

pico_status pico_vocab_spm_read(const pico_map *map, pico_arena *arena, pico_vocab *vocab,
                                pico_error *err) {
    settings s = defaults;
    uint64_t n = 0;
    pico_vocab_begin(vocab, PICO_VOCAB_SPM);
    pico_status status = walk(map, &s, NULL, &n, err);
    if (status == PICO_OK && (n == 0 || n > PICO_MAX_VOCAB)) {
        status = pico_fail(err, PICO_E_CORRUPT, "tokenizer.model: %llu pieces, expected 1 to %d",
                           (unsigned long long)n, PICO_MAX_VOCAB);
    }
    if (status == PICO_OK) {
        status = check_settings(&s, err);
    }
    if (status == PICO_OK) {
        status = pico_vocab_resize(arena, vocab, (uint32_t)n, err);
    }
    if (status == PICO_OK) {
        status = walk(map, &s, pico_vocab_pieces(vocab), &n, err);
    }
    if (status == PICO_OK) {
        status = copy_texts(arena, vocab, err);
    }
    if (status == PICO_OK) {
        status = read_ids(&s, vocab, err);
    }
    vocab->add_bos = vocab->bos >= 0;
    vocab->add_space_prefix = s.dummy_prefix != 0;
    return status;
}
