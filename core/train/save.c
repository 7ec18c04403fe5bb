/*
 * What training has made, as bytes and as a model file. A state's bytes are, for every trained
 * parameter in order: a header, the values, and the optimiser's two arrays. See internal.h.
 */
#include <stdlib.h>
#include <string.h>

#include "train/internal.h"

typedef struct param_header {
    uint32_t optimizer, reserved;
    int64_t rows, cols;
    uint64_t bytes; /* of the arrays that follow */
} param_header;

static uint64_t tensor_bytes(const pico_tensor *tensor) {
    return (uint64_t)(tensor->shape[0] * tensor->shape[1]) * sizeof(float);
}

/* The arrays of a parameter that are saved; returns how many. */
static uint32_t arrays_of(const train_param *p, const pico_tensor *out[3]) {
    out[0] = &p->value;
    out[1] = &p->state[0];
    out[2] = &p->state[1];
    return p->optimizer == PICO_OPTIMIZER_NONE ? 1 : 3;
}

static param_header header_of(const train_param *p) {
    const pico_tensor *arrays[3];
    const uint32_t n = arrays_of(p, arrays);
    param_header header = {.optimizer = p->optimizer, .rows = p->rows, .cols = p->cols};
    for (uint32_t i = 0; i < n; i++) {
        header.bytes += tensor_bytes(arrays[i]);
    }
    return header;
}

pico_status train_save(pico_train *t, void *data, uint64_t *bytes, pico_error *err) {
    uint64_t need = 0;
    for (uint32_t i = 0; i < t->n_param; i++) {
        need += t->param[i].trained ? sizeof(param_header) + header_of(&t->param[i]).bytes : 0;
    }
    if (data == NULL || *bytes < need) {
        const int asked = data == NULL;
        *bytes = need;
        return asked ? PICO_OK
                     : pico_fail(err, PICO_E_LIMIT, "the state of training takes %llu bytes",
                                 (unsigned long long)need);
    }
    *bytes = need;
    char *to = data;
    pico_status status = PICO_OK;
    for (uint32_t i = 0; status == PICO_OK && i < t->n_param; i++) {
        const train_param *p = &t->param[i];
        const pico_tensor *arrays[3];
        if (!p->trained) {
            continue;
        }
        const param_header header = header_of(p);
        memcpy(to, &header, sizeof header);
        to += sizeof header;
        const uint32_t n = arrays_of(p, arrays);
        for (uint32_t j = 0; status == PICO_OK && j < n; j++) {
            status = t->ops->buffer_read(t->self, arrays[j]->buffer, arrays[j]->offset, to,
                                         tensor_bytes(arrays[j]), err);
            to += tensor_bytes(arrays[j]);
        }
    }
    return status;
}

/* Compares all headers before anything is written. */
static pico_status check_bytes(const pico_train *t, const char *from, uint64_t bytes,
                               pico_error *err) {
    for (uint32_t i = 0; i < t->n_param; i++) {
        const train_param *p = &t->param[i];
        if (!p->trained) {
            continue;
        }
        const param_header want = header_of(p);
        param_header found = {0};
        if (bytes >= sizeof found) {
            memcpy(&found, from, sizeof found);
        }
        if (memcmp(&want, &found, sizeof want) != 0 || bytes - sizeof want < want.bytes) {
            return pico_fail(err, PICO_E_CORRUPT,
                             "the saved state does not fit: %s is (%lld, %lld) with optimiser %u, "
                             "saved is (%lld, %lld) with optimiser %u",
                             p->name, (long long)want.rows, (long long)want.cols, want.optimizer,
                             (long long)found.rows, (long long)found.cols, found.optimizer);
        }
        from += sizeof want + want.bytes;
        bytes -= sizeof want + want.bytes;
    }
    return bytes == 0 ? PICO_OK
                      : pico_fail(err, PICO_E_CORRUPT,
                                  "the saved state has %llu bytes more than this model's",
                                  (unsigned long long)bytes);
}

pico_status train_load(pico_train *t, const void *data, uint64_t bytes, pico_error *err) {
    const char *from = data;
    pico_status status = check_bytes(t, from, bytes, err);
    for (uint32_t i = 0; status == PICO_OK && i < t->n_param; i++) {
        const train_param *p = &t->param[i];
        const pico_tensor *arrays[3];
        if (!p->trained) {
            continue;
        }
        from += sizeof(param_header);
        const uint32_t n = arrays_of(p, arrays);
        for (uint32_t j = 0; status == PICO_OK && j < n; j++) {
            status = t->ops->buffer_write(t->self, arrays[j]->buffer, arrays[j]->offset, from,
                                          tensor_bytes(arrays[j]));
            from += tensor_bytes(arrays[j]);
        }
        if (status != PICO_OK) {
            status = pico_fail(err, status, "%s cannot be written to the device", p->name);
        }
    }
    return status;
}

pico_status pico_train_write(pico_train *t, const char *path, pico_error *err) {
    const pico_model_file *file = t->model->file;
    pico_file_tensor *tensors = calloc(file->n_tensor, sizeof *tensors);
    float *values = malloc((size_t)t->values_bytes);
    pico_status status = PICO_OK;
    if (tensors == NULL || values == NULL) {
        status = pico_fail(err, PICO_E_NOMEM, "out of memory for writing %s", path);
        goto cleanup;
    }
    status = t->ops->buffer_read(t->self, t->values, 0, values, t->values_bytes, err);
    if (status != PICO_OK) {
        goto cleanup;
    }
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const train_param *p = &t->param[i];
        tensors[i] = file->tensor[i];
        if (!p->trained && !p->redrawn) {
            continue;
        }
        tensors[i].bytes = tensor_bytes(&p->value);
        tensors[i].data = (pico_weight_desc){.codes = (const char *)values + p->value.offset,
                                             .codes_bytes = tensors[i].bytes,
                                             .dtype = PICO_DTYPE_F32,
                                             .rows = p->rows,
                                             .cols = p->cols};
    }
    pico_model_file copy = *file;
    copy.tensor = tensors;
    status = pico_gguf_write(&copy, path, err);
cleanup:
    free(values);
    free(tensors);
    return status;
}
