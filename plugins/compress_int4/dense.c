/*
 * The linear algebra of calibration: second moments, products, a Cholesky factor. Every element is
 * computed by one thread in one order, so results do not depend on how work is shared. Plain C that
 * compilers turn into vectors; no library behind it.
 */
#include <math.h>
#include <string.h>

#include "int4.h"

enum { TILE = 64 };

/* Tile number t of the upper triangle of a square of tiles, counted row by row. */
static void find_tile(uint64_t t, uint64_t n_tiles, size_t *row, size_t *col) {
    uint64_t first = 0, i = 0;
    while (t - first >= n_tiles - i) {
        first += n_tiles - i;
        i++;
    }
    *row = (size_t)i * TILE;
    *col = (size_t)(i + (t - first)) * TILE;
}

static size_t at_most(size_t a, size_t b) {
    return a < b ? a : b;
}

/* ---- moments ---- */

typedef struct moments {
    const float *x; /* (n, width) */
    float *sum;
    size_t n, width;
} moments;

/* Rows of activations that are summed in one go. */
enum { STRIP = 64 };

/* A strip of TILE columns, zero beyond the last one. */
static void load_strip(const moments *m, size_t row, size_t n, size_t col, float *out) {
    const size_t width = at_most(TILE, m->width - col);
    memset(out, 0, n * TILE * sizeof *out);
    for (size_t r = 0; r < n; r++) {
        memcpy(out + r * TILE, m->x + (row + r) * m->width + col, width * sizeof *out);
    }
}

/* sum (TILE, TILE) += a^T b, both (n, TILE) */
static void add_strip(const float *a, const float *b, size_t n, float *sum) {
    enum { UNIT = 4, LANES = 16 };
    for (size_t i = 0; i < TILE; i += UNIT) {
        for (size_t j = 0; j < TILE; j += LANES) {
            float part[UNIT][LANES] = {{0}};
            for (size_t r = 0; r < n; r++) {
                for (size_t u = 0; u < UNIT; u++) {
                    for (size_t l = 0; l < LANES; l++) {
                        part[u][l] += a[r * TILE + i + u] * b[r * TILE + j + l];
                    }
                }
            }
            for (size_t u = 0; u < UNIT; u++) {
                for (size_t l = 0; l < LANES; l++) {
                    sum[(i + u) * TILE + j + l] += part[u][l];
                }
            }
        }
    }
}

static void add_tiles(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const moments *m = arg;
    float a[STRIP * TILE], b[STRIP * TILE], sum[TILE * TILE];
    (void)thread;
    for (uint64_t t = begin; t < end; t++) {
        size_t row, col;
        find_tile(t, (m->width + TILE - 1) / TILE, &row, &col);
        memset(sum, 0, sizeof sum);
        for (size_t r = 0; r < m->n; r += STRIP) {
            const size_t n = at_most(STRIP, m->n - r);
            load_strip(m, r, n, row, a);
            load_strip(m, r, n, col, b);
            add_strip(a, b, n, sum);
        }
        for (size_t i = row; i < at_most(row + TILE, m->width); i++) {
            float *out = m->sum + i * m->width - i * (i + 1) / 2; /* row i; its first is column i */
            for (size_t j = i > col ? i : col; j < at_most(col + TILE, m->width); j++) {
                out[j] += sum[(i - row) * TILE + j - col];
            }
        }
    }
}

void int4_add_moments(const pico_host *host, const float *x, uint32_t n, uint32_t width,
                      float *moment) {
    moments m = {.x = x, .sum = moment, .n = n, .width = width};
    const uint64_t tiles = (width + TILE - 1) / TILE;
    host->parallel_for(host->ctx, tiles * (tiles + 1) / 2, 1, add_tiles, &m);
}

/* ---- products ---- */

enum { UNIT = 4, LANES = 8 };

static void multiply_unit(const double *a, size_t a_stride, const double *b, size_t b_stride,
                          double *c, size_t c_stride, size_t depth) {
    double part[UNIT][LANES] = {{0}};
    for (size_t k = 0; k < depth; k++) {
        for (size_t u = 0; u < UNIT; u++) {
            for (size_t l = 0; l < LANES; l++) {
                part[u][l] += a[u * a_stride + k] * b[k * b_stride + l];
            }
        }
    }
    for (size_t u = 0; u < UNIT; u++) {
        for (size_t l = 0; l < LANES; l++) {
            c[u * c_stride + l] += part[u][l];
        }
    }
}

void int4_multiply(const double *a, size_t a_stride, const double *b, size_t b_stride, double *c,
                   size_t c_stride, size_t m, size_t n, size_t depth) {
    const size_t m_whole = m - m % UNIT, n_whole = n - n % LANES;
    for (size_t i = 0; i < m_whole; i += UNIT) {
        for (size_t j = 0; j < n_whole; j += LANES) {
            multiply_unit(a + i * a_stride, a_stride, b + j, b_stride, c + i * c_stride + j,
                          c_stride, depth);
        }
    }
    for (size_t i = 0; i < m; i++) { /* what is left at the edges */
        for (size_t j = i < m_whole ? n_whole : 0; j < n; j++) {
            double sum = 0;
            for (size_t k = 0; k < depth; k++) {
                sum += a[i * a_stride + k] * b[k * b_stride + j];
            }
            c[i * c_stride + j] += sum;
        }
    }
}

/* ---- V V^T = h, from the last columns to the first ---- */

typedef struct factor {
    double *h;
    size_t n;
    size_t begin, end; /* columns of the block at hand */
} factor;

/* Rows of the block's columns, given the rows of its triangle, which are final from the last up. */
static void solve_row(const factor *f, size_t i) {
    double *row = f->h + i * f->n;
    for (size_t j = f->end; j-- > f->begin;) {
        const double *pivot = f->h + j * f->n;
        double sum = row[j];
        for (size_t k = j + 1; k < f->end; k++) {
            sum -= row[k] * pivot[k];
        }
        row[j] = sum / pivot[j];
    }
}

static void solve_rows(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const factor *f = arg;
    (void)thread;
    for (uint64_t i = begin; i < end; i++) {
        solve_row(f, (size_t)i);
    }
}

/* The triangle of the block itself. 0: a pivot is not positive. */
static int factor_triangle(const factor *f) {
    for (size_t j = f->end; j-- > f->begin;) {
        double *row = f->h + j * f->n, pivot = row[j];
        for (size_t k = j + 1; k < f->end; k++) {
            pivot -= row[k] * row[k];
        }
        if (!(pivot > 0) || !isfinite(pivot)) {
            return 0;
        }
        row[j] = sqrt(pivot);
        for (size_t i = f->begin; i < j; i++) {
            double *above = f->h + i * f->n, sum = above[j];
            for (size_t k = j + 1; k < f->end; k++) {
                sum -= above[k] * row[k];
            }
            above[j] = sum / row[j];
        }
    }
    return 1;
}

/* h[i, j] -= (row i of the block) . (row j of the block) for all rows before the block */
static void subtract_tiles(void *arg, uint64_t begin, uint64_t end, uint32_t thread) {
    const factor *f = arg;
    const size_t depth = f->end - f->begin;
    double turned[TILE * TILE]; /* (depth, TILE) minus the rows j, transposed */
    (void)thread;
    for (uint64_t t = begin; t < end; t++) {
        size_t row, col;
        find_tile(t, (f->begin + TILE - 1) / TILE, &row, &col);
        const size_t m = at_most(TILE, f->begin - row), n = at_most(TILE, f->begin - col);
        for (size_t j = 0; j < n; j++) {
            for (size_t k = 0; k < depth; k++) {
                turned[k * TILE + j] = -f->h[(col + j) * f->n + f->begin + k];
            }
        }
        int4_multiply(f->h + row * f->n + f->begin, f->n, turned, TILE, f->h + row * f->n + col,
                      f->n, m, n, depth);
    }
}

pico_status int4_factor(const pico_host *host, double *h, size_t n) {
    factor f = {.h = h, .n = n, .end = n};
    for (; f.end > 0; f.end = f.begin) {
        f.begin = (f.end - 1) / TILE * TILE;
        if (!factor_triangle(&f)) {
            return PICO_E_INVALID;
        }
        const uint64_t tiles = f.begin / TILE;
        host->parallel_for(host->ctx, f.begin, TILE, solve_rows, &f);
        host->parallel_for(host->ctx, tiles * (tiles + 1) / 2, 1, subtract_tiles, &f);
    }
    return PICO_OK;
}
