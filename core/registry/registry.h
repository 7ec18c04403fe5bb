/*
 * The registry finds, checks and instantiates plugins. `plugin = mqa` in [attention] means
 * attn_mqa.so, looked for in: [host] plugin_path, PICOCHAT_PLUGIN_PATH (colon-separated), the
 * plugins folder beside the executable, the installed folder. A value with a '/' is a file. The
 * working directory is never searched. Nothing is unloaded; instances are destroyed in reverse
 * order of creation.
 */
#ifndef PICO_REGISTRY_REGISTRY_H
#define PICO_REGISTRY_REGISTRY_H

#include "config/config.h"
#include "plugin.h"

typedef struct pico_registry pico_registry;

/* A plugin that passed every check up to the required slots. The tables are host-sized copies:
 * slots that the plugin does not offer are NULL. Lives as long as the registry. */
typedef struct pico_loaded {
    pico_plugin plugin;
    const char *path;
    union {
        pico_backend_ops backend;
        pico_attention_ops attention;
        pico_sampler_ops sampler;
        pico_decoder_ops decoder;
        pico_compressor_ops compressor;
        pico_trainer_ops trainer;
    } ops;
} pico_loaded;

/* An instance and its table. */
typedef struct pico_instance {
    const pico_loaded *loaded;
    void *self;
} pico_instance;

/* search: what [host] plugin_path holds, or NULL: colon-separated folders that come before the
 * others described above. A relative folder is refused. */
pico_status pico_registry_open(const char *search, pico_registry **out, pico_error *err);
/* Destroys all instances that are left, newest first. NULL is allowed. */
void pico_registry_close(pico_registry *registry);

/* Finds and checks a plugin of a kind; name as in the INI, or a path with '/'. A file that is named
 * like PREFIX_NAME.so has to hold NAME; in any other the only plugin of the kind is taken. Kind 0,
 * for a path only: every plugin in the file is checked, and *out is the one that the file is named
 * after, else the first. Every failure says which file, what was expected, what was found and what
 * to do. Same file and name: same result. */
pico_status pico_registry_load(pico_registry *registry, uint32_t kind, const char *name,
                               const pico_loaded **out, pico_error *err);

/* Loads, binds options from section ("sampler.standard"), creates. host outlives the instance. */
pico_status pico_registry_create(pico_registry *registry, const pico_config *config, uint32_t kind,
                                 const char *name, const char *section, const pico_host *host,
                                 pico_instance *out, pico_error *err);
void pico_registry_destroy(pico_registry *registry, pico_instance *instance);

/* Every candidate file on the search path, in order, with why it was refused; for `plugins list`.
 * Calls fn once for each plugin that the file is named after; for a refused file or plugin, which
 * includes one that its file's name hides, plugin is NULL and reason is set. An entry is valid
 * during the call only. */
typedef struct pico_registry_entry {
    const char *path;
    const pico_plugin *plugin;
    const char *reason;
} pico_registry_entry;
pico_status pico_registry_list(pico_registry *registry,
                               void (*fn)(void *arg, const pico_registry_entry *entry), void *arg,
                               pico_error *err);

/* The folders that are searched, in order; NULL after the last. They need not exist. */
const char *pico_registry_folder(const pico_registry *registry, size_t index);

const char *pico_kind_name(uint32_t kind);      /* "backend", ...: the INI section */
const char *pico_kind_noun(uint32_t kind);      /* "backend", "compressor", ...: one of them */
const char *pico_kind_prefix(uint32_t kind);    /* "backend_", "attn_", "sample_", ... */
uint32_t pico_kind_from_name(const char *name); /* 0: none */

#endif
