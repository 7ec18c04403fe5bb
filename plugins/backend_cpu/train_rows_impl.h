/*
 * The row kernels of backward passes, losses and optimisers, written once over vec.h. The including
 * file defines CPU_LANES and TRAIN_TABLE, the name of the table. Sums run in an order that depends
 * on the width of the row alone.
 */
#include "train.h"
#include "vec.h"

#define L CPU_LANES

INLINE vf load_upto(const float *x, int64_t n) {
    return n >= L ? vf_load(x) : vf_load_n(x, n);
}
INLINE void store_upto(float *x, vf v, int64_t n) {
    if (n >= L) {
        vf_store(x, v);
    } else {
        vf_store_n(x, v, n);
    }
}
INLINE vf vf_root(vf x) {
#if CPU_LANES == 16
    return _mm512_sqrt_ps(x);
#elif CPU_LANES == 8
    return _mm256_sqrt_ps(x);
#else
    return (vf){__builtin_sqrtf(x[0]), __builtin_sqrtf(x[1]), __builtin_sqrtf(x[2]),
                __builtin_sqrtf(x[3])};
#endif
}

static float row_dot(const float *x, const float *y, int64_t n) {
    vf sum[4] = {vf_set(0), vf_set(0), vf_set(0), vf_set(0)};
    int64_t i = 0;
    for (; i + 4 * L <= n; i += 4 * L) {
        UNROLL for (int j = 0; j < 4; j++) {
            sum[j] = vf_fma(vf_load(x + i + j * L), vf_load(y + i + j * L), sum[j]);
        }
    }
    for (; i < n; i += L) {
        sum[0] = vf_fma(load_upto(x + i, n - i), load_upto(y + i, n - i), sum[0]);
    }
    return vf_sum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
}

static void row_norm_stats(uint32_t kind, float eps, const float *x, int64_t n, float *mean,
                           float *inverse) {
    vf total = vf_set(0), square = vf_set(0);
    *mean = 0;
    if (kind == PICO_NORM_LAYER) {
        for (int64_t i = 0; i < n; i += L) {
            total = vf_add(total, load_upto(x + i, n - i));
        }
        *mean = vf_sum(total) / (float)n;
    }
    const vf m = vf_set(*mean);
    int64_t i = 0;
    for (; i + L <= n; i += L) {
        const vf d = vf_sub(vf_load(x + i), m);
        square = vf_fma(d, d, square);
    }
    float rest = 0;
    for (; i < n; i++) {
        rest += (x[i] - *mean) * (x[i] - *mean);
    }
    *inverse = 1 / __builtin_sqrtf((vf_sum(square) + rest) / (float)n + eps);
}

/* With g = factor * weight * dy and n = (x - mean) * inverse:
 * dx = inverse * (g - mean(g) - n * mean(g n)), without mean(g) for RMS. */
static void row_norm_dx(uint32_t kind, float factor, float mean, float inverse, const float *x,
                        const float *weight, const float *dy, float *dx, uint32_t accumulate,
                        int64_t n) {
    const vf m = vf_set(mean), inv = vf_set(inverse), f = vf_set(factor);
    vf sum = vf_set(0), product = vf_set(0);
    for (int64_t i = 0; i < n; i += L) { /* beyond the end dy is 0 */
        vf g = vf_mul(f, load_upto(dy + i, n - i));
        if (weight != NULL) {
            g = vf_mul(g, load_upto(weight + i, n - i));
        }
        sum = vf_add(sum, g);
        product = vf_fma(g, vf_mul(vf_sub(load_upto(x + i, n - i), m), inv), product);
    }
    const vf mean_g = vf_set(kind == PICO_NORM_LAYER ? vf_sum(sum) / (float)n : 0);
    const vf mean_gn = vf_set(vf_sum(product) / (float)n);
    for (int64_t i = 0; i < n; i += L) {
        vf g = vf_mul(f, load_upto(dy + i, n - i));
        if (weight != NULL) {
            g = vf_mul(g, load_upto(weight + i, n - i));
        }
        const vf norm = vf_mul(vf_sub(load_upto(x + i, n - i), m), inv);
        vf d = vf_mul(inv, vf_sub(vf_sub(g, mean_g), vf_mul(norm, mean_gn)));
        if (accumulate) {
            d = vf_add(load_upto(dx + i, n - i), d);
        }
        store_upto(dx + i, d, n - i);
    }
}

/* The activation and its derivative. */
INLINE void act_pair(uint32_t kind, vf x, vf *value, vf *slope) {
    const vf one = vf_set(1);
    switch (kind) {
    case PICO_ACT_SILU: {
        const vf s = vf_sigmoid(x);
        *value = vf_mul(x, s);
        *slope = vf_mul(s, vf_fma(x, vf_sub(one, s), one));
        break;
    }
    case PICO_ACT_GELU_TANH: { /* x s, s = 1 / (1 + e^-2u), u = 0.79788 (x + 0.044715 x^3) */
        const vf square = vf_mul(x, x);
        const vf twice =
            vf_mul(vf_mul(x, vf_fma(square, vf_set(0.044715f), one)), vf_set(1.5957691216f));
        const vf s = vf_sigmoid(twice);
        const vf inner = vf_mul(vf_set(1.5957691216f), vf_fma(square, vf_set(0.134145f), one));
        *value = vf_mul(x, s);
        *slope = vf_mul(s, vf_fma(vf_mul(x, vf_sub(one, s)), inner, one));
        break;
    }
    case PICO_ACT_GELU_ERF: {
        const vf c = vf_normal_cdf(x);
        const vf density =
            vf_mul(vf_set(0.3989422804f), vf_exp(vf_mul(vf_mul(x, x), vf_set(-0.5f))));
        *value = vf_mul(x, c);
        *slope = vf_fma(x, density, c);
        break;
    }
    default: { /* PICO_ACT_RELU_SQUARED */
        const vf r = vf_max(vf_set(0), x);
        *value = vf_mul(r, r);
        *slope = vf_add(r, r);
    }
    }
}

INLINE void act_row(uint32_t kind, const float *x, const float *gate, const float *dy, float *dx,
                    float *dgate, int64_t n) {
    for (int64_t i = 0; i < n; i += L) {
        vf value, slope;
        const vf d = load_upto(dy + i, n - i);
        act_pair(kind, load_upto(x + i, n - i), &value, &slope);
        if (gate != NULL) {
            slope = vf_mul(slope, load_upto(gate + i, n - i));
            store_upto(dgate + i, vf_mul(d, value), n - i);
        }
        store_upto(dx + i, vf_mul(d, slope), n - i);
    }
}

static void row_act_dx(uint32_t kind, const float *x, const float *gate, const float *dy, float *dx,
                       float *dgate, int64_t n) {
    switch (kind) { /* constants, so that each loop holds one function */
    case PICO_ACT_SILU:
        act_row(PICO_ACT_SILU, x, gate, dy, dx, dgate, n);
        break;
    case PICO_ACT_GELU_TANH:
        act_row(PICO_ACT_GELU_TANH, x, gate, dy, dx, dgate, n);
        break;
    case PICO_ACT_GELU_ERF:
        act_row(PICO_ACT_GELU_ERF, x, gate, dy, dx, dgate, n);
        break;
    default:
        act_row(PICO_ACT_RELU_SQUARED, x, gate, dy, dx, dgate, n);
        break;
    }
}

static void row_softcap_dx(float inv_cap, const float *y, float *dy, int64_t n) {
    const vf inv = vf_set(inv_cap), one = vf_set(1);
    for (int64_t i = 0; i < n; i += L) {
        const vf t = vf_mul(load_upto(y + i, n - i), inv);
        store_upto(dy + i, vf_mul(load_upto(dy + i, n - i), vf_sub(one, vf_mul(t, t))), n - i);
    }
}

static void row_add_product(float factor, float shift, const float *x, const float *y, float *sum,
                            int64_t n) {
    const vf f = vf_set(factor), s = vf_set(shift);
    for (int64_t i = 0; i < n; i += L) {
        const vf d = vf_mul(f, vf_sub(load_upto(x + i, n - i), s));
        store_upto(sum + i, vf_fma(d, load_upto(y + i, n - i), load_upto(sum + i, n - i)), n - i);
    }
}

static float row_exp(float *x, float shift, int64_t n) {
    const vf s = vf_set(shift);
    vf sum = vf_set(0);
    int64_t i = 0;
    for (; i + L <= n; i += L) {
        const vf e = vf_exp(vf_sub(vf_load(x + i), s));
        sum = vf_add(sum, e);
        vf_store(x + i, e);
    }
    float rest = 0;
    if (i < n) {
        vf_store_n(x + i, vf_exp(vf_sub(vf_load_n(x + i, n - i), s)), n - i);
        for (; i < n; i++) {
            rest += x[i];
        }
    }
    return vf_sum(sum) + rest;
}

static void row_softmax_dx(const float *p, float delta, float scale, float *dp, int64_t n) {
    const vf d = vf_set(delta), s = vf_set(scale);
    for (int64_t i = 0; i < n; i += L) {
        const vf g = vf_mul(load_upto(p + i, n - i), vf_sub(load_upto(dp + i, n - i), d));
        store_upto(dp + i, vf_mul(g, s), n - i);
    }
}

/* The terms of kl in columns [i, i + n) of the row; d as in pico_loss_args but for the target. */
INLINE vf loss_step(const cpu_loss_row *r, int64_t i, int64_t n, vf sum) {
    const vf z = load_upto(r->logits + i, n);
    vf d = vf_set(0);
    if (r->teacher != NULL) {
        const vf inv = vf_set(r->inv_temperature);
        const vf ln_q = vf_fma(z, inv, vf_set(-r->log_sum_soft));
        const vf ln_p = vf_fma(load_upto(r->teacher + i, n), inv, vf_set(-r->log_sum_teacher));
        const vf p = vf_exp(ln_p);
        vf term = vf_mul(p, vf_sub(ln_p, ln_q));
        if (n < L) {
            float tail[L];
            vf_store(tail, term);
            term = vf_load_n(tail, n);
        }
        sum = vf_add(sum, term);
        d = vf_mul(vf_set(r->soft * r->inv_temperature), vf_sub(vf_exp(ln_q), p));
    }
    if (r->d != NULL) {
        if (r->hard != 0) {
            d = vf_fma(vf_set(r->hard), vf_exp(vf_sub(z, vf_set(r->log_sum))), d);
        }
        if (r->accumulate) {
            d = vf_add(load_upto(r->d + i, n), d);
        }
        store_upto(r->d + i, d, n);
    }
    return sum;
}

static double row_loss(const cpu_loss_row *r) {
    double total = 0;
    for (int64_t i = 0; i < r->n;) {
        const int64_t end = r->n - i > 1024 ? i + 1024 : r->n;
        vf sum = vf_set(0);
        for (; i < end; i += L) {
            sum = loss_step(r, i, end - i, sum);
        }
        total += (double)vf_sum(sum);
        i = end;
    }
    return total;
}

static void row_adamw(const cpu_adamw *o, float *p, const float *g, float *m, float *v, int64_t n) {
    const vf b1 = vf_set(o->beta1), b2 = vf_set(o->beta2);
    const vf c1 = vf_set(1 - o->beta1), c2 = vf_set(1 - o->beta2);
    for (int64_t i = 0; i < n; i += L) {
        const int64_t left = n - i;
        const vf grad = vf_mul(load_upto(g + i, left), vf_set(o->grad_scale));
        const vf first = vf_fma(c1, grad, vf_mul(b1, load_upto(m + i, left)));
        const vf second = vf_fma(vf_mul(c2, grad), grad, vf_mul(b2, load_upto(v + i, left)));
        const vf root = vf_fma(vf_root(second), vf_set(o->inv_root), vf_set(o->eps));
        const vf kept = vf_mul(load_upto(p + i, left), vf_set(o->keep));
        const vf update = vf_div(vf_mul(vf_set(o->step_size), first), root);
        store_upto(m + i, first, left);
        store_upto(v + i, second, left);
        store_upto(p + i, vf_sub(kept, update), left);
    }
}

static void row_muon(float factor, const float *factors, float lr, float decay, float *x, float *p,
                     int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const float u = x[i] * (factors == NULL ? factor : factor * factors[i]);
        const float kept = u * p[i] >= 0 ? decay * p[i] : 0;
        x[i] = u;
        p[i] -= lr * u + kept;
    }
}

const cpu_train_kernels TRAIN_TABLE = {
    .norm_stats = row_norm_stats,
    .norm_dx = row_norm_dx,
    .act_dx = row_act_dx,
    .softcap_dx = row_softcap_dx,
    .dot = row_dot,
    .add_product = row_add_product,
    .exp_row = row_exp,
    .softmax_dx = row_softmax_dx,
    .loss = row_loss,
    .adamw = row_adamw,
    .muon = row_muon,
};
