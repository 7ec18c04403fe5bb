/*
 * What four bits can say: the values of a group of columns for a scale, in both formats, and how
 * codes are stored. Rounding to nearest follows the formats' definitions operation by operation in
 * F32, so that its codes are the ones that other programs make.
 */
#include <math.h>
#include <string.h>

#include "int4.h"

enum { Q4_0_GROUP = 32, NF4_GROUP = 64, Q4_0_BYTES = 18 };

const float int4_codebook[16] = {-1.0f,
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

uint32_t int4_group_of(uint32_t format) {
    return format == FORMAT_Q4_0 ? Q4_0_GROUP : NF4_GROUP;
}

/* ---- binary16 ---- */

/* Round to nearest even; too large becomes infinite, which int4_apply has excluded. */
static uint16_t to_f16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t rest = bits & 0x7fffffffu;
    if (rest < 0x38800000u) { /* subnormal: a multiple of 2^-24 */
        return (uint16_t)(sign | (uint32_t)lrintf(fabsf(x) * 0x1p24f));
    }
    const uint32_t even = (rest >> 13) & 1u;
    const uint32_t rounded = (rest + 0xfffu + even - 0x38000000u) >> 13;
    return (uint16_t)(sign | (rounded < 0x7c00u ? rounded : 0x7c00u));
}

static float of_f16(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu;
    uint32_t bits = rest >= 0x7c00u ? 0x7f800000u : (rest << 13) + 0x38000000u;
    float x = (float)rest * 0x1p-24f;
    if (rest < 0x400u) {
        memcpy(&bits, &x, sizeof bits);
    }
    bits |= sign;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ---- rounding to nearest, as defined ---- */

static void round_q4_0(const float *x, uint32_t n, uint8_t *codes, float *scale) {
    float most = 0, extreme = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (fabsf(x[i]) > most) {
            most = fabsf(x[i]);
            extreme = x[i];
        }
    }
    const float d = extreme / -8, inverse = d != 0 ? 1 / d : 0;
    for (uint32_t i = 0; i < n; i++) {
        const int code = (int)(x[i] * inverse + 8.5f);
        codes[i] = (uint8_t)(code < 15 ? code : 15);
    }
    *scale = of_f16(to_f16(d));
}

static uint8_t nearest_nf4(double x) {
    uint8_t code = 0;
    for (uint32_t step = 8; step != 0; step /= 2) { /* how many midpoints are below x */
        const uint32_t next = code + step;
        const double middle = 0.5 * ((double)int4_codebook[next - 1] + (double)int4_codebook[next]);
        code = (uint8_t)(middle < x ? next : code);
    }
    return code;
}

static void round_nf4(const float *x, uint32_t n, uint8_t *codes, float *scale) {
    float most = 0;
    for (uint32_t i = 0; i < n; i++) {
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    }
    const float inverse = most != 0 ? 1 / most : 0;
    for (uint32_t i = 0; i < n; i++) {
        codes[i] = nearest_nf4((double)(x[i] * inverse));
    }
    *scale = most;
}

void int4_round_group(uint32_t format, const float *x, uint32_t n, uint8_t *codes, float *scale) {
    if (format == FORMAT_Q4_0) {
        round_q4_0(x, n, codes, scale);
    } else {
        round_nf4(x, n, codes, scale);
    }
}

/* ---- any scale ---- */

uint8_t int4_nearest(uint32_t format, double x, double inverse) {
    if (format == FORMAT_NF4) {
        return nearest_nf4(x * inverse);
    }
    const double code = x * inverse + 8.5;
    return (uint8_t)(code < 0 ? 0 : code < 15 ? (int)code : 15);
}

double int4_value(uint32_t format, uint8_t code, double scale) {
    return scale * (format == FORMAT_Q4_0 ? (double)code - 8 : (double)int4_codebook[code]);
}

/* The largest value may be cut to less than itself, which makes all others finer, or be given
 * more room; in Q4_0, whose values reach from -8 to 7, it may lie at either end. */
uint32_t int4_scale_candidates(uint32_t format, const double *x, uint32_t n, float *out) {
    enum { RATIOS = 15 };
    static const double ratio[RATIOS] = {1.0,  0.97, 1.03, 0.94, 1.06, 0.91, 0.88, 0.85,
                                         0.82, 0.78, 0.74, 0.70, 0.65, 0.60, 0.55};
    double extreme = 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++) {
        extreme = fabs(x[i]) > fabs(extreme) ? x[i] : extreme;
    }
    for (uint32_t i = 0; i < RATIOS; i++) {
        if (format == FORMAT_NF4) {
            out[count++] = (float)(ratio[i] * fabs(extreme));
        } else {
            out[count++] = of_f16(to_f16((float)(ratio[i] * extreme / -8)));
            out[count++] = of_f16(to_f16((float)(ratio[i] * extreme / 7)));
        }
    }
    return count;
}

/* ---- storage ---- */

static void pack_q4_0(const uint8_t *codes, const float *group_scales, int64_t cols, uint8_t *row) {
    for (int64_t block = 0; block < cols / Q4_0_GROUP; block++) {
        const uint8_t *from = codes + block * Q4_0_GROUP;
        const uint16_t half = to_f16(group_scales[block]);
        memcpy(row, &half, sizeof half);
        for (uint32_t j = 0; j < Q4_0_GROUP / 2; j++) {
            row[2 + j] = (uint8_t)(from[j] | from[j + Q4_0_GROUP / 2] << 4);
        }
        row += Q4_0_BYTES;
    }
}

void int4_pack_row(uint32_t format, const uint8_t *codes, const float *group_scales, int64_t cols,
                   uint8_t *row, float *scales) {
    if (format == FORMAT_Q4_0) {
        pack_q4_0(codes, group_scales, cols, row);
        return;
    }
    for (int64_t j = 0; j < cols; j += 2) {
        row[j / 2] = (uint8_t)(codes[j] << 4 | (j + 1 < cols ? codes[j + 1] : 0));
    }
    memcpy(scales, group_scales, (size_t)((cols - 1) / NF4_GROUP + 1) * sizeof *scales);
}
