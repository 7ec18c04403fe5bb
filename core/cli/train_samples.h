/*
 * Prompts that a model in training continues after each validation, for people to read. Part of the
 * train command.
 */
#ifndef PICO_CLI_TRAIN_SAMPLES_H
#define PICO_CLI_TRAIN_SAMPLES_H

#include "cli/lines.h"
#include "host/host.h"
#include "train/sample.h"

typedef struct pico_train_samples {
    pico_lines prompt;
    pico_train_sampler **sampler; /* (prompt.n) */
} pico_train_samples;

/* prompts: one a line, as pico_lines_read; NULL: none. n: most tokens of a continuation. */
pico_status pico_train_samples_open(pico_train *train, const pico_tokenizer *tokenizer,
                                    const char *prompts, uint32_t n, pico_train_samples *out,
                                    pico_error *err);
void pico_train_samples_close(pico_train_samples *samples); /* a zeroed one is allowed */
/* Continues each prompt and writes a line of the log. */
pico_status pico_train_samples_print(const pico_train_samples *samples, pico_log *log,
                                     pico_error *err);

#endif
