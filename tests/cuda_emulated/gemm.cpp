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

void put(float *to, float x) {
    *to = x;
}

void put(uint16_t *to, float x) { /* to nearest even; there are no NaN to keep */
    const unsigned bits = __float_as_uint(x);
    *to = static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

template <typename T, typename C>
void multiply(const cuda_gemm_job &job, const T *a, const T *b, const C *add, C *c) {
    int64_t a_row = job.transpose_a ? 1 : job.lda, a_step = job.transpose_a ? job.lda : 1;
    int64_t b_col = job.transpose_b ? job.ldb : 1, b_step = job.transpose_b ? 1 : job.ldb;
    for (int64_t i = 0; i < job.m; i++) {
        for (int64_t j = 0; j < job.n; j++) {
            const int64_t at = i * job.ldc + j;
            float sum = 0;
            for (int64_t k = 0; k < job.k; k++) {
                sum += widen(a[i * a_row + k * a_step]) * widen(b[j * b_col + k * b_step]);
            }
            put(c + at,
                job.beta == 0 ? job.alpha * sum : job.alpha * sum + job.beta * widen(add[at]));
        }
    }
}

template <typename T, typename C> void multiply_all(const cuda_gemm_job &job) {
    C *c = static_cast<C *>(job.c);
    const C *add = job.add == NULL ? c : static_cast<const C *>(job.add);
    for (int64_t i = 0; i < (job.batch > 1 ? job.batch : 1); i++) {
        multiply(job, static_cast<const T *>(job.a) + i * job.stride_a,
                 static_cast<const T *>(job.b) + i * job.stride_b, add + i * job.stride_c,
                 c + i * job.stride_c);
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
            multiply_all<float, float>(copy);
        } else if (copy.narrow_out) {
            multiply_all<uint16_t, uint16_t>(copy);
        } else {
            multiply_all<uint16_t, float>(copy);
        }
    });
    return PICO_OK;
}
