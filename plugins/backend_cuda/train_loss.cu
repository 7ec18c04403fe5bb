/* Losses of rows of logits and their gradient; a block for each row. See pico_loss_args. */
#include "kernel.cuh"
#include "train.h"

#define BLOCK 256

__device__ __forceinline__ bool hidden(const cuda_loss_job &job, int64_t i) {
    return job.mask != NULL && job.mask[i] == 0;
}

/* The k-th largest of the columns that count, by the bits of keys that are ordered as the values are:
 * the largest key that at least k of them reach. */
__device__ __forceinline__ float least_of_best(const cuda_loss_job &job, const float *x,
                                               float *part) {
    uint32_t key = 0;
    for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
        float reach = 0; /* a count; exact, for there are fewer columns than 2^24 */
        for (int64_t i = threadIdx.x; i < job.logits.cols; i += BLOCK) {
            const uint32_t bits = __float_as_uint(x[i]);
            const uint32_t ordered = bits >> 31 ? ~bits : bits | 1u << 31;
            reach += !hidden(job, i) && ordered >= (key | bit) ? 1.0f : 0.0f;
        }
        key |= cuda_block_sum(reach, part) >= static_cast<float>(job.top_k) ? bit : 0;
    }
    return __uint_as_float(key >> 31 ? key & ~(1u << 31) : ~key);
}

/* ln of the sum of exp(factor * x) over the columns that count and are not below least */
__device__ __forceinline__ float log_sum(const cuda_loss_job &job, const float *x, float factor,
                                         float least, float *part) {
    float most = -CUDART_INF_F, sum = 0;
    for (int64_t i = threadIdx.x; i < job.logits.cols; i += BLOCK) {
        most = hidden(job, i) || x[i] < least ? most : fmaxf(most, x[i]);
    }
    most = cuda_block_max(most, part);
    for (int64_t i = threadIdx.x; i < job.logits.cols; i += BLOCK) {
        sum += hidden(job, i) || x[i] < least ? 0.0f : expf(factor * (x[i] - most));
    }
    return fmaf(factor, most, logf(cuda_block_sum(sum, part)));
}

__global__ void loss_rows(cuda_loss_job job) {
    __shared__ float part[BLOCK / CUDA_WARP];
    const int64_t r = blockIdx.x;
    const float *z = cuda_f32(job.logits, r, 0);
    const int32_t target = job.target == NULL ? -1 : job.target[r];
    const int64_t from = job.teacher_row == NULL ? r : job.teacher_row[r];
    const bool soft = job.teacher.data != NULL && from >= 0;
    const float *teacher = soft ? cuda_f32(job.teacher, from, 0) : z;
    float *d = job.d.data == NULL ? NULL : cuda_f32(job.d, r, 0);
    const float inv = job.inv_temperature;
    const float none = -CUDART_INF_F;
    const bool cut = soft && job.top_k > 0 && job.top_k < job.logits.cols;
    const float least = cut ? least_of_best(job, teacher, part) : none;
    const float all = target < 0 ? 0.0f : log_sum(job, z, 1.0f, none, part);
    const float all_q = soft ? log_sum(job, z, inv, none, part) : 0.0f;
    const float all_p = soft ? log_sum(job, teacher, inv, least, part) : 0.0f;
    const float ce = target < 0 ? 0.0f : all - z[target];
    __syncthreads(); /* d may be the logits */
    float kl = 0;
    for (int64_t i = threadIdx.x; i < job.logits.cols; i += BLOCK) {
        const bool counts = !hidden(job, i);
        const float x = z[i];
        float g = 0;
        if (soft && counts) {
            const float ln_q = fmaf(x, inv, -all_q), ln_p = fmaf(teacher[i], inv, -all_p);
            const float p = teacher[i] < least ? 0.0f : expf(ln_p);
            kl += p > 0 ? p * (ln_p - ln_q) : 0.0f;
            g = job.soft * inv * (expf(ln_q) - p);
        }
        if (target >= 0 && counts) {
            g = fmaf(job.hard, expf(x - all) - (i == target ? 1.0f : 0.0f), g);
        }
        if (d != NULL) {
            d[i] = job.accumulate ? d[i] + g : g;
        }
    }
    kl = cuda_block_sum(kl, part);
    if (threadIdx.x == 0 && job.ce != NULL) {
        job.ce[r] = ce;
    }
    if (threadIdx.x == 0 && job.kl != NULL) {
        job.kl[r] = kl;
    }
}

cudaError_t cuda_run_loss(cudaStream_t stream, const cuda_loss_job *args) {
    const cuda_loss_job job = *args;
    CUDA_LAUNCH(stream, static_cast<unsigned>(job.logits.rows), BLOCK, 0, loss_rows, job);
    return cuda_launched();
}
