/*
 * What lies beside a tokenizer file of Hugging Face: tokenizer_config.json, a chat template, and the
 * special ids of the model's own configuration. All of them are optional.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/vocab_json.h"

enum { MAX_TEMPLATE = 1 << 20 }; /* bytes of a chat template in a file of its own */

/* ---- tokenizer_config.json ---- */

/* "bos_token" and its like: a string, or an object with its "content". *out is NULL if absent. */
static pico_status read_name(const json_t *settings, const char *key, const char **out,
                             pico_error *err) {
    const json_t *value = pico_json_get(settings, key);
    const json_t *text = json_is_object(value) ? json_object_get(value, "content") : value;
    *out = json_string_value(text);
    return value == NULL || *out != NULL
               ? PICO_OK
               : pico_fail(err, PICO_E_CORRUPT, "key \"%s\" is %s, expected a token", key,
                           pico_json_type_name(value));
}

static pico_status read_names(const json_t *settings, pico_vocab *vocab, pico_error *err) {
    const struct {
        const char *key;
        int32_t *id;
        int wanted;
    } names[] = {
        {"bos_token", &vocab->bos, 1},
        {"eos_token", &vocab->eos, 1},
        {"pad_token", &vocab->pad, 1},
        {"unk_token", &vocab->unk, vocab->kind == PICO_VOCAB_SPM}, /* bytes are never unknown */
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *name = NULL;
        pico_status status = read_name(settings, names[i].key, &name, err);
        if (status != PICO_OK) {
            return status;
        }
        int32_t id = name == NULL || !names[i].wanted ? -1 : pico_vocab_find(vocab, name);
        if (id < 0) {
            continue; /* a name that is no token says nothing */
        }
        *names[i].id = id;
        pico_piece *piece = &pico_vocab_pieces(vocab)[id];
        if (piece->type == PICO_PIECE_NORMAL || piece->type == PICO_PIECE_USER) {
            piece->type = PICO_PIECE_CONTROL;
        }
    }
    return PICO_OK;
}

/* {"32000": {"content": ..., "special": ...}}; in the order of the file, which is that of the ids. */
static pico_status read_added(const json_t *settings, pico_arena *arena, pico_vocab *vocab,
                              pico_error *err) {
    static const char key[] = "added_tokens_decoder";
    const json_t *added = NULL, *token;
    const char *number;
    pico_status status =
        pico_json_child(settings, key, PICO_JSON_OPTIONAL, JSON_OBJECT, &added, err);
    json_object_foreach((json_t *)(uintptr_t)added, number, token) {
        char *end = NULL;
        long long id = number[0] >= '0' && number[0] <= '9' ? strtoll(number, &end, 10) : -1;
        if (id < 0 || *end != '\0' || id >= PICO_MAX_VOCAB) {
            return pico_fail(err, PICO_E_CORRUPT, "key \"%s\": \"%.32s\" is no token id", key,
                             number);
        }
        status = pico_vocab_add_token(token, id, arena, vocab, err);
        if (status != PICO_OK) {
            return status;
        }
    }
    return status;
}

/* A string, or a list of named ones of which "default" is meant. */
static pico_status read_template(const json_t *settings, pico_arena *arena, pico_vocab *vocab,
                                 pico_error *err) {
    const json_t *value = pico_json_get(settings, "chat_template"), *item;
    const char *text = json_string_value(value);
    size_t i;
    if (value != NULL && text == NULL && !json_is_array(value)) {
        return pico_fail(err, PICO_E_CORRUPT, "key \"chat_template\" is %s, expected a string",
                         pico_json_type_name(value));
    }
    json_array_foreach(value, i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name != NULL && strcmp(name, "default") == 0) {
            text = json_string_value(json_object_get(item, "template"));
        }
    }
    if (text == NULL) {
        return PICO_OK;
    }
    vocab->chat_template = pico_arena_strdup(arena, text);
    return vocab->chat_template != NULL ? PICO_OK : pico_fail(err, PICO_E_NOMEM, "out of memory");
}

pico_status pico_vocab_settings(const json_t *settings, pico_arena *arena, pico_vocab *vocab,
                                pico_error *err) {
    pico_status status = read_added(settings, arena, vocab, err);
    if (status == PICO_OK) {
        status = read_names(settings, vocab, err);
    }
    if (status == PICO_OK) {
        status = pico_json_bool(settings, "add_bos_token", &vocab->add_bos, err);
    }
    if (status == PICO_OK) {
        status = pico_json_bool(settings, "add_eos_token", &vocab->add_eos, err);
    }
    return status == PICO_OK ? read_template(settings, arena, vocab, err) : status;
}

/* ---- generation_config.json, config.json ---- */

/* One id, or a list of which the first is taken. */
static pico_status read_id(const json_t *config, const char *key, uint32_t n, int32_t *out,
                           pico_error *err) {
    const json_t *value = pico_json_get(config, key);
    const json_t *id = json_is_array(value) ? json_array_get(value, 0) : value;
    if (*out >= 0 || id == NULL) {
        return PICO_OK;
    }
    if (!json_is_integer(id)) {
        return pico_fail(err, PICO_E_CORRUPT, "key \"%s\" is %s, expected a token id", key,
                         pico_json_type_name(id));
    }
    int64_t value_of = json_integer_value(id);
    *out = value_of >= 0 && value_of < n ? (int32_t)value_of : -1; /* some files say -1, or 50256
                                                                      of another vocabulary */
    return PICO_OK;
}

pico_status pico_vocab_ids_of_config(const json_t *config, pico_vocab *vocab, pico_error *err) {
    pico_status status = read_id(config, "bos_token_id", vocab->n_piece, &vocab->bos, err);
    if (status == PICO_OK) {
        status = read_id(config, "eos_token_id", vocab->n_piece, &vocab->eos, err);
    }
    return status;
}

/* ---- the folder ---- */

typedef pico_status (*use_fn)(const json_t *object, pico_arena *arena, pico_vocab *vocab,
                              pico_error *err);

static pico_status use_ids(const json_t *object, pico_arena *arena, pico_vocab *vocab,
                           pico_error *err) {
    (void)arena;
    return pico_vocab_ids_of_config(object, vocab, err);
}

static pico_status use_file(const char *path, use_fn use, pico_arena *arena, pico_vocab *vocab,
                            pico_error *err) {
    pico_map map = {0};
    json_t *object = NULL;
    pico_error inner = {0};
    pico_status status = pico_map_open(path, &map, err);
    if (status != PICO_OK) {
        return status;
    }
    status = pico_json_object(map.data, map.size, &object, &inner);
    if (status == PICO_OK) {
        status = use(object, arena, vocab, &inner);
    }
    json_decref(object);
    pico_map_close(&map);
    return pico_in_file(path, status, &inner, err);
}

/* A template in a file of its own, as newer folders have it. */
static pico_status use_template(const char *path, pico_arena *arena, pico_vocab *vocab,
                                pico_error *err) {
    char *text = NULL;
    uint64_t n = 0;
    pico_status status = pico_file_read(path, MAX_TEMPLATE, &text, &n, err);
    if (status == PICO_OK && strlen(text) != n) {
        status = pico_fail(err, PICO_E_CORRUPT, "%.200s: a NUL at offset %zu, expected text", path,
                           strlen(text));
    }
    if (status == PICO_OK) {
        vocab->chat_template = pico_arena_strdup(arena, text);
        status = vocab->chat_template != NULL
                     ? PICO_OK
                     : pico_fail(err, PICO_E_NOMEM, "%.200s: out of memory", path);
    }
    free(text);
    return status;
}

pico_status pico_vocab_beside(const char *folder, pico_arena *arena, pico_vocab *vocab,
                              pico_error *err) {
    static const struct {
        const char *name;
        use_fn use;
    } files[] = {{"tokenizer_config.json", pico_vocab_settings},
                 {"generation_config.json", use_ids},
                 {"config.json", use_ids}};
    pico_status status = PICO_OK;
    for (size_t i = 0; status == PICO_OK && i < sizeof files / sizeof *files; i++) {
        const char *path = pico_arena_printf(arena, "%s/%s", folder, files[i].name);
        if (path == NULL) {
            status = pico_fail(err, PICO_E_NOMEM, "%.200s: out of memory", folder);
        } else if (pico_is_file(path)) {
            status = use_file(path, files[i].use, arena, vocab, err);
        }
    }
    const char *path = pico_arena_printf(arena, "%s/chat_template.jinja", folder);
    if (status == PICO_OK && path == NULL) {
        status = pico_fail(err, PICO_E_NOMEM, "%.200s: out of memory", folder);
    }
    if (status == PICO_OK && pico_is_file(path)) {
        status = use_template(path, arena, vocab, err);
    }
    return status;
}
