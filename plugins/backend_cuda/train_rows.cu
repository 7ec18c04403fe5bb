/* Backward passes over rows; a block for each row, or each head of a row. */
#include "train.h"
#include "wide.cuh"

#define BLOCK 128

__global__ void norm_stats(cuda_norm_back_job job) {
    __shared__ float part[BLOCK / CUDA_WARP];
    const int64_t at = blockIdx.x, row = at / job.x.heads, head = at % job.x.heads;
    const float *x = cuda_f32(job.x, row, head);
    const float n = static_cast<float>(job.x.cols);
    float sum = 0, square = 0;
    for (int64_t i = threadIdx.x; job.kind == PICO_NORM_LAYER && i < job.x.cols; i += BLOCK) {
        sum += x[i];
    }
    const float mean = cuda_block_sum(sum, part) / n;
    for (int64_t i = threadIdx.x; i < job.x.cols; i += BLOCK) {
        square = fmaf(x[i] - mean, x[i] - mean, square);
    }
    square = cuda_block_sum(square, part) / n;
    if (threadIdx.x == 0) {
        job.mean[at] = mean;
        job.inverse[at] = 1.0f / sqrtf(square + job.eps);
    }
}

cudaError_t cuda_run_norm_stats(cudaStream_t stream, const cuda_norm_back_job *args) {
    const cuda_norm_back_job job = *args;
    CUDA_LAUNCH(stream, static_cast<unsigned>(job.x.rows * job.x.heads), BLOCK, 0, norm_stats, job);
    return cuda_launched();
}

/* With g = scale * weight * dy and n = (x - mean) * inverse:
 * dx = inverse * (g - mean(g) - n * mean(g n)), without mean(g) for RMS. */
__global__ void norm_back(cuda_norm_back_job job) {
    __shared__ float part[BLOCK / CUDA_WARP];
    const int64_t at = blockIdx.x, row = at / job.x.heads, head = at % job.x.heads;
    const float *x = cuda_f32(job.x, row, head), *dy = cuda_f32(job.dy, row, head);
    float *dx = cuda_f32(job.dx, row, head);
    const float mean = job.mean[at], inverse = job.inverse[at];
    const float width = static_cast<float>(job.x.cols);
    float sum = 0, product = 0;
    for (int64_t i = threadIdx.x; i < job.x.cols; i += BLOCK) {
        const float g = job.scale * dy[i] * (job.weight == NULL ? 1.0f : job.weight[i]);
        sum += g;
        product = fmaf(g, (x[i] - mean) * inverse, product);
    }
    const float total = cuda_block_sum(sum, part) / width;
    const float mean_g = job.kind == PICO_NORM_LAYER ? total : 0.0f;
    const float mean_gn = cuda_block_sum(product, part) / width;
    for (int64_t i = threadIdx.x; i < job.x.cols; i += BLOCK) {
        const float g = job.scale * dy[i] * (job.weight == NULL ? 1.0f : job.weight[i]);
        const float d = inverse * (g - mean_g - (x[i] - mean) * inverse * mean_gn);
        dx[i] = job.accumulate ? dx[i] + d : d;
    }
}

/* The same by a warp for each row, which keeps it in registers: UNITS times four values a lane. It needs
 * no statistics from before. */
template <int UNITS> __global__ void norm_back_warps(cuda_norm_back_job job) {
    const int64_t at = cuda_thread() / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    if (at >= job.x.rows * job.x.heads) { /* the same for all lanes */
        return;
    }
    int64_t head = 0;
    const int64_t row = job.x.heads == 1 ? at : cuda_split(at, job.x.heads, &head);
    const float *from = cuda_f32(job.x, row, head), *from_dy = cuda_f32(job.dy, row, head);
    float *dx = cuda_f32(job.dx, row, head);
    const float width = static_cast<float>(job.x.cols);
    cuda_pack<4> x[UNITS], g[UNITS];
    float sum = 0, square = 0, sum_g = 0, product = 0;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        const int64_t i = (u * CUDA_WARP + lane) * 4;
        x[u] = i < job.x.cols ? cuda_get<4>(from + i) : cuda_pack<4>{};
        g[u] = i < job.x.cols ? cuda_get<4>(from_dy + i) : cuda_pack<4>{};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const bool weighted = job.weight != NULL && i < job.x.cols;
            g[u].x[k] = job.scale * g[u].x[k] * (weighted ? job.weight[i + k] : 1.0f);
            sum += x[u].x[k];
        }
    }
    const bool layer = job.kind == PICO_NORM_LAYER;
    const float mean = layer ? cuda_warp_sum(sum) / width : 0.0f;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
#pragma unroll
        for (int k = 0; k < 4; k++) { /* columns behind the last count as nothing */
            const bool counts = (u * CUDA_WARP + lane) * 4 < job.x.cols;
            const float d = counts ? x[u].x[k] - mean : 0.0f;
            x[u].x[k] = d;
            square = fmaf(d, d, square);
        }
    }
    const float inverse = 1.0f / sqrtf(cuda_warp_sum(square) / width + job.eps);
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            sum_g += g[u].x[k];
            product = fmaf(g[u].x[k], x[u].x[k] * inverse, product);
        }
    }
    const float mean_g = layer ? cuda_warp_sum(sum_g) / width : 0.0f;
    const float mean_gn = cuda_warp_sum(product) / width;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        const int64_t i = (u * CUDA_WARP + lane) * 4;
        if (i < job.x.cols) {
            cuda_pack<4> d = job.accumulate ? cuda_get<4>(dx + i) : cuda_pack<4>{};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                d.x[k] += inverse * (g[u].x[k] - mean_g - x[u].x[k] * inverse * mean_gn);
            }
            cuda_put<4>(dx + i, d);
        }
    }
}

int cuda_norm_back_alone(const cuda_norm_back_job *job) {
    return job->x.cols <= 1024 && cuda_is_wide(job->x) && cuda_is_wide(job->dy) &&
           cuda_is_wide(job->dx);
}

cudaError_t cuda_run_norm_back(cudaStream_t stream, const cuda_norm_back_job *args) {
    const cuda_norm_back_job job = *args;
    const int64_t n = job.x.rows * job.x.heads;
    if (cuda_norm_back_alone(args)) {
        auto *const kernel = job.x.cols <= 128   ? norm_back_warps<1>
                             : job.x.cols <= 256 ? norm_back_warps<2>
                             : job.x.cols <= 512 ? norm_back_warps<4>
                             : job.x.cols <= 768 ? norm_back_warps<6>
                                                 : norm_back_warps<8>;
        CUDA_LAUNCH(stream, static_cast<unsigned>(cuda_ceil(n, BLOCK / CUDA_WARP)), BLOCK, 0,
                    kernel, job);
    } else {
        CUDA_LAUNCH(stream, static_cast<unsigned>(n), BLOCK, 0, norm_back, job);
    }
    return cuda_launched();
}

/* The activation and its derivative. */
__device__ __forceinline__ void act_pair(uint32_t kind, float x, float *value, float *slope) {
    switch (kind) {
    case PICO_ACT_SILU: {
        const float s = cuda_sigmoid(x);
        *value = x * s;
        *slope = s * fmaf(x, 1.0f - s, 1.0f);
        break;
    }
    case PICO_ACT_GELU_TANH: { /* x s, s = 1 / (1 + e^-2u), u = 0.79788 (x + 0.044715 x^3) */
        const float s = cuda_sigmoid(1.5957691216057308f * x * fmaf(0.044715f * x, x, 1.0f));
        const float inner = 1.5957691216057308f * fmaf(0.134145f * x, x, 1.0f);
        *value = x * s;
        *slope = s * fmaf(x * (1.0f - s), inner, 1.0f);
        break;
    }
    case PICO_ACT_GELU_ERF: {
        const float c = 0.5f * erfcf(x * -0.7071067811865476f);
        *value = x * c;
        *slope = fmaf(x * 0.3989422804014327f, expf(-0.5f * x * x), c);
        break;
    }
    default: {
        const float r = fmaxf(x, 0.0f);
        *value = r * r;
        *slope = r + r;
    }
    }
}

/* Into the view, or where it is BF16. */
template <int N>
__device__ __forceinline__ void put_either(const cuda_view &view, uint16_t *narrow, int64_t row,
                                           int64_t i, const cuda_pack<N> &v) {
    if (narrow == NULL) {
        cuda_put<N>(cuda_f32(view, row, 0) + i, v);
    } else {
        cuda_put_narrow<N>(narrow + row * view.cols + i, v);
    }
}

template <int N> __global__ void act_back(cuda_act_back_job job) {
    const int64_t units = job.x.cols / N, n = job.x.rows * units;
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        int64_t unit = at;
        const int64_t row = job.x.rows == 1 ? 0 : cuda_split(at, units, &unit), i = unit * N;
        const bool gated = job.gate.data != NULL;
        const cuda_pack<N> x = cuda_get<N>(cuda_f32(job.x, row, 0) + i);
        const cuda_pack<N> dy = cuda_get<N>(cuda_f32(job.dy, row, 0) + i);
        const cuda_pack<N> gate = gated ? cuda_get<N>(cuda_f32(job.gate, row, 0) + i) : x;
        cuda_pack<N> dx = x, dgate = x;
#pragma unroll
        for (int k = 0; k < N; k++) {
            float value, slope;
            act_pair(job.kind, x.x[k], &value, &slope);
            slope = gated ? slope * gate.x[k] : slope;
            dgate.x[k] = dy.x[k] * value;
            dx.x[k] = dy.x[k] * slope;
        }
        if (gated) {
            put_either<N>(job.dgate, job.narrow_dgate, row, i, dgate);
        }
        put_either<N>(job.dx, job.narrow_dx, row, i, dx);
    }
}

cudaError_t cuda_run_act_back(cudaStream_t stream, const cuda_act_back_job *args) {
    cuda_act_back_job job = *args;
    cuda_view *const views[] = {&job.x, &job.dy, &job.dx, &job.gate, &job.dgate};
    const int n_view = job.gate.data == NULL ? 3 : 5;
    bool run = true, wide = true;
    for (int i = 0; i < n_view; i++) {
        run = run && cuda_is_run(*views[i]);
    }
    for (int i = 0; i < n_view; i++) {
        if (run) {
            cuda_make_run(*views[i]);
        }
        wide = wide && cuda_is_wide(*views[i]);
    }
    auto *const kernel = wide ? act_back<4> : act_back<1>;
    CUDA_LAUNCH(stream, cuda_blocks(job.x.rows * job.x.cols / (wide ? 4 : 1), BLOCK, 1 << 16),
                BLOCK, 0, kernel, job);
    return cuda_launched();
}

template <int N> __global__ void softcap_back(cuda_view y, cuda_view dy, float cap) {
    const int64_t units = y.cols / N, n = y.rows * units;
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        int64_t unit = at;
        const int64_t row = cuda_split(at, units, &unit), i = unit * N;
        const cuda_pack<N> value = cuda_get<N>(cuda_f32(y, row, 0) + i);
        cuda_pack<N> d = cuda_get<N>(cuda_f32(dy, row, 0) + i);
#pragma unroll
        for (int k = 0; k < N; k++) {
            const float t = value.x[k] / cap;
            d.x[k] *= fmaf(-t, t, 1.0f);
        }
        cuda_put<N>(cuda_f32(dy, row, 0) + i, d);
    }
}

cudaError_t cuda_run_softcap_back(cudaStream_t stream, const cuda_view *y_, const cuda_view *dy_,
                                  float cap) {
    const cuda_view y = *y_, dy = *dy_;
    const bool wide = cuda_is_wide(y) && cuda_is_wide(dy);
    auto *const kernel = wide ? softcap_back<4> : softcap_back<1>;
    CUDA_LAUNCH(stream, cuda_blocks(y.rows * y.cols / (wide ? 4 : 1), BLOCK, 1 << 16), BLOCK, 0,
                kernel, y, dy, cap);
    return cuda_launched();
}

/* A warp for every fourth head of a row. */
template <int N> __global__ void gate_back(cuda_gate_back_job job) {
    __shared__ float part[BLOCK / CUDA_WARP];
    const int64_t row = blockIdx.x, lane = threadIdx.x % CUDA_WARP;
    const float scalar = job.scalar == NULL ? 1.0f : *job.scalar;
    float share = 0;
    for (int64_t h = threadIdx.x / CUDA_WARP; h < job.u.heads; h += BLOCK / CUDA_WARP) {
        const float *u = cuda_f32(job.u, row, h), *dy = cuda_f32(job.dy, row, h);
        const float open = cuda_sigmoid(cuda_f32(job.g, row, 0)[h]);
        float dot = 0;
        for (int64_t i = lane * N; i < job.u.cols; i += CUDA_WARP * N) { /* du may be u */
            const cuda_pack<N> a = cuda_get<N>(u + i);
            cuda_pack<N> d = cuda_get<N>(dy + i);
#pragma unroll
            for (int k = 0; k < N; k++) {
                dot = fmaf(a.x[k], d.x[k], dot);
                d.x[k] = job.factor * scalar * open * d.x[k];
            }
            cuda_put<N>(cuda_f32(job.du, row, h) + i, d);
        }
        const float flow = cuda_warp_sum(dot) * job.factor;
        share = fmaf(open, flow, share);
        if (lane == 0) { /* dg may be g: the warp has read it, before the sum */
            cuda_f32(job.dg, row, 0)[h] = scalar * open * (1.0f - open) * flow;
        }
    }
    if (lane == 0) {
        part[threadIdx.x / CUDA_WARP] = share;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        share = 0;
        for (int i = 0; i < BLOCK / CUDA_WARP; i++) {
            share += part[i];
        }
        job.share[row] = share;
    }
}

cudaError_t cuda_run_gate_back(cudaStream_t stream, const cuda_gate_back_job *args) {
    const cuda_gate_back_job job = *args;
    const bool wide = cuda_is_wide(job.u) && cuda_is_wide(job.dy) && cuda_is_wide(job.du);
    auto *const kernel = wide ? gate_back<4> : gate_back<1>;
    CUDA_LAUNCH(stream, static_cast<unsigned>(job.u.rows), BLOCK, 0, kernel, job);
    return cuda_launched();
}

template <int N> __global__ void gather_rows(cuda_table_job job) {
    const int64_t units = job.rows.cols / N, n = job.rows.rows * units;
    for (int64_t at = cuda_thread(); at < n; at += cuda_threads()) {
        int64_t unit = at;
        const int64_t row = cuda_split(at, units, &unit), i = unit * N;
        const int32_t index = job.index[row];
        float *out = cuda_f32(job.rows, row, 0) + i;
        cuda_pack<N> value = {};
        if (index >= 0) {
            value = cuda_get<N>(cuda_f32(job.table, index, 0) + i);
        }
        if (job.accumulate) {
            const cuda_pack<N> old = cuda_get<N>(out);
#pragma unroll
            for (int k = 0; k < N; k++) {
                value.x[k] = old.x[k] + value.x[k];
            }
        }
        cuda_put<N>(out, value);
    }
}

static bool is_wide(const cuda_table_job &job) {
    return cuda_is_wide(job.rows) && cuda_is_wide(job.table);
}

cudaError_t cuda_run_gather(cudaStream_t stream, const cuda_table_job *args) {
    const cuda_table_job job = *args;
    const bool wide = is_wide(job);
    auto *const kernel = wide ? gather_rows<4> : gather_rows<1>;
    CUDA_LAUNCH(stream, cuda_blocks(job.rows.rows * job.rows.cols / (wide ? 4 : 1), BLOCK, 1 << 16),
                BLOCK, 0, kernel, job);
    return cuda_launched();
}

/* ---- scatter: the rows in the order of their index, then a block for each run of equal ones ---- */

#define SLICES 8 /* neighbouring lanes that share the counting for a row */
#define AHEAD 8  /* rows that are loaded before they are added */

/* The place of a row among all, by index and then by row, is the number of rows before it. */
__global__ void sort_rows(cuda_table_job job) {
    const int64_t n = job.rows.rows, row = cuda_thread() / SLICES;
    const int32_t index = row < n ? job.index[row] : 0;
    int32_t before = 0;
    for (int64_t r = threadIdx.x % SLICES; r < n; r += SLICES) {
        const int32_t other = job.index[r];
        before += other < index || (other == index && r < row) ? 1 : 0;
    }
    for (int lanes = SLICES / 2; lanes > 0; lanes /= 2) {
        before += __shfl_xor_sync(CUDA_ALL_LANES, before, lanes);
    }
    if (threadIdx.x % SLICES == 0 && row < n) {
        job.sorted[before] = static_cast<int32_t>(row);
        job.sorted_index[before] = index;
    }
}

/* table[index] += the rows of the run that begins at this block's place, in ascending order. */
template <int N> __global__ void scatter_runs(cuda_table_job job) {
    const int64_t n = job.rows.rows, first = blockIdx.x;
    const int32_t index = job.sorted_index[first];
    if (index < 0 || (first > 0 && job.sorted_index[first - 1] == index)) {
        return;
    }
    for (int64_t i = threadIdx.x * N; i < job.rows.cols; i += blockDim.x * N) {
        float *const to = cuda_f32(job.table, index, 0) + i;
        cuda_pack<N> sum = cuda_get<N>(to);
        int count = AHEAD;
        for (int64_t at = first; count == AHEAD; at += AHEAD) {
            cuda_pack<N> row[AHEAD];
            count = 0;
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
                if (at + k < n && job.sorted_index[at + k] == index) { /* a run: no gaps */
                    row[k] = cuda_get<N>(cuda_f32(job.rows, job.sorted[at + k], 0) + i);
                    count = k + 1;
                }
            }
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
#pragma unroll
                for (int j = 0; j < N && k < count; j++) {
                    sum.x[j] += row[k].x[j];
                }
            }
        }
        cuda_put<N>(to, sum);
    }
}

cudaError_t cuda_run_scatter(cudaStream_t stream, const cuda_table_job *args) {
    const cuda_table_job job = *args;
    const bool wide = is_wide(job);
    auto *const kernel = wide ? scatter_runs<4> : scatter_runs<1>;
    const int64_t units = job.rows.cols / (wide ? 4 : 1);
    const unsigned threads = static_cast<unsigned>(cuda_pad(cuda_least(units, 256), CUDA_WARP));
    CUDA_LAUNCH(stream, static_cast<unsigned>(cuda_ceil(job.rows.rows * SLICES, 256)), 256, 0,
                sort_rows, job);
    CUDA_LAUNCH(stream, static_cast<unsigned>(job.rows.rows), threads, 0, kernel, job);
    return cuda_launched();
}
