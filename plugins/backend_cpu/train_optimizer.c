/*
 * Reductions, scaling, and the steps of the optimisers. Sums over a matrix are taken row by row, the
 * rows in double, in ascending order.
 */
#include <math.h>
#include <string.h>

#include "train.h"

typedef struct matrix_job {
    const cpu_backend *cpu;
    cpu_view x, y;
    float *by_row; /* (rows) */
    float factor, lr, decay;
    const float *row_factor, *column_factor; /* of muon; one of both is NULL */
} matrix_job;

static void dot_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const matrix_job *job = arg;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
        job->by_row[r] = job->cpu->train->row->dot(cpu_row_f32(&job->x, r), cpu_row_f32(&job->y, r),
                                                   job->x.cols);
    }
}

static void add_values(const void *arg, int64_t row, int64_t column, int64_t n, float *partial) {
    const matrix_job *job = arg;
    job->cpu->kernels->row->axpby(1, cpu_row_f32(&job->x, row) + column, 1, partial, n);
}

static void add_squares(const void *arg, int64_t row, int64_t column, int64_t n, float *partial) {
    const matrix_job *job = arg;
    const float *x = cpu_row_f32(&job->x, row) + column;
    job->cpu->train->row->add_product(1, 0, x, x, partial, n);
}

static void run_rows(const matrix_job *job, double element_ns,
                     void (*fn)(void *arg, uint64_t begin, uint64_t end, uint32_t thread)) {
    cpu_parallel(job->cpu, (uint64_t)job->x.rows, (uint64_t)job->x.rows,
                 (double)job->x.cols * element_ns + 2, fn, (void *)(uintptr_t)job);
}

static void put(float *out, double value, const pico_reduce_args *args) {
    const float result = (float)(value * (double)args->factor);
    *out = args->accumulate ? *out + result : result;
}

static pico_status reduce_rows(cpu_backend *cpu, const pico_reduce_args *args, matrix_job *job) {
    const int by_row = args->kind == PICO_REDUCE_ROW_SQUARE;
    void *out = NULL;
    const pico_status status =
        cpu_vector_of(&args->out, PICO_DTYPE_F32, by_row ? job->x.rows : 1, &out);
    if (status != PICO_OK || (uint64_t)job->x.rows > cpu->train->n_value) {
        return status == PICO_OK ? PICO_E_INVALID : status;
    }
    job->by_row = cpu->train->value[0];
    run_rows(job, 0.15, dot_rows);
    double sum = 0;
    for (int64_t r = 0; r < job->x.rows; r++) {
        if (by_row) {
            put((float *)out + r, (double)job->by_row[r] / (double)job->x.cols, args);
        }
        sum += (double)job->by_row[r];
    }
    if (!by_row) {
        put(out, args->kind == PICO_REDUCE_NORM ? sqrt(sum) : sum, args);
    }
    return PICO_OK;
}

pico_status cpu_reduce(void *self, const pico_reduce_args *args) {
    cpu_backend *cpu = self;
    matrix_job job = {.cpu = cpu};
    void *out = NULL;
    pico_status status = cpu_view_of(&args->x, PICO_DTYPE_F32, &job.x);
    job.y = job.x;
    if (status == PICO_OK && args->kind == PICO_REDUCE_DOT) {
        status = cpu_view_of(&args->y, PICO_DTYPE_F32, &job.y);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (cpu->train == NULL || job.x.heads != 1 || job.y.heads != 1 || job.x.rows != job.y.rows ||
        job.x.cols != job.y.cols) {
        return PICO_E_INVALID;
    }
    switch (args->kind) {
    case PICO_REDUCE_DOT:
    case PICO_REDUCE_NORM:
    case PICO_REDUCE_ROW_SQUARE:
        return reduce_rows(cpu, args, &job);
    case PICO_REDUCE_COLUMN_SUM:
    case PICO_REDUCE_COLUMN_SQUARE:
        break;
    default:
        return PICO_E_INVALID;
    }
    status = cpu_vector_of(&args->out, PICO_DTYPE_F32, job.x.cols, &out);
    if (status == PICO_OK) {
        const int squares = args->kind == PICO_REDUCE_COLUMN_SQUARE;
        cpu_sum_columns(cpu, job.x.rows, job.x.cols, squares ? add_squares : add_values, &job,
                        squares ? args->factor / (float)job.x.rows : args->factor, args->accumulate,
                        out);
    }
    return status;
}

static void scale_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const matrix_job *job = arg;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
        float *x = cpu_row_f32(&job->x, r);
        if (job->by_row == NULL) {
            for (int64_t i = 0; i < job->x.cols; i++) {
                x[i] = job->factor;
            }
        } else {
            job->cpu->kernels->row->axpby(job->factor, x, 0, x, job->x.cols);
        }
    }
}

pico_status cpu_scale(void *self, const pico_scale_args *args) {
    matrix_job job = {.cpu = self};
    float *scalar = NULL;
    pico_status status = cpu_view_of(&args->x, PICO_DTYPE_F32, &job.x);
    if (status == PICO_OK) {
        status = cpu_optional_of(&args->scalar, 1, &scalar);
    }
    if (status != PICO_OK || job.x.heads != 1) {
        return status == PICO_OK ? PICO_E_INVALID : status;
    }
    job.by_row = scalar; /* NULL: fill */
    job.factor = scalar == NULL ? args->value : args->value / (args->a * *scalar + args->b);
    run_rows(&job, 0.1, scale_rows);
    return PICO_OK;
}

/* ---- AdamW ---- */

typedef struct adamw_job {
    const cpu_backend *cpu;
    cpu_adamw o;
    float *p, *m, *v;
    const float *g;
} adamw_job;

static void adamw_range(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const adamw_job *job = arg;
    job->cpu->train->row->adamw(&job->o, job->p + begin, job->g + begin, job->m + begin,
                                job->v + begin, (int64_t)(end - begin));
}

static int64_t elements(const pico_tensor *tensor) {
    int64_t n = 1;
    for (uint32_t i = 0; i < tensor->rank && i < 4; i++) {
        n *= tensor->shape[i];
    }
    return n;
}

pico_status cpu_adamw_step(void *self, const pico_adamw_args *args) {
    cpu_backend *cpu = self;
    const double left1 = 1 - pow((double)args->beta1, (double)args->step);
    const double left2 = 1 - pow((double)args->beta2, (double)args->step);
    adamw_job job = {.cpu = cpu,
                     .o = {.keep = 1 - args->lr * args->weight_decay,
                           .beta1 = args->beta1,
                           .beta2 = args->beta2,
                           .eps = args->eps,
                           .grad_scale = args->grad_scale,
                           .step_size = (float)((double)args->lr / left1),
                           .inv_root = (float)(1 / sqrt(left2))}};
    const int64_t n = elements(&args->p);
    void *data[4] = {NULL};
    const pico_tensor *const tensors[] = {&args->p, &args->grad, &args->m, &args->v};
    pico_status status = cpu->train == NULL || args->step == 0 ? PICO_E_INVALID : PICO_OK;
    for (int i = 0; status == PICO_OK && i < 4; i++) {
        status = cpu_vector_of(tensors[i], PICO_DTYPE_F32, n, &data[i]);
    }
    if (status == PICO_OK) {
        job.p = data[0];
        job.g = data[1];
        job.m = data[2];
        job.v = data[3];
        cpu_parallel(cpu, (uint64_t)n, 16384, 0.5, adamw_range, &job);
    }
    return status;
}

/* ---- Muon ---- */

static void muon_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const matrix_job *job = arg;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
        const float factor =
            job->row_factor == NULL ? job->factor : job->factor * job->row_factor[r];
        job->cpu->train->row->muon(factor, job->column_factor, job->lr, job->decay,
                                   cpu_row_f32(&job->x, r), cpu_row_f32(&job->y, r), job->x.cols);
    }
}

/* second follows v, v becomes the factors; returns what they all are multiplied with. */
static float muon_factors(float beta2, float *v, float *second, int64_t n) {
    double sum = 0, scaled = 0;
    for (int64_t i = 0; i < n; i++) {
        second[i] = beta2 * second[i] + (1 - beta2) * v[i];
        const double r = 1 / sqrt(second[i] > 1e-10f ? (double)second[i] : 1e-10);
        sum += (double)v[i];
        scaled += (double)v[i] * r * r;
        v[i] = (float)r;
    }
    return scaled > 0 ? (float)sqrt(sum / scaled) : 0;
}

pico_status cpu_muon_step(void *self, const pico_muon_args *args) {
    cpu_backend *cpu = self;
    matrix_job job = {.cpu = cpu, .lr = args->lr, .decay = args->lr * args->weight_decay};
    void *second = NULL;
    pico_status status = cpu_view_of(&args->x, PICO_DTYPE_F32, &job.x);
    if (status == PICO_OK) {
        status = cpu_view_of(&args->p, PICO_DTYPE_F32, &job.y);
    }
    const int by_row = job.x.rows >= job.x.cols;
    const int64_t n = by_row ? job.x.rows : job.x.cols;
    if (status == PICO_OK) {
        status = cpu_vector_of(&args->second, PICO_DTYPE_F32, n, &second);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (cpu->train == NULL || job.x.heads != 1 || job.y.heads != 1 || job.x.rows != job.y.rows ||
        job.x.cols != job.y.cols || (uint64_t)n > cpu->train->n_value) {
        return PICO_E_INVALID;
    }
    float *v = cpu->train->value[1];
    matrix_job squares = {.cpu = cpu, .x = job.x, .y = job.x, .by_row = v};
    if (by_row) {
        run_rows(&squares, 0.15, dot_rows);
        for (int64_t i = 0; i < n; i++) {
            v[i] /= (float)job.x.cols;
        }
        job.row_factor = v;
    } else {
        cpu_sum_columns(cpu, job.x.rows, n, add_squares, &squares, 1 / (float)job.x.rows, 0, v);
        job.column_factor = v;
    }
    job.factor = muon_factors(args->beta2, v, second, n);
    run_rows(&job, 0.5, muon_rows);
    return PICO_OK;
}
