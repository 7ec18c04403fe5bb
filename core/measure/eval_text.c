/* What eval reads: token ids as numbers, documents in a text; see eval.h. */
#include <stdlib.h>
#include <string.h>

#include "measure/eval.h"

static int is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* ---- token ids ---- */

/* A word of digits as an id below n_vocab; returns 0 if it is none. */
static int parse_id(const char *word, size_t n, uint32_t n_vocab, int32_t *out) {
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++) {
        if (word[i] < '0' || word[i] > '9') {
            return 0;
        }
        value = value * 10 + (uint64_t)(word[i] - '0');
        if (value >= n_vocab) {
            return 0;
        }
    }
    *out = (int32_t)value;
    return n != 0;
}

pico_status pico_eval_parse_tokens(const char *path, const char *text, size_t size,
                                   uint32_t n_vocab, int32_t **ids, size_t *n, pico_error *err) {
    size_t line = 1, at = 0;
    *n = 0;
    *ids = malloc((size / 2 + 1) * sizeof **ids);
    if (*ids == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "%s: out of memory", path);
    }
    while (at < size) {
        if (is_space(text[at])) {
            line += text[at++] == '\n';
            continue;
        }
        size_t begin = at;
        while (at < size && !is_space(text[at])) {
            at++;
        }
        if (!parse_id(text + begin, at - begin, n_vocab, &(*ids)[*n])) {
            char word[32];
            size_t shown = at - begin < sizeof word ? at - begin : sizeof word - 1;
            for (size_t i = 0; i < shown; i++) {
                char c = text[begin + i];
                word[i] = '?';
                if (c > ' ' && c != 0x7f) {
                    word[i] = c;
                }
            }
            word[shown] = '\0';
            free(*ids);
            *ids = NULL;
            *n = 0;
            return pico_fail(err, PICO_E_INVALID,
                             "%s:%zu: \"%s\" is not a token id: expected a number from 0 to %u",
                             path, line, word, n_vocab - 1);
        }
        ++*n;
    }
    if (*n == 0) {
        free(*ids);
        *ids = NULL;
        return pico_fail(err, PICO_E_INVALID, "%s: there are no token ids in it", path);
    }
    return PICO_OK;
}

/* ---- documents ---- */

static const char end_of_text[] = "<|endoftext|>";

const char *pico_eval_separator(const char *text, size_t size) {
    return memmem(text, size, end_of_text, sizeof end_of_text - 1) != NULL ? end_of_text : NULL;
}

/* The end of the piece that begins at `at`, and where the next one begins. */
static size_t find_separator(const char *text, size_t size, size_t at, const char *separator,
                             size_t *next) {
    const char *found = memmem(text + at, size - at, separator, strlen(separator));
    size_t end = found == NULL ? size : (size_t)(found - text);
    *next = found == NULL ? size : end + strlen(separator);
    return end;
}

/* The same for blank lines: lines of nothing but white space. */
static size_t find_blank_line(const char *text, size_t size, size_t at, size_t *next) {
    while (at < size) {
        const char *newline = memchr(text + at, '\n', size - at);
        size_t line = at, end = newline == NULL ? size : (size_t)(newline - text);
        while (line < end && is_space(text[line])) {
            line++;
        }
        if (line == end) {
            *next = end < size ? end + 1 : size;
            return at;
        }
        at = end < size ? end + 1 : size;
    }
    *next = size;
    return size;
}

pico_status pico_eval_split(const char *text, size_t size, const char *separator,
                            pico_document **out, size_t *n, pico_error *err) {
    size_t capacity = 0;
    *out = NULL;
    *n = 0;
    if (separator != NULL && *separator == '\0') {
        return pico_fail(err, PICO_E_INVALID, "the separator of documents is empty");
    }
    for (size_t at = 0, next = 0; at < size; at = next) {
        size_t end = separator == NULL ? find_blank_line(text, size, at, &next)
                                       : find_separator(text, size, at, separator, &next);
        while (at < end && is_space(text[at])) {
            at++;
        }
        while (end > at && is_space(text[end - 1])) {
            end--;
        }
        if (at == end) {
            continue;
        }
        if (*n == capacity) {
            capacity = capacity == 0 ? 64 : capacity * 2;
            pico_document *grown = realloc(*out, capacity * sizeof **out);
            if (grown == NULL) {
                free(*out);
                *out = NULL;
                *n = 0;
                return pico_fail(err, PICO_E_NOMEM, "out of memory");
            }
            *out = grown;
        }
        (*out)[(*n)++] = (pico_document){text + at, end - at};
    }
    return PICO_OK;
}
