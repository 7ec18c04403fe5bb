/*
 * chat: a conversation. Every turn gives the decode loop the whole conversation as tokens; what the
 * KV pages still hold of it is not computed again. Answers go to stdout, everything else to stderr.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/answer.h"
#include "cli/chat_template.h"
#include "cli/cli.h"
#include "cli/line_input.h"

typedef struct chat_state {
    const pico_cli *cli;
    pico_line_input *input;
    pico_runtime runtime;
    int runtime_open;
    pico_decode *decode;
    const pico_chat_template *chat_template;
    const char *system;
    pico_chat_message *messages; /* (capacity) */
    size_t n_messages, capacity;
    const char **stop; /* (n_stop) malloc-ed: those of [generate] and the template's */
    size_t n_stop;
    int64_t max_tokens; /* of one answer */
    uint32_t n_answers;
    int output_error;
    char figures[512]; /* of the last answer */
    pico_error err;
} chat_state;

/* ---- the conversation ---- */

static void forget(chat_state *chat, size_t n) {
    while (chat->n_messages > n) {
        free(chat->messages[--chat->n_messages].text);
    }
}

static pico_status remember(chat_state *chat, uint32_t role, const char *text, size_t n) {
    if (chat->n_messages == chat->capacity) {
        size_t capacity = 2 * chat->capacity + 16;
        pico_chat_message *grown = realloc(chat->messages, capacity * sizeof *grown);
        if (grown == NULL) {
            return pico_fail(&chat->err, PICO_E_NOMEM, "out of memory for the conversation");
        }
        chat->messages = grown;
        chat->capacity = capacity;
    }
    char *copy = malloc(n + 1);
    if (copy == NULL) {
        return pico_fail(&chat->err, PICO_E_NOMEM, "out of memory for the conversation");
    }
    if (n != 0) {
        memcpy(copy, text, n);
    }
    copy[n] = '\0';
    chat->messages[chat->n_messages++] = (pico_chat_message){.role = role, .text = copy, .n = n};
    return PICO_OK;
}

/* ---- opening ---- */

static pico_status open_stops(chat_state *chat, size_t *longest) {
    size_t n;
    const char *const *own = pico_runtime_stops(&chat->runtime, &n);
    const char *more = chat->chat_template->stop;
    chat->stop = malloc((n + 1) * sizeof *chat->stop);
    if (chat->stop == NULL) {
        return pico_fail(&chat->err, PICO_E_NOMEM, "out of memory");
    }
    for (size_t i = 0; i < n; i++) {
        chat->stop[chat->n_stop++] = own[i];
    }
    if (more != NULL) {
        chat->stop[chat->n_stop++] = more;
        *longest = strlen(more) > *longest ? strlen(more) : *longest;
    }
    return PICO_OK;
}

static void greet(chat_state *chat, int known) {
    pico_log *log = &chat->runtime.log;
    if (!known) {
        pico_log_write(log, PICO_LOG_WARN,
                       "the model brings a chat template that picochat does not know; the "
                       "conversation is given as a plain transcript");
    }
    if (chat->system != NULL && chat->system[0] != '\0') {
        pico_log_write(log, PICO_LOG_DEBUG, "system: %s", chat->system);
    }
    if (pico_line_is_terminal(chat->input)) {
        pico_log_write(log, PICO_LOG_INFO,
                       "Conversation in the %s form. /help lists the commands; Ctrl-C ends an "
                       "answer, Ctrl-D the program.",
                       chat->chat_template->name);
    }
}

static int open_chat(chat_state *chat) {
    const pico_cli *cli = chat->cli;
    pico_decode_params params;
    int code = PICO_EXIT_RUNTIME, known = 1;
    double begin = pico_answer_clock();
    uint32_t needs = PICO_RUNTIME_MODEL | PICO_RUNTIME_DECODE | PICO_RUNTIME_TOKENIZER;
    chat->max_tokens = pico_config_int(cli->config, "chat", "max_tokens");
    if (pico_cli_int(cli, "--n-predict", 1, INT32_MAX, &chat->max_tokens, &chat->err) != PICO_OK) {
        return pico_cli_usage(cli, "%s", chat->err.message);
    }
    if (pico_line_open(&chat->input, &chat->err) != PICO_OK ||
        pico_cancel_install(&chat->err) != PICO_OK) {
        return pico_cli_fail_error(cli, &chat->err);
    }
    if (pico_runtime_open(&chat->runtime, cli->config, needs, NULL, &code, &chat->err) != PICO_OK) {
        return pico_cli_fail(cli, code, "%s", chat->err.message);
    }
    chat->runtime_open = 1;
    chat->chat_template = pico_chat_template_for(&chat->runtime.model->file->vocab, &known);
    chat->system = pico_config_string(cli->config, "chat", "system");
    pico_status status =
        pico_runtime_decode_params(&chat->runtime, 1, UINT64_MAX, &params, &chat->err);
    if (status == PICO_OK) {
        status = open_stops(chat, &params.max_stop);
    }
    if (status == PICO_OK) {
        status = pico_decode_open(chat->runtime.model, &params, &chat->decode, &chat->err);
    }
    if (status != PICO_OK) {
        return pico_cli_fail_error(cli, &chat->err);
    }
    pico_answer_describe(&chat->runtime, chat->decode, pico_answer_clock() - begin);
    greet(chat, known);
    return PICO_EXIT_OK;
}

/* ---- a turn ---- */

static void report(chat_state *chat, const pico_decode_stats *before) {
    pico_log *log = &chat->runtime.log;
    pico_slot_state slot = pico_decode_slot(chat->decode, 0);
    pico_answer_figures(before, chat->decode, chat->figures, sizeof chat->figures);
    pico_log_write(log, PICO_LOG_DEBUG, "%s", chat->figures);
    if (slot.finish == PICO_FINISH_CONTEXT) {
        pico_log_write(log, PICO_LOG_WARN,
                       "the context of %u tokens is full; /clear begins anew, --overflow slide "
                       "forgets the beginning instead",
                       pico_session_max_positions(pico_decode_session(chat->decode)));
    }
}

static pico_status answer(chat_state *chat, const int32_t *ids, size_t n_ids) {
    const pico_config *config = chat->cli->config;
    pico_answer text;
    pico_decode_stats before = *pico_decode_statistics(chat->decode);
    pico_request request = {.prompt = ids,
                            .n_prompt = n_ids,
                            .max_tokens = (uint64_t)chat->max_tokens,
                            .seed = (uint64_t)pico_config_int(config, "generate", "seed"),
                            .sample = chat->n_answers++,
                            .ignore_end = pico_config_bool(config, "generate", "ignore_eos"),
                            .stop = chat->stop,
                            .n_stop = chat->n_stop,
                            .on_text = pico_answer_text,
                            .arg = &text};
    pico_answer_open(&text, stdout, 1, 1);
    pico_cancel_clear();
    pico_status status = pico_decode_start(chat->decode, 0, &request, &chat->err);
    if (status == PICO_OK) {
        status = pico_answer_run(&text, chat->decode, &chat->err);
        pico_answer_end(&text);
        pico_cancel_clear();
    }
    if (status == PICO_OK && text.error != 0) {
        chat->output_error = text.error;
    } else if (status == PICO_OK) {
        report(chat, &before);
        status = remember(chat, PICO_CHAT_ANSWER, text.text, text.n_text);
    }
    pico_answer_close(&text);
    return status;
}

/* What one says: an answer, or a message on why there is none; only lack of memory and failures of
 * the model end the conversation. */
static int say(chat_state *chat, const char *line) {
    int32_t *ids = NULL;
    size_t n_ids = 0, n_before = chat->n_messages;
    pico_status status = remember(chat, PICO_CHAT_USER, line, strlen(line));
    if (status == PICO_OK) {
        status = pico_chat_render(chat->chat_template, &chat->runtime.model->file->vocab,
                                  chat->runtime.tokenizer, chat->system, chat->messages,
                                  chat->n_messages, &ids, &n_ids, &chat->err);
    }
    if (status == PICO_OK) {
        status = answer(chat, ids, n_ids);
    }
    free(ids);
    if (status == PICO_OK) {
        return chat->output_error == 0 ? PICO_EXIT_OK : pico_cli_fail_output(chat->output_error);
    }
    forget(chat, n_before);
    if (status != PICO_E_LIMIT) {
        return pico_cli_fail_error(chat->cli, &chat->err);
    }
    pico_log_write(&chat->runtime.log, PICO_LOG_WARN,
                   "the conversation no longer fits: %zu tokens, and the context has %u; /clear "
                   "begins anew, --overflow slide forgets the beginning instead",
                   n_ids, pico_session_max_positions(pico_decode_session(chat->decode)));
    return PICO_EXIT_OK;
}

/* ---- commands ---- */

/* 1: the program ends. */
static int obey(chat_state *chat, const char *line) {
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0) {
        return 1;
    }
    if (strcmp(line, "/clear") == 0) {
        forget(chat, 0);
        (void)fputs("The conversation is forgotten.\n", stderr);
    } else if (strcmp(line, "/stats") == 0) {
        pico_session *session = pico_decode_session(chat->decode);
        (void)fprintf(stderr,
                      "last answer: %s\nconversation: %zu messages; %u of %u tokens of the "
                      "context are used\n",
                      chat->figures[0] == '\0' ? "none yet" : chat->figures, chat->n_messages,
                      pico_session_length(session, 0), pico_session_max_positions(session));
    } else {
        (void)fprintf(stderr,
                      "%s%s%s"
                      "/clear   forget the conversation and begin anew\n"
                      "/stats   figures of the last answer, and how full the context is\n"
                      "/quit    end the program, as Ctrl-D does\n"
                      "/help    this text\n",
                      strcmp(line, "/help") == 0 ? "" : "There is no command ",
                      strcmp(line, "/help") == 0 ? "" : line,
                      strcmp(line, "/help") == 0 ? "" : ".\n");
    }
    return 0;
}

static int converse(chat_state *chat) {
    int interrupted = 0, code = PICO_EXIT_OK;
    const char *line = NULL, *first = pico_cli_value(chat->cli, "--prompt");
    if (first != NULL) {
        code = say(chat, first);
    }
    while (code == PICO_EXIT_OK) {
        int got = pico_line_read(chat->input, "> ", &line);
        if (got == PICO_LINE_END) {
            if (pico_line_is_terminal(chat->input)) {
                (void)fputc('\n', stderr);
            }
            return code;
        }
        if (got == PICO_LINE_INTERRUPTED) {
            pico_cancel_clear();
            (void)fputs("\n", stderr);
            if (interrupted) {
                return PICO_EXIT_INTERRUPTED;
            }
            interrupted = 1;
            (void)fputs("Ctrl-C again, Ctrl-D or /quit end the program.\n", stderr);
            continue;
        }
        interrupted = 0;
        if (line[0] == '/') {
            if (obey(chat, line)) {
                return code;
            }
        } else if (line[strspn(line, " \t\r")] != '\0') {
            code = say(chat, line);
        }
    }
    return code;
}

static int chat_command(const pico_cli *cli) {
    chat_state chat = {.cli = cli};
    int code = open_chat(&chat);
    if (code == PICO_EXIT_OK) {
        code = converse(&chat);
    }
    forget(&chat, 0);
    free(chat.messages);
    free(chat.stop);
    pico_decode_close(chat.decode);
    if (chat.runtime_open) {
        pico_runtime_close(&chat.runtime);
    }
    pico_line_close(chat.input);
    return code;
}

static const pico_cli_option options[] = {
    {"--prompt", "-p", "TEXT", "what to say first"},
    {"--n-predict", "-n", "N", "most new tokens of one answer (default: [chat] max_tokens)"}};

const pico_command pico_command_chat = {
    .name = "chat",
    .summary = "have a conversation",
    .usage = "chat [--config FILE] [-m MODEL] [--system TEXT] [options]",
    .details = "One line is one turn; without a terminal, too. The conversation keeps its keys and "
               "values between\nturns. /help lists the commands inside.",
    .sections = "model host backend attention sampler decoder generate.seed generate.stop "
                "generate.ignore_eos generate.overflow generate.ubatch chat",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .max_arguments = 0,
    .runs_plugins = 1,
    .run = chat_command};
