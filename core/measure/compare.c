/* Two models on one text; see compare.h. */
#include "measure/compare.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "measure/eval_internal.h"
#include "util/checked.h"

/* ---- one token ---- */

static uint32_t best_of(const float *logits, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

void pico_compare_row(const float *model, const float *reference, uint32_t n, int32_t target,
                      pico_comparison_row *out) {
    assert(n >= 1 && target >= 0 && (uint32_t)target < n);
    uint32_t top_model = best_of(model, n), top_reference = best_of(reference, n);
    double most_model = (double)model[top_model];
    double most_reference = (double)reference[top_reference];
    double sum_model = 0.0, sum_reference = 0.0, weighted = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        double m = (double)model[i] - most_model, r = (double)reference[i] - most_reference;
        double e = exp(r);
        sum_model += exp(m);
        sum_reference += e;
        weighted += e * (r - m);
    }
    /* The logarithms of the sums are what turns shifted logits into ln p. */
    /* cppcheck-suppress invalidFunctionArg ; n > 0, so the sums are >= 1 */
    double ln_model = log(sum_model), ln_reference = log(sum_reference);
    double kl = weighted / sum_reference + (ln_model - ln_reference);
    *out = (pico_comparison_row){.nll_model = ln_model + most_model - (double)model[target],
                                 .nll_reference =
                                     ln_reference + most_reference - (double)reference[target],
                                 .kl = kl < 0.0 ? 0.0 : kl, /* below 0 only by rounding */
                                 .same_top = top_model == top_reference};
    out->p_diff = exp(-out->nll_model) - exp(-out->nll_reference);
}

/* ---- all tokens ---- */

typedef struct comparison {
    pico_eval_run model, reference;
    const pico_host *host;
    pico_comparison_row *row; /* (chunk) */
    const int32_t *targets;   /* of the chunk */
    float *kl;                /* (n_kl) of every token, for the percentiles */
    size_t n_kl, capacity;
    uint64_t n_same;
    pico_running nll_model, nll_reference, difference, divergence, p_diff, p_diff_squared;
} comparison;

static void compare_range(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    comparison *c = arg;
    uint64_t n = c->model.n_vocab;
    (void)thread;
    for (uint64_t i = begin; i < end; i++) {
        pico_compare_row(c->model.logits + i * n, c->reference.logits + i * n, (uint32_t)n,
                         c->targets[i], &c->row[i]);
    }
}

static pico_status add_row(comparison *c, const pico_comparison_row *row, uint64_t number,
                           size_t token, pico_error *err) {
    const char *who = !isfinite(row->nll_model)       ? "model"
                      : !isfinite(row->nll_reference) ? "reference"
                                                      : "model or the reference";
    if (!isfinite(row->nll_model) || !isfinite(row->nll_reference) || !isfinite(row->kl)) {
        return pico_fail(err, PICO_E_INVALID,
                         "document %llu: what the %s predicts for token %zu is not finite; the "
                         "logits overflow",
                         (unsigned long long)number, who, token);
    }
    pico_running_add(&c->nll_model, row->nll_model);
    pico_running_add(&c->nll_reference, row->nll_reference);
    pico_running_add(&c->difference, row->nll_model - row->nll_reference);
    pico_running_add(&c->divergence, row->kl);
    pico_running_add(&c->p_diff, row->p_diff);
    pico_running_add(&c->p_diff_squared, row->p_diff * row->p_diff);
    c->n_same += row->same_top;
    c->kl[c->n_kl++] = (float)row->kl;
    return PICO_OK;
}

/* Room for n more divergences. */
static pico_status reserve(comparison *c, size_t n, pico_error *err) {
    if (n <= c->capacity - c->n_kl) {
        return PICO_OK;
    }
    uint64_t wanted = (uint64_t)c->n_kl + n, bytes;
    wanted += wanted / 2;
    float *grown = pico_checked_mul(wanted, sizeof *c->kl, &bytes) && bytes <= SIZE_MAX
                       ? realloc(c->kl, (size_t)bytes)
                       : NULL;
    if (grown == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for the divergences of the text");
    }
    c->kl = grown;
    c->capacity = (size_t)wanted;
    return PICO_OK;
}

static pico_status empty_timelines(comparison *c, pico_error *err) {
    pico_status status = pico_session_truncate(c->model.session, 0, 0, err);
    return status == PICO_OK ? pico_session_truncate(c->reference.session, 0, 0, err) : status;
}

static pico_status add_document(void *arg, const int32_t *ids, size_t n, uint64_t number,
                                pico_error *err) {
    comparison *c = arg;
    uint32_t chunk = c->model.chunk;
    pico_status status = reserve(c, n, err);
    if (status == PICO_OK) {
        status = empty_timelines(c, err);
    }
    for (size_t begin = 0; status == PICO_OK && begin + 1 < n; begin += chunk) {
        uint32_t rows = n - 1 - begin < chunk ? (uint32_t)(n - 1 - begin) : chunk;
        status = pico_eval_run_forward(&c->model, ids, begin, rows);
        if (status == PICO_OK) {
            status = pico_eval_run_forward(&c->reference, ids, begin, rows);
        }
        if (status != PICO_OK) {
            break;
        }
        c->targets = ids + begin + 1;
        c->host->parallel_for(c->host->ctx, rows, 8, compare_range, c);
        for (uint32_t i = 0; status == PICO_OK && i < rows; i++) {
            status = add_row(c, &c->row[i], number, begin + i + 1, err);
        }
    }
    return status;
}

/* ---- what is reported ---- */

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

double pico_compare_percentile(const float *values, size_t n, double share) {
    assert(n >= 1 && share >= 0.0 && share <= 1.0);
    double place = share * (double)(n - 1);
    size_t below = (size_t)place, above = below + 1 < n ? below + 1 : below;
    double weight = place - (double)below;
    return (1.0 - weight) * (double)values[below] + weight * (double)values[above];
}

static double mean_of(const pico_running *running) {
    return running->sum / (double)running->n;
}

static pico_status finish(comparison *c, pico_comparison *out, pico_error *err) {
    out->reference = out->model;
    pico_status status = pico_eval_finish(&c->nll_model, &out->model, err);
    if (status == PICO_OK) {
        status = pico_eval_finish(&c->nll_reference, &out->reference, err);
    }
    if (status != PICO_OK) {
        return status;
    }
    double n = (double)c->n_kl, same = (double)c->n_same / n;
    qsort(c->kl, c->n_kl, sizeof *c->kl, ascending);
    out->ln_ratio = mean_of(&c->difference);
    out->ln_ratio_se = pico_running_se(&c->difference);
    out->ratio = exp(out->ln_ratio);
    out->ratio_se = out->ratio * out->ln_ratio_se;
    out->kl_mean = mean_of(&c->divergence);
    out->kl_se = pico_running_se(&c->divergence);
    out->kl_median = pico_compare_percentile(c->kl, c->n_kl, 0.5);
    out->kl_p99 = pico_compare_percentile(c->kl, c->n_kl, 0.99);
    out->kl_p999 = pico_compare_percentile(c->kl, c->n_kl, 0.999);
    out->kl_max = (double)c->kl[c->n_kl - 1];
    out->same_top = same;
    out->same_top_se = n < 2.0 ? 0.0 : sqrt(same * (1.0 - same) / (n - 1.0));
    out->p_diff_mean = mean_of(&c->p_diff);
    out->p_diff_mean_se = pico_running_se(&c->p_diff);
    out->p_diff_rms = sqrt(mean_of(&c->p_diff_squared));
    out->p_diff_rms_se =
        out->p_diff_rms > 0.0 ? 0.5 * pico_running_se(&c->p_diff_squared) / out->p_diff_rms : 0.0;
    return PICO_OK;
}

/* Timelines of both, and room for what a chunk gives. */
static pico_status open_both(comparison *c, pico_model *model, pico_model *reference,
                             const pico_eval_params *params, uint32_t context, pico_error *err) {
    pico_error inner = {0};
    pico_status status = pico_eval_run_open(&c->model, model, params, context, err);
    if (status != PICO_OK) {
        return status;
    }
    status = pico_eval_run_open(&c->reference, reference, params, context, &inner);
    c->reference.err = err;
    if (status != PICO_OK) {
        return pico_fail(err, status, "the reference: %s", inner.message);
    }
    assert(c->model.chunk == c->reference.chunk && c->model.n_vocab == c->reference.n_vocab);
    c->row = calloc(c->model.chunk, sizeof *c->row);
    return c->row == NULL ? pico_fail(err, PICO_E_NOMEM, "out of memory") : PICO_OK;
}

pico_status pico_compare_documents(pico_model *model, pico_model *reference,
                                   const pico_tokenizer *tokenizer, const pico_eval_params *params,
                                   const pico_document *documents, size_t n, pico_comparison *out,
                                   pico_error *err) {
    comparison c = {.host = params->host};
    uint32_t context = params->context;
    if (context == 0) {
        uint32_t one = pico_model_describe(model)->n_ctx_train;
        uint32_t two = pico_model_describe(reference)->n_ctx_train;
        context = one < two ? one : two;
    }
    *out = (pico_comparison){0};
    pico_status status = open_both(&c, model, reference, params, context, err);
    if (status == PICO_OK) {
        status = pico_eval_each_document(tokenizer, params->host, context, documents, n,
                                         add_document, &c, &out->model, err);
    }
    if (status == PICO_OK) {
        status = finish(&c, out, err);
    }
    free(c.kl);
    free(c.row);
    pico_eval_run_close(&c.reference);
    pico_eval_run_close(&c.model);
    return status;
}
