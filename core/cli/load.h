/*
 * From a model file to a model on the device: attention's check, pooling of KV heads, the compress
 * chain, weights, tokenizer. The only callers are runtime.c and commands that stop half-way, such
 * as convert.
 */
#ifndef PICO_CLI_LOAD_H
#define PICO_CLI_LOAD_H

#include "cli/runtime.h"

/* Makes an instance of a plugin; its options come from SECTION.NAME. *exit_code is set on failure.
 */
pico_status pico_runtime_instance(pico_runtime *runtime, uint32_t kind, const char *name,
                                  const char *section, pico_instance *out, int *exit_code,
                                  pico_error *err);

/* [model] tokenizer and generation. */
pico_open_params pico_load_params(const pico_config *config);
/* Opens [model] path with [model] tokenizer. */
pico_status pico_load_file(const pico_config *config, pico_model_file **out, int *exit_code,
                           pico_error *err);
/* Adds to the message of a model or tokenizer file that could not be opened what to do about it. */
void pico_load_advise(const pico_config *config, const char *path, pico_error *err);
/* [attention] kv_type as PICO_DTYPE_x. */
uint32_t pico_load_kv_dtype(const pico_config *config);

/* transform.c: pools and compresses the file as attention plugin and [compress.N] sections ask. The
 * plan of the stages is told first. params may be NULL. */
typedef struct pico_transform_params {
    FILE *table;   /* gets the plan as a table; NULL: the log, a line a stage, all at level debug */
    int plan_only; /* 1: stages make their plans and do no work */
} pico_transform_params;
pico_status pico_load_transform(pico_runtime *runtime, pico_model_file *file,
                                const pico_transform_params *params, int *exit_code,
                                pico_error *err);
/* The same for a second model, which is run with runtime->second_attention: the stages whose apply_to
 * is draft or both. */
pico_status pico_load_transform_draft(pico_runtime *runtime, pico_model_file *file,
                                      pico_error *err);
/* Everything; file NULL: as pico_load_file. Fills runtime->model and ->tokenizer. */
pico_status pico_load_model(pico_runtime *runtime, pico_model_file *file, uint32_t needs,
                            int *exit_code, pico_error *err);
/* For host->model_open: a second model on the same backend, with plain attention and the stages of
 * [compress.N] whose apply_to is draft or both. */
pico_status pico_load_second_model(pico_runtime *runtime, const char *path, pico_model **out,
                                   pico_error *err);
/* What a model is compared with: the file as it is, on the same backend, whatever the configuration
 * says of the model: plain attention with its default options, F32 KV pages, no [compress.N] stage.
 * Close it before the runtime. */
pico_status pico_load_reference(pico_runtime *runtime, const char *path, pico_model **out,
                                int *exit_code, pico_error *err);

#endif
