/*
 * Attention over whole sequences, forward and backward. In BF16, where the shapes allow it, kernels of
 * their own (train_flash.cu); else batched F32 products with the scores of some heads in scratch
 * memory: the query heads at the same place of each KV head's group form a batch, so that what they
 * share is added up in the order of the places. The whole square of scores is computed, hidden ones too.
 */
#include "train.h"

typedef struct attend_work {
    cuda_backend *cuda;
    const pico_train_attend_args *args;
    cuda_view q, k, v, out;
    float *lse;
    cuda_view dout, dq, dk, dv; /* backward */
    int64_t group;
    /* at hand */
    int64_t row, first, heads; /* first row of the sequence; KV heads [first, first + heads) */
    int64_t place;             /* in the groups */
} attend_work;

static float *at(const attend_work *w, const cuda_view *view, int64_t head) {
    return (float *)(void *)view->data + w->row * view->row_stride + head * view->head_stride;
}

static float *of_query(const attend_work *w, const cuda_view *view) {
    return at(w, view, w->first * w->group + w->place);
}

static float *of_key(const attend_work *w, const cuda_view *view) {
    return at(w, view, w->first);
}

/* What one factor or the result of a batch of products is. */
typedef struct side {
    float *data;
    int64_t ld, stride; /* rows, heads; elements */
    int64_t rows, cols;
} side;

static side query_side(const attend_work *w, const cuda_view *view) {
    return (side){of_query(w, view), view->row_stride, w->group * view->head_stride,
                  w->args->length, view->cols};
}

static side key_side(const attend_work *w, const cuda_view *view) {
    return (side){of_key(w, view), view->row_stride, view->head_stride, w->args->length,
                  view->cols};
}

static side score_side(const attend_work *w, int which) {
    const int64_t n = w->args->length;
    return (side){w->cuda->train->score[which], n, n * n, n, n};
}

static pico_status product(const attend_work *w, side a, int transpose_a, side b, int transpose_b,
                           float alpha, float beta, side c) {
    const cuda_gemm_job job = {.transpose_a = (uint32_t)transpose_a,
                               .transpose_b = (uint32_t)transpose_b,
                               .m = c.rows,
                               .n = c.cols,
                               .k = transpose_a ? a.rows : a.cols,
                               .a = a.data,
                               .b = b.data,
                               .c = c.data,
                               .lda = a.ld,
                               .ldb = b.ld,
                               .ldc = c.ld,
                               .alpha = alpha,
                               .beta = beta,
                               .batch = w->heads,
                               .stride_a = a.stride,
                               .stride_b = b.stride,
                               .stride_c = c.stride};
    return cuda_gemm_run(w->cuda, &job);
}

static cuda_score_job score_job(const attend_work *w) {
    const int64_t heads = w->q.heads;
    return (cuda_score_job){.length = w->args->length,
                            .heads = w->heads,
                            .window = w->args->window,
                            .n_sink =
                                w->args->n_sink > INT32_MAX ? INT32_MAX : (int32_t)w->args->n_sink,
                            .score = w->cuda->train->score[0],
                            .dscore = w->cuda->train->score[1],
                            .lse = w->lse + w->row * heads + w->first * w->group + w->place,
                            .lse_row = heads,
                            .lse_head = w->group,
                            .scale = w->args->scale,
                            .width = w->q.cols};
}

static pico_status forward_heads(const attend_work *w) {
    const cuda_score_job job = score_job(w);
    pico_status status = product(w, query_side(w, &w->q), 0, key_side(w, &w->k), 1, w->args->scale,
                                 0, score_side(w, 0));
    if (status == PICO_OK) {
        status = cuda_done(w->cuda, cuda_run_softmax(w->cuda->stream, &job), "train attend");
    }
    return status == PICO_OK ? product(w, score_side(w, 0), 0, key_side(w, &w->v), 0, 1, 0,
                                       query_side(w, &w->out))
                             : status;
}

static pico_status backward_heads(const attend_work *w) {
    cuda_score_job job = score_job(w);
    const float add = w->place == 0 ? 0 : 1; /* what the heads of a group share adds up */
    job.out = of_query(w, &w->out);
    job.out_row = w->out.row_stride;
    job.out_head = w->group * w->out.head_stride;
    job.dout = of_query(w, &w->dout);
    job.dout_row = w->dout.row_stride;
    job.dout_head = w->group * w->dout.head_stride;
    pico_status status = product(w, query_side(w, &w->q), 0, key_side(w, &w->k), 1, w->args->scale,
                                 0, score_side(w, 0));
    if (status == PICO_OK) {
        status =
            product(w, query_side(w, &w->dout), 0, key_side(w, &w->v), 1, 1, 0, score_side(w, 1));
    }
    if (status == PICO_OK) {
        status =
            cuda_done(w->cuda, cuda_run_softmax_back(w->cuda->stream, &job), "attend_backward");
    }
    if (status == PICO_OK) {
        status =
            product(w, score_side(w, 1), 0, key_side(w, &w->k), 0, 1, 0, query_side(w, &w->dq));
    }
    if (status == PICO_OK) {
        status =
            product(w, score_side(w, 1), 1, query_side(w, &w->q), 0, 1, add, key_side(w, &w->dk));
    }
    return status == PICO_OK ? product(w, score_side(w, 0), 1, query_side(w, &w->dout), 0, 1, add,
                                       key_side(w, &w->dv))
                             : status;
}

static pico_status each_batch(attend_work *w, pico_status (*fn)(const attend_work *w)) {
    pico_status status = PICO_OK;
    for (uint32_t s = 0; status == PICO_OK && s < w->args->n_seq; s++) {
        w->row = (int64_t)s * w->args->length;
        for (w->first = 0; status == PICO_OK && w->first < w->k.heads; w->first += w->heads) {
            w->heads = cuda_least(w->cuda->train->score_heads, w->k.heads - w->first);
            for (w->place = 0; status == PICO_OK && w->place < w->group; w->place++) {
                status = fn(w);
            }
        }
    }
    return status;
}

/* ---- BF16 ---- */

/* Whether heads follow each other and can be written two values at a time. */
static int is_regular(const cuda_view *view) {
    return (view->heads == 1 || view->head_stride == view->cols) && view->row_stride % 2 == 0 &&
           (uintptr_t)view->data % 8 == 0;
}

/* n views of q, k, v, out and, backward, dout, dq, dk, dv. */
static int flash_serves(const attend_work *w, const cuda_view *const *views, int n) {
    const struct cuda_train *train = w->cuda->train;
    int64_t bytes = 0;
    int yes = w->args->compute == PICO_COMPUTE_BF16 && w->cuda->capability >= 80 &&
              cuda_flash_fits(w->q.cols, w->args->length) &&
              w->q.rows * w->q.heads <= train->n_value;
    for (int i = 0; i < n; i++) {
        yes = yes && is_regular(views[i]);
        bytes += cuda_pad(views[i]->rows * views[i]->heads * views[i]->cols * 2, CUDA_ALIGN);
    }
    return yes && bytes <= train->narrow_bytes; /* more than is needed */
}

/* A view as BF16 in the scratch memory of products, behind what is there. */
static pico_status narrow_view(const attend_work *w, const cuda_view *view, int64_t *next,
                               const uint16_t **out) {
    char *to = w->cuda->train->narrow + *next;
    const int64_t cols = view->heads * view->cols;
    const cuda_narrow_job job = {.x = {.data = view->data,
                                       .rows = view->rows,
                                       .heads = 1,
                                       .cols = cols,
                                       .row_stride = view->row_stride},
                                 .out = to,
                                 .rows_out = view->rows,
                                 .stride = cols,
                                 .bf16 = 1};
    *out = (const uint16_t *)(const void *)to;
    *next += cuda_pad(view->rows * cols * 2, CUDA_ALIGN);
    return cuda_done(w->cuda, cuda_run_narrow(w->cuda->stream, &job), "train attend");
}

static pico_status flash_job(const attend_work *w, cuda_flash_job *job) {
    const uint16_t **const to[] = {&job->q, &job->k, &job->v, &job->dout};
    const cuda_view *const from[] = {&w->q, &w->k, &w->v, &w->dout};
    int64_t next = 0;
    pico_status status = PICO_OK;
    *job = (cuda_flash_job){.n_seq = w->args->n_seq,
                            .length = (int32_t)w->args->length,
                            .n_head = (int32_t)w->q.heads,
                            .n_kv_head = (int32_t)w->k.heads,
                            .window = w->args->window,
                            .n_sink =
                                w->args->n_sink > INT32_MAX ? INT32_MAX : (int32_t)w->args->n_sink,
                            .scale = w->args->scale,
                            .out = w->out,
                            .dq = w->dq,
                            .dk = w->dk,
                            .dv = w->dv,
                            .lse = w->lse,
                            .delta = w->cuda->train->value[0]};
    for (int i = 0; status == PICO_OK && i < (w->dout.data == NULL ? 3 : 4); i++) {
        status = narrow_view(w, from[i], &next, to[i]);
    }
    return status;
}

static pico_status flash_forward(const attend_work *w) {
    cuda_flash_job job;
    const pico_status status = flash_job(w, &job);
    return status == PICO_OK
               ? cuda_done(w->cuda, cuda_run_flash(w->cuda->stream, &job), "train attend")
               : status;
}

static pico_status flash_backward(const attend_work *w) {
    cuda_flash_job job;
    const pico_status status = flash_job(w, &job);
    return status == PICO_OK
               ? cuda_done(w->cuda, cuda_run_flash_back(w->cuda->stream, &job), "attend_backward")
               : status;
}

/* ---- the slots ---- */

static int fits(const cuda_view *view, int64_t rows, int64_t heads, int64_t cols) {
    return view->rows == rows && view->heads == heads && view->cols == cols;
}

static pico_status bind(attend_work *w, void *self, const pico_train_attend_args *args) {
    *w = (attend_work){.cuda = cuda_enter(self), .args = args};
    void *lse = NULL;
    const int64_t rows = (int64_t)args->n_seq * args->length;
    const pico_tensor *const tensors[] = {&args->q, &args->k, &args->v, &args->out};
    cuda_view *const views[] = {&w->q, &w->k, &w->v, &w->out};
    pico_status status = w->cuda->train == NULL ? PICO_E_INVALID : PICO_OK;
    for (int i = 0; status == PICO_OK && i < 4; i++) {
        status = cuda_view_of(tensors[i], PICO_DTYPE_F32, views[i]);
    }
    if (status == PICO_OK) {
        status = cuda_vector_of(&args->lse, PICO_DTYPE_F32, rows * w->q.heads, &lse);
    }
    if (status != PICO_OK) {
        return status;
    }
    const int64_t heads = w->q.heads, kv_heads = w->k.heads, width = w->q.cols;
    if (kv_heads == 0 || heads % kv_heads != 0 || !fits(&w->q, rows, heads, width) ||
        !fits(&w->k, rows, kv_heads, width) || !fits(&w->v, rows, kv_heads, width) ||
        !fits(&w->out, rows, heads, width) || args->length > w->cuda->train->need.max_length) {
        return PICO_E_INVALID;
    }
    w->lse = lse;
    w->group = heads / kv_heads;
    return PICO_OK;
}

pico_status cuda_train_attend(void *self, const pico_train_attend_args *args) {
    attend_work w;
    const pico_status status = bind(&w, self, args);
    const cuda_view *const views[] = {&w.q, &w.k, &w.v, &w.out};
    if (status != PICO_OK || w.q.rows == 0) {
        return status;
    }
    return flash_serves(&w, views, 4) ? flash_forward(&w) : each_batch(&w, forward_heads);
}

pico_status cuda_attend_backward(void *self, const pico_attend_backward_args *args) {
    attend_work w;
    pico_status status = bind(&w, self, &args->forward);
    const pico_tensor *const tensors[] = {&args->dout, &args->dq, &args->dk, &args->dv};
    cuda_view *const views[] = {&w.dout, &w.dq, &w.dk, &w.dv};
    for (int i = 0; status == PICO_OK && i < 4; i++) {
        status = cuda_view_of(tensors[i], PICO_DTYPE_F32, views[i]);
    }
    if (status != PICO_OK) {
        return status;
    }
    const int64_t rows = w.q.rows, heads = w.q.heads, kv_heads = w.k.heads, width = w.q.cols;
    if (!fits(&w.dout, rows, heads, width) || !fits(&w.dq, rows, heads, width) ||
        !fits(&w.dk, rows, kv_heads, width) || !fits(&w.dv, rows, kv_heads, width)) {
        return PICO_E_INVALID;
    }
    if (rows == 0) {
        return PICO_OK;
    }
    const cuda_view *const all[] = {&w.q, &w.k, &w.v, &w.out, &w.dout, &w.dq, &w.dk, &w.dv};
    return flash_serves(&w, all, 8) ? flash_backward(&w) : each_batch(&w, backward_heads);
}
