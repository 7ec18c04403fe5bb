/*
 * The description of a small, ordinary Llama, from which tests make the one that they need.
 */
#ifndef PICO_TESTS_LLAMA_KIT_H
#define PICO_TESTS_LLAMA_KIT_H

#include "plugin.h"

/* Grouped heads, weights of its own for the logits. layer: holds n_layer, all of which are filled. */
static inline pico_model_desc small_llama(pico_layer_desc *layer, uint32_t n_layer) {
    for (uint32_t i = 0; i < n_layer; i++) {
        layer[i] =
            (pico_layer_desc){.n_head = 4, .n_kv_head = 2, .head_dim = 8, .n_ff = 64, .window = -1};
    }
    return (pico_model_desc){.family = "llama",
                             .n_layer = n_layer,
                             .n_embd = 32,
                             .n_vocab = 48,
                             .n_vocab_rows = 48,
                             .n_ctx_train = 64,
                             .flags = PICO_NORM_WEIGHT | PICO_FFN_GATED,
                             .norm = PICO_NORM_RMS,
                             .norm_eps = 1e-5f,
                             .pos = PICO_POS_ROPE,
                             .rope_layout = PICO_ROPE_PAIRS,
                             .rope_dim = 8,
                             .rope_table = PICO_DTYPE_F32,
                             .rope_base = 10000.0,
                             .act = PICO_ACT_SILU,
                             .backout_layer = -1,
                             .layer = layer};
}

#endif
