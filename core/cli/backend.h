/* Which backend a run has, and what backends say of themselves. */
#ifndef PICO_CLI_BACKEND_H
#define PICO_CLI_BACKEND_H

#include "cli/runtime.h"

/* Whether [backend] plugin leaves the choice to the host. */
int pico_backend_is_auto(uint32_t kind, const char *name);

/* Makes runtime->backend and runtime->device as [backend] plugin says. auto: cuda, or cpu where there
 * is no plugin, driver or device for it; the log says which, and why. *exit_code as in
 * pico_runtime_open. */
pico_status pico_runtime_backend(pico_runtime *runtime, int *exit_code, pico_error *err);

/* "runs on DEVICE", or why no instance can be made; with the options that the configuration gives. */
void pico_backend_describe(pico_runtime *runtime, const char *path, const char *name, char *text,
                           size_t size);

#endif
