/*
 * The backward pass: from the gradient of the hidden rows through the layers, last to first, to every
 * parameter. dx always holds the gradient of the residual stream at the place at hand. See
 * internal.h.
 */
#include "train/internal.h"

/* Gradients that only products read, in the place of inner, which has room for two of its kind and is
 * read by then. */
static void narrow_gradients(const pico_tensor *inner, pico_tensor *first, pico_tensor *second) {
    *first = *inner;
    if (second != NULL) {
        *second = *inner;
        second->offset += (uint64_t)(inner->shape[0] * inner->shape[1]) * sizeof(uint16_t);
    }
}

/* x_out = x2 + down(act(up m) ...), m = norm(x2): dx of x_out becomes dx of x2. */
static pico_status ffn_backward(pico_train *t, uint32_t i, const pico_tensor *dx) {
    const train_layer *layer = &t->layer[i];
    const layer_store *store = &t->store[i];
    const uint32_t rows = t->rows, width = t->desc->n_embd, n_ff = t->desc->layer[i].n_ff;
    const int gated = layer->gate != NULL;
    const pico_tensor x2 = train_part(&store->x2, rows, width);
    const pico_tensor m = train_factor(t, &t->work.a, rows, width);
    const pico_tensor dm = train_part(&t->work.da, rows, width);
    const pico_tensor inner = train_factor(t, &t->work.inner, rows, n_ff);
    const pico_tensor dinner = train_part(&t->work.dinner, rows, n_ff);
    const pico_tensor up = train_part(&store->up, rows, n_ff);
    pico_act_backward_args act = {.kind = t->desc->act, .x = up, .dy = dinner};
    pico_tensor dgate = dinner; /* the gradient of what is activated, w1 x */
    pico_tensor dup = dinner;   /* the gradient of up */
    if (gated) {
        dup = train_part(&t->work.dgate, rows, n_ff);
        act.x = train_part(&store->gate, rows, n_ff);
        act.gate = up;
    }
    if (inner.dtype == PICO_DTYPE_BF16 && layer->up_bias == NULL && layer->gate_bias == NULL) {
        narrow_gradients(&inner, &dgate, gated ? &dup : NULL);
        dup = gated ? dup : dgate;
    }
    act.dx = dgate;
    act.dgate = gated ? dup : (pico_tensor){0};
    TRAIN_TRY(train_norm(t, &x2, layer->ffn_norm, layer->ffn_norm_bias, &m));
    TRAIN_TRY(train_ffn_inner(t, i, &inner));
    TRAIN_TRY(train_linear_backward(t, layer->down, layer->down_bias, &inner, dx, 0, &dinner));
    TRAIN_TRY(t->ext.act_backward(t->self, &act));
    TRAIN_TRY(train_linear_backward(t, layer->up, layer->up_bias, &m, &dup, 0, &dm));
    if (gated) {
        TRAIN_TRY(train_linear_backward(t, layer->gate, layer->gate_bias, &m, &dgate, 1, &dm));
    }
    return train_norm_backward(t, &x2, layer->ffn_norm, layer->ffn_norm_bias, &dm, dx, 1);
}

static pico_status head_norm_backward(pico_train *t, const pico_tensor *x, uint32_t heads,
                                      const pico_tensor *dy) {
    const pico_norm_backward_args args = {.kind = PICO_NORM_RMS,
                                          .eps = t->desc->norm_eps,
                                          .scale = t->desc->qk_scale,
                                          .x = pico_view_heads(x, heads),
                                          .dy = pico_view_heads(dy, heads),
                                          .dx = pico_view_heads(dy, heads)};
    return t->ext.norm_backward(t->self, &args);
}

/* dq, dk, dv of what went into rope and the value embedding. */
static pico_status attend_backward(pico_train *t, uint32_t i, const pico_tensor *datt,
                                   const pico_tensor *dq, const pico_tensor *dk,
                                   const pico_tensor *dv) {
    const pico_layer_desc *shape = &t->desc->layer[i];
    const layer_store *store = &t->store[i];
    const pico_tensor q = train_part(&store->q, t->rows, dq->shape[1]);
    const pico_tensor k = train_part(&store->k, t->rows, dk->shape[1]);
    pico_tensor qn, kn;
    TRAIN_TRY(train_head_norms(t, i, &q, &k, &qn, &kn));
    pico_attend_backward_args args = {.forward = train_attend_args(t, i, &qn, &kn),
                                      .dout = pico_view_heads(datt, shape->n_head),
                                      .dq = pico_view_heads(dq, shape->n_head),
                                      .dk = pico_view_heads(dk, shape->n_kv_head),
                                      .dv = pico_view_heads(dv, shape->n_kv_head)};
    if (shape->n_head != shape->n_kv_head) {
        args.work = train_part(&t->work.shares, 2 * (int64_t)t->rows, dq->shape[1]);
    }
    TRAIN_TRY(t->ext.attend_backward(t->self, &args));
    if (t->desc->flags & PICO_QK_NORM) {
        TRAIN_TRY(head_norm_backward(t, &q, shape->n_head, dq));
        TRAIN_TRY(head_norm_backward(t, &k, shape->n_kv_head, dk));
    }
    TRAIN_TRY(train_rope(t, dq, shape->n_head, 1));
    return train_rope(t, dk, shape->n_kv_head, 1);
}

/* v += factor * sigmoid(Wg a[0:w]) * table[token]; adds to da. */
static pico_status value_embed_backward(pico_train *t, uint32_t i, const pico_tensor *a,
                                        const pico_tensor *dv, const pico_tensor *da) {
    const train_layer *layer = &t->layer[i];
    const uint32_t heads = t->desc->layer[i].n_kv_head;
    const pico_tensor scores = train_part(&t->work.scores, t->rows, heads);
    const pico_tensor value = train_part(&t->work.value, t->rows, dv->shape[1]);
    pico_tensor a_head = *a, da_head = *da, token = t->token;
    a_head.shape[1] = da_head.shape[1] = t->desc->ve_width;
    token.shape[0] = t->rows;
    TRAIN_TRY(train_value_gate(t, i, a, &scores, &value));
    const pico_gate_backward_args args = {.factor = t->desc->ve_scale,
                                          .g = scores,
                                          .u = pico_view_heads(&value, heads),
                                          .dy = pico_view_heads(dv, heads),
                                          .dg = scores,
                                          .du = pico_view_heads(&value, heads)};
    TRAIN_TRY(t->ext.gate_backward(t->self, &args));
    TRAIN_TRY(train_scatter(t, layer->value_embed, &token, &value));
    return train_linear_backward(t, layer->value_gate, NULL, &a_head, &scores, 1, &da_head);
}

/* x2 = x1 + Wo attend(...): dx of x2 becomes dx of x1. */
static pico_status attention_backward(pico_train *t, uint32_t i, const pico_tensor *dx) {
    const train_layer *layer = &t->layer[i];
    const pico_layer_desc *shape = &t->desc->layer[i];
    const layer_store *store = &t->store[i];
    const uint32_t rows = t->rows, width = t->desc->n_embd;
    const uint32_t heads_width = shape->n_head * shape->head_dim;
    const uint32_t kv_width = shape->n_kv_head * shape->head_dim;
    const pico_tensor x1 = train_part(&store->x1, rows, width);
    const pico_tensor a = train_factor(t, &t->work.a, rows, width);
    const pico_tensor da = train_part(&t->work.da, rows, width);
    const pico_tensor attended = train_part(&store->attended, rows, heads_width);
    const pico_tensor datt = train_part(&t->work.datt, rows, heads_width);
    const pico_tensor dq = train_part(&t->work.dq, rows, heads_width);
    const pico_tensor dk = train_part(&t->work.dk, rows, kv_width);
    const pico_tensor dv = train_part(&t->work.dv, rows, kv_width);
    TRAIN_TRY(train_linear_backward(t, layer->o, layer->o_bias, &attended, dx, 0, &datt));
    TRAIN_TRY(attend_backward(t, i, &datt, &dq, &dk, &dv));
    TRAIN_TRY(train_norm(t, &x1, layer->attn_norm, layer->attn_norm_bias, &a));
    TRAIN_TRY(train_linear_backward(t, layer->q, layer->q_bias, &a, &dq, 0, &da));
    TRAIN_TRY(train_linear_backward(t, layer->k, layer->k_bias, &a, &dk, 1, &da));
    TRAIN_TRY(train_linear_backward(t, layer->v, layer->v_bias, &a, &dv, 1, &da));
    if (shape->has_value_embed) {
        TRAIN_TRY(value_embed_backward(t, i, &a, &dv, &da));
    }
    return train_norm_backward(t, &x1, layer->attn_norm, layer->attn_norm_bias, &da, dx, 1);
}

/* x1 = r x_in + s x0: dx of x1 becomes dx of x_in, dx0 takes its share. */
static pico_status lambdas_backward(pico_train *t, uint32_t i, const pico_tensor *dx) {
    const uint32_t rows = t->rows, width = t->desc->n_embd;
    const pico_tensor x_in = train_part(&t->x[i], rows, width);
    const pico_tensor x0 = train_part(&t->x_first, rows, width);
    const pico_tensor dx0 = train_part(&t->work.dx0, rows, width);
    const pico_tensor r = train_element(&t->resid->value, i);
    const pico_tensor s = train_element(&t->x0->value, i);
    const pico_tensor dr = train_element(&t->resid->grad, i);
    const pico_tensor ds = train_element(&t->x0->grad, i);
    TRAIN_TRY(train_add_dot(t, 1, dx, &x_in, &dr));
    TRAIN_TRY(train_add_dot(t, 1, dx, &x0, &ds));
    TRAIN_TRY(train_axpby(t, 1, &s, dx, 1, NULL, &dx0));
    return train_axpby(t, 1, &r, dx, 0, NULL, dx);
}

/* x += lambda * sigmoid(gate . x[0:w]) * before: dx becomes the gradient of x before that. */
static pico_status smear_backward(pico_train *t, const pico_tensor *x, const pico_tensor *dx) {
    const uint32_t rows = t->rows, width = t->desc->n_embd;
    const pico_tensor before = train_part(&t->work.before, rows, width);
    const pico_tensor scores = train_part(&t->work.scores, rows, 1);
    const pico_tensor dbefore = train_part(&t->work.da, rows, width);
    pico_tensor x_head = *x, dx_head = *dx, prev = t->prev;
    x_head.shape[1] = dx_head.shape[1] = t->desc->smear_width;
    prev.shape[0] = rows;
    TRAIN_TRY(train_smear_parts(t, x, &before, &scores));
    const pico_gate_backward_args args = {.factor = 1,
                                          .scalar = train_element(&t->smear_lambda->value, 0),
                                          .g = scores,
                                          .u = pico_view_heads(&before, 1),
                                          .dy = pico_view_heads(dx, 1),
                                          .dg = scores,
                                          .du = pico_view_heads(&dbefore, 1),
                                          .dscalar = train_element(&t->smear_lambda->grad, 0)};
    TRAIN_TRY(t->ext.gate_backward(t->self, &args));
    TRAIN_TRY(train_linear_backward(t, t->smear_gate, NULL, &x_head, &scores, 1, &dx_head));
    if (t->desc->flags & PICO_EMBED_NORM) {
        TRAIN_TRY(train_gather(t, t->embed, &prev, &before, 0));
        TRAIN_TRY(train_norm_backward(t, &before, t->embed_norm, t->embed_norm_bias, &dbefore,
                                      &dbefore, 0));
    }
    return train_scatter(t, t->embed, &prev, &dbefore);
}

static pico_status embed_backward(pico_train *t, const pico_tensor *dx) {
    const uint32_t rows = t->rows, width = t->desc->n_embd;
    const pico_tensor e = train_part(&t->e, rows, width), x = train_part(&t->work.a, rows, width);
    const int normed = (t->desc->flags & PICO_EMBED_NORM) != 0;
    pico_tensor token = t->token, pos = t->pos;
    token.shape[0] = pos.shape[0] = rows;
    if (t->desc->smear_width != 0) {
        if (normed) {
            TRAIN_TRY(train_norm(t, &e, t->embed_norm, t->embed_norm_bias, &x));
        }
        TRAIN_TRY(smear_backward(t, normed ? &x : &e, dx));
    }
    if (normed) {
        TRAIN_TRY(train_norm_backward(t, &e, t->embed_norm, t->embed_norm_bias, dx, dx, 0));
    }
    TRAIN_TRY(train_scatter(t, t->embed, &token, dx));
    return t->position == NULL ? PICO_OK : train_scatter(t, t->position, &pos, dx);
}

/* hidden = norm(xf), xf = x - lambda * back: dx of x; dback is the share of the backout layer. */
static pico_status output_backward(pico_train *t, const pico_tensor *dx, const pico_tensor *dback) {
    const uint32_t rows = t->rows, width = t->desc->n_embd;
    const pico_tensor xf = train_part(&t->work.xf, rows, width);
    const pico_tensor dhidden = train_part(&t->work.dhidden, rows, width);
    TRAIN_TRY(train_norm_backward(t, &xf, t->out_norm, t->out_norm_bias, &dhidden, dx, 0));
    if (t->desc->backout_layer >= 0) {
        const pico_tensor back = train_part(&t->back, rows, width);
        const pico_tensor lambda = train_element(&t->backout_lambda->value, 0);
        const pico_tensor dlambda = train_element(&t->backout_lambda->grad, 0);
        TRAIN_TRY(train_add_dot(t, -1, dx, &back, &dlambda));
        TRAIN_TRY(train_axpby(t, -1, &lambda, dx, 0, NULL, dback));
    }
    return PICO_OK;
}

static pico_status run(pico_train *t) {
    const uint32_t rows = t->rows, width = t->desc->n_embd;
    const int lambdas = (t->desc->flags & PICO_RESID_LAMBDAS) != 0;
    const pico_tensor dx = train_part(&t->work.dx, rows, width);
    const pico_tensor dx0 = train_part(&t->work.dx0, rows, width);
    const pico_tensor dback = train_part(&t->work.dback, rows, width);
    if (!t->heads) { /* no head has left a gradient */
        const pico_tensor dhidden = train_part(&t->work.dhidden, rows, width);
        TRAIN_TRY(train_fill(t, &dhidden, 0));
    }
    if (lambdas) {
        TRAIN_TRY(train_fill(t, &dx0, 0));
    }
    TRAIN_TRY(output_backward(t, &dx, &dback));
    for (uint32_t i = t->desc->n_layer; i-- > 0;) {
        if (train_recomputes(t) && i + 1 != t->desc->n_layer) { /* the last one is still there */
            const pico_tensor in = train_part(&t->x[i], rows, width);
            TRAIN_TRY(train_forward_layer(t, i, &in, NULL));
        }
        if (t->desc->backout_layer == (int32_t)i) {
            TRAIN_TRY(train_axpby(t, 1, NULL, &dback, 1, NULL, &dx));
        }
        TRAIN_TRY(ffn_backward(t, i, &dx));
        TRAIN_TRY(attention_backward(t, i, &dx));
        if (lambdas) {
            TRAIN_TRY(lambdas_backward(t, i, &dx));
        }
    }
    if (lambdas) {
        TRAIN_TRY(train_axpby(t, 1, NULL, &dx0, 1, NULL, &dx));
    }
    return embed_backward(t, &dx);
}

pico_status train_backward(pico_train *t, pico_error *err) {
    if (t->rows == 0 || !t->kept) {
        if (t->rows != 0 && (t->params.flags & PICO_TRAIN_HEADS)) {
            return PICO_OK; /* the trunk is frozen */
        }
        return pico_fail(err, PICO_E_INVALID,
                         "backward needs a forward pass of a state that learns before it, and "
                         "takes each only once");
    }
    t->kept = 0;
    train_count(t, 2 * t->rows * train_count_trunk(t, t->length));
    const pico_status status = run(t);
    return status == PICO_OK ? status : pico_fail(err, status, "an op of the backward pass failed");
}
