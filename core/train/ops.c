/* The backend's ops as training calls them; see internal.h. */
#include "train/internal.h"

pico_tensor train_part(const pico_tensor *area, int64_t rows, int64_t cols) {
    return pico_view(area->buffer, area->offset, PICO_DTYPE_F32, rows, cols);
}

pico_tensor train_factor(const pico_train *t, const pico_tensor *area, int64_t rows, int64_t cols) {
    const int narrow = t->narrow && cols % 8 == 0;
    return pico_view(area->buffer, area->offset, narrow ? PICO_DTYPE_BF16 : PICO_DTYPE_F32, rows,
                     cols);
}

pico_tensor train_unpadded(const pico_train *t, const pico_tensor *matrix, int64_t rows) {
    (void)t;
    return rows < matrix->shape[0] ? pico_view_rows(matrix, 0, rows) : *matrix;
}

pico_tensor train_element(const pico_tensor *vector, int64_t index) {
    return pico_view_vector(vector->buffer, vector->offset + (uint64_t)index * sizeof(float),
                            PICO_DTYPE_F32, 1);
}

pico_status train_axpby(pico_train *t, float a, const pico_tensor *a_scalar, const pico_tensor *x,
                        float b, const pico_tensor *b_scalar, const pico_tensor *y) {
    pico_axpby_args args = {.a = a, .b = b, .x = *x, .y = *y};
    if (a_scalar != NULL) {
        args.a_scalar = *a_scalar;
    }
    if (b_scalar != NULL) {
        args.b_scalar = *b_scalar;
    }
    return t->ops->axpby(t->self, &args);
}

pico_status train_copy(pico_train *t, const pico_tensor *from, const pico_tensor *to) {
    if (from->buffer == to->buffer && from->offset == to->offset) {
        return PICO_OK;
    }
    return train_axpby(t, 1, NULL, from, 0, NULL, to);
}

pico_status train_fill(pico_train *t, const pico_tensor *x, float value) {
    const pico_scale_args args = {.value = value, .x = *x};
    return t->ext.scale(t->self, &args);
}

/* A vector parameter as ops take it: (n), or no buffer. */
static pico_tensor vector_of(const train_param *p, int gradient) {
    if (p == NULL || (gradient && !p->trained)) {
        return (pico_tensor){0};
    }
    const pico_tensor *from = gradient ? &p->grad : &p->value;
    return pico_view_vector(from->buffer, from->offset, PICO_DTYPE_F32, p->rows * p->cols);
}

pico_status train_norm(pico_train *t, const pico_tensor *x, const train_param *weight,
                       const train_param *bias, const pico_tensor *y) {
    const pico_norm_args args = {.kind = t->desc->norm,
                                 .eps = t->desc->norm_eps,
                                 .scale = 1,
                                 .x = *x,
                                 .weight = vector_of(weight, 0),
                                 .bias = vector_of(bias, 0),
                                 .y = *y};
    return t->ops->norm(t->self, &args);
}

pico_status train_norm_backward(pico_train *t, const pico_tensor *x, const train_param *weight,
                                const train_param *bias, const pico_tensor *dy,
                                const pico_tensor *dx, uint32_t accumulate) {
    const pico_norm_backward_args args = {.kind = t->desc->norm,
                                          .eps = t->desc->norm_eps,
                                          .scale = 1,
                                          .accumulate = accumulate,
                                          .x = *x,
                                          .dy = *dy,
                                          .weight = vector_of(weight, 0),
                                          .dx = *dx,
                                          .dweight = vector_of(weight, 1),
                                          .dbias = vector_of(bias, 1)};
    return t->ext.norm_backward(t->self, &args);
}

pico_status train_linear(pico_train *t, const train_param *weight, const train_param *bias,
                         const pico_tensor *x, float beta, const pico_tensor *y) {
    const pico_gemm_args args = {.compute = t->compute,
                                 .transpose_b = 1,
                                 .alpha = 1,
                                 .beta = beta,
                                 .a = *x,
                                 .b = train_unpadded(t, &weight->value, y->shape[1]),
                                 .bias = vector_of(bias, 0),
                                 .c = *y};
    return t->ext.gemm(t->self, &args);
}

pico_status train_linear_backward(pico_train *t, const train_param *weight, const train_param *bias,
                                  const pico_tensor *x, const pico_tensor *dy, float beta,
                                  const pico_tensor *dx) {
    if (dx != NULL) {
        const pico_gemm_args args = {.compute = t->compute,
                                     .alpha = 1,
                                     .beta = beta,
                                     .a = *dy,
                                     .b = train_unpadded(t, &weight->value, dy->shape[1]),
                                     .c = *dx};
        TRAIN_TRY(t->ext.gemm(t->self, &args));
    }
    if (weight->trained) {
        const pico_gemm_args args = {.compute = t->compute,
                                     .transpose_a = 1,
                                     .alpha = 1,
                                     .beta = 1,
                                     .a = *dy,
                                     .b = *x,
                                     .c = train_unpadded(t, &weight->grad, dy->shape[1])};
        TRAIN_TRY(t->ext.gemm(t->self, &args));
    }
    if (bias != NULL && bias->trained) {
        const pico_reduce_args args = {.kind = PICO_REDUCE_COLUMN_SUM,
                                       .accumulate = 1,
                                       .factor = 1,
                                       .x = *dy,
                                       .out = vector_of(bias, 1)};
        TRAIN_TRY(t->ext.reduce(t->self, &args));
    }
    return PICO_OK;
}

pico_status train_gather(pico_train *t, const train_param *table, const pico_tensor *index,
                         const pico_tensor *rows, uint32_t accumulate) {
    const pico_gather_args args = {
        .table = table->value, .index = *index, .rows = *rows, .accumulate = accumulate};
    return t->ext.gather(t->self, &args);
}

pico_status train_scatter(pico_train *t, const train_param *table, const pico_tensor *index,
                          const pico_tensor *rows) {
    const pico_gather_args args = {.table = table->grad, .index = *index, .rows = *rows};
    return table->trained ? t->ext.scatter(t->self, &args) : PICO_OK;
}

pico_status train_add_dot(pico_train *t, float factor, const pico_tensor *x, const pico_tensor *y,
                          const pico_tensor *out) {
    const pico_reduce_args args = {
        .kind = PICO_REDUCE_DOT, .accumulate = 1, .factor = factor, .x = *x, .y = *y, .out = *out};
    return t->ext.reduce(t->self, &args);
}
