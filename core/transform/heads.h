/*
 * Heads for a model that has none: what multi-token heads and a draft head add to a description, and
 * their tensors, in F32 and all zero. It draws no values and trains nothing, and it replaces no head
 * that is there.
 */
#ifndef PICO_TRANSFORM_HEADS_H
#define PICO_TRANSFORM_HEADS_H

#include "formats/model_file.h"

typedef struct pico_heads_shape {
    uint32_t n_mtp_head;   /* 0: none are added */
    uint32_t n_draft;      /* slots of the draft head; 0: none is added */
    uint32_t draft_hidden; /* 0: half of the model's width */
    uint32_t draft_flags;  /* PICO_DRAFT_x */
} pico_heads_shape;

/* PICO_E_INVALID if the model has such heads already or the numbers are out of the limits: then the
 * file is as before. The tensors are from the file's arena. */
pico_status pico_heads_add(pico_model_file *file, const pico_heads_shape *shape, pico_error *err);

#endif
