/*
 * Products with weights: linear, linear_many, linear_gated. Rows of the decode class go to the
 * kernels for few rows, whose sums have one order for any number of rows; the others to cuBLASLt:
 *
 *   weight             prefill meets it as
 *   F32, F16           F32 (F16 is widened, tile by tile)
 *   BF16               BF16, x rounded to BF16
 *   int8, Q8_0, 4 bit  BF16, both sides rounded; F32 where the weight asks for FLOAT input
 *
 * With `deterministic`, products of many rows run as blocks of one fixed shape, so that a row's bits
 * do not depend on how many rows there are.
 */
#include "cuda.h"
#include "fuse.h"
#include "gemm.h"
#include "jobs.h"

typedef struct part {
    const pico_weight *weight;
    float *bias; /* NULL: none */
    cuda_view y;
} part;

typedef struct product {
    cuda_backend *cuda;
    cuda_view x;
    part part[4];
    uint32_t n_part, n_decode, accumulate;
    uint32_t gate;    /* PICO_ACT_x: y of part 0 = act(product 0) * product 1 */
    int64_t narrowed; /* first row of x that lies in scratch.input; -1: none */
} product;

static cuda_view rows_of(const cuda_view *view, int64_t begin, int64_t n) {
    cuda_view rows = *view;
    rows.data += begin * view->row_stride * 4;
    rows.rows = n;
    return rows;
}

static float *floats(const cuda_view *view) {
    return (float *)(void *)view->data;
}

/* ---- few rows ---- */

/* Whether few rows of a weight go to the tensor cores. */
static int uses_mma(const cuda_backend *cuda, const cuda_weight *w) {
    return cuda->capability >= 80 &&
           (w->kind == CUDA_WEIGHT_BF16 ||
            (w->kind == CUDA_WEIGHT_I8 && (w->group >= w->cols || w->group_shift >= 5)));
}

/* Whether parts can share a launch. */
static int same_kernel(const cuda_backend *cuda, const cuda_weight *a, const cuda_weight *b) {
    return a->kind == b->kind && uses_mma(cuda, a) == uses_mma(cuda, b) &&
           (a->group < a->cols) == (b->group < b->cols);
}

/* Outputs of a block, and for the tensor cores its tiles. */
static int32_t outputs_of_block(const product *p, uint32_t first, uint32_t n, int64_t rows,
                                int32_t *tiles) {
    int64_t n_tile = 0;
    *tiles = 0;
    if (!uses_mma(p->cuda, &p->part[first].weight->device)) {
        return cuda_vector_outputs(cuda_vector_rows(rows), p->gate != 0);
    }
    for (uint32_t i = 0; i < n; i++) {
        n_tile += cuda_ceil(p->part[first + i].weight->device.rows, CUDA_FEW_TILE);
    }
    *tiles = p->gate ? 1 : cuda_few_tiles(n_tile, p->cuda->n_multiprocessor);
    return *tiles * CUDA_FEW_TILE;
}

/* Parts [first, first + n), all of one kernel, of rows whose input lies at x. A norm that made x, and
 * has not run, becomes part of it (norm; NULL: none). */
static pico_status run_vector(const product *p, uint32_t first, uint32_t n, const float *x,
                              int64_t x_stride, int64_t begin, int64_t rows,
                              const cuda_norm_job *norm) {
    cuda_backend *cuda = p->cuda;
    cuda_vector_job job = {.n_part = n,
                           .accumulate = p->accumulate,
                           .gate = p->gate,
                           .x = x,
                           .x_stride = x_stride,
                           .rows = rows,
                           .cols = p->x.cols,
                           .resident = (int32_t)cuda->n_multiprocessor * CUDA_FEW_RESIDENT};
    const uint32_t mma = (uint32_t)uses_mma(cuda, &p->part[first].weight->device);
    const int32_t outputs = outputs_of_block(p, first, n, rows, &job.tiles);
    uint32_t block = 0;
    for (uint32_t i = 0; i < n; i++) {
        const part *from = &p->part[first + i];
        const cuda_view y = rows_of(&from->y, begin, rows);
        job.part[i] = (cuda_vector_part){.weight = from->weight->device,
                                         .bias = from->bias,
                                         .y = floats(&y),
                                         .y_stride = y.row_stride,
                                         .first_block = block};
        block += (uint32_t)cuda_ceil(from->weight->device.rows, outputs);
    }
    if (norm != NULL) {
        job.normed = 1;
        job.norm = *norm;
        job.x = floats(&norm->x);
        job.x_stride = norm->x.row_stride;
    }
    const int alone = p->n_part == 1 && !p->gate && !p->accumulate && !p->part[0].weight->extras;
    if (alone && rows == p->x.rows) { /* with extras, more than this kernel makes a result */
        cuda_wait_with_product(cuda, &job, mma, &p->part[0].y);
        return PICO_OK;
    }
    return cuda_done(cuda,
                     mma ? cuda_run_few(cuda->stream, &job) : cuda_run_vector(cuda->stream, &job),
                     "linear");
}

/* The norm that waits, if it made the input of all rows and every part can take it up; what else waits
 * is launched. */
static int take_norm(const product *p, cuda_norm_job *norm) {
    int all = p->n_decode >= p->x.rows && p->x.heads == 1;
    for (uint32_t i = 0; i < p->n_part; i++) {
        all = all && !p->part[i].weight->extras;
    }
    const int taken = all && cuda_take_norm(p->cuda, &p->x, norm);
    cuda_flush(p->cuda);
    return taken;
}

/* One part whose codes want another input than x. */
static pico_status run_prepared(const product *p, uint32_t i, int64_t begin, int64_t rows) {
    cuda_backend *cuda = p->cuda;
    const pico_weight *weight = p->part[i].weight;
    pico_status status = PICO_OK;
    for (int64_t r = 0; status == PICO_OK && r < rows; r += CUDA_PREPARED_ROWS) {
        const int64_t n = cuda_least(rows - r, CUDA_PREPARED_ROWS);
        const cuda_prepare_job prepare = {.weight = weight->device,
                                          .x = rows_of(&p->x, begin + r, n),
                                          .out = cuda->scratch.prepared,
                                          .stride = cuda_pad(p->x.cols, 8)};
        const cuda_outlier_job outliers = {
            .weight = weight->device, .x = prepare.x, .y = rows_of(&p->part[i].y, begin + r, n)};
        status = cuda_done(cuda, cuda_run_prepare(cuda->stream, &prepare), "linear");
        if (status == PICO_OK) {
            status = run_vector(p, i, 1, prepare.out, prepare.stride, begin + r, n, NULL);
        }
        if (status == PICO_OK && weight->device.n_outlier != 0) {
            status = cuda_done(cuda, cuda_run_outliers(cuda->stream, &outliers), "linear");
        }
    }
    return status;
}

static pico_status run_few(const product *p, int64_t begin, int64_t rows) {
    pico_status status = PICO_OK;
    cuda_norm_job norm;
    const cuda_norm_job *first = begin == 0 && take_norm(p, &norm) ? &norm : NULL;
    for (uint32_t i = 0, n; status == PICO_OK && i < p->n_part; i += n) {
        n = 1;
        if (p->part[i].weight->extras) {
            status = run_prepared(p, i, begin, rows);
            continue;
        }
        while (i + n < p->n_part && !p->part[i + n].weight->extras &&
               same_kernel(p->cuda, &p->part[i + n].weight->device, &p->part[i].weight->device)) {
            n++;
        }
        const cuda_view x = rows_of(&p->x, begin, rows);
        status = run_vector(p, i, n, floats(&x), x.row_stride, begin, rows, first);
        first = NULL; /* its result is there now */
    }
    return status;
}

/* ---- many rows ---- */

static int wants_bf16(const pico_weight *weight) {
    const uint32_t kind = weight->device.kind;
    return kind == CUDA_WEIGHT_BF16 ||
           (kind >= CUDA_WEIGHT_I8 && weight->input_quant != PICO_INPUT_FLOAT);
}

/* Whether the matrix lies in the weight as the product wants it. */
static int is_ready(const pico_weight *weight) {
    const uint32_t kind = weight->device.kind;
    return !weight->extras && (kind == CUDA_WEIGHT_BF16 || kind == CUDA_WEIGHT_F32);
}

/* A block of the product: m rows, the first of them in x and y, by n outputs from `first` on. */
typedef struct block {
    const pico_weight *weight;
    cuda_gemm_job job; /* a and its shape are set */
    int64_t rows;      /* that are real; job.m may be more */
    int64_t first, n;
    const cuda_view *y;
    uint32_t accumulate;
} block;

static pico_status run_block(cuda_backend *cuda, block *b) {
    const cuda_weight *w = &b->weight->device;
    cuda_gemm_job *job = &b->job;
    cuda_view y = *b->y;
    y.data += b->first * 4;
    y.cols = b->n;
    job->transpose_b = 1;
    job->n = b->n;
    job->ldb = job->k;
    job->alpha = 1;
    if (is_ready(b->weight)) {
        job->b = w->codes + b->first * w->row_bytes;
        job->ldb = w->row_bytes / (job->type == CUDA_GEMM_BF16 ? 2 : 4);
    } else {
        const cuda_expand_job expand = {.weight = *w,
                                        .first = b->first,
                                        .n = b->n,
                                        .stride = job->k,
                                        .bf16 = job->type == CUDA_GEMM_BF16,
                                        .out = cuda->scratch.expanded};
        const pico_status status =
            cuda_done(cuda, cuda_run_expand(cuda->stream, &expand), "linear");
        if (status != PICO_OK) {
            return status;
        }
        job->b = expand.out;
    }
    if (!cuda->options.deterministic) {
        job->c = floats(&y);
        job->ldc = y.row_stride;
        job->beta = b->accumulate ? 1 : 0;
        return cuda_gemm_run(cuda, job);
    }
    job->c = cuda->scratch.block;
    job->ldc = b->n;
    job->beta = 0;
    pico_status status = cuda_gemm_run(cuda, job);
    cuda_element_job add = {.what = CUDA_ELEMENT_AXPBY,
                            .a = 1,
                            .b = b->accumulate ? 1 : 0,
                            .x = {.data = (char *)cuda->scratch.block,
                                  .rows = b->rows,
                                  .heads = 1,
                                  .cols = b->n,
                                  .row_stride = b->n},
                            .y = y};
    if (status == PICO_OK) {
        status = cuda_done(cuda, cuda_run_element(cuda->stream, &add), "linear");
    }
    return status;
}

/* All outputs of a part for rows of x that are ready. */
static pico_status run_outputs(cuda_backend *cuda, const part *to, const cuda_gemm_job *job,
                               const cuda_view *y, uint32_t accumulate) {
    const int64_t outputs = to->weight->device.rows;
    int64_t tile = is_ready(to->weight) ? outputs
                                        : (int64_t)cuda->scratch.expanded_bytes /
                                              (job->k * (job->type == CUDA_GEMM_BF16 ? 2 : 4));
    tile = cuda->options.deterministic ? cuda_least(tile, CUDA_BLOCK_OUTPUTS) : tile;
    pico_status status = PICO_OK;
    for (int64_t o = 0; status == PICO_OK && o < outputs; o += tile) {
        block b = {.weight = to->weight,
                   .job = *job,
                   .rows = y->rows,
                   .first = o,
                   .n = cuda_least(tile, outputs - o),
                   .y = y,
                   .accumulate = accumulate};
        status = run_block(cuda, &b);
    }
    if (status == PICO_OK && to->bias != NULL) {
        const cuda_element_job add = {
            .what = CUDA_ELEMENT_BIAS, .x = *y, .y = *y, .bias = to->bias};
        status = cuda_done(cuda, cuda_run_element(cuda->stream, &add), "linear");
    }
    return status;
}

/* Rows [begin, begin + rows) of x as the product of a part wants them. */
static pico_status take_input(product *p, const pico_weight *weight, int64_t begin, int64_t rows,
                              cuda_gemm_job *job) {
    cuda_backend *cuda = p->cuda;
    const int bf16 = wants_bf16(weight), fixed = (int)cuda->options.deterministic;
    const cuda_view x = rows_of(&p->x, begin, rows);
    *job = (cuda_gemm_job){.type = bf16 ? CUDA_GEMM_BF16 : CUDA_GEMM_F32,
                           .m = fixed ? CUDA_BLOCK_ROWS : rows,
                           .k = bf16 ? cuda_pad(x.cols, 8) : x.cols,
                           .a = x.data,
                           .lda = x.row_stride};
    if (!bf16 && !fixed) {
        return PICO_OK;
    }
    job->a = cuda->scratch.input;
    job->lda = job->k;
    if (bf16 && p->narrowed == begin) {
        return PICO_OK;
    }
    p->narrowed = bf16 ? begin : -1;
    const cuda_narrow_job narrow = {.x = x,
                                    .out = cuda->scratch.input,
                                    .rows_out = job->m,
                                    .stride = job->k,
                                    .bf16 = (uint32_t)bf16};
    return cuda_done(cuda, cuda_run_narrow(cuda->stream, &narrow), "linear");
}

/* Rows of x that go through one product. */
static int64_t block_rows(const cuda_backend *cuda) {
    return cuda->options.deterministic ? CUDA_BLOCK_ROWS : cuda->scratch.input_rows;
}

static pico_status run_many(product *p, int64_t begin, int64_t rows) {
    const int64_t step = block_rows(p->cuda);
    pico_status status = PICO_OK;
    for (int64_t r = 0; status == PICO_OK && r < rows; r += step) {
        const int64_t n = cuda_least(step, rows - r);
        for (uint32_t i = 0; status == PICO_OK && i < p->n_part; i++) {
            const cuda_view y = rows_of(&p->part[i].y, begin + r, n);
            cuda_gemm_job job;
            status = take_input(p, p->part[i].weight, begin + r, n, &job);
            if (status == PICO_OK) {
                status = run_outputs(p->cuda, &p->part[i], &job, &y, p->accumulate);
            }
        }
    }
    return status;
}

/* ---- both classes ---- */

static pico_status run_product(product *p) {
    const int64_t rows = p->x.rows, decode = cuda_least(p->n_decode, rows);
    pico_status status = PICO_OK;
    if (decode == 0) {
        cuda_flush(p->cuda);
    } else {
        status = run_few(p, 0, decode);
    }
    return status == PICO_OK && decode < rows ? run_many(p, decode, rows - decode) : status;
}

static pico_status check_part(const product *p, const part *to) {
    if (to->weight->device.cols != p->x.cols || to->y.rows != p->x.rows || to->y.heads != 1 ||
        to->y.cols != to->weight->device.rows || p->x.heads != 1) {
        return PICO_E_INVALID;
    }
    return p->cuda->scratch.memory == NULL || p->x.cols > (int64_t)p->cuda->need.max_in
               ? PICO_E_LIMIT
               : PICO_OK;
}

static pico_status add_part(product *p, const pico_weight *weight, const pico_tensor *bias,
                            const pico_tensor *y) {
    part *to = &p->part[p->n_part++];
    if (weight == NULL) {
        return PICO_E_INVALID;
    }
    pico_status status = cuda_view_of(y, PICO_DTYPE_F32, &to->y);
    if (status == PICO_OK && bias != NULL) {
        status = cuda_optional_of(bias, weight->device.rows, &to->bias);
    }
    to->weight = weight;
    return status == PICO_OK ? check_part(p, to) : status;
}

static pico_status begin_product(product *p, void *self, const pico_tensor *x, uint32_t n_decode) {
    *p = (product){.cuda = cuda_enter_fusing(self), .n_decode = n_decode, .narrowed = -1};
    return cuda_view_of(x, PICO_DTYPE_F32, &p->x);
}

pico_status cuda_linear(void *self, const pico_linear_args *args) {
    product p;
    pico_status status = begin_product(&p, self, &args->x, args->n_decode);
    if (status == PICO_OK) {
        status = add_part(&p, args->weight, &args->bias, &args->y);
    }
    p.accumulate = args->accumulate;
    return status == PICO_OK ? run_product(&p) : status;
}

pico_status cuda_linear_many(void *self, const pico_linear_many_args *args) {
    product p;
    pico_status status = begin_product(&p, self, &args->x, args->n_decode);
    if (args->n < 1 || args->n > 4) {
        return PICO_E_INVALID;
    }
    for (uint32_t i = 0; status == PICO_OK && i < args->n; i++) {
        status = add_part(&p, args->weight[i], &args->bias[i], &args->y[i]);
    }
    return status == PICO_OK ? run_product(&p) : status;
}

/* ---- gated ---- */

static pico_status activate(cuda_backend *cuda, uint32_t act, const cuda_view *x,
                            const cuda_view *y) {
    const cuda_element_job job = {
        .what = CUDA_ELEMENT_ACT, .kind = act, .x = *x, .y = *y, .gate = *y};
    return cuda_done(cuda, cuda_run_element(cuda->stream, &job), "linear_gated");
}

/* Rows of one class: the first product waits in scratch. */
static pico_status run_composed(product *p, uint32_t act, int64_t begin, int64_t rows, int many) {
    cuda_backend *cuda = p->cuda;
    const cuda_view y = p->part[1].y;
    const int64_t step = (int64_t)cuda->scratch.gated_bytes / (y.cols * 4);
    pico_status status = step < 1 ? PICO_E_LIMIT : PICO_OK;
    for (int64_t r = 0; status == PICO_OK && r < rows; r += step) {
        const int64_t n = cuda_least(step, rows - r);
        product now = *p;
        now.narrowed = -1;
        now.x = rows_of(&p->x, begin + r, n);
        now.part[1].y = rows_of(&y, begin + r, n);
        now.part[0].y = (cuda_view){.data = (char *)cuda->scratch.gated,
                                    .rows = n,
                                    .heads = 1,
                                    .cols = y.cols,
                                    .row_stride = y.cols};
        status = many ? run_many(&now, 0, n) : run_few(&now, 0, n);
        if (status == PICO_OK) {
            status = activate(cuda, act, &now.part[0].y, &now.part[1].y);
        }
    }
    return status;
}

pico_status cuda_linear_gated(void *self, const pico_linear_gated_args *args) {
    product p;
    pico_status status = begin_product(&p, self, &args->x, args->n_decode);
    if (status == PICO_OK) {
        status = add_part(&p, args->w1, NULL, &args->y);
    }
    if (status == PICO_OK) {
        status = add_part(&p, args->w3, NULL, &args->y);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (args->act < PICO_ACT_SILU || args->act > PICO_ACT_RELU_SQUARED) {
        return PICO_E_INVALID;
    }
    const int64_t rows = p.x.rows, decode = cuda_least(args->n_decode, rows);
    const int fused = !args->w1->extras && !args->w3->extras &&
                      same_kernel(p.cuda, &args->w1->device, &args->w3->device);
    if (decode == 0 || !fused) {
        cuda_flush(p.cuda);
    }
    if (decode != 0 && fused) {
        cuda_norm_job norm;
        const int normed = take_norm(&p, &norm);
        product now = p;
        now.gate = args->act;
        status =
            run_vector(&now, 0, 2, floats(&p.x), p.x.row_stride, 0, decode, normed ? &norm : NULL);
    } else if (decode != 0) {
        status = run_composed(&p, args->act, 0, decode, 0);
    }
    if (status == PICO_OK && decode < rows) {
        status = run_composed(&p, args->act, decode, rows - decode, 1);
    }
    return status;
}
