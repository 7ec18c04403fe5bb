/*
 * Character classes for the built-in split patterns. PCRE2 is asked, a block of 256 code points at a
 * time when the first of them is met, so that the classes are those of its version of Unicode and
 * there is no table to keep up to date. A block takes a few microseconds.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "tokenizer/split_match.h"
#include "util/text.h"

enum { BLOCK = 256 };

/* The number of the last group that took part, plus one, is the class of the run. */
static const char runs[] = "(\\p{L}++)|(\\p{N}++)|([" PICO_SPLIT_WS "]++)"
                           "|[^\\p{L}\\p{N}" PICO_SPLIT_WS "]++";

static unsigned class_of_match(int rc) {
    return rc == 2   ? PICO_CLASS_LETTER
           : rc == 3 ? PICO_CLASS_NUMBER
           : rc == 4 ? PICO_CLASS_SPACE
                     : PICO_CLASS_OTHER;
}

/* Writes the classes of the 256 code points from first on, but for surrogates. */
static pico_status learn_block(pico_classes *classes, uint32_t first) {
    char text[4 * BLOCK];
    size_t n = 0, at = 0;
    for (uint32_t i = 0; i < BLOCK; i++) {
        if (first + i < 0xd800 || first + i > 0xdfff) {
            n += pico_utf8_encode(first + i, text + n);
        }
    }
    pcre2_match_data *match = pcre2_match_data_create_from_pattern(classes->pattern, NULL);
    if (match == NULL) {
        return PICO_E_NOMEM;
    }
    for (uint32_t code = first; at < n;) {
        int rc = pcre2_match(classes->pattern, (PCRE2_SPTR)text, n, at,
                             PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, match, NULL);
        if (rc <= 0) {
            break;
        }
        for (size_t end = pcre2_get_ovector_pointer(match)[1]; at < end;) {
            if (((unsigned char)text[at++] & 0xc0u) != 0x80) {
                atomic_store_explicit(&classes->of_code[code++], (uint8_t)class_of_match(rc),
                                      memory_order_relaxed);
            }
        }
    }
    pcre2_match_data_free(match);
    return at == n ? PICO_OK : PICO_E_NOMEM;
}

unsigned pico_classes_learn(pico_classes *classes, uint32_t code) {
    if (learn_block(classes, code & ~(uint32_t)(BLOCK - 1)) != PICO_OK) {
        return PICO_CLASS_UNKNOWN;
    }
    return atomic_load_explicit(&classes->of_code[code], memory_order_relaxed);
}

pico_status pico_classes_open(pico_classes **out, pico_error *err) {
    int code;
    PCRE2_SIZE where;
    pico_classes *classes = calloc(1, sizeof *classes); /* pages that are not met cost nothing */
    if (classes != NULL) {
        classes->pattern = pcre2_compile((PCRE2_SPTR)runs, PCRE2_ZERO_TERMINATED,
                                         PCRE2_UTF | PCRE2_UCP, &code, &where, NULL);
    }
    if (classes == NULL || classes->pattern == NULL || learn_block(classes, 0) != PICO_OK) {
        pico_classes_close(classes);
        return pico_fail(err, PICO_E_NOMEM, "no memory for the classes of characters");
    }
    for (uint32_t i = 0; i < 256; i++) {
        classes->of_byte[i] = i < 0x80 ? classes->of_code[i] : (uint8_t)PICO_CLASS_LONG;
    }
    *out = classes;
    return PICO_OK;
}

void pico_classes_close(pico_classes *classes) {
    if (classes != NULL) {
        pcre2_code_free(classes->pattern);
        free(classes);
    }
}
