/* The vectors of packed_impl.h with AVX-512 VNNI: products of unsigned by signed bytes. */
#include <immintrin.h>

#define SETS_OF_ONE_ROW 2
#define CODE_OFFSET 128
#define WIDE 4   /* panels at once with 3 or 4 rows of x */
#define NARROW 2 /* and with more */
#define ROWS_AT_ONCE 8
#define WITH_NF4 1

typedef __m512i iv;
typedef __m512i qv;
typedef __m512 fv;

INLINE void prefetch(const uint8_t *p) {
    _mm_prefetch((const char *)p, _MM_HINT_T0);
}
INLINE qv q_load(const uint8_t *p) {
    return _mm512_load_si512((const void *)p);
}
INLINE qv q_signed(qv codes) { /* + 128 */
    return _mm512_xor_si512(codes, _mm512_set1_epi32((int)0x80808080u));
}
INLINE qv q_low(qv both) {
    return _mm512_and_si512(both, _mm512_set1_epi32(0x0f0f0f0f));
}
INLINE qv q_high(qv both) {
    return _mm512_and_si512(_mm512_srli_epi32(both, 4), _mm512_set1_epi32(0x0f0f0f0f));
}
INLINE iv i_set(int32_t x) {
    return _mm512_set1_epi32(x);
}
INLINE iv i_add(iv a, iv b) {
    return _mm512_add_epi32(a, b);
}
/* + the products of four codes of each row with four of x. The instruction adds in place; with the
 * intrinsic gcc 12 copies each sum to another register and back, and some of them to memory. */
INLINE iv i_dot(iv sum, qv codes, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(_mm512_set1_epi32(four)));
    return sum;
}
INLINE iv i_dot_signed(iv sum, qv codes, const int8_t *x) {
    return i_dot(sum, codes, x);
}
INLINE iv i_begin_nibbles(int32_t first) {
    return i_set(first);
}
INLINE iv i_dot_nibbles(iv sum, qv codes, const int8_t *x) {
    return i_dot(sum, codes, x);
}
INLINE iv i_end_nibbles(iv sum, int32_t first) {
    (void)first;
    return sum;
}
INLINE fv f_set(float x) {
    return _mm512_set1_ps(x);
}
INLINE fv f_of_i(iv x) {
    return _mm512_cvtepi32_ps(x);
}
INLINE fv f_load(const float *p) {
    return _mm512_loadu_ps(p);
}
INLINE fv f_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
INLINE fv f_add(fv a, fv b) {
    return _mm512_add_ps(a, b);
}
INLINE fv f_mul(fv a, fv b) {
    return _mm512_mul_ps(a, b);
}
INLINE fv f_fma(fv a, fv b, fv c) {
    return _mm512_fmadd_ps(a, b, c);
}
INLINE __mmask16 f_first(int64_t n) {
    return (__mmask16)(n >= 16 ? 0xffffu : (1u << n) - 1);
}
INLINE fv f_load_n(const float *p, int64_t n) { /* n > 0 */
    return _mm512_maskz_loadu_ps(f_first(n), p);
}
INLINE void f_store_n(float *p, fv x, int64_t n) {
    _mm512_mask_storeu_ps(p, f_first(n), x);
}
