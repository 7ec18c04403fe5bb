/* Pairs of runs, plain and speculative, and what the cost model says of them; see spec.h. */
#include "measure/spec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { V_ROUNDS = 6, V_SLOW_ROUNDS = 3, V_REPEATS = 3, WARM_TOKENS = 6 };

static const double V_SECONDS = 0.5;     /* after so long a count of rows is not measured again */
static const double SLOW_SECONDS = 0.05; /* a plain round that long makes fewer of them enough */

typedef struct spec_bench {
    pico_model *model;
    const pico_spec_params *params;
    pico_spec_result *result;
    int32_t *truth, *text;      /* (n_prompt + n_new + 1) of the plain decoder, of the other */
    pico_cost_curve v;          /* seconds of a round by its rows */
    double plain_round_seconds; /* of the whole text: says how many rounds are enough */
    pico_known_drafts known;
    pico_error *err;
} spec_bench;

/* One run of a decode loop. */
typedef struct spec_run {
    double seconds; /* after the first token */
    uint32_t n_token;
    pico_decode_stats stats;
} spec_run;

static double now_seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static pico_status open_loop(spec_bench *b, const pico_decoder_ops *ops, void *self,
                             const char *name, uint32_t gamma, pico_decode **out) {
    pico_decode_params params = *b->params->decode;
    params.decoder = ops;
    params.decoder_self = self;
    params.decoder_name = name;
    params.draft_n = gamma;
    params.n_slots = 1;
    params.max_positions = b->params->n_prompt + b->params->n_new + 1;
    params.max_timeline = params.window_limit = 0;
    return pico_decode_open(b->model, &params, out, b->err);
}

static pico_status check_stop(const spec_bench *b) {
    const pico_host *host = b->params->host;
    return host->should_stop(host->ctx) ? pico_fail(b->err, PICO_E_CANCELLED, "interrupted")
                                        : PICO_OK;
}

/* n tokens after the first one, which comes out of the given ones, in at most `rounds` rounds. */
static pico_status run_some(spec_bench *b, pico_decode *decode, uint32_t repeat,
                            const int32_t *given, uint32_t n_given, uint32_t n, uint32_t rounds,
                            spec_run *out) {
    const pico_request request = {.prompt = given,
                                  .n_prompt = n_given,
                                  .max_tokens = (uint64_t)n + 1,
                                  .seed = b->params->seed + repeat,
                                  .ignore_end = 1};
    uint32_t live = 1;
    pico_decode_forget(decode, 0);
    pico_status status = pico_decode_start(decode, 0, &request, b->err);
    while (status == PICO_OK && live != 0 && pico_decode_slot(decode, 0).n_token == n_given) {
        status = pico_decode_round(decode, &live, b->err);
    }
    const pico_decode_stats before = *pico_decode_statistics(decode);
    double begin = now_seconds();
    for (uint32_t i = 0; status == PICO_OK && live != 0 && i < rounds; i++) {
        status = check_stop(b);
        if (status == PICO_OK) {
            status = pico_decode_round(decode, &live, b->err);
        }
    }
    out->seconds = now_seconds() - begin;
    out->stats = *pico_decode_statistics(decode);
    out->stats.n_drafted -= before.n_drafted;
    out->stats.n_accepted -= before.n_accepted;
    out->stats.n_decode_round -= before.n_decode_round;
    out->stats.n_decode_token -= before.n_decode_token;
    out->stats.draft_seconds -= before.draft_seconds;
    for (uint32_t i = 0; i <= PICO_DRAFT_MAX; i++) {
        out->stats.n_by_drafts[i] -= before.n_by_drafts[i];
    }
    pico_slot_state slot = pico_decode_slot(decode, 0);
    out->n_token = slot.n_token - slot.n_prompt;
    pico_decode_cancel(decode, 0);
    return status;
}

static pico_status run(spec_bench *b, pico_decode *decode, uint32_t repeat, uint32_t n,
                       spec_run *out) {
    return run_some(b, decode, repeat, b->params->prompt, b->params->n_prompt, n, UINT32_MAX, out);
}

static void keep_text(const pico_decode *decode, int32_t *to, uint32_t *n) {
    pico_slot_state slot = pico_decode_slot(decode, 0);
    memcpy(to, slot.token, slot.n_token * sizeof *to);
    *n = slot.n_token;
}

/* ---- v(k) ---- */

static uint32_t most_drafts(const pico_spec_params *params) {
    uint32_t most = 1;
    for (uint32_t i = 0; i < params->n_gamma; i++) {
        uint32_t gamma = params->gamma[i] > PICO_DRAFT_MAX ? PICO_DRAFT_MAX : params->gamma[i];
        most = gamma > most ? gamma : most;
    }
    return most;
}

/* Some rounds of 1 + k rows in the middle of the text, as attention takes the longer the more is
 * behind it; the drafts are wrong. */
static pico_status measure_v(spec_bench *b, uint32_t k) {
    pico_decode *decode = NULL;
    spec_run one = {0};
    pico_known_drafts wrong = b->known;
    double begin = now_seconds();
    uint32_t rounds = b->plain_round_seconds > SLOW_SECONDS ? V_SLOW_ROUNDS : V_ROUNDS;
    uint32_t n_new = b->params->n_new, used = k + rounds;
    uint32_t skip = used > n_new ? 0 : n_new - used < n_new / 2 ? n_new - used : n_new / 2;
    wrong.accept = wrong.seconds = 0;
    pico_status status =
        k == 0 ? open_loop(b, b->params->plain, b->params->plain_self, "greedy", 0, &decode)
               : open_loop(b, &pico_known_drafts_ops, &wrong, "scripted", k, &decode);
    for (uint32_t r = 0; status == PICO_OK && r < V_REPEATS; r++) {
        status = run_some(b, decode, 0, b->truth, b->params->n_prompt + skip, n_new - skip, rounds,
                          &one);
        r = now_seconds() - begin > V_SECONDS ? V_REPEATS : r;
    }
    double seconds = status == PICO_OK ? pico_decode_round_seconds(decode, 1 + k) : (double)NAN;
    if (!isnan(seconds)) {
        pico_cost_add(&b->v, 1 + k, seconds);
    }
    pico_decode_close(decode);
    return status;
}

/* The text that is made without drafts: the others need to know what is right. */
static pico_status make_truth(spec_bench *b) {
    pico_decode *decode = NULL;
    spec_run one = {0};
    pico_status status =
        open_loop(b, b->params->plain, b->params->plain_self, "greedy", 0, &decode);
    if (status == PICO_OK) {
        status = run(b, decode, 0, b->params->n_new, &one);
    }
    if (status == PICO_OK) {
        keep_text(decode, b->truth, &b->known.n_truth);
        b->plain_round_seconds = pico_decode_round_seconds(decode, 1);
    }
    pico_decode_close(decode);
    return status;
}

static pico_status measure_curve(spec_bench *b) {
    static const uint32_t wanted[] = {0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 31};
    pico_spec_result *result = b->result;
    uint32_t most = most_drafts(b->params);
    pico_status status = make_truth(b);
    for (size_t i = 0; status == PICO_OK && i < sizeof wanted / sizeof *wanted; i++) {
        if (wanted[i] <= most && wanted[i] < b->params->n_new) {
            status = measure_v(b, wanted[i]);
        }
    }
    result->plain_seconds = pico_cost_at(&b->v, 1);
    for (uint32_t rows = 1; status == PICO_OK && rows <= PICO_DECODE_ROWS_MAX; rows++) {
        if (pico_cost_known(&b->v, rows)) {
            result->v_rows[result->n_v] = rows;
            result->v[result->n_v++] = pico_cost_at(&b->v, rows) / result->plain_seconds;
        }
    }
    return status;
}

/* ---- a row ---- */

static pico_status compare(const spec_bench *b, const char *name, uint32_t gamma, uint32_t n_text) {
    char text[16];
    if (b->params->decode->accept == PICO_ACCEPT_MATCH &&
        (n_text != b->known.n_truth || memcmp(b->truth, b->text, n_text * sizeof *b->text) != 0)) {
        return pico_fail(b->err, PICO_E_CORRUPT,
                         "decoder %s with %s drafts gave another text than plain decoding; that "
                         "must not happen with accept = match",
                         name, pico_spec_gamma_text(gamma, text));
    }
    return PICO_OK;
}

/* Sums over the repeats of a row. */
typedef struct spec_sum {
    double plain[PICO_SPEC_REPEATS], speculative[PICO_SPEC_REPEATS], speedup[PICO_SPEC_REPEATS];
    double predicted_seconds; /* in plain rounds */
    double seconds, draft_seconds;
    uint64_t tokens, rounds, drafted, accepted;
} spec_sum;

static void add_run(const spec_bench *b, spec_sum *sum, uint32_t r, const spec_run *plain,
                    const spec_run *other) {
    double n = b->params->n_new, round = plain->seconds / n;
    sum->plain[r] = n / plain->seconds;
    sum->speculative[r] = (double)(other->n_token - 1) / other->seconds;
    sum->speedup[r] = sum->speculative[r] / sum->plain[r];
    for (uint32_t k = 0; k <= PICO_DRAFT_MAX; k++) {
        if (other->stats.n_by_drafts[k] != 0) {
            double v = pico_cost_at(&b->v, 1 + k) / b->result->plain_seconds;
            sum->predicted_seconds += v * (double)other->stats.n_by_drafts[k];
        }
    }
    sum->predicted_seconds += other->stats.draft_seconds / round;
    sum->seconds += other->seconds;
    sum->draft_seconds += other->stats.draft_seconds;
    sum->tokens += other->n_token - 1;
    sum->rounds += other->stats.n_decode_round;
    sum->drafted += other->stats.n_drafted;
    sum->accepted += other->stats.n_accepted;
}

static pico_status measure_pairs(spec_bench *b, const pico_spec_decoder *decoder, uint32_t gamma,
                                 pico_decode *plain, pico_decode *other, spec_sum *sum) {
    spec_run first = {0}, second = {0};
    uint32_t n_text = 0, few = b->params->n_new < WARM_TOKENS ? b->params->n_new : WARM_TOKENS;
    b->known.n_truth = 0; /* of an earlier text */
    pico_status status = run(b, plain, 0, few, &first);
    if (status == PICO_OK) {
        status = run(b, other, 0, few, &second);
    }
    for (uint32_t r = 0; status == PICO_OK && r < b->params->repeats; r++) {
        status = run(b, plain, r, b->params->n_new, &first);
        if (status == PICO_OK) {
            keep_text(plain, b->truth, &b->known.n_truth);
            b->known.seed = b->params->seed + r;
            b->known.seconds = b->params->draft_cost * first.seconds / b->params->n_new;
            status = run(b, other, r, b->params->n_new, &second);
        }
        if (status == PICO_OK) {
            keep_text(other, b->text, &n_text);
            status = compare(b, decoder->name, gamma, n_text);
            add_run(b, sum, r, &first, &second);
        }
    }
    return status;
}

static pico_status measure_row(spec_bench *b, const pico_spec_decoder *decoder, uint32_t gamma) {
    pico_decode *plain = NULL, *other = NULL;
    spec_sum sum = {.seconds = 0};
    pico_spec_row *row = &b->result->row[b->result->n_row];
    const pico_decoder_ops *ops = decoder->ops == NULL ? &pico_known_drafts_ops : decoder->ops;
    void *self = decoder->ops == NULL ? &b->known : decoder->self;
    pico_status status = open_loop(b, b->params->plain, b->params->plain_self, "greedy", 0, &plain);
    if (status == PICO_OK) {
        status = open_loop(b, ops, self, decoder->name, gamma, &other);
    }
    if (status == PICO_OK) {
        status = measure_pairs(b, decoder, gamma, plain, other, &sum);
    }
    pico_decode_close(other);
    pico_decode_close(plain);
    if (status != PICO_OK) {
        return status;
    }
    uint32_t n = b->params->repeats;
    *row = (pico_spec_row){
        .decoder = decoder->name,
        .gamma = gamma,
        .plain = pico_stats_of(sum.plain, n),
        .speculative = pico_stats_of(sum.speculative, n),
        .speedup = pico_stats_of(sum.speedup, n),
        .predicted = (double)sum.tokens / sum.predicted_seconds,
        .acceptance = sum.drafted == 0 ? (double)NAN : (double)sum.accepted / (double)sum.drafted,
        .tokens_per_round = (double)sum.tokens / (double)sum.rounds,
        .draft_share = sum.draft_seconds / sum.seconds};
    b->result->n_row++;
    return PICO_OK;
}

pico_status pico_spec_run(pico_model *model, const pico_spec_params *params, pico_spec_result *out,
                          pico_error *err) {
    spec_bench b = {.model = model, .params = params, .result = out, .err = err};
    uint64_t n_row = (uint64_t)params->n_decoder * params->n_gamma, done = 0;
    size_t room = (size_t)params->n_prompt + params->n_new + PICO_DECODE_ROWS_MAX + 1;
    *out = (pico_spec_result){.plain_seconds = (double)NAN};
    if (n_row > PICO_SPEC_ROWS || params->repeats < 1 || params->repeats > PICO_SPEC_REPEATS ||
        params->n_new < 2 || params->n_prompt < 1) {
        return pico_fail(
            err, PICO_E_INVALID,
            "%llu rows (at most %d) of %u repeats (1 to %d) and %u tokens (at least 2)",
            (unsigned long long)n_row, PICO_SPEC_ROWS, params->repeats, PICO_SPEC_REPEATS,
            params->n_new);
    }
    b.truth = calloc(room, sizeof *b.truth);
    b.text = calloc(room, sizeof *b.text);
    b.known = (pico_known_drafts){.truth = b.truth,
                                  .n_vocab = pico_model_describe(model)->n_vocab,
                                  .accept = params->accept,
                                  .seed = params->seed};
    pico_status status = b.truth == NULL || b.text == NULL
                             ? pico_fail(err, PICO_E_NOMEM, "out of memory")
                             : measure_curve(&b);
    for (uint32_t d = 0; status == PICO_OK && d < params->n_decoder; d++) {
        for (uint32_t g = 0; status == PICO_OK && g < params->n_gamma; g++) {
            params->host->progress(params->host->ctx, params->decoder[d].name, done++, n_row);
            status = measure_row(&b, &params->decoder[d], params->gamma[g]);
        }
    }
    if (status == PICO_OK) {
        params->host->progress(params->host->ctx, "bench", n_row, n_row);
    }
    free(b.truth);
    free(b.text);
    return status;
}
