/* 16 x 16 floats or dwords in registers, for files that are compiled with AVX-512. */
#ifndef PICO_BACKEND_CPU_TRANSPOSE_AVX512_H
#define PICO_BACKEND_CPU_TRANSPOSE_AVX512_H

#include <immintrin.h>

/* r[i] becomes column i of the 16 rows. */
static inline __attribute__((always_inline)) void transpose16(__m512 r[16]) {
    __m512 s[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) { /* pairs of rows */
        s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4) { /* fours: r[i + c] has column c of every block of 4 */
        const __m512d a = _mm512_castps_pd(s[i]), c = _mm512_castps_pd(s[i + 2]);
        const __m512d d = _mm512_castps_pd(s[i + 1]), e = _mm512_castps_pd(s[i + 3]);
        r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(d, e));
        r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(d, e));
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; i++) { /* quarters of 128 bits between the four groups */
        const __m512 a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        const __m512 c = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        const __m512 d = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        const __m512 e = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
        r[i] = _mm512_shuffle_f32x4(a, d, 0x88);
        r[i + 4] = _mm512_shuffle_f32x4(c, e, 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(a, d, 0xdd);
        r[i + 12] = _mm512_shuffle_f32x4(c, e, 0xdd);
    }
}

#endif
