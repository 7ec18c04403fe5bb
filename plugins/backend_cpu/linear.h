/*
 * Products with weights, inside: the job that the ops of linear.c describe, and the three ways to
 * do it. A job takes the rows of x in blocks that stay in the second-level cache; for each block the
 * weights are read once, by all threads together. Nothing depends on which rows share a block.
 */
#ifndef PICO_BACKEND_CPU_LINEAR_H
#define PICO_BACKEND_CPU_LINEAR_H

#include "cpu.h"

#define CPU_STREAM_BYTES ((uint64_t)1 << 20) /* weights from this size on are expected in memory */
#define CPU_CHUNK_BYTES ((uint64_t)3 << 19)  /* most weight bytes that a thread takes at once */

typedef struct linear_part {
    const pico_weight *weight;
    const float *bias; /* (out) or NULL */
    cpu_view y;
} linear_part;

/* y[i] = x W[i]^T + bias[i] for parts that are alike (linear_alike). */
typedef struct linear_job {
    const cpu_backend *cpu;
    linear_part part[4];
    uint32_t n_part;
    uint32_t accumulate; /* 1: y += */
    uint32_t gate;       /* 0, or PICO_ACT_x: the last part's product gates y = act(y) * product; no
                            bias. With two parts the first makes y */
    uint32_t prefill;    /* 1: rows are of the prefill class */
    cpu_view x;
    int64_t k;
    int64_t row, n_row; /* the rows of x at hand */
} linear_job;

/* Whether what a part makes gates y. */
static inline int linear_gates(const linear_job *job, const linear_part *part) {
    return job->gate && part == &job->part[job->n_part - 1];
}

/* Parts whose outputs are shared out to threads one after the other; a gate goes with the first. */
static inline uint32_t linear_n_numbered(const linear_job *job) {
    return job->gate ? 1 : job->n_part;
}

/* Where a piece of work writes outputs [first, ...) of a part: into y, or, when they gate y, into
 * the thread's scratch, (n_row, CPU_STRIP). */
typedef struct linear_target {
    float *y;
    int64_t stride;
} linear_target;

static inline linear_target linear_target_of(const linear_job *job, const linear_part *part,
                                             int64_t first, uint32_t thread) {
    if (linear_gates(job, part)) {
        return (linear_target){cpu_scratch_of(job->cpu, thread).gated, CPU_STRIP};
    }
    return (linear_target){cpu_row_f32(&part->y, job->row) + first, part->y.row_stride};
}

/* If the part gates: y = act(y) * gated, n outputs from `first` on. */
static inline void linear_gate(const linear_job *job, const linear_part *part, int64_t first,
                               int64_t n, uint32_t thread) {
    const float *gated = cpu_scratch_of(job->cpu, thread).gated;
    for (int64_t m = 0; linear_gates(job, part) && m < job->n_row; m++) {
        float *y = cpu_row_f32(&part->y, job->row + m) + first;
        job->cpu->kernels->row->activate(job->gate, y, gated + m * CPU_STRIP, y, n);
    }
}

/* Each does the rows [job->row, job->row + n_rows) of x. */
void linear_float(linear_job *job, int64_t n_rows);  /* row-major weights, widened where needed */
void linear_packed(linear_job *job, int64_t n_rows); /* packed codes, x rounded to int8 */
void linear_tiles(linear_job *job, int64_t n_rows);  /* packed weights on tiles */

/* Notes which product comes after the one before, and tells the host what the one after this will read:
 * threads that wait meanwhile can ask memory for it. */
void linear_foresee(cpu_backend *cpu, const linear_job *job);

/* Whether tiles do the job better than vectors, or, for BF16, at all. */
int linear_wants_tiles(const linear_job *job, int64_t n_rows);

/* Row `row` of x as the codes of a weight expect it: divided by its input scale, without its outlier
 * columns, permuted. x itself, or `room`, two rows of scratch. */
const float *linear_prepare(const pico_weight *weight, const float *x, float *room);
/* Adds what outlier columns contribute to outputs [first, first + n) of all rows at hand. */
void linear_outliers(const linear_job *job, const linear_part *part, int64_t first, int64_t n,
                     linear_target to);

#endif
