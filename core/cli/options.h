/* Which option a word on the command line is: the lookup that parsing and --help share. */
#ifndef PICO_CLI_OPTIONS_H
#define PICO_CLI_OPTIONS_H

#include "cli/cli.h"

enum {
    PICO_OPTION_NONE = 0,
    PICO_OPTION_OWN,       /* index into the command's table */
    PICO_OPTION_KEY,       /* index into pico_config_keys() */
    PICO_OPTION_SHORTHAND, /* index into pico_config_shorthands() */
    PICO_OPTION_COMMON,    /* index into pico_common_options() */
    PICO_OPTION_FOREIGN    /* a flag of a section that the command does not take */
};

enum {
    PICO_COMMON_CONFIG,
    PICO_COMMON_SET,
    PICO_COMMON_VERBOSE,
    PICO_COMMON_QUIET,
    PICO_COMMON_HELP,
    PICO_COMMON_VERSION,
    PICO_N_COMMON
};

typedef struct pico_option_match {
    uint32_t kind; /* PICO_OPTION_x */
    size_t index;
    uint32_t takes_value; /* 0: no. 1: yes. 2: only as --flag=value */
} pico_option_match;

/* The options that every command has, PICO_N_COMMON of them. */
const pico_cli_option *pico_common_options(void);

/* Whether a command takes the flag of a host key, or a shorthand for a plugin's key. */
int pico_command_takes(const pico_command *command, const char *section, const char *key);

/* name[0..n) is the option without "=value". */
pico_option_match pico_option_find(const pico_command *command, const char *name, size_t n);

/* The name of an option that is near to name, or NULL. */
const char *pico_option_nearest(const pico_command *command, const char *name);

#endif
