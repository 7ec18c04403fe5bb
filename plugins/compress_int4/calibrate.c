/*
 * Runs the calibration text through the model and gathers, for every input of a matrix that is to be
 * compressed, the moments X^T X and the sums of |x|. The text is cut into pieces that begin evenly
 * over it; each is a timeline of its own behind the begin-of-text token. Nothing is random.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "int4.h"

enum { AUTO_SAMPLES = 128, AUTO_LENGTH = 512, FORWARD_ROWS = 512 };
enum { MAX_TEXT_BYTES = 1 << 28 };

/* ---- the text ---- */

static pico_status read_text(const char *path, char **out, uint64_t *n, pico_error *err) {
    pico_status status = PICO_OK;
    char *text = NULL;
    long size = -1;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return pico_fail(err, errno == ENOENT ? PICO_E_NOT_FOUND : PICO_E_IO,
                         "calibration text %s: %s", path, strerror(errno));
    }
    if (fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < 0 ||
        fseek(file, 0, SEEK_SET) != 0) {
        status = pico_fail(err, PICO_E_IO, "calibration text %s: %s; expected a file", path,
                           strerror(errno));
    } else if (size > MAX_TEXT_BYTES) {
        status = pico_fail(err, PICO_E_LIMIT,
                           "calibration text %s has %ld bytes; at most %d are read, and a few "
                           "thousand sentences do",
                           path, size, MAX_TEXT_BYTES);
    } else if ((text = malloc((size_t)size + 1)) == NULL) {
        status = pico_fail(err, PICO_E_NOMEM, "calibration text %s: out of memory", path);
    } else if (fread(text, 1, (size_t)size, file) != (size_t)size) {
        status = pico_fail(err, PICO_E_IO, "calibration text %s cannot be read", path);
    }
    (void)fclose(file);
    if (status != PICO_OK) {
        free(text);
        return status;
    }
    *out = text;
    *n = (uint64_t)size;
    return PICO_OK;
}

typedef struct pieces {
    int32_t *id; /* (n_id) the whole text */
    uint64_t n_id;
    int32_t bos;    /* -1: none */
    uint64_t n;     /* pieces */
    uint64_t fresh; /* tokens of the text in each */
} pieces;

static pico_status encode(const int4 *self, pico_model *model, pieces *out, pico_error *err) {
    const pico_text_api *api = self->host->text;
    char *text = NULL;
    uint64_t n = 0, n_bos = 0;
    pico_status status = read_text(self->options.calibration, &text, &n, err);
    if (status == PICO_OK) {
        status = api->encode(model, text, n, 0, NULL, 0, &out->n_id, err);
    }
    if (status == PICO_OK) {
        out->id = malloc((size_t)(out->n_id + 1) * sizeof *out->id);
        status = out->id == NULL ? pico_fail(err, PICO_E_NOMEM, "out of memory")
                                 : api->encode(model, text, n, 0, out->id, out->n_id, &n, err);
    }
    if (status == PICO_OK) {
        status = api->encode(model, "", 0, PICO_TEXT_BOS, &out->bos, 1, &n_bos, err);
        out->bos = n_bos == 0 ? -1 : out->bos;
    }
    free(text);
    return status;
}

/* How many pieces, of how many tokens. */
static pico_status cut(const int4 *self, const pico_model_desc *desc, pieces *out,
                       pico_error *err) {
    const int4_options *o = &self->options;
    const uint32_t most = desc->n_ctx_train, usual = most < AUTO_LENGTH ? most : AUTO_LENGTH;
    const uint64_t length = o->length < 0 ? usual : (uint64_t)o->length;
    if (length > most) {
        return pico_fail(err, PICO_E_INVALID,
                         "length = %llu, but the model was trained with %u positions; give at most "
                         "that, or auto",
                         (unsigned long long)length, most);
    }
    out->fresh = length - (out->bos >= 0 ? 1 : 0);
    if (out->fresh == 0 || out->n_id < out->fresh) {
        return pico_fail(err, PICO_E_INVALID,
                         "calibration text %s has %llu tokens, one piece needs %llu; give a longer "
                         "text or another length",
                         o->calibration, (unsigned long long)out->n_id,
                         (unsigned long long)(out->fresh == 0 ? 1 : out->fresh));
    }
    const uint64_t room = out->n_id / out->fresh;
    out->n = o->samples >= 0 ? (uint64_t)o->samples : room < AUTO_SAMPLES ? room : AUTO_SAMPLES;
    if (out->n > room) {
        return pico_fail(err, PICO_E_INVALID,
                         "calibration text %s has %llu tokens, enough for %llu pieces of %llu; "
                         "give samples = %llu or less, or a longer text",
                         o->calibration, (unsigned long long)out->n_id, (unsigned long long)room,
                         (unsigned long long)out->fresh, (unsigned long long)room);
    }
    return PICO_OK;
}

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

/* ---- forward passes ---- */

/* One piece from position 0 on. row: (FORWARD_ROWS) work space. */
static pico_status run_piece(const int4 *self, pico_session *session, const pieces *p,
                             uint64_t index, uint32_t want, pico_row *row, pico_error *err) {
    const int32_t *id = p->id + (p->n < 2 ? 0 : index * (p->n_id - p->fresh) / (p->n - 1));
    const uint64_t n = p->fresh + (p->bos >= 0 ? 1 : 0);
    pico_forward_out out;
    int32_t prev = -1;
    pico_status status = self->host->session->truncate(session, 0, 0, err);
    for (uint64_t begin = 0; status == PICO_OK && begin < n; begin += FORWARD_ROWS) {
        const uint32_t rows =
            n - begin < FORWARD_ROWS ? (uint32_t)(n - begin) : (uint32_t)FORWARD_ROWS;
        for (uint32_t i = 0; i < rows; i++) {
            const uint64_t pos = begin + i;
            const int32_t token = p->bos < 0 ? id[pos] : pos == 0 ? p->bos : id[pos - 1];
            row[i] = (pico_row){.token = token,
                                .prev = prev,
                                .pos = (int32_t)pos,
                                .parent = (int32_t)i - 1,
                                .want = want};
            prev = token;
        }
        status = self->host->session->forward(session, row, rows, &out, err);
    }
    return status;
}

static pico_status run_pieces(gathering *g, pico_model *model, const pieces *p, pico_error *err) {
    int4 *self = g->self;
    const pico_host *host = self->host;
    const uint32_t head = g->desc->n_layer * INPUT_KINDS;
    const uint32_t want = int4_wants_input(&self->options, g->desc, head) ? PICO_ROW_HIDDEN : 0;
    const uint32_t length = (uint32_t)(p->fresh + (p->bos >= 0 ? 1 : 0));
    const uint32_t rows = length < FORWARD_ROWS ? length : FORWARD_ROWS;
    pico_session *session = NULL;
    pico_row *row = malloc(rows * sizeof *row);
    pico_status status = row == NULL ? pico_fail(err, PICO_E_NOMEM, "out of memory") : PICO_OK;
    if (status == PICO_OK) {
        status = host->session->open(model, 1, length, rows, want == 0 ? 1 : rows, &session, err);
    }
    for (uint64_t i = 0; status == PICO_OK && i < p->n; i++) {
        status = run_piece(self, session, p, i, want, row, err);
        if (status == PICO_OK && g->status != PICO_OK) {
            status = pico_fail(err, g->status, "%s", g->fault);
        } else if (status == PICO_OK && int4_stopped(self)) {
            status = pico_fail(err, PICO_E_CANCELLED, "interrupted");
        }
        if (host->progress != NULL) {
            host->progress(host->ctx, "calibration", i + 1, p->n);
        }
    }
    if (session != NULL) {
        host->session->close(session);
    }
    free(row);
    return status;
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

pico_status int4_calibrate(int4 *self, pico_model *model, pico_error *err) {
    const pico_model_desc *desc = self->host->model_desc(model);
    gathering g = {.self = self, .desc = desc};
    pieces p = {0};
    if (self->options.method == METHOD_RTN) {
        return PICO_OK;
    }
    int4_forget(self);
    const uint32_t n_input = desc->n_layer * INPUT_KINDS + 1;
    pico_status status = encode(self, model, &p, err);
    if (status == PICO_OK) {
        status = cut(self, desc, &p, err);
    }
    if (status == PICO_OK) {
        self->input = calloc(n_input, sizeof *self->input);
        self->n_input = n_input;
        status = self->input == NULL ? pico_fail(err, PICO_E_NOMEM, "out of memory")
                                     : self->host->tap(model, gather, &g);
    }
    if (status == PICO_OK) {
        status = run_pieces(&g, model, &p, err);
        (void)self->host->tap(model, NULL, NULL);
    }
    if (status != PICO_OK) {
        int4_forget(self);
    }
    free(p.id);
    return status;
}
