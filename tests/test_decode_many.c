/* layers: transform */
/*
 * Many sequences in one decode loop: each gets the tokens that it gets alone, whoever takes which
 * slot when; samples of one prompt run it once and then share it, whatever the sampler, the
 * penalties, the drafts and the window are; failures and cancellation in the middle change nothing
 * for the others.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "decode_kit.h"

enum { N_SAMPLE = 4, LONG = 140, N_NEW = 40 };

typedef struct sampling_case {
    const char *what, *sampler;
    const char *set[4];
    float repetition, presence, frequency;
    uint32_t window_limit;
    uint32_t n_prompt;
    int32_t window[4];
} sampling_case;

static const sampling_case cases[] = {
    {"greedy, one token", "standard", {"sampler.standard.temperature=0"}, 1, 0, 0, 0, 1, {0}},
    {"whole row, one page",
     "standard",
     {"sampler.standard.temperature=1.5", "sampler.standard.top_k=0", "sampler.standard.top_p=1"},
     1,
     0,
     0,
     0,
     64,
     {0}},
    {"top-k with penalties",
     "standard",
     {"sampler.standard.temperature=1", "sampler.standard.top_k=7"},
     1.3f,
     0.2f,
     0.3f,
     0,
     20,
     {0}},
    {"mirostat with penalties, sliding",
     "mirostat",
     {"sampler.mirostat.eta=0.5"},
     1.2f,
     0,
     0,
     40,
     LONG,
     {0}},
    {"layers with windows",
     "standard",
     {"sampler.standard.temperature=1.2", "sampler.standard.top_k=0"},
     1,
     0,
     0,
     0,
     LONG,
     {-1, 30, 10, 5}},
};

static void fill_options(dk_options *options, const sampling_case *c, uint32_t model) {
    *options = (dk_options){.sampler = c->sampler, .model = model};
    memcpy(options->set, c->set, sizeof c->set);
    memcpy(options->window, c->window, sizeof c->window);
    options->params.repetition = c->repetition;
    options->params.presence = c->presence;
    options->params.frequency = c->frequency;
    options->params.window_limit = c->window_limit;
    options->params.max_positions = 240;
    options->params.n_slots = N_SAMPLE;
}

static void add_set(dk_options *options, const char *assignment) {
    uint32_t i = 0;
    while (options->set[i] != NULL) {
        i++;
    }
    assert_true(i + 1 < DK_SET);
    options->set[i] = assignment;
}

/* Sample i of a prompt; every sample is of its own length. */
static pico_request sample_of(const int32_t *prompt, uint32_t n_prompt, uint32_t i) {
    return (pico_request){.prompt = prompt,
                          .n_prompt = n_prompt,
                          .max_tokens = N_NEW + 3 * i,
                          .seed = 11,
                          .sample = i};
}

static void start_shared(dk *d, uint32_t slot, uint32_t leader, const pico_request *request) {
    pico_error err = {0};
    if (pico_decode_start_shared(d->decode, slot, leader, request, &err) != PICO_OK) {
        fail_msg("%s: %s", d->what, err.message);
    }
}

/* Sample 0 in slot `first` and the others, which follow it, in the slots behind (modulo). */
static void start_samples(dk *d, const int32_t *prompt, uint32_t n_prompt, uint32_t first) {
    for (uint32_t i = 0; i < N_SAMPLE; i++) {
        pico_request request = sample_of(prompt, n_prompt, i);
        uint32_t slot = (first + i) % N_SAMPLE;
        if (i == 0) {
            dk_start(d, slot, &request);
        } else {
            start_shared(d, slot, first, &request);
        }
    }
}

/* What each sample is when it runs alone in a loop of its own. */
static void alone(const kit_variant *variant, const dk_options *options, const int32_t *prompt,
                  uint32_t n_prompt, dk_result out[N_SAMPLE]) {
    for (uint32_t i = 0; i < N_SAMPLE; i++) {
        dk d;
        dk_options single = *options;
        pico_request request = sample_of(prompt, n_prompt, i);
        single.params.n_slots = 1;
        dk_open(&d, variant, &single);
        dk_start(&d, 0, &request);
        dk_run(&d);
        dk_take(&d, 0, &out[i]);
        dk_close(&d);
    }
}

static void compare_samples(const dk *d, uint32_t first, const dk_result want[N_SAMPLE],
                            const char *what) {
    static dk_result got;
    for (uint32_t i = 0; i < N_SAMPLE; i++) {
        dk_take(d, (first + i) % N_SAMPLE, &got);
        dk_same(&want[i], &got, what);
    }
}

/* ---- samples of one prompt ---- */

/* Plain and with drafts in chains and trees; in fresh slots and in used ones; the leader may come
 * before or behind its followers. */
static void samples_are_what_they_are_alone(void **state) {
    static dk_result want[N_SAMPLE];
    char path[64], script[128];
    int32_t prompt[LONG];
    dk_script_name(path, script);
    for (uint32_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        dk_options options;
        uint32_t n_prompt = cases[c].n_prompt;
        fill_options(&options, &cases[c], c % KIT_MODELS);
        dk_prompt(3 + c, 37, n_prompt, prompt); /* 37: the smallest vocabulary of the models */
        alone(*state, &options, prompt, n_prompt, want);
        dk_write_script(path, want, N_SAMPLE);
        for (uint32_t shape = 0; shape < 3; shape++) {
            dk d;
            dk_options how = options;
            if (shape != 0) {
                how.decoder = DK_SCRIPTED;
                add_set(&how, script);
                add_set(&how, shape == 1 ? "decoder.scripted.shape=chain"
                                         : "decoder.scripted.shape=tree");
            }
            dk_open(&d, *state, &how);
            for (uint32_t first = 0; first < N_SAMPLE; first += 3) {
                uint64_t before = pico_decode_statistics(d.decode)->n_prefill;
                for (uint32_t s = 0; s < N_SAMPLE; s++) {
                    pico_decode_forget(d.decode, s);
                }
                start_samples(&d, prompt, n_prompt, first);
                dk_run(&d);
                compare_samples(&d, first, want, cases[c].what);
                assert_int_equal(pico_decode_statistics(d.decode)->n_prefill - before, n_prompt);
            }
            dk_close(&d);
        }
        assert_int_equal(remove(path), 0);
    }
}

/* The samples differ from each other, so that the comparisons above say something. */
static void samples_differ(void **state) {
    static dk_result got[N_SAMPLE];
    int32_t prompt[20];
    dk_options options;
    dk d;
    fill_options(&options, &cases[1], 0);
    dk_open(&d, *state, &options);
    dk_prompt(9, d.n_vocab, 20, prompt);
    start_samples(&d, prompt, 20, 0);
    dk_run(&d);
    for (uint32_t i = 0; i < N_SAMPLE; i++) {
        dk_take(&d, i, &got[i]);
        for (uint32_t j = 0; j < i; j++) {
            assert_memory_not_equal(got[i].token + 20, got[j].token + 20,
                                    N_NEW * sizeof *got[i].token);
        }
    }
    dk_close(&d);
}

/* A leader that finds the beginning of its prompt in its slot runs the rest only. */
static void a_leader_reuses_its_prefix(void **state) {
    static dk_result want[N_SAMPLE];
    int32_t prompt[LONG];
    dk_options options;
    dk d;
    fill_options(&options, &cases[2], 0);
    options.params.ubatch =
        32; /* chunks of the decode class: the places of the cuts do not matter */
    dk_prompt(4, 37, LONG, prompt);
    alone(*state, &options, prompt, LONG, want);
    dk_open(&d, *state, &options);
    pico_request request = sample_of(prompt, 90, 0);
    request.max_tokens = 1;
    dk_start(&d, 1, &request);
    dk_run(&d);
    start_samples(&d, prompt, LONG, 1);
    assert_int_equal(pico_decode_slot(d.decode, 1).n_reused, 90);
    assert_int_equal(pico_decode_slot(d.decode, 2).n_reused, 0);
    dk_run(&d);
    compare_samples(&d, 1, want, "behind a known prefix");
    assert_int_equal(pico_decode_statistics(d.decode)->n_prefill, LONG);
    dk_close(&d);
}

/* Following needs a leader with the same prompt that is not in yet and follows nobody itself. */
static void only_a_waiting_leader_is_followed(void **state) {
    static dk_result plain, got;
    int32_t prompt[LONG];
    uint32_t live = 0;
    pico_error err = {0};
    dk_options options;
    dk d;
    fill_options(&options, &cases[2], 0);
    dk_open(&d, *state, &options);
    dk_prompt(4, 37, LONG, prompt);
    pico_request request = sample_of(prompt, LONG, 1), other = sample_of(prompt + 1, LONG - 1, 1);
    assert_int_equal(pico_decode_start_shared(d.decode, 1, 0, &request, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "slot 0"));
    dk_start(&d, 0, &request);
    assert_int_equal(pico_decode_start_shared(d.decode, 1, 0, &other, &err), PICO_E_INVALID);
    start_shared(&d, 1, 0, &request);
    assert_int_equal(pico_decode_start_shared(d.decode, 2, 1, &request, &err), PICO_E_INVALID);
    while (pico_decode_slot(d.decode, 0).n_token == LONG) {
        assert_int_equal(pico_decode_round(d.decode, &live, NULL), PICO_OK);
    }
    assert_int_equal(pico_decode_start_shared(d.decode, 2, 0, &request, &err), PICO_E_INVALID);
    request.n_prompt = 0;
    assert_int_equal(pico_decode_start_shared(d.decode, 2, 0, &request, &err), PICO_E_INVALID);
    request = sample_of(prompt, LONG, 0); /* an answer of no tokens is over at once */
    request.max_tokens = 0;
    dk_start(&d, 2, &request);
    assert_int_equal(pico_decode_slot(d.decode, 2).finish, PICO_FINISH_LENGTH);
    dk_run(&d);
    dk_take(&d, 0, &plain);
    dk_take(&d, 1, &got);
    dk_same(&plain, &got, "the same sample twice");
    dk_close(&d);
}

/* ---- cancelling ---- */

/* A leader that is cancelled between two chunks of its prompt: the others go on without it. So do
 * they when one of them is cancelled while it waits. */
static void cancelling_a_leader_keeps_the_followers(void **state) {
    static dk_result want[N_SAMPLE], got;
    int32_t prompt[LONG];
    dk_options options;
    fill_options(&options, &cases[2], 0);
    dk_prompt(4, 37, LONG, prompt);
    alone(*state, &options, prompt, LONG, want);
    for (uint32_t rounds = 0; rounds < 3; rounds++) {
        for (uint32_t gone = 0; gone < 2; gone++) {
            uint32_t live = 0;
            dk d;
            dk_open(&d, *state, &options);
            start_samples(&d, prompt, LONG, 0);
            for (uint32_t r = 0; r < rounds; r++) {
                assert_int_equal(pico_decode_round(d.decode, &live, NULL), PICO_OK);
                assert_int_equal(live, N_SAMPLE);
            }
            pico_decode_cancel(d.decode, gone);
            if (gone == 0) {
                pico_decode_cancel(d.decode, 1); /* the next leader, too */
            }
            assert_int_equal(pico_decode_round(d.decode, &live, NULL), PICO_OK);
            dk_run(&d);
            for (uint32_t i = 2; i < N_SAMPLE; i++) {
                dk_take(&d, i, &got);
                dk_same(&want[i], &got, "beside cancelled ones");
            }
            dk_take(&d, gone, &got);
            assert_int_equal(got.finish, PICO_FINISH_CANCELLED);
            assert_int_equal(got.n, got.n_prompt);
            dk_close(&d);
        }
    }
}

/* ---- failures ---- */

typedef struct plan {
    uint32_t kinds, step, of_case;
} plan;

static const plan plans[] = {{FAULT_OP, 11, 2},     {FAULT_OP, 17, 4},     {FAULT_WRITE, 1, 2},
                             {FAULT_READ, 1, 2},    {FAULT_READ, 1, 0},    {FAULT_KV_COPY, 1, 2},
                             {FAULT_KV_COPY, 1, 3}, {FAULT_KV_COPY, 1, 4}, {FAULT_WRITE, 1, 4}};

/* Fails the n-th operation; returns whether anything failed. */
static int fail_once(const plan *p, const kit_variant *variant, const dk_options *options,
                     const int32_t *prompt, const dk_result want[N_SAMPLE], int64_t n) {
    uint32_t n_error = 0, live = 1, n_prompt = 100;
    char what[96];
    dk d;
    (void)snprintf(what, sizeof what, "plan %u, failure at %lld", (unsigned)(p - plans),
                   (long long)n);
    dk_open(&d, variant, options);
    start_samples(&d, prompt, n_prompt, 1);
    fault_arm(&d.rig.fault, p->kinds, n);
    while (live != 0) {
        pico_error err = {0};
        if (pico_decode_round(d.decode, &live, &err) != PICO_OK) {
            n_error++;
            assert_true(err.message[0] != '\0');
            live = 1;
            for (uint32_t s = 0; s < N_SAMPLE; s++) { /* still waiting: with an empty timeline */
                uint32_t length = pico_session_length(pico_decode_session(d.decode), s);
                pico_slot_state slot = pico_decode_slot(d.decode, s);
                assert_true(slot.n_token > n_prompt ? length == slot.n_token - 1
                            : s == 1                ? length < n_prompt
                                                    : length == 0);
            }
        }
        if (n_error > 1) {
            fail_msg("%s: the next round failed too: %s", what, err.message);
        }
    }
    assert_int_equal(n_error, d.rig.fault.n_failed);
    compare_samples(&d, 1, want, what);
    dk_close(&d);
    return n_error != 0;
}

static void failures_change_nothing(void **state) {
    static dk_result want[N_SAMPLE];
    int32_t prompt[LONG];
    for (uint32_t i = 0; i < sizeof plans / sizeof *plans; i++) {
        dk_options options;
        fill_options(&options, &cases[plans[i].of_case], 0);
        options.params.ubatch = 70;
        dk_prompt(5, 37, LONG, prompt);
        alone(*state, &options, prompt, 100, want);
        int64_t n = 0;
        while (n < 40 * plans[i].step && fail_once(&plans[i], *state, &options, prompt, want, n)) {
            n += plans[i].step;
        }
        assert_true(n > 1);
    }
}

/* ---- many prompts ---- */

enum { N_PROMPT = 9 };

/* More prompts than slots, of all lengths; who is done gives its slot to the next. */
static void slots_go_round(void **state) {
    static dk_result want[N_PROMPT], got;
    static const uint32_t n_prompt[N_PROMPT] = {5, 1, 90, 17, 64, 2, 33, 128, 8};
    static const uint32_t n_new[N_PROMPT] = {30, 4, 1, 25, 2, 60, 0, 11, 40};
    int32_t prompt[N_PROMPT][LONG];
    pico_request request[N_PROMPT];
    for (uint32_t c = 1; c < 4; c++) {
        for (uint32_t n_slots = 1; n_slots <= 4; n_slots += n_slots) {
            dk_options options;
            dk d;
            uint32_t holds[4], next = 0, done = 0, live = 0;
            fill_options(&options, &cases[c], c % KIT_MODELS);
            options.params.n_slots = n_slots;
            dk_open(&d, *state, &options);
            for (uint32_t s = 0; s < 4; s++) {
                holds[s] = N_PROMPT;
            }
            for (uint32_t i = 0; i < N_PROMPT; i++) {
                dk_prompt(60 + i, d.n_vocab, n_prompt[i], prompt[i]);
                request[i] = (pico_request){.prompt = prompt[i],
                                            .n_prompt = n_prompt[i],
                                            .max_tokens = n_new[i],
                                            .seed = i / 2};
            }
            while (done < N_PROMPT) {
                for (uint32_t s = 0; s < n_slots; s++) {
                    while (holds[s] == N_PROMPT && next < N_PROMPT) {
                        pico_decode_forget(d.decode, s);
                        dk_start(&d, s, &request[next]);
                        holds[s] = next++;
                    }
                }
                assert_int_equal(pico_decode_round(d.decode, &live, NULL), PICO_OK);
                for (uint32_t s = 0; s < n_slots; s++) {
                    if (holds[s] == N_PROMPT ||
                        pico_decode_slot(d.decode, s).finish == PICO_FINISH_NONE) {
                        continue;
                    }
                    dk_take(&d, s, n_slots == 1 ? &want[holds[s]] : &got);
                    if (n_slots != 1) {
                        dk_same(&want[holds[s]], &got, cases[c].what);
                    }
                    holds[s] = N_PROMPT;
                    done++;
                }
            }
            dk_close(&d);
        }
    }
}

/* Prompts are run in the order of their starts, also when a low slot is used again and again. */
static void who_came_first_is_prefilled_first(void **state) {
    int32_t prompt[10];
    uint32_t live = 0;
    dk_options options;
    dk d;
    fill_options(&options, &cases[2], 0);
    dk_open(&d, *state, &options);
    dk_prompt(4, 37, 10, prompt);
    pico_request request = {.prompt = prompt, .n_prompt = 10, .max_tokens = 1};
    for (uint32_t s = 0; s < 3; s++) {
        dk_start(&d, s, &request);
    }
    for (uint32_t r = 0; r < 6; r++) {
        assert_int_equal(pico_decode_round(d.decode, &live, NULL), PICO_OK);
        assert_int_equal(live, 2);
        for (uint32_t s = 0; s < 3; s++) {
            assert_int_equal(pico_decode_slot(d.decode, s).finish == PICO_FINISH_LENGTH,
                             s == r % 3);
        }
        dk_start(&d, r % 3, &request);
    }
    dk_close(&d);
}

int main(void) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_are_what_they_are_alone),
        cmocka_unit_test(samples_differ),
        cmocka_unit_test(a_leader_reuses_its_prefix),
        cmocka_unit_test(only_a_waiting_leader_is_followed),
        cmocka_unit_test(cancelling_a_leader_keeps_the_followers),
        cmocka_unit_test(failures_change_nothing),
        cmocka_unit_test(slots_go_round),
        cmocka_unit_test(who_came_first_is_prefilled_first),
    };
    return KIT_RUN("decode_many", tests);
}
