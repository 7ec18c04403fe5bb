/*
 * Verification, the only place where drafts become text. accept = match: at each node the target's
 * token is drawn exactly as the plain decoder would draw it, and a draft is accepted when it is
 * that token; so the text is the plain decoder's, token for token. accept = rejection: Leviathan et
 * al. 2023 (arXiv 2211.17192): a draft x is accepted with probability min(1, p(x) / q(x)), else the
 * token comes from the normalised positive part of p - q; the text has the target's distribution.
 * Of the drafts at one node only the first is tried so. Whichever way a token was drawn, the draft
 * that is this token is followed: its row is the one that would come next anyway.
 */
#include <assert.h>
#include <string.h>

#include "decode/draw.h"
#include "decode/internal.h"
#include "host/host.h"

static pico_random_key key_of(const pico_slot *slot, uint32_t purpose) {
    return (pico_random_key){.seed = slot->request.seed,
                             .sample = slot->request.sample,
                             .purpose = purpose,
                             .t = (uint64_t)slot->n_token + slot->n_fresh};
}

/* The proposal below node (-1: the newest token) that carries token, or, with any = 1, the first
 * one; -1 if there is none. */
static int32_t child_of(const pico_slot *slot, int32_t node, int32_t token, int any) {
    for (uint32_t i = 0; i < slot->sequence.n_proposal; i++) {
        if (slot->proposal[i].parent == node && (any || slot->proposal[i].token == token)) {
            return (int32_t)i;
        }
    }
    return -1;
}

/* Draws with rejection against the first draft below node. */
static int32_t draw_rejection(pico_decode *decode, const pico_slot *slot, int32_t node) {
    const pico_dist *p = &decode->dist;
    int32_t child = child_of(slot, node, 0, 1);
    if (child < 0) {
        pico_random_key key = key_of(slot, PICO_RANDOM_TARGET);
        return pico_draw(p, &key);
    }
    const pico_proposal *draft = &slot->proposal[child];
    const int32_t one_token = draft->token;
    const double one_p = 1;
    const int32_t *q_token = &one_token;
    const double *q_p = &one_p;
    uint32_t n_q = 1;
    double q = 1;
    if (draft->q_count != 0) {
        q_token = slot->sequence.q_token + draft->q_begin;
        q_p = slot->sequence.q_p + draft->q_begin;
        n_q = draft->q_count;
        pico_dist listed = {.n = n_q,
                            .capacity = n_q,
                            .token = slot->sequence.q_token + draft->q_begin,
                            .p = slot->sequence.q_p + draft->q_begin};
        q = pico_dist_p(&listed, draft->token);
    }
    pico_random_key accept = key_of(slot, PICO_RANDOM_ACCEPT);
    if (pico_random_uniform(&accept, 0) * q < pico_dist_p(p, draft->token)) {
        return draft->token;
    }
    pico_random_key residual = key_of(slot, PICO_RANDOM_RESIDUAL);
    pico_dist *rest = &decode->rest; /* p itself is still needed by stateful samplers */
    rest->n = p->n;
    memcpy(rest->token, p->token, p->n * sizeof *p->token);
    memcpy(rest->p, p->p, p->n * sizeof *p->p);
    (void)pico_dist_residual(rest, q_token, q_p, n_q);
    return pico_draw(rest, &residual);
}

/* Whether the slot's answer is over after the fresh tokens, by ids and counts alone. */
static int is_over(const pico_decode *decode, const pico_slot *slot, int32_t token) {
    uint64_t made = (uint64_t)slot->n_token + slot->n_fresh - slot->n_prompt;
    return made >= slot->request.max_tokens || pico_slot_ends_at(decode, slot, token);
}

pico_status pico_verify(pico_decode *decode, pico_slot *slot, const pico_forward_out *out,
                        pico_error *err) {
    _Alignas(16) unsigned char state[2][MAX_STATE];
    const pico_sampler_ops *sampler = decode->params.sampler;
    int32_t node = -1;
    memcpy(state[0], slot->state, sizeof slot->state);
    slot->n_fresh = 0;
    for (;;) {
        uint32_t offset = (uint32_t)(node + 1); /* row of the newest token, then the drafts' */
        uint32_t row = slot->first_out + (slot->prefilling ? 0 : offset);
        pico_status status = pico_sampling_dist(decode, out, row, state[0], err);
        if (status != PICO_OK) {
            return status;
        }
        pico_random_key key = key_of(slot, PICO_RANDOM_TARGET);
        int32_t token = decode->params.accept == PICO_ACCEPT_REJECTION
                            ? draw_rejection(decode, slot, node)
                            : pico_draw(&decode->dist, &key);
        if (token < 0) {
            return pico_fail(err, PICO_E_INVALID, "the sampler gave no token a probability");
        }
        if (sampler->state_next != NULL) {
            sampler->state_next(decode->params.sampler_self, state[0], &decode->dist, token,
                                state[1]);
            memcpy(state[0], state[1], sizeof state[0]);
        }
        slot->path[slot->n_fresh] = slot->first_row + offset;
        slot->fresh_row[slot->n_fresh] = row;
        slot->fresh[slot->n_fresh++] = token;
        int32_t child = child_of(slot, node, token, 0);
        if (child < 0 || is_over(decode, slot, token)) {
            break;
        }
        node = child;
    }
    assert(slot->n_fresh <= MAX_ROOM + 1);
    memcpy(slot->next_state, state[0], sizeof slot->next_state);
    return PICO_OK;
}
