/* layers: transform */
/*
 * The calibrated methods of compress_int4 against slow, clear references in double: GPTQ in its
 * published form, with the Cholesky factor of the inverse and the rest of the row updated after each
 * column, gives the same codes and scales, in order and by act_order, with scales from the largest
 * value and searched; AWQ picks the exponent that trying all of them picks. The references know the
 * plugin's formulas, not its arithmetic: no blocks, no threads, nothing packed.
 */
#include "conform/rig.h"
#include "int4_kit.h"
#include "util/half.h"

static const float codebook[16] = {-1.0f,
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

static double value_of(int nf4, int code, double scale) {
    return scale * (nf4 ? (double)codebook[code] : code - 8.0);
}

static int nearest(int nf4, double x, double scale) {
    int best = nf4 ? 7 : 8;
    for (int code = 0; code < 16; code++) {
        if (fabs(value_of(nf4, code, scale) - x) < fabs(value_of(nf4, best, scale) - x)) {
            best = code;
        }
    }
    return best;
}

/* Scales for a group: the one from its largest value, then shares of it. */
static size_t scales_for(int nf4, int search, const double *x, int64_t n, float *out) {
    static const double ratio[] = {1.0,  0.97, 1.03, 0.94, 1.06, 0.91, 0.88, 0.85,
                                   0.82, 0.78, 0.74, 0.70, 0.65, 0.60, 0.55};
    double extreme = 0;
    size_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        extreme = fabs(x[i]) > fabs(extreme) ? x[i] : extreme;
    }
    for (size_t i = 0; i < sizeof ratio / sizeof *ratio; i++) {
        if (nf4) {
            out[count++] = (float)(ratio[i] * fabs(extreme));
        } else {
            out[count++] = pico_f32_of_f16(pico_f16_of_f32((float)(ratio[i] * extreme / -8)));
            out[count++] = pico_f32_of_f16(pico_f16_of_f32((float)(ratio[i] * extreme / 7)));
        }
    }
    return search ? count : 1;
}

/* ---- moments ---- */

/* (cols, cols) mean of x x^T over what was run, and the sums of |x|. */
static double *moments(const int4_rig *r, uint32_t kind, int64_t cols, double *absolute) {
    double *h = calloc((size_t)(cols * cols), sizeof *h);
    float *x = malloc((size_t)cols * sizeof *x);
    assert_non_null(h);
    assert_non_null(x);
    memset(absolute, 0, (size_t)cols * sizeof *absolute);
    for (uint32_t row = 0; row < r->n_rows; row++) {
        int4_activations(row, kind, (uint32_t)cols, x);
        for (int64_t i = 0; i < cols; i++) {
            absolute[i] += fabs((double)x[i]);
            for (int64_t j = 0; j < cols; j++) {
                h[i * cols + j] += (double)x[i] * (double)x[j];
            }
        }
    }
    for (int64_t i = 0; i < cols * cols; i++) {
        h[i] /= r->n_rows;
    }
    free(x);
    return h;
}

/* Gauss-Jordan without pivoting, which positive definite matrices do not need. */
static double *inverse_of(const double *h, int64_t n) {
    double *a = malloc((size_t)(n * n) * sizeof *a), *inv = calloc((size_t)(n * n), sizeof *inv);
    assert_non_null(a);
    assert_non_null(inv);
    memcpy(a, h, (size_t)(n * n) * sizeof *a);
    for (int64_t i = 0; i < n; i++) {
        inv[i * n + i] = 1;
    }
    for (int64_t p = 0; p < n; p++) {
        const double pivot = a[p * n + p];
        for (int64_t j = 0; j < n; j++) {
            a[p * n + j] /= pivot;
            inv[p * n + j] /= pivot;
        }
        for (int64_t i = 0; i < n; i++) {
            const double factor = a[i * n + p];
            for (int64_t j = 0; i != p && j < n; j++) {
                a[i * n + j] -= factor * a[p * n + j];
                inv[i * n + j] -= factor * inv[p * n + j];
            }
        }
    }
    free(a);
    return inv;
}

/* Upper triangular u with u^T u = a, in place. */
static void cholesky(double *a, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = i; j < n; j++) {
            double sum = a[i * n + j];
            for (int64_t k = 0; k < i; k++) {
                sum -= a[k * n + i] * a[k * n + j];
            }
            a[i * n + j] = i == j ? sqrt(sum) : sum / a[i * n + i];
        }
    }
}

/* ---- GPTQ ---- */

typedef struct gptq_case {
    const char *format, *scale, *act_order;
    uint32_t head_dim, n_ff;
} gptq_case;

static void order_of(const double *h, int64_t n, int32_t *perm) {
    for (int64_t i = 0; i < n; i++) { /* insertion, stable */
        int64_t at = i;
        for (; at > 0 && h[perm[at - 1] * (n + 1)] < h[i * (n + 1)]; at--) {
            perm[at] = perm[at - 1];
        }
        perm[at] = (int32_t)i;
    }
}

/* Rounds columns begin..end of w, errors going to the columns up to `reach`. */
static double walk(int nf4, const double *u, int64_t n, double *w, int64_t begin, int64_t end,
                   int64_t reach, double scale, int *codes) {
    double cost = 0;
    for (int64_t c = begin; c < end; c++) {
        codes[c] = nearest(nf4, w[c], scale);
        const double error = (w[c] - value_of(nf4, codes[c], scale)) / u[c * n + c];
        cost += error * error;
        for (int64_t k = c + 1; k < reach; k++) {
            w[k] -= error * u[c * n + k];
        }
    }
    return cost;
}

static void reference_row(int nf4, int search, const double *u, int64_t n, double *w, int *codes,
                          float *scales) {
    const int64_t group = nf4 ? 64 : 32;
    double *trial = malloc((size_t)n * sizeof *trial);
    assert_non_null(trial);
    for (int64_t begin = 0; begin < n; begin += group) {
        const int64_t end = begin + group < n ? begin + group : n;
        float candidate[64];
        double least = INFINITY;
        const size_t count = scales_for(nf4, search, w + begin, end - begin, candidate);
        for (size_t k = 0; k < count; k++) {
            memcpy(trial, w, (size_t)n * sizeof *w);
            const double cost =
                walk(nf4, u, n, trial, begin, end, end, (double)candidate[k], codes);
            if (cost < least) {
                least = cost;
                scales[begin / group] = candidate[k];
            }
        }
        (void)walk(nf4, u, n, w, begin, end, n, (double)scales[begin / group], codes);
    }
    free(trial);
}

static float scale_of(const pico_weight_desc *w, int64_t row, int64_t g) {
    if (w->dtype == PICO_DTYPE_NF4) {
        return ((const float *)w->scales)[row * ((w->cols + 63) / 64) + g];
    }
    uint16_t half;
    memcpy(&half, (const uint8_t *)w->codes + (row * w->cols / 32 + g) * 18, sizeof half);
    return pico_f32_of_f16(half);
}

static void check_gptq(const int4_rig *r, const gptq_case *c, const char *name, uint32_t kind,
                       const float *before) {
    const pico_weight_desc *w = &int4_tensor(r, name)->data;
    const int nf4 = strcmp(c->format, "nf4") == 0, search = strcmp(c->scale, "search") == 0;
    const int64_t n = w->cols, group = nf4 ? 64 : 32;
    double absolute[512], row_w[512], mean = 0;
    int32_t perm[512];
    int codes[512];
    float scales[16];
    assert_true(n <= 512);
    double *h = moments(r, kind, n, absolute), *turned = malloc((size_t)(n * n) * sizeof *turned);
    assert_non_null(turned);
    for (int32_t i = 0; i < n; i++) {
        perm[i] = i;
        mean += h[i * (n + 1)] / (double)n;
    }
    if (strcmp(c->act_order, "on") == 0) {
        order_of(h, n, perm);
        assert_memory_equal(w->input_perm, perm, (size_t)n * sizeof *perm);
    } else {
        assert_null(w->input_perm);
    }
    for (int64_t i = 0; i < n * n; i++) {
        turned[i] = h[perm[i / n] * n + perm[i % n]] + (i / n == i % n ? 0.02 * mean : 0);
    }
    double *u = inverse_of(turned, n);
    cholesky(u, n);
    for (int64_t row = 0; row < w->rows; row++) {
        for (int64_t j = 0; j < n; j++) {
            row_w[j] = (double)before[row * n + perm[j]];
        }
        reference_row(nf4, search, u, n, row_w, codes, scales);
        for (int64_t j = 0; j < n; j++) {
            if (codes[j] != int4_code(w, row, j) ||
                scales[j / group] != scale_of(w, row, j / group)) {
                fail_msg(
                    "%s %s %s act_order %s: row %lld, column %lld: code %u, scale %g, expected "
                    "%d, %g",
                    name, c->format, c->scale, c->act_order, (long long)row, (long long)j,
                    int4_code(w, row, j), (double)scale_of(w, row, j / group), codes[j],
                    (double)scales[j / group]);
            }
        }
    }
    free(u);
    free(turned);
    free(h);
}

static const struct {
    const char *name;
    uint32_t kind;
} matrices[] = {{"blk.0.attn_k.weight", 0},
                {"blk.0.attn_output.weight", 1},
                {"blk.0.ffn_up.weight", 2},
                {"blk.0.ffn_down.weight", 3}};
enum { N_MATRIX = sizeof matrices / sizeof *matrices };

static void gptq_is_the_published_one(void **state) {
    static const gptq_case cases[] = {{"q4_0", "max", "off", 24, 160},
                                      {"q4_0", "search", "on", 24, 160},
                                      {"nf4", "max", "on", 22, 101},
                                      {"nf4", "search", "off", 22, 101}};
    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char text[64], format[32], scale[32], order[32];
        float *before[N_MATRIX];
        int4_rig r;
        pico_error err = {0};
        (void)snprintf(format, sizeof format, "format=%s", cases[k].format);
        (void)snprintf(scale, sizeof scale, "scale=%s", cases[k].scale);
        (void)snprintf(order, sizeof order, "act_order=%s", cases[k].act_order);
        const char *const options[] = {
            "method=gptq", "damping=0.02", int4_text_option(text), format, scale, order, NULL};
        int4_rig_open(&r, cases[k].head_dim, cases[k].n_ff, 2, options);
        for (size_t i = 0; i < N_MATRIX; i++) {
            before[i] = int4_values(int4_tensor(&r, matrices[i].name));
        }
        int4_check(int4_run(&r, &err), &err);
        for (size_t i = 0; i < N_MATRIX; i++) {
            check_gptq(&r, &cases[k], matrices[i].name, matrices[i].kind, before[i]);
            free(before[i]);
        }
        int4_rig_close(&r);
        int4_text_remove(text);
    }
}

/* A gate takes the first channels of the input of q, k and v; what it needs of them is its own. */
static void gates_take_part_of_an_input(void **state) {
    static const gptq_case c = {"nf4", "search", "on", 16, 64};
    char text[64];
    int4_rig r;
    pico_error err = {0};
    const char *const options[] = {"method=gptq",
                                   "damping=0.02",
                                   "format=nf4",
                                   "act_order=on",
                                   "keep=none",
                                   "only=*attn_v.weight *value_gate.weight",
                                   int4_text_option(text),
                                   NULL};
    (void)state;
    int4_rig_open_as(&r, "nanochat-g2", 16, 64, 2, options);
    const pico_file_tensor *gate = int4_tensor(&r, "blk.0.value_gate.weight");
    assert_true(gate->data.cols < r.file->desc.n_embd);
    float *before = int4_values(gate);
    int4_check(int4_run(&r, &err), &err);
    check_gptq(&r, &c, "blk.0.value_gate.weight", 0, before);
    free(before);
    int4_rig_close(&r);
    int4_text_remove(text);
}

/* ---- AWQ ---- */

/* Rounds the matrix times s, scales from the largest value; returns the error of the product. */
static double try_input_scale(int nf4, const float *w, const double *h, const float *s,
                              int64_t rows, int64_t n, int *codes) {
    const int64_t group = nf4 ? 64 : 32;
    double loss = 0, e[512], x[64];
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t begin = 0; begin < n; begin += group) {
            const int64_t count = begin + group < n ? group : n - begin;
            float scale[64];
            for (int64_t j = 0; j < count; j++) {
                x[j] = (double)w[row * n + begin + j] * (double)s[begin + j];
            }
            (void)scales_for(nf4, 0, x, count, scale);
            for (int64_t j = 0; j < count; j++) {
                const int code = nearest(nf4, x[j], (double)scale[0]);
                codes[row * n + begin + j] = code;
                e[begin + j] =
                    (value_of(nf4, code, (double)scale[0]) - x[j]) / (double)s[begin + j];
            }
        }
        for (int64_t i = 0; i < n; i++) {
            for (int64_t j = 0; j < n; j++) {
                loss += e[i] * e[j] * h[i * n + j];
            }
        }
    }
    return loss;
}

static void power_of(const double *absolute, int64_t n, double alpha, float *s) {
    double mean = 0, least = INFINITY, most = 0;
    for (int64_t i = 0; i < n; i++) {
        mean += absolute[i] / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        const double power = pow(absolute[i] / mean, alpha);
        s[i] = (float)power;
        least = power < least ? power : least;
        most = power > most ? power : most;
    }
    for (int64_t i = 0; i < n; i++) {
        s[i] /= (float)sqrt(least * most);
    }
}

static void check_awq(const int4_rig *r, int nf4, const char *name, uint32_t kind,
                      const float *before) {
    enum { STEPS = 10 };
    const pico_weight_desc *w = &int4_tensor(r, name)->data;
    const int64_t n = w->cols;
    double absolute[512], least = INFINITY;
    float s[512], best[512];
    assert_true(n <= 512 && w->rows <= 256); /* the search looks at every row */
    double *h = moments(r, kind, n, absolute);
    int *codes = malloc((size_t)(w->rows * n) * sizeof *codes);
    assert_non_null(codes);
    for (int k = 0; k <= STEPS; k++) {
        power_of(absolute, n, (double)k / STEPS, s);
        const double loss = try_input_scale(nf4, before, h, s, w->rows, n, codes);
        if (loss < least) {
            least = loss;
            memcpy(best, s, sizeof s);
        }
    }
    (void)try_input_scale(nf4, before, h, best, w->rows, n, codes);
    for (int64_t i = 0; i < n; i++) {
        assert_true(fabsf(w->input_scale[i] - best[i]) <= 1e-6f * best[i]);
    }
    for (int64_t i = 0; i < w->rows * n; i++) {
        assert_int_equal(int4_code(w, i / n, i % n), codes[i]);
    }
    free(codes);
    free(h);
}

static void awq_finds_the_best_exponent(void **state) {
    (void)state;
    for (int nf4 = 0; nf4 < 2; nf4++) {
        char text[64];
        float *before[N_MATRIX];
        int4_rig r;
        pico_error err = {0};
        const char *const options[] = {"method=awq",
                                       "scale=max",
                                       "grid=10",
                                       int4_text_option(text),
                                       nf4 ? "format=nf4" : "format=q4_0",
                                       NULL};
        int4_rig_open(&r, nf4 ? 22 : 24, nf4 ? 101 : 160, 2, options);
        for (size_t i = 0; i < N_MATRIX; i++) {
            before[i] = int4_values(int4_tensor(&r, matrices[i].name));
        }
        int4_check(int4_run(&r, &err), &err);
        for (size_t i = 0; i < N_MATRIX; i++) {
            check_awq(&r, nf4, matrices[i].name, matrices[i].kind, before[i]);
            free(before[i]);
        }
        int4_rig_close(&r);
        int4_text_remove(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gptq_is_the_published_one),
        cmocka_unit_test(gates_take_part_of_an_input),
        cmocka_unit_test(awq_finds_the_best_exponent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
