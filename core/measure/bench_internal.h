/* What the files of the bench share. Not for others. */
#ifndef PICO_MEASURE_BENCH_INTERNAL_H
#define PICO_MEASURE_BENCH_INTERNAL_H

#include "measure/bench.h"
#include "measure/probe.h"
#include "session/session.h"

typedef struct pico_bench {
    pico_model *model;
    const pico_bench_params *params;
    pico_probe *probe; /* NULL while warming up, or if there is none */
    pico_error *err;
    pico_bench_result *result;
    /* of the row being measured */
    pico_decode *decode;   /* GENERATE */
    pico_session *session; /* the others */
    pico_buffer *index;    /* I32: argmax of every output row */
    pico_row *rows;        /* (max_rows) */
    int32_t *tokens;       /* (max_positions + 1): random, then what was generated */
    uint32_t max_rows, max_logit_rows, max_positions;
} pico_bench;

/* ---- bench_time.c: opening, running and timing one row ---- */

/* What the row needs: decode loop or session, tokens, work space. Undone by close. */
pico_status pico_bench_open_row(pico_bench *b, const pico_bench_row *row);
void pico_bench_close_row(pico_bench *b);
/* Runs the row once, untimed: loads pages and caches, and shows how much memory it takes. */
pico_status pico_bench_warm_up(pico_bench *b, const pico_bench_row *row);
/* Seconds of one run, averaged over as many runs as fill a tenth of a second; for a v row *one gets
 * those of a single row. */
pico_status pico_bench_time(pico_bench *b, const pico_bench_row *row, double *one, double *seconds);
/* PICO_E_CANCELLED if the user asked to stop. */
pico_status pico_bench_check_stop(pico_bench *b);

#endif
