/*
 * The conformance kit: a list of small tests for the kind of a plugin. Each test runs in a process
 * of its own, so that a crash or a hang of the plugin is one failed test. What a plugin says that
 * it does not support is skipped, and listed.
 */
#ifndef PICO_CONFORM_KIT_H
#define PICO_CONFORM_KIT_H

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "conform/rig.h"

enum { CONFORM_PASS = 0, CONFORM_FAIL = 1, CONFORM_SKIP = 2 };
enum { CONFORM_SETTINGS = 64 };

typedef struct conform {
    const char *path; /* of the plugin */
    uint32_t kind;
    const char *name;                      /* of the plugin */
    const char *set[CONFORM_SETTINGS + 1]; /* "kind.name.key=value", NULL-terminated */
    uint32_t n_set;
    /* of the test at hand */
    uint64_t random;
    jmp_buf leave;
    int verdict;
    char message[2000];
} conform;

typedef struct conform_test {
    const char *name; /* "backend/linear" */
    void (*run)(conform *c);
} conform_test;

/* Ends the test. */
_Noreturn void conform_fail(conform *c, const char *fmt, ...) PICO_PRINTF(2, 3);
_Noreturn void conform_skip(conform *c, const char *fmt, ...) PICO_PRINTF(2, 3);

#define CHECK(c, condition, ...)                                                                   \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            conform_fail(c, __VA_ARGS__);                                                          \
        }                                                                                          \
    } while (0)

/* A status must be OK; the message of err follows. */
#define CHECK_OK(c, call, what)                                                                    \
    do {                                                                                           \
        pico_error err_ = {0};                                                                     \
        pico_error *error = &err_;                                                                 \
        pico_status status_ = (call);                                                              \
        (void)error;                                                                               \
        if (status_ != PICO_OK) {                                                                  \
            conform_fail(c, "%s failed with %d: %s", what, (int)status_, err_.message);            \
        }                                                                                          \
    } while (0)

/* A rig with the plugin in its place (backend, attention, sampler or decoder) and the standard
 * plugins in the others; extra: one more assignment or NULL. */
void conform_rig(conform *c, rig *r, const char *extra);
void *conform_alloc(conform *c, size_t n,
                    size_t size); /* zeroed; never freed: the test is a process */

/* A stable list for the plugin's kind; NULL name ends it. */
extern const conform_test conform_common[];
extern const conform_test conform_backend_memory[];
extern const conform_test conform_backend_rows[];
extern const conform_test conform_backend_linear[];
extern const conform_test conform_backend_attend[];
extern const conform_test conform_attention[];
extern const conform_test conform_sampler[];
extern const conform_test conform_decoder[];
extern const conform_test conform_steering[]; /* decoders that steer; others skip it */
extern const conform_test conform_compressor[];
extern const conform_test conform_trainer[];

#endif
