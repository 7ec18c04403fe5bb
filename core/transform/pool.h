/*
 * MHA -> fewer KV heads by mean-pooling (Ainslie et al. 2023, arXiv 2305.13245, section 2.1): each
 * new K and V head is the mean of the heads that it replaces. The result is a starting point that
 * needs training to recover; this code says nothing about its quality.
 */
#ifndef PICO_TRANSFORM_POOL_H
#define PICO_TRANSFORM_POOL_H

#include "formats/model_file.h"

/* Pools every layer that has more than n_kv_head KV heads. Float weights keep their type; a
 * quantised K or V is refused (convert before compressing). On failure the file is unusable for
 * anything but closing. */
pico_status pico_pool_kv_heads(pico_model_file *file, uint32_t n_kv_head, pico_error *err);

#endif
