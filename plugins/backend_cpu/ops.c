/*
 * The ops over rows: norm, rope, activation, gate, axpby, softcap, logit edits, argmax and top-k.
 * Each checks shapes, then runs a row kernel over its rows, shared between threads when that pays.
 */
#include <string.h>

#include "cpu.h"

/* One op at a time: what its rows need. Fields that an op does not use stay zero. */
typedef struct rows_job {
    const cpu_backend *cpu;
    cpu_view x, y, gate;
    const float *weight, *bias;
    uint32_t kind, reverse;
    float eps, scale, factor;
    const int32_t *pos;
    cpu_view cosine, sine;
    int64_t half;
} rows_job;

static int same_shape(const cpu_view *a, const cpu_view *b) {
    return a->rows == b->rows && a->heads == b->heads && a->cols == b->cols;
}

static float *head_of(const cpu_view *view, uint64_t row, int64_t head) {
    return cpu_row_f32(view, (int64_t)row) + head * view->head_stride;
}

static void run_rows(const rows_job *job, int64_t rows, double element_ns,
                     void (*fn)(void *arg, uint64_t begin, uint64_t end, uint32_t thread)) {
    const double ns = (double)(job->y.heads * job->y.cols) * element_ns + 1;
    cpu_parallel(job->cpu, (uint64_t)rows, (uint64_t)rows, ns, fn, (void *)(uintptr_t)job);
}

static void norm_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const rows_job *job = arg;
    for (uint64_t r = begin; r < end; r++) {
        for (int64_t h = 0; h < job->x.heads; h++) {
            job->cpu->kernels->row->norm(job->kind, job->eps, job->scale, head_of(&job->x, r, h),
                                         job->weight, job->bias, head_of(&job->y, r, h),
                                         job->x.cols);
        }
    }
}

pico_status cpu_norm(void *self, const pico_norm_args *args) {
    rows_job job = {.cpu = self, .kind = args->kind, .eps = args->eps, .scale = args->scale};
    float *weight = NULL, *bias = NULL;
    pico_status status = cpu_view_of(&args->x, PICO_DTYPE_F32, &job.x);
    if (status == PICO_OK) {
        status = cpu_view_of(&args->y, PICO_DTYPE_F32, &job.y);
    }
    if (status == PICO_OK) {
        status = cpu_optional_of(&args->weight, job.x.cols, &weight);
    }
    if (status == PICO_OK) {
        status = cpu_optional_of(&args->bias, job.x.cols, &bias);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (!same_shape(&job.x, &job.y) ||
        (args->kind != PICO_NORM_RMS && args->kind != PICO_NORM_LAYER)) {
        return PICO_E_INVALID;
    }
    job.weight = weight;
    job.bias = bias;
    run_rows(&job, job.x.rows, 0.2, norm_rows);
    return PICO_OK;
}

static void rope_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const rows_job *job = arg;
    const float sign = job->reverse ? -1.0f : 1.0f;
    for (uint64_t r = begin; r < end; r++) {
        const int32_t pos = job->pos[r];
        assert(pos >= 0 && pos < job->cosine.rows);
        for (int64_t h = 0; h < job->x.heads; h++) {
            job->cpu->kernels->row->rope(job->kind, sign, head_of(&job->x, r, h),
                                         cpu_row_f32(&job->cosine, pos),
                                         cpu_row_f32(&job->sine, pos), job->half);
        }
    }
}

pico_status cpu_rope(void *self, const pico_rope_args *args) {
    rows_job job = {.cpu = self,
                    .kind = args->layout,
                    .reverse = args->reverse,
                    .half = (int64_t)args->rope_dim / 2};
    void *pos = NULL;
    pico_status status = cpu_view_of(&args->x, PICO_DTYPE_F32, &job.x);
    if (status == PICO_OK) {
        status = cpu_view_of(&args->cos, PICO_DTYPE_F32, &job.cosine);
    }
    if (status == PICO_OK) {
        status = cpu_view_of(&args->sin, PICO_DTYPE_F32, &job.sine);
    }
    if (status == PICO_OK) {
        status = cpu_vector_of(&args->pos, PICO_DTYPE_I32, job.x.rows, &pos);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (args->rope_dim % 2 != 0 || (int64_t)args->rope_dim > job.x.cols ||
        job.cosine.cols != job.half || !same_shape(&job.cosine, &job.sine) ||
        job.cosine.heads != 1 ||
        (args->layout != PICO_ROPE_PAIRS && args->layout != PICO_ROPE_HALVES)) {
        return PICO_E_INVALID;
    }
    job.pos = pos;
    job.y = job.x;
    run_rows(&job, job.x.rows, 0.4, rope_rows);
    return PICO_OK;
}

static void act_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const rows_job *job = arg;
    for (uint64_t r = begin; r < end; r++) {
        for (int64_t h = 0; h < job->x.heads; h++) {
            const float *gate = job->gate.data == NULL ? NULL : head_of(&job->gate, r, h);
            job->cpu->kernels->row->activate(job->kind, head_of(&job->x, r, h), gate,
                                             head_of(&job->y, r, h), job->x.cols);
        }
    }
}

pico_status cpu_activation(void *self, const pico_act_args *args) {
    rows_job job = {.cpu = self, .kind = args->kind};
    pico_status status = cpu_view_of(&args->x, PICO_DTYPE_F32, &job.x);
    if (status == PICO_OK) {
        status = cpu_view_of(&args->y, PICO_DTYPE_F32, &job.y);
    }
    if (status == PICO_OK && args->gate.buffer != NULL) {
        status = cpu_view_of(&args->gate, PICO_DTYPE_F32, &job.gate);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (!same_shape(&job.x, &job.y) || (job.gate.data != NULL && !same_shape(&job.x, &job.gate)) ||
        args->kind < PICO_ACT_SILU || args->kind > PICO_ACT_RELU_SQUARED) {
        return PICO_E_INVALID;
    }
    run_rows(&job, job.x.rows, 0.5, act_rows);
    return PICO_OK;
}

static void gate_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const rows_job *job = arg;
    const cpu_row_kernels *row = job->cpu->kernels->row;
    for (uint64_t r = begin; r < end; r++) {
        for (int64_t h = 0; h < job->y.heads; h++) {
            float open;
            row->sigmoid(cpu_row_f32(&job->gate, (int64_t)r) + h, &open, 1);
            row->axpby(job->factor * open, head_of(&job->x, r, h), 1, head_of(&job->y, r, h),
                       job->y.cols);
        }
    }
}

static pico_status scalar_of(const pico_tensor *tensor, float factor, float *out) {
    float *value = NULL;
    const pico_status status = cpu_optional_of(tensor, 1, &value);
    *out = value == NULL ? factor : factor * *value;
    return status;
}

pico_status cpu_gate(void *self, const pico_gate_args *args) {
    rows_job job = {.cpu = self};
    pico_status status = cpu_view_of(&args->y, PICO_DTYPE_F32, &job.y);
    if (status == PICO_OK) {
        status = cpu_view_of(&args->u, PICO_DTYPE_F32, &job.x);
    }
    if (status == PICO_OK) {
        status = cpu_view_of(&args->g, PICO_DTYPE_F32, &job.gate);
    }
    if (status == PICO_OK) {
        status = scalar_of(&args->scalar, args->factor, &job.factor);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (!same_shape(&job.x, &job.y) || job.gate.rows != job.y.rows || job.gate.heads != 1 ||
        job.gate.cols != job.y.heads) {
        return PICO_E_INVALID;
    }
    run_rows(&job, job.y.rows, 0.2, gate_rows);
    return PICO_OK;
}

static void axpby_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const rows_job *job = arg;
    for (uint64_t r = begin; r < end; r++) {
        for (int64_t h = 0; h < job->y.heads; h++) {
            job->cpu->kernels->row->axpby(job->factor, head_of(&job->x, r, h), job->scale,
                                          head_of(&job->y, r, h), job->y.cols);
        }
    }
}

pico_status cpu_axpby(void *self, const pico_axpby_args *args) {
    rows_job job = {.cpu = self};
    pico_status status = cpu_view_of(&args->x, PICO_DTYPE_F32, &job.x);
    if (status == PICO_OK) {
        status = cpu_view_of(&args->y, PICO_DTYPE_F32, &job.y);
    }
    if (status == PICO_OK) {
        status = scalar_of(&args->a_scalar, args->a, &job.factor);
    }
    if (status == PICO_OK) {
        status = scalar_of(&args->b_scalar, args->b, &job.scale);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (!same_shape(&job.x, &job.y)) {
        return PICO_E_INVALID;
    }
    run_rows(&job, job.y.rows, 0.2, axpby_rows);
    return PICO_OK;
}

static void softcap_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const rows_job *job = arg;
    for (uint64_t r = begin; r < end; r++) {
        for (int64_t h = 0; h < job->y.heads; h++) {
            job->cpu->kernels->row->softcap(job->scale, head_of(&job->y, r, h), job->y.cols);
        }
    }
}

pico_status cpu_softcap(void *self, const pico_softcap_args *args) {
    rows_job job = {.cpu = self, .scale = args->cap};
    const pico_status status = cpu_view_of(&args->x, PICO_DTYPE_F32, &job.y);
    if (status != PICO_OK) {
        return status;
    }
    if (!(args->cap > 0)) {
        return PICO_E_INVALID;
    }
    run_rows(&job, job.y.rows, 0.5, softcap_rows);
    return PICO_OK;
}
