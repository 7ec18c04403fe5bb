/*
 * The built-in split patterns without a regular expression engine: one function for each, over
 * character classes that PCRE2 itself has given. Nothing outside the folder includes it.
 */
#ifndef PICO_TOKENIZER_SPLIT_MATCH_H
#define PICO_TOKENIZER_SPLIT_MATCH_H

#include <stddef.h>
#include <stdint.h>

#include "plugin.h"

/* White_Space, written out: PCRE2's own \s also takes U+180E, which Unicode no longer does. */
#define PICO_SPLIT_WS "\\t-\\r\\x{85}\\p{Z}"

/* Every character is exactly one of LETTER \p{L}, NUMBER \p{N}, SPACE White_Space, OTHER. */
enum {
    PICO_CLASS_UNKNOWN, /* not asked for yet */
    PICO_CLASS_LETTER,
    PICO_CLASS_NUMBER,
    PICO_CLASS_SPACE,
    PICO_CLASS_OTHER,
    PICO_CLASS_LONG /* of a byte: part of a character of several bytes */
};

enum { PICO_N_CODE = 0x110000 };

typedef struct pico_classes {
    void *pattern; /* pcre2_code */
    uint8_t of_byte[256];
    /* Threads that meet a character at the same time all write what the others write: each entry is
     * complete by itself, so no order between entries is needed. */
    _Atomic uint8_t of_code[PICO_N_CODE];
} pico_classes;

/* Asks for ASCII at once, for other characters when they are met. */
pico_status pico_classes_open(pico_classes **out, pico_error *err);
void pico_classes_close(pico_classes *classes); /* NULL is allowed */
/* Asks for the class of a code point up to U+10FFFF that is no surrogate, and of its neighbours;
 * PICO_CLASS_UNKNOWN if memory ran out. Any number of threads may call it at once. */
unsigned pico_classes_learn(pico_classes *classes, uint32_t code);

typedef struct pico_scan {
    pico_classes *classes;
    const unsigned char *s; /* valid UTF-8 */
    size_t n;
    int failed; /* set when memory ran out: the result means nothing */
} pico_scan;

/* The end of the piece that starts at `at` < n. Linear: what a call reads beyond the end that it
 * returns, one more call reads again and no other. */
typedef size_t pico_split_matcher(pico_scan *scan, size_t at);
pico_split_matcher pico_match_gpt2, pico_match_llama3, pico_match_qwen2, pico_match_nanochat;

#endif
