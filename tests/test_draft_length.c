/* layers: decode */
/*
 * The draft length: on machines that are made up, with known costs and known acceptance, the choice
 * comes within a few per cent of the best fixed length; where nothing pays it costs next to nothing;
 * it follows changes in both directions; it is not led astray by rounds that take far too long.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "conform/rig.h"
#include "decode/draft_length.h"

/* A machine and a drafter. */
typedef struct world {
    double plain;    /* seconds of a plain round of one sequence */
    double row;      /* that each further row adds, in plain rounds */
    double draft;    /* seconds of a draft, in plain rounds */
    double right[2]; /* chance that the first draft is right, and a later one */
    double found;    /* chance that there are drafts at all */
    double noise;    /* relative, and one round in a hundred takes ten times as long */
    uint32_t n_live;
} world;

typedef struct outcome {
    double seconds;
    uint64_t tokens, drafted;
} outcome;

static double cost(const world *w, uint32_t rows) {
    return w->plain * (1 + w->row * (rows - 1));
}

/* One round; fixed: the number of drafts, or UINT32_MAX for the choice of `length`. */
static void play(const world *w, pico_draft_length *length, uint32_t fixed, uint64_t *random,
                 outcome *sum) {
    uint32_t limit = fixed == UINT32_MAX ? pico_draft_length_choose(length, w->n_live) : fixed;
    uint32_t rows = 0, tokens = 0, most = 0;
    for (uint32_t s = 0; s < w->n_live; s++) {
        uint32_t n = rig_uniform(random) < w->found ? limit : 0, accepted = 0;
        while (accepted < n && rig_uniform(random) < w->right[accepted != 0]) {
            accepted++;
        }
        if (fixed == UINT32_MAX) {
            pico_draft_length_learn(length, limit, n, (1u << accepted) - 1, UINT32_MAX);
        }
        rows += 1 + n;
        tokens += 1 + accepted;
        most = n > most ? n : most;
        sum->drafted += n;
    }
    double factor = 1 + w->noise * (rig_uniform(random) - 0.5);
    factor *= w->noise > 0 && rig_uniform(random) < 0.01 ? 10 : 1;
    pico_draft_round round = {.n_live = w->n_live,
                              .n_rows = rows,
                              .n_token = tokens,
                              .draft_seconds = w->plain * w->draft * most * factor,
                              .other_seconds = cost(w, rows) * factor};
    if (fixed == UINT32_MAX) {
        pico_draft_length_time(length, &round);
    }
    sum->seconds += (round.draft_seconds + round.other_seconds) / factor;
    sum->tokens += tokens;
}

static double speed(const world *w, uint32_t fixed, uint32_t max, uint64_t tokens) {
    pico_draft_length length;
    uint64_t random = 5;
    outcome sum = {0};
    pico_draft_length_open(&length, max, 1);
    while (sum.tokens < tokens) {
        play(w, &length, fixed, &random, &sum);
    }
    return (double)sum.tokens / sum.seconds;
}

static double best_fixed(const world *w, uint32_t max, uint32_t *k) {
    double best = 0;
    for (uint32_t n = 0; n <= max; n++) {
        double now = speed(w, n, max, 20000);
        *k = now > best ? n : *k;
        best = now > best ? now : best;
    }
    return best;
}

static const world worlds[] = {
    {0.01, 0.03, 0.0, {0.8, 0.8}, 1, 0, 1},   /* bound by reading weights, drafts for nothing */
    {0.01, 0.03, 0.1, {0.8, 0.8}, 1, 0.3, 1}, /* a draft model of a tenth, and noise */
    {0.01, 0.3, 0.0, {0.8, 0.8}, 1, 0.3, 1},  /* rows that cost */
    {0.01, 0.03, 0.1, {0.5, 0.4}, 1, 0.3, 1}, /* a poor drafter */
    {0.001, 0.05, 0.001, {0.9, 0.95}, 0.3, 0.3, 1}, /* lookup: seldom, but then right */
    {0.01, 0.02, 0.02, {0.7, 0.7}, 1, 0.3, 8},      /* eight sequences */
};

static void the_choice_is_near_the_best(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++) {
        uint32_t k = 0;
        double best = best_fixed(&worlds[i], 31, &k);
        double chosen = speed(&worlds[i], UINT32_MAX, 31, 20000);
        double plain = speed(&worlds[i], 0, 31, 20000);
        if (!(chosen > 0.95 * best) || !(best > 1.1 * plain)) {
            fail_msg("world %zu: %.1f tokens/s chosen, %.1f with %u drafts, %.1f without", i,
                     chosen, best, k, plain);
        }
    }
}

/* Short answers pay for finding out, too, but not much. */
static void it_soon_finds_out(void **state) {
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        uint32_t k = 0;
        double best = best_fixed(&worlds[i], 31, &k);
        double chosen = speed(&worlds[i], UINT32_MAX, 31, 256);
        if (!(chosen > 0.85 * best)) {
            fail_msg("world %zu: %.1f tokens/s chosen over 256 tokens, %.1f with %u drafts", i,
                     chosen, best, k);
        }
    }
}

static void useless_drafts_cost_next_to_nothing(void **state) {
    const world useless[] = {
        {0.01, 0.02, 0, {0, 0}, 1, 0.6, 1}, /* hardly a cost: times alone cannot tell */
        {0.01, 0.03, 0.0, {0, 0}, 1, 0, 1},      {0.01, 0.03, 0.2, {0, 0}, 1, 0.3, 1},
        {0.01, 0.5, 0.0, {0, 0}, 1, 0.3, 1},     {0.01, 0.03, 0.9, {0.5, 0.5}, 1, 0.3, 1},
        {0.01, 0.9, 0.3, {0.05, 0.05}, 1, 0, 1}, {0.01, 0.2, 0.1, {0, 0}, 1, 0.3, 8}};
    (void)state;
    for (size_t i = 0; i < sizeof useless / sizeof *useless; i++) {
        double plain = speed(&useless[i], 0, 31, 20000);
        const uint64_t lengths[] = {400, 4000, 20000};
        const double allowed[] = {0.03, 0.015, 0.012};
        for (uint32_t j = 0; j < 3; j++) {
            double chosen = speed(&useless[i], UINT32_MAX, 31, lengths[j] * useless[i].n_live);
            if (!(chosen > (1 - allowed[j]) * plain)) {
                fail_msg("useless %zu: %.2f %% slower than plain over %llu tokens", i,
                         100 - 100 * chosen / plain, (unsigned long long)lengths[j]);
            }
        }
    }
}

/* A round of one sequence whose drafts are all right: seconds of a plain round, of each further row and
 * of each draft. How many drafts it had. */
static uint32_t play_right(pico_draft_length *length, double plain, double row, double draft,
                           uint32_t is_refresh) {
    uint32_t limit = pico_draft_length_choose(length, 1);
    double slow = is_refresh && limit != 0 ? 3 : 1;
    pico_draft_round round = {.n_live = 1,
                              .n_rows = 1 + limit,
                              .n_token = 1 + limit,
                              .is_refresh = is_refresh,
                              .draft_seconds = draft * limit * slow,
                              .other_seconds = (plain + row * limit) * slow};
    pico_draft_length_learn(length, limit, limit, (1u << limit) - 1, UINT32_MAX);
    pico_draft_length_time(length, &round);
    return limit;
}

/* Drafts that pay, but not in the first round, where caches are cold and the drafter reads the prompt:
 * that round alone must not end the drafting. */
static void one_cold_round_decides_nothing(void **state) {
    (void)state;
    pico_draft_length length;
    pico_draft_length_open(&length, 8, 1);
    uint32_t n_drafting = 0;
    for (uint32_t r = 0; r < 40; r++) {
        n_drafting += play_right(&length, 1e-3, 1e-4, 3e-4, n_drafting == 0) != 0;
    }
    assert_true(n_drafting >= 36);
}

/* Plain rounds that take three times as long in the end, while further rows and drafts cost what they
 * did: what did not pay at first pays then, and the rest must not outlast that. */
static void a_text_that_grows_is_asked_again(void **state) {
    (void)state;
    pico_draft_length length;
    pico_draft_length_open(&length, 8, 1);
    uint32_t n_early = 0, n_late = 0;
    for (uint32_t r = 0; r < 400; r++) {
        int drafts = play_right(&length, 1e-3 * (1 + r / 200.0), 1e-4, 1.6e-3, 0) != 0;
        n_early += r < 100 && drafts;
        n_late += r >= 280 && drafts;
    }
    assert_true(n_early <= 8);
    assert_true(n_late >= 110);
}

/* A drafter that becomes good, and one that becomes useless. */
static void it_follows_changes(void **state) {
    world w = {0.01, 0.03, 0.05, {0, 0}, 1, 0.3, 1};
    pico_draft_length length;
    uint64_t random = 6;
    outcome before = {0}, after = {0}, end = {0};
    (void)state;
    pico_draft_length_open(&length, 16, 1);
    for (uint32_t i = 0; i < 1000; i++) {
        play(&w, &length, UINT32_MAX, &random, &before);
    }
    w.right[0] = w.right[1] = 0.9;
    for (uint32_t i = 0; i < 3000; i++) {
        play(&w, &length, UINT32_MAX, &random, &after);
    }
    assert_true((double)after.tokens / 3000 > 3.0); /* a round */
    w.right[0] = w.right[1] = 0;
    for (uint32_t i = 0; i < 3000; i++) {
        play(&w, &length, UINT32_MAX, &random, &end);
    }
    assert_true(end.seconds < 3000 * w.plain * 1.05);
    assert_true(before.seconds < 1000 * w.plain * 1.03);
}

/* Trees: drafts that exclude each other, the i-th one becomes text with the i-th probability. As many
 * are drafted as pay, though no path is longer than one draft. */
static void trees_are_counted_draft_by_draft(void **state) {
    static const double right[8] = {0.5, 0.2, 0.1, 0.06, 0.02, 0.01, 0.01, 0.01};
    static const double row[] = {0.01, 0.06, 0.12, 0.2};
    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        pico_draft_length length;
        uint64_t random = 3;
        double tokens = 1, best = 1, got = 0, seconds = 0;
        pico_draft_length_open(&length, 8, 1);
        for (uint32_t k = 1; k <= 8; k++) {
            tokens += right[k - 1];
            best = fmax(best, tokens / (1 + row[i] * k));
        }
        for (uint32_t r = 0; r < 6000; r++) {
            uint32_t limit = pico_draft_length_choose(&length, 1), hit = 0;
            double at = rig_uniform(&random), sum = right[0];
            while (hit < limit && at >= sum) {
                sum += ++hit < 8 ? right[hit] : 0;
            }
            pico_draft_round round = {.n_live = 1,
                                      .n_rows = 1 + limit,
                                      .n_token = 1 + (hit < limit),
                                      .other_seconds = 1 + row[i] * limit};
            pico_draft_length_learn(&length, limit, limit, hit < limit ? 1u << hit : 0, UINT32_MAX);
            pico_draft_length_time(&length, &round);
            got += round.n_token;
            seconds += round.other_seconds;
        }
        if (!(got / seconds > 0.97 * best)) {
            fail_msg("rows of %g: %.3f times plain decoding, but %.3f is possible", row[i],
                     got / seconds, best);
        }
    }
}

/* An end leaves drafts of which nothing is known: they count neither as right nor as wrong. */
static void an_end_says_nothing_of_what_is_behind(void **state) {
    pico_draft_length length;
    (void)state;
    pico_draft_length_open(&length, 4, 1);
    pico_draft_length_learn(&length, 4, 4, 1, 1);
    assert_true(length.tried[0] == 1 && length.right[0] == 1 && length.proposed[3] == 1);
    assert_true(length.tried[1] == 0 && length.tried[2] == 0);
    pico_draft_length_learn(&length, 4, 3, 4, 7); /* the third of a tree, behind none of the two */
    assert_true(length.tried[0] == 2 && length.right[0] == 1);
    assert_true(length.tried[1] == 0 && length.right[2] == 1 && length.tried[3] == 0);
}

static void fixed_lengths_stay(void **state) {
    pico_draft_length length;
    (void)state;
    pico_draft_length_open(&length, 7, 0);
    for (uint32_t i = 0; i < 100; i++) {
        assert_int_equal(pico_draft_length_choose(&length, 1), 7);
        pico_draft_length_learn(&length, 7, 7, 0, UINT32_MAX);
        pico_draft_round round = {.n_live = 1, .n_rows = 8, .n_token = 1, .other_seconds = 1};
        pico_draft_length_time(&length, &round);
    }
    pico_draft_length_open(&length, 1000, 0);
    assert_int_equal(pico_draft_length_choose(&length, 1), PICO_DRAFT_MAX);
    pico_draft_length_open(&length, 0, 1);
    assert_int_equal(pico_draft_length_choose(&length, 1), 0);
}

/* (1 - a^(k+1)) / (1 - a) = cost, and its ends. */
static void break_even_solves_its_equation(void **state) {
    (void)state;
    for (uint32_t k = 1; k <= 8; k++) {
        for (double a = 0.05; a < 1; a += 0.1) {
            double tokens = (1 - pow(a, k + 1.0)) / (1 - a);
            assert_true(fabs(pico_draft_break_even(tokens, k) - a) < 1e-9);
        }
        assert_true(pico_draft_break_even(k + 1.0, k) > 1);
        assert_true(pico_draft_break_even(0.9, k) < 1e-9);
    }
    assert_true(isnan(pico_draft_break_even(2, 0)));
    assert_true(isnan(pico_draft_break_even((double)NAN, 3)));
}

static void curves_interpolate(void **state) {
    pico_cost_curve curve = {0};
    (void)state;
    assert_true(isnan(pico_cost_at(&curve, 3)));
    pico_cost_add(&curve, 2, 10);
    assert_true(pico_cost_at(&curve, 1) == 10 && pico_cost_at(&curve, 50) == 10);
    pico_cost_add(&curve, 6, 18);
    assert_true(fabs(pico_cost_at(&curve, 3) - 12) < 1e-9);
    assert_true(fabs(pico_cost_at(&curve, 10) - 26) < 1e-9);
    assert_true(pico_cost_known(&curve, 6) && !pico_cost_known(&curve, 7));
    pico_cost_add(&curve, 6, 14); /* the first sample was a slow one */
    assert_true(pico_cost_at(&curve, 6) == 14);
    pico_cost_add(&curve, 1000, 2000);
    assert_true(fabs(pico_cost_at(&curve, 1000) - 2000) < 1e-9);
    assert_true(pico_cost_at(&curve, 500) > 500 && pico_cost_at(&curve, 500) < 1500);
    pico_cost_add(&curve, UINT32_MAX, 1e9);
    assert_true(pico_cost_at(&curve, UINT32_MAX) > 1e8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_choice_is_near_the_best),
        cmocka_unit_test(it_soon_finds_out),
        cmocka_unit_test(useless_drafts_cost_next_to_nothing),
        cmocka_unit_test(one_cold_round_decides_nothing),
        cmocka_unit_test(a_text_that_grows_is_asked_again),
        cmocka_unit_test(it_follows_changes),
        cmocka_unit_test(trees_are_counted_draft_by_draft),
        cmocka_unit_test(an_end_says_nothing_of_what_is_behind),
        cmocka_unit_test(fixed_lengths_stay),
        cmocka_unit_test(break_even_solves_its_equation),
        cmocka_unit_test(curves_interpolate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
