/*
 * One value of one option: text -> number, word or flag, with the sentence to say when it is not
 * one. Independent of the locale. It knows nothing of sections or origins.
 */
#ifndef PICO_CONFIG_VALUE_H
#define PICO_CONFIG_VALUE_H

#include "plugin.h"

typedef union pico_value {
    int64_t i;     /* INT; -1 for auto */
    double f;      /* FLOAT; -1 for auto */
    uint32_t u;    /* BOOL, ENUM */
    const char *s; /* STRING, PATH: the text itself */
} pico_value;

/* PICO_OK, or PICO_E_INVALID with what was expected in why ("expected a whole number from 1 to
 * 8"). Blanks around anything but a STRING or PATH are ignored. */
pico_status pico_value_parse(const pico_option *option, const char *text, pico_value *out,
                             char *why, size_t why_size);

/* What values the option takes, as above without "expected"; for help texts. */
void pico_value_describe(const pico_option *option, char *out, size_t size);

/* For the end of a message on a value that is not accepted: that quotes or a '#' are part of the
 * value, where it looks as if they were meant otherwise; "" if it does not. */
const char *pico_value_hint(const char *text);

/* Copies text for use inside a message: at most about 48 bytes, whole characters, no newlines. */
enum { PICO_QUOTE_BYTES = 64 };
const char *pico_value_quote(const char *text, char out[PICO_QUOTE_BYTES]);

#endif
