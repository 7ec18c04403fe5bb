/*
 * The extension pico.train/1: its scratch memory, its slots, and what its kernels need. Sums run in an
 * order that the shapes alone decide.
 */
#ifndef PICO_BACKEND_CUDA_TRAIN_H
#define PICO_BACKEND_CUDA_TRAIN_H

#include "cuda.h"
#include "gemm.h"
#include "jobs.h"
#include "shapes.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CUDA_COLUMN_PARTS 256                  /* parts of the rows of a sum over columns */
#define CUDA_SCORE_BYTES ((uint64_t)256 << 20) /* scores of several heads; at least of one */

#define CUDA_NARROWED 8

/* A matrix that was rounded to BF16. */
typedef struct cuda_narrowed {
    const void *data;
    int64_t rows, cols, ld; /* of data */
    int64_t at, bytes;      /* in the scratch memory */
} cuda_narrowed;

struct cuda_train {
    pico_train_reserve need;
    char *memory;
    float *value[2]; /* (n_value): something for each row of a matrix, or each head of a row */
    int64_t n_value;
    float *partial;  /* (CUDA_COLUMN_PARTS, max_dim) */
    float *score[2]; /* (score_heads, max_length, max_length) */
    int64_t score_heads;
    char *narrow; /* what products and attention in BF16 read */
    int64_t narrow_bytes;
    /* factors in it, see train_narrow.c */
    cuda_narrowed narrowed[CUDA_NARROWED];
    uint32_t n_narrowed;
    int64_t narrow_next;
    uint64_t narrow_op; /* the last op that used them */
};

/* ---- train_narrow.c ---- */

/* Has the factors of a product that are not BF16 (narrow_a, narrow_b) rounded to it and puts them into
 * the job; PICO_E_LIMIT where there is no room for them. */
pico_status cuda_narrow_product(cuda_backend *cuda, cuda_gemm_job *job, uint32_t narrow_a,
                                uint32_t narrow_b);

/* ---- train_rows.cu ---- */

typedef struct cuda_norm_back_job {
    uint32_t kind, accumulate;
    float eps, scale;
    cuda_view x, dy, dx;
    const float *weight;
    float *mean, *inverse; /* (rows * heads) */
} cuda_norm_back_job;
cudaError_t cuda_run_norm_stats(cudaStream_t stream, const cuda_norm_back_job *job);
/* Whether the backward pass needs no statistics before it. */
int cuda_norm_back_alone(const cuda_norm_back_job *job);
cudaError_t cuda_run_norm_back(cudaStream_t stream, const cuda_norm_back_job *job);

typedef struct cuda_act_back_job {
    uint32_t kind;
    cuda_view x, dy, gate, dx, dgate;   /* gate.data NULL: none */
    uint16_t *narrow_dx, *narrow_dgate; /* (rows, cols) in their place in BF16; NULL: F32 */
} cuda_act_back_job;
cudaError_t cuda_run_act_back(cudaStream_t stream, const cuda_act_back_job *job);
/* dy *= 1 - (y / cap)^2 */
cudaError_t cuda_run_softcap_back(cudaStream_t stream, const cuda_view *y, const cuda_view *dy,
                                  float cap);

typedef struct cuda_gate_back_job {
    float factor;
    const float *scalar; /* NULL: 1 */
    cuda_view g, u, dy, dg, du;
    float *share; /* (rows) of dscalar */
} cuda_gate_back_job;
cudaError_t cuda_run_gate_back(cudaStream_t stream, const cuda_gate_back_job *job);

typedef struct cuda_table_job {
    cuda_view table, rows;
    const int32_t *index;
    uint32_t accumulate;
    int32_t *sorted, *sorted_index; /* scatter: (rows) room for rows by index, and their indices */
} cuda_table_job;
cudaError_t cuda_run_gather(cudaStream_t stream, const cuda_table_job *job);
cudaError_t cuda_run_scatter(cudaStream_t stream, const cuda_table_job *job);

/* ---- train_norm.cu ---- */

/* y of the job in BF16, contiguous. */
cudaError_t cuda_run_norm_narrow(cudaStream_t stream, const cuda_norm_job *job);

/* ---- train_reduce.cu ---- */

enum { CUDA_SUM = 0, CUDA_SUM_SQUARE = 1, CUDA_SUM_NORMED = 2 };

/* out[c] (+)= factor * sum over rows and heads of x, of x^2, or of (x - mean) * inverse * y */
typedef struct cuda_column_job {
    uint32_t what, accumulate;
    double factor;
    cuda_view x, y;
    const float *mean, *inverse;
    float *partial, *out;
} cuda_column_job;
cudaError_t cuda_run_columns(cudaStream_t stream, const cuda_column_job *job);

/* out[row] = sum over columns of x * y */
cudaError_t cuda_run_row_dots(cudaStream_t stream, const cuda_view *x, const cuda_view *y,
                              float *out);
/* out (n or 1) (+)= factor * each of x, or their sum, or the root of their sum */
enum { CUDA_FINISH_EACH = 0, CUDA_FINISH_SUM = 1, CUDA_FINISH_ROOT = 2 };
typedef struct cuda_finish_job {
    uint32_t what, accumulate;
    double factor;
    const float *x;
    int64_t n;
    float *out;
} cuda_finish_job;
cudaError_t cuda_run_finish(cudaStream_t stream, const cuda_finish_job *job);

/* ---- train_step.cu ---- */

typedef struct cuda_scale_job {
    float value, a, b;
    const float *scalar; /* NULL: x is filled */
    cuda_view x;
} cuda_scale_job;
cudaError_t cuda_run_scale(cudaStream_t stream, const cuda_scale_job *job);

typedef struct cuda_adamw_job {
    float keep, beta1, beta2, eps, grad_scale, step_size, inv_root;
    float *p, *m, *v;
    const float *g;
    int64_t n;
} cuda_adamw_job;
cudaError_t cuda_run_adamw(cudaStream_t stream, const cuda_adamw_job *job);

typedef struct cuda_muon_job {
    float lr, decay, beta2;
    uint32_t by_row;
    cuda_view x, p;
    float *square, *second; /* (n) */
    float *total;           /* (1): what all factors are multiplied with */
    int64_t n;
} cuda_muon_job;
cudaError_t cuda_run_muon(cudaStream_t stream, const cuda_muon_job *job);

/* ---- train_muon.cu ---- */

#define CUDA_MUON_MANY 32  /* matrices of a launch */
#define CUDA_MUON_PARTS 64 /* most parts of a sum over a matrix */

typedef struct cuda_muon_many_job {
    int64_t rows, cols, longer; /* longer: the larger of the two */
    uint32_t n, by_row;
    uint32_t parts; /* of the sum that muon_start takes */
    float momentum, fresh, lr, decay, beta2;
    const float *grad[CUDA_MUON_MANY];
    float *m[CUDA_MUON_MANY], *p[CUDA_MUON_MANY], *second[CUDA_MUON_MANY];
    uint16_t *x; /* BF16, rows ld apart, matrices x_stride */
    int64_t ld, x_stride;
    float *partial; /* (n, CUDA_MUON_PARTS) */
    float *square;  /* (n, longer) */
    float *total;   /* (n) */
} cuda_muon_many_job;
/* Momentum, and x before the iterations. */
cudaError_t cuda_run_muon_start(cudaStream_t stream, const cuda_muon_many_job *job);
/* second and p, from x behind them. */
cudaError_t cuda_run_muon_end(cudaStream_t stream, const cuda_muon_many_job *job);

/* ---- train_loss.cu ---- */

typedef struct cuda_loss_job {
    float hard, soft, inv_temperature;
    uint32_t accumulate;
    uint32_t top_k;               /* of the teacher; 0: all */
    cuda_view logits, teacher, d; /* data NULL: none */
    const int32_t *target, *teacher_row, *mask;
    float *ce, *kl;
} cuda_loss_job;
cudaError_t cuda_run_loss(cudaStream_t stream, const cuda_loss_job *job);

/* ---- train_scores.cu: one sequence, some heads ---- */

typedef struct cuda_score_job {
    int64_t length, heads;
    int32_t window, n_sink;
    float *score, *dscore; /* (heads, length, length) */
    float *lse;            /* of head 0: (length), lse_row apart; heads are lse_head apart */
    int64_t lse_row, lse_head;
    float scale;
    const float *out, *dout; /* as lse: (length, heads, width) */
    int64_t out_row, out_head, dout_row, dout_head, width;
} cuda_score_job;
/* score -> probabilities, and lse */
cudaError_t cuda_run_softmax(cudaStream_t stream, const cuda_score_job *job);
/* score -> probabilities (from lse), dscore -> the gradient of the scores */
cudaError_t cuda_run_softmax_back(cudaStream_t stream, const cuda_score_job *job);

/* ---- train_flash.cu: whole sequences in BF16 ---- */

typedef struct cuda_flash_job {
    int64_t n_seq;
    int32_t length, n_head, n_kv_head, window, n_sink;
    float scale;
    const uint16_t *q, *k, *v, *dout; /* BF16 (rows, heads * head_dim) */
    cuda_view out, dq, dk, dv;
    float *lse, *delta; /* (rows, n_head) */
} cuda_flash_job;
/* Whether there are kernels for a width of heads and a length. */
int cuda_flash_fits(int64_t head_dim, int64_t length);
/* out and lse */
cudaError_t cuda_run_flash(cudaStream_t stream, const cuda_flash_job *job);
/* delta, dq, dk and dv, from out and lse */
cudaError_t cuda_run_flash_back(cudaStream_t stream, const cuda_flash_job *job);

/* ---- the slots ---- */

void cuda_train_free(cuda_backend *cuda);
extern const pico_train_ops cuda_train_table;

pico_status cuda_norm_backward(void *self, const pico_norm_backward_args *args);
pico_status cuda_act_backward(void *self, const pico_act_backward_args *args);
pico_status cuda_gate_backward(void *self, const pico_gate_backward_args *args);
pico_status cuda_softcap_backward(void *self, const pico_softcap_backward_args *args);
pico_status cuda_gather(void *self, const pico_gather_args *args);
pico_status cuda_scatter(void *self, const pico_gather_args *args);
pico_status cuda_train_attend(void *self, const pico_train_attend_args *args);
pico_status cuda_attend_backward(void *self, const pico_attend_backward_args *args);
pico_status cuda_loss(void *self, const pico_loss_args *args);
pico_status cuda_reduce(void *self, const pico_reduce_args *args);
pico_status cuda_scale(void *self, const pico_scale_args *args);
pico_status cuda_adamw(void *self, const pico_adamw_args *args);
pico_status cuda_muon(void *self, const pico_muon_args *args);
pico_status cuda_muon_many(void *self, const pico_muon_many_args *args);

#ifdef __cplusplus
}
#endif

#endif
