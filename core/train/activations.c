/*
 * The work space of training in one buffer: what each layer keeps, and what all layers use in turn.
 * What a description does not need is not there. See internal.h.
 */
#include <stdlib.h>

#include "train/internal.h"
#include "util/checked.h"

/* Lays views one behind the other; their buffer is set when it exists. */
typedef struct planner {
    pico_tensor **view; /* (capacity) */
    uint32_t n, capacity;
    uint64_t bytes;
    int failed;
} planner;

static void plan(planner *to, pico_tensor *view, uint64_t rows, uint64_t cols) {
    uint64_t bytes;
    if (to->failed || rows == 0 || cols == 0) {
        return;
    }
    if (to->n == to->capacity || !pico_checked_mul(rows, cols * 4, &bytes) ||
        !pico_checked_align(bytes, 64, &bytes) || !pico_checked_add(to->bytes, bytes, &bytes)) {
        to->failed = 1;
        return;
    }
    *view = pico_view(NULL, to->bytes, PICO_DTYPE_F32, (int64_t)rows, (int64_t)cols);
    to->view[to->n++] = view;
    to->bytes = bytes;
}

/* Widths that areas for all layers have. */
typedef struct widths {
    uint32_t heads, kv, ff, n_head, ve_heads, ve;
    int shared; /* a layer has fewer KV heads than heads */
} widths;

static uint32_t larger(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

static widths widest(const pico_train *t) {
    widths w = {.heads = t->model->max_heads_width,
                .kv = t->model->max_kv_width,
                .ff = t->model->max_ff,
                .ve_heads = t->model->max_ve_head,
                .ve = t->model->max_ve_width};
    for (uint32_t i = 0; i < t->desc->n_layer; i++) {
        const pico_layer_desc *layer = &t->desc->layer[i];
        w.n_head = larger(w.n_head, layer->n_head);
        w.shared |= layer->n_head != layer->n_kv_head;
    }
    return w;
}

/* A store of one layer, or of the widest if it serves all. */
static void plan_store(planner *to, const pico_train *t, layer_store *store, const widths *w) {
    const uint64_t rows = t->params.max_rows, width = t->desc->n_embd;
    const int keeps = train_keeps(t);
    if (keeps && (t->desc->flags & PICO_RESID_LAMBDAS)) {
        plan(to, &store->x1, rows, width);
    }
    plan(to, &store->q, rows, w->heads);
    plan(to, &store->k, rows, w->kv);
    plan(to, &store->v, rows, w->kv);
    plan(to, &store->attended, rows, w->heads);
    plan(to, &store->lse, rows, w->n_head);
    if (keeps) {
        plan(to, &store->x2, rows, width);
    }
    plan(to, &store->up, rows, w->ff);
    plan(to, &store->gate, rows, t->desc->flags & PICO_FFN_GATED ? w->ff : 0);
}

static void plan_layers(planner *to, pico_train *t, const widths *w) {
    const uint64_t rows = t->params.max_rows, width = t->desc->n_embd;
    const int keeps = train_keeps(t), one_store = !keeps || train_recomputes(t);
    plan(to, &t->x[0], rows, width);
    if ((t->desc->flags & PICO_EMBED_NORM) || t->desc->smear_width != 0) {
        plan(to, &t->e, rows, width);
    }
    for (uint32_t i = 0; i < t->desc->n_layer; i++) {
        const pico_layer_desc *layer = &t->desc->layer[i];
        const widths own = {.heads = layer->n_head * layer->head_dim,
                            .kv = layer->n_kv_head * layer->head_dim,
                            .ff = layer->n_ff,
                            .n_head = layer->n_head};
        if (keeps) {
            plan(to, &t->x[i + 1], rows, width);
        }
        if (!one_store) {
            plan_store(to, t, &t->store[i], &own);
        } else if (i == 0) {
            plan_store(to, t, &t->store[0], w);
        }
    }
    plan(to, &t->x_first, rows, !keeps && (t->desc->flags & PICO_RESID_LAMBDAS) ? width : 0);
    plan(to, &t->back, rows, !keeps && t->desc->backout_layer >= 0 ? width : 0);
}

static void plan_forward(planner *to, pico_train *t, const widths *w) {
    const uint64_t rows = t->params.max_rows, width = t->desc->n_embd;
    const uint64_t logit_rows = t->params.max_logit_rows, out = pico_model_widest_head(t->model);
    const pico_model_desc *desc = t->desc;
    train_work *work = &t->work;
    const int qk = (desc->flags & PICO_QK_NORM) != 0;
    const uint64_t shifted_rows =
        desc->draft_flags & PICO_DRAFT_SHARED_OUTPUT ? logit_rows * desc->n_draft : 0;
    const uint64_t after_rows = desc->draft_flags & PICO_DRAFT_READS_TOKEN ? logit_rows : 0;
    plan(to, &work->a, rows, width);
    plan(to, &work->qn, rows, qk ? w->heads : 0);
    plan(to, &work->kn, rows, qk ? w->kv : 0);
    plan(to, &work->inner, rows, w->ff);
    plan(to, &work->scores, rows, larger(w->ve_heads, 1));
    plan(to, &work->value, rows, w->ve);
    plan(to, &work->before, rows, desc->smear_width != 0 ? width : 0);
    plan(to, &work->xf, rows, width);
    plan(to, &work->hidden, rows, width);
    plan(to, &work->logits, logit_rows, out);
    plan(to, &work->draft, logit_rows, desc->draft_hidden);
    plan(to, &work->draft_inner, logit_rows, desc->draft_hidden);
    plan(to, &work->shifted, shifted_rows, width);
    plan(to, &work->after[0], after_rows, width);
    plan(to, &work->after[1], desc->flags & PICO_EMBED_NORM ? after_rows : 0, width);
    plan(to, &t->draft_rows.value, desc->n_draft_vocab, width);
    if (!(t->params.flags & PICO_TRAIN_FROZEN)) {
        plan(to, &work->d, logit_rows, out);
        plan(to, &work->ddraft, logit_rows, desc->draft_hidden);
        plan(to, &work->dshifted, shifted_rows, width);
        plan(to, &work->dafter, after_rows, width);
    }
    t->draft_rows.trained = t->head->trained;
    plan(to, &t->draft_rows.grad, t->head->trained ? desc->n_draft_vocab : 0, width);
}

static void plan_backward(planner *to, pico_train *t, const widths *w) {
    const uint64_t rows = t->params.max_rows, width = t->desc->n_embd;
    train_work *work = &t->work;
    plan(to, &work->dx, rows, width);
    plan(to, &work->da, rows, width);
    plan(to, &work->dx0, rows, t->desc->flags & PICO_RESID_LAMBDAS ? width : 0);
    plan(to, &work->dback, rows, t->desc->backout_layer >= 0 ? width : 0);
    plan(to, &work->dhidden, rows, width);
    plan(to, &work->dq, rows, w->heads);
    plan(to, &work->dk, rows, w->kv);
    plan(to, &work->dv, rows, w->kv);
    plan(to, &work->datt, rows, w->heads);
    plan(to, &work->shares, 2 * rows, w->shared ? w->heads : 0);
    plan(to, &work->dinner, rows, w->ff);
    plan(to, &work->dgate, rows, t->desc->flags & PICO_FFN_GATED ? w->ff : 0);
}

/* Views that are the same memory as others. */
static void share_views(pico_train *t) {
    const int keeps = train_keeps(t);
    if (t->e.buffer == NULL) {
        t->e = t->x[0];
    }
    for (uint32_t i = 0; i < t->desc->n_layer; i++) {
        if (i > 0 && (!keeps || train_recomputes(t))) {
            t->store[i] = t->store[0];
        }
        if (!keeps) { /* one residual stream, written over by each layer */
            t->x[i + 1] = t->x[0];
            t->store[i].x2 = t->x[0];
        }
        if (!keeps || !(t->desc->flags & PICO_RESID_LAMBDAS)) {
            t->store[i].x1 = t->x[i];
        }
    }
    if (t->x_first.buffer == NULL) {
        t->x_first = t->x[0];
    }
    if (keeps && t->desc->backout_layer >= 0) {
        t->back = t->x[t->desc->backout_layer + 1];
    }
}

pico_status train_activations_open(pico_train *t, pico_error *err) {
    const uint32_t capacity = 64 + 16 * t->desc->n_layer;
    planner to = {.capacity = capacity};
    const widths w = widest(t);
    t->x = pico_arena_alloc(&t->arena, t->desc->n_layer + 1, sizeof *t->x);
    t->store = pico_arena_alloc(&t->arena, t->desc->n_layer, sizeof *t->store);
    to.view = calloc(capacity, sizeof *to.view);
    if (t->x == NULL || t->store == NULL || to.view == NULL) {
        free(to.view);
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    plan_layers(&to, t, &w);
    plan_forward(&to, t, &w);
    if (train_keeps(t)) {
        plan_backward(&to, t, &w);
    }
    pico_status status =
        to.failed ? pico_fail(err, PICO_E_LIMIT, "%u rows of %u tokens are too many to train with",
                              t->params.max_rows, t->params.max_length)
                  : t->ops->buffer_alloc(t->self, to.bytes, &t->activations, err);
    if (status == PICO_OK) {
        t->activation_bytes = to.bytes;
        for (uint32_t i = 0; i < to.n; i++) {
            to.view[i]->buffer = t->activations;
        }
        share_views(t);
    }
    free(to.view);
    return status;
}
