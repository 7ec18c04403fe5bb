/* layers: transform */
/*
 * The decode loop under failure: a round that fails leaves every timeline as it was, and the answer
 * that follows is the one that would have come anyway; decoders and samplers that break their
 * contract are refused with a message; a sampler's state is handed the distribution it made.
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

/* ---- the device fails in the middle of an answer ---- */

typedef struct plan {
    uint32_t kinds, shape, window_limit;
    float repetition;
    const char *sampler, *set;
    uint32_t n_prompt; /* of the longer one; 0: 80 */
    uint32_t ubatch;
} plan;

enum { PLAN_OPS = 0, PLAN_WRITES = 3, PLAN_READS = 4, PLAN_COMMITS = 8, PLAN_END = 10 };

static const plan plans[PLAN_END] = {
    {FAULT_OP, 0, 0, 1, "standard", "sampler.standard.temperature=0", 0, 0},
    {FAULT_OP, 1, 0, 1, "standard", "sampler.standard.top_k=0", 0, 0},
    {FAULT_OP, 1, 30, 1.2f, "standard", "sampler.standard.top_k=7", 0, 0},
    {FAULT_WRITE, 0, 30, 1.2f, "standard", "sampler.standard.temperature=1.2", 0, 0},
    {FAULT_READ, 0, 0, 1.1f, "standard", "sampler.standard.temperature=1.2", 0, 0},
    {FAULT_READ, 1, 30, 1, "standard", "sampler.standard.temperature=0", 0, 0},
    {FAULT_READ, 1, 0, 1, "mirostat", "sampler.mirostat.tau=4", 0, 0},
    {FAULT_READ, 0, 10, 1, "standard", "sampler.standard.temperature=0.5", 192, 96},
    {FAULT_KV_COPY, 1, 0, 1, "standard", "sampler.standard.top_k=7", 0, 0},
    {FAULT_WRITE, 1, 30, 1.2f, "standard", "sampler.standard.temperature=1.2", 0, 0},
};

static void plan_options(const plan *p, const char *script, dk_options *out) {
    *out = (dk_options){.model = 0,
                        .sampler = p->sampler,
                        .set = {p->set},
                        .params = {.n_slots = 2,
                                   .max_positions = 250,
                                   .ubatch = p->ubatch,
                                   .repetition = p->repetition,
                                   .window_limit = p->window_limit}};
    if (script != NULL) {
        out->decoder = DK_SCRIPTED;
        out->set[1] = script;
        out->set[2] = "decoder.scripted.draft_n=5";
        out->set[3] =
            p->shape == 0 ? "decoder.scripted.shape=chain" : "decoder.scripted.shape=tree";
    }
}

/* Starts both requests, fails the n-th operation, goes on, and compares. Returns 1 if something
 * failed. */
static int fail_once(const plan *p, const kit_variant *variant, const char *script,
                     const pico_request *request, const dk_result *want, int64_t n) {
    static dk_result got;
    dk_options options;
    dk d;
    pico_error err = {0};
    char what[128];
    plan_options(p, script, &options);
    dk_open(&d, variant, &options);
    dk_start(&d, 0, &request[0]);
    dk_start(&d, 1, &request[1]);
    fault_arm(&d.rig.fault, p->kinds, n);
    uint32_t live = 1, n_error = 0;
    (void)snprintf(what, sizeof what, "plan %u, failure at %lld", (unsigned)(p - plans),
                   (long long)n);
    while (live != 0) {
        uint32_t before[2] = {pico_decode_slot(d.decode, 0).n_token,
                              pico_decode_slot(d.decode, 1).n_token};
        if (pico_decode_round(d.decode, &live, &err) != PICO_OK) {
            n_error++;
            assert_true(err.message[0] != '\0');
            for (uint32_t s = 0; s < 2; s++) {
                uint32_t after = pico_decode_slot(d.decode, s).n_token;
                if (after != before[s]) {
                    fail_msg("%s: slot %u has %u tokens after the failed round, %u before", what, s,
                             after, before[s]);
                }
            }
            live = 1;
        }
        if (n_error > 1) {
            fail_msg("%s: the next round failed too: %s", what, err.message);
        }
    }
    assert_int_equal(n_error, d.rig.fault.n_failed);
    for (uint32_t s = 0; s < 2; s++) {
        dk_take(&d, s, &got);
        dk_same(&want[s], &got, what);
    }
    dk_close(&d);
    return n_error != 0;
}

static void fail_everywhere(const kit_variant *variant, uint32_t begin, uint32_t end) {
    static dk_result plain[2];
    char path[64], script[128];
    int32_t prompt[2][200];
    dk_script_name(path, script);
    for (uint32_t i = begin; i < end; i++) {
        dk_options options;
        dk d;
        pico_request request[2];
        plan_options(&plans[i], NULL, &options);
        dk_open(&d, variant, &options);
        for (uint32_t s = 0; s < 2; s++) {
            uint32_t n_long = plans[i].n_prompt == 0 ? 80 : plans[i].n_prompt;
            dk_prompt(31 + s, d.n_vocab, n_long, prompt[s]);
            request[s] = (pico_request){
                .prompt = prompt[s], .n_prompt = s == 0 ? 5 : n_long, .max_tokens = 14, .seed = s};
            dk_start(&d, 0, &request[s]);
            dk_run(&d);
            dk_take(&d, 0, &plain[s]);
        }
        int reads =
            d.rig.device.ops->buffer_host == NULL || plans[i].kinds != FAULT_READ ||
            strcmp(plans[i].sampler, "mirostat") != 0; /* else rows are looked at in place */
        dk_close(&d);
        dk_write_script(path, plain, 2);
        int64_t n = 0, step = plans[i].kinds & FAULT_OP ? 7 : 1;
        while (fail_once(&plans[i], variant, script, request, plain, n)) {
            n += step;
        }
        assert_true(n > 5 || !reads); /* it did fail, many times */
        assert_int_equal(remove(path), 0);
    }
}

static void a_failing_op_changes_nothing(void **state) {
    fail_everywhere(*state, PLAN_OPS, PLAN_WRITES);
}

static void a_failing_write_changes_nothing(void **state) {
    fail_everywhere(*state, PLAN_WRITES, PLAN_READS);
}

static void a_failing_read_changes_nothing(void **state) {
    fail_everywhere(*state, PLAN_READS, PLAN_COMMITS);
}

static void a_failing_commit_changes_nothing(void **state) {
    fail_everywhere(*state, PLAN_COMMITS, PLAN_END);
}

/* ---- plugins that break their contract ---- */

typedef struct rogue {
    uint32_t what, n_observed, n_begun, n_ended;
    const int32_t *last_token;
} rogue;

enum {
    ROGUE_NONE,
    ROGUE_TOO_MANY,
    ROGUE_TOKEN_HIGH,
    ROGUE_TOKEN_NEGATIVE,
    ROGUE_PARENT_SELF,
    ROGUE_PARENT_LOW,
    ROGUE_Q_OUTSIDE,
    ROGUE_FAILS,
    ROGUE_OBSERVE_FAILS
};

static pico_status rogue_begin(void *self, const pico_model *target, uint32_t n_slots,
                               pico_decoder_need *out, pico_error *err) {
    (void)target, (void)n_slots, (void)err;
    ((rogue *)self)->n_begun++;
    out->max_proposals = 4;
    return PICO_OK;
}

static pico_status rogue_propose(void *self, pico_sequence *sequences, uint32_t n,
                                 pico_error *err) {
    rogue *r = self;
    (void)n;
    pico_sequence *s = &sequences[0];
    if (s->room == 0) {
        return PICO_OK;
    }
    s->proposal[0] = (pico_proposal){.token = 1, .parent = -1};
    s->n_proposal = 1;
    switch (r->what) {
    case ROGUE_TOO_MANY:
        s->n_proposal = s->room + 1;
        break;
    case ROGUE_TOKEN_HIGH:
        s->proposal[0].token = 1 << 20;
        break;
    case ROGUE_TOKEN_NEGATIVE:
        s->proposal[0].token = -1;
        break;
    case ROGUE_PARENT_SELF:
        s->proposal[0].parent = 0;
        break;
    case ROGUE_PARENT_LOW:
        s->proposal[0].parent = -2;
        break;
    case ROGUE_Q_OUTSIDE:
        s->proposal[0].q_begin = UINT32_MAX;
        s->proposal[0].q_count = 2;
        break;
    case ROGUE_FAILS:
        return pico_fail(err, PICO_E_DEVICE, "rogue: cannot propose");
    default:
        break;
    }
    return PICO_OK;
}

/* Every outcome says what became of the drafts. */
static pico_status rogue_observe(void *self, const pico_outcome *outcomes, uint32_t n,
                                 const pico_tensor *hidden, pico_error *err) {
    rogue *r = self;
    (void)hidden;
    for (uint32_t i = 0; i < n; i++) {
        assert_true(outcomes[i].n_token >= 1 && outcomes[i].n_token <= 1 + outcomes[i].n_proposed);
        assert_true(outcomes[i].n_accepted <= outcomes[i].n_proposed);
        assert_true(outcomes[i].n_accepted == outcomes[i].n_token - 1 || outcomes[i].finished);
        assert_null(outcomes[i].hidden_row);
        r->n_observed += outcomes[i].n_token;
    }
    return r->what == ROGUE_OBSERVE_FAILS ? pico_fail(err, PICO_E_DEVICE, "rogue: cannot observe")
                                          : PICO_OK;
}

static void rogue_end(void *self) {
    ((rogue *)self)->n_ended++;
}

static const pico_decoder_ops rogue_ops = {.struct_size = sizeof(pico_decoder_ops),
                                           .begin = rogue_begin,
                                           .propose = rogue_propose,
                                           .observe = rogue_observe,
                                           .end = rogue_end};

static void impossible_proposals_are_refused(void **state) {
    static dk_result plain, got;
    int32_t prompt[6];
    rogue r = {0};
    dk d;
    dk_options options = {.model = 0, .decoder_ops = &rogue_ops, .decoder_self = &r};
    dk_open(&d, *state, &options);
    dk_prompt(1, d.n_vocab, 6, prompt);
    pico_request request = {.prompt = prompt, .n_prompt = 6, .max_tokens = 20, .seed = 3};
    dk_start(&d, 0, &request);
    dk_run(&d);
    dk_take(&d, 0, &plain);
    assert_int_equal(r.n_observed, 20);
    for (uint32_t what = ROGUE_TOO_MANY; what <= ROGUE_FAILS; what++) {
        uint32_t live = 0;
        dk_start(&d, 0, &request);
        r.what = ROGUE_NONE;
        assert_int_equal(pico_decode_round(d.decode, &live, NULL), PICO_OK);
        r.what = what;
        pico_error err = {0};
        uint32_t before = pico_decode_slot(d.decode, 0).n_token;
        pico_status status = pico_decode_round(d.decode, &live, &err);
        if (status == PICO_OK || err.message[0] == '\0') {
            fail_msg("fault %u of a decoder was accepted", what);
        }
        assert_int_equal(status, what == ROGUE_FAILS ? PICO_E_DEVICE : PICO_E_ABI);
        assert_int_equal(pico_decode_slot(d.decode, 0).n_token, before);
        r.what = ROGUE_NONE;
        dk_run(&d);
        dk_take(&d, 0, &got);
        dk_same(&plain, &got, "after a bad proposal");
    }
    dk_close(&d);
    assert_int_equal(r.n_begun, 1);
    assert_int_equal(r.n_ended, 1);
}

/* A decoder that cannot observe ends the round with its error; what was decoded stays consistent
 * and the rest of the answer is the plain one. */
static void a_failing_observer_does_not_lose_the_place(void **state) {
    static dk_result plain, got;
    int32_t prompt[6];
    rogue r = {0};
    dk d;
    dk_options options = {.model = 0, .decoder_ops = &rogue_ops, .decoder_self = &r};
    dk_open(&d, *state, &options);
    dk_prompt(1, d.n_vocab, 6, prompt);
    pico_request request = {.prompt = prompt, .n_prompt = 6, .max_tokens = 20, .seed = 3};
    dk_start(&d, 0, &request);
    dk_run(&d);
    dk_take(&d, 0, &plain);
    dk_start(&d, 0, &request);
    for (uint32_t i = 0; pico_decode_slot(d.decode, 0).finish == PICO_FINISH_NONE; i++) {
        uint32_t live = 0;
        pico_error err = {0};
        r.what = i % 3 == 1 ? ROGUE_OBSERVE_FAILS : ROGUE_NONE;
        pico_status status = pico_decode_round(d.decode, &live, &err);
        assert_int_equal(status, i % 3 == 1 ? PICO_E_DEVICE : PICO_OK);
        assert_int_equal(pico_session_length(pico_decode_session(d.decode), 0) + 1,
                         pico_decode_slot(d.decode, 0).n_token);
        assert_true(i < 50);
    }
    dk_take(&d, 0, &got);
    dk_same(&plain, &got, "with a failing observer");
    dk_close(&d);
}

/* ---- the sampler's state ---- */

enum { WATCH_VOCAB = 61 };

/* A sampler whose state counts the tokens taken and remembers the last; it checks that state_next
 * gets the distribution that dist made from that very state. */
typedef struct watcher {
    double p[8][WATCH_VOCAB]; /* what dist made of the state with this count, modulo 8 */
    uint64_t n_dist, n_next, n_wrong;
    int makes_nothing;
} watcher;

typedef struct watch_state {
    uint64_t n;
    int64_t last;
} watch_state;

static pico_status watch_need(void *self, pico_sampler_need *out) {
    (void)self;
    out->kind = PICO_NEED_FULL;
    out->inv_temperature = 1;
    out->state_bytes = sizeof(watch_state);
    return PICO_OK;
}

static pico_status watch_dist(void *self, const pico_candidates *row, const void *state,
                              pico_dist *out) {
    watcher *w = self;
    watch_state now;
    double sum = 0;
    memcpy(&now, state, sizeof now);
    w->n_dist++;
    out->n = w->makes_nothing ? 0 : row->n;
    for (uint32_t i = 0; i < out->n; i++) {
        out->token[i] = (int32_t)i;
        out->p[i] = exp((double)row->logit[i]) + ((int64_t)i == now.last ? 1.0 : 0.0);
        sum += out->p[i];
    }
    for (uint32_t i = 0; i < out->n; i++) {
        out->p[i] /= sum;
        w->p[now.n % 8][i] = out->p[i];
    }
    return PICO_OK;
}

static void watch_init(void *self, void *state) {
    const watch_state first = {.n = 0, .last = -1};
    (void)self;
    memcpy(state, &first, sizeof first);
}

static void watch_next(void *self, const void *state, const pico_dist *dist, int32_t token,
                       void *next) {
    watcher *w = self;
    watch_state now;
    memcpy(&now, state, sizeof now);
    for (uint32_t i = 0; i < dist->n; i++) {
        w->n_wrong += dist->p[i] != w->p[now.n % 8][dist->token[i]];
    }
    w->n_wrong += dist->n != WATCH_VOCAB || state == next;
    w->n_next++;
    now.n++;
    now.last = token;
    memcpy(next, &now, sizeof now);
}

static const pico_sampler_ops watch_ops = {.struct_size = sizeof(pico_sampler_ops),
                                           .need = watch_need,
                                           .dist = watch_dist,
                                           .state_init = watch_init,
                                           .state_next = watch_next};

static void state_follows_accepted_tokens(void **state) {
    static dk_result plain, got;
    char path[64], script[128];
    int32_t prompt[6];
    dk_script_name(path, script);
    watcher w = {.n_dist = 0};
    dk d;
    dk_options options = {.model = 0, .sampler_ops = &watch_ops, .sampler_self = &w};
    dk_open(&d, *state, &options);
    assert_int_equal(d.n_vocab, WATCH_VOCAB);
    dk_prompt(1, d.n_vocab, 6, prompt);
    pico_request request = {.prompt = prompt, .n_prompt = 6, .max_tokens = 60, .seed = 3};
    dk_start(&d, 0, &request);
    dk_run(&d);
    dk_take(&d, 0, &plain);
    dk_close(&d);
    assert_int_equal(w.n_dist, 60);
    assert_int_equal(w.n_next, 60);
    assert_int_equal(w.n_wrong, 0);
    dk_write_script(path, &plain, 1);
    const char *const how[][2] = {{"decoder.scripted.shape=chain", "decoder.scripted.q=none"},
                                  {"decoder.scripted.shape=tree", "decoder.scripted.q=none"},
                                  {"decoder.scripted.shape=chain", "decoder.scripted.q=true"}};
    for (uint32_t i = 0; i < 4; i++) { /* the last two with rejection */
        memset(&w, 0, sizeof w);
        options.decoder = DK_SCRIPTED;
        options.set[0] = script;
        options.set[1] = how[i % 3][0];
        options.set[2] = how[i == 3 ? 0 : i][1];
        options.params.accept = i < 2 ? PICO_ACCEPT_MATCH : PICO_ACCEPT_REJECTION;
        dk_open(&d, *state, &options);
        dk_start(&d, 0, &request);
        dk_run(&d);
        dk_take(&d, 0, &got);
        if (i < 2) {
            dk_same(&plain, &got, "with a stateful sampler");
        }
        assert_true(pico_decode_statistics(d.decode)->n_accepted > 0);
        if (w.n_wrong != 0) {
            fail_msg("%s: state_next got %llu probabilities that dist had not given",
                     i < 2 ? "match" : "rejection", (unsigned long long)w.n_wrong);
        }
        dk_close(&d);
    }
    assert_int_equal(remove(path), 0);
}

/* A sampler that gives no token a probability is an error of the round, not a crash. */
static void an_empty_distribution_is_an_error(void **state) {
    int32_t prompt[6];
    watcher w = {.makes_nothing = 1};
    dk d;
    uint32_t live = 0;
    pico_error err = {0};
    dk_options options = {.model = 0, .sampler_ops = &watch_ops, .sampler_self = &w};
    dk_open(&d, *state, &options);
    dk_prompt(1, d.n_vocab, 6, prompt);
    pico_request request = {.prompt = prompt, .n_prompt = 6, .max_tokens = 60, .seed = 3};
    dk_start(&d, 0, &request);
    assert_int_not_equal(pico_decode_round(d.decode, &live, &err), PICO_OK);
    assert_non_null(strstr(err.message, "sampler"));
    w.makes_nothing = 0;
    dk_run(&d); /* and the answer can still be given */
    assert_int_equal(pico_decode_slot(d.decode, 0).finish, PICO_FINISH_LENGTH);
    dk_close(&d);
}

int main(void) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failing_op_changes_nothing),
        cmocka_unit_test(a_failing_write_changes_nothing),
        cmocka_unit_test(a_failing_read_changes_nothing),
        cmocka_unit_test(a_failing_commit_changes_nothing),
        cmocka_unit_test(impossible_proposals_are_refused),
        cmocka_unit_test(a_failing_observer_does_not_lose_the_place),
        cmocka_unit_test(state_follows_accepted_tokens),
        cmocka_unit_test(an_empty_distribution_is_an_error),
    };
    return KIT_RUN("decode_faults", tests);
}
