/*
 * Attention of decode rows, split over positions: a block takes CUDA_SPLIT positions of one row for
 * some query heads of one KV head, and leaves the largest score, the sum of exponentials and the
 * weighted values; a second kernel puts the splits of a row together, in their order.
 */
#include "attend.cuh"

#define THREADS 128
#define LANES 8     /* threads that share the K of a position */
#define IN_FLIGHT 4 /* positions that a thread loads at a time */

namespace {

/* q of NH heads as floats, zeros behind the last dimension and the last head. */
template <int NH>
__device__ __forceinline__ void load_queries(const cuda_attend_job &job, int64_t row, int32_t head,
                                             int32_t n, float *q) {
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < NH * job.kv.padded; i += THREADS) {
        const int32_t h = i / job.kv.padded, d = i % job.kv.padded;
        q[i] = h < n && d < job.kv.head_dim ? cuda_f32(job.q, row, head + h)[d] : 0.0f;
    }
}

/* score (NH, CUDA_SPLIT); IN_FLIGHT positions of a thread are loaded at a time. */
template <int DTYPE, int NH>
__device__ __forceinline__ void scores(const cuda_attend_job &job, int32_t kv_head,
                                       const int32_t *cell, const float *q, float *score) {
    const int32_t lane = static_cast<int32_t>(threadIdx.x % LANES);
    const int32_t each = THREADS / LANES;
    for (int32_t i = static_cast<int32_t>(threadIdx.x / LANES); i < CUDA_SPLIT;
         i += each * IN_FLIGHT) {
        float dot[IN_FLIGHT][NH] = {};
        for (int32_t d = lane * 8; d < job.kv.padded; d += LANES * 8) {
            cuda_eight<DTYPE> raw[IN_FLIGHT] = {};
#pragma unroll
            for (int p = 0; p < IN_FLIGHT; p++) {
                const int32_t at = cell[i + p * each];
                if (at >= 0) {
                    cuda_load_raw<DTYPE>(job.pages + cuda_cell_codes(job.kv, at, kv_head),
                                         job.pages + cuda_cell_scales(job.kv, at, kv_head), d,
                                         &raw[p]);
                }
            }
#pragma unroll
            for (int p = 0; p < IN_FLIGHT; p++) {
                float k[8];
                cuda_floats_of<DTYPE>(raw[p], k);
#pragma unroll
                for (int h = 0; h < NH; h++) {
#pragma unroll
                    for (int j = 0; j < 8; j++) {
                        dot[p][h] = fmaf(q[h * job.kv.padded + d + j], k[j], dot[p][h]);
                    }
                }
            }
        }
#pragma unroll
        for (int p = 0; p < IN_FLIGHT; p++) {
            const int32_t at = i + p * each;
            cuda_share_sums<NH, LANES>(dot[p]);
            if (lane % (LANES / NH) == 0) {
                score[lane / (LANES / NH) * CUDA_SPLIT + at] =
                    cell[at] >= 0 ? dot[p][0] * job.scale : CUDA_NOTHING;
            }
        }
    }
}

/* Scores -> exponentials; a warp for each head. */
template <int NH>
__device__ __forceinline__ void exponentials(float *score, float *largest, float *total) {
    const int lane = static_cast<int>(threadIdx.x % CUDA_WARP);
    for (int h = static_cast<int>(threadIdx.x / CUDA_WARP); h < NH; h += THREADS / CUDA_WARP) {
        float *row = score + h * CUDA_SPLIT;
        float most = CUDA_NOTHING, sum = 0;
        for (int i = lane; i < CUDA_SPLIT; i += CUDA_WARP) {
            most = fmaxf(most, row[i]);
        }
        most = cuda_warp_max(most);
        for (int i = lane; i < CUDA_SPLIT; i += CUDA_WARP) {
            const float e = row[i] == CUDA_NOTHING ? 0.0f : expf(row[i] - most);
            row[i] = e;
            sum += e;
        }
        sum = cuda_warp_sum(sum);
        if (lane == 0) {
            largest[h] = most;
            total[h] = sum;
        }
    }
}

/* Threads that share the dimensions of a position: the power of two at or above padded / 8. */
__device__ __forceinline__ int32_t value_threads(int32_t padded) {
    int32_t n = 1;
    while (n * 8 < padded) {
        n *= 2;
    }
    return n;
}

/* acc (NH, 8): this thread's positions and dimensions */
template <int DTYPE, int NH>
__device__ __forceinline__ void add_values(const cuda_attend_job &job, int32_t kv_head,
                                           const int32_t *cell, const float *weight,
                                           float (&acc)[NH][8]) {
    const int32_t share = value_threads(job.kv.padded), each = THREADS / share;
    const int32_t d = static_cast<int32_t>(threadIdx.x) % share * 8;
    const char *values = job.pages + job.kv.half_bytes;
    for (int32_t i = static_cast<int32_t>(threadIdx.x) / share; d < job.kv.padded && i < CUDA_SPLIT;
         i += each * IN_FLIGHT) {
        cuda_eight<DTYPE> raw[IN_FLIGHT];
        int32_t at[IN_FLIGHT];
#pragma unroll
        for (int p = 0; p < IN_FLIGHT; p++) {
            at[p] = i + p * each < CUDA_SPLIT ? cell[i + p * each] : -1;
            if (at[p] >= 0) {
                cuda_load_raw<DTYPE>(values + cuda_cell_codes(job.kv, at[p], kv_head),
                                     values + cuda_cell_scales(job.kv, at[p], kv_head), d, &raw[p]);
            }
        }
#pragma unroll
        for (int p = 0; p < IN_FLIGHT; p++) {
            if (at[p] < 0) {
                continue;
            }
            float v[8];
            cuda_floats_of<DTYPE>(raw[p], v);
#pragma unroll
            for (int h = 0; h < NH; h++) {
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    acc[h][j] = fmaf(weight[h * CUDA_SPLIT + i + p * each], v[j], acc[h][j]);
                }
            }
        }
    }
}

/* Adds the parts of all threads, in their order, and writes the split's result; where there is no other
 * split, the row's. */
template <int NH>
__device__ __forceinline__ void write_split(const cuda_attend_job &job, float (&acc)[NH][8],
                                            int64_t row, int32_t head, int32_t n, float *room,
                                            const float *largest, const float *total, float *out,
                                            int64_t head_stride) {
    const int32_t share = value_threads(job.kv.padded);
    const int32_t tid = static_cast<int32_t>(threadIdx.x);
#pragma unroll
    for (int h = 0; h < NH; h++) {
        __syncthreads();
#pragma unroll
        for (int j = 0; j < 8; j++) {
            room[tid * 8 + j] = acc[h][j];
        }
        __syncthreads();
        if (h >= n) {
            continue;
        }
        for (int32_t d = tid; d < job.kv.head_dim; d += THREADS) {
            float sum = 0;
            for (int32_t part = 0; part < THREADS / share; part++) {
                sum += room[(part * share + d / 8) * 8 + d % 8];
            }
            if (job.n_split == 1) {
                cuda_f32(job.out, row, head + h)[d] = sum / total[h];
            } else {
                out[h * head_stride + 2 + d] = sum;
            }
        }
        if (tid == 0 && job.n_split != 1) {
            out[h * head_stride] = largest[h];
            out[h * head_stride + 1] = total[h];
        }
    }
}

/* Blocks: splits; parts of KV heads; rows. */
template <int DTYPE, int NH> __global__ void attend_splits(cuda_attend_job job) {
    __shared__ float q[NH * CUDA_MAX_HEAD_DIM];
    __shared__ float score[NH * CUDA_SPLIT];
    __shared__ int32_t cell[CUDA_SPLIT];
    __shared__ float room[THREADS * 8];
    __shared__ float largest[NH], total[NH];
    cuda_release();
    cuda_await();
    const int32_t n_sub = (job.group + NH - 1) / NH;
    const int32_t kv_head = static_cast<int32_t>(blockIdx.y) / n_sub;
    const int32_t sub = static_cast<int32_t>(blockIdx.y) % n_sub;
    const int32_t head = kv_head * job.group + sub * NH;
    const int32_t n = job.group - sub * NH < NH ? job.group - sub * NH : NH;
    const int64_t row = job.first + blockIdx.z;
    const int64_t width = job.kv.head_dim + 2, head_stride = job.n_split * width;
    float *out =
        job.partial +
        ((static_cast<int64_t>(blockIdx.z) * job.n_head + head) * job.n_split + blockIdx.x) * width;
    const cuda_row_view view = cuda_row_of(job, row);
    const int32_t tid = static_cast<int32_t>(threadIdx.x);
    const int32_t position = static_cast<int32_t>(blockIdx.x) * CUDA_SPLIT + tid;
    cell[tid] = cuda_sees(job, view, position) ? cuda_cell_of(job, view, position) : -1;
    const bool alone = job.n_split == 1; /* then the row is written, whatever it sees */
    if (cuda_block_max(cell[tid] < 0 ? 0.0f : 1.0f, room) == 0.0f && !alone) { /* all threads */
        if (tid < n) {
            out[tid * head_stride] = CUDA_NOTHING;
        }
        return;
    }
    load_queries<NH>(job, row, head, n, q);
    __syncthreads();
    scores<DTYPE, NH>(job, kv_head, cell, q, score);
    __syncthreads();
    exponentials<NH>(score, largest, total);
    __syncthreads();
    float acc[NH][8] = {};
    add_values<DTYPE, NH>(job, kv_head, cell, score, acc);
    write_split<NH>(job, acc, row, head, n, room, largest, total, out, head_stride);
}

/* Blocks: query heads; rows. */
__global__ void join_splits(cuda_attend_job job) {
    __shared__ float part[THREADS / CUDA_WARP];
    cuda_release();
    cuda_await();
    const int64_t width = job.kv.head_dim + 2;
    const float *split =
        job.partial +
        (static_cast<int64_t>(blockIdx.y) * job.n_head + blockIdx.x) * job.n_split * width;
    float *out = cuda_f32(job.out, job.first + blockIdx.y, blockIdx.x);
    const int32_t tid = static_cast<int32_t>(threadIdx.x);
    float most = CUDA_NOTHING, total = 0, acc[CUDA_MAX_HEAD_DIM / THREADS] = {};
    for (int64_t s = tid; s < job.n_split; s += THREADS) {
        most = fmaxf(most, split[s * width]);
    }
    most = cuda_block_max(most, part);
    for (int64_t s = 0; s < job.n_split; s++) {
        const float *from = split + s * width;
        if (from[0] == CUDA_NOTHING) {
            continue;
        }
        const float factor = expf(from[0] - most);
        total = fmaf(factor, from[1], total);
#pragma unroll
        for (int i = 0; i < CUDA_MAX_HEAD_DIM / THREADS; i++) {
            if (tid + i * THREADS < job.kv.head_dim) {
                acc[i] = fmaf(factor, from[2 + tid + i * THREADS], acc[i]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < CUDA_MAX_HEAD_DIM / THREADS; i++) {
        if (tid + i * THREADS < job.kv.head_dim) {
            out[tid + i * THREADS] = acc[i] / total;
        }
    }
}

template <int DTYPE, int NH> void launch(cudaStream_t stream, const cuda_attend_job &args) {
    const cuda_attend_job job = args;
    const int64_t subs = static_cast<int64_t>(job.kv.n_head) * cuda_ceil(job.group, NH);
    const dim3 grid(static_cast<unsigned>(job.n_split), static_cast<unsigned>(subs),
                    static_cast<unsigned>(job.n));
    const auto kernel = attend_splits<DTYPE, NH>;
    CUDA_LAUNCH_EARLY(stream, grid, THREADS, 0, kernel, job);
}

template <int DTYPE> void launch_heads(cudaStream_t stream, const cuda_attend_job &job) {
    if (job.group == 1) {
        launch<DTYPE, 1>(stream, job);
    } else if (job.group == 2) {
        launch<DTYPE, 2>(stream, job);
    } else if (job.group <= 4) {
        launch<DTYPE, 4>(stream, job);
    } else {
        launch<DTYPE, CUDA_ATTEND_HEADS>(stream, job);
    }
}

} // namespace

cudaError_t cuda_run_attend_split(cudaStream_t stream, const cuda_attend_job *args) {
    const cuda_attend_job job = *args;
    cudaError_t error = cuda_of_pages(job.kv.dtype, [&](auto dtype) {
        launch_heads<decltype(dtype)::value>(stream, job);
        return cuda_launched();
    });
    if (error == cudaSuccess && job.n_split > 1) {
        const dim3 grid(static_cast<unsigned>(job.n_head), static_cast<unsigned>(job.n));
        CUDA_LAUNCH_EARLY(stream, grid, THREADS, 0, join_splits, job);
        error = cuda_launched();
    }
    return error;
}
