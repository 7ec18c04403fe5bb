/* The backend's ops with the model's constants; see ops.h. */
#include "model/ops.h"

#include <stdlib.h>

pico_tensor pico_op_part(const pico_tensor *area, uint32_t rows, uint32_t cols) {
    return pico_view(area->buffer, area->offset, PICO_DTYPE_F32, rows, cols);
}

pico_status pico_op_norm(const pico_model *model, const pico_tensor *x, const pico_tensor *weight,
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

pico_status pico_op_linear(const pico_model *model, const pico_weight *weight, const pico_tensor *x,
                           const pico_tensor *bias, const pico_tensor *y, uint32_t n_decode,
                           uint32_t accumulate) {
    pico_linear_args args = {
        .weight = weight, .x = *x, .y = *y, .n_decode = n_decode, .accumulate = accumulate};
    if (bias != NULL) {
        args.bias = *bias;
    }
    return model->device->ops->linear(model->device->self, &args);
}

pico_status pico_op_lookup(const pico_model *model, const pico_weight *table,
                           const pico_tensor *index, const pico_tensor *out, uint32_t accumulate) {
    pico_embed_args args = {.table = table, .index = *index, .out = *out, .accumulate = accumulate};
    return model->device->ops->embed(model->device->self, &args);
}

pico_status pico_op_activate(const pico_model *model, uint32_t kind, const pico_tensor *y) {
    pico_act_args args = {.kind = kind, .x = *y, .y = *y};
    return model->device->ops->activation(model->device->self, &args);
}

pico_status pico_op_tap(const pico_model *model, uint32_t layer, const char *name,
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
