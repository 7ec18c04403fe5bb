/*
 * Norm and rope. A norm has a warp for each narrow row and a block for each wide one; which of the
 * two depends on the width alone, so that a row has the same bits in any company.
 */
#include "jobs.h"
#include "kernel.cuh"

#define BLOCK 256
#define WARP_WIDTH 512 /* widest row of one warp */

/* Sum over the row of (x - shift)^2 or, without squares, of x; shared by `threads` threads. */
__device__ __forceinline__ float row_sum(const float *x, int64_t width, int first, int threads,
                                         int squares, float shift) {
    float sum = 0;
    for (int64_t i = first; i < width; i += threads) {
        const float d = x[i] - shift;
        sum = squares ? fmaf(d, d, sum) : sum + d;
    }
    return sum;
}

__device__ __forceinline__ float row_total(float sum, int threads, float *part) {
    return threads == CUDA_WARP ? cuda_warp_sum(sum) : cuda_block_sum(sum, part);
}

/* One row by `threads` threads, a warp or a block. */
__device__ __forceinline__ void norm_row(const cuda_norm_job &job, int64_t at, int first,
                                         int threads, float *part) {
    const int64_t row = at / job.x.heads, head = at % job.x.heads, width = job.x.cols;
    const float *x = cuda_f32(job.x, row, head);
    float *y = cuda_f32(job.y, row, head);
    const float n = static_cast<float>(width);
    float mean = 0;
    if (job.kind == PICO_NORM_LAYER) {
        mean = row_total(row_sum(x, width, first, threads, 0, 0), threads, part) / n;
    }
    const float square = row_total(row_sum(x, width, first, threads, 1, mean), threads, part) / n;
    const float factor = job.scale / sqrtf(square + job.eps);
    for (int64_t i = first; i < width; i += threads) {
        float value = (x[i] - mean) * factor;
        if (job.weight != NULL) {
            value *= job.weight[i];
        }
        if (job.bias != NULL) {
            value += job.bias[i] * job.scale;
        }
        y[i] = value;
    }
}

__global__ void norm_warps(cuda_norm_job job) {
    const int64_t at = cuda_thread() / CUDA_WARP;
    if (at < job.x.rows * job.x.heads) { /* the same for all lanes */
        norm_row(job, at, static_cast<int>(threadIdx.x % CUDA_WARP), CUDA_WARP, NULL);
    }
}

__global__ void norm_blocks(cuda_norm_job job) {
    __shared__ float part[BLOCK / CUDA_WARP];
    for (int64_t at = blockIdx.x; at < job.x.rows * job.x.heads; at += gridDim.x) {
        norm_row(job, at, static_cast<int>(threadIdx.x), BLOCK, part);
    }
}

cudaError_t cuda_run_norm(cudaStream_t stream, const cuda_norm_job *args) {
    const cuda_norm_job job = *args;
    const int64_t n = job.x.rows * job.x.heads;
    if (job.x.cols <= WARP_WIDTH) {
        const int warps = n < 4 ? static_cast<int>(n) : 4;
        CUDA_LAUNCH(stream, static_cast<unsigned>(cuda_ceil(n, warps)), warps * CUDA_WARP, 0,
                    norm_warps, job);
    } else {
        CUDA_LAUNCH(stream, cuda_blocks(n, 1, 1 << 20), BLOCK, 0, norm_blocks, job);
    }
    return cuda_launched();
}

/* A thread for each pair of each head. */
__global__ void rope_pairs(cuda_rope_job job) {
    const int64_t n = job.x.rows * job.x.heads * job.half;
    for (int64_t i = cuda_thread(); i < n; i += cuda_threads()) {
        const int64_t pair = i % job.half, head = i / job.half % job.x.heads;
        const int64_t row = i / job.half / job.x.heads;
        float *x = cuda_f32(job.x, row, head);
        const int64_t one = job.layout == PICO_ROPE_PAIRS ? 2 * pair : pair;
        const int64_t two = job.layout == PICO_ROPE_PAIRS ? one + 1 : one + job.half;
        const float c = cuda_f32(job.cosine, job.pos[row], 0)[pair];
        const float s = job.sign * cuda_f32(job.sine, job.pos[row], 0)[pair];
        const float a = x[one], b = x[two];
        x[one] = fmaf(a, c, -(b * s));
        x[two] = fmaf(a, s, b * c);
    }
}

cudaError_t cuda_run_rope(cudaStream_t stream, const cuda_rope_job *args) {
    const cuda_rope_job job = *args;
    const int64_t n = job.x.rows * job.x.heads * job.half;
    CUDA_LAUNCH(stream, cuda_blocks(n, 128, 1 << 20), 128, 0, rope_pairs, job);
    return cuda_launched();
}
