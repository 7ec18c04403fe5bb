/* layers: cli */
/*
 * The calculator tool: a table of expressions with what Python's eval and str make of them, random
 * integer arithmetic against 128-bit integers, and bounds on what it takes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/calculator.h"

static char *calculate(const char *expression) {
    pico_error err = {0};
    char *result = NULL;
    assert_int_equal(pico_calculate(expression, strlen(expression), &result, &err), PICO_OK);
    return result;
}

/* result NULL: none. */
static void expect(const char *expression, const char *result) {
    char *got = calculate(expression);
    if (got == NULL ? result != NULL : result == NULL || strcmp(got, result) != 0) {
        fail_msg("%.100s: got %s, expected %s", expression, got == NULL ? "no result" : got,
                 result == NULL ? "no result" : result);
    }
    free(got);
}

typedef struct expression {
    const char *text, *result;
} expression;

/* ---- arithmetic ---- */

static void arithmetic_is_pythons(void **state) {
    static const expression table[] = {
        {"12*34", "408"},
        {"1,234,567 + 1", "1234568"},
        {" 1+2*3 ", "7"},
        {"(1+2)*3", "9"},
        {"2*-3", "-6"},
        {"--5", "5"},
        {"- -+5", "5"},
        {"10-2-3", "5"},
        {"100/10/2", "5.0"},
        {"-2*3+4", "-2"},
        {"00", "0"},
        /* integers of any size */
        {"99999999999999999999*99999999999999999999", "9999999999999999999800000000000000000001"},
        {"123456789012345678901234567890-1", "123456789012345678901234567889"},
        /* // floors, for floats in Python's way */
        {"7//2", "3"},
        {"-7//2", "-4"},
        {"7//-2", "-4"},
        {"-7//-2", "3"},
        {"7.5//2", "3.0"},
        {"-7.5//2", "-4.0"},
        {"1//0.1", "9.0"},
        {"0.0//-5", "-0.0"},
        /* / gives a float, rounded once */
        {"4/2", "2.0"},
        {"1/3", "0.3333333333333333"},
        {"2/3", "0.6666666666666666"},
        {"10/4", "2.5"},
        {"0/-5", "-0.0"},
        {"9007199254740993/1", "9007199254740992.0"},
        {"9007199254740993/2", "4503599627370496.0"},
        {"1000000000000000000000000000000000000000000/1000000000000000000000000000000", /* */
         "1000000000000.0"},
        /* how floats are printed: shortest, with an exponent from 1e16 and below 0.0001 */
        {"0.1+0.2", "0.30000000000000004"},
        {"0.1*3", "0.30000000000000004"},
        {"1e5", NULL},
        {"100000000000000.0*10", "1000000000000000.0"},
        {"1000000000000000.0*10", "1e+16"},
        {"123456789012345678.0", "1.2345678901234568e+17"},
        {"0.0001", "0.0001"},
        {"0.00001", "1e-05"},
        {"0.000123", "0.000123"},
        {"0.0000123", "1.23e-05"},
        {"1/17592186044416",
         "5.684341886080802e-14"}, /* 2^-44: the nearest 16 digits are too few */
        {"1/16777216", "5.960464477539063e-08"},
        {"-0.0", "-0.0"},
        {"0.0*-1", "-0.0"},
        {"5.", "5.0"},
        {".5", "0.5"},
        {"007.5", "7.5"},
        {"2.50", "2.5"},
        /* no result */
        {"", NULL},
        {"   ", NULL},
        {"1/0", NULL},
        {"1//0", NULL},
        {"1.0/0", NULL},
        {"1/0.0", NULL},
        {"2**3", NULL},
        {"2* *3", NULL},
        {"007", NULL},
        {"1 2", NULL},
        {"1.5.2", NULL},
        {"1..5", NULL},
        {"1+", NULL},
        {"*1", NULL},
        {"(1", NULL},
        {"1)", NULL},
        {"6///2", NULL},
        {"6/ /2", NULL},
        {"(1)(2)", NULL},
        {".", NULL},
        {"5%2", NULL},
        {"x+1", NULL},
        {"1\n+1", NULL},
        {"1__0", NULL},
        /* Python has values for these */
        {"()", "()"},
        {"()+()*3", "()"},
        {"()+1", NULL},
        {"()*1.0", NULL},
        {"-()", NULL},
        {"+()", NULL},
        {"...", "Ellipsis"},
        {"...+1", NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        expect(table[i].text, table[i].result);
    }
}

/* The ends of what a double holds: largest, smallest, too large, infinite literals. */
static void doubles_end_as_pythons_do(void **state) {
    char text[2048], digits[401];
    (void)state;
    memset(digits, '0', 400);
    digits[400] = '\0';
    (void)snprintf(text, sizeof text, "1%s.", digits);
    expect(text, "inf");
    (void)snprintf(text, sizeof text, "-1%s.", digits);
    expect(text, "-inf");
    (void)snprintf(text, sizeof text, "1%s.-1%s.", digits, digits);
    expect(text, "nan");
    (void)snprintf(text, sizeof text, "1%s/1", digits);
    expect(text, NULL);
    (void)snprintf(text, sizeof text, "1%s+0.5", digits);
    expect(text, NULL);
    (void)snprintf(text, sizeof text, "1/1%s", digits);
    expect(text, "0.0");
    (void)snprintf(text, sizeof text, "1/1%.323s", digits);
    expect(text, "1e-323");
    (void)snprintf(text, sizeof text, "1/1%.308s", digits);
    expect(text, "1e-308");
    (void)snprintf(text, sizeof text, "1%.308s/1", digits);
    expect(text, "1e+308");
    (void)snprintf(text, sizeof text, "1%s/1%.395s", digits, digits);
    expect(text, "100000.0");
}

/* ---- strings ---- */

static void strings_are_pythons(void **state) {
    static const expression table[] = {
        {"'strawberry'.count('r')", "3"},
        {"\"strawberry\".count(\"rr\")", "1"},
        {"'aaaa'.count('aa')", "2"},
        {"'abc'.count('')", "4"},
        {"''.count('')", "1"},
        {"'abc'.count('abcd')", "0"},
        {"'a,b,c'.count(',')", "4"}, /* commas are deleted before anything else */
        {"'StrawBerry'.lower().count('b')", "1"},
        {"'straw' 'berry'.count('r')", "3"},
        {"('straw' \"berry\").count('wb')", "1"},
        {"'''it's'''.count(\"'\")", "1"},
        {"'banana' . count ('a') .count('a')", NULL},
        {"'Banana'.upper().count('a'.upper())", "3"},
        {"('.count('.title())", ".Count("},
        {"' x.count( '.strip().upper()", "X.COUNT("},
        {"'xx.count(x'.strip('x').count('.')", "1"},
        {"'aXb'.swapcase().count('x')", "1"},
        {"'ABC'.capitalize().count('bc')", "1"},
        {"'a'.count()", NULL},
        {"'a'.count('a'", NULL},
        {"'a.count('a')", NULL},
        {"'a'.count('a').count('a')", NULL},
        {"'a'.count('a'.count('a'))", NULL},
        {"'abc'.count('a' 0 1)", NULL},
        {"'abc'.count('a')+1", NULL},
        {"'abc'.count(x)", NULL},
        {"x.count('a')", NULL},
        {"b'abc'.count(b'a')", NULL}, /* a result in Python, outside of this language */
        {"'abc'.replace('a').count('a')", NULL},
        {"'abc'('a').count('a')", NULL},
        {"'abc'.lower()", NULL}, /* only with .count( */
        {"'eval'.count('e')", NULL},
        {"'Direction'.count('i')", NULL}, /* dir */
        {"'a__b'.count('a')", NULL},
        {"'\xc3\xa9'.count('a')", NULL},
        {"'a\\n'.count('a')", NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        expect(table[i].text, table[i].result);
    }
}

/* ---- bounds ---- */

static void nest(char *out, int depth, const char *core) {
    size_t n = strlen(core);
    memset(out, '(', (size_t)depth);
    memcpy(out + depth, core, n);
    memset(out + (size_t)depth + n, ')', (size_t)depth);
    out[2 * (size_t)depth + n] = '\0';
}

static void nesting_and_length_are_bounded(void **state) {
    static char text[PICO_CALCULATOR_BYTES + 2];
    pico_error err = {0};
    char *result = NULL;
    (void)state;
    for (int depth = PICO_CALCULATOR_DEPTH; depth <= PICO_CALCULATOR_DEPTH + 1; depth++) {
        int ok = depth == PICO_CALCULATOR_DEPTH;
        nest(text, depth, "1");
        expect(text, ok ? "1" : NULL);
        nest(text, depth, "'.count('");
        expect(text, ok ? ".count(" : NULL);
    }
    memset(text, '-', PICO_CALCULATOR_BYTES);
    text[PICO_CALCULATOR_BYTES - 1] = '7';
    expect(text, "-7");
    memmove(text + 1, text, PICO_CALCULATOR_BYTES);
    expect(text, NULL);
    memset(text, '9', PICO_CALCULATOR_BYTES);
    text[PICO_CALCULATOR_BYTES / 2] = '*';
    text[PICO_CALCULATOR_BYTES] = '\0';
    result = calculate(text);
    assert_non_null(result);
    assert_int_equal(strlen(result), PICO_CALCULATOR_BYTES - 1);
    free(result);
    assert_int_equal(pico_calculate("1\0", 2, &result, &err), PICO_OK);
    assert_null(result);
}

/* ---- random integer arithmetic ---- */

static uint64_t next_random(uint64_t *random) {
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return *random >> 33;
}

__extension__ typedef __int128 wide;

static void add(char **out, const char *text) {
    size_t n = strlen(text);
    memcpy(*out, text, n + 1);
    *out += n;
}

/* Appends a random expression and returns its value; *ok gets 0 where it has none. */
static wide random_expression(uint64_t *random, uint32_t depth, char **out, int *ok) {
    static const char *const operators[] = {") + (", ")-(", ")*(", ")//("};
    if (depth == 0) {
        int number = (int)(next_random(random) % 2001);
        *out += sprintf(*out, "%d", number);
        return number;
    }
    uint32_t kind = (uint32_t)(next_random(random) % 5);
    add(out, kind == 4 ? "-(" : "(");
    wide a = random_expression(random, depth - 1, out, ok), b = 1;
    if (kind != 4) {
        add(out, operators[kind]);
        b = random_expression(random, depth - 1, out, ok);
    }
    add(out, ")");
    if (kind < 3) {
        return kind == 0 ? a + b : kind == 1 ? a - b : a * b;
    }
    if (kind == 4 || b == 0) {
        *ok = *ok && kind == 4;
        return -a;
    }
    wide q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static void print_wide(wide value, char *out) {
    char reversed[48];
    size_t n = 0;
    int negative = value < 0;
    do {
        int digit = (int)(value % 10);
        reversed[n++] = (char)('0' + (digit < 0 ? -digit : digit));
        value /= 10;
    } while (value != 0);
    if (negative) {
        *out++ = '-';
    }
    while (n > 0) {
        *out++ = reversed[--n];
    }
    *out = '\0';
}

/* Products of eight factors up to 2000 stay within 88 bits. */
static void integers_agree_with_wide_ones(void **state) {
    uint64_t random = 11;
    uint32_t n_value = 0, n_none = 0;
    (void)state;
    for (uint32_t i = 0; i < 20000; i++) {
        char text[1024], want[48], *end = text;
        int ok = 1;
        wide value = random_expression(&random, i % 4, &end, &ok);
        print_wide(value, want);
        expect(text, ok ? want : NULL);
        *(ok ? &n_value : &n_none) += 1;
    }
    assert_true(n_value > 15000 && n_none > 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arithmetic_is_pythons),
        cmocka_unit_test(doubles_end_as_pythons_do),
        cmocka_unit_test(strings_are_pythons),
        cmocka_unit_test(nesting_and_length_are_bounded),
        cmocka_unit_test(integers_agree_with_wide_ones),
    };
    return cmocka_run_group_tests_name("calculator", tests, NULL, NULL);
}
