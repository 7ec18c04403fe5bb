/*
 * Multi-head attention with any number of KV heads that divides the query heads (MHA, grouped KV
 * heads, one KV head). Takes every layer as the model describes it; converts nothing.
 */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>

#include "plugin.h"

typedef struct mha {
    int64_t window; /* -1: the model's own */
    int64_t n_sink;
} mha;

static const pico_option options[] = {
    {.name = "window",
     .type = PICO_OPT_INT,
     .flags = PICO_OPTF_AUTO,
     .offset = offsetof(mha, window),
     .def = "auto",
     .min = 1,
     .max = 1 << 24,
     .unit = "positions",
     .help = "how many positions before its own a query sees at most; auto: as the model says"},
    {.name = "sinks",
     .type = PICO_OPT_INT,
     .offset = offsetof(mha, n_sink),
     .def = "0",
     .min = 0,
     .max = 4096,
     .unit = "positions",
     .help = "leading positions that a window never hides (attention sinks)"},
};

static pico_status create(const pico_host *host, const void *opts, void **self, pico_error *err) {
    (void)host;
    mha *plugin = malloc(sizeof *plugin);
    if (plugin == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    *plugin = *(const mha *)opts;
    *self = plugin;
    return PICO_OK;
}

static pico_status check(void *self, const pico_model_desc *model, pico_attention_check *out,
                         pico_error *err) {
    (void)self;
    for (uint32_t i = 0; i < model->n_layer; i++) {
        const pico_layer_desc *layer = &model->layer[i];
        if (layer->n_kv_head == 0 || layer->n_head % layer->n_kv_head != 0) {
            return pico_fail(err, PICO_E_UNSUPPORTED,
                             "layer %u: %u query heads cannot share %u KV heads evenly", i,
                             layer->n_head, layer->n_kv_head);
        }
    }
    out->want_kv_heads = 0;
    return PICO_OK;
}

static pico_status layer(void *self, const pico_model_desc *model, uint32_t index,
                         pico_attention_layer *out, pico_error *err) {
    const mha *plugin = self;
    if (index >= model->n_layer) {
        return pico_fail(err, PICO_E_INVALID, "layer %u of %u", index, model->n_layer);
    }
    const pico_layer_desc *desc = &model->layer[index];
    out->n_head = desc->n_head;
    out->n_kv_head = desc->n_kv_head;
    out->head_dim = desc->head_dim;
    out->scale =
        model->attn_scale > 0 ? model->attn_scale : (float)(1.0 / sqrt((double)desc->head_dim));
    out->window = desc->window;
    if (plugin->window >= 0 && (out->window < 0 || plugin->window < out->window)) {
        out->window = (int32_t)plugin->window;
    }
    out->n_sink = (uint32_t)plugin->n_sink;
    out->kv_dtype = PICO_DTYPE_NONE;
    return PICO_OK;
}

static const pico_attention_ops ops = {
    .struct_size = sizeof(pico_attention_ops), .check = check, .layer = layer};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = 1,
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_ATTENTION,
                                   .name = "mha",
                                   .version = "0.1.0",
                                   .summary = "multi-head attention, grouped KV heads allowed",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(mha),
                                   .create = create,
                                   .destroy = free,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
