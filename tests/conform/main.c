/*
 * picochat-conform: the command line and the runner. Output is TAP; the exit code is the number of
 * failed tests, at most 125; 126: the plugin cannot be loaded at all, 127: wrong usage.
 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conform/kit.h"

enum { EXIT_MOST = 125, EXIT_LOAD = 126, EXIT_USAGE = 127, MAX_TESTS = 256 };
enum { SECONDS = 120, SECONDS_MOST = 86400 }; /* that a test may take */

typedef struct options {
    const char *plugin, *filter;
    int in_process, list;
    unsigned seconds; /* that a test may take */
} options;

static const char usage[] =
    "usage: picochat-conform PLUGIN.so [--set key=value]... [--filter TEXT] [--seconds N] "
    "[--in-process] [--list]\n"
    "Tests a plugin against the contract in plugin.h. Prints TAP; the exit code is the number of\n"
    "failed tests.\n"
    "  --set key=value   an option of the plugin; kind.NAME.key=value one of another plugin. "
    "Where\n"
    "                    it is the path of a model that drafts: twin, the model of the test "
    "itself,\n"
    "                    or cousin, a similar one\n"
    "  --filter TEXT     only tests whose name contains TEXT\n"
    "  --seconds N       that a test may take; default 120. For devices that are slow\n"
    "  --in-process      no child processes: for a debugger\n"
    "  --list            print the names of the tests and stop\n";

/* ---- ending a test ---- */

static _Noreturn void end_test(conform *c, int verdict, const char *fmt, va_list args) {
    c->verdict = verdict;
    (void)vsnprintf(c->message, sizeof c->message, fmt, args);
    longjmp(c->leave, 1);
}

void conform_fail(conform *c, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    end_test(c, CONFORM_FAIL, fmt, args);
}

void conform_skip(conform *c, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    end_test(c, CONFORM_SKIP, fmt, args);
}

void *conform_alloc(conform *c, size_t n, size_t size) {
    void *memory = calloc(n + 1, size);
    CHECK(c, memory != NULL, "the kit is out of memory");
    return memory;
}

void conform_rig(conform *c, rig *r, const char *extra) {
    const char *set[CONFORM_SETTINGS + 2] = {0};
    pico_error err = {0};
    memcpy(set, c->set, c->n_set * sizeof *set);
    set[c->n_set] = extra;
    rig_setup setup = {.backend = c->kind == PICO_KIND_BACKEND ? c->path : "cpu",
                       .attention = c->kind == PICO_KIND_ATTENTION ? c->path : "mha",
                       .sampler = c->kind == PICO_KIND_SAMPLER   ? c->path
                                  : c->kind == PICO_KIND_DECODER ? "standard"
                                                                 : NULL,
                       .decoder = c->kind == PICO_KIND_DECODER   ? c->path
                                  : c->kind == PICO_KIND_SAMPLER ? "greedy"
                                                                 : NULL,
                       .set = set,
                       .n_threads = 2};
    CHECK(c, rig_open(r, &setup, &err) == PICO_OK, "%s", err.message);
}

/* ---- running one test ---- */

static void run_here(conform *c, const conform_test *test) {
    c->verdict = CONFORM_PASS;
    c->message[0] = '\0';
    c->random = 20250101;
    if (setjmp(c->leave) == 0) {
        test->run(c);
    }
}

/* The same in a child; verdict and message come back through a pipe. */
static void run_apart(conform *c, const conform_test *test, unsigned seconds) {
    int ends[2], status = 0;
    struct {
        int verdict;
        char message[sizeof c->message];
    } answer = {.verdict = CONFORM_FAIL};
    (void)fflush(stdout);
    pid_t child = pipe(ends) == 0 ? fork() : -1;
    if (child < 0) {
        c->verdict = CONFORM_FAIL;
        (void)snprintf(c->message, sizeof c->message, "no child process: %s", strerror(errno));
        return;
    }
    if (child == 0) {
        (void)close(ends[0]);
        (void)alarm(seconds);
        run_here(c, test);
        answer.verdict = c->verdict;
        memcpy(answer.message, c->message, sizeof answer.message);
        _exit(write(ends[1], &answer, sizeof answer) == (ssize_t)sizeof answer ? 0 : 1);
    }
    (void)close(ends[1]);
    size_t got = 0;
    ssize_t n = 1;
    while (got < sizeof answer && n != 0) {
        n = read(ends[0], (char *)&answer + got, sizeof answer - got);
        got += n > 0 ? (size_t)n : 0;
        n = n < 0 && errno == EINTR ? 1 : n < 0 ? 0 : n;
    }
    (void)close(ends[0]);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    c->verdict = answer.verdict;
    memcpy(c->message, answer.message, sizeof c->message);
    if (got < sizeof answer || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        c->verdict = CONFORM_FAIL;
        int by_signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
        if (by_signal == SIGALRM) {
            (void)snprintf(c->message, sizeof c->message, "still running after %u s", seconds);
        } else if (by_signal != 0) {
            (void)snprintf(c->message, sizeof c->message, "the process died of signal %d (%s)",
                           by_signal, strsignal(by_signal));
        } else {
            (void)snprintf(c->message, sizeof c->message, "the process exited with %d",
                           WEXITSTATUS(status));
        }
    }
}

/* ---- TAP ---- */

static void print_message(const char *message) {
    while (*message != '\0') {
        size_t n = strcspn(message, "\n");
        printf("# %.*s\n", (int)n, message);
        message += n + (message[n] != '\0');
    }
}

static uint32_t select_tests(uint32_t kind, const char *filter, const conform_test **out) {
    const conform_test *const suites[][6] = {
        [PICO_KIND_BACKEND] = {conform_common, conform_backend_memory, conform_backend_rows,
                               conform_backend_linear, conform_backend_attend, NULL},
        [PICO_KIND_ATTENTION] = {conform_common, conform_attention, NULL},
        [PICO_KIND_SAMPLER] = {conform_common, conform_sampler, NULL},
        [PICO_KIND_DECODER] = {conform_common, conform_decoder, conform_steering, NULL},
        [PICO_KIND_COMPRESSOR] = {conform_common, conform_compressor, NULL},
        [PICO_KIND_TRAINER] = {conform_common, conform_trainer, NULL}};
    uint32_t n = 0;
    for (uint32_t i = 0; suites[kind][i] != NULL; i++) {
        for (const conform_test *test = suites[kind][i]; test->name != NULL; test++) {
            if (n < MAX_TESTS && (filter == NULL || strstr(test->name, filter) != NULL)) {
                out[n++] = test;
            }
        }
    }
    return n;
}

/* Runs the tests of one plugin; numbers go on from *number. Returns the failures. */
static uint32_t run_plugin(conform *c, const options *opt, uint32_t *number, uint32_t *n_skipped) {
    const conform_test *tests[MAX_TESTS];
    uint32_t n = select_tests(c->kind, opt->filter, tests), failed = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (opt->list) {
            printf("%s\n", tests[i]->name);
            continue;
        }
        if (opt->in_process) {
            run_here(c, tests[i]);
        } else {
            run_apart(c, tests[i], opt->seconds);
        }
        printf("%s %u - %s %s %s", c->verdict == CONFORM_FAIL ? "not ok" : "ok", ++*number,
               pico_kind_name(c->kind), c->name, tests[i]->name);
        if (c->verdict == CONFORM_SKIP) {
            c->message[strcspn(c->message, "\n")] = '\0';
            printf(" # SKIP %s", c->message);
            ++*n_skipped;
        }
        printf("\n");
        if (c->verdict == CONFORM_FAIL) {
            print_message(c->message);
            failed++;
        }
        (void)fflush(stdout);
    }
    return failed;
}

/* ---- the plugin file ---- */

/* "key=value" of the plugin, or "section.key=value" as it is. */
static int add_setting(conform *c, const char *setting) {
    size_t key = strcspn(setting, "=");
    if (c->n_set == CONFORM_SETTINGS || setting[key] != '=') {
        return 0;
    }
    char *text = NULL;
    if (memchr(setting, '.', key) != NULL) {
        text = strdup(setting);
    } else {
        size_t room = strlen(setting) + strlen(c->name) + 32;
        text = malloc(room);
        if (text != NULL) {
            (void)snprintf(text, room, "%s.%s.%s", pico_kind_name(c->kind), c->name, setting);
        }
    }
    c->set[c->n_set] = text;
    c->n_set += text != NULL;
    return text != NULL;
}

static void free_settings(conform *c) {
    for (uint32_t i = 0; i < c->n_set; i++) {
        free((char *)(uintptr_t)c->set[i]);
    }
}

/* All kinds of plugins in the file, each loaded through the registry's checks. */
static int run_file(const options *opt, const char *const *settings, uint32_t n_settings) {
    char path[PATH_MAX];
    pico_registry *registry = NULL;
    pico_error err = {0};
    uint32_t number = 0, failed = 0, n_skipped = 0, n_plugin = 0;
    if (realpath(opt->plugin, path) == NULL) {
        fprintf(stderr, "picochat-conform: %s: %s\n", opt->plugin, strerror(errno));
        return EXIT_LOAD;
    }
    if (pico_registry_open(NULL, &registry, &err) != PICO_OK) {
        fprintf(stderr, "picochat-conform: %s\n", err.message);
        return EXIT_LOAD;
    }
    const pico_loaded *any = NULL; /* kind 0: what is wrong with the file itself */
    if (pico_registry_load(registry, 0, path, &any, &err) != PICO_OK) {
        fprintf(stderr, "picochat-conform: %s\n", err.message);
        pico_registry_close(registry);
        return EXIT_LOAD;
    }
    for (uint32_t kind = PICO_KIND_BACKEND; kind <= PICO_KIND_TRAINER; kind++) {
        const pico_loaded *loaded = NULL;
        if (pico_registry_load(registry, kind, path, &loaded, &err) != PICO_OK) {
            continue; /* the file has none of this kind, or several */
        }
        conform c = {.path = path, .kind = kind, .name = loaded->plugin.name};
        int valid = 1;
        for (uint32_t i = 0; i < n_settings; i++) {
            valid &= add_setting(&c, settings[i]);
        }
        if (!valid) {
            fprintf(stderr, "picochat-conform: --set wants key=value\n");
            pico_registry_close(registry);
            return EXIT_USAGE;
        }
        n_plugin++;
        failed += run_plugin(&c, opt, &number, &n_skipped);
        free_settings(&c);
    }
    pico_registry_close(registry);
    if (n_plugin == 0) {
        fprintf(stderr, "picochat-conform: %s\n", err.message);
        return EXIT_LOAD;
    }
    if (!opt->list) {
        printf("1..%u\n# %u passed, %u failed, %u skipped\n", number, number - failed - n_skipped,
               failed, n_skipped);
    }
    return failed < EXIT_MOST ? (int)failed : EXIT_MOST;
}

static int read_seconds(const char *text, options *opt) {
    char *end = NULL;
    const long value = strtol(text, &end, 10);
    opt->seconds = value >= 1 && value <= SECONDS_MOST ? (unsigned)value : 0;
    return end != text && *end == '\0' && opt->seconds != 0;
}

int main(int argc, char **argv) {
    options opt = {.seconds = SECONDS};
    const char *settings[CONFORM_SETTINGS];
    uint32_t n_settings = 0;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            fputs(usage, stdout);
            return 0;
        } else if (strcmp(arg, "--in-process") == 0) {
            opt.in_process = 1;
        } else if (strcmp(arg, "--list") == 0) {
            opt.list = 1;
        } else if (strcmp(arg, "--filter") == 0 && i + 1 < argc) {
            opt.filter = argv[++i];
        } else if (strcmp(arg, "--seconds") == 0 && i + 1 < argc &&
                   read_seconds(argv[i + 1], &opt)) {
            i++;
        } else if (strcmp(arg, "--set") == 0 && i + 1 < argc && n_settings < CONFORM_SETTINGS) {
            settings[n_settings++] = argv[++i];
        } else if (arg[0] != '-' && opt.plugin == NULL) {
            opt.plugin = arg;
        } else {
            fprintf(stderr, "picochat-conform: cannot make sense of %s\n%s", arg, usage);
            return EXIT_USAGE;
        }
    }
    if (opt.plugin == NULL) {
        fputs(usage, stderr);
        return EXIT_USAGE;
    }
    return run_file(&opt, settings, n_settings);
}
