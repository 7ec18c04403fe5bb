/* The arena: a list of blocks, each at least BLOCK_BYTES; see arena.h. */
#include "util/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/checked.h"

enum { BLOCK_BYTES = 64 * 1024, ALIGNMENT = 16 };

struct pico_arena_block {
    pico_arena_block *next;
    size_t used, capacity;
    _Alignas(ALIGNMENT) unsigned char data[];
};

void *pico_arena_alloc(pico_arena *arena, size_t n, size_t size) {
    uint64_t bytes;
    if (!pico_checked_mul(n, size, &bytes) || !pico_checked_align(bytes, ALIGNMENT, &bytes)) {
        return NULL;
    }
    pico_arena_block *block = arena->head;
    if (block == NULL || block->capacity - block->used < bytes) {
        size_t capacity = bytes > BLOCK_BYTES ? (size_t)bytes : BLOCK_BYTES;
        if (capacity > SIZE_MAX - sizeof *block) {
            return NULL;
        }
        block = calloc(1, sizeof *block + capacity);
        if (block == NULL) {
            return NULL;
        }
        block->capacity = capacity;
        block->next = arena->head;
        arena->head = block;
    }
    void *result = block->data + block->used;
    block->used += (size_t)bytes;
    return result;
}

char *pico_arena_strndup(pico_arena *arena, const char *s, size_t n) {
    char *copy = n == SIZE_MAX ? NULL : pico_arena_alloc(arena, n + 1, 1);
    if (copy != NULL && n != 0) {
        memcpy(copy, s, n);
    }
    return copy;
}

char *pico_arena_strdup(pico_arena *arena, const char *s) {
    return pico_arena_strndup(arena, s, strlen(s));
}

char *pico_arena_printf(pico_arena *arena, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *text = n < 0 ? NULL : pico_arena_alloc(arena, (size_t)n + 1, 1);
    if (text != NULL) {
        va_start(args, fmt);
        (void)vsnprintf(text, (size_t)n + 1, fmt, args);
        va_end(args);
    }
    return text;
}

void pico_arena_free(pico_arena *arena) {
    while (arena->head != NULL) {
        pico_arena_block *next = arena->head->next;
        free(arena->head);
        arena->head = next;
    }
}
