/* The archive: entries, checksums, storages in memory; see torch.h. */
#include "formats/torch.h"

#include <string.h>
#include <sys/mman.h>
#include <zip.h>

#include "formats/reader.h"

enum {
    MAX_PICKLE = 16 << 20, /* a state dict of a thousand layers has some 2 MB */
    BLOCK_ALIGNMENT = 64,
    MAP_FROM = 64 * 1024, /* bytes from which a storage gets a mapping of its own */
    MAX_DEFLATION = 1032, /* deflate cannot do better */
    MAX_COPIES = 4        /* bytes of copied tensors for a byte of the storages */
};

typedef struct pico_torch_storage {
    const unsigned char *data; /* NULL: not loaded */
} pico_torch_storage;

static pico_status zip_code(int zip_error) {
    switch (zip_error) {
    case ZIP_ER_MEMORY:
        return PICO_E_NOMEM;
    case ZIP_ER_COMPNOTSUPP:
    case ZIP_ER_ENCRNOTSUPP:
    case ZIP_ER_NOPASSWD:
    case ZIP_ER_MULTIDISK:
        return PICO_E_UNSUPPORTED;
    default:
        return PICO_E_CORRUPT;
    }
}

static pico_status open_archive(const pico_map *map, pico_torch *torch, pico_error *err) {
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t *source = zip_source_buffer_create(map->data, map->size, 0, &error);
    torch->zip = source == NULL ? NULL : zip_open_from_source(source, ZIP_RDONLY, &error);
    pico_status status = PICO_OK;
    if (torch->zip == NULL) {
        zip_source_free(source);
        status = pico_fail(err, zip_code(zip_error_code_zip(&error)),
                           "the ZIP archive cannot be read: %s (truncated or damaged?)",
                           zip_error_strerror(&error));
    }
    zip_error_fini(&error);
    return status;
}

/* ---- entries ---- */

typedef struct entry {
    uint64_t index, size, stored; /* stored: bytes of the file that hold it */
    const char *name;
} entry;

/* Sizes of the entry with that index, checked against what the archive can hold. */
static pico_status measure(const pico_torch *torch, entry *e, pico_error *err) {
    zip_stat_t info;
    zip_stat_init(&info);
    const zip_uint64_t needed = ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD;
    if (zip_stat_index(torch->zip, e->index, 0, &info) != 0 || (info.valid & needed) != needed) {
        return pico_fail(err, PICO_E_CORRUPT, "entry %s: %s", e->name, zip_strerror(torch->zip));
    }
    uint64_t most = info.comp_method == ZIP_CM_STORE ? info.comp_size : UINT64_MAX;
    if (info.comp_method == ZIP_CM_DEFLATE && info.comp_size < UINT64_MAX / MAX_DEFLATION) {
        most = info.comp_size * MAX_DEFLATION;
    }
    if (info.comp_size > torch->map.size || info.size > most) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "entry %s: %llu bytes, stored as %llu, in a file of %llu: truncated or "
                         "damaged",
                         e->name, (unsigned long long)info.size, (unsigned long long)info.comp_size,
                         (unsigned long long)torch->map.size);
    }
    e->size = info.size;
    e->stored = info.comp_size;
    return PICO_OK;
}

/* Each byte of the file belongs to one entry; if entries could share them, a small file would hold
 * any number of large ones. */
static pico_status account(pico_torch *torch, const entry *e, pico_error *err) {
    if (e->stored > torch->map.size - torch->n_stored) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "entry %s: the entries take more than the %llu bytes of the file: they "
                         "overlap",
                         e->name, (unsigned long long)torch->map.size);
    }
    torch->n_stored += e->stored;
    return PICO_OK;
}

/* The whole entry; libzip verifies the checksum at its end. */
static pico_status read_entry(pico_torch *torch, const entry *e, void *out, pico_error *err) {
    pico_status status = account(torch, e, err);
    if (status != PICO_OK) {
        return status;
    }
    zip_file_t *file = zip_fopen_index(torch->zip, e->index, 0);
    if (file == NULL) {
        int code = zip_error_code_zip(zip_get_error(torch->zip));
        return pico_fail(err, zip_code(code), "entry %s: %s", e->name, zip_strerror(torch->zip));
    }
    uint64_t have = 0;
    char more;
    for (zip_int64_t got = 1; status == PICO_OK && got > 0; have += (uint64_t)got) {
        got = have < e->size ? zip_fread(file, (char *)out + have, e->size - have)
                             : zip_fread(file, &more, 1);
        if (got < 0) {
            int code = zip_error_code_zip(zip_file_get_error(file));
            status = pico_fail(err, zip_code(code), "entry %s: %s: the file is damaged", e->name,
                               zip_file_strerror(file));
            break;
        }
    }
    if (status == PICO_OK && have != e->size) {
        status = pico_fail(err, PICO_E_CORRUPT, "entry %s: %s than the %llu bytes it should have",
                           e->name, have < e->size ? "fewer" : "more", (unsigned long long)e->size);
    }
    (void)zip_fclose(file);
    return status;
}

/* PREFIX/rest; its name is there on PICO_E_NOT_FOUND too. */
static pico_status find_entry(pico_torch *torch, const char *rest, int n_rest, entry *out,
                              pico_error *err) {
    out->name = pico_arena_printf(&torch->arena, "%s/%.*s", torch->prefix, n_rest, rest);
    if (out->name == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    zip_int64_t found = zip_name_locate(torch->zip, out->name, ZIP_FL_ENC_RAW);
    out->index = (uint64_t)found;
    return found < 0 ? PICO_E_NOT_FOUND : measure(torch, out, err);
}

/* ---- the pickle ---- */

/* The only entry NAME/data.pkl, and NAME. */
static pico_status find_pickle(pico_torch *torch, uint64_t *index, pico_error *err) {
    static const char tail[] = "/data.pkl";
    for (uint64_t i = 0; i < torch->n_entry; i++) {
        const char *name = zip_get_name(torch->zip, i, ZIP_FL_ENC_RAW);
        size_t n = name == NULL ? 0 : strlen(name);
        if (n < sizeof tail || strcmp(name + n - (sizeof tail - 1), tail) != 0) {
            continue;
        }
        if (torch->prefix != NULL) {
            return pico_fail(err, PICO_E_CORRUPT, "two entries end with %s, expected one: %.80s%s",
                             tail, torch->prefix, tail);
        }
        torch->prefix = pico_arena_strndup(&torch->arena, name, n - (sizeof tail - 1));
        *index = i;
        if (torch->prefix == NULL) {
            return pico_fail(err, PICO_E_NOMEM, "out of memory");
        }
    }
    return torch->prefix != NULL
               ? PICO_OK
               : pico_fail(err, PICO_E_UNSUPPORTED,
                           "a ZIP archive of %llu entries without NAME/data.pkl: not a file of "
                           "torch.save",
                           (unsigned long long)torch->n_entry);
}

static pico_status check_byte_order(pico_torch *torch, pico_error *err) {
    static const char little[] = "little";
    entry e;
    char order[8] = "";
    pico_status status = find_entry(torch, "byteorder", 9, &e, err);
    if (status == PICO_E_NOT_FOUND) {
        return PICO_OK; /* older files are little-endian */
    }
    if (status == PICO_OK && e.size < sizeof order) {
        status = read_entry(torch, &e, order, err);
    }
    if (status == PICO_OK && strcmp(order, little) != 0) {
        status = pico_fail(err, PICO_E_UNSUPPORTED, "entry %s: byte order \"%s\", expected %s",
                           e.name, order, little);
    }
    return status;
}

static pico_status read_pickle(pico_torch *torch, uint64_t index, pico_error *err) {
    entry e = {.index = index, .name = zip_get_name(torch->zip, index, ZIP_FL_ENC_RAW)};
    pico_error inner = {0};
    pico_status status = measure(torch, &e, err);
    if (status != PICO_OK) {
        return status;
    }
    if (e.size > MAX_PICKLE) {
        return pico_fail(err, PICO_E_LIMIT, "entry %s has %llu bytes, expected at most %d", e.name,
                         (unsigned long long)e.size, MAX_PICKLE);
    }
    unsigned char *bytes = pico_arena_alloc(&torch->arena, (size_t)e.size, 1);
    if (bytes == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for entry %s", e.name);
    }
    status = read_entry(torch, &e, bytes, err);
    if (status != PICO_OK) {
        return status;
    }
    const pico_map map = {.data = bytes, .size = e.size};
    status = pico_pickle_read(&map, &torch->arena, &torch->root, &inner);
    return status == PICO_OK ? PICO_OK
                             : pico_fail(err, status, "entry %s: %s", e.name, inner.message);
}

pico_status pico_torch_open(const pico_map *map, pico_torch *out, pico_error *err) {
    *out = (pico_torch){.map = *map};
    pico_status status = open_archive(map, out, err);
    if (status != PICO_OK) {
        return status;
    }
    uint64_t pickle = 0;
    zip_int64_t n = zip_get_num_entries(out->zip, 0);
    out->n_entry = n < 0 ? 0 : (uint64_t)n;
    out->storage = pico_arena_alloc(&out->arena, out->n_entry, sizeof *out->storage);
    if (out->storage == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for %llu entries",
                         (unsigned long long)out->n_entry);
    }
    status = find_pickle(out, &pickle, err);
    if (status == PICO_OK) {
        status = check_byte_order(out, err);
    }
    return status == PICO_OK ? read_pickle(out, pickle, err) : status;
}

void pico_torch_close(pico_torch *torch) {
    if (torch->zip != NULL) {
        zip_discard(torch->zip);
    }
    pico_arena_free(&torch->arena);
    *torch = (pico_torch){0};
}

/* ---- storages ---- */

/* Memory that lives as long as the file, aligned to 64 bytes. */
static pico_status new_block(pico_model_file *file, uint64_t size, unsigned char **out,
                             pico_error *err) {
    if (size >= MAP_FROM) {
        void *data =
            mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        pico_map map = {.data = data, .size = size};
        *out = data;
        return data == MAP_FAILED ? pico_fail(err, PICO_E_NOMEM, "out of memory for %llu bytes",
                                              (unsigned long long)size)
                                  : pico_model_file_keep(file, &map, err);
    }
    unsigned char *data = pico_arena_alloc(&file->arena, (size_t)size + BLOCK_ALIGNMENT - 1, 1);
    if (data == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory for %llu bytes",
                         (unsigned long long)size);
    }
    *out = data + (BLOCK_ALIGNMENT - (uintptr_t)data % BLOCK_ALIGNMENT) % BLOCK_ALIGNMENT;
    return PICO_OK;
}

static pico_status load_storage(pico_torch *torch, const pico_torch_tensor *tensor,
                                pico_model_file *file, const unsigned char **out, pico_error *err) {
    entry e;
    unsigned char *data;
    char rest[64];
    int n = snprintf(rest, sizeof rest, "data/%.*s", (int)tensor->n_key, tensor->key);
    pico_status status = find_entry(torch, rest, n, &e, err);
    if (status == PICO_E_NOT_FOUND) {
        return pico_fail(err, PICO_E_CORRUPT, "entry %s is missing: truncated or damaged", e.name);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (e.size % tensor->element_bytes != 0 ||
        e.size / tensor->element_bytes != tensor->n_storage) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "entry %s has %llu bytes, expected %llu elements of %llu bytes", e.name,
                         (unsigned long long)e.size, (unsigned long long)tensor->n_storage,
                         (unsigned long long)tensor->element_bytes);
    }
    if (torch->storage[e.index].data == NULL) {
        status = new_block(file, e.size, &data, err);
        if (status == PICO_OK) {
            status = read_entry(torch, &e, data, err);
        }
        torch->storage[e.index].data = status == PICO_OK ? data : NULL;
        torch->n_loaded += status == PICO_OK ? e.size : 0;
    }
    *out = torch->storage[e.index].data;
    return status;
}

/* ---- tensors ---- */

static int is_contiguous(const pico_torch_tensor *t) {
    int64_t expected = 1;
    for (uint32_t i = t->rank; i > 0; i--) {
        if (t->shape[i - 1] != 1 && t->stride[i - 1] != expected) {
            return 0;
        }
        expected *= t->shape[i - 1];
    }
    return 1;
}

static void gather(const pico_torch_tensor *t, const unsigned char *storage, unsigned char *out) {
    int64_t index[4] = {0, 0, 0, 0}, at = t->offset;
    size_t bytes = (size_t)t->element_bytes;
    for (int64_t i = 0; i < t->n; i++) {
        memcpy(out + (size_t)i * bytes, storage + (size_t)at * bytes, bytes);
        for (uint32_t d = t->rank; d > 0; d--) { /* the next index, and its place */
            at += t->stride[d - 1];
            if (++index[d - 1] < t->shape[d - 1]) {
                break;
            }
            at -= t->stride[d - 1] * t->shape[d - 1];
            index[d - 1] = 0;
        }
    }
}

/* A copy of the tensor's elements. Tensors may share a storage, but there is a limit to it: else a
 * small file could describe any number of copies. */
static pico_status copy_tensor(pico_torch *torch, const pico_torch_tensor *tensor,
                               const unsigned char *storage, pico_model_file *file,
                               const void **out, pico_error *err) {
    unsigned char *copy = NULL;
    uint64_t bytes = (uint64_t)tensor->n * tensor->element_bytes; /* at most its storage's */
    if (torch->n_copied / MAX_COPIES > torch->n_loaded) {
        return pico_fail(err, PICO_E_LIMIT,
                         "tensors that share storages without being contiguous in them take more "
                         "than %d times the storages",
                         MAX_COPIES);
    }
    pico_status status = new_block(file, bytes, &copy, err);
    if (status == PICO_OK) {
        torch->n_copied += bytes;
        gather(tensor, storage, copy);
    }
    *out = copy;
    return status;
}

pico_status pico_torch_load(pico_torch *torch, const char *name, const pico_torch_tensor *tensor,
                            pico_model_file *file, const void **out, pico_error *err) {
    const unsigned char *storage = NULL;
    pico_error inner = {0};
    pico_status status = load_storage(torch, tensor, file, &storage, &inner);
    if (status == PICO_OK && is_contiguous(tensor)) {
        *out = storage + (uint64_t)tensor->offset * tensor->element_bytes;
    } else if (status == PICO_OK) {
        status = copy_tensor(torch, tensor, storage, file, out, &inner);
    }
    return status == PICO_OK ? PICO_OK
                             : pico_fail(err, status, "tensor %s: %s", name, inner.message);
}
