/*
 * The losses, for T tokens of B sequences, z the student's logits, p the teacher's distribution (of
 * its teacher_top_k best tokens alone, where that is not 0):
 *   ce    = mean over B T of -ln softmax(z)[next token]
 *   kl    = temperature^2 * mean over B T of KL(p || softmax(z / temperature)), p likewise
 *   mtp   = mean over heads k = 2, 3, ... of the mean over t <= T - k of the cross-entropy of head k
 *           with the token k places on
 *   draft = mean over slots i = 0, 1, ... of the mean over t <= T - a of
 *           KL(teacher at t + a - 1 || draft slot i at t), both at temperature, where slot i looks
 *           a = i + 1 places ahead, i + 2 if the head reads the token after t; without a teacher the
 *           cross-entropy with the token a places on. A draft head that knows some tokens only has that
 *           cross-entropy with a teacher too, over the t whose token a places on it knows
 * All with gradients through heads and trunk; see distill.h.
 */
#include <string.h>

#include "distill.h"

/* One head or one slot: how far it looks ahead, and the weight of its mean in the whole. */
typedef struct term {
    uint32_t ahead;
    double hard, soft; /* weights of a row */
    head_sum *sum;
    uint32_t n_vocab;     /* logits of a row */
    const int32_t *index; /* of tokens among them; NULL: the same */
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

/* How far slot i of the draft head looks ahead. */
static uint32_t slot_ahead(const distill *d, uint32_t i) {
    return i + (d->desc->draft_flags & PICO_DRAFT_READS_TOKEN ? 2 : 1);
}

/* row_weight of a slot. */
static double slot_weight(const distill *d, uint32_t i, double weight) {
    return d->slot_n[i] > 0 ? weight / d->slot_n[i] : 0;
}

/* Whether the draft head follows the teacher. One that knows some tokens only follows the text: what
 * the teacher thinks of the others has no place in its distribution. */
static int draft_is_taught(const distill *d) {
    return d->teacher != NULL && d->slot_index == NULL;
}

/* ---- data ---- */

static pico_status device_failed(pico_status status, const char *what, pico_error *err) {
    return status == PICO_OK ? status : pico_fail(err, status, "trainer distill: %s failed", what);
}

/* The token `ahead` places after row r of the micro-batch whose tokens are given, as one of a head's
 * logits; -1: there is none. */
static int32_t target_of(const distill *d, const int32_t *tokens, uint32_t r, uint32_t ahead,
                         const int32_t *index) {
    const uint32_t length = (uint32_t)d->opt.length, t = r % length, s = r / length;
    if (t + ahead > length) {
        return -1;
    }
    const int32_t token = tokens[s * (length + 1) + t + ahead];
    return index == NULL ? token : index[token];
}

/* Targets and rows of the teacher of rows [begin, begin + n). */
static pico_status write_ids(distill *d, const term *t, uint32_t begin, uint32_t n,
                             pico_error *err) {
    int32_t *target = d->host_ids, *row = d->host_ids + d->block;
    for (uint32_t i = 0; i < n; i++) {
        target[i] = target_of(d, d->micro_tokens, begin + i, t->ahead, t->index);
        row[i] = target[i] >= 0 ? (int32_t)(begin + i + t->ahead - 1) : -1;
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
    pico_status status = write_ids(d, t, begin, n, err);
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
            z.shape[1] = dz.shape[1] = terms[i].n_vocab;
            z.offset += (uint64_t)i * terms[i].n_vocab * sizeof(float);
            dz.offset += (uint64_t)i * terms[i].n_vocab * sizeof(float);
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
                    .sum = &d->sum[0],
                    .n_vocab = d->desc->n_vocab};
    return run_head(d, 0, &t, 1, err);
}

static pico_status run_draft_head(distill *d, pico_error *err) {
    const uint32_t n_slot = d->desc->n_draft;
    term terms[MOST_SLOTS];
    for (uint32_t i = 0; i < n_slot; i++) {
        const double weight = slot_weight(d, i, d->opt.draft / n_slot);
        terms[i] = (term){.ahead = slot_ahead(d, i),
                          .hard = draft_is_taught(d) ? 0 : weight,
                          .soft = draft_is_taught(d) ? weight : 0,
                          .sum = &d->sum[MOST_HEADS + i],
                          .n_vocab = d->slot_vocab,
                          .index = d->slot_index};
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

/* Tokens of micro-batch i. */
static int32_t *tokens_of(const distill *d, uint32_t i) {
    return d->tokens + (uint64_t)i * (d->rows + (uint64_t)d->opt.batch);
}

/* Rows that each slot of the draft head counts. */
static void count_slots(distill *d) {
    for (uint32_t s = 0; s < d->desc->n_draft; s++) {
        double n = counted(d, slot_ahead(d, s)) * (double)d->opt.accumulate;
        if (d->slot_index != NULL) {
            n = 0;
            for (uint32_t i = 0; i < (uint32_t)d->opt.accumulate; i++) {
                for (uint32_t r = 0; r < d->rows; r++) {
                    n += target_of(d, tokens_of(d, i), r, slot_ahead(d, s), d->slot_index) >= 0;
                }
            }
        }
        d->slot_n[s] = n;
    }
}

pico_status distill_read_step(distill *d, pico_error *err) {
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < (uint32_t)d->opt.accumulate; i++) {
        status = d->host->train->batch(d->train, (uint32_t)d->opt.batch, (uint32_t)d->opt.length,
                                       tokens_of(d, i), err);
    }
    if (status == PICO_OK) {
        count_slots(d);
    }
    return status;
}

pico_status distill_micro_batch(distill *d, uint32_t index, pico_error *err) {
    const uint32_t length = (uint32_t)d->opt.length, batch = (uint32_t)d->opt.batch;
    const pico_train_api *api = d->host->train;
    pico_status status = PICO_OK;
    d->micro_tokens = tokens_of(d, index);
    for (uint32_t s = 0; s < batch; s++) {
        memcpy(d->inputs + s * length, d->micro_tokens + s * (length + 1),
               length * sizeof *d->inputs);
    }
    if (d->teacher != NULL) {
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
                        .sum = &d->sum[1 + k],
                        .n_vocab = d->desc->n_vocab};
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
        draft += slot_weight(d, i, draft_is_taught(d) ? sum->kl : sum->ce) / d->desc->n_draft;
    }
    if (d->desc->n_mtp_head != 0 && d->opt.mtp != 0) {
        add_term(out, "mtp", mtp, d->opt.mtp);
    }
    if (d->desc->n_draft != 0 && d->opt.draft != 0) {
        add_term(out, "draft", draft, d->opt.draft);
    }
}
