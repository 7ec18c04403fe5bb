/* Scaling, and the steps of the optimisers. */
#include "kernel.cuh"
#include "train.h"

#define BLOCK 256

__global__ void scale_elements(cuda_scale_job job) {
    const int64_t n = job.x.rows * job.x.cols;
    const float factor =
        job.scalar == NULL ? 0.0f : job.value / fmaf(job.a, *job.scalar, job.b);
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        float *x = cuda_f32(job.x, at / job.x.cols, 0) + at % job.x.cols;
        *x = job.scalar == NULL ? job.value : *x * factor;
    }
}

cudaError_t cuda_run_scale(cudaStream_t stream, const cuda_scale_job *args) {
    const cuda_scale_job job = *args;
    CUDA_LAUNCH(stream, cuda_blocks(job.x.rows * job.x.cols, BLOCK, 1 << 16), BLOCK, 0,
                scale_elements, job);
    return cuda_launched();
}

__global__ void adamw_elements(cuda_adamw_job job) {
    for (int64_t i = cuda_thread(); i < job.n; i += cuda_threads()) {
        const float g = job.grad_scale * job.g[i];
        const float m = fmaf(job.beta1, job.m[i], (1.0f - job.beta1) * g);
        const float v = fmaf(job.beta2, job.v[i], (1.0f - job.beta2) * g * g);
        const float root = fmaf(sqrtf(v), job.inv_root, job.eps);
        job.m[i] = m;
        job.v[i] = v;
        job.p[i] = job.keep * job.p[i] - job.step_size * m / root;
    }
}

cudaError_t cuda_run_adamw(cudaStream_t stream, const cuda_adamw_job *args) {
    const cuda_adamw_job job = *args;
    CUDA_LAUNCH(stream, cuda_blocks(job.n, BLOCK, 1 << 16), BLOCK, 0, adamw_elements, job);
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
