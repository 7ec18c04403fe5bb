/*
 * From device logits to a distribution: penalties and bias as logit edits built from each row's own
 * history, then as much of the row as the sampler needs, then the sampler. See internal.h.
 */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decode/draw.h"
#include "decode/internal.h"

enum { EDIT_WORDS = 5 };

/* ---- history ---- */

void pico_sampling_remember(pico_slot *slot, int32_t token) {
    if (slot->count != NULL && slot->count[token]++ == 0) {
        slot->seen[slot->n_seen++] = token;
    }
}

void pico_sampling_reset(pico_slot *slot) {
    for (uint32_t i = 0; slot->count != NULL && i < slot->n_seen; i++) {
        slot->count[slot->seen[i]] = 0;
    }
    slot->n_seen = 0;
    if (slot->decode->n_beam == 0 && slot->decode->params.sampler->state_init != NULL) {
        slot->decode->params.sampler->state_init(slot->decode->params.sampler_self, slot->state);
    }
}

void pico_sampling_copy(pico_slot *to, const pico_slot *from) {
    pico_sampling_reset(to);
    for (uint32_t i = 0; from->count != NULL && i < from->n_seen; i++) {
        to->seen[to->n_seen++] = from->seen[i];
        to->count[from->seen[i]] = from->count[from->seen[i]];
    }
}

/* One row's history is its slot's and the drafts on the way to it, the row's own token included.
 * step is +1 to enter that history and -1 to leave it again. */
static void step_history(pico_slot *slot, const pico_row *rows, int32_t row, int step) {
    while (row >= 0 && row != (int32_t)slot->first_row) {
        int32_t token = rows[row].token;
        if (step > 0) {
            pico_sampling_remember(slot, token);
        } else if (--slot->count[token] == 0) {
            slot->n_seen--; /* drafts were appended last, so they leave from the end */
        }
        row = rows[row].parent;
    }
}

/* ---- edits ---- */

typedef struct edit_list {
    int32_t *row, *token;
    float *sub, *rep, *bias;
    uint32_t n, capacity;
} edit_list;

static edit_list edits_of(pico_decode *decode) {
    uint32_t capacity = decode->max_edits;
    int32_t *words = decode->host_edits;
    float *floats = (float *)(void *)(words + 2 * (size_t)capacity);
    return (edit_list){.row = words,
                       .token = words + capacity,
                       .sub = floats,
                       .rep = floats + capacity,
                       .bias = floats + 2 * (size_t)capacity,
                       .capacity = capacity};
}

static void add_edit(edit_list *edits, uint32_t row, int32_t token, float sub, float rep,
                     float bias) {
    assert(edits->n < edits->capacity); /* opening sized it for the longest timelines */
    edits->row[edits->n] = (int32_t)row;
    edits->token[edits->n] = token;
    edits->sub[edits->n] = sub;
    edits->rep[edits->n] = rep;
    edits->bias[edits->n++] = bias;
}

static void add_row_edits(pico_decode *decode, edit_list *edits, pico_slot *slot, uint32_t row,
                          uint32_t out) {
    const pico_decode_params *params = &decode->params;
    if (slot->count != NULL) {
        step_history(slot, decode->row, (int32_t)row, 1);
        for (uint32_t i = 0; i < slot->n_seen; i++) {
            int32_t token = slot->seen[i];
            float sub = params->presence + params->frequency * (float)slot->count[token];
            float bias = decode->bias == NULL ? 0.0f : decode->bias[token];
            add_edit(edits, out, token, sub, params->repetition, bias);
        }
    }
    for (uint32_t i = 0; i < params->n_bias; i++) {
        int32_t token = params->bias[i].token;
        if (slot->count == NULL || slot->count[token] == 0) {
            add_edit(edits, out, token, 0.0f, 1.0f, params->bias[i].bias);
        }
    }
    if (slot->count != NULL) {
        step_history(slot, decode->row, (int32_t)row, -1);
    }
}

static pico_status write_edits(pico_decode *decode, const edit_list *edits,
                               const pico_tensor *logits) {
    const pico_device *device = decode->model->device;
    const struct {
        const void *from;
        const pico_tensor *to;
    } parts[EDIT_WORDS] = {{edits->row, &decode->edit_row},
                           {edits->token, &decode->edit_token},
                           {edits->sub, &decode->edit_sub},
                           {edits->rep, &decode->edit_rep},
                           {edits->bias, &decode->edit_bias}};
    pico_tensor views[EDIT_WORDS];
    for (uint32_t i = 0; i < EDIT_WORDS; i++) {
        pico_status status =
            device->ops->buffer_write(device->self, decode->device, parts[i].to->offset,
                                      parts[i].from, (uint64_t)edits->n * 4);
        if (status != PICO_OK) {
            return status;
        }
        views[i] = pico_view_rows(parts[i].to, 0, edits->n);
    }
    pico_logit_edit_args args = {.logits = *logits,
                                 .row = views[0],
                                 .token = views[1],
                                 .sub = views[2],
                                 .rep = views[3],
                                 .bias = views[4]};
    return device->ops->logit_edit(device->self, &args);
}

static pico_status edit_logits(pico_decode *decode, const pico_tensor *logits) {
    edit_list edits = edits_of(decode);
    for (uint32_t s = 0; s < decode->n_slot; s++) {
        pico_slot *slot = &decode->slot[s];
        if (slot->n_row == 0) {
            continue;
        }
        if (slot->prefilling) {
            if (slot->first_out != PICO_NO_OUTPUT) {
                add_row_edits(decode, &edits, slot, slot->first_row, slot->first_out);
            }
            continue;
        }
        for (uint32_t i = 0; i < slot->n_row; i++) {
            add_row_edits(decode, &edits, slot, slot->first_row + i, slot->first_out + i);
        }
    }
    return edits.n == 0 ? PICO_OK : write_edits(decode, &edits, logits);
}

/* ---- fetching ---- */

static pico_status fetch(const pico_decode *decode, const pico_tensor *from, void *to, uint64_t n,
                         pico_error *err) {
    const pico_device *device = decode->model->device;
    return device->ops->buffer_read(device->self, from->buffer, from->offset, to, n * 4, err);
}

pico_status pico_sampling_top_k(pico_decode *decode, const pico_tensor *logits, pico_error *err) {
    const pico_device *device = decode->model->device;
    uint32_t rows = (uint32_t)logits->shape[0], k = decode->need.k;
    pico_top_k_args args = {.logits = *logits,
                            .k = k,
                            .inv_temperature = decode->need.inv_temperature,
                            .index = pico_view_rows(&decode->index, 0, rows),
                            .value = pico_view_rows(&decode->value, 0, rows),
                            .log_sum = pico_view_rows(&decode->log_sum, 0, rows)};
    pico_status status = device->ops->top_k(device->self, &args);
    if (status != PICO_OK) {
        return pico_fail(err, status, "the backend cannot select %u of %u logits", k,
                         decode->n_vocab);
    }
    status = fetch(decode, &args.index, decode->host_index, (uint64_t)rows * k, err);
    if (status == PICO_OK) {
        status = fetch(decode, &args.value, decode->host_value, (uint64_t)rows * k, err);
    }
    if (status == PICO_OK) {
        status = fetch(decode, &args.log_sum, decode->host_log_sum, rows, err);
    }
    return status;
}

static pico_status fetch_argmax(pico_decode *decode, const pico_tensor *logits, pico_error *err) {
    const pico_device *device = decode->model->device;
    int64_t rows = logits->shape[0];
    pico_argmax_args args = {.logits = *logits,
                             .index = pico_view_vector(decode->index.buffer, decode->index.offset,
                                                       PICO_DTYPE_I32, rows)};
    pico_status status = device->ops->argmax(device->self, &args);
    if (status != PICO_OK) {
        return pico_fail(err, status, "the backend cannot find the largest logit");
    }
    status = fetch(decode, &args.index, decode->host_index, (uint64_t)rows, err);
    for (int64_t r = 0; status == PICO_OK && r < rows; r++) {
        if (decode->host_index[r] < 0 || (uint32_t)decode->host_index[r] >= decode->n_vocab) {
            status = pico_fail(err, PICO_E_INVALID,
                               "no logit is a number above -inf; are they all NaN, or all tokens "
                               "banned?");
        }
    }
    return status;
}

pico_status pico_sampling_prepare(pico_decode *decode, const pico_forward_out *out,
                                  pico_error *err) {
    if (out->n == 0) {
        return PICO_OK;
    }
    if (decode->edits) {
        pico_status status = edit_logits(decode, &out->logits);
        if (status != PICO_OK) {
            return pico_fail(err, status, "the backend cannot apply penalties and bias");
        }
    }
    if (decode->need.kind == PICO_NEED_ARGMAX) {
        return fetch_argmax(decode, &out->logits, err);
    }
    return decode->need.kind == PICO_NEED_TOP_K ? pico_sampling_top_k(decode, &out->logits, err)
                                                : PICO_OK;
}

/* ---- distributions ---- */

/* PICO_OK if a sampler made a distribution, else an error that names it. */
static pico_status check_dist(const pico_decode *decode, pico_status status, const pico_dist *dist,
                              pico_error *err) {
    const char *name = decode->params.sampler_name == NULL ? "" : decode->params.sampler_name;
    if (status != PICO_OK && status != PICO_E_INVALID && status != PICO_E_LIMIT) {
        return pico_plugin_failed("sampler", name, "dist", status, NULL, err);
    }
    if (status != PICO_OK || dist->n == 0) {
        return pico_fail(err, PICO_E_INVALID,
                         "sampler %s makes no distribution of the logits; are they all NaN, or all "
                         "tokens banned?",
                         name);
    }
    return PICO_OK;
}

pico_status pico_sampling_dist_of_row(pico_decode *decode, const float *row, const void *state,
                                      pico_dist *out, pico_error *err) {
    pico_candidates candidates = {
        .n = decode->n_vocab, .n_vocab = decode->n_vocab, .logit = row, .log_sum = NAN};
    pico_status status =
        decode->params.sampler->dist(decode->params.sampler_self, &candidates, state, out);
    return check_dist(decode, status, out, err);
}

pico_status pico_sampling_dist_of_best(pico_decode *decode, uint32_t row, const void *state,
                                       pico_dist *out, pico_error *err) {
    size_t at = (size_t)row * decode->need.k;
    pico_candidates candidates = {
        .n = decode->need.k,
        .n_vocab = decode->n_vocab,
        .token = decode->host_index + at,
        .logit = decode->host_value + at,
        .log_sum = decode->need.k == decode->n_vocab ? NAN : (double)decode->host_log_sum[row]};
    pico_status status =
        decode->params.sampler->dist(decode->params.sampler_self, &candidates, state, out);
    return status == PICO_E_LIMIT ? status : check_dist(decode, status, out, err);
}

/* The whole row: in place where the device's memory is the host's. */
static pico_status whole_row(pico_decode *decode, const pico_forward_out *out, uint32_t row,
                             const float **values, pico_error *err) {
    const pico_device *device = decode->model->device;
    pico_tensor view = pico_view_rows(&out->logits, row, 1);
    if (device->ops->buffer_host != NULL) {
        pico_status status = device->ops->sync(device->self, err);
        unsigned char *base = device->ops->buffer_host(device->self, view.buffer);
        if (status != PICO_OK || base != NULL) {
            *values = status == PICO_OK ? (const float *)(const void *)(base + view.offset) : NULL;
            return status;
        }
    }
    *values = decode->host_row;
    return fetch(decode, &view, decode->host_row, decode->n_vocab, err);
}

pico_status pico_sampling_dist(pico_decode *decode, const pico_forward_out *out, uint32_t row,
                               const void *state, pico_error *err) {
    pico_dist *dist = &decode->dist;
    dist->n = 0;
    if (decode->need.kind == PICO_NEED_ARGMAX) {
        dist->n = 1;
        dist->token[0] = decode->host_index[row];
        dist->p[0] = 1;
        return PICO_OK;
    }
    if (decode->need.kind == PICO_NEED_TOP_K) {
        pico_status status = pico_sampling_dist_of_best(decode, row, state, dist, err);
        if (status != PICO_E_LIMIT) {
            return status;
        }
    }
    const float *values = NULL;
    pico_status status = whole_row(decode, out, row, &values, err);
    return status == PICO_OK ? pico_sampling_dist_of_row(decode, values, state, dist, err) : status;
}

/* ---- opening ---- */

static pico_status open_device(pico_decode *decode, pico_error *err) {
    const pico_device *device = decode->model->device;
    uint64_t k = decode->need.kind == PICO_NEED_TOP_K ? decode->need.k : 1;
    uint64_t words = 2 * k * decode->max_out + decode->max_out + EDIT_WORDS * decode->max_edits +
                     decode->n_vocab;
    pico_status status = device->ops->buffer_alloc(device->self, words * 4, &decode->device, err);
    if (status != PICO_OK) {
        return status;
    }
    pico_buffer *buffer = decode->device;
    uint64_t at = 0, rows = decode->max_out, n = decode->max_edits;
    decode->index = pico_view(buffer, at, PICO_DTYPE_I32, (int64_t)rows, (int64_t)k);
    at += rows * k * 4;
    decode->value = pico_view(buffer, at, PICO_DTYPE_F32, (int64_t)rows, (int64_t)k);
    at += rows * k * 4;
    decode->log_sum = pico_view_vector(buffer, at, PICO_DTYPE_F32, (int64_t)rows);
    at += rows * 4;
    pico_tensor *const edits[EDIT_WORDS] = {&decode->edit_row, &decode->edit_token,
                                            &decode->edit_sub, &decode->edit_rep,
                                            &decode->edit_bias};
    for (uint32_t i = 0; i < EDIT_WORDS; i++) {
        *edits[i] =
            pico_view_vector(buffer, at, i < 2 ? PICO_DTYPE_I32 : PICO_DTYPE_F32, (int64_t)n);
        at += n * 4;
    }
    decode->draft_row = pico_view(buffer, at, PICO_DTYPE_F32, 1, decode->n_vocab);
    decode->host_index = pico_arena_alloc(&decode->arena, rows * k, 4);
    decode->host_value = pico_arena_alloc(&decode->arena, rows * k, 4);
    decode->host_log_sum = pico_arena_alloc(&decode->arena, rows, 4);
    decode->host_edits = pico_arena_alloc(&decode->arena, n * EDIT_WORDS, 4);
    return decode->host_index == NULL || decode->host_value == NULL ||
                   decode->host_log_sum == NULL || decode->host_edits == NULL
               ? pico_fail(err, PICO_E_NOMEM, "out of memory")
               : PICO_OK;
}

pico_status pico_sampling_open(pico_decode *decode, pico_error *err) {
    const pico_decode_params *params = &decode->params;
    pico_arena *arena = &decode->arena;
    decode->host_row = pico_arena_alloc(arena, decode->n_vocab, sizeof *decode->host_row);
    pico_dist *const dists[] = {&decode->dist, &decode->rest};
    int ok = decode->host_row != NULL;
    for (size_t i = 0; i < sizeof dists / sizeof *dists; i++) {
        dists[i]->capacity = decode->n_vocab;
        dists[i]->token = pico_arena_alloc(arena, decode->n_vocab, sizeof *dists[i]->token);
        dists[i]->p = pico_arena_alloc(arena, decode->n_vocab, sizeof *dists[i]->p);
        ok = ok && dists[i]->token != NULL && dists[i]->p != NULL;
    }
    if (!ok) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    if (params->n_bias != 0) {
        decode->bias = pico_arena_alloc(arena, decode->n_vocab, sizeof *decode->bias);
        if (decode->bias == NULL) {
            return pico_fail(err, PICO_E_NOMEM, "out of memory");
        }
        for (uint32_t i = 0; i < decode->n_vocab; i++) {
            decode->bias[i] = NAN; /* not named yet */
        }
        for (uint32_t i = 0; i < params->n_bias; i++) {
            int32_t token = params->bias[i].token;
            float bias = params->bias[i].bias;
            if (token < 0 || (uint32_t)token >= decode->n_vocab || isnan(bias) || bias > FLT_MAX ||
                !isnan(decode->bias[token])) {
                return pico_fail(err, PICO_E_INVALID,
                                 "logit bias %g for token %d: the model has %u tokens, each may be "
                                 "named once, and a bias is finite or -inf",
                                 (double)bias, token, decode->n_vocab);
            }
            decode->bias[token] = bias;
        }
        for (uint32_t i = 0; i < decode->n_vocab; i++) {
            decode->bias[i] = isnan(decode->bias[i]) ? 0.0f : decode->bias[i];
        }
    }
    return open_device(decode, err);
}

void pico_sampling_close(pico_decode *decode) {
    const pico_device *device = decode->model->device;
    device->ops->buffer_free(device->self, decode->device);
}
