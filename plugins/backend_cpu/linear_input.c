/*
 * What stands between x and the codes of a weight: input scales, the permutation of columns, and
 * columns that are kept apart from the codes.
 */
#include <string.h>

#include "linear.h"

const float *linear_prepare(const pico_weight *weight, const float *x, float *room) {
    const pico_weight_desc *desc = &weight->desc;
    const int64_t n = desc->cols;
    float *ready = room, *permuted = room + cpu_pad16(n);
    if (desc->input_scale == NULL && desc->n_outlier == 0 && weight->input_perm == NULL) {
        return x;
    }
    memcpy(ready, x, (size_t)n * sizeof *ready);
    for (int64_t i = 0; desc->input_scale != NULL && i < n; i++) {
        ready[i] /= desc->input_scale[i];
    }
    for (int64_t i = 0; i < desc->n_outlier; i++) {
        ready[desc->outlier_col[i]] = 0;
    }
    if (weight->input_perm == NULL) {
        return ready;
    }
    for (int64_t i = 0; i < n; i++) {
        permuted[i] = ready[weight->input_perm[i]];
    }
    return permuted;
}

void linear_outliers(const linear_job *job, const linear_part *part, int64_t first, int64_t n,
                     linear_target to) {
    const pico_weight *weight = part->weight;
    const pico_weight_desc *desc = &weight->desc;
    for (int64_t m = 0; desc->n_outlier != 0 && m < job->n_row; m++) {
        const float *x = cpu_row_f32(&job->x, job->row + m);
        for (int64_t i = 0; i < desc->n_outlier; i++) {
            const int32_t col = desc->outlier_col[i];
            const float value =
                desc->input_scale == NULL ? x[col] : x[col] / desc->input_scale[col];
            job->cpu->kernels->row->axpby(value, weight->outlier + i * desc->rows + first, 1,
                                          to.y + m * to.stride, n);
        }
    }
}
