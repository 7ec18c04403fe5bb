/*
 * `picochat convert --type`: the types that the file says it has, the same text and the same
 * perplexity from a file of 16 bits as from its values in 32, files as input of what else reads
 * models, and what is refused, with nothing left behind.
 */
#include "train_cli_kit.h"

#include <dirent.h>

static const char *const types[] = {"f32", "f16", "bf16"};

/* The value of the U32 key of a GGUF file. */
static uint32_t u32_key(const char *path, const char *key) {
    pico_map map;
    const size_t n = strlen(key);
    uint32_t value[2] = {0};
    assert_int_equal(pico_map_open(path, &map, NULL), PICO_OK);
    const char *at = memmem(map.data, map.size, key, n);
    assert_non_null(at);
    memcpy(value, at + n, sizeof value);
    assert_int_equal(value[0], 4); /* GGUF's number for U32 */
    pico_map_close(&map);
    return value[1];
}

static const char *path_in(const context *c, const char *name, char out[96]) {
    (void)snprintf(out, 96, "%s/%s", c->folder, name);
    return out;
}

static int count_files(const char *folder) {
    int n = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    while (readdir(dir) != NULL) {
        n++;
    }
    (void)closedir(dir);
    return n;
}

static void the_file_says_its_type(void **state) {
    static const uint32_t dtypes[] = {PICO_DTYPE_F32, PICO_DTYPE_F16, PICO_DTYPE_BF16},
                          file_types[] = {0, 1, 32};
    context *c = *state;
    char out[96];
    (void)path_in(c, "out.gguf", out);
    for (size_t i = 0; i < 3; i++) {
        pico_model_file *file = NULL;
        cli_expect(RUN, 0, "convert", c->heads, out, i == 1 ? "--outtype" : "--type", types[i]);
        assert_int_equal(c->run.n_out, 0);
        assert_int_equal(u32_key(out, "general.file_type"), file_types[i]);
        assert_int_equal(pico_model_file_open(out, NULL, &file, NULL), PICO_OK);
        for (uint32_t t = 0; t < file->n_tensor; t++) {
            const pico_file_tensor *tensor = &file->tensor[t];
            assert_int_equal(tensor->data.dtype,
                             tensor->rank == 1 ? (uint32_t)PICO_DTYPE_F32 : dtypes[i]);
        }
        pico_model_file_close(file);
    }
}

/* 16 bits widen exactly: back in F32 the model computes the same, and rounds to the same file. With
 * inputs that are not rounded either, the figures agree in every digit. */
static void rounded_models_compute_the_same(void **state) {
    context *c = *state;
    char small[96], wide[96], again[96], text[4096];
    (void)path_in(c, "small.gguf", small);
    (void)path_in(c, "wide.gguf", wide);
    (void)path_in(c, "again.gguf", again);
    for (size_t i = 1; i < 3; i++) {
        cli_expect(RUN, 0, "convert", c->model, small, "--type", types[i]);
        cli_expect(RUN, 0, "convert", small, wide, "--type", "f32");
        cli_expect(RUN, 0, "convert", wide, again, "--type", types[i]);
        cli_same_files(small, again);
        cli_expect(RUN, 0, "eval", "-m", wide, "-f", c->text, "-o", "json", "--set",
                   "backend.cpu.activations=f32");
        (void)snprintf(text, sizeof text, "%s", c->run.out);
        cli_expect(RUN, 0, "eval", "-m", small, "-f", c->text, "-o", "json", "--set",
                   "backend.cpu.activations=f32");
        assert_string_equal(c->run.out, text);
        cli_expect(RUN, 0, "run", "-m", wide, "-p", "a is", "-n", "40", "--temp", "0");
        (void)snprintf(text, sizeof text, "%s", c->run.out);
        cli_expect(RUN, 0, "run", "-m", small, "-p", "a is", "-n", "40", "--temp", "0");
        assert_string_equal(c->run.out, text);
    }
}

/* Every family of the readers' examples, and codes: what is written can be run. */
static void every_input_can_be_run(void **state) {
    static const struct {
        const char *path, *tokenizer;
    } inputs[] = {
        {PICO_SOURCE_DIR "/tests/golden/gpt2", NULL},
        {PICO_SOURCE_DIR "/tests/golden/nanochat/g4", NULL},
        {PICO_SOURCE_DIR "/tests/golden/llama2/untied_q80.bin",
         PICO_SOURCE_DIR "/models/bytes-vocab.gguf"},
        {PICO_SOURCE_DIR "/models/tales-mha.gguf", NULL},
    };
    context *c = *state;
    char out[96];
    (void)path_in(c, "out.gguf", out);
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs * 2; i++) {
        const char *tokenizer = inputs[i / 2].tokenizer;
        cli_expect(RUN, 0, "convert", inputs[i / 2].path, out, "--type", types[1 + i % 2],
                   tokenizer == NULL ? NULL : "--tokenizer", tokenizer);
        cli_expect(RUN, 0, "bench", "-m", out, "-p", "4", "-n", "2", "-r", "1");
    }
}

/* The type comes first, stages see it: a compressed file is that of the converted one. */
static void stages_follow_the_type(void **state) {
    context *c = *state;
    char small[96], a[96], b[96];
    uint64_t n_a, n_b;
    (void)path_in(c, "small.gguf", small);
    (void)path_in(c, "a.gguf", a);
    (void)path_in(c, "b.gguf", b);
    cli_expect(RUN, 0, "convert", c->model, small, "--type", "bf16");
    cli_expect(RUN, 0, "convert", small, a, "--set", "compress.1.plugin=int8");
    cli_expect(RUN, 0, "convert", c->model, b, "--type", "bf16", "--set", "compress.1.plugin=int8");
    char *x = slurp(c->folder, "a.gguf", &n_a), *y = slurp(c->folder, "b.gguf", &n_b);
    assert_int_equal(n_a, n_b);
    assert_memory_equal(x, y, n_a);
    free(x);
    free(y);
    cli_expect(RUN, 0, "convert", a, small, "--type", "f16"); /* codes are widened */
    cli_expect(RUN, 0, "inspect", small);
    assert_null(strstr(c->run.out, "Q8_0"));
    cli_expect(RUN, 0, "convert", a, b); /* without it they stay */
    cli_expect(RUN, 0, "inspect", b);
    assert_contains(c->run.out, "Q8_0");
}

static void a_converted_model_teaches(void **state) {
    context *c = *state;
    char small[96], teacher[128];
    (void)path_in(c, "small.gguf", small);
    for (size_t i = 1; i < 3; i++) {
        cli_expect(RUN, 0, "convert", c->model, small, "--type", types[i]);
        (void)snprintf(teacher, sizeof teacher, "trainer.distill.teacher=%s", small);
        cli_expect(RUN, 0, "train", "-m", c->model, COMMON, "--out", c->out[i], "-q", "--set",
                   "trainer.distill.steps=2", "--set", teacher);
        cli_expect(RUN, 0, "train", "-m", small, "--data", c->text, "--out", c->out[0], "-q",
                   "--set", "trainer.distill.steps=1", "--set", "trainer.distill.length=24");
        cli_remove(c->out[0]);
    }
}

static void what_cannot_be_done_is_refused(void **state) {
    context *c = *state;
    char large[96], out[96];
    (void)path_in(c, "large.gguf", large);
    (void)path_in(c, "out.gguf", out);
    pico_model_file *file = NULL;
    assert_int_equal(pico_model_file_open(c->model, NULL, &file, NULL), PICO_OK);
    for (uint32_t t = 0; t < file->n_tensor; t++) {
        pico_file_tensor *tensor = &file->tensor[t];
        if (strcmp(tensor->name, "blk.1.ffn_up.weight") == 0) {
            float *w = pico_arena_alloc(&file->arena, tensor->bytes, 1);
            assert_non_null(w);
            memcpy(w, tensor->data.codes, tensor->bytes);
            w[3] = 1e5f;
            w[40] = -7e4f;
            tensor->data.codes = w;
        }
    }
    assert_int_equal(pico_gguf_write(file, large, NULL), PICO_OK);
    pico_model_file_close(file);
    const int n = count_files(c->folder);
    cli_expect(RUN, 2, "convert", large, out, "--type", "f16");
    assert_one_message(RUN);
    assert_contains(c->run.err, "blk.1.ffn_up.weight: 2 of 2048 values lie beyond 65504");
    assert_contains(c->run.err, "bf16");
    assert_int_equal(count_files(c->folder), n);
    cli_expect(RUN, 2, "convert", c->model, out, "--type", "q8_0");
    assert_one_message(RUN);
    assert_contains(c->run.err, "--type is f32, f16 or bf16, not 'q8_0'");
    cli_expect(RUN, 2, "convert", c->model, out, "--type", "");
    cli_expect(RUN, 2, "convert", c->model, out, "--type");
    cli_expect(RUN, 2, "convert", c->model, c->model, "--type", "f16");
    assert_contains(c->run.err, "file to read");
    cli_expect(RUN, 3, "convert", PICO_SOURCE_DIR "/models/bytes-vocab.gguf", out, "--type", "f16");
    assert_contains(c->run.err, "no model");
    assert_int_equal(count_files(c->folder), n);
    cli_expect(RUN, 0, "convert", large, out, "--type", "bf16");
    cli_expect(RUN, 0, "convert", "--help");
    assert_contains(c->run.out, "--type TYPE");
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(the_file_says_its_type),    TEST(rounded_models_compute_the_same),
        TEST(every_input_can_be_run),    TEST(stages_follow_the_type),
        TEST(a_converted_model_teaches), TEST(what_cannot_be_done_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
