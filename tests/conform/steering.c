/*
 * Decoders that steer: whatever hypotheses they are shown, their answer is possible, and the same
 * whenever they are shown the same, whatever they saw in between.
 */
#include "conform/kit.h"

#include <math.h>

enum { N_ROUND = 60, MAX_LENGTH = 12 };

/* A round made up, with room for what it points to. */
typedef struct made_round {
    pico_advance round;
    pico_hypothesis hypothesis[PICO_BEAM_MAX];
    double ended[PICO_BEAM_MAX];
    int32_t token[PICO_BEAM_MAX][MAX_LENGTH];
    pico_continuation *continuation; /* (n_beam, n_continuation) */
    pico_extension extension[2 * PICO_BEAM_MAX];
} made_round;

static int32_t below(conform *c, uint32_t n) {
    return (int32_t)rig_below(&c->random, n);
}

/* Lists of continuations with falling probabilities, some of which end; scores of the ended. */
static void make_round(conform *c, const pico_decoder_need *need, made_round *out) {
    uint32_t n_new = 1 + (uint32_t)below(c, MAX_LENGTH - 4);
    uint32_t n_live = n_new == 1 ? 1 : 1 + (uint32_t)below(c, need->n_beam);
    pico_continuation *list = out->continuation;
    memset(out, 0, sizeof *out);
    out->continuation = list;
    for (uint32_t i = 0; i < n_live; i++, list += need->n_continuation) {
        uint32_t n = 1 + (uint32_t)below(c, need->n_continuation);
        double log_p = 0, score = n_new == 1 ? 0 : -10 * rig_uniform(&c->random);
        for (uint32_t k = 0; k < MAX_LENGTH; k++) {
            out->token[i][k] = below(c, 50);
        }
        for (uint32_t k = 0; k < n; k++) {
            log_p -= rig_uniform(&c->random);
            list[k] =
                (pico_continuation){.token = (int32_t)k, .ends = below(c, 5) == 0, .log_p = log_p};
        }
        out->hypothesis[i] = (pico_hypothesis){.token = out->token[i],
                                               .n_token = 2 + n_new,
                                               .n_continuation = n,
                                               .continuation = list,
                                               .score = score};
    }
    out->round = (pico_advance){.struct_size = sizeof out->round,
                                .slot = (uint32_t)below(c, 3),
                                .n_prompt = 3,
                                .n_new = n_new,
                                .max_new = n_new + (uint32_t)below(c, 3) * 4,
                                .n_hypothesis = n_live,
                                .hypothesis = out->hypothesis,
                                .ended = out->ended,
                                .n_ended = n_new == 1 ? 0 : (uint32_t)below(c, need->n_beam + 1),
                                .capacity = 2 * need->n_beam,
                                .extension = out->extension};
    for (uint32_t i = 0; i < out->round.n_ended; i++) {
        out->ended[i] = (i == 0 ? 0 : out->ended[i - 1]) - rig_uniform(&c->random);
    }
}

static void check_answer(conform *c, const pico_decoder_need *need, const pico_advance *round) {
    uint32_t n_on = 0, n_over = round->n_ended;
    CHECK(c, round->n_extension <= round->capacity, "%u extensions, room for %u",
          round->n_extension, round->capacity);
    for (uint32_t i = 0; i < round->n_extension; i++) {
        const pico_extension *e = &round->extension[i];
        CHECK(c,
              e->parent < round->n_hypothesis &&
                  e->continuation < round->hypothesis[e->parent].n_continuation,
              "extension %u is of hypothesis %u, continuation %u, which is not there", i, e->parent,
              e->continuation);
        CHECK(c, isfinite(e->score), "extension %u has the score %g", i, e->score);
        for (uint32_t j = 0; j < i; j++) {
            CHECK(c,
                  round->extension[j].parent != e->parent ||
                      round->extension[j].continuation != e->continuation,
                  "extensions %u and %u are the same", j, i);
        }
        int over = round->n_new == round->max_new ||
                   round->hypothesis[e->parent].continuation[e->continuation].ends;
        n_on += !over;
        n_over += over != 0;
    }
    CHECK(c, n_on <= need->n_beam, "%u hypotheses go on, at most %u can", n_on, need->n_beam);
    CHECK(c, n_over != 0 || (n_on != 0 && !round->done),
          "the sequence is over, and no hypothesis has ended");
}

/* Rounds with random content, shown twice, the second time in the other order. */
static void advance_is_pure(conform *c) {
    rig r;
    pico_model *model = NULL;
    const tiny_model tiny = {.family = "llama",
                             .n_layer = 1,
                             .n_head = 1,
                             .n_kv_head = 1,
                             .head_dim = 8,
                             .n_ff = 16,
                             .n_vocab = 50,
                             .n_ctx = 64,
                             .seed = 5};
    pico_decoder_need need = {.struct_size = sizeof need, .max_positions = 64};
    conform_rig(c, &r, NULL);
    CHECK_OK(c, tiny_model_open(&r, &tiny, PICO_DTYPE_F32, &model, error), "opening a model");
    const pico_decoder_ops *ops = &r.decoder.loaded->ops.decoder;
    void *self = r.decoder.self;
    pico_error why = {0};
    if (ops->begin(self, model, 3, &need, &why) != PICO_OK) {
        conform_skip(c, "%s", why.message);
    }
    if (need.n_beam == 0) {
        ops->end(self);
        conform_skip(c, "it does not steer");
    }
    CHECK(c, ops->advance != NULL, "begin asks for %u hypotheses, and advance is NULL",
          need.n_beam);
    CHECK(c, need.n_beam <= PICO_BEAM_MAX && need.max_proposals == 0 && need.n_continuation != 0,
          "begin asks for %u hypotheses, %u continuations and %u proposals", need.n_beam,
          need.n_continuation, need.max_proposals);
    made_round *rounds = conform_alloc(c, N_ROUND, sizeof *rounds);
    for (uint32_t i = 0; i < N_ROUND; i++) {
        rounds[i].continuation =
            conform_alloc(c, (size_t)need.n_beam * need.n_continuation, sizeof(pico_continuation));
        make_round(c, &need, &rounds[i]);
        CHECK_OK(c, ops->advance(self, &rounds[i].round, error), "advance");
        check_answer(c, &need, &rounds[i].round);
    }
    for (uint32_t i = N_ROUND; i-- > 0;) {
        pico_extension extension[2 * PICO_BEAM_MAX] = {{0}};
        pico_advance again = rounds[i].round;
        again.extension = extension;
        again.n_extension = again.done = 0;
        CHECK_OK(c, ops->advance(self, &again, error), "advance");
        CHECK(c,
              again.n_extension == rounds[i].round.n_extension &&
                  again.done == rounds[i].round.done,
              "shown the same again, it answers with %u extensions and done %u, before %u and %u",
              again.n_extension, again.done, rounds[i].round.n_extension, rounds[i].round.done);
        for (uint32_t e = 0; e < again.n_extension; e++) {
            const pico_extension *x = &extension[e], *y = &rounds[i].extension[e];
            CHECK(c,
                  x->parent == y->parent && x->continuation == y->continuation &&
                      x->score == y->score,
                  "shown the same again, extension %u differs", e);
        }
    }
    ops->end(self);
    pico_model_close(model);
    rig_close(&r);
}

const conform_test conform_steering[] = {{"decoder/advance_is_pure", advance_is_pure},
                                         {NULL, NULL}};
