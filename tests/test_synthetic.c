/* layers: model */
/* Models with random weights: the shapes, the layouts, and that the values are fit for use. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/expect.h"
#include "model/model.h"

static const pico_layer_desc small_layers[2] = {
    {.n_head = 4, .n_kv_head = 2, .head_dim = 8, .n_ff = 64, .window = -1},
    {.n_head = 4, .n_kv_head = 4, .head_dim = 8, .n_ff = 96, .window = 5, .has_value_embed = 1},
};

/* Everything that a description can ask for at once. */
static pico_model_desc small_desc(void) {
    pico_model_desc desc = {.family = "test",
                            .n_layer = 2,
                            .n_embd = 32,
                            .n_vocab = 50,
                            .n_vocab_rows = 64,
                            .n_ctx_train = 16,
                            .norm = PICO_NORM_LAYER,
                            .norm_eps = 1e-5f,
                            .pos = PICO_POS_ROPE,
                            .rope_layout = PICO_ROPE_HALVES,
                            .rope_dim = 8,
                            .rope_table = PICO_DTYPE_F32,
                            .rope_base = 10000.0,
                            .act = PICO_ACT_GELU_ERF,
                            .smear_width = 8,
                            .ve_width = 32,
                            .ve_scale = 2.0f,
                            .qk_scale = 1.0f,
                            .backout_layer = 1,
                            .n_mtp_head = 2,
                            .n_draft = 3,
                            .draft_hidden = 32,
                            .layer = small_layers};
    desc.flags = PICO_BIAS_QKV | PICO_BIAS_OUT | PICO_BIAS_FFN | PICO_NORM_WEIGHT | PICO_NORM_BIAS |
                 PICO_QK_NORM | PICO_RESID_LAMBDAS;
    return desc;
}

static uint64_t n_values(const pico_model_file *file) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        n += (uint64_t)(file->tensor[i].data.rows * file->tensor[i].data.cols);
    }
    return n;
}

/* The tensors are exactly those that the description demands, whatever it demands. */
static void has_every_tensor_of_the_description(void **state) {
    (void)state;
    pico_model_desc desc = small_desc();
    pico_model_file *file = NULL;
    pico_error err = {0};
    assert_int_equal(pico_model_synthetic_from(&desc, PICO_DTYPE_F32, 7, &file, &err), PICO_OK);
    assert_int_equal(pico_expect_match(file, &err), PICO_OK);
    assert_non_null(pico_model_file_find(file, "blk.1.value_gate.weight"));
    assert_non_null(pico_model_file_find(file, "draft_fc2.weight"));
    assert_int_equal(file->format, PICO_FORMAT_MEMORY);
    assert_int_equal(file->vocab.kind, PICO_VOCAB_NONE);
    assert_true(file->desc.layer != small_layers); /* it keeps nothing of the caller's */
    pico_model_file_close(file);
}

/* The known shapes have the published numbers of parameters. */
static void shapes_have_their_known_sizes(void **state) {
    (void)state;
    const struct {
        const char *name;
        uint64_t n;
    } known[] = {
        {"llama-15m", 15191712},
        {"llama-110m", 109529856},
        {"gpt2", 124439808},
        {"nanochat-d12", 185597952},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        pico_model_file *file = NULL;
        pico_error err = {0};
        assert_int_equal(pico_model_synthetic(known[i].name, PICO_DTYPE_I8, &file, &err), PICO_OK);
        assert_string_equal(file->name, known[i].name);
        assert_int_equal(n_values(file), known[i].n);
        pico_model_file_close(file);
    }
}

static void same_seed_same_bytes(void **state) {
    (void)state;
    pico_model_desc desc = small_desc();
    pico_model_file *a = NULL, *b = NULL, *c = NULL;
    assert_int_equal(pico_model_synthetic_from(&desc, PICO_DTYPE_F16, 7, &a, NULL), PICO_OK);
    assert_int_equal(pico_model_synthetic_from(&desc, PICO_DTYPE_F16, 7, &b, NULL), PICO_OK);
    assert_int_equal(pico_model_synthetic_from(&desc, PICO_DTYPE_F16, 8, &c, NULL), PICO_OK);
    assert_true(a->map.size == b->map.size && a->map.size == c->map.size);
    assert_memory_equal(a->map.data, b->map.data, a->map.size);
    assert_true(memcmp(a->map.data, c->map.data, a->map.size) != 0);
    pico_model_file_close(a);
    pico_model_file_close(b);
    pico_model_file_close(c);
}

/* Every layout holds the same weights as F32, within the step of its codes. */
static void layouts_agree(void **state) {
    (void)state;
    static const struct {
        uint32_t dtype;
        float step; /* largest error relative to the largest value of a row */
    } layouts[] = {{PICO_DTYPE_F16, 0x1p-11f},
                   {PICO_DTYPE_BF16, 0x1p-8f},
                   {PICO_DTYPE_I8, 0.51f / 127.0f},
                   {PICO_DTYPE_Q8_0, 0.51f / 127.0f + 0x1p-10f},
                   {PICO_DTYPE_Q4_0, 0.126f + 0x1p-10f}};
    pico_model_desc desc = small_desc();
    pico_model_file *exact = NULL, *file = NULL;
    assert_int_equal(pico_model_synthetic_from(&desc, PICO_DTYPE_F32, 3, &exact, NULL), PICO_OK);
    for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++) {
        assert_int_equal(pico_model_synthetic_from(&desc, layouts[l].dtype, 3, &file, NULL),
                         PICO_OK);
        const pico_file_tensor *e = pico_model_file_find(exact, "blk.0.attn_q.weight");
        const pico_file_tensor *t = pico_model_file_find(file, "blk.0.attn_q.weight");
        assert_int_equal(t->data.dtype, layouts[l].dtype);
        for (int64_t r = 0; r < t->data.rows; r++) {
            float x[32], y[32], most = 0.0f;
            pico_weight_row_f32(&e->data, r, x);
            pico_weight_row_f32(&t->data, r, y);
            for (int j = 0; j < 32; j++) {
                most = fmaxf(most, fabsf(x[j]));
            }
            for (int j = 0; j < 32; j++) {
                assert_true(fabsf(x[j] - y[j]) <= layouts[l].step * most);
            }
        }
        pico_model_file_close(file);
    }
    pico_model_file_close(exact);
}

/* Values scatter as they should: products neither blow activations up nor let them vanish, and no
 * two rows are alike, so that logits differ. */
static void values_are_fit_for_use(void **state) {
    (void)state;
    pico_model_file *file = NULL;
    assert_int_equal(pico_model_synthetic("llama-15m", PICO_DTYPE_F32, &file, NULL), PICO_OK);
    const pico_file_tensor *up = pico_model_file_find(file, "blk.3.ffn_up.weight");
    const pico_file_tensor *norm = pico_model_file_find(file, "output_norm.weight");
    const pico_file_tensor *embed = pico_model_file_find(file, "token_embd.weight");
    double sum = 0.0, squares = 0.0, cross = 0.0;
    const float *x = up->data.codes;
    int64_t n = up->data.rows * up->data.cols;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
        cross += i > 0 ? (double)x[i] * (double)x[i - 1] : 0.0;
    }
    double deviation = 1.0 / sqrt(288.0), count = (double)n;
    assert_true(fabs(sqrt(squares / count) / deviation - 1.0) < 0.02);
    assert_true(fabs(sum / count) < 0.02 * deviation);
    assert_true(fabs(cross / squares) < 0.01); /* neighbours are not correlated */
    for (int64_t j = 0; j < norm->data.cols; j++) {
        float w = ((const float *)norm->data.codes)[j];
        assert_true(w > 0.8f && w < 1.2f);
    }
    const float *rows = embed->data.codes;
    for (int64_t r = 1; r < 2000; r++) {
        for (int64_t s = r > 50 ? r - 50 : 0; s < r; s++) {
            assert_true(memcmp(rows + r * 288, rows + s * 288, 16 * sizeof *rows) != 0);
        }
    }
    pico_model_file_close(file);
}

static void refusals_say_what_to_do(void **state) {
    (void)state;
    pico_model_file *file = NULL;
    pico_error err = {0};
    assert_int_equal(pico_model_synthetic("llama-8t", PICO_DTYPE_F32, &file, &err),
                     PICO_E_NOT_FOUND);
    assert_null(file);
    assert_non_null(strstr(err.message, "llama-110m"));
    assert_non_null(strstr(err.message, "nanochat-d20"));
    assert_int_equal(pico_model_synthetic("llama-15m", PICO_DTYPE_NF4, &file, &err),
                     PICO_E_INVALID);
    assert_non_null(strstr(err.message, "NF4"));

    pico_model_desc desc = small_desc();
    desc.n_embd = 40; /* no multiple of the blocks of Q8_0 */
    assert_int_equal(pico_model_synthetic_from(&desc, PICO_DTYPE_Q8_0, 1, &file, &err),
                     PICO_E_INVALID);
    assert_non_null(strstr(err.message, "token_embd.weight"));
    assert_non_null(strstr(err.message, "I8"));
    assert_int_equal(pico_model_synthetic_from(&desc, PICO_DTYPE_I8, 1, &file, &err), PICO_OK);
    pico_model_file_close(file);
    desc.n_embd = 0;
    assert_int_equal(pico_model_synthetic_from(&desc, PICO_DTYPE_F32, 1, &file, &err),
                     PICO_E_CORRUPT);
    assert_null(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_every_tensor_of_the_description),
        cmocka_unit_test(shapes_have_their_known_sizes),
        cmocka_unit_test(same_seed_same_bytes),
        cmocka_unit_test(layouts_agree),
        cmocka_unit_test(values_are_fit_for_use),
        cmocka_unit_test(refusals_say_what_to_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
