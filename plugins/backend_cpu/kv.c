/*
 * KV pages: their layout, storing and copying cells. Within a page, for each KV head: K as
 * (64 / n_line, head_dim, n_line), positions innermost, so that the scores of many positions come
 * from one walk over the query, and n_line positions to 64 bytes, so that those of a position are
 * neighbours in memory; then V as (64, head_dim).
 *
 * Q8_0: K and V are int8 codes, each followed by F16 scales (head_dim / 32, 64), one for every 32
 * dimensions of a position: scale = max|x| / 127 as an F16, code = round(x / scale), at most 127
 * in size. The step is max|x| / 127, so a value is off by half of that at most, plus 4e-6 where
 * scales are so small that F16 holds few digits of them. A block with a value that is not finite has
 * the scale NaN.
 *
 * Refuses heads wider than CPU_MAX_HEAD_DIM and, for Q8_0, heads that are no whole blocks of 32.
 */
#include <string.h>

#include "cpu.h"
#include "kv.h"

typedef struct store_job {
    const cpu_backend *cpu;
    kv_layout kv;
    uint8_t *pages;
    cpu_view k, v;
    const int32_t *cell, *from;
} store_job;

pico_status cpu_kv_layout(const pico_kv_desc *desc, kv_layout *out) {
    const uint32_t dtype = desc->dtype;
    const int half = dtype == PICO_DTYPE_F16 || dtype == PICO_DTYPE_BF16;
    const int codes = dtype == PICO_DTYPE_Q8_0;
    if ((!half && !codes && dtype != PICO_DTYPE_F32) || desc->n_kv_head == 0 ||
        desc->n_kv_head > 65536 || desc->head_dim == 0 || desc->head_dim > CPU_MAX_HEAD_DIM ||
        (codes && desc->head_dim % 32 != 0)) {
        return PICO_E_INVALID;
    }
    out->dtype = dtype;
    out->n_head = desc->n_kv_head;
    out->head_dim = desc->head_dim;
    out->size = codes ? 1 : half ? 2 : 4;
    out->n_line = 64 / out->size;
    out->n_scale = codes ? desc->head_dim / 32 : 0;
    out->code_bytes = (uint64_t)desc->head_dim * PICO_PAGE_POSITIONS * out->size;
    out->half_bytes = out->code_bytes + (uint64_t)out->n_scale * PICO_PAGE_POSITIONS * 2;
    out->page_bytes = 2 * out->half_bytes * desc->n_kv_head;
    return PICO_OK;
}

uint64_t cpu_kv_page_bytes(void *self, const pico_kv_desc *kv) {
    (void)self;
    kv_layout layout;
    return cpu_kv_layout(kv, &layout) == PICO_OK ? layout.page_bytes : 0;
}

/* Bytes from the start of K to dimension 0 of a position; the others follow 64 bytes apart. */
static size_t column_of(const kv_layout *kv, uint32_t offset) {
    return ((size_t)(offset / kv->n_line) * kv->head_dim * kv->n_line + offset % kv->n_line) *
           kv->size;
}

/* The scales of K, or of V; half points to its codes. */
static uint16_t *scales_of(const kv_layout *kv, uint8_t *half) {
    return (uint16_t *)(void *)(half + kv->code_bytes);
}

static uint8_t *head_of(const store_job *job, int32_t cell, uint32_t head) {
    return job->pages + (uint64_t)cell / PICO_PAGE_POSITIONS * job->kv.page_bytes +
           2 * job->kv.half_bytes * head;
}

/* A row of a head as its page keeps it, with its scales where they belong: (head_dim) elements. */
static const void *encode(const store_job *job, const float *x, void *to, uint16_t *scales) {
    const cpu_row_kernels *row = job->cpu->kernels->row;
    const uint32_t n = job->kv.head_dim;
    if (job->kv.dtype == PICO_DTYPE_F32) {
        return x;
    }
    if (job->kv.dtype == PICO_DTYPE_Q8_0) {
        row->to_q8(x, to, scales, PICO_PAGE_POSITIONS, n);
    } else {
        row->narrow(job->kv.dtype, x, to, n);
    }
    return to;
}

/* K of rows [r, r + n_row), whose cells follow each other in one line of the page, so that each line
 * is written once. */
static void store_keys(const store_job *job, int64_t r, uint32_t n_row, uint32_t head,
                       uint8_t *page, uint32_t offset) {
    const uint32_t n = job->kv.head_dim;
    uint16_t codes[CPU_COLUMNS][CPU_MAX_HEAD_DIM];
    const void *row[CPU_COLUMNS];
    for (uint32_t i = 0; i < n_row; i++) {
        row[i] = encode(job, cpu_row_f32(&job->k, r + i) + head * job->k.head_stride, codes[i],
                        scales_of(&job->kv, page) + offset + i);
    }
    uint8_t *to = page + column_of(&job->kv, offset);
    job->cpu->kernels->row->columns(job->kv.size, row, n_row, to, n);
}

static void store_values(const store_job *job, const float *v, uint8_t *values, uint32_t offset) {
    const size_t bytes = (size_t)job->kv.head_dim * job->kv.size;
    uint8_t *to = values + offset * bytes;
    if (encode(job, v, to, scales_of(&job->kv, values) + offset) == v) {
        memcpy(to, v, bytes);
    }
}

/* How many rows from r on, below stop, have cells that follow each other in one line. */
static uint32_t run_of(const store_job *job, int64_t r, int64_t stop) {
    const uint32_t offset = (uint32_t)job->cell[r] % job->kv.n_line;
    uint32_t n = 1;
    while (n < CPU_COLUMNS && r + n < stop && offset + n < job->kv.n_line &&
           job->cell[r + n] == job->cell[r] + (int32_t)n) {
        n++;
    }
    return n;
}

/* One unit is one head of one stretch of rows, as many as a page holds. */
static void store_units(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const store_job *job = arg;
    for (uint64_t u = begin; u < end; u++) {
        const uint32_t head = (uint32_t)(u % job->kv.n_head);
        const int64_t first = (int64_t)(u / job->kv.n_head) * PICO_PAGE_POSITIONS;
        int64_t stop = first + (int64_t)PICO_PAGE_POSITIONS;
        stop = stop < job->k.rows ? stop : job->k.rows;
        for (int64_t r = first; r < stop;) {
            const int32_t cell = job->cell[r];
            if (cell < 0) {
                r++;
                continue;
            }
            const uint32_t n = run_of(job, r, stop), offset = (uint32_t)cell % PICO_PAGE_POSITIONS;
            uint8_t *page = head_of(job, cell, head);
            store_keys(job, r, n, head, page, offset);
            for (uint32_t i = 0; i < n; i++) {
                store_values(job, cpu_row_f32(&job->v, r + i) + head * job->v.head_stride,
                             page + job->kv.half_bytes, offset + i);
            }
            r += n;
        }
    }
}

static int cells_fit(const int32_t *cell, int64_t n, uint64_t bytes, uint64_t page_bytes) {
    const int64_t cells = (int64_t)(bytes / page_bytes) * (int64_t)PICO_PAGE_POSITIONS;
    for (int64_t i = 0; i < n; i++) {
        if (cell[i] >= cells) {
            return 0;
        }
    }
    return 1;
}

pico_status cpu_kv_store(void *self, const pico_kv_store_args *args) {
    store_job job = {.cpu = self};
    void *cell = NULL;
    pico_status status = cpu_kv_layout(&args->kv, &job.kv);
    if (status == PICO_OK) {
        status = cpu_view_of(&args->k, PICO_DTYPE_F32, &job.k);
    }
    if (status == PICO_OK) {
        status = cpu_view_of(&args->v, PICO_DTYPE_F32, &job.v);
    }
    if (status == PICO_OK) {
        status = cpu_vector_of(&args->cell, PICO_DTYPE_I32, job.k.rows, &cell);
    }
    if (status != PICO_OK || args->pages == NULL) {
        return PICO_E_INVALID;
    }
    if (job.k.heads != args->kv.n_kv_head || job.v.heads != args->kv.n_kv_head ||
        job.k.cols != args->kv.head_dim || job.v.cols != args->kv.head_dim ||
        job.k.rows != job.v.rows) {
        return PICO_E_INVALID;
    }
    job.cell = cell;
    job.pages = args->pages->data;
    assert(cells_fit(job.cell, job.k.rows, args->pages->bytes, job.kv.page_bytes));
    const uint64_t stretches =
        ((uint64_t)job.k.rows + PICO_PAGE_POSITIONS - 1) / PICO_PAGE_POSITIONS;
    const uint64_t rows = stretches > 1 ? PICO_PAGE_POSITIONS : (uint64_t)job.k.rows;
    const double lines = rows < job.kv.n_line ? 8 : 0; /* few rows wait for lines from memory */
    cpu_parallel(job.cpu, stretches * job.kv.n_head, UINT64_MAX,
                 ((double)rows + lines) * job.kv.head_dim, store_units, &job);
    return PICO_OK;
}

/* n elements of `size` bytes, 64 bytes apart */
static void move_column(uint32_t size, const uint8_t *from, uint8_t *to, size_t n) {
    for (size_t i = 0; i < n * 64; i += 64) {
        if (size == 4) {
            memcpy(to + i, from + i, 4);
        } else if (size == 2) {
            memcpy(to + i, from + i, 2);
        } else {
            to[i] = from[i];
        }
    }
}

void cpu_kv_move(const kv_layout *kv, const uint8_t *from, uint32_t from_offset, uint8_t *to,
                 uint32_t to_offset) {
    const size_t row = (size_t)kv->head_dim * kv->size;
    move_column(kv->size, from + column_of(kv, from_offset), to + column_of(kv, to_offset),
                kv->head_dim);
    memcpy(to + kv->half_bytes + to_offset * row, from + kv->half_bytes + from_offset * row, row);
    for (uint32_t i = 0; i < 2 * kv->n_scale; i++) { /* those of K, then those of V */
        const uint64_t block = kv->code_bytes + i % kv->n_scale * (uint64_t)PICO_PAGE_POSITIONS * 2,
                       at = block + (i < kv->n_scale ? 0 : kv->half_bytes);
        memcpy(to + at + (uint64_t)to_offset * 2, from + at + (uint64_t)from_offset * 2, 2);
    }
}

static void copy_units(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const store_job *job = arg;
    for (uint64_t i = begin; i < end; i++) {
        for (uint32_t head = 0; head < job->kv.n_head; head++) {
            cpu_kv_move(&job->kv, head_of(job, job->from[i], head),
                        (uint32_t)job->from[i] % PICO_PAGE_POSITIONS,
                        head_of(job, job->cell[i], head),
                        (uint32_t)job->cell[i] % PICO_PAGE_POSITIONS);
        }
    }
}

pico_status cpu_kv_copy(void *self, const pico_kv_copy_args *args) {
    store_job job = {.cpu = self};
    cpu_view from;
    void *to = NULL;
    pico_status status = cpu_kv_layout(&args->kv, &job.kv);
    if (status == PICO_OK) {
        status = cpu_view_of(&args->from, PICO_DTYPE_I32, &from);
    }
    if (status != PICO_OK || args->pages == NULL || from.rows != 1 ||
        cpu_vector_of(&args->to, PICO_DTYPE_I32, from.cols, &to) != PICO_OK) {
        return PICO_E_INVALID;
    }
    job.from = cpu_row_i32(&from, 0);
    job.cell = to;
    job.pages = args->pages->data;
    for (int64_t i = 0; i < from.cols; i++) {
        assert(job.from[i] >= 0 && job.cell[i] >= 0);
    }
    assert(cells_fit(job.from, from.cols, args->pages->bytes, job.kv.page_bytes));
    assert(cells_fit(job.cell, from.cols, args->pages->bytes, job.kv.page_bytes));
    cpu_parallel(job.cpu, (uint64_t)from.cols, UINT64_MAX,
                 (double)job.kv.n_head * job.kv.head_dim * 1.0, copy_units, &job);
    return PICO_OK;
}
