/* layers: formats */
/*
 * Any bytes as a Hugging Face folder. Input: config.json up to the first NUL, then a safetensors
 * file. What opens must be consistent: its tensors are those of the description, all of each can be
 * read.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/hf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An exact copy, aligned as a mapped file is. */
static pico_source copy_of(const char *path, const uint8_t *data, size_t size) {
    unsigned char *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL) {
        abort();
    }
    memcpy(copy, data, size);
    return (pico_source){.path = path, .map = {.data = copy, .size = size}};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = size == 0 ? NULL : memchr(data, 0, size);
    size_t n_config = end == NULL ? size : (size_t)(end - data);
    size_t skip = end == NULL ? size : n_config + 1;
    pico_source config = copy_of("config.json", data, n_config);
    pico_source part = copy_of("model.safetensors", data == NULL ? data : data + skip, size - skip);
    pico_model_file *file = NULL;
    pico_error err = {0};
    if (pico_model_file_new("fuzz", &file, NULL) != PICO_OK) {
        abort();
    }
    if (pico_hf_read(&config, &part, 1, file, &err) == PICO_OK) {
        for (uint32_t i = 0; i < file->n_tensor; i++) {
            const pico_weight_desc *weight = &file->tensor[i].data;
            float *row = malloc((size_t)weight->cols * sizeof *row);
            for (int64_t r = 0; row != NULL && r < weight->rows; r++) {
                pico_weight_row_f32(weight, r, row);
            }
            free(row);
        }
    } else if (err.message[0] == '\0') {
        abort(); /* a failure without a message */
    }
    pico_model_file_close(file);
    free((void *)(uintptr_t)config.map.data);
    free((void *)(uintptr_t)part.map.data);
    return 0;
}
