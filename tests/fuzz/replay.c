/*
 * Runs a fuzz target without libFuzzer: on noise, and on each seed, on beginnings of it and on
 * damaged copies of it, always the same ones. It finds nothing new; it keeps what is known from
 * coming back.
 *
 * usage: fuzz_X [FILE|FOLDER]...     fails if a seed cannot be read, and as the target fails
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_NOISE = 256, N_CUTS = 64, N_DAMAGED = 256, MAX_BYTES = 1 << 24 };

static uint32_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}

/* An exact copy on the heap, so that a read past the end is one that sanitizers see. */
static int feed(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL) {
        return -1;
    }
    memcpy(copy, data, size);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    return 0;
}

static int feed_variants(uint8_t *data, size_t size) {
    int rc = feed(data, size);
    for (size_t i = 0; i < N_CUTS && rc == 0; i++) {
        rc = feed(data, size * i / N_CUTS);
    }
    uint64_t state = 1;
    for (size_t i = 0; i < N_DAMAGED && rc == 0 && size > 0; i++) {
        uint32_t r = next_random(&state);
        /* Half of the damage goes where headers are. */
        size_t at = r % (i % 2 == 0 && size > 256 ? 256 : size);
        uint8_t old = data[at];
        data[at] = (uint8_t)(i % 3 == 0 ? 0xffu : old ^ (1u << (r >> 29)));
        rc = feed(data, size);
        data[at] = old;
    }
    return rc;
}

static int feed_noise(void) {
    uint8_t data[N_NOISE];
    uint64_t state = 1;
    int rc = 0;
    for (size_t size = 0; size <= N_NOISE && rc == 0; size++) {
        for (size_t i = 0; i < size; i++) {
            data[i] = (uint8_t)(next_random(&state) >> 24);
        }
        rc = feed(data, size);
    }
    return rc;
}

/* Adds the number of seeds that were run to *count. */
static int replay_file(const char *path, size_t *count) {
    int rc = -1;
    size_t size = 0;
    uint8_t *data = malloc(MAX_BYTES);
    FILE *file = fopen(path, "rb");
    if (data == NULL || file == NULL) {
        fprintf(stderr, "cannot read %s\n", path);
        goto cleanup;
    }
    size = fread(data, 1, MAX_BYTES, file);
    rc = feed_variants(data, size);
    *count += 1;

cleanup:
    if (file != NULL) {
        fclose(file);
    }
    free(data);
    return rc;
}

static int replay_folder(const char *path, size_t *count) {
    int rc = 0;
    DIR *dir = opendir(path);
    if (dir == NULL) {
        fprintf(stderr, "cannot open %s\n", path);
        return -1;
    }
    for (struct dirent *entry = readdir(dir); entry != NULL && rc == 0; entry = readdir(dir)) {
        char name[4096];
        if (entry->d_name[0] == '.') {
            continue;
        }
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        rc = replay_file(name, count);
    }
    closedir(dir);
    return rc;
}

int main(int argc, char **argv) {
    size_t count = 0;
    if (feed_noise() != 0) {
        return 1;
    }
    for (int i = 1; i < argc; i++) {
        struct stat info;
        int is_folder = stat(argv[i], &info) == 0 && S_ISDIR(info.st_mode);
        if ((is_folder ? replay_folder(argv[i], &count) : replay_file(argv[i], &count)) != 0) {
            return 1;
        }
    }
    printf("%zu seeds\n", count);
    return 0;
}
