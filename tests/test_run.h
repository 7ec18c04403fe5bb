/*
 * A model with its plugins for tests, without the command line: registry, pool, host table, the
 * plugins of the build folder. Failures end the test with the message.
 */
#ifndef PICO_TESTS_TEST_RUN_H
#define PICO_TESTS_TEST_RUN_H

#include "config/config.h"
#include "decode/decode.h"
#include "host/host.h"
#include "model/model.h"
#include "registry/registry.h"
#include "session/session.h"
#include "train/train.h"
#include "transform/tensors.h"

typedef struct test_run {
    pico_config *config;
    pico_registry *registry;
    pico_pool *pool;
    pico_host host;
    pico_instance backend, attention, sampler, decoder;
    pico_device device;
    pico_model *model;
} test_run;

static inline uint32_t test_n_threads(void *ctx) {
    test_run *run = ctx;
    return pico_pool_n_threads(run->pool);
}

static inline void
test_parallel_for(void *ctx, uint64_t n, uint64_t grain,
                  void (*fn)(void *arg, uint64_t begin, uint64_t end, uint32_t thread), void *arg) {
    test_run *run = ctx;
    pico_pool_for(run->pool, n, grain, fn, arg);
}

static inline const pico_backend_ops *test_backend(void *ctx, void **self) {
    test_run *run = ctx;
    *self = run->backend.self;
    return run->device.ops;
}

static inline void test_check(pico_status status, const pico_error *err) {
    if (status != PICO_OK) {
        fail_msg("%s", err->message);
    }
}

/* Everything but the model. ini: more lines for the configuration, such as "[backend.cpu]\n...". */
static inline void test_run_open_plugins(test_run *run, const char *ini) {
    pico_error err = {0};
    *run = (test_run){0};
    test_check(pico_config_open(&run->config, &err), &err);
    test_check(pico_config_read_text(run->config, "/test.ini", ini, strlen(ini), &err), &err);
    test_check(pico_registry_open(PICO_BUILD_DIR "/plugins:" PICO_BUILD_DIR "/tests/plugins",
                                  &run->registry, &err),
               &err);
    test_check(pico_pool_open(2, &run->pool, &err), &err);
    run->host = (pico_host){.struct_size = sizeof(pico_host),
                            .abi_minor = PICO_ABI_MINOR,
                            .ctx = run,
                            .n_threads = test_n_threads,
                            .parallel_for = test_parallel_for,
                            .session = &pico_session_table,
                            .heads = &pico_heads_table,
                            .sampling = &pico_sampling_table,
                            .tensors = &pico_tensors_table,
                            .model_desc = pico_model_describe,
                            .model_close = pico_model_close,
                            .tap = pico_model_tap,
                            .backend = test_backend,
                            .train = &pico_train_table,
                            .text = &pico_text_table};
    const struct {
        uint32_t kind;
        pico_instance *out;
    } kinds[] = {{PICO_KIND_BACKEND, &run->backend},
                 {PICO_KIND_ATTENTION, &run->attention},
                 {PICO_KIND_SAMPLER, &run->sampler},
                 {PICO_KIND_DECODER, &run->decoder}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char section[128];
        const char *kind = pico_kind_name(kinds[i].kind);
        const char *name = pico_config_string(run->config, kind, "plugin");
        (void)snprintf(section, sizeof section, "%s.%s", kind, name);
        test_check(pico_registry_create(run->registry, run->config, kinds[i].kind, name, section,
                                        &run->host, kinds[i].out, &err),
                   &err);
    }
    test_check(
        pico_device_init(&run->device, &run->backend.loaded->ops.backend, run->backend.self, &err),
        &err);
}

/* A model on top, from a file that is already open (taken over). */
static inline void test_run_open_model(test_run *run, pico_model_file *file) {
    pico_error err = {0};
    pico_attention_check check = {.struct_size = sizeof check};
    const pico_attention_ops *attention = &run->attention.loaded->ops.attention;
    test_check(attention->check(run->attention.self, &file->desc, &check, &err), &err);
    pico_model_params params = {
        .attention = attention, .attention_self = run->attention.self, .kv_dtype = PICO_DTYPE_F32};
    test_check(pico_model_open(&run->device, &params, file, &run->model, &err), &err);
}

/* Temperature 0, the CPU backend with one option line such as "isa = portable". */
static inline void test_run_open(test_run *run, const char *path, const char *backend_option) {
    char ini[512];
    pico_error err = {0};
    pico_model_file *file = NULL;
    (void)snprintf(ini, sizeof ini, "[backend.cpu]\n%s\n[sampler.standard]\ntemperature = 0\n",
                   backend_option);
    test_run_open_plugins(run, ini);
    test_check(pico_model_file_open(path, NULL, &file, &err), &err);
    test_run_open_model(run, file);
}

static inline void test_run_close(test_run *run) {
    pico_model_close(run->model);
    pico_registry_close(run->registry);
    pico_pool_close(run->pool);
    pico_config_close(run->config);
}

#endif
