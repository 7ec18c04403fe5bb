/*
 * Has pieces of the calibration text run through the model and gathers, for every input of a matrix
 * that is to be compressed, the moments X^T X and the sums of |x|. Nothing is random.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "int4.h"

enum { AUTO_LENGTH = 512, FORWARD_ROWS = 512 };

/* ---- the taps ---- */

typedef struct gathering {
    int4 *self;
    const pico_model_desc *desc;
    pico_status status; /* of the first thing that failed */
    const char *fault;
} gathering;

static uint32_t tapped(const pico_model_desc *desc, uint32_t layer, const char *name) {
    static const char *const names[INPUT_KINDS] = {"attn_norm", "attended", "ffn_norm",
                                                   "ffn_inner"};
    if (strcmp(name, "hidden") == 0) {
        return desc->n_layer * INPUT_KINDS;
    }
    for (uint32_t kind = 0; kind < INPUT_KINDS; kind++) {
        if (layer < desc->n_layer && strcmp(name, names[kind]) == 0) {
            return layer * INPUT_KINDS + kind;
        }
    }
    return INPUT_NONE;
}

static pico_status prepare(int4_input *input, uint32_t width) {
    const size_t n = (size_t)width * ((size_t)width + 1) / 2;
    if (input->moment == NULL) {
        input->moment = calloc(n, sizeof *input->moment);
        input->absolute = calloc(width, sizeof *input->absolute);
        input->width = width;
    }
    return input->moment == NULL || input->absolute == NULL ? PICO_E_NOMEM : PICO_OK;
}

static void gather(void *arg, uint32_t layer, const char *name, const float *rows, uint32_t n,
                   uint32_t width) {
    gathering *g = arg;
    const uint32_t index = tapped(g->desc, layer, name);
    if (g->status != PICO_OK || index == INPUT_NONE ||
        !int4_wants_input(&g->self->options, g->desc, index)) {
        return;
    }
    int4_input *input = &g->self->input[index];
    g->status = prepare(input, width);
    if (g->status != PICO_OK) {
        g->fault = "out of memory for the moments of the activations; compress fewer layers in a "
                   "stage (only = ...)";
        return;
    }
    double sum = 0;
    for (size_t i = 0; i < (size_t)n * width; i++) {
        input->absolute[i % width] += fabs((double)rows[i]);
        sum += fabs((double)rows[i]);
    }
    if (!isfinite(sum)) {
        g->status = PICO_E_INVALID;
        g->fault = "the model computes infinities or NaN on the calibration text";
        return;
    }
    int4_add_moments(g->self->host, rows, n, width, input->moment);
    input->n_rows += n;
}

void int4_forget(int4 *self) {
    for (uint32_t i = 0; self->input != NULL && i < self->n_input; i++) {
        free(self->input[i].moment);
        free(self->input[i].absolute);
    }
    free(self->input);
    self->input = NULL;
    self->n_input = 0;
}

/* Tokens of a piece. */
static pico_status find_length(const int4_options *o, const pico_model_desc *desc, uint32_t *out,
                               pico_error *err) {
    const uint32_t most = desc->n_ctx_train;
    *out = o->length >= 0 ? (uint32_t)o->length : most < AUTO_LENGTH ? most : AUTO_LENGTH;
    return *out <= most
               ? PICO_OK
               : pico_fail(err, PICO_E_INVALID,
                           "length = %u, but the model was trained with %u positions; give at most "
                           "that, or auto",
                           *out, most);
}

static pico_status run_text(gathering *g, pico_model *model, pico_error *err) {
    const pico_host *host = g->self->host;
    const int4_options *o = &g->self->options;
    const uint32_t head = g->desc->n_layer * INPUT_KINDS;
    pico_feed feed = {.struct_size = sizeof feed,
                      .want = int4_wants_input(o, g->desc, head) ? PICO_ROW_HIDDEN : 0,
                      .path = o->calibration,
                      .n_piece = o->samples < 0 ? 0 : (uint32_t)o->samples,
                      .max_rows = FORWARD_ROWS,
                      .what = "int4: calibration",
                      .tap = gather,
                      .arg = g};
    pico_status status = find_length(o, g->desc, &feed.piece, err);
    if (status == PICO_OK) {
        status = host->session->feed(host, model, &feed, err);
    }
    return status == PICO_OK && g->status != PICO_OK ? pico_fail(err, g->status, "%s", g->fault)
                                                     : status;
}

pico_status int4_calibrate(int4 *self, pico_model *model, pico_error *err) {
    const pico_model_desc *desc = self->host->model_desc(model);
    gathering g = {.self = self, .desc = desc};
    if (self->options.method == METHOD_RTN) {
        return PICO_OK;
    }
    int4_forget(self);
    self->n_input = desc->n_layer * INPUT_KINDS + 1;
    self->input = calloc(self->n_input, sizeof *self->input);
    pico_status status = self->input == NULL ? pico_fail(err, PICO_E_NOMEM, "out of memory")
                                             : run_text(&g, model, err);
    if (status != PICO_OK) {
        int4_forget(self);
    }
    return status;
}
