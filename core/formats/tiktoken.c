/*
 * The pickled tokenizer of nanochat (tokenizer.pkl): an object of tiktoken.core.Encoding with a
 * split pattern, a table of bytes -> rank and one of special text -> id. Ranks are ids, and the
 * order of merging, so there is no list of merges. Ids without a hole and all 256 single bytes are
 * demanded; texts are copied.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/pickle.h"
#include "formats/reader.h"
#include "util/text.h"

enum { MAX_PIECE_BYTES = 16384 };

typedef struct ranked {
    const pico_pickle_value *bytes;
    uint32_t id;
} ranked;

typedef struct token_reader {
    pico_arena *arena;
    pico_vocab *vocab;
    pico_piece *piece;     /* (n) text NULL: not seen yet */
    struct ranked *ranked; /* (n_rank) */
    uint32_t n_rank, n;
    pico_error *err;
} token_reader;

int pico_tiktoken_detect(const pico_map *map) {
    enum { LONG1 = 0x8a }; /* how files of torch.save began before they were archives */
    /* A tokenizer.bin of llama2.c may begin with 80 02 00 00; 00 is no opcode. */
    return map->size >= 3 && map->data[0] == 0x80 && map->data[1] >= 2 && map->data[1] <= 5 &&
           map->data[2] != 0 && map->data[2] != LONG1;
}

/* ---- the split pattern ---- */

/* The name under which the tokenizer knows it; else "regex:" and the pattern itself. */
static const char *name_of_pattern(const token_reader *r, const pico_pickle_value *pattern) {
    static const struct {
        const char *name, *pattern;
    } known[] = {
        {"nanochat", "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,2}"
                     "| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"},
        {"gpt-2", "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
                  "|\\s+(?!\\S)|\\s+"},
        {"gpt-2", "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
                  "|\\s+(?!\\S)|\\s+"},
        {"gpt-2", "'(?:[sdmt]|ll|ve|re)| ?\\p{L}++| ?\\p{N}++| ?[^\\s\\p{L}\\p{N}]++|\\s++$"
                  "|\\s+(?!\\S)|\\s"},
        {"llama-bpe", "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
                      "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
        {"qwen2", "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
                  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (pico_pickle_is_text(pattern, known[i].pattern)) {
            return known[i].name;
        }
    }
    return pico_arena_printf(r->arena, "regex:%.*s", (int)pattern->n, pattern->text);
}

static pico_status read_pattern(token_reader *r, const pico_pickle_value *state) {
    const pico_pickle_value *pattern = pico_pickle_get(state, "pat_str");
    if (pattern == NULL || pattern->kind != PICO_PICKLE_TEXT || pattern->n > INT16_MAX ||
        memchr(pattern->text, '\0', (size_t)pattern->n) != NULL) {
        return pico_fail(r->err, PICO_E_CORRUPT,
                         "pat_str: expected a text of at most %d bytes, found %s", INT16_MAX,
                         pico_pickle_kind(pattern));
    }
    r->vocab->pre = name_of_pattern(r, pattern);
    return r->vocab->pre != NULL ? PICO_OK : pico_fail(r->err, PICO_E_NOMEM, "out of memory");
}

/* ---- pieces ---- */

/* A table of a kind of key -> id. */
static pico_status check_table(const token_reader *r, const char *name,
                               const pico_pickle_value *table, uint32_t key_kind) {
    if (table == NULL || table->kind != PICO_PICKLE_DICT) {
        return pico_fail(r->err, PICO_E_CORRUPT, "%s: expected a dict, found %s", name,
                         pico_pickle_kind(table));
    }
    for (uint64_t i = 0; i < table->n; i += 2) {
        const pico_pickle_value *key = table->item[i], *id = table->item[i + 1];
        if (key->kind != key_kind || id->kind != PICO_PICKLE_INT) {
            return pico_fail(r->err, PICO_E_CORRUPT, "%s, entry %llu: %s -> %s, expected %s -> %s",
                             name, (unsigned long long)(i / 2), pico_pickle_kind(key),
                             pico_pickle_kind(id),
                             key_kind == PICO_PICKLE_TEXT ? "a text" : "bytes", "an integer");
        }
        if (key->n == 0 || key->n > MAX_PIECE_BYTES) {
            return pico_fail(r->err, PICO_E_CORRUPT,
                             "%s: the token with id %lld has %llu bytes, expected 1 to %d", name,
                             (long long)id->integer, (unsigned long long)key->n, MAX_PIECE_BYTES);
        }
    }
    return PICO_OK;
}

static pico_status take_id(const token_reader *r, const char *name, int64_t id, uint32_t first,
                           uint32_t end) {
    if (id < first || id >= end) {
        return pico_fail(r->err, PICO_E_CORRUPT,
                         "%s: id %lld, expected %u to %u (%u ordinary and %u special tokens, "
                         "without a hole)",
                         name, (long long)id, first, end - 1, r->n_rank, r->n - r->n_rank);
    }
    if (r->piece[id].text != NULL) {
        return pico_fail(r->err, PICO_E_CORRUPT, "%s: id %lld is used twice", name, (long long)id);
    }
    return PICO_OK;
}

/* GPT-2's alphabet: printable Latin-1 characters stand for themselves, the others for U+0100 on. */
static void alphabet(char text[256][4], uint32_t length[256]) {
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; byte++) {
        int printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
        length[byte] = (uint32_t)pico_utf8_encode(printable ? byte : next++, text[byte]);
    }
}

static pico_status read_ranks(token_reader *r, const pico_pickle_value *table) {
    char letter[256][4];
    uint32_t length[256];
    alphabet(letter, length);
    for (uint64_t i = 0; i < table->n; i += 2) {
        const pico_pickle_value *key = table->item[i];
        int64_t id = table->item[i + 1]->integer;
        pico_status status = take_id(r, "mergeable_ranks", id, 0, r->n_rank);
        if (status != PICO_OK) {
            return status;
        }
        char *text = pico_arena_alloc(r->arena, (size_t)key->n, 2); /* at most 2 per byte */
        if (text == NULL) {
            return pico_fail(r->err, PICO_E_NOMEM, "out of memory");
        }
        pico_piece *piece = &r->piece[id];
        *piece = (pico_piece){.text = text, .type = PICO_PIECE_NORMAL};
        for (uint64_t j = 0; j < key->n; j++) {
            unsigned char byte = (unsigned char)key->text[j];
            memcpy(text + piece->n, letter[byte], length[byte]);
            piece->n += length[byte];
        }
        r->ranked[id] = (ranked){.bytes = key, .id = (uint32_t)id};
    }
    return PICO_OK;
}

static pico_status read_special(token_reader *r, const pico_pickle_value *table) {
    for (uint64_t i = 0; i < table->n; i += 2) {
        const pico_pickle_value *key = table->item[i];
        int64_t id = table->item[i + 1]->integer;
        pico_status status = take_id(r, "special_tokens", id, r->n_rank, r->n);
        if (status != PICO_OK) {
            return status;
        }
        const char *text = pico_arena_strndup(r->arena, key->text, (size_t)key->n);
        if (text == NULL) {
            return pico_fail(r->err, PICO_E_NOMEM, "out of memory");
        }
        r->piece[id] =
            (pico_piece){.text = text, .n = (uint32_t)key->n, .type = PICO_PIECE_CONTROL};
    }
    return PICO_OK;
}

/* ---- what must hold for all tokens ---- */

static int compare_bytes(const void *a, const void *b) {
    const pico_pickle_value *x = ((const ranked *)a)->bytes;
    const pico_pickle_value *y = ((const ranked *)b)->bytes;
    int order = memcmp(x->text, y->text, (size_t)(x->n < y->n ? x->n : y->n));
    return order != 0 ? order : (x->n > y->n) - (x->n < y->n);
}

static pico_status check_bytes(token_reader *r) {
    char found[256] = {0};
    qsort(r->ranked, r->n_rank, sizeof *r->ranked, compare_bytes);
    for (uint32_t i = 0; i < r->n_rank; i++) {
        const ranked *token = &r->ranked[i];
        if (token->bytes->n == 1) {
            found[(unsigned char)token->bytes->text[0]] = 1;
        }
        if (i > 0 && compare_bytes(token - 1, token) == 0) {
            return pico_fail(r->err, PICO_E_CORRUPT,
                             "mergeable_ranks: ids %u and %u have the same bytes", token[-1].id,
                             token->id);
        }
    }
    for (int byte = 0; byte < 256; byte++) {
        if (!found[byte]) {
            return pico_fail(r->err, PICO_E_CORRUPT,
                             "mergeable_ranks: no token for the single byte 0x%02x", byte);
        }
    }
    return PICO_OK;
}

static int32_t find_special(const token_reader *r, const char *text) {
    for (uint32_t i = r->n_rank; i < r->n; i++) {
        if (r->piece[i].n == strlen(text) && memcmp(r->piece[i].text, text, r->piece[i].n) == 0) {
            return (int32_t)i;
        }
    }
    return -1;
}

static void fill_vocab(const token_reader *r) {
    pico_vocab *v = r->vocab;
    int32_t bos = find_special(r, "<|bos|>");
    v->kind = PICO_VOCAB_BPE;
    v->n_piece = r->n;
    v->piece = r->piece;
    v->eos = find_special(r, "<|endoftext|>");
    v->bos = bos >= 0 ? bos : v->eos; /* GPT-2's one token for both */
    v->eot = find_special(r, "<|assistant_end|>");
    v->add_bos = bos >= 0;
}

static pico_status read_encoding(token_reader *r, const pico_pickle_value *state) {
    const pico_pickle_value *ranks = pico_pickle_get(state, "mergeable_ranks"),
                            *special = pico_pickle_get(state, "special_tokens");
    pico_status status = read_pattern(r, state);
    if (status == PICO_OK) {
        status = check_table(r, "mergeable_ranks", ranks, PICO_PICKLE_BYTES);
    }
    if (status == PICO_OK) {
        status = check_table(r, "special_tokens", special, PICO_PICKLE_TEXT);
    }
    if (status != PICO_OK) {
        return status;
    }
    uint64_t n = ranks->n / 2 + special->n / 2;
    if (n > PICO_MAX_VOCAB) {
        return pico_fail(r->err, PICO_E_LIMIT, "%llu tokens, expected at most %d",
                         (unsigned long long)n, PICO_MAX_VOCAB);
    }
    r->n = (uint32_t)n;
    r->n_rank = (uint32_t)(ranks->n / 2);
    r->piece = pico_arena_alloc(r->arena, r->n, sizeof *r->piece);
    r->ranked = calloc((size_t)r->n_rank + 1, sizeof *r->ranked);
    if (r->piece == NULL || r->ranked == NULL) {
        return pico_fail(r->err, PICO_E_NOMEM, "out of memory for %u tokens", r->n);
    }
    status = read_ranks(r, ranks);
    if (status == PICO_OK) {
        status = read_special(r, special);
    }
    return status == PICO_OK ? check_bytes(r) : status;
}

pico_status pico_tiktoken_read(const pico_map *map, pico_arena *arena, pico_vocab *vocab,
                               pico_error *err) {
    pico_arena scratch = {0};
    const pico_pickle_value *root = NULL;
    token_reader r = {.arena = arena, .vocab = vocab, .err = err};
    *vocab = (pico_vocab){.bos = -1, .eos = -1, .unk = -1, .pad = -1, .eot = -1};
    pico_status status = pico_pickle_read(map, &scratch, &root, err);
    if (status == PICO_OK &&
        (root->kind != PICO_PICKLE_OBJECT || root->global != PICO_GLOBAL_ENCODING)) {
        status = pico_fail(err, PICO_E_UNSUPPORTED,
                           "the pickle holds %s, expected a tokenizer (tiktoken.core.Encoding)",
                           pico_pickle_kind(root));
    }
    if (status == PICO_OK) {
        status = read_encoding(&r, root->item[1]);
    }
    if (status == PICO_OK) {
        fill_vocab(&r);
    }
    free(r.ranked);
    pico_arena_free(&scratch);
    return status;
}
