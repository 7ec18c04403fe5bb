/*
 * Checking the host's side of a configuration: sections exist, host keys are known and valid, every
 * stage names its plugin. Plugins' own keys are checked when they are bound (bind.c).
 */
#include <string.h>

#include "config/config.h"
#include "config/keys.h"
#include "config/store.h"
#include "config/value.h"
#include "util/text.h"

enum { MAX_NAMES = 64 };

/* The names of the keys of a host section, or of the host sections themselves for NULL. */
static size_t collect_names(const char *section, const char **names) {
    size_t n_keys, n = 0;
    const pico_config_key *keys = pico_config_keys(&n_keys);
    for (size_t i = 0; i < n_keys && n < MAX_NAMES; i++) {
        if (section == NULL) {
            if (n == 0 || strcmp(names[n - 1], keys[i].section) != 0) {
                names[n++] = keys[i].section;
            }
        } else if (pico_config_key_find(section, keys[i].option.name) == &keys[i]) {
            names[n++] = keys[i].option.name;
        }
    }
    return n;
}

static void join_names(const char *const *names, size_t n, char *out, size_t size) {
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < n && used < size; i++) {
        int wrote = snprintf(out + used, size - used, "%s%s", i == 0 ? "" : ", ", names[i]);
        used += wrote < 0 ? size : (size_t)wrote;
    }
}

static pico_status fail_section(const pico_config_entry *entry, pico_error *err) {
    const char *names[MAX_NAMES];
    char stem[64], list[256];
    size_t n = collect_names(NULL, names);
    const char *dot = strchr(entry->section, '.');
    size_t stem_bytes = dot == NULL ? strlen(entry->section) : (size_t)(dot - entry->section);
    (void)snprintf(stem, sizeof stem, "%.*s", (int)(stem_bytes > 60 ? 60 : stem_bytes),
                   entry->section);
    const char *near = pico_text_nearest(entry->section, names, n);
    if (near != NULL && strcmp(near, PICO_CONFIG_STAGE_SECTION) == 0) {
        return pico_fail(err, PICO_E_INVALID,
                         "%s: there is no section [%s]; stages are [compress.1] to [compress.%d]",
                         entry->origin, entry->section, PICO_CONFIG_STAGE_MAX);
    }
    if (near != NULL) {
        return pico_fail(err, PICO_E_INVALID, "%s: there is no section [%s]; did you mean [%s]?",
                         entry->origin, entry->section, near);
    }
    near = dot == NULL ? NULL : pico_text_nearest(stem, names, n);
    if (near != NULL) {
        return pico_fail(err, PICO_E_INVALID, "%s: there is no section [%s]; did you mean [%s%s]?",
                         entry->origin, entry->section, near, dot);
    }
    join_names(names, n, list, sizeof list);
    return pico_fail(err, PICO_E_INVALID,
                     "%s: there is no section [%s]; the sections are %s, and for a plugin's own "
                     "keys [kind.NAME] or [compress.N.NAME]",
                     entry->origin, entry->section, list);
}

static pico_status fail_key(const pico_config *config, const pico_config_entry *entry,
                            pico_error *err) {
    const char *names[MAX_NAMES];
    char list[256];
    size_t n = collect_names(entry->section, names);
    const char *near = pico_text_nearest(entry->key, names, n);
    if (near != NULL) {
        return pico_fail(err, PICO_E_INVALID, "%s: [%s] has no key %s; did you mean %s?",
                         entry->origin, entry->section, entry->key, near);
    }
    join_names(names, n, list, sizeof list);
    const pico_config_key *plugin = pico_config_key_find(entry->section, "plugin");
    const char *selected =
        plugin == NULL ? NULL : pico_config_string(config, entry->section, "plugin");
    char own[128];
    (void)snprintf(own, sizeof own, "%s.%s", entry->section, selected == NULL ? "" : selected);
    if (pico_config_section_is_plugin(own)) {
        return pico_fail(err, PICO_E_INVALID,
                         "%s: [%s] has no key %s, it has %s; keys of the plugin itself belong into "
                         "[%s]",
                         entry->origin, entry->section, entry->key, list, own);
    }
    return pico_fail(err, PICO_E_INVALID, "%s: [%s] has no key %s; it has %s", entry->origin,
                     entry->section, entry->key, list);
}

static int is_shorthand(const char *section) {
    size_t n = strlen(section), mark = sizeof PICO_CONFIG_SELECTED - 1;
    return n > mark && strcmp(section + n - mark, PICO_CONFIG_SELECTED) == 0;
}

static pico_status check_entry(const pico_config *config, const pico_config_entry *entry,
                               pico_error *err) {
    char why[256];
    pico_value value;
    if (pico_config_section_is_plugin(entry->section) || is_shorthand(entry->section)) {
        return PICO_OK;
    }
    if (!pico_config_section_is_host(entry->section)) {
        return fail_section(entry, err);
    }
    if (entry->key == NULL) {
        return PICO_OK;
    }
    const pico_config_key *key = pico_config_key_find(entry->section, entry->key);
    if (key == NULL) {
        return fail_key(config, entry, err);
    }
    if (pico_value_parse(&key->option, entry->value, &value, why, sizeof why) != PICO_OK) {
        return pico_config_fail_value(err, entry->origin, entry->section, entry->key, entry->value,
                                      why);
    }
    return PICO_OK;
}

/* Sections without plugins have no other variables than those of their keys; elsewhere a variable
 * may belong to a plugin that is not loaded. */
static pico_status check_variables(const pico_config *config, pico_error *err) {
    static const char *const closed[] = {"model", "host", "generate", "chat"};
    for (size_t i = 0; i < config->n_variables; i++) {
        const char *name = config->variables[i].name;
        for (size_t j = 0; j < sizeof closed / sizeof closed[0]; j++) {
            const char *names[MAX_NAMES];
            char prefix[64], full[128], list[320];
            size_t n = collect_names(closed[j], names);
            int known = 0;
            if (!pico_config_env_name(closed[j], "", prefix, sizeof prefix) ||
                strncmp(name, prefix, strlen(prefix)) != 0) {
                continue;
            }
            for (size_t k = 0; k < n && !known; k++) {
                known = pico_config_env_name(closed[j], names[k], full, sizeof full) &&
                        strcmp(full, name) == 0;
            }
            if (!known) {
                join_names(names, n, list, sizeof list);
                return pico_fail(err, PICO_E_INVALID,
                                 "environment: %s stands for no key; [%s] has %s", name, closed[j],
                                 list);
            }
        }
    }
    return PICO_OK;
}

static pico_status check_stages(const pico_config *config, pico_error *err) {
    for (size_t i = 0; i < config->n_entries; i++) {
        const pico_config_entry *entry = &config->entries[i];
        if (pico_config_stage_of(entry->section) != 0 &&
            !pico_config_is_set(config, entry->section, "plugin")) {
            return pico_fail(err, PICO_E_INVALID, "%s: [%s] needs a line plugin = NAME",
                             entry->origin, entry->section);
        }
    }
    return PICO_OK;
}

pico_status pico_config_check(const pico_config *config, pico_error *err) {
    pico_status status = PICO_OK;
    for (size_t i = 0; i < config->n_entries && status == PICO_OK; i++) {
        status = check_entry(config, &config->entries[i], err);
    }
    if (status == PICO_OK) {
        status = check_stages(config, err);
    }
    if (status == PICO_OK) {
        status = check_variables(config, err);
    }
    return pico_config_one_line(status, err);
}
