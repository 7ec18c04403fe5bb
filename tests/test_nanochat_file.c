/* layers: formats */
/*
 * nanochat checkpoints made here: generations told apart, what metadata and overrides may say, extra
 * heads, the int8 export, damage, and what is refused.
 */
#include "formats_support.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/nanochat.h"
#include "torch_kit.h"

#define FLAGS (PICO_EMBED_NORM | PICO_QK_NORM | PICO_ROPE_REVERSED)

/* Width 32, 2 heads of 16, one KV head, vocabulary 40 in 64 rows, 3 layers. */
typedef struct small {
    int lambdas, smear, backout, n_mtp, n_draft;
    int64_t ve_width;     /* 0: no value embeddings */
    const char *without;  /* a tensor that is left out */
    const char *extra;    /* one more */
    const char *matrices; /* type of the storage; NULL: Float */
} small;

enum { N_LAYER = 3, C = 32, ROWS = 64 };

static void add(kit_checkpoint *c, const small *s, const char *name, uint32_t rank, int64_t rows,
                int64_t cols) {
    const char *storage = s->matrices != NULL && rank == 2 ? s->matrices : "FloatStorage";
    size_t bytes = strcmp(storage, "CharStorage") == 0    ? 1
                   : strcmp(storage, "FloatStorage") == 0 ? 4
                                                          : 2;
    if (s->without == NULL || strcmp(s->without, name) != 0) {
        kit_add_tensor(c, name, storage, bytes, rank, rows, cols);
    }
}

static void add_layer(kit_checkpoint *c, const small *s, int layer) {
    const struct {
        const char *name;
        int64_t rows, cols;
    } parts[] = {
        {"attn.c_q", C, C},
        {"attn.c_k", 16, C},
        {"attn.c_v", 16, C},
        {"attn.c_proj", C, C},
        {"mlp.c_fc", 4 * C, C},
        {"mlp.c_proj", C, 4 * C},
        {"attn.ve_gate", 1, s->ve_width},
    };
    int has_value = s->ve_width != 0 && layer % 2 == (N_LAYER - 1) % 2;
    char name[64];
    for (size_t i = 0; i < 6u + (unsigned)has_value; i++) {
        (void)snprintf(name, sizeof name, "transformer.h.%d.%s.weight", layer, parts[i].name);
        add(c, s, name, 2, parts[i].rows, parts[i].cols);
    }
    if (has_value) {
        (void)snprintf(name, sizeof name, "value_embeds.%d.weight", layer);
        add(c, s, name, 2, ROWS, 16);
    }
}

static void add_all(kit_checkpoint *c, const small *s) {
    char name[64];
    add(c, s, "transformer.wte.weight", 2, ROWS, C);
    add(c, s, "lm_head.weight", 2, ROWS, C);
    for (int i = 0; i < N_LAYER; i++) {
        add_layer(c, s, i);
    }
    if (s->lambdas) {
        add(c, s, "resid_lambdas", 1, N_LAYER, 1);
        add(c, s, "x0_lambdas", 1, N_LAYER, 1);
    }
    if (s->smear) {
        add(c, s, "smear_gate.weight", 2, 1, 24);
        add(c, s, "smear_lambda", 1, 1, 1);
    }
    if (s->backout) {
        add(c, s, "backout_lambda", 1, 1, 1);
    }
    for (int k = 0; k < s->n_mtp; k++) {
        (void)snprintf(name, sizeof name, "multi_token_heads.head_%d.weight", k + 2);
        add(c, s, name, 2, ROWS, C);
    }
    if (s->n_draft != 0) {
        add(c, s, "draft_head.fc1.weight", 2, 12, C);
        add(c, s, "draft_head.fc2.weight", 2, 40 * s->n_draft, 12);
    }
    if (s->extra != NULL) {
        kit_add_tensor(c, s->extra, "FloatStorage", 4, 1, 5, 1);
    }
}

#define META(more)                                                                                 \
    "{\"step\": 1, \"val_bpb\": NaN, \"loop\": {\"min\": -Infinity, \"s\": \"a \\\" NaN\"}, "      \
    "\"model_config\": {\"sequence_len\": 600, \"vocab_size\": 40, \"n_layer\": 3, "               \
    "\"n_head\": 2, \"n_kv_head\": 1, \"n_embd\": 32" more "}}"

static const char pattern_meta[] = META(", \"window_pattern\": \"sL\"");

/* The archive and the metadata in exactly sized heap blocks. Takes the archive over. */
static pico_model_file *read_parts(unsigned char *data, size_t size, const char *meta,
                                   uint32_t generation, pico_error *err) {
    pico_model_file *file = NULL;
    size_t n = meta == NULL ? 0 : strlen(meta);
    char *copy = malloc(n == 0 ? 1 : n);
    assert_non_null(copy);
    memcpy(copy, n == 0 ? "" : meta, n == 0 ? 1 : n);
    const pico_nanochat_source source = {.path = "m/model_000001.pt",
                                         .map = {.data = data, .size = size},
                                         .meta_path = "m/meta_000001.json",
                                         .meta = meta == NULL ? NULL : copy,
                                         .n_meta = n};
    assert_int_equal(pico_model_file_new(source.path, &file, NULL), PICO_OK);
    err->message[0] = '\0';
    pico_status status = pico_nanochat_read(&source, generation, file, err);
    free(copy);
    free(data);
    if (status != PICO_OK) {
        assert_int_equal(err->code, status);
        assert_true(strncmp(err->message, "m/m", 3) == 0);
        pico_model_file_close(file);
        return NULL;
    }
    for (uint32_t i = 0; i < file->n_tensor; i++) { /* all of it is there */
        (void)crc32_of(0, file->tensor[i].data.codes, file->tensor[i].data.codes_bytes);
    }
    return file;
}

static pico_model_file *read_small(const small *s, const char *meta, uint32_t generation,
                                   pico_error *err) {
    size_t size;
    kit_checkpoint c = kit_checkpoint_begin();
    add_all(&c, s);
    unsigned char *data = kit_checkpoint_end(&c, &size);
    return read_parts(data, size, meta, generation, err);
}

static pico_model_file *read_ok(const small *s, const char *meta, uint32_t generation) {
    pico_error err = {0};
    pico_model_file *file = read_small(s, meta, generation, &err);
    if (file == NULL) {
        fail_msg("%s", err.message);
    }
    return file;
}

static void expect_refused(const small *s, const char *meta, uint32_t generation,
                           pico_status status, const char *said) {
    pico_error err = {0};
    pico_model_file *file = read_small(s, meta, generation, &err);
    if (file != NULL || err.code != status || strstr(err.message, said) == NULL) {
        fail_msg("expected %d \"%s\", got %d \"%s\"", (int)status, said, (int)err.code,
                 file != NULL ? "a model" : err.message);
    }
}

/* ---- generations ---- */

static const small g0 = {0}, g1 = {.lambdas = 1}, g2 = {.lambdas = 1, .ve_width = 32},
                   g3 = {.lambdas = 1, .ve_width = 12},
                   g4 = {.lambdas = 1, .ve_width = 12, .smear = 1, .backout = 1};

/* What each generation computes, inferred from its tensors alone. */
static void infers_generations(void **state) {
    (void)state;
    static const struct {
        const small *s;
        const char *format;
        double rope_base;
        float qk_scale, ve_scale;
        uint32_t flags, ve_width, table, smear;
        int32_t window, backout;
    } cases[] = {
        {&g0, "g0", 1e4, 1.0f, 0.0f, FLAGS, 0, PICO_DTYPE_BF16, 0, 300, -1},
        {&g1, "g1", 1e4, 1.0f, 0.0f, FLAGS | PICO_RESID_LAMBDAS, 0, PICO_DTYPE_BF16, 0, 300, -1},
        {&g2, "g2", 1e4, 1.0f, 2.0f, FLAGS | PICO_RESID_LAMBDAS, 32, PICO_DTYPE_BF16, 0, 300, -1},
        {&g3, "g3", 1e5, 1.15f, 3.0f, FLAGS | PICO_RESID_LAMBDAS, 12, PICO_DTYPE_F32, 0, 256, -1},
        {&g4, "g4", 1e5, 1.2f, 3.0f, FLAGS | PICO_RESID_LAMBDAS, 12, PICO_DTYPE_F32, 24, 256, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pico_model_file *file = read_ok(cases[i].s, pattern_meta, PICO_GENERATION_AUTO);
        const pico_model_desc *d = &file->desc;
        assert_non_null(strstr(file->format_name, cases[i].format));
        assert_memory_equal(&d->rope_base, &cases[i].rope_base, sizeof d->rope_base);
        assert_memory_equal(&d->qk_scale, &cases[i].qk_scale, sizeof d->qk_scale);
        assert_memory_equal(&d->ve_scale, &cases[i].ve_scale, sizeof d->ve_scale);
        assert_int_equal(d->flags, cases[i].flags);
        assert_int_equal(d->ve_width, cases[i].ve_width);
        assert_int_equal(d->rope_table, cases[i].table);
        assert_int_equal(d->smear_width, cases[i].smear);
        assert_int_equal(d->backout_layer, cases[i].backout);
        assert_int_equal(d->layer[0].window, cases[i].window);
        assert_int_equal(d->layer[1].window, 600);
        assert_int_equal(d->layer[2].window, 600); /* the last one is long in any pattern */
        assert_int_equal(d->layer[0].has_value_embed, cases[i].ve_width != 0);
        assert_int_equal(d->layer[1].has_value_embed, 0);
        assert_survives_gguf(file, NULL);
        pico_model_file_close(file);
        /* saying what is so changes nothing */
        file = read_ok(cases[i].s, pattern_meta, PICO_GENERATION_G0 + (uint32_t)i);
        assert_non_null(strstr(file->format_name, cases[i].format));
        pico_model_file_close(file);
    }
}

/* Without a pattern all windows are long; before there were windows, there are none. */
static void windows_without_a_pattern(void **state) {
    (void)state;
    pico_model_file *file = read_ok(&g0, META(""), PICO_GENERATION_AUTO);
    assert_int_equal(file->desc.layer[0].window, -1);
    assert_int_equal(file->desc.layer[2].window, -1);
    pico_model_file_close(file);
    file = read_ok(&g4, META(""), PICO_GENERATION_AUTO);
    assert_int_equal(file->desc.layer[0].window, 600);
    pico_model_file_close(file);
    file = read_ok(&g2, META(", \"window_pattern\": null"), PICO_GENERATION_AUTO);
    assert_int_equal(file->desc.layer[0].window, 600);
    pico_model_file_close(file);
}

/* Who names a generation gets its constants; a part that it has but the file lacks is absent. */
static void overrides(void **state) {
    (void)state;
    pico_model_file *file = read_ok(&g3, pattern_meta, PICO_GENERATION_G4);
    assert_true(fabsf(file->desc.qk_scale - 1.2f) < 1e-6f);
    assert_int_equal(file->desc.smear_width, 0);
    assert_int_equal(file->desc.backout_layer, -1);
    pico_model_file_close(file);
    file = read_ok(&g1, pattern_meta, PICO_GENERATION_G3);
    assert_true(file->desc.rope_base > 99999.0);
    assert_int_equal(file->desc.ve_width, 0);
    assert_int_equal(file->desc.layer[2].has_value_embed, 0);
    pico_model_file_close(file);
    file = read_ok(&g0, META(""), PICO_GENERATION_G2);
    assert_int_equal(file->desc.flags, FLAGS);
    assert_int_equal(file->desc.layer[0].window, 600);
    pico_model_file_close(file);
}

static void contradictions(void **state) {
    (void)state;
    static const struct {
        const small *s;
        uint32_t generation;
        const char *said;
    } cases[] = {
        {&g1, PICO_GENERATION_G0,
         "the generation was set to nanochat g0, but tensor resid_lambdas exists from g1 on"},
        {&g2, PICO_GENERATION_G1, "nanochat g1, but tensor value_embeds.0.weight exists from g2"},
        {&g2, PICO_GENERATION_G4,
         "tensor transformer.h.0.attn.ve_gate.weight has 32 inputs, expected 12"},
        {&g3, PICO_GENERATION_G2,
         "tensor transformer.h.0.attn.ve_gate.weight has 12 inputs, expected 32"},
        {&g4, PICO_GENERATION_G3, "nanochat g3, but tensor smear_gate.weight exists in g4"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_refused(cases[i].s, pattern_meta, cases[i].generation, PICO_E_INVALID,
                       cases[i].said);
    }
    const small mixed = {.lambdas = 1, .ve_width = 32, .smear = 1},
                odd = {.lambdas = 1, .ve_width = 16};
    expect_refused(&mixed, pattern_meta, PICO_GENERATION_AUTO, PICO_E_CORRUPT,
                   "the other tensors are those of nanochat g4, but tensor "
                   "transformer.h.0.attn.ve_gate.weight has 32 inputs");
    expect_refused(&odd, pattern_meta, PICO_GENERATION_AUTO, PICO_E_CORRUPT, "has 16 inputs");
}

/* Half of a part is no part: the missing half is named as the file would name it. */
static void missing_and_left_over_tensors(void **state) {
    (void)state;
    static const struct {
        const char *without, *said;
    } cases[] = {
        {"x0_lambdas", "tensor x0_lambdas of shape (3) is missing"},
        {"resid_lambdas", "tensor resid_lambdas of shape (3) is missing"},
        {"smear_gate.weight", "tensor smear_gate.weight of shape (24) is missing"},
        {"smear_lambda", "tensor smear_lambda of shape (1) is missing"},
        {"value_embeds.2.weight", "tensor value_embeds.2.weight of shape (64, 16) is missing"},
        {"transformer.h.2.attn.ve_gate.weight",
         "tensor transformer.h.2.attn.ve_gate.weight of shape (1, 12) is missing"},
        {"transformer.h.1.mlp.c_proj.weight",
         "tensor transformer.h.1.mlp.c_proj.weight of shape (32, 128) is missing"},
        {"lm_head.weight", "tensor lm_head.weight of shape (64, 32) is missing"},
        {"transformer.wte.weight", "transformer.wte.weight is missing: not a nanochat checkpoint"},
        {"draft_head.fc1.weight", "tensor draft_head.fc1.weight of shape (16, 32) is missing"},
        {"draft_head.fc2.weight", "tensor draft_head.fc2.weight of shape (40, 12) is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        small s = g4;
        s.without = cases[i].without;
        s.n_mtp = 3;
        s.n_draft = 2;
        expect_refused(&s, pattern_meta, PICO_GENERATION_AUTO,
                       i == 8 ? PICO_E_UNSUPPORTED : PICO_E_CORRUPT, cases[i].said);
    }
    small s = g2;
    s.extra = "value_embeds.1.weight";
    expect_refused(&s, pattern_meta, PICO_GENERATION_AUTO, PICO_E_CORRUPT,
                   "tensor value_embeds.1.weight of shape (5) belongs to nothing");
    s.extra = "_orig_mod.lm_head.weight"; /* the same name twice, without the prefix */
    expect_refused(&s, pattern_meta, PICO_GENERATION_AUTO, PICO_E_CORRUPT,
                   "tensor lm_head.weight exists twice");
    s.extra = "cos"; /* a buffer of the int8 export only */
    expect_refused(&s, pattern_meta, PICO_GENERATION_AUTO, PICO_E_CORRUPT, "tensor cos");
}

/* Extra heads come from the tensors; what the configuration promises of them must be there. */
static void extra_heads(void **state) {
    (void)state;
    small s = {.lambdas = 1, .ve_width = 32, .n_mtp = 2, .n_draft = 3};
    pico_model_file *file = read_ok(&s, pattern_meta, PICO_GENERATION_AUTO);
    assert_int_equal(file->desc.n_mtp_head, 2);
    assert_int_equal(file->desc.n_draft, 3);
    assert_int_equal(file->desc.draft_hidden, 12);
    assert_non_null(pico_model_file_find(file, "mtp.1.weight"));
    assert_survives_gguf(file, NULL);
    pico_model_file_close(file);
    expect_refused(&s, META(", \"multi_token_n\": 3"), PICO_GENERATION_AUTO, PICO_E_CORRUPT,
                   "tensor multi_token_heads.head_4.weight of shape (64, 32) is missing");
    expect_refused(&s, META(", \"draft_n\": 4"), PICO_GENERATION_AUTO, PICO_E_CORRUPT,
                   "tensor draft_head.fc2.weight has shape (120, 12), expected (160, 12)");
    s.without = "multi_token_heads.head_2.weight";
    expect_refused(&s, pattern_meta, PICO_GENERATION_AUTO, PICO_E_CORRUPT,
                   "tensor multi_token_heads.head_3.weight of shape (64, 32) belongs to nothing");
    /* promised, and none of it there: absent, not made up */
    file = read_ok(&g2, META(", \"multi_token_n\": 3, \"draft_n\": 4, \"draft_hidden_mult\": 0.5"),
                   PICO_GENERATION_AUTO);
    assert_int_equal(file->desc.n_mtp_head, 0);
    assert_int_equal(file->desc.n_draft, 0);
    pico_model_file_close(file);
}

/* Sizes in a description are claims until the data are read. */
static void absurd_sizes_of_extra_heads(void **state) {
    (void)state;
    static const struct {
        const char *name, *said;
    } cases[] = {
        {"draft_head.fc2.weight", "number of draft slots is 4294967295"},
        {"draft_head.fc1.weight", "width of the draft head is 4294967295"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const kit_tensor t = {.storage = "FloatStorage",
                              .n_storage = INT64_MAX,
                              .rank = 1,
                              .shape = {INT64_MAX},
                              .stride = {1}};
        size_t size;
        pico_error err = {0};
        kit_checkpoint c = kit_checkpoint_begin();
        add_all(&c, &g2);
        kit_text(&c.pickle, cases[i].name);
        kit_tensor_value(&c.pickle, &t);
        kit_op(&c.pickle, 's');
        unsigned char *data = kit_checkpoint_end(&c, &size);
        assert_null(read_parts(data, size, pattern_meta, PICO_GENERATION_AUTO, &err));
        if (err.code != PICO_E_CORRUPT || strstr(err.message, cases[i].said) == NULL) {
            fail_msg("expected \"%s\", got %d \"%s\"", cases[i].said, (int)err.code, err.message);
        }
    }
}

/* Types stay as they are; those that no backend computes with are refused by name. */
static void types(void **state) {
    (void)state;
    small s = g2;
    s.matrices = "HalfStorage";
    pico_model_file *file = read_ok(&s, pattern_meta, PICO_GENERATION_AUTO);
    assert_int_equal(pico_model_file_find(file, "output.weight")->data.dtype, PICO_DTYPE_F16);
    pico_model_file_close(file);
    s.matrices = "CharStorage";
    expect_refused(&s, pattern_meta, PICO_GENERATION_AUTO, PICO_E_UNSUPPORTED,
                   "tensor transformer.wte.weight is of type torch.CharStorage and has no scale");
    s.matrices = "ShortStorage";
    expect_refused(&s, pattern_meta, PICO_GENERATION_AUTO, PICO_E_UNSUPPORTED,
                   "tensor transformer.wte.weight is of type torch.ShortStorage");
}

/* ---- metadata ---- */

static void metadata(void **state) {
    (void)state;
    static const struct {
        const char *meta;
        pico_status status;
        const char *said;
    } cases[] = {
        {NULL, PICO_E_INVALID,
         "m/model_000001.pt: its metadata is missing: expected m/meta_000001.json beside it"},
        {"", PICO_E_CORRUPT, "m/meta_000001.json: line 1, column 0: not JSON"},
        {"{\"a\": 1, \"a\": 2}", PICO_E_CORRUPT, "not JSON: duplicate"},
        {"[1]", PICO_E_CORRUPT, "not a JSON object"},
        {"{}", PICO_E_CORRUPT, "key model_config is missing"},
        {"{\"model_config\": 3}", PICO_E_CORRUPT, "key model_config is not an object"},
        {"{\"model_config\": {}}", PICO_E_CORRUPT, "key model_config.sequence_len is missing"},
        {META(", \"use_mqa\": 1"), PICO_E_CORRUPT, "model_config.use_mqa is not true or false"},
        {META(", \"draft_n\": 2.0"), PICO_E_CORRUPT, "model_config.draft_n is not an integer"},
        {META(", \"draft_n\": 65"), PICO_E_CORRUPT, "draft_n is 65, expected 0 to 64"},
        {META(", \"window_pattern\": \"SXL\""), PICO_E_CORRUPT, "window_pattern: expected"},
        {META(", \"window_pattern\": \"\""), PICO_E_CORRUPT, "window_pattern: expected"},
        {META(", \"window_pattern\": [1]"), PICO_E_CORRUPT, "window_pattern: expected"},
        {META(", \"n_expert\": 8"), PICO_E_UNSUPPORTED, "key model_config.n_expert is not known"},
        {"{\"model_config\": {\"n_layer\": 99999}}", PICO_E_CORRUPT,
         "n_layer is 99999, expected 1 to 1024"},
        {"{\"model_config\": {\"sequence_len\": 600, \"vocab_size\": 40, \"n_layer\": 3, "
         "\"n_head\": 3, \"n_kv_head\": 1, \"n_embd\": 32}}",
         PICO_E_CORRUPT, "n_embd 32, n_head 3 and n_kv_head 1 do not fit"},
        {"{\"model_config\": {\"sequence_len\": 600, \"vocab_size\": 65, \"n_layer\": 3, "
         "\"n_head\": 2, \"n_kv_head\": 1, \"n_embd\": 32}}",
         PICO_E_CORRUPT, "padded vocabulary size is 64, expected 65"},
        {"{\"model_config\": {\"sequence_len\": 600, \"vocab_size\": 40, \"n_layer\": 4, "
         "\"n_head\": 2, \"n_kv_head\": 1, \"n_embd\": 32}}",
         PICO_E_CORRUPT, "(4)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_refused(&g2, cases[i].meta, PICO_GENERATION_AUTO, cases[i].status, cases[i].said);
    }
    /* one KV head whatever n_kv_head says */
    pico_model_file *file =
        read_ok(&g2,
                "{\"model_config\": {\"sequence_len\": 600, \"vocab_size\": 40, \"n_layer\": 3, "
                "\"n_head\": 2, \"n_kv_head\": 2, \"n_embd\": 32, \"use_mqa\": true}}",
                PICO_GENERATION_AUTO);
    assert_int_equal(file->desc.layer[0].n_kv_head, 1);
    pico_model_file_close(file);
}

/* ---- int8 exports ---- */

typedef struct export_case {
    int64_t bits;
    const char *without_scale, *extra_scale;
    double scale;
    int no_config;
} export_case;

/* The dict around the tensors of a small model. */
static pico_model_file *read_export(const export_case *e, pico_error *err) {
    static const struct {
        const char *key;
        int64_t value;
    } config[] = {{"sequence_len", 600}, {"vocab_size", 40}, {"n_layer", 3},
                  {"n_head", 2},         {"n_kv_head", 1},   {"n_embd", 32}};
    small s = g2;
    s.matrices = "CharStorage";
    size_t size;
    kit_checkpoint c = {.archive = kit_archive_begin()};
    kit_bytes *b = &c.pickle;
    kit_begin(b);
    kit_op(b, '}');
    kit_text(b, "quantized_weights");
    kit_op(b, '}');
    add_all(&c, &s);
    kit_op(b, 's');
    kit_text(b, "scales");
    kit_op(b, '}');
    pico_model_file *plain = read_ok(&g2, pattern_meta, PICO_GENERATION_AUTO);
    for (uint32_t i = 0; i < plain->n_tensor; i++) {
        pico_nanochat_name name;
        (void)pico_nanochat_name_of(&name, plain->tensor[i].name);
        if (plain->tensor[i].rank == 2 &&
            (e->without_scale == NULL || strcmp(name.text, e->without_scale) != 0)) {
            kit_text(b, name.text);
            kit_real(b, e->scale);
            kit_op(b, 's');
        }
    }
    pico_model_file_close(plain);
    if (e->extra_scale != NULL) {
        kit_text(b, e->extra_scale);
        kit_real(b, 1.0);
        kit_op(b, 's');
    }
    kit_op(b, 's');
    kit_text(b, "config");
    kit_op(b, e->no_config ? 'N' : '}');
    for (size_t i = 0; !e->no_config && i < 6; i++) {
        kit_text(b, config[i].key);
        kit_int(b, config[i].value);
        kit_op(b, 's');
    }
    kit_op(b, 's');
    kit_text(b, "bits");
    kit_int(b, e->bits);
    kit_op(b, 's');
    unsigned char *data = kit_checkpoint_end(&c, &size);
    return read_parts(data, size, NULL, PICO_GENERATION_AUTO, err);
}

static void exports(void **state) {
    (void)state;
    static const struct {
        export_case e;
        pico_status status;
        const char *said;
    } cases[] = {
        {{.bits = 8, .scale = 0.5}, PICO_OK, ""},
        {{.bits = 7, .scale = 0.5}, PICO_E_CORRUPT, "expected -64 to 63 for 7 bits"},
        {{.bits = 16, .scale = 0.5}, PICO_E_UNSUPPORTED, "key bits"},
        {{.bits = 0, .scale = 0.5}, PICO_E_UNSUPPORTED, "key bits"},
        {{.bits = 8, .scale = 0.5, .no_config = 1},
         PICO_E_CORRUPT,
         "key config: expected a dict, found None"},
        {{.bits = 8, .scale = 0.5, .without_scale = "lm_head.weight"},
         PICO_E_UNSUPPORTED,
         "tensor lm_head.weight is of type torch.CharStorage and has no scale"},
        {{.bits = 8, .scale = 0.5, .extra_scale = "lm_heads.weight"},
         PICO_E_CORRUPT,
         "key scales: there is no tensor lm_heads.weight"},
        {{.bits = 8, .scale = (double)INFINITY}, PICO_E_CORRUPT, "expected a finite number"},
        {{.bits = 8, .scale = 1e300}, PICO_E_CORRUPT, "expected a finite number"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pico_error err = {0};
        pico_model_file *file = read_export(&cases[i].e, &err);
        if ((file != NULL) != (cases[i].status == PICO_OK) ||
            (file == NULL &&
             (err.code != cases[i].status || strstr(err.message, cases[i].said) == NULL))) {
            fail_msg("case %zu: expected \"%s\", got %d \"%s\"", i, cases[i].said, (int)err.code,
                     err.message);
        }
        if (file != NULL) {
            const pico_weight_desc *w = &pico_model_file_find(file, "output.weight")->data;
            float row[C];
            pico_weight_row_f32(w, 63, row);
            assert_true(fabsf(row[5] - 0.5f * (float)((const int8_t *)w->codes)[63 * C + 5]) <
                        1e-6f);
            assert_survives_gguf(file, NULL);
        }
        pico_model_file_close(file);
    }
}

/* ---- damage ---- */

/* Any cut and any flipped bit of a small checkpoint: a message or a model, never more. */
static void any_damage_is_survived(void **state) {
    (void)state;
    size_t size;
    kit_checkpoint c = kit_checkpoint_begin();
    add_all(&c, &g4);
    unsigned char *whole = kit_checkpoint_end(&c, &size);
    pico_error err = {0};
    size_t n_opened = 0, n = 0;
    for (size_t i = 0; i < size; i += i < size - 6000 ? 199 : 1) { /* the directory is at the end */
        unsigned char *copy = malloc(size);
        memcpy(copy, whole, size);
        copy[i] = (unsigned char)(copy[i] ^ 1u << i % 8);
        pico_model_file *file = read_parts(copy, size, pattern_meta, PICO_GENERATION_AUTO, &err);
        n_opened += file != NULL; /* times of entries, for example, do not matter */
        n++;
        pico_model_file_close(file);
        copy = malloc(i + 1);
        memcpy(copy, whole, i);
        assert_null(read_parts(copy, i, pattern_meta, PICO_GENERATION_AUTO, &err));
    }
    assert_true(n_opened < n / 2);
    free(whole);
}

/* Damage in the pickle itself, with a checksum that fits: not for libzip to find. */
static void any_damage_of_the_pickle_is_survived(void **state) {
    (void)state;
    pico_error err = {0};
    size_t n_opened = 0, n = 1;
    for (size_t i = 0; i < n; i += 7) {
        size_t size;
        kit_checkpoint c = kit_checkpoint_begin();
        add_all(&c, &g4);
        n = c.pickle.n;
        c.pickle.data[i] = (unsigned char)(c.pickle.data[i] ^ 1u << i / 7 % 8);
        unsigned char *data = kit_checkpoint_end(&c, &size);
        pico_model_file *file = read_parts(data, size, pattern_meta, PICO_GENERATION_AUTO, &err);
        n_opened += file != NULL; /* the device that tensors were on, for example */
        pico_model_file_close(file);
    }
    assert_true(n_opened > 0 && n_opened < n / 14);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(infers_generations),
        cmocka_unit_test(windows_without_a_pattern),
        cmocka_unit_test(overrides),
        cmocka_unit_test(contradictions),
        cmocka_unit_test(missing_and_left_over_tensors),
        cmocka_unit_test(extra_heads),
        cmocka_unit_test(absurd_sizes_of_extra_heads),
        cmocka_unit_test(types),
        cmocka_unit_test(metadata),
        cmocka_unit_test(exports),
        cmocka_unit_test(any_damage_is_survived),
        cmocka_unit_test(any_damage_of_the_pickle_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
