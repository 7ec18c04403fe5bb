/*
 * The host's own keys: one table that the INI reader, the environment, the command line, --help and
 * the generated reference share. It holds no plugin's keys.
 */
#ifndef PICO_CONFIG_KEYS_H
#define PICO_CONFIG_KEYS_H

#include "config/config.h"

/* How the section of a stage is written in the table; it stands for [compress.1] and so on. */
#define PICO_CONFIG_STAGE_SECTION "compress.N"

enum { PICO_CONFIG_STAGE_MAX = 999 };

/* The key of a section, or NULL. section may be "compress.3". */
const pico_config_key *pico_config_key_find(const char *section, const char *key);
/* Whether the host owns keys of the section. */
int pico_config_section_is_host(const char *section);
/* N of "compress.N", with nothing behind it; 0 if it is not that, or not in 1..999. */
uint32_t pico_config_stage_of(const char *section);
/* Whether it is a plugin's section: kind.NAME or compress.N.NAME with a possible name. */
int pico_config_section_is_plugin(const char *section);
/* PICOCHAT_SECTION_KEY in capitals; 0 if it does not fit. */
int pico_config_env_name(const char *section, const char *key, char *out, size_t size);

#endif
