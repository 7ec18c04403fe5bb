/*
 * Heads in training: from hidden rows to logits, and from the gradient of logits to the heads'
 * parameters and the hidden rows. Blocks of rows, so that a large vocabulary needs little memory.
 * See internal.h.
 */
#include "formats/expect.h"
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

static int shares_output(const pico_train *t) {
    return (t->desc->draft_flags & PICO_DRAFT_SHARED_OUTPUT) != 0;
}

static int64_t width_of(const pico_train *t, uint32_t head) {
    return is_draft(t, head) ? (int64_t)t->desc->n_draft * pico_draft_n_vocab(t->desc)
                             : (int64_t)t->desc->n_vocab;
}

static pico_status cap(pico_train *t, const pico_tensor *logits) {
    const pico_softcap_args args = {.cap = t->desc->logit_softcap, .x = *logits};
    return args.cap > 0 ? t->ops->softcap(t->self, &args) : PICO_OK;
}

/* d becomes the gradient of the logits before the cap. */
static pico_status cap_backward(pico_train *t, const pico_tensor *d) {
    const pico_softcap_backward_args args = {
        .cap = t->desc->logit_softcap,
        .y = train_part(&t->work.logits, t->head_n, d->shape[1]),
        .dy = *d};
    return args.cap > 0 ? t->ext.softcap_backward(t->self, &args) : PICO_OK;
}

/* ---- the draft head ---- */

/* What a draft head that shares the output matrix multiplies with. */
static const train_param *draft_output(const pico_train *t) {
    return t->desc->n_draft_vocab != 0 ? &t->draft_rows : t->head;
}

/* Slot s of rows whose slots lie side by side. */
static pico_tensor slot_of(const pico_train *t, const pico_tensor *all, uint32_t s) {
    pico_tensor slot = *all;
    slot.shape[1] = t->desc->n_embd;
    slot.offset += (uint64_t)s * t->desc->n_embd * sizeof(float);
    return slot;
}

/* An area of logits as rows of one slot each. */
static pico_tensor slots_apart(const pico_train *t, const pico_tensor *logits) {
    return train_part(logits, (int64_t)t->head_n * t->desc->n_draft, pico_draft_n_vocab(t->desc));
}

static pico_status share_output(pico_train *t, const pico_tensor *hidden, const pico_tensor *inner,
                                const pico_tensor *logits) {
    const int64_t width = t->desc->n_embd, n_slot = t->desc->n_draft;
    const pico_tensor all = train_part(&t->work.shifted, t->head_n, n_slot * width);
    const pico_tensor shifted = train_part(&t->work.shifted, t->head_n * n_slot, width);
    const pico_tensor z = slots_apart(t, logits);
    TRAIN_TRY(train_linear(t, t->fc2, NULL, inner, 0, &all));
    for (uint32_t s = 0; s < t->desc->n_draft; s++) {
        const pico_tensor slot = slot_of(t, &all, s);
        TRAIN_TRY(train_axpby(t, 1, NULL, hidden, 1, NULL, &slot));
    }
    if (t->desc->n_draft_vocab != 0 && !t->draft_copied) {
        TRAIN_TRY(train_gather(t, t->head, &t->draft_id, &t->draft_rows.value, 0));
        t->draft_copied = 1;
    }
    TRAIN_TRY(train_linear(t, draft_output(t), NULL, &shifted, 0, &z));
    return cap(t, logits);
}

/* From d to the gradient of what the output matrix was given, which lies in work.dshifted, and to that
 * of the matrix itself. */
static pico_status share_output_backward(pico_train *t, const pico_tensor *d) {
    const int64_t width = t->desc->n_embd, rows = (int64_t)t->head_n * t->desc->n_draft;
    const pico_tensor shifted = train_part(&t->work.shifted, rows, width);
    const pico_tensor dshifted = train_part(&t->work.dshifted, rows, width);
    const pico_tensor dz = slots_apart(t, d);
    const int copied = t->desc->n_draft_vocab != 0 && t->head->trained;
    TRAIN_TRY(cap_backward(t, d));
    if (copied) {
        TRAIN_TRY(train_fill(t, &t->draft_rows.grad, 0));
    }
    TRAIN_TRY(train_linear_backward(t, draft_output(t), NULL, &shifted, &dz, 0, &dshifted));
    return copied ? train_scatter(t, t->head, &t->draft_id, &t->draft_rows.grad) : PICO_OK;
}

/* The next tokens of the rows that logits are made of. */
static pico_tensor next_tokens(const pico_train *t) {
    pico_tensor next = t->next;
    next.offset += (uint64_t)t->head_begin * sizeof(int32_t);
    next.shape[0] = t->head_n;
    return next;
}

/* The embeddings of these tokens: what the draft head reads, and, before a norm, what that was made of. */
static pico_tensor after_read(const pico_train *t) {
    const int normed = (t->desc->flags & PICO_EMBED_NORM) != 0;
    return train_part(&t->work.after[normed], t->head_n, t->desc->n_embd);
}

static pico_tensor after_embedded(const pico_train *t) {
    return train_part(&t->work.after[0], t->head_n, t->desc->n_embd);
}

/* before += what the tokens say. */
static pico_status read_tokens(pico_train *t, const pico_tensor *before) {
    const pico_tensor next = next_tokens(t), e = after_embedded(t), read = after_read(t);
    TRAIN_TRY(train_gather(t, t->embed, &next, &e, 0));
    if (t->desc->flags & PICO_EMBED_NORM) {
        TRAIN_TRY(train_norm(t, &e, t->embed_norm, t->embed_norm_bias, &read));
    }
    return train_linear(t, t->draft_token, NULL, &read, 1, before);
}

static pico_status read_tokens_backward(pico_train *t, const pico_tensor *dbefore) {
    const pico_tensor next = next_tokens(t), e = after_embedded(t), read = after_read(t);
    const pico_tensor d = train_part(&t->work.dafter, t->head_n, t->desc->n_embd);
    TRAIN_TRY(
        train_linear_backward(t, t->draft_token, NULL, &read, dbefore, 0, t->kept ? &d : NULL));
    if (!t->kept) {
        return PICO_OK;
    }
    if (t->desc->flags & PICO_EMBED_NORM) {
        TRAIN_TRY(train_norm_backward(t, &e, t->embed_norm, t->embed_norm_bias, &d, &d, 0));
    }
    return train_scatter(t, t->embed, &next, &d);
}

static pico_status draft_forward(pico_train *t, const pico_tensor *hidden,
                                 const pico_tensor *logits) {
    const pico_tensor before = train_part(&t->work.draft, t->head_n, t->desc->draft_hidden);
    const pico_tensor after = train_part(&t->work.draft_inner, t->head_n, t->desc->draft_hidden);
    const pico_act_args act = {.kind = PICO_ACT_RELU_SQUARED, .x = before, .y = after};
    TRAIN_TRY(train_linear(t, t->fc1, NULL, hidden, 0, &before));
    if (t->draft_token != NULL) {
        TRAIN_TRY(read_tokens(t, &before));
    }
    TRAIN_TRY(t->ops->activation(t->self, &act));
    return shares_output(t) ? share_output(t, hidden, &after, logits)
                            : train_linear(t, t->fc2, NULL, &after, 0, logits);
}

/* dhidden: NULL if the trunk is frozen. */
static pico_status draft_backward(pico_train *t, const pico_tensor *d, const pico_tensor *dhidden) {
    const pico_tensor hidden = hidden_rows(t, &t->work.hidden);
    const pico_tensor before = train_part(&t->work.draft, t->head_n, t->desc->draft_hidden);
    const pico_tensor after = train_part(&t->work.draft_inner, t->head_n, t->desc->draft_hidden);
    const pico_tensor dinner = train_part(&t->work.ddraft, t->head_n, t->desc->draft_hidden);
    const pico_act_backward_args act = {
        .kind = PICO_ACT_RELU_SQUARED, .x = before, .dy = dinner, .dx = dinner};
    pico_tensor out = *d; /* the gradient of what fc2 gives */
    if (shares_output(t)) {
        TRAIN_TRY(share_output_backward(t, d));
        out = train_part(&t->work.dshifted, t->head_n, (int64_t)t->desc->n_draft * t->desc->n_embd);
    }
    TRAIN_TRY(train_linear_backward(t, t->fc2, NULL, &after, &out, 0, &dinner));
    TRAIN_TRY(t->ext.act_backward(t->self, &act));
    if (t->draft_token != NULL) {
        TRAIN_TRY(read_tokens_backward(t, &dinner));
    }
    TRAIN_TRY(train_linear_backward(t, t->fc1, NULL, &hidden, &dinner, 1, dhidden));
    for (uint32_t s = 0; dhidden != NULL && shares_output(t) && s < t->desc->n_draft; s++) {
        const pico_tensor slot = slot_of(t, &out, s);
        TRAIN_TRY(train_axpby(t, 1, NULL, &slot, 1, NULL, dhidden));
    }
    return PICO_OK;
}

/* ---- all heads ---- */

static pico_status apply(pico_train *t, uint32_t head, const pico_tensor *logits) {
    const pico_tensor hidden = hidden_rows(t, &t->work.hidden);
    if (is_draft(t, head)) {
        return draft_forward(t, &hidden, logits);
    }
    TRAIN_TRY(train_linear(t, matrix_of(t, head), NULL, &hidden, 0, logits));
    return cap(t, logits);
}

pico_status train_logits(pico_train *t, uint32_t head, uint32_t begin, uint32_t n,
                         pico_tensor *logits, pico_tensor *d, pico_error *err) {
    const int64_t width = width_of(t, head);
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

static pico_status run(pico_train *t) {
    const uint32_t head = t->head_index;
    const pico_tensor hidden = hidden_rows(t, &t->work.hidden);
    const pico_tensor d = train_part(&t->work.d, t->head_n, width_of(t, head));
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
    TRAIN_TRY(cap_backward(t, &d));
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
