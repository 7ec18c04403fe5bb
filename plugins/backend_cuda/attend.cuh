/* Which positions a row sees, and where their K and V lie. */
#ifndef PICO_BACKEND_CUDA_ATTEND_CUH
#define PICO_BACKEND_CUDA_ATTEND_CUH

#include <type_traits>

#include "jobs.h"
#include "pages.cuh"

#define CUDA_NOTHING (-CUDART_INF_F) /* score of a position that is not seen */

/* A row's place in its sequence: it sees [0, n_sink) and [first, stop). */
typedef struct cuda_row_view {
    int32_t first, stop, base;
    const int32_t *table; /* pages of the positions before base */
    const int32_t *cells; /* of positions base, base + 1, ...; NULL: none */
} cuda_row_view;

__device__ __forceinline__ cuda_row_view cuda_row_of(const cuda_attend_job &job, int64_t row) {
    cuda_row_view view;
    const int32_t pos = job.pos[row];
    view.base = job.base[row];
    view.first = job.window < 0 || pos < job.window ? 0 : pos - job.window;
    view.stop = view.base;
    view.cells = NULL;
    if (job.anc_begin != NULL && job.anc_begin[row + 1] > job.anc_begin[row]) {
        view.stop += job.anc_begin[row + 1] - job.anc_begin[row];
        view.cells = job.anc_cell + job.anc_begin[row];
    }
    view.table =
        reinterpret_cast<const int32_t *>(job.table.data) + job.slot[row] * job.table.row_stride;
    return view;
}

__device__ __forceinline__ bool cuda_sees(const cuda_attend_job &job, const cuda_row_view &row,
                                          int32_t position) {
    return position < row.stop && (position >= row.first || position < job.n_sink);
}

/* The cell of a position before stop; -1 where its page was dropped. */
__device__ __forceinline__ int32_t cuda_cell_of(const cuda_attend_job &job,
                                                const cuda_row_view &row, int32_t position) {
    if (position >= row.base) {
        return row.cells[position - row.base];
    }
    const int32_t page = position / 64 < job.table.cols ? row.table[position / 64] : -1;
    return page < 0 ? -1 : page * 64 + position % 64;
}

/* What launch gives for the data type of pages, as a constant. */
template <typename F> static inline cudaError_t cuda_of_pages(uint32_t dtype, const F &launch) {
    switch (dtype) {
    case PICO_DTYPE_F32:
        return launch(std::integral_constant<int, PICO_DTYPE_F32>());
    case PICO_DTYPE_F16:
        return launch(std::integral_constant<int, PICO_DTYPE_F16>());
    case PICO_DTYPE_BF16:
        return launch(std::integral_constant<int, PICO_DTYPE_BF16>());
    default:
        return launch(std::integral_constant<int, PICO_DTYPE_Q8_0>());
    }
}

#endif
