/* layers: formats tokenizer */
/*
 * Tokenizers on vocabularies made here: golden encodings, comparison with slow oracles on random
 * vocabularies and text, round trips, streaming, hostile vocabularies. Real vocabularies are in
 * test_tokenizer_files.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/tokenizer.h"
#include "tokenizer_oracle.h"

static pico_tokenizer *open_ok(const pico_vocab *vocab) {
    pico_error err = {0};
    pico_tokenizer *tokenizer = NULL;
    if (pico_tokenizer_open(vocab, &tokenizer, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    return tokenizer;
}

/* Encodes text and compares with a list that ends at -1. */
static void check_ids(const pico_tokenizer *tokenizer, const char *text, uint32_t flags,
                      const int32_t *expected) {
    pico_error err = {0};
    int32_t *ids = NULL;
    size_t n = 0, wanted = 0;
    if (pico_tokenizer_encode(tokenizer, text, strlen(text), flags, &ids, &n, &err) != PICO_OK) {
        fail_msg("\"%s\": %s", text, err.message);
    }
    while (expected[wanted] >= 0) {
        wanted++;
    }
    if (n != wanted || (n > 0 && memcmp(ids, expected, n * sizeof *ids) != 0)) {
        for (size_t i = 0; i < n; i++) {
            print_error("%d ", (int)ids[i]);
        }
        fail_msg("\"%s\" gives the %zu ids above", text, n);
    }
    free(ids);
}

#define IDS(...) ((const int32_t[]){__VA_ARGS__, -1})
#define NO_IDS ((const int32_t[]){-1})

static void check_text(const pico_tokenizer *tokenizer, const int32_t *ids, const char *expected) {
    pico_error err = {0};
    char *text = NULL;
    size_t n = 0, size = 0;
    while (ids[n] >= 0) {
        n++;
    }
    assert_int_equal(pico_tokenizer_decode(tokenizer, ids, n, &text, &size, &err), PICO_OK);
    assert_int_equal(size, strlen(expected));
    assert_string_equal(text, expected);
    free(text);
}

/* Encodes s, decodes the result, and expects s again. */
static void check_round_trip(const pico_tokenizer *tokenizer, const char *s, size_t n) {
    pico_error err = {0};
    int32_t *ids = NULL;
    char *text = NULL;
    size_t n_ids = 0, size = 0;
    if (pico_tokenizer_encode(tokenizer, s, n, 0, &ids, &n_ids, &err) != PICO_OK ||
        pico_tokenizer_decode(tokenizer, ids, n_ids, &text, &size, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    if (size != n || memcmp(text, s, n) != 0) {
        for (size_t i = 0; i < n; i++) {
            print_error("%02x ", (unsigned)(unsigned char)s[i]);
        }
        fail_msg("the %zu bytes above came back as %zu", n, size);
    }
    free(ids);
    free(text);
}

/* Pieces for a little text: 259 space, 260 a, 261 b, 262 e-acute, 263 ab, 264 " a", 265 " ab",
 * 266 bb (a tie with ab), 267 a character of 4 bytes, 268 b e-acute with a score so low that
 * llama2.c never takes it, 269 zb without a piece for z. */
static maker little_spm(uint32_t llama2c) {
    maker m = maker_spm();
    m.vocab.llama2c = llama2c;
    maker_piece(&m, llama2c ? " " : "\xe2\x96\x81", PICO_PIECE_NORMAL, -9.0f);
    maker_piece(&m, "a", PICO_PIECE_NORMAL, -9.0f);
    maker_piece(&m, "b", PICO_PIECE_NORMAL, -9.0f);
    maker_piece(&m, "\xc3\xa9", PICO_PIECE_NORMAL, -9.0f);
    maker_piece(&m, "ab", PICO_PIECE_NORMAL, -1.0f);
    maker_piece(&m,
                llama2c ? " a"
                        : "\xe2\x96\x81"
                          "a",
                PICO_PIECE_NORMAL, -2.0f);
    maker_piece(&m,
                llama2c ? " ab"
                        : "\xe2\x96\x81"
                          "ab",
                PICO_PIECE_NORMAL, -3.0f);
    maker_piece(&m, "bb", PICO_PIECE_NORMAL, -1.0f);
    maker_piece(&m, "\xf0\x9f\x98\x80", PICO_PIECE_NORMAL, -1.0f);
    maker_piece(&m, "b\xc3\xa9", PICO_PIECE_NORMAL, -2e10f);
    maker_piece(&m, "zb", PICO_PIECE_NORMAL, -1.0f);
    return m;
}

/* Scores decide, leftmost on ties; unknown characters and invalid bytes fall back to bytes; names
 * of control tokens in text are text; U+2581 and the space are one. */
static void spm_golden(void **state) {
    (void)state;
    for (uint32_t llama2c = 0; llama2c < 2; llama2c++) {
        maker m = little_spm(llama2c);
        pico_tokenizer *t = open_ok(&m.vocab);
        check_ids(t, "", 0, NO_IDS);
        check_ids(t, "", PICO_ENCODE_BOS | PICO_ENCODE_EOS, IDS(1, 2));
        check_ids(t, "abb", PICO_ENCODE_BOS, IDS(1, 265, 261));
        check_ids(t, "bbb", 0, IDS(259, 266, 261));
        check_ids(t, " a", 0, IDS(259, 264));
        check_ids(t, "\xc3\xa9z", 0, IDS(259, 262, 'z' + 3));
        check_ids(t, "\xe2\x82\xac", 0, IDS(259, 0xe2 + 3, 0x82 + 3, 0xac + 3));
        check_ids(t, "<s>", 0, IDS(259, '<' + 3, 's' + 3, '>' + 3));
        check_ids(t, "b\xff", 0, IDS(259, 261, 0xff + 3));
        check_ids(t, "\xf0\x9f\x98\x80", 0, IDS(259, 267));
        check_text(t, IDS(1, 264, 264, 262), "a a\xc3\xa9");
        check_text(t, IDS(264, 2, 264), "a a");
        check_text(t, IDS(1, ' ' + 3, 'x' + 3, 0xc3 + 3), " x\xc3");
        check_text(t, IDS(0), llama2c ? "<unk>" : "");
        if (llama2c) { /* continuation bytes stick to whatever is before them, as in llama2.c */
            check_ids(t, "a\x80", 0, IDS(259, 'a' + 3, 0x80 + 3));
            check_ids(t, "b\xc3\xa9", 0, IDS(259, 261, 262));
            check_ids(t, "zb", 0, IDS(259, 'z' + 3, 261));
        } else {
            check_ids(t, "a\x80", 0, IDS(264, 0x80 + 3));
            check_ids(t, "b\xc3\xa9", 0, IDS(259, 268));
            check_ids(t, "zb", 0, IDS(259, 269));
            check_ids(t,
                      "b\xe2\x96\x81"
                      "ab",
                      0, IDS(259, 261, 265));
        }
        assert_int_equal(pico_tokenizer_bos(t), 1);
        assert_int_equal(pico_tokenizer_eos(t), 2);
        assert_int_equal(pico_tokenizer_n_vocab(t), 270);
        assert_int_equal(pico_tokenizer_max_piece(t), llama2c ? 5 : 4);
        assert_true(pico_tokenizer_is_end(t, 1) && pico_tokenizer_is_end(t, 2));
        assert_false(pico_tokenizer_is_end(t, 0) || pico_tokenizer_is_end(t, 270));
        assert_false(pico_tokenizer_is_end(t, -1) || pico_tokenizer_is_control(t, 999));
        assert_true(pico_tokenizer_is_control(t, 1) && !pico_tokenizer_is_control(t, 260));
        pico_tokenizer_close(t);
        maker_end(&m);
    }
}

/* Without the space prefix nothing is added and nothing is stripped. */
static void spm_without_prefix(void **state) {
    (void)state;
    maker m = little_spm(0);
    m.vocab.add_space_prefix = 0;
    m.vocab.add_bos = 1;
    pico_tokenizer *t = open_ok(&m.vocab);
    check_ids(t, "ab ab", 0, IDS(263, 265));
    check_text(t, IDS(1, 264), " a");
    assert_true(pico_tokenizer_adds_bos(t));
    pico_tokenizer_close(t);
    maker_end(&m);
}

/* User-defined pieces are found before merging, the longest first; byte pieces may be missing:
 * then a character is one unknown token, and without one encoding fails with a message. */
static void spm_user_pieces_and_unknown(void **state) {
    (void)state;
    maker m = maker_begin(PICO_VOCAB_SPM);
    int32_t unk = maker_piece(&m, "<unk>", PICO_PIECE_UNKNOWN, 0.0f);
    int32_t space = maker_piece(&m, "\xe2\x96\x81", PICO_PIECE_NORMAL, -1.0f);
    int32_t a = maker_piece(&m, "a", PICO_PIECE_NORMAL, -1.0f);
    int32_t aa = maker_piece(&m, "aa", PICO_PIECE_NORMAL, -1.0f);
    int32_t mark = maker_piece(&m, "<a", PICO_PIECE_USER, 0.0f);
    int32_t marks = maker_piece(&m, "<aa>", PICO_PIECE_USER, 0.0f);
    int32_t spaces = maker_piece(&m, "\xe2\x96\x81\xe2\x96\x81", PICO_PIECE_USER, 0.0f);
    maker_piece(&m, "<0x7A>", PICO_PIECE_BYTE, 0.0f);
    pico_tokenizer *t = open_ok(&m.vocab);
    check_ids(t, "aa<aaa", 0, IDS(space, aa, mark, aa));
    check_ids(t, "<aa>a", 0, IDS(space, marks, a));
    check_ids(t, "a  a<a", 0, IDS(space, a, spaces, a, mark));
    check_ids(t, "\xe2\x82\xaczz", 0, IDS(space, unk, 7, 7));
    check_ids(t, "<`<", 0, IDS(space, unk, unk, unk));
    check_text(t, IDS(space, marks, spaces, a), "<aa>  a");
    pico_tokenizer_close(t);
    m.piece[unk].type = PICO_PIECE_UNUSED;
    t = open_ok(&m.vocab);
    pico_error err = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(pico_tokenizer_encode(t, "aq", 2, 0, &ids, &n, &err), PICO_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "0x71"));
    assert_null(ids);
    pico_tokenizer_close(t);
    maker_end(&m);
}

/* Byte b is id b; 256 he, 257 ll, 258 hell, 259 hello, 260 " w", 261 12, 262 123, 263 1234,
 * 264 "!\xe1", 265 <|endoftext|>, 266 <|im_end|>. */
static maker little_bpe(const char *pre) {
    static const char *const merges[] = {"h e", "l l",  "he ll", "hell o",    "\xc4\xa0 w",
                                         "1 2", "12 3", "123 4", "! \xc3\xa1"};
    maker m = maker_begin(PICO_VOCAB_BPE);
    m.vocab.pre = pre;
    maker_bytes(&m);
    for (size_t i = 0; i < sizeof merges / sizeof merges[0]; i++) {
        char joined[16], *out = joined;
        for (const char *s = merges[i]; *s != '\0'; s++) {
            if (*s != ' ') {
                *out++ = *s;
            }
        }
        maker_piece_n(&m, joined, (size_t)(out - joined), PICO_PIECE_NORMAL, 0.0f);
        maker_merge(&m, merges[i]);
    }
    m.vocab.eos = maker_piece(&m, "<|endoftext|>", PICO_PIECE_CONTROL, 0.0f);
    maker_piece(&m, "<|im_end|>", PICO_PIECE_CONTROL, 0.0f);
    return m;
}

static void bpe_golden(void **state) {
    (void)state;
    maker m = little_bpe("gpt-2");
    pico_tokenizer *t = open_ok(&m.vocab);
    check_ids(t, "hello world", 0, IDS(259, 260, 'o', 'r', 'l', 'd'));
    check_ids(t, "hello hello", 0, IDS(259, ' ', 259));
    check_ids(t, "hel\xffhello", PICO_ENCODE_BOS, IDS(256, 'l', 0xff, 259));
    check_ids(t, "<|im_end|>", 0, IDS('<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>'));
    check_text(t, IDS(259, 265, 260, 'o', 0xe2, 0x82, 999, 0xac), "hello wo\xe2\x82\xac");
    assert_true(pico_tokenizer_is_end(t, 265) && pico_tokenizer_is_end(t, 266));
    assert_true(pico_tokenizer_is_control(t, 266));
    assert_int_equal(pico_tokenizer_bos(t), -1);
    pico_tokenizer_close(t);
    maker_end(&m);
}

/* Each pattern groups digits in its own way; U+180E is no space, so it stays with the '!'; a name
 * that nobody knows is refused with the known ones. */
static void bpe_split_patterns(void **state) {
    (void)state;
    static const struct {
        const char *pre;
        int32_t ids[8];
    } digits[] = {
        {NULL, {263, '5', -1}},
        {"default", {263, '5', -1}},
        {"gpt-2", {263, '5', -1}},
        {"llama-bpe", {262, '4', '5', -1}},
        {"llama3", {262, '4', '5', -1}},
        {"qwen2", {'1', '2', '3', '4', '5', -1}},
        {"nanochat", {261, '3', '4', '5', -1}},
        {"regex:[34]+", {261, '3', '4', '5', -1}}, /* what it does not match stays together */
        {"regex:", {263, '5', -1}},                /* it matches nothing, everywhere */
        {"regex:(?=3)", {263, '5', -1}},
    };
    for (size_t i = 0; i < sizeof digits / sizeof digits[0]; i++) {
        maker m = little_bpe(digits[i].pre);
        pico_tokenizer *t = open_ok(&m.vocab);
        check_ids(t, "12345", 0, digits[i].ids);
        if (strncmp(digits[i].pre != NULL ? digits[i].pre : "", "regex", 5) != 0) {
            check_ids(t, "!\xe1\xa0\x8e", 0, IDS(264, 0xa0, 0x8e));
        }
        pico_tokenizer_close(t);
        maker_end(&m);
    }
    maker m = little_bpe("quux");
    pico_tokenizer *t = NULL;
    pico_error err = {0};
    assert_int_equal(pico_tokenizer_open(&m.vocab, &t, &err), PICO_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "quux"));
    assert_non_null(strstr(err.message, "llama-bpe"));
    assert_non_null(strstr(err.message, "nanochat"));
    m.vocab.pre = "regex:(";
    assert_int_equal(pico_tokenizer_open(&m.vocab, &t, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "parenthes"));
    /* Endless backtracking ends with an error, not with patience. */
    m.vocab.pre = "regex:(\\w+\\w*)+!";
    int32_t *ids = NULL;
    size_t n = 0;
    t = open_ok(&m.vocab);
    const char *text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa?!";
    assert_int_equal(pico_tokenizer_encode(t, text, strlen(text), 0, &ids, &n, &err), PICO_E_LIMIT);
    assert_null(ids);
    pico_tokenizer_close(t);
    maker_end(&m);
}

/* User-defined pieces of a byte-level vocabulary are plain text, found before splitting. */
static void bpe_user_pieces(void **state) {
    (void)state;
    maker m = little_bpe("gpt-2");
    int32_t user = maker_piece(&m, "lo <think>", PICO_PIECE_USER, 0.0f);
    pico_tokenizer *t = open_ok(&m.vocab);
    check_ids(t, "hello <think>hello", 0, IDS(256, 'l', user, 259));
    check_text(t, IDS(256, 'l', user, 259), "hello <think>hello");
    pico_tokenizer_close(t);
    maker_end(&m);
}

/* Without merges the result with the lowest id merges first, and with this pattern a piece that is
 * a token as a whole is not merged at all: "abc" here could not come from merging. */
static void bpe_by_rank(void **state) {
    (void)state;
    maker m = maker_begin(PICO_VOCAB_BPE);
    maker_bytes(&m);
    maker_piece(&m, "bc", PICO_PIECE_NORMAL, 0.0f);
    maker_piece(&m, "ab", PICO_PIECE_NORMAL, 0.0f);
    maker_piece(&m, "xyz", PICO_PIECE_NORMAL, 0.0f);
    m.vocab.pre = "nanochat";
    pico_tokenizer *t = open_ok(&m.vocab);
    check_ids(t, "abcab xyz", 0, IDS('a', 256, 257, ' ', 'x', 'y', 'z'));
    check_ids(t, "xyz", 0, IDS(258));
    pico_tokenizer_close(t);
    maker_end(&m);
}

static size_t random_unicode(uint64_t *seed, char *out, size_t n_characters) {
    static const uint32_t ranges[][2] = {{0x20, 0x7f},     {'a', 'f'},         {0, 0x20},
                                         {0x80, 0x250},    {0x400, 0x500},     {0x2000, 0x2070},
                                         {0x4e00, 0x9fff}, {0x1f300, 0x1f6ff}, {0xe000, 0x110000}};
    size_t n = 0;
    for (size_t i = 0; i < n_characters; i++) {
        const uint32_t *range = ranges[random_below(seed, sizeof ranges / sizeof ranges[0])];
        uint32_t code = range[0] + random_below(seed, range[1] - range[0]);
        n += pico_utf8_encode(code == 0x2581 ? ' ' : code, out + n);
    }
    return n;
}

/* Any Unicode text and any bytes at all come back as they were, from every kind of vocabulary. */
static void random_text_round_trips(void **state) {
    (void)state;
    static const char *const patterns[] = {"gpt-2", "llama3", "qwen2", "nanochat", "regex:\\w*"};
    uint64_t seed = 1;
    char text[800];
    for (size_t kind = 0; kind < 2 + sizeof patterns / sizeof patterns[0]; kind++) {
        maker m = kind < 2 ? little_spm((uint32_t)kind) : little_bpe(patterns[kind - 2]);
        pico_tokenizer *t = open_ok(&m.vocab);
        for (int round = 0; round < 300; round++) {
            size_t n = random_unicode(&seed, text, random_below(&seed, 100));
            check_round_trip(t, text, n);
            for (n = 0; n < 50; n++) { /* any bytes, many of them from few values */
                static const unsigned char some[] = "ab \n\xe2\x96\x82\xc3\xa9\xff\x80\xf0";
                text[n] = (char)(random_below(&seed, 2) ? some[random_below(&seed, sizeof some)]
                                                        : random_below(&seed, 256));
            }
            check_round_trip(t, text, n);
            for (n = 0; n < sizeof text; n++) { /* short pieces again and again, of NUL too */
                text[n] = "a \0\0.\n"[random_below(&seed, 6)];
            }
            check_round_trip(t, text, n);
        }
        pico_tokenizer_close(t);
        maker_end(&m);
    }
}

/* Random SentencePiece vocabularies over three letters, with ties, with and without pieces that
 * continue over a space: ids equal those of quadratic greedy merging. */
static void spm_equals_oracle(void **state) {
    (void)state;
    uint64_t seed = 7;
    for (int round = 0; round < 400; round++) {
        maker m = maker_spm();
        m.vocab.llama2c = round & 1;
        maker_piece(&m, m.vocab.llama2c ? " " : "\xe2\x96\x81", PICO_PIECE_NORMAL, -5.0f);
        for (int i = 0; i < 60; i++) {
            char piece[40] = "";
            uint32_t length = 1 + random_below(&seed, 5);
            for (uint32_t j = 0; j < length; j++) {
                const char *space = m.vocab.llama2c ? " " : "\xe2\x96\x81";
                uint32_t which = random_below(&seed, (round & 2) && j > 0 ? 3 : 4);
                strcat(piece, which < 3 ? &"a\0b\0c\0"[which * 2] : space);
            }
            oracle so_far = oracle_open(&m.vocab);
            if (oracle_find(&so_far, piece, strlen(piece)) < 0) {
                float score = 6.0f - (float)random_below(&seed, 12);
                maker_piece(&m, piece, PICO_PIECE_NORMAL, score);
            }
            oracle_close(&so_far);
        }
        pico_tokenizer *t = open_ok(&m.vocab);
        oracle o = oracle_open(&m.vocab);
        for (int k = 0; k < 20; k++) {
            char text[64];
            size_t n = random_below(&seed, 60);
            for (size_t i = 0; i < n; i++) {
                text[i] = "aaabbcc d"[random_below(&seed, 9)];
            }
            text[n] = '\0';
            int32_t *expected = NULL;
            size_t n_expected = oracle_spm(&o, text, n, &expected);
            expected = realloc(expected, (n_expected + 1) * sizeof *expected);
            expected[n_expected] = -1;
            check_ids(t, text, 0, expected);
            free(expected);
        }
        oracle_close(&o);
        pico_tokenizer_close(t);
        maker_end(&m);
    }
}

/* 40 pieces, each made of two others, and as many merges in random order if asked for. */
static maker random_bpe(uint64_t *seed, int with_merges) {
    static const unsigned char base[] = {'a', 'b', ' ', 0xc3, 0xa9};
    maker m = maker_begin(PICO_VOCAB_BPE);
    m.vocab.pre = "regex:[\\s\\S]+";
    maker_bytes(&m);
    for (int i = 0; i < 40; i++) {
        const pico_piece *side[2];
        for (int k = 0; k < 2; k++) {
            uint32_t pick = random_below(seed, m.vocab.n_piece - 256 + sizeof base);
            side[k] = &m.piece[pick < sizeof base ? base[pick] : pick - sizeof base + 256];
        }
        char joined[256], merge[256];
        if (side[0]->n + side[1]->n > 100) {
            continue;
        }
        (void)snprintf(joined, sizeof joined, "%s%s", side[0]->text, side[1]->text);
        (void)snprintf(merge, sizeof merge, "%s %s", side[0]->text, side[1]->text);
        oracle so_far = oracle_open(&m.vocab);
        if (oracle_find(&so_far, joined, strlen(joined)) < 0) {
            maker_piece(&m, joined, PICO_PIECE_NORMAL, 0.0f);
        }
        oracle_close(&so_far);
        if (with_merges) {
            maker_merge(&m, merge);
        }
    }
    for (uint32_t i = m.vocab.n_merge; i > 1; i--) {
        uint32_t j = random_below(seed, i);
        pico_piece swap = m.merge[i - 1];
        m.merge[i - 1] = m.merge[j];
        m.merge[j] = swap;
    }
    return m;
}

/* Random byte-level vocabularies, from merges in random order and by rank, on unsplit text. */
static void bpe_equals_oracle(void **state) {
    (void)state;
    uint64_t seed = 11;
    for (int round = 0; round < 300; round++) {
        maker m = random_bpe(&seed, round & 1);
        pico_tokenizer *t = open_ok(&m.vocab);
        oracle o = oracle_open(&m.vocab);
        for (int k = 0; k < 10; k++) {
            char text[200] = "", escaped[400];
            int32_t expected[400];
            for (uint32_t i = random_below(&seed, 60); i > 0; i--) {
                static const char *const units[] = {"a", "a", "b", " ", "\xc3\xa9", "z"};
                strcat(text, units[random_below(&seed, 6)]);
            }
            size_t n = to_alphabet(text, strlen(text), escaped);
            expected[oracle_merge(&o, escaped, n, expected)] = -1;
            check_ids(t, text, 0, expected);
        }
        oracle_close(&o);
        pico_tokenizer_close(t);
        maker_end(&m);
    }
}

#define SPACE "\xc4\xa0" /* the blank, as GPT-2 writes it */

/* "abc" is a token that merging never makes, since "bc" merges first: not the first time and not
 * when it is known. " abc" is one that merging makes from the space and "a" first. */
static void bpe_token_out_of_reach(void **state) {
    (void)state;
    static const char *const merges[] = {"b c", "a b", "ab c", SPACE " a", SPACE "a bc"};
    static const char *const pieces[] = {"bc", "ab", "abc", SPACE "a", SPACE "abc"};
    maker m = maker_begin(PICO_VOCAB_BPE);
    m.vocab.pre = "gpt-2";
    maker_bytes(&m);
    for (size_t i = 0; i < 5; i++) {
        maker_piece(&m, pieces[i], PICO_PIECE_NORMAL, 0.0f);
        maker_merge(&m, merges[i]);
    }
    pico_tokenizer *t = open_ok(&m.vocab);
    for (int i = 0; i < 3; i++) {
        check_ids(t, "abc", 0, IDS('a', 256));
        check_ids(t, "abc abc\nabc", 0, IDS('a', 256, 260, '\n', 'a', 256));
    }
    pico_tokenizer_close(t);
    maker_end(&m);
}

/* Ids of the piece s[0..n), as the pattern's tokenizer merges it; ends with -1. */
static size_t oracle_piece(const oracle *o, const char *s, int whole_first, int32_t *ids) {
    char escaped[128];
    size_t n = to_alphabet(s, strlen(s), escaped), n_ids = 1;
    ids[0] = oracle_find(o, escaped, n);
    if (ids[0] < 0 || !whole_first) {
        n_ids = oracle_merge(o, escaped, n, ids);
    }
    ids[n_ids] = -1;
    return n_ids;
}

/* Words that come again and again, in a text long enough to be remembered in: each has the ids that
 * it has alone. */
static void repeated_words_equal_oracle(void **state) {
    (void)state;
    enum { N_WORD = 40, N_TEXT = 400 };
    uint64_t seed = 19;
    for (int round = 0; round < 200; round++) {
        int whole_first = round & 2;
        maker m = random_bpe(&seed, round & 1);
        m.vocab.pre = whole_first ? "nanochat" : "gpt-2";
        pico_tokenizer *t = open_ok(&m.vocab);
        oracle o = oracle_open(&m.vocab);
        char word[N_WORD][64] = {{0}}, text[N_TEXT * 64] = "", *end = text;
        static int32_t ids[N_WORD][64], all[N_TEXT * 64];
        size_t n_ids[N_WORD], n = 0;
        for (int i = 0; i < N_WORD; i++) {
            word[i][0] = ' ';
            for (uint32_t left = 1 + random_below(&seed, i % 4 == 0 ? 24 : 4); left > 0; left--) {
                strcat(word[i], &"a\0\0b\0\0\xc3\xa9"[3 * random_below(&seed, 3)]);
            }
            n_ids[i] = oracle_piece(&o, word[i], whole_first, ids[i]);
            check_ids(t, word[i], 0, ids[i]);
            check_ids(t, word[i], 0, ids[i]);
        }
        for (int i = 0; i < N_TEXT; i++) {
            uint32_t pick = random_below(&seed, N_WORD);
            end = stpcpy(end, word[pick]);
            memcpy(all + n, ids[pick], n_ids[pick] * sizeof *all);
            n += n_ids[pick];
        }
        all[n] = -1;
        check_ids(t, text, 0, all);
        oracle_close(&o);
        pico_tokenizer_close(t);
        maker_end(&m);
    }
}

/* The same for SentencePiece, where words merge apart if no piece continues over a space. */
static void repeated_spm_words_equal_oracle(void **state) {
    (void)state;
    for (uint32_t llama2c = 0; llama2c < 2; llama2c++) {
        static const char *const words[] = {"ab", "bb", "abbab", "z", "\xc3\xa9", "\xc3\xa9z", ""};
        maker m = little_spm(llama2c);
        pico_tokenizer *t = open_ok(&m.vocab);
        oracle o = oracle_open(&m.vocab);
        uint64_t seed = 3;
        char text[4096] = "", *end = text;
        for (int i = 0; i < 400; i++) {
            end = stpcpy(stpcpy(end, words[random_below(&seed, 7)]), " ");
        }
        int32_t *expected = NULL;
        size_t n = oracle_spm(&o, text, (size_t)(end - text), &expected);
        expected = realloc(expected, (n + 1) * sizeof *expected);
        expected[n] = -1;
        check_ids(t, text, 0, expected);
        free(expected);
        oracle_close(&o);
        pico_tokenizer_close(t);
        maker_end(&m);
    }
}

/* The stream of random ids, among them control tokens, bytes and ids that do not exist, is the
 * one-shot text, and after no token does it end within a character. */
static void streaming_equals_decoding(void **state) {
    (void)state;
    uint64_t seed = 3;
    for (int round = 0; round < 600; round++) {
        maker m = round % 3 == 2 ? little_bpe("gpt-2") : little_spm((uint32_t)round % 3);
        pico_tokenizer *t = open_ok(&m.vocab);
        int32_t ids[60];
        char all[1024], *text = NULL;
        size_t ends[60], n = 0, size = 0, used = 0, capacity = pico_tokenizer_max_piece(t) + 8;
        const int32_t shift = round % 3 == 2 ? 0 : 3;
        while (n < 52) { /* whole characters cut into bytes, and anything */
            char character[4];
            static const uint32_t codes[] = {0xe9, 0x20ac, 0x1f600, 'x'};
            size_t length = pico_utf8_encode(codes[random_below(&seed, 4)], character);
            for (size_t i = 0; i < length; i++) {
                ids[n++] = (unsigned char)character[i] + shift;
            }
            if (random_below(&seed, 3) == 0) {
                ids[n++] = (int32_t)random_below(&seed, 280) - 3;
            }
        }
        pico_error err = {0};
        assert_int_equal(pico_tokenizer_decode(t, ids, n, &text, &size, &err), PICO_OK);
        pico_token_stream stream;
        pico_token_stream_begin(&stream, t, -1);
        for (size_t i = 0; i < n; i++) {
            used += pico_token_stream_next(&stream, ids[i], all + used, capacity);
            ends[i] = used;
        }
        used += pico_token_stream_end(&stream, all + used, 8);
        assert_int_equal(used, size);
        assert_memory_equal(all, text, size);
        char within[1024] = {0}; /* 1: not the first byte of a valid character */
        for (size_t at = 0, length; at < size; at += length) {
            uint32_t code;
            length = pico_utf8_decode(text + at, size - at, &code);
            length = length > 0 ? length : 1;
            memset(within + at + 1, 1, length - 1);
        }
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(within[ends[i]], 0);
        }
        assert_int_equal(pico_token_stream_end(&stream, all, 8), 0);
        free(text);
        pico_tokenizer_close(t);
        maker_end(&m);
    }
}

/* A piece is never written beyond the capacity, and its whole length is returned. */
static void piece_respects_capacity(void **state) {
    (void)state;
    maker m = little_bpe("gpt-2");
    pico_tokenizer *t = open_ok(&m.vocab);
    char out[8] = "-------";
    assert_int_equal(pico_tokenizer_piece(t, 0, 259, out, 2), 5);
    assert_string_equal(out, "he-----");
    assert_int_equal(pico_tokenizer_piece(t, 0, 259, NULL, 0), 5);
    assert_int_equal(pico_tokenizer_piece(t, 0, INT32_MIN, out, 8), 0);
    assert_int_equal(pico_tokenizer_max_piece(t), 5);
    pico_tokenizer_close(t);
    maker_end(&m);
}

/* A megabyte without a word boundary: quadratic merging would not come back. */
static void long_pieces_are_not_quadratic(void **state) {
    (void)state;
    const size_t n = 1 << 20;
    char *text = malloc(n);
    memset(text, 'a', n);
    maker spm = little_spm(0), bpe = maker_begin(PICO_VOCAB_BPE);
    maker_piece(&spm, "aa", PICO_PIECE_NORMAL, -1.5f);
    maker_piece(&spm, "aaaa", PICO_PIECE_NORMAL, -1.0f);
    maker_bytes(&bpe);
    maker_piece(&bpe, "aa", PICO_PIECE_NORMAL, 0.0f);
    maker_piece(&bpe, "aaaa", PICO_PIECE_NORMAL, 0.0f);
    maker_merge(&bpe, "a a");
    maker_merge(&bpe, "aa aa");
    pico_tokenizer *t = open_ok(&spm.vocab);
    check_round_trip(t, text, n);
    pico_tokenizer_close(t);
    t = open_ok(&bpe.vocab);
    check_round_trip(t, text, n);
    memset(text, ' ', n); /* spaces: a run that patterns backtrack over */
    check_round_trip(t, text, n);
    pico_tokenizer_close(t);
    maker_end(&spm);
    maker_end(&bpe);
    free(text);
}

static void refuses(const pico_vocab *vocab, pico_status expected, const char *word) {
    pico_tokenizer *t = NULL;
    pico_error err = {0};
    pico_status status = pico_tokenizer_open(vocab, &t, &err);
    if (status != expected || t != NULL || strstr(err.message, word) == NULL) {
        fail_msg("status %d, expected %d; \"%s\" should say \"%s\"", (int)status, (int)expected,
                 err.message, word);
    }
}

/* Vocabularies that cannot work are refused with a message that names what is wrong. */
static void hostile_vocabularies_are_refused(void **state) {
    (void)state;
    maker m = little_spm(0);
    pico_vocab v = m.vocab;
    v.kind = PICO_VOCAB_NONE;
    refuses(&v, PICO_E_UNSUPPORTED, "no tokenizer");
    v.kind = 77;
    refuses(&v, PICO_E_UNSUPPORTED, "77");
    v = m.vocab;
    v.n_piece = 0;
    refuses(&v, PICO_E_CORRUPT, "0 pieces");
    v.n_piece = UINT32_MAX;
    refuses(&v, PICO_E_CORRUPT, "4294967295");
    v = m.vocab;
    v.bos = (int32_t)v.n_piece;
    refuses(&v, PICO_E_CORRUPT, "BOS");
    v.bos = 1;
    v.eos = INT32_MIN;
    refuses(&v, PICO_E_CORRUPT, "EOS");
    v.eos = 2;
    v.unk = INT32_MAX;
    refuses(&v, PICO_E_CORRUPT, "unknown token");
    v.unk = 0;
    v.eot = 270;
    refuses(&v, PICO_E_CORRUPT, "end-of-turn");
    m.piece[261].score = NAN;
    refuses(&m.vocab, PICO_E_CORRUPT, "piece 261");
    m.piece[261].score = -INFINITY;
    m.piece[7].text = "<0xG0>";
    refuses(&m.vocab, PICO_E_CORRUPT, "<0xG0>");
    m.piece[7].type = 9;
    refuses(&m.vocab, PICO_E_CORRUPT, "type 9");
    maker_end(&m);
    static const char *const merges[] = {
        "h q", "hh e", "he", "", " ", "h ", " he", "h  e", "h e l", "\xff \xff", "< |endoftext|>"};
    for (size_t i = 0; i < sizeof merges / sizeof merges[0]; i++) {
        m = little_bpe("gpt-2");
        maker_merge(&m, merges[i]);
        refuses(&m.vocab, PICO_E_CORRUPT, "merge 9");
        m.vocab.merge = NULL;
        refuses(&m.vocab, PICO_E_CORRUPT, "merges");
        maker_end(&m);
    }
}

/* Odd vocabularies that do work: empty and duplicate pieces, missing bytes, texts outside the byte
 * alphabet, one merge twice. */
static void odd_vocabularies_work(void **state) {
    (void)state;
    maker m = little_bpe("gpt-2");
    int32_t empty = maker_piece(&m, "", PICO_PIECE_NORMAL, 0.0f);
    int32_t raw = maker_piece(&m, "\xe2\x82\xac!", PICO_PIECE_NORMAL, 0.0f);
    int32_t again = maker_piece(&m, "hello", PICO_PIECE_NORMAL, 0.0f);
    maker_piece(&m, "hello", PICO_PIECE_UNUSED, 0.0f);
    maker_merge(&m, "l l");
    m.piece['z'].type = PICO_PIECE_CONTROL;
    pico_tokenizer *t = open_ok(&m.vocab);
    check_ids(t, "hello", 0, IDS(again));
    check_text(t, IDS(raw, empty, 'a'), "\xe2\x82\xac!a");
    int32_t *ids = NULL;
    size_t n = 0;
    pico_error err = {0};
    assert_int_equal(pico_tokenizer_encode(t, "fez", 3, 0, &ids, &n, &err), PICO_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "0x7A"));
    pico_tokenizer_close(t);
    m.vocab.unk = 'z';
    t = open_ok(&m.vocab);
    check_ids(t, "fez", 0, IDS('f', 'e', 'z'));
    pico_tokenizer_close(t);
    maker_end(&m);
    m = maker_begin(PICO_VOCAB_SPM);
    maker_piece(&m, "", PICO_PIECE_NORMAL, INFINITY);
    m.vocab.eos = maker_piece(&m, "e", PICO_PIECE_NORMAL, -INFINITY);
    maker_piece(&m, "e", PICO_PIECE_NORMAL, 0.0f);
    m.vocab.add_space_prefix = 0;
    t = open_ok(&m.vocab);
    check_ids(t, "ee", PICO_ENCODE_BOS | PICO_ENCODE_EOS, IDS(2, 2, 1));
    pico_tokenizer_close(t);
    maker_end(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spm_golden),
        cmocka_unit_test(spm_without_prefix),
        cmocka_unit_test(spm_user_pieces_and_unknown),
        cmocka_unit_test(bpe_golden),
        cmocka_unit_test(bpe_split_patterns),
        cmocka_unit_test(bpe_user_pieces),
        cmocka_unit_test(bpe_by_rank),
        cmocka_unit_test(random_text_round_trips),
        cmocka_unit_test(spm_equals_oracle),
        cmocka_unit_test(bpe_equals_oracle),
        cmocka_unit_test(bpe_token_out_of_reach),
        cmocka_unit_test(repeated_words_equal_oracle),
        cmocka_unit_test(repeated_spm_words_equal_oracle),
        cmocka_unit_test(streaming_equals_decoding),
        cmocka_unit_test(piece_respects_capacity),
        cmocka_unit_test(long_pieces_are_not_quadratic),
        cmocka_unit_test(hostile_vocabularies_are_refused),
        cmocka_unit_test(odd_vocabularies_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
