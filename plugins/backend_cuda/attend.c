/*
 * The slot attend: checks the batch, and sends decode rows, split over their positions, and prefill
 * rows, in tiles that share K and V, to their kernels: on tensor cores where the device has them and
 * the heads are not wider than they take. Splits and tiles begin at absolute positions, so that a
 * row's sums have one order whatever else is in the call.
 */
#include "jobs.h"
#include "kv.h"

static pico_status bind_batch(cuda_attend_job *job, const pico_batch *batch) {
    const int64_t n = batch->n_rows;
    void *pos = NULL, *slot = NULL, *base = NULL, *begin = NULL;
    if (cuda_vector_of(&batch->pos, PICO_DTYPE_I32, n, &pos) != PICO_OK ||
        cuda_vector_of(&batch->slot, PICO_DTYPE_I32, n, &slot) != PICO_OK ||
        cuda_vector_of(&batch->base, PICO_DTYPE_I32, n, &base) != PICO_OK) {
        return PICO_E_INVALID;
    }
    job->pos = pos;
    job->slot = slot;
    job->base = base;
    if (batch->has_tree) {
        cuda_view cells;
        if (cuda_vector_of(&batch->anc_begin, PICO_DTYPE_I32, n + 1, &begin) != PICO_OK ||
            cuda_view_of(&batch->anc_cell, PICO_DTYPE_I32, &cells) != PICO_OK || cells.rows != 1) {
            return PICO_E_INVALID;
        }
        job->anc_begin = begin;
        job->anc_cell = (const int32_t *)(void *)cells.data;
    }
    return PICO_OK;
}

static pico_status check_heads(const cuda_backend *cuda, const cuda_attend_job *job,
                               const pico_attend_args *args) {
    const int64_t n = args->batch->n_rows;
    if (args->n_head == 0 || args->n_head % args->kv.n_kv_head != 0 || job->q.rows != n ||
        job->q.heads != args->n_head || job->q.cols != args->kv.head_dim || job->out.rows != n ||
        job->out.heads != args->n_head || job->out.cols != args->kv.head_dim ||
        job->table.heads != 1) {
        return PICO_E_INVALID;
    }
    return cuda->scratch.memory == NULL || args->kv.head_dim > cuda->need.max_head_dim ||
                   args->n_head > cuda->need.max_head
               ? PICO_E_LIMIT
               : PICO_OK;
}

/* Decode rows, as many at a time as there is room for their parts. */
static pico_status attend_split(cuda_backend *cuda, cuda_attend_job *job, int64_t n) {
    const int64_t row_bytes =
        (int64_t)job->n_head * job->n_split * (job->kv.head_dim + 2) * (int64_t)sizeof(float);
    const int64_t room = (int64_t)cuda->scratch.partial_bytes / row_bytes;
    const int64_t step = cuda_least(room, CUDA_ATTEND_ROWS);
    pico_status status = step < 1 ? PICO_E_LIMIT : PICO_OK;
    job->partial = cuda->scratch.partial;
    for (int64_t r = 0; status == PICO_OK && r < n; r += step) {
        job->first = r;
        job->n = cuda_least(step, n - r);
        status = cuda_done(cuda, cuda_run_attend_split(cuda->stream, job), "attend");
    }
    return status;
}

/* Says the same from call to call, whatever the batch, as the two kernels round in different ways. */
static int takes_tensor_cores(const cuda_backend *cuda, const cuda_kv_layout *kv) {
    const int wide = kv->dtype == PICO_DTYPE_F32 || kv->dtype == PICO_DTYPE_Q8_0;
    return cuda->capability >= 80 && kv->padded <= CUDA_MMA_HEAD_DIM &&
           cuda_mma_bytes(kv->padded, wide) + 2048 <= cuda->block_shared;
}

pico_status cuda_attend(void *self, const pico_attend_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_attend_job job = {.window = args->window, .scale = args->scale};
    pico_status status = cuda_kv_layout_of(&args->kv, &job.kv);
    if (status == PICO_OK) {
        status = cuda_view_of(&args->q, PICO_DTYPE_F32, &job.q);
    }
    if (status == PICO_OK) {
        status = cuda_view_of(&args->out, PICO_DTYPE_F32, &job.out);
    }
    if (status == PICO_OK) {
        status = cuda_view_of(&args->page_table, PICO_DTYPE_I32, &job.table);
    }
    if (status == PICO_OK && (args->pages == NULL || args->batch == NULL)) {
        status = PICO_E_INVALID;
    }
    if (status == PICO_OK) {
        status = bind_batch(&job, args->batch);
    }
    if (status == PICO_OK) {
        status = check_heads(cuda, &job, args);
    }
    if (status != PICO_OK) {
        return status;
    }
    const int64_t rows = args->batch->n_rows, decode = cuda_least(args->batch->n_decode, rows);
    job.pages = args->pages->data;
    job.n_sink = args->n_sink > INT32_MAX ? INT32_MAX : (int32_t)args->n_sink;
    job.n_head = (int32_t)args->n_head;
    job.group = job.n_head / job.kv.n_head;
    job.n_split = cuda_splits(args->batch->n_pages);
    if (decode != 0) {
        status = attend_split(cuda, &job, decode);
    }
    if (status == PICO_OK && decode < rows) {
        job.first = decode;
        job.n = rows - decode;
        const cudaError_t error = takes_tensor_cores(cuda, &job.kv)
                                      ? cuda_run_attend_mma(cuda->stream, &job)
                                      : cuda_run_attend_tile(cuda->stream, &job);
        status = cuda_done(cuda, error, "attend");
    }
    return status;
}
