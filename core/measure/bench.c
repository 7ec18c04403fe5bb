/* The rows of bench and how each is timed; see bench.h. */
#include "measure/bench.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "measure/probe.h"
#include "session/session.h"

enum { MAX_STEPS = 2000 };            /* of one repeat of a v row */
static const double V_SECONDS = 0.15; /* that the single rows of one repeat take at least */

typedef struct bench {
    pico_model *model;
    const pico_bench_params *params;
    pico_probe *probe; /* NULL while warming up, or if there is none */
    pico_error *err;
    pico_bench_result *result;
    /* of the row being measured */
    pico_decode *decode;   /* GENERATE */
    pico_session *session; /* the others */
    pico_buffer *index;    /* I32: argmax of every output row */
    pico_row *rows;        /* (max_rows) */
    int32_t *tokens;       /* (max_positions + 1): random, then what was generated */
    uint32_t max_rows, max_logit_rows, max_positions;
} bench;

static double now_seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- the sampler of a bench: the best token ---- */

static pico_status best_need(void *self, pico_sampler_need *out) {
    (void)self;
    out->kind = PICO_NEED_ARGMAX;
    return PICO_OK;
}

static pico_status best_dist(void *self, const pico_candidates *row, const void *state,
                             pico_dist *out) {
    uint32_t best = 0;
    (void)self;
    (void)state;
    for (uint32_t i = 1; i < row->n; i++) {
        best = row->logit[i] > row->logit[best] ? i : best;
    }
    out->n = 1;
    out->token[0] = row->token == NULL ? (int32_t)best : row->token[best];
    out->p[0] = 1.0;
    return PICO_OK;
}

static const pico_sampler_ops best_sampler = {
    .struct_size = sizeof(pico_sampler_ops), .need = best_need, .dist = best_dist};

/* ---- what one row needs ---- */

static uint32_t max2(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

static uint32_t ubatch_of(const bench *b) {
    return b->params->decode->ubatch;
}

static pico_status open_decode(bench *b, pico_error *err) {
    pico_decode_params params = *b->params->decode;
    params.sampler = &best_sampler;
    params.sampler_self = NULL;
    params.n_slots = 1;
    params.max_positions = b->max_positions;
    params.window_limit = 0;
    pico_status status = pico_decode_open(b->model, &params, &b->decode, err);
    if (status == PICO_OK) {
        uint64_t kv = pico_session_kv_bytes(pico_decode_session(b->decode));
        b->result->kv_bytes = kv > b->result->kv_bytes ? kv : b->result->kv_bytes;
    }
    return status;
}

static pico_status open_session(bench *b, pico_error *err) {
    const pico_device *device = b->model->device;
    pico_session_params params = {.n_slots = 1,
                                  .max_positions = b->max_positions,
                                  .max_rows = b->max_rows,
                                  .max_logit_rows = b->max_logit_rows,
                                  .max_top_k = 1};
    pico_status status = pico_session_open(b->model, &params, &b->session, err);
    if (status == PICO_OK) {
        uint64_t kv = pico_session_kv_bytes(b->session);
        b->result->kv_bytes = kv > b->result->kv_bytes ? kv : b->result->kv_bytes;
        status = device->ops->buffer_alloc(device->self, (uint64_t)b->max_logit_rows * 4, &b->index,
                                           err);
    }
    return status;
}

static void close_row(bench *b) {
    const pico_device *device = b->model->device;
    if (b->index != NULL) {
        device->ops->buffer_free(device->self, b->index);
    }
    pico_session_close(b->session);
    pico_decode_close(b->decode);
    free(b->rows);
    free(b->tokens);
    b->index = NULL;
    b->session = NULL;
    b->decode = NULL;
    b->rows = NULL;
    b->tokens = NULL;
}

static pico_status open_row(bench *b, const pico_bench_row *row) {
    uint32_t n_vocab = pico_model_describe(b->model)->n_vocab;
    const pico_random_key key = {.seed = 1, .purpose = PICO_RANDOM_PLUGIN};
    b->max_logit_rows = row->kind == PICO_BENCH_ROWS_OF_ONE ? row->n : 1;
    b->max_rows = max2(ubatch_of(b), b->max_logit_rows);
    b->max_positions = row->depth + row->n + 1;
    if (row->kind == PICO_BENCH_GENERATE) {
        b->max_positions++; /* the token of the untimed first round */
    }
    size_t room = (size_t)b->max_positions + 1;
    b->rows = calloc(b->max_rows, sizeof *b->rows);
    b->tokens = calloc(room, sizeof *b->tokens);
    if (b->rows == NULL || b->tokens == NULL) {
        close_row(b);
        return pico_fail(b->err, PICO_E_NOMEM, "out of memory");
    }
    for (size_t i = 0; i < room; i++) {
        b->tokens[i] = (int32_t)(pico_random_u64(&key, i) % n_vocab);
    }
    pico_error inner = {0};
    pico_status status =
        row->kind == PICO_BENCH_GENERATE ? open_decode(b, &inner) : open_session(b, &inner);
    if (status != PICO_OK) {
        close_row(b);
        return pico_fail(b->err, status, "%s: %s", row->test, inner.message);
    }
    return PICO_OK;
}

/* ---- running things ---- */

static pico_status check_stop(bench *b) {
    const pico_host *host = b->params->host;
    return host->should_stop(host->ctx) ? pico_fail(b->err, PICO_E_CANCELLED, "interrupted")
                                        : PICO_OK;
}

/* The best token of each output row, the last one into *last; waits for everything queued. */
static pico_status fetch(bench *b, const pico_forward_out *out, int32_t *last) {
    const pico_device *device = b->model->device;
    pico_argmax_args args = {.logits = out->logits,
                             .index = pico_view_vector(b->index, 0, PICO_DTYPE_I32, out->n)};
    pico_status status = device->ops->argmax(device->self, &args);
    return status == PICO_OK
               ? device->ops->buffer_read(device->self, b->index, (uint64_t)(out->n - 1) * 4, last,
                                          sizeof *last, b->err)
               : pico_fail(b->err, status, "the backend refuses an argmax");
}

/* Adds tokens[begin, end) to the timeline; all: logits for every row, else for the last. */
static pico_status forward(bench *b, uint32_t begin, uint32_t end, int all, int32_t *last) {
    pico_forward_out out = {0};
    uint32_t step = all ? end - begin : ubatch_of(b);
    for (uint32_t at = begin; at < end; at += step) {
        uint32_t n = end - at < step ? end - at : step;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t pos = at + i;
            int wanted = all || pos + 1 == end;
            b->rows[i] = (pico_row){.token = b->tokens[pos],
                                    .prev = pos == 0 ? -1 : b->tokens[pos - 1],
                                    .pos = (int32_t)pos,
                                    .parent = (int32_t)i - 1,
                                    .want = wanted ? (uint32_t)PICO_ROW_LOGITS : 0u};
        }
        pico_status status = pico_session_forward(b->session, b->rows, n, &out, b->err);
        if (status != PICO_OK) {
            return status;
        }
    }
    return fetch(b, &out, last);
}

static pico_status rewind_to(bench *b, uint32_t length) {
    return pico_session_truncate(b->session, 0, length, b->err);
}

/* Brings an empty timeline to the depth of the row. */
static pico_status fill_depth(bench *b, uint32_t depth) {
    int32_t ignored;
    return depth == 0 ? PICO_OK : forward(b, 0, depth, 0, &ignored);
}

static pico_status run_prefill(bench *b, const pico_bench_row *row, double *seconds) {
    int32_t ignored;
    pico_status status = rewind_to(b, row->depth);
    double begin = now_seconds();
    if (status == PICO_OK) {
        status = forward(b, row->depth, row->depth + row->n, 0, &ignored);
    }
    *seconds = now_seconds() - begin;
    return status;
}

/* n tokens after a prompt of depth + 1; the round that runs the prompt is not counted. */
static pico_status run_generate(bench *b, const pico_bench_row *row, uint32_t n, double *seconds) {
    pico_request request = {.prompt = b->tokens,
                            .n_prompt = (size_t)row->depth + 1,
                            .max_tokens = (uint64_t)n + 1,
                            .ignore_end = 1};
    uint32_t live = 1, before;
    pico_status status = pico_decode_start(b->decode, 0, &request, b->err);
    while (status == PICO_OK && pico_decode_slot(b->decode, 0).n_token == request.n_prompt) {
        status = pico_decode_round(b->decode, &live, b->err);
    }
    before = pico_decode_slot(b->decode, 0).n_token;
    double begin = now_seconds();
    while (status == PICO_OK && live != 0) {
        status = pico_decode_round(b->decode, &live, b->err);
    }
    double passed = now_seconds() - begin;
    if (status != PICO_OK) {
        pico_decode_cancel(b->decode, 0);
        return status;
    }
    uint32_t made = pico_decode_slot(b->decode, 0).n_token - before;
    *seconds = passed * (double)n / (double)(made == 0 ? 1 : made);
    return PICO_OK;
}

/* Tokens [from, n) of an answer, each by running everything before it. */
static pico_status run_no_kv(bench *b, const pico_bench_row *row, uint32_t from, double *seconds) {
    pico_status status = PICO_OK;
    double begin = now_seconds();
    for (uint32_t i = from; status == PICO_OK && i < row->n; i++) {
        uint32_t length = row->depth + 1 + i;
        status = check_stop(b);
        if (status == PICO_OK) {
            status = rewind_to(b, 0);
        }
        if (status == PICO_OK) {
            status = forward(b, 0, length, 0, &b->tokens[length]);
        }
    }
    *seconds = now_seconds() - begin;
    return status;
}

static pico_status time_rows(bench *b, uint32_t depth, uint32_t n, double *seconds) {
    int32_t ignored;
    pico_status status = rewind_to(b, depth);
    double begin = now_seconds();
    if (status == PICO_OK) {
        status = forward(b, depth, depth + n, 1, &ignored);
    }
    *seconds += now_seconds() - begin;
    return status;
}

/* Single rows and n rows in turns; *one and *many get the seconds of one step each. */
static pico_status run_rows(bench *b, const pico_bench_row *row, double *one, double *many) {
    double first = 0.0, singles = 0.0, groups = 0.0;
    pico_status status = time_rows(b, row->depth, 1, &first);
    uint32_t steps = MAX_STEPS;
    if (first * MAX_STEPS > V_SECONDS) {
        steps = 1 + (uint32_t)(V_SECONDS / first);
    }
    for (uint32_t i = 0; status == PICO_OK && i < steps; i++) {
        status = time_rows(b, row->depth, 1, &singles);
        if (status == PICO_OK) {
            status = time_rows(b, row->depth, row->n, &groups);
        }
    }
    *one = singles / steps;
    *many = groups / steps;
    return status;
}

/* ---- measuring a row ---- */

/* Once, untimed: loads pages and caches, and shows how much memory the row takes. */
static pico_status warm_up(bench *b, const pico_bench_row *row) {
    double ignored, unused = 0.0;
    uint32_t few = row->n < 8 ? row->n : 8;
    pico_status status = PICO_OK;
    switch (row->kind) {
    case PICO_BENCH_PREFILL:
        status = fill_depth(b, row->depth);
        return status == PICO_OK ? run_prefill(b, row, &ignored) : status;
    case PICO_BENCH_GENERATE:
        return run_generate(b, row, few, &ignored);
    case PICO_BENCH_NO_KV:
        return run_no_kv(b, row, row->n - 1, &ignored);
    default:
        status = fill_depth(b, row->depth);
        return status == PICO_OK ? time_rows(b, row->depth, row->n, &unused) : status;
    }
}

/* Seconds of one repeat; for a v row also of a single row. */
static pico_status measure_once(bench *b, const pico_bench_row *row, double *one, double *seconds) {
    switch (row->kind) {
    case PICO_BENCH_PREFILL:
        return run_prefill(b, row, seconds);
    case PICO_BENCH_GENERATE:
        return run_generate(b, row, row->n, seconds);
    case PICO_BENCH_NO_KV:
        return run_no_kv(b, row, 0, seconds);
    default:
        return run_rows(b, row, one, seconds);
    }
}

/* Steps that one repeat of a row takes, when each reads all weights; 0: not limited by reading. */
static double steps_of(const pico_bench_row *row) {
    return row->kind == PICO_BENCH_GENERATE      ? (double)row->n
           : row->kind == PICO_BENCH_ROWS_OF_ONE ? 1.0
                                                 : 0.0;
}

static double probe_for(bench *b, const pico_bench_row *row) {
    if (b->probe == NULL || steps_of(row) == 0.0) {
        return (double)NAN;
    }
    double rate = pico_probe_read(b->probe, row->bytes, PICO_PROBE_PASSES);
    b->result->read_rate = fmax(b->result->read_rate, rate); /* fmax ignores the NaN it starts as */
    return rate;
}

/* limit and share from the seconds of each repeat and the probes around them. */
static void compare_with_limit(bench *b, pico_bench_row *row, const double *seconds,
                               const double *rate, uint32_t n) {
    double shares[PICO_BENCH_ROWS], best = (double)NAN;
    double steps = steps_of(row);
    row->limit = row->share = (double)NAN;
    if (row->kind == PICO_BENCH_PREFILL && b->probe != NULL) {
        row->limit = b->result->flop_rate / row->operations * (double)row->n;
        row->share = row->tokens_per_s.median / row->limit;
    }
    if (b->probe == NULL || steps == 0.0) {
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        double allowed = fmax(rate[i], rate[i + 1]);
        shares[i] = (double)row->bytes * steps / seconds[i] / allowed;
        best = fmax(best, allowed);
    }
    row->limit = best / (double)row->bytes * (double)row->n / steps;
    row->share = pico_stats_of(shares, n).median;
    row->probe_fault = row->share > PICO_BENCH_MAX_SHARE;
}

static pico_status measure_row(bench *b, pico_bench_row *row) {
    double seconds[PICO_BENCH_ROWS], rates[PICO_BENCH_ROWS], ratios[PICO_BENCH_ROWS];
    double probed[PICO_BENCH_ROWS + 1];
    uint32_t repeats = b->params->repeats;
    assert(repeats >= 1 && repeats <= PICO_BENCH_ROWS);
    pico_status status = warm_up(b, row);
    probed[0] = probe_for(b, row);
    for (uint32_t r = 0; status == PICO_OK && r < repeats; r++) {
        double one = 1.0;
        status = check_stop(b);
        if (status == PICO_OK) {
            status = measure_once(b, row, &one, &seconds[r]);
        }
        if (status == PICO_OK) {
            probed[r + 1] = probe_for(b, row);
            rates[r] = (double)row->n / seconds[r];
            ratios[r] = seconds[r] / one;
        }
    }
    if (status == PICO_OK) {
        row->tokens_per_s = pico_stats_of(rates, repeats);
        if (row->kind == PICO_BENCH_ROWS_OF_ONE) {
            row->ratio = pico_stats_of(ratios, repeats);
        }
        compare_with_limit(b, row, seconds, probed, repeats);
    }
    return status;
}

/* ---- the list of rows ---- */

/* Operations of the products of one row of activations, the head left out. */
static double layer_operations(const pico_model_desc *desc) {
    double sum = 0.0, width = desc->n_embd;
    for (uint32_t i = 0; i < desc->n_layer; i++) {
        const pico_layer_desc *layer = &desc->layer[i];
        double heads = (double)layer->n_head * layer->head_dim;
        double kv = (double)layer->n_kv_head * layer->head_dim;
        double ff = (desc->flags & PICO_FFN_GATED) ? 3.0 : 2.0;
        sum += width * (2.0 * heads + 2.0 * kv + ff * layer->n_ff);
    }
    return 2.0 * sum;
}

static double prefill_operations(const pico_model_desc *desc, uint32_t n, uint32_t depth) {
    double sum = layer_operations(desc) * n + 2.0 * desc->n_embd * desc->n_vocab;
    double keys = (double)n * depth + (double)n * (n + 1) / 2.0; /* of all queries together */
    for (uint32_t i = 0; i < desc->n_layer; i++) {
        sum += 4.0 * keys * desc->layer[i].n_head * desc->layer[i].head_dim;
    }
    return sum;
}

static pico_status add_row(bench *b, uint32_t kind, uint32_t n, uint32_t depth) {
    static const char *const names[] = {"", "pp", "tg", "v", "tg"}; /* by PICO_BENCH_x */
    char at[16] = "";
    if (b->result->n_row == PICO_BENCH_ROWS) {
        return pico_fail(b->err, PICO_E_LIMIT, "more than %d rows to measure", PICO_BENCH_ROWS);
    }
    if (depth > PICO_MAX_CONTEXT || n > PICO_MAX_CONTEXT) {
        return pico_fail(b->err, PICO_E_LIMIT, "%u tokens at depth %u are too many", n, depth);
    }
    pico_bench_row *row = &b->result->row[b->result->n_row++];
    uint64_t kv = pico_model_kv_bytes_per_token(b->model);
    uint64_t middle = kind == PICO_BENCH_GENERATE ? depth + 1u + n / 2 : depth + 1u;
    *row = (pico_bench_row){.kind = kind, .n = n, .depth = depth};
    row->limit = row->share = (double)NAN;
    row->bytes = b->model->step_bytes + kv * middle;
    row->operations = prefill_operations(&b->model->desc, n, depth);
    if (depth != 0) {
        (void)snprintf(at, sizeof at, "@d%u", depth);
    }
    (void)snprintf(row->test, sizeof row->test, "%s%u%s%s", names[kind], n,
                   kind == PICO_BENCH_NO_KV ? "@nokv" : "", at);
    return PICO_OK;
}

static pico_status add_list(bench *b, uint32_t kind, const pico_bench_list *list, uint32_t depth) {
    pico_status status = PICO_OK;
    for (size_t i = 0; status == PICO_OK && i < list->n; i++) {
        if (list->value[i] != 0) {
            status = add_row(b, kind, list->value[i], depth);
        }
    }
    return status;
}

static pico_status list_rows(bench *b) {
    const pico_bench_params *params = b->params;
    pico_bench_list depths = params->depth;
    pico_status status = PICO_OK;
    if (depths.n == 0) {
        depths.value[depths.n++] = 0;
    }
    for (size_t d = 0; status == PICO_OK && d < depths.n; d++) {
        uint32_t depth = depths.value[d];
        status = add_list(b, PICO_BENCH_PREFILL, &params->prompt, depth);
        for (size_t i = 0; status == PICO_OK && i < params->generate.n; i++) {
            pico_bench_list single = {{params->generate.value[i]}, 1};
            status = add_list(b, PICO_BENCH_GENERATE, &single, depth);
            if (status == PICO_OK && params->no_kv) {
                status = add_list(b, PICO_BENCH_NO_KV, &single, depth);
            }
        }
        if (status == PICO_OK) {
            status = add_list(b, PICO_BENCH_ROWS_OF_ONE, &params->rows, depth);
        }
    }
    if (status == PICO_OK && b->result->n_row == 0) {
        status =
            pico_fail(b->err, PICO_E_INVALID, "there is nothing to measure: all lengths are 0");
    }
    return status;
}

/* ---- all together ---- */

/* Opens, runs and closes every row once; what they need beyond the model shows in peak memory. */
static pico_status rehearse(bench *b) {
    pico_status status = PICO_OK;
    for (size_t i = 0; status == PICO_OK && i < b->result->n_row; i++) {
        status = open_row(b, &b->result->row[i]);
        if (status == PICO_OK) {
            status = warm_up(b, &b->result->row[i]);
            close_row(b);
        }
        if (status == PICO_OK) {
            status = check_stop(b);
        }
    }
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
        b->result->peak_rss = (uint64_t)usage.ru_maxrss * 1024;
    }
    return status;
}

/* Without the probe the rows are still measured, only not compared. */
static void open_probe(bench *b) {
    pico_error why = {0};
    uint64_t most = 1;
    for (size_t i = 0; i < b->result->n_row; i++) {
        const pico_bench_row *row = &b->result->row[i];
        most = steps_of(row) != 0.0 && row->bytes > most ? row->bytes : most;
    }
    if (pico_probe_open(b->params->pool, most, &b->probe, &why) != PICO_OK) {
        (void)snprintf(b->result->note, sizeof b->result->note, "no limits: %.200s", why.message);
        return;
    }
    b->result->flop_rate = pico_probe_flops(b->probe);
    b->result->instructions = pico_probe_instructions(b->probe);
}

pico_status pico_bench_run(pico_model *model, const pico_bench_params *params,
                           pico_bench_result *out, pico_error *err) {
    bench b = {.model = model, .params = params, .err = err, .result = out};
    *out = (pico_bench_result){.step_bytes = model->step_bytes,
                               .read_rate = (double)NAN,
                               .flop_rate = (double)NAN,
                               .instructions = "",
                               .kv_bytes_per_token = pico_model_kv_bytes_per_token(model)};
    if (params->repeats < 1 || params->repeats > PICO_BENCH_ROWS) {
        return pico_fail(err, PICO_E_INVALID, "repeats must be from 1 to %d", PICO_BENCH_ROWS);
    }
    pico_status status = list_rows(&b);
    if (status == PICO_OK) {
        status = rehearse(&b);
    }
    if (status == PICO_OK) {
        open_probe(&b);
    }
    for (size_t i = 0; status == PICO_OK && i < out->n_row; i++) {
        params->host->progress(params->host->ctx, out->row[i].test, i, out->n_row);
        status = open_row(&b, &out->row[i]);
        if (status == PICO_OK) {
            status = measure_row(&b, &out->row[i]);
            close_row(&b);
        }
    }
    if (status == PICO_OK) {
        params->host->progress(params->host->ctx, "bench", out->n_row, out->n_row);
    }
    pico_probe_close(b.probe);
    return status;
}
