/*
 * Training: a forward pass that keeps what a backward pass needs, the backward pass for every family
 * of the model description, optimiser steps, and files with the result. The contract is
 * pico_train_api in plugin.h; this header adds what only the host needs. Losses, schedules and the
 * choice of an optimiser are a trainer plugin's.
 */
#ifndef PICO_TRAIN_TRAIN_H
#define PICO_TRAIN_TRAIN_H

#include "formats/model_file.h"
#include "model/model.h"
#include "plugin.h"

extern const pico_train_api pico_train_table;

/* The state of a model that learns; NULL if there is none. */
pico_train *pico_train_of(const pico_model *model);

/* Where pico_train_api.batch gets its tokens from; fn fills (n_seq, length + 1). */
typedef pico_status (*pico_batch_fn)(void *arg, uint32_t n_seq, uint32_t length, int32_t *tokens,
                                     pico_error *err);
void pico_train_set_source(pico_train *train, pico_batch_fn fn, void *arg);

/* Writes the model with its values as they are now as GGUF, atomically: in F32 what has been trained
 * or drawn, as it lies in the model's file what is frozen. Whatever else that file says is kept. */
pico_status pico_train_write(pico_train *train, const char *path, pico_error *err);

/* Draws fresh values for every parameter, frozen ones too, as nanochat initialises its models. */
pico_status pico_train_reset(pico_train *train, uint64_t seed, pico_error *err);
/* The same for extra heads alone. */
enum { PICO_TRAIN_MTP_HEADS = 1, PICO_TRAIN_DRAFT_HEAD = 2 };
pico_status pico_train_reset_heads(pico_train *train, uint32_t heads, uint64_t seed,
                                   pico_error *err);

/* Rows of one forward at most, and the longest sequence. */
void pico_train_extent(const pico_train *train, uint32_t *max_rows, uint32_t *max_length);

/* The last hidden rows, F32 (rows, n_embd), and the rope tables (max_length, rope_dim / 2); for
 * tests. */
pico_tensor pico_train_hidden(const pico_train *train);
void pico_train_rope(const pico_train *train, pico_tensor *cosine, pico_tensor *sine);
/* Bytes of the model's values in F32: no less than those in the file that pico_train_write makes. */
uint64_t pico_train_model_bytes(const pico_train *train);
/* Bytes on the device: parameters, gradients, activations. */
uint64_t pico_train_bytes(const pico_train *train);

/* Floating point operations so far, as the model's formulas ask for them (count.c): returns those of
 * this state; *frozen gets those of all frozen states on its device, teachers. Validation and
 * samples count, too: whoever wants those of a step takes differences. */
double pico_train_operations(const pico_train *train, double *frozen);
/* Parameters that multiply, heads included: all but embeddings, norms, biases and lambdas. */
double pico_train_multiplied(const pico_train *train);
/* Whether factors of products are rounded to BF16. */
int pico_train_is_bf16(const pico_train *train);

#endif
