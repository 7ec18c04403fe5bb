/* Backward passes over rows; a block for each row, or each head of a row. */
#include "kernel.cuh"
#include "train.h"

#define BLOCK 128

__global__ void norm_stats(cuda_norm_back_job job) {
    __shared__ float part[BLOCK / CUDA_WARP];
    const int64_t at = blockIdx.x, row = at / job.x.heads, head = at % job.x.heads;
    const float *x = cuda_f32(job.x, row, head);
    const float n = static_cast<float>(job.x.cols);
    float sum = 0, square = 0;
    for (int64_t i = threadIdx.x; job.kind == PICO_NORM_LAYER && i < job.x.cols; i += BLOCK) {
        sum += x[i];
    }
    const float mean = cuda_block_sum(sum, part) / n;
    for (int64_t i = threadIdx.x; i < job.x.cols; i += BLOCK) {
        square = fmaf(x[i] - mean, x[i] - mean, square);
    }
    square = cuda_block_sum(square, part) / n;
    if (threadIdx.x == 0) {
        job.mean[at] = mean;
        job.inverse[at] = 1.0f / sqrtf(square + job.eps);
    }
}

cudaError_t cuda_run_norm_stats(cudaStream_t stream, const cuda_norm_back_job *args) {
    const cuda_norm_back_job job = *args;
    CUDA_LAUNCH(stream, static_cast<unsigned>(job.x.rows * job.x.heads), BLOCK, 0, norm_stats, job);
    return cuda_launched();
}

/* With g = scale * weight * dy and n = (x - mean) * inverse:
 * dx = inverse * (g - mean(g) - n * mean(g n)), without mean(g) for RMS. */
__global__ void norm_back(cuda_norm_back_job job) {
    __shared__ float part[BLOCK / CUDA_WARP];
    const int64_t at = blockIdx.x, row = at / job.x.heads, head = at % job.x.heads;
    const float *x = cuda_f32(job.x, row, head), *dy = cuda_f32(job.dy, row, head);
    float *dx = cuda_f32(job.dx, row, head);
    const float mean = job.mean[at], inverse = job.inverse[at];
    const float width = static_cast<float>(job.x.cols);
    float sum = 0, product = 0;
    for (int64_t i = threadIdx.x; i < job.x.cols; i += BLOCK) {
        const float g = job.scale * dy[i] * (job.weight == NULL ? 1.0f : job.weight[i]);
        sum += g;
        product = fmaf(g, (x[i] - mean) * inverse, product);
    }
    const float total = cuda_block_sum(sum, part) / width;
    const float mean_g = job.kind == PICO_NORM_LAYER ? total : 0.0f;
    const float mean_gn = cuda_block_sum(product, part) / width;
    for (int64_t i = threadIdx.x; i < job.x.cols; i += BLOCK) {
        const float g = job.scale * dy[i] * (job.weight == NULL ? 1.0f : job.weight[i]);
        const float d = inverse * (g - mean_g - (x[i] - mean) * inverse * mean_gn);
        dx[i] = job.accumulate ? dx[i] + d : d;
    }
}

cudaError_t cuda_run_norm_back(cudaStream_t stream, const cuda_norm_back_job *args) {
    const cuda_norm_back_job job = *args;
    CUDA_LAUNCH(stream, static_cast<unsigned>(job.x.rows * job.x.heads), BLOCK, 0, norm_back, job);
    return cuda_launched();
}

/* The activation and its derivative. */
__device__ __forceinline__ void act_pair(uint32_t kind, float x, float *value, float *slope) {
    switch (kind) {
    case PICO_ACT_SILU: {
        const float s = cuda_sigmoid(x);
        *value = x * s;
        *slope = s * fmaf(x, 1.0f - s, 1.0f);
        break;
    }
    case PICO_ACT_GELU_TANH: { /* x s, s = 1 / (1 + e^-2u), u = 0.79788 (x + 0.044715 x^3) */
        const float s = cuda_sigmoid(1.5957691216057308f * x * fmaf(0.044715f * x, x, 1.0f));
        const float inner = 1.5957691216057308f * fmaf(0.134145f * x, x, 1.0f);
        *value = x * s;
        *slope = s * fmaf(x * (1.0f - s), inner, 1.0f);
        break;
    }
    case PICO_ACT_GELU_ERF: {
        const float c = 0.5f * erfcf(x * -0.7071067811865476f);
        *value = x * c;
        *slope = fmaf(x * 0.3989422804014327f, expf(-0.5f * x * x), c);
        break;
    }
    default: {
        const float r = fmaxf(x, 0.0f);
        *value = r * r;
        *slope = r + r;
    }
    }
}

__global__ void act_back(cuda_act_back_job job) {
    const int64_t n = job.x.rows * job.x.cols;
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        const int64_t row = at / job.x.cols, i = at % job.x.cols;
        float value, slope;
        act_pair(job.kind, cuda_f32(job.x, row, 0)[i], &value, &slope);
        const float d = cuda_f32(job.dy, row, 0)[i];
        if (job.gate.data != NULL) {
            slope *= cuda_f32(job.gate, row, 0)[i];
            cuda_f32(job.dgate, row, 0)[i] = d * value;
        }
        cuda_f32(job.dx, row, 0)[i] = d * slope;
    }
}

cudaError_t cuda_run_act_back(cudaStream_t stream, const cuda_act_back_job *args) {
    const cuda_act_back_job job = *args;
    CUDA_LAUNCH(stream, cuda_blocks(job.x.rows * job.x.cols, BLOCK, 1 << 16), BLOCK, 0, act_back,
                job);
    return cuda_launched();
}

__global__ void softcap_back(cuda_view y, cuda_view dy, float cap) {
    for (int64_t at = cuda_thread(); at < y.rows * y.cols; at += cuda_threads()) {
        const float t = cuda_f32(y, at / y.cols, 0)[at % y.cols] / cap;
        cuda_f32(dy, at / y.cols, 0)[at % y.cols] *= fmaf(-t, t, 1.0f);
    }
}

cudaError_t cuda_run_softcap_back(cudaStream_t stream, const cuda_view *y_, const cuda_view *dy_,
                                  float cap) {
    const cuda_view y = *y_, dy = *dy_;
    CUDA_LAUNCH(stream, cuda_blocks(y.rows * y.cols, BLOCK, 1 << 16), BLOCK, 0, softcap_back, y, dy,
                cap);
    return cuda_launched();
}

__global__ void gate_back(cuda_gate_back_job job) {
    __shared__ float part[BLOCK / CUDA_WARP];
    const int64_t row = blockIdx.x;
    const float scalar = job.scalar == NULL ? 1.0f : *job.scalar;
    float share = 0;
    for (int64_t h = 0; h < job.u.heads; h++) {
        const float *u = cuda_f32(job.u, row, h), *dy = cuda_f32(job.dy, row, h);
        const float open = cuda_sigmoid(cuda_f32(job.g, row, 0)[h]);
        float dot = 0;
        for (int64_t i = threadIdx.x; i < job.u.cols; i += BLOCK) {
            dot = fmaf(u[i], dy[i], dot);
        }
        const float flow = cuda_block_sum(dot, part) * job.factor;
        share = fmaf(open, flow, share);
        for (int64_t i = threadIdx.x; i < job.u.cols; i += BLOCK) { /* du may be u */
            cuda_f32(job.du, row, h)[i] = job.factor * scalar * open * dy[i];
        }
        if (threadIdx.x == 0) { /* dg may be g: everybody has read it, before the sum */
            cuda_f32(job.dg, row, 0)[h] = scalar * open * (1.0f - open) * flow;
        }
    }
    if (threadIdx.x == 0) {
        job.share[row] = share;
    }
}

cudaError_t cuda_run_gate_back(cudaStream_t stream, const cuda_gate_back_job *args) {
    const cuda_gate_back_job job = *args;
    CUDA_LAUNCH(stream, static_cast<unsigned>(job.u.rows), BLOCK, 0, gate_back, job);
    return cuda_launched();
}

__global__ void gather_rows(cuda_table_job job) {
    const int64_t n = job.rows.rows * job.rows.cols;
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        const int64_t row = at / job.rows.cols, i = at % job.rows.cols;
        const int32_t index = job.index[row];
        const float value = index < 0 ? 0.0f : cuda_f32(job.table, index, 0)[i];
        float *out = cuda_f32(job.rows, row, 0) + i;
        *out = job.accumulate ? *out + value : value;
    }
}

cudaError_t cuda_run_gather(cudaStream_t stream, const cuda_table_job *args) {
    const cuda_table_job job = *args;
    CUDA_LAUNCH(stream, cuda_blocks(job.rows.rows * job.rows.cols, BLOCK, 1 << 16), BLOCK, 0,
                gather_rows, job);
    return cuda_launched();
}

/* The block of the first row with an index adds all rows that have it, in ascending order, so that no
 * two blocks add to one place. */
__global__ void scatter_rows(cuda_table_job job) {
    __shared__ float part[BLOCK / CUDA_WARP];
    __shared__ int32_t same[BLOCK];
    const int64_t own = blockIdx.x;
    const int32_t index = job.index[own];
    float before = 0;
    for (int64_t r = threadIdx.x; index >= 0 && r < own; r += BLOCK) {
        before = job.index[r] == index ? 1.0f : before;
    }
    if (index < 0 || cuda_block_max(before, part) != 0.0f) { /* the same for all threads */
        return;
    }
    for (int64_t begin = own; begin < job.rows.rows; begin += BLOCK) {
        const int64_t r = begin + threadIdx.x;
        __syncthreads();
        same[threadIdx.x] = r < job.rows.rows && job.index[r] == index;
        const float any = cuda_block_max(static_cast<float>(same[threadIdx.x]), part);
        for (int64_t i = threadIdx.x; any != 0.0f && i < job.rows.cols; i += BLOCK) {
            float sum = cuda_f32(job.table, index, 0)[i];
            for (int t = 0; t < BLOCK; t++) {
                if (same[t]) {
                    sum += cuda_f32(job.rows, begin + t, 0)[i];
                }
            }
            cuda_f32(job.table, index, 0)[i] = sum;
        }
    }
}

cudaError_t cuda_run_scatter(cudaStream_t stream, const cuda_table_job *args) {
    const cuda_table_job job = *args;
    CUDA_LAUNCH(stream, static_cast<unsigned>(job.rows.rows), BLOCK, 0, scatter_rows, job);
    return cuda_launched();
}
