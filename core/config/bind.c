/*
 * Binding a plugin's declared options: from the assignments of its section, or its environment
 * variables, or its defaults, into its own struct. The option table was checked by the registry.
 */
#include <string.h>

#include "config/config.h"
#include "config/keys.h"
#include "config/store.h"
#include "config/value.h"
#include "util/text.h"

enum { MAX_OPTIONS = 256 };

/* Where the value of an option comes from. */
typedef struct origin_value {
    const char *value; /* NULL: nothing sets it and there is no default */
    const char *origin;
    uint32_t source; /* 0: the default */
} origin_value;

static const pico_option *option_at(const pico_option *options, uint32_t option_size, uint32_t i) {
    return (const pico_option *)(const void *)((const char *)options + (size_t)i * option_size);
}

static origin_value find_value(const pico_config *config, const char *section,
                               const pico_option *option) {
    const pico_config_entry *entry = pico_config_lookup(config, section, option->name);
    if (entry != NULL && entry->source == PICO_SOURCE_COMMAND_LINE) {
        return (origin_value){entry->value, entry->origin, entry->source};
    }
    const pico_config_variable *variable = pico_config_variable_find(config, section, option->name);
    if (variable != NULL) {
        return (origin_value){variable->value, variable->name, PICO_SOURCE_ENVIRONMENT};
    }
    if (entry != NULL) {
        return (origin_value){entry->value, entry->origin, entry->source};
    }
    return (origin_value){option->def, "default", 0};
}

/* The bytes of one field. */
static pico_status write_field(const pico_config *config, const pico_option *option,
                               const origin_value *from, const pico_value *value, char *field,
                               pico_error *err) {
    const char *text = value->s;
    switch (option->type) {
    case PICO_OPT_BOOL:
    case PICO_OPT_ENUM:
        memcpy(field, &value->u, sizeof value->u);
        break;
    case PICO_OPT_INT:
        memcpy(field, &value->i, sizeof value->i);
        break;
    case PICO_OPT_FLOAT:
        memcpy(field, &value->f, sizeof value->f);
        break;
    case PICO_OPT_PATH:
        text = pico_config_absolute(config, from->source, text);
        if (text == NULL) {
            return pico_fail(err, PICO_E_NOMEM, "out of memory for the configuration");
        }
        memcpy(field, &text, sizeof text);
        break;
    default:
        memcpy(field, &text, sizeof text);
        break;
    }
    return PICO_OK;
}

static pico_status bind_option(const pico_config *config, const char *section,
                               const pico_option *option, char *out, uint32_t out_bytes,
                               pico_error *err) {
    static const uint32_t sizes[] = {0, 4, 8, 8, sizeof(char *), sizeof(char *), 4};
    char why[256];
    pico_value value;
    if (option->type < PICO_OPT_BOOL || option->type > PICO_OPT_ENUM ||
        option->offset > out_bytes || out_bytes - option->offset < sizes[option->type]) {
        return pico_fail(err, PICO_E_ABI, "[%s] %s: the plugin's option table is not usable",
                         section, option->name);
    }
    origin_value from = find_value(config, section, option);
    if (from.value == NULL) {
        if ((option->flags & PICO_OPTF_REQUIRED) != 0) {
            return pico_fail(err, PICO_E_INVALID, "[%s] needs a value for %s: %s", section,
                             option->name, option->help == NULL ? "" : option->help);
        }
        return PICO_OK; /* the field stays zero */
    }
    if (pico_value_parse(option, from.value, &value, why, sizeof why) != PICO_OK) {
        return pico_config_fail_value(err, from.origin, section, option->name, from.value, why);
    }
    return write_field(config, option, &from, &value, out + option->offset, err);
}

/* Every assignment of the section is to a declared key. */
static pico_status check_known(const pico_config *config, const char *section,
                               const pico_option *options, uint32_t n, uint32_t option_size,
                               pico_error *err) {
    const char *names[MAX_OPTIONS];
    char list[256];
    size_t used = 0;
    list[0] = '\0';
    for (uint32_t i = 0; i < n; i++) {
        names[i] = option_at(options, option_size, i)->name;
        int wrote = snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : ", ", names[i]);
        used = wrote < 0 || used + (size_t)wrote >= sizeof list ? sizeof list - 1
                                                                : used + (size_t)wrote;
    }
    for (size_t i = 0; i < config->n_entries; i++) {
        const pico_config_entry *entry = &config->entries[i];
        int known = entry->key == NULL || !pico_config_entry_is_in(config, entry, section);
        for (uint32_t j = 0; j < n && !known; j++) {
            known = strcmp(entry->key, names[j]) == 0;
        }
        if (known) {
            continue;
        }
        if (strcmp(entry->section, section) != 0) { /* a shorthand for another plugin's key */
            return pico_fail(err, PICO_E_INVALID,
                             "%s sets %s, which the selected plugin [%s] does not have%s%s; leave "
                             "the flag out or select another plugin",
                             entry->origin, entry->key, section, n == 0 ? "" : "; it has ", list);
        }
        const char *near = pico_text_nearest(entry->key, names, n);
        if (near != NULL) {
            return pico_fail(err, PICO_E_INVALID, "%s: [%s] has no key %s; did you mean %s?",
                             entry->origin, section, entry->key, near);
        }
        return pico_fail(err, PICO_E_INVALID, "%s: [%s] has no key %s; it has %s", entry->origin,
                         section, entry->key, n == 0 ? "none" : list);
    }
    return PICO_OK;
}

pico_status pico_config_bind(const pico_config *config, const char *section,
                             const pico_option *options, uint32_t n, uint32_t option_size,
                             void *out, uint32_t out_bytes, pico_error *err) {
    if (n > MAX_OPTIONS || (n != 0 && option_size < sizeof(pico_option))) {
        return pico_fail(err, PICO_E_ABI, "[%s]: the plugin's option table is not usable", section);
    }
    if (out_bytes != 0) {
        memset(out, 0, out_bytes);
    }
    pico_status status = check_known(config, section, options, n, option_size, err);
    for (uint32_t i = 0; i < n && status == PICO_OK; i++) {
        status =
            bind_option(config, section, option_at(options, option_size, i), out, out_bytes, err);
    }
    return pico_config_one_line(status, err);
}

pico_status pico_config_each_plugin_section(const pico_config *config,
                                            pico_status (*fn)(void *arg, const char *section,
                                                              pico_error *err),
                                            void *arg, pico_error *err) {
    for (size_t i = 0; i < config->n_entries; i++) {
        const char *section = config->entries[i].section;
        int seen = !pico_config_section_is_plugin(section);
        for (size_t j = 0; j < i && !seen; j++) {
            seen = strcmp(config->entries[j].section, section) == 0;
        }
        pico_status status = seen ? PICO_OK : fn(arg, section, err);
        if (status != PICO_OK) {
            return status;
        }
    }
    return PICO_OK;
}

const char *pico_config_section_origin(const pico_config *config, const char *section) {
    for (size_t i = 0; i < config->n_entries; i++) {
        if (strcmp(config->entries[i].section, section) == 0) {
            return config->entries[i].origin;
        }
    }
    return "";
}

const char *pico_config_other_section(const pico_config *config, const char *section) {
    for (size_t i = 0; i < config->n_entries; i++) {
        if (strcmp(config->entries[i].section, section) != 0) {
            return config->entries[i].section;
        }
    }
    return NULL;
}

void pico_config_each_option(const pico_config *config, const char *section,
                             const pico_option *options, uint32_t n, uint32_t option_size,
                             pico_config_value_fn fn, void *arg) {
    for (uint32_t i = 0; i < n; i++) {
        const pico_option *option = option_at(options, option_size, i);
        origin_value from = find_value(config, section, option);
        fn(arg, section, option, from.value, from.origin);
    }
}

void pico_config_each_value(const pico_config *config, pico_config_value_fn fn, void *arg) {
    size_t n;
    const pico_config_key *keys = pico_config_keys(&n);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(keys[i].section, PICO_CONFIG_STAGE_SECTION) != 0) {
            origin_value from = find_value(config, keys[i].section, &keys[i].option);
            fn(arg, keys[i].section, &keys[i].option, from.value, from.origin);
            continue;
        }
        uint32_t stages[PICO_CONFIG_STAGE_MAX];
        size_t n_stages = pico_config_stages(config, stages, PICO_CONFIG_STAGE_MAX);
        for (size_t j = 0; j < n_stages; j++) {
            char section[32];
            (void)snprintf(section, sizeof section, "compress.%u", stages[j]);
            origin_value from = find_value(config, section, &keys[i].option);
            fn(arg, section, &keys[i].option, from.value, from.origin);
        }
    }
}
