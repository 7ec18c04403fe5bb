/*
 * Checkpoints of nanochat and its fork: model_*.pt with meta_*.json beside it, and the fork's int8
 * export, which is one file. Tensors are taken by the table of expect.h, so every one that the
 * description demands is there with its shape before its data is read, and none is left over.
 */
#include <string.h>

#include "formats/nanochat.h"

typedef struct checkpoint {
    pico_torch torch;
    pico_nanochat_table table;
    int is_int8;
    int64_t bits;      /* of an int8 export */
    const char *fault; /* path of the file that messages are about */
    pico_model_file *file;
    pico_error *err;
} checkpoint;

/* ---- tensors ---- */

/* An outer dimension of 1 may be there or not: a gate is (1, 24) or (24). */
static int has_shape(const pico_torch_tensor *t, const pico_expected *e) {
    int extra = t->rank == e->rank + 1 && t->shape[0] == 1;
    return (t->rank == e->rank || extra) &&
           memcmp(t->shape + extra, e->shape, e->rank * sizeof *e->shape) == 0;
}

static pico_status find_tensor(const checkpoint *c, const pico_expected *e,
                               pico_nanochat_entry **out) {
    pico_nanochat_name name;
    pico_shape_text expected, found;
    pico_nanochat_entry *entry =
        pico_nanochat_find_entry(&c->table, pico_nanochat_name_of(&name, e->name));
    (void)pico_shape_format(&expected, e->rank, e->shape);
    if (entry == NULL) {
        return pico_fail(c->err, PICO_E_CORRUPT, "tensor %s of shape %s is missing", name.text,
                         expected.text);
    }
    const pico_torch_tensor *t = &entry->tensor;
    if (!has_shape(t, e)) {
        return pico_fail(c->err, PICO_E_CORRUPT,
                         "tensor %s has shape %s, expected %s from the configuration", name.text,
                         pico_shape_format(&found, t->rank, t->shape), expected.text);
    }
    if (t->dtype != PICO_DTYPE_F32 && t->dtype != PICO_DTYPE_F16 && t->dtype != PICO_DTYPE_BF16 &&
        !(t->dtype == PICO_DTYPE_I8 && entry->has_scale)) {
        return pico_fail(c->err, PICO_E_UNSUPPORTED,
                         "tensor %s is of type %s%s, expected Float, BFloat16 or Half, or Char "
                         "with a scale",
                         name.text, t->type, t->dtype == PICO_DTYPE_I8 ? " and has no scale" : "");
    }
    *out = entry;
    return PICO_OK;
}

/* Fewer bits than 8 are stored in int8 all the same; then the codes are small. */
static pico_status check_codes(const checkpoint *c, const char *name, const int8_t *codes,
                               int64_t n) {
    int limit = 1 << (c->bits - 1);
    for (int64_t i = 0; c->bits < 8 && i < n; i++) {
        if (codes[i] < -limit || codes[i] >= limit) {
            return pico_fail(c->err, PICO_E_CORRUPT,
                             "tensor %s: code %lld is %d, expected %d to %d for %lld bits", name,
                             (long long)i, codes[i], -limit, limit - 1, (long long)c->bits);
        }
    }
    return PICO_OK;
}

/* One scale for the whole matrix. */
static pico_status add_scale(const checkpoint *c, const pico_nanochat_entry *entry,
                             pico_weight_desc *w) {
    float *scale = pico_arena_alloc(&c->file->arena, 1, sizeof *scale);
    if (scale == NULL) {
        return pico_fail(c->err, PICO_E_NOMEM, "out of memory");
    }
    *scale = (float)entry->scale;
    w->scales = scale;
    w->n_scales = 1;
    w->scale_dtype = PICO_DTYPE_F32;
    return check_codes(c, entry->name, w->codes, w->rows * w->cols);
}

static pico_status take_tensor(void *arg, const pico_expected *e) {
    checkpoint *c = arg;
    pico_nanochat_entry *entry = NULL;
    pico_status status = find_tensor(c, e, &entry);
    if (status != PICO_OK) {
        return status;
    }
    pico_file_tensor *t = &c->file->tensor[c->file->n_tensor++];
    pico_weight_desc *w = &t->data;
    *t = (pico_file_tensor){.name = pico_arena_strdup(&c->file->arena, e->name), .rank = e->rank};
    memcpy(t->shape, e->shape, sizeof t->shape);
    w->dtype = entry->tensor.dtype;
    w->rows = e->rank == 1 ? 1 : e->shape[0];
    w->cols = e->shape[e->rank - 1];
    w->codes_bytes = pico_weight_codes_bytes(w->dtype, w->rows, w->cols);
    if (t->name == NULL) {
        return pico_fail(c->err, PICO_E_NOMEM, "out of memory");
    }
    status = pico_torch_load(&c->torch, entry->name, &entry->tensor, c->file, &w->codes, c->err);
    if (status == PICO_OK && w->dtype == PICO_DTYPE_I8) {
        status = add_scale(c, entry, w);
    }
    t->bytes = w->codes_bytes + 4 * w->n_scales;
    entry->taken = 1;
    return status;
}

/* The rope tables of an int8 export follow from the description. */
static int is_buffer(const checkpoint *c, const char *name) {
    return c->is_int8 && (strcmp(name, "cos") == 0 || strcmp(name, "sin") == 0);
}

static pico_status refuse_left_over(const checkpoint *c) {
    pico_shape_text shape;
    for (uint64_t i = 0; i < c->table.n; i++) {
        const pico_nanochat_entry *entry = &c->table.entry[i];
        if (!entry->taken && !is_buffer(c, entry->name)) {
            return pico_fail(
                c->err, PICO_E_CORRUPT,
                "tensor %s of shape %s belongs to nothing in the description of this model",
                entry->name, pico_shape_format(&shape, entry->tensor.rank, entry->tensor.shape));
        }
    }
    return PICO_OK;
}

static pico_status take_tensors(checkpoint *c) {
    pico_model_file *file = c->file;
    file->tensor = pico_arena_alloc(&file->arena, (size_t)c->table.n + 1, sizeof *file->tensor);
    if (file->tensor == NULL) {
        return pico_fail(c->err, PICO_E_NOMEM, "out of memory");
    }
    pico_status status = pico_expect_each(&file->desc, take_tensor, c);
    if (status == PICO_OK) {
        status = refuse_left_over(c);
    }
    return status == PICO_OK ? pico_expect_match(file, c->err) : status;
}

/* ---- what kind of file ---- */

static pico_status check_bits(checkpoint *c) {
    const pico_pickle_value *bits = pico_pickle_get(c->torch.root, "bits");
    if (bits == NULL || bits->kind != PICO_PICKLE_INT || bits->integer < 2 || bits->integer > 8) {
        return pico_fail(c->err, PICO_E_UNSUPPORTED,
                         "key bits: expected 8, or 2 to 7 in codes of 8 bits");
    }
    c->bits = bits->integer;
    return PICO_OK;
}

static pico_status build_table(checkpoint *c) {
    const pico_pickle_value *root = c->torch.root,
                            *weights = pico_pickle_get(root, "quantized_weights"),
                            *scales = pico_pickle_get(root, "scales");
    c->is_int8 = weights != NULL;
    if (c->is_int8 && scales == NULL) {
        return pico_fail(c->err, PICO_E_CORRUPT, "key quantized_weights without key scales");
    }
    pico_status status = c->is_int8 ? check_bits(c) : PICO_OK;
    return status != PICO_OK
               ? status
               : pico_nanochat_table_build(c->is_int8 ? weights : root, c->is_int8 ? scales : NULL,
                                           &c->torch.arena, &c->table, c->err);
}

static pico_status read_config(checkpoint *c, const pico_nanochat_source *source,
                               pico_nanochat_config *config) {
    if (c->is_int8) {
        return pico_nanochat_config_pickle(pico_pickle_get(c->torch.root, "config"), config,
                                           c->err);
    }
    if (pico_nanochat_find_entry(&c->table, "transformer.wte.weight") == NULL) {
        return pico_fail(c->err, PICO_E_UNSUPPORTED,
                         "tensor transformer.wte.weight is missing: not a nanochat checkpoint");
    }
    if (source->meta == NULL) {
        return pico_fail(c->err, PICO_E_INVALID,
                         "its metadata is missing: expected %.160s beside it", source->meta_path);
    }
    pico_status status = pico_nanochat_config_json(source->meta, source->n_meta, config, c->err);
    c->fault = status == PICO_OK ? source->path : source->meta_path;
    return status;
}

/* With the generation, which nothing in the file says. */
static const char *format_name(int is_int8, uint32_t generation) {
    static const char *const names[][2] = {
        [PICO_GENERATION_G0] = {"nanochat checkpoint, generation g0", "nanochat int8 export, g0"},
        [PICO_GENERATION_G1] = {"nanochat checkpoint, generation g1", "nanochat int8 export, g1"},
        [PICO_GENERATION_G2] = {"nanochat checkpoint, generation g2", "nanochat int8 export, g2"},
        [PICO_GENERATION_G3] = {"nanochat checkpoint, generation g3", "nanochat int8 export, g3"},
        [PICO_GENERATION_G4] = {"nanochat checkpoint, generation g4", "nanochat int8 export, g4"},
    };
    return names[generation][is_int8];
}

pico_status pico_nanochat_read(const pico_nanochat_source *source, uint32_t generation,
                               pico_model_file *file, pico_error *err) {
    pico_error inner = {0};
    pico_nanochat_config config;
    checkpoint c = {.fault = source->path, .file = file, .err = &inner};
    pico_status status = pico_torch_open(&source->map, &c.torch, &inner);
    if (status == PICO_OK) {
        status = build_table(&c);
    }
    if (status == PICO_OK) {
        status = read_config(&c, source, &config);
    }
    if (status == PICO_OK) {
        status = pico_nanochat_describe(&config, &c.table, &file->arena, &generation, &file->desc,
                                        &inner);
    }
    if (status == PICO_OK) {
        file->format = PICO_FORMAT_TORCH;
        file->format_name = format_name(c.is_int8, generation);
        status = take_tensors(&c);
    }
    pico_torch_close(&c.torch);
    return status == PICO_OK ? PICO_OK
                             : pico_fail(err, status, "%.200s: %s", c.fault, inner.message);
}
