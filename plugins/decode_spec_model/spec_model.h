/*
 * What the files of this plugin share. A second, smaller model drafts: it has a session of its own
 * with a lane for each slot of the target, whose KV follows the timeline. Each round every lane is
 * brought up to date and then extended by the drafts, one forward for all sequences at each step.
 */
#ifndef SPEC_MODEL_H
#define SPEC_MODEL_H

#include "plugin.h"

typedef struct spec_options {
    const char *draft_model;
    double p_min;
} spec_options;

/* A timeline of the draft's session. */
typedef struct spec_lane {
    int32_t *held;    /* (max_token) the token at place i, for i in [base, base + length) */
    uint32_t base;    /* place of the timeline that is at position 0 */
    uint32_t checked; /* places below it hold what the timeline holds, as far as they are held */
    /* of the round at hand */
    uint32_t start; /* next, before anything was run */
    uint32_t next;  /* first place of the timeline that has not been run */
    uint32_t count; /* drafts still wanted, those that there are included */
} spec_lane;

typedef struct spec_model {
    const pico_host *host;
    const pico_backend_ops *device;
    void *device_self;
    spec_options options;
    char *path;
    pico_model *draft; /* opened by the first begin, kept until the end */
    pico_session *session;
    spec_lane *lane; /* (n_slots) */
    int32_t *held;
    pico_row *row;      /* (max_rows) */
    uint32_t *row_lane; /* (n_slots) sequence whose outputs are the i-th of a call */
    float *logits;      /* (vocab) */
    pico_dist dist;     /* room for the vocabulary */
    uint32_t n_slots, n_vocab, max_rows, accept;
    uint32_t capacity;  /* positions of a lane */
    uint32_t window;    /* that a lane sees at most; 0: all */
    uint32_t max_token; /* of a timeline */
    uint64_t n_proposed;
} spec_model;

/* vocabulary.c: PICO_OK if both models mean the same by every token, else the first difference. */
pico_status spec_compare_tokens(const spec_model *me, const pico_model *target, pico_error *err);

/* lane.c: where position 0 is of a lane that begins with a timeline of n_token tokens; where it
 * would be in the target, if positions are learned. */
uint32_t spec_base(const spec_model *me, uint32_t n_token);
/* Makes a lane hold a part of the timeline without a mistake in it, and says how many drafts
 * it can make. */
pico_status spec_align(spec_model *me, const pico_sequence *sequence, pico_error *err);
/* After a failure: gives up what this round has run, which a device may have spoilt. */
void spec_forget_round(spec_model *me, const pico_sequence *sequences, uint32_t n);
/* Runs what the lanes of the sequences lack, at most max_rows of it. *n_out gets the number of
 * sequences whose newest token was run: row_lane says which, out has their logits. */
pico_status spec_catch_up(spec_model *me, const pico_sequence *sequences, uint32_t n,
                          pico_forward_out *out, uint32_t *n_out, pico_error *err);
/* Runs the last draft of each sequence that wants another one; *n_out as above. */
pico_status spec_step(spec_model *me, const pico_sequence *sequences, uint32_t n,
                      pico_forward_out *out, uint32_t *n_out, pico_error *err);

/* draw.c: draws the next draft of a sequence from an output row; it wants no more where the draft
 * model is not sure enough. */
pico_status spec_draw(spec_model *me, pico_sequence *sequence, const pico_forward_out *out,
                      uint32_t row, pico_error *err);

#endif
