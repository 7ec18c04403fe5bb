/* layers: formats */
/*
 * Hugging Face folders: the GPT-2 fixture against an independent reading of its file, element by
 * element; Llamas written the way such folders have them give back the model that was written, in
 * one file or two, in every type, tied or not, with biases; both survive a conversion to GGUF. What
 * would be computed wrongly or contradicts itself is refused by name.
 */
#include "hf_kit.h"

#define FIXTURE PICO_SOURCE_DIR "/tests/golden/gpt2"

static void expect_message(pico_status status, const pico_error *err, const char *message) {
    if (status == PICO_OK || strstr(err->message, message) == NULL) {
        fail_msg("expected a message with \"%s\", found: %s", message,
                 status == PICO_OK ? "no error" : err->message);
    }
}

static void expect_open_refused(const char *path, const char *message) {
    pico_error err = {0};
    pico_model_file *file = NULL;
    pico_status status = pico_model_file_open(path, NULL, &file, &err);
    expect_message(status, &err, message);
    assert_null(file);
}

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
    kit_st_add(&st, "transformer.h.0.attn.masked_bias" + (prefix[0] == '\0' ? 12 : 0), "I64", 0,
               one, "12345678", 8);
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

static void assert_equal_values(const pico_model_file *a, const pico_model_file *b) {
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

/* ---- Llama ---- */

enum { TIED = 1, SHARDED = 2, BIASED = 4, WIDE_HEADS = 8, NO_PREFIX = 16, WITH_HEAD = 32 };

/* Writes a small Llama; the result is what reading must give. */
static pico_model_file *write_llama(const kit_folder *folder, unsigned form, int type,
                                    size_t skew) {
    static const int64_t four[1] = {4};
    pico_layer_desc *layer = malloc(2 * sizeof *layer);
    pico_model_desc desc = small_llama(layer);
    desc.flags |= (form & TIED) != 0 ? (uint32_t)PICO_TIED_HEAD : 0u;
    desc.flags |= (form & BIASED) != 0 ? PICO_BIAS_QKV | PICO_BIAS_OUT | PICO_BIAS_FFN : 0u;
    for (int i = 0; i < 2 && (form & WIDE_HEADS) != 0; i++) {
        layer[i].head_dim = 12;
        desc.rope_dim = 12;
    }
    pico_model_file *model = model_in_memory(&desc);
    model->desc.layer =
        memcpy(pico_arena_alloc(&model->arena, 2, sizeof *layer), layer, 2 * sizeof *layer);
    free(layer);
    const char *prefix = (form & NO_PREFIX) != 0 ? "" : "model.";
    int shards = (form & SHARDED) != 0 ? 2 : 1;
    json_t *map = json_object();
    for (int shard = 0; shard < shards; shard++) {
        kit_st st = {0};
        size_t size;
        char name[64] = "model.safetensors";
        if (shards > 1) {
            (void)snprintf(name, sizeof name, "model-0000%d-of-00002.safetensors", shard + 1);
        }
        if (shard == 0) {
            char buffer[64];
            (void)snprintf(buffer, sizeof buffer, "%slayers.1.self_attn.rotary_emb.inv_freq",
                           prefix);
            kit_st_add(&st, buffer, "F32", 1, four, "0123456789abcdef", 16);
            if ((form & WITH_HEAD) != 0) {
                const pico_file_tensor *embed = pico_model_file_find(model, "token_embd.weight");
                kit_add_floats(&st, "lm_head.weight", 2, embed->shape, embed->data.codes, type);
            }
        }
        for (uint32_t i = (uint32_t)shard; i < model->n_tensor; i += (uint32_t)shards) {
            kit_add_llama(&st, model, &model->tensor[i], prefix, type);
        }
        /* The names are in the header that was just made. */
        kit_st_text(&st, "}");
        json_t *header = json_loads(st.header, 0, NULL), *info;
        const char *tensor;
        json_object_foreach(header, tensor, info) {
            if (tensor[0] != '_') {
                (void)json_object_set_new(map, tensor, json_string(name));
            }
        }
        json_decref(header);
        st.header[--st.n_header] = '\0';
        unsigned char *bytes = kit_st_end(&st, skew, &size);
        kit_write(folder, name, bytes, size);
        free(bytes);
    }
    if (shards > 1) {
        json_t *index = json_pack("{s:{s:i}, s:o}", "metadata", "total_size", 1, "weight_map", map);
        assert_int_equal(json_dump_file(index, kit_in(folder, "model.safetensors.index.json"), 0),
                         0);
        json_decref(index);
    } else {
        json_decref(map);
    }
    char extra[256];
    (void)snprintf(extra, sizeof extra, ",\"tie_word_embeddings\":%s%s%s",
                   (form & TIED) != 0 ? "true" : "false",
                   (form & BIASED) != 0 ? ",\"attention_bias\":true,\"mlp_bias\":true" : "",
                   (form & WIDE_HEADS) != 0 ? ",\"head_dim\":12" : "");
    kit_write_text(folder, "config.json", kit_llama_config(&model->desc, extra));
    return model;
}

static void llama_comes_back(void **state) {
    (void)state;
    static const unsigned forms[] = {0,
                                     TIED,
                                     TIED | WITH_HEAD,
                                     SHARDED,
                                     SHARDED | TIED | WITH_HEAD,
                                     BIASED,
                                     WIDE_HEADS | SHARDED | BIASED,
                                     NO_PREFIX | WIDE_HEADS};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        for (int type = KIT_F32; type <= KIT_BF16; type++) {
            for (size_t skew = 0; skew < 4; skew += 3) { /* aligned, and not */
                kit_folder folder = kit_folder_make();
                pico_model_file *want = write_llama(&folder, forms[i], type, skew);
                pico_model_file *file = open_ok(folder.path, NULL);
                assert_same_desc(&file->desc, &want->desc);
                assert_equal_values(file, want);
                for (uint32_t t = 0; t < file->n_tensor; t++) {
                    assert_int_equal((uintptr_t)file->tensor[t].data.codes % 4, 0);
                }
                if (type == KIT_F32) {
                    assert_same_tensors(file, want);
                    assert_survives_gguf(file, NULL);
                }
                pico_model_file_close(file);
                pico_model_file_close(want);
                kit_folder_remove(&folder);
            }
        }
    }
}

/* Where nothing is rearranged the weights stay in the file. */
static void tensors_stay_in_the_map(void **state) {
    (void)state;
    kit_folder folder = kit_folder_make();
    pico_model_file *want = write_llama(&folder, 0, KIT_BF16, 0);
    pico_model_file *file = open_ok(folder.path, NULL);
    assert_non_null(file->kept);
    const unsigned char *begin = file->kept->map.data, *end = begin + file->kept->map.size;
    const unsigned char *down = pico_model_file_find(file, "blk.0.ffn_down.weight")->data.codes;
    const unsigned char *q = pico_model_file_find(file, "blk.0.attn_q.weight")->data.codes;
    assert_true(down >= begin && down < end);
    assert_false(q >= begin && q < end);
    pico_model_file_close(file);
    pico_model_file_close(want);
    kit_folder_remove(&folder);
}

static void llama_configurations(void **state) {
    (void)state;
    kit_folder folder = kit_folder_make();
    pico_model_file *want = write_llama(&folder, 0, KIT_F32, 0);
    static const struct {
        const char *extra, *message; /* NULL: read, and the same model */
    } cases[] = {
        {",\"rope_scaling\":null", NULL},
        {",\"rope_scaling\":{\"type\":\"default\"}", NULL},
        {",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000}", NULL},
        {",\"pretraining_tp\":1,\"use_cache\":true,\"head_dim\":null", NULL},
        {",\"partial_rotary_factor\":1.0", NULL},
        {",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}",
         "key \"rope_scaling\": rope of type \"linear\"; only \"default\""},
        {",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}", "rope of type \"llama3\""},
        {",\"rope_scaling\":2", "key \"rope_scaling\" is an integer, expected an object"},
        {",\"rope_scaling\":{\"type\":[]}", "key \"type\" is an array"},
        {",\"rope_parameters\":{\"rope_theta\":\"x\"}", "key \"rope_theta\" is a string"},
        {",\"rope_parameters\":{\"rope_theta\":0}", "rope base is 0"},
        {",\"partial_rotary_factor\":0.5", "\"partial_rotary_factor\" is 0.5"},
        {",\"attention_bias\":true", "tensor model.layers.0.self_attn.q_proj.bias of shape (32)"},
        {",\"attention_bias\":\"yes\"", "key \"attention_bias\" is a string"},
        {",\"mlp_bias\":3", "key \"mlp_bias\" is an integer"},
        {",\"tie_word_embeddings\":true", "lm_head.weight differs from model.embed_tokens.weight"},
        {",\"head_dim\":16", "q_proj.weight has shape (32, 32), expected (64, 32)"},
        {",\"head_dim\":7", "heads of width 7, expected an even width"},
        {",\"head_dim\":\"8\"", "key \"head_dim\" is a string"},
        {",\"quantization_config\":{\"bits\":4}", "\"quantization_config\" is set"},
        {",\"hidden_act\":\"gelu\"", "duplicate object key"},
        {"", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kit_write_text(&folder, "config.json", kit_llama_config(&want->desc, cases[i].extra));
        if (cases[i].message != NULL) {
            expect_open_refused(folder.path, cases[i].message);
            continue;
        }
        pico_model_file *file = open_ok(folder.path, NULL);
        assert_same_desc(&file->desc, &want->desc);
        pico_model_file_close(file);
    }
    kit_write_text(&folder, "config.json", "{\"model_type\":\"llama\",\"hidden_act\":\"relu\"}");
    expect_open_refused(folder.path, "key \"num_hidden_layers\" is missing");
    pico_model_file_close(want);
    kit_folder_remove(&folder);
}

/* ---- folders that are not right ---- */

static void index_names_stay_inside(void **state) {
    (void)state;
    static const struct {
        const char *index, *message;
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"../model.safetensors\"}}", "\"../model.safetensors\", expected"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "tensor a is in \"/etc/passwd\""},
        {"{\"weight_map\":{\"a\":\"..\"}}", "expected the plain name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "expected the plain name"},
        {"{\"weight_map\":{\"a\":7}}", "tensor a is in \"an integer\""},
        {"{\"weight_map\":[]}", "key \"weight_map\" is an array"},
        {"{\"weight_map\":{}}", "key \"weight_map\" names no file"},
        {"{}", "key \"weight_map\" is missing"},
        {"[", "JSON, line 1"},
        {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", "gone.safetensors: cannot open"},
    };
    kit_folder folder = kit_folder_make();
    pico_model_file_close(write_llama(&folder, SHARDED, KIT_F32, 0));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kit_write_text(&folder, "model.safetensors.index.json", cases[i].index);
        expect_open_refused(folder.path, cases[i].message);
    }
    kit_write_text(&folder, "model.safetensors.index.json",
                   "{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\"}}");
    expect_open_refused(folder.path, "is missing among the");
    kit_folder_remove(&folder);
}

static void folders_that_are_not_right(void **state) {
    (void)state;
    static const int64_t shape[2] = {48, 32};
    kit_folder folder = kit_folder_make();
    expect_open_refused(folder.path, "the folder holds no model");
    kit_write_text(&folder, "config.json", "{\"model_type\":\"llama\"}");
    expect_open_refused(folder.path, "neither model.safetensors nor model.safetensors.index.json");
    kit_write_text(&folder, "pytorch_model.bin", "");
    expect_open_refused(folder.path, "pytorch_model.bin is not read");
    kit_write_text(&folder, "model.safetensors", "");
    kit_write_text(&folder, "config.json", "{");
    expect_open_refused(folder.path, "config.json: JSON, line 1");
    kit_write_text(&folder, "config.json", "[1]");
    expect_open_refused(folder.path, "config.json: JSON: an array, expected an object");
    kit_write_text(&folder, "config.json", "{}");
    expect_open_refused(folder.path, "neither \"model_type\" nor \"architectures\"");
    pico_model_file *want = write_llama(&folder, 0, KIT_F32, 0);
    kit_write_text(&folder, "model.safetensors", "");
    expect_open_refused(folder.path, "model.safetensors: not safetensors");
    kit_st st = {0};
    size_t size;
    char zeros[2 * 48 * 32] = {0};
    kit_st_add(&st, "model.embed_tokens.weight", "I16", 2, shape, zeros, sizeof zeros);
    unsigned char *bytes = kit_st_end(&st, 0, &size);
    kit_write(&folder, "model.safetensors", bytes, size);
    expect_open_refused(folder.path, "embed_tokens.weight is of type I16; usable are F32, F16");
    (void)unlink(kit_in(&folder, "config.json"));
    expect_open_refused(kit_in(&folder, "model.safetensors"), "config.json: there is no such file");
    free(bytes);
    pico_model_file_close(want);
    kit_folder_remove(&folder);
}

static void tensors_that_do_not_belong(void **state) {
    (void)state;
    static const int64_t one[1] = {1};
    static const char *const names[] = {"model.layers.0.self_attn.q_norm.weight", "score.weight",
                                        "model.layers.0.attn.bias", "model.layers.x.mlp.y",
                                        "rotary_emb.inv_freq"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        kit_folder folder = kit_folder_make();
        pico_model_file_close(write_llama(&folder, SHARDED, KIT_F32, 0));
        kit_st st = {0};
        size_t size;
        kit_st_add(&st, names[i], "F32", 1, one, "0123", 4);
        unsigned char *bytes = kit_st_end(&st, 0, &size);
        kit_write(&folder, "vocab.bpe", bytes, size);
        kit_write_text(&folder, "model.safetensors.index.json",
                       "{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\","
                       "\"b\":\"model-00002-of-00002.safetensors\",\"c\":\"vocab.bpe\"}}");
        expect_open_refused(folder.path, names[i]);
        free(bytes);
        kit_folder_remove(&folder);
    }
}

static void tensors_in_two_files(void **state) {
    (void)state;
    kit_folder folder = kit_folder_make();
    pico_model_file_close(write_llama(&folder, 0, KIT_F32, 0));
    assert_int_equal(link(kit_in(&folder, "model.safetensors"), kit_in(&folder, "vocab.json")), 0);
    assert_int_equal(rename(kit_in(&folder, "model.safetensors"), kit_in(&folder, "vocab.bpe")), 0);
    kit_write_text(&folder, "model.safetensors.index.json",
                   "{\"weight_map\":{\"a\":\"vocab.json\",\"b\":\"vocab.bpe\"}}");
    expect_open_refused(folder.path, "is also in");
    kit_folder_remove(&folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fixture_element_by_element), cmocka_unit_test(fixture_description),
        cmocka_unit_test(gpt2_in_every_form),         cmocka_unit_test(gpt2_configurations),
        cmocka_unit_test(llama_comes_back),           cmocka_unit_test(tensors_stay_in_the_map),
        cmocka_unit_test(llama_configurations),       cmocka_unit_test(index_names_stay_inside),
        cmocka_unit_test(folders_that_are_not_right), cmocka_unit_test(tensors_that_do_not_belong),
        cmocka_unit_test(tensors_in_two_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
