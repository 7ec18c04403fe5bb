/* Reading lines, edited or plain; see line_input.h. */
#include "cli/line_input.h"

#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef PICO_HAVE_EDIT
#include <histedit.h>
#endif

enum { HISTORY_LINES = 500 };

struct pico_line_input {
    int is_terminal;
    char *line; /* malloc-ed */
    size_t capacity;
#ifdef PICO_HAVE_EDIT
    EditLine *edit; /* NULL: plain */
    History *history;
    const char *prompt;
#endif
};

#ifdef PICO_HAVE_EDIT
static char *prompt_of(EditLine *edit) {
    pico_line_input *input = NULL;
    int got = el_get(edit, EL_CLIENTDATA, &input) == 0 && input != NULL && input->prompt != NULL;
    return (char *)(uintptr_t)(got ? input->prompt : ""); /* libedit only reads it */
}

static void open_edit(pico_line_input *input) {
    HistEvent event;
    (void)setlocale(LC_CTYPE, ""); /* how wide the characters on the screen are */
    input->edit = el_init("picochat", stdin, stdout, stderr);
    input->history = history_init();
    if (input->edit == NULL || input->history == NULL) {
        return;
    }
    (void)history(input->history, &event, H_SETSIZE, HISTORY_LINES);
    (void)history(input->history, &event, H_SETUNIQUE, 1);
    (void)el_set(input->edit, EL_CLIENTDATA, input);
    (void)el_set(input->edit, EL_PROMPT, prompt_of);
    (void)el_set(input->edit, EL_EDITOR, "emacs");
    (void)el_set(input->edit, EL_HIST, history, input->history);
    (void)el_set(input->edit, EL_SIGNAL, 0);
}

static void close_edit(pico_line_input *input) {
    if (input->edit != NULL) {
        el_end(input->edit);
    }
    if (input->history != NULL) {
        history_end(input->history);
    }
}

static int read_edited(pico_line_input *input, const char *prompt, const char **line) {
    HistEvent event;
    int n = 0;
    input->prompt = prompt;
    errno = 0;
    const char *text = el_gets(input->edit, &n);
    if (text == NULL || n <= 0) {
        return n < 0 && errno == EINTR ? PICO_LINE_INTERRUPTED : PICO_LINE_END;
    }
    size_t length = (size_t)n;
    if (length + 1 > input->capacity) {
        char *grown = realloc(input->line, length + 1);
        if (grown == NULL) {
            return PICO_LINE_END;
        }
        input->line = grown;
        input->capacity = length + 1;
    }
    memcpy(input->line, text, length);
    length -= input->line[length - 1] == '\n';
    input->line[length] = '\0';
    if (length != 0) {
        (void)history(input->history, &event, H_ENTER, input->line);
    }
    *line = input->line;
    return PICO_LINE_TEXT;
}
#endif

pico_status pico_line_open(pico_line_input **out, pico_error *err) {
    pico_line_input *input = calloc(1, sizeof *input);
    *out = input;
    if (input == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    input->is_terminal = isatty(STDIN_FILENO) == 1;
#ifdef PICO_HAVE_EDIT
    if (input->is_terminal && isatty(STDOUT_FILENO) == 1) {
        open_edit(input);
    }
#endif
    return PICO_OK;
}

void pico_line_close(pico_line_input *input) {
    if (input != NULL) {
#ifdef PICO_HAVE_EDIT
        close_edit(input);
#endif
        free(input->line);
        free(input);
    }
}

int pico_line_is_terminal(const pico_line_input *input) {
    return input->is_terminal;
}

int pico_line_read(pico_line_input *input, const char *prompt, const char **line) {
    *line = NULL;
#ifdef PICO_HAVE_EDIT
    if (input->edit != NULL && input->history != NULL) {
        return read_edited(input, prompt, line);
    }
#endif
    if (input->is_terminal) {
        (void)fputs(prompt, stderr);
        (void)fflush(stderr);
    }
    errno = 0;
    ssize_t n = getline(&input->line, &input->capacity, stdin);
    if (n < 0) {
        int interrupted = errno == EINTR;
        clearerr(stdin);
        return interrupted ? PICO_LINE_INTERRUPTED : PICO_LINE_END;
    }
    n -= n > 0 && input->line[n - 1] == '\n';
    input->line[n] = '\0';
    *line = input->line;
    return PICO_LINE_TEXT;
}
