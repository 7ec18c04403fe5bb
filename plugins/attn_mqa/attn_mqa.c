/*
 * Multi-query attention: one KV head for all query heads. A model with more asks to be converted by
 * mean-pooling its K and V heads if the user allows it with convert = mean; otherwise it is
 * refused. The conversion itself is the host's; its quality needs distillation afterwards.
 */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>

#include "plugin.h"

enum { CONVERT_NONE = 0, CONVERT_MEAN = 1 };

typedef struct mqa {
    uint32_t convert;
} mqa;

static const char *const convert_words[] = {"none", "mean", NULL};

static const pico_option options[] = {
    {.name = "convert",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(mqa, convert),
     .def = "none",
     .choices = convert_words,
     .help = "what to do with a model that has more KV heads: none = refuse it, mean = pool them"},
};

static pico_status create(const pico_host *host, const void *opts, void **self, pico_error *err) {
    (void)host;
    mqa *plugin = malloc(sizeof *plugin);
    if (plugin == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    *plugin = *(const mqa *)opts;
    *self = plugin;
    return PICO_OK;
}

static pico_status check(void *self, const pico_model_desc *model, pico_attention_check *out,
                         pico_error *err) {
    const mqa *plugin = self;
    out->want_kv_heads = 0;
    for (uint32_t i = 0; i < model->n_layer; i++) {
        uint32_t n_kv_head = model->layer[i].n_kv_head;
        if (n_kv_head == 1) {
            continue;
        }
        if (plugin->convert != CONVERT_MEAN) {
            return pico_fail(err, PICO_E_UNSUPPORTED,
                             "multi-query attention needs 1 KV head, layer %u of the model has %u; "
                             "use [attention] plugin = mha, or set [attention.mqa] convert = mean "
                             "to pool them",
                             i, n_kv_head);
        }
        out->want_kv_heads = 1;
    }
    return PICO_OK;
}

static pico_status layer(void *self, const pico_model_desc *model, uint32_t index,
                         pico_attention_layer *out, pico_error *err) {
    (void)self;
    if (index >= model->n_layer || model->layer[index].n_kv_head != 1) {
        return pico_fail(err, PICO_E_INVALID, "layer %u of %u does not have exactly one KV head",
                         index, model->n_layer);
    }
    const pico_layer_desc *desc = &model->layer[index];
    out->n_head = desc->n_head;
    out->n_kv_head = 1;
    out->head_dim = desc->head_dim;
    out->scale =
        model->attn_scale > 0 ? model->attn_scale : (float)(1.0 / sqrt((double)desc->head_dim));
    out->window = desc->window;
    out->n_sink = 0;
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
                                   .name = "mqa",
                                   .version = "0.1.0",
                                   .summary = "multi-query attention: one KV head",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(mqa),
                                   .create = create,
                                   .destroy = free,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
