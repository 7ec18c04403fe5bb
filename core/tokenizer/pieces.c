/*
 * From a vocabulary as the file has it to pieces as the bytes that they stand for. Refuses
 * vocabularies that cannot work: empty, scores that are no numbers, malformed byte pieces.
 */
#include <string.h>

#include "tokenizer/tokenizer_internal.h"
#include "util/checked.h"
#include "util/text.h"

static const char space_symbol[] = "\xe2\x96\x81"; /* U+2581, SentencePiece's space */

/* The byte of a character of GPT-2's alphabet, or -1. Printable Latin-1 stands for itself; the 68
 * others are U+0100 to U+0143 in order: 0x00-0x20, 0x7f-0xa0, 0xad. */
static int byte_of_code(uint32_t code) {
    if ((code >= 0x21 && code <= 0x7e) || (code >= 0xa1 && code <= 0xff && code != 0xad)) {
        return (int)code;
    }
    if (code >= 0x100 && code <= 0x120) {
        return (int)(code - 0x100);
    }
    if (code >= 0x121 && code <= 0x142) {
        return (int)(code - 0x121 + 0x7f);
    }
    return code == 0x143 ? 0xad : -1;
}

int pico_bytes_of_alphabet(const char *s, size_t n, char *out, size_t *n_out) {
    size_t written = 0;
    for (size_t i = 0; i < n;) {
        uint32_t code;
        size_t length = pico_utf8_decode(s + i, n - i, &code);
        int byte = length == 0 ? -1 : byte_of_code(code);
        if (byte < 0) {
            return 0;
        }
        out[written++] = (char)byte;
        i += length;
    }
    *n_out = written;
    return 1;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* The byte that "<0xNN>" names, or -1 if the piece is not of that form. */
static int byte_of_name(const pico_piece *piece) {
    if (piece->n != 6 || memcmp(piece->text, "<0x", 3) != 0 || piece->text[5] != '>') {
        return -1;
    }
    int high = hex_digit(piece->text[3]), low = hex_digit(piece->text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* Lower is better: the order of floats is that of these integers, reversed. */
static uint32_t order_of_score(float score) {
    float positive_zero = score + 0.0f;
    uint32_t bits;
    memcpy(&bits, &positive_zero, sizeof bits);
    return bits >> 31 ? bits : 0x7fffffffu - bits;
}

/* Texts after which no chat or document continues, in the families that are commonly met. */
static int is_end_text(const pico_piece *piece) {
    static const char *const ends[] = {
        "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>",      "<|eom_id|>",
        "<|im_end|>",    "<|end|>",         "<|return|>",      "<|assistant_end|>",
        "<end_of_turn>", "<EOT>",           "<|end_of_turn|>",
    };
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        if (piece->n == strlen(ends[i]) && memcmp(piece->text, ends[i], piece->n) == 0) {
            return 1;
        }
    }
    return 0;
}

static size_t copy_with_spaces(const pico_piece *piece, char *out) {
    size_t written = 0;
    for (size_t i = 0; i < piece->n;) {
        if (piece->n - i >= 3 && memcmp(piece->text + i, space_symbol, 3) == 0) {
            out[written++] = ' ';
            i += 3;
        } else {
            out[written++] = piece->text[i++];
        }
    }
    return written;
}

static size_t copy_raw(const pico_piece *piece, char *out) {
    if (piece->n > 0) {
        memcpy(out, piece->text, piece->n);
    }
    return piece->n;
}

/* SentencePiece: scores order the merges. */
static pico_status build_spm(const pico_tokenizer *tokenizer, uint32_t i, const pico_piece *piece,
                             pico_token *token, char *out, pico_error *err) {
    int byte = byte_of_name(piece);
    if (tokenizer->llama2c && byte >= 0) {
        token->type = PICO_PIECE_BYTE;
    }
    if (piece->score != piece->score) {
        return pico_fail(err, PICO_E_CORRUPT, "vocabulary: the score of piece %u is not a number",
                         i);
    }
    token->order = order_of_score(piece->score);
    if (token->type == PICO_PIECE_BYTE) {
        if (byte < 0) {
            return pico_fail(err, PICO_E_CORRUPT,
                             "vocabulary: byte piece %u is \"%.*s\", expected the form <0x0A>", i,
                             (int)(piece->n < 32 ? piece->n : 32), piece->text);
        }
        out[0] = (char)byte;
        token->n = 1;
    } else if (tokenizer->llama2c) {
        /* llama2.c looks at scores above -1e10 only, and shows the unknown piece as it is. */
        token->n = token->type == PICO_PIECE_CONTROL ? 0 : (uint32_t)copy_raw(piece, out);
        if (token->type != PICO_PIECE_CONTROL && token->type != PICO_PIECE_UNKNOWN &&
            piece->score > -1e10f) {
            token->flags |= PICO_TOKEN_MERGED;
        }
    } else if (token->type != PICO_PIECE_CONTROL && token->type != PICO_PIECE_UNKNOWN) {
        token->n = (uint32_t)copy_with_spaces(piece, out);
        if (token->type != PICO_PIECE_USER) {
            token->flags |= PICO_TOKEN_MERGED;
        }
    }
    return PICO_OK;
}

/* Byte-level: without a list of merges a lower id merges first. */
static void build_bpe(uint32_t i, const pico_piece *piece, pico_token *token, char *out) {
    token->order = i;
    if (token->type == PICO_PIECE_USER) {
        token->n = (uint32_t)copy_raw(piece, out);
    } else if (token->type != PICO_PIECE_CONTROL && token->type != PICO_PIECE_UNKNOWN) {
        size_t n;
        if (pico_bytes_of_alphabet(piece->text, piece->n, out, &n)) {
            token->n = (uint32_t)n;
            token->flags |= PICO_TOKEN_MERGED;
        } else {
            token->n = (uint32_t)copy_raw(piece, out); /* never encoded, printed as it is */
        }
    }
}

static pico_status build_one(pico_tokenizer *tokenizer, uint32_t i, const pico_piece *piece,
                             uint32_t offset, pico_error *err) {
    pico_token *token = &tokenizer->token[i];
    int32_t id = (int32_t)i;
    if (piece->type < PICO_PIECE_NORMAL || piece->type > PICO_PIECE_BYTE) {
        return pico_fail(err, PICO_E_CORRUPT, "vocabulary: piece %u has type %u, expected 1 to 6",
                         i, piece->type);
    }
    token->offset = offset;
    token->type = (uint8_t)piece->type;
    if (tokenizer->llama2c && (id == tokenizer->bos || id == tokenizer->eos)) {
        token->type = PICO_PIECE_CONTROL;
    }
    if (tokenizer->kind == PICO_VOCAB_SPM) {
        pico_status status = build_spm(tokenizer, i, piece, token, tokenizer->text + offset, err);
        if (status != PICO_OK) {
            return status;
        }
    } else {
        build_bpe(i, piece, token, tokenizer->text + offset);
    }
    /* A model that writes BOS begins another document: what was asked for has ended. */
    if (id == tokenizer->eos || id == tokenizer->eot ||
        (token->type == PICO_PIECE_CONTROL && (id == tokenizer->bos || is_end_text(piece)))) {
        token->flags |= PICO_TOKEN_END;
    }
    return PICO_OK;
}

pico_status pico_pieces_build(pico_tokenizer *tokenizer, const pico_vocab *vocab, pico_error *err) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        bytes += vocab->piece[i].n; /* 2^24 pieces of 2^32 bytes fit */
    }
    if (bytes > UINT32_MAX) {
        return pico_fail(err, PICO_E_LIMIT, "vocabulary: %llu bytes of pieces are too many",
                         (unsigned long long)bytes);
    }
    tokenizer->token =
        pico_arena_alloc(&tokenizer->arena, vocab->n_piece, sizeof *tokenizer->token);
    tokenizer->text = pico_arena_alloc(&tokenizer->arena, (size_t)bytes + 1, 1);
    if (tokenizer->token == NULL || tokenizer->text == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "no memory for a vocabulary of %u pieces",
                         vocab->n_piece);
    }
    uint32_t offset = 0;
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        pico_status status = build_one(tokenizer, i, &vocab->piece[i], offset, err);
        if (status != PICO_OK) {
            return status;
        }
        const pico_token *token = &tokenizer->token[i];
        offset += token->n;
        if (token->n > tokenizer->max_piece) {
            tokenizer->max_piece = token->n;
        }
        if ((token->flags & PICO_TOKEN_MERGED) && token->n > tokenizer->max_merged) {
            tokenizer->max_merged = token->n;
        }
    }
    return PICO_OK;
}
