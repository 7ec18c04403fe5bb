/* Options that are several texts, one a line: stop strings, prompts of samples. */
#ifndef PICO_CLI_LINES_H
#define PICO_CLI_LINES_H

#include "plugin.h"

typedef struct pico_lines {
    const char **line; /* (n) into text */
    size_t n;
    size_t longest; /* bytes */
    char *text;
} pico_lines;

/* The lines of text (NULL: none) that are not empty, with \n, \t and \\ made what they stand for. */
pico_status pico_lines_read(const char *text, pico_lines *out, pico_error *err);
void pico_lines_free(pico_lines *lines);

#endif
