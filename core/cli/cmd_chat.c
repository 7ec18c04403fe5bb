/*
 * chat: a conversation. Every turn gives the decode loop the whole conversation as tokens; what the
 * KV pages still hold of it is not computed again. Answers go to stdout, everything else to stderr.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/chat_loop.h"

/* ---- opening ---- */

static pico_status open_stops(pico_chat_state *chat, size_t *longest) {
    size_t n;
    const pico_chat_template *t = &chat->chat_template;
    const char *const *own = pico_runtime_stops(&chat->runtime, &n);
    chat->stop = malloc((n + t->n_stop + 1) * sizeof *chat->stop);
    if (chat->stop == NULL) {
        return pico_fail(&chat->err, PICO_E_NOMEM, "out of memory");
    }
    for (size_t i = 0; i < n; i++) {
        chat->stop[chat->n_stop++] = own[i];
    }
    for (size_t i = 0; i < t->n_stop; i++) {
        chat->stop[chat->n_stop++] = t->stop[i];
        *longest = strlen(t->stop[i]) > *longest ? strlen(t->stop[i]) : *longest;
    }
    return PICO_OK;
}

static pico_status open_template(pico_chat_state *chat) {
    const pico_config *config = chat->cli->config;
    const pico_vocab *vocab = &chat->runtime.model->file->vocab;
    pico_log *log = &chat->runtime.log;
    char missing[64];
    int known;
    pico_status status =
        pico_chat_template_select(pico_config_string(config, "chat", "template"), vocab,
                                  &chat->arena, &chat->chat_template, &known, &chat->err);
    if (status == PICO_OK) {
        status = pico_chat_tokens_open(&chat->tokens, &chat->chat_template, vocab,
                                       chat->runtime.tokenizer, &chat->err);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (!known) {
        pico_log_write(log, PICO_LOG_WARN,
                       "the model brings a chat template that picochat does not know; the "
                       "conversation is given as a plain transcript (--chat-template takes another "
                       "form)");
    }
    if (pico_chat_tokens_missing(&chat->tokens, missing)) {
        pico_log_write(
            log, PICO_LOG_WARN,
            "chat template %s: the vocabulary has no token %s; its name is given as text",
            chat->chat_template.name, missing);
    }
    return pico_chat_set_system(chat, pico_config_string(config, "chat", "system"));
}

static pico_status open_tool(pico_chat_state *chat) {
    const char *tool = pico_config_string(chat->cli->config, "chat", "tool");
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    int plain =
        (no_color != NULL && no_color[0] != '\0') || term == NULL || strcmp(term, "dumb") == 0;
    chat->has_tool = strcmp(tool, "none") != 0 && pico_chat_tool_find(&chat->tokens, &chat->tool);
    chat->show_calls = isatty(STDOUT_FILENO) != 1 ? PICO_CHAT_HIDE_CALLS
                       : plain                    ? PICO_CHAT_SHOW_CALLS
                                                  : PICO_CHAT_DIM_CALLS;
    if (strcmp(tool, "calculator") == 0 && !chat->has_tool) {
        return pico_fail(&chat->err, PICO_E_UNSUPPORTED,
                         "%s: [chat] tool = calculator: chat template %s has no tokens of this "
                         "vocabulary for it; leave the tool out, or choose another template",
                         pico_config_origin(chat->cli->config, "chat", "tool"),
                         chat->chat_template.name);
    }
    return PICO_OK;
}

static void greet(pico_chat_state *chat) {
    pico_log *log = &chat->runtime.log;
    pico_log_write(log, PICO_LOG_DEBUG, "chat template %s, %s", chat->chat_template.name,
                   chat->has_tool ? "with the calculator" : "no tool");
    if (chat->system[0] != '\0') {
        pico_log_write(log, PICO_LOG_DEBUG, "system: %s", chat->system);
    }
    if (pico_line_is_terminal(chat->input)) {
        pico_log_write(log, PICO_LOG_INFO,
                       "Conversation in the %s form. /help lists the commands; Ctrl-C ends an "
                       "answer, Ctrl-D the program.",
                       chat->chat_template.name);
    }
}

static int open_chat(pico_chat_state *chat) {
    const pico_cli *cli = chat->cli;
    pico_decode_params params;
    int code = PICO_EXIT_RUNTIME;
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
    pico_status status = open_template(chat);
    status = status == PICO_OK ? open_tool(chat) : status;
    if (status == PICO_OK) {
        status = pico_runtime_decode_params(&chat->runtime, 1, UINT64_MAX, &params, &chat->err);
    }
    status = status == PICO_OK ? open_stops(chat, &params.max_stop) : status;
    if (status == PICO_OK) {
        status = pico_decode_open(chat->runtime.model, &params, &chat->decode, &chat->err);
    }
    if (status != PICO_OK) {
        return pico_cli_fail_error(cli, &chat->err);
    }
    pico_answer_describe(&chat->runtime, chat->decode, pico_answer_clock() - begin);
    greet(chat);
    return PICO_EXIT_OK;
}

static int chat_command(const pico_cli *cli) {
    pico_chat_state chat = {.cli = cli};
    int code = open_chat(&chat);
    if (code == PICO_EXIT_OK) {
        code = pico_chat_converse(&chat, pico_cli_value(cli, "--prompt"));
    }
    free(chat.exchange);
    free(chat.message);
    free(chat.system);
    free(chat.stop);
    pico_chat_tokens_close(&chat.tokens);
    pico_decode_close(chat.decode);
    if (chat.runtime_open) {
        pico_runtime_close(&chat.runtime);
    }
    pico_arena_free(&chat.arena);
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
    .details =
        "One line is one turn, without a terminal too; a line that ends with \\ continues on the "
        "next one.\nThe conversation keeps its keys and values between turns. /help lists the "
        "commands inside.\n\n"
        "A chat template of one's own is an INI file with a section [template] and the keys\n"
        "user_before, user_after, answer_before, answer_after, and as needed begin, "
        "system_before,\n"
        "system_after, system_in_user, stop, python_before, python_after, output_before, "
        "output_after.\n"
        "In values \\n is a newline, \\s a blank; names of special tokens stand for those tokens. "
        "Jinja\n(a model's own template) is not interpreted: its marks tell which built-in form it "
        "is.",
    .sections = "model host backend attention sampler decoder generate.seed generate.stop "
                "generate.ignore_eos generate.overflow generate.ubatch chat",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .max_arguments = 0,
    .runs_plugins = 1,
    .run = chat_command};
