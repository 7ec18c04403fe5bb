/*
 * From the tensors of a GGUF container to the weights of a model: codes, scales and what else
 * belongs to a layout without a ggml type are put together by name (gguf.h says how). A part
 * without its tensor, a wrong type or count, a scale that is not finite: all are errors.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/gguf.h"
#include "util/half.h"

static const char codes_suffix[] = ".codes";
static const char *const part_suffixes[] = {".scales",     ".codebook",    ".input_scale",
                                            ".input_perm", ".outlier_col", ".outlier_value"};

const char *const pico_gguf_input_names[4] = {"auto", "float", "row", "group"};

typedef struct assembly {
    const pico_gguf *gguf;
    const char *name; /* canonical, without .codes */
    pico_file_tensor *out;
    pico_error *err;
} assembly;

static int ends_with(const char *name, const char *suffix) {
    size_t n = strlen(name), m = strlen(suffix);
    return n > m && strcmp(name + n - m, suffix) == 0;
}

static int is_part(const char *name) {
    for (size_t i = 0; i < sizeof part_suffixes / sizeof *part_suffixes; i++) {
        if (ends_with(name, part_suffixes[i])) {
            return 1;
        }
    }
    return 0;
}

/* The tensor NAME.suffix, marked as used; NULL if there is none. */
static const pico_gguf_tensor *find_part(const assembly *a, const char *suffix) {
    char name[320];
    (void)snprintf(name, sizeof name, "%s%s", a->name, suffix);
    const pico_gguf_tensor *found = pico_gguf_tensor_find(a->gguf, name);
    if (found != NULL) {
        a->gguf->tensor[found - a->gguf->tensor].used = 1;
    }
    return found;
}

/* *out is NULL if the part is absent. */
static pico_status take_part(const assembly *a, const char *suffix, uint32_t dtype, int64_t n,
                             const void **out) {
    const pico_gguf_tensor *part = find_part(a, suffix);
    *out = NULL;
    if (part == NULL) {
        return PICO_OK;
    }
    if (part->dtype != dtype || part->rows > n || part->rows * part->cols != n) {
        return pico_fail(a->err, PICO_E_CORRUPT,
                         "tensor %s has %lld x %lld values of type %s, expected %lld of type %s",
                         part->name, (long long)part->rows, (long long)part->cols,
                         pico_dtype_name(part->dtype), (long long)n, pico_dtype_name(dtype));
    }
    *out = part->data;
    return PICO_OK;
}

static pico_status check_finite(const assembly *a, const char *suffix, const void *data,
                                uint32_t dtype, uint64_t n, int allow_zero) {
    const unsigned char *p = data;
    for (uint64_t i = 0; i < n; i++) {
        float x;
        if (dtype == PICO_DTYPE_F16) {
            uint16_t h;
            memcpy(&h, p + 2 * i, sizeof h);
            x = pico_f32_of_f16(h);
        } else {
            memcpy(&x, p + 4 * i, sizeof x);
        }
        if (!isfinite(x) || (!allow_zero && !(fabsf(x) > 0.0f))) {
            return pico_fail(a->err, PICO_E_CORRUPT,
                             "tensor %s%s: value %llu is %g, expected a finite number%s", a->name,
                             suffix, (unsigned long long)i, (double)x,
                             allow_zero ? "" : " other than 0");
        }
    }
    return PICO_OK;
}

/* ---- scales of I8 and NF4 ---- */

typedef struct quant_key {
    char text[320];
} quant_key;

static const char *quant_key_of(const assembly *a, const char *what, quant_key *key) {
    (void)snprintf(key->text, sizeof key->text, "picochat.quant.%s.%s", a->name, what);
    return key->text;
}

static pico_status read_quant_key(const assembly *a, const char *what, int64_t min, int64_t max,
                                  int64_t *out) {
    quant_key key;
    return pico_gguf_integer(a->gguf, quant_key_of(a, what, &key), PICO_GGUF_REQUIRED, min, max,
                             out, a->err);
}

static pico_status read_layout(const assembly *a, pico_weight_desc *w) {
    quant_key key;
    const char *layout = "";
    pico_status status = pico_gguf_text(a->gguf, quant_key_of(a, "layout", &key),
                                        PICO_GGUF_REQUIRED, &layout, a->err);
    if (status != PICO_OK) {
        return status;
    }
    w->dtype = strcmp(layout, "i8") == 0    ? PICO_DTYPE_I8
               : strcmp(layout, "nf4") == 0 ? PICO_DTYPE_NF4
                                            : PICO_DTYPE_NONE;
    if (w->dtype == PICO_DTYPE_NONE) {
        return pico_fail(a->err, PICO_E_UNSUPPORTED,
                         "key %s is \"%.32s\"; supported are i8 and nf4", key.text, layout);
    }
    if (w->dtype == PICO_DTYPE_NF4) {
        int64_t stored = w->cols;
        status = read_quant_key(a, "cols", 1, PICO_MAX_VOCAB, &w->cols);
        if (status == PICO_OK && (w->cols + 1) / 2 != stored) {
            status = pico_fail(a->err, PICO_E_CORRUPT,
                               "tensor %s.codes has %lld bytes a row, expected %lld for %lld "
                               "columns",
                               a->name, (long long)stored, (long long)((w->cols + 1) / 2),
                               (long long)w->cols);
        }
        a->out->shape[a->out->rank - 1] = w->cols;
    }
    return status == PICO_OK ? read_quant_key(a, "group", 0, w->cols, &w->group) : status;
}

static pico_status read_scales(const assembly *a, pico_weight_desc *w) {
    const pico_gguf_tensor *part = find_part(a, ".scales");
    const void *codebook = NULL;
    w->n_scales = pico_weight_n_scales(w->dtype, w->rows, w->cols, w->group);
    if (part == NULL || (part->dtype != PICO_DTYPE_F32 && part->dtype != PICO_DTYPE_F16)) {
        return pico_fail(a->err, PICO_E_CORRUPT, "tensor %s.scales %s, expected F32 or F16",
                         a->name, part == NULL ? "is missing" : "has another type");
    }
    if (w->n_scales == 0 || w->n_scales > INT64_MAX) {
        return pico_fail(a->err, PICO_E_CORRUPT, "tensor %s: impossible group of %lld columns",
                         a->name, (long long)w->group);
    }
    pico_status status = take_part(a, ".scales", part->dtype, (int64_t)w->n_scales, &w->scales);
    w->scale_dtype = part->dtype;
    if (status == PICO_OK) {
        status = check_finite(a, ".scales", w->scales, w->scale_dtype, w->n_scales, 1);
    }
    if (status == PICO_OK && w->dtype == PICO_DTYPE_NF4) {
        status = take_part(a, ".codebook", PICO_DTYPE_F32, 16, &codebook);
        if (status == PICO_OK && codebook == NULL) {
            status = pico_fail(a->err, PICO_E_CORRUPT, "tensor %s.codebook is missing", a->name);
        }
        if (status == PICO_OK) {
            status = check_finite(a, ".codebook", codebook, PICO_DTYPE_F32, 16, 1);
        }
        w->codebook = codebook;
    }
    return status;
}

/* ---- what any layout may have ---- */

static pico_status check_permutation(const assembly *a, const int32_t *perm, int64_t n) {
    pico_status status = PICO_OK;
    unsigned char *seen = calloc((size_t)n, 1);
    if (seen == NULL) {
        return pico_fail(a->err, PICO_E_NOMEM, "out of memory");
    }
    for (int64_t i = 0; status == PICO_OK && i < n; i++) {
        if (perm[i] < 0 || perm[i] >= n || seen[perm[i]]) {
            status = pico_fail(a->err, PICO_E_CORRUPT,
                               "tensor %s.input_perm: %d at %lld, expected every number below "
                               "%lld once",
                               a->name, perm[i], (long long)i, (long long)n);
        } else {
            seen[perm[i]] = 1;
        }
    }
    free(seen);
    return status;
}

static pico_status check_columns(const assembly *a, const char *name, const pico_weight_desc *w) {
    unsigned char *scratch = malloc((size_t)w->cols);
    if (scratch == NULL) {
        return pico_fail(a->err, PICO_E_NOMEM, "out of memory");
    }
    int fit = pico_weight_columns_fit(w->outlier_col, w->n_outlier, w->cols, scratch);
    free(scratch);
    return fit ? PICO_OK
               : pico_fail(a->err, PICO_E_CORRUPT,
                           "tensor %s: expected different columns from 0 to %lld", name,
                           (long long)w->cols - 1);
}

static pico_status read_input_quant(const assembly *a, pico_weight_desc *w) {
    quant_key key;
    const char *word = pico_gguf_input_names[PICO_INPUT_AUTO];
    pico_status status =
        pico_gguf_text(a->gguf, quant_key_of(a, "input", &key), PICO_GGUF_OPTIONAL, &word, a->err);
    uint32_t kind = PICO_INPUT_AUTO;
    while (status == PICO_OK && kind <= PICO_INPUT_GROUP &&
           strcmp(word, pico_gguf_input_names[kind]) != 0) {
        kind++;
    }
    if (status == PICO_OK && !pico_weight_takes_input(w->dtype, w->group, kind)) {
        return pico_fail(a->err, PICO_E_CORRUPT,
                         "key %s is \"%.32s\"; a weight of type %s%s can have auto or float%s",
                         key.text, word, pico_dtype_name(w->dtype),
                         w->dtype == PICO_DTYPE_I8 && w->group == 0 ? " with one scale" : "",
                         pico_weight_takes_input(w->dtype, w->group, PICO_INPUT_GROUP)
                             ? ", row, group"
                         : pico_weight_takes_input(w->dtype, w->group, PICO_INPUT_ROW) ? ", row"
                                                                                       : "");
    }
    w->input_quant = kind;
    return status;
}

static pico_status read_outliers(const assembly *a, pico_weight_desc *w) {
    const pico_gguf_tensor *cols = find_part(a, ".outlier_col");
    const void *data;
    if (cols == NULL) {
        return PICO_OK; /* values without columns are left over and refused as such */
    }
    int64_t n = cols->cols;
    if (n > w->cols) {
        return pico_fail(a->err, PICO_E_CORRUPT,
                         "tensor %s lists %lld columns, the matrix has %lld", cols->name,
                         (long long)n, (long long)w->cols);
    }
    pico_status status = take_part(a, ".outlier_col", PICO_DTYPE_I32, n, &data);
    w->outlier_col = data;
    w->n_outlier = n;
    if (status == PICO_OK) {
        status = check_columns(a, cols->name, w);
    }
    if (status == PICO_OK) { /* rows * n <= rows * cols, which fits */
        status = take_part(a, ".outlier_value", PICO_DTYPE_F16, w->rows * n, &w->outlier_value);
    }
    if (status == PICO_OK && w->outlier_value == NULL) {
        status = pico_fail(a->err, PICO_E_CORRUPT, "tensor %s.outlier_value is missing", a->name);
    }
    if (status == PICO_OK) {
        status = check_finite(a, ".outlier_value", w->outlier_value, PICO_DTYPE_F16,
                              (uint64_t)(w->rows * n), 1);
    }
    return status;
}

static pico_status read_extras(const assembly *a, pico_weight_desc *w) {
    const void *scale = NULL, *perm = NULL;
    pico_status status = take_part(a, ".input_scale", PICO_DTYPE_F32, w->cols, &scale);
    if (status == PICO_OK && scale != NULL) {
        status = check_finite(a, ".input_scale", scale, PICO_DTYPE_F32, (uint64_t)w->cols, 0);
    }
    if (status == PICO_OK) {
        status = take_part(a, ".input_perm", PICO_DTYPE_I32, w->cols, &perm);
    }
    if (status == PICO_OK && perm != NULL) {
        status = check_permutation(a, perm, w->cols);
    }
    w->input_scale = scale;
    w->input_perm = perm;
    if (status == PICO_OK) {
        status = read_input_quant(a, w);
    }
    return status == PICO_OK ? read_outliers(a, w) : status;
}

/* ---- one tensor ---- */

static pico_status assemble(const pico_gguf *gguf, pico_gguf_tensor *raw, pico_arena *arena,
                            pico_file_tensor *out, pico_error *err) {
    int split = ends_with(raw->name, codes_suffix);
    size_t length = strlen(raw->name) - (split ? sizeof codes_suffix - 1 : 0);
    out->name = pico_arena_strndup(arena, raw->name, length);
    if (out->name == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    assembly a = {.gguf = gguf, .name = out->name, .out = out, .err = err};
    pico_weight_desc *w = &out->data;
    raw->used = 1;
    out->rank = raw->rank;
    memcpy(out->shape, raw->shape, sizeof out->shape);
    *w = (pico_weight_desc){.codes = raw->data,
                            .codes_bytes = raw->bytes,
                            .dtype = raw->dtype,
                            .rows = raw->rows,
                            .cols = raw->cols};
    if (split != (raw->dtype == PICO_DTYPE_I8) || raw->dtype == PICO_DTYPE_I32) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "tensor %s has type %s; I8 is for codes (NAME.codes with NAME.scales) and "
                         "I32 for lists of columns",
                         raw->name, pico_dtype_name(raw->dtype));
    }
    pico_status status = split ? read_layout(&a, w) : PICO_OK;
    if (status == PICO_OK && split) {
        status = read_scales(&a, w);
    }
    if (status == PICO_OK) {
        status = read_extras(&a, w);
    }
    out->bytes = w->codes_bytes + w->n_scales * (w->scale_dtype == PICO_DTYPE_F16 ? 2u : 4u);
    return status;
}

pico_status pico_gguf_read_tensors(const pico_gguf *gguf, pico_model_file *file, pico_error *err) {
    size_t n = (size_t)gguf->n_tensor;
    pico_status status = PICO_OK;
    if (n > UINT32_MAX) {
        return pico_fail(err, PICO_E_LIMIT, "more than 2^32 tensors");
    }
    file->tensor = pico_arena_alloc(&file->arena, n, sizeof *file->tensor);
    if (file->tensor == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for %zu tensors", n);
    }
    for (size_t i = 0; status == PICO_OK && i < n; i++) {
        if (!is_part(gguf->tensor[i].name)) {
            status = assemble(gguf, &gguf->tensor[i], &file->arena, &file->tensor[file->n_tensor++],
                              err);
        }
    }
    for (size_t i = 0; status == PICO_OK && i < n; i++) {
        if (!gguf->tensor[i].used) {
            status = pico_fail(err, PICO_E_CORRUPT,
                               "tensor %s is left over: it belongs to no other tensor of the file",
                               gguf->tensor[i].name);
        }
    }
    return status;
}
