/*
 * The kernels of matrix products, written once over vec.h: a tile of the result is held in
 * registers while k runs, ascending. The including file defines CPU_LANES, GEMM_ROWS (rows of the
 * tile, a multiple of 3) and GEMM_TABLE, the name of the table.
 */
#include "train.h"
#include "vec.h"

#define L CPU_LANES
#define NR (2 * CPU_LANES)

/* m is a constant. packed: the rows of a are next to each other (a_row = 1); otherwise its terms
 * are (a_step = 1), and every third row has a pointer of its own. */
INLINE void tile_sums(int m, int packed, const cpu_tile *t, vf sum[GEMM_ROWS][2]) {
    const float *b = t->b;
    const int64_t row = packed ? 1 : t->a_row, step = packed ? t->a_step : 1;
    const float *a[(GEMM_ROWS + 2) / 3];
    UNROLL for (int i = 0; i < (GEMM_ROWS + 2) / 3; i++) {
        a[i] = t->a + (packed ? 0 : 3 * i < m ? 3 * i * row : 0);
    }
    UNROLL for (int i = 0; i < m; i++) {
        sum[i][0] = vf_set(0);
        sum[i][1] = vf_set(0);
    }
    for (int64_t k = 0; k < t->k; k++, b += NR) {
        const vf low = vf_load(b), high = vf_load(b + L);
        UNROLL for (int i = 0; i < m; i++) {
            const vf x = vf_set(packed ? a[0][i] : a[i / 3][(i % 3) * row]);
            sum[i][0] = vf_fma(x, low, sum[i][0]);
            sum[i][1] = vf_fma(x, high, sum[i][1]);
        }
        UNROLL for (int i = 0; i < (GEMM_ROWS + 2) / 3; i++) {
            a[i] += step;
        }
    }
}

INLINE void tile_store(const cpu_tile *t, float *c, const float *bias, vf sum, int64_t n) {
    if (n <= 0) {
        return;
    }
    const int full = n >= L;
    vf y = vf_mul(sum, vf_set(t->alpha));
    if (t->beta != 0) {
        y = vf_fma(vf_set(t->beta), full ? vf_load(c) : vf_load_n(c, n), y);
    }
    if (bias != NULL) {
        y = vf_add(y, full ? vf_load(bias) : vf_load_n(bias, n));
    }
    if (full) {
        vf_store(c, y);
    } else {
        vf_store_n(c, y, n);
    }
}

INLINE void tile_of(int m, int packed, const cpu_tile *t) {
    vf sum[GEMM_ROWS][2];
    tile_sums(m, packed, t, sum);
    UNROLL for (int i = 0; i < m; i++) {
        float *c = t->c + i * t->c_row;
        tile_store(t, c, t->bias, sum[i][0], t->n);
        tile_store(t, c + L, t->bias == NULL ? NULL : t->bias + L, sum[i][1], t->n - L);
    }
}

#define TILE_CASE(rows)                                                                            \
    case rows:                                                                                     \
        if (t->a_row == 1) {                                                                       \
            tile_of(rows, 1, t);                                                                   \
        } else {                                                                                   \
            tile_of(rows, 0, t);                                                                   \
        }                                                                                          \
        break;

static void gemm_tile(const cpu_tile *t) {
    switch (t->m) { /* constants, so that the sums stay in registers */
        TILE_CASE(1)
        TILE_CASE(2)
        TILE_CASE(3)
        TILE_CASE(4)
        TILE_CASE(5)
        TILE_CASE(6)
#if GEMM_ROWS > 6
        TILE_CASE(7)
        TILE_CASE(8)
        TILE_CASE(9)
        TILE_CASE(10)
        TILE_CASE(11)
        TILE_CASE(12)
#endif
    default:
        assert(0);
    }
}

INLINE void pack_transposed(const float *b, int64_t stride, int64_t k, int64_t n, float *out) {
    enum { STEP = 16 }; /* a cache line of each row at a time */
    for (int64_t k0 = 0; k0 < k; k0 += STEP) {
        const int64_t steps = k - k0 < STEP ? k - k0 : STEP;
        for (int64_t j = 0; j < n; j++) {
            for (int64_t i = 0; i < steps; i++) {
                out[(k0 + i) * NR + j] = b[j * stride + k0 + i];
            }
        }
        for (int64_t i = 0; i < steps && n < NR; i++) {
            memset(out + (k0 + i) * NR + n, 0, (size_t)(NR - n) * sizeof *out);
        }
    }
}

static void gemm_pack(const float *b, int64_t stride, int transposed, int64_t k, int64_t n,
                      float *out) {
    if (transposed) {
#if CPU_LANES == 16
        if (n == NR) {
            const int64_t whole = k & ~(int64_t)15;
            for (int64_t k0 = 0; k0 < whole; k0 += 16) {
                transpose_to(b + k0, stride, out + k0 * NR, NR);
                transpose_to(b + k0 + 16 * stride, stride, out + k0 * NR + 16, NR);
            }
            pack_transposed(b + whole, stride, k - whole, n, out + whole * NR);
            return;
        }
#endif
        pack_transposed(b, stride, k, n, out);
        return;
    }
    for (int64_t i = 0; i < k; i++) {
        if (n == NR) {
            vf_store(out + i * NR, vf_load(b + i * stride));
            vf_store(out + i * NR + L, vf_load(b + i * stride + L));
        } else {
            memcpy(out + i * NR, b + i * stride, (size_t)n * sizeof *out);
            memset(out + i * NR + n, 0, (size_t)(NR - n) * sizeof *out);
        }
    }
}

const cpu_gemm_kernels GEMM_TABLE = {
    .mr = GEMM_ROWS, .nr = NR, .tile = gemm_tile, .pack = gemm_pack};
