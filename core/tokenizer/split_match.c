/*
 * Matchers for the built-in split patterns, as PCRE2 would match them: see split.c for the patterns.
 * Every character begins a match in each of them, so matching never fails and never skips. They
 * trust the text to be valid UTF-8.
 */
#include "tokenizer/split_match.h"

#include <stdatomic.h>
#include <string.h>

static int is_newline(unsigned char byte) {
    return byte == '\r' || byte == '\n';
}

/* The class of the character of several bytes at `at`, and its length. */
static inline unsigned long_class(pico_scan *scan, size_t at, size_t *length) {
    const unsigned char *s = scan->s + at;
    uint32_t code;
    if (s[0] < 0xe0) {
        code = ((s[0] & 0x1fu) << 6) | (s[1] & 0x3fu);
        *length = 2;
    } else if (s[0] < 0xf0) {
        code = ((s[0] & 0x0fu) << 12) | ((s[1] & 0x3fu) << 6) | (s[2] & 0x3fu);
        *length = 3;
    } else {
        code = ((s[0] & 0x07u) << 18) | ((s[1] & 0x3fu) << 12) | ((s[2] & 0x3fu) << 6) |
               (s[3] & 0x3fu);
        *length = 4;
    }
    unsigned class = atomic_load_explicit(&scan->classes->of_code[code], memory_order_relaxed);
    if (class == PICO_CLASS_UNKNOWN) {
        class = pico_classes_learn(scan->classes, code);
        scan->failed |= class == PICO_CLASS_UNKNOWN;
    }
    return class;
}

static inline unsigned class_at(pico_scan *scan, size_t at, size_t *length) {
    unsigned class = scan->classes->of_byte[scan->s[at]];
    *length = 1;
    return class == PICO_CLASS_LONG ? long_class(scan, at, length) : class;
}

/* The end of the ASCII letters from `at` on. Eight bytes at a time: words are short, and a branch for
 * each letter would be mispredicted once a word. */
static inline size_t ascii_letters_end(const unsigned char *s, size_t n, size_t at) {
    const uint64_t ones = 0x0101010101010101u, high = 0x80 * ones;
    for (; n - at >= 8; at += 8) {
        uint64_t bytes;
        memcpy(&bytes, s + at, sizeof bytes);
        uint64_t small = (bytes | 0x20 * ones) & ~high; /* sums below stay within their bytes */
        uint64_t others = ~((small + (0x80 - 'a') * ones) & ~(small + (0x7f - 'z') * ones)) | bytes;
        others &= high;
        if (others != 0) {
            return at + (size_t)__builtin_ctzll(others) / 8;
        }
    }
    while (at < n && (s[at] | 0x20) >= 'a' && (s[at] | 0x20) <= 'z') {
        at++;
    }
    return at;
}

/* The end of the characters of one class from `at` on. */
static inline size_t run_end(pico_scan *scan, size_t at, unsigned class) {
    const uint8_t *of_byte = scan->classes->of_byte;
    const unsigned char *s = scan->s;
    size_t n = scan->n, length;
    for (;;) {
        if (class == PICO_CLASS_LETTER) {
            at = ascii_letters_end(s, n, at);
        } else {
            while (at < n && of_byte[s[at]] == class) {
                at++;
            }
        }
        if (at == n || s[at] < 0x80) {
            return at;
        }
        do {
            if (long_class(scan, at, &length) != class) {
                return at;
            }
            at += length;
        } while (at < n && s[at] >= 0x80);
    }
}

/* 's, 't, 'm, 'd, 're, 've, 'll at s: the length, or 0. fold: in any case, and U+017F is an s. */
static size_t contraction(const unsigned char *s, size_t n, int fold) {
    if (n < 2) {
        return 0;
    }
    unsigned char bit = fold ? 0x20 : 0; /* only a capital letter becomes a small one by it */
    unsigned char first = s[1] | bit, second = n > 2 ? s[2] | bit : 0;
    if (first == 's' || first == 't' || first == 'm' || first == 'd') {
        return 2;
    }
    if ((second == 'e' && (first == 'r' || first == 'v')) || (second == 'l' && first == 'l')) {
        return 3;
    }
    return fold && n > 2 && s[1] == 0xc5 && s[2] == 0xbf ? 3 : 0;
}

/* White space from `at` on. With newlines, \s*[\r\n]: up to the last newline, if there is one.
 * Else \s+(?!\S)|\s+: all of it at the end of the text, and if it is a single character; else the
 * last one is left to the word that follows. */
static size_t space_end(pico_scan *scan, size_t at, int newlines) {
    size_t end = at, last = at, after_newline = 0, length;
    while (end < scan->n && class_at(scan, end, &length) == PICO_CLASS_SPACE) {
        last = end;
        end += length;
        if (is_newline(scan->s[last])) {
            after_newline = end;
        }
    }
    if (newlines && after_newline > 0) {
        return after_newline;
    }
    return end == scan->n || last == at ? end : last;
}

size_t pico_match_gpt2(pico_scan *scan, size_t at) {
    const unsigned char *s = scan->s;
    size_t length;
    if (s[at] == '\'') {
        length = contraction(s + at, scan->n - at, 0);
        if (length > 0) {
            return at + length;
        }
    }
    unsigned class = class_at(scan, at, &length);
    size_t next = at + length;
    if (s[at] == ' ' && next < scan->n) { /* a space belongs to the run after it */
        class = class_at(scan, next, &length);
        next += length;
    }
    return class == PICO_CLASS_SPACE ? space_end(scan, at, 0) : run_end(scan, next, class);
}

/* llama3 and what came after it: they differ in how many digits stay together. */
static inline size_t match_newer(pico_scan *scan, size_t at, unsigned n_digit) {
    const unsigned char *s = scan->s;
    size_t length;
    if (s[at] == '\'') {
        length = contraction(s + at, scan->n - at, 1);
        if (length > 0) {
            return at + length;
        }
    }
    unsigned class = class_at(scan, at, &length);
    size_t next = at + length;
    if (class == PICO_CLASS_LETTER) {
        return run_end(scan, next, PICO_CLASS_LETTER);
    }
    if (class == PICO_CLASS_NUMBER) {
        for (unsigned i = 1; i < n_digit && next < scan->n; i++) {
            if (class_at(scan, next, &length) != PICO_CLASS_NUMBER) {
                break;
            }
            next += length;
        }
        return next;
    }
    unsigned after = next < scan->n ? class_at(scan, next, &length) : PICO_CLASS_UNKNOWN;
    if (after == PICO_CLASS_LETTER && !is_newline(s[at])) {
        return run_end(scan, next + length, PICO_CLASS_LETTER);
    }
    if (class == PICO_CLASS_SPACE && (s[at] != ' ' || after != PICO_CLASS_OTHER)) {
        return space_end(scan, at, 1);
    }
    next = run_end(scan, next, PICO_CLASS_OTHER);
    while (next < scan->n && is_newline(s[next])) {
        next++;
    }
    return next;
}

size_t pico_match_llama3(pico_scan *scan, size_t at) {
    return match_newer(scan, at, 3);
}

size_t pico_match_qwen2(pico_scan *scan, size_t at) {
    return match_newer(scan, at, 1);
}

size_t pico_match_nanochat(pico_scan *scan, size_t at) {
    return match_newer(scan, at, 2);
}
