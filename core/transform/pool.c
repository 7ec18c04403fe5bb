/* Mean-pooling of K and V rows; see pool.h. */
#include "transform/pool.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "transform/retype.h"
#include "transform/tensors.h"

/* Pools one tensor of n_from heads into n_to. The heads lie one after the other along the rows, or,
 * in a vector and in a table of value embeddings, along the columns. */
static pico_status pool_tensor(pico_model_file *file, uint32_t index, int along_columns,
                               uint32_t n_from, uint32_t n_to, pico_error *err) {
    pico_file_tensor *tensor = &file->tensor[index];
    pico_weight_desc desc = tensor->data;
    if (desc.dtype != PICO_DTYPE_F32 && desc.dtype != PICO_DTYPE_F16 &&
        desc.dtype != PICO_DTYPE_BF16) {
        return pico_fail(
            err, PICO_E_UNSUPPORTED,
            "tensor %s is %s: KV heads are pooled in float models only; convert first, "
            "compress afterwards",
            tensor->name, pico_dtype_name(desc.dtype));
    }
    int64_t outputs = along_columns ? desc.cols : desc.rows;
    int64_t head_dim = outputs / n_from, ratio = n_from / n_to, pooled = n_to * head_dim;
    int64_t rows = along_columns ? desc.rows : pooled, cols = along_columns ? pooled : desc.cols;
    float *row = malloc((size_t)desc.cols * sizeof *row);
    float *sum = calloc((size_t)(rows * cols), sizeof *sum);
    void *codes = malloc((size_t)(rows * cols) * sizeof *sum);
    pico_status status = PICO_OK;
    if (row == NULL || sum == NULL || codes == NULL) {
        status = pico_fail(err, PICO_E_NOMEM, "tensor %s: out of memory", tensor->name);
        goto cleanup;
    }
    for (int64_t r = 0; r < desc.rows; r++) {
        pico_weight_row_f32(&desc, r, row);
        for (int64_t c = 0; c < desc.cols; c++) {
            int64_t output = along_columns ? c : r;
            int64_t to = output / head_dim / ratio * head_dim + output % head_dim;
            sum[along_columns ? r * cols + to : to * cols + c] += row[c] / (float)ratio;
        }
    }
    /* Input scales, permutation and outlier columns are part of the values by now. */
    desc = (pico_weight_desc){.dtype = desc.dtype, .rows = rows, .cols = cols};
    desc.codes_bytes = pico_weight_codes_bytes(desc.dtype, desc.rows, desc.cols);
    (void)pico_narrow(sum, (size_t)(rows * cols), desc.dtype, codes); /* a mean is no larger */
    desc.codes = codes;
    pico_tensors tensors = {.file = file};
    status = pico_tensors_table.replace(&tensors, index, &desc, err);
cleanup:
    free(row);
    free(sum);
    free(codes);
    return status;
}

static pico_status pool_layer(pico_model_file *file, uint32_t layer, uint32_t n_from, uint32_t n_to,
                              pico_error *err) {
    static const struct {
        const char *name;
        int along_columns;
    } tensors[] = {{"attn_k.weight", 0}, {"attn_v.weight", 0},     {"attn_k.bias", 1},
                   {"attn_v.bias", 1},   {"value_embd.weight", 1}, {"value_gate.weight", 0}};
    if (n_from % n_to != 0) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "layer %u: %u KV heads cannot be pooled evenly into %u", layer, n_from,
                         n_to);
    }
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "blk.%u.%s", layer, tensors[i].name);
        const pico_file_tensor *tensor = pico_model_file_find(file, name);
        if (tensor != NULL) {
            pico_status status = pool_tensor(file, (uint32_t)(tensor - file->tensor),
                                             tensors[i].along_columns, n_from, n_to, err);
            if (status != PICO_OK) {
                return status;
            }
        }
    }
    return PICO_OK;
}

pico_status pico_pool_kv_heads(pico_model_file *file, uint32_t n_kv_head, pico_error *err) {
    uint32_t n_layer = file->desc.n_layer;
    assert(n_kv_head > 0);
    pico_layer_desc *layers = pico_arena_alloc(&file->arena, n_layer, sizeof *layers);
    if (layers == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    memcpy(layers, file->desc.layer, n_layer * sizeof *layers);
    for (uint32_t i = 0; i < n_layer; i++) {
        if (layers[i].n_kv_head > n_kv_head) {
            pico_status status = pool_layer(file, i, layers[i].n_kv_head, n_kv_head, err);
            if (status != PICO_OK) {
                return status;
            }
            layers[i].n_kv_head = n_kv_head;
        }
    }
    file->desc.layer = layers;
    return PICO_OK;
}
