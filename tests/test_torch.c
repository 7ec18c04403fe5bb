/* layers: formats */
/*
 * PyTorch archives: stored and deflated entries, views of storages, checksums, sizes; what is missing
 * or damaged is named. A small archive with any one byte flipped, and cut anywhere, is read or
 * refused, never more.
 */
#include "formats_support.h"

#include <stdio.h>

#include "formats/torch.h"
#include "torch_kit.h"

/* ---- archives by hand ---- */

enum { N_VALUE = 24 };

/* One tensor over a storage of the floats 0 .. 23. */
static unsigned char *one_tensor(const kit_tensor *t, int method, size_t *size) {
    float values[N_VALUE];
    kit_bytes b = {0};
    kit_archive a = kit_archive_begin();
    for (int i = 0; i < N_VALUE; i++) {
        values[i] = (float)i;
    }
    kit_begin(&b);
    kit_tensor_value(&b, t);
    kit_op(&b, '.');
    kit_archive_add(&a, "x/data.pkl", b.data, b.n, method);
    kit_archive_add(&a, "x/byteorder", "little", 6, ZIP_CM_STORE);
    kit_archive_add(&a, "x/data/0", values, sizeof values, method);
    free(b.data);
    return kit_archive_end(&a, size);
}

typedef struct reading {
    pico_torch torch;
    pico_torch_tensor tensor;
    pico_model_file *file;
    const void *data;
    pico_map map;
    pico_error err;
    pico_status status;
} reading;

/* Opens, describes the root and loads it. Takes the archive over. */
static reading read_archive(unsigned char *data, size_t size) {
    reading r = {.map = {.data = data, .size = size}};
    assert_int_equal(pico_model_file_new("x", &r.file, NULL), PICO_OK);
    r.status = pico_torch_open(&r.map, &r.torch, &r.err);
    if (r.status == PICO_OK) {
        r.status = pico_torch_describe("w", r.torch.root, &r.tensor, &r.err);
    }
    if (r.status == PICO_OK) {
        r.status = pico_torch_load(&r.torch, "w", &r.tensor, r.file, &r.data, &r.err);
    }
    assert_true(r.status == PICO_OK || r.err.message[0] != '\0');
    return r;
}

static void done(reading *r) {
    pico_torch_close(&r->torch);
    pico_model_file_close(r->file);
    free((void *)(uintptr_t)r->map.data);
}

static const kit_tensor plain = {.storage = "FloatStorage",
                                 .n_storage = N_VALUE,
                                 .offset = 2,
                                 .rank = 2,
                                 .shape = {3, 4},
                                 .stride = {4, 1}};

/* ---- views ---- */

static void contiguous_views_point_into_the_storage(void **state) {
    (void)state;
    static const int methods[] = {ZIP_CM_STORE, ZIP_CM_DEFLATE};
    for (size_t m = 0; m < 2; m++) {
        size_t size;
        unsigned char *data = one_tensor(&plain, methods[m], &size);
        reading r = read_archive(data, size);
        if (r.status != PICO_OK) {
            fail_msg("%s", r.err.message);
        }
        assert_int_equal(r.tensor.dtype, PICO_DTYPE_F32);
        assert_string_equal(r.tensor.type, "torch.FloatStorage");
        assert_int_equal(r.tensor.n, 12);
        const float *values = r.data;
        for (int i = 0; i < 12; i++) {
            assert_true(values[i] >= (float)(2 + i) && values[i] <= (float)(2 + i));
        }
        assert_int_equal((uintptr_t)(values - 2) % 64, 0);
        const void *again = NULL; /* a storage is read once */
        assert_int_equal(pico_torch_load(&r.torch, "w", &r.tensor, r.file, &again, NULL), PICO_OK);
        assert_ptr_equal(again, r.data);
        done(&r);
    }
}

/* A transposed matrix, every second column, a scalar, dimensions of one with any stride. */
static void other_views_are_copied(void **state) {
    (void)state;
    static const struct {
        kit_tensor t;
        uint32_t rank;
        int64_t n;
        float values[8];
    } cases[] = {
        {{.offset = 1, .rank = 2, .shape = {2, 4}, .stride = {1, 2}},
         2,
         8,
         {1, 3, 5, 7, 2, 4, 6, 8}},
        {{.offset = 3, .rank = 2, .shape = {3, 2}, .stride = {8, 2}}, 2, 6, {3, 5, 11, 13, 19, 21}},
        {{.offset = 5, .rank = 0}, 1, 1, {5}},
        {{.offset = 23, .rank = 1, .shape = {1}, .stride = {INT64_MAX}}, 1, 1, {23}},
        {{.rank = 4, .shape = {2, 1, 2, 2}, .stride = {1, -7, 12, 6}},
         4,
         8,
         {0, 6, 12, 18, 1, 7, 13, 19}},
        {{.rank = 2, .shape = {2, 3}, .stride = {1, 1}}, 2, 6, {0, 1, 2, 1, 2, 3}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kit_tensor t = cases[i].t;
        size_t size;
        t.storage = "FloatStorage";
        t.n_storage = N_VALUE;
        unsigned char *data = one_tensor(&t, ZIP_CM_STORE, &size);
        reading r = read_archive(data, size);
        if (r.status != PICO_OK) {
            fail_msg("case %zu: %s", i, r.err.message);
        }
        assert_int_equal(r.tensor.rank, cases[i].rank);
        assert_int_equal(r.tensor.n, cases[i].n);
        assert_memory_equal(r.data, cases[i].values, (size_t)cases[i].n * sizeof(float));
        done(&r);
    }
}

static void views_beyond_the_storage(void **state) {
    (void)state;
    static const struct {
        kit_tensor t;
        pico_status status;
        const char *said;
    } cases[] = {
        {{.n_storage = 24, .offset = 13, .rank = 2, .shape = {3, 4}, .stride = {4, 1}},
         PICO_E_CORRUPT,
         "tensor w: shape (3, 4) with strides (4, 1) at offset 13 does not fit into a storage of "
         "24 elements"},
        {{.n_storage = 24, .offset = -1, .rank = 1, .shape = {2}, .stride = {1}},
         PICO_E_CORRUPT,
         "offset -1"},
        {{.n_storage = 24, .rank = 1, .shape = {2}, .stride = {-1}}, PICO_E_CORRUPT, "fit"},
        {{.n_storage = 24, .rank = 2, .shape = {INT64_MAX, 3}, .stride = {0, 0}},
         PICO_E_CORRUPT,
         "has shape (9223372036854775807, 3)"},
        /* a few bytes as any number of elements */
        {{.n_storage = 24, .rank = 2, .shape = {1 << 20, 1 << 20}, .stride = {0, 0}},
         PICO_E_CORRUPT,
         "does not fit"},
        {{.n_storage = 24, .rank = 2, .shape = {2, 2}, .stride = {INT64_MAX, INT64_MAX}},
         PICO_E_CORRUPT,
         "does not fit"},
        {{.n_storage = 24, .rank = 1, .shape = {0}, .stride = {1}}, PICO_E_CORRUPT, "shape (0)"},
        {{.n_storage = 25, .rank = 1, .shape = {2}, .stride = {1}},
         PICO_E_CORRUPT,
         "entry x/data/0 has 96 bytes, expected 25 elements of 4 bytes"},
        {{.n_storage = INT64_MAX, .rank = 1, .shape = {2}, .stride = {1}},
         PICO_E_CORRUPT,
         "entry x/data/0 has 96 bytes"},
        {{.n_storage = 24, .key = 7, .rank = 1, .shape = {2}, .stride = {1}},
         PICO_E_CORRUPT,
         "tensor w: entry x/data/7 is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kit_tensor t = cases[i].t;
        size_t size;
        t.storage = "FloatStorage";
        unsigned char *data = one_tensor(&t, ZIP_CM_STORE, &size);
        reading r = read_archive(data, size);
        if (r.status != cases[i].status || strstr(r.err.message, cases[i].said) == NULL) {
            fail_msg("case %zu: expected \"%s\", got %d \"%s\"", i, cases[i].said, (int)r.status,
                     r.err.message);
        }
        done(&r);
    }
}

/* Views that share a storage may be copied a few times, but a small file cannot describe any number
 * of copies. */
static void copies_of_a_storage_have_a_limit(void **state) {
    (void)state;
    const kit_tensor turned = {.storage = "FloatStorage",
                               .n_storage = N_VALUE,
                               .rank = 2,
                               .shape = {4, 6},
                               .stride = {1, 4}};
    size_t size;
    unsigned char *data = one_tensor(&turned, ZIP_CM_STORE, &size);
    reading r = read_archive(data, size);
    assert_int_equal(r.status, PICO_OK);
    uint32_t n = 1;
    while (r.status == PICO_OK && n < 100) {
        r.status = pico_torch_load(&r.torch, "w", &r.tensor, r.file, &r.data, &r.err);
        n += r.status == PICO_OK;
    }
    assert_int_equal(r.status, PICO_E_LIMIT);
    assert_non_null(strstr(r.err.message, "tensor w: tensors that share storages"));
    assert_true(n >= 4 && n < 10);
    done(&r);
}

/* ---- archives ---- */

static void expect_refused(kit_archive *a, pico_status status, const char *said) {
    size_t size;
    unsigned char *data = kit_archive_end(a, &size);
    reading r = read_archive(data, size);
    if (r.status != status || strstr(r.err.message, said) == NULL) {
        fail_msg("expected %d \"%s\", got %d \"%s\"", (int)status, said, (int)r.status,
                 r.err.message);
    }
    done(&r);
}

static void archives_that_are_none_of_torch(void **state) {
    (void)state;
    static const char none[] = "\x80\x02N.";
    kit_archive a = kit_archive_begin();
    kit_archive_add(&a, "word/document.xml", "<x/>", 4, ZIP_CM_DEFLATE);
    expect_refused(&a, PICO_E_UNSUPPORTED, "1 entries without NAME/data.pkl");
    a = kit_archive_begin();
    kit_archive_add(&a, "a/data.pkl", none, 4, ZIP_CM_STORE);
    kit_archive_add(&a, "b/data.pkl", none, 4, ZIP_CM_STORE);
    expect_refused(&a, PICO_E_CORRUPT, "two entries end with /data.pkl");
    a = kit_archive_begin();
    kit_archive_add(&a, "a/data.pkl", none, 4, ZIP_CM_STORE);
    kit_archive_add(&a, "a/byteorder", "big", 3, ZIP_CM_STORE);
    expect_refused(&a, PICO_E_UNSUPPORTED, "entry a/byteorder: byte order \"big\"");
    a = kit_archive_begin();
    kit_archive_add(&a, "a/data.pkl", none, 4, ZIP_CM_STORE);
    expect_refused(&a, PICO_E_CORRUPT, "w: expected a tensor, found None");
    a = kit_archive_begin();
    kit_archive_add(&a, "a/data.pkl",
                    "\x80\x02"
                    "cos\nsystem\n.",
                    14, ZIP_CM_STORE);
    expect_refused(&a, PICO_E_UNSUPPORTED, "entry a/data.pkl: pickle, offset 2, GLOBAL");
    /* a pickle of 64 MB of zeros in 64 kB */
    size_t n = 64u << 20;
    void *zeros = calloc(n, 1);
    a = kit_archive_begin();
    kit_archive_add(&a, "a/data.pkl", zeros, n, ZIP_CM_DEFLATE);
    free(zeros);
    expect_refused(&a, PICO_E_LIMIT, "entry a/data.pkl has 67108864 bytes");
}

static size_t find(const unsigned char *data, size_t size, const void *what, size_t n) {
    const unsigned char *at = memmem(data, size, what, n);
    assert_non_null(at);
    return (size_t)(at - data);
}

/* A second entry of the directory that says it lies where the first one does: together they take more
 * than there is. */
static void entries_do_not_share_bytes(void **state) {
    (void)state;
    enum { N = 1000, SIZES = 16, OFFSET = 42, HEADER = 46 };
    static const kit_tensor t = {
        .storage = "FloatStorage", .n_storage = N, .rank = 1, .shape = {N}, .stride = {1}};
    static const float zeros[N];
    size_t size;
    kit_bytes b = {0};
    kit_archive a = kit_archive_begin();
    kit_begin(&b);
    kit_tensor_value(&b, &t);
    kit_op(&b, '.');
    kit_archive_add(&a, "x/data.pkl", b.data, b.n, ZIP_CM_STORE);
    kit_archive_add(&a, "x/data/0", zeros, sizeof zeros, ZIP_CM_STORE);
    kit_archive_add(&a, "x/data/1", "", 0, ZIP_CM_STORE);
    free(b.data);
    unsigned char *data = kit_archive_end(&a, &size), *directory = data;
    directory += find(data, size, "PK\1\2", 4);
    size_t left = size - (size_t)(directory - data);
    unsigned char *first = directory + find(directory, left, "x/data/0", 8) - HEADER;
    unsigned char *second = directory + find(directory, left, "x/data/1", 8) - HEADER;
    memcpy(second + SIZES, first + SIZES, 12); /* checksum and both sizes */
    memcpy(second + OFFSET, first + OFFSET, 4);
    reading r = read_archive(data, size);
    assert_int_equal(r.status, PICO_OK);
    r.tensor.key = "1";
    r.status = pico_torch_load(&r.torch, "v", &r.tensor, r.file, &r.data, &r.err);
    assert_int_equal(r.status, PICO_E_CORRUPT);
    assert_non_null(strstr(r.err.message, "tensor v: entry x/data/1: the entries take more"));
    done(&r);
}

/* A flipped bit in a storage is a checksum error with the entry's name. */
static void damage_is_named(void **state) {
    (void)state;
    const float value = 7.0f;
    size_t size;
    unsigned char *data = one_tensor(&plain, ZIP_CM_STORE, &size);
    data[find(data, size, &value, sizeof value)] ^= 1;
    reading r = read_archive(data, size);
    assert_int_equal(r.status, PICO_E_CORRUPT);
    assert_non_null(strstr(r.err.message, "tensor w: entry x/data/0: CRC error"));
    done(&r);
    data = one_tensor(&plain, ZIP_CM_STORE, &size);
    data[find(data, size, "_rebuild", 8)] ^= 1;
    r = read_archive(data, size);
    assert_int_equal(r.status, PICO_E_CORRUPT);
    assert_non_null(strstr(r.err.message, "entry x/data.pkl: CRC error"));
    done(&r);
}

/* Every cut, and every byte with each bit flipped: read or refused with a message. */
static void any_damage_is_survived(void **state) {
    (void)state;
    static const int methods[] = {ZIP_CM_STORE, ZIP_CM_DEFLATE};
    for (size_t m = 0; m < 2; m++) {
        size_t size;
        unsigned char *whole = one_tensor(&plain, methods[m], &size);
        for (size_t n = 0; n < size; n++) {
            unsigned char *cut = malloc(n + 1);
            memcpy(cut, whole, n);
            reading r = read_archive(cut, n);
            assert_int_not_equal(r.status, PICO_OK);
            done(&r);
        }
        for (size_t i = 0; i < size * 8; i++) {
            unsigned char *flipped = malloc(size);
            memcpy(flipped, whole, size);
            flipped[i / 8] = (unsigned char)(flipped[i / 8] ^ 1u << i % 8);
            reading r = read_archive(flipped, size);
            done(&r);
        }
        free(whole);
    }
}

/* ---- other tensors of nanochat ---- */

/* token_bytes.pt of the fixtures: 540 int32. */
static void reads_token_bytes(void **state) {
    (void)state;
    static const char path[] = PICO_SOURCE_DIR "/tests/golden/tokenizer_a/token_bytes.pt";
    char *bytes = NULL;
    uint64_t size = 0;
    assert_int_equal(pico_file_read(path, 1 << 20, &bytes, &size, NULL), PICO_OK);
    reading r = read_archive((unsigned char *)bytes, (size_t)size);
    assert_int_equal(r.status, PICO_OK);
    assert_int_equal(r.tensor.dtype, PICO_DTYPE_I32);
    assert_int_equal(r.tensor.n, 540);
    const int32_t *n = r.data;
    assert_int_equal(n[0], 1);
    assert_int_equal(n[539], 0);
    done(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contiguous_views_point_into_the_storage),
        cmocka_unit_test(other_views_are_copied),
        cmocka_unit_test(views_beyond_the_storage),
        cmocka_unit_test(copies_of_a_storage_have_a_limit),
        cmocka_unit_test(archives_that_are_none_of_torch),
        cmocka_unit_test(entries_do_not_share_bytes),
        cmocka_unit_test(damage_is_named),
        cmocka_unit_test(any_damage_is_survived),
        cmocka_unit_test(reads_token_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
