/* Ops whose results depend on one element each. */
#include "jobs.h"
#include "kernel.cuh"

#define BLOCK 256

__device__ __forceinline__ float element(const cuda_element_job &job, int64_t row, int64_t head,
                                         int64_t i, float a, float b) {
    const float x = cuda_f32(job.x, row, head)[i];
    switch (job.what) {
    case CUDA_ELEMENT_ACT: {
        const float value = cuda_act(job.kind, x);
        return job.gate.data == NULL ? value : value * cuda_f32(job.gate, row, head)[i];
    }
    case CUDA_ELEMENT_GATE: {
        const float g = cuda_f32(job.gate, row, 0)[head];
        return fmaf(a * cuda_sigmoid(g), x, cuda_f32(job.y, row, head)[i]);
    }
    case CUDA_ELEMENT_AXPBY: /* with the constant b = 0, y is not read */
        return job.b == 0 ? a * x : fmaf(a, x, b * cuda_f32(job.y, row, head)[i]);
    case CUDA_ELEMENT_SOFTCAP:
        return a * tanhf(x / a);
    default:
        return x + job.bias[i];
    }
}

__global__ void elements(cuda_element_job job) {
    const int64_t n = job.y.rows * job.y.heads * job.y.cols;
    const float a = job.a_scalar == NULL ? job.a : job.a * *job.a_scalar;
    const float b = job.b_scalar == NULL ? job.b : job.b * *job.b_scalar;
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        const int64_t i = at % job.y.cols, head = at / job.y.cols % job.y.heads;
        const int64_t row = at / job.y.cols / job.y.heads;
        cuda_f32(job.y, row, head)[i] = element(job, row, head, i, a, b);
    }
}

cudaError_t cuda_run_element(cudaStream_t stream, const cuda_element_job *args) {
    const cuda_element_job job = *args;
    const int64_t n = job.y.rows * job.y.heads * job.y.cols;
    CUDA_LAUNCH(stream, cuda_blocks(n, BLOCK, 1 << 16), BLOCK, 0, elements, job);
    return cuda_launched();
}
