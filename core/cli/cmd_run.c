/*
 * run: continues one prompt. The text goes to stdout and ends with exactly one newline; everything
 * else goes to stderr. With --prompts or --samples: many answers, see run_many.h.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/answer.h"
#include "cli/cli.h"
#include "cli/run_many.h"
#include "util/file.h"

enum { PROMPT_BYTES = 256 << 20, MAX_MANY = 4096 };

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
    int is_many;
    pico_many_params many;
    pico_prompts prompts;
    pico_error err;
} run_state;

/* ---- the prompt ---- */

/* A file that could not be read. */
static int fail_read(const run_state *run) {
    if (pico_cancel_requested()) {
        return PICO_EXIT_INTERRUPTED;
    }
    return pico_cli_fail(run->cli,
                         run->err.code == PICO_E_NOMEM ? PICO_EXIT_MEMORY
                         : run->err.code == PICO_E_NOT_FOUND || run->err.code == PICO_E_INVALID
                             ? PICO_EXIT_USAGE
                             : PICO_EXIT_RUNTIME,
                         "%s", run->err.message);
}

/* A file or a pipe; the newline that ends its last line is not part of the prompt. */
static int read_prompt(run_state *run, const char *path) {
    uint64_t n = 0;
    if (pico_file_read(path, PROMPT_BYTES, &run->prompt, &n, &run->err) != PICO_OK) {
        return fail_read(run);
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

/* ---- many answers ---- */

/* --prompts, --parallel and --samples. */
static int read_many(run_state *run) {
    const pico_cli *cli = run->cli;
    int64_t samples = 0, parallel = 0;
    if (pico_cli_int(cli, "--samples", 1, MAX_MANY, &samples, &run->err) != PICO_OK ||
        pico_cli_int(cli, "--parallel", 1, MAX_MANY, &parallel, &run->err) != PICO_OK) {
        return pico_cli_usage(cli, "%s", run->err.message);
    }
    run->is_many = pico_cli_has(cli, "--prompts") || samples != 0;
    run->many.samples = (uint32_t)samples;
    run->many.parallel = (uint32_t)parallel;
    return parallel != 0 && !run->is_many
               ? pico_cli_usage(cli, "--parallel belongs to --prompts or --samples")
               : PICO_EXIT_OK;
}

static int choose_prompts(run_state *run) {
    const pico_cli *cli = run->cli;
    const char *path = pico_cli_value(cli, "--prompts");
    const pico_prompt defaults = {
        .max_tokens = (uint64_t)pico_config_int(cli->config, "generate", "max_tokens"),
        .seed = (uint64_t)pico_config_int(cli->config, "generate", "seed")};
    if (path == NULL) {
        int code = choose_prompt(run);
        if (code == PICO_EXIT_OK && pico_prompts_one(run->prompt, run->n_prompt, &defaults,
                                                     &run->prompts, &run->err) != PICO_OK) {
            code = pico_cli_fail_error(cli, &run->err);
        }
        return code;
    }
    if (pico_cli_has(cli, "--file") ||
        pico_config_origin(cli->config, "generate", "prompt")[0] == '-') {
        return pico_cli_usage(cli, "--prompts brings the prompts; leave out -p and -f");
    }
    return pico_prompts_read(path, &defaults, &run->prompts, &run->err) == PICO_OK ? PICO_EXIT_OK
                                                                                   : fail_read(run);
}

static int open_runtime(run_state *run) {
    int code = PICO_EXIT_RUNTIME;
    uint32_t needs = PICO_RUNTIME_MODEL | PICO_RUNTIME_DECODE | PICO_RUNTIME_TOKENIZER;
    if (pico_runtime_open(&run->runtime, run->cli->config, needs, NULL, &code, &run->err) !=
        PICO_OK) {
        return pico_cli_fail(run->cli, code, "%s", run->err.message);
    }
    run->runtime_open = 1;
    return PICO_EXIT_OK;
}

static int answer_many(run_state *run) {
    int code = choose_prompts(run);
    run->many.begin = pico_answer_clock();
    if (code == PICO_EXIT_OK) {
        code = open_runtime(run);
    }
    return code == PICO_EXIT_OK ? pico_run_many(run->cli, &run->runtime, &run->prompts, &run->many)
                                : code;
}

/* ---- opening ---- */

static int open_run(run_state *run) {
    const pico_cli *cli = run->cli;
    pico_decode_params params;
    double begin = pico_answer_clock();
    int code = open_runtime(run);
    if (code != PICO_EXIT_OK) {
        return code;
    }
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
                       "the context of %u tokens is full, so the text ends here; %s",
                       pico_session_max_positions(pico_decode_session(run->decode)),
                       pico_runtime_full_advice(&run->runtime));
    }
    pico_answer_figures(&none, run->decode, figures, sizeof figures);
    pico_log_write(&run->runtime.log, PICO_LOG_INFO, "%s, seed %lld", figures,
                   (long long)pico_config_int(run->cli->config, "generate", "seed"));
    int reported = 0;
    pico_answer_speculation(&run->runtime, run->decode, &reported);
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

static int answer_one(run_state *run) {
    int code = choose_prompt(run);
    if (code == PICO_EXIT_OK) {
        code = open_run(run);
    }
    return code == PICO_EXIT_OK ? generate(run) : code;
}

static int run_command(const pico_cli *cli) {
    run_state run = {.cli = cli};
    int code = pico_cancel_install(&run.err) == PICO_OK ? PICO_EXIT_OK
                                                        : pico_cli_fail_error(cli, &run.err);
    if (code == PICO_EXIT_OK) {
        code = read_many(&run);
    }
    if (code == PICO_EXIT_OK) {
        code = run.is_many ? answer_many(&run) : answer_one(&run);
    }
    pico_prompts_close(&run.prompts);
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
    {"--file", "-f", "FILE", "the prompt is the content of FILE; - is standard input"},
    {"--prompts", NULL, "FILE", "many prompts, one JSON object a line; - is standard input"},
    {"--parallel", NULL, "N",
     "answers that are made together (searches of decoder beam); default 1, or as many as "
     "--samples"},
    {"--samples", NULL, "K",
     "answers to each prompt, all drawn differently; the prompt is run once for those that are "
     "made "
     "together. Of decoder beam: its K best answers"}};

const pico_command pico_command_run = {
    .name = "run",
    .summary = "continue a prompt",
    .usage = "[run] [--config FILE] [-m MODEL] [-p TEXT | -f FILE | --prompts FILE] [-n N] "
             "[options]",
    .details = "The prompt is -p, else -f, else [generate] prompt, else standard input if that is "
               "no\nterminal. Of a file or standard input the newline at the end is not part of "
               "the prompt.\nThe text alone goes to standard output and ends with one newline. "
               "Ctrl-C ends the answer\n(exit code 130).\n\n"
               "With --prompts or --samples every answer is a line of JSON, in the order of the "
               "prompts:\n  {\"index\": 0, \"text\": \"...\", \"finish\": \"end\", "
               "\"n_prompt\": 5, \"n_tokens\": 17}\n"
               "index counts the prompts from 0; finish is end (of text), stop (a stop string), "
               "length\n(max_tokens) or context (full); n_tokens counts an end token too. With "
               "--samples there is\n\"sample\", with --echo \"prompt\", of decoder beam \"score\". "
               "Bytes that are no UTF-8 "
               "become U+FFFD. A line of the file\nis {\"prompt\": TEXT} with max_tokens and seed "
               "if they are its own; blank lines are skipped.\nAn answer is the same whatever runs "
               "beside it. A prompt that cannot be run (too long) gives\n{\"index\": 0, "
               "\"error\": TEXT}, the others go on, and the exit code is 1. Ctrl-C ends it;\n"
               "what is finished is printed.",
    .sections = "model host backend attention sampler decoder generate",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .max_arguments = 0,
    .runs_plugins = 1,
    .run = run_command};
