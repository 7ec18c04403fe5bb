/*
 * Weights: checking a description, uploading it in the layout of the kernels, and giving it back.
 * Everything of a weight lies in one device allocation. Refuses a description whose sizes do not fit
 * together.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda.h"
#include "shapes.h"

#define PACK_BYTES ((int64_t)4 << 20) /* rows that are packed at once */

enum {
    PART_CODES,
    PART_SCALES,
    PART_BOOK,
    PART_INPUT_SCALE,
    PART_PERM,
    PART_INVERSE,
    PART_OUTLIER_OF,
    PART_OUTLIER_COL,
    PART_OUTLIER,
    N_PART
};

static int has_blocks(uint32_t dtype) {
    return dtype == PICO_DTYPE_Q8_0 || dtype == PICO_DTYPE_Q4_0;
}

static int has_scales(uint32_t dtype) {
    return dtype == PICO_DTYPE_I8 || dtype == PICO_DTYPE_NF4;
}

static pico_status check_codes(const pico_weight_desc *desc, pico_error *err) {
    if (desc->rows <= 0 || desc->cols <= 0 || desc->rows > INT32_MAX || desc->cols > INT32_MAX) {
        return pico_fail(err, PICO_E_INVALID, CUDA_SAYS "a weight of %lld x %lld",
                         (long long)desc->rows, (long long)desc->cols);
    }
    if (has_blocks(desc->dtype) && desc->cols % 32 != 0) {
        return pico_fail(err, PICO_E_INVALID,
                         CUDA_SAYS "%s needs rows of a multiple of 32, not %lld; int8 with a group "
                                   "takes any length",
                         desc->dtype == PICO_DTYPE_Q8_0 ? "Q8_0" : "Q4_0", (long long)desc->cols);
    }
    const uint64_t row = cuda_file_row_bytes(desc->dtype, desc->cols);
    if (row == 0) {
        return pico_fail(err, PICO_E_UNSUPPORTED, CUDA_SAYS "no weights of data type %u",
                         desc->dtype);
    }
    const uint64_t bytes = (uint64_t)desc->rows * row; /* both fit 33 bits */
    if (desc->codes == NULL || desc->codes_bytes != bytes) {
        return pico_fail(err, PICO_E_INVALID,
                         CUDA_SAYS "a %lld x %lld weight of data type %u has %llu bytes of codes, "
                                   "expected %llu",
                         (long long)desc->rows, (long long)desc->cols, desc->dtype,
                         (unsigned long long)(desc->codes == NULL ? 0 : desc->codes_bytes),
                         (unsigned long long)bytes);
    }
    return PICO_OK;
}

static pico_status check_scales(const pico_weight_desc *desc, pico_error *err) {
    if (!has_scales(desc->dtype)) {
        return PICO_OK;
    }
    if (desc->group < 0 || desc->group > desc->cols) {
        return pico_fail(err, PICO_E_INVALID, CUDA_SAYS "groups of %lld in rows of %lld",
                         (long long)desc->group, (long long)desc->cols);
    }
    const uint64_t expected =
        desc->group == 0 ? 1 : (uint64_t)cuda_ceil(desc->cols, desc->group) * (uint64_t)desc->rows;
    if (desc->scales == NULL || desc->n_scales != expected ||
        (desc->scale_dtype != PICO_DTYPE_F32 && desc->scale_dtype != PICO_DTYPE_F16)) {
        return pico_fail(err, PICO_E_INVALID,
                         CUDA_SAYS "%llu scales of data type %u, expected %llu of F32 or F16",
                         (unsigned long long)(desc->scales == NULL ? 0 : desc->n_scales),
                         desc->scale_dtype, (unsigned long long)expected);
    }
    if (desc->dtype == PICO_DTYPE_NF4 && desc->codebook == NULL) {
        return pico_fail(err, PICO_E_INVALID, CUDA_SAYS "an NF4 weight without a codebook");
    }
    return PICO_OK;
}

static pico_status check_outliers(const pico_weight_desc *desc, pico_error *err) {
    if (desc->n_outlier == 0) {
        return PICO_OK;
    }
    if (desc->n_outlier < 0 || desc->n_outlier > desc->cols || desc->outlier_col == NULL ||
        desc->outlier_value == NULL) {
        return pico_fail(err, PICO_E_INVALID, CUDA_SAYS "%lld outlier columns of %lld",
                         (long long)desc->n_outlier, (long long)desc->cols);
    }
    for (int64_t i = 0; i < desc->n_outlier; i++) {
        if (desc->outlier_col[i] < 0 || desc->outlier_col[i] >= desc->cols) {
            return pico_fail(err, PICO_E_INVALID, CUDA_SAYS "outlier column %d of %lld",
                             desc->outlier_col[i], (long long)desc->cols);
        }
    }
    return PICO_OK;
}

/* ---- what a weight looks like on the device ---- */

static int64_t scales_of_row(const pico_weight_desc *desc) {
    if (has_blocks(desc->dtype)) {
        return desc->cols / 32;
    }
    return has_scales(desc->dtype) && desc->group != 0 ? cuda_ceil(desc->cols, desc->group) : 0;
}

static void describe(const pico_weight_desc *desc, pico_weight *out) {
    static const uint32_t kinds[] = {
        [PICO_DTYPE_F32] = CUDA_WEIGHT_F32,   [PICO_DTYPE_F16] = CUDA_WEIGHT_F16,
        [PICO_DTYPE_BF16] = CUDA_WEIGHT_BF16, [PICO_DTYPE_I8] = CUDA_WEIGHT_I8,
        [PICO_DTYPE_Q8_0] = CUDA_WEIGHT_I8,   [PICO_DTYPE_Q4_0] = CUDA_WEIGHT_4BIT,
        [PICO_DTYPE_NF4] = CUDA_WEIGHT_4BIT};
    const int blocks = has_blocks(desc->dtype);
    const int64_t group = blocks ? 32 : desc->group == 0 ? desc->cols : desc->group;
    *out = (pico_weight){.dtype = desc->dtype,
                         .scale_dtype = desc->scale_dtype,
                         .input_quant = desc->input_quant,
                         .codes_bytes = desc->codes_bytes,
                         .n_scales = has_scales(desc->dtype) ? desc->n_scales : 0,
                         .extras = desc->input_scale != NULL || desc->input_perm != NULL ||
                                   desc->n_outlier != 0};
    out->device = (cuda_weight){.kind = kinds[desc->dtype],
                                .scale_half = blocks || desc->scale_dtype == PICO_DTYPE_F16,
                                .rows = desc->rows,
                                .cols = desc->cols,
                                .row_bytes = cuda_device_row_bytes(desc->dtype, desc->cols),
                                .group = group,
                                .scale_row = scales_of_row(desc),
                                .group_shift = -1,
                                .linear = desc->dtype == PICO_DTYPE_Q4_0,
                                .n_outlier = desc->n_outlier};
    for (int32_t shift = 0; shift < 31; shift++) {
        if ((int64_t)1 << shift == group) {
            out->device.group_shift = shift;
        }
    }
}

/* Bytes of each part on the device. */
static void sizes_of(const pico_weight_desc *desc, const pico_weight *weight,
                     uint64_t size[N_PART]) {
    const cuda_weight *w = &weight->device;
    const uint64_t cols = (uint64_t)w->cols, outliers = (uint64_t)w->n_outlier;
    const uint64_t scales =
        has_blocks(desc->dtype) ? (uint64_t)(w->rows * w->scale_row) : weight->n_scales;
    memset(size, 0, N_PART * sizeof *size);
    size[PART_CODES] = (uint64_t)(w->rows * w->row_bytes);
    size[PART_SCALES] = scales * (w->scale_half ? 2 : 4);
    size[PART_BOOK] = desc->dtype == PICO_DTYPE_NF4 ? 16 * sizeof(float) : 0;
    size[PART_INPUT_SCALE] = desc->input_scale != NULL ? cols * 4 : 0;
    size[PART_PERM] = size[PART_INVERSE] = desc->input_perm != NULL ? cols * 4 : 0;
    size[PART_OUTLIER_OF] = outliers != 0 ? cols * 4 : 0;
    size[PART_OUTLIER_COL] = outliers * 4;
    size[PART_OUTLIER] = outliers * (uint64_t)w->rows * 2;
}

static pico_status allocate(const pico_weight_desc *desc, pico_weight *weight, pico_error *err) {
    uint64_t size[N_PART], total = 0;
    char *part[N_PART];
    sizes_of(desc, weight, size);
    for (int i = 0; i < N_PART; i++) {
        total += (uint64_t)cuda_pad((int64_t)size[i], CUDA_ALIGN);
    }
    const pico_status status = cuda_device_alloc(total, "a weight", &weight->memory, err);
    if (status != PICO_OK) {
        return status;
    }
    char *at = weight->memory;
    for (int i = 0; i < N_PART; i++) {
        part[i] = size[i] == 0 ? NULL : at;
        at += cuda_pad((int64_t)size[i], CUDA_ALIGN);
    }
    cuda_weight *w = &weight->device;
    w->codes = part[PART_CODES];
    w->scales = part[PART_SCALES];
    w->book = (const float *)(void *)part[PART_BOOK];
    w->input_scale = (const float *)(void *)part[PART_INPUT_SCALE];
    w->perm = (const int32_t *)(void *)part[PART_PERM];
    w->inverse = (const int32_t *)(void *)part[PART_INVERSE];
    w->outlier_of = (const int32_t *)(void *)part[PART_OUTLIER_OF];
    w->outlier_col = (const int32_t *)(void *)part[PART_OUTLIER_COL];
    w->outlier = (const uint16_t *)(void *)part[PART_OUTLIER];
    return PICO_OK;
}

/* ---- uploading ---- */

/* A place in a weight's memory; what the kernels read as constant is written here. */
static char *place(const void *part) {
    return (char *)(uintptr_t)part;
}

static pico_status upload_codes(cuda_backend *cuda, const pico_weight_desc *desc,
                                pico_weight *weight, pico_error *err) {
    const cuda_weight *w = &weight->device;
    const uint64_t row = cuda_file_row_bytes(desc->dtype, desc->cols);
    const uint8_t *from = desc->codes;
    if ((int64_t)row == w->row_bytes && desc->dtype != PICO_DTYPE_NF4 && !has_blocks(desc->dtype)) {
        return cuda_upload(cuda, place(w->codes), from, desc->codes_bytes);
    }
    const int64_t scales = has_blocks(desc->dtype) ? w->scale_row : 0;
    int64_t most = PACK_BYTES / (w->row_bytes + scales * 2);
    most = most < 1 ? 1 : most > w->rows ? w->rows : most;
    uint8_t *codes = malloc((size_t)(most * (w->row_bytes + scales * 2)));
    if (codes == NULL) {
        return pico_fail(err, PICO_E_NOMEM, CUDA_SAYS "no host memory to pack a weight");
    }
    uint16_t *kept = (uint16_t *)(void *)(codes + most * w->row_bytes);
    pico_status status = PICO_OK;
    for (int64_t r = 0; status == PICO_OK && r < w->rows; r += most) {
        const int64_t n = cuda_least(most, w->rows - r);
        for (int64_t i = 0; i < n; i++) {
            cuda_pack_row(desc->dtype, desc->cols, from + (uint64_t)(r + i) * row,
                          codes + i * w->row_bytes, kept + i * scales);
        }
        status = cuda_upload(cuda, place(w->codes) + r * w->row_bytes, codes,
                             (uint64_t)(n * w->row_bytes));
        if (status == PICO_OK && scales != 0) {
            status = cuda_upload(cuda, place(w->scales) + r * scales * 2, kept,
                                 (uint64_t)(n * scales * 2));
        }
    }
    free(codes);
    return status;
}

static pico_status upload_if(cuda_backend *cuda, pico_status status, const void *to,
                             const void *from, uint64_t bytes) {
    return status == PICO_OK && to != NULL ? cuda_upload(cuda, place(to), from, bytes) : status;
}

/* The two maps from inputs: to the column of codes that belongs to it, and to its outlier. */
static pico_status upload_maps(cuda_backend *cuda, const pico_weight_desc *desc,
                               pico_weight *weight, pico_error *err) {
    const cuda_weight *w = &weight->device;
    const uint64_t bytes = (uint64_t)w->cols * 4;
    int32_t *map = malloc((size_t)bytes);
    pico_status status = PICO_OK;
    if (map == NULL) {
        return pico_fail(err, PICO_E_NOMEM, CUDA_SAYS "no host memory to map a weight's columns");
    }
    if (w->inverse != NULL) {
        memset(map, 0xff, (size_t)bytes);
        for (int64_t j = 0; status == PICO_OK && j < w->cols; j++) {
            const int32_t input = desc->input_perm[j];
            if (input < 0 || input >= w->cols || map[input] >= 0) {
                status = pico_fail(err, PICO_E_INVALID,
                                   CUDA_SAYS "input_perm[%lld] = %d makes it no permutation",
                                   (long long)j, input);
            } else {
                map[input] = (int32_t)j;
            }
        }
        status = upload_if(cuda, status, w->perm, desc->input_perm, bytes);
        status = upload_if(cuda, status, w->inverse, map, bytes);
    }
    if (w->outlier_of != NULL) {
        memset(map, 0xff, (size_t)bytes);
        for (int64_t i = 0; i < w->n_outlier; i++) {
            map[desc->outlier_col[i]] = (int32_t)i;
        }
        status = upload_if(cuda, status, w->outlier_of, map, bytes);
        status =
            upload_if(cuda, status, w->outlier_col, desc->outlier_col, (uint64_t)w->n_outlier * 4);
        status = upload_if(cuda, status, w->outlier, desc->outlier_value,
                           (uint64_t)(w->n_outlier * w->rows) * 2);
    }
    free(map);
    return status;
}

static pico_status upload(cuda_backend *cuda, const pico_weight_desc *desc, pico_weight *weight,
                          pico_error *err) {
    const cuda_weight *w = &weight->device;
    pico_status status = upload_codes(cuda, desc, weight, err);
    if (has_scales(desc->dtype)) {
        status = upload_if(cuda, status, w->scales, desc->scales,
                           desc->n_scales * (w->scale_half ? 2 : 4));
    }
    status = upload_if(cuda, status, w->book, desc->codebook, 16 * sizeof(float));
    status = upload_if(cuda, status, w->input_scale, desc->input_scale, (uint64_t)w->cols * 4);
    if (status == PICO_OK) {
        status = upload_maps(cuda, desc, weight, err);
    }
    return status == PICO_OK ? cuda_wait(cuda, err) : status;
}

pico_status cuda_weight_create(void *self, const pico_weight_desc *desc, uint32_t uses,
                               uint32_t stays, pico_weight **out, pico_error *err) {
    (void)stays; /* the device copies what it gets */
    (void)cuda_enter(self);
    *out = NULL;
    if (uses & PICO_USE_TRANSPOSED) {
        return pico_fail(err, PICO_E_UNSUPPORTED, CUDA_SAYS "no transposed products");
    }
    pico_status status = check_codes(desc, err);
    if (status == PICO_OK) {
        status = check_scales(desc, err);
    }
    if (status == PICO_OK) {
        status = check_outliers(desc, err);
    }
    if (status != PICO_OK) {
        return status;
    }
    pico_weight *weight = calloc(1, sizeof *weight);
    if (weight == NULL) {
        return pico_fail(err, PICO_E_NOMEM, CUDA_SAYS "no host memory for a weight");
    }
    describe(desc, weight);
    status = allocate(desc, weight, err);
    if (status == PICO_OK) {
        status = upload(self, desc, weight, err);
    }
    if (status != PICO_OK) {
        cuda_weight_free(self, weight);
        return status;
    }
    *out = weight;
    return PICO_OK;
}

void cuda_weight_free(void *self, pico_weight *weight) {
    cuda_backend *cuda = cuda_enter(self);
    if (weight != NULL) {
        (void)cuda_done(cuda, cudaStreamSynchronize(cuda->stream), "weight_free");
        (void)cudaFree(weight->memory);
        free(weight);
    }
}

static pico_status read_codes(cuda_backend *cuda, const pico_weight *weight, uint8_t *to,
                              pico_error *err) {
    const cuda_weight *w = &weight->device;
    const uint64_t row = cuda_file_row_bytes(weight->dtype, w->cols);
    const int64_t scales = has_blocks(weight->dtype) ? w->scale_row : 0;
    const uint64_t codes_bytes = (uint64_t)(w->rows * w->row_bytes);
    uint8_t *codes = malloc((size_t)codes_bytes);
    uint16_t *kept = malloc((size_t)(w->rows * scales) * sizeof *kept + 1);
    pico_status status = PICO_E_NOMEM;
    if (codes == NULL || kept == NULL) {
        (void)pico_fail(err, status, CUDA_SAYS "no host memory to read a weight");
        goto cleanup;
    }
    status = cuda_download(cuda, codes, w->codes, codes_bytes, err);
    if (status == PICO_OK && scales != 0) {
        status = cuda_download(cuda, kept, w->scales, (uint64_t)(w->rows * scales) * 2, err);
    }
    for (int64_t r = 0; status == PICO_OK && r < w->rows; r++) {
        cuda_unpack_row(weight->dtype, w->cols, codes + r * w->row_bytes, kept + r * scales,
                        to + (uint64_t)r * row);
    }
cleanup:
    free(codes);
    free(kept);
    return status;
}

pico_status cuda_weight_read(void *self, const pico_weight *weight, void *codes, void *scales,
                             pico_error *err) {
    if (scales != NULL && !has_scales(weight->dtype)) {
        return pico_fail(err, PICO_E_INVALID, CUDA_SAYS "the weight has no separate scales");
    }
    pico_status status = codes == NULL ? PICO_OK : read_codes(self, weight, codes, err);
    if (status == PICO_OK && scales != NULL) {
        status = cuda_download(self, scales, weight->device.scales,
                               weight->n_scales * (weight->device.scale_half ? 2 : 4), err);
    }
    return status;
}
