/*
 * The CUDA backend's own types: the instance, buffers, weights, and what the host part (.c) hands to
 * the kernels (.cu). A launcher cuda_run_X queues kernels in the instance's stream and gives the
 * launch's error; it checks nothing, the slots have. Nothing here is global state.
 */
#ifndef PICO_BACKEND_CUDA_H
#define PICO_BACKEND_CUDA_H

#include <cuda_runtime_api.h>

#include "plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifndef CUDA_NAME
#define CUDA_NAME "cuda" /* of the plugin; the tests build it under another one */
#endif
#define CUDA_SAYS "backend " CUDA_NAME ": "

#define CUDA_MAX_HEAD_DIM 512 /* widest head of a KV page */
#define CUDA_ALIGN 256        /* of parts of one device allocation */

struct pico_buffer {
    char *data; /* device */
    uint64_t bytes;
};

/* An F32 or I32 tensor on the device as (rows, heads, cols). */
typedef struct cuda_view {
    char *data;
    int64_t rows, heads, cols;
    int64_t row_stride, head_stride; /* elements */
} cuda_view;

/* ---- weights (weight.c, pack.c) ---- */

enum {
    CUDA_WEIGHT_F32 = 0,
    CUDA_WEIGHT_F16 = 1,
    CUDA_WEIGHT_BF16 = 2,
    CUDA_WEIGHT_I8 = 3,  /* codes times scales; Q8_0 too */
    CUDA_WEIGHT_4BIT = 4 /* codes into a book of 16 times scales: Q4_0, NF4 */
};

/* On the device. Rows of codes are row_bytes apart, a multiple of 16, zeros behind the last column.
 * 4 bits: column c of a row is bits 4 * (c % 8) of its 32-bit word c / 8. */
typedef struct cuda_weight {
    uint32_t kind;       /* CUDA_WEIGHT_x */
    uint32_t scale_half; /* 1: scales are F16, 0: F32 */
    int64_t rows, cols;
    int64_t row_bytes;
    int64_t group;       /* columns of a scale, at least 1 */
    int64_t scale_row;   /* scales from one row to the next; 0: one for the matrix */
    int32_t group_shift; /* group = 1 << group_shift; -1: it is no power of two */
    int32_t linear;      /* 4 bits: value = code - 8, there is no book */
    const char *codes;
    const void *scales;         /* NULL: none */
    const float *book;          /* (16) of 4 bits */
    const float *input_scale;   /* (cols) of inputs, or NULL */
    const int32_t *perm;        /* (cols) code column -> input, or NULL */
    const int32_t *inverse;     /* (cols) input -> code column, or NULL */
    const int32_t *outlier_of;  /* (cols) input -> outlier, -1: none; or NULL */
    const int32_t *outlier_col; /* (n_outlier) inputs */
    const uint16_t *outlier;    /* F16 (rows, n_outlier) */
    int64_t n_outlier;
} cuda_weight;

struct pico_weight {
    cuda_weight device;
    char *memory; /* the device allocation that all pointers lie in */
    uint32_t dtype, scale_dtype;
    uint32_t input_quant;
    uint64_t codes_bytes, n_scales; /* as they were given */
    int extras;                     /* 1: an input scale, a permutation or outliers */
};

/* ---- the instance ---- */

enum { CUDA_SLOTS = 8, CUDA_SLOT_BYTES = 256 << 10, CUDA_READ_BYTES = 2 << 20 };

/* Page-locked memory, through which writes go without waiting for the stream, and reads in pieces. */
typedef struct cuda_staging {
    char *memory; /* (CUDA_SLOTS) slots for writes, then two pieces for reads */
    cudaEvent_t done[CUDA_SLOTS];
    uint32_t next;
    char *read;
    cudaEvent_t came[2];
} cuda_staging;

/* Scratch on the device, sized by reserve; one op uses it at a time, in the order of the stream. */
typedef struct cuda_scratch {
    char *memory;
    uint64_t bytes;
    char *input; /* products of many rows: x in BF16 (input_rows, pad(max_in)) */
    int64_t input_rows;
    char *expanded; /* widened weights */
    uint64_t expanded_bytes;
    float *prepared; /* (32, pad(max_in)): x as the codes of a weight want it */
    float *gated;    /* one of two products before the activation */
    uint64_t gated_bytes;
    float *block;   /* a block of outputs of fixed shape (deterministic) */
    float *partial; /* attention: (rows, heads, splits, head_dim + 2) */
    uint64_t partial_bytes;
    char *select; /* argmax and top-k */
    uint64_t select_bytes;
} cuda_scratch;

typedef struct cuda_options {
    int64_t device;
    uint32_t deterministic;
    uint32_t graphs;
    uint32_t sync;
} cuda_options;

struct cuda_train;
struct cuda_pending;
struct cuda_gemm_state;

typedef struct cuda_backend {
    const pico_host *host;
    cuda_options options;
    char device[96];
    uint32_t n_multiprocessor;
    uint32_t capability;   /* 90: compute capability 9.0 */
    uint32_t block_shared; /* bytes of shared memory that a block can have */
    cudaStream_t stream;
    cuda_staging staging;
    pico_reserve need; /* the largest so far */
    cuda_scratch scratch;
    uint32_t generation; /* of the scratch memory: what was captured before is stale */
    uint32_t capturing;
    struct cuda_pending *pending; /* what waits for the next op, see fuse.h */
    uint64_t n_op;                /* calls so far; each may have written to any buffer */
    struct cuda_gemm_state *gemm;
    struct cuda_train *train; /* NULL until training reserves it */
    cudaError_t failure;      /* latched; reported by the next read or sync */
    char failed[48];          /* the call that failed */
} cuda_backend;

/* ---- device.c: errors, and finding a device ---- */

/* The instance, its device made the thread's current one: another instance may have used another. What
 * waited for this op is launched. */
cuda_backend *cuda_enter(void *self);
/* The same, for ops that take up what waits, or launch it. */
cuda_backend *cuda_enter_fusing(void *self);
/* PICO_OK: a failure is latched, with the name of the call, and reported by the next read or sync. */
pico_status cuda_done(cuda_backend *cuda, cudaError_t error, const char *call);
/* The status for an error and its message: "CALL: what CUDA says". */
pico_status cuda_fail(pico_error *err, cudaError_t error, const char *call);
pico_status cuda_no_memory(pico_error *err, uint64_t bytes, const char *what);
/* Waits for the stream; gives a latched failure, once. */
pico_status cuda_wait(cuda_backend *cuda, pico_error *err);
pico_status cuda_open_device(cuda_backend *cuda, pico_error *err);
void cuda_close_device(cuda_backend *cuda);

/* ---- memory.c ---- */

pico_status cuda_view_of(const pico_tensor *tensor, uint32_t dtype, cuda_view *out);
/* A matrix, or heads side by side, that is F32 or, with *narrow = 1, BF16 as
 * PICO_TRAIN_HAS_BF16_TENSORS says. */
pico_status cuda_factor_of(const pico_tensor *tensor, cuda_view *out, uint32_t *narrow);
/* (n) values; fails unless the tensor has exactly n elements in one contiguous run. */
pico_status cuda_vector_of(const pico_tensor *tensor, uint32_t dtype, int64_t n, void **out);
/* For an optional tensor: *out is NULL when there is no buffer. */
pico_status cuda_optional_of(const pico_tensor *tensor, int64_t n, float **out);
pico_status cuda_device_alloc(uint64_t bytes, const char *what, char **out, pico_error *err);

pico_status cuda_buffer_alloc(void *self, uint64_t bytes, pico_buffer **out, pico_error *err);
void cuda_buffer_free(void *self, pico_buffer *buffer);
pico_status cuda_buffer_write(void *self, pico_buffer *buffer, uint64_t offset, const void *src,
                              uint64_t bytes);
pico_status cuda_buffer_read(void *self, const pico_buffer *buffer, uint64_t offset, void *dst,
                             uint64_t bytes, pico_error *err);
pico_status cuda_buffer_copy(void *self, pico_buffer *dst, uint64_t dst_offset,
                             const pico_buffer *src, uint64_t src_offset, uint64_t bytes);
/* Host to device and back through the staging memory, in order with the stream. */
pico_status cuda_upload(cuda_backend *cuda, char *to, const void *from, uint64_t bytes);
pico_status cuda_download(cuda_backend *cuda, void *to, const char *from, uint64_t bytes,
                          pico_error *err);

/* ---- scratch.c ---- */

pico_status cuda_reserve(void *self, const pico_reserve *need, pico_error *err);

/* ---- weight.c, pack.c ---- */

/* A row of codes as files have it (desc) -> as the device has it, and back. scales: F16, of the
 * blocks of Q8_0 and Q4_0, else NULL. */
void cuda_pack_row(uint32_t dtype, int64_t cols, const uint8_t *from, uint8_t *codes,
                   uint16_t *scales);
void cuda_unpack_row(uint32_t dtype, int64_t cols, const uint8_t *codes, const uint16_t *scales,
                     uint8_t *to);
/* Bytes of a row in a file; 0 if the layout is unknown or does not allow such a row. */
uint64_t cuda_file_row_bytes(uint32_t dtype, int64_t cols);
/* Bytes of a row on the device. */
int64_t cuda_device_row_bytes(uint32_t dtype, int64_t cols);

pico_status cuda_weight_create(void *self, const pico_weight_desc *desc, uint32_t uses,
                               uint32_t stays, pico_weight **out, pico_error *err);
void cuda_weight_free(void *self, pico_weight *weight);
pico_status cuda_weight_read(void *self, const pico_weight *weight, void *codes, void *scales,
                             pico_error *err);

/* ---- the slots ---- */

pico_status cuda_embed(void *self, const pico_embed_args *args);
pico_status cuda_norm(void *self, const pico_norm_args *args);
pico_status cuda_linear(void *self, const pico_linear_args *args);
pico_status cuda_linear_many(void *self, const pico_linear_many_args *args);
pico_status cuda_linear_gated(void *self, const pico_linear_gated_args *args);
pico_status cuda_rope(void *self, const pico_rope_args *args);
uint64_t cuda_kv_page_bytes(void *self, const pico_kv_desc *kv);
pico_status cuda_kv_store(void *self, const pico_kv_store_args *args);
pico_status cuda_kv_copy(void *self, const pico_kv_copy_args *args);
pico_status cuda_attend(void *self, const pico_attend_args *args);
pico_status cuda_activation(void *self, const pico_act_args *args);
pico_status cuda_gate(void *self, const pico_gate_args *args);
pico_status cuda_axpby(void *self, const pico_axpby_args *args);
pico_status cuda_softcap(void *self, const pico_softcap_args *args);
pico_status cuda_logit_edit(void *self, const pico_logit_edit_args *args);
pico_status cuda_argmax(void *self, const pico_argmax_args *args);
pico_status cuda_top_k(void *self, const pico_top_k_args *args);

extern const pico_capture_ops cuda_capture_table; /* capture.c */

#ifdef __cplusplus
}
#endif

#endif
