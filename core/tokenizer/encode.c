/*
 * Text to token ids. SentencePiece-style: spaces stand where U+2581 would, whole words or the whole
 * text merge by score, what is no token falls back to bytes, else to the unknown token. A
 * vocabulary without a piece for the space writes it as the byte 0x20, so that it comes back as
 * one. Byte-level: a pattern splits the text, each piece merges by rank; bytes that are not valid
 * UTF-8 are pieces of their own and survive. Control tokens are never recognised in text.
 * User-defined pieces are; the space in front of the text is added once, not again after them.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/tokenizer_internal.h"
#include "util/text.h"

static const uint64_t TEXT_MAX = 1u << 30;

typedef struct encoder {
    const pico_tokenizer *tokenizer;
    pico_work work;
    pico_memo memo;
    pico_split_state *split; /* byte-level only */
    const char *prefix;      /* the space put in front of the text, a symbol of its own */
    int continues;           /* 1: none is put there */
} encoder;

static pico_status emit_unknown(encoder *e, const char *s, pico_error *err) {
    if (e->tokenizer->unk < 0) {
        return pico_fail(err, PICO_E_NOT_FOUND,
                         "the vocabulary has no piece for the byte 0x%02X and no unknown token",
                         (unsigned)(unsigned char)s[0]);
    }
    return pico_work_emit(&e->work, e->tokenizer->unk, err);
}

/* The byte tokens of a character that is no token itself; unknown if one of them is missing. */
static pico_status emit_bytes(encoder *e, const char *s, size_t n, pico_error *err) {
    const pico_tokenizer *tokenizer = e->tokenizer;
    int32_t ids[4];
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)s[i];
        /* llama2.c adds 3 without a look at the vocabulary; only ids that exist are followed. */
        ids[i] = !tokenizer->llama2c                 ? tokenizer->byte_id[byte]
                 : (uint32_t)byte + 3 < tokenizer->n ? byte + 3
                                                     : -1;
        if (ids[i] < 0) {
            return emit_unknown(e, s + i, err);
        }
    }
    pico_status status = PICO_OK;
    for (size_t i = 0; i < n && status == PICO_OK; i++) {
        status = pico_work_emit(&e->work, ids[i], err);
    }
    return status;
}

static pico_status merge_and_emit(encoder *e, const char *text, pico_error *err) {
    pico_work_merge(e->tokenizer, &e->work, text);
    pico_status status = PICO_OK;
    for (uint32_t i = 0; i < e->work.n_symbol && status == PICO_OK; i++) {
        const pico_symbol *symbol = &e->work.symbol[i];
        status = symbol->id >= 0 ? pico_work_emit(&e->work, symbol->id, err)
                                 : emit_bytes(e, text + symbol->start, symbol->n, err);
    }
    return status;
}

/* At most 4 bytes that are looked up as one: a character, or a single invalid byte. llama2.c takes
 * any byte and the continuation bytes after it. */
static size_t character_length(const pico_tokenizer *tokenizer, const char *s, size_t n) {
    uint32_t code;
    size_t length = 1;
    if ((unsigned char)s[0] < 0x80 && !tokenizer->llama2c) {
        return 1;
    }
    if (!tokenizer->llama2c) {
        length = pico_utf8_decode(s, n, &code);
        return length > 0 ? length : 1;
    }
    while (length < n && length < 4 && ((unsigned char)s[length] & 0xc0u) == 0x80) {
        length++;
    }
    return length;
}

/* Appends the tokens of a piece whose tokens depend on its bytes alone. */
typedef pico_status encode_piece(encoder *e, const char *s, size_t n, pico_error *err);

/* The same with the memo: the piece is encoded only if it is not there. */
static inline pico_status encode_known(encoder *e, const char *s, size_t n, encode_piece *encode,
                                       pico_error *err) {
    pico_work *work = &e->work;
    if (e->memo.entry == NULL || n > PICO_MEMO_BYTES) {
        return encode(e, s, n, err);
    }
    uint64_t key[2];
    pico_memo_entry *entry = pico_memo_at(&e->memo, s, n, key);
    if (entry->key[0] == key[0] && entry->key[1] == key[1]) {
        pico_status status = pico_work_grow(work, PICO_MEMO_IDS, err);
        if (status == PICO_OK) {
            memcpy(work->ids + work->n_ids, entry->id, sizeof entry->id);
            work->n_ids += entry->n;
        }
        return status;
    }
    size_t before = work->n_ids;
    pico_status status = encode(e, s, n, err);
    size_t n_new = work->n_ids - before;
    if (status == PICO_OK && n_new <= PICO_MEMO_IDS) {
        *entry = (pico_memo_entry){.key = {key[0], key[1]}, .n = (uint32_t)n_new};
        memcpy(entry->id, work->ids + before, n_new * sizeof *entry->id);
    }
    return status;
}

static pico_status spm_piece(encoder *e, const char *s, size_t n, pico_error *err) {
    pico_status status = pico_work_reserve(&e->work, n, err);
    if (status != PICO_OK) {
        return status;
    }
    for (size_t i = 0; i < n;) {
        size_t length = s + i == e->prefix ? 1 : character_length(e->tokenizer, s + i, n - i);
        pico_work_symbol(&e->work, i, length, pico_piece_find(e->tokenizer, s + i, length));
        i += length;
    }
    return merge_and_emit(e, s, err);
}

static pico_status spm_segment(encoder *e, const char *s, size_t n, pico_error *err) {
    if (n == 0) {
        return PICO_OK;
    }
    /* After the space in front, llama2.c reads continuation bytes differently. */
    return s == e->prefix ? spm_piece(e, s, n, err) : encode_known(e, s, n, spm_piece, err);
}

/* The text with the space in front, and with spaces for U+2581. out has n + 1 bytes of room. */
static size_t spm_normalise(encoder *e, const char *s, size_t n, char *out) {
    const pico_tokenizer *tokenizer = e->tokenizer;
    size_t written = 0;
    if (tokenizer->space_prefix && !e->continues &&
        (!tokenizer->llama2c || pico_piece_find(tokenizer, " ", 1) >= 0)) {
        out[written++] = ' ';
        e->prefix = out;
    }
    if (tokenizer->llama2c) {
        memcpy(out + written, s, n);
        return written + n;
    }
    for (size_t i = 0; i < n;) {
        if (s[i] == '\xe2' && n - i >= 3 && s[i + 1] == '\x96' && s[i + 2] == '\x81') {
            out[written++] = ' ';
            i += 3;
        } else {
            out[written++] = s[i++];
        }
    }
    return written;
}

static pico_status encode_spm(encoder *e, const char *text, size_t n, pico_error *err) {
    const pico_tokenizer *tokenizer = e->tokenizer;
    char *s = malloc(n + 1);
    if (s == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "no memory to encode %zu bytes", n);
    }
    n = spm_normalise(e, text, n, s);
    size_t from = 0;
    pico_status status = pico_memo_open(&e->memo, s, n, err);
    for (size_t i = 0; i < n && status == PICO_OK;) {
        int32_t user = pico_user_match(tokenizer, s + i, n - i);
        int word = tokenizer->words_apart && s[i] == ' ' && i > from && s[i - 1] != ' ';
        if (user >= 0 || word) {
            status = spm_segment(e, s + from, i - from, err);
            from = i;
        }
        if (user >= 0) {
            status = status != PICO_OK ? status : pico_work_emit(&e->work, user, err);
            i += tokenizer->token[user].n;
            from = i;
        } else {
            i++;
        }
    }
    status = status != PICO_OK ? status : spm_segment(e, s + from, n - from, err);
    free(s);
    return status;
}

static pico_status bpe_merge(encoder *e, const char *s, size_t n, pico_error *err) {
    pico_status status = pico_work_reserve(&e->work, n, err);
    if (status != PICO_OK) {
        return status;
    }
    for (size_t i = 0; i < n; i++) {
        pico_work_symbol(&e->work, i, 1, e->tokenizer->byte_id[(unsigned char)s[i]]);
    }
    return merge_and_emit(e, s, err);
}

/* Nearly every piece that is a token as a whole comes out of merging as that token; whether it does
 * is found out once for each token. */
static pico_status bpe_piece(encoder *e, const char *s, size_t n, pico_error *err) {
    const pico_tokenizer *tokenizer = e->tokenizer;
    int32_t id = n <= tokenizer->max_merged ? pico_piece_find(tokenizer, s, n) : -1;
    if (id < 0) {
        return bpe_merge(e, s, n, err);
    }
    uint8_t whole = PICO_WHOLE_YES;
    if (tokenizer->whole != NULL) {
        whole = atomic_load_explicit(&tokenizer->whole[id], memory_order_relaxed);
    }
    if (whole == PICO_WHOLE_YES) {
        return pico_work_emit(&e->work, id, err);
    }
    size_t before = e->work.n_ids;
    pico_status status = bpe_merge(e, s, n, err);
    if (status == PICO_OK && whole == PICO_WHOLE_UNKNOWN) {
        int same = e->work.n_ids == before + 1 && e->work.ids[before] == id;
        atomic_store_explicit(&tokenizer->whole[id], same ? PICO_WHOLE_YES : PICO_WHOLE_NO,
                              memory_order_relaxed);
    }
    return status;
}

/* Bytes from s on that are valid UTF-8. */
static size_t valid_length(const char *s, size_t n) {
    size_t i = 0, length = 1;
    uint32_t code;
    uint64_t bytes;
    while (i < n && length > 0) {
        if (n - i >= sizeof bytes) {
            memcpy(&bytes, s + i, sizeof bytes);
            if ((bytes & 0x8080808080808080u) == 0) {
                i += sizeof bytes;
                continue;
            }
        }
        length = (unsigned char)s[i] < 0x80 ? 1 : pico_utf8_decode(s + i, n - i, &code);
        i += length;
    }
    return i;
}

static pico_status bpe_text(encoder *e, const char *s, size_t n, pico_error *err) {
    pico_status status = PICO_OK;
    for (size_t i = 0; i < n && status == PICO_OK;) {
        size_t valid = valid_length(s + i, n - i);
        for (size_t at = 0, end = 0; at < valid && status == PICO_OK; at = end) {
            status = pico_split_next(e->split, s + i, valid, at, &end, err);
            status =
                status != PICO_OK ? status : encode_known(e, s + i + at, end - at, bpe_piece, err);
        }
        i += valid;
        if (i < n && status == PICO_OK) {
            status = bpe_piece(e, s + i, 1, err);
            i++;
        }
    }
    return status;
}

static pico_status encode_bpe(encoder *e, const char *s, size_t n, pico_error *err) {
    const pico_tokenizer *tokenizer = e->tokenizer;
    e->split = pico_split_begin(tokenizer->splitter);
    if (e->split == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "no memory to split text");
    }
    pico_status status = pico_memo_open(&e->memo, s, n, err);
    size_t from = 0;
    for (size_t i = 0; tokenizer->n_user > 0 && i < n && status == PICO_OK;) {
        int32_t user = pico_user_match(tokenizer, s + i, n - i);
        if (user < 0) {
            i++;
            continue;
        }
        status = bpe_text(e, s + from, i - from, err);
        status = status != PICO_OK ? status : pico_work_emit(&e->work, user, err);
        i += tokenizer->token[user].n;
        from = i;
    }
    return status != PICO_OK ? status : bpe_text(e, s + from, n - from, err);
}

pico_status pico_tokenizer_encode(const pico_tokenizer *tokenizer, const char *text, size_t n,
                                  uint32_t flags, int32_t **ids, size_t *n_ids, pico_error *err) {
    if (n > TEXT_MAX) {
        return pico_fail(err, PICO_E_LIMIT, "%zu bytes are too many to encode at once", n);
    }
    encoder e = {.tokenizer = tokenizer, .continues = (flags & PICO_ENCODE_CONTINUES) != 0};
    pico_status status = PICO_OK;
    if ((flags & PICO_ENCODE_BOS) && tokenizer->bos >= 0) {
        status = pico_work_emit(&e.work, tokenizer->bos, err);
    }
    if (status == PICO_OK && n > 0) {
        status = tokenizer->kind == PICO_VOCAB_SPM ? encode_spm(&e, text, n, err)
                                                   : encode_bpe(&e, text, n, err);
    }
    if (status == PICO_OK && (flags & PICO_ENCODE_EOS) && tokenizer->eos >= 0) {
        status = pico_work_emit(&e.work, tokenizer->eos, err);
    }
    if (status == PICO_OK && e.work.ids == NULL) { /* no tokens: still something to free */
        e.work.ids = malloc(sizeof *e.work.ids);
        status = e.work.ids != NULL ? PICO_OK : pico_fail(err, PICO_E_NOMEM, "no memory");
    }
    if (status == PICO_OK) {
        *ids = e.work.ids;
        *n_ids = e.work.n_ids;
        e.work.ids = NULL;
    }
    pico_split_end(e.split);
    pico_memo_close(&e.memo);
    pico_work_free(&e.work);
    return status;
}
