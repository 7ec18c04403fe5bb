/* layers: formats */
/* Files of every format: weight layouts, detection, conversion of real models to GGUF and back. */
#include "formats_support.h"

#include <math.h>

#include "formats/expect.h"
#include "util/half.h"

/* ---- weight layouts ---- */

static void sizes_of_layouts(void **state) {
    (void)state;
    assert_int_equal(pico_weight_codes_bytes(PICO_DTYPE_F32, 3, 5), 60);
    assert_int_equal(pico_weight_codes_bytes(PICO_DTYPE_BF16, 3, 5), 30);
    assert_int_equal(pico_weight_codes_bytes(PICO_DTYPE_I8, 3, 5), 15);
    assert_int_equal(pico_weight_codes_bytes(PICO_DTYPE_Q8_0, 3, 64), 3 * 2 * 34);
    assert_int_equal(pico_weight_codes_bytes(PICO_DTYPE_Q4_0, 3, 64), 3 * 2 * 18);
    assert_int_equal(pico_weight_codes_bytes(PICO_DTYPE_NF4, 3, 5), 9);
    assert_int_equal(pico_weight_codes_bytes(PICO_DTYPE_Q8_0, 3, 40), 0);
    assert_int_equal(pico_weight_codes_bytes(PICO_DTYPE_F32, INT64_MAX / 2, 8), 0);
    assert_int_equal(pico_weight_codes_bytes(PICO_DTYPE_F32, 0, 8), 0);
    assert_int_equal(pico_weight_codes_bytes(99, 1, 8), 0);
    assert_int_equal(pico_weight_n_scales(PICO_DTYPE_I8, 3, 70, 32), 9);
    assert_int_equal(pico_weight_n_scales(PICO_DTYPE_I8, 3, 70, 70), 3);
    assert_int_equal(pico_weight_n_scales(PICO_DTYPE_NF4, 3, 70, 0), 1);
    assert_int_equal(pico_weight_n_scales(PICO_DTYPE_I8, 3, 70, -1), 0);
    assert_int_equal(pico_weight_n_scales(PICO_DTYPE_F32, 3, 70, 32), 0);
    assert_string_equal(pico_dtype_name(PICO_DTYPE_Q4_0), "Q4_0");
    assert_string_equal(pico_dtype_name(77), "unknown");
}

static void shapes_are_written_out(void **state) {
    (void)state;
    const int64_t shape[4] = {512, 64, INT64_MAX, INT64_MIN};
    pico_shape_text text;
    assert_string_equal(pico_shape_format(&text, 0, shape), "()");
    assert_string_equal(pico_shape_format(&text, 1, shape), "(512)");
    assert_string_equal(pico_shape_format(&text, 4, shape),
                        "(512, 64, 9223372036854775807, -9223372036854775808)");
}

static char *read_fixture(const char *name, uint64_t bytes) {
    char path[512], *data = NULL;
    uint64_t size = 0;
    (void)snprintf(path, sizeof path, "%s/fixtures/quant/%s", PICO_SHARED_DIR, name);
    assert_int_equal(pico_file_read(path, 1 << 20, &data, &size, NULL), PICO_OK);
    assert_int_equal(size, bytes);
    return data;
}

/* Each row decodes to what an independent implementation computed, within one unit in the last
 * place. */
static void check_fixture(const pico_weight_desc *weight, const char *expected_name) {
    char *expected = read_fixture(expected_name, 64 * 256 * 4);
    float row[256], want[256];
    for (int64_t r = 0; r < 64; r++) {
        pico_weight_row_f32(weight, r, row);
        memcpy(want, expected + r * (int64_t)sizeof want, sizeof want);
        for (int j = 0; j < 256; j++) {
            float ulp = fmaxf(fabsf(nextafterf(want[j], INFINITY) - want[j]),
                              fabsf(nextafterf(want[j], -INFINITY) - want[j]));
            assert_true(fabsf(row[j] - want[j]) <= ulp);
        }
    }
    free(expected);
}

static void decodes_quantised_fixtures(void **state) {
    (void)state;
    static const float nf4_book[16] = {-1.0f,
                                       -0.6961928009986877f,
                                       -0.5250730514526367f,
                                       -0.39491748809814453f,
                                       -0.28444138169288635f,
                                       -0.18477343022823334f,
                                       -0.09105003625154495f,
                                       0.0f,
                                       0.07958029955625534f,
                                       0.16093020141124725f,
                                       0.24611230194568634f,
                                       0.33791524171829224f,
                                       0.44070982933044434f,
                                       0.5626170039176941f,
                                       0.7229568362236023f,
                                       1.0f};
    static const float tensor_scale = 0.018243946135044098f;
    skip_without(SHARED("fixtures/quant/quant.json"));
    const struct {
        const char *codes, *scales, *expected;
        uint32_t dtype;
        int64_t group;
    } cases[] = {
        {"int8_tensor_codes.bin", NULL, "int8_tensor_dequant.bin", PICO_DTYPE_I8, 0},
        {"int8_row_codes.bin", "int8_row_scales.bin", "int8_row_dequant.bin", PICO_DTYPE_I8, 256},
        {"q8_0_blocks.bin", NULL, "q8_0_dequant.bin", PICO_DTYPE_Q8_0, 0},
        {"q4_0_blocks.bin", NULL, "q4_0_dequant.bin", PICO_DTYPE_Q4_0, 0},
        {"nf4_codes.bin", "nf4_absmax.bin", "nf4_dequant.bin", PICO_DTYPE_NF4, 64},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t n_scales = pico_weight_n_scales(cases[i].dtype, 64, 256, cases[i].group);
        uint64_t bytes = pico_weight_codes_bytes(cases[i].dtype, 64, 256);
        char *codes = read_fixture(cases[i].codes, bytes), *scales = NULL;
        if (cases[i].scales != NULL) {
            scales = read_fixture(cases[i].scales, n_scales * 4);
        }
        pico_weight_desc weight = {.codes = codes,
                                   .codes_bytes = bytes,
                                   .dtype = cases[i].dtype,
                                   .scale_dtype = n_scales != 0 ? PICO_DTYPE_F32 : PICO_DTYPE_NONE,
                                   .scales = scales != NULL ? (void *)scales : &tensor_scale,
                                   .n_scales = n_scales,
                                   .codebook = nf4_book,
                                   .rows = 64,
                                   .cols = 256,
                                   .group = cases[i].group};
        check_fixture(&weight, cases[i].expected);
        free(codes);
        free(scales);
    }
}

/* A short last group, F16 scales, permutation, outliers and input scale, by hand. */
static void decodes_everything_around_codes(void **state) {
    (void)state;
    const int8_t codes[2][3] = {{1, -2, 3}, {4, 0, -6}};
    const uint16_t scales[2][2] = {{0x3c00, 0x4000}, {0x3800, 0x4400}}; /* 1 2; 0.5 4 */
    const int32_t perm[3] = {2, 0, 1}, outlier[1] = {0};
    const float input_scale[3] = {2.0f, 1.0f, 0.5f};
    const uint16_t kept[2][1] = {{0x4900}, {0xc900}}; /* 10, -10 */
    pico_weight_desc w = {.codes = codes,
                          .codes_bytes = sizeof codes,
                          .dtype = PICO_DTYPE_I8,
                          .scale_dtype = PICO_DTYPE_F16,
                          .scales = scales,
                          .n_scales = 4,
                          .rows = 2,
                          .cols = 3,
                          .group = 2};
    float row[3];
    pico_weight_row_f32(&w, 1, row);
    assert_memory_equal(row, ((const float[]){2.0f, 0.0f, -24.0f}), sizeof row);
    w.input_perm = perm; /* 1*1 to input 2, -2*1 to input 0, 3*2 to input 1 */
    pico_weight_row_f32(&w, 0, row);
    assert_memory_equal(row, ((const float[]){-2.0f, 6.0f, 1.0f}), sizeof row);
    w.outlier_col = outlier;
    w.outlier_value = kept;
    w.n_outlier = 1;
    w.input_scale = input_scale;
    pico_weight_row_f32(&w, 0, row);
    assert_memory_equal(row, ((const float[]){4.0f, 6.0f, 2.0f}), sizeof row);
    pico_weight_row_f32(&w, 1, row); /* 4*.5 to 2, 0 to 0, -6*4 to 1; -10 at 0 */
    assert_memory_equal(row, ((const float[]){-5.0f, -24.0f, 4.0f}), sizeof row);
}

/* Odd NF4 rows begin on a byte. */
static void decodes_odd_nf4_rows(void **state) {
    (void)state;
    float book[16];
    for (int i = 0; i < 16; i++) {
        book[i] = (float)i;
    }
    const unsigned char codes[4] = {0x12, 0x30, 0x45, 0x60};
    const float scale = 2.0f;
    pico_weight_desc w = {.codes = codes,
                          .codes_bytes = 4,
                          .dtype = PICO_DTYPE_NF4,
                          .scale_dtype = PICO_DTYPE_F32,
                          .scales = &scale,
                          .n_scales = 1,
                          .codebook = book,
                          .rows = 2,
                          .cols = 3};
    float row[3];
    pico_weight_row_f32(&w, 0, row);
    assert_memory_equal(row, ((const float[]){2.0f, 4.0f, 6.0f}), sizeof row);
    pico_weight_row_f32(&w, 1, row);
    assert_memory_equal(row, ((const float[]){8.0f, 10.0f, 12.0f}), sizeof row);
}

/* ---- detection ---- */

/* Content that is no model is refused with what was found and what would do. */
static void refuses_unknown_content(void **state) {
    (void)state;
    pico_error err = {0};
    assert_int_equal(parse_bytes("", 0, &err), PICO_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "empty"));
    assert_int_equal(parse_bytes("PK\003\004abcdefghijklmnopqrstuvwxyz012345", 36, &err),
                     PICO_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "50 4b 03 04"));
    assert_non_null(strstr(err.message, "ZIP"));
    assert_non_null(strstr(err.message, "GGUF v2 and v3"));
    assert_int_equal(parse_bytes("GGU", 3, &err), PICO_E_UNSUPPORTED);
    assert_int_equal(parse_bytes("24ka", 4, &err), PICO_E_UNSUPPORTED);
    pico_model_file *file = NULL;
    assert_int_equal(pico_model_file_open("/nonexistent/model", NULL, &file, &err),
                     PICO_E_NOT_FOUND);
    assert_null(file);
    assert_int_equal(pico_model_file_open("/tmp", NULL, &file, &err), PICO_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "the folder holds no model"));
    pico_model_file_close(NULL);
}

/* ---- real models, through GGUF and back ---- */

#define STORIES "data/models/stories260K/"
#define BABY "data/models/babyllama105/"

static void real_models_survive_conversion(void **state) {
    (void)state;
    static const struct {
        const char *model, *tokenizer, *format;
        uint32_t dtype;
    } cases[] = {
        {STORIES "stories260K.bin", STORIES "tok512.bin", "llama2.c v0", PICO_DTYPE_F32},
        {STORIES "stories260K_v1.bin", STORIES "tok512.bin", "llama2.c v1", PICO_DTYPE_F32},
        {STORIES "stories260K.bin", NULL, "llama2.c v0", PICO_DTYPE_F32},
        {BABY "babyllama105.bin", BABY "tok105.bin", "llama2.c v0", PICO_DTYPE_F32},
        {"fixtures/llama2/tied_v0.bin", NULL, "llama2.c v0", PICO_DTYPE_F32},
        {"fixtures/llama2/untied_v0.bin", NULL, "llama2.c v0", PICO_DTYPE_F32},
        {"fixtures/llama2/tied_q80.bin", NULL, "llama2.c v2 (int8)", PICO_DTYPE_I8},
        {"fixtures/llama2/untied_q80.bin", NULL, "llama2.c v2 (int8)", PICO_DTYPE_I8},
    };
    char model[512], tokenizer[512];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        (void)snprintf(model, sizeof model, "%s/%s", PICO_SHARED_DIR, cases[i].model);
        skip_without(model);
        if (cases[i].tokenizer != NULL) {
            (void)snprintf(tokenizer, sizeof tokenizer, "%s/%s", PICO_SHARED_DIR,
                           cases[i].tokenizer);
        }
        pico_model_file *file = open_ok(model, cases[i].tokenizer == NULL ? NULL : tokenizer);
        assert_string_equal(file->format_name, cases[i].format);
        assert_string_equal(file->path, model);
        assert_int_equal(pico_model_file_find(file, "blk.1.ffn_up.weight")->data.dtype,
                         cases[i].dtype);
        pico_model_file *back = NULL, *again = NULL;
        assert_survives_gguf(file, &back);
        assert_survives_gguf(back, &again); /* and GGUF to GGUF */
        pico_model_file_close(again);
        pico_model_file_close(back);
        pico_model_file_close(file);
    }
}

/* A file may be converted onto itself: the old content stays mapped until it is closed. */
static void converts_in_place(void **state) {
    (void)state;
    pico_layer_desc layer[2];
    pico_model_desc desc = small_llama(layer, 2);
    pico_model_file *file = model_in_memory(&desc);
    char *path = temporary_path();
    assert_int_equal(pico_gguf_write(file, path, NULL), PICO_OK);
    pico_model_file *one = open_ok(path, NULL);
    assert_int_equal(pico_gguf_write(one, path, NULL), PICO_OK);
    pico_model_file *two = open_ok(path, NULL);
    assert_same_model(one, two);
    assert_same_model(file, two);
    pico_model_file_close(two);
    pico_model_file_close(one);
    pico_model_file_close(file);
    (void)unlink(path);
    free(path);
}

/* A tokenizer of another size is refused, in both formats; one of a GGUF file is taken. */
static void tokenizer_argument(void **state) {
    (void)state;
    skip_without(SHARED(STORIES "stories260K.bin"));
    pico_error err = {0};
    pico_model_file *file = NULL;
    assert_int_equal(pico_model_file_open(SHARED(STORIES "stories260K.bin"),
                                          SHARED(BABY "tok105.bin"), &file, &err),
                     PICO_E_CORRUPT);
    assert_non_null(strstr(err.message, "tok105.bin: tokenizer: "));
    assert_int_equal(pico_model_file_open(SHARED(BABY "babyllama105.bin"),
                                          SHARED(STORIES "tok512.bin"), &file, &err),
                     PICO_E_CORRUPT);
    assert_non_null(strstr(err.message, "left over"));
    const char *spm = SHARED("data/tokenizers/gguf/ggml-vocab-llama-spm.gguf");
    assert_int_equal(pico_model_file_open(SHARED(STORIES "stories260K.bin"), spm, &file, &err),
                     PICO_E_CORRUPT);
    assert_non_null(strstr(err.message, "32000 pieces, the model 512 tokens"));
    assert_int_equal(
        pico_model_file_open(SHARED(STORIES "stories260K.bin"), "/nonexistent", &file, &err),
        PICO_E_NOT_FOUND);
    assert_null(file);

    pico_model_file *model =
        open_ok(SHARED(STORIES "stories260K.bin"), SHARED(STORIES "tok512.bin"));
    char *path = temporary_path();
    assert_int_equal(pico_gguf_write(model, path, NULL), PICO_OK);
    file = open_ok(SHARED(STORIES "stories260K_v1.bin"), path);
    assert_same_vocab(&model->vocab, &file->vocab);
    pico_model_file_close(file);
    file = open_ok(path, SHARED(STORIES "tok512.bin")); /* replaces the file's own */
    assert_same_vocab(&model->vocab, &file->vocab);
    pico_model_file_close(file);
    pico_model_file_close(model);
    (void)unlink(path);
    free(path);
}

/* What cannot be read back is not written, and the target stays as it was. */
static void refuses_to_write_nonsense(void **state) {
    (void)state;
    pico_error err = {0};
    pico_layer_desc layer[2];
    pico_model_desc desc = small_llama(layer, 2);
    pico_model_file *file = model_in_memory(&desc);
    const char *path = "/tmp/picochat-test-never-written.gguf";
    file->n_tensor--;
    assert_int_equal(pico_gguf_write(file, path, &err), PICO_E_CORRUPT);
    assert_non_null(strstr(err.message, "output.weight"));
    file->n_tensor++;
    file->tensor[0].data.codes_bytes -= 4;
    assert_int_equal(pico_gguf_write(file, path, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "token_embd.weight"));
    file->tensor[0].data.codes_bytes += 4;
    file->desc.rope_dim = 7;
    assert_int_equal(pico_gguf_write(file, path, &err), PICO_E_CORRUPT);
    file->desc.rope_dim = 8;
    file->desc.n_layer = 0;
    assert_int_equal(pico_gguf_write(file, path, &err), PICO_E_INVALID);
    file->desc.n_layer = 2;
    assert_int_equal(pico_gguf_write(file, "/nonexistent/x.gguf", &err), PICO_E_NOT_FOUND);
    assert_int_equal(access(path, F_OK), -1);
    pico_model_file_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_of_layouts),
        cmocka_unit_test(shapes_are_written_out),
        cmocka_unit_test(decodes_quantised_fixtures),
        cmocka_unit_test(decodes_everything_around_codes),
        cmocka_unit_test(decodes_odd_nf4_rows),
        cmocka_unit_test(refuses_unknown_content),
        cmocka_unit_test(real_models_survive_conversion),
        cmocka_unit_test(converts_in_place),
        cmocka_unit_test(tokenizer_argument),
        cmocka_unit_test(refuses_to_write_nonsense),
    };
    return cmocka_run_group_tests_name("model_file", tests, NULL, NULL);
}
