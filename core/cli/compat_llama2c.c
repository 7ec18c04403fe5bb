/*
 * llama2.c's own command line, `run MODEL -t -p -s -n -i -z -m -y`, with its defaults, its rules
 * for values out of range and its way of printing: no begin-of-text token, the prompt first, single
 * bytes that are not printable left out, the speed on stderr. At -t 0 the text is llama2.c's; at
 * other temperatures the random numbers are picochat's own.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"

enum { LINE_BYTES = 512, BOS = 1, EOS = 2 };

typedef struct llama2c {
    pico_cli cli; /* for messages: only the names in it are used */
    const char *model, *tokenizer, *prompt, *mode, *system;
    double temperature, top_p;
    long long seed, steps;
    pico_config *config;
    pico_runtime runtime;
    int runtime_open;
    pico_decode *decode;
    char *piece; /* (capacity) */
    size_t capacity;
    int32_t *ids; /* (steps + 1) the conversation so far */
    size_t n_ids;
    pico_error err;
} llama2c;

static int usage(void) {
    (void)fputs("Usage:   run <checkpoint> [options]\n"
                "Example: run model.bin -n 256 -i \"Once upon a time\"\n"
                "Options:\n"
                "  -t <float>  temperature in [0,inf], default 1.0\n"
                "  -p <float>  p value in top-p (nucleus) sampling in [0,1] default 0.9\n"
                "  -s <int>    random seed, default time(NULL)\n"
                "  -n <int>    number of steps to run for, default 256. 0 = max_seq_len\n"
                "  -i <string> input prompt\n"
                "  -z <string> optional path to custom tokenizer\n"
                "  -m <string> mode: generate|chat, default: generate\n"
                "  -y <string> (optional) system prompt in chat mode\n",
                stderr);
    return PICO_EXIT_USAGE;
}

static int parse(llama2c *run, int argc, char **argv) {
    if (argc < 2) {
        return usage();
    }
    run->model = argv[1];
    for (int i = 2; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (value == NULL || argv[i][0] != '-' || strlen(argv[i]) != 2) {
            return usage();
        }
        switch (argv[i][1]) {
        case 't':
            run->temperature = strtod(value, NULL);
            break;
        case 'p':
            run->top_p = strtod(value, NULL);
            break;
        case 's':
            run->seed = strtoll(value, NULL, 10);
            break;
        case 'n':
            run->steps = strtoll(value, NULL, 10);
            break;
        case 'i':
            run->prompt = value;
            break;
        case 'z':
            run->tokenizer = value;
            break;
        case 'm':
            run->mode = value;
            break;
        case 'y':
            run->system = value;
            break;
        default:
            return usage();
        }
    }
    if (strcmp(run->mode, "generate") != 0 && strcmp(run->mode, "chat") != 0) {
        (void)pico_cli_fail(&run->cli, PICO_EXIT_USAGE, "unknown mode: %s", run->mode);
        return usage();
    }
    run->seed = run->seed <= 0 ? (long long)time(NULL) : run->seed;
    run->temperature = run->temperature >= 0 ? run->temperature : 0; /* NaN too */
    run->top_p = run->top_p >= 0 && run->top_p <= 1 ? run->top_p : 0.9;
    run->top_p = run->top_p > 0 ? run->top_p : 1; /* 0 switches it off there */
    run->steps = run->steps < 0 ? 0 : run->steps;
    return PICO_EXIT_OK;
}

/* ---- opening ---- */

static pico_status set_number(llama2c *run, const char *key, double value, const char *origin) {
    char text[64];
    (void)snprintf(text, sizeof text, "%.9g", value);
    return pico_config_set_value(run->config, "sampler.standard", key, text, origin, &run->err);
}

static pico_status configure(llama2c *run) {
    pico_error *err = &run->err;
    pico_status status = pico_config_open(&run->config, err);
    if (status == PICO_OK) {
        status = pico_config_read_environment(run->config, err);
    }
    if (status == PICO_OK) {
        status =
            pico_config_set_value(run->config, "sampler", "plugin", "standard", "llama2c", err);
    }
    if (status == PICO_OK) {
        status = set_number(run, "temperature", run->temperature, "-t");
    }
    if (status == PICO_OK) {
        status = set_number(run, "top_p", run->top_p, "-p");
    }
    if (status == PICO_OK) {
        status = set_number(run, "top_k", 0, "llama2c");
    }
    if (status == PICO_OK) {
        status = set_number(run, "min_p", 0, "llama2c");
    }
    return status == PICO_OK ? pico_config_check(run->config, err) : status;
}

/* Its own files have no vocabulary, so there the tokenizer is tokenizer.bin unless -z names one. */
static int open_file(llama2c *run, pico_model_file **out) {
    pico_status status = pico_model_file_open(run->model, run->tokenizer, out, &run->err);
    if (status == PICO_OK && run->tokenizer == NULL && (*out)->vocab.kind == PICO_VOCAB_NONE) {
        pico_model_file_close(*out);
        *out = NULL;
        status = pico_model_file_open(run->model, "tokenizer.bin", out, &run->err);
        if (status == PICO_E_NOT_FOUND) {
            return pico_cli_fail(&run->cli, PICO_EXIT_MODEL,
                                 "%s has no tokenizer, and there is no tokenizer.bin in the "
                                 "working directory; name one with -z FILE",
                                 run->model);
        }
    }
    if (status == PICO_OK) {
        return PICO_EXIT_OK;
    }
    return pico_cli_fail(&run->cli, status == PICO_E_NOMEM ? PICO_EXIT_MEMORY : PICO_EXIT_MODEL,
                         "%s", run->err.message);
}

static int open_run(llama2c *run) {
    pico_model_file *file = NULL;
    pico_decode_params params;
    int code = configure(run) == PICO_OK ? open_file(run, &file)
                                         : pico_cli_fail_error(&run->cli, &run->err);
    uint32_t needs = PICO_RUNTIME_MODEL | PICO_RUNTIME_DECODE | PICO_RUNTIME_TOKENIZER;
    if (code != PICO_EXIT_OK) {
        return code;
    }
    if (pico_runtime_open(&run->runtime, run->config, needs, file, &code, &run->err) != PICO_OK) {
        pico_model_file_close(file);
        return pico_cli_fail(&run->cli, code, "%s", run->err.message);
    }
    run->runtime_open = 1;
    long long limit = (long long)pico_model_describe(run->runtime.model)->n_ctx_train;
    run->steps = run->steps == 0 || run->steps > limit ? limit : run->steps;
    run->capacity = pico_tokenizer_max_piece(run->runtime.tokenizer) + 1;
    run->piece = malloc(run->capacity);
    run->ids = calloc((size_t)run->steps + 2, sizeof *run->ids);
    if (run->piece == NULL || run->ids == NULL) {
        return pico_cli_fail(&run->cli, PICO_EXIT_MEMORY, "out of memory");
    }
    pico_status status =
        pico_runtime_decode_params(&run->runtime, 1, (uint64_t)run->steps + 1, &params, &run->err);
    if (status == PICO_OK) {
        status = pico_decode_open(run->runtime.model, &params, &run->decode, &run->err);
    }
    return status == PICO_OK ? PICO_EXIT_OK : pico_cli_fail_error(&run->cli, &run->err);
}

/* ---- printing ---- */

static void print_piece(llama2c *run, int32_t prev, int32_t id) {
    size_t n = pico_tokenizer_piece(run->runtime.tokenizer, prev, id, run->piece, run->capacity);
    n = n < run->capacity ? n : run->capacity;
    if (n == 1) { /* its safe_printf */
        unsigned char byte = (unsigned char)run->piece[0];
        if (byte >= 0x80 || !(isprint(byte) || isspace(byte))) {
            return;
        }
    }
    (void)fwrite(run->piece, 1, n, stdout);
    (void)fflush(stdout);
}

/* Appends the tokens of text, BOS first, as far as steps allow; returns how many there were. */
static pico_status append_text(llama2c *run, const char *text, size_t *n_all) {
    int32_t *ids = NULL;
    *n_all = 0;
    pico_status status = pico_tokenizer_encode(run->runtime.tokenizer, text, strlen(text),
                                               PICO_ENCODE_BOS, &ids, n_all, &run->err);
    for (size_t i = 0; status == PICO_OK && i < *n_all && run->n_ids <= (size_t)run->steps; i++) {
        run->ids[run->n_ids++] = ids[i];
    }
    free(ids);
    return status;
}

/* Runs from the tokens so far to the end of the answer: steps tokens behind the first one, or the
 * token `end`. Prints what is new. */
static pico_status answer(llama2c *run, int32_t end) {
    uint32_t n_live = 1, shown = (uint32_t)run->n_ids;
    pico_request request = {.prompt = run->ids,
                            .n_prompt = run->n_ids,
                            .max_tokens = (uint64_t)run->steps + 1 - run->n_ids,
                            .seed = (uint64_t)run->seed,
                            .ignore_end = 1};
    if (request.max_tokens == 0) {
        return PICO_OK;
    }
    pico_status status = pico_decode_start(run->decode, 0, &request, &run->err);
    while (status == PICO_OK && n_live != 0 && !pico_cancel_requested() && !ferror(stdout)) {
        status = pico_decode_round(run->decode, &n_live, &run->err);
        pico_slot_state slot = pico_decode_slot(run->decode, 0);
        for (; status == PICO_OK && shown < slot.n_token; shown++) {
            int32_t id = slot.token[shown];
            run->ids[run->n_ids++] = id;
            if (id == end) {
                n_live = 0;
                break;
            }
            print_piece(run, slot.token[shown - 1], id);
        }
    }
    pico_decode_cancel(run->decode, 0);
    return status;
}

/* ---- the two modes ---- */

static int generate(llama2c *run) {
    size_t n_prompt;
    const char *prompt = run->prompt == NULL ? "" : run->prompt;
    pico_status status = append_text(run, prompt, &n_prompt);
    for (size_t i = 1; status == PICO_OK && i < run->n_ids; i++) {
        print_piece(run, run->ids[i - 1], run->ids[i]);
    }
    if (status == PICO_OK) {
        status = answer(run, BOS);
    }
    (void)putchar('\n');
    if (status != PICO_OK) {
        return pico_cli_fail_error(&run->cli, &run->err);
    }
    const pico_decode_stats *stats = pico_decode_statistics(run->decode);
    double seconds = stats->prefill_seconds + stats->decode_seconds;
    if (run->n_ids > 2 && seconds > 0) {
        (void)fprintf(stderr, "achieved tok/s: %f\n", (double)(run->n_ids - 2) / seconds);
    }
    return PICO_EXIT_OK;
}

/* One line without its newline; 0 at the end of the input. */
static int read_line(const char *question, char line[LINE_BYTES]) {
    (void)fputs(question, stdout);
    (void)fflush(stdout);
    if (fgets(line, LINE_BYTES, stdin) == NULL) {
        return 0;
    }
    line[strcspn(line, "\n")] = '\0';
    return 1;
}

static int chat(llama2c *run) {
    char system[LINE_BYTES] = "", user[LINE_BYTES], text[3 * LINE_BYTES];
    const char *system_text = run->system;
    if (system_text == NULL) {
        if (!read_line("Enter system prompt (optional): ", system)) {
            return PICO_EXIT_OK;
        }
        system_text = system;
    }
    while (run->n_ids <= (size_t)run->steps && !pico_cancel_requested() && !ferror(stdout)) {
        int first = run->n_ids == 0;
        size_t n;
        const char *user_text = first ? run->prompt : NULL;
        if (user_text == NULL) {
            if (!read_line("User: ", user)) {
                break;
            }
            user_text = user;
        }
        int has_system = first && system_text[0] != '\0';
        (void)snprintf(text, sizeof text, "[INST] %s%.*s%s%.*s [/INST]",
                       has_system ? "<<SYS>>\n" : "", LINE_BYTES, has_system ? system_text : "",
                       has_system ? "\n<</SYS>>\n\n" : "", LINE_BYTES, user_text);
        (void)fputs("Assistant: ", stdout);
        pico_status status = append_text(run, text, &n);
        if (status == PICO_OK) {
            status = answer(run, EOS);
        }
        if (status != PICO_OK) {
            return pico_cli_fail_error(&run->cli, &run->err);
        }
        (void)putchar('\n');
    }
    return PICO_EXIT_OK;
}

int pico_compat_llama2c(int argc, char **argv) {
    llama2c run = {.cli = {.program = "run"},
                   .mode = "generate",
                   .temperature = 1.0,
                   .top_p = 0.9,
                   .steps = 256};
    int code = parse(&run, argc, argv);
    if (code == PICO_EXIT_OK && pico_cancel_install(&run.err) != PICO_OK) {
        code = pico_cli_fail_error(&run.cli, &run.err);
    }
    if (code == PICO_EXIT_OK) {
        code = open_run(&run);
    }
    if (code == PICO_EXIT_OK) {
        code = strcmp(run.mode, "chat") == 0 ? chat(&run) : generate(&run);
        code = code == PICO_EXIT_OK && pico_cancel_requested() ? PICO_EXIT_INTERRUPTED : code;
    }
    pico_decode_close(run.decode);
    if (run.runtime_open) {
        pico_runtime_close(&run.runtime);
    }
    pico_config_close(run.config);
    free(run.piece);
    free(run.ids);
    return pico_cli_finish_output(code);
}
