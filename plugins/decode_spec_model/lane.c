/*
 * The lanes: how the draft's KV follows the timelines. Nothing is remembered of a round but the
 * tokens that a lane holds; before each use they are compared with the timeline, so that rejected
 * drafts, rests without drafting, other prompts and failed rounds are all the same case.
 */
#include "spec_model.h"

static uint32_t half_of(const spec_model *me) {
    return me->capacity / 2 > 0 ? me->capacity / 2 : 1;
}

uint32_t spec_base(const spec_model *me, uint32_t n_token) {
    return n_token > me->capacity ? n_token - half_of(me) : 0;
}

/* Empties a lane and begins at another place, from which on it can hold the timeline. */
static pico_status restart(spec_model *me, uint32_t slot, uint32_t base, pico_error *err) {
    me->lane[slot].base = base;
    return me->host->session->truncate(me->session, slot, 0, err);
}

pico_status spec_align(spec_model *me, const pico_sequence *sequence, pico_error *err) {
    const pico_session_api *session = me->host->session;
    spec_lane *lane = &me->lane[sequence->slot];
    pico_status status = PICO_OK;
    if (sequence->n_token > me->max_token) { /* more than there can be; nothing is drafted */
        lane->count = 0;
        return PICO_OK;
    }
    uint32_t base = lane->base;
    while (sequence->n_token - base > me->capacity) { /* as the host does with learned positions */
        base += me->capacity + 1 - half_of(me);
    }
    if (base != lane->base) {
        status = restart(me, sequence->slot, base, err);
    }
    uint32_t length = session->length(me->session, sequence->slot);
    uint32_t end = lane->base + length;
    uint32_t most = sequence->n_token - 1 < end ? sequence->n_token - 1 : end;
    uint32_t same = lane->checked < most ? lane->checked : most;
    same = same < lane->base ? lane->base : same;
    while (same < most && lane->held[same] == sequence->token[same]) {
        same++;
    }
    if (status == PICO_OK && same < end) {
        pico_error late = {0};
        status = session->truncate(me->session, sequence->slot, same - lane->base, &late);
        if (status == PICO_E_LIMIT) { /* a window has moved on: a part of the text must do */
            uint32_t kept = me->window != 0 ? me->window : half_of(me);
            same = sequence->n_token > kept ? sequence->n_token - kept : 0;
            status = restart(me, sequence->slot, same, err);
        } else if (status != PICO_OK) {
            *err = late;
        }
    }
    lane->start = lane->next = same;
    uint32_t free_positions = me->capacity - (sequence->n_token - lane->base);
    lane->count = sequence->room < free_positions + 1 ? sequence->room : free_positions + 1;
    return status;
}

void spec_forget_round(spec_model *me, const pico_sequence *sequences, uint32_t n) {
    const pico_session_api *session = me->host->session;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = sequences[i].slot;
        const spec_lane *lane = &me->lane[slot];
        uint32_t kept = lane->start - lane->base;
        if (lane->count != 0 && session->length(me->session, slot) > kept &&
            session->truncate(me->session, slot, kept, NULL) != PICO_OK) {
            (void)session->truncate(me->session, slot, 0, NULL); /* always possible */
        }
    }
}

/* A row for a token at a place of a timeline. */
static pico_row row_at(const spec_lane *lane, uint32_t slot, uint32_t place, int32_t token,
                       int32_t prev, int32_t parent) {
    return (pico_row){.token = token,
                      .prev = prev,
                      .slot = slot,
                      .pos = (int32_t)(place - lane->base),
                      .parent = parent};
}

pico_status spec_catch_up(spec_model *me, const pico_sequence *sequences, uint32_t n,
                          pico_forward_out *out, uint32_t *n_out, pico_error *err) {
    uint32_t n_row = 0;
    *n_out = 0;
    for (uint32_t i = 0; i < n && n_row < me->max_rows; i++) {
        const pico_sequence *sequence = &sequences[i];
        const spec_lane *lane = &me->lane[sequence->slot];
        uint32_t left = lane->count == 0 ? 0 : sequence->n_token - lane->next;
        uint32_t rows = left < me->max_rows - n_row ? left : me->max_rows - n_row;
        for (uint32_t r = 0; r < rows; r++) {
            uint32_t place = lane->next + r;
            int32_t prev = place == lane->base ? -1 : sequence->token[place - 1];
            int32_t parent = r == 0 ? -1 : (int32_t)n_row - 1;
            me->row[n_row++] =
                row_at(lane, sequence->slot, place, sequence->token[place], prev, parent);
        }
        if (rows != 0 && rows == left) {
            me->row[n_row - 1].want = PICO_ROW_LOGITS;
            me->row_lane[(*n_out)++] = i;
        }
    }
    if (n_row == 0) {
        return PICO_OK;
    }
    pico_status status = me->host->session->forward(me->session, me->row, n_row, out, err);
    for (uint32_t r = 0; status == PICO_OK && r < n_row; r++) {
        spec_lane *lane = &me->lane[me->row[r].slot];
        lane->held[lane->next++] = me->row[r].token;
    }
    return status;
}

pico_status spec_step(spec_model *me, const pico_sequence *sequences, uint32_t n,
                      pico_forward_out *out, uint32_t *n_out, pico_error *err) {
    uint32_t n_row = 0;
    *n_out = 0;
    for (uint32_t i = 0; i < n; i++) {
        const pico_sequence *sequence = &sequences[i];
        const spec_lane *lane = &me->lane[sequence->slot];
        uint32_t made = sequence->n_proposal;
        if (made == 0 || made >= lane->count) {
            continue;
        }
        int32_t prev =
            made == 1 ? sequence->token[sequence->n_token - 1] : sequence->proposal[made - 2].token;
        me->row[n_row] =
            row_at(lane, sequence->slot, lane->next, sequence->proposal[made - 1].token, prev, -1);
        me->row[n_row++].want = PICO_ROW_LOGITS;
        me->row_lane[(*n_out)++] = i;
    }
    if (n_row == 0) {
        return PICO_OK;
    }
    pico_status status = me->host->session->forward(me->session, me->row, n_row, out, err);
    for (uint32_t r = 0; status == PICO_OK && r < n_row; r++) {
        spec_lane *lane = &me->lane[me->row[r].slot];
        lane->held[lane->next++] = me->row[r].token;
    }
    return status;
}
