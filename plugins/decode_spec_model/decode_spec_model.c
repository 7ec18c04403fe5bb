/*
 * Drafts from a second model with the same tokenizer, which is smaller or quantised more. Its drafts
 * are drawn as the target would draw, with the target's sampler, penalties and random numbers, so
 * that the more alike the models are, the more of them are right. It refuses models whose tokens
 * differ; it never changes what a text says.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "spec_model.h"

enum { CHUNK_ROWS = 512 }; /* of a prompt that go into one forward of the draft model */

static const pico_option options[] = {
    {.name = "draft_model",
     .type = PICO_OPT_PATH,
     .flags = PICO_OPTF_REQUIRED,
     .offset = offsetof(spec_options, draft_model),
     .help = "file of the model that drafts; it has the tokenizer of the model that it drafts for"},
    {.name = "p_min",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(spec_options, p_min),
     .def = "0",
     .min = 0,
     .max = 1,
     .help =
         "drafting ends where the draft model gives its best token a probability below this, at "
         "temperature 1; 0: never"},
};

/* ---- life ---- */

static pico_status create(const pico_host *host, const void *bound, void **self, pico_error *err) {
    spec_model *me = calloc(1, sizeof *me);
    if (me == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    me->host = host;
    me->options = *(const spec_options *)bound;
    me->path = strdup(me->options.draft_model);
    if (me->path == NULL) {
        free(me);
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    *self = me;
    return PICO_OK;
}

static void end(void *self) {
    spec_model *me = self;
    if (me->session != NULL) {
        me->host->session->close(me->session);
    }
    free(me->lane);
    free(me->held);
    free(me->row);
    free(me->row_lane);
    free(me->logits);
    free(me->dist.token);
    free(me->dist.p);
    me->session = NULL;
    me->lane = NULL;
    me->held = NULL;
    me->row = NULL;
    me->row_lane = NULL;
    me->logits = NULL;
    me->dist = (pico_dist){0};
}

static void destroy(void *self) {
    spec_model *me = self;
    if (me != NULL) {
        end(self);
        if (me->draft != NULL) {
            me->host->model_close(me->draft);
        }
        free(me->path);
        free(me);
    }
}

static uint32_t min2(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* How far a lane reaches: as far as the timelines, unless positions are learned, and it sees as much
 * as the target, unless the draft model was trained on less. */
static void size_lanes(spec_model *me, const pico_model *target, const pico_decoder_need *need) {
    const pico_model_desc *desc = me->host->model_desc(me->draft);
    const pico_model_desc *of_target = me->host->model_desc(target);
    uint32_t trained = desc->n_ctx_train;
    me->max_token = need->max_positions != 0 ? need->max_positions : of_target->n_ctx_train;
    me->capacity = me->max_token;
    me->window = need->window_limit;
    if (desc->pos == PICO_POS_LEARNED) {
        me->capacity = min2(me->capacity, trained);
    } else if (trained < of_target->n_ctx_train && trained < me->max_token) {
        me->window = me->window == 0 ? trained : min2(me->window, trained);
    }
    me->max_token += PICO_DECODE_ROWS_MAX; /* the newest token, and drafts */
}

static pico_status open_lanes(spec_model *me, pico_error *err) {
    size_t n = me->n_slots, tokens = (size_t)me->max_token + 1;
    me->lane = calloc(n + 1, sizeof *me->lane);
    me->held = tokens <= SIZE_MAX / sizeof *me->held / (n + 1)
                   ? calloc(n * tokens + 1, sizeof *me->held)
                   : NULL;
    me->row = calloc(me->max_rows, sizeof *me->row);
    me->row_lane = calloc(n + 1, sizeof *me->row_lane);
    me->logits = calloc(me->n_vocab + 1u, sizeof *me->logits);
    me->dist = (pico_dist){.capacity = me->n_vocab,
                           .token = calloc(me->n_vocab + 1u, sizeof *me->dist.token),
                           .p = calloc(me->n_vocab + 1u, sizeof *me->dist.p)};
    if (me->lane == NULL || me->held == NULL || me->row == NULL || me->row_lane == NULL ||
        me->logits == NULL || me->dist.token == NULL || me->dist.p == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    for (size_t s = 0; s < n; s++) {
        me->lane[s].held = me->held + s * tokens;
    }
    const pico_session_want want = {.struct_size = sizeof want,
                                    .n_slots = me->n_slots,
                                    .max_positions = me->capacity,
                                    .window_limit = me->window,
                                    .max_rows = me->max_rows,
                                    .max_logit_rows = me->n_slots};
    return me->host->session->open_with(me->draft, &want, &me->session, err);
}

static pico_status begin(void *self, const pico_model *target, uint32_t n_slots,
                         pico_decoder_need *out, pico_error *err) {
    spec_model *me = self;
    pico_status status = PICO_OK;
    end(self);
    me->device = me->host->backend(me->host->ctx, &me->device_self);
    if (me->draft == NULL) {
        status = me->host->model_open(me->host->ctx, me->path, &me->draft, err);
    }
    if (status == PICO_OK) {
        status = spec_compare_tokens(me, target, err);
    }
    if (status == PICO_OK) {
        me->n_slots = n_slots;
        me->n_vocab = me->host->model_desc(target)->n_vocab;
        me->max_rows = n_slots > CHUNK_ROWS ? n_slots : CHUNK_ROWS;
        me->accept = out->accept;
        size_lanes(me, target, out);
        status = open_lanes(me, err);
    }
    if (status != PICO_OK) {
        end(self);
        return status;
    }
    out->max_proposals = PICO_DECODE_ROWS_MAX - 1;
    out->want_q = me->accept == PICO_ACCEPT_REJECTION;
    return PICO_OK;
}

/* The lane may hold the beginning of the new timeline: a conversation goes on, a prompt is used
 * again. What begins later than the text is of no use. */
static pico_status begin_sequence(void *self, const pico_sequence *sequence, pico_error *err) {
    spec_model *me = self;
    spec_lane *lane = &me->lane[sequence->slot];
    uint32_t before = lane->base;
    lane->checked = 0;
    lane->base = spec_base(me, sequence->n_token);
    if (before == 0 && lane->base == 0) {
        return PICO_OK;
    }
    return me->host->session->truncate(me->session, sequence->slot, 0, err);
}

/* ---- drafts ---- */

/* Draws from each output of the last forward. */
static pico_status draw_all(spec_model *me, pico_sequence *sequences, const pico_forward_out *out,
                            uint32_t n_out, pico_error *err) {
    pico_status status = PICO_OK;
    for (uint32_t r = 0; status == PICO_OK && r < n_out; r++) {
        status = spec_draw(me, &sequences[me->row_lane[r]], out, r, err);
    }
    return status;
}

static pico_status propose(void *self, pico_sequence *sequences, uint32_t n, pico_error *err) {
    spec_model *me = self;
    pico_forward_out out = {0};
    uint32_t n_left = 0, n_out = 0;
    pico_status status = PICO_OK;
    for (uint32_t i = 0; i < n; i++) {
        me->lane[sequences[i].slot].count = 0;
    }
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        spec_lane *lane = &me->lane[sequences[i].slot];
        if (sequences[i].room != 0) {
            status = spec_align(me, &sequences[i], err);
            n_left += lane->count != 0;
        }
    }
    while (status == PICO_OK && n_left != 0) {
        status = spec_catch_up(me, sequences, n, &out, &n_out, err);
        if (status == PICO_OK) {
            status = draw_all(me, sequences, &out, n_out, err);
        }
        n_left -= n_out;
    }
    do {
        if (status == PICO_OK) {
            status = spec_step(me, sequences, n, &out, &n_out, err);
        }
        if (status == PICO_OK) {
            status = draw_all(me, sequences, &out, n_out, err);
        }
    } while (status == PICO_OK && n_out != 0);
    if (status != PICO_OK) {
        spec_forget_round(me, sequences, n);
    }
    for (uint32_t i = 0; status == PICO_OK && i < n; i++) {
        spec_lane *lane = &me->lane[sequences[i].slot];
        lane->checked = sequences[i].room != 0 ? sequences[i].n_token : lane->checked;
    }
    return status;
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
    out->n_proposed = ((const spec_model *)self)->n_proposed;
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
                                   .abi_minor = 4,
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_DECODER,
                                   .name = "spec_model",
                                   .version = "0.1.0",
                                   .summary = "drafts from a second, smaller model",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(spec_options),
                                   .create = create,
                                   .destroy = destroy,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
