/* Widening and rounding, a tensor at a time; see retype.h. */
#include "transform/retype.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "util/half.h"

/* The largest finite value of a type. */
static float largest_of(uint32_t dtype) {
    return dtype == PICO_DTYPE_F16 ? 65504.0f : dtype == PICO_DTYPE_BF16 ? 0x1.fep127f : INFINITY;
}

uint64_t pico_narrow(const float *values, size_t n, uint32_t dtype, void *out) {
    const float largest = largest_of(dtype);
    uint16_t *half = out;
    uint64_t n_beyond = 0;
    if (dtype == PICO_DTYPE_F32) {
        memcpy(out, values, n * sizeof *values);
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        const float x = values[i];
        n_beyond += isfinite(x) && fabsf(x) > largest;
        half[i] = dtype == PICO_DTYPE_F16 ? pico_f16_of_f32(x) : pico_bf16_of_f32(x);
    }
    return n_beyond;
}

static int is_done(const pico_weight_desc *data, uint32_t dtype) {
    return data->dtype == dtype && data->input_scale == NULL && data->input_perm == NULL &&
           data->n_outlier == 0;
}

static int is_stopped(const pico_write_hooks *hooks) {
    return hooks->should_stop != NULL && hooks->should_stop(hooks->arg);
}

static pico_status fail_beyond(const pico_file_tensor *tensor, uint32_t dtype, uint64_t n_beyond,
                               pico_error *err) {
    const pico_weight_desc *data = &tensor->data;
    return pico_fail(err, PICO_E_LIMIT,
                     "tensor %s: %llu of %llu values lie beyond %g, the largest that %s holds; %s",
                     tensor->name, (unsigned long long)n_beyond,
                     (unsigned long long)data->rows * (unsigned long long)data->cols,
                     (double)largest_of(dtype), pico_dtype_name(dtype),
                     dtype == PICO_DTYPE_F16 ? "take bf16, which reaches as far as f32"
                                             : "take f32");
}

static pico_status retype_tensor(pico_file_tensor *tensor, uint32_t dtype, pico_arena *arena,
                                 const pico_write_hooks *hooks, pico_error *err) {
    const pico_weight_desc *from = &tensor->data;
    pico_weight_desc to = {.dtype = dtype, .rows = from->rows, .cols = from->cols};
    pico_status status = PICO_OK;
    uint64_t n_beyond = 0;
    to.codes_bytes = pico_weight_codes_bytes(dtype, to.rows, to.cols);
    const uint64_t row_bytes = to.codes_bytes / (uint64_t)to.rows;
    float *row = malloc((size_t)to.cols * sizeof *row);
    unsigned char *codes = pico_arena_alloc(arena, to.codes_bytes, 1);
    if (to.codes_bytes == 0 || row == NULL || codes == NULL) {
        status = pico_fail(err, PICO_E_NOMEM, "tensor %s: out of memory", tensor->name);
        goto cleanup;
    }
    for (int64_t r = 0; r < to.rows; r++) {
        if (is_stopped(hooks)) {
            status = pico_fail(err, PICO_E_CANCELLED, "interrupted");
            goto cleanup;
        }
        pico_weight_row_f32(from, r, row);
        n_beyond += pico_narrow(row, (size_t)to.cols, dtype, codes + (uint64_t)r * row_bytes);
    }
    if (n_beyond != 0) {
        status = fail_beyond(tensor, dtype, n_beyond, err);
        goto cleanup;
    }
    to.codes = codes;
    tensor->data = to;
    tensor->bytes = to.codes_bytes;
cleanup:
    free(row);
    return status;
}

pico_status pico_retype(pico_model_file *file, uint32_t dtype, const pico_write_hooks *hooks,
                        pico_error *err) {
    static const pico_write_hooks none = {0};
    pico_status status = PICO_OK;
    assert(dtype == PICO_DTYPE_F32 || dtype == PICO_DTYPE_F16 || dtype == PICO_DTYPE_BF16);
    hooks = hooks == NULL ? &none : hooks;
    for (uint32_t i = 0; status == PICO_OK && i < file->n_tensor; i++) {
        pico_file_tensor *tensor = &file->tensor[i];
        const uint32_t wanted = tensor->rank == 1 ? (uint32_t)PICO_DTYPE_F32 : dtype;
        if (!is_done(&tensor->data, wanted)) {
            status = retype_tensor(tensor, wanted, &file->arena, hooks, err);
        }
        if (status == PICO_OK && hooks->progress != NULL) {
            hooks->progress(hooks->arg, i + 1, file->n_tensor);
        }
    }
    return status;
}
