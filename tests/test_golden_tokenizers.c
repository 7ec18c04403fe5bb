/* labels: golden */
/*
 * The tokenizers of the fixtures: pieces of the split, ids of every text, decoded bytes, and what
 * becomes of bytes that are no UTF-8, exactly as the reference has them; from the pickle and after a
 * conversion to GGUF.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "formats/reader.h"
#include "golden_kit.h"
#include "tokenizer/tokenizer_internal.h"

static size_t n_tokenizer, n_text, n_decoded;

enum { TEXT_BYTES = 1 << 16 };

/* Hexadecimal digits to bytes; returns how many. */
static size_t unhex(const json_t *hex, char out[TEXT_BYTES]) {
    const char *digits = json_string_value(hex);
    assert_non_null(digits);
    size_t n = strlen(digits) / 2;
    assert_true(n <= TEXT_BYTES);
    for (size_t i = 0; i < n; i++) {
        char pair[3] = {digits[2 * i], digits[2 * i + 1], '\0'};
        out[i] = (char)strtoul(pair, NULL, 16);
    }
    return n;
}

static void same_ids(const json_t *want, const int32_t *ids, size_t n, const char *what) {
    if (json_array_size(want) != n) {
        fail_msg("%s: %zu tokens, expected %zu", what, n, json_array_size(want));
    }
    for (size_t i = 0; i < n; i++) {
        json_int_t id = json_integer_value(json_array_get(want, i));
        if (ids[i] != id) {
            fail_msg("%s: token %zu is %d, expected %lld", what, i, ids[i], (long long)id);
        }
    }
}

static void compare_pieces(const pico_vocab *vocab, const json_t *lengths, const char *text,
                           size_t n) {
    pico_splitter *splitter = NULL;
    uint32_t whole_first;
    pico_error err = {0};
    test_check(pico_splitter_open(vocab->pre, &splitter, &whole_first, &err), &err);
    pico_split_state *state = pico_split_begin(splitter);
    assert_non_null(state);
    size_t i = 0;
    for (size_t at = 0, end = 0; at < n; at = end, i++) {
        test_check(pico_split_next(state, text, n, at, &end, &err), &err);
        assert_int_equal(end - at, json_integer_value(json_array_get(lengths, i)));
    }
    assert_int_equal(i, json_array_size(lengths));
    pico_split_end(state);
    pico_splitter_close(splitter);
}

static void compare_texts(const pico_tokenizer *tokenizer, const pico_vocab *vocab,
                          const json_t *root) {
    static char text[TEXT_BYTES];
    pico_error err = {0};
    json_t *entry;
    size_t i;
    json_array_foreach(json_object_get(root, "texts"), i, entry) {
        int32_t *ids = NULL;
        size_t n_ids, n = unhex(json_object_get(entry, "utf8_hex"), text);
        test_check(pico_tokenizer_encode(tokenizer, text, n, 0, &ids, &n_ids, &err), &err);
        same_ids(json_object_get(entry, "ids"), ids, n_ids, text);
        compare_pieces(vocab, json_object_get(entry, "piece_byte_lengths"), text, n);
        free(ids);
        n_text++;
    }
}

/* Invalid bytes: the reference replaces them first; ours survive. */
static void compare_invalid(const pico_tokenizer *tokenizer, const json_t *root) {
    static char text[TEXT_BYTES];
    pico_error err = {0};
    json_t *entry;
    size_t i;
    json_array_foreach(json_object_get(root, "invalid_utf8"), i, entry) {
        int32_t *ids = NULL;
        char *back = NULL;
        size_t n_ids, n_back, n = unhex(json_object_get(entry, "bytes_hex"), text);
        test_check(pico_tokenizer_encode(tokenizer, text, n, 0, &ids, &n_ids, &err), &err);
        test_check(pico_tokenizer_decode(tokenizer, ids, n_ids, &back, &n_back, &err), &err);
        assert_int_equal(n_back, n);
        assert_memory_equal(back, text, n);
        free(ids);
        free(back);
    }
}

static void compare_decoded(const pico_tokenizer *tokenizer, const pico_vocab *vocab,
                            const json_t *root) {
    static char want[TEXT_BYTES], got[TEXT_BYTES];
    json_t *entry, *id;
    size_t i, j;
    json_array_foreach(json_object_get(root, "decode_cases"), i, entry) {
        size_t n = unhex(json_object_get(entry, "bytes_hex"), want), used = 0;
        json_array_foreach(json_object_get(entry, "ids"), j, id) {
            int32_t token = (int32_t)json_integer_value(id);
            const pico_piece *piece = &vocab->piece[token];
            if (pico_tokenizer_is_control(tokenizer, token)) { /* the reference shows its name */
                assert_int_equal(
                    pico_tokenizer_piece(tokenizer, 0, token, got + used, TEXT_BYTES - used), 0);
                memcpy(got + used, piece->text, piece->n);
                used += piece->n;
            } else {
                used += pico_tokenizer_piece(tokenizer, 0, token, got + used, TEXT_BYTES - used);
            }
        }
        assert_int_equal(used, n);
        assert_memory_equal(got, want, n);
        n_decoded++;
    }
}

static void compare_vocab(const pico_vocab *vocab, const json_t *root) {
    pico_tokenizer *tokenizer = NULL;
    pico_error err = {0};
    test_check(pico_tokenizer_open(vocab, &tokenizer, &err), &err);
    assert_int_equal(pico_tokenizer_n_vocab(tokenizer),
                     json_integer_value(json_object_get(root, "vocab_size")));
    const char *name;
    json_t *id;
    json_object_foreach(json_object_get(root, "special_tokens"), name, id) {
        const pico_piece *piece = &vocab->piece[json_integer_value(id)];
        assert_true(piece->n == strlen(name) && memcmp(piece->text, name, piece->n) == 0);
        assert_int_equal(piece->type, PICO_PIECE_CONTROL);
    }
    compare_texts(tokenizer, vocab, root);
    compare_invalid(tokenizer, root);
    compare_decoded(tokenizer, vocab, root);
    pico_tokenizer_close(tokenizer);
}

static void compare_tokenizer(const json_t *entry) {
    char path[4096], gguf[] = "/tmp/pico_golden_XXXXXX";
    pico_model_file *file = NULL, *converted = NULL;
    pico_error err = {0};
    json_t *root = golden_json(NULL, json_string_value(json_object_get(entry, "encodings")));
    golden_path(path, NULL, json_string_value(json_object_get(entry, "pkl")));
    test_check(pico_model_file_new("vocabulary", &file, &err), &err);
    file->format = PICO_FORMAT_MEMORY;
    file->format_name = "memory";
    test_check(pico_vocab_open(path, 0, &file->arena, &file->vocab, &err), &err);
    print_message("  %s: %u pieces, split pattern %s\n", path, file->vocab.n_piece,
                  file->vocab.pre);
    compare_vocab(&file->vocab, root);

    int fd = mkstemp(gguf);
    assert_true(fd >= 0);
    (void)close(fd);
    file->desc.n_vocab = file->desc.n_vocab_rows = file->vocab.n_piece;
    file->desc.backout_layer = -1;
    (void)snprintf(file->desc.family, sizeof file->desc.family, "nanochat");
    test_check(pico_gguf_write(file, gguf, &err), &err);
    test_check(pico_model_file_open(gguf, NULL, &converted, &err), &err);
    compare_vocab(&converted->vocab, root);
    (void)unlink(gguf);
    pico_model_file_close(converted);
    pico_model_file_close(file);
    json_decref(root);
    n_tokenizer++;
}

static void tokenizers_are_reproduced(void **state) {
    (void)state;
    const char *name;
    json_t *manifest = golden_manifest(), *entry;
    json_object_foreach(json_object_get(manifest, "tokenizers"), name, entry) {
        compare_tokenizer(entry);
    }
    json_decref(manifest);
    assert_true(n_tokenizer > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(tokenizers_are_reproduced)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)fflush(stderr);
    (void)printf("compared %zu tokenizers, %zu encoded texts, %zu decoded texts\n", n_tokenizer,
                 n_text, n_decoded);
    return failed;
}
