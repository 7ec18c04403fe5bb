/*
 * The model description from GGUF keys, by the table of gguf_fields.c. Architectures "llama" and
 * "picochat"; every other is refused, and so is a key under llama. or picochat. that nobody
 * understood, because it may change what the model computes.
 */
#include <string.h>

#include "formats/expect.h"
#include "formats/gguf.h"
#include "formats/gguf_fields.h"

typedef struct reader {
    const pico_gguf *gguf;
    const char *prefix; /* "llama." or "picochat." */
    pico_model_desc *desc;
    pico_layer_desc *layer; /* (n_layer), once that is known */
    pico_error *err;
} reader;

static void put_bytes(void *base, size_t offset, const void *value, size_t n) {
    memcpy((char *)base + offset, value, n);
}

/* One value for all layers, or an array with one for each. */
static pico_status read_layer_field(const reader *r, const pico_gguf_field *f, const char *key,
                                    int required) {
    const pico_gguf_value *value = pico_gguf_find(r->gguf, key);
    int64_t min = f->kind == LAYER_I32 ? -1 : (int64_t)f->min;
    int64_t max = f->kind == LAYER_I32 ? INT32_MAX : UINT32_MAX;
    if (value == NULL || !value->is_array) {
        int64_t x = INT64_MIN;
        uint32_t flag = 0;
        pico_status status = f->kind == LAYER_BOOL
                                 ? pico_gguf_bool(r->gguf, key, required, &flag, r->err)
                                 : pico_gguf_integer(r->gguf, key, required, min, max, &x, r->err);
        for (uint32_t i = 0; status == PICO_OK && value != NULL && i < r->desc->n_layer; i++) {
            uint32_t bits = f->kind == LAYER_BOOL ? flag : (uint32_t)x;
            put_bytes(&r->layer[i], f->offset, &bits, sizeof bits);
        }
        return status;
    }
    int want = f->kind == LAYER_BOOL ? PICO_GGUF_WANT_BOOL : PICO_GGUF_WANT_INTEGER;
    const pico_gguf_value *array;
    pico_status status = pico_gguf_array(r->gguf, key, required, want, &array, r->err);
    if (status != PICO_OK) {
        return status;
    }
    if (array->n != r->desc->n_layer) {
        return pico_fail(r->err, PICO_E_CORRUPT, "key %s has %llu elements, expected %u (layers)",
                         key, (unsigned long long)array->n, r->desc->n_layer);
    }
    for (uint32_t i = 0; i < r->desc->n_layer; i++) {
        int64_t x = f->kind == LAYER_BOOL ? array->data[i] : pico_gguf_integer_at(array, i);
        if (x < min || x > max) {
            return pico_fail(r->err, PICO_E_CORRUPT,
                             "key %s: element %u is %lld, expected %lld to %lld", key, i,
                             (long long)x, (long long)min, (long long)max);
        }
        uint32_t bits = (uint32_t)x;
        put_bytes(&r->layer[i], f->offset, &bits, sizeof bits);
    }
    return PICO_OK;
}

static pico_status read_enum(const reader *r, const pico_gguf_field *f, const char *key,
                             int required) {
    const char *text = NULL;
    pico_status status = pico_gguf_text(r->gguf, key, required, &text, r->err);
    if (status != PICO_OK || text == NULL) {
        return status;
    }
    for (uint32_t i = 0; f->names[i] != NULL; i++) {
        if (strcmp(f->names[i], text) == 0) {
            put_bytes(r->desc, f->offset, &i, sizeof i);
            return PICO_OK;
        }
    }
    return pico_fail(r->err, PICO_E_UNSUPPORTED, "key %s: unknown value \"%.64s\"", key, text);
}

static pico_status read_integer(const reader *r, const pico_gguf_field *f, const char *key,
                                int required) {
    int64_t x = INT64_MIN;
    int64_t min = f->kind == OF_I32 ? INT32_MIN : (int64_t)f->min;
    int64_t max = f->kind == OF_I32 ? INT32_MAX : UINT32_MAX;
    pico_status status = pico_gguf_integer(r->gguf, key, required, min, max, &x, r->err);
    if (status == PICO_OK && x != INT64_MIN) {
        uint32_t bits = (uint32_t)x; /* two's complement for OF_I32 */
        put_bytes(r->desc, f->offset, &bits, sizeof bits);
    }
    return status;
}

static pico_status read_number(const reader *r, const pico_gguf_field *f, const char *key,
                               int required) {
    double x = 0.0;
    pico_status status = pico_gguf_float(r->gguf, key, required, &x, r->err);
    if (status != PICO_OK || pico_gguf_find(r->gguf, key) == NULL) {
        return status;
    }
    if (f->kind == OF_F64) {
        put_bytes(r->desc, f->offset, &x, sizeof x);
    } else {
        float narrow = (float)x;
        put_bytes(r->desc, f->offset, &narrow, sizeof narrow);
    }
    return PICO_OK;
}

static pico_status read_field(const reader *r, const pico_gguf_field *f, const char *name,
                              int required) {
    char key[96];
    (void)snprintf(key, sizeof key, "%s%s", r->prefix, name);
    if (pico_gguf_is_layer_field(f)) {
        return read_layer_field(r, f, key, required);
    }
    if (f->kind == OF_ENUM) {
        return read_enum(r, f, key, required);
    }
    if (f->kind == OF_FLAG) {
        uint32_t set = (r->desc->flags & f->flag) != 0;
        pico_status status = pico_gguf_bool(r->gguf, key, required, &set, r->err);
        r->desc->flags = set ? r->desc->flags | f->flag : r->desc->flags & ~f->flag;
        return status;
    }
    return f->kind == OF_F32 || f->kind == OF_F64 ? read_number(r, f, key, required)
                                                  : read_integer(r, f, key, required);
}

/* The first field of the table is the number of layers, which the others need. */
static pico_status read_fields(reader *r, int is_llama, pico_arena *arena) {
    for (size_t i = 0; i < PICO_GGUF_N_FIELD; i++) {
        const pico_gguf_field *f = &pico_gguf_fields[i];
        const char *name = is_llama ? f->llama : f->key;
        if (name == NULL || name[0] == '\0') {
            continue;
        }
        pico_status status = read_field(r, f, name, !is_llama || !f->optional);
        if (status != PICO_OK) {
            return status;
        }
        if (i == 0) {
            uint32_t n = r->desc->n_layer;
            if (n > PICO_MAX_LAYER) {
                return pico_fail(r->err, PICO_E_CORRUPT,
                                 "key %sblock_count is %u, expected 1 to %d", r->prefix, n,
                                 PICO_MAX_LAYER);
            }
            r->layer = pico_arena_alloc(arena, n, sizeof *r->layer);
            if (r->layer == NULL) {
                return pico_fail(r->err, PICO_E_NOMEM, "out of memory for %u layers", n);
            }
            for (uint32_t j = 0; is_llama && j < n; j++) {
                r->layer[j] = pico_gguf_llama_layer_defaults;
            }
            r->desc->layer = r->layer;
        }
    }
    return PICO_OK;
}

/* What a draft head of a later form has beyond the table: absent where it is the first form, so that
 * files without it are what they always were. */
static pico_status read_draft(const reader *r, pico_arena *arena) {
    const char *const key = "picochat.draft.vocab";
    const pico_gguf_value *ids = NULL;
    uint32_t shared = 0, reads_token = 0;
    pico_status status = pico_gguf_bool(r->gguf, "picochat.draft.shared_output", PICO_GGUF_OPTIONAL,
                                        &shared, r->err);
    if (status == PICO_OK) {
        status = pico_gguf_bool(r->gguf, "picochat.draft.reads_token", PICO_GGUF_OPTIONAL,
                                &reads_token, r->err);
    }
    r->desc->draft_flags = (shared ? (uint32_t)PICO_DRAFT_SHARED_OUTPUT : 0u) |
                           (reads_token ? (uint32_t)PICO_DRAFT_READS_TOKEN : 0u);
    if (status == PICO_OK) {
        status =
            pico_gguf_array(r->gguf, key, PICO_GGUF_OPTIONAL, PICO_GGUF_WANT_INTEGER, &ids, r->err);
    }
    if (status != PICO_OK || ids == NULL) {
        return status;
    }
    if (ids->n == 0 || ids->n > r->desc->n_vocab || r->desc->n_vocab > PICO_MAX_VOCAB) {
        return pico_fail(r->err, PICO_E_CORRUPT,
                         "key %s has %llu elements, expected 1 to %u (tokens)", key,
                         (unsigned long long)ids->n, r->desc->n_vocab);
    }
    int32_t *list = pico_arena_alloc(arena, (size_t)ids->n, sizeof *list);
    if (list == NULL) {
        return pico_fail(r->err, PICO_E_NOMEM, "key %s: out of memory", key);
    }
    for (uint64_t i = 0; i < ids->n; i++) {
        const int64_t id = pico_gguf_integer_at(ids, i);
        if (id < 0 || id >= r->desc->n_vocab) {
            return pico_fail(r->err, PICO_E_CORRUPT,
                             "key %s: element %llu is %lld, expected 0 to %u", key,
                             (unsigned long long)i, (long long)id, r->desc->n_vocab - 1);
        }
        list[i] = (int32_t)id;
    }
    r->desc->n_draft_vocab = (uint32_t)ids->n;
    r->desc->draft_vocab = list;
    return PICO_OK;
}

/* Keys that say nothing new if they have this value, and scale or mask something otherwise. */
static pico_status check_neutral_keys(const pico_gguf *gguf, pico_error *err) {
    static const struct {
        const char *key;
        double number;
        const char *text;
    } neutral[] = {
        {"llama.rope.scaling.type", 0, "none"},
        {"llama.rope.scaling.factor", 1, NULL},
        {"llama.rope.scaling.attn_factor", 1, NULL},
        {"llama.rope.scale_linear", 1, NULL},
        {"llama.attention.sliding_window", 0, NULL},
        {"llama.attention.causal", 1, NULL},
        {"llama.expert_count", 0, NULL},
        {"llama.expert_used_count", 0, NULL},
        {"llama.tensor_data_layout", 0, "Meta AI original pth"},
    };
    for (size_t i = 0; i < sizeof neutral / sizeof *neutral; i++) {
        const pico_gguf_value *value = pico_gguf_find(gguf, neutral[i].key);
        const char *text = NULL;
        double number = neutral[i].number;
        pico_status status = PICO_OK;
        if (value == NULL) {
            continue;
        }
        if (neutral[i].text != NULL) {
            status = pico_gguf_text(gguf, neutral[i].key, 1, &text, err);
        } else if (value->is_array || value->type == PICO_GGUF_STRING) {
            return pico_fail(err, PICO_E_CORRUPT, "key %s is not a number", neutral[i].key);
        } else if (value->type == PICO_GGUF_F32 || value->type == PICO_GGUF_F64) {
            number = pico_gguf_float_at(value, 0);
        } else {
            number = value->type == PICO_GGUF_BOOL ? value->data[0]
                                                   : (double)pico_gguf_integer_at(value, 0);
        }
        if (status != PICO_OK) {
            return status;
        }
        if (text != NULL && strcmp(text, neutral[i].text) != 0) {
            return pico_fail(err, PICO_E_UNSUPPORTED,
                             "key %s is \"%.64s\": only \"%s\" is supported", neutral[i].key, text,
                             neutral[i].text);
        }
        if (!(number >= neutral[i].number && number <= neutral[i].number)) {
            return pico_fail(err, PICO_E_UNSUPPORTED, "key %s is %g: only %g is supported",
                             neutral[i].key, number, neutral[i].number);
        }
    }
    return PICO_OK;
}

/* What follows from other keys or from the tensors. */
static pico_status finish_llama(const reader *r, int64_t n_rows, int has_output) {
    pico_model_desc *desc = r->desc;
    int64_t value_length = 0;
    if (n_rows < 1 || n_rows > PICO_MAX_VOCAB) {
        return pico_fail(r->err, PICO_E_CORRUPT,
                         "tensor token_embd.weight is missing or has %lld rows, expected 1 to %d",
                         (long long)n_rows, PICO_MAX_VOCAB);
    }
    if (desc->n_vocab > n_rows) {
        return pico_fail(r->err, PICO_E_CORRUPT,
                         "key llama.vocab_size is %u, but token_embd.weight has %lld rows",
                         desc->n_vocab, (long long)n_rows);
    }
    desc->n_vocab_rows = (uint32_t)n_rows;
    desc->n_vocab = desc->n_vocab == 0 ? (uint32_t)n_rows : desc->n_vocab;
    desc->flags |= has_output ? 0u : (uint32_t)PICO_TIED_HEAD;
    for (uint32_t i = 0; i < desc->n_layer; i++) {
        pico_layer_desc *layer = &r->layer[i];
        layer->n_kv_head = layer->n_kv_head == 0 ? layer->n_head : layer->n_kv_head;
        if (layer->head_dim == 0) {
            uint32_t n_head = r->layer[0].n_head;
            if (desc->n_embd % n_head != 0) {
                return pico_fail(r->err, PICO_E_CORRUPT,
                                 "%u heads do not divide the width %u, and there is no key "
                                 "llama.attention.key_length",
                                 n_head, desc->n_embd);
            }
            layer->head_dim = desc->n_embd / n_head;
        }
    }
    desc->rope_dim = desc->rope_dim == 0 ? r->layer[0].head_dim : desc->rope_dim;
    value_length = r->layer[0].head_dim;
    return pico_gguf_integer(r->gguf, "llama.attention.value_length", PICO_GGUF_OPTIONAL,
                             r->layer[0].head_dim, r->layer[0].head_dim, &value_length, r->err);
}

static pico_status refuse_unknown_keys(const pico_gguf *gguf, const char *prefix, pico_error *err) {
    for (uint64_t i = 0; i < gguf->n_value; i++) {
        const pico_gguf_value *value = &gguf->value[i];
        if (!value->used && strncmp(value->key, prefix, strlen(prefix)) == 0) {
            return pico_fail(err, PICO_E_UNSUPPORTED,
                             "key %.200s is not understood; it may change what the model computes",
                             value->key);
        }
    }
    return PICO_OK;
}

pico_status pico_gguf_read_desc(const pico_gguf *gguf, const char *architecture, int64_t n_rows,
                                int has_output, pico_arena *arena, pico_model_desc *desc,
                                pico_error *err) {
    int is_llama = strcmp(architecture, "llama") == 0;
    reader r = {.gguf = gguf, .desc = desc, .err = err};
    if (!is_llama && strcmp(architecture, "picochat") != 0) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "the architecture is \"%.64s\"; supported are llama and picochat",
                         architecture);
    }
    r.prefix = is_llama ? "llama." : "picochat.";
    *desc = is_llama ? pico_gguf_llama_defaults : (pico_model_desc){0};
    pico_status status = PICO_OK;
    if (!is_llama) {
        const char *family = "";
        status = pico_gguf_text(gguf, "picochat.family", PICO_GGUF_REQUIRED, &family, err);
        if (status == PICO_OK && strlen(family) >= sizeof desc->family) {
            status = pico_fail(err, PICO_E_CORRUPT,
                               "key picochat.family has %zu characters, expected at most %zu",
                               strlen(family), sizeof desc->family - 1);
        }
        if (status == PICO_OK) {
            (void)snprintf(desc->family, sizeof desc->family, "%s", family);
        }
    }
    if (status == PICO_OK) {
        status = read_fields(&r, is_llama, arena);
    }
    if (status == PICO_OK && !is_llama) {
        status = read_draft(&r, arena);
    }
    if (status == PICO_OK && is_llama) {
        status = finish_llama(&r, n_rows, has_output);
    }
    if (status == PICO_OK && is_llama) {
        status = check_neutral_keys(gguf, err);
    }
    if (status == PICO_OK) {
        status = refuse_unknown_keys(gguf, "llama.", err);
    }
    if (status == PICO_OK) {
        status = refuse_unknown_keys(gguf, "picochat.", err);
    }
    return status == PICO_OK ? pico_desc_check(desc, err) : status;
}
