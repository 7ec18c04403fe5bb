/*
 * Rows of weights in the layout of the kernels, and back, without loss: rows begin at multiples of 16
 * bytes, the scales of blocks lie apart from their codes, and eight 4-bit codes make a word in the
 * order of their columns.
 */
#include <string.h>

#include "cuda.h"
#include "shapes.h"

uint64_t cuda_file_row_bytes(uint32_t dtype, int64_t cols) {
    const uint64_t n = (uint64_t)cols;
    switch (dtype) {
    case PICO_DTYPE_F32:
        return n * 4;
    case PICO_DTYPE_F16:
    case PICO_DTYPE_BF16:
        return n * 2;
    case PICO_DTYPE_I8:
        return n;
    case PICO_DTYPE_NF4:
        return (n + 1) / 2;
    case PICO_DTYPE_Q8_0:
        return n % 32 == 0 ? n / 32 * 34 : 0;
    case PICO_DTYPE_Q4_0:
        return n % 32 == 0 ? n / 32 * 18 : 0;
    default:
        return 0;
    }
}

int64_t cuda_device_row_bytes(uint32_t dtype, int64_t cols) {
    switch (dtype) {
    case PICO_DTYPE_F32:
        return cuda_pad(cols * 4, 16);
    case PICO_DTYPE_F16:
    case PICO_DTYPE_BF16:
        return cuda_pad(cols * 2, 16);
    case PICO_DTYPE_I8:
    case PICO_DTYPE_Q8_0:
        return cuda_pad(cols, 16);
    default:
        return cuda_pad(cuda_ceil(cols, 2), 16);
    }
}

static void put_nibble(uint8_t *codes, int64_t column, uint32_t code) {
    codes[column / 2] |= (uint8_t)(column % 2 == 0 ? code : code << 4);
}

static uint32_t nibble(const uint8_t *codes, int64_t column) {
    return column % 2 == 0 ? codes[column / 2] & 15u : codes[column / 2] >> 4;
}

void cuda_pack_row(uint32_t dtype, int64_t cols, const uint8_t *from, uint8_t *codes,
                   uint16_t *scales) {
    memset(codes, 0, (size_t)cuda_device_row_bytes(dtype, cols));
    switch (dtype) {
    case PICO_DTYPE_Q8_0:
        for (int64_t b = 0; b < cols / 32; b++) {
            memcpy(scales + b, from + b * 34, 2);
            memcpy(codes + b * 32, from + b * 34 + 2, 32);
        }
        break;
    case PICO_DTYPE_Q4_0:
        for (int64_t b = 0; b < cols / 32; b++) {
            memcpy(scales + b, from + b * 18, 2);
            for (int64_t j = 0; j < 16; j++) {
                const uint32_t pair = from[b * 18 + 2 + j];
                put_nibble(codes, b * 32 + j, pair & 15u);
                put_nibble(codes, b * 32 + 16 + j, pair >> 4);
            }
        }
        break;
    case PICO_DTYPE_NF4: /* a file has the first of two in the high bits */
        for (int64_t c = 0; c < cols; c++) {
            put_nibble(codes, c, c % 2 == 0 ? from[c / 2] >> 4 : from[c / 2] & 15u);
        }
        if (cols % 2 != 0) { /* what a file has behind the last column */
            put_nibble(codes, cols, from[cols / 2] & 15u);
        }
        break;
    default:
        memcpy(codes, from, (size_t)cuda_file_row_bytes(dtype, cols));
        break;
    }
}

void cuda_unpack_row(uint32_t dtype, int64_t cols, const uint8_t *codes, const uint16_t *scales,
                     uint8_t *to) {
    switch (dtype) {
    case PICO_DTYPE_Q8_0:
        for (int64_t b = 0; b < cols / 32; b++) {
            memcpy(to + b * 34, scales + b, 2);
            memcpy(to + b * 34 + 2, codes + b * 32, 32);
        }
        break;
    case PICO_DTYPE_Q4_0:
        for (int64_t b = 0; b < cols / 32; b++) {
            memcpy(to + b * 18, scales + b, 2);
            for (int64_t j = 0; j < 16; j++) {
                to[b * 18 + 2 + j] =
                    (uint8_t)(nibble(codes, b * 32 + j) | nibble(codes, b * 32 + 16 + j) << 4);
            }
        }
        break;
    case PICO_DTYPE_NF4:
        for (int64_t c = 0; c < cols; c += 2) {
            to[c / 2] = (uint8_t)(nibble(codes, c) << 4 | nibble(codes, c + 1));
        }
        break;
    default:
        memcpy(to, codes, (size_t)cuda_file_row_bytes(dtype, cols));
        break;
    }
}
