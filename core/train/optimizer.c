/*
 * Optimisers: their state, and one update of one parameter. Muon is composed of the backend's
 * products and reductions. See internal.h.
 */
#include <math.h>
#include <stdlib.h>

#include "train/internal.h"

/* Coefficients of the five iterations (Polar Express; Amsel et al. 2025, arXiv 2505.16932). */
static const float polar[5][3] = {
    {8.156554524902461f, -22.48329292557795f, 15.878769915207462f},
    {4.042929935166739f, -2.808917465908714f, 0.5000178451051316f},
    {3.8916678022926607f, -2.772484153217685f, 0.5060648178503393f},
    {3.285753657755655f, -2.3681294933425376f, 0.46449024233003106f},
    {2.3465413258596377f, -1.7097828382687081f, 0.42323551169305323f}};

/* ---- state ---- */

static int64_t smaller(const train_param *p) {
    return p->rows < p->cols ? p->rows : p->cols;
}

/* Work space of Muon: two matrices of the parameter's shape, two on its smaller side, a scalar. */
static pico_status open_muon(pico_train *t, pico_error *err) {
    for (uint32_t i = 0; i < t->n_param; i++) {
        const train_param *p = &t->param[i];
        if (p->trained && !p->is_vector) {
            t->muon_side = smaller(p) > t->muon_side ? smaller(p) : t->muon_side;
            t->muon_n = p->rows * p->cols > t->muon_n ? p->rows * p->cols : t->muon_n;
        }
    }
    const uint64_t n =
        2 * (uint64_t)t->muon_n + 2 * (uint64_t)t->muon_side * (uint64_t)t->muon_side;
    return t->ops->buffer_alloc(t->self, (n + 16) * sizeof(float), &t->muon, err);
}

/* Room for m (rows, cols) and for v of the same shape or second (larger extent), cleared. */
static pico_status open_state(pico_train *t, train_param *p, uint32_t optimizer, pico_error *err) {
    const int muon = optimizer == PICO_OPTIMIZER_MUON;
    const int64_t n = p->rows * p->cols, larger = p->rows > p->cols ? p->rows : p->cols;
    const uint64_t second = ((uint64_t)n * sizeof(float) + 63) & ~(uint64_t)63;
    const uint64_t bytes = second + (uint64_t)(muon ? larger : n) * sizeof(float);
    void *zeros = calloc(1, bytes);
    if (zeros == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for the optimiser of %s", p->name);
    }
    pico_status status = t->ops->buffer_alloc(t->self, bytes, &p->state_buffer, err);
    if (status == PICO_OK) {
        status = t->ops->buffer_write(t->self, p->state_buffer, 0, zeros, bytes);
        p->state[0] = pico_view(p->state_buffer, 0, PICO_DTYPE_F32, p->rows, p->cols);
        p->state[1] = pico_view(p->state_buffer, second, PICO_DTYPE_F32, muon ? 1 : p->rows,
                                muon ? larger : p->cols);
    }
    free(zeros);
    return status;
}

pico_status train_optimizer(pico_train *t, uint32_t index, uint32_t optimizer, pico_error *err) {
    if (index >= t->n_param || optimizer > PICO_OPTIMIZER_MUON) {
        return pico_fail(err, PICO_E_NOT_FOUND, "there is no parameter %u or no optimiser %u",
                         index, optimizer);
    }
    train_param *p = &t->param[index];
    if (optimizer != PICO_OPTIMIZER_NONE && !p->trained) {
        return pico_fail(err, PICO_E_INVALID, "%s is frozen, it needs no optimiser", p->name);
    }
    if (optimizer == PICO_OPTIMIZER_MUON && p->is_vector) {
        return pico_fail(err, PICO_E_INVALID,
                         "%s is a vector; Muon is for matrices, take AdamW for it", p->name);
    }
    t->ops->buffer_free(t->self, p->state_buffer);
    p->state_buffer = NULL;
    p->optimizer = PICO_OPTIMIZER_NONE;
    pico_status status = PICO_OK;
    if (optimizer == PICO_OPTIMIZER_MUON && t->muon == NULL) {
        status = open_muon(t, err);
    }
    if (status == PICO_OK && optimizer != PICO_OPTIMIZER_NONE) {
        status = open_state(t, p, optimizer, err);
    }
    p->optimizer = status == PICO_OK ? optimizer : (uint32_t)PICO_OPTIMIZER_NONE;
    return status;
}

/* ---- Muon ---- */

/* x (rows, cols) -> next = a x + (b y + c y y) x, y = x x^T, or with y = x^T x on the other side. */
static pico_status polar_step(pico_train *t, const float *factor, const pico_tensor *x,
                              const pico_tensor *next, const pico_tensor *y, const pico_tensor *z) {
    const int tall = x->shape[0] > x->shape[1];
    const pico_gemm_args square = {.compute = t->compute,
                                   .transpose_a = (uint32_t)tall,
                                   .transpose_b = (uint32_t)!tall,
                                   .alpha = 1,
                                   .a = *x,
                                   .b = *x,
                                   .c = *y};
    const pico_gemm_args fourth = {
        .compute = t->compute, .alpha = factor[2], .beta = factor[1], .a = *y, .b = *y, .c = *z};
    const pico_gemm_args apply = {.compute = t->compute,
                                  .alpha = 1,
                                  .beta = factor[0],
                                  .a = tall ? *x : *z,
                                  .b = tall ? *z : *x,
                                  .c = *next};
    TRAIN_TRY(t->ext.gemm(t->self, &square));
    TRAIN_TRY(train_copy(t, y, z));
    TRAIN_TRY(t->ext.gemm(t->self, &fourth));
    TRAIN_TRY(train_copy(t, x, next));
    return t->ext.gemm(t->self, &apply);
}

static float muon_rate(const train_param *p, const pico_update *u) {
    const double tall = (double)p->rows / (double)p->cols;
    return u->lr * (float)sqrt(tall > 1 ? tall : 1);
}

static pico_status muon(pico_train *t, train_param *p, const pico_update *u) {
    const int64_t side = smaller(p);
    const uint64_t n = (uint64_t)t->muon_n * sizeof(float);
    const uint64_t square = (uint64_t)t->muon_side * (uint64_t)t->muon_side * sizeof(float);
    pico_tensor x = pico_view(t->muon, 0, PICO_DTYPE_F32, p->rows, p->cols);
    pico_tensor next = pico_view(t->muon, n, PICO_DTYPE_F32, p->rows, p->cols);
    const pico_tensor y = pico_view(t->muon, 2 * n, PICO_DTYPE_F32, side, side);
    const pico_tensor z = pico_view(t->muon, 2 * n + square, PICO_DTYPE_F32, side, side);
    const pico_tensor norm = pico_view_vector(t->muon, 2 * (n + square), PICO_DTYPE_F32, 1);
    const float fresh = (1 - u->momentum) * u->grad_scale;
    TRAIN_TRY(train_axpby(t, fresh, NULL, &p->grad, u->momentum, NULL, &p->state[0]));
    TRAIN_TRY(train_axpby(t, fresh, NULL, &p->grad, 0, NULL, &x));
    TRAIN_TRY(train_axpby(t, u->momentum, NULL, &p->state[0], 1, NULL, &x));
    const pico_reduce_args measure = {.kind = PICO_REDUCE_NORM, .factor = 1, .x = x, .out = norm};
    const pico_scale_args divide = {.value = 1, .a = 1.02f, .b = 1e-6f, .scalar = norm, .x = x};
    TRAIN_TRY(t->ext.reduce(t->self, &measure));
    TRAIN_TRY(t->ext.scale(t->self, &divide));
    for (int i = 0; i < 5; i++) {
        TRAIN_TRY(polar_step(t, polar[i], &x, &next, &y, &z));
        const pico_tensor swap = x;
        x = next;
        next = swap;
    }
    const pico_muon_args args = {.lr = muon_rate(p, u),
                                 .beta2 = u->beta2,
                                 .weight_decay = u->weight_decay,
                                 .x = x,
                                 .p = p->value,
                                 .second = p->state[1]};
    return t->ext.muon(t->self, &args);
}

static int can_update(const pico_train *t, uint32_t index, const pico_update *u) {
    return index < t->n_param && t->param[index].optimizer != PICO_OPTIMIZER_NONE && u->step != 0;
}

pico_status train_update(pico_train *t, uint32_t index, const pico_update *u) {
    if (!can_update(t, index, u)) {
        return PICO_E_INVALID;
    }
    train_param *p = &t->param[index];
    if (p->optimizer == PICO_OPTIMIZER_MUON) {
        return muon(t, p, u);
    }
    const pico_adamw_args args = {.lr = u->lr,
                                  .beta1 = u->beta1,
                                  .beta2 = u->beta2,
                                  .eps = u->eps,
                                  .weight_decay = u->weight_decay,
                                  .grad_scale = u->grad_scale,
                                  .step = u->step,
                                  .p = p->value,
                                  .grad = p->grad,
                                  .m = p->state[0],
                                  .v = p->state[1]};
    return t->ext.adamw(t->self, &args);
}

/* ---- several parameters at once ---- */

#define MOST_TOGETHER 64u

/* Whether Muon's step of one parameter may be taken with that of the other. */
static int go_together(const train_param *a, const pico_update *u, const train_param *b,
                       const pico_update *v) {
    return a->optimizer == PICO_OPTIMIZER_MUON && b->optimizer == PICO_OPTIMIZER_MUON &&
           a->rows == b->rows && a->cols == b->cols && u->lr == v->lr && u->beta2 == v->beta2 &&
           u->weight_decay == v->weight_decay && u->momentum == v->momentum &&
           u->grad_scale == v->grad_scale;
}

/* Steps of Muon with matrix[0..n), which go together with p; one by one the ops are as good. */
static pico_status muon_together(pico_train *t, const train_param *p, const pico_update *u,
                                 const pico_muon_matrix *matrix, uint32_t n) {
    const pico_muon_many_args args = {.n = n,
                                      .n_step = sizeof polar / sizeof *polar,
                                      .compute = t->compute,
                                      .momentum = u->momentum,
                                      .grad_scale = u->grad_scale,
                                      .lr = muon_rate(p, u),
                                      .beta2 = u->beta2,
                                      .weight_decay = u->weight_decay,
                                      .factor = polar[0],
                                      .matrix = matrix};
    return t->ext.muon_many == NULL ? PICO_E_UNSUPPORTED : t->ext.muon_many(t->self, &args);
}

/* Updates what goes together with updates[first]; marks what is done. */
static pico_status update_kind(pico_train *t, uint32_t n, const uint32_t *index,
                               const pico_update *update, uint32_t first, unsigned char *done) {
    pico_muon_matrix matrix[MOST_TOGETHER];
    uint32_t member[MOST_TOGETHER], count = 0;
    const train_param *p = &t->param[index[first]];
    for (uint32_t i = first; i < n && count < MOST_TOGETHER; i++) {
        const train_param *other = &t->param[index[i]];
        if (!done[i] && go_together(p, &update[first], other, &update[i])) {
            matrix[count] = (pico_muon_matrix){.grad = other->grad,
                                               .p = other->value,
                                               .momentum = other->state[0],
                                               .second = other->state[1]};
            member[count++] = i;
        }
    }
    pico_status status =
        count == 0 ? PICO_E_UNSUPPORTED : muon_together(t, p, &update[first], matrix, count);
    if (status == PICO_E_UNSUPPORTED) { /* this one alone */
        done[first] = 1;
        return train_update(t, index[first], &update[first]);
    }
    for (uint32_t i = 0; i < count; i++) {
        done[member[i]] = 1;
    }
    return status;
}

pico_status train_update_many(pico_train *t, uint32_t n, const uint32_t *index,
                              const pico_update *update, uint32_t *failed) {
    pico_status status = PICO_OK;
    unsigned char *done = calloc(n + 1u, 1);
    *failed = n > 0 ? index[0] : 0;
    if (done == NULL) {
        return PICO_E_NOMEM;
    }
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        *failed = index[i];
        status = can_update(t, index[i], &update[i]) ? PICO_OK : PICO_E_INVALID;
    }
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        *failed = index[i];
        status = done[i] ? PICO_OK : update_kind(t, n, index, update, i, done);
    }
    free(done);
    return status;
}
