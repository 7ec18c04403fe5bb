/*
 * The losses, for T tokens of B sequences, z the student's logits, p the teacher's distribution (of
 * its teacher_top_k best tokens alone, where that is not 0):
 *   ce    = mean over B T of -ln softmax(z)[next token]
 *   kl    = temperature^2 * mean over B T of KL(p || softmax(z / temperature)), p likewise
 *   mtp   = mean over heads k = 2, 3, ... of the mean over t <= T - k of the cross-entropy of head k
 *           with the token k places on
 *   draft = mean over slots i = 0, 1, ... of the mean over t <= T - 1 - i of
 *           KL(teacher at t + i || draft slot i at t), both at temperature; without a teacher the
 *           cross-entropy with the token i + 1 places on
 * All with gradients through heads and trunk; see distill.h.
 */
#include <string.h>

#include "distill.h"

/* One head or one slot: how far it looks ahead, and the weight of its mean in the whole. */
typedef struct term {
    uint32_t ahead;
    double hard, soft; /* weights of a row */
    head_sum *sum;
} term;

/* Rows of a micro-batch that have a token `ahead` places on. */
static double counted(const distill *d, uint32_t ahead) {
    const double length = (double)d->opt.length - ahead + 1;
    return (double)d->opt.batch * (length > 0 ? length : 0);
}

/* Without a teacher the text takes its share, so that plain training has the weight 1. */
static double ce_weight(const distill *d) {
    return d->teacher == NULL ? d->opt.kl + d->opt.ce : d->opt.ce;
}

/* A mean over rows and micro-batches as a weight of each row. */
static double row_weight(const distill *d, uint32_t ahead, double weight) {
    const double n = counted(d, ahead) * (double)d->opt.accumulate;
    return n > 0 ? weight / n : 0;
}

/* ---- data ---- */

static pico_status device_failed(pico_status status, const char *what, pico_error *err) {
    return status == PICO_OK ? status : pico_fail(err, status, "trainer distill: %s failed", what);
}

/* Targets and rows of the teacher of rows [begin, begin + n). */
static pico_status write_ids(distill *d, uint32_t ahead, uint32_t begin, uint32_t n,
                             pico_error *err) {
    const uint32_t length = (uint32_t)d->opt.length;
    int32_t *target = d->host_ids, *row = d->host_ids + d->block;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t r = begin + i, t = r % length, s = r / length;
        const int inside = t + ahead <= length;
        target[i] = inside ? d->tokens[s * (length + 1) + t + ahead] : -1;
        row[i] = inside ? (int32_t)(r + ahead - 1) : -1;
    }
    return device_failed(d->backend->buffer_write(d->backend_self, d->ids, 0, d->host_ids,
                                                  2 * (uint64_t)d->block * sizeof *target),
                         "writing targets", err);
}

static pico_tensor vector(pico_buffer *buffer, uint64_t offset, uint32_t dtype, int64_t n) {
    return (pico_tensor){.buffer = buffer,
                         .offset = offset,
                         .dtype = dtype,
                         .rank = 1,
                         .shape = {n, 1, 1, 1},
                         .stride = {1, 1, 1, 1}};
}

static pico_tensor matrix(pico_buffer *buffer, uint64_t offset, int64_t rows, int64_t cols) {
    return (pico_tensor){.buffer = buffer,
                         .offset = offset,
                         .dtype = PICO_DTYPE_F32,
                         .rank = 2,
                         .shape = {rows, cols, 1, 1},
                         .stride = {cols, 1, 1, 1}};
}

/* ---- terms ---- */

/* A term over rows [begin, begin + n), whose logits and gradient are columns of a head's. */
static pico_status run_term(distill *d, const term *t, uint32_t begin, uint32_t n,
                            const pico_tensor *logits, const pico_tensor *gradient,
                            pico_error *err) {
    const uint64_t row_bytes = (uint64_t)d->block * sizeof(float);
    const int taught = d->teacher != NULL && t->soft != 0;
    pico_loss_args args = {.hard = (float)t->hard,
                           .soft = (float)t->soft,
                           .temperature = (float)d->opt.temperature,
                           .logits = *logits,
                           .target = vector(d->ids, 0, PICO_DTYPE_I32, n),
                           .d = *gradient,
                           .ce = vector(d->losses, 0, PICO_DTYPE_F32, n),
                           .kl = vector(d->losses, row_bytes, PICO_DTYPE_F32, n)};
    if (taught) {
        args.teacher = matrix(d->teacher_logits, 0, d->rows, d->desc->n_vocab);
        args.teacher_row = vector(d->ids, row_bytes, PICO_DTYPE_I32, n);
        args.teacher_top_k = (uint32_t)d->opt.teacher_top_k;
    }
    pico_status status = write_ids(d, t->ahead, begin, n, err);
    if (status == PICO_OK) {
        status = device_failed(d->host->train->loss(d->train, &args), "a loss", err);
    }
    if (status == PICO_OK) {
        status = d->backend->buffer_read(d->backend_self, d->losses, 0, d->host_losses,
                                         2 * row_bytes, err);
    }
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        t->sum->ce += (double)d->host_losses[i];
        t->sum->kl += (double)d->host_losses[d->block + i];
    }
    return status;
}

static pico_status run_head(distill *d, uint32_t head, const term *terms, uint32_t n_term,
                            pico_error *err) {
    pico_status status = PICO_OK;
    for (uint32_t begin = 0; status == PICO_OK && begin < d->rows; begin += d->block) {
        const uint32_t n = d->rows - begin < d->block ? d->rows - begin : d->block;
        pico_tensor logits, gradient;
        status = d->host->train->logits(d->train, head, begin, n, &logits, &gradient, err);
        for (uint32_t i = 0; status == PICO_OK && i < n_term; i++) {
            pico_tensor z = logits, dz = gradient;
            z.shape[1] = dz.shape[1] = d->desc->n_vocab;
            z.offset += (uint64_t)i * d->desc->n_vocab * sizeof(float);
            dz.offset += (uint64_t)i * d->desc->n_vocab * sizeof(float);
            status = run_term(d, &terms[i], begin, n, &z, &dz, err);
        }
        if (status == PICO_OK) {
            status = d->host->train->backward_head(d->train, err);
        }
    }
    return status;
}

static pico_status run_main_head(distill *d, pico_error *err) {
    const double square = d->opt.temperature * d->opt.temperature;
    const term t = {.ahead = 1,
                    .hard = row_weight(d, 1, ce_weight(d)),
                    .soft = d->teacher == NULL ? 0 : row_weight(d, 1, d->opt.kl * square),
                    .sum = &d->sum[0]};
    return run_head(d, 0, &t, 1, err);
}

static pico_status run_draft_head(distill *d, pico_error *err) {
    const uint32_t n_slot = d->desc->n_draft;
    term terms[MOST_SLOTS];
    for (uint32_t i = 0; i < n_slot; i++) {
        const double weight = row_weight(d, i + 1, d->opt.draft / n_slot);
        terms[i] = (term){.ahead = i + 1,
                          .hard = d->teacher == NULL ? weight : 0,
                          .soft = d->teacher == NULL ? 0 : weight,
                          .sum = &d->sum[MOST_HEADS + i]};
    }
    return run_head(d, d->desc->n_mtp_head + 1, terms, n_slot, err);
}

/* ---- a micro-batch ---- */

static pico_status run_teacher(distill *d, pico_error *err) {
    const uint64_t row_bytes = (uint64_t)d->desc->n_vocab * sizeof(float);
    pico_status status = d->host->train->forward(
        d->teacher_train, d->inputs, (uint32_t)d->opt.batch, (uint32_t)d->opt.length, err);
    for (uint32_t begin = 0; status == PICO_OK && begin < d->rows; begin += d->block) {
        const uint32_t n = d->rows - begin < d->block ? d->rows - begin : d->block;
        pico_tensor logits, none;
        status = d->host->train->logits(d->teacher_train, 0, begin, n, &logits, &none, err);
        if (status == PICO_OK) {
            status = device_failed(d->backend->buffer_copy(d->backend_self, d->teacher_logits,
                                                           begin * row_bytes, logits.buffer,
                                                           logits.offset, n * row_bytes),
                                   "keeping the teacher's logits", err);
        }
    }
    return status;
}

pico_status distill_micro_batch(distill *d, pico_error *err) {
    const uint32_t length = (uint32_t)d->opt.length, batch = (uint32_t)d->opt.batch;
    const pico_train_api *api = d->host->train;
    pico_status status = api->batch(d->train, batch, length, d->tokens, err);
    for (uint32_t s = 0; status == PICO_OK && s < batch; s++) {
        memcpy(d->inputs + s * length, d->tokens + s * (length + 1), length * sizeof *d->inputs);
    }
    if (status == PICO_OK && d->teacher != NULL) {
        status = run_teacher(d, err);
    }
    if (status == PICO_OK) {
        status = api->forward(d->train, d->inputs, batch, length, err);
    }
    if (status == PICO_OK && d->opt.learn == LEARN_ALL) {
        status = run_main_head(d, err);
    }
    for (uint32_t k = 0; status == PICO_OK && k < d->desc->n_mtp_head && d->opt.mtp != 0; k++) {
        const term t = {.ahead = k + 2,
                        .hard = row_weight(d, k + 2, d->opt.mtp / d->desc->n_mtp_head),
                        .sum = &d->sum[1 + k]};
        status = run_head(d, k + 1, &t, 1, err);
    }
    if (status == PICO_OK && d->desc->n_draft != 0 && d->opt.draft != 0) {
        status = run_draft_head(d, err);
    }
    return status == PICO_OK ? api->backward(d->train, err) : status;
}

/* ---- what a step was ---- */

static void add_term(pico_train_metrics *out, const char *name, double value, double weight) {
    out->term_name[out->n_term] = name;
    out->term[out->n_term++] = value;
    out->loss += weight * value;
}

static double mean(const distill *d, double sum, uint32_t ahead) {
    return sum * row_weight(d, ahead, 1);
}

void distill_report(const distill *d, pico_train_metrics *out) {
    const double square = d->opt.temperature * d->opt.temperature;
    double mtp = 0, draft = 0;
    out->loss = 0;
    out->n_term = 0;
    if (d->opt.learn == LEARN_ALL) {
        add_term(out, "ce", mean(d, d->sum[0].ce, 1), ce_weight(d));
        if (d->teacher != NULL) {
            add_term(out, "kl", square * mean(d, d->sum[0].kl, 1), d->opt.kl);
        }
    }
    for (uint32_t k = 0; k < d->desc->n_mtp_head; k++) {
        mtp += mean(d, d->sum[1 + k].ce, k + 2) / d->desc->n_mtp_head;
    }
    for (uint32_t i = 0; i < d->desc->n_draft; i++) {
        const head_sum *sum = &d->sum[MOST_HEADS + i];
        draft += mean(d, d->teacher == NULL ? sum->ce : sum->kl, i + 1) / d->desc->n_draft;
    }
    if (d->desc->n_mtp_head != 0 && d->opt.mtp != 0) {
        add_term(out, "mtp", mtp, d->opt.mtp);
    }
    if (d->desc->n_draft != 0 && d->opt.draft != 0) {
        add_term(out, "draft", draft, d->opt.draft);
    }
}
