/*
 * One round of the loop: who gets rows, what happens to the tokens that come out. See decode.h.
 */
#include <string.h>
#include <time.h>

#include "decode/internal.h"

static double now_seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- one round ---- */

int pico_slot_waits(const pico_decode *decode, uint32_t s) {
    const pico_slot *slot = &decode->slot[s];
    return slot->running && slot->n_token == slot->n_fill &&
           slot->base + pico_session_length(decode->session, s) < slot->n_fill;
}

static int is_live(const pico_decode *decode, uint32_t s) {
    return decode->slot[s].running && !pico_slot_waits(decode, s);
}

/* How many drafts the slot can use now. */
static uint32_t room_of(const pico_decode *decode, const pico_slot *slot) {
    uint64_t positions = pico_session_max_positions(decode->session) - (slot->n_token - slot->base);
    uint64_t left = slot->request.max_tokens - (slot->n_token - slot->n_prompt) - 1;
    uint64_t timeline = pico_decode_max_timeline(decode) - slot->n_token;
    uint64_t room = decode->decoder_need.max_proposals;
    room = positions < room ? positions : room;
    room = timeline < room ? timeline : room;
    return (uint32_t)(left < room ? left : room);
}

/* What a decoder proposed for one sequence must be something that can be verified. */
static pico_status check_proposals(const pico_decode *decode, const pico_slot *slot,
                                   pico_error *err) {
    const pico_sequence *sequence = &slot->sequence;
    const char *name = decode->params.decoder_name == NULL ? "" : decode->params.decoder_name;
    if (sequence->n_proposal > sequence->room || sequence->n_q > sequence->q_capacity) {
        return pico_fail(err, PICO_E_ABI,
                         "decoder %s: n_proposal is %u and n_q %u, but room is %u and q_capacity "
                         "%u",
                         name, sequence->n_proposal, sequence->n_q, sequence->room,
                         sequence->q_capacity);
    }
    for (uint32_t i = 0; i < sequence->n_proposal; i++) {
        const pico_proposal *draft = &slot->proposal[i];
        uint64_t q_end = (uint64_t)draft->q_begin + draft->q_count;
        if (draft->token < 0 || (uint32_t)draft->token >= decode->n_vocab) {
            return pico_fail(err, PICO_E_ABI, "decoder %s: proposal[%u].token is %d, not in 0..%u",
                             name, i, draft->token, decode->n_vocab - 1);
        }
        if (draft->parent < -1 || draft->parent >= (int32_t)i) {
            return pico_fail(
                err, PICO_E_ABI,
                "decoder %s: proposal[%u].parent is %d; expected -1 or the index of an "
                "earlier proposal",
                name, i, draft->parent);
        }
        if (q_end > sequence->n_q) {
            return pico_fail(err, PICO_E_ABI,
                             "decoder %s: proposal[%u] takes q up to %llu, but n_q is %u", name, i,
                             (unsigned long long)q_end, sequence->n_q);
        }
        double q = draft->q_count == 0 ? 1 : 0;
        for (uint32_t j = draft->q_begin; j < q_end; j++) {
            q = sequence->q_token[j] == draft->token ? sequence->q_p[j] : q;
        }
        if (!(q > 0 && q <= 1.0 + 1e-9)) {
            return pico_fail(err, PICO_E_ABI,
                             "decoder %s: proposal[%u] was drawn from a q that gives its token %d "
                             "the probability %g",
                             name, i, draft->token, q);
        }
    }
    return PICO_OK;
}

static void forget_round(pico_decode *decode) {
    for (uint32_t s = 0; s < decode->n_slot; s++) {
        pico_slot *slot = &decode->slot[s];
        slot->n_row = 0;
        slot->first_out = PICO_NO_OUTPUT;
        slot->sequence.n_proposal = 0;
        slot->sequence.n_q = 0;
    }
}

static pico_status propose(pico_decode *decode, pico_error *err) {
    uint32_t n = 0;
    for (uint32_t s = 0; s < decode->n_slot; s++) {
        pico_slot *slot = &decode->slot[s];
        if (is_live(decode, s)) {
            slot->sequence.n_token = slot->n_token;
            slot->sequence.room = room_of(decode, slot);
            decode->round.is_first |= slot->n_live_round == 0;
            decode->round.is_refresh |= slot->n_live_round == 0 || slot->n_idle_round != 0;
            decode->sequence[n] = slot->sequence;
            decode->sequence_slot[n++] = s;
        }
    }
    decode->round.n_live = n;
    if (n == 0) {
        return PICO_OK;
    }
    uint32_t limit = pico_draft_length_choose(&decode->drafts, n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t room = decode->sequence[i].room;
        decode->sequence[i].room = room < limit ? room : limit;
        decode->slot[decode->sequence_slot[i]].sequence.room = decode->sequence[i].room;
    }
    double begin = now_seconds();
    pico_error inner = {0};
    pico_status status =
        decode->params.decoder->propose(decode->params.decoder_self, decode->sequence, n, &inner);
    decode->round.draft_seconds = now_seconds() - begin;
    decode->stats.propose_seconds += decode->round.draft_seconds;
    if (status != PICO_OK) {
        return pico_plugin_failed("decoder", decode->params.decoder_name, "propose", status, &inner,
                                  err);
    }
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        pico_slot *slot = &decode->slot[decode->sequence_slot[i]];
        slot->sequence.n_proposal = decode->sequence[i].n_proposal;
        slot->sequence.n_q = decode->sequence[i].n_q;
        status = check_proposals(decode, slot, err);
    }
    return status;
}

/* Rows of a live slot: its newest token, then its drafts. */
static uint32_t add_live_rows(pico_decode *decode, pico_slot *slot, uint32_t s, uint32_t n,
                              uint32_t *n_out) {
    uint32_t want = PICO_ROW_LOGITS;
    const int32_t *token = slot->token + slot->base;
    int32_t newest_pos = (int32_t)(slot->n_token - slot->base) - 1;
    slot->first_row = n;
    slot->first_out = *n_out;
    slot->prefilling = 0;
    slot->n_row = slot->sequence.n_proposal + 1;
    decode->row[n] = (pico_row){.token = token[newest_pos],
                                .prev = newest_pos == 0 ? -1 : token[newest_pos - 1],
                                .slot = s,
                                .pos = newest_pos,
                                .parent = -1,
                                .want = want};
    for (uint32_t i = 0; i < slot->sequence.n_proposal; i++) {
        const pico_proposal *draft = &slot->proposal[i];
        const pico_row *parent = &decode->row[n + (uint32_t)(draft->parent + 1)];
        decode->row[n + 1 + i] = (pico_row){.token = draft->token,
                                            .prev = parent->token,
                                            .slot = s,
                                            .pos = parent->pos + 1,
                                            .parent = (int32_t)n + draft->parent + 1,
                                            .want = want};
    }
    *n_out += slot->n_row;
    return n + slot->n_row;
}

/* The next chunk of a waiting prompt; chunks end at the same places whoever else is there. */
static uint32_t add_prompt_rows(pico_decode *decode, pico_slot *slot, uint32_t s, uint32_t n,
                                uint32_t *n_out) {
    uint32_t begin = pico_session_length(decode->session, s);
    uint32_t left = slot->n_fill - slot->base - begin;
    uint32_t rows = left < decode->params.ubatch ? left : decode->params.ubatch;
    slot->prefilling = 1;
    slot->n_row = rows;
    slot->first_row = n;
    const int32_t *token = slot->token + slot->base;
    for (uint32_t i = 0; i < rows; i++) {
        uint32_t pos = begin + i;
        decode->row[n + i] = (pico_row){.token = token[pos],
                                        .prev = pos == 0 ? -1 : token[pos - 1],
                                        .slot = s,
                                        .pos = (int32_t)pos,
                                        .parent = i == 0 ? -1 : (int32_t)(n + i - 1)};
    }
    if (rows == left) {
        decode->row[n + rows - 1].want = PICO_ROW_LOGITS;
        slot->first_out = (*n_out)++;
        pico_share_outputs(decode, s);
    }
    return n + rows;
}

/* The slot that has waited longest for its prompt to be run. */
static uint32_t next_prompt(const pico_decode *decode) {
    uint32_t first = PICO_NO_SLOT;
    for (uint32_t s = 0; s < decode->n_slot; s++) {
        if (pico_slot_waits(decode, s) && decode->slot[s].leader == PICO_NO_SLOT &&
            (first == PICO_NO_SLOT || decode->slot[s].ordinal < decode->slot[first].ordinal)) {
            first = s;
        }
    }
    return first;
}

/* *prompt gets the slot whose prompt rides along, or PICO_NO_SLOT. */
static uint32_t gather_rows(pico_decode *decode, uint32_t *prompt) {
    uint32_t n = 0, n_out = 0;
    for (uint32_t s = 0; s < decode->n_slot; s++) {
        if (is_live(decode, s)) {
            n = add_live_rows(decode, &decode->slot[s], s, n, &n_out);
        }
    }
    *prompt = next_prompt(decode);
    return *prompt == PICO_NO_SLOT
               ? n
               : add_prompt_rows(decode, &decode->slot[*prompt], *prompt, n, &n_out);
}

/* Appends the fresh tokens until one of them ends the answer; returns how many were taken. */
static uint32_t take_fresh(pico_decode *decode, pico_slot *slot) {
    uint32_t taken = 0, why = PICO_FINISH_NONE;
    while (taken < slot->n_fresh && why == PICO_FINISH_NONE) {
        int32_t token = slot->fresh[taken++];
        slot->token[slot->n_token++] = token;
        pico_sampling_remember(slot, token);
        if (pico_slot_ends_at(decode, slot, token)) {
            why = PICO_FINISH_END;
        } else if (pico_text_add(&slot->text, token)) {
            why = PICO_FINISH_STOP;
        } else if (slot->n_token - slot->n_prompt >= slot->request.max_tokens) {
            why = PICO_FINISH_LENGTH;
        } else if (slot->n_token > pico_decode_max_timeline(decode)) {
            why = PICO_FINISH_CONTEXT;
        }
    }
    memcpy(slot->state, slot->next_state, sizeof slot->state);
    slot->finish = why;
    return taken;
}

/* Keeps the accepted rows of a slot whose drafts were a tree; those of a chain are in the pages. */
static pico_status keep_path(pico_decode *decode, const pico_slot *slot, uint32_t s,
                             pico_error *err) {
    int is_tree = slot->base + pico_session_length(decode->session, s) == slot->n_token - 1;
    return is_tree ? pico_session_commit(decode->session, s, slot->path, slot->n_fresh, err)
                   : PICO_OK;
}

/* Leaves what the timeline needs in the pages: all but the newest token; or nothing, when the context
 * is full and its last half must be run again. */
static pico_status trim(pico_decode *decode, pico_slot *slot, uint32_t s, pico_error *err) {
    if (slot->n_token - slot->base > pico_session_max_positions(decode->session) &&
        slot->finish == PICO_FINISH_NONE) {
        slot->base = pico_decode_base(decode, slot->n_token);
        slot->n_fill = slot->n_token;
        return pico_session_truncate(decode->session, s, 0, err);
    }
    return slot->prefilling
               ? PICO_OK
               : pico_session_truncate(decode->session, s, slot->n_token - slot->base - 1, err);
}

/* Draws the tokens of every slot that has outputs, and keeps what they stand on. */
static pico_status verify(pico_decode *decode, const pico_forward_out *out, pico_error *err) {
    pico_status status = PICO_OK;
    for (uint32_t s = 0; status == PICO_OK && s < decode->n_slot; s++) {
        if (decode->slot[s].first_out != PICO_NO_OUTPUT) {
            status = pico_verify(decode, &decode->slot[s], out, err);
        }
    }
    for (uint32_t s = 0; status == PICO_OK && s < decode->n_slot; s++) {
        if (decode->slot[s].n_row != 0 && !decode->slot[s].prefilling) {
            status = keep_path(decode, &decode->slot[s], s, err);
        }
    }
    return status == PICO_OK ? pico_share_timelines(decode, err) : status;
}

static pico_status accept(pico_decode *decode, const pico_forward_out *out, pico_error *err) {
    uint32_t n = 0;
    pico_status status = PICO_OK;
    for (uint32_t s = 0; s < decode->n_slot; s++) {
        pico_slot *slot = &decode->slot[s];
        if (slot->first_out == PICO_NO_OUTPUT) {
            continue;
        }
        slot->leader = PICO_NO_SLOT; /* it has a timeline of its own now */
        uint32_t n_drafted = slot->prefilling ? 0 : slot->sequence.n_proposal;
        uint32_t taken = take_fresh(decode, slot);
        uint32_t n_accepted = taken < slot->n_fresh ? taken : slot->n_fresh - 1;
        status = trim(decode, slot, s, err);
        if (status != PICO_OK) {
            return status;
        }
        if (!slot->prefilling) {
            pico_count_drafts(decode, slot, n_accepted);
            decode->round.n_token += taken;
        }
        decode->stats.n_generated += taken;
        decode->stats.n_drafted += n_drafted;
        decode->stats.n_accepted += n_accepted;
        decode->outcome[n++] =
            (pico_outcome){.slot = s,
                           .n_proposed = n_drafted,
                           .n_accepted = n_accepted,
                           .n_token = taken,
                           .token = slot->token + slot->n_token - taken,
                           .hidden_row = decode->decoder_need.want_hidden ? slot->fresh_row : NULL,
                           .finished = slot->finish != PICO_FINISH_NONE};
    }
    if (n != 0) {
        pico_error inner = {0};
        double begin = now_seconds();
        status = decode->params.decoder->observe(
            decode->params.decoder_self, decode->outcome, n,
            decode->decoder_need.want_hidden ? &out->hidden : NULL, &inner);
        decode->round.draft_seconds += now_seconds() - begin;
        if (status != PICO_OK) {
            status = pico_plugin_failed("decoder", decode->params.decoder_name, "observe", status,
                                        &inner, err);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        pico_slot *slot = &decode->slot[decode->outcome[i].slot];
        if (slot->finish != PICO_FINISH_NONE) {
            pico_slot_finish(decode, slot, slot->finish);
        }
    }
    return status;
}

/* After a failure behind the forward: the timelines as they were before the round. */
static void restore(pico_decode *decode) {
    for (uint32_t s = 0; s < decode->n_slot; s++) {
        pico_slot *slot = &decode->slot[s];
        uint32_t length = pico_session_length(decode->session, s);
        int follows = slot->leader != PICO_NO_SLOT;
        if ((slot->n_row == 0 && !follows) || length == 0) {
            continue;
        }
        uint32_t before = follows            ? 0
                          : slot->prefilling ? length - slot->n_row
                                             : slot->n_token - slot->base - 1;
        if (before < length) {
            (void)pico_session_truncate(decode->session, s, before, NULL);
        }
    }
}

pico_status pico_decode_round(pico_decode *decode, uint32_t *n_live, pico_error *err) {
    double begin = now_seconds();
    uint32_t prompt = PICO_NO_SLOT;
    pico_forward_out out = {0};
    forget_round(decode);
    decode->round = (pico_draft_round){0};
    pico_status status =
        decode->n_beam != 0 ? pico_beam_copy_timelines(decode, err) : propose(decode, err);
    if (status != PICO_OK) {
        return status;
    }
    uint32_t n = gather_rows(decode, &prompt);
    const pico_slot *chunk = prompt == PICO_NO_SLOT ? NULL : &decode->slot[prompt];
    uint32_t n_chunk = chunk == NULL ? 0 : chunk->n_row;
    int again = chunk != NULL && chunk->n_fill != chunk->n_prompt;
    decode->round.n_rows = n;
    if (n != 0) {
        double forward = now_seconds();
        status = pico_session_forward(decode->session, decode->row, n, &out, err);
        if (status != PICO_OK) {
            return status;
        }
        status = pico_sampling_prepare(decode, &out, err);
        if (status == PICO_OK) {
            status =
                decode->n_beam != 0 ? pico_beam_choose(decode, err) : verify(decode, &out, err);
        }
        decode->verify_seconds = now_seconds() - forward;
        if (status != PICO_OK) {
            restore(decode);
            return status;
        }
        if (decode->n_beam != 0) {
            pico_beam_apply(decode);
        } else {
            status = accept(decode, &out, err);
        }
    }
    *n_live = 0;
    for (uint32_t s = 0; s < decode->params.n_slots; s++) {
        *n_live += decode->n_beam != 0 ? decode->beam[s].running : decode->slot[s].running;
    }
    pico_count_round(decode, n_chunk, again, now_seconds() - begin);
    return status;
}

pico_status pico_decode_run(pico_decode *decode, int (*should_stop)(void *), void *arg,
                            pico_error *err) {
    uint32_t n_live = 1;
    pico_status status = PICO_OK;
    while (status == PICO_OK && n_live != 0) {
        if (should_stop != NULL && should_stop(arg)) {
            for (uint32_t s = 0; s < decode->params.n_slots; s++) {
                pico_decode_cancel(decode, s);
            }
            break;
        }
        status = pico_decode_round(decode, &n_live, err);
    }
    return status;
}
