/*
 * The arithmetic of norm and rope, shared by the kernels that do nothing else and by those that do it
 * on the way: the same sums in the same order, so that a row has the same bits in each.
 */
#ifndef PICO_BACKEND_CUDA_ROWS_CUH
#define PICO_BACKEND_CUDA_ROWS_CUH

#include "jobs.h"
#include "kernel.cuh"

/* What the values of a row are made with. */
typedef struct cuda_norm_row {
    float mean, factor;
} cuda_norm_row;

/* This thread's part of the sum over a row of (x - shift)^2 or, without squares, of x; several loads
 * are under way at a time. */
__device__ __forceinline__ float cuda_norm_part(const float *x, int32_t width, int32_t first,
                                                int32_t threads, int squares, float shift) {
    float sum = 0;
    for (int32_t i = first; i < width; i += 8 * threads) {
        float value[8];
#pragma unroll
        for (int k = 0; k < 8; k++) {
            value[k] = i + k * threads < width ? x[i + k * threads] : shift;
        }
#pragma unroll
        for (int k = 0; k < 8; k++) {
            if (i + k * threads < width) {
                const float d = value[k] - shift;
                sum = squares ? fmaf(d, d, sum) : sum + d;
            }
        }
    }
    return sum;
}

__device__ __forceinline__ float cuda_norm_factor(const cuda_norm_job &job, float squares) {
    return job.scale / sqrtf(squares / static_cast<float>(job.x.cols) + job.eps);
}

__device__ __forceinline__ float cuda_norm_value(const cuda_norm_job &job, const cuda_norm_row &row,
                                                 float x, int32_t i) {
    float value = (x - row.mean) * row.factor;
    if (job.weight != NULL) {
        value *= job.weight[i];
    }
    if (job.bias != NULL) {
        value += job.bias[i] * job.scale;
    }
    return value;
}

/* Sums of a block for N rows at once, each in the order of cuda_block_sum. part: N floats a warp. */
template <int N> __device__ __forceinline__ void cuda_norm_totals(float (&sum)[N], float *part) {
    const int warps = static_cast<int>(blockDim.x / CUDA_WARP);
    const int warp = static_cast<int>(threadIdx.x / CUDA_WARP);
#pragma unroll
    for (int r = 0; r < N; r++) {
        sum[r] = cuda_warp_sum(sum[r]);
    }
    __syncthreads();
    if (threadIdx.x % CUDA_WARP == 0) {
#pragma unroll
        for (int r = 0; r < N; r++) {
            part[r * warps + warp] = sum[r];
        }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < N; r++) {
        sum[r] = 0;
        for (int i = 0; i < warps; i++) {
            sum[r] += part[r * warps + i];
        }
    }
}

/* Mean and factor of rows [row, row + N) by a whole block; rows from job.x.rows on are left 0. */
template <int N>
__device__ __forceinline__ void cuda_norm_rows(const cuda_norm_job &job, int64_t row, float *part,
                                               cuda_norm_row (&out)[N]) {
    const int32_t width = static_cast<int32_t>(job.x.cols);
    const int32_t first = static_cast<int32_t>(threadIdx.x);
    const int32_t threads = static_cast<int32_t>(blockDim.x);
    float sum[N];
#pragma unroll
    for (int r = 0; r < N; r++) {
        out[r].mean = 0;
        sum[r] = job.kind == PICO_NORM_LAYER && row + r < job.x.rows
                     ? cuda_norm_part(cuda_f32(job.x, row + r, 0), width, first, threads, 0, 0)
                     : 0;
    }
    if (job.kind == PICO_NORM_LAYER) { /* the same for all threads */
        cuda_norm_totals<N>(sum, part);
#pragma unroll
        for (int r = 0; r < N; r++) {
            out[r].mean = sum[r] / static_cast<float>(width);
        }
    }
#pragma unroll
    for (int r = 0; r < N; r++) {
        sum[r] = row + r < job.x.rows ? cuda_norm_part(cuda_f32(job.x, row + r, 0), width, first,
                                                       threads, 1, out[r].mean)
                                      : 0;
    }
    cuda_norm_totals<N>(sum, part);
#pragma unroll
    for (int r = 0; r < N; r++) {
        out[r].factor = row + r < job.x.rows ? cuda_norm_factor(job, sum[r]) : 0;
    }
}

/* One row by `threads` threads, a warp or a block; in place or not. */
__device__ __forceinline__ void cuda_norm_one(const cuda_norm_job &job, int64_t row, int64_t head,
                                              int32_t first, int32_t threads, float *part) {
    const int32_t width = static_cast<int32_t>(job.x.cols);
    const float *x = cuda_f32(job.x, row, head);
    float *y = cuda_f32(job.y, row, head);
    cuda_norm_row made = {0, 0};
    if (job.kind == PICO_NORM_LAYER) {
        const float sum = cuda_norm_part(x, width, first, threads, 0, 0);
        made.mean = (threads == CUDA_WARP ? cuda_warp_sum(sum) : cuda_block_sum(sum, part)) /
                    static_cast<float>(width);
    }
    const float sum = cuda_norm_part(x, width, first, threads, 1, made.mean);
    made.factor = cuda_norm_factor(job, threads == CUDA_WARP ? cuda_warp_sum(sum)
                                                             : cuda_block_sum(sum, part));
    for (int32_t i = first; i < width; i += threads) {
        y[i] = cuda_norm_value(job, made, x[i], i);
    }
}

/* One pair of a head, in place. */
__device__ __forceinline__ void cuda_rope_pair(const cuda_rope_job &job, int64_t row, int64_t head,
                                               int32_t pair) {
    const int32_t half = static_cast<int32_t>(job.half);
    float *x = cuda_f32(job.x, row, head);
    const int32_t one = job.layout == PICO_ROPE_PAIRS ? 2 * pair : pair;
    const int32_t two = job.layout == PICO_ROPE_PAIRS ? one + 1 : one + half;
    const float c = cuda_f32(job.cosine, job.pos[row], 0)[pair];
    const float s = job.sign * cuda_f32(job.sine, job.pos[row], 0)[pair];
    const float a = x[one], b = x[two];
    x[one] = fmaf(a, c, -(b * s));
    x[two] = fmaf(a, s, b * c);
}

#endif
