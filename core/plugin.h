/*
 * picochat plugin ABI, version 0.8: the only installed header, and the manual for plugin authors.
 *
 * A plugin is one shared object that exports one symbol, pico_plugin_query(). It describes itself
 * with constant data; the host checks that data, binds the options that it declares, and calls
 * create(). From then on the host calls the table of functions ("ops") of the plugin's kind, and
 * the plugin may call the table of functions that the host offers (struct pico_host).
 *
 * What this header is not: a library. It contains no code that a plugin links against, only types,
 * constants and a few static inline helpers, so that a plugin depends on nothing but libc.
 *
 * Contents
 *   1. Rules that hold everywhere        6. Backend          11. Trainer
 *   2. Status codes and errors           7. Attention        12. What the host offers
 *   3. Options                           8. Sampler          13. The plugin descriptor
 *   4. Tensors, data types, weights      9. Decoder
 *   5. The model description            10. Compressor
 *
 * 1. Rules that hold everywhere
 *
 * Versions. A plugin loads when its abi_major equals the host's and its abi_minor is one that the
 *   host still serves: PICO_ABI_MINOR_OLDEST to PICO_ABI_MINOR. Additions raise the latter; while the
 *   major number is 0, a change of what was there raises both.
 * Sizes. The descriptor and the tables that a plugin provides begin with struct_size, which it sets
 *   to sizeof(struct); the host copies the smaller of the two sizes into a zeroed struct, so an
 *   absent tail reads as 0 or NULL, which always means "not offered". A struct that a slot fills
 *   comes zeroed, with struct_size set by the host: the plugin writes what it knows. Structs that
 *   the host fills may grow at the end in later minor versions; a plugin never takes their sizeof
 *   to be the host's. Structs grow only at the end; numbers of enumerators are never reused. Structs
 *   that occur in arrays or inside others do not grow at all: pico_tensor, pico_kv_desc, pico_dist,
 *   pico_row, pico_sequence, pico_proposal, pico_outcome, pico_continuation, pico_hypothesis,
 *   pico_extension, pico_layer_desc, pico_tensor_info, pico_tensor_plan, pico_train_attend_args.
 * Required slots come first in each table and are marked; the others may be NULL.
 * Threads. [host] means: called from one host thread at a time, never concurrently for the same
 *   instance; all slots are [host] unless they say otherwise. [any] means: any thread at any time.
 * Memory. Who allocates frees. Pointers passed in are borrowed for the duration of the call unless
 *   the slot says otherwise. After create() and the slots marked "may allocate" a plugin allocates
 *   nothing: the token loop has no allocation, no file access and no environment access.
 * State. No mutable data at file scope: two live instances must work side by side.
 * Failure. A slot that fails returns a negative pico_status, writes a message to err where it takes
 *   one, and leaves its instance as it was before the call. A plugin never exits, aborts or prints.
 * Unloading. The host never calls dlclose.
 * Language. C11; the header also compiles as C17 and C++11. No bool, enum, long or bit-field in a
 *   struct; enumerators are stored as uint32_t.
 * Symbols in shape comments: rows = rows of this call, vocab = number of tokens, n_embd = width of
 *   the residual stream; tensors are row-major, the last dimension is contiguous, and rows
 *   may be strided.
 */
#ifndef PICO_PLUGIN_H
#define PICO_PLUGIN_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PICO_ABI_MAJOR 0u
#define PICO_ABI_MINOR 11u
#define PICO_ABI_MINOR_OLDEST 1u
#define PICO_ABI_MINOR_OLDEST_COMPRESSOR 3u /* pico_weight_desc, which those fill, has grown */
#define PICO_ABI_MINOR_OLDEST_TRAINER 6u    /* pico_loss_args, which those fill, has grown */
#define PICO_PLUGIN_MAGIC 0x4f434950u       /* "PICO" in little-endian byte order */

#if defined(__GNUC__)
#define PICO_PRINTF(fmt_arg, first_arg) __attribute__((format(printf, fmt_arg, first_arg)))
#define PICO_EXPORT __attribute__((visibility("default")))
#else
#define PICO_PRINTF(fmt_arg, first_arg)
#define PICO_EXPORT
#endif

/* ------------------------------------------------------------------------------------------------
 * 2. Status codes and errors
 */

typedef int32_t pico_status;

enum {
    PICO_OK = 0,
    PICO_E_NOMEM = -1,       /* memory of the host or of a device is exhausted */
    PICO_E_INVALID = -2,     /* an argument or an option has a value that makes no sense */
    PICO_E_UNSUPPORTED = -3, /* sensible, but this implementation does not do it */
    PICO_E_ABI = -4,         /* a plugin and the host do not fit together */
    PICO_E_IO = -5,          /* the operating system refused to read or write */
    PICO_E_DEVICE = -6,      /* no device, no driver, or the device failed */
    PICO_E_CANCELLED = -7,   /* the user asked to stop */
    PICO_E_CORRUPT = -8,     /* a file contradicts its format */
    PICO_E_LIMIT = -9,       /* more than was reserved, or more than fits */
    PICO_E_NOT_FOUND = -10   /* a file, key, tensor, plugin or token does not exist */
};

/* Caller-owned. Functions that take one accept NULL. Written only on failure, and always then. */
typedef struct pico_error {
    pico_status code;
    char message[508]; /* one sentence or two, UTF-8, no newline at the end */
} pico_error;

/* Formats a message into err (which may be NULL) and returns code, so that a failing function can
 * say `return pico_fail(err, PICO_E_INVALID, "width %u is not a multiple of 32", n);`. [any] */
static inline pico_status pico_fail(pico_error *err, pico_status code, const char *fmt, ...)
    PICO_PRINTF(3, 4);
static inline pico_status pico_fail(pico_error *err, pico_status code, const char *fmt, ...) {
    if (err != NULL) {
        va_list args;
        va_start(args, fmt);
        err->code = code;
        (void)vsnprintf(err->message, sizeof err->message, fmt, args);
        va_end(args);
    }
    return code;
}

/* ------------------------------------------------------------------------------------------------
 * 3. Options: declared by the plugin, read and checked by the host, bound into the plugin's struct
 *
 * A plugin NAME of kind K reads its own keys from the INI section [K.NAME], from
 * PICOCHAT_K_NAME_KEY in the environment and from --set K.NAME.key=value; the host prints the same
 * table for `picochat plugins show NAME`. The bound struct is passed to create() and is valid only
 * during that call; strings in it live as long as the instance.
 */

enum {
    PICO_OPT_BOOL = 1,   /* uint32_t, 0 or 1; written on/off, true/false, yes/no, 1/0 */
    PICO_OPT_INT = 2,    /* int64_t, within min..max */
    PICO_OPT_FLOAT = 3,  /* double, finite, within min..max */
    PICO_OPT_STRING = 4, /* const char *; NULL if there is neither a value nor a default */
    PICO_OPT_PATH = 5,   /* const char *; made absolute, relative to the INI file that holds it */
    PICO_OPT_ENUM = 6    /* uint32_t, index into choices */
};

enum {
    PICO_OPTF_REQUIRED = 1, /* there is no default: leaving it out is an error */
    PICO_OPTF_AUTO = 2      /* INT and FLOAT: the word auto is accepted too and is bound as -1 */
};

typedef struct pico_option {
    const char *name;           /* lower case, digits and underscores */
    uint32_t type;              /* PICO_OPT_x */
    uint32_t flags;             /* PICO_OPTF_x */
    uint32_t offset;            /* of the field in the bound struct: offsetof() */
    uint32_t reserved;          /* 0 */
    const char *def;            /* default as it would be written in the INI; NULL = 0 or NULL */
    double min, max;            /* INT and FLOAT, both inclusive; min == max means no limits */
    const char *unit;           /* "tokens", "bytes", ...; NULL if none */
    const char *const *choices; /* ENUM: NULL-terminated list of the words */
    const char *help;           /* one line: what it does */
} pico_option;

/* ------------------------------------------------------------------------------------------------
 * 4. Tensors, data types, weights
 */

enum {
    PICO_DTYPE_NONE = 0,
    PICO_DTYPE_F32 = 1,
    PICO_DTYPE_F16 = 2,  /* IEEE binary16 */
    PICO_DTYPE_BF16 = 3, /* upper half of an F32 */
    PICO_DTYPE_I32 = 4,
    PICO_DTYPE_I8 = 5,   /* int8 codes with separate scales: see pico_weight_desc */
    PICO_DTYPE_Q8_0 = 6, /* blocks of 32: F16 scale d, 32 int8; value = d * q (ggml layout) */
    PICO_DTYPE_Q4_0 = 7, /* blocks of 32: F16 scale d, 16 bytes; value j = d * (low nibble j - 8),
                            value j + 16 = d * (high nibble j - 8) (ggml layout) */
    PICO_DTYPE_NF4 = 8   /* 4-bit codes into a 16-value codebook with separate scales */
};

typedef struct pico_buffer pico_buffer; /* opaque; made and freed by one backend */
typedef struct pico_weight pico_weight; /* opaque; made and freed by one backend */

/* A view of a buffer. Slicing is arithmetic on offset, shape and stride, in any plugin, but only
 * the backend that made the buffer may look at the bytes. The last dimension is contiguous. */
typedef struct pico_tensor {
    pico_buffer *buffer;
    uint64_t offset;   /* bytes from the start of the buffer to element 0 */
    uint32_t dtype;    /* PICO_DTYPE_F32 or PICO_DTYPE_I32 for everything that ops take */
    uint32_t rank;     /* 1..4 */
    int64_t shape[4];  /* outermost first; unused ones are 1 */
    int64_t stride[4]; /* elements; stride[rank - 1] is 1 */
} pico_tensor;

/* A weight as a file or a compressor has it: value(row, col) = codes x scale. Row-major, rows are
 * the outputs of a product y = x W^T. Pointers are host memory, borrowed (see weight_create).
 *   F32, F16, BF16, Q8_0, Q4_0: codes only.
 *   I8:  codes int8, one scale for each `group` consecutive columns of a row (the last group of a
 *        row may be short); group = cols for one scale a row; group = 0 for one for the matrix.
 *   NF4: codes 4 bit, first element in the high nibble, each row on whole bytes; codebook[16],
 *        scales as for I8.
 * input_quant says how the input of a product may be rounded before it. PICO_INPUT_AUTO leaves it to
 * the backend, which rounds where it computes that way: to int8 for I8, Q8_0 and Q4_0, as ROW where
 * a row has one scale and as GROUP where it has more; to BF16 in prefill for BF16 and NF4. With AUTO,
 * ROW and GROUP rows of the prefill class may meet I8, Q8_0 and Q4_0 with both sides in BF16.
 * ROW and GROUP can be asked for with I8, Q8_0 and Q4_0, GROUP not with group = 0.
 * With input_perm, column j of codes belongs to input input_perm[j]; with input_scale, every column
 * of the effective weight, outliers too, is divided by its input's scale; outlier_col names
 * inputs. */
typedef struct pico_weight_desc {
    const void *codes;
    uint64_t codes_bytes;
    uint32_t dtype;       /* PICO_DTYPE_x */
    uint32_t scale_dtype; /* PICO_DTYPE_F32 or PICO_DTYPE_F16; NONE if there are no scales */
    const void *scales;   /* (rows, ceil(cols / group)) or (1); NULL if the layout has none */
    uint64_t n_scales;
    const float *codebook; /* (16) for NF4, else NULL */
    int64_t rows, cols;
    int64_t group;
    /* optional, NULL = absent; see the compressor kind */
    const float *input_scale;   /* (cols): x is divided by it before the product */
    const int32_t *input_perm;  /* (cols) */
    const int32_t *outlier_col; /* (n_outlier): columns kept apart in F16; their codes are 0 */
    const void *outlier_value;  /* F16 (rows, n_outlier) */
    int64_t n_outlier;
    uint32_t input_quant; /* PICO_INPUT_x */
    uint32_t reserved;    /* 0 */
} pico_weight_desc;

/* Rounding of the input of a product to int8, as codes = round(x * 127 / max|x|). Outlier columns
 * take no part in it: they meet the input as it is. */
enum {
    PICO_INPUT_AUTO = 0,
    PICO_INPUT_FLOAT = 1, /* not rounded to integers: weights are widened instead */
    PICO_INPUT_ROW = 2,   /* one scale for each row of x */
    PICO_INPUT_GROUP = 3  /* one scale for each group of columns that shares a weight scale */
};

enum {
    PICO_USE_PRODUCT = 1,   /* y = x W^T */
    PICO_USE_LOOKUP = 2,    /* rows of W by index; a tied embedding has both uses */
    PICO_USE_TRANSPOSED = 4 /* y = x W, in the backward pass */
};

/* ------------------------------------------------------------------------------------------------
 * 5. The model description: families are data
 *
 * One forward pass reads this description; there is no code path for a family. C = n_embd.
 *
 *   x = embed[token]  (+ position_embed[pos])     (embed_norm: x = norm(x))
 *   smear:   x_t += smear_lambda * sigmoid(smear_gate . x_t[0:smear_width]) * embed_x_(t-1)
 *   x0 = x
 *   for each layer:
 *     resid_lambdas:  x = r_i * x + s_i * x0
 *     a = norm(x);  q, k, v = a Wq, a Wk, a Wv  (+ biases)
 *     value embedding:  v_h += ve_scale * sigmoid(Wg_h . a[0:ve_width]) * ve[token][h]
 *     rope(q, k);  qk_norm: q = qk_scale * norm(q), k = qk_scale * norm(k), per head
 *     x += Wo attend(q, k, v)  (+ bias)
 *     m = norm(x);  x += W2 act(m W1)           or, gated,  x += W2 (act(m W1) * (m W3))
 *     layer == backout_layer:  b = x
 *   backout:  x -= backout_lambda * b
 *   h = norm(x);  logits = h Whead^T;  softcap: logits = c tanh(logits / c)
 *
 * A draft head predicts the tokens 1, 2, ... n_draft places on from h, in slots s = 0, 1, ...:
 *   m = relu(h Wfc1^T)^2
 *   logits_s = m Wfc2_s^T                               fc2 is (n_draft * n_vocab, draft_hidden)
 * with PICO_DRAFT_SHARED_OUTPUT (since minor 8):
 *   h_s = h + m Wfc2_s^T;  logits_s = h_s Whead^T, with the softcap; no further norm
 *                                                       fc2 is (n_draft * n_embd, draft_hidden)
 * so that with fc2 = 0 every slot says what the main head says. Whead is the model's own matrix; with
 * draft_vocab, logits are made of its rows draft_vocab[0], draft_vocab[1], ... alone.
 * With PICO_DRAFT_READS_TOKEN (since minor 10), of either form, the head is told the token that came
 * after h, and its slots predict the tokens 2, 3, ... n_draft + 1 places on from h:
 *   m = relu(h Wfc1^T + e Wtoken^T)^2                   Wtoken is (draft_hidden, n_embd)
 * with e the token's row of embed (embed_norm: its norm), without its place.
 */

enum { PICO_NORM_RMS = 1, PICO_NORM_LAYER = 2 };
enum { PICO_POS_ROPE = 1, PICO_POS_LEARNED = 2 };
enum {
    PICO_ROPE_PAIRS = 1, /* rotates (x[2j], x[2j+1]): Llama as in llama2.c and GGUF */
    PICO_ROPE_HALVES = 2 /* rotates (x[j], x[j + rope_dim/2]): nanochat, Hugging Face */
};
enum {
    PICO_ACT_SILU = 1,
    PICO_ACT_GELU_TANH = 2,
    PICO_ACT_GELU_ERF = 3,
    PICO_ACT_RELU_SQUARED = 4
};
enum {
    PICO_BIAS_QKV = 1,
    PICO_BIAS_OUT = 2,
    PICO_BIAS_FFN = 4,
    PICO_NORM_WEIGHT = 8, /* norms have a weight */
    PICO_NORM_BIAS = 16,  /* norms have a bias */
    PICO_EMBED_NORM = 32, /* the embedding is normalised */
    PICO_TIED_HEAD = 64,  /* the output matrix is the embedding */
    PICO_FFN_GATED = 128,
    PICO_QK_NORM = 256, /* q and k are normalised per head, after rope */
    PICO_RESID_LAMBDAS = 512,
    PICO_ROPE_REVERSED = 1024 /* rotates by -angle */
};
enum {
    PICO_DRAFT_SHARED_OUTPUT = 1, /* the draft head's logits are made by the output matrix */
    PICO_DRAFT_READS_TOKEN = 2    /* it reads the token after h, too */
};

typedef struct pico_layer_desc {
    uint32_t n_head;    /* query heads */
    uint32_t n_kv_head; /* KV heads; query head h reads KV head h / (n_head / n_kv_head) */
    uint32_t head_dim;
    uint32_t n_ff;
    int32_t window; /* key j is visible to query i when i - window <= j <= i; -1: all j <= i */
    uint32_t has_value_embed; /* 0 or 1 */
} pico_layer_desc;

/* Filled by the host; borrowed. Zero means "absent" wherever a feature is optional. */
typedef struct pico_model_desc {
    char family[24]; /* "llama", "gpt2", "nanochat"; for messages and files, not for decisions */
    uint32_t n_layer, n_embd, n_vocab;
    uint32_t n_vocab_rows; /* rows of the embedding and head, >= n_vocab when they are padded */
    uint32_t n_ctx_train;  /* positions seen in training */
    uint32_t flags;        /* PICO_BIAS_x, PICO_NORM_x, ... */
    uint32_t norm;         /* PICO_NORM_RMS or PICO_NORM_LAYER */
    float norm_eps;
    uint32_t pos;         /* PICO_POS_x */
    uint32_t rope_layout; /* PICO_ROPE_x */
    uint32_t rope_dim;    /* leading dimensions of a head that rotate */
    uint32_t rope_table;  /* PICO_DTYPE_F32, or BF16: the table was rounded in training */
    double rope_base;
    uint32_t act;        /* PICO_ACT_x */
    float attn_scale;    /* 0: 1 / sqrt(head_dim) */
    float qk_scale;      /* with PICO_QK_NORM */
    float logit_softcap; /* 0: none */
    uint32_t smear_width;
    uint32_t ve_width; /* inputs of the value-embedding gate */
    float ve_scale;
    int32_t backout_layer;        /* -1: none */
    uint32_t n_mtp_head;          /* heads that predict token t + 2, t + 3, ... */
    uint32_t n_draft;             /* slots of the draft head */
    uint32_t draft_hidden;        /* its inner width */
    const pico_layer_desc *layer; /* (n_layer) */
    /* since minor 8 */
    uint32_t draft_flags;       /* PICO_DRAFT_x */
    uint32_t n_draft_vocab;     /* tokens that a draft head with a shared output knows; 0: all */
    const int32_t *draft_vocab; /* (n_draft_vocab) their ids, ascending */
} pico_model_desc;

/* ------------------------------------------------------------------------------------------------
 * 6. Backend: where numbers live and how they are computed. File backend_NAME.so, [backend]
 *
 * Ops are eager, in order and asynchronous: an op may return before it has run, and only
 * buffer_read and sync block. A failing device is remembered and reported by the next buffer_read
 * or sync; an op itself returns an error only for arguments that it cannot queue. Ops allocate
 * nothing: reserve() has sized their scratch memory. Buffers and weights are made before the first
 * op after a reserve(), and later only after another one. Ids, positions, page tables and logit
 * edits are device data that the host writes once per forward pass, before its first op, so that a
 * step can be recorded and replayed with new data. The host asks `supports` once for what a model
 * needs before it uses it; a backend with the required slots alone, in F32, runs every F32 model.
 *
 * Batch invariance. The rows of a call are sorted into two classes: rows [0, n_decode) come from
 * sequences that bring at most PICO_DECODE_ROWS_MAX rows to the call, the others are prefill. If
 * caps has PICO_CAP_BATCH_INVARIANT, the result of a row depends on its own data and its class
 * alone, bit for bit: not on the other rows of the call, the thread count or the row's index.
 */

#define PICO_DECODE_ROWS_MAX 32u
#define PICO_PAGE_POSITIONS 64u /* positions in a KV page; page p holds positions 64p .. 64p+63 */

enum {
    PICO_CAP_BATCH_INVARIANT = 1,
    PICO_CAP_HOST_MEMORY = 2 /* buffer_host gives a pointer for every buffer */
};

typedef struct pico_backend_caps {
    uint32_t struct_size;
    uint32_t flags;        /* PICO_CAP_x */
    char device[96];       /* "AMD EPYC, avx512, 2 threads" */
    uint64_t memory_bytes; /* of the device; 0 = unknown */
    uint64_t free_bytes;   /* of the device, now; 0 = unknown */
} pico_backend_caps;

/* What a model and its sessions will ask for at most; see reserve. */
typedef struct pico_reserve {
    uint32_t max_rows; /* rows of one call */
    uint32_t max_in;   /* widest input of a product */
    uint32_t max_out;  /* widest output of a product, the head included */
    uint32_t max_head; /* most query heads of a layer */
    uint32_t max_head_dim;
    uint32_t max_positions;  /* longest timeline */
    uint32_t max_logit_rows; /* rows of one argmax, top_k or logit_edit call */
    uint32_t max_top_k;
    uint32_t max_edits;
} pico_reserve;

enum {
    PICO_OP_PRODUCT = 1, /* linear with a weight of this dtype */
    PICO_OP_LOOKUP = 2,  /* embed with a weight of this dtype */
    PICO_OP_KV = 3,      /* kv_store, attend and kv_copy with pages of this dtype */
    PICO_OP_ROPE = 4,    /* layout in dtype */
    PICO_OP_ACT = 5      /* activation in dtype */
};

/* How one layer stores K and V. The layout inside a page is the backend's own affair. */
typedef struct pico_kv_desc {
    uint32_t dtype;               /* PICO_DTYPE_F32, F16, BF16 or Q8_0 */
    uint32_t n_kv_head, head_dim; /* Q8_0: int8 with a scale for 32 values; head_dim % 32 == 0 */
} pico_kv_desc;

/* Device data about the rows of one forward pass, all I32. A cell is a place for one position's K
 * and V: page * PICO_PAGE_POSITIONS + offset. Positions [0, base) of a row's sequence are read
 * through the page table; positions base, base + 1, ... come from the listed cells (its ancestors
 * in a tree of proposals, and itself). For a plain chain base is pos + 1 and the list is empty. */
typedef struct pico_batch {
    uint32_t n_rows;
    uint32_t n_decode;     /* rows [0, n_decode) are of the decode class */
    uint32_t n_pages;      /* no row reads more pages than this (a launch bound) */
    uint32_t has_tree;     /* 0: every anc list is empty */
    pico_tensor token;     /* (rows) */
    pico_tensor prev;      /* (rows) token before it in the timeline, -1 at the start */
    pico_tensor pos;       /* (rows) */
    pico_tensor slot;      /* (rows) row of the page table */
    pico_tensor base;      /* (rows) */
    pico_tensor anc_begin; /* (rows + 1) into anc_cell */
    pico_tensor anc_cell;  /* (at most rows * PICO_DECODE_ROWS_MAX) */
} pico_batch;

typedef struct pico_embed_args {
    const pico_weight *table; /* (table rows, width) */
    pico_tensor index;        /* I32 (rows); a negative index gives a row of zeros */
    pico_tensor out;          /* F32 (rows, width) */
    uint32_t accumulate;      /* 1: out += row */
} pico_embed_args;

typedef struct pico_norm_args {
    uint32_t kind;      /* PICO_NORM_x */
    float eps;          /* y = x / sqrt(mean(x^2) + eps), or (x - mean) / sqrt(var + eps) */
    float scale;        /* multiplies the result; 1 normally */
    pico_tensor x;      /* F32 (rows, width) or (rows, heads, width): over the last dimension */
    pico_tensor weight; /* F32 (width); buffer NULL = none */
    pico_tensor bias;   /* F32 (width); buffer NULL = none */
    pico_tensor y;      /* same shape; may be x itself */
} pico_norm_args;

typedef struct pico_linear_args {
    const pico_weight *weight; /* (out, in) */
    pico_tensor x;             /* F32 (rows, in), rows may be strided */
    pico_tensor bias;          /* F32 (out); buffer NULL = none */
    pico_tensor y;             /* F32 (rows, out), rows may be strided; does not overlap x */
    uint32_t n_decode;         /* rows [0, n_decode) are of the decode class */
    uint32_t accumulate;       /* 1: y += x W^T + bias */
} pico_linear_args;

typedef struct pico_rope_args {
    uint32_t layout;  /* PICO_ROPE_x */
    uint32_t reverse; /* 1: rotate by -angle */
    uint32_t rope_dim;
    pico_tensor x;        /* F32 (rows, heads, head_dim), in place; rows may be strided */
    pico_tensor pos;      /* I32 (rows) */
    pico_tensor cos, sin; /* F32 (positions, rope_dim / 2) */
} pico_rope_args;

typedef struct pico_kv_store_args {
    pico_kv_desc kv;
    pico_buffer *pages; /* n_pages * kv_page_bytes */
    pico_tensor k, v;   /* F32 (rows, n_kv_head, head_dim), rows may be strided */
    pico_tensor cell;   /* I32 (rows); negative: do not store */
} pico_kv_store_args;

/* Copies cells, for K and V of one layer. The host lists no cell both as source and as target. */
typedef struct pico_kv_copy_args {
    pico_kv_desc kv;
    pico_buffer *pages;
    pico_tensor from, to; /* I32 (n) cells */
} pico_kv_copy_args;

typedef struct pico_attend_args {
    pico_kv_desc kv;
    const pico_buffer *pages;
    pico_tensor
        page_table; /* I32 (slots, max pages): page of positions 64p..64p+63, -1 = dropped */
    const pico_batch *batch;
    uint32_t n_head;
    float scale;     /* scores = scale * q . k */
    int32_t window;  /* as in pico_layer_desc */
    uint32_t n_sink; /* positions [0, n_sink) stay visible whatever the window */
    pico_tensor q;   /* F32 (rows, n_head, head_dim), rows may be strided */
    pico_tensor out; /* F32 (rows, n_head, head_dim) */
} pico_attend_args;

typedef struct pico_act_args {
    uint32_t kind;    /* PICO_ACT_x */
    pico_tensor x;    /* F32 (rows, width), rows may be strided */
    pico_tensor gate; /* same shape: y = act(x) * gate; buffer NULL = none */
    pico_tensor y;    /* same shape; may be x */
} pico_act_args;

/* y[r, h, :] += factor * sigmoid(g[r, h]) * u[r, h, :] */
typedef struct pico_gate_args {
    float factor;
    pico_tensor scalar; /* F32 (1), multiplies factor; buffer NULL = 1 */
    pico_tensor g;      /* F32 (rows, heads) */
    pico_tensor u;      /* F32 (rows, heads, width) */
    pico_tensor y;      /* F32 (rows, heads, width) */
} pico_gate_args;

/* y = a * x + b * y, where a and b are scalars in device memory times constants. With the constant
 * b = 0, y is not read. */
typedef struct pico_axpby_args {
    float a, b;
    pico_tensor a_scalar, b_scalar; /* F32 (1); buffer NULL = 1 */
    pico_tensor x, y;               /* F32 (rows, width) */
} pico_axpby_args;

typedef struct pico_softcap_args {
    float cap;     /* x = cap * tanh(x / cap) */
    pico_tensor x; /* F32 (rows, width), in place */
} pico_softcap_args;

/* For each edit e of row[e], token[e]: z -= sub[e]; z = z > 0 ? z / rep[e] : z * rep[e]; z +=
 * bias[e]. No (row, token) occurs twice. */
typedef struct pico_logit_edit_args {
    pico_tensor logits;         /* F32 (rows, vocab) */
    pico_tensor row, token;     /* I32 (n) */
    pico_tensor sub, rep, bias; /* F32 (n) */
} pico_logit_edit_args;

typedef struct pico_argmax_args {
    pico_tensor logits; /* F32 (rows, vocab); NaN never wins; the lowest index wins ties */
    pico_tensor index;  /* I32 (rows); -1 where no value is above -inf */
} pico_argmax_args;

typedef struct pico_top_k_args {
    pico_tensor logits;    /* F32 (rows, vocab) */
    uint32_t k;            /* 1..vocab */
    float inv_temperature; /* >= 0 */
    pico_tensor index;     /* I32 (rows, k), best first; ties by lowest index */
    pico_tensor value;     /* F32 (rows, k): the logits themselves */
    pico_tensor log_sum;   /* F32 (rows): ln sum over the vocabulary of exp(inv_temperature * z) */
} pico_top_k_args;

/* Several products of the same input; y[i] = x W[i]^T (+ bias[i]), as n calls of linear would give,
 * bit for bit. */
typedef struct pico_linear_many_args {
    uint32_t n; /* 1..4 */
    uint32_t n_decode;
    pico_tensor x; /* F32 (rows, in) */
    const pico_weight *weight[4];
    pico_tensor bias[4]; /* buffer NULL = none */
    pico_tensor y[4];    /* F32 (rows, out[i]) */
} pico_linear_many_args;

/* A gated feed-forward input: y = act(x W1^T) * (x W3^T), as linear, linear, activation would give,
 * bit for bit. */
typedef struct pico_linear_gated_args {
    const pico_weight *w1, *w3; /* (n_ff, in) */
    uint32_t act;               /* PICO_ACT_x */
    uint32_t n_decode;
    pico_tensor x; /* F32 (rows, in) */
    pico_tensor y; /* F32 (rows, n_ff) */
} pico_linear_gated_args;

typedef struct pico_backend_ops {
    uint32_t struct_size;
    uint32_t reserved;

    /* -- required -- */
    pico_status (*caps)(void *self, pico_backend_caps *out);

    /* Buffers. bytes may be 0. The content is undefined at first, aligned to at least 64 bytes. */
    pico_status (*buffer_alloc)(void *self, uint64_t bytes, pico_buffer **out, pico_error *err);
    void (*buffer_free)(void *self, pico_buffer *buffer); /* NULL is allowed; waits for its users */
    /* Copies into the buffer, in order with the ops; src may be reused when it returns. */
    pico_status (*buffer_write)(void *self, pico_buffer *buffer, uint64_t offset, const void *src,
                                uint64_t bytes);
    /* Waits for what was queued, then copies out. Reports the failure of an earlier op. */
    pico_status (*buffer_read)(void *self, const pico_buffer *buffer, uint64_t offset, void *dst,
                               uint64_t bytes, pico_error *err);
    pico_status (*buffer_copy)(void *self, pico_buffer *dst, uint64_t dst_offset,
                               const pico_buffer *src, uint64_t src_offset, uint64_t bytes);
    pico_status (*sync)(void *self, pico_error *err);

    /* PICO_OK, or PICO_E_UNSUPPORTED. op is PICO_OP_x, dtype as that enumerator says. Pure. */
    pico_status (*supports)(void *self, uint32_t op, uint32_t dtype);
    /* Sizes all scratch memory; may allocate. Called once or more, each time with what the largest
     * user so far needs; never while ops are queued. */
    pico_status (*reserve)(void *self, const pico_reserve *need, pico_error *err);
    uint64_t (*kv_page_bytes)(void *self, const pico_kv_desc *kv); /* one layer's K and V; 0 = no */

    /* Weights; may allocate. The backend may keep pointers into desc->codes and ->scales if
     * `stays` is 1 (the memory outlives the weight, unchanged); otherwise it copies what it needs.
     * It may repack. weight_read gives the original codes and scales back, for saving. */
    pico_status (*weight_create)(void *self, const pico_weight_desc *desc, uint32_t uses,
                                 uint32_t stays, pico_weight **out, pico_error *err);
    void (*weight_free)(void *self, pico_weight *weight); /* NULL is allowed */
    pico_status (*weight_read)(void *self, const pico_weight *weight, void *codes, void *scales,
                               pico_error *err); /* sizes as in desc; either may be NULL */

    pico_status (*embed)(void *self, const pico_embed_args *args);
    pico_status (*norm)(void *self, const pico_norm_args *args);
    pico_status (*linear)(void *self, const pico_linear_args *args);
    pico_status (*rope)(void *self, const pico_rope_args *args);
    pico_status (*kv_store)(void *self, const pico_kv_store_args *args);
    pico_status (*kv_copy)(void *self, const pico_kv_copy_args *args);
    pico_status (*attend)(void *self, const pico_attend_args *args);
    pico_status (*activation)(void *self, const pico_act_args *args);
    pico_status (*gate)(void *self, const pico_gate_args *args);
    pico_status (*axpby)(void *self, const pico_axpby_args *args);
    pico_status (*softcap)(void *self, const pico_softcap_args *args);
    pico_status (*logit_edit)(void *self, const pico_logit_edit_args *args);
    pico_status (*argmax)(void *self, const pico_argmax_args *args);
    pico_status (*top_k)(void *self, const pico_top_k_args *args);

    /* -- optional -- */
    /* Host pointer to the buffer's bytes, valid until the next op is queued, after sync; NULL if
     * the memory is not the host's. Saves a copy. */
    void *(*buffer_host)(void *self, pico_buffer *buffer);
    pico_status (*linear_many)(void *self, const pico_linear_many_args *args);
    pico_status (*linear_gated)(void *self, const pico_linear_gated_args *args);
    /* A table by name: "pico.train/1", "pico.capture/1"; NULL if not offered. */
    const void *(*extension)(void *self, const char *id);
} pico_backend_ops;

/* ---- the extension "pico.train/1" of a backend: backward passes, losses, optimisers ----
 *
 * ops->extension(self, PICO_TRAIN_EXTENSION) gives a pico_train_ops; its slots take the backend's
 * instance and keep to the rules of this section: eager, in order, asynchronous, no allocation but
 * in reserve. Parameters in training are F32 tensors in buffers, not weights; the other ops of the
 * backend (norm, rope, activation, gate, axpby, softcap) serve the forward pass as they are. Matrices
 * may have strided rows unless a slot says otherwise. Results are the same bits from run to run, and
 * on a backend with PICO_CAP_BATCH_INVARIANT for any number of threads.
 * A row is a token: rows = n_seq * length, row s * length + t is position t of sequence s.
 * Symbols: dy is the gradient of the loss with respect to y. Gradients of parameters are added to
 * what is there; gradients of activations are written over it, unless `accumulate` is 1. */

#define PICO_TRAIN_EXTENSION "pico.train/1"

/* The largest that will be asked for; see pico_backend_ops.reserve. */
typedef struct pico_train_reserve {
    uint32_t max_rows;   /* tokens of one call */
    uint32_t max_dim;    /* largest extent of any matrix, rows and columns of parameters included */
    uint32_t max_length; /* longest sequence */
    uint32_t max_head;   /* most query heads */
    uint32_t max_head_dim; /* widest head */
} pico_train_reserve;

enum {
    PICO_COMPUTE_F32 = 0,
    PICO_COMPUTE_BF16 = 1 /* a and b rounded to BF16 (to nearest even), sums in F32 */
};

/* c = alpha op(a) op(b) + beta c, plus bias on every row; op transposes where its flag is 1. c does
 * not overlap a or b. With beta = 0, c is not read. y = x W^T is (a, b, transpose_b) = (x, W, 1),
 * dx = dy W is (dy, W), dW += dy^T x is (dy, x, transpose_a = 1, beta = 1). */
typedef struct pico_gemm_args {
    uint32_t transpose_a, transpose_b;
    float alpha, beta;
    pico_tensor a;    /* F32 (m, k); with transpose_a (k, m) */
    pico_tensor b;    /* F32 (k, n); with transpose_b (n, k) */
    pico_tensor bias; /* F32 (n); buffer NULL = none */
    pico_tensor c;    /* F32 (m, n) */
    uint32_t compute; /* PICO_COMPUTE_x; BF16 where features has it */
    uint32_t reserved;
} pico_gemm_args;

/* gather: rows[r] = table[index[r]], or += with accumulate; a negative index gives zeros.
 * scatter: table[index[r]] += rows[r], r ascending; a negative index adds nothing. */
typedef struct pico_gather_args {
    pico_tensor table; /* F32 (table rows, width) */
    pico_tensor index; /* I32 (rows), below the number of table rows */
    pico_tensor rows;  /* F32 (rows, width) */
    uint32_t accumulate;
    uint32_t reserved;
} pico_gather_args;

/* Of y = scale * (weight * n + bias), n = (x - mean) / sqrt(var + eps), or x / sqrt(mean(x^2) +
 * eps). */
typedef struct pico_norm_backward_args {
    uint32_t kind; /* PICO_NORM_x */
    float eps, scale;
    uint32_t accumulate; /* 1: dx is added to */
    pico_tensor x, dy;   /* F32 (rows, width) or (rows, heads, width): over the last dimension */
    pico_tensor weight;  /* F32 (width); buffer NULL = none, as in the next two */
    pico_tensor dx;      /* same shape as x; may be dy */
    pico_tensor dweight; /* F32 (width) */
    pico_tensor dbias;   /* F32 (width) */
} pico_norm_backward_args;

/* Of y = act(x) * gate. */
typedef struct pico_act_backward_args {
    uint32_t kind;     /* PICO_ACT_x */
    pico_tensor x, dy; /* F32 (rows, width) */
    pico_tensor gate;  /* same shape; buffer NULL = none, as is dgate then */
    pico_tensor dx;    /* same shape; may be x or dy */
    pico_tensor dgate; /* same shape; may be gate */
} pico_act_backward_args;

/* Of y += factor * scalar * sigmoid(g) * u. dy stays as it is: y passes it on. */
typedef struct pico_gate_backward_args {
    float factor;
    pico_tensor scalar;  /* F32 (1); buffer NULL = 1 */
    pico_tensor g;       /* F32 (rows, heads) */
    pico_tensor u, dy;   /* F32 (rows, heads, width) */
    pico_tensor dg;      /* F32 (rows, heads); may be g */
    pico_tensor du;      /* F32 (rows, heads, width); may be u */
    pico_tensor dscalar; /* F32 (1); buffer NULL = none */
} pico_gate_backward_args;

/* Of y = cap * tanh(x / cap): dy *= 1 - (y / cap)^2, in place. */
typedef struct pico_softcap_backward_args {
    float cap;
    pico_tensor y, dy; /* F32 (rows, width) */
} pico_softcap_backward_args;

/* Causal attention within each sequence, without pages: key j is visible to query i of the same
 * sequence when j <= i and (window < 0, or j >= i - window, or j < n_sink). */
typedef struct pico_train_attend_args {
    uint32_t n_seq, length;
    float scale;      /* scores = scale * q . k */
    int32_t window;   /* as in pico_layer_desc */
    uint32_t n_sink;  /* as in pico_attend_args */
    uint32_t compute; /* PICO_COMPUTE_x, since minor 9: BF16 allows products of rounded factors, of
                         probabilities and of gradients of scores, too; a backend may ignore it */
    pico_tensor q;    /* F32 (rows, n_head, head_dim) */
    pico_tensor k, v; /* F32 (rows, n_kv_head, head_dim) */
    pico_tensor out;  /* F32 (rows, n_head, head_dim) */
    pico_tensor lse;  /* F32 (rows, n_head), contiguous: ln of the sum of exp(score) */
} pico_train_attend_args;

/* The probabilities are computed again from q, k and lse. dq, dk, dv overlap none of the others. */
typedef struct pico_attend_backward_args {
    pico_train_attend_args forward; /* as it ran, with what it wrote */
    pico_tensor dout;               /* F32 (rows, n_head, head_dim) */
    pico_tensor dq;                 /* F32 (rows, n_head, head_dim) */
    pico_tensor dk, dv;             /* F32 (rows, n_kv_head, head_dim) */
    pico_tensor work; /* F32 (2 * rows, n_head * head_dim), contiguous; only where n_head differs
                         from n_kv_head, else buffer NULL */
} pico_attend_backward_args;

/* Losses of rows of logits z, and their gradient, in one call.
 *   ce[r] = -ln softmax(z[r])[target[r]]
 *   kl[r] = sum_v p (ln p - ln q), p = softmax(teacher / temperature), q = softmax(z / temperature)
 *   d[r]  = hard * dce[r]/dz + soft * dkl[r]/dz
 * A row without a target (negative) has ce 0 and no gradient from it; a row whose teacher_row is
 * negative, the same with kl. Columns with mask 0 have probability 0 in p and q and gradient 0; a
 * target is never one of them. With teacher_top_k, p is cut to the teacher's best tokens before it is
 * made a distribution: columns whose teacher logit is less than the k-th largest of the row (among
 * those with mask 1) have p = 0; ties with it stay. q is never cut. Weights per row (1 / rows,
 * temperature^2) are the caller's, in hard and soft. */
typedef struct pico_loss_args {
    float hard, soft;
    float temperature;       /* of kl; above 0 */
    uint32_t accumulate;     /* 1: d is added to */
    pico_tensor logits;      /* F32 (rows, vocab) */
    pico_tensor target;      /* I32 (rows); buffer NULL = none */
    pico_tensor teacher;     /* F32 (teacher rows, vocab); buffer NULL = none */
    pico_tensor teacher_row; /* I32 (rows) into teacher; buffer NULL: row r */
    pico_tensor mask;        /* I32 (vocab), 0 or 1; buffer NULL: all 1 */
    pico_tensor d;           /* F32 (rows, vocab); may be logits or, if teacher_row is not given,
                                teacher; buffer NULL: values only */
    pico_tensor ce, kl;      /* F32 (rows); buffer NULL = not wanted */
    uint32_t teacher_top_k;  /* since minor 6. 0, or vocab and more: all; see features */
    uint32_t reserved;
} pico_loss_args;

enum {
    PICO_REDUCE_DOT = 1,          /* out (1): sum of x * y */
    PICO_REDUCE_COLUMN_SUM = 2,   /* out (cols): sum over rows */
    PICO_REDUCE_NORM = 3,         /* out (1): sqrt of the sum of x^2 */
    PICO_REDUCE_ROW_SQUARE = 4,   /* out (rows): mean of x^2 of each row */
    PICO_REDUCE_COLUMN_SQUARE = 5 /* out (cols): mean of x^2 of each column */
};

typedef struct pico_reduce_args {
    uint32_t kind;       /* PICO_REDUCE_x */
    uint32_t accumulate; /* 1: out is added to */
    float factor;        /* multiplies the result */
    pico_tensor x;       /* F32 (rows, cols) */
    pico_tensor y;       /* F32 (rows, cols), for DOT */
    pico_tensor out;     /* F32, contiguous */
} pico_reduce_args;

/* x = value; or, with a scalar, x = x * value / (a * scalar + b). */
typedef struct pico_scale_args {
    float value, a, b;
    pico_tensor scalar; /* F32 (1); buffer NULL: x is filled with value */
    pico_tensor x;      /* F32 (rows, cols) */
} pico_scale_args;

/* p *= 1 - lr * weight_decay;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
 * p -= lr * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps), with g = grad_scale * grad.
 * All four are F32 of the same number of elements, contiguous. */
typedef struct pico_adamw_args {
    float lr, beta1, beta2, eps, weight_decay, grad_scale;
    uint64_t step; /* 1 for the first */
    pico_tensor p, grad, m, v;
} pico_adamw_args;

/* The end of a Muon step, for an update x (rows, cols) that is as good as orthogonal: v = mean of x^2
 * of each row if rows >= cols, else of each column; second = beta2 second + (1 - beta2) v;
 * r = 1 / sqrt(max(second, 1e-10)); x *= r * sqrt(sum v) / sqrt(sum v r^2);
 * p -= lr * x + lr * weight_decay * p where x and p have the same sign, else lr * x. */
typedef struct pico_muon_args {
    float lr, beta2, weight_decay;
    uint32_t reserved;
    pico_tensor x, p;   /* F32 (rows, cols) */
    pico_tensor second; /* F32 (max(rows, cols)), contiguous */
} pico_muon_args;

/* One of the matrices of muon_many: F32 (rows, cols), contiguous; see pico_update for what they are. */
typedef struct pico_muon_matrix {
    pico_tensor grad, p, momentum;
    pico_tensor second; /* F32 (max(rows, cols)) */
} pico_muon_matrix;

/* A whole step of Muon for matrices of one shape: as pico_update says, with lr as it is in
 * pico_muon_args. Products in BF16 may leave what they give in BF16, too. */
typedef struct pico_muon_many_args {
    uint32_t n;       /* matrices */
    uint32_t n_step;  /* iterations */
    uint32_t compute; /* PICO_COMPUTE_x */
    float momentum, grad_scale;
    float lr, beta2, weight_decay;
    const float *factor;            /* (n_step, 3) a, b, c of each iteration */
    const pico_muon_matrix *matrix; /* (n) */
} pico_muon_many_args;

enum {
    PICO_TRAIN_HAS_TOP_K = 1, /* loss takes teacher_top_k */
    PICO_TRAIN_HAS_BF16 = 2,  /* gemm takes PICO_COMPUTE_BF16, and is no slower with it */
    /* since minor 9. What only products in BF16 read may be a tensor of that type: a and b of gemm, y
     * of norm and activation, dx and dgate of act_backward, which then overlap nothing. Rows are a
     * multiple of 8 values apart and begin at multiples of 16 bytes; those written are contiguous. */
    PICO_TRAIN_HAS_BF16_TENSORS = 4
};

typedef struct pico_train_ops {
    uint32_t struct_size;
    uint32_t reserved;
    /* -- required -- */
    pico_status (*reserve)(void *self, const pico_train_reserve *need, pico_error *err);
    pico_status (*gemm)(void *self, const pico_gemm_args *args);
    pico_status (*gather)(void *self, const pico_gather_args *args);
    pico_status (*scatter)(void *self, const pico_gather_args *args); /* accumulate is ignored */
    pico_status (*norm_backward)(void *self, const pico_norm_backward_args *args);
    pico_status (*act_backward)(void *self, const pico_act_backward_args *args);
    pico_status (*gate_backward)(void *self, const pico_gate_backward_args *args);
    pico_status (*softcap_backward)(void *self, const pico_softcap_backward_args *args);
    pico_status (*attend)(void *self, const pico_train_attend_args *args);
    pico_status (*attend_backward)(void *self, const pico_attend_backward_args *args);
    pico_status (*loss)(void *self, const pico_loss_args *args);
    pico_status (*reduce)(void *self, const pico_reduce_args *args);
    pico_status (*scale)(void *self, const pico_scale_args *args);
    pico_status (*adamw)(void *self, const pico_adamw_args *args);
    pico_status (*muon)(void *self, const pico_muon_args *args);
    /* -- optional -- */
    /* PICO_TRAIN_HAS_x together. NULL: none. */
    uint32_t (*features)(void *self);
    /* since minor 9. PICO_E_UNSUPPORTED, before anything is queued, where the ops above serve as
     * well; NULL: always. */
    pico_status (*muon_many)(void *self, const pico_muon_many_args *args);
} pico_train_ops;

/* ---- the extension "pico.capture/1" of a backend: the ops of a step recorded once and replayed ----
 *
 * ops->extension(self, PICO_CAPTURE_EXTENSION) gives a pico_capture_ops; its slots take the backend's
 * instance. What device data hold when a recording is launched are its data: so a host that writes
 * ids, positions, cells and tables before a step launches the same recording for every step of a
 * shape. A launch is one op: in order, asynchronous, with the bits that the ops themselves give.
 * A recording refers to the buffers and weights of its ops, and to the scratch memory of the last
 * reserve: it is freed before they are, and launch refuses one that is older than that reserve. */

#define PICO_CAPTURE_EXTENSION "pico.capture/1"

typedef struct pico_recording pico_recording; /* opaque; made and freed by one backend */

typedef struct pico_capture_ops {
    uint32_t struct_size;
    uint32_t reserved;
    /* -- required -- */
    /* From here to end, ops are recorded and do not run; the host calls nothing else in between. */
    pico_status (*begin)(void *self, pico_error *err);
    /* May allocate. keep 0: what was recorded is dropped, because an op failed; *out is NULL then. */
    pico_status (*end)(void *self, uint32_t keep, pico_recording **out, pico_error *err);
    /* PICO_E_LIMIT: there was a reserve since, it has to be recorded again. */
    pico_status (*launch)(void *self, const pico_recording *recording);
    void (*free)(void *self, pico_recording *recording); /* NULL is allowed; waits for its runs */
} pico_capture_ops;

/* ------------------------------------------------------------------------------------------------
 * 7. Attention: what attends to what, and what is kept. File attn_NAME.so, [attention]
 *
 * Describes; never computes. Core does the projections, rope and norms, owns the KV pages and calls
 * the backend's attend with what `layer` says.
 */

typedef struct pico_attention_check {
    uint32_t struct_size;
    uint32_t want_kv_heads; /* 0: the model is fine as it is. n: pool K and V to n heads first */
} pico_attention_check;

typedef struct pico_attention_layer {
    uint32_t struct_size;
    uint32_t n_head, n_kv_head, head_dim;
    float scale;
    int32_t window;    /* as in pico_layer_desc */
    uint32_t n_sink;   /* leading positions that the window never hides */
    uint32_t kv_dtype; /* as in pico_kv_desc; NONE: the host's `kv_type` decides */
} pico_attention_layer;

typedef struct pico_attention_ops {
    uint32_t struct_size;
    uint32_t reserved;
    /* -- required -- */
    /* PICO_OK if the plugin can run the model (after the conversion it asks for), else
     * PICO_E_UNSUPPORTED with a message that names both numbers. */
    pico_status (*check)(void *self, const pico_model_desc *model, pico_attention_check *out,
                         pico_error *err);
    /* Fills out for one layer of a model that passed check (and was converted if asked). Pure. */
    pico_status (*layer)(void *self, const pico_model_desc *model, uint32_t index,
                         pico_attention_layer *out, pico_error *err);
} pico_attention_ops;

/* ------------------------------------------------------------------------------------------------
 * 8. Sampler: logits -> a distribution. File sample_NAME.so, [sampler]
 *
 * The host applies penalties and logit bias before, and draws after: a sampler only says how
 * probable each token is, because speculative decoding needs distributions, not draws.
 */

enum {
    PICO_NEED_ARGMAX = 1, /* only the best token counts; dist is not called */
    PICO_NEED_TOP_K = 2,  /* the best k candidates, and log_sum */
    PICO_NEED_FULL = 3    /* the whole row */
};

typedef struct pico_sampler_need {
    uint32_t struct_size;
    uint32_t kind;         /* PICO_NEED_x */
    uint32_t k;            /* with TOP_K; the host clips it to the vocabulary */
    float inv_temperature; /* log_sum = ln sum exp(inv_temperature * z) over the vocabulary */
    uint32_t state_bytes;  /* per sequence; 0: stateless. At most 256 */
} pico_sampler_need;

/* Candidates of one row. Filled by the host. */
typedef struct pico_candidates {
    uint32_t n;
    uint32_t n_vocab;
    /* (n) best first, ties by lowest id; NULL: entry i is token i, unsorted */
    const int32_t *token;
    const float *logit; /* (n) */
    double log_sum;     /* as asked for in need; NaN when n == n_vocab */
} pico_candidates;

/* A distribution: token ids with probabilities that sum to 1, in any order, no id twice. The arrays
 * belong to the host and have room for the whole vocabulary, so they also serve as work space. */
typedef struct pico_dist {
    uint32_t n;
    uint32_t capacity;
    int32_t *token;
    double *p;
} pico_dist;

typedef struct pico_sampler_ops {
    uint32_t struct_size;
    uint32_t reserved;
    /* -- required -- */
    /* What dist wants to see. Constant over the life of the instance. */
    pico_status (*need)(void *self, pico_sampler_need *out);
    /* Pure in row and state. If the candidates do not cover what it must know (say, top-p needs
     * more than k), returns PICO_E_LIMIT and is called again with the whole row. [any] */
    pico_status (*dist)(void *self, const pico_candidates *row, const void *state, pico_dist *out);
    /* -- optional: stateful samplers, both or neither -- */
    /* Sets the state of a new sequence. The host keeps one state per position of the timeline and
     * rolls back with it. */
    void (*state_init)(void *self, void *state);
    /* state after `token` was taken from `dist`; next may not alias state. */
    void (*state_next)(void *self, const void *state, const pico_dist *dist, int32_t token,
                       void *next);
} pico_sampler_ops;

/* ------------------------------------------------------------------------------------------------
 * 9. Decoder: which tokens to try next. File decode_NAME.so, [decoder]
 *
 * The host owns the loop and the only verification code. One round, for all live sequences at once:
 *   propose  -> drafts, a chain or a tree, for each sequence (none is fine: plain decoding)
 *   forward  -> the newest token and all drafts of all sequences, in one pass of the target
 *   verify   -> the host draws the target's token at each node and follows matching drafts
 *   observe  -> each sequence learns what was accepted: a drafts and one token more
 * Invariant: the KV pages hold every token of a timeline but the newest. A decoder never runs the
 * target and cannot change the text: with accept = match the output is the plain decoder's.
 *
 * Steering (since minor 2). A decoder that asks for n_beam > 0 chooses the text itself: the host
 * keeps up to n_beam hypotheses of each sequence, all of the same length, and begins with one, the
 * prompt. One round, for all live sequences at once:
 *   forward  -> the newest token of every live hypothesis, in one pass of the target
 *   advance  -> for each sequence the decoder says which hypotheses go on, and with which tokens
 * The host copies timelines, keeps the n_beam best hypotheses that have ended, and hands out the
 * text of the best one when the sequence is over; until then there is no text. Penalties and logit
 * bias count; the sampler, propose and observe are not called. A hypothesis ends with an end token,
 * with a token that completes a stop string, or when the answer is as long as it may be.
 */

typedef struct pico_model pico_model;     /* opaque, the host's */
typedef struct pico_session pico_session; /* opaque, the host's */

/* A draft. The drafts of a tree are best proposed in the order of their promise, so that a smaller
 * room means fewer of the same: that is what the host learns from. With REJECTION the first draft at a
 * node is tried against q; another one is followed if what is drawn instead is its token. */
typedef struct pico_proposal {
    int32_t token;
    int32_t parent;   /* index of an earlier proposal of this sequence, or -1: the newest token */
    uint32_t q_begin; /* this draft's distribution is q[q_begin .. q_begin + q_count), the one it */
    uint32_t q_count; /* was drawn from; 0: none (then accept = rejection takes q(token) as 1) */
} pico_proposal;

/* One live sequence. Filled by the host; the plugin writes proposal[0..n_proposal) and q. */
typedef struct pico_sequence {
    uint32_t slot;        /* 0 .. n_slots-1, stable while the sequence lives */
    uint32_t room;        /* most proposals the host can use now: at most max_proposals, the free
                             positions, the tokens still wanted and what is worth its time ([decoder]
                             draft_n); may be 0, for many rounds too */
    const int32_t *token; /* (n_token) the timeline: prompt and answer, newest last */
    uint32_t n_token;
    uint32_t n_prompt;
    const void *sampling;    /* identifies the sequence to host->sampling, valid during propose */
    pico_proposal *proposal; /* (room) */
    uint32_t n_proposal;     /* 0 when propose is called */
    uint32_t n_q;            /* entries of q used; 0 when propose is called */
    uint32_t q_capacity;     /* at least 64 for each proposal that room allows */
    int32_t *q_token;        /* (q_capacity); NULL unless need asked for it */
    double *q_p;             /* (q_capacity) */
} pico_sequence;

typedef struct pico_outcome {
    uint32_t slot;
    uint32_t n_proposed;  /* drafts that were verified */
    uint32_t n_accepted;  /* drafts that became part of the timeline */
    uint32_t n_token;     /* n_accepted + 1, or fewer when the sequence ended inside the run */
    const int32_t *token; /* (n_token) new tokens of the timeline */
    const uint32_t *hidden_row; /* (n_token) row of `hidden` from which token i was predicted;
                                   NULL unless need asked for hidden rows */
    uint32_t finished;          /* 1: the sequence has ended; end_sequence follows */
} pico_outcome;

enum { PICO_ACCEPT_MATCH = 0, PICO_ACCEPT_REJECTION = 1 };

typedef struct pico_decoder_need {
    uint32_t struct_size;
    /* filled by the decoder */
    uint32_t max_proposals; /* per sequence and round, clipped to PICO_DECODE_ROWS_MAX - 1; 0 for a
                               plain decoder */
    uint32_t want_hidden;   /* 1: observe gets the final hidden rows */
    uint32_t want_q;        /* 1: proposals carry distributions */
    /* filled by the host before begin, for decoders that keep a session of their own */
    uint32_t max_positions; /* longest timeline */
    uint32_t window_limit;  /* how many positions the target sees at most; 0: all */
    uint32_t accept;        /* PICO_ACCEPT_x: the key to draw drafts with is PICO_RANDOM_TARGET for
                               MATCH, PICO_RANDOM_DRAFT for REJECTION */
    /* since minor 2, filled by the decoder */
    uint32_t n_beam;         /* hypotheses of a sequence, at most PICO_BEAM_MAX; 0: it does not
                                steer. Then max_proposals is 0 */
    uint32_t n_continuation; /* of each hypothesis that advance sees; the host clips it to the
                                vocabulary */
} pico_decoder_need;

#define PICO_BEAM_MAX 32u

/* A token that may follow a hypothesis. */
typedef struct pico_continuation {
    int32_t token;
    uint32_t ends; /* 1: a hypothesis ends with it, whatever its length */
    double log_p;  /* natural logarithm of its probability, at temperature 1 */
} pico_continuation;

/* A live hypothesis. Filled by the host. */
typedef struct pico_hypothesis {
    const int32_t *token; /* (n_token) prompt and answer, newest last */
    uint32_t n_token;
    uint32_t n_continuation; /* fewer than asked for if fewer have a probability above 0 */
    const pico_continuation *continuation; /* most probable first, ties by lowest id */
    double score; /* that of the extension that made it; 0 for the prompt alone */
} pico_hypothesis;

/* A hypothesis and one of its continuations: a new hypothesis. */
typedef struct pico_extension {
    uint32_t parent;       /* index of a live hypothesis */
    uint32_t continuation; /* index of one of the parent's; no pair occurs twice */
    double score;          /* finite. Of those that have ended the largest wins, the first of equal
                              ones; of live ones it means what the decoder wants it to mean */
} pico_extension;

/* One sequence in a round. Filled by the host but for the answer. */
typedef struct pico_advance {
    uint32_t struct_size;
    uint32_t slot; /* of the sequence, as in pico_sequence */
    uint32_t n_prompt;
    uint32_t n_new;   /* tokens of the answer after this round */
    uint32_t max_new; /* most that it can have: when n_new is max_new, every extension ends */
    uint32_t n_hypothesis;
    const pico_hypothesis *hypothesis; /* live ones, in the order of the extensions */
    const double *ended; /* (n_ended) scores of those that have ended and were kept, best first */
    uint32_t n_ended;    /* at most n_beam */
    uint32_t capacity;   /* of extension: 2 * n_beam */
    /* the answer */
    pico_extension *extension; /* at most n_beam of them go on: those come best first */
    uint32_t n_extension;      /* 0 when advance is called */
    uint32_t done;             /* 1: the sequence is over, and what would go on is dropped; it is
                                  over, too, when nothing goes on */
} pico_advance;

typedef struct pico_decoder_stats {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t n_proposed;    /* as the plugin counts them */
    double propose_seconds; /* time inside propose and observe */
} pico_decoder_stats;

typedef struct pico_decoder_ops {
    uint32_t struct_size;
    uint32_t reserved;
    /* -- required -- */
    /* Once, before the first sequence; may allocate. The target is there to be described and for
     * its heads; it is never forwarded. */
    pico_status (*begin)(void *self, const pico_model *target, uint32_t n_slots,
                         pico_decoder_need *out, pico_error *err);
    /* Writes the proposals of each of the n sequences. */
    pico_status (*propose)(void *self, pico_sequence *sequences, uint32_t n, pico_error *err);
    /* hidden: F32 (rows, n_embd) device rows of this round, valid during the call; NULL unless need
     * asked for them. */
    pico_status (*observe)(void *self, const pico_outcome *outcomes, uint32_t n,
                           const pico_tensor *hidden, pico_error *err);
    void (*end)(void *self); /* undoes begin; begin may be called again */
    /* -- optional -- */
    /* A sequence takes a slot; token is its prompt. May allocate. */
    pico_status (*begin_sequence)(void *self, const pico_sequence *sequence, pico_error *err);
    void (*end_sequence)(void *self, uint32_t slot);
    pico_status (*stats)(void *self, pico_decoder_stats *out);
    /* since minor 2; required if need asks for n_beam. Pure: what it is given says everything, and a
     * round that fails elsewhere is asked for again. */
    pico_status (*advance)(void *self, pico_advance *round, pico_error *err);
} pico_decoder_ops;

/* ------------------------------------------------------------------------------------------------
 * 10. Compressor: a smaller model from a model. File compress_NAME.so, [compress.N]
 *
 * Stages run in the order of their numbers, on the host's weights, before they go to a backend.
 * All plans are made first, so that an impossible chain fails before any work.
 */

typedef struct pico_tensor_info {
    const char *name; /* canonical: the names that GGUF uses */
    uint32_t dtype;   /* PICO_DTYPE_x */
    uint32_t rank;
    int64_t shape[4]; /* outermost first; rows, cols for a matrix */
    uint64_t bytes;   /* codes and scales */
} pico_tensor_info;

typedef struct pico_tensor_plan {
    uint32_t dtype; /* of the result; equal to the source's: unchanged */
    int64_t shape[4];
    uint64_t bytes;
} pico_tensor_plan;

typedef struct pico_tensors pico_tensors; /* opaque, the host's; see pico_tensors_api */

/* What a stage needs to say which layers go: no layer goes, the weights, a model to run as well. */
enum { PICO_DROPS_NOTHING = 0, PICO_DROPS_BY_WEIGHTS = 1, PICO_DROPS_BY_RUNNING = 2 };

typedef struct pico_compressor_ops {
    uint32_t struct_size;
    uint32_t reserved;
    /* -- required -- */
    /* Says what becomes of each of the n tensors, which may already be another stage's plan. model
     * is the description that the stage will see; layers is (n_layer), the same, and may be
     * changed where the stage changes widths. Strict: what cannot be done as asked is an error
     * that names the alternative. Nothing is read yet. */
    pico_status (*plan)(void *self, const pico_model_desc *model, const pico_tensor_info *tensors,
                        uint32_t n, pico_tensor_plan *plan, pico_layer_desc *layers,
                        pico_error *err);
    /* Does what was planned through host->tensors. May allocate. */
    pico_status (*apply)(void *self, const pico_model_desc *model, pico_tensors *tensors,
                         pico_error *err);
    /* -- optional -- */
    /* Called between plan and apply with a model to run calibration text through (host->tap). */
    pico_status (*calibrate)(void *self, pico_model *model, pico_error *err);
    /* 0: with these options calibrate has nothing to do, so that no model needs to be opened. NULL:
     * it always has. */
    uint32_t (*calibrates)(const void *self);
    /* since minor 5; both or none, for stages that remove layers. At most one stage of a chain may. */
    uint32_t (*drops)(const void *self); /* PICO_DROPS_x, as its options are; pure */
    /* Called before any plan if drops says so, with the weights (to be read) and, BY_RUNNING, a model
     * of it (else NULL), as they are before the first stage, to set drop[i] = 1 for each layer i that
     * goes; drop is (n_layer), zeroed. Plan, calibrate and apply still see all layers and leave those
     * alone. The host removes them behind apply, moves the others up, and multiplies their residual
     * lambdas into those of the next layer that stays, so that the result computes what the model
     * would with the layer's attention and feed-forward outputs zero. For that the backout layer, and
     * with PICO_RESID_LAMBDAS the last one, must stay. */
    pico_status (*drop_layers)(void *self, const pico_model_desc *model,
                               const pico_tensors *tensors, pico_model *run, uint8_t *drop,
                               pico_error *err);
} pico_compressor_ops;

/* ------------------------------------------------------------------------------------------------
 * 11. Trainer: losses, optimiser, schedule. File train_NAME.so, [trainer]
 *
 * Works through the host's train table, so that logits never leave the device; a host that does not
 * offer that table (host->train is NULL) makes begin fail with PICO_E_UNSUPPORTED.
 */

#define PICO_TRAIN_TERMS 8u

typedef struct pico_train_metrics {
    uint32_t struct_size;
    uint32_t finished; /* 1: the schedule is complete */
    uint64_t step;     /* that was taken: 1 is the first */
    double loss, learning_rate;
    uint64_t n_steps;  /* of the whole schedule; 0: unknown */
    uint64_t n_tokens; /* that the step has seen */
    uint32_t n_term;   /* terms of the loss, unweighted, at most PICO_TRAIN_TERMS */
    uint32_t reserved;
    const char *term_name[PICO_TRAIN_TERMS]; /* constant texts */
    double term[PICO_TRAIN_TERMS];
} pico_train_metrics;

typedef struct pico_trainer_ops {
    uint32_t struct_size;
    uint32_t reserved;
    /* -- required -- */
    pico_status (*begin)(void *self, pico_model *student, pico_error *err); /* may allocate */
    /* One step of the optimiser. A loss that is no number is PICO_E_INVALID, and nothing is updated. */
    pico_status (*step)(void *self, pico_train_metrics *out, pico_error *err);
    /* Values, optimiser and schedule state as bytes: save asks with data NULL for the size first. A
     * trainer that has begun with the same options and loads them goes on as if it had never
     * stopped, bit for bit, when the data goes on, too. */
    pico_status (*save)(void *self, void *data, uint64_t *bytes, pico_error *err);
    pico_status (*load)(void *self, const void *data, uint64_t bytes, pico_error *err);
    void (*end)(void *self);
} pico_trainer_ops;

/* ------------------------------------------------------------------------------------------------
 * 12. What the host offers. The tables are constant and outlive every plugin.
 */

enum { PICO_LOG_DEBUG = 0, PICO_LOG_INFO = 1, PICO_LOG_WARN = 2, PICO_LOG_ERROR = 3 };

/* The key of a random number. Random numbers are a pure function of it: no generator, no order. */
typedef struct pico_random_key {
    uint64_t seed;   /* of the request */
    uint32_t sample; /* index of the sample of this prompt */
    uint32_t purpose;
    uint64_t t; /* tokens before it in the timeline */
} pico_random_key;

enum {
    PICO_RANDOM_TARGET = 1,
    PICO_RANDOM_DRAFT = 2,
    PICO_RANDOM_ACCEPT = 3,
    PICO_RANDOM_RESIDUAL = 4,
    PICO_RANDOM_PLUGIN = 64 /* and above: for plugins' own use */
};

enum { PICO_ROW_LOGITS = 1 /* and its hidden row */, PICO_ROW_HIDDEN = 2 };

/* A row of a forward pass: one token at one place of one timeline. */
typedef struct pico_row {
    int32_t token;
    int32_t prev;   /* token before it in its timeline, -1 at the start */
    uint32_t slot;  /* timeline */
    int32_t pos;    /* position: parent's + 1, or the timeline's length for the first row */
    int32_t parent; /* index of an earlier row of this call in the same timeline, or -1: the end of
                       what the KV pages hold */
    uint32_t want;  /* PICO_ROW_x */
} pico_row;

/* Device rows of the last forward of a session, valid until its next call. Row i of both belongs to
 * the i-th row of the call that asked for anything; where a row asked for PICO_ROW_HIDDEN alone,
 * its row of logits is undefined. */
typedef struct pico_forward_out {
    uint32_t n;
    uint32_t reserved;
    pico_tensor logits; /* F32 (n, vocab) */
    pico_tensor hidden; /* F32 (n, n_embd), after the final norm */
} pico_forward_out;

typedef struct pico_session_want {
    uint32_t struct_size; /* set by the plugin */
    uint32_t n_slots;
    uint32_t max_positions;  /* 0: the trained length */
    uint32_t window_limit;   /* no query sees more than so many positions, itself included, and what
                                is further back is given up; 0: no limit */
    uint32_t max_rows;       /* of one forward */
    uint32_t max_logit_rows; /* of one forward that ask for anything */
} pico_session_want;

/* Called with each named activation of a forward pass; rows F32 (n, width) in host memory. In the
 * order of the pass: "embed" (layer 0); for each layer "attn_norm" (the input of Wq, Wk, Wv),
 * "attended" (of Wo), "ffn_norm" (of W1, W3), "ffn_inner" (of W2), "out" (the residual stream); for
 * the rows that asked for outputs "hidden" (layer n_layer; the input of the head). */
typedef void (*pico_tap_fn)(void *arg, uint32_t layer, const char *name, const float *rows,
                            uint32_t n, uint32_t width);

/* Text that is run through a model for what its activations say. */
typedef struct pico_feed {
    uint32_t struct_size; /* set by the plugin */
    uint32_t want;        /* of every row: 0, or PICO_ROW_HIDDEN so that "hidden" is seen, too */
    const char *path;     /* a text file */
    uint64_t max_tokens;  /* that are run, the begin-of-text token included */
    const char *what;     /* for progress */
    pico_tap_fn tap;      /* sees at most max_rows rows at a time */
    void *arg;
    /* since minor 8: instead of its beginning, pieces that begin evenly over the whole text, each from
     * an empty timeline and behind the begin-of-text token; then max_tokens says nothing. */
    uint32_t piece;    /* tokens of each, that token included; 0: no pieces */
    uint32_t n_piece;  /* how many; 0: as many as the text has room for, at most PICO_FEED_PIECES */
    uint32_t max_rows; /* of a forward pass; 0: PICO_FEED_ROWS. With pieces or without */
    uint32_t reserved;
} pico_feed;
enum { PICO_FEED_ROWS = 64, PICO_FEED_PIECES = 128 };

struct pico_host;

/* A session holds the KV pages of n_slots timelines of one model. */
typedef struct pico_session_api {
    uint32_t struct_size;
    uint32_t reserved;
    /* may allocate; max_positions 0 = the trained length; max_rows of one forward */
    pico_status (*open)(pico_model *model, uint32_t n_slots, uint32_t max_positions,
                        uint32_t max_rows, uint32_t max_logit_rows, pico_session **out,
                        pico_error *err);
    void (*close)(pico_session *session);
    uint32_t (*length)(const pico_session *session, uint32_t slot);
    /* Forgets positions from length on; 0 empties the timeline. */
    pico_status (*truncate)(pico_session *session, uint32_t slot, uint32_t length, pico_error *err);
    /* Makes `to` a copy of `from`; full pages are shared until one of them is truncated into. On an
     * error `to` is empty. */
    pico_status (*copy)(pico_session *session, uint32_t from, uint32_t to, pico_error *err);
    /* Appends rows. On an error every timeline is as it was before the call; a device that fails
     * late says so when the outputs are read, and the caller then truncates. A chain of rows
     * extends its timeline by all of them; rows of a tree are kept aside until commit. */
    pico_status (*forward)(pico_session *session, const pico_row *rows, uint32_t n,
                           pico_forward_out *out, pico_error *err);
    /* After a forward with a tree: keeps the path of rows (indices, parents first) for its slot. */
    pico_status (*commit)(pico_session *session, uint32_t slot, const uint32_t *path, uint32_t n,
                          pico_error *err);
    /* since minor 4: as open, with all that can be said. A timeline can always be truncated by up to
     * PICO_DECODE_ROWS_MAX positions; further back, PICO_E_LIMIT where a window has moved on. */
    pico_status (*open_with)(pico_model *model, const pico_session_want *want, pico_session **out,
                             pico_error *err);
    /* since minor 7: runs the beginning of a text through the model, in windows of 2048
     * positions or the trained length, each from an empty timeline, or pieces of it
     * (pico_feed.piece). Taps the model meanwhile; reports progress to the host and stops
     * (PICO_E_CANCELLED) when it says so. May allocate. PICO_E_NOT_FOUND, PICO_E_IO,
     * PICO_E_LIMIT (256 MiB) for the file, PICO_E_INVALID if it has no text or too little of it,
     * PICO_E_UNSUPPORTED if the model has no tokenizer. */
    pico_status (*feed)(const struct pico_host *host, pico_model *model, const pico_feed *feed,
                        pico_error *err);
} pico_session_api;

typedef struct pico_head_info {
    const char *name; /* "lm", "mtp.2", "draft" */
    uint32_t n_slot;  /* tokens predicted at once; 1 except for a draft head */
    uint32_t offset;  /* the first of them is token t + offset; 1 for "lm" */
    float softcap;    /* 0: none */
    uint32_t n_vocab;
    const int32_t *vocab_map; /* (n_vocab) head index -> token id; NULL: the same */
} pico_head_info;

typedef struct pico_heads_api {
    uint32_t struct_size;
    uint32_t reserved;
    uint32_t (*count)(const pico_model *model);
    pico_status (*info)(const pico_model *model, uint32_t head, pico_head_info *out);
    /* hidden F32 (rows, n_embd) -> logits F32 (rows, n_slot * n_vocab), both the caller's.
     * PICO_E_INVALID for a draft head that reads a token: that wants apply_after. */
    pico_status (*apply)(const pico_model *model, uint32_t head, const pico_tensor *hidden,
                         const pico_tensor *logits);
    /* since minor 10: the same with token I32 (rows), in device memory, the token that came after
     * each row; heads that do not read it ignore it. */
    pico_status (*apply_after)(const pico_model *model, uint32_t head, const pico_tensor *hidden,
                               const pico_tensor *token, const pico_tensor *logits);
} pico_heads_api;

/* The target's sampling, for drafters, who bring the arrays of the distribution (room for the
 * vocabulary); a stateful sampler's state stays that of the timeline, whatever extra says. dist: what the target's sampler (with penalties, with this
 * sequence's history followed by extra[0..n_extra)) makes of a row of logits in host memory; draw:
 * argmax over the distribution of ln p + Gumbel noise, a pure function of key and distribution. */
typedef struct pico_sampling_api {
    uint32_t struct_size;
    uint32_t reserved;
    pico_status (*dist)(const void *sampling, const float *logits, const int32_t *extra,
                        uint32_t n_extra, pico_dist *out, pico_error *err);
    int32_t (*draw)(const void *sampling, const pico_dist *dist, uint32_t n_extra,
                    uint32_t purpose);
} pico_sampling_api;

typedef struct pico_tensors_api {
    uint32_t struct_size;
    uint32_t reserved;
    uint32_t (*count)(const pico_tensors *tensors);
    pico_status (*info)(const pico_tensors *tensors, uint32_t index, pico_tensor_info *out);
    /* The tensor as F32, row-major; out has room for all elements. */
    pico_status (*read_f32)(const pico_tensors *tensors, uint32_t index, float *out,
                            pico_error *err);
    /* As it is stored. */
    pico_status (*read)(const pico_tensors *tensors, uint32_t index, pico_weight_desc *out);
    /* Replaces it; codes, scales and the other arrays are copied. */
    pico_status (*replace)(pico_tensors *tensors, uint32_t index, const pico_weight_desc *desc,
                           pico_error *err);
} pico_tensors_api;

/* A model's tokens, for plugins that read text or compare two models. */
enum { PICO_TEXT_BOS = 1 /* in front of the text, where the vocabulary has a token for that */ };

typedef struct pico_text_api {
    uint32_t struct_size;
    uint32_t reserved;
    /* The tokens of text[0..n): writes the first `capacity` of them to ids, *n_ids gets how many
     * there are. Special tokens are not recognised in the text. May allocate.
     * PICO_E_UNSUPPORTED if the model came without a tokenizer. */
    pico_status (*encode)(pico_model *model, const char *text, uint64_t n, uint32_t flags,
                          int32_t *ids, uint64_t capacity, uint64_t *n_ids, pico_error *err);
    /* A token as the vocabulary stores it: *n bytes, which live as long as the model, and its type
     * as GGUF numbers them (1 normal, 3 control, 6 byte, ...). PICO_E_NOT_FOUND beyond the last. */
    pico_status (*piece)(const pico_model *model, int32_t token, const char **text, uint32_t *n,
                         uint32_t *type);
} pico_text_api;

/* ---- training a model ----
 *
 * A training state holds F32 copies of a model's parameters on the backend of the run, their
 * gradients, and what a forward pass leaves for the backward pass. The backend needs the extension
 * pico.train/1. One step of an optimiser is
 *   zero_grad
 *   for each micro-batch:  forward
 *       for each head, for each block of rows:  logits, loss (once or more), backward_head
 *       backward
 *   update, for each parameter
 * Gradients add up until zero_grad. Attention sees each sequence from its beginning, as in a model's
 * own forward pass; nothing of a model or its sessions changes before the values are written to a
 * file. A failing device is reported by forward or by reading. */

typedef struct pico_train pico_train; /* opaque, the host's */

enum {
    PICO_TRAIN_FROZEN = 1,    /* forward alone: no gradients, nothing kept. For teachers */
    PICO_TRAIN_HEADS = 2,     /* only the heads beyond "lm" learn: the rest is frozen */
    PICO_TRAIN_RECOMPUTE = 4, /* keep the input of each layer and compute the rest again */
    PICO_TRAIN_BF16 = 8       /* products in PICO_COMPUTE_BF16; values and sums stay F32 */
};

typedef struct pico_train_params {
    uint32_t struct_size;
    uint32_t flags;          /* PICO_TRAIN_x */
    uint32_t max_rows;       /* tokens of one forward */
    uint32_t max_length;     /* longest sequence of it */
    uint32_t max_logit_rows; /* rows of one call of logits */
} pico_train_params;

enum {                              /* what a parameter is, for learning rates */
       PICO_PARAM_EMBED = 1,        /* token and position embeddings; a tied head too */
       PICO_PARAM_HEAD = 2,         /* output matrix, multi-token heads, draft head */
       PICO_PARAM_MATRIX = 3,       /* matrices inside the layers */
       PICO_PARAM_VALUE_EMBED = 4,  /* tables of value embeddings */
       PICO_PARAM_VECTOR = 5,       /* weights of norms, biases */
       PICO_PARAM_RESID_LAMBDA = 6, /* r_i */
       PICO_PARAM_X0_LAMBDA = 7,    /* s_i */
       PICO_PARAM_SMEAR = 8         /* smear gate, smear lambda, backout lambda */
};

enum { PICO_OPTIMIZER_NONE = 0, PICO_OPTIMIZER_ADAMW = 1, PICO_OPTIMIZER_MUON = 2 };

typedef struct pico_param {
    const char *name;   /* canonical, as in pico_tensor_info; lives as long as the state */
    uint32_t group;     /* PICO_PARAM_x */
    uint32_t trained;   /* 0: it is frozen, grad has no buffer */
    uint32_t optimizer; /* PICO_OPTIMIZER_x */
    uint32_t reserved;
    pico_tensor value; /* F32 (rows, cols), contiguous; a vector is one row */
    pico_tensor grad;  /* the same shape */
} pico_param;

/* AdamW: as in pico_adamw_args. Muon, for a matrix W (rows, cols) and its gradient g:
 *   m = momentum m + (1 - momentum) g;  u = (1 - momentum) g + momentum m;  x = u / (1.02 |u| + 1e-6)
 *   five times x = a x + (b y + c y y) x with y = x x^T (on the side of the smaller extent)
 *   then as in pico_muon_args with lr * sqrt(max(1, rows / cols)) */
typedef struct pico_update {
    uint32_t struct_size;
    float lr, weight_decay;
    float beta1, beta2, eps; /* AdamW; beta2 is Muon's, too */
    float momentum;          /* Muon */
    float grad_scale;        /* multiplies the gradient */
    uint64_t step;           /* 1 for the first */
} pico_update;

typedef struct pico_train_api {
    uint32_t struct_size;
    uint32_t reserved;
    /* May allocate. PICO_E_UNSUPPORTED if the backend cannot train, or not in BF16 where that is
     * asked for; PICO_E_INVALID if the model has another state that is not frozen. */
    pico_status (*open)(pico_model *model, const pico_train_params *params, pico_train **out,
                        pico_error *err);
    void (*close)(pico_train *train); /* NULL is allowed */
    uint32_t (*n_params)(const pico_train *train);
    pico_status (*param)(const pico_train *train, uint32_t index, pico_param *out);
    /* Makes room for an optimiser's state and clears it; may allocate, before the first forward.
     * Muon wants a matrix. */
    pico_status (*optimizer)(pico_train *train, uint32_t index, uint32_t optimizer,
                             pico_error *err);
    pico_status (*zero_grad)(pico_train *train);
    /* tokens (n_seq, length), host memory. */
    pico_status (*forward)(pico_train *train, const int32_t *tokens, uint32_t n_seq,
                           uint32_t length, pico_error *err);
    /* Logits of rows [begin, begin + n) of the last forward, F32 (n, n_slot * n_vocab) as heads->info
     * says, with the softcap; d: room for their gradient, of the same shape (buffer NULL if nothing
     * learns). Both are valid until the next call of logits. */
    pico_status (*logits)(pico_train *train, uint32_t head, uint32_t begin, uint32_t n,
                          pico_tensor *logits, pico_tensor *d, pico_error *err);
    /* The backend's. PICO_E_UNSUPPORTED for what its features do not name. */
    pico_status (*loss)(pico_train *train, const pico_loss_args *args);
    /* From the gradient in d of the last logits back to the hidden rows; d is overwritten. */
    pico_status (*backward_head)(pico_train *train, pico_error *err);
    /* From the hidden rows to all parameters; once for each forward, after its heads. */
    pico_status (*backward)(pico_train *train, pico_error *err);
    pico_status (*update)(pico_train *train, uint32_t index, const pico_update *update);
    /* Values and optimisers' states of all trained parameters as bytes: data NULL asks for the size.
     * Loading takes the bytes of a state with the same parameters and optimisers. */
    pico_status (*save)(pico_train *train, void *data, uint64_t *bytes, pico_error *err);
    pico_status (*load)(pico_train *train, const void *data, uint64_t bytes, pico_error *err);
    /* n_seq rows of length + 1 tokens of the run's training data into tokens; the next ones with
     * each call. PICO_E_UNSUPPORTED if the run has none. */
    pico_status (*batch)(pico_train *train, uint32_t n_seq, uint32_t length, int32_t *tokens,
                         pico_error *err);
    /* since minor 9: n updates of different parameters, which the backend may take together. On an
     * error *failed is one that was not updated. */
    pico_status (*update_many)(pico_train *train, uint32_t n, const uint32_t *index,
                               const pico_update *update, uint32_t *failed);
} pico_train_api;

typedef struct pico_range {
    const void *data;
    uint64_t bytes;
} pico_range;

typedef struct pico_host {
    uint32_t struct_size;
    uint32_t abi_minor;
    void *ctx; /* pass it back to the functions below */

    void (*log)(void *ctx, uint32_t level, const char *message); /* [any] */
    int (*should_stop)(void *ctx);                               /* [any] 1 after Ctrl-C */
    /* One line of progress; done > total is not allowed; total 0 = unknown. */
    void (*progress)(void *ctx, const char *what, uint64_t done, uint64_t total);
    /* 64 random bits: a hash of key and index. [any] */
    uint64_t (*random)(void *ctx, const pico_random_key *key, uint64_t index);

    uint32_t (*n_threads)(void *ctx);
    /* Calls fn(arg, begin, end, thread) for disjoint ranges that cover [0, n), each but the last a
     * multiple of grain long, on up to n_threads threads, this one included; ranges are handed out
     * as threads become free. Returns when all are done. thread < n_threads. Not reentrant: fn must
     * not call it. n <= grain runs on the calling thread at no cost. */
    void (*parallel_for)(void *ctx, uint64_t n, uint64_t grain,
                         void (*fn)(void *arg, uint64_t begin, uint64_t end, uint32_t thread),
                         void *arg);

    const pico_session_api *session;
    const pico_heads_api *heads;
    const pico_sampling_api *sampling;
    const pico_tensors_api *tensors;
    const pico_model_desc *(*model_desc)(const pico_model *model);
    /* Opens a second model on the backend of the run; NULL-terminated path. May allocate. */
    pico_status (*model_open)(void *ctx, const char *path, pico_model **out, pico_error *err);
    void (*model_close)(pico_model *model);
    /* Calls fn for the named activations of every forward of the model until fn is NULL again. */
    pico_status (*tap)(pico_model *model, pico_tap_fn fn, void *arg);
    const pico_train_api *train; /* NULL: this host does not train */
    /* The backend of the run, for plugins that handle device rows; its instance. */
    const pico_backend_ops *(*backend)(void *ctx, void **self);
    const pico_text_api *text;
    /* A hint: what jobs to come read first, range[t * n + i] by thread t, i < n <= 2. A thread that
     * waits for work asks memory for its ranges, as far as it gets. Nothing is read: the bytes may be
     * gone by then. It holds until the next call. Since 0.11; may be NULL. */
    void (*will_read)(void *ctx, const pico_range *range, uint32_t n);
} pico_host;

/* ------------------------------------------------------------------------------------------------
 * 13. The plugin descriptor
 */

enum {
    PICO_KIND_BACKEND = 1,    /* pico_backend_ops */
    PICO_KIND_ATTENTION = 2,  /* pico_attention_ops */
    PICO_KIND_SAMPLER = 3,    /* pico_sampler_ops */
    PICO_KIND_DECODER = 4,    /* pico_decoder_ops */
    PICO_KIND_COMPRESSOR = 5, /* pico_compressor_ops */
    PICO_KIND_TRAINER = 6     /* pico_trainer_ops */
};

typedef struct pico_plugin {
    uint32_t magic;     /* PICO_PLUGIN_MAGIC */
    uint32_t abi_major; /* PICO_ABI_MAJOR */
    uint32_t abi_minor; /* the smallest minor version that the plugin needs */
    uint32_t struct_size;
    uint32_t kind;              /* PICO_KIND_x */
    uint32_t flags;             /* 0 */
    const char *name;           /* as in the INI: plugin = NAME */
    const char *version;        /* the plugin's own */
    const char *summary;        /* one line */
    const pico_option *options; /* (n_options), option_size bytes apart; NULL if none */
    uint32_t n_options;
    uint32_t option_size;   /* sizeof(pico_option) */
    uint32_t options_bytes; /* size of the bound struct, 0 if none; at most 4096 */
    uint32_t reserved;
    /* Makes an instance, *self, which is not NULL; may allocate. options is the bound struct (NULL
     * if options_bytes is 0). If it fails it has cleaned up, and destroy is not called. */
    pico_status (*create)(const pico_host *host, const void *options, void **self, pico_error *err);
    void (*destroy)(void *self); /* NULL is allowed */
    const void *ops;             /* the table of the kind; begins with struct_size */
} pico_plugin;

/* The one exported symbol. Pure: no allocation, no thread, no device, the same answer every time.
 * Returns the index-th plugin of the shared object, NULL after the last. [any] */
PICO_EXPORT const pico_plugin *pico_plugin_query(uint32_t index);

#ifdef __cplusplus
}
#endif

#endif /* PICO_PLUGIN_H */
