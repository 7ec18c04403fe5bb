/*
 * The second half of training: the most frequent pair becomes a token, in every piece where it
 * stands, and the counts around it are put right. Only pieces in which the pair was seen are looked
 * at, so a merge costs what it changes.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/train_internal.h"

typedef struct merger {
    pico_bpe *bpe;
    bpe_pairs pairs;
    uint32_t *symbol; /* of all pieces; a piece's begin at its offset */
    uint32_t *n;      /* (piece.n) symbols left of each piece */
    char *text;       /* of the token that is made */
    size_t text_capacity;
    pico_error *err;
} merger;

static uint64_t key_of(uint32_t left, uint32_t right) {
    return (uint64_t)left << 32 | right;
}

static pico_status no_memory(const merger *m) {
    return pico_fail(m->err, PICO_E_NOMEM, "no memory to merge %u distinct pieces",
                     m->bpe->piece.n);
}

static pico_status begin(merger *m) {
    const bpe_texts *piece = &m->bpe->piece;
    pico_status status = pico_bpe_pairs_open(&m->pairs, m->err);
    m->symbol = malloc((size_t)piece->n_byte * sizeof *m->symbol + 1);
    m->n = malloc((size_t)piece->n * sizeof *m->n + 1);
    if (status == PICO_OK && (m->symbol == NULL || m->n == NULL)) {
        status = no_memory(m);
    }
    if (status != PICO_OK) {
        return status;
    }
    for (uint64_t i = 0; i < piece->n_byte; i++) {
        m->symbol[i] = (unsigned char)piece->bytes[i];
    }
    for (uint32_t i = 0; status == PICO_OK && i < piece->n; i++) {
        const bpe_text *text = &piece->text[i];
        const uint32_t *s = m->symbol + text->offset;
        m->n[i] = text->n;
        for (uint32_t k = 0; status == PICO_OK && k + 1 < text->n; k++) {
            status = pico_bpe_pair_change(&m->pairs, key_of(s[k], s[k + 1]), (int64_t)text->count,
                                          i, m->err);
        }
    }
    return status == PICO_OK ? pico_bpe_pairs_settle(&m->pairs, m->err) : status;
}

/* One pair loses occurrences and another one gets them. */
static pico_status exchange(merger *m, uint64_t old, uint64_t new, int64_t count, uint32_t word) {
    pico_status status = pico_bpe_pair_change(&m->pairs, old, -count, word, m->err);
    return status == PICO_OK ? pico_bpe_pair_change(&m->pairs, new, count, word, m->err) : status;
}

/* Left to right, so that of three equal symbols the first two are merged. */
static pico_status merge_word(merger *m, uint32_t word, uint32_t left, uint32_t right,
                              uint32_t id) {
    const bpe_text *text = &m->bpe->piece.text[word];
    uint32_t *s = m->symbol + text->offset, n = m->n[word], to = 0;
    const int64_t count = (int64_t)text->count;
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < n;) {
        if (i + 1 == n || s[i] != left || s[i + 1] != right) {
            s[to++] = s[i++];
            continue;
        }
        if (to > 0) {
            status = exchange(m, key_of(s[to - 1], left), key_of(s[to - 1], id), count, word);
        }
        if (status == PICO_OK && i + 2 < n) {
            status = exchange(m, key_of(right, s[i + 2]), key_of(id, s[i + 2]), count, word);
        }
        if (status == PICO_OK) {
            status = pico_bpe_pair_change(&m->pairs, key_of(left, right), -count, word, m->err);
        }
        s[to++] = id;
        i += 2;
        m->bpe->n_token -= text->count;
    }
    m->n[word] = to;
    return status;
}

/*
 * The new token. Its bytes are never those of another one: where nothing has been merged over the ends
 * of a text, what was merged inside depends on that text alone, so equal texts are in equal parts.
 */
static pico_status add_token(merger *m, uint32_t left, uint32_t right, uint32_t *id) {
    bpe_texts *token = &m->bpe->token;
    const bpe_text *a = &token->text[left], *b = &token->text[right];
    const size_t n = (size_t)a->n + b->n;
    int is_new = 0;
    if (n > m->text_capacity) {
        char *bigger = realloc(m->text, 2 * n);
        if (bigger == NULL) {
            return no_memory(m);
        }
        m->text = bigger;
        m->text_capacity = 2 * n;
    }
    memcpy(m->text, token->bytes + a->offset, a->n);
    memcpy(m->text + a->n, token->bytes + b->offset, b->n);
    pico_status status = pico_bpe_find(token, m->text, n, id, &is_new, m->err);
    assert(status != PICO_OK || is_new);
    return status;
}

static pico_status note_merge(merger *m, uint32_t left, uint32_t right) {
    pico_bpe *bpe = m->bpe;
    if (bpe->n_merge == bpe->capacity_merge) {
        const uint32_t capacity = 2 * bpe->capacity_merge + 1024;
        bpe_merge *bigger = realloc(bpe->merge, (size_t)capacity * sizeof *bigger);
        if (bigger == NULL) {
            return no_memory(m);
        }
        bpe->merge = bigger;
        bpe->capacity_merge = capacity;
    }
    bpe->merge[bpe->n_merge++] = (bpe_merge){left, right};
    return PICO_OK;
}

static pico_status merge_pair(merger *m, uint64_t key) {
    const uint32_t left = (uint32_t)(key >> 32), right = (uint32_t)key;
    bpe_pair *pair = pico_bpe_pair_find(&m->pairs, key);
    uint32_t *word = pair->word, id = 0;
    const uint32_t n = pair->n;
    pair->word = NULL; /* the table may move while the pieces change */
    pair->n = pair->capacity = 0;
    pico_status status = add_token(m, left, right, &id);
    if (status == PICO_OK) {
        status = note_merge(m, left, right);
    }
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        status = merge_word(m, word[i], left, right, id);
    }
    free(word);
    if (status == PICO_OK) {
        pair = pico_bpe_pair_find(&m->pairs, key);
        assert(pair == NULL || pair->count == 0);
        status = pico_bpe_pairs_settle(&m->pairs, m->err);
    }
    return status;
}

pico_status pico_bpe_merge(pico_bpe *bpe, uint32_t n_vocab, const pico_bpe_hooks *hooks,
                           pico_error *err) {
    const pico_bpe_hooks none = {0};
    merger m = {.bpe = bpe, .err = err};
    uint64_t key;
    assert(bpe->n_merge == 0 && n_vocab >= 256);
    hooks = hooks == NULL ? &none : hooks;
    pico_status status = begin(&m);
    while (status == PICO_OK && bpe->token.n < n_vocab && pico_bpe_pairs_take(&m.pairs, &key)) {
        if (hooks->should_stop != NULL && hooks->should_stop(hooks->arg)) {
            status = pico_fail(err, PICO_E_CANCELLED, "interrupted after %u merges", bpe->n_merge);
            break;
        }
        status = merge_pair(&m, key);
        if (hooks->progress != NULL) {
            hooks->progress(hooks->arg, bpe->token.n - 256, n_vocab - 256);
        }
    }
    pico_bpe_pairs_close(&m.pairs);
    free(m.symbol);
    free(m.n);
    free(m.text);
    return status;
}
