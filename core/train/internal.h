/* What the files of the train layer share. Not for other layers. */
#ifndef PICO_TRAIN_INTERNAL_H
#define PICO_TRAIN_INTERNAL_H

#include "model/forward.h"
#include "train/train.h"

/* Runs an op and returns from the enclosing function if it fails. */
#define TRAIN_TRY(call)                                                                            \
    do {                                                                                           \
        pico_status status_ = (call);                                                              \
        if (status_ != PICO_OK) {                                                                  \
            return status_;                                                                        \
        }                                                                                          \
    } while (0)

typedef struct train_param {
    const char *name;
    uint32_t group, trained, optimizer;
    uint32_t is_vector;
    uint32_t redrawn; /* 1: the values are no longer those of the file */
    int64_t rows, cols;
    pico_tensor value, grad; /* (rows, cols) */
    pico_tensor state[2];    /* m and v of AdamW; m and second of Muon */
    pico_buffer *state_buffer;
} train_param;

/* Parameters of one layer; NULL: absent. */
typedef struct train_layer {
    train_param *attn_norm, *attn_norm_bias, *ffn_norm, *ffn_norm_bias;
    train_param *q, *k, *v, *o, *gate, *up, *down;
    train_param *q_bias, *k_bias, *v_bias, *o_bias, *gate_bias, *up_bias, *down_bias;
    train_param *value_embed, *value_gate;
} train_layer;

/* What the backward pass needs of one layer beyond its input. Rows are tokens. */
typedef struct layer_store {
    pico_tensor x1;       /* (rows, n_embd) after the residual lambdas; x_in without them */
    pico_tensor q, k, v;  /* (rows, heads * head_dim) after rope, before the norm of heads */
    pico_tensor attended; /* (rows, n_head * head_dim) */
    pico_tensor lse;      /* (rows, n_head) */
    pico_tensor x2;       /* (rows, n_embd) after attention */
    pico_tensor up, gate; /* (rows, n_ff) before the activation */
} layer_store;

/* Areas that every layer uses in turn. Those of the backward pass are absent in a frozen state. */
typedef struct train_work {
    pico_tensor a;             /* (rows, n_embd) normed */
    pico_tensor qn, kn;        /* (rows, heads * head_dim) q and k with their norm */
    pico_tensor inner;         /* (rows, n_ff) after the activation */
    pico_tensor scores;        /* (rows, most KV heads) inputs of gates */
    pico_tensor value;         /* (rows, widest value embedding) */
    pico_tensor before;        /* (rows, n_embd) embedding of the token before; with smear */
    pico_tensor xf, hidden;    /* (rows, n_embd) before and after the last norm */
    pico_tensor logits, d;     /* (logit rows, widest head) */
    pico_tensor draft;         /* (logit rows, draft_hidden) before the activation */
    pico_tensor draft_inner;   /* (logit rows, draft_hidden) after it */
    pico_tensor shifted;       /* (logit rows * n_draft, n_embd) inputs of a shared output */
    pico_tensor after[2];      /* (logit rows, n_embd) embeddings that a draft head reads; normed */
    pico_tensor dafter;        /* (logit rows, n_embd) */
    pico_tensor dx, da;        /* (rows, n_embd) */
    pico_tensor dx0, dback;    /* (rows, n_embd) */
    pico_tensor dhidden;       /* (rows, n_embd) */
    pico_tensor dq, dk, dv;    /* (rows, heads * head_dim) */
    pico_tensor datt;          /* (rows, n_head * head_dim) */
    pico_tensor shares;        /* (2 * rows, n_head * head_dim), see pico_attend_backward_args */
    pico_tensor dinner, dgate; /* (rows, n_ff) */
    pico_tensor ddraft;        /* (logit rows, draft_hidden) */
    pico_tensor dshifted;      /* (logit rows * n_draft, n_embd) */
} train_work;

struct pico_train {
    pico_model *model; /* borrowed */
    const pico_model_desc *desc;
    const pico_backend_ops *ops;
    void *self;
    pico_train_ops ext;
    pico_train_params params;
    uint32_t compute; /* PICO_COMPUTE_x of products */
    uint32_t narrow;  /* 1: what only products read is BF16 */

    train_param *param; /* (n_param) in the order of the model's file */
    uint32_t n_param;
    train_layer *layer; /* (n_layer) */
    train_param *embed, *position, *head, *embed_norm, *embed_norm_bias, *out_norm, *out_norm_bias;
    train_param *resid, *x0, *smear_gate, *smear_lambda, *backout_lambda;
    train_param **mtp; /* (n_mtp_head) */
    train_param *fc1, *fc2, *draft_token;
    train_param draft_rows; /* (n_draft_vocab, n_embd) rows of head, copied for each forward */
    uint32_t draft_copied;  /* 1: they are those of the last forward */
    pico_tensor draft_id;   /* I32 (n_draft_vocab) which rows */
    pico_buffer *values, *grads;
    uint64_t values_bytes, grads_bytes;

    pico_buffer *activations, *ids, *rope, *draft_ids;
    uint64_t activation_bytes;
    pico_tensor token, prev, pos, next; /* I32 (max rows) */
    pico_tensor rope_cos, rope_sin;
    pico_tensor *x;     /* (n_layer + 1) inputs of the layers, and what comes out of the last */
    layer_store *store; /* (n_layer) */
    /* (rows, n_embd) each; the same memory as one of x where that keeps them */
    pico_tensor e;       /* embedding before norm and smear */
    pico_tensor x_first; /* what goes into layer 0 */
    pico_tensor back;    /* what comes out of the backout layer */
    train_work work;
    int32_t *host_ids; /* (4, max rows) */

    pico_buffer *muon;         /* work space, see optimizer.c */
    int64_t muon_side, muon_n; /* smaller extent, elements of the largest matrix */

    /* the last forward */
    uint32_t n_seq, length, rows;
    uint32_t kept;                                      /* 1: a backward pass may follow */
    uint32_t heads;                                     /* 1: dhidden holds gradients */
    uint32_t head_index, head_begin, head_n, head_kept; /* of the last logits */

    double operations; /* so far, see count.c */

    pico_batch_fn source;
    void *source_arg;
    pico_arena arena;
};

/* A frozen state, or one in which only heads learn, runs its trunk without a backward pass. */
static inline int train_keeps(const pico_train *t) {
    return (t->params.flags & (PICO_TRAIN_FROZEN | PICO_TRAIN_HEADS)) == 0;
}
static inline int train_recomputes(const pico_train *t) {
    return (t->params.flags & PICO_TRAIN_RECOMPUTE) != 0;
}

/* params.c */
pico_status train_params_open(pico_train *t, pico_error *err);
pico_status train_params_fill(pico_train *t, pico_error *err); /* from the model's file */
/* The parameter called name, NULL if there is none. */
train_param *train_find(const pico_train *t, const char *name);
/* PICO_TRAIN_x_HEAD(S) of train.h; 0: no part of an extra head. */
uint32_t train_head_kind(const char *name);

/* activations.c */
pico_status train_activations_open(pico_train *t, pico_error *err);

/* ops.c: the backend's ops with the state's constants. */
/* The first rows of an area as (rows, cols). */
pico_tensor train_part(const pico_tensor *area, int64_t rows, int64_t cols);
/* The same for what only products read: BF16 where that can be. */
pico_tensor train_factor(const pico_train *t, const pico_tensor *area, int64_t rows, int64_t cols);
/* Rows [0, n_vocab) of a matrix whose rows are padded. */
pico_tensor train_unpadded(const pico_train *t, const pico_tensor *matrix, int64_t rows);
pico_status train_copy(pico_train *t, const pico_tensor *from, const pico_tensor *to);
/* y = a * a_scalar * x + b * b_scalar * y; NULL scalars are 1 */
pico_status train_axpby(pico_train *t, float a, const pico_tensor *a_scalar, const pico_tensor *x,
                        float b, const pico_tensor *b_scalar, const pico_tensor *y);
/* One element of a vector parameter, its value or its gradient. */
pico_tensor train_element(const pico_tensor *vector, int64_t index);
pico_status train_fill(pico_train *t, const pico_tensor *x, float value);
/* y = norm(x) of the model's kind */
pico_status train_norm(pico_train *t, const pico_tensor *x, const train_param *weight,
                       const train_param *bias, const pico_tensor *y);
/* dx (+)= of that norm; the parameters' gradients are added to. */
pico_status train_norm_backward(pico_train *t, const pico_tensor *x, const train_param *weight,
                                const train_param *bias, const pico_tensor *dy,
                                const pico_tensor *dx, uint32_t accumulate);
/* y = x W^T + bias + beta y, with W the first y-columns rows of the parameter. */
pico_status train_linear(pico_train *t, const train_param *weight, const train_param *bias,
                         const pico_tensor *x, float beta, const pico_tensor *y);
/* dx = dy W + beta dx (dx NULL: not wanted), dW += dy^T x, dbias += sums of dy. */
pico_status train_linear_backward(pico_train *t, const train_param *weight, const train_param *bias,
                                  const pico_tensor *x, const pico_tensor *dy, float beta,
                                  const pico_tensor *dx);
pico_status train_gather(pico_train *t, const train_param *table, const pico_tensor *index,
                         const pico_tensor *rows, uint32_t accumulate);
pico_status train_scatter(pico_train *t, const train_param *table, const pico_tensor *index,
                          const pico_tensor *rows);
/* out (1) += factor * sum of x y */
pico_status train_add_dot(pico_train *t, float factor, const pico_tensor *x, const pico_tensor *y,
                          const pico_tensor *out);

/* forward.c: one layer from its input to the next layer's; the embedding. */
pico_status train_forward_layer(pico_train *t, uint32_t i, const pico_tensor *x_in,
                                const pico_tensor *x_out);
/* The pieces that the backward pass computes again. */
pico_status train_head_norms(pico_train *t, uint32_t i, const pico_tensor *q, const pico_tensor *k,
                             pico_tensor *qn, pico_tensor *kn);
pico_status train_ffn_inner(pico_train *t, uint32_t i, const pico_tensor *inner);
pico_status train_value_gate(pico_train *t, uint32_t i, const pico_tensor *a,
                             const pico_tensor *scores, const pico_tensor *value);
pico_status train_smear_parts(pico_train *t, const pico_tensor *x, const pico_tensor *before,
                              const pico_tensor *scores);
pico_train_attend_args train_attend_args(const pico_train *t, uint32_t i, const pico_tensor *q,
                                         const pico_tensor *k);
pico_status train_rope(pico_train *t, const pico_tensor *x, uint32_t heads, int backward);

/* count.c: operations of one row. */
double train_count_trunk(const pico_train *t,
                         uint32_t length); /* forward; backward is twice that */
double train_count_head(const pico_train *t, uint32_t head);
double train_count_head_backward(const pico_train *t, uint32_t head);
void train_count(pico_train *t, double operations);

/* The slots of pico_train_table. */
pico_status train_forward(pico_train *t, const int32_t *tokens, uint32_t n_seq, uint32_t length,
                          pico_error *err);
pico_status train_backward(pico_train *t, pico_error *err);
pico_status train_logits(pico_train *t, uint32_t head, uint32_t begin, uint32_t n,
                         pico_tensor *logits, pico_tensor *d, pico_error *err);
pico_status train_backward_head(pico_train *t, pico_error *err);
pico_status train_optimizer(pico_train *t, uint32_t index, uint32_t optimizer, pico_error *err);
pico_status train_update(pico_train *t, uint32_t index, const pico_update *update);
pico_status train_update_many(pico_train *t, uint32_t n, const uint32_t *index,
                              const pico_update *update, uint32_t *failed);
pico_status train_save(pico_train *t, void *data, uint64_t *bytes, pico_error *err);
pico_status train_load(pico_train *t, const void *data, uint64_t bytes, pico_error *err);

#endif
