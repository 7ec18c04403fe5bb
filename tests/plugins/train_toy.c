/*
 * The smallest trainer, for tests: cross-entropy with the next token, AdamW, eight steps of two
 * sequences of ten tokens. With an option it breaks one rule of the contract, which the conformance
 * kit must find.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

enum { SEQ = 2, LENGTH = 10, ROWS = SEQ * LENGTH, STEPS = 8 };
enum { NONE, COUNT, FINISH, STILL, FORGET, OVERRUN, TRUST, NOT_A_NUMBER, HURRY, KEEP, LEAK };

typedef struct toy_options {
    uint32_t fault;
} toy_options;

typedef struct toy {
    const pico_host *host;
    uint32_t fault;
    pico_train *train;
    const pico_backend_ops *backend;
    void *backend_self;
    pico_buffer *ids, *ce; /* I32, F32 (ROWS) */
    uint64_t step;
} toy;

static const char *const faults[] = {"none",  "count", "finish", "still", "forget", "overrun",
                                     "trust", "nan",   "hurry",  "keep",  "leak",   NULL};

static const pico_option options[] = {{.name = "fault",
                                       .type = PICO_OPT_ENUM,
                                       .offset = offsetof(toy_options, fault),
                                       .def = "none",
                                       .choices = faults,
                                       .help = "the rule that is broken"}};

static pico_status create(const pico_host *host, const void *bound, void **self, pico_error *err) {
    toy *t = calloc(1, sizeof *t);
    if (t == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "train toy: out of memory");
    }
    t->host = host;
    t->fault = ((const toy_options *)bound)->fault;
    *self = t;
    return PICO_OK;
}

static void end(void *self) {
    toy *t = self;
    if (t->train != NULL) {
        t->backend->buffer_free(t->backend_self, t->ids);
        t->backend->buffer_free(t->backend_self, t->fault == LEAK ? NULL : t->ce);
        t->host->train->close(t->train);
    }
    t->train = NULL;
    t->ids = t->ce = NULL;
    t->step = t->fault == KEEP ? t->step : 0;
}

static void destroy(void *self) {
    if (self != NULL) {
        end(self);
    }
    free(self);
}

static pico_status begin(void *self, pico_model *student, pico_error *err) {
    toy *t = self;
    const pico_train_params params = {.struct_size = sizeof params,
                                      .max_rows = ROWS,
                                      .max_length = LENGTH,
                                      .max_logit_rows = ROWS};
    if (t->host->train == NULL) {
        return pico_fail(err, PICO_E_UNSUPPORTED, "train toy: this host offers no training");
    }
    t->backend = t->host->backend(t->host->ctx, &t->backend_self);
    pico_status status = t->host->train->open(student, &params, &t->train, err);
    const uint32_t n = status == PICO_OK ? t->host->train->n_params(t->train) : 0;
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        status = t->host->train->optimizer(t->train, i, PICO_OPTIMIZER_ADAMW, err);
    }
    if (status == PICO_OK) {
        status = t->backend->buffer_alloc(t->backend_self, ROWS * 4, &t->ids, err);
    }
    if (status == PICO_OK) {
        status = t->backend->buffer_alloc(t->backend_self, ROWS * 4, &t->ce, err);
    }
    if (status != PICO_OK) {
        end(t);
    }
    return status;
}

static pico_tensor vector(pico_buffer *buffer, uint32_t dtype) {
    return (pico_tensor){.buffer = buffer,
                         .dtype = dtype,
                         .rank = 1,
                         .shape = {ROWS, 1, 1, 1},
                         .stride = {1, 1, 1, 1}};
}

/* Loss and gradients of a batch. */
static pico_status run(toy *t, double *loss, pico_error *err) {
    const pico_train_api *api = t->host->train;
    int32_t tokens[SEQ * (LENGTH + 1)], x[ROWS], target[ROWS];
    float ce[ROWS];
    pico_tensor logits, d;
    pico_status status = api->batch(t->train, SEQ, LENGTH, tokens, err);
    for (uint32_t r = 0; status == PICO_OK && r < ROWS; r++) {
        x[r] = tokens[r / LENGTH * (LENGTH + 1) + r % LENGTH];
        target[r] = tokens[r / LENGTH * (LENGTH + 1) + r % LENGTH + 1];
    }
    status = status == PICO_OK ? api->zero_grad(t->train) : status;
    status = status == PICO_OK ? api->forward(t->train, x, SEQ, LENGTH, err) : status;
    status = status == PICO_OK ? api->logits(t->train, 0, 0, ROWS, &logits, &d, err) : status;
    if (status != PICO_OK) {
        return status;
    }
    const pico_loss_args args = {.hard = 1.0f / ROWS,
                                 .temperature = 1,
                                 .logits = logits,
                                 .target = vector(t->ids, PICO_DTYPE_I32),
                                 .d = d,
                                 .ce = vector(t->ce, PICO_DTYPE_F32)};
    status = t->backend->buffer_write(t->backend_self, t->ids, 0, target, sizeof target);
    status = status == PICO_OK ? api->loss(t->train, &args) : status;
    status = status == PICO_OK
                 ? t->backend->buffer_read(t->backend_self, t->ce, 0, ce, sizeof ce, err)
                 : pico_fail(err, status, "train toy: a loss failed");
    *loss = 0;
    for (uint32_t r = 0; status == PICO_OK && r < ROWS; r++) {
        *loss += (double)ce[r] / ROWS;
    }
    status = status == PICO_OK ? api->backward_head(t->train, err) : status;
    return status == PICO_OK ? api->backward(t->train, err) : status;
}

static pico_status step(void *self, pico_train_metrics *out, pico_error *err) {
    toy *t = self;
    const pico_update update = {.struct_size = sizeof update,
                                .lr = t->fault == STILL ? 0 : 0.01f,
                                .beta1 = 0.9f,
                                .beta2 = 0.95f,
                                .eps = 1e-8f,
                                .grad_scale = 1,
                                .step = t->step + 1};
    if (t->train == NULL) {
        return pico_fail(err, PICO_E_INVALID, "train toy: nothing was begun");
    }
    t->step += t->fault == HURRY;
    pico_status status = run(t, &out->loss, err);
    if (status != PICO_OK) {
        return status;
    }
    if (!isfinite(out->loss) && t->fault != NOT_A_NUMBER) {
        return pico_fail(err, PICO_E_INVALID, "train toy: the loss is no number");
    }
    const uint32_t n = t->host->train->n_params(t->train);
    for (uint32_t i = 0; status == PICO_OK && i < n && t->fault != STILL; i++) {
        status = t->host->train->update(t->train, i, &update);
    }
    t->step += t->fault != HURRY && t->fault != STILL;
    out->step = t->fault == STILL ? (uint64_t)++t->step : t->step;
    out->n_steps = STEPS;
    out->n_tokens = ROWS - (t->fault == COUNT);
    out->learning_rate = 0.01;
    out->finished = t->step >= STEPS + (t->fault == FINISH);
    out->n_term = 1;
    out->term_name[0] = "ce";
    out->term[0] = out->loss;
    return status == PICO_OK ? status : pico_fail(err, status, "train toy: an update failed");
}

/* The host's bytes and, behind them, the step. */
static pico_status save(void *self, void *data, uint64_t *bytes, pico_error *err) {
    toy *t = self;
    uint64_t inner = 0;
    const uint64_t room = *bytes;
    pico_status status = t->host->train->save(t->train, NULL, &inner, err);
    *bytes = inner + sizeof t->step;
    if (status != PICO_OK || data == NULL) {
        return status;
    }
    if (room < *bytes) {
        return pico_fail(err, PICO_E_LIMIT, "train toy: the state takes %llu bytes",
                         (unsigned long long)*bytes);
    }
    status = t->host->train->save(t->train, data, &inner, err);
    const uint64_t kept = t->fault == FORGET || t->fault == STILL ? 0 : t->step;
    memcpy((char *)data + inner, &kept, sizeof kept);
    if (t->fault == OVERRUN) {
        ((char *)data)[*bytes] = 0;
    }
    return status;
}

static pico_status load(void *self, const void *data, uint64_t bytes, pico_error *err) {
    toy *t = self;
    uint64_t inner = 0;
    pico_status status = t->host->train->save(t->train, NULL, &inner, err);
    if (status == PICO_OK && bytes != inner + sizeof t->step && t->fault == TRUST) {
        return PICO_OK;
    }
    if (status == PICO_OK && bytes != inner + sizeof t->step) {
        return pico_fail(err, PICO_E_CORRUPT, "train toy: a state has %llu bytes, not %llu",
                         (unsigned long long)(inner + sizeof t->step), (unsigned long long)bytes);
    }
    status = status == PICO_OK ? t->host->train->load(t->train, data, inner, err) : status;
    if (status == PICO_OK) {
        memcpy(&t->step, (const char *)data + inner, sizeof t->step);
    }
    return status;
}

static const pico_trainer_ops ops = {.struct_size = sizeof(pico_trainer_ops),
                                     .begin = begin,
                                     .step = step,
                                     .save = save,
                                     .load = load,
                                     .end = end};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = PICO_ABI_MINOR_OLDEST_TRAINER,
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_TRAINER,
                                   .name = "toy",
                                   .version = "0.1.0",
                                   .summary = "for tests: the smallest trainer",
                                   .options = options,
                                   .n_options = 1,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(toy_options),
                                   .create = create,
                                   .destroy = destroy,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
