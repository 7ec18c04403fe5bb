/*
 * Decoders that draft, over small random models: which there are, the ways to sample, requests, and
 * plain answers to compare with. PICOCHAT_TEST_ALL=1 in the environment: every combination instead
 * of a spread of them.
 */
#ifndef PICO_TESTS_SPECULATION_KIT_H
#define PICO_TESTS_SPECULATION_KIT_H

#include "decode_kit.h"

enum { SK_REQUESTS = 8, SK_DRAFTERS = 14, SK_WAYS = 8, SK_WITH_HEADS = 4 };

typedef struct sk_drafter {
    const char *what, *decoder;
    const char *set;
    uint32_t model; /* KIT_MODELS: any */
    uint32_t draft; /* TINY_DRAFT_x */
} sk_drafter;

static const sk_drafter sk_drafters[SK_DRAFTERS] = {
    {"lookup", "spec_lookup", "decoder.spec_lookup.ngram_min=1", KIT_MODELS, 0},
    {"the same model", "spec_model", "decoder.spec_model.draft_model=twin", KIT_MODELS, 0},
    {"a similar model", "spec_model", "decoder.spec_model.draft_model=cousin", KIT_MODELS, 0},
    {"multi-token heads", "spec_draft", "decoder.spec_draft.heads=mtp", SK_WITH_HEADS, 0},
    {"draft head", "spec_draft", "decoder.spec_draft.heads=draft", SK_WITH_HEADS, 0},
    {"a similar model, if it is sure", "spec_model", "decoder.spec_model.draft_model=cousin",
     KIT_MODELS, 0},
    {"draft head with the output matrix", "spec_draft", "decoder.spec_draft.heads=draft",
     SK_WITH_HEADS, TINY_DRAFT_SHARED},
    {"draft head with some of its rows", "spec_draft", "decoder.spec_draft.heads=draft",
     SK_WITH_HEADS, TINY_DRAFT_REDUCED},
    {"a tree of multi-token heads", "spec_draft", "decoder.spec_draft.heads=mtp", SK_WITH_HEADS, 0},
    {"a tree of a draft head", "spec_draft", "decoder.spec_draft.heads=draft", SK_WITH_HEADS, 0},
    {"a tree of some rows", "spec_draft", "decoder.spec_draft.heads=draft", SK_WITH_HEADS,
     TINY_DRAFT_REDUCED},
    {"draft head that reads the token", "spec_draft", "decoder.spec_draft.heads=draft",
     SK_WITH_HEADS, TINY_DRAFT_OWN | TINY_DRAFT_READS},
    {"a tree of one that reads it", "spec_draft", "decoder.spec_draft.heads=draft", SK_WITH_HEADS,
     TINY_DRAFT_SHARED | TINY_DRAFT_READS},
    {"draft head, if it is sure", "spec_draft", "decoder.spec_draft.heads=draft", SK_WITH_HEADS,
     TINY_DRAFT_OWN},
};

typedef struct sk_way {
    const char *what;
    const char *set[4];
    float repetition, presence, frequency;
    uint32_t window_limit;
} sk_way;

static const sk_way sk_ways[SK_WAYS] = {
    {"temperature 0", {"sampler.standard.temperature=0"}, 1, 0, 0, 0},
    {"temperature 0 with penalties", {"sampler.standard.temperature=0"}, 1.3f, 0.2f, 0.1f, 0},
    {"temperature 0.7, top-k, top-p",
     {"sampler.standard.temperature=0.7", "sampler.standard.top_k=9", "sampler.standard.top_p=0.9"},
     1,
     0,
     0,
     0},
    {"temperature 1, all tokens",
     {"sampler.standard.temperature=1", "sampler.standard.top_k=0", "sampler.standard.top_p=1"},
     1,
     0,
     0,
     0},
    {"temperature 1.5, top-p, penalties",
     {"sampler.standard.temperature=1.5", "sampler.standard.top_k=0",
      "sampler.standard.top_p=0.95"},
     1.1f,
     0.4f,
     0.1f,
     0},
    {"temperature 1.5, top-k",
     {"sampler.standard.temperature=1.5", "sampler.standard.top_k=12", "sampler.standard.top_p=1"},
     1,
     0,
     0,
     0},
    {"temperature 1, min-p, sliding",
     {"sampler.standard.temperature=1", "sampler.standard.top_k=20", "sampler.standard.top_p=1",
      "sampler.standard.min_p=0.05"},
     1,
     0,
     0,
     24},
    {"temperature 0.7, penalties, sliding",
     {"sampler.standard.temperature=0.7", "sampler.standard.top_k=0", "sampler.standard.top_p=0.8"},
     1.2f,
     0,
     0.2f,
     40},
};

static inline int sk_all(void) {
    const char *all = getenv("PICOCHAT_TEST_ALL");
    return all != NULL && all[0] == '1';
}

static inline void sk_add_set(dk_options *options, const char *assignment) {
    uint32_t i = 0;
    while (options->set[i] != NULL) {
        i++;
    }
    assert_true(i + 1 < DK_SET);
    options->set[i] = assignment;
}

/* drafter NULL: the plain decoder. */
static inline void sk_options(dk_options *options, const sk_way *way, uint32_t model,
                              const sk_drafter *drafter, uint32_t draft_n) {
    *options = (dk_options){.model = model, .heat = 3};
    memcpy(options->set, way->set, sizeof way->set);
    options->params.repetition = way->repetition;
    options->params.presence = way->presence;
    options->params.frequency = way->frequency;
    options->params.window_limit = way->window_limit;
    options->params.max_positions = 220;
    if (drafter != NULL) {
        options->decoder = drafter->decoder;
        options->draft = drafter->draft;
        options->params.draft_n = draft_n;
        sk_add_set(options, drafter->set);
        if (strstr(drafter->what, "sure") != NULL) {
            sk_add_set(options, strcmp(drafter->decoder, "spec_model") == 0
                                    ? "decoder.spec_model.p_min=0.3"
                                    : "decoder.spec_draft.p_min=0.1");
        }
        if (strstr(drafter->what, "tree") != NULL) {
            sk_add_set(options, "decoder.spec_draft.branch=4");
        }
    }
}

/* Requests that differ in everything: prompts of 1 to 90 tokens, some of which repeat themselves. */
static inline void sk_requests(uint32_t n_vocab, int32_t prompt[SK_REQUESTS][128],
                               pico_request *out) {
    static const uint32_t n_prompt[SK_REQUESTS] = {1, 20, 90, 64, 33, 7, 48, 12};
    static const uint32_t n_new[SK_REQUESTS] = {70, 41, 35, 30, 66, 50, 20, 61};
    for (uint32_t i = 0; i < SK_REQUESTS; i++) {
        uint32_t period = i % 2 == 0 ? 128 : 5 + i;
        dk_prompt(77 + i, n_vocab, n_prompt[i], prompt[i]);
        for (uint32_t j = period; j < n_prompt[i]; j++) {
            prompt[i][j] = prompt[i][j - period];
        }
        out[i] = (pico_request){.prompt = prompt[i],
                                .n_prompt = n_prompt[i],
                                .max_tokens = n_new[i],
                                .seed = 5 + i,
                                .sample = i};
    }
}

/* Runs the requests as many at a time as there are slots; results in their order. */
static inline void sk_run(dk *d, uint32_t n_slots, const pico_request *request, dk_result *out) {
    for (uint32_t i = 0; i < SK_REQUESTS;) {
        uint32_t n = 0;
        while (n < n_slots && i + n < SK_REQUESTS) {
            dk_start(d, n, &request[i + n]);
            n++;
        }
        dk_run(d);
        for (uint32_t s = 0; s < n; s++) {
            dk_take(d, s, &out[i + s]);
        }
        i += n;
    }
}

#endif
