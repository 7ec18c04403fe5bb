/*
 * Attention of prefill rows on tensor cores, for heads of up to 128 dimensions: a block takes 64
 * queries, rows with some query heads of one KV head, 16 a warp. One party of warps takes the even
 * pages, another one the odd ones, and what they find is put together at the end. K and V of a page
 * come into shared memory, one while the other is used; scores stay in registers; sums over positions
 * are in F32, with exponentials relative to the largest score so far.
 *
 * Tensor cores multiply 16-bit floats, so q and the exponentials are sums of two such. Pages in BF16
 * and F16 are taken as they are, in products of their own type. Values in F32 and Q8_0 become sums of
 * two F16, exact to 2^-22 of the largest of a position, after they were scaled by a power of two for
 * each position: scores are scaled back, and with V the exponents are added to the scores before the
 * exponentials that it is multiplied by. Of these products the one of the two lesser parts is left
 * out. q is scaled as K is, but for BF16.
 *
 * Stretches are pages of positions, in one order; what a query does not see adds a zero to it, so that
 * its result does not depend on its company. That holds for values that are not finite as well: where
 * one shows in a result, the run is computed again with zeros in their places, and a query that sees
 * one gets it afterwards.
 */
#include "attend.cuh"
#include "mma.cuh"

#define PARTY 128 /* threads that work on one page */
#define PARTIES 2
#define THREADS (PARTY * PARTIES)
#define QUERIES 64
#define POSITIONS 64 /* of a stretch: a page */

namespace {

template <int DTYPE, int HD> struct shape {
    enum {
        half = DTYPE != PICO_DTYPE_BF16, /* products of F16, else of BF16 */
        wide = DTYPE == PICO_DTYPE_F32 || DTYPE == PICO_DTYPE_Q8_0, /* K and V in two parts */
        eights = HD / 8,
        row = wide ? 2 * eights : eights, /* pieces of 16 bytes of a position */
        bytes = POSITIONS * row * 16,     /* of K, or of V */
        steps = HD / 16,
        apart = PARTY / eights /* positions from one of a thread's eights to the next */
    };
};

/* What a warp sees: its queries' least and greatest bounds. */
struct bounds {
    int32_t least_first, most_first, least_stop, most_stop;
};

/* Rows [row, row + n) that follow each other in one sequence, and the heads that the block takes. In
 * shared memory, as registers are scarce. */
struct run {
    int64_t row;
    int32_t n, heads, head, kv_head;
    int32_t first; /* positions that any of them sees: from here on, and sinks */
    cuda_row_view longest;
    bounds warp[PARTY / CUDA_WARP];
};

struct stretch {
    int32_t begin, page; /* -1: dropped */
};

/* Running over the stretches, of the queries lane / 4 and lane / 4 + 8 of the warp. */
struct sums {
    float factor[2]; /* scores are to be multiplied by it */
    float most[2], total[2];
    float top[2]; /* wide: what the values are relative to: the largest score plus exponent of V */
};

/* Positions before this one were dropped. */
__device__ __forceinline__ int32_t hidden_of(const run &r, const stretch &at) {
    return at.page < 0 ? r.longest.base : 0;
}

/* Whether all of a stretch is in its page, and the run sees all of it. */
__device__ __forceinline__ bool is_whole(const cuda_attend_job &job, const run &r,
                                         const stretch &at) {
    const int32_t end = at.begin + POSITIONS;
    return at.page >= 0 && end <= r.longest.base && (at.begin >= r.first || end <= job.n_sink);
}

/* Which of the parties a thread is in, and which thread of it. */
__device__ __forceinline__ int32_t party() {
    return static_cast<int32_t>(threadIdx.x) / PARTY;
}

__device__ __forceinline__ int32_t member() {
    return static_cast<int32_t>(threadIdx.x) % PARTY;
}

/* ---- pieces of K and V in shared memory ---- */

/* Byte of piece c of position p; eight positions that are read at once meet no bank twice. */
template <int ROW> __device__ __forceinline__ int32_t place(int32_t p, int32_t c) {
    return (p * ROW + (c ^ (ROW >= 8 ? p & 7 : p >> 1 & 3))) * 16;
}

/* Page (K of the run's head), and the place in it, of a position of a stretch; whether it is seen. */
__device__ __forceinline__ bool find_cell(const cuda_attend_job &job, const run &r,
                                          const stretch &at, int32_t p, int32_t *page,
                                          int32_t *offset) {
    const int32_t position = at.begin + p;
    *page = at.page;
    *offset = p;
    const bool seen = position >= hidden_of(r, at) && position < r.longest.stop &&
                      (position >= r.first || position < job.n_sink);
    if (seen && position >= r.longest.base) {
        const int32_t cell = r.longest.cells[position - r.longest.base];
        *page = cell / 64;
        *offset = cell % 64;
        return cell >= 0;
    }
    return seen;
}

/* Begins to bring eight raw values, number c of a position's K or V; page: of the run's KV head. */
template <int DTYPE, int HD>
__device__ __forceinline__ void copy_eight(const cuda_kv_layout &kv, const char *page,
                                           int32_t offset, int32_t p, int32_t c, bool real,
                                           char *to) {
    typedef shape<DTYPE, HD> T;
    const char *from = page + offset * kv.padded * kv.size;
    char *first = to + place<T::row>(p, c);
    if (DTYPE == PICO_DTYPE_Q8_0) {
        const int32_t scale = offset * kv.n_scale + c / 4;
        cuda_copy_begin<8>(first, from + c * 8, real);
        cuda_copy_begin<4>(first + 8, page + kv.code_bytes + scale / 2 * 4, real);
    } else if (DTYPE == PICO_DTYPE_F32) {
        cuda_copy_begin<16>(first, from + c * 32, real);
        cuda_copy_begin<16>(to + place<T::row>(p, T::eights + c), from + c * 32 + 16, real);
    } else {
        cuda_copy_begin<16>(first, from + c * 16, real);
    }
}

/* Begins to bring a thread's eights of K (half: 0) or V of a stretch into shared memory. */
template <int DTYPE, int HD>
__device__ __forceinline__ void begin_copy(const cuda_attend_job &job, const run &r,
                                           const stretch &at, int64_t half, char *to) {
    typedef shape<DTYPE, HD> T;
    const char *base = job.pages + half + 2 * job.kv.half_bytes * r.kv_head;
    const int32_t p = member() / T::eights, c = member() % T::eights;
    const bool inside = c * 8 < job.kv.padded;
    if (is_whole(job, r, at)) {
        const char *page = base + at.page * job.kv.page_bytes;
#pragma unroll
        for (int32_t i = 0; i < POSITIONS; i += T::apart) {
            copy_eight<DTYPE, HD>(job.kv, page, p + i, p + i, c, inside, to);
        }
        return;
    }
#pragma unroll 1
    for (int32_t i = 0; i < POSITIONS; i += T::apart) {
        int32_t page, offset;
        const bool seen = find_cell(job, r, at, p + i, &page, &offset);
        copy_eight<DTYPE, HD>(job.kv, base + (seen ? page : 0) * job.kv.page_bytes, offset, p + i,
                              c, seen && inside, to);
    }
}

__device__ __forceinline__ bool is_finite(float x) {
    return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u;
}

__device__ __forceinline__ float two_to(int32_t exponent) {
    return __uint_as_float(static_cast<uint32_t>(exponent + 127) << 23);
}

/* 2^-exponent, which takes the largest of some values to [1, 2), or near; of zeros and of what is
 * smaller than F32 holds in full, the exponent is the least one. */
__device__ __forceinline__ float scale_down(float most, int32_t *exponent) {
    const int32_t e = static_cast<int32_t>(__float_as_uint(most) >> 23) - 127;
    *exponent = e > 127 ? 0 : e > 126 ? 126 : e < -126 ? -126 : e;
    return two_to(-*exponent);
}

/* Two values as sums of two 16-bit floats. */
template <bool HALF>
__device__ __forceinline__ void split(float x, float y, uint32_t *high, uint32_t *low) {
    if (HALF) {
        *high = cuda_pack_half(x, y);
        *low = cuda_pack_half(x - cuda_from_half(static_cast<uint16_t>(*high)),
                              y - cuda_from_half(static_cast<uint16_t>(*high >> 16)));
    } else {
        *high = cuda_pack_bf16(x, y);
        *low = cuda_pack_bf16(x - __uint_as_float(*high << 16),
                              y - __uint_as_float(*high & 0xffff0000u));
    }
}

/* Eight raw values at a piece, as they were copied: F32 or Q8_0. */
template <int DTYPE>
__device__ __forceinline__ void load_raw(const char *first, const char *second, bool odd,
                                         float (&out)[8]) {
    if (DTYPE == PICO_DTYPE_Q8_0) {
        const uint4 raw = cuda_load16(first);
        const float scale = cuda_from_half(static_cast<uint16_t>(raw.z >> (odd ? 16 : 0)));
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t word = i < 4 ? raw.x : raw.y;
            out[i] = static_cast<float>(static_cast<int8_t>(word >> 8 * (i & 3) & 255)) * scale;
        }
    } else {
        const float4 a = cuda_load_floats(reinterpret_cast<const float *>(first));
        const float4 b = cuda_load_floats(reinterpret_cast<const float *>(second));
        out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
        out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    }
}

__device__ __forceinline__ void store16(char *to, const uint32_t (&word)[4]) {
    uint4 all;
    all.x = word[0], all.y = word[1], all.z = word[2], all.w = word[3];
    *reinterpret_cast<uint4 *>(to) = all;
}

/* 16-bit floats that are not finite become 0. */
template <bool HALF> __device__ __forceinline__ void clean16(char *piece) {
    const uint4 all = cuda_load16(piece);
    const uint32_t most = HALF ? 0x7c00u : 0x7f80u;
    uint32_t word[4] = {all.x, all.y, all.z, all.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        word[i] = (word[i] & most) == most ? word[i] & 0xffff0000u : word[i];
        word[i] = (word[i] >> 16 & most) == most ? word[i] & 0xffffu : word[i];
    }
    store16(piece, word);
}

/* Waits for what this thread copies, and turns it into parts; clean: zeros for what is not finite.
 * scales: of the positions, what K is to be multiplied by, or the exponents of V. */
template <int DTYPE, int HD, bool IS_K>
__device__ __forceinline__ void end_copy(const cuda_attend_job &job, const run &r,
                                         const stretch &at, bool clean, float *scales, char *to) {
    typedef shape<DTYPE, HD> T;
    const int32_t begin = member() / T::eights, c = member() % T::eights;
    cuda_copy_end();
    if (!T::wide && !clean) {
        return;
    }
#pragma unroll(T::wide ? (IS_K ? 4 : 2) : 1)
    for (int32_t i = 0; i < POSITIONS; i += T::apart) {
        const int32_t p = begin + i;
        char *first = to + place<T::row>(p, c);
        if (!T::wide) {
            clean16<T::half>(first);
            continue;
        }
        char *second = to + place<T::row>(p, T::eights + c);
        int32_t page, offset = p;
        if (DTYPE == PICO_DTYPE_Q8_0 && !is_whole(job, r, at)) {
            (void)find_cell(job, r, at, p, &page, &offset);
        }
        float value[8];
        uint32_t high[4], low[4];
        load_raw<DTYPE>(first, second, ((offset * job.kv.n_scale + c / 4) & 1) != 0, value);
        float most = 0;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            value[j] = clean && !is_finite(value[j]) ? 0.0f : value[j];
            most = fmaxf(most, fabsf(value[j]));
        }
#pragma unroll
        for (int lanes = T::eights / 2; lanes > 0; lanes /= 2) {
            most = fmaxf(most, __shfl_xor_sync(CUDA_ALL_LANES, most, lanes));
        }
        int32_t exponent;
        const float down = scale_down(most, &exponent);
        if (c == 0) {
            scales[p] = IS_K ? two_to(exponent) : static_cast<float>(exponent);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            split<true>(value[2 * j] * down, value[2 * j + 1] * down, &high[j], &low[j]);
        }
        store16(first, high);
        store16(second, low);
    }
}

/* ---- queries ---- */

/* Query i (0, 1) of a thread, as one of the block's; both parties have all. */
__device__ __forceinline__ int32_t query_of(int i) {
    return member() / CUDA_WARP * 16 + member() % CUDA_WARP / 4 + i * 8;
}

__device__ __forceinline__ int64_t row_of(const run &r, int32_t query) {
    const int32_t row = query / r.heads;
    return r.row + (row < r.n ? row : r.n - 1); /* what is behind the last sees what it sees */
}

/* q, times the scale of the scores in base 2, as fragments in two parts. */
template <bool HALF, int STEPS>
__device__ __forceinline__ void load_queries(const cuda_attend_job &job, const run &r,
                                             uint32_t (&high)[STEPS][4], uint32_t (&low)[STEPS][4],
                                             float (&factor)[2]) {
    const int32_t t = static_cast<int32_t>(threadIdx.x) % 4 * 2;
    const float scale = job.scale * 1.44269504f;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int32_t query = query_of(i);
        const bool real = query < r.n * r.heads;
        const float *q = cuda_f32(job.q, row_of(r, query), r.head + query % r.heads);
        float down = 1;
        factor[i] = 1;
        if (HALF) {
            float most = 0;
            for (int32_t d = t / 2; real && d < job.kv.head_dim; d += 4) {
                most = fmaxf(most, fabsf(q[d] * scale));
            }
            most = fmaxf(most, __shfl_xor_sync(CUDA_ALL_LANES, most, 1));
            most = fmaxf(most, __shfl_xor_sync(CUDA_ALL_LANES, most, 2));
            int32_t exponent;
            down = scale_down(most, &exponent);
            factor[i] = two_to(exponent);
        }
#pragma unroll
        for (int s = 0; s < STEPS * 2; s++) {
            const int32_t d = s * 8 + t;
            const float x = real && d < job.kv.head_dim ? q[d] * scale * down : 0.0f;
            const float y = real && d + 1 < job.kv.head_dim ? q[d + 1] * scale * down : 0.0f;
            split<HALF>(x, y, &high[s / 2][i + s % 2 * 2], &low[s / 2][i + s % 2 * 2]);
        }
    }
}

/* Of a warp; rows of a run are in the order of what they see. */
__device__ __forceinline__ bounds bounds_of(const cuda_attend_job &job, const run &r,
                                            int32_t warp) {
    const int32_t query = warp * 16;
    const cuda_row_view least = cuda_row_of(job, row_of(r, query));
    const cuda_row_view most = cuda_row_of(job, row_of(r, query + 15));
    bounds b = {least.first, most.first, least.stop, most.stop};
    if (query >= r.n * r.heads) {
        b.most_stop = 0; /* no query is real */
    }
    return b;
}

/* Whether any query of the warp sees anything of a stretch. */
__device__ __forceinline__ bool warp_sees(const cuda_attend_job &job, const bounds &b,
                                          const stretch &at) {
    return at.begin < b.most_stop &&
           (at.begin + POSITIONS > b.least_first || at.begin < job.n_sink);
}

/* Whether all see all of it. */
__device__ __forceinline__ bool warp_sees_all(const cuda_attend_job &job, const bounds &b,
                                              const stretch &at) {
    const int32_t end = at.begin + POSITIONS;
    return at.page >= 0 && end <= b.least_stop && (at.begin >= b.most_first || end <= job.n_sink);
}

/* ---- a stretch ---- */

template <bool HALF>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
    if (HALF) {
        cuda_mma_f16(d, a, b0, b1);
    } else {
        cuda_mma_bf16(d, a, b0, b1);
    }
}

/* score[n]: of positions 8n to 8n + 7 */
template <int DTYPE, int HD>
__device__ __forceinline__ void
scores(const char *k, const uint32_t (&high)[shape<DTYPE, HD>::steps][4],
       const uint32_t (&low)[shape<DTYPE, HD>::steps][4], float (&score)[8][4]) {
    typedef shape<DTYPE, HD> T;
    const bool half = T::half != 0;
    const int32_t lane = static_cast<int32_t>(threadIdx.x) % CUDA_WARP;
    const int32_t p = lane / 16 * 8 + lane % 8, c = lane / 8 % 2;
#pragma unroll
    for (int n = 0; n < 8; n++) {
        score[n][0] = score[n][1] = score[n][2] = score[n][3] = 0;
    }
#pragma unroll
    for (int s = 0; s < T::steps; s++) {
#pragma unroll
        for (int n = 0; n < 8; n += 2) {
            uint32_t b[4];
            cuda_load_matrices(b, k + place<T::row>(n * 8 + p, s * 2 + c));
            mma<half>(score[n], high[s], b[0], b[1]);
            mma<half>(score[n + 1], high[s], b[2], b[3]);
            mma<half>(score[n], low[s], b[0], b[1]);
            mma<half>(score[n + 1], low[s], b[2], b[3]);
            if (T::wide) {
                cuda_load_matrices(b, k + place<T::row>(n * 8 + p, T::eights + s * 2 + c));
                mma<half>(score[n], high[s], b[0], b[1]);
                mma<half>(score[n + 1], high[s], b[2], b[3]);
            }
        }
    }
}

/* Scores of K that was scaled position by position. */
__device__ __forceinline__ void scale_scores(const float *scales, float (&score)[8][4]) {
    scales += threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < 8; n++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            score[n][j] *= scales[n * 8 + j % 2];
        }
    }
}

/* Scores that are not seen. */
__device__ __forceinline__ void hide(const cuda_attend_job &job, const run &r, const stretch &at,
                                     float (&score)[8][4]) {
    const int32_t t = at.begin + static_cast<int32_t>(threadIdx.x) % 4 * 2;
    const int32_t known = hidden_of(r, at);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const cuda_row_view view = cuda_row_of(job, row_of(r, query_of(i)));
        const int32_t first = view.first, stop = view.stop;
#pragma unroll
        for (int n = 0; n < 8; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int32_t position = t + n * 8 + j;
                const bool hidden = (position < known) | (position >= stop) |
                                    ((position < first) & (position >= job.n_sink));
                score[n][2 * i + j] = hidden ? CUDA_NOTHING : score[n][2 * i + j];
            }
        }
    }
}

/* 2^x, below 2^-126 zero */
__device__ __forceinline__ float power_of_two(float x) {
#if CUDA_TENSOR_CORES
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return x < -126.0f ? 0.0f : exp2f(x);
#endif
}

/* What sums relative to one score are to be multiplied by where another one, not less, takes its
 * place; minus: that one times the factor, negated. */
template <bool HALF>
__device__ __forceinline__ float rescaling(float before, float now, float factor, float minus) {
    return before == now ? 1.0f : power_of_two(HALF ? fmaf(before, factor, minus) : before + minus);
}

__device__ __forceinline__ float minus_of(float most, float factor) {
    return most == CUDA_NOTHING ? 0.0f : -most * factor;
}

/* The largest of a query's x of a stretch and of the one before. */
__device__ __forceinline__ float largest(float before, const float (&x)[16]) {
#pragma unroll
    for (int n = 0; n < 16; n++) {
        before = fmaxf(before, x[n]);
    }
    before = fmaxf(before, __shfl_xor_sync(CUDA_ALL_LANES, before, 1));
    return fmaxf(before, __shfl_xor_sync(CUDA_ALL_LANES, before, 2));
}

/* Scores -> exponentials relative to the largest score so far, and their sum; wide: those that V is
 * multiplied by take up its exponents, and have a largest one of their own. alpha: what all values
 * before are to be multiplied by. */
template <bool HALF, bool WIDE>
__device__ __forceinline__ void exponentials(sums &s, const float *scales, float (&score)[8][4],
                                             float (&alpha)[2]) {
    scales += threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float x[16], sum = 0;
#pragma unroll
        for (int n = 0; n < 16; n++) {
            x[n] = score[n / 2][2 * i + n % 2];
        }
        const float factor = HALF ? s.factor[i] : 1.0f, most = largest(s.most[i], x);
        const float minus = minus_of(most, factor);
        alpha[i] = rescaling<HALF>(s.most[i], most, factor, minus);
        s.most[i] = most;
        s.total[i] *= alpha[i];
#pragma unroll
        for (int n = 0; n < 16; n++) {
            const float e = power_of_two(HALF ? fmaf(x[n], factor, minus) : x[n] + minus);
            sum += e;
            x[n] = WIDE ? fmaf(x[n], factor, scales[n / 2 * 8 + n % 2]) : e;
        }
        s.total[i] += sum;
        if (WIDE) {
            const float top = largest(s.top[i], x), down = minus_of(top, 1);
            alpha[i] = rescaling<false>(s.top[i], top, 1, down);
            s.top[i] = top;
#pragma unroll
            for (int n = 0; n < 16; n++) {
                x[n] = power_of_two(x[n] + down);
            }
        }
#pragma unroll
        for (int n = 0; n < 16; n++) {
            score[n / 2][2 * i + n % 2] = x[n];
        }
    }
}

/* acc = acc * alpha + exponentials * V; the stretch has sums of its own, so that what it adds is
 * rounded as other sums are, and is nothing where nothing is seen. */
template <int DTYPE, int HD>
__device__ __forceinline__ void add_values(const char *v, const uint32_t (&high)[4][4],
                                           const uint32_t (&low)[4][4], const float (&alpha)[2],
                                           float (&acc)[HD / 8][4]) {
    typedef shape<DTYPE, HD> T;
    const bool half = T::half != 0;
    const int32_t lane = static_cast<int32_t>(threadIdx.x) % CUDA_WARP;
    const int32_t p = lane % 16, c = lane / 16;
#pragma unroll
    for (int n = 0; n < HD / 8; n += 2) {
        float sum[2][4] = {}, rest[2][4] = {};
#pragma unroll
        for (int s = 0; s < 4; s++) {
            uint32_t b[4];
            cuda_load_transposed(b, v + place<T::row>(s * 16 + p, n + c));
            mma<half>(sum[0], high[s], b[0], b[1]);
            mma<half>(sum[1], high[s], b[2], b[3]);
            mma<half>(rest[0], low[s], b[0], b[1]);
            mma<half>(rest[1], low[s], b[2], b[3]);
            if (T::wide) {
                cuda_load_transposed(b, v + place<T::row>(s * 16 + p, T::eights + n + c));
                mma<half>(rest[0], high[s], b[0], b[1]);
                mma<half>(rest[1], high[s], b[2], b[3]);
            }
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float *to = &acc[n + j / 4][j % 4];
            *to = fmaf(*to, alpha[j % 4 / 2], sum[j / 4][j % 4] + rest[j / 4][j % 4]);
        }
    }
}

/* ---- a run ---- */

/* The party's stretch at or after `begin`, which is one, that a query of the run may see. */
__device__ __forceinline__ stretch find_stretch(const cuda_attend_job &job, const run &r,
                                                int32_t begin) {
    stretch at;
    at.begin = begin;
    if (begin >= job.n_sink && begin + POSITIONS <= r.first) {
        const int32_t page = r.first / POSITIONS;
        at.begin = (page + ((page ^ party()) & 1)) * POSITIONS;
    }
    at.page = -1;
    if (at.begin < r.longest.base && at.begin / POSITIONS < job.table.cols) {
        at.page = r.longest.table[at.begin / POSITIONS];
    }
    return at;
}

/* The party's positions of a run. kv: shared memory for K and V of a stretch. */
template <int DTYPE, int HD>
__device__ __forceinline__ void walk(const cuda_attend_job &job, const run &r, bool clean,
                                     float *scales, char *kv, float (&acc)[HD / 8][4], sums &s) {
    typedef shape<DTYPE, HD> T;
    const bool half = T::half != 0;
    uint32_t high[T::steps][4], low[T::steps][4];
    load_queries<half, T::steps>(job, r, high, low, s.factor);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        s.most[i] = s.top[i] = CUDA_NOTHING;
        s.total[i] = 0;
    }
#pragma unroll
    for (int n = 0; n < HD / 8; n++) {
        acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0;
    }
    char *const k = kv, *const v = kv + T::bytes;
    const bounds &b = r.warp[member() / CUDA_WARP];
    stretch at = find_stretch(job, r, party() * POSITIONS);
    if (at.begin < r.longest.stop) {
        begin_copy<DTYPE, HD>(job, r, at, 0, k);
    }
    while (at.begin < r.longest.stop) {
        const stretch next = find_stretch(job, r, at.begin + PARTIES * POSITIONS);
        const bool sees = warp_sees(job, b, at);
        float score[8][4];
        end_copy<DTYPE, HD, true>(job, r, at, false, scales, k);
        cuda_barrier<PARTY>(1 + party()); /* K is there, and V of the stretch before was used */
        begin_copy<DTYPE, HD>(job, r, at, job.kv.half_bytes, v);
        if (sees) {
            scores<DTYPE, HD>(k, high, low, score);
            if (T::wide) {
                scale_scores(scales, score);
            }
            if (!warp_sees_all(job, b, at)) {
                hide(job, r, at, score);
            }
        }
        end_copy<DTYPE, HD, false>(job, r, at, clean, scales + POSITIONS, v);
        cuda_barrier<PARTY>(1 + party()); /* V is there, and K was used */
        if (next.begin < r.longest.stop) {
            begin_copy<DTYPE, HD>(job, r, next, 0, k);
        }
        if (sees) {
            uint32_t e_high[4][4], e_low[4][4];
            float alpha[2];
            exponentials<half, T::wide != 0>(s, scales + POSITIONS, score, alpha);
#pragma unroll
            for (int i = 0; i < 16; i++) {
                const float *pair = &score[i / 2][i % 2 * 2];
                split<half>(pair[0], pair[1], &e_high[i / 4][i % 4], &e_low[i / 4][i % 4]);
            }
            add_values<DTYPE, HD>(v, e_high, e_low, alpha, acc);
        }
        at = next;
    }
}

/* What the second party found, to the first one, which has the result. room: shared memory. */
template <int DTYPE, int HD>
__device__ __forceinline__ void join(float *room, float (&acc)[HD / 8][4], sums &s) {
    typedef shape<DTYPE, HD> T;
    const bool half = T::half != 0;
    room += member();
    __syncthreads(); /* K and V were used */
    if (party() != 0) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            room[i * PARTY] = s.most[i];
            room[(2 + i) * PARTY] = s.total[i];
            room[(4 + i) * PARTY] = s.top[i];
        }
#pragma unroll
        for (int n = 0; n < HD / 2; n++) {
            room[(6 + n) * PARTY] = acc[n / 4][n % 4];
        }
    }
    __syncthreads();
    if (party() != 0) {
        return;
    }
    float own[2], other[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float factor = half ? s.factor[i] : 1.0f;
        const float most = fmaxf(s.most[i], room[i * PARTY]), minus = minus_of(most, factor);
        own[i] = rescaling<half>(s.most[i], most, factor, minus);
        other[i] = rescaling<half>(room[i * PARTY], most, factor, minus);
        s.total[i] = fmaf(s.total[i], own[i], room[(2 + i) * PARTY] * other[i]);
        s.most[i] = most;
        if (T::wide) {
            const float top = fmaxf(s.top[i], room[(4 + i) * PARTY]), down = minus_of(top, 1);
            own[i] = rescaling<false>(s.top[i], top, 1, down);
            other[i] = rescaling<false>(room[(4 + i) * PARTY], top, 1, down);
            s.top[i] = top;
        }
        s.total[i] += __shfl_xor_sync(CUDA_ALL_LANES, s.total[i], 1);
        s.total[i] += __shfl_xor_sync(CUDA_ALL_LANES, s.total[i], 2);
    }
#pragma unroll
    for (int n = 0; n < HD / 2; n++) {
        float *to = &acc[n / 4][n % 4];
        *to = fmaf(*to, own[n % 4 / 2], room[(6 + n) * PARTY] * other[n % 4 / 2]);
    }
}

/* Whether a thread's results show a value of V that is not finite. */
template <int HD>
__device__ __forceinline__ bool is_spoilt(const run &r, const float (&acc)[HD / 8][4],
                                          const float (&total)[2]) {
    bool spoilt = false;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        bool finite = true;
#pragma unroll
        for (int n = 0; n < HD / 8; n++) {
            finite = finite && is_finite(acc[n][2 * i]) && is_finite(acc[n][2 * i + 1]);
        }
        spoilt = spoilt || (query_of(i) < r.n * r.heads && is_finite(total[i]) && !finite);
    }
    return spoilt;
}

/* Values that are not finite, to the queries that see them. */
template <int DTYPE, int HD>
__device__ __forceinline__ void spoil(const cuda_attend_job &job, const run &r,
                                      float (&acc)[HD / 8][4]) {
    const int32_t t = static_cast<int32_t>(threadIdx.x) % 4 * 2;
    const cuda_row_view view[2] = {cuda_row_of(job, row_of(r, query_of(0))),
                                   cuda_row_of(job, row_of(r, query_of(1)))};
    const char *pages = job.pages + job.kv.half_bytes;
    for (int32_t position = 0; position < r.longest.stop; position++) {
        const int32_t cell = position >= r.first || position < job.n_sink
                                 ? cuda_cell_of(job, r.longest, position)
                                 : -1;
        if (cell < 0) {
            continue;
        }
#pragma unroll
        for (int n = 0; n < HD / 8; n++) {
            float value[8] = {}, own[2] = {};
            if (n * 8 < job.kv.padded) {
                cuda_load_eight<DTYPE>(pages + cuda_cell_codes(job.kv, cell, r.kv_head),
                                       pages + cuda_cell_scales(job.kv, cell, r.kv_head), n * 8,
                                       value);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) {
                own[i % 2] = i / 2 * 2 == t ? value[i] : own[i % 2];
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float x = own[j % 2];
                if (!is_finite(x) && cuda_sees(job, view[j / 2], position)) {
                    acc[n][j] += x;
                }
            }
        }
    }
}

template <int DTYPE, int HD>
__device__ __forceinline__ void write_values(const cuda_attend_job &job, const run &r,
                                             const float (&acc)[HD / 8][4], const sums &s) {
    const int32_t t = static_cast<int32_t>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int32_t query = query_of(i);
        if (query >= r.n * r.heads) {
            continue;
        }
        float *out = cuda_f32(job.out, row_of(r, query), r.head + query % r.heads);
        const float up = power_of_two(fmaf(-s.most[i], s.factor[i], s.top[i]));
        const float inverse = (shape<DTYPE, HD>::wide ? up : 1.0f) / s.total[i];
#pragma unroll
        for (int n = 0; n < HD / 8; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                if (n * 8 + t + j < job.kv.head_dim) { /* + 0: a zero has one sign */
                    out[n * 8 + t + j] = (acc[n][2 * i + j] + 0.0f) * inverse;
                }
            }
        }
    }
}

/* Whether a row goes on where the one before it ends; a row of a tree is alone. */
__device__ __forceinline__ bool follows(const cuda_attend_job &job, int64_t row) {
    const cuda_row_view before = cuda_row_of(job, row - 1), view = cuda_row_of(job, row);
    return job.slot[row] == job.slot[row - 1] && before.cells == NULL && view.cells == NULL &&
           view.stop >= before.stop && view.first >= before.first;
}

/* The run that begins at `row`, of the rows before stop; all threads have it after a barrier. */
__device__ __forceinline__ void find_run(const cuda_attend_job &job, int64_t row, int64_t stop,
                                         float *part, run *r) {
    const int64_t own = row + threadIdx.x;
    const bool ends = own > row && own < stop && !follows(job, own);
    const int32_t n = ends ? static_cast<int32_t>(threadIdx.x) : static_cast<int32_t>(stop - row);
    const float least = -cuda_block_max(-static_cast<float>(n), part);
    if (threadIdx.x == 0) {
        r->row = row;
        r->n = static_cast<int32_t>(least);
        r->first = cuda_row_of(job, row).first;
        r->longest = cuda_row_of(job, row + r->n - 1);
        for (int32_t warp = 0; warp < PARTY / CUDA_WARP; warp++) {
            r->warp[warp] = bounds_of(job, *r, warp);
        }
    }
}

__device__ __host__ __forceinline__ int32_t heads_of_block(int32_t group) {
    return group < CUDA_ATTEND_HEADS ? group : CUDA_ATTEND_HEADS;
}

/* Blocks: rows, the last ones, which see most, first; within them parts of KV heads. */
template <int DTYPE, int HD>
__global__ void __launch_bounds__(THREADS, 1) attend_tensor(cuda_attend_job job) {
    if (!CUDA_MMA_LAUNCHED) {
        return;
    }
    __shared__ float part[THREADS / CUDA_WARP];
    __shared__ run r;
    __shared__ float scales[PARTIES][2 * POSITIONS]; /* wide: of K, of V */
    CUDA_DYNAMIC_SHARED(char, kv);                   /* for each party K and V */
    const int32_t most = heads_of_block(job.group), n_sub = (job.group + most - 1) / most;
    const int32_t n_part = job.kv.n_head * n_sub;
    const int32_t of = static_cast<int32_t>(blockIdx.x) % n_part, sub = of % n_sub;
    const int32_t rest = job.group - sub * most, rows = QUERIES / most;
    const int64_t tile = (gridDim.x - 1 - blockIdx.x) / static_cast<uint32_t>(n_part);
    if (threadIdx.x == 0) {
        r.heads = rest < most ? rest : most;
        r.kv_head = of / n_sub;
        r.head = r.kv_head * job.group + sub * most;
    }
    const int64_t first = job.first + tile * rows, end = job.first + job.n;
    const int64_t stop = first + rows < end ? first + rows : end;
    for (int64_t row = first; row < stop; row += r.n) {
        float acc[HD / 8][4];
        sums s;
        find_run(job, row, stop, part, &r);
        __syncthreads();
#pragma unroll 1
        for (int turn = 0; turn < 2; turn++) {
            walk<DTYPE, HD>(job, r, turn != 0, scales[party()],
                            kv + party() * 2 * shape<DTYPE, HD>::bytes, acc, s);
            join<DTYPE, HD>(reinterpret_cast<float *>(kv), acc, s);
            const bool spoilt = party() == 0 && is_spoilt<HD>(r, acc, s.total);
            if (turn != 0 && party() == 0) {
                spoil<DTYPE, HD>(job, r, acc);
            } else if (turn == 0 && cuda_block_max(spoilt ? 1.0f : 0.0f, part) == 0) {
                break;
            }
        }
        if (party() == 0) {
            write_values<DTYPE, HD>(job, r, acc, s);
        }
    }
}

template <int DTYPE, int HD> cudaError_t launch(cudaStream_t stream, const cuda_attend_job &args) {
    const cuda_attend_job job = args;
    const int32_t most = heads_of_block(job.group);
    const int64_t tiles = cuda_ceil(job.n, QUERIES / most);
    const dim3 grid(static_cast<unsigned>(tiles * job.kv.n_head * cuda_ceil(job.group, most)));
    const uint32_t bytes = cuda_mma_bytes(HD, shape<DTYPE, HD>::wide);
    static_assert(PARTIES == 2 && POSITIONS == 64, "shapes.h says how much memory that takes");
    const auto kernel = attend_tensor<DTYPE, HD>;
    cudaError_t error = cuda_allow_shared(kernel, static_cast<int>(bytes));
    if (error == cudaSuccess) {
        CUDA_LAUNCH(stream, grid, THREADS, bytes, kernel, job);
        error = cuda_launched();
    }
    return error;
}

template <int DTYPE> cudaError_t launch_width(cudaStream_t stream, const cuda_attend_job &job) {
    if (job.kv.padded <= 32) {
        return launch<DTYPE, 32>(stream, job);
    }
    return job.kv.padded <= 64 ? launch<DTYPE, 64>(stream, job) : launch<DTYPE, 128>(stream, job);
}

} // namespace

cudaError_t cuda_run_attend_mma(cudaStream_t stream, const cuda_attend_job *job) {
    return cuda_of_pages(job->kv.dtype, [&](auto dtype) {
        return launch_width<decltype(dtype)::value>(stream, *job);
    });
}
