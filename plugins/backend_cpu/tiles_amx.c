/*
 * Products on AMX tiles: 16 rows of x by 16 outputs by 64 bytes of k in one instruction, BF16 with
 * F32 sums or int8 with int32 sums. A row of a tile never meets another, and k is walked in order,
 * so a row's result does not depend on its company. Here, too: the conversions between vectors and
 * the tiles of x, and from packed integer codes to BF16 blocks. Everything rounds to nearest, and
 * AMX takes denormals for zeros.
 */
#include "cpu.h"

/* clang 14 writes the names without the second underscore. */
#if (defined(__AMX_INT8__) || defined(__AMXINT8__)) &&                                             \
    (defined(__AMX_BF16__) || defined(__AMXBF16__)) && defined(__AVX512BW__)

#include <immintrin.h>
#include <string.h>

#define AHEAD 1024 /* bytes of prefetch in each stream of weights */
#define INLINE static inline __attribute__((always_inline))
#include "bf16_avx512.h"

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

/* Eight tiles of 64 bytes a row: 0 .. 4 of `rows` rows, the weights' of 16. */
static void begin(uint32_t rows) {
    tile_config config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = i < 5 && rows < 16 ? (uint8_t)rows : 16;
    }
    /* gcc 12 believes that the next line reads only part of it */
    __asm__ volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
}

static void end(void) {
    _tile_release();
}

/* c += a b, by kind; tile numbers must be literals */
#define MULTIPLY(kind, c, a, b)                                                                    \
    do {                                                                                           \
        if ((kind) == CPU_PACK_BF16) {                                                             \
            _tile_dpbf16ps(c, a, b);                                                               \
        } else {                                                                                   \
            _tile_dpbssd(c, a, b);                                                                 \
        }                                                                                          \
    } while (0)

INLINE void ask_for(const uint8_t *block) { /* 1 KB */
    for (int i = 0; i < 16; i++) {
        _mm_prefetch((const char *)block + 64 * i, _MM_HINT_T0);
    }
}

INLINE void strip_of(uint32_t kind, int ask, const uint8_t *x, const uint8_t *panels,
                     uint64_t panel_bytes, int64_t n_block, uint8_t *c) {
    const uint8_t *p[4] = {panels, panels + panel_bytes, panels + 2 * panel_bytes,
                           panels + 3 * panel_bytes};
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t b = 0; b < n_block; b++) {
        const int64_t at = b * CPU_TILE_BYTES;
        if (ask) { /* behind the end of the panel the stream goes on four panels later */
            const int64_t ahead =
                at + AHEAD + (at + AHEAD >= (int64_t)panel_bytes ? 3 * (int64_t)panel_bytes : 0);
            ask_for(p[0] + ahead);
            ask_for(p[1] + ahead);
            ask_for(p[2] + ahead);
            ask_for(p[3] + ahead);
        }
        _tile_loadd(4, x + at, 64);
        _tile_loadd(5, p[0] + at, 64);
        MULTIPLY(kind, 0, 4, 5);
        _tile_loadd(6, p[1] + at, 64);
        MULTIPLY(kind, 1, 4, 6);
        _tile_loadd(7, p[2] + at, 64);
        MULTIPLY(kind, 2, 4, 7);
        _tile_loadd(5, p[3] + at, 64);
        MULTIPLY(kind, 3, 4, 5);
    }
    _tile_stored(0, c, 64);
    _tile_stored(1, c + CPU_TILE_BYTES, 64);
    _tile_stored(2, c + 2 * CPU_TILE_BYTES, 64);
    _tile_stored(3, c + 3 * CPU_TILE_BYTES, 64);
}

static void strip(uint32_t kind, const uint8_t *x, const uint8_t *panels, uint64_t panel_bytes,
                  int64_t n_block, uint32_t prefetch, void *c) {
    if (kind == CPU_PACK_BF16) {
        if (prefetch) {
            strip_of(CPU_PACK_BF16, 1, x, panels, panel_bytes, n_block, c);
        } else {
            strip_of(CPU_PACK_BF16, 0, x, panels, panel_bytes, n_block, c);
        }
    } else if (prefetch) {
        strip_of(CPU_PACK_I8, 1, x, panels, panel_bytes, n_block, c);
    } else {
        strip_of(CPU_PACK_I8, 0, x, panels, panel_bytes, n_block, c);
    }
}

/* Lines [from, to) of both panels that come next, into the second-level cache. */
INLINE void ask_next(const cpu_tile_block *job, uint64_t from, uint64_t to) {
    for (uint64_t at = from; at < to; at += 64) {
        _mm_prefetch((const char *)job->next + at, _MM_HINT_T1);
        _mm_prefetch((const char *)job->next + job->next_stride + at, _MM_HINT_T1);
    }
}

/* 32 rows by 32 outputs: pair i of the job. stream: the panels are asked for a little ahead. */
INLINE void square(uint32_t kind, int stream, const cpu_tile_block *job, int64_t i) {
    const uint8_t *x = job->x + (uint64_t)i * 2 * job->group_bytes, *x1 = x + job->group_bytes;
    const uint8_t *p0 = job->panels, *p1 = p0 + job->panel_bytes;
    uint8_t *c = job->c + i * (int64_t)(4 * CPU_TILE_BYTES);
    const uint64_t turns = (uint64_t)(job->n_pair * job->n_block) * 64;
    const uint64_t share = job->next == NULL ? 0 : (job->next_bytes + turns - 1) / turns * 64;
    uint64_t asked = share * (uint64_t)(i * job->n_block);
    if (job->first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, c, 64);
        _tile_loadd(1, c + CPU_TILE_BYTES, 64);
        _tile_loadd(2, c + 2 * CPU_TILE_BYTES, 64);
        _tile_loadd(3, c + 3 * CPU_TILE_BYTES, 64);
    }
    for (int64_t b = 0; b < job->n_block; b++) {
        const int64_t at = b * CPU_TILE_BYTES;
        if (stream) {
            const int64_t size = (int64_t)job->panel_bytes;
            const int64_t ahead = at + AHEAD + (at + AHEAD >= size ? size : 0);
            ask_for(p0 + ahead);
            ask_for(p1 + ahead);
        } else if (asked < job->next_bytes) {
            ask_next(job, asked, asked + share);
            asked += share;
        }
        _tile_loadd(4, x + at, 64);
        _tile_loadd(6, p0 + at, 64);
        MULTIPLY(kind, 0, 4, 6);
        _tile_loadd(7, p1 + at, 64);
        MULTIPLY(kind, 1, 4, 7);
        _tile_loadd(5, x1 + at, 64);
        MULTIPLY(kind, 2, 5, 6);
        MULTIPLY(kind, 3, 5, 7);
    }
    _tile_stored(0, c, 64);
    _tile_stored(1, c + CPU_TILE_BYTES, 64);
    _tile_stored(2, c + 2 * CPU_TILE_BYTES, 64);
    _tile_stored(3, c + 3 * CPU_TILE_BYTES, 64);
}

INLINE void squares(uint32_t kind, const cpu_tile_block *job) {
    if (job->n_pair == 1 && job->stream) {
        square(kind, 1, job, 0);
        return;
    }
    for (int64_t i = 0; i < job->n_pair; i++) {
        square(kind, 0, job, i);
    }
}

static void block(const cpu_tile_block *job) {
    if (job->kind == CPU_PACK_BF16) {
        squares(CPU_PACK_BF16, job);
    } else {
        squares(CPU_PACK_I8, job);
    }
}

/* ---- codes to BF16 ---- */

/* Two vectors as pairs. */
INLINE __m512i pair_bf16(__m512 even, __m512 odd) {
    return cut_pair(&even, &odd);
}

/* Byte i of each four, as a signed number times scale. */
INLINE __m512 signed_byte(__m512i fours, int i, __m512 scale) {
    const __m512i at_top = i == 3 ? fours : _mm512_slli_epi32(fours, (unsigned)(24 - 8 * i));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_srai_epi32(at_top, 24)), scale);
}

INLINE void widen_signed(const uint8_t *codes, __m512 scale, uint8_t *out) {
    for (int i = 0; i < 8; i++, codes += 64, out += 128) {
        const __m512i fours = _mm512_load_si512((const void *)codes);
        _mm512_store_si512((void *)out,
                           pair_bf16(signed_byte(fours, 0, scale), signed_byte(fours, 1, scale)));
        _mm512_store_si512((void *)(out + 64),
                           pair_bf16(signed_byte(fours, 2, scale), signed_byte(fours, 3, scale)));
    }
}

/* 32 columns of nibbles through a table of 16 values; entries come in the order of the bits. */
INLINE void widen_nibbles(const uint8_t *codes, __m512 book, __m512 scale, uint8_t *out) {
    for (int i = 0; i < 4; i++, codes += 64, out += 256) {
        __m512i eight = _mm512_load_si512((const void *)codes);
        __m512 value[8];
        for (int j = 0; j < 8; j++) { /* the permutation reads four bits */
            value[j / 2 + 4 * (j % 2)] = _mm512_mul_ps(_mm512_permutexvar_ps(eight, book), scale);
            eight = _mm512_srli_epi32(eight, 4);
        }
        for (int j = 0; j < 4; j++) {
            _mm512_store_si512((void *)(out + 64 * j), pair_bf16(value[2 * j], value[2 * j + 1]));
        }
    }
}

INLINE __m512 load_f16(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static void widen(const cpu_packed *w, const uint8_t *panel, int64_t first, int64_t n,
                  uint8_t *out) {
    const __m512 from_q4 = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    const int64_t per_block = w->block_k / 32; /* 32s in a block: two, or those of a group */
    for (int64_t i = first; i < first + n; i++, out += CPU_TILE_BYTES) {
        const uint8_t *at = panel + (uint64_t)(i / per_block) * w->block_bytes;
        const int64_t part = i % per_block;
        const uint8_t *tail = at + w->block_bytes - 64; /* scales */
        switch (w->kind) {
        case CPU_PACK_Q8:
            widen_signed(at + 512 * part, load_f16(tail + 32 * part), out);
            break;
        case CPU_PACK_Q4:
            widen_nibbles(at + 256 * part, from_q4, load_f16(tail + 32 * part), out);
            break;
        case CPU_PACK_GROUP8:
            widen_signed(at + 512 * part, _mm512_load_ps((const void *)tail), out);
            break;
        default:
            widen_nibbles(at + 256 * part, _mm512_loadu_ps(w->codebook),
                          _mm512_load_ps((const void *)tail), out);
            break;
        }
    }
}

/* ---- x to BF16 ---- */

/* 32 values as BF16, to nearest even; they become what rounding left. */
INLINE __m512i round_bf16(__m512 *a, __m512 *b) {
    const __m512i packed = (__m512i)_mm512_cvtne2ps_pbh(*b, *a);
    const __m256i low = _mm512_castsi512_si256(packed), high = _mm512_extracti64x4_epi64(packed, 1);
    *a = _mm512_sub_ps(*a, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(low), 16)));
    *b = _mm512_sub_ps(*b, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16)));
    return packed;
}

static void narrow(const float *x, int64_t n, uint32_t n_part, uint8_t *tiles, int64_t n_block,
                   int64_t row, int64_t step) {
    for (int64_t b = 0; b < n_block; b++) {
        const int64_t left = n - 32 * b;
        const __mmask16 first = (__mmask16)(left >= 16 ? 0xffffu : (1u << left) - 1);
        const __mmask16 second = (__mmask16)(left >= 32  ? 0xffffu
                                             : left > 16 ? (1u << (left - 16)) - 1
                                                         : 0u);
        __m512 a = _mm512_maskz_loadu_ps(first, x + 32 * b);
        __m512 c = _mm512_maskz_loadu_ps(second, x + 32 * b + 16);
        for (uint32_t p = 0; p < n_part; p++) {
            const int64_t at = row + p * step;
            uint8_t *to = tiles + ((at / 16) * n_block + b) * CPU_TILE_BYTES + at % 16 * 64;
            _mm512_store_si512((void *)to, round_bf16(&a, &c));
        }
    }
}

/* ---- sums to y ---- */

typedef struct strip_out {             /* what the rows of a strip have in common */
    uint64_t offset[CPU_STRIP_PANELS]; /* of a panel's sums from those of the first */
    __m512 scale[CPU_STRIP_PANELS], bias[CPU_STRIP_PANELS];
    __mmask16 some[CPU_STRIP_PANELS]; /* outputs that exist */
} strip_out;

INLINE const uint8_t *sums_of(const cpu_tile_out *out, uint32_t row) {
    return !out->squares ? out->c + row * 64u
                         : out->c + row / 32 * (uint64_t)(4 * CPU_TILE_BYTES) +
                               row / 16 % 2 * (uint64_t)(2 * CPU_TILE_BYTES) + row % 16 * 64u;
}

INLINE strip_out strip_out_of(const cpu_tile_out *out, uint32_t kind) {
    strip_out strip;
    const int64_t left = out->w->rows - out->first;
    for (uint32_t p = 0; p < CPU_STRIP_PANELS; p++) {
        const int64_t at = p * (int64_t)CPU_PANEL, n = left - at;
        strip.offset[p] = out->squares ? p / 2 * out->pair_bytes + p % 2 * (uint64_t)CPU_TILE_BYTES
                                       : p * (uint64_t)CPU_TILE_BYTES;
        strip.some[p] = (__mmask16)(n >= 16 ? 0xffffu : n > 0 ? (1u << n) - 1 : 0u);
        strip.scale[p] = kind == CPU_PACK_I8 ? _mm512_loadu_ps(out->w->row_scale + out->first + at)
                                             : _mm512_setzero_ps();
        strip.bias[p] = out->bias == NULL
                            ? _mm512_setzero_ps()
                            : _mm512_maskz_loadu_ps(strip.some[p], out->bias + out->first + at);
    }
    return strip;
}

INLINE __m512 value_of(const cpu_tile_out *out, uint32_t kind, uint32_t n_part, uint32_t m,
                       uint64_t offset, __m512 of_panel) {
    const void *at = sums_of(out, m) + offset;
    if (kind == CPU_PACK_I8) {
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_loadu_si512(at));
        const __m512 scale = _mm512_mul_ps(of_panel, _mm512_set1_ps(out->scale[m]));
        return _mm512_fmadd_ps(sum, scale, _mm512_setzero_ps());
    }
    __m512 sum = _mm512_loadu_ps(at);
    for (uint32_t p = 1; p < n_part; p++) {
        const void *part = sums_of(out, m + p * out->n_x) + offset;
        sum = _mm512_add_ps(sum, _mm512_loadu_ps(part));
    }
    return sum;
}

/* whole: the strip has all its outputs. A constant, like kind and n_part. */
INLINE void finish_rows(const cpu_tile_out *out, uint32_t kind, uint32_t n_part, int whole) {
    const strip_out strip = strip_out_of(out, kind);
    const int has_bias = out->bias != NULL;
    for (uint32_t m = 0; m < out->n_x; m++) {
        float *y = out->y + m * out->y_stride;
        for (uint32_t p = 0; p < CPU_STRIP_PANELS; p++, y += CPU_PANEL) {
            const __mmask16 some = whole ? (__mmask16)0xffff : strip.some[p];
            if (!whole && some == 0) {
                break;
            }
            __m512 value = value_of(out, kind, n_part, m, strip.offset[p], strip.scale[p]);
            __builtin_prefetch((const char *)((uintptr_t)y + (uintptr_t)out->y_stride * 32), 1, 3);
            if (has_bias) {
                value = _mm512_add_ps(value, strip.bias[p]);
            }
            if (out->accumulate) {
                value = _mm512_add_ps(_mm512_maskz_loadu_ps(some, y), value);
            }
            _mm512_mask_storeu_ps(y, some, value);
        }
    }
}

INLINE void finish_of(const cpu_tile_out *out, uint32_t kind, uint32_t n_part) {
    if (out->w->rows - out->first >= CPU_STRIP) {
        finish_rows(out, kind, n_part, 1);
    } else {
        finish_rows(out, kind, n_part, 0);
    }
}

static void finish(const cpu_tile_out *out) {
    if (out->w->kind == CPU_PACK_I8) {
        finish_of(out, CPU_PACK_I8, 1);
    } else if (out->n_part == 1) {
        finish_of(out, CPU_PACK_BF16, 1);
    } else {
        finish_of(out, CPU_PACK_BF16, 3);
    }
}

const cpu_tile_kernels cpu_tile_amx = {
    .begin = begin,
    .end = end,
    .strip = strip,
    .block = block,
    .widen = widen,
    .narrow = narrow,
    .finish = finish,
};

#else

const cpu_tile_kernels cpu_tile_amx = {0};

#endif
