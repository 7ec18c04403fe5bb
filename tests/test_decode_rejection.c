/* layers: transform */
/*
 * accept = rejection: whatever the drafts, the tokens have the target's distribution. Exact joint
 * probabilities of three tokens of a tiny vocabulary against thousands of samples, with drafts of
 * several kinds; a drafter that misstates its own distribution must be found out by the same test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decode_kit.h"

enum { V = 5, N_CELL = V * V * V, N_SAMPLE = 5000, WITH_HEADS = 4 };

static const int32_t prompt[3] = {2, 0, 4};

/* Probabilities of the token after a sequence, temperature 1. */
static void next_token(const kit *k, pico_session *session, const int32_t *token, uint32_t n,
                       double p[V]) {
    pico_row rows[8];
    pico_forward_out out;
    float z[V];
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        rows[i] = (pico_row){.token = token[i],
                             .prev = i == 0 ? -1 : token[i - 1],
                             .pos = (int32_t)i,
                             .parent = (int32_t)i - 1,
                             .want = i + 1 == n ? PICO_ROW_LOGITS : 0};
    }
    assert_int_equal(pico_session_truncate(session, 0, 0, NULL), PICO_OK);
    assert_int_equal(pico_session_forward(session, rows, n, &out, NULL), PICO_OK);
    assert_int_equal(rig_read(&k->rig, &out.logits, z, V), PICO_OK);
    for (uint32_t i = 0; i < V; i++) {
        sum += p[i] = exp((double)z[i]);
    }
    for (uint32_t i = 0; i < V; i++) {
        p[i] /= sum;
    }
}

/* The joint distribution of three tokens after the prompt. */
static void exact(const kit_variant *variant, uint32_t model, double joint[N_CELL]) {
    kit k = {0};
    dk d;
    dk_options options = {.model = model, .n_vocab = V, .heat = 1};
    dk_open(&d, variant, &options);
    k.rig = d.rig;
    int32_t token[5] = {prompt[0], prompt[1], prompt[2]};
    double p1[V], p2[V], p3[V];
    pico_session *session = pico_decode_session(d.decode);
    next_token(&k, session, token, 3, p1);
    for (int32_t a = 0; a < V; a++) {
        token[3] = a;
        next_token(&k, session, token, 4, p2);
        for (int32_t b = 0; b < V; b++) {
            token[4] = b;
            next_token(&k, session, token, 5, p3);
            for (int32_t c = 0; c < V; c++) {
                joint[(a * V + b) * V + c] = p1[a] * p2[b] * p3[c];
            }
        }
    }
    dk_close(&d);
}

/* Chi-square of N_SAMPLE samples against joint; cells of fewer than 5 expected are put together.
 * Returns the distance in standard deviations of a chi-square variable. */
static double distance(const kit_variant *variant, const dk_options *options,
                       const double joint[N_CELL], double *accepted) {
    uint32_t count[N_CELL] = {0};
    dk d;
    dk_open(&d, variant, options);
    for (uint32_t i = 0; i < N_SAMPLE; i++) {
        pico_request request = {
            .prompt = prompt, .n_prompt = 3, .max_tokens = 3, .seed = 42, .sample = i};
        dk_start(&d, 0, &request);
        dk_run(&d);
        const int32_t *t = pico_decode_slot(d.decode, 0).token + 3;
        count[(t[0] * V + t[1]) * V + t[2]]++;
    }
    const pico_decode_stats *stats = pico_decode_statistics(d.decode);
    *accepted = stats->n_drafted == 0 ? 0 : (double)stats->n_accepted / (double)stats->n_drafted;
    dk_close(&d);
    double chi = 0, rest = 0, rest_seen = 0, cells = -1;
    for (uint32_t i = 0; i < N_CELL; i++) {
        double want = joint[i] * N_SAMPLE;
        if (want < 5) {
            rest += want;
            rest_seen += count[i];
        } else {
            chi += (count[i] - want) * (count[i] - want) / want;
            cells++;
        }
    }
    if (rest >= 5) {
        chi += (rest_seen - rest) * (rest_seen - rest) / rest;
        cells++;
    }
    return (chi - cells) / sqrt(2 * cells);
}

static dk_options rejection(const char *q, const char *shape) {
    return (dk_options){.model = 0,
                        .n_vocab = V,
                        .heat = 1,
                        .decoder = DK_SCRIPTED,
                        .set = {"sampler.standard.temperature=1", "sampler.standard.top_k=0",
                                "sampler.standard.top_p=1", "decoder.scripted.draft_n=2", q, shape},
                        .params = {.accept = PICO_ACCEPT_REJECTION, .max_positions = 16}};
}

static void rejection_keeps_the_distribution(void **state) {
    double joint[N_CELL], accepted;
    const char *const ways[][2] = {
        {"decoder.scripted.q=none", "decoder.scripted.shape=chain"}, /* random, q taken as 1 */
        {"decoder.scripted.q=none", "decoder.scripted.shape=tree"},
        {"decoder.scripted.q=true", "decoder.scripted.shape=chain"},
        {"decoder.scripted.q=true", "decoder.scripted.shape=tree"}};
    exact(*state, 0, joint);
    for (uint32_t i = 0; i < 4; i++) {
        dk_options options = rejection(ways[i][0], ways[i][1]);
        double d = distance(*state, &options, joint, &accepted);
        assert_true(accepted > 0.02 && accepted < 0.98);
        if (!(fabs(d) < 5)) {
            fail_msg("%s, %s: %.1f standard deviations off (%.2f accepted)", ways[i][0], ways[i][1],
                     d, accepted);
        }
    }
    dk_options plain = rejection("decoder.scripted.q=none", "decoder.scripted.shape=chain");
    plain.decoder = NULL; /* and plain decoding, which shows that the expectation is right */
    for (uint32_t i = 3; i < DK_SET; i++) {
        plain.set[i] = NULL;
    }
    assert_true(fabs(distance(*state, &plain, joint, &accepted)) < 5);
}

/* The heads of a model: chains, and trees of which there are as many drafts as fit. */
static void heads_keep_the_distribution(void **state) {
    const char *const ways[][2] = {
        {"decoder.spec_draft.heads=mtp", "decoder.spec_draft.branch=1"},
        {"decoder.spec_draft.heads=mtp", "decoder.spec_draft.branch=3"},
        {"decoder.spec_draft.heads=draft", "decoder.spec_draft.branch=2"},
    };
    double joint[N_CELL], accepted;
    exact(*state, WITH_HEADS, joint);
    for (uint32_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        dk_options options = rejection(ways[i][0], ways[i][1]);
        options.model = WITH_HEADS;
        options.decoder = "spec_draft";
        options.set[3] = ways[i][0];
        options.set[4] = ways[i][1];
        options.set[5] = NULL;
        double d = distance(*state, &options, joint, &accepted);
        assert_true(accepted > 0.02 && accepted < 0.98);
        if (!(fabs(d) < 5)) {
            fail_msg("%s, %s: %.1f standard deviations off (%.2f accepted)", ways[i][0], ways[i][1],
                     d, accepted);
        }
    }
}

/* The test above can fail: drafts from a skewed distribution that is stated as uniform. */
static void a_misstated_distribution_is_found_out(void **state) {
    double joint[N_CELL], accepted;
    dk_options options = rejection("decoder.scripted.q=wrong", "decoder.scripted.shape=chain");
    exact(*state, 0, joint);
    assert_true(distance(*state, &options, joint, &accepted) > 15);
}

int main(void) {
    kit_variant variants[KIT_VARIANTS];
    (void)kit_variants(variants);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(rejection_keeps_the_distribution, &variants[0]),
        cmocka_unit_test_prestate(heads_keep_the_distribution, &variants[0]),
        cmocka_unit_test_prestate(a_misstated_distribution_is_found_out, &variants[0]),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
