/*
 * A 64-bit hash of bytes, for files to notice damage and mistakes with; no help against an enemy.
 * Each step can be undone, so that a change within one word of eight bytes always changes the result.
 */
#ifndef PICO_UTIL_HASH_H
#define PICO_UTIL_HASH_H

#include <stdint.h>
#include <string.h>

#define PICO_HASH_SEED 0x9e3779b97f4a7c15u

static inline uint64_t pico_hash_word(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * 0xff51afd7ed558ccdu;
    return hash ^ hash >> 32;
}

/* The length goes in, too: bytes cannot move from one array to the next. */
static inline uint64_t pico_hash_bytes(uint64_t hash, const void *data, uint64_t n) {
    const char *at = data;
    for (uint64_t left = n; left != 0;) {
        const uint64_t step = left < 8 ? left : 8;
        uint64_t word = 0;
        memcpy(&word, at, (size_t)step);
        hash = pico_hash_word(hash, word);
        at += step;
        left -= step;
    }
    return pico_hash_word(hash, n);
}

#endif
