/* layers: tokenizer */
/*
 * Cuts the input with each built-in split pattern and with the regular expression that the pattern
 * stands for: the pieces must be the same. Invalid UTF-8 is left out, as the tokenizer does.
 */
#include <stdint.h>

#include "../split_reference.h"
#include "util/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static split_pair pair[N_SPLIT_NAMES]; /* opened once: a fresh one would learn ASCII again */
    char *text = malloc(size + 1);
    size_t n = 0;
    for (size_t i = 0; i < size && text != NULL;) {
        uint32_t code;
        size_t length = pico_utf8_decode((const char *)data + i, size - i, &code);
        memcpy(text + n, data + i, length);
        n += length;
        i += length > 0 ? length : 1;
    }
    for (size_t p = 0; p < N_SPLIT_NAMES && n > 0; p++) {
        if ((pair[p].name == NULL && !split_pair_open(&pair[p], split_names[p])) ||
            split_pair_compare(&pair[p], text, n) == 0) {
            abort();
        }
    }
    free(text);
    return 0;
}
