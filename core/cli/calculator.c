/* Which of the two languages an expression is in; see calculator.h. */
#include "cli/calculator.h"

#include <stdlib.h>
#include <string.h>

#include "cli/calculator_parts.h"

static const char arithmetic_bytes[] = "0123456789*+-/.() ";
static const char text_bytes[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                 "'\"()._ ";

/* nanochat's list, in its words; wherever they stand, in strings too, and in any case of letters. */
static int has_banned_word(const char *text) {
    static const char *const words[] = {
        "__",      "import", "exec", "eval", "compile", "open",    "file",    "input",  "raw_input",
        "globals", "locals", "vars", "dir",  "getattr", "setattr", "delattr", "hasattr"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcasestr(text, words[i]) != NULL) {
            return 1;
        }
    }
    return 0;
}

static int evaluate(const char *text, char **result) {
    if (text[strspn(text, arithmetic_bytes)] == '\0') {
        return strstr(text, "**") != NULL ? PICO_CALC_NONE : pico_calc_arithmetic(text, result);
    }
    if (text[strspn(text, text_bytes)] != '\0' || has_banned_word(text) ||
        strstr(text, ".count(") == NULL) {
        return PICO_CALC_NONE;
    }
    return pico_calc_text(text, result);
}

pico_status pico_calculate(const char *expression, size_t n, char **result, pico_error *err) {
    *result = NULL;
    if (n > PICO_CALCULATOR_BYTES || (n != 0 && memchr(expression, '\0', n) != NULL)) {
        return PICO_OK;
    }
    char *text = malloc(n + 1);
    int outcome = PICO_CALC_NOMEM;
    if (text != NULL) {
        size_t kept = 0;
        for (size_t i = 0; i < n; i++) {
            if (expression[i] != ',') {
                text[kept++] = expression[i];
            }
        }
        text[kept] = '\0';
        outcome = evaluate(text, result);
    }
    free(text);
    return outcome == PICO_CALC_NOMEM
               ? pico_fail(err, PICO_E_NOMEM, "out of memory for the calculator")
               : PICO_OK;
}
