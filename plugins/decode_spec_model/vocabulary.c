/* Do draft and target mean the same by each token? The first difference is explained. */
#include <string.h>

#include "spec_model.h"

/* At most 24 bytes of a token as text that can be printed. */
static const char *shown(const char *text, uint32_t n, char out[80]) {
    static const char hex[] = "0123456789abcdef";
    size_t used = 0;
    for (uint32_t i = 0; i < n && i < 24; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c < 0x7f) {
            out[used++] = (char)c;
        } else {
            out[used++] = '\\';
            out[used++] = 'x';
            out[used++] = hex[c >> 4];
            out[used++] = hex[c & 15];
        }
        if (used > 70) {
            break;
        }
    }
    out[used] = '\0';
    return out;
}

pico_status spec_compare_tokens(const spec_model *me, const pico_model *target, pico_error *err) {
    uint32_t n_target = me->host->model_desc(target)->n_vocab;
    uint32_t n_draft = me->host->model_desc(me->draft)->n_vocab;
    if (n_target != n_draft) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "the draft model has %u tokens, the target %u: they "
                         "have different tokenizers, and drafts would mean something else; use a "
                         "draft model of the same family (%s)",
                         n_draft, n_target, me->path);
    }
    for (uint32_t i = 0; i < n_target; i++) {
        const char *a = NULL, *b = NULL;
        uint32_t n_a = 0, n_b = 0, type;
        char text_a[80], text_b[80];
        pico_status has_a = me->host->text->piece(target, (int32_t)i, &a, &n_a, &type);
        pico_status has_b = me->host->text->piece(me->draft, (int32_t)i, &b, &n_b, &type);
        if (i == 0 && (has_a != PICO_OK || has_b != PICO_OK)) {
            char message[256];
            (void)snprintf(message, sizeof message,
                           "decoder spec_model: the %s model's file has no tokenizer, so that the "
                           "tokens cannot be compared; both have %u and are taken to be the same",
                           has_a != PICO_OK ? "target" : "draft", n_target);
            me->host->log(me->host->ctx, PICO_LOG_WARN, message);
            return PICO_OK;
        }
        if (has_a != has_b || n_a != n_b || (n_a != 0 && memcmp(a, b, n_a) != 0)) {
            return pico_fail(err, PICO_E_UNSUPPORTED,
                             "token %u is \"%s\" in the draft model but \"%s\" "
                             "in the target: they have different tokenizers, and drafts would mean "
                             "something else; use a draft model of the same family (%s)",
                             i, shown(b, n_b, text_b), shown(a, n_a, text_a), me->path);
        }
    }
    return PICO_OK;
}
