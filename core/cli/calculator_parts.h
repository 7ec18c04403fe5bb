/* What the files of the calculator share. Not for others. */
#ifndef PICO_CLI_CALCULATOR_PARTS_H
#define PICO_CLI_CALCULATOR_PARTS_H

#include <gmp.h>

#include "cli/calculator.h"

enum { /* outcomes inside the calculator */
       PICO_CALC_OK = 0,
       PICO_CALC_NONE = 1, /* no result */
       PICO_CALC_NOMEM = 2
};

enum { PICO_CALC_INT = 1, PICO_CALC_FLOAT, PICO_CALC_TUPLE /* empty */, PICO_CALC_ELLIPSIS };

/* A value of arithmetic; i is always initialised. */
typedef struct pico_calc_number {
    uint32_t kind; /* PICO_CALC_x */
    mpz_t i;
    double f;
} pico_calc_number;

/* ---- calculator_number.c ---- */

/* left = left op right; op: '+', '-', '*', '/', or 'f' for //. */
int pico_calc_apply(pico_calc_number *left, char op, const pico_calc_number *right);
int pico_calc_negate(pico_calc_number *number);
/* As Python's str(); malloc-ed, NULL: out of memory. */
char *pico_calc_print(const pico_calc_number *number);

/* ---- calculator_arithmetic.c, calculator_text.c: text is NUL-terminated and has passed the check
 * of its characters ---- */
int pico_calc_arithmetic(const char *text, char **result);
int pico_calc_text(const char *text, char **result);

#endif
