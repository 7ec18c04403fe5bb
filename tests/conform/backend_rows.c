/*
 * Backends: ops over rows against the oracle, for every width that leaves another tail, strided
 * rows and no rows; logit edits, argmax and top-k.
 */
#include <math.h>

#include "conform/device.h"

static const int64_t widths[] = {1, 2, 15, 16, 31, 33, 64, 100, 257};
enum { N_WIDTH = sizeof widths / sizeof *widths };
static const int64_t row_counts[] = {0, 1, 2, 31, 33};
enum { N_ROWS = sizeof row_counts / sizeof *row_counts };

/* Runs body for every width, number of rows and gap between rows. */
#define FOR_SHAPES(rows, width, gap)                                                               \
    for (size_t i_ = 0; i_ < N_WIDTH * N_ROWS * 2; i_++)                                           \
        for (int64_t width = widths[i_ / 2 % N_WIDTH], rows = row_counts[i_ / 2 / N_WIDTH],        \
                     gap = i_ % 2 == 0 ? 0 : 5, once_ = 1;                                         \
             once_; once_ = 0)

static double *doubles(dev *d, int64_t n) {
    return conform_alloc(d->c, (size_t)n, sizeof(double));
}

/* ---- norm, activation, softcap, gate, axpby ---- */

static void norm_follows_the_oracle(conform *c) {
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 512);
    FOR_SHAPES(rows, width, gap) {
        for (uint32_t mode = 0; mode < 8; mode++) {
            uint32_t kind = mode & 1 ? PICO_NORM_LAYER : PICO_NORM_RMS;
            int64_t heads = mode & 4 ? 3 : 1;
            float *x = dev_random(&d, rows * heads * width, 2);
            float *weight = dev_random(&d, width, 1), *bias = dev_random(&d, width, 1);
            double *want = doubles(&d, rows * heads * width);
            pico_tensor in = dev_tensor(&d, PICO_DTYPE_F32, x, rows, heads * width, gap);
            pico_tensor out =
                mode & 2 ? in : dev_tensor(&d, PICO_DTYPE_F32, NULL, rows, heads * width, gap);
            pico_norm_args args = {.kind = kind,
                                   .eps = 1e-5f,
                                   .scale = mode & 2 ? 1.2f : 1,
                                   .x = mode & 4 ? dev_heads(&in, heads) : in,
                                   .y = mode & 4 ? dev_heads(&out, heads) : out};
            if (mode & 1) {
                args.weight = dev_vector(&d, PICO_DTYPE_F32, weight, width);
                args.bias = dev_vector(&d, PICO_DTYPE_F32, bias, width);
            }
            for (int64_t r = 0; r < rows * heads; r++) {
                ref_norm(kind, (double)args.eps, (double)args.scale, x + r * width,
                         mode & 1 ? weight : NULL, mode & 1 ? bias : NULL, want + r * width, width);
            }
            dev_ok(&d, d.ops->norm(d.self, &args), "norm");
            float *got = dev_get(&d, &out);
            if (width > 1 || kind == PICO_NORM_RMS) { /* one value minus its mean is nothing */
                dev_near(&d, "norm", got, want, rows * heads * width, 1e-10);
            }
            dev_check_guards(&d, "norm");
            dev_reset(&d);
            free(x), free(weight), free(bias), free(want), free(got);
        }
    }
}

static void activations_follow_the_oracle(conform *c) {
    char skipped[64] = "";
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 512);
    for (uint32_t kind = PICO_ACT_SILU; kind <= PICO_ACT_RELU_SQUARED; kind++) {
        if (d.ops->supports(d.self, PICO_OP_ACT, kind) != PICO_OK) {
            (void)snprintf(skipped + strlen(skipped), sizeof skipped - strlen(skipped), " %u",
                           kind);
            continue;
        }
        FOR_SHAPES(rows, width, gap) {
            float *x = dev_random(&d, rows * width, 8), *g = dev_random(&d, rows * width, 2);
            double *want = doubles(&d, rows * width);
            int gated = (i_ & 4) != 0;
            for (int64_t i = 0; i < rows * width; i++) {
                want[i] = ref_activation(kind, (double)x[i]) * (gated ? (double)g[i] : 1);
            }
            pico_act_args args = {.kind = kind,
                                  .x = dev_tensor(&d, PICO_DTYPE_F32, x, rows, width, gap)};
            args.y = i_ & 8 ? args.x : dev_tensor(&d, PICO_DTYPE_F32, NULL, rows, width, gap);
            if (gated) {
                args.gate = dev_tensor(&d, PICO_DTYPE_F32, g, rows, width, 2 * gap);
            }
            dev_ok(&d, d.ops->activation(d.self, &args), "activation");
            float *got = dev_get(&d, &args.y);
            dev_near(&d, "activation", got, want, rows * width, 1e-9);
            dev_check_guards(&d, "activation");
            dev_reset(&d);
            free(x), free(g), free(want), free(got);
        }
    }
    if (skipped[0] != '\0') {
        conform_skip(c, "the others pass; activations not supported:%s", skipped);
    }
}

/* Infinite and huge inputs give what the limit gives, not NaN. */
static void activations_have_their_limits(conform *c) {
    const float x[6] = {-INFINITY, -1e30f, -100, 100, 1e15f, 0};
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 64);
    for (uint32_t kind = PICO_ACT_SILU; kind <= PICO_ACT_RELU_SQUARED; kind++) {
        if (d.ops->supports(d.self, PICO_OP_ACT, kind) != PICO_OK) {
            continue;
        }
        pico_tensor in = dev_tensor(&d, PICO_DTYPE_F32, x, 1, 6, 0);
        pico_act_args args = {.kind = kind, .x = in, .y = in};
        dev_ok(&d, d.ops->activation(d.self, &args), "activation");
        float *got = dev_get(&d, &in);
        for (uint32_t i = 1; i < 3; i++) {
            CHECK(c, fabsf(got[i]) < 1e-30f, "activation %u of %g is %g", kind, (double)x[i],
                  (double)got[i]);
        }
        double big = kind == PICO_ACT_RELU_SQUARED ? 1e30 : 1e15;
        CHECK(c, fabs((double)got[4] / big - 1) < 1e-6, "activation %u of 1e15 is %g", kind,
              (double)got[4]);
        CHECK(c, got[5] == 0, "activation %u of 0 is %g", kind, (double)got[5]);
        free(got);
    }
}

static void softcap_gate_axpby_follow_the_oracle(conform *c) {
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 1024);
    FOR_SHAPES(rows, width, gap) {
        const float half = 0.5f;
        int64_t n = rows * width, heads = 3;
        float *x = dev_random(&d, n * heads, 30), *y = dev_random(&d, n * heads, 2);
        float *g = dev_random(&d, rows * heads, 4);
        double *want = doubles(&d, n * heads);
        /* softcap, in place */
        pico_softcap_args cap = {.cap = 15,
                                 .x = dev_tensor(&d, PICO_DTYPE_F32, x, rows, width, gap)};
        for (int64_t i = 0; i < n; i++) {
            want[i] = ref_softcap(15, (double)x[i]);
        }
        dev_ok(&d, d.ops->softcap(d.self, &cap), "softcap");
        dev_near(&d, "softcap", dev_get(&d, &cap.x), want, n, 1e-10);
        /* y = a x + b y with a scalar on the device */
        pico_axpby_args sum = {.a = 0.7f,
                               .b = -1.5f,
                               .x = dev_tensor(&d, PICO_DTYPE_F32, x, rows, width, gap),
                               .y = dev_tensor(&d, PICO_DTYPE_F32, y, rows, width, 2 * gap)};
        sum.a_scalar = i_ % 3 == 0 ? (pico_tensor){0} : dev_vector(&d, PICO_DTYPE_F32, &half, 1);
        sum.b_scalar = i_ % 3 == 1 ? (pico_tensor){0} : dev_vector(&d, PICO_DTYPE_F32, &half, 1);
        for (int64_t i = 0; i < n; i++) {
            double a = (double)sum.a * (i_ % 3 == 0 ? 1 : 0.5);
            double b = (double)sum.b * (i_ % 3 == 1 ? 1 : 0.5);
            want[i] = a * (double)x[i] + b * (double)y[i];
        }
        dev_ok(&d, d.ops->axpby(d.self, &sum), "axpby");
        dev_near(&d, "axpby", dev_get(&d, &sum.y), want, n, 1e-12);
        /* y += factor sigmoid(g) u over heads */
        pico_tensor u = dev_tensor(&d, PICO_DTYPE_F32, x, rows, heads * width, gap);
        pico_tensor to = dev_tensor(&d, PICO_DTYPE_F32, y, rows, heads * width, gap);
        pico_gate_args gate = {.factor = 3,
                               .g = dev_tensor(&d, PICO_DTYPE_F32, g, rows, heads, 0),
                               .u = dev_heads(&u, heads),
                               .y = dev_heads(&to, heads)};
        gate.scalar = i_ % 2 == 0 ? (pico_tensor){0} : dev_vector(&d, PICO_DTYPE_F32, &half, 1);
        for (int64_t i = 0; i < n * heads; i++) {
            double factor = 3 * (i_ % 2 == 0 ? 1 : 0.5);
            want[i] = (double)y[i] + factor * ref_sigmoid((double)g[i / width]) * (double)x[i];
        }
        dev_ok(&d, d.ops->gate(d.self, &gate), "gate");
        dev_near(&d, "gate", dev_get(&d, &to), want, n * heads, 1e-11);
        dev_check_guards(&d, "softcap, axpby or gate");
        dev_reset(&d);
        free(x), free(y), free(g), free(want);
    }
}

/* ---- rope, embed ---- */

static void rope_follows_the_oracle(conform *c) {
    static const int64_t dims[][2] = {{2, 2}, {8, 8}, {34, 34}, {48, 48}, {64, 32}, {80, 10}};
    static const int32_t places[] = {0, 7, 3, 3, 8};
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 512);
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        int64_t width = dims[i][0], rot = dims[i][1], rows = 5, heads = 3;
        for (uint32_t mode = 0; mode < 8; mode++) {
            uint32_t layout = mode & 1 ? PICO_ROPE_HALVES : PICO_ROPE_PAIRS;
            if (d.ops->supports(d.self, PICO_OP_ROPE, layout) != PICO_OK) {
                continue;
            }
            float *x = dev_random(&d, rows * heads * width, 1);
            float *cs = dev_random(&d, 9 * rot / 2, 1), *sn = dev_random(&d, 9 * rot / 2, 1);
            double *want = doubles(&d, rows * heads * width);
            pico_tensor in =
                dev_tensor(&d, PICO_DTYPE_F32, x, rows, heads * width, mode & 4 ? 7 : 0);
            pico_rope_args args = {.layout = layout,
                                   .reverse = mode >> 1 & 1,
                                   .rope_dim = (uint32_t)rot,
                                   .x = dev_heads(&in, heads),
                                   .pos = dev_vector(&d, PICO_DTYPE_I32, places, rows),
                                   .cos = dev_tensor(&d, PICO_DTYPE_F32, cs, 9, rot / 2, 0),
                                   .sin = dev_tensor(&d, PICO_DTYPE_F32, sn, 9, rot / 2, 0)};
            for (int64_t r = 0; r < rows * heads; r++) {
                int64_t at = places[r / heads] * (rot / 2);
                ref_rope(layout, (int)args.reverse, rot, width, x + r * width, cs + at, sn + at,
                         want + r * width);
            }
            dev_ok(&d, d.ops->rope(d.self, &args), "rope");
            dev_near(&d, "rope", dev_get(&d, &in), want, rows * heads * width, 1e-12);
            dev_check_guards(&d, "rope");
            dev_reset(&d);
            free(x), free(cs), free(sn), free(want);
        }
    }
}

static void embed_follows_the_oracle(conform *c) {
    static const int32_t index[] = {3, 0, -1, 6, 3, -7, 2};
    char skipped[128] = "";
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 512);
    for (uint32_t dtype = PICO_DTYPE_F32; dtype <= PICO_DTYPE_NF4; dtype++) {
        if (dtype == PICO_DTYPE_I32) {
            continue;
        }
        if (d.ops->supports(d.self, PICO_OP_LOOKUP, dtype) != PICO_OK) {
            (void)snprintf(skipped + strlen(skipped), sizeof skipped - strlen(skipped), " %s",
                           dev_dtype(dtype));
            continue;
        }
        for (uint32_t mode = 0; mode < 6; mode++) {
            int64_t width = mode < 2 ? 64 : mode < 4 ? 96 : 33, n = mode == 5 ? 0 : 7;
            int blocks = dtype == PICO_DTYPE_Q8_0 || dtype == PICO_DTYPE_Q4_0;
            if (blocks && width % 32 != 0) {
                continue;
            }
            double *table = NULL, *want = doubles(&d, 7 * width);
            pico_weight_desc desc = dev_weight_desc(&d, dtype, 7, width, 32, &table);
            pico_weight *weight = dev_weight(&d, &desc, PICO_USE_LOOKUP);
            float *before = dev_random(&d, 7 * width, 1);
            pico_embed_args args = {
                .table = weight,
                .index = dev_vector(&d, PICO_DTYPE_I32, index, n),
                .out = dev_tensor(&d, PICO_DTYPE_F32, before, n, width, mode & 1 ? 3 : 0),
                .accumulate = mode & 1};
            for (int64_t i = 0; i < n * width; i++) {
                int32_t at = index[i / width];
                want[i] = (at < 0 ? 0 : table[at * width + i % width]) +
                          (mode & 1 ? (double)before[i] : 0);
            }
            dev_ok(&d, d.ops->embed(d.self, &args), "embed");
            dev_near(&d, "embed", dev_get(&d, &args.out), want, n * width, 1e-12);
            dev_check_guards(&d, "embed");
            d.ops->weight_free(d.self, weight);
            dev_reset(&d);
        }
    }
    if (skipped[0] != '\0') {
        conform_skip(c, "the others pass; not supported:%s", skipped);
    }
}

/* ---- logits ---- */

static void logit_edits_follow_the_oracle(conform *c) {
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 1024);
    for (int64_t n = 0; n <= 60; n += 20) {
        const int64_t rows = 3, vocab = 101;
        float *z = dev_random(&d, rows * vocab, 5);
        double *want = doubles(&d, rows * vocab);
        int32_t row[64], token[64];
        float sub[64], rep[64], bias[64];
        for (int64_t i = 0; i < rows * vocab; i++) {
            want[i] = (double)z[i];
        }
        for (int64_t i = 0; i < n; i++) { /* no place twice */
            row[i] = (int32_t)(i % rows);
            token[i] = (int32_t)(i / rows * 5 + i % 2);
            sub[i] = (float)rig_uniform(&c->random);
            rep[i] = i % 4 == 0 ? 1 : 1.3f;
            bias[i] = i % 5 == 0 ? 2.0f : 0;
            int64_t at = row[i] * vocab + token[i];
            want[at] =
                ref_logit_edit((double)z[at], (double)sub[i], (double)rep[i], (double)bias[i]);
        }
        pico_logit_edit_args args = {.logits = dev_tensor(&d, PICO_DTYPE_F32, z, rows, vocab, 0),
                                     .row = dev_vector(&d, PICO_DTYPE_I32, row, n),
                                     .token = dev_vector(&d, PICO_DTYPE_I32, token, n),
                                     .sub = dev_vector(&d, PICO_DTYPE_F32, sub, n),
                                     .rep = dev_vector(&d, PICO_DTYPE_F32, rep, n),
                                     .bias = dev_vector(&d, PICO_DTYPE_F32, bias, n)};
        dev_ok(&d, d.ops->logit_edit(d.self, &args), "logit_edit");
        dev_near(&d, "logit_edit", dev_get(&d, &args.logits), want, rows * vocab, 1e-12);
        dev_check_guards(&d, "logit_edit");
        dev_reset(&d);
    }
    const float z[2] = {1, 2}, one = 1, none = 0, ban = -INFINITY; /* a ban is -inf, not NaN */
    const int32_t first = 0;
    pico_logit_edit_args args = {.logits = dev_tensor(&d, PICO_DTYPE_F32, z, 1, 2, 0),
                                 .row = dev_vector(&d, PICO_DTYPE_I32, &first, 1),
                                 .token = dev_vector(&d, PICO_DTYPE_I32, &first, 1),
                                 .sub = dev_vector(&d, PICO_DTYPE_F32, &none, 1),
                                 .rep = dev_vector(&d, PICO_DTYPE_F32, &one, 1),
                                 .bias = dev_vector(&d, PICO_DTYPE_F32, &ban, 1)};
    dev_ok(&d, d.ops->logit_edit(d.self, &args), "logit_edit");
    float *got = dev_get(&d, &args.logits);
    CHECK(c, got[0] == -INFINITY && got[1] == 2, "a banned logit is %g", (double)got[0]);
}

/* Rows with ties, infinities and NaN. */
static float *odd_logits(dev *d, int64_t rows, int64_t vocab) {
    float *z = dev_random(d, rows * vocab, 10);
    for (int64_t r = 0; r < rows; r++) {
        float *row = z + r * vocab;
        for (int64_t i = 0; vocab > 4 && r % 4 == 1 && i < vocab; i += 3) {
            row[i] = 11; /* ties for the best */
        }
        for (int64_t i = 0; vocab > 4 && r % 4 == 2 && i < vocab; i += 2) {
            row[i] = i % 4 == 0 ? NAN : -INFINITY;
        }
        for (int64_t i = 0; r % 4 == 3 && i < vocab; i++) {
            row[i] = floorf(row[i]); /* many ties everywhere */
        }
    }
    return z;
}

static void argmax_and_top_k_follow_the_oracle(conform *c) {
    static const int64_t vocabs[] = {1, 2, 5, 31, 64, 100, 1000, 4097};
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 4097);
    for (size_t v = 0; v < sizeof vocabs / sizeof *vocabs; v++) {
        for (int64_t rows = 0; rows <= 8; rows += 4) {
            int64_t vocab = vocabs[v];
            float *z = odd_logits(&d, rows, vocab);
            pico_tensor logits = dev_tensor(&d, PICO_DTYPE_F32, z, rows, vocab, 0);
            pico_argmax_args best = {.logits = logits,
                                     .index = dev_vector(&d, PICO_DTYPE_I32, NULL, rows)};
            dev_ok(&d, d.ops->argmax(d.self, &best), "argmax");
            int32_t *index = dev_get_i32(&d, &best.index);
            for (int64_t r = 0; r < rows; r++) {
                int32_t want = ref_argmax(z + r * vocab, vocab);
                CHECK(c, index[r] == want, "argmax of %lld logits, row %lld: %d, expected %d",
                      (long long)vocab, (long long)r, index[r], want);
            }
            for (int64_t k = 1; k <= 64 && k <= vocab; k = k * 3 + 1) {
                int32_t want_index[64];
                float want_value[64];
                pico_top_k_args top = {.logits = logits,
                                       .k = (uint32_t)k,
                                       .inv_temperature = 1 / 0.7f,
                                       .index = dev_tensor(&d, PICO_DTYPE_I32, NULL, rows, k, 0),
                                       .value = dev_tensor(&d, PICO_DTYPE_F32, NULL, rows, k, 0),
                                       .log_sum = dev_vector(&d, PICO_DTYPE_F32, NULL, rows)};
                dev_ok(&d, d.ops->top_k(d.self, &top), "top_k");
                int32_t *got = dev_get_i32(&d, &top.index);
                float *value = dev_get(&d, &top.value), *sum = dev_get(&d, &top.log_sum);
                for (int64_t r = 0; r < rows; r++) {
                    ref_top_k(z + r * vocab, vocab, k, want_index, want_value);
                    int64_t real = 0; /* the order of NaN among themselves is nobody's business */
                    while (real < k && !isnan(want_value[real])) {
                        real++;
                    }
                    dev_same(&d, "top_k, index", got + r * k, want_index, real);
                    dev_same(&d, "top_k, value", value + r * k, want_value, real);
                    int has_nan = 0;
                    for (int64_t i = 0; i < vocab; i++) {
                        has_nan |= isnan(z[r * vocab + i]);
                    }
                    double want =
                        has_nan ? 0
                                : ref_log_sum(z + r * vocab, vocab, (double)top.inv_temperature);
                    CHECK(c, has_nan || fabs((double)sum[r] - want) <= 1e-5 * (1 + fabs(want)),
                          "top_k of %lld logits: log_sum is %.9g, expected %.9g", (long long)vocab,
                          (double)sum[r], want);
                }
            }
            dev_check_guards(&d, "argmax or top_k");
            dev_reset(&d);
            free(z);
        }
    }
}

const conform_test conform_backend_rows[] = {
    {"backend/norm", norm_follows_the_oracle},
    {"backend/activation", activations_follow_the_oracle},
    {"backend/activation_limits", activations_have_their_limits},
    {"backend/softcap_gate_axpby", softcap_gate_axpby_follow_the_oracle},
    {"backend/rope", rope_follows_the_oracle},
    {"backend/embed", embed_follows_the_oracle},
    {"backend/logit_edit", logit_edits_follow_the_oracle},
    {"backend/argmax_and_top_k", argmax_and_top_k_follow_the_oracle},
    {NULL, NULL}};
