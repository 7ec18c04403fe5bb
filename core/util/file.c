/* Mapped reading and atomic writing; see file.h. */
#include "util/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static pico_status fail_errno(pico_error *err, const char *what, const char *path) {
    int reason = errno;
    pico_status code = reason == ENOENT ? PICO_E_NOT_FOUND : PICO_E_IO;
    return pico_fail(err, code, "%s: %s: %s", path, what, strerror(reason));
}

pico_status pico_map_open(const char *path, pico_map *out, pico_error *err) {
    *out = (pico_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would wait for its writer */
    if (fd < 0) {
        return fail_errno(err, "cannot open", path);
    }
    pico_status status = PICO_OK;
    struct stat info;
    if (fstat(fd, &info) != 0) {
        status = fail_errno(err, "cannot read its size", path);
    } else if (!S_ISREG(info.st_mode)) {
        status = pico_fail(err, PICO_E_IO, "%s: not a regular file", path);
    } else if (info.st_size > 0) {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            status = fail_errno(err, "cannot map", path);
        } else {
            out->data = data;
            out->size = (uint64_t)info.st_size;
            out->is_file = 1;
        }
    }
    (void)close(fd);
    return status;
}

void pico_map_close(pico_map *map) {
    if (map->data != NULL) {
        (void)munmap((void *)(uintptr_t)map->data, (size_t)map->size);
    }
    *map = (pico_map){0};
}

void pico_map_release(const pico_map *map, const void *data, uint64_t bytes) {
    const uintptr_t start = (uintptr_t)map->data, from = (uintptr_t)data;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (!map->is_file || from < start || from - start > map->size ||
        bytes > map->size - (from - start)) {
        return;
    }
    const uintptr_t first = from % page == 0 ? from : from - from % page + page;
    const uintptr_t last = from + (uintptr_t)bytes, end = last - last % page;
    if (first < end) { /* a private mapping that was never written to: nothing can be lost */
        (void)madvise((void *)first, end - first, MADV_DONTNEED);
    }
}

int pico_is_file(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

int pico_is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

const char *pico_file_in(const char *folder, const char *name, pico_arena *arena) {
    const char *path = pico_arena_printf(arena, "%s/%s", folder, name);
    return path != NULL && pico_is_file(path) ? path : NULL;
}

const char *pico_folder_of(const char *path, pico_arena *arena) {
    const char *slash = strrchr(path, '/');
    if (slash == NULL) {
        return ".";
    }
    return slash == path ? "/" : pico_arena_strndup(arena, path, (size_t)(slash - path));
}

pico_status pico_file_read(const char *path, uint64_t limit, char **out, uint64_t *size,
                           pico_error *err) {
    int is_stdin = strcmp(path, "-") == 0;
    FILE *file = is_stdin ? stdin : fopen(path, "rbe");
    char *data = NULL;
    size_t used = 0, capacity = 0;
    pico_status status = PICO_OK;
    *out = NULL;
    *size = 0;
    if (file == NULL) {
        return fail_errno(err, "cannot open", path);
    }
    for (;;) {
        if (capacity - used < 2) {
            size_t wanted = capacity == 0 ? 65536 : capacity * 2;
            char *grown = realloc(data, wanted);
            if (grown == NULL) {
                status = pico_fail(err, PICO_E_NOMEM, "%s: out of memory reading it", path);
                goto cleanup;
            }
            data = grown;
            capacity = wanted;
        }
        size_t got = fread(data + used, 1, capacity - used - 1, file);
        used += got;
        if (used > limit) {
            status = pico_fail(err, PICO_E_LIMIT, "%s: larger than the %llu bytes allowed here",
                               path, (unsigned long long)limit);
            goto cleanup;
        }
        if (got == 0) {
            break;
        }
    }
    if (ferror(file)) {
        status = fail_errno(err, "cannot read", path);
        goto cleanup;
    }
    data[used] = '\0';
    *out = data;
    *size = used;
    data = NULL;
cleanup:
    free(data);
    if (!is_stdin) {
        (void)fclose(file);
    }
    return status;
}

static pico_status open_target(pico_writer *writer, const char *path, pico_error *err) {
    size_t length = strlen(path);
    writer->path = malloc(length + 1);
    writer->temporary = malloc(length + sizeof ".XXXXXX");
    if (writer->path == NULL || writer->temporary == NULL) {
        pico_writer_close(writer);
        return pico_fail(err, PICO_E_NOMEM, "%s: out of memory", path);
    }
    memcpy(writer->path, path, length + 1);
    memcpy(writer->temporary, path, length);
    memcpy(writer->temporary + length, ".XXXXXX", sizeof ".XXXXXX");
    int fd = mkstemp(writer->temporary);
    if (fd < 0) {
        pico_status status = fail_errno(err, "cannot create a file beside it", path);
        writer->temporary[0] = '\0';
        pico_writer_close(writer);
        return status;
    }
    /* mkstemp makes the file private; a model is meant to be as readable as any new file. */
    mode_t mask = umask(0);
    (void)umask(mask);
    (void)fchmod(fd, 0666 & ~mask);
    writer->file = fdopen(fd, "wb");
    if (writer->file == NULL) {
        pico_status status = fail_errno(err, "cannot open for writing", path);
        (void)close(fd);
        pico_writer_close(writer);
        return status;
    }
    return PICO_OK;
}

/* The file that will be replaced: where a link leads. Replacing a device, a pipe or a folder would
 * destroy it, and whoever runs this may be allowed to. */
static pico_status find_target(const char *path, char **out, pico_error *err) {
    struct stat info;
    *out = NULL;
    if (lstat(path, &info) != 0) {
        *out = errno == ENOENT ? strdup(path) : NULL;
        return *out != NULL      ? PICO_OK
               : errno == ENOENT ? pico_fail(err, PICO_E_NOMEM, "%s: out of memory", path)
                                 : fail_errno(err, "cannot look at it", path);
    }
    *out = realpath(path, NULL);
    if (*out == NULL) {
        return fail_errno(err, "cannot follow the link", path);
    }
    if (!pico_is_file(*out)) {
        free(*out);
        *out = NULL;
        return pico_fail(err, PICO_E_INVALID,
                         "%s: not a regular file, so it is not replaced; name a file to write",
                         path);
    }
    return PICO_OK;
}

pico_status pico_writer_open(pico_writer *writer, const char *name, pico_error *err) {
    char *path = NULL;
    *writer = (pico_writer){0};
    pico_status status = find_target(name, &path, err);
    if (status == PICO_OK) {
        status = open_target(writer, path, err);
    }
    free(path);
    return status;
}

pico_status pico_writer_write(pico_writer *writer, const void *data, uint64_t bytes,
                              pico_error *err) {
    if (bytes != 0 && fwrite(data, 1, (size_t)bytes, writer->file) != bytes) {
        return fail_errno(err, "cannot write", writer->path);
    }
    return PICO_OK;
}

pico_status pico_writer_commit(pico_writer *writer, pico_error *err) {
    if (fflush(writer->file) != 0 || fsync(fileno(writer->file)) != 0) {
        return fail_errno(err, "cannot write", writer->path);
    }
    int closed = fclose(writer->file);
    writer->file = NULL;
    if (closed != 0 || rename(writer->temporary, writer->path) != 0) {
        return fail_errno(err, "cannot replace", writer->path);
    }
    writer->temporary[0] = '\0';
    /* The rename itself must survive a crash too: flush the folder. */
    const char *slash = strrchr(writer->path, '/');
    char *folder = slash == NULL ? NULL : strndup(writer->path, (size_t)(slash - writer->path) + 1);
    int fd = open(folder == NULL ? "." : folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    if (fd >= 0) {
        (void)fsync(fd);
        (void)close(fd);
    }
    return PICO_OK;
}

void pico_writer_close(pico_writer *writer) {
    if (writer->file != NULL) {
        (void)fclose(writer->file);
    }
    if (writer->temporary != NULL && writer->temporary[0] != '\0') {
        (void)unlink(writer->temporary);
    }
    free(writer->temporary);
    free(writer->path);
    *writer = (pico_writer){0};
}
