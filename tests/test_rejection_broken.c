/* layers: transform */
/*
 * A test of test_rejection_exact.c: the same draws with the verification of the core, but for a
 * residual that is broken on purpose, must not fit. This program brings its own copy of verify.c, in
 * which the residual is the target's distribution as it is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decode/draw.h"

static int no_residual(pico_dist *p, const int32_t *q_token, const double *q_p, uint32_t n) {
    (void)p, (void)q_token, (void)q_p, (void)n;
    return 1;
}

#define pico_dist_residual no_residual
#include "decode/verify.c"
#undef pico_dist_residual

#include "rejection_kit.h"

static void a_broken_residual_is_found_out(void **state) {
    for (uint32_t i = 0; i < 2; i++) { /* chains, trees */
        rk_counts counts;
        const rk_drafter drafter = {.q = "decoder.scripted.q=true", .is_tree = i == 1};
        rk_draw(*state, &drafter, 200000, &counts);
        double p = rk_p_value(&counts);
        print_message("%llu draws, %.1f %% of the drafts accepted, p = %g\n",
                      (unsigned long long)counts.n, 100 * counts.accepted, p);
        assert_true(counts.accepted > 0.05);
        assert_true(p < 1e-9);
    }
}

int main(void) {
    kit_variant variants[KIT_VARIANTS];
    (void)kit_variants(variants);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(a_broken_residual_is_found_out, &variants[1]),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
