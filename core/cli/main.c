/*
 * picochat: which command a command line means. The only file that ends the process.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "util/text.h"

enum { MAX_COMMANDS = 16 };

static const pico_command *const commands[] = {
    &pico_command_run,      &pico_command_chat,      &pico_command_bench,    &pico_command_eval,
    &pico_command_train,    &pico_command_convert,   &pico_command_compress, &pico_command_inspect,
    &pico_command_tokenize, &pico_command_tokenizer, &pico_command_plugins,  &pico_command_config};

const pico_command *const *pico_commands(size_t *n) {
    *n = sizeof commands / sizeof *commands;
    return commands;
}

static const pico_command *find_command(const char *name) {
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(commands[i]->name, name) == 0) {
            return commands[i];
        }
    }
    return NULL;
}

static int ends_with(const char *text, const char *end) {
    size_t n = strlen(text), n_end = strlen(end);
    return n > n_end && strcmp(text + n - n_end, end) == 0;
}

static int fail_unknown(const char *name) {
    const char *names[MAX_COMMANDS];
    if (ends_with(name, ".gguf") || ends_with(name, ".bin")) {
        (void)fprintf(stderr,
                      "picochat: error: there is no command '%s'; a model is given with "
                      "-m MODEL\n",
                      name);
        return PICO_EXIT_USAGE;
    }
    if (strpbrk(name, " \t\n") != NULL) {
        (void)fprintf(stderr,
                      "picochat: error: there is no command '%s'; a prompt is given with "
                      "-p TEXT\n",
                      name);
        return PICO_EXIT_USAGE;
    }
    size_t n = sizeof commands / sizeof *commands;
    for (size_t i = 0; i < n; i++) {
        names[i] = commands[i]->name;
    }
    const char *nearest = pico_text_nearest(name, names, n);
    (void)fprintf(stderr, "picochat: error: there is no command '%s'%s%s%s\n", name,
                  nearest == NULL ? "" : "; did you mean ", nearest == NULL ? "" : nearest,
                  nearest == NULL ? "; 'picochat --help' lists the commands" : "?");
    return PICO_EXIT_USAGE;
}

/* `picochat help [COMMAND]` */
static int help(int argc, char **argv) {
    const pico_command *command = argc > 2 ? find_command(argv[2]) : NULL;
    if (argc > 2 && command == NULL) {
        return fail_unknown(argv[2]);
    }
    if (command != NULL) {
        pico_help_command("picochat", command, stdout);
    } else {
        pico_help_program("picochat", stdout);
    }
    return pico_cli_finish_output(PICO_EXIT_OK);
}

/* --compat=llama2c among the first words: removes it, and returns how many words are left. */
static int take_compat(int argc, char **argv, int *compat) {
    int at = argc > 1 && strcmp(argv[1], "run") == 0 ? 2 : 1, words = 0;
    *compat = 0;
    if (at < argc && strcmp(argv[at], "--compat=llama2c") == 0) {
        words = 1;
    } else if (at + 1 < argc && strcmp(argv[at], "--compat") == 0 &&
               strcmp(argv[at + 1], "llama2c") == 0) {
        words = 2;
    }
    if (words == 0) {
        return argc;
    }
    *compat = 1;
    for (int i = at + words; i <= argc; i++) { /* the NULL at the end moves too */
        argv[1 + i - at - words] = argv[i];
    }
    return argc - words - (at - 1);
}

static int start(int argc, char **argv) {
    int compat = 0;
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    const char *name = slash != NULL ? slash + 1 : argc > 0 ? argv[0] : "picochat";
    if (strcmp(name, "run") == 0) {
        return pico_compat_llama2c(argc, argv);
    }
    argc = take_compat(argc, argv, &compat);
    if (compat) {
        return pico_compat_llama2c(argc, argv);
    }
    if (argc < 2) {
        pico_help_program("picochat", stderr);
        return PICO_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        pico_help_program("picochat", stdout);
        return pico_cli_finish_output(PICO_EXIT_OK);
    }
    if (strcmp(argv[1], "help") == 0) {
        return help(argc, argv);
    }
    if (argv[1][0] == '-') { /* no command: run */
        return pico_cli_main("picochat", &pico_command_run, argc, argv, 1);
    }
    const pico_command *command = find_command(argv[1]);
    return command == NULL ? fail_unknown(argv[1])
                           : pico_cli_main("picochat", command, argc, argv, 2);
}

int main(int argc, char **argv) {
    (void)signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error with a message */
    return start(argc, argv);
}
