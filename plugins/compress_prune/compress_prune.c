/*
 * Structured pruning: whole attention heads, feed-forward neurons and layers go, and what stays is a
 * smaller model of the same family, with its own widths for each layer. The residual stream keeps
 * its width. KV heads can be pooled to fewer by their mean (MHA -> MQA). The result needs training
 * to recover; nothing here heals it. Quantised matrices are refused, or widened if asked.
 *
 *   options.c    options            score.c      what stays of a layer
 *   shape.c      widths             layers.c     which layers go
 *   calibrate.c  what a text says   cut.c        the work
 */
#include <stdlib.h>

#include "prune.h"

/* ---- the plan ---- */

static pico_status plan_tensor(const prune_options *o, const pico_tensor_info *info,
                               const prune_part *part, const prune_shape *shape,
                               pico_tensor_plan *out, pico_error *err) {
    const uint32_t before = prune_units(shape, part), after = prune_units_after(shape, part);
    if (before == after) {
        return PICO_OK;
    }
    const int axis = info->rank == 2 && part->columns ? 1 : 0;
    if (info->rank == 0 || info->shape[axis] % before != 0) {
        return pico_fail(err, PICO_E_ABI, "tensor %s: its shape is not the description's",
                         info->name);
    }
    pico_status status = prune_dtype(o, info->name, info->dtype, &out->dtype, err);
    out->shape[axis] = info->shape[axis] / before * after;
    out->bytes = (uint64_t)out->shape[0] * (uint64_t)(info->rank == 2 ? out->shape[1] : 1) *
                 (out->dtype == PICO_DTYPE_F32 ? 4u : 2u);
    return status;
}

static int goes(const prune_stage *stage, uint32_t layer) {
    return stage->drop != NULL && stage->drop[layer];
}

static pico_status plan(void *self, const pico_model_desc *model, const pico_tensor_info *tensors,
                        uint32_t n, pico_tensor_plan *out, pico_layer_desc *layers,
                        pico_error *err) {
    const prune_stage *stage = self;
    const prune_options *o = &stage->options;
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < model->n_layer; i++) {
        prune_shape shape;
        if (goes(stage, i)) {
            continue;
        }
        status = prune_shape_of(o, &model->layer[i], i, &shape, err);
        for (uint32_t t = 0; status == PICO_OK && t < n; t++) {
            uint32_t layer;
            const prune_part *part = prune_part_of(tensors[t].name, &layer);
            if (part != NULL && layer == i) {
                status = plan_tensor(o, &tensors[t], part, &shape, &out[t], err);
            }
        }
        if (status == PICO_OK) {
            layers[i].n_head = shape.heads_kept;
            layers[i].n_kv_head = shape.kv_pooled;
            layers[i].n_ff = shape.ff_kept;
        }
    }
    return status;
}

/* ---- the plugin ---- */

static pico_status create(const pico_host *host, const void *bound, void **self, pico_error *err) {
    const prune_options *o = bound;
    pico_status status = prune_check_options(o, err);
    if (status != PICO_OK) {
        return status;
    }
    prune_stage *stage = calloc(1, sizeof *stage);
    if (stage == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    stage->host = host;
    stage->options = *o;
    if (!(o->heads > 0 || o->neurons > 0 || o->layers > 0 || o->convert != CONVERT_NONE)) {
        host->log(host->ctx, PICO_LOG_WARN,
                  "prune: there is nothing to do: set heads, neurons, layers or convert");
    }
    *self = stage;
    return PICO_OK;
}

static void destroy(void *self) {
    prune_stage *stage = self;
    if (stage != NULL) {
        prune_forget(stage);
        free(stage->drop);
        free(stage);
    }
}

static uint32_t calibrates(const void *self) {
    const prune_options *o = &((const prune_stage *)self)->options;
    return o->score == SCORE_ACTIVATION && (o->heads > 0 || o->neurons > 0);
}

static const pico_compressor_ops ops = {.struct_size = sizeof(pico_compressor_ops),
                                        .plan = plan,
                                        .apply = prune_apply,
                                        .calibrate = prune_calibrate,
                                        .calibrates = calibrates,
                                        .drops = prune_drops,
                                        .drop_layers = prune_drop_layers};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = 7, /* session->feed */
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_COMPRESSOR,
                                   .name = "prune",
                                   .version = "0.1.0",
                                   .summary = "fewer attention heads, neurons, layers, KV heads",
                                   .options = prune_option_table,
                                   .n_options = PRUNE_N_OPTION,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(prune_options),
                                   .create = create,
                                   .destroy = destroy,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
