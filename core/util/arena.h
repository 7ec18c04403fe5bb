/*
 * An arena: many small allocations that are freed together. Memory is zeroed and 16-byte aligned.
 * It does not free single pieces and is not shared between threads.
 */
#ifndef PICO_UTIL_ARENA_H
#define PICO_UTIL_ARENA_H

#include <stddef.h>

typedef struct pico_arena_block pico_arena_block;

typedef struct pico_arena {
    pico_arena_block *head; /* zero-initialise the struct to make an empty arena */
} pico_arena;

/* NULL when memory is exhausted or n * size overflows. n * size == 0 gives a valid pointer. */
void *pico_arena_alloc(pico_arena *arena, size_t n, size_t size);
/* Copies n bytes and appends a NUL. */
char *pico_arena_strndup(pico_arena *arena, const char *s, size_t n);
char *pico_arena_strdup(pico_arena *arena, const char *s);
char *pico_arena_printf(pico_arena *arena, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Frees everything and leaves an empty arena. */
void pico_arena_free(pico_arena *arena);

#endif
