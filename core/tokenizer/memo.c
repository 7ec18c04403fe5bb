/*
 * The memo of one encode call: short pieces and the few tokens that they became. It has one place
 * for each piece and forgets what was there, so its size does not depend on the text. What a piece
 * becomes depends on its bytes alone; callers keep pieces away for which that is not so.
 */
#include <stdlib.h>
#include <string.h>

#include "tokenizer/tokenizer_internal.h"

enum { TEXT_MIN = 512, ENTRIES_MIN = 64, ENTRIES_MAX = 1 << 13 };

pico_status pico_memo_open(pico_memo *memo, const char *text, size_t n, pico_error *err) {
    size_t n_entry = ENTRIES_MIN;
    *memo = (pico_memo){0};
    if (n < TEXT_MIN) {
        return PICO_OK;
    }
    while (n_entry < ENTRIES_MAX &&
           n_entry < n / 16) { /* half the pieces, or all that are common */
        n_entry *= 2;
    }
    memo->entry = calloc(n_entry, sizeof *memo->entry);
    if (memo->entry == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "no memory to encode %zu bytes", n);
    }
    memo->mask = n_entry - 1;
    memo->end = text + n;
    return PICO_OK;
}

void pico_memo_close(pico_memo *memo) {
    free(memo->entry);
    *memo = (pico_memo){0};
}

pico_memo_entry *pico_memo_at(const pico_memo *memo, const char *s, size_t n, uint64_t *key) {
    key[0] = key[1] = 0;
    if (memo->end - s >= 16) { /* two loads and a mask: quicker than a copy of n bytes */
        memcpy(key, s, 16);
        if (n < 8) {
            key[0] &= ((uint64_t)1 << (8 * n)) - 1;
            key[1] = 0;
        } else {
            key[1] &= ((uint64_t)1 << (8 * (n - 8))) - 1;
        }
    } else {
        memcpy(key, s, n);
    }
    key[1] |= (uint64_t)n << 56;
    uint64_t hash = (key[0] ^ (key[1] * 0x9e3779b97f4a7c15u)) * 0xd6e8feb86659fd93u;
    return &memo->entry[(hash ^ (hash >> 32)) & memo->mask];
}
