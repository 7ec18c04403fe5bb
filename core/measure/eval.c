/* Logits of tokens and likelihood of text; see eval.h. */
#include "measure/eval.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "measure/stats.h"
#include "session/session.h"
#include "util/checked.h"
#include "util/file.h"

/* ---- one timeline, a chunk of rows at a time ---- */

typedef struct runner {
    pico_model *model;
    const pico_host *host;
    pico_session *session;
    pico_row *row;  /* (chunk) */
    float *logits;  /* (chunk, n_vocab) of the last chunk */
    uint32_t chunk; /* rows of one forward */
    uint32_t n_vocab;
    pico_error *err;
} runner;

static pico_status runner_open(runner *run, pico_model *model, const pico_eval_params *params,
                               uint32_t max_positions, pico_error *err) {
    uint64_t values;
    *run = (runner){.model = model, .host = params->host, .err = err};
    run->chunk = params->ubatch < max_positions ? params->ubatch : max_positions;
    run->n_vocab = pico_model_describe(model)->n_vocab;
    if (run->chunk == 0) {
        return pico_fail(err, PICO_E_INVALID, "ubatch and context must be at least 1");
    }
    pico_session_params session = {.n_slots = 1,
                                   .max_positions = max_positions,
                                   .max_rows = run->chunk,
                                   .max_logit_rows = run->chunk,
                                   .max_top_k = 1};
    pico_status status = pico_session_open(model, &session, &run->session, err);
    if (status != PICO_OK) {
        return status;
    }
    run->row = calloc(run->chunk, sizeof *run->row);
    run->logits = pico_checked_mul((uint64_t)run->chunk * run->n_vocab, sizeof(float), &values)
                      ? malloc((size_t)values)
                      : NULL;
    if (run->row == NULL || run->logits == NULL) {
        return pico_fail(err, PICO_E_NOMEM,
                         "out of memory for the logits of %u rows; try a "
                         "smaller --ubatch",
                         run->chunk);
    }
    return PICO_OK;
}

static void runner_close(runner *run) {
    pico_session_close(run->session);
    free(run->row);
    free(run->logits);
}

/* Runs ids[begin, begin + n) of a timeline that holds ids[0, begin); fills run->logits. */
static pico_status runner_forward(runner *run, const int32_t *ids, size_t begin, uint32_t n) {
    const pico_device *device = run->model->device;
    pico_forward_out out;
    for (uint32_t i = 0; i < n; i++) {
        size_t at = begin + i;
        run->row[i] = (pico_row){.token = ids[at],
                                 .prev = at == 0 ? -1 : ids[at - 1],
                                 .pos = (int32_t)at,
                                 .parent = (int32_t)i - 1,
                                 .want = PICO_ROW_LOGITS};
    }
    if (run->host->should_stop(run->host->ctx)) {
        return pico_fail(run->err, PICO_E_CANCELLED, "interrupted");
    }
    pico_status status = pico_session_forward(run->session, run->row, n, &out, run->err);
    if (status != PICO_OK) {
        return status;
    }
    assert(out.n == n && out.logits.stride[0] == (int64_t)run->n_vocab);
    return device->ops->buffer_read(device->self, out.logits.buffer, out.logits.offset, run->logits,
                                    (uint64_t)n * run->n_vocab * sizeof *run->logits, run->err);
}

/* ---- logits of tokens ---- */

static pico_status write_logits(runner *run, const int32_t *ids, size_t n, pico_writer *writer) {
    for (size_t begin = 0; begin < n; begin += run->chunk) {
        uint32_t rows = n - begin < run->chunk ? (uint32_t)(n - begin) : run->chunk;
        pico_status status = runner_forward(run, ids, begin, rows);
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
    runner run = {0};
    pico_writer writer = {0};
    if (n > PICO_MAX_CONTEXT) {
        return pico_fail(err, PICO_E_LIMIT, "%zu tokens; at most %d are possible", n,
                         PICO_MAX_CONTEXT);
    }
    pico_status status = runner_open(&run, model, params, (uint32_t)n, err);
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
    runner_close(&run);
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
    const runner *run;
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

/* Adds the likelihood of one document's tokens. The last token predicts nothing, so it is not run.
 * nll: room for a chunk. */
static pico_status add_document(runner *run, const int32_t *ids, size_t n, double *nll,
                                pico_running *running, pico_eval_result *out) {
    pico_status status = pico_session_truncate(run->session, 0, 0, run->err);
    for (size_t begin = 0; status == PICO_OK && begin + 1 < n; begin += run->chunk) {
        uint32_t rows = n - 1 - begin < run->chunk ? (uint32_t)(n - 1 - begin) : run->chunk;
        status = runner_forward(run, ids, begin, rows);
        if (status != PICO_OK) {
            break;
        }
        nll_job job = {run, ids + begin + 1, nll};
        run->host->parallel_for(run->host->ctx, rows, 8, nll_range, &job);
        for (uint32_t i = 0; i < rows; i++) {
            if (!isfinite(nll[i])) {
                return pico_fail(run->err, PICO_E_INVALID,
                                 "document %llu: the likelihood of token %zu is not finite; the "
                                 "model's logits overflow",
                                 (unsigned long long)out->documents + 1, begin + i + 1);
            }
            pico_running_add(running, nll[i]);
        }
    }
    out->documents++;
    out->tokens += n;
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

static void finish(const pico_running *running, pico_eval_result *out) {
    out->predictions = running->n;
    out->nll_sum = running->sum;
    out->nll_mean = running->sum / (double)running->n;
    out->nll_se = pico_running_se(running);
    out->ppl = exp(out->nll_mean);
    out->bpb = out->bytes == 0 ? (double)NAN : running->sum / log(2.0) / (double)out->bytes;
}

pico_status pico_eval_documents(pico_model *model, const pico_tokenizer *tokenizer,
                                const pico_eval_params *params, const pico_document *documents,
                                size_t n, pico_eval_result *out, pico_error *err) {
    runner run = {0};
    pico_running running = {0};
    double *nll = NULL;
    uint64_t done = 0, total = 0;
    uint32_t context = params->context;
    context = context == 0 ? pico_model_describe(model)->n_ctx_train : context;
    *out = (pico_eval_result){0};
    pico_status status = runner_open(&run, model, params, context, err);
    if (status == PICO_OK) {
        nll = malloc(run.chunk * sizeof *nll);
        status = nll == NULL ? pico_fail(err, PICO_E_NOMEM, "out of memory") : PICO_OK;
    }
    for (size_t i = 0; i < n; i++) {
        total += documents[i].n;
    }
    for (size_t i = 0; status == PICO_OK && i < n; i++) {
        int32_t *ids = NULL;
        size_t n_ids = 0;
        int cut = 0;
        status = pico_tokenizer_encode(tokenizer, documents[i].text, documents[i].n,
                                       PICO_ENCODE_BOS, &ids, &n_ids, err);
        if (status == PICO_OK && n_ids > context) {
            out->n_cut++;
            out->tokens_cut += n_ids - context;
            n_ids = context;
            cut = 1;
        }
        if (status == PICO_OK) {
            status = add_document(&run, ids, n_ids, nll, &running, out);
            out->bytes += predicted_bytes(tokenizer, &documents[i], ids, n_ids, cut);
        }
        free(ids);
        done += documents[i].n;
        run.host->progress(run.host->ctx, "eval", done, total);
    }
    if (status == PICO_OK && running.n == 0) {
        status = pico_fail(err, PICO_E_INVALID,
                           "the text gives no prediction: it needs at least two tokens");
    }
    if (status == PICO_OK) {
        finish(&running, out);
    }
    free(nll);
    runner_close(&run);
    return status;
}
