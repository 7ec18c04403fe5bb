/*
 * Weights: checking a description, keeping or copying its arrays, and giving them back. Float
 * matrices in memory that stays are used where they lie; small ones that are not aligned to a cache
 * line are copied, because they run from cache, where a load that crosses a line costs twice.
 * Refuses a description whose sizes do not fit together.
 */
#include <stdlib.h>
#include <string.h>

#include "cpu.h"

#define ALIGN_COPY_BYTES ((uint64_t)4 << 20)  /* a weight up to this size may be copied */
#define ALIGN_COPY_TOTAL ((uint64_t)32 << 20) /* and all of them together this much */

enum {
    OWN_CODES,
    OWN_SCALES,
    OWN_CODEBOOK,
    OWN_INPUT_SCALE,
    OWN_PERM,
    OWN_OUTLIER_COL,
    OWN_OUTLIER,
    OWN_OUTLIER_COLUMNS,
    OWN_PLAIN_PERM
};

static int mul(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

/* Bytes of one row of codes; 0 if the layout is unknown or does not allow such a row. */
static uint64_t row_bytes_of(uint32_t dtype, uint64_t cols) {
    switch (dtype) {
    case PICO_DTYPE_F32:
        return cols * 4;
    case PICO_DTYPE_F16:
    case PICO_DTYPE_BF16:
        return cols * 2;
    case PICO_DTYPE_I8:
        return cols;
    case PICO_DTYPE_NF4:
        return (cols + 1) / 2;
    case PICO_DTYPE_Q8_0:
        return cols % 32 == 0 ? cols / 32 * 34 : 0;
    case PICO_DTYPE_Q4_0:
        return cols % 32 == 0 ? cols / 32 * 18 : 0;
    default:
        return 0;
    }
}

static int has_scales(uint32_t dtype) {
    return dtype == PICO_DTYPE_I8 || dtype == PICO_DTYPE_NF4;
}

static pico_status check_codes(const pico_weight_desc *desc, uint64_t *row_bytes, pico_error *err) {
    if (desc->rows <= 0 || desc->cols <= 0 || desc->rows > INT32_MAX || desc->cols > INT32_MAX) {
        return pico_fail(err, PICO_E_INVALID, "backend cpu: a weight of %lld x %lld",
                         (long long)desc->rows, (long long)desc->cols);
    }
    const int blocks = desc->dtype == PICO_DTYPE_Q8_0 || desc->dtype == PICO_DTYPE_Q4_0;
    if (blocks && desc->cols % 32 != 0) {
        return pico_fail(err, PICO_E_INVALID,
                         "backend cpu: %s needs rows of a multiple of 32, not %lld; int8 with a "
                         "group takes any length",
                         desc->dtype == PICO_DTYPE_Q8_0 ? "Q8_0" : "Q4_0", (long long)desc->cols);
    }
    *row_bytes = row_bytes_of(desc->dtype, (uint64_t)desc->cols);
    if (*row_bytes == 0) {
        return pico_fail(err, PICO_E_UNSUPPORTED, "backend cpu: no weights of data type %u",
                         desc->dtype);
    }
    uint64_t bytes;
    if (!mul((uint64_t)desc->rows, *row_bytes, &bytes) || desc->codes == NULL ||
        desc->codes_bytes != bytes) {
        return pico_fail(
            err, PICO_E_INVALID,
            "backend cpu: a %lld x %lld weight of data type %u has %llu bytes of codes, "
            "expected %llu",
            (long long)desc->rows, (long long)desc->cols, desc->dtype,
            (unsigned long long)(desc->codes == NULL ? 0 : desc->codes_bytes),
            (unsigned long long)bytes);
    }
    return PICO_OK;
}

static pico_status check_scales(const pico_weight_desc *desc, uint64_t *scale_row,
                                pico_error *err) {
    *scale_row = 0;
    if (!has_scales(desc->dtype)) {
        return PICO_OK;
    }
    if (desc->group < 0 || desc->group > desc->cols) {
        return pico_fail(err, PICO_E_INVALID, "backend cpu: groups of %lld in rows of %lld",
                         (long long)desc->group, (long long)desc->cols);
    }
    uint64_t expected = 1;
    if (desc->group > 0) {
        *scale_row = (uint64_t)((desc->cols + desc->group - 1) / desc->group);
        expected = *scale_row * (uint64_t)desc->rows;
    }
    if (desc->scales == NULL || desc->n_scales != expected ||
        (desc->scale_dtype != PICO_DTYPE_F32 && desc->scale_dtype != PICO_DTYPE_F16)) {
        return pico_fail(err, PICO_E_INVALID,
                         "backend cpu: %llu scales of data type %u, expected %llu of F32 or F16",
                         (unsigned long long)(desc->scales == NULL ? 0 : desc->n_scales),
                         desc->scale_dtype, (unsigned long long)expected);
    }
    if (desc->dtype == PICO_DTYPE_NF4 && desc->codebook == NULL) {
        return pico_fail(err, PICO_E_INVALID, "backend cpu: an NF4 weight without a codebook");
    }
    return PICO_OK;
}

static pico_status check_outliers(const pico_weight_desc *desc, pico_error *err) {
    if (desc->n_outlier == 0) {
        return PICO_OK;
    }
    if (desc->n_outlier < 0 || desc->n_outlier > desc->cols || desc->outlier_col == NULL ||
        desc->outlier_value == NULL) {
        return pico_fail(err, PICO_E_INVALID, "backend cpu: %lld outlier columns of %lld",
                         (long long)desc->n_outlier, (long long)desc->cols);
    }
    for (int64_t i = 0; i < desc->n_outlier; i++) {
        if (desc->outlier_col[i] < 0 || desc->outlier_col[i] >= desc->cols) {
            return pico_fail(err, PICO_E_INVALID, "backend cpu: outlier column %d of %lld",
                             desc->outlier_col[i], (long long)desc->cols);
        }
    }
    return PICO_OK;
}

static pico_status own(pico_weight *weight, int which, const void *from, uint64_t bytes,
                       const void **kept, pico_error *err) {
    void *copy = NULL;
    if (bytes > (uint64_t)PTRDIFF_MAX - 64 || posix_memalign(&copy, 64, (size_t)bytes + 64) != 0) {
        return pico_fail(err, PICO_E_NOMEM, "backend cpu: no memory for %llu bytes of a weight",
                         (unsigned long long)bytes);
    }
    memcpy(copy, from, (size_t)bytes);
    weight->owned[which] = copy;
    *kept = copy;
    return PICO_OK;
}

/* Stores the permutation as cycles: entry j says where element j goes, and the first entry of each
 * cycle is complemented; see expand.c. Refuses what is not a permutation. */
static pico_status own_permutation(pico_weight *weight, const pico_weight_desc *desc,
                                   pico_error *err) {
    const void *kept = NULL;
    const uint64_t n = (uint64_t)desc->cols;
    uint8_t *seen = calloc((size_t)n, 1);
    pico_status status = PICO_E_NOMEM;
    if (seen == NULL) {
        return pico_fail(err, status, "backend cpu: no memory to check a permutation");
    }
    status = own(weight, OWN_PERM, desc->input_perm, n * sizeof(int32_t), &kept, err);
    for (uint64_t i = 0; status == PICO_OK && i < n; i++) {
        const int32_t to = desc->input_perm[i];
        if (to < 0 || (uint64_t)to >= n || seen[to]) {
            status = pico_fail(err, PICO_E_INVALID,
                               "backend cpu: input_perm[%llu] = %d makes it no permutation",
                               (unsigned long long)i, to);
            break;
        }
        seen[to] = 1;
    }
    if (status == PICO_OK) {
        int32_t *next = weight->owned[OWN_PERM];
        for (uint64_t i = 0; i < n; i++) { /* seen is all 1 here: 0 means visited */
            if (!seen[i]) {
                continue;
            }
            for (uint64_t at = i; seen[at]; at = (uint64_t)desc->input_perm[at]) {
                seen[at] = 0;
            }
            next[i] = ~next[i];
        }
        weight->desc.input_perm = next;
    }
    free(seen);
    return status;
}

static pico_status own_extras(pico_weight *weight, const pico_weight_desc *desc, pico_error *err) {
    pico_status status = PICO_OK;
    const void *kept = NULL;
    if (desc->codebook != NULL && desc->dtype == PICO_DTYPE_NF4) {
        status = own(weight, OWN_CODEBOOK, desc->codebook, 16 * sizeof(float), &kept, err);
        weight->desc.codebook = kept;
    }
    if (status == PICO_OK && desc->input_scale != NULL) {
        status =
            own(weight, OWN_INPUT_SCALE, desc->input_scale, (uint64_t)desc->cols * 4, &kept, err);
        weight->desc.input_scale = kept;
    }
    if (status == PICO_OK && desc->n_outlier > 0) {
        const uint64_t n = (uint64_t)desc->n_outlier;
        status = own(weight, OWN_OUTLIER_COL, desc->outlier_col, n * 4, &kept, err);
        weight->desc.outlier_col = kept;
        if (status == PICO_OK) {
            status = own(weight, OWN_OUTLIER, desc->outlier_value, n * (uint64_t)desc->rows * 2,
                         &weight->desc.outlier_value, err);
        }
    }
    if (status == PICO_OK && desc->input_perm != NULL) {
        status = own_permutation(weight, desc, err);
    }
    return status;
}

/* What a packed weight needs beside its panels: outlier columns as F32, one after the other, and the
 * permutation as it was given. */
static pico_status own_input(const cpu_backend *cpu, pico_weight *weight, const int32_t *perm,
                             pico_error *err) {
    const pico_weight_desc *desc = &weight->desc;
    const uint64_t n = (uint64_t)desc->n_outlier, rows = (uint64_t)desc->rows;
    const void *kept = NULL;
    pico_status status = PICO_OK;
    if (perm != NULL) {
        status = own(weight, OWN_PLAIN_PERM, perm, (uint64_t)desc->cols * 4, &kept, err);
        weight->input_perm = kept;
    }
    if (status != PICO_OK || n == 0) {
        return status;
    }
    float *columns = malloc((size_t)(n * rows) * sizeof *columns);
    if (columns == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "backend cpu: no memory for outlier columns");
    }
    for (uint64_t i = 0; i < n * rows; i++) {
        const char *value = (const char *)desc->outlier_value + i * 2;
        cpu->kernels->row->widen(PICO_DTYPE_F16, value, columns + i % n * rows + i / n, 1);
    }
    weight->owned[OWN_OUTLIER_COLUMNS] = columns;
    weight->outlier = columns;
    return PICO_OK;
}

static pico_status pack(const cpu_backend *cpu, pico_weight *weight, const int32_t *perm,
                        pico_error *err) {
    const uint32_t kind = cpu_pack_kind(cpu, &weight->desc);
    if (kind == CPU_PACK_NONE || !(weight->uses & PICO_USE_PRODUCT)) {
        return PICO_OK;
    }
    const pico_status status = cpu_pack(cpu, weight, kind, &weight->packed, err);
    return status == PICO_OK ? own_input(cpu, weight, perm, err) : status;
}

static int worth_aligning(const cpu_backend *cpu, const pico_weight_desc *desc) {
    return desc->dtype <= PICO_DTYPE_BF16 && (uintptr_t)desc->codes % 64 != 0 &&
           desc->codes_bytes <= ALIGN_COPY_BYTES &&
           cpu->copied + desc->codes_bytes <= ALIGN_COPY_TOTAL;
}

pico_status cpu_weight_create(void *self, const pico_weight_desc *desc, uint32_t uses,
                              uint32_t stays, pico_weight **out, pico_error *err) {
    cpu_backend *cpu = self;
    uint64_t row_bytes = 0, scale_row = 0;
    *out = NULL;
    if (uses & PICO_USE_TRANSPOSED) {
        return pico_fail(err, PICO_E_UNSUPPORTED, "backend cpu: no transposed products");
    }
    pico_status status = check_codes(desc, &row_bytes, err);
    if (status == PICO_OK) {
        status = check_scales(desc, &scale_row, err);
    }
    if (status == PICO_OK) {
        status = check_outliers(desc, err);
    }
    if (status != PICO_OK) {
        return status;
    }
    pico_weight *weight = calloc(1, sizeof *weight);
    if (weight == NULL || (weight->then = calloc(1, sizeof *weight->then)) == NULL) {
        free(weight);
        return pico_fail(err, PICO_E_NOMEM, "backend cpu: no memory for a weight");
    }
    weight->desc = *desc;
    weight->row_bytes = row_bytes;
    weight->scale_row = scale_row;
    weight->uses = uses;
    const int align = worth_aligning(cpu, desc);
    if (!stays || align) {
        status = own(weight, OWN_CODES, desc->codes, desc->codes_bytes, &weight->desc.codes, err);
    }
    if (status == PICO_OK && !stays && has_scales(desc->dtype)) {
        const uint64_t size = desc->scale_dtype == PICO_DTYPE_F32 ? 4 : 2;
        status =
            own(weight, OWN_SCALES, desc->scales, desc->n_scales * size, &weight->desc.scales, err);
    }
    if (status == PICO_OK) {
        status = own_extras(weight, desc, err);
    }
    if (status == PICO_OK) {
        status = pack(cpu, weight, desc->input_perm, err);
    }
    if (status != PICO_OK) {
        cpu_weight_free(cpu, weight);
        return status;
    }
    if (stays && align) {
        weight->aligned_bytes = desc->codes_bytes;
        cpu->copied += desc->codes_bytes;
    }
    *out = weight;
    return PICO_OK;
}

void cpu_weight_free(void *self, pico_weight *weight) {
    cpu_backend *cpu = self;
    if (weight != NULL) {
        cpu->copied -= weight->aligned_bytes;
        for (size_t i = 0; i < sizeof weight->owned / sizeof *weight->owned; i++) {
            free(weight->owned[i]);
        }
        cpu_unpack(&weight->packed);
        if (cpu->latest == weight->then) {
            cpu->latest = NULL;
        }
        free(weight->then);
        free(weight);
    }
}

pico_status cpu_weight_read(void *self, const pico_weight *weight, void *codes, void *scales,
                            pico_error *err) {
    (void)self;
    const pico_weight_desc *desc = &weight->desc;
    if (scales != NULL && !has_scales(desc->dtype)) {
        return pico_fail(err, PICO_E_INVALID, "backend cpu: the weight has no separate scales");
    }
    if (codes != NULL) {
        memcpy(codes, desc->codes, (size_t)desc->codes_bytes);
    }
    if (scales != NULL) {
        const uint64_t size = desc->scale_dtype == PICO_DTYPE_F32 ? 4 : 2;
        memcpy(scales, desc->scales, (size_t)(desc->n_scales * size));
    }
    return PICO_OK;
}
