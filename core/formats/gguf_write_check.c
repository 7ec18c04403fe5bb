/*
 * What is not written: weights whose arrays are incomplete or do not fit their layout, vocabularies
 * of another size than the model. See gguf_write.c.
 */
#include "formats/gguf.h"

static int is_split(uint32_t dtype) {
    return dtype == PICO_DTYPE_I8 || dtype == PICO_DTYPE_NF4;
}

pico_status pico_gguf_check_weight(const pico_file_tensor *tensor, pico_error *err) {
    const pico_weight_desc *w = &tensor->data;
    uint64_t bytes = pico_weight_codes_bytes(w->dtype, w->rows, w->cols);
    uint64_t n_scales = pico_weight_n_scales(w->dtype, w->rows, w->cols, w->group);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < tensor->rank; i++) {
        elements *= (uint64_t)tensor->shape[i]; /* the shape is an expected one: it fits */
    }
    if (w->codes == NULL || bytes == 0 || bytes != w->codes_bytes || w->dtype == PICO_DTYPE_I32 ||
        elements != (uint64_t)w->rows * (uint64_t)w->cols) {
        return pico_fail(err, PICO_E_INVALID,
                         "tensor %s: %llu bytes of codes for %lld x %lld values of type %s, "
                         "expected %llu",
                         tensor->name, (unsigned long long)w->codes_bytes, (long long)w->rows,
                         (long long)w->cols, pico_dtype_name(w->dtype), (unsigned long long)bytes);
    }
    if (is_split(w->dtype) &&
        (w->scales == NULL || w->group > w->cols || n_scales == 0 || n_scales != w->n_scales ||
         (w->scale_dtype != PICO_DTYPE_F32 && w->scale_dtype != PICO_DTYPE_F16))) {
        return pico_fail(err, PICO_E_INVALID, "tensor %s: %llu scales of type %s, expected %llu",
                         tensor->name, (unsigned long long)w->n_scales,
                         pico_dtype_name(w->scale_dtype), (unsigned long long)n_scales);
    }
    if ((w->dtype == PICO_DTYPE_NF4 && w->codebook == NULL) || w->n_outlier < 0 ||
        w->n_outlier > w->cols ||
        (w->n_outlier > 0 && (w->outlier_col == NULL || w->outlier_value == NULL))) {
        return pico_fail(err, PICO_E_INVALID, "tensor %s: codebook or outliers are incomplete",
                         tensor->name);
    }
    if (!pico_weight_takes_input(w->dtype, w->group, w->input_quant)) {
        return pico_fail(err, PICO_E_INVALID,
                         "tensor %s: %s in groups of %lld cannot have its input rounded as kind %u "
                         "of pico_weight_desc.input_quant",
                         tensor->name, pico_dtype_name(w->dtype), (long long)w->group,
                         w->input_quant);
    }
    return PICO_OK;
}

pico_status pico_gguf_check_vocab(const pico_model_file *file, pico_error *err) {
    const pico_vocab *vocab = &file->vocab;
    if (vocab->kind == PICO_VOCAB_NONE) {
        return file->desc.n_layer == 0
                   ? pico_fail(err, PICO_E_INVALID, "neither a model nor a vocabulary to write")
                   : PICO_OK;
    }
    if (file->desc.n_layer != 0 && vocab->n_piece != file->desc.n_vocab) {
        return pico_fail(err, PICO_E_INVALID, "the vocabulary has %u pieces, the model %u tokens",
                         vocab->n_piece, file->desc.n_vocab);
    }
    return PICO_OK;
}
