/*
 * Tokenizer files: which reader is asked, by content, and which files of a folder are looked for.
 */
#include <sys/stat.h>

#include "formats/gguf.h"
#include "formats/reader.h"

pico_status pico_vocab_read(const pico_map *map, uint32_t n_vocab, pico_arena *arena,
                            pico_vocab *vocab, pico_error *err) {
    pico_gguf gguf;
    if (pico_tiktoken_detect(map)) {
        return pico_tiktoken_read(map, arena, vocab, err);
    }
    if (!pico_gguf_detect(map)) {
        return pico_llama2c_read_vocab(map, n_vocab, arena, vocab, err);
    }
    pico_status status = pico_gguf_open(&gguf, map, arena, err);
    if (status == PICO_OK) {
        status = pico_gguf_read_vocab(&gguf, arena, vocab, err);
    }
    if (status == PICO_OK && vocab->kind == PICO_VOCAB_NONE) {
        status = pico_fail(err, PICO_E_INVALID, "the file has no tokenizer");
    }
    return status;
}

/* A file that is a tokenizer by itself. */
static pico_status open_file(const char *path, uint32_t n_vocab, pico_arena *arena,
                             pico_vocab *vocab, pico_error *err) {
    pico_error inner = {0};
    pico_map map = {0};
    pico_status status = pico_map_open(path, &map, err);
    if (status != PICO_OK) {
        return status;
    }
    status = pico_vocab_read(&map, n_vocab, arena, vocab, &inner);
    pico_map_close(&map);
    return status == PICO_OK ? PICO_OK : pico_fail(err, status, "%.200s: %s", path, inner.message);
}

static const char *file_in(const char *folder, const char *name, pico_arena *arena) {
    const char *path = pico_arena_printf(arena, "%s/%s", folder, name);
    struct stat info;
    return path != NULL && stat(path, &info) == 0 && S_ISREG(info.st_mode) ? path : NULL;
}

pico_status pico_vocab_open(const char *path, uint32_t n_vocab, pico_arena *arena,
                            pico_vocab *vocab, pico_error *err) {
    static const char *const names[] = {"tokenizer.pkl", "tokenizer/tokenizer.pkl"};
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode)) {
        return open_file(path, n_vocab, arena, vocab, err);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *file = file_in(path, names[i], arena);
        if (file != NULL) {
            return open_file(file, n_vocab, arena, vocab, err);
        }
    }
    return pico_fail(err, PICO_E_NOT_FOUND,
                     "%.200s: the folder holds no tokenizer: expected tokenizer.pkl", path);
}
