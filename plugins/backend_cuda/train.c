/*
 * The extension pico.train/1: its table, its scratch memory, and matrix products. A product is F32
 * throughout or, where BF16 is asked for, both sides are rounded to it and added up in F32; master
 * weights, gradients and the optimisers' states are F32 in any case.
 */
#include "train.h"

#include <stdlib.h>

static uint32_t larger(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

void cuda_train_free(cuda_backend *cuda) {
    if (cuda->train != NULL) {
        (void)cudaFree(cuda->train->memory);
        free(cuda->train);
        cuda->train = NULL;
    }
}

enum { N_PART = 6 };

static pico_status allocate(struct cuda_train *train, pico_error *err) {
    const pico_train_reserve *need = &train->need;
    const uint64_t rows = need->max_rows, dim = need->max_dim, length = need->max_length;
    const uint64_t by_head = rows * need->max_head, n_value = by_head > dim ? by_head : dim;
    const uint64_t square = length * length * sizeof(float);
    uint64_t heads = square == 0 ? 1 : CUDA_SCORE_BYTES / (2 * square);
    heads = heads < 1 ? 1 : heads > need->max_head ? need->max_head : heads;
    /* The larger of two matrices of a product: a block of activations, or a parameter. */
    const uint64_t widest = rows > 4096 ? rows : 4096;
    const uint64_t narrow = 2 * (uint64_t)cuda_pad((int64_t)(widest * dim * 2), CUDA_ALIGN);
    const uint64_t size[N_PART] = {n_value * 4,    n_value * 4,    CUDA_COLUMN_PARTS * dim * 4,
                                   heads * square, heads * square, narrow};
    uint64_t at[N_PART], total = 0;
    for (int i = 0; i < N_PART; i++) {
        at[i] = total;
        total += (uint64_t)cuda_pad((int64_t)size[i] + 1, CUDA_ALIGN);
    }
    const pico_status status = cuda_device_alloc(total, "training", &train->memory, err);
    if (status != PICO_OK) {
        return status;
    }
    train->value[0] = (float *)(void *)(train->memory + at[0]);
    train->value[1] = (float *)(void *)(train->memory + at[1]);
    train->n_value = (int64_t)n_value;
    train->partial = (float *)(void *)(train->memory + at[2]);
    train->score[0] = (float *)(void *)(train->memory + at[3]);
    train->score[1] = (float *)(void *)(train->memory + at[4]);
    train->score_heads = (int64_t)heads;
    train->narrow = train->memory + at[5];
    train->narrow_bytes = (int64_t)narrow;
    return PICO_OK;
}

static pico_status train_reserve(void *self, const pico_train_reserve *need, pico_error *err) {
    cuda_backend *cuda = cuda_enter(self);
    const pico_train_reserve *old = cuda->train == NULL ? need : &cuda->train->need;
    const uint32_t most = 1u << 26;
    struct cuda_train *train = calloc(1, sizeof *train);
    if (train == NULL) {
        return pico_fail(err, PICO_E_NOMEM, CUDA_SAYS "no host memory for training");
    }
    train->need =
        (pico_train_reserve){.max_rows = larger(need->max_rows, old->max_rows),
                             .max_dim = larger(need->max_dim, old->max_dim),
                             .max_length = larger(need->max_length, old->max_length),
                             .max_head = larger(need->max_head, old->max_head),
                             .max_head_dim = larger(need->max_head_dim, old->max_head_dim)};
    pico_status status = PICO_OK;
    if (train->need.max_rows > most || train->need.max_dim > most ||
        train->need.max_length > 65536 || train->need.max_head > 65536) {
        status = pico_fail(err, PICO_E_LIMIT,
                           CUDA_SAYS "training %u rows of sequences of %u, with %u heads and "
                                     "matrices of up to %u, is too much",
                           train->need.max_rows, train->need.max_length, train->need.max_head,
                           train->need.max_dim);
    }
    if (status == PICO_OK) {
        status = cuda_wait(cuda, err);
    }
    if (status == PICO_OK) {
        status = allocate(train, err);
    }
    if (status != PICO_OK) {
        free(train);
        return status;
    }
    cuda_train_free(cuda);
    cuda->train = train;
    return PICO_OK;
}

/* ---- products ---- */

static pico_status train_gemm(void *self, const pico_gemm_args *args) {
    cuda_backend *cuda = cuda_enter(self);
    cuda_view a, b, c;
    float *bias = NULL;
    uint32_t narrow_a = 0, narrow_b = 0;
    pico_status status = cuda_factor_of(&args->a, &a, &narrow_a);
    if (status == PICO_OK) {
        status = cuda_factor_of(&args->b, &b, &narrow_b);
    }
    if (status == PICO_OK) {
        status = cuda_view_of(&args->c, PICO_DTYPE_F32, &c);
    }
    if (status == PICO_OK) {
        status = cuda_optional_of(&args->bias, c.cols, &bias);
    }
    if (status != PICO_OK) {
        return status;
    }
    const int ta = args->transpose_a != 0, tb = args->transpose_b != 0;
    const int64_t k = ta ? a.rows : a.cols;
    if (cuda->train == NULL || args->compute > PICO_COMPUTE_BF16 || a.heads != 1 || b.heads != 1 ||
        c.heads != 1 || ((narrow_a || narrow_b) && args->compute != PICO_COMPUTE_BF16) ||
        (ta ? a.cols : a.rows) != c.rows || (tb ? b.rows : b.cols) != c.cols ||
        (tb ? b.cols : b.rows) != k) {
        return PICO_E_INVALID;
    }
    if (c.rows == 0 || c.cols == 0) {
        return PICO_OK;
    }
    if (k == 0) { /* nothing to add up: c = beta c */
        const cuda_element_job scale = {
            .what = CUDA_ELEMENT_AXPBY, .a = 0, .b = args->beta, .x = c, .y = c};
        const cuda_scale_job clear = {.x = c};
        status = cuda_done(cuda,
                           args->beta == 0 ? cuda_run_scale(cuda->stream, &clear)
                                           : cuda_run_element(cuda->stream, &scale),
                           "gemm");
    } else {
        cuda_gemm_job job = {.transpose_a = (uint32_t)ta,
                             .transpose_b = (uint32_t)tb,
                             .m = c.rows,
                             .n = c.cols,
                             .k = k,
                             .a = a.data,
                             .b = b.data,
                             .c = (float *)(void *)c.data,
                             .lda = a.row_stride,
                             .ldb = b.row_stride,
                             .ldc = c.row_stride,
                             .alpha = args->alpha,
                             .beta = args->beta};
        if (args->compute == PICO_COMPUTE_BF16) {
            status = cuda_narrow_product(cuda, &job, narrow_a, narrow_b);
        }
        status = status == PICO_OK ? cuda_gemm_run(cuda, &job) : status;
    }
    if (status == PICO_OK && bias != NULL) {
        const cuda_element_job add = {.what = CUDA_ELEMENT_BIAS, .x = c, .y = c, .bias = bias};
        status = cuda_done(cuda, cuda_run_element(cuda->stream, &add), "gemm");
    }
    return status;
}

static uint32_t features(void *self) {
    (void)self;
    return PICO_TRAIN_HAS_TOP_K | PICO_TRAIN_HAS_BF16 | PICO_TRAIN_HAS_BF16_TENSORS;
}

const pico_train_ops cuda_train_table = {.struct_size = sizeof(pico_train_ops),
                                         .reserve = train_reserve,
                                         .gemm = train_gemm,
                                         .gather = cuda_gather,
                                         .scatter = cuda_scatter,
                                         .norm_backward = cuda_norm_backward,
                                         .act_backward = cuda_act_backward,
                                         .gate_backward = cuda_gate_backward,
                                         .softcap_backward = cuda_softcap_backward,
                                         .attend = cuda_train_attend,
                                         .attend_backward = cuda_attend_backward,
                                         .loss = cuda_loss,
                                         .reduce = cuda_reduce,
                                         .scale = cuda_scale,
                                         .adamw = cuda_adamw,
                                         .muon = cuda_muon,
                                         .features = features,
                                         .muon_many = cuda_muon_many};
