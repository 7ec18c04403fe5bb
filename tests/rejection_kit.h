/*
 * A million tokens of a model whose logits are the same whatever came before, drawn with accept =
 * rejection from drafts that a bad drafter makes; so the exact distribution of every pair of
 * neighbours is known, and chi-square says how well the draws fit it.
 */
#ifndef PICO_TESTS_REJECTION_KIT_H
#define PICO_TESTS_REJECTION_KIT_H

#include "decode_kit.h"
#include "transform/heads.h"

enum { RK_VOCAB = 5, RK_PAIRS = RK_VOCAB * RK_VOCAB, RK_SLOTS = 64, RK_TOKENS = 500 };

/* Most probable is what the drafter, which likes the last tokens best, drafts least. */
static const float rk_logits[RK_VOCAB] = {1.2f, 0.9f, 0.1f, -0.4f, -1.0f};

typedef struct rk_counts {
    uint64_t pair[RK_PAIRS], n;
    double accepted; /* share of the drafts */
} rk_counts;

/* Gives the model a draft head that shares the output matrix and knows n_known tokens (0: all), with the
 * model's logits times -1 in one slot and times -0.5 in the next. */
static inline void rk_add_head(pico_model_file *file, const int32_t *known, uint32_t n_known) {
    const pico_heads_shape shape = {
        .n_draft = 3, .draft_hidden = 2, .draft_flags = PICO_DRAFT_SHARED_OUTPUT};
    pico_error err = {0};
    if (pico_heads_add(file, &shape, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    int32_t *id = pico_arena_alloc(&file->arena, n_known, sizeof *id);
    assert_non_null(id);
    for (uint32_t i = 0; i < n_known; i++) {
        id[i] = known[i];
    }
    file->desc.n_draft_vocab = n_known;
    file->desc.draft_vocab = id;
    /* the hidden row is ones, and logits come from its first value */
    const pico_weight_desc *fc1 = &pico_model_file_find(file, "draft_fc1.weight")->data;
    const pico_weight_desc *fc2 = &pico_model_file_find(file, "draft_fc2.weight")->data;
    ((float *)(uintptr_t)fc1->codes)[0] = 1;
    for (int64_t slot = 0; slot < 3; slot++) {
        ((float *)(uintptr_t)fc2->codes)[slot * file->desc.n_embd * fc2->cols] =
            slot == 2 ? -1.5f : -2.0f;
    }
}

typedef struct rk_drafter {
    const char *q; /* how the scripted drafter states its distribution; NULL: the model drafts */
    const int32_t *known; /* (n_known) what the model's draft head knows; none: all */
    uint32_t n_known;
    int is_tree;
} rk_drafter;

static inline void rk_draw(const kit_variant *variant, const rk_drafter *drafter, uint64_t n_draws,
                           rk_counts *out) {
    const int is_scripted = drafter->q != NULL;
    const char *const set[] = {"sampler.standard.temperature=1",
                               "sampler.standard.top_k=0",
                               "sampler.standard.top_p=1",
                               is_scripted ? drafter->q : "decoder.spec_draft.heads=draft",
                               !is_scripted       ? "decoder.spec_draft.heads=draft"
                               : drafter->is_tree ? "decoder.scripted.draft_n=6"
                                                  : "decoder.scripted.draft_n=3",
                               !is_scripted       ? drafter->is_tree ? "decoder.spec_draft.branch=3"
                                                                     : "decoder.spec_draft.branch=1"
                               : drafter->is_tree ? "decoder.scripted.shape=tree"
                                                  : "decoder.scripted.shape=chain",
                               variant->set[0][0] == '\0' ? NULL : variant->set[0],
                               NULL};
    rig_setup setup = {.search = PICO_BUILD_DIR "/plugins",
                       .backend = variant->backend,
                       .sampler = "standard",
                       .decoder = is_scripted ? DK_SCRIPTED : "spec_draft",
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
        fixed_model_file(rk_logits, RK_VOCAB, &file, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    if (!is_scripted) {
        rk_add_head(file, drafter->known, drafter->n_known);
    }
    if (rig_model_open(&r, file, PICO_DTYPE_F32, &model, &err) != PICO_OK) {
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
