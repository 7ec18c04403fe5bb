/* JSON objects and typed values out of them; see hf_json.h. */
#include "formats/hf_json.h"

#include <math.h>
#include <string.h>

pico_status pico_json_object(const void *text, uint64_t n, json_t **out, pico_error *err) {
    json_error_t why = {0};
    *out = json_loadb(text == NULL ? "" : text, (size_t)n, JSON_REJECT_DUPLICATES, &why);
    if (*out == NULL && json_error_code(&why) == json_error_out_of_memory) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for JSON of %llu bytes",
                         (unsigned long long)n);
    }
    if (*out == NULL) {
        return pico_fail(err, PICO_E_CORRUPT, "JSON, line %d, column %d: %s", why.line, why.column,
                         why.text);
    }
    if (!json_is_object(*out)) {
        const char *found = pico_json_type_name(*out);
        json_decref(*out);
        *out = NULL;
        return pico_fail(err, PICO_E_CORRUPT, "JSON: %s, expected an object", found);
    }
    return PICO_OK;
}

static int is_space(unsigned char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

int pico_json_detect(const pico_map *map) {
    uint64_t at = 0;
    while (at < map->size && is_space(map->data[at])) {
        at++;
    }
    if (at >= map->size || map->data[at] != '{') {
        return 0;
    }
    for (at++; at < map->size && is_space(map->data[at]);) {
        at++;
    }
    return at < map->size && (map->data[at] == '"' || map->data[at] == '}');
}

const json_t *pico_json_get(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static const char *name_of(json_type type) {
    static const char *const names[] = {"an object", "an array", "a string", "an integer",
                                        "a number",  "true",     "false",    "null"};
    return (size_t)type < sizeof names / sizeof *names ? names[type] : "nothing";
}

const char *pico_json_type_name(const json_t *value) {
    return value == NULL ? "nothing" : name_of(json_typeof(value));
}

static pico_status missing(const char *key, const char *expected, pico_error *err) {
    return pico_fail(err, PICO_E_CORRUPT, "key \"%.80s\" is missing, expected %s", key, expected);
}

static pico_status wrong_type(const char *key, const json_t *found, const char *expected,
                              pico_error *err) {
    return pico_fail(err, PICO_E_CORRUPT, "key \"%.80s\" is %s, expected %s", key,
                     pico_json_type_name(found), expected);
}

pico_status pico_json_integer(const json_t *object, const char *key, int required, int64_t min,
                              int64_t max, int64_t *out, pico_error *err) {
    const json_t *value = pico_json_get(object, key);
    if (value == NULL) {
        return required ? missing(key, "an integer", err) : PICO_OK;
    }
    if (!json_is_integer(value)) {
        return wrong_type(key, value, "an integer", err);
    }
    int64_t x = json_integer_value(value);
    if (x < min || x > max) {
        return pico_fail(err, PICO_E_CORRUPT, "key \"%.80s\" is %lld, expected %lld to %lld", key,
                         (long long)x, (long long)min, (long long)max);
    }
    *out = x;
    return PICO_OK;
}

pico_status pico_json_number(const json_t *object, const char *key, int required, double *out,
                             pico_error *err) {
    const json_t *value = pico_json_get(object, key);
    if (value == NULL) {
        return required ? missing(key, "a number", err) : PICO_OK;
    }
    if (!json_is_number(value) || !isfinite(json_number_value(value))) {
        return wrong_type(key, value, "a finite number", err);
    }
    *out = json_number_value(value);
    return PICO_OK;
}

pico_status pico_json_bool(const json_t *object, const char *key, uint32_t *out, pico_error *err) {
    const json_t *value = pico_json_get(object, key);
    if (value == NULL) {
        return PICO_OK;
    }
    if (!json_is_boolean(value)) {
        return wrong_type(key, value, "true or false", err);
    }
    *out = json_is_true(value);
    return PICO_OK;
}

pico_status pico_json_text(const json_t *object, const char *key, int required, const char **out,
                           pico_error *err) {
    const json_t *value = pico_json_get(object, key);
    if (value == NULL) {
        return required ? missing(key, "a string", err) : PICO_OK;
    }
    if (!json_is_string(value)) {
        return wrong_type(key, value, "a string", err);
    }
    *out = json_string_value(value);
    return PICO_OK;
}

pico_status pico_json_child(const json_t *object, const char *key, int required, json_type type,
                            const json_t **out, pico_error *err) {
    const json_t *value = pico_json_get(object, key);
    *out = NULL;
    if (value == NULL) {
        return required ? missing(key, name_of(type), err) : PICO_OK;
    }
    if (json_typeof(value) != type) {
        return wrong_type(key, value, name_of(type), err);
    }
    *out = value;
    return PICO_OK;
}

pico_status pico_json_in_file(const char *path, pico_status status, const pico_error *inner,
                              pico_error *err) {
    return status == PICO_OK ? PICO_OK : pico_fail(err, status, "%.200s: %s", path, inner->message);
}
