/*
 * Norm and rope. A norm has a warp for each narrow row and a block for each wide one; which of the
 * two depends on the width alone, so that a row has the same bits in any company. What follows each
 * other on the heads of a row, up to storing K and V, runs as one kernel.
 */
#include "jobs.h"
#include "pages.cuh"
#include "rows.cuh"

#define BLOCK CUDA_NORM_BLOCK

__global__ void norm_warps(cuda_norm_job job) {
    const int64_t at = cuda_thread() / CUDA_WARP;
    cuda_release();
    cuda_await();
    if (at < job.x.rows * job.x.heads) { /* the same for all lanes */
        cuda_norm_one(job, at / job.x.heads, at % job.x.heads,
                      static_cast<int32_t>(threadIdx.x % CUDA_WARP), CUDA_WARP, NULL);
    }
}

__global__ void norm_blocks(cuda_norm_job job) {
    __shared__ float part[BLOCK / CUDA_WARP];
    cuda_release();
    cuda_await();
    for (int64_t at = blockIdx.x; at < job.x.rows * job.x.heads; at += gridDim.x) {
        cuda_norm_one(job, at / job.x.heads, at % job.x.heads, static_cast<int32_t>(threadIdx.x),
                      BLOCK, part);
    }
}

cudaError_t cuda_run_norm(cudaStream_t stream, const cuda_norm_job *args) {
    const cuda_norm_job job = *args;
    const int64_t n = job.x.rows * job.x.heads;
    if (job.x.cols <= CUDA_NORM_WARP_WIDTH) {
        const int warps = n < 4 ? static_cast<int>(n) : 4;
        CUDA_LAUNCH_EARLY(stream, static_cast<unsigned>(cuda_ceil(n, warps)), warps * CUDA_WARP, 0,
                          norm_warps, job);
    } else {
        CUDA_LAUNCH_EARLY(stream, cuda_blocks(n, 1, 1 << 20), BLOCK, 0, norm_blocks, job);
    }
    return cuda_launched();
}

/* ---- heads: a warp does all steps of one head of one row ---- */

__device__ __forceinline__ void store_head(const cuda_store_job &job, int64_t row, int32_t head,
                                           int is_v, int lane) {
    const int32_t cell = job.cell[row];
    if (cell < 0 || cell >= job.n_cell) {
        return;
    }
    char *half = job.pages + (is_v ? job.kv.half_bytes : 0);
    cuda_store_row(job.kv, cuda_f32(is_v ? job.v : job.k, row, head),
                   half + cuda_cell_codes(job.kv, cell, head),
                   half + cuda_cell_scales(job.kv, cell, head), lane);
}

__global__ void head_steps(const __grid_constant__ cuda_heads_job job) {
    int64_t at = cuda_thread() / CUDA_WARP;
    const int lane = static_cast<int>(threadIdx.x % CUDA_WARP);
    uint32_t t = 0;
    cuda_release();
    cuda_await();
    while (t < job.n_target && at >= job.rows * job.target[t].heads) {
        at -= job.rows * job.target[t].heads;
        t++;
    }
    if (t == job.n_target) { /* the same for all lanes */
        return;
    }
    const int64_t row = at / job.target[t].heads, head = at % job.target[t].heads;
    for (uint32_t i = 0; i < job.n_step; i++) {
        const cuda_head_step &step = job.step[i];
        if (step.target != t) {
            continue;
        }
        if (step.what == CUDA_HEAD_ROPE) {
            for (int32_t pair = lane; pair < step.rope.half; pair += CUDA_WARP) {
                cuda_rope_pair(step.rope, row, head, pair);
            }
        } else if (step.what == CUDA_HEAD_NORM) {
            cuda_norm_one(step.norm, row, head, lane, CUDA_WARP, NULL);
        } else {
            store_head(job.store, row, static_cast<int32_t>(head), step.what == CUDA_HEAD_STORE_V,
                       lane);
        }
        __syncwarp(); /* what the lanes wrote, others read */
    }
}

cudaError_t cuda_run_heads(cudaStream_t stream, const cuda_heads_job *args) {
    const cuda_heads_job job = *args;
    int64_t warps = 0;
    for (uint32_t t = 0; t < job.n_target; t++) {
        warps += job.rows * job.target[t].heads;
    }
    CUDA_LAUNCH_EARLY(stream, static_cast<unsigned>(cuda_ceil(warps, 4)), 128, 0, head_steps, job);
    return cuda_launched();
}
