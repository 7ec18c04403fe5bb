/*
 * What the files behind `run --prompts` and `run --samples` share: a list of prompts, and running
 * all of them, several at a time, with the answers as JSON objects on stdout.
 */
#ifndef PICO_CLI_RUN_MANY_H
#define PICO_CLI_RUN_MANY_H

#include "cli/cli.h"

typedef struct pico_prompt {
    char *text; /* (n_text), malloc-ed, with a NUL at the end */
    size_t n_text;
    uint64_t max_tokens, seed;
    int32_t *ids; /* (n_ids), malloc-ed; NULL until encoded */
    size_t n_ids;
    char *error; /* malloc-ed: why it cannot be run; NULL: it can */
} pico_prompt;

typedef struct pico_prompts {
    pico_prompt *prompt; /* (n), malloc-ed */
    size_t n;
} pico_prompts;

/* Reads a file of one JSON object a line ("-": stdin): "prompt" (a string, required), "max_tokens",
 * "seed" (whole numbers; those of `defaults` otherwise). Lines of blanks are skipped, and so is a byte
 * order mark. PICO_E_INVALID with FILE:LINE and the key; PICO_E_NOT_FOUND, PICO_E_IO, PICO_E_LIMIT,
 * PICO_E_NOMEM. */
pico_status pico_prompts_read(const char *path, const pico_prompt *defaults, pico_prompts *out,
                              pico_error *err);
/* A list of one prompt with a copy of the text and the numbers of `defaults`. */
pico_status pico_prompts_one(const char *text, size_t n, const pico_prompt *defaults,
                             pico_prompts *out, pico_error *err);
void pico_prompts_close(pico_prompts *prompts);

typedef struct pico_many_params {
    uint32_t parallel; /* prompts' samples at once; 0: as many as samples, or one */
    uint32_t samples; /* of each prompt; 0: one, and the objects do not number it. Of a decoder that
                          steers: its best answers, at most as many as it keeps */
    double begin;     /* of pico_answer_clock(), when the command began */
} pico_many_params;

/* Opens the decode loop on an open runtime and answers all prompts. Each answer is printed when all
 * before it have been. Returns the exit code; has printed what went wrong. */
int pico_run_many(const pico_cli *cli, pico_runtime *runtime, pico_prompts *prompts,
                  const pico_many_params *params);

#endif
