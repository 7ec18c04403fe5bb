/*
 * Heads in training: from hidden rows to logits, and from the gradient of logits to the heads'
 * parameters and the hidden rows. Blocks of rows, so that a large vocabulary needs little memory.
 * See internal.h.
 */
#include "train/internal.h"

/* The matrix of a head that is one: "lm", "mtp.K". */
static const train_param *matrix_of(const pico_train *t, uint32_t head) {
    return head == 0 ? t->head : t->mtp[head - 1];
}

static int is_draft(const pico_train *t, uint32_t head) {
    return head > t->desc->n_mtp_head;
}

static uint32_t n_heads(const pico_train *t) {
    return 1 + t->desc->n_mtp_head + (t->desc->n_draft != 0);
}

static pico_tensor hidden_rows(const pico_train *t, const pico_tensor *area) {
    const pico_tensor all = train_part(area, t->rows, t->desc->n_embd);
    return pico_view_rows(&all, t->head_begin, t->head_n);
}

static pico_status apply(pico_train *t, uint32_t head, const pico_tensor *logits) {
    const pico_tensor hidden = hidden_rows(t, &t->work.hidden);
    if (is_draft(t, head)) {
        const pico_tensor before = train_part(&t->work.draft, t->head_n, t->desc->draft_hidden);
        const pico_tensor after =
            train_part(&t->work.draft_inner, t->head_n, t->desc->draft_hidden);
        const pico_act_args act = {.kind = PICO_ACT_RELU_SQUARED, .x = before, .y = after};
        TRAIN_TRY(train_linear(t, t->fc1, NULL, &hidden, 0, &before));
        TRAIN_TRY(t->ops->activation(t->self, &act));
        return train_linear(t, t->fc2, NULL, &after, 0, logits);
    }
    TRAIN_TRY(train_linear(t, matrix_of(t, head), NULL, &hidden, 0, logits));
    if (t->desc->logit_softcap > 0) {
        const pico_softcap_args cap = {.cap = t->desc->logit_softcap, .x = *logits};
        return t->ops->softcap(t->self, &cap);
    }
    return PICO_OK;
}

pico_status train_logits(pico_train *t, uint32_t head, uint32_t begin, uint32_t n,
                         pico_tensor *logits, pico_tensor *d, pico_error *err) {
    const int64_t width =
        (int64_t)t->desc->n_vocab * (is_draft(t, head) ? (int64_t)t->desc->n_draft : 1);
    t->head_kept = 0;
    if (head >= n_heads(t)) {
        return pico_fail(err, PICO_E_NOT_FOUND, "the model has %u heads, there is no head %u",
                         n_heads(t), head);
    }
    if (n == 0 || n > t->params.max_logit_rows || begin >= t->rows || n > t->rows - begin) {
        return pico_fail(err, PICO_E_LIMIT,
                         "logits of rows %u to %u: the last forward had %u rows, and %u at a time "
                         "were reserved",
                         begin, begin + n, t->rows, t->params.max_logit_rows);
    }
    t->head_index = head;
    t->head_begin = begin;
    t->head_n = n;
    *logits = train_part(&t->work.logits, n, width);
    *d = (pico_tensor){0};
    if (t->work.d.buffer != NULL) {
        *d = train_part(&t->work.d, n, width);
    }
    const pico_status status = apply(t, head, logits);
    if (status != PICO_OK) {
        return pico_fail(err, status, "an op of head %u failed", head);
    }
    t->head_kept = 1;
    train_count(t, n * train_count_head(t, head));
    return PICO_OK;
}

/* dhidden: NULL if the trunk is frozen. */
static pico_status draft_backward(pico_train *t, const pico_tensor *d, const pico_tensor *dhidden) {
    const pico_tensor hidden = hidden_rows(t, &t->work.hidden);
    const pico_tensor before = train_part(&t->work.draft, t->head_n, t->desc->draft_hidden);
    const pico_tensor after = train_part(&t->work.draft_inner, t->head_n, t->desc->draft_hidden);
    const pico_tensor dinner = train_part(&t->work.ddraft, t->head_n, t->desc->draft_hidden);
    const pico_act_backward_args act = {
        .kind = PICO_ACT_RELU_SQUARED, .x = before, .dy = dinner, .dx = dinner};
    TRAIN_TRY(train_linear_backward(t, t->fc2, NULL, &after, d, 0, &dinner));
    TRAIN_TRY(t->ext.act_backward(t->self, &act));
    return train_linear_backward(t, t->fc1, NULL, &hidden, &dinner, 1, dhidden);
}

static pico_status run(pico_train *t) {
    const uint32_t head = t->head_index;
    const pico_tensor hidden = hidden_rows(t, &t->work.hidden);
    const int64_t width =
        (int64_t)t->desc->n_vocab * (is_draft(t, head) ? (int64_t)t->desc->n_draft : 1);
    const pico_tensor d = train_part(&t->work.d, t->head_n, width);
    pico_tensor dhidden = {0};
    if (t->kept) {
        if (!t->heads) { /* the first gradient of this forward */
            const pico_tensor all = train_part(&t->work.dhidden, t->rows, t->desc->n_embd);
            TRAIN_TRY(train_fill(t, &all, 0));
            t->heads = 1;
        }
        dhidden = hidden_rows(t, &t->work.dhidden);
    }
    if (is_draft(t, head)) {
        return draft_backward(t, &d, t->kept ? &dhidden : NULL);
    }
    if (t->desc->logit_softcap > 0) {
        const pico_softcap_backward_args cap = {.cap = t->desc->logit_softcap,
                                                .y = train_part(&t->work.logits, t->head_n, width),
                                                .dy = d};
        TRAIN_TRY(t->ext.softcap_backward(t->self, &cap));
    }
    return train_linear_backward(t, matrix_of(t, head), NULL, &hidden, &d, 1,
                                 t->kept ? &dhidden : NULL);
}

pico_status train_backward_head(pico_train *t, pico_error *err) {
    if (!t->head_kept || (!t->kept && (t->params.flags & PICO_TRAIN_HEADS) == 0)) {
        return pico_fail(err, PICO_E_INVALID,
                         "backward_head needs logits of a state that learns before it, and takes "
                         "them only once");
    }
    t->head_kept = 0;
    const pico_status status = run(t);
    train_count(t, t->head_n * train_count_head_backward(t, t->head_index));
    return status == PICO_OK
               ? status
               : pico_fail(err, status, "an op of the backward pass of head %u failed",
                           t->head_index);
}
