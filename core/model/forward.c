/*
 * The forward pass as backend ops, in the order that plugin.h section 5 gives. Fused slots are used
 * where the backend has them and composed where not; both give the same bits. See forward.h.
 */
#include "model/forward.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "util/checked.h"
#include "util/half.h"

/* Runs an op and returns from the enclosing function if it fails. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        pico_status status_ = (call);                                                              \
        if (status_ != PICO_OK) {                                                                  \
            return status_;                                                                        \
        }                                                                                          \
    } while (0)

/* ---- work space ---- */

pico_status pico_activations_open(const pico_model *model, uint32_t max_rows,
                                  uint32_t max_logit_rows, pico_activations *out, pico_error *err) {
    const pico_model_desc *desc = &model->desc;
    pico_device *device = model->device;
    uint32_t gate_width = device->ops->linear_gated == NULL ? model->max_ff : 0;
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

/* The first rows of a work area, as wide as this layer needs. */
static pico_tensor part(const pico_tensor *area, uint32_t rows, uint32_t cols) {
    return pico_view(area->buffer, area->offset, PICO_DTYPE_F32, rows, cols);
}

/* ---- taps ---- */

/* Hands an activation to the tap. Reads it back, so it is slow; only used while a tap is set. */
static pico_status tap(const pico_model *model, uint32_t layer, const char *name,
                       const pico_tensor *rows) {
    if (model->tap == NULL) {
        return PICO_OK;
    }
    size_t n = (size_t)(rows->shape[0] * rows->shape[1]);
    float *copy = malloc(n * sizeof *copy);
    if (copy == NULL) {
        return PICO_E_NOMEM;
    }
    pico_status status = model->device->ops->buffer_read(
        model->device->self, rows->buffer, rows->offset, copy, n * sizeof *copy, NULL);
    if (status == PICO_OK) {
        model->tap(model->tap_arg, layer, name, copy, (uint32_t)rows->shape[0],
                   (uint32_t)rows->shape[1]);
    }
    free(copy);
    return status;
}

/* ---- pieces of a layer ---- */

static pico_status norm(const pico_model *model, const pico_tensor *x, const pico_tensor *weight,
                        const pico_tensor *bias, const pico_tensor *y) {
    pico_norm_args args = {.kind = model->desc.norm,
                           .eps = model->desc.norm_eps,
                           .scale = 1.0f,
                           .x = *x,
                           .weight = *weight,
                           .bias = *bias,
                           .y = *y};
    return model->device->ops->norm(model->device->self, &args);
}

static pico_status linear(const pico_model *model, const pico_weight *weight, const pico_tensor *x,
                          const pico_tensor *bias, const pico_tensor *y, uint32_t n_decode,
                          uint32_t accumulate) {
    pico_linear_args args = {.weight = weight,
                             .x = *x,
                             .bias = *bias,
                             .y = *y,
                             .n_decode = n_decode,
                             .accumulate = accumulate};
    return model->device->ops->linear(model->device->self, &args);
}

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
    TRY(linear(model, weights->q, a, &weights->q_bias, q, n_decode, 0));
    TRY(linear(model, weights->k, a, &weights->k_bias, k, n_decode, 0));
    return linear(model, weights->v, a, &weights->v_bias, v, n_decode, 0);
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
        TRY(ops->rope(model->device->self, &rope));
    }
    if (desc->flags & PICO_QK_NORM) {
        pico_norm_args head_norm = {.kind = PICO_NORM_RMS,
                                    .eps = desc->norm_eps,
                                    .scale = desc->qk_scale,
                                    .x = *x,
                                    .y = *x};
        TRY(ops->norm(model->device->self, &head_norm));
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
    pico_tensor x = part(&args->work->x, rows, model->desc.n_embd);
    pico_tensor a = part(&args->work->a, rows, model->desc.n_embd);
    pico_tensor q = part(&args->work->q, rows, heads_width);
    pico_tensor k = part(&args->work->k, rows, kv_width);
    pico_tensor v = part(&args->work->v, rows, kv_width);
    pico_tensor attended = part(&args->work->attended, rows, heads_width);

    TRY(norm(model, &x, &weights->attn_norm, &weights->attn_norm_bias, &a));
    TRY(tap(model, i, "attn_norm", &a));
    TRY(project(model, weights, &a, &q, &k, &v, n_decode));
    pico_tensor q_heads = pico_view_heads(&q, attention->n_head);
    pico_tensor k_heads = pico_view_heads(&k, attention->n_kv_head);
    TRY(place(model, args, &q_heads));
    TRY(place(model, args, &k_heads));
    pico_kv_store_args store = {.kv = kv->kv,
                                .pages = kv->pages,
                                .k = k_heads,
                                .v = pico_view_heads(&v, attention->n_kv_head),
                                .cell = kv->cell};
    TRY(ops->kv_store(self, &store));
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
    TRY(ops->attend(self, &attend));
    TRY(tap(model, i, "attended", &attended));
    return linear(model, weights->o, &attended, &weights->o_bias, &x, n_decode, 1);
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
        TRY(linear(model, weights->up, a, &weights->up_bias, m, n_decode, 0));
        return ops->activation(self, &act);
    }
    if (ops->linear_gated != NULL) {
        pico_linear_gated_args gated = {.w1 = weights->gate,
                                        .w3 = weights->up,
                                        .act = model->desc.act,
                                        .n_decode = n_decode,
                                        .x = *a,
                                        .y = *m};
        return ops->linear_gated(self, &gated);
    }
    pico_tensor none = {0};
    pico_tensor gate = part(&args->work->gate, (uint32_t)m->shape[0], (uint32_t)m->shape[1]);
    TRY(linear(model, weights->gate, a, &none, &gate, n_decode, 0));
    TRY(linear(model, weights->up, a, &none, m, n_decode, 0));
    act.x = gate;
    act.gate = *m;
    return ops->activation(self, &act);
}

static pico_status ffn_block(const pico_model *model, const pico_forward_args *args, uint32_t i) {
    const pico_layer_weights *weights = &model->layer[i];
    uint32_t rows = args->batch.n_rows;
    pico_tensor x = part(&args->work->x, rows, model->desc.n_embd);
    pico_tensor a = part(&args->work->a, rows, model->desc.n_embd);
    pico_tensor m = part(&args->work->up, rows, model->desc.layer[i].n_ff);
    TRY(norm(model, &x, &weights->ffn_norm, &weights->ffn_norm_bias, &a));
    TRY(tap(model, i, "ffn_norm", &a));
    TRY(ffn_inner(model, weights, args, &a, &m));
    TRY(tap(model, i, "ffn_inner", &m));
    TRY(linear(model, weights->down, &m, &weights->down_bias, &x, args->batch.n_decode, 1));
    return tap(model, i, "out", &x);
}

static pico_status embed(const pico_model *model, const pico_forward_args *args,
                         const pico_tensor *x) {
    const pico_backend_ops *ops = model->device->ops;
    pico_embed_args lookup = {.table = model->embed, .index = args->batch.token, .out = *x};
    TRY(ops->embed(model->device->self, &lookup));
    if (model->desc.pos == PICO_POS_LEARNED) {
        pico_embed_args position = {
            .table = model->position, .index = args->batch.pos, .out = *x, .accumulate = 1};
        TRY(ops->embed(model->device->self, &position));
    }
    if (model->desc.flags & PICO_EMBED_NORM) {
        TRY(norm(model, x, &model->embed_norm, &model->embed_norm_bias, x));
    }
    return tap(model, 0, "embed", x);
}

pico_status pico_model_head(const pico_model *model, const pico_tensor *hidden,
                            const pico_tensor *logits, uint32_t n_decode) {
    pico_tensor none = {0};
    TRY(linear(model, model->head, hidden, &none, logits, n_decode, 0));
    if (model->desc.logit_softcap > 0.0f) {
        pico_softcap_args cap = {.cap = model->desc.logit_softcap, .x = *logits};
        TRY(model->device->ops->softcap(model->device->self, &cap));
    }
    return PICO_OK;
}

static pico_status outputs(const pico_model *model, const pico_forward_args *args,
                           const pico_tensor *x) {
    for (uint32_t i = 0; i < args->n_run; i++) {
        const pico_output_run *run = &args->run[i];
        pico_tensor from = pico_view_rows(x, run->begin, run->n);
        pico_tensor hidden = pico_view_rows(&args->work->hidden, run->out, run->n);
        TRY(norm(model, &from, &model->out_norm, &model->out_norm_bias, &hidden));
        TRY(tap(model, model->desc.n_layer, "hidden", &hidden));
        if (run->logits) {
            uint32_t n_decode =
                args->batch.n_decode > run->begin ? args->batch.n_decode - run->begin : 0;
            pico_tensor logits = pico_view_rows(&args->work->logits, run->out, run->n);
            TRY(pico_model_head(model, &hidden, &logits, n_decode < run->n ? n_decode : run->n));
        }
    }
    return PICO_OK;
}

pico_status pico_model_forward(const pico_model *model, const pico_forward_args *args) {
    pico_tensor x = part(&args->work->x, args->batch.n_rows, model->desc.n_embd);
    TRY(embed(model, args, &x));
    for (uint32_t i = 0; i < model->desc.n_layer; i++) {
        TRY(attention_block(model, args, i));
        TRY(ffn_block(model, args, i));
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
