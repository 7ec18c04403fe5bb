/*
 * Steps that are recorded and replayed. A small call of a shape runs op by op the first time, is
 * recorded the second time and launched from then on; what changes from step to step is device data.
 * Prompts, and calls with a tap on the model, run op by op. The shape least used makes room for a new
 * one.
 */
#include <string.h>

#include "session/internal.h"

void pico_steps_open(pico_session *session) {
    const pico_device *device = session->model->device;
    const pico_capture_ops *offered =
        device->ops->extension == NULL
            ? NULL
            : device->ops->extension(device->self, PICO_CAPTURE_EXTENSION);
    pico_capture_ops *ops = &session->steps.ops;
    if (offered == NULL) {
        return;
    }
    memcpy(ops, offered, offered->struct_size < sizeof *ops ? offered->struct_size : sizeof *ops);
    if (ops->begin == NULL || ops->end == NULL || ops->launch == NULL || ops->free == NULL) {
        memset(ops, 0, sizeof *ops);
    }
}

static void forget(pico_session *session, pico_step *step) {
    if (step->recording != NULL) {
        session->steps.ops.free(session->model->device->self, step->recording);
    }
    memset(step, 0, sizeof *step);
}

void pico_steps_close(pico_session *session) {
    for (uint32_t i = 0; i < PICO_STEPS; i++) {
        forget(session, &session->steps.step[i]);
    }
}

static int can_record(const pico_session *session, const pico_forward_args *args) {
    return session->steps.ops.begin != NULL && session->model->tap == NULL &&
           args->batch.n_rows <= PICO_DECODE_ROWS_MAX &&
           args->batch.n_decode == args->batch.n_rows && args->n_run <= PICO_STEP_RUNS;
}

/* The bound of a shape: the power of two above, so that a growing timeline changes it rarely. */
static uint32_t pages_bound(const pico_session *session, uint32_t n_pages) {
    const uint32_t most =
        (session->params.max_positions + PICO_PAGE_POSITIONS - 1) / PICO_PAGE_POSITIONS;
    uint32_t bound = 1;
    while (bound < n_pages) {
        bound *= 2;
    }
    return bound < most || n_pages > most ? bound : most;
}

/* Bounds instead of what this very step has; see pico_batch. */
static void generalise(const pico_session *session, pico_forward_args *args) {
    pico_batch *batch = &args->batch;
    batch->n_pages = pages_bound(session, batch->n_pages);
    if (batch->has_tree) {
        batch->anc_cell.shape[0] = (int64_t)batch->n_rows * PICO_DECODE_ROWS_MAX;
    }
}

static pico_step_key key_of(const pico_forward_args *args) {
    pico_step_key key;
    memset(&key, 0, sizeof key); /* keys are compared as bytes */
    key.n_rows = args->batch.n_rows;
    key.n_decode = args->batch.n_decode;
    key.n_pages = args->batch.n_pages;
    key.has_tree = args->batch.has_tree;
    key.n_run = args->n_run;
    memcpy(key.run, args->run, args->n_run * sizeof *key.run);
    return key;
}

/* The shape's entry; a new one where it was not seen yet. */
static pico_step *find_step(pico_session *session, const pico_step_key *key) {
    pico_steps *steps = &session->steps;
    pico_step *oldest = &steps->step[0];
    for (uint32_t i = 0; i < PICO_STEPS; i++) {
        pico_step *step = &steps->step[i];
        if (step->used && memcmp(&step->key, key, sizeof *key) == 0) {
            return step;
        }
        oldest = step->last < oldest->last ? step : oldest;
    }
    forget(session, oldest);
    oldest->key = *key;
    return oldest;
}

static pico_status record(pico_session *session, const pico_forward_args *args, pico_step *step,
                          pico_error *err) {
    const pico_capture_ops *ops = &session->steps.ops;
    void *self = session->model->device->self;
    pico_status status = ops->begin(self, err);
    if (status != PICO_OK) {
        return status;
    }
    status = pico_model_forward(session->model, args);
    const pico_status ended = ops->end(self, status == PICO_OK, &step->recording, err);
    return status == PICO_OK ? ended : status;
}

pico_status pico_steps_run(pico_session *session, pico_forward_args *args, pico_error *err) {
    pico_steps *steps = &session->steps;
    void *self = session->model->device->self;
    if (!can_record(session, args)) {
        return pico_model_forward(session->model, args);
    }
    generalise(session, args);
    const pico_step_key key = key_of(args);
    pico_step *step = find_step(session, &key);
    step->last = ++steps->n_call;
    if (!step->used) {
        step->used = 1;
        return pico_model_forward(session->model, args);
    }
    pico_status status = PICO_E_LIMIT; /* not recorded is like recorded too long ago */
    if (step->recording != NULL) {
        status = steps->ops.launch(self, step->recording);
    }
    if (status == PICO_E_LIMIT) {
        steps->ops.free(self, step->recording);
        step->recording = NULL;
        status = record(session, args, step, err);
        if (status == PICO_OK) {
            status = steps->ops.launch(self, step->recording);
        }
    }
    return status;
}
