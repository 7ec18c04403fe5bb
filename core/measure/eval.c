/* Logits of tokens and likelihood of text; see eval.h. */
#include "measure/eval.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "measure/eval_internal.h"
#include "util/file.h"

/* ---- logits of tokens ---- */

static pico_status write_logits(pico_eval_run *run, const int32_t *ids, size_t n,
                                pico_writer *writer) {
    for (size_t begin = 0; begin < n; begin += run->chunk) {
        uint32_t rows = n - begin < run->chunk ? (uint32_t)(n - begin) : run->chunk;
        pico_status status = pico_eval_run_forward(run, ids, begin, rows);
        if (status == PICO_OK) {
            status = pico_writer_write(
                writer, run->logits, (uint64_t)rows * run->n_vocab * sizeof *run->logits, run->err);
        }
        if (status != PICO_OK) {
            return status;
        }
        run->host->progress(run->host->ctx, "logits", begin + rows, n);
    }
    return PICO_OK;
}

pico_status pico_eval_logits(pico_model *model, const pico_eval_params *params, const int32_t *ids,
                             size_t n, const char *path, pico_error *err) {
    pico_eval_run run = {0};
    pico_writer writer = {0};
    if (n > PICO_MAX_CONTEXT) {
        return pico_fail(err, PICO_E_LIMIT, "%zu tokens; at most %d are possible", n,
                         PICO_MAX_CONTEXT);
    }
    pico_status status = pico_eval_run_open(&run, model, params, (uint32_t)n, err);
    if (status == PICO_OK) {
        status = pico_writer_open(&writer, path, err);
    }
    if (status == PICO_OK) {
        status = write_logits(&run, ids, n, &writer);
    }
    if (status == PICO_OK) {
        status = pico_writer_commit(&writer, err);
    }
    pico_writer_close(&writer);
    pico_eval_run_close(&run);
    return status;
}

/* ---- likelihood of text ---- */

double pico_nll(const float *logits, uint32_t n, int32_t target) {
    assert(target >= 0 && (uint32_t)target < n);
    float most = -INFINITY;
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        most = logits[i] > most ? logits[i] : most;
    }
    for (uint32_t i = 0; i < n; i++) {
        sum += exp((double)logits[i] - (double)most);
    }
    /* cppcheck-suppress invalidFunctionArg ; n > 0, so sum >= 1 */
    return log(sum) + (double)most - (double)logits[target];
}

typedef struct nll_job {
    const pico_eval_run *run;
    const int32_t *targets;
    double *nll;
} nll_job;

static void nll_range(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const nll_job *job = arg;
    (void)thread;
    for (uint64_t i = begin; i < end; i++) {
        job->nll[i] =
            pico_nll(job->run->logits + i * job->run->n_vocab, job->run->n_vocab, job->targets[i]);
    }
}

typedef struct likelihood {
    pico_eval_run run;
    double *nll; /* (chunk) */
    pico_running sum;
} likelihood;

/* Adds the likelihood of one document's tokens. The last token predicts nothing, so it is not run. */
static pico_status add_document(void *arg, const int32_t *ids, size_t n, uint64_t number,
                                pico_error *err) {
    likelihood *l = arg;
    pico_eval_run *run = &l->run;
    pico_status status = pico_session_truncate(run->session, 0, 0, err);
    for (size_t begin = 0; status == PICO_OK && begin + 1 < n; begin += run->chunk) {
        uint32_t rows = n - 1 - begin < run->chunk ? (uint32_t)(n - 1 - begin) : run->chunk;
        status = pico_eval_run_forward(run, ids, begin, rows);
        if (status != PICO_OK) {
            break;
        }
        nll_job job = {run, ids + begin + 1, l->nll};
        run->host->parallel_for(run->host->ctx, rows, 8, nll_range, &job);
        for (uint32_t i = 0; i < rows; i++) {
            if (!isfinite(l->nll[i])) {
                return pico_fail(err, PICO_E_INVALID,
                                 "document %llu: the likelihood of token %zu is not finite; the "
                                 "model's logits overflow",
                                 (unsigned long long)number, begin + i + 1);
            }
            pico_running_add(&l->sum, l->nll[i]);
        }
    }
    return status;
}

/* Bytes of the text that was predicted. Of a document that was not cut that is all of it, but for
 * the first token if there is none before it; the pieces of a cut one are counted (an unknown token
 * has no text). */
static uint64_t predicted_bytes(const pico_tokenizer *tokenizer, const pico_document *document,
                                const int32_t *ids, size_t n, int cut) {
    uint64_t bytes = 0;
    char none[1];
    if (!cut) {
        if (n != 0 && ids[0] != pico_tokenizer_bos(tokenizer)) {
            bytes = pico_tokenizer_piece(tokenizer, -1, ids[0], none, 0);
        }
        return bytes < document->n ? document->n - bytes : 0;
    }
    for (size_t i = 1; i < n; i++) {
        bytes += pico_tokenizer_piece(tokenizer, ids[i - 1], ids[i], none, 0);
    }
    return bytes;
}

/* One document: encoded, cut, handed to fn. */
static pico_status take_document(const pico_tokenizer *tokenizer, uint32_t context,
                                 const pico_document *document, pico_eval_document_fn fn, void *arg,
                                 pico_eval_result *out, pico_error *err) {
    int32_t *ids = NULL;
    size_t n = 0;
    pico_status status = pico_tokenizer_encode(tokenizer, document->text, document->n,
                                               PICO_ENCODE_BOS, &ids, &n, err);
    int cut = status == PICO_OK && n > context;
    if (cut) {
        out->n_cut++;
        out->tokens_cut += n - context;
        n = context;
    }
    if (status == PICO_OK) {
        status = fn(arg, ids, n, out->documents + 1, err);
        out->documents++;
        out->tokens += n;
        out->bytes += predicted_bytes(tokenizer, document, ids, n, cut);
    }
    free(ids);
    return status;
}

pico_status pico_eval_each_document(const pico_tokenizer *tokenizer, const pico_host *host,
                                    uint32_t context, const pico_document *documents, size_t n,
                                    pico_eval_document_fn fn, void *arg, pico_eval_result *out,
                                    pico_error *err) {
    pico_status status = PICO_OK;
    uint64_t done = 0, total = 0;
    for (size_t i = 0; i < n; i++) {
        total += documents[i].n;
    }
    for (size_t i = 0; status == PICO_OK && i < n; i++) {
        status = take_document(tokenizer, context, &documents[i], fn, arg, out, err);
        done += documents[i].n;
        host->progress(host->ctx, "eval", done, total);
    }
    return status;
}

pico_status pico_eval_finish(const pico_running *nll, pico_eval_result *out, pico_error *err) {
    if (nll->n == 0) {
        return pico_fail(err, PICO_E_INVALID,
                         "the text gives no prediction: it needs at least two tokens");
    }
    out->predictions = nll->n;
    out->nll_sum = nll->sum;
    out->nll_mean = nll->sum / (double)nll->n;
    out->nll_se = pico_running_se(nll);
    out->ppl = exp(out->nll_mean);
    out->bpb = out->bytes == 0 ? (double)NAN : nll->sum / log(2.0) / (double)out->bytes;
    return PICO_OK;
}

pico_status pico_eval_documents(pico_model *model, const pico_tokenizer *tokenizer,
                                const pico_eval_params *params, const pico_document *documents,
                                size_t n, pico_eval_result *out, pico_error *err) {
    likelihood l = {0};
    uint32_t context = params->context;
    context = context == 0 ? pico_model_describe(model)->n_ctx_train : context;
    *out = (pico_eval_result){0};
    pico_status status = pico_eval_run_open(&l.run, model, params, context, err);
    if (status == PICO_OK) {
        l.nll = malloc(l.run.chunk * sizeof *l.nll);
        status = l.nll == NULL ? pico_fail(err, PICO_E_NOMEM, "out of memory") : PICO_OK;
    }
    if (status == PICO_OK) {
        status = pico_eval_each_document(tokenizer, params->host, context, documents, n,
                                         add_document, &l, out, err);
    }
    if (status == PICO_OK) {
        status = pico_eval_finish(&l.sum, out, err);
    }
    free(l.nll);
    pico_eval_run_close(&l.run);
    return status;
}
