/*
 * The forms in which models know conversations, as data: a closed list of templates that are built
 * in, and files that give another. A model's own (Jinja) template is never interpreted; its marks
 * tell which of the list it is written in. How a form is turned into tokens: chat_tokens.h.
 *
 * A file is INI text with one section [template]; docs/chat.md describes it for users:
 *
 *   begin                                 before everything; left out: BOS, if the vocabulary has texts
 *                                         begin with it
 *   system_before, system_after           around the system text
 *   system_in_user = on | off             whether that stands inside the first user turn
 *   user_before, user_after               around what the user says
 *   answer_before, answer_after           around what the model says; it continues answer_before
 *   python_before, python_after           around an expression for the calculator, and
 *   output_before, output_after           around its value: all four or none
 *   stop                                  texts that end an answer, one a line
 *
 * In values \n, \t, \s (a blank, which is lost at the ends of a value otherwise) and \\ are escapes.
 * The names of special tokens stand for those tokens.
 */
#ifndef PICO_CLI_CHAT_TEMPLATE_H
#define PICO_CLI_CHAT_TEMPLATE_H

#include "formats/model_file.h"
#include "util/arena.h"

enum { PICO_CHAT_STOPS = 8 };

typedef struct pico_chat_template {
    const char *name;
    const char *mark;  /* what the model's template contains; NULL: never recognised */
    const char *begin; /* NULL: as the vocabulary says */
    const char *system_before, *system_after;
    const char *user_before, *user_after;
    const char *answer_before, *answer_after;
    const char *python_before, *python_after; /* NULL: no calculator */
    const char *output_before, *output_after;
    uint32_t system_in_user; /* 1: the system text stands inside the first user turn */
    uint32_t n_stop;
    const char *stop[PICO_CHAT_STOPS]; /* end an answer besides the end tokens */
} pico_chat_template;

/* Selects a template. choice: "auto" for the one that the vocabulary's own template is written in
 * or, without one, that its special tokens belong to, and the plain transcript if there is none;
 * the name of one of the list; or a file, which has a '/' in it. Texts are static or in the arena.
 * *known gets 0 if auto met a template of the vocabulary's that is none of the list.
 * PICO_E_NOT_FOUND, PICO_E_INVALID (with file:line) and the failures of reading a file. */
pico_status pico_chat_template_select(const char *choice, const pico_vocab *vocab,
                                      pico_arena *arena, pico_chat_template *out, int *known,
                                      pico_error *err);

/* chat_template_file.c */
pico_status pico_chat_template_read(const char *path, pico_arena *arena, pico_chat_template *out,
                                    pico_error *err);

#endif
