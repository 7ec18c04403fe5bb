/*
 * The registry: finds a file, has it checked, keeps what passed, makes and destroys instances. It
 * never unloads a file and never falls back to another one: the first file found is the one.
 */
#include "registry/registry.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config/value.h"
#include "registry/check.h"
#include "registry/internal.h"

static pico_status no_memory(pico_error *err) {
    return pico_fail(err, PICO_E_NOMEM, "out of memory for the plugin registry");
}

pico_status pico_registry_open(const char *search, pico_registry **out, pico_error *err) {
    *out = NULL;
    pico_registry *registry = calloc(1, sizeof *registry);
    if (registry == NULL) {
        return no_memory(err);
    }
    pico_status status =
        pico_search_make(&registry->arena, search, "plugin path", &registry->search, err);
    if (status != PICO_OK) {
        pico_registry_close(registry);
        return status;
    }
    *out = registry;
    return PICO_OK;
}

static void destroy(const pico_instance *instance) {
    if (instance->loaded->plugin.destroy != NULL) {
        instance->loaded->plugin.destroy(instance->self);
    }
}

void pico_registry_close(pico_registry *registry) {
    if (registry == NULL) {
        return;
    }
    while (registry->n_instances != 0) {
        destroy(&registry->instances[--registry->n_instances]);
    }
    free(registry->instances);
    pico_arena_free(&registry->arena);
    free(registry);
}

pico_status pico_file_read_plugins(const char *path, pico_file_content *out, pico_error *err) {
    pico_plugin_query_fn query;
    pico_status status = pico_check_open(path, &query, err);
    out->n = 0;
    while (status == PICO_OK) {
        const pico_plugin *raw = query(out->n);
        if (raw == NULL) {
            break;
        }
        if (out->n == PICO_MAX_PLUGINS_PER_FILE) {
            return pico_fail(err, PICO_E_ABI,
                             "%s: pico_plugin_query gives more than %d plugins; return NULL after "
                             "the last",
                             path, PICO_MAX_PLUGINS_PER_FILE);
        }
        pico_plugin *plugin = &out->plugin[out->n];
        status = pico_check_descriptor(path, out->n, raw, plugin, err);
        for (uint32_t i = 0; i < out->n && status == PICO_OK; i++) {
            if (out->plugin[i].kind == plugin->kind &&
                strcmp(out->plugin[i].name, plugin->name) == 0) {
                status = pico_fail(err, PICO_E_ABI,
                                   "%s: plugins %u and %u are both %s '%s'; names have to differ",
                                   path, i, out->n, pico_kind_name(plugin->kind), plugin->name);
            }
        }
        out->n += status == PICO_OK;
    }
    if (status == PICO_OK && out->n == 0) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: expected a plugin, found none: pico_plugin_query(0) returned NULL",
                         path);
    }
    return status;
}

/* "sampler 'a', decoder 'b'" for messages. */
static void describe_content(const pico_file_content *content, char *out, size_t size) {
    size_t used = 0;
    for (uint32_t i = 0; i < content->n && used < size; i++) {
        int n = snprintf(out + used, size - used, "%s%s '%s'", i == 0 ? "" : ", ",
                         pico_kind_name(content->plugin[i].kind), content->plugin[i].name);
        used += n < 0 ? size : (size_t)n;
    }
}

/* The plugin of a kind in a file; name NULL means: the only one of that kind. */
static pico_status choose(const char *path, const pico_file_content *content, uint32_t kind,
                          const char *name, const pico_plugin **out, pico_error *err) {
    char found[256];
    const pico_plugin *chosen = NULL, *of_kind = NULL;
    uint32_t n_of_kind = 0;
    for (uint32_t i = 0; i < content->n; i++) {
        const pico_plugin *plugin = &content->plugin[i];
        if (plugin->kind == kind) {
            of_kind = plugin;
            n_of_kind++;
            if (name != NULL && strcmp(plugin->name, name) == 0) {
                chosen = plugin;
            }
        }
    }
    describe_content(content, found, sizeof found);
    if (n_of_kind == 0) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: expected a plugin of kind %s, found %s; name it in the section of "
                         "its own kind",
                         path, pico_kind_name(kind), found);
    }
    if (name == NULL && n_of_kind == 1) {
        chosen = of_kind;
    }
    if (chosen == NULL && name == NULL) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: holds several plugins of kind %s (%s); link the file as %sNAME.so to "
                         "say which one",
                         path, pico_kind_name(kind), found, pico_kind_prefix(kind));
    }
    if (chosen == NULL) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: the file name promises %s '%s', found %s; correct .name or rename "
                         "the file to %s%s.so",
                         path, pico_kind_name(kind), name, found, pico_kind_prefix(kind),
                         of_kind->name);
    }
    *out = chosen;
    return PICO_OK;
}

/* Path and wanted name of a plugin: *wanted is NULL when the file may decide. *kind 0 becomes what
 * the file's name promises, if it does. */
static pico_status locate(pico_registry *registry, uint32_t *kind, const char *name,
                          const char **path, const char **wanted, pico_error *err) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789_-";
    if (strchr(name, '/') == NULL) {
        if (*kind == 0) {
            return pico_fail(err, PICO_E_INVALID,
                             "'%.64s' is no path; without a kind a plugin is named by its file",
                             name);
        }
        if (name[0] == '\0' || name[strspn(name, allowed)] != '\0') {
            return pico_fail(err, PICO_E_INVALID,
                             "[%s] plugin = %.64s: expected a name of lower-case letters, digits, "
                             "'_' and '-', or a path with a '/'%s",
                             pico_kind_name(*kind), name, pico_value_hint(name));
        }
        *wanted = name;
        *path =
            pico_search_find(&registry->search, &registry->arena, pico_kind_prefix(*kind), name);
        return *path == NULL ? pico_registry_not_found(registry, *kind, name, err) : PICO_OK;
    }
    char *resolved = realpath(name, NULL);
    if (resolved == NULL) {
        return pico_fail(err, errno == ENOENT ? PICO_E_NOT_FOUND : PICO_E_IO,
                         "%s: cannot open this plugin: %s%s", name, strerror(errno),
                         pico_value_hint(name));
    }
    *path = pico_arena_strdup(&registry->arena, resolved);
    free(resolved);
    if (*path == NULL) {
        return no_memory(err);
    }
    /* A file named after the kind says which plugin it holds; any other name says nothing. */
    const char *stem = NULL;
    size_t n_stem = 0;
    uint32_t says = pico_file_promises(name, &stem, &n_stem);
    *wanted = NULL;
    if (says != 0 && (*kind == 0 || *kind == says)) {
        *kind = says;
        *wanted = pico_arena_strndup(&registry->arena, stem, n_stem);
        return *wanted == NULL ? no_memory(err) : PICO_OK;
    }
    return PICO_OK;
}

static const pico_loaded *find_loaded(const pico_registry *registry, const char *path,
                                      uint32_t kind, const char *name) {
    for (const loaded_node *node = registry->loaded; node != NULL; node = node->next) {
        if (node->loaded.plugin.kind == kind && strcmp(node->loaded.path, path) == 0 &&
            strcmp(node->loaded.plugin.name, name) == 0) {
            return &node->loaded;
        }
    }
    return NULL;
}

/* Checks a plugin of a file and keeps it, unless it is known already. */
static pico_status keep(pico_registry *registry, const char *path, const pico_plugin *plugin,
                        const pico_loaded **out, pico_error *err) {
    *out = find_loaded(registry, path, plugin->kind, plugin->name);
    if (*out != NULL) {
        return PICO_OK;
    }
    loaded_node *node = pico_arena_alloc(&registry->arena, 1, sizeof *node);
    if (node == NULL) {
        return no_memory(err);
    }
    pico_status status = pico_check_plugin(path, plugin, &node->loaded, err);
    if (status == PICO_OK) {
        node->next = registry->loaded;
        registry->loaded = node;
        *out = &node->loaded;
    }
    return status;
}

pico_status pico_registry_load(pico_registry *registry, uint32_t kind, const char *name,
                               const pico_loaded **out, pico_error *err) {
    const char *path = NULL, *wanted = NULL;
    const pico_plugin *chosen = NULL;
    const pico_loaded *loaded = NULL;
    pico_file_content content;
    int any = kind == 0;
    *out = NULL;
    if (!any && pico_kind_name(kind) == NULL) {
        return pico_fail(err, PICO_E_INVALID, "there is no plugin kind %u", kind);
    }
    pico_status status = locate(registry, &kind, name, &path, &wanted, err);
    if (status == PICO_OK && wanted != NULL && !any) {
        *out = find_loaded(registry, path, kind, wanted);
        if (*out != NULL) {
            return PICO_OK;
        }
    }
    if (status == PICO_OK) {
        status = pico_file_read_plugins(path, &content, err);
    }
    if (status == PICO_OK && kind == 0) {
        chosen = &content.plugin[0];
    } else if (status == PICO_OK) {
        status = choose(path, &content, kind, wanted, &chosen, err);
    }
    for (uint32_t i = 0; status == PICO_OK && any && i < content.n; i++) {
        status = keep(registry, path, &content.plugin[i], &loaded, err);
    }
    return status == PICO_OK ? keep(registry, path, chosen, out, err) : status;
}

static pico_status reserve_instance(pico_registry *registry, pico_error *err) {
    if (registry->n_instances < registry->capacity) {
        return PICO_OK;
    }
    size_t capacity = registry->capacity == 0 ? 16 : registry->capacity * 2;
    pico_instance *grown = realloc(registry->instances, capacity * sizeof *grown);
    if (grown == NULL) {
        return no_memory(err);
    }
    registry->instances = grown;
    registry->capacity = capacity;
    return PICO_OK;
}

/* Calls create and turns what a plugin may forget to say into a message. */
static pico_status call_create(const pico_loaded *loaded, const pico_host *host,
                               const void *options, void **self, pico_error *err) {
    const pico_plugin *plugin = &loaded->plugin;
    pico_error why = {0};
    *self = NULL;
    pico_status status =
        plugin->create(host, plugin->options_bytes == 0 ? NULL : options, self, &why);
    if (status == PICO_OK && *self == NULL) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: create of %s '%s' succeeded without an instance; set *self",
                         loaded->path, pico_kind_name(plugin->kind), plugin->name);
    }
    if (status == PICO_OK) {
        return PICO_OK;
    }
    why.message[sizeof why.message - 1] = '\0';
    return pico_fail(err, status > 0 ? PICO_E_ABI : status,
                     "%s: %s '%s' could not be created: %.300s (status %d)", loaded->path,
                     pico_kind_name(plugin->kind), plugin->name,
                     why.message[0] == '\0' ? "the plugin does not say why" : why.message, status);
}

pico_status pico_registry_create(pico_registry *registry, const pico_config *config, uint32_t kind,
                                 const char *name, const char *section, const pico_host *host,
                                 pico_instance *out, pico_error *err) {
    _Alignas(16) unsigned char options[PICO_MAX_OPTIONS_BYTES];
    const pico_loaded *loaded = NULL;
    void *self = NULL;
    *out = (pico_instance){0};
    pico_status status = pico_registry_load(registry, kind, name, &loaded, err);
    if (status == PICO_OK) {
        const pico_plugin *plugin = &loaded->plugin;
        status = pico_config_bind(config, section, plugin->options, plugin->n_options,
                                  plugin->option_size, options, plugin->options_bytes, err);
    }
    if (status == PICO_OK) {
        status = reserve_instance(registry, err);
    }
    if (status == PICO_OK) {
        status = call_create(loaded, host, options, &self, err);
    }
    if (status == PICO_OK) {
        *out = (pico_instance){loaded, self};
        registry->instances[registry->n_instances++] = *out;
    }
    return status;
}

void pico_registry_destroy(pico_registry *registry, pico_instance *instance) {
    for (size_t i = registry->n_instances; i > 0; i--) {
        pico_instance *at = &registry->instances[i - 1];
        if (at->loaded == instance->loaded && at->self == instance->self) {
            destroy(at);
            memmove(at, at + 1, (registry->n_instances - i) * sizeof *at);
            registry->n_instances--;
            break;
        }
    }
    *instance = (pico_instance){0};
}
