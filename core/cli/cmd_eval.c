/*
 * eval: how likely a text is to a model, how much it differs there from a reference, or the logits
 * of given tokens in a file for comparison with other programs.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/eval_print.h"
#include "cli/load.h"
#include "measure/compare.h"
#include "measure/eval.h"
#include "util/file.h"

enum { TEXT_BYTES = 1 << 30 };

typedef struct eval_state {
    const pico_cli *cli;
    pico_runtime runtime;
    pico_eval_params params;
    pico_model *reference; /* NULL without --reference */
    char *text;            /* malloc-ed: the input */
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

/* Documents that were cut are said on stderr, so that figures of a part are not taken for all. */
static void say_cut(eval_state *state, const pico_eval_result *result) {
    if (result->n_cut != 0) {
        pico_log_write(&state->runtime.log, PICO_LOG_INFO,
                       "%llu of %llu documents are longer than the context: %llu tokens were cut "
                       "off",
                       (unsigned long long)result->n_cut, (unsigned long long)result->documents,
                       (unsigned long long)result->tokens_cut);
    }
}

static int open_reference(eval_state *state, const char *path) {
    int code = PICO_EXIT_OK;
    pico_runtime *runtime = &state->runtime;
    if (pico_load_reference(runtime, path, &state->reference, &code, &state->err) != PICO_OK) {
        return pico_cli_fail(state->cli, code, "the reference: %s", state->err.message);
    }
    if (pico_compare_vocabularies(runtime->model, runtime->tokenizer, state->reference,
                                  &state->err) != PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    if (state->reference->file->vocab.kind == PICO_VOCAB_NONE) {
        pico_log_write(&runtime->log, PICO_LOG_INFO,
                       "%s has no vocabulary of its own: it is taken to be the model's", path);
    }
    return PICO_EXIT_OK;
}

/* The likelihood, or the comparison where there is a reference. */
static int run_documents(eval_state *state, const pico_document *documents, size_t n) {
    pico_comparison comparison = {0};
    const char *format = pico_cli_value(state->cli, "-o");
    const pico_runtime *runtime = &state->runtime;
    const pico_comparison *print = state->reference != NULL ? &comparison : NULL;
    if (n == 0) {
        return pico_cli_fail(state->cli, PICO_EXIT_USAGE, "the text is empty");
    }
    pico_status status =
        state->reference != NULL
            ? pico_compare_documents(runtime->model, state->reference, runtime->tokenizer,
                                     &state->params, documents, n, &comparison, &state->err)
            : pico_eval_documents(runtime->model, runtime->tokenizer, &state->params, documents, n,
                                  &comparison.model, &state->err);
    if (status != PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    say_cut(state, &comparison.model);
    if (format != NULL && strcmp(format, "json") == 0) {
        return pico_eval_print_json(state->cli, &comparison.model, print);
    }
    pico_eval_print_table(&comparison.model, print);
    return PICO_EXIT_OK;
}

static int run_text(eval_state *state, const char *path, const char *split) {
    const char *reference = pico_cli_value(state->cli, "--reference");
    pico_document whole, *documents = NULL;
    size_t n = 1;
    int code = read_input(state, path);
    if (code == PICO_EXIT_OK) {
        code = open_model(state, PICO_RUNTIME_MODEL | PICO_RUNTIME_TOKENIZER);
    }
    if (code == PICO_EXIT_OK && reference != NULL) {
        code = open_reference(state, reference);
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
    const char *format = pico_cli_value(cli, "-o"), *reference = pico_cli_value(cli, "--reference");
    if ((tokens == NULL) != (logits == NULL) || (tokens != NULL) == (file != NULL)) {
        return pico_cli_usage(cli, "give either --tokens FILE and --logits OUT, or -f TEXT");
    }
    if (tokens != NULL && (split != NULL || format != NULL || reference != NULL)) {
        return pico_cli_usage(
            cli, "--split-docs, --reference and -o belong to -f TEXT, not to --tokens");
    }
    if (format != NULL && strcmp(format, "json") != 0 && strcmp(format, "text") != 0) {
        return pico_cli_usage(cli, "-o is text or json, not '%s'", format);
    }
    eval_state state = {.cli = cli};
    int code = tokens != NULL ? run_tokens(&state, tokens, logits) : run_text(&state, file, split);
    pico_model_close(state.reference);
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
    {"--reference", NULL, "MODEL",
     "compare with this model on the text: perplexity ratio, KL divergence, same best token"},
    {"--split-docs", NULL, "[=SEP]",
     "the text is many documents, with SEP between them (default: <|endoftext|> if the text has "
     "it, else blank lines)"},
    {"-o", NULL, "FORMAT", "text or json"}};

const pico_command pico_command_eval = {
    .name = "eval",
    .summary = "likelihood of a text, how two models differ on it, or logits of tokens",
    .usage = "eval -m MODEL (-f TEXT [--split-docs[=SEP]] [--reference MODEL] [-o json] |\n"
             "                --tokens FILE --logits OUT)",
    .details =
        "Each document is the begin-of-text token and the text, cut at the context length; with\n"
        "--split-docs white space around the pieces is removed and empty ones are dropped. One\n"
        "document is taken as it is. Reported are nats per token with the standard error over\n"
        "tokens, perplexity, and bits per byte of the text that was predicted. --ubatch sets the\n"
        "rows of one forward pass; 1 runs token by token through the KV cache.\n"
        "\n"
        "With --reference both models see the same tokens. Reported are the ratio of their\n"
        "perplexities, with the error of the differences token by token; the KL divergence of the\n"
        "model's distribution from the reference's, in nats per token; how often the most likely\n"
        "token is the same; and how far the probability of the right token moves. The\n"
        "configuration (attention plugin, KV type, [compress.N] stages) is the model's; the\n"
        "reference runs as its file says, with plain attention and F32 KV pages. So the same file\n"
        "on both sides shows what a configuration costs.",
    .sections = "model host backend attention generate.ubatch",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .max_arguments = 0,
    .runs_plugins = 1,
    .run = eval_command};
