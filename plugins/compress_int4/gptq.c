/*
 * Rounding with error feedback (Frantar et al., GPTQ): columns are rounded one after the other, and
 * the columns that follow make up for the error of the product that has arisen so far.
 *
 * With the moments H = V V^T, V upper triangular, a row with weight errors e costs |e V|^2, and
 * component j of e V depends on the errors of columns 0..j only. So column j is rounded at
 *     t_j = w_j - (sum over i < j of e_i V_ij) / V_jj
 * with e = value - w. These are the numbers that the published form gets from the Cholesky factor of
 * the inverse of H (there the rest of the row is updated after each column), without an inverse.
 * Rows do not depend on each other: a thread takes a few of them from the first column to the last.
 */
#include <stdlib.h>
#include <string.h>

#include "int4.h"

/* ---- order of columns ---- */

typedef struct ranked {
    double moment;
    int32_t col;
} ranked;

static int compare_ranked(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->moment != y->moment) {
        return x->moment < y->moment ? 1 : -1;
    }
    return x->col < y->col ? -1 : 1;
}

pico_status int4_order_columns(const int4_job *job, int32_t *order, pico_error *err) {
    ranked *rank = malloc((size_t)job->cols * sizeof *rank);
    if (rank == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    for (int64_t i = 0; i < job->cols; i++) {
        const double s = (double)job->input_scale[i];
        rank[i] = (ranked){.moment = job->h[i * job->cols + i] / (s * s), .col = (int32_t)i};
    }
    qsort(rank, (size_t)job->cols, sizeof *rank, compare_ranked);
    for (int64_t i = 0; i < job->cols; i++) {
        order[i] = rank[i].col;
    }
    free(rank);
    return PICO_OK;
}

/* ---- one group ---- */

/* Rounds n columns from col on to this scale. x: the row's weights; behind: (n) what the columns
 * before the group have left behind, sum of e_i V_ij; e: their errors. codes NULL: rounds nothing,
 * so that x + e are the weights that make up for what is behind. Returns the cost of the columns. */
static double try_scale(const int4_job *job, const double *x, const double *behind, int64_t col,
                        uint32_t n, float scale, uint8_t *codes, double *e) {
    const double inverse = scale != 0 ? 1 / (double)scale : 0;
    double carried[GROUP_MAX], cost = 0;
    memcpy(carried, behind, n * sizeof *carried);
    for (uint32_t j = 0; j < n; j++) {
        const double *v = job->h + (col + j) * job->cols + col;
        const double target = x[j] - carried[j] / v[j];
        double value = target;
        if (codes != NULL) {
            codes[j] = int4_nearest(job->format, target, inverse);
            value = int4_value(job->format, codes[j], (double)scale);
        }
        const double part = (value - target) * v[j];
        e[j] = value - x[j];
        cost += part * part;
        for (uint32_t k = j + 1; k < n; k++) {
            carried[k] += e[j] * v[k];
        }
    }
    return cost;
}

/* e: in, the row's weights from col on; out, their errors. */
static void round_columns(const int4_job *job, const double *behind, int64_t col, uint32_t n,
                          uint8_t *codes, float *scale, double *e) {
    double x[GROUP_MAX], target[GROUP_MAX], error[GROUP_MAX], least = 0;
    float candidate[CANDIDATES_MAX];
    uint8_t trial[GROUP_MAX];
    for (uint32_t j = 0; j < n; j++) {
        x[j] = e[j];
    }
    (void)try_scale(job, x, behind, col, n, 0, NULL, error);
    for (uint32_t j = 0; j < n; j++) {
        target[j] = x[j] + error[j];
    }
    uint32_t n_candidates = int4_scale_candidates(job->format, target, n, candidate);
    n_candidates = job->search ? n_candidates : 1;
    for (uint32_t k = 0; k < n_candidates; k++) {
        const double cost = try_scale(job, x, behind, col, n, candidate[k], trial, error);
        if (k == 0 || cost < least) {
            least = cost;
            *scale = candidate[k];
            memcpy(codes, trial, n);
            memcpy(e, error, n * sizeof *e);
        }
    }
}

/* ---- rows ---- */

static void load_row(const int4_job *job, uint64_t row, double *out) {
    const float *w = job->w + (int64_t)row * job->cols;
    for (int64_t j = 0; j < job->cols; j++) {
        const int64_t input = job->perm == NULL ? j : job->perm[j];
        out[j] = (double)w[input] * (double)job->input_scale[input];
    }
}

static void round_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const int4_job *job = arg;
    const int64_t cols = job->cols, first_of_thread = (int64_t)thread * JOB_ROWS;
    double *e = job->work + first_of_thread * cols; /* (JOB_ROWS, cols) weights, then errors */
    uint8_t *codes = job->row_codes + first_of_thread * cols;
    float *scales = job->group_scales + first_of_thread * job->n_groups;
    for (uint64_t first = begin; first < end; first += JOB_ROWS) {
        const int64_t m = end - first < JOB_ROWS ? (int64_t)(end - first) : JOB_ROWS;
        for (int64_t r = 0; r < m; r++) {
            load_row(job, first + (uint64_t)r, e + r * cols);
        }
        for (int64_t g = 0; g < job->n_groups; g++) {
            const int64_t col = g * job->group, left = cols - col;
            const uint32_t n = left < job->group ? (uint32_t)left : job->group;
            double behind[JOB_ROWS * GROUP_MAX] = {0};
            int4_multiply(e, (size_t)cols, job->h + col, (size_t)cols, behind, GROUP_MAX, (size_t)m,
                          n, (size_t)col);
            for (int64_t r = 0; r < m; r++) {
                round_columns(job, behind + r * GROUP_MAX, col, n, codes + r * cols + col,
                              scales + r * job->n_groups + g, e + r * cols + col);
            }
        }
        for (int64_t r = 0; r < m; r++) {
            const uint64_t row = first + (uint64_t)r;
            int4_pack_row(job->format, codes + r * cols, scales + r * job->n_groups, cols,
                          job->codes + row * job->row_bytes,
                          job->scales == NULL ? NULL : job->scales + (int64_t)row * job->n_groups);
        }
    }
}

void int4_round_with_feedback(const int4_job *job) {
    job->host->parallel_for(job->host->ctx, (uint64_t)job->rows, JOB_ROWS, round_rows,
                            (void *)(uintptr_t)job);
}
