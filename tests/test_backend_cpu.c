/* layers: util */
/* backend_cpu: products and lookups in every layout, weights, buffers, options. */
#include "backend_cpu_fixture.h"

/* ---- random weights of every layout ---- */

typedef struct layout {
    uint32_t dtype, scale_dtype;
    int64_t group; /* -1: one scale a row */
    int extras;    /* 1: outliers, permutation, input scale; 2: one scale for a row of x */
} layout;

static const layout layouts[] = {
    {PICO_DTYPE_F32, 0, 0, 0},
    {PICO_DTYPE_F16, 0, 0, 0},
    {PICO_DTYPE_BF16, 0, 0, 0},
    {PICO_DTYPE_Q8_0, 0, 0, 0},
    {PICO_DTYPE_Q4_0, 0, 0, 0},
    {PICO_DTYPE_I8, PICO_DTYPE_F32, 0, 0},
    {PICO_DTYPE_I8, PICO_DTYPE_F32, -1, 0},
    {PICO_DTYPE_I8, PICO_DTYPE_F16, 32, 0},
    {PICO_DTYPE_I8, PICO_DTYPE_F32, 24, 1},
    {PICO_DTYPE_I8, PICO_DTYPE_F32, -1, 1},
    {PICO_DTYPE_I8, PICO_DTYPE_F32, 64, 2},
    {PICO_DTYPE_I8, PICO_DTYPE_F32, 5, 2},
    {PICO_DTYPE_Q8_0, 0, 0, 2},
    {PICO_DTYPE_Q4_0, 0, 0, 1},
    {PICO_DTYPE_BF16, 0, 0, 1},
    {PICO_DTYPE_NF4, PICO_DTYPE_F32, 32, 0},
    {PICO_DTYPE_NF4, PICO_DTYPE_F16, -1, 1},
    {PICO_DTYPE_F32, 0, 0, 1},
};
#define N_LAYOUT (sizeof layouts / sizeof *layouts)

typedef struct source {
    pico_weight_desc desc;
    void *owned[6];
    double *value; /* (rows, cols) */
} source;

static void fill_codes(fix *f, uint8_t *codes, uint32_t dtype, uint64_t bytes) {
    const uint64_t block = dtype == PICO_DTYPE_Q8_0 ? 34 : dtype == PICO_DTYPE_Q4_0 ? 18 : 1;
    for (uint64_t i = 0; i < bytes; i++) {
        codes[i] = (uint8_t)fix_bits(f);
    }
    for (uint64_t i = 0; i < bytes && block > 1; i += block) {
        const uint16_t scale = ref_to_f16((double)fix_float(f, 0.02f));
        memcpy(codes + i, &scale, 2);
    }
    for (uint64_t i = 0; i < bytes && dtype == PICO_DTYPE_F32; i += 4) {
        const float x = fix_float(f, 1);
        memcpy(codes + i, &x, 4);
    }
    for (uint64_t i = 0; i < bytes && (dtype == PICO_DTYPE_F16 || dtype == PICO_DTYPE_BF16);
         i += 2) {
        const double x = (double)fix_float(f, 1);
        const uint16_t half = dtype == PICO_DTYPE_F16 ? ref_to_f16(x) : ref_to_bf16(x);
        memcpy(codes + i, &half, 2);
    }
}

static void add_extras(fix *f, source *s) {
    pico_weight_desc *desc = &s->desc;
    const int64_t n = desc->cols;
    float *scale = s->owned[3] = malloc(sizeof(float) * (size_t)n);
    int32_t *perm = s->owned[4] = malloc(sizeof(int32_t) * (size_t)(n + 1));
    uint16_t *value = s->owned[5] = malloc(sizeof(uint16_t) * (size_t)desc->rows);
    for (int32_t i = 0; i < n; i++) {
        scale[i] = 1.5f + fix_float(f, 1);
        const uint32_t j = fix_bits(f) % (uint32_t)(i + 1);
        perm[i] = perm[j];
        perm[j] = i;
    }
    perm[n] = (int32_t)(n / 2);
    for (int64_t i = 0; i < desc->rows; i++) {
        value[i] = ref_to_f16((double)fix_float(f, 8));
    }
    desc->input_scale = scale;
    desc->input_perm = perm;
    desc->outlier_col = perm + n;
    desc->outlier_value = value;
    desc->n_outlier = 1;
}

static source make_source(fix *f, const layout *l, int64_t rows, int64_t cols) {
    source s = {0};
    const uint64_t bytes = fix_code_bytes(l->dtype, rows, cols);
    s.owned[0] = malloc(bytes);
    fill_codes(f, s.owned[0], l->dtype, bytes);
    s.desc = (pico_weight_desc){.codes = s.owned[0],
                                .codes_bytes = bytes,
                                .dtype = l->dtype,
                                .scale_dtype = l->scale_dtype,
                                .rows = rows,
                                .cols = cols,
                                .group = l->group < 0 || l->group > cols ? cols : l->group};
    if (l->scale_dtype != PICO_DTYPE_NONE) {
        const int64_t n = s.desc.group == 0 ? 1 : rows * ((cols + s.desc.group - 1) / s.desc.group);
        s.owned[1] = malloc(sizeof(float) * (size_t)n);
        for (int64_t i = 0; i < n; i++) {
            const float x = 0.01f + fix_float(f, 0.005f);
            if (l->scale_dtype == PICO_DTYPE_F32) {
                ((float *)s.owned[1])[i] = x;
            } else {
                ((uint16_t *)s.owned[1])[i] = ref_to_f16((double)x);
            }
        }
        s.desc.scales = s.owned[1];
        s.desc.n_scales = (uint64_t)n;
    }
    if (l->dtype == PICO_DTYPE_NF4) {
        s.desc.codebook = s.owned[2] = fix_floats(f, 16, 1);
    }
    s.desc.input_quant = l->extras == 2 ? PICO_INPUT_ROW : PICO_INPUT_AUTO;
    if (l->extras == 1) {
        add_extras(f, &s);
    }
    s.value = malloc(sizeof(double) * (size_t)(rows * cols));
    ref_weight(&s.desc, s.value);
    return s;
}

static void free_source(source *s) {
    for (size_t i = 0; i < 6; i++) {
        free(s->owned[i]);
    }
    free(s->value);
}

static int allows(const layout *l, int64_t cols) {
    return (l->dtype != PICO_DTYPE_Q8_0 && l->dtype != PICO_DTYPE_Q4_0) || cols % 32 == 0;
}

/* ---- products ---- */

static float *product(fix *f, const pico_weight *weight, const pico_tensor *x, const float *bias,
                      const float *before, int64_t out_width, int prefill) {
    const int64_t n = x->shape[0];
    pico_linear_args args = {.weight = weight,
                             .x = *x,
                             .y = fix_f32(f, before, n, out_width),
                             .n_decode = prefill ? 0 : (uint32_t)n,
                             .accumulate = before != NULL};
    if (bias != NULL) {
        args.bias = fix_vector(f, PICO_DTYPE_F32, bias, out_width);
    }
    assert_int_equal(f->ops->linear(f->self, &args), PICO_OK);
    return fix_get(f, &args.y);
}

/* What the input of a product is rounded to: nothing with activations = f32; else, where codes are
 * integers, int8 as the weight says. Prompts may be rounded otherwise, to no less than that. */
static double limit_of(const fix *f, const layout *l, int prefill, int *rounded) {
    const int integers = l->dtype >= PICO_DTYPE_I8 && l->dtype <= PICO_DTYPE_Q4_0;
    *rounded = 0;
    if (f->float_input) {
        return 1e-10;
    }
    if (integers) {
        *rounded = !prefill;
        return prefill ? 1e-3 : 2e-6; /* a code may fall to the other side of a tie */
    }
    return prefill && (l->dtype == PICO_DTYPE_BF16 || l->dtype == PICO_DTYPE_NF4) ? 1e-3 : 1e-10;
}

/* One layout and shape: near the oracle with every mix of bias and accumulation, the same bits for
 * a row alone as in the batch, for a copied as for a borrowed weight, and twice in a row. */
static void check_product(fix *f, const layout *l, int64_t rows, int64_t cols, int64_t n,
                          int prefill) {
    source s = make_source(f, l, rows, cols);
    int rounded = 0;
    const double limit = limit_of(f, l, prefill, &rounded);
    const pico_weight *weight = fix_weight(f, &s.desc, 1), *copied = fix_weight(f, &s.desc, 0);
    float *x = fix_floats(f, n * cols, 1), *bias = fix_floats(f, rows, 1);
    float *before = fix_floats(f, n * rows, 1), *seen = fix_floats(f, n * cols, 1);
    double *want = malloc(sizeof(double) * (size_t)(n * rows > 0 ? n * rows : 1));
    pico_tensor xt = fix_f32(f, x, n, cols);
    for (int64_t r = 0; r < n && rounded; r++) {
        ref_round_input(&s.desc, s.desc.input_quant == PICO_INPUT_ROW, x + r * cols,
                        seen + r * cols);
    }
    for (int mode = 0; mode < 3; mode++) {
        const float *b = mode > 0 ? bias : NULL, *old = mode > 1 ? before : NULL;
        ref_linear(s.value, rows, cols, rounded ? seen : x, cols, n, b, old, want);
        float *y = product(f, weight, &xt, b, old, rows, prefill);
        float *again = product(f, copied, &xt, b, old, rows, prefill);
        fix_close_to(y, want, n * rows, limit);
        fix_same_bits(y, again, n * rows);
        for (int64_t r = 0; r<n; r += n> 8 ? 11 : 1) {
            pico_tensor one = fix_f32(f, x + r * cols, 1, cols);
            float *alone =
                product(f, weight, &one, b, old == NULL ? NULL : old + r * rows, rows, prefill);
            fix_same_bits(alone, y + r * rows, rows);
            free(alone);
        }
        free(y);
        free(again);
    }
    free(x);
    free(seen);
    free(bias);
    free(before);
    free(want);
    free_source(&s);
    fix_reset(f);
}

static void products_of(fix *f, int prefill) {
    static const int64_t shapes[][2] = {{1, 1},   {7, 31},   {33, 33},  {8, 65},
                                        {64, 64}, {65, 352}, {130, 416}};
    static const int64_t counts[] = {0, 1, 2, 3, 4, 7, 12, 33};
    for (size_t l = 0; l < N_LAYOUT; l++) {
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            for (size_t n = 0; n < sizeof counts / sizeof *counts; n++) {
                if (allows(&layouts[l], shapes[s][1])) {
                    check_product(f, &layouts[l], shapes[s][0], shapes[s][1], counts[n], prefill);
                }
            }
        }
    }
}

static void products(fix *f) {
    products_of(f, 0);
    products_of(f, 1);
}

static void products_match_the_oracle_and_do_not_depend_on_the_batch(void **state) {
    (void)state;
    fix_each(products);
    fix_each_with(FIX_FLOAT_INPUT, products);
}

/* Wide enough for several blocks of rows, threads and the prefetching path. */
static void large_products(fix *f) {
    source s = make_source(f, &layouts[0], 600, 2048);
    const pico_weight *weight = fix_weight(f, &s.desc, 1);
    const int64_t n = 200;
    float *x = fix_floats(f, n * 2048, 1);
    double *want = malloc(sizeof(double) * (size_t)(n * 600));
    ref_linear(s.value, 600, 2048, x, 2048, n, NULL, NULL, want);
    pico_tensor xt = fix_f32(f, x, n, 2048);
    float *y = product(f, weight, &xt, NULL, NULL, 600, 1);
    fix_close_to(y, want, n * 600, 1e-10);
    for (int64_t r = 0; r < n; r += 37) {
        pico_tensor one = fix_f32(f, x + r * 2048, 1, 2048);
        float *alone = product(f, weight, &one, NULL, NULL, 600, 1);
        fix_same_bits(alone, y + r * 600, 600);
        free(alone);
    }
    free(x);
    free(y);
    free(want);
    free_source(&s);
}

static void a_prompt_gives_the_bits_of_its_rows_alone(void **state) {
    (void)state;
    fix_each(large_products);
}

/* Weights that stream from memory by a few rows, in each of the float layouts. */
static void streamed_products(fix *f) {
    enum { ROWS = 603, COLS = 1032, MOST = 8 };
    for (size_t l = 0; l < 3; l++) {
        source s = make_source(f, &layouts[l], ROWS, COLS);
        const pico_weight *weight = fix_weight(f, &s.desc, 1);
        float *x = fix_floats(f, MOST * COLS, 1), *alone[MOST];
        double *want = malloc(sizeof(double) * ROWS);
        for (int64_t r = 0; r < MOST; r++) {
            pico_tensor one = fix_f32(f, x + r * COLS, 1, COLS);
            ref_linear(s.value, ROWS, COLS, x + r * COLS, COLS, 1, NULL, NULL, want);
            alone[r] = product(f, weight, &one, NULL, NULL, ROWS, 0);
            fix_close_to(alone[r], want, ROWS, 1e-10);
        }
        for (int64_t n = 2; n <= MOST; n++) {
            pico_tensor xt = fix_f32(f, x, n, COLS);
            float *y = product(f, weight, &xt, NULL, NULL, ROWS, 0);
            for (int64_t r = 0; r < n; r++) {
                fix_same_bits(alone[r], y + r * ROWS, ROWS);
            }
            free(y);
        }
        for (int64_t r = 0; r < MOST; r++) {
            free(alone[r]);
        }
        free(want);
        free(x);
        free_source(&s);
        fix_reset(f);
    }
}

static void a_few_rows_give_the_bits_of_each_alone(void **state) {
    (void)state;
    fix_each(streamed_products);
}

/* 1 and 2 threads give the same bits. */
static void thread_count_does_not_matter(void **state) {
    (void)state;
    for (uint32_t isa = FIX_PORTABLE; isa < FIX_ISA_END; isa++) {
        float *result[2] = {NULL, NULL};
        for (uint32_t threads = 1; threads <= 2; threads++) {
            fix f;
            if (!fix_open(&f, isa, threads)) {
                break;
            }
            source s = make_source(&f, &layouts[6], 1000, 300);
            float *x = fix_floats(&f, 40 * 300, 1);
            pico_tensor xt = fix_f32(&f, x, 40, 300);
            result[threads - 1] = product(&f, fix_weight(&f, &s.desc, 1), &xt, NULL, NULL, 1000, 1);
            free(x);
            free_source(&s);
            fix_close(&f);
        }
        if (result[0] != NULL) {
            fix_same_bits(result[0], result[1], 40 * 1000);
        }
        free(result[0]);
        free(result[1]);
    }
}

/* linear_many and linear_gated give the bits of the ops that they stand for, whether their weights
 * are alike or not. */
static void fused_of(fix *f, const layout *const of[3], int64_t n, int prefill) {
    const int64_t k = 96;
    const uint32_t n_decode = prefill ? 0 : (uint32_t)n;
    source s[3] = {make_source(f, of[0], 200, k), make_source(f, of[1], 72, k),
                   make_source(f, of[2], 200, k)};
    float *x = fix_floats(f, n * k, 1), *bias = fix_floats(f, 72, 1), *part[3];
    pico_tensor xt = fix_f32(f, x, n, k);
    pico_linear_many_args many = {.n = 3, .x = xt, .n_decode = n_decode};
    for (int i = 0; i < 3; i++) {
        many.weight[i] = fix_weight(f, &s[i].desc, 1);
        many.y[i] = fix_f32(f, NULL, n, s[i].desc.rows);
    }
    many.bias[1] = fix_vector(f, PICO_DTYPE_F32, bias, 72);
    assert_int_equal(f->ops->linear_many(f->self, &many), PICO_OK);
    for (int i = 0; i < 3; i++) {
        float *y = fix_get(f, &many.y[i]);
        part[i] =
            product(f, many.weight[i], &xt, i == 1 ? bias : NULL, NULL, s[i].desc.rows, prefill);
        fix_same_bits(y, part[i], n * s[i].desc.rows);
        free(y);
    }
    for (uint32_t kind = PICO_ACT_SILU; kind <= PICO_ACT_RELU_SQUARED; kind++) {
        pico_linear_gated_args gated = {.w1 = many.weight[0],
                                        .w3 = many.weight[2],
                                        .act = kind,
                                        .n_decode = n_decode,
                                        .x = xt,
                                        .y = fix_f32(f, NULL, n, 200)};
        pico_act_args act = {.kind = kind,
                             .x = fix_f32(f, part[0], n, 200),
                             .gate = fix_f32(f, part[2], n, 200),
                             .y = fix_f32(f, NULL, n, 200)};
        assert_int_equal(f->ops->linear_gated(f->self, &gated), PICO_OK);
        assert_int_equal(f->ops->activation(f->self, &act), PICO_OK);
        float *a = fix_get(f, &gated.y), *b = fix_get(f, &act.y);
        fix_same_bits(a, b, n * 200);
        free(a);
        free(b);
    }
    for (int i = 0; i < 3; i++) {
        free(part[i]);
        free_source(&s[i]);
    }
    free(x);
    free(bias);
    fix_reset(f);
}

static void fused(fix *f) {
    static const int64_t counts[] = {1, 4, 40};
    for (size_t l = 0; l < N_LAYOUT; l++) {
        const layout *const mixed[3] = {&layouts[0], &layouts[l], &layouts[3]};
        const layout *const same[3] = {&layouts[l], &layouts[l], &layouts[l]};
        for (size_t c = f->n_threads - 1; c < 3; c++) {
            for (int prefill = 0; prefill < 2; prefill++) {
                fused_of(f, mixed, counts[c], prefill);
                fused_of(f, same, counts[c], prefill);
            }
        }
    }
}

static void fused_products_equal_the_composed_ops(void **state) {
    (void)state;
    fix_each(fused);
}

/* Rows of a table in every layout; negative indices give zeros; accumulation adds. */
static void lookups(fix *f) {
    static const int32_t index[] = {3, 0, -1, 6, 3};
    for (size_t l = 0; l < N_LAYOUT; l++) {
        const int64_t width = allows(&layouts[l], 33) ? 33 : 64;
        source s = make_source(f, &layouts[l], 7, width);
        float *before = fix_floats(f, 5 * width, 1);
        double *want = malloc(sizeof(double) * (size_t)(5 * width));
        pico_embed_args args = {.table = fix_weight(f, &s.desc, 1),
                                .index = fix_vector(f, PICO_DTYPE_I32, index, 5)};
        for (uint32_t add = 0; add < 2; add++) {
            args.accumulate = add;
            args.out = fix_f32(f, add ? before : NULL, 5, width);
            for (int64_t i = 0; i < 5 * width; i++) {
                const int64_t row = index[i / width];
                want[i] = (row < 0 ? 0 : s.value[row * width + i % width]) +
                          (add ? (double)before[i] : 0);
            }
            assert_int_equal(f->ops->embed(f->self, &args), PICO_OK);
            float *got = fix_get(f, &args.out);
            fix_close_to(got, want, 5 * width, 1e-12);
            free(got);
        }
        free(before);
        free(want);
        free_source(&s);
        fix_reset(f);
    }
}

static void lookups_give_rows_of_every_layout(void **state) {
    (void)state;
    fix_each(lookups);
}

/* weight_read gives back the very bytes, also of weights that were copied or aligned. */
static void reading_back(fix *f) {
    for (size_t l = 0; l < N_LAYOUT; l++) {
        for (uint32_t stays = 0; stays < 2; stays++) {
            source s = make_source(f, &layouts[l], 9, 64);
            char *shifted = malloc(s.desc.codes_bytes + 4); /* four bytes off, as in old files */
            memcpy(shifted + 4, s.desc.codes, s.desc.codes_bytes);
            pico_weight_desc desc = s.desc;
            desc.codes = shifted + 4;
            const pico_weight *weight = fix_weight(f, &desc, stays);
            const size_t scale_bytes =
                s.desc.n_scales * (s.desc.scale_dtype == PICO_DTYPE_F32 ? 4 : 2);
            char *codes = malloc(s.desc.codes_bytes), *scales = malloc(scale_bytes + 1);
            pico_error err;
            assert_int_equal(
                f->ops->weight_read(f->self, weight, codes, s.desc.n_scales ? scales : NULL, &err),
                PICO_OK);
            assert_memory_equal(codes, s.desc.codes, s.desc.codes_bytes);
            if (s.desc.n_scales != 0) {
                assert_memory_equal(scales, s.desc.scales, scale_bytes);
            }
            fix_reset(f);
            free(codes);
            free(scales);
            free(shifted);
            free_source(&s);
        }
    }
}

static void weights_read_back_as_they_were(void **state) {
    (void)state;
    fix_each(reading_back);
}

static void refused(fix *f, const pico_weight_desc *desc, pico_status status, const char *word) {
    pico_weight *weight = NULL;
    pico_error err = {0};
    assert_int_equal(f->ops->weight_create(f->self, desc, PICO_USE_PRODUCT, 1, &weight, &err),
                     status);
    assert_null(weight);
    if (strstr(err.message, word) == NULL) {
        fail_msg("\"%s\" does not mention %s", err.message, word);
    }
}

/* Every inconsistent description is refused with a message that names what is wrong. */
static void bad_weights(fix *f) {
    source s = make_source(f, &layouts[8], 5, 48);
    pico_weight_desc d = s.desc;
    d.codes_bytes--;
    refused(f, &d, PICO_E_INVALID, "240");
    d = s.desc;
    d.n_scales++;
    refused(f, &d, PICO_E_INVALID, "expected 10");
    d = s.desc;
    d.scales = NULL;
    refused(f, &d, PICO_E_INVALID, "scales");
    d = s.desc;
    d.group = 49;
    refused(f, &d, PICO_E_INVALID, "groups");
    d = s.desc;
    d.cols = INT64_MAX / 2;
    refused(f, &d, PICO_E_INVALID, "weight of");
    d = s.desc;
    d.dtype = PICO_DTYPE_Q8_0;
    refused(f, &d, PICO_E_INVALID, "multiple of 32");
    d = s.desc;
    d.dtype = 99;
    refused(f, &d, PICO_E_UNSUPPORTED, "99");
    d = s.desc;
    d.dtype = PICO_DTYPE_NF4;
    d.codes_bytes /= 2;
    refused(f, &d, PICO_E_INVALID, "codebook");
    int32_t twice[48] = {0};
    d = s.desc;
    d.input_perm = twice;
    refused(f, &d, PICO_E_INVALID, "permutation");
    const int32_t beyond = 48;
    d = s.desc;
    d.outlier_col = &beyond;
    refused(f, &d, PICO_E_INVALID, "outlier");
    pico_weight *weight = NULL;
    pico_error err;
    assert_int_equal(f->ops->weight_create(f->self, &s.desc, PICO_USE_TRANSPOSED, 1, &weight, &err),
                     PICO_E_UNSUPPORTED);
    free_source(&s);
}

static void bad_weights_are_refused(void **state) {
    (void)state;
    fix_each(bad_weights);
}

/* Shapes that do not fit, too much for the reservation, ops before reserve. */
static void bad_shapes(fix *f) {
    source s = make_source(f, &layouts[0], 8, 32);
    pico_linear_args args = {.weight = fix_weight(f, &s.desc, 1),
                             .x = fix_f32(f, NULL, 2, 32),
                             .y = fix_f32(f, NULL, 2, 8)};
    pico_linear_args a = args;
    a.x.shape[1] = 31;
    assert_int_equal(f->ops->linear(f->self, &a), PICO_E_INVALID);
    a = args;
    a.y.shape[0] = 1;
    assert_int_equal(f->ops->linear(f->self, &a), PICO_E_INVALID);
    a = args;
    a.y.shape[1] = 7;
    assert_int_equal(f->ops->linear(f->self, &a), PICO_E_INVALID);
    a = args;
    a.x.offset += 1u << 20;
    assert_int_equal(f->ops->linear(f->self, &a), PICO_E_INVALID);
    a = args;
    a.x.dtype = PICO_DTYPE_I32;
    assert_int_equal(f->ops->linear(f->self, &a), PICO_E_INVALID);
    a = args;
    a.bias = fix_vector(f, PICO_DTYPE_F32, NULL, 9);
    assert_int_equal(f->ops->linear(f->self, &a), PICO_E_INVALID);
    source wide = make_source(f, &layouts[0], 1, 2049);
    a = (pico_linear_args){.weight = fix_weight(f, &wide.desc, 1),
                           .x = fix_f32(f, NULL, 2, 2049),
                           .y = fix_f32(f, NULL, 2, 1)};
    assert_int_equal(f->ops->linear(f->self, &a), PICO_E_LIMIT);
    free_source(&s);
    free_source(&wide);
}

static void bad_shapes_are_refused(void **state) {
    (void)state;
    fix_each(bad_shapes);
}

static void buffers(fix *f) {
    pico_buffer *buffer = NULL;
    pico_error err = {0};
    assert_int_equal(f->ops->buffer_alloc(f->self, (uint64_t)1 << 62, &buffer, &err), PICO_E_NOMEM);
    assert_non_null(strstr(err.message, "4611686018427387904"));
    assert_int_equal(f->ops->buffer_alloc(f->self, UINT64_MAX, &buffer, &err), PICO_E_NOMEM);
    assert_null(buffer);
    buffer = fix_buffer(f, 0);
    assert_int_equal(f->ops->buffer_write(f->self, buffer, 0, NULL, 0), PICO_OK);
    assert_int_equal(f->ops->buffer_write(f->self, buffer, 0, "x", 1), PICO_E_INVALID);
    buffer = fix_buffer(f, 100);
    pico_buffer *other = fix_buffer(f, (uint64_t)9 << 20);
    char text[6] = "";
    assert_int_equal((uintptr_t)f->ops->buffer_host(f->self, buffer) % 64, 0);
    assert_int_equal((uintptr_t)f->ops->buffer_host(f->self, other) % 64, 0);
    assert_int_equal(f->ops->buffer_write(f->self, buffer, 95, "hello", 5), PICO_OK);
    assert_int_equal(f->ops->buffer_copy(f->self, other, 1u << 22, buffer, 95, 5), PICO_OK);
    assert_int_equal(f->ops->buffer_read(f->self, other, 1u << 22, text, 5, &err), PICO_OK);
    assert_string_equal(text, "hello");
    assert_int_equal(f->ops->buffer_write(f->self, buffer, 96, "hello", 5), PICO_E_INVALID);
    assert_int_equal(f->ops->buffer_copy(f->self, other, 0, buffer, 96, 5), PICO_E_INVALID);
    assert_int_equal(f->ops->buffer_read(f->self, buffer, 101, text, 0, &err), PICO_E_INVALID);
    f->ops->buffer_free(f->self, NULL);
    f->ops->weight_free(f->self, NULL);
}

static void buffers_keep_to_their_bounds(void **state) {
    (void)state;
    fix_each(buffers);
}

/* The description names the device; two instances live side by side; a host without threads and
 * dtypes that are not there are refused. */
static void description_and_instances(void **state) {
    (void)state;
    fix a, b;
    assert_true(fix_open(&a, FIX_PORTABLE, 1));
    assert_true(fix_open(&b, FIX_PORTABLE, 2));
    pico_backend_caps caps = {0};
    assert_int_equal(b.ops->caps(b.self, &caps), PICO_OK);
    assert_non_null(strstr(caps.device, ", portable, 2 threads"));
    assert_int_equal(caps.flags, PICO_CAP_BATCH_INVARIANT | PICO_CAP_HOST_MEMORY);
    assert_true(caps.memory_bytes > 0);
    assert_int_equal(a.ops->supports(a.self, PICO_OP_PRODUCT, PICO_DTYPE_I32), PICO_E_UNSUPPORTED);
    assert_int_equal(a.ops->supports(a.self, PICO_OP_KV, PICO_DTYPE_I8), PICO_E_UNSUPPORTED);
    assert_int_equal(a.ops->supports(a.self, PICO_OP_LOOKUP, PICO_DTYPE_NF4), PICO_OK);
    assert_int_equal(a.ops->supports(a.self, 77, 1), PICO_E_UNSUPPORTED);
    pico_error err = {0};
    void *self = NULL;
    const pico_host none = {.struct_size = sizeof none};
    const uint32_t bound[2] = {FIX_PORTABLE, 0};
    assert_int_equal(a.plugin->create(&none, bound, &self, &err), PICO_E_ABI);
    const pico_reserve wide = {.max_head_dim = 513};
    assert_int_equal(a.ops->reserve(a.self, &wide, &err), PICO_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "513"));
    products(&a);
    fix_close(&a);
    fix_close(&b);
}

/* Each instruction set that the machine has says its name, and auto is the last of them. */
static void multiply(fix *f, const pico_weight *weight, int64_t rows, int64_t cols) {
    pico_linear_args args = {.weight = weight,
                             .x = fix_f32(f, NULL, 1, cols),
                             .y = fix_f32(f, NULL, 1, rows),
                             .n_decode = 1};
    assert_int_equal(f->ops->linear(f->self, &args), PICO_OK);
}

/* Two products in turns: while one runs, the host hears where each thread's share of the other begins.
 * Of small ones it hears nothing, and a weight that is gone harms nobody. */
static void the_next_product_is_foretold(void **state) {
    (void)state;
    enum { ROWS = 1024, COLS = 128, FEW = 16 };
    const uint64_t bytes = ROWS * COLS * sizeof(float);
    float *codes[2] = {aligned_alloc(64, bytes), aligned_alloc(64, bytes)};
    pico_weight *weight[3] = {NULL, NULL, NULL};
    pico_error err = {0};
    fix f;
    if (fix_other() != NULL) {
        skip(); /* another backend need not say anything */
    }
    assert_true(fix_open(&f, FIX_PORTABLE, 2));
    for (int i = 0; i < 3; i++) {
        memset(codes[i % 2], 0, bytes);
        const int64_t rows = i < 2 ? ROWS : FEW;
        const pico_weight_desc desc = {.dtype = PICO_DTYPE_F32,
                                       .rows = rows,
                                       .cols = COLS,
                                       .codes = codes[i % 2],
                                       .codes_bytes = (uint64_t)rows * COLS * sizeof(float)};
        assert_int_equal(f.ops->weight_create(f.self, &desc, PICO_USE_PRODUCT, 1, &weight[i], &err),
                         PICO_OK);
    }
    multiply(&f, weight[0], ROWS, COLS);
    multiply(&f, weight[1], ROWS, COLS);
    assert_int_equal(f.n_told, 0); /* nothing is known yet */
    multiply(&f, weight[0], ROWS, COLS);
    assert_int_equal(f.n_told, 1);
    for (int t = 0; t < 2; t++) {
        assert_ptr_equal(f.told[t].data, codes[1] + t * (ROWS / 2) * COLS);
        assert_in_range(f.told[t].bytes, 64, bytes / 2);
    }
    multiply(&f, weight[2], FEW, COLS);
    multiply(&f, weight[0], ROWS, COLS);
    assert_int_equal(f.n_told, 1); /* the small one came after it last time */
    multiply(&f, weight[2], FEW, COLS);
    assert_int_equal(f.n_told, 2);
    assert_ptr_equal(f.told[0].data, codes[0]);
    f.ops->weight_free(f.self, weight[0]);
    multiply(&f, weight[1], ROWS, COLS);
    multiply(&f, weight[2], FEW, COLS);
    f.ops->weight_free(f.self, weight[1]);
    f.ops->weight_free(f.self, weight[2]);
    fix_close(&f);
    free(codes[0]);
    free(codes[1]);
}

static void auto_is_the_best_instruction_set(void **state) {
    (void)state;
    static const char *const names[FIX_ISA_END] = {[FIX_PORTABLE] = ", portable, ",
                                                   [FIX_AVX2] = ", avx2, ",
                                                   [FIX_AVX512] = ", avx512",
                                                   [FIX_AMX] = ", amx, "};
    pico_backend_caps best = {0}, chosen = {0};
    fix f;
    for (uint32_t isa = FIX_PORTABLE; isa < FIX_ISA_END; isa++) {
        if (fix_open(&f, isa, 1)) {
            assert_int_equal(f.ops->caps(f.self, &best), PICO_OK);
            assert_non_null(strstr(best.device, names[isa]));
            fix_close(&f);
        }
    }
    assert_true(fix_open(&f, FIX_AUTO, 1));
    assert_int_equal(f.ops->caps(f.self, &chosen), PICO_OK);
    assert_string_equal(chosen.device, best.device);
    fix_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_match_the_oracle_and_do_not_depend_on_the_batch),
        cmocka_unit_test(a_prompt_gives_the_bits_of_its_rows_alone),
        cmocka_unit_test(a_few_rows_give_the_bits_of_each_alone),
        cmocka_unit_test(thread_count_does_not_matter),
        cmocka_unit_test(fused_products_equal_the_composed_ops),
        cmocka_unit_test(lookups_give_rows_of_every_layout),
        cmocka_unit_test(weights_read_back_as_they_were),
        cmocka_unit_test(bad_weights_are_refused),
        cmocka_unit_test(bad_shapes_are_refused),
        cmocka_unit_test(buffers_keep_to_their_bounds),
        cmocka_unit_test(description_and_instances),
        cmocka_unit_test(the_next_product_is_foretold),
        cmocka_unit_test(auto_is_the_best_instruction_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
