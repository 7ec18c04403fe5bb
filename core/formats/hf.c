/*
 * Hugging Face folders: config.json, and the weights in model.safetensors or in the files that
 * model.safetensors.index.json names; see reader.h. Files outside of the folder are never opened.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/hf.h"

enum { MAX_PARTS = 1024, MAX_PART_NAME = 200 };
static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

/* ---- on memory ---- */

static int compare_names(const void *a, const void *b) {
    const pico_st_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* The tensors of all parts in one list, sorted by name. */
static pico_status join(const pico_safetensors *parts, size_t n_part, pico_arena *arena,
                        pico_safetensors *out, pico_error *err) {
    uint64_t total = 0;
    *out = (pico_safetensors){0};
    for (size_t i = 0; i < n_part; i++) {
        total += parts[i].n;
    }
    if (total > UINT32_MAX) {
        return pico_fail(err, PICO_E_LIMIT, "too many tensors");
    }
    out->tensor = pico_arena_alloc(arena, (size_t)total, sizeof *out->tensor);
    if (out->tensor == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for %llu tensors",
                         (unsigned long long)total);
    }
    for (size_t i = 0; i < n_part; i++) {
        for (uint32_t j = 0; j < parts[i].n; j++) {
            out->tensor[out->n++] = parts[i].tensor[j];
        }
    }
    if (out->n > 0) {
        qsort(out->tensor, out->n, sizeof *out->tensor, compare_names);
    }
    for (uint32_t i = 1; i < out->n; i++) {
        const pico_st_tensor *a = &out->tensor[i - 1], *b = &out->tensor[i];
        if (strcmp(a->name, b->name) == 0) {
            return pico_fail(err, PICO_E_CORRUPT, "%.200s: tensor %.80s is also in %.120s", a->path,
                             a->name, b->path);
        }
    }
    return PICO_OK;
}

static pico_status read_parts(const pico_source *part, size_t n_part, pico_arena *arena,
                              pico_safetensors *out, pico_error *err) {
    pico_safetensors *parts = pico_arena_alloc(arena, n_part, sizeof *parts);
    if (parts == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for %zu files", n_part);
    }
    for (size_t i = 0; i < n_part; i++) {
        pico_error inner = {0};
        pico_status status = pico_safetensors_read(&part[i], arena, &parts[i], &inner);
        if (status != PICO_OK) {
            return pico_in_file(part[i].path, status, &inner, err);
        }
    }
    return join(parts, n_part, arena, out, err);
}

static pico_status read_config(const pico_source *source, const pico_hf_family **family,
                               pico_model_file *file, pico_error *err) {
    json_t *config = NULL;
    pico_error inner = {0};
    pico_status status = pico_json_object(source->map.data, source->map.size, &config, &inner);
    if (status == PICO_OK) {
        status = pico_hf_family_of(config, family, &inner);
    }
    if (status == PICO_OK) {
        status = (*family)->describe(config, &file->arena, &file->desc, &inner);
    }
    if (status == PICO_OK) {
        status = pico_desc_check(&file->desc, &inner);
    }
    json_decref(config);
    return pico_in_file(source->path, status, &inner, err);
}

static pico_status take_tensors(const pico_hf_family *family, const pico_safetensors *list,
                                pico_model_file *file, pico_error *err) {
    pico_error inner = {0};
    file->format = PICO_FORMAT_SAFETENSORS;
    file->format_name = "safetensors";
    pico_status status = pico_hf_take_tensors(family, list, file, err);
    if (status == PICO_OK) {
        status = pico_in_file(file->path, pico_expect_match(file, &inner), &inner, err);
    }
    return status;
}

pico_status pico_hf_read(const pico_source *config, const pico_source *part, size_t n_part,
                         pico_model_file *file, pico_error *err) {
    const pico_hf_family *family = NULL;
    pico_safetensors list;
    pico_status status = read_config(config, &family, file, err);
    if (status == PICO_OK) {
        status = read_parts(part, n_part, &file->arena, &list, err);
    }
    return status == PICO_OK ? take_tensors(family, &list, file, err) : status;
}

/* ---- files ---- */

typedef struct folder {
    const char *path;
    pico_model_file *file;
    const char **part; /* (n_part) paths */
    size_t n_part;
} folder;

static pico_status no_memory(const folder *f, pico_error *err) {
    return pico_fail(err, PICO_E_NOMEM, "%.200s: out of memory", f->path);
}

/* A name that stays inside the folder. */
static int is_plain_name(const char *name) {
    size_t n = strlen(name);
    return n > 0 && n <= MAX_PART_NAME && name[0] != '.' && strchr(name, '/') == NULL;
}

static pico_status add_part(folder *f, const char *name, pico_error *err) {
    char *path = pico_arena_printf(&f->file->arena, "%s/%s", f->path, name);
    if (path == NULL) {
        return no_memory(f, err);
    }
    if (f->n_part == MAX_PARTS) {
        return pico_fail(err, PICO_E_LIMIT, "more than %d files", MAX_PARTS);
    }
    f->part[f->n_part++] = path;
    return PICO_OK;
}

static int has_part(const folder *f, const char *name) {
    size_t base = strlen(f->path) + 1;
    for (size_t i = f->n_part; i-- > 0;) { /* tensors of a part usually follow each other */
        if (strcmp(f->part[i] + base, name) == 0) {
            return 1;
        }
    }
    return 0;
}

static pico_status add_shards(folder *f, const json_t *index, pico_error *err) {
    const json_t *map = NULL, *shard;
    const char *tensor;
    pico_status status =
        pico_json_child(index, "weight_map", PICO_JSON_REQUIRED, JSON_OBJECT, &map, err);
    json_object_foreach((json_t *)(uintptr_t)map, tensor, shard) {
        const char *name = json_string_value(shard);
        if (name == NULL || !is_plain_name(name)) {
            return pico_fail(err, PICO_E_CORRUPT,
                             "key \"weight_map\": tensor %.80s is in \"%.80s\", expected the plain "
                             "name of a file in this folder",
                             tensor, name == NULL ? pico_json_type_name(shard) : name);
        }
        if (!has_part(f, name)) {
            status = add_part(f, name, err);
        }
        if (status != PICO_OK) {
            return status;
        }
    }
    if (status == PICO_OK && f->n_part == 0) {
        status = pico_fail(err, PICO_E_CORRUPT, "key \"weight_map\" names no file");
    }
    return status;
}

static pico_status read_index(folder *f, const char *path, pico_error *err) {
    pico_map map = {0};
    json_t *index = NULL;
    pico_error inner = {0};
    pico_status status = pico_map_open(path, &map, err);
    if (status != PICO_OK) {
        return status;
    }
    status = pico_json_object(map.data, map.size, &index, &inner);
    if (status == PICO_OK) {
        status = add_shards(f, index, &inner);
    }
    json_decref(index);
    pico_map_close(&map);
    return pico_in_file(path, status, &inner, err);
}

static pico_status find_parts(folder *f, pico_error *err) {
    pico_arena *arena = &f->file->arena;
    const char *single = pico_arena_printf(arena, "%s/%s", f->path, single_name);
    const char *index = pico_arena_printf(arena, "%s/%s", f->path, index_name);
    const char *torch = pico_arena_printf(arena, "%s/pytorch_model.bin", f->path);
    if (single == NULL || index == NULL || torch == NULL) {
        return no_memory(f, err);
    }
    if (pico_is_file(single)) {
        return add_part(f, single_name, err);
    }
    if (pico_is_file(index)) {
        return read_index(f, index, err);
    }
    return pico_fail(
        err, PICO_E_UNSUPPORTED, "%.200s: the folder has config.json, but neither %s nor %s%s",
        f->path, single_name, index_name,
        pico_is_file(torch) ? " (pytorch_model.bin is not read: save the model again with "
                              "safe_serialization=True)"
                            : "");
}

static pico_status read_folder(folder *f, const char *config_path, const pico_map *config,
                               pico_error *err) {
    pico_source *sources = pico_arena_alloc(&f->file->arena, f->n_part, sizeof *sources);
    if (sources == NULL) {
        return no_memory(f, err);
    }
    for (size_t i = 0; i < f->n_part; i++) {
        pico_map map = {0};
        pico_status status = pico_map_open(f->part[i], &map, err);
        sources[i] = (pico_source){.path = f->part[i], .map = map};
        if (status == PICO_OK) {
            status = pico_model_file_keep(f->file, &map, err);
        }
        if (status != PICO_OK) {
            return status;
        }
    }
    const pico_source source = {.path = config_path, .map = *config};
    return pico_hf_read(&source, sources, f->n_part, f->file, err);
}

pico_status pico_hf_open(const char *path, int is_folder, pico_model_file *file, pico_error *err) {
    pico_arena *arena = &file->arena;
    folder f = {.path = is_folder ? path : pico_folder_of(path, arena),
                .file = file,
                .part = pico_arena_alloc(arena, MAX_PARTS, sizeof *f.part)};
    const char *config_path =
        f.path == NULL ? NULL : pico_arena_printf(arena, "%s/config.json", f.path);
    pico_map config = {0};
    pico_status status = PICO_OK;
    if (config_path == NULL || f.part == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "%.200s: out of memory", path);
    }
    if (!pico_is_file(config_path)) {
        return pico_fail(err, PICO_E_NOT_FOUND,
                         "%.200s: there is no such file; the shapes of a safetensors model are in "
                         "the config.json beside it",
                         config_path);
    }
    if (is_folder) {
        status = find_parts(&f, err);
    } else {
        f.part[f.n_part++] = path;
    }
    if (status == PICO_OK) {
        status = pico_map_open(config_path, &config, err);
    }
    if (status == PICO_OK) {
        status = read_folder(&f, config_path, &config, err);
    }
    pico_map_close(&config);
    return status;
}
