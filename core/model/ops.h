/*
 * The backend's ops as the model calls them: the description's constants filled in. Statuses are the
 * backend's. Not for other layers.
 */
#ifndef PICO_MODEL_OPS_H
#define PICO_MODEL_OPS_H

#include "model/model.h"

/* Runs an op and returns from the enclosing function if it fails. */
#define PICO_TRY(call)                                                                             \
    do {                                                                                           \
        pico_status status_ = (call);                                                              \
        if (status_ != PICO_OK) {                                                                  \
            return status_;                                                                        \
        }                                                                                          \
    } while (0)

/* The first rows of a work area (rows, any) as (rows, cols), contiguous. */
pico_tensor pico_op_part(const pico_tensor *area, uint32_t rows, uint32_t cols);

/* y = norm(x) of the model's kind, weight and bias where they have a buffer. */
pico_status pico_op_norm(const pico_model *model, const pico_tensor *x, const pico_tensor *weight,
                         const pico_tensor *bias, const pico_tensor *y);
/* y (+)= x W^T + bias; bias may be NULL. Rows [0, n_decode) are of the decode class. */
pico_status pico_op_linear(const pico_model *model, const pico_weight *weight, const pico_tensor *x,
                           const pico_tensor *bias, const pico_tensor *y, uint32_t n_decode,
                           uint32_t accumulate);
/* out (rows, width) (+)= the rows of table that index names. */
pico_status pico_op_lookup(const pico_model *model, const pico_weight *table,
                           const pico_tensor *index, const pico_tensor *out, uint32_t accumulate);
/* y = act(y), the model's activation or another. */
pico_status pico_op_activate(const pico_model *model, uint32_t kind, const pico_tensor *y);
/* Hands an activation to the model's tap, if there is one. Reads it back, so it is slow. */
pico_status pico_op_tap(const pico_model *model, uint32_t layer, const char *name,
                        const pico_tensor *rows);

#endif
