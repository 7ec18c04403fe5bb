/*
 * GPT-2 as Hugging Face stores it: Conv1D weights are (in, out), Q, K and V lie in one matrix, the
 * causal mask may be among the tensors. Refuses activations that GPT-2 does not have, and attention
 * that is scaled otherwise.
 */
#include <string.h>

#include "formats/hf.h"

static const pico_hf_rule rules[] = {
    {"token_embd", "wte", PICO_HF_PLAIN, 0, 0},
    {"position_embd", "wpe", PICO_HF_PLAIN, 0, 0},
    {"attn_norm", "ln_1", PICO_HF_PLAIN, 0, 0},
    {"attn_q", "attn.c_attn", PICO_HF_TRANSPOSED, 0, 3},
    {"attn_k", "attn.c_attn", PICO_HF_TRANSPOSED, 1, 3},
    {"attn_v", "attn.c_attn", PICO_HF_TRANSPOSED, 2, 3},
    {"attn_output", "attn.c_proj", PICO_HF_TRANSPOSED, 0, 0},
    {"ffn_norm", "ln_2", PICO_HF_PLAIN, 0, 0},
    {"ffn_up", "mlp.c_fc", PICO_HF_TRANSPOSED, 0, 0},
    {"ffn_down", "mlp.c_proj", PICO_HF_TRANSPOSED, 0, 0},
    {"output_norm", "ln_f", PICO_HF_PLAIN, 0, 0},
    {"output", "lm_head", PICO_HF_PLAIN, 0, 0},
};
static const char *const ignored[] = {"attn.bias", "attn.masked_bias", NULL};
static const char *const ignored_top[] = {NULL};

static pico_status read_activation(const json_t *config, uint32_t *act, pico_error *err) {
    static const struct {
        const char *name;
        uint32_t act;
    } known[] = {
        {"gelu_new", PICO_ACT_GELU_TANH},
        {"gelu_pytorch_tanh", PICO_ACT_GELU_TANH},
        {"gelu", PICO_ACT_GELU_ERF},
    };
    const char *name = "gelu_new";
    pico_status status = pico_json_text(config, "activation_function", 0, &name, err);
    for (size_t i = 0; status == PICO_OK && i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].name, name) == 0) {
            *act = known[i].act;
            return PICO_OK;
        }
    }
    return status != PICO_OK
               ? status
               : pico_fail(err, PICO_E_UNSUPPORTED,
                           "key \"activation_function\" is \"%.64s\"; supported are gelu_new, "
                           "gelu_pytorch_tanh and gelu",
                           name);
}

/* What would give other numbers. Upcasting and reordering would not. */
static pico_status check_attention(const json_t *config, int64_t n_layer, pico_error *err) {
    static const pico_hf_fixed fixed[] = {
        {"scale_attn_weights", 1},
        {"add_cross_attention", 0},
        {"quantization_config", -1},
        {"scale_attn_by_inverse_layer_idx", 0}, /* divides by 1 in the first layer: the last one */
    };
    size_t n = sizeof fixed / sizeof *fixed;
    return pico_hf_check_fixed(config, fixed, n_layer == 1 ? n - 1 : n, err);
}

static pico_status describe(const json_t *config, pico_arena *arena, pico_model_desc *desc,
                            pico_error *err) {
    int64_t n_layer = 0, n_embd = 0, n_head = 0, n_inner = 0, n_vocab = 0, n_ctx = 0;
    uint32_t tied = 1;
    double eps = 1e-5;
    const struct {
        const char *key;
        int required;
        int64_t max, *out;
    } sizes[] = {
        {"n_layer", 1, PICO_MAX_LAYER, &n_layer},
        {"n_embd", 1, PICO_MAX_WIDTH, &n_embd},
        {"n_head", 1, PICO_MAX_HEAD, &n_head},
        {"n_inner", 0, PICO_MAX_WIDTH, &n_inner},
        {"vocab_size", 1, PICO_MAX_VOCAB, &n_vocab},
        {"n_ctx", 0, PICO_MAX_CONTEXT, &n_ctx}, /* the older name of the next */
        {"n_positions", pico_json_get(config, "n_ctx") == NULL, PICO_MAX_CONTEXT, &n_ctx},
    };
    pico_status status = PICO_OK;
    for (size_t i = 0; status == PICO_OK && i < sizeof sizes / sizeof *sizes; i++) {
        status = pico_json_integer(config, sizes[i].key, sizes[i].required, 1, sizes[i].max,
                                   sizes[i].out, err);
    }
    if (status == PICO_OK && n_embd % n_head != 0) {
        status = pico_fail(err, PICO_E_CORRUPT,
                           "%lld heads (\"n_head\") do not divide the width %lld (\"n_embd\")",
                           (long long)n_head, (long long)n_embd);
    }
    if (status == PICO_OK) {
        status = pico_json_number(config, "layer_norm_epsilon", 0, &eps, err);
    }
    if (status == PICO_OK) {
        status = pico_json_bool(config, "tie_word_embeddings", &tied, err);
    }
    if (status == PICO_OK) {
        status = check_attention(config, n_layer, err);
    }
    *desc = (pico_model_desc){
        .family = "gpt2",
        .n_layer = (uint32_t)n_layer,
        .n_embd = (uint32_t)n_embd,
        .n_vocab = (uint32_t)n_vocab,
        .n_vocab_rows = (uint32_t)n_vocab,
        .n_ctx_train = (uint32_t)n_ctx,
        .flags = PICO_BIAS_QKV | PICO_BIAS_OUT | PICO_BIAS_FFN | PICO_NORM_WEIGHT | PICO_NORM_BIAS |
                 (tied ? (uint32_t)PICO_TIED_HEAD : 0u),
        .norm = PICO_NORM_LAYER,
        .norm_eps = (float)eps,
        .pos = PICO_POS_LEARNED,
        .backout_layer = -1,
    };
    if (status == PICO_OK) {
        status = read_activation(config, &desc->act, err);
    }
    if (status != PICO_OK) {
        return status;
    }
    const pico_layer_desc layer = {.n_head = (uint32_t)n_head,
                                   .n_kv_head = (uint32_t)n_head,
                                   .head_dim = (uint32_t)(n_embd / n_head),
                                   .n_ff = (uint32_t)(n_inner == 0 ? 4 * n_embd : n_inner),
                                   .window = -1};
    return pico_hf_layers(&layer, arena, desc, err);
}

const pico_hf_family pico_hf_gpt2 = {.model_type = "gpt2",
                                     .architecture = "GPT2",
                                     .prefix = "transformer.",
                                     .layers = "h.",
                                     .rule = rules,
                                     .n_rule = sizeof rules / sizeof *rules,
                                     .ignored = ignored,
                                     .ignored_top = ignored_top,
                                     .describe = describe};
