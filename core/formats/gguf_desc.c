/*
 * The model description in GGUF keys, both ways, from one table. Architecture "llama" reads and
 * writes the standard keys; "picochat" has a key for every field. Every other architecture is
 * refused, and so is a key under llama. or picochat. that nobody understood, because it may change
 * what the model computes.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/expect.h"
#include "formats/gguf.h"

enum { OF_U32, OF_I32, OF_F32, OF_F64, OF_ENUM, OF_FLAG, LAYER_U32, LAYER_I32, LAYER_BOOL };

typedef struct field {
    const char *key; /* after "picochat." */
    const char
        *llama; /* after "llama."; NULL: every Llama has llama_defaults; "": see finish_llama */
    uint32_t optional; /* under "llama." */
    uint32_t kind;
    uint32_t min; /* integers */
    uint32_t flag;
    size_t offset; /* in pico_model_desc, or in pico_layer_desc */
    const char *const *names;
} field;

static const char *const norm_names[] = {"none", "rms", "layer", NULL};
static const char *const pos_names[] = {"none", "rope", "learned", NULL};
static const char *const rope_names[] = {"none", "pairs", "halves", NULL};
static const char *const table_names[] = {"none", "f32", "f16", "bf16", NULL};
static const char *const act_names[] = {"none",     "silu",         "gelu_tanh",
                                        "gelu_erf", "relu_squared", NULL};

#define D(name) offsetof(pico_model_desc, name)
#define L(name) offsetof(pico_layer_desc, name)
static const field fields[] = {
    {"block_count", "block_count", 0, OF_U32, 1, 0, D(n_layer), NULL},
    {"context_length", "context_length", 0, OF_U32, 1, 0, D(n_ctx_train), NULL},
    {"embedding_length", "embedding_length", 0, OF_U32, 1, 0, D(n_embd), NULL},
    {"vocab_size", "vocab_size", 1, OF_U32, 1, 0, D(n_vocab), NULL},
    {"vocab_rows", "", 0, OF_U32, 1, 0, D(n_vocab_rows), NULL},
    {"feed_forward_length", "feed_forward_length", 0, LAYER_U32, 1, 0, L(n_ff), NULL},
    {"attention.head_count", "attention.head_count", 0, LAYER_U32, 1, 0, L(n_head), NULL},
    {"attention.head_count_kv", "attention.head_count_kv", 1, LAYER_U32, 1, 0, L(n_kv_head), NULL},
    {"attention.key_length", "attention.key_length", 1, LAYER_U32, 1, 0, L(head_dim), NULL},
    {"attention.window", NULL, 0, LAYER_I32, 0, 0, L(window), NULL},
    {"attention.scale", NULL, 0, OF_F32, 0, 0, D(attn_scale), NULL},
    {"attention.qk_norm", NULL, 0, OF_FLAG, 0, PICO_QK_NORM, 0, NULL},
    {"attention.qk_scale", NULL, 0, OF_F32, 0, 0, D(qk_scale), NULL},
    {"attention.qkv_bias", NULL, 0, OF_FLAG, 0, PICO_BIAS_QKV, 0, NULL},
    {"attention.output_bias", NULL, 0, OF_FLAG, 0, PICO_BIAS_OUT, 0, NULL},
    {"feed_forward.bias", NULL, 0, OF_FLAG, 0, PICO_BIAS_FFN, 0, NULL},
    {"feed_forward.gated", NULL, 0, OF_FLAG, 0, PICO_FFN_GATED, 0, NULL},
    {"feed_forward.activation", NULL, 0, OF_ENUM, 0, 0, D(act), act_names},
    {"norm.kind", NULL, 0, OF_ENUM, 0, 0, D(norm), norm_names},
    {"norm.epsilon", "attention.layer_norm_rms_epsilon", 0, OF_F32, 0, 0, D(norm_eps), NULL},
    {"norm.weight", NULL, 0, OF_FLAG, 0, PICO_NORM_WEIGHT, 0, NULL},
    {"norm.bias", NULL, 0, OF_FLAG, 0, PICO_NORM_BIAS, 0, NULL},
    {"embedding.norm", NULL, 0, OF_FLAG, 0, PICO_EMBED_NORM, 0, NULL},
    {"output.tied", "", 0, OF_FLAG, 0, PICO_TIED_HEAD, 0, NULL},
    {"output.softcap", NULL, 0, OF_F32, 0, 0, D(logit_softcap), NULL},
    {"position", NULL, 0, OF_ENUM, 0, 0, D(pos), pos_names},
    {"rope.layout", NULL, 0, OF_ENUM, 0, 0, D(rope_layout), rope_names},
    {"rope.dimension_count", "rope.dimension_count", 1, OF_U32, 0, 0, D(rope_dim), NULL},
    {"rope.freq_base", "rope.freq_base", 1, OF_F64, 0, 0, D(rope_base), NULL},
    {"rope.table", NULL, 0, OF_ENUM, 0, 0, D(rope_table), table_names},
    {"rope.reversed", NULL, 0, OF_FLAG, 0, PICO_ROPE_REVERSED, 0, NULL},
    {"residual_lambdas", NULL, 0, OF_FLAG, 0, PICO_RESID_LAMBDAS, 0, NULL},
    {"smear_width", NULL, 0, OF_U32, 0, 0, D(smear_width), NULL},
    {"backout_layer", NULL, 0, OF_I32, 0, 0, D(backout_layer), NULL},
    {"value_embedding.present", NULL, 0, LAYER_BOOL, 0, 0, L(has_value_embed), NULL},
    {"value_embedding.gate_width", NULL, 0, OF_U32, 0, 0, D(ve_width), NULL},
    {"value_embedding.scale", NULL, 0, OF_F32, 0, 0, D(ve_scale), NULL},
    {"mtp_heads", NULL, 0, OF_U32, 0, 0, D(n_mtp_head), NULL},
    {"draft.slots", NULL, 0, OF_U32, 0, 0, D(n_draft), NULL},
    {"draft.hidden", NULL, 0, OF_U32, 0, 0, D(draft_hidden), NULL},
};
#undef D
#undef L
enum { N_FIELD = sizeof fields / sizeof *fields };

/* What the standard keys leave unsaid. (window: per layer -1.) */
static const pico_model_desc llama_defaults = {
    .family = "llama",
    .flags = PICO_NORM_WEIGHT | PICO_FFN_GATED,
    .norm = PICO_NORM_RMS,
    .pos = PICO_POS_ROPE,
    .rope_layout = PICO_ROPE_PAIRS, /* Q and K are stored permuted for it */
    .rope_table = PICO_DTYPE_F32,
    .rope_base = 10000.0,
    .act = PICO_ACT_SILU,
    .backout_layer = -1,
};
static const pico_layer_desc llama_layer_defaults = {.window = -1};

static int is_layer_kind(uint32_t kind) {
    return kind == LAYER_U32 || kind == LAYER_I32 || kind == LAYER_BOOL;
}

/* ---- reading ---- */

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
static pico_status read_layer_field(const reader *r, const field *f, const char *key,
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

static pico_status read_enum(const reader *r, const field *f, const char *key, int required) {
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

static pico_status read_integer(const reader *r, const field *f, const char *key, int required) {
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

static pico_status read_number(const reader *r, const field *f, const char *key, int required) {
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

static pico_status read_field(const reader *r, const field *f, const char *name, int required) {
    char key[96];
    (void)snprintf(key, sizeof key, "%s%s", r->prefix, name);
    if (is_layer_kind(f->kind)) {
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
    for (size_t i = 0; i < N_FIELD; i++) {
        const field *f = &fields[i];
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
                r->layer[j] = llama_layer_defaults;
            }
            r->desc->layer = r->layer;
        }
    }
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
    *desc = is_llama ? llama_defaults : (pico_model_desc){0};
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

/* ---- writing ---- */

/* The 4 or 8 bytes of a field as bits; layer fields of layer i. */
static uint64_t field_bits(const pico_model_desc *desc, const field *f, uint32_t i) {
    const char *base = is_layer_kind(f->kind) ? (const char *)&desc->layer[i] : (const char *)desc;
    uint32_t bits = 0;
    uint64_t wide = 0;
    if (f->kind == OF_FLAG) {
        return (desc->flags & f->flag) != 0;
    }
    if (f->kind == OF_F64) {
        memcpy(&wide, base + f->offset, sizeof wide);
        return wide;
    }
    memcpy(&bits, base + f->offset, sizeof bits);
    return bits;
}

int pico_gguf_desc_is_llama(const pico_model_desc *desc) {
    pico_model_desc plain = llama_defaults;
    plain.layer = &llama_layer_defaults;
    if (strcmp(desc->family, "llama") != 0 || (double)(float)desc->rope_base != desc->rope_base) {
        return 0;
    }
    for (size_t i = 0; i < N_FIELD; i++) {
        const field *f = &fields[i];
        uint32_t n = is_layer_kind(f->kind) ? desc->n_layer : 1;
        for (uint32_t j = 0; f->llama == NULL && j < n; j++) {
            if (field_bits(desc, f, j) != field_bits(&plain, f, 0)) {
                return 0;
            }
        }
    }
    for (uint32_t i = 1; i < desc->n_layer; i++) {
        if (desc->layer[i].head_dim != desc->layer[0].head_dim) {
            return 0; /* the standard has one key_length for all layers */
        }
    }
    return 1;
}

static void write_layer_field(pico_gguf_build *build, const char *prefix, const char *name,
                              const field *f, const pico_model_desc *desc) {
    uint32_t type = f->kind == LAYER_BOOL  ? PICO_GGUF_BOOL
                    : f->kind == LAYER_I32 ? PICO_GGUF_I32
                                           : PICO_GGUF_U32;
    uint32_t n = 1;
    for (uint32_t i = 1; i < desc->n_layer; i++) {
        if (field_bits(desc, f, i) != field_bits(desc, f, 0)) {
            n = desc->n_layer;
        }
    }
    if (n == 1) {
        pico_gguf_key(build, prefix, name, type);
    } else {
        pico_gguf_key_array(build, prefix, name, type, n);
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)field_bits(desc, f, i);
        unsigned char flag = (unsigned char)bits;
        pico_gguf_put(build, f->kind == LAYER_BOOL ? (const void *)&flag : (const void *)&bits,
                      f->kind == LAYER_BOOL ? sizeof flag : sizeof bits);
    }
}

static void write_field(pico_gguf_build *build, const char *prefix, const char *name,
                        const field *f, const pico_model_desc *desc, int is_llama) {
    uint64_t wide = is_layer_kind(f->kind) ? 0 : field_bits(desc, f, 0);
    uint32_t bits = (uint32_t)wide;
    if (is_layer_kind(f->kind)) {
        write_layer_field(build, prefix, name, f, desc);
    } else if (f->kind == OF_ENUM) {
        pico_gguf_key_text(build, prefix, name, f->names[bits]);
    } else if (f->kind == OF_FLAG) {
        pico_gguf_key_bool(build, prefix, name, bits);
    } else if (f->kind == OF_F64 && is_llama) {
        float narrow = (float)desc->rope_base; /* the only one; exact, see desc_is_llama */
        pico_gguf_key(build, prefix, name, PICO_GGUF_F32);
        pico_gguf_put(build, &narrow, sizeof narrow);
    } else if (f->kind == OF_F64) {
        pico_gguf_key(build, prefix, name, PICO_GGUF_F64);
        pico_gguf_put(build, &wide, sizeof wide);
    } else {
        uint32_t type = f->kind == OF_F32   ? PICO_GGUF_F32
                        : f->kind == OF_I32 ? PICO_GGUF_I32
                                            : PICO_GGUF_U32;
        pico_gguf_key(build, prefix, name, type);
        pico_gguf_put(build, &bits, sizeof bits);
    }
}

void pico_gguf_write_desc(pico_gguf_build *build, const pico_model_desc *desc) {
    int is_llama = pico_gguf_desc_is_llama(desc);
    const char *prefix = is_llama ? "llama." : "picochat.";
    if (!is_llama) {
        pico_gguf_key_text(build, prefix, "family", desc->family);
    }
    for (size_t i = 0; i < N_FIELD; i++) {
        const char *name = is_llama ? fields[i].llama : fields[i].key;
        if (name != NULL && name[0] != '\0') {
            write_field(build, prefix, name, &fields[i], desc, is_llama);
        }
    }
    if (is_llama) {
        pico_gguf_key_u32(build, prefix, "attention.value_length", desc->layer[0].head_dim);
    }
}
