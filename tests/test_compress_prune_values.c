/* layers: transform */
/*
 * The values that the pruning compressor writes: means of KV heads are means, to the bits of the
 * host's own conversion; float types keep their bits; quantised matrices are refused, or widened to
 * what their codes say.
 */
#include "formats_support.h"

#include "prune_kit.h"
#include "transform/pool.h"
#include "util/half.h"

/* ---- means ---- */

/* KV heads become the means of those they replace, in every tensor that is divided by them; all else
 * stays. The host's own conversion gives the same bits. */
static void means_are_means(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int columns;
    } parts[] = {{"attn_k.weight", 0}, {"attn_v.weight", 0},     {"attn_k.bias", 1},
                 {"attn_v.bias", 1},   {"value_embd.weight", 1}, {"value_gate.weight", 0}};
    static const uint32_t models[] = {0, 2, 6, 7, 8};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        pico_model_file *whole = prune_model(models[i]), *mqa = prune_model(models[i]);
        pico_model_file *host = prune_model(models[i]);
        prune_ok(mqa, PRUNE_SETTINGS("1.prune.convert=mean"));
        assert_int_equal(pico_pool_kv_heads(host, 1, NULL), PICO_OK);
        assert_same_tensors(mqa, host);
        const uint32_t n = whole->desc.layer[0].n_kv_head;
        for (size_t p = 0; p < 6; p++) {
            const pico_file_tensor *from = prune_tensor(whole, 0, parts[p].name);
            if (from == NULL) {
                continue;
            }
            const pico_file_tensor *to = prune_tensor(mqa, 0, parts[p].name);
            float *a = prune_values(&from->data), *b = prune_values(&to->data);
            for (int64_t r = 0; r < to->data.rows; r++) {
                for (int64_t c = 0; c < to->data.cols; c++) {
                    double mean = 0;
                    for (uint32_t h = 0; h < n; h++) {
                        const int64_t row = parts[p].columns ? r : r + h * to->data.rows;
                        const int64_t col = parts[p].columns ? c + h * to->data.cols : c;
                        mean += (double)a[row * from->data.cols + col] / n;
                    }
                    assert_true(fabs(mean - (double)b[r * to->data.cols + c]) < 1e-6);
                }
            }
            free(a), free(b);
        }
        assert_int_equal(mqa->desc.layer[0].n_kv_head, 1);
        pico_model_file_close(whole), pico_model_file_close(mqa), pico_model_file_close(host);
    }
}

/* Heads go first, the rest is pooled, to as many as asked for. */
static void heads_go_before_the_rest_is_pooled(void **state) {
    (void)state;
    pico_model_file *both = prune_model(8), *steps = prune_model(8);
    prune_ok(both, PRUNE_SETTINGS("1.prune.heads=0.5", "1.prune.convert=mean"));
    prune_ok(steps, PRUNE_SETTINGS("1.prune.heads=0.5", "2.prune.convert=mean"));
    assert_same_tensors(both, steps);
    assert_int_equal(both->desc.layer[0].n_head, 2);
    assert_int_equal(both->desc.layer[0].n_kv_head, 1);
    pico_model_file_close(both), pico_model_file_close(steps);
    both = prune_model(8);
    prune_ok(both, PRUNE_SETTINGS("1.prune.convert=mean", "1.prune.kv_heads=2"));
    assert_int_equal(both->desc.layer[0].n_head, 4);
    assert_int_equal(both->desc.layer[0].n_kv_head, 2);
    pico_model_file_close(both);
}

/* ---- types ---- */

/* Makes a tensor another type, by rounding; Q8_0 by the int8 compressor. */
static void cast(pico_model_file *file, pico_file_tensor *t, uint32_t dtype) {
    pico_tensors tensors = {.file = file};
    float *values = prune_values(&t->data);
    const size_t n = (size_t)(t->data.rows * t->data.cols);
    uint16_t *half = calloc(n, sizeof *half);
    for (size_t i = 0; i < n; i++) {
        half[i] =
            dtype == PICO_DTYPE_F16 ? pico_f16_of_f32(values[i]) : pico_bf16_of_f32(values[i]);
    }
    const pico_weight_desc desc = {.codes = half,
                                   .codes_bytes = n * 2,
                                   .dtype = dtype,
                                   .rows = t->data.rows,
                                   .cols = t->data.cols};
    assert_int_equal(
        pico_tensors_table.replace(&tensors, (uint32_t)(t - file->tensor), &desc, NULL), PICO_OK);
    free(values);
    free(half);
}

/* Cutting and rounding to 16 bits commute: bits are copied. Means are rounded once, behind. */
static void float_types_stay_as_they_are(void **state) {
    (void)state;
    static const uint32_t types[] = {PICO_DTYPE_F16, PICO_DTYPE_BF16};
    for (size_t i = 0; i < 2; i++) {
        pico_model_file *first = prune_model(7), *last = prune_model(7);
        for (uint32_t t = 0; t < first->n_tensor; t++) {
            cast(first, &first->tensor[t], types[i]);
        }
        const char *const *set =
            PRUNE_SETTINGS("1.prune.heads=0.5", "1.prune.neurons=0.4", "1.prune.score=random");
        prune_ok(first, set);
        prune_ok(last, set);
        for (uint32_t t = 0; t < last->n_tensor; t++) {
            cast(last, &last->tensor[t], types[i]);
        }
        assert_same_tensors(first, last);
        prune_ok(first, PRUNE_SETTINGS("1.prune.convert=mean"));
        assert_int_equal(pico_pool_kv_heads(last, 1, NULL), PICO_OK);
        assert_same_tensors(first, last);
        pico_model_file_close(first), pico_model_file_close(last);
    }
}

static void quantised_matrices_are_refused_or_widened(void **state) {
    (void)state;
    pico_error err = {0};
    pico_model_file *file = prune_model(0);
    prune_ok(file, PRUNE_SETTINGS("1.int8.granularity=row"));
    prune_fails(file, PICO_E_UNSUPPORTED, "blk.0.attn_q.weight is quantised",
                PRUNE_SETTINGS("1.prune.heads=0.5"));
    prune_fails(file, PICO_E_UNSUPPORTED, "dequantise = f16", PRUNE_SETTINGS("1.prune.heads=0.5"));
    prune_fails(file, PICO_E_UNSUPPORTED, "quantise in a later stage",
                PRUNE_SETTINGS("1.prune.neurons=0.5"));
    pico_model_file_close(file);
    static const char *const words[] = {"1.prune.dequantise=f32", "1.prune.dequantise=f16",
                                        "1.prune.dequantise=bf16"};
    static const uint32_t types[] = {PICO_DTYPE_F32, PICO_DTYPE_F16, PICO_DTYPE_BF16};
    for (size_t i = 0; i < 3; i++) {
        pico_model_file *wide = prune_model(0);
        file = prune_model(0);
        prune_ok(file, PRUNE_SETTINGS("1.int8.granularity=group"));
        prune_ok(wide, PRUNE_SETTINGS("1.int8.granularity=group"));
        for (uint32_t t = 0; t < wide->n_tensor; t++) { /* what the codes say, as floats */
            pico_weight_desc *w = &wide->tensor[t].data;
            if (w->dtype != PICO_DTYPE_F32) {
                float *values = prune_values(w);
                const pico_weight_desc desc = {.codes = values,
                                               .codes_bytes = (uint64_t)(w->rows * w->cols) * 4,
                                               .dtype = PICO_DTYPE_F32,
                                               .rows = w->rows,
                                               .cols = w->cols};
                pico_tensors tensors = {.file = wide};
                assert_int_equal(pico_tensors_table.replace(&tensors, t, &desc, &err), PICO_OK);
                free(values);
            }
        }
        prune_ok(file, PRUNE_SETTINGS("1.prune.heads=0.5", words[i]));
        prune_ok(wide, PRUNE_SETTINGS("1.prune.heads=0.5"));
        pico_file_tensor *q = prune_tensor(file, 1, "attn_q.weight");
        pico_file_tensor *expected = prune_tensor(wide, 1, "attn_q.weight");
        if (i > 0) {
            cast(wide, expected, types[i]);
        }
        assert_int_equal(q->data.dtype, types[i]);
        assert_int_equal(q->data.codes_bytes, expected->data.codes_bytes);
        assert_memory_equal(q->data.codes, expected->data.codes, q->data.codes_bytes);
        /* What is not cut stays quantised. */
        assert_int_not_equal(prune_tensor(file, 1, "ffn_up.weight")->data.dtype, types[i]);
        pico_model_file_close(file), pico_model_file_close(wide);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(means_are_means),
        cmocka_unit_test(heads_go_before_the_rest_is_pooled),
        cmocka_unit_test(float_types_stay_as_they_are),
        cmocka_unit_test(quantised_matrices_are_refused_or_widened),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
