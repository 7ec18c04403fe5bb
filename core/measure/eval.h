/*
 * How good a model is: the logits of given tokens, written out for comparison, and the negative
 * log-likelihood of text. It prints nothing; progress and cancellation go through the host table.
 */
#ifndef PICO_MEASURE_EVAL_H
#define PICO_MEASURE_EVAL_H

#include "model/model.h"
#include "plugin.h"
#include "tokenizer/tokenizer.h"

typedef struct pico_eval_params {
    const pico_host *host; /* threads, progress, cancellation */
    uint32_t ubatch;       /* rows of one forward; 1: token by token */
    uint32_t context;      /* where documents are cut; 0: the trained length */
} pico_eval_params;

/* White-space separated token ids below n_vocab, at least one. path is for messages, which name
 * line and word. *ids is malloc-ed. */
pico_status pico_eval_parse_tokens(const char *path, const char *text, size_t size,
                                   uint32_t n_vocab, int32_t **ids, size_t *n, pico_error *err);

/* Runs the tokens as one timeline and writes the logits of each to path: little-endian F32
 * (n, n_vocab), atomically. Never slides; context is not looked at. */
pico_status pico_eval_logits(pico_model *model, const pico_eval_params *params, const int32_t *ids,
                             size_t n, const char *path, pico_error *err);

typedef struct pico_document {
    const char *text; /* n bytes */
    size_t n;
} pico_document;

/* Cuts text at every separator, or at blank lines if separator is NULL; strips white space from the
 * pieces and drops those that are empty. *out is malloc-ed. */
pico_status pico_eval_split(const char *text, size_t size, const char *separator,
                            pico_document **out, size_t *n, pico_error *err);
/* The separator to use when none is given: "<|endoftext|>" if the text has one, else NULL. */
const char *pico_eval_separator(const char *text, size_t size);

typedef struct pico_eval_result {
    uint64_t documents;
    uint64_t tokens;      /* run, begin-of-text tokens included */
    uint64_t predictions; /* tokens that have a predecessor */
    uint64_t bytes;       /* of the text of the predicted tokens */
    uint64_t n_cut;       /* documents longer than the context */
    uint64_t tokens_cut;  /* what was cut off */
    double nll_sum;       /* nats */
    double nll_mean;      /* nats per prediction */
    double nll_se;        /* standard error of the mean over tokens */
    double ppl;           /* exp(nll_mean) */
    double bpb;           /* bits per byte; NaN if the text has no bytes */
} pico_eval_result;

/* Each document: begin-of-text token (where the vocabulary has one) and the text, cut at the
 * context length. PICO_E_INVALID if nothing could be predicted. */
pico_status pico_eval_documents(pico_model *model, const pico_tokenizer *tokenizer,
                                const pico_eval_params *params, const pico_document *documents,
                                size_t n, pico_eval_result *out, pico_error *err);

/* -ln softmax(logits)[target], in double. */
double pico_nll(const float *logits, uint32_t n, int32_t target);

#endif
