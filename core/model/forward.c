/*
 * The forward pass as backend ops, in the order that plugin.h section 5 gives. Fused slots are used
 * where the backend has them and composed where not; both give the same bits. See forward.h.
 */
#include "model/forward.h"

#include <math.h>

#include "model/ops.h"
#include "util/checked.h"
#include "util/half.h"

/* ---- work space ---- */

pico_status pico_activations_open(const pico_model *model, uint32_t max_rows,
                                  uint32_t max_logit_rows, pico_activations *out, pico_error *err) {
    const pico_model_desc *desc = &model->desc;
    pico_device *device = model->device;
    int biased = (desc->flags & PICO_BIAS_FFN) != 0; /* which the fused op does not take */
    int needs_x0 = (desc->flags & PICO_RESID_LAMBDAS) != 0;
    uint32_t gate_width = device->ops->linear_gated == NULL || biased ? model->max_ff : 0;
    const struct {
        pico_tensor *view;
        uint32_t rows, cols;
    } parts[] = {
        {&out->x, max_rows, desc->n_embd},
        {&out->a, max_rows, desc->n_embd},
        {&out->q, max_rows, model->max_heads_width},
        {&out->k, max_rows, model->max_kv_width},
        {&out->v, max_rows, model->max_kv_width},
        {&out->attended, max_rows, model->max_heads_width},
        {&out->up, max_rows, model->max_ff},
        {&out->gate, max_rows, gate_width},
        {&out->x0, max_rows, needs_x0 ? desc->n_embd : 0},
        {&out->back, max_rows, desc->backout_layer >= 0 ? desc->n_embd : 0},
        {&out->scores, max_rows, model->max_ve_head > 1 ? model->max_ve_head : 1},
        {&out->value, max_rows, model->max_ve_width},
        {&out->hidden, max_logit_rows, desc->n_embd},
        {&out->logits, max_logit_rows, desc->n_vocab},
    };
    *out = (pico_activations){0};
    uint64_t total = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        uint64_t bytes;
        if (!pico_checked_mul((uint64_t)parts[i].rows * parts[i].cols, 4, &bytes) ||
            !pico_checked_align(bytes, 64, &bytes)) {
            return pico_fail(err, PICO_E_LIMIT, "%u rows of activations are too many", max_rows);
        }
        *parts[i].view = pico_view(NULL, total, PICO_DTYPE_F32, parts[i].rows, parts[i].cols);
        total += bytes;
    }
    pico_status status = device->ops->buffer_alloc(device->self, total, &out->buffer, err);
    for (size_t i = 0; status == PICO_OK && i < sizeof parts / sizeof *parts; i++) {
        parts[i].view->buffer = out->buffer;
    }
    return status;
}

void pico_activations_close(const pico_model *model, pico_activations *activations) {
    model->device->ops->buffer_free(model->device->self, activations->buffer);
    *activations = (pico_activations){0};
}

/* ---- pieces of a layer ---- */

/* (rows, n_embd) -> q, k, v */
static pico_status project(const pico_model *model, const pico_layer_weights *weights,
                           const pico_tensor *a, const pico_tensor *q, const pico_tensor *k,
                           const pico_tensor *v, uint32_t n_decode) {
    const pico_backend_ops *ops = model->device->ops;
    if (ops->linear_many != NULL) {
        pico_linear_many_args args = {.n = 3,
                                      .n_decode = n_decode,
                                      .x = *a,
                                      .weight = {weights->q, weights->k, weights->v},
                                      .bias = {weights->q_bias, weights->k_bias, weights->v_bias},
                                      .y = {*q, *k, *v}};
        return ops->linear_many(model->device->self, &args);
    }
    PICO_TRY(pico_op_linear(model, weights->q, a, &weights->q_bias, q, n_decode, 0));
    PICO_TRY(pico_op_linear(model, weights->k, a, &weights->k_bias, k, n_decode, 0));
    return pico_op_linear(model, weights->v, a, &weights->v_bias, v, n_decode, 0);
}

/* v_h += ve_scale * sigmoid(Wg_h . a[0:ve_width]) * value_embed[token][h] */
static pico_status add_value_embedding(const pico_model *model, const pico_forward_args *args,
                                       uint32_t i, const pico_tensor *a, const pico_tensor *v) {
    const pico_layer_weights *weights = &model->layer[i];
    const pico_layer_desc *layer = &model->desc.layer[i];
    uint32_t rows = args->batch.n_rows, heads = layer->n_kv_head;
    pico_tensor head_of = *a; /* the first channels of each row */
    head_of.shape[1] = model->desc.ve_width;
    pico_tensor scores = pico_op_part(&args->work->scores, rows, heads);
    pico_tensor value = pico_op_part(&args->work->value, rows, heads * layer->head_dim);
    PICO_TRY(pico_op_linear(model, weights->value_gate, &head_of, NULL, &scores,
                            args->batch.n_decode, 0));
    PICO_TRY(pico_op_lookup(model, weights->value_embed, &args->batch.token, &value, 0));
    pico_gate_args gate = {.factor = model->desc.ve_scale,
                           .g = scores,
                           .u = pico_view_heads(&value, heads),
                           .y = pico_view_heads(v, heads)};
    return model->device->ops->gate(model->device->self, &gate);
}

/* Rope, then the norm of each head where the model has one. x is (rows, heads, head_dim). */
static pico_status place(const pico_model *model, const pico_forward_args *args,
                         const pico_tensor *x) {
    const pico_model_desc *desc = &model->desc;
    const pico_backend_ops *ops = model->device->ops;
    if (desc->pos == PICO_POS_ROPE) {
        pico_rope_args rope = {.layout = desc->rope_layout,
                               .reverse = (desc->flags & PICO_ROPE_REVERSED) != 0,
                               .rope_dim = desc->rope_dim,
                               .x = *x,
                               .pos = args->batch.pos,
                               .cos = args->rope_cos,
                               .sin = args->rope_sin};
        PICO_TRY(ops->rope(model->device->self, &rope));
    }
    if (desc->flags & PICO_QK_NORM) {
        pico_norm_args head_norm = {.kind = PICO_NORM_RMS,
                                    .eps = desc->norm_eps,
                                    .scale = desc->qk_scale,
                                    .x = *x,
                                    .y = *x};
        PICO_TRY(ops->norm(model->device->self, &head_norm));
    }
    return PICO_OK;
}

static pico_status attention_block(const pico_model *model, const pico_forward_args *args,
                                   uint32_t i) {
    const pico_backend_ops *ops = model->device->ops;
    void *self = model->device->self;
    const pico_layer_weights *weights = &model->layer[i];
    const pico_attention_layer *attention = &model->attention[i];
    const pico_layer_kv *kv = &args->layer[i];
    uint32_t rows = args->batch.n_rows, n_decode = args->batch.n_decode;
    uint32_t heads_width = attention->n_head * attention->head_dim;
    uint32_t kv_width = attention->n_kv_head * attention->head_dim;
    pico_tensor x = pico_op_part(&args->work->x, rows, model->desc.n_embd);
    pico_tensor a = pico_op_part(&args->work->a, rows, model->desc.n_embd);
    pico_tensor q = pico_op_part(&args->work->q, rows, heads_width);
    pico_tensor k = pico_op_part(&args->work->k, rows, kv_width);
    pico_tensor v = pico_op_part(&args->work->v, rows, kv_width);
    pico_tensor attended = pico_op_part(&args->work->attended, rows, heads_width);

    PICO_TRY(pico_op_norm(model, &x, &weights->attn_norm, &weights->attn_norm_bias, &a));
    PICO_TRY(pico_op_tap(model, i, "attn_norm", &a));
    PICO_TRY(project(model, weights, &a, &q, &k, &v, n_decode));
    if (model->desc.layer[i].has_value_embed) {
        PICO_TRY(add_value_embedding(model, args, i, &a, &v));
    }
    pico_tensor q_heads = pico_view_heads(&q, attention->n_head);
    pico_tensor k_heads = pico_view_heads(&k, attention->n_kv_head);
    PICO_TRY(place(model, args, &q_heads));
    PICO_TRY(place(model, args, &k_heads));
    pico_kv_store_args store = {.kv = kv->kv,
                                .pages = kv->pages,
                                .k = k_heads,
                                .v = pico_view_heads(&v, attention->n_kv_head),
                                .cell = kv->cell};
    PICO_TRY(ops->kv_store(self, &store));
    pico_attend_args attend = {.kv = kv->kv,
                               .pages = kv->pages,
                               .page_table = kv->page_table,
                               .batch = &args->batch,
                               .n_head = attention->n_head,
                               .scale = attention->scale,
                               .window = kv->window,
                               .n_sink = kv->n_sink,
                               .q = q_heads,
                               .out = pico_view_heads(&attended, attention->n_head)};
    PICO_TRY(ops->attend(self, &attend));
    PICO_TRY(pico_op_tap(model, i, "attended", &attended));
    return pico_op_linear(model, weights->o, &attended, &weights->o_bias, &x, n_decode, 1);
}

/* m = act(a W1) or act(a Wgate) * (a Wup) */
static pico_status ffn_inner(const pico_model *model, const pico_layer_weights *weights,
                             const pico_forward_args *args, const pico_tensor *a,
                             const pico_tensor *m) {
    const pico_backend_ops *ops = model->device->ops;
    void *self = model->device->self;
    uint32_t n_decode = args->batch.n_decode;
    pico_act_args act = {.kind = model->desc.act, .x = *m, .y = *m};
    if (!(model->desc.flags & PICO_FFN_GATED)) {
        PICO_TRY(pico_op_linear(model, weights->up, a, &weights->up_bias, m, n_decode, 0));
        return ops->activation(self, &act);
    }
    if (ops->linear_gated != NULL && !(model->desc.flags & PICO_BIAS_FFN)) {
        pico_linear_gated_args gated = {.w1 = weights->gate,
                                        .w3 = weights->up,
                                        .act = model->desc.act,
                                        .n_decode = n_decode,
                                        .x = *a,
                                        .y = *m};
        return ops->linear_gated(self, &gated);
    }
    pico_tensor gate =
        pico_op_part(&args->work->gate, (uint32_t)m->shape[0], (uint32_t)m->shape[1]);
    PICO_TRY(pico_op_linear(model, weights->gate, a, &weights->gate_bias, &gate, n_decode, 0));
    PICO_TRY(pico_op_linear(model, weights->up, a, &weights->up_bias, m, n_decode, 0));
    act.x = gate;
    act.gate = *m;
    return ops->activation(self, &act);
}

static pico_status ffn_block(const pico_model *model, const pico_forward_args *args, uint32_t i) {
    const pico_layer_weights *weights = &model->layer[i];
    uint32_t rows = args->batch.n_rows;
    pico_tensor x = pico_op_part(&args->work->x, rows, model->desc.n_embd);
    pico_tensor a = pico_op_part(&args->work->a, rows, model->desc.n_embd);
    pico_tensor m = pico_op_part(&args->work->up, rows, model->desc.layer[i].n_ff);
    PICO_TRY(pico_op_norm(model, &x, &weights->ffn_norm, &weights->ffn_norm_bias, &a));
    PICO_TRY(pico_op_tap(model, i, "ffn_norm", &a));
    PICO_TRY(ffn_inner(model, weights, args, &a, &m));
    PICO_TRY(pico_op_tap(model, i, "ffn_inner", &m));
    PICO_TRY(
        pico_op_linear(model, weights->down, &m, &weights->down_bias, &x, args->batch.n_decode, 1));
    return pico_op_tap(model, i, "out", &x);
}

/* x_t += smear_lambda * sigmoid(smear_gate . x_t[0:smear_width]) * (embedding of token t - 1), the
 * latter as it was before: so it is looked up again, and there is no state to roll back. */
static pico_status smear(const pico_model *model, const pico_forward_args *args,
                         const pico_tensor *x) {
    uint32_t rows = args->batch.n_rows;
    pico_tensor before = pico_op_part(&args->work->a, rows, model->desc.n_embd);
    pico_tensor scores = pico_op_part(&args->work->scores, rows, 1);
    pico_tensor head_of = *x;
    head_of.shape[1] = model->desc.smear_width;
    PICO_TRY(pico_op_lookup(model, model->embed, &args->batch.prev, &before, 0));
    if (model->desc.flags & PICO_EMBED_NORM) { /* of zeros, at the start of a text: zeros */
        PICO_TRY(
            pico_op_norm(model, &before, &model->embed_norm, &model->embed_norm_bias, &before));
    }
    PICO_TRY(
        pico_op_linear(model, model->smear_gate, &head_of, NULL, &scores, args->batch.n_decode, 0));
    pico_gate_args gate = {.factor = 1.0f,
                           .scalar = model->smear_lambda,
                           .g = scores,
                           .u = pico_view_heads(&before, 1),
                           .y = pico_view_heads(x, 1)};
    return model->device->ops->gate(model->device->self, &gate);
}

static pico_status axpby(const pico_model *model, float a, const pico_tensor *a_scalar,
                         const pico_tensor *x, float b, const pico_tensor *b_scalar,
                         const pico_tensor *y) {
    pico_axpby_args args = {.a = a, .b = b, .x = *x, .y = *y};
    if (a_scalar != NULL) {
        args.a_scalar = *a_scalar;
    }
    if (b_scalar != NULL) {
        args.b_scalar = *b_scalar;
    }
    return model->device->ops->axpby(model->device->self, &args);
}

static pico_status embed(const pico_model *model, const pico_forward_args *args,
                         const pico_tensor *x) {
    PICO_TRY(pico_op_lookup(model, model->embed, &args->batch.token, x, 0));
    if (model->desc.pos == PICO_POS_LEARNED) {
        PICO_TRY(pico_op_lookup(model, model->position, &args->batch.pos, x, 1));
    }
    if (model->desc.flags & PICO_EMBED_NORM) {
        PICO_TRY(pico_op_norm(model, x, &model->embed_norm, &model->embed_norm_bias, x));
    }
    if (model->desc.smear_width != 0) {
        PICO_TRY(smear(model, args, x));
    }
    if (model->desc.flags & PICO_RESID_LAMBDAS) {
        pico_tensor x0 = pico_op_part(&args->work->x0, args->batch.n_rows, model->desc.n_embd);
        PICO_TRY(axpby(model, 1.0f, NULL, x, 0.0f, NULL, &x0));
    }
    return pico_op_tap(model, 0, "embed", x);
}

static pico_status outputs(const pico_model *model, const pico_forward_args *args,
                           const pico_tensor *x) {
    for (uint32_t i = 0; i < args->n_run; i++) {
        const pico_output_run *run = &args->run[i];
        pico_tensor from = pico_view_rows(x, run->begin, run->n);
        pico_tensor hidden = pico_view_rows(&args->work->hidden, run->out, run->n);
        PICO_TRY(pico_op_norm(model, &from, &model->out_norm, &model->out_norm_bias, &hidden));
        PICO_TRY(pico_op_tap(model, model->desc.n_layer, "hidden", &hidden));
        if (run->logits) {
            uint32_t n_decode =
                args->batch.n_decode > run->begin ? args->batch.n_decode - run->begin : 0;
            pico_tensor logits = pico_view_rows(&args->work->logits, run->out, run->n);
            PICO_TRY(
                pico_model_head(model, &hidden, &logits, n_decode < run->n ? n_decode : run->n));
        }
    }
    return PICO_OK;
}

static pico_status layer_block(const pico_model *model, const pico_forward_args *args,
                               const pico_tensor *x, uint32_t i) {
    const pico_layer_weights *weights = &model->layer[i];
    uint32_t rows = args->batch.n_rows;
    if (model->desc.flags & PICO_RESID_LAMBDAS) {
        pico_tensor x0 = pico_op_part(&args->work->x0, rows, model->desc.n_embd);
        PICO_TRY(axpby(model, 1.0f, &weights->x0_lambda, &x0, 1.0f, &weights->resid_lambda, x));
    }
    PICO_TRY(attention_block(model, args, i));
    PICO_TRY(ffn_block(model, args, i));
    if (model->desc.backout_layer == (int32_t)i) {
        pico_tensor back = pico_op_part(&args->work->back, rows, model->desc.n_embd);
        PICO_TRY(axpby(model, 1.0f, NULL, x, 0.0f, NULL, &back));
    }
    return PICO_OK;
}

pico_status pico_model_forward(const pico_model *model, const pico_forward_args *args) {
    uint32_t rows = args->batch.n_rows;
    pico_tensor x = pico_op_part(&args->work->x, rows, model->desc.n_embd);
    PICO_TRY(embed(model, args, &x));
    for (uint32_t i = 0; i < model->desc.n_layer; i++) {
        PICO_TRY(layer_block(model, args, &x, i));
    }
    if (model->desc.backout_layer >= 0) {
        pico_tensor back = pico_op_part(&args->work->back, rows, model->desc.n_embd);
        PICO_TRY(axpby(model, -1.0f, &model->backout_lambda, &back, 1.0f, NULL, &x));
    }
    return outputs(model, args, &x);
}

void pico_rope_table(const pico_model_desc *desc, uint32_t n, float *cos_out, float *sin_out) {
    uint32_t half = desc->rope_dim / 2;
    int rounded = desc->rope_table == PICO_DTYPE_BF16;
    for (uint32_t j = 0; j < half; j++) {
        double exponent = (double)(2 * j) / (double)desc->rope_dim;
        float inverse = (float)(1.0 / pow(desc->rope_base, exponent));
        for (uint32_t t = 0; t < n; t++) {
            float angle = (float)t * inverse; /* float, as the reference systems have it */
            float c = (float)cos((double)angle), s = (float)sin((double)angle);
            size_t at = (size_t)t * half + j;
            cos_out[at] = rounded ? pico_f32_of_bf16(pico_bf16_of_f32(c)) : c;
            sin_out[at] = rounded ? pico_f32_of_bf16(pico_bf16_of_f32(s)) : s;
        }
    }
}
