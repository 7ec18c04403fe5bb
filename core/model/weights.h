/* The weights of a model on its device; not for other layers. */
#ifndef PICO_MODEL_WEIGHTS_H
#define PICO_MODEL_WEIGHTS_H

#include "model/model.h"

/* Fills the weights of a model whose device, file, description and layers are set. A failure names
 * the tensor; what was made by then is pico_weights_free's. */
pico_status pico_weights_load(pico_model *model, pico_error *err);
void pico_weights_free(pico_model *model);

#endif
