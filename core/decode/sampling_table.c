/*
 * The target's sampling, for drafters: what its sampler would make of a row of somebody's logits
 * after its history and some drafts, and the draw. See pico_sampling_api. The row takes the way that
 * the target's rows take, so that the same logits give the same distribution.
 */
#include <math.h>
#include <string.h>

#include "decode/draw.h"
#include "decode/internal.h"

static pico_status check_extra(const pico_decode *decode, const int32_t *extra, uint32_t n_extra,
                               const pico_dist *out, pico_error *err) {
    if (out->capacity < decode->n_vocab) {
        return pico_fail(err, PICO_E_LIMIT, "a distribution needs room for %u tokens, not %u",
                         decode->n_vocab, out->capacity);
    }
    for (uint32_t i = 0; i < n_extra; i++) {
        if (n_extra > MAX_ROOM || extra[i] < 0 || (uint32_t)extra[i] >= decode->n_vocab) {
            return pico_fail(err, PICO_E_INVALID,
                             "%u extra tokens, at most %d are possible, or token %d of %u", n_extra,
                             MAX_ROOM, extra[i], decode->n_vocab);
        }
    }
    return PICO_OK;
}

/* The row with penalties and bias, in decode->host_row. */
static const float *edited(pico_slot *slot, const float *logits, const int32_t *extra,
                           uint32_t n_extra) {
    pico_decode *decode = slot->decode;
    const pico_decode_params *params = &decode->params;
    float *row = decode->host_row;
    memcpy(row, logits, (size_t)decode->n_vocab * sizeof *logits);
    for (uint32_t i = 0; i < n_extra; i++) {
        pico_sampling_remember(slot, extra[i]);
    }
    for (uint32_t i = 0; slot->count != NULL && i < slot->n_seen; i++) {
        int32_t token = slot->seen[i];
        float z = row[token] - (params->presence + params->frequency * (float)slot->count[token]);
        row[token] = z > 0 ? z / params->repetition : z * params->repetition;
    }
    for (uint32_t i = 0; i < params->n_bias; i++) {
        row[params->bias[i].token] += params->bias[i].bias;
    }
    for (uint32_t i = 0; slot->count != NULL && i < n_extra; i++) {
        if (--slot->count[extra[i]] == 0) {
            slot->n_seen--; /* they were appended last, so they leave from the end */
        }
    }
    return row;
}

/* The largest of n values, NaN left out; the compiler makes vectors of it. */
static float largest(const float *row, uint32_t n) {
    enum { LANES = 16 };
    float lane[LANES], most = -INFINITY;
    uint32_t i = 0;
    for (uint32_t j = 0; j < LANES; j++) {
        lane[j] = -INFINITY;
    }
    for (; i + LANES <= n; i += LANES) {
        for (uint32_t j = 0; j < LANES; j++) {
            lane[j] = row[i + j] > lane[j] ? row[i + j] : lane[j]; /* never true of a NaN */
        }
    }
    for (; i < n; i++) {
        lane[0] = row[i] > lane[0] ? row[i] : lane[0];
    }
    for (uint32_t j = 0; j < LANES; j++) {
        most = lane[j] > most ? lane[j] : most;
    }
    return most;
}

static pico_status best_token(const pico_decode *decode, const float *row, pico_dist *out,
                              pico_error *err) {
    const float most = largest(row, decode->n_vocab);
    uint32_t best = 0;
    if (!(most > -INFINITY)) {
        return pico_fail(err, PICO_E_INVALID, "no logit is a number above -inf");
    }
    while (row[best] != most) { /* of equals the first */
        best++;
    }
    out->n = 1;
    out->token[0] = (int32_t)best;
    out->p[0] = 1;
    return PICO_OK;
}

static pico_status best_tokens(pico_decode *decode, const float *row, const void *state,
                               pico_dist *out, pico_error *err) {
    const pico_device *device = decode->model->device;
    const pico_tensor *to = &decode->draft_row;
    pico_status status = device->ops->buffer_write(device->self, to->buffer, to->offset, row,
                                                   (uint64_t)decode->n_vocab * sizeof *row);
    if (status != PICO_OK) {
        return pico_fail(err, status, "a row of draft logits cannot be written to the device");
    }
    status = pico_sampling_top_k(decode, to, err);
    if (status == PICO_OK) {
        status = pico_sampling_dist_of_best(decode, 0, state, out, err);
        if (status == PICO_E_LIMIT) {
            status = pico_sampling_dist_of_row(decode, row, state, out, err);
        }
    }
    return status;
}

static pico_status table_dist(const void *sampling, const float *logits, const int32_t *extra,
                              uint32_t n_extra, pico_dist *out, pico_error *err) {
    pico_slot *slot = (pico_slot *)(uintptr_t)sampling;
    pico_decode *decode = slot->decode;
    pico_status status = check_extra(decode, extra, n_extra, out, err);
    if (status != PICO_OK) {
        return status;
    }
    const float *row = decode->edits ? edited(slot, logits, extra, n_extra) : logits;
    if (decode->need.kind == PICO_NEED_ARGMAX) {
        return best_token(decode, row, out, err);
    }
    return decode->need.kind == PICO_NEED_TOP_K
               ? best_tokens(decode, row, slot->state, out, err)
               : pico_sampling_dist_of_row(decode, row, slot->state, out, err);
}

static int32_t table_draw(const void *sampling, const pico_dist *dist, uint32_t n_extra,
                          uint32_t purpose) {
    const pico_slot *slot = sampling;
    pico_random_key key = {.seed = slot->request.seed,
                           .sample = slot->request.sample,
                           .purpose = purpose,
                           .t = (uint64_t)slot->n_token + n_extra};
    return pico_draw(dist, &key);
}

const pico_sampling_api pico_sampling_table = {
    .struct_size = sizeof(pico_sampling_api), .dist = table_dist, .draw = table_draw};
