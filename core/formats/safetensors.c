/*
 * The reader of safetensors; see safetensors.h. It works on memory and refuses headers beyond the
 * format's limit. Types that are not floating point are let through by name, with their bytes, so
 * that whoever ignores such a tensor can.
 */
#include "formats/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "formats/hf_json.h"
#include "util/checked.h"

enum { LENGTH_BYTES = 8 };

static const struct {
    const char *name;
    uint32_t bytes, dtype;
} types[] = {
    {"F32", 4, PICO_DTYPE_F32},      {"F16", 2, PICO_DTYPE_F16},   {"BF16", 2, PICO_DTYPE_BF16},
    {"F64", 8, PICO_DTYPE_NONE},     {"I64", 8, PICO_DTYPE_NONE},  {"U64", 8, PICO_DTYPE_NONE},
    {"C64", 8, PICO_DTYPE_NONE},     {"I32", 4, PICO_DTYPE_NONE},  {"U32", 4, PICO_DTYPE_NONE},
    {"I16", 2, PICO_DTYPE_NONE},     {"U16", 2, PICO_DTYPE_NONE},  {"I8", 1, PICO_DTYPE_NONE},
    {"U8", 1, PICO_DTYPE_NONE},      {"BOOL", 1, PICO_DTYPE_NONE}, {"F8_E5M2", 1, PICO_DTYPE_NONE},
    {"F8_E4M3", 1, PICO_DTYPE_NONE},
};

static uint64_t header_length(const pico_map *map) {
    uint64_t n = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0 && map->size >= LENGTH_BYTES; i--) {
        n = n << 8 | map->data[i];
    }
    return n;
}

int pico_safetensors_detect(const pico_map *map) {
    uint64_t n = header_length(map);
    return n >= 2 && n <= PICO_ST_MAX_HEADER && map->size > LENGTH_BYTES &&
           map->data[LENGTH_BYTES] == '{';
}

static pico_status read_header(const pico_map *map, json_t **header, uint64_t *data_start,
                               pico_error *err) {
    uint64_t n = header_length(map);
    if (!pico_safetensors_detect(map)) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "not safetensors: expected the length of a header, 2 to %d, and a JSON "
                         "object; found a length of %llu in a file of %llu bytes",
                         PICO_ST_MAX_HEADER, (unsigned long long)n, (unsigned long long)map->size);
    }
    if (n > map->size - LENGTH_BYTES) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "the header has %llu bytes, but the file ends after %llu of them: "
                         "truncated",
                         (unsigned long long)n, (unsigned long long)(map->size - LENGTH_BYTES));
    }
    pico_error inner = {0};
    pico_status status = pico_json_object(map->data + LENGTH_BYTES, n, header, &inner);
    *data_start = LENGTH_BYTES + n;
    return status == PICO_OK ? PICO_OK : pico_fail(err, status, "header: %s", inner.message);
}

static pico_status read_shape(const json_t *info, pico_st_tensor *tensor, uint64_t *elements,
                              pico_error *err) {
    const json_t *shape = NULL;
    pico_status status =
        pico_json_child(info, "shape", PICO_JSON_REQUIRED, JSON_ARRAY, &shape, err);
    if (status != PICO_OK) {
        return status;
    }
    size_t rank = json_array_size(shape);
    if (rank > PICO_ST_MAX_RANK) {
        return pico_fail(err, PICO_E_UNSUPPORTED, "%zu dimensions, at most %d are read", rank,
                         PICO_ST_MAX_RANK);
    }
    *elements = 1;
    tensor->rank = (uint32_t)rank;
    for (size_t i = 0; i < rank; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0) {
            return pico_fail(err, PICO_E_CORRUPT,
                             "dimension %zu of the shape is not a count, but %s", i,
                             json_is_integer(size) ? "negative" : pico_json_type_name(size));
        }
        tensor->shape[i] = json_integer_value(size);
        if (!pico_checked_mul(*elements, (uint64_t)tensor->shape[i], elements)) {
            return pico_fail(err, PICO_E_CORRUPT, "the shape has more than 2^64 elements");
        }
    }
    return PICO_OK;
}

/* Where the data lie; also whether their size fits the shape. */
static pico_status read_data(const json_t *info, const pico_map *map, uint64_t data_start,
                             uint64_t elements, uint32_t element_bytes, pico_st_tensor *tensor,
                             pico_error *err) {
    const json_t *offsets = NULL;
    uint64_t room = map->size - data_start, bytes = 0;
    pico_status status =
        pico_json_child(info, "data_offsets", PICO_JSON_REQUIRED, JSON_ARRAY, &offsets, err);
    if (status != PICO_OK) {
        return status;
    }
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last)) {
        return pico_fail(err, PICO_E_CORRUPT, "key \"data_offsets\" is not a list of two integers");
    }
    json_int_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin || (uint64_t)end > room) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "its data go from %lld to %lld, but the file has %llu bytes of data%s",
                         (long long)begin, (long long)end, (unsigned long long)room,
                         begin >= 0 && end >= begin ? ": truncated?" : "");
    }
    tensor->data = map->data + data_start + begin;
    tensor->bytes = (uint64_t)(end - begin);
    if (element_bytes != 0 &&
        (!pico_checked_mul(elements, element_bytes, &bytes) || bytes != tensor->bytes)) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "%llu bytes of data, but %llu elements of type %.16s take %llu",
                         (unsigned long long)tensor->bytes, (unsigned long long)elements,
                         tensor->type, (unsigned long long)bytes);
    }
    return PICO_OK;
}

static pico_status read_tensor(const json_t *info, const pico_source *source, uint64_t data_start,
                               pico_arena *arena, pico_st_tensor *tensor, pico_error *err) {
    const char *type = "";
    uint64_t elements = 0;
    uint32_t element_bytes = 0;
    if (!json_is_object(info)) {
        return pico_fail(err, PICO_E_CORRUPT, "%s, expected an object", pico_json_type_name(info));
    }
    pico_status status = pico_json_text(info, "dtype", PICO_JSON_REQUIRED, &type, err);
    if (status != PICO_OK) {
        return status;
    }
    tensor->type = pico_arena_strdup(arena, type);
    tensor->path = source->path;
    if (tensor->type == NULL || tensor->name == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(types[i].name, type) == 0) {
            tensor->dtype = types[i].dtype;
            element_bytes = types[i].bytes;
        }
    }
    status = read_shape(info, tensor, &elements, err);
    return status == PICO_OK
               ? read_data(info, &source->map, data_start, elements, element_bytes, tensor, err)
               : status;
}

static int compare_data(const void *a, const void *b) {
    const pico_st_tensor *x = a, *y = b;
    if (x->data != y->data) {
        return x->data < y->data ? -1 : 1;
    }
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty ones first */
}

/* The format wants every byte of the data to belong to exactly one tensor. */
static pico_status check_layout(const pico_safetensors *list, const pico_map *map,
                                uint64_t data_start, pico_error *err) {
    uint64_t at = data_start;
    const char *before = "the header";
    for (uint32_t i = 0; i < list->n; i++) {
        const pico_st_tensor *tensor = &list->tensor[i];
        uint64_t begin = (uint64_t)(tensor->data - map->data);
        if (begin != at) {
            return pico_fail(err, PICO_E_CORRUPT,
                             "tensor %.80s: its data begin at offset %llu, %s %.80s, which ends "
                             "at %llu",
                             tensor->name, (unsigned long long)begin,
                             begin < at ? "inside the data of" : "and leave a gap after", before,
                             (unsigned long long)at);
        }
        at = begin + tensor->bytes;
        before = tensor->name;
    }
    if (at != map->size) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "%llu bytes are left over after the last tensor, which ends at offset "
                         "%llu",
                         (unsigned long long)(map->size - at), (unsigned long long)at);
    }
    return PICO_OK;
}

static pico_status read_all(json_t *header, const pico_source *source, uint64_t data_start,
                            pico_arena *arena, pico_safetensors *out, pico_error *err) {
    const char *key;
    json_t *info;
    pico_error inner = {0};
    out->tensor = pico_arena_alloc(arena, json_object_size(header), sizeof *out->tensor);
    if (out->tensor == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for %zu tensors",
                         json_object_size(header));
    }
    json_object_foreach(header, key, info) {
        if (strcmp(key, "__metadata__") == 0) {
            continue;
        }
        pico_st_tensor *tensor = &out->tensor[out->n++];
        tensor->name = pico_arena_strdup(arena, key);
        pico_status status = read_tensor(info, source, data_start, arena, tensor, &inner);
        if (status != PICO_OK) {
            return pico_fail(err, status, "tensor %.120s: %s", key, inner.message);
        }
    }
    if (out->n > 0) {
        qsort(out->tensor, out->n, sizeof *out->tensor, compare_data);
    }
    return check_layout(out, &source->map, data_start, err);
}

pico_status pico_safetensors_read(const pico_source *source, pico_arena *arena,
                                  pico_safetensors *out, pico_error *err) {
    json_t *header = NULL;
    uint64_t data_start = 0;
    *out = (pico_safetensors){0};
    pico_status status = read_header(&source->map, &header, &data_start, err);
    if (status == PICO_OK) {
        status = read_all(header, source, data_start, arena, out, err);
    }
    json_decref(header);
    return status;
}
