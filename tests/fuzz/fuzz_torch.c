/* layers: formats */
/*
 * Any bytes as a nanochat checkpoint. Input: generation and way (a byte), length of the metadata
 * (two bytes), metadata, and then, by way: the archive; or a pickle, around which a sound archive is
 * made whose storages have 4096 bytes, so that damage is not left to checksums. What opens must be
 * consistent.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../torch_kit.h"
#include "formats/nanochat.h"
#include "formats/reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_STORAGE = 12, STORAGE_BYTES = 4096 };

static unsigned char *wrap(const uint8_t *pickle, size_t n, size_t *size) {
    static const unsigned char storage[STORAGE_BYTES];
    kit_archive archive = kit_archive_begin();
    kit_archive_add(&archive, "a/data.pkl", pickle, n, ZIP_CM_STORE);
    for (int i = 0; i < N_STORAGE; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "a/data/%d", i);
        kit_archive_add(&archive, name, storage, STORAGE_BYTES, ZIP_CM_STORE);
    }
    return kit_archive_end(&archive, size);
}

static void read_tensors(const pico_model_file *file) {
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const pico_weight_desc *w = &file->tensor[i].data;
        float *row = malloc((size_t)w->cols * sizeof *row);
        for (int64_t r = 0; row != NULL && r < w->rows; r++) {
            pico_weight_row_f32(w, r, row);
        }
        free(row);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 3) {
        return 0;
    }
    size_t n_meta = data[1] + 256u * data[2], n = size - 3;
    n_meta = n_meta < n ? n_meta : n;
    n -= n_meta;
    char *meta = malloc(n_meta + 1);
    unsigned char *archive = (data[0] & 8) != 0 ? wrap(data + 3 + n_meta, n, &n) : malloc(n + 1);
    pico_model_file *file = NULL;
    pico_error err = {0};
    if (meta == NULL || archive == NULL || pico_model_file_new("fuzz", &file, NULL) != PICO_OK) {
        abort();
    }
    memcpy(meta, data + 3, n_meta);
    if ((data[0] & 8) == 0) {
        memcpy(archive, data + 3 + n_meta, n);
    }
    const pico_nanochat_source source = {.path = "fuzz",
                                         .map = {.data = archive, .size = n},
                                         .meta_path = "fuzz.json",
                                         .meta = meta,
                                         .n_meta = n_meta};
    pico_status status = pico_nanochat_read(&source, data[0] % 8u % 6u, file, &err);
    free(archive);
    free(meta);
    if (status == PICO_OK) {
        read_tensors(file);
    } else if (err.message[0] == '\0') {
        abort(); /* a failure without a message */
    }
    pico_model_file_close(file);
    return 0;
}
