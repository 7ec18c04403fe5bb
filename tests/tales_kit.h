/* What the tests of the stories share: reading a document word by word. */
#ifndef PICO_TESTS_TALES_KIT_H
#define PICO_TESTS_TALES_KIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "corpus/tales.h"
#include "corpus/words.h"

enum { N_DOCUMENT = 20000, MAX_WORD = 64 };

static inline int is_letter(char c) {
    return isalpha((unsigned char)c) || c == '-';
}

/* The next word at or after *at, lower case if asked; 0: none is left. */
static inline int next_word(const char **at, char out[MAX_WORD], int lower) {
    size_t n = 0;
    while (**at != '\0' && !isalpha((unsigned char)**at)) {
        (*at)++;
    }
    while (is_letter(**at)) {
        assert_true(n + 1 < MAX_WORD);
        out[n++] = lower ? (char)tolower((unsigned char)**at) : **at;
        (*at)++;
    }
    out[n] = '\0';
    return n > 0;
}

static inline int is_among(const char *word, const char *const *table, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(word, table[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

#endif
