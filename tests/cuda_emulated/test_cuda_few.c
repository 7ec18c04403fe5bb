/*
 * Products of few rows in the shapes that models have: columns beyond what is in shared memory at a
 * time, more outputs than blocks take at once; against the oracle, and with the same bits for any number
 * of rows. And ops that become one kernel: the same bits as when a read between them keeps them apart.
 */
#include "backend_cpu_fixture.h"

enum { COLS = 9000, OUTPUTS = 83, MOST_ROWS = 17, WIDTH = 640, KINDS = 6 };

typedef struct kind {
    uint32_t dtype, scale_dtype;
    int64_t group; /* 0: one scale for the matrix; -1: one for a row */
} kind;

static const kind kinds[KINDS] = {
    {PICO_DTYPE_F32, 0, 0},
    {PICO_DTYPE_BF16, 0, 0},
    {PICO_DTYPE_I8, PICO_DTYPE_F32, -1},
    {PICO_DTYPE_I8, PICO_DTYPE_F16, 64},
    {PICO_DTYPE_I8, PICO_DTYPE_F32, 24}, /* no whole unit of the tensor cores */
    {PICO_DTYPE_NF4, PICO_DTYPE_F16, 64},
};

typedef struct matrix {
    pico_weight_desc desc;
    uint8_t *codes;
    float *scales; /* or half as many bytes */
    double *exact; /* (outputs, cols) */
    float book[16];
    int32_t outlier_col[2];
    uint16_t *outlier; /* (outputs, 2) */
} matrix;

static void make_matrix(fix *f, matrix *m, const kind *k, int64_t outputs, int64_t cols) {
    const int64_t group = k->group < 0 ? cols : k->group;
    const uint64_t n_scale = group == 0 ? 1 : (uint64_t)(outputs * ((cols + group - 1) / group));
    *m = (matrix){.desc = {.codes_bytes = fix_code_bytes(k->dtype, outputs, cols),
                           .dtype = k->dtype,
                           .scale_dtype = k->scale_dtype,
                           .rows = outputs,
                           .cols = cols,
                           .group = group},
                  .outlier_col = {3, 1}};
    m->codes = malloc(m->desc.codes_bytes);
    m->scales = malloc(n_scale * sizeof *m->scales);
    m->exact = malloc((size_t)(outputs * cols) * sizeof *m->exact);
    m->outlier = malloc((size_t)outputs * 2 * sizeof *m->outlier);
    for (uint64_t i = 0; i < m->desc.codes_bytes; i++) {
        m->codes[i] = (uint8_t)fix_bits(f);
    }
    for (int64_t i = 0; k->dtype <= PICO_DTYPE_BF16 && i < outputs * cols; i++) {
        const float x = fix_float(f, 1);
        const uint16_t half = ref_to_bf16((double)x);
        const size_t size = k->dtype == PICO_DTYPE_F32 ? 4 : 2;
        memcpy(m->codes + (size_t)i * size, size == 4 ? (const void *)&x : (const void *)&half,
               size);
    }
    for (uint64_t i = 0; k->scale_dtype != 0 && i < n_scale; i++) {
        const float x = 0.01f + fix_float(f, 0.005f);
        const uint16_t half = ref_to_f16((double)x);
        const size_t size = k->scale_dtype == PICO_DTYPE_F32 ? 4 : 2;
        memcpy((char *)m->scales + i * size, size == 4 ? (const void *)&x : (const void *)&half,
               size);
    }
    for (int i = 0; i < 16; i++) {
        m->book[i] = fix_float(f, 1);
    }
    for (int64_t i = 0; i < outputs * 2; i++) {
        m->outlier[i] = ref_to_f16((double)fix_float(f, 4));
    }
    m->desc.codes = m->codes;
    m->desc.scales = k->scale_dtype == 0 ? NULL : m->scales;
    m->desc.n_scales = k->scale_dtype == 0 ? 0 : n_scale;
    m->desc.codebook = k->dtype == PICO_DTYPE_NF4 ? m->book : NULL;
    ref_weight(&m->desc, m->exact);
}

static void free_matrix(matrix *m) {
    free(m->codes), free(m->scales), free(m->exact), free(m->outlier);
}

static int open_wide(fix *f) {
    const pico_reserve need = {.max_rows = 32,
                               .max_in = COLS,
                               .max_out = COLS,
                               .max_head = 4,
                               .max_head_dim = 64,
                               .max_positions = 64,
                               .max_logit_rows = 1,
                               .max_top_k = 1,
                               .max_edits = 1};
    pico_error err = {0};
    if (!fix_open(f, FIX_PORTABLE, 1)) {
        return 0;
    }
    assert_int_equal(f->ops->reserve(f->self, &need, &err), PICO_OK);
    return 1;
}

/* ---- large shapes ---- */

static float *multiply(fix *f, const pico_weight *weight, const float *x, int64_t n, int64_t cols,
                       int64_t outputs) {
    float *y = fix_floats(f, n * outputs, 1);
    const pico_linear_args args = {.weight = weight,
                                   .x = fix_f32(f, x, n, cols),
                                   .y = fix_f32(f, y, n, outputs),
                                   .n_decode = (uint32_t)n};
    assert_int_equal(f->ops->linear(f->self, &args), PICO_OK);
    free(y);
    return fix_get(f, &args.y);
}

static void check_shape(fix *f, const kind *k, int64_t outputs, int64_t cols) {
    static const int64_t counts[] = {1, 2, 3, 8, MOST_ROWS};
    matrix m;
    make_matrix(f, &m, k, outputs, cols);
    const pico_weight *weight = fix_weight(f, &m.desc, 0);
    float *x = fix_floats(f, MOST_ROWS * cols, 1), *most = NULL;
    for (size_t i = sizeof counts / sizeof *counts; i-- > 0;) {
        const int64_t n = counts[i];
        float *y = multiply(f, weight, x, n, cols, outputs);
        if (most == NULL) {
            double *want = malloc(sizeof *want * (size_t)(n * outputs));
            ref_linear(m.exact, outputs, cols, x, cols, n, NULL, NULL, want);
            fix_close_to(y, want, n * outputs, 1e-11);
            free(want);
            most = y;
        } else {
            fix_same_bits(y, most, n * outputs);
            free(y);
        }
    }
    free(x), free(most);
    free_matrix(&m);
    fix_reset(f);
}

static void large_shapes_are_exact_in_any_company(void **state) {
    (void)state;
    fix f;
    if (!open_wide(&f)) {
        return;
    }
    for (int i = 0; i < KINDS; i++) {
        check_shape(&f, &kinds[i], 9, COLS);           /* several chunks for every number of rows */
        check_shape(&f, &kinds[i], OUTPUTS, 520);      /* blocks go on to further outputs */
        check_shape(&f, &kinds[i], OUTPUTS + 61, 768); /* and with two tiles at a time */
    }
    fix_close(&f);
}

/* ---- ops that become one kernel ---- */

typedef struct chain {
    const pico_weight *weight[3];
    uint32_t norm, act;
    int64_t rows;
    int gated, many;
    const float *x, *scale, *shift; /* of the norm */
    const float *bias;
} chain;

typedef struct answer {
    float *normed, *y[3];
} answer;

/* norm, product, activation in place; with a read between them where they are to be kept apart. */
static answer run_chain(fix *f, const chain *c, int apart) {
    const int64_t n = c->rows;
    float *fill = fix_floats(f, n * WIDTH, 1);
    const pico_norm_args norm = {.kind = c->norm,
                                 .eps = 1e-5f,
                                 .scale = 1.25f,
                                 .x = fix_f32(f, c->x, n, WIDTH),
                                 .y = fix_f32(f, fill, n, WIDTH),
                                 .weight = fix_vector(f, PICO_DTYPE_F32, c->scale, WIDTH),
                                 .bias = fix_vector(f, PICO_DTYPE_F32, c->shift, WIDTH)};
    const pico_tensor bias = fix_vector(f, PICO_DTYPE_F32, c->bias, OUTPUTS);
    pico_tensor y[3];
    for (int i = 0; i < 3; i++) {
        y[i] = fix_f32(f, fill, n, OUTPUTS);
    }
    const pico_linear_args one = {
        .weight = c->weight[0], .x = norm.y, .y = y[0], .bias = bias, .n_decode = (uint32_t)n};
    const pico_linear_many_args many = {.n = 3,
                                        .n_decode = (uint32_t)n,
                                        .x = norm.y,
                                        .weight = {c->weight[0], c->weight[1], c->weight[2]},
                                        .y = {y[0], y[1], y[2]}};
    const pico_linear_gated_args gated = {.w1 = c->weight[0],
                                          .w3 = c->weight[1],
                                          .act = PICO_ACT_SILU,
                                          .n_decode = (uint32_t)n,
                                          .x = norm.y,
                                          .y = y[0]};
    const pico_act_args act = {.kind = c->act, .x = y[0], .y = y[0]};
    assert_int_equal(f->ops->norm(f->self, &norm), PICO_OK);
    free(apart ? fix_get(f, &norm.y) : NULL);
    assert_int_equal(c->gated  ? f->ops->linear_gated(f->self, &gated)
                     : c->many ? f->ops->linear_many(f->self, &many)
                               : f->ops->linear(f->self, &one),
                     PICO_OK);
    free(apart ? fix_get(f, &y[0]) : NULL);
    if (c->act != 0) {
        assert_int_equal(f->ops->activation(f->self, &act), PICO_OK);
    }
    free(fill);
    return (answer){fix_get(f, &norm.y), {fix_get(f, &y[0]), fix_get(f, &y[1]), fix_get(f, &y[2])}};
}

static void check_chain(fix *f, const chain *c) {
    answer apart = run_chain(f, c, 1), together = run_chain(f, c, 0);
    fix_same_bits(apart.normed, together.normed, c->rows * WIDTH);
    free(apart.normed), free(together.normed);
    for (int i = 0; i < 3; i++) {
        if (i == 0 || c->many) {
            fix_same_bits(apart.y[i], together.y[i], c->rows * OUTPUTS);
        }
        free(apart.y[i]), free(together.y[i]);
    }
}

/* Weights [0, 3) are of one kind, or, mixed, of three. */
static void check_kind(fix *f, int of, int mixed, int outliers) {
    static const int64_t counts[] = {1, 3, 9, MOST_ROWS};
    matrix m[3];
    chain c = {.x = fix_floats(f, MOST_ROWS * WIDTH, 2),
               .scale = fix_floats(f, WIDTH, 1),
               .shift = fix_floats(f, WIDTH, 1),
               .bias = fix_floats(f, OUTPUTS, 1)};
    for (int i = 0; i < 3; i++) {
        make_matrix(f, &m[i], &kinds[mixed ? (of + i) % KINDS : of], OUTPUTS, WIDTH);
        if (outliers) {
            m[i].desc.outlier_col = m[i].outlier_col;
            m[i].desc.outlier_value = m[i].outlier;
            m[i].desc.n_outlier = 2;
        }
        c.weight[i] = fix_weight(f, &m[i].desc, 0);
    }
    for (int turn = 0; turn < 16; turn++) {
        c.rows = counts[turn % 4];
        c.norm = turn % 2 == 0 ? PICO_NORM_RMS : PICO_NORM_LAYER;
        c.gated = turn / 4 == 1;
        c.many = turn / 4 == 2;
        c.act = turn / 4 == 3 ? 0 : PICO_ACT_RELU_SQUARED;
        check_chain(f, &c);
    }
    for (int i = 0; i < 3; i++) {
        free_matrix(&m[i]);
    }
    free((void *)(uintptr_t)c.x), free((void *)(uintptr_t)c.scale);
    free((void *)(uintptr_t)c.shift), free((void *)(uintptr_t)c.bias);
    fix_reset(f);
}

static void what_becomes_one_kernel_keeps_its_bits(void **state) {
    (void)state;
    fix f;
    if (!open_wide(&f)) {
        return;
    }
    for (int i = 0; i < KINDS; i++) {
        check_kind(&f, i, 0, 0);
    }
    check_kind(&f, 0, 1, 0);
    check_kind(&f, 2, 0, 1);
    check_kind(&f, 5, 0, 1);
    fix_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_shapes_are_exact_in_any_company),
        cmocka_unit_test(what_becomes_one_kernel_keeps_its_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
