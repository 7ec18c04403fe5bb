/*
 * Products of rounded x with packed integer weights: exact sums of codes in integers, one
 * multiply-add for each group of columns, in the order of the groups. A row's result is the same
 * in every batch, and whatever the shape of the strip. Included by one source file for each
 * instruction set, with the vectors of PACKED_VECTORS bits (ints_*.h): iv (16 int32), qv (64 bytes), fv (16 floats).
 */
#include <assert.h>
#include <string.h>

#include "packed.h"

#define PREFETCH_AHEAD 2048 /* in each of the four streams */

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if PACKED_VECTORS == 512
#include "ints_vnni.h"
#elif PACKED_VECTORS == 256
#include "ints_avx2.h"
#else
#include "ints_portable.h"
#endif

/* Products are of unsigned by signed bytes: what makes signed codes unsigned is taken off again. */
INLINE int32_t offset_of(uint32_t kind) {
    return kind == CPU_PACK_Q4 ? 8 : CODE_OFFSET;
}

typedef struct packed_rows { /* where M rows of x are; S panels from w[0] on */
    const uint8_t *w[CPU_STRIP_PANELS];
    const int8_t *x[8];
} packed_rows;

/* How many sums there are for each output: with one row of x a single one would be waited for. Sums of
 * integers are the same in any order. Those over a group alone are too short to gain by it. */
INLINE int sets_of(uint32_t kind, int M) {
    return M == 1 && kind == CPU_PACK_I8 ? SETS_OF_ONE_ROW : 1;
}

/* Step i of 4 columns (of 8 with nibbles), from block offset `at` on; quiet: without prefetches, which
 * take the time of loads. */
INLINE void step(uint32_t kind, int S, int M, int i, int quiet, const packed_rows *p, int64_t at,
                 int64_t x_at, int64_t ahead, iv acc[8][CPU_STRIP_PANELS]) {
    const int nibbles = kind == CPU_PACK_Q4;
    UNROLL for (int s = 0; s < S; s++) {
        const uint8_t *at_w = p->w[s] + at + 64 * i;
        if (!quiet) {
            prefetch(at_w + ahead);
        }
        if (nibbles) {
            const qv both = q_load(at_w);
            const qv low = q_low(both), high = q_high(both);
            UNROLL for (int m = 0; m < M; m++) {
                acc[m][s] = i_dot_nibbles(acc[m][s], low, p->x[m] + x_at + 8 * i);
                acc[m][s] = i_dot_nibbles(acc[m][s], high, p->x[m] + x_at + 8 * i + 4);
            }
        } else {
            const qv codes = q_signed(q_load(at_w));
            UNROLL for (int m = 0; m < M; m++) {
                acc[m][s] = i_dot_signed(acc[m][s], codes, p->x[m] + x_at + 4 * i);
            }
        }
    }
}

/* n of them */
INLINE void steps(uint32_t kind, int S, int M, int n, int quiet, const packed_rows *p, int64_t at,
                  int64_t x_at, int64_t ahead, iv acc[8][CPU_STRIP_PANELS]) {
    const int sets = sets_of(kind, M);
    int i = 0;
    for (; i + sets <= n; i += sets) {
        UNROLL for (int k = 0; k < sets; k++) {
            step(kind, S, M, i + k, quiet, p, at, x_at, ahead, acc + k);
        }
    }
    for (; sets > 1 && i < n; i++) {
        step(kind, S, M, i, quiet, p, at, x_at, ahead, acc);
    }
}

/* What is taken off the sums of row m. */
INLINE int32_t first_of(uint32_t kind, int m, const cpu_strips *job, int64_t group) {
    const int32_t sum = job->sum[m * (int64_t)job->w->n_group + group];
    return (int32_t)(0u - (uint32_t)offset_of(kind) * (uint32_t)sum);
}

INLINE void start(uint32_t kind, int S, int M, const cpu_strips *job, int64_t group,
                  iv acc[8][CPU_STRIP_PANELS]) {
    UNROLL for (int m = 0; m < M; m++) {
        const int32_t first = first_of(kind, m, job, group);
        UNROLL for (int s = 0; s < S; s++) {
            acc[m][s] = kind == CPU_PACK_Q4 ? i_begin_nibbles(first) : i_set(first);
            UNROLL for (int k = 1; k < sets_of(kind, M); k++) {
                acc[m + k][s] = i_set(0);
            }
        }
    }
}

/* sum += scale of the weights * scale of x * codes, for one group */
INLINE void add_group(uint32_t kind, int S, int M, const cpu_strips *job, int64_t group,
                      const fv scale[], iv acc[8][CPU_STRIP_PANELS], fv sum[8][CPU_STRIP_PANELS]) {
    UNROLL for (int m = 0; m < M; m++) {
        const fv of_x = f_set(job->scale[m * (int64_t)job->w->n_group + group]);
        const int32_t first = kind == CPU_PACK_Q4 ? first_of(kind, m, job, group) : 0;
        UNROLL for (int s = 0; s < S; s++) {
            if (kind == CPU_PACK_Q4) {
                acc[m][s] = i_end_nibbles(acc[m][s], first);
            }
            UNROLL for (int k = 1; k < sets_of(kind, M); k++) {
                acc[m][s] = i_add(acc[m][s], acc[m + k][s]);
            }
            sum[m][s] = f_fma(f_of_i(acc[m][s]), f_mul(scale[s], of_x), sum[m][s]);
        }
    }
}

/* y = sum (+ bias) or y += sum (+ bias) for S panels from output `first` of the job on. */
INLINE void store(int S, int M, const cpu_strips *job, int64_t panel, fv sum[8][CPU_STRIP_PANELS]) {
    const int64_t base = job->first * CPU_STRIP;
    UNROLL for (int s = 0; s < S; s++) {
        const int64_t at = (panel + s) * CPU_PANEL;
        const int64_t left = job->w->rows - base - at;
        UNROLL for (int m = 0; m < M; m++) {
            float *y = job->y + m * job->y_stride + at;
            fv value = sum[m][s];
            if (left <= 0) {
                continue;
            }
            if (job->bias != NULL) {
                value = f_add(value, f_load_n(job->bias + base + at, left));
            }
            if (job->accumulate) {
                value = f_add(f_load_n(y, left), value);
            }
            f_store_n(y, value, left);
        }
    }
}

/* S panels from `panel` of the job on, by M rows of x. kind, S, M and quiet are constants. */
INLINE void product(uint32_t kind, int S, int M, int quiet, const cpu_strips *job, int64_t panel,
                    int first_row, uint32_t ask) {
    const cpu_packed *w = job->w;
    const cpu_strips rows = {.w = w,
                             .first = job->first,
                             .accumulate = job->accumulate,
                             .scale = job->scale + first_row * (int64_t)w->n_group,
                             .sum = job->sum + first_row * (int64_t)w->n_group,
                             .bias = job->bias,
                             .y = job->y + first_row * job->y_stride,
                             .y_stride = job->y_stride};
    packed_rows p;
    UNROLL for (int s = 0; s < S; s++) {
        p.w[s] = w->panels + (uint64_t)(job->first * CPU_STRIP_PANELS + panel + s) * w->panel_bytes;
    }
    UNROLL for (int m = 0; m < M; m++) {
        p.x[m] = job->codes + (first_row + m) * w->n_block * w->block_k;
    }
    iv acc[8][CPU_STRIP_PANELS];
    fv sum[8][CPU_STRIP_PANELS], scale[CPU_STRIP_PANELS];
    UNROLL for (int m = 0; m < M; m++) {
        UNROLL for (int s = 0; s < S; s++) {
            sum[m][s] = f_set(0);
        }
    }
    if (kind == CPU_PACK_I8) {
        start(kind, S, M, &rows, 0, acc);
    }
    const int64_t end = (int64_t)w->panel_bytes - PREFETCH_AHEAD;
    const int64_t next = (S - 1) * (int64_t)w->panel_bytes; /* to the stream's next panel */
    int64_t at = 0;
    for (int64_t b = 0; b < w->n_block; b++, at += w->block_bytes) {
        const int64_t ahead = ask ? PREFETCH_AHEAD + (at >= end ? next : 0) : 0;
        const int64_t x_at = b * w->block_k;
        if (kind == CPU_PACK_I8) {
            steps(kind, S, M, 16, quiet, &p, at, x_at, ahead, acc);
        } else if (kind == CPU_PACK_GROUP8) {
            const int n = (int)(w->block_k / 4);
            start(kind, S, M, &rows, b, acc);
            steps(kind, S, M, n, quiet, &p, at, x_at, ahead, acc);
            UNROLL for (int s = 0; s < S; s++) {
                scale[s] = f_load((const float *)(const void *)(p.w[s] + at + 64 * (int64_t)n));
            }
            add_group(kind, S, M, &rows, b, scale, acc, sum);
        } else {
            const int n = kind == CPU_PACK_Q4 ? 4 : 8;
            UNROLL for (int g = 0; g < 2; g++) {
                start(kind, S, M, &rows, 2 * b + g, acc);
                steps(kind, S, M, n, quiet, &p, at + 64 * n * g, x_at + 32 * g, ahead, acc);
                UNROLL for (int s = 0; s < S; s++) {
                    const uint8_t *half = p.w[s] + at + 128 * (int64_t)n + 32 * g;
                    scale[s] = f_load_f16((const uint16_t *)(const void *)half);
                }
                add_group(kind, S, M, &rows, 2 * b + g, scale, acc, sum);
            }
            UNROLL for (int s = 0; s < S; s++) {
                if (!quiet) {
                    prefetch(p.w[s] + at + 128 * (int64_t)n + ahead);
                }
            }
        }
    }
    if (kind == CPU_PACK_I8) {
        UNROLL for (int s = 0; s < S; s++) {
            scale[s] =
                f_load(w->row_scale + (job->first * CPU_STRIP_PANELS + panel + s) * CPU_PANEL);
        }
        add_group(kind, S, M, &rows, 0, scale, acc, sum);
    }
    store(S, M, &rows, panel, sum);
}

/* One strip by M rows, as many panels and rows at once as the registers hold. */
INLINE void strip_of(uint32_t kind, int S, int M, const cpu_strips *job, int64_t strip,
                     int first_row, uint32_t ask) {
    for (int64_t s = 0; s < CPU_STRIP_PANELS; s += S) {
        const int64_t panel = strip * CPU_STRIP_PANELS + s;
        if (M <= 2 && !ask) { /* with more rows there are more products than loads */
            product(kind, S, M, 1, job, panel, first_row, 0);
        } else if (M > ROWS_AT_ONCE) { /* the second time the panel comes from a cache */
            product(kind, S, ROWS_AT_ONCE, 0, job, panel, first_row, ask);
            product(kind, S, M - ROWS_AT_ONCE, 1, job, panel, first_row + ROWS_AT_ONCE, 0);
        } else {
            product(kind, S, M, 0, job, panel, first_row, ask);
        }
    }
}

INLINE void rows_of(uint32_t kind, const cpu_strips *job, int64_t strip, int row, int n,
                    uint32_t ask) {
    const int row_kind = kind == CPU_PACK_I8; /* needs no float sums beside the integers */
    switch (n) {
    case 1:
        strip_of(kind, 4, 1, job, strip, row, ask);
        break;
    case 2:
        strip_of(kind, row_kind ? 4 : WIDE, 2, job, strip, row, ask);
        break;
    case 3:
        strip_of(kind, row_kind ? WIDE : NARROW, 3, job, strip, row, ask);
        break;
    case 4:
        strip_of(kind, row_kind ? WIDE : NARROW, 4, job, strip, row, ask);
        break;
    case 5:
        strip_of(kind, row_kind ? NARROW : 1, 5, job, strip, row, ask);
        break;
    case 6:
        strip_of(kind, row_kind ? NARROW : 1, 6, job, strip, row, ask);
        break;
    case 7:
        strip_of(kind, row_kind ? NARROW : 1, 7, job, strip, row, ask);
        break;
    default:
        assert(n == 8);
        strip_of(kind, row_kind ? NARROW : 1, 8, job, strip, row, ask);
        break;
    }
}

static void strips_i8(const cpu_strips *job, int64_t strip, int row, int n, uint32_t ask) {
    rows_of(CPU_PACK_I8, job, strip, row, n, ask);
}
static void strips_group8(const cpu_strips *job, int64_t strip, int row, int n, uint32_t ask) {
    rows_of(CPU_PACK_GROUP8, job, strip, row, n, ask);
}
static void strips_q8(const cpu_strips *job, int64_t strip, int row, int n, uint32_t ask) {
    rows_of(CPU_PACK_Q8, job, strip, row, n, ask);
}
static void strips_q4(const cpu_strips *job, int64_t strip, int row, int n, uint32_t ask) {
    rows_of(CPU_PACK_Q4, job, strip, row, n, ask);
}

#if WITH_NF4
#include "packed_nf4.h"
#endif

static void strips(const cpu_strips *job) {
    void (*const of_kind[])(const cpu_strips *, int64_t, int, int, uint32_t) = {
        [CPU_PACK_I8] = strips_i8,
        [CPU_PACK_GROUP8] = strips_group8,
        [CPU_PACK_Q8] = strips_q8,
        [CPU_PACK_Q4] = strips_q4,
#if WITH_NF4
        [CPU_PACK_NF4] = strips_nf4,
#endif
    };
    for (int64_t s = 0; s < job->n; s++) {
        for (uint32_t row = 0; row < job->n_x; row += 8) {
            const uint32_t left = job->n_x - row;
            of_kind[job->w->kind](job, s, (int)row, (int)(left < 8 ? left : 8),
                                  job->prefetch && row == 0);
        }
    }
}

/* ---- rounding x: plain C that the compiler vectorises ---- */

/* The bits of the largest |x|: of NaN if there is one. */
INLINE uint32_t largest_bits(const float *x, int64_t n) {
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    return most;
}

/* n codes, zeros up to `padded`; returns their sum. */
INLINE int32_t round_codes(const float *x, float inverse, int64_t n, int64_t padded,
                           int8_t *codes) {
    const float magic = 0x1.8p23f; /* rounds to the nearest integer, ties to even */
    int32_t sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const float scaled = x[i] * inverse;
        const float shifted = scaled + magic;
        int32_t bits;
        memcpy(&bits, &shifted, 4);
        const int8_t code = (int8_t)(uint8_t)((uint32_t)bits & 0xffu);
        codes[i] = code;
        sum += code;
    }
    for (int64_t i = n; i < padded; i++) {
        codes[i] = 0;
    }
    return sum;
}

INLINE void round_group(const float *x, uint32_t most_bits, int64_t n, int64_t padded,
                        int8_t *codes, float *scale, int32_t *sum) {
    float most;
    memcpy(&most, &most_bits, 4);
    *scale = most / 127.0f;
    const float inverse = most > 0 ? 127.0f / most : 0;
    *sum = round_codes(x, inverse < 0x1p120f ? inverse : 0x1p120f, n, padded, codes);
}

static void quantise(const cpu_packed *w, const float *x, int8_t *codes, float *scale,
                     int32_t *sum) {
    if (w->kind == CPU_PACK_I8) {
        round_group(x, largest_bits(x, w->k), w->k, w->n_block * w->block_k, codes, scale, sum);
        return;
    }
    const uint32_t shared = w->shared_scale ? largest_bits(x, w->k) : 0;
    const int64_t padded = w->kind == CPU_PACK_GROUP8 ? w->block_k : 32;
    for (int64_t g = 0; g < (int64_t)w->n_group; g++, codes += padded) {
        const int64_t begin = g * w->group, left = w->k - begin;
        if (w->group == 32 && left >= 32) { /* sizes that are known make vectors */
            const float *from = x + begin;
            round_group(from, shared != 0 ? shared : largest_bits(from, 32), 32, 32, codes,
                        scale + g, sum + g);
        } else {
            const int64_t n = left < 0 ? 0 : left < w->group ? left : w->group;
            const uint32_t most = shared != 0 ? shared : largest_bits(x + (n > 0 ? begin : 0), n);
            round_group(x + (n > 0 ? begin : 0), most, n, padded, codes, scale + g, sum + g);
        }
    }
}
