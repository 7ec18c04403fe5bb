/*
 * Drafts without a model: looks for an earlier place of the text that ends like the text does now,
 * and proposes what came after it there. Good where a text repeats itself or its prompt: code that is
 * changed, texts that are summarised, lists. The longest match wins, of equally long ones the most
 * recent. An index of n-grams for each sequence, brought up to date by the new tokens alone, makes
 * the search cheap; its memory is taken when decoding begins. It never guesses beyond a match.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

enum { MOST_CANDIDATES = 64 }; /* places with the same n-gram that are looked at in a round */

typedef struct lookup_options {
    int64_t ngram_min, ngram_max;
} lookup_options;

/* The places of one sequence. A place is the index of an n-gram's last token; the index holds all
 * n-grams of ngram_min tokens that end before `n`. Entries are places + 1; 0: none. */
typedef struct lane {
    uint32_t *newest; /* (n_bucket) the last place of each hash */
    uint32_t *before; /* (max_token) the place before it with the same hash */
    uint32_t n;
} lane;

typedef struct lookup {
    const pico_host *host;
    lookup_options options;
    lane *lane; /* (n_slots) */
    uint32_t *memory;
    uint32_t n_slots, n_bucket, max_token;
    uint64_t n_proposed;
} lookup;

static const pico_option options[] = {
    {.name = "ngram_min",
     .type = PICO_OPT_INT,
     .offset = offsetof(lookup_options, ngram_min),
     .def = "2",
     .min = 1,
     .max = 64,
     .unit = "tokens",
     .help = "shortest end of the text that must be found again"},
    {.name = "ngram_max",
     .type = PICO_OPT_INT,
     .offset = offsetof(lookup_options, ngram_max),
     .def = "8",
     .min = 1,
     .max = 64,
     .unit = "tokens",
     .help = "longest end of the text that is compared: longer matches count the same"},
};

/* ---- life ---- */

static pico_status create(const pico_host *host, const void *bound, void **self, pico_error *err) {
    const lookup_options *given = bound;
    if (given->ngram_min > given->ngram_max) {
        return pico_fail(err, PICO_E_INVALID,
                         "ngram_min is %lld, ngram_max %lld; the least cannot "
                         "be more than the most",
                         (long long)given->ngram_min, (long long)given->ngram_max);
    }
    lookup *me = calloc(1, sizeof *me);
    if (me == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    me->host = host;
    me->options = *given;
    *self = me;
    return PICO_OK;
}

static void end(void *self) {
    lookup *me = self;
    free(me->lane);
    free(me->memory);
    me->lane = NULL;
    me->memory = NULL;
}

static void destroy(void *self) {
    if (self != NULL) {
        end(self);
        free(self);
    }
}

static pico_status begin(void *self, const pico_model *target, uint32_t n_slots,
                         pico_decoder_need *out, pico_error *err) {
    lookup *me = self;
    uint32_t longest =
        out->max_positions != 0 ? out->max_positions : me->host->model_desc(target)->n_ctx_train;
    end(self);
    me->n_slots = n_slots;
    me->max_token = longest + PICO_DECODE_ROWS_MAX;
    me->n_bucket = 64;
    while (me->n_bucket < me->max_token && me->n_bucket < 1u << 20) {
        me->n_bucket *= 2;
    }
    size_t each = (size_t)me->n_bucket + me->max_token;
    me->lane = calloc(n_slots + 1u, sizeof *me->lane);
    me->memory = each <= SIZE_MAX / sizeof *me->memory / (n_slots + 1u)
                     ? calloc((size_t)n_slots * each + 1, sizeof *me->memory)
                     : NULL;
    if (me->lane == NULL || me->memory == NULL) {
        end(self);
        return pico_fail(err, PICO_E_NOMEM,
                         "out of memory for an index of %u tokens for each of "
                         "%u sequences",
                         me->max_token, n_slots);
    }
    for (uint32_t s = 0; s < n_slots; s++) {
        me->lane[s].newest = me->memory + s * each;
        me->lane[s].before = me->lane[s].newest + me->n_bucket;
    }
    out->max_proposals = PICO_DECODE_ROWS_MAX - 1;
    return PICO_OK;
}

static pico_status begin_sequence(void *self, const pico_sequence *sequence, pico_error *err) {
    lookup *me = self;
    lane *at = &me->lane[sequence->slot];
    (void)err;
    memset(at->newest, 0, me->n_bucket * sizeof *at->newest);
    at->n = 0;
    return PICO_OK;
}

/* ---- the index ---- */

/* The bucket of the n-gram that ends at place `last`. */
static uint32_t bucket_of(const lookup *me, const int32_t *token, uint32_t last) {
    uint64_t hash = 0;
    for (uint32_t i = 0; i < (uint32_t)me->options.ngram_min; i++) {
        hash = (hash ^ (uint32_t)token[last - i]) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    return (uint32_t)hash & (me->n_bucket - 1);
}

/* Takes up the n-grams that end before place `end`. */
static void index_until(lookup *me, lane *at, const int32_t *token, uint32_t end_place) {
    uint32_t least = (uint32_t)me->options.ngram_min - 1;
    for (uint32_t place = at->n > least ? at->n : least; place < end_place; place++) {
        uint32_t bucket = bucket_of(me, token, place);
        at->before[place] = at->newest[bucket];
        at->newest[bucket] = place + 1;
    }
    at->n = end_place > at->n ? end_place : at->n;
}

/* How many tokens, at most ngram_max, are equal before and at the two places. */
static uint32_t common_end(const lookup *me, const int32_t *token, uint32_t a, uint32_t b) {
    uint32_t n = 0, most = (uint32_t)me->options.ngram_max;
    while (n < most && n <= a && token[a - n] == token[b - n]) {
        n++;
    }
    return n;
}

/* The place whose n-gram is most like the end of the text; UINT32_MAX if there is none. */
static uint32_t best_place(lookup *me, const pico_sequence *sequence) {
    lane *at = &me->lane[sequence->slot];
    const int32_t *token = sequence->token;
    uint32_t last = sequence->n_token - 1, best = UINT32_MAX, most = 0;
    if (sequence->n_token <= (uint32_t)me->options.ngram_min || last >= me->max_token) {
        return UINT32_MAX;
    }
    index_until(me, at, token, last);
    uint32_t entry = at->newest[bucket_of(me, token, last)];
    for (uint32_t i = 0; i < MOST_CANDIDATES && entry != 0; i++) {
        uint32_t place = entry - 1, n = common_end(me, token, place, last);
        if (n > most) {
            most = n;
            best = place;
        }
        if (most == (uint32_t)me->options.ngram_max) {
            break;
        }
        entry = at->before[place];
    }
    return most >= (uint32_t)me->options.ngram_min ? best : UINT32_MAX;
}

/* ---- drafts ---- */

/* What followed the place; where that reaches the end of the text, it goes on with the drafts, as a
 * text does that repeats itself. */
static pico_status propose(void *self, pico_sequence *sequences, uint32_t n, pico_error *err) {
    lookup *me = self;
    (void)err;
    for (uint32_t i = 0; i < n; i++) {
        pico_sequence *sequence = &sequences[i];
        uint32_t place = sequence->room == 0 ? UINT32_MAX : best_place(me, sequence);
        uint32_t count = place == UINT32_MAX ? 0 : sequence->room;
        for (uint32_t k = 0; k < count; k++) {
            uint32_t from = place + 1 + k;
            int32_t token = from < sequence->n_token
                                ? sequence->token[from]
                                : sequence->proposal[from - sequence->n_token].token;
            sequence->proposal[k] = (pico_proposal){.token = token, .parent = (int32_t)k - 1};
        }
        sequence->n_proposal = count;
        me->n_proposed += count;
    }
    return PICO_OK;
}

static pico_status observe(void *self, const pico_outcome *outcomes, uint32_t n,
                           const pico_tensor *hidden, pico_error *err) {
    (void)self; /* the timeline says everything when it is next seen */
    (void)outcomes;
    (void)n;
    (void)hidden;
    (void)err;
    return PICO_OK;
}

static pico_status stats(void *self, pico_decoder_stats *out) {
    out->n_proposed = ((const lookup *)self)->n_proposed;
    return PICO_OK;
}

static const pico_decoder_ops ops = {.struct_size = sizeof(pico_decoder_ops),
                                     .begin = begin,
                                     .propose = propose,
                                     .observe = observe,
                                     .end = end,
                                     .begin_sequence = begin_sequence,
                                     .stats = stats};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = 1,
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_DECODER,
                                   .name = "spec_lookup",
                                   .version = "0.1.0",
                                   .summary = "drafts what followed the same words before",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(lookup_options),
                                   .create = create,
                                   .destroy = destroy,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
