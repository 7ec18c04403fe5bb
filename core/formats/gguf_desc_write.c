/*
 * The model description as GGUF keys, by the table of gguf_fields.c. The standard keys are used
 * only where they say everything.
 */
#include <string.h>

#include "formats/gguf.h"
#include "formats/gguf_fields.h"

/* The 4 or 8 bytes of a field as bits; layer fields of layer i. */
static uint64_t field_bits(const pico_model_desc *desc, const pico_gguf_field *f, uint32_t i) {
    const char *base =
        pico_gguf_is_layer_field(f) ? (const char *)&desc->layer[i] : (const char *)desc;
    uint32_t bits = 0;
    uint64_t wide = 0;
    if (f->kind == OF_FLAG) {
        return (desc->flags & f->flag) != 0;
    }
    if (f->kind == OF_F64) {
        memcpy(&wide, base + f->offset, sizeof wide);
        return wide;
    }
    memcpy(&bits, base + f->offset, sizeof bits);
    return bits;
}

int pico_gguf_desc_is_llama(const pico_model_desc *desc) {
    pico_model_desc plain = pico_gguf_llama_defaults;
    plain.layer = &pico_gguf_llama_layer_defaults;
    if (strcmp(desc->family, "llama") != 0 || (double)(float)desc->rope_base != desc->rope_base) {
        return 0;
    }
    for (size_t i = 0; i < PICO_GGUF_N_FIELD; i++) {
        const pico_gguf_field *f = &pico_gguf_fields[i];
        uint32_t n = pico_gguf_is_layer_field(f) ? desc->n_layer : 1;
        for (uint32_t j = 0; f->llama == NULL && j < n; j++) {
            if (field_bits(desc, f, j) != field_bits(&plain, f, 0)) {
                return 0;
            }
        }
    }
    for (uint32_t i = 1; i < desc->n_layer; i++) {
        if (desc->layer[i].head_dim != desc->layer[0].head_dim) {
            return 0; /* the standard has one key_length for all layers */
        }
    }
    return 1;
}

static void write_layer_field(pico_gguf_build *build, const char *prefix, const char *name,
                              const pico_gguf_field *f, const pico_model_desc *desc) {
    uint32_t n = 1;
    for (uint32_t i = 1; i < desc->n_layer; i++) {
        if (field_bits(desc, f, i) != field_bits(desc, f, 0)) {
            n = desc->n_layer;
        }
    }
    /* Other readers take arrays of i32 only; checked values fit both types. */
    uint32_t number = n == 1 && f->kind == LAYER_U32 ? PICO_GGUF_U32 : PICO_GGUF_I32;
    uint32_t type = f->kind == LAYER_BOOL ? (uint32_t)PICO_GGUF_BOOL : number;
    if (n == 1) {
        pico_gguf_key(build, prefix, name, type);
    } else {
        pico_gguf_key_array(build, prefix, name, type, n);
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)field_bits(desc, f, i);
        unsigned char flag = (unsigned char)bits;
        pico_gguf_put(build, f->kind == LAYER_BOOL ? (const void *)&flag : (const void *)&bits,
                      f->kind == LAYER_BOOL ? sizeof flag : sizeof bits);
    }
}

static void write_field(pico_gguf_build *build, const char *prefix, const char *name,
                        const pico_gguf_field *f, const pico_model_desc *desc, int is_llama) {
    uint64_t wide = pico_gguf_is_layer_field(f) ? 0 : field_bits(desc, f, 0);
    uint32_t bits = (uint32_t)wide;
    if (pico_gguf_is_layer_field(f)) {
        write_layer_field(build, prefix, name, f, desc);
    } else if (f->kind == OF_ENUM) {
        pico_gguf_key_text(build, prefix, name, f->names[bits]);
    } else if (f->kind == OF_FLAG) {
        pico_gguf_key_bool(build, prefix, name, bits);
    } else if (f->kind == OF_F64 && is_llama) {
        float narrow = (float)desc->rope_base; /* the only one; exact, see desc_is_llama */
        pico_gguf_key(build, prefix, name, PICO_GGUF_F32);
        pico_gguf_put(build, &narrow, sizeof narrow);
    } else if (f->kind == OF_F64) {
        pico_gguf_key(build, prefix, name, PICO_GGUF_F64);
        pico_gguf_put(build, &wide, sizeof wide);
    } else {
        uint32_t type = f->kind == OF_F32   ? PICO_GGUF_F32
                        : f->kind == OF_I32 ? PICO_GGUF_I32
                                            : PICO_GGUF_U32;
        pico_gguf_key(build, prefix, name, type);
        pico_gguf_put(build, &bits, sizeof bits);
    }
}

/* Keys that only a draft head of a later form has. */
static void write_draft(pico_gguf_build *build, const char *prefix, const pico_model_desc *desc) {
    if (desc->draft_flags & PICO_DRAFT_SHARED_OUTPUT) {
        pico_gguf_key_bool(build, prefix, "draft.shared_output", 1);
    }
    if (desc->draft_flags & PICO_DRAFT_READS_TOKEN) {
        pico_gguf_key_bool(build, prefix, "draft.reads_token", 1);
    }
    if (desc->n_draft_vocab != 0) {
        pico_gguf_key_array(build, prefix, "draft.vocab", PICO_GGUF_I32, desc->n_draft_vocab);
        pico_gguf_put(build, desc->draft_vocab, desc->n_draft_vocab * sizeof *desc->draft_vocab);
    }
}

void pico_gguf_write_desc(pico_gguf_build *build, const pico_model_desc *desc) {
    int is_llama = pico_gguf_desc_is_llama(desc);
    const char *prefix = is_llama ? "llama." : "picochat.";
    if (!is_llama) {
        pico_gguf_key_text(build, prefix, "family", desc->family);
    }
    for (size_t i = 0; i < PICO_GGUF_N_FIELD; i++) {
        const char *name = is_llama ? pico_gguf_fields[i].llama : pico_gguf_fields[i].key;
        if (name != NULL && name[0] != '\0') {
            write_field(build, prefix, name, &pico_gguf_fields[i], desc, is_llama);
        }
    }
    if (is_llama) {
        pico_gguf_key_u32(build, prefix, "attention.value_length", desc->layer[0].head_dim);
    } else {
        write_draft(build, prefix, desc);
    }
}
