/*
 * Attention over one KV page, written once over vec.h: scores, online softmax, mix. The including
 * file defines CPU_LANES and ATTN_TABLE. A query's arithmetic depends on its own data and on the
 * page's absolute place alone; how queries are grouped only decides how often K and V are loaded.
 */
#include "cpu.h"
#include "vec.h"

#define L CPU_LANES
#define P ((int)PICO_PAGE_POSITIONS)
#define GROUP_K 4 /* vectors of positions, and of dimensions, held in registers */
#define GROUP_Q (CPU_LANES == 16 ? 4 : 2) /* queries that share them: 32 registers, or 16 */

/* score[q][p..p+4L) = scale * sum over d of q[d] * K[d][p..], for nq queries */
INLINE void score_strip(uint32_t dtype, int nq, const cpu_attn *a, uint32_t q0, int p) {
    vf sum[4][GROUP_K];
    UNROLL for (int q = 0; q < nq; q++) {
        UNROLL for (int j = 0; j < GROUP_K; j++) {
            sum[q][j] = vf_set(0);
        }
    }
    for (uint32_t d = 0; d < a->head_dim; d++) {
        vf k[GROUP_K];
        UNROLL for (int j = 0; j < GROUP_K; j++) {
            k[j] = vf_load_any(dtype, a->k, (int64_t)d * P + p + j * L);
        }
        UNROLL for (int q = 0; q < nq; q++) {
            const vf x = vf_set(a->q[q0 + (uint32_t)q][d]);
            UNROLL for (int j = 0; j < GROUP_K; j++) {
                sum[q][j] = vf_fma(x, k[j], sum[q][j]);
            }
        }
    }
    const vf scale = vf_set(a->scale);
    UNROLL for (int q = 0; q < nq; q++) {
        UNROLL for (int j = 0; j < GROUP_K; j++) {
            vf_store(a->score + (q0 + (uint32_t)q) * PICO_PAGE_POSITIONS + p + j * L,
                     vf_mul(sum[q][j], scale));
        }
    }
}

INLINE void score_page(uint32_t dtype, const cpu_attn *a, int lo, int hi) {
    const int step = GROUP_K * L;
    for (int p = lo / step * step; p < hi; p += step) {
        uint32_t q = 0;
        for (; q + GROUP_Q <= a->n_q; q += GROUP_Q) {
            score_strip(dtype, GROUP_Q, a, q, p);
        }
        for (; q + 2 <= a->n_q; q += 2) {
            score_strip(dtype, 2, a, q, p);
        }
        for (; q < a->n_q; q++) {
            score_strip(dtype, 1, a, q, p);
        }
    }
}

INLINE vmask span_mask(const cpu_span *span, int p) {
    return vm_or(vm_range(p, span->lo, span->hi), vm_range(p, 0, span->n_sink));
}

/* Turns the scores of one query at [from, to) into weights, 0 where the span hides a position;
 * returns by what the accumulator must be multiplied. from and to are multiples of 2 L that include
 * all that the query sees; beyond that they change nothing. */
static float soften(const cpu_attn *a, uint32_t q, int from, int to) {
    float *score = a->score + q * PICO_PAGE_POSITIONS;
    const cpu_span *span = &a->span[q];
    const vf hidden = vf_set(-__builtin_inff());
    const int all = span->lo <= from && span->hi >= to;
    vf top = hidden;
    for (int p = from; p < to; p += L) {
        vf s = vf_load(score + p);
        if (!all) {
            s = vf_select(span_mask(span, p), s, hidden);
        }
        top = vf_max(s, top);
        if (!all) {
            vf_store(score + p, s);
        }
    }
    const float most = vf_largest(top);
    if (!(most > -__builtin_inff())) { /* sees nothing here */
        memset(score + from, 0, sizeof *score * (size_t)(to - from));
        return 1;
    }
    const float before = a->largest[q], now = most > before ? most : before;
    vf part[2] = {vf_set(0), vf_set(0)};
    const vf shift = vf_set(now);
    for (int p = from; p < to; p += 2 * L) {
        const vf e0 = vf_exp(vf_sub(vf_load(score + p), shift));
        const vf e1 = vf_exp(vf_sub(vf_load(score + p + L), shift));
        vf_store(score + p, e0);
        vf_store(score + p + L, e1);
        part[0] = vf_add(part[0], e0);
        part[1] = vf_add(part[1], e1);
    }
    float factor[L] = {1};
    if (now > before) {
        vf_store(factor, vf_exp(vf_set(before - now)));
    }
    a->largest[q] = now;
    a->sum[q] = a->sum[q] * factor[0] + vf_sum(vf_add(part[0], part[1]));
    return factor[0];
}

/* acc[q][d..] = factor * acc[q][d..] + sum over the positions of weight * V[position][d..] */
INLINE void mix_strip(uint32_t dtype, int nq, const cpu_attn *a, uint32_t q0, const float *factor,
                      int64_t d, const int32_t range[4]) {
    vf sum[4][GROUP_K];
    UNROLL for (int q = 0; q < nq; q++) {
        const float *acc = a->acc + (q0 + (uint32_t)q) * a->acc_stride + d;
        UNROLL for (int j = 0; j < GROUP_K; j++) {
            sum[q][j] = vf_mul(vf_load(acc + j * L), vf_set(factor[q]));
        }
    }
    for (int r = 0; r < 4; r += 2) {
        for (int32_t p = range[r]; p < range[r + 1]; p++) {
            const int64_t at = (int64_t)p * a->head_dim + d;
            vf v[GROUP_K];
            UNROLL for (int j = 0; j < GROUP_K; j++) {
                v[j] = vf_load_any(dtype, a->v, at + j * L);
            }
            UNROLL for (int q = 0; q < nq; q++) {
                const vf w =
                    vf_set(a->score[(q0 + (uint32_t)q) * PICO_PAGE_POSITIONS + (uint32_t)p]);
                UNROLL for (int j = 0; j < GROUP_K; j++) {
                    sum[q][j] = vf_fma(w, v[j], sum[q][j]);
                }
            }
        }
    }
    UNROLL for (int q = 0; q < nq; q++) {
        float *acc = a->acc + (q0 + (uint32_t)q) * a->acc_stride + d;
        UNROLL for (int j = 0; j < GROUP_K; j++) {
            vf_store(acc + j * L, sum[q][j]);
        }
    }
}

/* Adds positions p .. p + 3, those in [from, to) only, each to a sum of its own. */
INLINE void mix_four(uint32_t dtype, int nq, int64_t tail, const cpu_attn *a, const float *score,
                     int64_t d, int p, int from, int to, vf sum[4][4]) {
    UNROLL for (int j = 0; j < 4; j++) {
        if (p + j >= from && p + j < to) {
            const int64_t at = (int64_t)(p + j) * a->head_dim + d;
            const vf v =
                tail > 0 ? vf_load_any_n(dtype, a->v, at, tail) : vf_load_any(dtype, a->v, at);
            UNROLL for (int q = 0; q < nq; q++) {
                sum[q][j] = vf_fma(vf_set(score[q * P + p + j]), v, sum[q][j]);
            }
        }
    }
}

/* The same for L or fewer dimensions. One running sum would wait for itself at each position, so
 * there are four, for positions 4i, 4i + 1, ... */
INLINE void mix_narrow(uint32_t dtype, int nq, int64_t tail, const cpu_attn *a, uint32_t q0,
                       const float *factor, int64_t d, const int32_t range[4]) {
    const float *score = a->score + q0 * PICO_PAGE_POSITIONS;
    vf sum[4][4];
    UNROLL for (int q = 0; q < nq; q++) {
        UNROLL for (int j = 0; j < 4; j++) {
            sum[q][j] = vf_set(0);
        }
    }
    for (int r = 0; r < 4; r += 2) {
        const int from = range[r], to = range[r + 1];
        int p = from & ~3;
        if (p < from && from < to) {
            mix_four(dtype, nq, tail, a, score, d, p, from, to, sum);
            p += 4;
        }
        for (; p + 4 <= to; p += 4) {
            mix_four(dtype, nq, tail, a, score, d, p, p, p + 4, sum);
        }
        if (p < to) {
            mix_four(dtype, nq, tail, a, score, d, p, from, to, sum);
        }
    }
    UNROLL for (int q = 0; q < nq; q++) {
        float *acc = a->acc + (q0 + (uint32_t)q) * a->acc_stride + d;
        const vf all = vf_add(vf_add(sum[q][0], sum[q][1]), vf_add(sum[q][2], sum[q][3]));
        vf_store(acc, vf_fma(vf_load(acc), vf_set(factor[q]), all));
    }
}

INLINE void mix_queries(uint32_t dtype, int nq, const cpu_attn *a, uint32_t q0, const float *factor,
                        const int32_t range[4]) {
    const int64_t n = a->head_dim;
    int64_t d = 0;
    for (; d + GROUP_K * L <= n; d += GROUP_K * L) {
        mix_strip(dtype, nq, a, q0, factor, d, range);
    }
    for (; d + L <= n; d += L) {
        mix_narrow(dtype, nq, 0, a, q0, factor, d, range);
    }
    if (d < n) {
        mix_narrow(dtype, nq, n - d, a, q0, factor, d, range);
    }
}

INLINE void attn_page(uint32_t dtype, const cpu_attn *a) {
    float factor[CPU_ATTN_QUERIES];
    int32_t lo = P, hi = 0, sink = 0; /* what any of the queries sees */
    for (uint32_t q = 0; q < a->n_q; q++) {
        const cpu_span *span = &a->span[q];
        if (span->lo < span->hi) {
            lo = span->lo < lo ? span->lo : lo;
            hi = span->hi > hi ? span->hi : hi;
        }
        sink = span->n_sink > sink ? span->n_sink : sink;
    }
    if (hi == 0 && sink == 0) {
        return;
    }
    lo = lo < sink ? sink : lo;
    const int32_t range[4] = {0, sink, lo, hi};
    const int from = (sink > 0 ? 0 : lo) / (2 * L) * (2 * L);
    const int to = ((hi > sink ? hi : sink) + 2 * L - 1) / (2 * L) * (2 * L);
    score_page(dtype, a, from, to);
    for (uint32_t q = 0; q < a->n_q; q++) {
        factor[q] = soften(a, q, from, to);
    }
    uint32_t q = 0;
    for (; q + GROUP_Q <= a->n_q; q += GROUP_Q) {
        mix_queries(dtype, GROUP_Q, a, q, factor + q, range);
    }
    for (; q + 2 <= a->n_q; q += 2) {
        mix_queries(dtype, 2, a, q, factor + q, range);
    }
    for (; q < a->n_q; q++) {
        mix_queries(dtype, 1, a, q, factor + q, range);
    }
}

static void page_any(const cpu_attn *a) {
    assert(a->n_q <= CPU_ATTN_QUERIES);
    switch (a->dtype) {
    case PICO_DTYPE_F16:
        attn_page(PICO_DTYPE_F16, a);
        break;
    case PICO_DTYPE_BF16:
        attn_page(PICO_DTYPE_BF16, a);
        break;
    default:
        attn_page(PICO_DTYPE_F32, a);
        break;
    }
}

static void finish_query(const float *acc, float sum, float *out, int64_t n) {
    const vf s = vf_set(sum > 0 ? 1 / sum : sum); /* a query that saw nothing gives zeros */
    for (int64_t i = 0; i < n; i += L) {
        vf_store_n(out + i, vf_mul(vf_load(acc + i), s), n - i);
    }
}

const cpu_attn_kernels ATTN_TABLE = {.page = page_any, .finish = finish_query};
