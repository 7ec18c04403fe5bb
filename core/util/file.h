/*
 * Files: read-only mappings, and writing that either replaces the target completely or leaves it as
 * it was. No locking, no directories.
 */
#ifndef PICO_UTIL_FILE_H
#define PICO_UTIL_FILE_H

#include <stdint.h>
#include <stdio.h>

#include "plugin.h"
#include "util/arena.h"

typedef struct pico_map {
    const unsigned char *data; /* NULL when size is 0 */
    uint64_t size;
    int is_file; /* 1: pages can be had again from the file */
} pico_map;

/* Maps a regular file; PICO_E_NOT_FOUND or PICO_E_IO with path and reason. */
pico_status pico_map_open(const char *path, pico_map *out, pico_error *err);
void pico_map_close(pico_map *map);
/* Takes the whole pages of [data, data + bytes) that lie in the map of a file out of the process's
 * memory: they come back when they are read. Does nothing for other memory. */
void pico_map_release(const pico_map *map, const void *data, uint64_t bytes);

/* Links are followed. What cannot be looked at is neither. */
int pico_is_file(const char *path); /* a regular file */
int pico_is_folder(const char *path);
/* FOLDER/NAME from the arena if that is a regular file, else NULL. */
const char *pico_file_in(const char *folder, const char *name, pico_arena *arena);
/* The folder that a file lies in, from the arena; NULL when memory is exhausted. */
const char *pico_folder_of(const char *path, pico_arena *arena);

/* Reads a whole file or pipe (path "-" is stdin) of at most limit bytes; *out is malloc-ed, with a
 * NUL after the last byte. */
pico_status pico_file_read(const char *path, uint64_t limit, char **out, uint64_t *size,
                           pico_error *err);

/* Writing: a temporary file in the target's folder, then fsync and rename. A link stays: the file
 * that it leads to is replaced. */
typedef struct pico_writer {
    FILE *file;
    char *path, *temporary; /* owned */
} pico_writer;

/* PICO_E_INVALID if path exists and is no regular file (a device, a pipe, a folder): it is left
 * alone. */
pico_status pico_writer_open(pico_writer *writer, const char *path, pico_error *err);
pico_status pico_writer_write(pico_writer *writer, const void *data, uint64_t bytes,
                              pico_error *err);
/* Makes it durable and visible under its name; after a failure the target is as before. */
pico_status pico_writer_commit(pico_writer *writer, pico_error *err);
/* Gives up and removes the temporary file; harmless after commit or a failed open. */
void pico_writer_close(pico_writer *writer);

#endif
