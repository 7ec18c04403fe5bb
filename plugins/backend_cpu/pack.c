/*
 * Packing of weights into panels when they are created: which layout a weight gets, and the copying
 * of its codes and scales, by all threads. The layouts are in packed.h. Refuses nothing: a weight
 * for which there is no kernel stays as it lies (CPU_PACK_NONE).
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu.h"

#define MAX_EXACT_K 131072 /* longest sum of int8 products that an int32 holds for certain */
#define HUGE_PAGE ((size_t)2 << 20)

static uint32_t int8_kind(const pico_weight_desc *desc) {
    if (desc->cols > MAX_EXACT_K) {
        return CPU_PACK_NONE;
    }
    return desc->group == 0 || desc->group >= desc->cols ? CPU_PACK_I8 : CPU_PACK_GROUP8;
}

uint32_t cpu_pack_kind(const cpu_backend *cpu, const pico_weight_desc *desc) {
    const int rounds = !cpu->float_input && desc->input_quant != PICO_INPUT_FLOAT;
    uint32_t kind = CPU_PACK_NONE;
    switch (desc->dtype) {
    case PICO_DTYPE_BF16:
        return rounds && cpu->kernels->tile != NULL ? (uint32_t)CPU_PACK_BF16
                                                    : (uint32_t)CPU_PACK_NONE;
    case PICO_DTYPE_I8:
        kind = rounds ? int8_kind(desc) : kind;
        break;
    case PICO_DTYPE_Q8_0:
        kind = rounds ? CPU_PACK_Q8 : kind;
        break;
    case PICO_DTYPE_Q4_0:
        kind = rounds ? CPU_PACK_Q4 : kind;
        break;
    case PICO_DTYPE_NF4:
        kind = desc->group > 0 && desc->group <= 4096 ? CPU_PACK_NF4 : CPU_PACK_NONE;
        break;
    default:
        break;
    }
    return cpu->kernels->packed->kinds >> kind & 1u ? kind : (uint32_t)CPU_PACK_NONE;
}

static int64_t round_up(int64_t n, int64_t unit) {
    return (n + unit - 1) / unit * unit;
}

/* Everything but the memory. */
static void shape(const pico_weight_desc *desc, uint32_t kind, cpu_packed *out) {
    const int64_t group = desc->group;
    *out = (cpu_packed){.kind = kind, .k = desc->cols, .rows = desc->rows};
    switch (kind) {
    case CPU_PACK_BF16:
        out->group = desc->cols;
        out->block_k = 32;
        out->block_bytes = 1024;
        break;
    case CPU_PACK_I8:
        out->group = desc->cols;
        out->block_k = 64;
        out->block_bytes = 1024;
        break;
    case CPU_PACK_GROUP8:
        out->group = group;
        out->block_k = (uint32_t)round_up(group, 4);
        out->block_bytes = out->block_k * CPU_PANEL + CPU_PANEL * 4;
        break;
    case CPU_PACK_NF4:
        out->group = group < desc->cols ? group : desc->cols;
        out->block_k = (uint32_t)round_up(out->group, 8);
        out->block_bytes = out->block_k * CPU_PANEL / 2 + CPU_PANEL * 4;
        break;
    default:
        out->group = 32;
        out->block_k = 64;
        out->block_bytes = (kind == CPU_PACK_Q8 ? 1024 : 512) + 2 * CPU_PANEL * 2;
        break;
    }
    const int grouped = kind == CPU_PACK_GROUP8 || kind == CPU_PACK_NF4;
    const int64_t step = grouped ? out->group : out->block_k;
    out->n_block = (desc->cols + step - 1) / step;
    out->n_group = (uint32_t)(grouped                                      ? out->n_block
                              : kind == CPU_PACK_Q8 || kind == CPU_PACK_Q4 ? 2 * out->n_block
                                                                           : 1);
    out->n_strip = (desc->rows + CPU_STRIP - 1) / CPU_STRIP;
    out->panel_bytes = (uint64_t)out->n_block * out->block_bytes;
    out->shared_scale = desc->input_quant == PICO_INPUT_ROW && out->n_group > 1;
}

/* ---- copying ---- */

typedef struct pack_job {
    const cpu_backend *cpu;
    const pico_weight *weight;
    cpu_packed *to;
    uint8_t *panels;
    float *row_scale;
} pack_job;

static float scale_of(const pack_job *job, int64_t row, int64_t group) {
    const pico_weight_desc *desc = &job->weight->desc;
    const int64_t at = row * (int64_t)job->weight->scale_row + group;
    float scale;
    if (desc->scale_dtype == PICO_DTYPE_F32) {
        memcpy(&scale, (const char *)desc->scales + at * 4, 4);
    } else {
        job->cpu->kernels->row->widen(PICO_DTYPE_F16, (const char *)desc->scales + at * 2, &scale,
                                      1);
    }
    return scale;
}

/* n bytes in fours, one four to each 64 bytes */
static void spread(const uint8_t *from, int64_t n, uint8_t *to) {
    int64_t i = 0;
    for (; i + 4 <= n; i += 4, to += 64) {
        memcpy(to, from + i, 4);
    }
    if (i < n) {
        memcpy(to, from + i, (size_t)(n - i));
    }
}

static uint32_t load4(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}

/* A block of 32 of ggml's Q4_0: byte j has columns j (low) and j + 16. */
static void spread_q4_0(const uint8_t *from, uint8_t *to) {
    const uint32_t low = 0x0f0f0f0fu;
    for (int i = 0; i < 4; i++, to += 64) {
        const uint32_t a = load4(from + 8 * (i % 2)), b = load4(from + 8 * (i % 2) + 4);
        const uint32_t both = i < 2 ? (a & low) | (b & low) << 4 : (a >> 4 & low) | (b & ~low);
        memcpy(to, &both, 4);
    }
}

/* Row `row` into its place in the panel, which is all zeros. */
static void pack_blocks_of_32(const pack_job *job, int64_t row, uint8_t *panel) {
    const cpu_packed *p = job->to;
    const int64_t lane = row % CPU_PANEL, n = p->k / 32;
    const int q8 = p->kind == CPU_PACK_Q8;
    const uint8_t *from =
        (const uint8_t *)job->weight->desc.codes + (uint64_t)row * job->weight->row_bytes;
    for (int64_t g = 0; g < n; g++, from += q8 ? 34 : 18) {
        uint8_t *block = panel + g / 2 * p->block_bytes;
        uint8_t *codes = block + (g % 2) * (q8 ? 512 : 256) + 4 * lane;
        memcpy(block + (q8 ? 1024 : 512) + (g % 2) * 32 + 2 * lane, from, 2);
        if (q8) {
            spread(from + 2, 32, codes);
        } else {
            spread_q4_0(from + 2, codes);
        }
    }
}

static void pack_groups(const pack_job *job, int64_t row, uint8_t *panel) {
    const cpu_packed *p = job->to;
    const int64_t lane = row % CPU_PANEL;
    const uint8_t *codes =
        (const uint8_t *)job->weight->desc.codes + (uint64_t)row * job->weight->row_bytes;
    const int nibbles = p->kind == CPU_PACK_NF4;
    for (int64_t b = 0; b < p->n_block; b++) {
        const int64_t begin = b * p->group;
        const int64_t n = p->k - begin < p->group ? p->k - begin : p->group;
        uint8_t *block = panel + (uint64_t)b * p->block_bytes;
        const float scale = scale_of(job, row, b);
        memcpy(block + p->block_bytes - CPU_PANEL * 4 + 4 * lane, &scale, 4);
        if (!nibbles) {
            spread(codes + begin, n, block + 4 * lane);
            continue;
        }
        for (int64_t i = 0; i < n; i++) { /* the first of two is in the high nibble */
            const int64_t j = begin + i;
            const unsigned code = j % 2 == 0 ? codes[j / 2] >> 4 : codes[j / 2] & 15u;
            uint8_t *to = block + i / 8 * 64 + 4 * lane + i % 4;
            *to = (uint8_t)(*to | (i % 8 < 4 ? code : code << 4));
        }
    }
}

static void pack_strips(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const pack_job *job = arg;
    const cpu_packed *p = job->to;
    const pico_weight *weight = job->weight;
    const int64_t first = (int64_t)begin * CPU_STRIP, last = (int64_t)end * CPU_STRIP;
    memset(job->panels + (uint64_t)first / CPU_PANEL * p->panel_bytes, 0,
           (size_t)((uint64_t)(last - first) / CPU_PANEL * p->panel_bytes));
    for (int64_t row = first; row < last && row < p->rows; row++) {
        uint8_t *panel = job->panels + (uint64_t)(row / CPU_PANEL) * p->panel_bytes;
        const uint8_t *codes =
            (const uint8_t *)weight->desc.codes + (uint64_t)row * weight->row_bytes;
        switch (p->kind) {
        case CPU_PACK_BF16:
            spread(codes, p->k * 2, panel + 4 * (row % CPU_PANEL));
            break;
        case CPU_PACK_I8:
            spread(codes, p->k, panel + 4 * (row % CPU_PANEL));
            job->row_scale[row] = scale_of(job, row, 0);
            break;
        case CPU_PACK_GROUP8:
        case CPU_PACK_NF4:
            pack_groups(job, row, panel);
            break;
        default:
            pack_blocks_of_32(job, row, panel);
            break;
        }
    }
}

pico_status cpu_pack(const cpu_backend *cpu, const pico_weight *weight, uint32_t kind,
                     cpu_packed *out, pico_error *err) {
    cpu_packed packed;
    shape(&weight->desc, kind, &packed);
    const uint64_t bytes = (uint64_t)packed.n_strip * CPU_STRIP_PANELS * packed.panel_bytes;
    const uint64_t scale_bytes = (uint64_t)packed.n_strip * CPU_STRIP * sizeof(float);
    const int scales = kind == CPU_PACK_I8;
    void *panels = NULL, *row_scale = NULL;
    if (bytes > (uint64_t)PTRDIFF_MAX - HUGE_PAGE ||
        posix_memalign(&panels, bytes >= 4 * HUGE_PAGE ? HUGE_PAGE : 64, (size_t)bytes) != 0 ||
        (scales && posix_memalign(&row_scale, 64, (size_t)scale_bytes) != 0)) {
        free(panels);
        return pico_fail(err, PICO_E_NOMEM, "backend cpu: no memory for %llu bytes of a weight",
                         (unsigned long long)bytes);
    }
    if (bytes >= 4 * HUGE_PAGE) {
        (void)madvise(panels, (size_t)bytes, MADV_HUGEPAGE); /* a hint: failing is fine */
    }
    if (scales) {
        memset(row_scale, 0, (size_t)scale_bytes);
    }
    pack_job job = {
        .cpu = cpu, .weight = weight, .to = &packed, .panels = panels, .row_scale = row_scale};
    const uint64_t n = (uint64_t)packed.n_strip;
    cpu_parallel(cpu, n, n, (double)packed.panel_bytes * 2, pack_strips, &job);
    packed.panels = packed.memory = panels;
    packed.row_scale = packed.scale_memory = row_scale;
    packed.codebook = weight->desc.codebook;
    packed.exact_input = cpu->float_input || weight->desc.input_quant == PICO_INPUT_FLOAT;
    *out = packed;
    return PICO_OK;
}

void cpu_unpack(cpu_packed *packed) {
    free(packed->memory);
    free(packed->scale_memory);
}
