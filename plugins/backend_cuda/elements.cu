/* Ops whose results depend on one element each. */
#include "jobs.h"
#include "wide.cuh"

#define BLOCK 256

/* y of N neighbours; a and b are the factors with their scalars. */
template <int WHAT, int N>
__device__ __forceinline__ void element(const cuda_element_job &job, int64_t row, int64_t head,
                                        int64_t i, float a, float b) {
    float *to = cuda_f32(job.y, row, head) + i;
    cuda_pack<N> v = cuda_get<N>(cuda_f32(job.x, row, head) + i), y = v, gate = v;
    float open = 0;
    if (WHAT == CUDA_ELEMENT_GATE || (WHAT == CUDA_ELEMENT_AXPBY && job.b != 0)) {
        y = cuda_get<N>(to); /* with the constant b = 0, y is not read */
    }
    if (WHAT == CUDA_ELEMENT_ACT && job.gate.data != NULL) {
        gate = cuda_get<N>(cuda_f32(job.gate, row, head) + i);
    }
    if (WHAT == CUDA_ELEMENT_GATE) {
        open = a * cuda_sigmoid(cuda_f32(job.gate, row, 0)[head]);
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
        const float x = v.x[k];
        if (WHAT == CUDA_ELEMENT_ACT) {
            const float value = cuda_act(job.kind, x);
            v.x[k] = job.gate.data == NULL ? value : value * gate.x[k];
        } else if (WHAT == CUDA_ELEMENT_GATE) {
            v.x[k] = fmaf(open, x, y.x[k]);
        } else if (WHAT == CUDA_ELEMENT_AXPBY) {
            v.x[k] = job.b == 0 ? a * x : fmaf(a, x, b * y.x[k]);
        } else if (WHAT == CUDA_ELEMENT_SOFTCAP) {
            v.x[k] = a * tanhf(x / a);
        } else {
            v.x[k] = x + job.bias[i + k];
        }
    }
    if (WHAT == CUDA_ELEMENT_ACT && job.narrow != NULL) {
        cuda_put_narrow<N>(job.narrow + row * job.y.cols + i, v);
    } else {
        cuda_put<N>(to, v);
    }
}

template <int WHAT, int N> __global__ void elements(cuda_element_job job) {
    const int64_t units = job.y.cols / N, n = job.y.rows * job.y.heads * units;
    const bool run = job.y.rows == 1 && job.y.heads == 1;
    const float a = job.a_scalar == NULL ? job.a : job.a * *job.a_scalar;
    const float b = job.b_scalar == NULL ? job.b : job.b * *job.b_scalar;
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        int64_t unit = at, head = 0, row = 0;
        if (!run) {
            row = cuda_split(cuda_split(at, units, &unit), job.y.heads, &head);
        }
        element<WHAT, N>(job, row, head, unit * N, a, b);
    }
}

template <int WHAT> static void launch(cudaStream_t stream, const cuda_element_job &job) {
    const bool gated = WHAT == CUDA_ELEMENT_ACT && job.gate.data != NULL;
    const bool wide =
        cuda_is_wide(job.x) && cuda_is_wide(job.y) && (!gated || cuda_is_wide(job.gate));
    const int64_t n = job.y.rows * job.y.heads * job.y.cols / (wide ? 4 : 1);
    auto *const kernel = wide ? elements<WHAT, 4> : elements<WHAT, 1>;
    CUDA_LAUNCH(stream, cuda_blocks(n, BLOCK, 1 << 16), BLOCK, 0, kernel, job);
}

cudaError_t cuda_run_element(cudaStream_t stream, const cuda_element_job *args) {
    cuda_element_job job = *args;
    const bool by_place = job.what == CUDA_ELEMENT_GATE || job.what == CUDA_ELEMENT_BIAS;
    const bool gated = job.what == CUDA_ELEMENT_ACT && job.gate.data != NULL;
    if (!by_place && cuda_is_run(job.x) && cuda_is_run(job.y) &&
        (!gated || cuda_is_run(job.gate))) {
        cuda_make_run(job.x);
        cuda_make_run(job.y);
        cuda_make_run(job.gate);
    }
    switch (job.what) {
    case CUDA_ELEMENT_ACT:
        launch<CUDA_ELEMENT_ACT>(stream, job);
        break;
    case CUDA_ELEMENT_GATE:
        launch<CUDA_ELEMENT_GATE>(stream, job);
        break;
    case CUDA_ELEMENT_AXPBY:
        launch<CUDA_ELEMENT_AXPBY>(stream, job);
        break;
    case CUDA_ELEMENT_SOFTCAP:
        launch<CUDA_ELEMENT_SOFTCAP>(stream, job);
        break;
    default:
        launch<CUDA_ELEMENT_BIAS>(stream, job);
    }
    return cuda_launched();
}
