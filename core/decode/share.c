/*
 * Prompts that several slots have in common: one slot, the leader, runs the prompt; the others, its
 * followers, wait with empty timelines, draw their first token from the leader's row of logits, each
 * with its own key, and go on with a copy of its timeline. See decode.h.
 */
#include <assert.h>
#include <string.h>

#include "decode/internal.h"

static int same_prompt(const pico_slot *leader, const pico_request *request) {
    return request->n_prompt == leader->n_prompt &&
           memcmp(request->prompt, leader->token, request->n_prompt * sizeof *leader->token) == 0;
}

pico_status pico_decode_start_shared(pico_decode *decode, uint32_t slot, uint32_t leader,
                                     const pico_request *request, pico_error *err) {
    assert(slot < decode->params.n_slots && leader < decode->params.n_slots && leader != slot);
    if (decode->n_beam != 0) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "decoder %s makes several answers of one prompt itself",
                         decode->params.decoder_name == NULL ? "" : decode->params.decoder_name);
    }
    assert(!decode->slot[slot].running);
    pico_status status = pico_request_check(decode, request, err);
    int waits = pico_slot_waits(decode, leader) && /* for its prompt, not for what is run again */
                decode->slot[leader].n_token == decode->slot[leader].n_prompt;
    if (status == PICO_OK && (!waits || decode->slot[leader].leader != PICO_NO_SLOT ||
                              !same_prompt(&decode->slot[leader], request))) {
        status = pico_fail(err, PICO_E_INVALID,
                           "slot %u cannot share a prompt with slot %u, which does not wait for it",
                           slot, leader);
    }
    if (status == PICO_OK) {
        status = pico_session_truncate(decode->session, slot, 0, err);
    }
    if (status == PICO_OK) {
        status = pico_slot_begin(decode, slot, request, 0, err);
    }
    if (status == PICO_OK && decode->slot[slot].running) {
        decode->slot[slot].leader = leader;
    }
    return status;
}

void pico_share_outputs(pico_decode *decode, uint32_t leader) {
    for (uint32_t s = 0; s < decode->n_slot; s++) {
        pico_slot *slot = &decode->slot[s];
        if (slot->leader == leader) {
            slot->prefilling = 1;
            slot->first_row = decode->slot[leader].first_row;
            slot->first_out = decode->slot[leader].first_out;
        }
    }
}

pico_status pico_share_timelines(pico_decode *decode, pico_error *err) {
    pico_status status = PICO_OK;
    for (uint32_t s = 0; status == PICO_OK && s < decode->n_slot; s++) {
        const pico_slot *slot = &decode->slot[s];
        if (slot->leader != PICO_NO_SLOT && slot->first_out != PICO_NO_OUTPUT) {
            status = pico_session_copy(decode->session, slot->leader, s, err);
        }
    }
    return status;
}

void pico_share_promote(pico_decode *decode, uint32_t leader) {
    uint32_t next = PICO_NO_SLOT;
    for (uint32_t s = 0; s < decode->n_slot; s++) {
        if (decode->slot[s].leader == leader &&
            (next == PICO_NO_SLOT || decode->slot[s].ordinal < decode->slot[next].ordinal)) {
            next = s;
        }
    }
    for (uint32_t s = 0; s < decode->n_slot; s++) {
        if (decode->slot[s].leader == leader) {
            decode->slot[s].leader = s == next ? PICO_NO_SLOT : next;
        }
    }
}
