/* layers: transform */
/*
 * The decode loop: with accept = match, speculation of any quality and shape gives the tokens of
 * plain decoding, alone and in a batch, at any temperature, with penalties, with a stateful
 * sampler, with windows; an answer ends where it would end without it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "decode_kit.h"

/* ---- accept = match ---- */

typedef struct sampling_case {
    const char *what, *sampler;
    const char *set[4];
    float repetition, presence, frequency;
    uint32_t window_limit;
} sampling_case;

static const sampling_case cases[] = {
    {"greedy", "standard", {"sampler.standard.temperature=0"}, 1, 0, 0, 0},
    {"greedy with penalties", "standard", {"sampler.standard.temperature=0"}, 1.3f, 0.2f, 0.3f, 0},
    {"whole row",
     "standard",
     {"sampler.standard.temperature=1.5", "sampler.standard.top_k=0", "sampler.standard.top_p=1"},
     1,
     0,
     0,
     0},
    {"top-k and top-p",
     "standard",
     {"sampler.standard.temperature=0.7", "sampler.standard.top_k=5", "sampler.standard.top_p=0.9"},
     1,
     0,
     0,
     0},
    {"top-p with penalties",
     "standard",
     {"sampler.standard.temperature=1", "sampler.standard.top_k=0", "sampler.standard.top_p=0.95"},
     1.1f,
     0.5f,
     0.1f,
     0},
    {"min-p, sliding",
     "standard",
     {"sampler.standard.temperature=1", "sampler.standard.top_k=20", "sampler.standard.top_p=1",
      "sampler.standard.min_p=0.02"},
     1,
     0,
     0,
     24},
    {"mirostat", "mirostat", {"sampler.mirostat.tau=3"}, 1, 0, 0, 0},
    {"mirostat with penalties, sliding", "mirostat", {"sampler.mirostat.eta=0.5"}, 1.2f, 0, 0, 40},
};

static void fill_options(dk_options *options, const sampling_case *c, uint32_t model) {
    *options = (dk_options){.sampler = c->sampler, .model = model};
    memcpy(options->set, c->set, sizeof c->set);
    options->params.repetition = c->repetition;
    options->params.presence = c->presence;
    options->params.frequency = c->frequency;
    options->params.window_limit = c->window_limit;
    options->params.max_positions = 200;
}

static void add_set(dk_options *options, const char *assignment) {
    uint32_t i = 0;
    while (options->set[i] != NULL) {
        i++;
    }
    assert_true(i + 1 < DK_SET);
    options->set[i] = assignment;
}

enum { N_REQUEST = 3 };

/* Three requests that differ in everything: one fits a page, one crosses it in prefill. */
static void make_requests(uint32_t n_vocab, int32_t prompt[N_REQUEST][128], pico_request *out) {
    const uint32_t n_prompt[N_REQUEST] = {1, 20, 90}, n_new[N_REQUEST] = {80, 61, 35};
    for (uint32_t i = 0; i < N_REQUEST; i++) {
        dk_prompt(77 + i, n_vocab, n_prompt[i], prompt[i]);
        out[i] = (pico_request){.prompt = prompt[i],
                                .n_prompt = n_prompt[i],
                                .max_tokens = n_new[i],
                                .seed = 5 + i,
                                .sample = i};
    }
}

static void speculation_gives_the_plain_tokens(void **state) {
    char path[64], script[128], k_set[64], accuracy[64];
    static dk_result plain[N_REQUEST], got;
    uint64_t n_accepted = 0, n_drafted = 0;
    dk_script_name(path, script);
    for (uint32_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int32_t prompt[N_REQUEST][128];
        pico_request request[N_REQUEST];
        dk_options options;
        dk d;
        fill_options(&options, &cases[c], c % KIT_MODELS);
        dk_open(&d, *state, &options);
        make_requests(d.n_vocab, prompt, request);
        for (uint32_t i = 0; i < N_REQUEST; i++) {
            dk_start(&d, 0, &request[i]);
            dk_run(&d);
            dk_take(&d, 0, &plain[i]);
            assert_int_equal(plain[i].finish, PICO_FINISH_LENGTH);
        }
        dk_close(&d);
        dk_write_script(path, plain, N_REQUEST);
        for (uint32_t k = 1; k <= 8; k++) {
            const double quality[] = {0, 0.5, 0.9, 1};
            char what[400];
            fill_options(&options, &cases[c], c % KIT_MODELS);
            options.decoder = DK_SCRIPTED;
            options.params.n_slots = 1 + k % 3;
            (void)snprintf(k_set, sizeof k_set, "decoder.scripted.draft_n=%u", k == 8 ? 31 : k);
            (void)snprintf(accuracy, sizeof accuracy, "decoder.scripted.accuracy=%g",
                           quality[(k + c) % 4]);
            add_set(&options, script);
            add_set(&options, k_set);
            add_set(&options, accuracy);
            add_set(&options,
                    k % 2 == 0 ? "decoder.scripted.shape=tree" : "decoder.scripted.shape=chain");
            (void)snprintf(what, sizeof what, "%s, %s, %s, k %u, %u slots", d.what, cases[c].what,
                           accuracy, k, options.params.n_slots);
            dk_open(&d, *state, &options);
            for (uint32_t i = 0; i < N_REQUEST;) { /* as many at a time as there are slots */
                uint32_t n = 0;
                while (n < options.params.n_slots && i + n < N_REQUEST) {
                    dk_start(&d, n, &request[i + n]);
                    n++;
                }
                dk_run(&d);
                for (uint32_t s = 0; s < n; s++) {
                    dk_take(&d, s, &got);
                    dk_same(&plain[i + s], &got, what);
                }
                i += n;
            }
            const pico_decode_stats *stats = pico_decode_statistics(d.decode);
            assert_true(stats->n_accepted <= stats->n_drafted);
            assert_int_equal(stats->n_generated, 80 + 61 + 35);
            n_accepted += stats->n_accepted;
            n_drafted += stats->n_drafted;
            dk_close(&d);
        }
    }
    assert_true(n_accepted > 1000 && n_drafted > n_accepted + 1000); /* both ways were taken */
    assert_int_equal(remove(path), 0);
}

/* Right drafts save rounds: a chain of k that is always right needs 1 / (k + 1) of them. */
static void right_drafts_save_rounds(void **state) {
    char path[64], script[128];
    static dk_result plain, got;
    int32_t prompt[8];
    dk d;
    dk_script_name(path, script);
    dk_options options = {.model = 0};
    dk_open(&d, *state, &options);
    dk_prompt(3, d.n_vocab, 8, prompt);
    pico_request request = {.prompt = prompt, .n_prompt = 8, .max_tokens = 101, .seed = 1};
    dk_start(&d, 0, &request);
    dk_run(&d);
    dk_take(&d, 0, &plain);
    assert_int_equal(pico_decode_statistics(d.decode)->n_round, 101);
    dk_close(&d);
    dk_write_script(path, &plain, 1);
    options =
        (dk_options){.decoder = DK_SCRIPTED,
                     .set = {script, "decoder.scripted.draft_n=4", "decoder.scripted.accuracy=1"}};
    dk_open(&d, *state, &options);
    dk_start(&d, 0, &request);
    dk_run(&d);
    dk_take(&d, 0, &got);
    dk_same(&plain, &got, d.what);
    assert_int_equal(pico_decode_statistics(d.decode)->n_round, 1 + 20);
    assert_int_equal(pico_decode_statistics(d.decode)->n_accepted, 80);
    dk_close(&d);
    assert_int_equal(remove(path), 0);
}

/* ---- ends ---- */

/* End tokens and stop strings, plain and inside accepted runs: tokens, reason and text agree. */
static void answers_end_inside_accepted_runs(void **state) {
    char path[64], script[128];
    uint32_t n_end = 0, n_stop = 0;
    dk_script_name(path, script);
    for (uint64_t seed = 1; seed <= 24; seed++) {
        static dk_result free_run, plain, got;
        static dk_text text, plain_text, got_text;
        char stop_text[8];
        const char *stop = stop_text;
        int32_t prompt[5];
        dk d;
        dk_options options = {.model = 3,
                              .set = {"sampler.standard.temperature=1.5",
                                      "sampler.standard.top_k=0", "sampler.standard.top_p=1"},
                              .with_vocabulary = 1};
        dk_open(&d, *state, &options);
        dk_prompt(seed, d.n_vocab, 5, prompt);
        pico_request request = {.prompt = prompt,
                                .n_prompt = 5,
                                .max_tokens = 60,
                                .seed = seed,
                                .ignore_end = 1,
                                .on_text = dk_collect,
                                .arg = &text};
        memset(&text, 0, sizeof text);
        dk_start(&d, 0, &request);
        dk_run(&d);
        dk_take(&d, 0, &free_run);
        assert_int_equal(free_run.n, 65); /* end tokens were ignored */
        assert_true(text.n > 60);
        /* a stop string that is met after some tokens, in the middle of one, over several */
        size_t at = 20 + seed;
        memcpy(stop_text, text.text + at, 5);
        stop_text[5] = '\0';
        request.ignore_end = 0;
        request.stop = &stop;
        request.n_stop = seed % 3 != 0;
        request.arg = &plain_text;
        memset(&plain_text, 0, sizeof plain_text);
        dk_start(&d, 0, &request);
        dk_run(&d);
        dk_take(&d, 0, &plain);
        dk_close(&d);
        assert_memory_equal(plain.token, free_run.token, plain.n * sizeof *plain.token);
        assert_null(request.n_stop ? strstr(plain_text.text, stop) : NULL);
        assert_memory_equal(plain_text.text, text.text, plain_text.n);
        n_end += plain.finish == PICO_FINISH_END;
        n_stop += plain.finish == PICO_FINISH_STOP;
        if (plain.finish == PICO_FINISH_STOP) {
            const char *first = strstr(text.text, stop);
            assert_int_equal(plain_text.n, first - text.text);
        }
        dk_write_script(path, &free_run, 1); /* drafts run on beyond the end */
        for (uint32_t shape = 0; shape < 2; shape++) {
            dk_options fast = options;
            fast.decoder = DK_SCRIPTED;
            add_set(&fast, script);
            add_set(&fast, "decoder.scripted.draft_n=9");
            add_set(&fast, "decoder.scripted.accuracy=1");
            add_set(&fast,
                    shape == 0 ? "decoder.scripted.shape=chain" : "decoder.scripted.shape=tree");
            dk_open(&d, *state, &fast);
            request.arg = &got_text;
            memset(&got_text, 0, sizeof got_text);
            dk_start(&d, 0, &request);
            dk_run(&d);
            dk_take(&d, 0, &got);
            dk_same(&plain, &got, "end inside a run");
            assert_string_equal(got_text.text, plain_text.text);
            assert_int_equal(pico_session_length(pico_decode_session(d.decode), 0), got.n - 1);
            dk_close(&d);
        }
    }
    assert_true(n_end >= 3 && n_stop >= 5); /* all kinds of ends were seen */
    assert_int_equal(remove(path), 0);
}

/* A request's own end tokens end it where the first of them comes up, also inside an accepted run
 * and with ignore_end; what they stand for is not handed out. */
static void own_tokens_end_answers(void **state) {
    char path[64], script[128];
    dk_script_name(path, script);
    for (uint64_t seed = 1; seed <= 6; seed++) {
        static dk_result free_run, got;
        static dk_text text;
        int32_t prompt[5];
        dk d;
        dk_options options = {.model = 3,
                              .set = {"sampler.standard.temperature=1.5",
                                      "sampler.standard.top_k=0", "sampler.standard.top_p=1"},
                              .with_vocabulary = 1};
        dk_open(&d, *state, &options);
        dk_prompt(seed, d.n_vocab, 5, prompt);
        pico_request request = {
            .prompt = prompt, .n_prompt = 5, .max_tokens = 60, .seed = seed, .ignore_end = 1};
        dk_start(&d, 0, &request);
        dk_run(&d);
        dk_take(&d, 0, &free_run);
        dk_close(&d);
        const int32_t ends[2] = {free_run.token[5 + 20 + seed], free_run.token[5 + 30]};
        uint32_t n = 5;
        while (free_run.token[n] != ends[0] && free_run.token[n] != ends[1]) {
            n++;
        }
        dk_write_script(path, &free_run, 1);
        for (uint32_t drafts = 0; drafts < 2; drafts++) {
            dk_options with = options;
            if (drafts) {
                with.decoder = DK_SCRIPTED;
                add_set(&with, script);
                add_set(&with, "decoder.scripted.draft_n=9");
                add_set(&with, "decoder.scripted.accuracy=1");
            }
            dk_open(&d, *state, &with);
            memset(&text, 0, sizeof text);
            request.end_token = ends;
            request.n_end_token = 2;
            request.on_text = dk_collect;
            request.arg = &text;
            dk_start(&d, 0, &request);
            dk_run(&d);
            dk_take(&d, 0, &got);
            assert_int_equal(got.finish, PICO_FINISH_END);
            assert_int_equal(got.n, n + 1);
            assert_memory_equal(got.token, free_run.token, got.n * sizeof *got.token);
            assert_int_equal(pico_session_length(pico_decode_session(d.decode), 0), got.n - 1);
            size_t bytes = 0;
            for (uint32_t i = 5; i < n; i++) {
                bytes += pico_tokenizer_piece(d.tokenizer, got.token[i - 1], got.token[i], NULL, 0);
            }
            assert_int_equal(text.n, bytes);
            dk_close(&d);
        }
        assert_int_equal(remove(path), 0);
    }
}

static void limits_end_answers(void **state) {
    static dk_result got, fast;
    char path[64], script[128];
    int32_t prompt[64];
    dk d;
    dk_script_name(path, script);
    dk_options options = {.model = 0, .params = {.max_positions = 64}};
    dk_open(&d, *state, &options);
    dk_prompt(9, d.n_vocab, 64, prompt);
    const struct {
        uint32_t n_prompt, max_tokens, n_new, finish;
    } limits[] = {{10, 0, 0, PICO_FINISH_LENGTH},    {10, 1, 1, PICO_FINISH_LENGTH},
                  {10, 30, 30, PICO_FINISH_LENGTH},  {50, 100, 15, PICO_FINISH_CONTEXT},
                  {50, 15, 15, PICO_FINISH_LENGTH},  {50, 14, 14, PICO_FINISH_LENGTH},
                  {63, 100, 2, PICO_FINISH_CONTEXT}, {64, 100, 1, PICO_FINISH_CONTEXT}};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        pico_request request = {.prompt = prompt,
                                .n_prompt = limits[i].n_prompt,
                                .max_tokens = limits[i].max_tokens,
                                .seed = 4};
        dk_start(&d, 0, &request);
        dk_run(&d);
        dk_take(&d, 0, &got);
        assert_int_equal(got.n - got.n_prompt, limits[i].n_new);
        assert_int_equal(got.finish, limits[i].finish);
        if (limits[i].n_new == 0) {
            continue;
        }
        dk f;
        dk_options fast_options = {
            .decoder = DK_SCRIPTED,
            .set = {script, "decoder.scripted.draft_n=7", "decoder.scripted.accuracy=0.9"},
            .params = {.max_positions = 64}};
        dk_write_script(path, &got, 1);
        dk_open(&f, *state, &fast_options);
        dk_start(&f, 0, &request);
        dk_run(&f);
        dk_take(&f, 0, &fast);
        dk_same(&got, &fast, "limit");
        dk_close(&f);
        assert_int_equal(remove(path), 0);
    }
    pico_error err = {0};
    int32_t longer[65] = {0};
    pico_request request = {.prompt = longer, .n_prompt = 65, .max_tokens = 1};
    assert_int_equal(pico_decode_start(d.decode, 0, &request, &err), PICO_E_LIMIT);
    assert_non_null(strstr(err.message, "65"));
    request.n_prompt = 0;
    assert_int_equal(pico_decode_start(d.decode, 0, &request, &err), PICO_E_INVALID);
    longer[3] = (int32_t)d.n_vocab;
    request.n_prompt = 10;
    assert_int_equal(pico_decode_start(d.decode, 0, &request, &err), PICO_E_INVALID);
    dk_close(&d);
}

/* ---- conversations ---- */

/* A prompt that continues what the slot holds is not run again, and the answer is the one that a
 * fresh slot gives; so is the answer after a prompt that shares only its beginning. */
static void prefixes_are_reused(void **state) {
    static dk_result first, second, fresh;
    int32_t prompt[300];
    for (uint32_t turn = 0; turn < 2; turn++) { /* chunks of the decode class: equal bit for bit */
        dk d, e;
        dk_options options = {.model = turn == 0 ? 0 : 2,
                              .params = {.ubatch = 32, .max_positions = 300, .n_slots = 2}};
        dk_open(&d, *state, &options);
        dk_open(&e, *state, &options);
        dk_prompt(21 + turn, d.n_vocab, 70, prompt);
        pico_request request = {.prompt = prompt, .n_prompt = 70, .max_tokens = 20, .seed = 8};
        dk_start(&d, 1, &request);
        dk_run(&d);
        dk_take(&d, 1, &first);
        assert_int_equal(first.n_reused, 0);
        memcpy(prompt, first.token, first.n * sizeof *prompt); /* 90, and 30 new ones */
        dk_prompt(99, d.n_vocab, 30, prompt + first.n);
        request.n_prompt = first.n + 30;
        dk_start(&d, 1, &request);
        dk_run(&d);
        dk_take(&d, 1, &second);
        assert_int_equal(second.n_reused, first.n - 1); /* all but the newest was in the pages */
        dk_start(&e, 0, &request);
        dk_run(&e);
        dk_take(&e, 0, &fresh);
        dk_same(&fresh, &second, "a second turn");
        prompt[40] = (prompt[40] + 1) % (int32_t)d.n_vocab;
        request.n_prompt = 60;
        dk_start(&d, 1, &request);
        dk_run(&d);
        dk_take(&d, 1, &second);
        assert_int_equal(second.n_reused, 40);
        dk_start(&e, 1, &request);
        dk_run(&e);
        dk_take(&e, 1, &fresh);
        dk_same(&fresh, &second, "a changed prompt");
        dk_start(&d, 1, &request); /* the same again: one token is run, to have its logits */
        dk_run(&d);
        dk_take(&d, 1, &second);
        assert_int_equal(second.n_reused, 59);
        dk_same(&fresh, &second, "the same prompt");
        dk_close(&d);
        dk_close(&e);
    }
}

/* With a window that has moved on, a prompt that goes back too far starts afresh. */
static void a_window_that_moved_on_starts_afresh(void **state) {
    static dk_result first, second, fresh;
    int32_t prompt[300];
    dk d, e;
    dk_options options = {.model = 0,
                          .params = {.ubatch = 32, .max_positions = 300, .window_limit = 30}};
    dk_open(&d, *state, &options);
    dk_open(&e, *state, &options);
    dk_prompt(5, d.n_vocab, 200, prompt);
    pico_request request = {.prompt = prompt, .n_prompt = 200, .max_tokens = 50, .seed = 8};
    dk_start(&d, 0, &request);
    dk_run(&d);
    dk_take(&d, 0, &first);
    assert_int_equal(first.n, 250);
    const uint32_t lengths[] = {249, 225, 199, 130, 20};
    for (uint32_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        memcpy(prompt, first.token, sizeof *prompt * lengths[i]);
        prompt[lengths[i]] = (first.token[lengths[i]] + 1) % (int32_t)d.n_vocab;
        request.n_prompt = lengths[i] + 1;
        request.max_tokens = 10;
        dk_start(&d, 0, &request);
        dk_run(&d);
        dk_take(&d, 0, &second);
        assert_true(second.n_reused == lengths[i] || second.n_reused == 0);
        dk_start(&e, 0, &request);
        dk_run(&e);
        dk_take(&e, 0, &fresh);
        dk_same(&fresh, &second, "behind the window");
    }
    dk_close(&d);
    dk_close(&e);
}

/* What a timeline becomes that is run again from its last half whenever the context is full, by fresh
 * timelines that end there: out has n_prompt tokens and gets n. */
static void run_again_by_hand(const dk_options *options, kit_variant *variant, int32_t *out,
                              uint32_t n_prompt, uint32_t n) {
    static dk_result part;
    uint32_t context = options->params.max_positions, base = 0;
    dk d;
    dk_options plain = *options;
    plain.decoder = NULL;
    plain.set[1] = NULL;
    plain.params.max_timeline = 0;
    dk_open(&d, variant, &plain);
    while (n_prompt < n) {
        base = n_prompt - base > context ? n_prompt - context / 2 : base;
        pico_request request = {
            .prompt = out + base, .n_prompt = n_prompt - base, .max_tokens = n - n_prompt};
        dk_start(&d, 0, &request);
        dk_run(&d);
        dk_take(&d, 0, &part);
        memcpy(out + base, part.token, part.n * sizeof *out);
        n_prompt = base + part.n;
    }
    dk_close(&d);
}

/* With max_timeline a full context is no end: the last half is run again from position 0, as a fresh
 * timeline would; drafts and company change nothing. Prompts may be longer than the context. */
static void a_full_context_is_run_again(void **state) {
    static dk_result got[2];
    char path[64], script[128];
    const uint32_t n_prompts[] = {25, 40, 41, 95};
    dk_script_name(path, script);
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t n_prompt = n_prompts[i % 4], n = n_prompt + 130;
        int32_t want[DK_TOKENS];
        dk d;
        dk_options options = {.model = i < 4 ? 2 : 0,
                              .set = {"sampler.standard.temperature=0"},
                              .params = {.ubatch = 16, .max_positions = 40, .max_timeline = 400}};
        dk_prompt(3 + i, 31, n_prompt, want);
        run_again_by_hand(&options, *state, want, n_prompt, n);
        for (uint32_t drafts = 0; drafts < 2; drafts++) {
            options.params.n_slots = 2;
            if (drafts) { /* the right tokens, five at a time */
                dk_result timeline = {.n = n};
                memcpy(timeline.token, want, n * sizeof *want);
                dk_write_script(path, &timeline, 1);
                options.decoder = DK_SCRIPTED;
                options.set[1] = script;
                options.set[2] = "decoder.scripted.draft_n=5";
            }
            dk_open(&d, *state, &options);
            pico_request request = {.prompt = want, .n_prompt = n_prompt, .max_tokens = 130};
            dk_start(&d, 1, &request);
            request.n_prompt = 7; /* another timeline beside it, full at other times */
            dk_start(&d, 0, &request);
            dk_run(&d);
            dk_take(&d, 0, &got[0]);
            dk_take(&d, 1, &got[1]);
            assert_int_equal(got[1].n, n);
            assert_int_equal(got[0].n, 137);
            for (uint32_t t = 0; t < n; t++) {
                if (got[1].token[t] != want[t]) {
                    fail_msg("%s, prompt of %u, drafts %u: token %u is %d, expected %d", d.what,
                             n_prompt, drafts, t, got[1].token[t], want[t]);
                }
            }
            const pico_decode_stats *stats = pico_decode_statistics(d.decode);
            assert_true(stats->n_refill > 0 && (!drafts || stats->n_accepted > 60));
            dk_close(&d);
        }
    }
    (void)unlink(path);
}

/* Cancelling one slot leaves the others alone, and the slot can be used again. */
static void cancelling_is_local(void **state) {
    static dk_result plain, got;
    int32_t prompt[10];
    uint32_t live = 0;
    dk d;
    dk_options options = {.model = 1, .params = {.n_slots = 2}};
    dk_open(&d, *state, &options);
    dk_prompt(5, d.n_vocab, 10, prompt);
    pico_request request = {.prompt = prompt, .n_prompt = 10, .max_tokens = 30, .seed = 8};
    dk_start(&d, 0, &request);
    dk_run(&d);
    dk_take(&d, 0, &plain);
    dk_start(&d, 0, &request);
    dk_start(&d, 1, &request);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(pico_decode_round(d.decode, &live, NULL), PICO_OK);
        assert_int_equal(live, 2);
    }
    pico_decode_cancel(d.decode, 0);
    assert_int_equal(pico_decode_slot(d.decode, 0).finish, PICO_FINISH_CANCELLED);
    dk_run(&d);
    dk_take(&d, 1, &got);
    dk_same(&plain, &got, "beside a cancelled one");
    dk_start(&d, 0, &request);
    dk_run(&d);
    dk_take(&d, 0, &got);
    dk_same(&plain, &got, "after a cancelled one");
    dk_close(&d);
}

int main(void) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(speculation_gives_the_plain_tokens),
        cmocka_unit_test(right_drafts_save_rounds),
        cmocka_unit_test(answers_end_inside_accepted_runs),
        cmocka_unit_test(own_tokens_end_answers),
        cmocka_unit_test(limits_end_answers),
        cmocka_unit_test(prefixes_are_reused),
        cmocka_unit_test(a_window_that_moved_on_starts_afresh),
        cmocka_unit_test(a_full_context_is_run_again),
        cmocka_unit_test(cancelling_is_local),
    };
    return KIT_RUN("decode", tests);
}
