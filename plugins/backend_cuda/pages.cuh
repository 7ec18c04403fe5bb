/* Where things lie in a KV page; eight values of K or V at a time; storing those of a head. */
#ifndef PICO_BACKEND_CUDA_PAGES_CUH
#define PICO_BACKEND_CUDA_PAGES_CUH

#include "kernel.cuh"

/* Codes of K of a cell's head (of V: half_bytes further). */
__device__ __forceinline__ int64_t cuda_cell_codes(const cuda_kv_layout &kv, int32_t cell,
                                                   int32_t head) {
    const int32_t page = cell / 64, offset = cell % 64;
    return page * kv.page_bytes + 2 * kv.half_bytes * head +
           static_cast<int64_t>(offset) * kv.padded * kv.size;
}

/* Its scales. */
__device__ __forceinline__ int64_t cuda_cell_scales(const cuda_kv_layout &kv, int32_t cell,
                                                    int32_t head) {
    const int32_t page = cell / 64, offset = cell % 64;
    return page * kv.page_bytes + 2 * kv.half_bytes * head + kv.code_bytes +
           static_cast<int64_t>(offset) * kv.n_scale * 2;
}

/* Dimensions [d, d + 8) of a row of codes; scales are those of the position. */
template <int DTYPE>
__device__ __forceinline__ void cuda_load_eight(const char *codes, const char *scales, int32_t d,
                                                float *out) {
    if (DTYPE == PICO_DTYPE_F32) {
        const float4 a = cuda_load_floats(reinterpret_cast<const float *>(codes) + d);
        const float4 b = cuda_load_floats(reinterpret_cast<const float *>(codes) + d + 4);
        out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
        out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    } else if (DTYPE == PICO_DTYPE_Q8_0) {
        const uint2 bits = cuda_load8(codes + d);
        const float scale = cuda_from_half(reinterpret_cast<const uint16_t *>(scales)[d / 32]);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t word = i < 4 ? bits.x : bits.y;
            out[i] = static_cast<float>(static_cast<int8_t>(word >> 8 * (i & 3) & 255)) * scale;
        }
    } else {
        const uint4 bits = cuda_load16(codes + 2 * static_cast<int64_t>(d));
        const uint32_t word[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint16_t half = static_cast<uint16_t>(word[i / 2] >> 16 * (i & 1));
            out[i] = DTYPE == PICO_DTYPE_F16 ? cuda_from_half(half) : cuda_from_bf16(half);
        }
    }
}

/* One warp stores K or V of one head of one row; 32 dimensions at a time. A block of 32 values has one
 * F16 scale in Q8_0, max|x| / 127, and NaN where a value is not finite. */
__device__ __forceinline__ void cuda_store_row(const cuda_kv_layout &kv, const float *x,
                                               char *codes, char *scales, int lane) {
    for (int32_t d = lane; d < kv.padded; d += CUDA_WARP) { /* Q8_0: whole warps */
        const float value = d < kv.head_dim ? x[d] : 0.0f;
        if (kv.dtype == PICO_DTYPE_F32) {
            reinterpret_cast<float *>(codes)[d] = value;
        } else if (kv.dtype == PICO_DTYPE_F16) {
            reinterpret_cast<uint16_t *>(codes)[d] = cuda_to_half(value);
        } else if (kv.dtype == PICO_DTYPE_BF16) {
            reinterpret_cast<uint16_t *>(codes)[d] = cuda_to_bf16(value);
        } else {
            const float size = fabsf(value);
            const float finite = size <= 3.4e38f ? 0.0f : 1.0f; /* NaN is not <= */
            const float most = cuda_warp_max(size), odd = cuda_warp_max(finite);
            const uint16_t bits =
                odd != 0 ? static_cast<uint16_t>(0x7e00) : cuda_to_half(most / 127.0f);
            const float scale = cuda_from_half(bits);
            float code = scale > 0 ? rintf(value / scale) : 0.0f;
            code = code > 127.0f ? 127.0f : code < -127.0f ? -127.0f : code;
            reinterpret_cast<int8_t *>(codes)[d] = static_cast<int8_t>(odd != 0 ? 0.0f : code);
            if (lane == 0) {
                reinterpret_cast<uint16_t *>(scales)[d / 32] = bits;
            }
        }
    }
}

#endif
