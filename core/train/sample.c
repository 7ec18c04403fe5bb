/* Greedy continuations by a model in training; see sample.h. */
#include "train/sample.h"

#include <stdlib.h>
#include <string.h>

#include "train/internal.h"

struct pico_train_sampler {
    pico_train *train;
    const pico_tokenizer *tokenizer;
    int32_t *token; /* (most) the prompt, then what follows */
    uint32_t n_prompt, most;
    float *logits; /* (n_vocab) */
    char *text;    /* (capacity) */
    size_t capacity;
};

static pico_status read_prompt(pico_train_sampler *s, const char *prompt, uint32_t n,
                               pico_error *err) {
    const uint32_t longest = s->train->params.max_length;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    pico_status status = pico_tokenizer_encode(s->tokenizer, prompt, strlen(prompt),
                                               PICO_ENCODE_BOS, &ids, &n_ids, err);
    if (status == PICO_OK && (n_ids == 0 || n_ids >= longest)) {
        status = pico_fail(err, PICO_E_LIMIT,
                           "the sample \"%.60s\" has %zu tokens; sequences of %u leave room for 1 "
                           "to %u",
                           prompt, n_ids, longest, longest - 1);
    }
    if (status == PICO_OK) {
        s->n_prompt = (uint32_t)n_ids;
        s->most = n < longest - s->n_prompt ? s->n_prompt + n : longest;
        s->capacity = (s->most - s->n_prompt + 1) * (pico_tokenizer_max_piece(s->tokenizer) + 8);
        s->token = malloc(s->most * sizeof *s->token);
        s->logits = malloc(s->train->desc->n_vocab * sizeof *s->logits);
        s->text = malloc(s->capacity);
        if (s->token == NULL || s->logits == NULL || s->text == NULL) {
            status = pico_fail(err, PICO_E_NOMEM, "out of memory for a sample");
        } else {
            memcpy(s->token, ids, n_ids * sizeof *ids);
        }
    }
    free(ids);
    return status;
}

pico_status pico_train_sampler_open(pico_train *train, const pico_tokenizer *tokenizer,
                                    const char *prompt, uint32_t n, pico_train_sampler **out,
                                    pico_error *err) {
    *out = NULL;
    pico_train_sampler *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for a sample");
    }
    s->train = train;
    s->tokenizer = tokenizer;
    const pico_status status = read_prompt(s, prompt, n, err);
    if (status != PICO_OK) {
        pico_train_sampler_close(s);
        return status;
    }
    *out = s;
    return PICO_OK;
}

void pico_train_sampler_close(pico_train_sampler *s) {
    if (s != NULL) {
        free(s->token);
        free(s->logits);
        free(s->text);
        free(s);
    }
}

/* The best token after the first n; the lowest of equal ones. */
static pico_status next_token(pico_train_sampler *s, uint32_t n, int32_t *out, pico_error *err) {
    pico_train *t = s->train;
    const uint32_t n_vocab = t->desc->n_vocab;
    pico_tensor logits, d;
    pico_status status = train_forward(t, s->token, 1, n, err);
    if (status == PICO_OK) {
        status = train_logits(t, 0, n - 1, 1, &logits, &d, err);
    }
    if (status == PICO_OK) {
        status = t->ops->buffer_read(t->self, logits.buffer, logits.offset, s->logits,
                                     n_vocab * sizeof *s->logits, err);
    }
    *out = 0;
    for (uint32_t i = 1; status == PICO_OK && i < n_vocab; i++) {
        *out = s->logits[i] > s->logits[*out] ? (int32_t)i : *out;
    }
    return status;
}

pico_status pico_train_sample(pico_train_sampler *s, const char **text, pico_error *err) {
    pico_token_stream stream;
    pico_status status = PICO_OK;
    size_t used = 0;
    pico_token_stream_begin(&stream, s->tokenizer, s->token[s->n_prompt - 1]);
    for (uint32_t n = s->n_prompt; status == PICO_OK && n < s->most; n++) {
        status = next_token(s, n, &s->token[n], err);
        if (status == PICO_OK && pico_tokenizer_is_end(s->tokenizer, s->token[n])) {
            break;
        }
        used += pico_token_stream_next(&stream, s->token[n], s->text + used, s->capacity - used);
    }
    used += pico_token_stream_end(&stream, s->text + used, s->capacity - used);
    s->text[used] = '\0';
    *text = s->text;
    return status;
}
