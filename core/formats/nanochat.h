/*
 * What the files of the nanochat reader share: configuration, the table of a checkpoint's tensors,
 * names, and reading from memory for tests and fuzz targets.
 */
#ifndef PICO_FORMATS_NANOCHAT_H
#define PICO_FORMATS_NANOCHAT_H

#include "formats/expect.h"
#include "formats/model_file.h"
#include "formats/torch.h"

/* A checkpoint and, beside it, its metadata; meta NULL: there is none. All borrowed. */
typedef struct pico_nanochat_source {
    const char *path;
    pico_map map;
    const char *meta_path;
    const char *meta;
    size_t n_meta;
} pico_nanochat_source;

/* Fills a zeroed file but for the vocabulary. Nothing points into the source afterwards. Messages
 * begin with the path of the file that is at fault. */
pico_status pico_nanochat_read(const pico_nanochat_source *source, uint32_t generation,
                               pico_model_file *file, pico_error *err);

/* ---- nanochat_config.c ---- */

/* model_config, within the limits of model_file.h. */
typedef struct pico_nanochat_config {
    int64_t sequence_len, vocab_size, n_layer, n_head, n_kv_head, n_embd;
    int64_t multi_token_n, draft_n; /* -1: not said */
    int64_t use_mqa;                /* 0 or 1 */
    char window_pattern[128];       /* upper case; "": not said */
} pico_nanochat_config;

/* meta_*.json: its key model_config. */
pico_status pico_nanochat_config_json(const char *text, size_t n, pico_nanochat_config *out,
                                      pico_error *err);
/* The same as a dict of a pickle. */
pico_status pico_nanochat_config_pickle(const pico_pickle_value *dict, pico_nanochat_config *out,
                                        pico_error *err);

/* ---- nanochat_table.c: the tensors of a checkpoint, sorted by name ---- */

typedef struct pico_nanochat_entry {
    const char *name; /* as in the file, without _orig_mod. */
    pico_torch_tensor tensor;
    double scale; /* of an int8 export */
    int has_scale, taken;
} pico_nanochat_entry;

typedef struct pico_nanochat_table {
    pico_nanochat_entry *entry; /* (n) */
    uint64_t n;
} pico_nanochat_table;

/* weights: a dict of tensors; scales: a dict of numbers by the same names, or NULL. */
pico_status pico_nanochat_table_build(const pico_pickle_value *weights,
                                      const pico_pickle_value *scales, pico_arena *arena,
                                      pico_nanochat_table *out, pico_error *err);
/* NULL: there is none. */
pico_nanochat_entry *pico_nanochat_find_entry(const pico_nanochat_table *table, const char *name);
/* The first one whose name begins and ends so. */
const pico_nanochat_entry *pico_nanochat_match_entry(const pico_nanochat_table *table,
                                                     const char *begin, const char *end);

/* What nanochat calls the tensor with a canonical name. */
typedef struct pico_nanochat_name {
    char text[96];
} pico_nanochat_name;
const char *pico_nanochat_name_of(pico_nanochat_name *out, const char *canonical);

/* ---- nanochat_desc.c ---- */

/* The description of a model with that configuration and these tensors; layers from the arena.
 * *generation is what was asked for (PICO_GENERATION_x); AUTO is replaced by what it is. */
pico_status pico_nanochat_describe(const pico_nanochat_config *config,
                                   const pico_nanochat_table *table, pico_arena *arena,
                                   uint32_t *generation, pico_model_desc *desc, pico_error *err);
/* The same for a model that is yet to be made: with all parts of the generation (not AUTO), rows of
 * the vocabulary padded to a multiple of 64, and heads as config says. Checked by the caller. */
pico_status pico_nanochat_describe_new(const pico_nanochat_config *config, uint32_t generation,
                                       pico_arena *arena, pico_model_desc *desc, pico_error *err);

#endif
