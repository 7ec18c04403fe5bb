/*
 * Arithmetic: a parser that evaluates as it reads. Precedence and associativity are Python's; a call
 * and a missing operator are errors there, at one time or another, and give no result here.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/calculator_parts.h"

typedef struct parser {
    const char *at;
    uint32_t depth; /* open parentheses */
} parser;

static int sum(parser *p, pico_calc_number *out);

static int is_digit(char c) {
    return c >= '0' && c <= '9';
}

static void skip_blanks(parser *p) {
    p->at += strspn(p->at, " ");
}

/* A number begins here: digits, with a point somewhere for a float. */
static int number(parser *p, pico_calc_number *out) {
    static const char digits[] = "0123456789";
    const char *begin = p->at;
    size_t whole = strspn(begin, digits);
    if (begin[whole] == '.') {
        out->kind = PICO_CALC_FLOAT;
        out->f = strtod(begin, NULL); /* the text has no letters: it stops where this does */
        p->at = begin + whole + 1;
        p->at += strspn(p->at, digits);
        return PICO_CALC_OK;
    }
    if (begin[0] == '0' && strspn(begin, "0") != whole) {
        return PICO_CALC_NONE; /* 007 */
    }
    char copy[PICO_CALCULATOR_BYTES + 1];
    memcpy(copy, begin, whole);
    copy[whole] = '\0';
    out->kind = PICO_CALC_INT;
    (void)mpz_set_str(out->i, copy, 10);
    p->at = begin + whole;
    return PICO_CALC_OK;
}

/* What stands in parentheses, after the opening one. */
static int inside(parser *p, pico_calc_number *out) {
    int outcome = PICO_CALC_OK;
    if (++p->depth > PICO_CALCULATOR_DEPTH) {
        return PICO_CALC_NONE;
    }
    skip_blanks(p);
    if (*p->at == ')') {
        out->kind = PICO_CALC_TUPLE;
    } else {
        outcome = sum(p, out);
    }
    if (outcome != PICO_CALC_OK || *p->at != ')') {
        return PICO_CALC_NONE;
    }
    p->at++;
    p->depth--;
    return PICO_CALC_OK;
}

static int atom(parser *p, pico_calc_number *out) {
    int outcome = PICO_CALC_OK;
    if (is_digit(p->at[0]) || (p->at[0] == '.' && is_digit(p->at[1]))) {
        outcome = number(p, out);
    } else if (strncmp(p->at, "...", 3) == 0) {
        out->kind = PICO_CALC_ELLIPSIS;
        p->at += 3;
    } else if (*p->at == '(') {
        p->at++;
        outcome = inside(p, out);
    } else {
        return PICO_CALC_NONE;
    }
    skip_blanks(p);
    return outcome;
}

static int factor(parser *p, pico_calc_number *out) {
    uint32_t n_plus = 0, n_minus = 0;
    for (skip_blanks(p); *p->at == '+' || *p->at == '-'; skip_blanks(p)) {
        *(*p->at == '-' ? &n_minus : &n_plus) += 1;
        p->at++;
    }
    int outcome = atom(p, out);
    /* + changes nothing, but it is as little defined for what is no number as - is. */
    for (uint32_t i = 0; i < (n_minus % 2 == 1 ? 1u : n_minus + n_plus != 0 ? 2u : 0u); i++) {
        outcome = outcome == PICO_CALC_OK ? pico_calc_negate(out) : outcome;
    }
    return outcome;
}

/* The operator of this precedence here, or 0; 'f' is //. */
static char operator_of(parser *p, const char *which) {
    char op = *p->at;
    if (op == '\0' || strchr(which, op) == NULL) {
        return 0;
    }
    p->at++;
    if (op == '/' && *p->at == '/') {
        p->at++;
        op = 'f';
    }
    return op;
}

/* operand (op operand)* */
static int chain(parser *p, const char *operators, int (*operand)(parser *, pico_calc_number *),
                 pico_calc_number *out) {
    int outcome = operand(p, out);
    pico_calc_number right = {0};
    mpz_init(right.i);
    while (outcome == PICO_CALC_OK) {
        char op = operator_of(p, operators);
        if (op == 0) {
            break;
        }
        outcome = operand(p, &right);
        if (outcome == PICO_CALC_OK) {
            outcome = pico_calc_apply(out, op, &right);
        }
    }
    mpz_clear(right.i);
    return outcome;
}

static int product(parser *p, pico_calc_number *out) {
    return chain(p, "*/", factor, out);
}

static int sum(parser *p, pico_calc_number *out) {
    return chain(p, "+-", product, out);
}

int pico_calc_arithmetic(const char *text, char **result) {
    parser p = {.at = text};
    pico_calc_number value = {0};
    mpz_init(value.i);
    int outcome = sum(&p, &value);
    if (outcome == PICO_CALC_OK && *p.at != '\0') {
        outcome = PICO_CALC_NONE;
    }
    if (outcome == PICO_CALC_OK) {
        *result = pico_calc_print(&value);
        outcome = *result == NULL ? PICO_CALC_NOMEM : PICO_CALC_OK;
    }
    mpz_clear(value.i);
    return outcome;
}
