/*
 * Globals and calls in pickles. A call (REDUCE, NEWOBJ) makes a value that describes it; only
 * collections.OrderedDict() is known to be an empty dict. See pickle.h.
 */
#include <string.h>

#include "formats/pickle_internal.h"

typedef pico_pickle_machine machine;

static pico_status push_global(machine *m, const char *module, uint64_t n_module, const char *name,
                               uint64_t n_name) {
    uint32_t global = pico_pickle_find_global(module, n_module, name, n_name);
    if (global == 0) {
        return pico_pickle_fail(m, PICO_E_UNSUPPORTED,
                                "the global %.*s.%.*s is not on the list of those that models and "
                                "tokenizers need; nothing of it was run",
                                (int)(n_module < 80 ? n_module : 80), module,
                                (int)(n_name < 80 ? n_name : 80), name);
    }
    return pico_pickle_push_new(m,
                                (pico_pickle_value){.kind = PICO_PICKLE_GLOBAL, .global = global});
}

static pico_status take_line(machine *m, const char **out, uint64_t *n) {
    const unsigned char *start = m->data + m->at;
    const unsigned char *end = memchr(start, '\n', (size_t)(m->size - m->at));
    if (end == NULL) {
        return pico_pickle_fail(m, PICO_E_CORRUPT, "a name without an end: truncated");
    }
    *out = (const char *)start;
    *n = (uint64_t)(end - start);
    m->at += *n + 1;
    return PICO_OK;
}

pico_status pico_pickle_op_global(machine *m, uint32_t arg) {
    const char *module = NULL, *name = NULL;
    uint64_t n_module = 0, n_name = 0;
    (void)arg;
    pico_status status = take_line(m, &module, &n_module);
    if (status == PICO_OK) {
        status = take_line(m, &name, &n_name);
    }
    return status == PICO_OK ? push_global(m, module, n_module, name, n_name) : status;
}

pico_status pico_pickle_op_stack_global(machine *m, uint32_t arg) {
    pico_pickle_value *module = NULL, *name = NULL;
    (void)arg;
    pico_status status = pico_pickle_pop(m, &name);
    if (status == PICO_OK) {
        status = pico_pickle_pop(m, &module);
    }
    if (status == PICO_OK && (module->kind != PICO_PICKLE_TEXT || name->kind != PICO_PICKLE_TEXT)) {
        status = pico_pickle_fail(m, PICO_E_CORRUPT, "needs two texts, found %s and %s",
                                  pico_pickle_kind(module), pico_pickle_kind(name));
    }
    return status == PICO_OK ? push_global(m, module->text, module->n, name->text, name->n)
                             : status;
}

/* An object with item[0] and room for item[1]. */
static pico_status push_object(machine *m, uint32_t kind, uint32_t global,
                               pico_pickle_value *first) {
    pico_pickle_value **item = pico_arena_alloc(m->arena, 2, sizeof(pico_pickle_value *));
    if (item == NULL) {
        return pico_pickle_fail(m, PICO_E_NOMEM, "out of memory");
    }
    item[0] = first;
    return pico_pickle_push_new(
        m, (pico_pickle_value){.kind = kind, .global = global, .n = 2, .item = item});
}

pico_status pico_pickle_op_call(machine *m, uint32_t arg) {
    pico_pickle_value *args = NULL, *callee = NULL;
    (void)arg;
    pico_status status = pico_pickle_pop(m, &args);
    if (status == PICO_OK) {
        status = pico_pickle_pop(m, &callee);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (callee->kind != PICO_PICKLE_GLOBAL || args->kind != PICO_PICKLE_TUPLE) {
        return pico_pickle_fail(m, PICO_E_CORRUPT,
                                "needs a class or function and a tuple, found %s and %s",
                                pico_pickle_kind(callee), pico_pickle_kind(args));
    }
    if (callee->global == PICO_GLOBAL_ORDERED_DICT) {
        return args->n == 0 ? pico_pickle_push_new(m, (pico_pickle_value){.kind = PICO_PICKLE_DICT})
                            : pico_pickle_fail(m, PICO_E_UNSUPPORTED,
                                               "collections.OrderedDict of %llu arguments, "
                                               "expected none",
                                               (unsigned long long)args->n);
    }
    return push_object(m, PICO_PICKLE_OBJECT, callee->global, args);
}

pico_status pico_pickle_op_persistent(machine *m, uint32_t arg) {
    pico_pickle_value *id = NULL;
    (void)arg;
    pico_status status = pico_pickle_pop(m, &id);
    return status == PICO_OK ? push_object(m, PICO_PICKLE_PERSISTENT, 0, id) : status;
}

/* Attributes of a dict (the _metadata of a state dict) say nothing here. */
pico_status pico_pickle_op_build(machine *m, uint32_t arg) {
    pico_pickle_value *state = NULL, *object = NULL;
    (void)arg;
    pico_status status = pico_pickle_pop(m, &state);
    if (status == PICO_OK) {
        status = pico_pickle_top(m, &object);
    }
    if (status == PICO_OK && object->kind == PICO_PICKLE_OBJECT) {
        object->item[1] = state;
    } else if (status == PICO_OK && object->kind != PICO_PICKLE_DICT) {
        status = pico_pickle_fail(m, PICO_E_CORRUPT, "needs an object or a dict, found %s",
                                  pico_pickle_kind(object));
    }
    return status;
}
