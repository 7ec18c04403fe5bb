/* layers: util */
/*
 * The ops of pico.train/1 on the CPU backend against double precision: products in every form, rows
 * gathered and scattered, gradients of norms, activations, gates and caps against central
 * differences, reductions, optimiser steps. Results do not depend on the thread count.
 */
#include "train_op_kit.h"

/* ---- products ---- */

typedef struct shape {
    int64_t m, n, k;
} shape;

/* A factor as the product sees it. */
static double rounded(double x, uint32_t compute) {
    const float y = (float)x;
    uint32_t bits;
    memcpy(&bits, &y, sizeof bits);
    if (compute == PICO_COMPUTE_BF16) {
        bits = (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
    }
    float z;
    memcpy(&z, &bits, sizeof z);
    return (double)z;
}

static void one_product(fix *f, const pico_train_ops *ops, shape s, uint32_t ta, uint32_t tb,
                        float beta, int biased, uint32_t compute) {
    train_array a = train_random(f, ta ? s.k : s.m, ta ? s.m : s.k, 1);
    train_array b = train_random(f, tb ? s.n : s.k, tb ? s.k : s.n, 1);
    train_array c = train_random(f, s.m, s.n, 1), bias = train_vector(f, s.n, 1);
    if (beta == 0) { /* not read: it holds sentinels, which are NaN */
        c.tensor = fix_f32(f, NULL, s.m, s.n);
    }
    const float alpha = s.m == 64 ? 1 : 0.75f; /* 1 has ways of its own */
    pico_gemm_args args = {.compute = compute,
                           .transpose_a = ta,
                           .transpose_b = tb,
                           .alpha = alpha,
                           .beta = beta,
                           .a = a.tensor,
                           .b = b.tensor,
                           .c = c.tensor};
    if (biased) {
        args.bias = bias.tensor;
    }
    assert_int_equal(ops->gemm(f->self, &args), PICO_OK);
    double *want = malloc((size_t)(s.m * s.n) * sizeof *want);
    for (int64_t i = 0; i < s.m; i++) {
        for (int64_t j = 0; j < s.n; j++) {
            double sum = 0;
            for (int64_t k = 0; k < s.k; k++) {
                sum += rounded(a.value[ta ? k * s.m + i : i * s.k + k], compute) *
                       rounded(b.value[tb ? j * s.k + k : k * s.n + j], compute);
            }
            want[i * s.n + j] = (double)alpha * sum + (biased ? bias.value[j] : 0) +
                                (beta == 0 ? 0 : (double)beta * c.value[i * s.n + j]);
        }
    }
    float *got = fix_get(f, &c.tensor);
    train_check_values("product", got, want, s.m * s.n, 2e-6);
    free(got);
    free(want);
    train_free((train_array[]){a, b, c, bias}, 4);
    fix_reset(f);
}

static void products(fix *f) {
    static const shape shapes[] = {{1, 1, 1},      {13, 33, 5},    {100, 70, 300}, {5, 4150, 7},
                                   {97, 64, 16},   {12, 32, 1000}, {31, 3, 0},     {64, 96, 1100},
                                   {2100, 33, 40}, {33, 2100, 3}};
    const pico_train_ops *ops = train_ops(f);
    for (uint32_t compute = PICO_COMPUTE_F32; compute <= PICO_COMPUTE_BF16; compute++) {
        if (compute == PICO_COMPUTE_BF16 && (ops->features(f->self) & PICO_TRAIN_HAS_BF16) == 0) {
            continue;
        }
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            for (uint32_t form = 0; form < 4; form++) {
                one_product(f, ops, shapes[i], form & 1, form >> 1,
                            form == 2   ? 0.5f
                            : form == 3 ? 1.0f
                                        : 0.0f,
                            form == 1 || form == 2, compute);
            }
        }
    }
}

/* want = round(a) round(b) for square matrices. */
static void square_product(const double *a, const double *b, double *want, int64_t n) {
    for (int64_t i = 0; i < n * n; i++) {
        want[i] = 0;
        for (int64_t k = 0; k < n; k++) {
            want[i] += rounded(a[i / n * n + k], PICO_COMPUTE_BF16) *
                       rounded(b[k * n + i % n], PICO_COMPUTE_BF16);
        }
    }
}

/* A factor that a backend has rounded before is rounded again when it was changed: by a product, by
 * another op, by the host. */
static void products_see_changes(fix *f) {
    enum { N = 24 };
    const pico_train_ops *ops = train_ops(f);
    if ((ops->features(f->self) & PICO_TRAIN_HAS_BF16) == 0) {
        return;
    }
    train_array x = train_random(f, N, N, 1), w = train_random(f, N, N, 1),
                y = train_random(f, N, N, 1), z = train_random(f, N, N, 1);
    float *fresh = fix_floats(f, N, 1);
    pico_gemm_args first = {
        .compute = PICO_COMPUTE_BF16, .alpha = 1, .a = x.tensor, .b = w.tensor, .c = y.tensor};
    pico_gemm_args second = first;
    second.a = y.tensor;
    second.c = z.tensor;
    for (int step = 0; step < 4; step++) {
        if (step == 1) { /* products alone */
            first.b = x.tensor;
        } else if (step == 2) {
            const pico_scale_args twice = {.value = 2, .x = x.tensor};
            assert_int_equal(ops->scale(f->self, &twice), PICO_OK);
        } else if (step == 3) {
            assert_int_equal(f->ops->buffer_write(f->self, x.tensor.buffer, x.tensor.offset, fresh,
                                                  N * sizeof *fresh),
                             PICO_OK);
        }
        assert_int_equal(ops->gemm(f->self, &first), PICO_OK);
        assert_int_equal(ops->gemm(f->self, &second), PICO_OK);
        for (int i = 0; i < N * N; i++) {
            x.value[i] = step == 2 ? 2 : step == 3 && i < N ? (double)fresh[i] : x.value[i];
        }
        square_product(x.value, step == 0 ? w.value : x.value, y.value, N);
        float *got = fix_get(f, &y.tensor);
        train_check_values("first product", got, y.value, N * N, 2e-6);
        for (int i = 0; i < N * N; i++) {
            y.value[i] = (double)got[i]; /* as the second one finds it */
        }
        free(got);
        square_product(y.value, w.value, z.value, N);
        got = fix_get(f, &z.tensor);
        train_check_values("second product", got, z.value, N * N, 2e-6);
        free(got);
    }
    free(fresh);
    train_free((train_array[]){x, w, y, z}, 4);
}

/* ---- tensors in BF16, for products alone ---- */

/* Room for (rows, cols) in BF16. */
static pico_tensor narrow_room(fix *f, int64_t rows, int64_t cols) {
    pico_tensor t = fix_tensor(f, PICO_DTYPE_F32, NULL, rows, cols / 2, cols / 2);
    t.dtype = PICO_DTYPE_BF16;
    t.shape[1] = t.stride[0] = cols;
    return t;
}

/* What is in it is `want`, as F32, rounded; want becomes that. */
static void check_narrow(fix *f, const char *what, const pico_tensor *tensor,
                         const pico_tensor *plain, double *want) {
    const int64_t n = plain->shape[0] * plain->shape[1];
    pico_tensor pairs = *tensor;
    pairs.dtype = PICO_DTYPE_F32;
    pairs.shape[1] /= 2;
    pairs.stride[0] /= 2;
    float *bits = fix_get(f, &pairs), *exact = fix_get(f, plain);
    for (int64_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, (const char *)bits + 2 * i, sizeof half);
        const uint32_t whole = (uint32_t)half << 16;
        float got;
        memcpy(&got, &whole, sizeof got);
        want[i] = (double)got;
        if (!(fabs((double)got - (double)exact[i]) <= fabs((double)exact[i]) / 256)) {
            fail_msg("%s: element %lld is %g, as F32 %g", what, (long long)i, (double)got,
                     (double)exact[i]);
        }
    }
    free(bits);
    free(exact);
}

/* z = x y^T, x BF16, y either. */
static void check_product(fix *f, const pico_train_ops *ops, const pico_tensor *x,
                          const double *x_value, const pico_tensor *y, const double *y_value) {
    const int64_t m = x->shape[0], n = y->shape[0], k = x->shape[1];
    pico_tensor z = fix_f32(f, NULL, m, n);
    const pico_gemm_args args = {
        .compute = PICO_COMPUTE_BF16, .transpose_b = 1, .alpha = 1, .a = *x, .b = *y, .c = z};
    assert_int_equal(ops->gemm(f->self, &args), PICO_OK);
    double *want = calloc((size_t)(m * n), sizeof *want);
    for (int64_t i = 0; i < m * n; i++) {
        for (int64_t l = 0; l < k; l++) {
            want[i] += x_value[i / n * k + l] * rounded(y_value[i % n * k + l], PICO_COMPUTE_BF16);
        }
    }
    float *got = fix_get(f, &z);
    train_check_values("product of a BF16 tensor", got, want, m * n, 2e-6);
    free(got);
    free(want);
}

static void narrow_activation(fix *f, const pico_train_ops *ops, int64_t rows, int64_t cols,
                              int gated) {
    train_array x = train_random(f, rows, cols, 2), gate = train_random(f, rows, cols, 1),
                dy = train_random(f, rows, cols, 1), y = train_random(f, rows, cols, 1),
                other = train_random(f, rows, cols, 1);
    const pico_tensor narrow = narrow_room(f, rows, cols), second = narrow_room(f, rows, cols);
    pico_act_args act = {.kind = PICO_ACT_SILU, .x = x.tensor, .y = y.tensor};
    pico_act_backward_args back = {
        .kind = PICO_ACT_GELU_TANH, .x = x.tensor, .dy = dy.tensor, .dx = y.tensor};
    if (gated) {
        act.gate = back.gate = gate.tensor;
        back.dgate = other.tensor;
    }
    assert_int_equal(f->ops->activation(f->self, &act), PICO_OK);
    act.y = narrow;
    assert_int_equal(f->ops->activation(f->self, &act), PICO_OK);
    check_narrow(f, "activation", &narrow, &y.tensor, y.value);
    check_product(f, ops, &narrow, y.value, &x.tensor, x.value);
    assert_int_equal(ops->act_backward(f->self, &back), PICO_OK);
    back.dx = narrow;
    back.dgate = gated ? second : back.dgate;
    assert_int_equal(ops->act_backward(f->self, &back), PICO_OK);
    check_narrow(f, "act_backward", &narrow, &y.tensor, y.value);
    if (gated) {
        check_narrow(f, "act_backward of a gate", &second, &other.tensor, other.value);
        check_product(f, ops, &narrow, y.value, &second, other.value);
    }
    train_free((train_array[]){x, gate, dy, y, other}, 5);
    fix_reset(f);
}

static void narrow_norm(fix *f, const pico_train_ops *ops, int64_t rows, int64_t cols, int biased) {
    train_array x = train_random(f, rows, cols, 2), y = train_random(f, rows, cols, 1),
                weight = train_vector(f, cols, 1);
    const pico_tensor narrow = narrow_room(f, rows, cols);
    pico_norm_args args = {.kind = biased ? PICO_NORM_LAYER : PICO_NORM_RMS,
                           .eps = 1e-5f,
                           .scale = 1.2f,
                           .x = x.tensor,
                           .y = y.tensor};
    if (biased) {
        args.weight = args.bias = weight.tensor;
    }
    assert_int_equal(f->ops->norm(f->self, &args), PICO_OK);
    args.y = narrow;
    assert_int_equal(f->ops->norm(f->self, &args), PICO_OK);
    check_narrow(f, "norm", &narrow, &y.tensor, y.value);
    pico_tensor part = narrow, x_part = x.tensor; /* the first columns of each row */
    part.shape[1] = x_part.shape[1] = cols / 3;
    double *values = malloc((size_t)(2 * rows * cols) * sizeof *values),
           *others = values + rows * cols;
    for (int64_t i = 0; i < rows * (cols / 3); i++) {
        const int64_t at = i / (cols / 3) * cols + i % (cols / 3);
        values[i] = y.value[at];
        others[i] = x.value[at];
    }
    check_product(f, ops, &part, values, &x_part, others);
    free(values);
    train_free((train_array[]){x, y, weight}, 3);
    fix_reset(f);
}

static void narrow_tensors(fix *f) {
    const pico_train_ops *ops = train_ops(f);
    if ((ops->features(f->self) & PICO_TRAIN_HAS_BF16_TENSORS) == 0) {
        return;
    }
    for (int i = 0; i < 2; i++) {
        narrow_activation(f, ops, 5, 24, i);
        narrow_activation(f, ops, 9, 64, i);
        narrow_norm(f, ops, 5, 24, i);
        narrow_norm(f, ops, 6, 400, i);
        narrow_norm(f, ops, 3, 768, i);
        narrow_norm(f, ops, 2, 1024, i);
        narrow_norm(f, ops, 2, 1040, i);
    }
}

/* Shapes that do not fit are refused before anything is written. */
static void products_refuse(fix *f) {
    const pico_train_ops *ops = train_ops(f);
    train_array a = train_random(f, 4, 6, 1), b = train_random(f, 5, 7, 1),
                c = train_random(f, 4, 7, 1);
    pico_gemm_args args = {.alpha = 1, .a = a.tensor, .b = b.tensor, .c = c.tensor};
    assert_int_equal(ops->gemm(f->self, &args), PICO_E_INVALID);
    args.transpose_b = 1;
    assert_int_equal(ops->gemm(f->self, &args), PICO_E_INVALID);
    args.b.dtype = PICO_DTYPE_I32;
    assert_int_equal(ops->gemm(f->self, &args), PICO_E_INVALID);
    float *got = fix_get(f, &c.tensor);
    train_check_values("untouched", got, c.value, c.n, 0);
    free(got);
    train_free((train_array[]){a, b, c}, 3);
}

/* ---- tables ---- */

/* common: so many rows of the first ones have one index. */
static void one_table(fix *f, const pico_train_ops *ops, int table_rows, int n, int width,
                      int common) {
    int32_t *index = malloc((size_t)n * sizeof *index);
    for (int i = 0; i < n; i++) {
        index[i] =
            i < common ? table_rows / 2 : (int32_t)(fix_bits(f) % (uint32_t)(table_rows + 1)) - 1;
    }
    for (uint32_t accumulate = 0; accumulate < 2; accumulate++) {
        train_array table = train_random(f, table_rows, width, 1),
                    rows = train_random(f, n, width, 1);
        const pico_gather_args args = {.table = table.tensor,
                                       .index = fix_vector(f, PICO_DTYPE_I32, index, n),
                                       .rows = rows.tensor,
                                       .accumulate = accumulate};
        double *want = malloc(sizeof *want * (size_t)n * (size_t)width);
        assert_int_equal(ops->gather(f->self, &args), PICO_OK);
        for (int i = 0; i < n * width; i++) {
            const int32_t at = index[i / width];
            want[i] = (accumulate ? rows.value[i] : 0) +
                      (at < 0 ? 0 : table.value[at * width + i % width]);
        }
        float *got = fix_get(f, &rows.tensor);
        train_check_values("gather", got, want, n * width, 1e-6);
        free(got);
        /* and back: what was gathered is added to the table */
        assert_int_equal(ops->scatter(f->self, &args), PICO_OK);
        for (int i = 0; i < n * width; i++) {
            if (index[i / width] >= 0) {
                table.value[index[i / width] * width + i % width] += want[i];
            }
        }
        got = fix_get(f, &table.tensor);
        train_check_values("scatter", got, table.value, table_rows * width, 4e-6);
        free(got);
        free(want);
        train_free((train_array[]){table, rows}, 2);
        fix_reset(f);
    }
    free(index);
}

static void tables(fix *f) {
    const pico_train_ops *ops = train_ops(f);
    one_table(f, ops, 9, 23, 37, 0);
    one_table(f, ops, 5, 300, 40, 150);
    one_table(f, ops, 70, 90, 1100, 17);
    one_table(f, ops, 3, 65, 48, 64);
}

/* ---- norms ---- */

typedef struct norm_problem {
    uint32_t kind;
    int64_t rows, width;
    double eps, scale;
    train_array x, weight, bias, dy;
    int weighted, biased;
    double *y;
} norm_problem;

static double norm_loss(void *arg) {
    norm_problem *p = arg;
    double total = 0;
    for (int64_t r = 0; r < p->rows; r++) {
        ref_train_norm(p->kind, p->eps, p->scale, p->x.value + r * p->width,
                       p->weighted ? p->weight.value : NULL, p->biased ? p->bias.value : NULL, p->y,
                       p->width);
        for (int64_t i = 0; i < p->width; i++) {
            total += p->y[i] * p->dy.value[r * p->width + i];
        }
    }
    return total;
}

/* rows x heads rows of width; accumulate adds to dx, in_place writes over dy. */
static void one_norm(fix *f, const pico_train_ops *ops, uint32_t kind, int64_t rows, int64_t heads,
                     int64_t width, int weighted, int biased, uint32_t accumulate, int in_place) {
    norm_problem p = {.kind = kind,
                      .rows = rows * heads,
                      .width = width,
                      .eps = (double)1e-5f,
                      .scale = (double)1.2f,
                      .x = train_random(f, rows, heads * width, 2),
                      .weight = train_vector(f, width, 1),
                      .bias = train_vector(f, width, 1),
                      .dy = train_random(f, rows, heads * width, 1),
                      .weighted = weighted,
                      .biased = biased,
                      .y = malloc((size_t)width * sizeof(double))};
    train_array dx = train_random(f, rows, heads * width, 1), dweight = train_vector(f, width, 1),
                dbias = train_vector(f, width, 1);
    pico_tensor to = in_place ? p.dy.tensor : dx.tensor;
    pico_norm_backward_args args = {.kind = kind,
                                    .eps = 1e-5f,
                                    .scale = 1.2f,
                                    .accumulate = accumulate,
                                    .x = fix_heads(p.x.tensor, heads),
                                    .dy = fix_heads(p.dy.tensor, heads),
                                    .dx = fix_heads(to, heads)};
    if (weighted) {
        args.weight = p.weight.tensor;
        args.dweight = dweight.tensor;
    }
    if (biased) {
        args.dbias = dbias.tensor;
    }
    assert_int_equal(ops->norm_backward(f->self, &args), PICO_OK);
    float *got = fix_get(f, &to);
    train_check_gradient(f, "norm dx", norm_loss, &p, p.x.value, p.x.n,
                         accumulate ? dx.value : NULL, got);
    free(got);
    if (weighted) {
        got = fix_get(f, &dweight.tensor);
        train_check_gradient(f, "norm dweight", norm_loss, &p, p.weight.value, width, dweight.value,
                             got);
        free(got);
    }
    if (biased) {
        got = fix_get(f, &dbias.tensor);
        train_check_gradient(f, "norm dbias", norm_loss, &p, p.bias.value, width, dbias.value, got);
        free(got);
    }
    free(p.y);
    train_free((train_array[]){p.x, p.weight, p.bias, p.dy, dx, dweight, dbias}, 7);
    fix_reset(f);
}

static void norms(fix *f) {
    const pico_train_ops *ops = train_ops(f);
    for (uint32_t kind = PICO_NORM_RMS; kind <= PICO_NORM_LAYER; kind++) {
        one_norm(f, ops, kind, 5, 1, 37, 0, 0, 0, 0);
        one_norm(f, ops, kind, 130, 1, 70, 1, 1, 1, 0);
        one_norm(f, ops, kind, 3, 4, 24, 0, 0, 0, 1);
        one_norm(f, ops, kind, 7, 1, 64, 1, 0, 0, 1);
        one_norm(f, ops, kind, 3, 3, 144, 0, 0, 1, 0);
        one_norm(f, ops, kind, 2, 1, 488, 1, 1, 1, 0);
        one_norm(f, ops, kind, 2, 1, 752, 1, 0, 0, 0);
        one_norm(f, ops, kind, 1, 2, 1024, 0, 0, 0, 1);
        one_norm(f, ops, kind, 1, 1, 1040, 1, 1, 0, 1);
    }
}

/* ---- activations, caps, gates ---- */

typedef struct element_problem {
    uint32_t kind;
    double cap, factor, scalar;
    int64_t heads, width;
    train_array x, gate, dy;
    int gated;
} element_problem;

static double act_loss(void *arg) {
    element_problem *p = arg;
    double total = 0;
    for (int64_t i = 0; i < p->x.n; i++) {
        total += ref_activation(p->kind, p->x.value[i]) * p->dy.value[i] *
                 (p->gated ? p->gate.value[i] : 1);
    }
    return total;
}

static void activations_of(fix *f, int64_t width) {
    const pico_train_ops *ops = train_ops(f);
    for (uint32_t i = 0; i < 16; i++) {
        element_problem p = {.kind = PICO_ACT_SILU + i % 4,
                             .gated = i >= 8,
                             .x = train_random(f, 6, width, 4),
                             .gate = train_random(f, 6, width, 1),
                             .dy = train_random(f, 6, width, 1)};
        const int in_place = i / 4 % 2;
        train_array dx = train_random(f, 6, width, 1), dgate = train_random(f, 6, width, 1);
        pico_act_backward_args args = {.kind = p.kind,
                                       .x = p.x.tensor,
                                       .dy = p.dy.tensor,
                                       .dx = in_place ? p.dy.tensor : dx.tensor};
        if (p.gated) {
            args.gate = p.gate.tensor;
            args.dgate = in_place ? p.gate.tensor : dgate.tensor;
        }
        assert_int_equal(ops->act_backward(f->self, &args), PICO_OK);
        float *got = fix_get(f, &args.dx);
        train_check_gradient(f, "activation dx", act_loss, &p, p.x.value, p.x.n, NULL, got);
        free(got);
        if (p.gated) {
            got = fix_get(f, &args.dgate);
            train_check_gradient(f, "activation dgate", act_loss, &p, p.gate.value, p.x.n, NULL,
                                 got);
            free(got);
        }
        train_free((train_array[]){p.x, p.gate, p.dy, dx, dgate}, 5);
        fix_reset(f);
    }
}

static void activations(fix *f) {
    activations_of(f, 37);
    activations_of(f, 40);
    activations_of(f, 48);
}

static double cap_loss(void *arg) {
    element_problem *p = arg;
    double total = 0;
    for (int64_t i = 0; i < p->x.n; i++) {
        total += p->cap * tanh(p->x.value[i] / p->cap) * p->dy.value[i];
    }
    return total;
}

static void caps_of(fix *f, int64_t width) {
    const pico_train_ops *ops = train_ops(f);
    element_problem p = {
        .cap = 15, .x = train_random(f, 5, width, 40), .dy = train_random(f, 5, width, 1)};
    const pico_softcap_args forward = {.cap = 15, .x = p.x.tensor};
    const pico_softcap_backward_args args = {.cap = 15, .y = p.x.tensor, .dy = p.dy.tensor};
    assert_int_equal(f->ops->softcap(f->self, &forward), PICO_OK);
    assert_int_equal(ops->softcap_backward(f->self, &args), PICO_OK);
    float *got = fix_get(f, &p.dy.tensor);
    train_check_gradient(f, "cap", cap_loss, &p, p.x.value, p.x.n, NULL, got);
    free(got);
    train_free((train_array[]){p.x, p.dy}, 2);
}

static void caps(fix *f) {
    caps_of(f, 67);
    caps_of(f, 72);
}

/* x is the gates' input (rows, heads), gate is u (rows, heads * width) */
static double gate_loss(void *arg) {
    element_problem *p = arg;
    double total = 0;
    for (int64_t i = 0; i < p->gate.n; i++) {
        total += p->factor * p->scalar * ref_sigmoid(p->x.value[i / p->width]) * p->gate.value[i] *
                 p->dy.value[i];
    }
    return total;
}

static void gates(fix *f) {
    const pico_train_ops *ops = train_ops(f);
    for (int scaled = 0; scaled < 2; scaled++) {
        element_problem p = {.factor = 3,
                             .scalar = 1,
                             .width = 21,
                             .x = train_random(f, 17, 3, 2),
                             .gate = train_random(f, 17, 3 * 21, 1),
                             .dy = train_random(f, 17, 3 * 21, 1)};
        train_array scalar = train_vector(f, 1, 1), dscalar = train_vector(f, 1, 1),
                    dg = train_random(f, 17, 3, 1), du = train_random(f, 17, 3 * 21, 1);
        pico_gate_backward_args args = {.factor = 3,
                                        .g = p.x.tensor,
                                        .u = fix_heads(p.gate.tensor, 3),
                                        .dy = fix_heads(p.dy.tensor, 3),
                                        .dg = scaled ? p.x.tensor : dg.tensor,
                                        .du = fix_heads(scaled ? p.gate.tensor : du.tensor, 3)};
        if (scaled) {
            p.scalar = scalar.value[0];
            args.scalar = scalar.tensor;
            args.dscalar = dscalar.tensor;
        }
        assert_int_equal(ops->gate_backward(f->self, &args), PICO_OK);
        float *got = fix_get(f, &args.dg);
        train_check_gradient(f, "gate dg", gate_loss, &p, p.x.value, p.x.n, NULL, got);
        free(got);
        got = fix_get(f, scaled ? &p.gate.tensor : &du.tensor);
        train_check_gradient(f, "gate du", gate_loss, &p, p.gate.value, p.gate.n, NULL, got);
        free(got);
        if (scaled) {
            got = fix_get(f, &dscalar.tensor);
            train_check_gradient(f, "gate dscalar", gate_loss, &p, &p.scalar, 1, dscalar.value,
                                 got);
            free(got);
        }
        train_free((train_array[]){p.x, p.gate, p.dy, scalar, dscalar, dg, du}, 7);
        fix_reset(f);
    }
}

/* ---- reductions ---- */

static void reductions(fix *f) {
    const pico_train_ops *ops = train_ops(f);
    enum { ROWS = 150, COLS = 83 };
    for (uint32_t kind = PICO_REDUCE_DOT; kind <= PICO_REDUCE_COLUMN_SQUARE; kind++) {
        for (uint32_t accumulate = 0; accumulate < 2; accumulate++) {
            train_array x = train_random(f, ROWS, COLS, 1), y = train_random(f, ROWS, COLS, 1);
            const int64_t n = kind == PICO_REDUCE_ROW_SQUARE                        ? ROWS
                              : kind == PICO_REDUCE_DOT || kind == PICO_REDUCE_NORM ? 1
                                                                                    : COLS;
            train_array out = train_vector(f, n, 1);
            double *want = calloc((size_t)n, sizeof *want);
            for (int i = 0; i < ROWS * COLS; i++) {
                const int row = i / COLS, col = i % COLS;
                const double square = x.value[i] * x.value[i];
                want[0] += kind == PICO_REDUCE_DOT    ? x.value[i] * y.value[i]
                           : kind == PICO_REDUCE_NORM ? square
                                                      : 0;
                want[kind == PICO_REDUCE_ROW_SQUARE ? row : 0] +=
                    kind == PICO_REDUCE_ROW_SQUARE ? square / COLS : 0;
                want[n == COLS ? col : 0] += kind == PICO_REDUCE_COLUMN_SUM      ? x.value[i]
                                             : kind == PICO_REDUCE_COLUMN_SQUARE ? square / ROWS
                                                                                 : 0;
            }
            for (int64_t i = 0; i < n; i++) {
                want[i] = 0.5 * (kind == PICO_REDUCE_NORM ? sqrt(want[i]) : want[i]) +
                          (accumulate ? out.value[i] : 0);
            }
            const pico_reduce_args args = {.kind = kind,
                                           .accumulate = accumulate,
                                           .factor = 0.5f,
                                           .x = x.tensor,
                                           .y = y.tensor,
                                           .out = out.tensor};
            assert_int_equal(ops->reduce(f->self, &args), PICO_OK);
            float *got = fix_get(f, &out.tensor);
            train_check_values("reduction", got, want, n, 2e-6);
            free(got);
            free(want);
            train_free((train_array[]){x, y, out}, 3);
            fix_reset(f);
        }
    }
}

static void scales_of(fix *f, int64_t width) {
    const pico_train_ops *ops = train_ops(f);
    train_array x = train_random(f, 5, width, 1), scalar = train_vector(f, 1, 1);
    pico_scale_args args = {.value = 2, .a = 3, .b = 4, .scalar = scalar.tensor, .x = x.tensor};
    assert_int_equal(ops->scale(f->self, &args), PICO_OK);
    for (int64_t i = 0; i < x.n; i++) {
        x.value[i] *= 2 / (3 * scalar.value[0] + 4);
    }
    float *got = fix_get(f, &x.tensor);
    train_check_values("scaled", got, x.value, x.n, 1e-6);
    free(got);
    args.scalar = (pico_tensor){0};
    assert_int_equal(ops->scale(f->self, &args), PICO_OK);
    got = fix_get(f, &x.tensor);
    for (int64_t i = 0; i < x.n; i++) {
        assert_true(got[i] == 2);
    }
    free(got);
    train_free((train_array[]){x, scalar}, 2);
}

static void scales(fix *f) {
    scales_of(f, 19);
    scales_of(f, 24);
    scales_of(f, 32);
}

/* ---- optimisers ---- */

static void adamw_of(fix *f, int64_t n) {
    const pico_train_ops *ops = train_ops(f);
    train_array p = train_vector(f, n, 1), g = train_vector(f, n, 1), m = train_vector(f, n, 0),
                v = train_vector(f, n, 0);
    for (uint64_t step = 1; step <= 4; step++) {
        const pico_adamw_args args = {.lr = 0.01f,
                                      .beta1 = 0.8f,
                                      .beta2 = 0.95f,
                                      .eps = 1e-8f,
                                      .weight_decay = 0.1f,
                                      .grad_scale = 0.5f,
                                      .step = step,
                                      .p = p.tensor,
                                      .grad = g.tensor,
                                      .m = m.tensor,
                                      .v = v.tensor};
        assert_int_equal(ops->adamw(f->self, &args), PICO_OK);
        ref_adamw(&args, p.value, g.value, m.value, v.value, n);
    }
    const train_array all[] = {p, m, v};
    for (int i = 0; i < 3; i++) {
        float *got = fix_get(f, &all[i].tensor);
        train_check_values("adamw", got, all[i].value, n, 1e-6);
        free(got);
    }
    train_free((train_array[]){p, g, m, v}, 4);
}

static void adamw(fix *f) {
    adamw_of(f, 777);
    adamw_of(f, 776);
}

static void muon(fix *f) {
    const pico_train_ops *ops = train_ops(f);
    const int64_t shapes[][2] = {{40, 24}, {24, 40}, {1, 33}, {16, 16}};
    for (int s = 0; s < 4; s++) {
        const int64_t rows = shapes[s][0], cols = shapes[s][1];
        train_array x = train_random(f, rows, cols, 0.2f), p = train_random(f, rows, cols, 1),
                    second = train_vector(f, rows > cols ? rows : cols, 0);
        const pico_muon_args args = {.lr = 0.02f,
                                     .beta2 = 0.95f,
                                     .weight_decay = 0.2f,
                                     .x = x.tensor,
                                     .p = p.tensor,
                                     .second = second.tensor};
        for (int step = 0; step < 2; step++) {
            assert_int_equal(ops->muon(f->self, &args), PICO_OK);
            ref_muon(&args, x.value, p.value, second.value, rows, cols);
        }
        const train_array all[] = {p, x, second};
        for (int i = 0; i < 3; i++) {
            float *got = fix_get(f, &all[i].tensor);
            train_check_values("muon", got, all[i].value, all[i].n, 2e-6);
            free(got);
        }
        train_free((train_array[]){x, p, second}, 3);
        fix_reset(f);
    }
}

/* A whole step in BF16 for several matrices, against the same in double precision. The products round
 * what they take and give; the rest is exact. */
enum { MUON_STEPS = 5, MUON_MOST = 5 };
static const float muon_factor[MUON_STEPS][3] = {
    {8.156554524902461f, -22.48329292557795f, 15.878769f},
    {4.042929935166739f, -2.808917465908714f, 0.5000178f},
    {3.8916678022926607f, -2.7724841532176f, 0.50606481f},
    {3.285753657755655f, -2.3681294933425f, 0.464490242f},
    {2.3465413258596377f, -1.7097828382687f, 0.42323551f}};

/* c (m, n) = a b; turned: the factor is stored the other way. */
static void multiply(double *c, const double *a, int turn_a, const double *b, int turn_b, int64_t m,
                     int64_t n, int64_t k) {
    for (int64_t i = 0; i < m * n; i++) {
        const int64_t row = i / n, col = i % n;
        c[i] = 0;
        for (int64_t l = 0; l < k; l++) {
            c[i] += a[turn_a ? l * m + row : row * k + l] * b[turn_b ? col * k + l : l * n + col];
        }
    }
}

static void ref_polar(double *x, int64_t rows, int64_t cols) {
    const int tall = rows > cols;
    const int64_t side = tall ? cols : rows, n = rows * cols;
    double *y = malloc((size_t)(2 * side * side + n) * sizeof *y), *z = y + side * side,
           *next = z + side * side, square = 0;
    for (int64_t i = 0; i < n; i++) {
        square += x[i] * x[i];
    }
    for (int64_t i = 0; i < n; i++) {
        x[i] /= 1.02 * sqrt(square) + 1e-6;
    }
    for (int step = 0; step < MUON_STEPS; step++) {
        const double a = (double)muon_factor[step][0], b = (double)muon_factor[step][1],
                     c = (double)muon_factor[step][2];
        multiply(y, x, tall, x, !tall, side, side, tall ? rows : cols);
        multiply(z, y, 0, y, 0, side, side, side);
        for (int64_t i = 0; i < side * side; i++) {
            z[i] = b * y[i] + c * z[i];
        }
        multiply(next, tall ? x : z, 0, tall ? z : x, 0, rows, cols, side);
        for (int64_t i = 0; i < n; i++) {
            x[i] = a * x[i] + next[i];
        }
    }
    free(y);
}

/* A contiguous matrix. */
static train_array whole_matrix(fix *f, int64_t rows, int64_t cols, float size) {
    float *x = fix_floats(f, rows * cols, size);
    train_array a = train_values(f, x, rows, cols);
    a.tensor = fix_tensor(f, PICO_DTYPE_F32, x, rows, cols, cols);
    free(x);
    return a;
}

static void muon_many_of(fix *f, const pico_train_ops *ops, uint32_t n, int64_t rows,
                         int64_t cols) {
    train_array grad[MUON_MOST], p[MUON_MOST], m[MUON_MOST], second[MUON_MOST];
    pico_muon_matrix matrix[MUON_MOST];
    const int64_t count = rows * cols, longer = rows > cols ? rows : cols;
    for (uint32_t i = 0; i < n; i++) {
        grad[i] = whole_matrix(f, rows, cols, 1);
        p[i] = whole_matrix(f, rows, cols, 0.01f);
        m[i] = whole_matrix(f, rows, cols, 0.1f);
        second[i] = train_vector(f, longer, 0);
        matrix[i] = (pico_muon_matrix){.grad = grad[i].tensor,
                                       .p = p[i].tensor,
                                       .momentum = m[i].tensor,
                                       .second = second[i].tensor};
    }
    const pico_muon_many_args args = {.n = n,
                                      .n_step = MUON_STEPS,
                                      .compute = PICO_COMPUTE_BF16,
                                      .momentum = 0.9f,
                                      .grad_scale = 0.5f,
                                      .lr = 0.02f,
                                      .beta2 = 0.95f,
                                      .weight_decay = 0.2f,
                                      .factor = muon_factor[0],
                                      .matrix = matrix};
    const pico_muon_args last = {.lr = 0.02f, .beta2 = 0.95f, .weight_decay = 0.2f};
    double *x = malloc((size_t)count * sizeof *x);
    for (int step = 0; step < 2; step++) {
        assert_int_equal(ops->muon_many(f->self, &args), PICO_OK);
        for (uint32_t i = 0; i < n; i++) {
            const double fresh = (1 - (double)0.9f) * 0.5;
            for (int64_t k = 0; k < count; k++) {
                m[i].value[k] = (double)0.9f * m[i].value[k] + fresh * grad[i].value[k];
                x[k] = fresh * grad[i].value[k] + (double)0.9f * m[i].value[k];
            }
            ref_polar(x, rows, cols);
            ref_muon(&last, x, p[i].value, second[i].value, rows, cols);
        }
    }
    free(x);
    for (uint32_t i = 0; i < n; i++) {
        const train_array all[] = {m[i], second[i], p[i]};
        const double share[] = {1e-6, 0.12, 0.05}; /* of 8 bits, squared */
        for (int k = 0; k < 3; k++) {
            float *got = fix_get(f, &all[k].tensor);
            train_check_values("muon_many", got, all[k].value, all[k].n, share[k]);
            free(got);
        }
        train_free((train_array[]){grad[i], p[i], m[i], second[i]}, 4);
    }
    fix_reset(f);
}

static void muon_many(fix *f) {
    const pico_train_ops *ops = train_ops(f);
    const size_t end = offsetof(pico_train_ops, muon_many) + sizeof ops->muon_many;
    if (ops->struct_size < end || ops->muon_many == NULL) {
        return;
    }
    muon_many_of(f, ops, 1, 40, 24);
    muon_many_of(f, ops, 3, 24, 72);
    muon_many_of(f, ops, 5, 13, 30);
    muon_many_of(f, ops, 2, 150, 17);
    muon_many_of(f, ops, 1, 1, 33);
}

/* ---- the tests ---- */

#define EACH(name)                                                                                 \
    static void test_##name(void **state) {                                                        \
        (void)state;                                                                               \
        fix_each(name);                                                                            \
    }
EACH(products)
EACH(products_see_changes)
EACH(narrow_tensors)
EACH(products_refuse)
EACH(tables)
EACH(norms)
EACH(activations)
EACH(caps)
EACH(gates)
EACH(reductions)
EACH(scales)
EACH(adamw)
EACH(muon)
EACH(muon_many)

/* Sums whose terms several threads share, with one thread and with two. */
static void threads_change_no_bit(void **state) {
    (void)state;
    if (fix_other() != NULL) {
        return; /* another backend has its own threads */
    }
    for (uint32_t isa = FIX_PORTABLE; isa <= FIX_AVX512; isa++) {
        float *result[2][3];
        for (uint32_t threads = 1; threads <= 2; threads++) {
            fix f;
            if (!fix_open(&f, isa, threads)) {
                return;
            }
            const pico_train_ops *ops = train_ops(&f);
            train_array x = train_random(&f, 700, 90, 1), y = train_random(&f, 700, 130, 1),
                        w = train_random(&f, 90, 130, 1), sum = train_vector(&f, 90, 1),
                        dot = train_vector(&f, 1, 1);
            const pico_gemm_args product = {.transpose_a = 1,
                                            .alpha = 1,
                                            .beta = 1,
                                            .a = x.tensor,
                                            .b = y.tensor,
                                            .c = w.tensor};
            pico_reduce_args reduce = {
                .kind = PICO_REDUCE_COLUMN_SUM, .factor = 1, .x = x.tensor, .out = sum.tensor};
            assert_int_equal(ops->gemm(f.self, &product), PICO_OK);
            assert_int_equal(ops->reduce(f.self, &reduce), PICO_OK);
            reduce.kind = PICO_REDUCE_NORM;
            reduce.out = dot.tensor;
            assert_int_equal(ops->reduce(f.self, &reduce), PICO_OK);
            result[threads - 1][0] = fix_get(&f, &w.tensor);
            result[threads - 1][1] = fix_get(&f, &sum.tensor);
            result[threads - 1][2] = fix_get(&f, &dot.tensor);
            train_free((train_array[]){x, y, w, sum, dot}, 5);
            fix_close(&f);
        }
        const int64_t n[] = {90 * 130, 90, 1};
        for (int i = 0; i < 3; i++) {
            fix_same_bits(result[0][i], result[1][i], n[i]);
            free(result[0][i]);
            free(result[1][i]);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_products_refuse),
        cmocka_unit_test(test_products_see_changes),
        cmocka_unit_test(test_narrow_tensors),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_caps),
        cmocka_unit_test(test_gates),
        cmocka_unit_test(test_reductions),
        cmocka_unit_test(test_scales),
        cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_muon),
        cmocka_unit_test(test_muon_many),
        cmocka_unit_test(threads_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
