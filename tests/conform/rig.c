/* A host with all its services for tests; see rig.h. It prints nothing: what plugins log is
 * counted. */
#include "conform/rig.h"

#include <string.h>

static void count_log(void *ctx, uint32_t level, const char *message) {
    (void)level, (void)message;
    ((rig *)ctx)->n_log++;
}

static int never_stop(void *ctx) {
    (void)ctx;
    return 0;
}

static void no_progress(void *ctx, const char *what, uint64_t done, uint64_t total) {
    (void)ctx, (void)what, (void)done, (void)total;
}

static uint64_t host_random(void *ctx, const pico_random_key *key, uint64_t index) {
    (void)ctx;
    return pico_random_u64(key, index);
}

static uint32_t host_threads(void *ctx) {
    return pico_pool_n_threads(((rig *)ctx)->pool);
}

static void host_parallel_for(void *ctx, uint64_t n, uint64_t grain,
                              void (*fn)(void *arg, uint64_t begin, uint64_t end, uint32_t thread),
                              void *arg) {
    pico_pool_for(((rig *)ctx)->pool, n, grain, fn, arg);
}

static const pico_backend_ops *host_backend(void *ctx, void **self) {
    rig *r = ctx;
    *self = &r->fault;
    return &r->fault.ops;
}

static void perturb(pico_model_file *file) {
    uint64_t random = 11;
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const pico_weight_desc *data = &file->tensor[i].data;
        float *values = (float *)(uintptr_t)data->codes;
        for (int64_t j = 0; j < data->rows * data->cols; j++) {
            values[j] *= 1.0f + 0.2f * (float)(rig_uniform(&random) - 0.5);
        }
    }
}

static pico_status host_model_open(void *ctx, const char *path, pico_model **out, pico_error *err) {
    rig *r = ctx;
    tiny_model tiny = r->last;
    pico_model_file *file = NULL;
    const char *name = strrchr(path, '/') == NULL ? path : strrchr(path, '/') + 1;
    int twin = strcmp(name, "twin") == 0, cousin = strcmp(name, "cousin") == 0;
    int stranger = strcmp(name, "stranger") == 0;
    *out = NULL;
    if ((twin || cousin || stranger) && tiny.family != NULL) {
        tiny.n_vocab += stranger != 0;
        pico_status status = tiny_model_file(&tiny, &file, err);
        if (status == PICO_OK && cousin) {
            perturb(file);
        }
        return status == PICO_OK ? rig_model_open(r, file, PICO_DTYPE_F32, out, err) : status;
    }
    pico_status status = pico_model_file_open(path, NULL, &file, err);
    return status == PICO_OK ? rig_model_open(r, file, PICO_DTYPE_F32, out, err) : status;
}

pico_status rig_open_host(rig *r, uint32_t n_threads, pico_error *err) {
    memset(r, 0, sizeof *r);
    r->host = (pico_host){.struct_size = sizeof(pico_host),
                          .abi_minor = PICO_ABI_MINOR,
                          .ctx = r,
                          .log = count_log,
                          .should_stop = never_stop,
                          .progress = no_progress,
                          .random = host_random,
                          .n_threads = host_threads,
                          .parallel_for = host_parallel_for,
                          .session = &pico_session_table,
                          .heads = &pico_heads_table,
                          .sampling = &pico_sampling_table,
                          .model_desc = pico_model_describe,
                          .model_open = host_model_open,
                          .model_close = pico_model_close,
                          .tap = pico_model_tap,
                          .backend = host_backend,
                          .text = &pico_text_table};
    return pico_pool_open(n_threads == 0 ? 1 : n_threads, &r->pool, err);
}

static pico_status make(rig *r, uint32_t kind, const char *name, pico_instance *out,
                        pico_error *err) {
    char section[128];
    const pico_loaded *loaded = NULL;
    if (name == NULL || name[0] == '\0') {
        return PICO_OK;
    }
    pico_status status = pico_registry_load(r->registry, kind, name, &loaded, err);
    if (status != PICO_OK) {
        return status;
    }
    (void)snprintf(section, sizeof section, "%s.%s", pico_kind_name(kind), loaded->plugin.name);
    return pico_registry_create(r->registry, r->config, kind, name, section, &r->host, out, err);
}

pico_status rig_open(rig *r, const rig_setup *setup, pico_error *err) {
    pico_status status = rig_open_host(r, setup->n_threads, err);
    if (status == PICO_OK) {
        status = pico_config_open(&r->config, err);
    }
    for (size_t i = 0; status == PICO_OK && setup->set != NULL && setup->set[i] != NULL; i++) {
        status = pico_config_set(r->config, setup->set[i], "test", err);
    }
    if (status == PICO_OK) {
        status = pico_registry_open(setup->search, &r->registry, err);
    }
    if (status == PICO_OK) {
        status = make(r, PICO_KIND_BACKEND, setup->backend == NULL ? "cpu" : setup->backend,
                      &r->backend, err);
    }
    if (status == PICO_OK) {
        r->fault.hide_optional = setup->hide_optional;
        fault_init(&r->fault, &r->backend.loaded->ops.backend, r->backend.self);
        status = pico_device_init(&r->device, &r->fault.ops, &r->fault, err);
    }
    if (status == PICO_OK) {
        status = make(r, PICO_KIND_ATTENTION, setup->attention == NULL ? "mha" : setup->attention,
                      &r->attention, err);
    }
    if (status == PICO_OK) {
        status = make(r, PICO_KIND_SAMPLER, setup->sampler, &r->sampler, err);
    }
    if (status == PICO_OK) {
        status = make(r, PICO_KIND_DECODER, setup->decoder, &r->decoder, err);
    }
    if (status != PICO_OK) {
        rig_close(r);
    }
    return status;
}

void rig_close(rig *r) {
    pico_registry_close(r->registry);
    pico_config_close(r->config);
    pico_pool_close(r->pool);
    memset(r, 0, sizeof *r);
}

pico_status rig_read(const rig *r, const pico_tensor *tensor, float *out, size_t n) {
    return r->device.ops->buffer_read(r->device.self, tensor->buffer, tensor->offset, out,
                                      n * sizeof *out, NULL);
}
