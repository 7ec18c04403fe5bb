/* Whether two models speak of the same tokens; see compare.h. */
#include <stdlib.h>
#include <string.h>

#include "measure/compare.h"

enum { SHOWN = 32 }; /* bytes of a token that a message shows */

typedef struct side {
    const pico_vocab *vocab;
    const pico_tokenizer *tokenizer;
    char *text; /* room for any piece */
    size_t room;
} side;

static pico_status side_open(side *s, const pico_model *model, const pico_tokenizer *tokenizer,
                             pico_error *err) {
    *s = (side){.vocab = &model->file->vocab, .tokenizer = tokenizer};
    s->room = pico_tokenizer_max_piece(tokenizer) + 1;
    s->text = malloc(s->room);
    return s->text == NULL ? pico_fail(err, PICO_E_NOMEM, "out of memory") : PICO_OK;
}

/* The text of a token inside a text, whatever way its file writes it; the name of a control token,
 * which has no text. The bytes stay until the next call. */
static const char *text_of(const side *s, int32_t id, size_t *n) {
    if (pico_tokenizer_is_control(s->tokenizer, id)) {
        const pico_piece *piece = &s->vocab->piece[id];
        *n = piece->n;
        return piece->text;
    }
    int32_t prev = pico_tokenizer_bos(s->tokenizer) == 0 ? 1 : 0; /* not the start of a text */
    *n = pico_tokenizer_piece(s->tokenizer, prev, id, s->text, s->room);
    return s->text;
}

/* A token for a message: in quotes, its first bytes, those that do not print as \xNN. */
static void show(const char *text, size_t n, char out[SHOWN * 4 + 8]) {
    size_t used = 0, shown = n < SHOWN ? n : SHOWN;
    out[used++] = '"';
    for (size_t i = 0; i < shown; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= ' ' && c < 0x7f && c != '"' && c != '\\') {
            out[used++] = (char)c;
        } else {
            used += (size_t)snprintf(out + used, 5, "\\x%02x", c);
        }
    }
    (void)snprintf(out + used, 6, "\"%s", n > shown ? "..." : "");
}

static pico_status compare_pieces(const side *model, const side *reference, uint32_t n_vocab,
                                  pico_error *err) {
    for (uint32_t i = 0; i < n_vocab; i++) {
        size_t n_one, n_two;
        int32_t id = (int32_t)i;
        const char *one = text_of(model, id, &n_one), *two = text_of(reference, id, &n_two);
        int control = pico_tokenizer_is_control(model->tokenizer, id);
        int both = pico_tokenizer_is_control(reference->tokenizer, id) == control;
        if (!both || n_one != n_two || memcmp(one, two, n_one) != 0) {
            char first[SHOWN * 4 + 8], second[SHOWN * 4 + 8];
            show(one, n_one, first);
            show(two, n_two, second);
            return pico_fail(err, PICO_E_INVALID,
                             "the vocabularies differ, so the models cannot be compared: token %u "
                             "is %s%s in the model, %s%s in the reference",
                             i,
                             both      ? ""
                             : control ? "control token "
                                       : "text ",
                             first,
                             both      ? ""
                             : control ? "text "
                                       : "control token ",
                             second);
        }
    }
    return PICO_OK;
}

pico_status pico_compare_vocabularies(const pico_model *model, const pico_tokenizer *tokenizer,
                                      const pico_model *reference, pico_error *err) {
    uint32_t n_vocab = pico_model_describe(model)->n_vocab;
    uint32_t n_reference = pico_model_describe(reference)->n_vocab;
    pico_tokenizer *own = NULL;
    side one = {0}, two = {0};
    if (n_vocab != n_reference) {
        return pico_fail(err, PICO_E_INVALID,
                         "the models cannot be compared: the model has %u tokens, the reference %u",
                         n_vocab, n_reference);
    }
    if (reference->file->vocab.kind == PICO_VOCAB_NONE) {
        return PICO_OK;
    }
    pico_status status = pico_tokenizer_open(&reference->file->vocab, &own, err);
    if (status == PICO_OK && pico_tokenizer_n_vocab(own) != n_reference) {
        status = pico_fail(err, PICO_E_INVALID,
                           "the reference has %u tokens, its tokenizer %u: they do not belong "
                           "together",
                           n_reference, pico_tokenizer_n_vocab(own));
    }
    if (status == PICO_OK) {
        status = side_open(&one, model, tokenizer, err);
    }
    if (status == PICO_OK) {
        status = side_open(&two, reference, own, err);
    }
    if (status == PICO_OK) {
        status = compare_pieces(&one, &two, n_vocab, err);
    }
    free(one.text);
    free(two.text);
    pico_tokenizer_close(own);
    return status;
}
