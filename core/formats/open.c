/*
 * Opening a model, whatever it is: one file, a checkpoint with metadata beside it, a folder. Decides
 * which reader is asked, and where the vocabulary comes from. See model_file.h.
 */
#include "formats/model_file.h"
#include "formats/vocab_json.h"

pico_status pico_model_file_keep(pico_model_file *file, pico_map *map, pico_error *err) {
    pico_kept_map *kept = pico_arena_alloc(&file->arena, 1, sizeof *kept);
    if (kept == NULL) {
        pico_map_close(map);
        return pico_fail(err, PICO_E_NOMEM, "%.200s: out of memory", file->path);
    }
    *kept = (pico_kept_map){.map = *map, .next = file->kept};
    file->kept = kept;
    *map = (pico_map){0};
    return PICO_OK;
}

void pico_model_file_release(const pico_model_file *file, const pico_file_tensor *tensor) {
    const pico_weight_desc *data = &tensor->data;
    pico_map_release(&file->map, data->codes, data->codes_bytes);
    for (const pico_kept_map *kept = file->kept; kept != NULL; kept = kept->next) {
        pico_map_release(&kept->map, data->codes, data->codes_bytes);
    }
}

pico_status pico_in_file(const char *path, pico_status status, const pico_error *inner,
                         pico_error *err) {
    return status == PICO_OK ? PICO_OK : pico_fail(err, status, "%.200s: %s", path, inner->message);
}

/* A vocabulary without a model: tokenizer files of Hugging Face, or a folder with a tokenizer. */
static pico_status open_vocab(const char *path, pico_model_file *file, pico_error *err) {
    pico_status status = pico_vocab_open(path, 0, &file->arena, &file->vocab, err);
    file->format = PICO_FORMAT_SAFETENSORS;
    file->format_name = "tokenizer";
    file->desc = (pico_model_desc){.family = "unknown",
                                   .backout_layer = -1,
                                   .n_vocab = file->vocab.n_piece,
                                   .n_vocab_rows = file->vocab.n_piece};
    return status;
}

static pico_status open_folder(const char *path, const pico_open_params *params,
                               pico_model_file *file, pico_error *err) {
    const char *checkpoint = NULL;
    if (pico_file_in(path, "config.json", &file->arena) != NULL) {
        return pico_hf_open(path, 1, file, err);
    }
    pico_status status = pico_nanochat_find(path, &file->arena, &checkpoint, err);
    if (status == PICO_E_NOT_FOUND) {
        status = open_vocab(path, file, err);
        return status != PICO_E_NOT_FOUND
                   ? status
                   : pico_fail(err, PICO_E_UNSUPPORTED,
                               "%.200s: the folder holds no model: expected model_*.pt (nanochat), "
                               "or config.json with .safetensors files",
                               path);
    }
    return status == PICO_OK ? pico_nanochat_open(checkpoint, params->generation, file, err)
                             : status;
}

static pico_status open_file(const char *path, const pico_open_params *params,
                             pico_model_file *file, pico_error *err) {
    pico_error inner = {0};
    pico_status status = pico_map_open(path, &file->map, err);
    if (status != PICO_OK) {
        return status;
    }
    if (pico_torch_detect(&file->map) || pico_safetensors_detect(&file->map)) {
        int is_torch = pico_torch_detect(&file->map);
        pico_map_close(&file->map);
        return is_torch ? pico_nanochat_open(path, params->generation, file, err)
                        : pico_hf_open(path, 0, file, err);
    }
    if (pico_json_detect(&file->map) || pico_vocab_spm_detect(&file->map)) {
        pico_map_close(&file->map);
        return open_vocab(path, file, err);
    }
    status = pico_model_file_read(&file->map, params->tokenizer == NULL, file, &inner);
    return pico_in_file(path, status, &inner, err);
}

/* What lies beside the model; a model without a tokenizer is no error here. */
static pico_status find_vocab(pico_model_file *file, const char *folder, pico_error *err) {
    if (folder == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "%.200s: out of memory", file->path);
    }
    pico_status status =
        pico_vocab_open(folder, file->desc.n_vocab, &file->arena, &file->vocab, err);
    if (status == PICO_E_NOT_FOUND && file->format == PICO_FORMAT_TORCH) {
        /* nanochat: BASE/tokenizer serves all of BASE/KIND_checkpoints/TAG */
        folder = pico_arena_printf(&file->arena, "%s/../../tokenizer", folder);
        if (folder != NULL && pico_file_in(folder, "tokenizer.pkl", &file->arena) != NULL) {
            status = pico_vocab_open(folder, file->desc.n_vocab, &file->arena, &file->vocab, err);
        }
    }
    return status == PICO_E_NOT_FOUND ? PICO_OK : status;
}

static pico_status open_any(const char *path, const pico_open_params *params, pico_model_file *file,
                            pico_error *err) {
    int folder = pico_is_folder(path);
    pico_status status =
        folder ? open_folder(path, params, file, err) : open_file(path, params, file, err);
    if (status != PICO_OK) {
        return status;
    }
    if (params->tokenizer != NULL) {
        return pico_vocab_open(params->tokenizer, file->desc.n_vocab, &file->arena, &file->vocab,
                               err);
    }
    int alone = file->format == PICO_FORMAT_GGUF || file->format == PICO_FORMAT_LLAMA2C ||
                file->desc.n_layer == 0;
    return alone ? PICO_OK
                 : find_vocab(file, folder ? path : pico_folder_of(path, &file->arena), err);
}

pico_status pico_model_file_open_with(const char *path, const pico_open_params *params,
                                      pico_model_file **out, pico_error *err) {
    const pico_open_params none = {0};
    pico_error inner = {0};
    pico_model_file *file = NULL;
    *out = NULL;
    params = params == NULL ? &none : params;
    pico_status status = pico_model_file_new(path, &file, err);
    if (status != PICO_OK) {
        return status;
    }
    status = open_any(path, params, file, err);
    if (status == PICO_OK) {
        status = pico_model_file_check_vocab(file, &inner);
        status =
            pico_in_file(params->tokenizer == NULL ? path : params->tokenizer, status, &inner, err);
    }
    if (status != PICO_OK) {
        pico_model_file_close(file);
        return status;
    }
    *out = file;
    return PICO_OK;
}

pico_status pico_model_file_open(const char *path, const char *tokenizer, pico_model_file **out,
                                 pico_error *err) {
    pico_open_params params = {.tokenizer = tokenizer};
    return pico_model_file_open_with(path, &params, out, err);
}
