/*
 * What a weight layout is: sizes, names, and one slow, clear decoder from every layout to F32. The
 * decoder is the reference that tests compare kernels with; it is not meant to be fast and trusts
 * its description (readers have checked it).
 *
 * Choices that pico_weight_desc leaves to one place, this one:
 * - NF4: every row starts on a byte, so a row has (cols + 1) / 2 bytes.
 * - A product is y = sum over i of W[i] * x[i] / input_scale[i], so the effective weight is divided
 *   by input_scale; column j of the codes lands at input input_perm[j]; outlier_col counts inputs
 *   (columns after the permutation) and its values are divided by input_scale like the others.
 */
#include <assert.h>
#include <string.h>

#include "formats/model_file.h"
#include "util/checked.h"
#include "util/half.h"

enum { BLOCK = 32, Q8_0_BYTES = 34, Q4_0_BYTES = 18 };

uint64_t pico_weight_codes_bytes(uint32_t dtype, int64_t rows, int64_t cols) {
    if (rows < 1 || cols < 1) {
        return 0;
    }
    uint64_t n = (uint64_t)cols, row_bytes = 0, bytes = 0;
    uint64_t block_bytes = dtype == PICO_DTYPE_Q8_0 ? Q8_0_BYTES : Q4_0_BYTES;
    int valid = 0;
    switch (dtype) {
    case PICO_DTYPE_F32:
    case PICO_DTYPE_I32:
        valid = pico_checked_mul(n, 4, &row_bytes);
        break;
    case PICO_DTYPE_F16:
    case PICO_DTYPE_BF16:
        valid = pico_checked_mul(n, 2, &row_bytes);
        break;
    case PICO_DTYPE_I8:
        row_bytes = n;
        valid = 1;
        break;
    case PICO_DTYPE_Q8_0:
    case PICO_DTYPE_Q4_0:
        valid = n % BLOCK == 0 && pico_checked_mul(n / BLOCK, block_bytes, &row_bytes);
        break;
    case PICO_DTYPE_NF4:
        row_bytes = n / 2 + n % 2;
        valid = 1;
        break;
    default:
        break;
    }
    return valid && pico_checked_mul((uint64_t)rows, row_bytes, &bytes) ? bytes : 0;
}

uint64_t pico_weight_n_scales(uint32_t dtype, int64_t rows, int64_t cols, int64_t group) {
    uint64_t n = 0;
    if ((dtype != PICO_DTYPE_I8 && dtype != PICO_DTYPE_NF4) || rows < 1 || cols < 1 || group < 0) {
        return 0;
    }
    if (group == 0) {
        return 1;
    }
    uint64_t groups = (uint64_t)((cols - 1) / group + 1);
    return pico_checked_mul((uint64_t)rows, groups, &n) ? n : 0;
}

const char *pico_dtype_name(uint32_t dtype) {
    static const char *const names[] = {"none", "F32",  "F16",  "BF16", "I32",
                                        "I8",   "Q8_0", "Q4_0", "NF4"};
    return dtype < sizeof names / sizeof *names ? names[dtype] : "unknown";
}

uint32_t pico_dtype_of_word(const char *word) {
    static const struct {
        const char *word;
        uint32_t dtype;
    } words[] = {{"f32", PICO_DTYPE_F32},   {"f16", PICO_DTYPE_F16},   {"bf16", PICO_DTYPE_BF16},
                 {"q8_0", PICO_DTYPE_Q8_0}, {"q4_0", PICO_DTYPE_Q4_0}, {"int8", PICO_DTYPE_I8},
                 {"i8", PICO_DTYPE_I8}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(words[i].word, word) == 0) {
            return words[i].dtype;
        }
    }
    return PICO_DTYPE_NONE;
}

/* Rows of an array whose rows have row_bytes bytes. NULL: out of memory. */
static const void *gather(const void *from, uint64_t row_bytes, const int32_t *row, uint32_t n,
                          pico_arena *arena) {
    unsigned char *to = pico_arena_alloc(arena, n, (size_t)row_bytes);
    for (uint32_t i = 0; to != NULL && i < n; i++) {
        memcpy(to + i * row_bytes, (const unsigned char *)from + (uint64_t)row[i] * row_bytes,
               (size_t)row_bytes);
    }
    return to;
}

pico_status pico_weight_gather(const pico_weight_desc *weight, const int32_t *row, uint32_t n,
                               pico_arena *arena, pico_weight_desc *out, pico_error *err) {
    const uint64_t rows = (uint64_t)weight->rows, n_outlier = (uint64_t)weight->n_outlier;
    const uint64_t scale_bytes = weight->scale_dtype == PICO_DTYPE_F16 ? 2 : 4;
    const int row_scales = weight->n_scales != 0 && weight->group != 0;
    *out = *weight;
    out->rows = n;
    out->codes_bytes = pico_weight_codes_bytes(weight->dtype, n, weight->cols);
    if (out->codes_bytes == 0 || weight->codes_bytes % rows != 0 ||
        weight->codes_bytes / rows != out->codes_bytes / n ||
        (row_scales && weight->n_scales % rows != 0)) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "a weight of %lld rows in %s and groups of %lld is not made of rows that "
                         "could be gathered",
                         (long long)weight->rows, pico_dtype_name(weight->dtype),
                         (long long)weight->group);
    }
    out->codes = gather(weight->codes, out->codes_bytes / n, row, n, arena);
    if (row_scales) {
        const uint64_t groups = weight->n_scales / rows;
        out->n_scales = n * groups;
        out->scales = gather(weight->scales, groups * scale_bytes, row, n, arena);
    }
    if (n_outlier != 0) {
        out->outlier_value = gather(weight->outlier_value, n_outlier * 2, row, n, arena);
    }
    return out->codes == NULL || (row_scales && out->scales == NULL) ||
                   (n_outlier != 0 && out->outlier_value == NULL)
               ? pico_fail(err, PICO_E_NOMEM, "out of memory for %u rows of a weight", n)
               : PICO_OK;
}

int pico_weight_takes_input(uint32_t dtype, int64_t group, uint32_t input_quant) {
    int whole = dtype == PICO_DTYPE_I8 || dtype == PICO_DTYPE_Q8_0 || dtype == PICO_DTYPE_Q4_0;
    switch (input_quant) {
    case PICO_INPUT_AUTO:
    case PICO_INPUT_FLOAT:
        return 1;
    case PICO_INPUT_ROW:
        return whole;
    case PICO_INPUT_GROUP:
        return whole && (dtype != PICO_DTYPE_I8 || group > 0);
    default:
        return 0;
    }
}

int pico_weight_columns_fit(const int32_t *columns, int64_t n, int64_t cols,
                            unsigned char *scratch) {
    memset(scratch, 0, (size_t)cols);
    for (int64_t i = 0; i < n; i++) {
        if (columns[i] < 0 || columns[i] >= cols || scratch[columns[i]]) {
            return 0;
        }
        scratch[columns[i]] = 1;
    }
    return 1;
}

/* Mapped files promise no alignment of 16-bit values, so they are read byte-wise. */
static float read_f16(const unsigned char *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return pico_f32_of_f16(h);
}

static float read_scale(const pico_weight_desc *weight, int64_t row, int64_t col) {
    int64_t index = 0;
    if (weight->group > 0) {
        index = row * ((weight->cols - 1) / weight->group + 1) + col / weight->group;
    }
    const unsigned char *scales = weight->scales;
    if (weight->scale_dtype == PICO_DTYPE_F16) {
        return read_f16(scales + 2 * index);
    }
    float scale;
    memcpy(&scale, scales + 4 * index, sizeof scale);
    return scale;
}

/* One element as the codes and scales say, without permutation, input scale and outliers. */
static float read_code(const pico_weight_desc *weight, const unsigned char *p, int64_t row,
                       int64_t col) {
    const unsigned char *block;
    int64_t j = col % BLOCK;
    switch (weight->dtype) {
    case PICO_DTYPE_F32: {
        float x;
        memcpy(&x, p + 4 * col, sizeof x);
        return x;
    }
    case PICO_DTYPE_I32: {
        int32_t x;
        memcpy(&x, p + 4 * col, sizeof x);
        return (float)x;
    }
    case PICO_DTYPE_F16:
        return read_f16(p + 2 * col);
    case PICO_DTYPE_BF16: {
        uint16_t h;
        memcpy(&h, p + 2 * col, sizeof h);
        return pico_f32_of_bf16(h);
    }
    case PICO_DTYPE_I8:
        return read_scale(weight, row, col) * (float)(int8_t)p[col];
    case PICO_DTYPE_Q8_0:
        block = p + col / BLOCK * Q8_0_BYTES;
        return read_f16(block) * (float)(int8_t)block[2 + j];
    case PICO_DTYPE_Q4_0: {
        block = p + col / BLOCK * Q4_0_BYTES;
        int code = j < BLOCK / 2 ? block[2 + j] & 15 : block[2 + j - BLOCK / 2] >> 4;
        return read_f16(block) * (float)(code - 8);
    }
    case PICO_DTYPE_NF4: {
        unsigned code = col % 2 == 0 ? p[col / 2] >> 4u : p[col / 2] & 15u;
        return read_scale(weight, row, col) * weight->codebook[code];
    }
    default:
        assert(0 && "a weight has a known dtype");
        return 0.0f;
    }
}

void pico_weight_row_f32(const pico_weight_desc *weight, int64_t row, float *out) {
    assert(row >= 0 && row < weight->rows);
    uint64_t row_bytes = weight->codes_bytes / (uint64_t)weight->rows;
    const unsigned char *codes = (const unsigned char *)weight->codes + (uint64_t)row * row_bytes;
    for (int64_t j = 0; j < weight->cols; j++) {
        int64_t input = weight->input_perm != NULL ? weight->input_perm[j] : j;
        out[input] = read_code(weight, codes, row, j);
    }
    const unsigned char *kept = weight->outlier_value;
    for (int64_t k = 0; k < weight->n_outlier; k++) {
        out[weight->outlier_col[k]] += read_f16(kept + 2 * (row * weight->n_outlier + k));
    }
    for (int64_t i = 0; weight->input_scale != NULL && i < weight->cols; i++) {
        out[i] /= weight->input_scale[i];
    }
}
