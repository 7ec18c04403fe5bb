/*
 * Lines that a person types: with editing and a history where libedit is there and both ends are
 * terminals, plain otherwise. The history lives in memory only.
 */
#ifndef PICO_CLI_LINE_INPUT_H
#define PICO_CLI_LINE_INPUT_H

#include "plugin.h"

typedef struct pico_line_input pico_line_input;

enum { PICO_LINE_TEXT = 0, PICO_LINE_END = 1, PICO_LINE_INTERRUPTED = 2 };

pico_status pico_line_open(pico_line_input **out, pico_error *err);
void pico_line_close(pico_line_input *input); /* NULL is allowed */
/* Shows prompt (on stderr, unless the line is edited) and reads a line; *line is valid until the
 * next call and has no newline at its end. Returns PICO_LINE_x. */
int pico_line_read(pico_line_input *input, const char *prompt, const char **line);
/* Whether a person types: stdin is a terminal. */
int pico_line_is_terminal(const pico_line_input *input);

#endif
