/*
 * Launch shapes and index arithmetic of backend_cuda, and the packing of weights: pure functions, each
 * against what it is for, at the edges and far beyond 32 bits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"
#include "shapes.h"

/* Quotients are rounded up without overflow, and grids are never empty. */
static void quotients_round_up(void **state) {
    (void)state;
    assert_int_equal(cuda_ceil(0, 8), 0);
    assert_int_equal(cuda_ceil(1, 8), 1);
    assert_int_equal(cuda_ceil(8, 8), 1);
    assert_int_equal(cuda_ceil(9, 8), 2);
    assert_true(cuda_ceil(INT64_MAX, 2) == INT64_MAX / 2 + 1);
    assert_int_equal(cuda_pad(33, 16), 48);
    assert_int_equal(cuda_blocks(0, 256, 100), 1);
    assert_int_equal(cuda_blocks(257, 256, 100), 2);
    assert_int_equal(cuda_blocks((int64_t)1 << 40, 256, 1 << 16), 1 << 16);
}

/* A chunk of x is a permutation, in which the four columns that a lane reads at once are neighbours
 * and the lanes of a warp read 512 bytes in a row. */
static void chunks_are_permuted_for_lanes(void **state) {
    (void)state;
    static const uint32_t bits[] = {32, 16, 8, 4};
    for (int b = 0; b < 4; b++) {
        const int32_t lane = cuda_lane_columns(bits[b]);
        assert_int_equal(lane * (int32_t)bits[b], 128);
        for (int32_t n_x = 1; n_x <= CUDA_VECTOR_ROWS; n_x *= 2) {
            const int32_t n = cuda_chunk_columns(n_x), step = CUDA_WARP * lane;
            assert_int_equal(n % step, 0);
            assert_true(n * n_x <= CUDA_VECTOR_FLOATS);
            uint8_t *seen = calloc((size_t)n, 1);
            for (int32_t c = 0; c < n; c++) {
                const int32_t place = cuda_chunk_place(c, lane);
                assert_true(place >= 0 && place < n && !seen[place]);
                seen[place] = 1;
                const int32_t own = c % step / lane, i = c % lane;
                assert_int_equal(place, c / step * step + i / 4 * 128 + own * 4 + i % 4);
            }
            free(seen);
        }
    }
}

/* Rows of a block never exceed what is there by more than the next power of two. */
static void rows_fit_blocks(void **state) {
    (void)state;
    static const int32_t want[] = {1, 1, 2, 4, 4, 8, 8, 8, 8, 8, 8};
    for (int64_t rows = 1; rows <= 10; rows++) {
        assert_int_equal(cuda_vector_rows(rows), want[rows]);
    }
    for (int32_t n_x = 1; n_x <= CUDA_VECTOR_ROWS; n_x *= 2) {
        for (int gated = 0; gated < 2; gated++) { /* a warp's sums fit its lanes */
            assert_true(cuda_vector_per_warp(n_x, gated) * n_x <= CUDA_WARP);
            assert_int_equal(cuda_vector_outputs(n_x, gated),
                             CUDA_VECTOR_WARPS * (gated ? 1 : cuda_vector_per_warp(n_x, gated)));
        }
    }
}

/* Splits cover all positions of the pages, and one of them is there for an empty timeline. */
static void splits_cover_pages(void **state) {
    (void)state;
    assert_int_equal(cuda_splits(0), 1);
    for (int64_t pages = 1; pages < 3000; pages++) {
        assert_true(cuda_splits(pages) * CUDA_SPLIT >= pages * 64);
        assert_true((cuda_splits(pages) - 1) * CUDA_SPLIT < pages * 64);
    }
}

/* Passes over candidates end, for every k that is allowed, with one slice that holds the best k. */
static void selection_ends(void **state) {
    (void)state;
    static const int64_t vocabs[] = {1, 63, 2048, 2049, 50304, 151936, 262144, 1 << 24};
    for (size_t v = 0; v < sizeof vocabs / sizeof *vocabs; v++) {
        for (int64_t k = 1; k <= CUDA_TOP_K_MOST && k <= vocabs[v]; k = k * 5 / 4 + 1) {
            const int64_t slice = cuda_select_slice(k);
            int64_t n = vocabs[v];
            int passes = 1;
            assert_true(k <= slice);
            for (; n > slice; passes++) {
                const int64_t left = cuda_select_left(n, k);
                assert_true(left < n && left >= k);
                n = left;
            }
            assert_true(passes < 64 && n >= k);
        }
    }
    assert_int_equal(cuda_select_width(1), 64);
    assert_int_equal(cuda_select_width(65), 128);
    assert_int_equal(cuda_select_width(CUDA_SELECT_LARGE), CUDA_SELECT_LARGE);
}

/* Rows of weights come back as they were, whatever lies behind their last column. */
static void rows_are_packed_without_loss(void **state) {
    (void)state;
    static const uint32_t dtypes[] = {PICO_DTYPE_F32, PICO_DTYPE_F16,  PICO_DTYPE_BF16,
                                      PICO_DTYPE_I8,  PICO_DTYPE_Q8_0, PICO_DTYPE_Q4_0,
                                      PICO_DTYPE_NF4};
    uint32_t random = 1;
    for (size_t t = 0; t < sizeof dtypes / sizeof *dtypes; t++) {
        for (int64_t cols = 1; cols <= 160; cols++) {
            uint8_t from[1024], codes[1024], back[1024];
            uint16_t scales[16];
            const uint64_t bytes = cuda_file_row_bytes(dtypes[t], cols);
            if (bytes == 0) {
                assert_true(cols % 32 != 0);
                continue;
            }
            for (uint64_t i = 0; i < bytes; i++) {
                random = random * 1664525u + 1013904223u;
                from[i] = (uint8_t)(random >> 24);
            }
            const int64_t row = cuda_device_row_bytes(dtypes[t], cols);
            assert_int_equal(row % 16, 0);
            assert_true(row <= (int64_t)sizeof codes);
            cuda_pack_row(dtypes[t], cols, from, codes, scales);
            cuda_unpack_row(dtypes[t], cols, codes, scales, back);
            assert_memory_equal(from, back, bytes);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quotients_round_up), cmocka_unit_test(chunks_are_permuted_for_lanes),
        cmocka_unit_test(rows_fit_blocks),    cmocka_unit_test(splits_cover_pages),
        cmocka_unit_test(selection_ends),     cmocka_unit_test(rows_are_packed_without_loss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
