/* create fails and says nothing. */
#include "plugin.h"

static pico_status silent_create(const pico_host *host, const void *options, void **self,
                                 pico_error *err) {
    (void)host, (void)options, (void)self, (void)err;
    return PICO_E_NOMEM;
}

#define BAD_NAME "silent_create"
#define BAD_CREATE silent_create
#include "bad.h"
