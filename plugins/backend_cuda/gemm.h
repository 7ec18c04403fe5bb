/*
 * Products of many rows: the one place that knows cuBLASLt (gemm.c). The tests put a loop in its
 * place (tests/cuda_emulated/gemm.cpp).
 */
#ifndef PICO_BACKEND_CUDA_GEMM_H
#define PICO_BACKEND_CUDA_GEMM_H

#include "cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { CUDA_GEMM_F32 = 0, CUDA_GEMM_BF16 = 1 };

/* c (m, n) = alpha op(a) op(b) + beta c, all row-major with rows ld elements apart; a and b are F32,
 * computed as F32, or BF16, added up in F32; c is F32, or BF16. op(a) is (m, k), op(b) is (k, n); stored
 * transposed where the flag is 1. */
typedef struct cuda_gemm_job {
    uint32_t type; /* CUDA_GEMM_x, of a and b */
    uint32_t transpose_a, transpose_b;
    int64_t m, n, k;
    const void *a, *b;
    void *c;
    uint32_t narrow_out; /* 1: c is BF16, where a and b are */
    const void *add;     /* what beta multiplies, as c but elsewhere; NULL: c itself */
    int64_t lda, ldb, ldc;
    float alpha, beta;
    int64_t batch; /* 0, 1: one product; else so many, their matrices these elements apart */
    int64_t stride_a, stride_b, stride_c;
} cuda_gemm_job;

/* Loads the library; PICO_E_DEVICE and its name if it is not there. */
pico_status cuda_gemm_open(cuda_backend *cuda, pico_error *err);
void cuda_gemm_close(cuda_backend *cuda);
pico_status cuda_gemm_run(cuda_backend *cuda, const cuda_gemm_job *job);

#ifdef __cplusplus
}
#endif

#endif
