/*
 * Attention over one KV page, written once over vec.h: scores, online softmax, mix, for tiles of
 * a few queries that share what is loaded of K and V. The including file defines CPU_LANES and
 * ATTN_TABLE. A query's arithmetic depends on its own data and on the page's absolute place alone;
 * how queries are grouped only decides how often K and V are loaded.
 *
 * Pages of integers: a score is the sum over the blocks of 32 dimensions of (sum of q x code) x
 * scale, and a position's weight is multiplied by the scale of its values before it meets their
 * codes. The codes are widened to floats: in registers for few queries, once for a page otherwise.
 */
#include "attn_page.h"

#define GROUP_K 4     /* vectors of positions, and of dimensions, held in registers */
#define WIDEN_FROM 12 /* queries for which a page of 8 or 16 bits is widened as a whole */

/* How K and V come: the type of their elements, and whether they are codes with scales. Both are
 * constants wherever they are used. K is (64 / n, head_dim, n) where n elements take 64 bytes. */
typedef struct attn_kind {
    uint32_t dtype;
    int scaled;
} attn_kind;

INLINE void ask_ahead(const char *p, int n) {
    UNROLL for (int i = 0; i < n; i += 64) {
        __builtin_prefetch(p + i, 0, 2);
    }
}

INLINE int kind_size(attn_kind kind) {
    return kind.dtype == PICO_DTYPE_F32 ? 4 : kind.dtype == PICO_DTYPE_I8 ? 1 : 2;
}

/* score[q][p..p + nv L) for nq queries: scale x sum over d of q[d] x K[d][p..], or, with scales,
 * that sum for one block of dimensions after the other. `ahead` asks for K of the next page. */
INLINE void score_strip(attn_kind kind, int nq, int nv, const cpu_attn *a, uint32_t q0, int p,
                        int ahead) {
    const int line = 64 / kind_size(kind);
    const int64_t block = (int64_t)a->head_dim * line;
    const uint32_t step = kind.scaled ? 32 : a->head_dim;
    for (uint32_t first = 0; first < a->head_dim; first += step) {
        vf sum[TILE][GROUP_K];
        UNROLL for (int q = 0; q < nq; q++) {
            UNROLL for (int j = 0; j < nv; j++) {
                sum[q][j] = vf_set(0);
            }
        }
        for (uint32_t d = first; d < first + step; d++) {
            vf k[GROUP_K];
            UNROLL for (int j = 0; j < nv; j++) {
                const int at = p + j * L;
                k[j] = vf_load_any(kind.dtype, a->k,
                                   at / line * block + (int64_t)d * line + at % line);
            }
            if (ahead) {
                for (int i = 0; i < P / line; i++) {
                    ask_ahead((const char *)a->next_k + (i * (int64_t)a->head_dim + d) * 64, 64);
                }
            }
            UNROLL for (int q = 0; q < nq; q++) {
                const vf x = vf_set(a->q[q0 + (uint32_t)q][d]);
                UNROLL for (int j = 0; j < nv; j++) {
                    sum[q][j] = vf_fma(x, k[j], sum[q][j]);
                }
            }
        }
        UNROLL for (int j = 0; j < nv; j++) {
            vf scale = vf_set(a->scale);
            if (kind.scaled) {
                scale = vf_mul(vf_load_f16(a->k_scale + (size_t)first / 32 * P + p + j * L), scale);
            }
            UNROLL for (int q = 0; q < nq; q++) {
                float *score = a->score + (q0 + (uint32_t)q) * P + p + j * L;
                vf_store(score, first == 0 ? vf_mul(sum[q][j], scale)
                                           : vf_fma(sum[q][j], scale, vf_load(score)));
            }
        }
    }
}

INLINE void score_tile(attn_kind kind, int nq, const cpu_attn *a, uint32_t q0,
                       const tile_range *range) {
    int p = range->from;
    const int ahead = a->next_k != NULL && q0 == 0;
    if (p == 0 && range->to == P && GROUP_K * L == P) { /* a whole page */
        if (ahead) {
            score_strip(kind, nq, GROUP_K, a, q0, 0, 1);
        } else {
            score_strip(kind, nq, GROUP_K, a, q0, 0, 0);
        }
        return;
    }
    for (; p + GROUP_K * L <= range->to; p += GROUP_K * L) {
        score_strip(kind, nq, GROUP_K, a, q0, p, 0);
    }
    for (; p < range->to; p += 2 * L) {
        score_strip(kind, nq, 2, a, q0, p, 0);
    }
}

/* The weights of nq queries for the values of dimensions [32 block, 32 block + 32). */
INLINE void scale_weights(int nq, const cpu_attn *a, uint32_t q0, int64_t block,
                          const tile_range *range, float weight[TILE][PICO_PAGE_POSITIONS]) {
    for (int p = range->from; p < range->to; p += L) {
        const vf scale = vf_load_f16(a->v_scale + block * P + p);
        UNROLL for (int q = 0; q < nq; q++) {
            const float *score = a->score + (q0 + (uint32_t)q) * P + p;
            vf_store(weight[q] + p, vf_mul(vf_load(score), scale));
        }
    }
}

/* acc[q][d..] = factor * acc[q][d..] + sum over the positions of weight * V[position][d..] */
INLINE void mix_strip(attn_kind kind, int nq, const cpu_attn *a, uint32_t q0, const float *factor,
                      int64_t d, const tile_range *range, int ahead) {
    enum { BLOCKS = GROUP_K * L / 32 > 0 ? GROUP_K * L / 32 : 1 };
    float scaled[BLOCKS][TILE][PICO_PAGE_POSITIONS];
    vf sum[TILE][GROUP_K];
    if (kind.scaled) {
        UNROLL for (int b = 0; b < BLOCKS; b++) {
            scale_weights(nq, a, q0, d / 32 + b, range, scaled[b]);
        }
    }
    UNROLL for (int q = 0; q < nq; q++) {
        const float *acc = a->acc + (q0 + (uint32_t)q) * a->acc_stride + d;
        UNROLL for (int j = 0; j < GROUP_K; j++) {
            sum[q][j] = vf_mul(vf_load(acc + j * L), vf_set(factor[q]));
        }
    }
    for (int r = 0; r < 4; r += 2) {
        for (int32_t p = range->part[r]; p < range->part[r + 1]; p++) {
            const int64_t at = (int64_t)p * a->head_dim + d;
            vf v[GROUP_K];
            UNROLL for (int j = 0; j < GROUP_K; j++) {
                v[j] = vf_load_any(kind.dtype, a->v, at + j * L);
            }
            if (ahead) {
                ask_ahead((const char *)a->next_v + at * kind_size(kind),
                          GROUP_K * L * kind_size(kind));
            }
            UNROLL for (int q = 0; q < nq; q++) {
                const float *score = a->score + (q0 + (uint32_t)q) * P;
                UNROLL for (int j = 0; j < GROUP_K; j++) {
                    const vf w = vf_set(kind.scaled ? scaled[j * L / 32][q][p] : score[p]);
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
INLINE void mix_four(attn_kind kind, int nq, int64_t tail, const cpu_attn *a, const float *weight,
                     int64_t d, int p, int from, int to, vf sum[TILE][4]) {
    UNROLL for (int j = 0; j < 4; j++) {
        if (p + j >= from && p + j < to) {
            const int64_t at = (int64_t)(p + j) * a->head_dim + d;
            const vf v = tail > 0 ? vf_load_any_n(kind.dtype, a->v, at, tail)
                                  : vf_load_any(kind.dtype, a->v, at);
            UNROLL for (int q = 0; q < nq; q++) {
                sum[q][j] = vf_fma(vf_set(weight[q * P + p + j]), v, sum[q][j]);
            }
        }
    }
}

/* The same for L or fewer dimensions. One running sum would wait for itself at each position, so
 * there are four, for positions 4i, 4i + 1, ... */
INLINE void mix_narrow(attn_kind kind, int nq, int64_t tail, const cpu_attn *a, uint32_t q0,
                       const float *factor, int64_t d, const tile_range *range) {
    float scaled[TILE][PICO_PAGE_POSITIONS];
    const float *weight = a->score + q0 * PICO_PAGE_POSITIONS;
    if (kind.scaled) {
        scale_weights(nq, a, q0, d / 32, range, scaled);
        weight = scaled[0];
    }
    vf sum[TILE][4];
    UNROLL for (int q = 0; q < nq; q++) {
        UNROLL for (int j = 0; j < 4; j++) {
            sum[q][j] = vf_set(0);
        }
    }
    for (int r = 0; r < 4; r += 2) {
        const int from = range->part[r], to = range->part[r + 1];
        int p = from & ~3;
        if (p < from && from < to) {
            mix_four(kind, nq, tail, a, weight, d, p, from, to, sum);
            p += 4;
        }
        for (; p + 4 <= to; p += 4) {
            mix_four(kind, nq, tail, a, weight, d, p, p, p + 4, sum);
        }
        if (p < to) {
            mix_four(kind, nq, tail, a, weight, d, p, from, to, sum);
        }
    }
    UNROLL for (int q = 0; q < nq; q++) {
        float *acc = a->acc + (q0 + (uint32_t)q) * a->acc_stride + d;
        const vf all = vf_add(vf_add(sum[q][0], sum[q][1]), vf_add(sum[q][2], sum[q][3]));
        vf_store(acc, vf_fma(vf_load(acc), vf_set(factor[q]), all));
    }
}

INLINE void mix_tile(attn_kind kind, int nq, const cpu_attn *a, uint32_t q0, const float *factor,
                     const tile_range *range) {
    const int64_t n = a->head_dim;
    const int ahead = a->next_v != NULL && q0 == 0;
    int64_t d = 0;
    for (; d + GROUP_K * L <= n; d += GROUP_K * L) {
        if (ahead) {
            mix_strip(kind, nq, a, q0, factor, d, range, 1);
        } else {
            mix_strip(kind, nq, a, q0, factor, d, range, 0);
        }
    }
    for (; d + L <= n; d += L) {
        mix_narrow(kind, nq, 0, a, q0, factor, d, range);
    }
    if (d < n && !kind.scaled) {
        mix_narrow(kind, nq, n - d, a, q0, factor, d, range);
    }
}

INLINE void attn_tile(attn_kind kind, int nq, const cpu_attn *a, uint32_t q0) {
    tile_range range;
    float factor[L];
    if (!range_of(a, q0, (uint32_t)nq, &range)) {
        return;
    }
    score_tile(kind, nq, a, q0, &range);
    soften(a, q0, (uint32_t)nq, &range, factor);
    mix_tile(kind, nq, a, q0, factor, &range);
}

INLINE void attn_page(attn_kind kind, const cpu_attn *a) {
    uint32_t q = 0;
    for (; q + TILE <= a->n_q; q += TILE) {
        attn_tile(kind, TILE, a, q);
    }
    if (TILE > 4 && q + 4 <= a->n_q) {
        attn_tile(kind, 4, a, q);
        q += 4;
    }
    if (TILE > 2 && q + 2 <= a->n_q) {
        attn_tile(kind, 2, a, q);
        q += 2;
    }
    if (q < a->n_q) {
        attn_tile(kind, 1, a, q);
    }
}

static void page_f32(const cpu_attn *a) {
    attn_page((attn_kind){PICO_DTYPE_F32, 0}, a);
}

static void page_f16(const cpu_attn *a) {
    attn_page((attn_kind){PICO_DTYPE_F16, 0}, a);
}

static void page_bf16(const cpu_attn *a) {
    attn_page((attn_kind){PICO_DTYPE_BF16, 0}, a);
}

static void page_q8(const cpu_attn *a) {
    attn_page((attn_kind){PICO_DTYPE_I8, 1}, a);
}

static void page_wide_q8(const cpu_attn *a) {
    attn_page((attn_kind){PICO_DTYPE_F32, 1}, a);
}

static void page_any(const cpu_attn *a) {
    assert(a->n_q <= CPU_ATTN_QUERIES);
    if (a->dtype == PICO_DTYPE_F32) {
        page_f32(a);
    } else if (a->n_q >= WIDEN_FROM) {
        const cpu_attn wide = widened(a);
        if (a->dtype == PICO_DTYPE_Q8_0) {
            page_wide_q8(&wide);
        } else {
            page_f32(&wide);
        }
    } else if (a->dtype == PICO_DTYPE_F16) {
        page_f16(a);
    } else if (a->dtype == PICO_DTYPE_BF16) {
        page_bf16(a);
    } else {
        page_q8(a);
    }
}

static void finish_query(const float *acc, float sum, float *out, int64_t n) {
    const vf s = vf_set(sum > 0 ? 1 / sum : sum); /* a query that saw nothing gives zeros */
    for (int64_t i = 0; i < n; i += L) {
        vf_store_n(out + i, vf_mul(vf_load(acc + i), s), n - i);
    }
}

const cpu_attn_kernels ATTN_TABLE = {.page = page_any, .finish = finish_query};
