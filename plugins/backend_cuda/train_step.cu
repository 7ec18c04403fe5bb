/* Scaling, and the steps of the optimisers. */
#include "train.h"
#include "wide.cuh"

#define BLOCK 256

template <int N> __global__ void scale_elements(cuda_scale_job job) {
    const int64_t units = job.x.cols / N, n = job.x.rows * units;
    const float factor = job.scalar == NULL ? 0.0f : job.value / fmaf(job.a, *job.scalar, job.b);
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        int64_t unit = at;
        const int64_t row = job.x.rows == 1 ? 0 : cuda_split(at, units, &unit);
        float *x = cuda_f32(job.x, row, 0) + unit * N;
        cuda_pack<N> v = {};
        if (job.scalar != NULL) { /* else x is not read */
            v = cuda_get<N>(x);
        }
#pragma unroll
        for (int k = 0; k < N; k++) {
            v.x[k] = job.scalar == NULL ? job.value : v.x[k] * factor;
        }
        cuda_put<N>(x, v);
    }
}

cudaError_t cuda_run_scale(cudaStream_t stream, const cuda_scale_job *args) {
    cuda_scale_job job = *args;
    if (cuda_is_run(job.x)) {
        cuda_make_run(job.x);
    }
    const bool wide = cuda_is_wide(job.x);
    auto *const kernel = wide ? scale_elements<4> : scale_elements<1>;
    CUDA_LAUNCH(stream, cuda_blocks(job.x.rows * job.x.cols / (wide ? 4 : 1), BLOCK, 1 << 16),
                BLOCK, 0, kernel, job);
    return cuda_launched();
}

template <int N> __global__ void adamw_elements(cuda_adamw_job job) {
    for (int64_t at = cuda_thread(); at < job.n / N; at += cuda_threads()) {
        const cuda_pack<N> grad = cuda_get<N>(job.g + at * N);
        cuda_pack<N> m = cuda_get<N>(job.m + at * N), v = cuda_get<N>(job.v + at * N);
        cuda_pack<N> p = cuda_get<N>(job.p + at * N);
#pragma unroll
        for (int k = 0; k < N; k++) {
            const float g = job.grad_scale * grad.x[k];
            m.x[k] = fmaf(job.beta1, m.x[k], (1.0f - job.beta1) * g);
            v.x[k] = fmaf(job.beta2, v.x[k], (1.0f - job.beta2) * g * g);
            const float root = fmaf(sqrtf(v.x[k]), job.inv_root, job.eps);
            p.x[k] = job.keep * p.x[k] - job.step_size * m.x[k] / root;
        }
        cuda_put<N>(job.m + at * N, m);
        cuda_put<N>(job.v + at * N, v);
        cuda_put<N>(job.p + at * N, p);
    }
}

cudaError_t cuda_run_adamw(cudaStream_t stream, const cuda_adamw_job *args) {
    const cuda_adamw_job job = *args;
    const uintptr_t places =
        reinterpret_cast<uintptr_t>(job.p) | reinterpret_cast<uintptr_t>(job.m) |
        reinterpret_cast<uintptr_t>(job.v) | reinterpret_cast<uintptr_t>(job.g);
    const bool wide = places % 16 == 0 && job.n % 4 == 0;
    auto *const kernel = wide ? adamw_elements<4> : adamw_elements<1>;
    CUDA_LAUNCH(stream, cuda_blocks(job.n / (wide ? 4 : 1), BLOCK, 1 << 16), BLOCK, 0, kernel, job);
    return cuda_launched();
}

/* One block. second follows square, square becomes the factors, total what they all are multiplied
 * with. */
__global__ void muon_factors(cuda_muon_job job) {
    __shared__ double sum[BLOCK], scaled[BLOCK];
    const int64_t per = (job.n + BLOCK - 1) / BLOCK, begin = threadIdx.x * per;
    double plain = 0, weighted = 0;
    for (int64_t i = begin; i < begin + per && i < job.n; i++) {
        const float v = job.square[i];
        const float second = fmaf(job.beta2, job.second[i], (1.0f - job.beta2) * v);
        const double r = 1 / sqrt(second > 1e-10f ? static_cast<double>(second) : 1e-10);
        job.second[i] = second;
        job.square[i] = static_cast<float>(r);
        plain += static_cast<double>(v);
        weighted += static_cast<double>(v) * r * r;
    }
    sum[threadIdx.x] = plain;
    scaled[threadIdx.x] = weighted;
    __syncthreads();
    if (threadIdx.x == 0) {
        plain = weighted = 0;
        for (int i = 0; i < BLOCK; i++) {
            plain += sum[i];
            weighted += scaled[i];
        }
        *job.total = weighted > 0 ? static_cast<float>(sqrt(plain / weighted)) : 0.0f;
    }
}

__global__ void muon_elements(cuda_muon_job job) {
    const int64_t n = job.x.rows * job.x.cols;
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        const int64_t row = at / job.x.cols, col = at % job.x.cols;
        float *x = cuda_f32(job.x, row, 0) + col, *p = cuda_f32(job.p, row, 0) + col;
        const float u = *x * (*job.total * job.square[job.by_row ? row : col]);
        const float kept = u * *p >= 0 ? job.decay * *p : 0.0f;
        *x = u;
        *p -= fmaf(job.lr, u, kept);
    }
}

cudaError_t cuda_run_muon(cudaStream_t stream, const cuda_muon_job *args) {
    const cuda_muon_job job = *args;
    CUDA_LAUNCH(stream, 1, BLOCK, 0, muon_factors, job);
    CUDA_LAUNCH(stream, cuda_blocks(job.x.rows * job.x.cols, BLOCK, 1 << 16), BLOCK, 0,
                muon_elements, job);
    return cuda_launched();
}
