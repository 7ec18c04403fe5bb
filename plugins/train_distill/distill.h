/*
 * train_distill: its options, its instance, and what its files share.
 */
#ifndef PICO_TRAIN_DISTILL_H
#define PICO_TRAIN_DISTILL_H

#include "plugin.h"

enum { LEARN_ALL = 0, LEARN_HEADS = 1 };
enum { OPTIMIZER_MUON = 0, OPTIMIZER_ADAMW = 1 };
enum { COMPUTE_AUTO = 0, COMPUTE_F32 = 1, COMPUTE_BF16 = 2 };
enum { MOST_SLOTS = 64, MOST_HEADS = 66 };

typedef struct distill_options {
    const char *teacher;
    int64_t steps, batch, length, accumulate, logit_rows, teacher_top_k;
    uint32_t learn, optimizer, recompute, compute;
    double kl, ce, mtp, draft, temperature;
    double lr, matrix_lr, embedding_lr, head_lr, scalar_lr, vector_lr;
    double beta1, beta2, eps, weight_decay;
    double warmup, warmdown, final_lr;
} distill_options;

/* Sums of one head or slot over a step. */
typedef struct head_sum {
    double ce, kl; /* sums over rows */
} head_sum;

typedef struct distill {
    const pico_host *host;
    distill_options opt;
    char *teacher_path; /* owned; NULL: none */

    /* from begin to end */
    pico_model *student, *teacher;
    pico_train *train, *teacher_train;
    const pico_model_desc *desc;
    const pico_backend_ops *backend;
    void *backend_self;
    uint32_t rows, block;                  /* tokens of a micro-batch; rows of logits at once */
    pico_buffer *ids;                      /* I32 (2, block) targets, rows of the teacher */
    pico_buffer *losses;                   /* F32 (2, block) ce, kl */
    pico_buffer *teacher_logits;           /* F32 (rows, n_vocab) */
    int32_t *tokens;                       /* (accumulate, batch, length + 1) of a step */
    const int32_t *micro_tokens;           /* those of the micro-batch at hand */
    int32_t *inputs;                       /* (batch, length) */
    int32_t *host_ids;                     /* (2, block) */
    float *host_losses;                    /* (2, block) */
    uint32_t *updated;                     /* (parameters) those of a step, and how */
    pico_update *update;                   /* (parameters) */
    uint64_t step;                         /* steps taken */
    head_sum sum[MOST_HEADS + MOST_SLOTS]; /* heads, then slots of the draft head */
    uint32_t slot_vocab;                   /* logits of a slot of the draft head */
    int32_t *slot_index;                   /* (n_vocab) which of them is a token's, -1: none; NULL:
                                              a slot knows all tokens */
    double slot_n[MOST_SLOTS];             /* rows of a step that count in each slot */
} distill;

/* losses.c */
/* The tokens of a step, and what counts in it. */
pico_status distill_read_step(distill *d, pico_error *err);
/* Micro-batch `index` of it: forward of teacher and student, losses, gradients. Adds to d->sum. */
pico_status distill_micro_batch(distill *d, uint32_t index, pico_error *err);
/* The sums of a step as means and as the weighted whole. */
void distill_report(const distill *d, pico_train_metrics *out);

/* schedule.c */
pico_status distill_choose_optimizers(distill *d, pico_error *err);
/* Updates every parameter; step counts from 1. */
pico_status distill_update(distill *d, uint64_t step, pico_error *err);
/* What learning rates are multiplied with in a step. */
double distill_rate(const distill_options *opt, uint64_t step);

#endif
