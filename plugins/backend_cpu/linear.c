/*
 * Products with weights: linear, linear_many, linear_gated, and the row lookup of embed. Rows of x
 * are taken in blocks that stay in the second-level cache; for each block the weights are read
 * once, by all threads together, in units of weight rows. Nothing here depends on which rows share
 * a block, so a row's result is the same in every batch.
 */
#include <string.h>

#include "cpu.h"

#define STREAM_BYTES ((uint64_t)1 << 20) /* weights from this size on are expected in memory */
#define CHUNK_BYTES ((uint64_t)3 << 19)  /* most weight bytes that a thread takes at once */

typedef struct linear_part {
    const pico_weight *weight;
    const float *bias;
    cpu_view y;
} linear_part;

typedef struct linear_job {
    const cpu_backend *cpu;
    linear_part part[4];
    uint32_t n_part;
    uint32_t accumulate;
    uint32_t gated; /* 0, or PICO_ACT_x: y[0] = act(x W[0]) * (x W[1]) */
    uint32_t prefetch;
    cpu_view x;
    int64_t k;
    /* the block of rows at hand */
    int64_t row, n_row;
    const float *packed; /* tiles of (k / 16, width, 16); with one row that row itself */
    uint32_t n_tile;
} linear_job;

/* n rows in n_tile tiles as equal as possible: the first row of tile t */
static int64_t tile_begin(const linear_job *job, uint32_t t) {
    return job->n_row * (int64_t)t / (int64_t)job->n_tile;
}

static void pack_tiles(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const linear_job *job = arg;
    const int64_t padded = cpu_pad16(job->k), whole = job->k & ~(int64_t)15;
    for (uint64_t t = begin; t < end; t++) {
        const int64_t first = tile_begin(job, (uint32_t)t);
        const int64_t width = tile_begin(job, (uint32_t)t + 1) - first;
        float *tile = job->cpu->pack + first * padded;
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

/* Multiplies rows [first, first + n) of a weight, given as `codes` of a dtype that the kernels
 * take, with all tiles of the block; y begins at column `first` of its first row. */
static void run_strip(const linear_job *job, const void *codes, uint64_t stride, uint32_t dtype,
                      const float *bias, int64_t n, float *y, int64_t y_stride) {
    cpu_dot dot = {.w = codes,
                   .w_stride = stride,
                   .dtype = dtype,
                   .n_w = n,
                   .k = job->k,
                   .bias = bias,
                   .y_stride = y_stride,
                   .accumulate = job->accumulate,
                   .prefetch = job->prefetch};
    const int64_t padded = cpu_pad16(job->k);
    for (uint32_t t = 0; t < job->n_tile; t++) {
        const int64_t first = tile_begin(job, t);
        dot.n_x = (uint32_t)(tile_begin(job, t + 1) - first);
        dot.x = job->packed + first * padded;
        dot.y = y + first * y_stride;
        job->cpu->kernels->dot->dot(&dot);
        dot.prefetch = 0; /* the first tile has asked for the next rows */
    }
}

/* Rows [first, first + n) of one weight against the block. */
static void run_rows(const linear_job *job, const linear_part *part, int64_t first, int64_t n,
                     float *y, int64_t y_stride, uint32_t thread) {
    const pico_weight *weight = part->weight;
    const cpu_kernels *kernels = job->cpu->kernels;
    const pico_weight_desc *desc = &weight->desc;
    const float *bias = part->bias == NULL ? NULL : part->bias + first;
    const int plain = desc->n_outlier == 0 && desc->input_perm == NULL && desc->input_scale == NULL;
    if (plain && (kernels->dot->direct >> desc->dtype & 1u)) {
        /* Several tiles: a few weight rows at a time, which the first-level cache then holds. */
        const int64_t step = job->n_tile == 1 ? n : 4;
        for (int64_t r = 0; r < n; r += step) {
            run_strip(job, (const char *)desc->codes + (uint64_t)(first + r) * weight->row_bytes,
                      weight->row_bytes, desc->dtype, bias == NULL ? NULL : bias + r,
                      n - r < step ? n - r : step, y + r, y_stride);
        }
        return;
    }
    float *expanded = cpu_scratch_of(job->cpu, thread).expanded;
    const int64_t padded = cpu_pad16(job->k);
    for (int64_t r = 0; r < n; r += CPU_EXPAND_ROWS) {
        const int64_t rows = n - r < CPU_EXPAND_ROWS ? n - r : CPU_EXPAND_ROWS;
        for (int64_t i = 0; i < rows; i++) {
            cpu_expand_row(kernels->row, weight, first + r + i, expanded + i * padded);
        }
        run_strip(job, expanded, (uint64_t)padded * sizeof(float), PICO_DTYPE_F32,
                  bias == NULL ? NULL : bias + r, rows, y + r, y_stride);
    }
}

static void gated_units(const linear_job *job, int64_t first, int64_t n, uint32_t thread) {
    const cpu_view *y = &job->part[0].y;
    float *up = cpu_scratch_of(job->cpu, thread).gated;
    for (int64_t r = 0; r < n; r += CPU_GATED_ROWS) {
        const int64_t rows = n - r < CPU_GATED_ROWS ? n - r : CPU_GATED_ROWS;
        float *out = cpu_row_f32(y, job->row) + first + r;
        run_rows(job, &job->part[0], first + r, rows, out, y->row_stride, thread);
        run_rows(job, &job->part[1], first + r, rows, up, CPU_GATED_ROWS, thread);
        for (int64_t m = 0; m < job->n_row; m++) {
            float *row = out + m * y->row_stride;
            job->cpu->kernels->row->activate(job->gated, row, up + m * CPU_GATED_ROWS, row, rows);
        }
    }
}

static int64_t part_units(const linear_part *part) {
    return (part->weight->desc.rows + CPU_ROW_UNIT - 1) / CPU_ROW_UNIT;
}

/* Units are numbered through all parts, one after the other. */
static void linear_units(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const linear_job *job = arg;
    int64_t base = 0;
    for (uint32_t i = 0; i < (job->gated ? 1 : job->n_part); i++) {
        const linear_part *part = &job->part[i];
        const int64_t units = part_units(part), rows = part->weight->desc.rows;
        const int64_t from = (int64_t)begin > base ? (int64_t)begin - base : 0;
        const int64_t to = (int64_t)end - base < units ? (int64_t)end - base : units;
        base += units;
        if (from >= to) {
            continue;
        }
        const int64_t first = from * CPU_ROW_UNIT;
        const int64_t n = to * CPU_ROW_UNIT < rows ? to * CPU_ROW_UNIT - first : rows - first;
        if (job->gated) {
            gated_units(job, first, n, thread);
        } else {
            run_rows(job, part, first, n, cpu_row_f32(&part->y, job->row) + first,
                     part->y.row_stride, thread);
        }
    }
}

/* Rows of x that one pass over the weights serves. */
static int64_t block_rows(const linear_job *job) {
    int64_t rows = CPU_PACK_FLOATS / cpu_pad16(job->k);
    rows = rows < CPU_PACK_MIN_ROWS ? CPU_PACK_MIN_ROWS : rows;
    return rows > CPU_MAX_MROWS ? CPU_MAX_MROWS : rows;
}

static void run_block(linear_job *job) {
    const cpu_backend *cpu = job->cpu;
    const int64_t tile = (int64_t)cpu->kernels->dot->tile;
    job->n_tile = (uint32_t)((job->n_row + tile - 1) / tile);
    if (job->n_row == 1) {
        job->packed = cpu_row_f32(&job->x, job->row);
    } else {
        job->packed = cpu->pack;
        cpu_parallel(cpu, job->n_tile, job->n_tile, (double)job->k * (double)tile * 0.1, pack_tiles,
                     job);
    }
    uint64_t units = 0, bytes = 0;
    for (uint32_t i = 0; i < job->n_part; i++) {
        units += (uint64_t)part_units(&job->part[i]);
        bytes += job->part[i].weight->desc.codes_bytes;
    }
    const double unit_bytes = (double)bytes / (double)units;
    const double work = (double)job->k * CPU_ROW_UNIT * (double)job->n_row;
    const int direct = cpu->kernels->dot->direct >> job->part[0].weight->desc.dtype & 1;
    const double expand = direct ? 0 : (double)job->k * CPU_ROW_UNIT * 0.2;
    double ns = unit_bytes / 40 + work / 50 + expand;
    uint64_t most = (uint64_t)((double)CHUNK_BYTES / unit_bytes) + 1;
    if (job->gated) {
        units /= 2;
        ns *= 2;
        most = (most + 1) / 2;
    }
    if (most >= CPU_GATED_ROWS / CPU_ROW_UNIT) { /* whole strips of the gated form */
        most -= most % (CPU_GATED_ROWS / CPU_ROW_UNIT);
    }
    job->prefetch = bytes >= STREAM_BYTES;
    cpu_parallel(cpu, units, most, ns, linear_units, job);
}

static pico_status check_part(const linear_job *job, const linear_part *part) {
    const pico_weight *weight = part->weight;
    if (weight == NULL || weight->desc.cols != job->k || part->y.rows != job->x.rows ||
        part->y.heads != 1 || part->y.cols != weight->desc.rows) {
        return PICO_E_INVALID;
    }
    return PICO_OK;
}

static pico_status run_job(linear_job *job) {
    const cpu_backend *cpu = job->cpu;
    if (job->x.heads != 1) {
        return PICO_E_INVALID;
    }
    int scratch = job->gated != 0;
    for (uint32_t i = 0; i < job->n_part; i++) {
        const pico_status status = check_part(job, &job->part[i]);
        if (status != PICO_OK) {
            return status;
        }
        scratch |= !(cpu->kernels->dot->direct >> job->part[i].weight->desc.dtype & 1u) ||
                   job->part[i].weight->desc.n_outlier != 0 ||
                   job->part[i].weight->desc.input_perm != NULL ||
                   job->part[i].weight->desc.input_scale != NULL;
    }
    scratch |= job->x.rows > 1;
    if (scratch && (cpu->pack == NULL || job->k > (int64_t)cpu->need.max_in)) {
        return PICO_E_LIMIT;
    }
    const int64_t block = block_rows(job);
    for (job->row = 0; job->row < job->x.rows; job->row += block) {
        const int64_t left = job->x.rows - job->row;
        job->n_row = left < block ? left : block;
        run_block(job);
    }
    return PICO_OK;
}

static pico_status set_part(linear_job *job, const pico_weight *weight, const pico_tensor *bias,
                            const pico_tensor *y) {
    linear_part *part = &job->part[job->n_part++];
    float *values = NULL;
    if (weight == NULL) {
        return PICO_E_INVALID;
    }
    pico_status status = cpu_view_of(y, PICO_DTYPE_F32, &part->y);
    if (status == PICO_OK && bias != NULL) {
        status = cpu_optional_of(bias, weight->desc.rows, &values);
    }
    part->weight = weight;
    part->bias = values;
    return status;
}

static pico_status begin_job(linear_job *job, void *self, const pico_tensor *x) {
    *job = (linear_job){.cpu = self};
    const pico_status status = cpu_view_of(x, PICO_DTYPE_F32, &job->x);
    job->k = job->x.cols;
    return status;
}

pico_status cpu_linear(void *self, const pico_linear_args *args) {
    linear_job job;
    pico_status status = begin_job(&job, self, &args->x);
    if (status == PICO_OK) {
        status = set_part(&job, args->weight, &args->bias, &args->y);
    }
    job.accumulate = args->accumulate;
    return status == PICO_OK ? run_job(&job) : status;
}

pico_status cpu_linear_many(void *self, const pico_linear_many_args *args) {
    linear_job job;
    pico_status status = begin_job(&job, self, &args->x);
    if (args->n < 1 || args->n > 4) {
        return PICO_E_INVALID;
    }
    for (uint32_t i = 0; status == PICO_OK && i < args->n; i++) {
        status = set_part(&job, args->weight[i], &args->bias[i], &args->y[i]);
    }
    return status == PICO_OK ? run_job(&job) : status;
}

pico_status cpu_linear_gated(void *self, const pico_linear_gated_args *args) {
    linear_job job;
    pico_status status = begin_job(&job, self, &args->x);
    if (status == PICO_OK) {
        status = set_part(&job, args->w1, NULL, &args->y);
    }
    if (status == PICO_OK) {
        status = set_part(&job, args->w3, NULL, &args->y);
    }
    if (args->act < PICO_ACT_SILU || args->act > PICO_ACT_RELU_SQUARED) {
        return PICO_E_INVALID;
    }
    job.gated = args->act;
    return status == PICO_OK ? run_job(&job) : status;
}

/* ---- embed ---- */

typedef struct embed_job {
    const cpu_backend *cpu;
    const pico_weight *table;
    const int32_t *index;
    cpu_view out;
    uint32_t accumulate;
} embed_job;

static void embed_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const embed_job *job = arg;
    const cpu_row_kernels *row = job->cpu->kernels->row;
    for (uint64_t r = begin; r < end; r++) {
        float *out = cpu_row_f32(&job->out, (int64_t)r);
        const int32_t index = job->index[r];
        assert(index < job->table->desc.rows);
        if (index < 0) {
            if (!job->accumulate) {
                memset(out, 0, (size_t)job->out.cols * sizeof(float));
            }
        } else if (job->accumulate) {
            float *add = cpu_scratch_of(job->cpu, thread).expanded;
            cpu_expand_row(row, job->table, index, add);
            row->axpby(1, add, 1, out, job->out.cols);
        } else {
            cpu_expand_row(row, job->table, index, out);
        }
    }
}

pico_status cpu_embed(void *self, const pico_embed_args *args) {
    const cpu_backend *cpu = self;
    embed_job job = {.cpu = cpu, .table = args->table, .accumulate = args->accumulate};
    void *index = NULL;
    pico_status status = cpu_view_of(&args->out, PICO_DTYPE_F32, &job.out);
    if (status == PICO_OK) {
        status = cpu_vector_of(&args->index, PICO_DTYPE_I32, job.out.rows, &index);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (args->table == NULL || job.out.heads != 1 || job.out.cols != args->table->desc.cols) {
        return PICO_E_INVALID;
    }
    if (args->accumulate && (cpu->scratch == NULL || job.out.cols > (int64_t)cpu->need.max_in)) {
        return PICO_E_LIMIT;
    }
    job.index = index;
    const uint64_t rows = (uint64_t)job.out.rows;
    cpu_parallel(cpu, rows, rows, (double)job.out.cols * 0.3, embed_rows, &job);
    return PICO_OK;
}
