/*
 * Counter-based random numbers: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw 2011). Every number is a
 * pure function of its key and index; there is no generator state and therefore no order. Not for
 * cryptography.
 */
#include "host/host.h"

void pico_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xd2511f53u * c0;
        uint64_t p1 = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u; /* golden ratio */
        k1 += 0xbb67ae85u; /* sqrt(3) - 1 */
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* The key has more bits than Philox has room for beside the index, so a first block hashes it; 128
 * bits of that hash then key and offset the second block. */
uint64_t pico_random_u64(const pico_random_key *key, uint64_t index) {
    const uint32_t seed[2] = {(uint32_t)key->seed, (uint32_t)(key->seed >> 32)};
    const uint32_t place[4] = {(uint32_t)key->t, (uint32_t)(key->t >> 32), key->sample,
                               key->purpose};
    uint32_t hash[4], out[4];
    pico_philox4x32(place, seed, hash);
    const uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), hash[2], hash[3]};
    pico_philox4x32(counter, hash, out);
    return (uint64_t)out[1] << 32 | out[0];
}

double pico_random_uniform(const pico_random_key *key, uint64_t index) {
    return pico_uniform_of_bits(pico_random_u64(key, index));
}
