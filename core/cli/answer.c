/* Printing an answer while it is made; see answer.h. */
#include "cli/answer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "measure/bench.h"

enum { FLUSH_NS = 20000000 }; /* often enough to look continuous, rare enough to cost nothing */

void pico_answer_open(pico_answer *answer, FILE *out, int trim_start, int keep) {
    *answer = (pico_answer){.out = out, .trim_start = trim_start, .keep = keep};
}

void pico_answer_close(pico_answer *answer) {
    free(answer->text.data);
    *answer = (pico_answer){0};
}

static uint64_t now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void fail(pico_answer *answer) {
    answer->error = answer->error != 0 ? answer->error : errno != 0 ? errno : EIO;
}

static void put(pico_answer *answer, const char *text, size_t n) {
    if (answer->error == 0 && n != 0 && fwrite(text, 1, n, answer->out) != n) {
        fail(answer);
    }
}

void pico_answer_text(void *arg, const char *text, size_t n) {
    pico_answer *answer = arg;
    size_t begin = 0, end = n;
    if (answer->keep && !pico_string_add(&answer->text, text, n)) {
        errno = ENOMEM;
        fail(answer);
    }
    while (answer->trim_start && !answer->started && begin < n &&
           (text[begin] == ' ' || text[begin] == '\n')) {
        begin++;
    }
    while (end > begin && text[end - 1] == '\n') {
        end--;
    }
    if (end > begin) {
        for (; answer->held > 0; answer->held--) {
            put(answer, "\n", 1);
        }
        put(answer, text + begin, end - begin);
        answer->started = 1;
    }
    answer->held += n - end;
    uint64_t now = now_ns();
    if (answer->error == 0 && now - answer->flush_ns >= FLUSH_NS) {
        answer->flush_ns = now;
        if (fflush(answer->out) != 0) {
            fail(answer);
        }
    }
}

void pico_answer_end(pico_answer *answer) {
    answer->held = 0;
    put(answer, "\n", 1);
    if (answer->error == 0 && fflush(answer->out) != 0) {
        fail(answer);
    }
}

static int should_stop(void *arg) {
    const pico_answer *answer = arg;
    return answer->error != 0 || pico_cancel_requested();
}

pico_status pico_answer_run(pico_answer *answer, pico_decode *decode, pico_error *err) {
    return pico_decode_run(decode, should_stop, answer, err);
}

/* "12 tokens at 345/s"; the rate is left out when there is nothing to divide. */
static void figure(char *out, size_t size, uint64_t n, const char *what, uint64_t timed,
                   double seconds) {
    int used =
        snprintf(out, size, "%llu %s token%s", (unsigned long long)n, what, n == 1 ? "" : "s");
    if (used > 0 && (size_t)used < size && timed > 0 && seconds > 0) {
        (void)snprintf(out + used, size - (size_t)used, " at %.*f/s",
                       (double)timed / seconds < 100 ? 1 : 0, (double)timed / seconds);
    }
}

/* ", 12 of 40 drafts accepted"; nothing where the decoder never drafts. */
static void draft_figure(char *out, size_t size, uint64_t n_drafted, uint64_t n_accepted,
                         const pico_decode *decode) {
    out[0] = '\0';
    if (n_drafted != 0) {
        (void)snprintf(out, size, ", %llu of %llu drafts accepted", (unsigned long long)n_accepted,
                       (unsigned long long)n_drafted);
    } else if (pico_decode_max_proposals(decode) != 0) {
        (void)snprintf(out, size, ", 0 drafts");
    }
}

void pico_answer_figures(const pico_decode_stats *before, const pico_decode *decode, char *out,
                         size_t size) {
    const pico_decode_stats *after = pico_decode_statistics(decode);
    const pico_slot_state slot = pico_decode_slot(decode, 0);
    char prompt[96], text[96], reused[64] = "", drafts[96];
    uint64_t n_prefill = after->n_prefill - before->n_prefill;
    uint64_t n_new = after->n_generated - before->n_generated;
    draft_figure(drafts, sizeof drafts, after->n_drafted - before->n_drafted,
                 after->n_accepted - before->n_accepted, decode);
    /* The first token of an answer comes out of the prompt's last forward. */
    figure(prompt, sizeof prompt, n_prefill, "prompt", n_prefill,
           after->prefill_seconds - before->prefill_seconds);
    figure(text, sizeof text, n_new, "new", n_new > 0 ? n_new - 1 : 0,
           after->decode_seconds - before->decode_seconds);
    if (slot.n_reused != 0) {
        (void)snprintf(reused, sizeof reused, " (%u kept)", slot.n_reused);
    }
    (void)snprintf(out, size, "%s%s, %s%s, ended by %s", prompt, reused, text, drafts,
                   pico_finish_name(slot.finish));
}

void pico_answer_totals(const pico_decode *decode, char *out, size_t size) {
    const pico_decode_stats *stats = pico_decode_statistics(decode);
    char prompt[96], text[96], drafts[96];
    figure(prompt, sizeof prompt, stats->n_prefill, "prompt", 0, 0);
    figure(text, sizeof text, stats->n_generated, "new", stats->n_generated,
           stats->prefill_seconds + stats->decode_seconds);
    draft_figure(drafts, sizeof drafts, stats->n_drafted, stats->n_accepted, decode);
    (void)snprintf(out, size, "%s, %s%s", prompt, text, drafts);
}

double pico_answer_clock(void) {
    return (double)now_ns() * 1e-9;
}

void pico_answer_describe(pico_runtime *runtime, const pico_decode *decode, double seconds) {
    const pico_model_file *file = runtime->model->file;
    const char *device = runtime->device.caps.device;
    pico_bench_about about;
    if (pico_decode_n_beam(decode) != 0) {
        pico_log_write(&runtime->log, PICO_LOG_INFO,
                       "decoder %s keeps %u hypotheses: the sampler is not used, the text comes at "
                       "the end",
                       runtime->decoder.loaded->plugin.name, pico_decode_n_beam(decode));
    }
    pico_bench_describe(runtime->model, "", &about);
    pico_log_write(&runtime->log, PICO_LOG_DEBUG, "model: %s, %s, %.2f million parameters, %.1f MB",
                   file->path, file->format_name, (double)about.n_params * 1e-6,
                   (double)about.model_bytes * 1e-6);
    pico_log_write(&runtime->log, PICO_LOG_DEBUG,
                   "backend %s: %s; threads %u, KV pages %.1f MB, loaded in %.2f s",
                   runtime->backend.loaded->plugin.name,
                   device[0] == '\0' ? "it does not say what it runs on" : device,
                   pico_pool_n_threads(runtime->pool),
                   (double)pico_session_kv_bytes(pico_decode_session(decode)) * 1e-6, seconds);
}
