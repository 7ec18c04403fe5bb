/*
 * safetensors: 8 bytes with the length of a JSON header, the header, the data. The header's names,
 * shapes and offsets are checked against the file; what the numbers mean is for hf.c to say.
 */
#ifndef PICO_FORMATS_SAFETENSORS_H
#define PICO_FORMATS_SAFETENSORS_H

#include "formats/reader.h"

enum {
    PICO_ST_MAX_RANK = 8,
    PICO_ST_MAX_HEADER = 100 * 1000 * 1000 /* bytes; the format's own limit */
};

typedef struct pico_st_tensor {
    const char *name;
    const char *type; /* as the file spells it: "F32", "BOOL" */
    const char *path; /* the file that it is in */
    uint32_t dtype;   /* PICO_DTYPE_F32, F16 or BF16; PICO_DTYPE_NONE: a type without use here */
    uint32_t rank;
    int64_t shape[PICO_ST_MAX_RANK]; /* outermost first */
    const unsigned char *data;       /* inside the file, perhaps unaligned */
    uint64_t bytes;                  /* exactly what shape and a known type demand */
    uint32_t used;                   /* 0; for whoever takes the tensors */
} pico_st_tensor;

typedef struct pico_safetensors {
    pico_st_tensor *tensor; /* (n) in the order of their data */
    uint32_t n;
} pico_safetensors;

/* Everything but the data is copied into the arena. source->path is kept. PICO_E_CORRUPT for what
 * the format forbids: lengths and offsets outside the file, data that overlap or leave bytes over,
 * sizes that contradict the shape, names that exist twice. */
pico_status pico_safetensors_read(const pico_source *source, pico_arena *arena,
                                  pico_safetensors *out, pico_error *err);

#endif
