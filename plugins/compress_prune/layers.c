/*
 * Which layers go. Those whose score is lowest: by the sum of |weights| of their matrices (l1), by
 * how much they turn the residual stream, mean of 1 - cos(in, out) (activation), or by random
 * numbers. Layers that the host cannot take out are not chosen.
 */
#include <math.h>
#include <stdlib.h>

#include "prune.h"

enum { KIND_LAYER = 3 }; /* of random numbers, beside OVER_x */

uint32_t prune_drops(const void *self) {
    const prune_options *o = &((const prune_stage *)self)->options;
    return !(o->layers > 0)               ? PICO_DROPS_NOTHING
           : o->score == SCORE_ACTIVATION ? PICO_DROPS_BY_RUNNING
                                          : PICO_DROPS_BY_WEIGHTS;
}

/* Sum over the matrices of a layer. */
static pico_status weigh(const prune_stage *stage, const pico_tensors *tensors, uint32_t layer,
                         double *score, pico_error *err) {
    static const char *const names[] = {"attn_q.weight",   "attn_k.weight",      "attn_v.weight",
                                        "ffn_gate.weight", "attn_output.weight", "ffn_up.weight",
                                        "ffn_down.weight"};
    pico_status status = PICO_OK;
    for (size_t i = 0; status == PICO_OK && i < sizeof names / sizeof *names; i++) {
        status = prune_add_l1(stage, tensors, layer, names[i], 1, 0, score, err);
    }
    return status;
}

static pico_status score_layers(prune_stage *stage, const pico_model_desc *desc,
                                const pico_tensors *tensors, pico_model *model, double *score,
                                pico_error *err) {
    pico_status status = PICO_OK;
    if (stage->options.score == SCORE_ACTIVATION) {
        status = prune_calibrate(stage, model, err);
    }
    for (uint32_t i = 0; status == PICO_OK && i < desc->n_layer; i++) {
        if (stage->options.score == SCORE_L1) {
            status = weigh(stage, tensors, i, &score[i], err);
        } else {
            score[i] = stage->options.score == SCORE_RANDOM
                           ? prune_random(stage, i, KIND_LAYER, 0)
                           : stage->seen[i].change / (double)stage->seen[i].n_row;
        }
        if (status == PICO_OK && !isfinite(score[i])) {
            status =
                pico_fail(err, PICO_E_INVALID,
                          "layer %u: a weight or an activation is infinite or not a number", i);
        }
    }
    return status;
}

/* The last layer cannot hand its residual lambdas on, and what backout takes must stay. */
static int may_go(const pico_model_desc *desc, uint32_t layer) {
    return (int32_t)layer != desc->backout_layer &&
           !((desc->flags & PICO_RESID_LAMBDAS) && layer + 1 == desc->n_layer);
}

/* Marks the `n` layers of those that may go with the lowest scores; of equals the last go. */
static void mark(const pico_model_desc *desc, const double *score, uint32_t n, uint8_t *drop) {
    for (uint32_t k = 0; k < n; k++) {
        uint32_t least = UINT32_MAX;
        for (uint32_t i = 0; i < desc->n_layer; i++) {
            if (!drop[i] && may_go(desc, i) && (least == UINT32_MAX || score[i] <= score[least])) {
                least = i;
            }
        }
        drop[least] = 1;
    }
}

static void report(const prune_stage *stage, const double *score, const uint8_t *drop,
                   uint32_t n_layer) {
    char text[400];
    int used = snprintf(text, sizeof text, "prune: these layers go, with their scores:");
    for (uint32_t i = 0; i < n_layer && used > 0 && (size_t)used < sizeof text; i++) {
        if (drop[i]) {
            used += snprintf(text + used, sizeof text - (size_t)used, " %u (%.4g)", i, score[i]);
        }
    }
    stage->host->log(stage->host->ctx, PICO_LOG_INFO, text);
}

static pico_status count_drops(const prune_options *o, const pico_model_desc *desc, uint32_t *n,
                               pico_error *err) {
    uint32_t able = 0;
    for (uint32_t i = 0; i < desc->n_layer; i++) {
        able += may_go(desc, i) != 0;
    }
    *n = prune_share(o->layers, desc->n_layer);
    if (*n == 0) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "layers = %g of %u layers is none; set at least %g", o->layers,
                         desc->n_layer, 1.0 / desc->n_layer);
    }
    if (*n > able || *n == desc->n_layer) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "layers = %g of %u layers is %u, but at most %u of this model can go",
                         o->layers, desc->n_layer, *n, able == desc->n_layer ? able - 1 : able);
    }
    return PICO_OK;
}

pico_status prune_drop_layers(void *self, const pico_model_desc *desc, const pico_tensors *tensors,
                              pico_model *model, uint8_t *drop, pico_error *err) {
    prune_stage *stage = self;
    uint32_t n = 0;
    pico_status status = count_drops(&stage->options, desc, &n, err);
    if (status != PICO_OK) {
        return status;
    }
    double *score = calloc(desc->n_layer, sizeof *score);
    free(stage->drop);
    stage->drop = calloc(desc->n_layer, 1);
    if (score == NULL || stage->drop == NULL) {
        status = pico_fail(err, PICO_E_NOMEM, "out of memory");
    } else {
        status = score_layers(stage, desc, tensors, model, score, err);
    }
    if (status == PICO_OK) {
        mark(desc, score, n, stage->drop);
        for (uint32_t i = 0; i < desc->n_layer; i++) {
            drop[i] = stage->drop[i];
        }
        report(stage, score, drop, desc->n_layer);
    }
    prune_forget(stage);
    free(score);
    return status;
}
