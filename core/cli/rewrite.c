/* Reading, transforming, writing; see rewrite.h. */
#include "cli/rewrite.h"

#include <string.h>
#include <sys/stat.h>

#include "cli/backend.h"
#include "cli/load.h"
#include "transform/retype.h"

typedef struct rewrite_state {
    const pico_cli *cli;
    const pico_rewrite *job;
    pico_log log;
    pico_runtime runtime;
    int runtime_open;
    pico_model_file *file;
    pico_error err;
} rewrite_state;

/* ---- not over the input ---- */

static int same_file(const char *a, const char *b) {
    struct stat first, second;
    return a != NULL && stat(a, &first) == 0 && stat(b, &second) == 0 &&
           first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

/* Whether out exists in a folder that is read and is no GGUF file, which no such folder is read of. */
static int is_in_folder(const char *folder, const char *out) {
    pico_arena arena = {0};
    char magic[4] = {0};
    const char *parent = pico_folder_of(out, &arena);
    FILE *file = NULL;
    int inside = folder != NULL && parent != NULL && pico_is_folder(folder) && pico_is_file(out) &&
                 same_file(folder, parent);
    if (inside && (file = fopen(out, "rb")) != NULL) {
        inside = fread(magic, 1, sizeof magic, file) != sizeof magic ||
                 memcmp(magic, "GGUF", sizeof magic) != 0;
        (void)fclose(file);
    }
    pico_arena_free(&arena);
    return inside;
}

static int check_output(const rewrite_state *state, const char *in, const char *out) {
    const char *tokenizer = pico_config_path(state->cli->config, "model", "tokenizer");
    if (same_file(in, out) || same_file(state->file->path, out) || same_file(tokenizer, out) ||
        is_in_folder(in, out) || is_in_folder(tokenizer, out)) {
        return pico_cli_fail(state->cli, PICO_EXIT_USAGE,
                             "%s is the file to read, or a part of it; name another one to write",
                             out);
    }
    return PICO_EXIT_OK;
}

/* ---- hooks ---- */

static int should_stop(void *arg) {
    (void)arg;
    return pico_cancel_requested();
}

static void show_progress(void *arg, uint64_t done, uint64_t total) {
    pico_log_progress(arg, "writing", done, total);
}

static void show_retyping(void *arg, uint64_t done, uint64_t total) {
    pico_log_progress(arg, "rounding", done, total);
}

/* ---- transformation ---- */

static int retype(rewrite_state *state) {
    const pico_write_hooks hooks = {
        .should_stop = should_stop, .progress = show_retyping, .arg = &state->log};
    return pico_retype(state->file, state->job->dtype, &hooks, &state->err) == PICO_OK
               ? PICO_EXIT_OK
               : pico_cli_fail_error(state->cli, &state->err);
}

/* The plugins are loaded only when there may be something for them to do. */
static int wants_transform(const pico_config *config) {
    return pico_config_stages(config, NULL, 0) != 0 ||
           pico_config_is_set(config, "attention", "plugin");
}

/* An instance of the plugin that a kind's section selects. */
static pico_status open_kind(rewrite_state *state, uint32_t kind, pico_instance *out, int *code) {
    const char *section = pico_kind_name(kind);
    const char *name = pico_config_string(state->cli->config, section, "plugin");
    return pico_runtime_instance(&state->runtime, kind, name, section, out, code, &state->err);
}

static int transform(rewrite_state *state) {
    int code = PICO_EXIT_RUNTIME;
    const pico_config *config = state->cli->config;
    const pico_transform_params params = {.table = state->job->table,
                                          .plan_only = state->job->plan_only};
    if (pico_runtime_open(&state->runtime, config, 0, NULL, &code, &state->err) != PICO_OK) {
        return pico_cli_fail(state->cli, code, "%s", state->err.message);
    }
    state->runtime_open = 1;
    pico_status status = open_kind(state, PICO_KIND_ATTENTION, &state->runtime.attention, &code);
    if (status == PICO_OK && pico_config_stages(config, NULL, 0) != 0) {
        status = pico_runtime_backend(&state->runtime, &code, &state->err); /* stages may run it */
    }
    if (status == PICO_OK) {
        status = pico_load_transform(&state->runtime, state->file, &params, &code, &state->err);
    }
    return status == PICO_OK ? PICO_EXIT_OK
                             : pico_cli_fail(state->cli, code, "%s", state->err.message);
}

static int changes_weights(const rewrite_state *state) {
    return state->job->dtype != PICO_DTYPE_NONE || wants_transform(state->cli->config);
}

/* The type comes first, so that what pools or compresses works with the weights of that type. */
static int change_weights(rewrite_state *state) {
    int code = PICO_EXIT_OK;
    if (state->file->desc.n_layer == 0) {
        return pico_cli_fail(state->cli, PICO_EXIT_MODEL, "%s holds a vocabulary but no model",
                             state->file->path);
    }
    if (state->job->dtype != PICO_DTYPE_NONE) {
        code = retype(state);
    }
    return code == PICO_EXIT_OK && wants_transform(state->cli->config) ? transform(state) : code;
}

/* ---- writing ---- */

static void report(const rewrite_state *state, const char *out) {
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

static int write_out(rewrite_state *state) {
    const char *out = state->job->out;
    const pico_write_hooks hooks = {
        .should_stop = should_stop, .progress = show_progress, .arg = &state->log};
    if (pico_gguf_write_with(state->file, out, &hooks, &state->err) != PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    report(state, out);
    return PICO_EXIT_OK;
}

static int rewrite(rewrite_state *state) {
    const pico_rewrite *job = state->job;
    const char *in =
        job->in != NULL ? job->in : pico_config_path(state->cli->config, "model", "path");
    if (pico_cancel_install(&state->err) != PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    int code = pico_cli_open_file(state->cli, in, &state->file);
    if (code == PICO_EXIT_OK && !job->plan_only) {
        code = check_output(state, in, job->out);
    }
    if (code == PICO_EXIT_OK && changes_weights(state)) {
        code = change_weights(state);
    }
    return code == PICO_EXIT_OK && !job->plan_only ? write_out(state) : code;
}

int pico_rewrite_model(const pico_cli *cli, const pico_rewrite *job) {
    rewrite_state state = {.cli = cli, .job = job};
    pico_log_init(&state.log, pico_cli_log_level(cli));
    int code = rewrite(&state);
    pico_model_file_close(state.file);
    if (state.runtime_open) {
        pico_runtime_close(&state.runtime);
    }
    return code;
}
