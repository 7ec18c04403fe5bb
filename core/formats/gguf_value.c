/*
 * Typed access to the keys of a GGUF file: the only way that a value is read. Any integer type will
 * do where an integer is wanted, F32 and F64 where a number is wanted; nothing else is converted.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/gguf.h"

static const char *const type_names[PICO_GGUF_N_TYPE] = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
static const char *const want_names[] = {"an integer", "a float", "a bool", "a string"};

static int compare_key(const void *key, const void *value) {
    return strcmp(key, ((const pico_gguf_value *)value)->key);
}

pico_gguf_value *pico_gguf_find(const pico_gguf *gguf, const char *key) {
    if (gguf->n_value == 0) {
        return NULL;
    }
    pico_gguf_value *value =
        bsearch(key, gguf->value, (size_t)gguf->n_value, sizeof *gguf->value, compare_key);
    if (value != NULL) {
        value->used = 1;
    }
    return value;
}

const char *pico_gguf_type_name(const pico_gguf_value *value, char text[32]) {
    (void)snprintf(text, 32, "%s%s", value->is_array ? "array of " : "", type_names[value->type]);
    return text;
}

static int has_class(const pico_gguf_value *value, int want) {
    switch (value->type) {
    case PICO_GGUF_F32:
    case PICO_GGUF_F64:
        return want == PICO_GGUF_WANT_FLOAT;
    case PICO_GGUF_BOOL:
        return want == PICO_GGUF_WANT_BOOL;
    case PICO_GGUF_STRING:
        return want == PICO_GGUF_WANT_STRING;
    default:
        return want == PICO_GGUF_WANT_INTEGER;
    }
}

static pico_status find_typed(const pico_gguf *gguf, const char *key, int required, int want,
                              uint32_t is_array, const pico_gguf_value **out, pico_error *err) {
    char found[32];
    const pico_gguf_value *value = pico_gguf_find(gguf, key);
    *out = NULL;
    if (value == NULL) {
        return required ? pico_fail(err, PICO_E_CORRUPT, "key %.200s is missing (%s%s)", key,
                                    is_array ? "an array; each element " : "", want_names[want])
                        : PICO_OK;
    }
    if (value->is_array != is_array || !has_class(value, want)) {
        return pico_fail(err, PICO_E_CORRUPT, "key %.200s has type %s, expected %s%s", key,
                         pico_gguf_type_name(value, found),
                         is_array ? "an array, each element " : "", want_names[want]);
    }
    *out = value;
    return PICO_OK;
}

#define READ_AT(c_type, value, i, out)                                                             \
    do {                                                                                           \
        c_type x_;                                                                                 \
        memcpy(&x_, (value)->data + (i) * sizeof x_, sizeof x_);                                   \
        (out) = x_;                                                                                \
    } while (0)

int64_t pico_gguf_integer_at(const pico_gguf_value *value, uint64_t i) {
    int64_t out = 0;
    uint64_t wide = 0;
    switch (value->type) {
    case PICO_GGUF_U8:
        READ_AT(uint8_t, value, i, out);
        break;
    case PICO_GGUF_I8:
        READ_AT(int8_t, value, i, out);
        break;
    case PICO_GGUF_U16:
        READ_AT(uint16_t, value, i, out);
        break;
    case PICO_GGUF_I16:
        READ_AT(int16_t, value, i, out);
        break;
    case PICO_GGUF_U32:
        READ_AT(uint32_t, value, i, out);
        break;
    case PICO_GGUF_I32:
        READ_AT(int32_t, value, i, out);
        break;
    case PICO_GGUF_I64:
        READ_AT(int64_t, value, i, out);
        break;
    case PICO_GGUF_U64:
        READ_AT(uint64_t, value, i, wide);
        out = wide > INT64_MAX ? INT64_MAX : (int64_t)wide;
        break;
    default:
        break;
    }
    return out;
}

double pico_gguf_float_at(const pico_gguf_value *value, uint64_t i) {
    double out = 0.0;
    if (value->type == PICO_GGUF_F32) {
        float x;
        memcpy(&x, value->data + i * sizeof x, sizeof x);
        out = (double)x;
    } else if (value->type == PICO_GGUF_F64) {
        memcpy(&out, value->data + i * sizeof out, sizeof out);
    }
    return out;
}

const char *pico_gguf_string_next(const unsigned char **at, uint64_t *n) {
    const unsigned char *p = *at;
    memcpy(n, p, sizeof *n);
    *at = p + sizeof *n + *n;
    return (const char *)p + sizeof *n;
}

pico_status pico_gguf_integer(const pico_gguf *gguf, const char *key, int required, int64_t min,
                              int64_t max, int64_t *out, pico_error *err) {
    const pico_gguf_value *value;
    pico_status status = find_typed(gguf, key, required, PICO_GGUF_WANT_INTEGER, 0, &value, err);
    if (status == PICO_OK && value != NULL) {
        int64_t x = pico_gguf_integer_at(value, 0);
        if (x < min || x > max) {
            return pico_fail(err, PICO_E_CORRUPT, "key %.200s is %lld, expected %lld to %lld", key,
                             (long long)x, (long long)min, (long long)max);
        }
        *out = x;
    }
    return status;
}

pico_status pico_gguf_float(const pico_gguf *gguf, const char *key, int required, double *out,
                            pico_error *err) {
    const pico_gguf_value *value;
    pico_status status = find_typed(gguf, key, required, PICO_GGUF_WANT_FLOAT, 0, &value, err);
    if (status == PICO_OK && value != NULL) {
        *out = pico_gguf_float_at(value, 0);
    }
    return status;
}

pico_status pico_gguf_bool(const pico_gguf *gguf, const char *key, int required, uint32_t *out,
                           pico_error *err) {
    const pico_gguf_value *value;
    pico_status status = find_typed(gguf, key, required, PICO_GGUF_WANT_BOOL, 0, &value, err);
    if (status == PICO_OK && value != NULL) {
        *out = value->data[0];
    }
    return status;
}

pico_status pico_gguf_text(const pico_gguf *gguf, const char *key, int required, const char **out,
                           pico_error *err) {
    const pico_gguf_value *value;
    pico_status status = find_typed(gguf, key, required, PICO_GGUF_WANT_STRING, 0, &value, err);
    if (status != PICO_OK || value == NULL) {
        return status;
    }
    const unsigned char *at = value->data;
    uint64_t n;
    const char *s = pico_gguf_string_next(&at, &n);
    if (n != 0 && memchr(s, '\0', (size_t)n) != NULL) {
        return pico_fail(err, PICO_E_CORRUPT, "key %.200s: the text contains a NUL byte", key);
    }
    const char *copy = pico_arena_strndup(gguf->arena, s, (size_t)n);
    if (copy == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "key %.200s: out of memory", key);
    }
    *out = copy;
    return PICO_OK;
}

pico_status pico_gguf_array(const pico_gguf *gguf, const char *key, int required, int want,
                            const pico_gguf_value **out, pico_error *err) {
    return find_typed(gguf, key, required, want, 1, out, err);
}
