/*
 * The GGUF container: header and keys. Version 3, and 2, which has the same layout. Every length,
 * count and product is compared with what is left of the file before it is used. Refused: version
 * 1, big-endian files, files split in several, nested arrays, duplicate keys.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/gguf.h"
#include "util/checked.h"

enum { MIN_VALUE_BYTES = 8 + 1 + 4 + 1, MAX_KEY = 65535, MAX_ALIGNMENT = 1 << 20 };

static const unsigned char type_width[PICO_GGUF_N_TYPE] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

int pico_gguf_detect(const pico_map *map) {
    return map->size >= 4 && memcmp(map->data, "GGUF", 4) == 0;
}

pico_status pico_gguf_take(pico_gguf_cursor *cursor, uint64_t n, const char *what,
                           const unsigned char **out) {
    uint64_t left = cursor->size - cursor->at;
    *out = cursor->data + cursor->at;
    if (n > left) {
        return pico_fail(cursor->err, PICO_E_CORRUPT,
                         "%s at offset %llu needs %llu bytes, the file has %llu left", what,
                         (unsigned long long)cursor->at, (unsigned long long)n,
                         (unsigned long long)left);
    }
    cursor->at += n;
    return PICO_OK;
}

pico_status pico_gguf_take_u32(pico_gguf_cursor *cursor, const char *what, uint32_t *out) {
    const unsigned char *p;
    *out = 0;
    pico_status status = pico_gguf_take(cursor, sizeof *out, what, &p);
    if (status == PICO_OK) {
        memcpy(out, p, sizeof *out);
    }
    return status;
}

pico_status pico_gguf_take_u64(pico_gguf_cursor *cursor, const char *what, uint64_t *out) {
    const unsigned char *p;
    *out = 0;
    pico_status status = pico_gguf_take(cursor, sizeof *out, what, &p);
    if (status == PICO_OK) {
        memcpy(out, p, sizeof *out);
    }
    return status;
}

pico_status pico_gguf_take_name(pico_gguf_cursor *cursor, const char *what, uint64_t max,
                                pico_arena *arena, const char **out) {
    uint64_t at = cursor->at, n;
    const unsigned char *p;
    pico_status status = pico_gguf_take_u64(cursor, what, &n);
    if (status != PICO_OK) {
        return status;
    }
    if (n == 0 || n > max) {
        return pico_fail(cursor->err, PICO_E_CORRUPT,
                         "%s at offset %llu has %llu characters, expected 1 to %llu", what,
                         (unsigned long long)at, (unsigned long long)n, (unsigned long long)max);
    }
    status = pico_gguf_take(cursor, n, what, &p);
    for (uint64_t i = 0; status == PICO_OK && i < n; i++) {
        if (p[i] <= 0x20 || p[i] >= 0x7f) {
            status = pico_fail(cursor->err, PICO_E_CORRUPT,
                               "%s at offset %llu contains the byte 0x%02x, expected printable "
                               "ASCII",
                               what, (unsigned long long)at, p[i]);
        }
    }
    if (status == PICO_OK) {
        *out = pico_arena_strndup(arena, (const char *)p, (size_t)n);
        status = *out == NULL ? pico_fail(cursor->err, PICO_E_NOMEM, "out of memory") : PICO_OK;
    }
    return status;
}

/* ---- keys ---- */

static pico_status skip_strings(pico_gguf_cursor *cursor, const pico_gguf_value *value) {
    char what[160];
    (void)snprintf(what, sizeof what, "a string of key %.100s", value->key);
    for (uint64_t i = 0; i < value->n; i++) {
        const unsigned char *p;
        uint64_t n;
        pico_status status = pico_gguf_take_u64(cursor, what, &n);
        if (status == PICO_OK) {
            status = pico_gguf_take(cursor, n, what, &p);
        }
        if (status != PICO_OK) {
            return status;
        }
    }
    return PICO_OK;
}

/* The values themselves: everything that the getters rely on is checked here. */
static pico_status read_payload(pico_gguf_cursor *cursor, pico_gguf_value *value) {
    const unsigned char *p;
    char what[160];
    uint64_t bytes;
    (void)snprintf(what, sizeof what, "the value of key %.100s", value->key);
    value->data = cursor->data + cursor->at;
    if (value->type == PICO_GGUF_STRING) {
        return skip_strings(cursor, value);
    }
    if (!pico_checked_mul(value->n, type_width[value->type], &bytes)) {
        return pico_fail(cursor->err, PICO_E_CORRUPT, "key %.100s: %llu elements are impossible",
                         value->key, (unsigned long long)value->n);
    }
    pico_status status = pico_gguf_take(cursor, bytes, what, &p);
    for (uint64_t i = 0; status == PICO_OK && value->type == PICO_GGUF_BOOL && i < bytes; i++) {
        if (p[i] > 1) {
            status =
                pico_fail(cursor->err, PICO_E_CORRUPT,
                          "key %.100s: a bool is stored as %u, expected 0 or 1", value->key, p[i]);
        }
    }
    return status;
}

static pico_status read_value(pico_gguf *gguf, pico_gguf_cursor *cursor, pico_gguf_value *value) {
    pico_status status = pico_gguf_take_name(cursor, "a key", MAX_KEY, gguf->arena, &value->key);
    if (status == PICO_OK) {
        status = pico_gguf_take_u32(cursor, "the type of a value", &value->type);
    }
    value->n = 1;
    if (status == PICO_OK && value->type == PICO_GGUF_ARRAY) {
        value->is_array = 1;
        status = pico_gguf_take_u32(cursor, "the type of an array", &value->type);
        if (status == PICO_OK) {
            status = pico_gguf_take_u64(cursor, "the length of an array", &value->n);
        }
    }
    if (status != PICO_OK) {
        return status;
    }
    if (value->type == PICO_GGUF_ARRAY) {
        return pico_fail(cursor->err, PICO_E_UNSUPPORTED,
                         "key %.200s: arrays of arrays are not supported", value->key);
    }
    if (value->type >= PICO_GGUF_N_TYPE) {
        return pico_fail(cursor->err, PICO_E_CORRUPT,
                         "key %.200s has value type %u, expected 0 to %d", value->key, value->type,
                         PICO_GGUF_N_TYPE - 1);
    }
    return read_payload(cursor, value);
}

static int compare_keys(const void *a, const void *b) {
    const pico_gguf_value *x = a;
    const pico_gguf_value *y = b;
    return strcmp(x->key, y->key);
}

static pico_status read_values(pico_gguf *gguf, pico_gguf_cursor *cursor) {
    pico_status status = PICO_OK;
    uint64_t n = gguf->n_value, left = cursor->size - cursor->at;
    if (n > left / MIN_VALUE_BYTES) {
        return pico_fail(cursor->err, PICO_E_CORRUPT,
                         "the header promises %llu keys, which do not fit into the %llu bytes left",
                         (unsigned long long)n, (unsigned long long)left);
    }
    gguf->value = pico_arena_alloc(gguf->arena, (size_t)n, sizeof *gguf->value);
    if (gguf->value == NULL) {
        return pico_fail(cursor->err, PICO_E_NOMEM, "out of memory for %llu keys",
                         (unsigned long long)n);
    }
    for (uint64_t i = 0; status == PICO_OK && i < n; i++) {
        status = read_value(gguf, cursor, &gguf->value[i]);
    }
    if (status != PICO_OK) {
        return status;
    }
    qsort(gguf->value, (size_t)n, sizeof *gguf->value, compare_keys);
    for (uint64_t i = 1; i < n; i++) {
        if (strcmp(gguf->value[i - 1].key, gguf->value[i].key) == 0) {
            return pico_fail(cursor->err, PICO_E_CORRUPT, "key %.200s exists twice",
                             gguf->value[i].key);
        }
    }
    return PICO_OK;
}

/* ---- header ---- */

static pico_status check_version(uint32_t version, pico_error *err) {
    if (version == 2 || version == 3) {
        return PICO_OK;
    }
    if (version == 1) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "GGUF version 1 is not supported; convert the file to version 3");
    }
    if (version != 0 && (version & 0xffffu) == 0) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "the file is big-endian GGUF; only little-endian is supported");
    }
    return pico_fail(err, PICO_E_UNSUPPORTED, "GGUF version is %u, expected 2 or 3", version);
}

static pico_status read_layout_keys(pico_gguf *gguf, pico_error *err) {
    int64_t alignment = 32, n_file = 1;
    pico_status status = pico_gguf_integer(gguf, "general.alignment", PICO_GGUF_OPTIONAL, 8,
                                           MAX_ALIGNMENT, &alignment, err);
    if (status == PICO_OK && (alignment & (alignment - 1)) != 0) {
        status =
            pico_fail(err, PICO_E_CORRUPT, "key general.alignment is %lld, expected a power of two",
                      (long long)alignment);
    }
    if (status == PICO_OK) {
        status = pico_gguf_integer(gguf, "split.count", PICO_GGUF_OPTIONAL, 0, 65535, &n_file, err);
    }
    if (status == PICO_OK && n_file > 1) {
        status =
            pico_fail(err, PICO_E_UNSUPPORTED,
                      "the model is split into %lld files; merge them first", (long long)n_file);
    }
    gguf->alignment = (uint64_t)alignment;
    return status;
}

pico_status pico_gguf_open(pico_gguf *gguf, const pico_map *map, pico_arena *arena,
                           pico_error *err) {
    pico_gguf_cursor cursor = {.data = map->data, .size = map->size, .at = 4, .err = err};
    *gguf = (pico_gguf){.arena = arena, .map = map};
    if (!pico_gguf_detect(map)) {
        return pico_fail(err, PICO_E_CORRUPT, "the file does not begin with GGUF");
    }
    pico_status status = pico_gguf_take_u32(&cursor, "the GGUF version", &gguf->version);
    if (status == PICO_OK) {
        status = check_version(gguf->version, err);
    }
    if (status == PICO_OK) {
        status = pico_gguf_take_u64(&cursor, "the number of tensors", &gguf->n_tensor);
    }
    if (status == PICO_OK) {
        status = pico_gguf_take_u64(&cursor, "the number of keys", &gguf->n_value);
    }
    if (status == PICO_OK) {
        status = read_values(gguf, &cursor);
    }
    if (status == PICO_OK) {
        status = read_layout_keys(gguf, err);
    }
    if (status == PICO_OK) {
        status = pico_gguf_read_infos(gguf, &cursor);
    }
    return status;
}
