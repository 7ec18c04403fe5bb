/* A norm whose result is BF16, for products alone; a warp for each row. */
#include "train.h"
#include "wide.cuh"

#define BLOCK 128

__device__ __forceinline__ float normed(const cuda_norm_job &job, float x, float mean, float factor,
                                        int64_t i) {
    float value = (x - mean) * factor;
    if (job.weight != NULL) {
        value *= job.weight[i];
    }
    if (job.bias != NULL) {
        value += job.bias[i] * job.scale;
    }
    return value;
}

/* The row lies in registers: UNITS times N values a lane. */
template <int UNITS, int N> __global__ void norm_narrow(cuda_norm_job job) {
    const int64_t row = cuda_thread() / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    if (row >= job.x.rows) { /* the same for all lanes */
        return;
    }
    const float *from = cuda_f32(job.x, row, 0);
    uint16_t *to = reinterpret_cast<uint16_t *>(job.y.data) + row * job.y.cols;
    const float width = static_cast<float>(job.x.cols);
    cuda_pack<N> x[UNITS];
    float sum = 0, square = 0;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        const int64_t i = (u * CUDA_WARP + lane) * N;
        x[u] = i < job.x.cols ? cuda_get<N>(from + i) : cuda_pack<N>{};
#pragma unroll
        for (int k = 0; k < N; k++) {
            sum += x[u].x[k];
        }
    }
    const float mean = job.kind == PICO_NORM_LAYER ? cuda_warp_sum(sum) / width : 0.0f;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        const bool counts = (u * CUDA_WARP + lane) * N < job.x.cols;
#pragma unroll
        for (int k = 0; k < N; k++) {
            const float d = counts ? x[u].x[k] - mean : 0.0f;
            square = fmaf(d, d, square);
        }
    }
    const float factor = job.scale / sqrtf(cuda_warp_sum(square) / width + job.eps);
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        const int64_t i = (u * CUDA_WARP + lane) * N;
        if (i < job.x.cols) {
#pragma unroll
            for (int k = 0; k < N; k++) {
                x[u].x[k] = normed(job, x[u].x[k], mean, factor, i + k);
            }
            cuda_put_narrow<N>(to + i, x[u]);
        }
    }
}

/* Of any width and alignment: x is read again. */
__global__ void norm_narrow_any(cuda_norm_job job) {
    const int64_t row = cuda_thread() / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    if (row >= job.x.rows) { /* the same for all lanes */
        return;
    }
    const float *x = cuda_f32(job.x, row, 0);
    uint16_t *to = reinterpret_cast<uint16_t *>(job.y.data) + row * job.y.cols;
    const float width = static_cast<float>(job.x.cols);
    float sum = 0, square = 0;
    for (int64_t i = lane; job.kind == PICO_NORM_LAYER && i < job.x.cols; i += CUDA_WARP) {
        sum += x[i];
    }
    const float mean = cuda_warp_sum(sum) / width;
    for (int64_t i = lane; i < job.x.cols; i += CUDA_WARP) {
        square = fmaf(x[i] - mean, x[i] - mean, square);
    }
    const float factor = job.scale / sqrtf(cuda_warp_sum(square) / width + job.eps);
    for (int64_t i = lane; i < job.x.cols; i += CUDA_WARP) {
        to[i] = cuda_to_bf16(normed(job, x[i], mean, factor, i));
    }
}

cudaError_t cuda_run_norm_narrow(cudaStream_t stream, const cuda_norm_job *args) {
    const cuda_norm_job job = *args;
    const int64_t width = job.x.cols;
    auto *kernel = norm_narrow_any;
    if (width <= 1024 && cuda_is_wide(job.x)) {
        kernel = width <= 256   ? norm_narrow<2, 4>
                 : width <= 512 ? norm_narrow<4, 4>
                 : width <= 768 ? norm_narrow<6, 4>
                                : norm_narrow<8, 4>;
    }
    CUDA_LAUNCH(stream, static_cast<unsigned>(cuda_ceil(job.x.rows, BLOCK / CUDA_WARP)), BLOCK, 0,
                kernel, job);
    return cuda_launched();
}
