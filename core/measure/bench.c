/* The rows of a bench, and what is made of their times; see bench.h. */
#include <assert.h>
#include <math.h>
#include <string.h>
#include <sys/resource.h>

#include "measure/bench_internal.h"

enum { PROBE_BYTES = 64 << 20, PROBE_PASSES = 2 };

/* ---- measuring a row ---- */

/* Steps that one repeat of a row takes, when each reads all weights; 0: not limited by reading. */
static double steps_of(const pico_bench_row *row) {
    return row->kind == PICO_BENCH_GENERATE      ? (double)row->n
           : row->kind == PICO_BENCH_ROWS_OF_ONE ? 1.0
                                                 : 0.0;
}

/* Tokens of one repeat. */
static double tokens_of(const pico_bench_row *row) {
    return (double)row->n * row->n_seq;
}

/* What the machine can do at this moment of what limits the row: bytes/s of each way of reading, or
 * the first is operations/s. */
typedef struct limits {
    double rate[PICO_PROBE_WAYS];
} limits;

static limits probe_for(const pico_bench *b, const pico_bench_row *row) {
    limits now = {{0}};
    if (b->probe != NULL && row->kind == PICO_BENCH_PREFILL) {
        now.rate[0] = pico_probe_flops(b->probe);
    } else if (b->probe != NULL && steps_of(row) != 0.0) {
        /* Small buffers are read in microseconds: more passes, so that a tick is not all there is. */
        uint64_t more = PROBE_BYTES / row->bytes;
        uint32_t times = more > 64 ? 64 : more < 1 ? 1 : (uint32_t)more;
        pico_probe_read(b->probe, row->bytes, PROBE_PASSES * times, now.rate);
    }
    return now;
}

/* The way of reading that is fastest over all n probes; *rate is its median. */
static size_t fastest_way(const limits *probed, uint32_t n, double *rate) {
    double of_way[PICO_BENCH_ROWS + 1];
    size_t fastest = 0;
    *rate = 0.0;
    for (size_t way = 0; way < PICO_PROBE_WAYS; way++) {
        for (uint32_t i = 0; i < n; i++) {
            of_way[i] = probed[i].rate[way];
        }
        const double median = pico_stats_of(of_way, n).median;
        if (median > *rate) {
            fastest = way;
            *rate = median;
        }
    }
    return fastest;
}

/* limit and share from the seconds of each of n repeats and the probes around them. */
static void compare_with_limit(pico_bench *b, pico_bench_row *row, const double *seconds,
                               const limits *probed, uint32_t n) {
    double shares[PICO_BENCH_ROWS], rate;
    const int computes = row->kind == PICO_BENCH_PREFILL;
    const double work = computes ? row->operations : (double)row->bytes * steps_of(row);
    row->limit = row->share = (double)NAN;
    if (b->probe == NULL || (!computes && steps_of(row) == 0.0)) {
        return;
    }
    const size_t way = fastest_way(probed, n + 1, &rate);
    for (uint32_t i = 0; i < n; i++) {
        shares[i] = work / seconds[i] / ((probed[i].rate[way] + probed[i + 1].rate[way]) / 2.0);
    }
    row->limit = rate / work * tokens_of(row);
    row->share = pico_stats_of(shares, n).median;
    row->probe_fault = !computes && row->share > PICO_BENCH_MAX_SHARE;
    double *most = computes ? &b->result->flop_rate : &b->result->read_rate;
    *most = fmax(*most, rate); /* fmax ignores the NaN it starts as */
}

static pico_status measure_row(pico_bench *b, pico_bench_row *row) {
    double seconds[PICO_BENCH_ROWS], rates[PICO_BENCH_ROWS], ratios[PICO_BENCH_ROWS];
    limits probed[PICO_BENCH_ROWS + 1];
    uint32_t repeats = b->params->repeats;
    assert(repeats >= 1 && repeats <= PICO_BENCH_ROWS);
    pico_status status = pico_bench_warm_up(b, row);
    const pico_decode_stats none = {0};
    const pico_decode_stats *stats = b->decode == NULL ? &none : pico_decode_statistics(b->decode);
    const pico_decode_stats before = *stats;
    probed[0] = probe_for(b, row);
    for (uint32_t r = 0; status == PICO_OK && r < repeats; r++) {
        double one = 1.0;
        status = pico_bench_time(b, row, &one, &seconds[r]);
        if (status == PICO_OK) {
            probed[r + 1] = probe_for(b, row);
            rates[r] = tokens_of(row) / seconds[r];
            ratios[r] = seconds[r] / one;
        }
    }
    if (status == PICO_OK) {
        row->n_drafted = stats->n_drafted - before.n_drafted;
        row->n_accepted = stats->n_accepted - before.n_accepted;
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

/* n_seq: of GENERATE; 0: one, and the name does not say so. */
static pico_status add_row(pico_bench *b, uint32_t kind, uint32_t n, uint32_t n_seq,
                           uint32_t depth) {
    static const char *const names[] = {"", "pp", "tg", "v", "tg"}; /* by PICO_BENCH_x */
    char at[16] = "", many[16] = "";
    if (b->result->n_row == PICO_BENCH_ROWS) {
        return pico_fail(b->err, PICO_E_LIMIT, "more than %d rows to measure", PICO_BENCH_ROWS);
    }
    if (depth > PICO_MAX_CONTEXT || n > PICO_MAX_CONTEXT) {
        return pico_fail(b->err, PICO_E_LIMIT, "%u tokens at depth %u are too many", n, depth);
    }
    pico_bench_row *row = &b->result->row[b->result->n_row++];
    uint64_t kv = pico_model_kv_bytes_per_token(b->model);
    uint64_t middle = kind == PICO_BENCH_GENERATE ? depth + 1u + n / 2 : depth + 1u;
    *row = (pico_bench_row){.kind = kind, .n = n, .n_seq = n_seq == 0 ? 1 : n_seq, .depth = depth};
    row->limit = row->share = (double)NAN;
    row->bytes = b->model->step_bytes + kv * middle * row->n_seq;
    row->operations = prefill_operations(&b->model->desc, n, depth);
    if (depth != 0) {
        (void)snprintf(at, sizeof at, "@d%u", depth);
    }
    if (n_seq != 0) {
        (void)snprintf(many, sizeof many, "x%u", n_seq);
    }
    (void)snprintf(row->test, sizeof row->test, "%s%u%s%s%s", names[kind], n, many,
                   kind == PICO_BENCH_NO_KV ? "@nokv" : "", at);
    return PICO_OK;
}

static pico_status add_list(pico_bench *b, uint32_t kind, const pico_bench_list *list,
                            uint32_t depth) {
    pico_status status = PICO_OK;
    for (size_t i = 0; status == PICO_OK && i < list->n; i++) {
        if (list->value[i] != 0) {
            status = add_row(b, kind, list->value[i], 0, depth);
        }
    }
    return status;
}

static pico_status list_rows(pico_bench *b) {
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
            for (size_t k = 0; status == PICO_OK && k < params->parallel.n; k++) {
                if (single.value[0] != 0 && params->parallel.value[k] != 0) {
                    status = add_row(b, PICO_BENCH_GENERATE, single.value[0],
                                     params->parallel.value[k], depth);
                }
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
static pico_status rehearse(pico_bench *b) {
    pico_status status = PICO_OK;
    for (size_t i = 0; status == PICO_OK && i < b->result->n_row; i++) {
        status = pico_bench_open_row(b, &b->result->row[i]);
        if (status == PICO_OK) {
            status = pico_bench_warm_up(b, &b->result->row[i]);
            pico_bench_close_row(b);
        }
        if (status == PICO_OK) {
            status = pico_bench_check_stop(b);
        }
    }
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
        b->result->peak_rss = (uint64_t)usage.ru_maxrss * 1024;
    }
    return status;
}

/* Without the probe the rows are still measured, only not compared. */
static void open_probe(pico_bench *b) {
    pico_error why = {0};
    uint64_t most = 1;
    if (!(b->model->device->caps.flags & PICO_CAP_HOST_MEMORY)) {
        (void)snprintf(
            b->result->note, sizeof b->result->note,
            "no limits: the backend computes elsewhere, and the probes know this machine's "
            "processor and memory alone");
        return;
    }
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
    pico_bench b = {.model = model, .params = params, .err = err, .result = out};
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
        status = pico_bench_open_row(&b, &out->row[i]);
        if (status == PICO_OK) {
            status = measure_row(&b, &out->row[i]);
            pico_bench_close_row(&b);
        }
    }
    if (status == PICO_OK) {
        params->host->progress(params->host->ctx, "bench", out->n_row, out->n_row);
    }
    pico_probe_close(b.probe);
    return status;
}
