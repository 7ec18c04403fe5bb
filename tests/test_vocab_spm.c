/* layers: tokenizer */
/*
 * SentencePiece's tokenizer.model and the tokenizer.json that comes from one, small ones made here:
 * pieces, special ids, settings; a list of merges becomes scores only where both do the same. What
 * would be done differently, and what is damaged, is refused by name.
 */
#include "vocab_kit.h"

#include <math.h>

#include "tokenizer/tokenizer.h"

enum { N_SPECIAL = 3, N_BYTE = 256, MAX_PIECES = 320 };
#define MARK "\xe2\x96\x81"

/* <unk>, <s>, </s>, 256 bytes, then texts with falling scores. */
typedef struct small_vocab {
    pico_vocab vocab;
    pico_piece piece[MAX_PIECES];
    char byte_name[N_BYTE][8];
} small_vocab;

static void add(small_vocab *v, const char *text, uint32_t type, float score) {
    assert_true(v->vocab.n_piece < MAX_PIECES);
    v->piece[v->vocab.n_piece++] =
        (pico_piece){.text = text, .n = (uint32_t)strlen(text), .type = type, .score = score};
}

static small_vocab *make(const char *const *texts) {
    small_vocab *v = calloc(1, sizeof *v);
    assert_non_null(v);
    v->vocab = (pico_vocab){.kind = PICO_VOCAB_SPM, .piece = v->piece};
    add(v, "<unk>", PICO_PIECE_UNKNOWN, 0);
    add(v, "<s>", PICO_PIECE_CONTROL, 0);
    add(v, "</s>", PICO_PIECE_CONTROL, 0);
    for (int i = 0; i < N_BYTE; i++) {
        (void)snprintf(v->byte_name[i], sizeof v->byte_name[i], "<0x%02X>", (unsigned)i);
        add(v, v->byte_name[i], PICO_PIECE_BYTE, 0);
    }
    for (int i = 0; texts[i] != NULL; i++) {
        add(v, texts[i], PICO_PIECE_NORMAL, -(float)i);
    }
    return v;
}

static const char *const words[] = {"ab", MARK "a", MARK "ab", "abab", MARK MARK,
                                    "a",  "b",      MARK,      NULL};
enum { AB = N_SPECIAL + N_BYTE, MARK_A, MARK_AB, ABAB, MARKS, A, B, SPACE };

static pico_status read_bytes(const void *bytes, size_t n, pico_arena *arena, pico_vocab *vocab,
                              pico_error *err) {
    unsigned char *copy = malloc(n + 1);
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    *vocab = (pico_vocab){0};
    pico_status status =
        pico_vocab_read(&(pico_map){.data = copy, .size = n}, 0, arena, vocab, err);
    free(copy);
    return status;
}

static void expect_ids(const pico_vocab *vocab, const char *text, size_t n_want,
                       const int32_t *want) {
    pico_tokenizer *tokenizer = NULL;
    pico_error err = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    if (pico_tokenizer_open(vocab, &tokenizer, &err) != PICO_OK ||
        pico_tokenizer_encode(tokenizer, text, strlen(text), PICO_ENCODE_BOS, &ids, &n, &err) !=
            PICO_OK) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(n, n_want);
    assert_memory_equal(ids, want, n * sizeof *want);
    free(ids);
    pico_tokenizer_close(tokenizer);
}

static void check_words(const pico_vocab *vocab) {
    static const int32_t want[] = {1, MARK_AB, AB, N_SPECIAL + 'x', MARK_A, MARKS, B};
    assert_int_equal(vocab->kind, PICO_VOCAB_SPM);
    assert_int_equal(vocab->bos, 1);
    assert_int_equal(vocab->eos, 2);
    assert_int_equal(vocab->unk, 0);
    assert_int_equal(vocab->pad, -1);
    assert_int_equal(vocab->add_bos, 1);
    assert_int_equal(vocab->add_space_prefix, 1);
    expect_ids(vocab, "ababx a  b", 7, want);
}

static void model_file(void **state) {
    (void)state;
    small_vocab *v = make(words);
    kit_bytes file = kit_spm_file(&v->vocab, &kit_spm_plain);
    pico_arena arena = {0};
    pico_vocab vocab;
    assert_int_equal(read_bytes(file.at, file.n, &arena, &vocab, NULL), PICO_OK);
    assert_int_equal(vocab.n_piece, v->vocab.n_piece);
    for (uint32_t i = 0; i < vocab.n_piece; i++) {
        assert_int_equal(vocab.piece[i].type, v->piece[i].type);
        assert_int_equal(vocab.piece[i].n, v->piece[i].n);
        assert_memory_equal(vocab.piece[i].text, v->piece[i].text, v->piece[i].n);
        assert_memory_equal(&vocab.piece[i].score, &v->piece[i].score, sizeof(float));
    }
    check_words(&vocab);
    pico_arena_free(&arena);

    kit_folder folder = kit_folder_make();
    kit_write(&folder, "tokenizer.model", file.at, file.n);
    kit_write_text(&folder, "tokenizer_config.json",
                   "{\"add_bos_token\":false,\"pad_token\":\"<p>\",\"added_tokens_decoder\":{"
                   "\"0\":{\"content\":\"<unk>\",\"special\":true},"
                   "\"267\":{\"content\":\"<p>\",\"special\":true}}}");
    pico_model_file *opened = open_ok(folder.path, NULL);
    assert_int_equal(opened->vocab.add_bos, 0);
    assert_int_equal(opened->vocab.pad, 267);
    assert_int_equal(opened->vocab.piece[0].type, PICO_PIECE_UNKNOWN);
    assert_survives_gguf(opened, NULL);
    pico_model_file_close(opened);
    kit_folder_remove(&folder);
    free(file.at);
    free(v);
}

static void expect_refused(const void *bytes, size_t n, const char *message) {
    pico_arena arena = {0};
    pico_vocab vocab;
    pico_error err = {0};
    expect_message(read_bytes(bytes, n, &arena, &vocab, &err), &err, message);
    pico_arena_free(&arena);
}

static void models_that_are_refused(void **state) {
    (void)state;
    static const struct {
        kit_spm settings;
        const char *message;
    } cases[] = {
        {{1, 0, 1, ""}, "a SentencePiece model of type unigram; supported is BPE"},
        {{3, 0, 1, ""}, "of type word"},
        {{99, 0, 1, ""}, "of type unknown"},
        {{2, 1, 1, ""}, "extra spaces are removed"},
        {{2, 0, 1, "xyz"}, "normalised by the rule \"rule\" first"},
    };
    small_vocab *v = make(words);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kit_bytes file = kit_spm_file(&v->vocab, &cases[i].settings);
        expect_refused(file.at, file.n, cases[i].message);
        free(file.at);
    }
    const kit_spm no_prefix = {2, 0, 0, ""};
    kit_bytes file = kit_spm_file(&v->vocab, &no_prefix);
    pico_arena arena = {0};
    pico_vocab vocab;
    assert_int_equal(read_bytes(file.at, file.n, &arena, &vocab, NULL), PICO_OK);
    assert_int_equal(vocab.add_space_prefix, 0);
    pico_arena_free(&arena);
    free(file.at);

    v->piece[AB].score = NAN;
    file = kit_spm_file(&v->vocab, &kit_spm_plain);
    expect_refused(file.at, file.n, "piece 259 has 2 bytes, type 1 and score");
    free(file.at);
    v->piece[AB].score = 0;
    v->piece[AB].type = 7;
    file = kit_spm_file(&v->vocab, &kit_spm_plain);
    expect_refused(file.at, file.n, "type 7");
    free(file.at);
    free(v);
}

/* Every beginning is refused: what stands at the end is needed. */
static void model_cut_short(void **state) {
    (void)state;
    small_vocab *v = make(words);
    kit_bytes file = kit_spm_file(&v->vocab, &kit_spm_plain);
    for (size_t n = 0; n < file.n; n++) {
        expect_refused(file.at, n, "");
    }
    for (size_t i = 0; i < file.n; i++) { /* damaged: read or refused, never beyond the end */
        pico_arena arena = {0};
        pico_vocab vocab;
        pico_error err = {0};
        file.at[i] ^= (unsigned char)(1u << (i % 8));
        pico_status status = read_bytes(file.at, file.n, &arena, &vocab, &err);
        assert_true(status == PICO_OK || err.message[0] != '\0');
        file.at[i] ^= (unsigned char)(1u << (i % 8));
        pico_arena_free(&arena);
    }
    free(file.at);
    free(v);
}

static void wrong_wire_format(void **state) {
    (void)state;
    static const struct {
        unsigned char bytes[16];
        size_t n;
    } cases[] = {
        {{0x0a, 5, 0x0a, 3, 'a', 'b', 'c', 0x0b}, 8},                          /* a group begins */
        {{0x0a, 5, 0x0a, 3, 'a', 'b', 'c', 0x02, 1}, 9},                       /* field 0 */
        {{0x0a, 5, 0x0a, 3, 'a', 'b', 'c', 0x12, 0xff, 0xff, 0xff, 0xff}, 12}, /* endless */
        {{0x0a, 5, 0x0a, 4, 'a', 'b', 'c', 0x12, 0}, 9},        /* out of its piece */
        {{0x0a, 5, 0x0a, 3, 'a', 'b', 'c', 0x12, 1, 0x1d}, 10}, /* cut fixed32 */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_refused(cases[i].bytes, cases[i].n, "tokenizer.model: ");
    }
}

/* ---- merges as scores ---- */

static pico_status read_json(json_t *root, pico_arena *arena, pico_vocab *vocab, pico_error *err) {
    char *text = json_dumps(root, 0);
    assert_non_null(text);
    pico_status status = read_bytes(text, strlen(text), arena, vocab, err);
    free(text);
    return status;
}

static void json_gives_scores(void **state) {
    (void)state;
    small_vocab *v = make(words);
    for (int as_pairs = 0; as_pairs < 2; as_pairs++) {
        json_t *root = kit_spm_json(&v->vocab, as_pairs);
        pico_arena arena = {0};
        pico_vocab vocab;
        pico_error err = {0};
        if (read_json(root, &arena, &vocab, &err) != PICO_OK) {
            fail_msg("%s", err.message);
        }
        check_words(&vocab);
        pico_arena_free(&arena);
        json_decref(root);
    }
    free(v);
}

static void expect_json_refused(json_t *root, const char *message) {
    char *text = json_dumps(root, 0);
    assert_non_null(text);
    expect_refused(text, strlen(text), message);
    free(text);
}

static json_t *merges_of(json_t *root) {
    return json_object_get(json_object_get(root, "model"), "merges");
}

static void json_that_scores_cannot_say(void **state) {
    (void)state;
    /* Of the list's merges of "aba" only that of "a" with "ba" is ever done. */
    static const char *const two_ways[] = {"ba", "aba", "a", "b", NULL};
    static const char *const incomplete[] = {"ab", "abc", "a", "b", NULL};
    small_vocab *v = make(words);
    json_t *root = kit_spm_json(&v->vocab, 0);
    for (size_t i = 0; i < json_array_size(merges_of(root)); i++) {
        if (strcmp(json_string_value(json_array_get(merges_of(root), i)), "ab ab") == 0) {
            assert_int_equal(json_array_remove(merges_of(root), i), 0);
        }
    }
    expect_json_refused(root, "a pair of pieces that is a piece is not there (\"abab\"), so scores "
                              "cannot stand for them; if there is a tokenizer.model");
    assert_int_equal(json_array_append_new(merges_of(root), json_string("ab x")), 0);
    expect_json_refused(root, "\"ab\" and \"x\", names a piece that does not exist");
    assert_int_equal(json_array_set_new(merges_of(root), 0, json_string("abab")), 0);
    expect_json_refused(root, "entry 0 is not \"left right\"");
    assert_int_equal(json_array_set_new(merges_of(root), 0, json_integer(4)), 0);
    expect_json_refused(root, "entry 0 is not \"left right\"");
    json_decref(root);
    free(v);

    v = make(incomplete);
    root = kit_spm_json(&v->vocab, 0);
    expect_json_refused(root, "a character of a piece is none itself (\"abc\")");
    json_decref(root);
    free(v);

    v = make(two_ways);
    root = kit_spm_json(&v->vocab, 0);
    pico_arena arena = {0};
    pico_vocab vocab;
    static const int32_t want[] = {1, N_SPECIAL + ' ', N_SPECIAL + N_BYTE + 1, N_SPECIAL + N_BYTE};
    assert_int_equal(read_json(root, &arena, &vocab, NULL), PICO_OK);
    expect_ids(&vocab, "ababa", 4, want);
    pico_arena_free(&arena);
    json_decref(root);
    free(v);
}

static void json_steps_that_are_refused(void **state) {
    (void)state;
    small_vocab *v = make(words);
    json_t *root = kit_spm_json(&v->vocab, 0);
    json_t *user = json_pack("{s:i, s:s, s:b}", "id", 267, "content", "[u]", "special", 0);
    json_t *added = json_object_get(root, "added_tokens");
    assert_int_equal(json_array_append_new(added, user), 0);
    expect_json_refused(root,
                        "token \"[u]\" is found in text and followed by another leading space");
    assert_int_equal(json_array_remove(added, json_array_size(added) - 1), 0);

    json_t *meta = json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", MARK,
                             "prepend_scheme", "first", "split", 0);
    assert_int_equal(json_object_set(root, "pre_tokenizer", meta), 0);
    expect_json_refused(root, "key \"normalizer\": a step of type \"Prepend\"");
    assert_int_equal(json_object_del(root, "normalizer"), 0);
    expect_json_refused(root, "key \"pre_tokenizer\": a step of type \"Metaspace\" with these "
                              "settings is not done here; if there is a tokenizer.model");
    assert_int_equal(json_object_set_new(meta, "prepend_scheme", json_string("never")), 0);
    pico_arena arena = {0};
    pico_vocab vocab;
    assert_int_equal(read_json(root, &arena, &vocab, NULL), PICO_OK);
    assert_int_equal(vocab.add_space_prefix, 0);
    pico_arena_free(&arena);
    json_decref(meta);

    json_t *pieces = json_object_get(json_object_get(root, "model"), "vocab");
    assert_int_equal(json_object_del(pieces, "<0x41>"), 0);
    expect_json_refused(root, "there are 255 tokens for bytes");
    json_decref(root);
    free(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(model_file),
        cmocka_unit_test(models_that_are_refused),
        cmocka_unit_test(model_cut_short),
        cmocka_unit_test(wrong_wire_format),
        cmocka_unit_test(json_gives_scores),
        cmocka_unit_test(json_that_scores_cannot_say),
        cmocka_unit_test(json_steps_that_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
