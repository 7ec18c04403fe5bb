/*
 * CUDA's execution model on one CPU thread, for tests: what a .cu file of backend_cuda includes in
 * place of cuda_runtime.h when no nvcc compiles it. Blocks run one after the other; the threads of a
 * block are fibers that run until they wait for each other. Work is queued in the stream and runs
 * when somebody waits, so that arguments which do not outlive their call show themselves.
 *
 * What it shows: wrong indices (fresh device memory is NaN and, with AddressSanitizer, has red
 * zones; without, guards), missing barriers and dependence on the order of threads or blocks (the
 * order can be turned around), barriers in divergent code, loads that are not aligned, copies in the
 * background that nobody waits for, the host touching device memory (`protect`), what a captured graph
 * replays.
 * What it cannot show: races that no order of whole threads between barriers shows, the memory
 * model, speed, registers and occupancy, how the device rounds exp, tanh and their like, and cuBLAS.
 *
 * PICOCHAT_EMULATED_CUDA in the environment, words with commas between: reverse (threads and blocks
 * run in descending order), mixed (some in ascending, some in descending order), fail=N (the launch
 * after N others fails), protect (device memory is out of the host's reach outside of kernels and
 * copies), nodriver, nodevice, memory=MEGABYTES, capability=75 (the compute capability times ten; 90 if none is
 * given).
 */
#ifndef PICO_EMULATED_CUDA_H
#define PICO_EMULATED_CUDA_H

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <functional>

#define __global__ static
#define __device__
#define __host__
#define __align__(n) __attribute__((aligned(n)))
#define __forceinline__ static inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static
#define __restrict__ __restrict
#define CUDART_INF_F HUGE_VALF

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {
    }
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

/* Where the running thread is; the scheduler sets it. */
struct emulated_place {
    dim3 thread, block, block_size, grid;
};
extern emulated_place emulated_here;
#define threadIdx (emulated_here.thread)
#define blockIdx (emulated_here.block)
#define blockDim (emulated_here.block_size)
#define gridDim (emulated_here.grid)

void emulated_syncthreads();
/* For as many threads as are said, of those that name the same barrier. */
void emulated_barrier(int name, unsigned threads);
/* Every lane of the warp gives a value; returns those of all 32 lanes. */
const uint64_t *emulated_exchange(uint64_t value);
/* The same with n values, at most EMULATED_WORDS; returns those of all lanes, value by value. */
#define EMULATED_WORDS 3
const uint64_t *emulated_exchange(const uint64_t *value, int n);
void *emulated_dynamic_shared();
/* Copies of this thread to shared memory that are made when it waits for them (from NULL: zeros). */
void emulated_copy_later(void *to, const void *from, size_t bytes);
void emulated_copies_group();
void emulated_copies_end(unsigned groups);
/* Queues body for every thread of the grid. */
void emulated_launch(cudaStream_t stream, dim3 grid, dim3 block, size_t shared,
                     std::function<void()> body);
/* Queues a function of the host that touches device memory, as a library's call would be. */
void emulated_call(cudaStream_t stream, std::function<void()> body);

#define __syncthreads() emulated_syncthreads()
#define __syncwarp() ((void)emulated_exchange(0))

template <typename T> T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    uint64_t bits = 0;
    (void)mask;
    memcpy(&bits, &value, sizeof value);
    bits = emulated_exchange(bits)[(threadIdx.x % 32) ^ (unsigned)lanes];
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename T> T __shfl_sync(unsigned mask, T value, int lane) {
    uint64_t bits = 0;
    (void)mask;
    memcpy(&bits, &value, sizeof value);
    bits = emulated_exchange(bits)[lane];
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float emulated_from_half(uint16_t bits) {
    const unsigned sign = (bits & 0x8000u) << 16, rest = bits & 0x7fffu;
    if (rest < 0x400u) { /* in steps of 2^-24 */
        const float x = static_cast<float>(rest) * 0x1p-24f;
        return sign != 0 ? -x : x;
    }
    const unsigned bias = rest >= 0x7c00u ? 0x70000000u : 0x38000000u; /* of the exponent */
    return __uint_as_float(sign | ((rest << 13) + bias));
}
uint16_t emulated_to_half(float x);

#endif
