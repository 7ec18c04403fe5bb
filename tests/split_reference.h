/*
 * A built-in split pattern twice: as its own matcher and as the regular expression that it stands
 * for, which PCRE2 matches. Both must cut any text alike.
 */
#ifndef PICO_TESTS_SPLIT_REFERENCE_H
#define PICO_TESTS_SPLIT_REFERENCE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/tokenizer_internal.h"

typedef struct split_pair {
    const char *name;
    pico_splitter *own, *reference;
    pico_split_state *own_state, *reference_state;
} split_pair;

static const char *const split_names[] = {"gpt-2", "llama3", "qwen2", "nanochat"};
enum { N_SPLIT_NAMES = sizeof split_names / sizeof split_names[0] };

/* Returns 0 if either cannot be opened. */
static inline int split_pair_open(split_pair *pair, const char *name) {
    pico_error err;
    uint32_t whole_first;
    char regex[1024];
    *pair = (split_pair){.name = name};
    (void)snprintf(regex, sizeof regex, "regex:%s", pico_split_pattern(name));
    if (pico_splitter_open(name, &pair->own, &whole_first, &err) != PICO_OK ||
        pico_splitter_open(regex, &pair->reference, &whole_first, &err) != PICO_OK) {
        return 0;
    }
    pair->own_state = pico_split_begin(pair->own);
    pair->reference_state = pico_split_begin(pair->reference);
    return pair->own_state != NULL && pair->reference_state != NULL;
}

static inline void split_pair_close(split_pair *pair) {
    pico_split_end(pair->own_state);
    pico_split_end(pair->reference_state);
    pico_splitter_close(pair->own);
    pico_splitter_close(pair->reference);
}

/* The number of pieces, or 0 and a message if the two differ. The text is valid UTF-8, n > 0. */
static inline size_t split_pair_compare(const split_pair *pair, const char *text, size_t n) {
    pico_error err;
    size_t n_piece = 0;
    for (size_t at = 0, own = 0, reference = 0; at < n; at = own, n_piece++) {
        if (pico_split_next(pair->own_state, text, n, at, &own, &err) != PICO_OK ||
            pico_split_next(pair->reference_state, text, n, at, &reference, &err) != PICO_OK) {
            (void)fprintf(stderr, "%s: %s\n", pair->name, err.message);
            return 0;
        }
        if (own != reference) {
            (void)fprintf(stderr, "%s: the piece from byte %zu of %zu ends at %zu, expected %zu:",
                          pair->name, at, n, own, reference);
            for (size_t i = at; i < n && i < at + 64; i++) {
                (void)fprintf(stderr, " %02x", (unsigned)(unsigned char)text[i]);
            }
            (void)fprintf(stderr, "\n");
            return 0;
        }
    }
    return n_piece;
}

#endif
