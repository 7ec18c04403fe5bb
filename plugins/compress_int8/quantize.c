/* See quantize.h. Loops are written so that a compiler can make vectors of them. */
#include "quantize.h"

#include <math.h>
#include <string.h>

#include "plugin.h"

enum { BLOCK = 32, BLOCK_BYTES = 34 };

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

float int8_f32_of_f16(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu;
    if (rest >= 0x7c00u) { /* infinity or NaN */
        return of_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    }
    if (rest < 0x400u) { /* zero or subnormal */
        return of_bits(sign | bits_of((float)rest * 0x1p-24f));
    }
    return of_bits(sign | ((rest << 13) + (112u << 23)));
}

uint16_t int8_f16(float x) {
    const uint16_t sign = (uint16_t)(bits_of(x) >> 16 & 0x8000u);
    const uint32_t rest = bits_of(x) & 0x7fffffffu;
    if (rest > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u);
    }
    if (rest >= 0x477ff000u) { /* 65520 and above */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (rest < 0x38800000u) { /* subnormal in F16: adding 0.5 rounds at 2^-24 */
        return (uint16_t)(sign | (bits_of(of_bits(rest) + 0.5f) - bits_of(0.5f)));
    }
    return (uint16_t)(sign | (rest + 0xfffu + (rest >> 13 & 1u) - (112u << 23)) >> 13);
}

void int8_widen(uint32_t dtype, const void *row, int64_t n, float *out) {
    const uint8_t *p = row;
    if (dtype == PICO_DTYPE_F32) {
        memcpy(out, p, (size_t)n * sizeof *out);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof h);
        out[i] = dtype == PICO_DTYPE_BF16 ? of_bits((uint32_t)h << 16) : int8_f32_of_f16(h);
    }
}

/* Magnitudes of floats order as their bits do, infinities and NaN above all others. */
float int8_largest(const float *x, int64_t n) {
    int32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t magnitude;
        memcpy(&magnitude, &x[i], sizeof magnitude);
        magnitude &= 0x7fffffff;
        most = magnitude > most ? magnitude : most;
    }
    return most >= 0x7f800000 ? INFINITY : of_bits((uint32_t)most);
}

float int8_scale(float largest, float limit) {
    const float scale = largest / limit;
    return scale > 1e-8f ? scale : 1e-8f;
}

/* Adding and taking away 1.5 * 2^23 rounds to even what is smaller than 2^22. */
void int8_codes(const float *x, int64_t n, float scale, float limit, int8_t *codes) {
    const float shift = 12582912.0f;
    if (!(scale > 0.0f)) {
        memset(codes, 0, (size_t)n);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        float q = x[i] / scale;
        q = q > limit ? limit : q;
        q = q < -limit ? -limit : q;
        q = (q + shift) - shift;
        codes[i] = (int8_t)q;
    }
}

/* Rounds halves away from zero, as roundf does; |x| is small. */
static int8_t round_away(float x) {
    const float whole = (float)(int32_t)x, rest = x - whole;
    return (int8_t)((int32_t)whole + (rest >= 0.5f) - (rest <= -0.5f));
}

int int8_blocks(const float *x, int64_t n, float limit, uint8_t *blocks) {
    int fits = 1;
    for (int64_t b = 0; b < n / BLOCK; b++) {
        const float *from = x + b * BLOCK;
        uint8_t *to = blocks + b * BLOCK_BYTES;
        const float d = int8_largest(from, BLOCK) / limit;
        const float inverse = d > 0.0f ? 1.0f / d : 0.0f;
        const uint16_t half = int8_f16(d);
        int8_t codes[BLOCK] = {0};
        memcpy(to, &half, sizeof half);
        fits &= (half & 0x7c00u) != 0x7c00u;
        if (inverse <= 1e38f) { /* else the block is next to nothing, and its F16 scale is 0 */
            for (int i = 0; i < BLOCK; i++) {
                codes[i] = round_away(from[i] * inverse);
            }
        }
        memcpy(to + sizeof half, codes, sizeof codes);
    }
    return fits;
}
