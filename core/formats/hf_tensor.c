/*
 * Canonical tensors from those of a Hugging Face folder, by the table of a family: transposed, cut,
 * with rows in another order, or where they lie. Vectors become F32, as everywhere else; matrices
 * keep their type. What lies unaligned is copied.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/hf.h"
#include "util/checked.h"
#include "util/half.h"

enum { TILE = 32, ALIGNMENT = 64, DATA_ALIGNMENT = 4 };

typedef struct taker {
    const pico_hf_family *family;
    const pico_safetensors *list; /* sorted by name */
    const char *prefix;           /* the family's, or "" */
    pico_model_file *file;
    pico_error *err;
} taker;

/* ---- finding ---- */

static int compare_key(const void *key, const void *item) {
    const pico_st_tensor *tensor = item;
    return strcmp(key, tensor->name);
}

static pico_st_tensor *find(const taker *t, const char *name) {
    return t->list->n == 0
               ? NULL
               : bsearch(name, t->list->tensor, t->list->n, sizeof *t->list->tensor, compare_key);
}

/* "blk.7.attn_q.bias": layer 7 (-1: none), "attn_q", and ".bias". */
static const pico_hf_rule *rule_of(const pico_hf_family *family, const char *canonical, long *layer,
                                   const char **ending) {
    const char *name = canonical;
    *layer = -1;
    if (strncmp(name, "blk.", 4) == 0) {
        char *rest = NULL;
        *layer = strtol(name + 4, &rest, 10);
        name = rest + 1;
    }
    *ending = strrchr(name, '.');
    size_t n = *ending == NULL ? 0 : (size_t)(*ending - name);
    for (size_t i = 0; i < family->n_rule; i++) {
        const pico_hf_rule *rule = &family->rule[i];
        if (strlen(rule->name) == n && memcmp(rule->name, name, n) == 0) {
            return rule;
        }
    }
    return NULL;
}

static void name_of(const taker *t, const pico_hf_rule *rule, long layer, const char *ending,
                    char *out, size_t room) {
    if (layer >= 0) {
        (void)snprintf(out, room, "%s%s%ld.%s%s", t->prefix, t->family->layers, layer, rule->hf,
                       ending);
    } else {
        int is_head = strcmp(rule->name, "output") == 0; /* it is not part of the base model */
        (void)snprintf(out, room, "%s%s%s", is_head ? "" : t->prefix, rule->hf, ending);
    }
}

/* ---- rearranging: row r of the result, and column j of it, is where in the file? ---- */

typedef struct arrangement {
    int64_t rows, cols; /* of the result */
    uint32_t how;
    int64_t first;      /* row of the file's (out, in) matrix that is row 0 of the result */
    int64_t all;        /* rows of that matrix */
    int64_t head, turn; /* ROPE_ROWS: rows of a head, and those that rotate */
} arrangement;

/* Pairs (2i, 2i + 1) are rows i and i + turn/2 of the head in the file. */
static int64_t row_in_file(const arrangement *a, int64_t row) {
    if (a->how != PICO_HF_ROPE_ROWS || row % a->head >= a->turn) {
        return a->first + row;
    }
    int64_t in_head = row % a->head;
    return row - in_head + in_head / 2 + in_head % 2 * (a->turn / 2);
}

static void copy_element(unsigned char *to, const unsigned char *from, size_t size) {
    if (size == 4) { /* constant sizes: single moves */
        memcpy(to, from, 4);
    } else {
        memcpy(to, from, 2);
    }
}

static void transpose(const arrangement *a, const unsigned char *from, size_t size,
                      unsigned char *to) {
    for (int64_t r0 = 0; r0 < a->rows; r0 += TILE) {
        for (int64_t c0 = 0; c0 < a->cols; c0 += TILE) {
            int64_t r1 = r0 + TILE < a->rows ? r0 + TILE : a->rows;
            int64_t c1 = c0 + TILE < a->cols ? c0 + TILE : a->cols;
            for (int64_t r = r0; r < r1; r++) {
                for (int64_t c = c0; c < c1; c++) {
                    copy_element(to + (size_t)(r * a->cols + c) * size,
                                 from + (size_t)(c * a->all + a->first + r) * size, size);
                }
            }
        }
    }
}

static void rearrange(const arrangement *a, const unsigned char *from, size_t size,
                      unsigned char *to) {
    if (a->how == PICO_HF_TRANSPOSED) {
        transpose(a, from, size, to);
        return;
    }
    size_t row_bytes = (size_t)a->cols * size;
    for (int64_t r = 0; r < a->rows; r++) {
        memcpy(to + (size_t)r * row_bytes, from + (size_t)row_in_file(a, r) * row_bytes, row_bytes);
    }
}

static unsigned char *aligned_room(pico_arena *arena, uint64_t bytes) {
    uint64_t room = 0;
    unsigned char *data = !pico_checked_add(bytes, ALIGNMENT, &room) || room > SIZE_MAX
                              ? NULL
                              : pico_arena_alloc(arena, (size_t)room, 1);
    return data == NULL ? NULL : data + (ALIGNMENT - (uintptr_t)data % ALIGNMENT) % ALIGNMENT;
}

static void widen(const pico_st_tensor *source, const unsigned char *from, uint64_t n, float *to) {
    for (uint64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, from + 2 * i, sizeof h);
        to[i] = source->dtype == PICO_DTYPE_F16 ? pico_f32_of_f16(h) : pico_f32_of_bf16(h);
    }
}

/* The elements of the result, (rows, cols): in the file where they lie in this order, else a copy.
 * A vector of n is (n, 1), so that it is cut and ordered like the rows of its matrix. */
static pico_status take_data(const taker *t, const pico_st_tensor *source, const arrangement *a,
                             int is_vector, pico_weight_desc *out) {
    size_t size = source->dtype == PICO_DTYPE_F32 ? 4 : 2;
    uint64_t n = (uint64_t)a->rows * (uint64_t)a->cols; /* of a tensor that is in the file */
    const unsigned char *data = source->data + (size_t)(a->first * a->cols) * size;
    unsigned char *copy = NULL;
    int moves = a->how != PICO_HF_PLAIN || (uintptr_t)data % DATA_ALIGNMENT != 0;
    if (moves) {
        data = copy = aligned_room(&t->file->arena, n * size);
    }
    if (copy != NULL) {
        rearrange(a, source->data, size, copy);
    }
    if (data != NULL && is_vector && size != sizeof(float)) {
        copy = aligned_room(&t->file->arena, n * sizeof(float));
        if (copy != NULL) {
            widen(source, data, n, (float *)(void *)copy);
        }
        data = copy;
    }
    if (data == NULL) {
        return pico_fail(t->err, PICO_E_NOMEM, "%.200s: tensor %.80s: out of memory for %llu bytes",
                         source->path, source->name, (unsigned long long)n * size);
    }
    *out = (pico_weight_desc){.codes = data,
                              .dtype = is_vector ? (uint32_t)PICO_DTYPE_F32 : source->dtype,
                              .rows = is_vector ? 1 : a->rows,
                              .cols = is_vector ? a->rows : a->cols};
    out->codes_bytes = pico_weight_codes_bytes(out->dtype, out->rows, out->cols);
    return PICO_OK;
}

/* ---- one tensor ---- */

/* Any number of rows where the result has only some of them. */
static pico_status check_source(const taker *t, const pico_st_tensor *source, const arrangement *a,
                                int is_vector) {
    int64_t rows = a->all, cols = a->cols;
    int transposed = a->how == PICO_HF_TRANSPOSED;
    int64_t shape[2] = {transposed ? cols : rows, transposed ? rows : cols};
    uint32_t rank = is_vector ? 1 : 2;
    pico_shape_text found, expected;
    if (source->rank != rank || source->shape[0] != shape[0] ||
        (!is_vector && source->shape[1] != shape[1])) {
        return pico_fail(
            t->err, PICO_E_CORRUPT,
            "%.200s: tensor %.80s has shape %s%s, expected %s from config.json", source->path,
            source->name, pico_shape_format(&found, source->rank, source->shape),
            source->rank > 4 ? " and more" : "", pico_shape_format(&expected, rank, shape));
    }
    if (source->dtype == PICO_DTYPE_NONE) {
        return pico_fail(t->err, PICO_E_UNSUPPORTED,
                         "%.200s: tensor %.80s is of type %.16s; usable are F32, F16 and BF16",
                         source->path, source->name, source->type);
    }
    return PICO_OK;
}

static arrangement arrange(const taker *t, const pico_hf_rule *rule, const pico_expected *e) {
    const pico_model_desc *desc = &t->file->desc;
    int is_vector = e->rank == 1;
    arrangement a = {.rows = e->shape[0], .cols = is_vector ? 1 : e->shape[1], .how = rule->how};
    a.all = rule->n_parts == 0 ? a.rows : a.rows * (int64_t)rule->n_parts;
    a.first = rule->part * a.rows;
    a.head = desc->layer[0].head_dim;
    a.turn = desc->rope_dim;
    if (is_vector && a.how == PICO_HF_TRANSPOSED) {
        a.how = PICO_HF_PLAIN;
    }
    return a;
}

static pico_status take(void *arg, const pico_expected *e) {
    const taker *t = arg;
    char name[128];
    const char *ending = NULL;
    long layer = -1;
    pico_shape_text shape;
    const pico_hf_rule *rule = rule_of(t->family, e->name, &layer, &ending);
    if (rule == NULL) {
        return pico_fail(t->err, PICO_E_UNSUPPORTED, "%.200s: a %s model with a tensor %s",
                         t->file->path, t->family->model_type, e->name);
    }
    name_of(t, rule, layer, ending, name, sizeof name);
    pico_st_tensor *source = find(t, name);
    arrangement a = arrange(t, rule, e);
    if (source == NULL) {
        const int64_t sizes[2] = {a.how == PICO_HF_TRANSPOSED ? a.cols : a.all,
                                  a.how == PICO_HF_TRANSPOSED ? a.all : a.cols};
        return pico_fail(t->err, PICO_E_CORRUPT,
                         "%.200s: tensor %s of shape %s is missing among the %u tensors of the "
                         "model",
                         t->file->path, name, pico_shape_format(&shape, e->rank, sizes),
                         t->list->n);
    }
    pico_status status = check_source(t, source, &a, e->rank == 1);
    if (status != PICO_OK) {
        return status;
    }
    source->used = 1;
    pico_file_tensor *out = &t->file->tensor[t->file->n_tensor++];
    *out = (pico_file_tensor){.name = pico_arena_strdup(&t->file->arena, e->name), .rank = e->rank};
    memcpy(out->shape, e->shape, sizeof out->shape);
    if (out->name == NULL) {
        return pico_fail(t->err, PICO_E_NOMEM, "%.200s: out of memory", t->file->path);
    }
    status = take_data(t, source, &a, e->rank == 1, &out->data);
    out->bytes = out->data.codes_bytes;
    return status;
}

/* ---- all tensors ---- */

static int is_among(const char *name, const char *const *list) {
    for (; *list != NULL; list++) {
        if (strcmp(*list, name) == 0) {
            return 1;
        }
    }
    return 0;
}

/* Buffers that say nothing: the mask, the frequencies of rope. */
static int is_ignored(const taker *t, const char *name) {
    size_t prefix = strlen(t->prefix), layers = strlen(t->family->layers);
    if (strncmp(name, t->prefix, prefix) != 0) {
        return 0;
    }
    name += prefix;
    if (strncmp(name, t->family->layers, layers) != 0) {
        return is_among(name, t->family->ignored_top);
    }
    name += layers;
    size_t digits = strspn(name, "0123456789");
    return digits > 0 && name[digits] == '.' && is_among(name + digits + 1, t->family->ignored);
}

/* A head beside a tied embedding must be the embedding. */
static pico_status check_tied_head(const taker *t) {
    pico_st_tensor *head = find(t, "lm_head.weight");
    char name[64];
    (void)snprintf(name, sizeof name, "%s%s.weight", t->prefix, t->family->rule[0].hf);
    const pico_st_tensor *embed = find(t, name);
    if (head == NULL || embed == NULL || (t->file->desc.flags & PICO_TIED_HEAD) == 0) {
        return PICO_OK;
    }
    head->used = 1;
    if (head->dtype == embed->dtype && head->bytes == embed->bytes && head->bytes > 0 &&
        memcmp(head->data, embed->data, (size_t)head->bytes) == 0) {
        return PICO_OK;
    }
    return pico_fail(t->err, PICO_E_CORRUPT,
                     "%.200s: tensor lm_head.weight differs from %s, but by config.json the two "
                     "are one; if they are not, set \"tie_word_embeddings\" to false there",
                     head->path, name);
}

static pico_status refuse_left_over(const taker *t) {
    for (uint32_t i = 0; i < t->list->n; i++) {
        const pico_st_tensor *tensor = &t->list->tensor[i];
        pico_shape_text shape;
        if (!tensor->used && !is_ignored(t, tensor->name)) {
            return pico_fail(t->err, PICO_E_UNSUPPORTED,
                             "%.200s: tensor %.80s %s belongs to nothing that a %s model with this "
                             "config.json has",
                             tensor->path, tensor->name,
                             pico_shape_format(&shape, tensor->rank, tensor->shape),
                             t->family->model_type);
        }
    }
    return PICO_OK;
}

static pico_status count(void *arg, const pico_expected *e) {
    (void)e;
    ++*(uint32_t *)arg;
    return PICO_OK;
}

pico_status pico_hf_take_tensors(const pico_hf_family *family, const pico_safetensors *list,
                                 pico_model_file *file, pico_error *err) {
    taker t = {.family = family, .list = list, .prefix = "", .file = file, .err = err};
    size_t prefix = strlen(family->prefix);
    uint32_t n = 0;
    for (uint32_t i = 0; i < list->n && t.prefix[0] == '\0'; i++) {
        if (strncmp(list->tensor[i].name, family->prefix, prefix) == 0) {
            t.prefix = family->prefix;
        }
    }
    (void)pico_expect_each(&file->desc, count, &n);
    file->tensor = pico_arena_alloc(&file->arena, n, sizeof *file->tensor);
    if (file->tensor == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "%.200s: out of memory for %u tensors", file->path, n);
    }
    pico_status status = check_tied_head(&t);
    if (status == PICO_OK) {
        status = pico_expect_each(&file->desc, take, &t);
    }
    return status == PICO_OK ? refuse_left_over(&t) : status;
}
