/*
 * Launch shapes and index arithmetic as pure functions of sizes, for the host, the kernels and the
 * tests: no CUDA in here.
 */
#ifndef PICO_BACKEND_CUDA_SHAPES_H
#define PICO_BACKEND_CUDA_SHAPES_H

#include <stdint.h>

#ifdef __CUDACC__
#define CUDA_BOTH static inline __host__ __device__
#else
#define CUDA_BOTH static inline
#endif

#define CUDA_WARP 32
#define CUDA_GRID_Y 65535 /* most blocks of a grid in y and z */

/* Quotient, rounded up, of sizes above 0. */
CUDA_BOTH int64_t cuda_ceil(int64_t n, int64_t unit) {
    return n / unit + (n % unit != 0);
}

CUDA_BOTH int64_t cuda_pad(int64_t n, int64_t unit) {
    return cuda_ceil(n, unit) * unit;
}

CUDA_BOTH int64_t cuda_least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Blocks for n elements of a kernel that strides over its grid. */
CUDA_BOTH uint32_t cuda_blocks(int64_t n, int64_t per_block, int64_t most) {
    const int64_t blocks = cuda_ceil(n, per_block);
    return (uint32_t)(blocks < 1 ? 1 : blocks < most ? blocks : most);
}

/* ---- products of few rows (vector.cu) ----
 *
 * A warp takes outputs one after the other and walks over the columns in steps: a lane loads 16 bytes
 * of codes at a time. x waits in shared memory as floats, a chunk of columns at a time, in the order
 * in which lanes read it. */

#define CUDA_VECTOR_WARPS 8
#define CUDA_VECTOR_ROWS 8      /* most rows of x of one block */
#define CUDA_VECTOR_FLOATS 8192 /* of x in shared memory */

/* Columns that a lane takes at a time: 16 bytes of codes. */
CUDA_BOTH int32_t cuda_lane_columns(uint32_t bits) {
    return (int32_t)(128 / bits);
}

/* Columns of a chunk of x, for n_x (1, 2, 4 or 8) rows; a multiple of every step. */
CUDA_BOTH int32_t cuda_chunk_columns(int32_t n_x) {
    return CUDA_VECTOR_FLOATS / n_x;
}

/* Where column c of a chunk lies in shared memory when lanes take `lane` columns each: four columns
 * of every lane, then the next four, so that the lanes of a warp read neighbours. */
CUDA_BOTH int32_t cuda_chunk_place(int32_t c, int32_t lane) {
    const int32_t step = CUDA_WARP * lane, in = c % step, own = in % lane;
    return c - in + own / 4 * (CUDA_WARP * 4) + in / lane * 4 + own % 4;
}

/* ---- products of few rows on tensor cores (few_mma.cu) ---- */

#define CUDA_FEW_WARPS 8
#define CUDA_FEW_UNIT 32 /* columns that are multiplied at a time */
#define CUDA_FEW_TILE 8  /* outputs of a warp's tile */
#define CUDA_FEW_ROWS 16 /* most rows of x of one block */

/* Rows of x that a block takes. */
CUDA_BOTH int32_t cuda_few_rows(int64_t rows) {
    return rows <= 1 ? 1 : rows <= 2 ? 2 : rows <= 4 ? 4 : rows <= 8 ? 8 : CUDA_FEW_ROWS;
}

/* Columns of x that are in shared memory at a time: three parts of 2 bytes, at most 75 KB. */
CUDA_BOTH int32_t cuda_few_chunk(int32_t n_x) {
    return n_x == 1 ? 8192 : 12288 / n_x;
}

#define CUDA_FEW_RESIDENT 2 /* blocks of a multiprocessor */

/* Tiles of a block at a time: two, unless it would have more to do in the end than with one. */
CUDA_BOTH int32_t cuda_few_tiles(int64_t n_tile, int64_t n_multiprocessor) {
    const int64_t most = CUDA_FEW_RESIDENT * n_multiprocessor;
    return 2 * cuda_ceil(cuda_ceil(n_tile, 2), most) > cuda_ceil(n_tile, most) ? 1 : 2;
}

/* ---- norms ---- */

#define CUDA_NORM_BLOCK 256      /* threads for a wide row */
#define CUDA_NORM_WARP_WIDTH 512 /* widest row of one warp */

#define CUDA_PREPARED_ROWS 32 /* rows whose input is prepared for a weight at once */

/* Products of many rows, where the same bits are promised for any number of rows: each runs as blocks
 * of one fixed shape. */
#define CUDA_BLOCK_ROWS 256
#define CUDA_BLOCK_OUTPUTS 8192

/* Outputs of a warp for n_x rows: more where a value of x can serve several. Gated: the two products of
 * one output. */
CUDA_BOTH int32_t cuda_vector_per_warp(int32_t n_x, int gated) {
    return gated || n_x >= 4 ? 2 : 1;
}

/* Outputs of a block. */
CUDA_BOTH int32_t cuda_vector_outputs(int32_t n_x, int gated) {
    return CUDA_VECTOR_WARPS * (gated ? 1 : cuda_vector_per_warp(n_x, gated));
}

/* Rows of x that a block takes: 1, 2, 4 or 8. */
CUDA_BOTH int32_t cuda_vector_rows(int64_t rows) {
    return rows <= 1 ? 1 : rows <= 2 ? 2 : rows <= 4 ? 4 : CUDA_VECTOR_ROWS;
}

/* ---- attention ---- */

#define CUDA_SPLIT 128        /* positions of one split of a decode row, at absolute places */
#define CUDA_ATTEND_ROWS 32   /* decode rows of one launch */
#define CUDA_ATTEND_HEADS 8   /* query heads of one KV head that a block takes */
#define CUDA_TILE_QUERIES 32  /* prefill: queries of a block */
#define CUDA_MMA_HEAD_DIM 128 /* prefill on tensor cores: widest head */

/* Heads are as wide as this, on tensor cores. */
CUDA_BOTH int32_t cuda_mma_width(int32_t head_dim) {
    return head_dim <= 32 ? 32 : head_dim <= 64 ? 64 : CUDA_MMA_HEAD_DIM;
}

/* Dynamic shared memory of a block: K and V of 64 positions as 16-bit values, in one part or (wide)
 * in two, for each of two parties of warps. */
CUDA_BOTH uint32_t cuda_mma_bytes(int32_t head_dim, int wide) {
    return (uint32_t)(2 * 2 * 64 * 2 * cuda_mma_width(head_dim) * (wide ? 2 : 1));
}

/* Splits that reach over n_pages pages of 64 positions. */
CUDA_BOTH int64_t cuda_splits(int64_t n_pages) {
    return cuda_ceil(n_pages * 64 < 1 ? 1 : n_pages * 64, CUDA_SPLIT);
}

/* ---- KV pages ----
 *
 * For each KV head: K (64, stride), then V; codes of a position are neighbours, padded with zeros
 * to 8 values. Q8_0: behind all codes of K, and of V, F16 scales (64, head_dim / 32). */

typedef struct cuda_kv_layout {
    uint32_t dtype;
    int32_t n_head, head_dim;
    int32_t padded;     /* head_dim as it is stored */
    int32_t size;       /* bytes of a value */
    int32_t n_scale;    /* scales of a position */
    int64_t code_bytes; /* of K of one head, without scales */
    int64_t half_bytes; /* from K to V */
    int64_t page_bytes;
} cuda_kv_layout;

/* ---- selection (select.cu) ---- */

#define CUDA_SELECT_SMALL 2048 /* candidates that a block sorts */
#define CUDA_SELECT_LARGE 8192 /* for large k */
#define CUDA_TOP_K_MOST 6144
#define CUDA_ARGMAX_PARTS 64 /* blocks that share a row */
#define CUDA_SELECT_ROWS 8   /* rows of one launch of top_k */

CUDA_BOTH int64_t cuda_select_slice(int64_t k) {
    return k <= CUDA_SELECT_SMALL / 2 ? CUDA_SELECT_SMALL : CUDA_SELECT_LARGE;
}

/* Candidates that are left of n after one pass. */
CUDA_BOTH int64_t cuda_select_left(int64_t n, int64_t k) {
    const int64_t slice = cuda_select_slice(k), whole = n / slice, rest = n % slice;
    return whole * cuda_least(k, slice) + cuda_least(k, rest);
}

/* Smallest power of two >= n, at least 64. */
CUDA_BOTH int32_t cuda_select_width(int64_t n) {
    int32_t width = 64;
    while (width < n) {
        width *= 2;
    }
    return width;
}

#endif
