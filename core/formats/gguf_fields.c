/* The table of gguf_fields.h, and the defaults that go with it. */
#include "formats/gguf_fields.h"

static const char *const norm_names[] = {"none", "rms", "layer", NULL};
static const char *const pos_names[] = {"none", "rope", "learned", NULL};
static const char *const rope_names[] = {"none", "pairs", "halves", NULL};
static const char *const table_names[] = {"none", "f32", "f16", "bf16", NULL};
static const char *const act_names[] = {"none",     "silu",         "gelu_tanh",
                                        "gelu_erf", "relu_squared", NULL};

#define D(name) offsetof(pico_model_desc, name)
#define L(name) offsetof(pico_layer_desc, name)
const pico_gguf_field pico_gguf_fields[] = {
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

const pico_model_desc pico_gguf_llama_defaults = {
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
const pico_layer_desc pico_gguf_llama_layer_defaults = {.window = -1};
