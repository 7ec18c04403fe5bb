/*
 * A model on a device: description, weights, what the attention plugin made of each layer, and one
 * forward pass for every family. It knows nothing of timelines: the session gives it rows, pages
 * and work space.
 */
#ifndef PICO_MODEL_MODEL_H
#define PICO_MODEL_MODEL_H

#include "formats/model_file.h"
#include "model/device.h"
#include "plugin.h"
#include "util/arena.h"

/* Weights of one layer. Matrices are (out, in). A NULL weight or a tensor without a buffer is
 * absent. */
typedef struct pico_layer_weights {
    pico_tensor attn_norm, attn_norm_bias; /* F32 (n_embd) */
    pico_tensor ffn_norm, ffn_norm_bias;   /* F32 (n_embd) */
    pico_weight *q;                        /* (n_head * head_dim, n_embd) */
    pico_weight *k, *v;                    /* (n_kv_head * head_dim, n_embd) */
    pico_weight *o;                        /* (n_embd, n_head * head_dim) */
    pico_weight *gate, *up;                /* (n_ff, n_embd); gate only when gated */
    pico_weight *down;                     /* (n_embd, n_ff) */
    pico_tensor q_bias, k_bias, v_bias, o_bias, gate_bias, up_bias, down_bias; /* F32 (out) */
    pico_weight *value_embed;            /* (n_vocab, n_kv_head * head_dim) */
    pico_weight *value_gate;             /* (n_kv_head, ve_width) */
    pico_tensor resid_lambda, x0_lambda; /* F32 (1) */
} pico_layer_weights;

/* Heads that predict further ahead; see pico_heads_table. */
typedef struct pico_extra_heads {
    const char **mtp_name; /* (n_mtp_head) "mtp.2", ... */
    pico_weight **mtp;     /* (n_mtp_head) each (n_vocab, n_embd); predicts token t + 2 + index */
    pico_weight *fc1;      /* (draft_hidden, n_embd) of the draft head, as is the next */
    pico_weight *fc2;      /* (n_draft * n_vocab, draft_hidden), or (n_draft * n_embd, ...) */
    pico_weight *token;    /* (draft_hidden, n_embd); NULL: the head reads no token */
    pico_weight *out; /* (draft vocabulary, n_embd) of a shared output; equals head, or its rows */
    pico_buffer *inner;    /* F32 (PICO_HEAD_ROWS, draft_hidden) work space */
    pico_buffer *shifted;  /* F32 (PICO_HEAD_ROWS, n_embd) inputs of out */
    pico_buffer *embedded; /* F32 (PICO_HEAD_ROWS, n_embd) inputs of token */
} pico_extra_heads;

/* Rows of the draft head, with a shared output rows times slots, that are computed at once. */
enum { PICO_HEAD_ROWS = 64 };

struct pico_model {
    pico_device *device;   /* borrowed */
    pico_model_file *file; /* owned; the weights may point into it */
    pico_model_desc desc;
    pico_attention_layer *attention;         /* (n_layer) */
    pico_layer_weights *layer;               /* (n_layer) */
    pico_weight *embed;                      /* (n_vocab, n_embd) */
    pico_weight *position;                   /* (n_ctx_train, n_embd); learned positions only */
    pico_weight *head;                       /* (n_vocab, n_embd); equals embed when tied */
    pico_tensor embed_norm, embed_norm_bias; /* F32 (n_embd), as are the next two */
    pico_tensor out_norm, out_norm_bias;
    pico_weight *smear_gate;    /* (1, smear_width) */
    pico_tensor smear_lambda;   /* F32 (1) */
    pico_tensor backout_lambda; /* F32 (1) */
    pico_extra_heads extra;
    pico_buffer *vectors; /* all 1-D weights */
    uint64_t step_bytes;  /* weight bytes that one decode step reads (the limit of its speed) */
    uint32_t max_heads_width, max_kv_width, max_ff; /* widest layer */
    uint32_t max_ve_head,
        max_ve_width; /* KV heads and their width in layers with a value embedding */
    struct pico_tokenizer *tokenizer; /* opened when a plugin first asks for tokens */
    struct pico_train *train; /* the training state that learns, the train layer's; borrowed */
    pico_tap_fn tap;
    void *tap_arg;
    pico_arena arena;
};

typedef struct pico_model_params {
    const pico_attention_ops *attention; /* borrowed, with its instance */
    void *attention_self;
    uint32_t kv_dtype; /* for layers whose plugin leaves it open */
} pico_model_params;

/* Puts the weights of file on the device. Takes the file over if it succeeds. The attention
 * plugin's check must have passed and asked for no conversion that is still to be done. */
pico_status pico_model_open(pico_device *device, const pico_model_params *params,
                            pico_model_file *file, pico_model **out, pico_error *err);
void pico_model_close(pico_model *model); /* NULL is allowed */
/* Closes the model but not its file, which is the caller's again. */
pico_model_file *pico_model_release(pico_model *model);

const pico_model_desc *pico_model_describe(const pico_model *model);
pico_status pico_model_tap(pico_model *model, pico_tap_fn fn, void *arg);
/* Head 0 is "lm", then "mtp.2", "mtp.3", ... and "draft", as far as the model has them. All rows of
 * apply are of the decode class. Two sessions of one model may not apply heads at the same time. */
extern const pico_heads_api pico_heads_table;
extern const pico_text_api pico_text_table;
/* Widest output of any head. */
uint32_t pico_model_widest_head(const pico_model *model);

/* Bytes of K and V per position over all layers, as the device stores them. */
uint64_t pico_model_kv_bytes_per_token(const pico_model *model);

/* A model with random weights and one of the known shapes: llama-15m, llama-110m, llama-1.3b, llama-7b,
 * gpt2, gpt2-large, gpt2-xl, nanochat-d12, nanochat-d20. dtype of the matrices: F32, F16, BF16,
 * Q8_0, Q4_0 or I8 (one scale a row). PICO_E_NOT_FOUND lists the shapes. */
pico_status pico_model_synthetic(const char *shape, uint32_t dtype, pico_model_file **out,
                                 pico_error *err);
/* The same from a description of one's own; layer points to n_layer entries. */
pico_status pico_model_synthetic_from(const pico_model_desc *desc, uint32_t dtype, uint64_t seed,
                                      pico_model_file **out, pico_error *err);

#endif
