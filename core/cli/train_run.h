/*
 * A training run: what is open, where it is, how fast it was. cmd_train.c opens it, train_data.c its
 * data, train_run.c runs its steps. Part of the train command.
 */
#ifndef PICO_CLI_TRAIN_RUN_H
#define PICO_CLI_TRAIN_RUN_H

#include "cli/cli.h"
#include "cli/train_files.h"
#include "cli/train_log.h"
#include "cli/train_samples.h"
#include "cli/train_speed.h"
#include "train/validate.h"

typedef struct pico_train_run {
    const pico_cli *cli;
    pico_runtime runtime;
    pico_instance trainer;
    const pico_trainer_ops *ops;
    int begun;          /* 1: end is due */
    int is_fresh;       /* 1: the model is made, not opened */
    uint32_t new_heads; /* PICO_TRAIN_x that were added to a model that was opened */
    pico_train *train;
    pico_texts texts, held_texts;
    pico_train_tokens tokens; /* of the documents to learn from, then of those held out */
    uint64_t n_document, n_held;
    int has_tokens; /* 1: the two above are filled */
    pico_train_data *data, *held_data;
    pico_train_meter *meter;
    pico_train_samples samples;
    uint32_t length;
    const char *folder;
    pico_train_log *log;
    void *bytes; /* room for the trainer's state */
    uint64_t n_bytes;
    pico_checkpoint at;
    uint64_t saved_step; /* of the last good checkpoint; 0: none */
    pico_train_speed speed;
    pico_train_metrics last;
    pico_arena arena;
    pico_error err;
} pico_train_run;

/* Options of [trainer]. */
static inline int64_t pico_train_int(const pico_train_run *run, const char *key) {
    return pico_config_int(run->cli->config, "trainer", key);
}
static inline const char *pico_train_text_of(const pico_train_run *run, const char *key) {
    return pico_config_string(run->cli->config, "trainer", key);
}
static inline const char *pico_train_path(const pico_train_run *run, const char *key) {
    return pico_config_path(run->cli->config, "trainer", key);
}
static inline int pico_train_on(const pico_train_run *run, const char *key) {
    return pico_config_bool(run->cli->config, "trainer", key);
}

/* Reads what [trainer] data and validation name; refuses what is no text before a model is opened. */
pico_status pico_train_read_texts(pico_train_run *run);
/* Of a file that is no model yet: the tokens that its draft head knows ([shape]
 * draft_vocab), counted in the tokens of the texts, which are gone then. */
pico_status pico_train_choose_draft_vocab(pico_train_run *run, pico_model_file *file);
/* Their tokens and rows, when the trainer has begun. The texts are gone then. */
pico_status pico_train_open_data(pico_train_run *run);
uint32_t pico_train_packing(const pico_train_run *run); /* PICO_PACKING_x */

/* Runs steps until the schedule, the wanted step or the user ends it; validates, saves and logs.
 * Returns the exit code, and has said what went wrong. */
int pico_train_run_steps(pico_train_run *run);

#endif
