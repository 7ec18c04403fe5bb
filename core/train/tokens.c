/* Documents to tokens; see tokens.h. */
#include "train/tokens.h"

#include <stdlib.h>
#include <string.h>

static pico_status no_memory(pico_error *err) {
    return pico_fail(err, PICO_E_NOMEM, "out of memory for the tokens of the training data");
}

static pico_status add_document(pico_train_tokens *tokens, uint64_t *capacity, const int32_t *ids,
                                size_t n, pico_error *err) {
    int32_t *id = tokens->own_id;
    if (n > *capacity - tokens->n) {
        const uint64_t next = tokens->n + n + (tokens->n + n) / 2 + 1024;
        id = next > SIZE_MAX / sizeof *id ? NULL : realloc(id, (size_t)next * sizeof *id);
        if (id == NULL) {
            return no_memory(err);
        }
        tokens->own_id = id;
        *capacity = next;
    }
    if (n != 0) {
        memcpy(id + tokens->n, ids, n * sizeof *ids);
    }
    tokens->n += n;
    ((uint64_t *)tokens->own_end)[tokens->n_document++] = tokens->n;
    return PICO_OK;
}

pico_status pico_train_tokenise(const pico_tokenizer *tokenizer, const pico_train_text *documents,
                                size_t n, pico_train_tokens *out, pico_error *err) {
    uint64_t capacity = 0;
    pico_status status = PICO_OK;
    *out = (pico_train_tokens){.bos = pico_tokenizer_bos(tokenizer),
                               .own_end = calloc(n + 1, sizeof(uint64_t))};
    if (out->own_end == NULL) {
        return no_memory(err);
    }
    for (size_t i = 0; status == PICO_OK && i < n; i++) {
        int32_t *ids = NULL;
        size_t n_ids = 0;
        status = pico_tokenizer_encode(tokenizer, documents[i].text, documents[i].n, 0, &ids,
                                       &n_ids, err);
        if (status == PICO_OK) {
            status = add_document(out, &capacity, ids, n_ids, err);
        }
        free(ids);
    }
    out->id = out->own_id;
    out->end = out->own_end;
    if (status != PICO_OK) {
        pico_train_tokens_free(out);
    }
    return status;
}

void pico_train_tokens_free(pico_train_tokens *tokens) {
    free(tokens->own_id);
    free(tokens->own_end);
    pico_map_close(&tokens->map);
    *tokens = (pico_train_tokens){0};
}

/* ---- the most frequent ones ---- */

typedef struct token_count {
    uint64_t n;
    int32_t id;
} token_count;

static int more_frequent(const void *a, const void *b) {
    const token_count *x = a, *y = b;
    return x->n != y->n ? (x->n < y->n) - (x->n > y->n) : (x->id > y->id) - (x->id < y->id);
}

static int lower_id(const void *a, const void *b) {
    const int32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

pico_status pico_train_most_frequent(const pico_train_tokens *tokens, uint64_t n_document,
                                     uint32_t n_vocab, uint32_t n, int32_t *out, pico_error *err) {
    const uint64_t end = n_document == 0 ? 0 : tokens->end[n_document - 1];
    if (n > n_vocab) {
        return pico_fail(err, PICO_E_INVALID, "%u of %u tokens are more than there are", n,
                         n_vocab);
    }
    token_count *count = calloc((size_t)n_vocab + 1, sizeof *count);
    if (count == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for %u tokens", n_vocab);
    }
    for (uint32_t i = 0; i < n_vocab; i++) {
        count[i].id = (int32_t)i;
    }
    for (uint64_t i = 0; i < end; i++) {
        if (tokens->id[i] >= 0 && (uint32_t)tokens->id[i] < n_vocab) {
            count[tokens->id[i]].n++;
        }
    }
    if (tokens->bos >= 0 && (uint32_t)tokens->bos < n_vocab) {
        count[tokens->bos].n += n_document;
    }
    qsort(count, n_vocab, sizeof *count, more_frequent);
    for (uint32_t i = 0; i < n; i++) {
        out[i] = count[i].id;
    }
    qsort(out, n, sizeof *out, lower_id);
    free(count);
    return PICO_OK;
}
