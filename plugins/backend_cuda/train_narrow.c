/*
 * Factors of products rounded to BF16. They lie in a ring of scratch memory and are used again for as
 * long as nothing but products runs: the rows that three projections read are rounded once, and so are
 * those of a gradient that goes to the input and to the parameter.
 */
#include "train.h"

/* The factor of a product as it was found: F32, rows ld elements apart. */
static cuda_narrowed factor_of(const void *data, int64_t rows, int64_t cols, int64_t ld) {
    return (cuda_narrowed){.data = data,
                           .rows = rows,
                           .cols = cols,
                           .ld = ld,
                           .bytes = cuda_pad(rows * cuda_pad(cols, 8) * 2, CUDA_ALIGN)};
}

static int overlaps(int64_t a, int64_t a_bytes, int64_t b, int64_t b_bytes) {
    return a < b + b_bytes && b < a + a_bytes;
}

static int find(const struct cuda_train *train, cuda_narrowed *factor) {
    for (uint32_t i = 0; i < train->n_narrowed; i++) {
        const cuda_narrowed *old = &train->narrowed[i];
        if (old->data == factor->data && old->rows == factor->rows && old->cols == factor->cols &&
            old->ld == factor->ld) {
            factor->at = old->at;
            return 1;
        }
    }
    return 0;
}

static void drop(struct cuda_train *train, uint32_t i) {
    train->n_narrowed--;
    for (; i < train->n_narrowed; i++) {
        train->narrowed[i] = train->narrowed[i + 1];
    }
}

/* Finds a place beside the other factor of the product; 0 if there is none. */
static int place(struct cuda_train *train, cuda_narrowed *factor, const cuda_narrowed *other) {
    int64_t at = train->narrow_next;
    for (int tries = 0; tries < 3; tries++) {
        at = at + factor->bytes > train->narrow_bytes ? 0 : at;
        if (other == NULL || !overlaps(at, factor->bytes, other->at, other->bytes)) {
            break;
        }
        at = other->at + other->bytes;
    }
    if (at + factor->bytes > train->narrow_bytes ||
        (other != NULL && overlaps(at, factor->bytes, other->at, other->bytes))) {
        return 0;
    }
    for (uint32_t i = train->n_narrowed; i-- > 0;) {
        const cuda_narrowed *old = &train->narrowed[i];
        if (overlaps(at, factor->bytes, old->at, old->bytes)) {
            drop(train, i);
        }
    }
    if (train->n_narrowed == CUDA_NARROWED) {
        drop(train, 0); /* the oldest */
    }
    factor->at = at;
    train->narrowed[train->n_narrowed++] = *factor;
    train->narrow_next = at + factor->bytes;
    return 1;
}

static pico_status narrow(cuda_backend *cuda, const cuda_narrowed *factor) {
    const cuda_narrow_job job = {.x = {.data = (char *)(uintptr_t)factor->data,
                                       .rows = factor->rows,
                                       .heads = 1,
                                       .cols = factor->cols,
                                       .row_stride = factor->ld},
                                 .out = cuda->train->narrow + factor->at,
                                 .rows_out = factor->rows,
                                 .stride = cuda_pad(factor->cols, 8),
                                 .bf16 = 1};
    return cuda_done(cuda, cuda_run_narrow(cuda->stream, &job), "gemm");
}

/* What c is written over is no longer what was rounded. */
static void forget(struct cuda_train *train, const void *c, int64_t rows, int64_t cols,
                   int64_t ld) {
    const int64_t bytes = ((rows - 1) * ld + cols) * 4;
    for (uint32_t i = train->n_narrowed; i-- > 0;) {
        const cuda_narrowed *old = &train->narrowed[i];
        const int64_t old_bytes = ((old->rows - 1) * old->ld + old->cols) * 4;
        if (overlaps((int64_t)(intptr_t)c, bytes, (int64_t)(intptr_t)old->data, old_bytes)) {
            drop(train, i);
        }
    }
}

/* Other ops than those of this file may have written anything. */
static void keep_or_drop(cuda_backend *cuda) {
    struct cuda_train *train = cuda->train;
    if (cuda->n_op != train->narrow_op + 1) {
        train->n_narrowed = 0;
    }
    train->narrow_op = cuda->n_op;
}

/* Places for those factors that are not there yet, beside each other. */
static void place_both(struct cuda_train *train, cuda_narrowed *a, int *has_a, cuda_narrowed *b,
                       int *has_b) {
    if ((*has_a || place(train, a, *has_b ? b : NULL)) && (*has_b || place(train, b, a))) {
        return;
    }
    train->n_narrowed = 0;
    train->narrow_next = 0;
    *has_a = *has_b = 0;
    (void)place(train, a, NULL);
    (void)place(train, b, a);
}

/* One factor that is F32. */
static pico_status narrow_one(cuda_backend *cuda, cuda_narrowed *factor, const void **data,
                              int64_t *ld) {
    struct cuda_train *train = cuda->train;
    pico_status status = PICO_OK;
    if (!find(train, factor)) {
        (void)place(train, factor, NULL); /* it fits: it is half of the room at most */
        status = narrow(cuda, factor);
    }
    *data = train->narrow + factor->at;
    *ld = cuda_pad(factor->cols, 8);
    return status;
}

static pico_status narrow_two(cuda_backend *cuda, cuda_narrowed *a, cuda_narrowed *b,
                              cuda_gemm_job *job) {
    struct cuda_train *train = cuda->train;
    int has_a = find(train, a), has_b = find(train, b);
    const int same =
        a->data == b->data && a->rows == b->rows && a->cols == b->cols && a->ld == b->ld;
    if (same) {
        const pico_status status = narrow_one(cuda, a, &job->a, &job->lda);
        job->b = job->a;
        job->ldb = job->lda;
        return status;
    }
    place_both(train, a, &has_a, b, &has_b);
    pico_status status = has_a ? PICO_OK : narrow(cuda, a);
    if (status == PICO_OK && !has_b) {
        status = narrow(cuda, b);
    }
    job->a = train->narrow + a->at;
    job->lda = cuda_pad(a->cols, 8);
    job->b = train->narrow + b->at;
    job->ldb = cuda_pad(b->cols, 8);
    return status;
}

pico_status cuda_narrow_product(cuda_backend *cuda, cuda_gemm_job *job, uint32_t narrow_a,
                                uint32_t narrow_b) {
    struct cuda_train *train = cuda->train;
    cuda_narrowed a = job->transpose_a ? factor_of(job->a, job->k, job->m, job->lda)
                                       : factor_of(job->a, job->m, job->k, job->lda);
    cuda_narrowed b = job->transpose_b ? factor_of(job->b, job->n, job->k, job->ldb)
                                       : factor_of(job->b, job->k, job->n, job->ldb);
    if ((!narrow_a && a.bytes > train->narrow_bytes / 2) ||
        (!narrow_b && b.bytes > train->narrow_bytes / 2)) {
        return PICO_E_LIMIT;
    }
    keep_or_drop(cuda);
    pico_status status = PICO_OK;
    if (!narrow_a && !narrow_b) {
        status = narrow_two(cuda, &a, &b, job);
    } else if (!narrow_a) {
        status = narrow_one(cuda, &a, &job->a, &job->lda);
    } else if (!narrow_b) {
        status = narrow_one(cuda, &b, &job->b, &job->ldb);
    }
    forget(train, job->c, job->m, job->n, job->ldc);
    job->type = CUDA_GEMM_BF16;
    return status;
}
