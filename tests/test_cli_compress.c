/*
 * `picochat compress`, and the same stages in convert and at load: one plan, one result. What is
 * printed, what is refused, and that nothing half-written is left behind.
 */
#include "cli_support.h"

#include <dirent.h>

typedef struct context {
    cli_run run;
    char *folder;
    char model[64], out[64], other[64];
} context;

#define RUN (&c->run)
#define INT8 "--plugin", "int8"

static int open_context(void **state) {
    context *c = calloc(1, sizeof *c);
    assert_non_null(c);
    c->folder = cli_folder();
    (void)snprintf(c->model, sizeof c->model, "%s/model.gguf", c->folder);
    (void)snprintf(c->out, sizeof c->out, "%s/out.gguf", c->folder);
    (void)snprintf(c->other, sizeof c->other, "%s/other.gguf", c->folder);
    cli_make_tiny(c->model, NULL);
    *state = c;
    return 0;
}

static int close_context(void **state) {
    context *c = *state;
    (void)unlink(c->model);
    (void)unlink(c->out);
    (void)unlink(c->other);
    assert_int_equal(rmdir(c->folder), 0); /* no test leaves anything else */
    free(c->folder);
    free(c);
    return 0;
}

static size_t count_files(const char *folder) {
    size_t n = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        n += entry->d_name[0] != '.' || (strcmp(entry->d_name, ".") != 0 && //
                                         strcmp(entry->d_name, "..") != 0);
    }
    (void)closedir(dir);
    return n;
}

/* The plan: what each tensor becomes, its bytes, and totals that are those of the tensors written. */
static void prints_its_plan(void **state) {
    context *c = *state;
    cli_expect(RUN, 0, "compress", "-m", c->model, INT8, "--dry-run");
    assert_contains(c->run.out, "stage      tensor                           from  to      bytes ");
    assert_contains(c->run.out, "1 int8     blk.0.attn_q.weight              F32   Q8_0");
    assert_null(strstr(c->run.out, "token_embd")); /* it stays */
    assert_int_equal(access(c->out, F_OK), -1);
    char plan[sizeof c->run.out];
    (void)snprintf(plan, sizeof plan, "%s", c->run.out);
    cli_expect(RUN, 0, "compress", "-m", c->model, INT8, "-o", c->out);
    assert_string_equal(c->run.out, plan);
    assert_contains(c->run.err, c->out);
    const char *total = strstr(plan, "total ");
    unsigned long long before = 0, after = 0, found = 0;
    assert_non_null(total);
    assert_int_equal(sscanf(total, "total all tensors, changed or not %llu %llu", &before, &after),
                     2);
    cli_expect(RUN, 0, "inspect", c->out);
    const char *tensors = strstr(c->run.out, "tensors: ");
    assert_non_null(tensors);
    assert_int_equal(sscanf(tensors, "tensors: %*u, %*u parameters, %llu bytes", &found), 1);
    assert_int_equal(found, after);
    assert_true(after < before);
}

/* compress with --plugin, compress with a file, and convert write the same bytes; a stage at load
 * gives the text of the written file, and says in a line what it did. */
static void one_result_on_every_way(void **state) {
    context *c = *state;
    char config[64], text[1024];
    static const char ini[] = "[compress.1]\nplugin = int8\n[compress.1.int8]\n"
                              "granularity = row\nkeep = none\n[sampler.standard]\ntop_k = 5\n";
    (void)snprintf(config, sizeof config, "%s/a.ini", c->folder);
    cli_write(config, ini, sizeof ini - 1);
    cli_expect(RUN, 0, "compress", "-m", c->model, c->out, INT8, "--set",
               "compress.1.int8.granularity=row", "--set", "compress.1.int8.keep=none");
    cli_expect(RUN, 0, "compress", "-m", c->model, "--config", config, "-o", c->other);
    cli_same_files(c->out, c->other);
    cli_expect(RUN, 0, "convert", c->model, c->other, "--config", config);
    assert_int_equal(c->run.n_out, 0);
    assert_contains(c->run.err, "[compress.1] int8: ");
    assert_null(strstr(c->run.err, "blk.0")); /* tensors are named at -v only */
    cli_same_files(c->out, c->other);
    cli_expect(RUN, 0, "inspect", c->out);
    assert_contains(c->run.out, "bytes  group 64, scales F32\n");
    cli_expect(RUN, 0, "run", "-m", c->out, "-p", "abc", "-n", "12", "--temp", "0", "--log",
               "warn");
    (void)snprintf(text, sizeof text, "%s", c->run.out);
    cli_expect(RUN, 0, "run", "-m", c->model, "--config", config, "-p", "abc", "-n", "12", "--temp",
               "0", "-v");
    assert_string_equal(c->run.out, text);
    assert_contains(c->run.err, "blk.1.ffn_down.weight");
    (void)unlink(config);
}

static void refuses_what_it_cannot_do(void **state) {
    context *c = *state;
    cli_expect(RUN, 2, "compress", "-m", c->model, c->out);
    assert_contains(c->run.err, "--plugin NAME");
    cli_expect(RUN, 2, "compress", "-m", c->model, INT8);
    assert_contains(c->run.err, "-o OUT.gguf");
    cli_expect(RUN, 2, "compress", "-m", c->model, INT8, "-o", c->out, c->other);
    assert_contains(c->run.err, "twice");
    cli_expect(RUN, 2, "compress", "-m", c->model, INT8, "-o", c->out, "--set",
               "compress.1.plugin=int8");
    assert_contains(c->run.err, "stages already");
    cli_expect(RUN, 2, "compress", INT8, "-o", c->out);
    assert_contains(c->run.err, "no model");
    cli_expect(RUN, 2, "compress", "-m", c->model, INT8, "-o", c->model);
    assert_contains(c->run.err, "is the file to read");
    cli_expect(RUN, 4, "compress", "-m", c->model, "--plugin", "nonsense", "-o", c->out);
    cli_expect(RUN, 2, "compress", "-m", c->model, INT8, "-o", c->out, "--set",
               "compress.1.int8.granularty=row");
    assert_contains(c->run.err, "granularity");
    cli_expect(RUN, 2, "compress", "-m", c->model, INT8, "-o", c->out, "--set",
               "compress.1.int8.keep=tok_embd.weight");
    assert_contains(c->run.err, "[compress.1] int8: keep: no tensor is called tok_embd.weight");
    assert_one_message(RUN);
    cli_expect(RUN, 3, "compress", "-m", "/nonexistent", INT8, "-o", c->out);
    assert_int_equal(access(c->out, F_OK), -1);
    cli_expect(RUN, 0, "compress", "-m", c->model, INT8, "-o", c->out, "-q");
    assert_string_equal(c->run.err, "");
    assert_int_equal(c->run.n_out, 0);
    cli_expect(RUN, 2, "compress", "-m", c->out, INT8, "-o", c->other);
    assert_contains(c->run.err, "start from the float model");
    assert_int_equal(count_files(c->folder), 2);
}

/* A chain that fails ends with the code of the reason, in compress, in convert and at load; nothing is
 * written. */
static void a_chain_fails_with_the_code_of_its_reason(void **state) {
#define TOY                                                                                        \
    "--plugin-path", PICO_BUILD_DIR "/tests/plugins", "--set", "compress.1.plugin=toy", "--set"
    static const struct {
        const char *set, *says;
        int code;
    } cases[] = {{"compress.1.toy.fail=nomem", "as asked: nomem", 5},
                 {"compress.1.toy.fail=device", "as asked", 5},
                 {"compress.1.toy.fail=io", "as asked", 1},
                 {"compress.1.toy.fail=corrupt", "as asked", 3},
                 {"compress.1.toy.fail=abi", "as asked", 4},
                 {"compress.1.toy.fail=invalid", "as asked", 2},
                 {"compress.1.toy.fail=unsupported", "as asked", 2},
                 {"compress.1.toy.fail=limit", "as asked", 2},
                 {"compress.1.toy.fail=not_found", "as asked", 2},
                 {"compress.1.toy.fail=cancelled", "as asked", 130},
                 {"compress.1.toy.lie=plan", "the plugin contradicts itself", 4}};
    context *c = *state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cli_expect(RUN, cases[i].code, "compress", "-q", "-m", c->model, "-o", c->out, TOY,
                   cases[i].set);
        assert_one_message(RUN);
        assert_contains(c->run.err, "[compress.1] toy: ");
        assert_contains(c->run.err, cases[i].says);
        cli_expect(RUN, cases[i].code, "convert", c->model, c->out, "-q", TOY, cases[i].set);
        cli_expect(RUN, cases[i].code, "run", "-m", c->model, "-p", "a", "-n", "1", "-q", TOY,
                   cases[i].set);
        assert_one_message(RUN);
        assert_int_equal(count_files(c->folder), 1);
    }
#undef TOY
}

/* A calibration text that is not there is a wrong configuration; one that cannot be read is not. */
static void texts_that_cannot_be_read_have_their_codes(void **state) {
    static const char *const plugins[] = {"int4", "int8", "prune"}, *const needs[] = {
                                                                        "int4.method=gptq",
                                                                        "int8.outlier_threshold=1",
                                                                        "prune.score=activation"};
    context *c = *state;
    for (size_t i = 0; i < 3; i++) {
        char need[64], missing[128], folder[128];
        (void)snprintf(need, sizeof need, "compress.1.%s", needs[i]);
        (void)snprintf(missing, sizeof missing, "compress.1.%s.calibration=/nowhere/text",
                       plugins[i]);
        (void)snprintf(folder, sizeof folder, "compress.1.%s.calibration=%s", plugins[i],
                       c->folder);
        cli_expect(RUN, 2, "compress", "-q", "-m", c->model, "-o", c->out, "--plugin", plugins[i],
                   "--set", need, "--set", "compress.1.prune.neurons=0.25", "--set", missing);
        assert_contains(c->run.err, "/nowhere/text: cannot open");
        assert_one_message(RUN);
        cli_expect(RUN, 1, "compress", "-q", "-m", c->model, "-o", c->out, "--plugin", plugins[i],
                   "--set", need, "--set", "compress.1.prune.neurons=0.25", "--set", folder);
        assert_contains(c->run.err, c->folder);
        assert_one_message(RUN);
        assert_int_equal(count_files(c->folder), 1);
    }
}

/* A folder's own files are its input too. */
static void keeps_the_files_of_a_folder(void **state) {
    context *c = *state;
    char folder[64], config[96], weights[96], out[96];
    (void)snprintf(folder, sizeof folder, "%s/hf", c->folder);
    (void)snprintf(config, sizeof config, "%s/config.json", folder);
    (void)snprintf(weights, sizeof weights, "%s/model.safetensors", folder);
    (void)snprintf(out, sizeof out, "%s/small.gguf", folder);
    pico_map map;
    const char *const names[] = {"config.json", "model.safetensors"};
    const char *const to[] = {config, weights};
    assert_int_equal(mkdir(folder, 0700), 0);
    for (size_t i = 0; i < 2; i++) {
        char from[512];
        (void)snprintf(from, sizeof from, "%s/tests/golden/gpt2/%s", PICO_SOURCE_DIR, names[i]);
        assert_int_equal(pico_map_open(from, &map, NULL), PICO_OK);
        cli_write(to[i], map.data, map.size);
        pico_map_close(&map);
    }
    cli_expect(RUN, 2, "compress", "-m", folder, INT8, "-o", weights);
    assert_contains(c->run.err, "a part of it");
    for (size_t i = 0; i < 2; i++) { /* a result of before may be replaced */
        cli_expect(RUN, 0, "compress", "-m", folder, INT8, "-o", out);
    }
    cli_expect(RUN, 2, "compress", "-m", folder, INT8, "-o", config);
    (void)unlink(config);
    (void)unlink(weights);
    (void)unlink(out);
    assert_int_equal(rmdir(folder), 0);
}

/* Interrupted behind the plan: either it was too late, or there is no file and no part of one. */
static void leaves_nothing_when_interrupted(void **state) {
    context *c = *state;
    pico_layer_desc layer[2];
    pico_model_desc desc = cli_tiny_desc(layer, 2);
    desc.n_embd = 256;
    layer[0] = layer[1] =
        (pico_layer_desc){.n_head = 4, .n_kv_head = 2, .head_dim = 64, .n_ff = 8192, .window = -1};
    desc.rope_dim = 64;
    cli_make_model(c->model, &desc, NULL);
    cli_spawn(RUN, &(const cli_setup){.interrupt = 1},
              CLI_WORDS("compress", "-m", c->model, INT8, "-o", c->out, "-t", "1"));
    if (c->run.code == 130) {
        assert_contains(c->run.err, "interrupted");
        assert_int_equal(access(c->out, F_OK), -1);
        assert_int_equal(count_files(c->folder), 1);
    } else {
        assert_int_equal(c->run.code, 0);
        cli_expect(RUN, 0, "inspect", c->out);
    }
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)
    const struct CMUnitTest tests[] = {
        TEST(prints_its_plan),
        TEST(one_result_on_every_way),
        TEST(refuses_what_it_cannot_do),
        TEST(a_chain_fails_with_the_code_of_its_reason),
        TEST(texts_that_cannot_be_read_have_their_codes),
        TEST(keeps_the_files_of_a_folder),
        TEST(leaves_nothing_when_interrupted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
