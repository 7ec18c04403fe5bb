/*
 * Backward passes over rows: norm, activation, gate, softcap; rows of a table gathered and scattered;
 * sums over columns. Shapes are checked, then row kernels run, shared between threads where that
 * pays.
 */
#include <string.h>

#include "train.h"

static int same_shape(const cpu_view *a, const cpu_view *b) {
    return a->rows == b->rows && a->heads == b->heads && a->cols == b->cols;
}

static float *head_of(const cpu_view *view, int64_t row, int64_t head) {
    return cpu_row_f32(view, row) + head * view->head_stride;
}

/* n views of F32 tensors; stops at the first that is none. */
static pico_status views_of(const pico_tensor *const *tensors, cpu_view *const *out, size_t n) {
    pico_status status = PICO_OK;
    for (size_t i = 0; status == PICO_OK && i < n; i++) {
        status = cpu_view_of(tensors[i], PICO_DTYPE_F32, out[i]);
    }
    return status;
}

/* ---- sums over columns ---- */

typedef struct column_job {
    cpu_column_fn add;
    const void *arg;
    int64_t rows, cols;
    float factor;
    uint32_t accumulate;
    float *out;
} column_job;

static void column_part(const column_job *job, int64_t column, int64_t n) {
    double total[CPU_TRAIN_COLS];
    float partial[CPU_TRAIN_COLS];
    for (int64_t i = 0; i < n; i++) {
        total[i] = 0;
    }
    for (int64_t r = 0; r < job->rows;) {
        const int64_t end = job->rows - r < 64 ? job->rows : r + 64;
        memset(partial, 0, (size_t)n * sizeof *partial);
        for (; r < end; r++) {
            job->add(job->arg, r, column, n, partial);
        }
        for (int64_t i = 0; i < n; i++) {
            total[i] += (double)partial[i];
        }
    }
    for (int64_t i = 0; i < n; i++) {
        float *out = job->out + column + i;
        const float sum = (float)(total[i] * (double)job->factor);
        *out = job->accumulate ? *out + sum : sum;
    }
}

static void column_parts(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const column_job *job = arg;
    for (int64_t p = (int64_t)begin; p < (int64_t)end; p++) {
        const int64_t column = p * 64, left = job->cols - column;
        column_part(job, column, left < 64 ? left : 64);
    }
}

void cpu_sum_columns(const cpu_backend *cpu, int64_t rows, int64_t cols, cpu_column_fn add,
                     const void *arg, float factor, uint32_t accumulate, float *out) {
    column_job job = {add, arg, rows, cols, factor, accumulate, out};
    const uint64_t parts = (uint64_t)(cols + 63) / 64;
    cpu_parallel(cpu, parts, parts, (double)rows * 64 * 0.15, column_parts, &job);
}

/* ---- norm ---- */

typedef struct norm_job {
    const cpu_backend *cpu;
    const pico_norm_backward_args *args;
    cpu_view x, dy, dx;
    const float *weight;
    float *mean, *inverse; /* (rows * heads) */
} norm_job;

static void norm_stats(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const norm_job *job = arg;
    for (int64_t i = (int64_t)begin; i < (int64_t)end; i++) {
        job->cpu->train->row->norm_stats(job->args->kind, job->args->eps,
                                         head_of(&job->x, i / job->x.heads, i % job->x.heads),
                                         job->x.cols, &job->mean[i], &job->inverse[i]);
    }
}

static void norm_dx(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const norm_job *job = arg;
    for (int64_t i = (int64_t)begin; i < (int64_t)end; i++) {
        const int64_t row = i / job->x.heads, head = i % job->x.heads;
        job->cpu->train->row->norm_dx(job->args->kind, job->args->scale, job->mean[i],
                                      job->inverse[i], head_of(&job->x, row, head), job->weight,
                                      head_of(&job->dy, row, head), head_of(&job->dx, row, head),
                                      job->args->accumulate, job->x.cols);
    }
}

static void add_dweight(const void *arg, int64_t i, int64_t column, int64_t n, float *partial) {
    const norm_job *job = arg;
    const int64_t row = i / job->x.heads, head = i % job->x.heads;
    job->cpu->train->row->add_product(job->inverse[i], job->mean[i],
                                      head_of(&job->x, row, head) + column,
                                      head_of(&job->dy, row, head) + column, partial, n);
}

static void add_dy(const void *arg, int64_t i, int64_t column, int64_t n, float *partial) {
    const norm_job *job = arg;
    const int64_t row = i / job->x.heads, head = i % job->x.heads;
    job->cpu->kernels->row->axpby(1, head_of(&job->dy, row, head) + column, 1, partial, n);
}

pico_status cpu_norm_backward(void *self, const pico_norm_backward_args *args) {
    cpu_backend *cpu = self;
    norm_job job = {.cpu = cpu, .args = args};
    const pico_tensor *const tensors[] = {&args->x, &args->dy, &args->dx};
    cpu_view *const views[] = {&job.x, &job.dy, &job.dx};
    float *weight = NULL, *dweight = NULL, *dbias = NULL;
    pico_status status = views_of(tensors, views, 3);
    if (status == PICO_OK) {
        status = cpu_optional_of(&args->weight, job.x.cols, &weight);
    }
    if (status == PICO_OK) {
        status = cpu_optional_of(&args->dweight, job.x.cols, &dweight);
    }
    if (status == PICO_OK) {
        status = cpu_optional_of(&args->dbias, job.x.cols, &dbias);
    }
    if (status != PICO_OK) {
        return status;
    }
    const int64_t n = job.x.rows * job.x.heads;
    if (cpu->train == NULL || !same_shape(&job.x, &job.dy) || !same_shape(&job.x, &job.dx) ||
        (args->kind != PICO_NORM_RMS && args->kind != PICO_NORM_LAYER) ||
        (uint64_t)n > cpu->train->n_value) {
        return PICO_E_INVALID;
    }
    job.weight = weight;
    job.mean = cpu->train->value[0];
    job.inverse = cpu->train->value[1];
    const double ns = (double)job.x.cols * 0.2 + 5;
    cpu_parallel(cpu, (uint64_t)n, (uint64_t)n, ns, norm_stats, &job);
    if (dweight != NULL) {
        cpu_sum_columns(cpu, n, job.x.cols, add_dweight, &job, args->scale, 1, dweight);
    }
    if (dbias != NULL) {
        cpu_sum_columns(cpu, n, job.x.cols, add_dy, &job, args->scale, 1, dbias);
    }
    cpu_parallel(cpu, (uint64_t)n, (uint64_t)n, 2 * ns, norm_dx, &job);
    return PICO_OK;
}

/* ---- activation, softcap ---- */

typedef struct act_job {
    const cpu_backend *cpu;
    uint32_t kind;
    float inv_cap;
    cpu_view x, gate, dy, dx, dgate;
} act_job;

static void act_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const act_job *job = arg;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
        const int gated = job->gate.data != NULL;
        job->cpu->train->row->act_dx(job->kind, cpu_row_f32(&job->x, r),
                                     gated ? cpu_row_f32(&job->gate, r) : NULL,
                                     cpu_row_f32(&job->dy, r), cpu_row_f32(&job->dx, r),
                                     gated ? cpu_row_f32(&job->dgate, r) : NULL, job->x.cols);
    }
}

pico_status cpu_act_backward(void *self, const pico_act_backward_args *args) {
    cpu_backend *cpu = self;
    act_job job = {.cpu = cpu, .kind = args->kind};
    const int gated = args->gate.buffer != NULL;
    const pico_tensor *const tensors[] = {&args->x, &args->dy, &args->dx, &args->gate,
                                          &args->dgate};
    cpu_view *const views[] = {&job.x, &job.dy, &job.dx, &job.gate, &job.dgate};
    const pico_status status = views_of(tensors, views, gated ? 5 : 3);
    if (status != PICO_OK) {
        return status;
    }
    if (cpu->train == NULL || job.x.heads != 1 || !same_shape(&job.x, &job.dy) ||
        !same_shape(&job.x, &job.dx) || args->kind < PICO_ACT_SILU ||
        args->kind > PICO_ACT_RELU_SQUARED ||
        (gated && (!same_shape(&job.x, &job.gate) || !same_shape(&job.x, &job.dgate)))) {
        return PICO_E_INVALID;
    }
    cpu_parallel(cpu, (uint64_t)job.x.rows, (uint64_t)job.x.rows, (double)job.x.cols * 0.8 + 2,
                 act_rows, &job);
    return PICO_OK;
}

static void softcap_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const act_job *job = arg;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
        job->cpu->train->row->softcap_dx(job->inv_cap, cpu_row_f32(&job->x, r),
                                         cpu_row_f32(&job->dy, r), job->x.cols);
    }
}

pico_status cpu_softcap_backward(void *self, const pico_softcap_backward_args *args) {
    cpu_backend *cpu = self;
    act_job job = {.cpu = cpu, .inv_cap = 1 / args->cap};
    const pico_tensor *const tensors[] = {&args->y, &args->dy};
    cpu_view *const views[] = {&job.x, &job.dy};
    const pico_status status = views_of(tensors, views, 2);
    if (status != PICO_OK) {
        return status;
    }
    if (cpu->train == NULL || !(args->cap > 0) || job.x.heads != 1 ||
        !same_shape(&job.x, &job.dy)) {
        return PICO_E_INVALID;
    }
    cpu_parallel(cpu, (uint64_t)job.x.rows, (uint64_t)job.x.rows, (double)job.x.cols * 0.2 + 2,
                 softcap_rows, &job);
    return PICO_OK;
}

/* ---- gate ---- */

typedef struct gate_job {
    const cpu_backend *cpu;
    float factor, scalar;
    cpu_view g, u, dy, dg, du;
    float *by_scalar; /* (rows) share of each row in dscalar */
} gate_job;

static void gate_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const gate_job *job = arg;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
        float share = 0;
        for (int64_t h = 0; h < job->u.heads; h++) {
            float open;
            const float *dy = head_of(&job->dy, r, h);
            job->cpu->kernels->row->sigmoid(cpu_row_f32(&job->g, r) + h, &open, 1);
            const float flow =
                job->cpu->train->row->dot(head_of(&job->u, r, h), dy, job->u.cols) * job->factor;
            share += open * flow;
            cpu_row_f32(&job->dg, r)[h] = job->scalar * open * (1 - open) * flow;
            job->cpu->kernels->row->axpby(job->factor * job->scalar * open, dy, 0,
                                          head_of(&job->du, r, h), job->u.cols);
        }
        job->by_scalar[r] = share;
    }
}

pico_status cpu_gate_backward(void *self, const pico_gate_backward_args *args) {
    cpu_backend *cpu = self;
    gate_job job = {.cpu = cpu, .factor = args->factor, .scalar = 1};
    const pico_tensor *const tensors[] = {&args->g, &args->u, &args->dy, &args->dg, &args->du};
    cpu_view *const views[] = {&job.g, &job.u, &job.dy, &job.dg, &job.du};
    float *scalar = NULL, *dscalar = NULL;
    pico_status status = views_of(tensors, views, 5);
    if (status == PICO_OK) {
        status = cpu_optional_of(&args->scalar, 1, &scalar);
    }
    if (status == PICO_OK) {
        status = cpu_optional_of(&args->dscalar, 1, &dscalar);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (cpu->train == NULL || job.g.rows != job.u.rows || job.g.cols != job.u.heads ||
        job.g.heads != 1 || !same_shape(&job.g, &job.dg) || !same_shape(&job.u, &job.dy) ||
        !same_shape(&job.u, &job.du) || (uint64_t)job.u.rows > cpu->train->n_value) {
        return PICO_E_INVALID;
    }
    job.scalar = scalar == NULL ? 1 : *scalar;
    job.by_scalar = cpu->train->value[0];
    cpu_parallel(cpu, (uint64_t)job.u.rows, (uint64_t)job.u.rows,
                 (double)(job.u.heads * job.u.cols) * 0.3 + 5, gate_rows, &job);
    if (dscalar != NULL) {
        double sum = 0;
        for (int64_t r = 0; r < job.u.rows; r++) {
            sum += (double)job.by_scalar[r];
        }
        *dscalar += (float)sum;
    }
    return PICO_OK;
}

/* ---- gather and scatter ---- */

typedef struct table_job {
    const cpu_backend *cpu;
    cpu_view table, rows;
    const int32_t *index;
    uint32_t accumulate;
} table_job;

static void gather_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const table_job *job = arg;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
        float *out = cpu_row_f32(&job->rows, r);
        if (job->index[r] >= 0) {
            assert(job->index[r] < job->table.rows);
            job->cpu->kernels->row->axpby(1, cpu_row_f32(&job->table, job->index[r]),
                                          job->accumulate ? 1 : 0, out, job->rows.cols);
        } else if (!job->accumulate) {
            memset(out, 0, (size_t)job->rows.cols * sizeof *out);
        }
    }
}

/* By ranges of columns, so that no two threads add to the same place. */
static void scatter_columns(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const table_job *job = arg;
    const int64_t column = (int64_t)begin * 16;
    const int64_t last = (int64_t)end * 16 < job->rows.cols ? (int64_t)end * 16 : job->rows.cols;
    for (int64_t r = 0; r < job->rows.rows; r++) {
        if (job->index[r] >= 0) {
            assert(job->index[r] < job->table.rows);
            job->cpu->kernels->row->axpby(1, cpu_row_f32(&job->rows, r) + column, 1,
                                          cpu_row_f32(&job->table, job->index[r]) + column,
                                          last - column);
        }
    }
}

static pico_status table_of(void *self, const pico_gather_args *args, table_job *job) {
    void *index = NULL;
    *job = (table_job){.cpu = self, .accumulate = args->accumulate};
    pico_status status = cpu_view_of(&args->table, PICO_DTYPE_F32, &job->table);
    if (status == PICO_OK) {
        status = cpu_view_of(&args->rows, PICO_DTYPE_F32, &job->rows);
    }
    if (status == PICO_OK) {
        status = cpu_vector_of(&args->index, PICO_DTYPE_I32, job->rows.rows, &index);
    }
    if (status == PICO_OK &&
        (job->table.cols != job->rows.cols || job->table.heads != 1 || job->rows.heads != 1)) {
        status = PICO_E_INVALID;
    }
    job->index = index;
    return status;
}

pico_status cpu_gather(void *self, const pico_gather_args *args) {
    table_job job;
    const pico_status status = table_of(self, args, &job);
    if (status == PICO_OK) {
        cpu_parallel(self, (uint64_t)job.rows.rows, (uint64_t)job.rows.rows,
                     (double)job.rows.cols * 0.2 + 2, gather_rows, &job);
    }
    return status;
}

pico_status cpu_scatter(void *self, const pico_gather_args *args) {
    table_job job;
    const pico_status status = table_of(self, args, &job);
    if (status == PICO_OK) {
        const uint64_t parts = (uint64_t)(job.rows.cols + 15) / 16;
        cpu_parallel(self, parts, parts, (double)job.rows.rows * 5, scatter_columns, &job);
    }
    return status;
}
