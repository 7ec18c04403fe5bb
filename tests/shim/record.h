/*
 * The shim's extension "test.record/1": records the ops of one step and replays them, as a captured
 * graph would be, and makes ops fail when they run. Writes are never recorded: they are the new
 * data of the next step.
 */
#ifndef PICO_SHIM_RECORD_H
#define PICO_SHIM_RECORD_H

#include "plugin.h"

typedef struct deferred_record {
    uint32_t struct_size;
    uint32_t reserved;
    /* From begin to end every op is kept as well as queued. */
    pico_status (*begin)(void *self);
    pico_status (*end)(void *self, uint32_t *n_ops);
    /* While on is 1 ops are accepted and forgotten; writes are done. */
    pico_status (*swallow)(void *self, uint32_t on);
    /* Queues the kept ops again. */
    pico_status (*replay)(void *self);
    /* Ops that wait in the queue now. */
    uint32_t (*n_queued)(void *self);
    /* The (n + 1)-th op that runs from now on fails; negative: none. */
    void (*fail_op)(void *self, int64_t n);
    /* Recordings of pico.capture/1 that were launched so far. */
    uint32_t (*n_launched)(void *self);
} deferred_record;

#endif
