/* layers: formats */
/*
 * Any bytes as a pickle, and as a pickled tokenizer. A vocabulary that opens must be readable to the
 * last byte, and the pickle may be gone by then.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/pickle.h"
#include "formats/reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require_message(pico_status status, const pico_error *err) {
    if (status != PICO_OK && (err->code != status || err->message[0] == '\0')) {
        abort();
    }
}

static unsigned sum_pieces(const pico_vocab *vocab) {
    unsigned sum = 0;
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        for (uint32_t j = 0; j < vocab->piece[i].n; j++) {
            sum += (unsigned char)vocab->piece[i].text[j];
        }
    }
    return sum + (unsigned)strlen(vocab->pre);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pico_arena arena = {0};
    pico_error err = {0};
    const pico_pickle_value *value = NULL;
    pico_vocab vocab;
    unsigned char *copy = malloc(size == 0 ? 1 : size);
    if (copy == NULL) {
        return 0;
    }
    if (size != 0) {
        memcpy(copy, data, size);
    }
    const pico_map map = {.data = copy, .size = size};
    pico_status status = pico_pickle_read(&map, &arena, &value, &err);
    require_message(status, &err);
    status = pico_tiktoken_read(&map, &arena, &vocab, &err);
    require_message(status, &err);
    free(copy);
    if (status == PICO_OK) {
        volatile unsigned sink = sum_pieces(&vocab);
        (void)sink;
    }
    pico_arena_free(&arena);
    return 0;
}
