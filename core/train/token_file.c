/*
 * The file of tokens: a header, the ends of the documents, the ids; numbers as the machine has them.
 * See tokens.h. Whoever changes how a tokenizer works raises the number in the magic.
 */
#include <string.h>

#include "train/tokens.h"
#include "util/checked.h"
#include "util/hash.h"

#define MAGIC 0x316b6f746f636970u /* "picotok1" in little-endian byte order */

typedef struct file_header {
    uint64_t magic;
    pico_token_key key;
    uint64_t n_document, n;
    uint64_t check; /* of the arrays that follow */
} file_header;

/* ---- hashes ---- */

static uint64_t hash_pieces(uint64_t hash, const pico_piece *piece, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t score;
        memcpy(&score, &piece[i].score, sizeof score);
        hash = pico_hash_bytes(hash, piece[i].text, piece[i].n);
        hash = pico_hash_word(hash, (uint64_t)piece[i].type << 32 | score);
    }
    return pico_hash_word(hash, n);
}

static uint64_t hash_vocabulary(const pico_vocab *v) {
    const int64_t numbers[] = {v->kind, v->bos,     v->eos,     v->unk,
                               v->pad,  v->add_bos, v->add_eos, v->add_space_prefix,
                               v->eot,  v->llama2c};
    uint64_t hash = pico_hash_bytes(PICO_HASH_SEED, numbers, sizeof numbers);
    hash = hash_pieces(hash, v->piece, v->n_piece);
    for (uint32_t i = 0; i < v->n_merge; i++) {
        hash = pico_hash_bytes(hash, v->merge[i].text, v->merge[i].n);
    }
    return v->pre == NULL ? hash : pico_hash_bytes(hash, v->pre, strlen(v->pre));
}

pico_token_key pico_token_key_of(const pico_train_text *documents, size_t n,
                                 const pico_vocab *vocab) {
    pico_token_key key = {.texts = PICO_HASH_SEED, .vocabulary = hash_vocabulary(vocab)};
    for (size_t i = 0; i < n; i++) {
        key.texts = pico_hash_bytes(key.texts, documents[i].text, documents[i].n);
    }
    key.texts = pico_hash_word(key.texts, n);
    return key;
}

static uint64_t check_of(const pico_train_tokens *t) {
    return pico_hash_bytes(pico_hash_bytes(PICO_HASH_SEED, t->end, t->n_document * sizeof *t->end),
                           t->id, t->n * sizeof *t->id);
}

/* ---- reading ---- */

static pico_status damaged(const char *path, const char *what, pico_error *err) {
    return pico_fail(err, PICO_E_CORRUPT, "%s is no whole file of tokens (%s)", path, what);
}

/* Whether the file has the size that its header says. */
static int fits(const file_header *h, uint64_t size) {
    uint64_t ends, ids, all = sizeof *h;
    return pico_checked_mul(h->n_document, sizeof(uint64_t), &ends) &&
           pico_checked_mul(h->n, sizeof(int32_t), &ids) && pico_checked_add(all, ends, &all) &&
           pico_checked_add(all, ids, &all) && all == size;
}

/* Documents in order, ids of the vocabulary: what everything else takes for granted. */
static int is_sound(const pico_train_tokens *t, uint32_t n_vocab) {
    uint64_t begin = 0;
    for (uint64_t i = 0; i < t->n_document; i++) {
        if (t->end[i] < begin || t->end[i] > t->n) {
            return 0;
        }
        begin = t->end[i];
    }
    for (uint64_t i = 0; i < t->n; i++) {
        if (t->id[i] < 0 || (uint32_t)t->id[i] >= n_vocab) {
            return 0;
        }
    }
    return begin == t->n;
}

static pico_status check_file(const char *path, const pico_token_key *key, uint32_t n_vocab,
                              pico_train_tokens *t, pico_error *err) {
    file_header h;
    if (t->map.size < sizeof h) {
        return damaged(path, "it is too short", err);
    }
    memcpy(&h, t->map.data, sizeof h);
    if (h.magic != MAGIC) {
        return damaged(path, "it does not begin as one of this version does", err);
    }
    if (h.key.texts != key->texts) {
        return pico_fail(err, PICO_E_INVALID, "%s was made of other texts", path);
    }
    if (h.key.vocabulary != key->vocabulary) {
        return pico_fail(err, PICO_E_INVALID, "%s was made with another vocabulary", path);
    }
    if (!fits(&h, t->map.size)) {
        return damaged(path, "its size is not what it says", err);
    }
    t->n_document = h.n_document;
    t->n = h.n;
    t->end = (const void *)(t->map.data + sizeof h);
    t->id = (const void *)(t->map.data + sizeof h + h.n_document * sizeof *t->end);
    return h.check == check_of(t) && is_sound(t, n_vocab)
               ? PICO_OK
               : damaged(path, "its checksum is wrong", err);
}

pico_status pico_token_file_read(const char *path, const pico_token_key *key,
                                 const pico_tokenizer *tokenizer, pico_train_tokens *out,
                                 pico_error *err) {
    *out = (pico_train_tokens){.bos = pico_tokenizer_bos(tokenizer)};
    pico_status status = pico_map_open(path, &out->map, err);
    if (status == PICO_OK) {
        status = check_file(path, key, pico_tokenizer_n_vocab(tokenizer), out, err);
    }
    if (status != PICO_OK) {
        pico_train_tokens_free(out);
    }
    return status;
}

/* ---- writing ---- */

pico_status pico_token_file_write(const char *path, const pico_token_key *key,
                                  const pico_train_tokens *tokens, pico_error *err) {
    const file_header h = {.magic = MAGIC,
                           .key = *key,
                           .n_document = tokens->n_document,
                           .n = tokens->n,
                           .check = check_of(tokens)};
    pico_writer writer;
    pico_status status = pico_writer_open(&writer, path, err);
    if (status != PICO_OK) {
        return status;
    }
    status = pico_writer_write(&writer, &h, sizeof h, err);
    if (status == PICO_OK) {
        status = pico_writer_write(&writer, tokens->end, h.n_document * sizeof *tokens->end, err);
    }
    if (status == PICO_OK) {
        status = pico_writer_write(&writer, tokens->id, h.n * sizeof *tokens->id, err);
    }
    if (status == PICO_OK) {
        status = pico_writer_commit(&writer, err);
    }
    pico_writer_close(&writer);
    return status;
}
