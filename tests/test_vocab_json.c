/* layers: tokenizer */
/*
 * Tokenizer files of Hugging Face, small ones made here: what every form of them gives, what lies
 * beside them, where special tokens come from, gaps and padded models; a conversion to GGUF keeps
 * it all. What the tokenizers here would do differently, and what is damaged, is refused by name.
 */
#include "vocab_kit.h"

#include "tokenizer/tokenizer.h"

static pico_status read_bytes(const void *bytes, size_t n, uint32_t n_vocab, pico_arena *arena,
                              pico_vocab *vocab, pico_error *err) {
    unsigned char *copy = malloc(n + 1); /* exactly sized for sanitizers, and gone afterwards */
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    *vocab = (pico_vocab){0};
    pico_status status =
        pico_vocab_read(&(pico_map){.data = copy, .size = n}, n_vocab, arena, vocab, err);
    free(copy);
    return status;
}

static void expect_refused(const char *text, const char *message) {
    pico_arena arena = {0};
    pico_vocab vocab;
    pico_error err = {0};
    expect_message(read_bytes(text, strlen(text), 0, &arena, &vocab, &err), &err, message);
    pico_arena_free(&arena);
}

static void expect_vocab_refused(const char *path, const char *message) {
    pico_arena arena = {0};
    pico_vocab vocab = {0};
    pico_error err = {0};
    expect_message(pico_vocab_open(path, 0, &arena, &vocab, &err), &err, message);
    pico_arena_free(&arena);
}

static void expect_piece(const pico_vocab *vocab, uint32_t id, const char *text, uint32_t type) {
    assert_true(id < vocab->n_piece);
    assert_int_equal(vocab->piece[id].n, strlen(text));
    assert_memory_equal(vocab->piece[id].text, text, strlen(text));
    assert_int_equal(vocab->piece[id].type, type);
}

/* Both for what was read and for what a conversion to GGUF makes of it. */
static void expect_ids(const char *path, const char *text, size_t n_want, const int32_t *want) {
    pico_model_file *file[2] = {open_ok(path, NULL), NULL};
    assert_int_equal(file[0]->desc.n_layer, 0);
    assert_survives_gguf(file[0], &file[1]);
    for (int i = 0; i < 2; i++) {
        pico_tokenizer *tokenizer = NULL;
        pico_error err = {0};
        int32_t *ids = NULL;
        size_t n = 0;
        if (pico_tokenizer_open(&file[i]->vocab, &tokenizer, &err) != PICO_OK ||
            pico_tokenizer_encode(tokenizer, text, strlen(text), PICO_ENCODE_BOS, &ids, &n, &err) !=
                PICO_OK) {
            fail_msg("%s", err.message);
        }
        assert_int_equal(n, n_want);
        assert_memory_equal(ids, want, n * sizeof *want);
        free(ids);
        pico_tokenizer_close(tokenizer);
        pico_model_file_close(file[i]);
    }
}

/* ---- two files ---- */

#define VOCAB "{\"a\":0,\"b\":1,\"ab\":2,\"\\u0120\":3,\"\\u0120ab\":4,\"<|endoftext|>\":5}"
#define MERGES "#version: 0.2\na b\n\xc4\xa0 ab\n"

static void two_files(void **state) {
    (void)state;
    static const int32_t want[] = {5, 2, 4, 3, 1};
    static const char *const merges[] = {MERGES, "a b\r\n\xc4\xa0 ab", "a b\n\n\xc4\xa0 ab\n\n"};
    kit_folder folder = kit_folder_make();
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
        kit_write_text(&folder, "vocab.json", VOCAB);
        kit_write_text(&folder, "merges.txt", merges[i]);
        expect_ids(folder.path, "ab ab b", 5, want);
        expect_ids(kit_in(&folder, "vocab.json"), "ab ab b", 5, want);
    }
    pico_model_file *file = open_ok(folder.path, NULL);
    assert_int_equal(file->vocab.kind, PICO_VOCAB_BPE);
    assert_string_equal(file->vocab.pre, "gpt-2");
    expect_piece(&file->vocab, 5, "<|endoftext|>", PICO_PIECE_CONTROL);
    assert_int_equal(file->vocab.bos, 5);
    assert_int_equal(file->vocab.eos, 5);
    assert_int_equal(file->vocab.unk, -1);
    assert_int_equal(file->vocab.add_bos, 0);
    pico_model_file_close(file);
    assert_int_equal(rename(kit_in(&folder, "vocab.json"), kit_in(&folder, "encoder.json")), 0);
    expect_vocab_refused(folder.path,
                         "the folder holds no tokenizer: expected tokenizer.pkl, "
                         "tokenizer/tokenizer.pkl, tokenizer.json, vocab.json with "
                         "merges.txt, encoder.json with vocab.bpe, or tokenizer.model");
    assert_int_equal(rename(kit_in(&folder, "merges.txt"), kit_in(&folder, "vocab.bpe")), 0);
    expect_ids(folder.path, "ab ab b", 5, want);
    kit_folder_remove(&folder);
}

static void two_files_that_are_wrong(void **state) {
    (void)state;
    static const struct {
        const char *vocab, *merges, *message;
    } cases[] = {
        {VOCAB, "a b\nab\n", "vocab.json: its merges: line 2, \"ab\", is not two pieces"},
        {VOCAB, "a b c\n", "line 1, \"a b c\""},
        {VOCAB, " a b\n", "line 1, \" a b\""},
        {VOCAB, "#version: 0.2\n#version: 0.2\na\n", "line 3, \"a\""},
        {VOCAB, "", "its merges: none, but there are tokens of several bytes"},
        {"{\"a\":0,\"b\":0}", MERGES, "tokens \"a\" and \"b\" have the id 0"},
        {"{\"a\":0,\"b\":-1}", MERGES, "token \"b\": its id is out of range"},
        {"{\"a\":0,\"b\":16000000}", MERGES,
         "token \"b\": its id is out of range, expected an integer "
         "from 0 to 1025"},
        {"{\"a\":0,\"b\":\"1\"}", MERGES, "token \"b\": its id is a string"},
        {"{\"a\":0,\"b\":1.0}", MERGES, "token \"b\": its id is a number"},
        {"{\"a\":0,\"a\":1}", MERGES, "duplicate object key"},
        {"{}", MERGES, "the vocabulary has no token"},
        {"{\"a\":0", MERGES, "JSON, line 1"},
        {"{\"a\":99999999999999999999}", MERGES, "token \"a\": its id is a number"},
        {"{\"model_type\":\"gpt2\"}", MERGES, "token \"model_type\": its id is a string"},
    };
    kit_folder folder = kit_folder_make();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kit_write_text(&folder, "vocab.json", cases[i].vocab);
        kit_write_text(&folder, "merges.txt", cases[i].merges);
        expect_vocab_refused(folder.path, cases[i].message);
    }
    kit_folder_remove(&folder);
    expect_refused(VOCAB, "a vocab.json or encoder.json needs its merges.txt");
    expect_refused("{\"model_type\":\"gpt2\"}", "the configuration of a model");
}

/* ---- tokenizer.json ---- */

#define LLAMA3                                                                                     \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}|"          \
    " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define SPLIT(pattern)                                                                             \
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":" \
    "{"                                                                                            \
    "\"Regex\":\"" pattern "\"},\"behavior\":\"Isolated\",\"invert\":false}," BYTES "]}"
#define OWN "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#define MODEL(more)                                                                                \
    "\"model\":{\"type\":\"BPE\"" more ",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\\u0120\":3},"      \
    "\"merges\":[\"a b\"]}"
#define TOKEN(id, text, special) "{\"id\":" id ",\"content\":\"" text "\",\"special\":" special "}"
#define ADDED "\"added_tokens\":[" TOKEN("4", "<s>", "true") "," TOKEN("6", "[x]", "false") "]"
#define ENDS                                                                                       \
    "\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{"         \
    "\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{"            \
    "\"Sequence\":{\"id\":\"A\"}}]}]}"

static void byte_level_json(void **state) {
    (void)state;
    static const struct {
        const char *text, *pre;
    } cases[] = {
        {"{" OWN "," MODEL("") "," ADDED "}", "gpt-2"},
        {"{" SPLIT(LLAMA3) "," MODEL(",\"ignore_merges\":true") "," ADDED "}", "llama-bpe"},
        {"{" SPLIT("[ab]+| ") "," MODEL("") "," ADDED "}", "regex:[ab]+| "},
    };
    kit_folder folder = kit_folder_make();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static const int32_t want[] = {2, 6, 3, 0};
        kit_write_text(&folder, "tokenizer.json", cases[i].text);
        expect_ids(folder.path, "ab[x] a", 4, want);
        pico_model_file *file = open_ok(folder.path, NULL);
        assert_string_equal(file->vocab.pre, cases[i].pre);
        assert_int_equal(file->vocab.n_piece, 7);
        expect_piece(&file->vocab, 4, "<s>", PICO_PIECE_CONTROL);
        expect_piece(&file->vocab, 5, "[PAD5]", PICO_PIECE_UNUSED);
        expect_piece(&file->vocab, 6, "[x]", PICO_PIECE_USER);
        assert_int_equal(file->vocab.add_bos, 0);
        pico_model_file_close(file);
    }
    static const int32_t with_begin[] = {4, 2};
    kit_write_text(&folder, "tokenizer.json", "{" OWN "," MODEL("") "," ADDED "," ENDS "}");
    expect_ids(kit_in(&folder, "tokenizer.json"), "ab", 2, with_begin);
    pico_model_file *file = open_ok(folder.path, NULL);
    assert_int_equal(file->vocab.add_bos, 1);
    assert_int_equal(file->vocab.bos, 4);
    assert_int_equal(file->vocab.add_eos, 0);
    pico_model_file_close(file);
    kit_folder_remove(&folder);
}

static void json_that_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{\"model\":{\"type\":\"Unigram\"}}", "type \"Unigram\"; supported is BPE"},
        {"{\"model\":{\"type\":\"WordPiece\"}}", "type \"WordPiece\""},
        {"{\"model\":{\"type\":1}}", "key \"type\" is an integer"},
        {"{\"model\":{}}", "key \"vocab\" is missing"},
        {"{\"model\":{\"vocab\":[],\"merges\":[]}}", "key \"vocab\" is an array"},
        {"{\"model\":{\"vocab\":{\"a\":0}}}", "key \"merges\" is missing"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":{}}}", "key \"merges\" is an object"},
        {"{" OWN "," MODEL(",\"dropout\":0.1") "}", "key \"dropout\" of the model is set"},
        {"{" OWN "," MODEL(",\"end_of_word_suffix\":\"</w>\"") "}", "key \"end_of_word_suffix\""},
        {"{" OWN "," MODEL(",\"ignore_merges\":true") "}", "key \"ignore_merges\" is true"},
        {"{" OWN "," MODEL(",\"ignore_merges\":1") "}", "key \"ignore_merges\" is an integer"},
        {"{" OWN "," MODEL(",\"byte_fallback\":7") "}", "key \"byte_fallback\" is an integer"},
        {"{" MODEL("") "}", "key \"pre_tokenizer\": a step of type \"none\""},
        {"{\"pre_tokenizer\":{\"type\":\"Whitespace\"}," MODEL("") "}",
         "step of type \"Whitespace\""},
        {"{\"pre_tokenizer\":[]," MODEL("") "}", "key \"pre_tokenizer\" is an array"},
        {"{\"pre_tokenizer\":{\"type\":\"Sequence\"}," MODEL("") "}",
         "\"pretokenizers\" is missing"},
        {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[1]}," MODEL("") "}",
         "step of type \"Sequence\""},
        {"{\"pre_tokenizer\":{\"type\":\"ByteLevel\"}," MODEL("") "}",
         "step of type \"ByteLevel\""},
        {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\"}," BYTES
         "]}," MODEL("") "}",
         "step of type \"Digits\""},
        {"{" OWN ",\"normalizer\":{\"type\":\"NFC\"}," MODEL("") "}",
         "key \"normalizer\": a step of type \"NFC\""},
        {"{" OWN "," MODEL("") ",\"added_tokens\":{}}", "key \"added_tokens\" is an object"},
        {"{" OWN "," MODEL("") ",\"added_tokens\":[3]}", "a token that is an integer"},
        {"{" OWN "," MODEL("") ",\"added_tokens\":[{\"id\":4}]}", "key \"content\" is missing"},
        {"{" OWN "," MODEL("") ",\"added_tokens\":[{\"content\":\"x\"}]}", "key \"id\" is missing"},
        {"{" OWN "," MODEL("") ",\"added_tokens\":[" TOKEN("99999", "x", "true") "]}",
         "a token with the id 99999, but there are only 4 others"},
        {"{" OWN "," MODEL("") ",\"added_tokens\":[" TOKEN("-1", "x", "true") "]}",
         "key \"id\" is -1"},
        {"{" OWN "," MODEL("") ",\"added_tokens\":[" TOKEN("4", "x", "\"yes\"") "]}",
         "key \"special\" is a string"},
        {"{" OWN "," MODEL("") ",\"added_tokens\":[{\"id\":4,\"content\":\"x\",\"lstrip\":true}]}",
         "token \"x\" is found in text with \"lstrip\""},
        {"{" OWN "," MODEL("") ",\"post_processor\":{\"type\":\"BertProcessing\"}}",
         "key \"post_processor\": a step of type \"BertProcessing\""},
        {"{" OWN "," MODEL("") ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{"
                               "\"SpecialToken\":{\"id\":\"<s>\"}}]}}",
         "key \"post_processor\""},
        {"{" OWN ",\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"ab\"]}}",
         "entry 0, \"ab\", is not two pieces"},
        {"{" OWN ",\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[[\"a\"]]}}",
         "entry 0 is an array"},
        {"{" OWN ",\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[]}}",
         "key \"merges\": none, but"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_refused(cases[i].text, cases[i].message);
    }
}

/* ---- what lies beside ---- */

static void settings_beside(void **state) {
    (void)state;
    kit_folder folder = kit_folder_make();
    kit_write_text(&folder, "tokenizer.json", "{" OWN "," MODEL("") "," ADDED "}");
    kit_write_text(&folder, "generation_config.json",
                   "{\"eos_token_id\":[1,2],\"bos_token_id\":99}");
    pico_model_file *file = open_ok(folder.path, NULL);
    assert_int_equal(file->vocab.bos, -1); /* 99 is none of this vocabulary */
    assert_int_equal(file->vocab.eos, 1);
    assert_null(file->vocab.chat_template);
    pico_model_file_close(file);

    kit_write_text(
        &folder, "tokenizer_config.json",
        "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"<e>\",\"pad_token\":null,"
        "\"unk_token\":\"a\",\"add_bos_token\":true,\"chat_template\":\"{{ messages }}\","
        "\"added_tokens_decoder\":{\"4\":" TOKEN("4", "<s>", "true") ","
                                                                     "\"7\":" TOKEN("7", "<e>",
                                                                                    "true") "}}");
    file = open_ok(kit_in(&folder, "tokenizer.json"), NULL);
    assert_int_equal(file->vocab.n_piece, 8);
    expect_piece(&file->vocab, 7, "<e>", PICO_PIECE_CONTROL);
    assert_int_equal(file->vocab.bos, 4);
    assert_int_equal(file->vocab.eos, 7);
    assert_int_equal(file->vocab.unk, -1);
    assert_int_equal(file->vocab.pad, -1);
    assert_int_equal(file->vocab.add_bos, 1);
    assert_string_equal(file->vocab.chat_template, "{{ messages }}");
    assert_survives_gguf(file, NULL);
    pico_model_file_close(file);

    kit_write_text(&folder, "tokenizer_config.json",
                   "{\"chat_template\":[{\"name\":\"tool\",\"template\":\"t\"},"
                   "{\"name\":\"default\",\"template\":\"d\"}]}");
    file = open_ok(folder.path, NULL);
    assert_string_equal(file->vocab.chat_template, "d");
    pico_model_file_close(file);
    kit_write_text(&folder, "chat_template.jinja", "{% for m in messages %}\n");
    file = open_ok(folder.path, NULL);
    assert_string_equal(file->vocab.chat_template, "{% for m in messages %}\n");
    pico_model_file_close(file);
    kit_write(&folder, "chat_template.jinja", "a\0b", 3);
    expect_vocab_refused(folder.path, "chat_template.jinja: a NUL at offset 1");
    kit_folder_remove(&folder);
}

/* What Python makes of int(1e30) stands where a length has no limit; no integer of 64 bits holds it. */
#define HUGE "1000000000000000019884624838656"
static void integers_beyond_64_bits(void **state) {
    (void)state;
    static const char *const texts[] = {
        "{\"model_max_length\":" HUGE ",\"add_bos_token\":true,\"bos_token\":\"a\"}",
        "{\"x\":[-" HUGE ",1.5e3,12345678901234567890.5,{\"y\":" HUGE "}],\"add_bos_token\":true,"
        "\"bos_token\":\"a\"}",
        "{\"\\\"" HUGE "\":" HUGE ",\"add_bos_token\":true,\"bos_token\":\"a\"}",
    };
    kit_folder folder = kit_folder_make();
    kit_write_text(&folder, "tokenizer.json", "{" OWN "," MODEL("") "}");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        kit_write_text(&folder, "tokenizer_config.json", texts[i]);
        pico_model_file *file = open_ok(folder.path, NULL);
        assert_int_equal(file->vocab.add_bos, 1);
        assert_int_equal(file->vocab.bos, 0);
        pico_model_file_close(file);
    }
    kit_write_text(&folder, "tokenizer_config.json", "{\"bos_token\":" HUGE "}");
    expect_vocab_refused(folder.path, "key \"bos_token\" is a number");
    kit_write_text(&folder, "tokenizer_config.json", "{\"x\":" HUGE);
    expect_vocab_refused(folder.path, "tokenizer_config.json: JSON, line 1");
    kit_folder_remove(&folder);
}
#undef HUGE

static void settings_that_are_wrong(void **state) {
    (void)state;
    static const struct {
        const char *file, *text, *message;
    } cases[] = {
        {"tokenizer_config.json", "[]", "tokenizer_config.json: JSON: an array"},
        {"tokenizer_config.json", "{\"bos_token\":7}", "key \"bos_token\" is an integer"},
        {"tokenizer_config.json", "{\"eos_token\":{\"content\":1}}",
         "key \"eos_token\" is an object"},
        {"tokenizer_config.json", "{\"add_bos_token\":1}", "key \"add_bos_token\" is an integer"},
        {"tokenizer_config.json", "{\"add_eos_token\":\"\"}", "key \"add_eos_token\" is a string"},
        {"tokenizer_config.json", "{\"chat_template\":{}}", "key \"chat_template\" is an object"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":[]}",
         "is an array, expected an object"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":{\"x\":{}}}", "\"x\" is no token id"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":{\"-1\":{}}}",
         "\"-1\" is no token id"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":{\"\":{}}}", "\"\" is no token id"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":{\"99999999999999999999\":{}}}",
         "is no token id"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":{\"9999\":{}}}", "the id 9999"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":{\"4\":7}}",
         "a token that is an integer"},
        {"generation_config.json", "{\"eos_token_id\":\"2\"}", "key \"eos_token_id\" is a string"},
        {"generation_config.json", "{\"eos_token_id\":[[]]}", "key \"eos_token_id\" is an array"},
        {"config.json", "{\"bos_token_id\":1.5}", "config.json: key \"bos_token_id\" is a number"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kit_folder folder = kit_folder_make();
        kit_write_text(&folder, "tokenizer.json", "{" OWN "," MODEL("") "}");
        kit_write_text(&folder, cases[i].file, cases[i].text);
        expect_vocab_refused(folder.path, cases[i].message);
        kit_folder_remove(&folder);
    }
}

/* ---- with a model ---- */

/* A model has more rows than its tokenizer has tokens, by a few: they get names. */
static void models_with_more_tokens(void **state) {
    (void)state;
    static const char text[] = "{" OWN "," MODEL("") "}";
    static const struct {
        uint32_t n_vocab, n_piece;
    } cases[] = {{0, 4}, {4, 4}, {3, 4}, {64, 64}, {4 + 1024, 4 + 1024}, {4 + 1025, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pico_arena arena = {0};
        pico_vocab vocab;
        assert_int_equal(read_bytes(text, sizeof text - 1, cases[i].n_vocab, &arena, &vocab, NULL),
                         PICO_OK);
        assert_int_equal(vocab.n_piece, cases[i].n_piece);
        pico_arena_free(&arena);
    }
    kit_folder folder = kit_folder_make();
    pico_layer_desc layer[2];
    const pico_model_desc desc = small_llama(layer, 2);
    pico_model_file *model = model_in_memory(&desc);
    kit_st st = {0};
    size_t size;
    for (uint32_t i = 0; i < model->n_tensor; i++) {
        kit_add_llama(&st, model, &model->tensor[i], "model.", KIT_F32);
    }
    unsigned char *bytes = kit_st_end(&st, 0, &size);
    kit_write(&folder, "model.safetensors", bytes, size);
    kit_write_text(&folder, "config.json", kit_llama_config(&desc, ",\"eos_token_id\":2"));
    kit_write_text(&folder, "tokenizer.json", text);
    pico_model_file *file = open_ok(folder.path, NULL);
    assert_int_equal(file->vocab.n_piece, 48);
    expect_piece(&file->vocab, 47, "[PAD47]", PICO_PIECE_UNUSED);
    assert_int_equal(file->vocab.eos, 2);
    assert_survives_gguf(file, NULL);
    pico_model_file_close(file);
    file = open_ok(kit_in(&folder, "model.safetensors"), kit_in(&folder, "tokenizer.json"));
    assert_int_equal(file->vocab.n_piece, 48);
    pico_model_file_close(file);
    free(bytes);
    pico_model_file_close(model);
    kit_folder_remove(&folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_files),
        cmocka_unit_test(two_files_that_are_wrong),
        cmocka_unit_test(byte_level_json),
        cmocka_unit_test(json_that_is_refused),
        cmocka_unit_test(settings_beside),
        cmocka_unit_test(integers_beyond_64_bits),
        cmocka_unit_test(settings_that_are_wrong),
        cmocka_unit_test(models_with_more_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
