/*
 * What speculation is worth: for each decoder and draft length a text is made plainly and with
 * drafts, in turns, and the times are compared; next to that stands what the cost model predicts
 * from times that were measured apart, with drafts that are never right. With accept = match both
 * texts must be the same, and a difference is an error. It prints nothing while it measures.
 */
#ifndef PICO_MEASURE_SPEC_H
#define PICO_MEASURE_SPEC_H

#include "decode/decode.h"
#include "measure/stats.h"
#include "model/model.h"

enum { PICO_SPEC_ROWS = 256, PICO_SPEC_REPEATS = 64 };

typedef struct pico_spec_decoder {
    const char *name;
    const pico_decoder_ops *ops; /* NULL: drafts that are right with probability `accept` */
    void *self;
} pico_spec_decoder;

typedef struct pico_spec_params {
    const pico_host *host;            /* progress, cancellation */
    const pico_decode_params *decode; /* sampler, penalties, accept, ubatch */
    const pico_decoder_ops *plain;    /* the plain decoder */
    void *plain_self;
    const pico_spec_decoder *decoder; /* (n_decoder) */
    uint32_t n_decoder;
    const uint32_t *gamma; /* (n_gamma) draft lengths; PICO_DRAFT_AUTO: measured */
    uint32_t n_gamma;
    double accept;         /* of drafts without a decoder */
    double draft_cost;     /* of each of those, in plain rounds */
    const int32_t *prompt; /* (n_prompt) */
    uint32_t n_prompt;
    uint32_t n_new; /* tokens that are timed; one more is made before */
    uint32_t repeats;
    uint64_t seed; /* of the first repeat; the next ones count up */
} pico_spec_params;

typedef struct pico_spec_row {
    const char *decoder;
    uint32_t gamma;
    pico_stats plain, speculative; /* tokens/s */
    pico_stats speedup;            /* of each pair of runs */
    double predicted;              /* speed-up by the cost model; NaN: no drafts */
    double acceptance;             /* of all drafts; NaN: there were none */
    double tokens_per_round;
    double draft_share; /* of the time */
} pico_spec_row;

typedef struct pico_spec_result {
    pico_spec_row row[PICO_SPEC_ROWS];
    uint32_t n_row;
    /* v(k): a round of k rows over a plain one, for the counts that were measured */
    uint32_t v_rows[PICO_DECODE_ROWS_MAX];
    double v[PICO_DECODE_ROWS_MAX];
    uint32_t n_v;
    double plain_seconds; /* of a round, when v was measured */
} pico_spec_result;

/* out is filled as far as it got, also on failure. */
pico_status pico_spec_run(pico_model *model, const pico_spec_params *params, pico_spec_result *out,
                          pico_error *err);

void pico_spec_print_md(const pico_spec_params *params, const pico_spec_result *result, FILE *to);
void pico_spec_print_csv(const pico_spec_result *result, FILE *to);
/* "4", or "auto"; out has room for 16 bytes. */
const char *pico_spec_gamma_text(uint32_t gamma, char out[16]);

/* ---- spec_drafts.c: the drafter of known quality ---- */

typedef struct pico_known_drafts {
    const int32_t *truth; /* (n_truth) the timeline that the plain decoder made */
    uint32_t n_truth, n_vocab;
    double accept;
    double seconds; /* that each draft is made to take */
    uint64_t seed;
} pico_known_drafts;

/* A decoder whose instance is a pico_known_drafts. Whether the draft at a place is right is a pure
 * function of seed and place. */
extern const pico_decoder_ops pico_known_drafts_ops;

#endif
