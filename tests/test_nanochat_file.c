/* layers: formats */
/*
 * nanochat checkpoints: what the fixtures of each generation say, their tensors against checksums
 * that another program computed, the int8 export, the way through GGUF, and what is refused.
 */
#include "formats_support.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/nanochat.h"
#include "torch_kit.h"

/* ---- fixtures ---- */

#define FLAGS (PICO_EMBED_NORM | PICO_QK_NORM | PICO_ROPE_REVERSED)

/* What all generations share. */
#define COMMON                                                                                     \
    .family = "nanochat", .norm = PICO_NORM_RMS, .norm_eps = 1.1920928955078125e-07f,              \
    .pos = PICO_POS_ROPE, .rope_layout = PICO_ROPE_HALVES, .act = PICO_ACT_RELU_SQUARED,           \
    .logit_softcap = 15.0f

/* {heads, KV heads, head width, feed-forward width, window, value embedding} */
static const pico_layer_desc g0_layers[] = {
    {2, 2, 48, 384, -1, 0}, {2, 2, 48, 384, -1, 0}, {2, 2, 48, 384, -1, 0}, {2, 2, 48, 384, -1, 0}};
static const pico_layer_desc g2_mqa_layers[] = {{3, 1, 32, 384, 64, 0},
                                                {3, 1, 32, 384, 64, 1},
                                                {3, 1, 32, 384, 64, 0},
                                                {3, 1, 32, 384, 128, 1}};
static const pico_layer_desc g2_mha_layers[] = {{2, 2, 32, 256, 64, 0}, {2, 2, 32, 256, 64, 1},
                                                {2, 2, 32, 256, 64, 0}, {2, 2, 32, 256, 128, 1},
                                                {2, 2, 32, 256, 64, 0}, {2, 2, 32, 256, 128, 1}};
static const pico_layer_desc g2_gqa_layers[] = {{4, 2, 32, 512, 64, 0},
                                                {4, 2, 32, 512, 128, 1},
                                                {4, 2, 32, 512, 64, 0},
                                                {4, 2, 32, 512, 128, 1}};
static const pico_layer_desc g4_layers[] = {{3, 1, 32, 384, 128, 0},
                                            {3, 1, 32, 384, 128, 1},
                                            {3, 1, 32, 384, 128, 0},
                                            {3, 1, 32, 384, 256, 1}};

/* crc: CRC-32 of the bytes of all tensors in canonical order, scales behind their codes; value: the
 * last one of attn_v of the last layer. */
typedef struct fixture {
    const char *folder, *file, *format, *tokenizer;
    uint32_t n_tensor, crc;
    uint64_t bytes;
    float value;
    pico_model_desc desc;
} fixture;

static const fixture fixtures[] = {
    {"nanochat/g0",
     "model_000650.pt",
     "nanochat checkpoint, generation g0",
     "tokenizer_a",
     26,
     0xe51a46f4u,
     2080512,
     -0.06871723383665085f,
     {COMMON, .n_layer = 4, .n_embd = 96, .n_vocab = 540, .n_vocab_rows = 540, .n_ctx_train = 256,
      .flags = FLAGS, .rope_dim = 48, .rope_table = PICO_DTYPE_BF16, .rope_base = 10000.0,
      .qk_scale = 1.0f, .backout_layer = -1, .layer = g0_layers}},
    {"nanochat/g2_mqa",
     "model_006000.pt",
     "nanochat checkpoint, generation g2",
     "tokenizer_a",
     37,
     0x0b9ee6cau,
     3075360,
     -0.046690795570611954f,
     {COMMON, .n_layer = 4, .n_embd = 96, .n_vocab = 540, .n_vocab_rows = 576, .n_ctx_train = 128,
      .flags = FLAGS | PICO_RESID_LAMBDAS, .rope_dim = 32, .rope_table = PICO_DTYPE_BF16,
      .rope_base = 10000.0, .qk_scale = 1.0f, .ve_width = 32, .ve_scale = 2.0f, .backout_layer = -1,
      .n_mtp_head = 3, .n_draft = 4, .draft_hidden = 48, .layer = g2_mqa_layers}},
    {"nanochat/g2_mha",
     "model_002000.pt",
     "nanochat checkpoint, generation g2",
     "tokenizer_a",
     46,
     0x21b20794u,
     1622832,
     0.23225079476833344f,
     {COMMON, .n_layer = 6, .n_embd = 64, .n_vocab = 540, .n_vocab_rows = 576, .n_ctx_train = 128,
      .flags = FLAGS | PICO_RESID_LAMBDAS, .rope_dim = 32, .rope_table = PICO_DTYPE_BF16,
      .rope_base = 10000.0, .qk_scale = 1.0f, .ve_width = 32, .ve_scale = 2.0f, .backout_layer = -1,
      .layer = g2_mha_layers}},
    {"nanochat/g2_mha",
     "g2_mha_step2000_int8.pt",
     "nanochat int8 export, g2",
     "tokenizer_a",
     46,
     0x39e370fcu,
     479648,
     92.0f * 0.0025110156275331974f,
     {COMMON, .n_layer = 6, .n_embd = 64, .n_vocab = 540, .n_vocab_rows = 576, .n_ctx_train = 128,
      .flags = FLAGS | PICO_RESID_LAMBDAS, .rope_dim = 32, .rope_table = PICO_DTYPE_BF16,
      .rope_base = 10000.0, .qk_scale = 1.0f, .ve_width = 32, .ve_scale = 2.0f, .backout_layer = -1,
      .layer = g2_mha_layers}},
    {"nanochat/g2_gqa",
     "model_002000.pt",
     "nanochat checkpoint, generation g2",
     "tokenizer_a",
     32,
     0x699f04f4u,
     3473952,
     0.08202436566352844f,
     {COMMON, .n_layer = 4, .n_embd = 128, .n_vocab = 540, .n_vocab_rows = 576, .n_ctx_train = 128,
      .flags = FLAGS | PICO_RESID_LAMBDAS, .rope_dim = 32, .rope_table = PICO_DTYPE_BF16,
      .rope_base = 10000.0, .qk_scale = 1.0f, .ve_width = 32, .ve_scale = 2.0f, .backout_layer = -1,
      .layer = g2_gqa_layers}},
    {"nanochat/g4",
     "model_003200.pt",
     "nanochat checkpoint, generation g4",
     "tokenizer_b",
     35,
     0x2f20eb69u,
     1933544,
     0.0888901799917221f,
     {COMMON, .n_layer = 4, .n_embd = 96, .n_vocab = 512, .n_vocab_rows = 512, .n_ctx_train = 256,
      .flags = FLAGS | PICO_RESID_LAMBDAS, .rope_dim = 32, .rope_table = PICO_DTYPE_F32,
      .rope_base = 100000.0, .qk_scale = 1.2f, .smear_width = 24, .ve_width = 12, .ve_scale = 3.0f,
      .backout_layer = 2, .layer = g4_layers}},
};

static uint32_t crc32_of(uint32_t crc, const void *data, uint64_t n) {
    const unsigned char *bytes = data;
    crc = ~crc;
    for (uint64_t i = 0; i < n; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1)));
        }
    }
    return ~crc;
}

static float last_value(const pico_weight_desc *w) {
    float *row = malloc((size_t)w->cols * sizeof *row);
    assert_non_null(row);
    pico_weight_row_f32(w, w->rows - 1, row);
    float value = row[w->cols - 1];
    free(row);
    return value;
}

static void check_tensors(const pico_model_file *file, const fixture *f) {
    char name[64];
    uint32_t crc = 0;
    uint64_t bytes = 0;
    assert_int_equal(file->n_tensor, f->n_tensor);
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const pico_weight_desc *w = &file->tensor[i].data;
        crc = crc32_of(crc, w->codes, w->codes_bytes);
        crc = crc32_of(crc, w->scales, 4 * w->n_scales);
        bytes += file->tensor[i].bytes;
        assert_int_equal((uintptr_t)w->codes % 64, 0);
    }
    assert_int_equal(bytes, f->bytes);
    assert_int_equal(crc, f->crc);
    (void)snprintf(name, sizeof name, "blk.%u.attn_v.weight", f->desc.n_layer - 1);
    float value = last_value(&pico_model_file_find(file, name)->data);
    assert_true(fabsf(value - f->value) <= 1e-7f);
}

/* Description and every byte; then to GGUF and back, alone and with the tokenizer. */
static void reads_fixture(void **state) {
    const fixture *f = *state;
    fixture_path path, tokenizer;
    char name[128];
    (void)snprintf(name, sizeof name, "%s/%s", f->folder, f->file);
    (void)find_fixture(&path, name);
    pico_model_file *file = open_ok(path.text, NULL);
    assert_int_equal(file->format, PICO_FORMAT_TORCH);
    assert_string_equal(file->format_name, f->format);
    assert_int_equal(file->vocab.kind, PICO_VOCAB_NONE);
    assert_same_desc(&file->desc, &f->desc);
    check_tensors(file, f);
    assert_survives_gguf(file, NULL);
    pico_model_file_close(file);
    file = open_ok(path.text, find_fixture(&tokenizer, f->tokenizer));
    assert_int_equal(file->vocab.kind, PICO_VOCAB_BPE);
    assert_survives_gguf(file, NULL);
    pico_model_file_close(file);
}

/* The export's codes are the checkpoint's weights within half a step. */
static void int8_is_near_the_weights(void **state) {
    (void)state;
    fixture_path exported, original;
    (void)find_fixture(&exported, "nanochat/g2_mha/g2_mha_step2000_int8.pt");
    (void)find_fixture(&original, "nanochat/g2_mha/model_002000.pt");
    pico_model_file *q = open_ok(exported.text, NULL), *f = open_ok(original.text, NULL);
    float a[256], b[256];
    for (uint32_t i = 0; i < q->n_tensor; i++) {
        const pico_weight_desc *v = &q->tensor[i].data, *w = &f->tensor[i].data;
        float step = 0.0f;
        assert_string_equal(q->tensor[i].name, f->tensor[i].name);
        assert_int_equal(v->dtype, q->tensor[i].rank == 2 ? PICO_DTYPE_I8 : PICO_DTYPE_F32);
        if (v->dtype == PICO_DTYPE_I8) {
            assert_int_equal(v->group, 0);
            memcpy(&step, v->scales, sizeof step);
        }
        for (int64_t r = 0; r < v->rows; r++) {
            pico_weight_row_f32(v, r, a);
            pico_weight_row_f32(w, r, b);
            for (int64_t j = 0; j < v->cols; j++) {
                assert_true(fabsf(a[j] - b[j]) <= 0.501f * step);
            }
        }
    }
    pico_model_file_close(q);
    pico_model_file_close(f);
}

/* ---- small checkpoints made here ---- */

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

/* ---- folders ---- */

typedef struct folder {
    char path[64];
} folder;

static folder make_folder(void) {
    folder f = {"/tmp/picochat-test-XXXXXX"};
    assert_non_null(mkdtemp(f.path));
    return f;
}

static void in_folder(char out[256], const folder *f, const char *name) {
    (void)snprintf(out, 256, "%s/%s", f->path, name);
}

static void touch(const folder *f, const char *name) {
    char path[256];
    in_folder(path, f, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    (void)fclose(file);
}

static void remove_folder(const folder *f) {
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", f->path);
    assert_int_equal(system(command), 0);
}

static void expect_found(const folder *f, pico_status status, const char *end) {
    pico_arena arena = {0};
    pico_error err = {0};
    const char *found = NULL;
    assert_int_equal(pico_nanochat_find(f->path, &arena, &found, &err), status);
    const char *text = status == PICO_OK ? found : err.message;
    size_t n = strlen(text), n_end = strlen(end);
    if (n < n_end || strcmp(text + n - n_end, end) != 0) {
        fail_msg("expected \"%s\" at the end of \"%s\"", end, text);
    }
    pico_arena_free(&arena);
}

/* The largest step, by number; else the only .pt that is no optimiser's. */
static void finds_checkpoints(void **state) {
    (void)state;
    folder f = make_folder();
    expect_found(&f, PICO_E_NOT_FOUND, "no checkpoint (model_*.pt)");
    touch(&f, "optim_000100_rank0.pt");
    touch(&f, "meta_000100.json");
    expect_found(&f, PICO_E_NOT_FOUND, "no checkpoint (model_*.pt)");
    touch(&f, "tiny_int8.pt");
    expect_found(&f, PICO_OK, "/tiny_int8.pt");
    touch(&f, "other.pt");
    expect_found(&f, PICO_E_INVALID, "2 .pt files and no model_*.pt: name the one to open");
    touch(&f, "model_000999.pt");
    touch(&f, "model_001000.pt");
    touch(&f, "model_last.pt");
    expect_found(&f, PICO_OK, "/model_001000.pt");
    touch(&f, "model_10000000.pt");
    expect_found(&f, PICO_OK, "/model_10000000.pt");
    remove_folder(&f);
}

static void link_fixture(const folder *f, const char *name, const char *fixture_name) {
    fixture_path from;
    char to[256];
    in_folder(to, f, name);
    assert_int_equal(symlink(find_fixture(&from, fixture_name), to), 0);
}

/* Where nanochat keeps things: BASE/base_checkpoints/TAG and BASE/tokenizer. */
static void finds_the_tokenizer(void **state) {
    (void)state;
    folder f = make_folder();
    char path[256];
    for (size_t i = 0; i < 3; i++) {
        static const char *const folders[] = {"base_checkpoints", "base_checkpoints/d4",
                                              "tokenizer"};
        in_folder(path, &f, folders[i]);
        assert_int_equal(mkdir(path, 0777), 0);
    }
    link_fixture(&f, "base_checkpoints/d4/model_003200.pt", "nanochat/g4/model_003200.pt");
    in_folder(path, &f, "base_checkpoints/d4");
    pico_error err = {0};
    pico_model_file *file = NULL;
    assert_int_equal(pico_model_file_open(path, NULL, &file, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "meta_003200.json beside it"));
    link_fixture(&f, "base_checkpoints/d4/meta_003200.json", "nanochat/g4/meta_003200.json");
    file = open_ok(path, NULL);
    assert_int_equal(file->vocab.kind, PICO_VOCAB_NONE);
    pico_model_file_close(file);
    link_fixture(&f, "tokenizer/tokenizer.pkl", "tokenizer_b/tokenizer.pkl");
    file = open_ok(path, NULL);
    assert_int_equal(file->vocab.n_piece, 512);
    pico_model_file_close(file);
    (void)strcat(path, "/model_003200.pt");
    file = open_ok(path, NULL);
    assert_int_equal(file->vocab.n_piece, 512);
    pico_model_file_close(file);
    /* one beside the model goes first, and must belong to it */
    link_fixture(&f, "base_checkpoints/d4/tokenizer.pkl", "tokenizer_a/tokenizer.pkl");
    assert_int_equal(pico_model_file_open(path, NULL, &file, &err), PICO_E_CORRUPT);
    assert_non_null(strstr(err.message, "do not belong together"));
    remove_folder(&f);
}

/* Metadata that are no file, or no metadata by their size, are refused by name. */
static void odd_metadata_are_refused(void **state) {
    (void)state;
    folder f = make_folder();
    char path[256];
    pico_error err = {0};
    pico_model_file *file = NULL;
    link_fixture(&f, "model_003200.pt", "nanochat/g4/model_003200.pt");
    in_folder(path, &f, "meta_003200.json");
    assert_int_equal(mkfifo(path, 0600), 0);
    (void)alarm(20); /* ends a test that waits for a writer */
    assert_int_equal(pico_model_file_open(f.path, NULL, &file, &err), PICO_E_IO);
    assert_non_null(strstr(err.message, "meta_003200.json: not a regular file"));
    (void)alarm(0);
    assert_int_equal(unlink(path), 0);
    touch(&f, "meta_003200.json");
    assert_int_equal(pico_model_file_open(f.path, NULL, &file, &err), PICO_E_CORRUPT);
    assert_non_null(strstr(err.message, "meta_003200.json: line 1, column 0: not JSON"));
    assert_int_equal(truncate(path, 2 << 20), 0);
    assert_int_equal(pico_model_file_open(f.path, NULL, &file, &err), PICO_E_LIMIT);
    assert_non_null(strstr(err.message, "meta_003200.json: 2097152 bytes"));
    remove_folder(&f);
}

#define FIXTURE(i)                                                                                 \
    {                                                                                              \
        .name = fixtures[i].format, .test_func = reads_fixture,                                    \
        .initial_state = (void *)(uintptr_t)&fixtures[i]                                           \
    }

int main(void) {
    const struct CMUnitTest tests[] = {
        FIXTURE(0),
        FIXTURE(1),
        FIXTURE(2),
        FIXTURE(3),
        FIXTURE(4),
        FIXTURE(5),
        cmocka_unit_test(int8_is_near_the_weights),
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
        cmocka_unit_test(finds_checkpoints),
        cmocka_unit_test(finds_the_tokenizer),
        cmocka_unit_test(odd_metadata_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
