/*
 * Many answers: prompts and their samples share a decode loop of a few slots; a slot that is done
 * takes the next prompt. The samples of a prompt start together, so that it is run once. Each
 * answer becomes one JSON object on a line of stdout, in the order of the prompts. Nothing of an
 * unfinished answer is printed. A decoder that steers takes one slot for all samples of a prompt,
 * which are its best answers.
 */
#include "cli/run_many.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "cli/answer.h"
#include "util/checked.h"
#include "util/text.h"

/* One sample of one prompt. */
typedef struct job {
    pico_string text; /* the answer so far */
    uint32_t done;    /* 1: finished, or its prompt cannot be run */
    uint32_t absent;  /* 1: the decoder has no such answer */
    uint32_t finish, n_token;
    double score;       /* of a decoder that steers */
    uint32_t no_memory; /* 1: some of the text could not be kept */
} job;

typedef struct many {
    const pico_cli *cli;
    pico_runtime *runtime;
    pico_prompts *prompts;
    uint32_t n_sample; /* at least 1 */
    uint32_t n_taken;  /* slots that the samples of a prompt take together */
    int numbered;      /* 1: the objects say which sample they are */
    int echo;
    pico_decode *decode;
    uint32_t n_slots;
    size_t *slot_job; /* (n_slots) job + 1; 0: the slot is free */
    job *job;         /* (n_job) the samples of a prompt are neighbours */
    size_t n_job;
    size_t next;    /* first job that has not been started */
    size_t printed; /* first job that has not been printed */
    size_t n_error, n_full;
    int write_error; /* errno */
    pico_error err;
} many;

/* ---- opening ---- */

/* What a prompt has done wrong is its own affair; running out of memory is everybody's. */
static pico_status set_aside(pico_prompt *prompt, const pico_error *why) {
    if (why->code != PICO_E_LIMIT && why->code != PICO_E_INVALID) {
        return why->code;
    }
    prompt->error = strdup(why->message);
    return prompt->error == NULL ? PICO_E_NOMEM : PICO_OK;
}

/* Encodes all prompts; *total gets the tokens of the longest timeline. */
static pico_status encode(many *m, uint64_t *total) {
    const pico_tokenizer *tokenizer = m->runtime->tokenizer;
    uint32_t flags = pico_tokenizer_adds_bos(tokenizer) ? (uint32_t)PICO_ENCODE_BOS : 0u;
    pico_status status = PICO_OK;
    *total = 1;
    for (size_t i = 0; status == PICO_OK && i < m->prompts->n; i++) {
        pico_prompt *prompt = &m->prompts->prompt[i];
        status = pico_tokenizer_encode(tokenizer, prompt->text, prompt->n_text, flags, &prompt->ids,
                                       &prompt->n_ids, &m->err);
        if (status != PICO_OK) {
            status = set_aside(prompt, &m->err);
        } else if (prompt->n_ids + prompt->max_tokens > *total) {
            *total = prompt->n_ids + prompt->max_tokens;
        }
    }
    return status;
}

/* As many slots as there is use for; those that samples of one prompt cannot fill are left out. */
static uint32_t slots_for(const many *m, uint32_t parallel) {
    uint64_t all = (uint64_t)m->prompts->n * m->n_taken;
    uint32_t wanted = parallel == 0 ? m->n_taken : parallel;
    uint32_t n = all < wanted ? (uint32_t)all : wanted;
    return n > m->n_taken ? n - n % m->n_taken : n;
}

/* The samples of a decoder that steers are the answers that it keeps. */
static pico_status check_samples(many *m) {
    uint32_t n_beam = pico_decode_n_beam(m->decode);
    return n_beam == 0 || m->n_sample <= n_beam
               ? PICO_OK
               : pico_fail(
                     &m->err, PICO_E_INVALID,
                     "--samples %u: decoder %s keeps %u answers of a prompt; ask for fewer or "
                     "let it keep more",
                     m->n_sample, m->runtime->decoder.loaded->plugin.name, n_beam);
}

static pico_status open_loop(many *m, const pico_many_params *params) {
    pico_decode_params decode;
    uint64_t total = 0, n_job = 0;
    pico_status status = encode(m, &total);
    if (status != PICO_OK) {
        return status;
    }
    if (!pico_checked_mul(m->prompts->n, m->n_sample, &n_job) || n_job > SIZE_MAX / sizeof(job)) {
        return pico_fail(&m->err, PICO_E_LIMIT, "%u samples of %zu prompts are too many",
                         m->n_sample, m->prompts->n);
    }
    m->n_job = (size_t)n_job;
    /* Whether it really steers is known when it has begun, which needs the number of slots. */
    m->n_taken = m->runtime->decoder.loaded->ops.decoder.advance != NULL ? 1 : m->n_sample;
    m->n_slots = slots_for(m, params->parallel);
    m->job = calloc(m->n_job, sizeof *m->job);
    m->slot_job = calloc(m->n_slots, sizeof *m->slot_job);
    if (m->job == NULL || m->slot_job == NULL) {
        return pico_fail(&m->err, PICO_E_NOMEM, "out of memory for %zu answers", m->n_job);
    }
    status = pico_runtime_decode_params(m->runtime, m->n_slots, total, &decode, &m->err);
    if (status == PICO_OK) {
        status = pico_decode_open(m->runtime->model, &decode, &m->decode, &m->err);
    }
    if (status == PICO_OK) {
        m->n_taken = pico_decode_n_beam(m->decode) != 0 ? 1 : m->n_sample;
        status = check_samples(m);
    }
    if (status == PICO_OK) {
        pico_answer_describe(m->runtime, m->decode, pico_answer_clock() - params->begin);
    }
    return status;
}

/* ---- printing ---- */

/* Text as a JSON string, which holds valid UTF-8: every byte that is no part of a valid character
 * becomes U+FFFD. NULL: out of memory. */
static json_t *json_text(const char *text, size_t n) {
    static const char replacement[] = "\xef\xbf\xbd";
    char *valid = malloc(3 * n + 1);
    size_t used = 0;
    for (size_t i = 0; valid != NULL && i < n;) {
        uint32_t code;
        size_t length = pico_utf8_decode(text + i, n - i, &code);
        memcpy(valid + used, length == 0 ? replacement : text + i, length == 0 ? 3 : length);
        used += length == 0 ? 3 : length;
        i += length == 0 ? 1 : length;
    }
    json_t *string = valid == NULL ? NULL : json_stringn(valid, used);
    free(valid);
    return string;
}

/* The object of a job; NULL: out of memory. */
static json_t *json_job(const many *m, size_t index) {
    size_t number = index / m->n_sample;
    const pico_prompt *prompt = &m->prompts->prompt[number];
    const job *j = &m->job[index];
    json_t *object = json_object();
    int failed = json_object_set_new(object, "index", json_integer((json_int_t)number));
    if (m->numbered && prompt->error == NULL) {
        json_int_t sample = (json_int_t)(index % m->n_sample);
        failed |= json_object_set_new(object, "sample", json_integer(sample));
    }
    if (m->echo) {
        failed |= json_object_set_new(object, "prompt", json_text(prompt->text, prompt->n_text));
    }
    if (prompt->error != NULL) {
        failed |=
            json_object_set_new(object, "error", json_text(prompt->error, strlen(prompt->error)));
    } else {
        failed |= json_object_set_new(object, "text", json_text(j->text.data, j->text.n));
        failed |= json_object_set_new(object, "finish", json_string(pico_finish_name(j->finish)));
        failed |= json_object_set_new(object, "n_prompt", json_integer((json_int_t)prompt->n_ids));
        failed |= json_object_set_new(object, "n_tokens", json_integer(j->n_token));
        if (pico_decode_n_beam(m->decode) != 0) {
            failed |= json_object_set_new(object, "score", json_real(j->score));
        }
    }
    if (failed) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static pico_status print_job(many *m, size_t index) {
    job *j = &m->job[index];
    int is_error = m->prompts->prompt[index / m->n_sample].error != NULL;
    if (j->absent || (is_error && index % m->n_sample != 0)) {
        return PICO_OK; /* one object for all samples */
    }
    json_t *object = j->no_memory ? NULL : json_job(m, index);
    if (object == NULL) {
        return pico_fail(&m->err, PICO_E_NOMEM, "out of memory for an answer");
    }
    errno = 0;
    if (json_dumpf(object, stdout, JSON_REAL_PRECISION(9)) != 0 || putchar('\n') == EOF) {
        m->write_error = errno == 0 ? EIO : errno;
    }
    json_decref(object);
    m->n_error += is_error ? 1 : 0;
    free(j->text.data);
    j->text = (pico_string){0};
    return PICO_OK;
}

/* Prints what has become printable; with all = 1 also what is done behind something that is not. */
static pico_status print_done(many *m, int all) {
    pico_status status = PICO_OK;
    size_t before = m->printed;
    while (status == PICO_OK && m->write_error == 0 && m->printed < m->n_job &&
           (all || m->job[m->printed].done)) {
        status = m->job[m->printed].done ? print_job(m, m->printed) : PICO_OK;
        m->printed++;
    }
    errno = 0;
    if (m->printed != before && m->write_error == 0 && fflush(stdout) != 0) {
        m->write_error = errno == 0 ? EIO : errno;
    }
    return status;
}

/* ---- running ---- */

/* A pico_text_fn. */
static void keep_text(void *arg, const char *text, size_t n) {
    job *j = arg;
    j->no_memory |= !pico_string_add(&j->text, text, n);
}

static pico_request request_of(many *m, size_t index) {
    const pico_prompt *prompt = &m->prompts->prompt[index / m->n_sample];
    pico_request request = {.prompt = prompt->ids,
                            .n_prompt = prompt->n_ids,
                            .max_tokens = prompt->max_tokens,
                            .seed = prompt->seed,
                            .sample = (uint32_t)(index % m->n_sample),
                            .ignore_end =
                                pico_config_bool(m->cli->config, "generate", "ignore_eos"),
                            .on_text = pico_decode_n_beam(m->decode) == 0 ? keep_text : NULL,
                            .arg = &m->job[index]};
    request.stop = pico_runtime_stops(m->runtime, &request.n_stop);
    return request;
}

/* Starts a job; its slot begins afresh, so that an answer does not depend on who was there before.
 * leader: slot that has just been started with the same prompt, or n_slots. */
static pico_status start_job(many *m, size_t index, uint32_t slot, uint32_t leader) {
    pico_request request = request_of(m, index);
    int shared =
        leader < m->n_slots && pico_decode_slot(m->decode, leader).finish == PICO_FINISH_NONE;
    pico_decode_forget(m->decode, slot);
    pico_status status = shared
                             ? pico_decode_start_shared(m->decode, slot, leader, &request, &m->err)
                             : pico_decode_start(m->decode, slot, &request, &m->err);
    m->slot_job[slot] = status == PICO_OK ? index + 1 : 0;
    return status;
}

static uint32_t free_slot(const many *m, uint32_t from) {
    while (from < m->n_slots && m->slot_job[from] != 0) {
        from++;
    }
    return from;
}

static uint32_t n_free(const many *m) {
    uint32_t n = 0;
    for (uint32_t s = 0; s < m->n_slots; s++) {
        n += m->slot_job[s] == 0;
    }
    return n;
}

/* The slots for the next jobs that belong to one prompt and can run at once. */
static uint32_t group_size(const many *m) {
    uint32_t left = m->n_taken - (uint32_t)(m->next % m->n_sample);
    return left < m->n_slots ? left : m->n_slots;
}

/* Starts jobs while there are slots for all samples of the next prompt. */
static pico_status start_jobs(many *m) {
    pico_status status = PICO_OK;
    while (status == PICO_OK && m->next < m->n_job && group_size(m) <= n_free(m)) {
        pico_prompt *prompt = &m->prompts->prompt[m->next / m->n_sample];
        uint32_t group = group_size(m), leader = m->n_slots;
        for (uint32_t i = 0; status == PICO_OK && prompt->error == NULL && i < group; i++) {
            uint32_t slot = free_slot(m, 0);
            status = start_job(m, m->next + i, slot, leader);
            leader = i == 0 ? slot : leader;
            if (status != PICO_OK && i == 0) {
                status = set_aside(prompt, &m->err);
            }
        }
        uint32_t n_job = m->n_taken == m->n_sample ? group : m->n_sample;
        for (uint32_t i = 0; i < n_job; i++) {
            m->job[m->next + i].done = prompt->error != NULL;
        }
        m->next += n_job;
    }
    return status;
}

static void finish_job(many *m, job *j, const pico_slot_state *slot) {
    j->done = 1;
    j->finish = slot->finish;
    j->n_token = slot->n_token - slot->n_prompt;
    m->n_full += slot->finish == PICO_FINISH_CONTEXT ? 1 : 0;
}

/* The best answers of a slot become the samples of its prompt. */
static void collect_best(many *m, uint32_t slot, job *samples) {
    uint32_t n_best = pico_decode_n_best(m->decode, slot);
    for (uint32_t i = 0; i < m->n_sample; i++) {
        samples[i].done = 1;
        samples[i].absent = i >= n_best;
        if (!samples[i].absent) {
            pico_slot_state best = pico_decode_best(m->decode, slot, i, &samples[i].score);
            finish_job(m, &samples[i], &best);
            pico_decode_best_text(m->decode, slot, i, keep_text, &samples[i]);
        }
    }
}

/* Frees the slots whose answers are done. */
static void collect(many *m) {
    for (uint32_t s = 0; s < m->n_slots; s++) {
        pico_slot_state slot = pico_decode_slot(m->decode, s);
        if (m->slot_job[s] != 0 && slot.finish != PICO_FINISH_NONE) {
            job *j = &m->job[m->slot_job[s] - 1];
            if (pico_decode_n_beam(m->decode) != 0) {
                collect_best(m, s, j);
            } else {
                finish_job(m, j, &slot);
            }
            m->slot_job[s] = 0;
        }
    }
}

static pico_status run_all(many *m) {
    pico_status status = PICO_OK;
    uint32_t live = 0;
    while (status == PICO_OK && m->printed < m->n_job && m->write_error == 0 &&
           !pico_cancel_requested()) {
        status = start_jobs(m);
        if (status == PICO_OK && n_free(m) < m->n_slots) {
            status = pico_decode_round(m->decode, &live, &m->err);
        }
        collect(m);
        if (status == PICO_OK) {
            status = print_done(m, 0);
        }
    }
    return status;
}

/* ---- the end ---- */

static void report(many *m) {
    char figures[512];
    pico_log *log = &m->runtime->log;
    if (m->n_full != 0) {
        pico_log_write(log, PICO_LOG_WARN,
                       "%zu answers end where the context of %u tokens was full; %s", m->n_full,
                       pico_session_max_positions(pico_decode_session(m->decode)),
                       pico_runtime_full_advice(m->runtime));
    }
    if (m->n_error != 0) {
        pico_log_write(log, PICO_LOG_WARN, "%zu of %zu prompts could not be run: see their errors",
                       m->n_error, m->prompts->n);
    }
    pico_answer_totals(m->decode, figures, sizeof figures);
    pico_log_write(log, PICO_LOG_INFO, "%zu prompt%s, up to %u answer%s at once: %s", m->prompts->n,
                   m->prompts->n == 1 ? "" : "s", m->n_slots, m->n_slots == 1 ? "" : "s", figures);
    int reported = 0;
    pico_answer_speculation(m->runtime, m->decode, &reported);
}

int pico_run_many(const pico_cli *cli, pico_runtime *runtime, pico_prompts *prompts,
                  const pico_many_params *params) {
    many m = {.cli = cli,
              .runtime = runtime,
              .prompts = prompts,
              .n_sample = params->samples == 0 ? 1 : params->samples,
              .numbered = params->samples != 0,
              .echo = pico_config_bool(cli->config, "generate", "echo")};
    int code = PICO_EXIT_OK;
    pico_status status = open_loop(&m, params);
    if (status == PICO_OK) {
        status = run_all(&m);
        if (m.write_error == 0 && (status != PICO_OK || m.printed < m.n_job)) {
            pico_error why = m.err; /* printing may overwrite it */
            (void)print_done(&m, 1);
            m.err = why;
        }
    }
    if (status != PICO_OK) {
        code = pico_cli_fail_error(cli, &m.err);
    } else if (m.write_error != 0) {
        code = pico_cli_fail_output(m.write_error);
    } else {
        report(&m);
        code = pico_cancel_requested() ? PICO_EXIT_INTERRUPTED
               : m.n_error != 0        ? PICO_EXIT_RUNTIME
                                       : PICO_EXIT_OK;
    }
    for (size_t i = 0; m.job != NULL && i < m.n_job; i++) {
        free(m.job[i].text.data);
    }
    free(m.job);
    free(m.slot_job);
    pico_decode_close(m.decode);
    return code;
}
