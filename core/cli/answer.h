/*
 * What run and chat share: the text of an answer on stdout as it is made, running one slot until it
 * ends or Ctrl-C, and the line of figures afterwards, of one answer or of many. Newlines at the end are held back until more
 * text follows, so that what is printed can end with exactly one.
 */
#ifndef PICO_CLI_ANSWER_H
#define PICO_CLI_ANSWER_H

#include "cli/cli.h"
#include "util/text.h"

typedef struct pico_answer {
    FILE *out;
    size_t held;       /* newlines not yet printed */
    int trim_start;    /* 1: blanks at the start are dropped */
    int started;       /* something was printed */
    int error;         /* errno of the first failed write; then nothing more is printed */
    uint64_t flush_ns; /* when out was last flushed */
    pico_string text;  /* what the model said, blanks at its start included; only if keep */
    int keep;
} pico_answer;

void pico_answer_open(pico_answer *answer, FILE *out, int trim_start, int keep);
void pico_answer_close(pico_answer *answer);
/* A pico_text_fn; arg is the pico_answer. */
void pico_answer_text(void *arg, const char *text, size_t n);
/* Ends the line; flushes. */
void pico_answer_end(pico_answer *answer);

/* Runs slot 0 until it is finished, Ctrl-C was pressed or nothing can be printed any more. */
pico_status pico_answer_run(pico_answer *answer, pico_decode *decode, pico_error *err);

/* "5 prompt tokens at 1200/s, 251 new tokens at 900/s, ended by length": what slot 0 did since its
 * statistics were `before`. */
void pico_answer_figures(const pico_decode_stats *before, const pico_decode *decode, char *out,
                         size_t size);

/* "80 prompt tokens, 512 new tokens at 690/s": what a decode loop did in all its slots. The rate is
 * that of the whole time, because rounds run prompts and answers together. */
void pico_answer_totals(const pico_decode *decode, char *out, size_t size);

/* What speculation did and what it was worth, for those decoders that draft; and as below. */
void pico_answer_speculation(pico_runtime *runtime, const pico_decode *decode, int *reported);
/* Reports a drafter of which nothing was ever accepted, once: *reported is 1 from then on. */
void pico_answer_check_drafts(pico_runtime *runtime, const pico_decode *decode, int *reported);

/* What a user of a decoder that steers must know; and for -v: model, device, threads, memory of the KV pages and the seconds that opening took. */
void pico_answer_describe(pico_runtime *runtime, const pico_decode *decode, double seconds);
/* A clock for it. */
double pico_answer_clock(void);

#endif
