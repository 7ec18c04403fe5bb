/* Reservation and views; see device.h. */
#include "model/device.h"

#include <assert.h>

pico_status pico_device_init(pico_device *device, const pico_backend_ops *ops, void *self,
                             pico_error *err) {
    *device = (pico_device){.ops = ops, .self = self};
    device->caps.struct_size = sizeof device->caps;
    if (ops->caps(self, &device->caps) != PICO_OK) {
        return pico_fail(err, PICO_E_DEVICE, "the backend does not say what it can do");
    }
    return PICO_OK;
}

static uint32_t larger(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

pico_status pico_device_reserve(pico_device *device, const pico_reserve *need, pico_error *err) {
    const pico_reserve *old = &device->reserved;
    pico_reserve next = {
        .max_rows = larger(old->max_rows, need->max_rows),
        .max_in = larger(old->max_in, need->max_in),
        .max_out = larger(old->max_out, need->max_out),
        .max_head = larger(old->max_head, need->max_head),
        .max_head_dim = larger(old->max_head_dim, need->max_head_dim),
        .max_positions = larger(old->max_positions, need->max_positions),
        .max_logit_rows = larger(old->max_logit_rows, need->max_logit_rows),
        .max_top_k = larger(old->max_top_k, need->max_top_k),
        .max_edits = larger(old->max_edits, need->max_edits),
    };
    /* A plugin may open a session in the middle of a run: nothing may be queued then. */
    pico_status status = device->ops->sync(device->self, err);
    if (status == PICO_OK) {
        status = device->ops->reserve(device->self, &next, err);
    }
    if (status == PICO_OK) {
        device->reserved = next;
    }
    return status;
}

pico_tensor pico_view(pico_buffer *buffer, uint64_t offset, uint32_t dtype, int64_t rows,
                      int64_t cols) {
    return (pico_tensor){.buffer = buffer,
                         .offset = offset,
                         .dtype = dtype,
                         .rank = 2,
                         .shape = {rows, cols, 1, 1},
                         .stride = {cols, 1, 1, 1}};
}

pico_tensor pico_view_vector(pico_buffer *buffer, uint64_t offset, uint32_t dtype, int64_t n) {
    return (pico_tensor){.buffer = buffer,
                         .offset = offset,
                         .dtype = dtype,
                         .rank = 1,
                         .shape = {n, 1, 1, 1},
                         .stride = {1, 1, 1, 1}};
}

pico_tensor pico_view_heads(const pico_tensor *matrix, int64_t heads) {
    assert(matrix->rank == 2 && matrix->shape[1] % heads == 0);
    pico_tensor view = *matrix;
    view.rank = 3;
    view.shape[1] = heads;
    view.shape[2] = matrix->shape[1] / heads;
    view.stride[1] = view.shape[2];
    view.stride[2] = 1;
    return view;
}

pico_tensor pico_view_rows(const pico_tensor *tensor, int64_t begin, int64_t n) {
    assert(begin >= 0 && n >= 0 && begin + n <= tensor->shape[0]);
    pico_tensor view = *tensor;
    view.offset += (uint64_t)(begin * tensor->stride[0]) * 4; /* F32 and I32 are both 4 bytes */
    view.shape[0] = n;
    return view;
}
