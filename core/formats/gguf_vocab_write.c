/*
 * The vocabulary as tokenizer.ggml.* keys. A llama2.c vocabulary has plain spaces and "\n<s>\n";
 * other programs want U+2581 and "<s>", so these are exchanged where that can be undone exactly
 * (picochat.tokenizer.escaped says so), and picochat.tokenizer.llama2c keeps the way to encode.
 */
#include <string.h>

#include "formats/gguf.h"

static const char prefix[] = "tokenizer.ggml.";
static const char own_prefix[] = "picochat.tokenizer.";
static const char space_mark[] = "\xe2\x96\x81"; /* U+2581 */

static int contains(const pico_piece *piece, const char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i + n <= piece->n; i++) {
        if (memcmp(piece->text + i, text, n) == 0) {
            return 1;
        }
    }
    return 0;
}

static int equals(const pico_piece *piece, const char *text) {
    return piece->n == strlen(text) && memcmp(piece->text, text, piece->n) == 0;
}

static int can_escape(const pico_vocab *vocab) {
    if (!vocab->llama2c || vocab->n_piece < 3 || !equals(&vocab->piece[1], "\n<s>\n") ||
        !equals(&vocab->piece[2], "\n</s>\n")) {
        return 0;
    }
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        if (contains(&vocab->piece[i], space_mark)) {
            return 0;
        }
    }
    return 1;
}

static void put_escaped(pico_gguf_build *build, const pico_piece *piece) {
    uint64_t n = piece->n;
    for (uint32_t i = 0; i < piece->n; i++) {
        n += piece->text[i] == ' ' ? 2 : 0;
    }
    pico_gguf_put_u64(build, n);
    for (uint32_t i = 0; i < piece->n; i++) {
        int space = piece->text[i] == ' ';
        pico_gguf_put(build, space ? space_mark : &piece->text[i], space ? 3 : 1);
    }
}

static int has_scores(const pico_vocab *vocab) {
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        uint32_t bits;
        memcpy(&bits, &vocab->piece[i].score, sizeof bits);
        if (bits != 0) {
            return 1;
        }
    }
    return vocab->kind == PICO_VOCAB_SPM;
}

static void write_pieces(pico_gguf_build *build, const pico_vocab *vocab) {
    int escape = can_escape(vocab);
    pico_gguf_key_array(build, prefix, "tokens", PICO_GGUF_STRING, vocab->n_piece);
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        const pico_piece *piece = &vocab->piece[i];
        if (escape && (i == 1 || i == 2)) {
            const char *text = i == 1 ? "<s>" : "</s>";
            pico_gguf_put_string(build, text, strlen(text));
        } else if (escape) {
            put_escaped(build, piece);
        } else {
            pico_gguf_put_string(build, piece->text, piece->n);
        }
    }
    if (has_scores(vocab)) {
        pico_gguf_key_array(build, prefix, "scores", PICO_GGUF_F32, vocab->n_piece);
        for (uint32_t i = 0; i < vocab->n_piece; i++) {
            pico_gguf_put(build, &vocab->piece[i].score, sizeof(float));
        }
    }
    pico_gguf_key_array(build, prefix, "token_type", PICO_GGUF_I32, vocab->n_piece);
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        pico_gguf_put_u32(build, vocab->piece[i].type);
    }
    if (vocab->llama2c) {
        pico_gguf_key_bool(build, own_prefix, "llama2c", 1);
    }
    if (escape) {
        pico_gguf_key_bool(build, own_prefix, "escaped", 1);
    }
}

/* Written where there is one, and as 2^32 - 1 where a reader would else assume one. */
static void write_ids(pico_gguf_build *build, const pico_vocab *vocab) {
    pico_vocab assumed = *vocab;
    pico_gguf_vocab_defaults(&assumed);
    const struct {
        const char *key;
        int32_t id, assumed;
    } ids[] = {
        {"bos_token_id", vocab->bos, assumed.bos},     {"eos_token_id", vocab->eos, assumed.eos},
        {"unknown_token_id", vocab->unk, assumed.unk}, {"padding_token_id", vocab->pad, -1},
        {"eot_token_id", vocab->eot, assumed.eot},
    };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        if (ids[i].id >= 0 || ids[i].assumed >= 0) {
            pico_gguf_key_u32(build, prefix, ids[i].key, (uint32_t)ids[i].id);
        }
    }
}

void pico_gguf_write_vocab(pico_gguf_build *build, const pico_vocab *vocab) {
    if (vocab->kind == PICO_VOCAB_NONE) {
        pico_gguf_key_text(build, prefix, "model", "no_vocab");
        return;
    }
    pico_gguf_key_text(build, prefix, "model", vocab->kind == PICO_VOCAB_SPM ? "llama" : "gpt2");
    if (vocab->pre != NULL) {
        pico_gguf_key_text(build, prefix, "pre", vocab->pre);
    }
    write_pieces(build, vocab);
    if (vocab->kind == PICO_VOCAB_BPE) {
        pico_gguf_key_array(build, prefix, "merges", PICO_GGUF_STRING, vocab->n_merge);
        for (uint32_t i = 0; i < vocab->n_merge; i++) {
            pico_gguf_put_string(build, vocab->merge[i].text, vocab->merge[i].n);
        }
    }
    write_ids(build, vocab);
    pico_gguf_key_bool(build, prefix, "add_bos_token", vocab->add_bos);
    pico_gguf_key_bool(build, prefix, "add_eos_token", vocab->add_eos);
    pico_gguf_key_bool(build, prefix, "add_space_prefix", vocab->add_space_prefix);
    if (vocab->chat_template != NULL) {
        pico_gguf_key_text(build, "tokenizer.", "chat_template", vocab->chat_template);
    }
}
