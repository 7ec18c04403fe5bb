/* layers: transform */
/*
 * The decoders that draft, with accept = match: whatever drafts, however many, alone and eight
 * together, with any sampling and on any backend, the tokens are those of plain decoding. A draft
 * model that is the target is always right, beyond windows and at the end of the context too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "speculation_kit.h"

/* ---- the same text ---- */

typedef struct tally {
    uint64_t drafted[SK_DRAFTERS], accepted[SK_DRAFTERS];
} tally;

static void plain_answers(const kit_variant *variant, uint32_t way, uint32_t model,
                          dk_result out[SK_REQUESTS]) {
    int32_t prompt[SK_REQUESTS][128];
    pico_request request[SK_REQUESTS];
    dk_options options;
    dk d;
    sk_options(&options, &sk_ways[way], model, NULL, 0);
    dk_open(&d, variant, &options);
    sk_requests(d.n_vocab, prompt, request);
    sk_run(&d, 1, request, out);
    dk_close(&d);
}

static void compare_with(const kit_variant *variant, uint32_t way, uint32_t model, uint32_t drafter,
                         uint32_t k, uint32_t n_slots, const dk_result *plain, tally *sum) {
    static dk_result got[SK_REQUESTS];
    int32_t prompt[SK_REQUESTS][128];
    pico_request request[SK_REQUESTS];
    dk_options options;
    dk d;
    char what[300];
    sk_options(&options, &sk_ways[way], model, &sk_drafters[drafter], k);
    options.params.n_slots = n_slots;
    dk_open(&d, variant, &options);
    (void)snprintf(what, sizeof what, "%s, %s, %s, k %u, %u slots, %u threads", d.what,
                   sk_ways[way].what, sk_drafters[drafter].what, k, n_slots, variant->n_threads);
    sk_requests(d.n_vocab, prompt, request);
    sk_run(&d, n_slots, request, got);
    for (uint32_t i = 0; i < SK_REQUESTS; i++) {
        dk_same(&plain[i], &got[i], what);
    }
    const pico_decode_stats *stats = pico_decode_statistics(d.decode);
    if (drafter == 1 && stats->n_accepted != stats->n_drafted) {
        fail_msg("%s: %llu of %llu drafts accepted", what, (unsigned long long)stats->n_accepted,
                 (unsigned long long)stats->n_drafted);
    }
    sum->drafted[drafter] += stats->n_drafted;
    sum->accepted[drafter] += stats->n_accepted;
    dk_close(&d);
}

/* Every drafter with every k and every way to sample; the number of slots, the threads and the model
 * go along, or take all values too. k 9 stands for auto, 10 for as many as the decoder likes. */
static void drafts_never_change_the_text(void **state) {
    static const uint32_t slots[] = {1, 3, 8};
    static dk_result plain[SK_REQUESTS];
    tally sum = {{0}, {0}};
    uint32_t n_model = sk_all() ? KIT_MODELS : 1;
    for (uint32_t way = 0; way < SK_WAYS; way++) {
        for (uint32_t m = 0; m < n_model + 1; m++) { /* the last one has heads */
            uint32_t model = m == n_model ? SK_WITH_HEADS : sk_all() ? m : way % KIT_MODELS;
            int made = 0;
            for (uint32_t i = 0; i < SK_DRAFTERS * 10; i++) {
                uint32_t drafter = i % SK_DRAFTERS, k = 1 + i / SK_DRAFTERS;
                int fits = (sk_drafters[drafter].model == KIT_MODELS) == (m < n_model);
                kit_variant variant = *(const kit_variant *)*state;
                for (uint32_t s = 0; fits && s < 3; s++) {
                    if (!sk_all() && ((k + way + drafter) % 5 != 0 || s != (k + drafter) % 3)) {
                        continue;
                    }
                    if (!made) {
                        plain_answers(*state, way, model, plain);
                        made = 1;
                    }
                    uint32_t draft_n = k == 9 ? PICO_DRAFT_AUTO : k == 10 ? 0 : k;
                    variant.n_threads = 1 + (k + s) % 2;
                    compare_with(&variant, way, model, drafter, draft_n, slots[s], plain, &sum);
                }
            }
        }
    }
    for (uint32_t i = 0; i < SK_DRAFTERS; i++) {
        print_message("%s: %llu of %llu drafts accepted\n", sk_drafters[i].what,
                      (unsigned long long)sum.accepted[i], (unsigned long long)sum.drafted[i]);
        assert_true(sum.accepted[i] > 0);
        assert_true(i == 1 || sum.accepted[i] < sum.drafted[i]);
    }
}

/* ---- trees ---- */

/* More candidates a place mean fewer rounds for the same text. Of one candidate there are no more
 * drafts than places, of several as many as there is room for. */
static void trees_save_rounds(void **state) {
    static const uint32_t ways[] = {0, 2, 5}; /* temperatures 0, 0.7, 1.5 */
    static dk_result got[SK_REQUESTS];
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t n_round[3], n_most[3];
        for (uint32_t b = 0; b < 3; b++) {
            static const char *const branch[] = {"decoder.spec_draft.branch=1",
                                                 "decoder.spec_draft.branch=3",
                                                 "decoder.spec_draft.branch=8"};
            int32_t prompt[SK_REQUESTS][128];
            pico_request request[SK_REQUESTS];
            dk_options options;
            dk d;
            sk_options(&options, &sk_ways[ways[i]], SK_WITH_HEADS, &sk_drafters[3], 15);
            sk_add_set(&options, branch[b]);
            dk_open(&d, *state, &options);
            sk_requests(d.n_vocab, prompt, request);
            sk_run(&d, 1, request, got);
            const pico_decode_stats *stats = pico_decode_statistics(d.decode);
            n_round[b] = stats->n_decode_round;
            n_most[b] = 0;
            for (uint32_t k = 0; k <= PICO_DRAFT_MAX; k++) {
                n_most[b] = stats->n_by_drafts[k] != 0 ? k : n_most[b];
            }
            dk_close(&d);
        }
        assert_true(n_round[1] < n_round[0] && n_round[2] < n_round[0]);
        assert_true(n_most[0] < 4 && n_most[1] > n_most[0] && n_most[2] == 15);
    }
}

/* ---- drafts that are not made ---- */

/* The more probable a draft must be, the fewer there are, chains and trees alike. */
static void unsure_heads_draft_less(void **state) {
    static const char *const least[] = {
        "decoder.spec_draft.p_min=0", "decoder.spec_draft.p_min=0.1",
        "decoder.spec_draft.p_min=0.4", "decoder.spec_draft.p_min=1"};
    static const char *const branch[] = {"decoder.spec_draft.branch=1",
                                         "decoder.spec_draft.branch=3"};
    static dk_result got[SK_REQUESTS];
    for (uint32_t b = 0; b < 2; b++) {
        uint64_t n_drafted[4];
        for (uint32_t i = 0; i < 4; i++) {
            int32_t prompt[SK_REQUESTS][128];
            pico_request request[SK_REQUESTS];
            dk_options options;
            dk d;
            sk_options(&options, &sk_ways[0], SK_WITH_HEADS, &sk_drafters[4], 15);
            sk_add_set(&options, least[i]);
            sk_add_set(&options, branch[b]);
            dk_open(&d, *state, &options);
            sk_requests(d.n_vocab, prompt, request);
            sk_run(&d, 1, request, got);
            n_drafted[i] = pico_decode_statistics(d.decode)->n_drafted;
            dk_close(&d);
        }
        assert_true(n_drafted[0] > n_drafted[1] && n_drafted[1] > n_drafted[2]);
        assert_true(n_drafted[2] > n_drafted[3] && n_drafted[3] < 10);
    }
}

/* ---- the target as its own draft model ---- */

typedef struct stretch {
    const char *what;
    uint32_t model, n_prompt, n_new, max_positions, window_limit, max_timeline;
    int32_t window[4];
    uint32_t finish;
} stretch;

static const stretch stretches[] = {
    {"windows of the model", 1, 10, 200, 0, 0, 0, {16, -1, 70, 5}, PICO_FINISH_LENGTH},
    {"a sliding context", 0, 150, 200, 400, 48, 0, {0}, PICO_FINISH_LENGTH},
    {"a sliding context and smear", 5, 40, 200, 400, 64, 0, {0}, PICO_FINISH_LENGTH},
    {"the end of the context", 3, 30, 200, 101, 0, 0, {0}, PICO_FINISH_CONTEXT},
    {"the end of learned positions", 2, 30, 450, 0, 0, 0, {0}, PICO_FINISH_CONTEXT},
    {"learned positions, run again", 2, 30, 450, 380, 0, 500, {0}, PICO_FINISH_LENGTH},
    {"learned positions, a long prompt", 2, 400, 60, 380, 0, 500, {0}, PICO_FINISH_LENGTH},
};

static void the_target_is_always_right(void **state) {
    static dk_result plain, got;
    for (uint32_t i = 0; i < sizeof stretches / sizeof *stretches; i++) {
        const stretch *s = &stretches[i];
        int32_t prompt[512];
        for (uint32_t k = 0; k <= 8; k++) { /* 0: plain */
            char what[300];
            dk_options options;
            dk d;
            if (k != 0 && !sk_all() && (k + i) % 3 != 0) {
                continue;
            }
            sk_options(&options, &sk_ways[i % 2 == 0 ? 2 : 5], s->model,
                       k == 0 ? NULL : &sk_drafters[1], k);
            options.params.max_positions = s->max_positions;
            options.params.window_limit = s->window_limit;
            options.params.max_timeline = s->max_timeline;
            memcpy(options.window, s->window, sizeof options.window);
            dk_open(&d, *state, &options);
            dk_prompt(9, d.n_vocab, s->n_prompt, prompt);
            pico_request request = {
                .prompt = prompt, .n_prompt = s->n_prompt, .max_tokens = s->n_new, .seed = 4};
            dk_start(&d, 0, &request);
            dk_run(&d);
            dk_take(&d, 0, k == 0 ? &plain : &got);
            (void)snprintf(what, sizeof what, "%s, %s, k %u", d.what, s->what, k);
            const pico_decode_stats *stats = pico_decode_statistics(d.decode);
            if (k == 0) {
                assert_int_equal(plain.finish, s->finish);
            } else {
                dk_same(&plain, &got, what);
                if (stats->n_accepted != stats->n_drafted || stats->n_drafted == 0) {
                    fail_msg("%s: %llu of %llu drafts accepted", what,
                             (unsigned long long)stats->n_accepted,
                             (unsigned long long)stats->n_drafted);
                }
            }
            dk_close(&d);
        }
    }
}

/* ---- ends ---- */

/* End tokens and stop strings inside accepted runs: the draft model that is the target drafts beyond
 * them. Tokens, reason and text are those of plain decoding. */
static void answers_end_inside_accepted_runs(void **state) {
    uint32_t n_end = 0, n_stop = 0;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        static dk_result result[2];
        static dk_text text[2];
        const char *const stop[] = {"ab", "cad", "l"};
        for (uint32_t turn = 0; turn < 2; turn++) {
            int32_t prompt[5];
            dk_options options;
            dk d;
            sk_options(&options, &sk_ways[3], 3, turn == 0 ? NULL : &sk_drafters[1], 7);
            options.with_vocabulary = 1;
            dk_open(&d, *state, &options);
            dk_prompt(seed, d.n_vocab, 5, prompt);
            memset(&text[turn], 0, sizeof text[turn]);
            pico_request request = {.prompt = prompt,
                                    .n_prompt = 5,
                                    .max_tokens = 60,
                                    .seed = seed,
                                    .stop = stop,
                                    .n_stop = seed % 2 == 0 ? 3 : 0,
                                    .on_text = dk_collect,
                                    .arg = &text[turn]};
            dk_start(&d, 0, &request);
            dk_run(&d);
            dk_take(&d, 0, &result[turn]);
            dk_close(&d);
        }
        dk_same(&result[0], &result[1], "until an end");
        assert_string_equal(text[0].text, text[1].text);
        n_end += result[0].finish == PICO_FINISH_END;
        n_stop += result[0].finish == PICO_FINISH_STOP;
    }
    assert_true(n_end > 0 && n_stop > 0);
}

/* ---- failures ---- */

/* The n-th operation of the device fails, in a draft or in the target's round: tokens and length of
 * the session stay as they were, and the answer is the one that would have come anyway. */
static void a_failed_round_changes_nothing(void **state) {
    static const uint32_t drafters[] = {1, 2, 3, 4, 7, 9};
    for (uint32_t i = 0; i < sizeof drafters / sizeof *drafters; i++) {
        static dk_result plain, got;
        const sk_drafter *drafter = &sk_drafters[drafters[i]];
        uint32_t model = drafter->model == KIT_MODELS ? 0 : drafter->model, n_failed = 0;
        int32_t prompt[30];
        for (int64_t n = -1; n < 1200; n += sk_all() ? 1 : 29) {
            const uint32_t kinds[] = {FAULT_OP, FAULT_READ, FAULT_WRITE};
            dk_options options;
            dk d;
            pico_error err = {0};
            uint32_t live = 1;
            sk_options(&options, &sk_ways[2], model, n < 0 ? NULL : drafter, 4);
            dk_open(&d, *state, &options);
            dk_prompt(9, d.n_vocab, 30, prompt);
            pico_request request = {.prompt = prompt, .n_prompt = 30, .max_tokens = 20, .seed = 4};
            dk_start(&d, 0, &request);
            fault_arm(&d.rig.fault, kinds[(uint64_t)n % 3], n < 0 ? -1 : n / 3);
            while (live != 0) {
                pico_session *session = pico_decode_session(d.decode);
                uint32_t n_token = pico_decode_slot(d.decode, 0).n_token;
                uint32_t length = pico_session_length(session, 0);
                if (pico_decode_round(d.decode, &live, &err) != PICO_OK) {
                    int kept = n_token != pico_decode_slot(d.decode, 0).n_token; /* in observe */
                    assert_true(kept || length == pico_session_length(session, 0));
                    assert_true(!kept || strcmp(drafter->decoder, "spec_draft") == 0);
                    live = pico_decode_slot(d.decode, 0).finish == PICO_FINISH_NONE;
                    n_failed++;
                }
            }
            dk_take(&d, 0, n < 0 ? &plain : &got);
            if (n >= 0) {
                dk_same(&plain, &got, drafter->what);
            }
            dk_close(&d);
        }
        assert_true(n_failed > 10);
    }
}

/* ---- other models ---- */

static void models_that_do_not_fit_are_refused(void **state) {
    const struct {
        const char *decoder, *set, *says;
    } cases[] = {
        {"spec_model", "decoder.spec_model.draft_model=stranger", "has 62 tokens, the target 61"},
        {"spec_draft", "decoder.spec_draft.heads=auto", "no multi-token or draft heads"},
        {"spec_draft", "decoder.spec_draft.heads=mtp", "no multi-token heads"},
        {"spec_draft", "decoder.spec_draft.heads=draft", "no draft head"},
    };
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dk_options options = {.model = 0};
        dk d;
        pico_decode *decode = NULL;
        pico_error err = {0};
        sk_add_set(&options, cases[i].set);
        options.decoder = "greedy";
        dk_open(&d, *state, &options);
        pico_instance instance;
        char section[64];
        (void)snprintf(section, sizeof section, "decoder.%s", cases[i].decoder);
        assert_int_equal(pico_registry_create(d.rig.registry, d.rig.config, PICO_KIND_DECODER,
                                              cases[i].decoder, section, &d.rig.host, &instance,
                                              &err),
                         PICO_OK);
        pico_decode_params params = {.sampler = &d.rig.sampler.loaded->ops.sampler,
                                     .sampler_self = d.rig.sampler.self,
                                     .decoder = &instance.loaded->ops.decoder,
                                     .decoder_self = instance.self,
                                     .decoder_name = cases[i].decoder,
                                     .n_slots = 1,
                                     .ubatch = 8,
                                     .repetition = 1};
        assert_int_equal(pico_decode_open(d.model, &params, &decode, &err), PICO_E_UNSUPPORTED);
        if (strstr(err.message, cases[i].says) == NULL) {
            fail_msg("\"%s\" does not say \"%s\"", err.message, cases[i].says);
        }
        dk_close(&d);
    }
}

int main(void) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(drafts_never_change_the_text),
        cmocka_unit_test(trees_save_rounds),
        cmocka_unit_test(unsure_heads_draft_less),
        cmocka_unit_test(the_target_is_always_right),
        cmocka_unit_test(answers_end_inside_accepted_runs),
        cmocka_unit_test(a_failed_round_changes_nothing),
        cmocka_unit_test(models_that_do_not_fit_are_refused),
    };
    return KIT_RUN("speculation", tests);
}
