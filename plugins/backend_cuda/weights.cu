/*
 * Weights as matrices: rows by index, rows widened for products of many rows, and rows of x made
 * ready for codes with an input scale, a permutation or outliers.
 */
#include "jobs.h"
#include "weights.cuh"
#include "wide.cuh"

#define BLOCK 256

__global__ void embed_rows(cuda_embed_job job) {
    const int64_t n = job.out.rows * job.out.cols;
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        const int64_t row = at / job.out.cols;
        const int32_t col = static_cast<int32_t>(at % job.out.cols), index = job.index[row];
        float *out = cuda_f32(job.out, row, 0) + col;
        const float value = index < 0 ? 0.0f : cuda_weight_value(job.table, index, col);
        *out = job.accumulate ? *out + value : value;
    }
}

cudaError_t cuda_run_embed(cudaStream_t stream, const cuda_embed_job *args) {
    const cuda_embed_job job = *args;
    const int64_t n = job.out.rows * job.out.cols;
    CUDA_LAUNCH(stream, cuda_blocks(n, BLOCK, 1 << 16), BLOCK, 0, embed_rows, job);
    return cuda_launched();
}

/* Two columns a thread: neighbours in a byte of 4-bit codes, and one store of BF16. */
__global__ void expand_rows(cuda_expand_job job) {
    const int64_t pairs = cuda_ceil(job.stride, 2), n = job.n * pairs;
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        const int64_t row = at / pairs;
        for (int64_t col = at % pairs * 2; col < job.stride && col <= at % pairs * 2 + 1; col++) {
            const float value =
                col < job.weight.cols
                    ? cuda_weight_value(job.weight, job.first + row, static_cast<int32_t>(col))
                    : 0.0f;
            if (job.bf16) {
                static_cast<uint16_t *>(job.out)[row * job.stride + col] = cuda_to_bf16(value);
            } else {
                static_cast<float *>(job.out)[row * job.stride + col] = value;
            }
        }
    }
}

cudaError_t cuda_run_expand(cudaStream_t stream, const cuda_expand_job *args) {
    const cuda_expand_job job = *args;
    const int64_t n = job.n * cuda_ceil(job.stride, 2);
    CUDA_LAUNCH(stream, cuda_blocks(n, BLOCK, 1 << 16), BLOCK, 0, expand_rows, job);
    return cuda_launched();
}

__global__ void prepare_rows(cuda_prepare_job job) {
    const cuda_weight &w = job.weight;
    const int64_t n = job.x.rows * job.stride;
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        const int64_t row = at / job.stride, col = at % job.stride;
        float value = 0;
        if (col < w.cols) {
            const int64_t input = w.perm == NULL ? col : w.perm[col];
            if (w.outlier_of == NULL || w.outlier_of[input] < 0) {
                value = cuda_f32(job.x, row, 0)[input];
                value = w.input_scale == NULL ? value : value / w.input_scale[input];
            }
        }
        job.out[at] = value;
    }
}

cudaError_t cuda_run_prepare(cudaStream_t stream, const cuda_prepare_job *args) {
    const cuda_prepare_job job = *args;
    const int64_t n = job.x.rows * job.stride;
    CUDA_LAUNCH(stream, cuda_blocks(n, BLOCK, 1 << 16), BLOCK, 0, prepare_rows, job);
    return cuda_launched();
}

__global__ void add_outliers(cuda_outlier_job job) {
    const cuda_weight &w = job.weight;
    const int64_t n = job.y.rows * job.y.cols;
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        const int64_t row = at / job.y.cols, out = at % job.y.cols;
        const float *x = cuda_f32(job.x, row, 0);
        float sum = 0;
        for (int64_t i = 0; i < w.n_outlier; i++) {
            const int32_t input = w.outlier_col[i];
            const float value = w.input_scale == NULL ? x[input] : x[input] / w.input_scale[input];
            sum = fmaf(value, cuda_from_half(w.outlier[out * w.n_outlier + i]), sum);
        }
        cuda_f32(job.y, row, 0)[out] += sum;
    }
}

cudaError_t cuda_run_outliers(cudaStream_t stream, const cuda_outlier_job *args) {
    const cuda_outlier_job job = *args;
    const int64_t n = job.y.rows * job.y.cols;
    CUDA_LAUNCH(stream, cuda_blocks(n, BLOCK, 1 << 16), BLOCK, 0, add_outliers, job);
    return cuda_launched();
}

__global__ void narrow_rows(cuda_narrow_job job) {
    const int64_t n = job.rows_out * job.stride;
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        const int64_t row = at / job.stride, col = at % job.stride;
        const float value =
            row < job.x.rows && col < job.x.cols ? cuda_f32(job.x, row, 0)[col] : 0.0f;
        if (job.bf16) {
            static_cast<uint16_t *>(job.out)[at] = cuda_to_bf16(value);
        } else {
            static_cast<float *>(job.out)[at] = value;
        }
    }
}

/* BF16, eight columns a thread; stride is a multiple of eight. WIDE: x is loaded 16 bytes at a time, and
 * its columns are a multiple of eight, too. */
template <bool WIDE> __global__ void narrow_units(cuda_narrow_job job) {
    const int64_t units = job.stride / 8, n = job.rows_out * units;
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        int64_t unit = at;
        const int64_t row = job.rows_out == 1 ? 0 : cuda_split(at, units, &unit), col = unit * 8;
        uint32_t word[4] = {0, 0, 0, 0};
        if (row < job.x.rows) {
            const float *x = cuda_f32(job.x, row, 0) + col;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float low, high;
                if (WIDE) {
                    const float4 v = cuda_load_floats(x + i / 2 * 4);
                    low = i % 2 == 0 ? v.x : v.z;
                    high = i % 2 == 0 ? v.y : v.w;
                } else {
                    low = col + 2 * i < job.x.cols ? x[2 * i] : 0.0f;
                    high = col + 2 * i + 1 < job.x.cols ? x[2 * i + 1] : 0.0f;
                }
                word[i] = cuda_pair_bf16(low, high);
            }
        }
        uint16_t *to = static_cast<uint16_t *>(job.out) + row * job.stride + col;
        CUDA_CHECK_ALIGNED(to, 16);
        *reinterpret_cast<uint4 *>(to) = uint4{word[0], word[1], word[2], word[3]};
    }
}

cudaError_t cuda_run_narrow(cudaStream_t stream, const cuda_narrow_job *args) {
    cuda_narrow_job job = *args;
    const bool units =
        job.bf16 && job.stride % 8 == 0 && reinterpret_cast<uintptr_t>(job.out) % 16 == 0;
    if (units && job.rows_out == job.x.rows && job.stride == job.x.cols && cuda_is_run(job.x)) {
        job.stride *= job.rows_out;
        job.rows_out = 1;
        cuda_make_run(job.x);
    }
    const int64_t n = job.rows_out * job.stride;
    if (units) {
        const bool wide = cuda_is_wide(job.x) && job.x.cols == job.stride;
        auto *const kernel = wide ? narrow_units<true> : narrow_units<false>;
        CUDA_LAUNCH(stream, cuda_blocks(n / 8, BLOCK, 1 << 16), BLOCK, 0, kernel, job);
    } else {
        CUDA_LAUNCH(stream, cuda_blocks(n, BLOCK, 1 << 16), BLOCK, 0, narrow_rows, job);
    }
    return cuda_launched();
}
