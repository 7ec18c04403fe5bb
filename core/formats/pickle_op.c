/*
 * The opcodes of pickles: the closed list of those that run, and the names of the others for
 * messages. See pickle.h.
 */
#include <string.h>

#include "formats/pickle_internal.h"
#include "util/text.h"

typedef pico_pickle_machine machine;

/* ---- constants ---- */

static pico_status op_proto(machine *m, uint32_t arg) {
    uint64_t protocol;
    pico_status status = pico_pickle_take_uint(m, arg, &protocol);
    if (status == PICO_OK && (protocol < 2 || protocol > 5)) {
        status = pico_pickle_fail(m, PICO_E_UNSUPPORTED, "protocol %llu, expected 2 to 5",
                                  (unsigned long long)protocol);
    }
    return status;
}

/* Frames only promise what follows. */
static pico_status op_frame(machine *m, uint32_t arg) {
    uint64_t n;
    pico_status status = pico_pickle_take_uint(m, arg, &n);
    if (status == PICO_OK && n > m->size - m->at) {
        status = pico_pickle_fail(m, PICO_E_CORRUPT, "needs %llu bytes, %llu are left: truncated",
                                  (unsigned long long)n, (unsigned long long)(m->size - m->at));
    }
    return status;
}

static pico_status op_none(machine *m, uint32_t arg) {
    (void)arg;
    return pico_pickle_push(m, m->none);
}

static pico_status op_bool(machine *m, uint32_t arg) {
    return pico_pickle_push(m, m->truth[arg]);
}

static pico_status push_int(machine *m, int64_t value) {
    return pico_pickle_push_new(m, (pico_pickle_value){.kind = PICO_PICKLE_INT, .integer = value});
}

static pico_status op_uint(machine *m, uint32_t arg) {
    uint64_t x;
    pico_status status = pico_pickle_take_uint(m, arg, &x);
    return status == PICO_OK ? push_int(m, (int64_t)x) : status;
}

static pico_status op_int(machine *m, uint32_t arg) {
    uint64_t x;
    pico_status status = pico_pickle_take_uint(m, arg, &x);
    return status == PICO_OK ? push_int(m, (int32_t)(uint32_t)x) : status;
}

/* Two's complement of up to 8 bytes, little-endian. */
static pico_status op_long(machine *m, uint32_t arg) {
    uint64_t n, x = 0;
    pico_status status = pico_pickle_take_uint(m, arg, &n);
    if (status == PICO_OK && n > 8) {
        return pico_pickle_fail(m, PICO_E_LIMIT, "an integer of %llu bytes, expected at most 8",
                                (unsigned long long)n);
    }
    if (status == PICO_OK) {
        status = pico_pickle_take_uint(m, (uint32_t)n, &x);
    }
    if (n > 0 && n < 8 && status == PICO_OK && (x >> (8 * n - 1)) != 0) {
        x |= ~(uint64_t)0 << (8 * n);
    }
    return status == PICO_OK ? push_int(m, (int64_t)x) : status;
}

static pico_status op_real(machine *m, uint32_t arg) {
    const unsigned char *bytes = NULL;
    uint64_t x = 0;
    double value;
    pico_status status = pico_pickle_take(m, arg, &bytes);
    if (status != PICO_OK) {
        return status;
    }
    for (uint32_t i = 0; i < arg; i++) { /* the one big-endian number of the format */
        x = x << 8 | bytes[i];
    }
    memcpy(&value, &x, sizeof value);
    return pico_pickle_push_new(m, (pico_pickle_value){.kind = PICO_PICKLE_REAL, .real = value});
}

static pico_status push_string(machine *m, uint32_t n_length, uint32_t kind) {
    uint64_t n;
    const unsigned char *bytes = NULL;
    pico_status status = pico_pickle_take_uint(m, n_length, &n);
    if (status == PICO_OK) {
        status = pico_pickle_take(m, n, &bytes);
    }
    if (status != PICO_OK) {
        return status;
    }
    pico_pickle_value value = {.kind = kind, .n = n, .text = (const char *)bytes};
    for (uint64_t i = 0; kind == PICO_PICKLE_TEXT && i < n;) {
        uint32_t code;
        size_t length = pico_utf8_decode(value.text + i, (size_t)(n - i), &code);
        if (length == 0) {
            return pico_pickle_fail(m, PICO_E_CORRUPT, "byte %llu of the text is not UTF-8",
                                    (unsigned long long)i);
        }
        i += length;
    }
    return pico_pickle_push_new(m, value);
}

static pico_status op_text(machine *m, uint32_t arg) {
    return push_string(m, arg, PICO_PICKLE_TEXT);
}

static pico_status op_bytes(machine *m, uint32_t arg) {
    return push_string(m, arg, PICO_PICKLE_BYTES);
}

/* ---- containers ---- */

static pico_status op_mark(machine *m, uint32_t arg) {
    (void)arg;
    return pico_pickle_push(m, m->mark);
}

static pico_status op_empty(machine *m, uint32_t arg) {
    return pico_pickle_push_new(m, (pico_pickle_value){.kind = arg});
}

static pico_status op_empty_tuple(machine *m, uint32_t arg) {
    (void)arg;
    return pico_pickle_push(m, m->no_items);
}

/* A tuple of the values from index first of the stack on; below them, n_mark marks go. */
static pico_status make_tuple(machine *m, uint64_t first, uint64_t n_mark) {
    uint64_t n = m->n_stack - first;
    pico_pickle_value tuple = {.kind = PICO_PICKLE_TUPLE, .n = n};
    tuple.item = pico_arena_alloc(m->arena, (size_t)n, sizeof(pico_pickle_value *));
    if (tuple.item == NULL) {
        return pico_pickle_fail(m, PICO_E_NOMEM, "out of memory");
    }
    if (n != 0) {
        memcpy(tuple.item, m->stack + first, (size_t)n * sizeof *tuple.item);
    }
    m->n_stack = first - n_mark;
    return pico_pickle_push_new(m, tuple);
}

static pico_status op_tuple(machine *m, uint32_t arg) {
    uint64_t first;
    (void)arg;
    pico_status status = pico_pickle_find_mark(m, &first);
    return status == PICO_OK ? make_tuple(m, first, 1) : status;
}

static pico_status op_small_tuple(machine *m, uint32_t arg) {
    for (uint32_t i = 0; i < arg; i++) {
        if (m->n_stack <= i || m->stack[m->n_stack - 1 - i] == m->mark) {
            return pico_pickle_fail(m, PICO_E_CORRUPT, "needs %u values, the stack has %u", arg, i);
        }
    }
    return make_tuple(m, m->n_stack - arg, 0);
}

/* The container below the values from index first on, and below n_mark marks. */
static pico_status container_below(machine *m, uint64_t first, uint64_t n_mark, uint32_t kind,
                                   pico_pickle_value **out) {
    static const pico_pickle_value list = {.kind = PICO_PICKLE_LIST},
                                   dict = {.kind = PICO_PICKLE_DICT};
    pico_pickle_value *below = first > n_mark ? m->stack[first - n_mark - 1] : NULL;
    if (below == NULL || below == m->mark || below->kind != kind) {
        return pico_pickle_fail(m, PICO_E_CORRUPT, "needs %s below its values, found %s",
                                pico_pickle_kind(kind == PICO_PICKLE_LIST ? &list : &dict),
                                below == m->mark ? "a mark" : pico_pickle_kind(below));
    }
    *out = below;
    return PICO_OK;
}

static pico_status add_items(machine *m, uint64_t first, uint64_t n_mark, uint32_t kind) {
    pico_pickle_value *to = NULL;
    pico_status status = container_below(m, first, n_mark, kind, &to);
    if (status == PICO_OK && kind == PICO_PICKLE_DICT && (m->n_stack - first) % 2 != 0) {
        status = pico_pickle_fail(m, PICO_E_CORRUPT, "a key without a value");
    }
    for (uint64_t i = first; status == PICO_OK && i < m->n_stack; i++) {
        status = pico_pickle_append(m, to, m->stack[i]);
    }
    m->n_stack = status == PICO_OK ? first - n_mark : m->n_stack;
    return status;
}

static pico_status op_add(machine *m, uint32_t arg) {
    uint64_t n = arg == PICO_PICKLE_DICT ? 2 : 1;
    for (uint64_t i = 0; i < n; i++) {
        if (m->n_stack <= i || m->stack[m->n_stack - 1 - i] == m->mark) {
            return pico_pickle_fail(m, PICO_E_CORRUPT, "needs more values than the stack has");
        }
    }
    return add_items(m, m->n_stack - n, 0, arg);
}

static pico_status op_add_many(machine *m, uint32_t arg) {
    uint64_t first;
    pico_status status = pico_pickle_find_mark(m, &first);
    return status == PICO_OK ? add_items(m, first, 1, arg) : status;
}

/* ---- memo ---- */

static pico_status op_put(machine *m, uint32_t arg) {
    uint64_t index = m->n_memo;
    pico_status status = arg == 0 ? PICO_OK : pico_pickle_take_uint(m, arg, &index);
    return status == PICO_OK ? pico_pickle_memo_put(m, index) : status;
}

static pico_status op_get(machine *m, uint32_t arg) {
    uint64_t index;
    pico_status status = pico_pickle_take_uint(m, arg, &index);
    return status == PICO_OK ? pico_pickle_memo_get(m, index) : status;
}

/* ---- the end ---- */

static pico_status op_stop(machine *m, uint32_t arg) {
    pico_pickle_value *result = NULL;
    (void)arg;
    pico_status status = pico_pickle_pop(m, &result);
    if (status == PICO_OK && m->n_stack != 0) {
        status = pico_pickle_fail(m, PICO_E_CORRUPT, "%llu values are left on the stack",
                                  (unsigned long long)m->n_stack);
    }
    m->result = status == PICO_OK ? result : NULL;
    return status;
}

/* ---- the table ---- */

const pico_pickle_op *pico_pickle_find_op(unsigned char byte) {
    static const pico_pickle_op ops[256] = {
        [0x80] = {"PROTO", op_proto, 1},
        [0x95] = {"FRAME", op_frame, 8},
        ['.'] = {"STOP", op_stop, 0},
        ['N'] = {"NONE", op_none, 0},
        [0x88] = {"NEWTRUE", op_bool, 1},
        [0x89] = {"NEWFALSE", op_bool, 0},
        ['K'] = {"BININT1", op_uint, 1},
        ['M'] = {"BININT2", op_uint, 2},
        ['J'] = {"BININT", op_int, 4},
        [0x8a] = {"LONG1", op_long, 1},
        ['G'] = {"BINFLOAT", op_real, 8},
        [0x8c] = {"SHORT_BINUNICODE", op_text, 1},
        ['X'] = {"BINUNICODE", op_text, 4},
        [0x8d] = {"BINUNICODE8", op_text, 8},
        ['C'] = {"SHORT_BINBYTES", op_bytes, 1},
        ['B'] = {"BINBYTES", op_bytes, 4},
        [0x8e] = {"BINBYTES8", op_bytes, 8},
        ['('] = {"MARK", op_mark, 0},
        [')'] = {"EMPTY_TUPLE", op_empty_tuple, 0},
        [']'] = {"EMPTY_LIST", op_empty, PICO_PICKLE_LIST},
        ['}'] = {"EMPTY_DICT", op_empty, PICO_PICKLE_DICT},
        ['t'] = {"TUPLE", op_tuple, 0},
        [0x85] = {"TUPLE1", op_small_tuple, 1},
        [0x86] = {"TUPLE2", op_small_tuple, 2},
        [0x87] = {"TUPLE3", op_small_tuple, 3},
        ['a'] = {"APPEND", op_add, PICO_PICKLE_LIST},
        ['e'] = {"APPENDS", op_add_many, PICO_PICKLE_LIST},
        ['s'] = {"SETITEM", op_add, PICO_PICKLE_DICT},
        ['u'] = {"SETITEMS", op_add_many, PICO_PICKLE_DICT},
        ['q'] = {"BINPUT", op_put, 1},
        ['r'] = {"LONG_BINPUT", op_put, 4},
        [0x94] = {"MEMOIZE", op_put, 0},
        ['h'] = {"BINGET", op_get, 1},
        ['j'] = {"LONG_BINGET", op_get, 4},
        ['c'] = {"GLOBAL", pico_pickle_op_global, 0},
        [0x93] = {"STACK_GLOBAL", pico_pickle_op_stack_global, 0},
        ['R'] = {"REDUCE", pico_pickle_op_call, 0},
        [0x81] = {"NEWOBJ", pico_pickle_op_call, 0},
        ['b'] = {"BUILD", pico_pickle_op_build, 0},
        ['Q'] = {"BINPERSID", pico_pickle_op_persistent, 0},
        /* refused */
        ['0'] = {"POP", NULL, 0},
        ['1'] = {"POP_MARK", NULL, 0},
        ['2'] = {"DUP", NULL, 0},
        ['F'] = {"FLOAT", NULL, 0},
        ['I'] = {"INT", NULL, 0},
        ['L'] = {"LONG", NULL, 0},
        [0x8b] = {"LONG4", NULL, 0},
        ['P'] = {"PERSID", NULL, 0},
        ['S'] = {"STRING", NULL, 0},
        ['T'] = {"BINSTRING", NULL, 0},
        ['U'] = {"SHORT_BINSTRING", NULL, 0},
        ['V'] = {"UNICODE", NULL, 0},
        ['d'] = {"DICT", NULL, 0},
        ['i'] = {"INST", NULL, 0},
        ['l'] = {"LIST", NULL, 0},
        ['o'] = {"OBJ", NULL, 0},
        ['p'] = {"PUT", NULL, 0},
        ['g'] = {"GET", NULL, 0},
        [0x82] = {"EXT1", NULL, 0},
        [0x83] = {"EXT2", NULL, 0},
        [0x84] = {"EXT4", NULL, 0},
        [0x8f] = {"EMPTY_SET", NULL, 0},
        [0x90] = {"ADDITEMS", NULL, 0},
        [0x91] = {"FROZENSET", NULL, 0},
        [0x92] = {"NEWOBJ_EX", NULL, 0},
        [0x96] = {"BYTEARRAY8", NULL, 0},
        [0x97] = {"NEXT_BUFFER", NULL, 0},
        [0x98] = {"READONLY_BUFFER", NULL, 0},
    };
    return &ops[byte];
}
