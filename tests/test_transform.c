/* layers: transform */
/*
 * The transform layer. Pooling: each new K and V row is the mean of the rows it replaces, widths
 * and description follow, quantised K is refused, heads that do not divide are refused. Tensors:
 * replace copies and refuses what contradicts itself. The compress chain: all plans come before any
 * work, a stage sees what the one before it planned, a stage that does other than it planned is an
 * error.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/expect.h"
#include "llama_kit.h"
#include "model/model.h"
#include "transform/compress.h"
#include "transform/pool.h"
#include "transform/tensors.h"
#include "util/half.h"

enum { N_LAYER = 2, HEAD_DIM = 8, N_HEAD = 4, WIDTH = 32 };

static pico_model_file *make_file(uint32_t n_kv_head, uint32_t dtype) {
    pico_layer_desc layer[N_LAYER];
    pico_model_desc desc = small_llama(layer, N_LAYER);
    for (uint32_t i = 0; i < N_LAYER; i++) {
        layer[i].n_kv_head = n_kv_head;
    }
    desc.n_vocab = desc.n_vocab_rows = 64;
    desc.flags |= PICO_BIAS_QKV;
    pico_model_file *file = NULL;
    pico_error err = {0};
    if (pico_model_synthetic_from(&desc, dtype, 7, &file, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    return file;
}

static uint32_t index_of(const pico_model_file *file, const char *name) {
    const pico_file_tensor *tensor = pico_model_file_find(file, name);
    assert_non_null(tensor);
    return (uint32_t)(tensor - file->tensor);
}

static float *values_of(pico_model_file *file, const char *name) {
    pico_tensors tensors = {.file = file};
    uint32_t index = index_of(file, name);
    const pico_weight_desc *w = &file->tensor[index].data;
    float *out = malloc((size_t)(w->rows * w->cols) * sizeof *out);
    assert_int_equal(pico_tensors_table.read_f32(&tensors, index, out, NULL), PICO_OK);
    return out;
}

/* Compares a pooled tensor of heads of `unit` values with the mean over the heads it replaces. */
static void check_mean(const float *before, const float *after, uint32_t n_from, uint32_t n_to,
                       size_t unit) {
    uint32_t ratio = n_from / n_to;
    for (uint32_t head = 0; head < n_to; head++) {
        for (size_t i = 0; i < unit; i++) {
            double mean = 0;
            for (uint32_t j = 0; j < ratio; j++) {
                mean += (double)before[(head * ratio + j) * unit + i] / ratio;
            }
            assert_true(fabs(mean - (double)after[head * unit + i]) < 1e-6);
        }
    }
}

static void pooling_takes_the_mean(void **state) {
    (void)state;
    static const char *const names[] = {"blk.1.attn_k.weight", "blk.1.attn_v.weight",
                                        "blk.0.attn_k.bias", "blk.0.attn_v.bias"};
    for (uint32_t n_to = 1; n_to <= 2; n_to++) {
        pico_model_file *file = make_file(4, PICO_DTYPE_F32);
        float *before[4];
        for (size_t i = 0; i < 4; i++) {
            before[i] = values_of(file, names[i]);
        }
        float *q = values_of(file, "blk.0.attn_q.weight");
        assert_int_equal(pico_pool_kv_heads(file, n_to, NULL), PICO_OK);
        for (size_t i = 0; i < 4; i++) {
            float *after = values_of(file, names[i]);
            check_mean(before[i], after, 4, n_to, i < 2 ? HEAD_DIM * WIDTH : HEAD_DIM);
            free(before[i]);
            free(after);
        }
        float *q_after = values_of(file, "blk.0.attn_q.weight");
        assert_memory_equal(q, q_after, WIDTH * WIDTH * sizeof *q); /* queries stay */
        for (uint32_t i = 0; i < N_LAYER; i++) {
            assert_int_equal(file->desc.layer[i].n_kv_head, n_to);
        }
        assert_int_equal(file->tensor[index_of(file, names[0])].shape[0], n_to * HEAD_DIM);
        assert_int_equal(file->tensor[index_of(file, names[2])].shape[0], n_to * HEAD_DIM);
        free(q);
        free(q_after);
        pico_model_file_close(file);
    }
}

/* Value embeddings follow: the columns of each KV head in the table, and the rows of the gate. */
static void pooling_takes_value_embeddings_along(void **state) {
    (void)state;
    pico_layer_desc layers[2] = {
        {.n_head = 4, .n_kv_head = 4, .head_dim = 6, .n_ff = 8, .window = -1, .has_value_embed = 1},
        {.n_head = 4,
         .n_kv_head = 2,
         .head_dim = 6,
         .n_ff = 8,
         .window = -1,
         .has_value_embed = 1}};
    pico_model_desc desc = {.family = "nanochat",
                            .n_layer = 2,
                            .n_embd = 24,
                            .n_vocab = 10,
                            .n_vocab_rows = 12,
                            .n_ctx_train = 64,
                            .norm = PICO_NORM_RMS,
                            .norm_eps = 1e-5f,
                            .pos = PICO_POS_ROPE,
                            .rope_layout = PICO_ROPE_HALVES,
                            .rope_dim = 6,
                            .rope_table = PICO_DTYPE_F32,
                            .rope_base = 10000,
                            .act = PICO_ACT_RELU_SQUARED,
                            .ve_width = 5,
                            .ve_scale = 2,
                            .backout_layer = -1,
                            .layer = layers};
    for (uint32_t layer = 0; layer < 2; layer++) {
        pico_model_file *file = NULL;
        uint32_t n_from = layers[layer].n_kv_head;
        char table[32], gate[32];
        (void)snprintf(table, sizeof table, "blk.%u.value_embd.weight", layer);
        (void)snprintf(gate, sizeof gate, "blk.%u.value_gate.weight", layer);
        assert_int_equal(pico_model_synthetic_from(&desc, PICO_DTYPE_F32, 3, &file, NULL), PICO_OK);
        float *table_before = values_of(file, table), *gate_before = values_of(file, gate);
        assert_int_equal(pico_pool_kv_heads(file, 1, NULL), PICO_OK);
        float *table_after = values_of(file, table), *gate_after = values_of(file, gate);
        assert_int_equal(file->tensor[index_of(file, table)].shape[0], 12);
        assert_int_equal(file->tensor[index_of(file, table)].shape[1], 6);
        for (size_t row = 0; row < 12; row++) {
            check_mean(table_before + row * n_from * 6, table_after + row * 6, n_from, 1, 6);
        }
        check_mean(gate_before, gate_after, n_from, 1, 5);
        assert_int_equal(pico_expect_match(file, NULL), PICO_OK);
        free(table_before), free(table_after), free(gate_before), free(gate_after);
        pico_model_file_close(file);
    }
}

static void pooling_keeps_float_types_and_refuses_others(void **state) {
    (void)state;
    pico_error err = {0};
    pico_model_file *file = make_file(2, PICO_DTYPE_BF16);
    assert_int_equal(pico_pool_kv_heads(file, 1, &err), PICO_OK);
    uint32_t k = index_of(file, "blk.0.attn_k.weight");
    assert_int_equal(file->tensor[k].data.dtype, PICO_DTYPE_BF16);
    pico_model_file_close(file);
    file = make_file(2, PICO_DTYPE_Q8_0);
    assert_int_equal(pico_pool_kv_heads(file, 1, &err), PICO_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "blk.0.attn_k.weight"));
    pico_model_file_close(file);
    file = make_file(4, PICO_DTYPE_F32);
    assert_int_equal(pico_pool_kv_heads(file, 3, &err), PICO_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "4 KV heads"));
    pico_model_file_close(file);
}

static void replace_refuses_contradictions(void **state) {
    (void)state;
    pico_model_file *file = make_file(2, PICO_DTYPE_F32);
    pico_tensors tensors = {.file = file};
    uint32_t index = index_of(file, "blk.0.attn_output.weight");
    pico_weight_desc desc;
    pico_error err = {0};
    assert_int_equal(pico_tensors_table.read(&tensors, index, &desc), PICO_OK);
    desc.codes_bytes -= 4;
    assert_int_equal(pico_tensors_table.replace(&tensors, index, &desc, &err), PICO_E_INVALID);
    desc.codes_bytes += 4;
    float *copy = malloc(desc.codes_bytes);
    memset(copy, 0, desc.codes_bytes);
    desc.codes = copy;
    assert_int_equal(pico_tensors_table.replace(&tensors, index, &desc, &err), PICO_OK);
    memset(copy, 0xff, desc.codes_bytes); /* the caller's memory no longer matters */
    free(copy);
    float *after = values_of(file, "blk.0.attn_output.weight");
    assert_true(after[0] == 0.0f && after[WIDTH * WIDTH - 1] == 0.0f);
    free(after);
    assert_int_equal(pico_tensors_table.replace(&tensors, 10000, &desc, &err), PICO_E_NOT_FOUND);
    pico_model_file_close(file);
}

/* A weight that a backend could only misread is refused when it is handed over. */
static void replace_refuses_incomplete_weights(void **state) {
    (void)state;
    pico_model_file *file = make_file(2, PICO_DTYPE_F32);
    pico_tensors tensors = {.file = file};
    uint32_t index = index_of(file, "blk.0.attn_output.weight");
    int8_t codes[WIDTH * WIDTH] = {0};
    float scales[WIDTH] = {0};
    int32_t column = WIDTH;
    uint16_t values[WIDTH] = {0};
    pico_weight_desc good = {.codes = codes,
                             .codes_bytes = sizeof codes,
                             .dtype = PICO_DTYPE_I8,
                             .scale_dtype = PICO_DTYPE_F32,
                             .scales = scales,
                             .n_scales = WIDTH,
                             .rows = WIDTH,
                             .cols = WIDTH,
                             .group = WIDTH};
    good.input_quant = PICO_INPUT_GROUP;
    assert_int_equal(pico_tensors_table.replace(&tensors, index, &good, NULL), PICO_OK);
    pico_weight_desc bad;
    assert_int_equal(pico_tensors_table.read(&tensors, index, &bad), PICO_OK);
    assert_int_equal(bad.input_quant, PICO_INPUT_GROUP); /* kept */
    bad = good;
    bad.input_quant = PICO_INPUT_GROUP + 1;
    assert_int_equal(pico_tensors_table.replace(&tensors, index, &bad, NULL), PICO_E_INVALID);
    bad = good;
    bad.group = 0; /* one scale for the matrix cannot go with groups of the input */
    bad.n_scales = 1;
    assert_int_equal(pico_tensors_table.replace(&tensors, index, &bad, NULL), PICO_E_INVALID);
    bad = good;
    bad.codes = NULL;
    assert_int_equal(pico_tensors_table.replace(&tensors, index, &bad, NULL), PICO_E_INVALID);
    bad = good;
    bad.scales = NULL;
    assert_int_equal(pico_tensors_table.replace(&tensors, index, &bad, NULL), PICO_E_INVALID);
    bad = good;
    bad.outlier_col = &column; /* one past the last */
    bad.outlier_value = values;
    bad.n_outlier = 1;
    assert_int_equal(pico_tensors_table.replace(&tensors, index, &bad, NULL), PICO_E_INVALID);
    const int32_t twice[2] = {1, 1};
    const uint16_t two[2 * WIDTH] = {0};
    bad.outlier_col = twice;
    bad.outlier_value = two;
    bad.n_outlier = 2;
    assert_int_equal(pico_tensors_table.replace(&tensors, index, &bad, NULL), PICO_E_INVALID);
    int32_t perm[WIDTH] = {0}; /* every column from the same input */
    bad = good;
    bad.input_perm = perm;
    assert_int_equal(pico_tensors_table.replace(&tensors, index, &bad, NULL), PICO_E_INVALID);
    pico_model_file_close(file);
}

/* Pooling a weight with an input scale takes the scale into account once. */
static void pooling_applies_an_input_scale_once(void **state) {
    (void)state;
    pico_model_file *file = make_file(2, PICO_DTYPE_F32);
    pico_tensors tensors = {.file = file};
    uint32_t index = index_of(file, "blk.0.attn_k.weight");
    float scale[WIDTH];
    for (size_t i = 0; i < WIDTH; i++) {
        scale[i] = 0.5f;
    }
    pico_weight_desc desc;
    assert_int_equal(pico_tensors_table.read(&tensors, index, &desc), PICO_OK);
    desc.input_scale = scale;
    assert_int_equal(pico_tensors_table.replace(&tensors, index, &desc, NULL), PICO_OK);
    float *before = values_of(file, "blk.0.attn_k.weight"); /* the effective weight */
    assert_int_equal(pico_pool_kv_heads(file, 1, NULL), PICO_OK);
    float *after = values_of(file, "blk.0.attn_k.weight");
    check_mean(before, after, 2, 1, HEAD_DIM * WIDTH);
    free(before);
    free(after);
    pico_model_file_close(file);
}

/* ---- a compressor that turns F32 matrices into another float type ---- */

typedef struct caster {
    uint32_t from, to;
    int fails_plan, breaks_promise, lies_about_layers;
    int n_plan, n_apply, *clock, planned_at, applied_at;
    const pico_tensors_api *tensors;
} caster;

static int is_cast(const caster *c, uint32_t rank, uint32_t dtype) {
    return rank == 2 && dtype == c->from;
}

static pico_status cast_plan(void *self, const pico_model_desc *model,
                             const pico_tensor_info *tensors, uint32_t n, pico_tensor_plan *plan,
                             pico_layer_desc *layers, pico_error *err) {
    caster *c = self;
    layers[0].n_ff += c->lies_about_layers ? 32 : 0;
    assert_int_equal(model->n_layer, N_LAYER);
    c->n_plan++;
    c->planned_at = (*c->clock)++;
    if (c->fails_plan) {
        return pico_fail(err, PICO_E_UNSUPPORTED, "not this model");
    }
    for (uint32_t i = 0; i < n; i++) {
        if (is_cast(c, tensors[i].rank, tensors[i].dtype)) {
            plan[i].dtype = c->to;
            plan[i].bytes =
                pico_weight_codes_bytes(c->to, tensors[i].shape[0], tensors[i].shape[1]);
        }
    }
    return PICO_OK;
}

static pico_status cast_apply(void *self, const pico_model_desc *model, pico_tensors *tensors,
                              pico_error *err) {
    caster *c = self;
    (void)model;
    c->n_apply++;
    c->applied_at = (*c->clock)++;
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < c->tensors->count(tensors); i++) {
        pico_tensor_info info;
        assert_int_equal(c->tensors->info(tensors, i, &info), PICO_OK);
        if (!is_cast(c, info.rank, info.dtype) || (c->breaks_promise && i % 2 == 0)) {
            continue;
        }
        size_t size = (size_t)(info.shape[0] * info.shape[1]);
        float *values = malloc(size * sizeof *values);
        uint16_t *half = malloc(size * sizeof *half);
        status = c->tensors->read_f32(tensors, i, values, err);
        for (size_t j = 0; j < size; j++) {
            half[j] =
                c->to == PICO_DTYPE_F16 ? pico_f16_of_f32(values[j]) : pico_bf16_of_f32(values[j]);
        }
        pico_weight_desc desc = {.codes = half,
                                 .codes_bytes = size * 2,
                                 .dtype = c->to,
                                 .rows = info.shape[0],
                                 .cols = info.shape[1]};
        if (status == PICO_OK) {
            status = c->tensors->replace(tensors, i, &desc, err);
        }
        free(values);
        free(half);
    }
    return status;
}

static const pico_compressor_ops cast_ops = {
    .struct_size = sizeof cast_ops, .plan = cast_plan, .apply = cast_apply};

static void count_planned(void *arg, const pico_stage *stage, const pico_tensor_info *from,
                          const pico_tensor_plan *to) {
    int *n = arg;
    (void)stage;
    assert_int_not_equal(from->dtype, to->dtype);
    ++*n;
}

static pico_status run_chain(pico_model_file *file, caster *first, caster *second, int *n_planned,
                             pico_error *err) {
    static int clock;
    const pico_chain_callbacks callbacks = {.planned = count_planned, .arg = n_planned};
    const pico_stage stages[] = {{1, "first", &cast_ops, first}, {2, "second", &cast_ops, second}};
    first->tensors = second->tensors = &pico_tensors_table;
    first->clock = second->clock = &clock;
    return pico_compress_chain(file, stages, 2, &callbacks, err);
}

static void a_chain_plans_first(void **state) {
    (void)state;
    pico_model_file *file = make_file(2, PICO_DTYPE_F32);
    caster first = {.from = PICO_DTYPE_F32, .to = PICO_DTYPE_F16};
    caster second = {.from = PICO_DTYPE_F16, .to = PICO_DTYPE_BF16};
    int n_planned = 0;
    pico_error err = {0};
    assert_int_equal(run_chain(file, &first, &second, &n_planned, &err), PICO_OK);
    assert_true(first.planned_at < second.planned_at && second.planned_at < first.applied_at &&
                first.applied_at < second.applied_at);
    uint32_t n_matrix = 0;
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        uint32_t dtype = file->tensor[i].data.dtype;
        n_matrix += file->tensor[i].rank == 2;
        assert_int_equal(dtype, file->tensor[i].rank == 2 ? PICO_DTYPE_BF16 : PICO_DTYPE_F32);
    }
    assert_int_equal(n_planned, 2 * n_matrix); /* the second stage saw the first one's plan */
    pico_model_file_close(file);
}

static void a_chain_stops_at_a_bad_plan_and_a_broken_promise(void **state) {
    (void)state;
    pico_model_file *file = make_file(2, PICO_DTYPE_F32);
    caster first = {.from = PICO_DTYPE_F32, .to = PICO_DTYPE_F16};
    caster second = {.fails_plan = 1};
    int n_planned = 0;
    pico_error err = {0};
    assert_int_equal(run_chain(file, &first, &second, &n_planned, &err), PICO_E_UNSUPPORTED);
    assert_int_equal(first.n_apply, 0);
    assert_non_null(strstr(err.message, "[compress.2] second: not this model"));
    second = (caster){.from = PICO_DTYPE_F16, .to = PICO_DTYPE_BF16};
    first.breaks_promise = 1;
    assert_int_equal(run_chain(file, &first, &second, &n_planned, &err), PICO_E_ABI);
    assert_int_equal(second.n_apply, 0);
    assert_non_null(strstr(err.message, "contradicts itself"));
    pico_model_file_close(file);
}

/* A plan alone leaves the file as it is. */
static void a_plan_can_be_all(void **state) {
    (void)state;
    pico_model_file *file = make_file(2, PICO_DTYPE_F32);
    int clock = 0, n_planned = 0;
    caster c = {.from = PICO_DTYPE_F32,
                .to = PICO_DTYPE_F16,
                .tensors = &pico_tensors_table,
                .clock = &clock};
    const pico_stage stage = {1, "first", &cast_ops, &c};
    const pico_chain_callbacks callbacks = {
        .planned = count_planned, .plan_only = 1, .arg = &n_planned};
    assert_int_equal(pico_compress_chain(file, &stage, 1, &callbacks, NULL), PICO_OK);
    assert_true(n_planned > 0 && c.n_apply == 0);
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        assert_int_equal(file->tensor[i].data.dtype, PICO_DTYPE_F32);
    }
    pico_model_file_close(file);
}

/* A description that the tensors do not bear out never leaves the chain. */
static void a_chain_checks_the_description(void **state) {
    (void)state;
    pico_model_file *file = make_file(2, PICO_DTYPE_F32);
    caster first = {.from = PICO_DTYPE_F32, .to = PICO_DTYPE_F16, .lies_about_layers = 1};
    caster second = {.from = PICO_DTYPE_F16, .to = PICO_DTYPE_BF16};
    int n_planned = 0;
    pico_error err = {0};
    assert_int_not_equal(run_chain(file, &first, &second, &n_planned, &err), PICO_OK);
    assert_non_null(strstr(err.message, "ffn"));
    pico_model_file_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pooling_takes_the_mean),
        cmocka_unit_test(pooling_takes_value_embeddings_along),
        cmocka_unit_test(pooling_keeps_float_types_and_refuses_others),
        cmocka_unit_test(replace_refuses_contradictions),
        cmocka_unit_test(replace_refuses_incomplete_weights),
        cmocka_unit_test(pooling_applies_an_input_scale_once),
        cmocka_unit_test(a_chain_plans_first),
        cmocka_unit_test(a_plan_can_be_all),
        cmocka_unit_test(a_chain_checks_the_description),
        cmocka_unit_test(a_chain_stops_at_a_bad_plan_and_a_broken_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
