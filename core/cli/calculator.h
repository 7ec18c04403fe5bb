/*
 * The calculator that nanochat's models are trained to call: the text of an expression in, the text
 * of its value out, as Python would print it. The language is closed:
 *
 *   commas are deleted first. Then either
 *   - only digits, blanks and + - * / . ( ): arithmetic on integers of any size and on doubles, with
 *     the operators + - * / // and unary + -, and Python's rules: / gives a double, // floors, an
 *     integer has no leading zeros. ** is refused. (() and ... are values here as in Python.) Or
 *   - only letters, digits, blanks and ' " ( ) . _, with ".count(" somewhere and none of the words
 *     that nanochat bans: string literals without prefixes, in one or three quotes, adjacent ones
 *     joined; parentheses; the methods count, strip, lstrip, rstrip (with an argument), lower, upper,
 *     title, capitalize, swapcase, strip, lstrip, rstrip (without one).
 *
 * Everything else gives no result: other methods and names, calls of anything else, division by zero,
 * a number that does not fit a double where one is needed, wrong syntax, more than 4096 bytes,
 * parentheses nested more than 200 deep. Time and memory are bounded by those two limits.
 */
#ifndef PICO_CLI_CALCULATOR_H
#define PICO_CLI_CALCULATOR_H

#include <stddef.h>

#include "plugin.h"

enum { PICO_CALCULATOR_BYTES = 4096, PICO_CALCULATOR_DEPTH = 200 };

/* Evaluates expression[0..n), any bytes. *result is malloc-ed and NUL-terminated, or NULL when there
 * is no result, which is no failure. PICO_E_NOMEM is the only one. */
pico_status pico_calculate(const char *expression, size_t n, char **result, pico_error *err);

#endif
