/*
 * Keys and values of a GGUF file, appended to a growing block of memory. A failed allocation is
 * remembered instead of being reported by every call; the writer asks once, at the end.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/gguf.h"

void pico_gguf_put(pico_gguf_build *build, const void *data, size_t n) {
    if (build->failed || n == 0) {
        return;
    }
    if (n > build->capacity - build->size) {
        size_t wanted = build->capacity < 4096 ? 4096 : build->capacity;
        while (wanted - build->size < n && wanted <= SIZE_MAX / 2) {
            wanted *= 2;
        }
        unsigned char *grown = wanted - build->size < n ? NULL : realloc(build->data, wanted);
        if (grown == NULL) {
            build->failed = 1;
            return;
        }
        build->data = grown;
        build->capacity = wanted;
    }
    memcpy(build->data + build->size, data, n);
    build->size += n;
}

void pico_gguf_put_u32(pico_gguf_build *build, uint32_t x) {
    pico_gguf_put(build, &x, sizeof x);
}

void pico_gguf_put_u64(pico_gguf_build *build, uint64_t x) {
    pico_gguf_put(build, &x, sizeof x);
}

void pico_gguf_put_string(pico_gguf_build *build, const char *s, size_t n) {
    pico_gguf_put_u64(build, n);
    pico_gguf_put(build, s, n);
}

void pico_gguf_key(pico_gguf_build *build, const char *prefix, const char *key, uint32_t type) {
    pico_gguf_put_u64(build, strlen(prefix) + strlen(key));
    pico_gguf_put(build, prefix, strlen(prefix));
    pico_gguf_put(build, key, strlen(key));
    pico_gguf_put_u32(build, type);
    build->n_value++;
}

void pico_gguf_key_array(pico_gguf_build *build, const char *prefix, const char *key, uint32_t type,
                         uint64_t n) {
    pico_gguf_key(build, prefix, key, PICO_GGUF_ARRAY);
    pico_gguf_put_u32(build, type);
    pico_gguf_put_u64(build, n);
}

void pico_gguf_key_u32(pico_gguf_build *build, const char *prefix, const char *key, uint32_t x) {
    pico_gguf_key(build, prefix, key, PICO_GGUF_U32);
    pico_gguf_put_u32(build, x);
}

void pico_gguf_key_bool(pico_gguf_build *build, const char *prefix, const char *key, uint32_t x) {
    unsigned char byte = x != 0;
    pico_gguf_key(build, prefix, key, PICO_GGUF_BOOL);
    pico_gguf_put(build, &byte, sizeof byte);
}

void pico_gguf_key_text(pico_gguf_build *build, const char *prefix, const char *key,
                        const char *text) {
    pico_gguf_key(build, prefix, key, PICO_GGUF_STRING);
    pico_gguf_put_string(build, text, strlen(text));
}
