/*
 * One forward pass: device rows in, hidden and logits rows out. The caller owns everything that is
 * passed; nothing is allocated. If an op fails the status is returned and the outputs are
 * undefined.
 */
#ifndef PICO_MODEL_FORWARD_H
#define PICO_MODEL_FORWARD_H

#include "model/model.h"

/* Work space for at most max_rows rows; all F32. */
typedef struct pico_activations {
    pico_buffer *buffer;
    pico_tensor x;        /* (rows, n_embd) residual stream */
    pico_tensor a;        /* (rows, n_embd) normed */
    pico_tensor q;        /* (rows, widest n_head * head_dim) */
    pico_tensor k, v;     /* (rows, widest n_kv_head * head_dim) */
    pico_tensor attended; /* (rows, widest n_head * head_dim) */
    pico_tensor up, gate; /* (rows, widest n_ff); gate only where linear_gated does not serve */
    pico_tensor x0;       /* (rows, n_embd) embedding; with residual lambdas */
    pico_tensor back;     /* (rows, n_embd) output of the backout layer, if there is one */
    pico_tensor scores;   /* (rows, most KV heads) inputs of gates */
    pico_tensor value;    /* (rows, widest value embedding) */
    pico_tensor hidden;   /* (logit rows, n_embd) after the final norm */
    pico_tensor logits;   /* (logit rows, n_vocab) */
} pico_activations;

pico_status pico_activations_open(const pico_model *model, uint32_t max_rows,
                                  uint32_t max_logit_rows, pico_activations *out, pico_error *err);
void pico_activations_close(const pico_model *model, pico_activations *activations);

/* Where one layer's K and V live. */
typedef struct pico_layer_kv {
    pico_kv_desc kv;
    pico_buffer *pages;
    pico_tensor page_table; /* I32 (slots, max pages) */
    pico_tensor cell;       /* I32 (rows): where each row's K and V go */
    int32_t window;
    uint32_t n_sink;
} pico_layer_kv;

/* Rows [begin, begin + n) of the call become output rows [out, out + n). */
typedef struct pico_output_run {
    uint32_t begin, n, out;
    uint32_t logits; /* 0: only the hidden rows are wanted */
} pico_output_run;

typedef struct pico_forward_args {
    pico_batch batch;
    const pico_layer_kv *layer;     /* (n_layer) */
    pico_tensor rope_cos, rope_sin; /* F32 (positions, rope_dim / 2) */
    const pico_output_run *run;
    uint32_t n_run;
    pico_activations *work;
} pico_forward_args;

pico_status pico_model_forward(const pico_model *model, const pico_forward_args *args);

/* The main head: hidden (rows, n_embd) -> logits (rows, n_vocab), with its softcap. */
pico_status pico_model_head(const pico_model *model, const pico_tensor *hidden,
                            const pico_tensor *logits, uint32_t n_decode);

/* cos and sin of the rope angles of positions [0, n): float angles as in training, (n, rope_dim/2)
 * each, rounded to BF16 when the description says so. */
void pico_rope_table(const pico_model_desc *desc, uint32_t n, float *cos_out, float *sin_out);

#endif
