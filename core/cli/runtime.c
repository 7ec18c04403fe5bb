/* Opening and closing a run, and the host table that plugins see; see runtime.h. */
#include "cli/runtime.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/backend.h"
#include "cli/load.h"
#include "train/train.h"
#include "transform/tensors.h"

int pico_exit_code(pico_status status) {
    switch (status) {
    case PICO_OK:
        return PICO_EXIT_OK;
    case PICO_E_NOMEM:
    case PICO_E_DEVICE:
        return PICO_EXIT_MEMORY;
    case PICO_E_ABI:
        return PICO_EXIT_PLUGIN;
    case PICO_E_CORRUPT:
        return PICO_EXIT_MODEL;
    case PICO_E_INVALID:
    case PICO_E_NOT_FOUND:
    case PICO_E_UNSUPPORTED:
    case PICO_E_LIMIT:
        return PICO_EXIT_USAGE;
    case PICO_E_CANCELLED:
        return PICO_EXIT_INTERRUPTED;
    default:
        return PICO_EXIT_RUNTIME;
    }
}

/* [host] log as a level; its words are in the order of the levels. */
static uint32_t log_level_of(const pico_config *config) {
    static const char *const words[] = {"debug", "info", "warn"};
    const char *word = pico_config_string(config, "host", "log");
    for (uint32_t level = PICO_LOG_DEBUG; level < PICO_LOG_ERROR; level++) {
        if (strcmp(word, words[level]) == 0) {
            return level;
        }
    }
    return PICO_LOG_ERROR;
}

/* The exit code of a step, unless the status itself says memory, device or interruption. */
static int code_for(pico_status status, int step) {
    int code = pico_exit_code(status);
    return code == PICO_EXIT_MEMORY || code == PICO_EXIT_INTERRUPTED ? code : step;
}

/* ---- the host table ---- */

static void host_log(void *ctx, uint32_t level, const char *message) {
    pico_runtime *runtime = ctx;
    pico_log_write(&runtime->log, level, "%s", message);
}

static int host_should_stop(void *ctx) {
    (void)ctx;
    return pico_cancel_requested();
}

static void host_progress(void *ctx, const char *what, uint64_t done, uint64_t total) {
    pico_runtime *runtime = ctx;
    pico_log_progress(&runtime->log, what, done, total);
}

static uint64_t host_random(void *ctx, const pico_random_key *key, uint64_t index) {
    (void)ctx;
    return pico_random_u64(key, index);
}

static uint32_t host_n_threads(void *ctx) {
    pico_runtime *runtime = ctx;
    return pico_pool_n_threads(runtime->pool);
}

static void host_parallel_for(void *ctx, uint64_t n, uint64_t grain,
                              void (*fn)(void *arg, uint64_t begin, uint64_t end, uint32_t thread),
                              void *arg) {
    pico_runtime *runtime = ctx;
    pico_pool_for(runtime->pool, n, grain, fn, arg);
}

static void host_will_read(void *ctx, const pico_range *range, uint32_t n) {
    pico_runtime *runtime = ctx;
    pico_pool_will_read(runtime->pool, range, n);
}

static pico_status host_model_open(void *ctx, const char *path, pico_model **out, pico_error *err) {
    return pico_load_second_model(ctx, path, out, err);
}

static const pico_backend_ops *host_backend(void *ctx, void **self) {
    pico_runtime *runtime = ctx;
    *self = runtime->backend.self;
    return runtime->device.ops;
}

static void fill_host(pico_runtime *runtime) {
    runtime->host = (pico_host){.struct_size = sizeof(pico_host),
                                .abi_minor = PICO_ABI_MINOR,
                                .ctx = runtime,
                                .log = host_log,
                                .should_stop = host_should_stop,
                                .progress = host_progress,
                                .random = host_random,
                                .n_threads = host_n_threads,
                                .parallel_for = host_parallel_for,
                                .session = &pico_session_table,
                                .heads = &pico_heads_table,
                                .sampling = &pico_sampling_table,
                                .tensors = &pico_tensors_table,
                                .model_desc = pico_model_describe,
                                .model_open = host_model_open,
                                .model_close = pico_model_close,
                                .tap = pico_model_tap,
                                .backend = host_backend,
                                .train = &pico_train_table,
                                .text = &pico_text_table,
                                .will_read = host_will_read};
}

/* ---- opening ---- */

pico_status pico_runtime_instance(pico_runtime *runtime, uint32_t kind, const char *name,
                                  const char *section, pico_instance *out, int *exit_code,
                                  pico_error *err) {
    const pico_loaded *loaded = NULL;
    char own_section[160];
    pico_status status = pico_registry_load(runtime->registry, kind, name, &loaded, err);
    if (status != PICO_OK) {
        *exit_code = code_for(status, PICO_EXIT_PLUGIN);
        return status;
    }
    (void)snprintf(own_section, sizeof own_section, "%s.%s", section, loaded->plugin.name);
    status = pico_registry_create(runtime->registry, runtime->config, kind, name, own_section,
                                  &runtime->host, out, err);
    if (status != PICO_OK) {
        int is_option = status == PICO_E_INVALID || status == PICO_E_NOT_FOUND;
        *exit_code = code_for(status, is_option ? PICO_EXIT_USAGE : PICO_EXIT_PLUGIN);
    }
    return status;
}

/* The instance that a kind's section names. */
static pico_status open_kind(pico_runtime *runtime, uint32_t kind, pico_instance *out,
                             int *exit_code, pico_error *err) {
    const char *section = pico_kind_name(kind);
    const char *name = pico_config_string(runtime->config, section, "plugin");
    return pico_runtime_instance(runtime, kind, name, section, out, exit_code, err);
}

static pico_status open_services(pico_runtime *runtime, int *exit_code, pico_error *err) {
    const pico_config *config = runtime->config;
    const char *path = pico_config_string(config, "host", "plugin_path");
    int64_t threads = pico_config_int(config, "host", "threads");
    int step = PICO_EXIT_USAGE;
    pico_status status = pico_registry_open(path, &runtime->registry, err);
    if (status == PICO_OK) {
        step = PICO_EXIT_RUNTIME;
        status = pico_pool_open(threads < 0 ? 0 : (uint32_t)threads, &runtime->pool, err);
    }
    *exit_code = code_for(status, step);
    fill_host(runtime);
    return status;
}

static pico_status open_backend(pico_runtime *runtime, int *exit_code, pico_error *err) {
    pico_status status = pico_runtime_backend(runtime, exit_code, err);
    if (status == PICO_OK) {
        status = open_kind(runtime, PICO_KIND_ATTENTION, &runtime->attention, exit_code, err);
    }
    return status;
}

static pico_status open_decoding(pico_runtime *runtime, int *exit_code, pico_error *err) {
    pico_status status = open_kind(runtime, PICO_KIND_SAMPLER, &runtime->sampler, exit_code, err);
    if (status == PICO_OK) {
        status = open_kind(runtime, PICO_KIND_DECODER, &runtime->decoder, exit_code, err);
    }
    return status;
}

pico_status pico_runtime_open(pico_runtime *runtime, const pico_config *config, uint32_t needs,
                              pico_model_file *file, int *exit_code, pico_error *err) {
    *runtime = (pico_runtime){.config = config};
    pico_log_init(&runtime->log, log_level_of(config));
    pico_status status = open_services(runtime, exit_code, err);
    if (status == PICO_OK && (needs & (PICO_RUNTIME_MODEL | PICO_RUNTIME_DECODE))) {
        status = open_backend(runtime, exit_code, err);
        if (status == PICO_OK && (needs & PICO_RUNTIME_DECODE)) {
            status = open_decoding(runtime, exit_code, err);
        }
        if (status == PICO_OK) {
            status = pico_load_model(runtime, file, needs, exit_code, err);
        }
    }
    if (status != PICO_OK) {
        pico_runtime_close(runtime);
        return status;
    }
    *exit_code = PICO_EXIT_OK;
    return PICO_OK;
}

void pico_runtime_close(pico_runtime *runtime) {
    pico_tokenizer_close(runtime->tokenizer);
    pico_model_close(runtime->model);
    pico_registry_close(runtime->registry);
    pico_pool_close(runtime->pool);
    pico_lines_free(&runtime->stop);
    free(runtime->bias);
    *runtime = (pico_runtime){0};
}

/* ---- decoding ---- */

/* "id:bias,id:bias" -> runtime->bias. */
static pico_status read_bias(pico_runtime *runtime, const char *text, pico_error *err) {
    size_t capacity = 1;
    for (const char *c = text; *c != '\0'; c++) {
        capacity += *c == ',';
    }
    free(runtime->bias);
    runtime->n_bias = 0;
    runtime->bias = calloc(capacity, sizeof *runtime->bias);
    if (runtime->bias == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    for (const char *at = text; *at != '\0';) {
        char *end = NULL;
        errno = 0;
        long token = strtol(at, &end, 10);
        int ok = end != at && *end == ':' && errno == 0 && token >= 0 && token <= INT32_MAX;
        const char *number = end + 1;
        double bias = ok ? strtod(number, &end) : 0;
        if (!ok || end == number || isnan(bias) || (*end != ',' && *end != '\0')) {
            return pico_fail(err, PICO_E_INVALID,
                             "%s: logit_bias is a list of id:bias with commas between, not \"%s\"",
                             pico_config_origin(runtime->config, "sampler", "logit_bias"), text);
        }
        runtime->bias[runtime->n_bias++] = (pico_logit_bias){(int32_t)token, (float)bias};
        at = *end == ',' ? end + 1 : end;
    }
    return PICO_OK;
}

const char *const *pico_runtime_stops(const pico_runtime *runtime, size_t *n) {
    *n = runtime->stop.n;
    return runtime->stop.line;
}

static int slides(const pico_config *config) {
    return strcmp(pico_config_string(config, "generate", "overflow"), "slide") == 0;
}

const char *pico_runtime_full_advice(const pico_runtime *runtime) {
    const pico_model_desc *desc = pico_model_describe(runtime->model);
    int64_t context = pico_config_int(runtime->config, "model", "context");
    int is_table = desc->pos == PICO_POS_LEARNED && (context == 0 || context >= desc->n_ctx_train);
    if (slides(runtime->config)) {
        return "no longer text is possible, sliding or not";
    }
    return is_table ? "--overflow slide goes on and forgets the beginning"
                    : "--ctx-size makes it longer, --overflow slide goes on and forgets the "
                      "beginning";
}

/* How long timelines may get, and how far back they see. */
static void size_context(pico_runtime *runtime, uint64_t total, pico_decode_params *out) {
    const pico_config *config = runtime->config;
    const pico_model_desc *desc = pico_model_describe(runtime->model);
    uint64_t context = (uint64_t)pico_config_int(config, "model", "context");
    context = context == 0 ? desc->n_ctx_train : context;
    if (context > desc->n_ctx_train && desc->pos != PICO_POS_LEARNED) { /* those are an error */
        pico_log_write(&runtime->log, PICO_LOG_WARN,
                       "a context of %llu tokens is longer than the %u that the model was trained "
                       "on",
                       (unsigned long long)context, desc->n_ctx_train);
    }
    uint64_t longest = total < context ? total : context;
    if (slides(config)) {
        uint64_t most = context > PICO_SLIDE_POSITIONS ? context : PICO_SLIDE_POSITIONS;
        longest = total < most ? total : most;
    }
    /* Positions beyond the table of learned ones do not exist: the text is run again instead. */
    int again = slides(config) && desc->pos == PICO_POS_LEARNED;
    out->max_positions = (uint32_t)(again && longest > context ? context : longest);
    out->max_timeline = again ? (uint32_t)longest : 0;
    out->window_limit = slides(config) && !again ? (uint32_t)context : 0;
}

pico_status pico_runtime_decode_params(pico_runtime *runtime, uint32_t n_slots, uint64_t total,
                                       pico_decode_params *out, pico_error *err) {
    const pico_config *config = runtime->config;
    const char *bias = pico_config_string(config, "sampler", "logit_bias");
    const char *stop = pico_config_string(config, "generate", "stop");
    const char *accept = pico_config_string(config, "decoder", "accept");
    int64_t draft_n = pico_config_int(config, "decoder", "draft_n");
    *out = (pico_decode_params){
        .sampler = &runtime->sampler.loaded->ops.sampler,
        .sampler_self = runtime->sampler.self,
        .decoder = &runtime->decoder.loaded->ops.decoder,
        .decoder_self = runtime->decoder.self,
        .sampler_name = runtime->sampler.loaded->plugin.name,
        .decoder_name = runtime->decoder.loaded->plugin.name,
        .tokenizer = runtime->tokenizer,
        .n_slots = n_slots,
        .ubatch = (uint32_t)pico_config_int(config, "generate", "ubatch"),
        .accept = strcmp(accept, "rejection") == 0 ? PICO_ACCEPT_REJECTION : PICO_ACCEPT_MATCH,
        .draft_n = draft_n < 0 ? PICO_DRAFT_AUTO : (uint32_t)draft_n,
        .repetition = (float)pico_config_float(config, "sampler", "repetition_penalty"),
        .presence = (float)pico_config_float(config, "sampler", "presence_penalty"),
        .frequency = (float)pico_config_float(config, "sampler", "frequency_penalty")};
    pico_status status = read_bias(runtime, bias == NULL ? "" : bias, err);
    if (status == PICO_OK) {
        pico_lines_free(&runtime->stop);
        status = pico_lines_read(stop, &runtime->stop, err);
        out->max_stop = runtime->stop.longest;
    }
    size_context(runtime, total, out);
    out->bias = runtime->bias;
    out->n_bias = runtime->n_bias;
    return status;
}
