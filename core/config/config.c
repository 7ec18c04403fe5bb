/*
 * The store of assignments and the getters of host keys; see config.h. Reading INI text is ini.c,
 * checking check.c, plugins' options bind.c.
 */
#include "config/config.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/keys.h"
#include "config/store.h"
#include "config/value.h"
#include "util/text.h"

enum { MAX_ENTRIES = 4096, ENV_NAME_BYTES = 256 };

extern char **environ;

static pico_status no_memory(pico_error *err) {
    return pico_fail(err, PICO_E_NOMEM, "out of memory for the configuration");
}

pico_status pico_config_open(pico_config **out, pico_error *err) {
    *out = NULL;
    pico_config *config = calloc(1, sizeof *config);
    pico_arena *arena = calloc(1, sizeof *arena);
    if (config == NULL || arena == NULL) {
        free(config);
        free(arena);
        return no_memory(err);
    }
    config->arena = arena;
    char *cwd = getcwd(NULL, 0);
    if (cwd != NULL) {
        config->cwd = pico_arena_strdup(arena, cwd);
        free(cwd);
    }
    *out = config;
    return PICO_OK;
}

void pico_config_close(pico_config *config) {
    if (config != NULL) {
        pico_arena_free(config->arena);
        free(config->arena);
        free(config->entries);
        free(config);
    }
}

const char *pico_config_absolute(const pico_config *config, uint32_t source, const char *path) {
    const char *base = source == PICO_SOURCE_FILE ? config->file_folder : config->cwd;
    if (path[0] == '/' || base == NULL) {
        return pico_arena_strdup(config->arena, path);
    }
    const char *slash = base[strlen(base) - 1] == '/' ? "" : "/";
    return pico_arena_printf(config->arena, "%s%s%s", base, slash, path);
}

static int same_text(const char *a, const char *b) {
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/* A later value from the command line or the environment replaces the earlier one. */
static void forget_older(pico_config *config, uint32_t source, const char *section,
                         const char *key) {
    size_t kept = 0;
    for (size_t i = 0; i < config->n_entries; i++) {
        const pico_config_entry *entry = &config->entries[i];
        if (entry->source != source || strcmp(entry->section, section) != 0 ||
            !same_text(entry->key, key)) {
            config->entries[kept++] = *entry;
        }
    }
    config->n_entries = kept;
}

pico_status pico_config_add(pico_config *config, uint32_t source, const char *section,
                            const char *key, const char *value, const char *origin, uint32_t line,
                            pico_error *err) {
    if (source != PICO_SOURCE_FILE) {
        forget_older(config, source, section, key);
    }
    if (config->n_entries == MAX_ENTRIES) {
        return pico_fail(err, PICO_E_LIMIT, "%s: more than %d keys", origin, MAX_ENTRIES);
    }
    if (config->n_entries == config->capacity) {
        size_t capacity = config->capacity == 0 ? 64 : config->capacity * 2;
        pico_config_entry *grown = realloc(config->entries, capacity * sizeof *grown);
        if (grown == NULL) {
            return no_memory(err);
        }
        config->entries = grown;
        config->capacity = capacity;
    }
    pico_config_entry entry = {.source = source, .line = line};
    const pico_config_key *known = key == NULL ? NULL : pico_config_key_find(section, key);
    int is_path = known != NULL && known->option.type == PICO_OPT_PATH;
    int is_name = known != NULL && (strcmp(key, "plugin") == 0 || strcmp(key, "template") == 0);
    if (is_name && strchr(value, '/') != NULL) {
        value = pico_config_absolute(config, source, value); /* a file, not a name */
        if (value == NULL) {
            return no_memory(err);
        }
    }
    entry.section = pico_arena_strdup(config->arena, section);
    entry.key = key == NULL ? NULL : pico_arena_strdup(config->arena, key);
    entry.value = value == NULL ? NULL : pico_arena_strdup(config->arena, value);
    entry.path = is_path ? pico_config_absolute(config, source, value) : NULL;
    entry.origin = line == 0 ? pico_arena_strdup(config->arena, origin)
                             : pico_arena_printf(config->arena, "%s:%u", origin, line);
    if (entry.section == NULL || entry.origin == NULL || (key != NULL && entry.key == NULL) ||
        (value != NULL && entry.value == NULL) || (is_path && entry.path == NULL)) {
        return no_memory(err);
    }
    config->entries[config->n_entries++] = entry;
    return PICO_OK;
}

pico_status pico_config_set_value(pico_config *config, const char *section, const char *key,
                                  const char *value, const char *origin, pico_error *err) {
    return pico_config_add(config, PICO_SOURCE_COMMAND_LINE, section, key, value, origin, 0, err);
}

pico_status pico_config_set(pico_config *config, const char *assignment, const char *origin,
                            pico_error *err) {
    char quoted[PICO_QUOTE_BYTES];
    const char *equals = strchr(assignment, '=');
    const char *end = equals == NULL ? assignment + strlen(assignment) : equals;
    const char *begin = assignment, *dot = NULL;
    while (begin < end && *begin == ' ') {
        begin++;
    }
    while (end > begin && end[-1] == ' ') {
        end--;
    }
    for (const char *at = begin; at < end; at++) {
        dot = *at == '.' ? at : dot;
    }
    if (equals == NULL || dot == NULL || dot == begin || dot + 1 == end) {
        return pico_fail(err, PICO_E_INVALID,
                         "%s: expected section.key=value, for example "
                         "sampler.standard.temperature=0.8, found '%s'",
                         origin, pico_value_quote(assignment, quoted));
    }
    char *section = strndup(begin, (size_t)(dot - begin));
    char *key = strndup(dot + 1, (size_t)(end - dot - 1));
    pico_status status = section == NULL || key == NULL
                             ? no_memory(err)
                             : pico_config_set_value(config, section, key, equals + 1, origin, err);
    free(section);
    free(key);
    return status;
}

pico_status pico_config_set_shorthand(pico_config *config, const char *flag, const char *value,
                                      pico_error *err) {
    size_t n;
    const pico_config_shorthand *table = pico_config_shorthands(&n);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(table[i].flag, flag) == 0) {
            char section[32];
            (void)snprintf(section, sizeof section, "%s" PICO_CONFIG_SELECTED, table[i].section);
            return pico_config_set_value(config, section, table[i].key, value, flag, err);
        }
    }
    return pico_fail(err, PICO_E_NOT_FOUND, "%s is not a known flag", flag);
}

/* Copies every PICOCHAT_* variable, so that later changes of the environment change nothing. */
static pico_status copy_environment(pico_config *config, pico_error *err) {
    static const char prefix[] = "PICOCHAT_";
    size_t n = 0;
    config->n_variables = 0;
    for (char **at = environ; at != NULL && *at != NULL; at++) {
        n += strncmp(*at, prefix, sizeof prefix - 1) == 0;
    }
    config->variables = pico_arena_alloc(config->arena, n, sizeof *config->variables);
    if (config->variables == NULL) {
        return no_memory(err);
    }
    for (char **at = environ; at != NULL && *at != NULL && config->n_variables < n; at++) {
        const char *equals = strchr(*at, '=');
        if (strncmp(*at, prefix, sizeof prefix - 1) != 0 || equals == NULL) {
            continue;
        }
        pico_config_variable *variable = &config->variables[config->n_variables];
        variable->name = pico_arena_strndup(config->arena, *at, (size_t)(equals - *at));
        variable->value = pico_arena_strdup(config->arena, equals + 1);
        if (variable->name == NULL || variable->value == NULL) {
            return no_memory(err);
        }
        config->n_variables++;
    }
    return PICO_OK;
}

const pico_config_variable *pico_config_variable_find(const pico_config *config,
                                                      const char *section, const char *key) {
    char name[ENV_NAME_BYTES];
    if (!pico_config_env_name(section, key, name, sizeof name)) {
        return NULL;
    }
    for (size_t i = 0; i < config->n_variables; i++) {
        if (strcmp(config->variables[i].name, name) == 0) {
            return &config->variables[i];
        }
    }
    return NULL;
}

static pico_status add_variable(pico_config *config, const char *section, const char *key,
                                pico_error *err) {
    const pico_config_variable *variable = pico_config_variable_find(config, section, key);
    return variable == NULL ? PICO_OK
                            : pico_config_add(config, PICO_SOURCE_ENVIRONMENT, section, key,
                                              variable->value, variable->name, 0, err);
}

pico_status pico_config_read_environment(pico_config *config, pico_error *err) {
    size_t n;
    const pico_config_key *keys = pico_config_keys(&n);
    pico_status status = copy_environment(config, err);
    for (size_t i = 0; i < n && status == PICO_OK; i++) {
        if (strcmp(keys[i].section, PICO_CONFIG_STAGE_SECTION) != 0) {
            status = add_variable(config, keys[i].section, keys[i].option.name, err);
            continue;
        }
        for (uint32_t stage = 1;
             stage <= PICO_CONFIG_STAGE_MAX && status == PICO_OK && config->n_variables != 0;
             stage++) {
            char section[32];
            (void)snprintf(section, sizeof section, "compress.%u", stage);
            status = add_variable(config, section, keys[i].option.name, err);
        }
    }
    return status;
}

int pico_config_entry_is_in(const pico_config *config, const pico_config_entry *entry,
                            const char *section) {
    size_t n = strlen(entry->section), mark = sizeof PICO_CONFIG_SELECTED - 1;
    if (strcmp(entry->section, section) == 0) {
        return 1;
    }
    if (n < mark || strcmp(entry->section + n - mark, PICO_CONFIG_SELECTED) != 0 ||
        strncmp(entry->section, section, n - mark) != 0 || section[n - mark] != '.') {
        return 0;
    }
    char kind[32];
    (void)snprintf(kind, sizeof kind, "%.*s", (int)(n - mark), entry->section);
    const char *selected = pico_config_string(config, kind, "plugin");
    /* A plugin given as a file is bound under its own name, which the path need not show. */
    return selected != NULL &&
           (strchr(selected, '/') != NULL || strcmp(selected, section + n - mark + 1) == 0);
}

const pico_config_entry *pico_config_lookup(const pico_config *config, const char *section,
                                            const char *key) {
    const pico_config_entry *found = NULL;
    for (size_t i = 0; i < config->n_entries; i++) {
        const pico_config_entry *entry = &config->entries[i];
        if (entry->key != NULL && strcmp(entry->key, key) == 0 &&
            (found == NULL || entry->source >= found->source) &&
            pico_config_entry_is_in(config, entry, section)) {
            found = entry;
        }
    }
    return found;
}

pico_status pico_config_fail_value(pico_error *err, const char *origin, const char *section,
                                   const char *key, const char *value, const char *why) {
    char quoted[PICO_QUOTE_BYTES];
    return pico_fail(err, PICO_E_INVALID, "%s: [%s] %s = %s: %s", origin, section, key,
                     pico_value_quote(value, quoted), why);
}

pico_status pico_config_one_line(pico_status status, pico_error *err) {
    if (status != PICO_OK && err != NULL) {
        size_t n = strnlen(err->message, sizeof err->message - 1);
        n = pico_utf8_complete(err->message, n);
        for (size_t i = 0; i < n; i++) {
            unsigned char c = (unsigned char)err->message[i];
            if (c < 0x20 || c == 0x7f) {
                err->message[i] = ' ';
            }
        }
        err->message[n] = '\0';
    }
    return status;
}

/* The value of a host key as its option parses it; the default where that fails. */
static pico_value get(const pico_config *config, const char *section, const char *key,
                      uint32_t type, const pico_config_entry **entry) {
    const pico_config_key *known = pico_config_key_find(section, key);
    pico_value value = {0};
    char why[160];
    assert(known != NULL && "not a host key");
    int fits = known->option.type == type || (known->option.type == PICO_OPT_ENUM &&
                                              (type == PICO_OPT_STRING || type == PICO_OPT_INT));
    assert(fits && "a host key of another type");
    (void)fits;
    *entry = pico_config_lookup(config, section, key);
    if (*entry != NULL &&
        pico_value_parse(&known->option, (*entry)->value, &value, why, sizeof why) == PICO_OK) {
        return value;
    }
    *entry = NULL;
    value = (pico_value){0};
    if (known->option.def != NULL) {
        (void)pico_value_parse(&known->option, known->option.def, &value, why, sizeof why);
    }
    return value;
}

const char *pico_config_string(const pico_config *config, const char *section, const char *key) {
    const pico_config_entry *entry;
    pico_value value = get(config, section, key, PICO_OPT_STRING, &entry);
    const pico_option *option = &pico_config_key_find(section, key)->option;
    return option->type == PICO_OPT_ENUM ? option->choices[value.u] : value.s;
}

int64_t pico_config_int(const pico_config *config, const char *section, const char *key) {
    const pico_config_entry *entry;
    pico_value value = get(config, section, key, PICO_OPT_INT, &entry);
    uint32_t type = pico_config_key_find(section, key)->option.type;
    return type == PICO_OPT_ENUM ? (int64_t)value.u : value.i;
}

double pico_config_float(const pico_config *config, const char *section, const char *key) {
    const pico_config_entry *entry;
    return get(config, section, key, PICO_OPT_FLOAT, &entry).f;
}

int pico_config_bool(const pico_config *config, const char *section, const char *key) {
    const pico_config_entry *entry;
    return (int)get(config, section, key, PICO_OPT_BOOL, &entry).u;
}

const char *pico_config_path(const pico_config *config, const char *section, const char *key) {
    const pico_config_entry *entry;
    pico_value value = get(config, section, key, PICO_OPT_PATH, &entry);
    return entry != NULL ? entry->path : value.s;
}

int pico_config_is_set(const pico_config *config, const char *section, const char *key) {
    return pico_config_lookup(config, section, key) != NULL;
}

const char *pico_config_origin(const pico_config *config, const char *section, const char *key) {
    const pico_config_entry *entry = pico_config_lookup(config, section, key);
    return entry == NULL ? "default" : entry->origin;
}

size_t pico_config_stages(const pico_config *config, uint32_t *numbers, size_t capacity) {
    size_t n = 0;
    for (uint32_t stage = 1; stage <= PICO_CONFIG_STAGE_MAX; stage++) {
        int present = 0;
        for (size_t i = 0; i < config->n_entries && !present; i++) {
            present = pico_config_stage_of(config->entries[i].section) == stage;
        }
        if (present) {
            if (n < capacity) {
                numbers[n] = stage;
            }
            n++;
        }
    }
    return n;
}
