/* layers: formats */
/*
 * nanochat checkpoints that another program wrote: the description of each generation, its tensors
 * against checksums that another program computed, the int8 export, and the way through GGUF.
 */
#include "formats_support.h"

#include <math.h>

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
    };
    return cmocka_run_group_tests_name("nanochat_fixtures", tests, NULL, NULL);
}
