/*
 * A whole model forward in double precision: slow, clear, without KV cache, pages or batches. It
 * recomputes everything for the whole sequence and masks attention with a window.
 */
#ifndef PICO_TESTS_REF_MODEL_H
#define PICO_TESTS_REF_MODEL_H

#include "formats/model_file.h"

typedef struct ref_mask {
    int32_t window_limit; /* narrows every layer's own window; -1: does not */
    uint32_t n_sink;      /* positions [0, n_sink) stay visible */
} ref_mask;

/* logits: (n, n_vocab). Returns 0 if memory is exhausted. */
int ref_model_logits(const pico_model_file *file, const ref_mask *attention, const int32_t *token,
                     uint32_t n, double *logits);
/* The same of multi-token head `head`, which predicts token t + 2 + head. */
int ref_model_mtp(const pico_model_file *file, const int32_t *token, uint32_t n, uint32_t head,
                  double *logits);
/* logits: (n, n_draft * tokens that it knows) of the draft head. One that reads the next token reads the
 * text's, and after the last token that again. */
int ref_model_draft(const pico_model_file *file, const int32_t *token, uint32_t n, double *logits);

#endif
