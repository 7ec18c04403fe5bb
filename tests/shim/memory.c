/*
 * The shim's memory: handles around the inner backend's buffers and weights. Writes are copied and
 * queued; reads wait; after the first op nothing may be allocated until reserve is called again.
 */
#include <stdlib.h>
#include <string.h>

#include "deferred.h"

static pico_status sealed(pico_error *err) {
    return pico_fail(err, PICO_E_LIMIT,
                     "backend deferred: allocation after the first op since the last reserve");
}

/* Whether [offset, offset + bytes) lies in the buffer. */
static int fits(const pico_buffer *buffer, uint64_t offset, uint64_t bytes) {
    return buffer != NULL && offset <= buffer->bytes && bytes <= buffer->bytes - offset;
}

pico_status deferred_alloc(void *self, uint64_t bytes, pico_buffer **out, pico_error *err) {
    deferred *d = self;
    *out = NULL;
    if (d->sealed) {
        return sealed(err);
    }
    pico_buffer *buffer = calloc(1, sizeof *buffer);
    if (buffer == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "backend deferred: out of memory");
    }
    buffer->bytes = bytes;
    pico_status status = d->inner.buffer_alloc(d->inner_self, bytes, &buffer->inner, err);
    if (status != PICO_OK) {
        free(buffer);
        return status;
    }
    *out = buffer;
    return PICO_OK;
}

void deferred_free(void *self, pico_buffer *buffer) {
    deferred *d = self;
    if (buffer != NULL) {
        queue_run(d);
        d->inner.buffer_free(d->inner_self, buffer->inner);
        memset(buffer, 0xee, sizeof *buffer); /* whoever uses it again shall notice */
        free(buffer);
    }
}

pico_status deferred_write(void *self, pico_buffer *buffer, uint64_t offset, const void *src,
                           uint64_t bytes) {
    deferred *d = self;
    if (!fits(buffer, offset, bytes)) {
        return PICO_E_INVALID;
    }
    call c = {.kind = CALL_WRITE, .as.write = {.buffer = buffer, .offset = offset, .bytes = bytes}};
    c.as.write.data = malloc(bytes + 1);
    if (c.as.write.data == NULL) {
        return PICO_E_NOMEM;
    }
    if (bytes != 0) {
        memcpy(c.as.write.data, src, bytes);
    }
    pico_status status = queue_add(d, &c);
    if (status != PICO_OK) {
        free(c.as.write.data);
    }
    return status;
}

pico_status deferred_read(void *self, const pico_buffer *buffer, uint64_t offset, void *dst,
                          uint64_t bytes, pico_error *err) {
    deferred *d = self;
    if (!fits(buffer, offset, bytes)) {
        return pico_fail(err, PICO_E_INVALID, "backend deferred: a read outside the buffer");
    }
    pico_status status = queue_wait(d, err);
    return status == PICO_OK
               ? d->inner.buffer_read(d->inner_self, buffer->inner, offset, dst, bytes, err)
               : status;
}

pico_status deferred_copy(void *self, pico_buffer *dst, uint64_t dst_offset, const pico_buffer *src,
                          uint64_t src_offset, uint64_t bytes) {
    deferred *d = self;
    if (!fits(dst, dst_offset, bytes) || !fits(src, src_offset, bytes)) {
        return PICO_E_INVALID;
    }
    const call c = {.kind = CALL_COPY,
                    .as.copy = {.to = dst,
                                .to_offset = dst_offset,
                                .from = src,
                                .from_offset = src_offset,
                                .bytes = bytes}};
    return queue_add(d, &c);
}

pico_status deferred_sync(void *self, pico_error *err) {
    return queue_wait(self, err);
}

pico_status deferred_reserve(void *self, const pico_reserve *need, pico_error *err) {
    deferred *d = self;
    for (uint32_t i = 0; i < d->n_queue; i++) {
        if (d->queue[i].kind > CALL_COPY) {
            return pico_fail(err, PICO_E_INVALID, "backend deferred: reserve while ops are queued");
        }
    }
    pico_status status = d->inner.reserve(d->inner_self, need, err);
    d->sealed = status == PICO_OK ? 0 : d->sealed;
    d->generation++;
    return status;
}

/* ---- weights ---- */

pico_status deferred_weight_create(void *self, const pico_weight_desc *desc, uint32_t uses,
                                   uint32_t stays, pico_weight **out, pico_error *err) {
    deferred *d = self;
    (void)stays; /* a device copies what it gets */
    *out = NULL;
    if (d->sealed) {
        return sealed(err);
    }
    pico_weight *weight = calloc(1, sizeof *weight);
    if (weight == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "backend deferred: out of memory");
    }
    pico_status status = d->inner.weight_create(d->inner_self, desc, uses, 0, &weight->inner, err);
    if (status != PICO_OK) {
        free(weight);
        return status;
    }
    *out = weight;
    return PICO_OK;
}

void deferred_weight_free(void *self, pico_weight *weight) {
    deferred *d = self;
    if (weight != NULL) {
        queue_run(d);
        d->inner.weight_free(d->inner_self, weight->inner);
        memset(weight, 0xee, sizeof *weight);
        free(weight);
    }
}

pico_status deferred_weight_read(void *self, const pico_weight *weight, void *codes, void *scales,
                                 pico_error *err) {
    deferred *d = self;
    return d->inner.weight_read(d->inner_self, weight->inner, codes, scales, err);
}
