/* A model's tokens for plugins; see pico_text_api. */
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "tokenizer/tokenizer.h"

static pico_status encode(pico_model *model, const char *text, uint64_t n, uint32_t flags,
                          int32_t *ids, uint64_t capacity, uint64_t *n_ids, pico_error *err) {
    int32_t *all = NULL;
    size_t count = 0;
    *n_ids = 0;
    if (model->tokenizer == NULL) {
        if (model->file->vocab.kind == PICO_VOCAB_NONE) {
            return pico_fail(err, PICO_E_UNSUPPORTED,
                             "%s has no tokenizer; name one with --tokenizer FILE",
                             model->file->path == NULL ? "the model" : model->file->path);
        }
        pico_status status = pico_tokenizer_open(&model->file->vocab, &model->tokenizer, err);
        if (status != PICO_OK) {
            return status;
        }
    }
    pico_status status =
        pico_tokenizer_encode(model->tokenizer, text, (size_t)n,
                              flags & PICO_TEXT_BOS ? PICO_ENCODE_BOS : 0u, &all, &count, err);
    if (status == PICO_OK) {
        const uint64_t kept = count < capacity ? count : capacity;
        if (kept != 0) {
            memcpy(ids, all, (size_t)kept * sizeof *ids);
        }
        *n_ids = count;
        free(all);
    }
    return status;
}

static pico_status piece(const pico_model *model, int32_t token, const char **text, uint32_t *n,
                         uint32_t *type) {
    const pico_vocab *vocab = &model->file->vocab;
    if (token < 0 || (uint32_t)token >= vocab->n_piece) {
        return PICO_E_NOT_FOUND;
    }
    *text = vocab->piece[token].text;
    *n = vocab->piece[token].n;
    *type = vocab->piece[token].type;
    return PICO_OK;
}

const pico_text_api pico_text_table = {
    .struct_size = sizeof(pico_text_api), .encode = encode, .piece = piece};
