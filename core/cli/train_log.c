/* A training run's lines in CSV and JSON; see train_log.h. */
#include "cli/train_log.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/file.h"

enum { HEADER = 512, BEFORE_TERMS = 7, DIGITS = 9 };
#define LOG_BYTES ((uint64_t)1 << 32)

static const char *const first_columns[BEFORE_TERMS] = {
    "step", "loss", "learning_rate", "tokens", "seconds", "tokens_per_s", "gflops"};

struct pico_train_log {
    FILE *file;
    char *path;
    int format;
    double seconds;      /* of all steps in it */
    char header[HEADER]; /* of a CSV file that goes on; "": none is there */
    int checked;         /* 1: the header is there and fits */
};

/* ---- what is there ---- */

static int read_csv(const char *line, uint64_t *step, double *seconds) {
    char *end = NULL;
    *step = strtoull(line, &end, 10);
    for (int column = 0; column < 4; column++) { /* seconds are the fifth */
        if (end == line || *end != ',') {
            return 0;
        }
        line = end + 1;
        *seconds = strtod(line, &end);
    }
    return end != line;
}

static int read_json(const char *line, size_t n, uint64_t *step, double *seconds) {
    json_t *object = json_loadb(line, n, 0, NULL);
    const json_t *number = json_object_get(object, "step"),
                 *time = json_object_get(object, "seconds");
    const int ok = json_is_integer(number) && json_is_number(time);
    if (ok) {
        *step = (uint64_t)json_integer_value(number);
        *seconds = json_number_value(time);
    }
    json_decref(object);
    return ok;
}

/* Bytes of whole lines, up to the one of step `at`; keeps the header and the seconds of the last. A
 * line that says nothing ends what is kept: a process was killed while it wrote it. */
static size_t kept_bytes(pico_train_log *log, const char *text, size_t n, uint64_t at) {
    size_t kept = 0;
    uint64_t last = 0;
    while (kept < n) {
        const char *line = text + kept, *end = memchr(line, '\n', n - kept);
        uint64_t step = 0;
        double seconds = 0;
        if (end == NULL) {
            break;
        }
        const size_t length = (size_t)(end - line);
        if (log->format == PICO_TRAIN_LOG_CSV && kept == 0) {
            if (length >= sizeof log->header) {
                break;
            }
            memcpy(log->header, line, length);
            log->header[length] = '\0';
        } else {
            const int ok = log->format == PICO_TRAIN_LOG_CSV
                               ? read_csv(line, &step, &seconds)
                               : read_json(line, length, &step, &seconds);
            if (!ok || step <= last || step > at) {
                break;
            }
            last = step;
            log->seconds = seconds;
        }
        kept += length + 1;
    }
    return kept;
}

static pico_status fail_errno(const pico_train_log *log, const char *what, pico_error *err) {
    return pico_fail(err, PICO_E_IO, "%s: %s: %s", log->path, what, strerror(errno));
}

/* Cuts what came after the checkpoint. A log that is not there begins. */
static pico_status cut(pico_train_log *log, uint64_t at, pico_error *err) {
    char *text = NULL;
    uint64_t n = 0;
    pico_status status = pico_file_read(log->path, LOG_BYTES, &text, &n, err);
    if (status == PICO_E_NOT_FOUND) {
        return PICO_OK;
    }
    if (status == PICO_OK && truncate(log->path, (off_t)kept_bytes(log, text, n, at)) != 0) {
        status = fail_errno(log, "cannot cut steps after the checkpoint", err);
    }
    free(text);
    return status;
}

/* ---- interface ---- */

pico_status pico_train_log_open(const char *folder, int format, uint64_t at, pico_train_log **out,
                                pico_error *err) {
    const char *name = format == PICO_TRAIN_LOG_CSV ? "log.csv" : "log.jsonl";
    const size_t room = strlen(folder) + strlen(name) + 2;
    pico_train_log *log = calloc(1, sizeof *log);
    *out = NULL;
    if (log == NULL || (log->path = malloc(room)) == NULL) {
        free(log);
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    (void)snprintf(log->path, room, "%s/%s", folder, name);
    log->format = format;
    pico_status status = at == 0 ? PICO_OK : cut(log, at, err);
    if (status == PICO_OK) {
        log->file = fopen(log->path, at == 0 ? "w" : "a");
        status = log->file != NULL ? PICO_OK : fail_errno(log, "cannot write", err);
    }
    if (status != PICO_OK) {
        pico_train_log_close(log);
        return status;
    }
    *out = log;
    return PICO_OK;
}

void pico_train_log_close(pico_train_log *log) {
    if (log != NULL) {
        if (log->file != NULL) {
            (void)fclose(log->file);
        }
        free(log->path);
        free(log);
    }
}

/* ---- CSV ---- */

static pico_status check_header(pico_train_log *log, const pico_train_metrics *m, pico_error *err) {
    char header[HEADER];
    size_t n = 0;
    for (int i = 0; i < BEFORE_TERMS; i++) {
        n += (size_t)snprintf(header + n, sizeof header - n, "%s,", first_columns[i]);
    }
    for (uint32_t i = 0; i < m->n_term && n < sizeof header; i++) {
        n += (size_t)snprintf(header + n, sizeof header - n, "%s,", m->term_name[i]);
    }
    if (n >= sizeof header - 40) {
        return pico_fail(err, PICO_E_LIMIT, "the names of the terms of the loss are too long");
    }
    (void)snprintf(header + n, sizeof header - n, "validation_nats,validation_bpb");
    if (log->header[0] == '\0') {
        (void)fprintf(log->file, "%s\n", header);
    } else if (strcmp(log->header, header) != 0) {
        return pico_fail(err, PICO_E_INVALID,
                         "%s has the columns %.150s, now they are %.150s; move it away", log->path,
                         log->header, header);
    }
    log->checked = 1;
    return PICO_OK;
}

static void write_csv(pico_train_log *log, const pico_train_line *line) {
    const pico_train_metrics *m = line->metrics;
    (void)fprintf(log->file, "%llu,%.6f,%.6g,%llu,%.4f,%.1f,%.2f", (unsigned long long)m->step,
                  m->loss, m->learning_rate, (unsigned long long)line->tokens, log->seconds,
                  line->tokens_per_s, line->gflops);
    for (uint32_t i = 0; i < m->n_term; i++) {
        (void)fprintf(log->file, ",%.6f", m->term[i]);
    }
    if (isnan(line->bits_per_byte)) {
        (void)fprintf(log->file, ",,\n");
    } else {
        (void)fprintf(log->file, ",%.6f,%.6f\n", line->nats, line->bits_per_byte);
    }
}

/* ---- JSON ---- */

/* What is no number is left out: JSON has none for it. */
static int add_real(json_t *object, const char *name, double value) {
    return !isfinite(value) || json_object_set_new(object, name, json_real(value)) == 0;
}

static pico_status write_json(pico_train_log *log, const pico_train_line *line, pico_error *err) {
    const pico_train_metrics *m = line->metrics;
    json_t *o = json_object();
    int ok = o != NULL;
    ok &= json_object_set_new(o, "step", json_integer((json_int_t)m->step)) == 0;
    ok &= add_real(o, "loss", m->loss) && add_real(o, "learning_rate", m->learning_rate);
    ok &= json_object_set_new(o, "tokens", json_integer((json_int_t)line->tokens)) == 0;
    ok &= add_real(o, "seconds", log->seconds) && add_real(o, "gflops", line->gflops) &&
          add_real(o, "tokens_per_s", line->tokens_per_s);
    for (uint32_t i = 0; i < m->n_term; i++) {
        ok &= add_real(o, m->term_name[i], m->term[i]);
    }
    ok &= add_real(o, "validation_nats", line->nats) &&
          add_real(o, "validation_bpb", line->bits_per_byte);
    char *text = ok ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(DIGITS)) : NULL;
    json_decref(o);
    if (text == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for a line of the log");
    }
    (void)fprintf(log->file, "%s\n", text);
    free(text);
    return PICO_OK;
}

pico_status pico_train_log_write(pico_train_log *log, const pico_train_line *line,
                                 pico_error *err) {
    pico_status status = PICO_OK;
    log->seconds += line->seconds;
    if (log->format == PICO_TRAIN_LOG_JSON) {
        status = write_json(log, line, err);
    } else {
        status = log->checked ? PICO_OK : check_header(log, line->metrics, err);
        if (status == PICO_OK) {
            write_csv(log, line);
        }
    }
    if (status == PICO_OK && (fflush(log->file) != 0 || ferror(log->file))) {
        status = fail_errno(log, "cannot write", err);
    }
    return status;
}
