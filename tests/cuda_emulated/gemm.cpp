/* In place of cuBLASLt: the product as its definition says, in the order of the stream. */
#include <emulated.h>

#include "gemm.h"

namespace {

float widen(float x) {
    return x;
}

float widen(uint16_t x) {
    return __uint_as_float(static_cast<unsigned>(x) << 16);
}

template <typename T> void multiply(const cuda_gemm_job &job, const T *a, const T *b, float *c) {
    int64_t a_row = job.transpose_a ? 1 : job.lda, a_step = job.transpose_a ? job.lda : 1;
    int64_t b_col = job.transpose_b ? job.ldb : 1, b_step = job.transpose_b ? 1 : job.ldb;
    for (int64_t i = 0; i < job.m; i++) {
        for (int64_t j = 0; j < job.n; j++) {
            float sum = 0, *to = c + i * job.ldc + j;
            for (int64_t k = 0; k < job.k; k++) {
                sum += widen(a[i * a_row + k * a_step]) * widen(b[j * b_col + k * b_step]);
            }
            *to = job.beta == 0 ? job.alpha * sum : job.alpha * sum + job.beta * *to;
        }
    }
}

template <typename T> void multiply_all(const cuda_gemm_job &job) {
    for (int64_t i = 0; i < (job.batch > 1 ? job.batch : 1); i++) {
        multiply(job, static_cast<const T *>(job.a) + i * job.stride_a,
                 static_cast<const T *>(job.b) + i * job.stride_b, job.c + i * job.stride_c);
    }
}

} // namespace

extern "C" pico_status cuda_gemm_open(cuda_backend *cuda, pico_error *err) {
    (void)cuda, (void)err;
    return PICO_OK;
}

extern "C" void cuda_gemm_close(cuda_backend *cuda) {
    (void)cuda;
}

extern "C" pico_status cuda_gemm_run(cuda_backend *cuda, const cuda_gemm_job *job) {
    cuda_gemm_job copy = *job;
    emulated_call(cuda->stream, [copy]() {
        if (copy.type == CUDA_GEMM_F32) {
            multiply_all<float>(copy);
        } else {
            multiply_all<uint16_t>(copy);
        }
    });
    return PICO_OK;
}
