/*
 * How a model in training continues a text: greedily, with the values as they are, through the
 * training state's own forward pass. There is no KV cache: each token runs the whole text again, so
 * this is for a few tokens now and then.
 */
#ifndef PICO_TRAIN_SAMPLE_H
#define PICO_TRAIN_SAMPLE_H

#include "tokenizer/tokenizer.h"
#include "train/train.h"

typedef struct pico_train_sampler pico_train_sampler;

/* A sampler of one prompt, which begins as documents of the training data do. At most n tokens
 * follow it, fewer where the state's longest sequence ends. PICO_E_LIMIT if the prompt alone is as
 * long as that. train and tokenizer are borrowed. */
pico_status pico_train_sampler_open(pico_train *train, const pico_tokenizer *tokenizer,
                                    const char *prompt, uint32_t n, pico_train_sampler **out,
                                    pico_error *err);
void pico_train_sampler_close(pico_train_sampler *sampler); /* NULL is allowed */
/* The text that follows the prompt, up to a token that ends it, NUL-terminated; it lives until the
 * next call. Between steps alone: the state's last forward is gone. Allocates nothing. */
pico_status pico_train_sample(pico_train_sampler *sampler, const char **text, pico_error *err);

#endif
