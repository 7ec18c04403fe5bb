/*
 * Inside of the GGUF reader and writer: the container (typed keys, tensor infos) on one side, what
 * the keys mean for picochat on the other. Only core/formats includes it.
 *
 * How a file says what it holds:
 * - general.architecture "llama" with llama.* keys: the standard. Used whenever the description is
 *   an ordinary Llama model.
 * - general.architecture "picochat": every field of the description has a picochat.* key
 *   (gguf_fields.c has the table), so that other programs refuse what they would compute wrongly. Of a
 *   draft head that shares the output, picochat.draft.shared_output (true) and picochat.draft.vocab (ids
 *   as I32, ascending; absent: all tokens); gguf_desc.c reads them.
 * - PICO_GGUF_FILLER is a string of spaces that brings the tensor data to a cache line.
 * - tokenizer.ggml.* keys, and picochat.tokenizer.llama2c / .escaped (gguf_vocab_write.c).
 * - A tensor whose layout ggml has a type for (F32, F16, BF16, Q8_0, Q4_0) is stored under its
 *   name. Otherwise NAME.codes (I8) and NAME.scales (F32 or F16, (rows, groups) or (1)) stand for
 *   it, with picochat.quant.NAME.layout ("i8" or "nf4") and picochat.quant.NAME.group (columns that
 *   share a scale; 0: one for the matrix). An "nf4" one has picochat.quant.NAME.cols too, since
 *   NAME.codes has (cols + 1) / 2 bytes a row, and NAME.codebook F32 (16).
 * - picochat.quant.NAME.input says how inputs are rounded: "float", "row" or "group"; absent: auto.
 * - Any tensor may have NAME.input_scale F32 (cols), NAME.input_perm I32 (cols), and the pair
 *   NAME.outlier_col I32 (n), NAME.outlier_value F16 (rows, n); see pico_weight_desc.
 */
#ifndef PICO_FORMATS_GGUF_H
#define PICO_FORMATS_GGUF_H

#include "formats/model_file.h"

#define PICO_GGUF_FILLER "picochat.filler"

enum { /* value types */
       PICO_GGUF_U8 = 0,
       PICO_GGUF_I8 = 1,
       PICO_GGUF_U16 = 2,
       PICO_GGUF_I16 = 3,
       PICO_GGUF_U32 = 4,
       PICO_GGUF_I32 = 5,
       PICO_GGUF_F32 = 6,
       PICO_GGUF_BOOL = 7,
       PICO_GGUF_STRING = 8,
       PICO_GGUF_ARRAY = 9,
       PICO_GGUF_U64 = 10,
       PICO_GGUF_I64 = 11,
       PICO_GGUF_F64 = 12,
       PICO_GGUF_N_TYPE = 13
};

enum { /* tensor types that picochat stores */
       PICO_GGML_F32 = 0,
       PICO_GGML_F16 = 1,
       PICO_GGML_Q4_0 = 2,
       PICO_GGML_Q8_0 = 8,
       PICO_GGML_I8 = 24,
       PICO_GGML_I32 = 26,
       PICO_GGML_BF16 = 30
};

/* One key with its value or values, checked to lie inside the file. */
typedef struct pico_gguf_value {
    const char *key;
    uint32_t is_array;
    uint32_t type; /* of the value, or of an array's elements; never ARRAY */
    uint64_t n;    /* 1 unless it is an array */
    const unsigned char *data;
    uint32_t used; /* some reader has asked for it */
} pico_gguf_value;

typedef struct pico_gguf_tensor {
    const char *name;
    uint32_t type;  /* PICO_GGML_x */
    uint32_t dtype; /* PICO_DTYPE_x */
    uint32_t rank;
    int64_t shape[4]; /* outermost first */
    int64_t rows, cols;
    uint64_t offset, bytes; /* from the start of the file */
    const unsigned char *data;
    uint32_t used; /* belongs to a tensor of the model */
} pico_gguf_tensor;

typedef struct pico_gguf {
    pico_arena *arena; /* borrowed; holds the tables */
    const pico_map *map;
    uint32_t version;
    uint64_t alignment;
    uint64_t n_value, n_tensor;
    pico_gguf_value *value;   /* sorted by key */
    pico_gguf_tensor *tensor; /* sorted by name */
} pico_gguf;

/* ---- gguf_read.c, gguf_tensor_info.c: the container ---- */

int pico_gguf_detect(const pico_map *map);
/* Reads header, keys and tensor infos. Messages name key or tensor and offset. */
pico_status pico_gguf_open(pico_gguf *gguf, const pico_map *map, pico_arena *arena,
                           pico_error *err);

/* Bytes of the file, read in order; nothing is read past its end. */
typedef struct pico_gguf_cursor {
    const unsigned char *data;
    uint64_t size, at;
    pico_error *err;
} pico_gguf_cursor;
pico_status pico_gguf_take(pico_gguf_cursor *cursor, uint64_t n, const char *what,
                           const unsigned char **out);
pico_status pico_gguf_take_u32(pico_gguf_cursor *cursor, const char *what, uint32_t *out);
pico_status pico_gguf_take_u64(pico_gguf_cursor *cursor, const char *what, uint64_t *out);
/* A name of at most max printable ASCII characters, copied into the arena. */
pico_status pico_gguf_take_name(pico_gguf_cursor *cursor, const char *what, uint64_t max,
                                pico_arena *arena, const char **out);
/* Reads n_tensor infos and checks where their data lies. */
pico_status pico_gguf_read_infos(pico_gguf *gguf, pico_gguf_cursor *cursor);
const pico_gguf_tensor *pico_gguf_tensor_find(const pico_gguf *gguf, const char *name);

/* ---- gguf_value.c: typed getters ----
 * An absent key is PICO_E_CORRUPT if required, else *out stays as it was. A value of another type
 * is always PICO_E_CORRUPT, with key, found and expected type. */

enum { PICO_GGUF_OPTIONAL = 0, PICO_GGUF_REQUIRED = 1 };
enum { PICO_GGUF_WANT_INTEGER, PICO_GGUF_WANT_FLOAT, PICO_GGUF_WANT_BOOL, PICO_GGUF_WANT_STRING };

pico_gguf_value *pico_gguf_find(const pico_gguf *gguf, const char *key); /* marks it used */
pico_status pico_gguf_integer(const pico_gguf *gguf, const char *key, int required, int64_t min,
                              int64_t max, int64_t *out, pico_error *err);
pico_status pico_gguf_float(const pico_gguf *gguf, const char *key, int required, double *out,
                            pico_error *err);
pico_status pico_gguf_bool(const pico_gguf *gguf, const char *key, int required, uint32_t *out,
                           pico_error *err);
/* A string without NUL bytes, copied into the arena. */
pico_status pico_gguf_text(const pico_gguf *gguf, const char *key, int required, const char **out,
                           pico_error *err);
/* An array of the wanted class, or NULL if it is absent and optional. */
pico_status pico_gguf_array(const pico_gguf *gguf, const char *key, int required, int want,
                            const pico_gguf_value **out, pico_error *err);
/* Element i < n of a value of a fitting class; integers beyond int64 are clamped. */
int64_t pico_gguf_integer_at(const pico_gguf_value *value, uint64_t i);
double pico_gguf_float_at(const pico_gguf_value *value, uint64_t i);
/* The string at *at, which moves on; the length goes to *n. */
const char *pico_gguf_string_next(const unsigned char **at, uint64_t *n);
const char *pico_gguf_type_name(const pico_gguf_value *value, char text[32]);

/* ---- what the keys mean ---- */

/* gguf_desc.c. n_rows: rows of token_embd.weight; has_output: output.weight exists. */
pico_status pico_gguf_read_desc(const pico_gguf *gguf, const char *architecture, int64_t n_rows,
                                int has_output, pico_arena *arena, pico_model_desc *desc,
                                pico_error *err);
/* gguf_vocab.c. kind NONE if the file has no tokenizer. */
pico_status pico_gguf_read_vocab(const pico_gguf *gguf, pico_arena *arena, pico_vocab *vocab,
                                 pico_error *err);
void pico_gguf_vocab_defaults(pico_vocab *vocab); /* ids and switches, from kind, pieces and pre */
/* gguf_tensor.c: the tensors of the file, with codes and scales put together. */
extern const char *const pico_gguf_input_names[4]; /* by PICO_INPUT_x; "auto" is not written */
pico_status pico_gguf_read_tensors(const pico_gguf *gguf, pico_model_file *file, pico_error *err);

/* ---- gguf_build.c, for the writer: keys and values, one after the other, in memory ---- */

typedef struct pico_gguf_build {
    unsigned char *data; /* malloc-ed */
    size_t size, capacity;
    uint64_t n_value;
    int failed; /* memory is exhausted; later calls do nothing */
} pico_gguf_build;

void pico_gguf_put(pico_gguf_build *build, const void *data, size_t n);
void pico_gguf_put_string(pico_gguf_build *build, const char *s, size_t n);
void pico_gguf_put_u32(pico_gguf_build *build, uint32_t x);
void pico_gguf_put_u64(pico_gguf_build *build, uint64_t x);
/* prefix and key together are the key. */
void pico_gguf_key(pico_gguf_build *build, const char *prefix, const char *key, uint32_t type);
void pico_gguf_key_array(pico_gguf_build *build, const char *prefix, const char *key, uint32_t type,
                         uint64_t n);
void pico_gguf_key_u32(pico_gguf_build *build, const char *prefix, const char *key, uint32_t x);
void pico_gguf_key_bool(pico_gguf_build *build, const char *prefix, const char *key, uint32_t x);
void pico_gguf_key_text(pico_gguf_build *build, const char *prefix, const char *key,
                        const char *text);

/* gguf_desc_write.c: general.architecture is "llama" if 1, else "picochat". */
int pico_gguf_desc_is_llama(const pico_model_desc *desc);
void pico_gguf_write_desc(pico_gguf_build *build, const pico_model_desc *desc);
/* gguf_write_check.c: PICO_E_INVALID for what cannot be written. */
pico_status pico_gguf_check_weight(const pico_file_tensor *tensor, pico_error *err);
pico_status pico_gguf_check_vocab(const pico_model_file *file, pico_error *err);
/* gguf_vocab_write.c */
void pico_gguf_write_vocab(pico_gguf_build *build, const pico_vocab *vocab);

#endif
