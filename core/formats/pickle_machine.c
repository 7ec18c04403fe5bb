/*
 * The machine that runs a pickle: stream, stack, memo, and the loop over opcodes. It is a loop, not
 * a recursion, so that no nesting exhausts the C stack. See pickle.h.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/pickle_internal.h"

pico_status pico_pickle_fail(pico_pickle_machine *m, pico_status code, const char *fmt, ...) {
    char what[320];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    const char *name = pico_pickle_find_op(m->data[m->op_at])->name;
    return pico_fail(m->err, code, "pickle, offset %llu, %s: %s", (unsigned long long)m->op_at,
                     name == NULL ? "opcode" : name, what);
}

static pico_status no_memory(pico_pickle_machine *m) {
    return pico_pickle_fail(m, PICO_E_NOMEM, "out of memory");
}

/* ---- stream ---- */

pico_status pico_pickle_take(pico_pickle_machine *m, uint64_t n, const unsigned char **out) {
    if (n > m->size - m->at) {
        return pico_pickle_fail(m, PICO_E_CORRUPT, "needs %llu bytes, %llu are left: truncated",
                                (unsigned long long)n, (unsigned long long)(m->size - m->at));
    }
    *out = m->data + m->at;
    m->at += n;
    return PICO_OK;
}

pico_status pico_pickle_take_uint(pico_pickle_machine *m, uint32_t n, uint64_t *out) {
    const unsigned char *bytes = NULL;
    pico_status status = pico_pickle_take(m, n, &bytes);
    uint64_t x = 0;
    for (uint32_t i = n; status == PICO_OK && i > 0; i--) {
        x = x << 8 | bytes[i - 1];
    }
    *out = x;
    return status;
}

/* ---- stack ---- */

pico_status pico_pickle_push(pico_pickle_machine *m, pico_pickle_value *value) {
    if (m->n_stack == m->stack_capacity) {
        uint64_t capacity = m->stack_capacity == 0 ? 256 : m->stack_capacity * 2;
        pico_pickle_value **stack = realloc(m->stack, capacity * sizeof *stack);
        if (stack == NULL) {
            return no_memory(m);
        }
        m->stack = stack;
        m->stack_capacity = capacity;
    }
    m->stack[m->n_stack++] = value;
    return PICO_OK;
}

pico_status pico_pickle_push_new(pico_pickle_machine *m, pico_pickle_value value) {
    pico_pickle_value *made = pico_arena_alloc(m->arena, 1, sizeof *made);
    if (made == NULL) {
        return no_memory(m);
    }
    *made = value;
    return pico_pickle_push(m, made);
}

pico_status pico_pickle_top(pico_pickle_machine *m, pico_pickle_value **out) {
    if (m->n_stack == 0 || m->stack[m->n_stack - 1] == m->mark) {
        return pico_pickle_fail(m, PICO_E_CORRUPT, "needs a value, the stack has %s",
                                m->n_stack == 0 ? "none" : "a mark");
    }
    *out = m->stack[m->n_stack - 1];
    return PICO_OK;
}

pico_status pico_pickle_pop(pico_pickle_machine *m, pico_pickle_value **out) {
    pico_status status = pico_pickle_top(m, out);
    m->n_stack -= status == PICO_OK;
    return status;
}

pico_status pico_pickle_find_mark(pico_pickle_machine *m, uint64_t *first) {
    uint64_t i = m->n_stack;
    while (i > 0 && m->stack[i - 1] != m->mark) {
        i--;
    }
    if (i == 0) {
        return pico_pickle_fail(m, PICO_E_CORRUPT, "there is no mark on the stack");
    }
    *first = i;
    return PICO_OK;
}

/* The room doubles at powers of two, so it need not be kept. */
pico_status pico_pickle_append(pico_pickle_machine *m, pico_pickle_value *to,
                               pico_pickle_value *item) {
    uint64_t n = to->n;
    if (n == 0 || (n >= 4 && (n & (n - 1)) == 0)) {
        pico_pickle_value **grown =
            pico_arena_alloc(m->arena, n == 0 ? 4 : (size_t)n * 2, sizeof(pico_pickle_value *));
        if (grown == NULL) {
            return no_memory(m);
        }
        if (n != 0) {
            memcpy(grown, to->item, (size_t)n * sizeof *grown);
        }
        to->item = grown;
    }
    to->item[to->n++] = item;
    return PICO_OK;
}

/* ---- memo ---- */

pico_status pico_pickle_memo_put(pico_pickle_machine *m, uint64_t index) {
    pico_pickle_value *value = NULL;
    pico_status status = pico_pickle_top(m, &value);
    if (status != PICO_OK) {
        return status;
    }
    if (index >= m->size) { /* indices count up, and each takes a byte of the stream */
        return pico_pickle_fail(m, PICO_E_CORRUPT, "memo index %llu in a pickle of %llu bytes",
                                (unsigned long long)index, (unsigned long long)m->size);
    }
    if (index >= m->memo_capacity) {
        uint64_t capacity = m->memo_capacity == 0 ? 256 : m->memo_capacity;
        while (capacity <= index) {
            capacity *= 2;
        }
        pico_pickle_value **memo = realloc(m->memo, capacity * sizeof *memo);
        if (memo == NULL) {
            return no_memory(m);
        }
        memset(memo + m->memo_capacity, 0, (capacity - m->memo_capacity) * sizeof *memo);
        m->memo = memo;
        m->memo_capacity = capacity;
    }
    m->n_memo += m->memo[index] == NULL;
    m->memo[index] = value;
    return PICO_OK;
}

pico_status pico_pickle_memo_get(pico_pickle_machine *m, uint64_t index) {
    if (index >= m->memo_capacity || m->memo[index] == NULL) {
        return pico_pickle_fail(m, PICO_E_CORRUPT, "memo entry %llu is not set",
                                (unsigned long long)index);
    }
    return pico_pickle_push(m, m->memo[index]);
}

/* ---- the loop ---- */

static pico_status step(pico_pickle_machine *m) {
    m->op_at = m->at;
    if (m->at == m->size) {
        return pico_fail(m->err, PICO_E_CORRUPT,
                         "pickle: %llu bytes end without the opcode STOP: truncated",
                         (unsigned long long)m->size);
    }
    unsigned char byte = m->data[m->at++];
    const pico_pickle_op *op = pico_pickle_find_op(byte);
    if (op->name == NULL) {
        return pico_fail(m->err, PICO_E_CORRUPT, "pickle, offset %llu: 0x%02x is no opcode",
                         (unsigned long long)m->op_at, byte);
    }
    if (op->run == NULL) {
        return pico_pickle_fail(m, PICO_E_UNSUPPORTED,
                                "this opcode is not allowed here (byte 0x%02x)", byte);
    }
    return op->run(m, op->arg);
}

static pico_status prepare(pico_pickle_machine *m) {
    pico_pickle_value *shared = pico_arena_alloc(m->arena, 5, sizeof *shared);
    if (shared == NULL) {
        return pico_fail(m->err, PICO_E_NOMEM, "out of memory for a pickle");
    }
    m->mark = &shared[0];
    m->none = &shared[1];
    m->none->kind = PICO_PICKLE_NONE;
    for (int i = 0; i < 2; i++) {
        m->truth[i] = &shared[2 + i];
        *m->truth[i] = (pico_pickle_value){.kind = PICO_PICKLE_BOOL, .integer = i};
    }
    m->no_items = &shared[4];
    m->no_items->kind = PICO_PICKLE_TUPLE;
    return PICO_OK;
}

pico_status pico_pickle_read(const pico_map *map, pico_arena *arena, const pico_pickle_value **out,
                             pico_error *err) {
    pico_pickle_machine m = {.data = map->data, .size = map->size, .arena = arena, .err = err};
    *out = NULL;
    if (map->size < 3 || map->data[0] != 0x80 || map->data[1] < 2 || map->data[1] > 5) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "not a pickle of protocol 2 to 5: expected it to begin with 80 02 to "
                         "80 05");
    }
    if (map->size > PICO_PICKLE_MAX_BYTES) {
        return pico_fail(err, PICO_E_LIMIT, "a pickle of %llu bytes; at most %d are read",
                         (unsigned long long)map->size, PICO_PICKLE_MAX_BYTES);
    }
    pico_status status = prepare(&m);
    while (status == PICO_OK && m.result == NULL) {
        status = step(&m);
    }
    if (status == PICO_OK && m.at != m.size) {
        status = pico_fail(err, PICO_E_CORRUPT, "pickle: %llu bytes follow its end at offset %llu",
                           (unsigned long long)(m.size - m.at), (unsigned long long)m.at);
    }
    *out = status == PICO_OK ? m.result : NULL;
    free(m.memo);
    free(m.stack);
    return status;
}
