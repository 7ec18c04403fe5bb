/*
 * Numbers as Python has them: integers of any size, doubles, and what happens where they meet. Every
 * conversion and true division is rounded once, to the nearest double, ties to even.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/calculator_parts.h"

enum { MANTISSA_BITS = 53, LOWEST_BIT = -1074, GUARD_BITS = 2, REPR_DIGITS = 17 };

/* q, and whether something below its lowest bit was cut off, times 2^exponent as a double. */
static double round_to_double(uint64_t q, int sticky, long exponent) {
    long n_bits = q == 0 ? 0 : 64 - __builtin_clzll(q);
    long lowest = exponent + n_bits - MANTISSA_BITS;
    long drop = (lowest < LOWEST_BIT ? LOWEST_BIT : lowest) - exponent; /* >= GUARD_BITS */
    uint64_t half = 1ull << (drop - 1), rest = q & (2 * half - 1);
    q >>= drop;
    q += rest > half || (rest == half && (sticky || (q & 1)));
    return ldexp((double)q, (int)(exponent + drop));
}

/* a / b for b != 0, correctly rounded; 0 if it is too large for a double. A zero has the sign that
 * Python gives it: 0 / -5 is -0.0. */
static int divide_exactly(const mpz_t a, const mpz_t b, double *out) {
    mpz_t x, y, rest;
    int negative = (mpz_sgn(a) < 0) != (mpz_sgn(b) < 0);
    long shift = (long)mpz_sizeinbase(a, 2) - (long)mpz_sizeinbase(b, 2);
    long exponent = shift - 1 - (MANTISSA_BITS - 1);
    exponent = (exponent < LOWEST_BIT ? LOWEST_BIT : exponent) - GUARD_BITS;
    if (mpz_sgn(a) == 0) {
        *out = negative ? -0.0 : 0.0;
        return 1;
    }
    mpz_inits(x, y, rest, NULL);
    mpz_abs(x, a);
    mpz_abs(y, b);
    if (exponent >= 0) {
        mpz_mul_2exp(y, y, (mp_bitcnt_t)exponent);
    } else {
        mpz_mul_2exp(x, x, (mp_bitcnt_t)-exponent);
    }
    mpz_tdiv_qr(x, rest, x, y); /* below 2^56 */
    uint64_t q = 0;
    (void)mpz_export(&q, NULL, -1, sizeof q, 0, 0, x);
    double value = round_to_double(q, mpz_sgn(rest) != 0, exponent);
    mpz_clears(x, y, rest, NULL);
    *out = negative ? -value : value;
    return isfinite(value);
}

static int to_double(const pico_calc_number *number, double *out) {
    if (number->kind == PICO_CALC_FLOAT) {
        *out = number->f;
        return PICO_CALC_OK;
    }
    mpz_t one;
    mpz_init_set_ui(one, 1);
    int fits = divide_exactly(number->i, one, out);
    mpz_clear(one);
    return fits ? PICO_CALC_OK : PICO_CALC_NONE;
}

/* Floor division of doubles, b != 0, in Python's steps: the rounding of the quotient is part of the
 * result. */
static double floor_divide(double a, double b) {
    double rest = fmod(a, b);
    double quotient = (a - rest) / b;
    if (rest != 0 && (b < 0) != (rest < 0)) {
        quotient -= 1;
    }
    if (quotient == 0) {
        return copysign(0, a / b);
    }
    double whole = floor(quotient);
    return quotient - whole > 0.5 ? whole + 1 : whole;
}

static int apply_floats(pico_calc_number *left, char op, double a, double b) {
    if ((op == '/' || op == 'f') && b == 0) {
        return PICO_CALC_NONE;
    }
    left->kind = PICO_CALC_FLOAT;
    left->f = op == '+'   ? a + b
              : op == '-' ? a - b
              : op == '*' ? a * b
              : op == '/' ? a / b
                          : floor_divide(a, b);
    return PICO_CALC_OK;
}

static int apply_integers(pico_calc_number *left, char op, const mpz_t right) {
    if ((op == '/' || op == 'f') && mpz_sgn(right) == 0) {
        return PICO_CALC_NONE;
    }
    if (op == '+') {
        mpz_add(left->i, left->i, right);
    } else if (op == '-') {
        mpz_sub(left->i, left->i, right);
    } else if (op == '*') {
        mpz_mul(left->i, left->i, right);
    } else if (op == 'f') {
        mpz_fdiv_q(left->i, left->i, right);
    } else {
        left->kind = PICO_CALC_FLOAT;
        return divide_exactly(left->i, right, &left->f) ? PICO_CALC_OK : PICO_CALC_NONE;
    }
    return PICO_CALC_OK;
}

/* The empty tuple can be added to itself and repeated. */
static int apply_odd(pico_calc_number *left, char op, const pico_calc_number *right) {
    const pico_calc_number *times = left->kind == PICO_CALC_INT ? left : right;
    int tuple = left->kind == PICO_CALC_TUPLE || right->kind == PICO_CALC_TUPLE;
    if ((op == '+' && left->kind == PICO_CALC_TUPLE && right->kind == PICO_CALC_TUPLE) ||
        (op == '*' && tuple && times->kind == PICO_CALC_INT && mpz_fits_slong_p(times->i))) {
        left->kind = PICO_CALC_TUPLE;
        return PICO_CALC_OK;
    }
    return PICO_CALC_NONE;
}

static int is_number(const pico_calc_number *number) {
    return number->kind == PICO_CALC_INT || number->kind == PICO_CALC_FLOAT;
}

int pico_calc_apply(pico_calc_number *left, char op, const pico_calc_number *right) {
    double a, b;
    if (!is_number(left) || !is_number(right)) {
        return apply_odd(left, op, right);
    }
    if (left->kind == PICO_CALC_INT && right->kind == PICO_CALC_INT) {
        return apply_integers(left, op, right->i);
    }
    if (to_double(left, &a) != PICO_CALC_OK || to_double(right, &b) != PICO_CALC_OK) {
        return PICO_CALC_NONE;
    }
    return apply_floats(left, op, a, b);
}

int pico_calc_negate(pico_calc_number *number) {
    mpz_neg(number->i, number->i);
    number->f = -number->f;
    return is_number(number) ? PICO_CALC_OK : PICO_CALC_NONE;
}

/* ---- printing ---- */

/* The digit string one unit in the last place further from zero, "1.29e+00" -> "1.30e+00"; text has
 * one place before the point and room for no more. 0 if that would need another digit in front. */
static int increment(char *text) {
    char *at = strchr(text, 'e');
    while (at > text) {
        at--;
        if (*at == '9') {
            *at = '0';
        } else if (*at != '.') {
            (*at)++;
            return 1;
        }
    }
    return 0;
}

/* The shortest digits that read back as value > 0, in the form d.ddde+XX. The nearest decimal of a
 * length may be too far below a power of two, where doubles lie closer, while the next one above it
 * is near enough. */
static void shortest(double value, char *out, size_t size) {
    char above[40];
    for (int digits = 1; digits <= REPR_DIGITS; digits++) {
        (void)snprintf(out, size, "%.*e", digits - 1, value);
        if (strtod(out, NULL) == value) {
            return;
        }
        (void)snprintf(above, sizeof above, "%s", out);
        if (increment(above) && strtod(above, NULL) == value) {
            (void)snprintf(out, size, "%s", above);
            return;
        }
    }
}

/* repr() of a float: plain from 0.0001 up to below 1e16, else with an exponent. */
static char *print_float(double value) {
    char text[40], digits[REPR_DIGITS + 1], out[64];
    const char *sign = signbit(value) && !isnan(value) ? "-" : "";
    if (!isfinite(value) || value == 0) {
        (void)snprintf(out, sizeof out, "%s%s", sign,
                       isnan(value)   ? "nan"
                       : value == 0.0 ? "0.0"
                                      : "inf");
        return strdup(out);
    }
    shortest(fabs(value), text, sizeof text);
    const char *mark = strchr(text, 'e');
    int exponent = (int)strtol(mark + 1, NULL, 10), n = 0;
    for (const char *at = text; at < mark && n < REPR_DIGITS; at++) {
        if (*at != '.') {
            digits[n++] = *at;
        }
    }
    while (n > 1 && digits[n - 1] == '0') {
        n--;
    }
    digits[n] = '\0';
    if (exponent < -4 || exponent >= 16) {
        (void)snprintf(out, sizeof out, "%s%c%s%se%c%02d", sign, digits[0], n > 1 ? "." : "",
                       digits + 1, exponent < 0 ? '-' : '+', abs(exponent));
    } else if (exponent < 0) {
        (void)snprintf(out, sizeof out, "%s0.%.*s%s", sign, -exponent - 1, "0000", digits);
    } else if (exponent + 1 >= n) {
        (void)snprintf(out, sizeof out, "%s%s%.*s.0", sign, digits, exponent + 1 - n,
                       "0000000000000000");
    } else {
        (void)snprintf(out, sizeof out, "%s%.*s.%s", sign, exponent + 1, digits,
                       digits + exponent + 1);
    }
    return strdup(out);
}

char *pico_calc_print(const pico_calc_number *number) {
    if (number->kind == PICO_CALC_INT) {
        char *out = malloc(mpz_sizeinbase(number->i, 10) + 2);
        return out == NULL ? NULL : mpz_get_str(out, 10, number->i);
    }
    return number->kind == PICO_CALC_FLOAT   ? print_float(number->f)
           : number->kind == PICO_CALC_TUPLE ? strdup("()")
                                             : strdup("Ellipsis");
}
