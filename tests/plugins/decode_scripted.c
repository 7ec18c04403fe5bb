/*
 * A drafter for tests: it knows from a file what the plain decoder said and proposes chains or
 * trees that are right as often as it is told, or draws drafts from a distribution of its own for
 * rejection sampling; that distribution can be stated wrongly on purpose. It never guesses.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

enum { MAX_LINES = 64, MAX_TOKENS = 1024 };
enum { SHAPE_CHAIN = 0, SHAPE_TREE = 1 };
enum { Q_NONE = 0, Q_TRUE = 1, Q_WRONG = 2 };

typedef struct scripted_options {
    const char *script;
    int64_t draft_n;
    double accuracy;
    uint32_t shape, q;
} scripted_options;

typedef struct line {
    int32_t token[MAX_TOKENS];
    uint32_t n;
} line;

typedef struct scripted {
    const pico_host *host;
    scripted_options options;
    line *script; /* (n_line) whole timelines, prompt and answer */
    uint32_t n_line, n_vocab, n_slots;
    int32_t *line_of; /* (n_slots) */
    uint64_t random;
    uint64_t n_proposed;
} scripted;

static const char *const shapes[] = {"chain", "tree", NULL};
static const char *const q_words[] = {"none", "true", "wrong", NULL};

static const pico_option options[] = {
    {.name = "script",
     .type = PICO_OPT_PATH,
     .offset = offsetof(scripted_options, script),
     .help = "timelines to draft from: one a line, token ids with spaces between them"},
    {.name = "draft_n",
     .type = PICO_OPT_INT,
     .offset = offsetof(scripted_options, draft_n),
     .def = "4",
     .min = 0,
     .max = 31,
     .unit = "tokens",
     .help = "drafts of a round"},
    {.name = "accuracy",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(scripted_options, accuracy),
     .def = "0.8",
     .min = 0,
     .max = 1,
     .help = "share of the drafts that are what the script says"},
    {.name = "shape",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(scripted_options, shape),
     .def = "chain",
     .choices = shapes,
     .help = "chain, or a tree in which the script is one path"},
    {.name = "q",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(scripted_options, q),
     .def = "none",
     .choices = q_words,
     .help = "drafts from an own skewed distribution: not, stated truly, stated as uniform"},
};

static uint64_t next_random(scripted *s) {
    uint64_t x = s->random += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    return x ^ (x >> 31);
}

static double uniform(scripted *s) {
    return (double)(next_random(s) >> 11) * 0x1p-53;
}

/* ---- the script ---- */

static pico_status parse_line(scripted *s, char *text, pico_error *err) {
    line *at = &s->script[s->n_line];
    char *end = text;
    at->n = 0;
    for (;;) {
        long token = strtol(text, &end, 10);
        if (end == text) {
            break;
        }
        if (at->n == MAX_TOKENS) {
            return pico_fail(err, PICO_E_LIMIT, "decode scripted: a line of more than %d tokens",
                             MAX_TOKENS);
        }
        at->token[at->n++] = (int32_t)token;
        text = end;
    }
    s->n_line += at->n > 0;
    return PICO_OK;
}

static pico_status read_script(scripted *s, pico_error *err) {
    static const size_t room = 16 * MAX_TOKENS;
    FILE *file = fopen(s->options.script, "r");
    char *text = malloc(room);
    pico_status status = PICO_OK;
    if (file == NULL || text == NULL) {
        status = pico_fail(err, PICO_E_IO, "decode scripted: cannot read %s", s->options.script);
    }
    while (status == PICO_OK && fgets(text, (int)room, file) != NULL) {
        status =
            s->n_line == MAX_LINES
                ? pico_fail(err, PICO_E_LIMIT, "decode scripted: more than %d lines", MAX_LINES)
                : parse_line(s, text, err);
    }
    free(text);
    if (file != NULL) {
        (void)fclose(file);
    }
    return status;
}

/* ---- life ---- */

static void destroy(void *self) {
    scripted *s = self;
    if (s != NULL) {
        free(s->script);
        free(s->line_of);
        free(s);
    }
}

static pico_status create(const pico_host *host, const void *bound, void **self, pico_error *err) {
    scripted *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "decode scripted: out of memory");
    }
    s->host = host;
    s->options = *(const scripted_options *)bound;
    s->script = calloc(MAX_LINES, sizeof *s->script);
    pico_status status = s->script == NULL
                             ? pico_fail(err, PICO_E_NOMEM, "decode scripted: out of memory")
                             : PICO_OK;
    if (status == PICO_OK && s->options.script != NULL) {
        status = read_script(s, err);
    }
    if (status != PICO_OK) {
        destroy(s);
        return status;
    }
    *self = s;
    return PICO_OK;
}

static pico_status begin(void *self, const pico_model *target, uint32_t n_slots,
                         pico_decoder_need *out, pico_error *err) {
    scripted *s = self;
    free(s->line_of);
    s->n_vocab = s->host->model_desc(target)->n_vocab;
    s->n_slots = n_slots;
    s->line_of = malloc((n_slots + 1u) * sizeof *s->line_of);
    if (s->line_of == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "decode scripted: out of memory");
    }
    for (uint32_t i = 0; i < n_slots; i++) {
        s->line_of[i] = -1;
    }
    out->max_proposals = (uint32_t)s->options.draft_n;
    out->want_q = s->options.q != Q_NONE;
    return PICO_OK;
}

static void end(void *self) {
    scripted *s = self;
    free(s->line_of);
    s->line_of = NULL;
}

/* The line of the script that begins with the prompt. */
static pico_status begin_sequence(void *self, const pico_sequence *sequence, pico_error *err) {
    scripted *s = self;
    (void)err;
    s->line_of[sequence->slot] = -1;
    for (uint32_t i = 0; i < s->n_line; i++) {
        if (s->script[i].n >= sequence->n_token &&
            memcmp(s->script[i].token, sequence->token,
                   sequence->n_token * sizeof *sequence->token) == 0) {
            s->line_of[sequence->slot] = (int32_t)i;
            break;
        }
    }
    return PICO_OK;
}

static void end_sequence(void *self, uint32_t slot) {
    scripted *s = self;
    s->line_of[slot] = -1;
}

/* ---- drafts ---- */

/* What the script says at a position, or, where it is to be wrong or says nothing, another token.
 */
static int32_t draft_at(scripted *s, const pico_sequence *sequence, uint32_t pos, int right) {
    int32_t at = s->line_of[sequence->slot];
    uint32_t offset = 1 + (uint32_t)(next_random(s) % (s->n_vocab > 1 ? s->n_vocab - 1 : 1));
    if (at < 0 || pos >= s->script[at].n) {
        return (int32_t)(offset % s->n_vocab);
    }
    int32_t token = s->script[at].token[pos];
    return right ? token : (int32_t)(((uint32_t)token + offset) % s->n_vocab);
}

static void draft_chain(scripted *s, pico_sequence *sequence, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        sequence->proposal[i] = (pico_proposal){
            .token = draft_at(s, sequence, sequence->n_token + i, uniform(s) < s->options.accuracy),
            .parent = (int32_t)i - 1};
    }
    sequence->n_proposal = n;
}

/* A random tree; below each node that is on the script's path a child continues the path with the
 * wanted accuracy. */
static void draft_tree(scripted *s, pico_sequence *sequence, uint32_t n) {
    uint32_t depth[32];
    for (uint32_t i = 0; i < n; i++) {
        int32_t parent = (int32_t)(next_random(s) % (i + 1)) - 1;
        depth[i] = parent < 0 ? 0 : depth[parent] + 1;
        sequence->proposal[i] =
            (pico_proposal){.token = draft_at(s, sequence, sequence->n_token + depth[i],
                                              uniform(s) < s->options.accuracy),
                            .parent = parent};
    }
    sequence->n_proposal = n;
}

/* Drafts drawn from a distribution over the first tokens: 1, 2, 3, ... times as probable. In a tree
 * the first draft at a node is drawn so, the others are any tokens. */
static void draft_from_q(scripted *s, pico_sequence *sequence, uint32_t n) {
    int32_t token[32];
    double p[32], sum = 0;
    uint32_t depth[33] = {0}, n_child[33] = {0}; /* of the newest token, then of each draft */
    uint32_t width = s->n_vocab < 32 ? s->n_vocab : 32;
    for (uint32_t i = 0; i < width; i++) {
        token[i] = (int32_t)i;
        sum += p[i] = 1 + (double)i;
    }
    for (uint32_t i = 0; i < width; i++) {
        p[i] /= sum;
    }
    pico_dist dist = {.n = width, .capacity = 32, .token = token, .p = p};
    for (uint32_t i = 0; i < n && sequence->n_q + width <= sequence->q_capacity; i++) {
        uint32_t parent = s->options.shape == SHAPE_TREE ? (uint32_t)(next_random(s) % (i + 1)) : i;
        depth[i + 1] = depth[parent] + 1;
        sequence->n_proposal = i + 1;
        sequence->proposal[i] = (pico_proposal){.token = (int32_t)(next_random(s) % s->n_vocab),
                                                .parent = (int32_t)parent - 1};
        if (n_child[parent]++ != 0) {
            continue;
        }
        sequence->proposal[i] =
            (pico_proposal){.token = s->host->sampling->draw(sequence->sampling, &dist,
                                                             depth[parent], PICO_RANDOM_DRAFT),
                            .parent = (int32_t)parent - 1,
                            .q_begin = sequence->n_q,
                            .q_count = width};
        for (uint32_t j = 0; j < width; j++) {
            sequence->q_token[sequence->n_q] = token[j];
            sequence->q_p[sequence->n_q++] = s->options.q == Q_WRONG ? 1.0 / width : p[j];
        }
    }
}

static pico_status propose(void *self, pico_sequence *sequences, uint32_t n, pico_error *err) {
    scripted *s = self;
    (void)err;
    for (uint32_t i = 0; i < n; i++) {
        pico_sequence *sequence = &sequences[i];
        uint32_t want = (uint32_t)s->options.draft_n;
        uint32_t count = want < sequence->room ? want : sequence->room;
        if (s->options.q != Q_NONE) {
            draft_from_q(s, sequence, count);
        } else if (s->options.shape == SHAPE_TREE) {
            draft_tree(s, sequence, count);
        } else {
            draft_chain(s, sequence, count);
        }
        s->n_proposed += sequence->n_proposal;
    }
    return PICO_OK;
}

static pico_status observe(void *self, const pico_outcome *outcomes, uint32_t n,
                           const pico_tensor *hidden, pico_error *err) {
    (void)self, (void)outcomes, (void)n, (void)hidden, (void)err;
    return PICO_OK;
}

static pico_status stats(void *self, pico_decoder_stats *out) {
    const scripted *s = self;
    out->n_proposed = s->n_proposed;
    return PICO_OK;
}

static const pico_decoder_ops ops = {.struct_size = sizeof(pico_decoder_ops),
                                     .begin = begin,
                                     .propose = propose,
                                     .observe = observe,
                                     .end = end,
                                     .begin_sequence = begin_sequence,
                                     .end_sequence = end_sequence,
                                     .stats = stats};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = 1,
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_DECODER,
                                   .name = "scripted",
                                   .version = "0.1.0",
                                   .summary = "for tests: drafts of a known quality",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(scripted_options),
                                   .create = create,
                                   .destroy = destroy,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
