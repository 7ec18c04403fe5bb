/*
 * How much of a layer stays, and which tensors that divides. Pure: it knows ratios and widths, no
 * weights. Refuses ratios that remove nothing or everything.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "prune.h"

uint32_t prune_share(double ratio, uint32_t n) {
    const double nearest = ceil(ratio * n - 0.5);
    return nearest > 0 ? (uint32_t)nearest : 0;
}

static pico_status shape_heads(const prune_options *o, uint32_t index, prune_shape *s,
                               pico_error *err) {
    const int whole = o->groups == GROUPS_WHOLE;
    const uint32_t cut = prune_share(o->heads, s->n_unit);
    const char *what = s->group == 1 ? "heads"
                       : whole       ? "KV heads, each with its query heads"
                                     : "query heads of each KV head";
    const char *else_do = s->group == 1 ? ""
                          : whole       ? "; or groups = within"
                                        : "; or groups = whole";
    s->heads_kept = s->n_head;
    s->kv_kept = s->n_kv_head;
    if (!(o->heads > 0)) {
        return PICO_OK;
    }
    if (s->n_unit == 1) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "layer %u: heads = %g: there is only one to choose from%s", index,
                         o->heads, else_do);
    }
    if (cut == 0 || cut == s->n_unit) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "layer %u: heads = %g of %u %s is %s; expected %g to %g%s", index,
                         o->heads, s->n_unit, what, cut == 0 ? "none" : "all of them",
                         1.0 / s->n_unit, (s->n_unit - 1.0) / s->n_unit, else_do);
    }
    if (s->by_unit) {
        s->kv_kept = s->n_unit - cut;
        s->heads_kept = s->kv_kept * s->group;
    } else {
        s->heads_kept = s->n_kv_head * (s->n_unit - cut);
    }
    return PICO_OK;
}

static pico_status shape_neurons(const prune_options *o, uint32_t index, prune_shape *s,
                                 pico_error *err) {
    const uint32_t own = s->n_ff % 32 == 0 && s->n_ff >= 256 ? 32 : 1;
    const uint32_t multiple = o->multiple > 0 ? (uint32_t)o->multiple : own;
    s->ff_kept = s->n_ff;
    if (!(o->neurons > 0)) {
        return PICO_OK;
    }
    const double kept = floor((1 - o->neurons) * s->n_ff / multiple + 0.5) * multiple;
    if (kept < 1 || kept >= s->n_ff) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "layer %u: neurons = %g leaves %g of %u in multiples of %u; set another "
                         "ratio, or a smaller neurons_multiple",
                         index, o->neurons, kept < 1 ? 0.0 : kept, s->n_ff, multiple);
    }
    s->ff_kept = (uint32_t)kept;
    return PICO_OK;
}

static pico_status shape_pool(const prune_options *o, uint32_t index, prune_shape *s,
                              pico_error *err) {
    const uint32_t to = o->kv_heads > 0 ? (uint32_t)o->kv_heads : 1;
    s->kv_pooled = s->kv_kept;
    if (o->convert == CONVERT_NONE) {
        return PICO_OK;
    }
    if (s->kv_kept % to != 0) {
        return pico_fail(
            err, PICO_E_UNSUPPORTED,
            "layer %u: %u KV heads cannot be pooled evenly into kv_heads = %u; expected "
            "a divisor of %u",
            index, s->kv_kept, to, s->kv_kept);
    }
    s->kv_pooled = to;
    return PICO_OK;
}

pico_status prune_shape_of(const prune_options *o, const pico_layer_desc *layer, uint32_t index,
                           prune_shape *out, pico_error *err) {
    *out = (prune_shape){.n_head = layer->n_head,
                         .n_kv_head = layer->n_kv_head,
                         .head_dim = layer->head_dim,
                         .n_ff = layer->n_ff,
                         .group = layer->n_head / layer->n_kv_head};
    out->by_unit = out->group == 1 || o->groups == GROUPS_WHOLE;
    out->n_unit = out->by_unit ? out->n_kv_head : out->group;
    pico_status status = shape_heads(o, index, out, err);
    if (status == PICO_OK) {
        status = shape_neurons(o, index, out, err);
    }
    return status == PICO_OK ? shape_pool(o, index, out, err) : status;
}

/* ---- tensors ---- */

static const prune_part parts[] = {
    {"attn_q.weight", OVER_HEADS, 0, 0},        {"attn_q.bias", OVER_HEADS, 1, 0},
    {"attn_output.weight", OVER_HEADS, 1, 0},   {"attn_k.weight", OVER_KV_HEADS, 0, 0},
    {"attn_k.bias", OVER_KV_HEADS, 1, 0},       {"attn_v.weight", OVER_KV_HEADS, 0, 0},
    {"attn_v.bias", OVER_KV_HEADS, 1, 0},       {"value_embd.weight", OVER_KV_HEADS, 1, 0},
    {"value_gate.weight", OVER_KV_HEADS, 0, 1}, {"ffn_gate.weight", OVER_NEURONS, 0, 1},
    {"ffn_gate.bias", OVER_NEURONS, 1, 1},      {"ffn_up.weight", OVER_NEURONS, 0, 1},
    {"ffn_up.bias", OVER_NEURONS, 1, 1},        {"ffn_down.weight", OVER_NEURONS, 1, 1},
};

const prune_part *prune_part_of(const char *name, uint32_t *layer) {
    char *end = NULL;
    *layer = UINT32_MAX;
    if (strncmp(name, "blk.", 4) != 0) {
        return NULL;
    }
    const unsigned long number = strtoul(name + 4, &end, 10);
    if (*end != '.' || number >= UINT32_MAX) {
        return NULL;
    }
    *layer = (uint32_t)number;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (strcmp(parts[i].name, end + 1) == 0) {
            return &parts[i];
        }
    }
    return NULL;
}

uint32_t prune_units(const prune_shape *s, const prune_part *part) {
    return part->over == OVER_HEADS      ? s->n_head
           : part->over == OVER_KV_HEADS ? s->n_kv_head
                                         : s->n_ff;
}

uint32_t prune_units_after(const prune_shape *s, const prune_part *part) {
    return part->over == OVER_HEADS      ? s->heads_kept
           : part->over == OVER_KV_HEADS ? s->kv_pooled
                                         : s->ff_kept;
}

int prune_is_float(uint32_t dtype) {
    return dtype == PICO_DTYPE_F32 || dtype == PICO_DTYPE_F16 || dtype == PICO_DTYPE_BF16;
}

pico_status prune_dtype(const prune_options *o, const char *name, uint32_t from, uint32_t *to,
                        pico_error *err) {
    static const uint32_t types[] = {PICO_DTYPE_NONE, PICO_DTYPE_F32, PICO_DTYPE_F16,
                                     PICO_DTYPE_BF16};
    *to = from;
    if (prune_is_float(from)) {
        return PICO_OK;
    }
    *to = types[o->dequantise];
    return o->dequantise != WIDEN_NONE
               ? PICO_OK
               : pico_fail(err, PICO_E_UNSUPPORTED,
                           "tensor %s is quantised, and its blocks cannot be cut: prune the float "
                           "model and quantise in a later stage, or set dequantise = f16",
                           name);
}
