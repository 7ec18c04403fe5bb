/*
 * Products of few rows: memory-bound, weights are read once for up to eight rows of x. A warp sums an
 * output: each lane over the columns that it loads, 16 bytes of codes at a time, in ascending order;
 * then the lanes in a tree. Neither the number of rows nor of outputs enters into the order of a sum.
 */
#include "products.cuh"

#define THREADS (CUDA_VECTOR_WARPS * CUDA_WARP)
#define BOOK_COPIES 32 /* one for each lane, so that lookups meet no bank twice */
#define BOOK_FLOATS (16 * BOOK_COPIES)

namespace {

template <int KIND> struct columns {
    enum {
        lane = KIND == CUDA_WEIGHT_F32    ? 4
               : KIND <= CUDA_WEIGHT_BF16 ? 8
               : KIND == CUDA_WEIGHT_I8   ? 16
                                          : 32
    };
};

/* Codes of a lane -> floats; scales are left out where all columns share one. */
template <int KIND>
__device__ __forceinline__ void decode(const uint4 &bits, const float *book, int linear,
                                       float *out) {
    const uint32_t word[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < columns<KIND>::lane; i++) {
        if (KIND == CUDA_WEIGHT_F32) {
            out[i] = __uint_as_float(word[i & 3]);
        } else if (KIND == CUDA_WEIGHT_F16) {
            out[i] = cuda_from_half(static_cast<uint16_t>(word[i / 2 & 3] >> 16 * (i & 1)));
        } else if (KIND == CUDA_WEIGHT_BF16) {
            out[i] = __uint_as_float(i & 1 ? word[i / 2 & 3] & 0xffff0000u : word[i / 2 & 3] << 16);
        } else if (KIND == CUDA_WEIGHT_I8) {
            out[i] = static_cast<float>(static_cast<int8_t>(word[i / 4 & 3] >> 8 * (i & 3) & 255));
        } else {
            const int code = static_cast<int>(word[i / 8 & 3] >> 4 * (i & 7) & 15);
            out[i] = linear ? static_cast<float>(code - 8)
                            : book[code * BOOK_COPIES + static_cast<int>(threadIdx.x % CUDA_WARP)];
        }
    }
}

/* Whether the columns that a lane takes at a time always share a scale. */
template <int KIND> __device__ __forceinline__ int shares_scale(const cuda_weight &w) {
    return w.group >= w.cols || w.group % columns<KIND>::lane == 0;
}

/* The columns of one lane from col on: decoded, and the scale that they share (1: none). */
template <int KIND>
__device__ __forceinline__ float load(const cuda_weight &w, int64_t row, int32_t col,
                                      const float *book, int shared, float *out) {
    const int per = columns<KIND>::lane;
    const int64_t bytes = static_cast<int64_t>(col / per) * 16;
    decode<KIND>(cuda_load16(w.codes + row * w.row_bytes + bytes), book, w.linear, out);
    if (KIND < CUDA_WEIGHT_I8) {
        return 1.0f;
    }
    if (shared) {
        return cuda_weight_scale(w, row, col);
    }
    const int32_t n = static_cast<int32_t>(w.cols) - col;
#pragma unroll
    for (int i = 0; i < columns<KIND>::lane; i++) {
        if (i < n) {
            out[i] *= cuda_weight_scale(w, row, col + i);
        }
    }
    return 1.0f;
}

/* Rows of x from col on into shared memory, in the order of cuda_chunk_place; zeros behind the last
 * column and the last row. Normalised on the way, and written where the norm's result belongs, by one
 * block. */
template <int KIND, int NX>
__device__ __forceinline__ void stage(const cuda_vector_job &job, int64_t row, int32_t col,
                                      int32_t n, const cuda_norm_row (&norm)[NX], bool writes,
                                      float *x) {
    const int32_t chunk = cuda_chunk_columns(NX);
#pragma unroll
    for (int r = 0; r < NX; r++) {
        const float *from = job.x + (row + r) * job.x_stride + col;
        const int real = row + r < job.rows;
        float *to = writes && real ? cuda_f32(job.norm.y, row + r, 0) + col : NULL;
        for (int32_t c = static_cast<int32_t>(threadIdx.x); c < n; c += THREADS) {
            float value = real && col + c < job.cols ? from[c] : 0.0f;
            if (job.normed && real && col + c < job.cols) {
                value = cuda_norm_value(job.norm, norm[r], value, col + c);
                if (to != NULL) {
                    to[c] = value;
                }
            }
            x[r * chunk + cuda_chunk_place(c, columns<KIND>::lane)] = value;
        }
    }
}

/* sum (NW, NX) += the columns of a chunk; row[w] of weight[w] */
template <int KIND, int NX, int NW>
__device__ __forceinline__ void add_chunk(const cuda_weight *const *weight, const int64_t *row,
                                          int32_t col, int32_t n, const float *x, const float *book,
                                          float (&sum)[NW * NX]) {
    const int per = columns<KIND>::lane, lane = static_cast<int>(threadIdx.x % CUDA_WARP);
    const int32_t chunk = cuda_chunk_columns(NX);
    for (int32_t at = 0; at < n; at += CUDA_WARP * per) {
        const int32_t own = col + at + lane * per;
#pragma unroll
        for (int w = 0; w < NW; w++) {
            if (row[w] < 0 || own >= weight[w]->cols) {
                continue;
            }
            float value[columns<KIND>::lane];
            const float scale = load<KIND>(*weight[w], row[w], own,
                                           book + (KIND == CUDA_WEIGHT_4BIT ? w * BOOK_FLOATS : 0),
                                           shares_scale<KIND>(*weight[w]), value);
#pragma unroll
            for (int r = 0; r < NX; r++) {
                float even = 0, odd = 0;
#pragma unroll
                for (int i = 0; i < per; i += 4) {
                    const float4 v =
                        cuda_load_floats(x + r * chunk + at + i * CUDA_WARP + lane * 4);
                    even = fmaf(value[i], v.x, even);
                    odd = fmaf(value[i + 1], v.y, odd);
                    even = fmaf(value[i + 2], v.z, even);
                    odd = fmaf(value[i + 3], v.w, odd);
                }
                sum[w * NX + r] = fmaf(scale, even + odd, sum[w * NX + r]);
            }
        }
    }
}

/* The lanes share the sums of a warp: the first of those that hold a sum writes it. */
template <int NX, int NW>
__device__ __forceinline__ void finish(const cuda_vector_job &job, const cuda_vector_part &part,
                                       const int64_t *output, int64_t row, float (&sum)[NW * NX]) {
    const int per = CUDA_WARP / (NW * NX), lane = static_cast<int>(threadIdx.x % CUDA_WARP);
    const int w = lane / per / NX, r = lane / per % NX;
    cuda_share_sums<NW * NX, CUDA_WARP>(sum);
    if (job.gate != 0) { /* the second product is half a warp away */
        const float other = __shfl_xor_sync(CUDA_ALL_LANES, sum[0], CUDA_WARP / 2);
        if (lane % per == 0 && w == 0 && output[0] >= 0 && row + r < job.rows) {
            part.y[(row + r) * part.y_stride + output[0]] = cuda_act(job.gate, sum[0]) * other;
        }
        return;
    }
    const int64_t out = NW == 1 || w == 0 ? output[0] : output[NW - 1];
    if (lane % per == 0 && out >= 0 && row + r < job.rows) {
        cuda_write_output(job, part, row + r, out, sum[0]);
    }
}

/* Blocks that read the same weights for other rows of x are neighbours, so that they run at the same
 * time and the weights come from the cache. */
template <int KIND, int NX, int NW>
__global__ void products(const __grid_constant__ cuda_vector_job job) {
    __shared__ __align__(16) float x[CUDA_VECTOR_FLOATS];
    __shared__ float part_sums[CUDA_VECTOR_WARPS * NX];
    __shared__ float book[KIND == CUDA_WEIGHT_4BIT ? NW * BOOK_FLOATS : 1];
    const uint32_t tiles = static_cast<uint32_t>((job.rows + NX - 1) / NX);
    const int warp = static_cast<int>(threadIdx.x / CUDA_WARP);
    const cuda_vector_part &part = job.part[cuda_part_of_block(job, blockIdx.x / tiles)];
    const int64_t block = static_cast<int64_t>(blockIdx.x / tiles - part.first_block);
    const int64_t row = static_cast<int64_t>(blockIdx.x % tiles) * NX;
    const cuda_weight *weight[NW];
    int64_t output[NW];
    for (int w = 0; w < NW; w++) {
        const int64_t per = job.gate ? 1 : NW, own = job.gate ? 0 : w;
        const int64_t at = (block * CUDA_VECTOR_WARPS + warp) * per + own;
        weight[w] = job.gate ? &job.part[w].weight : &part.weight;
        output[w] = at < weight[w]->rows ? at : -1;
    }
    for (int w = 0; KIND == CUDA_WEIGHT_4BIT && w < NW; w++) {
        for (int i = static_cast<int>(threadIdx.x); i < BOOK_FLOATS; i += THREADS) {
            book[w * BOOK_FLOATS + i] = weight[w]->linear ? 0.0f : weight[w]->book[i / BOOK_COPIES];
        }
    }
    cuda_release();
    cuda_await();
    cuda_norm_row norm[NX] = {};
    if (job.normed) {
        cuda_norm_rows<NX>(job.norm, row, part_sums, norm);
    }
    const bool writes = job.normed && blockIdx.x / tiles == 0;
    float sum[NW * NX] = {};
    const int32_t cols = static_cast<int32_t>(job.cols);
    for (int32_t col = 0; col < cols; col += cuda_chunk_columns(NX)) {
        const int32_t rest = cols - col, step = CUDA_WARP * columns<KIND>::lane;
        const int32_t whole = (rest + step - 1) / step * step, chunk = cuda_chunk_columns(NX);
        const int32_t n = whole < chunk ? whole : chunk;
        __syncthreads(); /* nobody reads the chunk before */
        stage<KIND, NX>(job, row, col, n, norm, writes, x);
        __syncthreads();
        add_chunk<KIND, NX, NW>(weight, output, col, n, x, book, sum);
    }
    finish<NX, NW>(job, part, output, row, sum);
}

template <int KIND, int NX> cudaError_t launch(cudaStream_t stream, const cuda_vector_job &args) {
    const cuda_vector_job job = args;
    const int gated = job.gate != 0;
    const int32_t outputs = cuda_vector_outputs(NX, gated);
    const int last = gated ? 0 : static_cast<int>(job.n_part) - 1;
    const int64_t blocks =
        job.part[last].first_block + cuda_ceil(job.part[last].weight.rows, outputs);
    const unsigned grid = static_cast<unsigned>(blocks * cuda_ceil(job.rows, NX));
    const auto two = products<KIND, NX, 2>;
    if (gated || NX >= 4) {
        CUDA_LAUNCH_EARLY(stream, grid, THREADS, 0, two, job);
    } else if constexpr (NX < 4) {
        const auto one = products<KIND, NX, 1>;
        CUDA_LAUNCH_EARLY(stream, grid, THREADS, 0, one, job);
    }
    return cuda_launched();
}

template <int KIND> cudaError_t launch_kind(cudaStream_t stream, const cuda_vector_job &job) {
    switch (cuda_vector_rows(job.rows)) {
    case 1:
        return launch<KIND, 1>(stream, job);
    case 2:
        return launch<KIND, 2>(stream, job);
    case 4:
        return launch<KIND, 4>(stream, job);
    default:
        return launch<KIND, CUDA_VECTOR_ROWS>(stream, job);
    }
}

} // namespace

cudaError_t cuda_run_vector(cudaStream_t stream, const cuda_vector_job *job) {
    switch (job->part[0].weight.kind) {
    case CUDA_WEIGHT_F32:
        return launch_kind<CUDA_WEIGHT_F32>(stream, *job);
    case CUDA_WEIGHT_F16:
        return launch_kind<CUDA_WEIGHT_F16>(stream, *job);
    case CUDA_WEIGHT_BF16:
        return launch_kind<CUDA_WEIGHT_BF16>(stream, *job);
    case CUDA_WEIGHT_I8:
        return launch_kind<CUDA_WEIGHT_I8>(stream, *job);
    default:
        return launch_kind<CUDA_WEIGHT_4BIT>(stream, *job);
    }
}
