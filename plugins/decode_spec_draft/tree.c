/*
 * From candidates to a tree of drafts. A path is as promising as the product of its candidates'
 * weights, for the heads do not know the drafts before their own place; the most promising path that
 * goes on from what is there comes next. Parents come before children and better ranks before worse
 * ones, since weights are at most 1 and descend.
 */
#include "spec_draft.h"

uint32_t spec_draft_most(uint32_t n_draft, uint32_t n_branch) {
    const uint32_t most = PICO_DECODE_ROWS_MAX - 1;
    uint32_t sum = 0, width = 1;
    for (uint32_t d = 0; d < n_draft && sum < most; d++) {
        width *= n_branch; /* never beyond most * MOST_BRANCHES */
        sum += width;
    }
    return sum < most ? sum : most;
}

/* A draft that others may follow; the first one stands for the newest token. */
typedef struct node {
    double weight;  /* of its path */
    uint32_t depth; /* place that follows it */
    uint32_t next;  /* rank of the next candidate that may follow it */
} node;

/* The node with the most promising next candidate, n if all that are worth a row are used up. */
static uint32_t best_parent(const node *nodes, uint32_t n, const draft_place *place,
                            uint32_t n_place, double p_min) {
    uint32_t best = n;
    double most = -1;
    for (uint32_t i = 0; i < n; i++) {
        const node *at = &nodes[i];
        if (at->depth < n_place && at->next < place[at->depth].n) {
            double weight = at->weight * place[at->depth].weight[at->next];
            best = weight > most && weight >= p_min ? i : best;
            most = weight > most ? weight : most;
        }
    }
    return best;
}

void spec_draft_grow(spec_draft *me, pico_sequence *sequence) {
    node nodes[PICO_DECODE_ROWS_MAX] = {{.weight = 1}};
    const draft_place *place = me->place + (uint64_t)sequence->slot * me->n_draft;
    uint32_t n_place = me->n_place[sequence->slot], n = 1;
    while (n <= sequence->room && n < PICO_DECODE_ROWS_MAX) {
        uint32_t parent = best_parent(nodes, n, place, n_place, me->options.p_min);
        if (parent == n) {
            break;
        }
        const draft_place *at = &place[nodes[parent].depth];
        uint32_t rank = nodes[parent].next++;
        /* Only the first draft at a node is tried against a distribution. */
        sequence->proposal[n - 1] = (pico_proposal){.token = at->token[rank],
                                                    .parent = (int32_t)parent - 1,
                                                    .q_begin = rank == 0 ? at->q_begin : 0,
                                                    .q_count = rank == 0 ? at->q_count : 0};
        nodes[n++] = (node){.weight = nodes[parent].weight * at->weight[rank],
                            .depth = nodes[parent].depth + 1};
    }
    sequence->n_proposal = n - 1;
    me->n_proposed += n - 1;
}
