/* Small random models and a small vocabulary for tests, in memory; see rig.h. */
#include "conform/rig.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the families ---- */

/* What later generations of nanochat have beyond the first; g2 also carries the heads of its fork. */
static void describe_generation(const tiny_model *tiny, pico_layer_desc *layer,
                                pico_model_desc *out) {
    int g4 = strcmp(tiny->family, "nanochat-g4") == 0;
    uint32_t n = tiny->n_layer;
    (void)snprintf(out->family, sizeof out->family, "nanochat");
    out->flags |= PICO_RESID_LAMBDAS;
    out->ve_width = g4 ? 12 : 16;
    out->ve_scale = g4 ? 3 : 2;
    for (uint32_t i = 0; i < n; i++) {
        layer[i].has_value_embed = i % 2 == (n - 1) % 2;
    }
    if (g4) {
        out->rope_table = PICO_DTYPE_F32;
        out->rope_base = 100000;
        out->qk_scale = 1.2f;
        out->smear_width = 20;
        out->backout_layer = (int32_t)(n / 2);
    } else {
        out->n_mtp_head = 3;
        out->n_draft = 4;
        out->draft_hidden = 14;
    }
}

/* Tokens 0, 2, 3, 5, 6, ... */
static pico_status describe_draft(const tiny_model *tiny, pico_arena *arena, pico_model_desc *out,
                                  pico_error *err) {
    const uint32_t form = tiny->draft & TINY_DRAFT_FORM;
    if (form != TINY_DRAFT_OWN) {
        out->n_draft = 3;
        out->draft_hidden = 14;
        out->draft_flags = PICO_DRAFT_SHARED_OUTPUT;
    }
    if ((tiny->draft & TINY_DRAFT_READS) && out->n_draft != 0) {
        out->draft_flags |= PICO_DRAFT_READS_TOKEN;
    }
    if (form == TINY_DRAFT_REDUCED) {
        int32_t *id = pico_arena_alloc(arena, tiny->n_vocab, sizeof *id);
        if (id == NULL) {
            return pico_fail(err, PICO_E_NOMEM, "out of memory");
        }
        for (uint32_t i = 0; i < tiny->n_vocab; i++) {
            id[out->n_draft_vocab] = (int32_t)i;
            out->n_draft_vocab += i % 3 != 1;
        }
        out->draft_vocab = id;
    }
    return PICO_OK;
}

static void describe(const tiny_model *tiny, pico_layer_desc *layer, pico_model_desc *out) {
    int gpt2 = strcmp(tiny->family, "gpt2") == 0, nano = strncmp(tiny->family, "nanochat", 8) == 0;
    int biased = strcmp(tiny->family, "llama-biased") == 0;
    for (uint32_t i = 0; i < tiny->n_layer; i++) {
        int32_t window = tiny->window[i % 4];
        layer[i] = (pico_layer_desc){.n_head = tiny->n_head,
                                     .n_kv_head = tiny->n_kv_head,
                                     .head_dim = tiny->head_dim,
                                     .n_ff = tiny->n_ff,
                                     .window = window == 0 ? -1 : window};
    }
    *out = (pico_model_desc){.n_layer = tiny->n_layer,
                             .n_embd = tiny->n_head * tiny->head_dim,
                             .n_vocab = tiny->n_vocab,
                             .n_vocab_rows = tiny->n_vocab,
                             .n_ctx_train = tiny->n_ctx,
                             .norm = PICO_NORM_RMS,
                             .norm_eps = 1e-5f,
                             .pos = PICO_POS_ROPE,
                             .rope_layout = PICO_ROPE_PAIRS,
                             .rope_dim = tiny->head_dim,
                             .rope_table = PICO_DTYPE_F32,
                             .rope_base = 10000,
                             .act = PICO_ACT_SILU,
                             .flags = PICO_NORM_WEIGHT | PICO_FFN_GATED,
                             .backout_layer = -1,
                             .layer = layer};
    (void)snprintf(out->family, sizeof out->family, "%s", tiny->family);
    if (gpt2) {
        out->norm = PICO_NORM_LAYER;
        out->pos = PICO_POS_LEARNED;
        out->rope_dim = out->rope_layout = out->rope_table = 0;
        out->act = PICO_ACT_GELU_TANH;
        out->flags = PICO_BIAS_QKV | PICO_BIAS_OUT | PICO_BIAS_FFN | PICO_NORM_WEIGHT |
                     PICO_NORM_BIAS | PICO_TIED_HEAD;
    } else if (nano) {
        out->n_vocab_rows = (tiny->n_vocab + 63) / 64 * 64;
        out->norm_eps = 0x1p-23f;
        out->rope_layout = PICO_ROPE_HALVES;
        out->rope_table = PICO_DTYPE_BF16;
        out->act = PICO_ACT_RELU_SQUARED;
        out->qk_scale = 1;
        out->logit_softcap = 15;
        out->flags = PICO_EMBED_NORM | PICO_QK_NORM | PICO_ROPE_REVERSED;
        if (tiny->family[8] != '\0') {
            describe_generation(tiny, layer, out);
        }
    } else if (biased) {
        out->flags |= PICO_BIAS_QKV | PICO_BIAS_OUT | PICO_BIAS_FFN;
    }
}

/* ---- tensors ---- */

typedef struct maker {
    pico_model_file *file;
    uint64_t random;
    int failed;
} maker;

/* cols 0: a vector. Values are center + spread * uniform(-1, 1). */
static void add(maker *m, const char *name, uint32_t rows, uint32_t cols, double center,
                double spread) {
    pico_file_tensor *tensor = &m->file->tensor[m->file->n_tensor];
    size_t n = (size_t)rows * (cols == 0 ? 1 : cols);
    float *values = pico_arena_alloc(&m->file->arena, n, sizeof *values);
    const char *copy = pico_arena_strdup(&m->file->arena, name);
    if (values == NULL || copy == NULL) {
        m->failed = 1;
        return;
    }
    for (size_t i = 0; i < n; i++) {
        values[i] = (float)(center + spread * (2 * rig_uniform(&m->random) - 1));
    }
    *tensor = (pico_file_tensor){.name = copy,
                                 .rank = cols == 0 ? 1 : 2,
                                 .shape = {rows, cols == 0 ? 1 : cols, 1, 1},
                                 .data = {.codes = values,
                                          .codes_bytes = n * 4,
                                          .dtype = PICO_DTYPE_F32,
                                          .rows = cols == 0 ? 1 : rows,
                                          .cols = cols == 0 ? rows : cols},
                                 .bytes = n * 4};
    m->file->n_tensor++;
}

/* Tensors that belong to no layer and that only some models have. */
static void add_extras(maker *m) {
    const pico_model_desc *desc = &m->file->desc;
    uint32_t c = desc->n_embd;
    if (desc->flags & PICO_RESID_LAMBDAS) {
        add(m, "resid_lambdas.weight", desc->n_layer, 0, 1, 0.2);
        add(m, "x0_lambdas.weight", desc->n_layer, 0, 0.1, 0.2);
    }
    if (desc->smear_width != 0) {
        add(m, "smear_gate.weight", desc->smear_width, 0, 0, 1);
        add(m, "smear_lambda.weight", 1, 0, 0.6, 0.1);
    }
    if (desc->backout_layer >= 0) {
        add(m, "backout_lambda.weight", 1, 0, 0.4, 0.1);
    }
    for (uint32_t k = 0; k < desc->n_mtp_head; k++) {
        char name[32];
        (void)snprintf(name, sizeof name, "mtp.%u.weight", k);
        add(m, name, desc->n_vocab_rows, c, 0, 2 / sqrt((double)c));
    }
    if (desc->n_draft != 0) {
        const int shared = (desc->draft_flags & PICO_DRAFT_SHARED_OUTPUT) != 0;
        add(m, "draft_fc1.weight", desc->draft_hidden, c, 0, 2 / sqrt((double)c));
        add(m, "draft_fc2.weight", desc->n_draft * (shared ? c : desc->n_vocab), desc->draft_hidden,
            0, shared ? 0.3 : 1);
        if (desc->draft_flags & PICO_DRAFT_READS_TOKEN) {
            add(m, "draft_token.weight", desc->draft_hidden, c, 0, 2 / sqrt((double)c));
        }
    }
}

static void add_layer(maker *m, uint32_t i) {
    enum { VALUE = 1 << 30 }; /* in layers with a value embedding */
    const pico_model_desc *desc = &m->file->desc;
    const pico_layer_desc *layer = &desc->layer[i];
    uint32_t c = desc->n_embd, q = layer->n_head * layer->head_dim;
    uint32_t kv = layer->n_kv_head * layer->head_dim, ff = layer->n_ff;
    double in = 2.5 / sqrt((double)c), down = 1.7 / sqrt((double)ff);
    const struct {
        const char *name;
        uint32_t flag, rows, cols;
        double center, spread;
    } parts[] = {
        {"attn_norm.weight", PICO_NORM_WEIGHT, c, 0, 1, 0.3},
        {"attn_norm.bias", PICO_NORM_BIAS, c, 0, 0, 0.2},
        {"attn_q.weight", 0, q, c, 0, in},
        {"attn_q.bias", PICO_BIAS_QKV, q, 0, 0, 0.3},
        {"attn_k.weight", 0, kv, c, 0, in},
        {"attn_k.bias", PICO_BIAS_QKV, kv, 0, 0, 0.3},
        {"attn_v.weight", 0, kv, c, 0, in},
        {"attn_v.bias", PICO_BIAS_QKV, kv, 0, 0, 0.3},
        {"attn_output.weight", 0, c, q, 0, in},
        {"attn_output.bias", PICO_BIAS_OUT, c, 0, 0, 0.2},
        {"ffn_norm.weight", PICO_NORM_WEIGHT, c, 0, 1, 0.3},
        {"ffn_norm.bias", PICO_NORM_BIAS, c, 0, 0, 0.2},
        {"value_embd.weight", VALUE, desc->n_vocab_rows, kv, 0, 1},
        {"value_gate.weight", VALUE, layer->n_kv_head, desc->ve_width, 0, 0.7},
        {"ffn_gate.weight", PICO_FFN_GATED, ff, c, 0, in},
        {"ffn_gate.bias", PICO_FFN_GATED | PICO_BIAS_FFN, ff, 0, 0, 0.3},
        {"ffn_up.weight", 0, ff, c, 0, in},
        {"ffn_up.bias", PICO_BIAS_FFN, ff, 0, 0, 0.3},
        {"ffn_down.weight", 0, c, ff, 0, down},
        {"ffn_down.bias", PICO_BIAS_FFN, c, 0, 0, 0.2},
    };
    for (size_t j = 0; j < sizeof parts / sizeof *parts; j++) {
        char name[64];
        (void)snprintf(name, sizeof name, "blk.%u.%s", i, parts[j].name);
        if (parts[j].flag == VALUE ? layer->has_value_embed != 0
                                   : (desc->flags & parts[j].flag) == parts[j].flag) {
            add(m, name, parts[j].rows, parts[j].cols, parts[j].center, parts[j].spread);
        }
    }
}

pico_status tiny_model_file(const tiny_model *tiny, pico_model_file **out, pico_error *err) {
    *out = NULL;
    pico_model_file *file = calloc(1, sizeof *file);
    if (file == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    maker m = {.file = file, .random = tiny->seed * 2654435761u + 1};
    pico_layer_desc *layer = pico_arena_alloc(&file->arena, tiny->n_layer, sizeof *layer);
    file->tensor =
        pico_arena_alloc(&file->arena, 80 + 24 * (size_t)tiny->n_layer, sizeof *file->tensor);
    if (layer == NULL || file->tensor == NULL) {
        pico_model_file_close(file);
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    describe(tiny, layer, &file->desc);
    if (describe_draft(tiny, &file->arena, &file->desc, err) != PICO_OK) {
        pico_model_file_close(file);
        return PICO_E_NOMEM;
    }
    const pico_model_desc *desc = &file->desc;
    double heat = (tiny->heat > 0 ? tiny->heat : 2.0) * sqrt(3.0 / desc->n_embd);
    file->format = PICO_FORMAT_MEMORY;
    file->format_name = "memory";
    file->path = "(memory)";
    file->vocab.bos = file->vocab.eos = file->vocab.unk = -1;
    file->vocab.pad = file->vocab.eot = -1;
    add(&m, "token_embd.weight", desc->n_vocab_rows, desc->n_embd, 0,
        desc->flags & PICO_TIED_HEAD ? heat : 1);
    if (desc->pos == PICO_POS_LEARNED) {
        add(&m, "position_embd.weight", desc->n_ctx_train, desc->n_embd, 0, 0.5);
    }
    for (uint32_t i = 0; i < tiny->n_layer; i++) {
        add_layer(&m, i);
    }
    if (desc->flags & PICO_NORM_WEIGHT) {
        add(&m, "output_norm.weight", desc->n_embd, 0, 1, 0.3);
    }
    if (desc->flags & PICO_NORM_BIAS) {
        add(&m, "output_norm.bias", desc->n_embd, 0, 0, 0.2);
    }
    if (!(desc->flags & PICO_TIED_HEAD)) {
        add(&m, "output.weight", desc->n_vocab_rows, desc->n_embd, 0, heat);
    }
    add_extras(&m);
    if (m.failed) {
        pico_model_file_close(file);
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    *out = file;
    return PICO_OK;
}

pico_status rig_model_open(rig *r, pico_model_file *file, uint32_t kv_dtype, pico_model **out,
                           pico_error *err) {
    pico_model_params params = {.attention = &r->attention.loaded->ops.attention,
                                .attention_self = r->attention.self,
                                .kv_dtype = kv_dtype};
    pico_attention_check check = {.struct_size = sizeof check};
    *out = NULL;
    pico_status status = params.attention->check(params.attention_self, &file->desc, &check, err);
    if (status == PICO_OK && check.want_kv_heads != 0) {
        status = pico_fail(err, PICO_E_UNSUPPORTED, "the attention plugin wants a conversion");
    }
    if (status == PICO_OK) {
        status = pico_model_open(&r->device, &params, file, out, err);
    }
    if (status != PICO_OK) {
        pico_model_file_close(file);
    }
    return status;
}

pico_status tiny_model_open(rig *r, const tiny_model *tiny, uint32_t kv_dtype, pico_model **out,
                            pico_error *err) {
    pico_model_file *file = NULL;
    *out = NULL;
    r->last = *tiny;
    pico_status status = tiny_model_file(tiny, &file, err);
    return status == PICO_OK ? rig_model_open(r, file, kv_dtype, out, err) : status;
}

/* Every row of the residual stream is all ones, the layer adds nothing, and the head reads the
 * first of them. */
pico_status fixed_model_file(const float *logits, uint32_t n_vocab, pico_model_file **out,
                             pico_error *err) {
    const tiny_model tiny = {.family = "llama",
                             .n_layer = 1,
                             .n_head = 2,
                             .n_kv_head = 2,
                             .head_dim = 8,
                             .n_ff = 8,
                             .n_vocab = n_vocab,
                             .n_ctx = 512};
    pico_status status = tiny_model_file(&tiny, out, err);
    if (status != PICO_OK) {
        return status;
    }
    pico_model_file *file = *out;
    file->desc.norm_eps = 1e-30f;
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const pico_weight_desc *data = &file->tensor[i].data;
        int is_head = strcmp(file->tensor[i].name, "output.weight") == 0;
        int is_one = strstr(file->tensor[i].name, "norm") != NULL ||
                     strcmp(file->tensor[i].name, "token_embd.weight") == 0;
        float *values = (float *)(uintptr_t)data->codes;
        for (int64_t j = 0; j < data->rows * data->cols; j++) {
            values[j] = is_head && j % data->cols == 0 ? logits[j / data->cols] : is_one ? 1.0f : 0;
        }
    }
    return PICO_OK;
}

/* ---- a vocabulary ---- */

pico_status tiny_vocab(uint32_t n, pico_arena *arena, pico_vocab *out, pico_error *err) {
    pico_piece *piece = pico_arena_alloc(arena, n, sizeof *piece);
    if (piece == NULL || n < 4) {
        return pico_fail(err, PICO_E_NOMEM, "no room for a vocabulary of %u", n);
    }
    for (uint32_t i = 0; i < n; i++) {
        const char *text = i == 0       ? pico_arena_strdup(arena, "<unk>")
                           : i + 1 == n ? pico_arena_strdup(arena, "</s>")
                                        : pico_arena_printf(arena, "%c%c", 'a' + (int)(i / 26 % 26),
                                                            'a' + (int)(i % 26));
        if (text == NULL) {
            return pico_fail(err, PICO_E_NOMEM, "out of memory");
        }
        piece[i] = (pico_piece){.text = text,
                                .n = (uint32_t)strlen(text),
                                .type = i == 0       ? PICO_PIECE_UNKNOWN
                                        : i + 1 == n ? PICO_PIECE_CONTROL
                                                     : PICO_PIECE_NORMAL,
                                .score = -(float)i};
    }
    *out = (pico_vocab){.kind = PICO_VOCAB_SPM,
                        .n_piece = n,
                        .piece = piece,
                        .bos = -1,
                        .eos = (int32_t)n - 1,
                        .unk = 0,
                        .pad = -1,
                        .eot = -1};
    return PICO_OK;
}
