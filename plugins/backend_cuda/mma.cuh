/*
 * One step of the tensor cores, and what it takes to feed it F32 values: each is exactly the sum of
 * three BF16 parts. Below compute capability 8.0, and on the emulated device, lanes exchange the
 * fragments and add up one by one: the same products in another order.
 */
#ifndef PICO_BACKEND_CUDA_MMA_CUH
#define PICO_BACKEND_CUDA_MMA_CUH

#include "kernel.cuh"

/* Two BF16 values of a register, as floats. */
__device__ __forceinline__ float cuda_low_bf16(uint32_t pair) {
    return __uint_as_float(pair << 16);
}

__device__ __forceinline__ float cuda_high_bf16(uint32_t pair) {
    return __uint_as_float(pair & 0xffff0000u);
}

/* d (16, 8) += a (16, 16) b (16, 8), with g = lane / 4 and t = lane % 4:
 *
 *   a: (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8), each with its right neighbour
 *   b: (2t, g), (2t + 8, g), each with the one below
 *   d: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1) */
__device__ __forceinline__ void cuda_mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                              uint32_t b1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    const int lane = static_cast<int>(threadIdx.x % CUDA_WARP), g = lane / 4, t = lane % 4;
    for (int k = 0; k < 8; k++) { /* columns k % 4 * 2 (+ 8) of a */
        const int from = k % 4, upper = k / 4;
        const uint32_t top = __shfl_sync(CUDA_ALL_LANES, a[2 * upper], g * 4 + from);
        const uint32_t bottom = __shfl_sync(CUDA_ALL_LANES, a[2 * upper + 1], g * 4 + from);
        const uint32_t b = upper ? b1 : b0;
        const uint32_t left = __shfl_sync(CUDA_ALL_LANES, b, 2 * t * 4 + from);
        const uint32_t right = __shfl_sync(CUDA_ALL_LANES, b, (2 * t + 1) * 4 + from);
        d[0] += cuda_low_bf16(top) * cuda_low_bf16(left);
        d[0] += cuda_high_bf16(top) * cuda_high_bf16(left);
        d[1] += cuda_low_bf16(top) * cuda_low_bf16(right);
        d[1] += cuda_high_bf16(top) * cuda_high_bf16(right);
        d[2] += cuda_low_bf16(bottom) * cuda_low_bf16(left);
        d[2] += cuda_high_bf16(bottom) * cuda_high_bf16(left);
        d[3] += cuda_low_bf16(bottom) * cuda_low_bf16(right);
        d[3] += cuda_high_bf16(bottom) * cuda_high_bf16(right);
    }
#endif
}

/* x = hi + mid + lo, BF16 each, exactly: eight bits of the significand after the other. Infinities and
 * NaN are in hi alone. */
__device__ __forceinline__ void cuda_split_bf16(float x, uint16_t &hi, uint16_t &mid,
                                                uint16_t &lo) {
    const uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7f800000u) == 0x7f800000u) {
        const uint32_t quiet = (bits & 0x7fffffu) != 0 ? 0x40u : 0;
        hi = static_cast<uint16_t>(bits >> 16 | quiet);
        mid = lo = 0;
        return;
    }
    const float rest = x - __uint_as_float(bits & 0xffff0000u);
    const uint32_t middle = __float_as_uint(rest) & 0xffff0000u;
    hi = static_cast<uint16_t>(bits >> 16);
    mid = static_cast<uint16_t>(middle >> 16);
    lo = static_cast<uint16_t>(__float_as_uint(rest - __uint_as_float(middle)) >> 16);
}

#endif
