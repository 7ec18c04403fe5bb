/*
 * The checks between a file and a plugin that may be used. Each failure names the file, what was
 * expected, what was found and what to do. Private to the registry.
 */
#ifndef PICO_REGISTRY_CHECK_H
#define PICO_REGISTRY_CHECK_H

#include "registry/registry.h"

enum { PICO_MAX_PLUGINS_PER_FILE = 64, PICO_MAX_OPTIONS = 256, PICO_MAX_OPTIONS_BYTES = 4096 };

typedef const pico_plugin *(*pico_plugin_query_fn)(uint32_t index);

/* dlopen and the lookup of pico_plugin_query. path is absolute. Never unloads. */
pico_status pico_check_open(const char *path, pico_plugin_query_fn *query, pico_error *err);

/* Magic, versions, sizes, kind and name of one descriptor; out is its host-sized copy. */
pico_status pico_check_descriptor(const char *path, uint32_t index, const pico_plugin *raw,
                                  pico_plugin *out, pico_error *err);

/* Table of functions with its required slots, create, and option table; fills out->ops. */
pico_status pico_check_plugin(const char *path, const pico_plugin *plugin, pico_loaded *out,
                              pico_error *err);

/* Part of the above: the option table alone. */
pico_status pico_check_options(const char *path, const pico_plugin *plugin, pico_error *err);

/* The required slots of a kind: n pairs of name and offset in the table. */
typedef struct pico_ops_slot {
    const char *name;
    size_t offset;
} pico_ops_slot;
const pico_ops_slot *pico_kind_slots(uint32_t kind, size_t *n);
size_t pico_kind_ops_bytes(uint32_t kind);

#endif
