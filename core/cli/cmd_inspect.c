/*
 * inspect: what a model file holds, without loading it: hyper-parameters, tensors, tokenizer, what
 * a token costs in the KV cache. Works on files that hold a vocabulary only. The facts are gathered
 * once as JSON; the text is made from that, so that both say the same.
 */
#include <jansson.h>
#include <string.h>

#include "cli/cli.h"
#include "formats/expect.h"

/* ---- facts ---- */

static json_t *text_or_null(const char *text) {
    json_t *string = text == NULL ? NULL : json_string(text);
    return string == NULL ? json_null() : string;
}

static void put_int(json_t *object, const char *key, int64_t value) {
    (void)json_object_set_new(object, key, json_integer(value));
}

static json_t *flag_names(uint32_t flags) {
    static const struct {
        uint32_t flag;
        const char *name;
    } names[] = {{PICO_BIAS_QKV, "qkv_bias"},
                 {PICO_BIAS_OUT, "attention_output_bias"},
                 {PICO_BIAS_FFN, "ffn_bias"},
                 {PICO_NORM_WEIGHT, "norm_weight"},
                 {PICO_NORM_BIAS, "norm_bias"},
                 {PICO_EMBED_NORM, "embedding_norm"},
                 {PICO_TIED_HEAD, "tied_head"},
                 {PICO_FFN_GATED, "gated_ffn"},
                 {PICO_QK_NORM, "qk_norm"},
                 {PICO_RESID_LAMBDAS, "residual_lambdas"},
                 {PICO_ROPE_REVERSED, "rope_reversed"}};
    json_t *array = json_array();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if ((flags & names[i].flag) != 0) {
            (void)json_array_append_new(array, json_string(names[i].name));
        }
    }
    return array;
}

static const char *activation_name(uint32_t act) {
    switch (act) {
    case PICO_ACT_SILU:
        return "silu";
    case PICO_ACT_GELU_TANH:
        return "gelu_tanh";
    case PICO_ACT_GELU_ERF:
        return "gelu_erf";
    case PICO_ACT_RELU_SQUARED:
        return "relu_squared";
    default:
        return "unknown";
    }
}

static json_t *layer_facts(const pico_layer_desc *layer) {
    json_t *facts = json_object();
    put_int(facts, "n_head", layer->n_head);
    put_int(facts, "n_kv_head", layer->n_kv_head);
    put_int(facts, "head_dim", layer->head_dim);
    put_int(facts, "n_ff", layer->n_ff);
    put_int(facts, "window", layer->window);
    if (layer->has_value_embed) {
        put_int(facts, "value_embedding", 1);
    }
    return facts;
}

static int layers_differ(const pico_model_desc *desc) {
    for (uint32_t i = 1; i < desc->n_layer; i++) {
        const pico_layer_desc *a = &desc->layer[0], *b = &desc->layer[i];
        if (a->n_head != b->n_head || a->n_kv_head != b->n_kv_head || a->head_dim != b->head_dim ||
            a->n_ff != b->n_ff || a->window != b->window ||
            a->has_value_embed != b->has_value_embed) {
            return 1;
        }
    }
    return 0;
}

/* Parts that few models have, where they exist. */
static void put_extras(json_t *facts, const pico_model_desc *desc) {
    if (desc->flags & PICO_QK_NORM) {
        (void)json_object_set_new(facts, "qk_scale", json_real((double)desc->qk_scale));
    }
    if (desc->logit_softcap > 0.0f) {
        (void)json_object_set_new(facts, "logit_softcap", json_real((double)desc->logit_softcap));
    }
    if (desc->ve_width != 0) {
        json_t *value = json_object();
        put_int(value, "gate_width", desc->ve_width);
        (void)json_object_set_new(value, "scale", json_real((double)desc->ve_scale));
        (void)json_object_set_new(facts, "value_embeddings", value);
    }
    if (desc->smear_width != 0) {
        put_int(facts, "smear_width", desc->smear_width);
    }
    if (desc->backout_layer >= 0) {
        put_int(facts, "backout_layer", desc->backout_layer);
    }
    if (desc->n_mtp_head != 0) {
        put_int(facts, "mtp_heads", desc->n_mtp_head);
    }
    if (desc->n_draft != 0) {
        json_t *draft = json_object();
        put_int(draft, "slots", desc->n_draft);
        put_int(draft, "hidden", desc->draft_hidden);
        if (desc->draft_flags & PICO_DRAFT_SHARED_OUTPUT) {
            (void)json_object_set_new(draft, "shared_output", json_true());
            put_int(draft, "vocab", pico_draft_n_vocab(desc));
        }
        if (desc->draft_flags & PICO_DRAFT_READS_TOKEN) {
            (void)json_object_set_new(draft, "reads_token", json_true());
        }
        (void)json_object_set_new(facts, "draft_head", draft);
    }
}

static json_t *model_facts(const pico_model_desc *desc) {
    json_t *facts = json_object(), *layers = json_array();
    (void)json_object_set_new(facts, "family", text_or_null(desc->family));
    put_int(facts, "n_layer", desc->n_layer);
    put_int(facts, "n_embd", desc->n_embd);
    put_int(facts, "n_vocab", desc->n_vocab);
    put_int(facts, "n_vocab_rows", desc->n_vocab_rows);
    put_int(facts, "n_ctx_train", desc->n_ctx_train);
    (void)json_object_set_new(facts, "norm",
                              json_string(desc->norm == PICO_NORM_LAYER ? "layer" : "rms"));
    (void)json_object_set_new(facts, "norm_eps", json_real((double)desc->norm_eps));
    (void)json_object_set_new(facts, "activation", json_string(activation_name(desc->act)));
    if (desc->pos == PICO_POS_ROPE) {
        (void)json_object_set_new(facts, "positions", json_string("rope"));
        put_int(facts, "rope_dim", desc->rope_dim);
        (void)json_object_set_new(facts, "rope_base", json_real(desc->rope_base));
        (void)json_object_set_new(
            facts, "rope_layout",
            json_string(desc->rope_layout == PICO_ROPE_HALVES ? "halves" : "pairs"));
        (void)json_object_set_new(facts, "rope_table",
                                  json_string(pico_dtype_name(desc->rope_table)));
    } else {
        (void)json_object_set_new(facts, "positions",
                                  json_string(desc->pos == PICO_POS_LEARNED ? "learned" : "none"));
    }
    (void)json_object_set_new(facts, "features", flag_names(desc->flags));
    put_extras(facts, desc);
    for (uint32_t i = 0; i < (layers_differ(desc) ? desc->n_layer : 1); i++) {
        (void)json_array_append_new(layers, layer_facts(&desc->layer[i]));
    }
    (void)json_object_set_new(facts, layers_differ(desc) ? "layers" : "every_layer",
                              layers_differ(desc) ? layers
                                                  : json_incref(json_array_get(layers, 0)));
    if (!layers_differ(desc)) {
        json_decref(layers);
    }
    return facts;
}

/* What there is to a weight beside its type: scales, how its input is rounded, columns apart. */
static void put_layout(json_t *facts, const pico_weight_desc *w) {
    static const char *const inputs[] = {"auto", "float", "row", "group"};
    if (w->n_scales != 0) {
        put_int(facts, "group", w->group);
        (void)json_object_set_new(facts, "scales", text_or_null(pico_dtype_name(w->scale_dtype)));
    }
    if (w->input_quant != PICO_INPUT_AUTO && w->input_quant <= PICO_INPUT_GROUP) {
        (void)json_object_set_new(facts, "input", json_string(inputs[w->input_quant]));
    }
    if (w->input_scale != NULL) {
        (void)json_object_set_new(facts, "input_scale", json_true());
    }
    if (w->input_perm != NULL) {
        (void)json_object_set_new(facts, "input_perm", json_true());
    }
    if (w->n_outlier != 0) {
        put_int(facts, "outliers", w->n_outlier);
    }
}

static json_t *tensor_facts(const pico_file_tensor *tensor) {
    json_t *facts = json_object(), *shape = json_array();
    (void)json_object_set_new(facts, "name", text_or_null(tensor->name));
    (void)json_object_set_new(facts, "dtype", text_or_null(pico_dtype_name(tensor->data.dtype)));
    for (uint32_t i = 0; i < tensor->rank; i++) {
        (void)json_array_append_new(shape, json_integer(tensor->shape[i]));
    }
    (void)json_object_set_new(facts, "shape", shape);
    put_int(facts, "bytes", (int64_t)tensor->bytes);
    put_layout(facts, &tensor->data);
    return facts;
}

static json_t *vocab_facts(const pico_vocab *vocab) {
    json_t *facts = json_object();
    if (vocab->kind == PICO_VOCAB_NONE) {
        json_decref(facts);
        return json_null();
    }
    (void)json_object_set_new(
        facts, "kind",
        json_string(vocab->kind == PICO_VOCAB_SPM ? "sentencepiece-bpe" : "byte-level-bpe"));
    put_int(facts, "n_vocab", vocab->n_piece);
    put_int(facts, "n_merge", vocab->n_merge);
    (void)json_object_set_new(facts, "split_pattern", text_or_null(vocab->pre));
    put_int(facts, "bos", vocab->bos);
    put_int(facts, "eos", vocab->eos);
    put_int(facts, "eot", vocab->eot);
    put_int(facts, "unk", vocab->unk);
    put_int(facts, "pad", vocab->pad);
    (void)json_object_set_new(facts, "adds_bos", json_boolean(vocab->add_bos));
    (void)json_object_set_new(facts, "adds_eos", json_boolean(vocab->add_eos));
    (void)json_object_set_new(facts, "chat_template", json_boolean(vocab->chat_template != NULL));
    return facts;
}

/* Bytes of K and V over all layers, of one position, or of those that a full context keeps: layers
 * with a window forget the others. one_head: as multi-query attention keeps them. */
typedef struct kv_question {
    int64_t block; /* bytes of 32 values */
    int one_head, full;
} kv_question;

static int64_t kv_bytes(const pico_model_desc *desc, kv_question what) {
    int64_t bytes = 0;
    for (uint32_t i = 0; i < desc->n_layer; i++) {
        const pico_layer_desc *layer = &desc->layer[i];
        int64_t positions = what.full ? desc->n_ctx_train : 1;
        if (layer->window >= 0 && positions > (int64_t)layer->window + 1) {
            positions = (int64_t)layer->window + 1;
        }
        bytes += 2 * positions * layer->head_dim * what.block / 32 *
                 (what.one_head ? 1 : (int64_t)layer->n_kv_head);
    }
    return bytes;
}

/* Whether every head is whole blocks of 32, as Q8_0 needs. */
static int heads_are_blocks(const pico_model_desc *desc) {
    for (uint32_t i = 0; i < desc->n_layer; i++) {
        if (desc->layer[i].head_dim % 32 != 0) {
            return 0;
        }
    }
    return 1;
}

static void put_kv(json_t *facts, const char *key, const pico_model_desc *desc, int one_head,
                   int full) {
    json_t *kv = json_object();
    put_int(kv, "f32", kv_bytes(desc, (kv_question){128, one_head, full}));
    put_int(kv, "f16", kv_bytes(desc, (kv_question){64, one_head, full}));
    if (heads_are_blocks(desc)) {
        put_int(kv, "q8_0", kv_bytes(desc, (kv_question){34, one_head, full}));
    } else {
        (void)json_object_set_new(kv, "q8_0", json_null());
    }
    (void)json_object_set_new(facts, key, kv);
}

static void print_kv(const json_t *facts, const char *key, const char *title) {
    const json_t *kv = json_object_get(facts, key), *q8_0 = json_object_get(kv, "q8_0");
    (void)printf("%s: %lld in F32, %lld in F16", title,
                 (long long)json_integer_value(json_object_get(kv, "f32")),
                 (long long)json_integer_value(json_object_get(kv, "f16")));
    if (json_is_integer(q8_0)) {
        (void)printf(", %lld in Q8_0", (long long)json_integer_value(q8_0));
    }
    (void)putchar('\n');
}

static json_t *file_facts(const pico_model_file *file) {
    json_t *facts = json_object(), *tensors = json_array(), *totals = json_object();
    int64_t elements = 0, bytes = 0;
    (void)json_object_set_new(facts, "file", text_or_null(file->path));
    (void)json_object_set_new(facts, "format", text_or_null(file->format_name));
    (void)json_object_set_new(facts, "name", text_or_null(file->name));
    (void)json_object_set_new(facts, "model",
                              file->desc.n_layer == 0 ? json_null() : model_facts(&file->desc));
    (void)json_object_set_new(facts, "tokenizer", vocab_facts(&file->vocab));
    if (file->desc.n_layer != 0) {
        put_kv(facts, "kv_bytes_per_token", &file->desc, 0, 0);
        put_kv(facts, "kv_bytes_per_token_mqa", &file->desc, 1, 0);
        put_kv(facts, "kv_bytes_full_context", &file->desc, 0, 1);
        put_kv(facts, "kv_bytes_full_context_mqa", &file->desc, 1, 1);
    }
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const pico_file_tensor *tensor = &file->tensor[i];
        elements += tensor->data.rows * tensor->data.cols;
        bytes += (int64_t)tensor->bytes;
        (void)json_array_append_new(tensors, tensor_facts(tensor));
    }
    put_int(totals, "tensors", file->n_tensor);
    put_int(totals, "parameters", elements);
    put_int(totals, "bytes", bytes);
    (void)json_object_set_new(facts, "totals", totals);
    (void)json_object_set_new(facts, "tensors", tensors);
    return facts;
}

/* ---- text ---- */

/* One value on one line: scalars as they are, lists with commas, objects as "key value". */
static void print_value(const json_t *value) {
    const char *key;
    size_t index, n = 0;
    json_t *item;
    if (json_is_string(value)) {
        (void)fputs(json_string_value(value), stdout);
    } else if (json_is_integer(value)) {
        (void)printf("%lld", (long long)json_integer_value(value));
    } else if (json_is_real(value)) {
        (void)printf("%g", json_real_value(value));
    } else if (json_is_array(value)) {
        json_array_foreach(value, index, item) {
            (void)fputs(index == 0 ? "" : ", ", stdout);
            print_value(item);
        }
    } else if (json_is_object(value)) {
        json_object_foreach((json_t *)(uintptr_t)value, key, item) {
            (void)printf("%s%s ", n++ == 0 ? "" : ", ", key);
            print_value(item);
        }
    } else {
        (void)fputs(json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "none", stdout);
    }
}

static void print_section(const char *title, json_t *object) {
    const char *key;
    json_t *value, *item;
    size_t index;
    if (!json_is_object(object)) {
        (void)printf("%s: none\n", title);
        return;
    }
    (void)printf("%s\n", title);
    json_object_foreach(object, key, value) {
        if (strcmp(key, "layers") == 0) {
            json_array_foreach(value, index, item) {
                (void)printf("  layer %-10zu ", index);
                print_value(item);
                (void)putchar('\n');
            }
            continue;
        }
        (void)printf("  %-16s ", key);
        print_value(value);
        (void)putchar('\n');
    }
}

static void print_tensors(const pico_model_file *file) {
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const pico_file_tensor *tensor = &file->tensor[i];
        json_t *layout = json_object();
        pico_shape_text shape;
        put_layout(layout, &tensor->data);
        (void)printf("  %-32s %-5s %-18s %12llu bytes%s", tensor->name,
                     pico_dtype_name(tensor->data.dtype),
                     pico_shape_format(&shape, tensor->rank, tensor->shape),
                     (unsigned long long)tensor->bytes, json_object_size(layout) == 0 ? "" : "  ");
        print_value(layout);
        (void)putchar('\n');
        json_decref(layout);
    }
}

static void print_text(const pico_model_file *file, const json_t *facts) {
    const json_t *totals = json_object_get(facts, "totals");
    (void)printf("file    %s\nformat  %s\nname    %s\n", file->path, file->format_name,
                 file->name == NULL ? "none" : file->name);
    print_section("model", json_object_get(facts, "model"));
    print_section("tokenizer", json_object_get(facts, "tokenizer"));
    if (file->desc.n_layer != 0) {
        char title[96];
        print_kv(facts, "kv_bytes_per_token", "KV bytes per token");
        int pools = !json_equal(json_object_get(facts, "kv_bytes_per_token"),
                                json_object_get(facts, "kv_bytes_per_token_mqa"));
        if (pools) {
            print_kv(facts, "kv_bytes_per_token_mqa", "  with --attention mqa (one KV head)");
        }
        (void)snprintf(title, sizeof title, "KV bytes of a full context of %u tokens",
                       file->desc.n_ctx_train);
        print_kv(facts, "kv_bytes_full_context", title);
        if (pools) {
            print_kv(facts, "kv_bytes_full_context_mqa", "  with --attention mqa (one KV head)");
        }
    }
    (void)printf("tensors: %u, %lld parameters, %lld bytes\n", file->n_tensor,
                 (long long)json_integer_value(json_object_get(totals, "parameters")),
                 (long long)json_integer_value(json_object_get(totals, "bytes")));
    print_tensors(file);
}

/* ---- the command ---- */

static int inspect_command(const pico_cli *cli) {
    pico_model_file *file = NULL;
    int code = pico_cli_open_file(cli, cli->n_argument > 0 ? cli->argument[0] : NULL, &file);
    if (code != PICO_EXIT_OK) {
        return code;
    }
    json_t *facts = file_facts(file);
    if (!json_is_object(facts) || json_object_get(facts, "tensors") == NULL) {
        code = pico_cli_fail(cli, PICO_EXIT_MEMORY, "out of memory");
    } else if (pico_cli_has(cli, "--json")) {
        if (json_dumpf(facts, stdout, JSON_INDENT(1)) != 0 && !ferror(stdout)) {
            code = pico_cli_fail(cli, PICO_EXIT_RUNTIME, "the JSON text cannot be made");
        }
        (void)putchar('\n');
    } else {
        print_text(file, facts);
    }
    json_decref(facts);
    pico_model_file_close(file);
    return code;
}

static const pico_cli_option options[] = {{"--json", NULL, NULL, "print JSON"}};

const pico_command pico_command_inspect = {
    .name = "inspect",
    .summary = "what a model file holds",
    .usage = "inspect FILE [--tokenizer FILE] [--json]",
    .sections = "model.path model.tokenizer model.generation host.log",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .max_arguments = 1,
    .run = inspect_command};
