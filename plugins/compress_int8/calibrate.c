/*
 * Runs text through the model and remembers how large each column of every product's input gets.
 * The same text gives the same result. It looks at no gradient and at no weight: which columns are
 * outliers is said by the inputs alone, as in LLM.int8.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "int8.h"

/* ---- what is seen ---- */

static int8_seen *seen_of(const int8_stage *stage, uint32_t layer, uint32_t input) {
    return layer >= stage->n_layer ? &stage->seen[(size_t)stage->n_layer * N_INPUT]
                                   : &stage->seen[(size_t)layer * N_INPUT + input];
}

void int8_forget(int8_stage *stage) {
    for (size_t i = 0; stage->seen != NULL && i <= (size_t)stage->n_layer * N_INPUT; i++) {
        free(stage->seen[i].largest);
    }
    free(stage->seen);
    stage->seen = NULL;
    stage->n_layer = 0;
}

static pico_status prepare(int8_stage *stage, const pico_model_desc *desc, pico_error *err) {
    int8_forget(stage);
    stage->fault = 0;
    stage->seen = calloc((size_t)desc->n_layer * N_INPUT + 1, sizeof *stage->seen);
    if (stage->seen == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    stage->n_layer = desc->n_layer;
    stage->tied_head = (desc->flags & PICO_TIED_HEAD) != 0;
    for (uint32_t i = 0; i <= desc->n_layer; i++) {
        const pico_layer_desc *layer = &desc->layer[i < desc->n_layer ? i : 0];
        const uint32_t widths[N_INPUT] = {desc->n_embd, layer->n_head * layer->head_dim,
                                          desc->n_embd, layer->n_ff};
        for (uint32_t j = 0; j < (i < desc->n_layer ? (uint32_t)N_INPUT : 1u); j++) {
            int8_seen *seen = seen_of(stage, i, j);
            seen->width = widths[j];
            seen->largest = calloc(widths[j], sizeof *seen->largest);
            if (seen->largest == NULL) {
                return pico_fail(err, PICO_E_NOMEM, "out of memory");
            }
        }
    }
    return PICO_OK;
}

static void look(void *arg, uint32_t layer, const char *name, const float *rows, uint32_t n,
                 uint32_t width) {
    static const char *const names[N_INPUT] = {"attn_norm", "attended", "ffn_norm", "ffn_inner"};
    int8_stage *stage = arg;
    uint32_t input = 0;
    if (layer < stage->n_layer) {
        while (input < N_INPUT && strcmp(name, names[input]) != 0) {
            input++;
        }
    } else {
        input = strcmp(name, "hidden") == 0 ? 0 : N_INPUT;
    }
    if (input == N_INPUT) {
        return;
    }
    int8_seen *seen = seen_of(stage, layer, input);
    if (width != seen->width) {
        stage->fault = 1;
        return;
    }
    for (uint32_t r = 0; r < n; r++) {
        const float *row = rows + (size_t)r * width;
        for (uint32_t i = 0; i < width; i++) {
            const float magnitude = fabsf(row[i]);
            seen->largest[i] = magnitude > seen->largest[i] ? magnitude : seen->largest[i];
        }
    }
}

pico_status int8_calibrate(void *self, pico_model *model, pico_error *err) {
    int8_stage *stage = self;
    const pico_host *host = stage->host;
    const pico_feed feed = {.struct_size = sizeof feed,
                            .want = PICO_ROW_HIDDEN,
                            .path = stage->options.calibration,
                            .max_tokens = (uint64_t)stage->options.calibration_tokens,
                            .what = "int8: calibration",
                            .tap = look,
                            .arg = stage};
    if (feed.path == NULL) {
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

/* ---- which columns ---- */

static int ends_with(const char *name, const char *end) {
    const size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* What was seen of the input of a tensor's product; NULL if it is not looked at. */
static const int8_seen *input_of(const int8_stage *stage, const char *name) {
    static const struct {
        const char *end;
        uint32_t input;
    } inputs[] = {{".attn_q.weight", INPUT_ATTN},          {".attn_k.weight", INPUT_ATTN},
                  {".attn_v.weight", INPUT_ATTN},          {".value_gate.weight", INPUT_ATTN},
                  {".attn_output.weight", INPUT_ATTENDED}, {".ffn_gate.weight", INPUT_FFN},
                  {".ffn_up.weight", INPUT_FFN},           {".ffn_down.weight", INPUT_FFN_INNER}};
    char *end = NULL;
    if (strcmp(name, "output.weight") == 0 || strncmp(name, "mtp.", 4) == 0 ||
        (stage->tied_head && strcmp(name, "token_embd.weight") == 0) ||
        strcmp(name, "draft_fc1.weight") == 0) {
        return seen_of(stage, stage->n_layer, 0);
    }
    const unsigned long layer = strncmp(name, "blk.", 4) == 0 ? strtoul(name + 4, &end, 10) : 0;
    for (size_t i = 0; end != NULL && i < sizeof inputs / sizeof *inputs; i++) {
        if (ends_with(name, inputs[i].end) && layer < stage->n_layer) {
            return seen_of(stage, (uint32_t)layer, inputs[i].input);
        }
    }
    return NULL;
}

typedef struct candidate {
    float magnitude;
    int32_t column;
} candidate;

/* Largest first; of equal ones the first column. */
static int compare_candidates(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    return x->magnitude != y->magnitude
               ? (x->magnitude < y->magnitude) - (x->magnitude > y->magnitude)
               : (x->column > y->column) - (x->column < y->column);
}

static int compare_columns(const void *a, const void *b) {
    const int32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

pico_status int8_outliers(const int8_stage *stage, const char *name, int64_t cols,
                          const float *input_scale, int32_t *columns, int64_t *n, pico_error *err) {
    const int8_seen *seen = stage->seen == NULL ? NULL : input_of(stage, name);
    const int8_options *o = &stage->options;
    *n = 0;
    if (seen == NULL) {
        return PICO_OK;
    }
    if (cols > seen->width) {
        return pico_fail(err, PICO_E_ABI, "tensor %s is wider than its input", name);
    }
    candidate *found = malloc((size_t)cols * sizeof *found);
    if (found == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "tensor %s: out of memory", name);
    }
    for (int64_t i = 0; i < cols; i++) { /* the product sees its input divided by the scale */
        const float magnitude =
            seen->largest[i] / (input_scale == NULL ? 1.0f : fabsf(input_scale[i]));
        if ((double)magnitude >= o->outlier_threshold) {
            found[(*n)++] = (candidate){magnitude, (int32_t)i};
        }
    }
    qsort(found, (size_t)*n, sizeof *found, compare_candidates);
    *n = o->outliers > 0 && *n > o->outliers ? o->outliers : *n;
    for (int64_t i = 0; i < *n; i++) {
        columns[i] = found[i].column;
    }
    qsort(columns, (size_t)*n, sizeof *columns, compare_columns);
    free(found);
    return PICO_OK;
}
