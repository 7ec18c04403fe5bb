/*
 * What config.json of every family has in common: which family it is, and keys that may only have
 * the value that is computed here.
 */
#include <string.h>

#include "formats/hf.h"

static const pico_hf_family *const families[] = {&pico_hf_gpt2, &pico_hf_llama};
enum { N_FAMILY = sizeof families / sizeof *families };

/* The first entry of "architectures", or NULL. */
static pico_status first_architecture(const json_t *config, const char **out, pico_error *err) {
    const json_t *list = NULL;
    pico_status status =
        pico_json_child(config, "architectures", PICO_JSON_OPTIONAL, JSON_ARRAY, &list, err);
    const json_t *first = json_array_get(list, 0);
    if (status == PICO_OK && first != NULL && !json_is_string(first)) {
        status = pico_fail(err, PICO_E_CORRUPT,
                           "key \"architectures\" begins with %s, expected a "
                           "string",
                           pico_json_type_name(first));
    }
    *out = json_string_value(first);
    return status;
}

pico_status pico_hf_family_of(const json_t *config, const pico_hf_family **out, pico_error *err) {
    const char *type = NULL, *architecture = NULL;
    pico_status status = pico_json_text(config, "model_type", PICO_JSON_OPTIONAL, &type, err);
    if (status == PICO_OK) {
        status = first_architecture(config, &architecture, err);
    }
    if (status != PICO_OK) {
        return status;
    }
    for (size_t i = 0; i < N_FAMILY; i++) {
        const char *begin = families[i]->architecture;
        int by_class = type == NULL && architecture != NULL &&
                       strncmp(architecture, begin, strlen(begin)) == 0;
        if (by_class || (type != NULL && strcmp(type, families[i]->model_type) == 0)) {
            *out = families[i];
            return PICO_OK;
        }
    }
    if (type == NULL && architecture == NULL) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "neither \"model_type\" nor \"architectures\" says what the model is; "
                         "expected gpt2 or llama");
    }
    return pico_fail(err, PICO_E_UNSUPPORTED,
                     "a model of type \"%.64s\"; supported are gpt2 and llama",
                     type != NULL ? type : architecture);
}

pico_status pico_hf_check_fixed(const json_t *config, const pico_hf_fixed *fixed, size_t n,
                                pico_error *err) {
    for (size_t i = 0; i < n; i++) {
        const json_t *found = pico_json_get(config, fixed[i].key);
        uint32_t value = 0;
        if (found != NULL && fixed[i].value < 0) {
            return pico_fail(err, PICO_E_UNSUPPORTED,
                             "key \"%s\" is set: that is not computed here", fixed[i].key);
        }
        if (found == NULL || fixed[i].value < 0) {
            continue;
        }
        pico_status status = pico_json_bool(config, fixed[i].key, &value, err);
        if (status != PICO_OK) {
            return status;
        }
        if (value != (uint32_t)fixed[i].value) {
            return pico_fail(err, PICO_E_UNSUPPORTED, "key \"%s\" is %s: only %s is computed here",
                             fixed[i].key, value ? "true" : "false", value ? "false" : "true");
        }
    }
    return PICO_OK;
}

pico_status pico_hf_layers(const pico_layer_desc *layer, pico_arena *arena, pico_model_desc *desc,
                           pico_error *err) {
    pico_layer_desc *layers = pico_arena_alloc(arena, desc->n_layer, sizeof *layers);
    if (layers == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for %u layers", desc->n_layer);
    }
    for (uint32_t i = 0; i < desc->n_layer; i++) {
        layers[i] = *layer;
    }
    desc->layer = layers;
    return PICO_OK;
}
