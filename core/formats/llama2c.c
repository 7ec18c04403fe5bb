/*
 * llama2.c checkpoints: version 0 (seven int32, no magic), 1 ("ak42", F32) and 2 ("ak42", int8 with
 * F32 group scales). The size of the file must be exactly what the header implies. Nothing is
 * converted: tensors point into the file. Refused: groups that do not divide the rows.
 */
#include <math.h>
#include <string.h>

#include "formats/expect.h"
#include "formats/reader.h"
#include "util/checked.h"

enum { MAGIC = 0x616b3432, HEADER_V0 = 28, HEADER = 256, N_INT = 7 };

typedef struct config {
    uint32_t version;
    int64_t dim, hidden, n_layer, n_head, n_kv_head, n_vocab, n_ctx;
    int tied;
    int64_t group; /* 0: F32 */
} config;

/* Goes through the file in order: counts bytes, and makes tensors once file is set. */
typedef struct layout {
    const pico_map *map;
    pico_model_file *file; /* NULL: only count */
    uint64_t at;           /* offset of the next tensor */
    int64_t group;         /* of the matrices */
    int failed;            /* an offset overflows or memory is exhausted */
} layout;

static int32_t read_i32(const pico_map *map, uint64_t offset) {
    int32_t x;
    memcpy(&x, map->data + offset, sizeof x);
    return x;
}

static int has_magic(const pico_map *map) {
    return map->size >= 8 && (uint32_t)read_i32(map, 0) == MAGIC;
}

/* ---- header ---- */

static void read_sizes(const pico_map *map, uint64_t offset, config *c) {
    int64_t v[N_INT];
    for (uint64_t i = 0; i < N_INT; i++) {
        v[i] = read_i32(map, offset + 4 * i);
    }
    c->dim = v[0];
    c->hidden = v[1];
    c->n_layer = v[2];
    c->n_head = v[3];
    c->n_kv_head = v[4];
    c->n_vocab = v[5];
    c->n_ctx = v[6];
}

static pico_status check_config(const config *c, pico_error *err) {
    const struct {
        const char *what;
        int64_t value, max;
    } sizes[] = {
        {"dim", c->dim, PICO_MAX_WIDTH},
        {"hidden_dim", c->hidden, PICO_MAX_WIDTH},
        {"n_layers", c->n_layer, PICO_MAX_LAYER},
        {"n_heads", c->n_head, PICO_MAX_HEAD},
        {"n_kv_heads", c->n_kv_head, c->n_head},
        {"vocab_size", c->n_vocab, PICO_MAX_VOCAB},
        {"max_seq_len", c->n_ctx, PICO_MAX_CONTEXT},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].max) {
            return pico_fail(err, PICO_E_CORRUPT, "header: %s is %lld, expected 1 to %lld",
                             sizes[i].what, (long long)sizes[i].value, (long long)sizes[i].max);
        }
    }
    if (c->dim % c->n_head != 0 || c->n_head % c->n_kv_head != 0 || c->dim / c->n_head % 2 != 0) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "header: dim %lld, n_heads %lld and n_kv_heads %lld do not fit: expected "
                         "heads of an even width that divide dim, and KV heads that divide heads",
                         (long long)c->dim, (long long)c->n_head, (long long)c->n_kv_head);
    }
    return PICO_OK;
}

static pico_status check_group(const config *c, pico_error *err) {
    if (c->group < 1 || c->dim % c->group != 0 || c->hidden % c->group != 0) {
        return pico_fail(
            err, PICO_E_UNSUPPORTED,
            "header: the group size %lld does not divide dim %lld and hidden_dim %lld, "
            "so groups would cross rows; export with a smaller group size",
            (long long)c->group, (long long)c->dim, (long long)c->hidden);
    }
    return PICO_OK;
}

static pico_status read_header(const pico_map *map, config *c, pico_error *err) {
    *c = (config){0};
    if (!has_magic(map)) {
        if (map->size < HEADER_V0) {
            return pico_fail(err, PICO_E_CORRUPT, "the file has %llu bytes, a header has %d",
                             (unsigned long long)map->size, HEADER_V0);
        }
        read_sizes(map, 0, c);
        c->tied = c->n_vocab > 0;
        c->n_vocab = c->n_vocab < 0 ? -c->n_vocab : c->n_vocab;
        return check_config(c, err);
    }
    int32_t version = read_i32(map, 4);
    if (version != 1 && version != 2) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "llama2.c version %d is not supported, expected 1 or 2 (or a file of "
                         "version 0, which has no magic)",
                         version);
    }
    if (map->size < HEADER) {
        return pico_fail(err, PICO_E_CORRUPT, "the file has %llu bytes, expected a header of %d",
                         (unsigned long long)map->size, HEADER);
    }
    c->version = (uint32_t)version;
    read_sizes(map, 8, c);
    unsigned char shared = map->data[8 + 4 * N_INT];
    if (shared > 1) {
        return pico_fail(err, PICO_E_CORRUPT, "header: shared_classifier is %u, expected 0 or 1",
                         shared);
    }
    c->tied = shared;
    pico_status status = check_config(c, err);
    if (status == PICO_OK && version == 2) {
        c->group = read_i32(map, 8 + 4 * N_INT + 1);
        status = check_group(c, err);
    }
    return status;
}

int pico_llama2c_detect(const pico_map *map) {
    config c;
    return has_magic(map) || (map->size >= HEADER_V0 && read_header(map, &c, NULL) == PICO_OK);
}

/* ---- tensors ---- */

static const unsigned char *advance(layout *l, uint64_t count, uint64_t element_bytes) {
    uint64_t bytes, end;
    if (!pico_checked_mul(count, element_bytes, &bytes) || !pico_checked_add(l->at, bytes, &end)) {
        l->failed = 1;
        return NULL;
    }
    const unsigned char *data = l->file == NULL ? NULL : l->map->data + l->at;
    l->at = end;
    return data;
}

/* (rows, cols), or (cols) if rows is 0. group 0: F32; else int8 codes followed by F32 scales. */
static void put(layout *l, const char *name, int64_t rows, int64_t cols, int64_t group) {
    int64_t n_row = rows == 0 ? 1 : rows;
    uint32_t dtype = group == 0 ? PICO_DTYPE_F32 : PICO_DTYPE_I8;
    uint64_t n_scales = pico_weight_n_scales(dtype, n_row, cols, group);
    uint64_t n = (uint64_t)n_row * (uint64_t)cols; /* at most 2^44 */
    const unsigned char *codes = advance(l, n, group == 0 ? 4 : 1);
    const unsigned char *scales = group == 0 ? NULL : advance(l, n_scales, 4);
    if (l->file == NULL || l->failed) {
        return;
    }
    pico_file_tensor *t = &l->file->tensor[l->file->n_tensor++];
    *t = (pico_file_tensor){
        .name = pico_arena_strdup(&l->file->arena, name),
        .rank = rows == 0 ? 1 : 2,
        .shape = {rows == 0 ? cols : rows, rows == 0 ? 1 : cols, 1, 1},
        .data = {.codes = codes,
                 .codes_bytes = pico_weight_codes_bytes(dtype, n_row, cols),
                 .dtype = dtype,
                 .scale_dtype = group == 0 ? PICO_DTYPE_NONE : PICO_DTYPE_F32,
                 .scales = scales,
                 .n_scales = n_scales,
                 .rows = n_row,
                 .cols = cols,
                 .group = group,
                 /* run.c rounds activations in the same groups */
                 .input_quant = group == 0 ? PICO_INPUT_AUTO : PICO_INPUT_GROUP},
    };
    t->bytes = t->data.codes_bytes + n_scales * 4;
    l->failed = t->name == NULL;
}

static void put_layers(layout *l, const config *c, const char *what, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < c->n_layer; i++) {
        char name[48];
        (void)snprintf(name, sizeof name, "blk.%lld.%s.weight", (long long)i, what);
        put(l, name, rows, cols, rows == 0 ? 0 : l->group);
    }
}

/* Order: version 0 interleaves norms and matrices; the others put all norms first. */
static void put_all(layout *l, const config *c) {
    int64_t dim = c->dim, kv = dim / c->n_head * c->n_kv_head, hidden = c->hidden;
    int v0 = c->version == 0;
    l->group = c->group;
    if (!v0) {
        put_layers(l, c, "attn_norm", 0, dim);
        put_layers(l, c, "ffn_norm", 0, dim);
        put(l, "output_norm.weight", 0, dim, 0);
    }
    put(l, "token_embd.weight", c->n_vocab, dim, c->group);
    if (v0) {
        put_layers(l, c, "attn_norm", 0, dim);
    }
    put_layers(l, c, "attn_q", dim, dim);
    put_layers(l, c, "attn_k", kv, dim);
    put_layers(l, c, "attn_v", kv, dim);
    put_layers(l, c, "attn_output", dim, dim);
    if (v0) {
        put_layers(l, c, "ffn_norm", 0, dim);
    }
    put_layers(l, c, "ffn_gate", hidden, dim);
    put_layers(l, c, "ffn_down", dim, hidden);
    put_layers(l, c, "ffn_up", hidden, dim);
    if (v0) {
        put(l, "output_norm.weight", 0, dim, 0);
        /* Two tables (max_seq_len, head width / 2) of cosines and sines, which nobody reads. */
        (void)advance(l, (uint64_t)(c->n_ctx * (dim / c->n_head)), 4);
    }
    if (!c->tied) {
        put(l, "output.weight", c->n_vocab, dim, c->group);
    }
}

static pico_status check_scales(const pico_model_file *file, pico_error *err) {
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const pico_weight_desc *weight = &file->tensor[i].data;
        const unsigned char *scales = weight->scales;
        for (uint64_t j = 0; j < weight->n_scales; j++) {
            float scale;
            memcpy(&scale, scales + 4 * j, sizeof scale);
            if (!isfinite(scale)) {
                return pico_fail(err, PICO_E_CORRUPT,
                                 "tensor %s: scale %llu is %g, expected a finite number",
                                 file->tensor[i].name, (unsigned long long)j, (double)scale);
            }
        }
    }
    return PICO_OK;
}

static pico_status fill_description(const config *c, pico_model_file *file, pico_error *err) {
    pico_layer_desc *layer = pico_arena_alloc(&file->arena, (size_t)c->n_layer, sizeof *layer);
    if (layer == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    uint32_t head_dim = (uint32_t)(c->dim / c->n_head);
    for (int64_t i = 0; i < c->n_layer; i++) {
        layer[i] = (pico_layer_desc){.n_head = (uint32_t)c->n_head,
                                     .n_kv_head = (uint32_t)c->n_kv_head,
                                     .head_dim = head_dim,
                                     .n_ff = (uint32_t)c->hidden,
                                     .window = -1};
    }
    file->desc = (pico_model_desc){
        .family = "llama",
        .n_layer = (uint32_t)c->n_layer,
        .n_embd = (uint32_t)c->dim,
        .n_vocab = (uint32_t)c->n_vocab,
        .n_vocab_rows = (uint32_t)c->n_vocab,
        .n_ctx_train = (uint32_t)c->n_ctx,
        .flags = PICO_NORM_WEIGHT | PICO_FFN_GATED | (c->tied ? (uint32_t)PICO_TIED_HEAD : 0u),
        .norm = PICO_NORM_RMS,
        .norm_eps = 1e-5f,
        .pos = PICO_POS_ROPE,
        .rope_layout = PICO_ROPE_PAIRS,
        .rope_dim = head_dim,
        .rope_table = PICO_DTYPE_F32,
        .rope_base = 10000.0,
        .act = PICO_ACT_SILU,
        .backout_layer = -1,
        .layer = layer,
    };
    return pico_desc_check(&file->desc, err);
}

pico_status pico_llama2c_read(const pico_map *map, pico_model_file *file, pico_error *err) {
    static const char *const names[] = {"llama2.c v0", "llama2.c v1", "llama2.c v2 (int8)"};
    config c;
    pico_status status = read_header(map, &c, err);
    if (status != PICO_OK) {
        return status;
    }
    layout l = {.map = map, .at = c.version == 0 ? HEADER_V0 : HEADER};
    uint64_t start = l.at;
    put_all(&l, &c);
    if (l.failed || l.at != map->size) {
        return pico_fail(
            err, PICO_E_CORRUPT,
            "a %s model of dim %lld, hidden_dim %lld, %lld layers, vocabulary %lld and "
            "context %lld has %llu bytes, this file has %llu: %s",
            names[c.version], (long long)c.dim, (long long)c.hidden, (long long)c.n_layer,
            (long long)c.n_vocab, (long long)c.n_ctx, (unsigned long long)l.at,
            (unsigned long long)map->size,
            map->size < l.at ? "truncated, or not such a model" : "damaged, or not such a model");
    }
    /* Codes before scales have n_vocab * dim, hidden * dim, or dim * (a multiple of 2) bytes. */
    if (c.group != 0 && (c.n_vocab * c.dim % 4 != 0 || c.hidden * c.dim % 4 != 0)) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "header: with dim %lld, hidden_dim %lld and vocabulary %lld the scales "
                         "are not aligned to 4 bytes",
                         (long long)c.dim, (long long)c.hidden, (long long)c.n_vocab);
    }
    file->format = PICO_FORMAT_LLAMA2C;
    file->format_name = names[c.version];
    file->tensor =
        pico_arena_alloc(&file->arena, (size_t)(9 * c.n_layer + 3), sizeof *file->tensor);
    if (file->tensor == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    l.file = file;
    l.at = start;
    put_all(&l, &c);
    if (l.failed) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    status = check_scales(file, err);
    return status == PICO_OK ? fill_description(&c, file, err) : status;
}
