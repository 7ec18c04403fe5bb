/*
 * What the tests of safetensors and Hugging Face folders share: files made in memory, folders made
 * on disk, and models in memory written with the names, shapes and orders that those folders have.
 */
#ifndef PICO_TESTS_HF_KIT_H
#define PICO_TESTS_HF_KIT_H

#include "formats_support.h"

#include <jansson.h>
#include <stdio.h>
#include <sys/stat.h>

#include "formats/hf.h"
#include "util/half.h"

static inline void expect_message(pico_status status, const pico_error *err, const char *message) {
    if (status == PICO_OK || strstr(err->message, message) == NULL) {
        fail_msg("expected a message with \"%s\", found: %s", message,
                 status == PICO_OK ? "no error" : err->message);
    }
}

static inline void expect_open_refused(const char *path, const char *message) {
    pico_error err = {0};
    pico_model_file *file = NULL;
    pico_status status = pico_model_file_open(path, NULL, &file, &err);
    expect_message(status, &err, message);
    assert_null(file);
}

/* Names and values, whatever the type. */
static inline void assert_equal_values(const pico_model_file *a, const pico_model_file *b) {
    assert_int_equal(a->n_tensor, b->n_tensor);
    for (uint32_t i = 0; i < a->n_tensor; i++) {
        const pico_file_tensor *s = &a->tensor[i], *t = &b->tensor[i];
        assert_string_equal(s->name, t->name);
        size_t bytes = (size_t)s->data.cols * sizeof(float);
        float *x = malloc(bytes), *y = malloc(bytes);
        for (int64_t row = 0; row < s->data.rows; row++) {
            pico_weight_row_f32(&s->data, row, x);
            pico_weight_row_f32(&t->data, row, y);
            assert_memory_equal(x, y, bytes);
        }
        free(x);
        free(y);
    }
}

/* ---- a safetensors file that grows ---- */

typedef struct kit_st {
    char *header; /* JSON without its last brace */
    size_t n_header;
    unsigned char *data;
    size_t n_data;
} kit_st;

static inline void kit_grow(void *block, size_t used, const void *bytes, size_t n) {
    void **at = block;
    *at = realloc(*at, used + n + 1);
    assert_non_null(*at);
    if (n > 0) {
        memcpy((char *)*at + used, bytes, n);
    }
    ((char *)*at)[used + n] = '\0';
}

static inline void kit_st_text(kit_st *st, const char *text) {
    kit_grow(&st->header, st->n_header, text, strlen(text));
    st->n_header += strlen(text);
}

static inline void kit_st_add(kit_st *st, const char *name, const char *type, uint32_t rank,
                              const int64_t *shape, const void *bytes, size_t n) {
    char text[512];
    kit_st_text(st, st->n_header == 0 ? "{\"__metadata__\":{\"format\":\"pt\"}" : "");
    (void)snprintf(text, sizeof text, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", name, type);
    kit_st_text(st, text);
    for (uint32_t i = 0; i < rank; i++) {
        (void)snprintf(text, sizeof text, "%s%lld", i == 0 ? "" : ",", (long long)shape[i]);
        kit_st_text(st, text);
    }
    (void)snprintf(text, sizeof text, "],\"data_offsets\":[%zu,%zu]}", st->n_data, st->n_data + n);
    kit_st_text(st, text);
    kit_grow(&st->data, st->n_data, bytes, n);
    st->n_data += n;
}

/* The whole file from a header and data; malloc-ed, exactly sized. pad: spaces after the header. */
static inline unsigned char *kit_st_file(const char *header, size_t pad, const void *data,
                                         size_t n_data, size_t *size) {
    uint64_t n = strlen(header) + pad;
    *size = 8 + (size_t)n + n_data;
    unsigned char *file = malloc(*size);
    assert_non_null(file);
    for (int i = 0; i < 8; i++) {
        file[i] = (unsigned char)(n >> (8 * i));
    }
    memcpy(file + 8, header, strlen(header));
    memset(file + 8 + strlen(header), ' ', pad);
    if (n_data > 0) {
        memcpy(file + 8 + n, data, n_data);
    }
    return file;
}

/* Frees the parts. Data begin at a multiple of 8 plus skew. */
static inline unsigned char *kit_st_end(kit_st *st, size_t skew, size_t *size) {
    kit_st_text(st, st->n_header == 0 ? "{}" : "}");
    size_t pad = (8 - st->n_header % 8) % 8 + skew;
    unsigned char *file = kit_st_file(st->header, pad, st->data, st->n_data, size);
    free(st->header);
    free(st->data);
    *st = (kit_st){0};
    return file;
}

/* ---- folders ---- */

typedef struct kit_folder {
    char path[64];
} kit_folder;

static inline kit_folder kit_folder_make(void) {
    kit_folder folder = {"/tmp/picochat-hf-XXXXXX"};
    assert_non_null(mkdtemp(folder.path));
    return folder;
}

static inline const char *kit_in(const kit_folder *folder, const char *name) {
    static char path[4][512];
    static int next;
    char *out = path[next++ % 4];
    (void)snprintf(out, sizeof path[0], "%s/%s", folder->path, name);
    return out;
}

static inline void kit_write(const kit_folder *folder, const char *name, const void *data,
                             size_t n) {
    FILE *file = fopen(kit_in(folder, name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static inline void kit_write_text(const kit_folder *folder, const char *name, const char *text) {
    kit_write(folder, name, text, strlen(text));
}

/* Removes the folder with the plain files in it. */
static inline void kit_folder_remove(const kit_folder *folder) {
    static const char *const names[] = {"config.json",
                                        "generation_config.json",
                                        "model.safetensors",
                                        "tokenizer.json",
                                        "model.safetensors.index.json",
                                        "tokenizer_config.json",
                                        "vocab.json",
                                        "model-00001-of-00002.safetensors",
                                        "merges.txt",
                                        "encoder.json",
                                        "model-00002-of-00002.safetensors",
                                        "vocab.bpe",
                                        "chat_template.jinja",
                                        "tokenizer.model",
                                        "pytorch_model.bin"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        (void)unlink(kit_in(folder, names[i]));
    }
    assert_int_equal(rmdir(folder->path), 0);
}

/* ---- models ---- */

enum { KIT_F32, KIT_F16, KIT_BF16 };

/* F32 values as another type; malloc-ed. The values of the tests are exact in all of them. */
static inline void *kit_values(const float *from, size_t n, int type, const char **name,
                               size_t *bytes) {
    static const char *const names[] = {"F32", "F16", "BF16"};
    unsigned char *out = malloc(4 * n + 1);
    assert_non_null(out);
    for (size_t i = 0; i < n; i++) {
        uint16_t h = type == KIT_F16 ? pico_f16_of_f32(from[i]) : pico_bf16_of_f32(from[i]);
        if (type == KIT_F32) {
            memcpy(out + 4 * i, &from[i], 4);
        } else {
            memcpy(out + 2 * i, &h, 2);
        }
    }
    *name = names[type];
    *bytes = n * (type == KIT_F32 ? 4 : 2);
    return out;
}

static inline void kit_add_floats(kit_st *st, const char *name, uint32_t rank, const int64_t *shape,
                                  const float *from, int type) {
    const char *type_name;
    size_t bytes, n = (size_t)(shape[0] * (rank == 2 ? shape[1] : 1));
    void *values = kit_values(from, n, type, &type_name, &bytes);
    kit_st_add(st, name, type_name, rank, shape, values, bytes);
    free(values);
}

/* The rows of Q or K with the halves of every head apart. */
static inline float *kit_halves(const float *from, int64_t rows, int64_t cols, int64_t head_dim) {
    float *out = malloc((size_t)(rows * cols) * sizeof *out);
    assert_non_null(out);
    for (int64_t head = 0; head < rows / head_dim; head++) {
        for (int64_t pair = 0; pair < head_dim / 2; pair++) {
            for (int64_t half = 0; half < 2; half++) {
                memcpy(out + (head * head_dim + half * head_dim / 2 + pair) * cols,
                       from + (head * head_dim + 2 * pair + half) * cols,
                       (size_t)cols * sizeof *out);
            }
        }
    }
    return out;
}

/* Adds a tensor of a Llama in memory as Hugging Face has it. */
static inline void kit_add_llama(kit_st *st, const pico_model_file *model,
                                 const pico_file_tensor *t, const char *prefix, int type) {
    static const char *const names[][2] = {
        {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
        {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
        {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
        {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
        {"ffn_down", "mlp.down_proj"}};
    char name[160] = "", what[32] = "", ending[16] = "";
    int layer = -1;
    if (sscanf(t->name, "blk.%d.%31[a-z_].%15s", &layer, what, ending) == 3) {
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            if (strcmp(names[i][0], what) == 0) {
                (void)snprintf(name, sizeof name, "%slayers.%d.%s.%s", prefix, layer, names[i][1],
                               ending);
            }
        }
    } else if (strcmp(t->name, "output.weight") == 0) {
        (void)snprintf(name, sizeof name, "lm_head.weight");
    } else {
        (void)snprintf(name, sizeof name, "%s%s", prefix,
                       strcmp(t->name, "output_norm.weight") == 0 ? "norm.weight"
                                                                  : "embed_tokens.weight");
    }
    int turned = strcmp(what, "attn_q") == 0 || strcmp(what, "attn_k") == 0;
    int64_t rows = t->shape[0], cols = t->rank == 2 ? t->shape[1] : 1;
    float *other =
        turned ? kit_halves(t->data.codes, rows, cols, model->desc.layer[0].head_dim) : NULL;
    kit_add_floats(st, name, t->rank, t->shape, turned ? other : t->data.codes, type);
    free(other);
}

/* config.json of a Llama; extra: further members, beginning with a comma. */
static inline const char *kit_llama_config(const pico_model_desc *d, const char *extra) {
    static char text[2048];
    (void)snprintf(text, sizeof text,
                   "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\","
                   "\"hidden_size\":%u,\"intermediate_size\":%u,\"num_hidden_layers\":%u,"
                   "\"num_attention_heads\":%u,\"num_key_value_heads\":%u,\"vocab_size\":%u,"
                   "\"max_position_embeddings\":%u,\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,"
                   "\"hidden_act\":\"silu\"%s}",
                   d->n_embd, d->layer[0].n_ff, d->n_layer, d->layer[0].n_head,
                   d->layer[0].n_kv_head, d->n_vocab, d->n_ctx_train, extra);
    return text;
}

#endif
