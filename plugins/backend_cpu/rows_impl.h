/*
 * The row kernels, written once over vec.h. The including file defines CPU_LANES and ROW_TABLE, the
 * name of the table. Sums run over CPU_LANES x 4 interleaved partial sums in an order that depends
 * on the width of the row alone.
 */
#include "cpu.h"
#include "vec.h"

#define L CPU_LANES

/* sum of (x - shift)^2, or of x if not squared */
INLINE float row_sum(const float *x, float shift, int squared, int64_t n) {
    vf sum[4] = {vf_set(0), vf_set(0), vf_set(0), vf_set(0)};
    const vf s = vf_set(shift);
    int64_t i = 0;
    for (; i + 4 * L <= n; i += 4 * L) {
        UNROLL for (int j = 0; j < 4; j++) {
            const vf d = vf_sub(vf_load(x + i + j * L), s);
            sum[j] = squared ? vf_fma(d, d, sum[j]) : vf_add(sum[j], d);
        }
    }
    for (; i + L <= n; i += L) {
        const vf d = vf_sub(vf_load(x + i), s);
        sum[0] = squared ? vf_fma(d, d, sum[0]) : vf_add(sum[0], d);
    }
    float rest = 0;
    for (; i < n; i++) {
        const float d = x[i] - shift;
        rest += squared ? d * d : d;
    }
    return vf_sum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3]))) + rest;
}

static void row_norm(uint32_t kind, float eps, float scale, const float *x, const float *weight,
                     const float *bias, float *y, int64_t n) {
    const float mean = kind == PICO_NORM_LAYER ? row_sum(x, 0, 0, n) / (float)n : 0;
    const float square = row_sum(x, mean, 1, n) / (float)n;
    const vf factor = vf_set(scale / __builtin_sqrtf(square + eps)), m = vf_set(mean);
    for (int64_t i = 0; i < n; i += L) {
        const int64_t rest = n - i;
        const int full = rest >= L;
        vf v = vf_mul(vf_sub(full ? vf_load(x + i) : vf_load_n(x + i, rest), m), factor);
        if (weight != NULL) {
            v = vf_mul(v, full ? vf_load(weight + i) : vf_load_n(weight + i, rest));
        }
        if (bias != NULL) {
            v = vf_fma(full ? vf_load(bias + i) : vf_load_n(bias + i, rest), vf_set(scale), v);
        }
        if (full) {
            vf_store(y + i, v);
        } else {
            vf_store_n(y + i, v, rest);
        }
    }
}

/* One pair after the other, in the same steps as whole vectors. */
INLINE void rope_pair(float *a, float *b, float cosine, float sine) {
    const float x = *a, y = *b;
    *a = x * cosine - y * sine;
    *b = y * cosine + x * sine;
}

static void rope_pairs(float sign, float *x, const float *cosine, const float *sine, int64_t half) {
    const vf signs = vf_alternate(-sign, sign);
    int64_t j = 0;
    for (; j + L / 2 <= half; j += L / 2) {
        const vf v = vf_load(x + 2 * j), s = vf_mul(vf_load_twice(sine + j), signs);
        const vf turned = vf_mul(vf_swap_pairs(v), s);
        vf_store(x + 2 * j, vf_add(vf_mul(v, vf_load_twice(cosine + j)), turned));
    }
    for (; j < half; j++) {
        rope_pair(x + 2 * j, x + 2 * j + 1, cosine[j], sign * sine[j]);
    }
}

static void rope_halves(float sign, float *x, const float *cosine, const float *sine,
                        int64_t half) {
    const vf signs = vf_set(sign);
    int64_t j = 0;
    for (; j + L <= half; j += L) {
        const vf a = vf_load(x + j), b = vf_load(x + half + j);
        const vf c = vf_load(cosine + j), s = vf_mul(vf_load(sine + j), signs);
        vf_store(x + j, vf_sub(vf_mul(a, c), vf_mul(b, s)));
        vf_store(x + half + j, vf_add(vf_mul(b, c), vf_mul(a, s)));
    }
    for (; j < half; j++) {
        rope_pair(x + j, x + half + j, cosine[j], sign * sine[j]);
    }
}

static void row_rope(uint32_t layout, float sign, float *x, const float *cosine, const float *sine,
                     int64_t half) {
    if (layout == PICO_ROPE_PAIRS) {
        rope_pairs(sign, x, cosine, sine, half);
    } else {
        rope_halves(sign, x, cosine, sine, half);
    }
}

INLINE vf act_value(uint32_t kind, vf x) {
    switch (kind) {
    case PICO_ACT_SILU:
        return vf_div(x, vf_add(vf_set(1), vf_exp(vf_sub(vf_set(0), x))));
    case PICO_ACT_GELU_TANH: { /* 0.5 (1 + tanh u) = 1 / (1 + e^-2u) */
        const vf cubic = vf_mul(vf_mul(vf_mul(x, x), x), vf_set(0.044715f));
        const vf u = vf_mul(vf_add(x, cubic), vf_set(-1.5957691216f));
        return vf_div(x, vf_add(vf_set(1), vf_exp(u)));
    }
    case PICO_ACT_GELU_ERF:
        return vf_mul(x, vf_normal_cdf(x));
    default: { /* PICO_ACT_RELU_SQUARED */
        const vf r = vf_max(vf_set(0), x);
        return vf_mul(r, r);
    }
    }
}

INLINE void act_row(uint32_t kind, const float *x, const float *gate, float *y, int64_t n) {
    int64_t i = 0;
    for (; i + L <= n; i += L) {
        const vf v = act_value(kind, vf_load(x + i));
        vf_store(y + i, gate == NULL ? v : vf_mul(v, vf_load(gate + i)));
    }
    if (i < n) {
        const vf v = act_value(kind, vf_load_n(x + i, n - i));
        vf_store_n(y + i, gate == NULL ? v : vf_mul(v, vf_load_n(gate + i, n - i)), n - i);
    }
}

static void row_activate(uint32_t kind, const float *x, const float *gate, float *y, int64_t n) {
    switch (kind) { /* constants, so that each loop holds one function */
    case PICO_ACT_SILU:
        act_row(PICO_ACT_SILU, x, gate, y, n);
        break;
    case PICO_ACT_GELU_TANH:
        act_row(PICO_ACT_GELU_TANH, x, gate, y, n);
        break;
    case PICO_ACT_GELU_ERF:
        act_row(PICO_ACT_GELU_ERF, x, gate, y, n);
        break;
    default:
        act_row(PICO_ACT_RELU_SQUARED, x, gate, y, n);
        break;
    }
}

/* b == 0 does not read y, which may hold anything */
static void row_axpby(float a, const float *x, float b, float *y, int64_t n) {
    const vf va = vf_set(a), vb = vf_set(b);
    for (int64_t i = 0; i < n; i += L) {
        const int64_t rest = n - i;
        const int full = rest >= L;
        vf v = vf_mul(va, full ? vf_load(x + i) : vf_load_n(x + i, rest));
        if (b != 0) {
            v = vf_fma(vb, full ? vf_load(y + i) : vf_load_n(y + i, rest), v);
        }
        if (full) {
            vf_store(y + i, v);
        } else {
            vf_store_n(y + i, v, rest);
        }
    }
}

static void row_softcap(float cap, float *x, int64_t n) {
    const vf c = vf_set(cap);
    int64_t i = 0;
    for (; i + L <= n; i += L) {
        vf_store(x + i, vf_mul(c, vf_tanh(vf_div(vf_load(x + i), c))));
    }
    if (i < n) {
        vf_store_n(x + i, vf_mul(c, vf_tanh(vf_div(vf_load_n(x + i, n - i), c))), n - i);
    }
}

static void row_sigmoid(const float *x, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += L) {
        vf_store_n(y + i, vf_sigmoid(vf_load_n(x + i, n - i)), n - i);
    }
}

INLINE void widen_half(uint32_t dtype, const void *x, float *y, int64_t n) {
    int64_t i = 0;
    for (; i + L <= n; i += L) {
        vf_store(y + i, vf_load_any(dtype, x, i));
    }
    if (i < n) {
        vf_store_n(y + i, vf_load_any_n(dtype, x, i, n - i), n - i);
    }
}

static void row_widen(uint32_t dtype, const void *x, float *y, int64_t n) {
    if (dtype == PICO_DTYPE_F16) {
        widen_half(PICO_DTYPE_F16, x, y, n);
    } else {
        assert(dtype == PICO_DTYPE_BF16);
        widen_half(PICO_DTYPE_BF16, x, y, n);
    }
}

static uint16_t bf16_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((bits >> 16) | 0x40u);
    }
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* round to nearest even; above 65504 + half a step: infinity */
static uint16_t f16_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t rest = bits & 0x7fffffffu;
    if (rest >= 0x477ff000u) {
        return (uint16_t)(sign | (rest > 0x7f800000u ? 0x7e00u : 0x7c00u));
    }
    if (rest < 0x38800000u) { /* subnormal: the addition rounds at 2^-24 */
        float small;
        memcpy(&small, &rest, sizeof small);
        small += 0.5f;
        memcpy(&bits, &small, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    rest += 0xfffu + ((rest >> 13) & 1u);
    return (uint16_t)(sign | ((rest - 0x38000000u) >> 13));
}

static void row_narrow(uint32_t dtype, const float *x, uint16_t *y, int64_t n) {
    int64_t i = 0;
    if (dtype == PICO_DTYPE_BF16) {
        for (; i < n; i++) {
            y[i] = bf16_of(x[i]);
        }
        return;
    }
#if CPU_LANES == 16
    for (; i + 16 <= n; i += 16) {
        _mm256_storeu_si256(
            (__m256i *)(void *)(y + i),
            _mm512_cvtps_ph(vf_load(x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
#elif CPU_LANES == 8
    for (; i + 8 <= n; i += 8) {
        _mm_storeu_si128(
            (__m128i *)(void *)(y + i),
            _mm256_cvtps_ph(vf_load(x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
#endif
    for (; i < n; i++) {
        y[i] = f16_of(x[i]);
    }
}

static uint16_t half_of(float x) {
#if CPU_LANES == 16
    return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
    return f16_of(x);
#endif
}

static void row_to_q8(const float *x, int8_t *codes, uint16_t *scales, int64_t step, int64_t n) {
    for (int64_t i = 0; i < n; i += 32, scales += step) {
        vf most = vf_set(0), bad = vf_set(0); /* bad: NaN if anything is not finite */
        UNROLL for (int j = 0; j < 32; j += L) {
            const vf v = vf_load(x + i + j);
            most = vf_max(vf_abs(v), most);
            bad = vf_fma(v, vf_set(0), bad);
        }
        *scales = half_of(vf_largest(most) / 127 + vf_sum(bad));
        const float scale = f16_value((const uint8_t *)scales);
        const vf inverse = vf_set(scale > 0 ? 1 / scale : 0);
        UNROLL for (int j = 0; j < 32; j += L) {
            const vf v = vf_max(vf_mul(vf_load(x + i + j), inverse), vf_set(-127));
            vf_store_i8(codes + i + j, vf_min(v, vf_set(127)));
        }
    }
}

INLINE void put_columns(size_t size, const void *const *row, uint32_t n_row, uint8_t *to,
                        int64_t n) {
    const uint8_t *from[CPU_COLUMNS];
    memcpy(from, row, n_row * sizeof *row);
    for (size_t d = 0; d < (size_t)n * size; d += size, to += 64) {
        if (n_row == CPU_COLUMNS) { /* as a constant, so that nothing is counted */
            UNROLL for (uint32_t i = 0; i < CPU_COLUMNS; i++) {
                memcpy(to + i * size, from[i] + d, size);
            }
            continue;
        }
        for (uint32_t i = 0; i < n_row; i++) {
            memcpy(to + i * size, from[i] + d, size);
        }
    }
}

static void row_columns(uint32_t size, const void *const *row, uint32_t n_row, uint8_t *to,
                        int64_t n) {
    if (size == 4) {
        put_columns(4, row, n_row, to, n);
    } else if (size == 2) {
        put_columns(2, row, n_row, to, n);
    } else {
        put_columns(1, row, n_row, to, n);
    }
}

static void row_scale_i8(const int8_t *codes, float scale, float *y, int64_t n) {
    const vf s = vf_set(scale);
    int64_t i = 0;
    for (; i + L <= n; i += L) {
        vf_store(y + i, vf_mul(vf_load_i8(codes + i), s));
    }
    for (; i < n; i++) {
        y[i] = (float)codes[i] * scale;
    }
}

static void row_q8_0(const uint8_t *blocks, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += 32, blocks += 34) {
        const vf d = vf_set(f16_value(blocks));
        UNROLL for (int j = 0; j < 32; j += L) {
            vf_store(y + i + j, vf_mul(vf_load_i8((const int8_t *)blocks + 2 + j), d));
        }
    }
}

static void row_q4_0(const uint8_t *blocks, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += 32, blocks += 18) {
        const vf d = vf_set(f16_value(blocks));
        UNROLL for (int j = 0; j < 16; j += L) {
            vf low, high;
            vf_load_nibbles(blocks + 2 + j, &low, &high);
            vf_store(y + i + j, vf_mul(low, d));
            vf_store(y + i + 16 + j, vf_mul(high, d));
        }
    }
}

static int64_t row_next_above(const float *x, int64_t from, int64_t n, float bound) {
    const vf b = vf_set(bound);
    int64_t i = from;
    for (; i + 2 * L <= n; i += 2 * L) {
        const vmask m0 = vf_gt(vf_load(x + i), b), m1 = vf_gt(vf_load(x + i + L), b);
        if (vm_any(vm_or(m0, m1))) {
            return vm_any(m0) ? i + vm_lowest(m0) : i + L + vm_lowest(m1);
        }
    }
    for (; i < n; i++) {
        if (x[i] > bound) {
            return i;
        }
    }
    return n;
}

static float row_maximum(const float *x, int64_t n) {
    const float none = -__builtin_inff();
    vf best[4] = {vf_set(none), vf_set(none), vf_set(none), vf_set(none)};
    int64_t i = 0;
    for (; i + 4 * L <= n; i += 4 * L) {
        UNROLL for (int j = 0; j < 4; j++) {
            best[j] = vf_max(vf_load(x + i + j * L), best[j]);
        }
    }
    float most = vf_largest(vf_max(vf_max(best[0], best[1]), vf_max(best[2], best[3])));
    for (; i < n; i++) {
        most = x[i] > most ? x[i] : most;
    }
    return most;
}

/* sum of e^(factor x - shift); partial sums of 1024 are added in double */
static double row_sum_exp(const float *x, float factor, float shift, int64_t n) {
    const vf f = vf_set(factor), s = vf_set(-shift);
    double total = 0;
    for (int64_t i = 0; i < n;) {
        const int64_t end = n - i > 1024 ? i + 1024 : n;
        vf sum = vf_set(0);
        for (; i + L <= end; i += L) {
            sum = vf_add(sum, vf_exp(vf_fma(f, vf_load(x + i), s)));
        }
        total += (double)vf_sum(sum);
        if (i < end) {
            float tail[L];
            vf_store(tail, vf_exp(vf_fma(f, vf_load_n(x + i, end - i), s)));
            for (int64_t j = 0; i < end; i++, j++) {
                total += (double)tail[j];
            }
        }
    }
    return total;
}

const cpu_row_kernels ROW_TABLE = {
    .norm = row_norm,
    .rope = row_rope,
    .activate = row_activate,
    .axpby = row_axpby,
    .softcap = row_softcap,
    .sigmoid = row_sigmoid,
    .widen = row_widen,
    .narrow = row_narrow,
    .to_q8 = row_to_q8,
    .columns = row_columns,
    .scale_i8 = row_scale_i8,
    .q8_0 = row_q8_0,
    .q4_0 = row_q4_0,
    .next_above = row_next_above,
    .maximum = row_maximum,
    .sum_exp = row_sum_exp,
};
