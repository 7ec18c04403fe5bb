/* Samples of a model in training; see train_samples.h. */
#include "cli/train_samples.h"

#include <stdlib.h>

enum { LINE = 2000 };

pico_status pico_train_samples_open(pico_train *train, const pico_tokenizer *tokenizer,
                                    const char *prompts, uint32_t n, pico_train_samples *out,
                                    pico_error *err) {
    *out = (pico_train_samples){0};
    pico_status status = pico_lines_read(prompts, &out->prompt, err);
    if (status == PICO_OK) {
        out->sampler = calloc(out->prompt.n + 1, sizeof *out->sampler);
        status = out->sampler != NULL ? PICO_OK : pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    for (size_t i = 0; status == PICO_OK && i < out->prompt.n; i++) {
        status = pico_train_sampler_open(train, tokenizer, out->prompt.line[i], n, &out->sampler[i],
                                         err);
    }
    if (status != PICO_OK) {
        pico_train_samples_close(out);
    }
    return status;
}

void pico_train_samples_close(pico_train_samples *samples) {
    for (size_t i = 0; samples->sampler != NULL && i < samples->prompt.n; i++) {
        pico_train_sampler_close(samples->sampler[i]);
    }
    free(samples->sampler);
    pico_lines_free(&samples->prompt);
    *samples = (pico_train_samples){0};
}

/* Text on one line: newlines and tabs as \n and \t, other control characters as '?'. */
static size_t flatten(const char *text, char *out, size_t size) {
    size_t n = 0;
    for (; *text != '\0' && n + 3 < size; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '\n' || c == '\t') {
            out[n++] = '\\';
        }
        out[n++] = c == '\n' ? 'n' : c == '\t' ? 't' : c < ' ' || c == 127 ? '?' : (char)c;
    }
    out[n] = '\0';
    return n;
}

pico_status pico_train_samples_print(const pico_train_samples *samples, pico_log *log,
                                     pico_error *err) {
    for (size_t i = 0; log->level <= PICO_LOG_INFO && i < samples->prompt.n; i++) {
        const char *text = NULL;
        char line[LINE];
        const pico_status status = pico_train_sample(samples->sampler[i], &text, err);
        if (status != PICO_OK) {
            return status;
        }
        const size_t n = flatten(samples->prompt.line[i], line, sizeof line);
        (void)flatten(text, line + n, sizeof line - n);
        pico_log_write(log, PICO_LOG_INFO, "sample: %s", line);
    }
    return PICO_OK;
}
