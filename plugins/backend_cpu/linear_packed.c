/*
 * Products with packed weights on vectors: the rows of x are rounded as the weight wants them (or,
 * for codes into a codebook, kept as they are), then threads take strips of 64 outputs.
 */
#include <string.h>

#include "linear.h"

typedef struct packed_job {
    linear_job *job;
    const cpu_packed *w; /* of the first part: the others are alike */
    int64_t code_stride;
    int8_t *codes; /* (rows, code_stride) */
    float *x;      /* the same place, for weights that take x as it is */
    float *scale;  /* (rows, n_group) */
    int32_t *sum;  /* (rows, n_group) */
    uint32_t prefetch;
} packed_job;

static int rounds(const cpu_packed *w) {
    return w->kind != CPU_PACK_NF4;
}

static uint64_t row_bytes(const cpu_packed *w) {
    const uint64_t k = (uint64_t)w->n_block * w->block_k;
    return rounds(w) ? k + (uint64_t)w->n_group * 8 + 128 : k * sizeof(float) + 64;
}

/* x in whole groups of the block's columns, zeros behind each */
static void copy_groups(const cpu_packed *w, const float *x, float *out) {
    for (int64_t b = 0; b < w->n_block; b++, out += w->block_k) {
        const int64_t begin = b * w->group, left = w->k - begin;
        const int64_t n = left < w->group ? left : w->group;
        memcpy(out, x + begin, (size_t)n * sizeof *out);
        memset(out + n, 0, (size_t)((int64_t)w->block_k - n) * sizeof *out);
    }
}

static void round_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const packed_job *p = arg;
    const linear_job *job = p->job;
    float *room = cpu_scratch_of(job->cpu, thread).expanded;
    for (uint64_t m = begin; m < end; m++) {
        const float *x =
            linear_prepare(job->part[0].weight, cpu_row_f32(&job->x, job->row + (int64_t)m), room);
        if (rounds(p->w)) {
            job->cpu->kernels->packed->quantise(p->w, x, p->codes + (int64_t)m * p->code_stride,
                                                p->scale + m * p->w->n_group,
                                                p->sum + m * p->w->n_group);
        } else {
            copy_groups(p->w, x, p->x + (int64_t)m * p->code_stride);
        }
    }
}

static void strips_of_part(const packed_job *p, const linear_part *part, int64_t first, int64_t n,
                           uint32_t thread) {
    const linear_job *job = p->job;
    const cpu_packed *w = &part->weight->packed;
    const int64_t step = linear_gates(job, part) || part->weight->desc.n_outlier != 0 ? 1 : n;
    for (int64_t s = first; s < first + n; s += step) {
        const int64_t at = s * CPU_STRIP;
        const int64_t wide = w->rows - at < step * CPU_STRIP ? w->rows - at : step * CPU_STRIP;
        const linear_target to = linear_target_of(job, part, at, thread);
        const cpu_strips strips = {.w = w,
                                   .first = s,
                                   .n = step,
                                   .n_x = (uint32_t)job->n_row,
                                   .accumulate = job->accumulate,
                                   .prefetch = p->prefetch,
                                   .codes = p->codes,
                                   .scale = p->scale,
                                   .sum = p->sum,
                                   .x = p->x,
                                   .bias = part->bias,
                                   .y = to.y,
                                   .y_stride = to.stride};
        job->cpu->kernels->packed->strips(&strips);
        linear_outliers(job, part, at, wide, to);
        linear_gate(job, part, at, wide, thread);
    }
}

/* Strips are numbered through all parts, one after the other. */
static void strip_range(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const packed_job *p = arg;
    const linear_job *job = p->job;
    int64_t base = 0;
    for (uint32_t i = 0; i < linear_n_numbered(job); i++) {
        const linear_part *part = &job->part[i];
        const int64_t n = part->weight->packed.n_strip;
        const int64_t from = (int64_t)begin > base ? (int64_t)begin - base : 0;
        const int64_t to = (int64_t)end - base < n ? (int64_t)end - base : n;
        base += n;
        if (job->gate && job->n_part == 2) {
            for (int64_t s = from; s < to; s++) {
                strips_of_part(p, part, s, 1, thread);
                strips_of_part(p, part + 1, s, 1, thread);
            }
        } else if (from < to) {
            strips_of_part(p, part, from, to - from, thread);
        }
    }
}

static void run_block(packed_job *p) {
    linear_job *job = p->job;
    const cpu_backend *cpu = job->cpu;
    const double rows = (double)job->n_row, k = (double)job->k;
    cpu_parallel(cpu, (uint64_t)job->n_row, 8, k * 0.15, round_rows, p);
    uint64_t strips = 0;
    for (uint32_t i = 0; i < linear_n_numbered(job); i++) {
        strips += (uint64_t)job->part[i].weight->packed.n_strip;
    }
    const uint64_t together = job->gate ? job->n_part : 1;
    const uint64_t strip_bytes = p->w->panel_bytes * CPU_STRIP_PANELS * together;
    p->prefetch = strips * strip_bytes >= CPU_STREAM_BYTES;
    const double ns = (double)strip_bytes / 40 + k * CPU_STRIP * rows * (double)together / 300;
    cpu_parallel(cpu, strips, CPU_CHUNK_BYTES / strip_bytes + 1, ns, strip_range, p);
}

void linear_packed(linear_job *job, int64_t n_rows) {
    packed_job p = {.job = job, .w = &job->part[0].weight->packed};
    const uint64_t bytes = row_bytes(p.w);
    int64_t block = (int64_t)((job->cpu->pack_bytes - 256) / bytes);
    block = block > CPU_MAX_MROWS ? CPU_MAX_MROWS : block;
    assert(block > 0);
    p.code_stride = p.w->n_block * p.w->block_k;
    p.scale = (float *)(void *)job->cpu->pack;
    p.sum = (int32_t *)(void *)(p.scale + block * (int64_t)p.w->n_group);
    p.codes = (int8_t *)(p.sum + block * (int64_t)p.w->n_group);
    p.codes += (64 - (uintptr_t)p.codes % 64) % 64;
    p.x = (float *)(void *)p.codes;
    const int64_t begin = job->row;
    for (int64_t done = 0; done < n_rows; done += block) {
        job->row = begin + done;
        job->n_row = n_rows - done < block ? n_rows - done : block;
        run_block(&p);
    }
}
