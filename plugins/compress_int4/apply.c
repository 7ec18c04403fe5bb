/*
 * Turns the selected matrices into codes, one after the other, and hands them back. At any time it
 * holds one matrix in F32 and, with calibration, one square of moments in F64.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "int4.h"

enum { Q4_0_BLOCK_BYTES = 18 };

typedef struct applying {
    int4 *self;
    pico_tensors *tensors;
    const pico_model_desc *model;
    int4_job job;
    int32_t *perm;   /* (most columns) */
    float *w;        /* (largest matrix) */
    uint32_t factor; /* input whose factor job.h holds; INPUT_NONE: none */
    int64_t factor_cols;
    pico_error *err;
} applying;

static int uses_feedback(const int4_options *o) {
    return o->method == METHOD_GPTQ || o->method == METHOD_AWQ_GPTQ;
}

static int uses_input_scale(const int4_options *o) {
    return o->method == METHOD_AWQ || o->method == METHOD_AWQ_GPTQ;
}

/* ---- memory ---- */

static void release(applying *a) {
    free(a->w);
    free(a->perm);
    free(a->job.h);
    free(a->job.input_scale);
    free(a->job.codes);
    free(a->job.scales);
    free(a->job.work);
    free(a->job.row_codes);
    free(a->job.group_scales);
}

/* Sized for the largest of the matrices. */
static pico_status reserve(applying *a) {
    const int4_options *o = &a->self->options;
    const pico_host *host = a->self->host;
    size_t elements = 0, cols = 0, codes = 0, scales = 0;
    for (uint32_t i = 0; i < host->tensors->count(a->tensors); i++) {
        pico_tensor_info info;
        if (host->tensors->info(a->tensors, i, &info) != PICO_OK || !int4_is_target(o, &info)) {
            continue;
        }
        const size_t rows = (size_t)info.shape[0], width = (size_t)info.shape[1];
        const size_t groups = (width - 1) / a->job.group + 1;
        const size_t bytes = rows * groups * a->job.group / 2 + 2 * rows * groups;
        elements = rows * width > elements ? rows * width : elements;
        cols = width > cols ? width : cols;
        codes = bytes > codes ? bytes : codes;
        scales = rows * groups > scales ? rows * groups : scales;
    }
    const size_t lanes = (size_t)host->n_threads(host->ctx) * JOB_ROWS;
    a->w = malloc(elements * sizeof *a->w);
    a->perm = malloc(cols * sizeof *a->perm);
    a->job.input_scale = malloc(cols * sizeof *a->job.input_scale);
    a->job.codes = malloc(codes);
    a->job.scales = malloc(scales * sizeof *a->job.scales);
    a->job.work = malloc(lanes * cols * sizeof *a->job.work);
    a->job.row_codes = malloc(lanes * cols);
    a->job.group_scales =
        malloc(lanes * ((cols - 1) / a->job.group + 1) * sizeof *a->job.group_scales);
    int ok = a->w != NULL && a->perm != NULL && a->job.input_scale != NULL &&
             a->job.codes != NULL && a->job.scales != NULL && a->job.work != NULL &&
             a->job.row_codes != NULL && a->job.group_scales != NULL;
    if (o->method != METHOD_RTN) {
        a->job.h = malloc(cols * cols * sizeof *a->job.h);
        ok = ok && a->job.h != NULL;
    }
    return ok ? PICO_OK : pico_fail(a->err, PICO_E_NOMEM, "out of memory");
}

/* ---- moments ---- */

/* The mean moments of the input's first job.cols channels, both triangles. */
static void load_moments(int4_job *job, const int4_input *input) {
    const size_t n = (size_t)job->cols, width = input->width;
    for (size_t i = 0; i < n; i++) {
        const float *row = input->moment + i * width - i * (i + 1) / 2; /* begins at column i */
        for (size_t j = i; j < n; j++) {
            job->h[i * n + j] = job->h[j * n + i] = (double)row[j] / (double)input->n_rows;
        }
    }
}

/* Moments of x / input_scale in the order of the columns, from those of the input; an input that is
 * always 0 stays apart; then damping. */
static void turn_moments(int4_job *job, const int4_input *input, double damping) {
    const size_t n = (size_t)job->cols, width = input->width;
    double mean = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = i; j < n; j++) {
            const size_t p = job->perm == NULL ? i : (size_t)job->perm[i];
            const size_t q = job->perm == NULL ? j : (size_t)job->perm[j];
            const size_t low = p < q ? p : q, high = p < q ? q : p;
            const float moment = input->moment[low * width - low * (low + 1) / 2 + high];
            job->h[i * n + j] = (double)moment / (double)input->n_rows /
                                ((double)job->input_scale[p] * (double)job->input_scale[q]);
        }
        mean += job->h[i * n + i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        double *diagonal = &job->h[i * (n + 1)];
        *diagonal = *diagonal > 0 ? *diagonal + damping * mean : mean > 0 ? mean : 1;
    }
}

/* ---- one matrix ---- */

static pico_status check_values(const applying *a, const char *name) {
    const float most = a->self->options.format == FORMAT_Q4_0 ? 8 * 65504.0f : INFINITY;
    for (int64_t i = 0; i < a->job.rows * a->job.cols; i++) {
        if (!isfinite(a->w[i]) || fabsf(a->w[i]) > most) {
            return pico_fail(a->err, PICO_E_INVALID,
                             "tensor %s: %g at row %lld, column %lld; expected a number%s", name,
                             (double)a->w[i], (long long)(i / a->job.cols),
                             (long long)(i % a->job.cols),
                             isfinite(a->w[i]) ? " within the F16 scales of Q4_0; format = nf4 has "
                                                 "F32 scales"
                                               : "");
        }
    }
    return PICO_OK;
}

static pico_status round_calibrated(applying *a, const char *name) {
    const int4_options *o = &a->self->options;
    const uint32_t index = int4_input_of(a->model, name);
    int4_job *job = &a->job;
    pico_status status = PICO_OK;
    if (index >= a->self->n_input || a->self->input[index].n_rows == 0 ||
        job->cols > (int64_t)a->self->input[index].width) {
        return pico_fail(a->err, PICO_E_INVALID,
                         "tensor %s: its input was not observed; the calibrated methods need a run "
                         "of the calibration text before",
                         name);
    }
    const int4_input *input = &a->self->input[index];
    job->absolute = input->absolute;
    if (uses_input_scale(o)) {
        load_moments(job, input);
        status = int4_search_input_scale(job, a->err);
    }
    if (status != PICO_OK || !uses_feedback(o)) {
        int4_round(job);
        return status;
    }
    const int shared = a->factor == index && a->factor_cols == job->cols && !uses_input_scale(o);
    if (!shared) { /* q, k and v do share it */
        if (o->act_order) {
            load_moments(job, input);
            status = int4_order_columns(job, a->perm, a->err);
        }
        job->perm = o->act_order ? a->perm : NULL;
        turn_moments(job, input, o->damping);
        if (status == PICO_OK && int4_factor(job->host, job->h, (size_t)job->cols) != PICO_OK) {
            status = pico_fail(a->err, PICO_E_INVALID,
                               "tensor %s: the moments of its input are singular; raise damping "
                               "above %g",
                               name, o->damping);
        }
        a->factor = index;
        a->factor_cols = job->cols;
    }
    if (status == PICO_OK) {
        int4_round_with_feedback(job);
    }
    return status;
}

static pico_status hand_back(const applying *a, uint32_t index) {
    const int4_options *o = &a->self->options;
    const int4_job *job = &a->job;
    const int nf4 = o->format == FORMAT_NF4;
    const pico_weight_desc desc = {.codes = job->codes,
                                   .codes_bytes = (uint64_t)job->rows * job->row_bytes,
                                   .dtype = nf4 ? PICO_DTYPE_NF4 : PICO_DTYPE_Q4_0,
                                   .scale_dtype = nf4 ? PICO_DTYPE_F32 : PICO_DTYPE_NONE,
                                   .scales = nf4 ? job->scales : NULL,
                                   .n_scales = nf4 ? (uint64_t)(job->rows * job->n_groups) : 0,
                                   .codebook = nf4 ? int4_codebook : NULL,
                                   .rows = job->rows,
                                   .cols = job->cols,
                                   .group = !nf4                     ? 0
                                            : job->cols < job->group ? job->cols
                                                                     : job->group,
                                   .input_scale = uses_input_scale(o) ? job->input_scale : NULL,
                                   .input_perm = job->perm};
    return job->host->tensors->replace(a->tensors, index, &desc, a->err);
}

static pico_status compress(applying *a, uint32_t index, const pico_tensor_info *info) {
    const int4_options *o = &a->self->options;
    int4_job *job = &a->job;
    job->rows = info->shape[0];
    job->cols = info->shape[1];
    job->n_groups = (job->cols - 1) / job->group + 1;
    job->row_bytes = (uint64_t)(o->format == FORMAT_NF4 ? (job->cols + 1) / 2
                                                        : job->n_groups * Q4_0_BLOCK_BYTES);
    job->w = a->w;
    for (int64_t i = 0; i < job->cols; i++) {
        job->input_scale[i] = 1;
    }
    pico_status status = job->host->tensors->read_f32(a->tensors, index, a->w, a->err);
    if (status == PICO_OK) {
        status = check_values(a, info->name);
    }
    if (status == PICO_OK && o->method == METHOD_RTN) {
        int4_round(job);
    } else if (status == PICO_OK) {
        status = round_calibrated(a, info->name);
    }
    return status == PICO_OK ? hand_back(a, index) : status;
}

pico_status int4_apply(int4 *self, const pico_model_desc *model, pico_tensors *tensors,
                       pico_error *err) {
    const int4_options *o = &self->options;
    const pico_host *host = self->host;
    const uint32_t n = host->tensors->count(tensors);
    applying a = {
        .self = self, .tensors = tensors, .model = model, .factor = INPUT_NONE, .err = err};
    a.job = (int4_job){.host = host,
                       .format = o->format,
                       .group = int4_group_of(o->format),
                       .search = o->scale == SCALE_SEARCH ||
                                 (o->scale == SCALE_AUTO && o->method != METHOD_RTN),
                       .n_grid = (uint32_t)o->grid};
    pico_status status = reserve(&a);
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        pico_tensor_info info;
        status = host->tensors->info(tensors, i, &info);
        if (status == PICO_OK && int4_is_target(o, &info)) {
            status = compress(&a, i, &info);
        }
        if (status == PICO_OK && int4_stopped(self)) {
            status = pico_fail(err, PICO_E_CANCELLED, "interrupted");
        }
        if (host->progress != NULL) {
            host->progress(host->ctx, "compression", i + 1, n);
        }
    }
    release(&a);
    int4_forget(self);
    return status;
}
