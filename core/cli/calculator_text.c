/*
 * Expressions over strings: literals and a closed list of methods. All characters are ASCII, which
 * the caller has checked; there are no backslashes among them, so a literal is what it shows.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/calculator_parts.h"
#include "util/arena.h"

typedef struct value {
    int is_count;
    size_t count;
    const char *text; /* (n) in the text that is evaluated or in the arena */
    size_t n;
} value;

typedef struct parser {
    const char *at;
    uint32_t depth;
    pico_arena arena;
} parser;

static int primary(parser *p, value *out);

static void skip_blanks(parser *p) {
    p->at += strspn(p->at, " ");
}

/* ---- methods ---- */

/* Occurrences that do not overlap; an empty one is found between all characters. */
static size_t count_in(const value *text, const value *part) {
    size_t count = 0;
    if (part->n == 0) {
        return text->n + 1;
    }
    for (size_t i = 0; i + part->n <= text->n;) {
        if (memcmp(text->text + i, part->text, part->n) == 0) {
            count++;
            i += part->n;
        } else {
            i++;
        }
    }
    return count;
}

static void strip(value *text, const value *set, int left, int right) {
    const char *chars = set == NULL ? " " : set->text;
    size_t n = set == NULL ? 1 : set->n;
    while (left && text->n > 0 && memchr(chars, text->text[0], n) != NULL) {
        text->text++;
        text->n--;
    }
    while (right && text->n > 0 && memchr(chars, text->text[text->n - 1], n) != NULL) {
        text->n--;
    }
}

enum { LOWER, UPPER, TITLE, CAPITALIZE, SWAPCASE };

static char change(int how, char c, size_t i, int after_letter) {
    int upper = how == UPPER || (how == TITLE && !after_letter) || (how == CAPITALIZE && i == 0) ||
                (how == SWAPCASE && c >= 'a');
    return (char)(upper ? toupper((unsigned char)c) : tolower((unsigned char)c));
}

static int change_case(parser *p, value *text, int how) {
    char *out = pico_arena_alloc(&p->arena, text->n, 1);
    if (out == NULL) {
        return PICO_CALC_NOMEM;
    }
    for (size_t i = 0; i < text->n; i++) {
        out[i] = change(how, text->text[i], i, i > 0 && isalpha((unsigned char)out[i - 1]));
    }
    text->text = out;
    return PICO_CALC_OK;
}

/* text = text.name(argument); argument NULL: without one. */
static int call(parser *p, const char *name, size_t n, value *text, const value *argument) {
    static const char *const cases[] = {"lower", "upper", "title", "capitalize", "swapcase"};
    if (text->is_count || (argument != NULL && argument->is_count)) {
        return PICO_CALC_NONE;
    }
    if (n == 5 && memcmp(name, "count", n) == 0 && argument != NULL) {
        text->count = count_in(text, argument);
        text->is_count = 1;
        return PICO_CALC_OK;
    }
    int left = n == 6 && memcmp(name, "lstrip", n) == 0;
    int right = n == 6 && memcmp(name, "rstrip", n) == 0;
    int both = n == 5 && memcmp(name, "strip", n) == 0;
    if (left || right || both) {
        strip(text, argument, left || both, right || both);
        return PICO_CALC_OK;
    }
    for (int i = 0; argument == NULL && i <= SWAPCASE; i++) {
        if (strlen(cases[i]) == n && memcmp(name, cases[i], n) == 0) {
            return change_case(p, text, i);
        }
    }
    return PICO_CALC_NONE;
}

/* ---- the parser ---- */

/* One literal, in one or in three quotes; 0 if it does not end. */
static int literal(parser *p, value *out) {
    const char quote[] = {p->at[0], p->at[0], p->at[0], '\0'};
    size_t n_quote = strncmp(p->at, quote, 3) == 0 ? 3 : 1;
    const char *begin = p->at + n_quote;
    const char *end = n_quote == 3 ? strstr(begin, quote) : strchr(begin, quote[0]);
    if (end == NULL) {
        return 0;
    }
    *out = (value){.text = begin, .n = (size_t)(end - begin)};
    p->at = end + n_quote;
    skip_blanks(p);
    return 1;
}

static int is_quote(char c) {
    return c == '\'' || c == '"';
}

/* Literals side by side are one. */
static int literals(parser *p, value *out) {
    if (!literal(p, out)) {
        return PICO_CALC_NONE;
    }
    while (is_quote(*p->at)) {
        value more;
        if (!literal(p, &more)) {
            return PICO_CALC_NONE;
        }
        char *joined = pico_arena_alloc(&p->arena, out->n + more.n, 1);
        if (joined == NULL) {
            return PICO_CALC_NOMEM;
        }
        memcpy(joined, out->text, out->n);
        memcpy(joined + out->n, more.text, more.n);
        out->text = joined;
        out->n += more.n;
    }
    return PICO_CALC_OK;
}

/* An expression and its closing parenthesis, after the opening one. */
static int inside(parser *p, value *out) {
    if (++p->depth > PICO_CALCULATOR_DEPTH) {
        return PICO_CALC_NONE;
    }
    int outcome = primary(p, out);
    if (outcome == PICO_CALC_OK && *p->at != ')') {
        outcome = PICO_CALC_NONE;
    }
    p->at += outcome == PICO_CALC_OK;
    skip_blanks(p);
    p->depth--;
    return outcome;
}

/* .name(argument), after the point. */
static int method(parser *p, value *out) {
    value argument;
    skip_blanks(p);
    const char *name = p->at;
    while (isalnum((unsigned char)*p->at) || *p->at == '_') {
        p->at++;
    }
    size_t n = (size_t)(p->at - name);
    skip_blanks(p);
    if (*p->at != '(') {
        return PICO_CALC_NONE;
    }
    p->at++;
    skip_blanks(p);
    if (*p->at == ')' && p->depth < PICO_CALCULATOR_DEPTH) {
        p->at++;
        skip_blanks(p);
        return call(p, name, n, out, NULL);
    }
    int outcome = inside(p, &argument);
    return outcome == PICO_CALC_OK ? call(p, name, n, out, &argument) : outcome;
}

static int primary(parser *p, value *out) {
    int outcome = PICO_CALC_NONE;
    skip_blanks(p);
    if (is_quote(*p->at)) {
        outcome = literals(p, out);
    } else if (*p->at == '(') {
        p->at++;
        outcome = inside(p, out);
    }
    while (outcome == PICO_CALC_OK && *p->at == '.') {
        p->at++;
        outcome = method(p, out);
    }
    return outcome;
}

int pico_calc_text(const char *text, char **result) {
    parser p = {.at = text};
    value out = {0};
    char number[24];
    int outcome = primary(&p, &out);
    if (outcome == PICO_CALC_OK && *p.at != '\0') {
        outcome = PICO_CALC_NONE;
    }
    if (outcome == PICO_CALC_OK) {
        (void)snprintf(number, sizeof number, "%zu", out.count);
        *result = out.is_count ? strdup(number) : strndup(out.text, out.n);
        outcome = *result == NULL ? PICO_CALC_NOMEM : PICO_CALC_OK;
    }
    pico_arena_free(&p.arena);
    return outcome;
}
