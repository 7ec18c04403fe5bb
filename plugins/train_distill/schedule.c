/*
 * Which optimiser a parameter gets, with which learning rate, and how rates change over the steps.
 * The groups and rates are nanochat's: Muon for the matrices of layers, AdamW for the rest; rates of
 * AdamW on vocabulary matrices scale with 1 / sqrt(width / 768), all rates with the square root of
 * tokens per step over 2^19. See distill.h.
 */
#include <math.h>

#include "distill.h"

pico_status distill_choose_optimizers(distill *d, pico_error *err) {
    const pico_train_api *api = d->host->train;
    const uint32_t n = api->n_params(d->train);
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        pico_param p;
        status = api->param(d->train, i, &p);
        if (status == PICO_OK && p.trained) {
            const int muon = d->opt.optimizer == OPTIMIZER_MUON && p.group == PICO_PARAM_MATRIX;
            status =
                api->optimizer(d->train, i, muon ? PICO_OPTIMIZER_MUON : PICO_OPTIMIZER_ADAMW, err);
        }
    }
    return status;
}

double distill_rate(const distill_options *opt, uint64_t step) {
    const double at = (double)(step - 1), all = (double)opt->steps;
    const double up = floor(opt->warmup * all), down = floor(opt->warmdown * all);
    if (at < up) {
        return (at + 1) / up;
    }
    if (at <= all - down || down <= 0) {
        return 1;
    }
    const double left = (all - at) / down;
    return left + (1 - left) * opt->final_lr;
}

/* Rate and betas of a parameter in nanochat's way. */
static void group_rate(const distill *d, uint32_t group, pico_update *update, double *lr) {
    const distill_options *opt = &d->opt;
    const double tokens = (double)(opt->batch * opt->length * opt->accumulate);
    const double by_width = 1 / sqrt((double)d->desc->n_embd / 768),
                 by_batch = sqrt(tokens / 524288);
    switch (group) {
    case PICO_PARAM_EMBED:
    case PICO_PARAM_VALUE_EMBED:
        *lr = opt->embedding_lr * by_width;
        break;
    case PICO_PARAM_HEAD:
        *lr = opt->head_lr * by_width;
        break;
    case PICO_PARAM_MATRIX:
        *lr = opt->matrix_lr;
        break;
    case PICO_PARAM_RESID_LAMBDA:
        *lr = opt->scalar_lr * 0.01;
        break;
    case PICO_PARAM_X0_LAMBDA:
        *lr = opt->scalar_lr;
        update->beta1 = 0.96f;
        break;
    case PICO_PARAM_SMEAR:
        *lr = opt->scalar_lr * 0.4;
        break;
    default: /* PICO_PARAM_VECTOR, which nanochat has not */
        *lr = opt->vector_lr;
        break;
    }
    *lr *= by_batch;
}

/* Everything about the update of a parameter but its index. */
static pico_update update_of(const distill *d, const pico_param *p, uint64_t step) {
    const distill_options *opt = &d->opt;
    const int muon = p->optimizer == PICO_OPTIMIZER_MUON;
    const double rate = distill_rate(opt, step), at = (double)(step - 1);
    double lr = opt->lr, decay = opt->weight_decay;
    pico_update update = {.struct_size = sizeof update,
                          .beta1 = (float)opt->beta1,
                          .beta2 = (float)opt->beta2,
                          .eps = (float)opt->eps,
                          .grad_scale = 1,
                          .step = step};
    if (opt->optimizer == OPTIMIZER_MUON) {
        group_rate(d, p->group, &update, &lr);
        const double depth = 12 / (double)d->desc->n_layer;
        decay = muon ? decay * depth * depth * (1 - at / (double)opt->steps) : 0;
    } else if (p->group != PICO_PARAM_MATRIX && p->group != PICO_PARAM_HEAD) {
        decay = 0;
    }
    if (muon) {
        const double share = at < 300 ? at / 300 : 1;
        update.beta2 = 0.95f;
        update.momentum = (float)(0.85 + share * (0.95 - 0.85));
    }
    update.lr = (float)(lr * rate);
    update.weight_decay = (float)decay;
    return update;
}

pico_status distill_update(distill *d, uint64_t step, pico_error *err) {
    const pico_train_api *api = d->host->train;
    const uint32_t n_params = api->n_params(d->train);
    uint32_t n = 0, failed = 0;
    pico_status status = PICO_OK;
    pico_param p = {.name = ""};
    for (uint32_t i = 0; status == PICO_OK && i < n_params; i++) {
        status = api->param(d->train, i, &p);
        if (status == PICO_OK && p.trained) {
            d->updated[n] = i;
            d->update[n++] = update_of(d, &p, step);
        }
    }
    if (status == PICO_OK) {
        status = api->update_many(d->train, n, d->updated, d->update, &failed);
    }
    if (status == PICO_OK) {
        return PICO_OK;
    }
    (void)api->param(d->train, failed, &p);
    return pico_fail(err, status, "trainer distill: the update of %s failed", p.name);
}
