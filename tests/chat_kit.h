/*
 * A model that says what a test wants: after each token comes the one that a table names. It is a
 * Llama whose layers add nothing, so that the logits depend on the newest token alone. Its
 * vocabulary is bytes and nanochat's special tokens.
 */
#ifndef PICO_TESTS_CHAT_KIT_H
#define PICO_TESTS_CHAT_KIT_H

#include <string.h>

#include "formats/model_file.h"
#include "llama_kit.h"
#include "model/model.h"

enum {
    CK_UNK = 0,
    CK_BOS = 1,
    CK_BYTE = 2, /* the first of 256 */
    CK_USER_START = 258,
    CK_USER_END,
    CK_ASSISTANT_START,
    CK_ASSISTANT_END,
    CK_PYTHON_START,
    CK_PYTHON_END,
    CK_OUTPUT_START,
    CK_OUTPUT_END,
    CK_EOS,
    CK_LONG, /* the text "z\nU" */
    CK_VOCAB,
    CK_CONTEXT = 256
};

typedef struct ck_script {
    int32_t next[CK_VOCAB];
} ck_script;

/* Everything is followed by the end of the answer. */
static inline void ck_begin(ck_script *script) {
    for (int i = 0; i < CK_VOCAB; i++) {
        script->next[i] = CK_ASSISTANT_END;
    }
}

/* After token `from` come these bytes, no byte twice in a script, and then token `to`. */
static inline void ck_say(ck_script *script, int32_t from, const char *text, int32_t to) {
    for (; *text != '\0'; text++) {
        int32_t id = CK_BYTE + (unsigned char)*text;
        script->next[from] = id;
        from = id;
    }
    script->next[from] = to;
}

static inline void ck_vocab(pico_vocab *vocab) {
    static const char *const names[] = {
        "<|user_start|>",    "<|user_end|>",     "<|assistant_start|>",
        "<|assistant_end|>", "<|python_start|>", "<|python_end|>",
        "<|output_start|>",  "<|output_end|>",   "<|endoftext|>"};
    static char byte_name[256][8];
    static pico_piece piece[CK_VOCAB] = {
        [CK_UNK] = {.text = "<unk>", .n = 5, .type = PICO_PIECE_UNKNOWN},
        [CK_BOS] = {.text = "<|bos|>", .n = 7, .type = PICO_PIECE_CONTROL}};
    for (unsigned i = 0; i < 256; i++) {
        (void)snprintf(byte_name[i], sizeof byte_name[i], "<0x%02X>", i & 0xff);
        piece[CK_BYTE + i] = (pico_piece){.text = byte_name[i], .n = 6, .type = PICO_PIECE_BYTE};
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        piece[CK_USER_START + i] = (pico_piece){
            .text = names[i], .n = (uint32_t)strlen(names[i]), .type = PICO_PIECE_CONTROL};
    }
    piece[CK_LONG] = (pico_piece){.text = "z\nU", .n = 3, .type = PICO_PIECE_NORMAL};
    *vocab = (pico_vocab){.kind = PICO_VOCAB_SPM,
                          .n_piece = CK_VOCAB,
                          .piece = piece,
                          .bos = CK_BOS,
                          .eos = CK_EOS,
                          .unk = CK_UNK,
                          .pad = -1,
                          .eot = CK_ASSISTANT_END,
                          .add_bos = 1};
}

/* Gives a tensor one value everywhere, in memory that can be written. */
static inline float *ck_fill(pico_model_file *file, const char *name, float value) {
    uint32_t which = 0;
    while (strcmp(file->tensor[which].name, name) != 0) {
        assert_true(++which < file->n_tensor);
    }
    pico_weight_desc *weight = &file->tensor[which].data;
    size_t n = (size_t)(weight->rows * weight->cols);
    float *data = pico_arena_alloc(&file->arena, n, sizeof *data);
    assert_non_null(data);
    for (size_t i = 0; i < n; i++) {
        data[i] = value;
    }
    weight->codes = data;
    return data;
}

/* Closed by the caller, or taken over by a model; its vocabulary is static. */
static inline pico_model_file *ck_make(const ck_script *script) {
    enum { N_EMBD = CK_VOCAB };
    pico_layer_desc layer;
    pico_model_desc desc = small_llama(&layer, 1);
    desc.n_embd = N_EMBD;
    desc.n_vocab = desc.n_vocab_rows = CK_VOCAB;
    desc.n_ctx_train = CK_CONTEXT;
    pico_model_file *file = NULL;
    pico_error err = {0};
    if (pico_model_synthetic_from(&desc, PICO_DTYPE_F32, 7, &file, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    (void)ck_fill(file, "output_norm.weight", 1);
    (void)ck_fill(file, "blk.0.attn_output.weight", 0);
    (void)ck_fill(file, "blk.0.ffn_down.weight", 0);
    float *embed = ck_fill(file, "token_embd.weight", 0);
    float *head = ck_fill(file, "output.weight", 0);
    for (size_t i = 0; i < CK_VOCAB; i++) {
        embed[i * N_EMBD + i] = 1;
        head[(size_t)script->next[i] * N_EMBD + i] = 4;
    }
    ck_vocab(&file->vocab);
    return file;
}

#endif
