/*
 * eval: how likely a text is to a model, or the logits of given tokens in a file for comparison
 * with other programs.
 */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "measure/eval.h"
#include "util/file.h"

enum { TEXT_BYTES = 1 << 30 };

typedef struct eval_state {
    const pico_cli *cli;
    pico_runtime runtime;
    pico_eval_params params;
    char *text; /* malloc-ed: the input */
    size_t n_text;
    pico_error err;
} eval_state;

static int read_input(eval_state *state, const char *path) {
    uint64_t n = 0;
    if (pico_file_read(path, TEXT_BYTES, &state->text, &n, &state->err) != PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    state->n_text = (size_t)n;
    return PICO_EXIT_OK;
}

static int open_model(eval_state *state, uint32_t needs) {
    const pico_config *config = state->cli->config;
    int code = PICO_EXIT_OK;
    if (pico_runtime_open(&state->runtime, config, needs, NULL, &code, &state->err) != PICO_OK) {
        return pico_cli_fail(state->cli, code, "%s", state->err.message);
    }
    state->params = (pico_eval_params){
        .host = &state->runtime.host,
        .ubatch = (uint32_t)pico_config_int(config, "generate", "ubatch"),
        .context = (uint32_t)pico_config_int(config, "model", "context"),
    };
    return PICO_EXIT_OK;
}

/* ---- --tokens: logits ---- */

static int run_tokens(eval_state *state, const char *tokens, const char *logits) {
    int32_t *ids = NULL;
    size_t n = 0;
    int code = read_input(state, tokens);
    if (code == PICO_EXIT_OK) {
        code = open_model(state, PICO_RUNTIME_MODEL);
    }
    if (code != PICO_EXIT_OK) {
        return code;
    }
    pico_model *model = state->runtime.model;
    pico_status status =
        pico_eval_parse_tokens(tokens, state->text, state->n_text,
                               pico_model_describe(model)->n_vocab, &ids, &n, &state->err);
    if (status == PICO_OK) {
        status = pico_eval_logits(model, &state->params, ids, n, logits, &state->err);
    }
    free(ids);
    return status == PICO_OK ? PICO_EXIT_OK : pico_cli_fail_error(state->cli, &state->err);
}

/* ---- -f: likelihood ---- */

static int print_json(const eval_state *state, const pico_eval_result *result) {
    /* JSON knows neither NaN nor infinity. */
    json_t *bpb = isfinite(result->bpb) ? json_real(result->bpb) : json_null();
    json_t *ppl = isfinite(result->ppl) ? json_real(result->ppl) : json_null();
    json_t *root = json_pack(
        "{s:f, s:f, s:f, s:I, s:I, s:o, s:o, s:I, s:I, s:I, s:I}", "nll_mean", result->nll_mean,
        "nll_sum", result->nll_sum, "nll_se", result->nll_se, "tokens", (json_int_t)result->tokens,
        "predictions", (json_int_t)result->predictions, "ppl", ppl, "bpb", bpb, "documents",
        (json_int_t)result->documents, "bytes", (json_int_t)result->bytes, "documents_cut",
        (json_int_t)result->n_cut, "tokens_cut", (json_int_t)result->tokens_cut);
    int failed = root == NULL || json_dumpf(root, stdout, JSON_INDENT(2)) != 0;
    (void)putchar('\n');
    json_decref(root);
    return failed && !ferror(stdout)
               ? pico_cli_fail(state->cli, PICO_EXIT_RUNTIME, "the JSON text cannot be made")
               : PICO_EXIT_OK;
}

static int print_table(const pico_eval_result *r) {
    (void)printf("nll     %.5f +- %.5f nats/token (sum %.4f)\n", r->nll_mean, r->nll_se,
                 r->nll_sum);
    (void)printf("ppl     %.4f\n", r->ppl);
    (void)printf("bpb     %.5f bits/byte over %llu bytes\n", r->bpb, (unsigned long long)r->bytes);
    (void)printf("tokens  %llu, %llu predictions, %llu documents\n", (unsigned long long)r->tokens,
                 (unsigned long long)r->predictions, (unsigned long long)r->documents);
    return PICO_EXIT_OK;
}

static int run_documents(eval_state *state, const pico_document *documents, size_t n) {
    pico_eval_result result;
    const char *format = pico_cli_value(state->cli, "-o");
    if (n == 0) {
        return pico_cli_fail(state->cli, PICO_EXIT_USAGE, "the text is empty");
    }
    pico_status status = pico_eval_documents(state->runtime.model, state->runtime.tokenizer,
                                             &state->params, documents, n, &result, &state->err);
    if (status != PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    if (result.n_cut != 0) {
        pico_log_write(&state->runtime.log, PICO_LOG_INFO,
                       "%llu of %llu documents are longer than the context: %llu tokens were cut "
                       "off",
                       (unsigned long long)result.n_cut, (unsigned long long)result.documents,
                       (unsigned long long)result.tokens_cut);
    }
    return format != NULL && strcmp(format, "json") == 0 ? print_json(state, &result)
                                                         : print_table(&result);
}

static int run_text(eval_state *state, const char *path, const char *split) {
    pico_document whole, *documents = NULL;
    size_t n = 1;
    int code = read_input(state, path);
    if (code == PICO_EXIT_OK) {
        code = open_model(state, PICO_RUNTIME_MODEL | PICO_RUNTIME_TOKENIZER);
    }
    if (code != PICO_EXIT_OK) {
        return code;
    }
    if (split == NULL) {
        whole = (pico_document){state->text, state->n_text};
        return run_documents(state, &whole, state->n_text != 0);
    }
    const char *separator =
        *split != '\0' ? split : pico_eval_separator(state->text, state->n_text);
    if (pico_eval_split(state->text, state->n_text, separator, &documents, &n, &state->err) !=
        PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    code = run_documents(state, documents, n);
    free(documents);
    return code;
}

/* ---- the command ---- */

static int eval_command(const pico_cli *cli) {
    const char *tokens = pico_cli_value(cli, "--tokens"), *logits = pico_cli_value(cli, "--logits");
    const char *file = pico_cli_value(cli, "--file"), *split = pico_cli_value(cli, "--split-docs");
    const char *format = pico_cli_value(cli, "-o");
    if ((tokens == NULL) != (logits == NULL) || (tokens != NULL) == (file != NULL)) {
        return pico_cli_usage(cli, "give either --tokens FILE and --logits OUT, or -f TEXT");
    }
    if (tokens != NULL && (split != NULL || format != NULL)) {
        return pico_cli_usage(cli, "--split-docs and -o belong to -f TEXT, not to --tokens");
    }
    if (format != NULL && strcmp(format, "json") != 0 && strcmp(format, "text") != 0) {
        return pico_cli_usage(cli, "-o is text or json, not '%s'", format);
    }
    eval_state state = {.cli = cli};
    int code = tokens != NULL ? run_tokens(&state, tokens, logits) : run_text(&state, file, split);
    pico_runtime_close(&state.runtime);
    free(state.text);
    return pico_cli_finish_output(code);
}

static const pico_cli_option options[] = {
    {"--tokens", NULL, "FILE",
     "white-space separated token ids, run as they are; - is standard "
     "input"},
    {"--logits", NULL, "OUT",
     "where the logits of --tokens go: little-endian F32 (tokens, "
     "vocabulary)"},
    {"--file", "-f", "TEXT", "the text whose likelihood is measured; - is standard input"},
    {"--split-docs", NULL, "[=SEP]",
     "the text is many documents, with SEP between them (default: <|endoftext|> if the text has "
     "it, else blank lines)"},
    {"-o", NULL, "FORMAT", "text or json"}};

const pico_command pico_command_eval = {
    .name = "eval",
    .summary = "likelihood of a text, or logits of tokens",
    .usage = "eval -m MODEL (-f TEXT [--split-docs[=SEP]] [-o json] | --tokens FILE --logits OUT)",
    .details =
        "Each document is the begin-of-text token and the text, cut at the context length; with\n"
        "--split-docs white space around the pieces is removed and empty ones are dropped. One\n"
        "document is taken as it is. Reported are nats per token with the standard error over\n"
        "tokens, perplexity, and bits per byte of the text that was predicted. --ubatch sets the\n"
        "rows of one forward pass; 1 runs token by token through the KV cache.",
    .sections = "model host backend attention generate.ubatch",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .max_arguments = 0,
    .runs_plugins = 1,
    .run = eval_command};
