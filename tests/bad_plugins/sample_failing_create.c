/* create fails and says why. */
#include "plugin.h"

static pico_status failing_create(const pico_host *host, const void *options, void **self,
                                  pico_error *err) {
    (void)host, (void)options, (void)self;
    return pico_fail(err, PICO_E_DEVICE, "the moon is in the wrong phase");
}

#define BAD_NAME "failing_create"
#define BAD_CREATE failing_create
#include "bad.h"
