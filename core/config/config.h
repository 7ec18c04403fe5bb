/*
 * Configuration: INI files, environment, command line, defaults -> values with an origin. Knows the
 * host's own keys (config/keys.h) and, through option tables, plugins' keys. Reads everything first
 * and acts only when all of it was readable.
 *
 * Precedence: command line > PICOCHAT_* environment > INI file > default.
 * Sections: [model] [host] [backend] [attention] [sampler] [decoder] [trainer] [generate] [chat]
 * [compress.N] and [kind.NAME] for plugin NAME's own keys ([compress.N.NAME] for stages).
 * Environment: PICOCHAT_SECTION_KEY in capitals, dots as underscores.
 */
#ifndef PICO_CONFIG_CONFIG_H
#define PICO_CONFIG_CONFIG_H

#include "plugin.h"

typedef struct pico_config pico_config;

pico_status pico_config_open(pico_config **out, pico_error *err);
void pico_config_close(pico_config *config); /* NULL is allowed */

/* Reads an INI file; errors are file:line: message. At most one file. Lines may be up to 64 KiB;
 * indented lines continue the value before them, joined with a newline. */
pico_status pico_config_read_file(pico_config *config, const char *path, pico_error *err);
/* The same from memory; path is for messages and relative paths. For tests and fuzzing. */
pico_status pico_config_read_text(pico_config *config, const char *path, const char *text, size_t n,
                                  pico_error *err);
/* section.key=value; splits at the last dot before '='. origin: "--set", "--temp", ... Ranks as the
 * command line; of two values for one key the later one counts. */
pico_status pico_config_set(pico_config *config, const char *assignment, const char *origin,
                            pico_error *err);
pico_status pico_config_set_value(pico_config *config, const char *section, const char *key,
                                  const char *value, const char *origin, pico_error *err);
/* Reads PICOCHAT_* variables for every host key; plugins' keys are looked up when they are bound.
 */
pico_status pico_config_read_environment(pico_config *config, pico_error *err);

/* Checks that every section exists, every key of a host-owned section is known and its value valid;
 * errors carry file:line and the nearest valid name. Sections of plugins are left to bind. */
pico_status pico_config_check(const pico_config *config, pico_error *err);

/* Values of host keys; the default when nothing sets them. The key must exist in the host's table
 * with that type (an assertion); a stage's key is asked for as "compress.3". Call pico_config_check
 * first: before it, a value that is not valid reads as the default. string also serves ENUM keys
 * (the word), int also serves ENUM keys (index of the word); auto is -1. A value of a `plugin` or
 * `template` key with a '/' is a file and reads as an absolute path, relative to the INI file that
 * holds it. */
const char *pico_config_string(const pico_config *config, const char *section, const char *key);
int64_t pico_config_int(const pico_config *config, const char *section, const char *key);
double pico_config_float(const pico_config *config, const char *section, const char *key);
int pico_config_bool(const pico_config *config, const char *section, const char *key);
/* An absolute path: INI values are relative to the file, others to the working directory. */
const char *pico_config_path(const pico_config *config, const char *section, const char *key);
/* Whether anything but the default sets it. */
int pico_config_is_set(const pico_config *config, const char *section, const char *key);
/* Where the effective value comes from: "default", "configs/a.ini:12", "--temp", "PICOCHAT_...". */
const char *pico_config_origin(const pico_config *config, const char *section, const char *key);

/* The numbers N of the [compress.N] sections, ascending; returns how many (at most capacity are
 * written). */
size_t pico_config_stages(const pico_config *config, uint32_t *numbers, size_t capacity);

/* Binds a plugin's declared options from section (say "sampler.standard") into out
 * (options_bytes, zeroed first). Unknown keys, bad types and ranges are errors with origin and the
 * nearest name. Strings point into config. */
pico_status pico_config_bind(const pico_config *config, const char *section,
                             const pico_option *options, uint32_t n, uint32_t option_size,
                             void *out, uint32_t out_bytes, pico_error *err);
/* The plugin sections (kind.NAME) that the file or the command line mention, for checking those
 * that are not selected. Calls fn for each until it fails. */
pico_status pico_config_each_plugin_section(const pico_config *config,
                                            pico_status (*fn)(void *arg, const char *section,
                                                              pico_error *err),
                                            void *arg, pico_error *err);

/* Where a plugin section is first mentioned: "configs/a.ini:12", "--set"; "" if nowhere. */
const char *pico_config_section_origin(const pico_config *config, const char *section);
/* A section that is mentioned besides the given one; NULL if there is none. */
const char *pico_config_other_section(const pico_config *config, const char *section);

/* Every host-owned key, for `config dump`, --help and the generated reference. */
typedef struct pico_config_key {
    const char *section;
    pico_option option;     /* offset unused */
    const char *flag;       /* "--temp", or NULL */
    const char *flag_short; /* "-t", or NULL */
} pico_config_key;
const pico_config_key *pico_config_keys(size_t *n);

/* Flags that stand for a key of whichever plugin of a kind is selected: --temp sets temperature of
 * the selected sampler. */
typedef struct pico_config_shorthand {
    const char *flag;    /* "--temp" */
    const char *section; /* "sampler": [sampler.SELECTED] */
    const char *key;
    const char *help;
} pico_config_shorthand;
const pico_config_shorthand *pico_config_shorthands(size_t *n);
/* Records one. pico_config_bind applies it when it binds the selected plugin of that kind, and
 * fails there, by name, if that plugin declares no such key. */
pico_status pico_config_set_shorthand(pico_config *config, const char *flag, const char *value,
                                      pico_error *err);

/* Effective values as text with their origins, for `config dump`. value is NULL when nothing sets
 * the key and it has no default. */
typedef void (*pico_config_value_fn)(void *arg, const char *section, const pico_option *option,
                                     const char *value, const char *origin);
/* All host keys, those of every [compress.N] included. */
void pico_config_each_value(const pico_config *config, pico_config_value_fn fn, void *arg);
/* The declared keys of one plugin section; arguments as for bind. */
void pico_config_each_option(const pico_config *config, const char *section,
                             const pico_option *options, uint32_t n, uint32_t option_size,
                             pico_config_value_fn fn, void *arg);

#endif
