/*
 * Llama as Hugging Face stores it: rope turns the halves of a head there; rows of Q and K are put
 * back into the order of the original, in which rope turns neighbours, as in every Llama GGUF.
 * Refuses scaled rope and activations other than SiLU.
 */
#include <string.h>

#include "formats/hf.h"

static const pico_hf_rule rules[] = {
    {"token_embd", "embed_tokens", PICO_HF_PLAIN, 0, 0},
    {"attn_norm", "input_layernorm", PICO_HF_PLAIN, 0, 0},
    {"attn_q", "self_attn.q_proj", PICO_HF_ROPE_ROWS, 0, 0},
    {"attn_k", "self_attn.k_proj", PICO_HF_ROPE_ROWS, 0, 0},
    {"attn_v", "self_attn.v_proj", PICO_HF_PLAIN, 0, 0},
    {"attn_output", "self_attn.o_proj", PICO_HF_PLAIN, 0, 0},
    {"ffn_norm", "post_attention_layernorm", PICO_HF_PLAIN, 0, 0},
    {"ffn_gate", "mlp.gate_proj", PICO_HF_PLAIN, 0, 0},
    {"ffn_up", "mlp.up_proj", PICO_HF_PLAIN, 0, 0},
    {"ffn_down", "mlp.down_proj", PICO_HF_PLAIN, 0, 0},
    {"output_norm", "norm", PICO_HF_PLAIN, 0, 0},
    {"output", "lm_head", PICO_HF_PLAIN, 0, 0},
};
static const char *const ignored[] = {"self_attn.rotary_emb.inv_freq", NULL};
static const char *const ignored_top[] = {"rotary_emb.inv_freq", NULL};

typedef struct sizes {
    int64_t n_layer, n_embd, n_head, n_kv_head, head_dim, n_ff, n_vocab, n_ctx;
} sizes;

static pico_status read_sizes(const json_t *config, sizes *s, pico_error *err) {
    const struct {
        const char *key;
        int required;
        int64_t max, *out;
    } keys[] = {
        {"num_hidden_layers", 1, PICO_MAX_LAYER, &s->n_layer},
        {"hidden_size", 1, PICO_MAX_WIDTH, &s->n_embd},
        {"num_attention_heads", 1, PICO_MAX_HEAD, &s->n_head},
        {"num_key_value_heads", 0, PICO_MAX_HEAD, &s->n_kv_head},
        {"head_dim", 0, PICO_MAX_WIDTH, &s->head_dim},
        {"intermediate_size", 1, PICO_MAX_WIDTH, &s->n_ff},
        {"vocab_size", 1, PICO_MAX_VOCAB, &s->n_vocab},
        {"max_position_embeddings", 1, PICO_MAX_CONTEXT, &s->n_ctx},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        pico_status status = pico_json_integer(config, keys[i].key, keys[i].required, 1,
                                               keys[i].max, keys[i].out, err);
        if (status != PICO_OK) {
            return status;
        }
    }
    s->n_kv_head = s->n_kv_head == 0 ? s->n_head : s->n_kv_head;
    if (s->head_dim == 0 && s->n_embd % s->n_head != 0) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "%lld heads (\"num_attention_heads\") do not divide the width %lld "
                         "(\"hidden_size\"), and there is no \"head_dim\"",
                         (long long)s->n_head, (long long)s->n_embd);
    }
    s->head_dim = s->head_dim == 0 ? s->n_embd / s->n_head : s->head_dim;
    if (s->head_dim % 2 != 0) {
        return pico_fail(err, PICO_E_CORRUPT, "heads of width %lld, expected an even width",
                         (long long)s->head_dim);
    }
    return PICO_OK;
}

/* "rope_scaling", or "rope_parameters" as newer files call it, where the base may be too. */
static pico_status read_rope_object(const json_t *config, const char *key, double *base,
                                    pico_error *err) {
    const json_t *rope = NULL;
    const char *type = "default";
    pico_error inner = {0};
    pico_status status = pico_json_child(config, key, PICO_JSON_OPTIONAL, JSON_OBJECT, &rope, err);
    if (status != PICO_OK || rope == NULL) {
        return status;
    }
    status = pico_json_text(rope, "type", PICO_JSON_OPTIONAL, &type, &inner);
    if (status == PICO_OK) {
        status = pico_json_text(rope, "rope_type", PICO_JSON_OPTIONAL, &type, &inner);
    }
    if (status == PICO_OK) {
        status = pico_json_number(rope, "rope_theta", PICO_JSON_OPTIONAL, base, &inner);
    }
    if (status == PICO_OK && strcmp(type, "default") != 0) {
        status = pico_fail(&inner, PICO_E_UNSUPPORTED,
                           "rope of type \"%.64s\"; only \"default\" is computed here", type);
    }
    return status == PICO_OK ? PICO_OK
                             : pico_fail(err, status, "key \"%s\": %s", key, inner.message);
}

static pico_status read_rope(const json_t *config, double *base, pico_error *err) {
    double part = 1.0;
    pico_status status = pico_json_number(config, "rope_theta", PICO_JSON_OPTIONAL, base, err);
    if (status == PICO_OK) {
        status = read_rope_object(config, "rope_scaling", base, err);
    }
    if (status == PICO_OK) {
        status = read_rope_object(config, "rope_parameters", base, err);
    }
    if (status == PICO_OK) {
        status = pico_json_number(config, "partial_rotary_factor", PICO_JSON_OPTIONAL, &part, err);
    }
    if (status == PICO_OK && (part < 1.0 || part > 1.0)) {
        status = pico_fail(err, PICO_E_UNSUPPORTED,
                           "key \"partial_rotary_factor\" is %g: only 1 is computed here", part);
    }
    return status;
}

static pico_status read_activation(const json_t *config, pico_error *err) {
    const char *name = "silu";
    pico_status status = pico_json_text(config, "hidden_act", PICO_JSON_OPTIONAL, &name, err);
    if (status == PICO_OK && strcmp(name, "silu") != 0 && strcmp(name, "swish") != 0) {
        status = pico_fail(err, PICO_E_UNSUPPORTED,
                           "key \"hidden_act\" is \"%.64s\"; supported is silu", name);
    }
    return status;
}

static pico_status read_switches(const json_t *config, uint32_t *flags, pico_error *err) {
    static const pico_hf_fixed fixed[] = {{"quantization_config", -1}};
    const struct {
        const char *key;
        uint32_t flags;
    } switches[] = {
        {"attention_bias", PICO_BIAS_QKV | PICO_BIAS_OUT},
        {"mlp_bias", PICO_BIAS_FFN},
        {"tie_word_embeddings", PICO_TIED_HEAD},
    };
    pico_status status = pico_hf_check_fixed(config, fixed, sizeof fixed / sizeof *fixed, err);
    for (size_t i = 0; status == PICO_OK && i < sizeof switches / sizeof *switches; i++) {
        uint32_t set = 0;
        status = pico_json_bool(config, switches[i].key, &set, err);
        *flags |= set ? switches[i].flags : 0u;
    }
    return status;
}

static pico_status describe(const json_t *config, pico_arena *arena, pico_model_desc *desc,
                            pico_error *err) {
    sizes s = {0};
    double eps = 1e-6, base = 10000.0;
    uint32_t flags = PICO_NORM_WEIGHT | PICO_FFN_GATED;
    pico_status status = read_sizes(config, &s, err);
    if (status == PICO_OK) {
        status = pico_json_number(config, "rms_norm_eps", PICO_JSON_OPTIONAL, &eps, err);
    }
    if (status == PICO_OK) {
        status = read_rope(config, &base, err);
    }
    if (status == PICO_OK) {
        status = read_activation(config, err);
    }
    if (status == PICO_OK) {
        status = read_switches(config, &flags, err);
    }
    if (status != PICO_OK) {
        return status;
    }
    *desc = (pico_model_desc){
        .family = "llama",
        .n_layer = (uint32_t)s.n_layer,
        .n_embd = (uint32_t)s.n_embd,
        .n_vocab = (uint32_t)s.n_vocab,
        .n_vocab_rows = (uint32_t)s.n_vocab,
        .n_ctx_train = (uint32_t)s.n_ctx,
        .flags = flags,
        .norm = PICO_NORM_RMS,
        .norm_eps = (float)eps,
        .pos = PICO_POS_ROPE,
        .rope_layout = PICO_ROPE_PAIRS,
        .rope_dim = (uint32_t)s.head_dim,
        .rope_table = PICO_DTYPE_F32,
        .rope_base = base,
        .act = PICO_ACT_SILU,
        .backout_layer = -1,
    };
    const pico_layer_desc layer = {.n_head = (uint32_t)s.n_head,
                                   .n_kv_head = (uint32_t)s.n_kv_head,
                                   .head_dim = (uint32_t)s.head_dim,
                                   .n_ff = (uint32_t)s.n_ff,
                                   .window = -1};
    return pico_hf_layers(&layer, arena, desc, err);
}

const pico_hf_family pico_hf_llama = {.model_type = "llama",
                                      .architecture = "Llama",
                                      .prefix = "model.",
                                      .layers = "layers.",
                                      .rule = rules,
                                      .n_rule = sizeof rules / sizeof *rules,
                                      .ignored = ignored,
                                      .ignored_top = ignored_top,
                                      .describe = describe};
