/*
 * One round of a decoder that steers: what each hypothesis may go on with, what the decoder makes of
 * it, and doing that with as few copies of timelines as possible: the first child of a hypothesis
 * keeps its slot. The other children take slots that are free, and their timelines become copies at
 * the start of the next round, when a failure still leaves everything to be tried again.
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "decode/internal.h"

pico_status pico_beam_copy_timelines(pico_decode *decode, pico_error *err) {
    pico_status status = PICO_OK;
    for (uint32_t s = 0; status == PICO_OK && s < decode->n_slot; s++) {
        pico_slot *slot = &decode->slot[s];
        if (slot->origin != PICO_NO_SLOT) {
            status = pico_session_copy(decode->session, slot->origin, s, err);
            slot->origin = status == PICO_OK ? PICO_NO_SLOT : slot->origin;
        }
    }
    return status;
}

/* ---- what the decoder sees ---- */

/* The continuations of a live hypothesis; returns how many have a probability. */
static uint32_t list_continuations(pico_decode *decode, const pico_slot *slot,
                                   pico_continuation *out) {
    uint32_t n = 0, k = decode->need.k;
    const int32_t *token = decode->host_index + (size_t)slot->first_out * k;
    const float *logit = decode->host_value + (size_t)slot->first_out * k;
    double log_sum = (double)decode->host_log_sum[slot->first_out];
    for (; n < k && token[n] >= 0 && isfinite(logit[n]) && isfinite(log_sum); n++) {
        out[n] = (pico_continuation){
            .token = token[n],
            .ends = pico_slot_ends_at(decode, slot, token[n]) ||
                    pico_text_would_stop(&slot->text, token[n], decode->scratch),
            .log_p = (double)logit[n] - log_sum};
    }
    return n;
}

/* Tokens that the answer can have at most. */
static uint32_t max_new_of(const pico_decode *decode, const pico_beam *beam) {
    uint64_t left = (uint64_t)pico_session_max_positions(decode->session) + 1 - beam->n_prompt;
    return (uint32_t)(beam->request.max_tokens < left ? beam->request.max_tokens : left);
}

static pico_status describe(pico_decode *decode, const pico_beam *beam, pico_advance *out,
                            pico_error *err) {
    uint32_t n_any = 0;
    for (uint32_t i = 0; i < beam->n_live; i++) {
        const pico_slot *slot = &decode->slot[beam->live[i]];
        pico_continuation *list = decode->continuation + (size_t)i * decode->need.k;
        decode->hypothesis[i] =
            (pico_hypothesis){.token = slot->token,
                              .n_token = slot->n_token,
                              .n_continuation = list_continuations(decode, slot, list),
                              .continuation = list,
                              .score = beam->score[i]};
        n_any += decode->hypothesis[i].n_continuation;
    }
    for (uint32_t i = 0; i < beam->n_ended; i++) {
        decode->ended_score[i] = beam->ended[i].score;
    }
    *out = (pico_advance){.struct_size = sizeof *out,
                          .slot = beam->first / decode->n_beam,
                          .n_prompt = beam->n_prompt,
                          .n_new = decode->hypothesis[0].n_token + 1 - beam->n_prompt,
                          .max_new = max_new_of(decode, beam),
                          .n_hypothesis = beam->n_live,
                          .hypothesis = decode->hypothesis,
                          .ended = decode->ended_score,
                          .n_ended = beam->n_ended,
                          .capacity = 2 * decode->n_beam,
                          .extension = decode->extension};
    return n_any != 0 ? PICO_OK
                      : pico_fail(err, PICO_E_INVALID,
                                  "no logit is a number above -inf; are they all NaN, or all "
                                  "tokens banned?");
}

/* ---- what the decoder says ---- */

static uint32_t finish_of(const pico_decode *decode, const pico_beam *beam,
                          const pico_advance *round, const pico_continuation *c) {
    if (c->ends) {
        int is_end = pico_slot_ends_at(decode, &decode->slot[beam->live[0]], c->token);
        return is_end ? PICO_FINISH_END : PICO_FINISH_STOP;
    }
    if (round->n_new < round->max_new) {
        return PICO_FINISH_NONE;
    }
    return round->n_new >= beam->request.max_tokens ? PICO_FINISH_LENGTH : PICO_FINISH_CONTEXT;
}

/* An extension names a pair that exists, and no earlier one. */
static pico_status check_extension(const pico_decode *decode, const pico_advance *round, uint32_t i,
                                   pico_error *err) {
    const char *name = decode->params.decoder_name == NULL ? "" : decode->params.decoder_name;
    const pico_extension *e = &round->extension[i];
    if (e->parent >= round->n_hypothesis ||
        e->continuation >= round->hypothesis[e->parent].n_continuation || !isfinite(e->score)) {
        return pico_fail(err, PICO_E_ABI,
                         "decoder %s: extension[%u] has parent %u of %u, continuation %u and score "
                         "%g; expected a continuation of a live hypothesis and a finite score",
                         name, i, e->parent, round->n_hypothesis, e->continuation, e->score);
    }
    for (uint32_t j = 0; j < i; j++) {
        if (round->extension[j].parent == e->parent &&
            round->extension[j].continuation == e->continuation) {
            return pico_fail(err, PICO_E_ABI, "decoder %s: extension[%u] is extension[%u] again",
                             name, i, j);
        }
    }
    return PICO_OK;
}

/* The checked answer as children of the sequence. */
static pico_status take_answer(pico_decode *decode, pico_beam *beam, const pico_advance *round,
                               pico_error *err) {
    const char *name = decode->params.decoder_name == NULL ? "" : decode->params.decoder_name;
    uint32_t n_on = 0, n_over = beam->n_ended;
    if (round->n_extension > round->capacity) {
        return pico_fail(err, PICO_E_ABI, "decoder %s: n_extension is %u, but capacity is %u", name,
                         round->n_extension, round->capacity);
    }
    for (uint32_t i = 0; i < round->n_extension; i++) {
        const pico_extension *e = &round->extension[i];
        pico_status status = check_extension(decode, round, i, err);
        if (status != PICO_OK) {
            return status;
        }
        const pico_continuation *c = &round->hypothesis[e->parent].continuation[e->continuation];
        pico_child *child = &beam->child[i];
        *child = (pico_child){.parent = e->parent,
                              .slot = PICO_NO_SLOT,
                              .token = c->token,
                              .finish = finish_of(decode, beam, round, c),
                              .score = e->score};
        n_on += child->finish == PICO_FINISH_NONE;
        n_over += child->finish != PICO_FINISH_NONE;
    }
    if (n_on > decode->n_beam || (n_over == 0 && (n_on == 0 || round->done))) {
        return pico_fail(err, PICO_E_ABI,
                         "decoder %s: %u hypotheses go on and %u have ended; expected at most %u, "
                         "and one that has ended when the sequence is over",
                         name, n_on, n_over, decode->n_beam);
    }
    beam->n_child = round->n_extension;
    beam->done = round->done != 0 || n_on == 0;
    beam->chosen = 1;
    return PICO_OK;
}

pico_status pico_beam_choose(pico_decode *decode, pico_error *err) {
    pico_status status = PICO_OK;
    for (uint32_t i = 0; i < decode->params.n_slots; i++) {
        decode->beam[i].chosen = 0;
    }
    for (uint32_t i = 0; status == PICO_OK && i < decode->params.n_slots; i++) {
        pico_beam *beam = &decode->beam[i];
        pico_advance round;
        pico_error inner = {0};
        if (!beam->running || decode->slot[beam->live[0]].first_out == PICO_NO_OUTPUT) {
            continue; /* its prompt is not in yet */
        }
        status = describe(decode, beam, &round, err);
        if (status != PICO_OK) {
            break;
        }
        status = decode->params.decoder->advance(decode->params.decoder_self, &round, &inner);
        status = status == PICO_OK ? take_answer(decode, beam, &round, err)
                                   : pico_plugin_failed("decoder", decode->params.decoder_name,
                                                        "advance", status, &inner, err);
    }
    return status;
}

/* ---- doing it ---- */

/* Makes a slot another hypothesis with the tokens of `from`; its timeline follows. */
static void fork_slot(pico_decode *decode, uint32_t from_index, uint32_t to_index) {
    const pico_slot *from = &decode->slot[from_index];
    pico_slot *to = &decode->slot[to_index];
    to->request = from->request;
    to->finish = PICO_FINISH_NONE;
    to->n_token = from->n_token;
    to->n_prompt = from->n_prompt;
    to->n_reused = from->n_reused;
    to->base = from->base;
    to->n_fill = from->n_fill;
    memcpy(to->token, from->token, from->n_token * sizeof *to->token);
    pico_sampling_copy(to, from);
    pico_text_copy(&to->text, &from->text);
    to->origin = from_index;
    pico_status status = pico_session_truncate(decode->session, to_index, 0, NULL);
    assert(status == PICO_OK); /* everything can be emptied */
    (void)status;
}

/* Gives each child that goes on a slot: its parent's if it is the first, else a free one. */
static void place_children(const pico_decode *decode, pico_beam *beam) {
    uint32_t taken[PICO_BEAM_MAX] = {0}; /* of slot first + i: 1: a child has it */
    uint32_t next = 0;
    for (uint32_t i = 0; i < beam->n_child; i++) {
        pico_child *child = &beam->child[i];
        uint32_t slot = beam->live[child->parent];
        if (child->finish == PICO_FINISH_NONE && !taken[slot - beam->first]) {
            taken[slot - beam->first] = 1;
            child->slot = slot;
        }
    }
    for (uint32_t i = 0; i < beam->n_child; i++) {
        pico_child *child = &beam->child[i];
        if (child->finish == PICO_FINISH_NONE && child->slot == PICO_NO_SLOT) {
            while (taken[next]) {
                next++;
            }
            assert(next < decode->n_beam);
            taken[next] = 1;
            child->slot = beam->first + next;
        }
    }
}

/* The children that go on become the live hypotheses. */
static void go_on(pico_decode *decode, pico_beam *beam) {
    uint32_t parent_slot[PICO_BEAM_MAX], n_live = 0;
    memcpy(parent_slot, beam->live, sizeof parent_slot);
    place_children(decode, beam);
    for (uint32_t i = 0; i < beam->n_child; i++) { /* while every parent is as it was */
        const pico_child *child = &beam->child[i];
        if (child->slot != PICO_NO_SLOT && child->slot != parent_slot[child->parent]) {
            fork_slot(decode, parent_slot[child->parent], child->slot);
        }
    }
    for (uint32_t s = beam->first; s < beam->first + decode->n_beam; s++) {
        decode->slot[s].running = 0;
    }
    for (uint32_t i = 0; i < beam->n_child; i++) {
        const pico_child *child = &beam->child[i];
        if (child->slot != PICO_NO_SLOT) {
            pico_slot *slot = &decode->slot[child->slot];
            slot->token[slot->n_token++] = child->token;
            slot->running = 1;
            pico_sampling_remember(slot, child->token);
            (void)pico_text_add(&slot->text, child->token); /* completes no stop string */
            beam->live[n_live] = child->slot;
            beam->score[n_live++] = child->score;
        }
    }
    beam->n_live = n_live;
}

void pico_beam_apply(pico_decode *decode) {
    for (uint32_t b = 0; b < decode->params.n_slots; b++) {
        pico_beam *beam = &decode->beam[b];
        if (!beam->chosen) {
            continue;
        }
        for (uint32_t i = 0; i < beam->n_child; i++) {
            const pico_child *child = &beam->child[i];
            if (child->finish != PICO_FINISH_NONE) {
                pico_beam_keep(decode, beam, &decode->slot[beam->live[child->parent]], child->token,
                               child->finish, child->score);
            }
        }
        if (beam->done) {
            pico_beam_finish(decode, beam, PICO_FINISH_NONE);
        } else {
            go_on(decode, beam);
        }
        beam->chosen = 0;
    }
}
