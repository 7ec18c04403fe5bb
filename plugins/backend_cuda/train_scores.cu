/* The softmax of the scores of one sequence and its backward pass; a block for each query. */
#include "kernel.cuh"
#include "train.h"

#define BLOCK 128

__device__ __forceinline__ bool sees(const cuda_score_job &job, int64_t query, int64_t key) {
    return key <= query && (job.window < 0 || key >= query - job.window || key < job.n_sink);
}

/* Blocks: queries; heads. */
__global__ void softmax_rows(cuda_score_job job) {
    __shared__ float part[BLOCK / CUDA_WARP];
    const int64_t query = blockIdx.x, head = blockIdx.y;
    float *row = job.score + (head * job.length + query) * job.length;
    float most = -CUDART_INF_F, sum = 0;
    for (int64_t i = threadIdx.x; i <= query; i += BLOCK) {
        most = sees(job, query, i) ? fmaxf(most, row[i]) : most;
    }
    most = cuda_block_max(most, part);
    for (int64_t i = threadIdx.x; i < job.length; i += BLOCK) {
        const float e = sees(job, query, i) ? expf(row[i] - most) : 0.0f;
        row[i] = e;
        sum += e;
    }
    sum = cuda_block_sum(sum, part);
    for (int64_t i = threadIdx.x; i <= query; i += BLOCK) {
        row[i] /= sum;
    }
    if (threadIdx.x == 0) {
        job.lse[query * job.lse_row + head * job.lse_head] = most + logf(sum);
    }
}

cudaError_t cuda_run_softmax(cudaStream_t stream, const cuda_score_job *args) {
    const cuda_score_job job = *args;
    CUDA_LAUNCH(stream, dim3(static_cast<unsigned>(job.length), static_cast<unsigned>(job.heads)),
                BLOCK, 0, softmax_rows, job);
    return cuda_launched();
}

__global__ void softmax_back_rows(cuda_score_job job) {
    __shared__ float part[BLOCK / CUDA_WARP];
    const int64_t query = blockIdx.x, head = blockIdx.y;
    float *row = job.score + (head * job.length + query) * job.length;
    float *drow = job.dscore + (head * job.length + query) * job.length;
    const float *out = job.out + query * job.out_row + head * job.out_head;
    const float *dout = job.dout + query * job.dout_row + head * job.dout_head;
    const float lse = job.lse[query * job.lse_row + head * job.lse_head];
    float dot = 0;
    for (int64_t d = threadIdx.x; d < job.width; d += BLOCK) {
        dot = fmaf(out[d], dout[d], dot);
    }
    const float delta = cuda_block_sum(dot, part);
    for (int64_t i = threadIdx.x; i < job.length; i += BLOCK) {
        const bool counts = sees(job, query, i);
        const float p = counts ? expf(row[i] - lse) : 0.0f;
        row[i] = p;
        drow[i] = counts ? p * (drow[i] - delta) * job.scale : 0.0f;
    }
}

cudaError_t cuda_run_softmax_back(cudaStream_t stream, const cuda_score_job *args) {
    const cuda_score_job job = *args;
    CUDA_LAUNCH(stream, dim3(static_cast<unsigned>(job.length), static_cast<unsigned>(job.heads)),
                BLOCK, 0, softmax_back_rows, job);
    return cuda_launched();
}
