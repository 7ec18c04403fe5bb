/* Mean-pooling of K and V rows; see pool.h. */
#include "transform/pool.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "transform/tensors.h"
#include "util/half.h"

/* Writes F32 values back in a float type. */
static void narrow(const float *values, size_t n, uint32_t dtype, void *out) {
    uint16_t *half = out;
    if (dtype == PICO_DTYPE_F32) {
        memcpy(out, values, n * sizeof *values);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        half[i] =
            dtype == PICO_DTYPE_F16 ? pico_f16_of_f32(values[i]) : pico_bf16_of_f32(values[i]);
    }
}

/* Pools one tensor of n_from heads into n_to. A matrix is (heads * head_dim, cols); a bias is
 * (heads * head_dim), held as one row. */
static pico_status pool_tensor(pico_model_file *file, uint32_t index, uint32_t n_from,
                               uint32_t n_to, pico_error *err) {
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
    int is_vector = tensor->rank == 1;
    int64_t outputs = is_vector ? desc.cols : desc.rows, width = is_vector ? 1 : desc.cols;
    int64_t head_dim = outputs / n_from, ratio = n_from / n_to;
    int64_t pooled = (int64_t)n_to * head_dim;
    float *row = malloc((size_t)desc.cols * sizeof *row);
    float *sum = calloc((size_t)(pooled * width), sizeof *sum);
    void *codes = malloc((size_t)(pooled * width) * sizeof *sum);
    pico_status status = PICO_OK;
    if (row == NULL || sum == NULL || codes == NULL) {
        status = pico_fail(err, PICO_E_NOMEM, "tensor %s: out of memory", tensor->name);
        goto cleanup;
    }
    for (int64_t r = 0; r < desc.rows; r++) {
        pico_weight_row_f32(&desc, r, row);
        for (int64_t c = 0; c < desc.cols; c++) {
            int64_t output = is_vector ? c : r;
            int64_t head = output / head_dim, d = output % head_dim;
            int64_t to = ((head / ratio) * head_dim + d) * width + (is_vector ? 0 : c);
            sum[to] += row[c] / (float)ratio;
        }
    }
    /* Input scales, permutation and outlier columns are part of the values by now. */
    desc = (pico_weight_desc){.dtype = desc.dtype,
                              .rows = is_vector ? 1 : pooled,
                              .cols = is_vector ? pooled : desc.cols};
    desc.codes_bytes = pico_weight_codes_bytes(desc.dtype, desc.rows, desc.cols);
    narrow(sum, (size_t)(pooled * width), desc.dtype, codes);
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
    static const char *const names[] = {"attn_k.weight", "attn_v.weight", "attn_k.bias",
                                        "attn_v.bias"};
    if (n_from % n_to != 0) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "layer %u: %u KV heads cannot be pooled evenly into %u", layer, n_from,
                         n_to);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "blk.%u.%s", layer, names[i]);
        const pico_file_tensor *tensor = pico_model_file_find(file, name);
        if (tensor != NULL) {
            pico_status status =
                pool_tensor(file, (uint32_t)(tensor - file->tensor), n_from, n_to, err);
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
        if (layers[i].has_value_embed) {
            return pico_fail(err, PICO_E_UNSUPPORTED,
                             "layer %u has a value embedding, which cannot be pooled", i);
        }
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
