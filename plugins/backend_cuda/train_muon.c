/*
 * A whole step of Muon for matrices of one shape in BF16: batched products whose factors and results
 * lie in the scratch memory of products, as many matrices at once as find room there.
 */
#include "train.h"

/* Elements of one matrix in a batch; so each begins as aligned as the first. */
#define UNIT 128

typedef struct batch {
    cuda_backend *cuda;
    const pico_muon_many_args *args;
    cuda_muon_many_job job;
    int64_t side, side_ld, side_stride; /* of the squares */
    uint16_t *x, *next, *y, *z;
} batch;

static char *take(char **from, int64_t bytes) {
    char *at = *from;
    *from += cuda_pad(bytes, CUDA_ALIGN);
    return at;
}

/* Bytes for n matrices; where they lie. */
static int64_t cut(batch *b, char *memory, int64_t n) {
    cuda_muon_many_job *job = &b->job;
    char *next = memory;
    b->x = (uint16_t *)(void *)take(&next, n * job->x_stride * 2);
    b->next = (uint16_t *)(void *)take(&next, n * job->x_stride * 2);
    b->y = (uint16_t *)(void *)take(&next, n * b->side_stride * 2);
    b->z = (uint16_t *)(void *)take(&next, n * b->side_stride * 2);
    job->square = (float *)(void *)take(&next, n * job->longer * 4);
    job->total = (float *)(void *)take(&next, n * 4);
    job->partial = (float *)(void *)take(&next, n * CUDA_MUON_PARTS * 4);
    return next - memory;
}

/* c = alpha a b + beta add; a square of one side, or x of both. */
typedef struct factor {
    uint16_t *data;
    int64_t rows, cols, ld, stride;
} factor;

static factor of_x(const batch *b, uint16_t *x) {
    return (factor){x, b->job.rows, b->job.cols, b->job.ld, b->job.x_stride};
}

static factor of_side(const batch *b, uint16_t *y) {
    return (factor){y, b->side, b->side, b->side_ld, b->side_stride};
}

static pico_status product(const batch *b, factor left, int turn_left, factor right, int turn_right,
                           float alpha, float beta, const uint16_t *add, factor out) {
    const cuda_gemm_job job = {.type = CUDA_GEMM_BF16,
                               .narrow_out = 1,
                               .transpose_a = (uint32_t)turn_left,
                               .transpose_b = (uint32_t)turn_right,
                               .m = out.rows,
                               .n = out.cols,
                               .k = turn_left ? left.rows : left.cols,
                               .a = left.data,
                               .b = right.data,
                               .c = out.data,
                               .add = add,
                               .lda = left.ld,
                               .ldb = right.ld,
                               .ldc = out.ld,
                               .alpha = alpha,
                               .beta = beta,
                               .batch = b->job.n,
                               .stride_a = left.stride,
                               .stride_b = right.stride,
                               .stride_c = out.stride};
    return cuda_gemm_run(b->cuda, &job);
}

/* next = a x + (b y + c y y) x, y = x x^T, or with y = x^T x on the other side. */
static pico_status iterate(const batch *b, const float *abc) {
    const factor x = of_x(b, b->x), next = of_x(b, b->next);
    const factor y = of_side(b, b->y), z = of_side(b, b->z);
    const int tall = b->job.rows > b->job.cols;
    pico_status status = product(b, x, tall, x, !tall, 1, 0, NULL, y);
    if (status == PICO_OK) {
        status = product(b, y, 0, y, 0, abc[2], abc[1], b->y, z);
    }
    return status == PICO_OK ? product(b, tall ? x : z, 0, tall ? z : x, 0, 1, abc[0], b->x, next)
                             : status;
}

static pico_status run(batch *b) {
    pico_status status = PICO_OK;
    b->job.x = b->x;
    status = cuda_done(b->cuda, cuda_run_muon_start(b->cuda->stream, &b->job), "muon_many");
    for (uint32_t i = 0; status == PICO_OK && i < b->args->n_step; i++) {
        uint16_t *const swap = b->x;
        status = iterate(b, b->args->factor + (size_t)3 * i);
        b->x = b->next;
        b->next = swap;
    }
    b->job.x = b->x;
    return status == PICO_OK
               ? cuda_done(b->cuda, cuda_run_muon_end(b->cuda->stream, &b->job), "muon_many")
               : status;
}

/* Matrices [first, first + job.n) into the job. */
static pico_status bind(batch *b, uint32_t first) {
    cuda_muon_many_job *job = &b->job;
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < job->n; i++) {
        const pico_muon_matrix *matrix = &b->args->matrix[first + i];
        const pico_tensor *const tensors[] = {&matrix->grad, &matrix->p, &matrix->momentum,
                                              &matrix->second};
        const int64_t n = job->rows * job->cols, sizes[] = {n, n, n, job->longer};
        void *data[4] = {NULL};
        for (int k = 0; status == PICO_OK && k < 4; k++) {
            status = cuda_vector_of(tensors[k], PICO_DTYPE_F32, sizes[k], &data[k]);
        }
        job->grad[i] = data[0];
        job->p[i] = data[1];
        job->m[i] = data[2];
        job->second[i] = data[3];
    }
    return status;
}

static void describe(batch *b, const cuda_view *p) {
    const pico_muon_many_args *args = b->args;
    b->side = cuda_least(p->rows, p->cols);
    b->side_ld = cuda_pad(b->side, 8);
    b->side_stride = cuda_pad(b->side * b->side_ld, UNIT);
    b->job = (cuda_muon_many_job){.rows = p->rows,
                                  .cols = p->cols,
                                  .ld = cuda_pad(p->cols, 8),
                                  .longer = p->rows > p->cols ? p->rows : p->cols,
                                  .by_row = p->rows >= p->cols,
                                  .momentum = args->momentum,
                                  .fresh = (1 - args->momentum) * args->grad_scale,
                                  .lr = args->lr,
                                  .decay = args->lr * args->weight_decay,
                                  .beta2 = args->beta2};
    b->job.x_stride = cuda_pad(p->rows * b->job.ld, UNIT);
}

pico_status cuda_muon_many(void *self, const pico_muon_many_args *args) {
    batch b = {.cuda = cuda_enter(self), .args = args};
    const struct cuda_train *train = b.cuda->train;
    cuda_view p;
    if (train == NULL || args->n == 0) {
        return train == NULL ? PICO_E_INVALID : PICO_OK;
    }
    pico_status status = cuda_view_of(&args->matrix[0].p, PICO_DTYPE_F32, &p);
    if (status != PICO_OK || p.heads != 1 || p.rows == 0 || p.cols == 0) {
        return status == PICO_OK ? PICO_E_INVALID : status;
    }
    describe(&b, &p);
    uint32_t most = args->n < CUDA_MUON_MANY ? args->n : CUDA_MUON_MANY;
    while (most > 0 && cut(&b, train->narrow, most) > train->narrow_bytes) {
        most--;
    }
    if (args->compute != PICO_COMPUTE_BF16 || most == 0) {
        return PICO_E_UNSUPPORTED;
    }
    for (uint32_t i = 0; status == PICO_OK && i < args->n; i += b.job.n) { /* before any is taken */
        b.job.n = args->n - i < most ? args->n - i : most;
        status = bind(&b, i);
    }
    for (uint32_t i = 0; status == PICO_OK && i < args->n; i += b.job.n) {
        b.job.n = args->n - i < most ? args->n - i : most;
        (void)cut(&b, train->narrow, b.job.n);
        status = bind(&b, i);
        status = status == PICO_OK ? run(&b) : status;
    }
    return status;
}
