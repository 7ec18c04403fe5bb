/*
 * JSON as the files of Hugging Face folders use it: objects from bytes, and typed values out of
 * them. A value of the wrong type or outside its range is PICO_E_CORRUPT with key, expected and
 * found; null counts as absent. Strings are borrowed from the object.
 */
#ifndef PICO_FORMATS_HF_JSON_H
#define PICO_FORMATS_HF_JSON_H

#include <jansson.h>

#include "formats/reader.h"

enum { PICO_JSON_OPTIONAL = 0, PICO_JSON_REQUIRED = 1 };
enum { PICO_JSON_MAX_COST = 8 << 20 };

/* Parses text that must be one JSON object without duplicate keys; *out belongs to the caller
 * (json_decref). An integer beyond 64 bits is a real number. PICO_E_CORRUPT with line and column;
 * PICO_E_LIMIT when it would take much more memory than any such file needs (PICO_JSON_MAX_COST values,
 * an object counted as 8). */
pico_status pico_json_object(const void *text, uint64_t n, json_t **out, pico_error *err);

/* 1 if bytes begin like a JSON object. */
int pico_json_detect(const pico_map *map);

/* The value of key, or NULL when it is absent or null. */
const json_t *pico_json_get(const json_t *object, const char *key);
const char *pico_json_type_name(const json_t *value);

/* An absent optional value leaves *out alone. */
pico_status pico_json_integer(const json_t *object, const char *key, int required, int64_t min,
                              int64_t max, int64_t *out, pico_error *err);
pico_status pico_json_number(const json_t *object, const char *key, int required, double *out,
                             pico_error *err);
pico_status pico_json_bool(const json_t *object, const char *key, uint32_t *out, pico_error *err);
pico_status pico_json_text(const json_t *object, const char *key, int required, const char **out,
                           pico_error *err);
/* *out is NULL when it is absent and optional. */
pico_status pico_json_child(const json_t *object, const char *key, int required, json_type type,
                            const json_t **out, pico_error *err);

#endif
