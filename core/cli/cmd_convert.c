/*
 * convert: any readable model file to GGUF, with what the configuration asks to be done to the
 * model on the way (pooled KV heads, compress stages). It refuses to write over its own input.
 */
#include <sys/stat.h>

#include "cli/cli.h"
#include "cli/load.h"

typedef struct convert_state {
    const pico_cli *cli;
    pico_runtime runtime;
    int runtime_open;
    pico_model_file *file;
    pico_error err;
} convert_state;

static int same_file(const char *a, const char *b) {
    struct stat first, second;
    return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

/* The plugins are loaded only when there may be something for them to do. */
static int wants_transform(const pico_config *config) {
    return pico_config_stages(config, NULL, 0) != 0 ||
           pico_config_is_set(config, "attention", "plugin");
}

/* An instance of the plugin that a kind's section selects. */
static pico_status open_kind(convert_state *state, uint32_t kind, pico_instance *out, int *code) {
    const char *section = pico_kind_name(kind);
    const char *name = pico_config_string(state->cli->config, section, "plugin");
    return pico_runtime_instance(&state->runtime, kind, name, section, out, code, &state->err);
}

/* Compress stages may run the model to calibrate themselves, so they need a backend. */
static pico_status open_backend(convert_state *state, int *code) {
    pico_runtime *runtime = &state->runtime;
    pico_status status = open_kind(state, PICO_KIND_BACKEND, &runtime->backend, code);
    if (status == PICO_OK) {
        *code = PICO_EXIT_MEMORY;
        status = pico_device_init(&runtime->device, &runtime->backend.loaded->ops.backend,
                                  runtime->backend.self, &state->err);
    }
    return status;
}

static int transform(convert_state *state) {
    int code = PICO_EXIT_RUNTIME;
    const pico_config *config = state->cli->config;
    if (pico_runtime_open(&state->runtime, config, 0, NULL, &code, &state->err) != PICO_OK) {
        return pico_cli_fail(state->cli, code, "%s", state->err.message);
    }
    state->runtime_open = 1;
    pico_status status = open_kind(state, PICO_KIND_ATTENTION, &state->runtime.attention, &code);
    if (status == PICO_OK && pico_config_stages(config, NULL, 0) != 0) {
        status = open_backend(state, &code);
    }
    if (status == PICO_OK) {
        status = pico_load_transform(&state->runtime, state->file, &code, &state->err);
    }
    return status == PICO_OK ? PICO_EXIT_OK
                             : pico_cli_fail(state->cli, code, "%s", state->err.message);
}

static void report(const convert_state *state, const char *out) {
    const pico_model_file *file = state->file;
    uint64_t bytes = 0;
    struct stat written = {0};
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        bytes += file->tensor[i].bytes;
    }
    (void)stat(out, &written);
    if (pico_cli_log_level(state->cli) <= PICO_LOG_INFO) {
        (void)fprintf(stderr, "%s: %s to GGUF, %u tensors of %.1f MB, %s, %.1f MB in all\n", out,
                      file->format_name, file->n_tensor, (double)bytes * 1e-6,
                      file->vocab.kind == PICO_VOCAB_NONE ? "no tokenizer" : "with its tokenizer",
                      (double)written.st_size * 1e-6);
    }
}

static int convert(convert_state *state, const char *in, const char *out) {
    if (same_file(in, out)) {
        return pico_cli_fail(state->cli, PICO_EXIT_USAGE,
                             "%s is the file to read; name another one to write", out);
    }
    int code = pico_cli_open_file(state->cli, in, &state->file);
    if (code == PICO_EXIT_OK && wants_transform(state->cli->config)) {
        code = transform(state);
    }
    if (code != PICO_EXIT_OK) {
        return code;
    }
    if (pico_gguf_write(state->file, out, &state->err) != PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    report(state, out);
    return PICO_EXIT_OK;
}

static int convert_command(const pico_cli *cli) {
    convert_state state = {.cli = cli};
    if (cli->n_argument != 2) {
        return pico_cli_usage(cli, "convert needs two files: IN and OUT.gguf");
    }
    int code = convert(&state, cli->argument[0], cli->argument[1]);
    pico_model_file_close(state.file);
    if (state.runtime_open) {
        pico_runtime_close(&state.runtime);
    }
    return code;
}

const pico_command pico_command_convert = {
    .name = "convert",
    .summary = "write a model as GGUF",
    .usage = "convert IN OUT.gguf [--tokenizer FILE] [--config FILE] [options]",
    .details =
        "An [attention] plugin that wants fewer KV heads, and [compress.N] stages, change "
        "the model on\nthe way, for example --attention mqa --set attention.mqa.convert=mean.",
    .sections = "model.tokenizer model.generation host backend attention",
    .max_arguments = 2,
    .run = convert_command};
