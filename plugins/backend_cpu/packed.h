/*
 * Weights packed for products. A panel holds 16 outputs, interleaved along k, so that one vector is
 * the same few columns of 16 rows: x is a broadcast, nothing is summed across lanes, and the bytes
 * of a block of columns are the tile that AMX wants. Four panels make a strip, the unit of work: a
 * thread reads four streams, which is what it takes to load at full speed. Outputs are padded with
 * zeros to whole strips, columns to whole blocks.
 *
 * What is not packed stays row-major: see linear_float.c.
 */
#ifndef PICO_BACKEND_CPU_PACKED_H
#define PICO_BACKEND_CPU_PACKED_H

#include "plugin.h"

#define CPU_PANEL 16
#define CPU_STRIP_PANELS 4
#define CPU_STRIP (CPU_PANEL * CPU_STRIP_PANELS) /* outputs */

enum {
    CPU_PACK_NONE = 0,
    CPU_PACK_BF16 = 1,   /* block: 32 columns as [16 pairs][16 rows][2] */
    CPU_PACK_I8 = 2,     /* block: 64 columns as [16][16 rows][4]; F32 scales of rows apart */
    CPU_PACK_GROUP8 = 3, /* block: one group as [n / 4][16 rows][4], then 16 scales F32 */
    CPU_PACK_Q8 = 4,     /* block: two groups of 32, codes as I8, then 2 x 16 scales F16 */
    CPU_PACK_Q4 = 5,     /* block: two groups of 32 as [8][16 rows][4 bytes], low nibbles columns
                            8i .. 8i + 3, high ones 8i + 4 .. 8i + 7, then 2 x 16 scales F16 */
    CPU_PACK_NF4 = 6     /* block: one group, nibbles as Q4, then 16 scales F32 */
};

typedef struct cpu_packed {
    uint32_t kind;        /* CPU_PACK_x */
    uint32_t block_k;     /* columns of a block */
    uint32_t block_bytes; /* a multiple of 64 */
    uint32_t n_group;     /* scales of a row of x, where it is rounded */
    int64_t k, n_block;   /* columns and blocks of a row */
    int64_t rows;         /* outputs */
    int64_t n_strip;
    int64_t group;               /* columns of a group; k for I8 */
    uint64_t panel_bytes;        /* n_block * block_bytes */
    uint32_t exact_input;        /* 1: x is never rounded */
    uint32_t shared_scale;       /* 1: all groups of a row of x share a scale */
    const uint8_t *panels;       /* (n_strip * 4, n_block, block_bytes) */
    const float *row_scale;      /* I8: (n_strip * 64) */
    const float *codebook;       /* NF4: (16) */
    void *memory, *scale_memory; /* what to free */
} cpu_packed;

/* n_x rows of x against strips [first, first + n) of a weight. y is written from its first column
 * on, only as far as the weight has outputs. */
typedef struct cpu_strips {
    const cpu_packed *w;
    int64_t first, n;
    uint32_t n_x;
    uint32_t accumulate;
    uint32_t prefetch;   /* 1: the weights come from memory */
    const int8_t *codes; /* (n_x, n_block * block_k), rounded x */
    const float *scale;  /* (n_x, n_group) */
    const int32_t *sum;  /* (n_x, n_group) of codes */
    const float *x;      /* NF4: (n_x, n_block * block_k) as it is, zero-padded */
    const float *bias;   /* (outputs of the weight) or NULL */
    float *y;            /* (n_x, ...) y_stride apart; column 0 is output first * 64 */
    int64_t y_stride;
} cpu_strips;

typedef struct cpu_packed_kernels {
    uint32_t kinds; /* bit 1 << CPU_PACK_x: can be computed */
    uint32_t tile;  /* most rows of x in one call */
    void (*strips)(const cpu_strips *job);
    /* Rounds a row of x for the weight: codes (n_block * block_k), scales and sums (n_group). */
    void (*quantise)(const cpu_packed *w, const float *x, int8_t *codes, float *scale,
                     int32_t *sum);
} cpu_packed_kernels;

/*
 * Tiles (AMX). x comes in tiles of 16 rows of 64 bytes: (groups of 16 rows, n_block, 16, 64 bytes),
 * BF16 or int8 codes, rows padded with zeros.
 */
#define CPU_TILE_BYTES 1024
#define CPU_TILE_K 8 /* blocks of columns between two visits of an accumulator */

/* What a piece of work leaves: sums of n_x rows of x, each in n_part parts, for n_panel panels. */
typedef struct cpu_tile_out {
    const cpu_packed *w;
    int64_t first;        /* output that column 0 of y is */
    uint32_t n_x, n_part; /* part p of row m is row m + p * n_x of the sums */
    uint32_t squares;     /* 0: as `strip` leaves them, 1: as `block` does */
    uint32_t accumulate;
    uint64_t pair_bytes; /* squares: from one pair of panels to the next */
    const uint8_t *c;
    const float *scale; /* I8: (n_x) of x */
    const float *bias;  /* (outputs of the weight) or NULL */
    float *y;           /* (n_x, ...) y_stride apart */
    int64_t y_stride;
} cpu_tile_out;

/* Pairs of groups of x by 2 panels, over some blocks of k. What the panels after them hold is asked
 * for on the way, evenly; with a single pair the panels' own bytes are, a little ahead. */
typedef struct cpu_tile_block {
    uint32_t kind;  /* CPU_PACK_BF16 or CPU_PACK_I8 */
    uint32_t first; /* 1: sums begin here; 0: they are continued */
    const uint8_t *x;
    uint64_t group_bytes; /* from one group of 16 rows of x to the next */
    int64_t n_pair;
    const uint8_t *panels;
    uint64_t panel_bytes; /* to the second panel */
    int64_t n_block;
    const uint8_t *next; /* what the next call reads of two panels, next_stride apart, or NULL */
    uint64_t next_stride, next_bytes;
    uint32_t stream; /* 1: with a single pair, the panels come from memory */
    uint8_t *c;      /* (n_pair, 2 groups, 2 panels, 16, 16) */
} cpu_tile_block;

typedef struct cpu_tile_kernels {
    /* One group of 16 rows by the 4 panels of a strip, all of k: c (4, 16 rows, 16 outputs) of
     * F32, or of I32 for codes. */
    void (*strip)(uint32_t kind, const uint8_t *x, const uint8_t *panels, uint64_t panel_bytes,
                  int64_t n_block, uint32_t prefetch, void *c);
    void (*block)(const cpu_tile_block *job);
    /* Before the first and after the last of these calls in a piece of work; rows: 16, or, where only
     * `strip` is called, what x has at most: the rest of c is not written then. */
    void (*begin)(uint32_t rows);
    void (*end)(void);
    /* Blocks [first, first + n) of 32 columns of a panel of grouped codes as BF16 blocks. */
    void (*widen)(const cpu_packed *w, const uint8_t *panel, int64_t first, int64_t n,
                  uint8_t *out);
    /* One row of x: n values to BF16 tiles, 1 or, with the rest of each rounding, 3 of them; part p
     * of the row is row `row` + p * step of the groups. */
    void (*narrow)(const float *x, int64_t n, uint32_t n_part, uint8_t *tiles, int64_t n_block,
                   int64_t row, int64_t step);
    /* Sums to outputs: parts added, codes scaled, bias and what was there before added. */
    void (*finish)(const cpu_tile_out *out);
} cpu_tile_kernels;

extern const cpu_packed_kernels cpu_packed_portable, cpu_packed_avx2, cpu_packed_vnni;
extern const cpu_tile_kernels cpu_tile_amx;

#endif
