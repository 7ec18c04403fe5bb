/*
 * bench: tokens per second of prompts, of generation and of small batches, next to what the machine
 * allows.
 */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench_spec.h"
#include "cli/cli.h"
#include "measure/bench.h"

typedef struct bench_state {
    const pico_cli *cli;
    pico_runtime runtime;
    pico_decode_params decode;
    pico_bench_params params;
    pico_bench_about about;
    pico_bench_result *result; /* malloc-ed */
    pico_error err;
} bench_state;

/* ---- output ---- */

static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

/* One row, with what it takes to be read without the rest. tokens_per_s, sd and median are always
 * tokens/s; of a v row the ratio has its own. */
static json_t *json_row(const pico_bench_about *about, const pico_bench_row *row) {
    static const char *const kinds[] = {"", "pp", "tg", "v", "nokv"}; /* by PICO_BENCH_x */
    json_t *object = json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:s, s:I, s:I, s:f, s:f, s:f, s:o, s:o, s:s, s:b}",
        "test", row->test, "kind", kinds[row->kind], "n", (json_int_t)row->n, "sequences",
        (json_int_t)row->n_seq, "depth", (json_int_t)row->depth, "dtype", about->dtype, "backend",
        about->backend, "device", about->device, "threads", (json_int_t)about->threads, "repeats",
        (json_int_t)row->tokens_per_s.n, "tokens_per_s", row->tokens_per_s.mean, "sd",
        row->tokens_per_s.sd, "median", row->tokens_per_s.median, "limit", number(row->limit),
        "share", number(row->share), "share_of",
        row->kind == PICO_BENCH_PREFILL ? "fma_f32" : "read", "probe_fault", row->probe_fault);
    if (row->kind == PICO_BENCH_ROWS_OF_ONE) {
        (void)json_object_set_new(object, "ratio", number(row->ratio.mean));
        (void)json_object_set_new(object, "ratio_sd", number(row->ratio.sd));
        (void)json_object_set_new(object, "ratio_median", number(row->ratio.median));
    }
    if (row->kind == PICO_BENCH_PREFILL) {
        (void)json_object_set_new(
            object, "flop_per_s",
            number(row->operations / (double)row->n * row->tokens_per_s.median));
    } else if (row->kind != PICO_BENCH_NO_KV) {
        (void)json_object_set_new(object, "bytes_per_step", json_integer((json_int_t)row->bytes));
    }
    if (row->n_drafted != 0) {
        (void)json_object_set_new(object, "drafted", json_integer((json_int_t)row->n_drafted));
        (void)json_object_set_new(object, "accepted", json_integer((json_int_t)row->n_accepted));
    }
    return object;
}

static int print_json(const bench_state *state) {
    const pico_bench_result *r = state->result;
    json_t *rows = json_array();
    for (size_t i = 0; i < r->n_row; i++) {
        (void)json_array_append_new(rows, json_row(&state->about, &r->row[i]));
    }
    json_t *limits = json_pack("{s:o, s:o, s:I, s:s}", "read_bytes_per_s", number(r->read_rate),
                               "fma_flop_per_s", number(r->flop_rate), "bytes_per_step",
                               (json_int_t)r->step_bytes, "probe", r->instructions);
    if (r->note[0] != '\0') {
        (void)json_object_set_new(limits, "note", json_string(r->note));
    }
    json_t *root = json_pack(
        "{s:s, s:s, s:I, s:I, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:o}", "model",
        state->about.model, "dtype", state->about.dtype, "model_bytes",
        (json_int_t)state->about.model_bytes, "params", (json_int_t)state->about.n_params,
        "backend", state->about.backend, "device", state->about.device, "decoder",
        state->about.decoder, "threads", (json_int_t)state->about.threads, "peak_rss_bytes",
        (json_int_t)r->peak_rss, "kv_bytes", (json_int_t)r->kv_bytes, "kv_bytes_per_token",
        (json_int_t)r->kv_bytes_per_token, "limits", limits, "rows", rows);
    int failed = root == NULL || json_dumpf(root, stdout, JSON_INDENT(2)) != 0;
    (void)putchar('\n');
    json_decref(root);
    return failed && !ferror(stdout)
               ? pico_cli_fail(state->cli, PICO_EXIT_RUNTIME, "the JSON text cannot be made")
               : PICO_EXIT_OK;
}

static int print_result(const bench_state *state, const char *format) {
    if (strcmp(format, "json") == 0) {
        return print_json(state);
    }
    if (strcmp(format, "csv") == 0) {
        pico_bench_print_csv(&state->about, state->result, stdout);
    } else {
        pico_bench_print_md(&state->about, state->result, stdout);
    }
    return PICO_EXIT_OK;
}

/* ---- what to measure ---- */

static pico_status read_list(bench_state *state, const char *name, int64_t max, const char *def,
                             pico_bench_list *out) {
    int64_t values[PICO_BENCH_LIST];
    size_t n = 0;
    pico_status status =
        pico_cli_int_list(state->cli, name, 0, max, values, PICO_BENCH_LIST, &n, &state->err);
    if (status != PICO_OK) {
        return status;
    }
    if (!pico_cli_has(state->cli, name)) {
        for (char *end = NULL; *def != '\0'; def = *end == ',' ? end + 1 : end) {
            values[n++] = strtol(def, &end, 10);
        }
    }
    for (size_t i = 0; i < n; i++) {
        out->value[i] = (uint32_t)values[i];
    }
    out->n = n;
    return PICO_OK;
}

static pico_status read_params(bench_state *state) {
    pico_bench_params *params = &state->params;
    int64_t repeats = 5;
    pico_status status = pico_cli_int(state->cli, "-r", 1, PICO_BENCH_ROWS, &repeats, &state->err);
    if (status == PICO_OK) {
        status = read_list(state, "-p", PICO_MAX_CONTEXT, "512", &params->prompt);
    }
    if (status == PICO_OK) {
        status = read_list(state, "-n", PICO_MAX_CONTEXT, "128", &params->generate);
    }
    if (status == PICO_OK) {
        status = read_list(state, "-k", 4096, "1,2,4,8,16", &params->rows);
    }
    if (status == PICO_OK) {
        status = read_list(state, "-d", PICO_MAX_CONTEXT, "0", &params->depth);
    }
    if (status == PICO_OK) {
        status = read_list(state, "--parallel", 4096, "0", &params->parallel);
    }
    params->repeats = (uint32_t)repeats;
    params->no_kv = pico_cli_has(state->cli, "--no-kv");
    return status;
}

/* ---- the command ---- */

static int open_model(bench_state *state) {
    const char *shape = pico_cli_value(state->cli, "--synthetic");
    const char *dtype = pico_cli_value(state->cli, "--dtype");
    pico_model_file *file = NULL;
    int code = PICO_EXIT_OK;
    if (shape != NULL &&
        pico_model_synthetic(shape, pico_dtype_of_word(dtype == NULL ? "f32" : dtype), &file,
                             &state->err) != PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    if (pico_runtime_open(&state->runtime, state->cli->config, PICO_RUNTIME_DECODE, file, &code,
                          &state->err) != PICO_OK) {
        pico_model_file_close(file);
        return pico_cli_fail(state->cli, code, "%s", state->err.message);
    }
    return PICO_EXIT_OK;
}

static int measure(bench_state *state, const char *format) {
    pico_runtime *runtime = &state->runtime;
    const char *path = runtime->model->file->path, *slash = strrchr(path, '/');
    pico_status status = pico_runtime_decode_params(runtime, 1, 1, &state->decode, &state->err);
    state->params.host = &runtime->host;
    state->params.pool = runtime->pool;
    state->params.decode = &state->decode;
    state->result = malloc(sizeof *state->result);
    if (state->result == NULL) {
        return pico_cli_fail(state->cli, PICO_EXIT_MEMORY, "out of memory");
    }
    if (status == PICO_OK) {
        status = pico_bench_run(runtime->model, &state->params, state->result, &state->err);
    }
    if (status != PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    pico_bench_describe(runtime->model, slash == NULL ? path : slash + 1, &state->about);
    state->about.backend = runtime->backend.loaded->plugin.name;
    state->about.decoder = runtime->decoder.loaded->plugin.name;
    state->about.threads = pico_pool_n_threads(runtime->pool);
    return print_result(state, format);
}

static int bench_command(const pico_cli *cli) {
    bench_state state = {.cli = cli};
    const char *format = pico_cli_value(cli, "-o"), *dtype = pico_cli_value(cli, "--dtype");
    const char *shape = pico_cli_value(cli, "--synthetic");
    format = format == NULL ? "md" : format;
    if (strcmp(format, "md") != 0 && strcmp(format, "csv") != 0 && strcmp(format, "json") != 0) {
        return pico_cli_usage(cli, "-o is md, csv or json, not '%s'", format);
    }
    if (shape != NULL && pico_config_origin(cli->config, "model", "path")[0] == '-') {
        return pico_cli_usage(cli, "give either -m MODEL or --synthetic SHAPE");
    }
    if (dtype != NULL && shape == NULL) {
        return pico_cli_usage(cli, "--dtype belongs to --synthetic; a file has its own");
    }
    if (dtype != NULL && pico_dtype_of_word(dtype) == PICO_DTYPE_NONE) {
        return pico_cli_usage(cli, "--dtype is f32, f16, bf16, q8_0, q4_0 or int8, not '%s'",
                              dtype);
    }
    if (read_params(&state) != PICO_OK) {
        return pico_cli_usage(cli, "%s", state.err.message);
    }
    int is_spec = pico_bench_wants_spec(cli);
    if (!is_spec && (pico_cli_has(cli, "--gamma") || pico_cli_has(cli, "--draft-cost") ||
                     pico_cli_has(cli, "--prompt-file"))) {
        return pico_cli_usage(cli, "--gamma, --draft-cost and --prompt-file belong to --decoders "
                                   "and --accept");
    }
    if (is_spec && (state.params.generate.n != 1 || state.params.generate.value[0] < 2)) {
        return pico_cli_usage(cli, "with --decoders or --accept, -n is one number of tokens, at "
                                   "least 2");
    }
    int code = open_model(&state);
    if (code == PICO_EXIT_OK) {
        code = is_spec ? pico_bench_spec(cli, &state.runtime, format,
                                         state.params.generate.value[0], state.params.repeats)
                       : measure(&state, format);
        pico_runtime_close(&state.runtime);
    }
    free(state.result);
    return pico_cli_finish_output(code);
}

static const pico_cli_option options[] = {
    {"--synthetic", NULL, "SHAPE",
     "random weights: llama-15m, llama-110m, llama-1.3b, llama-7b, gpt2, gpt2-large, gpt2-xl, "
     "nanochat-d12, nanochat-d20"},
    {"--dtype", NULL, "TYPE", "of random weights: f32 (default), f16, bf16, q8_0, q4_0, int8"},
    {"-p", NULL, "N,...", "pp rows: prompts of N tokens; default 512, 0 for none"},
    {"-n", NULL, "N,...", "tg rows: N tokens generated greedily; default 128, 0 for none"},
    {"--parallel", NULL, "S,...",
     "tgNxS rows: S sequences with prompts of different lengths, decoded together; tokens/s of "
     "all; "
     "default 0, none"},
    {"-k", NULL, "K,...",
     "v rows: time of K consecutive rows over that of one; default "
     "1,2,4,8,16; 0 for none"},
    {"-d", NULL, "N,...", "tokens that are in the context before; default 0"},
    {"-r", NULL, "N", "repeats of each row; default 5"},
    {"--decoders", NULL, "NAME,...",
     "instead of the rows: each of these decoders, at each --gamma, against plain decoding of the "
     "same text, -n tokens and -r times each, with the sampler as configured"},
    {"--gamma", NULL, "K,...", "draft lengths: numbers, ranges A..B, auto; default 1..4,8,auto"},
    {"--accept", NULL, "A",
     "such a table, or such rows in it, for drafts that are right with probability A"},
    {"--draft-cost", NULL, "C", "of each of those drafts, in plain rounds; default 0"},
    {"--prompt-file", NULL, "FILE", "the prompt of that table; default: some words"},
    {"--no-kv", NULL, NULL, "each tg row also without a KV cache: everything again for each token"},
    {"-o", NULL, "FORMAT", "md (default), csv or json"}};

const pico_command pico_command_bench = {
    .name = "bench",
    .summary = "measure speed, next to what the machine allows",
    .usage = "bench (-m MODEL | --synthetic SHAPE [--dtype TYPE]) [-p N,...] [-n N,...] [-k K,...]",
    .details =
        "Prints mean and standard deviation over the repeats. The share of tg and v rows is that\n"
        "of the read limit: how fast the same threads read as many bytes as a step does, probed\n"
        "before and after each repeat. That of pp rows is of the F32 multiply-adds that the "
        "threads\n"
        "compute. It is a limit for F32 weights only; kernels for narrower types use other\n"
        "instructions and may exceed it, so there it is printed as a multiple.",
    .sections = "model.path host backend attention sampler decoder generate.ubatch",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .max_arguments = 0,
    .runs_plugins = 1,
    .run = bench_command};
