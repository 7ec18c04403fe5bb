/*
 * The exit codes of the program, as documented for users. Names alone: which failure ends with which
 * code is decided where it happens.
 */
#ifndef PICO_CLI_EXIT_CODE_H
#define PICO_CLI_EXIT_CODE_H

enum {
    PICO_EXIT_OK = 0,
    PICO_EXIT_RUNTIME = 1,
    PICO_EXIT_USAGE = 2,  /* command line and configuration */
    PICO_EXIT_MODEL = 3,  /* a model or its tokenizer */
    PICO_EXIT_PLUGIN = 4, /* a plugin that is missing, refused or failing */
    PICO_EXIT_MEMORY = 5, /* memory and devices */
    PICO_EXIT_INTERRUPTED = 130
};

#endif
