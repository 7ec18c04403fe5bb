/*
 * What the commands share: the table of commands, the command line made into a configuration and
 * the command's own options, failures made into one message and an exit code. A command includes
 * this header and runtime.h. It runs nothing itself.
 *
 * An option on the command line is, in this order: one of the command's own (its table), a flag of
 * a host key in one of the command's sections (config/keys), a shorthand of such a section, or one
 * that every command has: --config FILE, --set section.key=value, -v/--verbose, -q/--quiet,
 * -h/--help, --version. `--flag value` and `--flag=value` are the same; `--` ends the options.
 */
#ifndef PICO_CLI_CLI_H
#define PICO_CLI_CLI_H

#include "cli/exit_code.h"
#include "cli/runtime.h"
#include "config/config.h"

typedef struct pico_cli pico_cli;

/* One of a command's own options. */
typedef struct pico_cli_option {
    const char *name;  /* "--tokens"; or "-o" if there is only a short form */
    const char *alias; /* "-f"; NULL if there is none */
    const char *value; /* "FILE": what --help calls the value. NULL: a switch. "[=SEP]": the value
                          may be left out, and is only taken from --flag=value */
    const char *help;  /* one line */
} pico_cli_option;

typedef struct pico_command {
    const char *name;
    const char *summary;  /* one line */
    const char *usage;    /* what follows the program's name: "eval -m MODEL -f TEXT [options]" */
    const char *details;  /* more for --help, lines of at most 100 columns; NULL if there is none */
    const char *sections; /* host sections whose flags it takes, or single keys: "model host
                             generate.seed" */
    const pico_cli_option *options;
    size_t n_options;
    size_t max_arguments;            /* that are no options */
    int runs_plugins;                /* 1: the sections of all plugins are checked before run() */
    int (*run)(const pico_cli *cli); /* returns the exit code; has printed what went wrong */
} pico_command;

/* One own option on the command line. */
typedef struct pico_cli_given {
    size_t option; /* index into the command's table */
    const char *value;
} pico_cli_given;

/* The parsed command line, for the time of run(). */
struct pico_cli {
    const char *program; /* for messages and usage */
    const pico_command *command;
    pico_config *config;     /* file, environment and command line; checked (pico_config_check) */
    const char *config_path; /* of --config; NULL if there was none */
    const char *const *argument;
    size_t n_argument;
    const char *const *value; /* of own option i: NULL absent, "" a switch; the last one counts */
    const struct pico_cli_given *given; /* (n_given) own options as they came, repeats too */
    size_t n_given;
    int verbose, quiet; /* -v, -q */
};

/* The commands, in the order of `picochat --help`. Each is defined in its cmd_X.c. */
extern const pico_command pico_command_run, pico_command_chat, pico_command_bench,
    pico_command_eval, pico_command_train, pico_command_convert, pico_command_compress,
    pico_command_inspect, pico_command_tokenize, pico_command_tokenizer, pico_command_plugins,
    pico_command_config;
const pico_command *const *pico_commands(size_t *n);

/* Parses argv[first..argc) for a command and runs it; returns the exit code. */
int pico_cli_main(const char *program, const pico_command *command, int argc, char **argv,
                  int first);

/* The value of an own option by its name ("--tokens"; an assertion that it exists), "" for a
 * switch that is there, NULL if it is absent. */
const char *pico_cli_value(const pico_cli *cli, const char *name);
int pico_cli_has(const pico_cli *cli, const char *name);
/* The value of its i-th occurrence, for options that may be repeated; NULL: there are not so many. */
const char *pico_cli_nth(const pico_cli *cli, const char *name, size_t i);
/* A whole number from min to max; *out stays as it was if the option is absent. PICO_E_INVALID with
 * a message that names the option. */
pico_status pico_cli_int(const pico_cli *cli, const char *name, int64_t min, int64_t max,
                         int64_t *out, pico_error *err);
/* Numbers separated by commas; *n stays as it was if the option is absent. */
pico_status pico_cli_int_list(const pico_cli *cli, const char *name, int64_t min, int64_t max,
                              int64_t *out, size_t capacity, size_t *n, pico_error *err);

/* Print "picochat: error: message" to stderr and return an exit code: the one given, or that of
 * err->code. */
int pico_cli_fail(const pico_cli *cli, int exit_code, const char *fmt, ...) PICO_PRINTF(3, 4);
int pico_cli_fail_error(const pico_cli *cli, const pico_error *err);
/* A wrong command line: the message, "try picochat COMMAND --help", exit code 2. */
int pico_cli_usage(const pico_cli *cli, const char *fmt, ...) PICO_PRINTF(2, 3);

/* Opens [model] path (with [model] tokenizer) without a runtime, for commands that only look.
 * Returns 0, or prints and returns an exit code. path: NULL for [model] path. */
int pico_cli_open_file(const pico_cli *cli, const char *path, pico_model_file **out);

/* Level of [host] log as PICO_LOG_x. */
uint32_t pico_cli_log_level(const pico_cli *cli);

/* Flushes stdout; if anything could not be written says so and returns 1, else returns code. A
 * closed pipe is not worth a message. */
int pico_cli_finish_output(int code);
/* What that says and returns when a write has failed with error (an errno value). */
int pico_cli_fail_output(int error);

/* ---- check.c ---- */
/* Binds the options of a plugin from its section, to see whether they are valid. */
pico_status pico_cli_bind(const pico_cli *cli, const char *section, const pico_loaded *loaded,
                          pico_error *err);
/* Checks the section of every plugin that can be found, selected or not; warns of the others. */
pico_status pico_cli_check_sections(const pico_cli *cli, pico_registry *registry, pico_error *err);
/* Warns of what is allowed but hardly meant: folders that do not exist, '#' in paths. */
void pico_cli_warn(const pico_cli *cli);

/* ---- help.c ---- */
void pico_help_program(const char *program, FILE *out);
void pico_help_command(const char *program, const pico_command *command, FILE *out);
void pico_help_version(FILE *out);

/* ---- compat_llama2c.c: llama2.c's own command line; argv[0] is its name ---- */
int pico_compat_llama2c(int argc, char **argv);

#endif
