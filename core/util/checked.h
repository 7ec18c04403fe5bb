/*
 * Checked arithmetic for sizes that come from outside. Each function returns 1 and writes *out, or
 * returns 0 and leaves *out alone when the true result does not fit. It refuses to saturate.
 */
#ifndef PICO_UTIL_CHECKED_H
#define PICO_UTIL_CHECKED_H

#include <stdint.h>

static inline int pico_checked_add(uint64_t a, uint64_t b, uint64_t *out) {
    uint64_t sum;
    if (__builtin_add_overflow(a, b, &sum)) {
        return 0;
    }
    *out = sum;
    return 1;
}

static inline int pico_checked_mul(uint64_t a, uint64_t b, uint64_t *out) {
    uint64_t product;
    if (__builtin_mul_overflow(a, b, &product)) {
        return 0;
    }
    *out = product;
    return 1;
}

/* Rounds a up to a multiple of unit (a power of two). */
static inline int pico_checked_align(uint64_t a, uint64_t unit, uint64_t *out) {
    uint64_t sum;
    if (!pico_checked_add(a, unit - 1, &sum)) {
        return 0;
    }
    *out = sum & ~(unit - 1);
    return 1;
}

#endif
