/*
 * Samplers: distributions that are distributions, for ordinary and for hostile logits, from
 * candidates and from whole rows; purity; the state of stateful ones.
 */
#include <math.h>

#include "conform/kit.h"

typedef struct bench {
    conform *c;
    rig r;
    const pico_sampler_ops *ops;
    void *self;
    pico_sampler_need need;
    _Alignas(16) unsigned char state[256 + 64];
} bench;

enum { GUARD_BYTE = 0xa5 };

static void bench_open(conform *c, bench *b, const char *extra) {
    memset(b, 0, sizeof *b);
    b->c = c;
    conform_rig(c, &b->r, extra);
    b->ops = &b->r.sampler.loaded->ops.sampler;
    b->self = b->r.sampler.self;
    b->need.struct_size = sizeof b->need;
    CHECK(c, b->ops->need(b->self, &b->need) == PICO_OK, "need fails");
    CHECK(c, b->need.state_bytes <= 256, "a state of %u bytes; 256 are allowed",
          b->need.state_bytes);
    memset(b->state, GUARD_BYTE, sizeof b->state);
    if (b->ops->state_init != NULL) {
        b->ops->state_init(b->self, b->state);
    }
}

/* A distribution with room for the vocabulary. */
static pico_dist make_dist(conform *c, uint32_t n_vocab) {
    return (pico_dist){.capacity = n_vocab,
                       .token = conform_alloc(c, n_vocab, sizeof(int32_t)),
                       .p = conform_alloc(c, n_vocab, sizeof(double))};
}

static void free_dist(pico_dist *dist) {
    free(dist->token);
    free(dist->p);
}

/* Checks a distribution and spreads it over the vocabulary. */
static void spread(bench *b, const pico_dist *dist, uint32_t n_vocab, const char *what,
                   double *out) {
    conform *c = b->c;
    double sum = 0;
    CHECK(c, dist->n >= 1 && dist->n <= n_vocab, "%s: %u entries for %u tokens", what, dist->n,
          n_vocab);
    for (uint32_t i = 0; i < n_vocab; i++) {
        out[i] = -1;
    }
    for (uint32_t i = 0; i < dist->n; i++) {
        int32_t token = dist->token[i];
        CHECK(c, token >= 0 && (uint32_t)token < n_vocab, "%s: token %d of %u", what, token,
              n_vocab);
        CHECK(c, out[token] < 0, "%s: token %d is listed twice", what, token);
        CHECK(c, isfinite(dist->p[i]) && dist->p[i] >= 0, "%s: token %d has probability %g", what,
              token, dist->p[i]);
        out[token] = dist->p[i];
        sum += dist->p[i];
    }
    CHECK(c, fabs(sum - 1) < 1e-9, "%s: the probabilities sum to %.12g", what, sum);
    for (uint32_t i = 0; i < n_vocab; i++) {
        out[i] = out[i] < 0 ? 0 : out[i];
    }
}

static pico_status whole_row(bench *b, const float *logits, uint32_t n_vocab, pico_dist *dist) {
    const pico_candidates row = {.n = n_vocab, .n_vocab = n_vocab, .logit = logits, .log_sum = NAN};
    dist->n = 0;
    return b->ops->dist(b->self, &row, b->state, dist);
}

/* The best k of the row, as the host hands them over. */
static pico_status best_of_row(bench *b, const float *logits, uint32_t n_vocab, pico_dist *dist) {
    conform *c = b->c;
    uint32_t k = b->need.k < 1 ? 1 : b->need.k < n_vocab ? b->need.k : n_vocab;
    int32_t *token = conform_alloc(c, k, sizeof *token);
    float *value = conform_alloc(c, k, sizeof *value);
    unsigned char *taken = conform_alloc(c, n_vocab, 1);
    double sum = 0, top = -INFINITY;
    for (uint32_t i = 0; i < k; i++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t j = 0; j < n_vocab; j++) {
            if (!taken[j] && (best == UINT32_MAX || logits[j] > logits[best])) {
                best = j;
            }
        }
        taken[best] = 1;
        token[i] = (int32_t)best;
        value[i] = logits[best];
    }
    top = (double)value[0] * (double)b->need.inv_temperature;
    for (uint32_t j = 0; j < n_vocab; j++) {
        sum += exp((double)logits[j] * (double)b->need.inv_temperature - top);
    }
    const pico_candidates row = {.n = k,
                                 .n_vocab = n_vocab,
                                 .token = token,
                                 .logit = value,
                                 .log_sum = k == n_vocab ? NAN : (double)(float)(top + log(sum))};
    dist->n = 0;
    pico_status status = b->ops->dist(b->self, &row, b->state, dist);
    free(token), free(value), free(taken);
    return status;
}

static void random_row(conform *c, float *logits, uint32_t n, double spread_of_logits) {
    for (uint32_t i = 0; i < n; i++) {
        double u = rig_uniform(&c->random), v = rig_uniform(&c->random);
        logits[i] = (float)(spread_of_logits * sqrt(-2 * log(u)) * cos(6.283185307 * v));
    }
}

static const uint32_t vocabs[] = {1, 2, 7, 100, 3000};
enum { N_VOCAB = sizeof vocabs / sizeof *vocabs };

/* ---- tests ---- */

static void need_is_plausible(conform *c) {
    bench b;
    bench_open(c, &b, NULL);
    pico_sampler_need again = {.struct_size = sizeof again};
    CHECK(c, b.need.kind >= PICO_NEED_ARGMAX && b.need.kind <= PICO_NEED_FULL, "need %u is none",
          b.need.kind);
    CHECK(c, b.need.kind != PICO_NEED_TOP_K || b.need.k >= 1, "top-k of %u candidates", b.need.k);
    CHECK(c,
          b.need.kind != PICO_NEED_TOP_K ||
              (isfinite(b.need.inv_temperature) && b.need.inv_temperature > 0),
          "an inverse temperature of %g", (double)b.need.inv_temperature);
    CHECK(c, (b.ops->state_init == NULL) == (b.ops->state_next == NULL),
          "state_init and state_next: both or neither");
    CHECK(c, b.need.state_bytes == 0 || b.ops->state_init != NULL, "a state without state_init");
    CHECK(c, b.ops->need(b.self, &again) == PICO_OK && memcmp(&again, &b.need, sizeof again) == 0,
          "need changes its mind");
}

static void skip_argmax(bench *b) {
    if (b->need.kind == PICO_NEED_ARGMAX) {
        conform_skip(b->c, "it asks for the best token only");
    }
}

/* Valid distributions, the same when asked again after other rows. */
static void check_rows(bench *b, const char *what) {
    conform *c = b->c;
    for (uint32_t v = 0; v < N_VOCAB; v++) {
        uint32_t n = vocabs[v];
        float *logits = conform_alloc(c, n, 4), *other = conform_alloc(c, n, 4);
        double *p = conform_alloc(c, n, 8), *q = conform_alloc(c, n, 8);
        pico_dist dist = make_dist(c, n);
        for (uint32_t turn = 0; turn < 8; turn++) {
            random_row(c, logits, n, turn < 4 ? 3 : 30);
            random_row(c, other, n, 1);
            CHECK(c, whole_row(b, logits, n, &dist) == PICO_OK, "%s: no distribution of a row",
                  what);
            spread(b, &dist, n, what, p);
            (void)whole_row(b, other, n, &dist);
            CHECK(c, whole_row(b, logits, n, &dist) == PICO_OK, "%s: no distribution", what);
            spread(b, &dist, n, what, q);
            CHECK(c, memcmp(p, q, n * sizeof *p) == 0, "%s: asked twice, two distributions", what);
        }
        free(logits), free(other), free(p), free(q);
        free_dist(&dist);
    }
}

static void rows_give_distributions(conform *c) {
    bench b;
    bench_open(c, &b, NULL);
    skip_argmax(&b);
    check_rows(&b, "a row");
}

/* The options at their ends, where a sampler has numbers as options. */
static void extreme_options_give_distributions(conform *c) {
    rig probe;
    conform_rig(c, &probe, NULL);
    pico_plugin p = probe.sampler.loaded->plugin;
    uint32_t n = 0;
    for (uint32_t i = 0; i < 2 * p.n_options; i++) {
        const pico_option *o =
            (const void *)((const char *)p.options + (size_t)(i / 2) * p.option_size);
        char extra[160];
        bench b;
        if ((o->type != PICO_OPT_INT && o->type != PICO_OPT_FLOAT) || o->min == o->max) {
            continue;
        }
        double value = i % 2 == 0 ? o->min : o->max;
        (void)snprintf(extra, sizeof extra,
                       o->type == PICO_OPT_INT ? "%s.%s.%s=%.0f" : "%s.%s.%s=%.17g",
                       pico_kind_name(c->kind), c->name, o->name, value);
        bench_open(c, &b, extra);
        if (b.need.kind != PICO_NEED_ARGMAX) {
            check_rows(&b, extra);
            n++;
        }
        rig_close(&b.r);
    }
    if (n == 0) {
        conform_skip(c, "it has no options that are numbers");
    }
}

/* What the candidates give is what the whole row gives, or the candidates are too few. */
static void candidates_equal_the_whole_row(conform *c) {
    bench b;
    bench_open(c, &b, NULL);
    if (b.need.kind != PICO_NEED_TOP_K) {
        conform_skip(c, "it does not ask for candidates");
    }
    for (uint32_t turn = 0; turn < 60; turn++) {
        uint32_t n = vocabs[turn % N_VOCAB], enough = 0;
        float *logits = conform_alloc(c, n, 4);
        double *p = conform_alloc(c, n, 8), *q = conform_alloc(c, n, 8);
        pico_dist dist = make_dist(c, n);
        random_row(c, logits, n, turn % 3 == 0 ? 1 : 6);
        for (uint32_t i = 0; turn % 4 == 3 && i < n; i++) {
            logits[i] = floorf(logits[i]); /* ties */
        }
        pico_status status = best_of_row(&b, logits, n, &dist);
        enough = status == PICO_OK;
        CHECK(c, enough || status == PICO_E_LIMIT, "dist of candidates gives %d", (int)status);
        if (enough) {
            spread(&b, &dist, n, "candidates", p);
            CHECK(c, whole_row(&b, logits, n, &dist) == PICO_OK, "no distribution of a whole row");
            spread(&b, &dist, n, "a whole row", q);
            for (uint32_t i = 0; i < n; i++) {
                CHECK(c, fabs(p[i] - q[i]) < 2e-6,
                      "token %u of %u: %.9g from candidates, %.9g from the whole row", i, n, p[i],
                      q[i]);
            }
        }
        free(logits), free(p), free(q);
        free_dist(&dist);
    }
}

/* Banned tokens stay banned, NaN gets nothing, and a row without any hope is an error. */
static void hostile_rows(conform *c) {
    enum { N = 40 };
    float logits[N];
    double p[N];
    bench b;
    bench_open(c, &b, NULL);
    skip_argmax(&b);
    pico_dist dist = make_dist(c, N);
    for (uint32_t turn = 0; turn < 20; turn++) {
        random_row(c, logits, N, 4);
        for (uint32_t i = 0; i < N; i++) {
            logits[i] = i % 3 == turn % 3 ? -INFINITY : logits[i];
            logits[i] = i % 7 == turn % 7 && i != 5 ? NAN : logits[i];
        }
        logits[5] = 1; /* one at least is a number */
        CHECK(c, whole_row(&b, logits, N, &dist) == PICO_OK,
              "-inf and NaN among numbers: no distribution");
        spread(&b, &dist, N, "-inf and NaN", p);
        for (uint32_t i = 0; i < N; i++) {
            CHECK(c, p[i] == 0 || (!isnan(logits[i]) && logits[i] > -INFINITY),
                  "a logit of %g has probability %g", (double)logits[i], p[i]);
        }
    }
    for (uint32_t i = 0; i < N; i++) {
        logits[i] = i % 2 == 0 ? 3e38f : -3e38f;
    }
    CHECK(c, whole_row(&b, logits, N, &dist) == PICO_OK, "huge logits: no distribution");
    spread(&b, &dist, N, "huge logits", p);
    for (uint32_t turn = 0; turn < 3; turn++) {
        for (uint32_t i = 0; i < N; i++) {
            logits[i] = turn == 0 ? NAN : turn == 1 ? -INFINITY : i % 2 == 0 ? NAN : -INFINITY;
        }
        pico_status status = whole_row(&b, logits, N, &dist);
        CHECK(c, status < 0 || dist.n == 0, "a row without a number gives a distribution");
    }
}

/* The bytes of the state decide, and only they; the sampler keeps to its bytes. */
static void state_decides_alone(conform *c) {
    enum { N = 50 };
    _Alignas(16) unsigned char next[256 + 64], again[256 + 64];
    float logits[N];
    double p[N], q[N];
    bench b;
    bench_open(c, &b, NULL);
    if (b.ops->state_init == NULL) {
        conform_skip(c, "it is stateless");
    }
    skip_argmax(&b);
    size_t bytes = b.need.state_bytes;
    pico_dist dist = make_dist(c, N);
    memcpy(again, b.state, sizeof again);
    b.ops->state_init(b.self, b.state);
    CHECK(c, memcmp(again, b.state, bytes) == 0, "two new states differ");
    for (uint32_t turn = 0; turn < 30; turn++) {
        random_row(c, logits, N, 2);
        CHECK(c, whole_row(&b, logits, N, &dist) == PICO_OK, "no distribution");
        spread(&b, &dist, N, "with a state", p);
        int32_t token = dist.token[rig_below(&c->random, dist.n)];
        memcpy(again, b.state, sizeof again);
        memset(next, GUARD_BYTE, sizeof next);
        b.ops->state_next(b.self, b.state, &dist, token, next);
        CHECK(c, memcmp(again, b.state, sizeof again) == 0, "state_next changes the old state");
        for (size_t i = bytes; i < sizeof next; i++) {
            CHECK(c, next[i] == GUARD_BYTE, "state_next writes byte %zu of %zu", i, bytes);
        }
        memset(again, GUARD_BYTE, sizeof again);
        b.ops->state_next(b.self, b.state, &dist, token, again);
        CHECK(c, memcmp(again, next, bytes) == 0, "state_next: asked twice, two states");
        CHECK(c, whole_row(&b, logits, N, &dist) == PICO_OK, "no distribution");
        spread(&b, &dist, N, "with the old state", q); /* the old state still works */
        CHECK(c, memcmp(p, q, sizeof p) == 0, "rolling the state back does not roll back dist");
        memcpy(b.state, next, sizeof b.state);
    }
}

/* Through the decode loop: tokens of the vocabulary, the same for the same seed. */
static void a_text_is_reproducible(conform *c) {
    static const int32_t prompt[4] = {3, 9, 27, 1};
    const tiny_model tiny = {.family = "gpt2",
                             .n_layer = 1,
                             .n_head = 2,
                             .n_kv_head = 2,
                             .head_dim = 8,
                             .n_ff = 32,
                             .n_vocab = 48,
                             .n_ctx = 128,
                             .seed = 4};
    int32_t first[64] = {0};
    for (uint32_t turn = 0; turn < 3; turn++) {
        rig r;
        pico_model *model = NULL;
        pico_decode *decode = NULL;
        conform_rig(c, &r, NULL);
        CHECK_OK(c, tiny_model_open(&r, &tiny, PICO_DTYPE_F32, &model, error), "opening a model");
        pico_decode_params params = {.sampler = &r.sampler.loaded->ops.sampler,
                                     .sampler_self = r.sampler.self,
                                     .decoder = &r.decoder.loaded->ops.decoder,
                                     .decoder_self = r.decoder.self,
                                     .n_slots = 1,
                                     .ubatch = 16,
                                     .repetition = 1.1f};
        CHECK_OK(c, pico_decode_open(model, &params, &decode, error), "opening the loop");
        pico_request request = {
            .prompt = prompt, .n_prompt = 4, .max_tokens = 60, .seed = 9, .sample = turn / 2};
        CHECK_OK(c, pico_decode_start(decode, 0, &request, error), "starting a text");
        CHECK_OK(c, pico_decode_run(decode, NULL, NULL, error), "a text");
        pico_slot_state slot = pico_decode_slot(decode, 0);
        CHECK(c, slot.n_token == 64, "%u tokens, expected 64", slot.n_token);
        CHECK(c, turn != 1 || memcmp(first, slot.token, sizeof first) == 0,
              "the same seed gives another text");
        memcpy(first, slot.token, sizeof first);
        pico_decode_close(decode);
        pico_model_close(model);
        rig_close(&r);
    }
}

const conform_test conform_sampler[] = {
    {"sampler/need_is_plausible", need_is_plausible},
    {"sampler/rows_give_distributions", rows_give_distributions},
    {"sampler/extreme_options_give_distributions", extreme_options_give_distributions},
    {"sampler/candidates_equal_the_whole_row", candidates_equal_the_whole_row},
    {"sampler/hostile_rows", hostile_rows},
    {"sampler/state_decides_alone", state_decides_alone},
    {"sampler/a_text_is_reproducible", a_text_is_reproducible},
    {NULL, NULL}};
