/*
 * The parameters of a training state: every tensor of the model's file as F32, in the file's order,
 * one buffer for all values and one for all gradients. See internal.h.
 */
#include <stdlib.h>
#include <string.h>

#include "train/internal.h"
#include "util/checked.h"

enum { PAD = 4096 }; /* bytes: gradients are cleared as rows of a page */

train_param *train_find(const pico_train *t, const char *name) {
    for (uint32_t i = 0; i < t->n_param; i++) {
        if (strcmp(t->param[i].name, name) == 0) {
            return &t->param[i];
        }
    }
    return NULL;
}

uint32_t train_head_kind(const char *name) {
    return strncmp(name, "mtp.", 4) == 0     ? PICO_TRAIN_MTP_HEADS
           : strncmp(name, "draft_", 6) == 0 ? PICO_TRAIN_DRAFT_HEAD
                                             : 0;
}

static uint32_t group_of(const pico_file_tensor *tensor) {
    const char *name = tensor->name, *inner = strncmp(name, "blk.", 4) == 0 ? name : NULL;
    if (strcmp(name, "resid_lambdas.weight") == 0) {
        return PICO_PARAM_RESID_LAMBDA;
    }
    if (strcmp(name, "x0_lambdas.weight") == 0) {
        return PICO_PARAM_X0_LAMBDA;
    }
    if (strncmp(name, "smear_", 6) == 0 || strncmp(name, "backout_", 8) == 0) {
        return PICO_PARAM_SMEAR;
    }
    if (strcmp(name, "token_embd.weight") == 0 || strcmp(name, "position_embd.weight") == 0) {
        return PICO_PARAM_EMBED;
    }
    if (strcmp(name, "output.weight") == 0 || train_head_kind(name) != 0) {
        return PICO_PARAM_HEAD;
    }
    if (inner != NULL && strstr(inner, ".value_embd.") != NULL) {
        return PICO_PARAM_VALUE_EMBED;
    }
    return tensor->rank == 1 ? PICO_PARAM_VECTOR : PICO_PARAM_MATRIX;
}

static int is_trained(const pico_train *t, const char *name) {
    if (t->params.flags & PICO_TRAIN_FROZEN) {
        return 0;
    }
    return (t->params.flags & PICO_TRAIN_HEADS) == 0 || train_head_kind(name) != 0;
}

static void name_layers(pico_train *t) {
    for (uint32_t i = 0; i < t->desc->n_layer; i++) {
        train_layer *layer = &t->layer[i];
        const struct {
            const char *name;
            train_param **out;
        } names[] = {{"attn_norm.weight", &layer->attn_norm},
                     {"attn_norm.bias", &layer->attn_norm_bias},
                     {"ffn_norm.weight", &layer->ffn_norm},
                     {"ffn_norm.bias", &layer->ffn_norm_bias},
                     {"attn_q.weight", &layer->q},
                     {"attn_k.weight", &layer->k},
                     {"attn_v.weight", &layer->v},
                     {"attn_output.weight", &layer->o},
                     {"ffn_gate.weight", &layer->gate},
                     {"ffn_up.weight", &layer->up},
                     {"ffn_down.weight", &layer->down},
                     {"attn_q.bias", &layer->q_bias},
                     {"attn_k.bias", &layer->k_bias},
                     {"attn_v.bias", &layer->v_bias},
                     {"attn_output.bias", &layer->o_bias},
                     {"ffn_gate.bias", &layer->gate_bias},
                     {"ffn_up.bias", &layer->up_bias},
                     {"ffn_down.bias", &layer->down_bias},
                     {"value_embd.weight", &layer->value_embed},
                     {"value_gate.weight", &layer->value_gate}};
        for (size_t j = 0; j < sizeof names / sizeof *names; j++) {
            char full[64];
            (void)snprintf(full, sizeof full, "blk.%u.%s", i, names[j].name);
            *names[j].out = train_find(t, full);
        }
    }
}

static void name_rest(pico_train *t) {
    const struct {
        const char *name;
        train_param **out;
    } names[] = {{"token_embd.weight", &t->embed},
                 {"position_embd.weight", &t->position},
                 {"output.weight", &t->head},
                 {"token_embd_norm.weight", &t->embed_norm},
                 {"token_embd_norm.bias", &t->embed_norm_bias},
                 {"output_norm.weight", &t->out_norm},
                 {"output_norm.bias", &t->out_norm_bias},
                 {"resid_lambdas.weight", &t->resid},
                 {"x0_lambdas.weight", &t->x0},
                 {"smear_gate.weight", &t->smear_gate},
                 {"smear_lambda.weight", &t->smear_lambda},
                 {"backout_lambda.weight", &t->backout_lambda},
                 {"draft_fc1.weight", &t->fc1},
                 {"draft_fc2.weight", &t->fc2},
                 {"draft_token.weight", &t->draft_token}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        *names[i].out = train_find(t, names[i].name);
    }
    if (t->head == NULL) { /* tied */
        t->head = t->embed;
    }
    for (uint32_t k = 0; k < t->desc->n_mtp_head; k++) {
        char full[32];
        (void)snprintf(full, sizeof full, "mtp.%u.weight", k);
        t->mtp[k] = train_find(t, full);
    }
}

/* Where each parameter lies in the buffers; their sizes. */
static pico_status place(pico_train *t, pico_error *err) {
    const pico_model_file *file = t->model->file;
    for (uint32_t i = 0; i < t->n_param; i++) {
        const pico_file_tensor *tensor = &file->tensor[i];
        train_param *p = &t->param[i];
        uint64_t bytes = 0;
        p->name = tensor->name;
        p->group = group_of(tensor);
        p->trained = (uint32_t)is_trained(t, tensor->name);
        p->is_vector = tensor->rank == 1;
        p->rows = tensor->data.rows;
        p->cols = tensor->data.cols;
        if (p->rows <= 0 || p->cols <= 0 ||
            !pico_checked_mul((uint64_t)p->rows, (uint64_t)p->cols * 4, &bytes) ||
            !pico_checked_align(bytes, 64, &bytes)) {
            return pico_fail(err, PICO_E_LIMIT, "tensor %s is too large to train", p->name);
        }
        p->value = pico_view(NULL, t->values_bytes, PICO_DTYPE_F32, p->rows, p->cols);
        t->values_bytes += bytes;
        if (p->trained) {
            p->grad = pico_view(NULL, t->grads_bytes, PICO_DTYPE_F32, p->rows, p->cols);
            t->grads_bytes += bytes;
        }
    }
    t->grads_bytes = (t->grads_bytes + PAD - 1) / PAD * PAD;
    return PICO_OK;
}

pico_status train_params_open(pico_train *t, pico_error *err) {
    const uint32_t n = t->model->file->n_tensor;
    t->param = pico_arena_alloc(&t->arena, n, sizeof *t->param);
    t->layer = pico_arena_alloc(&t->arena, t->desc->n_layer, sizeof *t->layer);
    t->mtp = pico_arena_alloc(&t->arena, t->desc->n_mtp_head, sizeof(train_param *));
    if (t->param == NULL || t->layer == NULL || t->mtp == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for %u parameters", n);
    }
    t->n_param = n;
    pico_status status = place(t, err);
    if (status == PICO_OK) {
        name_layers(t);
        name_rest(t);
        status = t->ops->buffer_alloc(t->self, t->values_bytes, &t->values, err);
    }
    if (status == PICO_OK && t->grads_bytes != 0) {
        status = t->ops->buffer_alloc(t->self, t->grads_bytes, &t->grads, err);
    }
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        t->param[i].value.buffer = t->values;
        t->param[i].grad.buffer = t->param[i].trained ? t->grads : NULL;
    }
    return status;
}

pico_status train_params_fill(pico_train *t, pico_error *err) {
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < t->n_param; i++) {
        const train_param *p = &t->param[i];
        const pico_weight_desc *data = &t->model->file->tensor[i].data;
        const size_t n = (size_t)(p->rows * p->cols);
        float *values = malloc(n * sizeof *values);
        if (values == NULL) {
            return pico_fail(err, PICO_E_NOMEM, "tensor %s: out of memory", p->name);
        }
        for (int64_t row = 0; row < p->rows; row++) {
            pico_weight_row_f32(data, row, values + row * p->cols);
        }
        status =
            t->ops->buffer_write(t->self, t->values, p->value.offset, values, n * sizeof *values);
        if (status != PICO_OK) {
            status = pico_fail(err, status, "tensor %s cannot be written to the device", p->name);
        }
        free(values);
    }
    return status;
}
