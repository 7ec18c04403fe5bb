/*
 * What a pico_config holds: a list of assignments, each with where it comes from. Private to the
 * config layer.
 */
#ifndef PICO_CONFIG_STORE_H
#define PICO_CONFIG_STORE_H

#include "config/config.h"
#include "util/arena.h"

enum { PICO_SOURCE_FILE = 1, PICO_SOURCE_ENVIRONMENT = 2, PICO_SOURCE_COMMAND_LINE = 3 };

/* Section of a shorthand such as --temp: the section of the selected plugin of that kind. */
#define PICO_CONFIG_SELECTED ".*"

typedef struct pico_config_entry {
    const char *section;
    const char *key; /* NULL: only says that the section is there */
    const char *value;
    const char *path;   /* value made absolute, where the key is a host key of type PATH */
    const char *origin; /* "a.ini:12", "--temp" */
    uint32_t source;    /* PICO_SOURCE_x: the larger one wins, then the later entry */
    uint32_t line;      /* of the file, else 0 */
} pico_config_entry;

typedef struct pico_config_variable {
    const char *name; /* PICOCHAT_... */
    const char *value;
} pico_config_variable;

struct pico_config {
    pico_arena *arena; /* behind a pointer: binding adds absolute paths to a const config */
    pico_config_entry *entries;
    size_t n_entries, capacity;
    pico_config_variable *variables; /* PICOCHAT_* as they were when the environment was read */
    size_t n_variables;
    const char *cwd;         /* NULL if it cannot be named */
    const char *file_folder; /* absolute folder of the INI file; NULL before it is read */
    int has_file;
};

/* Appends an assignment; strings are copied. key may be NULL. line 0: none. */
pico_status pico_config_add(pico_config *config, uint32_t source, const char *section,
                            const char *key, const char *value, const char *origin, uint32_t line,
                            pico_error *err);
/* The assignment that counts for a key of a section, or NULL. */
const pico_config_entry *pico_config_lookup(const pico_config *config, const char *section,
                                            const char *key);
/* The variable of a section and key, or NULL. */
const pico_config_variable *pico_config_variable_find(const pico_config *config,
                                                      const char *section, const char *key);
/* Whether entry belongs to section: named so, or a shorthand for the selected plugin. */
int pico_config_entry_is_in(const pico_config *config, const pico_config_entry *entry,
                            const char *section);
/* An absolute path in the arena; NULL when memory is exhausted. */
const char *pico_config_absolute(const pico_config *config, uint32_t source, const char *path);
/* "ORIGIN: [section] key = value: why". */
pico_status pico_config_fail_value(pico_error *err, const char *origin, const char *section,
                                   const char *key, const char *value, const char *why);

/* Returns status; if it is a failure, err's message, which may quote what a user wrote, is made one
 * line that ends on a whole character. */
pico_status pico_config_one_line(pico_status status, pico_error *err);

#endif
