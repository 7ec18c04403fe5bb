/*
 * Products with weights that have more than codes: input scales, permuted columns, outliers, scales in
 * F16, groups that fit no load of a lane; and input_quant. Rows of the decode class are exact in every
 * layout; prompts are where FLOAT asks for it, and else within BF16 of both sides.
 */
#include "backend_cpu_fixture.h"

enum { ROWS = 21, MOST_COLS = 96 };

typedef struct layout {
    uint32_t dtype, scale_dtype;
    int64_t group; /* 0: one scale for the matrix; -1: one for a row */
} layout;

static const layout layouts[] = {
    {PICO_DTYPE_F32, 0, 0},
    {PICO_DTYPE_F16, 0, 0},
    {PICO_DTYPE_BF16, 0, 0},
    {PICO_DTYPE_I8, PICO_DTYPE_F32, 0},
    {PICO_DTYPE_I8, PICO_DTYPE_F16, -1},
    {PICO_DTYPE_I8, PICO_DTYPE_F16, 7},
    {PICO_DTYPE_I8, PICO_DTYPE_F32, 32},
    {PICO_DTYPE_Q8_0, 0, 0},
    {PICO_DTYPE_Q4_0, 0, 0},
    {PICO_DTYPE_NF4, PICO_DTYPE_F16, 16},
    {PICO_DTYPE_NF4, PICO_DTYPE_F32, -1},
};

typedef struct source {
    pico_weight_desc desc;
    uint8_t codes[ROWS * MOST_COLS * 4];
    float book[16], input_scale[MOST_COLS];
    union {
        float f32[ROWS * MOST_COLS];
        uint16_t f16[ROWS * MOST_COLS];
    } scales;
    int32_t perm[MOST_COLS], outlier_col[2];
    uint16_t outlier[ROWS * 2];
    double exact[ROWS * MOST_COLS];
} source;

static void fill_codes(fix *f, source *s, uint32_t dtype, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; i++) {
        s->codes[i] = (uint8_t)fix_bits(f);
    }
    const uint64_t block = dtype == PICO_DTYPE_Q8_0 ? 34 : dtype == PICO_DTYPE_Q4_0 ? 18 : 0;
    for (uint64_t i = 0; block != 0 && i < bytes; i += block) {
        const uint16_t scale = ref_to_f16(0.03 + (double)fix_float(f, 0.02f));
        memcpy(s->codes + i, &scale, 2);
    }
    for (uint64_t i = 0; dtype == PICO_DTYPE_F32 && i < bytes; i += 4) {
        const float x = fix_float(f, 1);
        memcpy(s->codes + i, &x, 4);
    }
    for (uint64_t i = 0; (dtype == PICO_DTYPE_F16 || dtype == PICO_DTYPE_BF16) && i < bytes;
         i += 2) {
        const double x = (double)fix_float(f, 1);
        const uint16_t half = dtype == PICO_DTYPE_F16 ? ref_to_f16(x) : ref_to_bf16(x);
        memcpy(s->codes + i, &half, 2);
    }
}

/* extras: bit 0 an input scale, bit 1 a permutation, bit 2 outliers */
static void make_source(fix *f, source *s, const layout *l, int64_t cols, uint32_t extras) {
    const int64_t group = l->group < 0 ? cols : l->group;
    s->desc = (pico_weight_desc){.codes = s->codes,
                                 .codes_bytes = fix_code_bytes(l->dtype, ROWS, cols),
                                 .dtype = l->dtype,
                                 .scale_dtype = l->scale_dtype,
                                 .rows = ROWS,
                                 .cols = cols,
                                 .group = group};
    fill_codes(f, s, l->dtype, s->desc.codes_bytes);
    if (l->scale_dtype != PICO_DTYPE_NONE) {
        s->desc.scales = &s->scales;
        s->desc.n_scales = group == 0 ? 1 : (uint64_t)(ROWS * ((cols + group - 1) / group));
        for (uint64_t i = 0; i < s->desc.n_scales; i++) {
            const float x = 0.01f + fix_float(f, 0.005f);
            if (l->scale_dtype == PICO_DTYPE_F32) {
                s->scales.f32[i] = x;
            } else {
                s->scales.f16[i] = ref_to_f16((double)x);
            }
        }
    }
    for (int i = 0; i < 16; i++) {
        s->book[i] = fix_float(f, 1);
    }
    s->desc.codebook = l->dtype == PICO_DTYPE_NF4 ? s->book : NULL;
    for (int32_t i = 0; i < cols; i++) {
        s->input_scale[i] = 1.5f + fix_float(f, 1);
        const uint32_t j = fix_bits(f) % (uint32_t)(i + 1);
        s->perm[i] = s->perm[j];
        s->perm[j] = i;
    }
    s->outlier_col[0] = (int32_t)(cols / 2);
    s->outlier_col[1] = 1;
    for (int i = 0; i < 2 * ROWS; i++) {
        s->outlier[i] = ref_to_f16((double)fix_float(f, 4));
    }
    s->desc.input_scale = extras & 1 ? s->input_scale : NULL;
    s->desc.input_perm = extras & 2 ? s->perm : NULL;
    if (extras & 4) {
        s->desc.outlier_col = s->outlier_col;
        s->desc.outlier_value = s->outlier;
        s->desc.n_outlier = 2;
    }
    ref_weight(&s->desc, s->exact);
}

static void check_product(fix *f, const source *s, const pico_weight *weight, int64_t n,
                          int prefill, int accumulate) {
    const int64_t cols = s->desc.cols;
    float *x = fix_floats(f, n * cols, 1), *before = fix_floats(f, n * ROWS, 1);
    float *bias = fix_floats(f, ROWS, 1);
    double *want = malloc(sizeof *want * (size_t)(n * ROWS));
    const pico_linear_args args = {.weight = weight,
                                   .x = fix_f32(f, x, n, cols),
                                   .bias = fix_vector(f, PICO_DTYPE_F32, bias, ROWS),
                                   .y = fix_f32(f, before, n, ROWS),
                                   .n_decode = prefill ? 0 : (uint32_t)n,
                                   .accumulate = (uint32_t)accumulate};
    assert_int_equal(f->ops->linear(f->self, &args), PICO_OK);
    float *got = fix_get(f, &args.y);
    ref_linear(s->exact, ROWS, cols, x, cols, n, bias, accumulate ? before : NULL, want);
    const int exact = !prefill || s->desc.dtype == PICO_DTYPE_F32 ||
                      s->desc.dtype == PICO_DTYPE_F16 ||
                      (s->desc.dtype != PICO_DTYPE_BF16 && s->desc.input_quant == PICO_INPUT_FLOAT);
    fix_close_to(got, want, n * ROWS, exact ? 1e-11 : 1e-4);
    free(x), free(before), free(bias), free(want), free(got);
}

static void products(void **state) {
    static source s;
    static const int64_t widths[] = {33, 64, 96};
    static const uint32_t quants[] = {PICO_INPUT_AUTO, PICO_INPUT_FLOAT, PICO_INPUT_ROW};
    (void)state;
    fix f;
    if (!fix_open(&f, FIX_PORTABLE, 1)) {
        return;
    }
    for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++) {
        const uint32_t dtype = layouts[l].dtype;
        const int blocks = dtype == PICO_DTYPE_Q8_0 || dtype == PICO_DTYPE_Q4_0;
        for (uint32_t turn = 0; turn < 24; turn++) {
            const int64_t cols = blocks ? widths[1 + turn % 2] : widths[turn % 3];
            make_source(&f, &s, &layouts[l], cols, turn % 8);
            s.desc.input_quant = blocks || dtype == PICO_DTYPE_I8 ? quants[turn / 8] : 0;
            if (s.desc.input_quant == 0 && turn / 8 == 1) {
                s.desc.input_quant = PICO_INPUT_FLOAT;
            }
            const pico_weight *weight = fix_weight(&f, &s.desc, 0);
            for (int accumulate = 0; accumulate < 2; accumulate++) {
                check_product(&f, &s, weight, 1 + turn % 5, 0, accumulate);
                check_product(&f, &s, weight, 35, 0, accumulate); /* beyond what is prepared */
                check_product(&f, &s, weight, 40, 1, accumulate);
            }
            fix_reset(&f);
        }
    }
    fix_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(products)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
