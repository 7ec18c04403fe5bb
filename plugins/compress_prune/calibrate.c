/*
 * Runs text through the model and adds up how large the outputs of heads and neurons are, and how
 * much each layer turns the residual stream. The same text gives the same sums.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "prune.h"

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
    stage->stream = calloc((size_t)PICO_FEED_ROWS * desc->n_embd, sizeof *stage->stream);
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
    } else if ((embed || out) && width == stage->n_embd && n <= PICO_FEED_ROWS) {
        look_at_stream(stage, out ? seen : NULL, rows, n);
    } else if (embed || out) {
        stage->fault = 1;
    }
}

pico_status prune_calibrate(void *self, pico_model *model, pico_error *err) {
    prune_stage *stage = self;
    const pico_host *host = stage->host;
    const pico_feed feed = {.struct_size = sizeof feed,
                            .path = stage->options.calibration,
                            .max_tokens = (uint64_t)stage->options.calibration_tokens,
                            .what = "prune: calibration",
                            .tap = look,
                            .arg = stage};
    if (stage->options.score != SCORE_ACTIVATION || feed.path == NULL) {
        return PICO_OK;
    }
    pico_status status = prepare(stage, host->model_desc(model), err);
    if (status == PICO_OK) {
        status = host->session->feed(host, model, &feed, err);
    }
    if (status == PICO_OK && stage->fault) {
        status = pico_fail(err, PICO_E_ABI, "an input is not as wide as the description says");
    }
    return status;
}
