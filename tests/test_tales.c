/* layers: tales */
/*
 * The stories that models are trained on: the same bytes for a seed on every platform, no document
 * twice, enough variety, and the program that writes them. What they say is in test_tales_facts.c.
 */
#include "tales_kit.h"

#include <sys/wait.h>

/* FNV-1a over the first 1000 documents of seeds 1 and 2. */
static const uint64_t known_hash[2] = {0x5df2ea0b860ea975u, 0x596a2cf6eb6e1e65u};

enum { N_SLOT = 1 << 20 };

static uint64_t hash_more(uint64_t hash, const char *s, size_t n) { /* FNV-1a */
    for (size_t i = 0; i < n; i++) {
        hash = (hash ^ (unsigned char)s[i]) * 0x100000001b3u;
    }
    return hash;
}

static uint64_t hash_of(const char *s, size_t n) {
    return hash_more(0xcbf29ce484222325u, s, n);
}

/* ---- a set of hashes ---- */

/* 1: it was not there yet. A hash of 64 bits stands for the text. */
static int add(uint64_t *set, uint64_t hash) {
    size_t at = hash % N_SLOT;
    hash |= hash == 0;
    while (set[at] != 0 && set[at] != hash) {
        at = (at + 1) % N_SLOT;
    }
    const int is_new = set[at] == 0;
    set[at] = hash;
    return is_new;
}

static uint64_t *new_set(void) {
    uint64_t *set = calloc(N_SLOT, sizeof *set);
    assert_non_null(set);
    return set;
}

/* ---- the bytes ---- */

static void a_seed_gives_the_same_bytes(void **state) {
    (void)state;
    char text[TALE_BYTES], again[TALE_BYTES];
    uint64_t hash[2] = {0xcbf29ce484222325u, 0xcbf29ce484222325u};
    for (uint64_t seed = 1; seed <= 2; seed++) {
        for (uint64_t i = 0; i < 1000; i++) {
            const size_t n = tale_write(seed, i, text);
            hash[seed - 1] = hash_more(hash[seed - 1], text, n);
        }
    }
    (void)tale_write(2, 1000000007, text); /* any document, without those before it */
    const size_t n = tale_write(1, 999, text);
    assert_int_equal(n, tale_write(1, 999, again));
    assert_memory_equal(text, again, n + 1);
    print_message("hashes of 1000 documents: 0x%016llx 0x%016llx\n", (unsigned long long)hash[0],
                  (unsigned long long)hash[1]);
    assert_true(hash[0] == known_hash[0]);
    assert_true(hash[1] == known_hash[1]);
}

/* Documents of one seed, and the first ones of the next seed against them. */
static void no_document_comes_twice(void **state) {
    (void)state;
    char text[TALE_BYTES];
    uint64_t *set = new_set();
    for (uint64_t i = 0; i < N_DOCUMENT + 2000; i++) {
        const uint64_t seed = i < N_DOCUMENT ? 1 : 2;
        const size_t n = tale_write(seed, i % N_DOCUMENT, text);
        if (!add(set, hash_of(text, n))) {
            fail_msg("document %llu is there twice: %s", (unsigned long long)i, text);
        }
    }
    free(set);
}

/* Length, alphabet, no rest of a template, articles. */
static void check_form(const char *text, size_t n) {
    uint32_t n_word = 0;
    assert_int_equal(strlen(text), n);
    assert_true(n > 0 && n < TALE_BYTES && text[n - 1] == '\n');
    for (size_t i = 0; i < n; i++) {
        assert_true((text[i] >= ' ' && text[i] <= '~') || text[i] == '\n');
        n_word += text[i] != ' ' && text[i] != '\n' && (text[i + 1] == ' ' || text[i + 1] == '\n');
        if (memchr("[]{}|^_", text[i], 7) != NULL || (text[i] == ' ' && text[i + 1] == ' ') ||
            (text[i] == ' ' && memchr(".,!?;:\n", text[i + 1], 7) != NULL) ||
            (text[i] == ' ' && text[i + 1] == 'a' && text[i + 2] == ' ' &&
             memchr("aeiu", text[i + 3], 4) != NULL && strncmp(text + i + 3, "uni", 3) != 0)) {
            fail_msg("at \"%.30s\": %s", text + i, text);
        }
    }
    if (n_word < 80 || n_word > 400) {
        fail_msg("%u words: %s", n_word, text);
    }
}

static void documents_have_variety(void **state) {
    (void)state;
    char text[TALE_BYTES], word[MAX_WORD];
    const char *schema[64];
    uint32_t n_schema = 0, n_word = 0, n_sentence = 0, n_sentence_type = 0;
    uint64_t *words = new_set(), *sentences = new_set();
    for (uint64_t i = 0; i < N_DOCUMENT; i++) {
        const char *name = tale_schema(3, i), *at = text;
        const size_t n = tale_write(3, i, text);
        check_form(text, n);
        if (!is_among(name, schema, n_schema)) {
            schema[n_schema++] = name;
        }
        while (next_word(&at, word, 1)) {
            n_word += (uint32_t)add(words, hash_of(word, strlen(word)));
        }
        for (const char *end = at = text; *end != '\0'; end++) {
            if (*end == '.' || *end == '!' || *end == '?' || *end == '\n') {
                n_sentence += end > at;
                n_sentence_type += end > at && n_sentence_type < N_SLOT / 2 &&
                                   add(sentences, hash_of(at, (size_t)(end - at)));
                at = end + 1;
            }
        }
    }
    print_message("%u schemata, %u words, %u sentences of %u kinds in %d documents\n", n_schema,
                  n_word, n_sentence, n_sentence_type, N_DOCUMENT);
    assert_int_equal(n_schema, 28);
    assert_true(n_word >= 1500);
    assert_true(n_sentence_type > n_sentence / 4);
    free(words);
    free(sentences);
}

/* ---- the program ---- */

/* Runs tales, returns its exit code; *bytes is what it wrote to standard output. */
static int run(const char *arguments, char **out, size_t *bytes) {
    char command[512];
    size_t capacity = 1 << 20;
    *bytes = 0;
    *out = calloc(1, capacity + 1);
    assert_non_null(*out);
    (void)snprintf(command, sizeof command, "%s/tales %s", PICO_BUILD_DIR, arguments);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    *bytes = fread(*out, 1, capacity, pipe);
    const int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void the_program_writes_whole_documents(void **state) {
    (void)state;
    static const char separator[] = "<|endoftext|>\n";
    char *out, *again, text[TALE_BYTES];
    size_t n, n_again, used = 0;
    assert_int_equal(run("--seed 9 --bytes 50000", &out, &n), 0);
    assert_true(n >= 50000);
    for (uint64_t i = 0; used < n; i++) {
        if (i > 0) {
            assert_true(used < 50000); /* without this one there was room left */
            assert_memory_equal(out + used, separator, sizeof separator - 1);
            used += sizeof separator - 1;
        }
        const size_t size = tale_write(9, i, text);
        assert_true(used + size <= n);
        assert_memory_equal(out + used, text, size);
        used += size;
    }
    assert_int_equal(run("--documents 3 --seed 9", &again, &n_again), 0);
    assert_memory_equal(out, again, n_again);
    free(out);
    free(again);
}

static void the_program_is_strict(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",
        "--seed 1",
        "--bytes",
        "--bytes x",
        "--bytes -1",
        "--bytes 1k",
        "--bytes 99999999999999999999999",
        "--bytes 10 --documents 1",
        "--bytes 10 --sed 1",
        "more",
    };
    char *out, arguments[128];
    size_t n;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        (void)snprintf(arguments, sizeof arguments, "%s 2>&1 >/dev/full", bad[i]);
        if (run(arguments, &out, &n) != 2) {
            fail_msg("accepted: %s", bad[i]);
        }
        assert_memory_equal(out, "tales: error: ", 14);
        assert_non_null(strstr(out, "usage: tales"));
        free(out);
    }
    assert_int_equal(run("--documents 100 2>&1 >/dev/full", &out, &n), 1);
    assert_non_null(strstr(out, "cannot be written"));
    free(out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_seed_gives_the_same_bytes),
        cmocka_unit_test(no_document_comes_twice),
        cmocka_unit_test(documents_have_variety),
        cmocka_unit_test(the_program_writes_whole_documents),
        cmocka_unit_test(the_program_is_strict),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
