/*
 * Products with row-major weights: floats that the kernels take as they lie, and everything else
 * widened to F32 a few rows at a time. Rows of x are packed in tiles that the kernels hold in
 * registers; the order of every sum is the same for every shape of tile.
 */
#include <string.h>

#include "linear.h"

#define STEP_ROWS 16 /* rows of weights that all tiles of x meet before the next ones */

typedef struct float_job {
    linear_job *job;
    const float *packed; /* tiles of (k / 16, width, 16); with one row that row itself */
    uint32_t n_tile;
    uint32_t prefetch;
} float_job;

/* n rows in n_tile tiles as equal as possible: the first row of tile t */
static int64_t tile_begin(const float_job *f, uint32_t t) {
    return f->job->n_row * (int64_t)t / (int64_t)f->n_tile;
}

static void pack_tiles(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const float_job *f = arg;
    const linear_job *job = f->job;
    const int64_t padded = cpu_pad16(job->k), whole = job->k & ~(int64_t)15;
    for (uint64_t t = begin; t < end; t++) {
        const int64_t first = tile_begin(f, (uint32_t)t);
        const int64_t width = tile_begin(f, (uint32_t)t + 1) - first;
        float *tile = (float *)(void *)job->cpu->pack + first * padded;
        for (int64_t m = 0; m < width; m++) {
            const float *x = cpu_row_f32(&job->x, job->row + first + m);
            for (int64_t k = 0; k < whole; k += 16) {
                memcpy(tile + k * width + 16 * m, x + k, 16 * sizeof(float));
            }
            if (whole < job->k) {
                float *last = tile + whole * width + 16 * m;
                memset(last, 0, 16 * sizeof(float));
                memcpy(last, x + whole, (size_t)(job->k - whole) * sizeof(float));
            }
        }
    }
}

/* n rows of weights, given as `codes` of a dtype that the kernels take, with all tiles. */
static void run_strip(const float_job *f, const void *codes, uint64_t stride, uint32_t dtype,
                      const float *bias, int64_t n, linear_target to) {
    cpu_dot dot = {.w = codes,
                   .w_stride = stride,
                   .dtype = dtype,
                   .n_w = n,
                   .k = f->job->k,
                   .bias = bias,
                   .y_stride = to.stride,
                   .accumulate = f->job->accumulate,
                   .prefetch = f->prefetch};
    const int64_t padded = cpu_pad16(f->job->k);
    for (uint32_t t = 0; t < f->n_tile; t++) {
        const int64_t first = tile_begin(f, t);
        dot.n_x = (uint32_t)(tile_begin(f, t + 1) - first);
        dot.x = f->packed + first * padded;
        dot.y = to.y + first * to.stride;
        f->job->cpu->kernels->dot->dot(&dot);
        dot.prefetch = 0; /* the first tile has asked for the next rows */
    }
}

static int is_direct(const linear_job *job, const pico_weight *weight) {
    const pico_weight_desc *desc = &weight->desc;
    const int plain = desc->n_outlier == 0 && desc->input_perm == NULL && desc->input_scale == NULL;
    return plain && (job->cpu->kernels->dot->direct >> desc->dtype & 1u);
}

/* Rows [first, first + n) of one weight against the block. */
static void run_rows(const float_job *f, const linear_part *part, int64_t first, int64_t n,
                     linear_target to, uint32_t thread) {
    const linear_job *job = f->job;
    const pico_weight *weight = part->weight;
    const pico_weight_desc *desc = &weight->desc;
    const float *bias = part->bias == NULL ? NULL : part->bias + first;
    float *expanded = cpu_scratch_of(job->cpu, thread).expanded;
    const int64_t padded = cpu_pad16(job->k);
    const int direct = is_direct(job, weight);
    /* Several tiles: some weight rows at a time, so that a tile of x is read into the first-level cache
     * once for all of them. */
    const int64_t step = !direct ? CPU_EXPAND_ROWS : f->n_tile == 1 ? n : STEP_ROWS;
    for (int64_t r = 0; r < n; r += step) {
        const int64_t rows = n - r < step ? n - r : step;
        const linear_target at = {to.y + r, to.stride};
        const void *codes = (const char *)desc->codes + (uint64_t)(first + r) * weight->row_bytes;
        for (int64_t i = 0; i < rows && !direct; i++) {
            cpu_expand_row(job->cpu->kernels->row, weight, first + r + i, expanded + i * padded);
        }
        run_strip(f, direct ? codes : expanded,
                  direct ? weight->row_bytes : (uint64_t)padded * sizeof(float),
                  direct ? desc->dtype : (uint32_t)PICO_DTYPE_F32, bias == NULL ? NULL : bias + r,
                  rows, at);
    }
}

static void rows_of_part(const float_job *f, const linear_part *part, int64_t first, int64_t n,
                         uint32_t thread) {
    const int64_t step = linear_gates(f->job, part) ? CPU_STRIP : n; /* as the scratch is wide */
    for (int64_t r = first; r < first + n; r += step) {
        const int64_t rows = first + n - r < step ? first + n - r : step;
        run_rows(f, part, r, rows, linear_target_of(f->job, part, r, thread), thread);
        linear_gate(f->job, part, r, rows, thread);
    }
}

/* What the first part makes, gated by the second, a strip at a time. */
static void paired_rows(const float_job *f, int64_t first, int64_t n, uint32_t thread) {
    for (int64_t r = first; r < first + n; r += CPU_STRIP) {
        const int64_t rows = first + n - r < CPU_STRIP ? first + n - r : CPU_STRIP;
        rows_of_part(f, &f->job->part[0], r, rows, thread);
        rows_of_part(f, &f->job->part[1], r, rows, thread);
    }
}

static int64_t units_of(const linear_part *part) {
    return (part->weight->desc.rows + CPU_ROW_UNIT - 1) / CPU_ROW_UNIT;
}

/* Units are numbered through all parts, one after the other. */
static void unit_range(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const float_job *f = arg;
    int64_t base = 0;
    for (uint32_t i = 0; i < linear_n_numbered(f->job); i++) {
        const linear_part *part = &f->job->part[i];
        const int64_t units = units_of(part), rows = part->weight->desc.rows;
        const int64_t from = (int64_t)begin > base ? (int64_t)begin - base : 0;
        const int64_t to = (int64_t)end - base < units ? (int64_t)end - base : units;
        base += units;
        if (from < to) {
            const int64_t first = from * CPU_ROW_UNIT;
            const int64_t n = to * CPU_ROW_UNIT < rows ? to * CPU_ROW_UNIT - first : rows - first;
            if (f->job->gate && f->job->n_part == 2) {
                paired_rows(f, first, n, thread);
            } else {
                rows_of_part(f, part, first, n, thread);
            }
        }
    }
}

static void run_block(float_job *f) {
    linear_job *job = f->job;
    const cpu_backend *cpu = job->cpu;
    const int64_t tile = (int64_t)cpu->kernels->dot->tile;
    f->n_tile = (uint32_t)((job->n_row + tile - 1) / tile);
    if (job->n_row == 1) {
        f->packed = cpu_row_f32(&job->x, job->row);
    } else {
        f->packed = (const float *)(const void *)cpu->pack;
        cpu_parallel(cpu, f->n_tile, f->n_tile, (double)job->k * (double)tile * 0.1, pack_tiles, f);
    }
    uint64_t units = 0, bytes = 0;
    for (uint32_t i = 0; i < job->n_part; i++) {
        units += i < linear_n_numbered(job) ? (uint64_t)units_of(&job->part[i]) : 0;
        bytes += job->part[i].weight->desc.codes_bytes;
    }
    const double unit_bytes = (double)bytes / (double)units;
    const double together = job->gate ? (double)job->n_part : 1;
    const double work = (double)job->k * CPU_ROW_UNIT * (double)job->n_row * together;
    const int direct = cpu->kernels->dot->direct >> job->part[0].weight->desc.dtype & 1;
    const double expand = direct ? 0 : (double)job->k * CPU_ROW_UNIT * 0.2;
    f->prefetch = bytes >= CPU_STREAM_BYTES;
    cpu_parallel(cpu, units, (uint64_t)((double)CPU_CHUNK_BYTES / unit_bytes) + 1,
                 unit_bytes / 40 + work / 50 + expand, unit_range, f);
}

/* Rows of x that one pass over the weights serves: about the same in each pass, in whole tiles. */
static int64_t block_rows(const linear_job *job, int64_t n_rows) {
    const int64_t tile = (int64_t)job->cpu->kernels->dot->tile;
    int64_t most = CPU_PACK_FLOATS / cpu_pad16(job->k);
    most = most < CPU_PACK_MIN_ROWS ? CPU_PACK_MIN_ROWS
                                    : (most > CPU_MAX_MROWS ? CPU_MAX_MROWS : most);
    const int64_t passes = (n_rows + most - 1) / most;
    const int64_t even = ((n_rows + passes - 1) / passes + tile - 1) / tile * tile;
    return even < most ? even : most;
}

void linear_float(linear_job *job, int64_t n_rows) {
    float_job f = {.job = job};
    const int64_t block = block_rows(job, n_rows), begin = job->row;
    for (int64_t done = 0; done < n_rows; done += block) {
        job->row = begin + done;
        job->n_row = n_rows - done < block ? n_rows - done : block;
        run_block(&f);
    }
}
