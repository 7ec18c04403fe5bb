/*
 * Attention over KV pages: streaming softmax, one page at a time at absolute positions. A unit of
 * work is a few rows of one sequence with some query heads of one KV head; they share each page
 * that they walk over. Positions that a row reads from a list of cells (its branch of a tree) are
 * gathered into a page of scratch, so that the arithmetic is that of the same row in a chain. Rows of
 * prompts go through tiles where there are any, the others through vectors. Pages marked as dropped
 * are skipped: what they held is invisible.
 */
#include <string.h>

#include "cpu.h"
#include "kv.h"

#define POSITIONS ((int32_t)PICO_PAGE_POSITIONS)
#define SPLIT_NS 5000.0 /* of a unit that is worth two */

typedef struct attend_job {
    const cpu_backend *cpu;
    kv_layout kv;
    const uint8_t *pages;
    uint64_t n_page;
    cpu_view q, out, table;
    const int32_t *pos, *slot, *base, *anc_begin, *anc_cell;
    int32_t window, n_sink;
    float scale;
    uint32_t first_row, n_rows; /* those at hand, and behind the last of them */
    uint32_t has_tree;
    const cpu_attn_kernels *kernels;
    uint32_t group;      /* query heads of a KV head */
    uint32_t n_sub;      /* parts that a group is split into */
    uint32_t block_rows; /* rows of a unit */
} attend_job;

/* The queries of one walk: n_row rows from `row` on, heads [head, head + n_head). */
typedef struct walk {
    const attend_job *job;
    cpu_scratch scratch;
    uint32_t kv_head;
    int64_t row;
    uint32_t n_row, head, n_head;
    int32_t start, stop; /* the first position in any window, and behind the last */
    int more_heads;      /* the next walk will be that of the next KV head */
    int32_t gathered;    /* page of the table that scratch.gather begins with; -1: none */
    int32_t n_gathered;  /* positions of it */
    cpu_attn attn;       /* what is the same for all pages */
    const float *q[CPU_TILE_QUERIES];
    cpu_span span[CPU_TILE_QUERIES];
} walk;

static int32_t clip(int64_t x) {
    return x < 0 ? 0 : x > POSITIONS ? POSITIONS : (int32_t)x;
}

static int32_t tree_cells(const attend_job *job, int64_t row) {
    return job->has_tree ? job->anc_begin[row + 1] - job->anc_begin[row] : 0;
}

static int32_t n_visible(const attend_job *job, int64_t row) {
    return job->base[row] + tree_cells(job, row);
}

static int32_t first_visible(const attend_job *job, int64_t row) {
    return job->window < 0 || job->pos[row] < job->window ? 0 : job->pos[row] - job->window;
}

static const uint8_t *page_of(const attend_job *job, int32_t page, uint32_t kv_head) {
    assert(page >= 0 && (uint64_t)page < job->n_page);
    return job->pages + (uint64_t)page * job->kv.page_bytes + 2 * job->kv.half_bytes * kv_head;
}

/* Page p of a tree row: the positions before its base from the page table, the others from its list
 * of cells. What the row before has gathered from the same page of the table is there already. */
static const uint8_t *gather_page(walk *w, int32_t p) {
    const attend_job *job = w->job;
    const int32_t base = job->base[w->row], stop = n_visible(job, w->row);
    const int32_t *cell = job->anc_cell + job->anc_begin[w->row];
    const int32_t table =
        p * POSITIONS < base ? cpu_row_i32(&job->table, job->slot[w->row])[p] : -1;
    const int32_t n_base = clip((int64_t)base - p * POSITIONS);
    int32_t i = table >= 0 && table == w->gathered ? w->n_gathered : 0;
    i = i < n_base ? i : n_base;
    w->gathered = table;
    w->n_gathered = n_base;
    for (; i < POSITIONS && p * POSITIONS + i < stop; i++) {
        const int32_t at = p * POSITIONS + i;
        int32_t from, offset;
        if (at < base) {
            from = table;
            offset = i;
            if (from < 0) {
                continue;
            }
        } else {
            from = cell[at - base] / POSITIONS;
            offset = cell[at - base] % POSITIONS;
        }
        cpu_kv_move(&job->kv, page_of(job, from, w->kv_head), (uint32_t)offset, w->scratch.gather,
                    (uint32_t)i);
    }
    return w->scratch.gather;
}

/* What will be read after page p, as far as that is easily told; NULL where it is not. */
static const uint8_t *next_page(const walk *w, int32_t p) {
    const attend_job *job = w->job;
    const int32_t *table = cpu_row_i32(&job->table, job->slot[w->row]);
    if (p + 1 < job->table.cols && (p + 1) * (int64_t)POSITIONS < w->stop) {
        return table[p + 1] < 0 ? NULL : page_of(job, table[p + 1], w->kv_head);
    }
    const int32_t first = w->start / POSITIONS;
    if (!w->more_heads || first >= job->table.cols || table[first] < 0) {
        return NULL;
    }
    return page_of(job, table[first], w->kv_head + 1);
}

static void walk_page(walk *w, int32_t p) {
    const attend_job *job = w->job;
    const int64_t start = (int64_t)p * POSITIONS;
    const int32_t table = p < job->table.cols ? cpu_row_i32(&job->table, job->slot[w->row])[p]
                                              : -1; /* wholly in the tree */
    const int tree = tree_cells(job, w->row) > 0 && start + POSITIONS > job->base[w->row];
    if (table < 0 && !tree) {
        return;
    }
    uint32_t n_q = 0;
    for (uint32_t r = 0; r < w->n_row; r++) {
        const int64_t row = w->row + r, stop = n_visible(job, row);
        const int64_t known = table < 0 ? job->base[row] : 0; /* dropped up to there */
        const int64_t lo = first_visible(job, row) > known ? first_visible(job, row) : known;
        const cpu_span span = {
            .lo = clip(lo - start),
            .hi = clip(stop - start),
            .n_sink = table < 0 ? 0 : clip((job->n_sink < stop ? job->n_sink : stop) - start)};
        for (uint32_t h = 0; h < w->n_head; h++) {
            w->span[n_q++] = span;
        }
    }
    const uint8_t *data = tree ? gather_page(w, p) : page_of(job, table, w->kv_head);
    const uint8_t *values = data + job->kv.half_bytes, *next = next_page(w, p);
    cpu_attn attn = w->attn;
    attn.k = data;
    attn.v = values;
    attn.k_scale = (const uint16_t *)(const void *)(data + job->kv.code_bytes);
    attn.v_scale = (const uint16_t *)(const void *)(values + job->kv.code_bytes);
    attn.next_k = next;
    attn.next_v = next == NULL ? NULL : next + job->kv.half_bytes;
    assert(attn.n_q == n_q);
    job->kernels->page(&attn);
}

static void begin_walk(walk *w, uint32_t n_q) {
    const attend_job *job = w->job;
    w->attn = (cpu_attn){.dtype = job->kv.dtype,
                         .n_q = n_q,
                         .head_dim = job->kv.head_dim,
                         .scale = job->scale,
                         .wide = w->scratch.wide,
                         .q = w->q,
                         .span = w->span,
                         .score = w->scratch.score,
                         .largest = w->scratch.state,
                         .sum = w->scratch.state + CPU_TILE_QUERIES,
                         .acc = w->scratch.acc,
                         .acc_stride = cpu_pad16(job->kv.head_dim),
                         .tiles = w->scratch.attn};
    for (uint32_t i = 0; i < n_q; i++) {
        w->attn.largest[i] = -__builtin_inff();
        w->attn.sum[i] = 0;
    }
    memset(w->attn.acc, 0, (size_t)(n_q * w->attn.acc_stride) * sizeof(float));
    if (job->kernels->queries != NULL) {
        job->kernels->queries(&w->attn);
    }
}

/* All pages that a run of rows sees: those of the sinks, then those of the window. */
static void walk_rows(walk *w) {
    const attend_job *job = w->job;
    int32_t stop = 0, start = INT32_MAX;
    for (uint32_t r = 0, i = 0; r < w->n_row; r++) {
        const int32_t visible = n_visible(job, w->row + r), first = first_visible(job, w->row + r);
        stop = visible > stop ? visible : stop;
        start = first < start ? first : start;
        for (uint32_t h = 0; h < w->n_head; h++, i++) {
            w->q[i] = cpu_row_f32(&job->q, w->row + r) + (w->head + h) * job->q.head_stride;
        }
    }
    begin_walk(w, w->n_row * w->n_head);
    w->start = start;
    w->stop = stop;
    const int32_t sink_pages = (job->n_sink + POSITIONS - 1) / POSITIONS;
    for (int32_t p = 0; p * (int64_t)POSITIONS < stop; p++) {
        if (p >= sink_pages && p < start / POSITIONS) {
            p = start / POSITIONS;
        }
        walk_page(w, p);
    }
    for (uint32_t r = 0, i = 0; r < w->n_row; r++) {
        for (uint32_t h = 0; h < w->n_head; h++, i++) {
            float *out = cpu_row_f32(&job->out, w->row + r) + (w->head + h) * job->out.head_stride;
            job->cpu->kernels->attn->finish(w->attn.acc + i * w->attn.acc_stride, w->attn.sum[i],
                                            out, job->kv.head_dim);
        }
    }
}

static void attend_units(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const attend_job *job = arg;
    const cpu_tile_kernels *tile = job->kernels->queries == NULL ? NULL : job->cpu->kernels->tile;
    walk w = {.job = job, .scratch = cpu_scratch_of(job->cpu, thread)};
    if (tile != NULL) {
        tile->begin(16);
    }
    for (uint64_t u = begin; u < end; u++) {
        const uint32_t sub = (uint32_t)(u % job->n_sub);
        const uint64_t rest = u / job->n_sub;
        const int64_t first = job->first_row + (int64_t)(rest / job->kv.n_head * job->block_rows);
        int64_t stop = first + job->block_rows;
        stop = stop > job->n_rows ? job->n_rows : stop;
        w.kv_head = (uint32_t)(rest % job->kv.n_head);
        w.head = w.kv_head * job->group + job->group * sub / job->n_sub;
        w.n_head = w.kv_head * job->group + job->group * (sub + 1) / job->n_sub - w.head;
        w.more_heads = u + 1 < end && sub + 1 == job->n_sub && w.kv_head + 1 < job->kv.n_head;
        w.gathered = -1;
        for (w.row = first; w.row < stop; w.row += w.n_row) { /* runs of one sequence */
            w.n_row = 1;
            while (tree_cells(job, w.row) == 0 && w.row + w.n_row < stop &&
                   job->slot[w.row + w.n_row] == job->slot[w.row] &&
                   tree_cells(job, w.row + w.n_row) == 0) {
                w.n_row++;
            }
            walk_rows(&w);
        }
    }
    if (tile != NULL) {
        tile->end();
    }
}

static uint64_t n_units(const attend_job *job, uint32_t n_rows) {
    return (uint64_t)((n_rows + job->block_rows - 1) / job->block_rows) * job->kv.n_head *
           job->n_sub;
}

/* A guess of the nanoseconds for a unit: to read the elements of K and V, and to multiply with both. */
static double unit_ns(const attend_job *job, int32_t seen, int tiles) {
    const uint32_t heads = (job->group + job->n_sub - 1) / job->n_sub;
    const double fetch = job->kv.size * 0.08;
    const double multiply = heads * job->block_rows * (tiles ? 0.03 : 0.06);
    return (double)seen * job->kv.head_dim * (fetch + multiply) + 200;
}

/* Units as large as they may be, since what shares one shares what is loaded of K and V; but where they
 * are fewer than threads, and it takes long, smaller ones. */
static void share_out(attend_job *job, uint32_t n_rows, int32_t seen, int tiles) {
    const uint32_t most = tiles ? CPU_TILE_QUERIES : CPU_ATTN_QUERIES, n = job->cpu->n_threads;
    job->n_sub = (job->group + CPU_ATTN_HEADS - 1) / CPU_ATTN_HEADS;
    const uint32_t heads = (job->group + job->n_sub - 1) / job->n_sub;
    job->block_rows = most / heads < n_rows ? most / heads : n_rows;
    while (n_units(job, n_rows) < n && job->block_rows > 1 &&
           unit_ns(job, seen, tiles) > SPLIT_NS) {
        job->block_rows = (job->block_rows + 1) / 2;
    }
    while (n_units(job, n_rows) < n && job->n_sub < job->group &&
           unit_ns(job, seen, tiles) > SPLIT_NS) {
        job->n_sub = 2 * job->n_sub < job->group ? 2 * job->n_sub : job->group;
    }
}

/* Rows [first, stop), all of one class. */
static void attend_rows(attend_job *job, uint32_t first, uint32_t stop, int tiles) {
    if (first >= stop) {
        return;
    }
    int32_t seen = job->pos[stop - 1] + 1;
    seen = job->window >= 0 && job->window < seen ? job->window : seen;
    job->kernels = tiles ? job->cpu->kernels->attn_tile : job->cpu->kernels->attn;
    job->first_row = first;
    job->n_rows = stop;
    share_out(job, stop - first, seen, tiles);
    cpu_parallel(job->cpu, n_units(job, stop - first), UINT64_MAX, unit_ns(job, seen, tiles),
                 attend_units, job);
}

static pico_status bind_batch(attend_job *job, const pico_batch *batch) {
    const int64_t n = batch->n_rows;
    void *pos = NULL, *slot = NULL, *base = NULL, *begin = NULL;
    if (cpu_vector_of(&batch->pos, PICO_DTYPE_I32, n, &pos) != PICO_OK ||
        cpu_vector_of(&batch->slot, PICO_DTYPE_I32, n, &slot) != PICO_OK ||
        cpu_vector_of(&batch->base, PICO_DTYPE_I32, n, &base) != PICO_OK) {
        return PICO_E_INVALID;
    }
    job->pos = pos;
    job->slot = slot;
    job->base = base;
    job->n_rows = batch->n_rows;
    job->has_tree = batch->has_tree;
    if (batch->has_tree) {
        cpu_view cells;
        if (cpu_vector_of(&batch->anc_begin, PICO_DTYPE_I32, n + 1, &begin) != PICO_OK ||
            cpu_view_of(&batch->anc_cell, PICO_DTYPE_I32, &cells) != PICO_OK || cells.rows != 1) {
            return PICO_E_INVALID;
        }
        job->anc_begin = begin;
        job->anc_cell = cpu_row_i32(&cells, 0);
        assert(n == 0 || job->anc_begin[n] <= cells.cols);
    }
    return PICO_OK;
}

static pico_status check_heads(const attend_job *job, const pico_attend_args *args) {
    const cpu_backend *cpu = job->cpu;
    if (args->n_head == 0 || args->n_head % args->kv.n_kv_head != 0 || job->q.rows != job->n_rows ||
        job->q.heads != args->n_head || job->q.cols != args->kv.head_dim ||
        job->out.rows != job->n_rows || job->out.heads != args->n_head ||
        job->out.cols != args->kv.head_dim || job->table.heads != 1) {
        return PICO_E_INVALID;
    }
    return cpu->scratch == NULL || args->kv.head_dim > cpu->need.max_head_dim ? PICO_E_LIMIT
                                                                              : PICO_OK;
}

pico_status cpu_attend(void *self, const pico_attend_args *args) {
    attend_job job = {.cpu = self, .window = args->window, .scale = args->scale};
    pico_status status = cpu_kv_layout(&args->kv, &job.kv);
    if (status == PICO_OK) {
        status = cpu_view_of(&args->q, PICO_DTYPE_F32, &job.q);
    }
    if (status == PICO_OK) {
        status = cpu_view_of(&args->out, PICO_DTYPE_F32, &job.out);
    }
    if (status == PICO_OK) {
        status = cpu_view_of(&args->page_table, PICO_DTYPE_I32, &job.table);
    }
    if (status == PICO_OK && (args->pages == NULL || args->batch == NULL)) {
        status = PICO_E_INVALID;
    }
    if (status == PICO_OK) {
        status = bind_batch(&job, args->batch);
    }
    if (status == PICO_OK) {
        status = check_heads(&job, args);
    }
    if (status != PICO_OK || job.n_rows == 0) {
        return status;
    }
    job.pages = args->pages->data;
    job.n_page = args->pages->bytes / job.kv.page_bytes;
    job.n_sink = args->n_sink > INT32_MAX - PICO_PAGE_POSITIONS ? INT32_MAX - POSITIONS
                                                                : (int32_t)args->n_sink;
    job.group = args->n_head / args->kv.n_kv_head;
    const cpu_backend *cpu = self;
    const int tiles =
        cpu->kernels->attn_tile != NULL && !cpu->float_input && job.kv.head_dim % 32 == 0;
    const uint32_t n_rows = job.n_rows, n_decode = args->batch->n_decode;
    const uint32_t n_vector = tiles && n_decode < n_rows ? n_decode : n_rows;
    attend_rows(&job, 0, n_vector, 0);
    attend_rows(&job, n_vector, n_rows, 1);
    return PICO_OK;
}
