/*
 * Rounding to nearest, one group of columns at a time, with the scale of the group from its largest
 * value or searched. It knows of the input at most what happens within a group.
 */
#include "int4.h"

/* Rounds x = w * s to this scale; e: errors of the effective weight. Returns their loss. */
static double try_scale(const int4_job *job, const double *x, int64_t col, uint32_t n, float scale,
                        uint8_t *codes, double *e) {
    const double inverse = scale != 0 ? 1 / (double)scale : 0;
    double loss = 0;
    for (uint32_t i = 0; i < n; i++) {
        codes[i] = int4_nearest(job->format, x[i], inverse);
        e[i] = (int4_value(job->format, codes[i], (double)scale) - x[i]) /
               (double)job->input_scale[col + i];
    }
    for (uint32_t i = 0; i < n; i++) {
        const double *h = job->h == NULL ? NULL : job->h + (col + i) * job->cols + col;
        double sum = 0;
        for (uint32_t j = i + 1; h != NULL && j < n; j++) {
            sum += h[j] * e[j];
        }
        loss += e[i] * (2 * sum + (h == NULL ? 1 : h[i]) * e[i]);
    }
    return loss;
}

void int4_round_columns(const int4_job *job, const float *w, int64_t col, uint32_t n,
                        uint8_t *codes, float *scale, double *e) {
    double x[GROUP_MAX], error[GROUP_MAX], least = 0;
    float candidate[CANDIDATES_MAX];
    uint8_t trial[GROUP_MAX];
    for (uint32_t i = 0; i < n; i++) {
        x[i] = (double)w[col + i] * (double)job->input_scale[col + i];
    }
    uint32_t n_candidates = int4_scale_candidates(job->format, x, n, candidate);
    n_candidates = job->search ? n_candidates : 1;
    for (uint32_t k = 0; k < n_candidates; k++) {
        const double loss = try_scale(job, x, col, n, candidate[k], trial, error);
        if (k == 0 || loss < least) {
            least = loss;
            *scale = candidate[k];
            for (uint32_t i = 0; i < n; i++) {
                codes[i] = trial[i];
                if (e != NULL) {
                    e[i] = error[i];
                }
            }
        }
    }
}

static void round_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const int4_job *job = arg;
    uint8_t *codes = job->row_codes + (int64_t)thread * JOB_ROWS * job->cols;
    float *scales = job->group_scales + (int64_t)thread * JOB_ROWS * job->n_groups;
    const int plain = job->h == NULL && !job->search;
    for (uint64_t row = begin; row < end; row++) {
        const float *w = job->w + (int64_t)row * job->cols;
        for (int64_t g = 0; g < job->n_groups; g++) {
            const int64_t col = g * job->group, left = job->cols - col;
            const uint32_t n = left < job->group ? (uint32_t)left : job->group;
            if (plain) {
                int4_round_group(job->format, w + col, n, codes + col, scales + g);
            } else {
                int4_round_columns(job, w, col, n, codes + col, scales + g, NULL);
            }
        }
        int4_pack_row(job->format, codes, scales, job->cols, job->codes + row * job->row_bytes,
                      job->scales == NULL ? NULL : job->scales + (int64_t)row * job->n_groups);
    }
}

void int4_round(const int4_job *job) {
    job->host->parallel_for(job->host->ctx, (uint64_t)job->rows, JOB_ROWS, round_rows,
                            (void *)(uintptr_t)job);
}
