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

/* Eight values of K or V as they lie in a page. */
template <int DTYPE> struct cuda_eight {
    uint4 first, second; /* F32 takes both, 16 bits the first, codes half of it */
    uint16_t scale;
};

/* Dimensions [d, d + 8) of a row of codes; scales are those of the position. */
template <int DTYPE>
__device__ __forceinline__ void cuda_load_raw(const char *codes, const char *scales, int32_t d,
                                              cuda_eight<DTYPE> *out) {
    if (DTYPE == PICO_DTYPE_F32) {
        out->first = cuda_load16(codes + static_cast<int64_t>(d) * 4);
        out->second = cuda_load16(codes + static_cast<int64_t>(d) * 4 + 16);
    } else if (DTYPE == PICO_DTYPE_Q8_0) {
        const uint2 bits = cuda_load8(codes + d);
        out->first.x = bits.x;
        out->first.y = bits.y;
        out->scale = reinterpret_cast<const uint16_t *>(scales)[d / 32];
    } else {
        out->first = cuda_load16(codes + static_cast<int64_t>(d) * 2);
    }
}

template <int DTYPE>
__device__ __forceinline__ void cuda_floats_of(const cuda_eight<DTYPE> &raw, float (&out)[8]) {
    const uint32_t word[8] = {raw.first.x,  raw.first.y,  raw.first.z,  raw.first.w,
                              raw.second.x, raw.second.y, raw.second.z, raw.second.w};
    const float scale = DTYPE == PICO_DTYPE_Q8_0 ? cuda_from_half(raw.scale) : 1.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (DTYPE == PICO_DTYPE_F32) {
            out[i] = __uint_as_float(word[i]);
        } else if (DTYPE == PICO_DTYPE_Q8_0) {
            out[i] =
                static_cast<float>(static_cast<int8_t>(word[i / 4] >> 8 * (i & 3) & 255)) * scale;
        } else {
            const uint16_t half = static_cast<uint16_t>(word[i / 2] >> 16 * (i & 1));
            out[i] = DTYPE == PICO_DTYPE_F16 ? cuda_from_half(half) : cuda_from_bf16(half);
        }
    }
}

template <int DTYPE>
__device__ __forceinline__ void cuda_load_eight(const char *codes, const char *scales, int32_t d,
                                                float (&out)[8]) {
    cuda_eight<DTYPE> raw = {};
    cuda_load_raw<DTYPE>(codes, scales, d, &raw);
    cuda_floats_of<DTYPE>(raw, out);
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
