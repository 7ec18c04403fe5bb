/* The six kinds: names, file prefixes, sizes of their tables, required slots. */
#include <string.h>

#include "registry/check.h"

typedef struct kind_info {
    const char *name, *prefix;
    size_t ops_bytes;
    const pico_ops_slot *slots;
    size_t n_slots;
} kind_info;

#define SLOT(kind, slot)                                                                           \
    { #slot, offsetof(pico_##kind##_ops, slot) }
#define KIND(kind, section, file_prefix)                                                           \
    {                                                                                              \
        section, file_prefix, sizeof(pico_##kind##_ops), kind##_slots,                             \
            sizeof kind##_slots / sizeof kind##_slots[0]                                           \
    }

static const pico_ops_slot backend_slots[] = {
    SLOT(backend, caps),          SLOT(backend, buffer_alloc),  SLOT(backend, buffer_free),
    SLOT(backend, buffer_write),  SLOT(backend, buffer_read),   SLOT(backend, buffer_copy),
    SLOT(backend, sync),          SLOT(backend, supports),      SLOT(backend, reserve),
    SLOT(backend, kv_page_bytes), SLOT(backend, weight_create), SLOT(backend, weight_free),
    SLOT(backend, weight_read),   SLOT(backend, embed),         SLOT(backend, norm),
    SLOT(backend, linear),        SLOT(backend, rope),          SLOT(backend, kv_store),
    SLOT(backend, kv_copy),       SLOT(backend, attend),        SLOT(backend, activation),
    SLOT(backend, gate),          SLOT(backend, axpby),         SLOT(backend, softcap),
    SLOT(backend, logit_edit),    SLOT(backend, argmax),        SLOT(backend, top_k),
};
static const pico_ops_slot attention_slots[] = {SLOT(attention, check), SLOT(attention, layer)};
static const pico_ops_slot sampler_slots[] = {SLOT(sampler, need), SLOT(sampler, dist)};
static const pico_ops_slot decoder_slots[] = {SLOT(decoder, begin), SLOT(decoder, propose),
                                              SLOT(decoder, observe), SLOT(decoder, end)};
static const pico_ops_slot compressor_slots[] = {SLOT(compressor, plan), SLOT(compressor, apply)};
static const pico_ops_slot trainer_slots[] = {SLOT(trainer, begin), SLOT(trainer, step),
                                              SLOT(trainer, save), SLOT(trainer, load),
                                              SLOT(trainer, end)};

/* Indexed by PICO_KIND_x. */
static const kind_info kinds[] = {
    {0},
    KIND(backend, "backend", "backend_"),
    KIND(attention, "attention", "attn_"),
    KIND(sampler, "sampler", "sample_"),
    KIND(decoder, "decoder", "decode_"),
    KIND(compressor, "compress", "compress_"),
    KIND(trainer, "trainer", "train_"),
};

enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

const char *pico_kind_name(uint32_t kind) {
    return kind == 0 || kind >= N_KINDS ? NULL : kinds[kind].name;
}

const char *pico_kind_noun(uint32_t kind) {
    return kind == PICO_KIND_COMPRESSOR  ? "compressor"
           : kind == PICO_KIND_ATTENTION ? "kind of attention"
                                         : pico_kind_name(kind);
}

const char *pico_kind_prefix(uint32_t kind) {
    return kind == 0 || kind >= N_KINDS ? NULL : kinds[kind].prefix;
}

uint32_t pico_kind_from_name(const char *name) {
    for (uint32_t kind = 1; kind < N_KINDS; kind++) {
        if (strcmp(kinds[kind].name, name) == 0) {
            return kind;
        }
    }
    return 0;
}

const pico_ops_slot *pico_kind_slots(uint32_t kind, size_t *n) {
    *n = kinds[kind].n_slots;
    return kinds[kind].slots;
}

size_t pico_kind_ops_bytes(uint32_t kind) {
    return kinds[kind].ops_bytes;
}
