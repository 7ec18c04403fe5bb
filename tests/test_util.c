/* layers: util */
/* The util layer: arena, checked arithmetic, 16-bit floats, text, files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/arena.h"
#include "util/checked.h"
#include "util/file.h"
#include "util/half.h"
#include "util/text.h"

static void checked_refuses_overflow(void **state) {
    (void)state;
    uint64_t out = 7;
    assert_true(pico_checked_mul(1u << 31, 1u << 31, &out));
    assert_true(out == (uint64_t)1 << 62);
    assert_false(pico_checked_mul((uint64_t)1 << 33, (uint64_t)1 << 31, &out));
    assert_false(pico_checked_add(UINT64_MAX, 1, &out));
    assert_false(pico_checked_align(UINT64_MAX - 3, 64, &out));
    assert_true(out == (uint64_t)1 << 62);
}

static void arena_survives_large_and_overflowing_requests(void **state) {
    (void)state;
    pico_arena arena = {0};
    char *small = pico_arena_strdup(&arena, "hello");
    unsigned char *large = pico_arena_alloc(&arena, 1 << 20, 1);
    assert_string_equal(small, "hello");
    assert_non_null(large);
    assert_int_equal(large[(1 << 20) - 1], 0);
    assert_null(pico_arena_alloc(&arena, SIZE_MAX / 2, 4));
    assert_string_equal(pico_arena_printf(&arena, "%d-%s", 7, "x"), "7-x");
    pico_arena_free(&arena);
    assert_null(arena.head);
}

/* Every half survives the way to float and back, and narrowing rounds to nearest even. */
static void half_round_trips_and_rounds(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f16 = pico_f32_of_f16((uint16_t)h), bf16 = pico_f32_of_bf16((uint16_t)h);
        if (isnan(f16)) {
            assert_true(isnan(pico_f32_of_f16(pico_f16_of_f32(f16))));
        } else {
            assert_int_equal(pico_f16_of_f32(f16), h);
        }
        if (!isnan(bf16)) {
            assert_int_equal(pico_bf16_of_f32(bf16), h);
        }
    }
    assert_int_equal(pico_f16_of_f32(65520.0f), 0x7c00);
    assert_int_equal(pico_f16_of_f32(65519.0f), 0x7bff);
    assert_int_equal(pico_f16_of_f32(0x1p-25f), 0);   /* tie to even */
    assert_int_equal(pico_f16_of_f32(0x1.8p-24f), 2); /* tie to even */
    assert_int_equal(pico_f16_of_f32(1.0f + 0x1p-11f), 0x3c00);
    assert_int_equal(pico_bf16_of_f32(1.0f + 0x1p-8f), 0x3f80);
    assert_int_equal(pico_bf16_of_f32(1.0f + 0x1.8p-7f), 0x3f82);
}

static void nearest_finds_typos_only(void **state) {
    (void)state;
    const char *const words[] = {"temperature", "top_p", "top_k", "seed"};
    assert_string_equal(pico_text_nearest("temprature", words, 4), "temperature");
    assert_string_equal(pico_text_nearest("sede", words, 4), "seed");
    assert_null(pico_text_nearest("granularity", words, 4));
}

static void utf8_boundaries(void **state) {
    (void)state;
    assert_int_equal(pico_utf8_complete("ab", 2), 2);
    assert_int_equal(pico_utf8_complete("a\xe2\x82", 3), 1);
    assert_int_equal(pico_utf8_complete("a\xe2\x82\xac", 4), 4);
    assert_int_equal(pico_utf8_complete("\xf0\x9f\x98", 3), 0);
    assert_int_equal(pico_utf8_complete("\xff", 1), 1);
    assert_int_equal(pico_utf8_complete("\xe0\x80", 2), 2); /* can never become valid */
    uint32_t code = 0;
    assert_int_equal(pico_utf8_decode("\xed\xa0\x80", 3, &code), 0); /* a surrogate */
    assert_int_equal(pico_utf8_decode("\xf4\x90\x80\x80", 4, &code), 0);
    char out[4];
    for (uint32_t c = 0; c < 0x110000; c += 97) {
        if (c >= 0xd800 && c < 0xe000) {
            continue;
        }
        size_t n = pico_utf8_encode(c, out);
        assert_int_equal(pico_utf8_decode(out, n, &code), n);
        assert_int_equal(code, c);
    }
}

/* A writer that is closed without commit leaves the old content; commit replaces it. */
static void writer_is_all_or_nothing(void **state) {
    (void)state;
    char path[] = "/tmp/pico_test_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "old", 3), 3);
    close(fd);
    pico_writer writer;
    pico_error err;
    char *data = NULL;
    uint64_t size = 0;
    assert_int_equal(pico_writer_open(&writer, path, &err), PICO_OK);
    assert_int_equal(pico_writer_write(&writer, "newer", 5, &err), PICO_OK);
    pico_writer_close(&writer);
    assert_int_equal(pico_file_read(path, 100, &data, &size, &err), PICO_OK);
    assert_string_equal(data, "old");
    free(data);
    assert_int_equal(pico_writer_open(&writer, path, &err), PICO_OK);
    assert_int_equal(pico_writer_write(&writer, "newer", 5, &err), PICO_OK);
    assert_int_equal(pico_writer_commit(&writer, &err), PICO_OK);
    pico_writer_close(&writer);
    pico_map map;
    assert_int_equal(pico_map_open(path, &map, &err), PICO_OK);
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "newer", 5);
    pico_map_close(&map);
    assert_int_equal(pico_file_read(path, 4, &data, &size, &err), PICO_E_LIMIT);
    unlink(path);
    assert_int_equal(pico_map_open(path, &map, &err), PICO_E_NOT_FOUND);
    assert_int_equal(pico_writer_open(&writer, "/nonexistent/x", &err), PICO_E_NOT_FOUND);
}

/* What is no regular file is refused and stays what it is; a link stays a link. All in a folder of
 * its own: on real devices a failure of this test would do harm. */
static void writer_replaces_regular_files_only(void **state) {
    (void)state;
    char folder[] = "/tmp/pico_writer_XXXXXX", path[3][64];
    static const char *const names[] = {"pipe", "file", "link"};
    struct stat info;
    pico_error err = {0};
    pico_writer writer;
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < 3; i++) {
        (void)snprintf(path[i], sizeof path[i], "%s/%s", folder, names[i]);
    }
    assert_int_equal(mkfifo(path[0], 0600), 0);
    assert_int_equal(pico_writer_open(&writer, path[0], &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "not a regular file"));
    pico_writer_close(&writer);
    assert_true(stat(path[0], &info) == 0 && S_ISFIFO(info.st_mode));
    assert_int_equal(pico_writer_open(&writer, folder, &err), PICO_E_INVALID);
    pico_writer_close(&writer);
    assert_int_equal(symlink(path[0], path[2]), 0); /* a link to the pipe */
    assert_int_equal(pico_writer_open(&writer, path[2], &err), PICO_E_INVALID);
    pico_writer_close(&writer);
    assert_int_equal(unlink(path[2]), 0);

    FILE *file = fopen(path[1], "w");
    assert_non_null(file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(symlink(path[1], path[2]), 0);
    assert_int_equal(pico_writer_open(&writer, path[2], &err), PICO_OK);
    assert_int_equal(pico_writer_write(&writer, "newer", 5, &err), PICO_OK);
    assert_int_equal(pico_writer_commit(&writer, &err), PICO_OK);
    pico_writer_close(&writer);
    assert_true(lstat(path[2], &info) == 0 && S_ISLNK(info.st_mode));
    assert_true(stat(path[1], &info) == 0 && info.st_size == 5);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(unlink(path[i]), 0);
    }
    assert_int_equal(rmdir(folder), 0);
}

/* A pipe that nobody writes to is refused, not waited for. */
static void only_regular_files_are_mapped(void **state) {
    (void)state;
    char folder[] = "/tmp/pico_test_XXXXXX", path[64];
    pico_map map;
    pico_error err = {0};
    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/pipe", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    (void)alarm(20); /* ends a test that waits */
    assert_int_equal(pico_map_open(path, &map, &err), PICO_E_IO);
    assert_non_null(strstr(err.message, "not a regular file"));
    assert_int_equal(pico_map_open(folder, &map, &err), PICO_E_IO);
    (void)alarm(0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

/* Pages of files that this process has in memory. */
static long file_pages(void) {
    long total = 0, resident = 0, shared = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld %ld %ld", &total, &resident, &shared), 3);
    fclose(file);
    return shared;
}

/* What is released leaves the memory of the process and reads as before; other memory, and ranges
 * that are not wholly in the map, are left alone. */
static void released_pages_come_back(void **state) {
    (void)state;
    enum { BYTES = 4 << 20 };
    char path[] = "/tmp/pico_test_XXXXXX";
    unsigned char *data = malloc(BYTES);
    int fd = mkstemp(path);
    assert_non_null(data);
    assert_true(fd >= 0);
    for (size_t i = 0; i < BYTES; i++) {
        data[i] = (unsigned char)(i * 7 + i / 4096);
    }
    assert_int_equal(write(fd, data, BYTES), BYTES);
    close(fd);
    pico_map map;
    assert_int_equal(pico_map_open(path, &map, NULL), PICO_OK);
    assert_memory_equal(map.data, data, BYTES);
    const long all = file_pages(), pages = BYTES / sysconf(_SC_PAGESIZE);
    pico_map_release(&map, data, BYTES);         /* memory of another kind */
    pico_map_release(&map, map.data + 1, BYTES); /* ends behind the map */
    pico_map_release(&map, map.data + 1, 100);   /* no whole page */
    assert_true(file_pages() >= all - pages / 16);
    pico_map_release(&map, map.data + 1, BYTES - 1);
    assert_true(file_pages() <= all - pages * 3 / 4);
    assert_memory_equal(map.data, data, BYTES);
    pico_map not_of_a_file = {.data = data, .size = BYTES};
    unsigned char *copy = malloc(BYTES);
    assert_non_null(copy);
    memcpy(copy, data, BYTES);
    pico_map_release(&not_of_a_file, data, BYTES);
    assert_memory_equal(copy, data, BYTES);
    pico_map_close(&map);
    free(copy);
    free(data);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(released_pages_come_back),
        cmocka_unit_test(checked_refuses_overflow),
        cmocka_unit_test(arena_survives_large_and_overflowing_requests),
        cmocka_unit_test(half_round_trips_and_rounds),
        cmocka_unit_test(nearest_finds_typos_only),
        cmocka_unit_test(utf8_boundaries),
        cmocka_unit_test(writer_is_all_or_nothing),
        cmocka_unit_test(writer_replaces_regular_files_only),
        cmocka_unit_test(only_regular_files_are_mapped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
