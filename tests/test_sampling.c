/* layers: transform */
/* labels: golden */
/*
 * From logits to a distribution on the real way: penalties and bias as edits on the device, the
 * candidates that the sampler asks for, the filters. Every case of the reference fixture, what
 * drafters are told about the target's distribution, and the steps of rejection sampling.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decode/draw.h"
#include "session_kit.h"

enum { MAX_VOCAB = 128, MAX_DIST = 64 };

/* ---- a sampler that remembers what the real one made ---- */

typedef struct recorder {
    const pico_sampler_ops *ops;
    void *self;
    uint32_t n;
    double p[MAX_DIST][MAX_VOCAB]; /* of the n-th call of dist, by token */
    uint32_t n_candidates[MAX_DIST];
    double worst_sum;
} recorder;

static pico_status record_need(void *self, pico_sampler_need *out) {
    recorder *r = self;
    return r->ops->need(r->self, out);
}

static pico_status record_dist(void *self, const pico_candidates *row, const void *state,
                               pico_dist *out) {
    recorder *r = self;
    pico_status status = r->ops->dist(r->self, row, state, out);
    if (status == PICO_OK && r->n < MAX_DIST) {
        double sum = 0;
        for (uint32_t i = 0; i < out->n; i++) {
            r->p[r->n][out->token[i]] = out->p[i];
            sum += out->p[i];
        }
        r->worst_sum = fabs(sum - 1) > r->worst_sum ? fabs(sum - 1) : r->worst_sum;
        r->n_candidates[r->n++] = row->n;
    }
    return status;
}

static const pico_sampler_ops record_ops = {
    .struct_size = sizeof(pico_sampler_ops), .need = record_need, .dist = record_dist};

/* ---- one model of fixed logits ---- */

typedef struct fixed {
    rig rig;
    pico_model *model;
    pico_decode *decode;
    recorder record;
} fixed;

/* params: penalties, bias, accept; decoder: NULL for the plain one. */
static void fixed_open(fixed *f, const kit_variant *variant, const float *logits, uint32_t n_vocab,
                       const char *const *set, const pico_decode_params *params,
                       const pico_decoder_ops *decoder, void *decoder_self) {
    const char *all[12] = {0};
    pico_error err = {0};
    pico_model_file *file = NULL;
    uint32_t n_set = 0;
    memset(f, 0, sizeof *f);
    for (uint32_t i = 0; i < 2 && variant->set[i][0] != '\0'; i++) {
        all[n_set++] = variant->set[i];
    }
    for (uint32_t i = 0; set[i] != NULL; i++) {
        all[n_set++] = set[i];
    }
    rig_setup setup = {.search = PICO_BUILD_DIR "/plugins",
                       .backend = variant->backend,
                       .sampler = "standard",
                       .decoder = "greedy",
                       .set = all,
                       .n_threads = variant->n_threads,
                       .hide_optional = variant->hide_optional};
    if (rig_open(&f->rig, &setup, &err) != PICO_OK ||
        fixed_model_file(logits, n_vocab, &file, &err) != PICO_OK ||
        rig_model_open(&f->rig, file, PICO_DTYPE_F32, &f->model, &err) != PICO_OK) {
        fail_msg("%s: %s", variant->name, err.message);
    }
    f->record.ops = &f->rig.sampler.loaded->ops.sampler;
    f->record.self = f->rig.sampler.self;
    pico_decode_params full = *params;
    full.sampler = &record_ops;
    full.sampler_self = &f->record;
    full.decoder = decoder == NULL ? &f->rig.decoder.loaded->ops.decoder : decoder;
    full.decoder_self = decoder == NULL ? f->rig.decoder.self : decoder_self;
    full.n_slots = 1;
    full.ubatch = 64;
    full.max_positions = 128;
    if (pico_decode_open(f->model, &full, &f->decode, &err) != PICO_OK) {
        fail_msg("%s: %s", variant->name, err.message);
    }
}

static void fixed_close(fixed *f) {
    pico_decode_close(f->decode);
    pico_model_close(f->model);
    rig_close(&f->rig);
}

static void generate(fixed *f, const int32_t *prompt, uint32_t n_prompt, uint64_t n,
                     uint32_t sample) {
    pico_error err = {0};
    pico_request request = {
        .prompt = prompt, .n_prompt = n_prompt, .max_tokens = n, .seed = 11, .sample = sample};
    if (pico_decode_start(f->decode, 0, &request, &err) != PICO_OK ||
        pico_decode_run(f->decode, NULL, NULL, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
}

/* ---- the fixture ---- */

typedef struct sampling_fixture {
    json_t *root;
    uint32_t n_vocab, n_history;
    float logits[MAX_VOCAB];
    int32_t history[64];
} sampling_fixture;

static uint32_t read_numbers(const json_t *array, double *out, uint32_t room) {
    assert_true(json_is_array(array) && json_array_size(array) <= room);
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *value = json_array_get(array, i);
        out[i] = json_is_null(value) ? NAN : json_number_value(value);
    }
    return (uint32_t)json_array_size(array);
}

static uint32_t read_floats(const json_t *array, float *out) {
    double values[MAX_VOCAB];
    uint32_t n = read_numbers(array, values, MAX_VOCAB);
    for (uint32_t i = 0; i < n; i++) {
        out[i] = (float)values[i];
    }
    return n;
}

static void fixture_open(sampling_fixture *f) {
    double history[64];
    json_error_t error;
    f->root = json_load_file(PICO_SOURCE_DIR "/tests/golden/sampling/sampling.json", 0, &error);
    if (f->root == NULL) {
        fail_msg("the sampling fixture: %s", error.text);
    }
    f->n_vocab = read_floats(json_object_get(f->root, "logits"), f->logits);
    f->n_history = read_numbers(json_object_get(f->root, "history"), history, 64);
    for (uint32_t i = 0; i < f->n_history; i++) {
        f->history[i] = (int32_t)history[i];
    }
}

static double param(const json_t *params, const char *name, double otherwise) {
    const json_t *value = json_object_get(params, name);
    return value == NULL ? otherwise : json_number_value(value);
}

/* The plugin's settings and the host's penalties of a case; absent means off. */
static void case_settings(const json_t *params, char text[4][64], const char *set[5],
                          pico_decode_params *out) {
    (void)snprintf(text[0], 64, "sampler.standard.temperature=%.17g",
                   param(params, "temperature", 1));
    (void)snprintf(text[1], 64, "sampler.standard.top_k=%.0f", param(params, "top_k", 0));
    (void)snprintf(text[2], 64, "sampler.standard.top_p=%.17g", param(params, "top_p", 1));
    (void)snprintf(text[3], 64, "sampler.standard.min_p=%.17g", param(params, "min_p", 0));
    for (uint32_t i = 0; i < 4; i++) {
        set[i] = text[i];
    }
    set[4] = NULL;
    *out = (pico_decode_params){.repetition = (float)param(params, "repetition", 1),
                                .presence = (float)param(params, "presence", 0),
                                .frequency = (float)param(params, "frequency", 0)};
}

static void same_distribution(const char *what, const double *got, const double *want, uint32_t n,
                              double limit) {
    for (uint32_t i = 0; i < n; i++) {
        if (!(fabs(got[i] - want[i]) <= limit) || (got[i] > 0) != (want[i] > 0)) {
            fail_msg("%s: token %u has probability %.12g, expected %.12g", what, i, got[i],
                     want[i]);
        }
    }
}

/* Every case, through the device. A greedy case needs no distribution: its token is checked. */
static void every_fixture_case(void **state) {
    sampling_fixture f;
    size_t i;
    json_t *c;
    fixture_open(&f);
    assert_int_equal(json_array_size(json_object_get(f.root, "cases")), 25);
    json_array_foreach(json_object_get(f.root, "cases"), i, c) {
        static fixed model;
        char text[4][64];
        const char *set[5], *name = json_string_value(json_object_get(c, "name"));
        double want[MAX_VOCAB];
        pico_decode_params params;
        assert_int_equal(read_numbers(json_object_get(c, "probs"), want, MAX_VOCAB), f.n_vocab);
        case_settings(json_object_get(c, "params"), text, set, &params);
        fixed_open(&model, *state, f.logits, f.n_vocab, set, &params, NULL, NULL);
        generate(&model, f.history, f.n_history, 1, 0);
        if (param(json_object_get(c, "params"), "temperature", 1) == 0) {
            int32_t token = pico_decode_slot(model.decode, 0).token[f.n_history];
            assert_true(want[token] == 1);
            assert_int_equal(model.record.n, 0);
        } else {
            assert_int_equal(model.record.n, 1);
            same_distribution(name, model.record.p[0], want, f.n_vocab, 1e-6);
            assert_true(model.record.worst_sum < 1e-9);
        }
        fixed_close(&model);
    }
    json_decref(f.root);
}

/* Four logits tie around the k-th place: all of them stay, from candidates and from a whole row. */
static void ties_at_k_stay(void **state) {
    sampling_fixture f;
    static fixed model;
    float logits[MAX_VOCAB];
    double want[MAX_VOCAB];
    const int32_t prompt[1] = {6};
    fixture_open(&f);
    const json_t *c = json_object_get(f.root, "tie_case");
    uint32_t n = read_floats(json_object_get(c, "logits"), logits);
    assert_int_equal(read_numbers(json_object_get(c, "probs_ties_kept"), want, MAX_VOCAB), n);
    const char *set[] = {"sampler.standard.temperature=1", "sampler.standard.top_k=3",
                         "sampler.standard.top_p=1", NULL};
    fixed_open(&model, *state, logits, n, set, &(pico_decode_params){.repetition = 1}, NULL, NULL);
    generate(&model, prompt, 1, 1, 0);
    same_distribution("tie", model.record.p[0], want, n, 1e-6);
    fixed_close(&model);
    /* more ties than the list of candidates has room for: the whole row decides */
    for (uint32_t i = 0; i < 100; i++) {
        logits[i] = i < 80 ? 1.0f : 0.5f;
        want[i] = i < 80 ? 1.0 / 80 : 0;
    }
    fixed_open(&model, *state, logits, 100, set, &(pico_decode_params){.repetition = 1}, NULL,
               NULL);
    generate(&model, prompt, 1, 1, 0);
    assert_int_equal(model.record.n_candidates[0], 100);
    same_distribution("many ties", model.record.p[0], want, 100, 1e-9);
    fixed_close(&model);
    json_decref(f.root);
}

/* Bias comes after penalties; -inf bans a token; a token in the history has both. */
static void bias_and_bans(void **state) {
    static fixed model;
    float logits[8] = {1, 2, 3, 0, -1, 2.5f, 0.5f, 1.5f};
    const int32_t prompt[3] = {2, 5, 2};
    const pico_logit_bias bias[] = {{2, 0.75f}, {1, -INFINITY}, {4, 2.0f}};
    const char *set[] = {"sampler.standard.temperature=1", "sampler.standard.top_k=0",
                         "sampler.standard.top_p=1", NULL};
    pico_decode_params params = {
        .repetition = 2, .presence = 0.25f, .frequency = 0.5f, .bias = bias, .n_bias = 3};
    double z[8] = {1, -INFINITY, (3 - 0.25 - 1.0) / 2 + 0.75, 0, 1, (2.5 - 0.75) / 2, 0.5, 1.5};
    double want[8], sum = 0;
    for (uint32_t i = 0; i < 8; i++) {
        sum += want[i] = exp(z[i]);
    }
    for (uint32_t i = 0; i < 8; i++) {
        want[i] /= sum;
    }
    fixed_open(&model, *state, logits, 8, set, &params, NULL, NULL);
    generate(&model, prompt, 3, 40, 0);
    same_distribution("bias", model.record.p[0], want, 8, 1e-6);
    pico_slot_state slot = pico_decode_slot(model.decode, 0);
    for (uint32_t i = 3; i < slot.n_token; i++) {
        assert_int_not_equal(slot.token[i], 1);
    }
    fixed_close(&model);
    const pico_logit_bias bad[][2] = {{{8, 1}, {0, 0}}, {{-1, 1}, {0, 0}}, {{3, NAN}, {0, 0}}};
    for (uint32_t i = 0; i < 3; i++) { /* and what makes no sense is refused */
        static fixed f;
        pico_decode *decode = NULL;
        pico_error err = {0};
        params.bias = bad[i];
        params.n_bias = 1;
        fixed_open(&f, *state, logits, 8, set, &(pico_decode_params){.repetition = 1}, NULL, NULL);
        params.sampler = &record_ops;
        params.sampler_self = &f.record;
        params.decoder = &f.rig.decoder.loaded->ops.decoder;
        params.decoder_self = f.rig.decoder.self;
        params.n_slots = params.ubatch = 1;
        assert_int_equal(pico_decode_open(f.model, &params, &decode, &err), PICO_E_INVALID);
        assert_true(err.message[0] != '\0');
        fixed_close(&f);
    }
}

/* ---- what drafters are told ---- */

/* Drafts with the target's own table: since the logits are the same at every place, every draft
 * must be accepted. */
typedef struct mirror {
    const float *logits;
    uint32_t n_vocab, n_draft;
    double told[MAX_DIST][MAX_VOCAB];
    uint32_t n_told;
} mirror;

static pico_status mirror_begin(void *self, const pico_model *target, uint32_t n_slots,
                                pico_decoder_need *out, pico_error *err) {
    (void)target, (void)n_slots, (void)err;
    out->max_proposals = ((mirror *)self)->n_draft;
    return PICO_OK;
}

static pico_status mirror_propose(void *self, pico_sequence *sequences, uint32_t n,
                                  pico_error *err) {
    mirror *m = self;
    int32_t token[MAX_VOCAB], extra[32];
    double p[MAX_VOCAB];
    for (uint32_t s = 0; s < n; s++) {
        for (uint32_t i = 0; i < sequences[s].room; i++) {
            pico_dist dist = {.capacity = m->n_vocab, .token = token, .p = p};
            pico_status status =
                pico_sampling_table.dist(sequences[s].sampling, m->logits, extra, i, &dist, err);
            if (status != PICO_OK) {
                return status;
            }
            for (uint32_t j = 0; m->n_told < MAX_DIST && j < dist.n; j++) {
                m->told[m->n_told][dist.token[j]] = dist.p[j];
            }
            m->n_told++;
            extra[i] =
                pico_sampling_table.draw(sequences[s].sampling, &dist, i, PICO_RANDOM_TARGET);
            sequences[s].proposal[i] = (pico_proposal){.token = extra[i], .parent = (int32_t)i - 1};
            sequences[s].n_proposal = i + 1;
        }
    }
    return PICO_OK;
}

static pico_status mirror_observe(void *self, const pico_outcome *outcomes, uint32_t n,
                                  const pico_tensor *hidden, pico_error *err) {
    (void)self, (void)outcomes, (void)n, (void)hidden, (void)err;
    return PICO_OK;
}

static void mirror_end(void *self) {
    (void)self;
}

static const pico_decoder_ops mirror_ops = {.struct_size = sizeof(pico_decoder_ops),
                                            .begin = mirror_begin,
                                            .propose = mirror_propose,
                                            .observe = mirror_observe,
                                            .end = mirror_end};

static void drafters_are_told_the_targets_distribution(void **state) {
    sampling_fixture f;
    size_t i;
    json_t *c;
    fixture_open(&f);
    const pico_logit_bias bias[] = {{1, 1.5f}, {3, -INFINITY}, {64, -0.5f}};
    json_array_foreach(json_object_get(f.root, "cases"), i, c) {
        static fixed model;
        static mirror m;
        char text[4][64];
        const char *set[5], *name = json_string_value(json_object_get(c, "name"));
        pico_decode_params params;
        memset(&m, 0, sizeof m);
        m.logits = f.logits;
        m.n_vocab = f.n_vocab;
        m.n_draft = 5;
        case_settings(json_object_get(c, "params"), text, set, &params);
        params.bias = bias;
        params.n_bias = i % 2 == 0 ? 0 : 3;
        fixed_open(&model, *state, f.logits, f.n_vocab, set, &params, &mirror_ops, &m);
        generate(&model, f.history, f.n_history, 31, 0); /* 1 + 5 rounds of 6 */
        const pico_decode_stats *stats = pico_decode_statistics(model.decode);
        if (stats->n_accepted != stats->n_drafted || stats->n_drafted != 25) {
            fail_msg("%s: %u of %u drafts that the target's table gave were accepted", name,
                     (unsigned)stats->n_accepted, (unsigned)stats->n_drafted);
        }
        if (model.record.n != 0) { /* recorded: the table's and the target's own, round by round */
            assert_int_equal(model.record.n, 1 + 5 * (5 + 6));
            for (uint32_t round = 0; round < 5; round++) {
                for (uint32_t j = 0; j < 5; j++) {
                    same_distribution(name, model.record.p[1 + round * 11 + 5 + j],
                                      m.told[round * 5 + j], f.n_vocab, 1e-9);
                }
            }
        }
        fixed_close(&model);
    }
    json_decref(f.root);
}

/* ---- rejection, step by step ---- */

/* Proposes one token with a stated distribution. */
typedef struct one_draft {
    int32_t token;
    const double *q;
    uint32_t n_q, n_accepted, n_verified;
} one_draft;

static pico_status one_begin(void *self, const pico_model *target, uint32_t n_slots,
                             pico_decoder_need *out, pico_error *err) {
    (void)self, (void)target, (void)n_slots, (void)err;
    out->max_proposals = 1;
    out->want_q = 1;
    return PICO_OK;
}

static pico_status one_propose(void *self, pico_sequence *sequences, uint32_t n, pico_error *err) {
    const one_draft *d = self;
    (void)err, (void)n;
    if (sequences[0].room > 0) {
        for (uint32_t i = 0; i < d->n_q; i++) {
            sequences[0].q_token[i] = (int32_t)i;
            sequences[0].q_p[i] = d->q[i];
        }
        sequences[0].n_q = d->n_q;
        sequences[0].proposal[0] =
            (pico_proposal){.token = d->token, .parent = -1, .q_begin = 0, .q_count = d->n_q};
        sequences[0].n_proposal = 1;
    }
    return PICO_OK;
}

static pico_status one_observe(void *self, const pico_outcome *outcomes, uint32_t n,
                               const pico_tensor *hidden, pico_error *err) {
    one_draft *d = self;
    (void)n, (void)hidden, (void)err;
    d->n_verified += outcomes[0].n_proposed;
    d->n_accepted += outcomes[0].n_accepted;
    return PICO_OK;
}

static const pico_decoder_ops one_ops = {.struct_size = sizeof(pico_decoder_ops),
                                         .begin = one_begin,
                                         .propose = one_propose,
                                         .observe = one_observe,
                                         .end = mirror_end};

/* Each draft is accepted as often as min(1, p / q), and a rejected one is replaced according to the
 * residual. */
static void rejection_follows_the_fixture(void **state) {
    enum { N = 1500 };
    sampling_fixture f;
    double p[MAX_VOCAB], q[MAX_VOCAB], accept[MAX_VOCAB], residual[MAX_VOCAB];
    float logits[MAX_VOCAB];
    fixture_open(&f);
    const json_t *c = json_object_get(f.root, "speculative_rejection");
    uint32_t n = read_numbers(json_object_get(c, "target_p"), p, MAX_VOCAB);
    assert_int_equal(read_numbers(json_object_get(c, "draft_q"), q, MAX_VOCAB), n);
    assert_int_equal(read_numbers(json_object_get(c, "accept_prob"), accept, MAX_VOCAB), n);
    assert_int_equal(read_numbers(json_object_get(c, "residual"), residual, MAX_VOCAB), n);
    int32_t token[MAX_VOCAB];
    double rest[MAX_VOCAB], expected = 0;
    for (uint32_t i = 0; i < n; i++) {
        logits[i] = (float)log(p[i]);
        token[i] = (int32_t)i;
        rest[i] = p[i];
        expected += p[i] < q[i] ? p[i] : q[i];
    }
    assert_true(fabs(expected - json_real_value(json_object_get(c, "expected_acceptance"))) < 1e-9);
    pico_dist dist = {.n = n, .capacity = n, .token = token, .p = rest};
    assert_true(pico_dist_residual(&dist, token, q, n));
    same_distribution("residual", rest, residual, n, 1e-9);
    const char *set[] = {"sampler.standard.temperature=1", "sampler.standard.top_k=0",
                         "sampler.standard.top_p=1", NULL};
    pico_decode_params params = {.repetition = 1, .accept = PICO_ACCEPT_REJECTION};
    for (uint32_t draft = 0; draft < n; draft++) {
        static fixed model;
        uint32_t seen[MAX_VOCAB] = {0};
        const int32_t prompt[1] = {0};
        one_draft d = {.token = (int32_t)draft, .q = q, .n_q = n};
        if (isnan(accept[draft])) {
            continue; /* such a token is never drafted */
        }
        fixed_open(&model, *state, logits, n, set, &params, &one_ops, &d);
        for (uint32_t i = 0; i < N; i++) {
            generate(&model, prompt, 1, 3, i);
            seen[pico_decode_slot(model.decode, 0).token[2]]++;
        }
        fixed_close(&model);
        assert_int_equal(d.n_verified, N);
        double want = accept[draft] * N, sd = sqrt(want * (1 - accept[draft])) + 1;
        if (!(fabs(d.n_accepted - want) < 5 * sd)) {
            fail_msg("draft %u was accepted %u times in %d, expected %.1f", draft, d.n_accepted, N,
                     want);
        }
        for (uint32_t i = 0; i < n; i++) {
            double share = (1 - accept[draft]) * residual[i] + (i == draft ? accept[draft] : 0);
            double spread = sqrt(N * share * (1 - share)) + 1;
            if (!(fabs(seen[i] - N * share) < 5 * spread)) {
                fail_msg("draft %u became %u in %u of %d cases, expected %.1f", draft, i, seen[i],
                         N, N * share);
            }
        }
    }
    json_decref(f.root);
}

/* ---- draws ---- */

/* A draw is pure in key and distribution, follows the distribution, and mostly survives a small
 * change of it, whatever the order of the list. */
static void draws_follow_the_distribution(void **state) {
    enum { N = 20000, K = 6 };
    (void)state;
    int32_t token[K] = {3, 9, 1, 70000, 12, 5}, shuffled[K] = {12, 3, 5, 70000, 9, 1};
    double p[K] = {0.4, 0.3, 0.15, 0.1, 0.05, 0.0}, q[K] = {0.05, 0.38, 0, 0.1, 0.32, 0.15};
    pico_dist a = {.n = K, .capacity = K, .token = token, .p = p};
    pico_dist b = {.n = K, .capacity = K, .token = shuffled, .p = q};
    uint32_t count[K] = {0}, same = 0;
    for (uint32_t i = 0; i < N; i++) {
        pico_random_key key = {.seed = 7, .purpose = PICO_RANDOM_TARGET, .t = i};
        int32_t x = pico_draw(&a, &key);
        assert_int_equal(x, pico_draw(&a, &key));
        for (uint32_t j = 0; j < K; j++) {
            count[j] += token[j] == x;
        }
        same += x == pico_draw(&b, &key);
    }
    for (uint32_t j = 0; j < K; j++) {
        assert_true(fabs(count[j] - N * p[j]) < 5 * sqrt(N * p[j] * (1 - p[j])) + 1e-9);
    }
    assert_true(same > N * 0.93);
    pico_dist none = {.n = 1, .capacity = 1, .token = token, .p = &p[5]};
    pico_random_key key = {.seed = 1};
    assert_int_equal(pico_draw(&none, &key), -1);
}

int main(void) {
    kit_variant variants[KIT_VARIANTS];
    (void)kit_variants(variants);
    struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fixture_case),
        cmocka_unit_test(ties_at_k_stay),
        cmocka_unit_test(bias_and_bans),
        cmocka_unit_test(drafters_are_told_the_targets_distribution),
    };
    const struct CMUnitTest host_tests[] = {
        cmocka_unit_test_prestate(rejection_follows_the_fixture, &variants[1]),
        cmocka_unit_test_prestate(draws_follow_the_distribution, &variants[0]),
    };
    int failed = KIT_RUN("sampling", tests);
    return failed + cmocka_run_group_tests_name("sampling on the host", host_tests, NULL, NULL);
}
