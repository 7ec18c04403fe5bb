/* layers: formats */
/* GGUF: descriptions and layouts both ways, and that damaged and hostile files are refused. */
#include "formats_support.h"

#include "formats/gguf.h"

/* ---- vocabularies ---- */

static void reads_vocabulary_files(void **state) {
    (void)state;
    skip_without(SHARED("data/tokenizers/gguf/ggml-vocab-llama-spm.gguf"));
    pico_model_file *s = open_ok(SHARED("data/tokenizers/gguf/ggml-vocab-llama-spm.gguf"), NULL);
    pico_model_file *b = open_ok(SHARED("data/tokenizers/gguf/ggml-vocab-gpt-2.gguf"), NULL);
    assert_int_equal(s->desc.n_layer, 0); /* although it has llama.* keys */
    assert_string_equal(s->name, "llama-spm");
    assert_int_equal(s->vocab.kind, PICO_VOCAB_SPM);
    assert_int_equal(s->vocab.n_piece, 32000);
    assert_int_equal(s->vocab.piece[3].type, PICO_PIECE_BYTE);
    assert_int_equal(s->vocab.bos, 1);
    assert_int_equal(s->vocab.unk, 0);
    assert_int_equal(s->vocab.add_bos, 1);
    assert_int_equal(s->vocab.add_space_prefix, 1); /* by default */
    assert_int_equal(s->vocab.llama2c, 0);
    assert_int_equal(b->desc.n_layer, 0);
    assert_int_equal(b->vocab.kind, PICO_VOCAB_BPE);
    assert_int_equal(b->vocab.n_merge, 50000);
    assert_memory_equal(b->vocab.merge[0].text, "\xc4\xa0 t", 4);
    assert_string_equal(b->vocab.pre, "gpt-2");
    assert_int_equal(b->vocab.bos, 50256);
    assert_int_equal(b->vocab.add_bos, 0);
    assert_int_equal(b->vocab.add_space_prefix, 0);
    assert_survives_gguf(s, NULL);
    assert_survives_gguf(b, NULL);
    pico_model_file_close(s);
    pico_model_file_close(b);
}

/* Ids that are absent, and a chat template, survive too: absence is written where a reader would
 * otherwise assume an id. */
static void unusual_vocabularies_survive(void **state) {
    (void)state;
    const pico_piece pieces[4] = {{"<unk>", 5, PICO_PIECE_UNKNOWN, 0.0f},
                                  {"a", 1, PICO_PIECE_NORMAL, -1.5f},
                                  {"", 0, PICO_PIECE_UNUSED, -2.0f},
                                  {"<|im_end|>", 10, PICO_PIECE_USER, 0.0f}};
    const pico_piece merges[1] = {{"a b", 3, 0, 0.0f}};
    pico_model_file file = {
        .name = "vocab",
        .desc = {.family = "picochat", .backout_layer = -1, .n_vocab = 4, .n_vocab_rows = 4},
        .vocab = {.kind = PICO_VOCAB_SPM,
                  .n_piece = 4,
                  .piece = pieces,
                  .bos = -1,
                  .eos = 3,
                  .unk = -1,
                  .pad = 2,
                  .eot = -1,
                  .add_eos = 1,
                  .chat_template = "{{ messages }}"}};
    assert_survives_gguf(&file, NULL);
    file.vocab.kind = PICO_VOCAB_BPE;
    file.vocab.merge = merges;
    file.vocab.n_merge = 1;
    file.vocab.pre = "llama-bpe";
    file.vocab.eot = 3;
    assert_survives_gguf(&file, NULL);
    file.vocab.llama2c = 1; /* not the usual control pieces: kept as they are */
    assert_survives_gguf(&file, NULL);
}

/* ---- descriptions ---- */

static uint32_t next_random(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static uint32_t pick(uint32_t *seed, uint32_t min, uint32_t max) {
    return min + next_random(seed) % (max - min + 1);
}

static const int32_t draft_ids[3] = {0, 1, 2};

/* Any combination of features, with every field of the description in play. */
static pico_model_desc random_desc(uint32_t *seed, pico_layer_desc *layer) {
    pico_model_desc d = small_llama(layer, 2);
    (void)snprintf(d.family, sizeof d.family, "family%u", pick(seed, 0, 99));
    d.n_embd = 2 * pick(seed, 4, 12);
    d.n_vocab = pick(seed, 3, 20);
    d.n_vocab_rows = d.n_vocab + pick(seed, 0, 5);
    d.n_ctx_train = pick(seed, 1, 40);
    d.flags = next_random(seed) & 2047u;
    d.norm = pick(seed, 1, 2);
    d.norm_eps = 1e-7f * (float)pick(seed, 0, 1000);
    d.pos = pick(seed, 1, 2);
    d.rope_layout = pick(seed, 1, 2);
    d.rope_dim = 2 * pick(seed, 1, 2);
    d.rope_table = pick(seed, 0, 1) ? PICO_DTYPE_F32 : PICO_DTYPE_BF16;
    d.rope_base = 100.1 * pick(seed, 1, 1000);
    d.act = pick(seed, 1, 4);
    d.attn_scale = 0.25f * (float)pick(seed, 0, 4);
    d.qk_scale = 0.1f * (float)pick(seed, 1, 20);
    d.logit_softcap = (float)pick(seed, 0, 30);
    int plain_norm = (d.flags & PICO_EMBED_NORM) == 0 || (d.flags & PICO_NORM_BIAS) == 0;
    int can_smear = d.pos == PICO_POS_ROPE && d.norm_eps > 0.0f && plain_norm;
    d.smear_width = can_smear ? pick(seed, 0, 4) : 0;
    d.ve_width = pick(seed, 1, 8);
    d.ve_scale = (float)pick(seed, 0, 3);
    d.backout_layer = (int32_t)pick(seed, 0, 2) - 1;
    d.n_mtp_head = pick(seed, 0, 3);
    d.n_draft = pick(seed, 0, 3);
    d.draft_hidden = d.n_draft == 0 ? 0 : pick(seed, 1, 9);
    if (d.n_draft != 0 && pick(seed, 0, 1)) {
        d.draft_flags = PICO_DRAFT_SHARED_OUTPUT;
        d.n_draft_vocab = pick(seed, 0, 3);
        d.draft_vocab = draft_ids;
    }
    for (int i = 0; i < 2; i++) {
        uint32_t n_kv = pick(seed, 1, 3);
        layer[i] = (pico_layer_desc){.n_head = n_kv * pick(seed, 1, 3),
                                     .n_kv_head = n_kv,
                                     .head_dim = pick(seed, 4, 7),
                                     .n_ff = pick(seed, 1, 30),
                                     .window = (int32_t)pick(seed, 0, 9) - 1,
                                     .has_value_embed = pick(seed, 0, 1)};
    }
    return d;
}

static void every_description_survives(void **state) {
    (void)state;
    uint32_t seed = 7;
    for (int i = 0; i < 100; i++) {
        pico_layer_desc layer[2];
        pico_model_desc desc = random_desc(&seed, layer);
        pico_model_file *file = model_in_memory(&desc);
        assert_false(pico_gguf_desc_is_llama(&desc));
        assert_survives_gguf(file, NULL);
        pico_model_file_close(file);
    }
}

/* An ordinary Llama uses the standard keys, also with pruned layers; anything else must not, since
 * other programs would compute it wrongly. */
static void llama_only_where_the_standard_says_it_all(void **state) {
    (void)state;
    pico_layer_desc layer[2];
    pico_model_desc d = small_llama(layer, 2);
    layer[1] =
        (pico_layer_desc){.n_head = 2, .n_kv_head = 1, .head_dim = 8, .n_ff = 40, .window = -1};
    d.n_vocab = 45; /* of 48 rows */
    assert_true(pico_gguf_desc_is_llama(&d));
    pico_model_file *file = model_in_memory(&d);
    assert_survives_gguf(file, NULL);
    pico_model_file_close(file);
    layer[0].window = 16;
    assert_false(pico_gguf_desc_is_llama(&d));
    layer[0].window = -1;
    layer[1].head_dim = 16;
    assert_false(pico_gguf_desc_is_llama(&d));
    layer[1].head_dim = 8;
    d.rope_base = 10000.1; /* no F32 value */
    assert_false(pico_gguf_desc_is_llama(&d));
    d.rope_base = 5e5;
    assert_true(pico_gguf_desc_is_llama(&d));
    d.rope_layout = PICO_ROPE_HALVES;
    assert_false(pico_gguf_desc_is_llama(&d));
    d.rope_layout = PICO_ROPE_PAIRS;
    d.attn_scale = 0.5f;
    assert_false(pico_gguf_desc_is_llama(&d));
}

static void descriptions_are_checked(void **state) {
    (void)state;
    pico_layer_desc layer[2];
    const pico_model_desc good = small_llama(layer, 2);
    pico_error err = {0};
#define REFUSED(field, bad, says)                                                                  \
    do {                                                                                           \
        pico_model_desc d_ = good;                                                                 \
        d_.field = (bad);                                                                          \
        assert_int_equal(pico_desc_check(&d_, &err), PICO_E_CORRUPT);                              \
        assert_non_null(strstr(err.message, says));                                                \
    } while (0)
    assert_int_equal(pico_desc_check(&good, &err), PICO_OK);
    REFUSED(n_layer, PICO_MAX_LAYER + 1, "layers");
    REFUSED(n_embd, PICO_MAX_WIDTH + 1, "n_embd");
    REFUSED(n_vocab, 49, "padded vocabulary");
    REFUSED(flags, 1u << 20, "flags");
    REFUSED(norm, 3, "norm kind");
    REFUSED(norm_eps, -1.0f, "epsilon");
    REFUSED(rope_base, 0.0, "rope base");
    REFUSED(rope_dim, 10, "rope turns 10");
    REFUSED(rope_layout, 0, "rope layout");
    REFUSED(rope_table, PICO_DTYPE_F16, "rope table");
    REFUSED(backout_layer, 2, "backout");
    REFUSED(n_draft, 1, "draft");
    REFUSED(draft_flags, PICO_DRAFT_SHARED_OUTPUT, "flags of the draft head");
    REFUSED(family[0], '\0', "family");
#undef REFUSED
    layer[1].n_kv_head = 3;
    assert_int_equal(pico_desc_check(&good, &err), PICO_E_CORRUPT);
    assert_non_null(strstr(err.message, "layer 1: "));
}

/* The forward pass takes zeros for the embedding before the first token, and no places into account. */
static void smear_goes_with_what_it_was_made_for(void **state) {
    (void)state;
    pico_layer_desc layer[2];
    pico_error err = {0};
    pico_model_desc d = small_llama(layer, 2);
    d.smear_width = 8;
    d.norm_eps = 0.0f;
    assert_int_equal(pico_desc_check(&d, &err), PICO_OK);
    d.flags |= PICO_EMBED_NORM;
    assert_int_equal(pico_desc_check(&d, &err), PICO_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "norm without epsilon"));
    d.norm_eps = 1e-5f;
    assert_int_equal(pico_desc_check(&d, &err), PICO_OK);
    d.flags |= PICO_NORM_BIAS;
    assert_int_equal(pico_desc_check(&d, &err), PICO_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "bias"));
    d.flags &= ~(uint32_t)PICO_NORM_BIAS;
    d.pos = PICO_POS_LEARNED;
    assert_int_equal(pico_desc_check(&d, &err), PICO_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "learned positions"));
}

/* ---- layouts ---- */

static void put_blob(pico_model_file *file, pico_file_tensor *t, uint32_t dtype, int64_t group,
                     uint32_t scale_dtype) {
    pico_weight_desc *w = &t->data;
    w->dtype = dtype;
    w->group = group;
    w->codes_bytes = pico_weight_codes_bytes(dtype, w->rows, w->cols);
    w->n_scales = pico_weight_n_scales(dtype, w->rows, w->cols, group);
    assert_true(w->codes_bytes != 0);
    unsigned char *codes = pico_arena_alloc(&file->arena, (size_t)w->codes_bytes, 1);
    assert_non_null(codes);
    for (uint64_t i = 0; i < w->codes_bytes; i++) {
        codes[i] = (unsigned char)(i * 37 + 11);
    }
    w->codes = codes;
    t->bytes = w->codes_bytes;
    if (w->n_scales != 0) {
        uint64_t width = scale_dtype == PICO_DTYPE_F16 ? 2 : 4;
        w->scale_dtype = scale_dtype;
        w->scales = pico_arena_alloc(&file->arena, (size_t)w->n_scales, (size_t)width);
        t->bytes += w->n_scales * width;
    }
}

/* Every layout and everything that may surround one goes through the file unchanged. */
static void every_layout_survives(void **state) {
    (void)state;
    pico_layer_desc layer[2];
    pico_model_desc desc = small_llama(layer, 2);
    pico_model_file *file = model_in_memory(&desc);
    static const float book[16] = {-1.0f, 0.5f};
    static const int32_t outliers[2] = {3, 30};
    static const uint16_t kept[64 * 2] = {0x3c00};
    int32_t perm[32];
    float scale[32];
    for (int i = 0; i < 32; i++) {
        perm[i] = 31 - i;
        scale[i] = 1.0f + (float)i;
    }
    static const struct {
        const char *name;
        uint32_t dtype, scale_dtype;
        int64_t group;
        uint32_t input;
    } layouts[] = {
        {"token_embd.weight", PICO_DTYPE_F16, 0, 0, PICO_INPUT_FLOAT},
        {"output.weight", PICO_DTYPE_BF16, 0, 0, PICO_INPUT_AUTO},
        {"blk.0.attn_q.weight", PICO_DTYPE_Q8_0, 0, 0, PICO_INPUT_GROUP},
        {"blk.0.attn_k.weight", PICO_DTYPE_Q4_0, 0, 0, PICO_INPUT_ROW},
        {"blk.0.attn_v.weight", PICO_DTYPE_I8, PICO_DTYPE_F32, 0, PICO_INPUT_ROW},
        {"blk.0.attn_output.weight", PICO_DTYPE_I8, PICO_DTYPE_F32, 32, PICO_INPUT_GROUP},
        {"blk.0.ffn_gate.weight", PICO_DTYPE_I8, PICO_DTYPE_F16, 12, PICO_INPUT_FLOAT},
        {"blk.0.ffn_up.weight", PICO_DTYPE_NF4, PICO_DTYPE_F32, 16, PICO_INPUT_FLOAT},
        {"blk.0.ffn_down.weight", PICO_DTYPE_NF4, PICO_DTYPE_F16, 0, PICO_INPUT_AUTO},
        {"blk.1.attn_v.weight", PICO_DTYPE_Q4_0, 0, 0, PICO_INPUT_AUTO},
        {"blk.1.ffn_up.weight", PICO_DTYPE_Q8_0, 0, 0, PICO_INPUT_AUTO},
        {"blk.1.ffn_gate.weight", PICO_DTYPE_NF4, PICO_DTYPE_F32, 16, PICO_INPUT_AUTO},
        {"blk.1.ffn_down.weight", PICO_DTYPE_I8, PICO_DTYPE_F16, 1, PICO_INPUT_AUTO},
    };
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        pico_file_tensor *t =
            (pico_file_tensor *)(uintptr_t)pico_model_file_find(file, layouts[i].name);
        put_blob(file, t, layouts[i].dtype, layouts[i].group, layouts[i].scale_dtype);
        t->data.codebook = layouts[i].dtype == PICO_DTYPE_NF4 ? book : NULL;
        t->data.input_quant = layouts[i].input;
    }
    static const char *const surrounded[] = {"blk.0.ffn_gate.weight", "blk.1.ffn_gate.weight",
                                             "blk.1.ffn_up.weight", "blk.1.attn_k.weight"};
    pico_file_tensor *t = NULL;
    for (size_t i = 0; i < sizeof surrounded / sizeof *surrounded; i++) {
        t = (pico_file_tensor *)(uintptr_t)pico_model_file_find(file, surrounded[i]);
        t->data.input_perm = perm;
        t->data.input_scale = scale;
        t->data.outlier_col = outliers;
        t->data.outlier_value = kept;
        t->data.n_outlier = 2;
    }
    t = (pico_file_tensor *)(uintptr_t)pico_model_file_find(file, "blk.1.attn_v.weight");
    t->data.input_scale = scale; /* beside 4-bit blocks, as scaling by activations leaves them */
    t = (pico_file_tensor *)(uintptr_t)pico_model_file_find(file, "blk.1.attn_q.weight");
    t->data.input_scale = scale; /* beside a layout that ggml knows */
    assert_survives_gguf(file, NULL);
    pico_model_file_close(file);
}

/* Rows of a weight as a weight of their own have the values that they had, in every layout. */
static void rows_can_be_gathered(void **state) {
    (void)state;
    enum { ROWS = 40, COLS = 64 };
    static const int32_t row[5] = {0, 3, 17, 18, ROWS - 1}, outliers[2] = {3, 30};
    static const struct {
        uint32_t dtype, scale_dtype;
        int64_t group;
    } layouts[] = {{PICO_DTYPE_F32, 0, 0},
                   {PICO_DTYPE_F16, 0, 0},
                   {PICO_DTYPE_BF16, 0, 0},
                   {PICO_DTYPE_Q8_0, 0, 0},
                   {PICO_DTYPE_Q4_0, 0, 0},
                   {PICO_DTYPE_I8, PICO_DTYPE_F32, 0},
                   {PICO_DTYPE_I8, PICO_DTYPE_F32, COLS},
                   {PICO_DTYPE_I8, PICO_DTYPE_F16, 12},
                   {PICO_DTYPE_NF4, PICO_DTYPE_F32, 16},
                   {PICO_DTYPE_NF4, PICO_DTYPE_F16, 0}};
    float book[16], want[COLS], got[COLS];
    uint16_t kept[ROWS * 2];
    for (int i = 0; i < 16; i++) {
        book[i] = 0.1f * (float)i - 0.7f;
    }
    for (int i = 0; i < ROWS * 2; i++) {
        kept[i] = (uint16_t)(0x3c00 + 5 * i);
    }
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        pico_model_file file = {0};
        pico_file_tensor t = {.data = {.rows = ROWS, .cols = COLS}};
        pico_weight_desc part;
        pico_error err = {0};
        put_blob(&file, &t, layouts[i].dtype, layouts[i].group, layouts[i].scale_dtype);
        for (uint64_t s = 0; s < t.data.n_scales; s++) {
            const float wide = 0.5f + (float)s;
            const uint16_t half = (uint16_t)(0x3000 + s);
            char *to = (char *)(uintptr_t)t.data.scales;
            if (layouts[i].scale_dtype == PICO_DTYPE_F16) {
                memcpy(to + 2 * s, &half, sizeof half);
            } else {
                memcpy(to + 4 * s, &wide, sizeof wide);
            }
        }
        t.data.codebook = layouts[i].dtype == PICO_DTYPE_NF4 ? book : NULL;
        if (i % 2 == 0) {
            t.data.outlier_col = outliers;
            t.data.outlier_value = kept;
            t.data.n_outlier = 2;
        }
        assert_int_equal(pico_weight_gather(&t.data, row, 5, &file.arena, &part, &err), PICO_OK);
        assert_int_equal(part.rows, 5);
        for (int r = 0; r < 5; r++) {
            pico_weight_row_f32(&t.data, row[r], want);
            pico_weight_row_f32(&part, r, got);
            assert_memory_equal(got, want, sizeof want);
        }
        t.data.codes_bytes--; /* no whole rows */
        assert_int_equal(pico_weight_gather(&t.data, row, 5, &file.arena, &part, &err),
                         PICO_E_UNSUPPORTED);
        assert_non_null(strstr(err.message, "not made of rows"));
        pico_arena_free(&file.arena);
    }
}

typedef struct hook_count {
    int left; /* pieces until it stops; negative: never */
    uint64_t last, total;
} hook_count;

static int count_down(void *arg) {
    hook_count *count = arg;
    return count->left >= 0 && count->left-- == 0;
}

static void note_progress(void *arg, uint64_t done, uint64_t total) {
    hook_count *count = arg;
    assert_true(done > count->last && done <= total);
    count->last = done;
    count->total = total;
}

/* Stopped in the middle of the data, nothing is left; not stopped, it has counted to the end. */
static void writing_can_be_stopped(void **state) {
    (void)state;
    pico_layer_desc layer[2];
    pico_model_desc desc = small_llama(layer, 2);
    pico_model_file *file = model_in_memory(&desc);
    hook_count count = {.left = 7};
    pico_write_hooks hooks = {count_down, note_progress, &count};
    char folder[] = "/tmp/picochat-test-XXXXXX", path[64];
    pico_error err = {0};
    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/a.gguf", folder);
    assert_int_equal(pico_gguf_write_with(file, path, &hooks, &err), PICO_E_CANCELLED);
    assert_true(count.last > 0 && count.last < count.total);
    assert_int_equal(rmdir(folder), 0); /* it is empty */
    assert_non_null(mkdtemp(strcpy(folder, "/tmp/picochat-test-XXXXXX")));
    (void)snprintf(path, sizeof path, "%s/a.gguf", folder);
    count = (hook_count){.left = -1};
    assert_int_equal(pico_gguf_write_with(file, path, &hooks, &err), PICO_OK);
    assert_int_equal(count.last, count.total);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
    pico_model_file_close(file);
}

/* What a reader would refuse, or a backend misread, is not written. */
static void contradictions_are_not_written(void **state) {
    (void)state;
    static const struct {
        uint32_t dtype;
        int64_t group;
        uint32_t input;
    } bad[] = {{PICO_DTYPE_F32, 0, PICO_INPUT_ROW},  {PICO_DTYPE_NF4, 16, PICO_INPUT_GROUP},
               {PICO_DTYPE_I8, 0, PICO_INPUT_GROUP}, {PICO_DTYPE_I8, 8, PICO_INPUT_GROUP + 1},
               {PICO_DTYPE_I8, 33, PICO_INPUT_AUTO}, {PICO_DTYPE_Q8_0, 0, UINT32_MAX}};
    static const float book[16] = {1.0f};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pico_layer_desc layer[2];
        pico_model_desc desc = small_llama(layer, 2);
        pico_model_file *file = model_in_memory(&desc);
        pico_file_tensor *t =
            (pico_file_tensor *)(uintptr_t)pico_model_file_find(file, "blk.0.attn_q.weight");
        pico_error err = {0};
        put_blob(file, t, bad[i].dtype, bad[i].group, PICO_DTYPE_F32);
        t->data.codebook = book;
        t->data.input_quant = bad[i].input;
        assert_int_equal(pico_gguf_write(file, "/tmp/picochat-never-written", &err),
                         PICO_E_INVALID);
        assert_non_null(strstr(err.message, "blk.0.attn_q.weight"));
        pico_model_file_close(file);
    }
}

/* An outlier that is not finite would reach every logit. */
static void infinite_outliers_are_refused(void **state) {
    (void)state;
    pico_layer_desc layer[2];
    pico_model_desc desc = small_llama(layer, 2);
    pico_model_file *file = model_in_memory(&desc), *back = NULL;
    static const int32_t column[1] = {5};
    static const uint16_t values[32] = {0x3c00, 0x7c00}; /* 1, infinity */
    pico_file_tensor *t =
        (pico_file_tensor *)(uintptr_t)pico_model_file_find(file, "blk.0.attn_q.weight");
    char *path = temporary_path();
    pico_error err = {0};
    t->data.outlier_col = column;
    t->data.outlier_value = values;
    t->data.n_outlier = 1;
    assert_int_equal(pico_gguf_write(file, path, &err), PICO_OK);
    assert_int_equal(pico_model_file_open(path, NULL, &back, &err), PICO_E_CORRUPT);
    assert_non_null(strstr(err.message, "blk.0.attn_q.weight.outlier_value: value 1 is inf"));
    (void)unlink(path);
    free(path);
    pico_model_file_close(file);
}

/* A vector as a quantised layout and odd NF4 rows: shapes that are not the stored ones. */
static void odd_nf4_survives(void **state) {
    (void)state;
    pico_layer_desc layer[2];
    pico_model_desc desc = small_llama(layer, 2);
    layer[0].n_ff = layer[1].n_ff = 33;
    pico_model_file *file = model_in_memory(&desc);
    static const float book[16] = {-1.0f, 0.5f};
    static const char *const names[] = {"blk.1.ffn_down.weight", "output_norm.weight"};
    for (size_t i = 0; i < 2; i++) {
        pico_file_tensor *t = (pico_file_tensor *)(uintptr_t)pico_model_file_find(file, names[i]);
        put_blob(file, t, PICO_DTYPE_NF4, 10, PICO_DTYPE_F32);
        t->data.codebook = book;
    }
    assert_survives_gguf(file, NULL);
    pico_model_file_close(file);
}

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
        cmocka_unit_test(reads_vocabulary_files),
        cmocka_unit_test(unusual_vocabularies_survive),
        cmocka_unit_test(every_description_survives),
        cmocka_unit_test(llama_only_where_the_standard_says_it_all),
        cmocka_unit_test(descriptions_are_checked),
        cmocka_unit_test(smear_goes_with_what_it_was_made_for),
        cmocka_unit_test(every_layout_survives),
        cmocka_unit_test(odd_nf4_survives),
        cmocka_unit_test(infinite_outliers_are_refused),
        cmocka_unit_test(contradictions_are_not_written),
        cmocka_unit_test(writing_can_be_stopped),
        cmocka_unit_test(hostile_files_are_refused),
        cmocka_unit_test(rows_can_be_gathered),
        cmocka_unit_test(wrong_draft_heads),
        cmocka_unit_test(wrong_hyper_parameters),
        cmocka_unit_test(missing_and_foreign),
        cmocka_unit_test(truncated_files_are_refused),
        cmocka_unit_test(flipped_bits_do_no_harm),
    };
    return cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
}
