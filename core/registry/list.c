/*
 * What is there to select: listing the search path, and the message for a name that is not on it.
 * It keeps nothing of what it looks at.
 */
#include <string.h>

#include "registry/internal.h"
#include "util/text.h"

uint32_t pico_file_promises(const char *path, const char **name, size_t *n_name) {
    const char *slash = strrchr(path, '/'), *base = slash == NULL ? path : slash + 1;
    size_t n = strlen(base);
    for (uint32_t kind = PICO_KIND_BACKEND; kind <= PICO_KIND_TRAINER; kind++) {
        size_t n_prefix = strlen(pico_kind_prefix(kind));
        if (n > n_prefix + 3 && strncmp(base, pico_kind_prefix(kind), n_prefix) == 0 &&
            strcmp(base + n - 3, ".so") == 0) {
            *name = base + n_prefix;
            *n_name = n - n_prefix - 3;
            return kind;
        }
    }
    return 0;
}

/* Names for a message: "a, b, c", with "..." for what does not fit. */
static void join_names(const char *const *names, size_t n, char *out, size_t size) {
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        size_t more = strlen(names[i]) + (i == 0 ? 0 : 2);
        if (used + more + sizeof ", ..." > size) {
            (void)snprintf(out + used, size - used, "%s...", i == 0 ? "" : ", ");
            return;
        }
        used += (size_t)snprintf(out + used, size - used, "%s%s", i == 0 ? "" : ", ", names[i]);
    }
}

/* The names of the files of a kind on the search path, each once. */
static size_t names_of_kind(pico_registry *registry, uint32_t kind, const char **names,
                            size_t capacity) {
    const char *prefix = pico_kind_prefix(kind);
    size_t n_names = 0, n_prefix = strlen(prefix);
    for (size_t i = 0; i < registry->search.n; i++) {
        const char **paths;
        size_t n;
        if (pico_search_list(&registry->arena, registry->search.folders[i], &paths, &n, NULL) !=
            PICO_OK) {
            continue;
        }
        for (size_t j = 0; j < n && n_names < capacity; j++) {
            const char *base = strrchr(paths[j], '/') + 1;
            char *stem = strncmp(base, prefix, n_prefix) == 0
                             ? pico_arena_strndup(&registry->arena, base + n_prefix,
                                                  strlen(base) - n_prefix - 3)
                             : NULL;
            int known = stem == NULL;
            for (size_t k = 0; k < n_names && !known; k++) {
                known = strcmp(names[k], stem) == 0;
            }
            if (!known) {
                names[n_names++] = stem;
            }
        }
    }
    return n_names;
}

/* The folders come last: where the message is too long for its buffer, they are what is cut. */
pico_status pico_registry_not_found(pico_registry *registry, uint32_t kind, const char *name,
                                    pico_error *err) {
    enum { MAX_NAMES = 128 };
    const char *names[MAX_NAMES], *kind_name = pico_kind_name(kind);
    char folders[256], list[160], hint[192] = "";
    size_t n = names_of_kind(registry, kind, names, MAX_NAMES);
    const char *near = pico_text_nearest(name, names, n);
    if (near != NULL) {
        (void)snprintf(hint, sizeof hint, "; did you mean '%s'?", near);
    }
    for (uint32_t other = PICO_KIND_BACKEND; other <= PICO_KIND_TRAINER && near == NULL; other++) {
        if (pico_search_find(&registry->search, &registry->arena, pico_kind_prefix(other), name) !=
            NULL) {
            (void)snprintf(hint, sizeof hint, ": '%.64s' is a %s and belongs into [%s]", name,
                           pico_kind_noun(other), pico_kind_name(other));
        }
    }
    join_names(names, n, list, sizeof list);
    pico_search_describe(&registry->search, folders, sizeof folders);
    return pico_fail(err, PICO_E_NOT_FOUND,
                     "there is no %s plugin '%.64s'%s%s %s; %s%.64s.so is not in %s%s", kind_name,
                     name, hint, near == NULL ? "; there are" : " There are",
                     n == 0 ? "none of this kind" : list, pico_kind_prefix(kind), name, folders,
                     hint[0] == '\0' ? "; set [host] plugin_path or PICOCHAT_PLUGIN_PATH" : "");
}

/* Whether a plugin is found under the name of its file; else why not, in err. */
static int is_selectable(const char *path, const pico_plugin *plugin, pico_error *err) {
    const char *stem = NULL, *prefix = pico_kind_prefix(plugin->kind), *name = plugin->name;
    const char *kind = pico_kind_name(plugin->kind);
    size_t n_stem = 0;
    uint32_t says = pico_file_promises(path, &stem, &n_stem);
    if (says == plugin->kind && strlen(name) == n_stem && memcmp(stem, name, n_stem) == 0) {
        return 1;
    }
    if (says == plugin->kind) {
        (void)pico_fail(err, PICO_E_ABI,
                        "%s: the file name promises %s '%.*s', found %s '%s'; correct .name or "
                        "rename the file to %s%s.so",
                        path, kind, (int)n_stem, stem, kind, name, prefix, name);
    } else {
        (void)pico_fail(err, PICO_E_ABI,
                        "%s: holds %s '%s', which is looked for in a file of another name; rename "
                        "it to %s%s.so",
                        path, kind, name, prefix, name);
    }
    return 0;
}

/* One file with several plugins is found under several names, by links: each plugin is listed where
 * the name is its own, and refused only in a file whose name fits none of them. */
static void list_file(const char *path, void (*fn)(void *arg, const pico_registry_entry *entry),
                      void *arg) {
    pico_file_content content;
    pico_error why;
    int some = 0;
    if (pico_file_read_plugins(path, &content, &why) != PICO_OK) {
        fn(arg, &(pico_registry_entry){.path = path, .reason = why.message});
        return;
    }
    for (uint32_t i = 0; i < content.n; i++) {
        some |= is_selectable(path, &content.plugin[i], NULL);
    }
    for (uint32_t i = 0; i < content.n; i++) {
        pico_loaded checked;
        pico_registry_entry entry = {.path = path, .plugin = &content.plugin[i]};
        int selectable = is_selectable(path, &content.plugin[i], &why);
        if (some && !selectable) {
            continue;
        }
        if (!selectable || pico_check_plugin(path, &content.plugin[i], &checked, &why) != PICO_OK) {
            entry = (pico_registry_entry){.path = path, .reason = why.message};
        }
        fn(arg, &entry);
    }
}

const char *pico_registry_folder(const pico_registry *registry, size_t index) {
    return index < registry->search.n ? registry->search.folders[index] : NULL;
}

pico_status pico_registry_list(pico_registry *registry,
                               void (*fn)(void *arg, const pico_registry_entry *entry), void *arg,
                               pico_error *err) {
    pico_status status = PICO_OK;
    for (size_t i = 0; i < registry->search.n && status == PICO_OK; i++) {
        const char **paths;
        size_t n;
        status = pico_search_list(&registry->arena, registry->search.folders[i], &paths, &n, err);
        for (size_t j = 0; j < n && status == PICO_OK; j++) {
            list_file(paths[j], fn, arg);
        }
    }
    return status;
}
