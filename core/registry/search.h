/*
 * The folders that plugins are looked for in. Private to the registry.
 */
#ifndef PICO_REGISTRY_SEARCH_H
#define PICO_REGISTRY_SEARCH_H

#include "plugin.h"
#include "util/arena.h"

enum { PICO_MAX_FOLDERS = 64 };

typedef struct pico_search {
    const char *folders[PICO_MAX_FOLDERS]; /* absolute, in order of preference, no duplicates */
    size_t n;
} pico_search;

/* first (may be NULL) holds colon-separated folders, named by `origin` in messages; then follow
 * PICOCHAT_PLUGIN_PATH, the plugins folder beside the executable and the installed folder. */
pico_status pico_search_make(pico_arena *arena, const char *first, const char *origin,
                             pico_search *out, pico_error *err);

/* The path of prefix + name + ".so" in the first folder that has it; NULL when none has. */
const char *pico_search_find(const pico_search *search, pico_arena *arena, const char *prefix,
                             const char *name);

/* "a, b and c" for messages. */
void pico_search_describe(const pico_search *search, char *out, size_t size);

/* The .so files of a folder, sorted by name, in the arena; *n is 0 for a folder that is missing. */
pico_status pico_search_list(pico_arena *arena, const char *folder, const char ***paths, size_t *n,
                             pico_error *err);

#endif
