/* The program as users meet it: every command on a tiny model made here, exit codes, messages. */
#include "cli_support.h"

#include <jansson.h>

typedef struct context {
    char *folder;
    char model[64], file[64];
    cli_run run;
} context;

#define MODEL c->model
#define RUN (&c->run)
#define QUIET "-q"

static int setup(void **state) {
    context *c = calloc(1, sizeof *c);
    assert_non_null(c);
    c->folder = cli_folder();
    (void)snprintf(c->model, sizeof c->model, "%s/tiny.gguf", c->folder);
    (void)snprintf(c->file, sizeof c->file, "%s/file", c->folder);
    cli_make_tiny(c->model, "{{ a template that nobody knows }}");
    (void)setenv("NO_COLOR", "1", 1);
    *state = c;
    return 0;
}

static int teardown(void **state) {
    context *c = *state;
    cli_remove(c->folder);
    free(c->folder);
    free(c);
    return 0;
}

/* ---- the command line itself ---- */

/* Every command explains itself on stdout; so do the program and `help COMMAND`. */
static void help_is_everywhere(void **state) {
    static const char *const commands[] = {"run",      "chat",    "bench",    "eval",    "convert",
                                           "compress", "inspect", "tokenize", "plugins", "config"};
    context *c = *state;
    cli_expect(RUN, 0, "--help");
    char all[8192];
    (void)snprintf(all, sizeof all, "%s", c->run.out);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        assert_contains(all, commands[i]);
        cli_expect(RUN, 0, commands[i], "--help");
        assert_contains(c->run.out, "usage: picochat ");
        assert_contains(c->run.out, "--set");
        assert_string_equal(c->run.err, "");
        cli_expect(RUN, 0, "help", commands[i]);
        assert_contains(c->run.out, commands[i]);
    }
    cli_expect(RUN, 0, "--version");
    assert_contains(c->run.out, "picochat ");
}

/* A wrong command line is exit code 2, one message with the nearest name, nothing on stdout. */
static void mistakes_are_named(void **state) {
    context *c = *state;
    cli_expect(RUN, 2, "run", "--tempp", "1");
    assert_contains(c->run.err, "did you mean --temp?");
    assert_one_message(RUN);
    assert_int_equal(c->run.n_out, 0);
    cli_expect(RUN, 2, "run", "--temperature", "1");
    assert_contains(c->run.err, "did you mean --temp?");
    cli_expect(RUN, 2, "run", "--temprature", "1");
    assert_contains(c->run.err, "did you mean --temp?");
    cli_expect(RUN, 2, "run", "--max_tokens", "1");
    assert_contains(c->run.err, "did you mean --n-predict?");
    cli_expect(RUN, 2, "Once upon a time");
    assert_contains(c->run.err, "a prompt is given with -p TEXT");
    assert_one_message(RUN);
    cli_expect(RUN, 2, "tiny.gguf");
    assert_contains(c->run.err, "a model is given with -m MODEL");
    cli_expect(RUN, 2, "rnu");
    assert_contains(c->run.err, "did you mean run?");
    cli_expect(RUN, 2, "inspect", MODEL, "--temp", "1");
    assert_contains(c->run.err, "inspect does not take the option --temp");
    /* No command takes an option that would do nothing. */
    cli_expect(RUN, 2, "bench", "-m", MODEL, "--stop", "x");
    assert_contains(c->run.err, "bench does not take the option --stop");
    cli_expect(RUN, 2, "bench", "-m", MODEL, "--prompt", "x");
    cli_expect(RUN, 2, "eval", "-m", MODEL, "-f", c->file, "-n", "3");
    assert_contains(c->run.err, "eval does not take the option -n");
    cli_expect(RUN, 2, "inspect", MODEL, "-t", "1");
    cli_expect(RUN, 2, "tokenize", "-m", MODEL, "-c", "1", "-p", "x");
    cli_expect(RUN, 2, "run", "-m");
    assert_contains(c->run.err, "-m needs a value");
    cli_expect(RUN, 2, "inspect", "--json=yes", MODEL);
    assert_contains(c->run.err, "--json takes no value");
    cli_expect(RUN, 2, "run", "-m", MODEL, "-p", "x", "stray");
    assert_contains(c->run.err, "stray");
    cli_expect(RUN, 2, "run", "--set", "sampler.standard.temprature=1", "-m", MODEL, "-p", "x");
    assert_contains(c->run.err, "temperature");
    cli_expect(RUN, 2, "run", "-m", MODEL, "-p", "x", "-n", "many");
    assert_contains(c->run.err, "-n");
    cli_expect(RUN, 2, "run", "-m", MODEL, "-p", "x", "--temp", "-1");
    assert_one_message(RUN);
}

/* --flag=value is --flag value; after -- nothing is an option; no command means run. */
static void spellings_agree(void **state) {
    context *c = *state;
    char first[4096];
    cli_expect(RUN, 0, "run", "-m", MODEL, "--prompt=ab", "--n-predict=9", "--seed=3", QUIET);
    (void)snprintf(first, sizeof first, "%s", c->run.out);
    cli_expect(RUN, 0, "-m", MODEL, "-p", "ab", "-n", "9", "-s", "3", QUIET);
    assert_string_equal(c->run.out, first);
    cli_expect(RUN, 0, "inspect", "--", MODEL);
    assert_contains(c->run.out, "llama");
}

/* Command line > environment > file > default, and dump says which it was. */
static void precedence_holds(void **state) {
    context *c = *state;
    static const char ini[] = "[generate]\nseed = 1\nmax_tokens = 5\nubatch = 7\n";
    cli_setup set = {.env = {"PICOCHAT_GENERATE_SEED=2", "PICOCHAT_GENERATE_MAX_TOKENS=6"}};
    cli_write(c->file, ini, sizeof ini - 1);
    cli_expect_with(RUN, 0, &set, CLI_WORDS("config", "dump", "--config", c->file, "--seed", "3"));
    assert_contains(c->run.out, "seed = 3  ; --seed");
    assert_contains(c->run.out, "max_tokens = 6  ; PICOCHAT_GENERATE_MAX_TOKENS");
    assert_contains(c->run.out, "ubatch = 7  ; ");
    assert_contains(c->run.out, ":4\n");
    assert_contains(c->run.out, "overflow = stop  ; default");
    /* What is dumped is a configuration again, with the same values. */
    cli_write(c->file, c->run.out, c->run.n_out);
    cli_expect(RUN, 0, "config", "check", "--config", c->file);
    cli_expect(RUN, 0, "config", "dump", "--config", c->file);
    assert_contains(c->run.out, "seed = 3  ; ");
    assert_contains(c->run.out, "max_tokens = 6  ; ");
}

/* ---- run ---- */

static void assert_one_newline(const cli_run *run) {
    assert_true(run->n_out > 0 && run->out[run->n_out - 1] == '\n');
    assert_true(run->n_out < 2 || run->out[run->n_out - 2] != '\n');
}

/* All ways to give a prompt mean the same; --echo puts it first; the text ends with one newline. */
static void prompts_agree(void **state) {
    context *c = *state;
    char text[4096], expected[8192];
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "hello", "-n", "20", "--temp", "0");
    assert_one_newline(RUN);
    assert_contains(c->run.err, "seed 42");
    assert_contains(c->run.err, "20 new tokens");
    (void)snprintf(text, sizeof text, "%s", c->run.out);
    (void)snprintf(expected, sizeof expected, "hello%s", text);

    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "hello", "-n", "1", "-v");
    assert_contains(c->run.err, MODEL);
    assert_contains(c->run.err, ", GGUF v3, ");
    assert_contains(c->run.err, "debug: backend cpu: ");
    assert_contains(c->run.err, "loaded in ");
    assert_null(strstr(c->run.err, "drafts")); /* but where a decoder could have drafted: */
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "hello", "-n", "1", "--decoder", "scripted",
               "--plugin-path", PICO_BUILD_DIR "/tests/plugins");
    assert_contains(c->run.err, ", 0 drafts, ");
    cli_write(c->file, "hello\n", 6);
    cli_expect(RUN, 0, "run", "-m", MODEL, "-f", c->file, "-n", "20", "--temp", "0", QUIET);
    assert_string_equal(c->run.out, text);
    assert_string_equal(c->run.err, "");
    cli_expect(RUN, 0, "run", "-m", MODEL, "--set", "generate.prompt=hello", "-n", "20", "--temp",
               "0", "--echo", QUIET);
    assert_string_equal(c->run.out, expected);
    cli_setup in = {.input = "hello\n"};
    cli_expect_with(RUN, 0, &in, CLI_WORDS("run", "-m", MODEL, "-n", "20", "--temp", "0", QUIET));
    assert_string_equal(c->run.out, text);
    cli_expect_with(RUN, 0, &in,
                    CLI_WORDS("run", "-m", MODEL, "-f", "-", "-n", "20", "--temp", "0", QUIET));
    assert_string_equal(c->run.out, text);
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "a\n\n", "-n", "0", "--echo", QUIET);
    assert_string_equal(c->run.out, "a\n");
}

/* Without a prompt: exit code 2 at a terminal, and two prompts are one too many. */
static void prompt_is_needed(void **state) {
    context *c = *state;
    cli_setup terminal = {.terminal = 1};
    cli_expect_with(RUN, 2, &terminal, CLI_WORDS("run", "-m", MODEL));
    assert_contains(c->run.err, "no prompt");
    assert_one_message(RUN);
    cli_expect(RUN, 2, "run", "-m", MODEL, "-p", "x", "-f", c->file);
    assert_one_message(RUN);
    cli_expect(RUN, 2, "run", "-m", MODEL, "-f", "/nonexistent/prompt");
    assert_contains(c->run.err, "/nonexistent/prompt");
}

/* The same seed gives the same text, another one another; threads and ubatch change nothing. */
static void seeds_and_sizes(void **state) {
    context *c = *state;
    char text[4096];
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "hello world", "-n", "40", "--seed", "5", QUIET);
    (void)snprintf(text, sizeof text, "%s", c->run.out);
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "hello world", "-n", "40", "--seed", "5", "-t",
               "2", QUIET);
    assert_string_equal(c->run.out, text);
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "hello world", "-n", "40", "--seed", "6", QUIET);
    assert_string_not_equal(c->run.out, text);
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "hello world", "-n", "40", "--seed", "5",
               "--ubatch", "1", QUIET);
    assert_string_equal(c->run.out, text);
}

/* A full context ends the text with a warning, or slides on. */
static void context_fills_up(void **state) {
    context *c = *state;
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "x", "-n", "400", "--ignore-eos");
    assert_contains(c->run.err, "ended by context");
    assert_contains(c->run.err, "--overflow slide");
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "x", "-n", "400", "--ignore-eos", "--overflow",
               "slide");
    assert_contains(c->run.err, "400 new tokens");
    cli_expect(RUN, 2, "run", "-m", MODEL, "-p", "far too long for it", "-c", "8");
    assert_contains(c->run.err, "context 8");
}

/* What is advised about a full context is possible: a table of positions has an end. */
static void advice_is_possible(void **state) {
    static const char longer[] = "--ctx-size makes it longer", slide[] = "--overflow slide goes on";
    context *c = *state;
    pico_layer_desc layer[2];
    pico_model_desc desc = cli_tiny_desc(layer, 2);
    desc.pos = PICO_POS_LEARNED;
    desc.rope_dim = 0;
    cli_make_model(c->file, &desc, NULL);
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "x", "-n", "400", "--ignore-eos");
    assert_contains(c->run.err, longer);
    assert_contains(c->run.err, slide);
    cli_expect(RUN, 0, "run", "-m", c->file, "-p", "x", "-n", "400", "--ignore-eos", "-c", "32");
    assert_contains(c->run.err, longer);
    cli_expect(RUN, 0, "run", "-m", c->file, "-p", "x", "-n", "400", "--ignore-eos");
    assert_null(strstr(c->run.err, longer));
    assert_contains(c->run.err, slide);
    cli_expect(RUN, 2, "run", "-m", c->file, "-p", "x", "-c", "9999");
    assert_null(strstr(c->run.err, "longer than"));
    assert_one_message(RUN);
}

/* A row that reads no weights has no limit by bandwidth, and the notes speak of none. */
static void bench_says_only_what_it_measured(void **state) {
    context *c = *state;
    cli_expect(RUN, 0, "bench", "-m", MODEL, "-p", "8", "-n", "0", "-k", "0", "-r", "1");
    assert_contains(c->run.out, "GFLOP/s F32");
    assert_null(strstr(c->run.out, "nan"));
    assert_null(strstr(c->run.out, "GB/s read"));
    cli_expect(RUN, 0, "bench", "-m", MODEL, "-p", "0", "-n", "8", "-k", "0", "-r", "1");
    assert_contains(c->run.out, "GB/s read");
}

/* Weights by the names that compressors have, too; another word is refused with all that there are. */
static void bench_makes_weights_of_each_type(void **state) {
    context *c = *state;
    static const char *const types[] = {"f32", "f16", "bf16", "q8_0", "q4_0", "int8", "i8"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        cli_expect(RUN, 0, "bench", "--synthetic", "llama-15m", "--dtype", types[i], "-p", "0",
                   "-n", "1", "-k", "0", "-r", "1");
    }
    cli_expect(RUN, 2, "bench", "--synthetic", "llama-15m", "--dtype", "int3");
    assert_contains(c->run.err, "q4_0 or int8, not 'int3'");
}

/* Each row of the JSON text says all that it takes to be read alone. */
static void bench_rows_stand_alone(void **state) {
    static const char *const texts[] = {"test", "kind", "dtype", "backend", "device", "share_of"};
    static const char *const numbers[] = {"n",       "sequences",    "depth", "threads",
                                          "repeats", "tokens_per_s", "sd",    "median"};
    context *c = *state;
    cli_expect(RUN, 0, "bench", "-m", MODEL, "-p", "8", "-n", "4", "-k", "4", "--parallel", "2",
               "-r", "2", "-o", "json");
    json_t *root = json_loads(c->run.out, 0, NULL), *row;
    size_t i;
    assert_non_null(root);
    assert_int_equal(json_array_size(json_object_get(root, "rows")), 4); /* pp8, tg4, tg4x2, v4 */
    json_array_foreach(json_object_get(root, "rows"), i, row) {
        int is_v = strcmp(json_string_value(json_object_get(row, "kind")), "v") == 0;
        for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
            assert_true(json_string_length(json_object_get(row, texts[k])) > 0);
        }
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
            assert_true(json_is_number(json_object_get(row, numbers[k])));
        }
        assert_string_equal(json_string_value(json_object_get(row, "dtype")), "F32");
        assert_int_equal(json_integer_value(json_object_get(row, "repeats")), 2);
        assert_true(json_number_value(json_object_get(row, "limit")) > 0.0);
        assert_true(json_number_value(json_object_get(row, "share")) > 0.0);
        assert_int_equal(json_object_get(row, "ratio") != NULL, is_v);
        assert_int_equal(json_object_get(row, "ratio_sd") != NULL, is_v);
    }
    json_decref(root);
}

/* Ctrl-C ends the answer: the line is complete, the figures come, the exit code is 130. */
static void interrupt_ends_the_answer(void **state) {
    context *c = *state;
    cli_setup set = {.interrupt = 1};
    cli_expect_with(RUN, 130, &set,
                    CLI_WORDS("run", "-m", MODEL, "-p", "x", "-n", "2000000000", "--ignore-eos",
                              "--overflow", "slide"));
    assert_contains(c->run.err, "ended by cancelled");
}

/* What cannot be written is an error, not a success. */
static void full_disk_is_noticed(void **state) {
    context *c = *state;
    if (access("/dev/full", W_OK) != 0) {
        print_message("skipped: there is no /dev/full\n");
        skip();
    }
    cli_setup set = {.output = "/dev/full"};
    cli_expect_with(RUN, 1, &set, CLI_WORDS("run", "-m", MODEL, "-p", "x", "-n", "3", QUIET));
    assert_contains(c->run.err, "cannot write to standard output");
    assert_one_message(RUN);
    cli_expect_with(RUN, 1, &set, CLI_WORDS("inspect", MODEL));
    assert_one_message(RUN);
}

/* ---- exit codes ---- */

/* A message about a part of a model says no more than what is wrong with that part. */
static void parts_of_models_are_named(void **state) {
    context *c = *state;
    char *folder = cli_folder(), path[128];
    (void)snprintf(path, sizeof path, "%s/model_000001.pt", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    cli_expect(RUN, 3, "inspect", folder);
    assert_contains(c->run.err, "/model_000001.pt: not a regular file\n");
    cli_expect(RUN, 3, "inspect", folder, "--tokenizer", "/nonexistent/t");
    assert_contains(c->run.err, "/model_000001.pt: not a regular file\n");
    cli_expect(RUN, 3, "inspect", MODEL, "--tokenizer", folder);
    assert_contains(c->run.err, "no tokenizer: expected tokenizer.pkl");
    assert_contains(c->run.err, "correct --tokenizer\n");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(folder), 0);
    free(folder);
}

/* Each class of failure has its code and one message that names the culprit. */
static void exit_codes(void **state) {
    context *c = *state;
    char *data = NULL;
    uint64_t n = 0;
    cli_expect(RUN, 2, "run", "-p", "x");
    assert_contains(c->run.err, "-m MODEL");
    cli_expect(RUN, 3, "run", "-m", "/nonexistent/model", "-p", "x");
    assert_contains(c->run.err, "/nonexistent/model");
    assert_contains(c->run.err, "or the folder of one; correct -m");
    assert_one_message(RUN);
    cli_expect(RUN, 3, "run", "-m", MODEL, "--tokenizer", "/nonexistent/t", "-p", "x");
    assert_contains(c->run.err, "correct --tokenizer");
    cli_expect(RUN, 3, "inspect", "/nonexistent/model");
    assert_contains(c->run.err, "or the folder of one\n");
    cli_expect(RUN, 2, "run", "--config", "/nonexistent/a.ini", "-p", "x");
    assert_one_message(RUN);
    cli_expect(RUN, 4, "run", "-m", MODEL, "-p", "x", "--sampler", "nonesuch");
    assert_contains(c->run.err, "sample_nonesuch.so");
    assert_one_message(RUN);
    cli_expect(RUN, 4, "run", "-m", MODEL, "-p", "x", "--sampler",
               PICO_BUILD_DIR "/plugins/decode_greedy.so");
    assert_contains(c->run.err, "decode_greedy.so");
    assert_int_equal(pico_file_read(c->model, 1 << 24, &data, &n, NULL), PICO_OK);
    cli_write(c->file, data, (size_t)n / 2);
    cli_expect(RUN, 3, "run", "-m", c->file, "-p", "x");
    assert_contains(c->run.err, c->file);
    assert_one_message(RUN);
    cli_expect(RUN, 3, "inspect", c->file);
    cli_expect(RUN, 3, "convert", c->file, "/tmp/never-written.gguf");
    assert_int_equal(access("/tmp/never-written.gguf", F_OK), -1);
    free(data);
    cli_write(c->file, "[generate]\nsede = 1\n", 20);
    cli_expect(RUN, 2, "run", "--config", c->file, "-m", MODEL, "-p", "x");
    assert_contains(c->run.err, ":2: ");
    assert_contains(c->run.err, "did you mean seed?");
}

/* ---- the other commands ---- */

/* Ids and back give the text; the model's BOS is added only when asked for. */
static void tokenize_both_ways(void **state) {
    context *c = *state;
    cli_expect(RUN, 0, "tokenize", "-m", MODEL, "-p", "it's", "--json");
    char ids[256];
    (void)snprintf(ids, sizeof ids, "%s", c->run.out);
    assert_string_equal(ids, "[108,119,42,118]\n");
    cli_expect(RUN, 0, "tokenize", "-m", MODEL, "--decode", ids);
    assert_string_equal(c->run.out, "it's\n");
    cli_setup in = {.input = "108 119"};
    cli_expect_with(RUN, 0, &in, CLI_WORDS("tokenize", "-m", MODEL, "--decode", "--json"));
    assert_string_equal(c->run.out, "\"it\"\n");
    cli_expect(RUN, 0, "tokenize", "-m", MODEL, "-p", "'\n", "--bos");
    assert_string_equal(c->run.out, "1 '<s>'\n42 '\\''\n13 '\\n'\n");
    cli_expect(RUN, 2, "tokenize", "-m", MODEL, "--decode", "1 999");
    assert_contains(c->run.err, "999");
    cli_expect(RUN, 2, "tokenize", "-m", MODEL, "--decode", "1 x");
}

/* The JSON is JSON and says the same as the text; KV bytes are 2 * layers * heads * width * size.
 */
static void inspect_says_what_is_there(void **state) {
    context *c = *state;
    cli_expect(RUN, 0, "inspect", MODEL, "--json");
    json_t *root = json_loads(c->run.out, 0, NULL);
    assert_non_null(root);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(root, "kv_bytes_per_token"), "f32")),
        2 * 2 * 2 * 8 * 4);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(root, "kv_bytes_per_token_mqa"), "f16")),
        2 * 2 * 1 * 8 * 2);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(root, "kv_bytes_full_context"), "f32")),
        2 * 2 * 2 * 8 * 4 * TINY_CONTEXT);
    assert_true(json_is_null(/* heads of 8 are no blocks of 32 */
                             json_object_get(json_object_get(root, "kv_bytes_per_token"), "q8_0")));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(root, "model"), "n_layer")),
                     2);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(root, "tokenizer"), "n_vocab")),
        TINY_VOCAB);
    assert_int_equal(
        json_array_size(json_object_get(root, "tensors")),
        (size_t)json_integer_value(json_object_get(json_object_get(root, "totals"), "tensors")));
    json_decref(root);
    cli_expect(RUN, 0, "inspect", MODEL);
    assert_contains(c->run.out, "KV bytes per token: 256 in F32, 128 in F16\n"
                                "  with --attention mqa (one KV head): 128 in F32, 64 in F16\n"
                                "KV bytes of a full context of 128 tokens: 32768 in F32, 16384 in");
    assert_contains(c->run.out, "blk.1.ffn_down.weight");
}

/* Heads of 32 can be kept in Q8_0, and are: 34 bytes for 32 values, in what inspect says and in what
 * bench measures. Heads of 8 cannot, and the message says what can. */
static void integer_pages_are_counted(void **state) {
    context *c = *state;
    pico_layer_desc layer[2];
    pico_model_desc desc = cli_tiny_desc(layer, 2);
    for (uint32_t i = 0; i < 2; i++) {
        layer[i].n_head = 2;
        layer[i].n_kv_head = 1;
        layer[i].head_dim = 32;
    }
    desc.n_embd = 64;
    desc.rope_dim = 32;
    cli_make_model(c->file, &desc, NULL);
    cli_expect(RUN, 0, "inspect", c->file);
    assert_contains(c->run.out, "KV bytes per token: 512 in F32, 256 in F16, 136 in Q8_0\n");
    cli_expect(RUN, 0, "bench", "-m", c->file, "--kv-type", "q8_0", "-p", "8", "-n", "4", "-k", "0",
               "-r", "1", "-o", "json");
    assert_contains(c->run.out, "\"kv_bytes_per_token\": 136,");
    cli_expect(RUN, 0, "-m", c->file, "--kv-type", "q8_0", "-p", "Once", "-n", "4", "--temp", "0");
    cli_expect(RUN, 3, "-m", MODEL, "--kv-type", "q8_0", "-p", "Once", "-n", "4");
    assert_contains(c->run.err, "kv_type = f16");
}

/* A converted file gives the same text; pooling the KV heads is kept in the file; the input is
 * never overwritten. */
static void convert_keeps_the_model(void **state) {
    context *c = *state;
    char text[4096];
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "abc", "-n", "20", "--temp", "0", QUIET);
    (void)snprintf(text, sizeof text, "%s", c->run.out);
    cli_expect(RUN, 0, "convert", MODEL, c->file);
    assert_contains(c->run.err, "tensors");
    assert_int_equal(c->run.n_out, 0);
    cli_expect(RUN, 0, "run", "-m", c->file, "-p", "abc", "-n", "20", "--temp", "0", QUIET);
    assert_string_equal(c->run.out, text);
    cli_expect(RUN, 2, "convert", MODEL, MODEL);
    assert_contains(c->run.err, "file to read");
    cli_expect(RUN, 2, "convert", MODEL, c->file, "--attention", "mqa");
    assert_contains(c->run.err, "convert = mean");
    cli_expect(RUN, 0, "convert", MODEL, c->file, "--attention", "mqa", "--set",
               "attention.mqa.convert=mean");
    assert_contains(c->run.err, "pooling");
    cli_expect(RUN, 0, "inspect", c->file);
    assert_contains(c->run.out, "n_kv_head 1");
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "abc", "-n", "20", "--temp", "0", QUIET,
               "--attention", "mqa", "--set", "attention.mqa.convert=mean");
    (void)snprintf(text, sizeof text, "%s", c->run.out);
    cli_expect(RUN, 0, "run", "-m", c->file, "-p", "abc", "-n", "20", "--temp", "0", QUIET,
               "--attention", "mqa");
    assert_string_equal(c->run.out, text);
}

/* A mistake in the section of a plugin that is not selected stops a run, too; one of a plugin that
 * is not there is a warning. Quotes and '#' in values are explained. */
static void other_sections_are_checked(void **state) {
    context *c = *state;
    static const char quoted[] = "[sampler.mirostat]\ntua = 1\n";
    static const char path[] = "[model]\npath = \"x.gguf\"\n";
    static const char number[] = "[generate]\nseed = 1 # one\n";
    static const char hash[] = "[model]\npath = x.gguf # the model\n";
    cli_write(c->file, quoted, sizeof quoted - 1);
    cli_expect(RUN, 2, "run", "--config", c->file, "-m", MODEL, "-p", "x", "-n", "1");
    assert_contains(c->run.err, ":2: [sampler.mirostat] has no key tua; did you mean tau?");
    cli_expect(RUN, 2, "bench", "--config", c->file, "-m", MODEL);
    cli_expect(RUN, 2, "eval", "--config", c->file, "-m", MODEL, "-f", c->file);
    cli_expect(RUN, 2, "chat", "--config", c->file, "-m", MODEL);
    cli_expect(RUN, 0, "run", "-m", MODEL, "-p", "x", "-n", "1", "--set", "decoder.greedi.a=1");
    assert_contains(c->run.err, "warning: --set: [decoder.greedi] is not checked: ");
    assert_contains(c->run.err, "did you mean 'greedy'?");
    cli_write(c->file, path, sizeof path - 1);
    cli_expect(RUN, 2, "config", "check", "--config", c->file);
    assert_contains(c->run.err, ":2: [model] path = \"x.gguf\": expected a path (values are taken "
                                "literally; leave the quotes out)");
    cli_write(c->file, number, sizeof number - 1);
    cli_expect(RUN, 2, "config", "check", "--config", c->file);
    assert_contains(c->run.err, "a comment begins with ' ;'");
    cli_write(c->file, hash, sizeof hash - 1);
    cli_expect(RUN, 0, "config", "check", "--config", c->file);
    assert_contains(c->run.err, ":2: [model] path: '#' is part of this path");
}

/* What is listed can be shown, with the section and variable that set each option. */
static void plugins_list_and_show(void **state) {
    context *c = *state;
    cli_expect(RUN, 0, "plugins", "list");
    assert_contains(c->run.out, "standard");
    assert_contains(c->run.out, "greedy");
    cli_expect(RUN, 0, "plugins", "list", "-v");
    assert_contains(c->run.out, "/plugins/attn_mqa.so");
    assert_contains(c->run.out, "searched, in this order:\n  " PICO_BUILD_DIR "/plugins\n");
    cli_expect(RUN, 0, "plugins", "show", "sampler/standard");
    assert_contains(c->run.out, "[sampler.standard]");
    assert_contains(c->run.out, "PICOCHAT_SAMPLER_STANDARD_TEMPERATURE");
    cli_expect(RUN, 0, "plugins", "show", PICO_BUILD_DIR "/plugins/sample_mirostat.so");
    assert_contains(c->run.out, "tau");
    cli_expect(RUN, 4, "plugins", "show", "standrad");
    assert_contains(c->run.err, "did you mean standard?");
    cli_expect(RUN, 4, "plugins", "show",
               PICO_BUILD_DIR "/tests/bad_plugins/sample_missing_slot.so");
    assert_contains(c->run.err, "the required slot dist is NULL");
    cli_expect(RUN, 0, "plugins", "list", "-v", "--plugin-path", "/nonexistent/plugins");
    assert_contains(c->run.out, "/nonexistent/plugins (does not exist)");
    assert_contains(c->run.err, "warning: --plugin-path: there is no folder /nonexistent/plugins");
    cli_expect(RUN, 4, "run", "-m", MODEL, "-p", "x", "--sampler", "greedy");
    assert_contains(c->run.err, "'greedy' is a decoder and belongs into [decoder]");
    cli_write(c->file, "not a plugin", 12);
    char path[128];
    (void)snprintf(path, sizeof path, "%s/sample_broken.so", c->folder);
    assert_int_equal(rename(c->file, path), 0);
    cli_expect(RUN, 0, "plugins", "list", "-v", "--plugin-path", c->folder);
    assert_contains(c->run.out, "sample_broken.so");
    assert_contains(c->run.out, "refused");
}

/* Two turns, two lines on stdout; the second keeps what the first computed; commands obey. */
static void chat_keeps_its_turns(void **state) {
    context *c = *state;
    cli_setup in = {.input = "one\n/stats\ntwo\n/quit\nnever said\n"};
    cli_expect_with(RUN, 0, &in,
                    CLI_WORDS("chat", "-m", MODEL, "-n", "8", "--temp", "0", "-v", "--set",
                              "sampler.logit_bias=13:-inf"));
    size_t lines = 0;
    for (const char *at = c->run.out; *at != '\0'; at++) {
        lines += *at == '\n';
    }
    assert_int_equal(lines, 2);
    assert_contains(c->run.err, "kept)");
    assert_contains(c->run.err, "2 messages");
    cli_setup full = {.input =
                          "a line that is long enough to fill a context of sixty-four\nmore\n"};
    cli_expect_with(RUN, 0, &full, CLI_WORDS("chat", "-m", MODEL, "-n", "8", "-c", "64"));
    assert_contains(c->run.err, "/clear");
}

/* ChatML is recognised and its marks are tokens, in the template only: BOS, <|im_start|>, "user\n",
 * what was said, <|im_end|>, "\n", <|im_start|>, "assistant\n". An unknown template is named. */
static void chat_uses_the_models_template(void **state) {
    context *c = *state;
    cli_setup in = {.input = "hi\n"}, marks = {.input = "<|im_end|>\n"};
    cli_make_tiny(c->file, "{% ... %}<|im_start|>{{ role }}");
    cli_expect_with(RUN, 0, &in, CLI_WORDS("chat", "-m", c->file, "-n", "4", "-v"));
    assert_contains(c->run.err, "22 prompt tokens");
    cli_expect_with(RUN, 0, &marks, CLI_WORDS("chat", "-m", c->file, "-n", "4", "-v"));
    assert_contains(c->run.err, "30 prompt tokens");
    cli_expect_with(RUN, 0, &in, CLI_WORDS("chat", "-m", MODEL, "-n", "4"));
    assert_contains(c->run.err, "does not know");
}

/* A conversation that slides goes on over many turns, whatever has left the window. */
static void chat_slides_on(void **state) {
    context *c = *state;
    cli_setup in = {.input = "one\ntwo\nthree\n"};
    cli_expect_with(RUN, 0, &in,
                    CLI_WORDS("chat", "-m", MODEL, "-n", "700", "--overflow", "slide",
                              "--ignore-eos", "--ubatch", "16", "-v"));
    const char *at = c->run.err;
    for (int i = 0; i < 3; i++) {
        at = strstr(at + (i != 0), "700 new tokens");
        assert_non_null(at);
    }
}

/* The reference has a heading for each host section and each plugin that is built. */
static void reference_is_complete(void **state) {
    static const char *const headings[] = {
        "## [model]",         "## [generate]",    "## [compress.N]",       "## [sampler.standard]",
        "## [attention.mqa]", "## [backend.cpu]", "## [sampler.mirostat]", "## [decoder.greedy]"};
    context *c = *state;
    cli_expect(RUN, 0, "config", "reference");
    for (size_t i = 0; i < sizeof headings / sizeof *headings; i++) {
        assert_contains(c->run.out, headings[i]);
    }
    cli_expect(RUN, 2, "config", "check", "--set", "sampler.mirostat.tau=-1");
    assert_contains(c->run.err, "tau");
    cli_expect(RUN, 0, "config", "check", "--set", "sampler.standrad.x=1");
    assert_contains(c->run.err, "warning: --set: [sampler.standrad] is not checked: there is no "
                                "sampler plugin 'standrad'; did you mean 'standard'?");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(help_is_everywhere),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(spellings_agree),
        cmocka_unit_test(precedence_holds),
        cmocka_unit_test(prompts_agree),
        cmocka_unit_test(prompt_is_needed),
        cmocka_unit_test(seeds_and_sizes),
        cmocka_unit_test(context_fills_up),
        cmocka_unit_test(advice_is_possible),
        cmocka_unit_test(bench_says_only_what_it_measured),
        cmocka_unit_test(bench_makes_weights_of_each_type),
        cmocka_unit_test(bench_rows_stand_alone),
        cmocka_unit_test(interrupt_ends_the_answer),
        cmocka_unit_test(full_disk_is_noticed),
        cmocka_unit_test(parts_of_models_are_named),
        cmocka_unit_test(exit_codes),
        cmocka_unit_test(tokenize_both_ways),
        cmocka_unit_test(inspect_says_what_is_there),
        cmocka_unit_test(integer_pages_are_counted),
        cmocka_unit_test(convert_keeps_the_model),
        cmocka_unit_test(other_sections_are_checked),
        cmocka_unit_test(plugins_list_and_show),
        cmocka_unit_test(chat_keeps_its_turns),
        cmocka_unit_test(chat_uses_the_models_template),
        cmocka_unit_test(chat_slides_on),
        cmocka_unit_test(reference_is_complete),
    };
    return cmocka_run_group_tests_name("cli", tests, setup, teardown);
}
