/* layers: transform */
/*
 * What the decode loop asks of a decoder that steers the search: impossible answers and needs are
 * refused and leave the search where it was; decoders from before there was an advance still load.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "decode_kit.h"

typedef struct rogue {
    uint32_t what, n_beam, n_continuation, max_proposals, n_begun, n_ended;
} rogue;

enum {
    ROGUE_NONE,
    ROGUE_PARENT,
    ROGUE_CONTINUATION,
    ROGUE_SCORE,
    ROGUE_TWICE,
    ROGUE_TOO_MANY,
    ROGUE_ROOM,
    ROGUE_NOTHING,
    ROGUE_DONE,
    ROGUE_FAILS
};

static pico_status rogue_begin(void *self, const pico_model *target, uint32_t n_slots,
                               pico_decoder_need *out, pico_error *err) {
    const rogue *r = self;
    (void)target, (void)n_slots, (void)err;
    out->n_beam = r->n_beam;
    out->n_continuation = r->n_continuation;
    out->max_proposals = r->max_proposals;
    return PICO_OK;
}

static pico_status rogue_propose(void *self, pico_sequence *sequences, uint32_t n,
                                 pico_error *err) {
    (void)self, (void)sequences, (void)n;
    return pico_fail(err, PICO_E_INVALID, "rogue: it steers");
}

static pico_status rogue_observe(void *self, const pico_outcome *outcomes, uint32_t n,
                                 const pico_tensor *hidden, pico_error *err) {
    (void)self, (void)outcomes, (void)n, (void)hidden;
    return pico_fail(err, PICO_E_INVALID, "rogue: it steers");
}

static void rogue_end(void *self) {
    (void)self;
}

static pico_status rogue_begin_sequence(void *self, const pico_sequence *sequence,
                                        pico_error *err) {
    (void)err;
    assert_int_equal(sequence->slot, 1);
    ((rogue *)self)->n_begun++;
    return PICO_OK;
}

static void rogue_end_sequence(void *self, uint32_t slot) {
    assert_int_equal(slot, 1);
    ((rogue *)self)->n_ended++;
}

/* Both hypotheses go on with their best tokens, unless told otherwise. */
static pico_status rogue_advance(void *self, pico_advance *round, pico_error *err) {
    const rogue *r = self;
    assert_int_equal(round->struct_size, sizeof *round);
    assert_int_equal(round->slot, 1);
    assert_int_equal(round->capacity, 4);
    assert_int_equal(round->n_extension, 0);
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t parent = round->n_hypothesis == 1 ? 0 : i;
        const pico_hypothesis *h = &round->hypothesis[parent];
        assert_int_equal(h->n_token, round->n_prompt + round->n_new - 1);
        assert_true(h->n_continuation == 3 && h->continuation[0].log_p >= h->continuation[2].log_p);
        round->extension[i] = (pico_extension){
            .parent = parent, .continuation = parent == i ? 0 : 1, .score = -(double)i};
    }
    round->n_extension = 2;
    switch (r->what) {
    case ROGUE_PARENT:
        round->extension[1].parent = round->n_hypothesis;
        break;
    case ROGUE_CONTINUATION:
        round->extension[1].continuation = 3;
        break;
    case ROGUE_SCORE:
        round->extension[1].score = (double)NAN;
        break;
    case ROGUE_TWICE:
        round->extension[1] = round->extension[0];
        break;
    case ROGUE_TOO_MANY:
        round->extension[2] = (pico_extension){.parent = 0, .continuation = 2, .score = -3};
        round->n_extension = 3;
        break;
    case ROGUE_ROOM:
        round->n_extension = 5;
        break;
    case ROGUE_NOTHING:
        round->n_extension = 0;
        break;
    case ROGUE_DONE:
        round->done = 1;
        break;
    case ROGUE_FAILS:
        return pico_fail(err, PICO_E_DEVICE, "rogue: cannot advance");
    default:
        break;
    }
    return PICO_OK;
}

static const pico_decoder_ops rogue_ops = {.struct_size = sizeof(pico_decoder_ops),
                                           .begin = rogue_begin,
                                           .propose = rogue_propose,
                                           .observe = rogue_observe,
                                           .end = rogue_end,
                                           .begin_sequence = rogue_begin_sequence,
                                           .end_sequence = rogue_end_sequence,
                                           .advance = rogue_advance};

static void impossible_answers_are_refused(void **state) {
    static dk_result plain, got;
    int32_t prompt[6];
    rogue r = {.n_beam = 2, .n_continuation = 3};
    dk d;
    dk_options options = {.model = 0, .decoder_ops = &rogue_ops, .decoder_self = &r};
    options.params.n_slots = 2;
    dk_open(&d, *state, &options);
    dk_prompt(1, d.n_vocab, 6, prompt);
    pico_request request = {.prompt = prompt, .n_prompt = 6, .max_tokens = 12};
    dk_start(&d, 1, &request);
    dk_run(&d);
    dk_take(&d, 1, &plain);
    assert_int_equal(plain.n, 18);
    for (uint32_t what = ROGUE_PARENT; what <= ROGUE_FAILS; what++) {
        for (uint32_t rounds = 0; rounds < 3; rounds += 2) {
            uint32_t live = 0;
            pico_error err = {0};
            dk_start(&d, 1, &request);
            r.what = ROGUE_NONE;
            for (uint32_t i = 0; i < rounds; i++) {
                assert_int_equal(pico_decode_round(d.decode, &live, NULL), PICO_OK);
            }
            r.what = what;
            uint32_t before = pico_decode_slot(d.decode, 1).n_token;
            pico_status status = pico_decode_round(d.decode, &live, &err);
            if (status == PICO_OK || err.message[0] == '\0') {
                fail_msg("fault %u of a decoder that steers was accepted", what);
            }
            assert_int_equal(status, what == ROGUE_FAILS ? PICO_E_DEVICE : PICO_E_ABI);
            assert_int_equal(pico_decode_slot(d.decode, 1).n_token, before);
            r.what = ROGUE_NONE;
            dk_run(&d);
            dk_take(&d, 1, &got);
            dk_same(&plain, &got, "after an impossible answer");
        }
    }
    assert_int_equal(r.n_begun, r.n_ended);
    dk_close(&d);
}

/* What begin may ask for, and what cannot be combined with steering. */
static void impossible_needs_are_refused(void **state) {
    static const struct {
        rogue r;
        int no_advance;
        uint32_t max_timeline;
        pico_status status;
    } needs[] = {{{.n_beam = 33, .n_continuation = 3}, 0, 0, PICO_E_ABI},
                 {{.n_beam = 2, .n_continuation = 0}, 0, 0, PICO_E_ABI},
                 {{.n_beam = 2, .n_continuation = 3, .max_proposals = 1}, 0, 0, PICO_E_ABI},
                 {{.n_beam = 2, .n_continuation = 3}, 1, 0, PICO_E_ABI},
                 {{.n_beam = 2, .n_continuation = 3}, 0, 400, PICO_E_UNSUPPORTED},
                 {{.n_beam = 32, .n_continuation = UINT32_MAX}, 0, 0, PICO_OK}};
    dk d;
    dk_options options = {.model = 2};
    dk_open(&d, *state, &options);
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
        pico_decode *decode = NULL;
        pico_error err = {0};
        rogue r = needs[i].r;
        pico_decoder_ops ops = rogue_ops;
        ops.advance = needs[i].no_advance ? NULL : ops.advance;
        pico_decode_params params = {.sampler = &d.rig.sampler.loaded->ops.sampler,
                                     .sampler_self = d.rig.sampler.self,
                                     .decoder = &ops,
                                     .decoder_self = &r,
                                     .n_slots = 1,
                                     .ubatch = 16,
                                     .max_timeline = needs[i].max_timeline,
                                     .repetition = 1};
        pico_status status = pico_decode_open(d.model, &params, &decode, &err);
        if (status != needs[i].status) {
            fail_msg("need %zu: status %d, expected %d", i, status, needs[i].status);
        }
        assert_true(status == PICO_OK || err.message[0] != '\0');
        pico_decode_close(decode);
    }
    dk_close(&d);
}

/* A plugin of the minor version that had no advance: the tail of its table counts as absent, and it
 * decodes as ever. */
static void an_older_decoder_still_loads(void **state) {
    static dk_result want, got;
    int32_t prompt[6];
    dk d;
    for (int older = 0; older < 2; older++) {
        dk_options options = {.decoder =
                                  older ? PICO_BUILD_DIR "/tests/plugins/decode_older.so" : NULL};
        dk_open(&d, *state, &options);
        const pico_loaded *loaded = d.rig.decoder.loaded;
        assert_int_equal(loaded->plugin.abi_minor, 1);
        assert_null(loaded->ops.decoder.advance);
        dk_prompt(1, d.n_vocab, 6, prompt);
        pico_request request = {.prompt = prompt, .n_prompt = 6, .max_tokens = 20, .seed = 3};
        dk_start(&d, 0, &request);
        dk_run(&d);
        dk_take(&d, 0, older ? &got : &want);
        assert_int_equal(pico_decode_n_best(d.decode, 0), 0);
        dk_close(&d);
    }
    dk_same(&want, &got, "a decoder of minor version 1");
}

int main(void) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(impossible_answers_are_refused),
        cmocka_unit_test(impossible_needs_are_refused),
        cmocka_unit_test(an_older_decoder_still_loads),
    };
    return KIT_RUN("decode_steering", tests);
}
