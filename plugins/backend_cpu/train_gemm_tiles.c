/*
 * Matrix products for training in BF16: both factors are packed as tiles by all threads together,
 * then threads take blocks of the result. How an element is summed depends on k alone.
 */
#include <string.h>

#include "train.h"

#define PACK_NS 0.15   /* an element that is packed, roughly */
#define FLOP_NS 0.0015 /* a multiplication and addition on one thread, roughly */
#define UNIT_GROUPS 4  /* groups of 16 lines that are packed together: neighbours in memory */
#define BLOCK_ROWS                                                                                 \
    128 /* rows of a block of the result; their tiles fit in the second-level cache */

typedef struct tiles_job {
    const cpu_backend *cpu;
    const cpu_gemm_job *gemm;
    /* the part at hand: rows [m0, m0 + mm), columns [n0, n0 + nn), terms [k0, k0 + kk) */
    int64_t m0, mm, n0, nn, k0, kk;
    int64_t n_block;             /* of 32 k */
    int64_t a_groups, b_groups;  /* of 16 lines, an even number */
    int64_t n_chunk, n_column32; /* chunks of columns, 32s of columns */
} tiles_job;

static int64_t pad_groups(int64_t lines) {
    return (lines + 31) / 32 * 2;
}

/* One group of lines of a (pairs = 0) or b (pairs = 1); those behind the last are zeros. */
static void pack_group(const tiles_job *job, int pairs, int64_t group) {
    const struct cpu_train *train = job->cpu->train;
    const cpu_gemm_job *g = job->gemm;
    const int k_major = pairs ? !g->transpose_b : g->transpose_a;
    const int64_t first = pairs ? job->n0 : job->m0, n = pairs ? job->nn : job->mm;
    const int64_t stride = pairs ? g->b_stride : g->a_stride;
    const float *x = pairs ? g->b : g->a;
    const int64_t line = first + 16 * group, left = n - 16 * group;
    uint8_t *out =
        (pairs ? train->tiles_b : train->tiles_a) + group * job->n_block * CPU_TILE_BYTES;
    if (left <= 0) {
        memset(out, 0, (size_t)(job->n_block * CPU_TILE_BYTES));
        return;
    }
    x += k_major ? job->k0 * stride + line : line * stride + job->k0;
    train->squares->pack(pairs, k_major, x, stride, left < 16 ? left : 16, job->kk, out);
}

static void pack_job(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const tiles_job *job = arg;
    const int64_t a_units = (job->a_groups + UNIT_GROUPS - 1) / UNIT_GROUPS;
    for (int64_t u = (int64_t)begin; u < (int64_t)end; u++) {
        const int pairs = u >= a_units;
        const int64_t first = (pairs ? u - a_units : u) * UNIT_GROUPS;
        const int64_t groups = pairs ? job->b_groups : job->a_groups;
        for (int64_t i = first; i < first + UNIT_GROUPS && i < groups; i++) {
            pack_group(job, pairs, i);
        }
    }
}

/* Rows [row, row + rows) and 32s of columns [column, column_end) of the part at hand. */
static void multiply_block(const tiles_job *job, int64_t row, int64_t rows, int64_t column,
                           int64_t column_end) {
    const struct cpu_train *train = job->cpu->train;
    const cpu_gemm_job *g = job->gemm;
    const int64_t pair_bytes = 2 * job->n_block * CPU_TILE_BYTES;
    const int first = job->k0 == 0;
    cpu_square s = {.n_block = job->n_block,
                    .alpha = g->alpha,
                    .beta = first ? g->beta : 1,
                    .c_row = g->c_stride};
    for (int64_t p = column; p < column_end; p++) {
        const int64_t left = job->nn - 32 * p;
        s.n = left < 32 ? left : 32;
        s.b = train->tiles_b + p * pair_bytes;
        s.bias = first && g->bias != NULL ? g->bias + job->n0 + 32 * p : NULL;
        for (int64_t i = row; i < row + rows; i += 32) {
            s.m = row + rows - i < 32 ? row + rows - i : 32;
            s.a = train->tiles_a + i / 32 * pair_bytes;
            s.c = g->c + (job->m0 + i) * g->c_stride + job->n0 + 32 * p;
            train->squares->square(&s);
        }
    }
}

static void multiply_job(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const tiles_job *job = arg;
    const cpu_tile_kernels *tile = job->cpu->kernels->tile;
    tile->begin(16);
    for (int64_t task = (int64_t)begin; task < (int64_t)end; task++) {
        const int64_t row = task / job->n_chunk * BLOCK_ROWS, chunk = task % job->n_chunk;
        const int64_t left = job->mm - row;
        multiply_block(job, row, left < BLOCK_ROWS ? left : BLOCK_ROWS,
                       job->n_column32 * chunk / job->n_chunk,
                       job->n_column32 * (chunk + 1) / job->n_chunk);
    }
    tile->end();
}

static void run_part(tiles_job *job) {
    const cpu_backend *cpu = job->cpu;
    const int64_t blocks = (job->mm + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const int64_t want = 8 * (int64_t)cpu->n_threads; /* tasks, so that threads end together */
    job->n_block = (job->kk + 31) / 32;
    job->a_groups = pad_groups(job->mm);
    job->b_groups = pad_groups(job->nn);
    job->n_column32 = job->b_groups / 2;
    job->n_chunk = (want + blocks - 1) / blocks;
    job->n_chunk = job->n_chunk > job->n_column32 ? job->n_column32 : job->n_chunk;
    const int64_t units = (job->a_groups + UNIT_GROUPS - 1) / UNIT_GROUPS +
                          (job->b_groups + UNIT_GROUPS - 1) / UNIT_GROUPS;
    cpu_parallel(cpu, (uint64_t)units, 1, PACK_NS * 16 * UNIT_GROUPS * (double)job->kk, pack_job,
                 job);
    cpu_parallel(cpu, (uint64_t)(blocks * job->n_chunk), 1,
                 FLOP_NS * BLOCK_ROWS * (double)job->kk *
                     (double)(32 * (job->n_column32 / job->n_chunk + 1)),
                 multiply_job, job);
}

void cpu_gemm_tiles(const cpu_backend *cpu, const cpu_gemm_job *gemm) {
    tiles_job job = {.cpu = cpu, .gemm = gemm};
    for (job.m0 = 0; job.m0 < gemm->m; job.m0 += job.mm) {
        job.mm = gemm->m - job.m0 < CPU_TILES_M ? gemm->m - job.m0 : CPU_TILES_M;
        for (job.n0 = 0; job.n0 < gemm->n; job.n0 += job.nn) {
            job.nn = gemm->n - job.n0 < CPU_TILES_N ? gemm->n - job.n0 : CPU_TILES_N;
            for (job.k0 = 0; job.k0 < gemm->k; job.k0 += job.kk) {
                job.kk = gemm->k - job.k0 < CPU_TILES_K ? gemm->k - job.k0 : CPU_TILES_K;
                run_part(&job);
            }
        }
    }
}
