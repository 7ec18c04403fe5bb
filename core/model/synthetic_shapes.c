/*
 * The shapes of well-known models, as descriptions for random weights; see model.h. A shape is
 * data: the weights are made by synthetic.c.
 */
#include <assert.h>
#include <string.h>

#include "model/model.h"
#include "model/shapes.h"

/* clang-format off */
static const pico_plain_shape shapes[] = {
    {"llama-15m",    "llama",     6,  288,  6,  768, 32000,  256, PICO_TIED_HEAD},
    {"llama-110m",   "llama",    12,  768, 12, 2048, 32000, 1024, PICO_TIED_HEAD},
    {"llama-1.3b",   "llama",    22, 2048, 32, 5632, 32000, 2048, 0},
    {"llama-7b",     "llama",    32, 4096, 32, 11008, 32000, 2048, 0},
    {"gpt2",         "gpt2",     12,  768, 12, 3072, 50257, 1024, PICO_TIED_HEAD},
    {"gpt2-large",   "gpt2",     36, 1280, 20, 5120, 50257, 1024, PICO_TIED_HEAD},
    {"gpt2-xl",      "gpt2",     48, 1600, 25, 6400, 50257, 1024, PICO_TIED_HEAD},
    {"nanochat-d12", "nanochat", 12,  768,  6, 3072, 65536, 2048, 0},
    {"nanochat-d20", "nanochat", 20, 1280, 10, 5120, 65536, 2048, 0},
};
/* clang-format on */
enum { N_SHAPE = sizeof shapes / sizeof *shapes };

static void describe_llama(const pico_plain_shape *s, pico_model_desc *desc) {
    desc->flags |= PICO_NORM_WEIGHT | PICO_FFN_GATED;
    desc->norm = PICO_NORM_RMS;
    desc->norm_eps = 1e-5f;
    desc->pos = PICO_POS_ROPE;
    desc->rope_layout = PICO_ROPE_PAIRS;
    desc->rope_dim = s->n_embd / s->n_head;
    desc->rope_table = PICO_DTYPE_F32;
    desc->rope_base = 10000.0;
    desc->act = PICO_ACT_SILU;
}

static void describe_gpt2(pico_model_desc *desc) {
    desc->flags |=
        PICO_BIAS_QKV | PICO_BIAS_OUT | PICO_BIAS_FFN | PICO_NORM_WEIGHT | PICO_NORM_BIAS;
    desc->norm = PICO_NORM_LAYER;
    desc->norm_eps = 1e-5f;
    desc->pos = PICO_POS_LEARNED;
    desc->act = PICO_ACT_GELU_TANH;
}

/* The first public generation: no lambdas, windows, value embeddings, smear or backout. */
static void describe_nanochat(const pico_plain_shape *s, pico_model_desc *desc) {
    desc->flags |= PICO_EMBED_NORM | PICO_QK_NORM | PICO_ROPE_REVERSED;
    desc->norm = PICO_NORM_RMS;
    desc->norm_eps = 0x1p-23f;
    desc->pos = PICO_POS_ROPE;
    desc->rope_layout = PICO_ROPE_HALVES;
    desc->rope_dim = s->n_embd / s->n_head;
    desc->rope_table = PICO_DTYPE_BF16;
    desc->rope_base = 10000.0;
    desc->act = PICO_ACT_RELU_SQUARED;
    desc->qk_scale = 1.0f;
    desc->logit_softcap = 15.0f;
}

void pico_plain_shape_describe(const pico_plain_shape *s, pico_layer_desc *layer,
                               pico_model_desc *desc) {
    *desc = (pico_model_desc){.n_layer = s->n_layer,
                              .n_embd = s->n_embd,
                              .n_vocab = s->n_vocab,
                              .n_vocab_rows = s->n_vocab,
                              .n_ctx_train = s->n_ctx,
                              .flags = s->flags,
                              .backout_layer = -1,
                              .layer = layer};
    (void)snprintf(desc->family, sizeof desc->family, "%s", s->family);
    for (uint32_t i = 0; i < s->n_layer; i++) {
        layer[i] = (pico_layer_desc){.n_head = s->n_head,
                                     .n_kv_head = s->n_head,
                                     .head_dim = s->n_embd / s->n_head,
                                     .n_ff = s->n_ff,
                                     .window = -1};
    }
    if (strcmp(s->family, "gpt2") == 0) {
        describe_gpt2(desc);
    } else if (strcmp(s->family, "nanochat") == 0) {
        describe_nanochat(s, desc);
    } else {
        describe_llama(s, desc);
    }
}

static pico_status unknown_shape(const char *name, pico_error *err) {
    char list[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < N_SHAPE; i++) {
        int n =
            snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : ", ", shapes[i].name);
        used += n > 0 ? (size_t)n : 0;
        assert(used < sizeof list);
    }
    return pico_fail(err, PICO_E_NOT_FOUND, "there is no shape \"%s\"; the shapes are %s", name,
                     list);
}

pico_status pico_model_synthetic(const char *name, uint32_t dtype, pico_model_file **out,
                                 pico_error *err) {
    *out = NULL;
    const pico_plain_shape *found = NULL;
    for (size_t i = 0; i < N_SHAPE; i++) {
        found = strcmp(shapes[i].name, name) == 0 ? &shapes[i] : found;
    }
    if (found == NULL) {
        return unknown_shape(name, err);
    }
    pico_layer_desc layer[48];
    pico_model_desc desc;
    assert(found->n_layer <= sizeof layer / sizeof *layer);
    pico_plain_shape_describe(found, layer, &desc);
    pico_status status = pico_model_synthetic_from(&desc, dtype, 1, out, err);
    if (status == PICO_OK) {
        (*out)->name = found->name;
    }
    return status;
}
