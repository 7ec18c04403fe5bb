/*
 * Cuts the tensors of each layer to what stays, one after the other. F32, F16 and BF16 values are
 * copied as they are; means of KV heads are taken in F32 and rounded once. Quantised tensors are
 * widened where the user asks for that; the plan has refused them else.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "prune.h"

/* Where the parts of a tensor go: unit keep[i] of `unit` rows or columns becomes unit i / pool. */
typedef struct cut {
    const uint32_t *keep;
    uint32_t n_keep, pool;
    int64_t unit;
    int columns;
} cut;

/* ---- values ---- */

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static uint16_t bf16_of(float x) {
    const uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)(bits >> 16 | 0x40u);
    }
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static uint16_t f16_of(float x) {
    const uint16_t sign = (uint16_t)(bits_of(x) >> 16 & 0x8000u);
    const uint32_t rest = bits_of(x) & 0x7fffffffu;
    if (rest > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u);
    }
    if (rest >= 0x477ff000u) { /* 65520 and above */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (rest < 0x38800000u) { /* subnormal in F16: adding 0.5 rounds at 2^-24 */
        return (uint16_t)(sign | (bits_of(fabsf(x) + 0.5f) - bits_of(0.5f)));
    }
    return (uint16_t)(sign | (rest + 0xfffu + (rest >> 13 & 1u) - (112u << 23)) >> 13);
}

static size_t size_of(uint32_t dtype) {
    return dtype == PICO_DTYPE_F32 ? 4 : 2;
}

/* (n) values in place: the result is never larger. Returns 0 if one does not fit. */
static int narrow(void *values, size_t n, uint32_t dtype) {
    int fits = 1;
    for (size_t i = 0; dtype != PICO_DTYPE_F32 && i < n; i++) {
        float x;
        memcpy(&x, (const char *)values + i * sizeof x, sizeof x);
        const uint16_t half = dtype == PICO_DTYPE_BF16 ? bf16_of(x) : f16_of(x);
        fits &= dtype == PICO_DTYPE_BF16 || !isfinite(x) || (half & 0x7c00u) != 0x7c00u;
        memcpy((char *)values + i * sizeof half, &half, sizeof half);
    }
    return fits;
}

/* ---- one tensor ---- */

/* (rows, cols) elements of `size` bytes -> what stays, in order. */
static void gather(const cut *c, const char *from, int64_t rows, int64_t cols, size_t size,
                   char *to) {
    const size_t run = (size_t)(c->columns ? c->unit : c->unit * cols) * size;
    for (int64_t r = 0; r < (c->columns ? rows : 1); r++) {
        const char *row = from + (size_t)(r * cols) * size;
        for (uint32_t i = 0; i < c->n_keep; i++) {
            memcpy(to, row + c->keep[i] * run, run);
            to += run;
        }
    }
}

/* The same in F32, each `pool` of those that stay becoming their mean; to (result) is zero. */
static void gather_means(const cut *c, const float *from, int64_t rows, int64_t cols, float *to) {
    const int64_t blocks = c->columns ? rows : 1, run = c->columns ? c->unit : c->unit * cols;
    const int64_t width = c->n_keep / c->pool * run;
    for (int64_t b = 0; b < blocks; b++) {
        for (uint32_t i = 0; i < c->n_keep; i++) {
            const float *unit = from + b * cols + c->keep[i] * run;
            float *sum = to + b * width + i / c->pool * run;
            for (int64_t j = 0; j < run; j++) {
                sum[j] += unit[j] / (float)c->pool;
            }
        }
    }
}

static int is_plain(const pico_weight_desc *w) {
    return prune_is_float(w->dtype) && w->input_scale == NULL && w->input_perm == NULL &&
           w->n_outlier == 0;
}

static pico_status cut_tensor(const prune_stage *stage, pico_tensors *tensors, uint32_t index,
                              const pico_tensor_info *info, const cut *c, pico_error *err) {
    const pico_tensors_api *api = stage->host->tensors;
    pico_weight_desc from, to = {0};
    pico_status status = api->read(tensors, index, &from);
    if (status != PICO_OK) {
        return pico_fail(err, status, "tensor %s cannot be read", info->name);
    }
    status = prune_dtype(&stage->options, info->name, from.dtype, &to.dtype, err);
    if (status != PICO_OK) {
        return status;
    }
    const int plain = is_plain(&from) && c->pool == 1;
    const int64_t after = c->n_keep / c->pool * c->unit;
    to.rows = c->columns ? from.rows : after;
    to.cols = c->columns ? after : from.cols;
    const size_t n = (size_t)(to.rows * to.cols);
    void *values = calloc(n, sizeof(float));
    float *wide = plain ? NULL : malloc((size_t)(from.rows * from.cols) * sizeof *wide);
    if (values == NULL || (wide == NULL && !plain)) {
        status = pico_fail(err, PICO_E_NOMEM, "tensor %s: out of memory", info->name);
    } else if (plain) {
        gather(c, from.codes, from.rows, from.cols, size_of(from.dtype), values);
    } else {
        status = api->read_f32(tensors, index, wide, err);
        if (status == PICO_OK) {
            gather_means(c, wide, from.rows, from.cols, values);
            status = narrow(values, n, to.dtype)
                         ? PICO_OK
                         : pico_fail(err, PICO_E_UNSUPPORTED,
                                     "tensor %s: a value is beyond F16; set dequantise = bf16 or "
                                     "f32",
                                     info->name);
        }
    }
    to.codes = values;
    to.codes_bytes = n * size_of(to.dtype);
    if (status == PICO_OK) {
        status = api->replace(tensors, index, &to, err);
    }
    free(values);
    free(wide);
    return status;
}

/* ---- a layer ---- */

static cut cut_of(const prune_shape *s, const prune_kept *kept, const prune_part *part) {
    cut c = {.keep = kept->head, .n_keep = s->heads_kept, .pool = 1, .columns = part->columns != 0};
    if (part->over == OVER_KV_HEADS) {
        c.keep = kept->kv;
        c.n_keep = s->kv_kept;
        c.pool = s->kv_kept / s->kv_pooled;
    } else if (part->over == OVER_NEURONS) {
        c.keep = kept->ff;
        c.n_keep = s->ff_kept;
    }
    c.unit = part->single ? 1 : s->head_dim;
    return c;
}

static pico_status cut_layer(const prune_stage *stage, pico_tensors *tensors, uint32_t layer,
                             const prune_shape *shape, const prune_kept *kept, pico_error *err) {
    const pico_tensors_api *api = stage->host->tensors;
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < api->count(tensors); i++) {
        pico_tensor_info info;
        uint32_t whose;
        status = api->info(tensors, i, &info);
        const prune_part *part = status == PICO_OK ? prune_part_of(info.name, &whose) : NULL;
        if (part == NULL || whose != layer ||
            prune_units(shape, part) == prune_units_after(shape, part)) {
            continue;
        }
        const cut c = cut_of(shape, kept, part);
        status = cut_tensor(stage, tensors, i, &info, &c, err);
    }
    return status;
}

/* ---- all layers ---- */

static void say(const prune_stage *stage, uint32_t level, const char *text) {
    stage->host->log(stage->host->ctx, level, text);
}

/* Which heads and how many neurons of a layer go. */
static void report_layer(const prune_stage *stage, uint32_t layer, const prune_shape *s,
                         const prune_kept *kept) {
    char text[400];
    int used = snprintf(text, sizeof text, "prune: layer %u: %u of %u neurons stay, heads", layer,
                        s->ff_kept, s->n_ff);
    for (uint32_t i = 0; i < s->heads_kept && used > 0 && (size_t)used < sizeof text; i++) {
        used += snprintf(text + used, sizeof text - (size_t)used, " %u", kept->head[i]);
    }
    say(stage, PICO_LOG_DEBUG, text);
}

static void report(const prune_stage *stage, const pico_model_desc *model) {
    uint64_t heads[2] = {0}, kv[2] = {0}, ff[2] = {0};
    uint32_t n = 0;
    char text[320];
    for (uint32_t i = 0; i < model->n_layer; i++) {
        prune_shape s;
        if ((stage->drop != NULL && stage->drop[i]) ||
            prune_shape_of(&stage->options, &model->layer[i], i, &s, NULL) != PICO_OK) {
            continue;
        }
        heads[0] += s.n_head, heads[1] += s.heads_kept;
        kv[0] += s.n_kv_head, kv[1] += s.kv_pooled;
        ff[0] += s.n_ff, ff[1] += s.ff_kept;
        n++;
    }
    (void)snprintf(text, sizeof text,
                   "prune: %u of %u layers; in these heads %llu -> %llu, KV heads %llu -> %llu, "
                   "neurons %llu -> %llu",
                   n, model->n_layer, (unsigned long long)heads[0], (unsigned long long)heads[1],
                   (unsigned long long)kv[0], (unsigned long long)kv[1], (unsigned long long)ff[0],
                   (unsigned long long)ff[1]);
    say(stage, PICO_LOG_INFO, text);
}

static int is_calibrated(const prune_stage *stage, const pico_model_desc *model) {
    return stage->options.score != SCORE_ACTIVATION ||
           !(stage->options.heads > 0 || stage->options.neurons > 0) ||
           stage->n_layer == model->n_layer;
}

static pico_status apply_layer(const prune_stage *stage, const pico_model_desc *model,
                               pico_tensors *tensors, uint32_t layer, pico_error *err) {
    prune_shape shape;
    prune_kept kept = {0};
    pico_status status = prune_shape_of(&stage->options, &model->layer[layer], layer, &shape, err);
    if (status == PICO_OK) {
        status = prune_choose(stage, tensors, layer, &shape, &kept, err);
    }
    if (status == PICO_OK) {
        report_layer(stage, layer, &shape, &kept);
        status = cut_layer(stage, tensors, layer, &shape, &kept, err);
    }
    prune_kept_free(&kept);
    return status;
}

pico_status prune_apply(void *self, const pico_model_desc *model, pico_tensors *tensors,
                        pico_error *err) {
    prune_stage *stage = self;
    const pico_host *host = stage->host;
    pico_status status = PICO_OK;
    if (!is_calibrated(stage, model)) {
        status = pico_fail(err, PICO_E_UNSUPPORTED,
                           "score = activation, and no model was run through calibrate");
    }
    for (uint32_t i = 0; status == PICO_OK && i < model->n_layer; i++) {
        if (host->should_stop(host->ctx)) {
            status = pico_fail(err, PICO_E_CANCELLED, "interrupted");
        } else if (stage->drop == NULL || !stage->drop[i]) {
            status = apply_layer(stage, model, tensors, i, err);
        }
        host->progress(host->ctx, "prune", i + 1, model->n_layer);
    }
    if (status == PICO_OK) {
        report(stage, model);
    }
    prune_forget(stage);
    return status;
}
