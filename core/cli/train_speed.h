/*
 * How fast a training run is: tokens and operations over the time that its steps took; validation,
 * checkpoints and the log are not in it. Part of the train command.
 */
#ifndef PICO_CLI_TRAIN_SPEED_H
#define PICO_CLI_TRAIN_SPEED_H

#include "cli/runtime.h"
#include "train/train.h"

/* Sums over the steps of this process, and of the last step. */
typedef struct pico_train_work {
    double seconds;
    uint64_t tokens;
    double operations; /* of the model that learns, see train/count.c */
    double frozen;     /* of its teachers */
} pico_train_work;

typedef struct pico_train_speed {
    pico_train_work all, step;
    double begun, own, frozen; /* when the step at hand began */
} pico_train_speed;

/* Around each step. */
void pico_train_speed_begin(pico_train_speed *speed, const pico_train *train);
void pico_train_speed_end(pico_train_speed *speed, const pico_train *train, uint64_t n_tokens);
/* 0 where no time has passed. */
double pico_train_tokens_per_s(const pico_train_work *work);
double pico_train_gflops(const pico_train_work *work);

/* Says how fast it was, beside what the pool's threads multiply in F32, which is probed now. With a
 * backend that computes elsewhere there is no share. Nothing where the log is to be quiet. */
void pico_train_speed_print(const pico_train_speed *speed, const pico_train *train,
                            pico_runtime *runtime);

#endif
