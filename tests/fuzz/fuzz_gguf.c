/* layers: formats */
/*
 * Any bytes as a GGUF file. What opens must be consistent: all of each tensor can be read, and the
 * pieces of the vocabulary too.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_tensor(const pico_weight_desc *weight) {
    float *row = malloc((size_t)weight->cols * sizeof *row);
    if (row != NULL) {
        pico_weight_row_f32(weight, 0, row);
        pico_weight_row_f32(weight, weight->rows - 1, row);
    }
    free(row);
}

static unsigned sum_pieces(const pico_piece *pieces, uint32_t n) {
    unsigned sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < pieces[i].n; j++) {
            sum += (unsigned char)pieces[i].text[j];
        }
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    unsigned char *copy = malloc(size + 8); /* aligned; the first 8 bytes are a GGUF header */
    pico_error err = {0};
    pico_model_file *file = NULL;
    if (copy == NULL) {
        return 0;
    }
    static const unsigned char head[8] = {'G', 'G', 'U', 'F', 3, 0, 0, 0};
    size_t skip = size >= 4 && memcmp(data, "GGUF", 4) == 0 ? 0 : sizeof head;
    memcpy(copy, head, skip);
    memcpy(copy + skip, data, size);
    pico_source source = {.path = "fuzz", .map = {.data = copy, .size = size + skip}};
    if (pico_model_file_parse(&source, NULL, &file, &err) == PICO_OK) {
        for (uint32_t i = 0; i < file->n_tensor; i++) {
            read_tensor(&file->tensor[i].data);
        }
        volatile unsigned sink = sum_pieces(file->vocab.piece, file->vocab.n_piece) +
                                 sum_pieces(file->vocab.merge, file->vocab.n_merge);
        (void)sink;
    } else if (err.message[0] == '\0') {
        abort(); /* a failure without a message */
    }
    pico_model_file_close(file);
    free(copy);
    return 0;
}
