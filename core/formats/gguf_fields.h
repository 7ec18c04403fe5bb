/*
 * The table that says which key holds which field of a model description: one table for reading and
 * writing, for architecture "llama" (standard keys) and "picochat" (a key for every field).
 */
#ifndef PICO_FORMATS_GGUF_FIELDS_H
#define PICO_FORMATS_GGUF_FIELDS_H

#include "plugin.h"

enum { OF_U32, OF_I32, OF_F32, OF_F64, OF_ENUM, OF_FLAG, LAYER_U32, LAYER_I32, LAYER_BOOL };

typedef struct pico_gguf_field {
    const char *key;   /* after "picochat." */
    const char *llama; /* after "llama."; NULL: every Llama has the default; "": see finish_llama */
    uint32_t optional; /* under "llama." */
    uint32_t kind;
    uint32_t min; /* integers */
    uint32_t flag;
    size_t offset; /* in pico_model_desc, or in pico_layer_desc */
    const char *const *names;
} pico_gguf_field;

enum { PICO_GGUF_N_FIELD = 40 };
extern const pico_gguf_field pico_gguf_fields[PICO_GGUF_N_FIELD]; /* the first is n_layer */

/* What the standard keys of a Llama leave unsaid. */
extern const pico_model_desc pico_gguf_llama_defaults;
extern const pico_layer_desc pico_gguf_llama_layer_defaults;

static inline int pico_gguf_is_layer_field(const pico_gguf_field *f) {
    return f->kind == LAYER_U32 || f->kind == LAYER_I32 || f->kind == LAYER_BOOL;
}

#endif
