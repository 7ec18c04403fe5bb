/*
 * Slots of pico.train/1 over rows: backward passes of norm, activation, gate and softcap; rows of a
 * table gathered and scattered. Shapes are checked, then kernels run.
 */
#include "train.h"

static int same_shape(const cuda_view *a, const cuda_view *b) {
    return a->rows == b->rows && a->heads == b->heads && a->cols == b->cols;
}

/* n views of F32 tensors; stops at the first that is none. */
static pico_status views_of(const pico_tensor *const *tensors, cuda_view *const *out, size_t n) {
    pico_status status = PICO_OK;
    for (size_t i = 0; status == PICO_OK && i < n; i++) {
        status = cuda_view_of(tensors[i], PICO_DTYPE_F32, out[i]);
    }
    return status;
}

static pico_status add_columns(cuda_backend *cuda, const cuda_norm_back_job *job, uint32_t what,
                               float *out) {
    const cuda_column_job sum = {.what = what,
                                 .accumulate = 1,
                                 .factor = (double)job->scale,
                                 .x = what == CUDA_SUM ? job->dy : job->x,
                                 .y = job->dy,
                                 .mean = job->mean,
                                 .inverse = job->inverse,
                                 .partial = cuda->train->partial,
                                 .out = out};
    return out == NULL ? PICO_OK
                       : cuda_done(cuda, cuda_run_columns(cuda->stream, &sum), "norm_backward");
}

pico_status cuda_norm_backward(void *self, const pico_norm_backward_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_norm_back_job job = {
        .kind = args->kind, .accumulate = args->accumulate, .eps = args->eps, .scale = args->scale};
    const pico_tensor *const tensors[] = {&args->x, &args->dy, &args->dx};
    cuda_view *const views[] = {&job.x, &job.dy, &job.dx};
    float *weight = NULL, *dweight = NULL, *dbias = NULL;
    pico_status status = views_of(tensors, views, 3);
    if (status == PICO_OK) {
        status = cuda_optional_of(&args->weight, job.x.cols, &weight);
    }
    if (status == PICO_OK) {
        status = cuda_optional_of(&args->dweight, job.x.cols, &dweight);
    }
    if (status == PICO_OK) {
        status = cuda_optional_of(&args->dbias, job.x.cols, &dbias);
    }
    if (status != PICO_OK) {
        return status;
    }
    const int64_t n = job.x.rows * job.x.heads;
    if (cuda->train == NULL || !same_shape(&job.x, &job.dy) || !same_shape(&job.x, &job.dx) ||
        (args->kind != PICO_NORM_RMS && args->kind != PICO_NORM_LAYER) ||
        n > cuda->train->n_value || job.x.cols > (int64_t)cuda->train->need.max_dim) {
        return PICO_E_INVALID;
    }
    if (n == 0 || job.x.cols == 0) {
        return PICO_OK;
    }
    job.weight = weight;
    job.mean = cuda->train->value[0];
    job.inverse = cuda->train->value[1];
    if (dweight != NULL || dbias != NULL || !cuda_norm_back_alone(&job)) {
        status = cuda_done(cuda, cuda_run_norm_stats(cuda->stream, &job), "norm_backward");
    }
    if (status == PICO_OK) { /* before dx, which may be dy */
        status = add_columns(cuda, &job, CUDA_SUM_NORMED, dweight);
    }
    if (status == PICO_OK) {
        status = add_columns(cuda, &job, CUDA_SUM, dbias);
    }
    if (status == PICO_OK) {
        status = cuda_done(cuda, cuda_run_norm_back(cuda->stream, &job), "norm_backward");
    }
    return status;
}

/* Where a BF16 result goes; NULL: it is F32. */
static pico_status result_of(const pico_tensor *tensor, cuda_view *view, uint16_t **narrow) {
    uint32_t is_narrow = 0;
    const pico_status status = cuda_factor_of(tensor, view, &is_narrow);
    *narrow = status == PICO_OK && is_narrow ? (uint16_t *)(void *)view->data : NULL;
    return status == PICO_OK && is_narrow && view->row_stride != view->cols ? PICO_E_INVALID
                                                                            : status;
}

pico_status cuda_act_backward(void *self, const pico_act_backward_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_act_back_job job = {.kind = args->kind};
    const int gated = args->gate.buffer != NULL;
    const pico_tensor *const tensors[] = {&args->x, &args->dy, &args->gate};
    cuda_view *const views[] = {&job.x, &job.dy, &job.gate};
    pico_status status = views_of(tensors, views, gated ? 3 : 2);
    if (status == PICO_OK) {
        status = result_of(&args->dx, &job.dx, &job.narrow_dx);
    }
    if (status == PICO_OK && gated) {
        status = result_of(&args->dgate, &job.dgate, &job.narrow_dgate);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (cuda->train == NULL || job.x.heads != 1 || !same_shape(&job.x, &job.dy) ||
        !same_shape(&job.x, &job.dx) || args->kind < PICO_ACT_SILU ||
        args->kind > PICO_ACT_RELU_SQUARED ||
        (gated && (!same_shape(&job.x, &job.gate) || !same_shape(&job.x, &job.dgate)))) {
        return PICO_E_INVALID;
    }
    return job.x.rows == 0 || job.x.cols == 0
               ? PICO_OK
               : cuda_done(cuda, cuda_run_act_back(cuda->stream, &job), "act_backward");
}

pico_status cuda_softcap_backward(void *self, const pico_softcap_backward_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_view y, dy;
    const pico_tensor *const tensors[] = {&args->y, &args->dy};
    cuda_view *const views[] = {&y, &dy};
    const pico_status status = views_of(tensors, views, 2);
    if (status != PICO_OK) {
        return status;
    }
    if (cuda->train == NULL || !(args->cap > 0) || y.heads != 1 || !same_shape(&y, &dy)) {
        return PICO_E_INVALID;
    }
    return y.rows == 0 || y.cols == 0
               ? PICO_OK
               : cuda_done(cuda, cuda_run_softcap_back(cuda->stream, &y, &dy, args->cap),
                           "softcap_backward");
}

pico_status cuda_gate_backward(void *self, const pico_gate_backward_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_gate_back_job job = {.factor = args->factor};
    const pico_tensor *const tensors[] = {&args->g, &args->u, &args->dy, &args->dg, &args->du};
    cuda_view *const views[] = {&job.g, &job.u, &job.dy, &job.dg, &job.du};
    float *scalar = NULL, *dscalar = NULL;
    pico_status status = views_of(tensors, views, 5);
    if (status == PICO_OK) {
        status = cuda_optional_of(&args->scalar, 1, &scalar);
    }
    if (status == PICO_OK) {
        status = cuda_optional_of(&args->dscalar, 1, &dscalar);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (cuda->train == NULL || job.g.rows != job.u.rows || job.g.cols != job.u.heads ||
        job.g.heads != 1 || !same_shape(&job.g, &job.dg) || !same_shape(&job.u, &job.dy) ||
        !same_shape(&job.u, &job.du) || job.u.rows > cuda->train->n_value) {
        return PICO_E_INVALID;
    }
    if (job.u.rows == 0) {
        return PICO_OK;
    }
    job.scalar = scalar;
    job.share = cuda->train->value[0];
    status = cuda_done(cuda, cuda_run_gate_back(cuda->stream, &job), "gate_backward");
    if (status == PICO_OK && dscalar != NULL) {
        const cuda_finish_job finish = {.what = CUDA_FINISH_SUM,
                                        .accumulate = 1,
                                        .factor = 1,
                                        .x = job.share,
                                        .n = job.u.rows,
                                        .out = dscalar};
        status = cuda_done(cuda, cuda_run_finish(cuda->stream, &finish), "gate_backward");
    }
    return status;
}

static pico_status table_of(const pico_gather_args *args, cuda_table_job *job) {
    void *index = NULL;
    *job = (cuda_table_job){.accumulate = args->accumulate};
    pico_status status = cuda_view_of(&args->table, PICO_DTYPE_F32, &job->table);
    if (status == PICO_OK) {
        status = cuda_view_of(&args->rows, PICO_DTYPE_F32, &job->rows);
    }
    if (status == PICO_OK) {
        status = cuda_vector_of(&args->index, PICO_DTYPE_I32, job->rows.rows, &index);
    }
    if (status == PICO_OK &&
        (job->table.cols != job->rows.cols || job->table.heads != 1 || job->rows.heads != 1)) {
        status = PICO_E_INVALID;
    }
    job->index = index;
    return status;
}

pico_status cuda_gather(void *self, const pico_gather_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_table_job job;
    const pico_status status = table_of(args, &job);
    return status != PICO_OK || job.rows.rows == 0
               ? status
               : cuda_done(cuda, cuda_run_gather(cuda->stream, &job), "gather");
}

pico_status cuda_scatter(void *self, const pico_gather_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_table_job job;
    const pico_status status = table_of(args, &job);
    if (status != PICO_OK || job.rows.rows == 0) {
        return status;
    }
    if (cuda->train == NULL || job.rows.rows > cuda->train->n_value) {
        return PICO_E_INVALID;
    }
    job.sorted = (int32_t *)(void *)cuda->train->value[0];
    job.sorted_index = (int32_t *)(void *)cuda->train->value[1];
    return cuda_done(cuda, cuda_run_scatter(cuda->stream, &job), "scatter");
}
