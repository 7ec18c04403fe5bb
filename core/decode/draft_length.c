/* The cost model and the choice of the draft length; see draft_length.h. */
#include "decode/draft_length.h"

#include <math.h>
#include <string.h>

enum {
    EXACT_POINTS = 64, /* counts that have a point of their own */
    POINTS_A_DOUBLING = 8,
    PLAIN_ROUNDS = 2, /* measured before anything is drafted */
    FIRST_ROUNDS = 4, /* of FIRST_DRAFTS: in the first one drafters catch up, caches are cold */
    FIRST_DRAFTS = 2,
    DOUBT_ROUNDS = 256, /* after so many a cost that was measured once is forgotten */
    LEAST_REST = 32,    /* plain rounds before drafting is tried again */
    MOST_REST = 4096
};

static const double FORGET = 0.98;         /* weight of a round in the next one */
static const double PRIOR_RIGHT = 0.6;     /* of the first draft, before anything is known */
static const double PRIOR_WEIGHT = 2.0;    /* in drafts */
static const double TRY_SHARE = 0.01;      /* of the time may be lost by trying */
static const double TRY_MOST = 8.0;        /* plain rounds lost: the first rounds end early */
static const double OTHER_TIMES = 1.3;     /* plain rounds so much slower: the rest is over */
static const double WORTH_DRAFTING = 1.03; /* plain decoding must be beaten by so much: times err */
static const double WORTH_CHANGING = 1.01; /* another length must be so much better */

/* ---- curves ---- */

static uint32_t point_of(uint32_t count) {
    if (count <= EXACT_POINTS) {
        return count == 0 ? 0 : count - 1;
    }
    double doublings = log2((double)count / EXACT_POINTS);
    uint32_t point = EXACT_POINTS - 1 + (uint32_t)(doublings * POINTS_A_DOUBLING + 0.5);
    return point < PICO_COST_POINTS ? point : PICO_COST_POINTS - 1;
}

/* The count that a point stands for. */
static double count_of(uint32_t point) {
    return point < EXACT_POINTS
               ? point + 1.0
               : EXACT_POINTS * exp2((point + 1.0 - EXACT_POINTS) / POINTS_A_DOUBLING);
}

int pico_cost_known(const pico_cost_curve *curve, uint32_t count) {
    return curve->n[point_of(count)] != 0;
}

void pico_cost_add(pico_cost_curve *curve, uint32_t count, double seconds) {
    uint32_t point = point_of(count), n = curve->n[point]++;
    double *at = &curve->seconds[point];
    if (n == 0 || (n == 1 && seconds < *at)) { /* the first one may have met cold caches */
        *at = seconds;
        return;
    }
    if (!(*at > 0)) {
        *at = seconds;
        return;
    }
    double ratio = seconds / *at; /* a round that was interrupted is no reason to change much */
    ratio = ratio < 0.5 ? 0.5 : ratio > 2.0 ? 2.0 : ratio;
    double own = n < 5 ? 1.0 / (n + 1) : 0.15, level = n < 3 ? 0.0 : 0.03;
    for (uint32_t i = 0; i < PICO_COST_POINTS; i++) { /* the machine became slower or faster */
        curve->seconds[i] *= i == point ? 1.0 + own * (ratio - 1.0) : 1.0 + level * (ratio - 1.0);
    }
}

double pico_cost_at(const pico_cost_curve *curve, uint32_t count) {
    uint32_t point = point_of(count);
    int32_t low = (int32_t)point, high = (int32_t)point;
    while (low >= 0 && curve->n[low] == 0) {
        low--;
    }
    while (high < PICO_COST_POINTS && curve->n[high] == 0) {
        high++;
    }
    if (low < 0) {
        return high == PICO_COST_POINTS ? (double)NAN : curve->seconds[high];
    }
    double x = count, a = count_of((uint32_t)low), at_a = curve->seconds[low];
    if (high < PICO_COST_POINTS) {
        double b = count_of((uint32_t)high);
        return b > a ? at_a + (curve->seconds[high] - at_a) * (x - a) / (b - a) : at_a;
    }
    int32_t before = low - 1;
    while (before >= 0 && curve->n[before] == 0) {
        before--;
    }
    double slope =
        before < 0 ? 0.0 : (at_a - curve->seconds[before]) / (a - count_of((uint32_t)before));
    return at_a + (slope > 0 ? slope * (x - a) : 0.0);
}

/* ---- what is known of the drafts ---- */

void pico_draft_length_open(pico_draft_length *self, uint32_t max, uint32_t is_auto) {
    *self = (pico_draft_length){.max = max < PICO_DRAFT_MAX ? max : PICO_DRAFT_MAX,
                                .is_auto = is_auto,
                                .forced = FIRST_ROUNDS};
}

void pico_draft_length_learn(pico_draft_length *self, uint32_t room, uint32_t proposed,
                             uint32_t right, uint32_t known) {
    uint32_t before = 1; /* what comes first counts each time */
    for (uint32_t i = 0; i < self->max && i < room; i++) {
        self->offered[i] += 1;
        self->proposed[i] += i < proposed;
        if (i < proposed && (known >> i & 1u) != 0) {
            self->tried[i] += before;
            self->right[i] += right >> i & 1u;
        }
        before = right >> i & 1u;
    }
}

/* What the model expects of a limit. */
typedef struct expectation {
    double tokens;             /* of a sequence and round */
    double drafts;             /* of a sequence and round */
    double any;                /* share of rounds with a draft at all */
    double right, path, offer; /* of the last place: right, right with all before it, proposed */
} expectation;

static expectation expect_nothing(void) {
    return (expectation){.tokens = 1, .any = 1, .right = PRIOR_RIGHT, .path = 1, .offer = 1};
}

/* One more draft: place i. What is known of the place before is what is expected of it at first. */
static void expect_more(const pico_draft_length *self, uint32_t i, expectation *e) {
    double right = (self->right[i] + PRIOR_WEIGHT * e->right) / (self->tried[i] + PRIOR_WEIGHT);
    e->right = right < 1 ? right : 1; /* in a tree it can seem to be more */
    e->offer = (self->proposed[i] + e->offer) / (self->offered[i] + 1);
    e->path *= e->right;
    e->any = i == 0 ? e->offer : e->any;
    e->drafts += e->offer;
    e->tokens += e->offer * e->path;
}

/* Seconds of a round with a limit, drafting included. */
static double seconds_of(const pico_draft_length *self, uint32_t n_live, uint32_t limit,
                         const expectation *e) {
    double plain = pico_cost_at(&self->round, n_live);
    if (limit == 0) {
        return plain;
    }
    double draft = pico_cost_at(&self->draft, limit), seconds;
    if (isnan(draft)) {
        draft = 0; /* not known: it is tried */
    } else if (!pico_cost_known(&self->draft, limit) && self->reach != 0 && limit > self->reach) {
        double grown = pico_cost_at(&self->draft, self->reach) * limit / self->reach;
        draft = grown > draft ? grown : draft;
    }
    if (n_live == 1) { /* often there are many drafts or none */
        double many = e->any > 0 ? e->drafts / e->any : 0;
        double low = pico_cost_at(&self->round, 1 + (uint32_t)many);
        double high = pico_cost_at(&self->round, 2 + (uint32_t)many);
        double with = low + (high - low) * (many - floor(many));
        seconds = (1 - e->any) * plain + e->any * with;
    } else {
        seconds = pico_cost_at(&self->round, n_live + (uint32_t)(n_live * e->drafts + 0.5));
    }
    return fmax(seconds, plain) + draft; /* more rows never take less; their times may */
}

/* Tokens per second of all sequences. */
static double speed_of(const pico_draft_length *self, uint32_t n_live, uint32_t limit) {
    expectation e = expect_nothing();
    for (uint32_t i = 0; i < limit && i < self->max; i++) {
        expect_more(self, i, &e);
    }
    return n_live * e.tokens / seconds_of(self, n_live, limit, &e);
}

double pico_draft_length_speedup(const pico_draft_length *self, uint32_t n_live, uint32_t limit) {
    return self->n_plain == 0 ? (double)NAN
                              : speed_of(self, n_live, limit) / speed_of(self, n_live, 0);
}

double pico_draft_break_even(double cost, uint32_t k) {
    if (!(cost > 0) || k == 0) {
        return (double)NAN;
    }
    double low = 0, high = 1;
    if (cost >= k + 1.0) {
        return 2;
    }
    for (int step = 0; step < 50; step++) {
        double a = (low + high) / 2, tokens = 1, path = 1;
        for (uint32_t i = 0; i < k; i++) {
            path *= a;
            tokens += path;
        }
        *(tokens < cost ? &low : &high) = a;
    }
    return (low + high) / 2;
}

/* ---- the choice ---- */

/* The best of the lengths that may be tried now; 0: plain decoding. */
static uint32_t best_length(const pico_draft_length *self, uint32_t n_live) {
    uint32_t reach = self->reach == 0 ? FIRST_DRAFTS : 2 * self->reach, best = 0;
    double least = speed_of(self, n_live, 0) * WORTH_DRAFTING, most = least, now = 0;
    expectation e = expect_nothing();
    for (uint32_t k = 1; k <= reach && k <= self->max; k++) {
        expect_more(self, k - 1, &e);
        double speed = n_live * e.tokens / seconds_of(self, n_live, k, &e);
        now = k == self->limit ? speed : now;
        if (speed > most) {
            most = speed;
            best = k;
        }
    }
    return best != 0 && now > least && now * WORTH_CHANGING > most ? self->limit : best;
}

/* What was learned of the drafts and of their cost counts little after a rest. */
static void try_again(pico_draft_length *self, uint32_t n_live) {
    for (uint32_t i = 0; i < PICO_COST_POINTS; i++) {
        uint32_t *n = &self->draft.n[i];
        *n = *n > 1 ? 1 : *n;
        n = &self->round.n[i];
        *n = *n > 1 && i != point_of(n_live) ? 1 : *n;
    }
    for (uint32_t i = 0; i < self->max; i++) {
        self->offered[i] *= 0.2;
        self->proposed[i] *= 0.2;
        self->tried[i] *= 0.2;
        self->right[i] *= 0.2;
    }
    self->is_resting = 0;
    self->spent = 0;
    self->forced = FIRST_ROUNDS;
}

/* The rest ends early when plain rounds have become slower, as they do when a text grows: what was
 * found out is about other times. */
static int is_to_rest(const pico_draft_length *self, uint32_t n_live) {
    double plain = pico_cost_at(&self->round, n_live);
    return self->rested < LEAST_REST ||
           (self->rested < self->rest && plain < OTHER_TIMES * self->rest_seconds);
}

uint32_t pico_draft_length_choose(pico_draft_length *self, uint32_t n_live) {
    if (!self->is_auto || self->max == 0) {
        return self->limit = self->max;
    }
    if (self->n_plain < PLAIN_ROUNDS) {
        return self->limit = 0;
    }
    if (self->is_resting && is_to_rest(self, n_live)) {
        self->rested++;
        return self->limit = 0;
    }
    if (self->is_resting) {
        try_again(self, n_live);
    }
    if (self->forced != 0 && self->spent < TRY_MOST * pico_cost_at(&self->round, n_live)) {
        self->forced--;
        return self->limit = FIRST_DRAFTS < self->max ? FIRST_DRAFTS : self->max;
    }
    self->forced = 0;
    self->limit = best_length(self, n_live);
    if (self->limit == 0) {
        self->rest_seconds = pico_cost_at(&self->round, n_live);
        self->rest = (uint32_t)fmin(self->spent / self->rest_seconds / TRY_SHARE, MOST_REST);
        self->rested = 0;
        self->is_resting = 1;
    }
    return self->limit;
}

static void forget_doubtful(pico_cost_curve *curve, uint32_t keep) {
    for (uint32_t i = 0; i < PICO_COST_POINTS; i++) {
        curve->n[i] = curve->n[i] == 1 && i != keep ? 0 : curve->n[i];
    }
}

void pico_draft_length_time(pico_draft_length *self, const pico_draft_round *round) {
    if (++self->n_round % DOUBT_ROUNDS == 0) { /* it may have been a round that was interrupted */
        forget_doubtful(&self->round, point_of(round->n_live));
        forget_doubtful(&self->draft, PICO_COST_POINTS);
    }
    pico_cost_add(&self->round, round->n_rows, round->other_seconds);
    self->n_plain += round->n_rows == round->n_live;
    for (uint32_t i = 0; i < self->max && self->limit != 0; i++) {
        self->offered[i] *= FORGET;
        self->proposed[i] *= FORGET;
        self->tried[i] *= FORGET;
        self->right[i] *= FORGET;
    }
    if (self->limit == 0) {
        return;
    }
    if (!round->is_refresh) {
        pico_cost_add(&self->draft, self->limit, round->draft_seconds);
        self->reach = self->limit > self->reach ? self->limit : self->reach;
    }
    if (!round->is_first) {
        /* No draft costs more than what it saves by much: then something else took the time. */
        double plain = pico_cost_at(&self->round, round->n_live), n_live = round->n_live;
        double draft = fmin(round->draft_seconds, plain * 1.5 * self->limit);
        double other = fmin(round->other_seconds, plain * 1.5 * round->n_rows / n_live);
        self->spent += draft + other - plain * round->n_token / n_live;
        self->spent = self->spent < 0 ? 0 : self->spent;
    }
}
