/*
 * run: continues one prompt. The text goes to stdout and ends with exactly one newline; everything
 * else goes to stderr.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/answer.h"
#include "cli/cli.h"
#include "util/file.h"

enum { PROMPT_BYTES = 256 << 20 };

typedef struct run_state {
    const pico_cli *cli;
    char *prompt; /* malloc-ed */
    size_t n_prompt;
    pico_runtime runtime;
    int runtime_open;
    int32_t *ids; /* malloc-ed */
    size_t n_ids;
    pico_decode *decode;
    pico_answer answer;
    pico_error err;
} run_state;

/* ---- the prompt ---- */

/* A file or a pipe; the newline that ends its last line is not part of the prompt. */
static int read_prompt(run_state *run, const char *path) {
    uint64_t n = 0;
    if (pico_file_read(path, PROMPT_BYTES, &run->prompt, &n, &run->err) != PICO_OK) {
        if (pico_cancel_requested()) {
            return PICO_EXIT_INTERRUPTED;
        }
        return pico_cli_fail(run->cli,
                             run->err.code == PICO_E_NOMEM       ? PICO_EXIT_MEMORY
                             : run->err.code == PICO_E_NOT_FOUND ? PICO_EXIT_USAGE
                                                                 : PICO_EXIT_RUNTIME,
                             "%s", run->err.message);
    }
    if (n > 0 && run->prompt[n - 1] == '\n') {
        n--;
        n -= n > 0 && run->prompt[n - 1] == '\r';
    }
    run->prompt[n] = '\0';
    run->n_prompt = (size_t)n;
    return PICO_EXIT_OK;
}

static int choose_prompt(run_state *run) {
    const pico_cli *cli = run->cli;
    const char *file = pico_cli_value(cli, "--file");
    const char *text = pico_config_string(cli->config, "generate", "prompt");
    int on_command_line = pico_config_origin(cli->config, "generate", "prompt")[0] == '-';
    if (file != NULL && on_command_line) {
        return pico_cli_usage(cli, "both a prompt and a file with one; leave out -p or -f");
    }
    if (file != NULL) {
        return read_prompt(run, file);
    }
    if (text != NULL) {
        run->prompt = strdup(text);
        run->n_prompt = strlen(text);
        return run->prompt != NULL
                   ? PICO_EXIT_OK
                   : pico_cli_fail(cli, PICO_EXIT_MEMORY, "out of memory for the prompt");
    }
    if (isatty(STDIN_FILENO)) {
        return pico_cli_usage(cli, "no prompt: give -p TEXT, -f FILE, [generate] prompt, or text "
                                   "on standard input");
    }
    return read_prompt(run, "-");
}

/* ---- opening ---- */

static int open_run(run_state *run) {
    const pico_cli *cli = run->cli;
    pico_decode_params params;
    int code = PICO_EXIT_RUNTIME;
    double begin = pico_answer_clock();
    uint32_t needs = PICO_RUNTIME_MODEL | PICO_RUNTIME_DECODE | PICO_RUNTIME_TOKENIZER;
    if (pico_runtime_open(&run->runtime, cli->config, needs, NULL, &code, &run->err) != PICO_OK) {
        return pico_cli_fail(cli, code, "%s", run->err.message);
    }
    run->runtime_open = 1;
    const pico_tokenizer *tokenizer = run->runtime.tokenizer;
    uint32_t flags = pico_tokenizer_adds_bos(tokenizer) ? (uint32_t)PICO_ENCODE_BOS : 0u;
    pico_status status = pico_tokenizer_encode(tokenizer, run->prompt, run->n_prompt, flags,
                                               &run->ids, &run->n_ids, &run->err);
    if (status == PICO_OK) {
        uint64_t n_new = (uint64_t)pico_config_int(cli->config, "generate", "max_tokens");
        status =
            pico_runtime_decode_params(&run->runtime, 1, run->n_ids + n_new, &params, &run->err);
    }
    if (status == PICO_OK) {
        status = pico_decode_open(run->runtime.model, &params, &run->decode, &run->err);
    }
    if (status == PICO_OK) {
        pico_answer_describe(&run->runtime, run->decode, pico_answer_clock() - begin);
    }
    return status == PICO_OK ? PICO_EXIT_OK : pico_cli_fail_error(cli, &run->err);
}

/* ---- running ---- */

static void report(run_state *run, const pico_slot_state *slot) {
    char figures[512];
    pico_decode_stats none = {0};
    if (slot->finish == PICO_FINISH_CONTEXT) {
        pico_log_write(&run->runtime.log, PICO_LOG_WARN,
                       "the context of %u tokens is full, so the text ends here; --ctx-size makes "
                       "it longer, --overflow slide goes on and forgets the beginning",
                       pico_session_max_positions(pico_decode_session(run->decode)));
    }
    pico_answer_figures(&none, run->decode, figures, sizeof figures);
    pico_log_write(&run->runtime.log, PICO_LOG_INFO, "%s, seed %lld", figures,
                   (long long)pico_config_int(run->cli->config, "generate", "seed"));
}

static int generate(run_state *run) {
    const pico_config *config = run->cli->config;
    pico_request request = {.prompt = run->ids,
                            .n_prompt = run->n_ids,
                            .max_tokens =
                                (uint64_t)pico_config_int(config, "generate", "max_tokens"),
                            .seed = (uint64_t)pico_config_int(config, "generate", "seed"),
                            .ignore_end = pico_config_bool(config, "generate", "ignore_eos"),
                            .on_text = pico_answer_text,
                            .arg = &run->answer};
    request.stop = pico_runtime_stops(&run->runtime, &request.n_stop);
    pico_answer_open(&run->answer, stdout, 0, 0);
    pico_status status = pico_decode_start(run->decode, 0, &request, &run->err);
    if (status != PICO_OK) {
        return pico_cli_fail_error(run->cli, &run->err);
    }
    if (pico_config_bool(config, "generate", "echo")) {
        pico_answer_text(&run->answer, run->prompt, run->n_prompt);
    }
    status = pico_answer_run(&run->answer, run->decode, &run->err);
    pico_answer_end(&run->answer);
    if (status != PICO_OK) {
        return pico_cli_fail_error(run->cli, &run->err);
    }
    pico_slot_state slot = pico_decode_slot(run->decode, 0);
    if (run->answer.error != 0) {
        return pico_cli_fail_output(run->answer.error);
    }
    report(run, &slot);
    return pico_cancel_requested() ? PICO_EXIT_INTERRUPTED : PICO_EXIT_OK;
}

static int run_command(const pico_cli *cli) {
    run_state run = {.cli = cli};
    int code = pico_cancel_install(&run.err) == PICO_OK ? PICO_EXIT_OK
                                                        : pico_cli_fail_error(cli, &run.err);
    if (code == PICO_EXIT_OK) {
        code = choose_prompt(&run);
    }
    if (code == PICO_EXIT_OK) {
        code = open_run(&run);
    }
    if (code == PICO_EXIT_OK) {
        code = generate(&run);
    }
    pico_answer_close(&run.answer);
    pico_decode_close(run.decode);
    if (run.runtime_open) {
        pico_runtime_close(&run.runtime);
    }
    free(run.ids);
    free(run.prompt);
    return code;
}

static const pico_cli_option options[] = {
    {"--file", "-f", "FILE", "the prompt is the content of FILE; - is standard input"}};

const pico_command pico_command_run = {
    .name = "run",
    .summary = "continue a prompt",
    .usage = "[run] [--config FILE] [-m MODEL] [-p TEXT | -f FILE] [-n N] [options]",
    .details = "The prompt is -p, else -f, else [generate] prompt, else standard input if that is "
               "no\nterminal. Of a file or standard input the newline at the end is not part of "
               "the prompt.\nThe text alone goes to standard output and ends with one newline. "
               "Ctrl-C ends the answer\n(exit code 130).",
    .sections = "model host backend attention sampler decoder generate",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .max_arguments = 0,
    .runs_plugins = 1,
    .run = run_command};
