/*
 * tokenize: text to token ids and back, as the model's own tokenizer does it. It needs a vocabulary
 * and no weights.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "util/file.h"
#include "util/text.h"

enum { TEXT_BYTES = 256 << 20 };

typedef struct tokenize_state {
    const pico_cli *cli;
    pico_model_file *file;
    pico_tokenizer *tokenizer;
    char *text; /* malloc-ed: the input */
    size_t n_text;
    int32_t *ids; /* malloc-ed */
    size_t n_ids;
    pico_error err;
} tokenize_state;

static int read_file(tokenize_state *state, const char *path) {
    uint64_t n = 0;
    if (pico_file_read(path, TEXT_BYTES, &state->text, &n, &state->err) != PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    state->n_text = (size_t)n;
    return PICO_EXIT_OK;
}

/* What --decode, -p, -f or standard input give, as it is. */
static int read_input(tokenize_state *state) {
    const pico_cli *cli = state->cli;
    const char *file = pico_cli_value(cli, "--file"), *ids = pico_cli_value(cli, "--decode");
    const char *text = pico_cli_value(cli, "--prompt");
    if (cli->n_argument != 0 && (ids == NULL || ids[0] != '\0')) {
        return pico_cli_usage(cli, "unexpected argument '%s'", cli->argument[0]);
    }
    ids = cli->n_argument != 0 ? cli->argument[0] : ids;
    if ((file != NULL) + (text != NULL) + (ids != NULL && ids[0] != '\0') > 1) {
        return pico_cli_usage(cli, "more than one input; give one of -p, -f and --decode IDS");
    }
    if (file != NULL) {
        return read_file(state, file);
    }
    text = ids != NULL && ids[0] != '\0' ? ids : text;
    if (text != NULL) {
        state->text = strdup(text);
        state->n_text = strlen(text);
        return state->text != NULL ? PICO_EXIT_OK
                                   : pico_cli_fail(cli, PICO_EXIT_MEMORY, "out of memory");
    }
    if (isatty(STDIN_FILENO)) {
        return pico_cli_usage(cli, "no input: give -p TEXT, -f FILE, --decode \"IDS\", or text on "
                                   "standard input");
    }
    return read_file(state, "-");
}

/* ---- text to ids ---- */

/* A piece in quotes, with control characters and bytes that are no UTF-8 as escapes. */
static void print_piece(const char *piece, size_t n) {
    (void)putchar('\'');
    for (size_t i = 0; i < n;) {
        uint32_t code = 0;
        size_t length = pico_utf8_decode(piece + i, n - i, &code);
        if (length == 0 || code < 0x20 || code == 0x7f) {
            if (piece[i] == '\n') {
                (void)fputs("\\n", stdout);
            } else {
                (void)printf("\\x%02x", (unsigned)(unsigned char)piece[i]);
            }
            i++;
            continue;
        }
        if (code == '\'' || code == '\\') {
            (void)putchar('\\');
        }
        (void)fwrite(piece + i, 1, length, stdout);
        i += length;
    }
    (void)putchar('\'');
}

/* Name of a token that stands for no text, from the vocabulary; NULL for others. */
static const pico_piece *control_piece(const tokenize_state *state, int32_t id) {
    if (id < 0 || (uint32_t)id >= state->file->vocab.n_piece ||
        !pico_tokenizer_is_control(state->tokenizer, id)) {
        return NULL;
    }
    return &state->file->vocab.piece[id];
}

static int print_text(tokenize_state *state) {
    size_t capacity = pico_tokenizer_max_piece(state->tokenizer) + 1;
    char *piece = malloc(capacity);
    if (piece == NULL) {
        return pico_cli_fail(state->cli, PICO_EXIT_MEMORY, "out of memory");
    }
    for (size_t i = 0; i < state->n_ids; i++) {
        const pico_piece *control = control_piece(state, state->ids[i]);
        (void)printf("%d ", state->ids[i]);
        if (control != NULL) {
            print_piece(control->text, control->n);
        } else {
            int32_t prev = i == 0 ? -1 : state->ids[i - 1];
            size_t n = pico_tokenizer_piece(state->tokenizer, prev, state->ids[i], piece, capacity);
            print_piece(piece, n < capacity ? n : capacity);
        }
        (void)putchar('\n');
    }
    free(piece);
    return PICO_EXIT_OK;
}

static int print_json(const tokenize_state *state, json_t *root) {
    int failed = root == NULL || json_dumpf(root, stdout, JSON_COMPACT | JSON_ENCODE_ANY) != 0;
    (void)putchar('\n');
    json_decref(root);
    return failed && !ferror(stdout)
               ? pico_cli_fail(state->cli, PICO_EXIT_RUNTIME, "the JSON text cannot be made")
               : PICO_EXIT_OK;
}

static int print_ids(tokenize_state *state) {
    if (!pico_cli_has(state->cli, "--json")) {
        return print_text(state);
    }
    json_t *array = json_array();
    for (size_t i = 0; i < state->n_ids; i++) {
        (void)json_array_append_new(array, json_integer(state->ids[i]));
    }
    return print_json(state, array);
}

static int encode(tokenize_state *state) {
    uint32_t flags = pico_cli_has(state->cli, "--bos") ? (uint32_t)PICO_ENCODE_BOS : 0u;
    if (flags != 0 && pico_tokenizer_bos(state->tokenizer) < 0) {
        return pico_cli_fail(state->cli, PICO_EXIT_USAGE,
                             "--bos: this vocabulary has no begin-of-text token");
    }
    pico_status status = pico_tokenizer_encode(state->tokenizer, state->text, state->n_text, flags,
                                               &state->ids, &state->n_ids, &state->err);
    return status == PICO_OK ? print_ids(state) : pico_cli_fail_error(state->cli, &state->err);
}

/* ---- ids to text ---- */

/* Numbers with blanks, commas or brackets between, so that the output of --json can come back. */
static int parse_ids(tokenize_state *state) {
    const char *at = state->text;
    state->ids = malloc((state->n_text / 2 + 1) * sizeof *state->ids);
    if (state->ids == NULL) {
        return pico_cli_fail(state->cli, PICO_EXIT_MEMORY, "out of memory");
    }
    for (;;) {
        char *end = NULL;
        at += strspn(at, " \t\r\n,[]");
        if (*at == '\0') {
            break;
        }
        errno = 0;
        long id = strtol(at, &end, 10);
        int separated = *end == '\0' || strchr(" \t\r\n,[]", *end) != NULL;
        if (end == at || errno != 0 || !separated) {
            return pico_cli_fail(state->cli, PICO_EXIT_USAGE, "expected token ids, found '%.20s'",
                                 at);
        }
        if (id < 0 || id >= (long)pico_tokenizer_n_vocab(state->tokenizer)) {
            return pico_cli_fail(state->cli, PICO_EXIT_USAGE,
                                 "token %ld is not in the vocabulary of %u", id,
                                 pico_tokenizer_n_vocab(state->tokenizer));
        }
        state->ids[state->n_ids++] = (int32_t)id;
        at = end;
    }
    if ((size_t)(at - state->text) != state->n_text) {
        return pico_cli_fail(state->cli, PICO_EXIT_USAGE, "expected token ids, found a NUL byte");
    }
    return PICO_EXIT_OK;
}

static int decode(tokenize_state *state) {
    char *text = NULL;
    size_t n = 0;
    int code = parse_ids(state);
    if (code != PICO_EXIT_OK) {
        return code;
    }
    if (pico_tokenizer_decode(state->tokenizer, state->ids, state->n_ids, &text, &n, &state->err) !=
        PICO_OK) {
        return pico_cli_fail_error(state->cli, &state->err);
    }
    if (pico_cli_has(state->cli, "--json")) {
        json_t *string = json_stringn(text, n);
        code = string == NULL ? pico_cli_fail(state->cli, PICO_EXIT_RUNTIME,
                                              "these tokens are no UTF-8 text, which JSON needs")
                              : print_json(state, string);
    } else {
        (void)fwrite(text, 1, n, stdout);
        (void)putchar('\n');
    }
    free(text);
    return code;
}

/* ---- the command ---- */

static int tokenize_command(const pico_cli *cli) {
    tokenize_state state = {.cli = cli};
    int code = read_input(&state);
    if (code == PICO_EXIT_OK) {
        code = pico_cli_open_file(cli, NULL, &state.file);
    }
    if (code == PICO_EXIT_OK && state.file->vocab.kind == PICO_VOCAB_NONE) {
        code =
            pico_cli_fail(cli, PICO_EXIT_USAGE,
                          "%s has no tokenizer; name one with --tokenizer FILE", state.file->path);
    }
    if (code == PICO_EXIT_OK &&
        pico_tokenizer_open(&state.file->vocab, &state.tokenizer, &state.err) != PICO_OK) {
        code =
            pico_cli_fail(cli, state.err.code == PICO_E_NOMEM ? PICO_EXIT_MEMORY : PICO_EXIT_MODEL,
                          "%s: %s", state.file->path, state.err.message);
    }
    if (code == PICO_EXIT_OK) {
        code = pico_cli_has(cli, "--decode") ? decode(&state) : encode(&state);
    }
    pico_tokenizer_close(state.tokenizer);
    pico_model_file_close(state.file);
    free(state.ids);
    free(state.text);
    return code;
}

static const pico_cli_option options[] = {
    {"--prompt", "-p", "TEXT", "the text"},
    {"--file", "-f", "FILE", "the text, or with --decode the ids, from FILE; - is standard input"},
    {"--decode", NULL, "[=IDS]", "the other way: ids, as in --decode \"1 2 3\", to text"},
    {"--bos", NULL, NULL, "begin with the begin-of-text token"},
    {"--json", NULL, NULL, "one JSON array of ids; with --decode one JSON string"}};

const pico_command pico_command_tokenize = {
    .name = "tokenize",
    .summary = "text to token ids and back",
    .usage = "tokenize -m MODEL [--decode] (-p TEXT | -f FILE | IDS) [--json] [--bos]",
    .details = "Prints a line \"id 'piece'\" for each token. The text is taken as it is, a newline "
               "at its end\nincluded. MODEL may be a file without weights.",
    .sections = "model.path model.tokenizer model.generation host.log",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .max_arguments = 1, /* IDS of --decode */
    .run = tokenize_command};
