/*
 * Pickles and PyTorch archives made in memory, for tests and fuzz targets: the opcodes that
 * torch.save writes, one tensor after the other, and a ZIP archive around them. Allocation failures
 * are not handled: the caller crashes.
 */
#ifndef PICO_TESTS_TORCH_KIT_H
#define PICO_TESTS_TORCH_KIT_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

/* ---- bytes ---- */

typedef struct kit_bytes {
    unsigned char *data; /* malloc-ed */
    size_t n, capacity;
} kit_bytes;

static inline void kit_put(kit_bytes *b, const void *data, size_t n) {
    if (b->n + n > b->capacity) {
        b->capacity = 2 * (b->n + n);
        b->data = realloc(b->data, b->capacity);
    }
    if (n != 0) {
        memcpy(b->data + b->n, data, n);
    }
    b->n += n;
}

static inline void kit_op(kit_bytes *b, int op) {
    unsigned char byte = (unsigned char)op;
    kit_put(b, &byte, 1);
}

/* Little-endian. */
static inline void kit_uint(kit_bytes *b, uint64_t x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        kit_op(b, (int)(x >> (8 * i) & 0xff));
    }
}

/* ---- pickles ---- */

static inline void kit_text(kit_bytes *b, const char *text) {
    kit_op(b, 'X');
    kit_uint(b, strlen(text), 4);
    kit_put(b, text, strlen(text));
}

static inline void kit_binary(kit_bytes *b, const void *data, size_t n) {
    kit_op(b, 'B');
    kit_uint(b, n, 4);
    kit_put(b, data, n);
}

static inline void kit_int(kit_bytes *b, int64_t x) {
    if (x >= INT32_MIN && x <= INT32_MAX) {
        kit_op(b, 'J');
        kit_uint(b, (uint64_t)x, 4);
    } else {
        kit_op(b, 0x8a); /* LONG1 */
        kit_op(b, 8);
        kit_uint(b, (uint64_t)x, 8);
    }
}

static inline void kit_real(kit_bytes *b, double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    kit_op(b, 'G');
    for (int i = 7; i >= 0; i--) {
        kit_op(b, (int)(bits >> (8 * i) & 0xff));
    }
}

static inline void kit_global(kit_bytes *b, const char *module, const char *name) {
    kit_op(b, 'c');
    kit_put(b, module, strlen(module));
    kit_op(b, '\n');
    kit_put(b, name, strlen(name));
    kit_op(b, '\n');
}

static inline void kit_begin(kit_bytes *b) {
    kit_put(b, "\x80\x02", 2);
}

static inline void kit_ordered_dict(kit_bytes *b) {
    kit_global(b, "collections", "OrderedDict");
    kit_put(b, ")R", 2);
}

static inline void kit_tuple(kit_bytes *b, uint32_t n, const int64_t *values) {
    kit_op(b, '(');
    for (uint32_t i = 0; i < n; i++) {
        kit_int(b, values[i]);
    }
    kit_op(b, 't');
}

typedef struct kit_tensor {
    const char *storage; /* "FloatStorage" */
    int key;
    int64_t n_storage, offset;
    uint32_t rank;
    int64_t shape[4], stride[4];
} kit_tensor;

/* The value of a tensor as torch.save writes it. */
static inline void kit_tensor_value(kit_bytes *b, const kit_tensor *t) {
    char key[24];
    (void)snprintf(key, sizeof key, "%d", t->key);
    kit_global(b, "torch._utils", "_rebuild_tensor_v2");
    kit_put(b, "((", 2);
    kit_text(b, "storage");
    kit_global(b, "torch", t->storage);
    kit_text(b, key);
    kit_text(b, "cuda:0");
    kit_int(b, t->n_storage);
    kit_put(b, "tQ", 2);
    kit_int(b, t->offset);
    kit_tuple(b, t->rank, t->shape);
    kit_tuple(b, t->rank, t->stride);
    kit_op(b, 0x89); /* NEWFALSE */
    kit_ordered_dict(b);
    kit_put(b, "tR", 2);
}

/* ---- archives ---- */

typedef struct kit_archive {
    zip_t *zip;
    zip_source_t *source;
} kit_archive;

static inline kit_archive kit_archive_begin(void) {
    kit_archive a;
    a.source = zip_source_buffer_create(NULL, 0, 0, NULL);
    zip_source_keep(a.source);
    a.zip = zip_open_from_source(a.source, ZIP_TRUNCATE, NULL);
    return a;
}

/* Copies the data. */
static inline void kit_archive_add(kit_archive *a, const char *name, const void *data, size_t n,
                                   int method) {
    void *copy = n == 0 ? NULL : malloc(n); /* libzip frees it, unless it is empty */
    if (n != 0) {
        memcpy(copy, data, n);
    }
    zip_source_t *source = zip_source_buffer(a->zip, copy, n, 1);
    zip_int64_t index = zip_file_add(a->zip, name, source, ZIP_FL_OVERWRITE);
    (void)zip_set_file_compression(a->zip, (zip_uint64_t)index, method, 0);
}

/* The archive, malloc-ed. */
static inline unsigned char *kit_archive_end(kit_archive *a, size_t *size) {
    zip_stat_t info;
    (void)zip_close(a->zip);
    (void)zip_source_open(a->source);
    (void)zip_source_stat(a->source, &info);
    *size = (size_t)info.size;
    unsigned char *data = malloc(*size + 1);
    (void)zip_source_read(a->source, data, *size);
    (void)zip_source_close(a->source);
    zip_source_free(a->source);
    return data;
}

/* ---- checkpoints: a state dict, tensor after tensor ---- */

typedef struct kit_checkpoint {
    kit_bytes pickle;
    kit_archive archive;
    int n_tensor;
} kit_checkpoint;

static inline kit_checkpoint kit_checkpoint_begin(void) {
    kit_checkpoint c = {.archive = kit_archive_begin()};
    kit_begin(&c.pickle);
    kit_ordered_dict(&c.pickle);
    return c;
}

/* The storage of the next tensor: element_bytes * n bytes that count up from the tensor's number. */
static inline int kit_add_storage(kit_checkpoint *c, size_t bytes) {
    char name[48];
    unsigned char *data = malloc(bytes + 1);
    for (size_t i = 0; i < bytes; i++) {
        data[i] = (unsigned char)(i % 4 == 3 ? 0x3d : i * 7 + (size_t)c->n_tensor);
    }
    (void)snprintf(name, sizeof name, "archive/data/%d", c->n_tensor);
    kit_archive_add(&c->archive, name, data, bytes, ZIP_CM_STORE);
    free(data);
    return c->n_tensor++;
}

/* A contiguous tensor of a storage of its own. */
static inline void kit_add_tensor(kit_checkpoint *c, const char *name, const char *storage,
                                  size_t element_bytes, uint32_t rank, int64_t rows, int64_t cols) {
    int64_t n = rank == 1 ? rows : rows * cols;
    kit_tensor t = {.storage = storage,
                    .key = kit_add_storage(c, (size_t)n * element_bytes),
                    .n_storage = n,
                    .rank = rank,
                    .shape = {rows, cols},
                    .stride = {rank == 1 ? 1 : cols, 1}};
    kit_text(&c->pickle, name);
    kit_tensor_value(&c->pickle, &t);
    kit_op(&c->pickle, 's');
}

static inline unsigned char *kit_checkpoint_end(kit_checkpoint *c, size_t *size) {
    kit_op(&c->pickle, '.');
    kit_archive_add(&c->archive, "archive/data.pkl", c->pickle.data, c->pickle.n, ZIP_CM_STORE);
    kit_archive_add(&c->archive, "archive/version", "3\n", 2, ZIP_CM_STORE);
    free(c->pickle.data);
    return kit_archive_end(&c->archive, size);
}

#endif
