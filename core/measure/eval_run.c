/* One timeline of eval, run a chunk of rows at a time; see eval_internal.h. */
#include <assert.h>
#include <stdlib.h>

#include "measure/eval_internal.h"
#include "util/checked.h"

pico_status pico_eval_run_open(pico_eval_run *run, pico_model *model,
                               const pico_eval_params *params, uint32_t max_positions,
                               pico_error *err) {
    uint64_t values;
    *run = (pico_eval_run){.model = model, .host = params->host, .err = err};
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

void pico_eval_run_close(pico_eval_run *run) {
    pico_session_close(run->session);
    free(run->row);
    free(run->logits);
}

pico_status pico_eval_run_forward(pico_eval_run *run, const int32_t *ids, size_t begin,
                                  uint32_t n) {
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
