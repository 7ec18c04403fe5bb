/*
 * Matrix products for training. The columns of b are packed into panels by all threads together;
 * then each thread takes blocks of rows of the result by ranges of panels. The terms of an element
 * are added in the same order however the work is shared.
 */
#include <string.h>

#include "train.h"

#define FLOP_NS 0.012 /* a multiplication and addition on one thread, roughly */

typedef struct gemm_job {
    const cpu_backend *cpu;
    cpu_gemm_job of;
    /* the block at hand: columns [n0, n0 + nn), terms [k0, k0 + kk) */
    int64_t n0, nn, k0, kk;
    int64_t n_chunk, panels; /* chunks of panels, panels in all */
} gemm_job;

static void pack_job(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    (void)thread;
    const gemm_job *job = arg;
    const struct cpu_train *train = job->cpu->train;
    const int64_t nr = train->gemm->nr;
    const int transposed = job->of.transpose_b;
    for (int64_t p = (int64_t)begin; p < (int64_t)end; p++) {
        const int64_t column = job->n0 + p * nr, left = job->n0 + job->nn - column;
        const float *b = transposed ? job->of.b + column * job->of.b_stride + job->k0
                                    : job->of.b + job->k0 * job->of.b_stride + column;
        train->gemm->pack(b, job->of.b_stride, transposed, job->kk, left < nr ? left : nr,
                          train->pack + p * nr * job->kk);
    }
}

/* The rows of a block of op(a) beside each other: (kk, rows). */
static void pack_rows(const gemm_job *job, int64_t row, int64_t rows, float *out) {
    for (int64_t k = 0; k < job->kk; k++) {
        memcpy(out + k * rows, job->of.a + (job->k0 + k) * job->of.a_stride + row,
               (size_t)rows * sizeof *out);
    }
}

static void multiply_block(const gemm_job *job, int64_t row, int64_t rows, int64_t panel,
                           int64_t panel_end, float *pack_a) {
    const cpu_gemm_kernels *gemm = job->cpu->train->gemm;
    const int packed = job->of.transpose_a;
    const int first = job->k0 == 0;
    cpu_tile tile = {.k = job->kk,
                     .a_row = packed ? 1 : job->of.a_stride,
                     .a_step = packed ? rows : 1,
                     .alpha = job->of.alpha,
                     .beta = first ? job->of.beta : 1,
                     .c_row = job->of.c_stride};
    if (packed) {
        pack_rows(job, row, rows, pack_a);
    }
    for (int64_t p = panel; p < panel_end; p++) {
        const int64_t column = job->n0 + p * gemm->nr, left = job->n0 + job->nn - column;
        tile.b = job->cpu->train->pack + p * gemm->nr * job->kk;
        tile.n = left < gemm->nr ? left : gemm->nr;
        tile.bias = first && job->of.bias != NULL ? job->of.bias + column : NULL;
        for (int64_t i = 0; i < rows; i += gemm->mr) {
            tile.m = rows - i < gemm->mr ? rows - i : gemm->mr;
            tile.a = packed ? pack_a + i : job->of.a + (row + i) * job->of.a_stride + job->k0;
            tile.c = job->of.c + (row + i) * job->of.c_stride + column;
            gemm->tile(&tile);
        }
    }
}

static void multiply_job(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const gemm_job *job = arg;
    const cpu_train_scratch scratch = cpu_train_scratch_of(job->cpu->train, thread);
    for (int64_t task = (int64_t)begin; task < (int64_t)end; task++) {
        const int64_t row = task / job->n_chunk * CPU_GEMM_ROWS, chunk = task % job->n_chunk;
        const int64_t rows = job->of.m - row < CPU_GEMM_ROWS ? job->of.m - row : CPU_GEMM_ROWS;
        multiply_block(job, row, rows, job->panels * chunk / job->n_chunk,
                       job->panels * (chunk + 1) / job->n_chunk, scratch.pack_a);
    }
}

static void run_gemm(gemm_job *job) {
    const cpu_backend *cpu = job->cpu;
    const struct cpu_train *train = cpu->train;
    const int64_t nr = train->gemm->nr;
    const int64_t blocks = (job->of.m + CPU_GEMM_ROWS - 1) / CPU_GEMM_ROWS;
    const int64_t want = 8 * (int64_t)cpu->n_threads; /* tasks, so that threads end together */
    for (job->n0 = 0; job->n0 < job->of.n; job->n0 += job->nn) {
        job->nn =
            job->of.n - job->n0 < train->pack_columns ? job->of.n - job->n0 : train->pack_columns;
        job->panels = (job->nn + nr - 1) / nr;
        job->n_chunk = (want + blocks - 1) / blocks;
        job->n_chunk = job->n_chunk > job->panels ? job->panels : job->n_chunk;
        job->k0 = 0;
        do { /* once even where k is 0 */
            job->kk = job->of.k - job->k0 < CPU_GEMM_K ? job->of.k - job->k0 : CPU_GEMM_K;
            const double flops = (double)(job->kk + 1) * FLOP_NS;
            cpu_parallel(cpu, (uint64_t)job->panels, (uint64_t)job->panels, 16 * flops * (double)nr,
                         pack_job, job);
            cpu_parallel(cpu, (uint64_t)(blocks * job->n_chunk), 1,
                         flops * CPU_GEMM_ROWS * (double)(job->nn / job->n_chunk + 1), multiply_job,
                         job);
            job->k0 += job->kk;
        } while (job->k0 < job->of.k);
    }
}

/* The product that args ask for; PICO_E_INVALID if shapes do not fit together. */
static pico_status job_of(const pico_gemm_args *args, cpu_gemm_job *out) {
    cpu_view a, b, c;
    float *bias = NULL;
    pico_status status = cpu_view_of(&args->a, PICO_DTYPE_F32, &a);
    if (status == PICO_OK) {
        status = cpu_view_of(&args->b, PICO_DTYPE_F32, &b);
    }
    if (status == PICO_OK) {
        status = cpu_view_of(&args->c, PICO_DTYPE_F32, &c);
    }
    if (status == PICO_OK) {
        status = cpu_optional_of(&args->bias, c.cols, &bias);
    }
    if (status != PICO_OK) {
        return status;
    }
    const int64_t a_rows = args->transpose_a ? a.cols : a.rows;
    const int64_t b_cols = args->transpose_b ? b.rows : b.cols;
    const int64_t k = args->transpose_a ? a.rows : a.cols;
    if (a.heads != 1 || b.heads != 1 || c.heads != 1 || a_rows != c.rows || b_cols != c.cols ||
        k != (args->transpose_b ? b.cols : b.rows)) {
        return PICO_E_INVALID;
    }
    *out = (cpu_gemm_job){.transpose_a = args->transpose_a != 0,
                          .transpose_b = args->transpose_b != 0,
                          .alpha = args->alpha,
                          .beta = args->beta,
                          .a = cpu_row_f32(&a, 0),
                          .b = cpu_row_f32(&b, 0),
                          .bias = bias,
                          .c = cpu_row_f32(&c, 0),
                          .m = c.rows,
                          .n = c.cols,
                          .k = k,
                          .a_stride = a.row_stride,
                          .b_stride = b.row_stride,
                          .c_stride = c.row_stride};
    return PICO_OK;
}

pico_status cpu_gemm(void *self, const pico_gemm_args *args) {
    cpu_backend *cpu = self;
    gemm_job job = {.cpu = cpu};
    const pico_status status = job_of(args, &job.of);
    if (status != PICO_OK) {
        return status;
    }
    if (cpu->train == NULL || args->compute > PICO_COMPUTE_BF16) {
        return PICO_E_INVALID;
    }
    if (args->compute == PICO_COMPUTE_BF16 && cpu->train->squares == NULL) {
        return PICO_E_UNSUPPORTED;
    }
    if (job.of.m == 0 || job.of.n == 0) {
        return PICO_OK;
    }
    if (args->compute == PICO_COMPUTE_BF16 && job.of.k > 0) {
        cpu_gemm_tiles(cpu, &job.of);
    } else {
        run_gemm(&job);
    }
    return PICO_OK;
}

/* ---- single-threaded, for attention ---- */

void cpu_pack_panels(const cpu_gemm_kernels *gemm, const float *b, int64_t stride, int transposed,
                     int64_t k, int64_t n, float *out) {
    for (int64_t j = 0; j < n; j += gemm->nr) {
        gemm->pack(transposed ? b + j * stride : b + j, stride, transposed, k,
                   n - j < gemm->nr ? n - j : gemm->nr, out + j * k);
    }
}

void cpu_multiply_panels(const cpu_gemm_kernels *gemm, const cpu_product *p) {
    cpu_tile tile = {.a_row = p->a_row, .a_step = p->a_step, .alpha = p->alpha, .c_row = p->c_row};
    for (int64_t k0 = 0; k0 == 0 || k0 < p->k; k0 += CPU_GEMM_K) {
        tile.k = p->k - k0 < CPU_GEMM_K ? p->k - k0 : CPU_GEMM_K;
        tile.beta = k0 == 0 ? p->beta : 1;
        for (int64_t j = 0; j < p->n; j += gemm->nr) {
            tile.b = p->b + j / gemm->nr * p->panel + k0 * gemm->nr;
            tile.n = p->n - j < gemm->nr ? p->n - j : gemm->nr;
            for (int64_t i = 0; i < p->m; i += gemm->mr) {
                tile.m = p->m - i < gemm->mr ? p->m - i : gemm->mr;
                tile.a = p->a + i * p->a_row + k0 * p->a_step;
                tile.c = p->c + i * p->c_row + j;
                gemm->tile(&tile);
            }
        }
    }
}
