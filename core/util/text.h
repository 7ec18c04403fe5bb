/*
 * Small text helpers: nearest names for error messages, UTF-8 boundaries, text that grows. No locale.
 */
#ifndef PICO_UTIL_TEXT_H
#define PICO_UTIL_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* The candidate nearest to word by edit distance, or NULL if none is near enough to be a typo. */
const char *pico_text_nearest(const char *word, const char *const *candidates, size_t n);

/* Length of the longest prefix of s[0..n) that ends on a character boundary: everything except an
 * incomplete but so far valid UTF-8 sequence at the end. Invalid bytes count as complete. */
size_t pico_utf8_complete(const char *s, size_t n);

/* Decodes one character at s (n >= 1 bytes left) into *code; returns its length, or 0 if the bytes
 * there are not valid UTF-8 (overlong, surrogate, truncated, > U+10FFFF). */
size_t pico_utf8_decode(const char *s, size_t n, uint32_t *code);

/* Writes code as UTF-8 into out (4 bytes of room); returns the length. */
size_t pico_utf8_encode(uint32_t code, char out[4]);

/* Text that grows; zero-initialise it, and free data. */
typedef struct pico_string {
    char *data; /* (n) not NUL-terminated; malloc-ed, NULL at first */
    size_t n, capacity;
} pico_string;

/* Appends text[0..n); 0 when memory is exhausted, and then nothing has changed. */
int pico_string_add(pico_string *string, const char *text, size_t n);

#endif
