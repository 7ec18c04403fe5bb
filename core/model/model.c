/*
 * Opening and closing a model: checks what the forward pass and the device can do, puts the weights
 * on the device. Padding rows of the vocabulary matrices stay in the file. See model.h.
 */
#include "model/model.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/forward.h"

/* ---- what cannot be computed is refused here ---- */

static pico_status check_description(const pico_model_desc *desc, pico_error *err) {
    const char *missing = NULL;
    if (desc->n_layer == 0) {
        return pico_fail(err, PICO_E_INVALID, "the file holds a vocabulary but no model");
    }
    if (desc->flags & PICO_RESID_LAMBDAS) {
        missing = "residual lambdas";
    } else if (desc->smear_width != 0) {
        missing = "a smear gate";
    } else if (desc->backout_layer >= 0) {
        missing = "a backout";
    } else if ((desc->flags & PICO_FFN_GATED) && (desc->flags & PICO_BIAS_FFN)) {
        missing = "biases in a gated feed-forward part";
    }
    for (uint32_t i = 0; i < desc->n_layer; i++) {
        if (desc->layer[i].has_value_embed) {
            missing = "value embeddings";
        }
    }
    if (missing != NULL) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "the model has %s, which the forward pass does not compute", missing);
    }
    return PICO_OK;
}

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

/* ---- weights ---- */

typedef struct loader {
    pico_model *model;
    uint64_t vector_bytes; /* used of model->vectors */
    pico_error *err;
} loader;

static const pico_file_tensor *find(const loader *load, const char *name) {
    return pico_model_file_find(load->model->file, name);
}

/* A matrix called name, cut to rows if rows is not 0. */
static pico_status load_matrix(loader *load, const char *name, uint32_t uses, int64_t rows,
                               pico_weight **out) {
    const pico_file_tensor *tensor = find(load, name);
    pico_device *device = load->model->device;
    if (tensor == NULL) {
        return pico_fail(load->err, PICO_E_CORRUPT, "tensor %s is missing", name);
    }
    uint32_t dtype = tensor->data.dtype;
    if (((uses & PICO_USE_PRODUCT) &&
         device->ops->supports(device->self, PICO_OP_PRODUCT, dtype) != PICO_OK) ||
        ((uses & PICO_USE_LOOKUP) &&
         device->ops->supports(device->self, PICO_OP_LOOKUP, dtype) != PICO_OK)) {
        return pico_fail(load->err, PICO_E_UNSUPPORTED,
                         "tensor %s: the backend does not compute with %s weights", name,
                         pico_dtype_name(dtype));
    }
    pico_weight_desc desc = tensor->data;
    if (rows != 0 && rows < desc.rows) {
        desc.codes_bytes = pico_weight_codes_bytes(dtype, rows, desc.cols);
        desc.n_scales = pico_weight_n_scales(dtype, rows, desc.cols, desc.group);
        desc.rows = rows;
    }
    if (uses & PICO_USE_PRODUCT) {
        uint64_t scale_bytes = desc.scale_dtype == PICO_DTYPE_F32   ? 4
                               : desc.scale_dtype == PICO_DTYPE_F16 ? 2
                                                                    : 0;
        load->model->step_bytes += desc.codes_bytes + desc.n_scales * scale_bytes;
    }
    pico_error inner = {0};
    pico_status status = device->ops->weight_create(device->self, &desc, uses, 1, out, &inner);
    if (status != PICO_OK) {
        return pico_fail(load->err, status, "tensor %s: %s", name, inner.message);
    }
    return PICO_OK;
}

/* A vector as F32 in the shared buffer. */
static pico_status load_vector(loader *load, const char *name, pico_tensor *out) {
    const pico_file_tensor *tensor = find(load, name);
    pico_device *device = load->model->device;
    if (tensor == NULL) {
        return pico_fail(load->err, PICO_E_CORRUPT, "tensor %s is missing", name);
    }
    size_t n = (size_t)(tensor->data.rows * tensor->data.cols);
    float *values = malloc(n * sizeof *values);
    if (values == NULL) {
        return pico_fail(load->err, PICO_E_NOMEM, "tensor %s: out of memory", name);
    }
    pico_weight_row_f32(&tensor->data, 0, values);
    pico_status status = device->ops->buffer_write(device->self, load->model->vectors,
                                                   load->vector_bytes, values, n * sizeof *values);
    free(values);
    *out = pico_view_vector(load->model->vectors, load->vector_bytes, PICO_DTYPE_F32, (int64_t)n);
    load->vector_bytes += (n * sizeof *values + 63) & ~(uint64_t)63;
    return status == PICO_OK ? PICO_OK
                             : pico_fail(load->err, status, "tensor %s: cannot be written", name);
}

/* Room for every 1-D tensor of the file as F32, each on its own cache line. */
static pico_status alloc_vectors(loader *load) {
    const pico_model_file *file = load->model->file;
    pico_device *device = load->model->device;
    uint64_t bytes = 64;
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        if (file->tensor[i].rank == 1) {
            bytes += ((uint64_t)file->tensor[i].shape[0] * 4 + 63) & ~(uint64_t)63;
        }
    }
    return device->ops->buffer_alloc(device->self, bytes, &load->model->vectors, load->err);
}

typedef struct layer_names {
    char text[64];
} layer_names;

static const char *layer_name(layer_names *names, uint32_t layer, const char *what) {
    (void)snprintf(names->text, sizeof names->text, "blk.%u.%s", layer, what);
    return names->text;
}

static pico_status load_layer_vectors(loader *load, uint32_t i) {
    pico_layer_weights *layer = &load->model->layer[i];
    uint32_t flags = load->model->desc.flags;
    const struct {
        const char *name;
        uint32_t flag;
        pico_tensor *out;
    } vectors[] = {
        {"attn_norm.weight", PICO_NORM_WEIGHT, &layer->attn_norm},
        {"attn_norm.bias", PICO_NORM_BIAS, &layer->attn_norm_bias},
        {"ffn_norm.weight", PICO_NORM_WEIGHT, &layer->ffn_norm},
        {"ffn_norm.bias", PICO_NORM_BIAS, &layer->ffn_norm_bias},
        {"attn_q.bias", PICO_BIAS_QKV, &layer->q_bias},
        {"attn_k.bias", PICO_BIAS_QKV, &layer->k_bias},
        {"attn_v.bias", PICO_BIAS_QKV, &layer->v_bias},
        {"attn_output.bias", PICO_BIAS_OUT, &layer->o_bias},
        {"ffn_up.bias", PICO_BIAS_FFN, &layer->up_bias},
        {"ffn_down.bias", PICO_BIAS_FFN, &layer->down_bias},
    };
    layer_names names;
    for (size_t j = 0; j < sizeof vectors / sizeof *vectors; j++) {
        if (flags & vectors[j].flag) {
            pico_status status =
                load_vector(load, layer_name(&names, i, vectors[j].name), vectors[j].out);
            if (status != PICO_OK) {
                return status;
            }
        }
    }
    return PICO_OK;
}

static pico_status load_layer_matrices(loader *load, uint32_t i) {
    pico_layer_weights *layer = &load->model->layer[i];
    int gated = (load->model->desc.flags & PICO_FFN_GATED) != 0;
    const struct {
        const char *name;
        int present;
        pico_weight **out;
    } matrices[] = {
        {"attn_q.weight", 1, &layer->q},          {"attn_k.weight", 1, &layer->k},
        {"attn_v.weight", 1, &layer->v},          {"attn_output.weight", 1, &layer->o},
        {"ffn_gate.weight", gated, &layer->gate}, {"ffn_up.weight", 1, &layer->up},
        {"ffn_down.weight", 1, &layer->down},
    };
    layer_names names;
    for (size_t j = 0; j < sizeof matrices / sizeof *matrices; j++) {
        if (matrices[j].present) {
            pico_status status = load_matrix(load, layer_name(&names, i, matrices[j].name),
                                             PICO_USE_PRODUCT, 0, matrices[j].out);
            if (status != PICO_OK) {
                return status;
            }
        }
    }
    return PICO_OK;
}

static pico_status load_outer_norms(loader *load) {
    pico_model *model = load->model;
    uint32_t flags = model->desc.flags;
    const struct {
        const char *name;
        uint32_t flags;
        pico_tensor *out;
    } vectors[] = {
        {"token_embd_norm.weight", PICO_EMBED_NORM | PICO_NORM_WEIGHT, &model->embed_norm},
        {"token_embd_norm.bias", PICO_EMBED_NORM | PICO_NORM_BIAS, &model->embed_norm_bias},
        {"output_norm.weight", PICO_NORM_WEIGHT, &model->out_norm},
        {"output_norm.bias", PICO_NORM_BIAS, &model->out_norm_bias},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        if ((flags & vectors[i].flags) == vectors[i].flags) {
            pico_status status = load_vector(load, vectors[i].name, vectors[i].out);
            if (status != PICO_OK) {
                return status;
            }
        }
    }
    return PICO_OK;
}

static pico_status load_weights(loader *load) {
    pico_model *model = load->model;
    const pico_model_desc *desc = &model->desc;
    int tied = (desc->flags & PICO_TIED_HEAD) != 0;
    pico_status status = alloc_vectors(load);
    if (status == PICO_OK) {
        status = load_matrix(load, "token_embd.weight",
                             tied ? PICO_USE_LOOKUP | PICO_USE_PRODUCT : PICO_USE_LOOKUP,
                             desc->n_vocab, &model->embed);
    }
    if (status == PICO_OK && desc->pos == PICO_POS_LEARNED) {
        status = load_matrix(load, "position_embd.weight", PICO_USE_LOOKUP, 0, &model->position);
    }
    for (uint32_t i = 0; status == PICO_OK && i < desc->n_layer; i++) {
        status = load_layer_vectors(load, i);
        if (status == PICO_OK) {
            status = load_layer_matrices(load, i);
        }
    }
    if (status == PICO_OK) {
        status = load_outer_norms(load);
    }
    if (status == PICO_OK) {
        if (tied) {
            model->head = model->embed;
        } else {
            status =
                load_matrix(load, "output.weight", PICO_USE_PRODUCT, desc->n_vocab, &model->head);
        }
    }
    return status;
}

static void measure_widths(pico_model *model) {
    for (uint32_t i = 0; i < model->desc.n_layer; i++) {
        const pico_layer_desc *layer = &model->desc.layer[i];
        uint32_t heads = layer->n_head * layer->head_dim, kv = layer->n_kv_head * layer->head_dim;
        model->max_heads_width = heads > model->max_heads_width ? heads : model->max_heads_width;
        model->max_kv_width = kv > model->max_kv_width ? kv : model->max_kv_width;
        model->max_ff = layer->n_ff > model->max_ff ? layer->n_ff : model->max_ff;
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
    if (status == PICO_OK) {
        status = check_description(&model->desc, err);
    }
    if (status == PICO_OK) {
        status = ask_attention(model, params, err);
    }
    if (status == PICO_OK) {
        status = check_device(device, &model->desc, model->attention, err);
    }
    if (status == PICO_OK) {
        measure_widths(model);
        loader load = {.model = model, .err = err};
        status = load_weights(&load);
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
    const pico_backend_ops *ops = model->device->ops;
    void *self = model->device->self;
    for (uint32_t i = 0; model->layer != NULL && i < model->desc.n_layer; i++) {
        pico_layer_weights *layer = &model->layer[i];
        pico_weight *weights[] = {layer->q,    layer->k,  layer->v,   layer->o,
                                  layer->gate, layer->up, layer->down};
        for (size_t j = 0; j < sizeof weights / sizeof *weights; j++) {
            ops->weight_free(self, weights[j]);
        }
    }
    if (model->head != model->embed) {
        ops->weight_free(self, model->head);
    }
    ops->weight_free(self, model->embed);
    ops->weight_free(self, model->position);
    ops->buffer_free(self, model->vectors);
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

/* ---- heads ---- */

static uint32_t heads_count(const pico_model *model) {
    (void)model;
    return 1;
}

static pico_status heads_info(const pico_model *model, uint32_t head, pico_head_info *out) {
    if (head != 0) {
        return PICO_E_NOT_FOUND;
    }
    *out = (pico_head_info){.name = "lm",
                            .n_slot = 1,
                            .offset = 1,
                            .softcap = model->desc.logit_softcap,
                            .n_vocab = model->desc.n_vocab};
    return PICO_OK;
}

static pico_status heads_apply(const pico_model *model, uint32_t head, const pico_tensor *hidden,
                               const pico_tensor *logits) {
    if (head != 0) {
        return PICO_E_NOT_FOUND;
    }
    /* All of the decode class: a row's result must not depend on how many others there are. */
    return pico_model_head(model, hidden, logits, (uint32_t)hidden->shape[0]);
}

const pico_heads_api pico_heads_table = {.struct_size = sizeof(pico_heads_api),
                                         .count = heads_count,
                                         .info = heads_info,
                                         .apply = heads_apply};
