/*
 * The configuration of a nanochat checkpoint, from JSON or from a pickle. A key that is not known
 * is refused, because it may change what the model computes; so is a value of another type.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "formats/nanochat.h"

/* One value of either source. */
typedef struct config_value {
    enum { IS_INT, IS_REAL, IS_BOOL, IS_TEXT, IS_NULL, IS_OTHER } type;
    int64_t integer; /* also of a boolean */
    const char *text;
    size_t n;
} config_value;

typedef struct config_key {
    const char *name;
    size_t offset;
    int64_t min, max;
    int required, is_bool;
} config_key;

#define AT(field) offsetof(pico_nanochat_config, field)
static const config_key keys[] = {
    {"sequence_len", AT(sequence_len), 1, PICO_MAX_CONTEXT, 1, 0},
    {"vocab_size", AT(vocab_size), 1, PICO_MAX_VOCAB, 1, 0},
    {"n_layer", AT(n_layer), 1, PICO_MAX_LAYER, 1, 0},
    {"n_head", AT(n_head), 1, PICO_MAX_HEAD, 1, 0},
    {"n_kv_head", AT(n_kv_head), 1, PICO_MAX_HEAD, 1, 0},
    {"n_embd", AT(n_embd), 1, PICO_MAX_WIDTH / 4, 1, 0}, /* the feed-forward part is 4 as wide */
    {"multi_token_n", AT(multi_token_n), 0, PICO_MAX_EXTRA_HEAD, 0, 0},
    {"draft_n", AT(draft_n), 0, PICO_MAX_EXTRA_HEAD, 0, 0},
    {"use_mqa", AT(use_mqa), 0, 1, 0, 1},
};
#undef AT
enum { N_KEY = sizeof keys / sizeof *keys };

typedef struct config_reader {
    pico_nanochat_config *out;
    unsigned seen; /* bit i: keys[i] */
    pico_error *err;
} config_reader;

/* Letters S and L, tiled over the layers. */
static pico_status set_pattern(config_reader *r, const config_value *value) {
    char *pattern = r->out->window_pattern;
    if (value->type == IS_NULL) {
        return PICO_OK;
    }
    int good = value->type == IS_TEXT && value->n > 0 && value->n < sizeof r->out->window_pattern;
    for (size_t i = 0; good && i < value->n; i++) {
        char c = value->text[i];
        pattern[i] = c == 's' ? 'S' : c == 'l' ? 'L' : c;
        good = pattern[i] == 'S' || pattern[i] == 'L';
    }
    if (!good) {
        return pico_fail(r->err, PICO_E_CORRUPT,
                         "key model_config.window_pattern: expected 1 to %zu letters S or L",
                         sizeof r->out->window_pattern - 1);
    }
    pattern[value->n] = '\0';
    return PICO_OK;
}

static pico_status set_key(config_reader *r, const char *name, const config_value *value) {
    if (strcmp(name, "window_pattern") == 0) {
        return set_pattern(r, value);
    }
    if (strcmp(name, "draft_hidden_mult") == 0) { /* the tensors say it */
        return PICO_OK;
    }
    for (size_t i = 0; i < N_KEY; i++) {
        const config_key *key = &keys[i];
        if (strcmp(name, key->name) != 0) {
            continue;
        }
        if (value->type != (key->is_bool ? IS_BOOL : IS_INT)) {
            return pico_fail(r->err, PICO_E_CORRUPT, "key model_config.%s is not %s", name,
                             key->is_bool ? "true or false" : "an integer");
        }
        if (value->integer < key->min || value->integer > key->max) {
            return pico_fail(r->err, PICO_E_CORRUPT,
                             "key model_config.%s is %lld, expected %lld to %lld", name,
                             (long long)value->integer, (long long)key->min, (long long)key->max);
        }
        memcpy((char *)r->out + key->offset, &value->integer, sizeof value->integer);
        r->seen |= 1u << i;
        return PICO_OK;
    }
    return pico_fail(r->err, PICO_E_UNSUPPORTED,
                     "key model_config.%.64s is not known; it may change what the model computes",
                     name);
}

static config_reader begin(pico_nanochat_config *out, pico_error *err) {
    *out = (pico_nanochat_config){.multi_token_n = -1, .draft_n = -1};
    return (config_reader){.out = out, .err = err};
}

/* What must be there, and what must fit together. */
static pico_status finish(const config_reader *r) {
    const pico_nanochat_config *c = r->out;
    for (size_t i = 0; i < N_KEY; i++) {
        if (keys[i].required && !(r->seen & 1u << i)) {
            return pico_fail(r->err, PICO_E_CORRUPT, "key model_config.%s is missing",
                             keys[i].name);
        }
    }
    if (c->n_embd % c->n_head != 0 || c->n_embd / c->n_head % 2 != 0 ||
        c->n_head % c->n_kv_head != 0) {
        return pico_fail(r->err, PICO_E_CORRUPT,
                         "model_config: n_embd %lld, n_head %lld and n_kv_head %lld do not fit: "
                         "expected heads of an even width that divide n_embd, and KV heads that "
                         "divide heads",
                         (long long)c->n_embd, (long long)c->n_head, (long long)c->n_kv_head);
    }
    return PICO_OK;
}

/* ---- JSON ---- */

/* Python writes NaN and Infinity (a loss that was never measured) as words, which are no JSON. */
static void replace_words(char *text, size_t n) {
    static const char *const words[] = {"NaN", "-Infinity", "Infinity"};
    int in_string = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '"') {
            in_string = !in_string;
        } else if (in_string) {
            i += text[i] == '\\'; /* what is escaped ends no string */
        }
        for (size_t w = 0; !in_string && w < sizeof words / sizeof *words; w++) {
            size_t length = strlen(words[w]);
            if (n - i >= length && memcmp(text + i, words[w], length) == 0) {
                memcpy(text + i, "0         ", length);
            }
        }
    }
}

static config_value value_of_json(const json_t *json) {
    switch (json_typeof(json)) {
    case JSON_INTEGER:
        return (config_value){.type = IS_INT, .integer = json_integer_value(json)};
    case JSON_REAL:
        return (config_value){.type = IS_REAL};
    case JSON_TRUE:
    case JSON_FALSE:
        return (config_value){.type = IS_BOOL, .integer = json_is_true(json)};
    case JSON_STRING:
        return (config_value){
            .type = IS_TEXT, .text = json_string_value(json), .n = json_string_length(json)};
    case JSON_NULL:
        return (config_value){.type = IS_NULL};
    default:
        return (config_value){.type = IS_OTHER};
    }
}

static pico_status read_object(json_t *root, pico_nanochat_config *out, pico_error *err) {
    json_t *object = json_object_get(root, "model_config"), *json;
    const char *name;
    if (!json_is_object(object)) {
        return pico_fail(err, PICO_E_CORRUPT, "%s: expected the metadata of a nanochat checkpoint",
                         !json_is_object(root) ? "not a JSON object"
                         : object == NULL      ? "key model_config is missing"
                                               : "key model_config is not an object");
    }
    config_reader r = begin(out, err);
    json_object_foreach(object, name, json) {
        config_value value = value_of_json(json);
        pico_status status = set_key(&r, name, &value);
        if (status != PICO_OK) {
            return status;
        }
    }
    return finish(&r);
}

pico_status pico_nanochat_config_json(const char *text, size_t n, pico_nanochat_config *out,
                                      pico_error *err) {
    json_error_t error;
    char *copy = malloc(n + 1);
    if (copy == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    memcpy(copy, text, n);
    replace_words(copy, n);
    json_t *root = json_loadb(copy, n, JSON_REJECT_DUPLICATES, &error);
    free(copy);
    if (root == NULL) {
        return pico_fail(err, PICO_E_CORRUPT, "line %d, column %d: not JSON: %.160s", error.line,
                         error.column, error.text);
    }
    pico_status status = read_object(root, out, err);
    json_decref(root);
    return status;
}

/* ---- pickle ---- */

static config_value value_of_pickle(const pico_pickle_value *value) {
    switch (value->kind) {
    case PICO_PICKLE_INT:
        return (config_value){.type = IS_INT, .integer = value->integer};
    case PICO_PICKLE_REAL:
        return (config_value){.type = IS_REAL};
    case PICO_PICKLE_BOOL:
        return (config_value){.type = IS_BOOL, .integer = value->integer};
    case PICO_PICKLE_TEXT:
        return (config_value){.type = IS_TEXT, .text = value->text, .n = (size_t)value->n};
    case PICO_PICKLE_NONE:
        return (config_value){.type = IS_NULL};
    default:
        return (config_value){.type = IS_OTHER};
    }
}

pico_status pico_nanochat_config_pickle(const pico_pickle_value *dict, pico_nanochat_config *out,
                                        pico_error *err) {
    if (dict == NULL || dict->kind != PICO_PICKLE_DICT) {
        return pico_fail(err, PICO_E_CORRUPT, "key config: expected a dict, found %s",
                         pico_pickle_kind(dict));
    }
    config_reader r = begin(out, err);
    for (uint64_t i = 0; i < dict->n; i += 2) {
        const pico_pickle_value *key = dict->item[i];
        char name[64];
        if (key->kind != PICO_PICKLE_TEXT || key->n >= sizeof name) {
            return pico_fail(err, PICO_E_CORRUPT,
                             "key config: a key is %s, expected a text of less than %zu bytes",
                             pico_pickle_kind(key), sizeof name);
        }
        (void)snprintf(name, sizeof name, "%.*s", (int)key->n, key->text);
        config_value value = value_of_pickle(dict->item[i + 1]);
        pico_status status = set_key(&r, name, &value);
        if (status != PICO_OK) {
            return status;
        }
    }
    return finish(&r);
}
