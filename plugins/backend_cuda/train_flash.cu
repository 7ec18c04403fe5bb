/*
 * Attention over whole sequences in BF16 on matrix units, forward and backward, without a square of
 * scores in memory: a block takes 64 queries, or 64 keys, and walks over what they see; a warp has 16
 * of them. Sums are F32 in an order that the shapes decide; gradients of keys are added up by the
 * block of the keys, those of queries by the block of the queries.
 */
#include "mma.cuh"
#include "train.h"
#include "wide.cuh"

#define THREADS 128
#define OWN 64  /* queries, or keys, of a block */
#define STEP 32 /* of the others that are taken at once, backward */
#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

/* Places in a block: of this warp's first row, and of the lane in the fragments. */
struct place {
    int warp_row, lane, group, pair;
};

__device__ __forceinline__ place place_of_thread() {
    const int lane = static_cast<int>(threadIdx.x % CUDA_WARP);
    return {static_cast<int>(threadIdx.x / CUDA_WARP) * 16, lane, lane / 4, lane % 4 * 2};
}

/* ---- tiles in shared memory: rows of D values and a gap, so that loads of 8 rows do not collide ---- */

template <int D> struct tile {
    static constexpr int stride = D + 8;
    static constexpr int own = OWN * stride;
    static constexpr int step = STEP * stride;
    /* forward: queries, twice keys and values; backward: two tiles, and twice two of what comes by
     * (behind those, what the queries' softmax was) */
    static constexpr int forward_bytes = 5 * own * 2;
    static constexpr int back_bytes = (2 * own + 4 * step) * 2 + 4 * STEP * 4;
};

/* Rows [first, first + ROWS) of a sequence; zeros behind its last one. */
template <int ROWS, int D>
__device__ __forceinline__ void load_tile(uint16_t *to, const uint16_t *from, int64_t row_stride,
                                          int32_t first, int32_t length) {
    constexpr int pieces = D / 8;
    for (int i = static_cast<int>(threadIdx.x); i < ROWS * pieces; i += THREADS) {
        const int row = i / pieces, col = i % pieces * 8;
        const bool beyond = first + row >= length;
        const int64_t at = beyond ? 0 : first + row;
        cuda_copy_begin<16>(to + row * tile<D>::stride + col, from + at * row_stride + col,
                            !beyond);
    }
}

/* A: rows [row, row + 16), columns [col, col + 16). */
template <int D>
__device__ __forceinline__ void load_left(uint32_t (&to)[4], const uint16_t *from, int row, int col,
                                          int lane) {
    cuda_load_matrices(to, from + (row + lane % 16) * tile<D>::stride + col + lane / 16 * 8);
}

/* Two B side by side, whose columns are the tile's rows [row, row + 16), and whose rows are its columns
 * [col, col + 16): to[0..1] and to[2..3]. */
template <int D>
__device__ __forceinline__ void load_right(uint32_t (&to)[4], const uint16_t *from, int row,
                                           int col, int lane) {
    const int r = row + lane / 16 * 8 + lane % 8, c = col + lane / 8 % 2 * 8;
    cuda_load_matrices(to, from + r * tile<D>::stride + c);
}

/* Two B side by side as they lie: rows [row, row + 16), columns [col, col + 8) and the next 8. */
template <int D>
__device__ __forceinline__ void load_right_plain(uint32_t (&to)[4], const uint16_t *from, int row,
                                                 int col, int lane) {
    cuda_load_transposed(to, from + (row + lane % 16) * tile<D>::stride + col + lane / 16 * 8);
}

/* out (16, 8 N) = 16 rows of left times the first 8 N rows of right. */
template <int D, int N>
__device__ __forceinline__ void rows_by_rows(float (&out)[N][4], const uint16_t *left, int row,
                                             const uint16_t *right, int lane) {
#pragma unroll
    for (int n = 0; n < N; n++) {
        out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0;
    }
#pragma unroll
    for (int col = 0; col < D; col += 16) {
        uint32_t a[4];
        load_left<D>(a, left, row, col, lane);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t b[4];
            load_right<D>(b, right, n * 8, col, lane);
            cuda_mma_bf16(out[n], a, b[0], b[1]);
            cuda_mma_bf16(out[n + 1], a, b[2], b[3]);
        }
    }
}

/* sum (16, D) += weight (16, 8 N), rounded, times the first 8 N rows of right. */
template <int D, int N>
__device__ __forceinline__ void add_weighted(float (&sum)[D / 8][4], const float (&weight)[N][4],
                                             const uint16_t *right, int lane) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        const uint32_t a[4] = {cuda_pair_bf16(weight[n][0], weight[n][1]),
                               cuda_pair_bf16(weight[n][2], weight[n][3]),
                               cuda_pair_bf16(weight[n + 1][0], weight[n + 1][1]),
                               cuda_pair_bf16(weight[n + 1][2], weight[n + 1][3])};
#pragma unroll
        for (int d = 0; d < D / 8; d += 2) {
            uint32_t b[4];
            load_right_plain<D>(b, right, n * 8, d * 8, lane);
            cuda_mma_bf16(sum[d], a, b[0], b[1]);
            cuda_mma_bf16(sum[d + 1], a, b[2], b[3]);
        }
    }
}

/* Rows `row` and `row + 8` of what add_weighted gave, for rows before the end. */
template <int D>
__device__ __forceinline__ void write_sums(const cuda_view &view, int64_t first, int32_t row,
                                           int32_t length, int64_t head, int pair,
                                           const float (&sum)[D / 8][4], const float (&factor)[2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (row + 8 * half < length) {
            float *to = cuda_f32(view, first + row + 8 * half, head) + pair;
#pragma unroll
            for (int d = 0; d < D / 8; d++) {
                *reinterpret_cast<float2 *>(to + d * 8) =
                    float2{sum[d][2 * half] * factor[half], sum[d][2 * half + 1] * factor[half]};
            }
        }
    }
}

/* ---- what is seen ---- */

__device__ __forceinline__ bool sees(const cuda_flash_job &job, int32_t query, int32_t key) {
    return key <= query && query < job.length &&
           (job.window < 0 || key >= query - job.window || key < job.n_sink);
}

/* Whether any of n_query queries sees any of n_key keys; whether all see all. */
__device__ __forceinline__ bool any_sees(const cuda_flash_job &job, int32_t query, int32_t n_query,
                                         int32_t key, int32_t n_key) {
    return key <= query + n_query - 1 && key < job.length && query < job.length &&
           (job.window < 0 || key + n_key - 1 >= query - job.window || key < job.n_sink);
}

__device__ __forceinline__ bool all_see(const cuda_flash_job &job, int32_t query, int32_t n_query,
                                        int32_t key, int32_t n_key) {
    const int32_t last = query + n_query - 1;
    return key + n_key - 1 <= query && last < job.length &&
           (job.window < 0 || key >= last - job.window);
}

/* The first tile of n_key keys at or behind `key` that the queries of this block see; job.length or
 * more: none. */
__device__ __forceinline__ int32_t next_keys(const cuda_flash_job &job, int32_t query, int32_t key,
                                             int32_t n_key) {
    while (key < query + OWN && key < job.length && !any_sees(job, query, OWN, key, n_key)) {
        key += n_key;
    }
    return key < query + OWN ? key : job.length;
}

/* ---- forward ---- */

/* The softmax as far as it has come, of rows g and g + 8 of a warp; scores are to the base of 2. */
struct softmax {
    float most[2], sum[2];
};

/* Scores become weights under the new maximum; what was added up before is brought under it, too. */
template <int D, int N>
__device__ __forceinline__ void take_scores(softmax &state, float (&score)[N][4],
                                            float (&sum)[D / 8][4]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = state.most[half], total = 0;
#pragma unroll
        for (int n = 0; n < N; n++) {
            most = fmaxf(most, fmaxf(score[n][2 * half], score[n][2 * half + 1]));
        }
        most = fmaxf(most, __shfl_xor_sync(CUDA_ALL_LANES, most, 1));
        most = fmaxf(most, __shfl_xor_sync(CUDA_ALL_LANES, most, 2));
        const float base = most == -CUDART_INF_F ? 0.0f : most; /* nothing is seen yet */
        const float before = exp2f(state.most[half] - base);
#pragma unroll
        for (int n = 0; n < N; n++) {
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                score[n][i] = exp2f(score[n][i] - base);
                total += score[n][i];
            }
        }
#pragma unroll
        for (int d = 0; d < D / 8; d++) {
            sum[d][2 * half] *= before;
            sum[d][2 * half + 1] *= before;
        }
        state.most[half] = most;
        state.sum[half] = fmaf(state.sum[half], before, total);
    }
}

/* Blocks: heads of sequences; tiles of queries, the last ones first. */
template <int D> __global__ void __launch_bounds__(THREADS, 2) flash_forward(cuda_flash_job job) {
    if (!CUDA_MMA_LAUNCHED) {
        return;
    }
    typedef tile<D> T;
    CUDA_DYNAMIC_SHARED(uint16_t, memory);
    uint16_t *const q = memory, *const k = q + T::own, *const v = k + 2 * T::own;
    const place at = place_of_thread();
    const int64_t head = blockIdx.x % job.n_head, first = blockIdx.x / job.n_head * job.length;
    const int64_t q_stride = job.n_head * D, kv_stride = job.n_kv_head * D;
    const int64_t kv_at = first * kv_stride + head / (job.n_head / job.n_kv_head) * D;
    const int32_t query = static_cast<int32_t>(gridDim.y - 1 - blockIdx.y) * OWN;
    const int32_t row = query + at.warp_row + at.group;
    const float factor = job.scale * LOG2_E;
    softmax state = {{-CUDART_INF_F, -CUDART_INF_F}, {0, 0}};
    float sum[D / 8][4] = {};
    int32_t key = next_keys(job, query, 0, OWN);
    load_tile<OWN, D>(q, job.q + first * q_stride + head * D, q_stride, query, job.length);
    load_tile<OWN, D>(k, job.k + kv_at, kv_stride, key, job.length);
    load_tile<OWN, D>(v, job.v + kv_at, kv_stride, key, job.length);
    cuda_copy_group();
    for (int stage = 0; key < job.length; stage ^= 1) {
        const int32_t next = next_keys(job, query, key + OWN, OWN);
        if (next < job.length) {
            const int to = (stage ^ 1) * T::own;
            load_tile<OWN, D>(k + to, job.k + kv_at, kv_stride, next, job.length);
            load_tile<OWN, D>(v + to, job.v + kv_at, kv_stride, next, job.length);
        }
        cuda_copy_group();
        cuda_copy_end<1>();
        __syncthreads();
        float score[OWN / 8][4];
        rows_by_rows<D>(score, q, at.warp_row, k + stage * T::own, at.lane);
        const bool all = all_see(job, query, OWN, key, OWN);
#pragma unroll
        for (int n = 0; n < OWN / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const bool seen = all || sees(job, row + i / 2 * 8, key + n * 8 + at.pair + i % 2);
                score[n][i] = seen ? score[n][i] * factor : -CUDART_INF_F;
            }
        }
        take_scores<D>(state, score, sum);
        add_weighted<D>(sum, score, v + stage * T::own, at.lane);
        __syncthreads(); /* the stage is free */
        key = next;
    }
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float total = state.sum[half];
        total += __shfl_xor_sync(CUDA_ALL_LANES, total, 1);
        total += __shfl_xor_sync(CUDA_ALL_LANES, total, 2);
        inverse[half] = 1.0f / total;
        if (at.pair == 0 && row + 8 * half < job.length) {
            job.lse[(first + row + 8 * half) * job.n_head + head] =
                fmaf(state.most[half], LN_2, logf(total));
        }
    }
    write_sums<D>(job.out, first, row, job.length, head, at.pair, sum, inverse);
}

/* ---- backward ---- */

/* delta[row, head] = sum of out * dout, dout as the other kernels have it; a warp each. */
__global__ void flash_deltas(cuda_flash_job job) {
    const int64_t at = cuda_thread() / CUDA_WARP;
    if (at >= job.out.rows * job.out.heads) { /* the same for all lanes */
        return;
    }
    int64_t head;
    const int64_t row = cuda_split(at, job.out.heads, &head);
    const float *out = cuda_f32(job.out, row, head);
    const uint16_t *dout = job.dout + at * job.out.cols;
    float sum = 0;
    for (int64_t i = threadIdx.x % CUDA_WARP * 2; i < job.out.cols; i += CUDA_WARP * 2) {
        const float2 a = *reinterpret_cast<const float2 *>(out + i);
        const uint32_t b = *reinterpret_cast<const uint32_t *>(dout + i);
        sum = fmaf(a.x, cuda_from_bf16(b & 0xffffu), sum);
        sum = fmaf(a.y, cuda_from_bf16(b >> 16), sum);
    }
    sum = cuda_warp_sum(sum);
    if (threadIdx.x % CUDA_WARP == 0) {
        job.delta[at] = sum;
    }
}

/* Blocks as in flash_forward: dq. */
template <int D> __global__ void __launch_bounds__(THREADS, 2) flash_queries(cuda_flash_job job) {
    if (!CUDA_MMA_LAUNCHED) {
        return;
    }
    typedef tile<D> T;
    CUDA_DYNAMIC_SHARED(uint16_t, memory);
    uint16_t *const q = memory, *const d = q + T::own;
    uint16_t *const k = d + T::own, *const v = k + 2 * T::step;
    const place at = place_of_thread();
    const int64_t head = blockIdx.x % job.n_head, first = blockIdx.x / job.n_head * job.length;
    const int64_t q_stride = job.n_head * D, kv_stride = job.n_kv_head * D;
    const int64_t kv_at = first * kv_stride + head / (job.n_head / job.n_kv_head) * D;
    const int32_t query = static_cast<int32_t>(gridDim.y - 1 - blockIdx.y) * OWN;
    const int32_t row = query + at.warp_row + at.group;
    const float factor = job.scale * LOG2_E;
    float sum[D / 8][4] = {}, lse[2] = {0, 0}, delta[2] = {0, 0};
    for (int half = 0; half < 2; half++) {
        if (row + 8 * half < job.length) {
            const int64_t place = (first + row + 8 * half) * job.n_head + head;
            lse[half] = job.lse[place] * LOG2_E;
            delta[half] = job.delta[place];
        }
    }
    int32_t key = next_keys(job, query, 0, STEP);
    load_tile<OWN, D>(q, job.q + first * q_stride + head * D, q_stride, query, job.length);
    load_tile<OWN, D>(d, job.dout + first * q_stride + head * D, q_stride, query, job.length);
    load_tile<STEP, D>(k, job.k + kv_at, kv_stride, key, job.length);
    load_tile<STEP, D>(v, job.v + kv_at, kv_stride, key, job.length);
    cuda_copy_group();
    for (int stage = 0; key < job.length; stage ^= 1) {
        const int32_t next = next_keys(job, query, key + STEP, STEP);
        if (next < job.length) {
            const int to = (stage ^ 1) * T::step;
            load_tile<STEP, D>(k + to, job.k + kv_at, kv_stride, next, job.length);
            load_tile<STEP, D>(v + to, job.v + kv_at, kv_stride, next, job.length);
        }
        cuda_copy_group();
        cuda_copy_end<1>();
        __syncthreads();
        float score[STEP / 8][4], flow[STEP / 8][4];
        rows_by_rows<D>(score, q, at.warp_row, k + stage * T::step, at.lane);
        rows_by_rows<D>(flow, d, at.warp_row, v + stage * T::step, at.lane);
        const bool all = all_see(job, query, OWN, key, STEP);
#pragma unroll
        for (int n = 0; n < STEP / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const bool seen = all || sees(job, row + i / 2 * 8, key + n * 8 + at.pair + i % 2);
                const float p = exp2f(fmaf(score[n][i], factor, -lse[i / 2]));
                flow[n][i] = seen ? p * (flow[n][i] - delta[i / 2]) : 0.0f;
            }
        }
        add_weighted<D>(sum, flow, k + stage * T::step, at.lane);
        __syncthreads();
        key = next;
    }
    const float scale[2] = {job.scale, job.scale};
    write_sums<D>(job.dq, first, row, job.length, head, at.pair, sum, scale);
}

/* The queries that come by a block of keys: tiles of one query head after the other. */
struct walk {
    int32_t head, query;
};

__device__ __forceinline__ walk next_queries(const cuda_flash_job &job, int32_t key, walk at,
                                             int32_t stop) {
    for (; at.head < stop; at.head++, at.query = key) {
        for (; at.query < job.length; at.query += STEP) {
            if (any_sees(job, at.query, STEP, key, OWN)) {
                return at;
            }
        }
    }
    return at;
}

/* Their rows of q and dout, and what their softmax was. */
template <int D>
__device__ __forceinline__ void load_queries(const cuda_flash_job &job, int64_t first, walk at,
                                             uint16_t *q, uint16_t *d, float *stats) {
    const int64_t stride = job.n_head * D, from = first * stride + at.head * D;
    load_tile<STEP, D>(q, job.q + from, stride, at.query, job.length);
    load_tile<STEP, D>(d, job.dout + from, stride, at.query, job.length);
    const int32_t query = at.query + static_cast<int32_t>(threadIdx.x);
    if (threadIdx.x < STEP) {
        const int64_t place = (first + query) * job.n_head + at.head;
        stats[threadIdx.x] = query < job.length ? job.lse[place] * LOG2_E : 0.0f;
        stats[STEP + threadIdx.x] = query < job.length ? job.delta[place] : 0.0f;
    }
}

/* Blocks: KV heads of sequences; tiles of keys. dk and dv; rows of a product are keys. */
template <int D> __global__ void __launch_bounds__(THREADS, 2) flash_keys(cuda_flash_job job) {
    if (!CUDA_MMA_LAUNCHED) {
        return;
    }
    typedef tile<D> T;
    CUDA_DYNAMIC_SHARED(uint16_t, memory);
    uint16_t *const k = memory, *const v = k + T::own;
    uint16_t *const q = v + T::own, *const d = q + 2 * T::step;
    float *const stats = reinterpret_cast<float *>(d + 2 * T::step);
    const place at = place_of_thread();
    const int64_t kv_head = blockIdx.x % job.n_kv_head;
    const int64_t first = blockIdx.x / job.n_kv_head * job.length;
    const int64_t kv_stride = job.n_kv_head * D, kv_at = first * kv_stride + kv_head * D;
    const int32_t group = job.n_head / job.n_kv_head;
    const int32_t begin = static_cast<int32_t>(kv_head) * group, stop = begin + group;
    const int32_t key = static_cast<int32_t>(blockIdx.y) * OWN;
    const int32_t row = key + at.warp_row + at.group;
    const float factor = job.scale * LOG2_E;
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    walk now = next_queries(job, key, walk{begin, key}, stop);
    load_tile<OWN, D>(k, job.k + kv_at, kv_stride, key, job.length);
    load_tile<OWN, D>(v, job.v + kv_at, kv_stride, key, job.length);
    load_queries<D>(job, first, now, q, d, stats); /* every key is seen, by its own query */
    cuda_copy_group();
    for (int stage = 0; now.head < stop; stage ^= 1) {
        const walk next = next_queries(job, key, walk{now.head, now.query + STEP}, stop);
        if (next.head < stop) {
            const int to = stage ^ 1;
            load_queries<D>(job, first, next, q + to * T::step, d + to * T::step,
                            stats + to * 2 * STEP);
        }
        cuda_copy_group();
        cuda_copy_end<1>();
        __syncthreads();
        const float *const lse = stats + stage * 2 * STEP, *const delta = lse + STEP;
        float weight[STEP / 8][4], flow[STEP / 8][4];
        rows_by_rows<D>(weight, k, at.warp_row, q + stage * T::step, at.lane);
        rows_by_rows<D>(flow, v, at.warp_row, d + stage * T::step, at.lane);
        const bool all = all_see(job, now.query, STEP, key, OWN);
#pragma unroll
        for (int n = 0; n < STEP / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int col = n * 8 + at.pair + i % 2;
                const bool seen = all || sees(job, now.query + col, row + i / 2 * 8);
                const float p = exp2f(fmaf(weight[n][i], factor, -lse[col]));
                weight[n][i] = seen ? p : 0.0f;
                flow[n][i] = seen ? p * (flow[n][i] - delta[col]) : 0.0f;
            }
        }
        add_weighted<D>(dv, weight, d + stage * T::step, at.lane);
        add_weighted<D>(dk, flow, q + stage * T::step, at.lane);
        __syncthreads();
        now = next;
    }
    const float scale[2] = {job.scale, job.scale}, one[2] = {1, 1};
    write_sums<D>(job.dk, first, row, job.length, kv_head, at.pair, dk, scale);
    write_sums<D>(job.dv, first, row, job.length, kv_head, at.pair, dv, one);
}

/* ---- launching ---- */

template <typename F>
static cudaError_t launch(cudaStream_t stream, F *kernel, const cuda_flash_job &args, int64_t heads,
                          int bytes) {
    const cuda_flash_job job = args;
    const dim3 grid(static_cast<unsigned>(heads * job.n_seq),
                    static_cast<unsigned>(cuda_ceil(job.length, OWN)));
    const cudaError_t error = cuda_allow_shared(kernel, bytes);
    if (error != cudaSuccess) {
        return error;
    }
    CUDA_LAUNCH(stream, grid, THREADS, static_cast<unsigned>(bytes), kernel, job);
    return cuda_launched();
}

template <int D> static cudaError_t backward(cudaStream_t stream, const cuda_flash_job &job) {
    const int bytes = tile<D>::back_bytes;
    const cudaError_t error = launch(stream, flash_keys<D>, job, job.n_kv_head, bytes);
    return error == cudaSuccess ? launch(stream, flash_queries<D>, job, job.n_head, bytes) : error;
}

int cuda_flash_fits(int64_t head_dim, int64_t length) {
    return (head_dim == 32 || head_dim == 64 || head_dim == 128) &&
           cuda_ceil(length, OWN) <= CUDA_GRID_Y;
}

cudaError_t cuda_run_flash(cudaStream_t stream, const cuda_flash_job *job) {
    const int64_t heads = job->n_head;
    switch (job->out.cols) {
    case 32:
        return launch(stream, flash_forward<32>, *job, heads, tile<32>::forward_bytes);
    case 64:
        return launch(stream, flash_forward<64>, *job, heads, tile<64>::forward_bytes);
    default:
        return launch(stream, flash_forward<128>, *job, heads, tile<128>::forward_bytes);
    }
}

cudaError_t cuda_run_flash_back(cudaStream_t stream, const cuda_flash_job *args) {
    const cuda_flash_job job = *args;
    const int64_t n = job.out.rows * job.out.heads;
    CUDA_LAUNCH(stream, static_cast<unsigned>(cuda_ceil(n, THREADS / CUDA_WARP)), THREADS, 0,
                flash_deltas, job);
    const cudaError_t error = cuda_launched();
    if (error != cudaSuccess) {
        return error;
    }
    switch (job.out.cols) {
    case 32:
        return backward<32>(stream, job);
    case 64:
        return backward<64>(stream, job);
    default:
        return backward<128>(stream, job);
    }
}
