/*
 * 16-bit floats: exact widening, and narrowing with round to nearest even. Portable, branch-light;
 * not meant for inner loops of kernels.
 */
#ifndef PICO_UTIL_HALF_H
#define PICO_UTIL_HALF_H

#include <stdint.h>
#include <string.h>

static inline float pico_f32_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t pico_bits_of_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float pico_f32_of_bf16(uint16_t h) {
    return pico_f32_of_bits((uint32_t)h << 16);
}

static inline uint16_t pico_bf16_of_f32(float x) {
    uint32_t bits = pico_bits_of_f32(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((bits >> 16) | 0x40u); /* a NaN stays one, quiet */
    }
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float pico_f32_of_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t rest = h & 0x7fffu;
    if (rest >= 0x7c00u) { /* infinity or NaN */
        return pico_f32_of_bits(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
    }
    if (rest < 0x400u) { /* zero or subnormal: rest * 2^-24, exact */
        float magnitude = (float)rest * 0x1p-24f;
        return pico_f32_of_bits(sign | pico_bits_of_f32(magnitude));
    }
    return pico_f32_of_bits(sign | ((rest << 13) + 0x38000000u));
}

static inline uint16_t pico_f16_of_f32(float x) {
    uint32_t bits = pico_bits_of_f32(x);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u);
    }
    if (rest >= 0x477ff000u) { /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (rest < 0x38800000u) { /* below 2^-14: let the FPU round at 2^-24 */
        float shifted = pico_f32_of_bits(rest) + 0.5f;
        return (uint16_t)(sign | (pico_bits_of_f32(shifted) - 0x3f000000u));
    }
    rest += 0xfffu + ((rest >> 13) & 1u);
    return (uint16_t)(sign | ((rest - 0x38000000u) >> 13));
}

#endif
