/* The vectors of packed_impl.h with AVX2: 16 sums are two registers. */
#include <immintrin.h>

#define SETS_OF_ONE_ROW 1
#define CODE_OFFSET 0
#define WIDE 1
#define NARROW 1
#define ROWS_AT_ONCE 4 /* of 16 outputs: more sums than there are registers would go to memory */
#define WITH_NF4 0

typedef struct iv {
    __m256i half[2];
} iv;
typedef struct qv {
    __m256i half[2];
} qv;
typedef struct fv {
    __m256 half[2];
} fv;

INLINE void prefetch(const uint8_t *p) {
    _mm_prefetch((const char *)p, _MM_HINT_T0);
}
INLINE qv q_load(const uint8_t *p) {
    const __m256i *at = (const __m256i *)(const void *)p;
    return (qv){{_mm256_load_si256(at), _mm256_load_si256(at + 1)}};
}
INLINE qv q_signed(qv codes) {
    return codes;
}
INLINE qv q_low(qv both) {
    const __m256i mask = _mm256_set1_epi32(0x0f0f0f0f);
    return (qv){{_mm256_and_si256(both.half[0], mask), _mm256_and_si256(both.half[1], mask)}};
}
INLINE qv q_high(qv both) {
    const qv shifted = {{_mm256_srli_epi32(both.half[0], 4), _mm256_srli_epi32(both.half[1], 4)}};
    return q_low(shifted);
}
INLINE iv i_set(int32_t x) {
    return (iv){{_mm256_set1_epi32(x), _mm256_set1_epi32(x)}};
}
INLINE iv i_add(iv a, iv b) {
    return (iv){{_mm256_add_epi32(a.half[0], b.half[0]), _mm256_add_epi32(a.half[1], b.half[1])}};
}
INLINE __m256i four_of(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm256_set1_epi32(four);
}
INLINE __m256i dot_half(__m256i sum, __m256i codes, __m256i x) {
    const __m256i pairs = _mm256_maddubs_epi16(codes, x);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
/* Codes below 16: a pair is within 2 * 15 * 127, and the eight of a group of 32 are within 2^15. So a
 * group is summed in 16 bits, and made 32 at its end. */
INLINE iv i_begin_nibbles(int32_t first) {
    (void)first;
    return (iv){{_mm256_setzero_si256(), _mm256_setzero_si256()}};
}
INLINE iv i_dot_nibbles(iv sum, qv codes, const int8_t *x) {
    const __m256i four = four_of(x);
    for (int i = 0; i < 2; i++) {
        sum.half[i] = _mm256_add_epi16(sum.half[i], _mm256_maddubs_epi16(codes.half[i], four));
    }
    return sum;
}
INLINE iv i_end_nibbles(iv sum, int32_t first) {
    const __m256i ones = _mm256_set1_epi16(1), begin = _mm256_set1_epi32(first);
    for (int i = 0; i < 2; i++) {
        sum.half[i] = _mm256_add_epi32(_mm256_madd_epi16(sum.half[i], ones), begin);
    }
    return sum;
}
/* |code| * (x with the code's sign): pairs stay within 2 * 128 * 127 < 2^15 */
INLINE iv i_dot_signed(iv sum, qv codes, const int8_t *x) {
    const __m256i four = four_of(x);
    for (int i = 0; i < 2; i++) {
        const __m256i code = codes.half[i];
        sum.half[i] = dot_half(sum.half[i], _mm256_abs_epi8(code), _mm256_sign_epi8(four, code));
    }
    return sum;
}
INLINE fv f_set(float x) {
    return (fv){{_mm256_set1_ps(x), _mm256_set1_ps(x)}};
}
INLINE fv f_of_i(iv x) {
    return (fv){{_mm256_cvtepi32_ps(x.half[0]), _mm256_cvtepi32_ps(x.half[1])}};
}
INLINE fv f_load(const float *p) {
    return (fv){{_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}};
}
INLINE fv f_load_f16(const uint16_t *p) {
    const __m128i *at = (const __m128i *)(const void *)p;
    return (fv){{_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at + 1))}};
}
INLINE fv f_add(fv a, fv b) {
    return (fv){{_mm256_add_ps(a.half[0], b.half[0]), _mm256_add_ps(a.half[1], b.half[1])}};
}
INLINE fv f_mul(fv a, fv b) {
    return (fv){{_mm256_mul_ps(a.half[0], b.half[0]), _mm256_mul_ps(a.half[1], b.half[1])}};
}
INLINE fv f_fma(fv a, fv b, fv c) {
    return (fv){{_mm256_fmadd_ps(a.half[0], b.half[0], c.half[0]),
                 _mm256_fmadd_ps(a.half[1], b.half[1], c.half[1])}};
}
INLINE fv f_load_n(const float *p, int64_t n) {
    float x[16] = {0};
    if (n >= 16) {
        return f_load(p);
    }
    memcpy(x, p, (size_t)n * sizeof *x);
    return f_load(x);
}
INLINE void f_store_n(float *p, fv value, int64_t n) {
    float x[16];
    _mm256_storeu_ps(n >= 16 ? p : x, value.half[0]);
    _mm256_storeu_ps((n >= 16 ? p : x) + 8, value.half[1]);
    if (n < 16) {
        memcpy(p, x, (size_t)n * sizeof *x);
    }
}
