/*
 * KV pages: their layout, and the slots that store and copy cells. Refuses heads wider than
 * CUDA_MAX_HEAD_DIM and, for Q8_0, heads that are no whole blocks of 32.
 */
#include "kv.h"

#include "fuse.h"
#include "jobs.h"

pico_status cuda_kv_layout_of(const pico_kv_desc *desc, cuda_kv_layout *out) {
    const uint32_t dtype = desc->dtype;
    const int half = dtype == PICO_DTYPE_F16 || dtype == PICO_DTYPE_BF16;
    const int codes = dtype == PICO_DTYPE_Q8_0;
    if ((!half && !codes && dtype != PICO_DTYPE_F32) || desc->n_kv_head == 0 ||
        desc->n_kv_head > 65535 || desc->head_dim == 0 || desc->head_dim > CUDA_MAX_HEAD_DIM ||
        (codes && desc->head_dim % 32 != 0)) {
        return PICO_E_INVALID;
    }
    const int32_t positions = (int32_t)PICO_PAGE_POSITIONS;
    *out = (cuda_kv_layout){.dtype = dtype,
                            .n_head = (int32_t)desc->n_kv_head,
                            .head_dim = (int32_t)desc->head_dim,
                            .padded = (int32_t)cuda_pad(desc->head_dim, 8),
                            .size = codes  ? 1
                                    : half ? 2
                                           : 4,
                            .n_scale = codes ? (int32_t)desc->head_dim / 32 : 0};
    out->code_bytes = (int64_t)positions * out->padded * out->size;
    out->half_bytes = out->code_bytes + (int64_t)positions * out->n_scale * 2;
    out->page_bytes = 2 * out->half_bytes * out->n_head;
    return PICO_OK;
}

uint64_t cuda_kv_page_bytes(void *self, const pico_kv_desc *kv) {
    (void)self;
    cuda_kv_layout layout;
    return cuda_kv_layout_of(kv, &layout) == PICO_OK ? (uint64_t)layout.page_bytes : 0;
}

pico_status cuda_kv_store(void *self, const pico_kv_store_args *args) {
    cuda_backend *cuda = cuda_enter_fusing(self);
    cuda_store_job job;
    void *cell = NULL;
    pico_status status = cuda_kv_layout_of(&args->kv, &job.kv);
    if (status == PICO_OK) {
        status = cuda_view_of(&args->k, PICO_DTYPE_F32, &job.k);
    }
    if (status == PICO_OK) {
        status = cuda_view_of(&args->v, PICO_DTYPE_F32, &job.v);
    }
    if (status == PICO_OK) {
        status = cuda_vector_of(&args->cell, PICO_DTYPE_I32, job.k.rows, &cell);
    }
    if (status != PICO_OK || args->pages == NULL) {
        return PICO_E_INVALID;
    }
    if (job.k.heads != job.kv.n_head || job.v.heads != job.kv.n_head ||
        job.k.cols != job.kv.head_dim || job.v.cols != job.kv.head_dim ||
        job.k.rows != job.v.rows) {
        return PICO_E_INVALID;
    }
    job.cell = cell;
    job.pages = args->pages->data;
    job.n_cell = (int64_t)args->pages->bytes / job.kv.page_bytes * (int64_t)PICO_PAGE_POSITIONS;
    if (job.k.rows != 0) {
        const cuda_head_step k = {.what = CUDA_HEAD_STORE_K}, v = {.what = CUDA_HEAD_STORE_V};
        cuda_add_head_step(cuda, &job.k, &k, &job);
        cuda_add_head_step(cuda, &job.v, &v, &job);
        cuda_flush(cuda);
    }
    return PICO_OK;
}

pico_status cuda_kv_copy(void *self, const pico_kv_copy_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_copy_job job;
    cuda_view from;
    void *to = NULL;
    pico_status status = cuda_kv_layout_of(&args->kv, &job.kv);
    if (status == PICO_OK) {
        status = cuda_view_of(&args->from, PICO_DTYPE_I32, &from);
    }
    if (status != PICO_OK || args->pages == NULL || from.rows != 1 ||
        cuda_vector_of(&args->to, PICO_DTYPE_I32, from.cols, &to) != PICO_OK) {
        return PICO_E_INVALID;
    }
    job.pages = args->pages->data;
    job.from = (const int32_t *)(void *)from.data;
    job.to = to;
    job.n = from.cols;
    return job.n == 0 ? PICO_OK : cuda_done(cuda, cuda_run_copy(cuda->stream, &job), "kv_copy");
}
