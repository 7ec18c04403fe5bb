/*
 * Replaces the weights, one tensor at a time and a slice of rows at a time, so that a long run shows
 * its progress and can be stopped. Refuses weights that are not finite and scales that do not fit.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "int8.h"
#include "quantize.h"

#define SLICE_VALUES ((int64_t)1 << 22)

/* One tensor on its way. Threads take disjoint rows; what they find is theirs until the end. */
typedef struct job {
    const int8_stage *stage;
    const pico_tensor_info *info;
    int8_target target;
    pico_weight_desc from;
    uint64_t row_bytes; /* of the source */
    float limit;
    float scale;      /* for the whole matrix */
    uint8_t *codes;   /* (codes_bytes) */
    void *scales;     /* (n_scales) */
    int32_t *apart;   /* (n_apart) inputs that are kept in F16 */
    int64_t *place;   /* (n_apart) their columns in the codes */
    uint16_t *values; /* (rows, n_apart) */
    int64_t n_apart;
    int64_t begin;    /* first row of this slice */
    float *work;      /* (n_threads, cols) */
    float *largest;   /* (n_threads) */
    int64_t *bad_row; /* (n_threads) of those that cannot be quantised; -1: none */
} job;

/* ---- rows ---- */

static float *load_row(const job *j, int64_t row, uint32_t thread) {
    float *x = j->work + (int64_t)thread * j->from.cols;
    int8_widen(j->from.dtype, (const uint8_t *)j->from.codes + (uint64_t)row * j->row_bytes,
               j->from.cols, x);
    return x;
}

/* Takes the columns that are kept apart out of a row; returns 0 if one does not fit into F16. */
static int take_apart(const job *j, int64_t row, float *x) {
    int fits = 1;
    for (int64_t i = 0; i < j->n_apart; i++) {
        const uint16_t half = int8_f16(x[j->place[i]]);
        j->values[row * j->n_apart + i] = half;
        fits &= (half & 0x7c00u) != 0x7c00u;
        x[j->place[i]] = 0.0f;
    }
    return fits;
}

/* Stores a scale; returns it as it is stored. */
static float put_scale(const job *j, uint64_t index, float scale) {
    if (j->target.scale_dtype == PICO_DTYPE_F16) {
        const uint16_t half = int8_f16(scale);
        ((uint16_t *)j->scales)[index] = half;
        return int8_f32_of_f16(half);
    }
    ((float *)j->scales)[index] = scale;
    return scale;
}

static int quantise_row(const job *j, int64_t row, const float *x) {
    const int64_t cols = j->from.cols;
    int8_t *codes = (int8_t *)j->codes + row * cols;
    if (j->target.dtype == PICO_DTYPE_Q8_0) {
        return int8_blocks(x, cols, j->limit, j->codes + row * (cols / 32 * 34));
    }
    if (j->target.group == 0) {
        int8_codes(x, cols, j->scale, j->limit, codes);
        return 1;
    }
    const int64_t group = j->target.group, n_group = (cols + group - 1) / group;
    for (int64_t g = 0; g < n_group; g++) {
        const int64_t at = g * group, n = cols - at < group ? cols - at : group;
        const float scale = put_scale(j, (uint64_t)(row * n_group + g),
                                      int8_scale(int8_largest(x + at, n), j->limit));
        if (!isfinite(scale)) {
            return 0;
        }
        int8_codes(x + at, n, scale, j->limit, codes + at);
    }
    return 1;
}

static void quantise_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    job *j = arg;
    for (int64_t row = j->begin + (int64_t)begin; row < j->begin + (int64_t)end; row++) {
        float *x = load_row(j, row, thread);
        int good = isfinite(int8_largest(x, j->from.cols)) && take_apart(j, row, x);
        good = good && quantise_row(j, row, x);
        if (!good && (j->bad_row[thread] < 0 || row < j->bad_row[thread])) {
            j->bad_row[thread] = row;
        }
    }
}

/* The largest magnitude of each thread's rows, columns kept apart left out. */
static void measure_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    job *j = arg;
    for (int64_t row = j->begin + (int64_t)begin; row < j->begin + (int64_t)end; row++) {
        float *x = load_row(j, row, thread);
        for (int64_t i = 0; i < j->n_apart && isfinite(x[j->place[i]]); i++) {
            x[j->place[i]] = 0.0f;
        }
        const float largest = int8_largest(x, j->from.cols);
        j->largest[thread] = largest > j->largest[thread] ? largest : j->largest[thread];
    }
}

/* ---- slices ---- */

typedef struct work_done {
    uint64_t values, total;
} work_done;

static pico_status each_slice(job *j, void (*fn)(void *, uint64_t, uint64_t, uint32_t),
                              work_done *done, uint64_t worth, pico_error *err) {
    const pico_host *host = j->stage->host;
    const int64_t rows = j->from.rows, cols = j->from.cols;
    const int64_t slice = cols < SLICE_VALUES ? SLICE_VALUES / cols : 1;
    for (j->begin = 0; j->begin < rows; j->begin += slice) {
        const int64_t n = rows - j->begin < slice ? rows - j->begin : slice;
        if (host->should_stop(host->ctx)) {
            return pico_fail(err, PICO_E_CANCELLED, "interrupted");
        }
        host->parallel_for(host->ctx, (uint64_t)n, 1 + (uint64_t)(16384 / cols), fn, j);
        done->values += worth * (uint64_t)(n * cols);
        host->progress(host->ctx, "int8", done->values, done->total);
    }
    return PICO_OK;
}

/* Which row could not be done, and why. */
static pico_status check_rows(const job *j, pico_error *err) {
    const uint32_t n_threads = j->stage->host->n_threads(j->stage->host->ctx);
    int64_t row = -1;
    for (uint32_t t = 0; t < n_threads; t++) {
        row = j->bad_row[t] >= 0 && (row < 0 || j->bad_row[t] < row) ? j->bad_row[t] : row;
    }
    if (row < 0) {
        return PICO_OK;
    }
    const float largest = int8_largest(load_row(j, row, 0), j->from.cols);
    return isfinite(largest)
               ? pico_fail(err, PICO_E_UNSUPPORTED,
                           "tensor %s, row %lld: values up to %g are beyond what F16 scales and "
                           "outliers can hold; scales = f32 (with layout = auto or i8) does it "
                           "without outliers",
                           j->info->name, (long long)row, (double)largest)
               : pico_fail(err, PICO_E_INVALID,
                           "tensor %s, row %lld: a value is infinite or not a number",
                           j->info->name, (long long)row);
}

static pico_status measure(job *j, work_done *done, pico_error *err) {
    const uint32_t n_threads = j->stage->host->n_threads(j->stage->host->ctx);
    float largest = 0;
    pico_status status = each_slice(j, measure_rows, done, 1, err);
    for (uint32_t t = 0; t < n_threads; t++) {
        largest = j->largest[t] > largest ? j->largest[t] : largest;
    }
    if (status != PICO_OK) {
        return status;
    }
    if (!isfinite(largest)) {
        return pico_fail(err, PICO_E_INVALID, "tensor %s: a value is infinite or not a number",
                         j->info->name);
    }
    j->scale = put_scale(j, 0, int8_scale(largest, j->limit));
    return isfinite(j->scale)
               ? PICO_OK
               : pico_fail(err, PICO_E_UNSUPPORTED,
                           "tensor %s: values up to %g need a scale that F16 cannot hold; set "
                           "scales = f32",
                           j->info->name, (double)largest);
}

/* ---- one tensor ---- */

/* The columns of the codes that belong to the inputs kept apart. */
static void find_places(job *j) {
    for (int64_t i = 0; i < j->n_apart; i++) {
        j->place[i] = j->apart[i];
    }
    for (int64_t c = 0; j->from.input_perm != NULL && c < j->from.cols; c++) {
        for (int64_t i = 0; i < j->n_apart; i++) {
            j->place[i] = j->from.input_perm[c] == j->apart[i] ? c : j->place[i];
        }
    }
}

static pico_status prepare(job *j, pico_error *err) {
    const size_t n_threads = j->stage->host->n_threads(j->stage->host->ctx);
    const size_t rows = (size_t)j->from.rows, cols = (size_t)j->from.cols;
    const uint64_t source_bytes = j->from.codes_bytes;
    j->row_bytes = source_bytes / rows;
    j->limit = j->stage->options.bits == BITS_4 ? 7.0f : 127.0f;
    j->apart = malloc(cols * sizeof *j->apart);
    pico_status status = j->apart == NULL
                             ? PICO_E_NOMEM
                             : int8_outliers(j->stage, j->info->name, j->from.cols,
                                             j->from.input_scale, j->apart, &j->n_apart, err);
    if (status != PICO_OK && j->apart != NULL) {
        return status;
    }
    if (j->n_apart != 0 && j->from.n_outlier != 0) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "tensor %s has columns kept apart by an earlier stage; look for outliers "
                         "in one of the stages only",
                         j->info->name);
    }
    const size_t n_apart = (size_t)j->n_apart;
    j->codes = malloc(j->target.codes_bytes);
    j->scales = malloc((j->target.n_scales + 1) * sizeof(float));
    j->place = malloc((n_apart + 1) * sizeof *j->place);
    j->values = malloc((rows * n_apart + 1) * sizeof *j->values);
    j->work = malloc(n_threads * cols * sizeof *j->work);
    j->largest = calloc(n_threads, sizeof *j->largest);
    j->bad_row = malloc(n_threads * sizeof *j->bad_row);
    if (j->apart == NULL || j->codes == NULL || j->scales == NULL || j->place == NULL ||
        j->values == NULL || j->work == NULL || j->largest == NULL || j->bad_row == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "tensor %s: out of memory", j->info->name);
    }
    memset(j->bad_row, 0xff, n_threads * sizeof *j->bad_row);
    find_places(j);
    return PICO_OK;
}

static pico_status replace(const job *j, pico_tensors *tensors, uint32_t index, pico_error *err) {
    pico_weight_desc to = j->from; /* with its input scale, permutation and outliers */
    to.codes = j->codes;
    to.codes_bytes = j->target.codes_bytes;
    to.dtype = j->target.dtype;
    to.scale_dtype = j->target.scale_dtype;
    to.scales = j->target.n_scales == 0 ? NULL : j->scales;
    to.n_scales = j->target.n_scales;
    to.group = j->target.group;
    to.input_quant = j->target.input_quant;
    if (j->n_apart != 0) {
        to.outlier_col = j->apart;
        to.outlier_value = j->values;
        to.n_outlier = j->n_apart;
    }
    return j->stage->host->tensors->replace(tensors, index, &to, err);
}

static pico_status quantise(const int8_stage *stage, pico_tensors *tensors, uint32_t index,
                            const pico_tensor_info *info, const int8_target *target,
                            work_done *done, int64_t *n_apart, pico_error *err) {
    job j = {.stage = stage, .info = info, .target = *target};
    const int two_passes = target->dtype == PICO_DTYPE_I8 && target->group == 0;
    pico_status status = stage->host->tensors->read(tensors, index, &j.from);
    if (status != PICO_OK) {
        return pico_fail(err, status, "tensor %s cannot be read", info->name);
    }
    status = prepare(&j, err);
    if (status == PICO_OK && two_passes) {
        status = measure(&j, done, err);
    }
    if (status == PICO_OK) {
        status = each_slice(&j, quantise_rows, done, two_passes ? 1 : 2, err);
    }
    if (status == PICO_OK) {
        status = check_rows(&j, err);
    }
    if (status == PICO_OK) {
        status = replace(&j, tensors, index, err);
    }
    *n_apart += j.n_apart;
    free(j.codes), free(j.scales), free(j.apart), free(j.place);
    free(j.values), free(j.work), free(j.largest), free(j.bad_row);
    return status;
}

/* ---- all tensors ---- */

typedef struct entry {
    uint32_t index;
    pico_tensor_info info;
    int8_target target;
} entry;

static pico_status list(const int8_stage *stage, const pico_tensors *tensors, entry *entries,
                        uint32_t *n, work_done *done, pico_error *err) {
    const pico_tensors_api *api = stage->host->tensors;
    pico_status status = PICO_OK;
    *n = 0;
    for (uint32_t i = 0; status == PICO_OK && i < api->count(tensors); i++) {
        entry *e = &entries[*n];
        e->index = i;
        status = api->info(tensors, i, &e->info);
        if (status == PICO_OK) {
            status = int8_choose(&stage->options, &e->info, &e->target, err);
        }
        if (status == PICO_OK && e->target.dtype != PICO_DTYPE_NONE) {
            done->total += 2 * (uint64_t)e->info.shape[0] * (uint64_t)e->info.shape[1];
            ++*n;
        }
    }
    return status;
}

static void say(const int8_stage *stage, const char *fmt, ...) PICO_PRINTF(2, 3);
static void say(const int8_stage *stage, const char *fmt, ...) {
    char text[256];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    stage->host->log(stage->host->ctx, PICO_LOG_INFO, text);
}

pico_status int8_apply(void *self, const pico_model_desc *model, pico_tensors *tensors,
                       pico_error *err) {
    int8_stage *stage = self;
    work_done done = {0};
    uint32_t n = 0;
    int64_t n_apart = 0;
    (void)model;
    entry *entries = calloc((size_t)stage->host->tensors->count(tensors) + 1, sizeof *entries);
    pico_status status = entries == NULL ? pico_fail(err, PICO_E_NOMEM, "out of memory")
                                         : list(stage, tensors, entries, &n, &done, err);
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        status = quantise(stage, tensors, entries[i].index, &entries[i].info, &entries[i].target,
                          &done, &n_apart, err);
    }
    free(entries);
    int8_forget(stage);
    if (status == PICO_OK && stage->options.bits == BITS_4) {
        say(stage, "int8: bits = 4 still takes a byte a weight; a 4-bit layout would halve that");
    }
    if (status == PICO_OK && stage->options.calibration != NULL) {
        say(stage, "int8: %lld columns of %u matrices are kept in F16", (long long)n_apart, n);
    }
    return status;
}
