/* layers: formats */
/* GGUF: damaged, contradictory and hostile files are refused, with a message that says what is wrong. */
#include "formats_support.h"

#include "formats/gguf.h"

/* ---- files made here, key by key and tensor by tensor ---- */

typedef struct image {
    pico_gguf_build keys, infos;
    uint64_t n_info, data_bytes;
    uint32_t version;
    int has_counts; /* 1: the counts below replace the true ones */
    uint64_t n_tensor, n_key;
    const char *skip; /* tensor that is left out */
} image;

static void put_info(image *in, const char *name, uint32_t rank, const uint64_t *ne, uint32_t type,
                     uint64_t offset) {
    pico_gguf_put_string(&in->infos, name, strlen(name));
    pico_gguf_put_u32(&in->infos, rank);
    for (uint32_t i = 0; i < rank; i++) {
        pico_gguf_put_u64(&in->infos, ne[i]);
    }
    pico_gguf_put_u32(&in->infos, type);
    pico_gguf_put_u64(&in->infos, offset);
    in->n_info++;
}

/* A tensor of zeros after the others. */
static void put_f32(image *in, const char *name, uint64_t rows, uint64_t cols) {
    const uint64_t ne[2] = {cols, rows};
    put_info(in, name, rows == 0 ? 1 : 2, ne, PICO_GGML_F32, in->data_bytes);
    in->data_bytes += ((rows == 0 ? 1 : rows) * cols * 4 + 31) / 32 * 32;
}

static pico_status put_expected(void *arg, const pico_expected *e) {
    image *in = arg;
    if (in->skip == NULL || strcmp(in->skip, e->name) != 0) {
        put_f32(in, e->name, e->rank == 1 ? 0 : (uint64_t)e->shape[0],
                (uint64_t)e->shape[e->rank - 1]);
    }
    return PICO_OK;
}

static void put_tensors(image *in) {
    pico_layer_desc layer[2];
    pico_model_desc desc = small_llama(layer, 2);
    assert_int_equal(pico_expect_each(&desc, put_expected, in), PICO_OK);
}

static void put_llama_keys(image *in) {
    pico_layer_desc layer[2];
    pico_model_desc desc = small_llama(layer, 2);
    in->version = 3;
    pico_gguf_key_text(&in->keys, "general.", "architecture", "llama");
    pico_gguf_write_desc(&in->keys, &desc);
}

static void put_vocab(image *in, const char *model, const char *first, uint32_t n_type) {
    pico_gguf_key_text(&in->keys, "tokenizer.ggml.", "model", model);
    pico_gguf_key_array(&in->keys, "tokenizer.ggml.", "tokens", PICO_GGUF_STRING, 48);
    for (int i = 0; i < 48; i++) {
        pico_gguf_put_string(&in->keys, i == 0 ? first : "x", i == 0 ? strlen(first) : 1);
    }
    pico_gguf_key_array(&in->keys, "tokenizer.ggml.", "scores", PICO_GGUF_F32, 48);
    for (int i = 0; i < 48; i++) {
        pico_gguf_put_u32(&in->keys, 0);
    }
    pico_gguf_key_array(&in->keys, "tokenizer.ggml.", "token_type", PICO_GGUF_I32, n_type);
    for (uint32_t i = 0; i < n_type; i++) {
        pico_gguf_put_u32(&in->keys, i == 0 ? PICO_PIECE_BYTE : PICO_PIECE_NORMAL);
    }
}

/* The bytes of the file (malloc-ed); *header gets where the data begins. */
static unsigned char *finish(image *in, size_t *size, size_t *header) {
    pico_gguf_build out = {0};
    static const unsigned char zeros[64];
    pico_gguf_put(&out, "GGUF", 4);
    pico_gguf_put_u32(&out, in->version);
    pico_gguf_put_u64(&out, in->has_counts ? in->n_tensor : in->n_info);
    pico_gguf_put_u64(&out, in->has_counts ? in->n_key : in->keys.n_value);
    pico_gguf_put(&out, in->keys.data, in->keys.size);
    pico_gguf_put(&out, in->infos.data, in->infos.size);
    pico_gguf_put(&out, zeros, (32 - out.size % 32) % 32);
    *header = out.size;
    for (uint64_t i = 0; i < in->data_bytes; i += 32) {
        pico_gguf_put(&out, zeros, 32);
    }
    assert_false(out.failed || in->keys.failed || in->infos.failed);
    free(in->keys.data);
    free(in->infos.data);
    *size = out.size;
    return out.data;
}

/* ---- hostile files: how each is made, and what the message must contain ---- */

typedef struct hostile_case {
    void (*make)(image *in);
    pico_status status;
    const char *says;
} hostile_case;

static void version_1(image *in) {
    in->version = 1;
}
static void version_4(image *in) {
    in->version = 4;
}
static void big_endian(image *in) {
    in->version = 3u << 24;
}
static void many_keys(image *in) {
    in->has_counts = 1;
    in->n_key = UINT64_MAX;
}
static void many_tensors(image *in) {
    in->has_counts = 1;
    in->n_key = in->keys.n_value;
    in->n_tensor = (uint64_t)1 << 60;
}
static void empty_key(image *in) {
    pico_gguf_key_u32(&in->keys, "", "", 1);
}
static void binary_key(image *in) {
    pico_gguf_key_u32(&in->keys, "general.", "a\nb", 1);
}
static void duplicate_key(image *in) {
    pico_gguf_key_u32(&in->keys, "llama.", "block_count", 2);
}
static void nested_array(image *in) {
    pico_gguf_key_array(&in->keys, "general.", "nested", PICO_GGUF_ARRAY, 1);
    pico_gguf_put_u32(&in->keys, PICO_GGUF_U8);
    pico_gguf_put_u64(&in->keys, 1);
}
static void overflowing_array(image *in) {
    pico_gguf_key_array(&in->keys, "general.", "big", PICO_GGUF_U64, ((uint64_t)1 << 61) + 1);
}
static void long_array(image *in) {
    pico_gguf_key_array(&in->keys, "general.", "big", PICO_GGUF_U8, (uint64_t)1 << 40);
}
static void many_strings(image *in) {
    pico_gguf_key_array(&in->keys, "general.", "big", PICO_GGUF_STRING, (uint64_t)1 << 60);
}
static void long_string(image *in) {
    pico_gguf_key(&in->keys, "general.", "big", PICO_GGUF_STRING);
    pico_gguf_put_u64(&in->keys, UINT64_MAX - 3);
}
static void unknown_type(image *in) {
    pico_gguf_key(&in->keys, "general.", "odd", 13);
}
static void odd_bool(image *in) {
    pico_gguf_key(&in->keys, "general.", "odd", PICO_GGUF_BOOL);
    pico_gguf_put(&in->keys, "\2", 1);
}
static void alignment_24(image *in) {
    pico_gguf_key_u32(&in->keys, "general.", "alignment", 24);
}
static void alignment_0(image *in) {
    pico_gguf_key_u32(&in->keys, "general.", "alignment", 0);
}
static void alignment_large(image *in) {
    pico_gguf_key_u32(&in->keys, "general.", "alignment", 1u << 21);
}
static void alignment_text(image *in) {
    pico_gguf_key_text(&in->keys, "general.", "alignment", "32");
}
static void split_file(image *in) {
    pico_gguf_key_u32(&in->keys, "split.", "count", 2);
}
static void scaled_rope(image *in) {
    pico_gguf_key_text(&in->keys, "llama.", "rope.scaling.type", "yarn");
}
static void experts(image *in) {
    pico_gguf_key_u32(&in->keys, "llama.", "expert_count", 8);
}
static void unknown_key(image *in) {
    pico_gguf_key_u32(&in->keys, "llama.", "logit_scale", 1);
}
static void other_value_length(image *in) {
    in->keys.size -= 4; /* the last key is attention.value_length */
    pico_gguf_put_u32(&in->keys, 16);
}
static void rank_0(image *in) {
    put_info(in, "odd", 0, NULL, 0, in->data_bytes);
}
static void rank_5(image *in) {
    const uint64_t ne[5] = {1, 1, 1, 1, 1};
    put_info(in, "odd", 5, ne, 0, in->data_bytes);
}
static void zero_dimension(image *in) {
    const uint64_t ne[2] = {32, 0};
    put_info(in, "odd", 2, ne, 0, in->data_bytes);
}
static void negative_dimension(image *in) {
    const uint64_t ne[2] = {32, UINT64_MAX};
    put_info(in, "odd", 2, ne, 0, in->data_bytes);
}
static void product_wraps(image *in) {
    const uint64_t ne[4] = {1, (uint64_t)1 << 32, (uint64_t)1 << 31, 2};
    put_info(in, "odd", 4, ne, 0, in->data_bytes);
}
static void bytes_wrap(image *in) {
    const uint64_t ne[2] = {(uint64_t)1 << 32, (uint64_t)1 << 30};
    put_info(in, "odd", 2, ne, 0, in->data_bytes);
}
static void q4_1_tensor(image *in) {
    const uint64_t ne[1] = {32};
    put_info(in, "odd", 1, ne, 3, in->data_bytes);
}
static void ragged_q8_0(image *in) {
    const uint64_t ne[1] = {33};
    put_info(in, "odd", 1, ne, PICO_GGML_Q8_0, in->data_bytes);
}
static void odd_offset(image *in) {
    const uint64_t ne[1] = {1};
    put_info(in, "odd", 1, ne, 0, in->data_bytes + 4);
}
static void far_offset(image *in) {
    const uint64_t ne[1] = {8};
    put_info(in, "odd", 1, ne, 0, in->data_bytes);
}
static void wrapping_offset(image *in) {
    const uint64_t ne[1] = {8};
    put_info(in, "odd", 1, ne, 0, UINT64_MAX - 31);
}
static void overlap(image *in) {
    const uint64_t ne[1] = {8};
    put_info(in, "odd", 1, ne, 0, 32);
}
static void duplicate_tensor(image *in) {
    put_f32(in, "output_norm.weight", 0, 32);
}
static void left_over(image *in) {
    put_f32(in, "blk.2.attn_q.weight", 32, 32);
}
static void rope_freqs(image *in) {
    put_f32(in, "rope_freqs.weight", 0, 4);
}
static void orphan_scales(image *in) {
    put_f32(in, "odd.scales", 0, 4);
}
static void plain_i8(image *in) {
    const uint64_t ne[1] = {32};
    put_info(in, "odd", 1, ne, PICO_GGML_I8, in->data_bytes);
    in->data_bytes += 32;
}
static void codes_without_keys(image *in) {
    const uint64_t ne[1] = {32};
    put_info(in, "odd.codes", 1, ne, PICO_GGML_I8, in->data_bytes);
    in->data_bytes += 32;
}
static void codes_without_scales(image *in) {
    codes_without_keys(in);
    pico_gguf_key_text(&in->keys, "picochat.quant.", "odd.layout", "i8");
    pico_gguf_key_u32(&in->keys, "picochat.quant.", "odd.group", 8);
}
static void wrong_scales(image *in) {
    codes_without_scales(in);
    put_f32(in, "odd.scales", 0, 5);
}
static void long_group(image *in) {
    codes_without_keys(in);
    pico_gguf_key_text(&in->keys, "picochat.quant.", "odd.layout", "i8");
    pico_gguf_key_u32(&in->keys, "picochat.quant.", "odd.group", 33);
}
static void odd_input(image *in) {
    pico_gguf_key_text(&in->keys, "picochat.quant.", "output_norm.weight.input", "column");
}
static void rounded_float(image *in) {
    pico_gguf_key_text(&in->keys, "picochat.quant.", "output.weight.input", "row");
}
static void input_of_nothing(image *in) {
    pico_gguf_key_text(&in->keys, "picochat.quant.", "odd.input", "row");
}
static void input_as_number(image *in) {
    pico_gguf_key_u32(&in->keys, "picochat.quant.", "output.weight.input", 1);
}
static void grouped_input_of_one_scale(image *in) {
    codes_without_keys(in);
    pico_gguf_key_text(&in->keys, "picochat.quant.", "odd.layout", "i8");
    pico_gguf_key_u32(&in->keys, "picochat.quant.", "odd.group", 0);
    pico_gguf_key_text(&in->keys, "picochat.quant.", "odd.input", "group");
    put_f32(in, "odd.scales", 0, 1);
}
static void outlier_twice(image *in) {
    const uint64_t ne[1] = {2};
    put_info(in, "output.weight.outlier_col", 1, ne, PICO_GGML_I32, in->data_bytes);
    in->data_bytes += 32; /* all 0 */
}
static void many_outliers(image *in) {
    const uint64_t ne[1] = {33};
    put_info(in, "output.weight.outlier_col", 1, ne, PICO_GGML_I32, in->data_bytes);
    in->data_bytes += 160;
}
static void outliers_without_values(image *in) {
    const uint64_t ne[1] = {1};
    put_info(in, "output.weight.outlier_col", 1, ne, PICO_GGML_I32, in->data_bytes);
    in->data_bytes += 32;
}
static void few_outlier_values(image *in) {
    const uint64_t ne[1] = {47}; /* of 48 rows */
    outliers_without_values(in);
    put_info(in, "output.weight.outlier_value", 1, ne, PICO_GGML_F16, in->data_bytes);
    in->data_bytes += 96;
}
static void bad_permutation(image *in) {
    const uint64_t ne[1] = {32};
    put_info(in, "output_norm.weight.input_perm", 1, ne, PICO_GGML_I32, in->data_bytes);
    in->data_bytes += 128; /* all 0 */
}
static void zero_input_scale(image *in) {
    put_f32(in, "output_norm.weight.input_scale", 0, 32);
}
static void other_tokenizer(image *in) {
    put_vocab(in, "bert", "a", 48);
}
static void short_types(image *in) {
    put_vocab(in, "llama", "a", 47);
}
static void bad_byte_piece(image *in) {
    put_vocab(in, "llama", "<0xG0>", 48);
}
static void id_too_large(image *in) {
    put_vocab(in, "llama", "<0x00>", 48);
    pico_gguf_key_u32(&in->keys, "tokenizer.ggml.", "eos_token_id", 48);
}
static void no_merges(image *in) {
    put_vocab(in, "gpt2", "a", 48);
}
static void nul_in_template(image *in) {
    put_vocab(in, "llama", "<0x00>", 48);
    pico_gguf_key(&in->keys, "tokenizer.", "chat_template", PICO_GGUF_STRING);
    pico_gguf_put_string(&in->keys, "a\0b", 3);
}

static const hostile_case cases[] = {
    {version_1, PICO_E_UNSUPPORTED, "version 1"},
    {version_4, PICO_E_UNSUPPORTED, "version is 4, expected 2 or 3"},
    {big_endian, PICO_E_UNSUPPORTED, "big-endian"},
    {many_keys, PICO_E_CORRUPT, "promises 18446744073709551615 keys"},
    {many_tensors, PICO_E_CORRUPT, "promises 1152921504606846976 tensors"},
    {empty_key, PICO_E_CORRUPT, "a key at offset"},
    {binary_key, PICO_E_CORRUPT, "byte 0x0a"},
    {duplicate_key, PICO_E_CORRUPT, "llama.block_count exists twice"},
    {nested_array, PICO_E_UNSUPPORTED, "general.nested: arrays of arrays"},
    {overflowing_array, PICO_E_CORRUPT, "general.big: 2305843009213693953 elements"},
    {long_array, PICO_E_CORRUPT, "the value of key general.big at offset"},
    {many_strings, PICO_E_CORRUPT, "a string of key general.big at offset"},
    {long_string, PICO_E_CORRUPT, "a string of key general.big at offset"},
    {unknown_type, PICO_E_CORRUPT, "general.odd has value type 13"},
    {odd_bool, PICO_E_CORRUPT, "general.odd: a bool is stored as 2"},
    {alignment_24, PICO_E_CORRUPT, "general.alignment is 24, expected a power of two"},
    {alignment_0, PICO_E_CORRUPT, "general.alignment is 0"},
    {alignment_large, PICO_E_CORRUPT, "general.alignment is 2097152"},
    {alignment_text, PICO_E_CORRUPT, "general.alignment has type string, expected an integer"},
    {split_file, PICO_E_UNSUPPORTED, "split into 2 files"},
    {scaled_rope, PICO_E_UNSUPPORTED, "llama.rope.scaling.type is \"yarn\""},
    {experts, PICO_E_UNSUPPORTED, "llama.expert_count is 8"},
    {unknown_key, PICO_E_UNSUPPORTED, "key llama.logit_scale is not understood"},
    {other_value_length, PICO_E_CORRUPT, "llama.attention.value_length is 16"},
    {rank_0, PICO_E_CORRUPT, "tensor odd has 0 dimensions"},
    {rank_5, PICO_E_CORRUPT, "tensor odd has 5 dimensions"},
    {zero_dimension, PICO_E_CORRUPT, "tensor odd: dimension 1 is 0"},
    {negative_dimension, PICO_E_CORRUPT, "tensor odd: dimension 1"},
    {product_wraps, PICO_E_CORRUPT, "tensor odd: the product"},
    {bytes_wrap, PICO_E_CORRUPT, "tensor odd: "},
    {q4_1_tensor, PICO_E_UNSUPPORTED, "tensor odd has type Q4_1 (3)"},
    {ragged_q8_0, PICO_E_CORRUPT, "33 columns are not possible in Q8_0"},
    {odd_offset, PICO_E_CORRUPT, "tensor odd: offset"},
    {far_offset, PICO_E_CORRUPT, "tensor odd: 32 bytes at offset"},
    {wrapping_offset, PICO_E_CORRUPT, "tensor odd: 32 bytes at offset 18446744073709551584"},
    {overlap, PICO_E_CORRUPT, "tensors token_embd.weight and odd overlap"},
    {duplicate_tensor, PICO_E_CORRUPT, "tensor output_norm.weight exists twice"},
    {left_over, PICO_E_CORRUPT, "tensor blk.2.attn_q.weight (32, 32) belongs to nothing"},
    {rope_freqs, PICO_E_CORRUPT, "tensor rope_freqs.weight (4) belongs to nothing"},
    {orphan_scales, PICO_E_CORRUPT, "tensor odd.scales is left over"},
    {plain_i8, PICO_E_CORRUPT, "tensor odd has type I8"},
    {codes_without_keys, PICO_E_CORRUPT, "key picochat.quant.odd.layout is missing"},
    {codes_without_scales, PICO_E_CORRUPT, "tensor odd.scales is missing"},
    {wrong_scales, PICO_E_CORRUPT, "tensor odd.scales has 1 x 5 values of type F32, expected 4"},
    {long_group, PICO_E_CORRUPT, "picochat.quant.odd.group is 33"},
    {odd_input, PICO_E_CORRUPT, "output_norm.weight.input is \"column\""},
    {rounded_float, PICO_E_CORRUPT, "output.weight.input is \"row\"; a weight of type F32"},
    {input_of_nothing, PICO_E_UNSUPPORTED, "picochat.quant.odd.input is not understood"},
    {input_as_number, PICO_E_CORRUPT, "output.weight.input has type u32, expected a string"},
    {grouped_input_of_one_scale, PICO_E_CORRUPT, "I8 with one scale can have auto or float, row"},
    {outlier_twice, PICO_E_CORRUPT, "output.weight.outlier_col: expected different columns"},
    {many_outliers, PICO_E_CORRUPT, "outlier_col lists 33 columns, the matrix has 32"},
    {outliers_without_values, PICO_E_CORRUPT, "output.weight.outlier_value is missing"},
    {few_outlier_values, PICO_E_CORRUPT, "outlier_value has 1 x 47 values of type F16"},
    {bad_permutation, PICO_E_CORRUPT, "output_norm.weight.input_perm: 0 at 1"},
    {zero_input_scale, PICO_E_CORRUPT, "output_norm.weight.input_scale: value 0 is 0"},
    {other_tokenizer, PICO_E_UNSUPPORTED, "tokenizer.ggml.model is \"bert\""},
    {short_types, PICO_E_CORRUPT, "token_type has 47 elements, expected 48"},
    {bad_byte_piece, PICO_E_CORRUPT, "byte token 0 is not written <0xNN>"},
    {id_too_large, PICO_E_CORRUPT, "eos_token_id is 48, but the vocabulary has 48 tokens"},
    {no_merges, PICO_E_CORRUPT, "key tokenizer.ggml.merges is missing"},
    {nul_in_template, PICO_E_CORRUPT, "tokenizer.chat_template: the text contains a NUL"},
};

static void check_image(image *in, pico_status status, const char *says) {
    pico_error err = {0};
    size_t size, header;
    unsigned char *data = finish(in, &size, &header);
    pico_status found = parse_bytes(data, size, &err);
    free(data);
    if (found != status || (says != NULL && strstr(err.message, says) == NULL)) {
        fail_msg("status %d, expected %d with \"%s\"; found: %s", found, status,
                 says == NULL ? "" : says, err.message);
    }
}

static void hostile_files_are_refused(void **state) {
    (void)state;
    image good = {0};
    put_llama_keys(&good);
    put_tensors(&good);
    check_image(&good, PICO_OK, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        image in = {0};
        put_llama_keys(&in);
        put_tensors(&in);
        cases[i].make(&in);
        check_image(&in, cases[i].status, cases[i].says);
    }
}

/* A model whose draft head shares the output and knows four tokens, as a file. *at: where the ids lie. */
static char *draft_file(uint64_t *n, char **shared, char **ids) {
    static const int32_t known[4] = {1, 7, 30, 47};
    const char *const names[2] = {"picochat.draft.shared_output", "picochat.draft.vocab"};
    pico_layer_desc layer[2];
    pico_model_desc d = small_llama(layer, 2);
    pico_error err = {0};
    char *path = temporary_path(), *data = NULL, *found[2] = {NULL, NULL};
    d.n_draft = 2;
    d.draft_hidden = 6;
    d.draft_flags = PICO_DRAFT_SHARED_OUTPUT;
    d.n_draft_vocab = 4;
    d.draft_vocab = known;
    pico_model_file *file = model_in_memory(&d);
    assert_int_equal(pico_gguf_write(file, path, &err), PICO_OK);
    assert_int_equal(pico_file_read(path, 1 << 24, &data, n, &err), PICO_OK);
    pico_model_file_close(file);
    (void)unlink(path);
    free(path);
    for (uint64_t i = 0; i + 32 < *n; i++) {
        for (int k = 0; k < 2; k++) {
            if (memcmp(data + i, names[k], strlen(names[k])) == 0) {
                found[k] = data + i + strlen(names[k]);
            }
        }
    }
    assert_true(found[0] != NULL && found[1] != NULL);
    *shared = found[0] + 4; /* behind the type */
    *ids = found[1] + 16;   /* behind the types and the number */
    return data;
}

/* Draft vocabularies that do not ascend, name tokens that do not exist or are no integers, and heads
 * whose matrix has the shape of the other form. */
static void wrong_draft_heads(void **state) {
    (void)state;
    const struct {
        int32_t at, value; /* element of the ids, -1: the flag, -2: the type of the ids */
        const char *says;
    } cases_of_draft[] = {
        {2, 48, "key picochat.draft.vocab: element 2 is 48, expected 0 to 47"},
        {0, -1, "key picochat.draft.vocab: element 0 is -1, expected 0 to 47"},
        {2, 7, "token 2 of the draft head's vocabulary has id 7, expected 8 to 47"},
        {-1, 0, "vocabulary size of the draft head is 4, expected 0 to 0"},
        {-2, PICO_GGUF_F32, "key picochat.draft.vocab has type"},
    };
    for (size_t i = 0; i < sizeof cases_of_draft / sizeof *cases_of_draft; i++) {
        uint64_t n;
        char *shared, *ids, *data = draft_file(&n, &shared, &ids);
        pico_error err = {0};
        assert_int_equal(parse_bytes((unsigned char *)data, n, &err), PICO_OK);
        const int32_t at = cases_of_draft[i].at, value = cases_of_draft[i].value;
        if (at == -1) {
            *shared = (char)value;
        } else {
            memcpy(at == -2 ? ids - 12 : ids + 4 * at, &value, sizeof value);
        }
        assert_int_equal(parse_bytes((unsigned char *)data, n, &err), PICO_E_CORRUPT);
        if (strstr(err.message, cases_of_draft[i].says) == NULL) {
            fail_msg("\"%s\" does not say \"%s\"", err.message, cases_of_draft[i].says);
        }
        free(data);
    }
    pico_layer_desc layer[2];
    pico_model_desc d = small_llama(layer, 2);
    pico_error err = {0};
    d.n_draft = 2;
    d.draft_hidden = 6;
    pico_model_file *file = model_in_memory(&d);
    file->desc.draft_flags = PICO_DRAFT_SHARED_OUTPUT;
    assert_int_equal(pico_expect_match(file, &err), PICO_E_CORRUPT);
    assert_non_null(
        strstr(err.message, "tensor draft_fc2.weight has shape (96, 6), expected (64, 6)"));
    pico_model_file_close(file);
}

/* Hyper-parameters that are missing, of another type, out of range or against the tensors. */
static void wrong_hyper_parameters(void **state) {
    (void)state;
    static const struct {
        const char *key;
        uint32_t type;
        uint32_t value;
        const char *says;
    } keys[] = {
        {"block_count", 0, 0, "key llama.block_count is missing"},
        {"block_count", PICO_GGUF_F32, 2, "llama.block_count has type f32, expected an integer"},
        {"block_count", PICO_GGUF_U32, 0, "llama.block_count is 0"},
        {"block_count", PICO_GGUF_U32, 1025, "llama.block_count is 1025"},
        {"block_count", PICO_GGUF_I32, UINT32_MAX, "llama.block_count is -1"},
        {"block_count", PICO_GGUF_U32, 3, "tensor blk.2.attn_norm.weight of shape (32) is missing"},
        {"embedding_length", PICO_GGUF_U32, 64,
         "tensor token_embd.weight has shape (48, 32), expected (48, 64)"},
        {"attention.head_count", PICO_GGUF_U32, 3, "3 heads cannot share 2 KV heads"},
        {"attention.head_count", PICO_GGUF_U32, 8,
         "tensor blk.0.attn_q.weight has shape (32, 32), expected (64, 32)"},
        {"feed_forward_length", PICO_GGUF_U32, UINT32_MAX, "feed-forward width is 4294967295"},
        {"vocab_size", PICO_GGUF_U32, 49, "llama.vocab_size is 49, but token_embd.weight has 48"},
        {"rope.dimension_count", PICO_GGUF_U32, 9, "rope turns 9"},
        {"rope.freq_base", PICO_GGUF_F32, 0x7f800000, "rope base is inf"},
        {"attention.layer_norm_rms_epsilon", PICO_GGUF_U32, 1, "has type u32, expected a float"},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        image in = {.version = 3};
        pico_layer_desc layer[2];
        pico_model_desc desc = small_llama(layer, 2);
        /* The standard keys, with one of them replaced or left out. */
        const struct {
            const char *name;
            uint32_t type, value;
        } standard[] = {
            {"block_count", PICO_GGUF_U32, desc.n_layer},
            {"context_length", PICO_GGUF_U32, desc.n_ctx_train},
            {"embedding_length", PICO_GGUF_U32, desc.n_embd},
            {"vocab_size", PICO_GGUF_U32, desc.n_vocab},
            {"feed_forward_length", PICO_GGUF_U32, 64},
            {"attention.head_count", PICO_GGUF_U32, 4},
            {"attention.head_count_kv", PICO_GGUF_U32, 2},
            {"attention.key_length", PICO_GGUF_U32, 8},
            {"attention.layer_norm_rms_epsilon", PICO_GGUF_F32, 0x3727c5ac},
            {"rope.dimension_count", PICO_GGUF_U32, 8},
            {"rope.freq_base", PICO_GGUF_F32, 0x461c4000},
        };
        pico_gguf_key_text(&in.keys, "general.", "architecture", "llama");
        for (size_t j = 0; j < sizeof standard / sizeof *standard; j++) {
            int replaced = strcmp(standard[j].name, keys[i].key) == 0;
            uint32_t type = replaced ? keys[i].type : standard[j].type;
            if (type != 0) {
                pico_gguf_key(&in.keys, "llama.", standard[j].name, type);
                pico_gguf_put_u32(&in.keys, replaced ? keys[i].value : standard[j].value);
            }
        }
        put_tensors(&in);
        check_image(&in, PICO_E_CORRUPT, keys[i].says);
    }
}

static void missing_and_foreign(void **state) {
    (void)state;
    image in = {.skip = "blk.1.ffn_up.weight"};
    put_llama_keys(&in);
    put_tensors(&in);
    check_image(&in, PICO_E_CORRUPT, "tensor blk.1.ffn_up.weight of shape (64, 32) is missing");
    in = (image){.skip = "output.weight"}; /* a tied head */
    put_llama_keys(&in);
    put_tensors(&in);
    check_image(&in, PICO_OK, NULL);
    in = (image){.skip = "token_embd.weight"};
    put_llama_keys(&in);
    put_tensors(&in);
    check_image(&in, PICO_E_CORRUPT, "token_embd.weight is missing");
    in = (image){.version = 3};
    pico_gguf_key_text(&in.keys, "general.", "architecture", "falcon");
    put_tensors(&in);
    check_image(&in, PICO_E_UNSUPPORTED, "architecture is \"falcon\"");
    in = (image){.version = 3};
    check_image(&in, PICO_E_CORRUPT, "neither tensors nor a tokenizer");
    in = (image){0};
    put_llama_keys(&in);
    put_vocab(&in, "llama", "<0x00>", 48);
    put_tensors(&in);
    in.version = 2; /* the same layout as version 3 */
    check_image(&in, PICO_OK, NULL);
}

/* ---- damage ---- */

static unsigned char *damaged_base(size_t *size, size_t *header) {
    image in = {0};
    put_llama_keys(&in);
    put_vocab(&in, "llama", "<0x00>", 48);
    put_tensors(&in);
    return finish(&in, size, header);
}

/* A file cut anywhere is refused: nothing of it is optional. */
static void truncated_files_are_refused(void **state) {
    (void)state;
    size_t size, header;
    unsigned char *data = damaged_base(&size, &header);
    for (size_t n = 0; n < size; n += n < header + 64 ? 1 : 997) {
        pico_error err = {0};
        assert_int_not_equal(parse_bytes(data, n, &err), PICO_OK);
        assert_true(err.message[0] != '\0');
    }
    free(data);
}

/* Every bit of the header flipped: an error, or a model that is consistent. */
static void flipped_bits_do_no_harm(void **state) {
    (void)state;
    size_t size, header;
    unsigned char *data = damaged_base(&size, &header);
    for (size_t bit = 0; bit < 8 * header; bit++) {
        data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        (void)parse_bytes(data, size, NULL);
        data[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    assert_int_equal(parse_bytes(data, size, NULL), PICO_OK);
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_files_are_refused),   cmocka_unit_test(wrong_draft_heads),
        cmocka_unit_test(wrong_hyper_parameters),      cmocka_unit_test(missing_and_foreign),
        cmocka_unit_test(truncated_files_are_refused), cmocka_unit_test(flipped_bits_do_no_harm),
    };
    return cmocka_run_group_tests_name("gguf hostile", tests, NULL, NULL);
}
