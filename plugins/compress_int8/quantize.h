/*
 * Numbers of one row: the largest magnitude, codes and scales of each layout. Pure functions; they
 * know nothing of tensors or options. All rounding is to F32 at every step, so that results are the
 * same everywhere. `limit` is the largest code: 127, or 7 for 4 bits.
 */
#ifndef COMPRESS_INT8_QUANTIZE_H
#define COMPRESS_INT8_QUANTIZE_H

#include <stdint.h>

/* A row of n values of a float type (PICO_DTYPE_F32, F16, BF16; any alignment) as F32. */
void int8_widen(uint32_t dtype, const void *row, int64_t n, float *out);

/* F16 with round to nearest even; beyond 65504 an infinity. */
uint16_t int8_f16(float x);
float int8_f32_of_f16(uint16_t h);

/* max |x|; infinity if any x is infinite or a NaN. 0 for n = 0. */
float int8_largest(const float *x, int64_t n);

/* max(largest / limit, 1e-8): the scale of int8 codes. */
float int8_scale(float largest, float limit);
/* codes = round to even (x / scale) within [-limit, limit]; all 0 where scale is 0. */
void int8_codes(const float *x, int64_t n, float scale, float limit, int8_t *codes);

/* Blocks of 32 as ggml lays them out (F16 scale, 32 codes); n is a multiple of 32. Returns 0 when a
 * scale does not fit into F16. */
int int8_blocks(const float *x, int64_t n, float limit, uint8_t *blocks);

#endif
