/*
 * A complete, valid, minimal sampler, of which each file here spoils one thing by defining a BAD_x
 * macro before it includes this. It samples nothing: it is loaded, never run.
 */
#ifndef PICO_BAD_H
#define PICO_BAD_H

#include "plugin.h"

#ifndef BAD_MAGIC
#define BAD_MAGIC PICO_PLUGIN_MAGIC
#endif
#ifndef BAD_MAJOR
#define BAD_MAJOR PICO_ABI_MAJOR
#endif
#ifndef BAD_MINOR
#define BAD_MINOR PICO_ABI_MINOR
#endif
#ifndef BAD_STRUCT_SIZE
#define BAD_STRUCT_SIZE sizeof(pico_plugin)
#endif
#ifndef BAD_KIND
#define BAD_KIND PICO_KIND_SAMPLER
#endif
#ifndef BAD_DIST
#define BAD_DIST bad_dist
#endif
#ifndef BAD_OPS
#define BAD_OPS &bad_ops
#endif
#ifndef BAD_OPS_SIZE
#define BAD_OPS_SIZE sizeof(pico_sampler_ops)
#endif
#ifndef BAD_CREATE
#define BAD_CREATE bad_create
#endif
#ifndef BAD_OPTIONS /* pointer, count and size of the bound struct */
#define BAD_OPTIONS NULL
#define BAD_N_OPTIONS 0
#define BAD_OPTIONS_BYTES 0
#endif
#ifndef BAD_OPTION_SIZE
#define BAD_OPTION_SIZE sizeof(pico_option)
#endif
#ifndef BAD_COUNT /* how often the query gives the plugin; not 0 */
#define BAD_COUNT 1
#endif

static inline pico_status bad_need(void *self, pico_sampler_need *out) {
    (void)self;
    out->struct_size = sizeof *out;
    out->kind = PICO_NEED_ARGMAX;
    return PICO_OK;
}

static inline pico_status bad_dist(void *self, const pico_candidates *row, const void *state,
                                   pico_dist *out) {
    (void)self, (void)row, (void)state, (void)out;
    return PICO_E_UNSUPPORTED;
}

static inline pico_status bad_create(const pico_host *host, const void *options, void **self,
                                     pico_error *err) {
    (void)host, (void)options, (void)err;
    *self = NULL;
    return PICO_OK;
}

static const pico_sampler_ops bad_ops = {
    .struct_size = (uint32_t)(BAD_OPS_SIZE), .need = bad_need, .dist = BAD_DIST};

static const pico_plugin bad_plugin = {
    .magic = BAD_MAGIC,
    .abi_major = BAD_MAJOR,
    .abi_minor = BAD_MINOR,
    .struct_size = (uint32_t)(BAD_STRUCT_SIZE),
    .kind = BAD_KIND,
    .name = BAD_NAME,
    .version = "1",
    .summary = "spoiled in one place",
    .options = BAD_OPTIONS,
    .n_options = BAD_N_OPTIONS,
    .option_size = (uint32_t)(BAD_OPTION_SIZE),
    .options_bytes = BAD_OPTIONS_BYTES,
    .create = BAD_CREATE,
    .ops = BAD_OPS,
};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index < BAD_COUNT ? &bad_plugin : NULL;
}

#endif
