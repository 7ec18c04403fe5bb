/* layers: formats */
/*
 * Pickles as data: every opcode of the list gives the value that Python gives; what is not on the
 * lists is refused by name and offset; no stream, however made, crashes, recurses or grows.
 */
#include "formats_support.h"

#include <stdio.h>

#include "formats/pickle.h"
#include "torch_kit.h"

/* From an exactly sized heap block, which stays as long as the arena: text points into it. */
typedef struct reading {
    pico_arena arena;
    unsigned char *copy;
    const pico_pickle_value *value;
    pico_error err;
    pico_status status;
} reading;

static reading read_bytes(const void *data, size_t n) {
    reading r = {.copy = malloc(n == 0 ? 1 : n)};
    assert_non_null(r.copy);
    memcpy(r.copy, data, n);
    const pico_map map = {.data = r.copy, .size = n};
    r.status = pico_pickle_read(&map, &r.arena, &r.value, &r.err);
    assert_true((r.status == PICO_OK) == (r.value != NULL));
    assert_true(r.status == PICO_OK || r.err.message[0] != '\0');
    return r;
}

static void done(reading *r) {
    pico_arena_free(&r->arena);
    free(r->copy);
}

#define READ(literal) read_bytes(literal, sizeof literal - 1)

static void expect_refused(const void *data, size_t n, pico_status status, const char *said) {
    reading r = read_bytes(data, n);
    if (r.status != status || strstr(r.err.message, said) == NULL) {
        fail_msg("expected %d \"%s\", got %d \"%s\"", (int)status, said, (int)r.status,
                 r.err.message);
    }
    done(&r);
}

#define REFUSED(literal, status, said) expect_refused(literal, sizeof literal - 1, status, said)

/* ---- what is read ---- */

static void numbers(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        int64_t value;
    } cases[] = {
        {"\x80\x02K\xff.", 5, 255},
        {"\x80\x02M\xff\xff.", 6, 65535},
        {"\x80\x02J\xff\xff\xff\xff.", 8, -1},
        {"\x80\x02J\x00\x00\x00\x80.", 8, INT32_MIN},
        {"\x80\x02\x8a\x00.", 5, 0},
        {"\x80\x02\x8a\x01\xff.", 6, -1},
        {"\x80\x02\x8a\x05\x00\x00\x00\x00\x01.", 10, (int64_t)1 << 32},
        {"\x80\x02\x8a\x05\x00\x00\x00\x00\xff.", 10, -((int64_t)1 << 32)},
        {"\x80\x02\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80.", 13, INT64_MIN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        reading r = read_bytes(cases[i].bytes, cases[i].n);
        assert_int_equal(r.status, PICO_OK);
        assert_int_equal(r.value->kind, PICO_PICKLE_INT);
        assert_true(r.value->integer == cases[i].value);
        done(&r);
    }
    reading r = READ("\x80\x02G\x3f\xf8\x00\x00\x00\x00\x00\x00.");
    assert_int_equal(r.value->kind, PICO_PICKLE_REAL);
    assert_true(r.value->real >= 1.5 && r.value->real <= 1.5);
    done(&r);
    REFUSED("\x80\x02\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01.", PICO_E_LIMIT,
            "offset 2, LONG1: an integer of 9 bytes");
}

/* {"a": [None, True], "b": (b"\xff", "é", ()), "a": {}}, with memo, frames and all string sizes. */
static void containers(void **state) {
    (void)state;
    static const char bytes[] = "\x80\x05\x95\x20\x00\x00\x00\x00\x00\x00\x00"
                                "}\x94(\x8c\x01"
                                "a\x94]\x94(N\x88"
                                "eX\x01\x00\x00\x00"
                                "bC\x01\xff\x8d\x02\x00\x00\x00\x00\x00\x00\x00\xc3\xa9)\x87"
                                "uh\x01}s.";
    reading r = READ(bytes);
    assert_int_equal(r.status, PICO_OK);
    assert_int_equal(r.value->kind, PICO_PICKLE_DICT);
    assert_int_equal(r.value->n, 6);
    const pico_pickle_value *list = r.value->item[1], *tuple = pico_pickle_get(r.value, "b");
    assert_int_equal(list->kind, PICO_PICKLE_LIST);
    assert_int_equal(list->n, 2);
    assert_int_equal(list->item[0]->kind, PICO_PICKLE_NONE);
    assert_int_equal(list->item[1]->integer, 1);
    assert_int_equal(tuple->kind, PICO_PICKLE_TUPLE);
    assert_int_equal(tuple->n, 3);
    assert_int_equal(tuple->item[0]->kind, PICO_PICKLE_BYTES);
    assert_int_equal((unsigned char)tuple->item[0]->text[0], 0xff);
    assert_true(pico_pickle_is_text(tuple->item[1], "\xc3\xa9"));
    assert_int_equal(tuple->item[2]->n, 0);
    /* of equal keys the last one counts, as in Python */
    assert_int_equal(pico_pickle_get(r.value, "a")->kind, PICO_PICKLE_DICT);
    assert_null(pico_pickle_get(r.value, "c"));
    assert_null(pico_pickle_get(tuple, "c"));
    done(&r);
}

/* Calls become values; an OrderedDict is a dict, whose attributes are passed over. */
static void calls(void **state) {
    (void)state;
    kit_bytes b = {0};
    kit_begin(&b);
    kit_ordered_dict(&b);
    kit_text(&b, "w");
    const kit_tensor t = {.storage = "BFloat16Storage", .n_storage = 6, .rank = 1, .shape = {6}};
    kit_tensor_value(&b, &t);
    kit_put(&b, "s}", 2);
    kit_text(&b, "_metadata");
    kit_put(&b, "Nsb.", 4);
    reading r = read_bytes(b.data, b.n);
    assert_int_equal(r.status, PICO_OK);
    assert_int_equal(r.value->kind, PICO_PICKLE_DICT);
    assert_int_equal(r.value->n, 2);
    const pico_pickle_value *call = r.value->item[1];
    assert_int_equal(call->kind, PICO_PICKLE_OBJECT);
    assert_string_equal(pico_pickle_global_name(call->global), "torch._utils._rebuild_tensor_v2");
    assert_int_equal(call->item[0]->n, 6);
    assert_null(call->item[1]);
    const pico_pickle_value *storage = call->item[0]->item[0];
    assert_int_equal(storage->kind, PICO_PICKLE_PERSISTENT);
    assert_int_equal(storage->item[0]->item[1]->global, PICO_GLOBAL_STORAGE_BF16);
    done(&r);
    free(b.data);
    r = READ("\x80\x04\x8c\x0dtiktoken.core\x8c\x08"
             "Encoding\x93)\x81}\x8c\x01kK\x01sb.");
    assert_int_equal(r.status, PICO_OK);
    assert_int_equal(r.value->global, PICO_GLOBAL_ENCODING);
    assert_int_equal(pico_pickle_get(r.value->item[1], "k")->integer, 1);
    done(&r);
}

/* ---- what is refused ---- */

/* The classic attack, in both ways of naming a global; nothing runs, the name is told. */
static void unknown_globals(void **state) {
    (void)state;
    REFUSED("\x80\x02"
            "cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
            PICO_E_UNSUPPORTED, "pickle, offset 2, GLOBAL: the global os.system");
    REFUSED("\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.", PICO_E_UNSUPPORTED,
            "offset 17, STACK_GLOBAL: the global posix.system");
    REFUSED("\x80\x02"
            "cbuiltins\neval\n.",
            PICO_E_UNSUPPORTED, "builtins.eval");
    REFUSED("\x80\x02"
            "ctorch\nFloatStorag\n.",
            PICO_E_UNSUPPORTED, "torch.FloatStorag ");
    REFUSED("\x80\x02"
            "ctorch\nFloatStorageX\n.",
            PICO_E_UNSUPPORTED, "torch.FloatStorageX");
    REFUSED("\x80\x02"
            "ccollections\nOrderedDict\n)\x85R.",
            PICO_E_UNSUPPORTED, "OrderedDict of 1 arguments");
}

static void unknown_opcodes(void **state) {
    (void)state;
    REFUSED("\x80\x02(ios\nsystem\n.", PICO_E_UNSUPPORTED, "offset 3, INST: this opcode is not");
    REFUSED("\x80\x02(o.", PICO_E_UNSUPPORTED, "OBJ");
    REFUSED("\x80\x04\x82\x01.", PICO_E_UNSUPPORTED, "EXT1");
    REFUSED("\x80\x02N2.", PICO_E_UNSUPPORTED, "offset 3, DUP");
    REFUSED("\x80\x02N\xfe.", PICO_E_CORRUPT, "offset 3: 0xfe is no opcode");
    /* all other bytes, each at a place of its own: accepted by name or refused, never a crash */
    for (int byte = 0; byte < 256; byte++) {
        unsigned char stream[] = {0x80, 2, 'N', (unsigned char)byte, 0, 0, 0, 0, 0, 0, 0, 0, '.'};
        for (size_t n = 3; n <= sizeof stream; n++) {
            reading r = read_bytes(stream, n);
            done(&r);
        }
    }
}

static void broken_streams(void **state) {
    (void)state;
    REFUSED("", PICO_E_CORRUPT, "not a pickle");
    REFUSED("\x80\x02", PICO_E_CORRUPT, "not a pickle");
    REFUSED("(dp0\n.", PICO_E_CORRUPT, "not a pickle");
    REFUSED("\x80\x06N.", PICO_E_CORRUPT, "not a pickle");
    REFUSED("\x80\x02N", PICO_E_CORRUPT, "without the opcode STOP");
    REFUSED("\x80\x02N.N", PICO_E_CORRUPT, "1 bytes follow its end at offset 4");
    REFUSED("\x80\x02NN.", PICO_E_CORRUPT, "1 values are left");
    REFUSED("\x80\x02.", PICO_E_CORRUPT, "STOP: needs a value, the stack has none");
    REFUSED("\x80\x02(.", PICO_E_CORRUPT, "the stack has a mark");
    REFUSED("\x80\x02Nt.", PICO_E_CORRUPT, "TUPLE: there is no mark");
    REFUSED("\x80\x02(N\x86.", PICO_E_CORRUPT, "TUPLE2: needs 2 values");
    REFUSED("\x80\x02(Na.", PICO_E_CORRUPT, "APPEND: needs a list below its values, found a mark");
    REFUSED("\x80\x02}(Nu.", PICO_E_CORRUPT, "SETITEMS: a key without a value");
    REFUSED("\x80\x02](NNu.", PICO_E_CORRUPT, "needs a dict below its values, found a list");
    REFUSED("\x80\x02(Nu.", PICO_E_CORRUPT, "found nothing");
    REFUSED("\x80\x02NNR.", PICO_E_CORRUPT, "found None and None");
    REFUSED("\x80\x02N}b.", PICO_E_CORRUPT, "BUILD: needs an object or a dict, found None");
    REFUSED("\x80\x02h\x05.", PICO_E_CORRUPT, "BINGET: memo entry 5 is not set");
    REFUSED("\x80\x02NN\x93.", PICO_E_CORRUPT, "needs two texts");
    REFUSED("\x80\x02X\x01\x00\x00\x00\xff.", PICO_E_CORRUPT, "byte 0 of the text is not UTF-8");
    REFUSED("\x80\x02"
            "cos",
            PICO_E_CORRUPT, "a name without an end");
}

/* Counts that promise more than there is must not be believed, let alone allocated. */
static void huge_counts(void **state) {
    (void)state;
    REFUSED("\x80\x02X\xff\xff\xff\xff.", PICO_E_CORRUPT, "needs 4294967295 bytes, 1 are left");
    REFUSED("\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", PICO_E_CORRUPT,
            "needs 18446744073709551615 bytes");
    REFUSED("\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.", PICO_E_CORRUPT, "truncated");
    REFUSED("\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xffN.", PICO_E_CORRUPT, "FRAME");
    REFUSED("\x80\x02Nr\xff\xff\xff\xff.", PICO_E_CORRUPT,
            "LONG_BINPUT: memo index 4294967295 in a pickle of 9 bytes");
    REFUSED("\x80\x02j\xff\xff\xff\xff.", PICO_E_CORRUPT, "LONG_BINGET: memo entry 4294967295");
}

/* Deep nesting, sharing that doubles at every step, and a list in itself cost what their bytes
 * cost: the value is a graph, and nothing follows it. */
static void bombs(void **state) {
    (void)state;
    enum { DEPTH = 1000000, LEVELS = 64 };
    kit_bytes b = {0};
    kit_begin(&b);
    for (int i = 0; i < DEPTH; i++) {
        kit_op(&b, ']');
    }
    for (int i = 1; i < DEPTH; i++) {
        kit_op(&b, 'a');
    }
    kit_op(&b, '.');
    reading r = read_bytes(b.data, b.n);
    assert_int_equal(r.status, PICO_OK);
    done(&r);
    b.n = 0;
    kit_put(&b, "\x80\x04", 2);
    kit_put(&b, "]\x94", 2);
    for (int i = 0; i < LEVELS; i++) { /* [[x, x], [x, x]] ...: 2^64 leaves */
        unsigned char get[] = {'h', (unsigned char)i, 'h', (unsigned char)i, 0x86, 0x94};
        kit_put(&b, get, sizeof get);
    }
    kit_op(&b, 't'); /* no mark: refused, after all of it was built */
    kit_op(&b, '.');
    r = read_bytes(b.data, b.n);
    assert_int_equal(r.status, PICO_E_CORRUPT);
    done(&r);
    free(b.data);
    r = READ("\x80\x04]\x94h\x00"
             "a.");
    assert_int_equal(r.status, PICO_OK);
    assert_ptr_equal(r.value->item[0], r.value);
    done(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers),         cmocka_unit_test(containers),
        cmocka_unit_test(calls),           cmocka_unit_test(unknown_globals),
        cmocka_unit_test(unknown_opcodes), cmocka_unit_test(broken_streams),
        cmocka_unit_test(huge_counts),     cmocka_unit_test(bombs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
