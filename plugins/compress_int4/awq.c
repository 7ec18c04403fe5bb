/*
 * Activation-aware scales (Lin et al., AWQ): inputs that carry much get a finer grid, because their
 * weights are multiplied by s before rounding and the input is divided by it. s = mean |x| ^ alpha;
 * the alpha with the smallest error of the product over the calibration text wins, among them 0,
 * which changes nothing. The error of a row with weight errors e is e H e^T, H the moments.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "int4.h"

enum { PROBE_ROWS = 256, STRIP = 64 }; /* rows of a matrix that the search looks at */

typedef struct search {
    const int4_job *job;
    int64_t n_probe;
    double *loss; /* (n_probe) */
} search;

static int64_t probe_row(const search *s, int64_t i) {
    return i * s->job->rows / s->n_probe;
}

/* loss[r] = e[r] h e[r]^T for m rows of errors (m, cols) */
static void add_up(const int4_job *job, const double *e, size_t m, double *loss) {
    const size_t cols = (size_t)job->cols;
    memset(loss, 0, m * sizeof *loss);
    for (size_t c = 0; c < cols; c += STRIP) {
        const size_t n = cols - c < STRIP ? cols - c : STRIP;
        double before[JOB_ROWS * STRIP] = {0}, within[JOB_ROWS * STRIP] = {0};
        int4_multiply(e, cols, job->h + c, cols, before, STRIP, m, n, c);
        int4_multiply(e + c, cols, job->h + c * cols + c, cols, within, STRIP, m, n, n);
        for (size_t r = 0; r < m; r++) {
            for (size_t j = 0; j < n; j++) {
                const size_t at = r * STRIP + j;
                loss[r] += e[r * cols + c + j] * (2 * before[at] + within[at]);
            }
        }
    }
}

static void probe(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const search *s = arg;
    const int4_job *job = s->job;
    double *e = job->work + (int64_t)thread * JOB_ROWS * job->cols;
    uint8_t codes[GROUP_MAX];
    float scale;
    for (uint64_t first = begin; first < end; first += JOB_ROWS) {
        const size_t m = end - first < JOB_ROWS ? (size_t)(end - first) : JOB_ROWS;
        for (size_t r = 0; r < m; r++) {
            const float *w = job->w + probe_row(s, (int64_t)(first + r)) * job->cols;
            for (int64_t col = 0; col < job->cols; col += job->group) {
                const int64_t left = job->cols - col;
                int4_round_columns(job, w, col, left < job->group ? (uint32_t)left : job->group,
                                   codes, &scale, e + (int64_t)r * job->cols + col);
            }
        }
        add_up(job, e, m, s->loss + first);
    }
}

/* input_scale = absolute ^ alpha, centred around 1. */
static void set_scale(const int4_job *job, double alpha) {
    double mean = 0, least = INFINITY, most = 0;
    for (int64_t i = 0; i < job->cols; i++) {
        mean += job->absolute[i] / (double)job->cols;
    }
    for (int64_t i = 0; i < job->cols; i++) {
        const double relative = mean > 0 ? job->absolute[i] / mean : 1;
        const double s = pow(relative > 1e-4 ? relative : 1e-4, alpha);
        least = s < least ? s : least;
        most = s > most ? s : most;
        job->input_scale[i] = (float)s;
    }
    for (int64_t i = 0; i < job->cols; i++) {
        job->input_scale[i] /= (float)sqrt(least * most);
    }
}

pico_status int4_search_input_scale(const int4_job *job, pico_error *err) {
    search s = {.job = job, .n_probe = job->rows < PROBE_ROWS ? job->rows : PROBE_ROWS};
    double best = 0, least = 0;
    s.loss = malloc((size_t)s.n_probe * sizeof *s.loss);
    if (s.loss == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    for (uint32_t k = 0; k <= job->n_grid; k++) {
        const double alpha = (double)k / job->n_grid;
        double loss = 0;
        set_scale(job, alpha);
        job->host->parallel_for(job->host->ctx, (uint64_t)s.n_probe, JOB_ROWS, probe, &s);
        for (int64_t i = 0; i < s.n_probe; i++) {
            loss += s.loss[i];
        }
        if (k == 0 || loss < least) {
            least = loss;
            best = alpha;
        }
    }
    set_scale(job, best);
    free(s.loss);
    return PICO_OK;
}
