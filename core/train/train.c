/* Opening and closing a training state; the table that plugins see. See train.h. */
#include "train/train.h"

#include <stdlib.h>
#include <string.h>

#include "train/internal.h"

/* ---- what the backend offers ---- */

static uint32_t features_of(const pico_train *t) {
    return t->ext.features == NULL ? 0 : t->ext.features(t->self);
}

static pico_status find_extension(pico_train *t, pico_error *err) {
    const pico_train_ops *ops =
        t->ops->extension == NULL ? NULL : t->ops->extension(t->self, PICO_TRAIN_EXTENSION);
    if (ops == NULL) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "this backend does not train (it has no %s); choose another [backend] "
                         "plugin",
                         PICO_TRAIN_EXTENSION);
    }
    const size_t size = ops->struct_size < sizeof t->ext ? ops->struct_size : sizeof t->ext;
    memcpy(&t->ext, ops, size);
    if (t->ext.reserve == NULL || t->ext.gemm == NULL || t->ext.gather == NULL ||
        t->ext.scatter == NULL || t->ext.norm_backward == NULL || t->ext.act_backward == NULL ||
        t->ext.gate_backward == NULL || t->ext.softcap_backward == NULL || t->ext.attend == NULL ||
        t->ext.attend_backward == NULL || t->ext.loss == NULL || t->ext.reduce == NULL ||
        t->ext.scale == NULL || t->ext.adamw == NULL || t->ext.muon == NULL) {
        return pico_fail(err, PICO_E_ABI, "the backend leaves a required slot of %s empty",
                         PICO_TRAIN_EXTENSION);
    }
    if (t->params.flags & PICO_TRAIN_BF16) {
        t->compute = PICO_COMPUTE_BF16;
        t->narrow = (features_of(t) & PICO_TRAIN_HAS_BF16_TENSORS) != 0;
        if ((features_of(t) & PICO_TRAIN_HAS_BF16) == 0) {
            return pico_fail(err, PICO_E_UNSUPPORTED,
                             "this backend does not train in BF16 on this machine; train in F32");
        }
    }
    return PICO_OK;
}

static uint32_t larger(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

static uint32_t most_heads(const pico_model_desc *desc, uint32_t *head_dim) {
    uint32_t heads = 0;
    for (uint32_t i = 0; i < desc->n_layer; i++) {
        heads = larger(heads, desc->layer[i].n_head);
        *head_dim = larger(*head_dim, desc->layer[i].head_dim);
    }
    return heads;
}

static pico_status reserve(pico_train *t, pico_error *err) {
    uint32_t head_dim = 0;
    const uint32_t heads = most_heads(t->desc, &head_dim);
    const uint32_t widest =
        larger(t->desc->n_embd, larger(t->model->max_ff, t->model->max_heads_width));
    const pico_reserve base = {.max_rows = t->params.max_rows,
                               .max_in = widest,
                               .max_out = larger(widest, pico_model_widest_head(t->model)),
                               .max_head = heads,
                               .max_head_dim = head_dim,
                               .max_positions = t->params.max_length};
    pico_train_reserve need = {.max_rows = t->params.max_rows,
                               .max_length = t->params.max_length,
                               .max_head = heads,
                               .max_head_dim = head_dim};
    for (uint32_t i = 0; i < t->model->file->n_tensor; i++) {
        const pico_weight_desc *data = &t->model->file->tensor[i].data;
        if (data->rows > INT32_MAX || data->cols > INT32_MAX) {
            return pico_fail(err, PICO_E_LIMIT, "tensor %s is too large to train",
                             t->model->file->tensor[i].name);
        }
        need.max_dim = larger(need.max_dim, larger((uint32_t)data->rows, (uint32_t)data->cols));
    }
    need.max_dim = larger(need.max_dim, t->params.max_rows);
    if (t->desc->draft_flags & PICO_DRAFT_SHARED_OUTPUT) {
        const uint64_t rows = (uint64_t)t->params.max_logit_rows * t->desc->n_draft;
        need.max_dim = larger(need.max_dim, (uint32_t)rows); /* at most 2^24 * 64 */
    }
    pico_status status = pico_device_reserve(t->model->device, &base, err);
    return status == PICO_OK ? t->ext.reserve(t->self, &need, err) : status;
}

/* ---- opening ---- */

static pico_status check_params(pico_train *t, pico_error *err) {
    const pico_train_params *p = &t->params;
    if (p->max_rows == 0 || p->max_length == 0 || p->max_length > p->max_rows ||
        p->max_logit_rows == 0 || p->max_logit_rows > p->max_rows ||
        p->max_rows > PICO_MAX_CONTEXT) {
        return pico_fail(err, PICO_E_INVALID,
                         "training over %u tokens at a time, in sequences of %u, with logits for "
                         "%u, makes no sense",
                         p->max_rows, p->max_length, p->max_logit_rows);
    }
    if (t->desc->pos == PICO_POS_LEARNED && p->max_length > t->desc->n_ctx_train) {
        return pico_fail(err, PICO_E_INVALID,
                         "the model has learned positions for %u tokens; sequences of %u are too "
                         "long for it",
                         t->desc->n_ctx_train, p->max_length);
    }
    if ((p->flags & PICO_TRAIN_HEADS) && t->desc->n_mtp_head == 0 && t->desc->n_draft == 0) {
        return pico_fail(err, PICO_E_INVALID,
                         "the model has no heads beyond the main one, so there is nothing to "
                         "train with its trunk frozen");
    }
    if ((p->flags & PICO_TRAIN_FROZEN) == 0 && t->model->train != NULL) {
        return pico_fail(err, PICO_E_INVALID, "the model is being trained already");
    }
    return PICO_OK;
}

static pico_status open_ids(pico_train *t, pico_error *err) {
    const uint64_t rows = t->params.max_rows, bytes = rows * sizeof(int32_t);
    t->host_ids = calloc(4 * rows, sizeof *t->host_ids);
    if (t->host_ids == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    pico_status status = t->ops->buffer_alloc(t->self, 4 * bytes, &t->ids, err);
    t->token = pico_view_vector(t->ids, 0, PICO_DTYPE_I32, (int64_t)rows);
    t->prev = pico_view_vector(t->ids, bytes, PICO_DTYPE_I32, (int64_t)rows);
    t->pos = pico_view_vector(t->ids, 2 * bytes, PICO_DTYPE_I32, (int64_t)rows);
    t->next = pico_view_vector(t->ids, 3 * bytes, PICO_DTYPE_I32, (int64_t)rows);
    return status;
}

static pico_status open_draft_ids(pico_train *t, pico_error *err) {
    const uint64_t n = t->desc->n_draft_vocab;
    if (n == 0) {
        return PICO_OK;
    }
    pico_status status = t->ops->buffer_alloc(t->self, n * sizeof(int32_t), &t->draft_ids, err);
    if (status != PICO_OK) {
        return status;
    }
    t->draft_id = pico_view_vector(t->draft_ids, 0, PICO_DTYPE_I32, (int64_t)n);
    status =
        t->ops->buffer_write(t->self, t->draft_ids, 0, t->desc->draft_vocab, n * sizeof(int32_t));
    return status == PICO_OK
               ? status
               : pico_fail(err, status, "the vocabulary of the draft head cannot be written");
}

static pico_status open_rope(pico_train *t, pico_error *err) {
    const uint32_t length = t->params.max_length, half = t->desc->rope_dim / 2;
    const size_t n = (size_t)length * half;
    if (t->desc->pos != PICO_POS_ROPE) {
        return PICO_OK;
    }
    float *table = malloc((2 * n + 1) * sizeof *table);
    if (table == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    pico_rope_table(t->desc, length, table, table + n);
    pico_status status = t->ops->buffer_alloc(t->self, 2 * n * sizeof *table, &t->rope, err);
    if (status == PICO_OK) {
        status = t->ops->buffer_write(t->self, t->rope, 0, table, 2 * n * sizeof *table);
        t->rope_cos = pico_view(t->rope, 0, PICO_DTYPE_F32, length, half);
        t->rope_sin = pico_view(t->rope, n * sizeof *table, PICO_DTYPE_F32, length, half);
    }
    free(table);
    return status;
}

static void train_close(pico_train *t) {
    if (t == NULL) {
        return;
    }
    if (t->model->train == t) {
        t->model->train = NULL;
    }
    for (uint32_t i = 0; i < t->n_param; i++) {
        t->ops->buffer_free(t->self, t->param[i].state_buffer);
    }
    pico_buffer *const buffers[] = {t->values, t->grads,     t->activations, t->ids,
                                    t->rope,   t->draft_ids, t->muon};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        t->ops->buffer_free(t->self, buffers[i]);
    }
    free(t->host_ids);
    pico_arena_free(&t->arena);
    free(t);
}

static pico_status train_open(pico_model *model, const pico_train_params *params, pico_train **out,
                              pico_error *err) {
    *out = NULL;
    pico_train *t = calloc(1, sizeof *t);
    if (t == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    t->model = model;
    t->desc = &model->desc;
    t->ops = model->device->ops;
    t->self = model->device->self;
    memcpy(&t->params, params,
           params->struct_size < sizeof t->params ? params->struct_size : sizeof t->params);
    pico_status (*const steps[])(pico_train *, pico_error *) = {
        check_params,     find_extension, reserve,   train_params_open,
        open_ids,         open_draft_ids, open_rope, train_activations_open,
        train_params_fill};
    pico_status status = PICO_OK;
    for (size_t i = 0; status == PICO_OK && i < sizeof steps / sizeof *steps; i++) {
        status = steps[i](t, err);
    }
    if (status != PICO_OK) {
        train_close(t);
        return status;
    }
    if ((t->params.flags & PICO_TRAIN_FROZEN) == 0) {
        model->train = t;
    }
    *out = t;
    return PICO_OK;
}

/* ---- the rest of the table ---- */

static uint32_t n_params(const pico_train *t) {
    return t->n_param;
}

static pico_status param(const pico_train *t, uint32_t index, pico_param *out) {
    if (index >= t->n_param) {
        return PICO_E_NOT_FOUND;
    }
    const train_param *p = &t->param[index];
    *out = (pico_param){.name = p->name,
                        .group = p->group,
                        .trained = p->trained,
                        .optimizer = p->optimizer,
                        .value = p->value,
                        .grad = p->grad};
    return PICO_OK;
}

static pico_status zero_grad(pico_train *t) {
    const int64_t page = 1024; /* floats: rows that threads can share */
    if (t->grads == NULL) {
        return PICO_OK;
    }
    const pico_tensor all = pico_view(t->grads, 0, PICO_DTYPE_F32,
                                      (int64_t)(t->grads_bytes / sizeof(float)) / page, page);
    return train_fill(t, &all, 0);
}

static pico_status loss(pico_train *t, const pico_loss_args *args) {
    if (args->teacher_top_k != 0 && (features_of(t) & PICO_TRAIN_HAS_TOP_K) == 0) {
        return PICO_E_UNSUPPORTED;
    }
    return t->ext.loss(t->self, args);
}

static pico_status batch(pico_train *t, uint32_t n_seq, uint32_t length, int32_t *tokens,
                         pico_error *err) {
    return t->source == NULL ? pico_fail(err, PICO_E_UNSUPPORTED, "this run has no training data")
                             : t->source(t->source_arg, n_seq, length, tokens, err);
}

const pico_train_api pico_train_table = {.struct_size = sizeof(pico_train_api),
                                         .open = train_open,
                                         .close = train_close,
                                         .n_params = n_params,
                                         .param = param,
                                         .optimizer = train_optimizer,
                                         .zero_grad = zero_grad,
                                         .forward = train_forward,
                                         .logits = train_logits,
                                         .loss = loss,
                                         .backward_head = train_backward_head,
                                         .backward = train_backward,
                                         .update = train_update,
                                         .save = train_save,
                                         .load = train_load,
                                         .batch = batch,
                                         .update_many = train_update_many};

pico_train *pico_train_of(const pico_model *model) {
    return model->train;
}

void pico_train_set_source(pico_train *train, pico_batch_fn fn, void *arg) {
    train->source = fn;
    train->source_arg = arg;
}

void pico_train_extent(const pico_train *train, uint32_t *max_rows, uint32_t *max_length) {
    *max_rows = train->params.max_rows;
    *max_length = train->params.max_length;
}

pico_tensor pico_train_hidden(const pico_train *train) {
    return train_part(&train->work.hidden, train->rows, train->desc->n_embd);
}

void pico_train_rope(const pico_train *train, pico_tensor *cosine, pico_tensor *sine) {
    *cosine = train->rope_cos;
    *sine = train->rope_sin;
}

uint64_t pico_train_model_bytes(const pico_train *train) {
    return train->values_bytes;
}

uint64_t pico_train_bytes(const pico_train *train) {
    return train->values_bytes + train->grads_bytes + train->activation_bytes;
}
