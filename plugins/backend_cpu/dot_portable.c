/*
 * Dot products for any CPU. 16 interleaved sums over k, then a fixed tree: one order for every
 * shape of strip. Takes F32 only; the other layouts are widened row by row before they come here.
 */
#define CPU_LANES 4
#include "cpu.h"
#include "vec.h"

INLINE vf sums_of(const vf sum[4]) {
    return vf_add(vf_add(sum[0], sum[2]), vf_add(sum[1], sum[3]));
}

INLINE void step(const float *w, const float *x, vf sum[4]) {
    UNROLL for (int j = 0; j < 4; j++) {
        sum[j] = vf_fma(vf_load(w + 4 * j), vf_load(x + 4 * j), sum[j]);
    }
}

/* R rows of weights by one row of x, which lies in steps of x_step floats */
INLINE void strip(int R, const cpu_dot *d, int64_t r, uint32_t m) {
    const float *w[2];
    vf sum[2][4];
    UNROLL for (int i = 0; i < R; i++) {
        w[i] = (const float *)(const void *)((const char *)d->w + (uint64_t)(r + i) * d->w_stride);
        UNROLL for (int j = 0; j < 4; j++) {
            sum[i][j] = vf_set(0);
        }
    }
    const int64_t whole = d->k & ~(int64_t)15, x_step = 16 * (int64_t)d->n_x;
    const float *x = d->x + 16 * m;
    for (int64_t k = 0; k < whole; k += 16, x += x_step) {
        UNROLL for (int i = 0; i < R; i++) {
            step(w[i] + k, x, sum[i]);
        }
    }
    if (whole < d->k) {
        const size_t rest = (size_t)(d->k - whole) * sizeof(float);
        float xt[16] = {0};
        memcpy(xt, x, rest);
        UNROLL for (int i = 0; i < R; i++) {
            float wt[16] = {0};
            memcpy(wt, w[i] + whole, rest);
            step(wt, xt, sum[i]);
        }
    }
    UNROLL for (int i = 0; i < R; i++) {
        float *y = d->y + m * d->y_stride + r + i;
        float value = vf_sum(sums_of(sum[i]));
        if (d->bias != NULL) {
            value += d->bias[r + i];
        }
        *y = d->accumulate ? *y + value : value;
    }
}

static void dot_f32(const cpu_dot *d) {
    assert(d->dtype == PICO_DTYPE_F32 && d->n_x <= 4);
    int64_t r = 0;
    for (; r + 2 <= d->n_w; r += 2) {
        for (uint32_t m = 0; m < d->n_x; m++) {
            strip(2, d, r, m);
        }
    }
    for (; r < d->n_w; r++) {
        for (uint32_t m = 0; m < d->n_x; m++) {
            strip(1, d, r, m);
        }
    }
}

const cpu_dot_kernels cpu_dot_portable = {
    .tile = 4,
    .direct = 1u << PICO_DTYPE_F32,
    .dot = dot_f32,
};
