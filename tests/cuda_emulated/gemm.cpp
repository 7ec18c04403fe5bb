/* In place of cuBLASLt: the product as its definition says, in the order of the stream. */
#include <emulated.h>

#include "gemm.h"

namespace {

float value(const cuda_gemm_job &job, const void *matrix, int64_t at) {
    if (job.type == CUDA_GEMM_F32) {
        return static_cast<const float *>(matrix)[at];
    }
    return __uint_as_float(static_cast<unsigned>(static_cast<const uint16_t *>(matrix)[at]) << 16);
}

void multiply(const cuda_gemm_job &job) {
    for (int64_t i = 0; i < job.m; i++) {
        for (int64_t j = 0; j < job.n; j++) {
            float sum = 0;
            for (int64_t k = 0; k < job.k; k++) {
                float a = value(job, job.a, job.transpose_a ? k * job.lda + i : i * job.lda + k);
                float b = value(job, job.b, job.transpose_b ? j * job.ldb + k : k * job.ldb + j);
                sum += a * b;
            }
            float *c = job.c + i * job.ldc + j;
            *c = job.beta == 0 ? job.alpha * sum : job.alpha * sum + job.beta * *c;
        }
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
        int64_t n = copy.batch > 1 ? copy.batch : 1, size = copy.type == CUDA_GEMM_F32 ? 4 : 2;
        for (int64_t i = 0; i < n; i++) {
            cuda_gemm_job one = copy;
            one.a = static_cast<const char *>(copy.a) + i * copy.stride_a * size;
            one.b = static_cast<const char *>(copy.b) + i * copy.stride_b * size;
            one.c = copy.c + i * copy.stride_c;
            multiply(one);
        }
    });
    return PICO_OK;
}
