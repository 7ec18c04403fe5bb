/* Sums over rows and columns: parts in float, the parts in double, in ascending order. */
#include "train.h"
#include "wide.cuh"

#define BLOCK 128

/* Rows of a part. */
CUDA_BOTH int64_t rows_of_part(int64_t rows) {
    const int64_t least = cuda_ceil(rows < 1 ? 1 : rows, CUDA_COLUMN_PARTS);
    return least < 64 ? 64 : least;
}

/* Blocks: columns; parts. */
__global__ void column_parts(cuda_column_job job) {
    const int64_t c = cuda_thread(), n = job.x.rows * job.x.heads, per = rows_of_part(n);
    if (c >= job.x.cols) {
        return;
    }
    const int64_t begin = blockIdx.y * per, end = begin + per < n ? begin + per : n;
    float sum = 0;
    for (int64_t i = begin; i < end; i++) {
        const int64_t row = i / job.x.heads, head = i % job.x.heads;
        const float x = cuda_f32(job.x, row, head)[c];
        if (job.what == CUDA_SUM) {
            sum += x;
        } else if (job.what == CUDA_SUM_SQUARE) {
            sum = fmaf(x, x, sum);
        } else {
            sum = fmaf((x - job.mean[i]) * job.inverse[i], cuda_f32(job.y, row, head)[c], sum);
        }
    }
    job.partial[blockIdx.y * job.x.cols + c] = sum;
}

__global__ void column_sums(cuda_column_job job, int64_t parts) {
    const int64_t c = cuda_thread();
    if (c >= job.x.cols) {
        return;
    }
    double sum = 0;
    for (int64_t i = 0; i < parts; i++) {
        sum += static_cast<double>(job.partial[i * job.x.cols + c]);
    }
    const float value = static_cast<float>(sum * job.factor);
    job.out[c] = job.accumulate ? job.out[c] + value : value;
}

cudaError_t cuda_run_columns(cudaStream_t stream, const cuda_column_job *args) {
    const cuda_column_job job = *args;
    const int64_t n = job.x.rows * job.x.heads;
    const int64_t parts = n == 0 ? 0 : cuda_ceil(n, rows_of_part(n));
    const unsigned blocks = static_cast<unsigned>(cuda_ceil(job.x.cols, BLOCK));
    if (parts != 0) {
        CUDA_LAUNCH(stream, dim3(blocks, static_cast<unsigned>(parts)), BLOCK, 0, column_parts,
                    job);
    }
    CUDA_LAUNCH(stream, blocks, BLOCK, 0, column_sums, job, parts);
    return cuda_launched();
}

__global__ void row_dots(cuda_view x, cuda_view y, float *out) {
    __shared__ float part[BLOCK / CUDA_WARP];
    const float *a = cuda_f32(x, blockIdx.x, 0), *b = cuda_f32(y, blockIdx.x, 0);
    float sum = 0;
    for (int64_t i = threadIdx.x; i < x.cols; i += BLOCK) {
        sum = fmaf(a[i], b[i], sum);
    }
    sum = cuda_block_sum(sum, part);
    if (threadIdx.x == 0) {
        out[blockIdx.x] = sum;
    }
}

/* A warp for each row. */
__global__ void row_dots_warps(cuda_view x, cuda_view y, float *out) {
    const int64_t row = cuda_thread() / CUDA_WARP;
    if (row >= x.rows) { /* the same for all lanes */
        return;
    }
    const float *a = cuda_f32(x, row, 0), *b = cuda_f32(y, row, 0);
    float sum = 0;
#pragma unroll 4
    for (int64_t i = threadIdx.x % CUDA_WARP * 4; i < x.cols; i += CUDA_WARP * 4) {
        const cuda_pack<4> left = cuda_get<4>(a + i), right = cuda_get<4>(b + i);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            sum = fmaf(left.x[k], right.x[k], sum);
        }
    }
    sum = cuda_warp_sum(sum);
    if (threadIdx.x % CUDA_WARP == 0) {
        out[row] = sum;
    }
}

cudaError_t cuda_run_row_dots(cudaStream_t stream, const cuda_view *x_, const cuda_view *y_,
                              float *out) {
    const cuda_view x = *x_, y = *y_;
    if (x.cols <= 4096 && cuda_is_wide(x) && cuda_is_wide(y)) {
        CUDA_LAUNCH(stream, static_cast<unsigned>(cuda_ceil(x.rows, BLOCK / CUDA_WARP)), BLOCK, 0,
                    row_dots_warps, x, y, out);
        return cuda_launched();
    }
    CUDA_LAUNCH(stream, static_cast<unsigned>(x.rows), BLOCK, 0, row_dots, x, y, out);
    return cuda_launched();
}

__device__ __forceinline__ void put(const cuda_finish_job &job, int64_t i, double value) {
    const float result = static_cast<float>(value * job.factor);
    job.out[i] = job.accumulate ? job.out[i] + result : result;
}

__global__ void finish_each(cuda_finish_job job) {
    for (int64_t i = cuda_thread(); i < job.n; i += cuda_threads()) {
        put(job, i, static_cast<double>(job.x[i]));
    }
}

/* One block; each thread adds a stretch, the first one the stretches. */
__global__ void finish_sum(cuda_finish_job job) {
    __shared__ double part[BLOCK];
    const int64_t per = (job.n + BLOCK - 1) / BLOCK, begin = threadIdx.x * per;
    double sum = 0;
    for (int64_t i = begin; i < begin + per && i < job.n; i++) {
        sum += static_cast<double>(job.x[i]);
    }
    part[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        double total = 0;
        for (int i = 0; i < BLOCK; i++) {
            total += part[i];
        }
        put(job, 0, job.what == CUDA_FINISH_ROOT ? sqrt(total) : total);
    }
}

cudaError_t cuda_run_finish(cudaStream_t stream, const cuda_finish_job *args) {
    const cuda_finish_job job = *args;
    if (job.what == CUDA_FINISH_EACH) {
        CUDA_LAUNCH(stream, cuda_blocks(job.n, BLOCK, 1024), BLOCK, 0, finish_each, job);
    } else {
        CUDA_LAUNCH(stream, 1, BLOCK, 0, finish_sum, job);
    }
    return cuda_launched();
}
