/*
 * The composition root: puts configuration, plugins, model and decode loop together for a command.
 * The only place that knows all layers. Everything is opened in the order of the fields and closed
 * in the reverse.
 */
#ifndef PICO_CLI_RUNTIME_H
#define PICO_CLI_RUNTIME_H

#include "cli/exit_code.h"
#include "cli/lines.h"
#include "config/config.h"
#include "decode/decode.h"
#include "host/host.h"
#include "model/model.h"
#include "registry/registry.h"
#include "session/session.h"
#include "tokenizer/tokenizer.h"

typedef struct pico_runtime {
    const pico_config *config; /* borrowed */
    pico_log log;
    pico_registry *registry;
    pico_pool *pool;
    pico_host host; /* what plugins see; host.ctx is the runtime */
    pico_instance backend, attention, sampler, decoder;
    pico_device device;
    pico_model *model;
    pico_tokenizer *tokenizer;      /* NULL when the model has no vocabulary */
    pico_instance second_attention; /* for models that plugins open */
    pico_lines stop;
    pico_logit_bias *bias; /* (n_bias) */
    uint32_t n_bias;
} pico_runtime;

/* With overflow = slide: positions of a timeline whose final length is not known beforehand. */
enum { PICO_SLIDE_POSITIONS = 1 << 17 };

enum {                            /* what a command needs; each includes what it depends on */
       PICO_RUNTIME_MODEL = 1,    /* backend, attention, model */
       PICO_RUNTIME_DECODE = 2,   /* sampler, decoder */
       PICO_RUNTIME_TOKENIZER = 4 /* a tokenizer must be there */
};

/* Opens registry, pool and what `needs` says, from the configuration. file: a model that is already
 * open (taken over on success), or NULL to open [model] path. On failure everything is closed again
 * and *code gets the exit code. Prints nothing but what the log level allows. */
pico_status pico_runtime_open(pico_runtime *runtime, const pico_config *config, uint32_t needs,
                              pico_model_file *file, int *exit_code, pico_error *err);
void pico_runtime_close(pico_runtime *runtime);

/* Fills the parameters of a decode loop from the configuration: penalties, bias, accept, ubatch,
 * overflow policy. total: tokens that the longest timeline will hold (for overflow = slide); stop
 * strings come from [generate] stop. The arrays live as long as the runtime. */
pico_status pico_runtime_decode_params(pico_runtime *runtime, uint32_t n_slots, uint64_t total,
                                       pico_decode_params *out, pico_error *err);
/* What can be done about a full context, as the end of a sentence; it depends on the model's kind of
 * positions and on what [generate] overflow is. */
const char *pico_runtime_full_advice(const pico_runtime *runtime);
/* The stop strings of [generate] stop. */
const char *const *pico_runtime_stops(const pico_runtime *runtime, size_t *n);

/* The exit code of a failure: 1 run time, 2 usage or configuration, 3 model file, 4 plugin,
 * 5 memory or device, 130 interrupted. */
int pico_exit_code(pico_status status);

#endif
