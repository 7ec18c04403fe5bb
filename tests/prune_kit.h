/*
 * What the tests of compress_prune share: chains of stages over small random models, the values of
 * tensors, which units of a matrix are left, and the whole model with units made silent.
 */
#ifndef PICO_TESTS_PRUNE_KIT_H
#define PICO_TESTS_PRUNE_KIT_H

#include "session_kit.h"

#include "llama_kit.h"
#include "ref_model.h"
#include "transform/compress.h"
#include "transform/tensors.h"

enum { PRUNE_SET = 8, PRUNE_STAGES = 3, PRUNE_UNITS = 512, PRUNE_TOKENS = 24 };

/* ---- models ---- */

enum { PRUNE_UNEVEN = 9, PRUNE_MODELS = 10 };

/* A Llama whose layers have different heads, groups and widths. */
static inline pico_model_file *prune_uneven_model(void) {
    pico_layer_desc layer[3];
    pico_model_desc desc = small_llama(layer, 3);
    pico_model_file *file = NULL;
    pico_error err = {0};
    layer[1].n_head = 6;
    layer[1].n_kv_head = 3;
    layer[1].n_ff = 40;
    layer[2].n_kv_head = 4;
    layer[2].n_ff = 33;
    if (pico_model_synthetic_from(&desc, PICO_DTYPE_F32, 5, &file, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    pico_tensors tensors = {.file = file};
    for (uint32_t i = 0; i < file->n_tensor; i++) { /* to where it can be written */
        const pico_weight_desc data = file->tensor[i].data;
        assert_int_equal(pico_tensors_table.replace(&tensors, i, &data, &err), PICO_OK);
    }
    return file;
}

/* Those of the session kit; with a KV head for each query head, nanochat's second generation with its
 * extra heads and its fourth; and a Llama whose layers differ. */
static inline pico_model_file *prune_model(uint32_t index) {
    tiny_model tiny = kit_model(index < KIT_MODELS ? index : index == 7 ? 4 : 5);
    pico_model_file *file = NULL;
    pico_error err = {0};
    if (index == PRUNE_UNEVEN) {
        return prune_uneven_model();
    }
    if (index >= KIT_MODELS) {
        tiny.n_head = tiny.n_kv_head = 4;
        tiny.n_layer = 5;
    }
    tiny.window[1] = 5;
    if (tiny_model_file(&tiny, &file, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    return file;
}

static inline pico_file_tensor *prune_tensor(pico_model_file *file, uint32_t layer,
                                             const char *name) {
    char full[64];
    (void)snprintf(full, sizeof full, "blk.%u.%s", layer, name);
    return (pico_file_tensor *)(uintptr_t)pico_model_file_find(file, full);
}

/* Scales every unit of the layers' matrices by a factor of its own, 1/4 to 4, so that each matrix
 * decides some comparison of scores. F32. */
static inline void prune_unbalance(pico_model_file *file) {
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const pico_weight_desc *w = &file->tensor[i].data;
        const char *name = file->tensor[i].name;
        const int columns =
            strstr(name, "attn_output.weight") != NULL || strstr(name, "ffn_down.weight") != NULL;
        const int ff = strstr(name, ".ffn_") != NULL;
        const int64_t unit = ff ? 1 : file->desc.layer[0].head_dim;
        float *values = (float *)(uintptr_t)w->codes;
        if (file->tensor[i].rank != 2 || (!ff && strstr(name, ".attn_") == NULL)) {
            continue;
        }
        for (int64_t j = 0; j < w->rows * w->cols; j++) {
            uint64_t random = i * 1000 + (uint64_t)((columns ? j % w->cols : j / w->cols) / unit);
            values[j] *= (float)exp2(4 * rig_uniform(&random) - 2);
        }
    }
}

/* (rows * cols) as F32; malloc-ed. NULL if there is no such tensor. */
static inline float *prune_values(const pico_weight_desc *w) {
    float *out = kit_floats((size_t)(w->rows * w->cols));
    for (int64_t i = 0; i < w->rows; i++) {
        pico_weight_row_f32(w, i, out + i * w->cols);
    }
    return out;
}

/* ---- stages ---- */

typedef struct prune_rig {
    rig r;
    pico_instance instance[PRUNE_STAGES];
    pico_stage stage[PRUNE_STAGES];
    size_t n;
    int n_opened;     /* models for calibration */
    uint64_t planned; /* bytes of all tensors after the plan */
} prune_rig;

static inline pico_status prune_open_model(void *arg, pico_model_file *file, pico_model **out,
                                           pico_error *err) {
    prune_rig *p = arg;
    const pico_model_params params = {.attention = &p->r.attention.loaded->ops.attention,
                                      .attention_self = p->r.attention.self,
                                      .kv_dtype = PICO_DTYPE_F32};
    p->n_opened++;
    return pico_model_open(&p->r.device, &params, file, out, err);
}

static inline void prune_close_model(void *arg, pico_model *model) {
    (void)arg;
    (void)pico_model_release(model);
}

static inline void prune_planned(void *arg, const pico_stage *stage, const pico_tensor_info *from,
                                 const pico_tensor_plan *to) {
    prune_rig *p = arg;
    (void)stage;
    p->planned += to->bytes - from->bytes;
}

/* settings: "N.NAME.key=value" of stages 1, 2, ..., and "N.NAME" for one without; NULL-terminated.
 * Runs the chain on the file. */
static inline pico_status prune_chain(prune_rig *p, pico_model_file *file, const char *const *set,
                                      pico_error *err) {
    char line[PRUNE_SET][640];
    const char *list[PRUNE_SET + 1] = {0};
    size_t n_set = 0;
    char name[PRUNE_STAGES][32] = {{0}};
    memset(p, 0, sizeof *p);
    for (size_t i = 0; set[i] != NULL; i++) {
        const size_t stage = (size_t)(set[i][0] - '1');
        assert_true(stage < PRUNE_STAGES && n_set < PRUNE_SET);
        (void)snprintf(name[stage], sizeof name[stage], "%.*s", (int)strcspn(set[i] + 2, "."),
                       set[i] + 2);
        p->n = stage + 1 > p->n ? stage + 1 : p->n;
        if (strchr(set[i], '=') != NULL) {
            (void)snprintf(line[n_set], sizeof line[n_set], "compress.%s", set[i]);
            list[n_set] = line[n_set];
            n_set++;
        }
    }
    const rig_setup setup = {.search = PICO_BUILD_DIR "/plugins", .set = list, .n_threads = 2};
    assert_int_equal(rig_open(&p->r, &setup, err), PICO_OK);
    p->r.host.tensors = &pico_tensors_table;
    pico_status status = PICO_OK;
    for (size_t s = 0; status == PICO_OK && s < p->n; s++) {
        char section[64];
        (void)snprintf(section, sizeof section, "compress.%zu.%s", s + 1, name[s]);
        status = pico_registry_create(p->r.registry, p->r.config, PICO_KIND_COMPRESSOR, name[s],
                                      section, &p->r.host, &p->instance[s], err);
        p->stage[s] =
            (pico_stage){.number = (uint32_t)s + 1,
                         .name = status == PICO_OK ? p->instance[s].loaded->plugin.name : "",
                         .ops = status == PICO_OK ? &p->instance[s].loaded->ops.compressor : NULL,
                         .self = p->instance[s].self};
    }
    const pico_chain_callbacks callbacks = {.planned = prune_planned,
                                            .open_model = prune_open_model,
                                            .close_model = prune_close_model,
                                            .arg = p};
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        p->planned += file->tensor[i].bytes;
    }
    return status == PICO_OK ? pico_compress_chain(file, p->stage, p->n, &callbacks, err) : status;
}

#define PRUNE_SETTINGS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* The chain must work, and its plan be what the tensors then take; gives the models it opened. */
static inline int prune_ok(pico_model_file *file, const char *const *set) {
    prune_rig p;
    pico_error err = {0};
    uint64_t bytes = 0;
    if (prune_chain(&p, file, set, &err) != PICO_OK) {
        fail_msg("%s: %s", set[0], err.message);
    }
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        bytes += file->tensor[i].bytes;
    }
    assert_int_equal(bytes, p.planned);
    rig_close(&p.r);
    return p.n_opened;
}

/* It must fail so, and say so. */
static inline void prune_fails(pico_model_file *file, pico_status expected, const char *says,
                               const char *const *set) {
    prune_rig p;
    pico_error err = {0};
    const pico_status status = prune_chain(&p, file, set, &err);
    if (status != expected || strstr(err.message, says) == NULL) {
        fail_msg("%s: status %d, expected %d with \"%s\"; it said: %s", set[0], (int)status,
                 (int)expected, says, err.message);
    }
    rig_close(&p.r);
}

/* ---- what is left ---- */

/* Which units of `unit` rows of the whole matrix the pruned one has, found by their values: the
 * weights are random, so no two are equal. left: (units) of the whole. */
static inline void prune_left(const pico_weight_desc *whole, const pico_weight_desc *pruned,
                              int64_t unit, int *left) {
    float *a = prune_values(whole), *b = prune_values(pruned);
    const size_t bytes = (size_t)(unit * whole->cols) * sizeof *a;
    int64_t at = 0;
    assert_int_equal(whole->cols, pruned->cols);
    for (int64_t i = 0; i < whole->rows / unit; i++) { /* in their order */
        left[i] = at < pruned->rows / unit &&
                  memcmp(a + i * unit * whole->cols, b + at * unit * whole->cols, bytes) == 0;
        at += left[i];
    }
    assert_int_equal(at, pruned->rows / unit);
    free(a);
    free(b);
}

/* Makes the columns of a matrix zero whose unit is not left. F32. */
static inline void prune_silence(pico_file_tensor *tensor, int64_t unit, const int *left) {
    float *values = (float *)(uintptr_t)tensor->data.codes;
    assert_int_equal(tensor->data.dtype, PICO_DTYPE_F32);
    for (int64_t i = 0; i < tensor->data.rows * tensor->data.cols; i++) {
        values[i] = left[i % tensor->data.cols / unit] ? values[i] : 0;
    }
}

/* Silences in the whole model what the pruned one lacks. Gives how many heads and neurons. */
static inline void prune_silence_model(pico_model_file *whole, pico_model_file *pruned,
                                       uint32_t *n_head, uint32_t *n_neuron) {
    int left[PRUNE_UNITS];
    *n_head = *n_neuron = 0;
    for (uint32_t i = 0; i < whole->desc.n_layer; i++) {
        const pico_layer_desc *layer = &whole->desc.layer[i];
        prune_left(&prune_tensor(whole, i, "attn_q.weight")->data,
                   &prune_tensor(pruned, i, "attn_q.weight")->data, layer->head_dim, left);
        prune_silence(prune_tensor(whole, i, "attn_output.weight"), layer->head_dim, left);
        for (uint32_t h = 0; h < layer->n_head; h++) {
            *n_head += !left[h];
        }
        prune_left(&prune_tensor(whole, i, "ffn_up.weight")->data,
                   &prune_tensor(pruned, i, "ffn_up.weight")->data, 1, left);
        prune_silence(prune_tensor(whole, i, "ffn_down.weight"), 1, left);
        for (uint32_t n = 0; n < layer->n_ff; n++) {
            *n_neuron += !left[n];
        }
    }
}

/* ---- logits ---- */

/* Of every head of a model, (PRUNE_TOKENS, all of them), by the slow reference; malloc-ed. */
static inline double *prune_logits(const pico_model_file *file, size_t *n) {
    const pico_model_desc *d = &file->desc;
    const ref_mask none = {.window_limit = -1};
    const size_t head = (size_t)PRUNE_TOKENS * d->n_vocab;
    int32_t token[PRUNE_TOKENS];
    uint64_t random = 31;
    *n = head * (1 + d->n_mtp_head + d->n_draft);
    double *out = calloc(*n, sizeof *out);
    assert_non_null(out);
    for (int i = 0; i < PRUNE_TOKENS; i++) {
        token[i] = (int32_t)rig_below(&random, d->n_vocab);
    }
    assert_true(ref_model_logits(file, &none, token, PRUNE_TOKENS, out));
    for (uint32_t k = 0; k < d->n_mtp_head; k++) {
        assert_true(ref_model_mtp(file, token, PRUNE_TOKENS, k, out + (1 + k) * head));
    }
    if (d->n_draft != 0) {
        assert_true(ref_model_draft(file, token, PRUNE_TOKENS, out + (1 + d->n_mtp_head) * head));
    }
    return out;
}

/* The logits of two models differ by at most limit; 0: they are equal. */
static inline void prune_same_logits(const pico_model_file *a, const pico_model_file *b,
                                     double limit) {
    size_t n = 0, n_b = 0;
    double *x = prune_logits(a, &n), *y = prune_logits(b, &n_b);
    assert_int_equal(n, n_b);
    for (size_t i = 0; i < n; i++) {
        if (!(fabs(x[i] - y[i]) <= limit)) {
            fail_msg("logit %zu of %zu is %.17g, expected %.17g within %g", i, n, y[i], x[i],
                     limit);
        }
    }
    free(x);
    free(y);
}

#endif
