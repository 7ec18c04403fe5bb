/*
 * The decode loop, and the only code that verifies drafts. It runs any number of sequences (slots)
 * of one model together; each round is propose -> forward -> verify -> accept -> observe, and at
 * most one chunk of one waiting prompt rides along. After open nothing is allocated until close.
 *
 * Invariant between rounds: the KV pages of a live slot hold every token of its timeline but the
 * newest. If a round fails, every timeline is as it was before the round; only when the decoder's
 * observe fails have the round's tokens been kept, and their text handed out.
 *
 * A decoder that steers (pico_decoder_need.n_beam) has n_beam hypotheses for each slot named here;
 * what is said of a slot holds for the best of them. Its text comes at the end, all at once.
 */
#ifndef PICO_DECODE_DECODE_H
#define PICO_DECODE_DECODE_H

#include "decode/draft_length.h"
#include "decode/text.h"
#include "plugin.h"
#include "session/session.h"
#include "tokenizer/tokenizer.h"

typedef struct pico_decode pico_decode;

typedef struct pico_logit_bias {
    int32_t token;
    float bias; /* may be -inf: the token never occurs */
} pico_logit_bias;

/* For draft_n: as many as pay, by the times of the rounds; see draft_length.h. */
#define PICO_DRAFT_AUTO UINT32_MAX

typedef struct pico_decode_params {
    const pico_sampler_ops *sampler; /* borrowed, as everything here */
    void *sampler_self;
    const pico_decoder_ops *decoder;
    void *decoder_self;
    const char *sampler_name, *decoder_name; /* for messages; NULL: none */
    const pico_tokenizer *tokenizer;         /* NULL: no text, no stop strings, no end tokens */
    uint32_t n_slots;
    uint32_t max_positions; /* of the context; 0: the trained length */
    /* 0: a timeline ends when the context is full. Else tokens of the longest timeline: when the
     * context is full, all but its last half is forgotten, and that half is run again at positions
     * 0, 1, ... */
    uint32_t max_timeline;
    uint32_t window_limit; /* see pico_session_params; 0: none */
    uint32_t ubatch;       /* rows of a prompt that go into one forward */
    uint32_t accept;       /* PICO_ACCEPT_x */
    uint32_t draft_n; /* most drafts of a sequence and round; 0: as many as the decoder proposes */
    float repetition, presence, frequency; /* 1, 0, 0: off */
    const pico_logit_bias *bias;
    uint32_t n_bias;
    size_t max_stop; /* bytes of the longest stop string of any request */
} pico_decode_params;

enum {
    PICO_FINISH_NONE = 0,    /* still running */
    PICO_FINISH_END = 1,     /* an end-of-text or end-of-turn token, or one of end_token */
    PICO_FINISH_STOP = 2,    /* a stop string */
    PICO_FINISH_LENGTH = 3,  /* max_tokens */
    PICO_FINISH_CONTEXT = 4, /* the context is full */
    PICO_FINISH_CANCELLED = 5
};

typedef struct pico_request {
    const int32_t *prompt; /* (n_prompt) at least one token */
    size_t n_prompt;
    uint64_t max_tokens; /* new tokens */
    uint64_t seed;
    uint32_t sample;          /* index of the sample of this prompt */
    int ignore_end;           /* 1: the vocabulary's end tokens do not end it */
    const int32_t *end_token; /* (n_end_token) further tokens that end it, whatever ignore_end says;
                                 borrowed until it is finished */
    size_t n_end_token;
    const char *const *stop;
    size_t n_stop;
    pico_text_fn on_text; /* may be NULL */
    void *arg;
} pico_request;

typedef struct pico_slot_state {
    uint32_t finish;      /* PICO_FINISH_x */
    const int32_t *token; /* (n_token) prompt and answer */
    uint32_t n_token, n_prompt;
    uint32_t n_reused; /* prompt tokens whose K and V were still there */
} pico_slot_state;

typedef struct pico_decode_stats {
    uint64_t n_prefill, n_generated; /* tokens */
    uint64_t n_refill;               /* tokens run again because the context was full */
    uint64_t n_round, n_drafted, n_accepted;
    double prefill_seconds; /* rounds in which a prompt chunk rode along */
    double decode_seconds;
    double propose_seconds; /* part of both */
    /* Of rounds without a prompt chunk, all sequences together: */
    uint64_t n_decode_round, n_decode_token;
    uint64_t n_decode_sequence; /* sum over the rounds of the live sequences */
    double draft_seconds;       /* in the decoder's propose and observe */
    double verify_seconds; /* forward, logits, sampling; the rest is decode_seconds less both */
    /* By place of a draft, in a tree the depth: how often one was verified whose path was right so
     * far, and how often it was right too. */
    uint64_t n_tried[PICO_DRAFT_MAX], n_right[PICO_DRAFT_MAX];
    uint64_t n_by_drafts[PICO_DRAFT_MAX + 1]; /* sequences of those rounds by number of drafts */
} pico_decode_stats;

/* What the cost model says after the rounds so far; see draft_length.h. */
typedef struct pico_draft_report {
    uint32_t limit;       /* drafts of a round that it would choose, or the fixed number */
    double plain_seconds; /* of a plain round of one sequence; NaN: none was measured */
    double speedup;       /* expected of that limit over plain decoding; NaN: unknown */
    double cost;          /* of a round with that many drafts over that of a plain one; NaN */
    double break_even;    /* acceptance at which it pays; above 1: it never does; NaN */
} pico_draft_report;

pico_status pico_decode_open(pico_model *model, const pico_decode_params *params, pico_decode **out,
                             pico_error *err);
void pico_decode_close(pico_decode *decode); /* NULL is allowed */

/* Gives a slot a prompt. What its timeline has in common with the prompt from the start is kept, so
 * that a conversation prefills only what is new. The prompt is copied. PICO_E_LIMIT when it is
 * longer than the context. */
pico_status pico_decode_start(pico_decode *decode, uint32_t slot, const pico_request *request,
                              pico_error *err);
/* Forgets what a slot that does not run still holds, so that its next prompt is run from the start. */
void pico_decode_forget(pico_decode *decode, uint32_t slot);
/* Gives a slot the prompt that another slot, the leader, has been started with and waits to run: it
 * is run once, and the slot gets a copy of the leader's timeline (full pages are shared) and draws
 * its own tokens from there, those that it would draw alone. Everything else may differ from the
 * leader's request. If the leader is cancelled before its prompt is in, the first of those that
 * wait for it takes its place. PICO_E_INVALID when the leader does not wait, follows another slot
 * or has another prompt. */
pico_status pico_decode_start_shared(pico_decode *decode, uint32_t slot, uint32_t leader,
                                     const pico_request *request, pico_error *err);
/* One round over all slots that are not finished; *n_live gets how many still run afterwards. */
pico_status pico_decode_round(pico_decode *decode, uint32_t *n_live, pico_error *err);
/* Rounds until all slots are finished or should_stop (may be NULL) returns 1. */
pico_status pico_decode_run(pico_decode *decode, int (*should_stop)(void *), void *arg,
                            pico_error *err);
void pico_decode_cancel(pico_decode *decode, uint32_t slot);

pico_slot_state pico_decode_slot(const pico_decode *decode, uint32_t slot);
const pico_decode_stats *pico_decode_statistics(const pico_decode *decode);
pico_session *pico_decode_session(const pico_decode *decode);
/* Most proposals of the decoder for a sequence and round; 0: it never drafts. */
uint32_t pico_decode_max_proposals(const pico_decode *decode);
/* Seconds of a round of so many rows without a prompt, drafting left out, as measured so far or
 * interpolated; NaN: nothing was measured. */
double pico_decode_round_seconds(const pico_decode *decode, uint32_t n_rows);
/* n_live: sequences that run together. */
void pico_decode_draft_report(const pico_decode *decode, uint32_t n_live, pico_draft_report *out);
/* Hypotheses of a sequence; 0: the decoder does not steer. */
uint32_t pico_decode_n_beam(const pico_decode *decode);
/* Of a decoder that steers, when a slot is finished: the answers that were kept, the best one, which
 * is the slot's own, first (rank 0); after cancelling, the best so far. Valid until it is started
 * again. */
uint32_t pico_decode_n_best(const pico_decode *decode, uint32_t slot);
pico_slot_state pico_decode_best(const pico_decode *decode, uint32_t slot, uint32_t rank,
                                 double *score);
/* Hands out the text of one of them. */
void pico_decode_best_text(pico_decode *decode, uint32_t slot, uint32_t rank, pico_text_fn fn,
                           void *arg);
const char *pico_finish_name(uint32_t finish);

extern const pico_sampling_api pico_sampling_table;

#endif
