/* Opening and closing a model: checks what the device can do; see model.h. */
#include "model/model.h"

#include <math.h>
#include <stdlib.h>

#include "model/weights.h"
#include "tokenizer/tokenizer.h"

/* ---- what the device and the attention plugin say ---- */

static pico_status check_device(const pico_device *device, const pico_model_desc *desc,
                                const pico_attention_layer *attention, pico_error *err) {
    const pico_backend_ops *ops = device->ops;
    if (ops->supports(device->self, PICO_OP_ACT, desc->act) != PICO_OK) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "the backend does not compute the model's activation (number %u)",
                         desc->act);
    }
    if (desc->pos == PICO_POS_ROPE &&
        ops->supports(device->self, PICO_OP_ROPE, desc->rope_layout) != PICO_OK) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "the backend does not compute the model's rope layout (number %u)",
                         desc->rope_layout);
    }
    for (uint32_t i = 0; i < desc->n_layer; i++) {
        uint32_t dtype = attention[i].kv_dtype;
        if (ops->supports(device->self, PICO_OP_KV, dtype) != PICO_OK) {
            return pico_fail(err, PICO_E_UNSUPPORTED,
                             "the backend does not keep KV pages in %s; choose another "
                             "[attention] kv_type",
                             pico_dtype_name(dtype));
        }
        if (dtype == PICO_DTYPE_Q8_0 && attention[i].head_dim % 32 != 0) {
            return pico_fail(err, PICO_E_UNSUPPORTED,
                             "layer %u: KV pages in q8_0 hold a scale for 32 values, and the "
                             "model's heads are %u wide, no multiple of 32; choose [attention] "
                             "kv_type = f16",
                             i, attention[i].head_dim);
        }
    }
    return PICO_OK;
}

static pico_status ask_attention(pico_model *model, const pico_model_params *params,
                                 pico_error *err) {
    for (uint32_t i = 0; i < model->desc.n_layer; i++) {
        pico_attention_layer *layer = &model->attention[i];
        *layer = (pico_attention_layer){.struct_size = sizeof *layer, .window = -1};
        pico_status status =
            params->attention->layer(params->attention_self, &model->desc, i, layer, err);
        if (status != PICO_OK) {
            return status;
        }
        const pico_layer_desc *desc = &model->desc.layer[i];
        if (layer->kv_dtype == PICO_DTYPE_NONE) {
            layer->kv_dtype = params->kv_dtype;
        }
        if (layer->n_head != desc->n_head || layer->n_kv_head != desc->n_kv_head ||
            layer->head_dim != desc->head_dim || layer->window < -1 || !isfinite(layer->scale) ||
            layer->n_sink > PICO_MAX_CONTEXT) {
            return pico_fail(err, PICO_E_UNSUPPORTED,
                             "layer %u: the attention plugin wants %u heads, %u KV heads of width "
                             "%u, window %d, %u sinks, scale %g; the model has %u heads, %u KV "
                             "heads of width %u",
                             i, layer->n_head, layer->n_kv_head, layer->head_dim, layer->window,
                             layer->n_sink, (double)layer->scale, desc->n_head, desc->n_kv_head,
                             desc->head_dim);
        }
    }
    return PICO_OK;
}

static void measure_widths(pico_model *model) {
    for (uint32_t i = 0; i < model->desc.n_layer; i++) {
        const pico_layer_desc *layer = &model->desc.layer[i];
        uint32_t heads = layer->n_head * layer->head_dim, kv = layer->n_kv_head * layer->head_dim;
        model->max_heads_width = heads > model->max_heads_width ? heads : model->max_heads_width;
        model->max_kv_width = kv > model->max_kv_width ? kv : model->max_kv_width;
        model->max_ff = layer->n_ff > model->max_ff ? layer->n_ff : model->max_ff;
        if (layer->has_value_embed) {
            uint32_t n = layer->n_kv_head;
            model->max_ve_head = n > model->max_ve_head ? n : model->max_ve_head;
            model->max_ve_width = kv > model->max_ve_width ? kv : model->max_ve_width;
        }
    }
}

pico_status pico_model_open(pico_device *device, const pico_model_params *params,
                            pico_model_file *file, pico_model **out, pico_error *err) {
    *out = NULL;
    pico_model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    uint32_t n_layer = file->desc.n_layer;
    model->device = device;
    model->file = file;
    model->desc = file->desc;
    model->layer = pico_arena_alloc(&model->arena, n_layer, sizeof *model->layer);
    model->attention = pico_arena_alloc(&model->arena, n_layer, sizeof *model->attention);
    pico_status status = model->layer == NULL || model->attention == NULL
                             ? pico_fail(err, PICO_E_NOMEM, "out of memory")
                             : PICO_OK;
    if (status == PICO_OK && n_layer == 0) {
        status = pico_fail(err, PICO_E_INVALID, "the file holds a vocabulary but no model");
    }
    if (status == PICO_OK) {
        status = ask_attention(model, params, err);
    }
    if (status == PICO_OK) {
        status = check_device(device, &model->desc, model->attention, err);
    }
    if (status == PICO_OK) {
        measure_widths(model);
        status = pico_weights_load(model, err);
    }
    if (status != PICO_OK) {
        model->file = NULL; /* stays the caller's */
        pico_model_close(model);
        return status;
    }
    *out = model;
    return PICO_OK;
}

void pico_model_close(pico_model *model) {
    if (model == NULL) {
        return;
    }
    pico_weights_free(model);
    pico_tokenizer_close(model->tokenizer);
    pico_model_file_close(model->file);
    pico_arena_free(&model->arena);
    free(model);
}

pico_model_file *pico_model_release(pico_model *model) {
    pico_model_file *file = model->file;
    model->file = NULL;
    pico_model_close(model);
    return file;
}

const pico_model_desc *pico_model_describe(const pico_model *model) {
    return &model->desc;
}

pico_status pico_model_tap(pico_model *model, pico_tap_fn fn, void *arg) {
    model->tap = fn;
    model->tap_arg = arg;
    return PICO_OK;
}

uint64_t pico_model_kv_bytes_per_token(const pico_model *model) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < model->desc.n_layer; i++) {
        const pico_attention_layer *layer = &model->attention[i];
        pico_kv_desc kv = {layer->kv_dtype, layer->n_kv_head, layer->head_dim};
        bytes += model->device->ops->kv_page_bytes(model->device->self, &kv);
    }
    return bytes / PICO_PAGE_POSITIONS;
}
