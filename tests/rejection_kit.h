/*
 * A million tokens of a model whose logits are the same whatever came before, drawn with accept =
 * rejection from drafts that a bad drafter makes; so the exact distribution of every pair of
 * neighbours is known, and chi-square says how well the draws fit it.
 */
#ifndef PICO_TESTS_REJECTION_KIT_H
#define PICO_TESTS_REJECTION_KIT_H

#include "decode_kit.h"

enum { RK_VOCAB = 5, RK_PAIRS = RK_VOCAB * RK_VOCAB, RK_SLOTS = 64, RK_TOKENS = 500 };

/* Most probable is what the drafter, which likes the last tokens best, drafts least. */
static const float rk_logits[RK_VOCAB] = {1.2f, 0.9f, 0.1f, -0.4f, -1.0f};

typedef struct rk_counts {
    uint64_t pair[RK_PAIRS], n;
    double accepted; /* share of the drafts */
} rk_counts;

/* q: how the scripted drafter states its distribution. */
static inline void rk_draw(const kit_variant *variant, const char *q, int is_tree, uint64_t n_draws,
                           rk_counts *out) {
    const char *const set[] = {
        "sampler.standard.temperature=1",
        "sampler.standard.top_k=0",
        "sampler.standard.top_p=1",
        is_tree ? "decoder.scripted.draft_n=6" : "decoder.scripted.draft_n=3",
        is_tree ? "decoder.scripted.shape=tree" : "decoder.scripted.shape=chain",
        q,
        variant->set[0][0] == '\0' ? NULL : variant->set[0],
        NULL};
    rig_setup setup = {.search = PICO_BUILD_DIR "/plugins",
                       .backend = variant->backend,
                       .sampler = "standard",
                       .decoder = DK_SCRIPTED,
                       .set = set,
                       .n_threads = 1};
    rig r;
    pico_model_file *file = NULL;
    pico_model *model = NULL;
    pico_decode *decode = NULL;
    pico_error err = {0};
    int32_t prompt[1] = {2};
    memset(out, 0, sizeof *out);
    if (rig_open(&r, &setup, &err) != PICO_OK ||
        fixed_model_file(rk_logits, RK_VOCAB, &file, &err) != PICO_OK ||
        rig_model_open(&r, file, PICO_DTYPE_F32, &model, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    pico_decode_params params = {.sampler = &r.sampler.loaded->ops.sampler,
                                 .sampler_self = r.sampler.self,
                                 .decoder = &r.decoder.loaded->ops.decoder,
                                 .decoder_self = r.decoder.self,
                                 .n_slots = RK_SLOTS,
                                 .ubatch = 8,
                                 .max_positions = RK_TOKENS + 2,
                                 .accept = PICO_ACCEPT_REJECTION,
                                 .repetition = 1};
    if (pico_decode_open(model, &params, &decode, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    for (uint64_t seed = 1; out->n < n_draws; seed++) {
        for (uint32_t s = 0; s < RK_SLOTS; s++) {
            pico_request request = {.prompt = prompt,
                                    .n_prompt = 1,
                                    .max_tokens = RK_TOKENS,
                                    .seed = seed,
                                    .sample = s};
            assert_int_equal(pico_decode_start(decode, s, &request, &err), PICO_OK);
        }
        if (pico_decode_run(decode, NULL, NULL, &err) != PICO_OK) {
            fail_msg("%s", err.message);
        }
        for (uint32_t s = 0; s < RK_SLOTS; s++) {
            const int32_t *token = pico_decode_slot(decode, s).token + 1;
            for (uint32_t i = 0; i + 1 < RK_TOKENS; i += 2) { /* pairs that do not overlap */
                out->pair[token[i] * RK_VOCAB + token[i + 1]]++;
                out->n += 2;
            }
        }
    }
    const pico_decode_stats *stats = pico_decode_statistics(decode);
    out->accepted = (double)stats->n_accepted / (double)stats->n_drafted;
    pico_decode_close(decode);
    pico_model_close(model);
    rig_close(&r);
}

/* The probability that exact draws fit worse than these, by chi-square with 24 degrees of freedom:
 * exp(-x/2) times the sum of (x/2)^i / i! for i < 12. */
static inline double rk_p_value(const rk_counts *counts) {
    double p[RK_VOCAB], sum = 0, chi = 0, n = (double)counts->n / 2, term = 1, series = 0;
    for (uint32_t i = 0; i < RK_VOCAB; i++) {
        sum += p[i] = exp((double)rk_logits[i]);
    }
    for (uint32_t i = 0; i < RK_PAIRS; i++) {
        double want = n * p[i / RK_VOCAB] / sum * p[i % RK_VOCAB] / sum;
        double off = (double)counts->pair[i] - want;
        chi += off * off / want;
    }
    for (uint32_t i = 0; i < 12; i++) {
        series += term;
        term *= chi / 2 / (i + 1);
    }
    return exp(-chi / 2) * series;
}

#endif
