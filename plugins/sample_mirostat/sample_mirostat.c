/*
 * Mirostat 2.0 (Basu et al. 2021, https://arxiv.org/abs/2007.14966): keeps the surprise of the
 * chosen tokens near tau bits. Tokens with more surprise than mu are cut off; after each draw
 * mu -= eta * (surprise of the token - tau). mu starts at 2 tau and is this sampler's state.
 */
#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

typedef struct mirostat {
    double temperature, tau, eta;
} mirostat;

typedef struct mirostat_state {
    double mu; /* bits */
} mirostat_state;

static const pico_option options[] = {
    {.name = "temperature",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(mirostat, temperature),
     .def = "1.0",
     .min = 0.01,
     .max = 100,
     .help = "divides the logits before the cut"},
    {.name = "tau",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(mirostat, tau),
     .def = "5.0",
     .min = 0.01,
     .max = 30,
     .unit = "bits",
     .help = "the surprise to aim at"},
    {.name = "eta",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(mirostat, eta),
     .def = "0.1",
     .min = 0.0001,
     .max = 1,
     .help = "how fast the cut follows"},
};

static pico_status create(const pico_host *host, const void *opts, void **self, pico_error *err) {
    (void)host;
    mirostat *plugin = malloc(sizeof *plugin);
    if (plugin == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    *plugin = *(const mirostat *)opts;
    *self = plugin;
    return PICO_OK;
}

static pico_status need(void *self, pico_sampler_need *out) {
    (void)self;
    out->kind = PICO_NEED_FULL;
    out->inv_temperature = 1.0f;
    out->state_bytes = sizeof(mirostat_state);
    return PICO_OK;
}

static pico_status dist(void *self, const pico_candidates *row, const void *state, pico_dist *out) {
    const mirostat *plugin = self;
    mirostat_state now;
    memcpy(&now, state, sizeof now);
    double best = -INFINITY, sum = 0, kept_sum = 0;
    uint32_t best_at = 0, n = 0;
    assert(out->capacity >= row->n);
    for (uint32_t i = 0; i < row->n; i++) {
        if ((double)row->logit[i] > best) {
            best = (double)row->logit[i];
            best_at = i;
        }
    }
    if (!isfinite(best)) {
        return PICO_E_INVALID;
    }
    for (uint32_t i = 0; i < row->n; i++) {
        double z = (double)row->logit[i];
        out->p[i] = isnan(z) ? 0 : exp((z - best) / plugin->temperature);
        sum += out->p[i];
    }
    double least = sum * exp2(-now.mu); /* p >= 2^-mu; the best token always stays */
    for (uint32_t i = 0; i < row->n; i++) {
        double p = out->p[i];
        if (i == best_at || p >= least) {
            out->token[n] = row->token == NULL ? (int32_t)i : row->token[i];
            out->p[n++] = p;
            kept_sum += p;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        out->p[i] /= kept_sum;
    }
    out->n = n;
    return PICO_OK;
}

static void state_init(void *self, void *state) {
    const mirostat *plugin = self;
    mirostat_state first = {.mu = 2 * plugin->tau};
    memcpy(state, &first, sizeof first);
}

static void state_next(void *self, const void *state, const pico_dist *chosen_from, int32_t token,
                       void *next) {
    const mirostat *plugin = self;
    mirostat_state now;
    memcpy(&now, state, sizeof now);
    for (uint32_t i = 0; i < chosen_from->n; i++) {
        if (chosen_from->token[i] == token && chosen_from->p[i] > 0) {
            now.mu -= plugin->eta * (-log2(chosen_from->p[i]) - plugin->tau);
            break;
        }
    }
    memcpy(next, &now, sizeof now);
}

static const pico_sampler_ops ops = {.struct_size = sizeof(pico_sampler_ops),
                                     .need = need,
                                     .dist = dist,
                                     .state_init = state_init,
                                     .state_next = state_next};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = 1,
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_SAMPLER,
                                   .name = "mirostat",
                                   .version = "0.1.0",
                                   .summary = "mirostat 2.0: constant surprise",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(mirostat),
                                   .create = create,
                                   .destroy = free,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
