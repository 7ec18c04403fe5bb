/* Faults of a broken backend, on demand; see deferred.h. */
#include "deferred.h"

static pico_status add(deferred *d, const pico_tensor *tensor, uint64_t offset, float amount) {
    float x = 0;
    pico_buffer *buffer = tensor->buffer->inner;
    pico_status status = d->inner.buffer_read(d->inner_self, buffer, offset, &x, sizeof x, NULL);
    x += amount;
    return status == PICO_OK ? d->inner.buffer_write(d->inner_self, buffer, offset, &x, sizeof x)
                             : status;
}

pico_status spoil(deferred *d, const call *c) {
    d->n_spoiled++;
    if (c->kind == CALL_LINEAR && c->as.linear.y.shape[0] > 0) {
        const pico_tensor *y = &c->as.linear.y;
        if (d->spoil == SPOIL_VALUE) {
            return add(d, y, y->offset, 0.01f);
        }
        if (d->spoil == SPOIL_COMPANY) {
            return add(d, y, y->offset, 1e-6f * (float)y->shape[0]);
        }
    }
    if (c->kind == CALL_ACTIVATION && d->spoil == SPOIL_GUARD && c->as.activation.y.shape[0] > 0) {
        const pico_tensor *y = &c->as.activation.y;
        int64_t end = (y->shape[0] - 1) * y->stride[0] + y->shape[1];
        return add(d, y, y->offset + (uint64_t)end * 4, 1);
    }
    if (c->kind == CALL_ATTEND && d->spoil == SPOIL_DRIFT && c->as.attend.args.out.shape[0] > 0) {
        const pico_tensor *out = &c->as.attend.args.out;
        return add(d, out, out->offset, 1e-7f * (float)d->n_spoiled);
    }
    return PICO_OK;
}
