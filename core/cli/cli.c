/*
 * The command line of one command: parsing, the configuration that results, running it. Failures
 * end here as one message on stderr and an exit code.
 */
#include "cli/cli.h"

#include <assert.h>
#include <errno.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>

#include "cli/load.h"
#include "cli/options.h"

/* What parsing fills; the arrays hold as many entries as there are words. */
typedef struct cli_state {
    pico_cli cli;
    const char **argument;
    const char **value;
    pico_cli_given *given;
    int help, version;
    pico_error err;
} cli_state;

/* ---- messages ---- */

static void print_error(const char *fmt, va_list args) {
    char message[4096];
    if (vsnprintf(message, sizeof message, fmt, args) >= 0) {
        (void)fflush(stdout); /* what was said before comes first, where both go to one place */
        (void)fprintf(stderr, "picochat: error: %s\n", message);
    }
}

int pico_cli_fail(const pico_cli *cli, int exit_code, const char *fmt, ...) {
    va_list args;
    (void)cli;
    va_start(args, fmt);
    print_error(fmt, args);
    va_end(args);
    return exit_code;
}

int pico_cli_fail_error(const pico_cli *cli, const pico_error *err) {
    return pico_cli_fail(cli, pico_exit_code(err->code), "%s", err->message);
}

int pico_cli_usage(const pico_cli *cli, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    print_error(fmt, args);
    va_end(args);
    (void)fprintf(stderr, "usage: %s %s\n'%s %s --help' says more\n", cli->program,
                  cli->command->usage, cli->program, cli->command->name);
    return PICO_EXIT_USAGE;
}

/* ---- parsing ---- */

/* An own, key, shorthand or common option with its value (NULL: a switch). */
static pico_status apply(cli_state *state, pico_option_match match, const char *flag,
                         const char *value) {
    pico_cli *cli = &state->cli;
    size_t n;
    if (match.kind == PICO_OPTION_OWN) {
        state->value[match.index] = value == NULL ? "" : value;
        state->given[cli->n_given++] = (pico_cli_given){match.index, state->value[match.index]};
        return PICO_OK;
    }
    if (match.kind == PICO_OPTION_KEY) {
        const pico_config_key *key = &pico_config_keys(&n)[match.index];
        return pico_config_set_value(cli->config, key->section, key->option.name,
                                     value == NULL ? "on" : value, flag, &state->err);
    }
    if (match.kind == PICO_OPTION_SHORTHAND) {
        return pico_config_set_shorthand(cli->config, flag, value, &state->err);
    }
    switch (match.index) {
    case PICO_COMMON_CONFIG:
        if (cli->config_path != NULL) {
            return pico_fail(&state->err, PICO_E_INVALID, "--config is given twice");
        }
        cli->config_path = value;
        return PICO_OK;
    case PICO_COMMON_SET:
        return pico_config_set(cli->config, value, "--set", &state->err);
    case PICO_COMMON_VERBOSE:
    case PICO_COMMON_QUIET:
        cli->verbose = match.index == PICO_COMMON_VERBOSE;
        cli->quiet = !cli->verbose;
        return pico_config_set_value(cli->config, "host", "log", cli->verbose ? "debug" : "warn",
                                     flag, &state->err);
    case PICO_COMMON_HELP:
        state->help = 1;
        return PICO_OK;
    default:
        state->version = 1;
        return PICO_OK;
    }
}

static pico_status fail_unknown(cli_state *state, const char *name, uint32_t kind) {
    const pico_command *command = state->cli.command;
    const char *nearest = pico_option_nearest(command, name);
    if (kind == PICO_OPTION_FOREIGN) {
        return pico_fail(&state->err, PICO_E_INVALID, "%s does not take the option %s",
                         command->name, name);
    }
    return pico_fail(&state->err, PICO_E_INVALID, "%s has no option %s%s%s%s", command->name, name,
                     nearest == NULL ? "" : "; did you mean ", nearest == NULL ? "" : nearest,
                     nearest == NULL ? "" : "?");
}

/* Parses the option at argv[*i]; moves *i to its last word. */
static pico_status parse_option(cli_state *state, int argc, char **argv, int *i) {
    const char *word = argv[*i], *equals = NULL, *value = NULL;
    char name[64];
    if (word[1] == '-') {
        equals = strchr(word, '=');
    }
    size_t n = equals == NULL ? strlen(word) : (size_t)(equals - word);
    (void)snprintf(name, sizeof name, "%.*s", n < sizeof name ? (int)n : (int)sizeof name - 1,
                   word);
    pico_option_match match = pico_option_find(state->cli.command, word, n);
    if (match.kind == PICO_OPTION_NONE || match.kind == PICO_OPTION_FOREIGN) {
        return fail_unknown(state, name, match.kind);
    }
    if (equals != NULL) {
        value = equals + 1;
        if (match.takes_value == 0) {
            return pico_fail(&state->err, PICO_E_INVALID, "%s takes no value", name);
        }
    } else if (match.takes_value == 1) {
        if (*i + 1 >= argc) {
            return pico_fail(&state->err, PICO_E_INVALID, "%s needs a value", name);
        }
        value = argv[++*i];
    }
    return apply(state, match, name, value);
}

static pico_status parse(cli_state *state, int argc, char **argv, int first) {
    int only_arguments = 0;
    pico_cli *cli = &state->cli;
    for (int i = first; i < argc; i++) {
        pico_status status = PICO_OK;
        if (!only_arguments && strcmp(argv[i], "--") == 0) {
            only_arguments = 1;
        } else if (!only_arguments && argv[i][0] == '-' && argv[i][1] != '\0') {
            status = parse_option(state, argc, argv, &i);
        } else if (cli->n_argument == cli->command->max_arguments) {
            uint32_t kind = pico_option_find(cli->command, "--prompt", 8).kind;
            int has_prompt = kind == PICO_OPTION_OWN || kind == PICO_OPTION_KEY;
            status = pico_fail(&state->err, PICO_E_INVALID, "unexpected argument '%.200s'%s",
                               argv[i], has_prompt ? "; a prompt is given with -p TEXT" : "");
        } else {
            state->argument[cli->n_argument++] = argv[i];
        }
        if (status != PICO_OK) {
            return status;
        }
    }
    return PICO_OK;
}

/* File and environment under what the command line said, then the check of everything. */
static pico_status complete_config(cli_state *state) {
    pico_cli *cli = &state->cli;
    pico_status status = PICO_OK;
    if (cli->config_path != NULL) {
        status = pico_config_read_file(cli->config, cli->config_path, &state->err);
    }
    if (status == PICO_OK) {
        status = pico_config_read_environment(cli->config, &state->err);
    }
    return status == PICO_OK ? pico_config_check(cli->config, &state->err) : status;
}

/* A mistake in the section of any plugin shows before the model is loaded. */
static int check_plugins(cli_state *state) {
    pico_registry *registry = NULL;
    const char *path = pico_config_string(state->cli.config, "host", "plugin_path");
    pico_status status = pico_registry_open(path, &registry, &state->err);
    if (status == PICO_OK) {
        status = pico_cli_check_sections(&state->cli, registry, &state->err);
    }
    pico_registry_close(registry);
    if (status == PICO_OK) {
        return PICO_EXIT_OK;
    }
    return pico_cli_fail(&state->cli, status == PICO_E_NOMEM ? PICO_EXIT_MEMORY : PICO_EXIT_USAGE,
                         "%s", state->err.message);
}

static int run_parsed(cli_state *state, int argc, char **argv, int first) {
    pico_cli *cli = &state->cli;
    pico_status status = parse(state, argc, argv, first);
    if (status != PICO_OK) {
        return status == PICO_E_INVALID ? pico_cli_usage(cli, "%s", state->err.message)
                                        : pico_cli_fail_error(cli, &state->err);
    }
    if (state->help) {
        pico_help_command(cli->program, cli->command, stdout);
        return PICO_EXIT_OK;
    }
    if (state->version) {
        pico_help_version(stdout);
        return PICO_EXIT_OK;
    }
    if (complete_config(state) != PICO_OK) {
        int code = state->err.code == PICO_E_NOMEM ? PICO_EXIT_MEMORY : PICO_EXIT_USAGE;
        return pico_cli_fail(cli, code, "%s", state->err.message);
    }
    pico_cli_warn(cli);
    int code = cli->command->runs_plugins ? check_plugins(state) : PICO_EXIT_OK;
    return code == PICO_EXIT_OK ? cli->command->run(cli) : code;
}

int pico_cli_main(const char *program, const pico_command *command, int argc, char **argv,
                  int first) {
    cli_state state = {.cli = {.program = program, .command = command}};
    state.argument = calloc((size_t)argc + 1, sizeof *state.argument);
    state.value = calloc(command->n_options + 1, sizeof *state.value);
    state.given = calloc((size_t)argc + 1, sizeof *state.given);
    state.cli.argument = state.argument;
    state.cli.given = state.given;
    state.cli.value = state.value;
    int code = PICO_EXIT_MEMORY;
    if (state.argument == NULL || state.value == NULL || state.given == NULL) {
        (void)pico_cli_fail(&state.cli, code, "out of memory");
    } else if (pico_config_open(&state.cli.config, &state.err) != PICO_OK) {
        code = pico_cli_fail_error(&state.cli, &state.err);
    } else {
        code = run_parsed(&state, argc, argv, first);
    }
    pico_config_close(state.cli.config);
    free(state.argument);
    free(state.value);
    free(state.given);
    return pico_cli_finish_output(code);
}

/* ---- what commands ask ---- */

const char *pico_cli_value(const pico_cli *cli, const char *name) {
    for (size_t i = 0; i < cli->command->n_options; i++) {
        if (strcmp(cli->command->options[i].name, name) == 0) {
            return cli->value[i];
        }
    }
    assert(0 && "the command has no such option");
    return NULL;
}

const char *pico_cli_nth(const pico_cli *cli, const char *name, size_t i) {
    for (size_t k = 0; k < cli->n_given; k++) {
        const pico_cli_given *given = &cli->given[k];
        if (strcmp(cli->command->options[given->option].name, name) == 0 && i-- == 0) {
            return given->value;
        }
    }
    return NULL;
}

int pico_cli_has(const pico_cli *cli, const char *name) {
    return pico_cli_value(cli, name) != NULL;
}

/* A whole number at text that ends at one of the characters of ends or at its end. */
static int parse_int(const char **text, const char *ends, int64_t *out) {
    char *end = NULL;
    errno = 0;
    long long x = strtoll(*text, &end, 10);
    if (end == *text || errno != 0 || (*end != '\0' && strchr(ends, *end) == NULL)) {
        return 0;
    }
    *text = end;
    *out = x;
    return 1;
}

pico_status pico_cli_int_list(const pico_cli *cli, const char *name, int64_t min, int64_t max,
                              int64_t *out, size_t capacity, size_t *n, pico_error *err) {
    const char *text = pico_cli_value(cli, name), *at = text;
    size_t count = 0;
    while (at != NULL) {
        int64_t x = 0;
        if (count == capacity || !parse_int(&at, ",", &x) || x < min || x > max) {
            return pico_fail(err, PICO_E_INVALID, "%s %s: expected %s from %lld to %lld%s", name,
                             text, capacity == 1 ? "a whole number" : "whole numbers",
                             (long long)min, (long long)max,
                             capacity == 1 ? "" : ", separated by commas");
        }
        out[count++] = x;
        at = *at == ',' ? at + 1 : NULL;
    }
    *n = text == NULL ? *n : count;
    return PICO_OK;
}

pico_status pico_cli_int(const pico_cli *cli, const char *name, int64_t min, int64_t max,
                         int64_t *out, pico_error *err) {
    size_t n = 0;
    return pico_cli_int_list(cli, name, min, max, out, 1, &n, err);
}

int pico_cli_open_file(const pico_cli *cli, const char *path, pico_model_file **out) {
    pico_error err = {0};
    *out = NULL;
    if (path == NULL) {
        path = pico_config_path(cli->config, "model", "path");
    }
    if (path == NULL || *path == '\0') {
        return pico_cli_usage(cli, "no model: give -m MODEL or set [model] path");
    }
    pico_open_params params = pico_load_params(cli->config);
    pico_status status = pico_model_file_open_with(path, &params, out, &err);
    if (status == PICO_OK) {
        return PICO_EXIT_OK;
    }
    pico_load_advise(cli->config, path, &err);
    return pico_cli_fail(cli, status == PICO_E_NOMEM ? PICO_EXIT_MEMORY : PICO_EXIT_MODEL, "%s",
                         err.message);
}

uint32_t pico_cli_log_level(const pico_cli *cli) {
    return (uint32_t)pico_config_int(cli->config, "host", "log");
}

int pico_cli_fail_output(int error) {
    if (error != EPIPE) {
        (void)fprintf(stderr, "picochat: error: cannot write to standard output: %s\n",
                      strerror(error));
    }
    __fpurge(stdout); /* reported: nothing is left for the end of the program */
    clearerr(stdout);
    return PICO_EXIT_RUNTIME;
}

int pico_cli_finish_output(int code) {
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return code;
    }
    int failed = pico_cli_fail_output(errno == 0 ? EIO : errno);
    return code == PICO_EXIT_OK ? failed : code;
}
