/*
 * User-defined pieces: found in text as they are, the longest first, before anything is merged.
 * Control pieces are never among them.
 */
#include <stdlib.h>
#include <string.h>

#include "tokenizer/tokenizer_internal.h"

enum { USER_PIECE_MAX = 1024 }; /* bytes; bounds what one position of a text can cost */

typedef struct sort_item {
    const char *text;
    uint32_t n;
    int32_t id;
} sort_item;

static int compare(const void *a, const void *b) {
    const sort_item *x = a, *y = b;
    uint32_t n = x->n < y->n ? x->n : y->n;
    int order = memcmp(x->text, y->text, n);
    if (order == 0) {
        order = (x->n > y->n) - (x->n < y->n);
    }
    return order != 0 ? order : (x->id > y->id) - (x->id < y->id);
}

pico_status pico_user_build(pico_tokenizer *tokenizer, pico_error *err) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < tokenizer->n; i++) {
        const pico_token *token = &tokenizer->token[i];
        if (token->type == PICO_PIECE_USER && token->n > USER_PIECE_MAX) {
            return pico_fail(err, PICO_E_UNSUPPORTED,
                             "vocabulary: user-defined piece %u has %u bytes, at most %d are taken",
                             i, token->n, USER_PIECE_MAX);
        }
        n += token->type == PICO_PIECE_USER && token->n > 0;
    }
    if (n == 0 || tokenizer->llama2c) {
        return PICO_OK;
    }
    sort_item *items = malloc(n * sizeof *items);
    tokenizer->user = pico_arena_alloc(&tokenizer->arena, n, sizeof *tokenizer->user);
    if (items == NULL || tokenizer->user == NULL) {
        free(items);
        return pico_fail(err, PICO_E_NOMEM, "no memory for %u user-defined pieces", n);
    }
    uint32_t used = 0;
    for (uint32_t i = 0; i < tokenizer->n; i++) {
        const pico_token *token = &tokenizer->token[i];
        if (token->type == PICO_PIECE_USER && token->n > 0) {
            const char *text = tokenizer->text + token->offset;
            items[used++] = (sort_item){text, token->n, (int32_t)i};
            tokenizer->user_first[(unsigned char)text[0]] = 1;
        }
    }
    qsort(items, n, sizeof *items, compare);
    for (uint32_t i = 0; i < n; i++) {
        tokenizer->user[i] = items[i].id;
    }
    tokenizer->n_user = n;
    free(items);
    return PICO_OK;
}

/* The first of the sorted pieces low..high, alike in their first `depth` bytes, whose byte at depth
 * is at least `byte`; a piece that ends there comes before all. */
static uint32_t lower_bound(const pico_tokenizer *tokenizer, uint32_t low, uint32_t high,
                            size_t depth, int byte) {
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const pico_token *token = &tokenizer->token[tokenizer->user[middle]];
        int here = token->n > depth ? (unsigned char)tokenizer->text[token->offset + depth] : -1;
        if (here < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

int32_t pico_user_match(const pico_tokenizer *tokenizer, const char *s, size_t n) {
    if (n == 0 || !tokenizer->user_first[(unsigned char)s[0]]) {
        return -1;
    }
    uint32_t low = 0, high = tokenizer->n_user;
    int32_t longest = -1;
    for (size_t depth = 0; low < high; depth++) {
        if (tokenizer->token[tokenizer->user[low]].n == depth) {
            longest = tokenizer->user[low];
        }
        if (depth == n) {
            break;
        }
        int byte = (unsigned char)s[depth];
        low = lower_bound(tokenizer, low, high, depth, byte);
        high = lower_bound(tokenizer, low, high, depth, byte + 1);
    }
    return longest;
}
