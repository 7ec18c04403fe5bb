/*
 * Training data: documents as tokens, packed into rows of one length. A document is the
 * begin-of-text token (where the vocabulary has one) and its text; documents longer than a row are
 * cut into pieces that each begin so. Rows are filled by best fit: the longest piece that fits into
 * what is left, else the shortest one, cut; or as a stream, in which nothing is lost: what a row has
 * no room for begins the next one, behind a begin-of-text token. Each epoch has its own order, drawn
 * from the seed, so that the place in the data is the number of rows that were handed out.
 */
#ifndef PICO_TRAIN_DATA_H
#define PICO_TRAIN_DATA_H

#include "plugin.h"
#include "train/tokens.h"

typedef struct pico_train_data pico_train_data;

enum { PICO_PACKING_BEST_FIT = 0, PICO_PACKING_STREAM = 1 };

/* Rows of length + 1 tokens of the documents [first, first + n) of tokens, which are borrowed.
 * PICO_E_INVALID if they do not fill one. */
pico_status pico_train_data_open(const pico_train_tokens *tokens, uint64_t first, uint64_t n,
                                 uint32_t length, uint32_t packing, uint64_t seed,
                                 pico_train_data **out, pico_error *err);
void pico_train_data_close(pico_train_data *data); /* NULL is allowed */
/* Rows of the first epoch; tokens of all documents, each piece with its begin-of-text token. */
uint64_t pico_train_data_rows(const pico_train_data *data);
uint64_t pico_train_data_tokens(const pico_train_data *data);
/* The next n rows, (n, length + 1). */
void pico_train_data_next(pico_train_data *data, uint32_t n, int32_t *tokens);
/* Goes to a row, counted over all epochs. */
void pico_train_data_seek(pico_train_data *data, uint64_t row);
uint64_t pico_train_data_tell(const pico_train_data *data);

#endif
