/*
 * What the tests of the ops of pico.train/1 share: the extension of the CPU backend, arrays in float
 * and double that hold the same numbers, comparison of a gradient with central differences.
 */
#ifndef PICO_TESTS_TRAIN_OP_KIT_H
#define PICO_TESTS_TRAIN_OP_KIT_H

#include "backend_cpu_fixture.h"
#include "ref_train.h"

/* A tensor on the device, and its values. */
typedef struct train_array {
    pico_tensor tensor;
    double *value; /* (rows * cols) exactly what the tensor holds */
    int64_t n;
} train_array;

static inline const pico_train_ops *train_ops(fix *f) {
    const pico_train_ops *ops = f->ops->extension(f->self, PICO_TRAIN_EXTENSION);
    const pico_train_reserve need = {
        .max_rows = 1024, .max_dim = 4200, .max_length = 256, .max_head = 8, .max_head_dim = 128};
    pico_error err = {0};
    assert_non_null(ops);
    if (ops->reserve(f->self, &need, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    return ops;
}

static inline train_array train_values(fix *f, const float *x, int64_t rows, int64_t cols) {
    train_array a = {.n = rows * cols, .value = malloc((size_t)(rows * cols + 1) * sizeof(double))};
    for (int64_t i = 0; i < a.n; i++) {
        a.value[i] = (double)x[i];
    }
    const int64_t gap = cols % 16 == 0 ? 0 : cols % 8 == 0 ? 4 : 3; /* some aligned, some one run */
    a.tensor = fix_tensor(f, PICO_DTYPE_F32, x, rows, cols, cols + gap);
    return a;
}

/* Random, uniform in [-size, size); rows are strided unless they are a multiple of 16 wide. */
static inline train_array train_random(fix *f, int64_t rows, int64_t cols, float size) {
    float *x = fix_floats(f, rows * cols, size);
    train_array a = train_values(f, x, rows, cols);
    free(x);
    return a;
}

static inline train_array train_vector(fix *f, int64_t n, float size) {
    float *x = fix_floats(f, n, size);
    train_array a = train_values(f, x, 1, n);
    a.tensor = fix_vector(f, PICO_DTYPE_F32, x, n);
    free(x);
    return a;
}

static inline void train_free(train_array *a, size_t n) {
    for (size_t i = 0; i < n; i++) {
        free(a[i].value);
    }
}

static inline double train_largest(const float *x, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        most = fabs((double)x[i]) > most ? fabs((double)x[i]) : most;
    }
    return most;
}

/* Compares got, the gradient of fn with respect to x (n), at up to 40 places; before (may be NULL) was
 * in the tensor to which it was added. */
static inline void train_check_gradient(fix *f, const char *what, ref_scalar_fn fn, void *arg,
                                        double *x, int64_t n, const double *before,
                                        const float *got) {
    const double limit = 2e-5 * train_largest(got, n) + 1e-6;
    for (int64_t place = 0; place < (n < 40 ? n : 40); place++) {
        const int64_t i = n <= 40 ? place : (int64_t)(fix_bits(f) % (uint32_t)n);
        const double want = ref_derivative(fn, arg, &x[i]) + (before == NULL ? 0 : before[i]);
        if (!(fabs(want - (double)got[i]) <= limit)) {
            fail_msg("%s: element %lld of %lld is %.9g, expected %.9g within %.2g", what,
                     (long long)i, (long long)n, (double)got[i], want, limit);
        }
    }
}

/* Every element within a share of the largest. */
static inline void train_check_values(const char *what, const float *got, const double *want,
                                      int64_t n, double share) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        most = fabs(want[i]) > most ? fabs(want[i]) : most;
    }
    for (int64_t i = 0; i < n; i++) {
        if (!(fabs(want[i] - (double)got[i]) <= share * most)) {
            fail_msg("%s: element %lld of %lld is %.9g, expected %.9g", what, (long long)i,
                     (long long)n, (double)got[i], want[i]);
        }
    }
}

#endif
