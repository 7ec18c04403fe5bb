/* Copying cells of KV pages. */
#include "jobs.h"
#include "pages.cuh"

/* One warp copies K or V of one head of one cell. */
__global__ void copy_cells(cuda_copy_job job) {
    const int64_t at = cuda_thread() / CUDA_WARP;
    if (at >= job.n * job.kv.n_head * 2) {
        return;
    }
    const int32_t head = static_cast<int32_t>(at / 2 % job.kv.n_head);
    const int32_t from = job.from[at / 2 / job.kv.n_head], to = job.to[at / 2 / job.kv.n_head];
    char *half = job.pages + (at % 2 != 0 ? job.kv.half_bytes : 0);
    const int32_t lane = static_cast<int32_t>(threadIdx.x % CUDA_WARP);
    for (int32_t i = lane; i < job.kv.padded * job.kv.size; i += CUDA_WARP) {
        half[cuda_cell_codes(job.kv, to, head) + i] = half[cuda_cell_codes(job.kv, from, head) + i];
    }
    for (int32_t i = lane; i < job.kv.n_scale * 2; i += CUDA_WARP) {
        half[cuda_cell_scales(job.kv, to, head) + i] =
            half[cuda_cell_scales(job.kv, from, head) + i];
    }
}

cudaError_t cuda_run_copy(cudaStream_t stream, const cuda_copy_job *args) {
    const cuda_copy_job job = *args;
    const int64_t warps = job.n * job.kv.n_head * 2;
    CUDA_LAUNCH(stream, static_cast<unsigned>(cuda_ceil(warps, 4)), 128, 0, copy_cells, job);
    return cuda_launched();
}
