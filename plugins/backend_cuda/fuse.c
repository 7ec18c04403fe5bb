/* Ops that wait for the next one; see fuse.h. */
#include "fuse.h"

int cuda_same_view(const cuda_view *a, const cuda_view *b) {
    return a->data == b->data && a->rows == b->rows && a->heads == b->heads && a->cols == b->cols &&
           (a->rows < 2 || a->row_stride == b->row_stride) &&
           (a->heads < 2 || a->head_stride == b->head_stride);
}

static const char *end_of(const cuda_view *view) {
    return view->data + ((view->rows - 1) * view->row_stride +
                         (view->heads - 1) * view->head_stride + view->cols) *
                            (int64_t)sizeof(float);
}

int cuda_share_memory(const cuda_view *a, const cuda_view *b) {
    return a->data < end_of(b) && b->data < end_of(a);
}

static cudaError_t run_product(cuda_backend *cuda, const cuda_vector_job *job, uint32_t mma) {
    return mma ? cuda_run_few(cuda->stream, job) : cuda_run_vector(cuda->stream, job);
}

void cuda_flush(cuda_backend *cuda) {
    struct cuda_pending *pending = cuda->pending;
    if (pending == NULL || pending->kind == CUDA_PENDING_NOTHING) {
        return;
    }
    const uint32_t kind = pending->kind;
    pending->kind = CUDA_PENDING_NOTHING;
    if (kind == CUDA_PENDING_NORM) {
        (void)cuda_done(cuda, cuda_run_norm(cuda->stream, &pending->norm), "norm");
    } else if (kind == CUDA_PENDING_PRODUCT) {
        (void)cuda_done(cuda, run_product(cuda, &pending->product, pending->mma), "linear");
    } else {
        const uint32_t last = pending->heads.step[pending->heads.n_step - 1].what;
        (void)cuda_done(cuda, cuda_run_heads(cuda->stream, &pending->heads),
                        last == CUDA_HEAD_ROPE   ? "rope"
                        : last == CUDA_HEAD_NORM ? "norm"
                                                 : "kv_store");
    }
}

/* With `sync`, each op runs when it is called, so that the one that fails is named. */
static void flush_if_asked(cuda_backend *cuda) {
    if (cuda->options.sync) {
        cuda_flush(cuda);
    }
}

void cuda_wait_with_norm(cuda_backend *cuda, const cuda_norm_job *job) {
    cuda_flush(cuda);
    cuda->pending->kind = CUDA_PENDING_NORM;
    cuda->pending->norm = *job;
    flush_if_asked(cuda);
}

int cuda_take_norm(cuda_backend *cuda, const cuda_view *x, cuda_norm_job *out) {
    struct cuda_pending *pending = cuda->pending;
    if (pending->kind != CUDA_PENDING_NORM || !cuda_same_view(&pending->norm.y, x)) {
        return 0;
    }
    *out = pending->norm;
    pending->kind = CUDA_PENDING_NOTHING;
    return 1;
}

void cuda_wait_with_product(cuda_backend *cuda, const cuda_vector_job *job, uint32_t mma,
                            const cuda_view *y) {
    cuda_flush(cuda);
    cuda->pending->kind = CUDA_PENDING_PRODUCT;
    cuda->pending->product = *job;
    cuda->pending->mma = mma;
    cuda->pending->y = *y;
    flush_if_asked(cuda);
}

int cuda_activate_product(cuda_backend *cuda, uint32_t act, const cuda_view *y) {
    struct cuda_pending *pending = cuda->pending;
    if (pending->kind != CUDA_PENDING_PRODUCT || !cuda_same_view(&pending->y, y)) {
        return 0;
    }
    pending->product.act = act;
    cuda_flush(cuda);
    return 1;
}

/* The target's place among those of the job; CUDA_HEAD_TARGETS: it cannot be one. */
static uint32_t find_target(const cuda_heads_job *job, const cuda_view *target) {
    uint32_t at = CUDA_HEAD_TARGETS;
    for (uint32_t t = 0; t < job->n_target; t++) {
        if (cuda_same_view(&job->target[t], target)) {
            at = t;
        } else if (cuda_share_memory(&job->target[t], target)) {
            return CUDA_HEAD_TARGETS;
        }
    }
    return at < CUDA_HEAD_TARGETS ? at : job->n_target;
}

void cuda_add_head_step(cuda_backend *cuda, const cuda_view *target, const cuda_head_step *step,
                        const cuda_store_job *store) {
    struct cuda_pending *pending = cuda->pending;
    cuda_heads_job *job = &pending->heads;
    uint32_t at = CUDA_HEAD_TARGETS;
    if (pending->kind == CUDA_PENDING_HEADS && job->rows == target->rows &&
        job->n_step < CUDA_HEAD_STEPS) {
        at = find_target(job, target);
    }
    if (at == CUDA_HEAD_TARGETS) {
        cuda_flush(cuda);
        pending->kind = CUDA_PENDING_HEADS;
        job->rows = target->rows;
        job->n_target = job->n_step = 0;
        at = 0;
    }
    if (at == job->n_target) {
        job->target[job->n_target++] = *target;
    }
    job->step[job->n_step] = *step;
    job->step[job->n_step++].target = at;
    if (store != NULL) {
        job->store = *store;
    }
    flush_if_asked(cuda);
}
