/* Listing, reading and replacing; see tensors.h. */
#include "transform/tensors.h"

#include <stdlib.h>
#include <string.h>

#include "util/checked.h"

pico_tensor_info pico_file_tensor_info(const pico_file_tensor *tensor) {
    pico_tensor_info info = {.name = tensor->name,
                             .dtype = tensor->data.dtype,
                             .rank = tensor->rank,
                             .bytes = tensor->bytes};
    memcpy(info.shape, tensor->shape, sizeof info.shape);
    return info;
}

static uint32_t count(const pico_tensors *tensors) {
    return tensors->file->n_tensor;
}

static pico_status info(const pico_tensors *tensors, uint32_t index, pico_tensor_info *out) {
    if (index >= tensors->file->n_tensor) {
        return PICO_E_NOT_FOUND;
    }
    *out = pico_file_tensor_info(&tensors->file->tensor[index]);
    return PICO_OK;
}

static pico_status read_f32(const pico_tensors *tensors, uint32_t index, float *out,
                            pico_error *err) {
    if (index >= tensors->file->n_tensor) {
        return pico_fail(err, PICO_E_NOT_FOUND, "there is no tensor %u", index);
    }
    const pico_weight_desc *data = &tensors->file->tensor[index].data;
    for (int64_t row = 0; row < data->rows; row++) {
        pico_weight_row_f32(data, row, out + row * data->cols);
    }
    return PICO_OK;
}

static pico_status read(const pico_tensors *tensors, uint32_t index, pico_weight_desc *out) {
    if (index >= tensors->file->n_tensor) {
        return PICO_E_NOT_FOUND;
    }
    *out = tensors->file->tensor[index].data;
    return PICO_OK;
}

/* A copy of n * size bytes in the arena; NULL for NULL. *ok becomes 0 when memory is exhausted. */
static const void *keep(pico_arena *arena, const void *data, uint64_t n, size_t size, int *ok) {
    if (data == NULL || n == 0) {
        return NULL;
    }
    void *copy = pico_arena_alloc(arena, n, size);
    if (copy == NULL) {
        *ok = 0;
        return NULL;
    }
    memcpy(copy, data, n * size);
    return copy;
}

static pico_status check(const pico_file_tensor *tensor, const pico_weight_desc *desc,
                         pico_error *err) {
    uint64_t codes = pico_weight_codes_bytes(desc->dtype, desc->rows, desc->cols);
    if (codes == 0 || codes != desc->codes_bytes ||
        desc->n_scales != pico_weight_n_scales(desc->dtype, desc->rows, desc->cols, desc->group)) {
        return pico_fail(err, PICO_E_INVALID,
                         "tensor %s: %s of (%lld, %lld) in groups of %lld needs %llu bytes of "
                         "codes, not %llu, or another number of scales than %llu",
                         tensor->name, pico_dtype_name(desc->dtype), (long long)desc->rows,
                         (long long)desc->cols, (long long)desc->group, (unsigned long long)codes,
                         (unsigned long long)desc->codes_bytes, (unsigned long long)desc->n_scales);
    }
    return PICO_OK;
}

/* Arrays that the layout needs are there, and indices point into the matrix. */
static pico_status check_arrays(const pico_file_tensor *tensor, const pico_weight_desc *desc,
                                pico_error *err) {
    const char *fault = NULL;
    int scaled = desc->n_scales != 0, outliers = desc->n_outlier != 0;
    if (desc->codes == NULL) {
        fault = "codes are missing";
    } else if (scaled && (desc->scales == NULL || (desc->scale_dtype != PICO_DTYPE_F32 &&
                                                   desc->scale_dtype != PICO_DTYPE_F16))) {
        fault = "scales are missing, or neither F32 nor F16";
    } else if (desc->dtype == PICO_DTYPE_NF4 && desc->codebook == NULL) {
        fault = "the codebook is missing";
    } else if (desc->dtype == PICO_DTYPE_I32 || tensor->rank > 2 ||
               (tensor->rank == 1 && desc->rows != 1)) {
        fault = "a weight has one or two dimensions and is not I32; a vector is one row";
    } else if (outliers && (desc->n_outlier < 0 || desc->n_outlier > desc->cols ||
                            desc->outlier_col == NULL || desc->outlier_value == NULL)) {
        fault = "outlier columns or values are missing, or there are more than columns";
    } else if (!pico_weight_takes_input(desc->dtype, desc->group, desc->input_quant)) {
        fault = "input_quant does not go with the layout";
    } else if (scaled && desc->group > desc->cols) {
        fault = "a group is longer than a row";
    }
    unsigned char *scratch = malloc(desc->cols > 0 ? (size_t)desc->cols : 1);
    if (scratch == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "tensor %s: out of memory", tensor->name);
    }
    if (fault == NULL && outliers &&
        !pico_weight_columns_fit(desc->outlier_col, desc->n_outlier, desc->cols, scratch)) {
        fault = "an outlier column lies outside the matrix, or occurs twice";
    }
    if (fault == NULL && desc->input_perm != NULL &&
        !pico_weight_columns_fit(desc->input_perm, desc->cols, desc->cols, scratch)) {
        fault = "the input permutation is none";
    }
    free(scratch);
    return fault == NULL ? PICO_OK
                         : pico_fail(err, PICO_E_INVALID,
                                     "tensor %s cannot be replaced by %s of (%lld, %lld): %s",
                                     tensor->name, pico_dtype_name(desc->dtype),
                                     (long long)desc->rows, (long long)desc->cols, fault);
}

static pico_status replace(pico_tensors *tensors, uint32_t index, const pico_weight_desc *desc,
                           pico_error *err) {
    if (index >= tensors->file->n_tensor) {
        return pico_fail(err, PICO_E_NOT_FOUND, "there is no tensor %u", index);
    }
    pico_file_tensor *tensor = &tensors->file->tensor[index];
    pico_arena *arena = &tensors->file->arena;
    pico_status status = check(tensor, desc, err);
    if (status == PICO_OK) {
        status = check_arrays(tensor, desc, err);
    }
    if (status != PICO_OK) {
        return status;
    }
    int ok = 1;
    size_t scale_size = desc->scale_dtype == PICO_DTYPE_F16 ? 2 : 4;
    uint64_t n_outlier = (uint64_t)desc->n_outlier, n_value;
    if (!pico_checked_mul(n_outlier, (uint64_t)desc->rows, &n_value)) {
        return pico_fail(err, PICO_E_LIMIT, "tensor %s: too many outliers", tensor->name);
    }
    pico_weight_desc next = *desc;
    next.codes = keep(arena, desc->codes, desc->codes_bytes, 1, &ok);
    next.scales = keep(arena, desc->scales, desc->n_scales, scale_size, &ok);
    next.codebook = keep(arena, desc->codebook, 16, sizeof(float), &ok);
    next.input_scale = keep(arena, desc->input_scale, (uint64_t)desc->cols, sizeof(float), &ok);
    next.input_perm = keep(arena, desc->input_perm, (uint64_t)desc->cols, sizeof(int32_t), &ok);
    next.outlier_col = keep(arena, desc->outlier_col, n_outlier, sizeof(int32_t), &ok);
    next.outlier_value = keep(arena, desc->outlier_value, n_value, 2, &ok);
    if (!ok) {
        return pico_fail(err, PICO_E_NOMEM, "tensor %s: out of memory", tensor->name);
    }
    tensor->data = next;
    tensor->bytes = next.codes_bytes + next.n_scales * scale_size;
    if (tensor->rank == 1) {
        tensor->shape[0] = next.cols;
    } else {
        tensor->shape[0] = next.rows;
        tensor->shape[1] = next.cols;
    }
    return PICO_OK;
}

const pico_tensors_api pico_tensors_table = {.struct_size = sizeof(pico_tensors_api),
                                             .count = count,
                                             .info = info,
                                             .read_f32 = read_f32,
                                             .read = read,
                                             .replace = replace};
