/* layers: tokenizer */
/*
 * Builds a small vocabulary from the input, then encodes and decodes the rest of it. Beyond memory
 * errors it checks that ids are in range, that byte-level text comes back as it was, and that the
 * stream of tokens is the one-shot text.
 *
 * Input: kind and flags, split pattern, number of base bytes, then pieces (length, type, score,
 * bytes) until an empty one with type 0, then merges (two piece numbers or free bytes), then text.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/tokenizer.h"

enum { PIECES_MAX = 600, MERGES_MAX = 200, TEXT_SIZE = 65536, CHECKED_MAX = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct reader {
    const uint8_t *data;
    size_t size;
} reader;

typedef struct fuzz_vocab {
    pico_vocab vocab;
    pico_piece piece[PIECES_MAX], merge[MERGES_MAX];
    char pre[64], text[TEXT_SIZE];
    size_t n_text;
} fuzz_vocab;

static uint32_t take(reader *in) {
    if (in->size == 0) {
        return 0;
    }
    in->size--;
    return *in->data++;
}

static const char *keep(fuzz_vocab *v, const void *bytes, size_t n) {
    char *copy = v->text + v->n_text;
    if (n > sizeof v->text - v->n_text) {
        return NULL;
    }
    memcpy(copy, bytes, n);
    v->n_text += n;
    return copy;
}

static void add_piece(fuzz_vocab *v, const void *bytes, size_t n, uint32_t type, float score) {
    const char *text = keep(v, bytes, n);
    if (text != NULL && v->vocab.n_piece < PIECES_MAX) {
        v->piece[v->vocab.n_piece++] =
            (pico_piece){.text = text, .n = (uint32_t)n, .type = type, .score = score};
    }
}

static void add_base(fuzz_vocab *v, uint32_t n) {
    for (uint32_t b = 0, extra = 256; b < n; b++) {
        char text[16];
        int length;
        int printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xff && b != 0xad);
        uint32_t code = printable ? b : extra++;
        if (v->vocab.kind == PICO_VOCAB_SPM) {
            length = snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
        } else if (code < 0x80) {
            text[0] = (char)code;
            length = 1;
        } else {
            text[0] = (char)(0xc0u | (code >> 6));
            text[1] = (char)(0x80u | (code & 0x3fu));
            length = 2;
        }
        add_piece(v, text, (size_t)length,
                  v->vocab.kind == PICO_VOCAB_SPM ? PICO_PIECE_BYTE : PICO_PIECE_NORMAL, 0.0f);
    }
}

static void add_pieces(fuzz_vocab *v, reader *in) {
    while (in->size > 0) {
        uint32_t head = take(in), n = head & 15u, type = head >> 5;
        if (head == 0) {
            break;
        }
        uint32_t bits = (take(in) << 24) | (take(in) << 16);
        float score = (float)(int32_t)(bits >> 16) - 32768.0f;
        if (head & 16u) {
            memcpy(&score, &bits, sizeof score); /* any float, NaN and infinities too */
        }
        n = n < in->size ? n : (uint32_t)in->size;
        add_piece(v, in->data, n, type, score);
        in->data += n;
        in->size -= n;
    }
}

static void add_merges(fuzz_vocab *v, reader *in) {
    while (in->size > 0 && v->vocab.n_merge < MERGES_MAX && v->vocab.n_piece > 0) {
        uint32_t left = take(in), right = take(in);
        char text[64];
        if (left == 0 && right == 0) {
            break;
        }
        const pico_piece *a = &v->piece[left * 3 % v->vocab.n_piece];
        const pico_piece *b = &v->piece[right * 3 % v->vocab.n_piece];
        if (a->n + b->n + 1 > sizeof text) {
            continue;
        }
        memcpy(text, a->text, a->n);
        text[a->n] = ' ';
        memcpy(text + a->n + 1, b->text, b->n);
        uint32_t n = a->n + b->n + 1;
        const char *kept = keep(v, text, n);
        if (kept == NULL) {
            break;
        }
        v->merge[v->vocab.n_merge++] = (pico_piece){.text = kept, .n = n};
        if (left & 1u) { /* usually the result exists too */
            memmove(text + a->n, text + a->n + 1, b->n);
            add_piece(v, text, n - 1, PICO_PIECE_NORMAL, 0.0f);
        }
    }
}

static void build(fuzz_vocab *v, reader *in) {
    static const char *const pres[] = {"gpt-2", "llama3", "qwen2", "nanochat", "default", "no"};
    uint32_t flags = take(in), pre = take(in) % 8;
    v->vocab = (pico_vocab){.piece = v->piece, .merge = v->merge, .pad = -1};
    v->vocab.kind = flags & 1u ? PICO_VOCAB_SPM : flags & 64u ? flags : PICO_VOCAB_BPE;
    v->vocab.llama2c = (flags >> 1) & 1u;
    v->vocab.add_space_prefix = (flags >> 2) & 1u;
    v->vocab.bos = flags & 8u ? (int32_t)take(in) - 1 : -1;
    v->vocab.eos = flags & 16u ? (int32_t)take(in) - 1 : -1;
    v->vocab.unk = flags & 32u ? (int32_t)take(in) - 1 : -1;
    v->vocab.eot = -1;
    if (pre < 6) {
        v->vocab.pre = pres[pre];
    } else if (pre == 6) {
        size_t n = take(in) % 32;
        n = n < in->size ? n : in->size;
        memcpy(v->pre, "regex:", 6);
        memcpy(v->pre + 6, in->data, n);
        in->data += n;
        in->size -= n;
        v->vocab.pre = v->pre;
    }
    add_base(v, flags & 128u ? 256 : take(in));
    add_pieces(v, in);
    if (v->vocab.kind == PICO_VOCAB_BPE) {
        add_merges(v, in);
    }
}

static void check(int holds, const char *what) {
    if (!holds) {
        (void)fprintf(stderr, "broken: %s\n", what);
        abort();
    }
}

/* Whether encoding may lose something: what has no piece becomes the unknown token. */
static int has_unknown(const pico_vocab *vocab) {
    int found = vocab->unk >= 0;
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        found |= vocab->piece[i].type == PICO_PIECE_UNKNOWN;
    }
    return found;
}

static void check_stream(const pico_tokenizer *t, const int32_t *ids, size_t n) {
    pico_error err;
    char *text = NULL;
    size_t size = 0, at = 0, capacity = pico_tokenizer_max_piece(t) + 8;
    check(pico_tokenizer_decode(t, ids, n, &text, &size, &err) == PICO_OK, "decoding");
    char *out = malloc(capacity);
    check(out != NULL, "memory");
    pico_token_stream stream;
    pico_token_stream_begin(&stream, t, -1);
    for (size_t i = 0; i <= n; i++) {
        size_t got = i < n ? pico_token_stream_next(&stream, ids[i], out, capacity)
                           : pico_token_stream_end(&stream, out, capacity);
        check(at + got <= size && memcmp(text + at, out, got) == 0, "stream equals text");
        at += got;
    }
    check(at == size, "stream ends with the text");
    free(out);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    reader in = {data, size};
    pico_error err;
    pico_tokenizer *t = NULL;
    int32_t *ids = NULL, any[CHECKED_MAX];
    size_t n = 0, n_any = 0;
    fuzz_vocab *v = calloc(1, sizeof *v);
    if (v == NULL) {
        return 0;
    }
    build(v, &in);
    if (pico_tokenizer_open(&v->vocab, &t, &err) == PICO_OK) {
        const char *text = (const char *)in.data;
        for (; n_any < in.size && n_any < CHECKED_MAX; n_any++) {
            any[n_any] = (int32_t)in.data[n_any] * 3 - 4;
        }
        check_stream(t, any, n_any);
        if (pico_tokenizer_encode(t, text, in.size, 3, &ids, &n, &err) == PICO_OK) {
            for (size_t i = 0; i < n; i++) {
                check(ids[i] >= 0 && ids[i] < (int32_t)v->vocab.n_piece, "ids are in range");
            }
            check_stream(t, ids, n);
            free(ids);
            ids = NULL;
        }
        if (v->vocab.kind == PICO_VOCAB_BPE && !has_unknown(&v->vocab) &&
            pico_tokenizer_encode(t, text, in.size, 0, &ids, &n, &err) == PICO_OK) {
            char *back = NULL;
            size_t n_back = 0;
            check(pico_tokenizer_decode(t, ids, n, &back, &n_back, &err) == PICO_OK, "decoding");
            check(n_back == in.size && memcmp(back, text, n_back) == 0, "bytes survive");
            free(back);
        }
        pico_tokenizer_close(t);
    }
    free(ids);
    free(v);
    return 0;
}
