/*
 * From a model file to a GGUF file, with what the configuration asks to be done to the model on the
 * way: what convert and compress share.
 */
#ifndef PICO_CLI_REWRITE_H
#define PICO_CLI_REWRITE_H

#include "cli/cli.h"

typedef struct pico_rewrite {
    const char *in;  /* NULL: [model] path */
    const char *out; /* NULL with plan_only */
    FILE *table;     /* gets the plan of the compress stages; NULL: the log */
    int plan_only;   /* 1: nothing is written */
    uint32_t dtype;  /* of all matrices, before anything else; PICO_DTYPE_NONE: as they are */
} pico_rewrite;

/* Refuses to write over what it reads. The file appears when it is complete, or not at all, also
 * when the user interrupts. Returns the exit code; has printed what went wrong. */
int pico_rewrite_model(const pico_cli *cli, const pico_rewrite *job);

#endif
