/*
 * What each kernel needs, and the launchers. Pointers are device memory. A launcher queues its kernels
 * in the stream and gives the launch's error; sizes were checked by the slots, and nothing is launched
 * for no rows.
 */
#ifndef PICO_BACKEND_CUDA_JOBS_H
#define PICO_BACKEND_CUDA_JOBS_H

#include "cuda.h"
#include "shapes.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- rows.cu ---- */

typedef struct cuda_norm_job {
    uint32_t kind;
    float eps, scale;
    cuda_view x, y;
    const float *weight, *bias;
} cuda_norm_job;
cudaError_t cuda_run_norm(cudaStream_t stream, const cuda_norm_job *job);

typedef struct cuda_rope_job {
    uint32_t layout;
    float sign;
    int64_t half;
    cuda_view x, cosine, sine;
    const int32_t *pos;
} cuda_rope_job;

typedef struct cuda_store_job {
    cuda_kv_layout kv;
    char *pages;
    int64_t n_cell;
    cuda_view k, v;
    const int32_t *cell;
} cuda_store_job;

/* What happens to heads, one after the other: each step to one of the targets, in place. */
enum { CUDA_HEAD_ROPE = 0, CUDA_HEAD_NORM = 1, CUDA_HEAD_STORE_K = 2, CUDA_HEAD_STORE_V = 3 };
enum { CUDA_HEAD_TARGETS = 3, CUDA_HEAD_STEPS = 6 };

typedef struct cuda_head_step {
    uint32_t what, target;
    union {
        cuda_rope_job rope;
        cuda_norm_job norm; /* of x = y = the target, no wider than CUDA_NORM_WARP_WIDTH */
    };
} cuda_head_step;

typedef struct cuda_heads_job {
    int64_t rows;
    uint32_t n_target, n_step;
    cuda_view target[CUDA_HEAD_TARGETS]; /* no two share memory */
    cuda_head_step step[CUDA_HEAD_STEPS];
    cuda_store_job store; /* of the steps that store */
} cuda_heads_job;
cudaError_t cuda_run_heads(cudaStream_t stream, const cuda_heads_job *job);

/* ---- elements.cu: y from x, element by element ---- */

enum {
    CUDA_ELEMENT_ACT = 0,     /* y = act(x) * gate */
    CUDA_ELEMENT_GATE = 1,    /* y += a * sigmoid(g[row, head]) * x */
    CUDA_ELEMENT_AXPBY = 2,   /* y = a x + b y */
    CUDA_ELEMENT_SOFTCAP = 3, /* y = a tanh(x / a) */
    CUDA_ELEMENT_BIAS = 4     /* y += bias[column] */
};

typedef struct cuda_element_job {
    uint32_t what, kind;
    cuda_view x, y, gate; /* gate.data NULL: none */
    float a, b;
    const float *a_scalar, *b_scalar, *bias; /* NULL: 1, 1, none */
    uint16_t *narrow; /* ACT: (rows, cols) in the place of y in BF16; NULL: F32 */
} cuda_element_job;
cudaError_t cuda_run_element(cudaStream_t stream, const cuda_element_job *job);

/* ---- weights.cu ---- */

typedef struct cuda_embed_job {
    cuda_weight table;
    const int32_t *index;
    cuda_view out;
    uint32_t accumulate;
} cuda_embed_job;
cudaError_t cuda_run_embed(cudaStream_t stream, const cuda_embed_job *job);

/* Rows [first, first + n) of the matrix that a weight stands for, as F32 or BF16, `stride` elements
 * apart, zeros from cols to stride. */
typedef struct cuda_expand_job {
    cuda_weight weight;
    int64_t first, n, stride;
    uint32_t bf16;
    void *out;
} cuda_expand_job;
cudaError_t cuda_run_expand(cudaStream_t stream, const cuda_expand_job *job);

/* Rows of x for the codes of a weight: scaled, permuted, zeros where outliers take over. */
typedef struct cuda_prepare_job {
    cuda_weight weight;
    cuda_view x;
    float *out; /* (rows, stride) */
    int64_t stride;
} cuda_prepare_job;
cudaError_t cuda_run_prepare(cudaStream_t stream, const cuda_prepare_job *job);

/* y += x[outliers] / scale * outlier values */
typedef struct cuda_outlier_job {
    cuda_weight weight;
    cuda_view x, y;
} cuda_outlier_job;
cudaError_t cuda_run_outliers(cudaStream_t stream, const cuda_outlier_job *job);

/* Rows of x as BF16 (rows_out, stride) or F32, zeros behind the last column and the last row. */
typedef struct cuda_narrow_job {
    cuda_view x;
    void *out;
    int64_t rows_out, stride;
    uint32_t bf16;
} cuda_narrow_job;
cudaError_t cuda_run_narrow(cudaStream_t stream, const cuda_narrow_job *job);

/* ---- vector.cu, few_mma.cu: products of few rows ---- */

typedef struct cuda_vector_part {
    cuda_weight weight;
    const float *bias; /* NULL: none */
    float *y;          /* (rows, outputs) */
    int64_t y_stride;
    uint32_t first_block; /* of the grid */
} cuda_vector_part;

typedef struct cuda_vector_job {
    cuda_vector_part part[4]; /* of one kind */
    uint32_t n_part;
    uint32_t accumulate;
    uint32_t gate;  /* PICO_ACT_x: y of part 0 = act(product 0) * product 1; 0: none */
    uint32_t act;   /* PICO_ACT_x of the outputs; 0: none */
    const float *x; /* (rows, cols) */
    int64_t x_stride, rows, cols;
    uint32_t normed;    /* x is normalised first, and the result goes where the norm says */
    cuda_norm_job norm; /* of rows wider than CUDA_NORM_WARP_WIDTH; its x is the job's */
    int32_t tiles;      /* few_mma.cu: of a block */
    int32_t resident;   /* few_mma.cu: blocks that run at the same time */
    int32_t chunk;      /* few_mma.cu: columns of x at a time; set by the launcher, as the next */
    uint32_t n_block;   /* of all parts */
} cuda_vector_job;
cudaError_t cuda_run_vector(cudaStream_t stream, const cuda_vector_job *job);
/* BF16, and int8 with a scale for a matrix, a row or a group of 32 * 2^n columns; from compute
 * capability 8.0 on. */
cudaError_t cuda_run_few(cudaStream_t stream, const cuda_vector_job *job);

/* ---- pages.cu ---- */

typedef struct cuda_copy_job {
    cuda_kv_layout kv;
    char *pages;
    const int32_t *from, *to;
    int64_t n;
} cuda_copy_job;
cudaError_t cuda_run_copy(cudaStream_t stream, const cuda_copy_job *job);

/* ---- attend_split.cu, attend_tile.cu, attend_mma.cu ---- */

typedef struct cuda_attend_job {
    cuda_kv_layout kv;
    const char *pages;
    cuda_view q, out, table;
    const int32_t *pos, *slot, *base;
    const int32_t *anc_begin, *anc_cell; /* NULL: no trees */
    int64_t first, n;                    /* rows */
    int32_t n_head, group;               /* query heads; those of one KV head */
    int32_t window, n_sink;
    float scale;
    int64_t n_split;
    float *partial; /* (n, n_head, n_split, head_dim + 2) */
} cuda_attend_job;
cudaError_t cuda_run_attend_split(cudaStream_t stream, const cuda_attend_job *job);
cudaError_t cuda_run_attend_tile(cudaStream_t stream, const cuda_attend_job *job);
/* Heads of up to CUDA_MMA_HEAD_DIM, as they are stored; compute capability 8.0. */
cudaError_t cuda_run_attend_mma(cudaStream_t stream, const cuda_attend_job *job);

/* ---- select.cu ---- */

typedef struct cuda_edit_job {
    cuda_view logits;
    const int32_t *row, *token;
    const float *sub, *rep, *bias;
    int64_t n;
} cuda_edit_job;
cudaError_t cuda_run_edit(cudaStream_t stream, const cuda_edit_job *job);

typedef struct cuda_select_job {
    cuda_view logits;
    int64_t k;
    float inv_temperature;
    int32_t *index; /* (rows, k) */
    float *value;
    float *log_sum;
    void *scratch; /* see cuda_scratch */
} cuda_select_job;
cudaError_t cuda_run_argmax(cudaStream_t stream, const cuda_select_job *job);
cudaError_t cuda_run_top_k(cudaStream_t stream, const cuda_select_job *job);

#ifdef __cplusplus
}
#endif

#endif
