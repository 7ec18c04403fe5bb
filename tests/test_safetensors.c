/* layers: formats */
/*
 * safetensors: what a file says is read as it is, wherever the data lie; what the format forbids is
 * refused with the tensor and the reason; no beginning of a file and no damaged header is accepted.
 */
#include "hf_kit.h"

typedef struct parsed {
    pico_arena arena;
    pico_safetensors list;
    pico_error err;
    pico_status status;
} parsed;

/* Reads an exact copy, so that sanitizers see every step beyond the end. */
static parsed parse(const unsigned char *bytes, size_t size, unsigned char **copy) {
    parsed p = {0};
    *copy = malloc(size == 0 ? 1 : size);
    assert_non_null(*copy);
    memcpy(*copy, bytes, size);
    pico_source source = {.path = "bytes", .map = {.data = *copy, .size = size}};
    p.status = pico_safetensors_read(&source, &p.arena, &p.list, &p.err);
    return p;
}

static void expect_refused(const unsigned char *bytes, size_t size, const char *message) {
    unsigned char *copy;
    parsed p = parse(bytes, size, &copy);
    if (p.status == PICO_OK || strstr(p.err.message, message) == NULL) {
        fail_msg("expected a message with \"%s\", found: %s", message,
                 p.status == PICO_OK ? "no error" : p.err.message);
    }
    pico_arena_free(&p.arena);
    free(copy);
}

static void expect_header_refused(const char *header, size_t n_data, const char *message) {
    unsigned char data[64] = {0};
    size_t size;
    unsigned char *file = kit_st_file(header, 0, data, n_data, &size);
    expect_refused(file, size, message);
    free(file);
}

static unsigned char *small_file(size_t skew, size_t *size) {
    static const float floats[6] = {1, -2, 3, 4, 5.5f, -6};
    static const uint16_t halves[2] = {0x3f80, 0xc000};
    static const int64_t wide[2] = {2, 3}, two[1] = {2}, empty[2] = {0, 7}, odd[4] = {1, 1, 1, 3};
    kit_st st = {0};
    kit_st_add(&st, "b.matrix", "F32", 2, wide, floats, sizeof floats);
    kit_st_add(&st, "none", "F32", 2, empty, "", 0);
    kit_st_add(&st, "mask", "BOOL", 4, odd, "\1\0\1", 3);
    kit_st_add(&st, "scalar", "I64", 0, odd, "\7\0\0\0\0\0\0\0", 8);
    kit_st_add(&st, "strange", "F4_X", 1, two, "x", 1);
    kit_st_add(&st, "a.vector", "BF16", 1, two, halves, sizeof halves);
    return kit_st_end(&st, skew, size);
}

static void reads_what_is_there(void **state) {
    (void)state;
    for (size_t skew = 0; skew < 4; skew++) {
        size_t size;
        unsigned char *copy, *file = small_file(skew, &size);
        parsed p = parse(file, size, &copy);
        assert_int_equal(p.status, PICO_OK);
        assert_int_equal(p.list.n, 6);
        const pico_st_tensor *matrix = NULL, *vector = NULL, *mask = NULL, *strange = NULL;
        for (uint32_t i = 0; i < p.list.n; i++) {
            const pico_st_tensor *t = &p.list.tensor[i];
            matrix = strcmp(t->name, "b.matrix") == 0 ? t : matrix;
            vector = strcmp(t->name, "a.vector") == 0 ? t : vector;
            mask = strcmp(t->name, "mask") == 0 ? t : mask;
            strange = strcmp(t->name, "strange") == 0 ? t : strange;
        }
        assert_true(matrix != NULL && vector != NULL && mask != NULL && strange != NULL);
        assert_int_equal(matrix->dtype, PICO_DTYPE_F32);
        assert_int_equal(matrix->rank, 2);
        assert_int_equal(matrix->shape[1], 3);
        float last;
        memcpy(&last, matrix->data + 20, sizeof last);
        assert_true(last <= -6 && last >= -6);
        assert_int_equal(vector->dtype, PICO_DTYPE_BF16);
        assert_int_equal(vector->bytes, 4);
        assert_int_equal(mask->dtype, PICO_DTYPE_NONE);
        assert_int_equal(mask->rank, 4);
        assert_string_equal(strange->type, "F4_X"); /* unknown types are for whoever ignores them */
        pico_arena_free(&p.arena);
        free(copy);
        free(file);
    }
}

static void detects_by_content(void **state) {
    (void)state;
    size_t size;
    unsigned char *file = small_file(0, &size);
    assert_true(pico_safetensors_detect(&(pico_map){.data = file, .size = size}));
    assert_true(pico_safetensors_detect(&(pico_map){.data = file, .size = 9}));
    assert_false(pico_safetensors_detect(&(pico_map){.data = file, .size = 8}));
    file[8] = '[';
    assert_false(pico_safetensors_detect(&(pico_map){.data = file, .size = size}));
    file[8] = '{';
    file[7] = 1;
    assert_false(pico_safetensors_detect(&(pico_map){.data = file, .size = size}));
    free(file);
}

#define T(name, rest) "\"" name "\":{" rest "}"
#define F32(shape, from, to)                                                                       \
    "\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" from "," to "]"

static void refuses_what_the_format_forbids(void **state) {
    (void)state;
    const struct {
        const char *header;
        size_t n_data;
        const char *message;
    } cases[] = {
        {"{" T("a", F32("[2]", "0", "8")) "," T("a", F32("[2]", "8", "16")) "}", 16, "duplicate"},
        {"{" T("a", F32("[2]", "0", "8")) "," T("b", F32("[2]", "4", "12")) "}", 12,
         "tensor b: its data begin at offset"},
        {"{" T("a", F32("[2]", "0", "8")) "," T("b", F32("[2]", "0", "8")) "}", 8,
         "inside the data"},
        {"{" T("a", F32("[2]", "0", "8")) "," T("b", F32("[1]", "12", "16")) "}", 16,
         "a gap after a"},
        {"{" T("a", F32("[2]", "0", "8")) "}", 9, "1 bytes are left over"},
        {"{}", 3, "3 bytes are left over"},
        {"{" T("a", F32("[2]", "0", "8")) "}", 7, "the file has 7 bytes of data: truncated?"},
        {"{" T("a", F32("[2]", "8", "0")) "}", 8, "from 8 to 0"},
        {"{" T("a", F32("[2]", "-8", "0")) "}", 8, "from -8 to 0"},
        {"{" T("a", F32("[3]", "0", "8")) "}", 8,
         "8 bytes of data, but 3 elements of type F32 take 12"},
        {"{" T("a", F32("[4294967296,4294967296]", "0", "8")) "}", 8, "more than 2^64 elements"},
        {"{" T("a", F32("[4611686018427387904]", "0", "0")) "}", 0, "0 bytes of data"},
        {"{" T("a", F32("[99999999999999999999]", "0", "8")) "}", 8,
         "is not a count, but a number"},
        {"{" T("a", F32("[-2]", "0", "8")) "}", 8, "dimension 0 of the shape is not a count"},
        {"{" T("a", F32("[2.0]", "0", "8")) "}", 8, "is not a count, but a number"},
        {"{" T("a", F32("[1,1,1,1,1,1,1,1,2]", "0", "8")) "}", 8, "9 dimensions, at most 8"},
        {"{" T("a", F32("2", "0", "8")) "}", 8, "key \"shape\" is an integer, expected an array"},
        {"{" T("a", F32("[2]", "0", "\"8\"")) "}", 8, "not a list of two integers"},
        {"{" T("a", F32("[2]", "0", "8,8")) "}", 8, "not a list of two integers"},
        {"{" T("a", "\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":null") "}", 8,
         "key \"data_offsets\" is missing"},
        {"{" T("a", "\"shape\":[2],\"data_offsets\":[0,8]") "}", 8, "key \"dtype\" is missing"},
        {"{" T("a", "\"dtype\":7,\"shape\":[2],\"data_offsets\":[0,8]") "}", 8,
         "key \"dtype\" is an integer"},
        {"{\"a\":[]}", 0, "tensor a: an array, expected an object"},
        {"{\"a\"}", 0, "JSON, line 1"},
        {"{\"\\u0000\":1}", 0, "JSON, line 1"},
        {"{\"\xff\":1}", 0, "JSON, line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_header_refused(cases[i].header, cases[i].n_data, cases[i].message);
    }
}

static void refuses_deep_json(void **state) {
    (void)state;
    enum { DEPTH = 100000 };
    char *header = malloc(DEPTH + 6);
    assert_non_null(header);
    memcpy(header, "{\"a\":", 5);
    memset(header + 5, '[', DEPTH);
    header[5 + DEPTH] = '\0';
    expect_header_refused(header, 0, "maximum parsing depth");
    free(header);
}

/* A header within its limit that would be gigabytes in memory; what strings hold does not count. */
static void refuses_headers_of_too_many_values(void **state) {
    (void)state;
    static const struct {
        const char *piece, *message;
        size_t n;
    } cases[] = {{"{},", "too many values", PICO_JSON_MAX_COST / 8},
                 {"0,", "too many values", PICO_JSON_MAX_COST},
                 {"{},", "JSON, line 1, column", 1000},
                 {"\"[{,\\\",[\",", "JSON, line 1, column", PICO_JSON_MAX_COST / 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t length = strlen(cases[i].piece);
        char *header = malloc(length * cases[i].n + 16);
        assert_non_null(header);
        memcpy(header, "{\"a\":[", 6);
        for (size_t j = 0; j < cases[i].n; j++) {
            memcpy(header + 6 + j * length, cases[i].piece, length);
        }
        memcpy(header + 6 + cases[i].n * length, "x", 2); /* no value: it is read up to here */
        expect_header_refused(header, 0, cases[i].message);
        free(header);
    }
}

static void refuses_every_beginning(void **state) {
    (void)state;
    size_t size;
    unsigned char *file = small_file(0, &size);
    for (size_t n = 0; n < size; n++) {
        expect_refused(file, n, "");
    }
    free(file);
}

/* One header byte changed: read or refused with a message, never beyond the file. */
static void survives_damage(void **state) {
    (void)state;
    size_t size;
    unsigned char *file = small_file(0, &size);
    for (size_t i = 0; i < size; i++) {
        for (int bit = 0; bit < 8; bit += 3) {
            unsigned char *copy;
            file[i] ^= (unsigned char)(1u << bit);
            parsed p = parse(file, size, &copy);
            file[i] ^= (unsigned char)(1u << bit);
            assert_true(p.status == PICO_OK || p.err.message[0] != '\0');
            for (uint32_t t = 0; p.status == PICO_OK && t < p.list.n; t++) {
                assert_true(p.list.tensor[t].data + p.list.tensor[t].bytes <= copy + size);
            }
            pico_arena_free(&p.arena);
            free(copy);
        }
    }
    free(file);
}

static void refuses_long_headers(void **state) {
    (void)state;
    static const uint64_t lengths[] = {0, 1, 100000001, UINT64_MAX, (uint64_t)INT64_MAX + 1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        unsigned char file[32] = "........{}";
        for (int b = 0; b < 8; b++) {
            file[b] = (unsigned char)(lengths[i] >> (8 * b));
        }
        expect_refused(file, sizeof file, "not safetensors");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_is_there),
        cmocka_unit_test(detects_by_content),
        cmocka_unit_test(refuses_what_the_format_forbids),
        cmocka_unit_test(refuses_deep_json),
        cmocka_unit_test(refuses_every_beginning),
        cmocka_unit_test(survives_damage),
        cmocka_unit_test(refuses_headers_of_too_many_values),
        cmocka_unit_test(refuses_long_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
