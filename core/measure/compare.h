/*
 * How much two models differ on a text: one under test, and a reference. Both see the same tokens;
 * what each predicts is compared token by token. The usual question is what a smaller model has
 * lost against the one that it was made from.
 *
 * All sums are in double and in the order of the text, so that a result does not depend on the
 * number of threads. A model compared with itself differs by exactly nothing: ratio 1, divergence
 * 0, the same best token everywhere. It keeps four bytes for each token of the text and no logits.
 */
#ifndef PICO_MEASURE_COMPARE_H
#define PICO_MEASURE_COMPARE_H

#include "measure/eval.h"

/* What two rows of logits say about one token. */
typedef struct pico_comparison_row {
    double nll_model, nll_reference; /* -ln p of the right token */
    double kl;         /* sum over the vocabulary of p_reference ln(p_reference / p_model), >= 0 */
    double p_diff;     /* p_model - p_reference of the right token */
    uint32_t same_top; /* 1: the most likely token is the same; of equal ones the first counts */
} pico_comparison_row;

/* model, reference: (n) logits; n >= 1. Not finite if they are not. */
void pico_compare_row(const float *model, const float *reference, uint32_t n, int32_t target,
                      pico_comparison_row *out);

/* Errors are standard errors over the tokens; those of differences come from the differences of
 * each token (paired), so that what is hard for both models does not count. */
typedef struct pico_comparison {
    pico_eval_result model, reference; /* of the same tokens */
    double ln_ratio, ln_ratio_se;      /* mean of nll_model - nll_reference */
    double ratio, ratio_se;            /* exp(ln_ratio): perplexity over that of the reference */
    double kl_mean, kl_se;             /* nats per token */
    double kl_median, kl_p99, kl_p999, kl_max;
    double same_top, same_top_se; /* share, 0 .. 1 */
    double p_diff_mean, p_diff_mean_se;
    double p_diff_rms, p_diff_rms_se;
} pico_comparison;

/* Documents as in pico_eval_documents, encoded by the model's tokenizer; context 0: the shorter of
 * the trained lengths. The models have the same vocabulary (pico_compare_vocabularies) and may be
 * the same. PICO_E_INVALID if nothing could be predicted, or if logits are not finite. */
pico_status pico_compare_documents(pico_model *model, pico_model *reference,
                                   const pico_tokenizer *tokenizer, const pico_eval_params *params,
                                   const pico_document *documents, size_t n, pico_comparison *out,
                                   pico_error *err);

/* PICO_E_INVALID unless every token of the models is the same text. The message shows the first
 * that differs. tokenizer: the model's. A reference without a vocabulary of its own only needs as
 * many tokens. */
pico_status pico_compare_vocabularies(const pico_model *model, const pico_tokenizer *tokenizer,
                                      const pico_model *reference, pico_error *err);

/* The value below which `share` (0 .. 1) of values[0..n) lies, interpolated between neighbours;
 * values are in ascending order, n >= 1. */
double pico_compare_percentile(const float *values, size_t n, double share);

#endif
