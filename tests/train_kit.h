/*
 * One step of training as a trainer plugin would take it, for tests: losses of all heads with the
 * weights and alignments of distillation, gradients of all of them. Failures end the test.
 */
#ifndef PICO_TESTS_TRAIN_KIT_H
#define PICO_TESTS_TRAIN_KIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/train.h"

/* Weights of the terms; temperature of the two that follow a teacher. */
typedef struct step_weights {
    double kl, ce, mtp, draft, temperature;
} step_weights;

typedef struct step_losses {
    double kl, ce, mtp, draft, total; /* the terms unweighted; kl times the square of temperature */
    double head[8], slot[8];          /* of each multi-token head, of each slot of the draft head */
} step_losses;

/* A training state with the buffers that a step needs. */
typedef struct step_kit {
    pico_train *train;
    pico_model *model;
    const pico_backend_ops *ops;
    void *self;
    uint32_t max_rows, block; /* rows of one call of logits */
    pico_buffer *ids;         /* I32 (2, max_rows) targets, rows of the teacher */
    pico_buffer *losses;      /* F32 (2, max_rows) */
    pico_buffer *teacher;     /* F32 (max_rows, n_vocab) */
    uint32_t has_teacher;
} step_kit;

static inline void step_check(pico_status status, const pico_error *err, const char *what) {
    if (status != PICO_OK) {
        fail_msg("%s: status %d, %s", what, (int)status, err->message);
    }
}

static inline void step_open(step_kit *run, pico_model *model, uint32_t flags, uint32_t max_rows,
                             uint32_t max_length, uint32_t block) {
    pico_error err = {0};
    const pico_train_params params = {.struct_size = sizeof params,
                                      .flags = flags,
                                      .max_rows = max_rows,
                                      .max_length = max_length,
                                      .max_logit_rows = block};
    *run = (step_kit){.model = model,
                      .ops = model->device->ops,
                      .self = model->device->self,
                      .max_rows = max_rows,
                      .block = block};
    step_check(pico_train_table.open(model, &params, &run->train, &err), &err, "open");
    const uint64_t row = (uint64_t)max_rows * 4;
    step_check(run->ops->buffer_alloc(run->self, 2 * row, &run->ids, &err), &err, "ids");
    step_check(run->ops->buffer_alloc(run->self, 2 * row, &run->losses, &err), &err, "losses");
    step_check(run->ops->buffer_alloc(run->self, row * model->desc.n_vocab, &run->teacher, &err),
               &err, "teacher");
}

static inline void step_close(step_kit *run) {
    run->ops->buffer_free(run->self, run->ids);
    run->ops->buffer_free(run->self, run->losses);
    run->ops->buffer_free(run->self, run->teacher);
    pico_train_table.close(run->train);
}

/* The teacher's logits (rows, n_vocab), of which the draft head looks ahead. */
static inline void step_set_teacher(step_kit *run, const float *logits, uint32_t rows) {
    const uint64_t bytes = (uint64_t)rows * run->model->desc.n_vocab * sizeof *logits;
    assert_int_equal(run->ops->buffer_write(run->self, run->teacher, 0, logits, bytes), PICO_OK);
    run->has_teacher = 1;
}

/* Sums of ce and kl over rows [begin, begin + n) of one head's columns, whose gradient goes to d. */
typedef struct step_term {
    double hard, soft, temperature;
    const int32_t *target, *teacher_row; /* of all rows of the batch */
} step_term;

static inline void step_term_run(step_kit *run, const step_term *term, uint32_t begin, uint32_t n,
                                 const pico_tensor *logits, const pico_tensor *d, double *ce,
                                 double *kl) {
    const uint64_t row = (uint64_t)run->max_rows * 4;
    float values[2][4096];
    pico_error err = {0};
    assert_true(n <= 4096);
    pico_loss_args args = {.hard = (float)term->hard,
                           .soft = (float)term->soft,
                           .temperature = (float)term->temperature,
                           .logits = *logits,
                           .target = pico_view_vector(run->ids, 0, PICO_DTYPE_I32, n),
                           .d = *d,
                           .ce = pico_view_vector(run->losses, 0, PICO_DTYPE_F32, n),
                           .kl = pico_view_vector(run->losses, row, PICO_DTYPE_F32, n)};
    if (run->has_teacher && logits->shape[1] == run->model->desc.n_vocab) {
        args.teacher =
            pico_view(run->teacher, 0, PICO_DTYPE_F32, run->max_rows, run->model->desc.n_vocab);
        args.teacher_row = pico_view_vector(run->ids, row, PICO_DTYPE_I32, n);
    }
    assert_int_equal(run->ops->buffer_write(run->self, run->ids, 0, term->target + begin, n * 4),
                     PICO_OK);
    assert_int_equal(
        run->ops->buffer_write(run->self, run->ids, row, term->teacher_row + begin, n * 4),
        PICO_OK);
    assert_int_equal(pico_train_table.loss(run->train, &args), PICO_OK);
    for (int i = 0; i < 2; i++) {
        step_check(run->ops->buffer_read(run->self, run->losses, (uint64_t)i * row, values[i],
                                         n * sizeof(float), &err),
                   &err, "losses");
    }
    for (uint32_t i = 0; i < n; i++) {
        *ce += (double)values[0][i];
        *kl += (double)values[1][i];
    }
}

/* One head over all rows, in blocks. term has n_slot entries; ce and kl get the sums of each. */
static inline void step_head(step_kit *run, uint32_t head, uint32_t rows, const step_term *term,
                             uint32_t n_slot, int backward, double *ce, double *kl) {
    pico_error err = {0};
    for (uint32_t begin = 0; begin < rows; begin += run->block) {
        const uint32_t n = rows - begin < run->block ? rows - begin : run->block;
        pico_tensor logits, d;
        step_check(pico_train_table.logits(run->train, head, begin, n, &logits, &d, &err), &err,
                   "logits");
        const int64_t n_vocab = logits.shape[1] / n_slot;
        for (uint32_t s = 0; s < n_slot; s++) {
            pico_tensor z = logits, dz = backward ? d : (pico_tensor){0};
            z.shape[1] = dz.shape[1] = n_vocab;
            z.offset += (uint64_t)(s * n_vocab) * 4;
            dz.offset += (uint64_t)(s * n_vocab) * 4;
            step_term_run(run, &term[s], begin, n, &z, &dz, &ce[s], &kl[s]);
        }
        if (backward) {
            step_check(pico_train_table.backward_head(run->train, &err), &err, "backward_head");
        }
    }
}

/* Row r of a head that predicts `ahead` tokens on: its target (token ahead places on) or -1. */
static inline void step_targets(const int32_t *tokens, uint32_t n_seq, uint32_t length,
                                uint32_t ahead, uint32_t ignore_every, int32_t *target,
                                int32_t *teacher_row, uint32_t *n_target) {
    *n_target = 0;
    for (uint32_t r = 0; r < n_seq * length; r++) {
        const uint32_t t = r % length;
        const int inside = t + ahead <= length,
                  ignored = ignore_every != 0 && t % ignore_every == 0;
        target[r] = inside && !ignored ? tokens[r / length * (length + 1) + t + ahead] : -1;
        teacher_row[r] = inside ? (int32_t)(r + ahead - 1) : -1;
        *n_target += target[r] >= 0;
    }
}

/* Targets as indices of the draft head's vocabulary; those that it does not have are none. */
static inline void step_known(const pico_model_desc *desc, uint32_t rows, int32_t *target,
                              uint32_t *n_target) {
    *n_target = 0;
    for (uint32_t r = 0; r < rows; r++) {
        int32_t index = -1;
        for (uint32_t i = 0; i < desc->n_draft_vocab; i++) {
            index = desc->draft_vocab[i] == target[r] ? (int32_t)i : index;
        }
        target[r] = index;
        *n_target += index >= 0;
    }
}

/* Forward, losses of every term whose weight is not 0, and, if backward, their gradients added.
 * tokens (n_seq, length + 1); targets at places t with t % ignore_every == 0 are ignored (0: none). */
static inline step_losses step_run(step_kit *run, const int32_t *tokens, uint32_t n_seq,
                                   uint32_t length, uint32_t ignore_every, const step_weights *w,
                                   int backward) {
    const pico_model_desc *desc = &run->model->desc;
    const uint32_t rows = n_seq * length;
    int32_t *x = malloc(rows * 4), *target[8], *from[8];
    uint32_t n = 0;
    double ce[8] = {0}, kl[8] = {0};
    step_term term[8];
    step_losses out = {0};
    pico_error err = {0};
    for (int i = 0; i < 8; i++) {
        target[i] = malloc(rows * 4);
        from[i] = malloc(rows * 4);
    }
    for (uint32_t r = 0; r < rows; r++) {
        x[r] = tokens[r / length * (length + 1) + r % length];
    }
    step_check(pico_train_table.forward(run->train, x, n_seq, length, &err), &err, "forward");
    const double square = w->temperature * w->temperature;
    if (w->ce != 0 || w->kl != 0) {
        step_targets(tokens, n_seq, length, 1, ignore_every, target[0], from[0], &n);
        term[0] = (step_term){w->ce / n, w->kl * square / rows, w->temperature, target[0], from[0]};
        step_head(run, 0, rows, term, 1, backward, ce, kl);
        out.ce = ce[0] / n;
        out.kl = square * kl[0] / rows;
    }
    for (uint32_t k = 0; k < desc->n_mtp_head && w->mtp != 0; k++) {
        ce[0] = kl[0] = 0;
        step_targets(tokens, n_seq, length, k + 2, 0, target[0], from[0], &n);
        memset(from[0], 0xff, rows * 4);
        term[0] = (step_term){w->mtp / desc->n_mtp_head / n, 0, 1, target[0], from[0]};
        step_head(run, k + 1, rows, term, 1, backward, ce, kl);
        out.head[k] = ce[0] / n;
        out.mtp += out.head[k] / desc->n_mtp_head;
    }
    if (desc->n_draft != 0 && w->draft != 0) {
        assert_true(desc->n_draft <= 8);
        uint32_t count[8];
        const uint32_t ahead = desc->draft_flags & PICO_DRAFT_READS_TOKEN ? 2 : 1; /* of slot 0 */
        for (uint32_t s = 0; s < desc->n_draft; s++) {
            ce[s] = kl[s] = 0;
            step_targets(tokens, n_seq, length, s + ahead, 0, target[s], from[s], &count[s]);
            term[s] = (step_term){0, w->draft / desc->n_draft / count[s], w->temperature, target[s],
                                  from[s]};
            if (desc->n_draft_vocab != 0) { /* the text, where the head knows the token */
                step_known(desc, rows, target[s], &count[s]);
                term[s].soft = 0;
                term[s].hard = w->draft / desc->n_draft / count[s];
            } else {
                memset(target[s], 0xff, rows * 4);
            }
        }
        step_head(run, desc->n_mtp_head + 1, rows, term, desc->n_draft, backward, ce, kl);
        for (uint32_t s = 0; s < desc->n_draft; s++) {
            out.slot[s] = (desc->n_draft_vocab != 0 ? ce[s] : kl[s]) / count[s];
            out.draft += out.slot[s] / desc->n_draft;
        }
    }
    if (backward) {
        step_check(pico_train_table.backward(run->train, &err), &err, "backward");
    }
    out.total = w->kl * out.kl + w->ce * out.ce + w->mtp * out.mtp + w->draft * out.draft;
    for (int i = 0; i < 8; i++) {
        free(target[i]);
        free(from[i]);
    }
    free(x);
    return out;
}

static inline pico_param step_param(const step_kit *run, const char *name, uint32_t *index) {
    pico_param p;
    for (uint32_t i = 0; i < pico_train_table.n_params(run->train); i++) {
        assert_int_equal(pico_train_table.param(run->train, i, &p), PICO_OK);
        if (strcmp(p.name, name) == 0) {
            *index = i;
            return p;
        }
    }
    fail_msg("there is no parameter %s", name);
    return (pico_param){0};
}

/* (rows * cols) of a parameter's value or gradient; malloc-ed. */
static inline float *step_read(const step_kit *run, const pico_tensor *tensor) {
    const size_t n = (size_t)(tensor->shape[0] * tensor->shape[1]);
    float *values = malloc(n * sizeof *values);
    pico_error err = {0};
    step_check(run->ops->buffer_read(run->self, tensor->buffer, tensor->offset, values,
                                     n * sizeof *values, &err),
               &err, "read");
    return values;
}

#endif
