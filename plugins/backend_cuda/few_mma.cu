/*
 * Products of few rows on tensor cores, for BF16 and int8 weights: memory-bound, so that sixteen rows
 * cost about what one does. x is not rounded: each value is the sum of three BF16 parts, and int8
 * codes are exact in BF16.
 *
 * A warp multiplies up to 16 rows of x with 8 outputs, `unit` (32) columns at a time; the warps of a
 * block share the columns, step by step in turns, and their sums are added up in their order. Neither
 * the number of rows nor of outputs enters into the order of a sum.
 *
 * Weights do not depend on what runs before: the first of them are on their way before the kernel
 * waits for its input.
 */
#include "mma.cuh"
#include "products.cuh"

#define WARPS CUDA_FEW_WARPS
#define THREADS (WARPS * CUDA_WARP)
#define PARTS 3 /* of a value of x */

namespace {

/* Units that a lane's 16 bytes of an output reach into. */
template <int KIND> struct step {
    enum { units = KIND == CUDA_WEIGHT_BF16 ? 1 : 2, columns = units * CUDA_FEW_UNIT };
};

/* NT tiles of 8 outputs; what a lane knows about its row of weights in each. */
template <int NT> struct rows_of_lane {
    const char *codes[NT]; /* of output lane / 4 */
    const cuda_weight *weight[NT];
    int64_t output[NT]; /* first of the tile */
};

template <int NT, int GROUPED> struct batch_size {
    enum { steps = (GROUPED ? 2 : 4) / NT < 1 ? 1 : (GROUPED ? 2 : 4) / NT };
};

/* Codes, and scales, of some steps. */
template <int KIND, int GROUPED, int NT> struct batch {
    uint4 codes[batch_size<NT, GROUPED>::steps][NT];
    float scale[GROUPED ? batch_size<NT, GROUPED>::steps : 1][NT][step<KIND>::units][2];
};

template <int KIND>
__device__ __forceinline__ uint4 load_codes(const char *row, int64_t row_bytes, int32_t at) {
    const int32_t lane = static_cast<int32_t>(threadIdx.x % 4);
    const uint4 nothing = {0, 0, 0, 0};
    if (KIND == CUDA_WEIGHT_BF16) {
        const int64_t byte = static_cast<int64_t>(at) * (CUDA_FEW_UNIT * 2) + lane * 16;
        return byte < row_bytes ? cuda_load16(row + byte) : nothing;
    }
    uint4 out = nothing;
    const int64_t byte = static_cast<int64_t>(at) * (CUDA_FEW_UNIT * 2) + lane * 8;
    if (byte < row_bytes) {
        const uint2 bits = cuda_load8(row + byte);
        out.x = bits.x;
        out.y = bits.y;
    }
    if (byte + CUDA_FEW_UNIT < row_bytes) {
        const uint2 bits = cuda_load8(row + byte + CUDA_FEW_UNIT);
        out.z = bits.x;
        out.w = bits.y;
    }
    return out;
}

/* Scales of the units of a step, for the two outputs whose sums this lane holds. */
template <int KIND>
__device__ __forceinline__ void load_scales(const cuda_weight &w, int64_t tile, int32_t at,
                                            int32_t stop, float (&out)[step<KIND>::units][2]) {
#pragma unroll
    for (int u = 0; u < step<KIND>::units; u++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int64_t o = tile + threadIdx.x % 4 * 2 + j;
            const int32_t col = at * step<KIND>::columns + u * CUDA_FEW_UNIT;
            const bool real = at < stop && col < w.cols && o < w.rows;
            out[u][j] = real ? cuda_weight_scale(w, o, col) : 0;
        }
    }
}

/* Steps first, first + WARPS, ... of this warp; nothing from `stop` on. */
template <int KIND, int GROUPED, int NT>
__device__ __forceinline__ void load_batch(const rows_of_lane<NT> &at, int32_t first, int32_t stop,
                                           batch<KIND, GROUPED, NT> &out) {
#pragma unroll
    for (int i = 0; i < batch_size<NT, GROUPED>::steps; i++) {
        const int32_t s = first + i * WARPS;
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const uint4 nothing = {0, 0, 0, 0};
            out.codes[i][n] =
                s < stop ? load_codes<KIND>(at.codes[n], at.weight[n]->row_bytes, s) : nothing;
            if constexpr (GROUPED != 0) {
                load_scales<KIND>(*at.weight[n], at.output[n], s, stop, out.scale[i][n]);
            }
        }
    }
}

/* Four int8 codes -> two pairs of BF16. */
__device__ __forceinline__ void widen(uint32_t codes, uint32_t *out) {
    const uint32_t biased = codes ^ 0x80808080u; /* code + 128 */
    const float shift = 8388736.0f;              /* 2^23 + 128 */
    uint32_t bits[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t byte = biased >> 8 * i & 255u;
        bits[i] = __float_as_uint(__uint_as_float(0x4b000000u | byte) - shift);
    }
    out[0] = bits[0] >> 16 | (bits[1] & 0xffff0000u);
    out[1] = bits[2] >> 16 | (bits[3] & 0xffff0000u);
}

/* Eight columns of an output as four pairs of BF16; unit u of a step. */
template <int KIND>
__device__ __forceinline__ void pairs_of(const uint4 &codes, int u, uint32_t (&out)[4]) {
    if (KIND == CUDA_WEIGHT_BF16) {
        out[0] = codes.x, out[1] = codes.y, out[2] = codes.z, out[3] = codes.w;
    } else {
        widen(u == 0 ? codes.x : codes.z, out);
        widen(u == 0 ? codes.y : codes.w, out + 2);
    }
}

/* x of a chunk of columns in shared memory: (PARTS, NX, stride) BF16. */
template <int NX> struct input {
    uint16_t *x;
    int32_t stride;
};

/* Bytes between rows leave 64 over of a multiple of 128: a quarter of a warp meets every bank once. */
__device__ __host__ __forceinline__ int32_t stride_of(int32_t columns) {
    return columns + 32;
}

/* One unit: sum (NT, PARTS, 4) += x * weights */
template <int NX>
__device__ __forceinline__ void multiply(const input<NX> &in, int32_t col, const uint32_t (&w)[4],
                                         float (&sum)[PARTS][4]) {
    const int32_t lane = static_cast<int32_t>(threadIdx.x % CUDA_WARP), g = lane / 4;
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        uint4 low = {0, 0, 0, 0}, high = {0, 0, 0, 0};
        const uint16_t *from = in.x + (p * NX + g) * in.stride + col + lane % 4 * 8;
        if (NX >= 8 || g < NX) {
            low = cuda_load16(from);
        }
        if (NX > 8) {
            high = cuda_load16(from + 8 * in.stride);
        }
        const uint32_t first[4] = {low.x, high.x, low.y, high.y};
        const uint32_t second[4] = {low.z, high.z, low.w, high.w};
        cuda_mma_bf16(sum[p], first, w[0], w[1]);
        cuda_mma_bf16(sum[p], second, w[2], w[3]);
    }
}

/* The parts of a sum, smallest first. */
__device__ __forceinline__ float whole(const float (&sum)[PARTS][4], int i) {
    return sum[2][i] + sum[1][i] + sum[0][i];
}

/* Those steps of a batch that lie in [begin, stop): sum (NT, PARTS, 4) of them, or total (NT, 4) of
 * scaled units. */
template <int KIND, int GROUPED, int NX, int NT>
__device__ __forceinline__ void add_batch(const batch<KIND, GROUPED, NT> &b, const input<NX> &in,
                                          int32_t first, int32_t begin, int32_t stop,
                                          float (&sum)[NT][PARTS][4], float (&total)[NT][4]) {
#pragma unroll
    for (int i = 0; i < batch_size<NT, GROUPED>::steps; i++) {
        const int32_t s = first + i * WARPS;
        if (s < begin || s >= stop) { /* the same for all lanes */
            continue;
        }
#pragma unroll
        for (int u = 0; u < step<KIND>::units; u++) {
            const int32_t col = (s - begin) * step<KIND>::columns + u * CUDA_FEW_UNIT;
#pragma unroll
            for (int n = 0; n < NT; n++) {
                uint32_t w[4];
                pairs_of<KIND>(b.codes[i][n], u, w);
                if (!GROUPED) {
                    multiply<NX>(in, col, w, sum[n]);
                    continue;
                }
                float unit[PARTS][4] = {};
                multiply<NX>(in, col, w, unit);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    total[n][j] = fmaf(b.scale[i][n][u][j % 2], whole(unit, j), total[n][j]);
                }
            }
        }
    }
}

/* Columns of a thread that are loaded together. */
template <int NX> struct together {
    enum { n = NX == 1 ? 8 : NX <= 4 ? 4 : NX == 8 ? 2 : 1 };
};

/* Columns [begin, begin + n) of rows [row, row + NX) of x into shared memory, zeros where there are
 * none; normalised on the way, and written where the norm's result belongs, by one block. */
template <int NX>
__device__ __forceinline__ void stage(const cuda_vector_job &job, int64_t row, int32_t begin,
                                      int32_t n, const cuda_norm_row (&norm)[NX], bool writes,
                                      const input<NX> &in) {
    enum { T = together<NX>::n };
    const int32_t cols = static_cast<int32_t>(job.cols) - begin;
    for (int32_t c = static_cast<int32_t>(threadIdx.x); c < n; c += T * THREADS) {
        float value[T][NX];
#pragma unroll
        for (int k = 0; k < T; k++) {
#pragma unroll
            for (int r = 0; r < NX; r++) {
                const bool real = row + r < job.rows && c + k * THREADS < cols;
                value[k][r] =
                    real ? job.x[(row + r) * job.x_stride + begin + c + k * THREADS] : 0.0f;
            }
        }
#pragma unroll
        for (int k = 0; k < T; k++) {
            const int32_t at = c + k * THREADS;
            if (at < n) {
#pragma unroll
                for (int r = 0; r < NX; r++) {
                    if (job.normed && row + r < job.rows && at < cols) {
                        value[k][r] = cuda_norm_value(job.norm, norm[r], value[k][r], begin + at);
                        if (writes) {
                            cuda_f32(job.norm.y, row + r, 0)[begin + at] = value[k][r];
                        }
                    }
                    uint16_t part[PARTS];
                    cuda_split_bf16(value[k][r], part[0], part[1], part[2]);
#pragma unroll
                    for (int p = 0; p < PARTS; p++) {
                        in.x[(p * NX + r) * in.stride + at] = part[p];
                    }
                }
            }
        }
    }
}

/* The sums of all warps, in their order; room (WARPS, NT, 16, 8). */
template <int GROUPED, int NX, int NT>
__device__ __forceinline__ void finish(const cuda_vector_job &job, const cuda_vector_part &part,
                                       const rows_of_lane<NT> &at, int64_t row,
                                       const float (&total)[NT][4], float *room) {
    const int32_t lane = static_cast<int32_t>(threadIdx.x % CUDA_WARP);
    const int32_t warp = static_cast<int32_t>(threadIdx.x / CUDA_WARP);
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int32_t r = lane / 4 + j / 2 * 8, o = lane % 4 * 2 + j % 2;
            if (r < NX) {
                room[((warp * NT + n) * NX + r) * 8 + o] = total[n][j];
            }
        }
    }
    __syncthreads();
    const int32_t tiles = job.gate ? 1 : NT;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < tiles * NX * 8; i += THREADS) {
        const int32_t n = i / 8 % tiles, r = i / 8 / tiles, o = i % 8;
        const int64_t output = (tiles == 1 ? at.output[0] : at.output[0] + n * 8) + o;
        if (row + r >= job.rows || output >= part.weight.rows) {
            continue;
        }
        float sum[2] = {};
        for (int32_t k = 0; k < (job.gate ? 2 : 1); k++) {
            const cuda_weight &w = job.part[k].weight;
            for (int32_t v = 0; v < WARPS; v++) {
                sum[k] += room[((v * NT + n + k) * NX + r) * 8 + o];
            }
            if (!GROUPED) {
                sum[k] *= cuda_weight_scale(job.gate ? w : part.weight, output, 0);
            }
        }
        if (job.gate) {
            part.y[(row + r) * part.y_stride + output] = cuda_act(job.gate, sum[0]) * sum[1];
        } else {
            cuda_write_output(job, part, row + r, output, sum[0]);
        }
    }
}

/* The outputs that a block takes at a time: NT tiles of one part. */
template <int NT>
__device__ __forceinline__ const cuda_vector_part *
find_rows(const cuda_vector_job &job, uint32_t block, rows_of_lane<NT> *out) {
    const cuda_vector_part *part = &job.part[cuda_part_of_block(job, block)];
    const int64_t own = static_cast<int64_t>(block - part->first_block);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        out->weight[n] = job.gate ? &job.part[n & 1].weight : &part->weight;
        out->output[n] = job.gate ? own * 8 : (own * NT + n) * 8;
        const int64_t at = out->output[n] + threadIdx.x % CUDA_WARP / 4;
        const int64_t last = out->weight[n]->rows - 1;
        out->codes[n] = out->weight[n]->codes + (at < last ? at : last) * out->weight[n]->row_bytes;
    }
    return part;
}

/* Blocks that read the same weights for other rows of x are neighbours. A block goes on to further
 * outputs where all of x is in shared memory at once; the codes for them are asked for before the sums
 * at hand are finished. */
template <int KIND, int GROUPED, int NX, int NT>
__global__ void __launch_bounds__(THREADS, CUDA_FEW_RESIDENT)
    few_rows(const __grid_constant__ cuda_vector_job job) {
    if (!CUDA_MMA_LAUNCHED) {
        return;
    }
    CUDA_DYNAMIC_SHARED(uint16_t, memory);
    __shared__ float part_sums[WARPS * NX];
    __shared__ float room[WARPS * NT * NX * 8];
    cuda_release();
    const uint32_t tiles = static_cast<uint32_t>((job.rows + NX - 1) / NX);
    const uint32_t stride = gridDim.x / tiles;
    const int64_t row = static_cast<int64_t>(blockIdx.x % tiles) * NX;
    const int32_t cols = static_cast<int32_t>(job.cols);
    const int32_t steps = (cols + step<KIND>::columns - 1) / step<KIND>::columns;
    const int32_t jump = WARPS * batch_size<NT, GROUPED>::steps;
    const int32_t warp = static_cast<int32_t>(threadIdx.x / CUDA_WARP);
    const int32_t chunk = job.chunk / step<KIND>::columns;
    const input<NX> in = {memory, stride_of(job.chunk)};
    uint32_t block = blockIdx.x / tiles;
    rows_of_lane<NT> at;
    const cuda_vector_part *part = find_rows<NT>(job, block, &at);
    batch<KIND, GROUPED, NT> now, next;
    load_batch<KIND, GROUPED, NT>(at, warp, steps, now);
    load_batch<KIND, GROUPED, NT>(at, warp + jump, steps, next);
    cuda_await();

    cuda_norm_row norm[NX] = {};
    if (job.normed) {
        cuda_norm_rows<NX>(job.norm, row, part_sums, norm);
    }
    bool staged = false;
    for (; block < job.n_block; block += stride) {
        float sum[NT][PARTS][4] = {}, total[NT][4] = {};
        int32_t first = warp;
        for (int32_t begin = 0; begin < steps; begin += chunk) {
            const int32_t stop = begin + chunk < steps ? begin + chunk : steps;
            if (!staged || chunk < steps) {
                __syncthreads(); /* nobody reads the chunk before */
                stage<NX>(job, row, begin * step<KIND>::columns,
                          (stop - begin) * step<KIND>::columns, norm, job.normed && block == 0, in);
                __syncthreads();
                staged = true;
            }
            while (first < stop) {
                add_batch<KIND, GROUPED, NX, NT>(now, in, first, begin, stop, sum, total);
                if (stop < steps && first + jump - WARPS >= stop) {
                    break; /* the rest of the batch lies in the next chunk */
                }
                now = next;
                load_batch<KIND, GROUPED, NT>(at, first + 2 * jump, steps, next);
                first += jump;
            }
        }
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int j = 0; j < 4 && !GROUPED; j++) {
                total[n][j] = whole(sum[n], j);
            }
        }
        const rows_of_lane<NT> done = at;
        const cuda_vector_part *ended = part;
        if (block + stride < job.n_block) {
            part = find_rows<NT>(job, block + stride, &at);
            load_batch<KIND, GROUPED, NT>(at, warp, steps, now);
            load_batch<KIND, GROUPED, NT>(at, warp + jump, steps, next);
        }
        finish<GROUPED, NX, NT>(job, *ended, done, row, total, room);
        __syncthreads(); /* the room was read */
    }
}

template <int KIND, int GROUPED, int NX, int NT>
cudaError_t launch(cudaStream_t stream, const cuda_vector_job &args) {
    const int32_t columns = step<KIND>::columns;
    const int32_t all = static_cast<int32_t>(cuda_pad(args.cols, columns));
    cuda_vector_job job = args;
    job.chunk = all < cuda_few_chunk(NX) ? all : cuda_few_chunk(NX);
    const int last = job.gate ? 0 : static_cast<int>(job.n_part) - 1;
    job.n_block =
        job.part[last].first_block +
        static_cast<uint32_t>(cuda_ceil(job.part[last].weight.rows, job.gate ? 8 : NT * 8));
    const int64_t tiles = cuda_ceil(job.rows, NX);
    const int64_t most = job.chunk < all ? job.n_block : cuda_ceil(job.resident, tiles);
    const unsigned grid = static_cast<unsigned>(cuda_least(job.n_block, most) * tiles);
    const int bytes = PARTS * NX * stride_of(job.chunk) * 2;
    const auto kernel = few_rows<KIND, GROUPED, NX, NT>;
    cudaError_t error = cuda_allow_shared(kernel, bytes);
    if (error == cudaSuccess) {
        CUDA_LAUNCH_EARLY(stream, grid, THREADS, bytes, kernel, job);
        error = cuda_launched();
    }
    return error;
}

template <int KIND, int GROUPED, int NX>
cudaError_t launch_tiles(cudaStream_t stream, const cuda_vector_job &job) {
    return job.gate || job.tiles == 2 ? launch<KIND, GROUPED, NX, 2>(stream, job)
                                      : launch<KIND, GROUPED, NX, 1>(stream, job);
}

template <int KIND, int GROUPED>
cudaError_t launch_kind(cudaStream_t stream, const cuda_vector_job &job) {
    switch (cuda_few_rows(job.rows)) {
    case 1:
        return launch_tiles<KIND, GROUPED, 1>(stream, job);
    case 2:
        return launch_tiles<KIND, GROUPED, 2>(stream, job);
    case 4:
        return launch_tiles<KIND, GROUPED, 4>(stream, job);
    case 8:
        return launch_tiles<KIND, GROUPED, 8>(stream, job);
    default:
        return launch_tiles<KIND, GROUPED, 16>(stream, job);
    }
}

} // namespace

cudaError_t cuda_run_few(cudaStream_t stream, const cuda_vector_job *job) {
    const cuda_weight &weight = job->part[0].weight;
    if (weight.kind == CUDA_WEIGHT_BF16) {
        return launch_kind<CUDA_WEIGHT_BF16, 0>(stream, *job);
    }
    return weight.group < weight.cols ? launch_kind<CUDA_WEIGHT_I8, 1>(stream, *job)
                                      : launch_kind<CUDA_WEIGHT_I8, 0>(stream, *job);
}
