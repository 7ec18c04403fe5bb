/*
 * Dot products with AVX2, FMA and F16C: strips of up to 8 weight rows by 6 rows of x, at most 12
 * sums, which with their operands fill the 16 registers. Every output is the same 8 interleaved
 * sums over k in steps of 8, then the same tree over the lanes, whatever the shape of the strip: a
 * row alone equals the row in any batch, bit for bit. Takes F32, F16 and BF16 weights, widened in
 * registers.
 */
#include "cpu.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#define CPU_LANES 8
#include "vec.h"

/* As in dot_avx512.c: the same place of a strip that lies at least so far ahead. */
#define PREFETCH_BYTES 32768

/* lanes i and i + 4 of a (low half) and of b (high half) */
INLINE vf fold4(vf a, vf b) {
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
/* then lanes i and i + 2 */
INLINE vf fold2(vf a, vf b) {
    const __m256d x = _mm256_castps_pd(a), y = _mm256_castps_pd(b);
    return _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)),
                         _mm256_castpd_ps(_mm256_unpackhi_pd(x, y)));
}
/* The sums of the lanes of 8 vectors, of which the first n, a constant, exist. */
INLINE vf sums_of(int n, const vf a[8]) {
    const vf ab = fold4(a[0], a[n > 1 ? 1 : 0]);
    const vf abcd = fold2(ab, n > 2 ? fold4(a[2], a[n > 3 ? 3 : 2]) : ab);
    const vf efgh = n > 4 ? fold2(fold4(a[4], a[5]), fold4(a[6], a[7])) : abcd;
    const vi order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm256_permutevar8x32_ps(_mm256_hadd_ps(abcd, efgh), order);
}

INLINE vf load_weights(uint32_t dtype, const char *p) {
    return vf_load_any(dtype, p, 0);
}

/* w * x + sum, all three in registers. Left to themselves compilers load x anew for each row of
 * weights, so that the loads limit the sums, or copy operands until registers run out. */
INLINE vf fma_registers(vf w, vf x, vf sum) {
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(w), "x"(x));
    return sum;
}

/* y = dot + bias, or y += dot + bias, for n outputs of one row of x; n is a constant but for the
 * last strip */
INLINE void store_outputs(const cpu_dot *d, int64_t r, int m, vf sums, int n) {
    float *y = d->y + m * d->y_stride + r;
    if (d->bias != NULL) {
        sums = vf_add(sums, vf_load_n(d->bias + r, n));
    }
    if (d->accumulate) {
        sums = vf_add(vf_load_n(y, n), sums);
    }
    if (n == 4) {
        _mm_storeu_ps(y, _mm256_castps256_ps128(sums));
    } else if (n == 2) {
        _mm_storel_pi((__m64 *)(void *)y, _mm256_castps256_ps128(sums));
    } else {
        vf_store_n(y, sums, n);
    }
}

/* 8 values of R rows of weights, which lie `at` bytes into each, by those of M rows of x. What there
 * is less of is held in registers. */
INLINE void step(uint32_t dtype, int R, int M, const char *const w[8], int64_t at, const float *x,
                 vf sum[6][8]) {
    vf held[6];
    if (M < R) {
        UNROLL for (int m = 0; m < M; m++) {
            held[m] = vf_load(x + 16 * m);
        }
        UNROLL for (int i = 0; i < R; i++) {
            const vf wv = load_weights(dtype, w[i] + at);
            UNROLL for (int m = 0; m < M; m++) {
                sum[m][i] =
                    M == 1 ? vf_fma(wv, held[m], sum[m][i]) : fma_registers(wv, held[m], sum[m][i]);
            }
        }
    } else {
        UNROLL for (int i = 0; i < R; i++) {
            held[i] = load_weights(dtype, w[i] + at);
        }
        UNROLL for (int m = 0; m < M; m++) {
            const vf xv = vf_load(x + 16 * m);
            UNROLL for (int i = 0; i < R; i++) {
                sum[m][i] = fma_registers(held[i], xv, sum[m][i]);
            }
        }
    }
}

/* R rows of weights from r on, of which the first `valid` exist, by M rows of x. R, M, ahead and,
 * but for the last strip, valid are constants. */
INLINE void strip(uint32_t dtype, int R, int M, int ahead, const cpu_dot *d, int64_t r, int valid,
                  uint64_t distance) {
    const int size = dtype == PICO_DTYPE_F32 ? 4 : 2;
    const char *w[8];
    UNROLL for (int i = 0; i < R; i++) { /* rows that do not exist repeat the last one */
        w[i] = i == 0 ? (const char *)d->w + (uint64_t)r * d->w_stride
                      : w[i - 1] + (i < valid ? d->w_stride : 0);
    }
    vf sum[6][8];
    UNROLL for (int m = 0; m < M; m++) {
        UNROLL for (int i = 0; i < 8; i++) {
            sum[m][i] = vf_set(0);
        }
    }
    const int64_t whole = d->k & ~(int64_t)15;
    const float *x = d->x;
    for (int64_t k = 0; k < whole; k += 16, x += 16 * M) {
        if (ahead && (size == 4 || (k & 16) == 0)) {
            UNROLL for (int i = 0; i < R; i++) {
                const uintptr_t p = (uintptr_t)(w[i] + k * size);
                _mm_prefetch((const char *)(p + distance), _MM_HINT_T1);
            }
        }
        UNROLL for (int j = 0; j < 16; j += 8) {
            step(dtype, R, M, w, (k + j) * size, x + j, sum);
        }
    }
    for (int64_t j = 0; whole + j < d->k; j += 8) { /* zeros behind the end add nothing */
        const int64_t rest = d->k - whole - j;
        UNROLL for (int i = 0; i < R; i++) {
            const char *p = w[i] + (whole + j) * size;
            const vf wv = rest >= 8 ? load_weights(dtype, p) : vf_load_any_n(dtype, p, 0, rest);
            UNROLL for (int m = 0; m < M; m++) {
                sum[m][i] = vf_fma(wv, vf_load_n(x + 16 * m + j, rest), sum[m][i]);
            }
        }
    }
    UNROLL for (int m = 0; m < M; m++) {
        store_outputs(d, r, m, sums_of(R, sum[m]), valid);
    }
}

INLINE void strips(uint32_t dtype, int R, int M, const cpu_dot *d) {
    const uint64_t block = d->w_stride * (uint64_t)R;
    const uint64_t distance = block + (block < PREFETCH_BYTES ? PREFETCH_BYTES / block * block : 0);
    int64_t r = 0;
    if (d->prefetch) {
        for (; r + R <= d->n_w; r += R) {
            strip(dtype, R, M, 1, d, r, R, distance);
        }
    } else {
        for (; r + R <= d->n_w; r += R) {
            strip(dtype, R, M, 0, d, r, R, 0);
        }
    }
    if (r < d->n_w) {
        strip(dtype, R, M, 0, d, r, (int)(d->n_w - r), 0);
    }
}

INLINE void dot_of(uint32_t dtype, const cpu_dot *d) {
    switch (d->n_x) {
    case 1:
        strips(dtype, 8, 1, d);
        break;
    case 2:
        strips(dtype, 4, 2, d);
        break;
    case 3:
        strips(dtype, 4, 3, d);
        break;
    case 4:
        strips(dtype, 2, 4, d);
        break;
    case 5:
        strips(dtype, 2, 5, d);
        break;
    default:
        assert(d->n_x == 6);
        strips(dtype, 2, 6, d);
        break;
    }
}

static void dot_any(const cpu_dot *d) {
    switch (d->dtype) {
    case PICO_DTYPE_F16:
        dot_of(PICO_DTYPE_F16, d);
        break;
    case PICO_DTYPE_BF16:
        dot_of(PICO_DTYPE_BF16, d);
        break;
    default:
        assert(d->dtype == PICO_DTYPE_F32);
        dot_of(PICO_DTYPE_F32, d);
        break;
    }
}

const cpu_dot_kernels cpu_dot_avx2 = {
    .tile = 6,
    .direct = (1u << PICO_DTYPE_F32) | (1u << PICO_DTYPE_F16) | (1u << PICO_DTYPE_BF16),
    .dot = dot_any,
};

#else

const cpu_dot_kernels cpu_dot_avx2 = {0};

#endif
