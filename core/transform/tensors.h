/*
 * The tensors of a model file as compressors see them: listed, read, replaced. Replacing copies
 * into the file's arena, so the file stays self-contained.
 */
#ifndef PICO_TRANSFORM_TENSORS_H
#define PICO_TRANSFORM_TENSORS_H

#include "formats/model_file.h"
#include "plugin.h"

struct pico_tensors {
    pico_model_file *file; /* borrowed */
};

extern const pico_tensors_api pico_tensors_table;

/* What info() says of one tensor of a file. */
pico_tensor_info pico_file_tensor_info(const pico_file_tensor *tensor);

#endif
