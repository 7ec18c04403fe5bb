/*
 * PyTorch's files: a ZIP archive with NAME/data.pkl (a pickle, see pickle.h), the raw little-endian
 * storages NAME/data/KEY that its tensors are views of, and perhaps NAME/byteorder. Files of the
 * time before ZIP, TorchScript and big-endian files are refused. Checksums are verified.
 */
#ifndef PICO_FORMATS_TORCH_H
#define PICO_FORMATS_TORCH_H

#include "formats/model_file.h"
#include "formats/pickle.h"

typedef struct pico_torch {
    struct zip *zip;
    pico_map map;       /* borrowed, must stay */
    const char *prefix; /* "model_000650" */
    const pico_pickle_value *root;
    struct pico_torch_storage *storage; /* (entries of the archive) what has been loaded */
    uint64_t n_entry;
    uint64_t n_stored, n_loaded, n_copied; /* bytes: of the file that entries read so far take, of
                                              storages loaded, of tensors copied out of them */
    pico_arena arena;                      /* owns the above */
} pico_torch;

/* Reads the directory and the pickle. Whatever it returns, close it. */
pico_status pico_torch_open(const pico_map *map, pico_torch *out, pico_error *err);
void pico_torch_close(pico_torch *torch);

/* A tensor as the pickle describes it; all of it has been checked but that the storage is there. */
typedef struct pico_torch_tensor {
    uint32_t dtype;            /* PICO_DTYPE_x; PICO_DTYPE_NONE: a type that has none */
    const char *type;          /* "torch.FloatStorage" */
    uint64_t element_bytes;    /* 1 to 8 */
    uint32_t rank;             /* 1 to 4; a scalar is a vector of one */
    int64_t shape[4], n;       /* outermost first; n: their product, at least 1 */
    int64_t stride[4], offset; /* in elements, within n_storage; 0 along dimensions of 1 */
    const char *key;           /* n_key <= 40 bytes: which storage */
    uint64_t n_key, n_storage; /* elements of the storage */
} pico_torch_tensor;

/* What a value of the pickle describes; PICO_E_CORRUPT if that is no tensor. name: for messages. */
pico_status pico_torch_describe(const char *name, const pico_pickle_value *value,
                                pico_torch_tensor *out, pico_error *err);

/* The elements, row-major and contiguous, in memory that file owns: a storage is read once, tensors
 * that are contiguous in it point into it (aligned to their elements, to 64 bytes where a storage
 * begins), others are copied. PICO_E_LIMIT when copies take much more than the storages. */
pico_status pico_torch_load(pico_torch *torch, const char *name, const pico_torch_tensor *tensor,
                            pico_model_file *file, const void **out, pico_error *err);

#endif
