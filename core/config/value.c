/* Parsing of single values; see value.h. */
#include "config/value.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "util/text.h"

enum { NUMBER_MAX = 64 };

static int is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\v' || c == '\f';
}

/* Copies text without the blanks around it; 0 if it is longer than any valid word. */
static int copy_word(const char *text, char out[NUMBER_MAX]) {
    size_t n = strlen(text);
    while (n > 0 && is_blank(text[n - 1])) {
        n--;
    }
    while (n > 0 && is_blank(*text)) {
        text++;
        n--;
    }
    if (n >= NUMBER_MAX) {
        return 0;
    }
    memcpy(out, text, n);
    out[n] = '\0';
    return 1;
}

static size_t count_digits(const char *text) {
    return strspn(text, "0123456789");
}

static int parse_int(const char *word, int64_t *out) {
    int negative = word[0] == '-';
    const char *digits = word + (word[0] == '-' || word[0] == '+');
    size_t n = count_digits(digits);
    int64_t value = 0;
    if (n == 0 || digits[n] != '\0') {
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        int64_t digit = digits[i] - '0';
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, negative ? -digit : digit, &value)) {
            return 0;
        }
    }
    *out = value;
    return 1;
}

/* Digits with an optional point and exponent: what strtod takes beyond that (hexadecimal, inf, nan,
 * the locale's comma) is not a number here. */
static int parse_float(const char *word, double *out) {
    const char *at = word + (word[0] == '-' || word[0] == '+');
    size_t whole = count_digits(at), fraction = 0;
    at += whole;
    if (*at == '.') {
        fraction = count_digits(at + 1);
        at += 1 + fraction;
    }
    if (whole + fraction == 0) {
        return 0;
    }
    if (*at == 'e' || *at == 'E') {
        at += 1 + (at[1] == '-' || at[1] == '+');
        size_t exponent = count_digits(at);
        if (exponent == 0) {
            return 0;
        }
        at += exponent;
    }
    if (*at != '\0') {
        return 0;
    }
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (plain == (locale_t)0) {
        return 0;
    }
    double value = strtod_l(word, NULL, plain);
    freelocale(plain);
    if (!isfinite(value)) {
        return 0;
    }
    *out = value;
    return 1;
}

static int equal_ignoring_case(const char *a, const char *b) {
    for (; *a != '\0' && *b != '\0'; a++, b++) {
        char lower = *a >= 'A' && *a <= 'Z' ? (char)(*a - 'A' + 'a') : *a;
        if (lower != *b) {
            return 0;
        }
    }
    return *a == *b;
}

static int parse_bool(const char *word, uint32_t *out) {
    static const char *const words[] = {"off", "on", "false", "true", "no", "yes", "0", "1"};
    for (uint32_t i = 0; i < 8; i++) {
        if (equal_ignoring_case(word, words[i])) {
            *out = i % 2;
            return 1;
        }
    }
    return 0;
}

static int parse_enum(const pico_option *option, const char *word, uint32_t *out) {
    for (uint32_t i = 0; option->choices[i] != NULL; i++) {
        if (strcmp(word, option->choices[i]) == 0) {
            *out = i;
            return 1;
        }
    }
    return 0;
}

static int in_range(const pico_option *option, double value) {
    return option->min == option->max || (value >= option->min && value <= option->max);
}

/* 1 when it is the option's kind of value. */
static int parse_word(const pico_option *option, const char *word, pico_value *out) {
    int is_auto = (option->flags & PICO_OPTF_AUTO) != 0 && strcmp(word, "auto") == 0;
    switch (option->type) {
    case PICO_OPT_BOOL:
        return parse_bool(word, &out->u);
    case PICO_OPT_ENUM:
        return parse_enum(option, word, &out->u);
    case PICO_OPT_INT:
        if (is_auto) {
            out->i = -1;
            return 1;
        }
        return parse_int(word, &out->i) && in_range(option, (double)out->i);
    case PICO_OPT_FLOAT:
        if (is_auto) {
            out->f = -1.0;
            return 1;
        }
        return parse_float(word, &out->f) && in_range(option, out->f);
    default:
        return 0;
    }
}

static void append(char *out, size_t size, const char *text) {
    size_t used = strlen(out);
    if (used + 1 < size) {
        (void)snprintf(out + used, size - used, "%s", text);
    }
}

void pico_value_describe(const pico_option *option, char *out, size_t size) {
    char range[96];
    if (size == 0) {
        return;
    }
    out[0] = '\0';
    switch (option->type) {
    case PICO_OPT_BOOL:
        append(out, size, "on or off");
        return;
    case PICO_OPT_STRING:
        append(out, size, "a text");
        return;
    case PICO_OPT_PATH:
        append(out, size, "a path");
        return;
    case PICO_OPT_ENUM:
        for (uint32_t i = 0; option->choices[i] != NULL; i++) {
            append(out, size, i == 0 ? "" : option->choices[i + 1] == NULL ? " or " : ", ");
            append(out, size, option->choices[i]);
        }
        return;
    default:
        break;
    }
    append(out, size, option->type == PICO_OPT_INT ? "a whole number" : "a number");
    if (option->min != option->max) {
        (void)snprintf(range, sizeof range, " from %.12g to %.12g", option->min, option->max);
        append(out, size, range);
    }
    if (option->unit != NULL) {
        append(out, size, " (");
        append(out, size, option->unit);
        append(out, size, ")");
    }
    if ((option->flags & PICO_OPTF_AUTO) != 0) {
        append(out, size, " or auto");
    }
}

static int is_quoted(const char *text) {
    size_t n = strlen(text);
    return n >= 2 && (text[0] == '"' || text[0] == '\'') && text[n - 1] == text[0];
}

const char *pico_value_hint(const char *text) {
    if (strstr(text, " #") != NULL) {
        return " (values are taken literally; a comment begins with ' ;', not with '#')";
    }
    return is_quoted(text) ? " (values are taken literally; leave the quotes out)" : "";
}

static void explain(const pico_option *option, const char *word, const char *text, char *why,
                    size_t size) {
    char expected[160];
    pico_value_describe(option, expected, sizeof expected);
    (void)snprintf(why, size, "expected %s", expected);
    size_t n_choices = 0;
    while (option->type == PICO_OPT_ENUM && option->choices[n_choices] != NULL) {
        n_choices++;
    }
    const char *near = n_choices == 0 ? NULL : pico_text_nearest(word, option->choices, n_choices);
    if (near != NULL) {
        append(why, size, "; did you mean ");
        append(why, size, near);
        append(why, size, "?");
    }
    append(why, size, pico_value_hint(text));
}

pico_status pico_value_parse(const pico_option *option, const char *text, pico_value *out,
                             char *why, size_t why_size) {
    char word[NUMBER_MAX];
    if (option->type == PICO_OPT_STRING || option->type == PICO_OPT_PATH) {
        if (option->type == PICO_OPT_PATH && text[0] == '\0') {
            (void)snprintf(why, why_size, "expected a path, found nothing");
            return PICO_E_INVALID;
        }
        if (option->type == PICO_OPT_PATH && is_quoted(text)) {
            (void)snprintf(why, why_size, "expected a path%s", pico_value_hint(text));
            return PICO_E_INVALID;
        }
        out->s = text;
        return PICO_OK;
    }
    if (!copy_word(text, word)) {
        word[0] = '\0';
    } else if (parse_word(option, word, out)) {
        return PICO_OK;
    }
    explain(option, word, text, why, why_size);
    if (strchr(text, '\n') != NULL) {
        append(why, why_size, " (indented lines continue the value above them)");
    }
    return PICO_E_INVALID;
}

const char *pico_value_quote(const char *text, char out[PICO_QUOTE_BYTES]) {
    enum { SHOWN = 48 };
    size_t n = strnlen(text, SHOWN + 1);
    int cut = n > SHOWN;
    n = pico_utf8_complete(text, cut ? SHOWN : n);
    for (size_t i = 0; i < n; i++) {
        out[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? ' ' : text[i];
    }
    (void)snprintf(out + n, PICO_QUOTE_BYTES - n, "%s", cut ? "..." : "");
    return out;
}
