/* Reading weights in the layout that pack.c makes: one value, or what a lane loads at a time. */
#ifndef PICO_BACKEND_CUDA_WEIGHTS_CUH
#define PICO_BACKEND_CUDA_WEIGHTS_CUH

#include "kernel.cuh"

__device__ __forceinline__ float cuda_weight_scale(const cuda_weight &w, int64_t row, int32_t col) {
    if (w.scales == NULL) {
        return 1.0f;
    }
    const int32_t in_row =
        w.group_shift >= 0 ? col >> w.group_shift : col / static_cast<int32_t>(w.group);
    const int64_t at = row * w.scale_row + in_row;
    return w.scale_half ? cuda_from_half(static_cast<const uint16_t *>(w.scales)[at])
                        : static_cast<const float *>(w.scales)[at];
}

/* The value of a column of codes. */
__device__ __forceinline__ float cuda_weight_code(const cuda_weight &w, int64_t row, int32_t col) {
    const char *codes = w.codes + row * w.row_bytes;
    switch (w.kind) {
    case CUDA_WEIGHT_F32:
        return reinterpret_cast<const float *>(codes)[col];
    case CUDA_WEIGHT_F16:
        return cuda_from_half(reinterpret_cast<const uint16_t *>(codes)[col]);
    case CUDA_WEIGHT_BF16:
        return cuda_from_bf16(reinterpret_cast<const uint16_t *>(codes)[col]);
    case CUDA_WEIGHT_I8:
        return static_cast<float>(reinterpret_cast<const int8_t *>(codes)[col]) *
               cuda_weight_scale(w, row, col);
    default: {
        const uint8_t pair = reinterpret_cast<const uint8_t *>(codes)[col / 2];
        const int code = col % 2 == 0 ? pair & 15 : pair >> 4;
        const float value = w.linear ? static_cast<float>(code - 8) : w.book[code];
        return value * cuda_weight_scale(w, row, col);
    }
    }
}

/* The value that meets an input: permutation, outliers and input scale put back. */
__device__ __forceinline__ float cuda_weight_value(const cuda_weight &w, int64_t row,
                                                   int32_t input) {
    const int32_t outlier = w.outlier_of == NULL ? -1 : w.outlier_of[input];
    const float value =
        outlier >= 0 ? cuda_from_half(w.outlier[row * w.n_outlier + outlier])
                     : cuda_weight_code(w, row, w.inverse == NULL ? input : w.inverse[input]);
    return w.input_scale == NULL ? value : value / w.input_scale[input];
}

#endif
