/* layers: transform */
/*
 * Weights in another float type: every layout becomes the nearest values of its effective weights,
 * vectors become F32, what is right already stays where it lies; values that a type does not hold are
 * counted and named.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "llama_kit.h"
#include "model/model.h"
#include "transform/retype.h"
#include "util/half.h"

enum { N_LAYER = 2, WIDTH = 32 };

static const uint32_t floats[] = {PICO_DTYPE_F32, PICO_DTYPE_F16, PICO_DTYPE_BF16};

static pico_model_file *make_file(uint32_t dtype) {
    pico_layer_desc layer[N_LAYER];
    pico_model_desc desc = small_llama(layer, N_LAYER);
    pico_model_file *file = NULL;
    pico_error err = {0};
    desc.flags |= PICO_BIAS_QKV;
    if (pico_model_synthetic_from(&desc, dtype, 7, &file, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    return file;
}

static pico_file_tensor *find(pico_model_file *file, const char *name) {
    const pico_file_tensor *tensor = pico_model_file_find(file, name);
    assert_non_null(tensor);
    return &file->tensor[tensor - file->tensor];
}

static float *values_of(const pico_weight_desc *w) {
    float *out = malloc((size_t)(w->rows * w->cols) * sizeof *out);
    assert_non_null(out);
    for (int64_t r = 0; r < w->rows; r++) {
        pico_weight_row_f32(w, r, out + r * w->cols);
    }
    return out;
}

static float rounded(float x, uint32_t dtype) {
    return dtype == PICO_DTYPE_F16    ? pico_f32_of_f16(pico_f16_of_f32(x))
           : dtype == PICO_DTYPE_BF16 ? pico_f32_of_bf16(pico_bf16_of_f32(x))
                                      : x;
}

/* The tensor is what `before` is in that type, and a plain one. */
static void check_tensor(const pico_file_tensor *tensor, const float *before, uint32_t dtype) {
    const pico_weight_desc *w = &tensor->data;
    const uint32_t wanted = tensor->rank == 1 ? (uint32_t)PICO_DTYPE_F32 : dtype;
    float *after = values_of(w);
    assert_int_equal(w->dtype, wanted);
    assert_int_equal(w->codes_bytes, pico_weight_codes_bytes(wanted, w->rows, w->cols));
    assert_int_equal(tensor->bytes, w->codes_bytes);
    assert_true(w->n_scales == 0 && w->n_outlier == 0);
    assert_true(w->input_scale == NULL && w->input_perm == NULL);
    for (int64_t i = 0; i < w->rows * w->cols; i++) {
        if (after[i] != rounded(before[i], wanted)) {
            fail_msg("%s[%lld]: %.9g became %.9g", tensor->name, (long long)i, (double)before[i],
                     (double)after[i]);
        }
    }
    free(after);
}

static void every_layout_becomes_every_type(void **state) {
    static const uint32_t layouts[] = {PICO_DTYPE_F32,  PICO_DTYPE_F16,  PICO_DTYPE_BF16,
                                       PICO_DTYPE_Q8_0, PICO_DTYPE_Q4_0, PICO_DTYPE_I8};
    (void)state;
    for (size_t i = 0; i < 6 * 3; i++) {
        pico_model_file *file = make_file(layouts[i / 3]);
        const uint32_t dtype = floats[i % 3];
        float **before = calloc(file->n_tensor, sizeof *before);
        const void **codes = calloc(file->n_tensor, sizeof *codes);
        pico_error err = {0};
        assert_true(before != NULL && codes != NULL);
        for (uint32_t t = 0; t < file->n_tensor; t++) {
            before[t] = values_of(&file->tensor[t].data);
            codes[t] = file->tensor[t].data.codes;
        }
        if (pico_retype(file, dtype, NULL, &err) != PICO_OK) {
            fail_msg("%s", err.message);
        }
        for (uint32_t t = 0; t < file->n_tensor; t++) {
            const pico_file_tensor *tensor = &file->tensor[t];
            check_tensor(tensor, before[t], dtype);
            if (tensor->rank == 2) { /* what has the type already is not copied */
                assert_int_equal(tensor->data.codes == codes[t], layouts[i / 3] == dtype);
            }
            free(before[t]);
        }
        free(before);
        free(codes);
        pico_model_file_close(file);
    }
}

/* A scaled and permuted input, kept columns and a vector in 16 bits are part of the values. */
static void effective_weights_are_rounded(void **state) {
    static float scale[WIDTH];
    static int32_t permutation[WIDTH];
    static const int32_t column[] = {5};
    static uint16_t kept[WIDTH], norm[WIDTH];
    (void)state;
    for (int32_t i = 0; i < WIDTH; i++) {
        scale[i] = 0.5f + (float)i / 16;
        permutation[i] = (i * 5 + 3) % WIDTH;
        kept[i] = pico_f16_of_f32((float)i / 8);
        norm[i] = pico_bf16_of_f32(1 + (float)i / 64);
    }
    for (size_t i = 0; i < 3; i++) {
        pico_model_file *file = make_file(PICO_DTYPE_F32);
        pico_file_tensor *q = find(file, "blk.1.attn_q.weight"),
                         *vector = find(file, "blk.0.attn_norm.weight");
        assert_int_equal(q->data.rows, WIDTH);
        q->data.input_scale = scale;
        q->data.input_perm = permutation;
        q->data.outlier_col = column;
        q->data.outlier_value = kept;
        q->data.n_outlier = 1;
        vector->data.codes = norm;
        vector->data.codes_bytes = vector->bytes = sizeof norm;
        vector->data.dtype = PICO_DTYPE_BF16;
        float *before = values_of(&q->data), *before_vector = values_of(&vector->data);
        assert_int_equal(pico_retype(file, floats[i], NULL, NULL), PICO_OK);
        check_tensor(q, before, floats[i]);
        check_tensor(vector, before_vector, floats[i]);
        free(before);
        free(before_vector);
        pico_model_file_close(file);
    }
}

/* Infinities and NaN stay what they are; the largest finite value is held, the next one is not. */
static void values_beyond_the_type_are_named(void **state) {
    static const struct {
        float value;
        uint32_t dtype;
        const char *says; /* NULL: it is held */
    } cases[] = {
        {65504, PICO_DTYPE_F16, NULL},
        {-65504, PICO_DTYPE_F16, NULL},
        {65505, PICO_DTYPE_F16, "1 of 1024 values lie beyond 65504, the largest that F16 holds"},
        {-1e30f, PICO_DTYPE_F16, "take bf16"},
        {INFINITY, PICO_DTYPE_F16, NULL},
        {NAN, PICO_DTYPE_F16, NULL},
        {1e30f, PICO_DTYPE_BF16, NULL},
        {0x1.fep127f, PICO_DTYPE_BF16, NULL},
        {0x1.fffffep127f, PICO_DTYPE_BF16, "take f32"},
        {0x1.fffffep127f, PICO_DTYPE_F32, NULL},
        {-INFINITY, PICO_DTYPE_BF16, NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pico_model_file *file = make_file(PICO_DTYPE_F32);
        pico_file_tensor *q = find(file, "blk.1.attn_q.weight");
        float *w = values_of(&q->data);
        const void *before = w;
        pico_error err = {0};
        w[77] = cases[i].value;
        q->data.codes = w;
        const pico_status status = pico_retype(file, cases[i].dtype, NULL, &err);
        if (cases[i].says == NULL) {
            assert_int_equal(status, PICO_OK);
            float *after = values_of(&q->data);
            const float wanted = rounded(cases[i].value, cases[i].dtype);
            assert_true(isnan(wanted) ? isnan(after[77]) : after[77] == wanted);
            free(after);
        } else {
            assert_int_equal(status, PICO_E_LIMIT);
            if (strstr(err.message, "tensor blk.1.attn_q.weight: ") == NULL ||
                strstr(err.message, cases[i].says) == NULL) {
                fail_msg("expected \"%s\" in: %s", cases[i].says, err.message);
            }
            assert_ptr_equal(q->data.codes, before);
        }
        pico_model_file_close(file);
        free(w);
    }
}

static void narrowing_counts(void **state) {
    static const float values[] = {1 + 0x1p-11f, 1 + 0x1.8p-10f, 1e9f, -1e9f, 0x1p-25f, 65520};
    static const uint16_t expected[] = {0x3c00, 0x3c02, 0x7c00, 0xfc00, 0, 0x7c00};
    uint16_t out[6];
    (void)state;
    assert_int_equal(pico_narrow(values, 6, PICO_DTYPE_F16, out), 3);
    assert_memory_equal(out, expected, sizeof out);
    assert_int_equal(pico_narrow(values, 6, PICO_DTYPE_BF16, out), 0);
}

typedef struct watch {
    int left; /* questions that are answered with "go on" */
    uint64_t done, total;
} watch;

static int stops(void *arg) {
    return ((watch *)arg)->left-- == 0;
}

static void progresses(void *arg, uint64_t done, uint64_t total) {
    ((watch *)arg)->done = done;
    ((watch *)arg)->total = total;
}

static void it_can_be_stopped_and_watched(void **state) {
    (void)state;
    pico_model_file *file = make_file(PICO_DTYPE_F32);
    watch w = {.left = 60};
    pico_write_hooks hooks = {.should_stop = stops, .progress = progresses, .arg = &w};
    assert_int_equal(pico_retype(file, PICO_DTYPE_F16, &hooks, NULL), PICO_E_CANCELLED);
    assert_true(w.done < w.total);
    w.left = -1;
    assert_int_equal(pico_retype(file, PICO_DTYPE_F16, &hooks, NULL), PICO_OK);
    assert_int_equal(w.done, file->n_tensor);
    pico_model_file_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_becomes_every_type),
        cmocka_unit_test(effective_weights_are_rounded),
        cmocka_unit_test(values_beyond_the_type_are_named),
        cmocka_unit_test(narrowing_counts),
        cmocka_unit_test(it_can_be_stopped_and_watched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
