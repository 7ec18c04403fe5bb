/*
 * The compress chain: stages run in order on a model file before it goes to a backend. All plans
 * are made before any work is done; after each stage what was done is compared with what was
 * planned. A stage that removes layers says which ones before the plans are made; removing them is
 * the chain's work.
 */
#ifndef PICO_TRANSFORM_COMPRESS_H
#define PICO_TRANSFORM_COMPRESS_H

#include "formats/model_file.h"
#include "plugin.h"

typedef struct pico_stage {
    uint32_t number; /* N of [compress.N] */
    const char *name;
    const pico_compressor_ops *ops; /* borrowed, with self */
    void *self;
} pico_stage;

typedef struct pico_chain_callbacks {
    /* Called for each tensor that a stage changes, when all plans are made; may be NULL. */
    void (*planned)(void *arg, const pico_stage *stage, const pico_tensor_info *from,
                    const pico_tensor_plan *to);
    /* Called behind all of those, before any work is done; may be NULL. */
    void (*announced)(void *arg);
    int plan_only; /* 1: nothing is done after that, and the file stays as it is */
    /* Opens the file as it is now as a model for calibration, and closes it again without closing
     * the file. Only used for stages that calibrate, or choose layers by running a model, with the
     * options that they have. */
    pico_status (*open_model)(void *arg, pico_model_file *file, pico_model **out, pico_error *err);
    void (*close_model)(void *arg, pico_model *model);
    void *arg;
} pico_chain_callbacks;

/* If a plan fails the file is untouched; if apply fails it is unusable for anything but closing. */
pico_status pico_compress_chain(pico_model_file *file, const pico_stage *stages, size_t n,
                                const pico_chain_callbacks *callbacks, pico_error *err);

#endif
