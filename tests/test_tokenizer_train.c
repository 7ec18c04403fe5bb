/* layers: formats tokenizer */
/*
 * Training a vocabulary: the same merges as a slow reference that counts everything again for each
 * merge, on random texts with ties, runs and bytes that are no UTF-8; the order of texts
 * is of no consequence; the vocabulary encodes and decodes, before and after a file.
 */
#include "formats_support.h"

#include "tokenizer/train.h"
#include "tokenizer/train_internal.h"
#include "util/text.h"

enum { MAX_ID = 1024, MAX_TEXT = 1 << 15 };

static uint64_t next_random(uint64_t *state) { /* SplitMix64 */
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* ---- the slow reference ---- */

typedef struct reference {
    uint32_t symbol[MAX_TEXT]; /* of the whole text; MAX_ID stands between pieces */
    size_t n;
    bpe_merge merge[MAX_ID]; /* (n_token - 256) */
    uint32_t n_token;
} reference;

static void reference_piece(reference *r, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        r->symbol[r->n++] = (unsigned char)s[i];
    }
    r->symbol[r->n++] = MAX_ID;
    assert_true(r->n < MAX_TEXT);
}

/* The text in pieces; a byte that is no UTF-8 is one. */
static void reference_begin(reference *r, const char *pre, const char *text, size_t n) {
    pico_error err = {0};
    pico_splitter *splitter = NULL;
    uint32_t whole_first, code;
    assert_int_equal(pico_splitter_open(pre, &splitter, &whole_first, &err), PICO_OK);
    pico_split_state *split = pico_split_begin(splitter);
    for (size_t from = 0, to; from < n; from = to) {
        size_t length = 1;
        for (to = from; to < n && length > 0; to += length) {
            length = pico_utf8_decode(text + to, n - to, &code);
        }
        for (size_t at = from, end = 0; at < to; at = from + end) {
            assert_int_equal(pico_split_next(split, text + from, to - from, at - from, &end, &err),
                             PICO_OK);
            reference_piece(r, text + at, from + end - at);
        }
        if (to == from) {
            reference_piece(r, text + to++, 1);
        }
    }
    pico_split_end(split);
    pico_splitter_close(splitter);
    r->n_token = 256;
}

/* The most frequent pair; of equals the lowest left id, then the lowest right id. */
static int reference_best(const reference *r, uint32_t *left, uint32_t *right) {
    uint32_t *count = calloc((size_t)MAX_ID * MAX_ID, sizeof *count), best = 0;
    assert_non_null(count);
    for (size_t i = 0; i + 1 < r->n; i++) {
        if (r->symbol[i] != MAX_ID && r->symbol[i + 1] != MAX_ID) {
            count[(size_t)r->symbol[i] * MAX_ID + r->symbol[i + 1]]++;
        }
    }
    for (uint32_t a = 0; a < r->n_token; a++) {
        for (uint32_t b = 0; b < r->n_token; b++) {
            if (count[(size_t)a * MAX_ID + b] > best) {
                best = count[(size_t)a * MAX_ID + b];
                *left = a;
                *right = b;
            }
        }
    }
    free(count);
    return best > 0;
}

static void reference_merge(reference *r, uint32_t left, uint32_t right) {
    size_t to = 0;
    assert_true(r->n_token < MAX_ID);
    for (size_t i = 0; i < r->n; to++) {
        const int hit = i + 1 < r->n && r->symbol[i] == left && r->symbol[i + 1] == right;
        r->symbol[to] = hit ? r->n_token : r->symbol[i];
        i += hit ? 2 : 1;
    }
    r->n = to;
    r->merge[r->n_token++ - 256] = (bpe_merge){left, right};
}

static size_t reference_size(const reference *r) {
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        n += r->symbol[i] != MAX_ID;
    }
    return n;
}

/* ---- comparison ---- */

static pico_bpe *count_ok(const char *pre, const char *text, size_t n) {
    pico_error err = {0};
    pico_bpe *bpe = NULL;
    if (pico_bpe_open(pre, &bpe, &err) != PICO_OK ||
        pico_bpe_count(bpe, text, n, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    return bpe;
}

static void merge_ok(pico_bpe *bpe, uint32_t n_vocab) {
    pico_error err = {0};
    if (pico_bpe_merge(bpe, n_vocab, NULL, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
}

static void check(const char *pre, const char *text, size_t n, uint32_t n_vocab) {
    reference *r = calloc(1, sizeof *r);
    pico_bpe_stats stats;
    uint32_t left = 0, right = 0;
    assert_non_null(r);
    reference_begin(r, pre, text, n);
    while (r->n_token < n_vocab && reference_best(r, &left, &right)) {
        reference_merge(r, left, right);
    }
    pico_bpe *bpe = count_ok(pre, text, n);
    merge_ok(bpe, n_vocab);
    assert_int_equal(bpe->token.n, r->n_token);
    assert_int_equal(bpe->n_merge, r->n_token - 256);
    for (uint32_t i = 0; i < bpe->n_merge; i++) {
        if (memcmp(&bpe->merge[i], &r->merge[i], sizeof r->merge[i]) != 0) {
            fail_msg("merge %u: %u and %u, expected %u and %u", i, bpe->merge[i].left,
                     bpe->merge[i].right, r->merge[i].left, r->merge[i].right);
        }
    }
    pico_bpe_stats_of(bpe, &stats);
    assert_int_equal(stats.n_byte, n);
    assert_int_equal(stats.n_token, reference_size(r));
    pico_bpe_close(bpe);
    free(r);
}

/* Letters of a small alphabet, blanks, digits, and now and then any byte. */
static size_t random_text(uint64_t *random, uint32_t n_letter, uint32_t any_percent,
                          uint32_t blank_percent, char *out) {
    const size_t n = 200 + next_random(random) % 1500;
    for (size_t i = 0; i < n; i++) {
        const uint64_t x = next_random(random);
        const uint32_t roll = (uint32_t)(x >> 32) % 100;
        out[i] = roll < any_percent                       ? (char)(x & 0xff)
                 : roll < any_percent + blank_percent     ? ' '
                 : roll < any_percent + blank_percent + 3 ? (char)('0' + x % 3)
                                                          : (char)('a' + x % n_letter);
    }
    return n;
}

static void merges_are_those_of_the_reference(void **state) {
    (void)state;
    static const char *const patterns[] = {"nanochat", "gpt-2", "llama-bpe", "qwen2",
                                           "regex:[a-b]+|[^a-b]+"};
    char text[2048];
    uint64_t random = 1;
    for (uint32_t i = 0; i < 60; i++) {
        const size_t n = random_text(&random, 1 + i % 4, i % 3 == 0 ? 10 : 0, 1 + i % 16, text);
        check(patterns[i % 5], text, n, 256 + 20 + (uint32_t)(next_random(&random) % 100));
    }
}

static void runs_and_ties_are_as_written_down(void **state) {
    (void)state;
    /* "aaaa": aa once, then aaaa; the pair aa has three places that overlap. */
    pico_bpe *bpe = count_ok("nanochat", "aaaa", 4);
    merge_ok(bpe, 300);
    assert_int_equal(bpe->n_merge, 2);
    assert_memory_equal(&bpe->merge[0], (&(bpe_merge){'a', 'a'}), sizeof(bpe_merge));
    assert_memory_equal(&bpe->merge[1], (&(bpe_merge){256, 256}), sizeof(bpe_merge));
    pico_bpe_close(bpe);
    /* Each pair once: the lowest left byte first, then the lowest right byte. */
    bpe = count_ok("nanochat", "xb\nab\nac\n", 9);
    merge_ok(bpe, 258);
    assert_memory_equal(&bpe->merge[0], (&(bpe_merge){'a', 'b'}), sizeof(bpe_merge));
    assert_memory_equal(&bpe->merge[1], (&(bpe_merge){'a', 'c'}), sizeof(bpe_merge));
    pico_bpe_close(bpe);
}

/* Documents in another order, or as one: pieces do not reach over their ends. */
static void only_counts_decide(void **state) {
    (void)state;
    static const char *const text[] = {"the cat sat", "on the mat", "that the rat ate"};
    pico_error err = {0};
    pico_bpe *one = NULL, *two = NULL;
    assert_int_equal(pico_bpe_open("nanochat", &one, &err), PICO_OK);
    assert_int_equal(pico_bpe_open("nanochat", &two, &err), PICO_OK);
    for (int i = 0; i < 3; i++) {
        const char *other = text[(i + 1) % 3];
        assert_int_equal(pico_bpe_count(one, text[i], strlen(text[i]), &err), PICO_OK);
        assert_int_equal(pico_bpe_count(two, other, strlen(other), &err), PICO_OK);
    }
    merge_ok(one, 275);
    merge_ok(two, 275);
    assert_int_equal(one->n_merge, two->n_merge);
    assert_memory_equal(one->merge, two->merge, one->n_merge * sizeof *one->merge);
    pico_bpe_close(one);
    pico_bpe_close(two);
}

/* ---- the vocabulary ---- */

static const char *const special_text[] = {"<|bos|>", "<|end|>"};
static const pico_bpe_special special = {
    .text = special_text, .n = 2, .bos = 0, .eos = 1, .eot = -1};

static const char sample[] = "Once upon a time there was a fox. The fox had a lantern, and the "
                             "lantern shone. \"Where is the lantern?\" asked the fox in 1999, "
                             "na\xc3\xafvely; \xff it was there.\n\n  The end.";

static void check_round_trip(const pico_vocab *vocab, size_t n_trained) {
    pico_error err = {0};
    pico_tokenizer *tokenizer = NULL;
    int32_t *ids = NULL;
    size_t n = 0, size = 0;
    char *text = NULL;
    if (pico_tokenizer_open(vocab, &tokenizer, &err) != PICO_OK ||
        pico_tokenizer_encode(tokenizer, sample, sizeof sample - 1, 0, &ids, &n, &err) != PICO_OK ||
        pico_tokenizer_decode(tokenizer, ids, n, &text, &size, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(size, sizeof sample - 1);
    assert_memory_equal(text, sample, size);
    assert_int_equal(n, n_trained); /* encoding merges as training did */
    assert_true(n * 2 < sizeof sample);
    assert_true(pico_tokenizer_is_control(tokenizer, (int32_t)vocab->n_piece - 1));
    assert_int_equal(pico_tokenizer_bos(tokenizer), vocab->n_piece - 2);
    assert_int_equal(pico_tokenizer_eos(tokenizer), vocab->n_piece - 1);
    assert_true(pico_tokenizer_adds_bos(tokenizer));
    free(ids);
    free(text);
    pico_tokenizer_close(tokenizer);
}

static void the_vocabulary_works_and_survives_a_file(void **state) {
    (void)state;
    static const char *const patterns[] = {"nanochat", "gpt-2", "regex:\\S+|\\s+"};
    for (int i = 0; i < 3; i++) {
        pico_error err = {0};
        pico_bpe_stats stats;
        pico_model_file file = {.format = PICO_FORMAT_MEMORY}, *read = NULL;
        pico_bpe *bpe = count_ok(patterns[i], sample, sizeof sample - 1);
        merge_ok(bpe, 256 + 60);
        pico_bpe_stats_of(bpe, &stats);
        assert_int_equal(pico_bpe_vocab(bpe, &special, &file.arena, &file.vocab, &err), PICO_OK);
        assert_int_equal(file.vocab.n_piece, 256 + 60 + 2);
        check_round_trip(&file.vocab, stats.n_token);
        char *path = temporary_path();
        assert_int_equal(pico_gguf_write(&file, path, &err), PICO_OK);
        read = open_ok(path, NULL);
        assert_same_vocab(&file.vocab, &read->vocab);
        check_round_trip(&read->vocab, stats.n_token);
        pico_model_file_close(read);
        (void)unlink(path);
        free(path);
        pico_arena_free(&file.arena);
        pico_bpe_close(bpe);
    }
}

/* ---- what ends early ---- */

static int stop_at_once(void *arg) {
    ++*(int *)arg;
    return 1;
}

static void edges(void **state) {
    (void)state;
    static const char *const twice[] = {"<|a|>", "<|a|>"}, *const empty[] = {""};
    pico_error err = {0};
    pico_bpe_stats stats;
    pico_arena arena = {0};
    pico_vocab vocab;
    int n_asked = 0;
    pico_bpe *bpe = NULL;
    assert_int_equal(pico_bpe_open("no-such", &bpe, &err), PICO_E_UNSUPPORTED);
    assert_null(bpe);
    assert_non_null(strstr(err.message, "nanochat"));
    bpe = count_ok("nanochat", "", 0); /* no text at all */
    merge_ok(bpe, 1000);
    pico_bpe_stats_of(bpe, &stats);
    assert_int_equal(stats.n_vocab, 256);
    assert_int_equal(
        pico_bpe_vocab(bpe, &(pico_bpe_special){twice, 2, -1, -1, -1}, &arena, &vocab, &err),
        PICO_E_INVALID);
    assert_int_equal(
        pico_bpe_vocab(bpe, &(pico_bpe_special){empty, 1, -1, -1, -1}, &arena, &vocab, &err),
        PICO_E_INVALID);
    pico_arena_free(&arena);
    pico_bpe_close(bpe);
    bpe = count_ok("nanochat", "abab abc", 8); /* as far as it goes */
    merge_ok(bpe, 1000);
    pico_bpe_stats_of(bpe, &stats);
    assert_true(stats.n_vocab > 256 && stats.n_vocab < 270);
    assert_int_equal(stats.n_token, 2); /* one for each piece */
    pico_bpe_close(bpe);
    bpe = count_ok("nanochat", "abab", 4);
    const pico_bpe_hooks hooks = {.should_stop = stop_at_once, .arg = &n_asked};
    assert_int_equal(pico_bpe_merge(bpe, 300, &hooks, &err), PICO_E_CANCELLED);
    assert_int_equal(n_asked, 1);
    pico_bpe_close(bpe);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_are_those_of_the_reference),
        cmocka_unit_test(runs_and_ties_are_as_written_down),
        cmocka_unit_test(only_counts_decide),
        cmocka_unit_test(the_vocabulary_works_and_survives_a_file),
        cmocka_unit_test(edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
