/* layers: formats */
/* GGUF: vocabularies, descriptions and layouts both ways, and what is not written. */
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
    if (d.n_draft != 0 && pick(seed, 0, 1)) {
        d.draft_flags |= PICO_DRAFT_READS_TOKEN;
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
    REFUSED(draft_flags, PICO_DRAFT_READS_TOKEN, "flags of the draft head");
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
        cmocka_unit_test(rows_can_be_gathered),
    };
    return cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
}
