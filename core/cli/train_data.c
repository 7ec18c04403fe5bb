/*
 * The data of a training run: texts, what is held out of them, their tokens, which a file may keep
 * from one run to the next, and rows. See train_run.h.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/train_run.h"

pico_status pico_train_read_texts(pico_train_run *run) {
    const char *separator = pico_train_text_of(run, "separator");
    const char *validation = pico_train_path(run, "validation");
    pico_status status =
        pico_texts_read(pico_train_path(run, "data"), separator, &run->texts, &run->err);
    if (status != PICO_OK || validation == NULL) {
        return status;
    }
    return pico_texts_read(validation, separator, &run->held_texts, &run->err);
}

/* Tokens of the file, or of the texts, which then make the file. */
static pico_status tokens_by_file(pico_train_run *run, const char *path,
                                  const pico_train_text *documents, size_t n) {
    const pico_tokenizer *tokenizer = run->runtime.tokenizer;
    const pico_token_key key = pico_token_key_of(documents, n, &run->runtime.model->file->vocab);
    pico_status status = pico_token_file_read(path, &key, tokenizer, &run->tokens, &run->err);
    if (status == PICO_OK) {
        pico_log_write(&run->runtime.log, PICO_LOG_INFO, "%s holds the tokens of these texts",
                       path);
        return status;
    }
    if (status == PICO_E_INVALID || status == PICO_E_CORRUPT) {
        pico_log_write(&run->runtime.log, status == PICO_E_CORRUPT ? PICO_LOG_WARN : PICO_LOG_INFO,
                       "%s; it is made again", run->err.message);
    } else if (status != PICO_E_NOT_FOUND) {
        return status;
    }
    status = pico_train_tokenise(tokenizer, documents, n, &run->tokens, &run->err);
    return status == PICO_OK ? pico_token_file_write(path, &key, &run->tokens, &run->err) : status;
}

/* All documents in one array: those to learn from, then those held out. */
static pico_status read_tokens(pico_train_run *run, const pico_train_text *held, size_t n_held) {
    const size_t n = run->texts.n_document;
    const char *path = pico_train_path(run, "cache");
    pico_train_text *all = calloc(n + n_held + 1, sizeof *all);
    if (all == NULL) {
        return pico_fail(&run->err, PICO_E_NOMEM, "out of memory for the training text");
    }
    if (n != 0) {
        memcpy(all, run->texts.document, n * sizeof *all);
    }
    if (n_held != 0) {
        memcpy(all + n, held, n_held * sizeof *all);
    }
    const pico_status status =
        path != NULL
            ? tokens_by_file(run, path, all, n + n_held)
            : pico_train_tokenise(run->runtime.tokenizer, all, n + n_held, &run->tokens, &run->err);
    free(all);
    return status;
}

uint32_t pico_train_packing(const pico_train_run *run) {
    return strcmp(pico_train_text_of(run, "packing"), "stream") == 0 ? PICO_PACKING_STREAM
                                                                     : PICO_PACKING_BEST_FIT;
}

pico_status pico_train_open_data(pico_train_run *run) {
    const uint64_t seed = (uint64_t)pico_train_int(run, "seed");
    const uint32_t packing = pico_train_packing(run);
    pico_train_text *cut = NULL; /* of the texts */
    const pico_train_text *held = run->held_texts.document;
    size_t n_held = run->held_texts.n_document;
    pico_status status = PICO_OK;
    if (held == NULL) {
        status = pico_texts_hold_out(&run->texts, &cut, &n_held, &run->err);
        held = cut;
    }
    const size_t n = run->texts.n_document;
    if (status == PICO_OK) {
        status = read_tokens(run, held, n_held);
    }
    if (status == PICO_OK) {
        status = pico_train_data_open(&run->tokens, 0, n, run->length, packing, seed, &run->data,
                                      &run->err);
    }
    if (status == PICO_OK) {
        status = pico_train_data_open(&run->tokens, n, n_held, run->length, packing, 0,
                                      &run->held_data, &run->err);
        if (status != PICO_OK) {
            pico_error inner = run->err;
            status = pico_fail(&run->err, status, "validation: %s", inner.message);
        }
    }
    free(cut);
    pico_texts_free(&run->texts); /* tokens are all that is needed from here */
    pico_texts_free(&run->held_texts);
    return status;
}
