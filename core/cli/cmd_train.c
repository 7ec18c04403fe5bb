/*
 * train: a model learns from text. The trainer plugin owns losses, optimiser and schedule; the
 * command owns data, validation, checkpoints and the log. This file opens a run (train_run.h). A run
 * that was interrupted goes on with --resume and ends with the same bits. It refuses to begin where
 * its checkpoints cannot be written.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/load.h"
#include "cli/train_run.h"

static pico_status next_batch(void *arg, uint32_t n_seq, uint32_t length, int32_t *tokens,
                              pico_error *err) {
    pico_train_run *run = arg;
    if (length != run->length) {
        return pico_fail(err, PICO_E_INVALID, "the data is packed into rows of %u tokens, not %u",
                         run->length, length);
    }
    pico_train_data_next(run->data, n_seq, tokens);
    return PICO_OK;
}

/* The model as it is to be trained: fresh, or the file with what [shape] adds to it. */
static int open_model(pico_train_run *run, pico_model_file **out) {
    const pico_config *config = run->cli->config;
    const char *path = pico_config_path(config, "model", "path");
    int code = PICO_EXIT_OK;
    *out = NULL;
    if (!run->is_fresh && (path == NULL || *path == '\0')) {
        return pico_cli_usage(run->cli, "no model: give -m MODEL, or --depth N and --tokenizer "
                                        "FILE for a fresh one");
    }
    const pico_status status =
        run->is_fresh ? pico_fresh_open(config, out, &code, &run->err)
                      : pico_extended_open(config, out, &run->new_heads, &code, &run->err);
    if (status != PICO_OK) {
        return pico_cli_fail(run->cli, code, "%s", run->err.message);
    }
    if (pico_train_choose_draft_vocab(run, *out) != PICO_OK) {
        pico_model_file_close(*out);
        return pico_cli_fail_error(run->cli, &run->err);
    }
    return PICO_EXIT_OK;
}

static int open_trainer(pico_train_run *run) {
    const pico_config *config = run->cli->config;
    const char *name = pico_config_string(config, "trainer", "plugin");
    const uint32_t needs = PICO_RUNTIME_MODEL | PICO_RUNTIME_TOKENIZER;
    pico_model_file *file;
    int code = open_model(run, &file);
    if (code != PICO_EXIT_OK) {
        return code;
    }
    if (pico_runtime_open(&run->runtime, config, needs, file, &code, &run->err) != PICO_OK) {
        pico_model_file_close(file);
        return pico_cli_fail(run->cli, code, "%s", run->err.message);
    }
    if (pico_runtime_instance(&run->runtime, PICO_KIND_TRAINER, name, "trainer", &run->trainer,
                              &code, &run->err) != PICO_OK) {
        return pico_cli_fail(run->cli, code, "%s", run->err.message);
    }
    run->ops = &run->trainer.loaded->ops.trainer;
    if (run->ops->begin(run->trainer.self, run->runtime.model, &run->err) != PICO_OK) {
        return pico_cli_fail_error(run->cli, &run->err);
    }
    run->begun = 1;
    run->train = pico_train_of(run->runtime.model);
    if (run->train == NULL) {
        return pico_cli_fail(run->cli, PICO_EXIT_RUNTIME,
                             "trainer %s has begun without a training state of the model", name);
    }
    uint32_t rows;
    pico_train_extent(run->train, &rows, &run->length);
    pico_train_set_source(run->train, next_batch, run);
    return PICO_EXIT_OK;
}

/* Goes on from FOLDER/last.state. */
static pico_status resume(pico_train_run *run) {
    const uint64_t seed = (uint64_t)pico_train_int(run, "seed");
    void *bytes = NULL;
    uint64_t n = 0;
    pico_status status = pico_checkpoint_read(run->folder, &run->at, &bytes, &n, &run->err);
    if (status == PICO_OK && (run->at.length != run->length || run->at.seed != seed)) {
        status = pico_fail(&run->err, PICO_E_INVALID,
                           "%s was trained on rows of %u tokens with seed %llu, now they are %u "
                           "and %llu; a run can only go on as it was",
                           run->folder, run->at.length, (unsigned long long)run->at.seed,
                           run->length, (unsigned long long)seed);
    }
    if (status == PICO_OK && run->at.packing != pico_train_packing(run)) {
        status = pico_fail(&run->err, PICO_E_INVALID,
                           "%s was trained with another [trainer] packing; a run can only go on as "
                           "it was",
                           run->folder);
    }
    if (status == PICO_OK) {
        status = run->ops->load(run->trainer.self, bytes, n, &run->err);
    }
    if (status == PICO_OK) {
        pico_train_data_seek(run->data, run->at.rows);
    }
    free(bytes);
    return status;
}

static pico_status draw_values(pico_train_run *run) {
    if (run->is_fresh || strcmp(pico_train_text_of(run, "init"), "random") == 0) {
        return pico_train_reset(run->train, run->at.seed, &run->err);
    }
    return pico_train_reset_heads(run->train, run->new_heads, run->at.seed, &run->err);
}

static pico_status open_rest(pico_train_run *run) {
    const int goes_on = pico_train_on(run, "resume");
    const uint64_t eval_rows = (uint64_t)pico_train_int(run, "eval_rows");
    pico_status status = pico_train_open_data(run);
    if (status == PICO_OK) {
        status = pico_train_meter_open(run->train, run->runtime.tokenizer, run->held_data,
                                       run->length, eval_rows, &run->meter, &run->err);
    }
    if (status == PICO_OK) {
        status = pico_train_samples_open(
            run->train, run->runtime.tokenizer, pico_train_text_of(run, "sample"),
            (uint32_t)pico_train_int(run, "sample_tokens"), &run->samples, &run->err);
    }
    if (status == PICO_OK) {
        status = run->ops->save(run->trainer.self, NULL, &run->n_bytes, &run->err);
    }
    if (status == PICO_OK) {
        status = pico_checkpoint_prepare(run->folder, run->n_bytes,
                                         pico_train_model_bytes(run->train), goes_on, &run->err);
    }
    run->bytes = status == PICO_OK ? malloc((size_t)run->n_bytes) : NULL;
    if (status == PICO_OK && run->bytes == NULL) {
        status = pico_fail(&run->err, PICO_E_NOMEM, "out of memory for %llu bytes of state",
                           (unsigned long long)run->n_bytes);
    }
    run->at = (pico_checkpoint){.seed = (uint64_t)pico_train_int(run, "seed"),
                                .length = run->length,
                                .packing = pico_train_packing(run),
                                .best = INFINITY};
    if (status == PICO_OK) { /* even a run that goes on: its state has what is trained alone */
        status = draw_values(run);
    }
    return status == PICO_OK && goes_on ? resume(run) : status;
}

static pico_status open_log(pico_train_run *run) {
    const int json = strcmp(pico_train_text_of(run, "log"), "json") == 0;
    return pico_train_log_open(run->folder, json ? PICO_TRAIN_LOG_JSON : PICO_TRAIN_LOG_CSV,
                               run->at.step, &run->log, &run->err);
}

static int open_and_run(pico_train_run *run) {
    if (pico_train_read_texts(run) != PICO_OK) {
        return pico_cli_fail_error(run->cli, &run->err);
    }
    int code = open_trainer(run);
    if (code != PICO_EXIT_OK) {
        return code;
    }
    if (run->is_fresh) {
        pico_fresh_say(&run->runtime.log, run->runtime.model);
    }
    if (open_rest(run) != PICO_OK || open_log(run) != PICO_OK ||
        pico_cancel_install(&run->err) != PICO_OK) {
        return pico_cli_fail_error(run->cli, &run->err);
    }
    pico_log_write(&run->runtime.log, PICO_LOG_INFO,
                   "%llu tokens in %llu rows of %u; %llu rows for validation; %.0f MB for training",
                   (unsigned long long)pico_train_data_tokens(run->data),
                   (unsigned long long)pico_train_data_rows(run->data), run->length + 1,
                   (unsigned long long)pico_train_data_rows(run->held_data),
                   (double)pico_train_bytes(run->train) * 1e-6);
    run->saved_step = run->at.step;
    return pico_train_run_steps(run);
}

static int train_command(const pico_cli *cli) {
    pico_train_run run = {.cli = cli};
    run.folder = pico_train_path(&run, "output");
    run.is_fresh = pico_fresh_is_wanted(cli->config);
    if (pico_train_path(&run, "data") == NULL || run.folder == NULL) {
        return pico_cli_usage(cli, "train needs --data TEXT and --out FOLDER");
    }
    int code = open_and_run(&run);
    pico_train_log_close(run.log);
    pico_train_meter_close(run.meter);
    pico_train_samples_close(&run.samples);
    if (run.begun) {
        run.ops->end(run.trainer.self);
    }
    pico_train_data_close(run.data);
    pico_train_data_close(run.held_data);
    pico_train_tokens_free(&run.tokens);
    pico_runtime_close(&run.runtime);
    pico_texts_free(&run.texts);
    pico_texts_free(&run.held_texts);
    free(run.bytes);
    pico_arena_free(&run.arena);
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
        "With -m, shape.mtp_heads and shape.draft_slots give the model heads that it has not.\n"
        "FOLDER gets last.gguf and best.gguf (lowest bits per byte on held-out text), last.state,\n"
        "from which --resume goes on bit for bit, and log.csv or log.jsonl. The first Ctrl-C "
        "writes\n"
        "a checkpoint. plugins show distill lists losses, optimisers and schedule.",
    .sections = "model host backend attention shape trainer",
    .max_arguments = 0,
    .runs_plugins = 1,
    .run = train_command};
