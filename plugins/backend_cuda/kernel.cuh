/*
 * What the kernels share: how they are launched, 16-bit floats, sums and maxima over a warp or a
 * block, activations. With nvcc this is CUDA; without, the tests' emulation of it. Contraction is off
 * in both: fmaf is written where it is meant, so that the same expression is the same number in every
 * kernel.
 */
#ifndef PICO_BACKEND_CUDA_KERNEL_CUH
#define PICO_BACKEND_CUDA_KERNEL_CUH

#ifdef __CUDACC__
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math_constants.h>
/* The one place where kernels are launched. kernel is a function, or a variable that holds one. */
#define CUDA_LAUNCH(stream, grid, block, shared, kernel, ...)                                      \
    kernel<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__)
/* The same for kernels that call cuda_await(): they may begin before what is ahead of them in the stream
 * has ended, where the device can do that. */
#define CUDA_LAUNCH_EARLY(stream, grid, block, shared, kernel, ...)                                \
    cuda_launch_early(stream, grid, block, shared, kernel, __VA_ARGS__)
#define CUDA_DYNAMIC_SHARED(type, name)                                                            \
    extern __shared__ __align__(16) unsigned char cuda_dynamic[];                                  \
    type *const name = reinterpret_cast<type *>(cuda_dynamic)
#define CUDA_CHECK_ALIGNED(pointer, bytes) ((void)0)
#else
#include <assert.h>
#include <emulated.h>
#define CUDA_LAUNCH(stream, grid, block, shared, kernel, ...)                                      \
    emulated_launch(stream, grid, block, shared, [=]() { kernel(__VA_ARGS__); })
#define CUDA_LAUNCH_EARLY CUDA_LAUNCH
#define CUDA_DYNAMIC_SHARED(type, name)                                                            \
    type *const name = static_cast<type *>(emulated_dynamic_shared())
#define CUDA_CHECK_ALIGNED(pointer, bytes)                                                         \
    assert(reinterpret_cast<uintptr_t>(pointer) % (bytes) == 0)
#endif

#include "cuda.h"
#include "shapes.h"

#define CUDA_ALL_LANES 0xffffffffu

/* What a launch left behind. */
static inline cudaError_t cuda_launched() {
    return cudaGetLastError();
}

#ifdef __CUDACC__
/* Programmatic dependent launch, from compute capability 9.0 on. What fails is what cuda_launched()
 * gives. */
template <typename... P, typename... A>
static inline void cuda_launch_early(cudaStream_t stream, dim3 grid, dim3 block, size_t shared,
                                     void (*kernel)(P...), const A &...args) {
    int device = 0, major = 0;
    if (cudaGetDevice(&device) == cudaSuccess) {
        (void)cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    }
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = major >= 9 ? 1 : 0;
    (void)cudaLaunchKernelEx(&config, kernel, args...);
}
#endif

/* In a kernel that was launched early: waits until everything ahead in the stream has ended and can be
 * seen. Before it, only weights and arguments may be read. */
__device__ __forceinline__ void cuda_await() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* What follows in the stream may begin, once every block has said so. */
__device__ __forceinline__ void cuda_release() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Kernels that take more shared memory than any device gives unasked, 48 KB; the rest is for what they
 * declare besides. */
template <typename F> static inline cudaError_t cuda_allow_shared(F *kernel, int bytes) {
#ifdef __CUDACC__
    return bytes <= 32 << 10
               ? cudaSuccess
               : cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
#else
    (void)kernel, (void)bytes;
    return cudaSuccess;
#endif
}

/* ---- loads of 8 and 16 bytes, and 16-bit floats ---- */

__device__ __forceinline__ uint4 cuda_load16(const void *from) {
    CUDA_CHECK_ALIGNED(from, 16);
    return *static_cast<const uint4 *>(from);
}

__device__ __forceinline__ uint2 cuda_load8(const void *from) {
    CUDA_CHECK_ALIGNED(from, 8);
    return *static_cast<const uint2 *>(from);
}

__device__ __forceinline__ float4 cuda_load_floats(const float *from) {
    CUDA_CHECK_ALIGNED(from, 16);
    return *reinterpret_cast<const float4 *>(from);
}

__device__ __forceinline__ float cuda_from_half(uint16_t bits) {
#ifdef __CUDACC__
    return __half2float(__ushort_as_half(bits));
#else
    return emulated_from_half(bits);
#endif
}

__device__ __forceinline__ uint16_t cuda_to_half(float x) {
#ifdef __CUDACC__
    return __half_as_ushort(__float2half_rn(x));
#else
    return emulated_to_half(x);
#endif
}

__device__ __forceinline__ float cuda_from_bf16(uint32_t bits) {
    return __uint_as_float(bits << 16);
}

/* To nearest even; NaN stays NaN. */
__device__ __forceinline__ uint16_t cuda_to_bf16(float x) {
    const uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return static_cast<uint16_t>(bits >> 16 | 0x40u);
    }
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* ---- views ---- */

__device__ __forceinline__ float *cuda_f32(const cuda_view &view, int64_t row, int64_t head) {
    return reinterpret_cast<float *>(view.data) + row * view.row_stride + head * view.head_stride;
}

/* Index of this thread in the grid, and threads of the grid, in x. */
__device__ __forceinline__ int64_t cuda_thread() {
    return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ int64_t cuda_threads() {
    return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

/* ---- over a warp, over a block: every thread gets the result, in one fixed order of additions ---- */

__device__ __forceinline__ float cuda_warp_sum(float x) {
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        x += __shfl_xor_sync(CUDA_ALL_LANES, x, lanes);
    }
    return x;
}

__device__ __forceinline__ float cuda_warp_max(float x) {
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        x = fmaxf(x, __shfl_xor_sync(CUDA_ALL_LANES, x, lanes));
    }
    return x;
}

/* Sums of N values (a power of two) over groups of LANES neighbouring lanes, in x[0]: lane l of a group
 * gets that of value l / (LANES / N). While there are several, a lane gives away the half that others
 * go on with; each sum has the bits of a plain tree over the lanes. */
template <int N, int LANES> __device__ __forceinline__ void cuda_share_sums(float (&x)[N]) {
    int n = N;
#pragma unroll
    for (int lanes = LANES / 2; lanes > 0; lanes /= 2) {
        if (n == 1) {
            x[0] += __shfl_xor_sync(CUDA_ALL_LANES, x[0], lanes);
            continue;
        }
        const bool upper = (threadIdx.x & static_cast<unsigned>(lanes)) != 0;
        n /= 2;
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            if (i < n) {
                const float give = upper ? x[i] : x[i + n], keep = upper ? x[i + n] : x[i];
                x[i] = keep + __shfl_xor_sync(CUDA_ALL_LANES, give, lanes);
            }
        }
    }
}

/* part: shared memory for as many values as there are warps. */
__device__ __forceinline__ float cuda_block_sum(float x, float *part) {
    const int warps = static_cast<int>(blockDim.x / CUDA_WARP);
    x = cuda_warp_sum(x);
    __syncthreads();
    if (threadIdx.x % CUDA_WARP == 0) {
        part[threadIdx.x / CUDA_WARP] = x;
    }
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < warps; i++) {
        sum += part[i];
    }
    return sum;
}

__device__ __forceinline__ float cuda_block_max(float x, float *part) {
    const int warps = static_cast<int>(blockDim.x / CUDA_WARP);
    x = cuda_warp_max(x);
    __syncthreads();
    if (threadIdx.x % CUDA_WARP == 0) {
        part[threadIdx.x / CUDA_WARP] = x;
    }
    __syncthreads();
    float most = part[0];
    for (int i = 1; i < warps; i++) {
        most = fmaxf(most, part[i]);
    }
    return most;
}

/* ---- functions ---- */

__device__ __forceinline__ float cuda_sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

__device__ __forceinline__ float cuda_act(uint32_t kind, float x) {
    switch (kind) {
    case PICO_ACT_SILU: /* at -inf: -0, not NaN */
        return x < -100.0f ? -0.0f : x * cuda_sigmoid(x);
    case PICO_ACT_GELU_TANH: { /* (1 + tanh(u)) / 2 = sigmoid(2u), which cancels nothing */
        const float inner = 1.5957691216057308f * fmaf(0.044715f * x * x, x, x);
        return inner < -100.0f ? -0.0f : x * cuda_sigmoid(inner);
    }
    case PICO_ACT_GELU_ERF:
        return x < -20.0f ? -0.0f : 0.5f * x * erfcf(x * -0.7071067811865476f);
    default: {
        const float r = fmaxf(x, 0.0f);
        return r * r;
    }
    }
}

#endif
