/*
 * Attention of prompts on AMX tiles: 32 queries by 32 positions, and by 32 dimensions, at once. What
 * meets in a product is cut into two BF16 parts, a rounded value and what that left, which together
 * hold 16 bits or more; the product of the two rests is left out, so a score or a mix is off by some
 * 2^-16 of its terms. Sums are F32. A row of a tile never meets another, so a query's arithmetic
 * depends on its own data and on the page's absolute place alone.
 *
 * Pages come as for the vectors and are cut once for all queries at hand. Positions that no query
 * sees count as zeros: their bytes may be anything. Refuses heads that are no multiple of 32 wide:
 * see cpu_attend.
 */
#include "cpu.h"

/* clang 14 writes the name without the second underscore. */
#if (defined(__AMX_BF16__) || defined(__AMXBF16__)) && defined(__AVX512BW__)

#define CPU_LANES 16
#include "attn_page.h"
#include "bf16_avx512.h"

#define PAIR 32 /* queries, positions, dimensions: two tiles */

/* Tiles of 16 rows of 64 bytes; n_chunk: of 32 dimensions. */
typedef struct rooms {
    int64_t n_chunk, n_group; /* groups of 16 queries */
    uint8_t *q;               /* (2 parts, n_group, n_chunk) */
    uint8_t *k;               /* (2 parts, 4 blocks of positions, n_chunk) */
    uint8_t *v;               /* (2 parts, 2 chunks of positions, 2 n_chunk blocks of dimensions) */
    uint8_t *weight;          /* (2 parts, n_group, 2 chunks of positions) */
} rooms;

static rooms rooms_of(const cpu_attn *a) {
    rooms r = {.n_chunk = a->head_dim / 32, .n_group = (a->n_q + PAIR - 1) / PAIR * 2};
    r.q = a->tiles;
    r.k = r.q + 2 * (CPU_TILE_QUERIES / 16) * r.n_chunk * CPU_TILE_BYTES;
    r.v = r.k + 2 * 4 * r.n_chunk * CPU_TILE_BYTES;
    r.weight = r.v + 2 * 2 * 2 * r.n_chunk * CPU_TILE_BYTES;
    return r;
}

/* Tiles are loaded by assembly of which the compiler knows no operands in memory. */
INLINE void all_stored(void) {
    __asm__ volatile("" ::: "memory");
}

/* A row of a tile of pairs and, `low` bytes behind it, of what is left. */
INLINE void store_pair(__m512 even, __m512 odd, uint8_t *to, int64_t low) {
    _mm512_store_si512((void *)to, cut_pair(&even, &odd));
    _mm512_store_si512((void *)(to + low), cut_pair(&even, &odd));
}

INLINE void ask_for(const void *next, uint64_t at, uint64_t bytes) {
    if (next != NULL && at < bytes) {
        __builtin_prefetch((const char *)next + at, 0, 2);
        __builtin_prefetch((const char *)next + at + 64, 0, 2);
    }
}

/* K of positions [from, to), multiples of 32: dimensions in pairs, positions side by side. a has K as
 * floats; size: of an element where the next page comes from; scaled: they are codes. */
static void cut_keys(const cpu_attn *a, const rooms *r, int from, int to, int size, int scaled) {
    const int64_t low = 4 * r->n_chunk * CPU_TILE_BYTES;
    const uint64_t bytes = (uint64_t)a->head_dim * P * (uint64_t)size;
    const float *k = a->k;
    for (int block = from / 16; block < to / 16; block++) {
        for (int64_t c = 0; c < r->n_chunk; c++) {
            const float *line = k + ((int64_t)block * a->head_dim + 32 * c) * 16;
            uint8_t *tile = r->k + (block * r->n_chunk + c) * CPU_TILE_BYTES;
            const vf scale = scaled ? vf_load_f16(a->k_scale + c * P + block * 16) : vf_set(1);
            for (int i = 0; i < 16; i++, line += 32, tile += 64) {
                vf even = vf_load(line), odd = vf_load(line + 16);
                if (scaled) {
                    even = vf_mul(even, scale);
                    odd = vf_mul(odd, scale);
                }
                ask_for(a->next_k, (uint64_t)((block * r->n_chunk + c) * 16 + i) * 128, bytes);
                store_pair(even, odd, tile, low);
            }
        }
    }
}

/* V of positions [from, to): positions in pairs, dimensions side by side; zeros from `stop` on. */
static void cut_values(const cpu_attn *a, const rooms *r, int from, int to, int stop, int size,
                       int scaled) {
    const int64_t low = 2 * 2 * r->n_chunk * CPU_TILE_BYTES;
    const uint64_t bytes = (uint64_t)a->head_dim * P * (uint64_t)size;
    for (int p = from; p < to; p += 2) {
        const float *row = (const float *)a->v + (int64_t)p * a->head_dim;
        uint8_t *tile = r->v + p / PAIR * 2 * r->n_chunk * CPU_TILE_BYTES + p % PAIR / 2 * 64;
        for (int64_t d = 0; d < a->head_dim; d += 16, tile += CPU_TILE_BYTES) {
            vf value[2];
            UNROLL for (int j = 0; j < 2; j++) {
                value[j] = p + j < stop ? vf_load(row + j * (int64_t)a->head_dim + d) : vf_set(0);
                if (scaled && p + j < stop) {
                    const uint16_t *scale = a->v_scale + d / 32 * P + p + j;
                    value[j] = vf_mul(value[j], vf_set(_cvtsh_ss(*scale)));
                }
            }
            ask_for(a->next_v, ((uint64_t)p * a->head_dim / 16 + (uint64_t)d / 8) * 64, bytes);
            store_pair(value[0], value[1], tile, low);
        }
    }
}

/* Sums 0 .. 3 += two groups of x by two blocks of w: both parts of both, but for the product of the
 * rests. x_low, w_low: bytes to the rest; x_next, w_next: to the other group or block. */
INLINE void add_products(const uint8_t *x, int64_t x_low, int64_t x_next, const uint8_t *w,
                         int64_t w_low, int64_t w_next) {
    _tile_loadd(4, x, 64);
    _tile_loadd(6, w, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, x + x_next, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_loadd(7, w + w_low, 64);
    _tile_dpbf16ps(0, 4, 7);
    _tile_dpbf16ps(2, 5, 7);
    _tile_loadd(6, w + w_next, 64);
    _tile_dpbf16ps(1, 4, 6);
    _tile_dpbf16ps(3, 5, 6);
    _tile_loadd(7, w + w_low + w_next, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
    _tile_loadd(4, x + x_low, 64);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(5, x + x_low + x_next, 64);
    _tile_dpbf16ps(3, 5, 6);
    _tile_loadd(7, w, 64);
    _tile_dpbf16ps(0, 4, 7);
    _tile_dpbf16ps(2, 5, 7);
}

/* Scores of queries [q0, q0 + 32) at the positions of the range. */
static void score_pair(const cpu_attn *a, const rooms *r, uint32_t q0, const tile_range *range) {
    const int64_t next = r->n_chunk * CPU_TILE_BYTES;
    const uint8_t *q = r->q + q0 / 16 * next;
    for (int p = range->from; p < range->to; p += PAIR) {
        const uint8_t *k = r->k + p / 16 * next;
        float *score = a->score + q0 * PICO_PAGE_POSITIONS + p;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t c = 0; c < next; c += CPU_TILE_BYTES) {
            add_products(q + c, r->n_group * next, next, k + c, 4 * next, next);
        }
        _tile_stored(0, score, P * sizeof(float));
        _tile_stored(1, score + 16, P * sizeof(float));
        _tile_stored(2, score + 16 * P, P * sizeof(float));
        _tile_stored(3, score + 16 * P + 16, P * sizeof(float));
    }
    all_stored();
}

/* Scores to weights, as tiles; what the queries have so far becomes smaller where a score is larger. */
static void weigh_pair(const cpu_attn *a, const rooms *r, uint32_t q0, uint32_t n,
                       const tile_range *range) {
    float factor[PAIR + L];
    for (uint32_t i = 0; i < n; i += TILE) {
        soften(a, q0 + i, n - i < TILE ? n - i : TILE, range, factor + i);
    }
    for (uint32_t i = 0; i < n; i++) {
        float *acc = a->acc + (q0 + i) * a->acc_stride;
        const float *weight = a->score + (q0 + i) * PICO_PAGE_POSITIONS;
        for (uint32_t d = 0; factor[i] != 1 && d < a->head_dim; d += L) {
            vf_store(acc + d, vf_mul(vf_load(acc + d), vf_set(factor[i])));
        }
        cpu_tile_amx.narrow(weight, P, 2, r->weight, 2, q0 + i, 16 * r->n_group);
    }
    all_stored();
}

/* acc += weights x V */
static void mix_pair(const cpu_attn *a, const rooms *r, uint32_t q0, const tile_range *range) {
    const int64_t chunk = 2 * r->n_chunk * CPU_TILE_BYTES;
    const size_t stride = (size_t)a->acc_stride * sizeof(float);
    for (int64_t d = 0; d < a->head_dim; d += PAIR) {
        float *acc = a->acc + q0 * a->acc_stride + d;
        _tile_loadd(0, acc, stride);
        _tile_loadd(1, acc + 16, stride);
        _tile_loadd(2, acc + 16 * a->acc_stride, stride);
        _tile_loadd(3, acc + 16 * a->acc_stride + 16, stride);
        for (int p = range->from / PAIR; p < range->to / PAIR; p++) {
            add_products(r->weight + ((int64_t)q0 / 8 + p) * CPU_TILE_BYTES,
                         r->n_group * 2 * CPU_TILE_BYTES, 2 * CPU_TILE_BYTES,
                         r->v + p * chunk + d / 16 * CPU_TILE_BYTES, 2 * chunk, CPU_TILE_BYTES);
        }
        _tile_stored(0, acc, stride);
        _tile_stored(1, acc + 16, stride);
        _tile_stored(2, acc + 16 * a->acc_stride, stride);
        _tile_stored(3, acc + 16 * a->acc_stride + 16, stride);
    }
    all_stored();
}

static void page(const cpu_attn *a) {
    assert(a->n_q <= CPU_TILE_QUERIES && a->head_dim % 32 == 0);
    const rooms r = rooms_of(a);
    tile_range range;
    if (!range_of(a, 0, a->n_q, &range)) {
        return;
    }
    cpu_attn floats = a->dtype == PICO_DTYPE_F32 ? *a : widened(a);
    floats.next_k = a->next_k;
    floats.next_v = a->next_v;
    const int scaled = a->dtype == PICO_DTYPE_Q8_0;
    const int size = a->dtype == PICO_DTYPE_F32 ? 4 : scaled ? 1 : 2;
    const int stop = range.part[3] > range.part[1] ? range.part[3] : range.part[1];
    cut_keys(&floats, &r, range.from, range.to, size, scaled);
    cut_values(&floats, &r, range.from, range.to, stop, size, scaled);
    all_stored();
    /* one thing after the other for all queries: K, then V, stays in the first-level cache */
    for (int step = 0; step < 3; step++) {
        for (uint32_t q = 0; q < a->n_q; q += PAIR) {
            const uint32_t n = a->n_q - q < PAIR ? a->n_q - q : PAIR;
            if (!range_of(a, q, n, &range)) {
                continue;
            }
            if (step == 0) {
                score_pair(a, &r, q, &range);
            } else if (step == 1) {
                weigh_pair(a, &r, q, n, &range);
            } else {
                mix_pair(a, &r, q, &range);
            }
        }
    }
}

static void queries(const cpu_attn *a) {
    const rooms r = rooms_of(a);
    const int64_t n_row = 16 * r.n_group;
    float row[CPU_MAX_HEAD_DIM];
    for (int64_t i = 0; i < n_row; i++) { /* zeros fill up the last pair */
        const vf scale = vf_set(a->scale);
        for (uint32_t d = 0; d < a->head_dim; d += L) {
            vf_store(row + d, i < a->n_q ? vf_mul(vf_load(a->q[i] + d), scale) : vf_set(0));
        }
        cpu_tile_amx.narrow(row, a->head_dim, 2, r.q, r.n_chunk, i, n_row);
    }
}

const cpu_attn_kernels cpu_attn_amx = {.page = page, .queries = queries};

#else

const cpu_attn_kernels cpu_attn_amx = {0};

#endif
