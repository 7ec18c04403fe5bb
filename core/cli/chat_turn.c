/*
 * The loop around the decode loop; see chat_turn.h. The tokens around an expression end a run of it,
 * and the next one continues from there: draws depend on places in the timeline, so the answer is
 * the one that an uninterrupted run would give.
 */
#include "cli/chat_turn.h"

#include <stdlib.h>
#include <string.h>

#include "cli/calculator.h"

enum { MAX_ENDS = 3 };

/* Between the runs of one answer. */
typedef struct turn_state {
    uint64_t left;     /* tokens that the answer may still have */
    int in_python;     /* 1: an expression is being written */
    size_t expression; /* where its tokens begin */
} turn_state;

int pico_chat_tool_find(const pico_chat_tokens *tokens, pico_chat_tool *out) {
    const pico_chat_template *t = tokens->chat_template;
    *out = (pico_chat_tool){.python_start = pico_chat_token(tokens, t->python_before, 0),
                            .python_end = pico_chat_token(tokens, t->python_after, 0)};
    return out->python_start >= 0 && out->python_end >= 0 &&
           pico_chat_token(tokens, t->output_before, 0) >= 0 &&
           pico_chat_token(tokens, t->output_after, 0) >= 0;
}

/* ---- what the model produced ---- */

/* Keeps the tokens of a run that a stop string ended: as many as were shown whole, and of the next
 * one the part that was shown. shown: all text of the run. */
static pico_status keep_shown(pico_chat_turn *turn, const int32_t *ids, size_t n, const char *shown,
                              size_t n_shown, pico_error *err) {
    const pico_tokenizer *tokenizer = turn->tokens->tokenizer;
    pico_chat_part rest = {.type = PICO_CHAT_TEXT};
    int32_t prev = turn->tokens->ids[turn->tokens->n - 1];
    size_t kept = 0, bytes = 0;
    while (kept < n) {
        size_t size = pico_tokenizer_piece(tokenizer, prev, ids[kept], NULL, 0);
        if (size > n_shown - bytes) {
            break;
        }
        bytes += size;
        prev = ids[kept++];
    }
    pico_status status = pico_chat_add_ids(turn->tokens, ids, kept, 1, err);
    rest.text = shown + bytes;
    rest.n = n_shown - bytes;
    return status == PICO_OK && rest.n != 0 ? pico_chat_add_part(turn->tokens, &rest, err) : status;
}

/* Runs the decode loop once and takes over what it produced. */
static pico_status run_once(pico_chat_turn *turn, turn_state *state, pico_error *err) {
    int32_t ends[MAX_ENDS];
    pico_request request = turn->request;
    int32_t end = pico_chat_token(turn->tokens, turn->tokens->chat_template->answer_after, 1);
    size_t before = turn->out->text.n;
    if (end >= 0 && !request.ignore_end) {
        ends[request.n_end_token++] = end;
    }
    if (turn->tool != NULL) {
        ends[request.n_end_token++] = turn->tool->python_start;
        ends[request.n_end_token++] = turn->tool->python_end;
    }
    request.end_token = ends;
    request.prompt = turn->tokens->ids;
    request.n_prompt = turn->tokens->n;
    request.max_tokens = state->left;
    request.on_text = state->in_python ? NULL : pico_answer_text;
    request.arg = turn->out;
    request.n_stop = state->in_python ? 0 : request.n_stop;
    pico_status status = pico_decode_start(turn->decode, 0, &request, err);
    if (status == PICO_OK) {
        status = pico_answer_run(turn->out, turn->decode, err);
    }
    if (status != PICO_OK) {
        return status;
    }
    pico_slot_state slot = pico_decode_slot(turn->decode, 0);
    size_t n = slot.n_token - slot.n_prompt;
    turn->finish = slot.finish;
    state->left -= n;
    if (slot.finish == PICO_FINISH_STOP) {
        return keep_shown(turn, slot.token + slot.n_prompt, n, turn->out->text.data + before,
                          turn->out->text.n - before, err);
    }
    return pico_chat_add_ids(turn->tokens, slot.token + slot.n_prompt, n, 1, err);
}

/* ---- the calculator ---- */

/* result NULL: there is none, or the model does not get it. */
static void show(pico_chat_turn *turn, const char *expression, const char *result) {
    const char *const pieces[] = {turn->show == PICO_CHAT_DIM_CALLS ? "\x1b[2m" : "",
                                  "[",
                                  expression,
                                  result == NULL ? "" : " = ",
                                  result == NULL ? "" : result,
                                  "]",
                                  turn->show == PICO_CHAT_DIM_CALLS ? "\x1b[0m" : ""};
    pico_log_write(turn->log, PICO_LOG_DEBUG, "calculator: %s%s%s", expression, pieces[3],
                   pieces[4]);
    for (size_t i = 0; turn->show != PICO_CHAT_HIDE_CALLS && i < sizeof pieces / sizeof *pieces;
         i++) {
        pico_answer_text(turn->out, pieces[i], strlen(pieces[i]));
    }
}

/* Adds the value of an expression, if it has one and all of it fits the answer. */
static pico_status add_result(pico_chat_turn *turn, turn_state *state, const char *result,
                              pico_error *err) {
    pico_chat_tokens *tokens = turn->tokens;
    size_t before = tokens->n;
    pico_chat_part part = {.type = PICO_CHAT_OUTPUT, .text = result, .n = strlen(result)};
    pico_status status = pico_chat_add_part(tokens, &part, err);
    if (status == PICO_OK && tokens->n - before > state->left) {
        pico_chat_tokens_truncate(tokens, before);
        state->left = 0;
    } else if (status == PICO_OK) {
        state->left -= tokens->n - before;
    }
    return status;
}

/* The expression from state->expression to n is complete, or the answer was cut inside of it. */
static pico_status call(pico_chat_turn *turn, turn_state *state, size_t n, int complete,
                        pico_error *err) {
    char *expression = NULL, *result = NULL;
    size_t size = 0;
    state->in_python = 0;
    if (n == state->expression) {
        return PICO_OK;
    }
    pico_status status =
        pico_tokenizer_decode(turn->tokens->tokenizer, turn->tokens->ids + state->expression,
                              n - state->expression, &expression, &size, err);
    if (status == PICO_OK && complete) {
        status = pico_calculate(expression, size, &result, err);
    }
    size_t before = turn->tokens->n;
    if (status == PICO_OK && result != NULL) {
        status = add_result(turn, state, result, err);
    }
    if (status == PICO_OK) {
        show(turn, expression, turn->tokens->n > before ? result : NULL);
    }
    free(expression);
    free(result);
    return status;
}

/* After a run: whether another one follows. */
static pico_status go_on(pico_chat_turn *turn, turn_state *state, int *again, pico_error *err) {
    const pico_chat_tokens *tokens = turn->tokens;
    int32_t last = tokens->ids[tokens->n - 1];
    int at_tool =
        turn->finish == PICO_FINISH_END && turn->tool != NULL && tokens->n > tokens->answer_begin;
    pico_status status = PICO_OK;
    *again = 0;
    if (at_tool && last == turn->tool->python_start) {
        state->in_python = 1;
        state->expression = tokens->n;
        *again = 1;
    } else if (at_tool && last == turn->tool->python_end) {
        status = state->in_python ? call(turn, state, tokens->n - 1, 1, err) : PICO_OK;
        *again = 1;
    } else if (state->in_python) {
        status = call(turn, state, tokens->n, 0, err);
    }
    if (*again && state->left == 0) {
        turn->finish = PICO_FINISH_LENGTH;
        *again = 0;
    }
    return status;
}

/* A foreign end token makes place for the template's. */
static pico_status finish_answer(pico_chat_turn *turn, pico_error *err) {
    pico_chat_tokens *tokens = turn->tokens;
    int32_t end = pico_chat_token(tokens, tokens->chat_template->answer_after, 1);
    if (turn->finish == PICO_FINISH_END && tokens->n > tokens->answer_begin &&
        tokens->ids[tokens->n - 1] != end &&
        pico_tokenizer_is_end(tokens->tokenizer, tokens->ids[tokens->n - 1])) {
        pico_chat_tokens_truncate(tokens, tokens->n - 1);
    }
    return pico_chat_end_answer(tokens, err);
}

pico_status pico_chat_turn_run(pico_chat_turn *turn, pico_error *err) {
    turn_state state = {.left = turn->request.max_tokens};
    int again = 1;
    pico_status status = PICO_OK;
    for (int first = 1; again && status == PICO_OK; first = 0) {
        status = run_once(turn, &state, err);
        if (status == PICO_E_LIMIT && !first) { /* the context is full */
            turn->finish = PICO_FINISH_CONTEXT;
            status = PICO_OK;
            again = 0;
        } else if (status == PICO_OK) {
            status = go_on(turn, &state, &again, err);
        }
    }
    return status == PICO_OK ? finish_answer(turn, err) : status;
}
