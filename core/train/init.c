/*
 * Fresh values for all parameters, as nanochat draws them: what adds to the residual stream begins at
 * zero, so that a layer begins as the identity. See train.h.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/host.h"
#include "train/internal.h"

enum { CONSTANT = 0, UNIFORM = 1, NORMAL = 2, POSITIVE = 3, RAMP = 4 };

typedef struct recipe {
    uint32_t kind;
    double value; /* the constant, the largest, the standard deviation, the first of a ramp */
    double last;  /* of a ramp over all values */
} recipe;

static int ends_with(const char *name, const char *end) {
    const size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Matrices of layers. What adds to the residual stream begins at zero. */
static recipe matrix_recipe(const train_param *p, double uniform, int is_newest) {
    if (ends_with(p->name, "attn_output.weight") || ends_with(p->name, "ffn_down.weight")) {
        return (recipe){CONSTANT, 0, 0};
    }
    if (ends_with(p->name, "value_gate.weight")) {
        return is_newest ? (recipe){POSITIVE, 0.02, 0} : (recipe){CONSTANT, 0, 0};
    }
    return (recipe){UNIFORM,
                    is_newest && ends_with(p->name, "ffn_up.weight") ? 0.4 * uniform : uniform, 0};
}

/* The generation of nanochat with smear draws some parts otherwise than those before it. */
static recipe recipe_of(const pico_train *t, const train_param *p) {
    const double width = sqrt((double)t->desc->n_embd), uniform = sqrt(3) / width;
    const int normed = (t->desc->flags & PICO_EMBED_NORM) != 0;
    const int is_newest = t->desc->smear_width != 0;
    switch (p->group) {
    case PICO_PARAM_EMBED:
        return (recipe){NORMAL, is_newest ? 0.8 : normed ? 1 : 0.02, 0};
    case PICO_PARAM_VALUE_EMBED:
        return (recipe){UNIFORM, uniform, 0};
    case PICO_PARAM_HEAD:
        return ends_with(p->name, "draft_fc1.weight") || ends_with(p->name, "draft_token.weight")
                   ? (recipe){NORMAL, 1 / width, 0}
               : ends_with(p->name, "draft_fc2.weight") ? (recipe){CONSTANT, 0, 0}
                                                        : (recipe){NORMAL, 0.001, 0};
    case PICO_PARAM_MATRIX:
        return matrix_recipe(p, uniform, is_newest);
    case PICO_PARAM_RESID_LAMBDA:
        return is_newest ? (recipe){RAMP, 1.15, 1.05} : (recipe){CONSTANT, 1, 0};
    case PICO_PARAM_SMEAR:
        return ends_with(p->name, "smear_gate.weight")       ? (recipe){POSITIVE, 0.02, 0}
               : ends_with(p->name, "backout_lambda.weight") ? (recipe){CONSTANT, 0.2, 0}
                                                             : (recipe){CONSTANT, 0, 0};
    case PICO_PARAM_VECTOR:
        return (recipe){CONSTANT, ends_with(p->name, ".weight") ? 1 : 0, 0};
    default: /* PICO_PARAM_X0_LAMBDA */
        return is_newest ? (recipe){RAMP, 0.2, 0.05} : (recipe){CONSTANT, 0, 0};
    }
}

/* Value i of n. */
static double draw(const recipe *r, const pico_random_key *key, uint64_t i, uint64_t n) {
    if (r->kind == CONSTANT) {
        return r->value;
    }
    if (r->kind == RAMP) {
        return n == 1 ? r->value : r->value + (r->last - r->value) * (double)i / (double)(n - 1);
    }
    const double u = pico_random_uniform(key, 2 * i);
    if (r->kind == UNIFORM || r->kind == POSITIVE) {
        return r->value * (r->kind == UNIFORM ? 2 * u - 1 : u);
    }
    const double turn = 6.283185307179586 * pico_random_uniform(key, 2 * i + 1);
    return r->value * sqrt(-2 * log(u)) * cos(turn);
}

static pico_status reset_param(pico_train *t, uint32_t index, uint64_t seed, pico_error *err) {
    train_param *p = &t->param[index];
    const recipe r = recipe_of(t, p);
    const pico_random_key key = {.seed = seed, .sample = index, .purpose = PICO_RANDOM_PLUGIN + 1};
    const uint64_t n = (uint64_t)(p->rows * p->cols);
    float *values = malloc((size_t)n * sizeof *values);
    if (values == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "%s: out of memory", p->name);
    }
    for (uint64_t j = 0; j < n; j++) {
        values[j] = (float)draw(&r, &key, j, n);
    }
    const pico_status status =
        t->ops->buffer_write(t->self, p->value.buffer, p->value.offset, values, n * sizeof *values);
    free(values);
    p->redrawn = 1;
    return status == PICO_OK ? status : pico_fail(err, status, "%s cannot be written", p->name);
}

pico_status pico_train_reset(pico_train *t, uint64_t seed, pico_error *err) {
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < t->n_param; i++) {
        status = reset_param(t, i, seed, err);
    }
    return status;
}

pico_status pico_train_reset_heads(pico_train *t, uint32_t heads, uint64_t seed, pico_error *err) {
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < t->n_param; i++) {
        if (train_head_kind(t->param[i].name) & heads) {
            status = reset_param(t, i, seed, err);
        }
    }
    return status;
}
