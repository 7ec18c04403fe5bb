/* Renaming, moving up, folding lambdas; see depth.h. */
#include "transform/depth.h"

#include <stdlib.h>
#include <string.h>

#include "transform/tensors.h"

static uint32_t count_kept(const uint8_t *drop, uint32_t n) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        kept += !drop[i];
    }
    return kept;
}

pico_status pico_depth_check(const pico_model_desc *desc, const uint8_t *drop, pico_error *err) {
    const uint32_t last = desc->n_layer - 1;
    for (uint32_t i = 0; i < desc->n_layer; i++) {
        if (drop[i] > 1) {
            return pico_fail(err, PICO_E_INVALID, "layer %u: drop is %u, expected 0 or 1", i,
                             drop[i]);
        }
    }
    if (count_kept(drop, desc->n_layer) == 0) {
        return pico_fail(err, PICO_E_UNSUPPORTED, "all %u layers would go", desc->n_layer);
    }
    if (desc->backout_layer >= 0 && drop[desc->backout_layer]) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "layer %d cannot go: what it puts out is taken away again at the end "
                         "(backout)",
                         desc->backout_layer);
    }
    if ((desc->flags & PICO_RESID_LAMBDAS) && drop[last]) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "layer %u cannot go: it is the last one, and nothing behind it can take "
                         "its residual lambdas over",
                         last);
    }
    return PICO_OK;
}

void pico_depth_describe(pico_model_desc *desc, pico_layer_desc *layers, const uint8_t *drop) {
    uint32_t kept = 0;
    if (desc->backout_layer >= 0) {
        desc->backout_layer = (int32_t)count_kept(drop, (uint32_t)desc->backout_layer);
    }
    for (uint32_t i = 0; i < desc->n_layer; i++) {
        if (!drop[i]) {
            layers[kept++] = layers[i];
        }
    }
    desc->n_layer = kept;
    desc->layer = layers;
}

int pico_depth_rename(uint32_t n_layer, const uint8_t *drop, const char *name,
                      pico_depth_name *out) {
    char *end = NULL;
    (void)snprintf(out->text, sizeof out->text, "%s", name);
    if (strncmp(name, "blk.", 4) != 0) {
        return 1;
    }
    const unsigned long layer = strtoul(name + 4, &end, 10);
    if (*end != '.' || layer >= n_layer) {
        return 1;
    }
    (void)snprintf(out->text, sizeof out->text, "blk.%u%s", count_kept(drop, (uint32_t)layer), end);
    return !drop[layer];
}

int pico_depth_is_lambdas(const char *name) {
    return strcmp(name, "resid_lambdas.weight") == 0 || strcmp(name, "x0_lambdas.weight") == 0;
}

/* ---- lambdas ---- */

static pico_status put_lambdas(pico_model_file *file, uint32_t index, const float *values,
                               uint32_t n, pico_error *err) {
    pico_tensors tensors = {.file = file};
    const pico_weight_desc desc = {.codes = values,
                                   .codes_bytes = n * sizeof *values,
                                   .dtype = PICO_DTYPE_F32,
                                   .rows = 1,
                                   .cols = n};
    return pico_tensors_table.replace(&tensors, index, &desc, err);
}

/* x = r x + s x0 of a layer that goes, then that of the next: r' r x + (r' s + s') x0. */
static void fold(const uint8_t *drop, uint32_t n_layer, float *r, float *s) {
    double scale = 1, shift = 0;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n_layer; i++) {
        shift = (double)r[i] * shift + (double)s[i];
        scale *= (double)r[i];
        if (!drop[i]) {
            r[kept] = (float)scale;
            s[kept++] = (float)shift;
            scale = 1;
            shift = 0;
        }
    }
}

static pico_status fold_lambdas(pico_model_file *file, const uint8_t *drop, uint32_t n_layer,
                                pico_error *err) {
    static const char *const names[2] = {"resid_lambdas.weight", "x0_lambdas.weight"};
    float *values = calloc((size_t)n_layer * 2, sizeof *values);
    uint32_t index[2] = {0};
    pico_status status = values == NULL ? pico_fail(err, PICO_E_NOMEM, "out of memory") : PICO_OK;
    for (size_t i = 0; status == PICO_OK && i < 2; i++) {
        const pico_file_tensor *tensor = pico_model_file_find(file, names[i]);
        if (tensor == NULL || tensor->data.cols != n_layer) {
            status = pico_fail(err, PICO_E_CORRUPT, "tensor %s is missing or too short", names[i]);
        } else {
            index[i] = (uint32_t)(tensor - file->tensor);
            pico_weight_row_f32(&tensor->data, 0, values + i * n_layer);
        }
    }
    if (status == PICO_OK) {
        fold(drop, n_layer, values, values + n_layer);
    }
    for (size_t i = 0; status == PICO_OK && i < 2; i++) {
        status = put_lambdas(file, index[i], values + i * n_layer, count_kept(drop, n_layer), err);
    }
    free(values);
    return status;
}

/* ---- the file ---- */

static pico_status move_tensors(pico_model_file *file, const uint8_t *drop, uint32_t n_layer) {
    pico_file_tensor *kept = pico_arena_alloc(&file->arena, file->n_tensor, sizeof *kept);
    uint32_t n = 0;
    if (kept == NULL) {
        return PICO_E_NOMEM;
    }
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        pico_depth_name name;
        if (!pico_depth_rename(n_layer, drop, file->tensor[i].name, &name)) {
            continue;
        }
        kept[n] = file->tensor[i];
        kept[n].name = pico_arena_strdup(&file->arena, name.text);
        if (kept[n++].name == NULL) {
            return PICO_E_NOMEM;
        }
    }
    file->tensor = kept;
    file->n_tensor = n;
    return PICO_OK;
}

pico_status pico_depth_apply(pico_model_file *file, const uint8_t *drop, pico_error *err) {
    const uint32_t n_layer = file->desc.n_layer;
    pico_layer_desc *layers = pico_arena_alloc(&file->arena, n_layer, sizeof *layers);
    pico_status status = layers == NULL ? PICO_E_NOMEM : move_tensors(file, drop, n_layer);
    if (status != PICO_OK) {
        return pico_fail(err, status, "out of memory");
    }
    memcpy(layers, file->desc.layer, n_layer * sizeof *layers);
    pico_depth_describe(&file->desc, layers, drop);
    return file->desc.flags & PICO_RESID_LAMBDAS ? fold_lambdas(file, drop, n_layer, err) : PICO_OK;
}
