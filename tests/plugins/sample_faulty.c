/*
 * A sampler for tests of the conformance kit: a plain softmax with a state that counts, broken in
 * the way that `fault` names. The kit must pass it with none and find every one of the others.
 */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

enum {
    FAULT_NONE,
    FAULT_SUM,    /* probabilities sum to 1.001 */
    FAULT_TWICE,  /* a token is listed twice */
    FAULT_RANGE,  /* a token outside the vocabulary */
    FAULT_NAN,    /* NaN logits give NaN */
    FAULT_MEMORY, /* the distribution depends on the calls before */
    FAULT_STATE,  /* state_next changes the old state */
    FAULT_BYTES,  /* state_next writes beyond its bytes */
    FAULT_CRASH,  /* a null pointer is read */
    FAULT_LEAK    /* destroy forgets */
};

typedef struct faulty {
    uint32_t fault;
    uint32_t n_call;
    const volatile int *nothing;
} faulty;

static const char *const faults[] = {"none",  "sum",   "twice", "range", "nan", "memory",
                                     "state", "bytes", "crash", "leak",  NULL};

static const pico_option options[] = {
    {.name = "fault",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(faulty, fault),
     .def = "none",
     .choices = faults,
     .help = "what is wrong with it"},
};

static pico_status create(const pico_host *host, const void *bound, void **self, pico_error *err) {
    (void)host;
    faulty *f = malloc(sizeof *f);
    if (f == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "sample faulty: out of memory");
    }
    *f = *(const faulty *)bound;
    *self = f;
    return PICO_OK;
}

static void destroy(void *self) {
    const faulty *f = self;
    if (f == NULL || f->fault != FAULT_LEAK) {
        free(self);
    }
}

static pico_status need(void *self, pico_sampler_need *out) {
    (void)self;
    out->kind = PICO_NEED_FULL;
    out->inv_temperature = 1;
    out->state_bytes = sizeof(uint32_t);
    return PICO_OK;
}

static pico_status dist(void *self, const pico_candidates *row, const void *state, pico_dist *out) {
    faulty *f = self;
    double best = -INFINITY, sum = 0;
    uint32_t count;
    memcpy(&count, state, sizeof count);
    for (uint32_t i = 0; i < row->n; i++) {
        best = (double)row->logit[i] > best ? (double)row->logit[i] : best;
    }
    if (!isfinite(best)) {
        return PICO_E_INVALID;
    }
    f->n_call++;
    double temperature = 1 + 0.01 * (f->fault == FAULT_MEMORY ? f->n_call : count);
    out->n = row->n;
    for (uint32_t i = 0; i < row->n; i++) {
        double z = (double)row->logit[i];
        out->token[i] = row->token == NULL ? (int32_t)i : row->token[i];
        out->p[i] = isnan(z) && f->fault != FAULT_NAN ? 0 : exp((z - best) / temperature);
        sum += isnan(z) ? 0 : out->p[i];
    }
    for (uint32_t i = 0; i < row->n; i++) {
        out->p[i] /= f->fault == FAULT_SUM ? sum * 0.999 : sum;
    }
    if (f->fault == FAULT_TWICE && row->n > 1) {
        out->token[1] = out->token[0];
    }
    out->token[0] += f->fault == FAULT_RANGE ? (int32_t)row->n_vocab : 0;
    return f->fault == FAULT_CRASH ? (pico_status)*f->nothing : PICO_OK;
}

static void state_init(void *self, void *state) {
    const uint32_t zero = 0;
    (void)self;
    memcpy(state, &zero, sizeof zero);
}

static void state_next(void *self, const void *state, const pico_dist *from, int32_t token,
                       void *next) {
    const faulty *f = self;
    uint32_t count[2];
    (void)from, (void)token;
    memcpy(count, state, sizeof *count);
    count[0]++;
    count[1] = 0;
    memcpy(f->fault == FAULT_STATE ? (void *)(uintptr_t)state : next, count, sizeof *count);
    memcpy(next, count, f->fault == FAULT_BYTES ? sizeof count : sizeof *count);
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
                                   .name = "faulty",
                                   .version = "0.1.0",
                                   .summary = "for tests: a sampler with a fault of choice",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(faulty),
                                   .create = create,
                                   .destroy = destroy,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
