/*
 * Fresh values for all parameters, as nanochat draws them: what adds to the residual stream begins at
 * zero, so that a layer begins as the identity. See train.h.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/host.h"
#include "train/internal.h"

enum { CONSTANT = 0, UNIFORM = 1, NORMAL = 2 };

typedef struct recipe {
    uint32_t kind;
    double value; /* the constant, the largest, the standard deviation */
} recipe;

static int ends_with(const char *name, const char *end) {
    const size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

static recipe recipe_of(const pico_train *t, const train_param *p) {
    const double width = sqrt((double)t->desc->n_embd);
    const int normed = (t->desc->flags & PICO_EMBED_NORM) != 0;
    switch (p->group) {
    case PICO_PARAM_EMBED:
        return (recipe){NORMAL, normed ? 1 : 0.02};
    case PICO_PARAM_VALUE_EMBED:
        return (recipe){UNIFORM, sqrt(3) / width};
    case PICO_PARAM_HEAD:
        return ends_with(p->name, "draft_fc1.weight")   ? (recipe){NORMAL, 1 / width}
               : ends_with(p->name, "draft_fc2.weight") ? (recipe){CONSTANT, 0}
                                                        : (recipe){NORMAL, 0.001};
    case PICO_PARAM_MATRIX:
        if (ends_with(p->name, "attn_output.weight") || ends_with(p->name, "ffn_down.weight") ||
            ends_with(p->name, "value_gate.weight")) {
            return (recipe){CONSTANT, 0};
        }
        return (recipe){UNIFORM, sqrt(3) / width};
    case PICO_PARAM_RESID_LAMBDA:
        return (recipe){CONSTANT, 1};
    case PICO_PARAM_SMEAR:
        return ends_with(p->name, "smear_gate.weight")       ? (recipe){UNIFORM, 0.02}
               : ends_with(p->name, "backout_lambda.weight") ? (recipe){CONSTANT, 0.2}
                                                             : (recipe){CONSTANT, 0};
    case PICO_PARAM_VECTOR:
        return (recipe){CONSTANT, ends_with(p->name, ".weight") ? 1 : 0};
    default: /* PICO_PARAM_X0_LAMBDA */
        return (recipe){CONSTANT, 0};
    }
}

static double draw(const recipe *r, const pico_random_key *key, uint64_t i) {
    if (r->kind == CONSTANT) {
        return r->value;
    }
    const double u = pico_random_uniform(key, 2 * i);
    if (r->kind == UNIFORM) {
        return r->value * (2 * u - 1);
    }
    const double turn = 6.283185307179586 * pico_random_uniform(key, 2 * i + 1);
    return r->value * sqrt(-2 * log(u)) * cos(turn);
}

pico_status pico_train_reset(pico_train *t, uint64_t seed, pico_error *err) {
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < t->n_param; i++) {
        const train_param *p = &t->param[i];
        const recipe r = recipe_of(t, p);
        const pico_random_key key = {.seed = seed, .sample = i, .purpose = PICO_RANDOM_PLUGIN + 1};
        const uint64_t n = (uint64_t)(p->rows * p->cols);
        float *values = malloc((size_t)n * sizeof *values);
        if (values == NULL) {
            return pico_fail(err, PICO_E_NOMEM, "%s: out of memory", p->name);
        }
        for (uint64_t j = 0; j < n; j++) {
            values[j] = (float)draw(&r, &key, j);
        }
        status = t->ops->buffer_write(t->self, p->value.buffer, p->value.offset, values,
                                      n * sizeof *values);
        status =
            status == PICO_OK ? status : pico_fail(err, status, "%s cannot be written", p->name);
        free(values);
    }
    return status;
}
