/*
 * Dot products with AVX-512: strips of up to 8 weight rows by 6 rows of x, held in registers. Every
 * output is the same 16 interleaved sums over k in steps of 16, then the same tree over the lanes,
 * whatever the shape of the strip: a row alone equals the row in any batch, bit for bit. Takes F32,
 * F16 and BF16 weights, widened in registers.
 */
#include "cpu.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)

#define CPU_LANES 16
#include "vec.h"

/* Bytes of prefetch in the stream of each row of a strip, which goes on, behind the end of the row, in
 * the same row of the next strip. */
#define PREFETCH_BYTES 1024

/* lanes i and i + 8 of a (low half) and of b (high half) */
INLINE __m512 fold8(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}
/* then lanes i and i + 4 */
INLINE __m512 fold4(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
/* then lanes i and i + 2 */
INLINE __m512 fold2(__m512 a, __m512 b) {
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}

/* The sums of the lanes of 8 vectors. */
INLINE __m256 sum8(const __m512 a[8]) {
    const __m512 low = fold4(fold8(a[0], a[1]), fold8(a[2], a[3]));
    const __m512 high = fold4(fold8(a[4], a[5]), fold8(a[6], a[7]));
    const __m512 pairs = fold2(low, high);
    const __m512 sums = _mm512_add_ps(pairs, _mm512_permute_ps(pairs, 0xb1));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castps512_ps256(_mm512_permutexvar_ps(order, sums));
}

/* The sums of the lanes of 4 vectors, in the same order. */
INLINE __m128 sum4(const __m512 a[4]) {
    const __m512 low = fold4(fold8(a[0], a[1]), fold8(a[2], a[3]));
    const __m512 pairs = fold2(low, low);
    const __m512 sums = _mm512_add_ps(pairs, _mm512_permute_ps(pairs, 0xb1));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(order, sums));
}

INLINE __m512 load_weights(uint32_t dtype, const char *p) {
    if (dtype == PICO_DTYPE_F32) {
        return _mm512_loadu_ps(p);
    }
    if (dtype == PICO_DTYPE_F16) {
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
    }
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p)), 16));
}

INLINE __m512 load_weights_n(uint32_t dtype, const char *p, __mmask16 m) {
    if (dtype == PICO_DTYPE_F32) {
        return _mm512_maskz_loadu_ps(m, p);
    }
    const __m256i half = _mm256_maskz_loadu_epi16(m, p);
    if (dtype == PICO_DTYPE_F16) {
        return _mm512_cvtph_ps(half);
    }
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* w * x + sum with x from memory each time. When weights stream past several rows of x, loading x
 * anew for every row of weights is a third faster than keeping it in registers (Zen 4: 29 against
 * 19 GB/s on a core), for no reason that the instruction counts show; from cache it is a quarter
 * slower. Compilers would merge the loads, hence the assembly. */
INLINE __m512 fma_memory(__m512 w, const float *x, __m512 sum) {
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(w), "m"(*(const __m512_u *)(const void *)x));
    return sum;
}

/* y = dot + bias, or y += dot + bias, for 8 or fewer outputs of one row of x */
INLINE void store_outputs(const cpu_dot *d, int64_t r, int m, __m256 sums, __mmask8 rows) {
    float *y = d->y + m * d->y_stride + r;
    if (d->bias != NULL) {
        sums = _mm256_add_ps(sums, _mm256_maskz_loadu_ps(rows, d->bias + r));
    }
    if (d->accumulate) {
        sums = _mm256_add_ps(_mm256_maskz_loadu_ps(rows, y), sums);
    }
    _mm256_mask_storeu_ps(y, rows, sums);
}

/* R rows of weights from r on, of which the first `valid` exist, by M rows of x. R, M, ahead and,
 * but for the last strip, valid are constants. */
INLINE void strip(uint32_t dtype, int R, int M, int ahead, const cpu_dot *d, int64_t r, int valid) {
    const int size = dtype == PICO_DTYPE_F32 ? 4 : 2;
    const char *w[8];
    UNROLL for (int i = 0; i < R; i++) { /* rows that do not exist repeat the last one */
        w[i] = i == 0 ? (const char *)d->w + (uint64_t)r * d->w_stride
                      : w[i - 1] + (i < valid ? d->w_stride : 0);
    }
    __m512 sum[6][8];
    UNROLL for (int m = 0; m < M; m++) {
        UNROLL for (int i = 0; i < 8; i++) {
            sum[m][i] = _mm512_setzero_ps();
        }
    }
    const int64_t whole = d->k & ~(int64_t)15;
    const float *x = d->x;
    const int reload = ahead && M >= 3;
    const int64_t last = (d->k * size - PREFETCH_BYTES) / size & ~(int64_t)15;
    const int64_t turn = !ahead ? whole : last < 0 ? 0 : last; /* where the next strip begins */
    uint64_t distance = PREFETCH_BYTES;
    for (int64_t k = 0, stop = turn; k < whole; stop = whole) {
        distance += k >= turn ? d->w_stride * (uint64_t)(R - 1) : 0;
        for (; k < stop; k += 16, x += 16 * M) {
            __m512 xv[6];
            UNROLL for (int m = 0; m < M && !reload; m++) {
                xv[m] = _mm512_loadu_ps(x + 16 * m);
            }
            UNROLL for (int i = 0; i < R; i++) {
                const char *p = w[i] + k * size;
                const __m512 wv = load_weights(dtype, p);
                if (ahead && (size == 4 || (k & 16) == 0)) {
                    _mm_prefetch((const char *)((uintptr_t)p + distance), _MM_HINT_T0);
                }
                UNROLL for (int m = 0; m < M; m++) {
                    sum[m][i] = reload ? fma_memory(wv, x + 16 * m, sum[m][i])
                                       : _mm512_fmadd_ps(wv, xv[m], sum[m][i]);
                }
            }
        }
    }
    if (whole < d->k) {
        const __mmask16 tail = (__mmask16)((1u << (d->k - whole)) - 1);
        UNROLL for (int m = 0; m < M; m++) {
            const __m512 xv = _mm512_maskz_loadu_ps(tail, x + 16 * m);
            UNROLL for (int i = 0; i < R; i++) {
                sum[m][i] = _mm512_fmadd_ps(load_weights_n(dtype, w[i] + whole * size, tail), xv,
                                            sum[m][i]);
            }
        }
    }
    const __mmask8 rows = (__mmask8)((1u << valid) - 1);
    UNROLL for (int m = 0; m < M; m++) {
        store_outputs(d, r, m, R == 8 ? sum8(sum[m]) : _mm256_castps128_ps256(sum4(sum[m])), rows);
    }
}

INLINE void strips(uint32_t dtype, int R, int M, const cpu_dot *d) {
    int64_t r = 0;
    if (d->prefetch) {
        for (; r + R <= d->n_w; r += R) {
            strip(dtype, R, M, 1, d, r, R);
        }
    } else {
        for (; r + R <= d->n_w; r += R) {
            strip(dtype, R, M, 0, d, r, R);
        }
    }
    if (r < d->n_w) {
        strip(dtype, R, M, 0, d, r, (int)(d->n_w - r));
    }
}

INLINE void dot_of(uint32_t dtype, const cpu_dot *d) {
    switch (d->n_x) {
    case 1:
        strips(dtype, 8, 1, d);
        break;
    case 2:
        strips(dtype, 8, 2, d);
        break;
    case 3:
        if (d->n_w < 8) { /* 7 rows of x: tiles of 3 and 4, and 4 weight rows at a time */
            strips(dtype, 4, 3, d);
        } else {
            strips(dtype, 8, 3, d);
        }
        break;
    case 4:
        strips(dtype, 4, 4, d);
        break;
    case 5:
        strips(dtype, 4, 5, d);
        break;
    default:
        assert(d->n_x == 6);
        strips(dtype, 4, 6, d);
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

const cpu_dot_kernels cpu_dot_avx512 = {
    .tile = 6,
    .direct = (1u << PICO_DTYPE_F32) | (1u << PICO_DTYPE_F16) | (1u << PICO_DTYPE_BF16),
    .dot = dot_any,
};

#else

const cpu_dot_kernels cpu_dot_avx512 = {0};

#endif
