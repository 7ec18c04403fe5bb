/* The pickled tokenizer of nanochat; see reader.h. */
#include "formats/reader.h"

int pico_tiktoken_detect(const pico_map *map) {
    (void)map;
    return 0;
}

pico_status pico_tiktoken_read(const pico_map *map, pico_arena *arena, pico_vocab *vocab,
                               pico_error *err) {
    (void)map;
    (void)arena;
    (void)vocab;
    return pico_fail(err, PICO_E_UNSUPPORTED, "a Python pickle, which is not read");
}
