/*
 * tokenizer train: a vocabulary for models of one's own, from text. Files are read one after the
 * other and only their distinct pieces are kept. It refuses to write a vocabulary of another size than
 * was asked for, and to write over its own text.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/train_files.h"
#include "tokenizer/train.h"
#include "util/file.h"

enum { DEFAULT_VOCAB = 32768, MAX_SPECIAL = 1024, N_BYTES = 256 };

/* nanochat's, in its order. */
static const char nanochat_special[] =
    "<|bos|>,<|user_start|>,<|user_end|>,<|assistant_start|>,<|assistant_end|>,<|python_start|>,"
    "<|python_end|>,<|output_start|>,<|output_end|>";

typedef struct tokenizer_state {
    const pico_cli *cli;
    pico_log log;
    pico_bpe *bpe;
    const char *out, *data; /* data: the path that is being read */
    int64_t n_vocab;
    const char *special_text[MAX_SPECIAL];
    pico_bpe_special special;
    uint64_t n_document;
    double started;
    pico_arena arena;
    pico_error err;
} tokenizer_state;

static double now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- options ---- */

static int32_t find_special(const pico_bpe_special *special, const char *const *names, size_t n) {
    for (size_t k = 0; k < n; k++) {
        for (uint32_t i = 0; i < special->n; i++) {
            if (strcmp(special->text[i], names[k]) == 0) {
                return (int32_t)i;
            }
        }
    }
    return -1;
}

/* Which of them end a text or a turn follows from the names that are in use. */
static void name_ends(pico_bpe_special *special) {
    static const char *const ends[] = {"<|endoftext|>", "</s>", "<|end_of_text|>", "<|eos|>"};
    static const char *const turns[] = {"<|assistant_end|>", "<|im_end|>", "<|eot_id|>"};
    special->bos = special->n > 0 ? 0 : -1;
    special->eos = find_special(special, ends, sizeof ends / sizeof *ends);
    special->eot = find_special(special, turns, sizeof turns / sizeof *turns);
}

static pico_status read_special(tokenizer_state *state) {
    const char *list = pico_cli_value(state->cli, "--special");
    list = list == NULL || strcmp(list, "nanochat") == 0 ? nanochat_special : list;
    list = strcmp(list, "none") == 0 ? "" : list;
    char *copy = pico_arena_strdup(&state->arena, list);
    if (copy == NULL) {
        return pico_fail(&state->err, PICO_E_NOMEM, "out of memory");
    }
    while (copy != NULL && list[0] != '\0') {
        char *comma = strchr(copy, ',');
        if (comma != NULL) {
            *comma = '\0';
        }
        if (copy[0] == '\0' || state->special.n == MAX_SPECIAL) {
            return pico_fail(&state->err, PICO_E_INVALID,
                             "--special: expected at most %d tokens with commas between, as in "
                             "\"<|bos|>,<|end|>\"; or nanochat, or none",
                             MAX_SPECIAL);
        }
        state->special_text[state->special.n++] = copy;
        copy = comma == NULL ? NULL : comma + 1;
    }
    state->special.text = state->special_text;
    name_ends(&state->special);
    return PICO_OK;
}

static pico_status read_options(tokenizer_state *state) {
    const pico_cli *cli = state->cli;
    const char *pattern = pico_cli_value(cli, "--pattern");
    state->n_vocab = DEFAULT_VOCAB;
    pico_status status = read_special(state);
    if (status == PICO_OK) {
        status = pico_cli_int(cli, "--vocab-size", 1, PICO_MAX_VOCAB, &state->n_vocab, &state->err);
    }
    if (status == PICO_OK && state->n_vocab < N_BYTES + (int64_t)state->special.n) {
        status = pico_fail(&state->err, PICO_E_INVALID,
                           "--vocab-size %lld: expected at least %u, for %d bytes and %u special "
                           "tokens",
                           (long long)state->n_vocab, N_BYTES + state->special.n, N_BYTES,
                           state->special.n);
    }
    if (status == PICO_OK) {
        status = pico_bpe_open(pattern == NULL ? "nanochat" : pattern, &state->bpe, &state->err);
    }
    return status;
}

/* What cannot be written is said before the text is read. */
static pico_status check_output(tokenizer_state *state) {
    pico_writer writer;
    pico_status status = pico_writer_open(&writer, state->out, &state->err);
    if (status == PICO_OK) {
        pico_writer_close(&writer);
    }
    return status;
}

/* ---- text ---- */

static int same_file(const char *a, const char *b) {
    struct stat first, second;
    return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

static pico_status count_file(void *arg, const pico_texts *file, pico_error *err) {
    tokenizer_state *state = arg;
    pico_status status = PICO_OK;
    uint64_t total = 0, done = 0;
    for (size_t i = 0; i < file->n_document; i++) {
        total += file->document[i].n;
    }
    for (size_t i = 0; status == PICO_OK && i < file->n_document; i++) {
        status = pico_cancel_requested()
                     ? pico_fail(err, PICO_E_CANCELLED, "interrupted; nothing was written")
                     : pico_bpe_count(state->bpe, file->document[i].text, file->document[i].n, err);
        done += file->document[i].n;
        pico_log_progress(&state->log, "read", done, total);
    }
    state->n_document += file->n_document;
    return status;
}

static pico_status count_all(tokenizer_state *state) {
    const char *separator = pico_config_string(state->cli->config, "trainer", "separator");
    const char *path = pico_config_path(state->cli->config, "trainer", "data");
    pico_status status = PICO_OK;
    if (pico_cli_has(state->cli, "--data")) {
        path = pico_cli_nth(state->cli, "--data", 0);
    }
    for (size_t i = 1; status == PICO_OK && path != NULL; i++) {
        status = same_file(path, state->out)
                     ? pico_fail(&state->err, PICO_E_INVALID,
                                 "%s is the text to read; name another file to write", state->out)
                     : pico_texts_each(path, separator, count_file, state, &state->err);
        path = pico_cli_nth(state->cli, "--data", i);
    }
    return status;
}

/* ---- merging and writing ---- */

static int should_stop(void *arg) {
    (void)arg;
    return pico_cancel_requested();
}

static void progress(void *arg, uint64_t done, uint64_t total) {
    tokenizer_state *state = arg;
    pico_log_progress(&state->log, "merge", done, total);
}

static pico_status merge(tokenizer_state *state) {
    const pico_bpe_hooks hooks = {.should_stop = should_stop, .progress = progress, .arg = state};
    const uint32_t n_special = state->special.n, wanted = (uint32_t)state->n_vocab - n_special;
    pico_bpe_stats stats;
    pico_status status = pico_bpe_merge(state->bpe, wanted, &hooks, &state->err);
    pico_bpe_stats_of(state->bpe, &stats);
    if (status == PICO_OK && stats.n_vocab < wanted) {
        status =
            pico_fail(&state->err, PICO_E_INVALID,
                      "the text is too small for a vocabulary of %lld: %u merges were "
                      "possible, so it ends at %u tokens (%d bytes and %u special tokens among "
                      "them). Take more text, or --vocab-size %u",
                      (long long)state->n_vocab, stats.n_vocab - N_BYTES, stats.n_vocab + n_special,
                      N_BYTES, n_special, stats.n_vocab + n_special);
    }
    return status;
}

static pico_status write_vocab(tokenizer_state *state) {
    pico_model_file file = {.format = PICO_FORMAT_MEMORY, .path = state->out, .name = "tokenizer"};
    pico_status status =
        pico_bpe_vocab(state->bpe, &state->special, &state->arena, &file.vocab, &state->err);
    return status == PICO_OK ? pico_gguf_write(&file, state->out, &state->err) : status;
}

static void say_result(tokenizer_state *state, double counted) {
    pico_bpe_stats stats;
    pico_bpe_stats_of(state->bpe, &stats);
    pico_log_write(
        &state->log, PICO_LOG_INFO,
        "%lld tokens from %.1f MB in %llu documents: %.2f bytes per token, %llu distinct "
        "pieces; %.1f s to read, %.1f s to merge: %s",
        (long long)state->n_vocab, (double)stats.n_byte * 1e-6,
        (unsigned long long)state->n_document, (double)stats.n_byte / (double)stats.n_token,
        (unsigned long long)stats.n_distinct, counted - state->started, now() - counted,
        state->out);
}

static int train(tokenizer_state *state) {
    const int has_data = pico_cli_has(state->cli, "--data") ||
                         pico_config_path(state->cli->config, "trainer", "data") != NULL;
    state->out = pico_cli_value(state->cli, "--output");
    if (!has_data || state->out == NULL) {
        return pico_cli_usage(state->cli, "tokenizer train needs --data TEXT and -o OUT.gguf");
    }
    state->started = now();
    pico_status status = read_options(state);
    if (status == PICO_OK) {
        status = check_output(state);
    }
    if (status == PICO_OK) {
        status = pico_cancel_install(&state->err);
    }
    if (status == PICO_OK) {
        status = count_all(state);
    }
    const double counted = now();
    if (status == PICO_OK) {
        status = merge(state);
    }
    if (status == PICO_OK) {
        status = write_vocab(state);
    }
    if (status != PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    say_result(state, counted);
    return PICO_EXIT_OK;
}

static int tokenizer_command(const pico_cli *cli) {
    if (cli->n_argument != 1 || strcmp(cli->argument[0], "train") != 0) {
        return pico_cli_usage(cli, "tokenizer %s; it has train",
                              cli->n_argument == 0 ? "needs to know what to do"
                                                   : "has no such thing");
    }
    tokenizer_state *state = calloc(1, sizeof *state);
    if (state == NULL) {
        return pico_cli_fail(cli, PICO_EXIT_MEMORY, "out of memory");
    }
    state->cli = cli;
    pico_log_init(&state->log, pico_cli_log_level(cli));
    const int code = train(state);
    pico_bpe_close(state->bpe);
    pico_arena_free(&state->arena);
    free(state);
    return code;
}

static const pico_cli_option options[] = {
    {"--data", NULL, "FILE|FOLDER", "text to learn from; may be repeated"},
    {"--output", "-o", "OUT.gguf", "the vocabulary, as --tokenizer takes it"},
    {"--vocab-size", NULL, "N", "tokens, bytes and special ones among them; default 32768"},
    {"--pattern", NULL, "NAME",
     "how text is cut before it is merged: nanochat (default), gpt-2, llama-bpe, qwen2, or "
     "regex:PATTERN"},
    {"--special", NULL, "LIST",
     "special tokens with commas between, the one that begins a text first; default nanochat's; or "
     "none"}};

const pico_command pico_command_tokenizer = {
    .name = "tokenizer",
    .summary = "train a vocabulary on text",
    .usage = "tokenizer train --data TEXT [--data TEXT]... [--vocab-size N] -o OUT.gguf",
    .details =
        "Byte-level BPE: ids 0 to 255 are the bytes, the special tokens come last. Without "
        "--data the text of\n[trainer] data is taken. Files are read one at a time; beside the "
        "largest one, memory is needed for\nthe distinct pieces alone.",
    .sections = "trainer.separator host.log",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .max_arguments = 1,
    .run = tokenizer_command};
