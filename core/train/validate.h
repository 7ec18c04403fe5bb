/*
 * How well a model in training predicts text: mean cross-entropy and bits per byte over rows of held-
 * out data, always the same ones.
 */
#ifndef PICO_TRAIN_VALIDATE_H
#define PICO_TRAIN_VALIDATE_H

#include "train/data.h"
#include "train/train.h"

typedef struct pico_train_meter pico_train_meter;

/* May allocate on the device, so before the first forward. data is borrowed; n_rows at most. */
pico_status pico_train_meter_open(pico_train *train, const pico_tokenizer *tokenizer,
                                  pico_train_data *data, uint32_t length, uint64_t n_rows,
                                  pico_train_meter **out, pico_error *err);
void pico_train_meter_close(pico_train_meter *meter); /* NULL is allowed */
/* nats per token; bits per byte of the predicted text, control tokens left out of both sides. */
pico_status pico_train_measure(pico_train_meter *meter, double *nats, double *bits_per_byte,
                               pico_error *err);

#endif
