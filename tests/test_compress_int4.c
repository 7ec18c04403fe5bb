/* labels: golden */
/*
 * compress_int4: rounding to nearest gives the reference codes and scales byte for byte in both
 * formats; plans are strict and say what to do instead; calibration texts are checked, cut evenly
 * and run as timelines of their own; whatever the method, the result does not depend on the number
 * of threads; on activations that depend on each other the calibrated methods lower the error of
 * the products.
 */
#include "conform/rig.h"
#include "int4_kit.h"

#include "golden_kit.h"

static const char *const no_options[] = {NULL};

/* ---- reference codes ---- */

static uint8_t *golden_bytes(const char *name, size_t n) {
    char path[4096];
    pico_error err = {0};
    pico_map map;
    int4_check(pico_map_open(golden_path(path, "quant", name), &map, &err), &err);
    assert_int_equal(map.size, n);
    uint8_t *out = malloc(n);
    assert_non_null(out);
    memcpy(out, map.data, n);
    pico_map_close(&map);
    return out;
}

enum { REF_ROWS = 64, REF_COLS = 256 };

/* The reference matrix in the first rows of a square one; below it zeros. */
static const pico_weight_desc *round_reference(int4_rig *r, const char *format) {
    const char *const options[] = {format, "only=*attn_q*", NULL};
    pico_error err = {0};
    int4_rig_open(r, REF_COLS / 4, 64, 2, options);
    float *values = golden_floats("quant", "weight.bin", REF_ROWS * REF_COLS);
    pico_file_tensor *tensor = int4_tensor(r, "blk.0.attn_q.weight");
    assert_int_equal(tensor->data.rows, REF_COLS);
    assert_int_equal(tensor->data.cols, REF_COLS);
    float *square = pico_arena_alloc(&r->file->arena, REF_COLS * REF_COLS, sizeof *square);
    assert_non_null(square);
    memset(square, 0, REF_COLS * REF_COLS * sizeof *square);
    memcpy(square, values, REF_ROWS * REF_COLS * sizeof *square);
    tensor->data.codes = square;
    int4_check(int4_run(r, &err), &err);
    free(values);
    return &int4_tensor(r, "blk.0.attn_q.weight")->data;
}

static void check_values(const pico_weight_desc *w, const char *name) {
    float *want = golden_floats("quant", name, REF_ROWS * REF_COLS), got[REF_COLS];
    for (int64_t row = 0; row < REF_ROWS; row++) {
        pico_weight_row_f32(w, row, got);
        assert_memory_equal(got, want + row * REF_COLS, sizeof got);
    }
    free(want);
}

static void nearest_codes_are_the_reference_ones(void **state) {
    enum { Q4_BYTES = REF_ROWS * REF_COLS / 32 * 18, NF4_BYTES = REF_ROWS * REF_COLS / 2 };
    enum { NF4_SCALES = REF_ROWS * REF_COLS / 64 };
    int4_rig r;
    (void)state;
    const pico_weight_desc *w = round_reference(&r, "format=q4_0");
    uint8_t *want = golden_bytes("q4_0_blocks.bin", Q4_BYTES);
    assert_int_equal(w->dtype, PICO_DTYPE_Q4_0);
    assert_memory_equal(w->codes, want, Q4_BYTES);
    check_values(w, "q4_0_dequant.bin");
    free(want);
    int4_rig_close(&r);
    w = round_reference(&r, "format=nf4");
    want = golden_bytes("nf4_codes.bin", NF4_BYTES);
    assert_int_equal(w->dtype, PICO_DTYPE_NF4);
    assert_int_equal(w->group, 64);
    assert_memory_equal(w->codes, want, NF4_BYTES);
    free(want);
    want = golden_bytes("nf4_absmax.bin", NF4_SCALES * sizeof(float));
    assert_memory_equal(w->scales, want, NF4_SCALES * sizeof(float));
    check_values(w, "nf4_dequant.bin");
    free(want);
    int4_rig_close(&r);
}

/* ---- which tensors ---- */

static uint32_t count_type(const int4_rig *r, uint32_t dtype) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->file->n_tensor; i++) {
        n += r->file->tensor[i].data.dtype == dtype;
    }
    return n;
}

static void patterns_select(void **state) {
    static const struct {
        const char *options[3];
        uint32_t n;
    } cases[] = {
        {{NULL}, 7},              /* the layer's matrices */
        {{"keep=none", NULL}, 9}, /* and embeddings and head */
        {{"only=blk.0.attn_*", NULL}, 4},
        {{"only=blk.*", "keep=*attn_[qk].weight, blk.?.ffn_down.weight", NULL}, 4},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int4_rig r;
        pico_error err = {0};
        int4_rig_open(&r, 16, 64, 1, cases[i].options);
        int4_check(int4_run(&r, &err), &err);
        assert_int_equal(count_type(&r, PICO_DTYPE_Q4_0), cases[i].n);
        int4_rig_close(&r);
    }
}

/* What cannot be done as asked is refused before any work, with advice. */
static void plans_are_strict(void **state) {
    static const struct {
        const char *options[4];
        uint32_t n_ff;
        pico_status status;
        const char *says[2];
    } cases[] = {
        {{NULL}, 172, PICO_E_UNSUPPORTED, {"ffn_down.weight has rows of 172", "format = nf4"}},
        {{"method=gptq", NULL}, 64, PICO_E_INVALID, {"calibration = FILE", "method = rtn"}},
        {{"method=awq", "calibration=/x", "keep=none", NULL},
         64,
         PICO_E_UNSUPPORTED,
         {"token_embd.weight has none", "only = token_embd.weight"}},
        {{"keep=*attn_w*", NULL}, 64, PICO_E_INVALID, {"keep = *attn_w*", "inspect"}},
        {{"only=blk.7.*", NULL}, 64, PICO_E_INVALID, {"only = blk.7.*", "inspect"}},
        {{"keep=*", NULL}, 64, PICO_E_INVALID, {"no matrix to compress", "keep less"}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int4_rig r;
        pico_error err = {0};
        int4_rig_open(&r, 16, cases[i].n_ff, 1, cases[i].options);
        assert_int_equal(int4_run(&r, &err), cases[i].status);
        assert_non_null(strstr(err.message, cases[i].says[0]));
        assert_non_null(strstr(err.message, cases[i].says[1]));
        assert_int_equal(count_type(&r, PICO_DTYPE_Q4_0), 0);
        int4_rig_close(&r);
    }
}

static void what_is_quantised_stays_so(void **state) {
    int4_rig r;
    pico_error err = {0};
    (void)state;
    int4_rig_open(&r, 16, 64, 1, no_options);
    int4_check(int4_run(&r, &err), &err);
    assert_int_equal(int4_run(&r, &err), PICO_E_UNSUPPORTED); /* again */
    assert_non_null(strstr(err.message, "blk.0.attn_q.weight is quantised already"));
    assert_non_null(strstr(err.message, "original model"));
    int4_rig_close(&r);
}

/* Values that no scale can hold are found when they are read. */
static void impossible_values_are_refused(void **state) {
    static const float values[] = {NAN, -INFINITY, 1e6f};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        int4_rig r;
        pico_error err = {0};
        const char *const options[] = {i == 3 ? "format=nf4" : "format=q4_0", NULL};
        int4_rig_open(&r, 16, 64, 1, options);
        float *w = (float *)(uintptr_t)int4_tensor(&r, "blk.0.ffn_up.weight")->data.codes;
        w[64 * 3 + 5] = values[i < 3 ? i : 2];
        const pico_status status = int4_run(&r, &err);
        if (i == 3) {
            int4_check(status, &err); /* NF4 has F32 scales */
        } else {
            assert_int_equal(status, PICO_E_INVALID);
            assert_non_null(strstr(err.message, "ffn_up.weight"));
            assert_non_null(strstr(err.message, "row 3, column 5"));
        }
        int4_rig_close(&r);
    }
}

/* ---- calibration ---- */

/* What the host is asked for: pieces of these lengths, in passes of up to 512 rows. */
static void options_say_what_is_run(void **state) {
    static const struct {
        const char *samples, *length;
        uint32_t n_piece, piece;
    } cases[] = {{"samples=auto", "length=auto", 0, 64},
                 {"samples=4", "length=11", 4, 11},
                 {"samples=7", "length=64", 7, 64}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[64];
        int4_rig r;
        pico_error err = {0};
        const char *const options[] = {"method=awq", cases[i].samples, cases[i].length,
                                       int4_text_option(text), NULL};
        int4_rig_open(&r, 16, 64, 1, options);
        int4_check(int4_run(&r, &err), &err);
        assert_int_equal(r.feed.piece, cases[i].piece);
        assert_int_equal(r.feed.n_piece, cases[i].n_piece);
        assert_int_equal(r.feed.max_rows, 512);
        assert_int_equal(r.feed.want, 0);
        assert_string_equal(r.feed.path, strchr(text, '=') + 1);
        int4_rig_close(&r);
        int4_text_remove(text);
    }
}

static void too_long_pieces_are_refused(void **state) {
    char text[64];
    int4_rig r;
    pico_error err = {0};
    (void)state;
    const char *const options[] = {"method=gptq", int4_text_option(text), "length=65", NULL};
    int4_rig_open(&r, 16, 64, 1, options);
    assert_int_equal(int4_run(&r, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "trained with 64 positions"));
    assert_int_equal(r.n_rows, 0);
    int4_rig_close(&r);
    int4_text_remove(text);
}

/* ---- results ---- */

static const char *const methods[] = {"method=rtn", "method=awq", "method=gptq", "method=awq_gptq"};

/* All codes and scales of a model compressed so, one after the other; malloc-ed. */
static uint8_t *compress_all(const char *const *options, uint32_t n_threads, size_t *n) {
    int4_rig r;
    pico_error err = {0};
    int4_rig_open(&r, 32, 352, n_threads, options);
    int4_check(int4_run(&r, &err), &err);
    uint8_t *out = malloc(1 << 22);
    assert_non_null(out);
    *n = 0;
    for (uint32_t i = 0; i < r.file->n_tensor; i++) {
        const pico_weight_desc *w = &r.file->tensor[i].data;
        const struct {
            const void *data;
            size_t n;
        } parts[] = {{w->codes, w->codes_bytes},
                     {w->scales, w->n_scales * 4},
                     {w->input_scale, (size_t)w->cols * 4},
                     {w->input_perm, (size_t)w->cols * 4}};
        for (size_t k = 0; k < 4; k++) {
            assert_true(*n + parts[k].n <= 1 << 22);
            if (parts[k].data != NULL) {
                memcpy(out + *n, parts[k].data, parts[k].n);
                *n += parts[k].n;
            }
        }
    }
    int4_rig_close(&r);
    return out;
}

static void threads_do_not_matter(void **state) {
    char text[64];
    (void)state;
    (void)int4_text_option(text);
    for (size_t i = 0; i < 8; i++) {
        size_t n_one, n_more;
        const char *const options[] = {methods[i / 2],
                                       text,
                                       i % 2 == 0 ? "format=q4_0" : "format=nf4",
                                       i % 2 == 0 ? "act_order=on" : "act_order=off",
                                       "grid=4",
                                       "keep=token_embd.weight",
                                       NULL};
        uint8_t *one = compress_all(options, 1, &n_one), *more = compress_all(options, 3, &n_more);
        assert_int_equal(n_one, n_more);
        assert_memory_equal(one, more, n_one);
        free(one);
        free(more);
    }
    int4_text_remove(text);
}

/* Mean square of (W' - W) x over what was run, for all matrices of the layer together, each relative
 * to that of W x. */
static double error_of_products(int4_rig *r, const char *const *options, uint32_t head_dim) {
    static const char *const names[] = {"blk.0.attn_q.weight", "blk.0.attn_output.weight",
                                        "blk.0.ffn_gate.weight", "blk.0.ffn_down.weight"};
    float *before[4];
    double sum = 0;
    pico_error err = {0};
    int4_rig_open(r, head_dim, 160, 2, options);
    for (size_t i = 0; i < 4; i++) {
        before[i] = int4_values(int4_tensor(r, names[i]));
    }
    int4_check(int4_run(r, &err), &err);
    for (size_t i = 0; i < 4; i++) {
        const pico_file_tensor *tensor = int4_tensor(r, names[i]);
        const int64_t cols = tensor->data.cols;
        float *after = int4_values(tensor), x[512];
        double lost = 0, whole = 0;
        assert_true(cols <= 512);
        for (uint32_t t = 0; t < 630; t += 7) {
            int4_activations(t, (uint32_t)i, (uint32_t)cols, x);
            for (int64_t row = 0; row < tensor->data.rows; row++) {
                double y = 0, e = 0;
                for (int64_t j = 0; j < cols; j++) {
                    const double w = (double)before[i][row * cols + j];
                    y += w * (double)x[j];
                    e += ((double)after[row * cols + j] - w) * (double)x[j];
                }
                lost += e * e;
                whole += y * y;
            }
        }
        sum += lost / whole;
        free(before[i]);
        free(after);
    }
    int4_rig_close(r);
    return sum;
}

static void calibration_lowers_the_error_of_products(void **state) {
    char text[64];
    (void)state;
    (void)int4_text_option(text);
    for (size_t f = 0; f < 2; f++) {
        const char *format = f == 0 ? "format=q4_0" : "format=nf4";
        double error[5];
        int4_rig r;
        for (size_t i = 0; i < 5; i++) {
            const char *const options[] = {methods[i < 4 ? i : 2], text, format,
                                           i < 4 ? "act_order=off" : "act_order=on", NULL};
            error[i] = error_of_products(&r, options, 16);
            print_message("    %s %s%s: %.5f\n", format, methods[i < 4 ? i : 2],
                          i < 4 ? "" : " act_order=on", error[i]);
        }
        assert_true(error[1] < 0.85 * error[0]);
        assert_true(error[2] < 0.5 * error[0]);
        assert_true(error[3] < 0.5 * error[0]);
        assert_true(error[4] < 0.5 * error[0]);
    }
    int4_text_remove(text);
}

/* Heads other than the first take the hidden rows, which then have to be asked for. */
static void the_head_is_calibrated_too(void **state) {
    char text[64];
    int4_rig r;
    pico_error err = {0};
    (void)state;
    const char *const options[] = {"method=gptq", int4_text_option(text), "only=output.weight",
                                   "keep=none", NULL};
    int4_rig_open(&r, 16, 64, 1, options);
    int4_check(int4_run(&r, &err), &err);
    assert_int_equal(r.feed.want, PICO_ROW_HIDDEN);
    assert_int_equal(int4_tensor(&r, "output.weight")->data.dtype, PICO_DTYPE_Q4_0);
    assert_int_equal(count_type(&r, PICO_DTYPE_Q4_0), 1);
    int4_rig_close(&r);
    int4_text_remove(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nearest_codes_are_the_reference_ones),
        cmocka_unit_test(patterns_select),
        cmocka_unit_test(plans_are_strict),
        cmocka_unit_test(what_is_quantised_stays_so),
        cmocka_unit_test(impossible_values_are_refused),
        cmocka_unit_test(options_say_what_is_run),
        cmocka_unit_test(too_long_pieces_are_refused),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(calibration_lowers_the_error_of_products),
        cmocka_unit_test(the_head_is_calibrated_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
