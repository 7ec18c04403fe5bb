/*
 * Products on tiles. BF16 weights meet x in three BF16 parts, which together are x to the last bit,
 * when rows are of the decode class, and one part, x rounded, when they are a prompt. Codes with
 * one scale a row meet codes. Codes with scales for groups become BF16 on the way, block by block,
 * for prompts only: for few rows the vectors of linear_packed.c are faster.
 */
#include <string.h>

#include "linear.h"

#define FEW_CODES 5   /* rows of codes up to which vectors are faster */
#define UNIT_STRIPS 2 /* strips of 64 outputs that share a walk over many rows of x */
#define MOST_ROWS 512 /* rows of x, parts counted, that share a walk over the weights */
#define MANY_ROWS                                                                                  \
    256 /* the same, where their tiles fit in the second-level cache and more do not */
#define CACHED_BYTES ((int64_t)3 << 19) /* of that cache, which has 2 MB in processors with tiles */

typedef struct tile_job {
    linear_job *job;
    const cpu_packed *w;
    uint32_t kind;   /* of the tiles: CPU_PACK_BF16 or CPU_PACK_I8 */
    uint32_t n_part; /* of a row of x */
    int64_t unit;    /* strips that a thread takes at least */
    int64_t n_block; /* of k, as tiles see it */
    int64_t n_tile;  /* groups of 16 rows; even, or 1 */
    uint8_t *tiles;  /* (n_tile, n_block, 16, 64 bytes) */
    float *scale;    /* (rows) I8 */
    uint32_t prefetch;
} tile_job;

static int widens(const cpu_packed *w) {
    return w->kind != CPU_PACK_BF16 && w->kind != CPU_PACK_I8;
}

int linear_wants_tiles(const linear_job *job, int64_t n_rows) {
    const cpu_packed *w = &job->part[0].weight->packed;
    if (job->cpu->kernels->tile == NULL || w->kind == CPU_PACK_NONE) {
        return 0;
    }
    if (w->kind == CPU_PACK_BF16) {
        return 1;
    }
    if (w->kind == CPU_PACK_I8) {
        return n_rows > FEW_CODES;
    }
    return job->prefill && !w->exact_input && !w->shared_scale && w->group % 32 == 0;
}

static void fill_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const tile_job *t = arg;
    const linear_job *job = t->job;
    const cpu_scratch scratch = cpu_scratch_of(job->cpu, thread);
    for (uint64_t m = begin; m < end; m++) {
        const int64_t row = (int64_t)m;
        const float *x = linear_prepare(job->part[0].weight, cpu_row_f32(&job->x, job->row + row),
                                        scratch.expanded);
        if (t->kind == CPU_PACK_BF16) {
            job->cpu->kernels->tile->narrow(x, job->k, t->n_part, t->tiles, t->n_block, row,
                                            job->n_row);
            continue;
        }
        int32_t sum;
        int8_t *codes = (int8_t *)(scratch.expanded + 2 * cpu_pad16(job->k));
        job->cpu->kernels->packed->quantise(t->w, x, codes, t->scale + row, &sum);
        uint8_t *to = t->tiles + row / 16 * t->n_block * CPU_TILE_BYTES + row % 16 * 64;
        for (int64_t b = 0; b < t->n_block; b++) {
            memcpy(to + b * CPU_TILE_BYTES, codes + 64 * b, 64);
        }
    }
}

/* Rows that fill up the last group of tiles. */
static void clear_rest(const tile_job *t, int64_t rows) {
    for (int64_t row = rows; row < 16 * t->n_tile; row++) {
        uint8_t *to = t->tiles + row / 16 * t->n_block * CPU_TILE_BYTES + row % 16 * 64;
        for (int64_t b = 0; b < t->n_block; b++) {
            memset(to + b * CPU_TILE_BYTES, 0, 64);
        }
    }
}

static void finish(const tile_job *t, const linear_part *part, int64_t strip, uint32_t n_panel,
                   uint32_t squares, uint32_t thread, const uint8_t *c, uint64_t pair_bytes) {
    const linear_job *job = t->job;
    const cpu_packed *w = &part->weight->packed;
    for (uint32_t p = 0; p < n_panel; p += CPU_STRIP_PANELS) {
        const int64_t at = strip * CPU_STRIP + p * CPU_PANEL;
        const int64_t wide = w->rows - at < CPU_STRIP ? w->rows - at : CPU_STRIP;
        const linear_target to = linear_target_of(job, part, at, thread);
        const cpu_tile_out out = {.w = w,
                                  .first = at,
                                  .n_x = (uint32_t)job->n_row,
                                  .n_part = t->n_part,
                                  .squares = squares,
                                  .accumulate = job->accumulate,
                                  .pair_bytes = pair_bytes,
                                  .c = c + p / 2 * pair_bytes,
                                  .scale = t->scale,
                                  .bias = part->bias,
                                  .y = to.y,
                                  .y_stride = to.stride};
        job->cpu->kernels->tile->finish(&out);
        linear_outliers(job, part, at, wide, to);
        linear_gate(job, part, at, wide, thread);
    }
}

/* Where blocks of k, as tiles see them, begin in a panel of w: `count` of them, or their bytes. */
static uint64_t bytes_of_blocks(const cpu_packed *w, int64_t count) {
    return widens(w) ? (uint64_t)(count * 32 / (int64_t)w->block_k) * w->block_bytes
                     : (uint64_t)count * CPU_TILE_BYTES;
}

/* n strips of a part, n at most UNIT_STRIPS, by many rows: k in pieces whose tiles of weights stay in
 * the first-level cache while the rows pass, and those of the next piece come to the second. `then`:
 * the panels of the unit after this one, or NULL. */
static void many_rows(const tile_job *t, const linear_part *part, int64_t strip, int64_t n,
                      const uint8_t *then, uint32_t thread) {
    const cpu_tile_kernels *tile = t->job->cpu->kernels->tile;
    const cpu_packed *w = &part->weight->packed;
    const cpu_scratch scratch = cpu_scratch_of(t->job->cpu, thread);
    const int64_t n_panel = n * CPU_STRIP_PANELS, n_square = t->n_tile / 2;
    const uint64_t pair_bytes = (uint64_t)n_square * 4 * CPU_TILE_BYTES;
    const int64_t all = t->n_tile == 2 ? t->n_block : CPU_TILE_K; /* few rows: one piece */
    const int64_t step = widens(w) ? CPU_TILE_K : all;
    const uint8_t *panels = w->panels + (uint64_t)(strip * CPU_STRIP_PANELS) * w->panel_bytes;
    cpu_tile_block block = {.kind = t->kind,
                            .group_bytes = (uint64_t)t->n_block * CPU_TILE_BYTES,
                            .n_pair = n_square,
                            .next_stride = w->panel_bytes,
                            .stream = t->prefetch && !widens(w)};
    for (int64_t b = 0; b < t->n_block; b += step) {
        block.first = b == 0;
        block.n_block = t->n_block - b < step ? t->n_block - b : step;
        block.x = t->tiles + b * CPU_TILE_BYTES;
        for (int64_t p = 0; p < n_panel; p += 2) {
            const uint8_t *panel = panels + (uint64_t)p * w->panel_bytes;
            const int64_t after = b + step < t->n_block ? b + step : 0;
            block.next = p + 2 < n_panel ? panel + 2 * w->panel_bytes + bytes_of_blocks(w, b)
                         : after > 0     ? panels + bytes_of_blocks(w, after)
                                         : then;
            block.next_bytes = bytes_of_blocks(w, block.n_block);
            if (widens(w)) {
                const uint64_t stride = CPU_TILE_K * CPU_TILE_BYTES;
                tile->widen(w, panel, b, block.n_block, scratch.widened);
                tile->widen(w, panel + w->panel_bytes, b, block.n_block, scratch.widened + stride);
                block.panels = scratch.widened;
                block.panel_bytes = stride;
            } else {
                block.panels = panel + b * CPU_TILE_BYTES;
                block.panel_bytes = w->panel_bytes;
            }
            block.c = scratch.sums + (uint64_t)p / 2 * pair_bytes;
            tile->block(&block);
        }
    }
    finish(t, part, strip, (uint32_t)n_panel, 1, thread, scratch.sums, pair_bytes);
}

static void one_group(const tile_job *t, const linear_part *part, int64_t strip, uint32_t thread) {
    const cpu_packed *w = &part->weight->packed;
    uint8_t *sums = cpu_scratch_of(t->job->cpu, thread).sums;
    t->job->cpu->kernels->tile->strip(
        t->kind, t->tiles, w->panels + (uint64_t)(strip * CPU_STRIP_PANELS) * w->panel_bytes,
        w->panel_bytes, t->n_block, t->prefetch, sums);
    finish(t, part, strip, CPU_STRIP_PANELS, 0, thread, sums, 2 * CPU_TILE_BYTES);
}

static int64_t units_of(const tile_job *t, const linear_part *part) {
    return (part->weight->packed.n_strip + t->unit - 1) / t->unit;
}

/* The panels of a unit of a part; NULL: it has none of that number. */
static const uint8_t *panels_of(const tile_job *t, const linear_part *part, int64_t unit) {
    const cpu_packed *w = &part->weight->packed;
    const int64_t strip = unit * t->unit;
    return strip >= w->n_strip ? NULL
                               : w->panels + (uint64_t)strip * CPU_STRIP_PANELS * w->panel_bytes;
}

static void one_unit(const tile_job *t, const linear_part *part, int64_t unit, const uint8_t *then,
                     uint32_t thread) {
    const int64_t strip = unit * t->unit, left = part->weight->packed.n_strip - strip;
    const int64_t n = left < t->unit ? left : t->unit;
    if (t->n_tile == 1) {
        one_group(t, part, strip, thread);
    } else {
        many_rows(t, part, strip, n, then, thread);
    }
}

/* Units of strips are numbered through all parts, one after the other. */
static void unit_range(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const tile_job *t = arg;
    const linear_job *job = t->job;
    int64_t base = 0;
    job->cpu->kernels->tile->begin(t->n_tile == 1 ? (uint32_t)job->n_row * t->n_part : 16);
    for (uint32_t i = 0; i < linear_n_numbered(job); i++) {
        const linear_part *part = &job->part[i];
        const int64_t units = units_of(t, part);
        const int64_t from = (int64_t)begin > base ? (int64_t)begin - base : 0;
        for (int64_t u = from; u < (int64_t)end - base && u < units; u++) {
            const uint8_t *then = panels_of(t, part, u + 1);
            if (job->gate && job->n_part == 2) {
                one_unit(t, part, u, panels_of(t, part + 1, u), thread);
                one_unit(t, part + 1, u, then, thread);
            } else {
                one_unit(t, part, u, then, thread);
            }
        }
        base += units;
    }
    job->cpu->kernels->tile->end();
}

static void run_block(tile_job *t) {
    linear_job *job = t->job;
    const cpu_backend *cpu = job->cpu;
    const int64_t rows = job->n_row * t->n_part;
    t->n_tile = rows <= 16 && !widens(t->w) ? 1 : (rows + 31) / 32 * 2;
    cpu_parallel(cpu, (uint64_t)job->n_row, 8, (double)job->k * 0.15 * t->n_part, fill_rows, t);
    clear_rest(t, rows);
    t->unit = rows <= 32 ? 1 : UNIT_STRIPS;
    uint64_t units = 0, bytes = 0;
    for (uint32_t i = 0; i < job->n_part; i++) {
        units += i < linear_n_numbered(job) ? (uint64_t)units_of(t, &job->part[i]) : 0;
        bytes += (uint64_t)job->part[i].weight->packed.n_strip * CPU_STRIP_PANELS *
                 job->part[i].weight->packed.panel_bytes;
    }
    t->prefetch = bytes >= CPU_STREAM_BYTES;
    const double unit_bytes = (double)bytes / (double)units;
    const double work = (double)job->k * CPU_STRIP * (double)t->unit * (double)rows;
    const uint64_t most = rows <= 32 ? (uint64_t)((double)CPU_CHUNK_BYTES / unit_bytes) + 1 : 1;
    cpu_parallel(cpu, units, most, unit_bytes / 40 + work / 800, unit_range, t);
}

void linear_tiles(linear_job *job, int64_t n_rows) {
    const cpu_packed *w = &job->part[0].weight->packed;
    tile_job t = {.job = job,
                  .w = w,
                  .kind = w->kind == CPU_PACK_I8 ? CPU_PACK_I8 : CPU_PACK_BF16,
                  .n_part = w->kind == CPU_PACK_BF16 && !job->prefill ? 3 : 1};
    t.n_block = t.kind == CPU_PACK_I8 ? w->n_block : (job->k + 31) / 32;
    int64_t most = (int64_t)((job->cpu->pack_bytes - 4096) / ((uint64_t)t.n_block * 64));
    most = (most < MOST_ROWS ? most : MOST_ROWS) / 32 * 32;
    const int64_t cached = CACHED_BYTES / (t.n_block * 64);
    if (cached < most && cached >= MANY_ROWS && !widens(w)) {
        most = MANY_ROWS;
    }
    const int64_t block = most / t.n_part;
    t.scale = (float *)(void *)job->cpu->pack;
    t.tiles = job->cpu->pack + 4096;
    const int64_t begin = job->row;
    assert(block > 0);
    for (int64_t done = 0; done < n_rows; done += block) {
        job->row = begin + done;
        job->n_row = n_rows - done < block ? n_rows - done : block;
        run_block(&t);
    }
}
