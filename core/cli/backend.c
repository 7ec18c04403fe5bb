/* Choosing a backend; see backend.h. Only `auto` may end with another one than was named. */
#include "cli/backend.h"

#include <string.h>

#include "cli/load.h"

int pico_backend_is_auto(uint32_t kind, const char *name) {
    return kind == PICO_KIND_BACKEND && strcmp(name, "auto") == 0;
}

static pico_status open_named(pico_runtime *runtime, const char *name, int *exit_code,
                              pico_error *err) {
    return pico_runtime_instance(runtime, PICO_KIND_BACKEND, name, "backend", &runtime->backend,
                                 exit_code, err);
}

static pico_status open_auto(pico_runtime *runtime, int *exit_code, pico_error *err) {
    const pico_loaded *loaded = NULL;
    pico_error why = {0};
    pico_status status =
        pico_registry_load(runtime->registry, PICO_KIND_BACKEND, "cuda", &loaded, &why);
    if (status == PICO_OK) {
        status = open_named(runtime, "cuda", exit_code, &why);
    }
    if (status == PICO_OK) {
        pico_log_write(&runtime->log, PICO_LOG_INFO, "backend auto: cuda");
        return PICO_OK;
    }
    if (status != PICO_E_NOT_FOUND && status != PICO_E_DEVICE) {
        return pico_fail(err, status, "%s", why.message);
    }
    pico_log_write(&runtime->log, PICO_LOG_INFO, "backend auto: cpu, because %s", why.message);
    return open_named(runtime, "cpu", exit_code, err);
}

pico_status pico_runtime_backend(pico_runtime *runtime, int *exit_code, pico_error *err) {
    const char *name = pico_config_string(runtime->config, "backend", "plugin");
    pico_status status = pico_backend_is_auto(PICO_KIND_BACKEND, name)
                             ? open_auto(runtime, exit_code, err)
                             : open_named(runtime, name, exit_code, err);
    if (status == PICO_OK) {
        *exit_code = PICO_EXIT_MEMORY;
        status = pico_device_init(&runtime->device, &runtime->backend.loaded->ops.backend,
                                  runtime->backend.self, err);
    }
    return status;
}

void pico_backend_describe(pico_runtime *runtime, const char *path, const char *name, char *text,
                           size_t size) {
    char section[160];
    pico_error err = {0};
    pico_instance instance;
    pico_device device;
    (void)snprintf(section, sizeof section, "backend.%s", name);
    pico_status status = pico_registry_create(runtime->registry, runtime->config, PICO_KIND_BACKEND,
                                              path, section, &runtime->host, &instance, &err);
    if (status == PICO_OK) {
        status = pico_device_init(&device, &instance.loaded->ops.backend, instance.self, &err);
    }
    if (status == PICO_OK) {
        (void)snprintf(text, size, "runs on %s", device.caps.device);
    } else {
        (void)snprintf(text, size, "cannot run here: %s", err.message);
    }
}
