/*
 * A sampler to start from: temperature, and nothing else. All that it needs is plugin.h (sections
 * 3 and 8). The steps are those of decode_skeleton.c: copy, rename, build it unmodified, run
 * picochat-conform, then edit dist (with a compiler alone: add -lm at the end). The host applies
 * penalties before and draws after.
 */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>

#include "plugin.h"

typedef struct skeleton {
    double temperature; /* bound by the host from [sampler.skeleton], checked, default filled in */
} skeleton;

static const pico_option options[] = {{.name = "temperature",
                                       .type = PICO_OPT_FLOAT,
                                       .offset = offsetof(skeleton, temperature),
                                       .def = "1",
                                       .min = 0,
                                       .max = 100,
                                       .help = "divides the logits; 0 = the most probable token"}};

static pico_status create(const pico_host *host, const void *bound, void **self, pico_error *err) {
    (void)host;
    skeleton *me = malloc(sizeof *me);
    if (me == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    *me = *(const skeleton *)bound; /* it is gone when create returns */
    *self = me;
    return PICO_OK;
}

/* At temperature 0 the host takes the argmax and dist is not called. */
static pico_status need(void *self, pico_sampler_need *out) {
    double t = ((const skeleton *)self)->temperature;
    *out = (pico_sampler_need){.struct_size = sizeof *out,
                               .kind = t > 0 ? PICO_NEED_FULL : PICO_NEED_ARGMAX,
                               .inv_temperature = t > 0 ? (float)(1 / t) : 1};
    return PICO_OK;
}

/* p = softmax(logit / temperature). Called from any thread: it only reads self. */
static pico_status dist(void *self, const pico_candidates *row, const void *state, pico_dist *out) {
    (void)state;
    const skeleton *me = self;
    double best = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < row->n; i++) {
        best = row->logit[i] > best ? row->logit[i] : best; /* never true of a NaN */
    }
    if (!isfinite(best)) {
        return PICO_E_INVALID; /* nothing to choose from */
    }
    out->n = row->n;
    for (uint32_t i = 0; i < row->n; i++) { /* -inf: a forbidden token, probability 0 */
        double z = row->logit[i];
        out->token[i] = row->token != NULL ? row->token[i] : (int32_t)i;
        out->p[i] = isnan(z) ? 0 : exp((z - best) / me->temperature);
        sum += out->p[i];
    }
    for (uint32_t i = 0; i < out->n; i++) {
        out->p[i] /= sum;
    }
    return PICO_OK;
}

static const pico_sampler_ops ops = {.struct_size = sizeof ops, .need = need, .dist = dist};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = PICO_ABI_MINOR,
                                   .struct_size = sizeof plugin,
                                   .kind = PICO_KIND_SAMPLER,
                                   .name = "skeleton",
                                   .version = "0.1.0",
                                   .summary = "a sampler to start from",
                                   .options = options,
                                   .n_options = sizeof options / sizeof options[0],
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(skeleton),
                                   .create = create,
                                   .destroy = free,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
