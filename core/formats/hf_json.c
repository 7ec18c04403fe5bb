/* JSON objects and typed values out of them; see hf_json.h. */
#include "formats/hf_json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- integers that no integer holds ---- */

static int is_digit(char c) {
    return c >= '0' && c <= '9';
}

static int is_of_real(char c) {
    return c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-';
}

/* Behind the string that begins at `at`. */
static uint64_t skip_string(const char *text, uint64_t n, uint64_t at) {
    for (at++; at < n && text[at] != '"'; at++) {
        at += text[at] == '\\'; /* what is escaped ends no string */
    }
    return at < n ? at + 1 : n;
}

/* A copy in which an integer of more than 18 digits has ".0" behind it, so that it is a real number:
 * Python writes int(1e30) for a length without a limit. NULL: out of memory. */
static char *widen_integers(const char *text, uint64_t n, size_t *out_n) {
    enum { MOST_DIGITS = 18 };
    char *out = n > SIZE_MAX / 2 ? NULL : malloc((size_t)n + (size_t)(n / MOST_DIGITS) * 2 + 1);
    size_t to = 0;
    for (uint64_t at = 0; out != NULL && at < n;) {
        uint64_t begin = at, digits = 0;
        int real = 0;
        if (text[at] == '"') {
            at = skip_string(text, n, at);
        } else if (is_digit(text[at])) {
            for (; at < n && (is_digit(text[at]) || is_of_real(text[at])); at++) {
                real |= !is_digit(text[at]);
            }
            digits = at - begin;
        } else {
            at++;
        }
        memcpy(out + to, text + begin, (size_t)(at - begin));
        to += (size_t)(at - begin);
        if (!real && digits > MOST_DIGITS) {
            memcpy(out + to, ".0", 2);
            to += 2;
        }
    }
    *out_n = to;
    return out;
}

/* ---- objects ---- */

/* What the text takes when it is parsed, in units of some 64 bytes: a value costs one, an object its
 * table as well. Two bytes of text can stand for hundreds in memory; the largest tokenizers cost 2
 * million. */
static uint64_t cost_of(const char *text, uint64_t n) {
    enum { OBJECT = 8 };
    uint64_t cost = 0;
    for (uint64_t at = 0; at < n;) {
        if (text[at] == '"') {
            at = skip_string(text, n, at);
            continue;
        }
        cost += text[at] == '{' ? OBJECT : text[at] == '[' || text[at] == ',';
        at++;
    }
    return cost;
}

static json_t *load(const char *text, uint64_t n, json_error_t *why) {
    json_t *root = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, why);
    if (root != NULL || json_error_code(why) != json_error_numeric_overflow) {
        return root;
    }
    size_t n_wide = 0;
    char *wide = widen_integers(text, n, &n_wide);
    if (wide == NULL) {
        return NULL;
    }
    root = json_loadb(wide, n_wide, JSON_REJECT_DUPLICATES, why);
    free(wide);
    return root;
}

pico_status pico_json_object(const void *text, uint64_t n, json_t **out, pico_error *err) {
    json_error_t why = {0};
    *out = NULL;
    if (cost_of(text, n) > PICO_JSON_MAX_COST) {
        return pico_fail(err, PICO_E_LIMIT,
                         "JSON of %llu bytes with too many values: more than %d, an object counted "
                         "as 8",
                         (unsigned long long)n, PICO_JSON_MAX_COST);
    }
    *out = load(text == NULL ? "" : text, n, &why);
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

/* ---- values ---- */

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
