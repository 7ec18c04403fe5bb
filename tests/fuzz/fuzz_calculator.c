/* layers: cli */
/*
 * Expressions that a model may write: each has a value, which is a text without control characters
 * and not longer than what can come of so many bytes, or none; none fails.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/calculator.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pico_error err = {0};
    char *result = NULL;
    if (pico_calculate((const char *)data, size, &result, &err) != PICO_OK) {
        abort();
    }
    for (size_t i = 0; result != NULL && result[i] != '\0'; i++) {
        if (result[i] < ' ' || result[i] > '~' || i > PICO_CALCULATOR_BYTES + 32) {
            abort();
        }
    }
    free(result);
    return 0;
}
