/*
 * Backends: products against the oracle for every layout of weights that the backend supports, in
 * the three shapes (one row, a few, many), and the promises about bits: fused equals composed, the
 * same call twice equals itself, a row in company equals the row alone.
 */
#include "conform/device.h"

typedef struct shape {
    int64_t out, in, group;
} shape;

static const shape shapes[] = {{1, 1, 0},   {3, 31, 8},    {33, 33, 33},  {31, 64, 32},
                               {96, 96, 0}, {40, 160, 64}, {65, 257, 32}, {128, 256, 256}};
enum { N_SHAPE = sizeof shapes / sizeof *shapes };
static const int64_t row_counts[] = {0, 1, 2, 5, 31, 32, 33, 70};
enum { N_ROWS = sizeof row_counts / sizeof *row_counts };

/* Whether this layout can have this shape. */
static int fits(uint32_t dtype, const shape *s) {
    return (dtype != PICO_DTYPE_Q8_0 && dtype != PICO_DTYPE_Q4_0) || s->in % 32 == 0;
}

static void linear_of(conform *c, uint32_t dtype) {
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 512);
    if (d.ops->supports(d.self, PICO_OP_PRODUCT, dtype) != PICO_OK) {
        conform_skip(c, "%s is not supported", dev_dtype(dtype));
    }
    for (size_t i = 0; i < N_SHAPE; i++) {
        const shape *s = &shapes[i];
        if (!fits(dtype, s)) {
            continue;
        }
        double *exact = NULL;
        pico_weight_desc desc = dev_weight_desc(&d, dtype, s->out, s->in, s->group, &exact);
        pico_weight *weight = dev_weight(&d, &desc, PICO_USE_PRODUCT);
        float *bias = dev_random(&d, s->out, 1);
        for (uint32_t mode = 0; mode < N_ROWS * 4; mode++) {
            int64_t rows = row_counts[mode / 4], gap = mode & 1 ? 5 : 0;
            float *x = dev_random(&d, rows * s->in, 2), *before = dev_random(&d, rows * s->out, 1);
            double *want = conform_alloc(c, (size_t)(rows * s->out), sizeof *want);
            pico_linear_args args = {.weight = weight,
                                     .x = dev_tensor(&d, PICO_DTYPE_F32, x, rows, s->in, gap),
                                     .y = dev_tensor(&d, PICO_DTYPE_F32, mode & 2 ? before : NULL,
                                                     rows, s->out, 2 * gap),
                                     .n_decode = rows > 32 ? 0 : (uint32_t)rows,
                                     .accumulate = mode >> 1 & 1};
            if (mode & 1) {
                args.bias = dev_vector(&d, PICO_DTYPE_F32, bias, s->out);
            }
            ref_linear(exact, s->out, s->in, x, s->in, rows, mode & 1 ? bias : NULL,
                       mode & 2 ? before : NULL, want);
            dev_ok(&d, d.ops->linear(d.self, &args), "linear");
            int narrow = rows > 32 && dtype == PICO_DTYPE_BF16; /* x may be, too */
            dev_near(&d, dev_dtype(dtype), dev_get(&d, &args.y), want, rows * s->out,
                     narrow ? 1e-4 : dev_limit(dtype));
            dev_check_guards(&d, "linear");
            dev_reset(&d);
            free(x), free(before), free(want);
        }
        d.ops->weight_free(d.self, weight);
    }
}

static void linear_f32(conform *c) {
    linear_of(c, PICO_DTYPE_F32);
}
static void linear_f16(conform *c) {
    linear_of(c, PICO_DTYPE_F16);
}
static void linear_bf16(conform *c) {
    linear_of(c, PICO_DTYPE_BF16);
}
static void linear_i8(conform *c) {
    linear_of(c, PICO_DTYPE_I8);
}
static void linear_q8_0(conform *c) {
    linear_of(c, PICO_DTYPE_Q8_0);
}
static void linear_q4_0(conform *c) {
    linear_of(c, PICO_DTYPE_Q4_0);
}
static void linear_nf4(conform *c) {
    linear_of(c, PICO_DTYPE_NF4);
}

/* ---- bits ---- */

static void product(dev *d, const pico_weight *weight, const pico_tensor *x, const pico_tensor *y,
                    uint32_t n_decode) {
    pico_linear_args args = {.weight = weight, .x = *x, .y = *y, .n_decode = n_decode};
    dev_ok(d, d->ops->linear(d->self, &args), "linear");
}

/* For every layout: the same call twice; then, if the backend promises it, each row alone, in
 * parts, and between rows of the other class. */
static void rows_do_not_depend_on_company(conform *c) {
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 512);
    int promised = (d.caps & PICO_CAP_BATCH_INVARIANT) != 0;
    for (uint32_t dtype = PICO_DTYPE_F32; dtype <= PICO_DTYPE_NF4; dtype++) {
        for (size_t i = 2; i < N_SHAPE; i++) {
            const shape *s = &shapes[i];
            if (dtype == PICO_DTYPE_I32 || !fits(dtype, s) ||
                d.ops->supports(d.self, PICO_OP_PRODUCT, dtype) != PICO_OK) {
                continue;
            }
            enum { N = 80 };
            pico_weight_desc desc = dev_weight_desc(&d, dtype, s->out, s->in, s->group, NULL);
            pico_weight *weight = dev_weight(&d, &desc, PICO_USE_PRODUCT);
            float *values = dev_random(&d, N * s->in, 2);
            pico_tensor x = dev_tensor(&d, PICO_DTYPE_F32, values, N, s->in, 0);
            pico_tensor y = dev_tensor(&d, PICO_DTYPE_F32, NULL, N, s->out, 0);
            for (uint32_t prefill = 0; prefill < 2; prefill++) {
                product(&d, weight, &x, &y, prefill ? 0 : N);
                float *want = dev_get(&d, &y);
                product(&d, weight, &x, &y, prefill ? 0 : N);
                dev_same(&d, "linear twice", dev_get(&d, &y), want, N * s->out);
                for (int64_t at = 0; promised && at < N;) {
                    int64_t n = 1 + rig_below(&c->random, 37);
                    n = n < N - at ? n : N - at;
                    pico_tensor px = dev_rows(&x, at, n), py = dev_rows(&y, at, n);
                    product(&d, weight, &px, &py, prefill ? 0 : (uint32_t)n);
                    at += n;
                }
                dev_same(&d, "linear in parts", dev_get(&d, &y), want, N * s->out);
                if (promised) { /* half of the rows are of the other class */
                    product(&d, weight, &x, &y, N / 2);
                    float *got = dev_get(&d, &y);
                    int64_t half = N / 2 * s->out, from = prefill ? half : 0;
                    dev_same(&d, "linear beside the other class", got + from, want + from, half);
                    free(got);
                }
                free(want);
            }
            d.ops->weight_free(d.self, weight);
            dev_reset(&d);
            free(values);
        }
    }
    if (!promised) {
        conform_skip(c, "batch invariance is not claimed; calling twice gives the same bits");
    }
}

/* linear_many as several calls of linear. */
static void fused_products_equal_single_ones(conform *c) {
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 512);
    if (d.ops->linear_many == NULL) {
        conform_skip(c, "no linear_many");
    }
    for (uint32_t turn = 0; turn < 40; turn++) {
        const int64_t outs[4] = {64, 16, 33, 1}, in = turn % 2 == 0 ? 96 : 77;
        int64_t rows = row_counts[turn % N_ROWS];
        uint32_t n = 1 + turn % 4, n_decode = rows > 32 ? (uint32_t)rows / 2 : (uint32_t)rows;
        float *values = dev_random(&d, rows * in, 1), *bias = dev_random(&d, 64, 1);
        pico_weight *weight[4] = {NULL};
        pico_linear_many_args many = {
            .n = n, .n_decode = n_decode, .x = dev_tensor(&d, PICO_DTYPE_F32, values, rows, in, 0)};
        for (uint32_t i = 0; i < n; i++) {
            uint32_t dtype = i == 1 ? PICO_DTYPE_BF16 : PICO_DTYPE_F32;
            dtype =
                d.ops->supports(d.self, PICO_OP_PRODUCT, dtype) == PICO_OK ? dtype : PICO_DTYPE_F32;
            pico_weight_desc desc = dev_weight_desc(&d, dtype, outs[i], in, 0, NULL);
            many.weight[i] = weight[i] = dev_weight(&d, &desc, PICO_USE_PRODUCT);
            many.bias[i] = (turn + i) % 3 == 0 ? (pico_tensor){0}
                                               : dev_vector(&d, PICO_DTYPE_F32, bias, outs[i]);
            many.y[i] = dev_tensor(&d, PICO_DTYPE_F32, NULL, rows, outs[i], 0);
        }
        dev_ok(&d, d.ops->linear_many(d.self, &many), "linear_many");
        for (uint32_t i = 0; i < n; i++) {
            pico_tensor y = dev_tensor(&d, PICO_DTYPE_F32, NULL, rows, outs[i], 0);
            pico_linear_args one = {.weight = weight[i],
                                    .x = many.x,
                                    .bias = many.bias[i],
                                    .y = y,
                                    .n_decode = n_decode};
            dev_ok(&d, d.ops->linear(d.self, &one), "linear");
            dev_same(&d, "linear_many", dev_get(&d, &many.y[i]), dev_get(&d, &y), rows * outs[i]);
            d.ops->weight_free(d.self, weight[i]);
        }
        dev_check_guards(&d, "linear_many");
        dev_reset(&d);
    }
}

/* linear_gated as linear, linear, activation. */
static void gated_products_equal_composed_ones(conform *c) {
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 512);
    if (d.ops->linear_gated == NULL) {
        conform_skip(c, "no linear_gated");
    }
    for (uint32_t turn = 0; turn < 48; turn++) {
        const int64_t out = turn % 3 == 0 ? 33 : 128, in = turn % 2 == 0 ? 96 : 65;
        int64_t rows = row_counts[turn % N_ROWS];
        uint32_t act = PICO_ACT_SILU + turn % 4;
        if (d.ops->supports(d.self, PICO_OP_ACT, act) != PICO_OK) {
            continue;
        }
        uint32_t n_decode = rows > 32 ? (uint32_t)rows / 2 : (uint32_t)rows;
        pico_weight_desc a = dev_weight_desc(&d, PICO_DTYPE_F32, out, in, 0, NULL);
        pico_weight_desc b = dev_weight_desc(&d, PICO_DTYPE_F32, out, in, 0, NULL);
        pico_weight *w1 = dev_weight(&d, &a, PICO_USE_PRODUCT);
        pico_weight *w3 = dev_weight(&d, &b, PICO_USE_PRODUCT);
        float *values = dev_random(&d, rows * in, 1);
        pico_tensor x = dev_tensor(&d, PICO_DTYPE_F32, values, rows, in, 0);
        pico_tensor y = dev_tensor(&d, PICO_DTYPE_F32, NULL, rows, out, 0);
        pico_tensor gate = dev_tensor(&d, PICO_DTYPE_F32, NULL, rows, out, 0);
        pico_tensor up = dev_tensor(&d, PICO_DTYPE_F32, NULL, rows, out, 0);
        pico_linear_gated_args fused = {
            .w1 = w1, .w3 = w3, .act = act, .n_decode = n_decode, .x = x, .y = y};
        dev_ok(&d, d.ops->linear_gated(d.self, &fused), "linear_gated");
        product(&d, w1, &x, &gate, n_decode);
        product(&d, w3, &x, &up, n_decode);
        pico_act_args last = {.kind = act, .x = gate, .gate = up, .y = up};
        dev_ok(&d, d.ops->activation(d.self, &last), "activation");
        dev_same(&d, "linear_gated", dev_get(&d, &y), dev_get(&d, &up), rows * out);
        dev_check_guards(&d, "linear_gated");
        d.ops->weight_free(d.self, w1);
        d.ops->weight_free(d.self, w3);
        dev_reset(&d);
    }
}

const conform_test conform_backend_linear[] = {
    {"backend/linear_f32", linear_f32},
    {"backend/linear_f16", linear_f16},
    {"backend/linear_bf16", linear_bf16},
    {"backend/linear_i8", linear_i8},
    {"backend/linear_q8_0", linear_q8_0},
    {"backend/linear_q4_0", linear_q4_0},
    {"backend/linear_nf4", linear_nf4},
    {"backend/rows_do_not_depend_on_company", rows_do_not_depend_on_company},
    {"backend/linear_many", fused_products_equal_single_ones},
    {"backend/linear_gated", gated_products_equal_composed_ones},
    {NULL, NULL}};
