/*
 * The extension pico.train/1 of the CPU backend: its own types, and the tables of its kernels, which
 * an instance has of its instruction set like all others (cpu_kernels). Every result
 * is independent of how work was shared: sums run in an order that the shapes alone decide.
 */
#ifndef PICO_BACKEND_CPU_TRAIN_H
#define PICO_BACKEND_CPU_TRAIN_H

#include "cpu.h"

#define CPU_GEMM_K 256     /* terms of a product between two visits of the result */
#define CPU_GEMM_N 4096    /* columns whose share of b is packed at once */
#define CPU_GEMM_ROWS 96   /* rows of the result that a thread takes, a multiple of every mr */
#define CPU_TRAIN_ROWS 64  /* queries of one sequence and head at once */
#define CPU_TRAIN_COLS 256 /* columns that a thread sums at once */
/* of products in BF16: most rows, columns and terms that are packed at once */
#define CPU_TILES_M 2048
#define CPU_TILES_N 2048
#define CPU_TILES_K 512

/* c[i][j] = alpha * sum over k of a(i, k) b(k, j) + beta * c[i][j] + bias[j]. */
typedef struct cpu_tile {
    const float *a; /* a(i, k) is a[i * a_row + k * a_step]; one of the two steps is 1 */
    int64_t a_row, a_step;
    const float *b; /* a packed panel (k, nr) */
    int64_t k;
    float alpha, beta;
    const float *bias; /* (n) or NULL */
    float *c;          /* rows c_row apart */
    int64_t c_row;
    int64_t m, n; /* at most mr, nr */
} cpu_tile;

typedef struct cpu_gemm_kernels {
    int64_t mr, nr;
    void (*tile)(const cpu_tile *tile);
    /* One panel of n <= nr columns as (k, nr), padded with zeros. b is (k, n) or, transposed, (n, k),
     * rows `stride` apart. */
    void (*pack)(const float *b, int64_t stride, int transposed, int64_t k, int64_t n, float *out);
} cpu_gemm_kernels;

/* A product: c (m, n) = alpha op(a) op(b) + beta c + bias. Strides are those of rows in memory. */
typedef struct cpu_gemm_job {
    int transpose_a, transpose_b;
    float alpha, beta;
    const float *a, *b, *bias;
    float *c;
    int64_t m, n, k;
    int64_t a_stride, b_stride, c_stride;
} cpu_gemm_job;

/* c[i][j] = alpha * sum over k of a(i, k) b(k, j) + beta * c[i][j] + bias[j], both factors as tiles. */
typedef struct cpu_square {
    const uint8_t *a, *b; /* two groups each, (n_block) tiles */
    int64_t n_block;      /* of 32 k */
    float alpha, beta;
    const float *bias; /* (n) or NULL */
    float *c;          /* rows c_row apart */
    int64_t c_row;
    int64_t m, n; /* at most 32 */
} cpu_square;

typedef struct cpu_square_kernels {
    /* Groups of n <= 16 lines with k terms each become tiles of BF16, padded with zeros. k_major:
     * the terms of a line are `stride` apart, otherwise lines are. pairs: as the second factor wants
     * it, two terms of each line side by side; otherwise a line is a row of the tile. */
    void (*pack)(int pairs, int k_major, const float *x, int64_t stride, int64_t n, int64_t k,
                 uint8_t *out);
    void (*square)(const cpu_square *square); /* between begin and end of the tile kernels */
} cpu_square_kernels;

/* One row of pico_loss_args; a NULL array is absent. */
typedef struct cpu_loss_row {
    const float *logits, *teacher;
    float *d;
    int64_t n;
    float hard, soft, inv_temperature;
    float log_sum;                       /* ln sum exp(z) */
    float log_sum_soft, log_sum_teacher; /* of z and teacher times inv_temperature */
    uint32_t accumulate;
} cpu_loss_row;

typedef struct cpu_adamw {
    float keep; /* 1 - lr * weight_decay */
    float beta1, beta2, eps, grad_scale;
    float step_size, inv_root; /* lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t) */
} cpu_adamw;

typedef struct cpu_train_kernels {
    void (*norm_stats)(uint32_t kind, float eps, const float *x, int64_t n, float *mean,
                       float *inverse);
    /* factor: scale of the norm */
    void (*norm_dx)(uint32_t kind, float factor, float mean, float inverse, const float *x,
                    const float *weight, const float *dy, float *dx, uint32_t accumulate,
                    int64_t n);
    void (*act_dx)(uint32_t kind, const float *x, const float *gate, const float *dy, float *dx,
                   float *dgate, int64_t n);
    void (*softcap_dx)(float inv_cap, const float *y, float *dy, int64_t n);
    float (*dot)(const float *x, const float *y, int64_t n);
    /* sum[i] += factor * (x[i] - shift) * y[i] */
    void (*add_product)(float factor, float shift, const float *x, const float *y, float *sum,
                        int64_t n);
    /* x = exp(x - shift), and their sum */
    float (*exp_row)(float *x, float shift, int64_t n);
    /* dp = p * (dp - delta) * scale */
    void (*softmax_dx)(const float *p, float delta, float scale, float *dp, int64_t n);
    /* writes d, returns kl */
    double (*loss)(const cpu_loss_row *row);
    void (*adamw)(const cpu_adamw *o, float *p, const float *g, float *m, float *v, int64_t n);
    /* x *= factor * (factors == NULL ? 1 : factors[i]); p -= lr * x + decay * p where x p >= 0 */
    void (*muon)(float factor, const float *factors, float lr, float decay, float *x, float *p,
                 int64_t n);
} cpu_train_kernels;

extern const cpu_gemm_kernels cpu_gemm_portable, cpu_gemm_avx2, cpu_gemm_avx512;
extern const cpu_square_kernels cpu_square_amx;
extern const cpu_train_kernels cpu_train_portable, cpu_train_avx2, cpu_train_avx512;

/* What reserve has made. */
struct cpu_train {
    pico_train_reserve need;
    const cpu_gemm_kernels *gemm;
    const cpu_square_kernels *squares; /* NULL: no products in BF16 */
    const cpu_train_kernels *row;
    uint8_t *tiles_a, *tiles_b; /* (CPU_TILES_M or _N, CPU_TILES_K) BF16, shared by all threads */
    float *pack;                /* (CPU_GEMM_K, columns), shared by all threads */
    int64_t pack_columns;       /* at most CPU_GEMM_N */
    float *value[2];            /* (max(max_dim, max_rows * max_head)) */
    uint64_t n_value;
    float *scratch;  /* n_threads areas */
    uint64_t stride; /* of the areas, in floats */
};

/* NULL until reserve has run. */
static inline struct cpu_train *cpu_train_of(void *self) {
    return ((cpu_backend *)self)->train;
}

/* ---- single-threaded products over packed panels ---- */

/* b as (k, n) panels of nr columns, one after the other, each (k, nr). */
void cpu_pack_panels(const cpu_gemm_kernels *gemm, const float *b, int64_t stride, int transposed,
                     int64_t k, int64_t n, float *out);
/* c (m, n) = alpha a b + beta c. panel: floats from one panel of b to the next; a as in cpu_tile. */
typedef struct cpu_product {
    const float *a;
    int64_t a_row, a_step;
    const float *b;
    int64_t panel;
    int64_t m, n, k;
    float alpha, beta;
    float *c;
    int64_t c_row;
} cpu_product;
void cpu_multiply_panels(const cpu_gemm_kernels *gemm, const cpu_product *p);

/* Sums of columns: out[c] (+)= sum over rows r of what add(arg, r, c0, n, partial) adds for columns
 * [c0, c0 + n). Blocks of 64 rows are summed in float, blocks in double. */
typedef void (*cpu_column_fn)(const void *arg, int64_t row, int64_t column, int64_t n,
                              float *partial);
void cpu_sum_columns(const cpu_backend *cpu, int64_t rows, int64_t cols, cpu_column_fn add,
                     const void *arg, float factor, uint32_t accumulate, float *out);

/* In BF16; k > 0. Only where squares is there. */
void cpu_gemm_tiles(const cpu_backend *cpu, const cpu_gemm_job *gemm);

/* Slots */
pico_status cpu_gemm(void *self, const pico_gemm_args *args);
pico_status cpu_gather(void *self, const pico_gather_args *args);
pico_status cpu_scatter(void *self, const pico_gather_args *args);
pico_status cpu_norm_backward(void *self, const pico_norm_backward_args *args);
pico_status cpu_act_backward(void *self, const pico_act_backward_args *args);
pico_status cpu_gate_backward(void *self, const pico_gate_backward_args *args);
pico_status cpu_softcap_backward(void *self, const pico_softcap_backward_args *args);
pico_status cpu_train_attend(void *self, const pico_train_attend_args *args);
pico_status cpu_attend_backward(void *self, const pico_attend_backward_args *args);
pico_status cpu_loss(void *self, const pico_loss_args *args);
pico_status cpu_reduce(void *self, const pico_reduce_args *args);
pico_status cpu_scale(void *self, const pico_scale_args *args);
pico_status cpu_adamw_step(void *self, const pico_adamw_args *args);
pico_status cpu_muon_step(void *self, const pico_muon_args *args);

/* Scratch of one thread, in floats. */
typedef struct cpu_train_scratch {
    float *pack_a; /* (CPU_GEMM_K, CPU_GEMM_ROWS) */
    /* of attention; T and D are the longest sequence and the widest head, rounded up to 32 */
    float *k_scores, *v_scores; /* (D, T) panels */
    float *k_rows;              /* (T, D) panels */
    float *q_rows, *do_rows;    /* (CPU_TRAIN_ROWS, D) panels */
    float *score, *dscore;      /* (CPU_TRAIN_ROWS, T) */
    /* of losses */
    float *row[2]; /* (max_dim) */
} cpu_train_scratch;
cpu_train_scratch cpu_train_scratch_of(const struct cpu_train *train, uint32_t thread);

#endif
