/*
 * The loop of a training run: steps, validations, checkpoints, the log. Whatever fails in it names
 * the last good checkpoint. See train_run.h.
 */
#include "cli/train_run.h"

#include <math.h>
#include <stdlib.h>

/* ---- checkpoints and validation ---- */

static pico_status write_model(pico_train_run *run, const char *name) {
    const char *path = pico_arena_printf(&run->arena, "%s/%s", run->folder, name);
    return path == NULL ? pico_fail(&run->err, PICO_E_NOMEM, "out of memory")
                        : pico_train_write(run->train, path, &run->err);
}

/* The model first: the state is what a run goes on from, and holds all that the model holds. */
static pico_status save(pico_train_run *run) {
    if (run->saved_step == run->at.step) {
        return PICO_OK;
    }
    uint64_t n = run->n_bytes;
    run->at.rows = pico_train_data_tell(run->data);
    pico_status status = write_model(run, "last.gguf");
    if (status == PICO_OK) {
        status = run->ops->save(run->trainer.self, run->bytes, &n, &run->err);
    }
    if (status == PICO_OK) {
        status = pico_checkpoint_write(run->folder, &run->at, run->bytes, n, &run->err);
    }
    run->saved_step = status == PICO_OK ? run->at.step : run->saved_step;
    return status;
}

static pico_status validate(pico_train_run *run, pico_train_line *line) {
    pico_status status =
        pico_train_measure(run->meter, &line->nats, &line->bits_per_byte, &run->err);
    if (status != PICO_OK) {
        return status;
    }
    const pico_train_metrics *m = &run->last;
    pico_log_write(&run->runtime.log, PICO_LOG_INFO,
                   "step %llu of %llu: loss %.4f, validation %.4f bits per byte (%.4f nats), %.0f "
                   "tokens/s",
                   (unsigned long long)run->at.step, (unsigned long long)m->n_steps, m->loss,
                   line->bits_per_byte, line->nats, pico_train_tokens_per_s(&run->speed.all));
    if (line->bits_per_byte < run->at.best) {
        run->at.best = line->bits_per_byte;
        status = write_model(run, "best.gguf");
    }
    return status == PICO_OK ? pico_train_samples_print(&run->samples, &run->runtime.log, &run->err)
                             : status;
}

/* ---- the loop ---- */

/* Whatever goes wrong now is no matter of usage any more. */
static int fail_step(const pico_train_run *run, pico_status status) {
    const int code = pico_exit_code(status);
    const int kept = code == PICO_EXIT_MEMORY || code == PICO_EXIT_INTERRUPTED;
    if (run->saved_step == 0) {
        return pico_cli_fail(run->cli, kept ? code : PICO_EXIT_RUNTIME,
                             "%s. There is no checkpoint yet", run->err.message);
    }
    return pico_cli_fail(run->cli, kept ? code : PICO_EXIT_RUNTIME,
                         "%s. The last good checkpoint is %s/last.state, step %llu",
                         run->err.message, run->folder, (unsigned long long)run->saved_step);
}

static int due(const pico_train_run *run, const char *key) {
    const uint64_t every = (uint64_t)pico_train_int(run, key);
    return every != 0 && run->at.step % every == 0;
}

static void show_progress(pico_train_run *run, uint64_t stop) {
    const pico_train_metrics *m = &run->last;
    char what[80];
    (void)snprintf(what, sizeof what, "train: loss %.4f, %.0f tokens/s,", m->loss,
                   pico_train_tokens_per_s(&run->speed.all));
    pico_log_progress(&run->runtime.log, what, m->step,
                      stop > m->step && stop < m->n_steps ? stop : m->n_steps);
}

/* Adds to the message which rows of the data the step was given; one can look at those alone. */
static void name_batch(pico_train_run *run, uint64_t first) {
    const uint64_t end = pico_train_data_tell(run->data), n = pico_train_data_rows(run->data);
    const pico_error inner = run->err;
    if (end > first) {
        (void)pico_fail(&run->err, inner.code,
                        "%.380s. Its batch: rows %llu to %llu of the data, about epoch %llu",
                        inner.message, (unsigned long long)first + 1, (unsigned long long)end,
                        (unsigned long long)(first / n + 1));
    }
}

/* One step, timed. */
static pico_status step(pico_train_run *run, pico_train_metrics *m) {
    const uint64_t first = pico_train_data_tell(run->data);
    pico_train_speed_begin(&run->speed, run->train);
    const pico_status status = run->ops->step(run->trainer.self, m, &run->err);
    if (status != PICO_OK) {
        name_batch(run, first);
    } else {
        pico_train_speed_end(&run->speed, run->train, m->n_tokens);
        run->last = *m;
        run->at.step = m->step;
    }
    return status;
}

/* What follows a step; over: it was the last one. */
static pico_status finish_step(pico_train_run *run, int over) {
    const pico_train_work *work = &run->speed.step;
    const pico_train_metrics *m = &run->last;
    pico_train_line line = {.metrics = m,
                            .tokens = m->step * m->n_tokens,
                            .seconds = work->seconds,
                            .tokens_per_s = pico_train_tokens_per_s(work),
                            .gflops = pico_train_gflops(work),
                            .nats = NAN,
                            .bits_per_byte = NAN};
    pico_status status = PICO_OK;
    if (due(run, "eval_every") || m->finished) {
        status = validate(run, &line);
    }
    if (status == PICO_OK) {
        status = pico_train_log_write(run->log, &line, &run->err);
        if (status != PICO_OK) { /* the step is good, and where the log is full the state may fit */
            const pico_error inner = run->err;
            (void)save(run);
            run->err = inner;
        }
    }
    return status == PICO_OK && (due(run, "save_every") || over) ? save(run) : status;
}

static int finish_run(pico_train_run *run) {
    if (save(run) != PICO_OK) {
        return fail_step(run, run->err.code);
    }
    pico_train_speed_print(&run->speed, run->train, &run->runtime);
    pico_log_write(&run->runtime.log, PICO_LOG_INFO, "step %llu of %llu, loss %.4f: %s/last.gguf%s",
                   (unsigned long long)run->at.step, (unsigned long long)run->last.n_steps,
                   run->last.loss, run->folder,
                   pico_cancel_requested() ? "; interrupted, --resume goes on" : "");
    return pico_cancel_requested() ? PICO_EXIT_INTERRUPTED : PICO_EXIT_OK;
}

int pico_train_run_steps(pico_train_run *run) {
    const uint64_t stop = (uint64_t)pico_train_int(run, "stop_at");
    for (int over = 0; !over && !pico_cancel_requested();) {
        pico_train_metrics m = {.struct_size = sizeof m};
        pico_status status = step(run, &m);
        over = m.finished || (stop != 0 && m.step >= stop);
        status = status == PICO_OK ? finish_step(run, over) : status;
        if (status != PICO_OK) {
            return fail_step(run, status);
        }
        show_progress(run, stop);
    }
    return finish_run(run);
}
