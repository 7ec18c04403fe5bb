/* What is counted and timed of rounds and drafts, and what that says; see decode.h. */
#include <math.h>

#include "decode/internal.h"

/* The length of the path to each draft of a slot; returns that of the longest one. */
static uint32_t draft_depths(const pico_slot *slot, uint32_t depth[MAX_ROOM]) {
    uint32_t deepest = 0;
    for (uint32_t i = 0; i < slot->sequence.n_proposal; i++) {
        int32_t parent = slot->proposal[i].parent;
        depth[i] = parent < 0 ? 1 : depth[parent] + 1;
        deepest = depth[i] > deepest ? depth[i] : deepest;
    }
    return deepest;
}

/* The drafts that became text, by bit. */
static uint32_t right_drafts(const pico_slot *slot, uint32_t n_accepted) {
    uint32_t right = 0;
    for (uint32_t i = 1; i <= n_accepted; i++) { /* path[0] is the newest token's row */
        right |= 1u << (slot->path[i] - slot->first_row - 1);
    }
    return right;
}

void pico_count_drafts(pico_decode *decode, pico_slot *slot, uint32_t n_accepted) {
    pico_decode_stats *stats = &decode->stats;
    uint32_t depth[MAX_ROOM], deepest = draft_depths(slot, depth), known = 0;
    int ended = slot->finish != PICO_FINISH_NONE;
    for (uint32_t i = 0; i < slot->sequence.n_proposal; i++) {
        known |= depth[i] <= n_accepted || !ended ? 1u << i : 0;
    }
    pico_draft_length_learn(&decode->drafts, slot->sequence.room, slot->sequence.n_proposal,
                            right_drafts(slot, n_accepted), known);
    for (uint32_t i = 0; i < deepest && (i < n_accepted || (i == n_accepted && !ended)); i++) {
        stats->n_tried[i]++;
        stats->n_right[i] += i < n_accepted;
    }
    slot->n_live_round++;
    slot->n_idle_round = slot->sequence.room == 0 ? slot->n_idle_round + 1 : 0;
}

void pico_count_round(pico_decode *decode, uint32_t n_chunk, int again, double seconds) {
    pico_decode_stats *stats = &decode->stats;
    pico_draft_round *round = &decode->round;
    stats->n_round++;
    *(again ? &stats->n_refill : &stats->n_prefill) += n_chunk;
    *(n_chunk != 0 && !again ? &stats->prefill_seconds : &stats->decode_seconds) += seconds;
    if (n_chunk != 0 || round->n_live == 0) {
        return;
    }
    stats->n_decode_round++;
    stats->n_decode_token += round->n_token;
    stats->n_decode_sequence += round->n_live;
    stats->draft_seconds += round->draft_seconds;
    stats->verify_seconds += decode->verify_seconds;
    for (uint32_t i = 0; i < round->n_live; i++) {
        stats->n_by_drafts[decode->sequence[i].n_proposal]++;
    }
    round->other_seconds = seconds - round->draft_seconds;
    pico_draft_length_time(&decode->drafts, round);
}

double pico_decode_round_seconds(const pico_decode *decode, uint32_t n_rows) {
    return pico_cost_at(&decode->drafts.round, n_rows);
}

void pico_decode_draft_report(const pico_decode *decode, uint32_t n_live, pico_draft_report *out) {
    const pico_draft_length *drafts = &decode->drafts;
    uint32_t limit = drafts->is_resting ? 0 : drafts->limit;
    *out = (pico_draft_report){.limit = limit,
                               .plain_seconds = (double)NAN,
                               .speedup = pico_draft_length_speedup(drafts, n_live, limit),
                               .cost = (double)NAN};
    uint32_t k = limit == 0 ? drafts->reach : limit;
    if (drafts->n_plain != 0) {
        out->plain_seconds = pico_cost_at(&drafts->round, n_live);
        double draft = k == 0 ? 0 : pico_cost_at(&drafts->draft, k);
        out->cost = (pico_cost_at(&drafts->round, n_live * (1 + k)) + draft) / out->plain_seconds;
    }
    out->break_even = pico_draft_break_even(out->cost, k);
}
