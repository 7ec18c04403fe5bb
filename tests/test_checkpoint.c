/* layers: cli */
/*
 * The file of a training state: what was written is read; every flipped bit, every length but the
 * whole one and every other version is refused, and then nothing is handed out.
 */
#include "cli_support.h"

#include "cli/train_files.h"

enum { STATE = 1003 };

typedef struct context {
    char *folder, path[96];
    unsigned char state[STATE];
    pico_checkpoint at;
    char *file; /* what was written */
    uint64_t n;
} context;

static int setup(void **state) {
    context *c = calloc(1, sizeof *c);
    assert_non_null(c);
    c->folder = cli_folder();
    (void)snprintf(c->path, sizeof c->path, "%s/last.state", c->folder);
    for (size_t i = 0; i < STATE; i++) {
        c->state[i] = (unsigned char)(i * i % 251);
    }
    c->at = (pico_checkpoint){
        .step = 12, .rows = 345, .seed = 42, .length = 64, .packing = 1, .best = 1.5};
    assert_int_equal(pico_checkpoint_write(c->folder, &c->at, c->state, STATE, NULL), PICO_OK);
    assert_int_equal(pico_file_read(c->path, 1 << 20, &c->file, &c->n, NULL), PICO_OK);
    *state = c;
    return 0;
}

static int teardown(void **state) {
    context *c = *state;
    cli_remove(c->folder);
    free(c->folder);
    free(c->file);
    free(c);
    return 0;
}

/* Reads what lies there, which must fail with that word in the message and nothing handed out. */
static void expect_refusal(const context *c, const char *says) {
    static const pico_checkpoint untouched = {.step = 99, .best = 7};
    pico_checkpoint at = untouched;
    pico_error err = {0};
    void *state = c->folder;
    uint64_t bytes = 77;
    assert_int_equal(pico_checkpoint_read(c->folder, &at, &state, &bytes, &err), PICO_E_CORRUPT);
    assert_null(state);
    assert_int_equal(bytes, 77);
    assert_memory_equal(&at, &untouched, sizeof at);
    assert_contains(err.message, c->path);
    assert_contains(err.message, says);
    assert_contains(err.message, "expected ");
    assert_contains(err.message, "/last.gguf, another --out, no --resume");
}

static void what_is_written_is_read(void **state) {
    context *c = *state;
    pico_checkpoint at = {0};
    void *read = NULL;
    uint64_t bytes = 0;
    assert_int_equal(pico_checkpoint_read(c->folder, &at, &read, &bytes, NULL), PICO_OK);
    assert_int_equal(bytes, STATE);
    assert_memory_equal(read, c->state, STATE);
    assert_memory_equal(&at, &c->at, sizeof at);
    free(read);
    (void)unlink(c->path);
    assert_int_equal(pico_checkpoint_read(c->folder, &at, &read, &bytes, NULL), PICO_E_NOT_FOUND);
}

static void every_flipped_bit_is_noticed(void **state) {
    context *c = *state;
    for (uint64_t bit = 0; bit < 8 * c->n; bit++) {
        c->file[bit / 8] ^= (char)(1 << bit % 8);
        cli_write(c->path, c->file, (size_t)c->n);
        expect_refusal(c, "");
        c->file[bit / 8] ^= (char)(1 << bit % 8);
    }
}

static void every_other_length_is_noticed(void **state) {
    context *c = *state;
    for (uint64_t n = 0; n < c->n; n++) {
        cli_write(c->path, c->file, (size_t)n);
        expect_refusal(c, n < c->n - STATE ? "cut off" : "damaged");
    }
    char *longer = calloc(1, (size_t)c->n + 1);
    assert_non_null(longer);
    memcpy(longer, c->file, (size_t)c->n);
    cli_write(c->path, longer, (size_t)c->n + 1);
    expect_refusal(c, "damaged");
    free(longer);
}

/* Bytes that change places have the same sum, but not the same checksum. */
static void words_that_change_places_are_noticed(void **state) {
    context *c = *state;
    char *at = c->file + c->n - STATE;
    char word[8];
    memcpy(word, at, 8);
    memmove(at, at + 8, 8);
    memcpy(at + 8, word, 8);
    cli_write(c->path, c->file, (size_t)c->n);
    expect_refusal(c, "checksum");
}

/* The first version was the same without the checksum. */
static void other_versions_are_named(void **state) {
    context *c = *state;
    const size_t header = (size_t)c->n - STATE, old = header - 8;
    char *file = malloc(old + STATE);
    assert_non_null(file);
    memcpy(file, c->file, old);
    memcpy(file + old, c->file + header, STATE);
    file[7] = '1';
    cli_write(c->path, file, old + STATE);
    expect_refusal(c, "is of version 1, expected 2, which has a checksum");
    c->file[7] = '3';
    cli_write(c->path, c->file, (size_t)c->n);
    expect_refusal(c, "is of version 3, expected 2.");
    free(file);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_is_written_is_read),       TEST(every_flipped_bit_is_noticed),
        TEST(every_other_length_is_noticed), TEST(words_that_change_places_are_noticed),
        TEST(other_versions_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
