/*
 * Beam search: keeps the `width` most probable beginnings of the answer and returns the ended one
 * with the best score, the sum of its log probabilities / length ^ length_penalty, where the length
 * counts the answer's tokens, an end token included. The rules, when to stop among them, are those of
 * Hugging Face's generate(num_beams, length_penalty, early_stopping). It keeps no state between
 * rounds and samples nothing.
 */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

enum { STOP_OFF = 0, STOP_ON = 1, STOP_NEVER = 2 };

/* End tokens that a vocabulary may have before a width of 1 could run out of others. */
enum { SPARE = 8 };

typedef struct beam {
    int64_t width;
    double length_penalty;
    uint32_t early_stopping;
} beam;

static const char *const stop_words[] = {"off", "on", "never", NULL};

static const pico_option options[] = {
    {.name = "width",
     .type = PICO_OPT_INT,
     .offset = offsetof(beam, width),
     .def = "4",
     .min = 1,
     .max = PICO_BEAM_MAX,
     .unit = "hypotheses",
     .help = "hypotheses that are kept; 1 is greedy decoding"},
    {.name = "length_penalty",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(beam, length_penalty),
     .def = "1.0",
     .min = -10,
     .max = 10,
     .help = "scores are sums of log probabilities / length ^ this; above 0 favours long answers"},
    {.name = "early_stopping",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(beam, early_stopping),
     .def = "off",
     .choices = stop_words,
     .help = "when `width` hypotheses have ended: on: stop; off: stop if no live one has a better "
             "score at its present length; never: only if none can have one at any length"},
};

static pico_status create(const pico_host *host, const void *bound, void **self, pico_error *err) {
    (void)host;
    beam *b = malloc(sizeof *b);
    if (b == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    *b = *(const beam *)bound;
    *self = b;
    return PICO_OK;
}

static pico_status begin(void *self, const pico_model *target, uint32_t n_slots,
                         pico_decoder_need *out, pico_error *err) {
    const beam *b = self;
    (void)target;
    (void)n_slots;
    (void)err;
    out->n_beam = (uint32_t)b->width;
    /* The best width of all that go on are among the best width of each, end tokens left out. */
    out->n_continuation = (uint32_t)(2 * b->width) + SPARE;
    return PICO_OK;
}

static pico_status propose(void *self, pico_sequence *sequences, uint32_t n, pico_error *err) {
    (void)self;
    (void)sequences;
    (void)n;
    (void)err; /* never called: it steers */
    return PICO_OK;
}

static pico_status observe(void *self, const pico_outcome *outcomes, uint32_t n,
                           const pico_tensor *hidden, pico_error *err) {
    (void)self;
    (void)outcomes;
    (void)n;
    (void)hidden;
    (void)err; /* never called: it steers */
    return PICO_OK;
}

static void end(void *self) {
    (void)self;
}

/* ---- one round ---- */

/* The best pairs of hypothesis and continuation in order, by merging the sorted lists. */
typedef struct merge {
    const pico_advance *round;
    uint32_t next[PICO_BEAM_MAX]; /* of each hypothesis: its first continuation not taken */
} merge;

/* The next pair, with the sum of its log probabilities; 0 if there is none. Ties go to the earlier
 * hypothesis. */
static int next_pair(merge *m, pico_extension *out) {
    int found = 0;
    for (uint32_t i = 0; i < m->round->n_hypothesis; i++) {
        const pico_hypothesis *h = &m->round->hypothesis[i];
        if (m->next[i] == h->n_continuation) {
            continue;
        }
        double sum = h->score + h->continuation[m->next[i]].log_p;
        if (!found || sum > out->score) {
            *out = (pico_extension){.parent = i, .continuation = m->next[i], .score = sum};
            found = 1;
        }
    }
    if (found) {
        m->next[out->parent]++;
    }
    return found;
}

/* The scores of the hypotheses that have ended, best first; no more than width. */
typedef struct board {
    double score[PICO_BEAM_MAX];
    uint32_t n;
} board;

static void enter(board *to, double score, uint32_t width) {
    uint32_t at = to->n < width ? to->n++ : width;
    if (at == width) { /* full */
        if (score <= to->score[width - 1]) {
            return;
        }
        at = width - 1;
    }
    for (; at > 0 && to->score[at - 1] < score; at--) {
        to->score[at] = to->score[at - 1];
    }
    to->score[at] = score;
}

/* Whether the search is over. best: the largest sum of log probabilities of this round. */
static int is_done(const beam *b, const pico_advance *round, const board *ended, double best) {
    if (ended->n < b->width) {
        return 0;
    }
    double length =
        b->early_stopping == STOP_NEVER && b->length_penalty > 0 ? round->max_new : round->n_new;
    return b->early_stopping == STOP_ON ||
           ended->score[b->width - 1] >= best / pow(length, b->length_penalty);
}

static pico_status advance(void *self, pico_advance *round, pico_error *err) {
    const beam *b = self;
    const uint32_t width = (uint32_t)b->width;
    const double scale = pow(round->n_new, b->length_penalty);
    const int is_last = round->n_new == round->max_new;
    merge pairs = {.round = round};
    board ended = {.n = round->n_ended};
    pico_extension go_on[PICO_BEAM_MAX], pair;
    uint32_t n_go_on = 0;
    double best = 0;
    if (round->capacity < 2 * width || round->n_hypothesis > PICO_BEAM_MAX ||
        round->n_ended > width) {
        return pico_fail(err, PICO_E_ABI, "the host gives room for %u extensions, not %u",
                         round->capacity, 2 * width);
    }
    memcpy(ended.score, round->ended, round->n_ended * sizeof *ended.score);
    for (uint32_t rank = 0; n_go_on < width && next_pair(&pairs, &pair); rank++) {
        int ends = round->hypothesis[pair.parent].continuation[pair.continuation].ends != 0;
        best = rank == 0 ? pair.score : best;
        if (!ends) {
            go_on[n_go_on++] = pair;
        } else if (rank < width) { /* it would be among the survivors if it went on */
            pair.score /= scale;
            enter(&ended, pair.score, width);
            round->extension[round->n_extension++] = pair;
        }
    }
    round->done = is_done(b, round, &ended, best) ? 1 : 0;
    for (uint32_t i = 0; i < n_go_on && !round->done; i++) {
        round->extension[round->n_extension] = go_on[i];
        round->extension[round->n_extension++].score /= is_last ? scale : 1;
    }
    return PICO_OK;
}

static const pico_decoder_ops ops = {.struct_size = sizeof(pico_decoder_ops),
                                     .begin = begin,
                                     .propose = propose,
                                     .observe = observe,
                                     .end = end,
                                     .advance = advance};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = 2,
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_DECODER,
                                   .name = "beam",
                                   .version = "0.1.0",
                                   .summary = "beam search: the most probable answer",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(beam),
                                   .create = create,
                                   .destroy = free,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
