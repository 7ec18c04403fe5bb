/*
 * The loop of a conversation: messages and commands in, answers out; see chat_loop.h. A conversation
 * is its tokens; an exchange knows where it begins in them, so that undoing is cutting back.
 */
#include "cli/chat_loop.h"

#include <stdlib.h>
#include <string.h>

/* ---- the conversation ---- */

/* Leaves the first n exchanges. */
static void forget(pico_chat_state *chat, size_t n) {
    if (n < chat->n_exchange) {
        pico_chat_tokens_truncate(&chat->tokens, chat->exchange[n].begin);
        chat->n_exchange = n;
    }
}

static pico_status begin_exchange(pico_chat_state *chat) {
    if (chat->n_exchange == chat->capacity) {
        size_t capacity = 2 * chat->capacity + 16;
        pico_chat_exchange *grown = realloc(chat->exchange, capacity * sizeof *grown);
        if (grown == NULL) {
            return pico_fail(&chat->err, PICO_E_NOMEM, "out of memory for the conversation");
        }
        chat->exchange = grown;
        chat->capacity = capacity;
    }
    chat->exchange[chat->n_exchange++] = (pico_chat_exchange){.begin = chat->tokens.n};
    return PICO_OK;
}

pico_status pico_chat_set_system(pico_chat_state *chat, const char *text) {
    char *copy = strdup(text == NULL ? "" : text);
    if (copy == NULL) {
        return pico_fail(&chat->err, PICO_E_NOMEM, "out of memory for the conversation");
    }
    free(chat->system);
    chat->system = copy;
    return PICO_OK;
}

/* ---- a turn ---- */

static void report(pico_chat_state *chat, const pico_decode_stats *before, uint32_t finish) {
    pico_log *log = &chat->runtime.log;
    pico_answer_figures(before, chat->decode, chat->figures, sizeof chat->figures);
    pico_log_write(log, PICO_LOG_DEBUG, "%s", chat->figures);
    pico_answer_check_drafts(&chat->runtime, chat->decode, &chat->drafts_reported);
    if (finish == PICO_FINISH_CONTEXT) {
        pico_log_write(log, PICO_LOG_WARN,
                       "the context of %u tokens is full; /clear begins anew, %s",
                       pico_session_max_positions(pico_decode_session(chat->decode)),
                       pico_runtime_full_advice(&chat->runtime));
    }
}

/* The answer that the last exchange waits for. */
static pico_status answer(pico_chat_state *chat) {
    const pico_config *config = chat->cli->config;
    pico_answer text;
    pico_decode_stats before = *pico_decode_statistics(chat->decode);
    pico_chat_turn turn = {
        .decode = chat->decode,
        .tokens = &chat->tokens,
        .out = &text,
        .log = &chat->runtime.log,
        .tool = chat->has_tool ? &chat->tool : NULL,
        .show = chat->show_calls,
        .request = {.max_tokens = (uint64_t)chat->max_tokens,
                    .seed = (uint64_t)pico_config_int(config, "generate", "seed"),
                    .sample = chat->n_answers++,
                    .ignore_end = pico_config_bool(config, "generate", "ignore_eos"),
                    .stop = chat->stop,
                    .n_stop = chat->n_stop}};
    pico_answer_open(&text, stdout, 1, 1);
    pico_cancel_clear();
    pico_status status = pico_chat_turn_run(&turn, &chat->err);
    pico_cancel_clear();
    if (status == PICO_OK) {
        pico_answer_end(&text);
    }
    if (status == PICO_OK && text.error != 0) {
        chat->output_error = text.error;
    } else if (status == PICO_OK) {
        report(chat, &before, turn.finish);
    }
    pico_answer_close(&text);
    return status;
}

/* Whether the conversation goes on after a turn; only lack of memory, failures of the model and of
 * the output end it. */
static int end_turn(pico_chat_state *chat, pico_status status) {
    size_t n = chat->tokens.n;
    if (status == PICO_OK) {
        return chat->output_error == 0 ? PICO_EXIT_OK : pico_cli_fail_output(chat->output_error);
    }
    forget(chat, chat->n_exchange - 1);
    if (status != PICO_E_LIMIT) {
        return pico_cli_fail_error(chat->cli, &chat->err);
    }
    pico_log_write(&chat->runtime.log, PICO_LOG_WARN,
                   "the conversation no longer fits: %zu tokens, and the context has %u; /clear "
                   "begins anew, %s",
                   n, pico_session_max_positions(pico_decode_session(chat->decode)),
                   pico_runtime_full_advice(&chat->runtime));
    return PICO_EXIT_OK;
}

static int say(pico_chat_state *chat, const char *text) {
    pico_status status = begin_exchange(chat);
    if (status != PICO_OK) {
        return pico_cli_fail_error(chat->cli, &chat->err);
    }
    status = pico_chat_add_user(&chat->tokens, chat->system, strlen(chat->system), text,
                                strlen(text), &chat->err);
    status = status == PICO_OK ? pico_chat_begin_answer(&chat->tokens, &chat->err) : status;
    if (status == PICO_OK) {
        chat->exchange[chat->n_exchange - 1].answer = chat->tokens.n;
        status = answer(chat);
    }
    return end_turn(chat, status);
}

/* ---- commands ---- */

static void print_stats(pico_chat_state *chat) {
    pico_session *session = pico_decode_session(chat->decode);
    (void)fprintf(stderr, "last answer: %s\n",
                  chat->figures[0] == '\0' ? "none yet" : chat->figures);
    (void)fprintf(stderr, "conversation: %zu messages; %zu of %u tokens of the context are used\n",
                  2 * chat->n_exchange, chat->tokens.n, pico_session_max_positions(session));
}

static int change_system(pico_chat_state *chat, const char *text) {
    text += strspn(text, " \t");
    if (text[0] == '\0') {
        (void)fprintf(stderr, "%s\n",
                      chat->system[0] == '\0' ? "The model is told nothing." : chat->system);
        return PICO_EXIT_OK;
    }
    if (pico_chat_set_system(chat, text) != PICO_OK) {
        return pico_cli_fail_error(chat->cli, &chat->err);
    }
    forget(chat, 0);
    (void)fputs("The conversation begins anew.\n", stderr);
    return PICO_EXIT_OK;
}

static int regenerate(pico_chat_state *chat) {
    if (chat->n_exchange == 0) {
        (void)fputs("There is no answer yet.\n", stderr);
        return PICO_EXIT_OK;
    }
    pico_chat_tokens_truncate(&chat->tokens, chat->exchange[chat->n_exchange - 1].answer);
    return end_turn(chat, answer(chat));
}

static void print_help(const char *unknown) {
    if (unknown != NULL) {
        (void)fprintf(stderr, "There is no command %s.\n", unknown);
    }
    (void)fputs(
        "/regen         answer again, with other random numbers\n"
        "/undo          forget the last message and its answer\n"
        "/clear         forget the conversation and begin anew\n"
        "/system TEXT   tell the model something else, and begin anew; without TEXT: show it\n"
        "/stats         figures of the last answer, and how full the context is\n"
        "/quit          end the program, as /exit and Ctrl-D do\n"
        "/help          this text\n"
        "A line that ends with \\ continues on the next one.\n",
        stderr);
}

/* *end gets 1 when the program ends. */
static int obey(pico_chat_state *chat, const char *line, int *end) {
    int code = PICO_EXIT_OK;
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0) {
        *end = 1;
    } else if (strcmp(line, "/clear") == 0) {
        forget(chat, 0);
        (void)fputs("The conversation is forgotten.\n", stderr);
    } else if (strcmp(line, "/undo") == 0) {
        (void)fputs(chat->n_exchange == 0 ? "There is nothing to undo.\n"
                                          : "The last exchange is forgotten.\n",
                    stderr);
        forget(chat, chat->n_exchange == 0 ? 0 : chat->n_exchange - 1);
    } else if (strcmp(line, "/regen") == 0) {
        code = regenerate(chat);
    } else if (strncmp(line, "/system", 7) == 0 && strchr(" \t", line[7]) != NULL) {
        code = change_system(chat, line + 7);
    } else if (strcmp(line, "/stats") == 0) {
        print_stats(chat);
    } else {
        print_help(strcmp(line, "/help") == 0 ? NULL : line);
    }
    return code;
}

/* ---- input ---- */

static int append_line(pico_chat_state *chat, size_t *used, const char *line) {
    size_t n = strlen(line);
    char *grown = realloc(chat->message, *used + n + 2);
    if (grown == NULL) {
        return pico_cli_fail(chat->cli, PICO_EXIT_MEMORY, "out of memory for the message");
    }
    chat->message = grown;
    memcpy(grown + *used, line, n + 1);
    *used += n;
    return PICO_EXIT_OK;
}

/* A message: a line, or several when they end with a backslash. *got: PICO_LINE_x. */
static int read_message(pico_chat_state *chat, int *got) {
    const char *line = NULL;
    size_t used = 0;
    int code = PICO_EXIT_OK, more = 1;
    for (int first = 1; code == PICO_EXIT_OK && more; first = 0) {
        *got = pico_line_read(chat->input, first ? "> " : "| ", &line);
        if (*got != PICO_LINE_TEXT) {
            /* What was typed before the end counts, before Ctrl-C it does not. */
            *got = *got == PICO_LINE_END && !first ? PICO_LINE_TEXT : *got;
            return code;
        }
        code = append_line(chat, &used, line);
        more = code == PICO_EXIT_OK && used > 0 && chat->message[used - 1] == '\\';
        if (more) {
            chat->message[used - 1] = '\n';
        }
    }
    return code;
}

int pico_chat_converse(pico_chat_state *chat, const char *first) {
    int interrupted = 0, code = PICO_EXIT_OK, got = PICO_LINE_TEXT, end = 0;
    if (first != NULL) {
        code = say(chat, first);
    }
    while (code == PICO_EXIT_OK && !end) {
        code = read_message(chat, &got);
        if (code != PICO_EXIT_OK) {
            return code;
        }
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
        if (chat->message[0] == '/') {
            code = obey(chat, chat->message, &end);
        } else if (chat->message[strspn(chat->message, " \t\r\n")] != '\0') {
            code = say(chat, chat->message);
        }
    }
    return code;
}
