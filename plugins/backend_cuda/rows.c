/*
 * The slots over rows: norm, rope, activation, gate, axpby, softcap, embed. Each checks shapes and
 * launches.
 */
#include "cuda.h"
#include "fuse.h"
#include "jobs.h"
#include "train.h"

static int same_shape(const cuda_view *a, const cuda_view *b) {
    return a->rows == b->rows && a->heads == b->heads && a->cols == b->cols;
}

static int is_empty(const cuda_view *view) {
    return view->rows == 0 || view->heads == 0 || view->cols == 0;
}

/* Narrow rows in place may be one of several steps on the same heads; wide ones wait for a product. */
static void run_norm(cuda_backend *cuda, const cuda_norm_job *job) {
    const int narrow = job->x.cols <= CUDA_NORM_WARP_WIDTH,
              apart = !cuda_share_memory(&job->x, &job->y);
    if (narrow && cuda_same_view(&job->x, &job->y)) {
        const cuda_head_step step = {.what = CUDA_HEAD_NORM, .norm = *job};
        cuda_add_head_step(cuda, &job->x, &step, NULL);
    } else if (!narrow && apart && job->x.heads == 1) {
        cuda_wait_with_norm(cuda, job);
    } else {
        cuda_flush(cuda);
        (void)cuda_done(cuda, cuda_run_norm(cuda->stream, job), "norm");
    }
}

pico_status cuda_norm(void *self, const pico_norm_args *args) {
    cuda_backend *cuda = cuda_enter_fusing(self);
    cuda_norm_job job = {.kind = args->kind, .eps = args->eps, .scale = args->scale};
    uint32_t narrow = 0;
    float *weight = NULL, *bias = NULL;
    pico_status status = cuda_view_of(&args->x, PICO_DTYPE_F32, &job.x);
    if (status == PICO_OK) {
        status = cuda_factor_of(&args->y, &job.y, &narrow);
    }
    if (status == PICO_OK) {
        status = cuda_optional_of(&args->weight, job.x.cols, &weight);
    }
    if (status == PICO_OK) {
        status = cuda_optional_of(&args->bias, job.x.cols, &bias);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (!same_shape(&job.x, &job.y) ||
        (args->kind != PICO_NORM_RMS && args->kind != PICO_NORM_LAYER) ||
        (narrow && job.y.row_stride != job.y.cols)) {
        return PICO_E_INVALID;
    }
    job.weight = weight;
    job.bias = bias;
    if (is_empty(&job.x)) {
        return PICO_OK;
    }
    if (narrow) {
        cuda_flush(cuda);
        return cuda_done(cuda, cuda_run_norm_narrow(cuda->stream, &job), "norm");
    }
    run_norm(cuda, &job);
    return PICO_OK;
}

pico_status cuda_rope(void *self, const pico_rope_args *args) {
    cuda_backend *cuda = cuda_enter_fusing(self);
    cuda_rope_job job = {.layout = args->layout,
                         .sign = args->reverse ? -1.0f : 1.0f,
                         .half = (int64_t)args->rope_dim / 2};
    void *pos = NULL;
    pico_status status = cuda_view_of(&args->x, PICO_DTYPE_F32, &job.x);
    if (status == PICO_OK) {
        status = cuda_view_of(&args->cos, PICO_DTYPE_F32, &job.cosine);
    }
    if (status == PICO_OK) {
        status = cuda_view_of(&args->sin, PICO_DTYPE_F32, &job.sine);
    }
    if (status == PICO_OK) {
        status = cuda_vector_of(&args->pos, PICO_DTYPE_I32, job.x.rows, &pos);
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
    if (!is_empty(&job.x) && job.half != 0) {
        const cuda_head_step step = {.what = CUDA_HEAD_ROPE, .rope = job};
        cuda_add_head_step(cuda, &job.x, &step, NULL);
    }
    return PICO_OK;
}

static pico_status run_element(void *self, const cuda_element_job *job, const char *name) {
    cuda_backend *cuda = cuda_enter(self);
    if (!same_shape(&job->x, &job->y) || (job->gate.data != NULL && job->what == CUDA_ELEMENT_ACT &&
                                          !same_shape(&job->gate, &job->y))) {
        return PICO_E_INVALID;
    }
    return is_empty(&job->y) ? PICO_OK : cuda_done(cuda, cuda_run_element(cuda->stream, job), name);
}

pico_status cuda_activation(void *self, const pico_act_args *args) {
    cuda_backend *cuda = cuda_enter_fusing(self);
    cuda_element_job job = {.what = CUDA_ELEMENT_ACT, .kind = args->kind};
    uint32_t narrow = 0;
    pico_status status = cuda_view_of(&args->x, PICO_DTYPE_F32, &job.x);
    if (status == PICO_OK) {
        status = cuda_factor_of(&args->y, &job.y, &narrow);
    }
    if (status == PICO_OK && narrow) {
        job.narrow = (uint16_t *)(void *)job.y.data;
        status = job.y.row_stride == job.y.cols ? PICO_OK : PICO_E_INVALID;
    }
    if (status == PICO_OK && args->gate.buffer != NULL) {
        status = cuda_view_of(&args->gate, PICO_DTYPE_F32, &job.gate);
    }
    if (status == PICO_OK && (args->kind < PICO_ACT_SILU || args->kind > PICO_ACT_RELU_SQUARED)) {
        status = PICO_E_INVALID;
    }
    if (status == PICO_OK && job.gate.data == NULL && cuda_same_view(&job.x, &job.y) &&
        cuda_activate_product(cuda, args->kind, &job.y)) {
        return PICO_OK;
    }
    return status == PICO_OK ? run_element(self, &job, "activation") : status;
}

pico_status cuda_gate(void *self, const pico_gate_args *args) {
    cuda_element_job job = {.what = CUDA_ELEMENT_GATE, .a = args->factor};
    float *scalar = NULL;
    pico_status status = cuda_view_of(&args->u, PICO_DTYPE_F32, &job.x);
    if (status == PICO_OK) {
        status = cuda_view_of(&args->y, PICO_DTYPE_F32, &job.y);
    }
    if (status == PICO_OK) {
        status = cuda_view_of(&args->g, PICO_DTYPE_F32, &job.gate);
    }
    if (status == PICO_OK) {
        status = cuda_optional_of(&args->scalar, 1, &scalar);
    }
    if (status == PICO_OK &&
        (job.gate.heads != 1 || job.gate.rows != job.x.rows || job.gate.cols != job.x.heads)) {
        status = PICO_E_INVALID;
    }
    job.a_scalar = scalar;
    return status == PICO_OK ? run_element(self, &job, "gate") : status;
}

pico_status cuda_axpby(void *self, const pico_axpby_args *args) {
    cuda_element_job job = {.what = CUDA_ELEMENT_AXPBY, .a = args->a, .b = args->b};
    float *a = NULL, *b = NULL;
    pico_status status = cuda_view_of(&args->x, PICO_DTYPE_F32, &job.x);
    if (status == PICO_OK) {
        status = cuda_view_of(&args->y, PICO_DTYPE_F32, &job.y);
    }
    if (status == PICO_OK) {
        status = cuda_optional_of(&args->a_scalar, 1, &a);
    }
    if (status == PICO_OK) {
        status = cuda_optional_of(&args->b_scalar, 1, &b);
    }
    job.a_scalar = a;
    job.b_scalar = b;
    return status == PICO_OK ? run_element(self, &job, "axpby") : status;
}

pico_status cuda_softcap(void *self, const pico_softcap_args *args) {
    cuda_element_job job = {.what = CUDA_ELEMENT_SOFTCAP, .a = args->cap};
    pico_status status = cuda_view_of(&args->x, PICO_DTYPE_F32, &job.x);
    job.y = job.x;
    if (status == PICO_OK && !(args->cap > 0)) {
        status = PICO_E_INVALID;
    }
    return status == PICO_OK ? run_element(self, &job, "softcap") : status;
}

pico_status cuda_embed(void *self, const pico_embed_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_embed_job job = {.accumulate = args->accumulate};
    void *index = NULL;
    pico_status status = cuda_view_of(&args->out, PICO_DTYPE_F32, &job.out);
    if (status == PICO_OK) {
        status = cuda_vector_of(&args->index, PICO_DTYPE_I32, job.out.rows, &index);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (args->table == NULL || job.out.heads != 1 || job.out.cols != args->table->device.cols) {
        return PICO_E_INVALID;
    }
    job.table = args->table->device;
    job.index = index;
    return is_empty(&job.out) ? PICO_OK
                              : cuda_done(cuda, cuda_run_embed(cuda->stream, &job), "embed");
}
