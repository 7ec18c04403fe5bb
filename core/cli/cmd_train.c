/*
 * train: a model learns from text. The trainer plugin owns losses, optimiser and schedule; this file
 * owns data, validation, checkpoints and the log. A run that was interrupted goes on with --resume
 * and ends with the same bits. It refuses to begin where its checkpoints cannot be written.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/load.h"
#include "cli/train_files.h"
#include "train/validate.h"

typedef struct train_state {
    const pico_cli *cli;
    pico_runtime runtime;
    pico_instance trainer;
    const pico_trainer_ops *ops;
    int begun;    /* 1: end is due */
    int is_fresh; /* 1: the model is made, not opened */
    pico_train *train;
    pico_texts texts, held_texts;
    pico_train_text *held; /* of texts */
    pico_train_data *data, *held_data;
    pico_train_meter *meter;
    uint32_t length;
    const char *folder;
    FILE *csv;
    void *bytes; /* room for the trainer's state */
    uint64_t n_bytes;
    pico_checkpoint at;
    uint64_t saved_step;
    double started;
    uint64_t tokens; /* since it started */
    pico_train_metrics last;
    pico_arena arena;
    pico_error err;
} train_state;

static double now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int64_t option_int(const train_state *state, const char *key) {
    return pico_config_int(state->cli->config, "trainer", key);
}
static const char *option_text(const train_state *state, const char *key) {
    return pico_config_string(state->cli->config, "trainer", key);
}
static const char *option_path(const train_state *state, const char *key) {
    return pico_config_path(state->cli->config, "trainer", key);
}
static int option_on(const train_state *state, const char *key) {
    return pico_config_bool(state->cli->config, "trainer", key);
}

/* ---- opening ---- */

static pico_status read_texts(train_state *state) {
    const char *separator = option_text(state, "separator");
    const char *validation = option_path(state, "validation");
    pico_status status =
        pico_texts_read(option_path(state, "data"), separator, &state->texts, &state->err);
    if (status != PICO_OK || validation == NULL) {
        return status;
    }
    return pico_texts_read(validation, separator, &state->held_texts, &state->err);
}

static pico_status open_data(train_state *state) {
    const uint64_t seed = (uint64_t)option_int(state, "seed");
    const pico_tokenizer *tokenizer = state->runtime.tokenizer;
    const pico_train_text *held = state->held_texts.document;
    size_t n_held = state->held_texts.n_document;
    pico_status status = PICO_OK;
    if (held == NULL) {
        status = pico_texts_hold_out(&state->texts, &state->held, &n_held, &state->err);
        held = state->held;
    }
    if (status == PICO_OK) {
        status = pico_train_data_open(tokenizer, state->texts.document, state->texts.n_document,
                                      state->length, seed, &state->data, &state->err);
    }
    if (status == PICO_OK) {
        status = pico_train_data_open(tokenizer, held, n_held, state->length, 0, &state->held_data,
                                      &state->err);
        if (status != PICO_OK) {
            pico_error inner = state->err;
            status = pico_fail(&state->err, status, "validation: %s", inner.message);
        }
    }
    return status;
}

static pico_status next_batch(void *arg, uint32_t n_seq, uint32_t length, int32_t *tokens,
                              pico_error *err) {
    train_state *state = arg;
    if (length != state->length) {
        return pico_fail(err, PICO_E_INVALID, "the data is packed into rows of %u tokens, not %u",
                         state->length, length);
    }
    pico_train_data_next(state->data, n_seq, tokens);
    return PICO_OK;
}

static int open_trainer(train_state *state) {
    const pico_config *config = state->cli->config;
    const char *name = pico_config_string(config, "trainer", "plugin");
    const uint32_t needs = PICO_RUNTIME_MODEL | PICO_RUNTIME_TOKENIZER;
    int code = PICO_EXIT_OK;
    pico_model_file *file = NULL; /* made, not opened */
    const char *path = pico_config_path(config, "model", "path");
    if (!state->is_fresh && (path == NULL || *path == '\0')) {
        return pico_cli_usage(state->cli, "no model: give -m MODEL, or --depth N and --tokenizer "
                                          "FILE for a fresh one");
    }
    if (state->is_fresh && pico_fresh_open(config, &file, &code, &state->err) != PICO_OK) {
        return pico_cli_fail(state->cli, code, "%s", state->err.message);
    }
    if (pico_runtime_open(&state->runtime, config, needs, file, &code, &state->err) != PICO_OK) {
        pico_model_file_close(file);
        return pico_cli_fail(state->cli, code, "%s", state->err.message);
    }
    if (pico_runtime_instance(&state->runtime, PICO_KIND_TRAINER, name, "trainer", &state->trainer,
                              &code, &state->err) != PICO_OK) {
        return pico_cli_fail(state->cli, code, "%s", state->err.message);
    }
    state->ops = &state->trainer.loaded->ops.trainer;
    if (state->ops->begin(state->trainer.self, state->runtime.model, &state->err) != PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    state->begun = 1;
    state->train = pico_train_of(state->runtime.model);
    if (state->train == NULL) {
        return pico_cli_fail(state->cli, PICO_EXIT_RUNTIME,
                             "trainer %s has begun without a training state of the model", name);
    }
    uint32_t rows;
    pico_train_extent(state->train, &rows, &state->length);
    pico_train_set_source(state->train, next_batch, state);
    return PICO_EXIT_OK;
}

/* Goes on from FOLDER/last.state. */
static pico_status resume(train_state *state) {
    const uint64_t seed = (uint64_t)option_int(state, "seed");
    void *bytes = NULL;
    uint64_t n = 0;
    pico_status status = pico_checkpoint_read(state->folder, &state->at, &bytes, &n, &state->err);
    if (status == PICO_OK && (state->at.length != state->length || state->at.seed != seed)) {
        status = pico_fail(&state->err, PICO_E_INVALID,
                           "%s was trained on rows of %u tokens with seed %llu, now they are %u "
                           "and %llu; a run can only go on as it was",
                           state->folder, state->at.length, (unsigned long long)state->at.seed,
                           state->length, (unsigned long long)seed);
    }
    if (status == PICO_OK) {
        status = state->ops->load(state->trainer.self, bytes, n, &state->err);
    }
    if (status == PICO_OK) {
        pico_train_data_seek(state->data, state->at.rows);
    }
    free(bytes);
    return status;
}

static pico_status open_rest(train_state *state) {
    const int goes_on = option_on(state, "resume");
    const uint64_t eval_rows = (uint64_t)option_int(state, "eval_rows");
    pico_status status = open_data(state);
    if (status == PICO_OK) {
        status = pico_train_meter_open(state->train, state->runtime.tokenizer, state->held_data,
                                       state->length, eval_rows, &state->meter, &state->err);
    }
    if (status == PICO_OK) {
        status = state->ops->save(state->trainer.self, NULL, &state->n_bytes, &state->err);
    }
    if (status == PICO_OK) { /* the old state and the new one, and both models */
        status = pico_checkpoint_prepare(state->folder, 4 * state->n_bytes, goes_on, &state->err);
    }
    state->bytes = status == PICO_OK ? malloc((size_t)state->n_bytes) : NULL;
    if (status == PICO_OK && state->bytes == NULL) {
        status = pico_fail(&state->err, PICO_E_NOMEM, "out of memory for %llu bytes of state",
                           (unsigned long long)state->n_bytes);
    }
    state->at = (pico_checkpoint){
        .seed = (uint64_t)option_int(state, "seed"), .length = state->length, .best = INFINITY};
    if (status == PICO_OK && goes_on) {
        return resume(state);
    }
    if (status == PICO_OK &&
        (state->is_fresh || strcmp(option_text(state, "init"), "random") == 0)) {
        status = pico_train_reset(state->train, state->at.seed, &state->err);
    }
    return status;
}

/* ---- the log ---- */

static pico_status open_log(train_state *state) {
    const char *path = pico_arena_printf(&state->arena, "%s/log.csv", state->folder);
    state->csv = path == NULL ? NULL : fopen(path, option_on(state, "resume") ? "a" : "w");
    return state->csv != NULL
               ? PICO_OK
               : pico_fail(&state->err, PICO_E_IO, "cannot write %s/log.csv", state->folder);
}

static void log_step(train_state *state, const pico_train_metrics *m, double nats, double bpb) {
    if (m->step == 1) {
        (void)fprintf(state->csv, "step,loss,learning_rate,tokens,seconds");
        for (uint32_t i = 0; i < m->n_term; i++) {
            (void)fprintf(state->csv, ",%s", m->term_name[i]);
        }
        (void)fprintf(state->csv, ",validation_nats,validation_bpb\n");
    }
    (void)fprintf(state->csv, "%llu,%.6f,%.6g,%llu,%.3f", (unsigned long long)m->step, m->loss,
                  m->learning_rate, (unsigned long long)(m->step * m->n_tokens),
                  now() - state->started);
    for (uint32_t i = 0; i < m->n_term; i++) {
        (void)fprintf(state->csv, ",%.6f", m->term[i]);
    }
    if (isnan(bpb)) {
        (void)fprintf(state->csv, ",,\n");
    } else {
        (void)fprintf(state->csv, ",%.6f,%.6f\n", nats, bpb);
    }
    (void)fflush(state->csv);
}

/* ---- checkpoints and validation ---- */

static pico_status write_model(train_state *state, const char *name) {
    const char *path = pico_arena_printf(&state->arena, "%s/%s", state->folder, name);
    return path == NULL ? pico_fail(&state->err, PICO_E_NOMEM, "out of memory")
                        : pico_train_write(state->train, path, &state->err);
}

/* The model first: the state is what a run goes on from, and holds all that the model holds. */
static pico_status save(train_state *state) {
    if (state->saved_step == state->at.step) {
        return PICO_OK;
    }
    uint64_t n = state->n_bytes;
    state->at.rows = pico_train_data_tell(state->data);
    pico_status status = write_model(state, "last.gguf");
    if (status == PICO_OK) {
        status = state->ops->save(state->trainer.self, state->bytes, &n, &state->err);
    }
    if (status == PICO_OK) {
        status = pico_checkpoint_write(state->folder, &state->at, state->bytes, n, &state->err);
    }
    state->saved_step = status == PICO_OK ? state->at.step : state->saved_step;
    return status;
}

static pico_status validate(train_state *state, double *nats, double *bpb) {
    pico_status status = pico_train_measure(state->meter, nats, bpb, &state->err);
    if (status != PICO_OK) {
        return status;
    }
    const pico_train_metrics *m = &state->last;
    pico_log_write(&state->runtime.log, PICO_LOG_INFO,
                   "step %llu of %llu: loss %.4f, validation %.4f bits per byte (%.4f nats), %.0f "
                   "tokens/s",
                   (unsigned long long)state->at.step, (unsigned long long)m->n_steps, m->loss,
                   *bpb, *nats, (double)state->tokens / (now() - state->started + 1e-9));
    if (*bpb < state->at.best) {
        state->at.best = *bpb;
        status = write_model(state, "best.gguf");
    }
    return status;
}

/* ---- the loop ---- */

/* Whatever goes wrong now is no matter of usage any more. */
static int fail_step(const train_state *state, pico_status status) {
    const int code = pico_exit_code(status);
    const int kept = code == PICO_EXIT_MEMORY || code == PICO_EXIT_INTERRUPTED;
    if (state->saved_step == 0) {
        return pico_cli_fail(state->cli, kept ? code : PICO_EXIT_RUNTIME, "%s", state->err.message);
    }
    return pico_cli_fail(state->cli, kept ? code : PICO_EXIT_RUNTIME,
                         "%s. The last good checkpoint is %s/last.state, step %llu",
                         state->err.message, state->folder, (unsigned long long)state->saved_step);
}

static int due(const train_state *state, const char *key) {
    const uint64_t every = (uint64_t)option_int(state, key);
    return every != 0 && state->at.step % every == 0;
}

/* Runs steps until the schedule, the wanted step or the user ends it. */
static int run_steps(train_state *state) {
    const uint64_t stop = (uint64_t)option_int(state, "stop_at");
    pico_status status = PICO_OK;
    for (int over = 0; !over && !pico_cancel_requested();) {
        pico_train_metrics m = {.struct_size = sizeof m};
        double nats = NAN, bpb = NAN;
        status = state->ops->step(state->trainer.self, &m, &state->err);
        if (status != PICO_OK) {
            return fail_step(state, status);
        }
        state->last = m;
        state->at.step = m.step;
        state->tokens += m.n_tokens;
        over = m.finished || (stop != 0 && m.step >= stop);
        if (due(state, "eval_every") || m.finished) {
            status = validate(state, &nats, &bpb);
        }
        log_step(state, &m, nats, bpb);
        if (status == PICO_OK && (due(state, "save_every") || over)) {
            status = save(state);
        }
        if (status != PICO_OK) {
            return fail_step(state, status);
        }
        pico_log_progress(&state->runtime.log, "train", m.step, m.n_steps);
    }
    if (save(state) != PICO_OK) {
        return fail_step(state, state->err.code);
    }
    pico_log_write(&state->runtime.log, PICO_LOG_INFO,
                   "step %llu of %llu, loss %.4f: %s/last.gguf%s",
                   (unsigned long long)state->at.step, (unsigned long long)state->last.n_steps,
                   state->last.loss, state->folder,
                   pico_cancel_requested() ? "; interrupted, --resume goes on" : "");
    return pico_cancel_requested() ? PICO_EXIT_INTERRUPTED : PICO_EXIT_OK;
}

static int run(train_state *state) {
    if (read_texts(state) != PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    int code = open_trainer(state);
    if (code != PICO_EXIT_OK) {
        return code;
    }
    if (state->is_fresh) {
        pico_fresh_say(&state->runtime.log, state->runtime.model);
    }
    if (open_rest(state) != PICO_OK || open_log(state) != PICO_OK ||
        pico_cancel_install(&state->err) != PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    pico_log_write(&state->runtime.log, PICO_LOG_INFO,
                   "%llu tokens in %llu rows of %u; %llu rows for validation; %.0f MB for training",
                   (unsigned long long)pico_train_data_tokens(state->data),
                   (unsigned long long)pico_train_data_rows(state->data), state->length + 1,
                   (unsigned long long)pico_train_data_rows(state->held_data),
                   (double)pico_train_bytes(state->train) * 1e-6);
    state->saved_step = state->at.step;
    state->started = now();
    return run_steps(state);
}

static int train_command(const pico_cli *cli) {
    train_state state = {.cli = cli};
    state.folder = option_path(&state, "output");
    state.is_fresh = pico_fresh_is_wanted(cli->config);
    if (option_path(&state, "data") == NULL || state.folder == NULL) {
        return pico_cli_usage(cli, "train needs --data TEXT and --out FOLDER");
    }
    int code = run(&state);
    pico_train_meter_close(state.meter);
    if (state.begun) {
        state.ops->end(state.trainer.self);
    }
    pico_train_data_close(state.data);
    pico_train_data_close(state.held_data);
    pico_runtime_close(&state.runtime);
    pico_texts_free(&state.texts);
    pico_texts_free(&state.held_texts);
    if (state.csv != NULL) {
        (void)fclose(state.csv);
    }
    free(state.held);
    free(state.bytes);
    pico_arena_free(&state.arena);
    return code;
}

const pico_command pico_command_train = {
    .name = "train",
    .summary = "train a model on text, with or without a teacher",
    .usage = "train (-m MODEL | --depth N --tokenizer FILE) --data TEXT --out FOLDER\n"
             "           [--set trainer.distill.KEY=VALUE]...",
    .details =
        "--depth N makes a fresh model of N layers; its other numbers are set with "
        "shape.KEY=VALUE.\n"
        "FOLDER gets last.gguf and best.gguf (lowest bits per byte on held-out text), last.state,\n"
        "from which --resume goes on bit for bit, and log.csv. The first Ctrl-C writes a "
        "checkpoint.\nplugins show distill lists losses, optimisers and schedule.",
    .sections = "model host backend attention shape trainer",
    .max_arguments = 0,
    .runs_plugins = 1,
    .run = train_command};
