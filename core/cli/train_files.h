/*
 * What training reads and writes: texts, cut into documents; models that are yet to be trained;
 * checkpoints. Part of cmd_train.c.
 */
#ifndef PICO_CLI_TRAIN_FILES_H
#define PICO_CLI_TRAIN_FILES_H

#include "config/config.h"
#include "formats/model_file.h"
#include "host/host.h"
#include "train/data.h"
#include "train/train.h"
#include "util/arena.h"

/* Documents of a file, or of all files of a folder in the order of their names. */
typedef struct pico_texts {
    char **text; /* (n_text) whole files, malloc-ed */
    size_t n_text, text_capacity;
    pico_train_text *document; /* (n_document) into text */
    size_t n_document, document_capacity;
} pico_texts;

/* separator: what stands between documents; NULL: <|endoftext|> where a file has it, else each file
 * is one document. Empty documents are dropped; PICO_E_INVALID if none is left. */
pico_status pico_texts_read(const char *path, const char *separator, pico_texts *out,
                            pico_error *err);
void pico_texts_free(pico_texts *texts);
/* The same, a file at a time: take gets the documents of each, which are freed when it returns. */
typedef pico_status pico_texts_take(void *arg, const pico_texts *file, pico_error *err);
pico_status pico_texts_each(const char *path, const char *separator, pico_texts_take *take,
                            void *arg, pico_error *err);
/* Moves a twentieth to out, which points into the same text: every 20th document, or the end of each
 * when there are fewer than 20. */
pico_status pico_texts_hold_out(pico_texts *texts, pico_train_text **out, size_t *n,
                                pico_error *err);

/* ---- train_fresh.c ---- */

/* Whether a model is to be made ([shape] n_layer). */
int pico_fresh_is_wanted(const pico_config *config);
/* Makes it, with the vocabulary of [model] tokenizer. *code: the exit code of a failure. */
pico_status pico_fresh_open(const pico_config *config, pico_model_file **out, int *code,
                            pico_error *err);
/* Opens [model] path, with the heads that [shape] adds; *heads: which (PICO_TRAIN_x of train.h), for
 * whoever draws their values. */
pico_status pico_extended_open(const pico_config *config, pico_model_file **out, uint32_t *heads,
                               int *code, pico_error *err);
/* One line about a fresh one. */
void pico_fresh_say(pico_log *log, const pico_model *model);

/* Where a run is, beside what the trainer saves. */
typedef struct pico_checkpoint {
    uint64_t step, rows; /* steps taken; rows of data handed out */
    uint64_t seed;
    uint32_t length, packing;
    double best; /* lowest bits per byte so far; infinity: none yet */
} pico_checkpoint;

/* Makes the folder if it is not there, and sees that the files of checkpoints can be written and fit,
 * the trainer's state and models. Removes what a killed process has left half written. A
 * run that goes on needs a state in it; one that begins refuses to write over one. */
pico_status pico_checkpoint_prepare(const char *folder, uint64_t state_bytes, uint64_t model_bytes,
                                    int goes_on, pico_error *err);
/* FOLDER/last.state, atomically: the checkpoint and the trainer's bytes. */
pico_status pico_checkpoint_write(const char *folder, const pico_checkpoint *at, const void *state,
                                  uint64_t bytes, pico_error *err);
/* *state is malloc-ed. PICO_E_NOT_FOUND if there is none; PICO_E_CORRUPT if it is cut off, damaged or
 * of another version: then nothing is handed out. */
pico_status pico_checkpoint_read(const char *folder, pico_checkpoint *at, void **state,
                                 uint64_t *bytes, pico_error *err);

#endif
