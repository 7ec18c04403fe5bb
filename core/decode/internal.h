/* What the files of the decode layer share. Not for other layers. */
#ifndef PICO_DECODE_INTERNAL_H
#define PICO_DECODE_INTERNAL_H

#include "decode/decode.h"

enum { MAX_ROOM = PICO_DRAFT_MAX, MAX_STATE = 256 };

#define PICO_NO_SLOT UINT32_MAX
#define PICO_NO_OUTPUT UINT32_MAX

typedef struct pico_slot {
    pico_decode *decode;
    pico_request request;
    pico_text_out text;
    uint32_t running; /* 1: started and not finished */
    uint32_t finish;
    uint32_t leader;  /* slot whose prompt this one waits for; PICO_NO_SLOT: none */
    uint32_t origin;  /* slot whose timeline this one must become a copy of; PICO_NO_SLOT: none */
    uint64_t ordinal; /* of its start: who came first is prefilled first */
    int32_t *token;   /* (longest timeline + drafts) */
    uint32_t n_token, n_prompt, n_reused;
    uint32_t base;   /* token at position 0; above 0 once the beginning has been forgotten */
    uint32_t n_fill; /* decoding goes on when tokens [base, n_fill) are in the pages */
    uint32_t *count; /* (n_vocab) occurrences in the timeline; NULL without penalties */
    int32_t *seen;   /* (as token) the tokens with count > 0 */
    uint32_t n_seen;
    _Alignas(16) unsigned char state[MAX_STATE];      /* the sampler's, after the timeline */
    _Alignas(16) unsigned char next_state[MAX_STATE]; /* the same after the fresh tokens */

    uint32_t n_live_round; /* rounds without its prompt since it was started */
    uint32_t n_idle_round; /* of those the last ones in which it could get no drafts */

    /* of the round at hand */
    uint32_t n_row;     /* rows in the forward; 0: none */
    uint32_t first_row; /* index of the newest token's row, or of the prompt chunk's first */
    uint32_t first_out; /* output row of first_row (of the chunk's last row in prefill, its leader's
                           for a follower); PICO_NO_OUTPUT: none */
    uint32_t prefilling;
    pico_sequence sequence;
    pico_proposal proposal[MAX_ROOM];
    int32_t fresh[MAX_ROOM + 1];      /* tokens drawn in this round */
    uint32_t fresh_row[MAX_ROOM + 1]; /* output row each was drawn from */
    uint32_t n_fresh;
    uint32_t path[MAX_ROOM + 1]; /* rows of the forward that become part of the timeline */
} pico_slot;

/* A hypothesis that has ended. */
typedef struct pico_ended {
    double score;
    uint32_t finish;
    uint32_t n_token;
    int32_t *token; /* (longest timeline + 1) prompt and answer */
} pico_ended;

/* A new hypothesis, as a checked extension says. */
typedef struct pico_child {
    uint32_t parent; /* index of a live hypothesis */
    uint32_t slot;   /* of the new one; PICO_NO_SLOT: it has ended, or is dropped */
    int32_t token;
    uint32_t finish; /* PICO_FINISH_NONE: it goes on */
    double score;
} pico_child;

/* A sequence of a decoder that steers: slots [first, first + n_beam) hold its live hypotheses. */
typedef struct pico_beam {
    pico_request request;
    uint32_t first;
    uint32_t running;
    uint32_t finish;
    uint32_t n_prompt, n_reused;
    uint32_t n_live;
    uint32_t live[PICO_BEAM_MAX]; /* (n_live) slots of the hypotheses, best first */
    double score[PICO_BEAM_MAX];  /* (n_live) */
    uint32_t n_ended;
    pico_ended ended[PICO_BEAM_MAX + 1]; /* (n_ended) best first; one more to build in */
    /* of the round at hand */
    pico_child child[2 * PICO_BEAM_MAX]; /* (n_child) */
    uint32_t n_child;
    uint32_t chosen; /* 1: child and done say what becomes of it */
    uint32_t done;
} pico_beam;

struct pico_decode {
    pico_model *model;
    pico_decode_params params;
    uint32_t n_slot; /* of the session: params.n_slots, or n_beam for each of them */
    pico_session *session;
    uint32_t n_vocab;
    pico_sampler_need need;
    pico_decoder_need decoder_need;
    int decoder_begun;
    int edits;   /* 1: penalties or bias are on */
    float *bias; /* (n_vocab) or NULL */
    pico_slot *slot;
    pico_row *row;           /* (max rows) */
    pico_sequence *sequence; /* (n_slots) as passed to propose */
    pico_outcome *outcome;   /* (n_slots) */
    uint32_t *sequence_slot; /* (n_slots) */
    uint64_t n_started;
    /* of a decoder that steers; n_beam 0: it does not */
    uint32_t n_beam;
    pico_beam *beam;                 /* (params.n_slots) */
    pico_hypothesis *hypothesis;     /* (n_beam) */
    pico_continuation *continuation; /* (n_beam, need.k) */
    pico_extension *extension;       /* (2 * n_beam) */
    double *ended_score;             /* (n_beam) */
    char *scratch;                   /* for pico_text_would_stop */
    /* sampling work space */
    uint32_t max_out; /* output rows of one forward */
    uint32_t max_edits;
    pico_buffer *device;               /* everything below, on the device */
    pico_tensor index, value, log_sum; /* I32, F32 (max_out, k); F32 (max_out) */
    pico_tensor edit_row, edit_token, edit_sub, edit_rep, edit_bias; /* (max_edits) */
    pico_tensor draft_row;                                           /* F32 (1, vocab) */
    int32_t *host_index;                                             /* (max_out, k) */
    float *host_value, *host_log_sum, *host_row; /* (max_out, k), (max_out), (n_vocab) */
    void *host_edits;
    pico_dist dist, rest; /* room for n_vocab each */
    int32_t *q_token;     /* (n_slots, q room) */
    double *q_p;
    pico_decode_stats stats;
    pico_draft_length drafts;
    pico_draft_round round; /* the times of the round at hand */
    double verify_seconds;  /* of the round at hand */
    pico_arena arena;
};

/* ---- sampling.c: from device logits to distributions ---- */

pico_status pico_sampling_open(pico_decode *decode, pico_error *err);
void pico_sampling_close(pico_decode *decode);
/* Adds a token to a slot's history (its timeline has it already). */
void pico_sampling_remember(pico_slot *slot, int32_t token);
void pico_sampling_reset(pico_slot *slot);
/* Gives a slot the history of another. */
void pico_sampling_copy(pico_slot *to, const pico_slot *from);
/* Edits the logits of the round and fetches what the sampler needs of them. */
pico_status pico_sampling_prepare(pico_decode *decode, const pico_forward_out *out,
                                  pico_error *err);
/* The distribution of output row `row`, in decode->dist. */
pico_status pico_sampling_dist(pico_decode *decode, const pico_forward_out *out, uint32_t row,
                               const void *state, pico_error *err);

/* What a row of logits in host memory makes; a sampler that cannot is an error that names it. */
pico_status pico_sampling_dist_of_row(pico_decode *decode, const float *row, const void *state,
                                      pico_dist *out, pico_error *err);
/* The best k of each row of device logits and the logs of their sums, in host_index, host_value and
 * host_log_sum. */
pico_status pico_sampling_top_k(pico_decode *decode, const pico_tensor *logits, pico_error *err);
/* What row `row` of those makes; PICO_E_LIMIT, without a message, if the sampler must see more. */
pico_status pico_sampling_dist_of_best(pico_decode *decode, uint32_t row, const void *state,
                                       pico_dist *out, pico_error *err);

/* ---- decode.c ---- */

/* A failure inside a plugin's slot as an error that names plugin and slot; inner is what the plugin
 * said, which may be nothing. A status that is no failure code becomes PICO_E_ABI. */
pico_status pico_plugin_failed(const char *kind, const char *name, const char *slot,
                               pico_status status, const pico_error *inner, pico_error *err);

pico_status pico_request_check(const pico_decode *decode, const pico_request *request,
                               pico_error *err);
/* How much of a timeline the prompt continues; at least one token is left to run. */
uint32_t pico_slot_common(const pico_decode *decode, uint32_t slot, const pico_request *request);
/* Truncates a timeline to *length, or, where a window has moved on, to nothing. */
pico_status pico_slot_rewind(pico_decode *decode, uint32_t slot, uint32_t *length, pico_error *err);
/* Everything of a start but the timeline, which holds the first n_reused tokens of the prompt. */
pico_status pico_slot_begin(pico_decode *decode, uint32_t slot, const pico_request *request,
                            uint32_t n_reused, pico_error *err);
/* Tokens of the longest timeline. */
uint32_t pico_decode_max_timeline(const pico_decode *decode);
/* Where position 0 of a timeline of n tokens is when it is run from the start. */
uint32_t pico_decode_base(const pico_decode *decode, size_t n);
/* Whether the slot's prompt, or what is run again of its timeline, is not yet in the pages (all but
 * its newest token is, when it is live; the last token of a prompt counts as newest only once it has
 * been forwarded with the chunk). */
int pico_slot_waits(const pico_decode *decode, uint32_t slot);
/* Whether the slot's answer ends with this token. */
int pico_slot_ends_at(const pico_decode *decode, const pico_slot *slot, int32_t token);
/* Ends a slot's answer: hands out its last text and tells the decoder. */
void pico_slot_finish(pico_decode *decode, pico_slot *slot, uint32_t why);

/* ---- share.c: prompts that several slots have in common ---- */

/* The followers of a leader whose prompt's last chunk is in this round: they draw from its row. */
void pico_share_outputs(pico_decode *decode, uint32_t leader);
/* After the forward: gives every such follower a copy of its leader's timeline. */
pico_status pico_share_timelines(pico_decode *decode, pico_error *err);
/* A leader that ends before its prompt is in: the first of its followers leads the others. */
void pico_share_promote(pico_decode *decode, uint32_t leader);

/* ---- beam.c, beam_round.c: sequences of a decoder that steers ---- */

pico_status pico_beam_open(pico_decode *decode, pico_error *err);
pico_status pico_beam_start(pico_decode *decode, uint32_t index, const pico_request *request,
                            pico_error *err);
/* Makes timelines the copies that the last round's choices need. What has been copied stays so when
 * a later one fails. */
pico_status pico_beam_copy_timelines(pico_decode *decode, pico_error *err);
/* After the forward: asks the decoder what becomes of each sequence. Changes no sequence. */
pico_status pico_beam_choose(pico_decode *decode, pico_error *err);
/* Does what was chosen. */
void pico_beam_apply(pico_decode *decode);
/* Keeps a hypothesis that has ended, parent's tokens and one more (-1: none), if it is among the
 * best. */
void pico_beam_keep(pico_decode *decode, pico_beam *beam, const pico_slot *parent, int32_t token,
                    uint32_t finish, double score);
pico_slot_state pico_beam_state(const pico_beam *beam, const pico_slot *slots);
/* Ends the search and hands out the best text. */
void pico_beam_finish(pico_decode *decode, pico_beam *beam, uint32_t why);

/* ---- count.c ---- */

/* What became of a live slot's drafts, for the draft length and for the statistics. */
void pico_count_drafts(pico_decode *decode, pico_slot *slot, uint32_t n_accepted);
/* n_chunk rows of a prompt rode along, or (again) of a timeline that is run again, a cost of
 * decoding. */
void pico_count_round(pico_decode *decode, uint32_t n_chunk, int again, double seconds);

/* ---- verify.c ---- */

/* Draws the tokens of one slot from the outputs of the forward: fresh, n_fresh and path. */
pico_status pico_verify(pico_decode *decode, pico_slot *slot, const pico_forward_out *out,
                        pico_error *err);

#endif
