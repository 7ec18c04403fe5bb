/*
 * A backend in use: its table, its instance, what was reserved so far; and helpers that make views.
 */
#ifndef PICO_MODEL_DEVICE_H
#define PICO_MODEL_DEVICE_H

#include "plugin.h"

typedef struct pico_device {
    const pico_backend_ops *ops;
    void *self;
    pico_backend_caps caps;
    pico_reserve reserved;
    double frozen_operations; /* of frozen training states on it, see train/count.c */
} pico_device;

/* ops and self are borrowed and outlive the device. */
pico_status pico_device_init(pico_device *device, const pico_backend_ops *ops, void *self,
                             pico_error *err);

/* Raises the reservation to the larger of what was asked before and need, field by field. */
pico_status pico_device_reserve(pico_device *device, const pico_reserve *need, pico_error *err);

/* A contiguous view (rows, cols) of a buffer at a byte offset. */
pico_tensor pico_view(pico_buffer *buffer, uint64_t offset, uint32_t dtype, int64_t rows,
                      int64_t cols);
/* A contiguous vector. */
pico_tensor pico_view_vector(pico_buffer *buffer, uint64_t offset, uint32_t dtype, int64_t n);
/* (rows, cols) seen as (rows, heads, cols / heads). */
pico_tensor pico_view_heads(const pico_tensor *matrix, int64_t heads);
/* Rows [begin, begin + n) of a matrix or of (rows, heads, width). */
pico_tensor pico_view_rows(const pico_tensor *tensor, int64_t begin, int64_t n);

#endif
