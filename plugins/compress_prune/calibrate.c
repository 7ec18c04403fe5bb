/*
 * Runs text through the model and adds up how large the outputs of heads and neurons are, and how
 * much each layer turns the residual stream. The same text gives the same sums.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "prune.h"

enum { CHUNK_ROWS = 64, WINDOW = 2048, TEXT_BYTES = 1 << 26 };

/* ---- what is seen ---- */

void prune_forget(prune_stage *stage) {
    for (uint32_t i = 0; stage->seen != NULL && i < stage->n_layer; i++) {
        free(stage->seen[i].attended);
        free(stage->seen[i].inner);
    }
    free(stage->seen);
    free(stage->stream);
    stage->seen = NULL;
    stage->stream = NULL;
    stage->n_layer = 0;
}

static pico_status prepare(prune_stage *stage, const pico_model_desc *desc, pico_error *err) {
    prune_forget(stage);
    stage->fault = 0;
    stage->n_embd = desc->n_embd;
    stage->seen = calloc(desc->n_layer, sizeof *stage->seen);
    stage->stream = calloc((size_t)CHUNK_ROWS * desc->n_embd, sizeof *stage->stream);
    int ok = stage->seen != NULL && stage->stream != NULL;
    stage->n_layer = stage->seen == NULL ? 0 : desc->n_layer;
    for (uint32_t i = 0; ok && i < desc->n_layer; i++) {
        prune_seen *seen = &stage->seen[i];
        seen->n_attended = desc->layer[i].n_head * desc->layer[i].head_dim;
        seen->n_inner = desc->layer[i].n_ff;
        seen->attended = calloc(seen->n_attended, sizeof *seen->attended);
        seen->inner = calloc(seen->n_inner, sizeof *seen->inner);
        ok = seen->attended != NULL && seen->inner != NULL;
    }
    return ok ? PICO_OK : pico_fail(err, PICO_E_NOMEM, "out of memory");
}

static void add_magnitudes(double *sum, const float *rows, uint32_t n, uint32_t width) {
    for (uint32_t r = 0; r < n; r++) {
        for (uint32_t i = 0; i < width; i++) {
            sum[i] += (double)fabsf(rows[(size_t)r * width + i]);
        }
    }
}

/* 1 - cos of the angle between a row before and after the layer; 0 where one of them is zero. */
static double turn(const float *a, const float *b, uint32_t n) {
    double dot = 0, aa = 0, bb = 0;
    for (uint32_t i = 0; i < n; i++) {
        dot += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return aa > 0 && bb > 0 ? 1 - dot / (sqrt(aa) * sqrt(bb)) : 0;
}

static void look_at_stream(prune_stage *stage, prune_seen *seen, const float *rows, uint32_t n) {
    for (uint32_t r = 0; seen != NULL && r < n; r++) {
        const size_t at = (size_t)r * stage->n_embd;
        seen->change += turn(stage->stream + at, rows + at, stage->n_embd);
    }
    memcpy(stage->stream, rows, (size_t)n * stage->n_embd * sizeof *rows);
}

static void look(void *arg, uint32_t layer, const char *name, const float *rows, uint32_t n,
                 uint32_t width) {
    prune_stage *stage = arg;
    if (layer >= stage->n_layer) {
        return;
    }
    prune_seen *seen = &stage->seen[layer];
    const int embed = strcmp(name, "embed") == 0, out = strcmp(name, "out") == 0;
    if (strcmp(name, "attended") == 0) {
        stage->fault |= width != seen->n_attended;
        add_magnitudes(seen->attended, rows, width == seen->n_attended ? n : 0, width);
        seen->n_row += n;
    } else if (strcmp(name, "ffn_inner") == 0) {
        stage->fault |= width != seen->n_inner;
        add_magnitudes(seen->inner, rows, width == seen->n_inner ? n : 0, width);
    } else if ((embed || out) && width == stage->n_embd && n <= CHUNK_ROWS) {
        look_at_stream(stage, out ? seen : NULL, rows, n);
    } else if (embed || out) {
        stage->fault = 1;
    }
}

/* ---- the text ---- */

static pico_status read_text(const char *path, char **text, size_t *n, pico_error *err) {
    FILE *file = fopen(path, "rb");
    *text = NULL;
    *n = 0;
    if (file == NULL) {
        return pico_fail(err, PICO_E_NOT_FOUND, "calibration: %s: %s", path, strerror(errno));
    }
    pico_status status = PICO_OK;
    *text = malloc(TEXT_BYTES + 1);
    if (*text == NULL) {
        status = pico_fail(err, PICO_E_NOMEM, "out of memory");
    } else {
        *n = fread(*text, 1, TEXT_BYTES + 1, file);
        if (ferror(file)) {
            status = pico_fail(err, PICO_E_IO, "calibration: %s: %s", path, strerror(errno));
        } else if (*n > TEXT_BYTES) {
            status = pico_fail(err, PICO_E_LIMIT,
                               "calibration: %s is longer than %d MiB; a few pages are enough",
                               path, TEXT_BYTES >> 20);
        }
    }
    (void)fclose(file);
    return status;
}

static pico_status read_tokens(const prune_stage *stage, pico_model *model, int32_t **ids,
                               uint64_t *n, pico_error *err) {
    const uint64_t capacity = (uint64_t)stage->options.calibration_tokens;
    char *text = NULL;
    size_t n_text = 0;
    pico_status status = read_text(stage->options.calibration, &text, &n_text, err);
    *ids = calloc(capacity, sizeof **ids);
    if (status == PICO_OK && *ids == NULL) {
        status = pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    if (status == PICO_OK) {
        status =
            stage->host->text->encode(model, text, n_text, PICO_TEXT_BOS, *ids, capacity, n, err);
    }
    *n = *n < capacity ? *n : capacity;
    if (status == PICO_OK && *n < 2) {
        status = pico_fail(err, PICO_E_INVALID, "calibration: %s has no text",
                           stage->options.calibration);
    }
    free(text);
    return status;
}

/* ---- running it ---- */

/* Tokens in windows of the model's length, each from an empty timeline. */
static pico_status run(const prune_stage *stage, pico_session *session, uint32_t window,
                       const int32_t *ids, uint64_t n, pico_error *err) {
    const pico_host *host = stage->host;
    pico_row rows[CHUNK_ROWS];
    pico_status status = PICO_OK;
    for (uint64_t at = 0; status == PICO_OK && at < n;) {
        const uint32_t pos = (uint32_t)(at % window);
        const uint64_t left = n - at < window - pos ? n - at : window - pos;
        const uint32_t n_row = left < CHUNK_ROWS ? (uint32_t)left : CHUNK_ROWS;
        if (host->should_stop(host->ctx)) {
            return pico_fail(err, PICO_E_CANCELLED, "interrupted");
        }
        for (uint32_t i = 0; i < n_row; i++) {
            rows[i] = (pico_row){.token = ids[at + i],
                                 .prev = pos + i == 0 ? -1 : ids[at + i - 1],
                                 .pos = (int32_t)(pos + i),
                                 .parent = (int32_t)i - 1};
        }
        pico_forward_out out;
        status = pos == 0 ? host->session->truncate(session, 0, 0, err) : PICO_OK;
        if (status == PICO_OK) {
            status = host->session->forward(session, rows, n_row, &out, err);
        }
        at += n_row;
        host->progress(host->ctx, "prune: calibration", at, n);
    }
    return status;
}

pico_status prune_calibrate(void *self, pico_model *model, pico_error *err) {
    prune_stage *stage = self;
    const pico_host *host = stage->host;
    const pico_model_desc *desc = host->model_desc(model);
    const uint32_t window = desc->n_ctx_train < WINDOW ? desc->n_ctx_train : (uint32_t)WINDOW;
    pico_session *session = NULL;
    int32_t *ids = NULL;
    uint64_t n = 0;
    if (stage->options.score != SCORE_ACTIVATION || stage->options.calibration == NULL) {
        return PICO_OK;
    }
    pico_status status = read_tokens(stage, model, &ids, &n, err);
    if (status == PICO_OK) {
        status = prepare(stage, desc, err);
    }
    if (status == PICO_OK) {
        status = host->session->open(model, 1, window, CHUNK_ROWS, 1, &session, err);
    }
    if (status == PICO_OK) {
        status = host->tap(model, look, stage);
        if (status == PICO_OK) {
            status = run(stage, session, window, ids, n, err);
            (void)host->tap(model, NULL, NULL);
        }
        host->session->close(session);
    }
    if (status == PICO_OK && stage->fault) {
        status = pico_fail(err, PICO_E_ABI, "an input is not as wide as the description says");
    }
    free(ids);
    return status;
}
