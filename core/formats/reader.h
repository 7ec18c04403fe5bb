/*
 * Readers behind pico_model_file_open: they work on memory, so that tests and fuzz targets can feed
 * them without files. Tensors point into that memory, which must stay and be aligned to 8 bytes.
 */
#ifndef PICO_FORMATS_READER_H
#define PICO_FORMATS_READER_H

#include "formats/model_file.h"

/* A file as bytes with the name that messages and the result use. */
typedef struct pico_source {
    const char *path;
    pico_map map; /* borrowed */
} pico_source;

/* As pico_model_file_open; tokenizer may be NULL. The result's map is empty: the source's owner
 * unmaps, unless he moves the map into the result. */
pico_status pico_model_file_parse(const pico_source *source, const pico_source *tokenizer,
                                  pico_model_file **out, pico_error *err);

/* llama2c.c: 1 if the bytes can be nothing else, by magic or by seven plausible sizes. */
int pico_llama2c_detect(const pico_map *map);
/* Fills description and tensors of a zeroed file; the vocabulary stays empty. */
pico_status pico_llama2c_read(const pico_map *map, pico_model_file *file, pico_error *err);

/* llama2c_vocab.c: a tokenizer.bin with exactly n_vocab pieces, which are copied into the arena. */
pico_status pico_llama2c_read_vocab(const pico_map *map, uint32_t n_vocab, pico_arena *arena,
                                    pico_vocab *vocab, pico_error *err);

#endif
