/*
 * Storing K and V in pages, and copying cells. A block of 32 values has one F16 scale in Q8_0,
 * max|x| / 127, and NaN where a value is not finite.
 */
#include "jobs.h"
#include "pages.cuh"

/* One warp stores K or V of one head of one row; 32 dimensions at a time. */
__device__ __forceinline__ void store_row(const cuda_kv_layout &kv, const float *x, char *codes,
                                          char *scales, int lane) {
    for (int32_t d = lane; d < kv.padded; d += CUDA_WARP) { /* Q8_0: whole warps */
        const float value = d < kv.head_dim ? x[d] : 0.0f;
        if (kv.dtype == PICO_DTYPE_F32) {
            reinterpret_cast<float *>(codes)[d] = value;
        } else if (kv.dtype == PICO_DTYPE_F16) {
            reinterpret_cast<uint16_t *>(codes)[d] = cuda_to_half(value);
        } else if (kv.dtype == PICO_DTYPE_BF16) {
            reinterpret_cast<uint16_t *>(codes)[d] = cuda_to_bf16(value);
        } else {
            const float size = fabsf(value);
            const float finite = size <= 3.4e38f ? 0.0f : 1.0f; /* NaN is not <= */
            const float most = cuda_warp_max(size), odd = cuda_warp_max(finite);
            const uint16_t bits =
                odd != 0 ? static_cast<uint16_t>(0x7e00) : cuda_to_half(most / 127.0f);
            const float scale = cuda_from_half(bits);
            float code = scale > 0 ? rintf(value / scale) : 0.0f;
            code = code > 127.0f ? 127.0f : code < -127.0f ? -127.0f : code;
            reinterpret_cast<int8_t *>(codes)[d] = static_cast<int8_t>(odd != 0 ? 0.0f : code);
            if (lane == 0) {
                reinterpret_cast<uint16_t *>(scales)[d / 32] = bits;
            }
        }
    }
}

__global__ void store_rows(cuda_store_job job) {
    const int64_t at = cuda_thread() / CUDA_WARP;
    const int lane = static_cast<int>(threadIdx.x % CUDA_WARP);
    if (at >= job.k.rows * job.kv.n_head * 2) {
        return;
    }
    const int is_v = static_cast<int>(at & 1);
    const int32_t head = static_cast<int32_t>(at / 2 % job.kv.n_head);
    const int64_t row = at / 2 / job.kv.n_head;
    const int32_t cell = job.cell[row];
    if (cell < 0 || cell >= job.n_cell) {
        return;
    }
    char *half = job.pages + (is_v ? job.kv.half_bytes : 0);
    store_row(job.kv, cuda_f32(is_v ? job.v : job.k, row, head),
              half + cuda_cell_codes(job.kv, cell, head),
              half + cuda_cell_scales(job.kv, cell, head), lane);
}

cudaError_t cuda_run_store(cudaStream_t stream, const cuda_store_job *args) {
    const cuda_store_job job = *args;
    const int64_t warps = job.k.rows * job.kv.n_head * 2;
    CUDA_LAUNCH(stream, static_cast<unsigned>(cuda_ceil(warps, 4)), 128, 0, store_rows, job);
    return cuda_launched();
}

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
