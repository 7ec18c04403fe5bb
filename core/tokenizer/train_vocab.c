/* A trained vocabulary as files have it: pieces and merges in the byte alphabet, special tokens last. */
#include <string.h>

#include "tokenizer/train_internal.h"
#include "util/text.h"

/* Printable Latin-1 characters stand for themselves, the other bytes for U+0100 on. */
typedef struct alphabet {
    char text[256][4];
    uint32_t n[256];
} alphabet;

static void fill_alphabet(alphabet *letters) {
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; byte++) {
        const int printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
        letters->n[byte] =
            (uint32_t)pico_utf8_encode(printable ? byte : next++, letters->text[byte]);
    }
}

static uint32_t spell(const alphabet *letters, const pico_bpe *bpe, uint32_t id, char *out) {
    const bpe_text *token = &bpe->token.text[id];
    uint32_t used = 0;
    for (uint32_t i = 0; i < token->n; i++) {
        const unsigned char byte = (unsigned char)bpe->token.bytes[token->offset + i];
        memcpy(out + used, letters->text[byte], letters->n[byte]);
        used += letters->n[byte];
    }
    return used;
}

static pico_status no_memory(const pico_bpe *bpe, pico_error *err) {
    return pico_fail(err, PICO_E_NOMEM, "no memory for a vocabulary of %u tokens", bpe->token.n);
}

static pico_status spell_tokens(const pico_bpe *bpe, const alphabet *letters, pico_piece *piece,
                                pico_arena *arena, pico_error *err) {
    for (uint32_t i = 0; i < bpe->token.n; i++) {
        char *text = pico_arena_alloc(arena, bpe->token.text[i].n, 2); /* at most 2 per byte */
        if (text == NULL) {
            return no_memory(bpe, err);
        }
        piece[i] = (pico_piece){
            .text = text, .n = spell(letters, bpe, i, text), .type = PICO_PIECE_NORMAL};
    }
    return PICO_OK;
}

static pico_status spell_merges(const pico_bpe *bpe, const alphabet *letters, pico_piece *merge,
                                pico_arena *arena, pico_error *err) {
    for (uint32_t i = 0; i < bpe->n_merge; i++) {
        const bpe_merge *m = &bpe->merge[i];
        const size_t n = (size_t)bpe->token.text[m->left].n + bpe->token.text[m->right].n;
        char *text = pico_arena_alloc(arena, 2 * n + 1, 1);
        if (text == NULL) {
            return no_memory(bpe, err);
        }
        uint32_t used = spell(letters, bpe, m->left, text);
        text[used++] = ' ';
        used += spell(letters, bpe, m->right, text + used);
        merge[i] = (pico_piece){.text = text, .n = used};
    }
    return PICO_OK;
}

static pico_status add_special(const pico_bpe *bpe, const pico_bpe_special *special,
                               pico_piece *piece, pico_arena *arena, pico_error *err) {
    for (uint32_t i = 0; i < special->n; i++) {
        const char *text = special->text[i];
        for (uint32_t k = 0; k < i; k++) {
            if (strcmp(text, special->text[k]) == 0) {
                return pico_fail(err, PICO_E_INVALID, "the special token %s is there twice", text);
            }
        }
        if (text[0] == '\0') {
            return pico_fail(err, PICO_E_INVALID, "special token %u is empty", i + 1);
        }
        text = pico_arena_strdup(arena, text);
        if (text == NULL) {
            return no_memory(bpe, err);
        }
        piece[i] =
            (pico_piece){.text = text, .n = (uint32_t)strlen(text), .type = PICO_PIECE_CONTROL};
    }
    return PICO_OK;
}

static int32_t id_of(const pico_bpe *bpe, int32_t special) {
    return special < 0 ? -1 : (int32_t)bpe->token.n + special;
}

pico_status pico_bpe_vocab(const pico_bpe *bpe, const pico_bpe_special *special, pico_arena *arena,
                           pico_vocab *out, pico_error *err) {
    const uint32_t n = bpe->token.n + special->n;
    alphabet letters;
    pico_piece *piece = pico_arena_alloc(arena, n, sizeof *piece);
    pico_piece *merge = pico_arena_alloc(arena, bpe->n_merge, sizeof *merge);
    const char *pre = pico_arena_strdup(arena, bpe->pre);
    if (piece == NULL || merge == NULL || pre == NULL) {
        return no_memory(bpe, err);
    }
    fill_alphabet(&letters);
    pico_status status = spell_tokens(bpe, &letters, piece, arena, err);
    if (status == PICO_OK) {
        status = spell_merges(bpe, &letters, merge, arena, err);
    }
    if (status == PICO_OK) {
        status = add_special(bpe, special, piece + bpe->token.n, arena, err);
    }
    *out = (pico_vocab){.kind = PICO_VOCAB_BPE,
                        .n_piece = n,
                        .piece = piece,
                        .n_merge = bpe->n_merge,
                        .merge = merge,
                        .pre = pre,
                        .bos = id_of(bpe, special->bos),
                        .eos = id_of(bpe, special->eos),
                        .unk = -1,
                        .pad = -1,
                        .eot = id_of(bpe, special->eot),
                        .add_bos = special->bos >= 0};
    return status;
}
