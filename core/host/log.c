/*
 * The log: one line per message on stderr, with colour only on a terminal, and a progress line that
 * messages do not tear. It never writes to stdout and never fails.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host/host.h"

#define CLEAR_LINE "\r\x1b[K"

enum { LINE_MAX_BYTES = 4096, REDRAW_NS = 100000000 };

void pico_log_init(pico_log *log, uint32_t level) {
    const char *no_color = getenv("NO_COLOR"); /* https://no-color.org: any non-empty value */
    const char *term = getenv("TERM");
    int is_terminal = isatty(STDERR_FILENO) == 1 && term != NULL && strcmp(term, "dumb") != 0;
    *log = (pico_log){0};
    log->level = level;
    log->color = is_terminal && (no_color == NULL || no_color[0] == '\0');
    log->progress = is_terminal;
}

static uint64_t now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void pico_log_write(pico_log *log, uint32_t level, const char *fmt, ...) {
    static const char *const names[] = {"debug: ", "", "warning: ", "error: "};
    static const char *const colors[] = {"\x1b[2m", "", "\x1b[33m", "\x1b[31m"};
    if (level < log->level) {
        return;
    }
    uint32_t kind = level > PICO_LOG_ERROR ? (uint32_t)PICO_LOG_ERROR : level;
    char line[LINE_MAX_BYTES];
    char text[LINE_MAX_BYTES - 64];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0) {
        return;
    }
    /* One write for the whole line: messages of several threads do not mix. */
    int paint = log->color && colors[kind][0] != '\0';
    int open = __atomic_exchange_n(&log->line_open, 0, __ATOMIC_RELAXED);
    (void)snprintf(line, sizeof line, "%s%s%s%s%s%s\n", open ? CLEAR_LINE : "",
                   paint ? colors[kind] : "", names[kind], text,
                   (size_t)n >= sizeof text ? "..." : "", paint ? "\x1b[0m" : "");
    (void)fputs(line, stderr);
}

void pico_log_progress(pico_log *log, const char *what, uint64_t done, uint64_t total) {
    if (!log->progress) {
        return;
    }
    uint64_t now = now_ns();
    int finished = total != 0 && done >= total;
    if (log->start_ns == 0 || done < log->last_done) { /* a new job */
        log->start_ns = now;
        log->drawn_ns = 0;
        log->first_done = done; /* a run that goes on does not begin at 0 */
    }
    log->last_done = done;
    if (!finished && log->drawn_ns != 0 && now - log->drawn_ns < REDRAW_NS) {
        return;
    }
    char line[256];
    double elapsed = (double)(now - log->start_ns) * 1e-9;
    if (total == 0) {
        (void)snprintf(line, sizeof line, "%.120s %llu", what, (unsigned long long)done);
    } else if (done == log->first_done || finished) {
        (void)snprintf(line, sizeof line, "%.120s %3.0f %%", what,
                       100.0 * (double)done / (double)total);
    } else {
        double left = elapsed * (double)(total - done) / (double)(done - log->first_done);
        (void)snprintf(line, sizeof line, "%.120s %3.0f %%, %.0f s left", what,
                       100.0 * (double)done / (double)total, left);
    }
    (void)fprintf(stderr, CLEAR_LINE "%s%s", line, finished ? "\n" : "");
    log->drawn_ns = finished ? 0 : now;
    log->start_ns = finished ? 0 : log->start_ns;
    log->last_done = finished ? 0 : done;
    __atomic_store_n(&log->line_open, !finished, __ATOMIC_RELAXED);
}
