/* --help and --version, made from the same tables that parsing uses. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/options.h"
#include "config/value.h"

enum { COLUMN = 30, LINE_WIDTH = 98 };

void pico_help_version(FILE *out) {
    (void)fprintf(out, "picochat %s (plugin ABI %u.%u)\n", PICO_VERSION, PICO_ABI_MAJOR,
                  PICO_ABI_MINOR);
}

void pico_help_program(const char *program, FILE *out) {
    size_t n;
    const pico_command *const *commands = pico_commands(&n);
    (void)fprintf(out, "usage: %s COMMAND [options]\n\n", program);
    for (size_t i = 0; i < n; i++) {
        (void)fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    }
    (void)fprintf(out,
                  "\nWithout a command: run. '%s COMMAND --help' lists the options of a command,\n"
                  "'%s config reference' every key of the configuration, '%s plugins list' what\n"
                  "can be selected. '%s --compat=llama2c MODEL ...' takes llama2.c's options.\n",
                  program, program, program, program);
}

/* Breaks text at blanks into lines that begin at COLUMN. */
static void print_wrapped(FILE *out, const char *text) {
    for (;;) {
        size_t n = strlen(text), cut = n;
        if (n > LINE_WIDTH - COLUMN) {
            cut = LINE_WIDTH - COLUMN;
            while (cut > 0 && text[cut] != ' ') {
                cut--;
            }
            cut = cut == 0 ? n : cut;
        }
        (void)fprintf(out, "%.*s\n", (int)cut, text);
        if (cut == n) {
            return;
        }
        text += cut + 1;
        (void)fprintf(out, "%*s", COLUMN, "");
    }
}

static void print_option(FILE *out, const char *name, const char *alias, const char *value,
                         const char *help) {
    char left[128];
    const char *separator = value == NULL || value[0] == '[' ? "" : " ";
    (void)snprintf(left, sizeof left, "%s%s%s%s%s", alias == NULL ? "" : alias,
                   alias == NULL ? "" : ", ", name, separator, value == NULL ? "" : value);
    if (strlen(left) < COLUMN - 3) {
        (void)fprintf(out, "  %-*s", COLUMN - 2, left);
    } else {
        (void)fprintf(out, "  %s\n%*s", left, COLUMN, "");
    }
    print_wrapped(out, help);
}

/* Whether a flag means an option of the command's own instead of the host's. */
static int is_taken(const pico_command *command, const char *flag) {
    return flag != NULL &&
           pico_option_find(command, flag, strlen(flag)).kind == (uint32_t)PICO_OPTION_OWN;
}

static const char *value_name(const pico_option *option) {
    switch (option->type) {
    case PICO_OPT_BOOL:
        return NULL;
    case PICO_OPT_PATH:
        return "FILE";
    case PICO_OPT_ENUM:
        return "WORD";
    case PICO_OPT_STRING:
        return "TEXT";
    default:
        return "N";
    }
}

static void print_key(FILE *out, const pico_command *command, const pico_config_key *key) {
    char help[512], values[160];
    const char *alias = is_taken(command, key->flag_short) ? NULL : key->flag_short;
    const pico_option *option = &key->option;
    values[0] = '\0';
    if (option->type == PICO_OPT_ENUM) {
        pico_value_describe(option, values, sizeof values);
    }
    (void)snprintf(help, sizeof help, "%s%s%s ([%s] %s%s%s)", option->help,
                   values[0] == '\0' ? "" : "; ", values, key->section, option->name,
                   option->def == NULL ? "" : " = ", option->def == NULL ? "" : option->def);
    print_option(out, key->flag, alias, value_name(option), help);
}

void pico_help_command(const char *program, const pico_command *command, FILE *out) {
    size_t n;
    (void)fprintf(out, "usage: %s %s\n\n%s\n", program, command->usage, command->summary);
    if (command->details != NULL) {
        (void)fprintf(out, "\n%s\n", command->details);
    }
    if (command->n_options != 0) {
        (void)fprintf(out, "\nOptions of %s:\n", command->name);
    }
    for (size_t i = 0; i < command->n_options; i++) {
        const pico_cli_option *option = &command->options[i];
        print_option(out, option->name, option->alias, option->value, option->help);
    }
    (void)fprintf(out, "\nOptions that set keys of the configuration:\n");
    const pico_config_key *keys = pico_config_keys(&n);
    for (size_t i = 0; i < n; i++) {
        if (keys[i].flag != NULL && !is_taken(command, keys[i].flag) &&
            pico_command_takes(command, keys[i].section, keys[i].option.name)) {
            print_key(out, command, &keys[i]);
        }
    }
    const pico_config_shorthand *shorthands = pico_config_shorthands(&n);
    for (size_t i = 0; i < n; i++) {
        char help[256];
        if (pico_command_takes(command, shorthands[i].section, shorthands[i].key)) {
            (void)snprintf(help, sizeof help, "%s ([%s.PLUGIN] %s)", shorthands[i].help,
                           shorthands[i].section, shorthands[i].key);
            print_option(out, shorthands[i].flag, NULL, "N", help);
        }
    }
    (void)fprintf(out, "\nOptions of every command:\n");
    const pico_cli_option *common = pico_common_options();
    for (size_t i = 0; i < PICO_N_COMMON; i++) {
        if (!is_taken(command, common[i].name)) {
            print_option(out, common[i].name,
                         is_taken(command, common[i].alias) ? NULL : common[i].alias,
                         common[i].value, common[i].help);
        }
    }
}
