/* layers: transform */
/*
 * Beam search: the same answers, in the same order, as a slow search that runs every hypothesis from
 * the start and looks at the whole vocabulary; all answers there are where the beam is wide enough;
 * greedy decoding where it is one wide. Side by side, in used slots, after failures and on a
 * deferred device alike.
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

enum { MAX_WIDTH = 25, MAX_LENGTH = 160, MAX_VOCAB = 70 };
enum { STOP_OFF, STOP_ON, STOP_NEVER };
enum { END = -1 }; /* in a bias: the token that ends */

/* ---- the slow search ---- */

typedef struct answer {
    int32_t token[MAX_LENGTH];
    uint32_t n, finish;
    double sum, score;
} answer;

typedef struct search {
    uint32_t width, early;
    double penalty;
    float repetition, presence, frequency;
    uint32_t window_limit;
    const char *stop; /* NULL: none */
    pico_logit_bias bias;
    uint32_t n_bias;
} search;

typedef struct oracle {
    dk d; /* for the model and the vocabulary */
    pico_session *session;
    const search *how;
    uint32_t n_prompt, max_new;
    answer live[MAX_WIDTH], ended[MAX_WIDTH];
    uint32_t n_live, n_ended;
} oracle;

static void oracle_open(oracle *o, const kit_variant *variant, const dk_options *options,
                        const search *how) {
    dk_options plain = *options;
    pico_error err = {0};
    plain.decoder = NULL;
    memset(plain.set, 0, sizeof plain.set);
    memset(o, 0, sizeof *o);
    dk_open(&o->d, variant, &plain);
    assert_true(o->d.n_vocab <= MAX_VOCAB);
    o->how = how;
    pico_session_params params = {.n_slots = 1,
                                  .max_positions = MAX_LENGTH,
                                  .window_limit = how->window_limit,
                                  .max_rows = MAX_LENGTH,
                                  .max_logit_rows = 1,
                                  .max_top_k = 1};
    if (pico_session_open(o->d.model, &params, &o->session, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
}

static void oracle_close(oracle *o) {
    pico_session_close(o->session);
    dk_close(&o->d);
}

/* ln p of every next token, penalties and bias included. */
static void log_probabilities(oracle *o, const answer *a, double out[MAX_VOCAB]) {
    pico_row rows[MAX_LENGTH];
    pico_forward_out result;
    float z[MAX_VOCAB];
    uint32_t vocab = o->d.n_vocab, count[MAX_VOCAB] = {0};
    double sum = 0;
    assert_int_equal(pico_session_truncate(o->session, 0, 0, NULL), PICO_OK);
    for (uint32_t i = 0; i < a->n; i++) {
        count[a->token[i]]++;
        rows[i] = (pico_row){.token = a->token[i],
                             .prev = i == 0 ? -1 : a->token[i - 1],
                             .pos = (int32_t)i,
                             .parent = (int32_t)i - 1,
                             .want = i + 1 == a->n ? (uint32_t)PICO_ROW_LOGITS : 0u};
    }
    assert_int_equal(pico_session_forward(o->session, rows, a->n, &result, NULL), PICO_OK);
    assert_int_equal(rig_read(&o->d.rig, &result.logits, z, vocab), PICO_OK);
    for (uint32_t t = 0; t < vocab; t++) {
        double x = (double)z[t];
        if (count[t] != 0) {
            x -= (double)o->how->presence + (double)o->how->frequency * count[t];
            x = x > 0 ? x / (double)o->how->repetition : x * (double)o->how->repetition;
        }
        int32_t biased = o->how->bias.token == END ? (int32_t)vocab - 1 : o->how->bias.token;
        if (o->how->n_bias != 0 && biased == (int32_t)t) {
            x += (double)o->how->bias.bias;
        }
        out[t] = x;
        sum += exp(x);
    }
    for (uint32_t t = 0; t < vocab; t++) {
        out[t] -= log(sum);
    }
}

static int has_stop(const oracle *o, const answer *a) {
    char text[8 * MAX_LENGTH];
    size_t n = 0;
    for (uint32_t i = o->n_prompt; i < a->n; i++) {
        n += pico_tokenizer_piece(o->d.tokenizer, a->token[i - 1], a->token[i], text + n,
                                  sizeof text - n - 1);
    }
    text[n] = '\0';
    return strstr(text, o->how->stop) != NULL;
}

/* Why an answer has ended, its last token being new. */
static uint32_t reason(const oracle *o, const answer *a) {
    if (o->d.tokenizer != NULL && pico_tokenizer_is_end(o->d.tokenizer, a->token[a->n - 1])) {
        return PICO_FINISH_END;
    }
    if (o->how->stop != NULL && has_stop(o, a)) {
        return PICO_FINISH_STOP;
    }
    return a->n - o->n_prompt == o->max_new ? PICO_FINISH_LENGTH : PICO_FINISH_NONE;
}

static void score_answer(oracle *o, answer *a) {
    a->score = a->sum / pow(a->n - o->n_prompt, o->how->penalty);
}

/* Among the ended ones, best first, the worst one falls off. */
static void keep_answer(oracle *o, const answer *a) {
    uint32_t at = o->n_ended;
    while (at > 0 && o->ended[at - 1].score < a->score) {
        at--;
    }
    if (at == o->how->width) {
        return;
    }
    uint32_t n = o->n_ended < o->how->width ? o->n_ended : o->how->width - 1;
    for (uint32_t i = n; i > at; i--) {
        o->ended[i] = o->ended[i - 1];
    }
    o->ended[at] = *a;
    o->n_ended = n + 1;
}

static int by_sum(const void *a, const void *b) {
    double x = ((const answer *)a)->sum, y = ((const answer *)b)->sum;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* One step; returns 1 when the search is over. */
static int step(oracle *o) {
    uint32_t n = 0, n_on = 0, vocab = o->d.n_vocab, length = o->live[0].n + 1 - o->n_prompt;
    answer *all = calloc((size_t)o->n_live * vocab, sizeof *all);
    answer on[MAX_WIDTH];
    assert_non_null(all);
    for (uint32_t i = 0; i < o->n_live; i++) {
        double log_p[MAX_VOCAB];
        log_probabilities(o, &o->live[i], log_p);
        for (uint32_t t = 0; t < vocab; t++) {
            if (isfinite(log_p[t])) {
                all[n] = o->live[i];
                all[n].token[all[n].n++] = (int32_t)t;
                all[n++].sum += log_p[t];
            }
        }
    }
    qsort(all, n, sizeof *all, by_sum);
    double best = all[0].sum;
    for (uint32_t i = 0; i < n && n_on < o->how->width; i++) {
        all[i].finish = reason(o, &all[i]);
        if (all[i].finish == PICO_FINISH_END || all[i].finish == PICO_FINISH_STOP) {
            if (i < o->how->width) {
                score_answer(o, &all[i]);
                keep_answer(o, &all[i]);
            }
        } else {
            on[n_on++] = all[i];
        }
    }
    free(all);
    int over = 0;
    if (o->n_ended == o->how->width) {
        double at = o->how->early == STOP_NEVER && o->how->penalty > 0 ? o->max_new : length;
        over = o->how->early == STOP_ON ||
               o->ended[o->n_ended - 1].score >= best / pow(at, o->how->penalty);
    }
    if (!over && length == o->max_new) {
        for (uint32_t i = 0; i < n_on; i++) {
            score_answer(o, &on[i]);
            keep_answer(o, &on[i]);
        }
        over = 1;
    }
    memcpy(o->live, on, sizeof on);
    o->n_live = n_on;
    return over || n_on == 0;
}

static void oracle_run(oracle *o, const int32_t *prompt, uint32_t n_prompt, uint32_t max_new) {
    o->n_prompt = n_prompt;
    o->max_new = max_new;
    o->n_live = 1;
    o->n_ended = 0;
    memset(&o->live[0], 0, sizeof o->live[0]);
    memcpy(o->live[0].token, prompt, n_prompt * sizeof *prompt);
    o->live[0].n = n_prompt;
    while (!step(o)) {
    }
}

/* ---- running beams ---- */

typedef struct beam_words {
    char width[48], penalty[48], early[48];
    pico_logit_bias bias;
} beam_words;

static void beam_options(dk_options *out, const search *how, uint32_t model, beam_words *words) {
    static const char *const early[] = {"off", "on", "never"};
    (void)snprintf(words->width, sizeof words->width, "decoder.beam.width=%u", how->width);
    (void)snprintf(words->penalty, sizeof words->penalty, "decoder.beam.length_penalty=%g",
                   how->penalty);
    (void)snprintf(words->early, sizeof words->early, "decoder.beam.early_stopping=%s",
                   early[how->early]);
    *out = (dk_options){.decoder = "beam",
                        .model = model,
                        .set = {words->width, words->penalty, words->early},
                        .with_vocabulary = 1};
    out->params.repetition = how->repetition;
    out->params.presence = how->presence;
    out->params.frequency = how->frequency;
    out->params.window_limit = how->window_limit;
    out->params.max_positions = MAX_LENGTH;
    words->bias = how->bias;
    if (how->bias.token == END) {
        words->bias.token = (int32_t)kit_model(model).n_vocab - 1;
    }
    out->params.bias = &words->bias;
    out->params.n_bias = how->n_bias;
}

/* The answers of a slot are those of the oracle, one by one. */
static void compare_answers(const dk *d, uint32_t slot, const oracle *o, const char *what) {
    uint32_t n = pico_decode_n_best(d->decode, slot);
    if (n != o->n_ended) {
        fail_msg("%s, %s: %u answers, expected %u", d->what, what, n, o->n_ended);
    }
    for (uint32_t i = 0; i < n; i++) {
        double score = 0;
        pico_slot_state got = pico_decode_best(d->decode, slot, i, &score);
        const answer *want = &o->ended[i];
        if (got.n_token != want->n || got.finish != want->finish ||
            memcmp(got.token, want->token, want->n * sizeof *want->token) != 0 ||
            fabs(score - want->score) > 1e-4 * (1 + fabs(want->score))) {
            fail_msg("%s, %s, answer %u: %u tokens, ended by %s, score %.7g; expected %u, %s, %.7g",
                     d->what, what, i, got.n_token, pico_finish_name(got.finish), score, want->n,
                     pico_finish_name(want->finish), want->score);
        }
    }
    pico_slot_state best = pico_decode_slot(d->decode, slot);
    assert_int_equal(best.n_token, o->ended[0].n);
    assert_int_equal(best.finish, o->ended[0].finish);
    assert_int_equal(best.n_prompt, o->n_prompt);
}

static pico_request request_of(const int32_t *prompt, uint32_t n_prompt, uint32_t max_new,
                               const search *how) {
    pico_request request = {.prompt = prompt, .n_prompt = n_prompt, .max_tokens = max_new};
    if (how->stop != NULL) {
        request.stop = (const char *const *)(uintptr_t)&how->stop;
        request.n_stop = 1;
    }
    return request;
}

/* ---- what comes out ---- */

static const search searches[] = {
    {.width = 1, .penalty = 1, .repetition = 1},
    {.width = 2, .penalty = 0, .repetition = 1},
    {.width = 3, .penalty = 1, .early = STOP_ON, .repetition = 1},
    {.width = 4, .penalty = 2, .early = STOP_NEVER, .repetition = 1},
    {.width = 4, .penalty = -0.5, .early = STOP_NEVER, .repetition = 1, .window_limit = 20},
    {.width = 5, .penalty = 1, .repetition = 1.3f, .presence = 0.2f, .frequency = 0.1f},
    {.width = 8, .penalty = 0.7, .repetition = 1, .bias = {7, 3.0f}, .n_bias = 1},
    {.width = 3, .penalty = 1, .repetition = 1.1f, .bias = {9, -INFINITY}, .n_bias = 1},
    /* many answers end early, so that the rules for stopping matter */
    {.width = 2, .penalty = 1, .repetition = 1, .bias = {END, 3.0f}, .n_bias = 1},
    {.width = 3, .penalty = 2, .repetition = 1, .bias = {END, 3.0f}, .n_bias = 1},
    {.width = 3,
     .penalty = 1,
     .early = STOP_NEVER,
     .repetition = 1,
     .bias = {END, 4.0f},
     .n_bias = 1},
    {.width = 2,
     .penalty = -0.1,
     .early = STOP_NEVER,
     .repetition = 1,
     .bias = {END, 2.0f},
     .n_bias = 1},
    {.width = 4, .penalty = 3, .early = STOP_ON, .repetition = 1, .bias = {END, 3.0f}, .n_bias = 1},
};

/* Prompts of one token, of one page, of more than one; answers that end and that do not. */
static void answers_are_those_of_the_slow_search(void **state) {
    static const uint32_t n_prompt[] = {1, 7, 70, 2, 3, 4};
    static oracle o;
    uint32_t n_end = 0, n_length = 0, n_short = 0;
    for (uint32_t c = 0; c < sizeof searches / sizeof *searches; c++) {
        const search *how = &searches[c];
        dk_options options;
        beam_words words;
        dk d;
        beam_options(&options, how, c % KIT_MODELS, &words);
        dk_open(&d, *state, &options);
        oracle_open(&o, *state, &options, how);
        assert_int_equal(pico_decode_n_beam(d.decode), how->width);
        for (uint32_t p = 0; p < sizeof n_prompt / sizeof *n_prompt; p++) {
            int32_t prompt[70];
            dk_prompt(10 * c + p, d.n_vocab, n_prompt[p], prompt);
            pico_request request = request_of(prompt, n_prompt[p], 14, how);
            oracle_run(&o, prompt, n_prompt[p], 14);
            dk_start(&d, 0, &request);
            dk_run(&d);
            compare_answers(&d, 0, &o, "alone");
            for (uint32_t i = 0; i < o.n_ended; i++) {
                n_end += o.ended[i].finish == PICO_FINISH_END;
                n_length += o.ended[i].finish == PICO_FINISH_LENGTH;
            }
            n_short += o.live[0].n + 1 < n_prompt[p] + 14; /* stopped before it had to */
        }
        oracle_close(&o);
        dk_close(&d);
    }
    assert_true(n_end >= 20 && n_length >= 20 && n_short >= 10);
}

/* All answers of up to three tokens over a vocabulary of five, the last of which ends: a beam that
 * never drops anything finds the best of them, whatever the length penalty. */
static void a_wide_beam_finds_the_best_of_all_answers(void **state) {
    enum { VOCAB = 5, LENGTH = 3 };
    static const double penalties[] = {0, 1, -1, 3};
    static oracle o;
    uint32_t n_short = 0;
    for (uint32_t c = 0; c < 12; c++) {
        const search how = {.width = 25, .penalty = penalties[c % 4], .repetition = 1};
        dk_options options;
        beam_words words;
        answer best = {.score = -INFINITY};
        int32_t prompt[4];
        dk d;
        beam_options(&options, &how, c % KIT_MODELS, &words);
        options.n_vocab = VOCAB;
        options.heat = 1;
        dk_open(&d, *state, &options);
        oracle_open(&o, *state, &options, &how);
        o.n_prompt = 4;
        o.max_new = LENGTH;
        dk_prompt(c, VOCAB, 4, prompt);
        for (uint32_t code = 0; code < VOCAB * VOCAB * VOCAB; code++) {
            const int32_t tokens[LENGTH] = {(int32_t)(code % VOCAB),
                                            (int32_t)(code / VOCAB % VOCAB),
                                            (int32_t)(code / VOCAB / VOCAB)};
            answer a = {.n = 4};
            memcpy(a.token, prompt, sizeof prompt);
            do {
                double log_p[MAX_VOCAB];
                log_probabilities(&o, &a, log_p);
                int32_t token = tokens[a.n - 4];
                a.token[a.n++] = token;
                a.sum += log_p[token];
            } while (reason(&o, &a) == PICO_FINISH_NONE);
            score_answer(&o, &a);
            best = a.score > best.score ? a : best;
        }
        pico_request request = request_of(prompt, 4, LENGTH, &how);
        dk_start(&d, 0, &request);
        dk_run(&d);
        pico_slot_state got = pico_decode_slot(d.decode, 0);
        assert_int_equal(got.n_token, best.n);
        assert_memory_equal(got.token, best.token, best.n * sizeof *best.token);
        n_short += best.n < 4 + LENGTH;
        oracle_close(&o);
        dk_close(&d);
    }
    assert_true(n_short > 0 && n_short < 12);
}

/* One hypothesis: greedy decoding, whatever is configured for sampling. */
static void width_one_is_greedy(void **state) {
    static dk_result want, got;
    for (uint32_t c = 0; c < 8; c++) {
        const search how = {.width = 1,
                            .penalty = 1,
                            .early = c % 2 == 0 ? STOP_OFF : STOP_ON,
                            .repetition = c < 4 ? 1.0f : 1.2f};
        static dk_text text, beam_text;
        const char *stop = "e";
        dk_options options;
        beam_words words;
        int32_t prompt[66];
        dk d;
        beam_options(&options, &how, c % KIT_MODELS, &words);
        for (int beam = 0; beam < 2; beam++) {
            dk_options one = options;
            one.sampler = "mirostat"; /* has a say in neither */
            if (!beam) {
                one.decoder = NULL;
                one.sampler = NULL;
                memset(one.set, 0, sizeof one.set);
                one.set[0] = "sampler.standard.temperature=0";
            }
            dk_open(&d, *state, &one);
            dk_prompt(c, d.n_vocab, 66, prompt);
            memset(beam ? &beam_text : &text, 0, sizeof text);
            pico_request request = {.prompt = prompt,
                                    .n_prompt = c % 3 == 0 ? 66 : 1,
                                    .max_tokens = 60,
                                    .stop = &stop,
                                    .n_stop = c % 2,
                                    .on_text = dk_collect,
                                    .arg = beam ? &beam_text : &text};
            dk_start(&d, 0, &request);
            dk_run(&d);
            dk_take(&d, 0, beam ? &got : &want);
            dk_close(&d);
        }
        dk_same(&want, &got, "one hypothesis");
        assert_string_equal(text.text, beam_text.text);
    }
}

/* A hypothesis ends with the token that completes a stop string; the text ends before it; the other
 * answers have their texts, too. */
static void stop_strings_end_hypotheses(void **state) {
    static oracle o;
    static dk_text text, again;
    static char texts[4096];
    uint32_t n_stop = 0;
    for (uint32_t c = 0; c < 6; c++) {
        char stop[8] = "";
        search how = {.width = 4, .penalty = 1, .early = c % 3, .repetition = 1};
        dk_options options;
        beam_words words;
        int32_t prompt[9];
        dk d;
        beam_options(&options, &how, c % KIT_MODELS, &words);
        dk_open(&d, *state, &options);
        dk_prompt(40 + c, d.n_vocab, 9, prompt);
        pico_request request = request_of(prompt, 9, 20, &how);
        request.on_text = dk_collect;
        request.arg = &text;
        memset(&text, 0, sizeof text);
        dk_start(&d, 0, &request);
        dk_run(&d);
        assert_true(text.n > 12);
        memcpy(stop, text.text + 5 + c, 5); /* of the best answer, across tokens */
        memcpy(texts, text.text, sizeof texts);
        how.stop = stop;
        oracle_open(&o, *state, &options, &how);
        oracle_run(&o, prompt, 9, 20);
        request = request_of(prompt, 9, 20, &how);
        request.on_text = dk_collect;
        request.arg = &text;
        memset(&text, 0, sizeof text);
        dk_start(&d, 0, &request);
        dk_run(&d);
        compare_answers(&d, 0, &o, "with a stop string");
        for (uint32_t i = 0; i < pico_decode_n_best(d.decode, 0); i++) {
            double score;
            memset(&again, 0, sizeof again);
            pico_decode_best_text(d.decode, 0, i, dk_collect, &again);
            assert_null(strstr(again.text, stop));
            n_stop += pico_decode_best(d.decode, 0, i, &score).finish == PICO_FINISH_STOP;
            if (i == 0) {
                assert_string_equal(again.text, text.text);
            }
        }
        oracle_close(&o);
        dk_close(&d);
    }
    assert_true(n_stop >= 6);
}

/* ---- side by side ---- */

enum { N_SLOT = 3 };

/* Several searches together, in fresh and in used slots, behind prompts in chunks. */
static void searches_do_not_disturb_each_other(void **state) {
    static oracle o[N_SLOT];
    static const uint32_t n_prompt[N_SLOT] = {70, 3, 100}, n_new[N_SLOT] = {9, 25, 14};
    for (uint32_t c = 4; c < 7; c++) {
        const search *how = &searches[c];
        dk_options options;
        beam_words words;
        int32_t prompt[N_SLOT][100];
        dk d;
        beam_options(&options, how, c % KIT_MODELS, &words);
        options.params.n_slots = N_SLOT;
        dk_open(&d, *state, &options);
        for (uint32_t i = 0; i < N_SLOT; i++) {
            oracle_open(&o[i], *state, &options, how);
            dk_prompt(70 + i, d.n_vocab, n_prompt[i], prompt[i]);
            oracle_run(&o[i], prompt[i], n_prompt[i], n_new[i]);
        }
        for (uint32_t turn = 0; turn < 3; turn++) {
            for (uint32_t s = 0; s < N_SLOT; s++) {
                uint32_t i = (s + turn) % N_SLOT;
                pico_request request = request_of(prompt[i], n_prompt[i], n_new[i], how);
                dk_start(&d, s, &request);
            }
            dk_run(&d);
            for (uint32_t s = 0; s < N_SLOT; s++) {
                compare_answers(&d, s, &o[(s + turn) % N_SLOT], "side by side");
            }
        }
        /* one slot starts afresh again and again while another goes on */
        pico_request request = request_of(prompt[1], n_prompt[1], n_new[1], how);
        dk_start(&d, 0, &request);
        request = request_of(prompt[2], n_prompt[2], 2, how);
        for (uint32_t live = 2; live != 0;) {
            if (pico_decode_slot(d.decode, 2).finish != PICO_FINISH_NONE &&
                pico_decode_slot(d.decode, 0).finish == PICO_FINISH_NONE) {
                pico_decode_forget(d.decode, 2);
                dk_start(&d, 2, &request);
                assert_int_equal(pico_decode_slot(d.decode, 2).n_reused, 0);
            }
            assert_int_equal(pico_decode_round(d.decode, &live, NULL), PICO_OK);
        }
        compare_answers(&d, 0, &o[1], "beside others that come and go");
        request = request_of(prompt[0], n_prompt[0], n_new[0], how);
        dk_start(&d, 1, &request); /* its last prompt was another; then the same again */
        dk_run(&d);
        dk_start(&d, 1, &request);
        assert_true(how->window_limit != 0 ||
                    pico_decode_slot(d.decode, 1).n_reused == n_prompt[0] - 1);
        dk_run(&d);
        compare_answers(&d, 1, &o[0], "the same again");
        for (uint32_t i = 0; i < N_SLOT; i++) {
            oracle_close(&o[i]);
        }
        dk_close(&d);
    }
}

static void limits_end_searches(void **state) {
    static const struct {
        uint32_t n_prompt, max_tokens, n_new, finish;
    } limits[] = {{10, 0, 0, PICO_FINISH_LENGTH},
                  {10, 1, 1, PICO_FINISH_LENGTH},
                  {50, 100, 15, PICO_FINISH_CONTEXT},
                  {50, 15, 15, PICO_FINISH_LENGTH},
                  {64, 100, 1, PICO_FINISH_CONTEXT}};
    const search how = {.width = 3, .penalty = 1, .repetition = 1};
    dk_options options;
    beam_words words;
    int32_t prompt[65];
    pico_error err = {0};
    dk d;
    beam_options(&options, &how, 0, &words);
    options.with_vocabulary = 0;
    options.params.max_positions = 64;
    options.params.n_slots = 2;
    dk_open(&d, *state, &options);
    dk_prompt(9, d.n_vocab, 65, prompt);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        pico_request request = request_of(prompt, limits[i].n_prompt, limits[i].max_tokens, &how);
        dk_start(&d, 0, &request);
        dk_run(&d);
        pico_slot_state got = pico_decode_slot(d.decode, 0);
        assert_int_equal(got.n_token - got.n_prompt, limits[i].n_new);
        assert_int_equal(got.finish, limits[i].finish);
        assert_true(pico_decode_n_best(d.decode, 0) == (limits[i].n_new == 0 ? 1 : 3));
    }
    pico_request request = request_of(prompt, 65, 1, &how);
    assert_int_equal(pico_decode_start(d.decode, 0, &request, &err), PICO_E_LIMIT);
    request.n_prompt = 10;
    dk_start(&d, 0, &request);
    assert_int_equal(pico_decode_start_shared(d.decode, 1, 0, &request, &err), PICO_E_UNSUPPORTED);
    assert_int_equal(pico_decode_n_best(d.decode, 0), 0); /* not yet */
    dk_run(&d);
    dk_close(&d);
}

/* Cancelling gives the best so far: nothing before the prompt is in, then what is live, then what has
 * ended. */
static void cancelling_gives_the_best_so_far(void **state) {
    const search how = {
        .width = 3, .penalty = 1, .repetition = 1, .bias = {END, 1.5f}, .n_bias = 1};
    uint32_t n_empty = 0, n_some = 0, n_ended = 0;
    dk_options options;
    beam_words words;
    int32_t prompt[70];
    dk d;
    beam_options(&options, &how, 0, &words);
    dk_open(&d, *state, &options);
    dk_prompt(3, d.n_vocab, 70, prompt);
    for (uint32_t rounds = 0; rounds < 25; rounds++) {
        static dk_text text;
        uint32_t live = 1;
        pico_request request = request_of(prompt, 70, 60, &how);
        request.on_text = dk_collect;
        request.arg = &text;
        memset(&text, 0, sizeof text);
        pico_decode_forget(d.decode, 0);
        dk_start(&d, 0, &request);
        for (uint32_t r = 0; r < rounds && live != 0; r++) {
            assert_int_equal(pico_decode_round(d.decode, &live, NULL), PICO_OK);
            assert_true(live == 0 || text.n == 0);
        }
        if (live == 0) {
            break;
        }
        pico_decode_cancel(d.decode, 0);
        pico_slot_state got = pico_decode_slot(d.decode, 0);
        double score;
        assert_int_equal(got.finish, PICO_FINISH_CANCELLED);
        assert_true(pico_decode_n_best(d.decode, 0) >= 1);
        uint32_t why = pico_decode_best(d.decode, 0, 0, &score).finish;
        n_empty += got.n_token == got.n_prompt;
        n_some += got.n_token > got.n_prompt;
        n_ended += why == PICO_FINISH_END;
        assert_int_equal(text.n > 0, got.n_token - got.n_prompt > (why == PICO_FINISH_END));
        assert_int_equal(pico_decode_round(d.decode, &live, NULL), PICO_OK);
        assert_int_equal(live, 0);
    }
    assert_true(n_empty >= 1 && n_some >= 3 && n_ended >= 1);
    dk_close(&d);
}

/* ---- failures ---- */

typedef struct plan {
    uint32_t kinds, step, search;
} plan;

static const plan plans[] = {{FAULT_OP, 19, 5},     {FAULT_OP, 23, 4},     {FAULT_WRITE, 3, 5},
                             {FAULT_READ, 1, 5},    {FAULT_READ, 1, 4},    {FAULT_KV_COPY, 1, 3},
                             {FAULT_KV_COPY, 1, 4}, {FAULT_KV_COPY, 2, 5}, {FAULT_WRITE, 3, 6}};

/* Fails the n-th operation in the middle of two searches; returns whether anything failed. */
static int fail_once(const plan *p, const kit_variant *variant, const dk_options *options,
                     const pico_request request[2], const oracle o[2], int64_t n) {
    uint32_t n_error = 0, live = 1;
    char what[96];
    dk d;
    (void)snprintf(what, sizeof what, "plan %u, failure at %lld", (unsigned)(p - plans),
                   (long long)n);
    dk_open(&d, variant, options);
    dk_start(&d, 0, &request[0]);
    dk_start(&d, 1, &request[1]);
    fault_arm(&d.rig.fault, p->kinds, n);
    while (live != 0) {
        uint32_t before[2] = {pico_decode_slot(d.decode, 0).n_token,
                              pico_decode_slot(d.decode, 1).n_token};
        pico_error err = {0};
        if (pico_decode_round(d.decode, &live, &err) != PICO_OK) {
            n_error++;
            assert_true(err.message[0] != '\0');
            for (uint32_t s = 0; s < 2; s++) {
                assert_int_equal(pico_decode_slot(d.decode, s).n_token, before[s]);
            }
            live = 1;
        }
        if (n_error > 1) {
            fail_msg("%s: the next round failed too: %s", what, err.message);
        }
    }
    assert_int_equal(n_error, d.rig.fault.n_failed);
    for (uint32_t s = 0; s < 2; s++) {
        compare_answers(&d, s, &o[s], what);
    }
    dk_close(&d);
    return n_error != 0;
}

static void failures_change_nothing(void **state) {
    static oracle o[2];
    static const uint32_t n_prompt[2] = {61, 5};
    for (uint32_t i = 0; i < sizeof plans / sizeof *plans; i++) {
        const search *how = &searches[plans[i].search];
        dk_options options;
        beam_words words;
        int32_t prompt[2][61];
        pico_request request[2];
        beam_options(&options, how, 0, &words);
        options.params.n_slots = 2;
        for (uint32_t s = 0; s < 2; s++) {
            oracle_open(&o[s], *state, &options, how);
            dk_prompt(20 + s, o[s].d.n_vocab, n_prompt[s], prompt[s]);
            oracle_run(&o[s], prompt[s], n_prompt[s], 8);
            request[s] = request_of(prompt[s], n_prompt[s], 8, how);
        }
        int64_t n = 0;
        while (n < 40 * plans[i].step && fail_once(&plans[i], *state, &options, request, o, n)) {
            n += plans[i].step;
        }
        assert_true(n > 5);
        oracle_close(&o[0]);
        oracle_close(&o[1]);
    }
}

/* When nothing has a probability there is no answer, and the search can be given up. */
static void banning_everything_is_an_error(void **state) {
    static pico_logit_bias bias[MAX_VOCAB];
    const search how = {.width = 4, .penalty = 1, .repetition = 1};
    dk_options options;
    beam_words words;
    int32_t prompt[3] = {1, 2, 3};
    for (uint32_t n_left = 0; n_left < 3; n_left++) {
        uint32_t live;
        pico_error err = {0};
        dk d;
        beam_options(&options, &how, 0, &words);
        options.with_vocabulary = 0;
        for (uint32_t t = 0; t < 61; t++) {
            bias[t] = (pico_logit_bias){(int32_t)t, -INFINITY};
        }
        options.params.bias = bias;
        options.params.n_bias = 61 - n_left;
        dk_open(&d, *state, &options);
        assert_int_equal(d.n_vocab, 61);
        pico_request request = request_of(prompt, 3, 3, &how);
        dk_start(&d, 0, &request);
        pico_status status = pico_decode_round(d.decode, &live, &err);
        assert_int_equal(status, n_left == 0 ? PICO_E_INVALID : PICO_OK);
        if (n_left == 0) {
            assert_non_null(strstr(err.message, "banned"));
            pico_decode_cancel(d.decode, 0);
        } else {
            dk_run(&d);
            uint32_t n_all = n_left == 1 ? 1 : 8; /* answers of three tokens */
            assert_int_equal(pico_decode_n_best(d.decode, 0), n_all < 4 ? n_all : 4);
        }
        dk_close(&d);
    }
}

int main(void) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_those_of_the_slow_search),
        cmocka_unit_test(a_wide_beam_finds_the_best_of_all_answers),
        cmocka_unit_test(width_one_is_greedy),
        cmocka_unit_test(stop_strings_end_hypotheses),
        cmocka_unit_test(searches_do_not_disturb_each_other),
        cmocka_unit_test(limits_end_searches),
        cmocka_unit_test(cancelling_gives_the_best_so_far),
        cmocka_unit_test(failures_change_nothing),
        cmocka_unit_test(banning_everything_is_an_error),
    };
    return KIT_RUN("decode_beam", tests);
}
