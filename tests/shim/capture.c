/*
 * The extension pico.capture/1 of the shim: what is recorded are the calls themselves, and a launch
 * queues them all again. Everything but an op between begin and end is refused.
 */
#include <stdlib.h>
#include <string.h>

#include "deferred.h"

struct pico_recording {
    uint32_t n, generation;
    call calls[];
};

static pico_status capture_begin(void *self, pico_error *err) {
    deferred *d = self;
    if (d->capture != NULL) {
        return pico_fail(err, PICO_E_INVALID, "backend deferred: begin within begin");
    }
    d->capture = malloc(QUEUE_MOST * sizeof *d->capture);
    d->n_capture = 0;
    return d->capture == NULL ? pico_fail(err, PICO_E_NOMEM, "backend deferred: out of memory")
                              : PICO_OK;
}

static pico_status capture_end(void *self, uint32_t keep, pico_recording **out, pico_error *err) {
    deferred *d = self;
    *out = NULL;
    if (d->capture == NULL) {
        return pico_fail(err, PICO_E_INVALID, "backend deferred: end without begin");
    }
    pico_status status = PICO_OK;
    if (keep) {
        pico_recording *recording = malloc(sizeof *recording + d->n_capture * sizeof(call));
        if (recording == NULL) {
            status = pico_fail(err, PICO_E_NOMEM, "backend deferred: out of memory");
        } else {
            recording->n = d->n_capture;
            recording->generation = d->generation;
            memcpy(recording->calls, d->capture, d->n_capture * sizeof(call));
            *out = recording;
        }
    }
    free(d->capture);
    d->capture = NULL;
    return status;
}

static pico_status capture_launch(void *self, const pico_recording *recording) {
    deferred *d = self;
    pico_status status = recording->generation != d->generation ? PICO_E_LIMIT : PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < recording->n; i++) {
        status = queue_add(d, &recording->calls[i]);
    }
    d->n_launched += status == PICO_OK;
    return status;
}

static void capture_free(void *self, pico_recording *recording) {
    if (recording != NULL) {
        queue_run(self);
        memset(recording, 0xee, sizeof *recording);
        free(recording);
    }
}

const pico_capture_ops deferred_capture_table = {.struct_size = sizeof(pico_capture_ops),
                                                 .begin = capture_begin,
                                                 .end = capture_end,
                                                 .launch = capture_launch,
                                                 .free = capture_free};
