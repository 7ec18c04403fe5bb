/*
 * Matrix units: products of small BF16 matrices by a warp, and what feeds them. With nvcc these are the
 * instructions of compute capability 8.0 and later, below it nothing that is ever called; without
 * nvcc, the tests' emulation of them.
 *
 * A warp's lane l is (g, t) = (l / 4, l % 4). Of a matrix A (16, 16) it holds in a[0..3] the pairs at
 * rows g, g + 8, g, g + 8 and columns 2t, 2t, 2t + 8, 2t + 8; of B (16, 8) in b[0..1] the pairs at rows
 * 2t, 2t + 8 of column g; of C (16, 8) in c[0..3] the values at (g, 2t), (g, 2t + 1), (g + 8, 2t),
 * (g + 8, 2t + 1). So C of one product, as pairs, is A of the next.
 */
#ifndef PICO_BACKEND_CUDA_TENSOR_CUH
#define PICO_BACKEND_CUDA_TENSOR_CUH

#include "wide.cuh"

#if defined(__CUDACC__) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define CUDA_HAS_MATRIX 1
#endif

/* c += a b */
__device__ __forceinline__ void cuda_multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                              uint32_t b1) {
#ifdef CUDA_HAS_MATRIX
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif !defined(__CUDACC__)
    emulated_multiply(c, a, b0, b1);
#endif
}

/* Four matrices (8, 8) from shared memory: lane l gives the place of row l % 8 of matrix l / 8, and gets
 * of each the pair at row l / 4, columns 2 (l % 4); turned, at column l / 4, rows 2 (l % 4). */
template <bool TURNED>
__device__ __forceinline__ void cuda_load_matrices(uint32_t (&to)[4], const uint16_t *from) {
    CUDA_CHECK_ALIGNED(from, 16);
#ifdef CUDA_HAS_MATRIX
    const uint32_t place = static_cast<uint32_t>(__cvta_generic_to_shared(from));
    if constexpr (TURNED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(place)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(place)
                     : "memory");
    }
#elif !defined(__CUDACC__)
    emulated_load_matrices(to, from, TURNED);
#else
    to[0] = to[1] = to[2] = to[3] = 0;
#endif
}

/* Copies 16 bytes into shared memory behind the thread's back, or zeros. from is not read then. */
__device__ __forceinline__ void cuda_copy_behind(uint16_t *to, const uint16_t *from, bool zeros) {
    CUDA_CHECK_ALIGNED(to, 16);
    CUDA_CHECK_ALIGNED(from, 16);
#ifdef CUDA_HAS_MATRIX
    const uint32_t place = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(place), "l"(from),
                 "r"(zeros ? 0 : 16)
                 : "memory");
#else
    *reinterpret_cast<uint4 *>(to) = zeros ? uint4{0, 0, 0, 0} : cuda_load16(from);
#endif
}

/* The copies since the last of these calls are one group. */
__device__ __forceinline__ void cuda_close_copies() {
#ifdef CUDA_HAS_MATRIX
    asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

/* Waits until no more than the last `groups` groups of this thread are under way. */
template <int GROUPS> __device__ __forceinline__ void cuda_await_copies() {
#ifdef CUDA_HAS_MATRIX
    asm volatile("cp.async.wait_group %0;\n" ::"n"(GROUPS) : "memory");
#endif
}

#endif
