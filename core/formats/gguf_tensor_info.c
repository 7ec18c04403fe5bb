/*
 * The GGUF container: tensor infos, and where the data of each tensor lies. Tensors must be
 * aligned, inside the file, and must not share bytes. Tensor types that picochat does not compute
 * with are refused by name.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/gguf.h"
#include "util/checked.h"

enum { MIN_INFO_BYTES = 8 + 1 + 4 + 8 + 4 + 8, MAX_NAME = 255 };

static const char *const ggml_names[] = {
    "F32",   "F16",        "Q4_0",       "Q4_1",       "Q4_2",     "Q4_3",     "Q5_0",
    "Q5_1",  "Q8_0",       "Q8_1",       "Q2_K",       "Q3_K",     "Q4_K",     "Q5_K",
    "Q6_K",  "Q8_K",       "IQ2_XXS",    "IQ2_XS",     "IQ3_XXS",  "IQ1_S",    "IQ4_NL",
    "IQ3_S", "IQ2_S",      "IQ4_XS",     "I8",         "I16",      "I32",      "I64",
    "F64",   "IQ1_M",      "BF16",       "Q4_0_4_4",   "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",
    "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4"};

static uint32_t dtype_of(uint32_t type) {
    switch (type) {
    case PICO_GGML_F32:
        return PICO_DTYPE_F32;
    case PICO_GGML_F16:
        return PICO_DTYPE_F16;
    case PICO_GGML_BF16:
        return PICO_DTYPE_BF16;
    case PICO_GGML_Q8_0:
        return PICO_DTYPE_Q8_0;
    case PICO_GGML_Q4_0:
        return PICO_DTYPE_Q4_0;
    case PICO_GGML_I8:
        return PICO_DTYPE_I8;
    case PICO_GGML_I32:
        return PICO_DTYPE_I32;
    default:
        return PICO_DTYPE_NONE;
    }
}

/* ne[0] is the innermost dimension in the file. */
static pico_status read_shape(pico_gguf_cursor *cursor, pico_gguf_tensor *tensor) {
    uint64_t ne[4] = {1, 1, 1, 1}, rows = 1;
    pico_status status = PICO_OK;
    if (tensor->rank < 1 || tensor->rank > 4) {
        return pico_fail(cursor->err, PICO_E_CORRUPT,
                         "tensor %s has %u dimensions, expected 1 to 4", tensor->name,
                         tensor->rank);
    }
    for (uint32_t i = 0; status == PICO_OK && i < tensor->rank; i++) {
        status = pico_gguf_take_u64(cursor, "the shape of a tensor", &ne[i]);
        if (status == PICO_OK && (ne[i] == 0 || ne[i] > INT64_MAX)) {
            status = pico_fail(cursor->err, PICO_E_CORRUPT,
                               "tensor %s: dimension %u is %llu, expected at least 1", tensor->name,
                               i, (unsigned long long)ne[i]);
        }
    }
    if (status != PICO_OK) {
        return status;
    }
    for (uint32_t i = 0; i < 4; i++) {
        tensor->shape[i] = i < tensor->rank ? (int64_t)ne[tensor->rank - 1 - i] : 1;
        if (i > 0 && (!pico_checked_mul(rows, ne[i], &rows) || rows > INT64_MAX)) {
            return pico_fail(cursor->err, PICO_E_CORRUPT,
                             "tensor %s: the product of its dimensions overflows", tensor->name);
        }
    }
    tensor->rows = (int64_t)rows;
    tensor->cols = (int64_t)ne[0];
    return PICO_OK;
}

static pico_status read_type(pico_gguf_cursor *cursor, pico_gguf_tensor *tensor) {
    pico_status status = pico_gguf_take_u32(cursor, "the type of a tensor", &tensor->type);
    if (status != PICO_OK) {
        return status;
    }
    tensor->dtype = dtype_of(tensor->type);
    if (tensor->dtype == PICO_DTYPE_NONE) {
        const size_t n = sizeof ggml_names / sizeof *ggml_names;
        return pico_fail(cursor->err, PICO_E_UNSUPPORTED,
                         "tensor %s has type %s (%u); supported are F32, F16, BF16, Q8_0, Q4_0, "
                         "and I8 and I32 in picochat's own layouts",
                         tensor->name, tensor->type < n ? ggml_names[tensor->type] : "unknown",
                         tensor->type);
    }
    tensor->bytes = pico_weight_codes_bytes(tensor->dtype, tensor->rows, tensor->cols);
    if (tensor->bytes == 0) {
        return pico_fail(cursor->err, PICO_E_CORRUPT,
                         "tensor %s: %lld rows of %lld columns are not possible in %s",
                         tensor->name, (long long)tensor->rows, (long long)tensor->cols,
                         pico_dtype_name(tensor->dtype));
    }
    return PICO_OK;
}

static pico_status read_info(pico_gguf *gguf, pico_gguf_cursor *cursor, pico_gguf_tensor *tensor) {
    pico_status status =
        pico_gguf_take_name(cursor, "a tensor's name", MAX_NAME, gguf->arena, &tensor->name);
    if (status == PICO_OK) {
        status = pico_gguf_take_u32(cursor, "the number of dimensions of a tensor", &tensor->rank);
    }
    if (status == PICO_OK) {
        status = read_shape(cursor, tensor);
    }
    if (status == PICO_OK) {
        status = read_type(cursor, tensor);
    }
    if (status == PICO_OK) {
        status = pico_gguf_take_u64(cursor, "the offset of a tensor", &tensor->offset);
    }
    if (status == PICO_OK && tensor->offset % gguf->alignment != 0) {
        status = pico_fail(cursor->err, PICO_E_CORRUPT,
                           "tensor %s: offset %llu is not a multiple of the alignment %llu",
                           tensor->name, (unsigned long long)tensor->offset,
                           (unsigned long long)gguf->alignment);
    }
    return status;
}

/* Offsets in the file count from the first aligned byte after the infos. */
static pico_status place(const pico_gguf *gguf, uint64_t infos_end, pico_gguf_tensor *tensor,
                         pico_error *err) {
    uint64_t start, end, size = gguf->map->size;
    if (!pico_checked_align(infos_end, gguf->alignment, &start) ||
        !pico_checked_add(start, tensor->offset, &start) ||
        !pico_checked_add(start, tensor->bytes, &end) || end > size) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "tensor %s: %llu bytes at offset %llu of the data section go beyond the "
                         "end of the file (%llu bytes): truncated or damaged",
                         tensor->name, (unsigned long long)tensor->bytes,
                         (unsigned long long)tensor->offset, (unsigned long long)size);
    }
    tensor->offset = start;
    tensor->data = gguf->map->data + start;
    return PICO_OK;
}

static int compare_offsets(const void *a, const void *b) {
    const pico_gguf_tensor *x = a;
    const pico_gguf_tensor *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static int compare_names(const void *a, const void *b) {
    const pico_gguf_tensor *x = a;
    const pico_gguf_tensor *y = b;
    return strcmp(x->name, y->name);
}

static pico_status check_table(pico_gguf *gguf, pico_error *err) {
    pico_gguf_tensor *tensor = gguf->tensor;
    size_t n = (size_t)gguf->n_tensor;
    qsort(tensor, n, sizeof *tensor, compare_offsets);
    for (size_t i = 1; i < n; i++) {
        if (tensor[i].offset - tensor[i - 1].offset < tensor[i - 1].bytes) {
            return pico_fail(err, PICO_E_CORRUPT,
                             "tensors %.200s and %.200s overlap at offset %llu", tensor[i - 1].name,
                             tensor[i].name, (unsigned long long)tensor[i].offset);
        }
    }
    qsort(tensor, n, sizeof *tensor, compare_names);
    for (size_t i = 1; i < n; i++) {
        if (strcmp(tensor[i - 1].name, tensor[i].name) == 0) {
            return pico_fail(err, PICO_E_CORRUPT, "tensor %s exists twice", tensor[i].name);
        }
    }
    return PICO_OK;
}

pico_status pico_gguf_read_infos(pico_gguf *gguf, pico_gguf_cursor *cursor) {
    uint64_t n = gguf->n_tensor, left = cursor->size - cursor->at;
    pico_status status = PICO_OK;
    if (n > left / MIN_INFO_BYTES) {
        return pico_fail(cursor->err, PICO_E_CORRUPT,
                         "the header promises %llu tensors, which do not fit into the %llu bytes "
                         "left",
                         (unsigned long long)n, (unsigned long long)left);
    }
    gguf->tensor = pico_arena_alloc(gguf->arena, (size_t)n, sizeof *gguf->tensor);
    if (gguf->tensor == NULL) {
        return pico_fail(cursor->err, PICO_E_NOMEM, "out of memory for %llu tensors",
                         (unsigned long long)n);
    }
    for (uint64_t i = 0; status == PICO_OK && i < n; i++) {
        status = read_info(gguf, cursor, &gguf->tensor[i]);
    }
    for (uint64_t i = 0; status == PICO_OK && i < n; i++) {
        status = place(gguf, cursor->at, &gguf->tensor[i], cursor->err);
    }
    return status == PICO_OK ? check_table(gguf, cursor->err) : status;
}

const pico_gguf_tensor *pico_gguf_tensor_find(const pico_gguf *gguf, const char *name) {
    pico_gguf_tensor wanted = {.name = name};
    if (gguf->n_tensor == 0) {
        return NULL;
    }
    return bsearch(&wanted, gguf->tensor, (size_t)gguf->n_tensor, sizeof wanted, compare_names);
}
