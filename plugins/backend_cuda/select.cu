/*
 * Over rows of logits: edits, argmax, top-k and the log of the sum of exponentials. A candidate is a
 * number of 64 bits whose order is that of the logits, ties by the lowest index, NaN last. Blocks sort
 * slices of a row and keep the best k of each, pass after pass, until one slice is left.
 */
#include "jobs.h"
#include "kernel.cuh"

#define BLOCK 256

__global__ void edit_logits(cuda_edit_job job) {
    for (int64_t i = cuda_thread(); i < job.n; i += cuda_threads()) {
        float *z = cuda_f32(job.logits, job.row[i], 0) + job.token[i];
        float value = *z - job.sub[i];
        value = value > 0 ? value / job.rep[i] : value * job.rep[i];
        *z = value + job.bias[i];
    }
}

cudaError_t cuda_run_edit(cudaStream_t stream, const cuda_edit_job *args) {
    const cuda_edit_job job = *args;
    CUDA_LAUNCH(stream, cuda_blocks(job.n, 128, 1024), 128, 0, edit_logits, job);
    return cuda_launched();
}

/* Larger is better; 0 is NaN. */
__device__ __forceinline__ uint64_t candidate(float z, int64_t index) {
    const uint32_t low = ~static_cast<uint32_t>(index);
    if (z != z) {
        return low;
    }
    const uint32_t bits = __float_as_uint(z == 0 ? 0.0f : z); /* -0 ties with 0 */
    const uint32_t order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return static_cast<uint64_t>(order) << 32 | low;
}

__device__ __forceinline__ int64_t index_of(uint64_t candidate) {
    return ~static_cast<uint32_t>(candidate);
}

#define ABOVE_NOTHING (static_cast<uint64_t>(0x007fffffu) << 32 | 0xffffffffu) /* -inf, index 0 */

__device__ __forceinline__ uint64_t block_best(uint64_t best, uint64_t *part) {
    for (int lanes = CUDA_WARP / 2; lanes > 0; lanes /= 2) {
        const uint64_t other =
            __shfl_xor_sync(CUDA_ALL_LANES, static_cast<unsigned long long>(best), lanes);
        best = other > best ? other : best;
    }
    __syncthreads();
    if (threadIdx.x % CUDA_WARP == 0) {
        part[threadIdx.x / CUDA_WARP] = best;
    }
    __syncthreads();
    for (int i = 0; i < BLOCK / CUDA_WARP; i++) {
        best = part[i] > best ? part[i] : best;
    }
    return best;
}

/* Blocks: parts of a row; rows. */
__global__ void argmax_parts(cuda_select_job job) {
    __shared__ uint64_t part[BLOCK / CUDA_WARP];
    const float *z = cuda_f32(job.logits, blockIdx.y, 0);
    uint64_t best = 0;
    for (int64_t i = cuda_thread(); i < job.logits.cols; i += cuda_threads()) {
        const uint64_t own = candidate(z[i], i);
        best = own > best ? own : best;
    }
    best = block_best(best, part);
    if (threadIdx.x == 0) {
        static_cast<uint64_t *>(job.scratch)[blockIdx.y * gridDim.x + blockIdx.x] = best;
    }
}

__global__ void argmax_rows(cuda_select_job job, int n) {
    __shared__ uint64_t part[BLOCK / CUDA_WARP];
    const uint64_t *own = static_cast<const uint64_t *>(job.scratch) + blockIdx.x * n;
    uint64_t best = 0;
    for (int i = static_cast<int>(threadIdx.x); i < n; i += BLOCK) {
        best = own[i] > best ? own[i] : best;
    }
    best = block_best(best, part);
    if (threadIdx.x == 0) {
        job.index[blockIdx.x] = best > ABOVE_NOTHING ? static_cast<int32_t>(index_of(best)) : -1;
    }
}

cudaError_t cuda_run_argmax(cudaStream_t stream, const cuda_select_job *args) {
    const cuda_select_job job = *args;
    const unsigned rows = static_cast<unsigned>(job.logits.rows);
    const unsigned parts = cuda_blocks(job.logits.cols, BLOCK * 4, CUDA_ARGMAX_PARTS);
    const int n = static_cast<int>(parts);
    CUDA_LAUNCH(stream, dim3(parts, rows), BLOCK, 0, argmax_parts, job);
    CUDA_LAUNCH(stream, rows, BLOCK, 0, argmax_rows, job, n);
    return cuda_launched();
}

/* ---- the log of the sum ---- */

/* Largest value and sum of exponentials of the parts of a row, and then of the row. */
__global__ void sum_parts(cuda_select_job job, float *out) {
    __shared__ float part[BLOCK / CUDA_WARP];
    const float *z = cuda_f32(job.logits, blockIdx.y, 0);
    float most = -CUDART_INF_F, sum = 0;
    for (int64_t i = cuda_thread(); i < job.logits.cols; i += cuda_threads()) {
        most = fmaxf(most, z[i]);
    }
    most = cuda_block_max(most, part);
    for (int64_t i = cuda_thread(); most > -CUDART_INF_F && i < job.logits.cols;
         i += cuda_threads()) {
        sum += expf(job.inv_temperature * (z[i] - most));
    }
    sum = cuda_block_sum(sum, part);
    if (threadIdx.x == 0) {
        out[2 * (blockIdx.y * gridDim.x + blockIdx.x)] = most;
        out[2 * (blockIdx.y * gridDim.x + blockIdx.x) + 1] = sum;
    }
}

__global__ void sum_rows(cuda_select_job job, const float *parts, int n) {
    const int64_t row = cuda_thread();
    if (row >= job.logits.rows) {
        return;
    }
    const float *own = parts + row * n * 2;
    float most = -CUDART_INF_F, sum = 0;
    for (int i = 0; i < n; i++) {
        most = fmaxf(most, own[2 * i]);
    }
    for (int i = 0; i < n; i++) {
        if (own[2 * i] > -CUDART_INF_F) {
            sum = fmaf(own[2 * i + 1], expf(job.inv_temperature * (own[2 * i] - most)), sum);
        }
    }
    job.log_sum[row] =
        most > -CUDART_INF_F ? fmaf(job.inv_temperature, most, logf(sum)) : -CUDART_INF_F;
}

/* ---- top-k ---- */

/* Sorts width (a power of two) candidates, best first; blockDim.x = width / 2. */
__device__ __forceinline__ void sort_candidates(uint64_t *list, int width) {
    for (int size = 2; size <= width; size *= 2) {
        for (int step = size / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int t = static_cast<int>(threadIdx.x); t < width / 2;
                 t += static_cast<int>(blockDim.x)) {
                const int one = t / step * step * 2 + t % step, two = one + step;
                const bool falls = (one & size) == 0;
                const uint64_t a = list[one], b = list[two];
                if ((a < b) == falls) {
                    list[one] = b;
                    list[two] = a;
                }
            }
        }
    }
    __syncthreads();
}

/* One pass over n candidates of each row: slices of `slice`, the best k of each to `to`; the last pass
 * (one slice) writes the result. from NULL: the logits. Blocks: slices; rows. */
__global__ void select_slices(cuda_select_job job, const uint64_t *from, int64_t from_stride,
                              int64_t n, int64_t slice, int width, uint64_t *to,
                              int64_t to_stride) {
    CUDA_DYNAMIC_SHARED(uint64_t, list);
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * slice;
    const int64_t here = n - begin < slice ? n - begin : slice;
    const float *z = cuda_f32(job.logits, blockIdx.y, 0);
    for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) {
        uint64_t own = 0; /* below every candidate */
        if (i < here) {
            own = from == NULL ? candidate(z[begin + i], begin + i)
                               : from[blockIdx.y * from_stride + begin + i];
        }
        list[i] = own;
    }
    sort_candidates(list, width);
    const int64_t kept = here < job.k ? here : job.k;
    for (int64_t i = threadIdx.x; i < kept; i += blockDim.x) {
        if (gridDim.x != 1) {
            to[blockIdx.y * to_stride + blockIdx.x * job.k + i] = list[i];
        } else {
            const int64_t index = index_of(list[i]);
            job.index[blockIdx.y * job.k + i] = static_cast<int32_t>(index);
            job.value[blockIdx.y * job.k + i] = z[index];
        }
    }
}

cudaError_t cuda_run_top_k(cudaStream_t stream, const cuda_select_job *args) {
    const cuda_select_job job = *args;
    const unsigned rows = static_cast<unsigned>(job.logits.rows);
    const unsigned parts = cuda_blocks(job.logits.cols, BLOCK * 4, CUDA_ARGMAX_PARTS);
    const int n_part = static_cast<int>(parts);
    float *sums = static_cast<float *>(job.scratch);
    CUDA_LAUNCH(stream, dim3(parts, rows), BLOCK, 0, sum_parts, job, sums);
    CUDA_LAUNCH(stream, cuda_blocks(rows, 64, 1 << 20), 64, 0, sum_rows, job, sums, n_part);
    const int64_t slice = cuda_select_slice(job.k),
                  stride = cuda_select_left(job.logits.cols, job.k);
    uint64_t *room = static_cast<uint64_t *>(job.scratch) + CUDA_ARGMAX_PARTS * job.logits.rows;
    uint64_t *const rooms[2] = {room, room + stride * job.logits.rows};
    const uint64_t *from = NULL;
    cudaError_t error = cuda_allow_shared(select_slices, static_cast<int>(slice * 8));
    int64_t n = job.logits.cols;
    for (int pass = 0; error == cudaSuccess && (pass == 0 || n > 0); pass++) {
        const int64_t now = n, slices = cuda_ceil(now, slice);
        const int width = cuda_select_width(cuda_least(now, slice));
        const int threads = width / 2 < 1024 ? width / 2 : 1024;
        uint64_t *to = rooms[pass & 1];
        CUDA_LAUNCH(stream, dim3(static_cast<unsigned>(slices), rows), threads, width * 8,
                    select_slices, job, from, stride, now, slice, width, to, stride);
        error = cuda_launched();
        from = to;
        n = slices == 1 ? 0 : cuda_select_left(now, job.k);
    }
    return error;
}
