/* layers: transform */
/* labels: golden */
/*
 * The int8 compressor. Codes and scales equal the reference outputs byte for byte; groups of any
 * length are what a slow formula says; what is kept is kept; what cannot be done is an error that
 * says what can; outlier columns are those that a run of the text shows to be large, and keep their
 * values; any thread count gives the same bytes; a run can be stopped.
 */
#include "formats_support.h"

#include <math.h>

#include "conform/rig.h"
#include "transform/compress.h"
#include "transform/tensors.h"
#include "util/half.h"

enum { MAX_SET = 8, ROWS = 64, COLS = 256 };

/* ---- the plugin on a model file ---- */

typedef struct stage {
    rig r;
    pico_instance instance;
    int n_opened; /* models for calibration */
} stage;

/* settings: "granularity=row", ... NULL-terminated. */
static pico_status stage_open(stage *s, uint32_t n_threads, const char *const *settings,
                              pico_error *err) {
    char set[MAX_SET][640];
    const char *list[MAX_SET + 1] = {0};
    for (size_t i = 0; settings != NULL && settings[i] != NULL; i++) {
        assert_true(i < MAX_SET);
        (void)snprintf(set[i], sizeof set[i], "compress.1.int8.%s", settings[i]);
        list[i] = set[i];
    }
    const rig_setup setup = {
        .search = PICO_BUILD_DIR "/plugins", .set = list, .n_threads = n_threads};
    memset(s, 0, sizeof *s);
    assert_int_equal(rig_open(&s->r, &setup, err), PICO_OK);
    s->r.host.tensors = &pico_tensors_table;
    return pico_registry_create(s->r.registry, s->r.config, PICO_KIND_COMPRESSOR, "int8",
                                "compress.1.int8", &s->r.host, &s->instance, err);
}

static pico_status open_model(void *arg, pico_model_file *file, pico_model **out, pico_error *err) {
    stage *s = arg;
    const pico_model_params params = {.attention = &s->r.attention.loaded->ops.attention,
                                      .attention_self = s->r.attention.self,
                                      .kv_dtype = PICO_DTYPE_F32};
    s->n_opened++;
    return pico_model_open(&s->r.device, &params, file, out, err);
}

static void close_model(void *arg, pico_model *model) {
    (void)arg;
    (void)pico_model_release(model);
}

static pico_status stage_run(stage *s, pico_model_file *file, pico_error *err) {
    const pico_stage chain = {.number = 1,
                              .name = "int8",
                              .ops = &s->instance.loaded->ops.compressor,
                              .self = s->instance.self};
    const pico_chain_callbacks callbacks = {
        .open_model = open_model, .close_model = close_model, .arg = s};
    return pico_compress_chain(file, &chain, 1, &callbacks, err);
}

#define SETTINGS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* Runs the stage; on a failure the test ends. */
static void compress_ok(pico_model_file *file, uint32_t n_threads, const char *const *settings) {
    stage s;
    pico_error err = {0};
    pico_status status = stage_open(&s, n_threads, settings, &err);
    if (status == PICO_OK) {
        status = stage_run(&s, file, &err);
    }
    if (status != PICO_OK) {
        fail_msg("%s", err.message);
    }
    assert_true(s.n_opened == 0); /* nothing to calibrate: no model is opened for it */
    rig_close(&s.r);
}

/* The stage must fail, when it is made or when it runs, and say so. */
static void compress_fails(pico_model_file *file, const char *const *settings, pico_status expected,
                           const char *says) {
    stage s;
    pico_error err = {0};
    pico_status status = stage_open(&s, 1, settings, &err);
    if (status == PICO_OK) {
        status = stage_run(&s, file, &err);
    }
    if (status != expected || strstr(err.message, says) == NULL) {
        fail_msg("status %d, expected %d with \"%s\"; it said: %s", status, expected, says,
                 err.message);
    }
    rig_close(&s.r);
}

/* ---- models ---- */

static pico_file_tensor *tensor_of(pico_model_file *file, const char *name) {
    pico_file_tensor *t = (pico_file_tensor *)(uintptr_t)pico_model_file_find(file, name);
    assert_non_null(t);
    return t;
}

/* A Llama whose blk.0.ffn_up.weight is (rows, cols), random, in the given float type. */
static pico_model_file *random_model(uint32_t rows, uint32_t cols, uint32_t dtype) {
    pico_layer_desc layer[2];
    pico_model_desc desc = small_llama(layer, 2);
    uint64_t random = rows * 1000u + cols;
    desc.n_embd = cols;
    layer[0].n_ff = rows;
    pico_model_file *file = model_in_memory(&desc);
    pico_layer_desc *kept = pico_arena_alloc(&file->arena, 2, sizeof *kept);
    memcpy(kept, layer, sizeof layer);
    file->desc.layer = kept;
    pico_file_tensor *t = tensor_of(file, "blk.0.ffn_up.weight");
    float *values = (float *)(uintptr_t)t->data.codes;
    uint16_t *half = (uint16_t *)values;
    for (uint64_t i = 0; i < (uint64_t)rows * cols; i++) {
        double spread = rig_below(&random, 40) == 0 ? 20 : 1;
        float x = (float)(spread * (rig_uniform(&random) - 0.5));
        x = i / cols == 3 ? 0 : x; /* a row of zeros */
        if (dtype == PICO_DTYPE_F32) {
            values[i] = x;
        } else {
            half[i] = dtype == PICO_DTYPE_F16 ? pico_f16_of_f32(x) : pico_bf16_of_f32(x);
        }
    }
    t->data.dtype = dtype;
    t->data.codes_bytes = (uint64_t)rows * cols * (dtype == PICO_DTYPE_F32 ? 4 : 2);
    t->bytes = t->data.codes_bytes;
    return file;
}

static float *decode(const pico_weight_desc *w) {
    float *out = malloc((size_t)(w->rows * w->cols) * sizeof *out);
    assert_non_null(out);
    for (int64_t i = 0; i < w->rows; i++) {
        pico_weight_row_f32(w, i, out + i * w->cols);
    }
    return out;
}

/* ---- reference outputs ---- */

static const void *fixture(const char *name, uint64_t bytes, pico_map *map) {
    fixture_path path;
    char full[64];
    (void)snprintf(full, sizeof full, "quant/%s", name);
    assert_int_equal(pico_map_open(find_fixture(&path, full), map, NULL), PICO_OK);
    assert_int_equal(map->size, bytes);
    return map->data;
}

static void assert_fixture(const char *name, const void *data, uint64_t bytes) {
    pico_map map;
    assert_memory_equal(fixture(name, bytes, &map), data, bytes);
    pico_map_close(&map);
}

/* The reference weight as a model's, compressed. */
static pico_model_file *compress_fixture(const char *granularity) {
    pico_map map;
    pico_model_file *file = random_model(ROWS, COLS, PICO_DTYPE_F32);
    pico_file_tensor *t = tensor_of(file, "blk.0.ffn_up.weight");
    memcpy((float *)(uintptr_t)t->data.codes, fixture("weight.bin", ROWS * COLS * 4, &map),
           ROWS * COLS * 4);
    pico_map_close(&map);
    compress_ok(file, 2, SETTINGS(granularity));
    return file;
}

/* Decoded values are the reference's to the last bit but one. */
static void assert_decodes(const pico_weight_desc *w, const char *name) {
    pico_map map;
    const float *expected = fixture(name, ROWS * COLS * 4, &map);
    float *found = decode(w);
    for (size_t i = 0; i < ROWS * COLS; i++) {
        assert_true(fabsf(found[i] - expected[i]) <= fabsf(expected[i]) * 0x1p-23f);
    }
    free(found);
    pico_map_close(&map);
}

static void codes_equal_the_reference(void **state) {
    (void)state;
    pico_model_file *file = compress_fixture("granularity=tensor");
    const pico_weight_desc *w = &tensor_of(file, "blk.0.ffn_up.weight")->data;
    assert_int_equal(w->dtype, PICO_DTYPE_I8);
    assert_int_equal(w->n_scales, 1);
    assert_true(*(const float *)w->scales == 0.018243946135044098f);
    assert_fixture("int8_tensor_codes.bin", w->codes, ROWS * COLS);
    assert_decodes(w, "int8_tensor_dequant.bin");
    pico_model_file_close(file);

    file = compress_fixture("granularity=row");
    w = &tensor_of(file, "blk.0.ffn_up.weight")->data;
    assert_int_equal(w->dtype, PICO_DTYPE_I8);
    assert_int_equal(w->group, COLS);
    assert_fixture("int8_row_codes.bin", w->codes, ROWS * COLS);
    assert_fixture("int8_row_scales.bin", w->scales, ROWS * 4);
    assert_decodes(w, "int8_row_dequant.bin");
    pico_model_file_close(file);

    file = compress_fixture("granularity=group");
    w = &tensor_of(file, "blk.0.ffn_up.weight")->data;
    assert_int_equal(w->dtype, PICO_DTYPE_Q8_0);
    assert_fixture("q8_0_blocks.bin", w->codes, ROWS * COLS / 32 * 34);
    assert_decodes(w, "q8_0_dequant.bin");
    pico_model_file_close(file);
}

/* One scale a matrix, nothing kept: a float checkpoint becomes the int8 export that the reference
 * fork made of it, every tensor to the last byte. */
static void equals_the_forks_export(void **state) {
    (void)state;
    fixture_path from, to;
    pico_model_file *file = open_ok(find_fixture(&from, "nanochat/g2_mha/model_002000.pt"), NULL);
    pico_model_file *expected =
        open_ok(find_fixture(&to, "nanochat/g2_mha/g2_mha_step2000_int8.pt"), NULL);
    compress_ok(file, 2, SETTINGS("granularity=tensor", "keep=none"));
    assert_same_tensors(file, expected);
    pico_model_file_close(file);
    pico_model_file_close(expected);
}

/* ---- groups against a slow formula ---- */

static float scale_at(const pico_weight_desc *w, int64_t i) {
    return w->scale_dtype == PICO_DTYPE_F16 ? pico_f32_of_f16(((const uint16_t *)w->scales)[i])
                                            : ((const float *)w->scales)[i];
}

/* int8 codes with scales for groups of a row: each scale from its own columns alone, each code the
 * nearest. float values (rows, cols). */
static void check_groups(const pico_weight_desc *w, const float *values, int64_t group, int limit) {
    const int8_t *codes = w->codes;
    int64_t n_group = (w->cols + group - 1) / group;
    assert_int_equal(w->group, group);
    assert_int_equal(w->n_scales, w->rows * n_group);
    for (int64_t g = 0; g < w->rows * n_group; g++) {
        int64_t begin = g / n_group * w->cols + g % n_group * group;
        int64_t end = begin + group < (g / n_group + 1) * w->cols ? begin + group
                                                                  : (g / n_group + 1) * w->cols;
        float largest = 0;
        for (int64_t i = begin; i < end; i++) {
            largest = fmaxf(largest, fabsf(values[i]));
        }
        float scale = fmaxf(largest / (float)limit, 1e-8f);
        scale = w->scale_dtype == PICO_DTYPE_F16 ? pico_f32_of_f16(pico_f16_of_f32(scale)) : scale;
        assert_true(scale_at(w, g) == scale);
        for (int64_t i = begin; i < end; i++) {
            float code = scale == 0 ? 0 : rintf(values[i] / scale);
            code = fmaxf(fminf(code, (float)limit), -(float)limit);
            assert_int_equal(codes[i], (int)code);
        }
    }
}

static void groups_of_any_length(void **state) {
    (void)state;
    static const struct {
        uint32_t rows, cols, dtype;
        const char *set[4];
        int64_t group;
        uint32_t scale_dtype;
        int limit;
    } cases[] = {
        {40, 48, PICO_DTYPE_F32, {"group=32"}, 32, PICO_DTYPE_F16, 127}, /* a short last one */
        {40, 48, PICO_DTYPE_BF16, {"group=7", "scales=f32"}, 7, PICO_DTYPE_F32, 127},
        {33, 64, PICO_DTYPE_F16, {"layout=i8"}, 32, PICO_DTYPE_F16, 127},
        {33, 64, PICO_DTYPE_F32, {"scales=f32"}, 32, PICO_DTYPE_F32, 127},
        {5, 64, PICO_DTYPE_F32, {"group=1"}, 1, PICO_DTYPE_F16, 127},
        {5, 64, PICO_DTYPE_F32, {"group=1000"}, 64, PICO_DTYPE_F16, 127},
        {40, 64, PICO_DTYPE_F32, {"granularity=row", "scales=f16"}, 64, PICO_DTYPE_F16, 127},
        {40, 64, PICO_DTYPE_BF16, {"granularity=row", "bits=4"}, 64, PICO_DTYPE_F32, 7},
        {40, 48, PICO_DTYPE_F32, {"group=16", "bits=4"}, 16, PICO_DTYPE_F16, 7},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pico_model_file *file = random_model(cases[i].rows, cases[i].cols, cases[i].dtype);
        pico_file_tensor *t = tensor_of(file, "blk.0.ffn_up.weight");
        float *values = decode(&t->data);
        compress_ok(file, 2, cases[i].set);
        assert_int_equal(t->data.dtype, PICO_DTYPE_I8);
        assert_int_equal(t->data.scale_dtype, cases[i].scale_dtype);
        check_groups(&t->data, values, cases[i].group, cases[i].limit);
        assert_survives_gguf(file, NULL);
        free(values);
        pico_model_file_close(file);
    }
}

/* 4 bits in ggml's blocks: codes within 7, the largest value of each block met by one of them. */
static void four_bits_in_blocks(void **state) {
    (void)state;
    pico_model_file *file = random_model(40, 64, PICO_DTYPE_F32);
    pico_file_tensor *t = tensor_of(file, "blk.0.ffn_up.weight");
    float *values = decode(&t->data);
    compress_ok(file, 1, SETTINGS("bits=4"));
    assert_int_equal(t->data.dtype, PICO_DTYPE_Q8_0);
    for (int b = 0; b < 40 * 2; b++) {
        const unsigned char *block = (const unsigned char *)t->data.codes + b * 34;
        float largest = 0;
        int most = 0;
        for (int i = 0; i < 32; i++) {
            int code = (int8_t)block[2 + i];
            most = abs(code) > most ? abs(code) : most;
            largest = fmaxf(largest, fabsf(values[b * 32 + i]));
        }
        assert_int_equal(most, largest > 0 ? 7 : 0);
    }
    free(values);
    pico_model_file_close(file);
}

/* With a scale of 1: halves go away from zero in ggml's blocks, to even in int8. */
static void halves_round_as_documented(void **state) {
    (void)state;
    static const float x[8] = {127.0f, 0.5f, -0.5f, 1.5f, 2.5f, -2.5f, 0.49999997f, -3.4999998f};
    static const int8_t away[8] = {127, 1, -1, 2, 3, -3, 0, -3};
    static const int8_t even[8] = {127, 0, 0, 2, 2, -2, 0, -3};
    for (int i = 0; i < 2; i++) {
        pico_model_file *file = random_model(40, 64, PICO_DTYPE_F32);
        pico_file_tensor *t = tensor_of(file, "blk.0.ffn_up.weight");
        float *values = (float *)(uintptr_t)t->data.codes;
        memset(values, 0, 32 * sizeof *values);
        memcpy(values, x, sizeof x);
        compress_ok(file, 1, SETTINGS(i == 0 ? "layout=auto" : "layout=i8"));
        assert_memory_equal((const char *)t->data.codes + (i == 0 ? 2 : 0), i == 0 ? away : even,
                            sizeof away);
        pico_model_file_close(file);
    }
}

/* ---- what stays, what is asked of inputs ---- */

static void keeps_what_it_should(void **state) {
    (void)state;
    pico_model_file *file = random_model(40, 32, PICO_DTYPE_F32);
    compress_ok(file, 1, NULL);
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const pico_file_tensor *t = &file->tensor[i];
        int kept = t->rank == 1 || strcmp(t->name, "token_embd.weight") == 0 ||
                   strcmp(t->name, "output.weight") == 0;
        assert_int_equal(t->data.dtype == PICO_DTYPE_F32, kept);
    }
    pico_model_file_close(file);

    file = random_model(40, 32, PICO_DTYPE_F32);
    compress_ok(file, 1, SETTINGS("keep=none", "activations=row"));
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        int kept = file->tensor[i].rank == 1;
        assert_int_equal(file->tensor[i].data.dtype == PICO_DTYPE_F32, kept);
        assert_int_equal(file->tensor[i].data.input_quant, kept ? PICO_INPUT_AUTO : PICO_INPUT_ROW);
    }
    pico_model_file_close(file);

    file = random_model(40, 32, PICO_DTYPE_F32);
    compress_ok(file, 1,
                SETTINGS("keep= blk.1.*,  output.weight,*attn_?.weight", "granularity=row",
                         "activations=none"));
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const pico_file_tensor *t = &file->tensor[i];
        int done = strcmp(t->name, "token_embd.weight") == 0 ||
                   strcmp(t->name, "blk.0.attn_output.weight") == 0 ||
                   strncmp(t->name, "blk.0.ffn_", 10) == 0;
        done = done && t->rank == 2;
        assert_int_equal(t->data.dtype, done ? PICO_DTYPE_I8 : PICO_DTYPE_F32);
        assert_int_equal(t->data.input_quant, done ? PICO_INPUT_FLOAT : PICO_INPUT_AUTO);
    }
    assert_survives_gguf(file, NULL);
    pico_model_file_close(file);

    file = random_model(40, 32, PICO_DTYPE_F32);
    compress_ok(file, 1, SETTINGS("activations=group"));
    assert_int_equal(tensor_of(file, "blk.0.ffn_up.weight")->data.input_quant, PICO_INPUT_GROUP);
    pico_model_file_close(file);
}

/* What an earlier stage has put around a float weight stays around the codes. */
static void carries_scales_and_permutations(void **state) {
    (void)state;
    pico_model_file *file = random_model(40, 32, PICO_DTYPE_F32);
    pico_file_tensor *t = tensor_of(file, "blk.0.ffn_up.weight");
    float scale[32];
    int32_t perm[32];
    for (int i = 0; i < 32; i++) {
        scale[i] = 0.5f + (float)i;
        perm[i] = (i + 5) % 32;
    }
    t->data.input_scale = scale;
    t->data.input_perm = perm;
    float *before = decode(&t->data); /* effective values */
    compress_ok(file, 1, SETTINGS("granularity=row"));
    assert_memory_equal(t->data.input_scale, scale, sizeof scale);
    assert_memory_equal(t->data.input_perm, perm, sizeof perm);
    float *after = decode(&t->data);
    for (int64_t i = 0; i < 40 * 32; i++) {
        float step = scale_at(&t->data, i / 32) / scale[i % 32];
        assert_true(fabsf(after[i] - before[i]) <= 0.5001f * step);
    }
    free(before);
    free(after);
    pico_model_file_close(file);
}

/* ---- what cannot be done ---- */

static void says_what_can_be_done_instead(void **state) {
    (void)state;
    static const struct {
        const char *set[4];
        pico_status status;
        const char *says;
    } cases[] = {
        {{"layout=q8_0"}, PICO_E_UNSUPPORTED, "rows of 48 are no multiple of 32"},
        {{"layout=q8_0", "granularity=row"}, PICO_E_INVALID, "layout = auto takes any other"},
        {{"layout=q8_0", "group=64"}, PICO_E_INVALID, "layout = auto takes any other"},
        {{"layout=q8_0", "scales=f32"}, PICO_E_INVALID, "layout = auto takes any other"},
        {{"activations=group", "granularity=row"}, PICO_E_INVALID, "granularity = group"},
        {{"activations=group", "granularity=tensor"}, PICO_E_INVALID, "activations = row"},
        {{"outliers=3"}, PICO_E_INVALID, "set calibration = FILE"},
        {{"outlier_threshold=6"}, PICO_E_INVALID, "set calibration = FILE"},
        {{"calibration=/dev/null"}, PICO_E_INVALID, "outlier_threshold = 6"},
        {{"keep=token_embd.weight,outputs.weight"}, PICO_E_INVALID, "called outputs.weight"},
        {{"keep=*"}, PICO_E_INVALID, "nothing to quantise"},
        {{"bits=5"}, PICO_E_INVALID, "bits"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pico_model_file *file = random_model(40, 48, PICO_DTYPE_F32);
        compress_fails(file, cases[i].set, cases[i].status, cases[i].says);
        pico_model_file_close(file);
    }
    pico_model_file *file = random_model(40, 64, PICO_DTYPE_F32);
    compress_ok(file, 1, NULL);
    compress_fails(file, NULL, PICO_E_UNSUPPORTED, "is quantised already");
    pico_model_file_close(file);
}

static void refuses_values_that_do_not_fit(void **state) {
    (void)state;
    static const char *const granularities[] = {"granularity=tensor", "granularity=row",
                                                "granularity=group"};
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        for (size_t j = 0; j < 3; j++) {
            pico_model_file *file = random_model(40, 64, PICO_DTYPE_F32);
            pico_file_tensor *t = tensor_of(file, "blk.0.ffn_up.weight");
            ((float *)(uintptr_t)t->data.codes)[17 * 64 + 63] = bad[j];
            compress_fails(file, SETTINGS(granularities[i]), PICO_E_INVALID,
                           i == 0 ? "tensor blk.0.ffn_up.weight: a value is infinite"
                                  : "blk.0.ffn_up.weight, row 17: a value is infinite");
            pico_model_file_close(file);
        }
    }
    static const char *const f16[][3] = {{"granularity=group"},
                                         {"granularity=row", "scales=f16"},
                                         {"granularity=tensor", "scales=f16"}};
    for (size_t i = 0; i < 3; i++) {
        pico_model_file *file = random_model(40, 64, PICO_DTYPE_F32);
        pico_file_tensor *t = tensor_of(file, "blk.0.ffn_up.weight");
        ((float *)(uintptr_t)t->data.codes)[5] = 9e6f; /* / 127 is beyond F16 */
        compress_fails(file, f16[i], PICO_E_UNSUPPORTED, "scales = f32");
        pico_model_file_close(file);
    }
    pico_model_file *file = random_model(40, 64, PICO_DTYPE_F32);
    pico_file_tensor *t = tensor_of(file, "blk.0.ffn_up.weight");
    ((float *)(uintptr_t)t->data.codes)[5] = 9e6f;
    compress_ok(file, 1, SETTINGS("scales=f32")); /* the advice works */
    pico_model_file_close(file);
}

static int stop_at_once(void *ctx) {
    (void)ctx;
    return 1;
}

static void can_be_stopped(void **state) {
    (void)state;
    stage s;
    pico_error err = {0};
    pico_model_file *file = random_model(40, 64, PICO_DTYPE_F32);
    assert_int_equal(stage_open(&s, 1, NULL, &err), PICO_OK);
    s.r.host.should_stop = stop_at_once;
    assert_int_equal(stage_run(&s, file, &err), PICO_E_CANCELLED);
    rig_close(&s.r);
    pico_model_file_close(file);
}

/* ---- outliers ---- */

enum { VOCAB = 61, WIDTH = 32, HIDDEN = 40, CONTEXT = 320 };

static pico_model_file *model_with_text(uint64_t seed) {
    const tiny_model tiny = {.family = "llama",
                             .n_layer = 2,
                             .n_head = 4,
                             .n_kv_head = 2,
                             .head_dim = WIDTH / 4,
                             .n_ff = HIDDEN,
                             .n_vocab = VOCAB,
                             .n_ctx = CONTEXT,
                             .seed = seed};
    pico_model_file *file = NULL;
    assert_int_equal(tiny_model_file(&tiny, &file, NULL), PICO_OK);
    assert_int_equal(tiny_vocab(VOCAB, &file->arena, &file->vocab, NULL), PICO_OK);
    return file;
}

/* 500 tokens: more than the context, so that a second window begins. */
static char *write_text(void) {
    char *path = temporary_path();
    FILE *file = fopen(path, "wb");
    uint64_t random = 5;
    assert_non_null(file);
    for (int i = 0; i < 500; i++) {
        (void)fprintf(file, "%c%c", 'a', 'b' + (int)rig_below(&random, 20));
    }
    assert_int_equal(fclose(file), 0);
    return path;
}

typedef struct seen {
    float ffn_inner[HIDDEN], hidden[WIDTH];
} seen;

static void watch(void *arg, uint32_t layer, const char *name, const float *rows, uint32_t n,
                  uint32_t width) {
    seen *s = arg;
    float *into = layer == 1 && strcmp(name, "ffn_inner") == 0 ? s->ffn_inner
                  : strcmp(name, "hidden") == 0                ? s->hidden
                                                               : NULL;
    for (uint32_t i = 0; into != NULL && i < n * width; i++) {
        into[i % width] = fmaxf(into[i % width], fabsf(rows[i]));
    }
}

/* The largest inputs over the text, found in a way of its own: token by token. */
static seen watch_text(pico_model_file *file, const char *path) {
    rig r;
    seen s = {{0}, {0}};
    const rig_setup setup = {.search = PICO_BUILD_DIR "/plugins", .n_threads = 1};
    char *text = NULL;
    uint64_t n_text = 0, n = 0;
    int32_t ids[600];
    pico_model *model = NULL;
    pico_session *session = NULL;
    assert_int_equal(rig_open(&r, &setup, NULL), PICO_OK);
    assert_int_equal(rig_model_open(&r, file, PICO_DTYPE_F32, &model, NULL), PICO_OK);
    assert_int_equal(pico_file_read(path, 4096, &text, &n_text, NULL), PICO_OK);
    assert_int_equal(pico_text_table.encode(model, text, n_text, PICO_TEXT_BOS, ids, 600, &n, NULL),
                     PICO_OK);
    assert_true(n > CONTEXT && n < 600);
    assert_int_equal(pico_session_table.open(model, 1, 0, 1, 1, &session, NULL), PICO_OK);
    assert_int_equal(pico_model_tap(model, watch, &s), PICO_OK);
    for (uint64_t i = 0; i < n; i++) {
        int32_t pos = (int32_t)(i % CONTEXT);
        const pico_row row = {.token = ids[i],
                              .prev = pos == 0 ? -1 : ids[i - 1],
                              .pos = pos,
                              .parent = -1,
                              .want = PICO_ROW_HIDDEN};
        pico_forward_out out;
        assert_int_equal(pico_session_table.truncate(session, 0, (uint32_t)pos, NULL), PICO_OK);
        assert_int_equal(pico_session_table.forward(session, &row, 1, &out, NULL), PICO_OK);
    }
    pico_session_table.close(session);
    pico_model_close(model); /* and the file */
    free(text);
    rig_close(&r);
    return s;
}

/* Outliers of a tensor (rows, cols) are exactly the columns with the n largest inputs; their values
 * are the source's in F16, their codes are 0, and the other codes have scales of their own. */
static void check_outliers(const pico_file_tensor *t, const pico_file_tensor *source,
                           const float *largest, int64_t n) {
    const pico_weight_desc *w = &t->data;
    const float *values = source->data.codes;
    float smallest_in = INFINITY, largest_out = 0;
    unsigned char apart[64] = {0};
    assert_int_equal(w->n_outlier, n);
    for (int64_t i = 0; i < n; i++) {
        assert_true(i == 0 || w->outlier_col[i] > w->outlier_col[i - 1]);
        apart[w->outlier_col[i]] = 1;
    }
    for (int64_t c = 0; c < w->cols; c++) {
        smallest_in = apart[c] ? fminf(smallest_in, largest[c]) : smallest_in;
        largest_out = apart[c] ? largest_out : fmaxf(largest_out, largest[c]);
    }
    assert_true(smallest_in >= largest_out * 0.9999f);
    for (int64_t r = 0; r < w->rows; r++) {
        float rest = 0;
        for (int64_t c = 0; c < w->cols; c++) {
            rest = apart[c] ? rest : fmaxf(rest, fabsf(values[r * w->cols + c]));
        }
        assert_true(((const float *)w->scales)[r] == fmaxf(rest / 127.0f, 1e-8f));
        for (int64_t i = 0; i < n; i++) {
            int64_t c = w->outlier_col[i];
            assert_int_equal(((const int8_t *)w->codes)[r * w->cols + c], 0);
            assert_int_equal(((const uint16_t *)w->outlier_value)[r * n + i],
                             pico_f16_of_f32(values[r * w->cols + c]));
        }
    }
}

static void outliers_are_large_inputs(void **state) {
    (void)state;
    char *text = write_text(), calibration[512], threshold[64];
    pico_error err = {0};
    stage s;
    const seen largest = watch_text(model_with_text(3), text);
    pico_model_file *file = model_with_text(3), *source = model_with_text(3);
    (void)snprintf(calibration, sizeof calibration, "calibration=%s", text);
    const char *const most[] = {"granularity=row", "keep=none", "outliers=3", calibration, NULL};
    assert_int_equal(stage_open(&s, 2, most, &err), PICO_OK);
    if (stage_run(&s, file, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(s.n_opened, 1);
    assert_int_equal(s.r.n_log, 1); /* says how many columns */
    rig_close(&s.r);
    check_outliers(tensor_of(file, "blk.1.ffn_down.weight"),
                   tensor_of(source, "blk.1.ffn_down.weight"), largest.ffn_inner, 3);
    check_outliers(tensor_of(file, "output.weight"), tensor_of(source, "output.weight"),
                   largest.hidden, 3);
    /* The embedding is only looked up: it has no input. */
    assert_int_equal(tensor_of(file, "token_embd.weight")->data.n_outlier, 0);
    assert_survives_gguf(file, NULL);
    pico_model_file_close(file);

    /* A threshold between the second and the third largest. */
    float sorted[3] = {0};
    for (int c = 0; c < HIDDEN; c++) {
        float x = largest.ffn_inner[c];
        for (int i = 0; i < 3; i++) {
            float larger = fmaxf(x, sorted[i]);
            x = fminf(x, sorted[i]);
            sorted[i] = larger;
        }
    }
    file = model_with_text(3);
    (void)snprintf(threshold, sizeof threshold, "outlier_threshold=%.6f",
                   (double)(sorted[1] + sorted[2]) / 2);
    const char *const above[] = {"granularity=row", threshold, calibration, NULL};
    assert_int_equal(stage_open(&s, 1, above, &err), PICO_OK);
    assert_int_equal(stage_run(&s, file, &err), PICO_OK);
    rig_close(&s.r);
    check_outliers(tensor_of(file, "blk.1.ffn_down.weight"),
                   tensor_of(source, "blk.1.ffn_down.weight"), largest.ffn_inner, 2);
    pico_model_file_close(file);

    /* A text that is not there, or empty, or a model that cannot read it. */
    file = model_with_text(3);
    const char *const nowhere[] = {"outliers=1", "calibration=/nonexistent/text", NULL};
    compress_fails(file, nowhere, PICO_E_NOT_FOUND, "[compress.1] int8: calibration: /nonexistent");
    const char *const empty[] = {"outliers=1", "calibration=/dev/null", NULL};
    compress_fails(file, empty, PICO_E_INVALID, "has no text");
    file->vocab.kind = PICO_VOCAB_NONE;
    const char *const unread[] = {"outliers=1", calibration, NULL};
    compress_fails(file, unread, PICO_E_UNSUPPORTED, "--tokenizer");
    pico_model_file_close(file);
    pico_model_file_close(source);
    (void)unlink(text);
    free(text);
}

/* With a permutation and scales around the source, columns are still those of the input: the one
 * that is large after it was divided by its scale. */
static void outliers_name_inputs(void **state) {
    (void)state;
    enum { CHOSEN = 7, PLACE = (CHOSEN - 3 + HIDDEN) % HIDDEN };
    char *text = write_text(), calibration[512];
    pico_error err = {0};
    stage s;
    float scale[HIDDEN];
    int32_t perm[HIDDEN];
    pico_model_file *file = model_with_text(3), *source = model_with_text(3);
    pico_file_tensor *t = tensor_of(file, "blk.1.ffn_down.weight");
    const float *values = tensor_of(source, "blk.1.ffn_down.weight")->data.codes;
    for (int i = 0; i < HIDDEN; i++) {
        scale[i] = i == CHOSEN ? -1e-4f : 1.0f;
        perm[i] = (i + 3) % HIDDEN;
    }
    t->data.input_scale = scale;
    t->data.input_perm = perm;
    (void)snprintf(calibration, sizeof calibration, "calibration=%s", text);
    assert_int_equal(
        stage_open(&s, 1, SETTINGS("granularity=row", "outliers=1", calibration), &err), PICO_OK);
    assert_int_equal(stage_run(&s, file, &err), PICO_OK);
    rig_close(&s.r);
    assert_int_equal(t->data.n_outlier, 1);
    assert_int_equal(t->data.outlier_col[0], CHOSEN);
    for (int64_t r = 0; r < t->data.rows; r++) {
        assert_int_equal(((const int8_t *)t->data.codes)[r * HIDDEN + PLACE], 0);
        assert_int_equal(((const uint16_t *)t->data.outlier_value)[r],
                         pico_f16_of_f32(values[r * HIDDEN + PLACE]));
    }
    pico_model_file_close(file);
    pico_model_file_close(source);
    (void)unlink(text);
    free(text);
}

/* ---- many rows, several slices ---- */

static void threads_do_not_matter(void **state) {
    (void)state;
    static const char *const granularities[] = {"granularity=tensor", "granularity=row",
                                                "granularity=group"};
    for (size_t i = 0; i < 3; i++) {
        pico_model_file *a = random_model(45000, 96, PICO_DTYPE_F32);
        pico_model_file *b = random_model(45000, 96, PICO_DTYPE_F32);
        const char *const set[] = {granularities[i], "keep=none", NULL};
        compress_ok(a, 1, set);
        compress_ok(b, 4, set);
        assert_same_tensors(a, b);
        pico_model_file_close(a);
        pico_model_file_close(b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_equal_the_reference),
        cmocka_unit_test(equals_the_forks_export),
        cmocka_unit_test(groups_of_any_length),
        cmocka_unit_test(four_bits_in_blocks),
        cmocka_unit_test(halves_round_as_documented),
        cmocka_unit_test(keeps_what_it_should),
        cmocka_unit_test(carries_scales_and_permutations),
        cmocka_unit_test(says_what_can_be_done_instead),
        cmocka_unit_test(refuses_values_that_do_not_fit),
        cmocka_unit_test(can_be_stopped),
        cmocka_unit_test(outliers_are_large_inputs),
        cmocka_unit_test(outliers_name_inputs),
        cmocka_unit_test(threads_do_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
