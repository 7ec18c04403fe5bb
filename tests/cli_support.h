/*
 * Running the real program from tests: arguments, standard input and environment in, standard
 * output, standard error and exit code out; and a tiny model that every machine can make.
 */
#ifndef PICO_TESTS_CLI_SUPPORT_H
#define PICO_TESTS_CLI_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "formats/model_file.h"
#include "llama_kit.h"
#include "model/model.h"
#include "util/file.h"

#define PROGRAM PICO_BUILD_DIR "/picochat"
#define SHARED(path) PICO_SHARED_DIR "/" path

enum { MAX_WORDS = 64, TINY_VOCAB = 261, TINY_CONTEXT = 128 };

typedef struct cli_run {
    char out[1 << 16], err[1 << 16]; /* NUL-terminated */
    size_t n_out;
    int code;      /* exit code, or 256 + signal */
    long peak_kib; /* resident memory */
} cli_run;

/* What differs from plain from one run to the next; zero is plain. */
typedef struct cli_setup {
    const char *program; /* argv[0] */
    const char *input;   /* text on standard input; NULL: nothing */
    int terminal;        /* 1: standard input is a terminal at which nobody types */
    const char *output;  /* file for standard output instead of cli_run.out */
    const char *folder;  /* working directory */
    const char *env[4];  /* "NAME=value" */
    int interrupt;       /* 1: SIGINT as soon as there is something on standard output */

} cli_setup;

static inline int cli_temporary(void) {
    char name[] = "/tmp/pico-cli-XXXXXX";
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    (void)unlink(name);
    return fd;
}

static inline size_t cli_slurp(int fd, char *out, size_t size) {
    size_t used = 0;
    ssize_t n = 1;
    assert_true(lseek(fd, 0, SEEK_SET) == 0);
    while (used + 1 < size && n > 0) {
        n = read(fd, out + used, size - 1 - used);
        used += n > 0 ? (size_t)n : 0;
    }
    out[used] = '\0';
    (void)close(fd);
    return used;
}

static inline int cli_input(const cli_setup *setup, int *keep_open) {
    *keep_open = -1;
    if (setup->terminal) {
        *keep_open = posix_openpt(O_RDWR | O_NOCTTY);
        assert_true(*keep_open >= 0 && grantpt(*keep_open) == 0 && unlockpt(*keep_open) == 0);
        return open(ptsname(*keep_open), O_RDWR | O_NOCTTY);
    }
    int fd = cli_temporary();
    size_t n = setup->input == NULL ? 0 : strlen(setup->input);
    assert_true(n == 0 || write(fd, setup->input, n) == (ssize_t)n);
    assert_true(lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}

static inline void cli_wait_for_output(int fd) {
    struct stat file = {0};
    for (int i = 0; i < 60000 && file.st_size == 0; i++) {
        (void)usleep(1000);
        assert_int_equal(fstat(fd, &file), 0);
    }
    assert_true(file.st_size > 0);
}

/* words: NULL-terminated arguments behind argv[0]. */
static inline void cli_spawn(cli_run *run, const cli_setup *setup, const char *const *words) {
    const char *argv[MAX_WORDS + 2] = {setup->program == NULL ? "picochat" : setup->program};
    int terminal, status = 0, in = cli_input(setup, &terminal), err = cli_temporary();
    int out = setup->output == NULL ? cli_temporary() : open(setup->output, O_WRONLY);
    for (size_t i = 0; words[i] != NULL; i++) {
        assert_true(i < MAX_WORDS);
        argv[i + 1] = words[i];
    }
    assert_true(in >= 0 && out >= 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        for (size_t i = 0; i < 4 && setup->env[i] != NULL; i++) {
            (void)putenv((char *)(uintptr_t)setup->env[i]);
        }
        (void)signal(SIGINT, SIG_DFL);
        if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0 ||
            (setup->folder != NULL && chdir(setup->folder) != 0)) {
            _exit(126);
        }
        (void)execv(PROGRAM, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    if (setup->interrupt) {
        cli_wait_for_output(out);
        (void)kill(child, SIGINT);
    }
    struct rusage usage;
    assert_true(wait4(child, &status, 0, &usage) == child);
    run->peak_kib = usage.ru_maxrss;
    run->code = WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
    (void)cli_slurp(err, run->err, sizeof run->err);
    run->n_out = 0;
    run->out[0] = '\0';
    if (setup->output == NULL) {
        run->n_out = cli_slurp(out, run->out, sizeof run->out);
    } else {
        (void)close(out);
    }
    (void)close(in);
    (void)close(terminal);
}

#define CLI_WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* Runs with plain surroundings; asserts the exit code. */
#define cli_expect(run, exit_code, ...)                                                            \
    cli_expect_with(run, exit_code, &(const cli_setup){0}, CLI_WORDS(__VA_ARGS__))

static inline void cli_expect_with(cli_run *run, int exit_code, const cli_setup *setup,
                                   const char *const *words) {
    cli_spawn(run, setup, words);
    if (run->code != exit_code) {
        char line[1024] = "";
        for (size_t i = 0; words[i] != NULL; i++) {
            size_t used = strlen(line);
            (void)snprintf(line + used, sizeof line - used, " %s", words[i]);
        }
        fail_msg("picochat%s: exit code %d, expected %d; it said: %s", line, run->code, exit_code,
                 run->err);
    }
}

static inline void assert_contains(const char *text, const char *part) {
    if (strstr(text, part) == NULL) {
        fail_msg("expected \"%s\" in: %s", part, text);
    }
}

/* A failure is one line on stderr that begins with the program's name, before any usage. */
static inline void assert_one_message(const cli_run *run) {
    assert_int_equal(strncmp(run->err, "picochat: error: ", 17), 0);
    assert_null(strstr(run->err + 1, "picochat: error: "));
}

static inline char *cli_folder(void) {
    char *folder = strdup("/tmp/pico-cli-XXXXXX");
    assert_non_null(mkdtemp(folder));
    return folder;
}

/* With all that is in it; nothing where there is none. */
static inline void cli_remove(const char *folder) {
    char command[512];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

static inline void cli_write(const char *path, const void *data, size_t n) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

/* A model of random weights with a byte vocabulary (TINY_VOCAB tokens) and the special tokens of
 * ChatML. chat_template: what the file says about it; NULL: nothing. */
static inline void cli_make_model(const char *path, const pico_model_desc *desc,
                                  const char *chat_template) {
    static const char alphabet[] = "0123456789ABCDEF";
    static char text[256][8];
    static pico_piece piece[TINY_VOCAB] = {{.text = "<unk>", .n = 5, .type = PICO_PIECE_UNKNOWN},
                                           {.text = "<s>", .n = 3, .type = PICO_PIECE_CONTROL},
                                           {.text = "</s>", .n = 4, .type = PICO_PIECE_CONTROL}};
    pico_error err = {0};
    pico_model_file *file = NULL;
    piece[259] = (pico_piece){.text = "<|im_start|>", .n = 12, .type = PICO_PIECE_CONTROL};
    piece[260] = (pico_piece){.text = "<|im_end|>", .n = 10, .type = PICO_PIECE_CONTROL};
    for (size_t i = 0; i < 256; i++) {
        (void)snprintf(text[i], sizeof text[i], "<0x%c%c>", alphabet[i / 16], alphabet[i % 16]);
        piece[i + 3] = (pico_piece){.text = text[i], .n = 6, .type = PICO_PIECE_BYTE};
    }
    if (pico_model_synthetic_from(desc, PICO_DTYPE_F32, 7, &file, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    file->vocab = (pico_vocab){.kind = PICO_VOCAB_SPM,
                               .n_piece = TINY_VOCAB,
                               .piece = piece,
                               .bos = 1,
                               .eos = 2,
                               .unk = 0,
                               .pad = -1,
                               .eot = -1,
                               .add_bos = 1,
                               .chat_template = chat_template};
    if (pico_gguf_write(file, path, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    pico_model_file_close(file);
}

/* Such a Llama; layer: see small_llama. Its logits are made with the embeddings, as most are. */
static inline pico_model_desc cli_tiny_desc(pico_layer_desc *layer, uint32_t n_layer) {
    pico_model_desc desc = small_llama(layer, n_layer);
    desc.n_vocab = desc.n_vocab_rows = TINY_VOCAB;
    desc.n_ctx_train = TINY_CONTEXT;
    desc.flags |= PICO_TIED_HEAD;
    return desc;
}

/* It with 2 layers. */
static inline void cli_make_tiny(const char *path, const char *chat_template) {
    pico_layer_desc layer[2];
    pico_model_desc desc = cli_tiny_desc(layer, 2);
    cli_make_model(path, &desc, chat_template);
}

static inline void cli_same_files(const char *a, const char *b) {
    pico_map x, y;
    assert_int_equal(pico_map_open(a, &x, NULL), PICO_OK);
    assert_int_equal(pico_map_open(b, &y, NULL), PICO_OK);
    if (x.size != y.size || memcmp(x.data, y.data, x.size) != 0) {
        fail_msg("%s and %s differ", a, b);
    }
    pico_map_close(&x);
    pico_map_close(&y);
}

#endif
