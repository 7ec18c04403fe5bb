/* layers: formats */
/*
 * Hugging Face folders: Llamas written the way such folders have them give back the model that was
 * written, in one file or two, in every type, tied or not, with biases, and survive a conversion to
 * GGUF. What would be computed wrongly or contradicts itself is refused by name.
 */
#include "hf_kit.h"

/* ---- Llama ---- */

enum { TIED = 1, SHARDED = 2, BIASED = 4, WIDE_HEADS = 8, NO_PREFIX = 16, WITH_HEAD = 32 };

/* Writes a small Llama; the result is what reading must give. */
static pico_model_file *write_llama(const kit_folder *folder, unsigned form, int type,
                                    size_t skew) {
    static const int64_t four[1] = {4};
    pico_layer_desc *layer = malloc(2 * sizeof *layer);
    pico_model_desc desc = small_llama(layer, 2);
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
        cmocka_unit_test(llama_comes_back),           cmocka_unit_test(tensors_stay_in_the_map),
        cmocka_unit_test(llama_configurations),       cmocka_unit_test(index_names_stay_inside),
        cmocka_unit_test(folders_that_are_not_right), cmocka_unit_test(tensors_that_do_not_belong),
        cmocka_unit_test(tensors_in_two_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
