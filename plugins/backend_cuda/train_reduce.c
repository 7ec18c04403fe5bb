/* Slots of pico.train/1: reductions, scaling, losses, and the steps of the optimisers. */
#include <math.h>

#include "train.h"

static pico_status reduce_rows(cuda_backend *cuda, const pico_reduce_args *args, const cuda_view *x,
                               const cuda_view *y) {
    const int by_row = args->kind == PICO_REDUCE_ROW_SQUARE;
    void *out = NULL;
    pico_status status = cuda_vector_of(&args->out, PICO_DTYPE_F32, by_row ? x->rows : 1, &out);
    if (status != PICO_OK || x->rows > cuda->train->n_value) {
        return status == PICO_OK ? PICO_E_INVALID : status;
    }
    if (x->rows > 0) {
        status =
            cuda_done(cuda, cuda_run_row_dots(cuda->stream, x, y, cuda->train->value[0]), "reduce");
    }
    const cuda_finish_job job = {.what = by_row                           ? CUDA_FINISH_EACH
                                         : args->kind == PICO_REDUCE_NORM ? CUDA_FINISH_ROOT
                                                                          : CUDA_FINISH_SUM,
                                 .accumulate = args->accumulate,
                                 .factor = by_row ? (double)args->factor / (double)x->cols
                                                  : (double)args->factor,
                                 .x = cuda->train->value[0],
                                 .n = x->rows,
                                 .out = out};
    return status == PICO_OK && (x->rows > 0 || !by_row)
               ? cuda_done(cuda, cuda_run_finish(cuda->stream, &job), "reduce")
               : status;
}

pico_status cuda_reduce(void *self, const pico_reduce_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_view x, y;
    void *out = NULL;
    pico_status status = cuda_view_of(&args->x, PICO_DTYPE_F32, &x);
    y = x;
    if (status == PICO_OK && args->kind == PICO_REDUCE_DOT) {
        status = cuda_view_of(&args->y, PICO_DTYPE_F32, &y);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (cuda->train == NULL || x.heads != 1 || y.heads != 1 || x.rows != y.rows ||
        x.cols != y.cols) {
        return PICO_E_INVALID;
    }
    switch (args->kind) {
    case PICO_REDUCE_DOT:
    case PICO_REDUCE_NORM:
    case PICO_REDUCE_ROW_SQUARE:
        return reduce_rows(cuda, args, &x, &y);
    case PICO_REDUCE_COLUMN_SUM:
    case PICO_REDUCE_COLUMN_SQUARE:
        break;
    default:
        return PICO_E_INVALID;
    }
    status = cuda_vector_of(&args->out, PICO_DTYPE_F32, x.cols, &out);
    if (status != PICO_OK || x.cols > (int64_t)cuda->train->need.max_dim) {
        return status == PICO_OK ? PICO_E_INVALID : status;
    }
    const int squares = args->kind == PICO_REDUCE_COLUMN_SQUARE;
    const cuda_column_job job = {.what = squares ? CUDA_SUM_SQUARE : CUDA_SUM,
                                 .accumulate = args->accumulate,
                                 .factor = squares ? (double)args->factor / (double)x.rows
                                                   : (double)args->factor,
                                 .x = x,
                                 .y = x,
                                 .partial = cuda->train->partial,
                                 .out = out};
    return x.cols == 0 ? PICO_OK : cuda_done(cuda, cuda_run_columns(cuda->stream, &job), "reduce");
}

pico_status cuda_scale(void *self, const pico_scale_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_scale_job job = {.value = args->value, .a = args->a, .b = args->b};
    float *scalar = NULL;
    pico_status status = cuda_view_of(&args->x, PICO_DTYPE_F32, &job.x);
    if (status == PICO_OK) {
        status = cuda_optional_of(&args->scalar, 1, &scalar);
    }
    if (status != PICO_OK || job.x.heads != 1) {
        return status == PICO_OK ? PICO_E_INVALID : status;
    }
    job.scalar = scalar;
    return job.x.rows == 0 || job.x.cols == 0
               ? PICO_OK
               : cuda_done(cuda, cuda_run_scale(cuda->stream, &job), "scale");
}

/* ---- optimisers ---- */

static int64_t elements(const pico_tensor *tensor) {
    int64_t n = 1;
    for (uint32_t i = 0; i < tensor->rank && i < 4; i++) {
        n *= tensor->shape[i];
    }
    return n;
}

pico_status cuda_adamw(void *self, const pico_adamw_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    const double left1 = 1 - pow((double)args->beta1, (double)args->step);
    const double left2 = 1 - pow((double)args->beta2, (double)args->step);
    cuda_adamw_job job = {.keep = 1 - args->lr * args->weight_decay,
                          .beta1 = args->beta1,
                          .beta2 = args->beta2,
                          .eps = args->eps,
                          .grad_scale = args->grad_scale,
                          .step_size = (float)((double)args->lr / left1),
                          .inv_root = (float)(1 / sqrt(left2)),
                          .n = elements(&args->p)};
    void *data[4] = {NULL};
    const pico_tensor *const tensors[] = {&args->p, &args->grad, &args->m, &args->v};
    pico_status status = cuda->train == NULL || args->step == 0 ? PICO_E_INVALID : PICO_OK;
    for (int i = 0; status == PICO_OK && i < 4; i++) {
        status = cuda_vector_of(tensors[i], PICO_DTYPE_F32, job.n, &data[i]);
    }
    if (status != PICO_OK || job.n == 0) {
        return status;
    }
    job.p = data[0];
    job.g = data[1];
    job.m = data[2];
    job.v = data[3];
    return cuda_done(cuda, cuda_run_adamw(cuda->stream, &job), "adamw");
}

/* square[i] = mean of x^2 of each row, or of each column */
static pico_status mean_squares(cuda_backend *cuda, const cuda_muon_job *job) {
    const cuda_view *x = &job->x;
    if (!job->by_row) {
        const cuda_column_job columns = {.what = CUDA_SUM_SQUARE,
                                         .factor = 1 / (double)x->rows,
                                         .x = *x,
                                         .y = *x,
                                         .partial = cuda->train->partial,
                                         .out = job->square};
        return cuda_done(cuda, cuda_run_columns(cuda->stream, &columns), "muon");
    }
    const cuda_finish_job finish = {.what = CUDA_FINISH_EACH,
                                    .factor = 1 / (double)x->cols,
                                    .x = job->square,
                                    .n = x->rows,
                                    .out = job->square};
    const pico_status status =
        cuda_done(cuda, cuda_run_row_dots(cuda->stream, x, x, job->square), "muon");
    return status == PICO_OK ? cuda_done(cuda, cuda_run_finish(cuda->stream, &finish), "muon")
                             : status;
}

pico_status cuda_muon(void *self, const pico_muon_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_muon_job job = {
        .lr = args->lr, .decay = args->lr * args->weight_decay, .beta2 = args->beta2};
    void *second = NULL;
    pico_status status = cuda_view_of(&args->x, PICO_DTYPE_F32, &job.x);
    if (status == PICO_OK) {
        status = cuda_view_of(&args->p, PICO_DTYPE_F32, &job.p);
    }
    job.by_row = job.x.rows >= job.x.cols;
    job.n = job.by_row ? job.x.rows : job.x.cols;
    if (status == PICO_OK) {
        status = cuda_vector_of(&args->second, PICO_DTYPE_F32, job.n, &second);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (cuda->train == NULL || job.x.heads != 1 || job.p.heads != 1 || job.x.rows != job.p.rows ||
        job.x.cols != job.p.cols || job.n > cuda->train->n_value ||
        job.x.cols > (int64_t)cuda->train->need.max_dim) {
        return PICO_E_INVALID;
    }
    if (job.x.rows == 0 || job.x.cols == 0) {
        return PICO_OK;
    }
    job.square = cuda->train->value[1];
    job.second = second;
    job.total = cuda->train->value[0];
    status = mean_squares(cuda, &job);
    return status == PICO_OK ? cuda_done(cuda, cuda_run_muon(cuda->stream, &job), "muon") : status;
}

/* ---- losses ---- */

/* Vectors that may be absent, (n) each. */
static pico_status vectors_of(const pico_loss_args *args, cuda_loss_job *job) {
    void *out[3] = {NULL, NULL, NULL};
    const pico_tensor *const tensors[] = {&args->target, &args->teacher_row, &args->mask};
    const int64_t rows = job->logits.rows, n[] = {rows, rows, job->logits.cols};
    pico_status status = PICO_OK;
    for (int i = 0; status == PICO_OK && i < 3; i++) {
        if (tensors[i]->buffer != NULL) {
            status = cuda_vector_of(tensors[i], PICO_DTYPE_I32, n[i], &out[i]);
        }
    }
    job->target = out[0];
    job->teacher_row = out[1];
    job->mask = out[2];
    if (status == PICO_OK) {
        status = cuda_optional_of(&args->ce, rows, &job->ce);
    }
    return status == PICO_OK ? cuda_optional_of(&args->kl, rows, &job->kl) : status;
}

pico_status cuda_loss(void *self, const pico_loss_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_loss_job job = {.hard = args->hard,
                         .soft = args->soft,
                         .inv_temperature = 1 / args->temperature,
                         .top_k = args->teacher_top_k,
                         .accumulate = args->accumulate};
    pico_status status = cuda_view_of(&args->logits, PICO_DTYPE_F32, &job.logits);
    if (status == PICO_OK && args->teacher.buffer != NULL) {
        status = cuda_view_of(&args->teacher, PICO_DTYPE_F32, &job.teacher);
    }
    if (status == PICO_OK && args->d.buffer != NULL) {
        status = cuda_view_of(&args->d, PICO_DTYPE_F32, &job.d);
    }
    if (status == PICO_OK) {
        status = vectors_of(args, &job);
    }
    if (status != PICO_OK) {
        return status;
    }
    const int teacher = job.teacher.data != NULL;
    if (cuda->train == NULL || job.logits.heads != 1 || !(args->temperature > 0) ||
        (teacher && (job.teacher.heads != 1 || job.teacher.cols != job.logits.cols)) ||
        (teacher && job.teacher_row == NULL && job.teacher.rows != job.logits.rows) ||
        (job.d.data != NULL &&
         (job.d.heads != 1 || job.d.rows != job.logits.rows || job.d.cols != job.logits.cols))) {
        return PICO_E_INVALID;
    }
    return job.logits.rows == 0 || job.logits.cols == 0
               ? PICO_OK
               : cuda_done(cuda, cuda_run_loss(cuda->stream, &job), "loss");
}
