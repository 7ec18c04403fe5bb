/* Loading a model for a run; see load.h. */
#include "cli/load.h"

#include <string.h>

#include "transform/compress.h"
#include "transform/pool.h"

enum { MAX_STAGE = 32 };

static uint32_t kv_dtype_of(const pico_config *config) {
    const char *word = pico_config_string(config, "attention", "kv_type");
    return strcmp(word, "f16") == 0    ? PICO_DTYPE_F16
           : strcmp(word, "bf16") == 0 ? PICO_DTYPE_BF16
           : strcmp(word, "q8_0") == 0 ? PICO_DTYPE_Q8_0
                                       : PICO_DTYPE_F32;
}

static int model_code(pico_status status) {
    int code = pico_exit_code(status);
    return code == 5 ? code : 3;
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

pico_status pico_load_file(pico_runtime *runtime, pico_model_file **out, int *exit_code,
                           pico_error *err) {
    const char *path = pico_config_path(runtime->config, "model", "path");
    pico_open_params params = pico_load_params(runtime->config);
    if (path == NULL || *path == '\0') {
        *exit_code = 2;
        return pico_fail(err, PICO_E_INVALID,
                         "no model: give -m MODEL or set [model] path in the configuration");
    }
    pico_status status = pico_model_file_open_with(path, &params, out, err);
    if (status != PICO_OK && err != NULL) {
        pico_load_advise(runtime->config, path, err);
    }
    *exit_code = model_code(status);
    return status;
}

/* ---- transformation ---- */

static pico_status pool(pico_runtime *runtime, pico_model_file *file, int *exit_code,
                        pico_error *err) {
    const pico_attention_ops *ops = &runtime->attention.loaded->ops.attention;
    pico_attention_check check = {.struct_size = sizeof check};
    *exit_code = 2;
    pico_status status = ops->check(runtime->attention.self, &file->desc, &check, err);
    if (status != PICO_OK || check.want_kv_heads == 0) {
        return status;
    }
    pico_log_write(&runtime->log, PICO_LOG_WARN,
                   "pooling the KV heads of the model from %u to %u: its quality suffers until it "
                   "is trained again (distilled)",
                   file->desc.layer[0].n_kv_head, check.want_kv_heads);
    status = pico_pool_kv_heads(file, check.want_kv_heads, err);
    return status == PICO_OK ? ops->check(runtime->attention.self, &file->desc, &check, err)
                             : status;
}

static void planned(void *arg, const pico_stage *stage, const pico_tensor_info *from,
                    const pico_tensor_plan *to) {
    pico_runtime *runtime = arg;
    pico_log_write(
        &runtime->log, PICO_LOG_INFO, "[compress.%u] %s: %-28s %s -> %s, %llu -> %llu bytes",
        stage->number, stage->name, from->name, pico_dtype_name(from->dtype),
        pico_dtype_name(to->dtype), (unsigned long long)from->bytes, (unsigned long long)to->bytes);
}

static pico_status open_for_calibration(void *arg, pico_model_file *file, pico_model **out,
                                        pico_error *err) {
    pico_runtime *runtime = arg;
    pico_model_params params = {.attention = &runtime->attention.loaded->ops.attention,
                                .attention_self = runtime->attention.self,
                                .kv_dtype = kv_dtype_of(runtime->config)};
    return pico_model_open(&runtime->device, &params, file, out, err);
}

static void close_after_calibration(void *arg, pico_model *model) {
    (void)arg;
    (void)pico_model_release(model);
}

static pico_status compress(pico_runtime *runtime, pico_model_file *file, int *exit_code,
                            pico_error *err) {
    uint32_t numbers[MAX_STAGE];
    pico_stage stages[MAX_STAGE];
    pico_instance instances[MAX_STAGE];
    size_t n = pico_config_stages(runtime->config, numbers, MAX_STAGE);
    if (n > MAX_STAGE) {
        *exit_code = 2;
        return pico_fail(err, PICO_E_LIMIT, "%zu [compress.N] stages; at most %d are possible", n,
                         MAX_STAGE);
    }
    pico_status status = PICO_OK;
    size_t made = 0;
    for (; status == PICO_OK && made < n; made++) {
        char section[32];
        (void)snprintf(section, sizeof section, "compress.%u", numbers[made]);
        const char *name = pico_config_string(runtime->config, section, "plugin");
        status = pico_runtime_instance(runtime, PICO_KIND_COMPRESSOR, name, section,
                                       &instances[made], exit_code, err);
        if (status != PICO_OK) {
            break;
        }
        stages[made] = (pico_stage){.number = numbers[made],
                                    .name = instances[made].loaded->plugin.name,
                                    .ops = &instances[made].loaded->ops.compressor,
                                    .self = instances[made].self};
    }
    if (status == PICO_OK) {
        pico_chain_callbacks callbacks = {.planned = planned,
                                          .open_model = open_for_calibration,
                                          .close_model = close_after_calibration,
                                          .arg = runtime};
        *exit_code = 2;
        status = pico_compress_chain(file, stages, n, &callbacks, err);
    }
    while (made > 0) {
        pico_registry_destroy(runtime->registry, &instances[--made]);
    }
    return status;
}

pico_status pico_load_transform(pico_runtime *runtime, pico_model_file *file, int *exit_code,
                                pico_error *err) {
    pico_status status = pool(runtime, file, exit_code, err);
    if (status == PICO_OK) {
        status = compress(runtime, file, exit_code, err);
    }
    int code = pico_exit_code(status);
    *exit_code = code == 5 ? code : *exit_code;
    return status;
}

/* ---- model and tokenizer ---- */

static pico_status open_tokenizer(pico_runtime *runtime, const pico_model_file *file,
                                  uint32_t needs, int *exit_code, pico_error *err) {
    pico_status status;
    *exit_code = 3;
    if (file->vocab.kind == PICO_VOCAB_NONE) {
        if (!(needs & PICO_RUNTIME_TOKENIZER)) {
            return PICO_OK;
        }
        *exit_code = 2;
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
        status = pico_load_file(runtime, &opened, exit_code, err);
        file = opened;
    }
    if (status == PICO_OK && file->desc.n_layer == 0) {
        *exit_code = 3;
        status = pico_fail(err, PICO_E_INVALID, "%s holds a vocabulary but no model", file->path);
    }
    if (status == PICO_OK) {
        status = pico_load_transform(runtime, file, exit_code, err);
    }
    if (status == PICO_OK) {
        status = open_tokenizer(runtime, file, needs, exit_code, err);
    }
    if (status == PICO_OK) {
        pico_model_params params = {.attention = &runtime->attention.loaded->ops.attention,
                                    .attention_self = runtime->attention.self,
                                    .kv_dtype = kv_dtype_of(runtime->config)};
        status = pico_model_open(&runtime->device, &params, file, &runtime->model, err);
        *exit_code = model_code(status);
    }
    if (status != PICO_OK) {
        pico_model_file_close(opened);
    }
    return status;
}

pico_status pico_load_second_model(pico_runtime *runtime, const char *path, pico_model **out,
                                   pico_error *err) {
    pico_model_file *file = NULL;
    int exit_code = 0;
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
    const pico_attention_ops *ops = &runtime->second_attention.loaded->ops.attention;
    pico_attention_check check = {.struct_size = sizeof check};
    status = ops->check(runtime->second_attention.self, &file->desc, &check, err);
    if (status == PICO_OK) {
        pico_model_params params = {.attention = ops,
                                    .attention_self = runtime->second_attention.self,
                                    .kv_dtype = kv_dtype_of(runtime->config)};
        status = pico_model_open(&runtime->device, &params, file, out, err);
    }
    if (status != PICO_OK) {
        pico_model_file_close(file);
    }
    return status;
}
