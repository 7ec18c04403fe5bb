/* layers: formats */
/*
 * GPT-2 as a Hugging Face folder: the fixture against an independent reading of its file, element by
 * element, and after a conversion to GGUF; the same tensors under other names, in other types, with
 * a head; configurations that are computed, and those that are refused by name.
 */
#include "hf_kit.h"

#define FIXTURE PICO_SOURCE_DIR "/tests/golden/gpt2"

/* ---- the fixture ---- */

typedef struct fixture {
    pico_map map;
    json_t *header;
    const unsigned char *data;
} fixture;

static fixture fixture_open(void) {
    fixture f = {0};
    uint64_t n;
    assert_int_equal(pico_map_open(FIXTURE "/model.safetensors", &f.map, NULL), PICO_OK);
    memcpy(&n, f.map.data, sizeof n);
    f.header = json_loadb((const char *)f.map.data + 8, (size_t)n, 0, NULL);
    assert_non_null(f.header);
    f.data = f.map.data + 8 + n;
    return f;
}

static float fixture_value(const fixture *f, const char *name, int64_t index) {
    float x;
    const json_t *offsets = json_object_get(json_object_get(f->header, name), "data_offsets");
    assert_non_null(offsets);
    memcpy(&x, f->data + json_integer_value(json_array_get(offsets, 0)) + 4 * index, sizeof x);
    return x;
}

/* Element (row, col) of a canonical tensor is element row * stride_row + col * stride_col + first
 * of the file's. */
static void check_elements(const fixture *f, const pico_model_file *file, const char *canonical,
                           const char *name, int64_t stride_row, int64_t stride_col,
                           int64_t first) {
    const pico_file_tensor *t = pico_model_file_find(file, canonical);
    assert_non_null(t);
    assert_int_equal(t->data.dtype, PICO_DTYPE_F32);
    float *row = malloc((size_t)t->data.cols * sizeof *row);
    for (int64_t i = 0; i < t->data.rows; i++) {
        pico_weight_row_f32(&t->data, i, row);
        for (int64_t j = 0; j < t->data.cols; j++) {
            float want = fixture_value(f, name, i * stride_row + j * stride_col + first);
            assert_memory_equal(&row[j], &want, sizeof want);
        }
    }
    free(row);
}

static void fixture_element_by_element(void **state) {
    (void)state;
    enum { C = 64, FF = 256 };
    static const struct {
        const char *canonical, *name;
        int64_t stride_row, stride_col, first;
    } layers[] = {
        {"attn_norm.weight", "ln_1.weight", 0, 1, 0},
        {"attn_norm.bias", "ln_1.bias", 0, 1, 0},
        {"attn_q.weight", "attn.c_attn.weight", 1, 3 * C, 0},
        {"attn_k.weight", "attn.c_attn.weight", 1, 3 * C, C},
        {"attn_v.weight", "attn.c_attn.weight", 1, 3 * C, 2 * C},
        {"attn_q.bias", "attn.c_attn.bias", 0, 1, 0},
        {"attn_k.bias", "attn.c_attn.bias", 0, 1, C},
        {"attn_v.bias", "attn.c_attn.bias", 0, 1, 2 * C},
        {"attn_output.weight", "attn.c_proj.weight", 1, C, 0},
        {"attn_output.bias", "attn.c_proj.bias", 0, 1, 0},
        {"ffn_norm.weight", "ln_2.weight", 0, 1, 0},
        {"ffn_norm.bias", "ln_2.bias", 0, 1, 0},
        {"ffn_up.weight", "mlp.c_fc.weight", 1, FF, 0},
        {"ffn_up.bias", "mlp.c_fc.bias", 0, 1, 0},
        {"ffn_down.weight", "mlp.c_proj.weight", 1, C, 0},
        {"ffn_down.bias", "mlp.c_proj.bias", 0, 1, 0},
    };
    fixture f = fixture_open();
    pico_model_file *file = open_ok(FIXTURE, NULL);
    check_elements(&f, file, "token_embd.weight", "wte.weight", C, 1, 0);
    check_elements(&f, file, "position_embd.weight", "wpe.weight", C, 1, 0);
    check_elements(&f, file, "output_norm.weight", "ln_f.weight", 0, 1, 0);
    check_elements(&f, file, "output_norm.bias", "ln_f.bias", 0, 1, 0);
    for (int layer = 0; layer < 3; layer++) {
        for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) {
            char canonical[64], name[64];
            (void)snprintf(canonical, sizeof canonical, "blk.%d.%s", layer, layers[i].canonical);
            (void)snprintf(name, sizeof name, "h.%d.%s", layer, layers[i].name);
            check_elements(&f, file, canonical, name, layers[i].stride_row, layers[i].stride_col,
                           layers[i].first);
        }
    }
    assert_int_equal(file->n_tensor, 4 + 3 * sizeof layers / sizeof *layers);
    pico_model_file_close(file);
    json_decref(f.header);
    pico_map_close(&f.map);
}

static void fixture_description(void **state) {
    (void)state;
    pico_model_file *file = open_ok(FIXTURE "/", NULL);
    pico_layer_desc layers[3];
    for (int i = 0; i < 3; i++) {
        layers[i] = (pico_layer_desc){
            .n_head = 4, .n_kv_head = 4, .head_dim = 16, .n_ff = 256, .window = -1};
    }
    const pico_model_desc want = {
        .family = "gpt2",
        .n_layer = 3,
        .n_embd = 64,
        .n_vocab = 257,
        .n_vocab_rows = 257,
        .n_ctx_train = 64,
        .flags = PICO_BIAS_QKV | PICO_BIAS_OUT | PICO_BIAS_FFN | PICO_NORM_WEIGHT | PICO_NORM_BIAS |
                 PICO_TIED_HEAD,
        .norm = PICO_NORM_LAYER,
        .norm_eps = 1e-5f,
        .pos = PICO_POS_LEARNED,
        .act = PICO_ACT_GELU_TANH,
        .backout_layer = -1,
        .layer = layers,
    };
    assert_same_desc(&file->desc, &want);
    assert_int_equal(file->format, PICO_FORMAT_SAFETENSORS);
    assert_int_equal(file->vocab.kind, PICO_VOCAB_NONE);
    assert_survives_gguf(file, NULL);
    pico_model_file *same = open_ok(FIXTURE "/model.safetensors", NULL);
    assert_same_model(file, same);
    pico_model_file_close(same);
    pico_model_file_close(file);
}

/* ---- GPT-2 in other forms ---- */

/* The fixture's tensors in another file: prefix before the names, another type, further buffers. */
static void write_gpt2(const kit_folder *folder, const char *prefix, int type, int with_head,
                       float head_changed) {
    static const int64_t one[4] = {1, 1, 1, 1};
    fixture f = fixture_open();
    kit_st st = {0};
    const char *name;
    json_t *info;
    size_t size;
    kit_st_add(&st, prefix[0] == '\0' ? "h.0.attn.masked_bias" : "transformer.h.0.attn.masked_bias",
               "I64", 0, one, "12345678", 8);
    json_object_foreach(f.header, name, info) {
        char full[160];
        int64_t shape[4] = {1, 1, 1, 1};
        size_t i;
        json_t *extent;
        if (name[0] == '_') {
            continue;
        }
        json_array_foreach(json_object_get(info, "shape"), i, extent) {
            shape[i] = json_integer_value(extent);
        }
        (void)snprintf(full, sizeof full, "%s%s", prefix, name);
        size_t n = (size_t)(shape[0] * shape[1] * shape[2] * shape[3]);
        float *values = malloc(n * sizeof *values + 1);
        for (size_t j = 0; j < n; j++) { /* short enough to be exact in 16 bits */
            values[j] = pico_f32_of_bf16(pico_bf16_of_f32(fixture_value(&f, name, (int64_t)j)));
            values[j] = pico_f32_of_f16(pico_f16_of_f32(values[j]));
        }
        if (i == 4) {
            kit_st_add(&st, full, "BOOL", 4, shape, values, n);
        } else {
            kit_add_floats(&st, full, (uint32_t)i, shape, values, type);
        }
        if (with_head && strcmp(name, "wte.weight") == 0) {
            values[n - 1] += head_changed;
            kit_add_floats(&st, "lm_head.weight", 2, shape, values, type);
        }
        free(values);
    }
    unsigned char *bytes = kit_st_end(&st, 0, &size);
    kit_write(folder, "model.safetensors", bytes, size);
    free(bytes);
    json_decref(f.header);
    pico_map_close(&f.map);
}

/* The fixture's config.json with one key set (NULL: removed). */
static void write_gpt2_config(const kit_folder *folder, const char *key, json_t *value) {
    json_t *config = json_load_file(FIXTURE "/config.json", 0, NULL);
    assert_non_null(config);
    if (value == NULL) {
        (void)json_object_del(config, key);
    } else {
        assert_int_equal(json_object_set_new(config, key, value), 0);
    }
    assert_int_equal(json_dump_file(config, kit_in(folder, "config.json"), 0), 0);
    json_decref(config);
}

static void gpt2_in_every_form(void **state) {
    (void)state;
    kit_folder plain = kit_folder_make(), other = kit_folder_make();
    write_gpt2_config(&plain, "n_ctx", NULL);
    write_gpt2(&plain, "", KIT_F32, 0, 0);
    pico_model_file *want = open_ok(plain.path, NULL);
    for (int type = KIT_F32; type <= KIT_BF16; type++) {
        write_gpt2_config(&other, "model_type", NULL); /* its class says it too */
        write_gpt2(&other, "transformer.", type, 1, 0);
        pico_model_file *file = open_ok(other.path, NULL);
        assert_same_desc(&file->desc, &want->desc);
        assert_equal_values(file, want);
        static const uint32_t dtypes[] = {PICO_DTYPE_F32, PICO_DTYPE_F16, PICO_DTYPE_BF16};
        assert_int_equal(pico_model_file_find(file, "blk.2.attn_k.weight")->data.dtype,
                         dtypes[type]);
        assert_int_equal(pico_model_file_find(file, "blk.2.attn_k.bias")->data.dtype,
                         PICO_DTYPE_F32);
        assert_survives_gguf(file, NULL);
        pico_model_file_close(file);
    }
    write_gpt2_config(&other, "tie_word_embeddings", json_false());
    write_gpt2(&other, "transformer.", KIT_F32, 1, 1.0f);
    pico_model_file *untied = open_ok(other.path, NULL);
    assert_int_equal(untied->desc.flags & PICO_TIED_HEAD, 0);
    assert_non_null(pico_model_file_find(untied, "output.weight"));
    pico_model_file_close(untied);
    write_gpt2_config(&other, "tie_word_embeddings", json_true());
    expect_open_refused(other.path, "lm_head.weight differs from transformer.wte.weight");
    pico_model_file_close(want);
    kit_folder_remove(&plain);
    kit_folder_remove(&other);
}

static void gpt2_configurations(void **state) {
    (void)state;
    kit_folder folder = kit_folder_make();
    const struct {
        const char *key;
        json_t *value; /* NULL: removed */
        const char *message;
    } cases[] = {
        {"activation_function", json_string("relu"), "\"relu\"; supported are gelu_new"},
        {"activation_function", json_integer(1), "key \"activation_function\" is an integer"},
        {"scale_attn_weights", json_false(), "\"scale_attn_weights\" is false"},
        {"scale_attn_by_inverse_layer_idx", json_true(), "\"scale_attn_by_inverse_layer_idx\""},
        {"add_cross_attention", json_true(), "\"add_cross_attention\" is true"},
        {"quantization_config", json_object(), "\"quantization_config\" is set"},
        {"model_type", json_string("gpt_neo"), "\"gpt_neo\"; supported are gpt2 and llama"},
        {"model_type", json_integer(2), "key \"model_type\" is an integer, expected a string"},
        {"architectures", json_string("x"), "key \"architectures\" is a string"},
        {"n_layer", json_string("3"), "key \"n_layer\" is a string, expected an integer"},
        {"n_layer", json_integer(0), "key \"n_layer\" is 0, expected 1 to 1024"},
        {"n_layer", NULL, "key \"n_layer\" is missing"},
        {"n_layer", json_integer(4), "tensor h.3.ln_1.weight of shape (64) is missing"},
        {"n_layer", json_integer(2), "tensor h.2."},
        {"n_embd", json_integer(65), "4 heads (\"n_head\") do not divide the width 65"},
        {"n_embd", json_integer(128), "tensor wte.weight has shape (257, 64), expected (257, 128)"},
        {"n_embd", json_integer(INT64_MAX), "expected 1 to 1048576"},
        {"n_head", json_array(), "key \"n_head\" is an array"},
        {"n_inner", json_integer(128),
         "h.0.mlp.c_fc.weight has shape (64, 256), expected (64, 128)"},
        {"n_inner", json_real(256.0), "key \"n_inner\" is a number, expected an integer"},
        {"vocab_size", json_integer(-1), "key \"vocab_size\" is -1"},
        {"n_positions", json_object(), "key \"n_positions\" is an object"},
        {"n_positions", json_integer(32),
         "tensor wpe.weight has shape (64, 64), expected (32, 64)"},
        {"layer_norm_epsilon", json_string("x"), "key \"layer_norm_epsilon\" is a string"},
        {"layer_norm_epsilon", json_real(-1.0), "norm epsilon is -1"},
        {"tie_word_embeddings", json_false(),
         "tensor lm_head.weight of shape (257, 64) is missing"},
        {"tie_word_embeddings", json_integer(0), "\"tie_word_embeddings\" is an integer"},
    };
    write_gpt2(&folder, "", KIT_F32, 0, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_gpt2_config(&folder, cases[i].key, cases[i].value);
        expect_open_refused(folder.path, cases[i].message);
    }
    const struct {
        const char *key;
        json_t *value;
        uint32_t act;
    } fine[] = {
        {"activation_function", json_string("gelu"), PICO_ACT_GELU_ERF},
        {"activation_function", json_string("gelu_pytorch_tanh"), PICO_ACT_GELU_TANH},
        {"activation_function", json_null(), PICO_ACT_GELU_TANH},
        {"n_inner", json_null(), PICO_ACT_GELU_TANH},
        {"reorder_and_upcast_attn", json_true(), PICO_ACT_GELU_TANH},
        {"n_positions", NULL, PICO_ACT_GELU_TANH},
    };
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        write_gpt2_config(&folder, fine[i].key, fine[i].value);
        pico_model_file *file = open_ok(folder.path, NULL);
        assert_int_equal(file->desc.act, fine[i].act);
        pico_model_file_close(file);
    }
    kit_folder_remove(&folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fixture_element_by_element),
        cmocka_unit_test(fixture_description),
        cmocka_unit_test(gpt2_in_every_form),
        cmocka_unit_test(gpt2_configurations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
