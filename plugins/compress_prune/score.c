/*
 * What stays: heads and neurons by the sum of |weights| (l1), by mean |activation| over a text, or by
 * random numbers of a seed.
 *
 *   l1, head:          rows of Wq, columns of Wo; with its own KV head, rows of Wk and Wv too
 *   l1, neuron:        row of W1 (and W3), column of W2
 *   activation, head:  mean |x| over the head's columns of the input of Wo
 *   activation, neuron: mean |x| of the neuron's column of the input of W2
 * A group of heads scores as the sum of its heads, and its KV head. Biases take no part.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "prune.h"

double prune_random(const prune_stage *stage, uint32_t layer, uint32_t kind, uint32_t index) {
    const pico_random_key key = {.seed = (uint64_t)stage->options.seed,
                                 .sample = layer,
                                 .purpose = PICO_RANDOM_PLUGIN,
                                 .t = kind};
    return (double)(stage->host->random(stage->host->ctx, &key, index) >> 11) * 0x1p-53;
}

/* ---- sums of weights ---- */

static int find(const prune_stage *stage, const pico_tensors *tensors, uint32_t layer,
                const char *name, uint32_t *index, pico_tensor_info *info) {
    const pico_tensors_api *api = stage->host->tensors;
    char full[64];
    (void)snprintf(full, sizeof full, "blk.%u.%s", layer, name);
    for (uint32_t i = 0; i < api->count(tensors); i++) {
        if (api->info(tensors, i, info) == PICO_OK && strcmp(info->name, full) == 0) {
            *index = i;
            return 1;
        }
    }
    return 0;
}

pico_status prune_add_l1(const prune_stage *stage, const pico_tensors *tensors, uint32_t layer,
                         const char *name, uint32_t n_unit, int columns, double *score,
                         pico_error *err) {
    pico_tensor_info info;
    uint32_t index = 0;
    if (!find(stage, tensors, layer, name, &index, &info)) {
        return PICO_OK;
    }
    const int64_t rows = info.rank == 1 ? 1 : info.shape[0];
    const int64_t cols = info.rank == 1 ? info.shape[0] : info.shape[1];
    const int64_t unit = (columns ? cols : rows) / n_unit;
    float *values = malloc((size_t)(rows * cols) * sizeof *values);
    if (values == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "tensor %s: out of memory", info.name);
    }
    pico_status status = stage->host->tensors->read_f32(tensors, index, values, err);
    for (int64_t r = 0; status == PICO_OK && r < rows; r++) {
        const float *row = values + r * cols;
        if (!columns) {
            double sum = 0;
            for (int64_t c = 0; c < cols; c++) {
                sum += (double)fabsf(row[c]);
            }
            score[r / unit] += sum;
            continue;
        }
        for (uint32_t u = 0; u < n_unit; u++) {
            for (int64_t c = u * unit; c < (u + 1) * unit; c++) {
                score[u] += (double)fabsf(row[c]);
            }
        }
    }
    free(values);
    return status;
}

/* ---- scores ---- */

/* (n_head) of the query heads and (n_kv_head) of the KV heads that go with them. */
static pico_status score_heads(const prune_stage *stage, const pico_tensors *tensors,
                               uint32_t layer, const prune_shape *s, double *head, double *kv,
                               pico_error *err) {
    const uint32_t score = stage->options.score;
    pico_status status = PICO_OK;
    if (score == SCORE_L1) {
        status = prune_add_l1(stage, tensors, layer, "attn_q.weight", s->n_head, 0, head, err);
        if (status == PICO_OK) {
            status =
                prune_add_l1(stage, tensors, layer, "attn_output.weight", s->n_head, 1, head, err);
        }
        if (status == PICO_OK && s->by_unit) {
            status = prune_add_l1(stage, tensors, layer, "attn_k.weight", s->n_kv_head, 0, kv, err);
        }
        if (status == PICO_OK && s->by_unit) {
            status = prune_add_l1(stage, tensors, layer, "attn_v.weight", s->n_kv_head, 0, kv, err);
        }
        return status;
    }
    for (uint32_t h = 0; h < s->n_head; h++) {
        if (score == SCORE_RANDOM) {
            head[h] = prune_random(stage, layer, OVER_HEADS, h);
            continue;
        }
        const prune_seen *seen = &stage->seen[layer];
        for (uint32_t i = h * s->head_dim; i < (h + 1) * s->head_dim; i++) {
            head[h] += seen->attended[i] / (double)seen->n_row / s->head_dim;
        }
    }
    return status;
}

static pico_status score_neurons(const prune_stage *stage, const pico_tensors *tensors,
                                 uint32_t layer, const prune_shape *s, double *score,
                                 pico_error *err) {
    pico_status status = PICO_OK;
    if (stage->options.score == SCORE_L1) {
        static const char *const names[] = {"ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"};
        for (int i = 0; status == PICO_OK && i < 3; i++) {
            status = prune_add_l1(stage, tensors, layer, names[i], s->n_ff, i == 2, score, err);
        }
        return status;
    }
    for (uint32_t i = 0; i < s->n_ff; i++) {
        score[i] = stage->options.score == SCORE_RANDOM
                       ? prune_random(stage, layer, OVER_NEURONS, i)
                       : stage->seen[layer].inner[i] / (double)stage->seen[layer].n_row;
    }
    return status;
}

/* ---- choice ---- */

typedef struct candidate {
    double score;
    uint32_t index;
} candidate;

/* Highest first; of equals the first. */
static int by_score(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->score > y->score || x->score < y->score) {
        return x->score < y->score ? 1 : -1;
    }
    return x->index < y->index ? -1 : x->index > y->index;
}

static int by_index(const void *a, const void *b) {
    const uint32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

pico_status prune_select(const double *score, uint32_t n, uint32_t keep, uint32_t *out) {
    candidate *all = malloc((size_t)n * sizeof *all);
    if (all == NULL) {
        return PICO_E_NOMEM;
    }
    int finite = 1;
    for (uint32_t i = 0; i < n; i++) {
        all[i] = (candidate){score[i], i};
        finite &= isfinite(score[i]) != 0;
    }
    if (finite) {
        qsort(all, n, sizeof *all, by_score);
    }
    for (uint32_t i = 0; finite && i < keep; i++) {
        out[i] = all[i].index;
    }
    free(all);
    if (!finite) {
        return PICO_E_INVALID;
    }
    qsort(out, keep, sizeof *out, by_index);
    return PICO_OK;
}

static pico_status choose_heads(const prune_stage *stage, const pico_tensors *tensors,
                                uint32_t layer, const prune_shape *s, prune_kept *out,
                                pico_error *err) {
    double *head = calloc(s->n_head, sizeof *head), *kv = calloc(s->n_kv_head, sizeof *kv);
    pico_status status = head == NULL || kv == NULL
                             ? PICO_E_NOMEM
                             : score_heads(stage, tensors, layer, s, head, kv, err);
    if (status == PICO_OK && s->by_unit) {
        for (uint32_t h = 0; h < s->n_head; h++) {
            kv[h / s->group] += head[h];
        }
        status = prune_select(kv, s->n_kv_head, s->kv_kept, out->kv);
        for (uint32_t i = 0; status == PICO_OK && i < s->heads_kept; i++) {
            out->head[i] = out->kv[i / s->group] * s->group + i % s->group;
        }
    } else if (status == PICO_OK) {
        const uint32_t keep = s->heads_kept / s->n_kv_head;
        for (uint32_t g = 0; status == PICO_OK && g < s->n_kv_head; g++) {
            uint32_t *kept = out->head + g * keep;
            out->kv[g] = g;
            status = prune_select(head + g * s->group, s->group, keep, kept);
            for (uint32_t i = 0; status == PICO_OK && i < keep; i++) {
                kept[i] += g * s->group;
            }
        }
    }
    free(head);
    free(kv);
    return status;
}

static pico_status choose_neurons(const prune_stage *stage, const pico_tensors *tensors,
                                  uint32_t layer, const prune_shape *s, prune_kept *out,
                                  pico_error *err) {
    double *score = calloc(s->n_ff, sizeof *score);
    pico_status status =
        score == NULL ? PICO_E_NOMEM : score_neurons(stage, tensors, layer, s, score, err);
    if (status == PICO_OK) {
        status = prune_select(score, s->n_ff, s->ff_kept, out->ff);
    }
    free(score);
    return status;
}

static void keep_all(uint32_t *out, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        out[i] = i;
    }
}

pico_status prune_choose(const prune_stage *stage, const pico_tensors *tensors, uint32_t layer,
                         const prune_shape *s, prune_kept *out, pico_error *err) {
    static const char not_finite[] = "a weight or an activation is infinite or not a number";
    *out = (prune_kept){.head = malloc(s->heads_kept * sizeof *out->head),
                        .kv = malloc(s->kv_kept * sizeof *out->kv),
                        .ff = malloc(s->ff_kept * sizeof *out->ff)};
    if (out->head == NULL || out->kv == NULL || out->ff == NULL) {
        prune_kept_free(out);
        return pico_fail(err, PICO_E_NOMEM, "layer %u: out of memory", layer);
    }
    pico_error inner = {0};
    pico_status status = PICO_OK;
    keep_all(out->head, s->heads_kept);
    keep_all(out->kv, s->kv_kept);
    keep_all(out->ff, s->ff_kept);
    if (s->heads_kept < s->n_head) {
        status = choose_heads(stage, tensors, layer, s, out, &inner);
    }
    if (status == PICO_OK && s->ff_kept < s->n_ff) {
        status = choose_neurons(stage, tensors, layer, s, out, &inner);
    }
    if (status != PICO_OK) {
        prune_kept_free(out);
        return pico_fail(err, status, "layer %u: %s", layer,
                         inner.message[0] != '\0'   ? inner.message
                         : status == PICO_E_INVALID ? not_finite
                                                    : "out of memory");
    }
    return PICO_OK;
}

void prune_kept_free(prune_kept *kept) {
    free(kept->head);
    free(kept->kv);
    free(kept->ff);
    *kept = (prune_kept){0};
}
