/* The queue: what waits, how it runs, what is recorded and replayed; see deferred.h. */
#include <stdlib.h>
#include <string.h>

#include "deferred.h"

pico_status queue_add(deferred *d, const call *c) {
    int is_op = c->kind > CALL_COPY;
    if (d->capture != NULL) {
        if (!is_op || d->n_capture == QUEUE_MOST) {
            return is_op ? PICO_E_LIMIT : PICO_E_INVALID;
        }
        d->capture[d->n_capture++] = *c;
        return PICO_OK;
    }
    if (d->n_queue == QUEUE_MOST || (d->recording && is_op && d->n_record == QUEUE_MOST)) {
        return PICO_E_LIMIT;
    }
    if (is_op) {
        d->sealed = 1;
        if (d->swallowing) {
            return PICO_OK;
        }
        if (d->recording) {
            d->record[d->n_record++] = *c;
        }
    }
    d->queue[d->n_queue++] = *c;
    return PICO_OK;
}

static int must_fail(deferred *d, const call *c) {
    if (c->kind <= CALL_COPY || d->fail_left < 0) {
        return 0;
    }
    return d->fail_left-- == 0;
}

void queue_run(deferred *d) {
    for (uint32_t i = 0; i < d->n_queue; i++) {
        call *c = &d->queue[i];
        if (d->failure == PICO_OK) {
            d->failure = must_fail(d, c) ? PICO_E_DEVICE : call_run(d, c);
            d->failure = d->failure == PICO_OK ? spoil(d, c) : d->failure;
            d->failed_kind = c->kind;
        }
        if (c->kind == CALL_WRITE) {
            free(c->as.write.data);
        }
    }
    d->n_queue = 0;
}

pico_status queue_wait(deferred *d, pico_error *err) {
    queue_run(d);
    pico_status status = d->failure;
    d->failure = PICO_OK;
    if (status == PICO_OK) {
        return d->inner.sync(d->inner_self, err);
    }
    return pico_fail(err, status, "backend deferred: queued call of kind %u failed with %d",
                     d->failed_kind, (int)status);
}

/* ---- recording ---- */

static pico_status record_begin(void *self) {
    deferred *d = self;
    d->n_record = 0;
    d->recording = 1;
    return PICO_OK;
}

static pico_status record_end(void *self, uint32_t *n_ops) {
    deferred *d = self;
    d->recording = 0;
    *n_ops = d->n_record;
    return PICO_OK;
}

static pico_status record_swallow(void *self, uint32_t on) {
    deferred *d = self;
    d->swallowing = on;
    return PICO_OK;
}

static pico_status record_replay(void *self) {
    deferred *d = self;
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < d->n_record; i++) {
        status = queue_add(d, &d->record[i]);
    }
    return status;
}

static uint32_t record_queued(void *self) {
    const deferred *d = self;
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->n_queue; i++) {
        n += d->queue[i].kind > CALL_COPY;
    }
    return n;
}

static uint32_t record_launched(void *self) {
    const deferred *d = self;
    return d->n_launched;
}

static void record_fail(void *self, int64_t n) {
    deferred *d = self;
    d->fail_left = n;
}

const deferred_record deferred_record_table = {.struct_size = sizeof(deferred_record),
                                               .begin = record_begin,
                                               .end = record_end,
                                               .swallow = record_swallow,
                                               .replay = record_replay,
                                               .n_queued = record_queued,
                                               .fail_op = record_fail,
                                               .n_launched = record_launched};
