/*
 * Tensors as a pickle describes them: a storage, an offset, a shape and strides. Everything is
 * checked against the number of elements that the storage claims; see torch.h.
 */
#include <string.h>

#include "formats/expect.h"
#include "formats/torch.h"
#include "util/checked.h"

enum { MAX_RANK = 4, MAX_KEY = 40 };

typedef struct tensor_reader {
    const char *name;
    pico_torch_tensor *out;
    pico_error *err;
} tensor_reader;

static const struct {
    uint32_t global, dtype;
    uint64_t bytes;
} storages[] = {
    {PICO_GLOBAL_STORAGE_F32, PICO_DTYPE_F32, 4},   {PICO_GLOBAL_STORAGE_F16, PICO_DTYPE_F16, 2},
    {PICO_GLOBAL_STORAGE_BF16, PICO_DTYPE_BF16, 2}, {PICO_GLOBAL_STORAGE_F64, PICO_DTYPE_NONE, 8},
    {PICO_GLOBAL_STORAGE_I8, PICO_DTYPE_I8, 1},     {PICO_GLOBAL_STORAGE_U8, PICO_DTYPE_NONE, 1},
    {PICO_GLOBAL_STORAGE_I16, PICO_DTYPE_NONE, 2},  {PICO_GLOBAL_STORAGE_I32, PICO_DTYPE_I32, 4},
    {PICO_GLOBAL_STORAGE_I64, PICO_DTYPE_NONE, 8},  {PICO_GLOBAL_STORAGE_BOOL, PICO_DTYPE_NONE, 1},
};

static pico_status not_a_tensor(const tensor_reader *r, const char *what,
                                const pico_pickle_value *found) {
    return pico_fail(r->err, PICO_E_CORRUPT, "%s: expected %s, found %s", r->name, what,
                     pico_pickle_kind(found));
}

/* Item i of a tuple, NULL if it has fewer. */
static const pico_pickle_value *item_of(const pico_pickle_value *tuple, uint64_t i) {
    return i < tuple->n ? tuple->item[i] : NULL;
}

static int is_kind(const pico_pickle_value *value, uint32_t kind) {
    return value != NULL && value->kind == kind;
}

/* ('storage', type, key, device, number of elements); where it lay does not matter. */
static pico_status read_storage(const tensor_reader *r, const pico_pickle_value *value) {
    if (!is_kind(value, PICO_PICKLE_PERSISTENT) || !is_kind(value->item[0], PICO_PICKLE_TUPLE)) {
        return not_a_tensor(r, "a storage", value);
    }
    const pico_pickle_value *id = value->item[0], *type = item_of(id, 1), *key = item_of(id, 2),
                            *n = item_of(id, 4);
    if (!pico_pickle_is_text(item_of(id, 0), "storage") || !is_kind(type, PICO_PICKLE_GLOBAL) ||
        !is_kind(key, PICO_PICKLE_TEXT) || key->n > MAX_KEY || !is_kind(n, PICO_PICKLE_INT) ||
        n->integer < 0) {
        return not_a_tensor(r, "('storage', type, key, device, elements)", id);
    }
    r->out->type = pico_pickle_global_name(type->global);
    for (size_t i = 0; i < sizeof storages / sizeof *storages; i++) {
        if (storages[i].global == type->global) {
            r->out->dtype = storages[i].dtype;
            r->out->element_bytes = storages[i].bytes;
        }
    }
    if (r->out->element_bytes == 0) {
        return pico_fail(r->err, PICO_E_CORRUPT, "%s: %s is not the type of a storage", r->name,
                         r->out->type);
    }
    r->out->key = key->text;
    r->out->n_key = key->n;
    r->out->n_storage = (uint64_t)n->integer;
    return PICO_OK;
}

static pico_status read_dimensions(const tensor_reader *r, const pico_pickle_value *shape,
                                   const pico_pickle_value *stride) {
    pico_torch_tensor *t = r->out;
    uint64_t n = 1;
    if (!is_kind(shape, PICO_PICKLE_TUPLE) || !is_kind(stride, PICO_PICKLE_TUPLE) ||
        shape->n != stride->n) {
        return not_a_tensor(r, "a shape and as many strides", shape);
    }
    if (shape->n > MAX_RANK) {
        return pico_fail(r->err, PICO_E_UNSUPPORTED,
                         "tensor %s has %llu dimensions, expected at most %d", r->name,
                         (unsigned long long)shape->n, MAX_RANK);
    }
    t->rank = shape->n == 0 ? 1 : (uint32_t)shape->n;
    for (uint32_t i = 0; i < MAX_RANK; i++) {
        t->shape[i] = t->stride[i] = 1;
        if (i >= shape->n) {
            continue;
        }
        if (!is_kind(shape->item[i], PICO_PICKLE_INT) ||
            !is_kind(stride->item[i], PICO_PICKLE_INT)) {
            return not_a_tensor(r, "integers for shape and strides", shape->item[i]);
        }
        t->shape[i] = shape->item[i]->integer;
        t->stride[i] = t->shape[i] == 1 ? 0 : stride->item[i]->integer;
        if (t->shape[i] < 1 || !pico_checked_mul(n, (uint64_t)t->shape[i], &n) || n > INT64_MAX) {
            pico_shape_text text;
            return pico_fail(r->err, PICO_E_CORRUPT, "tensor %s has shape %s", r->name,
                             pico_shape_format(&text, i + 1, t->shape));
        }
    }
    t->n = (int64_t)n;
    return PICO_OK;
}

/* All elements lie in the storage. Overlaps are no harm, but not more elements than it has: else a
 * few bytes could describe any number of them. */
static pico_status check_extent(const tensor_reader *r) {
    const pico_torch_tensor *t = r->out;
    uint64_t last = (uint64_t)t->offset;
    int fits = t->offset >= 0 && (uint64_t)t->n <= t->n_storage;
    for (uint32_t i = 0; fits && i < t->rank; i++) {
        uint64_t step = 0;
        fits = t->stride[i] >= 0 &&
               pico_checked_mul((uint64_t)t->stride[i], (uint64_t)t->shape[i] - 1, &step) &&
               pico_checked_add(last, step, &last);
    }
    if (!fits || last >= t->n_storage) {
        pico_shape_text shape, stride;
        return pico_fail(r->err, PICO_E_CORRUPT,
                         "tensor %s: shape %s with strides %s at offset %lld does not fit into a "
                         "storage of %llu elements",
                         r->name, pico_shape_format(&shape, t->rank, t->shape),
                         pico_shape_format(&stride, t->rank, t->stride), (long long)t->offset,
                         (unsigned long long)t->n_storage);
    }
    return PICO_OK;
}

pico_status pico_torch_describe(const char *name, const pico_pickle_value *value,
                                pico_torch_tensor *out, pico_error *err) {
    const tensor_reader r = {.name = name, .out = out, .err = err};
    *out = (pico_torch_tensor){0};
    if (is_kind(value, PICO_PICKLE_OBJECT) && value->global == PICO_GLOBAL_REBUILD_PARAMETER) {
        value = item_of(value->item[0], 0); /* a parameter wraps a tensor */
    }
    if (!is_kind(value, PICO_PICKLE_OBJECT) || value->global != PICO_GLOBAL_REBUILD_TENSOR) {
        return not_a_tensor(&r, "a tensor", value);
    }
    const pico_pickle_value *args = value->item[0], *offset = item_of(args, 1);
    if (!is_kind(offset, PICO_PICKLE_INT)) {
        return not_a_tensor(&r, "an offset into a storage", offset);
    }
    out->offset = offset->integer;
    pico_status status = read_storage(&r, args->item[0]);
    if (status == PICO_OK) {
        status = read_dimensions(&r, item_of(args, 2), item_of(args, 3));
    }
    return status == PICO_OK ? check_extent(&r) : status;
}
