/*
 * One row of a weight of any layout as F32: codes times scales, outlier columns put back, the input
 * permutation and the input scale folded in. This is the matrix that every other path must agree
 * with; nothing here checks, weight_create has.
 */
#include <string.h>

#include "cpu.h"

static float scale_at(const cpu_row_kernels *kernels, const pico_weight_desc *desc, uint64_t i) {
    if (desc->scale_dtype == PICO_DTYPE_F32) {
        float scale;
        memcpy(&scale, (const char *)desc->scales + i * 4, 4);
        return scale;
    }
    float scale;
    kernels->widen(PICO_DTYPE_F16, (const char *)desc->scales + i * 2, &scale, 1);
    return scale;
}

static void expand_i8(const cpu_row_kernels *kernels, const pico_weight *weight, int64_t row,
                      float *out) {
    const pico_weight_desc *desc = &weight->desc;
    const int8_t *codes = (const int8_t *)desc->codes + row * desc->cols;
    const int64_t group = desc->group == 0 ? desc->cols : desc->group;
    uint64_t at = (uint64_t)row * weight->scale_row;
    for (int64_t i = 0; i < desc->cols; i += group, at++) {
        const int64_t n = desc->cols - i < group ? desc->cols - i : group;
        kernels->scale_i8(codes + i, scale_at(kernels, desc, at), out + i, n);
    }
}

static void expand_nf4(const cpu_row_kernels *kernels, const pico_weight *weight, int64_t row,
                       float *out) {
    const pico_weight_desc *desc = &weight->desc;
    const uint8_t *codes = (const uint8_t *)desc->codes + (uint64_t)row * weight->row_bytes;
    const int64_t group = desc->group == 0 ? desc->cols : desc->group;
    uint64_t at = (uint64_t)row * weight->scale_row;
    for (int64_t i = 0; i < desc->cols; i += group, at++) {
        const int64_t end = desc->cols - i < group ? desc->cols : i + group;
        const float scale = scale_at(kernels, desc, at);
        for (int64_t j = i; j < end; j++) {
            const int code = j % 2 == 0 ? codes[j / 2] >> 4 : codes[j / 2] & 15;
            out[j] = desc->codebook[code] * scale;
        }
    }
}

static void expand_codes(const cpu_row_kernels *kernels, const pico_weight *weight, int64_t row,
                         float *out) {
    const pico_weight_desc *desc = &weight->desc;
    const uint8_t *codes = (const uint8_t *)desc->codes + (uint64_t)row * weight->row_bytes;
    switch (desc->dtype) {
    case PICO_DTYPE_F32:
        memcpy(out, codes, (size_t)desc->cols * sizeof(float));
        break;
    case PICO_DTYPE_F16:
    case PICO_DTYPE_BF16:
        kernels->widen(desc->dtype, codes, out, desc->cols);
        break;
    case PICO_DTYPE_Q8_0:
        kernels->q8_0(codes, out, desc->cols);
        break;
    case PICO_DTYPE_Q4_0:
        kernels->q4_0(codes, out, desc->cols);
        break;
    case PICO_DTYPE_I8:
        expand_i8(kernels, weight, row, out);
        break;
    default:
        assert(desc->dtype == PICO_DTYPE_NF4);
        expand_nf4(kernels, weight, row, out);
        break;
    }
}

/* Moves element j to perm[j] in place: follows the cycles that weight_create found, each of which
 * begins at a marked entry (~index). */
static void permute_row(const int32_t *next, int64_t n, float *row) {
    for (int64_t start = 0; start < n; start++) {
        if (next[start] >= 0) {
            continue; /* not the first of its cycle */
        }
        float carried = row[start];
        int64_t at = ~next[start];
        while (at != start) {
            const float here = row[at];
            row[at] = carried;
            carried = here;
            at = next[at];
        }
        row[start] = carried;
    }
}

void cpu_expand_row(const cpu_row_kernels *kernels, const pico_weight *weight, int64_t row,
                    float *out) {
    const pico_weight_desc *desc = &weight->desc;
    expand_codes(kernels, weight, row, out);
    if (desc->input_perm != NULL) {
        permute_row(desc->input_perm, desc->cols, out);
    }
    for (int64_t i = 0; i < desc->n_outlier; i++) {
        const uint64_t at = (uint64_t)row * (uint64_t)desc->n_outlier + (uint64_t)i;
        kernels->widen(PICO_DTYPE_F16, (const char *)desc->outlier_value + at * 2,
                       &out[desc->outlier_col[i]], 1);
    }
    if (desc->input_scale != NULL) {
        for (int64_t i = 0; i < desc->cols; i++) {
            out[i] /= desc->input_scale[i];
        }
    }
}
