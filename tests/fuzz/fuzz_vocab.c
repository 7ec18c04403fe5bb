/* layers: tokenizer */
/*
 * Any bytes as tokenizer files of Hugging Face. Input: what it is (a byte), then one file, or two
 * with a NUL between: a tokenizer of any kind; a vocab.json and its merges; a tokenizer.json and its
 * tokenizer_config.json; the same and a generation_config.json. Where a vocabulary comes out its
 * ids are in range, and a tokenizer either opens with it or says why not.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/vocab_json.h"
#include "tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_VOCAB = 300 }; /* tokens of the model that it would belong to */

static pico_status read_two(unsigned kind, const uint8_t *first, size_t n_first,
                            const uint8_t *second, size_t n_second, pico_arena *arena,
                            pico_vocab *vocab, pico_error *err) {
    json_t *a = NULL, *b = NULL;
    pico_status status = pico_json_object(first, n_first, &a, err);
    if (status == PICO_OK && kind == 1) {
        pico_map merges = {.data = second, .size = n_second};
        status = pico_vocab_json_pair(a, &merges, arena, vocab, err);
    } else if (status == PICO_OK) {
        status = pico_tokenizer_json_read(a, arena, vocab, err);
        status = status == PICO_OK ? pico_json_object(second, n_second, &b, err) : status;
        if (status == PICO_OK) {
            status = kind == 2 ? pico_vocab_settings(b, arena, vocab, err)
                               : pico_vocab_ids_of_config(b, vocab, err);
        }
    }
    json_decref(a);
    json_decref(b);
    return status == PICO_OK ? pico_vocab_finish(N_VOCAB, arena, vocab, err) : status;
}

static void check(const pico_vocab *vocab) {
    const int32_t ids[] = {vocab->bos, vocab->eos, vocab->unk, vocab->pad, vocab->eot};
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        if (ids[i] < -1 || ids[i] >= (int64_t)vocab->n_piece) {
            abort();
        }
    }
    for (uint32_t i = 0; i < vocab->n_piece + vocab->n_merge; i++) {
        const pico_piece *p =
            i < vocab->n_piece ? &vocab->piece[i] : &vocab->merge[i - vocab->n_piece];
        for (uint32_t j = 0; j < p->n; j++) {
            sum += (unsigned char)p->text[j];
        }
    }
    volatile unsigned sink = sum;
    (void)sink;
    pico_tokenizer *tokenizer = NULL;
    pico_error err = {0};
    if (pico_tokenizer_open(vocab, &tokenizer, &err) != PICO_OK && err.message[0] == '\0') {
        abort();
    }
    pico_tokenizer_close(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    unsigned kind = data[0] & 3u;
    uint8_t *copy = malloc(size); /* gone before the vocabulary is looked at */
    pico_arena arena = {0};
    pico_vocab vocab = {0};
    pico_error err = {0};
    pico_status status;
    if (copy == NULL) {
        abort();
    }
    memcpy(copy, data + 1, size - 1);
    size--;
    if (kind == 0) {
        status =
            pico_vocab_read(&(pico_map){.data = copy, .size = size}, N_VOCAB, &arena, &vocab, &err);
    } else {
        const uint8_t *end = size == 0 ? NULL : memchr(copy, 0, size);
        size_t n = end == NULL ? size : (size_t)(end - copy), skip = end == NULL ? size : n + 1;
        status = read_two(kind, copy, n, copy + skip, size - skip, &arena, &vocab, &err);
    }
    free(copy);
    if (status == PICO_OK) {
        check(&vocab);
    } else if (err.message[0] == '\0') {
        abort();
    }
    pico_arena_free(&arena);
    return 0;
}
