/* Matrix products with AVX-512: tiles of 12 x 32. Nothing here runs before the CPU was asked. */
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define CPU_LANES 16
#define GEMM_ROWS 12
#define GEMM_TABLE cpu_gemm_avx512
#include "vec.h"

/* 16 rows of 16 from b become the columns of out. */
INLINE void transpose16(const float *b, int64_t stride, float *out, int64_t out_stride) {
    __m512 r[16], s[16];
    UNROLL for (int i = 0; i < 16; i++) {
        r[i] = _mm512_loadu_ps(b + i * stride);
    }
    UNROLL for (int i = 0; i < 16; i += 2) { /* pairs of rows */
        s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) { /* fours: r[i + c] has column c of every block of 4 */
        const __m512d a = _mm512_castps_pd(s[i]), c = _mm512_castps_pd(s[i + 2]);
        const __m512d d = _mm512_castps_pd(s[i + 1]), e = _mm512_castps_pd(s[i + 3]);
        r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(d, e));
        r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(d, e));
    }
    UNROLL for (int i = 0; i < 4; i++) { /* quarters of 128 bits between the four groups */
        const __m512 a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        const __m512 c = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        const __m512 d = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        const __m512 e = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
        _mm512_storeu_ps(out + i * out_stride, _mm512_shuffle_f32x4(a, d, 0x88));
        _mm512_storeu_ps(out + (i + 4) * out_stride, _mm512_shuffle_f32x4(c, e, 0x88));
        _mm512_storeu_ps(out + (i + 8) * out_stride, _mm512_shuffle_f32x4(a, d, 0xdd));
        _mm512_storeu_ps(out + (i + 12) * out_stride, _mm512_shuffle_f32x4(c, e, 0xdd));
    }
}

#include "train_gemm_impl.h"
#else
#include "train.h"
const cpu_gemm_kernels cpu_gemm_avx512 = {0};
#endif
