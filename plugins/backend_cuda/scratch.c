/*
 * Scratch memory on the device: one allocation, cut into parts by what was reserved. Nothing else is
 * allocated behind the first op. Refuses heads and numbers of candidates beyond what the kernels do.
 */
#include "cuda.h"
#include "shapes.h"

#define GATED_MOST ((uint64_t)64 << 20)
#define EXPANDED_MOST ((uint64_t)128 << 20)

enum { N_PART = 7 };

static uint32_t larger(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

static pico_reserve largest(const pico_reserve *a, const pico_reserve *b) {
    return (pico_reserve){.max_rows = larger(a->max_rows, b->max_rows),
                          .max_in = larger(a->max_in, b->max_in),
                          .max_out = larger(a->max_out, b->max_out),
                          .max_head = larger(a->max_head, b->max_head),
                          .max_head_dim = larger(a->max_head_dim, b->max_head_dim),
                          .max_positions = larger(a->max_positions, b->max_positions),
                          .max_logit_rows = larger(a->max_logit_rows, b->max_logit_rows),
                          .max_top_k = larger(a->max_top_k, b->max_top_k),
                          .max_edits = larger(a->max_edits, b->max_edits)};
}

static pico_status check(const pico_reserve *need, pico_error *err) {
    if (need->max_head_dim > CUDA_MAX_HEAD_DIM) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         CUDA_SAYS "a head is %u wide, the widest it can do is %d",
                         need->max_head_dim, CUDA_MAX_HEAD_DIM);
    }
    if (need->max_top_k > CUDA_TOP_K_MOST) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         CUDA_SAYS "the best %u tokens are asked for, the most it can do is %d",
                         need->max_top_k, CUDA_TOP_K_MOST);
    }
    /* What no device holds; it keeps the sizes below far from overflow. */
    const uint64_t most = (uint64_t)1 << 28;
    if (need->max_rows > most || need->max_in > most || need->max_out > most ||
        need->max_head > 65536 || need->max_positions > most || need->max_logit_rows > most) {
        return pico_fail(err, PICO_E_LIMIT,
                         CUDA_SAYS "%u rows of %u to %u values, or %u heads over %u positions, are "
                                   "too many",
                         need->max_rows, need->max_in, need->max_out, need->max_head,
                         need->max_positions);
    }
    return PICO_OK;
}

static uint64_t clamp(uint64_t bytes, uint64_t least, uint64_t most) {
    most = most < least ? least : most;
    return bytes < least ? least : bytes > most ? most : bytes;
}

/* Bytes of each part. */
static void sizes_of(const pico_reserve *need, int deterministic, uint64_t size[N_PART]) {
    const uint64_t in = (uint64_t)cuda_pad(need->max_in, 8), out = need->max_out;
    const uint64_t padded_rows = (uint64_t)cuda_pad(need->max_rows, CUDA_BLOCK_ROWS);
    const uint64_t heads = (uint64_t)need->max_head * (need->max_head_dim + 2);
    const uint64_t splits = (uint64_t)cuda_splits(cuda_ceil(need->max_positions, 64) + 1);
    const uint64_t attend_rows =
        need->max_rows < CUDA_ATTEND_ROWS ? need->max_rows : CUDA_ATTEND_ROWS;
    const uint64_t left = (uint64_t)cuda_select_left(need->max_out, need->max_top_k);
    const uint64_t select = 2 * left * 8 + (uint64_t)CUDA_ARGMAX_PARTS * 16;
    const uint64_t select_rows =
        need->max_logit_rows < CUDA_SELECT_ROWS ? need->max_logit_rows : CUDA_SELECT_ROWS;
    size[0] = padded_rows * in * (deterministic ? 4 : 2);
    size[1] = clamp(out * in * 4, 64 * in * 4, EXPANDED_MOST);
    size[2] = (uint64_t)CUDA_PREPARED_ROWS * in * 4;
    size[3] = clamp((uint64_t)need->max_rows * out * 4, 32 * out * 4, GATED_MOST);
    size[4] = deterministic ? (uint64_t)CUDA_BLOCK_ROWS * CUDA_BLOCK_OUTPUTS * 4 : 0;
    size[5] = attend_rows * heads * splits * 4;
    size[6] = select_rows * select;
}

static void cut(cuda_scratch *scratch, const uint64_t size[N_PART], const uint64_t at[N_PART],
                const pico_reserve *need) {
    char *base = scratch->memory;
    scratch->input = base + at[0];
    scratch->input_rows = cuda_pad(need->max_rows, CUDA_BLOCK_ROWS);
    scratch->expanded = base + at[1];
    scratch->expanded_bytes = size[1];
    scratch->prepared = (float *)(void *)(base + at[2]);
    scratch->gated = (float *)(void *)(base + at[3]);
    scratch->gated_bytes = size[3];
    scratch->block = (float *)(void *)(base + at[4]);
    scratch->partial = (float *)(void *)(base + at[5]);
    scratch->partial_bytes = size[5];
    scratch->select = base + at[6];
    scratch->select_bytes = size[6];
}

pico_status cuda_reserve(void *self, const pico_reserve *need, pico_error *err) {
    cuda_backend *cuda = cuda_enter(self);
    const pico_reserve all = largest(&cuda->need, need);
    uint64_t size[N_PART], at[N_PART], total = 0;
    pico_status status = check(&all, err);
    if (status != PICO_OK) {
        return status;
    }
    sizes_of(&all, (int)cuda->options.deterministic, size);
    for (int i = 0; i < N_PART; i++) {
        at[i] = total;
        total += (uint64_t)cuda_pad((int64_t)size[i] + 1, CUDA_ALIGN);
    }
    if (total > cuda->scratch.bytes) {
        char *memory = NULL;
        status = cuda_wait(cuda, err); /* what still runs uses the old memory */
        if (status == PICO_OK) {
            status = cuda_device_alloc(total, "scratch memory", &memory, err);
        }
        if (status != PICO_OK) {
            return status;
        }
        (void)cudaFree(cuda->scratch.memory);
        cuda->scratch = (cuda_scratch){.memory = memory, .bytes = total};
    } else {
        total = cuda->scratch.bytes;
    }
    cut(&cuda->scratch, size, at, &all);
    cuda->need = all;
    cuda->generation++;
    return PICO_OK;
}
