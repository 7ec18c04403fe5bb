/*
 * Ops that choose from logits: edits, argmax, top-k with log-sum-exp. Ties go to the lowest index
 * and NaN never wins: among candidates it stands behind every number.
 */
#include <math.h>

#include "cpu.h"

pico_status cpu_logit_edit(void *self, const pico_logit_edit_args *args) {
    (void)self;
    cpu_view logits, row;
    void *token = NULL, *sub = NULL, *rep = NULL, *bias = NULL;
    pico_status status = cpu_view_of(&args->logits, PICO_DTYPE_F32, &logits);
    if (status == PICO_OK) {
        status = cpu_view_of(&args->row, PICO_DTYPE_I32, &row);
    }
    if (status != PICO_OK || row.rows != 1) {
        return PICO_E_INVALID;
    }
    if (cpu_vector_of(&args->token, PICO_DTYPE_I32, row.cols, &token) != PICO_OK ||
        cpu_vector_of(&args->sub, PICO_DTYPE_F32, row.cols, &sub) != PICO_OK ||
        cpu_vector_of(&args->rep, PICO_DTYPE_F32, row.cols, &rep) != PICO_OK ||
        cpu_vector_of(&args->bias, PICO_DTYPE_F32, row.cols, &bias) != PICO_OK) {
        return PICO_E_INVALID;
    }
    for (int64_t e = 0; e < row.cols; e++) {
        const int32_t r = cpu_row_i32(&row, 0)[e], t = ((const int32_t *)token)[e];
        assert(r >= 0 && r < logits.rows && t >= 0 && t < logits.cols);
        float *z = cpu_row_f32(&logits, r) + t;
        const float factor = ((const float *)rep)[e];
        float value = *z - ((const float *)sub)[e];
        value = value > 0 ? value / factor : value * factor;
        *z = value + ((const float *)bias)[e];
    }
    return PICO_OK;
}

/* ---- argmax ---- */

typedef struct select_job {
    const cpu_backend *cpu;
    cpu_view logits, index, value;
    int32_t *best;
    float *log_sum;
    float inv_temperature;
    int64_t k;
} select_job;

static void argmax_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const select_job *job = arg;
    const cpu_row_kernels *row = job->cpu->kernels->row;
    const int64_t n = job->logits.cols;
    for (uint64_t r = begin; r < end; r++) {
        const float *z = cpu_row_f32(&job->logits, (int64_t)r);
        const float most = row->maximum(z, n);
        /* the first value that equals the maximum is the first above the next smaller float */
        const int64_t at =
            most == -INFINITY ? -1 : row->next_above(z, 0, n, nextafterf(most, -INFINITY));
        job->best[r] = (int32_t)at;
    }
}

pico_status cpu_argmax(void *self, const pico_argmax_args *args) {
    const cpu_backend *cpu = self;
    select_job job = {.cpu = cpu};
    void *index = NULL;
    pico_status status = cpu_view_of(&args->logits, PICO_DTYPE_F32, &job.logits);
    if (status == PICO_OK) {
        status = cpu_vector_of(&args->index, PICO_DTYPE_I32, job.logits.rows, &index);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (job.logits.heads != 1 || job.logits.cols < 1) {
        return PICO_E_INVALID;
    }
    job.best = index;
    const uint64_t rows = (uint64_t)job.logits.rows;
    cpu_parallel(cpu, rows, rows, (double)job.logits.cols * 0.15, argmax_rows, &job);
    return PICO_OK;
}

/* ---- top-k: a heap of the best k so far, the worst of them on top, kept in the result itself ----
 */

typedef struct heap {
    int32_t *index;
    float *value;
    int64_t n;
} heap;

static int better(float a, int32_t ia, float b, int32_t ib) {
    if (isnan(a) || isnan(b)) {
        return isnan(a) && isnan(b) ? ia < ib : isnan(b);
    }
    return a > b || (a == b && ia < ib);
}

/* Puts an entry where it belongs, from the place `at` downwards. */
static void sift_down(heap *h, int64_t at, float value, int32_t index) {
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= h->n) {
            break;
        }
        if (child + 1 < h->n &&
            better(h->value[child], h->index[child], h->value[child + 1], h->index[child + 1])) {
            child++;
        }
        if (!better(value, index, h->value[child], h->index[child])) {
            break;
        }
        h->value[at] = h->value[child];
        h->index[at] = h->index[child];
        at = child;
    }
    h->value[at] = value;
    h->index[at] = index;
}

static void top_k_row(const cpu_row_kernels *row, const float *z, int64_t n, heap *h) {
    const int64_t k = h->n;
    for (int64_t i = 0; i < k; i++) {
        h->value[i] = z[i];
        h->index[i] = (int32_t)i;
    }
    for (int64_t i = k / 2 - 1; i >= 0; i--) {
        sift_down(h, i, h->value[i], h->index[i]);
    }
    for (int64_t i = k; i < n; i++) {
        if (!isnan(h->value[0])) { /* jump to the next that beats the worst */
            i = row->next_above(z, i, n, h->value[0]);
            if (i == n) {
                break;
            }
        } else if (isnan(z[i])) {
            continue;
        }
        sift_down(h, 0, z[i], (int32_t)i);
    }
    for (h->n = k - 1; h->n > 0; h->n--) { /* the worst goes to the end, again and again */
        const float value = h->value[h->n];
        const int32_t index = h->index[h->n];
        h->value[h->n] = h->value[0];
        h->index[h->n] = h->index[0];
        sift_down(h, 0, value, index);
    }
    h->n = k;
}

static void top_k_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const select_job *job = arg;
    const cpu_row_kernels *row = job->cpu->kernels->row;
    const int64_t n = job->logits.cols;
    for (uint64_t r = begin; r < end; r++) {
        const float *z = cpu_row_f32(&job->logits, (int64_t)r);
        heap h = {cpu_row_i32(&job->index, (int64_t)r), cpu_row_f32(&job->value, (int64_t)r),
                  job->k};
        top_k_row(row, z, n, &h);
        const float most = row->maximum(z, n) * job->inv_temperature;
        if (isinf(most)) { /* all -inf, or one +inf: the sum is that */
            job->log_sum[r] = most;
        } else {
            job->log_sum[r] =
                (float)((double)most + log(row->sum_exp(z, job->inv_temperature, most, n)));
        }
    }
}

pico_status cpu_top_k(void *self, const pico_top_k_args *args) {
    const cpu_backend *cpu = self;
    select_job job = {.cpu = cpu, .inv_temperature = args->inv_temperature, .k = args->k};
    void *log_sum = NULL;
    pico_status status = cpu_view_of(&args->logits, PICO_DTYPE_F32, &job.logits);
    if (status == PICO_OK) {
        status = cpu_view_of(&args->index, PICO_DTYPE_I32, &job.index);
    }
    if (status == PICO_OK) {
        status = cpu_view_of(&args->value, PICO_DTYPE_F32, &job.value);
    }
    if (status == PICO_OK) {
        status = cpu_vector_of(&args->log_sum, PICO_DTYPE_F32, job.logits.rows, &log_sum);
    }
    if (status != PICO_OK) {
        return status;
    }
    const int shapes = job.logits.heads == 1 && job.index.heads == 1 && job.value.heads == 1 &&
                       job.index.rows == job.logits.rows && job.value.rows == job.logits.rows &&
                       job.index.cols == job.k && job.value.cols == job.k;
    if (!shapes || job.k < 1 || job.k > job.logits.cols || !(args->inv_temperature >= 0) ||
        isinf(args->inv_temperature)) {
        return PICO_E_INVALID;
    }
    job.log_sum = log_sum;
    const uint64_t rows = (uint64_t)job.logits.rows;
    cpu_parallel(cpu, rows, rows, (double)job.logits.cols * 0.6, top_k_rows, &job);
    return PICO_OK;
}
