/* layers: transform */
/*
 * accept = rejection over a million draws with a deliberately bad draft: the tokens have exactly the
 * target's distribution, chi-square p > 0.01. A drafter that misstates its distribution is found out.
 * test_rejection_broken.c shows that a wrong residual is found out, too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rejection_kit.h"

static void a_million_draws_fit(void **state) {
    const char *const ways[] = {"decoder.scripted.q=true", "decoder.scripted.q=none"};
    for (uint32_t i = 0; i < 4; i++) {
        rk_counts counts;
        uint64_t n = i % 2 == 0 ? 1000000 : 200000;
        const rk_drafter drafter = {.q = ways[i % 2], .is_tree = i >= 2};
        rk_draw(*state, &drafter, n, &counts);
        double p = rk_p_value(&counts);
        print_message("%s, %s: %llu draws, %.1f %% of the drafts accepted, p = %.3f\n", ways[i % 2],
                      i < 2 ? "chain" : "tree", (unsigned long long)counts.n, 100 * counts.accepted,
                      p);
        assert_true(counts.n >= n && counts.accepted > 0.05 && counts.accepted < 0.6);
        assert_true(p > 0.01);
    }
}

static void a_misstated_draft_does_not(void **state) {
    rk_counts counts;
    for (int is_tree = 0; is_tree < 2; is_tree++) {
        const rk_drafter drafter = {.q = "decoder.scripted.q=wrong", .is_tree = is_tree};
        rk_draw(*state, &drafter, 100000, &counts);
        assert_true(rk_p_value(&counts) < 1e-9);
    }
}

/* A draft head that thinks the opposite of the model, with all tokens and with three of the five: what
 * it does not know still comes as often as it must. */
static void heads_that_know_some_tokens_fit(void **state) {
    const int32_t known[] = {1, 3, 4};
    const rk_drafter drafters[] = {{.n_known = 0},
                                   {.known = known, .n_known = 3},
                                   {.is_tree = 1},
                                   {.known = known, .n_known = 3, .is_tree = 1}};
    for (uint32_t i = 0; i < 4; i++) {
        rk_counts counts;
        rk_draw(*state, &drafters[i], 300000, &counts);
        double p = rk_p_value(&counts);
        print_message("draft head, %u tokens known, %s: %.1f %% of the drafts accepted, p = %.3f\n",
                      i % 2 == 0 ? RK_VOCAB : drafters[i].n_known,
                      drafters[i].is_tree ? "tree" : "chain", 100 * counts.accepted, p);
        assert_true(counts.accepted > 0.05 && counts.accepted < 0.8);
        assert_true(p > 0.01);
    }
}

int main(void) {
    kit_variant variants[KIT_VARIANTS];
    (void)kit_variants(variants);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(a_million_draws_fit, &variants[1]),
        cmocka_unit_test_prestate(heads_that_know_some_tokens_fit, &variants[1]),
        cmocka_unit_test_prestate(a_misstated_draft_does_not, &variants[1]),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
