/* Matrix products with AVX-512: tiles of 12 x 32. Nothing here runs before the CPU was asked. */
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define CPU_LANES 16
#define GEMM_ROWS 12
#define GEMM_TABLE cpu_gemm_avx512
#include "vec.h"

#include "transpose_avx512.h"

/* 16 rows of 16 from b become the columns of out. */
INLINE void transpose_to(const float *b, int64_t stride, float *out, int64_t out_stride) {
    __m512 r[16];
    UNROLL for (int i = 0; i < 16; i++) {
        r[i] = _mm512_loadu_ps(b + i * stride);
    }
    transpose16(r);
    UNROLL for (int i = 0; i < 16; i++) {
        _mm512_storeu_ps(out + i * out_stride, r[i]);
    }
}

#include "train_gemm_impl.h"
#else
#include "train.h"
const cpu_gemm_kernels cpu_gemm_avx512 = {0};
#endif
