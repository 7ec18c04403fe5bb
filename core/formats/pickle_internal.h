/* What the files of the pickle reader share. */
#ifndef PICO_FORMATS_PICKLE_INTERNAL_H
#define PICO_FORMATS_PICKLE_INTERNAL_H

#include "formats/pickle.h"

/* PICO_GLOBAL_x, or 0 if the global is not on the list. */
uint32_t pico_pickle_find_global(const char *module, uint64_t n_module, const char *name,
                                 uint64_t n_name);

/* The machine: a stack, a memo and a place in the stream. Values pop and push in pickle_op.c. */
typedef struct pico_pickle_machine {
    const unsigned char *data;
    uint64_t size, at; /* at: the next byte */
    uint64_t op_at;    /* offset of the opcode that runs */
    pico_arena *arena;
    pico_pickle_value **stack;
    uint64_t n_stack, stack_capacity;
    pico_pickle_value **memo; /* NULL entries are free */
    uint64_t memo_capacity, n_memo;
    pico_pickle_value *mark, *none, *truth[2], *no_items; /* shared by all that need them */
    const pico_pickle_value *result;                      /* once STOP has run */
    pico_error *err;
} pico_pickle_machine;

typedef struct pico_pickle_op {
    const char *name;
    pico_status (*run)(pico_pickle_machine *m, uint32_t arg); /* NULL: refused */
    uint32_t arg; /* bytes of a length, items of a tuple ...: up to the function */
} pico_pickle_op;

/* pickle_op.c: the opcode with that byte; name NULL: there is none. */
const pico_pickle_op *pico_pickle_find_op(unsigned char byte);

/* pickle_call.c: GLOBAL, STACK_GLOBAL, REDUCE and NEWOBJ, BINPERSID, BUILD; arg is unused. */
pico_status pico_pickle_op_global(pico_pickle_machine *m, uint32_t arg);
pico_status pico_pickle_op_stack_global(pico_pickle_machine *m, uint32_t arg);
pico_status pico_pickle_op_call(pico_pickle_machine *m, uint32_t arg);
pico_status pico_pickle_op_persistent(pico_pickle_machine *m, uint32_t arg);
pico_status pico_pickle_op_build(pico_pickle_machine *m, uint32_t arg);

/* pickle_machine.c, for the opcodes */
/* "offset N: NAME: " in front of a message. */
pico_status pico_pickle_fail(pico_pickle_machine *m, pico_status code, const char *fmt, ...)
    PICO_PRINTF(3, 4);
pico_status pico_pickle_take(pico_pickle_machine *m, uint64_t n, const unsigned char **out);
/* An unsigned little-endian integer of n bytes, at most 8. */
pico_status pico_pickle_take_uint(pico_pickle_machine *m, uint32_t n, uint64_t *out);
pico_status pico_pickle_push(pico_pickle_machine *m, pico_pickle_value *value);
pico_status pico_pickle_push_new(pico_pickle_machine *m, pico_pickle_value value);
/* The topmost value, which must not be a mark. */
pico_status pico_pickle_pop(pico_pickle_machine *m, pico_pickle_value **out);
pico_status pico_pickle_top(pico_pickle_machine *m, pico_pickle_value **out);
/* *first: index on the stack of the first value above the topmost mark. */
pico_status pico_pickle_find_mark(pico_pickle_machine *m, uint64_t *first);
/* Adds to a tuple, list or dict. */
pico_status pico_pickle_append(pico_pickle_machine *m, pico_pickle_value *to,
                               pico_pickle_value *item);
pico_status pico_pickle_memo_put(pico_pickle_machine *m, uint64_t index);
pico_status pico_pickle_memo_get(pico_pickle_machine *m, uint64_t index);

#endif
