/*
 * Rows of a weight by index. Negative indices give zeros; others are the host's to check.
 */
#include <string.h>

#include "cpu.h"

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
