/*
 * Takes layers out of a model. What is left computes what the whole model would if the outputs of
 * attention and feed-forward of those layers were zero: residual lambdas of a layer that goes are
 * multiplied into those of the next one that stays. It does not say which layers are worth little.
 */
#ifndef PICO_TRANSFORM_DEPTH_H
#define PICO_TRANSFORM_DEPTH_H

#include "formats/model_file.h"

/* drop: (n_layer), 1 for those that go. PICO_E_UNSUPPORTED if that would be all of them, the backout
 * layer, or, with residual lambdas, the last one; PICO_E_INVALID for other values than 0 and 1. */
pico_status pico_depth_check(const pico_model_desc *desc, const uint8_t *drop, pico_error *err);

/* The description of the result; layers: (n_layer) desc's, which move up in place. */
void pico_depth_describe(pico_model_desc *desc, pico_layer_desc *layers, const uint8_t *drop);

/* What a tensor is called in the result, into text; n_layer: before. Returns 0 if it goes. */
typedef struct pico_depth_name {
    char text[64];
} pico_depth_name;
int pico_depth_rename(uint32_t n_layer, const uint8_t *drop, const char *name,
                      pico_depth_name *out);

/* 1 for the vectors with a value for each layer, which become F32. */
int pico_depth_is_lambdas(const char *name);

/* drop has passed the check. On failure the file is unusable for anything but closing. */
pico_status pico_depth_apply(pico_model_file *file, const uint8_t *drop, pico_error *err);

#endif
