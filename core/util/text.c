/* Edit distance and UTF-8; see text.h. */
#include "util/text.h"

#include <stdlib.h>
#include <string.h>

enum { WORD_MAX = 64 };

/* Levenshtein distance with adjacent swaps counted as two edits; words cut at WORD_MAX. */
static size_t edit_distance(const char *a, const char *b) {
    size_t n = strnlen(a, WORD_MAX), m = strnlen(b, WORD_MAX);
    size_t row[WORD_MAX + 1];
    for (size_t j = 0; j <= m; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) {
                best = row[j] + 1;
            }
            if (row[j - 1] + 1 < best) {
                best = row[j - 1] + 1;
            }
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[m];
}

const char *pico_text_nearest(const char *word, const char *const *candidates, size_t n) {
    const char *nearest = NULL;
    size_t length = strlen(word);
    size_t best = length / 3 + 2; /* one typo in a short word, a few in a long one */
    for (size_t i = 0; i < n; i++) {
        size_t distance = edit_distance(word, candidates[i]);
        if (distance < best && distance < length) {
            best = distance;
            nearest = candidates[i];
        }
    }
    return nearest;
}

/* Bytes that a sequence starting with lead should have; 0 for a byte that starts none. */
static size_t sequence_length(unsigned char lead) {
    if (lead < 0x80) {
        return 1;
    }
    if (lead >= 0xc2 && lead <= 0xdf) {
        return 2;
    }
    if ((lead & 0xf0u) == 0xe0) {
        return 3;
    }
    return lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
}

/* Whether the second byte is allowed after lead: no overlong forms, surrogates, > U+10FFFF. */
static int second_is_valid(unsigned char lead, unsigned char second) {
    unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return second >= low && second <= high;
}

size_t pico_utf8_complete(const char *s, size_t n) {
    const unsigned char *bytes = (const unsigned char *)s;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char lead = bytes[n - back];
        if ((lead & 0xc0u) == 0x80) {
            continue;
        }
        size_t wanted = sequence_length(lead);
        int incomplete = wanted > back;
        if (incomplete && back >= 2) {
            incomplete = second_is_valid(lead, bytes[n - back + 1]);
        }
        return incomplete ? n - back : n;
    }
    return n;
}

size_t pico_utf8_decode(const char *s, size_t n, uint32_t *code) {
    const unsigned char *bytes = (const unsigned char *)s;
    size_t length = sequence_length(bytes[0]);
    if (length == 0 || length > n) {
        return 0;
    }
    uint32_t value = length == 1 ? bytes[0] : bytes[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((bytes[i] & 0xc0u) != 0x80 || (i == 1 && !second_is_valid(bytes[0], bytes[1]))) {
            return 0;
        }
        value = (value << 6) | (bytes[i] & 0x3fu);
    }
    *code = value;
    return length;
}

size_t pico_utf8_encode(uint32_t code, char out[4]) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80u | (code & 0x3fu));
        code >>= 6;
    }
    static const unsigned char lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    out[0] = (char)(lead[length] | code);
    return length;
}

int pico_string_add(pico_string *string, const char *text, size_t n) {
    if (string->capacity - string->n < n) {
        size_t capacity = 2 * string->capacity + n + 256;
        char *grown = realloc(string->data, capacity);
        if (grown == NULL) {
            return 0;
        }
        string->data = grown;
        string->capacity = capacity;
    }
    if (n != 0) {
        memcpy(string->data + string->n, text, n);
        string->n += n;
    }
    return 1;
}
