/*
 * A step of Muon for several matrices of one shape, but for its products: what goes into the iterations
 * and what comes out of them lies in BF16, one matrix behind the other. Blocks: parts; matrices.
 */
#include "train.h"
#include "wide.cuh"

#define BLOCK 256

/* ---- before the iterations ---- */

/* u = (1 - momentum) g + momentum m, for the new m. */
template <int N>
__device__ __forceinline__ cuda_pack<N>
direction(const cuda_muon_many_job &job, const cuda_pack<N> &grad, const cuda_pack<N> &momentum) {
    cuda_pack<N> u;
#pragma unroll
    for (int k = 0; k < N; k++) {
        u.x[k] = fmaf(job.momentum, momentum.x[k], job.fresh * grad.x[k]);
    }
    return u;
}

/* Momentum, and the sum of u^2 of each part. */
template <int N> __global__ void muon_momentum(cuda_muon_many_job job) {
    __shared__ float part[BLOCK / CUDA_WARP];
    const float *grad = job.grad[blockIdx.y];
    float *momentum = job.m[blockIdx.y];
    float square = 0;
    for (int64_t at = cuda_thread(); at < job.rows * job.cols / N; at += cuda_threads()) {
        const cuda_pack<N> g = cuda_get<N>(grad + at * N);
        cuda_pack<N> m = cuda_get<N>(momentum + at * N);
#pragma unroll
        for (int k = 0; k < N; k++) {
            m.x[k] = fmaf(job.fresh, g.x[k], job.momentum * m.x[k]);
        }
        cuda_put<N>(momentum + at * N, m);
        const cuda_pack<N> u = direction<N>(job, g, m);
#pragma unroll
        for (int k = 0; k < N; k++) {
            square = fmaf(u.x[k], u.x[k], square);
        }
    }
    square = cuda_block_sum(square, part);
    if (threadIdx.x == 0) {
        job.partial[blockIdx.y * CUDA_MUON_PARTS + blockIdx.x] = square;
    }
}

__device__ __forceinline__ uint16_t *place_in_x(const cuda_muon_many_job &job, int64_t at) {
    int64_t col;
    const int64_t row = cuda_split(at, job.cols, &col);
    return job.x + blockIdx.y * job.x_stride + row * job.ld + col;
}

/* x = u / (1.02 |u| + 1e-6) */
template <int N> __global__ void muon_start(cuda_muon_many_job job) {
    __shared__ float factor;
    if (threadIdx.x == 0) {
        double sum = 0;
        for (uint32_t i = 0; i < job.parts; i++) {
            sum += static_cast<double>(job.partial[blockIdx.y * CUDA_MUON_PARTS + i]);
        }
        factor = 1.0f / fmaf(1.02f, static_cast<float>(sqrt(sum)), 1e-6f);
    }
    __syncthreads();
    for (int64_t at = cuda_thread(); at < job.rows * job.cols / N; at += cuda_threads()) {
        const cuda_pack<N> u = direction<N>(job, cuda_get<N>(job.grad[blockIdx.y] + at * N),
                                            cuda_get<N>(job.m[blockIdx.y] + at * N));
        uint16_t *const to = place_in_x(job, at * N);
        if constexpr (N == 4) {
            *reinterpret_cast<uint2 *>(to) =
                uint2{cuda_pair_bf16(u.x[0] * factor, u.x[1] * factor),
                      cuda_pair_bf16(u.x[2] * factor, u.x[3] * factor)};
        } else {
            *to = cuda_to_bf16(u.x[0] * factor);
        }
    }
}

/* ---- behind them ---- */

/* Means of x^2 of rows, a warp each. */
__global__ void muon_row_squares(cuda_muon_many_job job) {
    const int64_t row = cuda_thread() / CUDA_WARP;
    if (row >= job.rows) { /* the same for all lanes */
        return;
    }
    const uint16_t *x = job.x + blockIdx.y * job.x_stride + row * job.ld;
    float sum = 0;
    for (int64_t i = threadIdx.x % CUDA_WARP * 2; i < job.cols; i += CUDA_WARP * 2) {
        const uint32_t pair = *reinterpret_cast<const uint32_t *>(x + i); /* rows end in gaps */
        const float low = cuda_from_bf16(pair & 0xffffu);
        const float high = i + 1 < job.cols ? cuda_from_bf16(pair >> 16) : 0.0f;
        sum = fmaf(low, low, fmaf(high, high, sum));
    }
    sum = cuda_warp_sum(sum);
    if (threadIdx.x % CUDA_WARP == 0) {
        job.square[blockIdx.y * job.longer + row] = sum / static_cast<float>(job.cols);
    }
}

/* Means of x^2 of columns: a lane has two, a warp every eighth row. */
__global__ void muon_column_squares(cuda_muon_many_job job) {
    __shared__ float part[BLOCK / CUDA_WARP][CUDA_WARP * 2];
    const int warps = BLOCK / CUDA_WARP, warp = static_cast<int>(threadIdx.x / CUDA_WARP);
    const int lane = static_cast<int>(threadIdx.x % CUDA_WARP);
    const int64_t first = static_cast<int64_t>(blockIdx.x) * CUDA_WARP * 2, col = first + lane * 2;
    const uint16_t *x = job.x + blockIdx.y * job.x_stride + col;
    float low = 0, high = 0;
    for (int64_t row = warp; row < job.rows && col < job.cols; row += warps) {
        const uint32_t pair = *reinterpret_cast<const uint32_t *>(x + row * job.ld);
        const float a = cuda_from_bf16(pair & 0xffffu), b = cuda_from_bf16(pair >> 16);
        low = fmaf(a, a, low);
        high = fmaf(b, b, high);
    }
    part[warp][lane * 2] = low;
    part[warp][lane * 2 + 1] = high;
    __syncthreads();
    if (threadIdx.x < CUDA_WARP * 2 && first + threadIdx.x < job.cols) {
        float sum = 0;
        for (int i = 0; i < warps; i++) {
            sum += part[i][threadIdx.x];
        }
        job.square[blockIdx.y * job.longer + first + threadIdx.x] =
            sum / static_cast<float>(job.rows);
    }
}

/* As muon_factors in train_step.cu, a block for each matrix. */
__global__ void muon_many_factors(cuda_muon_many_job job) {
    __shared__ double sum[BLOCK], scaled[BLOCK];
    float *square = job.square + blockIdx.x * job.longer, *second = job.second[blockIdx.x];
    double plain = 0, weighted = 0;
    for (int64_t i = threadIdx.x; i < job.longer; i += BLOCK) {
        const float v = square[i];
        const float next = fmaf(job.beta2, second[i], (1.0f - job.beta2) * v);
        const double r = 1 / sqrt(next > 1e-10f ? static_cast<double>(next) : 1e-10);
        second[i] = next;
        square[i] = static_cast<float>(r);
        plain += static_cast<double>(v);
        weighted += static_cast<double>(v) * r * r;
    }
    sum[threadIdx.x] = plain;
    scaled[threadIdx.x] = weighted;
    for (unsigned half = BLOCK / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            sum[threadIdx.x] += sum[threadIdx.x + half];
            scaled[threadIdx.x] += scaled[threadIdx.x + half];
        }
    }
    if (threadIdx.x == 0) {
        job.total[blockIdx.x] = scaled[0] > 0 ? static_cast<float>(sqrt(sum[0] / scaled[0])) : 0.0f;
    }
}

template <int N> __global__ void muon_apply(cuda_muon_many_job job) {
    const float *square = job.square + blockIdx.y * job.longer;
    const float total = job.total[blockIdx.y];
    for (int64_t at = cuda_thread(); at < job.rows * job.cols / N; at += cuda_threads()) {
        int64_t col;
        const int64_t row = cuda_split(at * N, job.cols, &col);
        const uint16_t *x = job.x + blockIdx.y * job.x_stride + row * job.ld + col;
        cuda_pack<N> p = cuda_get<N>(job.p[blockIdx.y] + at * N);
        uint16_t bits[N];
        if constexpr (N == 4) {
            const uint2 four = cuda_load8(x);
            bits[0] = static_cast<uint16_t>(four.x & 0xffffu);
            bits[1] = static_cast<uint16_t>(four.x >> 16);
            bits[2] = static_cast<uint16_t>(four.y & 0xffffu);
            bits[3] = static_cast<uint16_t>(four.y >> 16);
        } else {
            bits[0] = *x;
        }
#pragma unroll
        for (int k = 0; k < N; k++) {
            const float u = cuda_from_bf16(bits[k]) * (total * square[job.by_row ? row : col + k]);
            const float kept = u * p.x[k] >= 0 ? job.decay * p.x[k] : 0.0f;
            p.x[k] -= fmaf(job.lr, u, kept);
        }
        cuda_put<N>(job.p[blockIdx.y] + at * N, p);
    }
}

/* ---- launching ---- */

static bool is_wide(const cuda_muon_many_job &job) {
    uintptr_t places = 0;
    for (uint32_t i = 0; i < job.n; i++) {
        places |= reinterpret_cast<uintptr_t>(job.grad[i]) | reinterpret_cast<uintptr_t>(job.m[i]) |
                  reinterpret_cast<uintptr_t>(job.p[i]);
    }
    return places % 16 == 0 && job.cols % 4 == 0;
}

cudaError_t cuda_run_muon_start(cudaStream_t stream, const cuda_muon_many_job *args) {
    cuda_muon_many_job job = *args;
    const bool wide = is_wide(job);
    job.parts = cuda_blocks(job.rows * job.cols / (wide ? 4 : 1), BLOCK * 4, CUDA_MUON_PARTS);
    auto *const momentum = wide ? muon_momentum<4> : muon_momentum<1>;
    auto *const start = wide ? muon_start<4> : muon_start<1>;
    CUDA_LAUNCH(stream, dim3(job.parts, job.n), BLOCK, 0, momentum, job);
    CUDA_LAUNCH(stream, dim3(job.parts, job.n), BLOCK, 0, start, job);
    return cuda_launched();
}

cudaError_t cuda_run_muon_end(cudaStream_t stream, const cuda_muon_many_job *args) {
    const cuda_muon_many_job job = *args;
    const bool wide = is_wide(job);
    const unsigned parts =
        cuda_blocks(job.rows * job.cols / (wide ? 4 : 1), BLOCK * 4, CUDA_MUON_PARTS * 4);
    const int64_t row_blocks = cuda_ceil(job.rows, BLOCK / CUDA_WARP);
    const int64_t column_blocks = cuda_ceil(job.cols, CUDA_WARP * 2);
    auto *const apply = wide ? muon_apply<4> : muon_apply<1>;
    if (job.by_row) {
        CUDA_LAUNCH(stream, dim3(static_cast<unsigned>(row_blocks), job.n), BLOCK, 0,
                    muon_row_squares, job);
    } else {
        CUDA_LAUNCH(stream, dim3(static_cast<unsigned>(column_blocks), job.n), BLOCK, 0,
                    muon_column_squares, job);
    }
    CUDA_LAUNCH(stream, job.n, BLOCK, 0, muon_many_factors, job);
    CUDA_LAUNCH(stream, dim3(parts, job.n), BLOCK, 0, apply, job);
    return cuda_launched();
}
