/*
 * Float vectors of the width that the including file asks for: CPU_LANES 16 (AVX-512, intrinsics),
 * 8 (AVX2 with FMA and F16C, intrinsics) or 4 (any CPU, the compiler's vector extension), with the
 * same operations in the same order; what an operation does is said at the first. Tails are loaded padded with zeros and go
 * through the same arithmetic as whole vectors, so that an element's result does not depend on
 * where it stands. Include it from one instruction set's source file only; everything is static.
 */
#ifndef PICO_BACKEND_CPU_VEC_H
#define PICO_BACKEND_CPU_VEC_H

#include <stdint.h>
#include <string.h>

#include "plugin.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if CPU_LANES == 16

#include <immintrin.h>

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vmask;

INLINE vf vf_set(float x) {
    return _mm512_set1_ps(x);
}
INLINE vf vf_load(const float *p) {
    return _mm512_loadu_ps(p);
}
INLINE void vf_store(float *p, vf x) {
    _mm512_storeu_ps(p, x);
}
INLINE vmask vm_first(int64_t n) {
    return (vmask)(n >= 16 ? 0xffffu : (1u << n) - 1);
}
INLINE vf vf_load_n(const float *p, int64_t n) {
    return _mm512_maskz_loadu_ps(vm_first(n), p);
}
INLINE void vf_store_n(float *p, vf x, int64_t n) {
    _mm512_mask_storeu_ps(p, vm_first(n), x);
}
INLINE vf vf_add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}
INLINE vf vf_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
INLINE vf vf_div(vf a, vf b) {
    return _mm512_div_ps(a, b);
}
INLINE vf vf_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}
INLINE vf vf_max(vf a, vf b) { /* b where a is NaN or both are equal */
    return _mm512_max_ps(a, b);
}
INLINE vf vf_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
}
INLINE vf vf_abs(vf a) {
    return _mm512_abs_ps(a);
}
INLINE vmask vf_gt(vf a, vf b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}
INLINE vf vf_select(vmask m, vf yes, vf no) {
    return _mm512_mask_blend_ps(m, no, yes);
}
INLINE int vm_any(vmask m) {
    return m != 0;
}
INLINE int vm_lowest(vmask m) {
    return __builtin_ctz((unsigned)m);
}
INLINE vmask vm_and(vmask a, vmask b) {
    return (vmask)(a & b);
}
INLINE vmask vm_or(vmask a, vmask b) {
    return (vmask)(a | b);
}
/* lanes whose position base + lane is in [lo, hi) */
INLINE vmask vm_range(int32_t base, int32_t lo, int32_t hi) {
    const vi at =
        _mm512_add_epi32(_mm512_set1_epi32(base),
                         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    return (vmask)(_mm512_cmpge_epi32_mask(at, _mm512_set1_epi32(lo)) &
                   _mm512_cmplt_epi32_mask(at, _mm512_set1_epi32(hi)));
}
INLINE float vf_sum(vf x) {
    const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
INLINE float vf_largest(vf x) {
    return _mm512_reduce_max_ps(x);
}
/* x 2^n for an integral n in [-127, 128] that was rounded by vf_round, where x and the result are
 * normal numbers; NaN stays NaN */
INLINE vf vf_scale2(vf x, vf n) {
    return _mm512_scalef_ps(x, n);
}
INLINE vf vf_round(vf x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE vf vf_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
INLINE vf vf_load_bf16(const uint16_t *p) {
    const __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
/* p[0], p[0], p[1], p[1], ...: L / 2 elements */
INLINE vf vf_load_twice(const float *p) {
    const vi pairs = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(pairs, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}
/* x[1], x[0], x[3], x[2], ... */
INLINE vf vf_swap_pairs(vf x) {
    return _mm512_permute_ps(x, 0xb1);
}
INLINE vf vf_alternate(float even, float odd) {
    return _mm512_mask_blend_ps(0xaaaa, _mm512_set1_ps(even), _mm512_set1_ps(odd));
}
INLINE float vf_first(vf x) {
    return _mm512_cvtss_f32(x);
}
/* rounded to nearest even; x in [-127, 127] */
INLINE void vf_store_i8(int8_t *p, vf x) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}
INLINE vf vf_load_i8(const int8_t *p) {
    const __m128i q = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q));
}
/* L bytes: the low four bits - 8, and the high four bits - 8 */
INLINE void vf_load_nibbles(const uint8_t *p, vf *low, vf *high) {
    const vi codes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    const vi eight = _mm512_set1_epi32(8), mask = _mm512_set1_epi32(15);
    *low = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_and_epi32(codes, mask), eight));
    *high = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_srli_epi32(codes, 4), eight));
}
INLINE float f16_value(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _cvtsh_ss(h);
}

#elif CPU_LANES == 8

#include <immintrin.h>

typedef __m256 vf;
typedef __m256i vi;
typedef __m256i vmask; /* all bits of a lane, or none */

INLINE vf vf_set(float x) {
    return _mm256_set1_ps(x);
}
INLINE vf vf_load(const float *p) {
    return _mm256_loadu_ps(p);
}
INLINE void vf_store(float *p, vf x) {
    _mm256_storeu_ps(p, x);
}
INLINE vi vi_lanes(void) {
    return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
}
INLINE vmask vm_first(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n >= 8 ? 8 : (int)n), vi_lanes());
}
INLINE vf vf_load_n(const float *p, int64_t n) {
    return n >= 8 ? vf_load(p) : _mm256_maskload_ps(p, vm_first(n));
}
INLINE void vf_store_n(float *p, vf x, int64_t n) { /* masked stores are slow on some CPUs */
    if (n >= 8) {
        vf_store(p, x);
    } else {
        _mm256_maskstore_ps(p, vm_first(n), x);
    }
}
INLINE vf vf_add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b) {
    return _mm256_sub_ps(a, b);
}
INLINE vf vf_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
INLINE vf vf_div(vf a, vf b) {
    return _mm256_div_ps(a, b);
}
INLINE vf vf_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
INLINE vf vf_max(vf a, vf b) { /* b where a is NaN or both are equal */
    return _mm256_max_ps(a, b);
}
INLINE vf vf_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}
INLINE vf vf_abs(vf a) {
    return _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
}
INLINE vmask vf_gt(vf a, vf b) {
    return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_GT_OQ));
}
INLINE vf vf_select(vmask m, vf yes, vf no) {
    return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(m));
}
INLINE int vm_any(vmask m) {
    return _mm256_movemask_ps(_mm256_castsi256_ps(m)) != 0;
}
INLINE int vm_lowest(vmask m) {
    return __builtin_ctz((unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(m)));
}
INLINE vmask vm_and(vmask a, vmask b) {
    return _mm256_and_si256(a, b);
}
INLINE vmask vm_or(vmask a, vmask b) {
    return _mm256_or_si256(a, b);
}
INLINE vmask vm_range(int32_t base, int32_t lo, int32_t hi) {
    const vi at = _mm256_add_epi32(_mm256_set1_epi32(base), vi_lanes());
    return _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(lo), at),
                               _mm256_cmpgt_epi32(_mm256_set1_epi32(hi), at));
}
INLINE float vf_sum(vf x) {
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
INLINE float vf_largest(vf x) {
    const __m128 b = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
INLINE vf vf_scale2(vf x, vf n) { /* n goes to the exponent; NaN for n adds nothing */
    const vi shift = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), shift));
}
INLINE vf vf_round(vf x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE vf vf_load_f16(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
INLINE vf vf_load_bf16(const uint16_t *p) {
    const __m128i h = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
INLINE vf vf_load_twice(const float *p) {
    const vi pairs = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), pairs);
}
INLINE vf vf_swap_pairs(vf x) {
    return _mm256_permute_ps(x, 0xb1);
}
INLINE vf vf_alternate(float even, float odd) {
    return _mm256_blend_ps(_mm256_set1_ps(even), _mm256_set1_ps(odd), 0xaa);
}
INLINE float vf_first(vf x) {
    return _mm256_cvtss_f32(x);
}
INLINE void vf_store_i8(int8_t *p, vf x) {
    const vi codes = _mm256_cvtps_epi32(x);
    const __m128i low = _mm256_castsi256_si128(codes), high = _mm256_extracti128_si256(codes, 1);
    const __m128i words = _mm_packs_epi32(low, high);
    _mm_storel_epi64((__m128i *)(void *)p, _mm_packs_epi16(words, words));
}
INLINE vf vf_load_i8(const int8_t *p) {
    const __m128i q = _mm_loadl_epi64((const __m128i *)(const void *)p);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q));
}
INLINE void vf_load_nibbles(const uint8_t *p, vf *low, vf *high) {
    const vi codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
    const vi eight = _mm256_set1_epi32(8), mask = _mm256_set1_epi32(15);
    *low = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_and_si256(codes, mask), eight));
    *high = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(codes, 4), eight));
}
INLINE float f16_value(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _cvtsh_ss(h);
}

#else

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef uint32_t vu __attribute__((vector_size(16)));
typedef vi vmask;

INLINE vf vf_set(float x) {
    return (vf){x, x, x, x};
}
INLINE vf vf_load(const float *p) {
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}
INLINE void vf_store(float *p, vf x) {
    memcpy(p, &x, sizeof x);
}
INLINE vf vf_load_n(const float *p, int64_t n) {
    vf x = {0, 0, 0, 0};
    for (int64_t i = 0; i < n && i < 4; i++) {
        x[i] = p[i];
    }
    return x;
}
INLINE void vf_store_n(float *p, vf x, int64_t n) {
    for (int64_t i = 0; i < n && i < 4; i++) {
        p[i] = x[i];
    }
}
INLINE vf vf_add(vf a, vf b) {
    return a + b;
}
INLINE vf vf_sub(vf a, vf b) {
    return a - b;
}
INLINE vf vf_mul(vf a, vf b) {
    return a * b;
}
INLINE vf vf_div(vf a, vf b) {
    return a / b;
}
INLINE vf vf_fma(vf a, vf b, vf c) {
    return a * b + c;
}
INLINE vmask vf_gt(vf a, vf b) {
    return (vmask)(a > b);
}
INLINE vf vf_select(vmask m, vf yes, vf no) {
    return (vf)((m & (vi)yes) | (~m & (vi)no));
}
INLINE vf vf_max(vf a, vf b) { /* b where a is NaN or both are equal */
    return vf_select(vf_gt(a, b), a, b);
}
INLINE vf vf_min(vf a, vf b) {
    return vf_select(vf_gt(b, a), a, b);
}
INLINE vf vf_abs(vf a) {
    const vi rest = {0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff};
    return (vf)((vi)a & rest);
}
INLINE int vm_any(vmask m) {
    return (m[0] | m[1] | m[2] | m[3]) != 0;
}
INLINE int vm_lowest(vmask m) {
    return m[0] ? 0 : m[1] ? 1 : m[2] ? 2 : 3;
}
INLINE vmask vm_and(vmask a, vmask b) {
    return a & b;
}
INLINE vmask vm_or(vmask a, vmask b) {
    return a | b;
}
INLINE vmask vm_range(int32_t base, int32_t lo, int32_t hi) {
    const vi at = {base, base + 1, base + 2, base + 3};
    return (vmask)((at >= (vi){lo, lo, lo, lo}) & (at < (vi){hi, hi, hi, hi}));
}
INLINE float vf_sum(vf x) {
    return (x[0] + x[2]) + (x[1] + x[3]);
}
INLINE float vf_largest(vf x) {
    const float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
    return a > b ? a : b;
}
INLINE vf vf_round(vf x) { /* |x| < 2^22 */
    const vf magic = vf_set(0x1.8p23f);
    return (x + magic) - magic;
}
INLINE vf vf_scale2(vf x, vf n) { /* in two steps, so that neither factor overflows */
    const vi whole = __builtin_convertvector(n, vi);
    const vi half = whole >> 1;
    return x * (vf)(((vu)half + 127u) << 23) * (vf)(((vu)whole - (vu)half + 127u) << 23);
}
INLINE vf vf_load_f16(const uint16_t *p) { /* the multiplication also normalises subnormals */
    const vu h = {p[0], p[1], p[2], p[3]};
    const vu rest = h & 0x7fffu;
    const vf finite = (vf)(rest << 13) * vf_set(0x1p112f);
    const vu top = (vu)(rest >= 0x7c00u) & 0x7f800000u;
    return (vf)((vu)finite | top | ((h & 0x8000u) << 16));
}
INLINE vf vf_load_bf16(const uint16_t *p) {
    const vu h = {p[0], p[1], p[2], p[3]};
    return (vf)(h << 16);
}
INLINE void vf_load_nibbles(const uint8_t *p, vf *low, vf *high) {
    for (int i = 0; i < 4; i++) {
        (*low)[i] = (float)((p[i] & 15) - 8);
        (*high)[i] = (float)((p[i] >> 4) - 8);
    }
}
INLINE float f16_value(const uint8_t *p) {
    uint16_t h[4] = {0, 0, 0, 0};
    memcpy(h, p, sizeof *h);
    return vf_load_f16(h)[0];
}
INLINE vf vf_load_twice(const float *p) {
    return (vf){p[0], p[0], p[1], p[1]};
}
INLINE vf vf_swap_pairs(vf x) {
    return (vf){x[1], x[0], x[3], x[2]};
}
INLINE vf vf_alternate(float even, float odd) {
    return (vf){even, odd, even, odd};
}
INLINE float vf_first(vf x) {
    return x[0];
}
INLINE void vf_store_i8(int8_t *p, vf x) {
    const vf r = vf_round(x);
    for (int i = 0; i < 4; i++) {
        p[i] = (int8_t)r[i];
    }
}
INLINE vf vf_load_i8(const int8_t *p) {
    return (vf){(float)p[0], (float)p[1], (float)p[2], (float)p[3]};
}

#endif

/* e^x within 2 ulp; 0 below -87.3 and infinity above 88.7. NaN gives NaN. */
INLINE vf vf_exp(vf x) {
    const vmask low = vf_gt(vf_set(-87.3f), x), high = vf_gt(x, vf_set(88.7f));
    const vf n =
        vf_round(vf_mul(vf_select(vm_or(low, high), vf_set(0), x), vf_set(0x1.715476p+0f)));
    const vf r = vf_fma(n, vf_set(-0x1.7f7d1cp-20f), vf_fma(n, vf_set(-0x1.62e4p-1f), x));
    vf p = vf_set(1.390153426e-3f);
    p = vf_fma(p, r, vf_set(8.363739587e-3f));
    p = vf_fma(p, r, vf_set(4.166686162e-2f));
    p = vf_fma(p, r, vf_set(1.666657329e-1f));
    p = vf_fma(p, r, vf_set(0.5f));
    const vf e = vf_add(vf_fma(p, vf_mul(r, r), r), vf_set(1));
    const vf y = vf_scale2(e, n);
    return vf_select(low, vf_set(0), vf_select(high, vf_set(__builtin_inff()), y));
}

/* The same for x <= 0 or NaN, in fewer steps. */
INLINE vf vf_exp_below(vf x) {
    const vmask low = vf_gt(vf_set(-87.3f), x);
    const vf c = vf_max(vf_set(-87.3f), x), magic = vf_set(0x1.8p23f);
    const vf n = vf_sub(vf_fma(c, vf_set(0x1.715476p+0f), magic), magic);
    const vf r = vf_fma(n, vf_set(-0x1.7f7d1cp-20f), vf_fma(n, vf_set(-0x1.62e4p-1f), c));
    vf p = vf_set(1.390153426e-3f);
    p = vf_fma(p, r, vf_set(8.363739587e-3f));
    p = vf_fma(p, r, vf_set(4.166686162e-2f));
    p = vf_fma(p, r, vf_set(1.666657329e-1f));
    p = vf_fma(p, r, vf_set(0.5f));
    const vf e = vf_add(vf_fma(p, vf_mul(r, r), r), vf_set(1));
    return vf_select(low, vf_set(0), vf_scale2(e, n));
}

INLINE vf vf_sigmoid(vf x) {
    return vf_div(vf_set(1), vf_add(vf_set(1), vf_exp(vf_sub(vf_set(0), x))));
}

/* tanh: a polynomial near 0, 1 - 2 / (e^2|x| + 1) elsewhere. */
INLINE vf vf_tanh(vf x) {
    const vf a = vf_abs(x), z = vf_mul(x, x);
    vf p = vf_set(-5.923982710e-3f);
    p = vf_fma(p, z, vf_set(2.087367885e-2f));
    p = vf_fma(p, z, vf_set(-5.382381752e-2f));
    p = vf_fma(p, z, vf_set(1.333258450e-1f));
    p = vf_fma(p, z, vf_set(-3.333332837e-1f));
    const vf near = vf_fma(vf_mul(p, z), x, x);
    const vf e = vf_exp(vf_add(a, a));
    const vf far = vf_sub(vf_set(1), vf_div(vf_set(2), vf_add(e, vf_set(1))));
    const vf signed_far = vf_select(vf_gt(vf_set(0), x), vf_sub(vf_set(0), far), far);
    return vf_select(vf_gt(a, vf_set(0.65f)), signed_far, near);
}

/* The standard normal distribution function: erfc(|x| / sqrt 2) / 2 or its complement. */
INLINE vf vf_normal_cdf(vf x) {
    const vf z = vf_mul(vf_abs(x), vf_set(0.70710678f));
    const vf t = vf_div(vf_set(1), vf_fma(vf_set(0.4f), z, vf_set(1)));
    vf p = vf_set(5.290704593e-2f);
    p = vf_fma(p, t, vf_set(-2.992498577e-1f));
    p = vf_fma(p, t, vf_set(5.071685314e-1f));
    p = vf_fma(p, t, vf_set(-1.960764080e-1f));
    p = vf_fma(p, t, vf_set(3.048994839e-1f));
    p = vf_fma(p, t, vf_set(1.749012470e-1f));
    p = vf_fma(p, t, vf_set(2.300128192e-1f));
    p = vf_fma(p, t, vf_set(2.254367322e-1f));
    const vf tail =
        vf_mul(vf_mul(vf_mul(vf_set(0.5f), p), t), vf_exp(vf_sub(vf_set(0), vf_mul(z, z))));
    return vf_select(vf_gt(x, vf_set(0)), vf_sub(vf_set(1), tail), tail);
}

INLINE vf vf_load_any(uint32_t dtype, const void *p, int64_t i) {
    if (dtype == PICO_DTYPE_F16) {
        return vf_load_f16((const uint16_t *)p + i);
    }
    if (dtype == PICO_DTYPE_BF16) {
        return vf_load_bf16((const uint16_t *)p + i);
    }
    if (dtype == PICO_DTYPE_I8) {
        return vf_load_i8((const int8_t *)p + i);
    }
    return vf_load((const float *)p + i);
}

/* The first n < CPU_LANES elements from i on, of a float type; the rest are 0. */
INLINE vf vf_load_any_n(uint32_t dtype, const void *p, int64_t i, int64_t n) {
    if (dtype == PICO_DTYPE_F32) {
        return vf_load_n((const float *)p + i, n);
    }
    uint16_t half[CPU_LANES] = {0};
    memcpy(half, (const uint16_t *)p + i, (size_t)n * 2);
    return vf_load_any(dtype, half, 0);
}

#endif
