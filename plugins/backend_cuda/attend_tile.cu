/*
 * Attention of prefill rows: a block takes some rows with some query heads of one KV head. Rows that
 * follow each other in one sequence share each stretch of K and V that is brought into shared memory;
 * stretches begin at absolute positions. What a query does not see changes nothing of it, not even
 * the sign of a zero, so that its result does not depend on its company.
 */
#include "attend.cuh"

#define THREADS 128

namespace {

/* For heads of up to HD dimensions: queries of a block, positions of a stretch. */
template <int HD> struct tile {
    enum {
        queries = HD <= 128 ? 32 : 16,
        positions = 4096 / HD,
        stride = HD + 4,                    /* of K, V: no bank is met twice */
        lanes = THREADS / queries,          /* threads that share a query's scores */
        row = positions + lanes,            /* from scores to those of the next query */
        groups = THREADS / positions,       /* threads that share a position */
        scores = queries / groups,          /* of a thread */
        dims = HD / 4,                      /* threads that share a query */
        outputs = queries * dims / THREADS, /* queries of a thread's values */
        floats = queries * HD + positions * stride + queries * row + 3 * queries,
        bytes = floats * 4 + positions * 4
    };
};

/* Shared memory of a block. */
template <int HD> struct room {
    float *q;                    /* (queries, HD) */
    float *kv;                   /* (positions, stride) */
    float *score;                /* (queries, row) */
    float *most, *total, *alpha; /* (queries) */
    int32_t *cell;               /* (positions) */
};

/* Rows [row, row + n) of one run, and the heads that the block takes. */
struct run {
    int64_t row;
    int32_t n, heads, head, kv_head;
    int32_t first, stop; /* positions that any of them sees, sinks apart */
};

template <int HD>
__device__ __forceinline__ void load_queries(const cuda_attend_job &job, const run &r,
                                             const room<HD> &s) {
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < tile<HD>::queries * HD; i += THREADS) {
        const int32_t q = i / HD, d = i % HD;
        const bool real = q < r.n * r.heads && d < job.kv.head_dim;
        s.q[i] = real ? cuda_f32(job.q, r.row + q / r.heads, r.head + q % r.heads)[d] : 0.0f;
    }
    for (int32_t q = static_cast<int32_t>(threadIdx.x); q < tile<HD>::queries; q += THREADS) {
        s.most[q] = CUDA_NOTHING;
        s.total[q] = 0;
    }
}

/* K, or V, of a stretch as floats; zeros where there is nothing. */
template <int DTYPE, int HD>
__device__ __forceinline__ void load_stretch(const cuda_attend_job &job, const run &r,
                                             const room<HD> &s, int64_t half) {
    const int32_t eights = HD / 8;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < tile<HD>::positions * eights;
         i += THREADS) {
        const int32_t p = i / eights, d = i % eights * 8;
        float value[8] = {};
        if (s.cell[p] >= 0 && d < job.kv.padded) {
            const char *pages = job.pages + half;
            cuda_load_eight<DTYPE>(pages + cuda_cell_codes(job.kv, s.cell[p], r.kv_head),
                                   pages + cuda_cell_scales(job.kv, s.cell[p], r.kv_head), d,
                                   value);
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            s.kv[p * tile<HD>::stride + d + j] = value[j];
        }
    }
}

/* Whether query q of the run sees a position. */
__device__ __forceinline__ bool query_sees(const cuda_attend_job &job, const run &r, int32_t q,
                                           int32_t position) {
    return q < r.n * r.heads && cuda_sees(job, cuda_row_of(job, r.row + q / r.heads), position);
}

template <int HD>
__device__ __forceinline__ void scores(const cuda_attend_job &job, const run &r, const room<HD> &s,
                                       int32_t begin) {
    typedef tile<HD> T;
    const int32_t p = static_cast<int32_t>(threadIdx.x) % T::positions;
    const int32_t q0 = static_cast<int32_t>(threadIdx.x) / T::positions;
    float dot[T::scores] = {};
    for (int32_t d = 0; d < HD; d += 4) {
        const float4 k = cuda_load_floats(s.kv + p * T::stride + d);
#pragma unroll
        for (int i = 0; i < T::scores; i++) {
            const float4 q = cuda_load_floats(s.q + (q0 + i * T::groups) * HD + d);
            dot[i] = fmaf(q.x, k.x, dot[i]);
            dot[i] = fmaf(q.y, k.y, dot[i]);
            dot[i] = fmaf(q.z, k.z, dot[i]);
            dot[i] = fmaf(q.w, k.w, dot[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < T::scores; i++) {
        const int32_t q = q0 + i * T::groups;
        const bool sees = s.cell[p] >= 0 && query_sees(job, r, q, begin + p);
        s.score[q * T::row + p] = sees ? dot[i] * job.scale : CUDA_NOTHING;
    }
}

/* Scores -> exponentials relative to the largest score so far. */
template <int HD> __device__ __forceinline__ void exponentials(const room<HD> &s) {
    typedef tile<HD> T;
    const int q = static_cast<int>(threadIdx.x) / T::lanes;
    const int lane = static_cast<int>(threadIdx.x) % T::lanes;
    float *row = s.score + q * T::row;
    float most = CUDA_NOTHING, sum = 0;
    for (int p = lane; p < T::positions; p += T::lanes) {
        most = fmaxf(most, row[p]);
    }
    for (int lanes = T::lanes / 2; lanes > 0; lanes /= 2) {
        most = fmaxf(most, __shfl_xor_sync(CUDA_ALL_LANES, most, lanes));
    }
    const float before = s.most[q], now = fmaxf(before, most);
    for (int p = lane; p < T::positions; p += T::lanes) {
        const float e = row[p] == CUDA_NOTHING ? 0.0f : expf(row[p] - now);
        row[p] = e;
        sum += e;
    }
    for (int lanes = T::lanes / 2; lanes > 0; lanes /= 2) { /* after which all have read `before` */
        sum += __shfl_xor_sync(CUDA_ALL_LANES, sum, lanes);
    }
    if (lane == 0) {
        const float alpha = before == now ? 1.0f : expf(before - now);
        s.alpha[q] = alpha;
        s.total[q] = most == CUDA_NOTHING ? s.total[q] : fmaf(s.total[q], alpha, sum);
        s.most[q] = now;
    }
}

template <int HD>
__device__ __forceinline__ void add_values(const room<HD> &s, float (&acc)[tile<HD>::outputs][4]) {
    typedef tile<HD> T;
    const int32_t d = static_cast<int32_t>(threadIdx.x) % T::dims * 4;
    const int32_t q0 = static_cast<int32_t>(threadIdx.x) / T::dims;
#pragma unroll
    for (int i = 0; i < T::outputs; i++) {
        const float alpha = s.alpha[q0 + i * (THREADS / T::dims)];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            acc[i][j] = alpha == 1.0f ? acc[i][j] : acc[i][j] * alpha;
        }
    }
    for (int32_t p = 0; p < T::positions; p++) {
        const float4 v = cuda_load_floats(s.kv + p * T::stride + d);
#pragma unroll
        for (int i = 0; i < T::outputs; i++) {
            const float e = s.score[(q0 + i * (THREADS / T::dims)) * T::row + p];
            if (e != 0.0f) {
                acc[i][0] = fmaf(e, v.x, acc[i][0]);
                acc[i][1] = fmaf(e, v.y, acc[i][1]);
                acc[i][2] = fmaf(e, v.z, acc[i][2]);
                acc[i][3] = fmaf(e, v.w, acc[i][3]);
            }
        }
    }
}

template <int HD>
__device__ __forceinline__ void write_values(const cuda_attend_job &job, const run &r,
                                             const room<HD> &s,
                                             float (&acc)[tile<HD>::outputs][4]) {
    typedef tile<HD> T;
    const int32_t d = static_cast<int32_t>(threadIdx.x) % T::dims * 4;
    const int32_t q0 = static_cast<int32_t>(threadIdx.x) / T::dims;
#pragma unroll
    for (int i = 0; i < T::outputs; i++) {
        const int32_t q = q0 + i * (THREADS / T::dims);
        if (q >= r.n * r.heads) {
            continue;
        }
        float *out = cuda_f32(job.out, r.row + q / r.heads, r.head + q % r.heads);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (d + j < job.kv.head_dim) {
                out[d + j] = acc[i][j] / s.total[q];
            }
        }
    }
}

/* All positions of a run: the sinks, then the windows. */
template <int DTYPE, int HD>
__device__ __forceinline__ void walk(const cuda_attend_job &job, const run &r, const room<HD> &s) {
    typedef tile<HD> T;
    const cuda_row_view longest = cuda_row_of(job, r.row + r.n - 1); /* of a chain, the last row */
    float acc[T::outputs][4] = {};
    __syncthreads(); /* of the run before */
    load_queries<HD>(job, r, s);
    for (int32_t begin = 0; begin < r.stop; begin += T::positions) {
        if (begin >= job.n_sink && begin + T::positions <= r.first) {
            continue;
        }
        __syncthreads();
        for (int32_t p = static_cast<int32_t>(threadIdx.x); p < T::positions; p += THREADS) {
            const int32_t at = begin + p;
            const bool seen = at < r.stop && (at >= r.first || at < job.n_sink);
            s.cell[p] = seen ? cuda_cell_of(job, longest, at) : -1;
        }
        __syncthreads();
        load_stretch<DTYPE, HD>(job, r, s, 0);
        __syncthreads();
        scores<HD>(job, r, s, begin);
        __syncthreads();
        load_stretch<DTYPE, HD>(job, r, s, job.kv.half_bytes);
        exponentials<HD>(s);
        __syncthreads();
        add_values<HD>(s, acc);
    }
    write_values<HD>(job, r, s, acc);
}

/* Rows from `row` on that are neighbours in one sequence; a row of a tree is alone. */
__device__ __forceinline__ void find_run(const cuda_attend_job &job, int64_t row, int64_t stop,
                                         run *r) {
    const cuda_row_view view = cuda_row_of(job, row);
    r->row = row;
    r->n = 1;
    r->first = view.first;
    r->stop = view.stop;
    while (view.cells == NULL && row + r->n < stop && job.slot[row + r->n] == job.slot[row]) {
        const cuda_row_view next = cuda_row_of(job, row + r->n);
        if (next.cells != NULL || next.stop < r->stop) {
            break;
        }
        r->first = next.first < r->first ? next.first : r->first;
        r->stop = next.stop;
        r->n++;
    }
}

/* Query heads of a block: as many of a KV head's as leave room for a row. */
__device__ __host__ __forceinline__ int32_t heads_of_block(int32_t group) {
    return group < CUDA_ATTEND_HEADS ? group : CUDA_ATTEND_HEADS;
}

/* Blocks: rows; parts of KV heads. */
template <int DTYPE, int HD> __global__ void attend_tiles(cuda_attend_job job) {
    typedef tile<HD> T;
    CUDA_DYNAMIC_SHARED(float, memory);
    room<HD> s;
    s.q = memory;
    s.kv = s.q + T::queries * HD;
    s.score = s.kv + T::positions * T::stride;
    s.most = s.score + T::queries * T::row;
    s.total = s.most + T::queries;
    s.alpha = s.total + T::queries;
    s.cell = reinterpret_cast<int32_t *>(s.alpha + T::queries);
    const int32_t most = heads_of_block(job.group), n_sub = (job.group + most - 1) / most;
    const int32_t sub = static_cast<int32_t>(blockIdx.y) % n_sub;
    const int32_t rest = job.group - sub * most, rows = T::queries / most;
    run r;
    r.heads = rest < most ? rest : most;
    r.kv_head = static_cast<int32_t>(blockIdx.y) / n_sub;
    r.head = r.kv_head * job.group + sub * most;
    const int64_t first = job.first + static_cast<int64_t>(blockIdx.x) * rows;
    const int64_t end = job.first + job.n, stop = first + rows < end ? first + rows : end;
    for (int64_t row = first; row < stop; row += r.n) {
        find_run(job, row, stop, &r);
        walk<DTYPE, HD>(job, r, s);
    }
}

template <int DTYPE, int HD> cudaError_t launch(cudaStream_t stream, const cuda_attend_job &args) {
    const cuda_attend_job job = args;
    const int32_t most = heads_of_block(job.group);
    const int64_t rows = tile<HD>::queries / most;
    const dim3 grid(static_cast<unsigned>(cuda_ceil(job.n, rows)),
                    static_cast<unsigned>(job.kv.n_head * cuda_ceil(job.group, most)));
    const auto kernel = attend_tiles<DTYPE, HD>;
    cudaError_t error = cuda_allow_shared(kernel, tile<HD>::bytes);
    if (error == cudaSuccess) {
        CUDA_LAUNCH(stream, grid, THREADS, tile<HD>::bytes, kernel, job);
        error = cuda_launched();
    }
    return error;
}

template <int DTYPE> cudaError_t launch_width(cudaStream_t stream, const cuda_attend_job &job) {
    if (job.kv.padded <= 64) {
        return launch<DTYPE, 64>(stream, job);
    }
    if (job.kv.padded <= 128) {
        return launch<DTYPE, 128>(stream, job);
    }
    return job.kv.padded <= 256 ? launch<DTYPE, 256>(stream, job) : launch<DTYPE, 512>(stream, job);
}

} // namespace

cudaError_t cuda_run_attend_tile(cudaStream_t stream, const cuda_attend_job *job) {
    return cuda_of_pages(job->kv.dtype, [&](auto dtype) {
        return launch_width<decltype(dtype)::value>(stream, *job);
    });
}
