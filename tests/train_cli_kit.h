/*
 * What the tests of the train command share: a tiny model, one with heads, a text, folders for runs,
 * and looks at what is in them.
 */
#ifndef PICO_TESTS_TRAIN_CLI_KIT_H
#define PICO_TESTS_TRAIN_CLI_KIT_H

#include "cli_support.h"

#include <sys/types.h>
#include <time.h>

enum { LINE = 40 };

typedef struct context {
    char *folder;
    char model[64], heads[64], text[64], out[3][64];
    cli_run run;
} context;

#define RUN (&c->run)
#define COMMON                                                                                     \
    "--data", c->text, "-t", "2", "--init", "random", "--set", "trainer.distill.length=24",        \
        "--set", "trainer.distill.batch=4", "--set", "trainer.eval_every=4", "--set",              \
        "trainer.save_every=3", "--set", "trainer.eval_rows=8"

/* Text with a simple rule that a model of bytes can find. */
static inline void make_text(const char *path) {
    char text[4000];
    size_t n = 0;
    for (int i = 0; n + LINE < sizeof text; i++) {
        n += (size_t)snprintf(text + n, sizeof text - n, "%c is %d, ", 'a' + i % 6, i % 6);
        n += i % 6 == 5 ? (size_t)snprintf(text + n, sizeof text - n, "\n") : 0;
    }
    cli_write(path, text, n);
}

static inline int setup(void **state) {
    context *c = calloc(1, sizeof *c);
    pico_layer_desc layer[2];
    assert_non_null(c);
    c->folder = cli_folder();
    (void)snprintf(c->model, sizeof c->model, "%s/model.gguf", c->folder);
    (void)snprintf(c->heads, sizeof c->heads, "%s/heads.gguf", c->folder);
    (void)snprintf(c->text, sizeof c->text, "%s/text.txt", c->folder);
    for (int i = 0; i < 3; i++) {
        (void)snprintf(c->out[i], sizeof c->out[i], "%s/out%d", c->folder, i);
    }
    cli_make_tiny(c->model, NULL);
    pico_model_desc desc = cli_tiny_desc(layer, 2);
    desc.n_mtp_head = 2;
    desc.n_draft = 2;
    desc.draft_hidden = 16;
    cli_make_model(c->heads, &desc, NULL);
    make_text(c->text);
    *state = c;
    return 0;
}

static inline int teardown(void **state) {
    context *c = *state;
    for (int i = 0; i < 3; i++) {
        cli_remove(c->out[i]);
    }
    cli_remove(c->folder);
    free(c->folder);
    free(c);
    return 0;
}

static inline char *slurp(const char *folder, const char *name, uint64_t *n) {
    char path[128];
    char *data = NULL;
    pico_error err = {0};
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    if (pico_file_read(path, 1 << 26, &data, n, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    return data;
}

static inline void same_files(const char *a, const char *b, const char *name) {
    char x[128], y[128];
    (void)snprintf(x, sizeof x, "%s/%s", a, name);
    (void)snprintf(y, sizeof y, "%s/%s", b, name);
    cli_same_files(x, y);
}

/* The column called `name` in line `line` of the log; line 0 holds the names. */
static inline double logged(const char *folder, int line, const char *name) {
    uint64_t n;
    char *log = slurp(folder, "log.csv", &n), *at = log;
    const size_t length = strlen(name);
    int column = 0;
    for (const char *title = log; strcspn(title, ",\n") != length || strncmp(title, name, length);
         column++) {
        title += strcspn(title, ",\n");
        assert_int_equal(*title, ',');
        title++;
    }
    for (; line > 0; line--) {
        at = strchr(at, '\n');
        assert_non_null(at);
        at++;
    }
    for (; column > 0; column--) {
        at += strcspn(at, ",\n");
        assert_int_equal(*at, ',');
        at++;
    }
    const double value = strtod(at, NULL);
    free(log);
    return value;
}

/* Appends to a file; a process that was killed leaves such lines. */
static inline void append(const char *folder, const char *name, const char *text) {
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

#endif
