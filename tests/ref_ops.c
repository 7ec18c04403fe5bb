/*
 * The op oracle: see ref_ops.h. Definitions are followed to the letter and in double; speed and
 * elegance are not wanted here.
 */
#include "ref_ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double ref_f16(uint16_t bits) {
    const int exponent = (bits >> 10) & 31;
    const int fraction = bits & 1023;
    double x;
    if (exponent == 31) {
        x = fraction == 0 ? INFINITY : NAN;
    } else if (exponent == 0) {
        x = ldexp(fraction, -24);
    } else {
        x = ldexp(1024 + fraction, exponent - 25);
    }
    return bits & 0x8000 ? -x : x;
}

double ref_bf16(uint16_t bits) {
    const int exponent = (bits >> 7) & 255;
    const int fraction = bits & 127;
    double x;
    if (exponent == 255) {
        x = fraction == 0 ? INFINITY : NAN;
    } else if (exponent == 0) {
        x = ldexp(fraction, -133);
    } else {
        x = ldexp(128 + fraction, exponent - 134);
    }
    return bits & 0x8000 ? -x : x;
}

/* x to a float of fraction_bits and an exponent of at least lowest; overflow gives limit. */
static uint16_t narrow(double x, int fraction_bits, int lowest, int bias, uint16_t infinity) {
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    const double magnitude = fabs(x);
    if (isnan(x)) {
        return (uint16_t)(infinity | (1u << (fraction_bits - 1)));
    }
    if (isinf(x)) {
        return sign | infinity;
    }
    int exponent = lowest;
    if (magnitude > 0 && ilogb(magnitude) > lowest) {
        exponent = ilogb(magnitude);
    }
    /* in units of the last place; nearbyint rounds ties to even */
    const double units = nearbyint(ldexp(magnitude, fraction_bits - exponent));
    const uint32_t code = (uint32_t)((exponent + bias - 1) << fraction_bits) + (uint32_t)units;
    return (uint16_t)(sign | (code > infinity ? infinity : code));
}

uint16_t ref_to_f16(double x) {
    return narrow(x, 10, -14, 15, 0x7c00);
}

uint16_t ref_to_bf16(double x) {
    return narrow(x, 7, -126, 127, 0x7f80);
}

double ref_round(uint32_t dtype, double x) {
    switch (dtype) {
    case PICO_DTYPE_F16:
        return ref_f16(ref_to_f16(x));
    case PICO_DTYPE_BF16:
        return ref_bf16(ref_to_bf16(x));
    default:
        return (double)(float)x;
    }
}

static uint16_t half_at(const void *p, int64_t i) {
    uint16_t h;
    memcpy(&h, (const char *)p + 2 * i, 2);
    return h;
}

static float float_at(const void *p, int64_t i) {
    float f;
    memcpy(&f, (const char *)p + 4 * i, 4);
    return f;
}

static double scale_of(const pico_weight_desc *desc, int64_t row, int64_t col) {
    int64_t at = 0;
    if (desc->group > 0) {
        const int64_t groups = (desc->cols + desc->group - 1) / desc->group;
        at = row * groups + col / desc->group;
    }
    return desc->scale_dtype == PICO_DTYPE_F16 ? ref_f16(half_at(desc->scales, at))
                                               : (double)float_at(desc->scales, at);
}

/* The value of a code, before outliers, permutation and input scale. */
static double code_value(const pico_weight_desc *desc, int64_t row, int64_t col) {
    const int64_t at = row * desc->cols + col;
    const uint8_t *bytes = desc->codes;
    switch (desc->dtype) {
    case PICO_DTYPE_F32:
        return (double)float_at(bytes, at);
    case PICO_DTYPE_F16:
        return ref_f16(half_at(bytes, at));
    case PICO_DTYPE_BF16:
        return ref_bf16(half_at(bytes, at));
    case PICO_DTYPE_I8:
        return (double)(int8_t)bytes[at] * scale_of(desc, row, col);
    case PICO_DTYPE_Q8_0: {
        const uint8_t *block = bytes + at / 32 * 34;
        return ref_f16(half_at(block, 0)) * (double)(int8_t)block[2 + at % 32];
    }
    case PICO_DTYPE_Q4_0: {
        const uint8_t *block = bytes + at / 32 * 18;
        const int64_t j = at % 32;
        const int code = j < 16 ? block[2 + j] & 15 : block[2 + j - 16] >> 4;
        return ref_f16(half_at(block, 0)) * (double)(code - 8);
    }
    case PICO_DTYPE_NF4: {
        const uint8_t pair = bytes[row * ((desc->cols + 1) / 2) + col / 2];
        return (double)desc->codebook[col % 2 == 0 ? pair >> 4 : pair & 15] *
               scale_of(desc, row, col);
    }
    default:
        return NAN;
    }
}

/* The reciprocal and the quotient are those of F32 arithmetic, each rounded, as a definition to the
 * last bit needs: x / scale may lie next to a half. */
static void round_q8_0(const float *x, double *out) {
    float most = 0;
    for (int64_t i = 0; i < 32; i++) {
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    }
    const double scale = ref_f16(ref_to_f16((double)(most / 127)));
    const float inverse = scale > 0 ? 1 / (float)scale : 0;
    for (int64_t i = 0; i < 32; i++) {
        const double code = nearbyint((double)(x[i] * inverse));
        out[i] = scale * (code > 127 ? 127 : code < -127 ? -127 : code);
    }
}

void ref_kv_round(uint32_t dtype, const float *x, int64_t n, double *out) {
    for (int64_t i = 0; dtype == PICO_DTYPE_Q8_0 && i < n; i += 32) {
        round_q8_0(x + i, out + i);
    }
    for (int64_t i = 0; dtype != PICO_DTYPE_Q8_0 && i < n; i++) {
        out[i] = ref_round(dtype, (double)x[i]);
    }
}

void ref_weight(const pico_weight_desc *desc, double *out) {
    for (int64_t row = 0; row < desc->rows; row++) {
        for (int64_t col = 0; col < desc->cols; col++) {
            const int64_t input = desc->input_perm != NULL ? desc->input_perm[col] : col;
            double value = code_value(desc, row, col);
            for (int64_t i = 0; i < desc->n_outlier; i++) {
                if (desc->outlier_col[i] == input) {
                    value = ref_f16(half_at(desc->outlier_value, row * desc->n_outlier + i));
                }
            }
            if (desc->input_scale != NULL) {
                value /= (double)desc->input_scale[input];
            }
            out[row * desc->cols + input] = value;
        }
    }
}

void ref_linear(const double *w, int64_t rows, int64_t cols, const float *x, int64_t x_stride,
                int64_t n, const float *bias, const float *before, double *y) {
    for (int64_t i = 0; i < n; i++) {
        for (int64_t r = 0; r < rows; r++) {
            double sum = 0;
            for (int64_t c = 0; c < cols; c++) {
                sum += w[r * cols + c] * (double)x[i * x_stride + c];
            }
            sum += bias != NULL ? (double)bias[r] : 0;
            sum += before != NULL ? (double)before[i * rows + r] : 0;
            y[i * rows + r] = sum;
        }
    }
}

static int is_outlier(const pico_weight_desc *desc, int64_t input) {
    for (int64_t i = 0; i < desc->n_outlier; i++) {
        if (desc->outlier_col[i] == input) {
            return 1;
        }
    }
    return 0;
}

void ref_round_input(const pico_weight_desc *desc, int row, const float *x, float *out) {
    const int blocks = desc->dtype == PICO_DTYPE_Q8_0 || desc->dtype == PICO_DTYPE_Q4_0;
    const int64_t given = blocks ? 32 : desc->group;
    const int64_t group = row || given == 0 ? desc->cols : given;
    for (int64_t begin = 0; begin < desc->cols; begin += group) {
        const int64_t end = begin + group < desc->cols ? begin + group : desc->cols;
        double most = 0;
        for (int pass = 0; pass < 2; pass++) { /* the largest, then the codes */
            for (int64_t col = begin; col < end; col++) {
                const int64_t input = desc->input_perm != NULL ? desc->input_perm[col] : col;
                const double s = desc->input_scale != NULL ? (double)desc->input_scale[input] : 1;
                const double value = (double)x[input] / s;
                if (is_outlier(desc, input)) {
                    out[input] = x[input];
                } else if (pass == 0) {
                    most = fabs(value) > most ? fabs(value) : most;
                } else {
                    const double step = most / 127;
                    out[input] = most > 0 ? (float)(nearbyint(value / step) * step * s) : 0.0f;
                }
            }
        }
    }
}

void ref_norm(uint32_t kind, double eps, double scale, const float *x, const float *weight,
              const float *bias, double *y, int64_t width) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < width && kind == PICO_NORM_LAYER; i++) {
        mean += (double)x[i] / (double)width;
    }
    for (int64_t i = 0; i < width; i++) {
        square += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)width;
    }
    for (int64_t i = 0; i < width; i++) {
        double v = ((double)x[i] - mean) / sqrt(square + eps);
        v *= weight != NULL ? (double)weight[i] : 1;
        v += bias != NULL ? (double)bias[i] : 0;
        y[i] = v * scale;
    }
}

void ref_rope(uint32_t layout, int reverse, int64_t rope_dim, int64_t head_dim, const float *x,
              const float *cosine, const float *sine, double *y) {
    for (int64_t i = 0; i < head_dim; i++) {
        y[i] = (double)x[i];
    }
    for (int64_t j = 0; j < rope_dim / 2; j++) {
        const int64_t a = layout == PICO_ROPE_PAIRS ? 2 * j : j;
        const int64_t b = layout == PICO_ROPE_PAIRS ? 2 * j + 1 : j + rope_dim / 2;
        const double c = (double)cosine[j], s = (reverse ? -1 : 1) * (double)sine[j];
        y[a] = (double)x[a] * c - (double)x[b] * s;
        y[b] = (double)x[a] * s + (double)x[b] * c;
    }
}

double ref_sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

double ref_activation(uint32_t kind, double x) {
    const double pi = 3.14159265358979323846;
    switch (kind) {
    case PICO_ACT_SILU:
        return x * ref_sigmoid(x);
    case PICO_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x)));
    case PICO_ACT_GELU_ERF:
        return 0.5 * x * erfc(-x / sqrt(2));
    case PICO_ACT_RELU_SQUARED:
        return x > 0 ? x * x : 0;
    default:
        return NAN;
    }
}

double ref_softcap(double cap, double x) {
    return cap * tanh(x / cap);
}

double ref_logit_edit(double z, double sub, double rep, double bias) {
    z -= sub;
    z = z > 0 ? z / rep : z * rep;
    return z + bias;
}

/* The cell of position j for a row, or -1: invisible to it. */
static int64_t cell_of(const ref_attention *a, int64_t row, int64_t j) {
    const int sink = j < (int64_t)a->n_sink;
    if (a->window >= 0 && j < (int64_t)a->pos[row] - a->window && !sink) {
        return -1;
    }
    if (j >= a->base[row]) {
        return a->anc_cell[a->anc_begin[row] + j - a->base[row]];
    }
    const int32_t page = a->page_table[a->slot[row] * a->max_pages + j / PICO_PAGE_POSITIONS];
    return page < 0 ? -1 : (int64_t)page * PICO_PAGE_POSITIONS + j % PICO_PAGE_POSITIONS;
}

static void attend_head(const ref_attention *a, int64_t row, int64_t head, double *out) {
    const int64_t kv_head = head / (a->n_head / a->n_kv_head), n = a->pos[row] + 1;
    const float *q = a->q + (row * a->n_head + head) * a->head_dim;
    double *score = malloc(sizeof(double) * (size_t)n);
    double most = -INFINITY, total = 0;
    for (int64_t j = 0; j < n; j++) {
        const int64_t cell = cell_of(a, row, j);
        score[j] = -INFINITY;
        if (cell >= 0) {
            const double *k = a->k + (cell * a->n_kv_head + kv_head) * a->head_dim;
            double dot = 0;
            for (int64_t d = 0; d < a->head_dim; d++) {
                dot += (double)q[d] * k[d];
            }
            score[j] = a->scale * dot;
            most = score[j] > most ? score[j] : most;
        }
    }
    memset(out, 0, sizeof(double) * (size_t)a->head_dim);
    for (int64_t j = 0; j < n; j++) {
        const int64_t cell = cell_of(a, row, j);
        if (cell >= 0) {
            const double *v = a->v + (cell * a->n_kv_head + kv_head) * a->head_dim;
            const double weight = exp(score[j] - most);
            total += weight;
            for (int64_t d = 0; d < a->head_dim; d++) {
                out[d] += weight * v[d];
            }
        }
    }
    for (int64_t d = 0; d < a->head_dim && total > 0; d++) {
        out[d] /= total;
    }
    free(score);
}

void ref_attend(const ref_attention *a, double *out) {
    for (int64_t row = 0; row < a->n_rows; row++) {
        for (int64_t head = 0; head < a->n_head; head++) {
            attend_head(a, row, head, out + (row * a->n_head + head) * a->head_dim);
        }
    }
}

int32_t ref_argmax(const float *z, int64_t n) {
    int32_t index;
    float value;
    ref_top_k(z, n, 1, &index, &value);
    return value > -INFINITY ? index : -1; /* false of a NaN too */
}

void ref_top_k(const float *z, int64_t n, int64_t k, int32_t *index, float *value) {
    char *taken = calloc((size_t)n, 1);
    for (int64_t i = 0; i < k; i++) {
        int64_t best = -1;
        for (int64_t j = 0; j < n; j++) {
            if (!taken[j] && (best < 0 || z[j] > z[best] || (isnan(z[best]) && !isnan(z[j])))) {
                best = j;
            }
        }
        taken[best] = 1;
        index[i] = (int32_t)best;
        value[i] = z[best];
    }
    free(taken);
}

double ref_log_sum(const float *z, int64_t n, double inv_temperature) {
    double most = -INFINITY, total = 0;
    for (int64_t i = 0; i < n; i++) {
        most = (double)z[i] * inv_temperature > most ? (double)z[i] * inv_temperature : most;
    }
    for (int64_t i = 0; i < n; i++) {
        total += exp((double)z[i] * inv_temperature - most);
    }
    return most + log(total);
}

double ref_nmse(const float *got, const double *want, int64_t n) {
    double error = 0, power = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)got[i] - want[i];
        error += d * d;
        power += want[i] * want[i];
    }
    if (!(error <= 0) && !(power > 0)) {
        return INFINITY;
    }
    return power > 0 ? error / power : 0;
}
