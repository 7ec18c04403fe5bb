/* layers: tokenizer */
/*
 * tokenizer.pkl: the fixtures' vocabularies encode and decode as tiktoken does, exactly, from the
 * pickle and after a way through GGUF; tables that cannot be right are refused with the id.
 */
#include "formats_support.h"

#include <jansson.h>

#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_internal.h"
#include "torch_kit.h"

/* ---- fixtures ---- */

static json_t *load_json(const char *folder, const char *name) {
    fixture_path path;
    char full[128];
    json_error_t error;
    (void)snprintf(full, sizeof full, "%s/%s", folder, name);
    json_t *root = json_load_file(find_fixture(&path, full), JSON_ALLOW_NUL, &error);
    if (root == NULL) {
        fail_msg("%s: %s", path.text, error.text);
    }
    return root;
}

static unsigned char *unhex(const char *hex, size_t *n) {
    unsigned char *bytes = malloc(strlen(hex) / 2 + 1);
    assert_non_null(bytes);
    *n = 0;
    for (; hex[0] != '\0' && hex[1] != '\0'; hex += 2) {
        unsigned byte = 0;
        assert_int_equal(sscanf(hex, "%2x", &byte), 1);
        bytes[(*n)++] = (unsigned char)byte;
    }
    return bytes;
}

static pico_tokenizer *open_vocab(const pico_vocab *vocab) {
    pico_tokenizer *tokenizer = NULL;
    pico_error err = {0};
    if (pico_tokenizer_open(vocab, &tokenizer, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    return tokenizer;
}

static int same_ids(const json_t *list, const int32_t *ids, size_t n) {
    size_t same = 0;
    while (same < n && json_integer_value(json_array_get(list, same)) == ids[same]) {
        same++;
    }
    return same == n && n == json_array_size(list);
}

/* The pieces of the split pattern have the lengths that the original's pieces have. */
static void check_split(const pico_splitter *splitter, const json_t *lengths, const char *text,
                        size_t n) {
    pico_split_state *split = pico_split_begin(splitter);
    size_t at = 0, i = 0;
    assert_non_null(split);
    while (at < n) {
        size_t end = 0;
        assert_int_equal(pico_split_next(split, text, n, at, &end, NULL), PICO_OK);
        assert_int_equal(end - at, json_integer_value(json_array_get(lengths, i)));
        at = end;
        i++;
    }
    assert_int_equal(i, json_array_size(lengths));
    pico_split_end(split);
}

static void check_texts(const pico_tokenizer *tokenizer, const json_t *texts) {
    size_t i, n, n_ids;
    json_t *item;
    pico_splitter *splitter = NULL;
    uint32_t whole_first = 0;
    assert_int_equal(pico_splitter_open("nanochat", &splitter, &whole_first, NULL), PICO_OK);
    assert_true(json_array_size(texts) > 50);
    json_array_foreach(texts, i, item) {
        int32_t *ids = NULL;
        char *text = (char *)unhex(json_string_value(json_object_get(item, "utf8_hex")), &n), *back;
        assert_int_equal(pico_tokenizer_encode(tokenizer, text, n, 0, &ids, &n_ids, NULL), PICO_OK);
        if (!same_ids(json_object_get(item, "ids"), ids, n_ids)) {
            fail_msg("text %zu has other ids", i);
        }
        check_split(splitter, json_object_get(item, "piece_byte_lengths"), text, n);
        size_t n_back = 0;
        assert_int_equal(pico_tokenizer_decode(tokenizer, ids, n_ids, &back, &n_back, NULL),
                         PICO_OK);
        assert_int_equal(n_back, n);
        assert_memory_equal(back, text, n);
        free(back);
        free(ids);
        free(text);
    }
    pico_splitter_close(splitter);
}

/* Bytes that are no UTF-8 come back as they were: the original takes none. */
static void check_invalid(const pico_tokenizer *tokenizer, const json_t *cases) {
    size_t i, n, n_ids, n_back;
    json_t *item;
    json_array_foreach(cases, i, item) {
        int32_t *ids = NULL;
        char *back = NULL;
        char *bytes = (char *)unhex(json_string_value(json_object_get(item, "bytes_hex")), &n);
        assert_int_equal(pico_tokenizer_encode(tokenizer, bytes, n, 0, &ids, &n_ids, NULL),
                         PICO_OK);
        assert_int_equal(pico_tokenizer_decode(tokenizer, ids, n_ids, &back, &n_back, NULL),
                         PICO_OK);
        assert_int_equal(n_back, n);
        assert_memory_equal(back, bytes, n);
        free(back);
        free(ids);
        free(bytes);
    }
}

/* The original writes the names of special tokens, which print nothing here. */
static void check_decoding(const pico_vocab *vocab, const pico_tokenizer *tokenizer,
                           const json_t *cases) {
    size_t i, j, n;
    json_t *item, *number;
    assert_true(json_array_size(cases) > 10);
    json_array_foreach(cases, i, item) {
        unsigned char *expected = unhex(json_string_value(json_object_get(item, "bytes_hex")), &n);
        size_t at = 0;
        json_array_foreach(json_object_get(item, "ids"), j, number) {
            char bytes[256];
            int32_t id = (int32_t)json_integer_value(number);
            size_t length = pico_tokenizer_piece(tokenizer, -1, id, bytes, sizeof bytes);
            if (pico_tokenizer_is_control(tokenizer, id)) {
                assert_int_equal(length, 0);
                length = vocab->piece[id].n;
                memcpy(bytes, vocab->piece[id].text, length);
            }
            assert_true(length > 0 && length <= n - at);
            assert_memory_equal(bytes, expected + at, length);
            at += length;
        }
        assert_int_equal(at, n);
        free(expected);
    }
}

/* The last nine ids, in nanochat's order, and what they are for. */
static void check_special(const pico_vocab *vocab, const pico_tokenizer *tokenizer) {
    static const char *const names[] = {
        "<|bos|>",           "<|user_start|>",   "<|user_end|>",   "<|assistant_start|>",
        "<|assistant_end|>", "<|python_start|>", "<|python_end|>", "<|output_start|>",
        "<|output_end|>"};
    int32_t first = (int32_t)vocab->n_piece - 9;
    for (int32_t i = 0; i < 9; i++) {
        const pico_piece *piece = &vocab->piece[first + i];
        assert_int_equal(piece->type, PICO_PIECE_CONTROL);
        assert_int_equal(piece->n, strlen(names[i]));
        assert_memory_equal(piece->text, names[i], piece->n);
    }
    assert_string_equal(vocab->pre, "nanochat");
    assert_int_equal(vocab->n_merge, 0);
    assert_int_equal(vocab->bos, first);
    assert_int_equal(vocab->eot, first + 4);
    assert_int_equal(vocab->eos, -1);
    assert_int_equal(vocab->add_bos, 1);
    assert_int_equal(vocab->add_eos, 0);
    assert_int_equal(vocab->add_space_prefix, 0);
    assert_true(pico_tokenizer_is_end(tokenizer, first));
    assert_true(pico_tokenizer_is_end(tokenizer, first + 4));
    assert_true(pico_tokenizer_adds_bos(tokenizer));
}

static void check_vocab(const pico_vocab *vocab, const json_t *root) {
    pico_tokenizer *tokenizer = open_vocab(vocab);
    assert_int_equal(vocab->n_piece, json_integer_value(json_object_get(root, "vocab_size")));
    check_special(vocab, tokenizer);
    check_texts(tokenizer, json_object_get(root, "texts"));
    check_invalid(tokenizer, json_object_get(root, "invalid_utf8"));
    check_decoding(vocab, tokenizer, json_object_get(root, "decode_cases"));
    pico_tokenizer_close(tokenizer);
}

static void tokenises_as_tiktoken(void **state) {
    static const char *const folders[] = {"tokenizer_a", "tokenizer_b", "tokenizer_c"};
    (void)state;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        fixture_path path;
        char name[64];
        json_t *root = load_json(folders[i], "encodings.json");
        (void)snprintf(name, sizeof name, "%s/tokenizer.pkl", folders[i]);
        pico_model_file *file = open_ok(find_fixture(&path, name), NULL), *back = NULL;
        assert_int_equal(file->desc.n_layer, 0);
        check_vocab(&file->vocab, root);
        assert_survives_gguf(file, &back);
        check_vocab(&back->vocab, root);
        pico_model_file_close(back);
        pico_model_file_close(file);
        json_decref(root);
    }
}

/* ---- vocabularies by hand ---- */

/* The 256 bytes as ids 0 to 255 in reverse, then what is given; a list of NULL ends. */
typedef struct table {
    const char *pattern;
    const char *const *tokens; /* ids from 256 on */
    const char *const *special;
    int skip;           /* this byte gets no id, the last ordinary token its id */
    int64_t special_by; /* added to the ids of special tokens */
} table;

static pico_model_file *read_table(const table *t, pico_error *err) {
    kit_bytes b = {0};
    int64_t id = 0;
    kit_begin(&b);
    kit_global(&b, "tiktoken.core", "Encoding");
    kit_put(&b, ")\x81}", 3);
    kit_text(&b, "pat_str");
    kit_text(&b, t->pattern);
    kit_op(&b, 's');
    kit_text(&b, "mergeable_ranks");
    kit_op(&b, '}');
    for (int i = 255; i >= 0; i--) {
        unsigned char byte = (unsigned char)i;
        if (i != t->skip) {
            kit_binary(&b, &byte, 1);
            kit_int(&b, id++);
            kit_op(&b, 's');
        }
    }
    for (const char *const *token = t->tokens; *token != NULL; token++) {
        kit_binary(&b, *token, strlen(*token));
        kit_int(&b, id++);
        kit_op(&b, 's');
    }
    kit_op(&b, 's');
    kit_text(&b, "special_tokens");
    kit_op(&b, '}');
    for (const char *const *special = t->special; *special != NULL; special++) {
        kit_text(&b, *special);
        kit_int(&b, t->special_by + id++);
        kit_op(&b, 's');
    }
    kit_put(&b, "sb.", 3);
    unsigned char *exact = malloc(b.n);
    assert_non_null(exact);
    memcpy(exact, b.data, b.n);
    const pico_source source = {.path = "t", .map = {.data = exact, .size = b.n}};
    pico_model_file *file = NULL;
    (void)pico_model_file_parse(&source, NULL, &file, err);
    free(exact); /* nothing may point into it */
    free(b.data);
    return file;
}

static const char *const no_tokens[] = {NULL};

static void expect_encoded(const pico_vocab *vocab, const char *text, const int32_t *ids,
                           size_t n) {
    pico_tokenizer *tokenizer = open_vocab(vocab);
    int32_t *found = NULL;
    size_t n_found = 0;
    assert_int_equal(
        pico_tokenizer_encode(tokenizer, text, strlen(text), 0, &found, &n_found, NULL), PICO_OK);
    assert_int_equal(n_found, n);
    assert_memory_equal(found, ids, n * sizeof *ids);
    free(found);
    pico_tokenizer_close(tokenizer);
}

/* An unknown pattern is kept as it is; ids are ranks in any order; a piece that is a token is that
 * token even if no merge leads there, which is how tiktoken does it whatever the pattern. */
static void keeps_other_patterns(void **state) {
    (void)state;
    static const char *const tokens[] = {"bc", "xyz", "ab", NULL};
    static const char *const special[] = {"<|endoftext|>", NULL};
    static const int32_t ids[] = {257, 255 - ' ', 255 - 'a', 256};
    const table t = {
        .pattern = "\\p{L}+|\\P{L}+", .tokens = tokens, .special = special, .skip = -1};
    pico_error err = {0};
    pico_model_file *file = read_table(&t, &err), *back = NULL;
    if (file == NULL) {
        fail_msg("%s", err.message);
    }
    assert_string_equal(file->vocab.pre, "regex:\\p{L}+|\\P{L}+");
    assert_int_equal(file->vocab.bos, 259);
    assert_int_equal(file->vocab.eos, 259);
    assert_int_equal(file->vocab.eot, -1);
    assert_int_equal(file->vocab.add_bos, 0);
    expect_encoded(&file->vocab, "xyz abc", ids, 4);
    assert_survives_gguf(file, &back);
    expect_encoded(&back->vocab, "xyz abc", ids, 4);
    pico_model_file_close(back);
    pico_model_file_close(file);
}

static void knows_patterns(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
         "gpt-2"},
        {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
         "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
         "llama-bpe"},
        {"\\w+", "regex:\\w+"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const table t = {
            .pattern = cases[i][0], .tokens = no_tokens, .special = no_tokens, .skip = -1};
        pico_error err = {0};
        pico_model_file *file = read_table(&t, &err);
        assert_non_null(file);
        assert_string_equal(file->vocab.pre, cases[i][1]);
        pico_tokenizer_close(open_vocab(&file->vocab));
        pico_model_file_close(file);
    }
}

static void refuses_broken_tables(void **state) {
    (void)state;
    static const char *const twice[] = {"ab", "b", NULL}, *const empty[] = {"", NULL},
                             *const one[] = {"ab", NULL},
                             *const special[] = {"<|a|>", "<|b|>", NULL};
    const struct {
        table t;
        const char *said;
    } cases[] = {
        {{.pattern = "a", .tokens = twice, .special = no_tokens, .skip = -1},
         "mergeable_ranks: ids 157 and 257 have the same bytes"},
        {{.pattern = "a", .tokens = empty, .special = no_tokens, .skip = -1},
         "the token with id 256 has 0 bytes"},
        {{.pattern = "a", .tokens = one, .special = no_tokens, .skip = 0x41},
         "mergeable_ranks: no token for the single byte 0x41"},
        {{.pattern = "a", .tokens = no_tokens, .special = special, .skip = -1, .special_by = 1},
         "special_tokens: id 258, expected 256 to 257 (256 ordinary and 2 special tokens"},
        {{.pattern = "a", .tokens = no_tokens, .special = special, .skip = -1, .special_by = -1},
         "special_tokens: id 255, expected 256 to 257"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pico_error err = {0};
        pico_model_file *file = read_table(&cases[i].t, &err);
        if (file != NULL || strstr(err.message, cases[i].said) == NULL) {
            fail_msg("expected \"%s\", got \"%s\"", cases[i].said, err.message);
        }
    }
}

/* Pickles that hold no encoding, or one whose parts are of other kinds. */
static void refuses_other_pickles(void **state) {
    (void)state;
#define ENCODING                                                                                   \
    "\x80\x02"                                                                                     \
    "ctiktoken.core\nEncoding\n)\x81"
    static const struct {
        const char *bytes;
        size_t n;
        pico_status status;
        const char *said;
    } cases[] = {
#define CASE(bytes, status, said) {bytes, sizeof bytes - 1, status, said}
        CASE("\x80\x02}.", PICO_E_UNSUPPORTED, "the pickle holds a dict, expected a tokenizer"),
        CASE("\x80\x02"
             "cos\nsystem\n.",
             PICO_E_UNSUPPORTED, "os.system"),
        CASE(ENCODING ".", PICO_E_CORRUPT, "pat_str: expected a text"),
        CASE(ENCODING "Nb.", PICO_E_CORRUPT, "pat_str: expected a text"),
        CASE(ENCODING "}X\x07\x00\x00\x00pat_strX\x01\x00\x00\x00\x00sb.", PICO_E_CORRUPT,
             "pat_str: expected a text"),
        CASE(ENCODING "}X\x07\x00\x00\x00pat_strX\x01\x00\x00\x00"
                      "asb.",
             PICO_E_CORRUPT, "mergeable_ranks: expected a dict, found nothing"),
        CASE(ENCODING "}(X\x07\x00\x00\x00pat_strX\x01\x00\x00\x00"
                      "aX\x0f\x00\x00\x00"
                      "mergeable_ranks}NNsub.",
             PICO_E_CORRUPT,
             "mergeable_ranks, entry 0: None -> None, expected bytes -> an integer"),
        CASE("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", PICO_E_UNSUPPORTED,
             "torch.save before PyTorch 1.6"),
#undef CASE
#undef ENCODING
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pico_error err = {0};
        pico_status status = parse_bytes(cases[i].bytes, cases[i].n, &err);
        if (status != cases[i].status || strstr(err.message, cases[i].said) == NULL) {
            fail_msg("expected \"%s\", got %d \"%s\"", cases[i].said, (int)status, err.message);
        }
    }
}

/* Every cut and every flipped bit of a real one. */
static void any_damage_is_survived(void **state) {
    (void)state;
    fixture_path path;
    char *data = NULL;
    uint64_t size = 0;
    (void)find_fixture(&path, "tokenizer_b/tokenizer.pkl");
    assert_int_equal(pico_file_read(path.text, 1 << 20, &data, &size, NULL), PICO_OK);
    for (size_t i = 0; i < size; i++) {
        assert_int_not_equal(parse_bytes(data, i, NULL), PICO_OK);
        char kept = data[i];
        data[i] = (char)(kept ^ 1 << i % 8);
        (void)parse_bytes(data, (size_t)size, NULL);
        data[i] = kept;
    }
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokenises_as_tiktoken), cmocka_unit_test(keeps_other_patterns),
        cmocka_unit_test(knows_patterns),        cmocka_unit_test(refuses_broken_tables),
        cmocka_unit_test(refuses_other_pickles), cmocka_unit_test(any_damage_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
