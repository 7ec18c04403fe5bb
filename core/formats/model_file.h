/*
 * A model as it lies in a file, whatever the format: description, tensors, vocabulary. Readers fill
 * it, the writer takes it, `inspect` prints it, the model layer loads from it. Tensors have
 * canonical names, the ones that GGUF uses for the Llama and GPT-2 families:
 *
 *   token_embd.weight  position_embd.weight  output_norm.weight|bias  output.weight
 *   blk.N.attn_norm.weight|bias  blk.N.attn_q|attn_k|attn_v|attn_output.weight|bias
 *   blk.N.ffn_norm.weight|bias   blk.N.ffn_gate|ffn_up|ffn_down.weight|bias
 * (ffn_gate is w1, the activated one; ffn_up is w3, or the only input matrix when ungated;
 * ffn_down is w2). Matrices are (out, in). What is here has been checked against the file's size:
 * every data pointer is good for the tensor's whole extent.
 */
#ifndef PICO_FORMATS_MODEL_FILE_H
#define PICO_FORMATS_MODEL_FILE_H

#include "plugin.h"
#include "util/arena.h"
#include "util/file.h"

enum {
    PICO_FORMAT_GGUF = 1,
    PICO_FORMAT_LLAMA2C = 2,
    PICO_FORMAT_MEMORY = 3,
    PICO_FORMAT_TORCH = 4,
    PICO_FORMAT_SAFETENSORS = 5
};

/* Generations of nanochat: what a checkpoint of its does not say about its own computation. */
enum {
    PICO_GENERATION_AUTO = 0, /* inferred from tensors and metadata */
    PICO_GENERATION_G0 = 1,   /* up to 2026-01-10: no residual lambdas, full windows */
    PICO_GENERATION_G1 = 2,   /* residual lambdas, sliding windows */
    PICO_GENERATION_G2 = 3,   /* value embeddings; the PicoChat fork */
    PICO_GENERATION_G3 = 4,   /* rope base 100000, q and k scaled by 1.15 */
    PICO_GENERATION_G4 = 5    /* smear, backout, q and k scaled by 1.2 */
};

/* Limits that no file may exceed; they keep every product of two of them within 64 bits. */
enum {
    PICO_MAX_LAYER = 1024,
    PICO_MAX_HEAD = 1024,
    PICO_MAX_WIDTH = 1 << 20, /* n_embd, n_ff */
    PICO_MAX_VOCAB = 1 << 24,
    PICO_MAX_CONTEXT = 1 << 24
};

typedef struct pico_file_tensor {
    const char *name;
    uint32_t rank;
    int64_t shape[4];      /* outermost first */
    pico_weight_desc data; /* rows * cols elements; a vector has one row */
    uint64_t bytes;        /* codes and scales */
} pico_file_tensor;

enum {
    PICO_VOCAB_NONE = 0,
    PICO_VOCAB_SPM = 1, /* SentencePiece BPE: scores, byte fallback, U+2581 for the space */
    PICO_VOCAB_BPE = 2  /* byte-level BPE with merges; pieces are in GPT-2's byte alphabet */
};

enum { /* piece types, numbered as in GGUF */
       PICO_PIECE_NORMAL = 1,
       PICO_PIECE_UNKNOWN = 2,
       PICO_PIECE_CONTROL = 3,
       PICO_PIECE_USER = 4,
       PICO_PIECE_UNUSED = 5,
       PICO_PIECE_BYTE = 6
};

typedef struct pico_piece {
    const char *text; /* n bytes, may contain any byte; not NUL-terminated */
    uint32_t n;
    uint32_t type; /* PICO_PIECE_x */
    float score;
} pico_piece;

typedef struct pico_vocab {
    uint32_t kind; /* PICO_VOCAB_x; NONE: the file has no tokenizer */
    uint32_t n_piece;
    const pico_piece *piece;
    uint32_t n_merge;
    const pico_piece *merge;    /* "left right", best first; type and score unused */
    const char *pre;            /* name of the split pattern, as in tokenizer.ggml.pre */
    int32_t bos, eos, unk, pad; /* -1: none */
    int32_t eot;                /* end of a chat turn; -1: none */
    uint32_t add_bos, add_eos, add_space_prefix;
    uint32_t llama2c;          /* 1: from a tokenizer.bin; encodes as llama2.c does */
    const char *chat_template; /* NULL: none */
} pico_vocab;

typedef struct pico_model_file {
    uint32_t format;         /* PICO_FORMAT_x */
    const char *format_name; /* "GGUF v3", "llama2.c v0", ... */
    const char *path;
    const char *name;     /* general.name; NULL if there is none */
    pico_model_desc desc; /* desc.n_layer == 0: a vocabulary without a model */
    uint32_t n_tensor;
    pico_file_tensor *tensor;
    pico_vocab vocab;
    pico_arena arena;           /* owns everything above */
    pico_map map;               /* what the tensors point into; may be empty */
    struct pico_kept_map *kept; /* further maps that the tensors point into */
} pico_model_file;

typedef struct pico_open_params {
    const char *tokenizer; /* a tokenizer file or a folder with one; NULL: the model's own */
    uint32_t generation;   /* PICO_GENERATION_x, for nanochat checkpoints */
} pico_open_params;

/* Opens a model, detecting the format from the content. path is a GGUF file, a llama2.c .bin, a
 * nanochat checkpoint (model_*.pt with meta_*.json beside it, or the folder with them) or a
 * safetensors model (the folder with config.json, or the .safetensors file in it). The vocabulary
 * is the file's own, or the one that lies beside it; params->tokenizer replaces it. A tokenizer
 * file of Hugging Face, or a folder with nothing but a tokenizer, is a vocabulary without a model.
 * params may be NULL. On failure nothing is left open. PICO_E_CORRUPT names tensor or key, offset,
 * what was expected and what is there. */
pico_status pico_model_file_open_with(const char *path, const pico_open_params *params,
                                      pico_model_file **out, pico_error *err);
/* The same with nothing but a tokenizer (NULL: none). */
pico_status pico_model_file_open(const char *path, const char *tokenizer, pico_model_file **out,
                                 pico_error *err);
void pico_model_file_close(pico_model_file *file); /* NULL is allowed */

/* The tensor called name, or NULL. */
const pico_file_tensor *pico_model_file_find(const pico_model_file *file, const char *name);

/* Says that a tensor's codes have been read and may not be again: what of them is a mapped file no
 * longer counts as memory of the process. They stay readable. */
void pico_model_file_release(const pico_model_file *file, const pico_file_tensor *tensor);

/* Writes GGUF v3, atomically. Whatever `file` says is kept: standard keys where they exist,
 * picochat.* keys for the rest; layouts without a ggml type as NAME.codes (I8) + NAME.scales. */
pico_status pico_gguf_write(const pico_model_file *file, const char *path, pico_error *err);

/* The same for big models: progress (bytes) and a way to stop (PICO_E_CANCELLED; nothing is left of
 * the file). hooks and both functions may be NULL. */
typedef struct pico_write_hooks {
    int (*should_stop)(void *arg);
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
} pico_write_hooks;
pico_status pico_gguf_write_with(const pico_model_file *file, const char *path,
                                 const pico_write_hooks *hooks, pico_error *err);

/* Bytes of codes and of scales of a weight, from dtype, rows, cols, group; 0 if that is not a valid
 * combination or overflows. */
uint64_t pico_weight_codes_bytes(uint32_t dtype, int64_t rows, int64_t cols);
uint64_t pico_weight_n_scales(uint32_t dtype, int64_t rows, int64_t cols, int64_t group);
const char *pico_dtype_name(uint32_t dtype);
/* The type that an option names: f32, f16, bf16, q8_0, q4_0, int8 (or i8); PICO_DTYPE_NONE: none. */
uint32_t pico_dtype_of_word(const char *word);
/* 1 if a weight of that layout may ask for its input to be rounded so. ROW and GROUP are for int8
 * and 4-bit codes that are whole numbers (I8, Q8_0, Q4_0); GROUP not where one scale serves the
 * matrix. */
int pico_weight_takes_input(uint32_t dtype, int64_t group, uint32_t input_quant);
/* 1 if columns[0..n) lie in [0, cols) and none occurs twice. scratch: (cols) bytes, any content. */
int pico_weight_columns_fit(const int32_t *columns, int64_t n, int64_t cols,
                            unsigned char *scratch);

/* The n rows that row[] names as a weight of its own: codes, scales and outliers in the arena, the rest
 * shared. Ids are rows of the weight. PICO_E_UNSUPPORTED for a layout that is not made of rows. */
pico_status pico_weight_gather(const pico_weight_desc *weight, const int32_t *row, uint32_t n,
                               pico_arena *arena, pico_weight_desc *out, pico_error *err);

/* Row `row` of a weight as F32 into out (cols): the slow, clear reference of every layout. */
void pico_weight_row_f32(const pico_weight_desc *weight, int64_t row, float *out);

#endif
