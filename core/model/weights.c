/*
 * Puts the weights of a model file on the device. Padding rows of the vocabulary matrices stay in the
 * file. See weights.h.
 */
#include "model/weights.h"

#include <stdlib.h>

typedef struct loader {
    pico_model *model;
    uint64_t vector_bytes; /* used of model->vectors */
    int aside;             /* 1: what is loaded is no part of a decode step */
    pico_error *err;
} loader;

static const pico_file_tensor *find(const loader *load, const char *name) {
    return pico_model_file_find(load->model->file, name);
}

/* stays: what desc points to outlives the weight. */
static pico_status create(const loader *load, const char *name, const pico_weight_desc *desc,
                          uint32_t uses, uint32_t stays, pico_weight **out) {
    pico_device *device = load->model->device;
    pico_error inner = {0};
    pico_status status = device->ops->weight_create(device->self, desc, uses, stays, out, &inner);
    return status == PICO_OK ? PICO_OK
                             : pico_fail(load->err, status, "tensor %s: %s", name, inner.message);
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
    if ((uses & PICO_USE_PRODUCT) && !load->aside) {
        uint64_t scale_bytes = desc.scale_dtype == PICO_DTYPE_F32   ? 4
                               : desc.scale_dtype == PICO_DTYPE_F16 ? 2
                                                                    : 0;
        load->model->step_bytes += desc.codes_bytes + desc.n_scales * scale_bytes +
                                   2 * (uint64_t)desc.n_outlier * (uint64_t)desc.rows;
    }
    const pico_status status = create(load, name, &desc, uses, 1, out);
    if (status == PICO_OK) {
        /* A backend that packs has its own copy now; one that does not has read nothing yet. */
        pico_model_file_release(load->model->file, tensor);
    }
    return status;
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
        {"ffn_gate.bias", PICO_BIAS_FFN | PICO_FFN_GATED, &layer->gate_bias},
        {"ffn_up.bias", PICO_BIAS_FFN, &layer->up_bias},
        {"ffn_down.bias", PICO_BIAS_FFN, &layer->down_bias},
    };
    layer_names names;
    for (size_t j = 0; j < sizeof vectors / sizeof *vectors; j++) {
        if ((flags & vectors[j].flag) == vectors[j].flag) {
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
    const pico_model_desc *desc = &load->model->desc;
    int gated = (desc->flags & PICO_FFN_GATED) != 0, value = desc->layer[i].has_value_embed != 0;
    const uint32_t product = PICO_USE_PRODUCT, lookup = PICO_USE_LOOKUP;
    const struct {
        const char *name;
        int present;
        uint32_t uses;
        int64_t rows; /* 0: all */
        pico_weight **out;
    } matrices[] = {
        {"attn_q.weight", 1, product, 0, &layer->q},
        {"attn_k.weight", 1, product, 0, &layer->k},
        {"attn_v.weight", 1, product, 0, &layer->v},
        {"attn_output.weight", 1, product, 0, &layer->o},
        {"value_embd.weight", value, lookup, desc->n_vocab, &layer->value_embed},
        {"value_gate.weight", value, product, 0, &layer->value_gate},
        {"ffn_gate.weight", gated, product, 0, &layer->gate},
        {"ffn_up.weight", 1, product, 0, &layer->up},
        {"ffn_down.weight", 1, product, 0, &layer->down},
    };
    layer_names names;
    for (size_t j = 0; j < sizeof matrices / sizeof *matrices; j++) {
        if (matrices[j].present) {
            pico_status status = load_matrix(load, layer_name(&names, i, matrices[j].name),
                                             matrices[j].uses, matrices[j].rows, matrices[j].out);
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

/* r_i and s_i of every layer: views of one element each. */
static pico_status load_lambdas(loader *load) {
    pico_model *model = load->model;
    pico_tensor resid = {0}, x0 = {0};
    if (!(model->desc.flags & PICO_RESID_LAMBDAS)) {
        return PICO_OK;
    }
    pico_status status = load_vector(load, "resid_lambdas.weight", &resid);
    if (status == PICO_OK) {
        status = load_vector(load, "x0_lambdas.weight", &x0);
    }
    for (uint32_t i = 0; status == PICO_OK && i < model->desc.n_layer; i++) {
        uint64_t offset = (uint64_t)i * sizeof(float);
        model->layer[i].resid_lambda =
            pico_view_vector(resid.buffer, resid.offset + offset, PICO_DTYPE_F32, 1);
        model->layer[i].x0_lambda =
            pico_view_vector(x0.buffer, x0.offset + offset, PICO_DTYPE_F32, 1);
    }
    return status;
}

static pico_status load_smear_and_backout(loader *load) {
    pico_model *model = load->model;
    pico_status status = PICO_OK;
    if (model->desc.smear_width != 0) {
        status = load_matrix(load, "smear_gate.weight", PICO_USE_PRODUCT, 0, &model->smear_gate);
        if (status == PICO_OK) {
            status = load_vector(load, "smear_lambda.weight", &model->smear_lambda);
        }
    }
    if (status == PICO_OK && model->desc.backout_layer >= 0) {
        status = load_vector(load, "backout_lambda.weight", &model->backout_lambda);
    }
    return status;
}

/* The output matrix as the draft head sees it: the model's own, or a copy of some of its rows. */
static pico_status load_draft_output(loader *load) {
    pico_model *model = load->model;
    const pico_model_desc *desc = &model->desc;
    const char *name = desc->flags & PICO_TIED_HEAD ? "token_embd.weight" : "output.weight";
    if (desc->n_draft_vocab == 0) {
        model->extra.out = model->head;
        return PICO_OK;
    }
    pico_arena arena = {0};
    pico_weight_desc rows;
    pico_error inner = {0};
    pico_status status = pico_weight_gather(&find(load, name)->data, desc->draft_vocab,
                                            desc->n_draft_vocab, &arena, &rows, &inner);
    if (status != PICO_OK) {
        status = pico_fail(load->err, status, "the draft head's part of tensor %s: %s", name,
                           inner.message);
    } else {
        status = create(load, name, &rows, PICO_USE_PRODUCT, 0, &model->extra.out);
    }
    pico_arena_free(&arena);
    return status;
}

/* F32 (PICO_HEAD_ROWS, width) of work space. */
static pico_status alloc_head_rows(loader *load, uint32_t width, pico_buffer **out) {
    pico_device *device = load->model->device;
    return device->ops->buffer_alloc(device->self, PICO_HEAD_ROWS * sizeof(float) * (uint64_t)width,
                                     out, load->err);
}

static pico_status load_draft_head(loader *load) {
    const pico_model_desc *desc = &load->model->desc;
    pico_extra_heads *extra = &load->model->extra;
    pico_status status = load_matrix(load, "draft_fc1.weight", PICO_USE_PRODUCT, 0, &extra->fc1);
    if (status == PICO_OK) {
        status = load_matrix(load, "draft_fc2.weight", PICO_USE_PRODUCT, 0, &extra->fc2);
    }
    if (status == PICO_OK) {
        status = alloc_head_rows(load, desc->draft_hidden, &extra->inner);
    }
    if (status == PICO_OK && (desc->draft_flags & PICO_DRAFT_READS_TOKEN)) {
        status = load_matrix(load, "draft_token.weight", PICO_USE_PRODUCT, 0, &extra->token);
        if (status == PICO_OK) {
            status = alloc_head_rows(load, desc->n_embd, &extra->embedded);
        }
    }
    if (status == PICO_OK && (desc->draft_flags & PICO_DRAFT_SHARED_OUTPUT)) {
        status = load_draft_output(load);
        if (status == PICO_OK) {
            status = alloc_head_rows(load, desc->n_embd, &extra->shifted);
        }
    }
    return status;
}

static pico_status load_extra_heads(loader *load) {
    pico_model *model = load->model;
    const pico_model_desc *desc = &model->desc;
    pico_extra_heads *extra = &model->extra;
    pico_status status = PICO_OK;
    load->aside = 1;
    extra->mtp = pico_arena_alloc(&model->arena, desc->n_mtp_head, sizeof *extra->mtp);
    extra->mtp_name = pico_arena_alloc(&model->arena, desc->n_mtp_head, sizeof *extra->mtp_name);
    if (extra->mtp == NULL || extra->mtp_name == NULL) {
        return pico_fail(load->err, PICO_E_NOMEM, "out of memory");
    }
    for (uint32_t k = 0; status == PICO_OK && k < desc->n_mtp_head; k++) {
        char name[32];
        (void)snprintf(name, sizeof name, "mtp.%u.weight", k);
        extra->mtp_name[k] = pico_arena_printf(&model->arena, "mtp.%u", k + 2);
        if (extra->mtp_name[k] == NULL) {
            return pico_fail(load->err, PICO_E_NOMEM, "out of memory");
        }
        status = load_matrix(load, name, PICO_USE_PRODUCT, desc->n_vocab, &extra->mtp[k]);
    }
    return status == PICO_OK && desc->n_draft != 0 ? load_draft_head(load) : status;
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
        status = load_lambdas(load);
    }
    if (status == PICO_OK) {
        status = load_smear_and_backout(load);
    }
    if (status == PICO_OK) {
        if (tied) {
            model->head = model->embed;
        } else {
            status =
                load_matrix(load, "output.weight", PICO_USE_PRODUCT, desc->n_vocab, &model->head);
        }
    }
    return status == PICO_OK ? load_extra_heads(load) : status;
}

pico_status pico_weights_load(pico_model *model, pico_error *err) {
    loader load = {.model = model, .err = err};
    return load_weights(&load);
}

void pico_weights_free(pico_model *model) {
    const pico_backend_ops *ops = model->device->ops;
    void *self = model->device->self;
    for (uint32_t i = 0; model->layer != NULL && i < model->desc.n_layer; i++) {
        pico_layer_weights *layer = &model->layer[i];
        pico_weight *weights[] = {layer->q,    layer->k,           layer->v,
                                  layer->o,    layer->gate,        layer->up,
                                  layer->down, layer->value_embed, layer->value_gate};
        for (size_t j = 0; j < sizeof weights / sizeof *weights; j++) {
            ops->weight_free(self, weights[j]);
        }
    }
    for (uint32_t k = 0; model->extra.mtp != NULL && k < model->desc.n_mtp_head; k++) {
        ops->weight_free(self, model->extra.mtp[k]);
    }
    pico_weight *weights[] = {model->extra.out != model->head ? model->extra.out : NULL,
                              model->extra.fc1,
                              model->extra.fc2,
                              model->extra.token,
                              model->smear_gate,
                              model->head != model->embed ? model->head : NULL,
                              model->embed,
                              model->position};
    for (size_t j = 0; j < sizeof weights / sizeof *weights; j++) {
        ops->weight_free(self, weights[j]);
    }
    ops->buffer_free(self, model->extra.inner);
    ops->buffer_free(self, model->extra.shifted);
    ops->buffer_free(self, model->extra.embedded);
    ops->buffer_free(self, model->vectors);
}
