/*
 * Shapes that are given as numbers: the plain families. Used for random weights and for models that
 * are yet to be trained. Nothing outside the folder includes it.
 */
#ifndef PICO_MODEL_SHAPES_H
#define PICO_MODEL_SHAPES_H

#include "plugin.h"

typedef struct pico_plain_shape {
    const char *name, *family; /* "llama", "gpt2", "nanochat" */
    uint32_t n_layer, n_embd, n_head, n_ff, n_vocab, n_ctx;
    uint32_t flags; /* beyond what the family always has */
} pico_plain_shape;

/* layer: (n_layer), is filled and belongs to the caller. nanochat is the first public generation. */
void pico_plain_shape_describe(const pico_plain_shape *shape, pico_layer_desc *layer,
                               pico_model_desc *desc);

#endif
