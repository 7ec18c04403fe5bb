/*
 * Buffers, views of tensors, scratch memory and the sharing of work between threads. Buffers of a
 * megabyte and more come from mmap and take up no memory until they are touched, so that a KV pool
 * costs what is used of it. Sizes that overflow or do not fit are errors that name the size.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu.h"

#define MAP_FROM ((uint64_t)1 << 20)
#define HUGE_FROM ((uint64_t)8 << 20)
#define MIN_SHARED_NS 4000.0 /* below this, waking another thread costs more than it saves */
#define MIN_CHUNK_NS 1500.0

static pico_status no_memory(pico_error *err, uint64_t bytes) {
    return pico_fail(err, PICO_E_NOMEM, "backend cpu: no memory for a buffer of %llu bytes",
                     (unsigned long long)bytes);
}

pico_status cpu_buffer_alloc(void *self, uint64_t bytes, pico_buffer **out, pico_error *err) {
    (void)self;
    *out = NULL;
    if (bytes > (uint64_t)PTRDIFF_MAX - 4096) {
        return no_memory(err, bytes);
    }
    pico_buffer *buffer = calloc(1, sizeof *buffer);
    if (buffer == NULL) {
        return no_memory(err, bytes);
    }
    buffer->bytes = bytes;
    if (bytes >= MAP_FROM) {
        void *data =
            mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (data == MAP_FAILED) {
            free(buffer);
            return no_memory(err, bytes);
        }
        if (bytes >= HUGE_FROM) {
            (void)madvise(data, (size_t)bytes, MADV_HUGEPAGE); /* a hint: failing is fine */
        }
        buffer->data = data;
        buffer->mapped = bytes;
    } else {
        void *data = NULL;
        if (posix_memalign(&data, 64, bytes == 0 ? 64 : (size_t)bytes) != 0) {
            free(buffer);
            return no_memory(err, bytes);
        }
        buffer->data = data;
    }
    *out = buffer;
    return PICO_OK;
}

void cpu_buffer_free(void *self, pico_buffer *buffer) {
    (void)self;
    if (buffer == NULL) {
        return;
    }
    if (buffer->mapped != 0) {
        (void)munmap(buffer->data, (size_t)buffer->mapped);
    } else {
        free(buffer->data);
    }
    free(buffer);
}

static int in_buffer(const pico_buffer *buffer, uint64_t offset, uint64_t bytes) {
    return buffer != NULL && offset <= buffer->bytes && bytes <= buffer->bytes - offset;
}

pico_status cpu_buffer_write(void *self, pico_buffer *buffer, uint64_t offset, const void *src,
                             uint64_t bytes) {
    (void)self;
    if (!in_buffer(buffer, offset, bytes) || (src == NULL && bytes != 0)) {
        return PICO_E_INVALID;
    }
    if (bytes != 0) {
        memcpy(buffer->data + offset, src, (size_t)bytes);
    }
    return PICO_OK;
}

pico_status cpu_buffer_read(void *self, const pico_buffer *buffer, uint64_t offset, void *dst,
                            uint64_t bytes, pico_error *err) {
    (void)self;
    if (!in_buffer(buffer, offset, bytes) || (dst == NULL && bytes != 0)) {
        return pico_fail(err, PICO_E_INVALID,
                         "backend cpu: reading %llu bytes at %llu of a buffer of %llu",
                         (unsigned long long)bytes, (unsigned long long)offset,
                         (unsigned long long)(buffer == NULL ? 0 : buffer->bytes));
    }
    if (bytes != 0) {
        memcpy(dst, buffer->data + offset, (size_t)bytes);
    }
    return PICO_OK;
}

pico_status cpu_buffer_copy(void *self, pico_buffer *dst, uint64_t dst_offset,
                            const pico_buffer *src, uint64_t src_offset, uint64_t bytes) {
    (void)self;
    if (!in_buffer(dst, dst_offset, bytes) || !in_buffer(src, src_offset, bytes)) {
        return PICO_E_INVALID;
    }
    if (bytes != 0) {
        memmove(dst->data + dst_offset, src->data + src_offset, (size_t)bytes);
    }
    return PICO_OK;
}

void *cpu_buffer_host(void *self, pico_buffer *buffer) {
    (void)self;
    return buffer == NULL ? NULL : buffer->data;
}

pico_status cpu_view_of(const pico_tensor *tensor, uint32_t dtype, cpu_view *out) {
    if (tensor->buffer == NULL || tensor->dtype != dtype || tensor->rank < 1 || tensor->rank > 3 ||
        tensor->offset % 4 != 0 || tensor->stride[tensor->rank - 1] != 1) {
        return PICO_E_INVALID;
    }
    uint64_t last = 0; /* index of the last element */
    int empty = 0;
    for (uint32_t i = 0; i < tensor->rank; i++) {
        uint64_t step;
        if (tensor->shape[i] < 0 || tensor->stride[i] < 0) {
            return PICO_E_INVALID;
        }
        if (tensor->shape[i] == 0) {
            empty = 1;
            continue;
        }
        if (__builtin_mul_overflow((uint64_t)(tensor->shape[i] - 1), (uint64_t)tensor->stride[i],
                                   &step) ||
            __builtin_add_overflow(last, step, &last)) {
            return PICO_E_INVALID;
        }
    }
    if (last >= UINT64_MAX / 4 ||
        !in_buffer(tensor->buffer, tensor->offset, empty ? 0 : (last + 1) * 4)) {
        return PICO_E_INVALID;
    }
    const uint32_t rank = tensor->rank;
    *out = (cpu_view){.data = (char *)tensor->buffer->data + tensor->offset,
                      .rows = rank >= 2 ? tensor->shape[0] : 1,
                      .heads = rank == 3 ? tensor->shape[1] : 1,
                      .cols = tensor->shape[rank - 1],
                      .row_stride = rank >= 2 ? tensor->stride[0] : tensor->shape[0],
                      .head_stride = rank == 3 ? tensor->stride[1] : 0};
    return PICO_OK;
}

pico_status cpu_vector_of(const pico_tensor *tensor, uint32_t dtype, int64_t n, void **out) {
    cpu_view view;
    pico_status status = cpu_view_of(tensor, dtype, &view);
    if (status != PICO_OK) {
        return status;
    }
    const int whole = view.heads == 1 && (view.rows == 1 || view.row_stride == view.cols);
    if (!whole || view.rows * view.cols != n) {
        return PICO_E_INVALID;
    }
    *out = view.data;
    return PICO_OK;
}

pico_status cpu_optional_of(const pico_tensor *tensor, int64_t n, float **out) {
    void *data = NULL;
    pico_status status = PICO_OK;
    if (tensor->buffer != NULL) {
        status = cpu_vector_of(tensor, PICO_DTYPE_F32, n, &data);
    }
    *out = data;
    return status;
}

/* ---- scratch ---- */

static uint32_t larger(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

enum { N_PART = 10 };

/* Offsets of the parts of a thread's area, in floats; returns the size of the area in floats. */
static uint64_t scratch_layout(const cpu_backend *cpu, const pico_reserve *need,
                               uint64_t part[N_PART]) {
    const uint64_t head = (uint64_t)cpu_pad16(need->max_head_dim);
    const uint64_t tiles = cpu->kernels->tile == NULL ? 0 : CPU_TILE_BYTES / sizeof(float);
    const uint64_t size[N_PART] = {CPU_EXPAND_ROWS * (uint64_t)cpu_pad16(need->max_in),
                                   (uint64_t)CPU_GATED_MROWS * CPU_STRIP,
                                   (uint64_t)CPU_TILE_QUERIES * PICO_PAGE_POSITIONS,
                                   CPU_TILE_QUERIES * head,
                                   2 * CPU_TILE_QUERIES,
                                   2 * (uint64_t)PICO_PAGE_POSITIONS * head,
                                   2 * (uint64_t)PICO_PAGE_POSITIONS * head,
                                   (uint64_t)4 * (CPU_GATED_MROWS / 32) * 4 * tiles,
                                   (uint64_t)2 * CPU_TILE_K * tiles,
                                   tiles *
                                       (cpu_attn_tile_bytes(need->max_head_dim) / CPU_TILE_BYTES)};
    uint64_t at = 0;
    for (int i = 0; i < N_PART; i++) {
        part[i] = at;
        at += ((size[i] + 15) & ~(uint64_t)15) + 16; /* a line apart: no two threads write to one */
    }
    return (at + 31) & ~(uint64_t)31;
}

cpu_scratch cpu_scratch_of(const cpu_backend *cpu, uint32_t thread) {
    assert(thread < cpu->n_threads && cpu->scratch != NULL);
    uint64_t part[N_PART];
    (void)scratch_layout(cpu, &cpu->need, part);
    float *base = (float *)(void *)(cpu->scratch + thread * cpu->scratch_stride);
    return (cpu_scratch){.expanded = base + part[0],
                         .gated = base + part[1],
                         .score = base + part[2],
                         .acc = base + part[3],
                         .state = base + part[4],
                         .gather = (uint8_t *)(base + part[5]),
                         .wide = base + part[6],
                         .sums = (uint8_t *)(base + part[7]),
                         .widened = (uint8_t *)(base + part[8]),
                         .attn = (uint8_t *)(base + part[9])};
}

/* Bytes for the rows of x that share a walk over the weights. */
static uint64_t pack_bytes_of(const cpu_backend *cpu, const pico_reserve *need) {
    const uint64_t floats =
        (uint64_t)(CPU_PACK_MIN_ROWS + CPU_PACK_SLACK) * (uint64_t)cpu_pad16(need->max_in);
    uint64_t bytes = (floats < CPU_PACK_FLOATS ? CPU_PACK_FLOATS : floats) * sizeof(float);
    if (cpu->kernels->tile != NULL) { /* BF16, up to three parts of a row */
        uint64_t rows = (uint64_t)need->max_rows * 3;
        rows = rows < 96 ? 96 : rows > CPU_GATED_MROWS ? CPU_GATED_MROWS : (rows + 31) / 32 * 32;
        const uint64_t tiles = 4096 + rows * (((uint64_t)need->max_in + 63) / 64 * 64) * 2;
        bytes = tiles > bytes ? tiles : bytes;
    }
    return bytes;
}

pico_status cpu_reserve(void *self, const pico_reserve *need, pico_error *err) {
    cpu_backend *cpu = self;
    pico_reserve all = cpu->need;
    all.max_rows = larger(all.max_rows, need->max_rows);
    all.max_in = larger(all.max_in, need->max_in);
    all.max_out = larger(all.max_out, need->max_out);
    all.max_head = larger(all.max_head, need->max_head);
    all.max_head_dim = larger(all.max_head_dim, need->max_head_dim);
    all.max_positions = larger(all.max_positions, need->max_positions);
    all.max_logit_rows = larger(all.max_logit_rows, need->max_logit_rows);
    all.max_top_k = larger(all.max_top_k, need->max_top_k);
    all.max_edits = larger(all.max_edits, need->max_edits);
    if (all.max_head_dim > CPU_MAX_HEAD_DIM) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "backend cpu: a head is %u wide, the widest it can do is %d",
                         all.max_head_dim, CPU_MAX_HEAD_DIM);
    }
    uint64_t part[N_PART];
    const uint64_t stride = scratch_layout(cpu, &all, part) * sizeof(float);
    const uint64_t pack = pack_bytes_of(cpu, &all);
    void *scratch = NULL, *packed = NULL;
    if (posix_memalign(&scratch, 4096, (size_t)(stride * cpu->n_threads)) != 0 ||
        posix_memalign(&packed, 4096, (size_t)pack) != 0) {
        free(scratch);
        return pico_fail(err, PICO_E_NOMEM, "backend cpu: no memory for %llu bytes of scratch",
                         (unsigned long long)(stride * cpu->n_threads + pack));
    }
    memset(scratch, 0, (size_t)(stride * cpu->n_threads)); /* touched now, not in the token loop */
    memset(packed, 0, (size_t)pack);
    free(cpu->scratch);
    free(cpu->pack);
    cpu->scratch = scratch;
    cpu->scratch_stride = stride;
    cpu->pack = packed;
    cpu->pack_bytes = pack;
    cpu->need = all;
    return PICO_OK;
}

void cpu_parallel(const cpu_backend *cpu, uint64_t n, uint64_t unit, double item_ns,
                  void (*fn)(void *arg, uint64_t begin, uint64_t end, uint32_t thread), void *arg) {
    if (n == 0) {
        return;
    }
    if (cpu->n_threads == 1 || (double)n * item_ns < MIN_SHARED_NS) {
        fn(arg, 0, n, 0);
        return;
    }
    /* Eight chunks a thread even out uneven threads; chunks beyond `unit` gain nothing. */
    uint64_t grain = n / ((uint64_t)cpu->n_threads * 8);
    if ((double)grain * item_ns < MIN_CHUNK_NS) {
        grain = (uint64_t)(MIN_CHUNK_NS / item_ns) + 1;
    }
    if (grain > unit) {
        grain = unit;
    }
    cpu->host->parallel_for(cpu->host->ctx, n, grain == 0 ? 1 : grain, fn, arg);
}
