/*
 * The CPU backend's own types: the instance, buffers, weights and the tables of kernels, one per
 * instruction set, that an instance chooses from when it is made. Nothing here is global state.
 */
#ifndef PICO_BACKEND_CPU_H
#define PICO_BACKEND_CPU_H

#include <assert.h>

#include "packed.h"
#include "plugin.h"

#define CPU_LANES_DOT 16       /* a dot product is 16 interleaved sums, whatever the width in use */
#define CPU_MAX_MROWS 192      /* rows of x that one pass over the weights serves */
#define CPU_PACK_FLOATS 131072 /* 512 KB of packed x: half of a typical second-level cache */
#define CPU_PACK_MIN_ROWS 32   /* but at least what the decode class brings at most */
#define CPU_PACK_SLACK 4
#define CPU_ROW_UNIT 8       /* rows of a weight are handed to threads in units of 8 */
#define CPU_EXPAND_ROWS 8    /* weight rows widened to F32 at once */
#define CPU_GATED_MROWS 512  /* rows of x whose gated outputs wait in scratch */
#define CPU_ATTN_QUERIES 48  /* (row, head) pairs that share the walk over the pages */
#define CPU_TILE_QUERIES 128 /* the same on tiles */
#define CPU_ATTN_HEADS 8     /* query heads of one KV head that one thread takes */
#define CPU_COLUMNS 16       /* positions whose keys are stored at once */
#define CPU_MAX_HEAD_DIM 512 /* widest head of a KV page */

struct pico_buffer {
    uint8_t *data;
    uint64_t bytes;
    uint64_t mapped; /* bytes to unmap; 0: from the heap */
};

/* Where the weights of a product lie: what threads share out, one part after the other. */
typedef struct cpu_ahead {
    struct {
        const uint8_t *data;
        uint64_t unit_bytes; /* of a strip, or of a row */
        uint64_t n;          /* units */
    } part[4];
    uint32_t n_part;
    uint32_t pairs; /* 1: a unit of part 0 goes with one of part 1 */
} cpu_ahead;

struct pico_weight {
    pico_weight_desc desc;  /* codes, scales and the rest point to what the weight uses */
    uint64_t row_bytes;     /* from one row of codes to the next */
    uint64_t scale_row;     /* scales of a row */
    void *owned[9];         /* copies, to free */
    uint64_t aligned_bytes; /* of cpu_backend.copied */
    uint32_t uses;
    cpu_packed packed;         /* kind NONE: the codes are used as they lie */
    const float *outlier;      /* (n_outlier, rows), of packed weights */
    const int32_t *input_perm; /* (cols) as given, of packed weights */
    cpu_ahead *then;           /* the product that came after this one's last time */
};

/* A strip of a product: y[m][r] = w[r] . x[m]. x is packed: (k / 16, n_x, 16), zero-padded; with
 * one row of x it is that row as it is. */
typedef struct cpu_dot {
    const void *w;     /* (n_w, k) of dtype */
    uint64_t w_stride; /* bytes */
    uint32_t dtype;
    uint32_t n_x; /* 1 .. tile of the table */
    int64_t n_w;
    int64_t k;
    const float *x;
    const float *bias; /* (n_w) or NULL */
    float *y;          /* (n_x, n_w), rows y_stride apart */
    int64_t y_stride;  /* elements */
    uint32_t accumulate;
    uint32_t prefetch; /* 1: the weights stream from memory, ask for the next rows ahead of time */
} cpu_dot;

typedef struct cpu_dot_kernels {
    uint32_t tile;   /* most rows of x in one strip */
    uint32_t direct; /* bit 1 << dtype: taken as it is; the others are widened to F32 first */
    void (*dot)(const cpu_dot *dot);
} cpu_dot_kernels;

/* Kernels over one contiguous row. Each element's arithmetic depends on its own data and, for sums,
 * on the row's width alone. */
typedef struct cpu_row_kernels {
    void (*norm)(uint32_t kind, float eps, float scale, const float *x, const float *weight,
                 const float *bias, float *y, int64_t n);
    void (*rope)(uint32_t layout, float sign, float *x, const float *cosine, const float *sine,
                 int64_t half);
    void (*activate)(uint32_t kind, const float *x, const float *gate, float *y, int64_t n);
    void (*axpby)(float a, const float *x, float b, float *y, int64_t n);
    void (*softcap)(float cap, float *x, int64_t n);
    void (*sigmoid)(const float *x, float *y, int64_t n);
    /* F16, BF16 -> F32 and back */
    void (*widen)(uint32_t dtype, const void *x, float *y, int64_t n);
    void (*narrow)(uint32_t dtype, const float *x, uint16_t *y, int64_t n);
    /* whole blocks of 32 -> int8 codes and an F16 scale each, step apart; see kv.c */
    void (*to_q8)(const float *x, int8_t *codes, uint16_t *scales, int64_t step, int64_t n);
    /* rows of n elements of `size` bytes side by side: element d of each at to + 64 d */
    void (*columns)(uint32_t size, const void *const *row, uint32_t n_row, uint8_t *to, int64_t n);
    void (*scale_i8)(const int8_t *codes, float scale, float *y, int64_t n);
    /* whole blocks of 32, as plugin.h describes them */
    void (*q8_0)(const uint8_t *blocks, float *y, int64_t n);
    void (*q4_0)(const uint8_t *blocks, float *y, int64_t n);
    /* first index >= from whose value is above the bound, or n; NaN is above nothing */
    int64_t (*next_above)(const float *x, int64_t from, int64_t n, float bound);
    float (*maximum)(const float *x, int64_t n); /* ignores NaN; -inf if nothing is left */
    double (*sum_exp)(const float *x, float factor, float shift, int64_t n);
} cpu_row_kernels;

/* What one query, a (row, head) pair, sees of one page: offsets [lo, hi) and [0, n_sink). */
typedef struct cpu_span {
    int32_t lo, hi, n_sink;
} cpu_span;

/* n_q queries over one page of one KV head. The state of query i: largest score, sum of
 * exponentials and accumulator. All arrays are the thread's scratch. */
typedef struct cpu_attn {
    uint32_t dtype; /* of K and V; Q8_0: codes, with F16 scales for 32 dimensions of a position */
    uint32_t n_q;
    uint32_t head_dim;
    float scale;
    const void *k;                     /* (64 / n, head_dim, n), n elements to 64 bytes */
    const void *v;                     /* (64, head_dim) */
    const uint16_t *k_scale, *v_scale; /* Q8_0: (head_dim / 32, 64) */
    const void *next_k, *next_v; /* what will be walked next, to ask memory for it; may be NULL */
    float *wide;                 /* (2, 64, head_dim), for K and V as floats */
    const float *const *q;       /* (n_q) pointers to (head_dim) */
    const cpu_span *span;        /* (n_q) */
    float *score;                /* (n_q, 64) */
    float *largest, *sum;        /* (n_q) */
    float *acc;                  /* (n_q, acc_stride) */
    int64_t acc_stride;
    uint8_t *tiles; /* cpu_attn_tile_bytes, for tiles; score and acc then have room for whole 32s */
} cpu_attn;

static inline uint64_t cpu_attn_tile_bytes(uint32_t head_dim) {
    const uint64_t chunks = (head_dim + 31u) / 32;
    const uint64_t groups = CPU_TILE_QUERIES / 16;
    return 2 * ((groups + 4 + 4) * chunks + groups * 2) * CPU_TILE_BYTES;
}

typedef struct cpu_attn_kernels {
    void (*queries)(const cpu_attn *attn); /* before the first page of a walk; NULL: not needed */
    void (*page)(const cpu_attn *attn);
    void (*finish)(const float *acc, float sum, float *out, int64_t n);
} cpu_attn_kernels;

typedef struct cpu_kernels {
    const char *name;
    const cpu_dot_kernels *dot;
    const cpu_row_kernels *row;
    const cpu_attn_kernels *attn;
    const cpu_packed_kernels *packed;
    const cpu_tile_kernels *tile;        /* NULL: none */
    const cpu_attn_kernels *attn_tile;   /* of prompts; NULL: none. finish is that of attn */
    const struct cpu_gemm_kernels *gemm; /* these two for training, see train.h */
    const struct cpu_train_kernels *train;
} cpu_kernels;

extern const cpu_dot_kernels cpu_dot_portable, cpu_dot_avx2, cpu_dot_avx512;
extern const cpu_row_kernels cpu_row_portable, cpu_row_avx2, cpu_row_avx512;
extern const cpu_attn_kernels cpu_attn_portable, cpu_attn_avx2, cpu_attn_avx512, cpu_attn_amx;

typedef struct cpu_backend {
    const pico_host *host;
    const cpu_kernels *kernels;
    uint32_t n_threads;
    char device[96];
    uint32_t float_input; /* 1: x is never rounded */
    uint64_t copied;      /* bytes of small misaligned weights that were copied */

    pico_reserve need; /* the largest so far */
    uint8_t *scratch;  /* n_threads areas */
    uint64_t scratch_stride;
    uint8_t *pack; /* packed rows of x */
    uint64_t pack_bytes;
    struct cpu_train *train; /* see train.h; NULL until training reserves it */

    cpu_ahead *latest;  /* `then` of the latest product's first weight, or NULL */
    pico_range *ranges; /* (n_threads, 2) */
} cpu_backend;

/* features.c */
enum {
    CPU_ISA_AUTO = 0,
    CPU_ISA_PORTABLE = 1,
    CPU_ISA_AVX2 = 2,
    CPU_ISA_AVX512 = 3,
    CPU_ISA_AMX = 4
};
pico_status cpu_choose_kernels(uint32_t isa, const cpu_kernels **out, pico_error *err);
void cpu_model_name(char out[64]);

/* memory.c */
typedef struct cpu_view { /* an F32 or I32 tensor as (rows, cols) or (rows, heads, cols) */
    char *data;
    int64_t rows, heads, cols;
    int64_t row_stride, head_stride; /* elements */
} cpu_view;
pico_status cpu_view_of(const pico_tensor *tensor, uint32_t dtype, cpu_view *out);
/* (n) values; fails unless the tensor has exactly n elements in one contiguous run. */
pico_status cpu_vector_of(const pico_tensor *tensor, uint32_t dtype, int64_t n, void **out);
/* As above for an optional tensor: *out is NULL when there is no buffer. */
pico_status cpu_optional_of(const pico_tensor *tensor, int64_t n, float **out);

static inline float *cpu_row_f32(const cpu_view *view, int64_t row) {
    return (float *)(void *)view->data + row * view->row_stride;
}
static inline int32_t *cpu_row_i32(const cpu_view *view, int64_t row) {
    return (int32_t *)(void *)view->data + row * view->row_stride;
}

pico_status cpu_buffer_alloc(void *self, uint64_t bytes, pico_buffer **out, pico_error *err);
void cpu_buffer_free(void *self, pico_buffer *buffer);
pico_status cpu_buffer_write(void *self, pico_buffer *buffer, uint64_t offset, const void *src,
                             uint64_t bytes);
pico_status cpu_buffer_read(void *self, const pico_buffer *buffer, uint64_t offset, void *dst,
                            uint64_t bytes, pico_error *err);
pico_status cpu_buffer_copy(void *self, pico_buffer *dst, uint64_t dst_offset,
                            const pico_buffer *src, uint64_t src_offset, uint64_t bytes);
void *cpu_buffer_host(void *self, pico_buffer *buffer);
pico_status cpu_reserve(void *self, const pico_reserve *need, pico_error *err);

/* Thread scratch: one area, used by one op at a time. */
typedef struct cpu_scratch {
    float *expanded;  /* (CPU_EXPAND_ROWS, pad(max_in)) */
    float *gated;     /* (CPU_GATED_MROWS, CPU_STRIP) */
    float *score;     /* (CPU_TILE_QUERIES, 64) */
    float *acc;       /* (CPU_TILE_QUERIES, pad(max_head_dim)) */
    float *state;     /* (2, CPU_TILE_QUERIES) */
    uint8_t *gather;  /* (2, 64, max_head_dim) of at most 4 bytes */
    float *wide;      /* (2, 64, max_head_dim) */
    uint8_t *sums;    /* tiles: (4, CPU_GATED_MROWS / 32, 4) of CPU_TILE_BYTES */
    uint8_t *widened; /* tiles: (2, CPU_TILE_K) of CPU_TILE_BYTES */
    uint8_t *attn;    /* tiles: cpu_attn_tile_bytes */
} cpu_scratch;
cpu_scratch cpu_scratch_of(const cpu_backend *cpu, uint32_t thread);

static inline int64_t cpu_pad16(int64_t n) {
    return (n + 15) & ~(int64_t)15;
}

/* Runs fn over [0, n). item_ns is a rough cost of one item: jobs too small to share run here. */
void cpu_parallel(const cpu_backend *cpu, uint64_t n, uint64_t unit, double item_ns,
                  void (*fn)(void *arg, uint64_t begin, uint64_t end, uint32_t thread), void *arg);

/* weight.c, expand.c */
pico_status cpu_weight_create(void *self, const pico_weight_desc *desc, uint32_t uses,
                              uint32_t stays, pico_weight **out, pico_error *err);
void cpu_weight_free(void *self, pico_weight *weight);
pico_status cpu_weight_read(void *self, const pico_weight *weight, void *codes, void *scales,
                            pico_error *err);
/* How a weight is packed (CPU_PACK_x), and the packing; desc and row_bytes of weight are set. */
uint32_t cpu_pack_kind(const cpu_backend *cpu, const pico_weight_desc *desc);
pico_status cpu_pack(const cpu_backend *cpu, const pico_weight *weight, uint32_t kind,
                     cpu_packed *out, pico_error *err);
void cpu_unpack(cpu_packed *packed);
/* Row `row` of the matrix that the weight stands for, (cols). */
void cpu_expand_row(const cpu_row_kernels *kernels, const pico_weight *weight, int64_t row,
                    float *out);

/* The ops */
pico_status cpu_embed(void *self, const pico_embed_args *args);
pico_status cpu_norm(void *self, const pico_norm_args *args);
pico_status cpu_linear(void *self, const pico_linear_args *args);
pico_status cpu_linear_many(void *self, const pico_linear_many_args *args);
pico_status cpu_linear_gated(void *self, const pico_linear_gated_args *args);
pico_status cpu_rope(void *self, const pico_rope_args *args);
uint64_t cpu_kv_page_bytes(void *self, const pico_kv_desc *kv);
pico_status cpu_kv_store(void *self, const pico_kv_store_args *args);
pico_status cpu_kv_copy(void *self, const pico_kv_copy_args *args);
pico_status cpu_attend(void *self, const pico_attend_args *args);
pico_status cpu_activation(void *self, const pico_act_args *args);
pico_status cpu_gate(void *self, const pico_gate_args *args);
pico_status cpu_axpby(void *self, const pico_axpby_args *args);
pico_status cpu_softcap(void *self, const pico_softcap_args *args);
pico_status cpu_logit_edit(void *self, const pico_logit_edit_args *args);
pico_status cpu_argmax(void *self, const pico_argmax_args *args);
pico_status cpu_top_k(void *self, const pico_top_k_args *args);

/* train.c */
const void *cpu_extension(void *self, const char *id);
void cpu_train_free(cpu_backend *cpu);

#endif
