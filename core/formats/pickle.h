/*
 * Python pickles as data: a small stack machine that knows the opcodes and the globals that
 * torch.save and a pickled tiktoken encoding need, and no others. Nothing is imported, called or
 * executed: a call becomes a value that says what would have been called with what. What is not on
 * the lists is refused by name and offset (PICO_E_UNSUPPORTED).
 *
 * Values may be shared and, in a hostile file, contain themselves: nobody may walk a value without
 * knowing what it expects where. Memory is at most some 64 times the bytes of the pickle.
 */
#ifndef PICO_FORMATS_PICKLE_H
#define PICO_FORMATS_PICKLE_H

#include "plugin.h"
#include "util/arena.h"
#include "util/file.h"

enum { PICO_PICKLE_MAX_BYTES = 64 << 20 };

enum {
    PICO_PICKLE_NONE = 1,
    PICO_PICKLE_BOOL,       /* integer */
    PICO_PICKLE_INT,        /* integer */
    PICO_PICKLE_REAL,       /* real */
    PICO_PICKLE_TEXT,       /* text, n bytes of valid UTF-8 */
    PICO_PICKLE_BYTES,      /* text, n bytes */
    PICO_PICKLE_TUPLE,      /* item, n */
    PICO_PICKLE_LIST,       /* item, n */
    PICO_PICKLE_DICT,       /* item, n: key, value, key, value ... in the order of the file */
    PICO_PICKLE_GLOBAL,     /* global */
    PICO_PICKLE_PERSISTENT, /* item[0]: the id */
    PICO_PICKLE_OBJECT      /* global; item[0]: tuple of arguments, item[1]: state or NULL */
};

/* The closed list of globals. */
enum {
    PICO_GLOBAL_ORDERED_DICT = 1,
    PICO_GLOBAL_REBUILD_TENSOR,
    PICO_GLOBAL_REBUILD_PARAMETER,
    PICO_GLOBAL_ENCODING,
    PICO_GLOBAL_STORAGE_F32,
    PICO_GLOBAL_STORAGE_F16,
    PICO_GLOBAL_STORAGE_BF16,
    PICO_GLOBAL_STORAGE_F64,
    PICO_GLOBAL_STORAGE_I8,
    PICO_GLOBAL_STORAGE_U8,
    PICO_GLOBAL_STORAGE_I16,
    PICO_GLOBAL_STORAGE_I32,
    PICO_GLOBAL_STORAGE_I64,
    PICO_GLOBAL_STORAGE_BOOL
};

typedef struct pico_pickle_value pico_pickle_value;
struct pico_pickle_value {
    uint32_t kind;   /* PICO_PICKLE_x */
    uint32_t global; /* PICO_GLOBAL_x */
    uint64_t n;
    union {
        int64_t integer;
        double real;
        const char *text; /* points into the pickle, no NUL at the end */
        pico_pickle_value **item;
    };
};

/* The one value that a pickle (protocol 2 to 5) holds; from the arena, and pointing into the map.
 * PICO_E_CORRUPT, PICO_E_UNSUPPORTED and PICO_E_LIMIT say where. */
pico_status pico_pickle_read(const pico_map *map, pico_arena *arena, const pico_pickle_value **out,
                             pico_error *err);

/* The value of a text key of a dict, the last one if there are several; NULL if there is none, or
 * value is NULL or no dict. */
const pico_pickle_value *pico_pickle_get(const pico_pickle_value *value, const char *key);
/* Whether value (which may be NULL) is that text. */
int pico_pickle_is_text(const pico_pickle_value *value, const char *text);
/* "a dict", "a text" ...; for messages. NULL is "nothing". */
const char *pico_pickle_kind(const pico_pickle_value *value);
/* "torch.FloatStorage" for PICO_GLOBAL_x. */
const char *pico_pickle_global_name(uint32_t global);

#endif
