/*
 * Models that are one file, GGUF or llama2.c, and vocabularies alone: detection from the content,
 * description against tensors. Opening, and models of several files, are open.c's.
 */
#include "formats/model_file.h"

#include <stdlib.h>
#include <string.h>

#include "formats/expect.h"
#include "formats/gguf.h"
#include "formats/reader.h"

/* ---- what the content is ---- */

static const char *guess(const pico_map *map) {
    static const struct {
        const char *magic;
        size_t n;
        const char *what;
    } known[] = {
        {"PK\003\004", 4, " (a ZIP archive; a PyTorch checkpoint?)"},
        {"\x80\002\x8a", 3, " (torch.save before PyTorch 1.6; load it there and save it again)"},
        {"ggml", 4, " (GGML, the predecessor of GGUF)"},
        {"lmgg", 4, " (GGML, the predecessor of GGUF)"},
        {"tjgg", 4, " (GGJT, the predecessor of GGUF)"},
        {"fmgg", 4, " (GGMF, the predecessor of GGUF)"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (map->size >= known[i].n && memcmp(map->data, known[i].magic, known[i].n) == 0) {
            return known[i].what;
        }
    }
    return map->size > 8 && map->data[8] == '{' ? " (safetensors?)" : "";
}

static pico_status refuse_unknown(const pico_map *map, pico_error *err) {
    char bytes[3 * 16 + 1] = "";
    size_t n = map->size < 16 ? (size_t)map->size : 16;
    if (map->size == 0) {
        return pico_fail(err, PICO_E_UNSUPPORTED, "the file is empty");
    }
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(bytes + 3 * i, sizeof bytes - 3 * i, " %02x", map->data[i]);
    }
    return pico_fail(err, PICO_E_UNSUPPORTED,
                     "not a model that can be read: it begins with%s%s; supported are GGUF v2 and "
                     "v3, llama2.c .bin v0, v1 and v2, nanochat checkpoints (.pt) and safetensors",
                     bytes, guess(map));
}

/* ---- GGUF ---- */

static pico_status read_gguf_model(const pico_gguf *gguf, pico_model_file *file, pico_error *err) {
    const char *architecture = "";
    int64_t n_rows = 0;
    pico_status status =
        pico_gguf_text(gguf, "general.architecture", PICO_GGUF_REQUIRED, &architecture, err);
    if (status == PICO_OK) {
        status = pico_gguf_read_tensors(gguf, file, err);
    }
    if (status == PICO_OK) {
        const pico_file_tensor *embed = pico_model_file_find(file, "token_embd.weight");
        n_rows = embed == NULL ? 0 : embed->data.rows;
        int has_output = pico_model_file_find(file, "output.weight") != NULL;
        status = pico_gguf_read_desc(gguf, architecture, n_rows, has_output, &file->arena,
                                     &file->desc, err);
    }
    return status == PICO_OK ? pico_expect_match(file, err) : status;
}

/* A file without tensors is a vocabulary, whatever its other keys say of some model. */
static pico_status read_gguf_vocab_only(const pico_gguf *gguf, pico_model_file *file,
                                        pico_error *err) {
    const char *architecture = "unknown";
    pico_status status = pico_gguf_text(gguf, "general.architecture", 0, &architecture, err);
    if (status == PICO_OK && file->vocab.kind == PICO_VOCAB_NONE) {
        status = pico_fail(err, PICO_E_CORRUPT, "the file has neither tensors nor a tokenizer");
    }
    file->desc = (pico_model_desc){.backout_layer = -1, .n_vocab = file->vocab.n_piece};
    file->desc.n_vocab_rows = file->desc.n_vocab;
    (void)snprintf(file->desc.family, sizeof file->desc.family, "%.*s",
                   (int)sizeof file->desc.family - 1, architecture);
    return status;
}

/* A tokenizer.pkl: a vocabulary without a model. */
static pico_status read_pickled_vocab(const pico_map *map, pico_model_file *file, pico_error *err) {
    pico_status status = pico_tiktoken_read(map, &file->arena, &file->vocab, err);
    file->format = PICO_FORMAT_TORCH;
    file->format_name = "pickled tiktoken encoding";
    file->desc = (pico_model_desc){.family = "unknown",
                                   .backout_layer = -1,
                                   .n_vocab = file->vocab.n_piece,
                                   .n_vocab_rows = file->vocab.n_piece};
    return status;
}

/* own_vocab 0: the tokenizer comes from elsewhere, this one need not even be readable. */
static pico_status read_gguf(const pico_map *map, int own_vocab, pico_model_file *file,
                             pico_error *err) {
    pico_gguf gguf;
    pico_status status = pico_gguf_open(&gguf, map, &file->arena, err);
    if (status != PICO_OK) {
        return status;
    }
    file->format = PICO_FORMAT_GGUF;
    file->format_name = gguf.version == 2 ? "GGUF v2" : "GGUF v3";
    status = pico_gguf_text(&gguf, "general.name", PICO_GGUF_OPTIONAL, &file->name, err);
    (void)pico_gguf_find(&gguf, "picochat.tokenizer.llama2c"); /* known, even if not read */
    (void)pico_gguf_find(&gguf, "picochat.tokenizer.escaped");
    (void)pico_gguf_find(&gguf, PICO_GGUF_FILLER);
    if (status == PICO_OK && own_vocab) {
        status = pico_gguf_read_vocab(&gguf, &file->arena, &file->vocab, err);
    }
    if (status != PICO_OK) {
        return status;
    }
    return gguf.n_tensor == 0 ? read_gguf_vocab_only(&gguf, file, err)
                              : read_gguf_model(&gguf, file, err);
}

/* ---- all of it ---- */

pico_status pico_model_file_check_vocab(const pico_model_file *file, pico_error *err) {
    if (file->vocab.kind == PICO_VOCAB_NONE || file->desc.n_layer == 0 ||
        file->vocab.n_piece == file->desc.n_vocab) {
        return PICO_OK;
    }
    return pico_fail(
        err, PICO_E_CORRUPT,
        "the tokenizer has %u pieces, the model %u tokens: they do not belong together",
        file->vocab.n_piece, file->desc.n_vocab);
}

static const pico_vocab no_vocab = {.bos = -1, .eos = -1, .unk = -1, .pad = -1, .eot = -1};

pico_status pico_model_file_new(const char *path, pico_model_file **out, pico_error *err) {
    pico_model_file *file = calloc(1, sizeof *file);
    *out = NULL;
    if (file != NULL) {
        file->vocab = no_vocab;
        file->path = pico_arena_strdup(&file->arena, path);
    }
    if (file == NULL || file->path == NULL) {
        pico_model_file_close(file);
        return pico_fail(err, PICO_E_NOMEM, "%.200s: out of memory", path);
    }
    *out = file;
    return PICO_OK;
}

pico_status pico_model_file_read(const pico_map *map, int own_vocab, pico_model_file *file,
                                 pico_error *err) {
    if (pico_gguf_detect(map)) {
        return read_gguf(map, own_vocab, file, err);
    }
    if (pico_tiktoken_detect(map)) {
        return read_pickled_vocab(map, file, err);
    }
    if (pico_llama2c_detect(map)) {
        return pico_llama2c_read(map, file, err);
    }
    return refuse_unknown(map, err);
}

pico_status pico_model_file_parse(const pico_source *source, const pico_source *tokenizer,
                                  pico_model_file **out, pico_error *err) {
    pico_error inner = {0};
    const char *path = source->path;
    pico_model_file *file = NULL;
    *out = NULL;
    pico_status status = pico_model_file_new(path, &file, err);
    if (status != PICO_OK) {
        return status;
    }
    status = pico_model_file_read(&source->map, tokenizer == NULL, file, &inner);
    if (status == PICO_OK && tokenizer != NULL) {
        status = pico_vocab_read(&tokenizer->map, file->desc.n_vocab, &file->arena, &file->vocab,
                                 &inner);
        path = status == PICO_OK ? path : tokenizer->path;
    }
    if (status == PICO_OK) {
        status = pico_model_file_check_vocab(file, &inner);
    }
    if (status != PICO_OK) {
        (void)pico_fail(err, status, "%.200s: %s", path, inner.message);
        pico_model_file_close(file);
        return status;
    }
    *out = file;
    return PICO_OK;
}

void pico_model_file_close(pico_model_file *file) {
    if (file == NULL) {
        return;
    }
    pico_map_close(&file->map);
    for (pico_kept_map *kept = file->kept; kept != NULL; kept = kept->next) {
        pico_map_close(&kept->map);
    }
    pico_arena_free(&file->arena);
    free(file);
}

const pico_file_tensor *pico_model_file_find(const pico_model_file *file, const char *name) {
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        if (strcmp(file->tensor[i].name, name) == 0) {
            return &file->tensor[i];
        }
    }
    return NULL;
}
