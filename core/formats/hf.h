/*
 * What the readers of Hugging Face folders share: a family is a description made from config.json
 * and a table that says which tensor of the file becomes which canonical one.
 */
#ifndef PICO_FORMATS_HF_H
#define PICO_FORMATS_HF_H

#include "formats/expect.h"
#include "formats/hf_json.h"
#include "formats/safetensors.h"

enum {
    PICO_HF_PLAIN = 0,
    PICO_HF_TRANSPOSED = 1, /* the file has (in, out) */
    PICO_HF_ROPE_ROWS = 2   /* the file has the two halves of a head's rotating rows apart */
};

/* Weight and bias of one kind of tensor. */
typedef struct pico_hf_rule {
    const char *name;       /* canonical, between "blk.N." and ".weight" */
    const char *hf;         /* between the prefixes and ".weight" */
    uint32_t how;           /* PICO_HF_x; biases are never transposed */
    uint32_t part, n_parts; /* of n_parts equal blocks of rows in the file, this one; 0: all */
} pico_hf_rule;

typedef struct pico_hf_family {
    const char *model_type;   /* as in config.json */
    const char *architecture; /* "GPT2": how the names of its classes begin */
    const char *prefix;       /* "transformer.", which may be absent in files */
    const char *layers;       /* "h.": what precedes the number of a layer */
    const pico_hf_rule *rule; /* (n_rule) */
    size_t n_rule;
    const char *const *ignored;     /* NULL-terminated: names in a layer that are no weights */
    const char *const *ignored_top; /* the same outside of layers */
    /* Fills *desc, family included; layers are from the arena. */
    pico_status (*describe)(const json_t *config, pico_arena *arena, pico_model_desc *desc,
                            pico_error *err);
} pico_hf_family;

extern const pico_hf_family pico_hf_gpt2, pico_hf_llama;

/* hf_config.c: the family that config.json names; PICO_E_UNSUPPORTED lists the known ones. */
pico_status pico_hf_family_of(const json_t *config, const pico_hf_family **out, pico_error *err);
/* Keys that must have this value, or be absent, because every other changes the result. */
typedef struct pico_hf_fixed {
    const char *key;
    int value; /* of a boolean; -1: must be null */
} pico_hf_fixed;
pico_status pico_hf_check_fixed(const json_t *config, const pico_hf_fixed *fixed, size_t n,
                                pico_error *err);
/* n_layer copies of *layer, with *desc pointing to them. */
pico_status pico_hf_layers(const pico_layer_desc *layer, pico_arena *arena, pico_model_desc *desc,
                           pico_error *err);

/* hf_tensor.c: makes the tensors that file->desc demands from those of the list, which is sorted by
 * name; what is neither used nor known to be no weight is refused by name. */
pico_status pico_hf_take_tensors(const pico_hf_family *family, const pico_safetensors *list,
                                 pico_model_file *file, pico_error *err);

/* The whole reader on memory: config.json and the safetensors files of a model. Tensors point into
 * the parts, which must stay. Messages begin with the path of the part at fault. */
pico_status pico_hf_read(const pico_source *config, const pico_source *part, size_t n_part,
                         pico_model_file *file, pico_error *err);

#endif
