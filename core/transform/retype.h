/*
 * The weights of a model file as plain floats of one type. Matrices get it; vectors (norms, biases)
 * become F32, as in every GGUF file. Codes are widened, with their scales, kept columns and the
 * scales of their inputs: the effective weight is what is rounded. It makes no codes.
 */
#ifndef PICO_TRANSFORM_RETYPE_H
#define PICO_TRANSFORM_RETYPE_H

#include "formats/model_file.h"

/* Rounds n values to F32, F16 or BF16, to nearest, ties to even; returns how many finite ones lie
 * beyond the largest that the type holds. */
uint64_t pico_narrow(const float *values, size_t n, uint32_t dtype, void *out);

/* What is of that type already stays where it lies. A finite value that the type does not hold is
 * PICO_E_LIMIT, with the tensor and how many there are; then the file is as before up to that tensor.
 * hooks: as for the writer; may be NULL. */
pico_status pico_retype(pico_model_file *file, uint32_t dtype, const pico_write_hooks *hooks,
                        pico_error *err);

#endif
