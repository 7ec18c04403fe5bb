/* The slots over logits: edits, the best token, the best k with the log of the whole sum. */
#include "jobs.h"

pico_status cuda_logit_edit(void *self, const pico_logit_edit_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_edit_job job;
    cuda_view row;
    void *token = NULL, *value[3] = {NULL, NULL, NULL};
    pico_status status = cuda_view_of(&args->logits, PICO_DTYPE_F32, &job.logits);
    if (status == PICO_OK) {
        status = cuda_view_of(&args->row, PICO_DTYPE_I32, &row);
    }
    if (status == PICO_OK && row.rows != 1) {
        status = PICO_E_INVALID;
    }
    if (status == PICO_OK) {
        status = cuda_vector_of(&args->token, PICO_DTYPE_I32, row.cols, &token);
    }
    const pico_tensor *const values[] = {&args->sub, &args->rep, &args->bias};
    for (int i = 0; status == PICO_OK && i < 3; i++) {
        status = cuda_vector_of(values[i], PICO_DTYPE_F32, row.cols, &value[i]);
    }
    if (status != PICO_OK || row.cols == 0) {
        return status;
    }
    job.row = (const int32_t *)(void *)row.data;
    job.token = token;
    job.sub = value[0];
    job.rep = value[1];
    job.bias = value[2];
    job.n = row.cols;
    return cuda_done(cuda, cuda_run_edit(cuda->stream, &job), "logit_edit");
}

/* Rows that the scratch memory has room for. */
static int64_t rows_at_once(const cuda_backend *cuda, int64_t row_bytes) {
    const int64_t room = (int64_t)cuda->scratch.select_bytes / row_bytes;
    return cuda_least(room, CUDA_SELECT_ROWS);
}

static cuda_view logit_rows(const cuda_view *logits, int64_t begin, int64_t n) {
    cuda_view rows = *logits;
    rows.data += begin * logits->row_stride * 4;
    rows.rows = n;
    return rows;
}

pico_status cuda_argmax(void *self, const pico_argmax_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_view logits;
    void *index = NULL;
    pico_status status = cuda_view_of(&args->logits, PICO_DTYPE_F32, &logits);
    if (status == PICO_OK) {
        status = cuda_vector_of(&args->index, PICO_DTYPE_I32, logits.rows, &index);
    }
    if (status != PICO_OK || logits.rows == 0) {
        return status;
    }
    const int64_t step = rows_at_once(cuda, CUDA_ARGMAX_PARTS * 16);
    status = step < 1 || logits.cols == 0 ? PICO_E_LIMIT : PICO_OK;
    for (int64_t r = 0; status == PICO_OK && r < logits.rows; r += step) {
        const cuda_select_job job = {.logits =
                                         logit_rows(&logits, r, cuda_least(step, logits.rows - r)),
                                     .index = (int32_t *)index + r,
                                     .scratch = cuda->scratch.select};
        status = cuda_done(cuda, cuda_run_argmax(cuda->stream, &job), "argmax");
    }
    return status;
}

pico_status cuda_top_k(void *self, const pico_top_k_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_view logits;
    void *index = NULL, *value = NULL, *log_sum = NULL;
    const int64_t k = args->k;
    pico_status status = cuda_view_of(&args->logits, PICO_DTYPE_F32, &logits);
    if (status == PICO_OK) {
        status = cuda_vector_of(&args->index, PICO_DTYPE_I32, logits.rows * k, &index);
    }
    if (status == PICO_OK) {
        status = cuda_vector_of(&args->value, PICO_DTYPE_F32, logits.rows * k, &value);
    }
    if (status == PICO_OK) {
        status = cuda_vector_of(&args->log_sum, PICO_DTYPE_F32, logits.rows, &log_sum);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (k < 1 || k > logits.cols || !(args->inv_temperature >= 0)) {
        return PICO_E_INVALID;
    }
    if (k > CUDA_TOP_K_MOST) {
        return PICO_E_LIMIT;
    }
    const int64_t step =
        rows_at_once(cuda, cuda_select_left(logits.cols, k) * 16 + CUDA_ARGMAX_PARTS * 16);
    status = step < 1 ? PICO_E_LIMIT : PICO_OK;
    for (int64_t r = 0; status == PICO_OK && r < logits.rows; r += step) {
        const cuda_select_job job = {.logits =
                                         logit_rows(&logits, r, cuda_least(step, logits.rows - r)),
                                     .k = k,
                                     .inv_temperature = args->inv_temperature,
                                     .index = (int32_t *)index + r * k,
                                     .value = (float *)value + r * k,
                                     .log_sum = (float *)log_sum + r,
                                     .scratch = cuda->scratch.select};
        status = cuda_done(cuda, cuda_run_top_k(cuda->stream, &job), "top_k");
    }
    return status;
}
