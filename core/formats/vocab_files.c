/*
 * Tokenizer files: which reader is asked, by content, and which files of a folder are looked for.
 */
#include <string.h>

#include "formats/gguf.h"
#include "formats/vocab_json.h"

/* ---- bytes ---- */

static pico_status read_gguf(const pico_map *map, pico_arena *arena, pico_vocab *vocab,
                             pico_error *err) {
    pico_gguf gguf;
    pico_status status = pico_gguf_open(&gguf, map, arena, err);
    if (status == PICO_OK) {
        status = pico_gguf_read_vocab(&gguf, arena, vocab, err);
    }
    if (status == PICO_OK && vocab->kind == PICO_VOCAB_NONE) {
        status = pico_fail(err, PICO_E_INVALID, "the file has no tokenizer");
    }
    return status;
}

/* A tokenizer.json, or a vocab.json with its merges. */
static pico_status read_json(const pico_map *map, const pico_map *merges, pico_arena *arena,
                             pico_vocab *vocab, pico_error *err) {
    json_t *root = NULL;
    pico_status status = pico_json_object(map->data, map->size, &root, err);
    if (status != PICO_OK) {
        return status;
    }
    if (pico_tokenizer_json_is(root)) {
        status = pico_tokenizer_json_read(root, arena, vocab, err);
    } else if (merges != NULL) {
        status = pico_vocab_json_pair(root, merges, arena, vocab, err);
    } else if (json_object_get(root, "model_type") != NULL) {
        status = pico_fail(err, PICO_E_UNSUPPORTED,
                           "the configuration of a model, not a tokenizer: name its folder");
    } else {
        status =
            pico_fail(err, PICO_E_UNSUPPORTED,
                      "not a tokenizer.json; a vocab.json or encoder.json needs its merges.txt "
                      "or vocab.bpe beside it");
    }
    json_decref(root);
    return status;
}

/* *more: 1 if more may lie beside the file, and pico_vocab_finish comes last. merges may be NULL. */
static pico_status read_file(const pico_map *map, const pico_map *merges, uint32_t n_vocab,
                             pico_arena *arena, pico_vocab *vocab, int *more, pico_error *err) {
    *more = 0;
    if (pico_gguf_detect(map)) {
        return read_gguf(map, arena, vocab, err);
    }
    if (pico_tiktoken_detect(map)) {
        return pico_tiktoken_read(map, arena, vocab, err);
    }
    *more = 1;
    if (pico_json_detect(map)) {
        return read_json(map, merges, arena, vocab, err);
    }
    if (pico_vocab_spm_detect(map)) {
        return pico_vocab_spm_read(map, arena, vocab, err);
    }
    *more = 0;
    return pico_llama2c_read_vocab(map, n_vocab, arena, vocab, err);
}

pico_status pico_vocab_read(const pico_map *map, uint32_t n_vocab, pico_arena *arena,
                            pico_vocab *vocab, pico_error *err) {
    int more = 0;
    pico_status status = read_file(map, NULL, n_vocab, arena, vocab, &more, err);
    return status == PICO_OK && more ? pico_vocab_finish(n_vocab, arena, vocab, err) : status;
}

/* ---- files ---- */

/* A file that is a tokenizer by itself, or with what lies in its folder. */
static pico_status open_file(const char *path, const char *folder, uint32_t n_vocab,
                             pico_arena *arena, pico_vocab *vocab, pico_error *err) {
    pico_error inner = {0};
    pico_map map = {0}, merges = {0};
    int more = 0;
    pico_status status = pico_map_open(path, &map, err);
    if (status != PICO_OK) {
        return status;
    }
    const char *beside = pico_json_detect(&map) ? pico_file_in(folder, "merges.txt", arena) : NULL;
    if (beside == NULL && pico_json_detect(&map)) {
        beside = pico_file_in(folder, "vocab.bpe", arena);
    }
    status = beside == NULL ? PICO_OK : pico_map_open(beside, &merges, err);
    if (status == PICO_OK) {
        status =
            read_file(&map, beside == NULL ? NULL : &merges, n_vocab, arena, vocab, &more, &inner);
        status = pico_in_file(path, status, &inner, err);
    }
    if (status == PICO_OK && more) {
        status = pico_vocab_beside(folder, arena, vocab, err);
    }
    if (status == PICO_OK && more) {
        status = pico_vocab_finish(n_vocab, arena, vocab, &inner);
        status = pico_in_file(path, status, &inner, err);
    }
    pico_map_close(&merges);
    pico_map_close(&map);
    return status;
}

static pico_status open_path(const char *path, uint32_t n_vocab, pico_arena *arena,
                             pico_vocab *vocab, pico_error *err) {
    const char *folder = pico_folder_of(path, arena);
    return folder == NULL ? pico_fail(err, PICO_E_NOMEM, "%.200s: out of memory", path)
                          : open_file(path, folder, n_vocab, arena, vocab, err);
}

pico_status pico_vocab_open(const char *path, uint32_t n_vocab, pico_arena *arena,
                            pico_vocab *vocab, pico_error *err) {
    static const struct {
        const char *name, *with; /* NULL: it needs no other */
    } files[] = {{"tokenizer.pkl", NULL},       {"tokenizer/tokenizer.pkl", NULL},
                 {"tokenizer.json", NULL},      {"vocab.json", "merges.txt"},
                 {"encoder.json", "vocab.bpe"}, {"tokenizer.model", NULL}};
    if (!pico_is_folder(path)) {
        return open_path(path, n_vocab, arena, vocab, err);
    }
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        const char *file = pico_file_in(path, files[i].name, arena);
        int complete = files[i].with == NULL || pico_file_in(path, files[i].with, arena) != NULL;
        if (file != NULL && complete) {
            return open_path(file, n_vocab, arena, vocab, err);
        }
    }
    return pico_fail(err, PICO_E_NOT_FOUND,
                     "%.200s: the folder holds no tokenizer: expected tokenizer.pkl, "
                     "tokenizer/tokenizer.pkl, tokenizer.json, vocab.json with merges.txt, "
                     "encoder.json with vocab.bpe, or tokenizer.model",
                     path);
}
