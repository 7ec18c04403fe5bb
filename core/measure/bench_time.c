/* Opening, running and timing one row of a bench; see bench_internal.h. */
#include <stdlib.h>
#include <time.h>

#include "measure/bench_internal.h"

enum { MAX_STEPS = 2000 };            /* of one repeat of a v row */
enum { WARM_TOKENS = 256 };           /* KV pages are touched for the first time before it counts */
static const double V_SECONDS = 0.15; /* that the single rows of one repeat take at least */
static const double RUN_SECONDS = 0.1; /* that the runs of one repeat take at least */

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

static uint32_t ubatch_of(const pico_bench *b) {
    return b->params->decode->ubatch;
}

/* Tokens of sequence i's prompt; no two have the same number. */
static uint32_t prompt_of(const pico_bench_row *row, uint32_t i) {
    return row->depth + 1 + i;
}

/* Rounds that run the prompts of all sequences but the first, while the first goes on. */
static uint32_t untimed_rounds(const pico_bench *b, const pico_bench_row *row) {
    uint32_t rounds = 0, ubatch = ubatch_of(b);
    for (uint32_t i = 1; i < row->n_seq; i++) {
        rounds += (prompt_of(row, i) + ubatch - 1) / ubatch;
    }
    return rounds;
}

static pico_status open_decode(pico_bench *b, const pico_bench_row *row, pico_error *err) {
    pico_decode_params params = *b->params->decode;
    params.sampler = &best_sampler;
    params.sampler_self = NULL;
    params.n_slots = row->n_seq;
    params.max_positions = b->max_positions;
    params.window_limit = 0;
    pico_status status = pico_decode_open(b->model, &params, &b->decode, err);
    if (status == PICO_OK) {
        uint64_t kv = pico_session_kv_bytes(pico_decode_session(b->decode));
        b->result->kv_bytes = kv > b->result->kv_bytes ? kv : b->result->kv_bytes;
    }
    return status;
}

static pico_status open_session(pico_bench *b, pico_error *err) {
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

void pico_bench_close_row(pico_bench *b) {
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

pico_status pico_bench_open_row(pico_bench *b, const pico_bench_row *row) {
    uint32_t n_vocab = pico_model_describe(b->model)->n_vocab;
    const pico_random_key key = {.seed = 1, .purpose = PICO_RANDOM_PLUGIN};
    b->max_logit_rows = row->kind == PICO_BENCH_ROWS_OF_ONE ? row->n : 1;
    b->max_rows = max2(ubatch_of(b), b->max_logit_rows);
    b->max_positions = row->depth + row->n;
    if (row->kind == PICO_BENCH_GENERATE) { /* and the tokens of untimed rounds */
        b->max_positions += row->n_seq + untimed_rounds(b, row);
    }
    size_t room = (size_t)b->max_positions + row->n_seq + 1;
    b->rows = calloc(b->max_rows, sizeof *b->rows);
    b->tokens = calloc(room, sizeof *b->tokens);
    if (b->rows == NULL || b->tokens == NULL) {
        pico_bench_close_row(b);
        return pico_fail(b->err, PICO_E_NOMEM, "out of memory");
    }
    for (size_t i = 0; i < room; i++) {
        b->tokens[i] = (int32_t)(pico_random_u64(&key, i) % n_vocab);
    }
    pico_error inner = {0};
    pico_status status =
        row->kind == PICO_BENCH_GENERATE ? open_decode(b, row, &inner) : open_session(b, &inner);
    if (status != PICO_OK) {
        pico_bench_close_row(b);
        return pico_fail(b->err, status, "%s: %s", row->test, inner.message);
    }
    return PICO_OK;
}

/* ---- running things ---- */

pico_status pico_bench_check_stop(pico_bench *b) {
    const pico_host *host = b->params->host;
    return host->should_stop(host->ctx) ? pico_fail(b->err, PICO_E_CANCELLED, "interrupted")
                                        : PICO_OK;
}

/* The best token of each output row, the last one into *last; waits for everything queued. */
static pico_status fetch(pico_bench *b, const pico_forward_out *out, int32_t *last) {
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
static pico_status forward(pico_bench *b, uint32_t begin, uint32_t end, int all, int32_t *last) {
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

static pico_status rewind_to(pico_bench *b, uint32_t length) {
    return pico_session_truncate(b->session, 0, length, b->err);
}

/* Brings an empty timeline to the depth of the row. */
static pico_status fill_depth(pico_bench *b, uint32_t depth) {
    int32_t ignored;
    return depth == 0 ? PICO_OK : forward(b, 0, depth, 0, &ignored);
}

static pico_status run_prefill(pico_bench *b, const pico_bench_row *row, double *seconds) {
    int32_t ignored;
    pico_status status = rewind_to(b, row->depth);
    double begin = now_seconds();
    if (status == PICO_OK) {
        status = forward(b, row->depth, row->depth + row->n, 0, &ignored);
    }
    *seconds = now_seconds() - begin;
    return status;
}

/* The number of tokens that the sequences have made; *waiting: 1 if one has made none. */
static uint64_t tokens_made(const pico_bench *b, const pico_bench_row *row, int *waiting) {
    uint64_t sum = 0;
    *waiting = 0;
    for (uint32_t i = 0; i < row->n_seq; i++) {
        pico_slot_state slot = pico_decode_slot(b->decode, i);
        sum += slot.n_token - slot.n_prompt;
        *waiting |= slot.n_token == slot.n_prompt;
    }
    return sum;
}

static pico_status start_all(pico_bench *b, const pico_bench_row *row, uint32_t n) {
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < row->n_seq; i++) {
        pico_request request = {.prompt = b->tokens + i,
                                .n_prompt = prompt_of(row, i),
                                .max_tokens = (uint64_t)n + 1 + untimed_rounds(b, row),
                                .ignore_end = 1};
        status = pico_decode_start(b->decode, i, &request, b->err);
    }
    return status;
}

/* n tokens of each sequence after its prompt; the rounds that run prompts are not counted. */
static pico_status run_generate(pico_bench *b, const pico_bench_row *row, uint32_t n,
                                double *seconds) {
    uint32_t live = 1;
    int waiting = 1;
    uint64_t before = 0, wanted = (uint64_t)n * row->n_seq, made = 0;
    pico_status status = start_all(b, row, n);
    while (status == PICO_OK && waiting) {
        status = pico_decode_round(b->decode, &live, b->err);
        before = tokens_made(b, row, &waiting);
    }
    double begin = now_seconds();
    while (status == PICO_OK && live != 0 && made < wanted) {
        status = pico_decode_round(b->decode, &live, b->err);
        made = tokens_made(b, row, &waiting) - before;
    }
    double passed = now_seconds() - begin;
    for (uint32_t i = 0; i < row->n_seq; i++) {
        pico_decode_cancel(b->decode, i);
    }
    *seconds = passed * (double)wanted / (double)(made == 0 ? 1 : made);
    return status;
}

/* Tokens [from, n) of an answer, each by running everything before it. */
static pico_status run_no_kv(pico_bench *b, const pico_bench_row *row, uint32_t from,
                             double *seconds) {
    pico_status status = PICO_OK;
    double begin = now_seconds();
    for (uint32_t i = from; status == PICO_OK && i < row->n; i++) {
        uint32_t length = row->depth + 1 + i;
        status = pico_bench_check_stop(b);
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

static pico_status time_rows(pico_bench *b, uint32_t depth, uint32_t n, double *seconds) {
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
static pico_status run_rows(pico_bench *b, const pico_bench_row *row, double *one, double *many) {
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

/* ---- a row, whatever its kind ---- */

pico_status pico_bench_warm_up(pico_bench *b, const pico_bench_row *row) {
    double ignored, unused = 0.0;
    const uint32_t few = row->n < WARM_TOKENS ? row->n : WARM_TOKENS;
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

static pico_status time_once(pico_bench *b, const pico_bench_row *row, double *one,
                             double *seconds) {
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

pico_status pico_bench_time(pico_bench *b, const pico_bench_row *row, double *one,
                            double *seconds) {
    double sum = 0.0, sum_one = 0.0;
    uint32_t n = 0;
    do { /* a run of a small model is over before a scheduler's tick */
        double run = 0.0;
        pico_status status = pico_bench_check_stop(b);
        if (status == PICO_OK) {
            status = time_once(b, row, one, &run);
        }
        if (status != PICO_OK) {
            return status;
        }
        sum += run;
        sum_one += *one;
        n++;
    } while (sum < RUN_SECONDS && row->kind != PICO_BENCH_ROWS_OF_ONE);
    *seconds = sum / n;
    *one = sum_one / n;
    return PICO_OK;
}
