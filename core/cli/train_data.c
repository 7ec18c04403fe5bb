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
                                  const pico_tokenizer *tokenizer, const pico_vocab *vocab,
                                  const pico_train_text *documents, size_t n) {
    const pico_token_key key = pico_token_key_of(documents, n, vocab);
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
static pico_status read_tokens(pico_train_run *run, const pico_tokenizer *tokenizer,
                               const pico_vocab *vocab, const pico_train_text *held,
                               size_t n_held) {
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
        path != NULL ? tokens_by_file(run, path, tokenizer, vocab, all, n + n_held)
                     : pico_train_tokenise(tokenizer, all, n + n_held, &run->tokens, &run->err);
    free(all);
    return status;
}

uint32_t pico_train_packing(const pico_train_run *run) {
    return strcmp(pico_train_text_of(run, "packing"), "stream") == 0 ? PICO_PACKING_STREAM
                                                                     : PICO_PACKING_BEST_FIT;
}

/* Once: the documents, those held out of them, and the tokens of both. */
static pico_status open_tokens(pico_train_run *run, const pico_tokenizer *tokenizer,
                               const pico_vocab *vocab) {
    pico_train_text *cut = NULL; /* of the texts */
    const pico_train_text *held = run->held_texts.document;
    size_t n_held = run->held_texts.n_document;
    pico_status status = PICO_OK;
    if (run->has_tokens) {
        return PICO_OK;
    }
    if (held == NULL) {
        status = pico_texts_hold_out(&run->texts, &cut, &n_held, &run->err);
        held = cut;
    }
    if (status == PICO_OK) {
        status = read_tokens(run, tokenizer, vocab, held, n_held);
    }
    run->n_document = run->texts.n_document;
    run->n_held = n_held;
    run->has_tokens = status == PICO_OK;
    free(cut);
    pico_texts_free(&run->texts); /* tokens are all that is needed from here */
    pico_texts_free(&run->held_texts);
    return status;
}

pico_status pico_train_choose_draft_vocab(pico_train_run *run, pico_model_file *file) {
    const uint32_t n = (uint32_t)pico_config_int(run->cli->config, "shape", "draft_vocab");
    pico_tokenizer *tokenizer = NULL;
    pico_status status = PICO_OK;
    if (n == 0) {
        return PICO_OK;
    }
    if ((file->desc.draft_flags & PICO_DRAFT_SHARED_OUTPUT) == 0 || n > file->desc.n_vocab) {
        return pico_fail(
            &run->err, PICO_E_INVALID,
            "[shape] draft_vocab = %u: a model with draft_slots and draft_head = shared "
            "can have that, for up to as many tokens as it knows (%u)",
            n, file->desc.n_vocab);
    }
    int32_t *id = pico_arena_alloc(&file->arena, n, sizeof *id);
    if (id == NULL) {
        return pico_fail(&run->err, PICO_E_NOMEM, "out of memory for %u tokens", n);
    }
    pico_log_init(&run->runtime.log, pico_cli_log_level(run->cli));
    status = pico_tokenizer_open(&file->vocab, &tokenizer, &run->err);
    if (status == PICO_OK) {
        status = open_tokens(run, tokenizer, &file->vocab);
    }
    if (status == PICO_OK) {
        status = pico_train_most_frequent(&run->tokens, run->n_document, file->desc.n_vocab, n, id,
                                          &run->err);
    }
    if (status == PICO_OK) {
        file->desc.n_draft_vocab = n;
        file->desc.draft_vocab = id;
    }
    pico_tokenizer_close(tokenizer);
    return status;
}

pico_status pico_train_open_data(pico_train_run *run) {
    const uint64_t seed = (uint64_t)pico_train_int(run, "seed");
    const uint32_t packing = pico_train_packing(run);
    pico_status status = open_tokens(run, run->runtime.tokenizer, &run->runtime.model->file->vocab);
    if (status == PICO_OK) {
        status = pico_train_data_open(&run->tokens, 0, run->n_document, run->length, packing, seed,
                                      &run->data, &run->err);
    }
    if (status == PICO_OK) {
        status = pico_train_data_open(&run->tokens, run->n_document, run->n_held, run->length,
                                      packing, 0, &run->held_data, &run->err);
        if (status != PICO_OK) {
            pico_error inner = run->err;
            status = pico_fail(&run->err, status, "validation: %s", inner.message);
        }
    }
    return status;
}
