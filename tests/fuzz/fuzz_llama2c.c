/* layers: formats */
/*
 * Any bytes as a llama2.c checkpoint with a tokenizer.bin behind it: the first two bytes say how
 * long the model is. What opens must be consistent.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned char *copy_of(const uint8_t *data, size_t size) {
    unsigned char *copy = malloc(size == 0 ? 1 : size);
    if (copy != NULL && size != 0) {
        memcpy(copy, data, size);
    }
    return copy;
}

static void read_all(const pico_model_file *file) {
    volatile float sink = 0.0f;
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const pico_weight_desc *weight = &file->tensor[i].data;
        float *row = malloc((size_t)weight->cols * sizeof *row);
        if (row != NULL) {
            pico_weight_row_f32(weight, weight->rows - 1, row);
            sink = row[weight->cols - 1];
        }
        free(row);
    }
    for (uint32_t i = 0; i < file->vocab.n_piece; i++) {
        const pico_piece *piece = &file->vocab.piece[i];
        sink = piece->n == 0 ? 0.0f : (float)piece->text[piece->n - 1];
    }
    (void)sink;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) {
        return 0;
    }
    size_t rest = size - 2, n = (size_t)data[0] + 256u * data[1];
    n = n < rest ? n : rest;
    unsigned char *model = copy_of(data + 2, n), *vocab = copy_of(data + 2 + n, rest - n);
    pico_error err = {0};
    pico_model_file *file = NULL;
    pico_source source = {.path = "fuzz", .map = {.data = model, .size = n}};
    pico_source tokenizer = {.path = "fuzz tokenizer", .map = {.data = vocab, .size = rest - n}};
    if (model != NULL && vocab != NULL) {
        pico_status status =
            pico_model_file_parse(&source, rest > n ? &tokenizer : NULL, &file, &err);
        if (status == PICO_OK) {
            read_all(file);
        } else if (err.message[0] == '\0') {
            abort(); /* a failure without a message */
        }
    }
    pico_model_file_close(file);
    free(model);
    free(vocab);
    return 0;
}
