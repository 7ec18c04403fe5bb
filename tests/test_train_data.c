/* layers: train */
/*
 * Documents as rows: every row begins with the begin-of-text token and is full, nothing that fits is
 * lost, long documents are cut and none of their tokens either; an epoch is a permutation; a place
 * can be gone to; too little text is refused; a file of tokens gives the same ones, or says why not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "train/data.h"

enum { BOS = 1, LENGTH = 15, ROW = LENGTH + 1, N = 40 };

typedef struct fixture {
    pico_model_file *file;
    pico_tokenizer *tokenizer; /* byte b is token b + 3 */
    pico_train_tokens tokens[16];
    uint32_t n_tokens;
    uint32_t packing;
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    pico_error err = {0};
    const char *path = PICO_SOURCE_DIR "/models/bytes-vocab.gguf";
    if (f == NULL || pico_model_file_open(path, NULL, &f->file, &err) != PICO_OK ||
        pico_tokenizer_open(&f->file->vocab, &f->tokenizer, &err) != PICO_OK) {
        print_error("%s\n", err.message);
        return 1;
    }
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    for (uint32_t i = 0; i < f->n_tokens; i++) {
        pico_train_tokens_free(&f->tokens[i]);
    }
    pico_tokenizer_close(f->tokenizer);
    pico_model_file_close(f->file);
    free(f);
    return 0;
}

static pico_train_data *open_data(fixture *f, const pico_train_text *documents, size_t n,
                                  uint64_t seed) {
    pico_train_data *data = NULL;
    pico_error err = {0};
    assert_true(f->n_tokens < 16);
    pico_train_tokens *tokens = &f->tokens[f->n_tokens++];
    if (pico_train_tokenise(f->tokenizer, documents, n, tokens, &err) != PICO_OK ||
        pico_train_data_open(tokens, 0, n, LENGTH, f->packing, seed, &data, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    return data;
}

/* Documents of one letter each, the i-th i % 9 + 1 long. */
static void make_documents(char text[N][16], pico_train_text documents[N]) {
    for (int i = 0; i < N; i++) {
        const size_t n = (size_t)(i % 9 + 1);
        memset(text[i], 'A' + i, n);
        documents[i] = (pico_train_text){text[i], n};
    }
}

static void rows_are_full_and_begin_with_bos(void **state) {
    fixture *f = *state;
    char text[N][16];
    pico_train_text documents[N];
    int32_t row[ROW];
    size_t seen[256] = {0}, n_cut = 0;
    make_documents(text, documents);
    pico_train_data *data = open_data(f, documents, N, 1);
    const uint64_t n_rows = pico_train_data_rows(data);
    assert_in_range(n_rows, 1, N);
    for (uint64_t r = 0; r < n_rows; r++) {
        pico_train_data_next(data, 1, row);
        assert_int_equal(row[0], BOS);
        for (int i = 0; i < ROW; i++) {
            assert_true(row[i] == BOS || (row[i] >= 3 && row[i] < 259));
            seen[row[i] >= 3 ? row[i] - 3 : 0]++;
        }
    }
    /* no letter more often than its document has it; few are cut at the end of a row */
    for (int i = 0; i < N; i++) {
        assert_true(seen['A' + i] <= documents[i].n);
        n_cut += seen['A' + i] < documents[i].n;
    }
    assert_true(n_cut <= n_rows + 4);
    assert_int_equal(pico_train_data_tell(data), n_rows);
    pico_train_data_close(data);
}

/* A document of 105 different bytes is in the rows whole, its pieces begin with BOS. */
static void long_documents_are_cut_into_pieces(void **state) {
    fixture *f = *state;
    char text[105];
    int32_t row[ROW];
    int seen[256] = {0};
    for (int i = 0; i < 105; i++) {
        text[i] = (char)(100 + i);
    }
    const pico_train_text document = {text, 105}; /* seven pieces of 15 */
    pico_train_data *data = open_data(f, &document, 1, 1);
    assert_int_equal(pico_train_data_rows(data), 7);
    for (int r = 0; r < 7; r++) {
        pico_train_data_next(data, 1, row);
        assert_int_equal(row[0], BOS);
        for (int i = 1; i < ROW; i++) {
            seen[row[i] - 3]++;
        }
    }
    for (int i = 0; i < 105; i++) {
        assert_int_equal(seen[100 + i], 1);
    }
    pico_train_data_close(data);
}

static void a_place_can_be_gone_to(void **state) {
    fixture *f = *state;
    enum { ROWS = 60 };
    char text[N][16];
    pico_train_text documents[N];
    static int32_t all[ROWS * ROW], row[ROW], other[ROW];
    make_documents(text, documents);
    pico_train_data *data = open_data(f, documents, N, 7), *again = open_data(f, documents, N, 7);
    pico_train_data *different = open_data(f, documents, N, 8);
    pico_train_data_next(data, ROWS, all); /* several epochs */
    assert_true(pico_train_data_rows(data) < ROWS / 2);
    for (uint64_t at = ROWS; at-- > 0;) {
        pico_train_data_seek(again, at);
        pico_train_data_next(again, 1, row);
        assert_int_equal(pico_train_data_tell(again), at + 1);
        assert_memory_equal(row, all + at * ROW, sizeof row);
    }
    pico_train_data_next(different, 1, other);
    assert_memory_not_equal(other, all, sizeof other);
    pico_train_data_seek(again, pico_train_data_rows(again));
    pico_train_data_next(again, 1, row); /* another epoch, another order */
    assert_memory_not_equal(row, all, sizeof row);
    pico_train_data_close(data);
    pico_train_data_close(again);
    pico_train_data_close(different);
}

/* As a stream, every letter of every document is in the rows of an epoch, but for what does not fill
 * the last one; what begins a row is a document or the rest of the one before. */
static void a_stream_loses_nothing(void **state) {
    fixture *f = *state;
    char text[N][16];
    pico_train_text documents[N];
    int32_t row[ROW];
    size_t seen[256] = {0}, n_whole = 0, n_lost = 0;
    make_documents(text, documents);
    f->packing = PICO_PACKING_STREAM;
    pico_train_data *data = open_data(f, documents, N, 1);
    const uint64_t n_rows = pico_train_data_rows(data);
    for (uint64_t r = 0; r < n_rows; r++) {
        pico_train_data_next(data, 1, row);
        assert_int_equal(row[0], BOS);
        for (int i = 0; i < ROW; i++) {
            seen[row[i] >= 3 ? row[i] - 3 : 0]++;
        }
    }
    for (int i = 0; i < N; i++) {
        assert_true(seen['A' + i] <= documents[i].n);
        n_whole += seen['A' + i] == documents[i].n;
        n_lost += documents[i].n - seen['A' + i];
    }
    assert_true(n_lost < ROW && n_whole + ROW > N);
    pico_train_data_close(data);
    a_place_can_be_gone_to(state);
    long_documents_are_cut_into_pieces(state);
    f->packing = PICO_PACKING_BEST_FIT;
}

/* Rows of a part of the documents are those of that part alone. */
static void a_part_of_the_documents_is_enough(void **state) {
    fixture *f = *state;
    char text[N][16];
    pico_train_text documents[N];
    int32_t row[ROW], want[ROW];
    pico_train_data *part = NULL;
    pico_error err = {0};
    make_documents(text, documents);
    pico_train_data_close(open_data(f, documents, N, 1));
    const pico_train_tokens *all = &f->tokens[f->n_tokens - 1];
    assert_int_equal(pico_train_data_open(all, 10, 20, LENGTH, 0, 3, &part, &err), PICO_OK);
    pico_train_data *alone = open_data(f, documents + 10, 20, 3);
    assert_int_equal(pico_train_data_tokens(part), pico_train_data_tokens(alone));
    for (int i = 0; i < 30; i++) {
        pico_train_data_next(part, 1, row);
        pico_train_data_next(alone, 1, want);
        assert_memory_equal(row, want, sizeof row);
    }
    pico_train_data_close(part);
    pico_train_data_close(alone);
}

static pico_status read_file(const fixture *f, const char *path, const pico_token_key *key,
                             pico_train_tokens *out, pico_error *err) {
    return pico_token_file_read(path, key, f->tokenizer, out, err);
}

/* What was written is read; what was made of other documents, other borders or another vocabulary
 * is not taken; no changed byte and no lost end goes unnoticed. */
static void a_file_of_tokens_is_taken_whole_or_not_at_all(void **state) {
    fixture *f = *state;
    char text[N][16], path[] = "/tmp/pico-tokens-XXXXXX";
    pico_train_text documents[N];
    pico_train_tokens got;
    pico_error err = {0};
    make_documents(text, documents);
    pico_train_data_close(open_data(f, documents, N, 1));
    const pico_train_tokens *made = &f->tokens[f->n_tokens - 1];
    const pico_token_key key = pico_token_key_of(documents, N, &f->file->vocab);
    const int fd = mkstemp(path);
    assert_true(fd >= 0 && close(fd) == 0);
    assert_int_equal(read_file(f, path, &key, &got, &err), PICO_E_CORRUPT); /* empty */
    assert_int_equal(pico_token_file_write(path, &key, made, &err), PICO_OK);
    assert_int_equal(read_file(f, path, &key, &got, &err), PICO_OK);
    assert_true(got.n == made->n && got.n_document == N && got.bos == BOS);
    assert_memory_equal(got.id, made->id, got.n * sizeof *got.id);
    assert_memory_equal(got.end, made->end, N * sizeof *got.end);
    pico_train_tokens_free(&got);

    text[3][1]++;
    pico_token_key other = pico_token_key_of(documents, N, &f->file->vocab);
    assert_int_equal(read_file(f, path, &other, &got, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "other texts"));
    text[3][1]--;
    const pico_train_text border[] = {{"abcdefgh", 8}, {"ij", 2}},
                          moved[] = {{"abcdefghi", 9}, {"j", 1}};
    assert_true(pico_token_key_of(border, 2, &f->file->vocab).texts !=
                pico_token_key_of(moved, 2, &f->file->vocab).texts);
    pico_vocab vocab = f->file->vocab;
    vocab.add_space_prefix = !vocab.add_space_prefix;
    other = pico_token_key_of(documents, N, &vocab);
    assert_int_equal(read_file(f, path, &other, &got, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "another vocabulary"));

    char *bytes = NULL;
    uint64_t n = 0;
    assert_int_equal(pico_file_read(path, 1 << 20, &bytes, &n, &err), PICO_OK);
    for (uint64_t i = 0; i < n; i++) {
        FILE *file = fopen(path, "r+b");
        assert_non_null(file);
        assert_int_equal(fseek(file, (long)i, SEEK_SET), 0);
        assert_true(fputc(bytes[i] ^ 4, file) != EOF && fclose(file) == 0);
        const pico_status status = read_file(f, path, &key, &got, &err);
        assert_true(status == PICO_E_CORRUPT || (status == PICO_E_INVALID && i < 24));
        file = fopen(path, "r+b");
        assert_non_null(file);
        assert_int_equal(fseek(file, (long)i, SEEK_SET), 0);
        assert_true(fputc(bytes[i], file) != EOF && fclose(file) == 0);
    }
    free(bytes);
    for (uint64_t length = 0; length < n; length += 37) {
        assert_int_equal(truncate(path, (off_t)(n - 1 - length)), 0);
        assert_int_equal(read_file(f, path, &key, &got, &err), PICO_E_CORRUPT);
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(read_file(f, path, &key, &got, &err), PICO_E_NOT_FOUND);
}

static void too_little_text_is_refused(void **state) {
    fixture *f = *state;
    const pico_train_text document = {"short", 5};
    pico_train_data *data = NULL;
    pico_error err = {0};
    pico_train_tokens *tokens = &f->tokens[f->n_tokens++];
    assert_int_equal(pico_train_tokenise(f->tokenizer, &document, 1, tokens, &err), PICO_OK);
    assert_int_equal(pico_train_data_open(tokens, 0, 1, LENGTH, 0, 1, &data, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "one row of 16 tokens"));
    assert_null(data);
}

/* The most frequent ids of the first documents, begin-of-text tokens among them; of equals the lowest;
 * ids that never occur fill what is left. */
static void the_most_frequent_tokens_are_found(void **state) {
    (void)state;
    static const int32_t id[] = {5, 3, 3, 9, 5, 7, 7, 7, 7, 2};
    static const uint64_t end[] = {3, 6, 10};
    const pico_train_tokens tokens = {.id = id, .end = end, .n = 10, .n_document = 3, .bos = 8};
    const struct {
        uint64_t n_document;
        uint32_t n;
        int32_t want[7];
    } cases[] = {
        {2, 1, {3}}, /* 3, 5 and 8 occur twice */
        {2, 2, {3, 5}},
        {2, 4, {3, 5, 7, 8}}, /* 7 and 9 once */
        {2, 6, {0, 3, 5, 7, 8, 9}},
        {3, 2, {7, 8}}, /* four times; three documents */
        {3, 7, {0, 2, 3, 5, 7, 8, 9}},
    };
    pico_error err = {0};
    int32_t out[11];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(
            pico_train_most_frequent(&tokens, cases[i].n_document, 10, cases[i].n, out, &err),
            PICO_OK);
        assert_memory_equal(out, cases[i].want, cases[i].n * sizeof *out);
    }
    assert_int_equal(pico_train_most_frequent(&tokens, 3, 10, 11, out, &err), PICO_E_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_full_and_begin_with_bos),
        cmocka_unit_test(long_documents_are_cut_into_pieces),
        cmocka_unit_test(a_place_can_be_gone_to),
        cmocka_unit_test(a_stream_loses_nothing),
        cmocka_unit_test(a_part_of_the_documents_is_enough),
        cmocka_unit_test(a_file_of_tokens_is_taken_whole_or_not_at_all),
        cmocka_unit_test(the_most_frequent_tokens_are_found),
        cmocka_unit_test(too_little_text_is_refused)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
