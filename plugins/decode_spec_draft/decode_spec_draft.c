/*
 * Drafts from the target's own heads: from the hidden row that the newest token was predicted from,
 * the draft head or the multi-token heads (mtp.2, mtp.3, ...) say what comes after that token. A draft
 * head that reads tokens is told the newest one; of another one, slot 0 is the newest token's own place
 * and is not used. No second model, no KV cache: one small product a round for all sequences together.
 * Each place is drawn without knowing the drafts before it, so acceptance falls with the distance;
 * where rows are cheap, a tree of several candidates a place gets further. A draft head may know some
 * tokens only: then the others are never proposed. Models without such heads are refused.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "spec_draft.h"

enum { HEADS_AUTO = 0, HEADS_MTP = 1, HEADS_DRAFT = 2 };

static const char *const heads_words[] = {"auto", "mtp", "draft", NULL};

static const pico_option options[] = {
    {.name = "heads",
     .type = PICO_OPT_ENUM,
     .offset = offsetof(draft_options, heads),
     .def = "auto",
     .choices = heads_words,
     .help =
         "which heads draft: the multi-token heads, the draft head; auto: those that there are, "
         "the multi-token heads first"},
    {.name = "branch",
     .type = PICO_OPT_INT,
     .offset = offsetof(draft_options, branch),
     .def = "1",
     .min = 1,
     .max = MOST_BRANCHES,
     .unit = "tokens",
     .help =
         "most candidates for each place; 1: a chain of drafts; more: a tree, which takes as many "
         "drafts as draft_n says"},
    {.name = "p_min",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(draft_options, p_min),
     .def = "0",
     .min = 0,
     .max = 1,
     .help =
         "no draft is made whose path, from the newest token on, is less probable than this by the "
         "heads, at temperature 1; 0: never"},
};

/* ---- life ---- */

static pico_status create(const pico_host *host, const void *bound, void **self, pico_error *err) {
    spec_draft *me = calloc(1, sizeof *me);
    if (me == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    me->host = host;
    me->options = *(const draft_options *)bound;
    *self = me;
    return PICO_OK;
}

static void end(void *self) {
    spec_draft *me = self;
    if (me->memory != NULL) {
        me->device->buffer_free(me->device_self, me->memory);
    }
    free(me->length);
    free(me->has);
    free(me->newest);
    free(me->place);
    free(me->n_place);
    free(me->row);
    free(me->dist.token);
    free(me->dist.p);
    me->memory = NULL;
    me->length = me->has = me->n_place = NULL;
    me->newest = NULL;
    me->place = NULL;
    me->row = NULL;
    me->dist = (pico_dist){0};
}

static void destroy(void *self) {
    if (self != NULL) {
        end(self);
        free(self);
    }
}

static int is_draft_head(const pico_head_info *info) {
    return strcmp(info->name, "draft") == 0;
}

/* Multi-token heads for places 2, 3, ... without a gap; their logits are over all tokens. */
static uint32_t find_mtp(spec_draft *me) {
    uint32_t n = 0, count = me->host->heads->count(me->target);
    for (uint32_t i = 0; i < count && n < MOST_HEADS; i++) {
        pico_head_info info = {0};
        if (me->host->heads->info(me->target, i, &info) == PICO_OK && !is_draft_head(&info) &&
            info.n_slot == 1 && info.offset == n + 2 && info.n_vocab == me->n_vocab &&
            info.vocab_map == NULL) {
            me->head[n++] = i;
        }
    }
    me->n_slot = 1;
    me->first_slot = 0;
    me->reads_token = 0;
    me->n_head = me->n_draft = n;
    me->n_known = me->n_vocab;
    me->known = NULL;
    return n;
}

static uint32_t find_draft(spec_draft *me) {
    const uint32_t count = me->host->heads->count(me->target);
    const uint32_t flags = me->host->model_desc(me->target)->draft_flags;
    for (uint32_t i = 0; i < count; i++) {
        pico_head_info info = {0};
        if (me->host->heads->info(me->target, i, &info) != PICO_OK || !is_draft_head(&info) ||
            (info.vocab_map == NULL && info.n_vocab != me->n_vocab)) {
            continue;
        }
        me->head[0] = i;
        me->n_known = info.n_vocab;
        me->known = info.vocab_map;
        me->n_head = 1;
        me->n_slot = info.n_slot;
        me->reads_token = (flags & PICO_DRAFT_READS_TOKEN) != 0;
        me->first_slot = 2 - info.offset;
        me->n_draft = info.n_slot - me->first_slot;
        return me->n_draft;
    }
    return 0;
}

static pico_status find_heads(spec_draft *me, pico_error *err) {
    uint32_t want = me->options.heads;
    if ((want != HEADS_DRAFT && find_mtp(me) != 0) || (want != HEADS_MTP && find_draft(me) != 0)) {
        if (me->n_draft > PICO_DECODE_ROWS_MAX - 1) {
            me->n_draft = PICO_DECODE_ROWS_MAX - 1;
        }
        return PICO_OK;
    }
    return pico_fail(err, PICO_E_UNSUPPORTED,
                     "the model has no %s that could draft; use a model that "
                     "was trained with one, or decoder spec_model or spec_lookup",
                     want == HEADS_MTP     ? "multi-token heads"
                     : want == HEADS_DRAFT ? "draft head"
                                           : "multi-token or draft heads");
}

static pico_tensor view(pico_buffer *buffer, uint64_t word, uint32_t rows, uint64_t cols) {
    return (pico_tensor){.buffer = buffer,
                         .offset = word * 4,
                         .dtype = PICO_DTYPE_F32,
                         .rank = 2,
                         .shape = {rows, (int64_t)cols, 1, 1},
                         .stride = {(int64_t)cols, 1, 1, 1}};
}

/* What a run needs; end frees what there is. */
static pico_status open_memory(spec_draft *me, pico_error *err) {
    uint32_t n = me->n_slots;
    uint64_t hidden = ((uint64_t)n * me->n_embd + 15) & ~(uint64_t)15;
    uint64_t width = (uint64_t)me->n_slot * me->n_known, ids = (n + 15u) & ~(uint64_t)15;
    me->length = calloc(n + 1u, sizeof *me->length);
    me->has = calloc(n + 1u, sizeof *me->has);
    me->newest = calloc(n + 1u, sizeof *me->newest);
    me->place = calloc((size_t)n * me->n_draft + 1u, sizeof *me->place);
    me->n_place = calloc(n + 1u, sizeof *me->n_place);
    me->row = calloc(me->n_vocab + 1u, sizeof *me->row);
    me->dist = (pico_dist){.capacity = me->n_vocab,
                           .token = calloc(me->n_vocab + 1u, sizeof *me->dist.token),
                           .p = calloc(me->n_vocab + 1u, sizeof *me->dist.p)};
    if (me->length == NULL || me->has == NULL || me->newest == NULL || me->place == NULL ||
        me->n_place == NULL || me->row == NULL || me->dist.token == NULL || me->dist.p == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    pico_status status = me->device->buffer_alloc(
        me->device_self, (2 * hidden + ids + n * width) * 4, &me->memory, err);
    if (status == PICO_OK) {
        me->hidden = view(me->memory, 0, n, me->n_embd);
        me->input = view(me->memory, hidden, n, me->n_embd);
        me->token = (pico_tensor){.buffer = me->memory,
                                  .offset = 2 * hidden * 4,
                                  .dtype = PICO_DTYPE_I32,
                                  .rank = 1,
                                  .shape = {n, 1, 1, 1},
                                  .stride = {1, 1, 1, 1}};
        me->logits = view(me->memory, 2 * hidden + ids, n, width);
    }
    return status;
}

static pico_status begin(void *self, const pico_model *target, uint32_t n_slots,
                         pico_decoder_need *out, pico_error *err) {
    spec_draft *me = self;
    const pico_model_desc *desc = me->host->model_desc(target);
    end(self);
    me->target = target;
    me->device = me->host->backend(me->host->ctx, &me->device_self);
    me->n_slots = n_slots;
    me->n_vocab = desc->n_vocab;
    me->n_embd = desc->n_embd;
    me->accept = out->accept;
    me->n_branch = (uint32_t)me->options.branch;
    pico_status status = find_heads(me, err);
    if (status != PICO_OK) {
        return status;
    }
    status = open_memory(me, err);
    if (status != PICO_OK) {
        end(self);
        return status;
    }
    out->max_proposals = spec_draft_most(me->n_draft, me->n_branch);
    out->want_hidden = 1;
    out->want_q = me->accept == PICO_ACCEPT_REJECTION;
    return PICO_OK;
}

static pico_status begin_sequence(void *self, const pico_sequence *sequence, pico_error *err) {
    spec_draft *me = self;
    (void)err;
    me->length[sequence->slot] = sequence->n_token;
    me->has[sequence->slot] = 0;
    return PICO_OK;
}

/* ---- drafts ---- */

static int can_draft(const spec_draft *me, const pico_sequence *sequence) {
    return sequence->room != 0 && me->has[sequence->slot] == sequence->n_token;
}

/* The hidden rows of the sequences that can draft, one after the other, and their newest tokens.
 * *n_rows gets their number. */
static pico_status gather(spec_draft *me, const pico_sequence *sequences, uint32_t n,
                          uint32_t *n_rows) {
    uint64_t bytes = (uint64_t)me->n_embd * 4;
    pico_status status = PICO_OK;
    *n_rows = 0;
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        if (can_draft(me, &sequences[i])) {
            me->newest[*n_rows] = sequences[i].token[sequences[i].n_token - 1];
            status = me->device->buffer_copy(me->device_self, me->memory,
                                             me->input.offset + bytes * (*n_rows)++, me->memory,
                                             me->hidden.offset + bytes * sequences[i].slot, bytes);
        }
    }
    if (status == PICO_OK && me->reads_token && *n_rows != 0) {
        status = me->device->buffer_write(me->device_self, me->memory, me->token.offset, me->newest,
                                          *n_rows * sizeof *me->newest);
    }
    return status;
}

/* One head for all sequences, and the candidates that it gives. */
static pico_status use_head(spec_draft *me, uint32_t head, pico_sequence *sequences, uint32_t n,
                            uint32_t n_rows, pico_error *err) {
    pico_tensor input = me->input, token = me->token, logits = me->logits;
    uint64_t row_bytes = (uint64_t)me->n_known * 4;
    uint32_t r = 0;
    input.shape[0] = token.shape[0] = logits.shape[0] = n_rows;
    pico_status status = me->host->heads->apply_after(me->target, head, &input, &token, &logits);
    if (status != PICO_OK) {
        return pico_fail(err, status, "the backend cannot apply head %u", head);
    }
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        pico_sequence *sequence = &sequences[i];
        if (!can_draft(me, sequence)) {
            continue;
        }
        for (uint32_t s = me->first_slot; status == PICO_OK && s < me->n_slot; s++) {
            const uint32_t n_place = me->n_place[sequence->slot];
            if (n_place == sequence->room || n_place == me->n_draft ||
                spec_draft_is_hopeless(me, sequence)) {
                break;
            }
            uint64_t at = logits.offset + ((uint64_t)r * me->n_slot + s) * row_bytes;
            status =
                me->device->buffer_read(me->device_self, me->memory, at, me->row, row_bytes, err);
            if (status == PICO_OK) {
                status = spec_draft_add_place(me, sequence, err);
            }
        }
        r++;
    }
    return status;
}

static pico_status propose(void *self, pico_sequence *sequences, uint32_t n, pico_error *err) {
    spec_draft *me = self;
    uint32_t n_rows = 0, most = 0;
    pico_status status = gather(me, sequences, n, &n_rows);
    if (status != PICO_OK) {
        return pico_fail(err, status, "the backend cannot copy hidden rows and tokens");
    }
    for (uint32_t i = 0; i < n; i++) {
        most = can_draft(me, &sequences[i]) && sequences[i].room > most ? sequences[i].room : most;
        me->n_place[sequences[i].slot] = 0;
    }
    for (uint32_t h = 0; status == PICO_OK && n_rows != 0 && h < me->n_head; h++) {
        if (h < most) {
            status = use_head(me, me->head[h], sequences, n, n_rows, err);
        }
    }
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        spec_draft_grow(me, &sequences[i]);
    }
    return status;
}

/* Keeps the row from which each sequence's newest token was predicted. */
static pico_status observe(void *self, const pico_outcome *outcomes, uint32_t n,
                           const pico_tensor *hidden, pico_error *err) {
    spec_draft *me = self;
    uint64_t bytes = (uint64_t)me->n_embd * 4;
    for (uint32_t i = 0; i < n; i++) {
        me->length[outcomes[i].slot] += outcomes[i].n_token;
        me->has[outcomes[i].slot] = 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        const pico_outcome *outcome = &outcomes[i];
        if (outcome->finished) {
            continue;
        }
        uint32_t row = outcome->hidden_row[outcome->n_token - 1];
        uint64_t from = hidden->offset + (uint64_t)row * (uint64_t)hidden->stride[0] * 4;
        pico_status status = me->device->buffer_copy(me->device_self, me->memory,
                                                     me->hidden.offset + bytes * outcome->slot,
                                                     hidden->buffer, from, bytes);
        if (status != PICO_OK) {
            return pico_fail(err, status, "the backend cannot copy hidden rows");
        }
        me->has[outcome->slot] = me->length[outcome->slot];
    }
    return PICO_OK;
}

static pico_status stats(void *self, pico_decoder_stats *out) {
    out->n_proposed = ((const spec_draft *)self)->n_proposed;
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
                                   .abi_minor = 10, /* heads->apply_after */
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_DECODER,
                                   .name = "spec_draft",
                                   .version = "0.1.0",
                                   .summary = "drafts from the target's own extra heads",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(draft_options),
                                   .create = create,
                                   .destroy = destroy,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
