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

/* A model file with nothing in it but its path and an empty vocabulary. */
pico_status pico_model_file_new(const char *path, pico_model_file **out, pico_error *err);
/* Fills it from a model that is one file; own_vocab 0: the vocabulary comes from elsewhere, the
 * file's own need not even be readable. The map must stay until the file is closed. */
pico_status pico_model_file_read(const pico_map *map, int own_vocab, pico_model_file *file,
                                 pico_error *err);
/* PICO_E_CORRUPT when vocabulary and model differ in size. */
pico_status pico_model_file_check_vocab(const pico_model_file *file, pico_error *err);

/* The two together for bytes in memory; tokenizer may be NULL. The result's map is empty: the source's owner
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

/* PICO_OK, or the failure `inner` with the path of the file in front. */
pico_status pico_in_file(const char *path, pico_status status, const pico_error *inner,
                         pico_error *err);

/* ---- models of several files: these readers open what lies beside the file they are given, and
 * their messages begin with the path of the file that is at fault ---- */

typedef struct pico_kept_map pico_kept_map;
struct pico_kept_map {
    pico_map map;
    pico_kept_map *next;
};
/* Keeps a map until the model file is closed. Takes it over and empties it, also on failure. */
pico_status pico_model_file_keep(pico_model_file *file, pico_map *map, pico_error *err);

/* nanochat.c: checkpoints of nanochat and its fork (.pt). detect: a ZIP archive. */
int pico_torch_detect(const pico_map *map);
/* path: the .pt file. Reads its metadata beside it; fills a zeroed file but for the vocabulary. */
pico_status pico_nanochat_open(const char *path, uint32_t generation, pico_model_file *file,
                               pico_error *err);
/* The checkpoint of the largest step in a folder; *out is from the file's arena. PICO_E_NOT_FOUND
 * if there is none. */
pico_status pico_nanochat_find(const char *folder, pico_arena *arena, const char **out,
                               pico_error *err);

/* tiktoken.c: the pickled tokenizer of nanochat (tokenizer.pkl). */
int pico_tiktoken_detect(const pico_map *map);
pico_status pico_tiktoken_read(const pico_map *map, pico_arena *arena, pico_vocab *vocab,
                               pico_error *err);

/* hf.c: a folder with config.json and .safetensors files (GPT-2, Llama). */
int pico_safetensors_detect(const pico_map *map);
/* path: the folder, or a .safetensors file, which then is the only one that is read. */
pico_status pico_hf_open(const char *path, int is_folder, pico_model_file *file, pico_error *err);

/* vocab_files.c: a tokenizer file of any kind as bytes, known by its content; n_vocab: tokens of the
 * model. The pieces may point into the map unless the kind copies them: see the reader of the kind. */
pico_status pico_vocab_read(const pico_map *map, uint32_t n_vocab, pico_arena *arena,
                            pico_vocab *vocab, pico_error *err);
/* A tokenizer file, or the first one that a folder has of tokenizer.pkl, tokenizer/tokenizer.pkl,
 * tokenizer.json, vocab.json + merges.txt, encoder.json + vocab.bpe, tokenizer.model. Of the last
 * four also what lies beside them: tokenizer_config.json, chat_template.jinja, and the special ids
 * of generation_config.json and config.json where the tokenizer names none. Such a vocabulary is
 * filled up to n_vocab when at most 1024 tokens are missing. Nothing of it stays mapped.
 * PICO_E_NOT_FOUND when a folder has none, with the names that were tried. */
pico_status pico_vocab_open(const char *path, uint32_t n_vocab, pico_arena *arena,
                            pico_vocab *vocab, pico_error *err);

#endif
