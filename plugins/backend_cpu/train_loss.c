/*
 * Losses of rows of logits: cross-entropy with a token, divergence from a teacher's distribution,
 * and the gradient of both in one pass. See pico_loss_args.
 */
#include <math.h>
#include <string.h>

#include "train.h"

#define HIDDEN (-1e30f) /* a logit of probability 0 with which one can still calculate */

typedef struct loss_job {
    const cpu_backend *cpu;
    const pico_loss_args *args;
    cpu_view logits, teacher, d;
    const int32_t *target, *teacher_row, *mask;
    float *ce, *kl;
} loss_job;

/* ln of the sum of exp(factor * x), factor > 0 */
static float log_sum(const cpu_row_kernels *kernels, const float *x, float factor, int64_t n) {
    const float shift = factor * kernels->maximum(x, n);
    return (float)((double)shift + log(kernels->sum_exp(x, factor, shift, n)));
}

/* x, or a copy of it without the columns that the mask hides. */
static const float *masked(const loss_job *job, const float *x, float *copy) {
    if (job->mask == NULL) {
        return x;
    }
    for (int64_t i = 0; i < job->logits.cols; i++) {
        copy[i] = job->mask[i] ? x[i] : HIDDEN;
    }
    return copy;
}

/* The k-th largest of x (n), k from 1 to n; x is shuffled. NaN must not be among them. */
static float kth_largest(float *x, int64_t n, int64_t k) {
    int64_t begin = 0, end = n; /* the answer is the k-th largest of these */
    for (;;) {
        const float pivot = x[begin + (end - begin) / 2];
        int64_t above = begin, at = begin, below = end; /* larger, equal, not seen yet, smaller */
        while (at < below) {
            const float value = x[at];
            if (value > pivot) {
                x[at++] = x[above];
                x[above++] = value;
            } else if (value < pivot) {
                x[at] = x[--below];
                x[below] = value;
            } else {
                at++;
            }
        }
        if (k <= above - begin) {
            end = above;
        } else if (k <= below - begin) {
            return pivot;
        } else {
            k -= below - begin;
            begin = below;
        }
    }
}

/* The teacher's row without what mask and top k hide; copy (n) may become it. */
static const float *teacher_of(const loss_job *job, const float *x, float *copy) {
    const int64_t n = job->logits.cols, k = job->args->teacher_top_k;
    int64_t kept = 0;
    if (k == 0 || k >= n) {
        return masked(job, x, copy);
    }
    for (int64_t i = 0; i < n; i++) {
        if (job->mask == NULL || job->mask[i]) {
            copy[kept++] = isnan(x[i]) ? -INFINITY : x[i];
        }
    }
    if (k >= kept) {
        return masked(job, x, copy);
    }
    const float least = kth_largest(copy, kept, k);
    for (int64_t i = 0; i < n; i++) { /* NaN stays, and is seen in the loss */
        copy[i] = x[i] < least || (job->mask != NULL && !job->mask[i]) ? HIDDEN : x[i];
    }
    return copy;
}

static void loss_row(const loss_job *job, int64_t r, const cpu_train_scratch *scratch) {
    const pico_loss_args *args = job->args;
    const cpu_row_kernels *kernels = job->cpu->kernels->row;
    const int32_t target = job->target == NULL ? -1 : job->target[r];
    const int64_t from = job->teacher_row == NULL ? r : job->teacher_row[r];
    const int soft = job->teacher.data != NULL && from >= 0;
    cpu_loss_row row = {.logits = masked(job, cpu_row_f32(&job->logits, r), scratch->row[0]),
                        .d = job->d.data == NULL ? NULL : cpu_row_f32(&job->d, r),
                        .n = job->logits.cols,
                        .hard = target < 0 ? 0 : args->hard,
                        .soft = args->soft,
                        .inv_temperature = 1 / args->temperature,
                        .accumulate = args->accumulate};
    float ce = 0;
    assert(target < job->logits.cols);
    if (target >= 0) {
        row.log_sum = log_sum(kernels, row.logits, 1, row.n);
        ce = row.log_sum - row.logits[target];
    }
    if (soft) {
        assert(from < job->teacher.rows);
        row.teacher = teacher_of(job, cpu_row_f32(&job->teacher, from), scratch->row[1]);
        row.log_sum_soft = log_sum(kernels, row.logits, row.inv_temperature, row.n);
        row.log_sum_teacher = log_sum(kernels, row.teacher, row.inv_temperature, row.n);
    }
    const double kl = job->cpu->train->row->loss(&row);
    if (row.d != NULL && target >= 0) {
        row.d[target] -= row.hard;
    }
    if (job->ce != NULL) {
        job->ce[r] = ce;
    }
    if (job->kl != NULL) {
        job->kl[r] = (float)kl;
    }
}

static void loss_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const loss_job *job = arg;
    const cpu_train_scratch scratch = cpu_train_scratch_of(job->cpu->train, thread);
    for (uint64_t r = begin; r < end; r++) {
        loss_row(job, (int64_t)r, &scratch);
    }
}

/* Vectors that may be absent, (n) each. */
static pico_status vectors_of(const pico_loss_args *args, loss_job *job) {
    void *out[3] = {NULL, NULL, NULL};
    const pico_tensor *const tensors[] = {&args->target, &args->teacher_row, &args->mask};
    const int64_t rows = job->logits.rows, n[] = {rows, rows, job->logits.cols};
    pico_status status = PICO_OK;
    for (int i = 0; status == PICO_OK && i < 3; i++) {
        if (tensors[i]->buffer != NULL) {
            status = cpu_vector_of(tensors[i], PICO_DTYPE_I32, n[i], &out[i]);
        }
    }
    job->target = out[0];
    job->teacher_row = out[1];
    job->mask = out[2];
    if (status == PICO_OK) {
        status = cpu_optional_of(&args->ce, rows, &job->ce);
    }
    return status == PICO_OK ? cpu_optional_of(&args->kl, rows, &job->kl) : status;
}

pico_status cpu_loss(void *self, const pico_loss_args *args) {
    cpu_backend *cpu = self;
    loss_job job = {.cpu = cpu, .args = args};
    pico_status status = cpu_view_of(&args->logits, PICO_DTYPE_F32, &job.logits);
    if (status == PICO_OK && args->teacher.buffer != NULL) {
        status = cpu_view_of(&args->teacher, PICO_DTYPE_F32, &job.teacher);
    }
    if (status == PICO_OK && args->d.buffer != NULL) {
        status = cpu_view_of(&args->d, PICO_DTYPE_F32, &job.d);
    }
    if (status == PICO_OK) {
        status = vectors_of(args, &job);
    }
    if (status != PICO_OK) {
        return status;
    }
    const int teacher = job.teacher.data != NULL;
    if (cpu->train == NULL || job.logits.heads != 1 || !(args->temperature > 0) ||
        job.logits.cols > (int64_t)cpu->train->need.max_dim ||
        (teacher && (job.teacher.heads != 1 || job.teacher.cols != job.logits.cols)) ||
        (teacher && job.teacher_row == NULL && job.teacher.rows != job.logits.rows) ||
        (job.d.data != NULL &&
         (job.d.heads != 1 || job.d.rows != job.logits.rows || job.d.cols != job.logits.cols))) {
        return PICO_E_INVALID;
    }
    const double column = teacher ? args->teacher_top_k != 0 ? 8 : 4 : 1.5;
    cpu_parallel(cpu, (uint64_t)job.logits.rows, (uint64_t)job.logits.rows,
                 (double)job.logits.cols * column + 20, loss_rows, &job);
    return PICO_OK;
}
