/* From the draft model's logits to a draft, and to its distribution where the host wants one. */
#include <math.h>
#include <string.h>

#include "spec_model.h"

/* The probability of the most probable token at temperature 1. */
static double top_probability(const float *logits, uint32_t n) {
    float most = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        most = logits[i] > most ? logits[i] : most;
    }
    for (uint32_t i = 0; i < n; i++) {
        sum += logits[i] > most - 30.0f ? expf(logits[i] - most) : 0.0f;
    }
    return sum > 0 ? 1.0 / (double)sum : 0;
}

static int is_worse(const pico_dist *d, uint32_t a, uint32_t b) {
    return d->p[a] < d->p[b];
}

static void swap(pico_dist *d, uint32_t a, uint32_t b) {
    int32_t token = d->token[a];
    double p = d->p[a];
    d->token[a] = d->token[b];
    d->p[a] = d->p[b];
    d->token[b] = token;
    d->p[b] = p;
}

/* Sifts entry i down the heap [0, n), whose root is the least probable. */
static void sift(pico_dist *d, uint32_t i, uint32_t n) {
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= n) {
            return;
        }
        child += child + 1 < n && is_worse(d, child + 1, child);
        if (!is_worse(d, child, i)) {
            return;
        }
        swap(d, i, child);
        i = child;
    }
}

/* Leaves the `most` most probable tokens, normalised again. */
static void keep_most(pico_dist *dist, uint32_t most) {
    double sum = 0;
    if (dist->n <= most) {
        return;
    }
    for (uint32_t i = most / 2; i > 0; i--) {
        sift(dist, i - 1, most);
    }
    for (uint32_t i = most; i < dist->n; i++) {
        if (is_worse(dist, 0, i)) {
            swap(dist, 0, i);
            sift(dist, 0, most);
        }
    }
    dist->n = most;
    for (uint32_t i = 0; i < most; i++) {
        sum += dist->p[i];
    }
    for (uint32_t i = 0; i < most; i++) {
        dist->p[i] /= sum;
    }
}

pico_status spec_draw(spec_model *me, pico_sequence *sequence, const pico_forward_out *out,
                      uint32_t row, pico_error *err) {
    int32_t before[PICO_DECODE_ROWS_MAX];
    spec_lane *lane = &me->lane[sequence->slot];
    uint32_t n = sequence->n_proposal;
    int rejection = me->accept == PICO_ACCEPT_REJECTION;
    uint64_t at = out->logits.offset + (uint64_t)row * (uint64_t)out->logits.stride[0] * 4;
    pico_status status = me->device->buffer_read(me->device_self, out->logits.buffer, at,
                                                 me->logits, (uint64_t)me->n_vocab * 4, err);
    if (status != PICO_OK) {
        return status;
    }
    if (me->options.p_min > 0 && top_probability(me->logits, me->n_vocab) < me->options.p_min) {
        lane->count = n;
        return PICO_OK;
    }
    for (uint32_t i = 0; i < n; i++) {
        before[i] = sequence->proposal[i].token;
    }
    status = me->host->sampling->dist(sequence->sampling, me->logits, before, n, &me->dist, err);
    if (status != PICO_OK) {
        return status;
    }
    pico_proposal *draft = &sequence->proposal[n];
    *draft = (pico_proposal){.parent = (int32_t)n - 1, .q_begin = sequence->n_q};
    if (rejection) {
        keep_most(&me->dist, sequence->q_capacity / sequence->room);
        draft->q_count = me->dist.n;
        memcpy(sequence->q_token + sequence->n_q, me->dist.token,
               me->dist.n * sizeof *me->dist.token);
        memcpy(sequence->q_p + sequence->n_q, me->dist.p, me->dist.n * sizeof *me->dist.p);
    }
    draft->token = me->host->sampling->draw(sequence->sampling, &me->dist, n,
                                            rejection ? PICO_RANDOM_DRAFT : PICO_RANDOM_TARGET);
    if (draft->token < 0) {
        return pico_fail(err, PICO_E_INVALID, "the sampler gave no token a probability");
    }
    sequence->n_q += draft->q_count;
    sequence->n_proposal++;
    me->n_proposed++;
    return PICO_OK;
}
