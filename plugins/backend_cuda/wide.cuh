/*
 * Kernels that take four neighbouring elements a thread, with loads and stores of 16 bytes, where the
 * operands allow it; and views that are one run of memory seen as one row, so that no thread divides.
 */
#ifndef PICO_BACKEND_CUDA_WIDE_CUH
#define PICO_BACKEND_CUDA_WIDE_CUH

#include "kernel.cuh"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#endif

/* Whether rows and heads follow each other without gaps. */
static inline bool cuda_is_run(const cuda_view &view) {
    return (view.rows == 1 || view.row_stride == view.heads * view.cols) &&
           (view.heads == 1 || view.head_stride == view.cols);
}

static inline void cuda_make_run(cuda_view &view) {
    view.cols *= view.rows * view.heads;
    view.rows = view.heads = 1;
    view.row_stride = view.cols;
    view.head_stride = 0;
}

/* Whether each row begins at a multiple of 16 bytes and ends at one. */
static inline bool cuda_is_wide(const cuda_view &view) {
    return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.cols % 4 == 0 &&
           (view.rows == 1 || view.row_stride % 4 == 0) &&
           (view.heads == 1 || view.head_stride % 4 == 0);
}

/* at = quotient * unit + rest; 32-bit arithmetic where that does. */
__device__ __forceinline__ int64_t cuda_split(int64_t at, int64_t unit, int64_t *rest) {
    if (((at | unit) >> 31) == 0) {
        const uint32_t a = static_cast<uint32_t>(at), u = static_cast<uint32_t>(unit);
        *rest = a % u;
        return a / u;
    }
    *rest = at % unit;
    return at / unit;
}

/* Two neighbours as BF16, the first in the low half. */
__device__ __forceinline__ uint32_t cuda_pair_bf16(float low, float high) {
#if defined(__CUDACC__) && (!defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800)
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16 | __bfloat16_as_ushort(pair.x);
#else
    return static_cast<uint32_t>(cuda_to_bf16(high)) << 16 | cuda_to_bf16(low);
#endif
}

/* N neighbours, 1 or 4. */
template <int N> struct cuda_pack { float x[N]; };

template <int N> __device__ __forceinline__ cuda_pack<N> cuda_get(const float *from) {
    if constexpr (N == 4) {
        const float4 v = cuda_load_floats(from);
        return cuda_pack<4>{{v.x, v.y, v.z, v.w}};
    } else {
        return cuda_pack<1>{{*from}};
    }
}

template <int N> __device__ __forceinline__ void cuda_put(float *to, const cuda_pack<N> &v) {
    if constexpr (N == 4) {
        CUDA_CHECK_ALIGNED(to, 16);
        *reinterpret_cast<float4 *>(to) = float4{v.x[0], v.x[1], v.x[2], v.x[3]};
    } else {
        *to = v.x[0];
    }
}

/* The same as BF16. */
template <int N>
__device__ __forceinline__ void cuda_put_narrow(uint16_t *to, const cuda_pack<N> &v) {
    if constexpr (N == 4) {
        CUDA_CHECK_ALIGNED(to, 8);
        *reinterpret_cast<uint2 *>(to) =
            uint2{cuda_pair_bf16(v.x[0], v.x[1]), cuda_pair_bf16(v.x[2], v.x[3])};
    } else {
        *to = cuda_to_bf16(v.x[0]);
    }
}

#endif
