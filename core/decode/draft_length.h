/*
 * How many drafts a round is worth. Learns from the rounds of the loop itself, without a probe of
 * its own: what a round of so many rows costs, what drafting costs, and how often a draft at each
 * place of a chain is right; and picks the number of drafts that gives the most tokens a second.
 * When nothing beats plain decoding it is plain decoding, and now and then a few rounds try again.
 * It is arithmetic alone: no clock, no allocation. With accept = match it cannot change a text.
 *
 * The cost model. Let C(r) be the seconds of a round's forward, verification and the rest with r
 * rows, D(k) the seconds of drafting k tokens, a_i the share of drafts at place i that are right
 * when all before them were. Then k drafts give N(k) = 1 + a_0 + a_0 a_1 + ... tokens in
 * C(1 + k) + D(k) seconds, and the speed-up over plain decoding is N(k) C(1) / (C(1 + k) + D(k)).
 *
 * A tree is counted draft by draft in the order of its proposal, the most promising ones first, so
 * that a smaller limit means fewer of the same. Then a_i is how much less often draft i becomes text
 * than the one before it does, and N(k) is the same sum.
 */
#ifndef PICO_DECODE_DRAFT_LENGTH_H
#define PICO_DECODE_DRAFT_LENGTH_H

#include "plugin.h"

enum {
    PICO_DRAFT_MAX = PICO_DECODE_ROWS_MAX - 1, /* drafts of a sequence in a round */
    PICO_COST_POINTS = 160
};

/* Seconds as a function of a count, learned point by point; what was not seen is interpolated. */
typedef struct pico_cost_curve {
    double seconds[PICO_COST_POINTS];
    uint32_t n[PICO_COST_POINTS]; /* samples of the point */
} pico_cost_curve;

/* Adds a sample; the first ones of a point may be slow and count less. */
void pico_cost_add(pico_cost_curve *curve, uint32_t count, double seconds);
/* NaN if nothing was learned. Beyond the largest known count the last slope goes on. */
double pico_cost_at(const pico_cost_curve *curve, uint32_t count);
/* Whether a sample of this very count (or of its neighbours, where counts are large) was added. */
int pico_cost_known(const pico_cost_curve *curve, uint32_t count);

typedef struct pico_draft_length {
    uint32_t max;          /* most drafts of a sequence */
    uint32_t is_auto;      /* 0: always max */
    pico_cost_curve round; /* C, by rows */
    pico_cost_curve draft; /* D, by the limit that was set */
    /* By place of a draft, with forgetting; see learn_sequence. */
    double offered[PICO_DRAFT_MAX], proposed[PICO_DRAFT_MAX];
    double tried[PICO_DRAFT_MAX], right[PICO_DRAFT_MAX];
    uint32_t n_plain;    /* plain rounds measured */
    uint32_t reach;      /* largest limit whose cost was measured */
    uint32_t limit;      /* of the round at hand */
    uint32_t forced;     /* rounds left that draft whatever is known */
    uint32_t is_resting; /* 1: plain decoding until `rested` reaches `rest` rounds */
    uint32_t rest, rested;
    double rest_seconds; /* of a plain round when the rest began */
    double spent;        /* seconds lost since trying began */
    uint32_t n_round;    /* that were timed */
} pico_draft_length;

/* max: most drafts of the decoder and the user; at most PICO_DRAFT_MAX. */
void pico_draft_length_open(pico_draft_length *self, uint32_t max, uint32_t is_auto);

/* The most drafts that each of the n_live sequences is to get in the next round. */
uint32_t pico_draft_length_choose(pico_draft_length *self, uint32_t n_live);

/* What became of one sequence in a round: it had room for `room` drafts and got `proposed`. Bit i of
 * right says that draft i became text, bit i of known that this was found out: a text that ends
 * leaves drafts behind its end. */
void pico_draft_length_learn(pico_draft_length *self, uint32_t room, uint32_t proposed,
                             uint32_t right, uint32_t known);

/* The times of a round without a prompt in it. */
typedef struct pico_draft_round {
    uint32_t n_live, n_rows;
    uint32_t n_token;    /* that came out */
    uint32_t is_first;   /* 1: a sequence was live for the first time */
    uint32_t is_refresh; /* 1: drafting may have had to catch up, so its time says nothing */
    double draft_seconds, other_seconds;
} pico_draft_round;
void pico_draft_length_time(pico_draft_length *self, const pico_draft_round *round);

/* Tokens per second over those of plain decoding that the model expects of a limit; NaN: unknown. */
double pico_draft_length_speedup(const pico_draft_length *self, uint32_t n_live, uint32_t limit);
/* The acceptance at which k drafts cost as much as they give, were it the same at each place; above
 * 1 if they never pay; NaN: unknown. cost: of a round with k drafts over that of a plain one. */
double pico_draft_break_even(double cost, uint32_t k);

#endif
