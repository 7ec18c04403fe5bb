/* Texts, one a line; see lines.h. */
#include "cli/lines.h"

#include <stdlib.h>
#include <string.h>

/* \n, \t and \\ in place; a text that spans lines must be writable on one. */
static void unescape(char *text) {
    char *to = text;
    for (const char *from = text; *from != '\0'; from++) {
        char next = from[0] == '\\' ? from[1] : '\0';
        if (next == 'n' || next == 't' || next == '\\') {
            *to++ = (char)(next == 'n' ? '\n' : next == 't' ? '\t' : '\\');
            from++;
        } else {
            *to++ = *from;
        }
    }
    *to = '\0';
}

pico_status pico_lines_read(const char *text, pico_lines *out, pico_error *err) {
    size_t n = 1;
    char *save = NULL;
    *out = (pico_lines){0};
    text = text == NULL ? "" : text;
    for (const char *c = text; *c != '\0'; c++) {
        n += *c == '\n';
    }
    out->line = calloc(n, sizeof *out->line);
    out->text = strdup(text);
    if (out->line == NULL || out->text == NULL) {
        pico_lines_free(out);
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    for (char *line = strtok_r(out->text, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        unescape(line);
        const size_t length = strlen(line);
        out->longest = length > out->longest ? length : out->longest;
        out->line[out->n++] = line;
    }
    return PICO_OK;
}

void pico_lines_free(pico_lines *lines) {
    free(lines->line);
    free(lines->text);
    *lines = (pico_lines){0};
}
