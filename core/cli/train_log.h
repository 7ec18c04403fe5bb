/*
 * The log of a training run: a line for each step, in FOLDER/log.csv or FOLDER/log.jsonl. A run that
 * goes on from a checkpoint cuts the steps that came after it, and adds its own. It refuses to mix
 * lines with other columns into a file. Part of the train command.
 */
#ifndef PICO_CLI_TRAIN_LOG_H
#define PICO_CLI_TRAIN_LOG_H

#include "plugin.h"

enum { PICO_TRAIN_LOG_CSV = 0, PICO_TRAIN_LOG_JSON = 1 };

typedef struct pico_train_log pico_train_log;

typedef struct pico_train_line {
    const pico_train_metrics *metrics;
    uint64_t tokens;             /* of all steps so far */
    double seconds;              /* that the step took */
    double tokens_per_s, gflops; /* of the step */
    double nats, bits_per_byte;  /* of a validation after it; NAN: none */
} pico_train_line;

/* at: the step of the checkpoint that the run goes on from; 0: a log begins. */
pico_status pico_train_log_open(const char *folder, int format, uint64_t at, pico_train_log **out,
                                pico_error *err);
void pico_train_log_close(pico_train_log *log); /* NULL is allowed */
/* A whole line, with the seconds of all steps so far, those of earlier processes included. */
pico_status pico_train_log_write(pico_train_log *log, const pico_train_line *line, pico_error *err);

#endif
