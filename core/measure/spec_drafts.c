/*
 * A drafter of known quality: it has the plain decoder's text and is right as often as it is told,
 * at a stated cost. So the curve of speed over acceptance does not depend on having a good draft.
 */
#include <time.h>

#include "host/host.h"
#include "measure/spec.h"

static double now_seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static pico_status begin(void *self, const pico_model *target, uint32_t n_slots,
                         pico_decoder_need *out, pico_error *err) {
    (void)self;
    (void)target;
    (void)n_slots;
    (void)err;
    out->max_proposals = PICO_DRAFT_MAX;
    return PICO_OK;
}

static int32_t draft_at(const pico_known_drafts *known, uint32_t place) {
    const pico_random_key key = {.seed = known->seed, .purpose = PICO_RANDOM_PLUGIN, .t = place};
    int is_right = pico_random_uniform(&key, 0) < known->accept;
    int32_t token = known->truth[place];
    return is_right ? token : (int32_t)(((uint32_t)token + 1) % known->n_vocab);
}

static pico_status propose(void *self, pico_sequence *sequences, uint32_t n, pico_error *err) {
    const pico_known_drafts *known = self;
    double until = now_seconds();
    (void)err;
    for (uint32_t i = 0; i < n; i++) {
        pico_sequence *sequence = &sequences[i];
        uint32_t left = known->n_truth > sequence->n_token ? known->n_truth - sequence->n_token : 0;
        sequence->n_proposal = left < sequence->room ? left : sequence->room;
        for (uint32_t k = 0; k < sequence->n_proposal; k++) {
            sequence->proposal[k] = (pico_proposal){.token = draft_at(known, sequence->n_token + k),
                                                    .parent = (int32_t)k - 1};
        }
        until += known->seconds * sequence->n_proposal;
    }
    while (known->seconds > 0 && now_seconds() < until) {
    }
    return PICO_OK;
}

static pico_status observe(void *self, const pico_outcome *outcomes, uint32_t n,
                           const pico_tensor *hidden, pico_error *err) {
    (void)self;
    (void)outcomes;
    (void)n;
    (void)hidden;
    (void)err;
    return PICO_OK;
}

static void end(void *self) {
    (void)self;
}

const pico_decoder_ops pico_known_drafts_ops = {.struct_size = sizeof(pico_decoder_ops),
                                                .begin = begin,
                                                .propose = propose,
                                                .observe = observe,
                                                .end = end};
