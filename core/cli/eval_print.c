/* JSON and tables of eval; see eval_print.h. Keys and units are documented in docs/quality.md. */
#include <jansson.h>
#include <math.h>

#include "cli/eval_print.h"

/* ---- JSON ---- */

/* JSON knows neither NaN nor infinity. */
static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

/* Likelihood alone: what model and reference have each for themselves. */
static json_t *json_likelihood(const pico_eval_result *r) {
    return json_pack("{s:f, s:f, s:f, s:o, s:o}", "nll_mean", r->nll_mean, "nll_sum", r->nll_sum,
                     "nll_se", r->nll_se, "ppl", number(r->ppl), "bpb", number(r->bpb));
}

static int add_counts(json_t *root, const pico_eval_result *r) {
    json_t *counts =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "tokens", (json_int_t)r->tokens, "predictions",
                  (json_int_t)r->predictions, "documents", (json_int_t)r->documents, "bytes",
                  (json_int_t)r->bytes, "documents_cut", (json_int_t)r->n_cut, "tokens_cut",
                  (json_int_t)r->tokens_cut);
    int failed = json_object_update(root, counts);
    json_decref(counts);
    return failed;
}

static int add_comparison(json_t *root, const pico_comparison *c) {
    json_t *kl =
        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "mean", c->kl_mean, "se", c->kl_se, "median",
                  c->kl_median, "p99", c->kl_p99, "p999", c->kl_p999, "max", c->kl_max);
    json_t *p = json_pack("{s:f, s:f, s:f, s:f}", "rms", c->p_diff_rms, "rms_se", c->p_diff_rms_se,
                          "mean", c->p_diff_mean, "mean_se", c->p_diff_mean_se);
    json_t *comparison = json_pack("{s:o, s:o, s:o, s:f, s:f, s:o, s:f, s:f, s:o}", "reference",
                                   json_likelihood(&c->reference), "ppl_ratio", number(c->ratio),
                                   "ppl_ratio_se", number(c->ratio_se), "ln_ppl_ratio", c->ln_ratio,
                                   "ln_ppl_ratio_se", c->ln_ratio_se, "kl", kl, "same_top1",
                                   c->same_top, "same_top1_se", c->same_top_se, "p_diff", p);
    int failed = json_object_update(root, comparison);
    json_decref(comparison);
    return failed;
}

int pico_eval_print_json(const pico_cli *cli, const pico_eval_result *model,
                         const pico_comparison *comparison) {
    json_t *root = json_likelihood(model);
    int failed = root == NULL || add_counts(root, model) != 0 ||
                 (comparison != NULL && add_comparison(root, comparison) != 0) ||
                 json_dumpf(root, stdout, JSON_INDENT(2)) != 0;
    (void)putchar('\n');
    json_decref(root);
    return failed && !ferror(stdout)
               ? pico_cli_fail(cli, PICO_EXIT_RUNTIME, "the JSON text cannot be made")
               : PICO_EXIT_OK;
}

/* ---- tables ---- */

static void print_counts(const pico_eval_result *r) {
    (void)printf("tokens  %llu, %llu predictions, %llu documents\n", (unsigned long long)r->tokens,
                 (unsigned long long)r->predictions, (unsigned long long)r->documents);
}

static void print_comparison(const pico_comparison *c) {
    const pico_eval_result *m = &c->model, *r = &c->reference;
    (void)printf("                    model             reference\n");
    (void)printf("nll     %9.5f +- %.5f  %9.5f +- %.5f nats/token\n", m->nll_mean, m->nll_se,
                 r->nll_mean, r->nll_se);
    (void)printf("ppl     %9.4f             %9.4f\n", m->ppl, r->ppl);
    (void)printf("bpb     %9.5f             %9.5f bits/byte over %llu bytes\n", m->bpb, r->bpb,
                 (unsigned long long)m->bytes);
    (void)printf("ratio   %.6f +- %.6f of the perplexities (%+.3f %%); ln %+.6f +- %.6f\n",
                 c->ratio, c->ratio_se, 100.0 * (c->ratio - 1.0), c->ln_ratio, c->ln_ratio_se);
    (void)printf("KL      mean %.4g +- %.2g, median %.4g, 99 %% %.4g, 99.9 %% %.4g, max %.4g "
                 "nats/token\n",
                 c->kl_mean, c->kl_se, c->kl_median, c->kl_p99, c->kl_p999, c->kl_max);
    (void)printf("top 1   %.3f +- %.3f %% the same\n", 100.0 * c->same_top, 100.0 * c->same_top_se);
    (void)printf("p       RMS difference %.4f +- %.4f %%, mean %+.4f +- %.4f %% (right token)\n",
                 100.0 * c->p_diff_rms, 100.0 * c->p_diff_rms_se, 100.0 * c->p_diff_mean,
                 100.0 * c->p_diff_mean_se);
}

void pico_eval_print_table(const pico_eval_result *model, const pico_comparison *comparison) {
    if (comparison != NULL) {
        print_comparison(comparison);
    } else {
        (void)printf("nll     %.5f +- %.5f nats/token (sum %.4f)\n", model->nll_mean, model->nll_se,
                     model->nll_sum);
        (void)printf("ppl     %.4f\n", model->ppl);
        (void)printf("bpb     %.5f bits/byte over %llu bytes\n", model->bpb,
                     (unsigned long long)model->bytes);
    }
    print_counts(model);
}
