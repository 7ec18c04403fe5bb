/*
 * Matrix products in BF16 for training, on AMX tiles: factors are rounded to BF16 (to nearest even)
 * as they are packed, sums are F32, 32 by 32 at a time with k ascending. AMX takes denormals for
 * zeros.
 */
#include "train.h"

/* clang 14 writes the name without the second underscore. */
#if (defined(__AMX_BF16__) || defined(__AMXBF16__)) && defined(__AVX512BF16__) &&                  \
    defined(__AVX512BW__)

#include "transpose_avx512.h"

#define INLINE static inline __attribute__((always_inline))

INLINE __mmask16 first_of(int64_t n) {
    return (__mmask16)(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1);
}

/* 32 values of one line, in order */
INLINE __m512i along(const float *x, int64_t left) {
    const __m512 low = _mm512_maskz_loadu_ps(first_of(left), x);
    const __m512 high = _mm512_maskz_loadu_ps(first_of(left - 16), x + 16);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* Values of 16 lines at two k, as pairs */
INLINE __m512i across(const float *x, int64_t stride, __mmask16 lines, int64_t left) {
    static const uint16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                       21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                       11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512 even = _mm512_maskz_loadu_ps(left > 0 ? lines : 0, x);
    const __m512 odd = _mm512_maskz_loadu_ps(left > 1 ? lines : 0, left > 1 ? x + stride : x);
    return _mm512_permutexvar_epi16(_mm512_loadu_si512(order),
                                    (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

/* One tile, from x on: n lines (at most 16), `left` of its 32 k. */
INLINE void pack_tile(int k_major, int transpose, const float *x, int64_t stride, int64_t n,
                      int64_t left, uint8_t *out) {
    __m512 r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        __m512i v;
        if (k_major) {
            v = across(x + (2 * i < left ? 2 * i * stride : 0), stride, first_of(n), left - 2 * i);
        } else {
            v = along(i < n ? x + i * stride : x, i < n ? left : 0);
        }
        r[i] = _mm512_castsi512_ps(v);
    }
    if (transpose) {
        transpose16(r);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        _mm512_store_ps((void *)(out + 64 * i), r[i]);
    }
}

INLINE void pack_group(int k_major, int transpose, const float *x, int64_t stride, int64_t n,
                       int64_t k, uint8_t *out) {
    const int64_t step = k_major ? 32 * stride : 32;
    for (int64_t left = k; left > 0; left -= 32, x += step, out += CPU_TILE_BYTES) {
        pack_tile(k_major, transpose, x, stride, n, left, out);
    }
}

static void pack(int pairs, int k_major, const float *x, int64_t stride, int64_t n, int64_t k,
                 uint8_t *out) {
    if (k_major && pairs) {
        pack_group(1, 0, x, stride, n, k, out);
    } else if (k_major) {
        pack_group(1, 1, x, stride, n, k, out);
    } else if (pairs) {
        pack_group(0, 1, x, stride, n, k, out);
    } else {
        pack_group(0, 0, x, stride, n, k, out);
    }
}

INLINE void load_sums(const uint8_t *c, int64_t row_bytes) {
    const uint8_t *below = c + 16 * row_bytes;
    _tile_loadd(0, c, row_bytes);
    _tile_loadd(1, c + 64, row_bytes);
    _tile_loadd(2, below, row_bytes);
    _tile_loadd(3, below + 64, row_bytes);
}

INLINE void store_sums(uint8_t *c, int64_t row_bytes) {
    uint8_t *below = c + 16 * row_bytes;
    _tile_stored(0, c, row_bytes);
    _tile_stored(1, c + 64, row_bytes);
    _tile_stored(2, below, row_bytes);
    _tile_stored(3, below + 64, row_bytes);
}

/* next: what will be written after this square, rows row_bytes apart; asked for meanwhile */
INLINE void add_products(const uint8_t *a, const uint8_t *b, int64_t n_block, const uint8_t *next,
                         int64_t row_bytes) {
    const int64_t group = n_block * CPU_TILE_BYTES;
    for (int64_t at = 0; at < group; at += CPU_TILE_BYTES) {
        if (at < 8 * CPU_TILE_BYTES) {
            for (int i = 0; i < 4; i++, next += row_bytes) {
                __builtin_prefetch(next, 1, 3);
                __builtin_prefetch(next + 64, 1, 3);
            }
        }
        _tile_loadd(4, a + at, 64);
        _tile_loadd(6, b + at, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + group + at, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + group + at, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* Sums (32, 32) into the m x n of c that there are. */
static void merge(const cpu_square *s, const float *sums) {
    const __m512 alpha = _mm512_set1_ps(s->alpha), beta = _mm512_set1_ps(s->beta);
    for (int64_t i = 0; i < s->m; i++) {
        for (int64_t j = 0; j < s->n; j += 16) {
            const __mmask16 some = first_of(s->n - j);
            float *c = s->c + i * s->c_row + j;
            __m512 y = _mm512_mul_ps(alpha, _mm512_loadu_ps(sums + 32 * i + j));
            if (s->beta != 0) {
                y = _mm512_fmadd_ps(beta, _mm512_maskz_loadu_ps(some, c), y);
            }
            if (s->bias != NULL) {
                y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(some, s->bias + j));
            }
            _mm512_mask_storeu_ps(c, some, y);
        }
    }
}

static void square(const cpu_square *s) {
    const int whole = s->m == 32 && s->n == 32 && s->alpha == 1;
    uint8_t *c = (uint8_t *)s->c;
    const int64_t row_bytes = s->c_row * (int64_t)sizeof(float);
    float sums[32 * 32] __attribute__((aligned(64)));
    if (whole && s->beta == 1 && s->bias == NULL) {
        load_sums(c, row_bytes);
        add_products(s->a, s->b, s->n_block, c + 32 * row_bytes, row_bytes);
        store_sums(c, row_bytes);
        return;
    }
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    add_products(s->a, s->b, s->n_block, c + 32 * row_bytes, row_bytes);
    if (whole && s->beta == 0 && s->bias == NULL) {
        store_sums(c, row_bytes);
        return;
    }
    store_sums((uint8_t *)sums, 32 * sizeof(float));
    merge(s, sums);
}

const cpu_square_kernels cpu_square_amx = {.pack = pack, .square = square};

#else

const cpu_square_kernels cpu_square_amx = {0};

#endif
