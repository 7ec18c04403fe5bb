/* Texts and checkpoints of training; see train_files.h. */
#include "cli/train_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "measure/eval.h"
#include "util/file.h"
#include "util/hash.h"

enum { HOLD_OUT = 20 };
#define TEXT_BYTES ((uint64_t)1 << 32)

static pico_status no_memory(pico_error *err) {
    return pico_fail(err, PICO_E_NOMEM, "out of memory for the training text");
}

/* ---- texts ---- */

static pico_status add_document(pico_texts *texts, const char *text, size_t n, pico_error *err) {
    if (texts->n_document == texts->document_capacity) {
        const size_t capacity = 2 * texts->document_capacity + 64;
        pico_train_text *bigger = realloc(texts->document, capacity * sizeof *bigger);
        if (bigger == NULL) {
            return no_memory(err);
        }
        texts->document = bigger;
        texts->document_capacity = capacity;
    }
    texts->document[texts->n_document++] = (pico_train_text){text, n};
    return PICO_OK;
}

static pico_status split(pico_texts *texts, const char *text, size_t n, const char *separator,
                         pico_error *err) {
    pico_document *documents = NULL;
    size_t count = 0;
    separator = separator != NULL ? separator : pico_eval_separator(text, n);
    if (separator == NULL) {
        return n == 0 ? PICO_OK : add_document(texts, text, n, err);
    }
    pico_status status = pico_eval_split(text, n, separator, &documents, &count, err);
    for (size_t i = 0; status == PICO_OK && i < count; i++) {
        status = add_document(texts, documents[i].text, documents[i].n, err);
    }
    free(documents);
    return status;
}

static pico_status add_file(pico_texts *texts, const char *path, const char *separator,
                            pico_error *err) {
    char *text = NULL;
    uint64_t n = 0;
    if (texts->n_text == texts->text_capacity) {
        const size_t capacity = 2 * texts->text_capacity + 16;
        char **bigger = realloc(texts->text, capacity * sizeof *bigger);
        if (bigger == NULL) {
            return no_memory(err);
        }
        texts->text = bigger;
        texts->text_capacity = capacity;
    }
    pico_status status = pico_file_read(path, TEXT_BYTES, &text, &n, err);
    if (status != PICO_OK) {
        return status;
    }
    texts->text[texts->n_text++] = text;
    return split(texts, text, (size_t)n, separator, err);
}

static int is_wanted(const struct dirent *entry) {
    return entry->d_name[0] != '.';
}

typedef pico_status take_file(void *arg, const char *path, pico_error *err);

/* Calls take for the file, or for each file of the folder in the order of their names. */
static pico_status each_file(const char *path, take_file *take, void *arg, pico_error *err) {
    struct dirent **entry = NULL;
    pico_arena arena = {0};
    pico_status status = PICO_OK;
    if (!pico_is_folder(path)) {
        return take(arg, path, err);
    }
    const int n = scandir(path, &entry, is_wanted, alphasort);
    if (n < 0) {
        return pico_fail(err, PICO_E_IO, "%s: %s", path, strerror(errno));
    }
    for (int i = 0; i < n; i++) {
        const char *file = status == PICO_OK ? pico_file_in(path, entry[i]->d_name, &arena) : NULL;
        if (file != NULL) { /* folders in it are left out */
            status = take(arg, file, err);
        }
        free(entry[i]);
    }
    free(entry);
    pico_arena_free(&arena);
    return status;
}

static pico_status no_text(const char *path, pico_error *err) {
    return pico_fail(err, PICO_E_INVALID, "%s holds no text", path);
}

typedef struct reading {
    const char *separator;
    pico_texts *texts; /* of all files; NULL: each file goes to take */
    pico_texts_take *take;
    void *arg;
    size_t n_document;
} reading;

static pico_status read_file(void *arg, const char *path, pico_error *err) {
    reading *r = arg;
    pico_texts one = {0};
    if (r->texts != NULL) {
        return add_file(r->texts, path, r->separator, err);
    }
    pico_status status = add_file(&one, path, r->separator, err);
    if (status == PICO_OK) {
        r->n_document += one.n_document;
        status = r->take(r->arg, &one, err);
    }
    pico_texts_free(&one);
    return status;
}

pico_status pico_texts_read(const char *path, const char *separator, pico_texts *out,
                            pico_error *err) {
    *out = (pico_texts){0};
    reading r = {.separator = separator, .texts = out};
    pico_status status = each_file(path, read_file, &r, err);
    if (status == PICO_OK && out->n_document == 0) {
        status = no_text(path, err);
    }
    if (status != PICO_OK) {
        pico_texts_free(out);
    }
    return status;
}

pico_status pico_texts_each(const char *path, const char *separator, pico_texts_take *take,
                            void *arg, pico_error *err) {
    reading r = {.separator = separator, .take = take, .arg = arg};
    pico_status status = each_file(path, read_file, &r, err);
    return status == PICO_OK && r.n_document == 0 ? no_text(path, err) : status;
}

void pico_texts_free(pico_texts *texts) {
    for (size_t i = 0; i < texts->n_text; i++) {
        free(texts->text[i]);
    }
    free(texts->text);
    free(texts->document);
    *texts = (pico_texts){0};
}

/* The first place of a line in [from, n), or from. */
static size_t line_start(const pico_train_text *document, size_t from) {
    const char *newline = memchr(document->text + from, '\n', document->n - from);
    return newline == NULL || newline + 1 == document->text + document->n
               ? from
               : (size_t)(newline + 1 - document->text);
}

pico_status pico_texts_hold_out(pico_texts *texts, pico_train_text **out, size_t *n,
                                pico_error *err) {
    size_t kept = 0;
    *n = 0;
    *out = calloc(texts->n_document, sizeof **out);
    if (*out == NULL) {
        return no_memory(err);
    }
    for (size_t i = 0; i < texts->n_document; i++) {
        pico_train_text document = texts->document[i];
        if (texts->n_document < HOLD_OUT) {
            const size_t cut = line_start(&document, document.n - document.n / HOLD_OUT);
            if (cut < document.n) {
                (*out)[(*n)++] = (pico_train_text){document.text + cut, document.n - cut};
            }
            document.n = cut;
        } else if (i % HOLD_OUT == HOLD_OUT - 1) {
            (*out)[(*n)++] = document;
            continue;
        }
        texts->document[kept++] = document;
    }
    texts->n_document = kept;
    return PICO_OK;
}

/* ---- checkpoints ---- */

/* Numbers as the machine has them. What a version means is never changed: it gets the next number. */
typedef struct state_header {
    char magic[7];
    char version;
    pico_checkpoint at;
    uint64_t bytes; /* behind the header */
    uint64_t check; /* of the header, with 0 in this place, and of what is behind it */
} state_header;

static const char magic[7] = {'p', 'i', 'c', 'o', 't', 'r', 'n'};
enum { STATE_VERSION = '2' }; /* 1 had no check */

static uint64_t check_of(state_header header, const void *state) {
    header.check = 0;
    return pico_hash_bytes(pico_hash_bytes(PICO_HASH_SEED, &header, sizeof header), state,
                           header.bytes);
}

/* What a process that was killed while it wrote has left: NAME.XXXXXX. */
static int is_left_over(const struct dirent *entry) {
    static const char *const names[] = {"last.state.", "last.gguf.", "best.gguf."};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const size_t n = strlen(names[i]);
        if (strncmp(entry->d_name, names[i], n) == 0 && strlen(entry->d_name) == n + 6) {
            return 1;
        }
    }
    return 0;
}

static void remove_left_overs(const char *folder, pico_arena *arena) {
    struct dirent **entry = NULL;
    const int n = scandir(folder, &entry, is_left_over, alphasort);
    for (int i = 0; i < n; i++) {
        const char *path = pico_file_in(folder, entry[i]->d_name, arena);
        if (path != NULL) {
            (void)unlink(path);
        }
        free(entry[i]);
    }
    free(entry);
}

/* Whether a file of `bytes` may and can be made here: limits of the process, quotas, a full disk. A
 * file system that cannot reserve room says nothing. */
static pico_status reserve_file(const char *folder, int fd, uint64_t bytes, pico_error *err) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        limit.rlim_cur < bytes) {
        return pico_fail(err, PICO_E_IO,
                         "%s: a checkpoint has files of %.1f MB, and this process may write files "
                         "of %.1f MB at most (ulimit -f)",
                         folder, (double)bytes * 1e-6, (double)limit.rlim_cur * 1e-6);
    }
    if (fallocate(fd, 0, 0, (off_t)bytes) != 0 &&
        (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) {
        return pico_fail(err, PICO_E_IO, "%s: there is no room for a file of %.1f MB: %s", folder,
                         (double)bytes * 1e-6, strerror(errno));
    }
    return PICO_OK;
}

static pico_status check_disk(const char *folder, uint64_t bytes, pico_error *err) {
    struct statvfs disk;
    if (statvfs(folder, &disk) != 0 ||
        (uint64_t)disk.f_bavail >= bytes / (uint64_t)disk.f_frsize + 1) {
        return PICO_OK;
    }
    return pico_fail(
        err, PICO_E_IO, "%s: checkpoints need %.1f MB while they are written, %.1f MB are free",
        folder, (double)bytes * 1e-6, (double)disk.f_bavail * (double)disk.f_frsize * 1e-6);
}

pico_status pico_checkpoint_prepare(const char *folder, uint64_t state_bytes, uint64_t model_bytes,
                                    int goes_on, pico_error *err) {
    const uint64_t state = state_bytes + sizeof(state_header);

    pico_arena arena = {0};
    pico_writer writer = {0};
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        return pico_fail(err, PICO_E_IO, "cannot make the folder %s for checkpoints: %s", folder,
                         strerror(errno));
    }
    const char *probe = pico_arena_printf(&arena, "%s/last.state", folder);
    pico_status status = probe == NULL ? no_memory(err) : pico_writer_open(&writer, probe, err);
    if (status != PICO_OK) {
        goto cleanup;
    }
    if (!goes_on && pico_is_file(probe)) {
        status = pico_fail(err, PICO_E_INVALID,
                           "%s holds the state of another run; --resume goes on with it, or name "
                           "another folder",
                           folder);
    } else if (goes_on && !pico_is_file(probe)) {
        status =
            pico_fail(err, PICO_E_NOT_FOUND,
                      "%s holds no state to go on from; leave --resume out to begin a run", folder);
    }
    if (status == PICO_OK) {
        /* last.state, last.gguf and best.gguf, the old ones and the new ones */
        status = check_disk(folder, 2 * state + 4 * model_bytes, err);
    }
    if (status == PICO_OK) {
        status = reserve_file(folder, fileno(writer.file),
                              state > model_bytes ? state : model_bytes, err);
    }
cleanup:
    pico_writer_close(&writer);
    if (status == PICO_OK) {
        remove_left_overs(folder, &arena);
    }
    pico_arena_free(&arena);
    return status;
}

pico_status pico_checkpoint_write(const char *folder, const pico_checkpoint *at, const void *state,
                                  uint64_t bytes, pico_error *err) {
    pico_arena arena = {0};
    pico_writer writer;
    state_header header = {.version = STATE_VERSION, .at = *at, .bytes = bytes};
    memcpy(header.magic, magic, sizeof magic);
    header.check = check_of(header, state);
    const char *path = pico_arena_printf(&arena, "%s/last.state", folder);
    pico_status status = path == NULL ? no_memory(err) : pico_writer_open(&writer, path, err);
    if (status == PICO_OK) {
        status = pico_writer_write(&writer, &header, sizeof header, err);
        if (status == PICO_OK) {
            status = pico_writer_write(&writer, state, bytes, err);
        }
        if (status == PICO_OK) {
            status = pico_writer_commit(&writer, err);
        }
        pico_writer_close(&writer);
    }
    pico_arena_free(&arena);
    return status;
}

/* What is wrong with a state, and the way to go on without it. */
static pico_status unusable(const char *folder, const char *what, pico_error *err) {
    return pico_fail(
        err, PICO_E_CORRUPT,
        "%.120s/last.state %s. Put a good copy in its place, or begin a run from the "
        "model alone, without the optimiser's state: -m %.60s/last.gguf, another --out, "
        "no --resume",
        folder, what, folder);
}

static pico_status check_header(const char *folder, const state_header *header, uint64_t size,
                                pico_error *err) {
    char what[160];
    if (size < sizeof *header) {
        (void)snprintf(what, sizeof what, "has %llu bytes, expected at least %zu: it is cut off",
                       (unsigned long long)size, sizeof *header);
    } else if (memcmp(header->magic, magic, sizeof magic) != 0) {
        (void)snprintf(what, sizeof what, "does not begin with the expected letters, %.7s", magic);
    } else if (header->version != STATE_VERSION) {
        (void)snprintf(what, sizeof what, "is of version %d, expected %d%s", header->version - '0',
                       STATE_VERSION - '0', header->version == '1' ? ", which has a checksum" : "");
    } else if (header->bytes != size - sizeof *header) {
        (void)snprintf(
            what, sizeof what, "has %llu bytes behind its header, expected %llu: it is damaged",
            (unsigned long long)(size - sizeof *header), (unsigned long long)header->bytes);
    } else {
        return PICO_OK;
    }
    return unusable(folder, what, err);
}

pico_status pico_checkpoint_read(const char *folder, pico_checkpoint *at, void **state,
                                 uint64_t *bytes, pico_error *err) {
    pico_arena arena = {0};
    pico_map map = {0};
    state_header header = {0};
    char what[128];
    void *copy = NULL;
    *state = NULL;
    const char *path = pico_arena_printf(&arena, "%s/last.state", folder);
    pico_status status = path == NULL ? no_memory(err) : pico_map_open(path, &map, err);
    if (status != PICO_OK) {
        goto cleanup;
    }
    if (map.size >= sizeof header) {
        memcpy(&header, map.data, sizeof header);
    }
    status = check_header(folder, &header, map.size, err);
    if (status != PICO_OK) {
        goto cleanup;
    }
    copy = malloc((size_t)header.bytes + 1);
    if (copy == NULL) {
        status = no_memory(err);
        goto cleanup;
    }
    memcpy(copy, map.data + sizeof header, (size_t)header.bytes);
    const uint64_t check = check_of(header, copy);
    if (check != header.check) {
        (void)snprintf(what, sizeof what, "has checksum %016llx, expected %016llx: it is damaged",
                       (unsigned long long)check, (unsigned long long)header.check);
        status = unusable(folder, what, err);
        goto cleanup;
    }
    *state = copy;
    *at = header.at;
    *bytes = header.bytes;
    copy = NULL;
cleanup:
    free(copy);
    pico_map_close(&map);
    pico_arena_free(&arena);
    return status;
}
