/* Search path and listing of folders; see search.h. Never looks into the working directory. */
#include "registry/search.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pico_status no_memory(pico_error *err) {
    return pico_fail(err, PICO_E_NOMEM, "out of memory for the plugin search path");
}

static pico_status add_folder(pico_search *search, pico_arena *arena, const char *folder, size_t n,
                              const char *origin, pico_error *err) {
    while (n > 1 && folder[n - 1] == '/') {
        n--;
    }
    if (n == 0) {
        return PICO_OK;
    }
    if (folder[0] != '/') {
        return pico_fail(err, PICO_E_INVALID,
                         "%s: '%.*s' is a relative folder; plugins are only looked for in absolute "
                         "ones, so that the working directory never decides what is run",
                         origin, (int)(n > 200 ? 200 : n), folder);
    }
    for (size_t i = 0; i < search->n; i++) {
        if (strlen(search->folders[i]) == n && memcmp(search->folders[i], folder, n) == 0) {
            return PICO_OK;
        }
    }
    if (search->n == PICO_MAX_FOLDERS) {
        return pico_fail(err, PICO_E_LIMIT, "%s: more than %d folders", origin, PICO_MAX_FOLDERS);
    }
    search->folders[search->n] = pico_arena_strndup(arena, folder, n);
    return search->folders[search->n++] == NULL ? no_memory(err) : PICO_OK;
}

static pico_status add_list(pico_search *search, pico_arena *arena, const char *list,
                            const char *origin, pico_error *err) {
    pico_status status = PICO_OK;
    while (list != NULL && status == PICO_OK) {
        const char *colon = strchr(list, ':');
        size_t n = colon == NULL ? strlen(list) : (size_t)(colon - list);
        status = add_folder(search, arena, list, n, origin, err);
        list = colon == NULL ? NULL : colon + 1;
    }
    return status;
}

/* The folder of the running program; NULL where /proc does not say. */
static const char *executable_folder(pico_arena *arena) {
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path);
    if (n <= 0 || n == (ssize_t)sizeof path) {
        return NULL;
    }
    while (n > 1 && path[n - 1] != '/') {
        n--;
    }
    return pico_arena_strndup(arena, path, (size_t)n);
}

pico_status pico_search_make(pico_arena *arena, const char *first, const char *origin,
                             pico_search *out, pico_error *err) {
    out->n = 0;
    pico_status status = add_list(out, arena, first, origin, err);
    if (status == PICO_OK) {
        status = add_list(out, arena, getenv("PICOCHAT_PLUGIN_PATH"), "PICOCHAT_PLUGIN_PATH", err);
    }
    const char *beside = executable_folder(arena);
    if (status == PICO_OK && beside != NULL) {
        const char *folder = pico_arena_printf(arena, "%splugins", beside);
        status = folder == NULL ? no_memory(err)
                                : add_folder(out, arena, folder, strlen(folder), "plugins", err);
    }
#ifdef PICO_PLUGIN_DIR
    /* Absolute, or relative to the program, so that an installed tree can be moved. */
    if (status == PICO_OK && (PICO_PLUGIN_DIR[0] == '/' || beside != NULL)) {
        const char *folder = pico_arena_printf(
            arena, "%s%s", PICO_PLUGIN_DIR[0] == '/' ? "" : beside, PICO_PLUGIN_DIR);
        status = folder == NULL ? no_memory(err)
                                : add_folder(out, arena, folder, strlen(folder), "install", err);
    }
#endif
    return status;
}

const char *pico_search_find(const pico_search *search, pico_arena *arena, const char *prefix,
                             const char *name) {
    for (size_t i = 0; i < search->n; i++) {
        const char *path = pico_arena_printf(arena, "%s/%s%s.so", search->folders[i], prefix, name);
        if (path != NULL && access(path, F_OK) == 0) {
            return path;
        }
    }
    return NULL;
}

void pico_search_describe(const pico_search *search, char *out, size_t size) {
    size_t used = 0;
    (void)snprintf(out, size, "no folder at all");
    for (size_t i = 0; i < search->n && used < size; i++) {
        int n = snprintf(out + used, size - used, "%s%s", i == 0 ? "" : ", ", search->folders[i]);
        used += n < 0 ? size : (size_t)n;
    }
}

static int compare_paths(const void *a, const void *b) {
    const char *left, *right;
    memcpy(&left, a, sizeof left);
    memcpy(&right, b, sizeof right);
    return strcmp(left, right);
}

static int is_shared_object(const char *name) {
    size_t n = strlen(name);
    return n > 3 && strcmp(name + n - 3, ".so") == 0 && name[0] != '.';
}

pico_status pico_search_list(pico_arena *arena, const char *folder, const char ***paths, size_t *n,
                             pico_error *err) {
    const char **list = NULL;
    size_t used = 0, capacity = 0;
    pico_status status = PICO_OK;
    *paths = NULL;
    *n = 0;
    DIR *dir = opendir(folder);
    if (dir == NULL) {
        return errno == ENOENT || errno == ENOTDIR
                   ? PICO_OK
                   : pico_fail(err, PICO_E_IO, "%s: cannot list this folder: %s", folder,
                               strerror(errno));
    }
    for (struct dirent *item = readdir(dir); item != NULL; item = readdir(dir)) {
        if (!is_shared_object(item->d_name)) {
            continue;
        }
        if (used == capacity) {
            capacity = capacity == 0 ? 16 : capacity * 2;
            const char **grown = realloc(list, capacity * sizeof *grown);
            if (grown == NULL) {
                status = no_memory(err);
                goto cleanup;
            }
            list = grown;
        }
        list[used] = pico_arena_printf(arena, "%s/%s", folder, item->d_name);
        if (list[used++] == NULL) {
            status = no_memory(err);
            goto cleanup;
        }
    }
    const char **copy = pico_arena_alloc(arena, used, sizeof *copy);
    if (copy == NULL) {
        status = no_memory(err);
        goto cleanup;
    }
    if (used != 0) {
        qsort(list, used, sizeof *list, compare_paths);
        memcpy(copy, list, used * sizeof *copy);
    }
    *paths = copy;
    *n = used;
cleanup:
    free(list);
    (void)closedir(dir);
    return status;
}
