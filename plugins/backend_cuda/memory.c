/*
 * Buffers, views of tensors, and the way between host and device. What the host writes is copied into
 * page-locked slots that the stream empties in order, so that a write waits for nothing but a free
 * slot. Refuses views that reach beyond their buffer.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda.h"
#include "shapes.h"

pico_status cuda_device_alloc(uint64_t bytes, const char *what, char **out, pico_error *err) {
    void *memory = NULL;
    *out = NULL;
    if (bytes > (uint64_t)PTRDIFF_MAX - 4096 ||
        cudaMalloc(&memory, bytes == 0 ? 64 : (size_t)bytes) != cudaSuccess) {
        return cuda_no_memory(err, bytes, what);
    }
    *out = memory;
    return PICO_OK;
}

pico_status cuda_buffer_alloc(void *self, uint64_t bytes, pico_buffer **out, pico_error *err) {
    (void)cuda_enter(self);
    *out = NULL;
    pico_buffer *buffer = calloc(1, sizeof *buffer);
    if (buffer == NULL) {
        return pico_fail(err, PICO_E_NOMEM, CUDA_SAYS "no host memory for a buffer");
    }
    const pico_status status = cuda_device_alloc(bytes, "a buffer", &buffer->data, err);
    if (status != PICO_OK) {
        free(buffer);
        return status;
    }
    buffer->bytes = bytes;
    *out = buffer;
    return PICO_OK;
}

void cuda_buffer_free(void *self, pico_buffer *buffer) {
    cuda_backend *cuda = cuda_enter(self);
    if (buffer != NULL) {
        (void)cuda_done(cuda, cudaStreamSynchronize(cuda->stream), "buffer_free");
        (void)cudaFree(buffer->data);
        free(buffer);
    }
}

static int in_buffer(const pico_buffer *buffer, uint64_t offset, uint64_t bytes) {
    return buffer != NULL && offset <= buffer->bytes && bytes <= buffer->bytes - offset;
}

/* ---- host and device ---- */

pico_status cuda_upload(cuda_backend *cuda, char *to, const void *from, uint64_t bytes) {
    cuda_staging *staging = &cuda->staging;
    cuda->n_op++;
    for (uint64_t at = 0; at < bytes;) {
        const uint64_t n = bytes - at < CUDA_SLOT_BYTES ? bytes - at : CUDA_SLOT_BYTES;
        const uint32_t slot = staging->next;
        char *room = staging->memory + (size_t)slot * CUDA_SLOT_BYTES;
        cudaError_t error = cudaEventSynchronize(staging->done[slot]); /* the slot is free again */
        if (error == cudaSuccess) {
            memcpy(room, (const char *)from + at, (size_t)n);
            error = cudaMemcpyAsync(to + at, room, (size_t)n, cudaMemcpyHostToDevice, cuda->stream);
        }
        if (error == cudaSuccess) {
            error = cudaEventRecord(staging->done[slot], cuda->stream);
        }
        if (error != cudaSuccess) {
            return cuda_done(cuda, error, "buffer_write");
        }
        staging->next = (slot + 1) % CUDA_SLOTS;
        at += n;
    }
    return PICO_OK;
}

/* Two pieces are under way in turn: one comes while the host takes the other. */
pico_status cuda_download(cuda_backend *cuda, void *to, const char *from, uint64_t bytes,
                          pico_error *err) {
    cuda_staging *staging = &cuda->staging;
    uint64_t queued = 0, taken = 0;
    while (taken < bytes) {
        while (queued < bytes && queued - taken < 2 * (uint64_t)CUDA_READ_BYTES) {
            const uint64_t n = bytes - queued < CUDA_READ_BYTES ? bytes - queued : CUDA_READ_BYTES;
            const uint64_t half = queued / CUDA_READ_BYTES % 2;
            cudaError_t error =
                cudaMemcpyAsync(staging->read + half * CUDA_READ_BYTES, from + queued, (size_t)n,
                                cudaMemcpyDeviceToHost, cuda->stream);
            if (error == cudaSuccess) {
                error = cudaEventRecord(staging->came[half], cuda->stream);
            }
            (void)cuda_done(cuda, error, "buffer_read");
            queued += n;
        }
        const uint64_t n = queued - taken < CUDA_READ_BYTES ? queued - taken : CUDA_READ_BYTES;
        const uint64_t half = taken / CUDA_READ_BYTES % 2;
        const cudaError_t error = cudaEventSynchronize(staging->came[half]);
        if (error != cudaSuccess || cuda->failure != cudaSuccess) {
            (void)cuda_done(cuda, error, "buffer_read");
            break;
        }
        memcpy((char *)to + taken, staging->read + half * CUDA_READ_BYTES, (size_t)n);
        taken += n;
    }
    return cuda_wait(cuda, err);
}

pico_status cuda_buffer_write(void *self, pico_buffer *buffer, uint64_t offset, const void *src,
                              uint64_t bytes) {
    if (!in_buffer(buffer, offset, bytes) || (src == NULL && bytes != 0)) {
        return PICO_E_INVALID;
    }
    return cuda_upload(cuda_enter(self), buffer->data + offset, src, bytes);
}

pico_status cuda_buffer_read(void *self, const pico_buffer *buffer, uint64_t offset, void *dst,
                             uint64_t bytes, pico_error *err) {
    if (!in_buffer(buffer, offset, bytes) || (dst == NULL && bytes != 0)) {
        return pico_fail(err, PICO_E_INVALID,
                         CUDA_SAYS "reading %llu bytes at %llu of a buffer of %llu",
                         (unsigned long long)bytes, (unsigned long long)offset,
                         (unsigned long long)(buffer == NULL ? 0 : buffer->bytes));
    }
    return cuda_download(cuda_enter(self), dst, buffer->data + offset, bytes, err);
}

pico_status cuda_buffer_copy(void *self, pico_buffer *dst, uint64_t dst_offset,
                             const pico_buffer *src, uint64_t src_offset, uint64_t bytes) {
    cuda_backend *cuda = cuda_enter(self);
    if (!in_buffer(dst, dst_offset, bytes) || !in_buffer(src, src_offset, bytes)) {
        return PICO_E_INVALID;
    }
    if (bytes == 0) {
        return PICO_OK;
    }
    return cuda_done(cuda,
                     cudaMemcpyAsync(dst->data + dst_offset, src->data + src_offset, (size_t)bytes,
                                     cudaMemcpyDeviceToDevice, cuda->stream),
                     "buffer_copy");
}

/* ---- views ---- */

pico_status cuda_view_of(const pico_tensor *tensor, uint32_t dtype, cuda_view *out) {
    const uint32_t rank = tensor->rank;
    if (tensor->buffer == NULL || tensor->dtype != dtype || rank < 1 || rank > 3 ||
        tensor->offset % 4 != 0 || tensor->stride[rank - 1] != 1) {
        return PICO_E_INVALID;
    }
    uint64_t last = 0; /* index of the last element */
    int empty = 0;
    for (uint32_t i = 0; i < rank; i++) {
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
    *out = (cuda_view){.data = tensor->buffer->data + tensor->offset,
                       .rows = rank >= 2 ? tensor->shape[0] : 1,
                       .heads = rank == 3 ? tensor->shape[1] : 1,
                       .cols = tensor->shape[rank - 1],
                       .row_stride = rank >= 2 ? tensor->stride[0] : tensor->shape[0],
                       .head_stride = rank == 3 ? tensor->stride[1] : 0};
    return PICO_OK;
}

pico_status cuda_factor_of(const pico_tensor *tensor, cuda_view *out, uint32_t *narrow) {
    *narrow = tensor->dtype == PICO_DTYPE_BF16;
    if (!*narrow) {
        return cuda_view_of(tensor, PICO_DTYPE_F32, out);
    }
    /* two values as one of F32, so that the same checks do */
    pico_tensor pairs = *tensor;
    pairs.dtype = PICO_DTYPE_F32;
    if (tensor->rank != 2 || tensor->shape[1] < 0 || tensor->stride[0] % 8 != 0 ||
        tensor->offset % 16 != 0) {
        return PICO_E_INVALID;
    }
    pairs.shape[1] = cuda_ceil(tensor->shape[1], 2);
    pairs.stride[0] /= 2;
    const pico_status status = cuda_view_of(&pairs, PICO_DTYPE_F32, out);
    out->cols = tensor->shape[1];
    out->row_stride = tensor->stride[0];
    return status;
}

pico_status cuda_vector_of(const pico_tensor *tensor, uint32_t dtype, int64_t n, void **out) {
    cuda_view view;
    const pico_status status = cuda_view_of(tensor, dtype, &view);
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

pico_status cuda_optional_of(const pico_tensor *tensor, int64_t n, float **out) {
    void *data = NULL;
    pico_status status = PICO_OK;
    if (tensor->buffer != NULL) {
        status = cuda_vector_of(tensor, PICO_DTYPE_F32, n, &data);
    }
    *out = data;
    return status;
}
