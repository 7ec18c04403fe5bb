/*
 * The forward pass of training: the same steps as model/forward.c, over whole sequences without KV
 * pages, with parameters that are F32 tensors. Each layer leaves in its store what the backward pass
 * needs. See internal.h.
 */
#include "train/internal.h"

/* ---- pieces that the backward pass uses too ---- */

pico_status train_rope(pico_train *t, const pico_tensor *x, uint32_t heads, int backward) {
    const pico_model_desc *desc = t->desc;
    if (desc->pos != PICO_POS_ROPE) {
        return PICO_OK;
    }
    const int reversed = (desc->flags & PICO_ROPE_REVERSED) != 0;
    pico_rope_args rope = {.layout = desc->rope_layout,
                           .reverse = (uint32_t)(reversed != (backward != 0)),
                           .rope_dim = desc->rope_dim,
                           .x = pico_view_heads(x, heads),
                           .pos = t->pos,
                           .cos = t->rope_cos,
                           .sin = t->rope_sin};
    rope.pos.shape[0] = t->rows;
    return t->ops->rope(t->self, &rope);
}

static pico_status norm_heads(pico_train *t, const pico_tensor *x, uint32_t heads,
                              const pico_tensor *y) {
    const pico_norm_args args = {.kind = PICO_NORM_RMS,
                                 .eps = t->desc->norm_eps,
                                 .scale = t->desc->qk_scale,
                                 .x = pico_view_heads(x, heads),
                                 .y = pico_view_heads(y, heads)};
    return t->ops->norm(t->self, &args);
}

pico_status train_head_norms(pico_train *t, uint32_t i, const pico_tensor *q, const pico_tensor *k,
                             pico_tensor *qn, pico_tensor *kn) {
    const pico_layer_desc *layer = &t->desc->layer[i];
    *qn = *q;
    *kn = *k;
    if ((t->desc->flags & PICO_QK_NORM) == 0) {
        return PICO_OK;
    }
    *qn = train_part(&t->work.qn, t->rows, q->shape[1]);
    *kn = train_part(&t->work.kn, t->rows, k->shape[1]);
    TRAIN_TRY(norm_heads(t, q, layer->n_head, qn));
    return norm_heads(t, k, layer->n_kv_head, kn);
}

pico_train_attend_args train_attend_args(const pico_train *t, uint32_t i, const pico_tensor *q,
                                         const pico_tensor *k) {
    const pico_attention_layer *attention = &t->model->attention[i];
    const layer_store *store = &t->store[i];
    const pico_tensor v = train_part(&store->v, t->rows, k->shape[1]);
    const pico_tensor out = train_part(&store->attended, t->rows, q->shape[1]);
    return (pico_train_attend_args){.n_seq = t->n_seq,
                                    .length = t->length,
                                    .scale = attention->scale,
                                    .window = attention->window,
                                    .n_sink = attention->n_sink,
                                    .compute = t->compute,
                                    .q = pico_view_heads(q, attention->n_head),
                                    .k = pico_view_heads(k, attention->n_kv_head),
                                    .v = pico_view_heads(&v, attention->n_kv_head),
                                    .out = pico_view_heads(&out, attention->n_head),
                                    .lse = train_part(&store->lse, t->rows, attention->n_head)};
}

pico_status train_value_gate(pico_train *t, uint32_t i, const pico_tensor *a,
                             const pico_tensor *scores, const pico_tensor *value) {
    const train_layer *layer = &t->layer[i];
    pico_tensor head_of = *a; /* the first channels of each row */
    pico_tensor token = t->token;
    head_of.shape[1] = t->desc->ve_width;
    token.shape[0] = t->rows;
    TRAIN_TRY(train_linear(t, layer->value_gate, NULL, &head_of, 0, scores));
    return train_gather(t, layer->value_embed, &token, value, 0);
}

pico_status train_ffn_inner(pico_train *t, uint32_t i, const pico_tensor *inner) {
    const layer_store *store = &t->store[i];
    const int gated = (t->desc->flags & PICO_FFN_GATED) != 0;
    const pico_tensor up = train_part(&store->up, t->rows, inner->shape[1]);
    pico_act_args act = {.kind = t->desc->act, .x = up, .y = *inner};
    if (gated) {
        act.x = train_part(&store->gate, t->rows, inner->shape[1]);
        act.gate = up;
    }
    return t->ops->activation(t->self, &act);
}

pico_status train_smear_parts(pico_train *t, const pico_tensor *x, const pico_tensor *before,
                              const pico_tensor *scores) {
    pico_tensor head_of = *x, prev = t->prev;
    head_of.shape[1] = t->desc->smear_width;
    prev.shape[0] = t->rows;
    TRAIN_TRY(train_gather(t, t->embed, &prev, before, 0));
    if (t->desc->flags & PICO_EMBED_NORM) { /* of zeros, at the start of a text: zeros */
        TRAIN_TRY(train_norm(t, before, t->embed_norm, t->embed_norm_bias, before));
    }
    return train_linear(t, t->smear_gate, NULL, &head_of, 0, scores);
}

/* ---- a layer ---- */

static pico_status attention_block(pico_train *t, uint32_t i) {
    const train_layer *layer = &t->layer[i];
    const pico_layer_desc *shape = &t->desc->layer[i];
    const layer_store *store = &t->store[i];
    const uint32_t rows = t->rows, width = t->desc->n_embd;
    const uint32_t heads_width = shape->n_head * shape->head_dim;
    const uint32_t kv_width = shape->n_kv_head * shape->head_dim;
    const pico_tensor x1 = train_part(&store->x1, rows, width);
    const pico_tensor x2 = train_part(&store->x2, rows, width);
    const pico_tensor a = train_factor(t, &t->work.a, rows, width);
    const pico_tensor q = train_part(&store->q, rows, heads_width);
    const pico_tensor k = train_part(&store->k, rows, kv_width);
    const pico_tensor v = train_part(&store->v, rows, kv_width);
    const pico_tensor attended = train_part(&store->attended, rows, heads_width);
    pico_tensor qn, kn;
    TRAIN_TRY(train_norm(t, &x1, layer->attn_norm, layer->attn_norm_bias, &a));
    TRAIN_TRY(train_linear(t, layer->q, layer->q_bias, &a, 0, &q));
    TRAIN_TRY(train_linear(t, layer->k, layer->k_bias, &a, 0, &k));
    TRAIN_TRY(train_linear(t, layer->v, layer->v_bias, &a, 0, &v));
    if (shape->has_value_embed) {
        const pico_tensor scores = train_part(&t->work.scores, rows, shape->n_kv_head);
        const pico_tensor value = train_part(&t->work.value, rows, kv_width);
        TRAIN_TRY(train_value_gate(t, i, &a, &scores, &value));
        const pico_gate_args gate = {.factor = t->desc->ve_scale,
                                     .g = scores,
                                     .u = pico_view_heads(&value, shape->n_kv_head),
                                     .y = pico_view_heads(&v, shape->n_kv_head)};
        TRAIN_TRY(t->ops->gate(t->self, &gate));
    }
    TRAIN_TRY(train_rope(t, &q, shape->n_head, 0));
    TRAIN_TRY(train_rope(t, &k, shape->n_kv_head, 0));
    TRAIN_TRY(train_head_norms(t, i, &q, &k, &qn, &kn));
    const pico_train_attend_args attend = train_attend_args(t, i, &qn, &kn);
    TRAIN_TRY(t->ext.attend(t->self, &attend));
    TRAIN_TRY(train_copy(t, &x1, &x2));
    return train_linear(t, layer->o, layer->o_bias, &attended, 1, &x2);
}

static pico_status ffn_block(pico_train *t, uint32_t i, const pico_tensor *x_out) {
    const train_layer *layer = &t->layer[i];
    const layer_store *store = &t->store[i];
    const uint32_t rows = t->rows, n_ff = t->desc->layer[i].n_ff;
    const pico_tensor x2 = train_part(&store->x2, rows, t->desc->n_embd);
    const pico_tensor a = train_factor(t, &t->work.a, rows, t->desc->n_embd);
    const pico_tensor up = train_part(&store->up, rows, n_ff);
    const pico_tensor inner = train_factor(t, &t->work.inner, rows, n_ff);
    TRAIN_TRY(train_norm(t, &x2, layer->ffn_norm, layer->ffn_norm_bias, &a));
    TRAIN_TRY(train_linear(t, layer->up, layer->up_bias, &a, 0, &up));
    if (layer->gate != NULL) {
        const pico_tensor gate = train_part(&store->gate, rows, n_ff);
        TRAIN_TRY(train_linear(t, layer->gate, layer->gate_bias, &a, 0, &gate));
    }
    if (x_out == NULL) { /* computed again: what comes out is known */
        return train_ffn_inner(t, i, &inner);
    }
    TRAIN_TRY(train_copy(t, &x2, x_out));
    TRAIN_TRY(train_ffn_inner(t, i, &inner));
    return train_linear(t, layer->down, layer->down_bias, &inner, 1, x_out);
}

pico_status train_forward_layer(pico_train *t, uint32_t i, const pico_tensor *x_in,
                                const pico_tensor *x_out) {
    if (t->desc->flags & PICO_RESID_LAMBDAS) {
        const pico_tensor x1 = train_part(&t->store[i].x1, t->rows, t->desc->n_embd);
        const pico_tensor x0 = train_part(&t->x_first, t->rows, t->desc->n_embd);
        const pico_tensor r = train_element(&t->resid->value, i);
        const pico_tensor s = train_element(&t->x0->value, i);
        TRAIN_TRY(train_copy(t, x_in, &x1));
        TRAIN_TRY(train_axpby(t, 1, &s, &x0, 1, &r, &x1));
    }
    TRAIN_TRY(attention_block(t, i));
    return ffn_block(t, i, x_out);
}

/* ---- the whole pass ---- */

static pico_status embed(pico_train *t) {
    const uint32_t rows = t->rows, width = t->desc->n_embd;
    const pico_tensor e = train_part(&t->e, rows, width), x = train_part(&t->x[0], rows, width);
    pico_tensor token = t->token, pos = t->pos;
    token.shape[0] = rows;
    pos.shape[0] = rows;
    TRAIN_TRY(train_gather(t, t->embed, &token, &e, 0));
    if (t->position != NULL) {
        TRAIN_TRY(train_gather(t, t->position, &pos, &e, 1));
    }
    if (t->desc->flags & PICO_EMBED_NORM) {
        TRAIN_TRY(train_norm(t, &e, t->embed_norm, t->embed_norm_bias, &x));
    } else {
        TRAIN_TRY(train_copy(t, &e, &x));
    }
    if (t->desc->smear_width != 0) {
        const pico_tensor before = train_part(&t->work.before, rows, width);
        const pico_tensor scores = train_part(&t->work.scores, rows, 1);
        TRAIN_TRY(train_smear_parts(t, &x, &before, &scores));
        const pico_gate_args gate = {.factor = 1,
                                     .scalar = train_element(&t->smear_lambda->value, 0),
                                     .g = scores,
                                     .u = pico_view_heads(&before, 1),
                                     .y = pico_view_heads(&x, 1)};
        TRAIN_TRY(t->ops->gate(t->self, &gate));
    }
    const pico_tensor first = train_part(&t->x_first, rows, width);
    return train_copy(t, &x, &first);
}

static pico_status run(pico_train *t) {
    const uint32_t rows = t->rows, width = t->desc->n_embd, n_layer = t->desc->n_layer;
    TRAIN_TRY(embed(t));
    for (uint32_t i = 0; i < n_layer; i++) {
        const pico_tensor in = train_part(&t->x[i], rows, width);
        const pico_tensor out = train_part(&t->x[i + 1], rows, width);
        TRAIN_TRY(train_forward_layer(t, i, &in, &out));
        if (t->desc->backout_layer == (int32_t)i) {
            const pico_tensor back = train_part(&t->back, rows, width);
            TRAIN_TRY(train_copy(t, &out, &back));
        }
    }
    const pico_tensor last = train_part(&t->x[n_layer], rows, width);
    const pico_tensor xf = train_part(&t->work.xf, rows, width);
    const pico_tensor hidden = train_part(&t->work.hidden, rows, width);
    TRAIN_TRY(train_copy(t, &last, &xf));
    if (t->desc->backout_layer >= 0) {
        const pico_tensor back = train_part(&t->back, rows, width);
        const pico_tensor lambda = train_element(&t->backout_lambda->value, 0);
        TRAIN_TRY(train_axpby(t, -1, &lambda, &back, 1, NULL, &xf));
    }
    return train_norm(t, &xf, t->out_norm, t->out_norm_bias, &hidden);
}

/* Checks the tokens and writes ids and positions to the device. */
static pico_status write_ids(pico_train *t, const int32_t *tokens, uint32_t n_seq, uint32_t length,
                             pico_error *err) {
    const uint32_t most = t->params.max_rows;
    int32_t *token = t->host_ids, *prev = token + most, *pos = prev + most, *next = pos + most;
    if (n_seq == 0 || length == 0 || length > t->params.max_length || n_seq > most / length) {
        return pico_fail(err, PICO_E_LIMIT,
                         "%u sequences of %u tokens do not fit into the %u tokens, in sequences of "
                         "at most %u, that training has reserved",
                         n_seq, length, most, t->params.max_length);
    }
    for (uint32_t r = 0; r < n_seq * length; r++) {
        if (tokens[r] < 0 || (uint32_t)tokens[r] >= t->desc->n_vocab) {
            return pico_fail(err, PICO_E_INVALID,
                             "token %d at place %u of sequence %u is not in the vocabulary of %u",
                             tokens[r], r % length, r / length, t->desc->n_vocab);
        }
        token[r] = tokens[r];
        prev[r] = r % length == 0 ? -1 : tokens[r - 1];
        pos[r] = (int32_t)(r % length);
        next[r] =
            r % length == length - 1 ? tokens[r] : tokens[r + 1]; /* no loss asks the last row */
    }
    const uint64_t bytes = 4u * (uint64_t)most * sizeof *token;
    const pico_status status = t->ops->buffer_write(t->self, t->ids, 0, t->host_ids, bytes);
    return status == PICO_OK ? status
                             : pico_fail(err, status, "the tokens cannot be written to the device");
}

pico_status train_forward(pico_train *t, const int32_t *tokens, uint32_t n_seq, uint32_t length,
                          pico_error *err) {
    t->rows = 0;
    t->kept = t->heads = t->head_kept = t->draft_copied = 0;
    pico_status status = write_ids(t, tokens, n_seq, length, err);
    if (status != PICO_OK) {
        return status;
    }
    t->n_seq = n_seq;
    t->length = length;
    t->rows = n_seq * length;
    status = run(t);
    if (status != PICO_OK) {
        t->rows = 0;
        return pico_fail(err, status, "an op of the forward pass of training failed");
    }
    t->kept = (uint32_t)train_keeps(t);
    train_count(t, t->rows * train_count_trunk(t, length));
    return PICO_OK;
}
