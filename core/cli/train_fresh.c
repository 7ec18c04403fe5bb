/*
 * The model that [shape] describes, for training: the shape from numbers, the vocabulary from a file;
 * or a model file with the heads that [shape] adds. It refuses to guess a vocabulary, and any other
 * shape beside a model file.
 */
#include <string.h>

#include "cli/cli.h"
#include "cli/load.h"
#include "cli/train_files.h"
#include "formats/reader.h"
#include "model/fresh.h"
#include "transform/heads.h"

static uint32_t number(const pico_config *config, const char *key) {
    const int64_t value = pico_config_int(config, "shape", key);
    return value < 0 ? 0 : (uint32_t)value; /* auto */
}

int pico_fresh_is_wanted(const pico_config *config) {
    return number(config, "n_layer") != 0;
}

static pico_status check_config(const pico_config *config, pico_error *err) {
    const char *path = pico_config_path(config, "model", "path");
    if (path != NULL && *path != '\0') {
        return pico_fail(err, PICO_E_INVALID,
                         "a fresh model is asked for (%s), and %s as well (%s): leave one of them "
                         "out; --init random draws fresh values for the shape of a file",
                         pico_config_origin(config, "shape", "n_layer"), path,
                         pico_config_origin(config, "model", "path"));
    }
    if (pico_config_is_set(config, "trainer", "init") &&
        strcmp(pico_config_string(config, "trainer", "init"), "random") != 0) {
        return pico_fail(err, PICO_E_INVALID,
                         "[trainer] init = %s: a fresh model has no values to begin with",
                         pico_config_string(config, "trainer", "init"));
    }
    if (pico_config_path(config, "model", "tokenizer") == NULL) {
        return pico_fail(
            err, PICO_E_INVALID,
            "a fresh model needs --tokenizer FILE (tokenizer.bin, tokenizer.pkl, "
            "tokenizer.json, a GGUF file such as the teacher's, or a folder with one); "
            "tokenizer train makes one");
    }
    return PICO_OK;
}

/* The form of a draft head, if there is one. */
static uint32_t draft_flags(const pico_config *config) {
    const int shared = strcmp(pico_config_string(config, "shape", "draft_head"), "shared") == 0;
    const int reads_token = pico_config_bool(config, "shape", "draft_reads_token");
    return (shared ? (uint32_t)PICO_DRAFT_SHARED_OUTPUT : 0u) |
           (reads_token ? (uint32_t)PICO_DRAFT_READS_TOKEN : 0u);
}

static pico_status make(const pico_config *config, uint32_t n_vocab, pico_model_file **out,
                        pico_error *err) {
    pico_error inner = {0};
    const pico_fresh fresh = {
        .family = pico_config_string(config, "shape", "family"),
        .generation = (uint32_t)pico_config_int(config, "model", "generation"),
        .n_layer = number(config, "n_layer"),
        .n_vocab = n_vocab,
        .n_ctx = number(config, "context"),
        .n_embd = number(config, "n_embd"),
        .n_head = number(config, "n_head"),
        .n_kv_head = number(config, "n_kv_head"),
        .n_ff = number(config, "n_ff"),
        .windows = pico_config_string(config, "shape", "windows"),
        .tied = pico_config_bool(config, "shape", "tied_head"),
        .n_mtp_head = number(config, "mtp_heads"),
        .n_draft = number(config, "draft_slots"),
        .draft_hidden = number(config, "draft_hidden"),
        .draft_flags = draft_flags(config),
    };
    pico_status status = pico_model_fresh(&fresh, out, &inner);
    return status == PICO_OK ? PICO_OK : pico_fail(err, status, "[shape]: %s", inner.message);
}

pico_status pico_fresh_open(const pico_config *config, pico_model_file **out, int *code,
                            pico_error *err) {
    const char *tokenizer = pico_config_path(config, "model", "tokenizer");
    pico_arena arena = {0};
    pico_vocab vocab = {0};
    pico_model_file *file = NULL;
    *out = NULL;
    *code = PICO_EXIT_USAGE;
    pico_status status = check_config(config, err);
    if (status == PICO_OK) {
        status = pico_vocab_open(tokenizer, 0, &arena, &vocab, err);
        *code = pico_exit_code(status) == PICO_EXIT_MEMORY ? PICO_EXIT_MEMORY : PICO_EXIT_MODEL;
    }
    if (status != PICO_OK) {
        pico_load_advise(config, tokenizer == NULL ? "" : tokenizer, err);
        goto cleanup;
    }
    if (vocab.kind == PICO_VOCAB_NONE) {
        status = pico_fail(err, PICO_E_INVALID, "%s holds no tokenizer", tokenizer);
        goto cleanup;
    }
    status = make(config, vocab.n_piece, &file, err);
    *code = pico_exit_code(status);
    if (status == PICO_OK) { /* read again, for the arena of the file */
        status = pico_vocab_open(tokenizer, 0, &file->arena, &file->vocab, err);
    }
    if (status != PICO_OK) {
        pico_model_file_close(file);
        goto cleanup;
    }
    *out = file;
cleanup:
    pico_arena_free(&arena);
    return status;
}

/* What describes a fresh model says nothing of one that is opened. */
static pico_status check_extension(const pico_config *config, const pico_heads_shape *heads,
                                   pico_error *err) {
    static const char *const of_fresh[] = {"family", "n_embd",  "n_head",  "n_kv_head",
                                           "n_ff",   "context", "windows", "tied_head"};
    static const char *const of_draft[] = {"draft_head", "draft_reads_token", "draft_vocab",
                                           "draft_hidden"};
    for (size_t i = 0; i < sizeof of_fresh / sizeof *of_fresh; i++) {
        if (pico_config_is_set(config, "shape", of_fresh[i])) {
            return pico_fail(err, PICO_E_INVALID,
                             "%s says what a fresh model is like, and %s is opened: leave one of "
                             "them out, or ask for a fresh one (--depth)",
                             pico_config_origin(config, "shape", of_fresh[i]),
                             pico_config_path(config, "model", "path"));
        }
    }
    for (size_t i = 0; heads->n_draft == 0 && i < sizeof of_draft / sizeof *of_draft; i++) {
        if (pico_config_is_set(config, "shape", of_draft[i])) {
            return pico_fail(
                err, PICO_E_INVALID,
                "%s is about a draft head, and none is added: [shape] draft_slots says "
                "how many tokens it guesses",
                pico_config_origin(config, "shape", of_draft[i]));
        }
    }
    return PICO_OK;
}

pico_status pico_extended_open(const pico_config *config, pico_model_file **out, uint32_t *heads,
                               int *code, pico_error *err) {
    const pico_heads_shape shape = {
        .n_mtp_head = number(config, "mtp_heads"),
        .n_draft = number(config, "draft_slots"),
        .draft_hidden = number(config, "draft_hidden"),
        .draft_flags = draft_flags(config),
    };
    *out = NULL;
    *heads = (shape.n_mtp_head != 0 ? PICO_TRAIN_MTP_HEADS : 0u) |
             (shape.n_draft != 0 ? PICO_TRAIN_DRAFT_HEAD : 0u);
    *code = PICO_EXIT_USAGE;
    pico_status status = check_extension(config, &shape, err);
    if (status == PICO_OK) {
        status = pico_load_file(config, out, code, err);
    }
    if (status != PICO_OK || *heads == 0) {
        return status;
    }
    if ((*out)->desc.n_layer == 0) {
        return PICO_OK; /* a vocabulary: whoever loads it says so */
    }
    pico_error inner = {0};
    status = pico_heads_add(*out, &shape, &inner);
    if (status != PICO_OK) {
        *code = pico_exit_code(status);
        pico_model_file_close(*out);
        *out = NULL;
        return pico_fail(err, status, "[shape]: %s", inner.message);
    }
    return PICO_OK;
}

void pico_fresh_say(pico_log *log, const pico_model *model) {
    const pico_model_file *file = model->file;
    const pico_model_desc *desc = pico_model_describe(model);
    uint64_t n = 0;
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        n += (uint64_t)file->tensor[i].data.rows * (uint64_t)file->tensor[i].data.cols;
    }
    pico_log_write(log, PICO_LOG_INFO,
                   "a fresh %s model: %u layers, width %u, %u heads (%u of KV), feed-forward %u, "
                   "context %u, %u tokens, %llu parameters",
                   desc->family, desc->n_layer, desc->n_embd, desc->layer[0].n_head,
                   desc->layer[0].n_kv_head, desc->layer[0].n_ff, desc->n_ctx_train, desc->n_vocab,
                   (unsigned long long)n);
}
