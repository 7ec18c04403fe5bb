/*
 * Tensor cores: products of 16-bit floats with sums in F32, the loads that feed them, and copies to
 * shared memory that go on in the background. Each has a body that exchanges values between lanes,
 * for devices below compute capability 8.0 and for the tests' emulation: slow, but with the same
 * meaning.
 *
 * Fragments, with g = lane / 4 and t = lane % 4; a word holds two neighbours, the first one in its
 * lower half:
 *   a (16 rows, 16 k): (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)
 *   b (16 k, 8 columns): k = 2t and 2t + 1, k = 2t + 8 and 2t + 9, of column g
 *   d (16 rows, 8 columns), floats: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
 */
#ifndef PICO_BACKEND_CUDA_MMA_CUH
#define PICO_BACKEND_CUDA_MMA_CUH

#include "kernel.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define CUDA_TENSOR_CORES 1
#else
#define CUDA_TENSOR_CORES 0
#endif

/* 0 in code for devices without: kernels that are made of what is below are never launched there, and
 * return at once, so that nothing more of them is compiled. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define CUDA_MMA_LAUNCHED 0
#else
#define CUDA_MMA_LAUNCHED 1
#endif

/* ---- 16-bit floats ---- */

/* x = hi + mid + lo, exactly, by truncation. Of an infinity mid = lo = 0; NaN stays NaN. */
__device__ __forceinline__ void cuda_split_bf16(float x, uint16_t &hi, uint16_t &mid,
                                                uint16_t &lo) {
    const uint32_t bits = __float_as_uint(x);
    hi = static_cast<uint16_t>(bits >> 16);
    mid = lo = 0;
    if ((bits & 0x7f800000u) == 0x7f800000u) {
        hi = static_cast<uint16_t>((bits & 0x7fffffu) != 0 ? hi | 0x40u : hi);
        return;
    }
    const float r = x - __uint_as_float(bits & 0xffff0000u);
    const uint32_t rest = __float_as_uint(r);
    mid = static_cast<uint16_t>(rest >> 16);
    lo = static_cast<uint16_t>(__float_as_uint(r - __uint_as_float(rest & 0xffff0000u)) >> 16);
}

/* Two floats rounded to nearest even, the first one in the lower half. */
__device__ __forceinline__ uint32_t cuda_pack_bf16(float first, float second) {
#if CUDA_TENSOR_CORES
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    return word;
#else
    return cuda_to_bf16(first) | static_cast<uint32_t>(cuda_to_bf16(second)) << 16;
#endif
}

__device__ __forceinline__ uint32_t cuda_pack_half(float first, float second) {
#if CUDA_TENSOR_CORES
    uint32_t word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    return word;
#else
    return cuda_to_half(first) | static_cast<uint32_t>(cuda_to_half(second)) << 16;
#endif
}

/* ---- products ---- */

/* What every lane of the warp gives: N values. All lanes ask at once; the emulation keeps the values
 * of two exchanges. */
template <int N> struct cuda_lanes {
#ifdef __CUDACC__
    uint64_t own[N];
    __device__ __forceinline__ explicit cuda_lanes(const uint64_t (&value)[N]) {
        for (int i = 0; i < N; i++) {
            own[i] = value[i];
        }
    }
    __device__ __forceinline__ uint64_t of(int i, int lane) const {
        return __shfl_sync(CUDA_ALL_LANES, own[i], lane);
    }
#else
    const uint64_t *all;
    explicit cuda_lanes(const uint64_t (&value)[N]) : all(emulated_exchange(value, N)) {
    }
    uint64_t of(int i, int lane) const {
        return all[i * CUDA_WARP + lane];
    }
#endif
};

/* d += a * b by exchanges; HALF: F16, else BF16. */
template <bool HALF>
__device__ __forceinline__ void cuda_mma_lanes(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                               uint32_t b1) {
    const int lane = static_cast<int>(threadIdx.x % CUDA_WARP);
    uint64_t row[2][4], column[2][4]; /* four values of k each */
    const uint64_t own[3] = {a[0] | static_cast<uint64_t>(a[2]) << 32,
                             a[1] | static_cast<uint64_t>(a[3]) << 32,
                             b0 | static_cast<uint64_t>(b1) << 32};
    const cuda_lanes<3> all(own);
    for (int i = 0; i < 8; i++) {
        row[i / 4][i % 4] = all.of(i / 4, lane / 4 * 4 + i % 4);
        column[i / 4][i % 4] = all.of(2, lane % 4 * 8 + i);
    }
    for (int i = 0; i < 16; i++) {
        float x[2], y[2];
        for (int j = 0; j < 2; j++) {
            const uint16_t u = static_cast<uint16_t>(row[j][i / 4] >> 16 * (i % 4));
            const uint16_t v = static_cast<uint16_t>(column[j][i / 4] >> 16 * (i % 4));
            x[j] = HALF ? cuda_from_half(u) : cuda_from_bf16(u);
            y[j] = HALF ? cuda_from_half(v) : cuda_from_bf16(v);
        }
        for (int j = 0; j < 4; j++) {
            d[j] = fmaf(x[j / 2], y[j % 2], d[j]);
        }
    }
}

/* d += a * b, of BF16 */
__device__ __forceinline__ void cuda_mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                              uint32_t b1) {
#if CUDA_TENSOR_CORES
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    cuda_mma_lanes<false>(d, a, b0, b1);
#endif
}

/* d += a * b, of F16 */
__device__ __forceinline__ void cuda_mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
#if CUDA_TENSOR_CORES
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    cuda_mma_lanes<true>(d, a, b0, b1);
#endif
}

/* ---- from shared memory ---- */

#if CUDA_TENSOR_CORES
__device__ __forceinline__ uint32_t cuda_shared_address(const void *shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
#endif

/* Four matrices of (8, 8) values of 16 bits: lane l names row l % 8 (16 bytes) of matrix l / 8 and
 * gets of each matrix row l / 4, columns 2 (l % 4) and the next. */
__device__ __forceinline__ void cuda_load_matrices(uint32_t (&out)[4], const void *row) {
#if CUDA_TENSOR_CORES
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(cuda_shared_address(row))
                 : "memory");
#else
    CUDA_CHECK_ALIGNED(row, 16);
    const int lane = static_cast<int>(threadIdx.x % CUDA_WARP);
    const uint64_t own[1] = {reinterpret_cast<uint64_t>(row)};
    const cuda_lanes<1> all(own);
    for (int i = 0; i < 4; i++) {
        out[i] = reinterpret_cast<const uint32_t *>(all.of(0, i * 8 + lane / 4))[lane % 4];
    }
#endif
}

/* The same, each matrix transposed. */
__device__ __forceinline__ void cuda_load_transposed(uint32_t (&out)[4], const void *row) {
#if CUDA_TENSOR_CORES
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(cuda_shared_address(row))
                 : "memory");
#else
    CUDA_CHECK_ALIGNED(row, 16);
    const int lane = static_cast<int>(threadIdx.x % CUDA_WARP);
    const uint64_t own[1] = {reinterpret_cast<uint64_t>(row)};
    const cuda_lanes<1> all(own);
    for (int i = 0; i < 4; i++) {
        const int at = i * 8 + lane % 4 * 2;
        const uint64_t low = all.of(0, at), high = all.of(0, at + 1);
        out[i] = reinterpret_cast<const uint16_t *>(low)[lane / 4] |
                 static_cast<uint32_t>(reinterpret_cast<const uint16_t *>(high)[lane / 4]) << 16;
    }
#endif
}

/* ---- barriers ---- */

/* For THREADS threads, whole warps, that name the same barrier: 1 or 2. The name is a constant of the
 * instruction, so that tools can follow it. */
template <int THREADS> __device__ __forceinline__ void cuda_barrier(int name) {
#ifdef __CUDACC__
    if (name == 1) {
        asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory");
    } else {
        asm volatile("bar.sync 2, %0;" ::"n"(THREADS) : "memory");
    }
#else
    emulated_barrier(name, THREADS);
#endif
}

/* ---- to shared memory ---- */

/* Begins to copy 4, 8 or 16 bytes, or, where there is nothing to copy, to write zeros. */
template <int BYTES>
__device__ __forceinline__ void cuda_copy_begin(void *shared, const void *from, bool real) {
    CUDA_CHECK_ALIGNED(shared, BYTES);
    CUDA_CHECK_ALIGNED(from, BYTES);
#if CUDA_TENSOR_CORES
    if (BYTES == 16) { /* not through the first cache: nobody else on the processor reads them */
        asm volatile(
            "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(cuda_shared_address(shared)),
            "l"(from), "r"(real ? 16 : 0)
            : "memory");
    } else {
        asm volatile(
            "cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(cuda_shared_address(shared)),
            "l"(from), "n"(BYTES), "r"(real ? BYTES : 0)
            : "memory");
    }
#elif defined(__CUDACC__)
    for (int i = 0; i < BYTES / 4; i++) {
        static_cast<uint32_t *>(shared)[i] = real ? static_cast<const uint32_t *>(from)[i] : 0;
    }
#else
    emulated_copy_later(shared, real ? from : nullptr, BYTES);
#endif
}

/* The copies that this thread has begun since the last of these calls are a group. */
__device__ __forceinline__ void cuda_copy_group() {
#if CUDA_TENSOR_CORES
    asm volatile("cp.async.commit_group;" ::: "memory");
#elif !defined(__CUDACC__)
    emulated_copies_group();
#endif
}

/* Waits for the copies that this thread has begun, but for its last GROUPS groups; what others copied is
 * there after a barrier. */
template <int GROUPS = 0> __device__ __forceinline__ void cuda_copy_end() {
#if CUDA_TENSOR_CORES
    if (GROUPS == 0) {
        asm volatile("cp.async.wait_all;" ::: "memory");
    } else {
        asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
    }
#elif !defined(__CUDACC__)
    emulated_copies_end(GROUPS);
#endif
}

#endif
