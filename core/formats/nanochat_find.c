/*
 * Where the files of a nanochat checkpoint lie: model_NNNNNN.pt with meta_NNNNNN.json beside it.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/nanochat.h"
#include "formats/reader.h"

enum { MAX_META_BYTES = 1 << 20 };

int pico_torch_detect(const pico_map *map) {
    return map->size >= 4 && map->data[0] == 'P' && map->data[1] == 'K' && map->data[2] == 3 &&
           map->data[3] == 4;
}

/* The digits of model_DIGITS.pt; 0 if the name is another. */
static size_t step_digits(const char *name, const char **digits) {
    static const char begin[] = "model_";
    if (strncmp(name, begin, sizeof begin - 1) != 0) {
        return 0;
    }
    *digits = name + sizeof begin - 1;
    size_t n = strspn(*digits, "0123456789");
    return strcmp(*digits + n, ".pt") == 0 ? n : 0;
}

static const char *meta_path_of(const char *path, pico_arena *arena) {
    const char *slash = strrchr(path, '/'), *name = slash == NULL ? path : slash + 1, *digits;
    int folder = (int)(name - path);
    size_t n = step_digits(name, &digits);
    return n == 0 ? pico_arena_printf(arena, "%.*smeta_XXXXXX.json (and the name model_XXXXXX.pt)",
                                      folder, path)
                  : pico_arena_printf(arena, "%.*smeta_%.*s.json", folder, path, (int)n, digits);
}

/* An empty file has no map, but it is there. */
static const char *text_of(const pico_map *map) {
    return map->data == NULL ? "" : (const char *)map->data;
}

pico_status pico_nanochat_open(const char *path, uint32_t generation, pico_model_file *file,
                               pico_error *err) {
    pico_nanochat_source source = {.path = path};
    pico_map meta = {0};
    source.meta_path = meta_path_of(path, &file->arena);
    if (source.meta_path == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "%.200s: out of memory", path);
    }
    pico_status status = pico_map_open(path, &source.map, err);
    if (status == PICO_OK) {
        status = pico_map_open(source.meta_path, &meta, err);
        source.meta = status == PICO_OK ? text_of(&meta) : NULL;
        source.n_meta = (size_t)meta.size;
        status = status == PICO_E_NOT_FOUND ? PICO_OK : status; /* an int8 export needs none */
    }
    if (status == PICO_OK && meta.size > MAX_META_BYTES) {
        status = pico_fail(err, PICO_E_LIMIT, "%.200s: %llu bytes, expected at most %d",
                           source.meta_path, (unsigned long long)meta.size, MAX_META_BYTES);
    }
    if (status == PICO_OK) {
        status = pico_nanochat_read(&source, generation, file, err);
    }
    pico_map_close(&meta);
    pico_map_close(&source.map);
    return status;
}

/* ---- folders ---- */

typedef struct finder {
    pico_arena *arena;
    const char *best, *other; /* model_*.pt of the largest step; another *.pt */
    uint64_t best_step;
    uint32_t n_other;
    int failed;
} finder;

static void consider(finder *f, const char *name) {
    const char *digits;
    size_t length = strlen(name), n = step_digits(name, &digits);
    if (length < 4 || strcmp(name + length - 3, ".pt") != 0 || name[0] == '.' ||
        strncmp(name, "optim_", 6) == 0 || strncmp(name, "token_bytes", 11) == 0) {
        return; /* the state of the optimiser, and what lies beside a tokenizer */
    }
    if (n == 0) {
        f->other = f->n_other++ == 0 ? pico_arena_strdup(f->arena, name) : f->other;
        f->failed |= f->other == NULL;
        return;
    }
    uint64_t step = strtoull(digits, NULL, 10);
    if (f->best == NULL || step > f->best_step) {
        f->best = pico_arena_strdup(f->arena, name);
        f->best_step = step;
        f->failed |= f->best == NULL;
    }
}

pico_status pico_nanochat_find(const char *folder, pico_arena *arena, const char **out,
                               pico_error *err) {
    finder f = {.arena = arena};
    *out = NULL;
    DIR *dir = opendir(folder);
    if (dir == NULL) {
        return pico_fail(err, PICO_E_IO, "%.200s: cannot list it: %s", folder, strerror(errno));
    }
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        consider(&f, entry->d_name);
    }
    (void)closedir(dir);
    const char *name = f.best != NULL ? f.best : f.other;
    if (name == NULL && !f.failed) {
        return pico_fail(err, PICO_E_NOT_FOUND, "%.200s: no checkpoint (model_*.pt)", folder);
    }
    if (f.best == NULL && f.n_other > 1) {
        return pico_fail(err, PICO_E_INVALID,
                         "%.200s: %u .pt files and no model_*.pt: name the one to open", folder,
                         f.n_other);
    }
    *out = f.failed ? NULL : pico_arena_printf(arena, "%s/%s", folder, name);
    return *out != NULL ? PICO_OK : pico_fail(err, PICO_E_NOMEM, "%.200s: out of memory", folder);
}
