/* layers: formats */
/*
 * nanochat folders: which checkpoint of a folder is meant, where its metadata and its tokenizer are,
 * and what is said when one of them is missing or odd.
 */
#include "formats_support.h"

#include <sys/stat.h>
#include <unistd.h>

#include "formats/nanochat.h"

typedef struct folder {
    char path[64];
} folder;

static folder make_folder(void) {
    folder f = {"/tmp/picochat-test-XXXXXX"};
    assert_non_null(mkdtemp(f.path));
    return f;
}

static void in_folder(char out[256], const folder *f, const char *name) {
    (void)snprintf(out, 256, "%s/%s", f->path, name);
}

static void touch(const folder *f, const char *name) {
    char path[256];
    in_folder(path, f, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    (void)fclose(file);
}

static void remove_folder(const folder *f) {
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", f->path);
    assert_int_equal(system(command), 0);
}

static void expect_found(const folder *f, pico_status status, const char *end) {
    pico_arena arena = {0};
    pico_error err = {0};
    const char *found = NULL;
    assert_int_equal(pico_nanochat_find(f->path, &arena, &found, &err), status);
    const char *text = status == PICO_OK ? found : err.message;
    size_t n = strlen(text), n_end = strlen(end);
    if (n < n_end || strcmp(text + n - n_end, end) != 0) {
        fail_msg("expected \"%s\" at the end of \"%s\"", end, text);
    }
    pico_arena_free(&arena);
}

/* The largest step, by number; else the only .pt that is no optimiser's and no tokenizer's. */
static void finds_checkpoints(void **state) {
    (void)state;
    folder f = make_folder();
    expect_found(&f, PICO_E_NOT_FOUND, "no checkpoint (model_*.pt)");
    touch(&f, "optim_000100_rank0.pt");
    touch(&f, "meta_000100.json");
    touch(&f, "token_bytes.pt"); /* that of a tokenizer's folder */
    expect_found(&f, PICO_E_NOT_FOUND, "no checkpoint (model_*.pt)");
    touch(&f, "tiny_int8.pt");
    expect_found(&f, PICO_OK, "/tiny_int8.pt");
    touch(&f, "other.pt");
    expect_found(&f, PICO_E_INVALID, "2 .pt files and no model_*.pt: name the one to open");
    touch(&f, "model_000999.pt");
    touch(&f, "model_001000.pt");
    touch(&f, "model_last.pt");
    expect_found(&f, PICO_OK, "/model_001000.pt");
    touch(&f, "model_10000000.pt");
    expect_found(&f, PICO_OK, "/model_10000000.pt");
    remove_folder(&f);
}

static void link_fixture(const folder *f, const char *name, const char *fixture_name) {
    fixture_path from;
    char to[256];
    in_folder(to, f, name);
    assert_int_equal(symlink(find_fixture(&from, fixture_name), to), 0);
}

/* Where nanochat keeps things: BASE/base_checkpoints/TAG and BASE/tokenizer. */
static void finds_the_tokenizer(void **state) {
    (void)state;
    folder f = make_folder();
    char path[256];
    for (size_t i = 0; i < 3; i++) {
        static const char *const folders[] = {"base_checkpoints", "base_checkpoints/d4",
                                              "tokenizer"};
        in_folder(path, &f, folders[i]);
        assert_int_equal(mkdir(path, 0777), 0);
    }
    link_fixture(&f, "base_checkpoints/d4/model_003200.pt", "nanochat/g4/model_003200.pt");
    in_folder(path, &f, "base_checkpoints/d4");
    pico_error err = {0};
    pico_model_file *file = NULL;
    assert_int_equal(pico_model_file_open(path, NULL, &file, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "meta_003200.json beside it"));
    link_fixture(&f, "base_checkpoints/d4/meta_003200.json", "nanochat/g4/meta_003200.json");
    file = open_ok(path, NULL);
    assert_int_equal(file->vocab.kind, PICO_VOCAB_NONE);
    pico_model_file_close(file);
    link_fixture(&f, "tokenizer/tokenizer.pkl", "tokenizer_b/tokenizer.pkl");
    file = open_ok(path, NULL);
    assert_int_equal(file->vocab.n_piece, 512);
    pico_model_file_close(file);
    (void)strcat(path, "/model_003200.pt");
    file = open_ok(path, NULL);
    assert_int_equal(file->vocab.n_piece, 512);
    pico_model_file_close(file);
    /* one beside the model goes first, and must belong to it */
    link_fixture(&f, "base_checkpoints/d4/tokenizer.pkl", "tokenizer_a/tokenizer.pkl");
    assert_int_equal(pico_model_file_open(path, NULL, &file, &err), PICO_E_CORRUPT);
    assert_non_null(strstr(err.message, "do not belong together"));
    remove_folder(&f);
}

/* Metadata that are no file, or no metadata by their size, are refused by name. */
static void odd_metadata_are_refused(void **state) {
    (void)state;
    folder f = make_folder();
    char path[256];
    pico_error err = {0};
    pico_model_file *file = NULL;
    link_fixture(&f, "model_003200.pt", "nanochat/g4/model_003200.pt");
    in_folder(path, &f, "meta_003200.json");
    assert_int_equal(mkfifo(path, 0600), 0);
    (void)alarm(20); /* ends a test that waits for a writer */
    assert_int_equal(pico_model_file_open(f.path, NULL, &file, &err), PICO_E_IO);
    assert_non_null(strstr(err.message, "meta_003200.json: not a regular file"));
    (void)alarm(0);
    assert_int_equal(unlink(path), 0);
    touch(&f, "meta_003200.json");
    assert_int_equal(pico_model_file_open(f.path, NULL, &file, &err), PICO_E_CORRUPT);
    assert_non_null(strstr(err.message, "meta_003200.json: line 1, column 0: not JSON"));
    assert_int_equal(truncate(path, 2 << 20), 0);
    assert_int_equal(pico_model_file_open(f.path, NULL, &file, &err), PICO_E_LIMIT);
    assert_non_null(strstr(err.message, "meta_003200.json: 2097152 bytes"));
    remove_folder(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_checkpoints),
        cmocka_unit_test(finds_the_tokenizer),
        cmocka_unit_test(odd_metadata_are_refused),
    };
    return cmocka_run_group_tests_name("nanochat_find", tests, NULL, NULL);
}
