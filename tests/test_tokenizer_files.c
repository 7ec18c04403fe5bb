/* layers: formats tokenizer */
/*
 * Tokenizers on real vocabularies and text: reference encodings, a slow oracle, round trips. Needs
 * the shared data folder; without it every test here is skipped.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tokenizer/tokenizer.h"
#include "tokenizer_oracle.h"
#include "util/file.h"
#include "vocab_kit.h"

#define DATA PICO_SHARED_DIR "/data/"
#define GGUF DATA "tokenizers/gguf/ggml-vocab-"
#define GPT2 DATA "tokenizers/gpt2/"
#define LLAMA2_BIN DATA "tokenizers/llama2-32k/tokenizer.bin"

static void need(const char *path) {
    if (access(path, R_OK) != 0) {
        print_message("skipped: %s is not there\n", path);
        skip();
    }
}

static char *read_text(const char *path, size_t *n) {
    pico_error err = {0};
    char *text = NULL;
    uint64_t size = 0;
    if (pico_file_read(path, 1u << 26, &text, &size, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    *n = (size_t)size;
    return text;
}

static pico_model_file *open_file(const char *path, const char *tokenizer) {
    pico_error err = {0};
    pico_model_file *file = NULL;
    if (pico_model_file_open(path, tokenizer, &file, &err) != PICO_OK) {
        fail_msg("%s: %s", path, err.message);
    }
    return file;
}

/* A tokenizer.bin is read with the model that it belongs to: here the smallest one (llama2.c v0,
 * all weights 0) that has 32000 tokens. */
static pico_model_file *open_llama2_bin(void) {
    enum { DIM = 2, HIDDEN = 2, VOCAB = 32000, CONTEXT = 4 };
    const int32_t header[7] = {DIM, HIDDEN, 1, 1, 1, VOCAB, CONTEXT};
    const size_t floats =
        VOCAB * DIM + 2 * DIM + 4 * DIM * DIM + 3 * DIM * HIDDEN + DIM + 2 * CONTEXT * (DIM / 2);
    char path[] = "/tmp/pico_test_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, header, sizeof header), sizeof header);
    assert_int_equal(ftruncate(fd, (off_t)(sizeof header + floats * sizeof(float))), 0);
    close(fd);
    pico_model_file *file = open_file(path, LLAMA2_BIN);
    unlink(path);
    return file;
}

static pico_tokenizer *open_vocab(const pico_vocab *vocab) {
    pico_error err = {0};
    pico_tokenizer *tokenizer = NULL;
    if (pico_tokenizer_open(vocab, &tokenizer, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    return tokenizer;
}

static size_t encode(const pico_tokenizer *t, const char *s, size_t n, uint32_t flags,
                     int32_t **ids) {
    pico_error err = {0};
    size_t n_ids = 0;
    if (pico_tokenizer_encode(t, s, n, flags, ids, &n_ids, &err) != PICO_OK) {
        fail_msg("%.*s: %s", (int)n, s, err.message);
    }
    return n_ids;
}

static void expect_ids(const char *s, size_t n, const int32_t *ids, size_t n_ids,
                       const int32_t *expected, size_t n_expected) {
    if (n_ids != n_expected || (n_ids > 0 && memcmp(ids, expected, n_ids * sizeof *ids) != 0)) {
        for (size_t i = 0; i < n_ids || i < n_expected; i++) {
            print_error("%d (%d) ", i < n_ids ? (int)ids[i] : -1,
                        i < n_expected ? (int)expected[i] : -1);
        }
        fail_msg("\"%.*s\" gives the ids above (expected ones in brackets)", (int)n, s);
    }
}

static void expect_round_trip(const pico_tokenizer *t, const char *s, size_t n, const int32_t *ids,
                              size_t n_ids) {
    pico_error err = {0};
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(pico_tokenizer_decode(t, ids, n_ids, &text, &size, &err), PICO_OK);
    assert_int_equal(size, n);
    assert_memory_equal(text, s, n);
    free(text);
}

/* With the tokenizer of model, every text of base.inp gives the ids of its line in base.out, and
 * comes back. */
static void check_reference(const char *model, const char *base) {
    char path[512];
    need(base);
    need(model);
    pico_model_file *file = open_file(model, NULL);
    pico_tokenizer *t = open_vocab(&file->vocab);
    size_t n_inp, n_out, checked = 0;
    (void)snprintf(path, sizeof path, "%s.inp", base);
    char *inp = read_text(path, &n_inp), *text = inp;
    (void)snprintf(path, sizeof path, "%s.out", base);
    char *out = read_text(path, &n_out), *line = out;
    static const char mark[] = "\n__ggml_vocab_test__\n";
    while (text != NULL) {
        char *end = strstr(text, mark);
        if (end == NULL && *line == '\0') {
            break; /* what follows the last mark is no text */
        }
        int32_t expected[512], *ids = NULL;
        size_t n_expected = 0, n = end != NULL ? (size_t)(end - text) : strlen(text);
        while (*line != '\n' && *line != '\0') {
            expected[n_expected++] = (int32_t)strtol(line, &line, 10);
            line += strspn(line, " ");
        }
        line += *line == '\n';
        size_t n_ids = encode(t, text, n, 0, &ids);
        expect_ids(text, n, ids, n_ids, expected, n_expected);
        expect_round_trip(t, text, n, ids, n_ids);
        free(ids);
        checked++;
        text = end != NULL ? end + sizeof mark - 1 : NULL;
    }
    assert_int_equal(*line, '\0');
    assert_true(checked > 40);
    print_message("%zu texts\n", checked);
    free(inp);
    free(out);
    pico_tokenizer_close(t);
    pico_model_file_close(file);
}

static void gguf_gpt2(void **state) {
    (void)state;
    check_reference(GGUF "gpt-2.gguf", GGUF "gpt-2.gguf");
}

static void gguf_llama(void **state) {
    (void)state;
    check_reference(GGUF "llama-spm.gguf", GGUF "llama-spm.gguf");
}

/* GPT-2's own two files, and the tokenizer.json that is made of them. */
static void files_of_gpt2(void **state) {
    (void)state;
    need(GPT2 "encoder.json");
    check_reference(GPT2, GGUF "gpt-2.gguf");
    check_reference(GPT2 "encoder.json", GGUF "gpt-2.gguf");
    kit_folder folder = kit_folder_make();
    json_t *merges = json_array(), *pieces = json_load_file(GPT2 "encoder.json", 0, NULL);
    size_t n;
    char *text = read_text(GPT2 "vocab.bpe", &n);
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        if (strncmp(line, "#version", 8) != 0) {
            (void)json_array_append_new(merges, json_string(line));
        }
    }
    json_t *root =
        json_pack("{s:[{s:i, s:s, s:b}], s:{s:s, s:b}, s:{s:o, s:o}}", "added_tokens", "id", 50256,
                  "content", "<|endoftext|>", "special", 1, "pre_tokenizer", "type", "ByteLevel",
                  "add_prefix_space", 0, "model", "vocab", pieces, "merges", merges);
    assert_int_equal(json_dump_file(root, kit_in(&folder, "tokenizer.json"), 0), 0);
    check_reference(folder.path, GGUF "gpt-2.gguf");
    pico_model_file *a = open_file(folder.path, NULL), *b = open_file(GPT2, NULL);
    assert_same_vocab(&a->vocab, &b->vocab);
    pico_model_file_close(a);
    pico_model_file_close(b);
    json_decref(root);
    free(text);
    kit_folder_remove(&folder);
}

/* Llama-2's vocabulary as tokenizer.model and as the tokenizer.json that is made of that. */
static void files_of_llama2(void **state) {
    (void)state;
    need(GGUF "llama-spm.gguf");
    kit_folder folder = kit_folder_make();
    pico_model_file *file = open_file(GGUF "llama-spm.gguf", NULL);
    kit_bytes model = kit_spm_file(&file->vocab, &kit_spm_plain);
    kit_write(&folder, "tokenizer.model", model.at, model.n);
    check_reference(folder.path, GGUF "llama-spm.gguf");
    check_reference(kit_in(&folder, "tokenizer.model"), GGUF "llama-spm.gguf");
    pico_model_file *same = open_file(folder.path, NULL);
    file->vocab.pre = NULL; /* means nothing for this kind */
    assert_same_vocab(&same->vocab, &file->vocab);
    pico_model_file_close(same);
    for (int as_pairs = 0; as_pairs < 2; as_pairs++) {
        json_t *root = kit_spm_json(&file->vocab, as_pairs);
        assert_int_equal(json_dump_file(root, kit_in(&folder, "tokenizer.json"), 0), 0);
        check_reference(folder.path, GGUF "llama-spm.gguf");
        json_decref(root);
    }
    free(model.at);
    pico_model_file_close(file);
    kit_folder_remove(&folder);
}

/* Encodings of Llama-2's vocabulary that are published with llama2.c's tests. */
static void llama2_published(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int32_t ids[52];
    } cases[] = {
        {"", {1, -1}},
        {"I believe the meaning of life is", {1, 306, 4658, 278, 6593, 310, 2834, 338, -1}},
        {"Simply put, the theory of relativity states that ",
         {1, 3439, 17632, 1925, 29892, 278, 6368, 310, 14215, 537, 5922, 393, 29871, -1}},
        {"A brief message congratulating the team on the launch:\n\n        Hi everyone,\n\n       "
         " "
         "I just ",
         {1,  319, 11473, 2643, 378,   629,   271, 18099, 278,  3815, 373, 278,   6826, 29901,
          13, 13,  4706,  6324, 14332, 29892, 13,  13,    4706, 306,  925, 29871, -1}},
    };
    need(LLAMA2_BIN);
    pico_model_file *file = open_llama2_bin();
    pico_tokenizer *t = open_vocab(&file->vocab);
    assert_int_equal(file->vocab.llama2c, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *text = cases[i].text;
        int32_t *ids = NULL;
        size_t wanted = 0, n = encode(t, text, strlen(text), PICO_ENCODE_BOS, &ids);
        while (cases[i].ids[wanted] >= 0) {
            wanted++;
        }
        expect_ids(text, strlen(text), ids, n, cases[i].ids, wanted);
        expect_round_trip(t, text, strlen(text), ids, n);
        free(ids);
    }
    pico_tokenizer_close(t);
    pico_model_file_close(file);
}

/* The two files of Llama-2's vocabulary give the same ids for whole texts, and the text again. */
static void llama2_files_agree(void **state) {
    (void)state;
    static const char *const texts[] = {"text/tinystories.txt", "text/wikitext2-valid.txt",
                                        "text/tinyshakespeare.txt"};
    need(LLAMA2_BIN);
    pico_model_file *bin = open_llama2_bin();
    pico_model_file *gguf = open_file(GGUF "llama-spm.gguf", NULL);
    pico_tokenizer *a = open_vocab(&bin->vocab), *b = open_vocab(&gguf->vocab);
    for (size_t i = 0; i < 3; i++) {
        char path[512];
        size_t n;
        (void)snprintf(path, sizeof path, DATA "%s", texts[i]);
        char *text = read_text(path, &n);
        int32_t *ids_a = NULL, *ids_b = NULL;
        size_t n_a = encode(a, text, n, 0, &ids_a), n_b = encode(b, text, n, 0, &ids_b);
        assert_int_equal(n_a, n_b);
        assert_memory_equal(ids_a, ids_b, n_a * sizeof *ids_a);
        expect_round_trip(a, text, n, ids_a, n_a);
        free(ids_a);
        free(ids_b);
        free(text);
    }
    pico_tokenizer_close(a);
    pico_tokenizer_close(b);
    pico_model_file_close(bin);
    pico_model_file_close(gguf);
}

/* Paragraph by paragraph, the ids are those of quadratic greedy merging. Closes the file. */
static void check_oracle(pico_model_file *file, const char *text_path) {
    pico_tokenizer *t = open_vocab(&file->vocab);
    oracle o = oracle_open(&file->vocab);
    size_t n, used = 0, checked = 0;
    char *text = read_text(text_path, &n);
    while (used < n && checked < 150) {
        const char *s = text + used, *end = memchr(s, '\n', n - used);
        size_t length = end != NULL ? (size_t)(end - s) : n - used;
        int32_t *ids = NULL, *expected = NULL;
        size_t n_expected = oracle_spm(&o, s, length, &expected);
        size_t n_ids = encode(t, s, length, 0, &ids);
        expect_ids(s, length, ids, n_ids, expected, n_expected);
        expect_round_trip(t, s, length, ids, n_ids);
        free(ids);
        free(expected);
        used += length + 1;
        checked += length > 0;
    }
    assert_true(checked > 0);
    free(text);
    oracle_close(&o);
    pico_tokenizer_close(t);
    pico_model_file_close(file);
}

static void llama2c_small_vocabularies(void **state) {
    (void)state;
    static const char stories[] = DATA "models/stories260K/stories260K.bin";
    static const char baby[] = DATA "models/babyllama105/babyllama105.bin";
    static const char tok512[] = DATA "models/stories260K/tok512.bin";
    static const char tok105[] = DATA "models/babyllama105/tok105.bin";
    need(stories);
    check_oracle(open_file(stories, tok512), DATA "models/expected/stories260K.once.txt");
    check_oracle(open_file(stories, tok512), DATA "models/expected/stories260K.tim.txt");
    check_oracle(open_file(stories, tok512), DATA "text/tinystories.txt");
    check_oracle(open_file(baby, tok105), DATA "models/expected/babyllama105.once.txt");
}

static void llama2_against_oracle(void **state) {
    (void)state;
    need(LLAMA2_BIN);
    check_oracle(open_file(GGUF "llama-spm.gguf", NULL), DATA "text/wikitext2-test.txt");
    check_oracle(open_llama2_bin(), DATA "text/tinystories.txt");
}

/*
 * nanochat: ranks from the pickle (a bytes object, its memo mark, a small integer), pieces in the
 * byte alphabet, nine control tokens at the end.
 */
static maker nanochat_vocab(const char *path) {
    maker m = {.vocab = {.kind = PICO_VOCAB_BPE,
                         .pre = "nanochat",
                         .bos = -1,
                         .eos = -1,
                         .unk = -1,
                         .pad = -1,
                         .eot = -1}};
    m.piece = pico_arena_alloc(&m.arena, 1 << 16, sizeof *m.piece);
    m.vocab.piece = m.piece;
    size_t n;
    char *pickle = read_text(path, &n);
    const unsigned char *p = (const unsigned char *)pickle;
    for (size_t i = 0; i + 2 < n;) {
        size_t length = p[i + 1], after = i + 2 + length;
        if (p[i] != 'C' || after + 4 > n) { /* SHORT_BINBYTES */
            i++;
            continue;
        }
        size_t value = after + (p[after] == 0x94); /* MEMOIZE */
        uint32_t rank = p[value] == 'K'   ? p[value + 1]
                        : p[value] == 'M' ? p[value + 1] + 256u * p[value + 2]
                                          : UINT32_MAX;
        if (rank != m.vocab.n_piece) {
            i++;
            continue;
        }
        char text[1024];
        size_t n_text = to_alphabet(pickle + i + 2, length, text);
        maker_piece_n(&m, text, n_text, PICO_PIECE_NORMAL, 0.0f);
        i = value + 2;
    }
    for (int i = 0; i < 9; i++) {
        maker_piece(&m, i == 4 ? "<|assistant_end|>" : "<|special|>", PICO_PIECE_CONTROL, 0.0f);
    }
    free(pickle);
    return m;
}

static size_t json_ids(const json_t *list, int32_t *ids, size_t room) {
    size_t n = json_array_size(list);
    assert_true(n <= room);
    for (size_t i = 0; i < n; i++) {
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    }
    return n;
}

static unsigned char *unhex(const char *hex, size_t *n) {
    unsigned char *bytes = malloc(strlen(hex) / 2 + 1);
    *n = 0;
    for (; hex[0] != '\0' && hex[1] != '\0'; hex += 2) {
        unsigned byte = 0;
        assert_int_equal(sscanf(hex, "%2x", &byte), 1);
        bytes[(*n)++] = (unsigned char)byte;
    }
    return bytes;
}

static void check_nanochat(const char *folder) {
    char path[512];
    (void)snprintf(path, sizeof path, PICO_SHARED_DIR "/fixtures/%s/tokenizer.pkl", folder);
    need(path);
    maker m = nanochat_vocab(path);
    (void)snprintf(path, sizeof path, PICO_SHARED_DIR "/fixtures/%s/encodings.json", folder);
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, NULL);
    assert_non_null(root);
    assert_int_equal(m.vocab.n_piece, json_integer_value(json_object_get(root, "vocab_size")));
    pico_tokenizer *t = open_vocab(&m.vocab);
    assert_true(pico_tokenizer_is_end(t, (int32_t)m.vocab.n_piece - 5));
    size_t i;
    json_t *item;
    static int32_t expected[1 << 16];
    json_array_foreach(json_object_get(root, "texts"), i, item) {
        size_t n;
        int32_t *ids = NULL;
        char *s = (char *)unhex(json_string_value(json_object_get(item, "utf8_hex")), &n);
        size_t n_expected = json_ids(json_object_get(item, "ids"), expected, 1 << 16);
        size_t n_ids = encode(t, s, n, 0, &ids);
        expect_ids(s, n, ids, n_ids, expected, n_expected);
        expect_round_trip(t, s, n, ids, n_ids);
        free(ids);
        free(s);
    }
    assert_true(i > 10);
    print_message("%s: %zu texts\n", folder, i);
    json_decref(root);
    pico_tokenizer_close(t);
    maker_end(&m);
}

/* The fixtures' encodings, by rank and with the nanochat pattern: equal ids, and the bytes back. */
static void nanochat_fixtures(void **state) {
    (void)state;
    check_nanochat("tokenizer_a");
    check_nanochat("tokenizer_b");
    check_nanochat("tokenizer_c");
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Real text through each vocabulary: it comes back, and the time is shown. The bound is loose, for
 * slow machines and sanitizers; merging whole texts quadratically would take minutes. */
static void real_text_round_trips(void **state) {
    (void)state;
    static const char *const texts[] = {"tinystories.txt", "wikitext2-test.txt",
                                        "gpt2-samples/unconditional.txt"};
    need(LLAMA2_BIN);
    for (size_t v = 0; v < 3; v++) {
        pico_model_file *file = v == 0   ? open_file(GGUF "gpt-2.gguf", NULL)
                                : v == 1 ? open_file(GGUF "llama-spm.gguf", NULL)
                                         : open_llama2_bin();
        double start = seconds();
        pico_tokenizer *t = open_vocab(&file->vocab);
        print_message("opened in %.1f ms\n", 1e3 * (seconds() - start));
        for (size_t i = 0; i < 3; i++) {
            char path[512];
            size_t n;
            int32_t *ids = NULL;
            (void)snprintf(path, sizeof path, DATA "text/%s", texts[i]);
            char *text = read_text(path, &n);
            start = seconds();
            size_t n_ids = encode(t, text, n, 0, &ids);
            double taken = seconds() - start;
            print_message("%s: %zu bytes, %zu tokens, %.1f MB/s\n", texts[i], n, n_ids,
                          1e-6 * (double)n / taken);
            assert_true(taken < 20.0);
            expect_round_trip(t, text, n, ids, n_ids);
            free(ids);
            free(text);
        }
        pico_tokenizer_close(t);
        pico_model_file_close(file);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_gpt2),
        cmocka_unit_test(gguf_llama),
        cmocka_unit_test(files_of_gpt2),
        cmocka_unit_test(files_of_llama2),
        cmocka_unit_test(llama2_published),
        cmocka_unit_test(llama2_files_agree),
        cmocka_unit_test(llama2c_small_vocabularies),
        cmocka_unit_test(llama2_against_oracle),
        cmocka_unit_test(nanochat_fixtures),
        cmocka_unit_test(real_text_round_trips),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
