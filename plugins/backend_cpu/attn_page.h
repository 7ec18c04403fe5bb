/*
 * What the kernels of attention share: what queries see of a page, their softmax, and pages as floats.
 * Over vec.h; the including file defines CPU_LANES.
 */
#include "cpu.h"
#include "vec.h"

#define L CPU_LANES
#define P ((int)PICO_PAGE_POSITIONS)
#if CPU_LANES == 16
#define TILE 6 /* queries; 24 sums of the 32 registers */
#else
#define TILE 2 /* 8 of 16 */
#endif

/* What the queries of a tile see of a page. */
typedef struct tile_range {
    int32_t part[4]; /* positions [0, 1) and [2, 3) */
    int from, to;    /* all of them, rounded to multiples of 2 L */
} tile_range;

INLINE vmask span_mask(const cpu_span *span, int p) {
    return vm_or(vm_range(p, span->lo, span->hi), vm_range(p, 0, span->n_sink));
}

/* The largest score of a query at [from, to) that its span shows; the others become -inf. */
INLINE float show(float *score, const cpu_span *span, int from, int to) {
    const vf hidden = vf_set(-__builtin_inff());
    vf top = hidden;
    if (span->lo <= from && span->hi >= to) {
        for (int p = from; p < to; p += L) {
            top = vf_max(vf_load(score + p), top);
        }
        return vf_largest(top);
    }
    for (int p = from; p < to; p += L) {
        const vf s = vf_select(span_mask(span, p), vf_load(score + p), hidden);
        top = vf_max(s, top);
        vf_store(score + p, s);
    }
    return vf_largest(top);
}

/* Turns the scores of n queries into weights, 0 where a span hides a position; factor is by what
 * each accumulator must be multiplied. Step by step for all of them, since each step of one query
 * waits for the one before. What the range includes beyond a query's span changes nothing. */
static void soften(const cpu_attn *a, uint32_t q0, uint32_t n, const tile_range *range,
                   float factor[L]) {
    float *score = a->score + q0 * PICO_PAGE_POSITIONS;
    const int from = range->from, to = range->to;
    float fall[L] = {0}, shift[TILE];
    vf part[TILE];
    for (uint32_t q = 0; q < n; q++) {
        const float most = show(score + q * P, &a->span[q0 + q], from, to);
        const float before = a->largest[q0 + q], now = most > before ? most : before;
        shift[q] =
            now > -__builtin_inff() ? now : 0; /* where nothing was seen, all weights are 0 */
        fall[q] = now > before ? before - now : 0;
        a->largest[q0 + q] = now;
    }
    for (uint32_t q = 0; q < n; q++) {
        vf sum[2] = {vf_set(0), vf_set(0)};
        for (int p = from; p < to; p += 2 * L) {
            float *at = score + q * P + p;
            const vf e0 = vf_exp_below(vf_sub(vf_load(at), vf_set(shift[q])));
            const vf e1 = vf_exp_below(vf_sub(vf_load(at + L), vf_set(shift[q])));
            vf_store(at, e0);
            vf_store(at + L, e1);
            sum[0] = vf_add(sum[0], e0);
            sum[1] = vf_add(sum[1], e1);
        }
        part[q] = vf_add(sum[0], sum[1]);
    }
    vf_store(factor, vf_exp_below(vf_load(fall)));
    for (uint32_t q = 0; q < n; q++) {
        a->sum[q0 + q] = a->sum[q0 + q] * factor[q] + vf_sum(part[q]);
    }
}

/* What n queries from q0 on see; 0 if none of them sees anything. */
static int range_of(const cpu_attn *a, uint32_t q0, uint32_t n, tile_range *out) {
    int32_t lo = P, hi = 0, sink = 0;
    for (uint32_t q = q0; q < q0 + n; q++) {
        const cpu_span *span = &a->span[q];
        if (span->lo < span->hi) {
            lo = span->lo < lo ? span->lo : lo;
            hi = span->hi > hi ? span->hi : hi;
        }
        sink = span->n_sink > sink ? span->n_sink : sink;
    }
    lo = lo < sink ? sink : lo;
    *out = (tile_range){.part = {0, sink, lo, hi},
                        .from = (sink > 0 ? 0 : lo) / (2 * L) * (2 * L),
                        .to = ((hi > sink ? hi : sink) + 2 * L - 1) / (2 * L) * (2 * L)};
    return hi != 0 || sink != 0;
}

/* K from lines of 64 bytes of its type to lines of floats, V as it is. */
INLINE void widen_page(uint32_t dtype, const cpu_attn *a, float *k, float *v) {
    const int line = dtype == PICO_DTYPE_I8 ? 64 : 32;
    const int64_t n = a->head_dim;
    for (int p = 0; p < P; p += 16) {
        float *to = k + p * n;
        for (int64_t d = 0; d < n; d++) {
            const int64_t at = (p / line * n + d) * line + p % line;
            UNROLL for (int j = 0; j < 16; j += L) {
                vf_store(to + d * 16 + j, vf_load_any(dtype, a->k, at + j));
            }
        }
    }
    for (int64_t i = 0; i < n * P; i += 4 * L) {
        UNROLL for (int j = 0; j < 4; j++) {
            vf_store(v + i + j * L, vf_load_any(dtype, a->v, i + j * L));
        }
    }
}

/* K and V of the page as floats. Pages hold defined bytes only where positions were stored; what is
 * read elsewhere is never used. */
static cpu_attn widened(const cpu_attn *a) {
    const int64_t n = (int64_t)a->head_dim * P;
    cpu_attn wide = *a;
    switch (a->dtype) {
    case PICO_DTYPE_F16:
        widen_page(PICO_DTYPE_F16, a, a->wide, a->wide + n);
        break;
    case PICO_DTYPE_BF16:
        widen_page(PICO_DTYPE_BF16, a, a->wide, a->wide + n);
        break;
    default:
        widen_page(PICO_DTYPE_I8, a, a->wide, a->wide + n);
        break;
    }
    wide.k = a->wide;
    wide.v = a->wide + n;
    wide.next_k = wide.next_v = NULL;
    return wide;
}
