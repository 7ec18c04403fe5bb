/*
 * What the files of this plugin share. A round: each head's logits give, for each sequence and place,
 * a few candidates (candidates.c); from the candidates of its places a sequence gets a tree of drafts,
 * the most promising ones first (tree.c). With one candidate a place the tree is a chain.
 */
#ifndef SPEC_DRAFT_H
#define SPEC_DRAFT_H

#include "plugin.h"

enum { MOST_HEADS = 16, MOST_BRANCHES = 8 };

typedef struct draft_options {
    uint32_t heads;
    int64_t branch;
    double p_min;
} draft_options;

/* What may come at a place of one sequence. */
typedef struct draft_place {
    int32_t token[MOST_BRANCHES]; /* the likelier first */
    double weight[MOST_BRANCHES]; /* how likely each rank is to be right, descending */
    uint32_t n;
    uint32_t q_begin, q_count; /* of the first candidate, as in pico_proposal */
} draft_place;

typedef struct spec_draft {
    const pico_host *host;
    const pico_backend_ops *device;
    void *device_self;
    draft_options options;
    const pico_model *target;
    uint32_t n_slots, n_vocab, n_embd, accept;
    uint32_t head[MOST_HEADS]; /* (n_head) whose results are used, the nearest place first */
    uint32_t n_head, n_slot;   /* n_slot: places that one head predicts; 1 for multi-token heads */
    uint32_t first_slot;       /* the first whose place is after the newest token */
    uint32_t reads_token;      /* 1: the head is told the newest token */
    uint32_t n_draft;          /* places after the newest token that are predicted */
    uint32_t n_branch;         /* candidates of a place */
    uint32_t n_known;          /* tokens that the heads know */
    const int32_t *known;      /* (n_known) their ids; NULL: all tokens */
    pico_buffer *memory;       /* hidden of each slot; hidden, tokens and logits of a call */
    pico_tensor hidden, input, logits; /* (n_slots, n_embd) twice, (n_slots, n_slot * known) */
    pico_tensor token;                 /* I32 (n_slots) */
    int32_t *newest;                   /* (n_slots) the same on its way */
    uint32_t *length;                  /* (n_slots) tokens of the timeline */
    uint32_t *has;      /* (n_slots) the length that the slot's hidden row belongs to; 0: none */
    draft_place *place; /* (n_slots, n_draft) of the round at hand */
    uint32_t *n_place;  /* (n_slots) that there are */
    float *row;         /* (vocab) */
    pico_dist dist;     /* room for the vocabulary */
    uint64_t n_proposed;
} spec_draft;

/* candidates.c: the candidates of a sequence's next place, from the known tokens' logits at the front
 * of me->row, which is used up. */
pico_status spec_draft_add_place(spec_draft *me, pico_sequence *sequence, pico_error *err);
/* Whether nothing that came after the places that there are could be probable enough. */
int spec_draft_is_hopeless(const spec_draft *me, const pico_sequence *sequence);

/* tree.c: at most n_draft places with n_branch candidates give so many drafts; clipped to what can be
 * verified. */
uint32_t spec_draft_most(uint32_t n_draft, uint32_t n_branch);
/* The drafts of a sequence from its places, as many as there is room for. A smaller room gives the
 * first ones of the same drafts. */
void spec_draft_grow(spec_draft *me, pico_sequence *sequence);

#endif
