/* Loading a model for a run; see load.h. */
#include "cli/load.h"

#include <string.h>

uint32_t pico_load_kv_dtype(const pico_config *config) {
    return pico_dtype_of_word(pico_config_string(config, "attention", "kv_type"));
}

static int model_code(pico_status status) {
    int code = pico_exit_code(status);
    return code == PICO_EXIT_MEMORY ? code : PICO_EXIT_MODEL;
}

/* Whether the message begins with that path and one of the characters behind it. */
static int is_about(const pico_error *err, const char *path, const char *behind) {
    size_t n = strlen(path);
    return strncmp(err->message, path, n) == 0 && err->message[n] != '\0' &&
           strchr(behind, err->message[n]) != NULL;
}

void pico_load_advise(const pico_config *config, const char *path, pico_error *err) {
    char said[sizeof err->message], hint[192] = "";
    if (err->code != PICO_E_NOT_FOUND && err->code != PICO_E_IO) {
        return; /* it was opened; what is wrong with it is said */
    }
    const char *tokenizer = pico_config_path(config, "model", "tokenizer");
    int is_model = is_about(err, path, ":");
    if (!is_model && (tokenizer == NULL || !is_about(err, tokenizer, ":/"))) {
        return; /* about a part of the model, which it names */
    }
    const char *key = is_model ? "path" : "tokenizer",
               *set = pico_config_path(config, "model", key);
    if (set != NULL && (!is_model || strcmp(set, path) == 0)) { /* else it was an argument */
        (void)snprintf(hint, sizeof hint, "; correct %.100s",
                       pico_config_origin(config, "model", key));
    }
    const char *expected =
        strstr(err->message, "expected ") != NULL ? "" /* it says so already */
        : is_model ? "; expected a GGUF file, a llama2.c .bin, a .pt or .safetensors file, or the "
                     "folder of one"
                   : "; expected a tokenizer file or a folder with one";
    (void)snprintf(said, sizeof said, "%s", err->message);
    (void)pico_fail(err, err->code, "%.*s%s%s", *expected == '\0' ? 310 : 256, said, expected,
                    hint);
}

pico_open_params pico_load_params(const pico_config *config) {
    return (pico_open_params){.tokenizer = pico_config_path(config, "model", "tokenizer"),
                              .generation =
                                  (uint32_t)pico_config_int(config, "model", "generation")};
}

pico_status pico_load_file(const pico_config *config, pico_model_file **out, int *exit_code,
                           pico_error *err) {
    const char *path = pico_config_path(config, "model", "path");
    pico_open_params params = pico_load_params(config);
    if (path == NULL || *path == '\0') {
        *exit_code = PICO_EXIT_USAGE;
        return pico_fail(err, PICO_E_INVALID,
                         "no model: give -m MODEL or set [model] path in the configuration");
    }
    pico_status status = pico_model_file_open_with(path, &params, out, err);
    if (status != PICO_OK && err != NULL) {
        pico_load_advise(config, path, err);
    }
    *exit_code = model_code(status);
    return status;
}

/* ---- model and tokenizer ---- */

static pico_status open_tokenizer(pico_runtime *runtime, const pico_model_file *file,
                                  uint32_t needs, int *exit_code, pico_error *err) {
    pico_status status;
    *exit_code = PICO_EXIT_MODEL;
    if (file->vocab.kind == PICO_VOCAB_NONE) {
        if (!(needs & PICO_RUNTIME_TOKENIZER)) {
            return PICO_OK;
        }
        *exit_code = PICO_EXIT_USAGE;
        return pico_fail(err, PICO_E_INVALID,
                         "%s has no tokenizer; name one with --tokenizer FILE (tokenizer.bin, "
                         "tokenizer.pkl, tokenizer.json, a GGUF file, or a folder with one)",
                         file->path);
    }
    status = pico_tokenizer_open(&file->vocab, &runtime->tokenizer, err);
    if (status == PICO_OK && pico_tokenizer_n_vocab(runtime->tokenizer) != file->desc.n_vocab) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "the tokenizer has %u tokens, the model %u: they do not belong together",
                         pico_tokenizer_n_vocab(runtime->tokenizer), file->desc.n_vocab);
    }
    return status;
}

pico_status pico_load_model(pico_runtime *runtime, pico_model_file *file, uint32_t needs,
                            int *exit_code, pico_error *err) {
    pico_model_file *opened = NULL;
    pico_status status = PICO_OK;
    if (file == NULL) {
        status = pico_load_file(runtime->config, &opened, exit_code, err);
        file = opened;
    }
    if (status == PICO_OK && file->desc.n_layer == 0) {
        *exit_code = PICO_EXIT_MODEL;
        status = pico_fail(err, PICO_E_INVALID, "%s holds a vocabulary but no model", file->path);
    }
    if (status == PICO_OK) {
        status = pico_load_transform(runtime, file, NULL, exit_code, err);
    }
    if (status == PICO_OK) {
        status = open_tokenizer(runtime, file, needs, exit_code, err);
    }
    if (status == PICO_OK) {
        pico_model_params params = {.attention = &runtime->attention.loaded->ops.attention,
                                    .attention_self = runtime->attention.self,
                                    .kv_dtype = pico_load_kv_dtype(runtime->config)};
        status = pico_model_open(&runtime->device, &params, file, &runtime->model, err);
        *exit_code = model_code(status);
    }
    if (status != PICO_OK) {
        pico_model_file_close(opened);
    }
    return status;
}

/* A file that is already open, as it is, with an attention that needs no conversion. Closes it on
 * failure. */
static pico_status open_plain(pico_runtime *runtime, const pico_instance *attention,
                              uint32_t kv_dtype, pico_model_file *file, pico_model **out,
                              pico_error *err) {
    const pico_attention_ops *ops = &attention->loaded->ops.attention;
    pico_attention_check check = {.struct_size = sizeof check};
    pico_status status = ops->check(attention->self, &file->desc, &check, err);
    if (status == PICO_OK) {
        pico_model_params params = {
            .attention = ops, .attention_self = attention->self, .kv_dtype = kv_dtype};
        status = pico_model_open(&runtime->device, &params, file, out, err);
    }
    if (status != PICO_OK) {
        pico_model_file_close(file);
    }
    return status;
}

pico_status pico_load_second_model(pico_runtime *runtime, const char *path, pico_model **out,
                                   pico_error *err) {
    pico_model_file *file = NULL;
    int exit_code = PICO_EXIT_OK;
    *out = NULL;
    if (runtime->second_attention.self == NULL) {
        pico_status status = pico_runtime_instance(runtime, PICO_KIND_ATTENTION, "mha", "attention",
                                                   &runtime->second_attention, &exit_code, err);
        if (status != PICO_OK) {
            return status;
        }
    }
    pico_status status = pico_model_file_open(path, NULL, &file, err);
    if (status != PICO_OK) {
        return status;
    }
    status = file->desc.n_layer == 0
                 ? pico_fail(err, PICO_E_INVALID, "%s holds a vocabulary but no model", path)
                 : pico_load_transform_draft(runtime, file, err);
    if (status == PICO_OK) { /* weights may be made after a reservation, and others have worked */
        const pico_reserve none = {0};
        status = pico_device_reserve(&runtime->device, &none, err);
    }
    if (status != PICO_OK) {
        pico_model_file_close(file);
        return status;
    }
    return open_plain(runtime, &runtime->second_attention, pico_load_kv_dtype(runtime->config),
                      file, out, err);
}

pico_status pico_load_reference(pico_runtime *runtime, const char *path, pico_model **out,
                                int *exit_code, pico_error *err) {
    pico_open_params params = {.generation = pico_load_params(runtime->config).generation};
    pico_model_file *file = NULL;
    pico_instance attention;
    *out = NULL;
    /* A section that nobody sets: the plugin's defaults. */
    pico_status status = pico_runtime_instance(runtime, PICO_KIND_ATTENTION, "mha", "reference",
                                               &attention, exit_code, err);
    if (status != PICO_OK) {
        return status;
    }
    status = pico_model_file_open_with(path, &params, &file, err);
    if (status != PICO_OK && err != NULL) {
        pico_load_advise(runtime->config, path, err);
    }
    if (status == PICO_OK && file->desc.n_layer == 0) {
        status = pico_fail(err, PICO_E_INVALID, "%s holds a vocabulary but no model", path);
        pico_model_file_close(file);
        file = NULL;
    }
    if (status == PICO_OK) {
        status = open_plain(runtime, &attention, PICO_DTYPE_F32, file, out, err);
    }
    *exit_code = model_code(status);
    return status;
}
