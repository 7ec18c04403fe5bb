/* What the files of eval share. Not for others. */
#ifndef PICO_MEASURE_EVAL_INTERNAL_H
#define PICO_MEASURE_EVAL_INTERNAL_H

#include "measure/eval.h"
#include "measure/stats.h"
#include "session/session.h"

/* ---- eval_run.c: one timeline, a chunk of rows at a time ---- */

typedef struct pico_eval_run {
    pico_model *model;
    const pico_host *host;
    pico_session *session;
    pico_row *row;  /* (chunk) */
    float *logits;  /* (chunk, n_vocab) of the last chunk */
    uint32_t chunk; /* rows of one forward */
    uint32_t n_vocab;
    pico_error *err; /* of every call */
} pico_eval_run;

/* Timelines of up to max_positions tokens. *run may be closed after a failure too. */
pico_status pico_eval_run_open(pico_eval_run *run, pico_model *model,
                               const pico_eval_params *params, uint32_t max_positions,
                               pico_error *err);
void pico_eval_run_close(pico_eval_run *run);
/* Runs ids[begin, begin + n), n <= chunk, of a timeline that holds ids[0, begin); fills
 * run->logits. */
pico_status pico_eval_run_forward(pico_eval_run *run, const int32_t *ids, size_t begin, uint32_t n);

/* ---- eval.c ---- */

/* Takes the tokens of one document, cut at the context; number counts from 1. */
typedef pico_status (*pico_eval_document_fn)(void *arg, const int32_t *ids, size_t n,
                                             uint64_t number, pico_error *err);

/* Encodes and cuts the documents one after the other, and counts in *out what they hold:
 * documents, tokens, bytes, n_cut, tokens_cut. */
pico_status pico_eval_each_document(const pico_tokenizer *tokenizer, const pico_host *host,
                                    uint32_t context, const pico_document *documents, size_t n,
                                    pico_eval_document_fn fn, void *arg, pico_eval_result *out,
                                    pico_error *err);
/* The figures of the likelihood from the nats of every prediction; out->bytes is set. PICO_E_INVALID
 * if there was none. */
pico_status pico_eval_finish(const pico_running *nll, pico_eval_result *out, pico_error *err);

#endif
