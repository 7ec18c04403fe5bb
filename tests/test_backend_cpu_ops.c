/* layers: util */
/* backend_cpu: the ops over rows against the oracle: norm, rope, activations, gate, axpby, softcap,
 * logit edits, argmax, top-k. Every width leaves another tail. */
#include "backend_cpu_fixture.h"

static const int64_t widths[] = {1, 3, 16, 31, 33, 64, 65, 768};
#define N_WIDTH (sizeof widths / sizeof *widths)

/* Norms with and without weight, bias and scale, in place and not, over heads, strided. */
static void norms(fix *f) {
    for (size_t w = 0; w < N_WIDTH; w++) {
        const int64_t n = widths[w], rows = 3, heads = 2;
        float *x = fix_floats(f, rows * heads * n, 3);
        float *weight = fix_floats(f, n, 1), *bias = fix_floats(f, n, 1);
        double *want = malloc(sizeof(double) * (size_t)(rows * heads * n));
        for (uint32_t mode = 0; mode < 8; mode++) {
            const uint32_t kind = mode & 1 ? PICO_NORM_LAYER : PICO_NORM_RMS;
            const float scale = mode & 4 ? 1.25f : 1;
            pico_norm_args args = {.kind = kind, .eps = 1e-5f, .scale = scale};
            args.x = fix_heads(fix_f32(f, x, rows, heads * n), heads);
            args.y = mode & 4 ? args.x : fix_heads(fix_f32(f, NULL, rows, heads * n), heads);
            if (mode & 2) {
                args.weight = fix_vector(f, PICO_DTYPE_F32, weight, n);
                args.bias = fix_vector(f, PICO_DTYPE_F32, bias, n);
            }
            for (int64_t r = 0; r < rows * heads; r++) {
                ref_norm(kind, (double)1e-5f, (double)scale, x + r * n, mode & 2 ? weight : NULL,
                         mode & 2 ? bias : NULL, want + r * n, n);
            }
            assert_int_equal(f->ops->norm(f->self, &args), PICO_OK);
            float *got = fix_get(f, &args.y);
            fix_close_to(got, want, rows * heads * n, 1e-10);
            free(got);
        }
        free(x);
        free(weight);
        free(bias);
        free(want);
        fix_reset(f);
    }
}

static void norms_match_the_oracle(void **state) {
    (void)state;
    fix_each(norms);
}

/* Both layouts and directions, whole and partial heads; what does not rotate is untouched. */
static void ropes(fix *f) {
    static const int64_t dims[][2] = {{2, 2}, {8, 8}, {64, 64}, {64, 32}, {34, 34}, {80, 10}};
    const int64_t rows = 5, heads = 3;
    static const int32_t pos[] = {0, 7, 3, 3, 8};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        const int64_t n = dims[i][0], rot = dims[i][1];
        float *x = fix_floats(f, rows * heads * n, 1);
        float *c = fix_floats(f, 9 * rot / 2, 1), *s = fix_floats(f, 9 * rot / 2, 1);
        double *want = malloc(sizeof(double) * (size_t)(rows * heads * n));
        for (uint32_t mode = 0; mode < 4; mode++) {
            pico_rope_args args = {.layout = mode & 1 ? PICO_ROPE_HALVES : PICO_ROPE_PAIRS,
                                   .reverse = mode >> 1,
                                   .rope_dim = (uint32_t)rot,
                                   .x = fix_heads(fix_f32(f, x, rows, heads * n), heads),
                                   .pos = fix_vector(f, PICO_DTYPE_I32, pos, rows),
                                   .cos = fix_f32(f, c, 9, rot / 2),
                                   .sin = fix_f32(f, s, 9, rot / 2)};
            for (int64_t r = 0; r < rows * heads; r++) {
                const int64_t at = pos[r / heads] * (rot / 2);
                ref_rope(args.layout, (int)args.reverse, rot, n, x + r * n, c + at, s + at,
                         want + r * n);
            }
            assert_int_equal(f->ops->rope(f->self, &args), PICO_OK);
            float *got = fix_get(f, &args.x);
            fix_close_to(got, want, rows * heads * n, 1e-12);
            free(got);
        }
        free(x);
        free(c);
        free(s);
        free(want);
        fix_reset(f);
    }
}

static void ropes_match_the_oracle(void **state) {
    (void)state;
    fix_each(ropes);
}

/* Every activation, with and without gate, near the oracle for small, ordinary and huge inputs. */
static void activations(fix *f) {
    static const float sizes[] = {0.01f, 1, 8, 60, 1000};
    for (uint32_t kind = PICO_ACT_SILU; kind <= PICO_ACT_RELU_SQUARED; kind++) {
        for (size_t w = 0; w < N_WIDTH; w++) {
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                const int64_t n = 4 * widths[w];
                float *x = fix_floats(f, n, sizes[s]), *gate = fix_floats(f, n, 2);
                double *want = malloc(sizeof(double) * (size_t)n);
                for (int gated = 0; gated < 2; gated++) {
                    pico_act_args args = {.kind = kind, .x = fix_f32(f, x, 4, widths[w])};
                    args.y = gated ? fix_f32(f, NULL, 4, widths[w]) : args.x;
                    if (gated) {
                        args.gate = fix_f32(f, gate, 4, widths[w]);
                    }
                    for (int64_t i = 0; i < n; i++) {
                        want[i] =
                            ref_activation(kind, (double)x[i]) * (gated ? (double)gate[i] : 1);
                    }
                    assert_int_equal(f->ops->activation(f->self, &args), PICO_OK);
                    float *got = fix_get(f, &args.y);
                    fix_close_to(got, want, n, 1e-11);
                    for (int64_t i = 0; i < n; i++) {
                        const double limit = 3e-7 * (1 + fabs((double)x[i])) + 2e-6 * fabs(want[i]);
                        assert_true(fabs((double)got[i] - want[i]) <= 3 * limit);
                    }
                    free(got);
                }
                free(x);
                free(gate);
                free(want);
                fix_reset(f);
            }
        }
    }
}

static void activations_match_the_oracle(void **state) {
    (void)state;
    fix_each(activations);
}

/* gate, axpby and softcap, with scalars in device memory and without. */
static void mixes(fix *f) {
    const float three = 3;
    for (size_t w = 0; w < N_WIDTH; w++) {
        const int64_t n = widths[w], rows = 3, heads = 2, all = rows * heads * n;
        float *g = fix_floats(f, rows * heads, 4), *u = fix_floats(f, all, 2);
        float *y = fix_floats(f, all, 2);
        double *want = malloc(sizeof(double) * (size_t)all);
        pico_tensor scalar = fix_vector(f, PICO_DTYPE_F32, &three, 1);
        for (int with = 0; with < 2; with++) {
            pico_gate_args gate = {.factor = 0.5f,
                                   .g = fix_f32(f, g, rows, heads),
                                   .u = fix_heads(fix_f32(f, u, rows, heads * n), heads),
                                   .y = fix_heads(fix_f32(f, y, rows, heads * n), heads)};
            pico_axpby_args axpby = {.a = 0.25f,
                                     .b = -2,
                                     .x = fix_f32(f, u, rows, heads * n),
                                     .y = fix_f32(f, y, rows, heads * n)};
            if (with) {
                gate.scalar = scalar;
                axpby.a_scalar = scalar;
                axpby.b_scalar = scalar;
            }
            for (int64_t i = 0; i < all; i++) {
                want[i] = (double)y[i] +
                          (with ? 1.5 : 0.5) * ref_sigmoid((double)g[i / n]) * (double)u[i];
            }
            assert_int_equal(f->ops->gate(f->self, &gate), PICO_OK);
            float *got = fix_get(f, &gate.y);
            fix_close_to(got, want, all, 1e-12);
            free(got);
            for (int64_t i = 0; i < all; i++) {
                want[i] = (with ? 3 : 1) * (0.25 * (double)u[i] - 2 * (double)y[i]);
            }
            assert_int_equal(f->ops->axpby(f->self, &axpby), PICO_OK);
            got = fix_get(f, &axpby.y);
            fix_close_to(got, want, all, 1e-12);
            free(got);
        }
        /* b = 0 replaces whatever is there, NaN included */
        pico_axpby_args fresh = {
            .a = 2, .x = fix_f32(f, u, rows, heads * n), .y = fix_f32(f, NULL, rows, heads * n)};
        assert_int_equal(f->ops->axpby(f->self, &fresh), PICO_OK);
        float *got = fix_get(f, &fresh.y);
        for (int64_t i = 0; i < all; i++) {
            assert_true((double)got[i] == 2 * (double)u[i]);
        }
        free(got);
        for (float cap = 0.5f; cap < 40; cap *= 4) {
            pico_softcap_args softcap = {.cap = cap, .x = fix_f32(f, y, rows, heads * n)};
            for (int64_t i = 0; i < all; i++) {
                want[i] = ref_softcap((double)cap, (double)y[i]);
            }
            assert_int_equal(f->ops->softcap(f->self, &softcap), PICO_OK);
            got = fix_get(f, &softcap.x);
            fix_close_to(got, want, all, 1e-12);
            free(got);
        }
        free(g);
        free(u);
        free(y);
        free(want);
        fix_reset(f);
    }
}

static void mixes_match_the_oracle(void **state) {
    (void)state;
    fix_each(mixes);
}

static void edits(fix *f) {
    const int64_t rows = 4, vocab = 100, n = 37;
    float *z = fix_floats(f, rows * vocab, 5), *sub = fix_floats(f, n, 1);
    float *rep = fix_floats(f, n, 0.5f), *bias = fix_floats(f, n, 3);
    double *want = malloc(sizeof(double) * (size_t)(rows * vocab));
    int32_t row[37], token[37];
    for (int64_t i = 0; i < rows * vocab; i++) {
        want[i] = (double)z[i];
    }
    for (int32_t e = 0; e < n; e++) {
        row[e] = e % 4;
        token[e] = (e * 13) % 100;
        rep[e] += 1.5f;
        double *cell = &want[row[e] * vocab + token[e]];
        *cell = ref_logit_edit(*cell, (double)sub[e], (double)rep[e], (double)bias[e]);
    }
    pico_logit_edit_args args = {.logits = fix_f32(f, z, rows, vocab),
                                 .row = fix_vector(f, PICO_DTYPE_I32, row, n),
                                 .token = fix_vector(f, PICO_DTYPE_I32, token, n),
                                 .sub = fix_vector(f, PICO_DTYPE_F32, sub, n),
                                 .rep = fix_vector(f, PICO_DTYPE_F32, rep, n),
                                 .bias = fix_vector(f, PICO_DTYPE_F32, bias, n)};
    assert_int_equal(f->ops->logit_edit(f->self, &args), PICO_OK);
    float *got = fix_get(f, &args.logits);
    fix_close_to(got, want, rows * vocab, 1e-13);
    free(got);
    free(z);
    free(sub);
    free(rep);
    free(bias);
    free(want);
}

static void edits_change_what_they_name(void **state) {
    (void)state;
    fix_each(edits);
}

/* One row of logits: argmax and top-k for several k against the oracle. */
static void check_selection(fix *f, const float *z, int64_t n) {
    static const uint32_t ks[] = {1, 2, 40, 100};
    pico_argmax_args best = {.logits = fix_f32(f, z, 1, n),
                             .index = fix_vector(f, PICO_DTYPE_I32, NULL, 1)};
    assert_int_equal(f->ops->argmax(f->self, &best), PICO_OK);
    float *got = fix_get(f, &best.index);
    int32_t index;
    memcpy(&index, got, 4);
    assert_int_equal(index, ref_argmax(z, n));
    free(got);
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        const uint32_t k = ks[i] < n ? ks[i] : (uint32_t)n;
        pico_top_k_args args = {.logits = best.logits,
                                .k = k,
                                .inv_temperature = 0.7f,
                                .index = fix_tensor(f, PICO_DTYPE_I32, NULL, 1, k, k + 2),
                                .value = fix_f32(f, NULL, 1, k),
                                .log_sum = fix_vector(f, PICO_DTYPE_F32, NULL, 1)};
        assert_int_equal(f->ops->top_k(f->self, &args), PICO_OK);
        float *indices = fix_get(f, &args.index), *values = fix_get(f, &args.value);
        float *log_sum = fix_get(f, &args.log_sum);
        int32_t want_index[100];
        float want_value[100];
        ref_top_k(z, n, k, want_index, want_value);
        assert_memory_equal(indices, want_index, k * 4);
        fix_same_bits(values, want_value, k);
        const double want = ref_log_sum(z, n, (double)0.7f);
        if (isfinite(want)) {
            assert_true(fabs((double)*log_sum - want) <= 2e-6 * (1 + fabs(want)));
        }
        free(indices);
        free(values);
        free(log_sum);
    }
    fix_reset(f);
}

/* Random rows, ties, NaN, infinities, rows in order and in reverse. */
static void selections(fix *f) {
    static const int64_t sizes[] = {1, 2, 31, 33, 65, 1000, 32003};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const int64_t n = sizes[s];
        float *z = fix_floats(f, n, 20);
        check_selection(f, z, n);
        for (int64_t i = 0; i < n; i++) { /* many ties */
            z[i] = floorf(z[i] / 5);
        }
        check_selection(f, z, n);
        for (int64_t i = 0; i < n; i++) {
            z[i] = (float)(i % 2000);
        }
        check_selection(f, z, n);
        for (int64_t i = 0; i < n; i++) {
            z[i] = i % 7 == 3 ? NAN : i % 11 == 0 ? -INFINITY : -fabsf(fix_float(f, 9));
        }
        check_selection(f, z, n);
        for (int64_t i = 0; i < n; i++) {
            z[i] = i < n / 2 ? NAN : -INFINITY;
        }
        check_selection(f, z, n);
        for (int64_t i = 0; i < n; i++) {
            z[i] = i == n / 2 ? INFINITY : i % 2 == 0 ? 0.0f : -0.0f;
        }
        check_selection(f, z, n);
        for (int64_t i = 0; i < n; i++) {
            z[i] = NAN;
        }
        check_selection(f, z, n);
        free(z);
    }
}

static void selections_match_the_oracle(void **state) {
    (void)state;
    fix_each(selections);
}

/* What does not fit together is refused, and nothing is written. */
static void refusals(fix *f) {
    pico_tensor x = fix_f32(f, NULL, 2, 16), narrow = fix_f32(f, NULL, 2, 15);
    pico_tensor pos = fix_vector(f, PICO_DTYPE_I32, NULL, 2);
    pico_norm_args norm = {.kind = PICO_NORM_RMS, .scale = 1, .x = x, .y = narrow};
    assert_int_equal(f->ops->norm(f->self, &norm), PICO_E_INVALID);
    norm = (pico_norm_args){.kind = 9, .scale = 1, .x = x, .y = x};
    assert_int_equal(f->ops->norm(f->self, &norm), PICO_E_INVALID);
    norm = (pico_norm_args){.kind = PICO_NORM_RMS, .scale = 1, .x = x, .y = x, .weight = narrow};
    assert_int_equal(f->ops->norm(f->self, &norm), PICO_E_INVALID);
    pico_act_args act = {.kind = 5, .x = x, .y = x};
    assert_int_equal(f->ops->activation(f->self, &act), PICO_E_INVALID);
    act = (pico_act_args){.kind = PICO_ACT_SILU, .x = x, .y = x, .gate = narrow};
    assert_int_equal(f->ops->activation(f->self, &act), PICO_E_INVALID);
    pico_rope_args rope = {.layout = PICO_ROPE_PAIRS,
                           .rope_dim = 18,
                           .x = fix_heads(x, 1),
                           .pos = pos,
                           .cos = fix_f32(f, NULL, 4, 9),
                           .sin = fix_f32(f, NULL, 4, 9)};
    assert_int_equal(f->ops->rope(f->self, &rope), PICO_E_INVALID);
    pico_softcap_args softcap = {.cap = 0, .x = x};
    assert_int_equal(f->ops->softcap(f->self, &softcap), PICO_E_INVALID);
    pico_axpby_args axpby = {.a = 1, .x = x, .y = narrow};
    assert_int_equal(f->ops->axpby(f->self, &axpby), PICO_E_INVALID);
    pico_top_k_args top = {.logits = x,
                           .k = 17,
                           .inv_temperature = 1,
                           .index = fix_tensor(f, PICO_DTYPE_I32, NULL, 2, 17, 17),
                           .value = fix_f32(f, NULL, 2, 17),
                           .log_sum = fix_vector(f, PICO_DTYPE_F32, NULL, 2)};
    assert_int_equal(f->ops->top_k(f->self, &top), PICO_E_INVALID);
    free(fix_get(f, &x)); /* guards */
}

static void bad_arguments_are_refused(void **state) {
    (void)state;
    fix_each(refusals);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_match_the_oracle),
        cmocka_unit_test(ropes_match_the_oracle),
        cmocka_unit_test(activations_match_the_oracle),
        cmocka_unit_test(mixes_match_the_oracle),
        cmocka_unit_test(edits_change_what_they_name),
        cmocka_unit_test(selections_match_the_oracle),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
