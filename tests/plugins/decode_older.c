/*
 * The plain decoder as it was built for minor version 1 of the ABI, for tests: its table ends before
 * what minor version 2 added. What lies behind it in memory must not be taken for a part of it.
 */
#include <stddef.h>
#include <stdlib.h>

#include "plugin.h"

static pico_status create(const pico_host *host, const void *opts, void **self, pico_error *err) {
    (void)host;
    (void)opts;
    *self = malloc(1); /* an instance has no state, but two of them are not the same */
    return *self == NULL ? pico_fail(err, PICO_E_NOMEM, "out of memory") : PICO_OK;
}

static pico_status begin(void *self, const pico_model *target, uint32_t n_slots,
                         pico_decoder_need *out, pico_error *err) {
    (void)self;
    (void)target;
    (void)n_slots;
    (void)out; /* zero proposals, no hidden rows */
    (void)err;
    return PICO_OK;
}

static pico_status propose(void *self, pico_sequence *sequences, uint32_t n, pico_error *err) {
    (void)self;
    (void)sequences;
    (void)n;
    (void)err;
    return PICO_OK;
}

static pico_status observe(void *self, const pico_outcome *outcomes, uint32_t n,
                           const pico_tensor *hidden, pico_error *err) {
    (void)self;
    (void)outcomes;
    (void)n;
    (void)hidden;
    (void)err;
    return PICO_OK;
}

static void end(void *self) {
    (void)self;
}

static pico_status not_mine(void *self, pico_advance *round, pico_error *err) {
    (void)self;
    (void)round;
    return pico_fail(err, PICO_E_ABI, "beyond the table");
}

static const pico_decoder_ops ops = {.struct_size = offsetof(pico_decoder_ops, advance),
                                     .begin = begin,
                                     .propose = propose,
                                     .observe = observe,
                                     .end = end,
                                     .advance = not_mine};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = 1,
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_DECODER,
                                   .name = "older",
                                   .version = "0.1.0",
                                   .summary = "plain decoding, as of ABI version 0.1",
                                   .option_size = sizeof(pico_option),
                                   .create = create,
                                   .destroy = free,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
