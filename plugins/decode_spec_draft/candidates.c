/*
 * From a row of logits to the candidates of a place. The first one is what the target would draw if
 * these were its logits; the next ones are what it would draw were those before them impossible, with
 * the same random numbers. So at temperature 0 they are the most probable tokens, and above it those
 * with the largest ln p + Gumbel: the target's draw is mostly among them, whatever the temperature.
 */
#include <math.h>
#include <string.h>

#include "spec_draft.h"

/* Tokens that the head does not know are no part of q. */
static void drop_impossible(pico_dist *dist) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < dist->n; i++) {
        if (dist->p[i] > 0) {
            dist->token[n] = dist->token[i];
            dist->p[n++] = dist->p[i];
        }
    }
    dist->n = n;
}

/* Keeps the most probable of dist as q, as many as there is room for each place. */
static void keep_most(pico_dist *dist, uint32_t most) {
    double sum = 0;
    if (dist->n <= most) {
        return;
    }
    for (uint32_t i = 0; i < most; i++) { /* most is small */
        uint32_t best = i;
        for (uint32_t j = i + 1; j < dist->n; j++) {
            best = dist->p[j] > dist->p[best] ? j : best;
        }
        int32_t token = dist->token[i];
        double p = dist->p[i];
        dist->token[i] = dist->token[best];
        dist->p[i] = dist->p[best];
        dist->token[best] = token;
        dist->p[best] = p;
        sum += dist->p[i];
    }
    dist->n = most;
    for (uint32_t i = 0; i < most; i++) {
        dist->p[i] /= sum;
    }
}

/* Logits of the known tokens, at the front of the row, go to their ids; the other tokens cannot be
 * drafted. Ids ascend, so from the last on none is overwritten before it is read. */
static void spread(spec_draft *me) {
    uint32_t end = me->n_vocab;
    if (me->known == NULL) {
        return;
    }
    for (uint32_t i = me->n_known; i-- > 0;) {
        const uint32_t id = (uint32_t)me->known[i];
        const float logit = me->row[i];
        for (uint32_t j = id; j < end; j++) {
            me->row[j] = -INFINITY;
        }
        me->row[id] = logit;
        end = id;
    }
    for (uint32_t j = 0; j < end; j++) {
        me->row[j] = -INFINITY;
    }
}

/* The largest probabilities of the row at temperature 1. Whatever order the candidates are drawn in,
 * how sure the head is says how likely the first of them is to be right, the second, ... */
static void weigh(const spec_draft *me, draft_place *place) {
    float best[MOST_BRANCHES] = {0}, sum = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < me->n_known; i++) {
        const float z = me->row[i];
        if (isnan(z) || (n == me->n_branch && z <= best[n - 1])) {
            continue;
        }
        uint32_t at = n < me->n_branch ? n++ : n - 1;
        for (; at > 0 && z > best[at - 1]; at--) {
            best[at] = best[at - 1];
        }
        best[at] = z;
    }
    for (uint32_t i = 0; n != 0 && i < me->n_known; i++) {
        sum += me->row[i] > best[0] - 30.0f ? expf(me->row[i] - best[0]) : 0.0f;
    }
    for (uint32_t i = 0; i < me->n_branch; i++) {
        place->weight[i] = i < n && sum > 0 ? (double)(expf(best[i] - best[0]) / sum) : 0;
    }
}

/* The same of one candidate, whose path decides whether it is worth a row: without the tokens that
 * together hardly count, which keeps exponentials few. */
static double confidence(const spec_draft *me) {
    float most = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < me->n_known; i++) {
        most = me->row[i] > most ? me->row[i] : most;
    }
    for (uint32_t i = 0; i < me->n_known; i++) {
        if (me->row[i] > most - 8.0f) {
            sum += expf(me->row[i] - most);
        }
    }
    return sum > 0 ? 1 / (double)sum : 0;
}

int spec_draft_is_hopeless(const spec_draft *me, const pico_sequence *sequence) {
    const draft_place *places = me->place + (uint64_t)sequence->slot * me->n_draft;
    double weight = 1;
    for (uint32_t i = 0; i < me->n_place[sequence->slot]; i++) {
        weight *= places[i].weight[0];
    }
    return weight < me->options.p_min;
}

static void forget(pico_dist *dist, int32_t token) {
    for (uint32_t i = 0; i < dist->n; i++) {
        dist->p[i] = dist->token[i] == token ? 0 : dist->p[i];
    }
}

/* A distribution without the candidates that there are, where the sampler left no other token. No
 * tokens at all are no error. */
static pico_status look_beyond(spec_draft *me, const pico_sequence *sequence,
                               const draft_place *place, const int32_t *before, uint32_t n_before,
                               pico_error *err) {
    pico_error late = {0};
    for (uint32_t i = 0; i < place->n; i++) {
        me->row[place->token[i]] = -INFINITY;
    }
    pico_status status =
        me->host->sampling->dist(sequence->sampling, me->row, before, n_before, &me->dist, &late);
    if (status == PICO_E_INVALID) {
        me->dist.n = 0;
        return PICO_OK;
    }
    if (status != PICO_OK) {
        *err = late;
    }
    return status;
}

/* Draws the candidates from me->dist. With rejection, those behind the first one guess what is drawn
 * when that is rejected. */
static pico_status draw_all(spec_draft *me, const pico_sequence *sequence, draft_place *place,
                            const int32_t *before, uint32_t n_before, pico_error *err) {
    const pico_sampling_api *sampling = me->host->sampling;
    const int rejection = me->accept == PICO_ACCEPT_REJECTION;
    pico_status status = PICO_OK;
    while (status == PICO_OK && place->n < me->n_branch) {
        uint32_t purpose = !rejection      ? PICO_RANDOM_TARGET
                           : place->n == 0 ? PICO_RANDOM_DRAFT
                                           : PICO_RANDOM_RESIDUAL;
        int32_t token = sampling->draw(sequence->sampling, &me->dist, n_before, purpose);
        if (token < 0 && place->n == 0) {
            return pico_fail(err, PICO_E_INVALID, "the sampler gave no token a probability");
        }
        if (token < 0) {
            status = look_beyond(me, sequence, place, before, n_before, err);
            token = status == PICO_OK
                        ? sampling->draw(sequence->sampling, &me->dist, n_before, purpose)
                        : -1;
        }
        if (token < 0) {
            break;
        }
        place->token[place->n++] = token;
        if (place->n < me->n_branch) {
            forget(&me->dist, token);
        }
    }
    return status;
}

pico_status spec_draft_add_place(spec_draft *me, pico_sequence *sequence, pico_error *err) {
    int32_t before[PICO_DECODE_ROWS_MAX];
    draft_place *places = me->place + (uint64_t)sequence->slot * me->n_draft;
    uint32_t n = me->n_place[sequence->slot];
    draft_place *place = &places[n];
    *place = (draft_place){.weight = {1}, .q_begin = sequence->n_q};
    for (uint32_t i = 0; i < n;
         i++) { /* what comes after other candidates is taken to be the same */
        before[i] = places[i].token[0];
    }
    if (me->n_branch > 1) {
        weigh(me, place);
    } else if (me->options.p_min > 0) {
        place->weight[0] = confidence(me);
    }
    spread(me);
    pico_status status =
        me->host->sampling->dist(sequence->sampling, me->row, before, n, &me->dist, err);
    if (status == PICO_OK && me->accept == PICO_ACCEPT_REJECTION) {
        if (me->known != NULL) {
            drop_impossible(&me->dist);
        }
        keep_most(&me->dist, sequence->q_capacity / me->n_draft);
        place->q_count = me->dist.n;
        memcpy(sequence->q_token + sequence->n_q, me->dist.token,
               me->dist.n * sizeof *me->dist.token);
        memcpy(sequence->q_p + sequence->n_q, me->dist.p, me->dist.n * sizeof *me->dist.p);
    }
    if (status == PICO_OK) {
        status = draw_all(me, sequence, place, before, n, err);
    }
    if (status == PICO_OK) {
        sequence->n_q += place->q_count;
        me->n_place[sequence->slot]++;
    }
    return status;
}
