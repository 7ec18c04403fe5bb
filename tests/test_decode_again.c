/* layers: transform */
/*
 * Timelines that outlive the context (max_timeline): where they end, and that samplers with a state,
 * penalties, drafts, company, shared prompts, failures and cancelling change nothing about their
 * tokens. That the tokens are the right ones is tested in test_decode.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "decode_kit.h"

enum { CONTEXT = 40, LONGEST = 300, N_NEW = 120, N_SLOT = 3 };

typedef struct sampling_case {
    const char *sampler, *set;
    float repetition, presence;
    uint32_t model;
} sampling_case;

static const sampling_case cases[] = {
    {"standard", "sampler.standard.temperature=1.2", 1.3f, 0.2f, 2},
    {"mirostat", "sampler.mirostat.eta=0.5", 1.2f, 0, 2},
    {"standard", "sampler.standard.top_k=0", 1, 0, 0},
};
enum { N_CASE = sizeof cases / sizeof *cases };

static dk_options options_of(const sampling_case *c) {
    return (dk_options){.model = c->model,
                        .sampler = c->sampler,
                        .set = {c->set},
                        .params = {.n_slots = N_SLOT,
                                   .ubatch = 16,
                                   .max_positions = CONTEXT,
                                   .max_timeline = LONGEST,
                                   .repetition = c->repetition,
                                   .presence = c->presence}};
}

static void draft(dk_options *options, const char *script, const char *shape) {
    options->decoder = DK_SCRIPTED;
    options->set[1] = script;
    options->set[2] = "decoder.scripted.draft_n=5";
    options->set[3] = shape;
}

/* Sample i of the prompt. */
static pico_request sample_of(const int32_t *prompt, uint32_t n_prompt, uint32_t i) {
    return (pico_request){.prompt = prompt,
                          .n_prompt = n_prompt,
                          .max_tokens = N_NEW + 7 * i,
                          .seed = 5,
                          .sample = i};
}

static void start_shared(dk *d, uint32_t slot, uint32_t leader, const pico_request *request) {
    pico_error err = {0};
    if (pico_decode_start_shared(d->decode, slot, leader, request, &err) != PICO_OK) {
        fail_msg("%s: %s", d->what, err.message);
    }
}

/* Sample 0 in slot 1, and the others behind it. */
static void start_samples(dk *d, const int32_t *prompt, uint32_t n_prompt) {
    for (uint32_t i = 0; i < N_SLOT; i++) {
        pico_request request = sample_of(prompt, n_prompt, i);
        if (i == 0) {
            dk_start(d, 1, &request);
        } else {
            start_shared(d, (1 + i) % N_SLOT, 1, &request);
        }
    }
}

static void compare_samples(const dk *d, const dk_result want[N_SLOT], const char *what) {
    static dk_result got;
    for (uint32_t i = 0; i < N_SLOT; i++) {
        dk_take(d, (1 + i) % N_SLOT, &got);
        dk_same(&want[i], &got, what);
    }
}

/* Each sample alone in a loop. */
static void alone(kit_variant *variant, const dk_options *options, const int32_t *prompt,
                  uint32_t n_prompt, dk_result out[N_SLOT]) {
    dk d;
    dk_options single = *options;
    single.params.n_slots = 1;
    for (uint32_t i = 0; i < N_SLOT; i++) {
        pico_request request = sample_of(prompt, n_prompt, i);
        dk_open(&d, variant, &single);
        dk_start(&d, 0, &request);
        dk_run(&d);
        dk_take(&d, 0, &out[i]);
        dk_close(&d);
        assert_int_equal(out[i].n, n_prompt + request.max_tokens);
    }
}

/* ---- where they end ---- */

typedef struct watcher {
    uint32_t max_positions, n_propose;
} watcher;

static pico_status watch_begin(void *self, const pico_model *target, uint32_t n_slots,
                               pico_decoder_need *out, pico_error *err) {
    watcher *w = self;
    (void)target, (void)n_slots, (void)err;
    w->max_positions = out->max_positions;
    out->max_proposals = 6;
    return PICO_OK;
}

/* As many drafts as there is room for: a decoder with a session of its own must have places for
 * them. */
static pico_status watch_propose(void *self, pico_sequence *sequences, uint32_t n,
                                 pico_error *err) {
    watcher *w = self;
    (void)err;
    for (uint32_t i = 0; i < n; i++) {
        pico_sequence *s = &sequences[i];
        assert_true(s->n_token + s->room <= w->max_positions);
        for (; s->n_proposal < s->room; s->n_proposal++) {
            s->proposal[s->n_proposal] =
                (pico_proposal){.token = 1, .parent = (int32_t)s->n_proposal - 1};
        }
    }
    w->n_propose++;
    return PICO_OK;
}

static pico_status watch_observe(void *self, const pico_outcome *outcomes, uint32_t n,
                                 const pico_tensor *hidden, pico_error *err) {
    (void)self, (void)outcomes, (void)n, (void)hidden, (void)err;
    return PICO_OK;
}

static void watch_end(void *self) {
    (void)self;
}

static const pico_decoder_ops watch_ops = {.struct_size = sizeof(pico_decoder_ops),
                                           .begin = watch_begin,
                                           .propose = watch_propose,
                                           .observe = watch_observe,
                                           .end = watch_end};

/* A timeline of max_timeline tokens is the longest one, wherever in the context that is; one token
 * more is drawn, as at the end of a context. */
static void the_longest_timeline_is_the_end(void **state) {
    static const uint32_t longest[] = {101, 130, 150, 199, 200, 201, 202, 299};
    int32_t prompt[200];
    for (size_t i = 0; i < sizeof longest / sizeof *longest; i++) {
        static dk_result plain, got;
        for (uint32_t drafts = 0; drafts < 2; drafts++) {
            watcher w = {0};
            dk d;
            dk_options options = options_of(&cases[0]);
            options.params.max_positions = 100;
            options.params.max_timeline = longest[i];
            if (drafts) {
                options.decoder_ops = &watch_ops;
                options.decoder_self = &w;
            }
            dk_open(&d, *state, &options);
            dk_prompt(i, d.n_vocab, 200, prompt);
            pico_request request = {.prompt = prompt, .n_prompt = 5, .max_tokens = 1000};
            dk_start(&d, 0, &request);
            dk_run(&d);
            dk_take(&d, 0, drafts ? &got : &plain);
            assert_int_equal(pico_decode_slot(d.decode, 0).n_token, longest[i] + 1);
            assert_int_equal(pico_decode_slot(d.decode, 0).finish, PICO_FINISH_CONTEXT);
            dk_close(&d);
            if (drafts) {
                assert_true(w.n_propose > 10);
                dk_same(&plain, &got, "the same end with drafts");
            }
        }
    }
}

/* ---- what changes nothing ---- */

static void drafts_and_company_change_nothing(void **state) {
    static dk_result want[N_SLOT];
    static const char *const shapes[] = {"decoder.scripted.shape=chain",
                                         "decoder.scripted.shape=tree"};
    static const uint32_t lengths[] = {1, CONTEXT - 1, CONTEXT, CONTEXT + 1, 95};
    char path[64], script[128];
    int32_t prompt[100];
    dk_script_name(path, script);
    for (uint32_t i = 0; i < N_CASE * 5; i++) {
        dk_options options = options_of(&cases[i % N_CASE]);
        uint32_t n_prompt = lengths[i / N_CASE];
        dk_prompt(40 + i, 31, n_prompt, prompt);
        alone(*state, &options, prompt, n_prompt, want);
        dk_write_script(path, want, N_SLOT);
        for (uint32_t shape = 0; shape < 3; shape++) {
            dk d;
            if (shape != 0) {
                draft(&options, script, shapes[shape - 1]);
            }
            dk_open(&d, *state, &options);
            for (uint32_t again = 0; again < 2;
                 again++) { /* the slots as the first time left them */
                start_samples(&d, prompt, n_prompt);
                dk_run(&d);
                compare_samples(&d, want, shape == 0 ? "plain" : shapes[shape - 1]);
            }
            const pico_decode_stats *stats = pico_decode_statistics(d.decode);
            assert_true(stats->n_refill != 0 && (shape == 0 || stats->n_accepted != 0));
            assert_int_equal(stats->n_generated, 2 * (3 * N_NEW + 21));
            dk_close(&d);
        }
        assert_int_equal(remove(path), 0);
    }
}

/* A slot whose beginning has been forgotten keeps nothing for the next prompt, also when it was
 * cancelled while it ran its last half again; the others go on. */
static void cancelling_at_any_round_changes_nothing(void **state) {
    static dk_result want[N_SLOT], got;
    int32_t prompt[CONTEXT];
    dk_options options = options_of(&cases[1]);
    dk_prompt(8, 31, CONTEXT, prompt);
    alone(*state, &options, prompt, CONTEXT, want);
    for (uint32_t rounds = 0; rounds < 40; rounds++) {
        uint32_t live = 0;
        dk d;
        dk_open(&d, *state, &options);
        start_samples(&d, prompt, CONTEXT);
        for (uint32_t r = 0; r < rounds; r++) {
            assert_int_equal(pico_decode_round(d.decode, &live, NULL), PICO_OK);
        }
        pico_decode_cancel(d.decode, 1);
        pico_request request = sample_of(prompt, CONTEXT, 0);
        dk_start(&d, 1, &request);
        dk_run(&d);
        dk_take(&d, 1, &got);
        dk_same(&want[0], &got, "started again");
        compare_samples(&d, want, "beside one that was started again");
        dk_close(&d);
    }
}

/* Who runs the last half of its timeline again waits too, but not for its prompt. */
static void who_runs_again_is_not_followed(void **state) {
    int32_t prompt[CONTEXT];
    uint32_t live = 0;
    pico_error err = {0};
    dk d;
    dk_options options = options_of(&cases[0]);
    options.params.ubatch = 4; /* several rounds to be in */
    dk_open(&d, *state, &options);
    dk_prompt(8, 31, CONTEXT, prompt);
    pico_request request = sample_of(prompt, CONTEXT, 0), second = sample_of(prompt, CONTEXT, 1);
    dk_start(&d, 0, &request);
    while (pico_decode_slot(d.decode, 0).n_token == CONTEXT) {
        assert_int_equal(pico_decode_round(d.decode, &live, NULL), PICO_OK);
    }
    assert_int_equal(pico_session_length(pico_decode_session(d.decode), 0), 0);
    assert_int_equal(pico_decode_start_shared(d.decode, 1, 0, &second, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "slot 0"));
    dk_close(&d);
}

/* ---- failures ---- */

typedef struct plan {
    uint32_t kinds, step, of_case, n_prompt;
    const char *shape; /* NULL: no drafts */
} plan;

static const plan plans[] = {
    {FAULT_OP, 29, 0, CONTEXT, NULL},
    {FAULT_OP, 31, 2, 95, "decoder.scripted.shape=tree"},
    {FAULT_WRITE, 3, 1, CONTEXT - 3, "decoder.scripted.shape=chain"},
    {FAULT_READ, 3, 0, 95, "decoder.scripted.shape=tree"},
    {FAULT_READ | FAULT_WRITE, 2, 1, CONTEXT, NULL}, /* whole rows may need no reads */
    {FAULT_KV_COPY, 1, 2, CONTEXT - 3, "decoder.scripted.shape=tree"},
};

/* Fails the n-th operation; returns whether anything failed. */
static int fail_once(const plan *p, kit_variant *variant, const dk_options *options,
                     const int32_t *prompt, const dk_result want[N_SLOT], int64_t n) {
    uint32_t n_error = 0, live = 1;
    char what[96];
    dk d;
    (void)snprintf(what, sizeof what, "plan %u, failure at %lld", (unsigned)(p - plans),
                   (long long)n);
    dk_open(&d, variant, options);
    start_samples(&d, prompt, p->n_prompt);
    fault_arm(&d.rig.fault, p->kinds, n);
    while (live != 0) {
        pico_error err = {0};
        uint32_t before[N_SLOT];
        for (uint32_t s = 0; s < N_SLOT; s++) {
            before[s] = pico_decode_slot(d.decode, s).n_token;
        }
        if (pico_decode_round(d.decode, &live, &err) != PICO_OK) {
            n_error++;
            live = 1;
            assert_true(err.message[0] != '\0');
            for (uint32_t s = 0; s < N_SLOT; s++) {
                assert_int_equal(pico_decode_slot(d.decode, s).n_token, before[s]);
            }
        }
        if (n_error > 1) {
            fail_msg("%s: the next round failed too: %s", what, err.message);
        }
    }
    assert_int_equal(n_error, d.rig.fault.n_failed);
    compare_samples(&d, want, what);
    dk_close(&d);
    return n_error != 0;
}

static void failures_change_nothing(void **state) {
    static dk_result want[N_SLOT];
    char path[64], script[128];
    int32_t prompt[100];
    dk_script_name(path, script);
    for (uint32_t i = 0; i < sizeof plans / sizeof *plans; i++) {
        dk_options options = options_of(&cases[plans[i].of_case]);
        dk_prompt(70 + i, 31, plans[i].n_prompt, prompt);
        alone(*state, &options, prompt, plans[i].n_prompt, want);
        dk_write_script(path, want, N_SLOT);
        if (plans[i].shape != NULL) {
            draft(&options, script, plans[i].shape);
        }
        int64_t n = 0;
        while (n < 60 * plans[i].step && fail_once(&plans[i], *state, &options, prompt, want, n)) {
            n += plans[i].step;
        }
        if (n == 0) {
            fail_msg("plan %u: nothing failed", i);
        }
        assert_int_equal(remove(path), 0);
    }
}

int main(void) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(the_longest_timeline_is_the_end),
        cmocka_unit_test(drafts_and_company_change_nothing),
        cmocka_unit_test(cancelling_at_any_round_changes_nothing),
        cmocka_unit_test(who_runs_again_is_not_followed),
        cmocka_unit_test(failures_change_nothing),
    };
    return KIT_RUN("decode_again", tests);
}
