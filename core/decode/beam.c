/*
 * Sequences of a decoder that steers: opening, starting, ending and reading them. Each has n_beam
 * slots of the session for its live hypotheses; those that have ended are kept as tokens alone. The
 * rounds are beam_round.c's.
 */
#include <assert.h>
#include <string.h>

#include "decode/internal.h"

/* ---- opening ---- */

pico_status pico_beam_open(pico_decode *decode, pico_error *err) {
    pico_arena *arena = &decode->arena;
    uint32_t n_beam = decode->n_beam;
    size_t room = (size_t)pico_decode_max_timeline(decode) + 2;
    int ok = 1;
    decode->beam = pico_arena_alloc(arena, decode->params.n_slots, sizeof *decode->beam);
    decode->hypothesis = pico_arena_alloc(arena, n_beam, sizeof *decode->hypothesis);
    decode->continuation =
        pico_arena_alloc(arena, (size_t)n_beam * decode->need.k, sizeof *decode->continuation);
    decode->extension = pico_arena_alloc(arena, 2 * (size_t)n_beam, sizeof *decode->extension);
    decode->ended_score = pico_arena_alloc(arena, n_beam, sizeof *decode->ended_score);
    decode->scratch = pico_arena_alloc(arena, decode->slot[0].text.capacity + 1, 1);
    if (decode->beam == NULL || decode->hypothesis == NULL || decode->continuation == NULL ||
        decode->extension == NULL || decode->ended_score == NULL || decode->scratch == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    for (uint32_t i = 0; i < decode->params.n_slots; i++) {
        pico_beam *beam = &decode->beam[i];
        beam->first = i * n_beam;
        for (uint32_t e = 0; e <= n_beam; e++) {
            beam->ended[e].token = pico_arena_alloc(arena, room, sizeof *beam->ended[e].token);
            ok = ok && beam->ended[e].token != NULL;
        }
    }
    return ok ? PICO_OK : pico_fail(err, PICO_E_NOMEM, "out of memory");
}

/* ---- starting and ending ---- */

pico_status pico_beam_start(pico_decode *decode, uint32_t index, const pico_request *request,
                            pico_error *err) {
    pico_beam *beam = &decode->beam[index];
    uint32_t first = beam->first, common = 0;
    assert(!beam->running);
    for (uint32_t s = beam->first; s < beam->first + decode->n_beam; s++) {
        uint32_t more = pico_slot_common(decode, s, request);
        first = more > common ? s : first;
        common = more > common ? more : common;
    }
    pico_status status = pico_slot_rewind(decode, first, &common, err);
    if (status == PICO_OK) {
        status = pico_slot_begin(decode, first, request, common, err);
    }
    if (status != PICO_OK) {
        return status;
    }
    pico_slot *slot = &decode->slot[first];
    beam->request = *request;
    beam->n_prompt = slot->n_prompt;
    beam->n_reused = common;
    beam->running = slot->running;
    beam->finish = slot->finish;
    beam->live[0] = first;
    beam->score[0] = 0;
    beam->n_live = 1;
    beam->n_ended = 0;
    if (!beam->running) { /* no tokens are wanted */
        pico_beam_keep(decode, beam, slot, -1, slot->finish, 0);
    }
    return PICO_OK;
}

void pico_beam_keep(pico_decode *decode, pico_beam *beam, const pico_slot *parent, int32_t token,
                    uint32_t finish, double score) {
    uint32_t n_beam = decode->n_beam, at = beam->n_ended;
    if (at != 0 && at == n_beam && score <= beam->ended[at - 1].score) {
        return;
    }
    pico_ended made = beam->ended[at]; /* the spare one */
    made.score = score;
    made.finish = finish;
    made.n_token = parent->n_token;
    memcpy(made.token, parent->token, parent->n_token * sizeof *made.token);
    if (token >= 0) {
        made.token[made.n_token++] = token;
    }
    for (; at > 0 && beam->ended[at - 1].score < score; at--) {
        beam->ended[at] = beam->ended[at - 1];
    }
    beam->ended[at] = made;
    beam->n_ended += beam->n_ended < n_beam ? 1 : 0; /* else the worst one is spare now */
}

/* Hands out the text of an answer, as a stream of its tokens would have been. */
static void hand_out(pico_decode *decode, const pico_beam *beam, const pico_ended *ended,
                     pico_text_fn fn, void *arg) {
    pico_text_out *text = &decode->slot[beam->first].text;
    const pico_request *request = &beam->request;
    uint32_t end = ended->n_token - (ended->finish == PICO_FINISH_END ? 1 : 0);
    int stopped = 0;
    pico_text_begin(text, ended->token[beam->n_prompt - 1], request->stop, request->n_stop, fn,
                    arg);
    for (uint32_t i = beam->n_prompt; i < end && !stopped; i++) {
        stopped = pico_text_add(text, ended->token[i]);
    }
    if (!stopped) {
        pico_text_end(text);
    }
    text->fn = NULL;
}

void pico_beam_finish(pico_decode *decode, pico_beam *beam, uint32_t why) {
    if (beam->n_ended == 0) { /* cancelled: the best so far */
        pico_beam_keep(decode, beam, &decode->slot[beam->live[0]], -1, why, beam->score[0]);
    }
    for (uint32_t s = beam->first; s < beam->first + decode->n_beam; s++) {
        decode->slot[s].running = 0;
        decode->slot[s].origin = PICO_NO_SLOT;
    }
    beam->running = 0;
    beam->finish = why == PICO_FINISH_NONE ? beam->ended[0].finish : why;
    decode->stats.n_generated += beam->ended[0].n_token - beam->n_prompt;
    if (beam->request.on_text != NULL) {
        hand_out(decode, beam, &beam->ended[0], beam->request.on_text, beam->request.arg);
    }
    if (decode->params.decoder->end_sequence != NULL) {
        decode->params.decoder->end_sequence(decode->params.decoder_self,
                                             beam->first / decode->n_beam);
    }
}

/* ---- reading ---- */

static pico_slot_state state_of(const pico_beam *beam, const pico_ended *ended) {
    return (pico_slot_state){.finish = ended->finish,
                             .token = ended->token,
                             .n_token = ended->n_token,
                             .n_prompt = beam->n_prompt,
                             .n_reused = beam->n_reused};
}

pico_slot_state pico_beam_state(const pico_beam *beam, const pico_slot *slots) {
    pico_slot_state state = {.finish = beam->finish};
    if (!beam->running && beam->n_ended != 0) {
        state = state_of(beam, &beam->ended[0]);
        state.finish = beam->finish;
    } else if (beam->running) {
        const pico_slot *best = &slots[beam->live[0]];
        state = (pico_slot_state){.token = best->token,
                                  .n_token = best->n_token,
                                  .n_prompt = beam->n_prompt,
                                  .n_reused = beam->n_reused};
    }
    return state;
}

uint32_t pico_decode_n_beam(const pico_decode *decode) {
    return decode->n_beam;
}

uint32_t pico_decode_n_best(const pico_decode *decode, uint32_t slot) {
    assert(slot < decode->params.n_slots);
    return decode->n_beam == 0 || decode->beam[slot].running ? 0 : decode->beam[slot].n_ended;
}

pico_slot_state pico_decode_best(const pico_decode *decode, uint32_t slot, uint32_t rank,
                                 double *score) {
    assert(rank < pico_decode_n_best(decode, slot));
    const pico_ended *ended = &decode->beam[slot].ended[rank];
    *score = ended->score;
    return state_of(&decode->beam[slot], ended);
}

void pico_decode_best_text(pico_decode *decode, uint32_t slot, uint32_t rank, pico_text_fn fn,
                           void *arg) {
    assert(rank < pico_decode_n_best(decode, slot));
    hand_out(decode, &decode->beam[slot], &decode->beam[slot].ended[rank], fn, arg);
}
