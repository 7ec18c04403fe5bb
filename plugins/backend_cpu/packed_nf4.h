/*
 * 4-bit codes into a codebook, for packed_impl.h with AVX-512: weights come out of a table in a
 * register and meet x as it is. Columns are summed in two interleaved sums (even and odd nibbles)
 * for each group, groups one after the other.
 */

INLINE void nf4_product(int S, int M, const cpu_strips *job, int64_t panel, int first_row,
                        uint32_t ask) {
    const cpu_packed *w = job->w;
    const int64_t x_stride = w->n_block * w->block_k;
    const __m512 book = _mm512_loadu_ps(w->codebook);
    const uint8_t *base =
        w->panels + (uint64_t)(job->first * CPU_STRIP_PANELS + panel) * w->panel_bytes;
    const int n = (int)(w->block_k / 8);
    const int64_t end = (int64_t)w->panel_bytes - PREFETCH_AHEAD;
    const int64_t next = (S - 1) * (int64_t)w->panel_bytes;
    fv sum[8][CPU_STRIP_PANELS];
    UNROLL for (int m = 0; m < M; m++) {
        UNROLL for (int s = 0; s < S; s++) {
            sum[m][s] = f_set(0);
        }
    }
    int64_t at = 0;
    for (int64_t b = 0; b < w->n_block; b++, at += w->block_bytes) {
        const int64_t ahead = ask ? PREFETCH_AHEAD + (at >= end ? next : 0) : 0;
        const float *x = job->x + first_row * x_stride + b * w->block_k;
        fv part[8][CPU_STRIP_PANELS][2];
        UNROLL for (int m = 0; m < M; m++) {
            UNROLL for (int s = 0; s < S; s++) {
                part[m][s][0] = part[m][s][1] = f_set(0);
            }
        }
        for (int i = 0; i < n; i++, x += 8) {
            UNROLL for (int s = 0; s < S; s++) {
                const uint8_t *from = base + s * (int64_t)w->panel_bytes + at + 64 * i;
                prefetch(from + ahead);
                __m512i codes = q_load(from);
                UNROLL for (int j = 0; j < 8; j++) { /* the permutation reads four bits */
                    const __m512 value = _mm512_permutexvar_ps(codes, book);
                    codes = _mm512_srli_epi32(codes, 4);
                    UNROLL for (int m = 0; m < M; m++) {
                        const float *at_x = x + m * x_stride + j / 2 + 4 * (j % 2);
                        part[m][s][j % 2] = f_fma(value, f_set(*at_x), part[m][s][j % 2]);
                    }
                }
            }
        }
        UNROLL for (int s = 0; s < S; s++) {
            const uint8_t *scales = base + s * (int64_t)w->panel_bytes + at + 64 * (int64_t)n;
            const fv scale = f_load((const float *)(const void *)scales);
            prefetch(scales + ahead);
            UNROLL for (int m = 0; m < M; m++) {
                sum[m][s] = f_fma(f_add(part[m][s][0], part[m][s][1]), scale, sum[m][s]);
            }
        }
    }
    const cpu_strips rows = {.w = w,
                             .first = job->first,
                             .accumulate = job->accumulate,
                             .bias = job->bias,
                             .y = job->y + first_row * job->y_stride,
                             .y_stride = job->y_stride};
    store(S, M, &rows, panel, sum);
}

INLINE void nf4_strip(int S, int M, const cpu_strips *job, int64_t strip, int row, uint32_t ask) {
    for (int64_t s = 0; s < CPU_STRIP_PANELS; s += S) {
        nf4_product(S, M, job, strip * CPU_STRIP_PANELS + s, row, ask);
    }
}

static void strips_nf4(const cpu_strips *job, int64_t strip, int row, int n, uint32_t ask) {
    while (n > 0) {
        if (n >= 4) {
            nf4_strip(1, 4, job, strip, row, ask);
            row += 4, n -= 4;
        } else if (n >= 2) {
            nf4_strip(2, 2, job, strip, row, ask);
            row += 2, n -= 2;
        } else {
            nf4_strip(4, 1, job, strip, row, ask);
            row++, n--;
        }
        ask = 0;
    }
}
