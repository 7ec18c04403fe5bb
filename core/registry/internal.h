/*
 * What the parts of the registry share: its state, the content of a file, what a file's own name
 * says. Private to the registry.
 */
#ifndef PICO_REGISTRY_INTERNAL_H
#define PICO_REGISTRY_INTERNAL_H

#include "registry/check.h"
#include "registry/registry.h"
#include "registry/search.h"

typedef struct loaded_node {
    struct loaded_node *next;
    pico_loaded loaded;
} loaded_node;

struct pico_registry {
    pico_arena arena;
    pico_search search;
    loaded_node *loaded;
    pico_instance *instances; /* in order of creation */
    size_t n_instances, capacity;
};

/* Everything that a file holds, each descriptor checked. */
typedef struct pico_file_content {
    pico_plugin plugin[PICO_MAX_PLUGINS_PER_FILE];
    uint32_t n;
} pico_file_content;

/* Opens a file and checks all its descriptors. */
pico_status pico_file_read_plugins(const char *path, pico_file_content *out, pico_error *err);

/* The kind and the name (not terminated) that a file's own name promises ("sample_mine.so"); 0:
 * none. */
uint32_t pico_file_promises(const char *path, const char **name, size_t *n_name);

/* That there is no plugin of this name, what there is instead, and where it was looked for. */
pico_status pico_registry_not_found(pico_registry *registry, uint32_t kind, const char *name,
                                    pico_error *err);

#endif
