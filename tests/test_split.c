/* layers: formats tokenizer */
/*
 * The matchers of the built-in split patterns: they cut by hand as the patterns say, cut anything as
 * PCRE2 cuts it, know every character as PCRE2 does, are linear, and may be shared by threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "split_reference.h"
#include "tokenizer_oracle.h"
#include "util/file.h"

#define TEXTS PICO_SHARED_DIR "/data/text/"

enum { LAST_CODE = 0x10ffff };

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static split_pair open_pair(const char *name) {
    split_pair pair;
    if (!split_pair_open(&pair, name)) {
        fail_msg("%s does not open", name);
    }
    return pair;
}

/* Pieces written out by hand, with | between them, so that a mistake in the regular expressions
 * shows too. */
static void pieces_by_hand(void **state) {
    (void)state;
    static const struct {
        const char *name, *pieces;
    } cases[] = {
        {"gpt-2", "I|'ll| don|'t| DON|'|T"},
        {"llama3", "I|'ll| don|'t| DON|'T"},
        {"nanochat", "I|'LL|'t| o|'clock|'d|'re|'Ve|'m"},
        {"nanochat", "it|'\xc5\xbf|a"}, /* U+017F is an s in another case */
        {"gpt-2", "it|'|\xc5\xbf"
                  "a"},
        {"gpt-2", " 12345| a|1|,|2"},
        {"llama3", " |123|45| a|1|,|2"},
        {"qwen2", " |1|2|3| a|1|,|2"},
        {"nanochat", " |12|3| a|1|,|2"},
        {"nanochat", "\xc2\xb2\xe2\x85\xa7|\xd9\xa3"}, /* superscript, Roman, Arabic-Indic */
        {"gpt-2", "a|  | b|\n\n| c|\n |\t|d"},
        {"nanochat", "a|  | b|\n\n| c|\n|\td| \n \r\n|  | e"},
        {"gpt-2", "(|a|)!!|\n|\n|x"},
        {"llama3", "(a|)!!\n\n|x| ...\r\n\n"},
        {"nanochat", "x|\xc2\xa0\xc2\xa0|\xc2\xa0y|\xe2\x80\xa8\n|\xe3\x80\x80"},
        {"gpt-2", "x|\xc2\xa0\xc2\xa0|\xc2\xa0|y|\xe1\xa0\x8e|\xc2\x85"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        split_pair pair = open_pair(cases[i].name);
        pico_error err;
        char text[128], joined[128];
        size_t n = 0, n_joined = 0;
        for (const char *s = cases[i].pieces; *s != '\0'; s++) {
            if (*s != '|') {
                text[n++] = *s;
            }
        }
        for (size_t at = 0, end; at < n; at = end) {
            assert_int_equal(pico_split_next(pair.own_state, text, n, at, &end, &err), PICO_OK);
            if (at > 0) {
                joined[n_joined++] = '|';
            }
            memcpy(joined + n_joined, text + at, end - at);
            n_joined += end - at;
        }
        joined[n_joined] = '\0';
        assert_string_equal(joined, cases[i].pieces);
        split_pair_close(&pair);
    }
}

/* Short strings of the characters that the patterns treat apart, and of their neighbours. */
static void random_strings(void **state) {
    (void)state;
    static const uint32_t codes[] = {
        '\'',   '\'',   '\'',   's',     'S',     't',     'm',     'd',      'r',     'e',
        'v',    'l',    'L',    'E',     'z',     '@',     '[',     '`',      '{',     '0',
        '9',    '7',    ' ',    ' ',     ' ',     '\r',    '\n',    '\n',     '\t',    '\v',
        '.',    '!',    0,      0x1c,    0x7f,    0x80,    0x85,    0xa0,     0xaa,    0xad,
        0xb2,   0xbc,   0xdf,   0x17f,   0x1c5,   0x301,   0x378,   0x430,    0x663,   0x180e,
        0x1680, 0x2009, 0x200b, 0x2028,  0x2029,  0x202f,  0x212a,  0x2167,   0x3000,  0x3007,
        0x4e2d, 0xe000, 0xfffe, 0x10400, 0x1d7d8, 0x1f600, 0xf0000, 0x10ffff, 0x20000, 0x323af};
    enum { ROUNDS = 200000, LENGTH = 14, N_CODES = sizeof codes / sizeof codes[0] };
    uint64_t seed = 7;
    split_pair pair[N_SPLIT_NAMES];
    for (size_t p = 0; p < N_SPLIT_NAMES; p++) {
        pair[p] = open_pair(split_names[p]);
    }
    for (int round = 0; round < ROUNDS; round++) {
        char text[4 * LENGTH];
        size_t n = 0;
        /* Few characters at a time make long runs likely. */
        uint32_t n_codes = round % 2 == 0 ? N_CODES : 4, first = random_below(&seed, N_CODES);
        for (uint32_t left = 1 + random_below(&seed, LENGTH); left > 0; left--) {
            uint32_t any = random_below(&seed, n_codes) * (n_codes < N_CODES ? 13 : 1);
            n += pico_utf8_encode(codes[(first + any) % N_CODES], text + n);
        }
        for (size_t p = 0; p < N_SPLIT_NAMES; p++) {
            assert_true(split_pair_compare(&pair[p], text, n) > 0);
        }
    }
    for (size_t p = 0; p < N_SPLIT_NAMES; p++) {
        split_pair_close(&pair[p]);
    }
}

/* Every code point between characters of every class, and after an apostrophe. */
static char *every_code(size_t *n) {
    char *text = malloc(((size_t)LAST_CODE + 1) * 40);
    *n = 0;
    assert_non_null(text);
    for (uint32_t code = 0; code <= LAST_CODE; code++) {
        if (code >= 0xd800 && code <= 0xdfff) {
            continue;
        }
        static const char *const before[] = {"a", "1", ".", "\n", " '", "'l", "'r"};
        for (size_t i = 0; i < sizeof before / sizeof before[0]; i++) {
            size_t length = strlen(before[i]);
            memcpy(text + *n, before[i], length);
            *n += length;
            *n += pico_utf8_encode(code, text + *n);
        }
    }
    return text;
}

static void every_code_point(void **state) {
    (void)state;
    size_t n;
    char *text = every_code(&n);
    for (size_t p = 0; p < N_SPLIT_NAMES; p++) {
        split_pair pair = open_pair(split_names[p]);
        assert_true(split_pair_compare(&pair, text, n) > LAST_CODE);
        split_pair_close(&pair);
    }
    free(text);
}

static void real_texts(void **state) {
    (void)state;
    static const char *const paths[] = {TEXTS "tinyshakespeare.txt",
                                        TEXTS "tinystories.txt",
                                        TEXTS "wikitext2-test.txt",
                                        TEXTS "wikitext2-valid.txt",
                                        TEXTS "gpt2-samples/unconditional.txt",
                                        PICO_SOURCE_DIR "/tests/test_split.c"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        pico_error err;
        char *text;
        uint64_t n;
        if (access(paths[i], R_OK) != 0) {
            print_message("skipped: %s is not there\n", paths[i]);
            continue;
        }
        assert_int_equal(pico_file_read(paths[i], 1u << 26, &text, &n, &err), PICO_OK);
        for (size_t p = 0; p < N_SPLIT_NAMES; p++) {
            split_pair pair = open_pair(split_names[p]);
            assert_true(split_pair_compare(&pair, text, (size_t)n) > 0);
            split_pair_close(&pair);
        }
        free(text);
    }
}

/* Ten million characters in one run, before and after characters that end it. The bound is loose;
 * reading a run again for each of its characters would take hours. */
static void long_runs_are_linear(void **state) {
    (void)state;
    static const char *const units[] = {" ", "\n", " \n", "\xe3\x80\x80", "a", "\xd0\xb4", "7",
                                        "'", "'s", ".",   ".\n",          " ."};
    static const char *const ends[] = {"", "a", "\n", " b", "'"};
    const size_t size = 10u << 20;
    char *text = malloc(size + 16);
    double start = seconds();
    assert_non_null(text);
    for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
        size_t n_unit = strlen(units[u]), n = 0;
        while (n + n_unit <= size) {
            memcpy(text + n, units[u], n_unit);
            n += n_unit;
        }
        for (size_t p = 0; p < N_SPLIT_NAMES; p++) {
            split_pair pair = open_pair(split_names[p]);
            const char *after = ends[(u + p) % (sizeof ends / sizeof ends[0])];
            pico_error err;
            memcpy(text + n, after, strlen(after));
            for (size_t at = 0, end, whole = n + strlen(after); at < whole; at = end) {
                assert_int_equal(pico_split_next(pair.own_state, text, whole, at, &end, &err),
                                 PICO_OK);
                assert_true(end > at && end <= whole);
            }
            split_pair_close(&pair);
        }
    }
    print_message("%.2f s\n", seconds() - start);
    assert_true(seconds() - start < 60.0);
    free(text);
}

typedef struct shared_text {
    const pico_splitter *splitter;
    const char *text;
    size_t n, n_piece;
} shared_text;

static void *split_all(void *arg) {
    shared_text *shared = arg;
    pico_error err;
    pico_split_state *split = pico_split_begin(shared->splitter);
    for (size_t at = 0, end; split != NULL && at < shared->n; at = end, shared->n_piece++) {
        if (pico_split_next(split, shared->text, shared->n, at, &end, &err) != PICO_OK) {
            break;
        }
    }
    pico_split_end(split);
    return NULL;
}

/* Threads that meet all characters for the first time at once cut alike. */
static void threads_share_a_splitter(void **state) {
    (void)state;
    enum { N_THREADS = 4 };
    pthread_t thread[N_THREADS];
    shared_text shared[N_THREADS];
    split_pair pair = open_pair("nanochat");
    size_t n;
    char *text = every_code(&n);
    for (size_t i = 0; i < N_THREADS; i++) {
        shared[i] = (shared_text){pair.own, text, n, 0};
        assert_int_equal(pthread_create(&thread[i], NULL, split_all, &shared[i]), 0);
    }
    for (size_t i = 0; i < N_THREADS; i++) {
        assert_int_equal(pthread_join(thread[i], NULL), 0);
    }
    size_t expected = split_pair_compare(&pair, text, n);
    for (size_t i = 0; i < N_THREADS; i++) {
        assert_int_equal(shared[i].n_piece, expected);
    }
    split_pair_close(&pair);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_by_hand),       cmocka_unit_test(random_strings),
        cmocka_unit_test(every_code_point),     cmocka_unit_test(real_texts),
        cmocka_unit_test(long_runs_are_linear), cmocka_unit_test(threads_share_a_splitter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
