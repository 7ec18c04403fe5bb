/* A trainer for tests: it refuses to begin where the host cannot train, and cannot train itself. */
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

typedef struct toy {
    const pico_host *host;
} toy;

static pico_status create(const pico_host *host, const void *options, void **self,
                          pico_error *err) {
    (void)options;
    toy *t = malloc(sizeof *t);
    if (t == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "train toy: out of memory");
    }
    t->host = host;
    *self = t;
    return PICO_OK;
}

static pico_status begin(void *self, pico_model *student, pico_error *err) {
    const toy *t = self;
    (void)student;
    return pico_fail(err, PICO_E_UNSUPPORTED,
                     t->host->train == NULL ? "train toy: this host offers no training"
                                            : "train toy: a toy does not train");
}

static pico_status step(void *self, pico_train_metrics *out, pico_error *err) {
    (void)self, (void)out;
    return pico_fail(err, PICO_E_INVALID, "train toy: nothing was begun");
}

static pico_status save(void *self, void *data, uint64_t *bytes, pico_error *err) {
    (void)self, (void)data, (void)err;
    *bytes = 0;
    return PICO_OK;
}

static pico_status load(void *self, const void *data, uint64_t bytes, pico_error *err) {
    (void)self, (void)data;
    return bytes == 0 ? PICO_OK : pico_fail(err, PICO_E_CORRUPT, "train toy: there is no state");
}

static void end(void *self) {
    (void)self;
}

static const pico_trainer_ops ops = {.struct_size = sizeof(pico_trainer_ops),
                                     .begin = begin,
                                     .step = step,
                                     .save = save,
                                     .load = load,
                                     .end = end};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = PICO_ABI_MINOR_OLDEST_TRAINER,
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_TRAINER,
                                   .name = "toy",
                                   .version = "0.1.0",
                                   .summary = "for tests: refuses to train",
                                   .option_size = sizeof(pico_option),
                                   .create = create,
                                   .destroy = free,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
