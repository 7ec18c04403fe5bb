/*
 * Attention over whole sequences, forward and backward. A thread takes one head of one sequence: K
 * and V are packed once, then queries go through in blocks of 64 as matrix products. The backward
 * pass computes the probabilities again. Heads that share K and V leave their shares in work space,
 * and the shares are added in the order of the heads.
 */
#include <string.h>

#include "train.h"

typedef struct attend_job {
    const cpu_backend *cpu;
    const pico_train_attend_args *args;
    cpu_view q, k, v, out;
    float *lse; /* (rows, n_head) */
    /* backward */
    cpu_view dout, dq, dk,
        dv; /* dk, dv: (rows, n_head, head_dim) views, the work space if shared */
} attend_job;

/* One head of one sequence. */
typedef struct head_work {
    const attend_job *job;
    cpu_train_scratch scratch;
    const cpu_gemm_kernels *gemm;
    int64_t row, head, kv_head; /* first row of the sequence */
    int64_t length, width;
    int64_t ld; /* of score */
} head_work;

static float *at(const cpu_view *view, int64_t row, int64_t head) {
    return cpu_row_f32(view, row) + head * view->head_stride;
}

/* A block of queries [begin, end) sees no keys outside [low, end); low is the start of a panel. */
static int64_t lowest_key(const head_work *w, int64_t begin) {
    const pico_train_attend_args *args = w->job->args;
    const int64_t low = args->window < 0 || args->n_sink > 0 ? 0 : begin - args->window;
    return low <= 0 ? 0 : low / w->gemm->nr * w->gemm->nr;
}

/* Keys of query i: [0, *sinks) and [*first, i + 1); *sinks <= *first. */
static void visible(const head_work *w, int64_t i, int64_t *sinks, int64_t *first) {
    const pico_train_attend_args *args = w->job->args;
    *first = args->window < 0 || i <= args->window ? 0 : i - args->window;
    *sinks = (int64_t)args->n_sink < *first ? (int64_t)args->n_sink : *first;
}

/* score (end - begin, end - low) = scale q k^T */
static void scores(const head_work *w, int64_t begin, int64_t end, int64_t low) {
    const attend_job *job = w->job;
    const cpu_product product = {.a = at(&job->q, w->row + begin, w->head),
                                 .a_row = job->q.row_stride,
                                 .a_step = 1,
                                 .b = w->scratch.k_scores + low * w->width,
                                 .panel = w->width * w->gemm->nr,
                                 .m = end - begin,
                                 .n = end - low,
                                 .k = w->width,
                                 .alpha = job->args->scale,
                                 .c = w->scratch.score,
                                 .c_row = w->ld};
    cpu_multiply_panels(w->gemm, &product);
}

/* Puts 0 where query i sees nothing; keys are counted from low. */
static void clear_hidden(const head_work *w, int64_t i, int64_t end, int64_t low, float *row) {
    int64_t sinks, first;
    visible(w, i, &sinks, &first);
    const int64_t from = sinks > low ? sinks : low;
    if (first > from) {
        memset(row + from - low, 0, (size_t)(first - from) * sizeof *row);
    }
    memset(row + i + 1 - low, 0, (size_t)(end - i - 1) * sizeof *row);
}

/* x = exp(x - shift) where query i sees; the sum. */
static float exponentials(const head_work *w, int64_t i, int64_t low, float shift, float *row) {
    int64_t sinks, first;
    const cpu_train_kernels *kernels = w->job->cpu->train->row;
    visible(w, i, &sinks, &first);
    const float sum = sinks > low ? kernels->exp_row(row, shift, sinks - low) : 0;
    return sum + kernels->exp_row(row + first - low, shift, i + 1 - first);
}

static void softmax_row(const head_work *w, int64_t i, int64_t end, int64_t low, float *row) {
    const cpu_row_kernels *kernels = w->job->cpu->kernels->row;
    int64_t sinks, first;
    visible(w, i, &sinks, &first);
    float most = kernels->maximum(row + first - low, i + 1 - first);
    if (sinks > low) {
        const float other = kernels->maximum(row, sinks - low);
        most = other > most ? other : most;
    }
    const float sum = exponentials(w, i, low, most, row);
    clear_hidden(w, i, end, low, row);
    kernels->axpby(1 / sum, row, 0, row, end - low);
    w->job->lse[(w->row + i) * w->job->q.heads + w->head] = most + __builtin_logf(sum);
}

static void pack_head(const head_work *w, int backward) {
    const attend_job *job = w->job;
    const float *k = at(&job->k, w->row, w->kv_head), *v = at(&job->v, w->row, w->kv_head);
    cpu_pack_panels(w->gemm, k, job->k.row_stride, 1, w->width, w->length, w->scratch.k_scores);
    if (backward) {
        cpu_pack_panels(w->gemm, v, job->v.row_stride, 1, w->width, w->length, w->scratch.v_scores);
        cpu_pack_panels(w->gemm, k, job->k.row_stride, 0, w->length, w->width, w->scratch.k_rows);
    } else {
        cpu_pack_panels(w->gemm, v, job->v.row_stride, 0, w->length, w->width, w->scratch.k_rows);
    }
}

static head_work head_of(const attend_job *job, uint64_t item, uint32_t thread) {
    const int64_t heads = job->q.heads;
    head_work w = {.job = job,
                   .scratch = cpu_train_scratch_of(job->cpu->train, thread),
                   .gemm = job->cpu->train->gemm,
                   .length = job->args->length,
                   .width = job->q.cols,
                   .ld = (int64_t)((job->args->length + 31u) & ~31u)};
    w.row = (int64_t)item / heads * w.length;
    w.head = (int64_t)item % heads;
    w.kv_head = w.head / (heads / job->k.heads);
    return w;
}

static void forward_heads(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    for (uint64_t item = begin; item < end; item++) {
        const attend_job *job = arg;
        const head_work w = head_of(job, item, thread);
        pack_head(&w, 0);
        for (int64_t i = 0; i < w.length; i += CPU_TRAIN_ROWS) {
            const int64_t last = w.length - i < CPU_TRAIN_ROWS ? w.length : i + CPU_TRAIN_ROWS;
            const int64_t low = lowest_key(&w, i);
            scores(&w, i, last, low);
            for (int64_t r = i; r < last; r++) {
                softmax_row(&w, r, last, low, w.scratch.score + (r - i) * w.ld);
            }
            const cpu_product product = {.a = w.scratch.score,
                                         .a_row = w.ld,
                                         .a_step = 1,
                                         .b = w.scratch.k_rows + low * w.gemm->nr,
                                         .panel = w.length * w.gemm->nr,
                                         .m = last - i,
                                         .n = w.width,
                                         .k = last - low,
                                         .alpha = 1,
                                         .c = at(&job->out, w.row + i, w.head),
                                         .c_row = job->out.row_stride};
            cpu_multiply_panels(w.gemm, &product);
        }
    }
}

/* score becomes the probabilities, dscore the gradient of the scaled scores over `scale`. */
static void score_gradients(const head_work *w, int64_t begin, int64_t end, int64_t low) {
    const attend_job *job = w->job;
    const cpu_train_kernels *kernels = job->cpu->train->row;
    const cpu_product product = {.a = at(&job->dout, w->row + begin, w->head),
                                 .a_row = job->dout.row_stride,
                                 .a_step = 1,
                                 .b = w->scratch.v_scores + low * w->width,
                                 .panel = w->width * w->gemm->nr,
                                 .m = end - begin,
                                 .n = end - low,
                                 .k = w->width,
                                 .alpha = 1,
                                 .c = w->scratch.dscore,
                                 .c_row = w->ld};
    cpu_multiply_panels(w->gemm, &product);
    scores(w, begin, end, low);
    for (int64_t i = begin; i < end; i++) {
        float *p = w->scratch.score + (i - begin) * w->ld;
        float *dp = w->scratch.dscore + (i - begin) * w->ld;
        const float delta = kernels->dot(at(&job->out, w->row + i, w->head),
                                         at(&job->dout, w->row + i, w->head), w->width);
        (void)exponentials(w, i, low, job->lse[(w->row + i) * job->q.heads + w->head], p);
        clear_hidden(w, i, end, low, p);
        kernels->softmax_dx(p, delta, job->args->scale, dp, end - low);
    }
}

/* out (keys, width) += factors^T rows, rows being a packed block of queries. */
static void add_transposed(const head_work *w, const float *factors, const float *rows, int64_t m,
                           int64_t low, int64_t end, const cpu_view *out) {
    const cpu_product product = {.a = factors,
                                 .a_row = 1,
                                 .a_step = w->ld,
                                 .b = rows,
                                 .panel = m * w->gemm->nr,
                                 .m = end - low,
                                 .n = w->width,
                                 .k = m,
                                 .alpha = 1,
                                 .beta = 1,
                                 .c = at(out, w->row + low, w->head),
                                 .c_row = out->row_stride};
    cpu_multiply_panels(w->gemm, &product);
}

static void backward_block(const head_work *w, int64_t begin, int64_t end) {
    const attend_job *job = w->job;
    const int64_t low = lowest_key(w, begin), m = end - begin;
    score_gradients(w, begin, end, low);
    const cpu_product product = {.a = w->scratch.dscore,
                                 .a_row = w->ld,
                                 .a_step = 1,
                                 .b = w->scratch.k_rows + low * w->gemm->nr,
                                 .panel = w->length * w->gemm->nr,
                                 .m = m,
                                 .n = w->width,
                                 .k = end - low,
                                 .alpha = 1,
                                 .c = at(&job->dq, w->row + begin, w->head),
                                 .c_row = job->dq.row_stride};
    cpu_multiply_panels(w->gemm, &product);
    cpu_pack_panels(w->gemm, at(&job->q, w->row + begin, w->head), job->q.row_stride, 0, m,
                    w->width, w->scratch.q_rows);
    cpu_pack_panels(w->gemm, at(&job->dout, w->row + begin, w->head), job->dout.row_stride, 0, m,
                    w->width, w->scratch.do_rows);
    add_transposed(w, w->scratch.dscore, w->scratch.q_rows, m, low, end, &job->dk);
    add_transposed(w, w->scratch.score, w->scratch.do_rows, m, low, end, &job->dv);
}

static void backward_heads(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const attend_job *job = arg;
    for (uint64_t item = begin; item < end; item++) {
        const head_work w = head_of(job, item, thread);
        pack_head(&w, 1);
        for (int64_t t = 0; t < w.length; t++) {
            memset(at(&job->dk, w.row + t, w.head), 0, (size_t)w.width * sizeof(float));
            memset(at(&job->dv, w.row + t, w.head), 0, (size_t)w.width * sizeof(float));
        }
        for (int64_t i = 0; i < w.length; i += CPU_TRAIN_ROWS) {
            backward_block(&w, i, w.length - i < CPU_TRAIN_ROWS ? w.length : i + CPU_TRAIN_ROWS);
        }
    }
}

/* ---- the shares of query heads that have K and V in common ---- */

typedef struct share_job {
    const cpu_backend *cpu;
    cpu_view from[2], to[2]; /* (rows, n_head, width), (rows, n_kv_head, width) */
} share_job;

static void add_shares(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const share_job *job = arg;
    const int64_t group = job->from[0].heads / job->to[0].heads;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
        for (int64_t h = 0; h < 2 * job->from[0].heads; h++) {
            const int64_t which = h / job->from[0].heads, head = h % job->from[0].heads;
            job->cpu->kernels->row->axpby(1, at(&job->from[which], r, head),
                                          head % group == 0 ? 0 : 1,
                                          at(&job->to[which], r, head / group), job->from[0].cols);
        }
    }
}

/* ---- slots ---- */

static pico_status open_job(cpu_backend *cpu, const pico_train_attend_args *args, attend_job *job) {
    const pico_tensor *const tensors[] = {&args->q, &args->k, &args->v, &args->out};
    cpu_view *const views[] = {&job->q, &job->k, &job->v, &job->out};
    void *lse = NULL;
    pico_status status = PICO_OK;
    *job = (attend_job){.cpu = cpu, .args = args};
    for (int i = 0; status == PICO_OK && i < 4; i++) {
        status = cpu_view_of(tensors[i], PICO_DTYPE_F32, views[i]);
    }
    const cpu_view *q = &job->q, *k = &job->k, *v = &job->v, *out = &job->out;
    if (status == PICO_OK) {
        status = cpu_vector_of(&args->lse, PICO_DTYPE_F32, q->rows * q->heads, &lse);
    }
    job->lse = lse;
    if (status != PICO_OK) {
        return status;
    }
    if (cpu->train == NULL || q->rows != (int64_t)args->n_seq * args->length ||
        q->rows != k->rows || q->rows != v->rows || q->rows != out->rows || k->heads == 0 ||
        q->heads % k->heads != 0 || k->heads != v->heads || q->heads != out->heads ||
        q->cols != k->cols || q->cols != v->cols || q->cols != out->cols ||
        args->length > cpu->train->need.max_length || args->window < -1 ||
        q->cols > (int64_t)cpu->train->need.max_head_dim) {
        return PICO_E_INVALID;
    }
    return PICO_OK;
}

/* Enough that every head is handed out on its own. */
#define HEAD_NS 1e5

pico_status cpu_train_attend(void *self, const pico_train_attend_args *args) {
    attend_job job;
    const pico_status status = open_job(self, args, &job);
    if (status == PICO_OK && job.q.rows != 0) {
        cpu_parallel(self, (uint64_t)args->n_seq * (uint64_t)job.q.heads, 1, HEAD_NS, forward_heads,
                     &job);
    }
    return status;
}

static int same_shape(const cpu_view *a, const cpu_view *b) {
    return a->rows == b->rows && a->heads == b->heads && a->cols == b->cols;
}

/* The work space as two views (rows, n_head, width). */
static pico_status open_work(const pico_tensor *work, const cpu_view *q, cpu_view out[2]) {
    void *data = NULL;
    const int64_t n = q->rows * q->heads * q->cols;
    const pico_status status = cpu_vector_of(work, PICO_DTYPE_F32, 2 * n, &data);
    for (int i = 0; status == PICO_OK && i < 2; i++) {
        out[i] = *q;
        out[i].data = (char *)data + (uint64_t)i * (uint64_t)n * sizeof(float);
        out[i].row_stride = q->heads * q->cols;
        out[i].head_stride = q->cols;
    }
    return status;
}

pico_status cpu_attend_backward(void *self, const pico_attend_backward_args *args) {
    attend_job job;
    share_job share = {.cpu = self};
    const pico_tensor *const tensors[] = {&args->dout, &args->dq, &args->dk, &args->dv};
    cpu_view *const views[] = {&job.dout, &job.dq, &job.dk, &job.dv};
    pico_status status = open_job(self, &args->forward, &job);
    for (int i = 0; status == PICO_OK && i < 4; i++) {
        status = cpu_view_of(tensors[i], PICO_DTYPE_F32, views[i]);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (!same_shape(&job.dout, &job.q) || !same_shape(&job.dq, &job.q) ||
        !same_shape(&job.dk, &job.k) || !same_shape(&job.dv, &job.v)) {
        return PICO_E_INVALID;
    }
    const int shared = job.q.heads != job.k.heads;
    if (shared) {
        share.to[0] = job.dk;
        share.to[1] = job.dv;
        status = open_work(&args->work, &job.q, share.from);
        job.dk = share.from[0];
        job.dv = share.from[1];
    }
    if (status != PICO_OK || job.q.rows == 0) {
        return status;
    }
    cpu_parallel(self, (uint64_t)args->forward.n_seq * (uint64_t)job.q.heads, 1, HEAD_NS,
                 backward_heads, &job);
    if (shared) {
        cpu_parallel(self, (uint64_t)job.q.rows, (uint64_t)job.q.rows,
                     (double)(2 * job.q.heads * job.q.cols) * 0.2, add_shares, &share);
    }
    return PICO_OK;
}
