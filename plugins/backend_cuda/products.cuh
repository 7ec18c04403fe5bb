/* What the kernels for products of few rows share: whose outputs a block makes, what becomes of a sum. */
#ifndef PICO_BACKEND_CUDA_PRODUCTS_CUH
#define PICO_BACKEND_CUDA_PRODUCTS_CUH

#include "rows.cuh"
#include "weights.cuh"

__device__ __forceinline__ int cuda_part_of_block(const cuda_vector_job &job, uint32_t block) {
    int i = 0;
    while (!job.gate && i + 1 < static_cast<int>(job.n_part) &&
           block >= job.part[i + 1].first_block) {
        i++;
    }
    return i;
}

__device__ __forceinline__ void cuda_write_output(const cuda_vector_job &job,
                                                  const cuda_vector_part &part, int64_t row,
                                                  int64_t output, float value) {
    float *y = part.y + row * part.y_stride + output;
    value = part.bias == NULL ? value : value + part.bias[output];
    value = job.act == 0 ? value : cuda_act(job.act, value);
    *y = job.accumulate ? *y + value : value;
}

#endif
