/*
 * Decoders: on small random models the text is the plain decoder's, at temperature 0 and above,
 * alone and side by side, up to the token where it ends, and after failures of the device. A decoder
 * that steers is compared with itself, running alone; see steering.c for more.
 */
#include "conform/kit.h"

enum { N_FAMILY = 4, MAX_TOKEN = 200, N_SLOT = 3 };

static const tiny_model families[N_FAMILY] = {
    {.family = "llama",
     .n_layer = 2,
     .n_head = 4,
     .n_kv_head = 2,
     .head_dim = 8,
     .n_ff = 40,
     .n_vocab = 53,
     .n_ctx = 160,
     .seed = 5},
    {.family = "gpt2",
     .n_layer = 2,
     .n_head = 2,
     .n_kv_head = 2,
     .head_dim = 8,
     .n_ff = 33,
     .n_vocab = 41,
     .n_ctx = 160,
     .seed = 6},
    {.family = "nanochat",
     .n_layer = 2,
     .n_head = 2,
     .n_kv_head = 2,
     .head_dim = 12,
     .n_ff = 48,
     .n_vocab = 50,
     .n_ctx = 160,
     .seed = 7},
    {.family = "nanochat-g2", /* with multi-token and draft heads */
     .n_layer = 2,
     .n_head = 2,
     .n_kv_head = 1,
     .head_dim = 12,
     .n_ff = 48,
     .n_vocab = 45,
     .n_ctx = 160,
     .seed = 8},
};

typedef struct loop {
    rig r;
    pico_model *model;
    pico_decode *decode;
    pico_tokenizer *tokenizer;
    pico_arena arena;
} loop;

typedef struct text {
    int32_t token[MAX_TOKEN];
    uint32_t n, finish;
    const char *by; /* whose it is, where it is what others must be */
} text;

/* plain 1: with decode_greedy instead of the plugin. Returns 0, with the reason, if the plugin
 * cannot work with this model. */
static int loop_open(conform *c, loop *l, uint32_t family, int plain, const char *sampling,
                     uint32_t accept, char why[512]) {
    conform as = *c;
    pico_vocab vocab;
    pico_error err = {0};
    memset(l, 0, sizeof *l);
    if (plain) {
        as.path = "greedy";
    }
    const char *set[CONFORM_SETTINGS + 2] = {0};
    memcpy(set, c->set, c->n_set * sizeof *set);
    set[c->n_set] = sampling;
    rig_setup setup = {.decoder = as.path, .sampler = "standard", .set = set, .n_threads = 2};
    CHECK(c, rig_open(&l->r, &setup, &err) == PICO_OK, "%s", err.message);
    CHECK_OK(c, tiny_model_open(&l->r, &families[family], PICO_DTYPE_F32, &l->model, error),
             "opening a model");
    CHECK_OK(c, tiny_vocab(families[family].n_vocab, &l->arena, &vocab, error), "a vocabulary");
    CHECK_OK(c, pico_tokenizer_open(&vocab, &l->tokenizer, error), "a tokenizer");
    pico_decode_params params = {.sampler = &l->r.sampler.loaded->ops.sampler,
                                 .sampler_self = l->r.sampler.self,
                                 .decoder = &l->r.decoder.loaded->ops.decoder,
                                 .decoder_self = l->r.decoder.self,
                                 .tokenizer = l->tokenizer,
                                 .n_slots = N_SLOT,
                                 .ubatch = 40,
                                 .accept = accept,
                                 .repetition = 1.05f,
                                 .max_positions = 150};
    pico_status status = pico_decode_open(l->model, &params, &l->decode, &err);
    if (status == PICO_E_UNSUPPORTED) {
        CHECK(c, err.message[0] != '\0', "begin refuses a model without a message");
        (void)snprintf(why, 512, "%s", err.message);
        return 0;
    }
    CHECK(c, status == PICO_OK, "opening the loop: %s", err.message);
    return 1;
}

static void loop_close(loop *l) {
    pico_decode_close(l->decode);
    pico_tokenizer_close(l->tokenizer);
    pico_model_close(l->model);
    pico_arena_free(&l->arena);
    rig_close(&l->r);
}

/* Request number `which`: prompts of 1, 12 and 70 tokens, ends at different places. */
static pico_request request_of(uint32_t which, uint32_t n_vocab, int32_t prompt[80]) {
    static const uint32_t n_prompt[N_SLOT] = {1, 12, 70}, n_new[N_SLOT] = {60, 149, 33};
    uint64_t random = 100 + which;
    for (uint32_t i = 0; i < 80; i++) {
        prompt[i] = 1 + (int32_t)rig_below(&random, n_vocab - 2);
    }
    return (pico_request){.prompt = prompt,
                          .n_prompt = n_prompt[which],
                          .max_tokens = n_new[which],
                          .seed = 3,
                          .sample = which};
}

static void take(const loop *l, uint32_t slot, text *out) {
    pico_slot_state state = pico_decode_slot(l->decode, slot);
    memset(out, 0, sizeof *out);
    memcpy(out->token, state.token, state.n_token * sizeof *state.token);
    out->n = state.n_token;
    out->finish = state.finish;
}

static void compare(conform *c, const text *want, const text *got, const char *what) {
    for (uint32_t i = 0; i < want->n && i < got->n; i++) {
        CHECK(c, want->token[i] == got->token[i], "%s: token %u is %d, expected %d as by %s", what,
              i, got->token[i], want->token[i], want->by);
    }
    CHECK(c, want->n == got->n, "%s: %u tokens, expected %u as by %s", what, got->n, want->n,
          want->by);
    CHECK(c, want->finish == got->finish, "%s: ended by %s, expected %s as by %s", what,
          pico_finish_name(got->finish), pico_finish_name(want->finish), want->by);
}

/* The plain decoder's answers, one at a time; or those of a decoder that steers itself. */
static void plain_texts(conform *c, uint32_t family, int steers, const char *sampling,
                        text out[N_SLOT]) {
    loop l;
    char why[512];
    int32_t prompt[80];
    CHECK(c, loop_open(c, &l, family, !steers, sampling, PICO_ACCEPT_MATCH, why), "%s", why);
    for (uint32_t i = 0; i < N_SLOT; i++) {
        pico_request request = request_of(i, families[family].n_vocab, prompt);
        CHECK_OK(c, pico_decode_start(l.decode, 0, &request, error), "plain decoding");
        CHECK_OK(c, pico_decode_run(l.decode, NULL, NULL, error), "plain decoding");
        take(&l, 0, &out[i]);
        out[i].by = steers ? "the same alone" : "the plain decoder";
    }
    loop_close(&l);
}

static int steers(const loop *l) {
    return pico_decode_n_beam(l->decode) != 0;
}

/* The plugin's answers one at a time, then all at once, then again in used slots. */
static void texts_equal_plain_ones(conform *c, const char *sampling, uint32_t accept) {
    char why[512] = "";
    uint32_t n_run = 0;
    for (uint32_t family = 0; family < N_FAMILY; family++) {
        text want[N_SLOT], got;
        loop l;
        int32_t prompt[N_SLOT][80];
        if (!loop_open(c, &l, family, 0, sampling, accept, why)) {
            continue;
        }
        plain_texts(c, family, steers(&l), sampling, want);
        for (uint32_t i = 0; i < N_SLOT; i++) {
            pico_request request = request_of(i, families[family].n_vocab, prompt[i]);
            CHECK_OK(c, pico_decode_start(l.decode, i, &request, error), "starting a text");
            CHECK_OK(c, pico_decode_run(l.decode, NULL, NULL, error), "a text");
            take(&l, i, &got);
            compare(c, &want[i], &got, "alone");
        }
        for (uint32_t turn = 0; turn < 2; turn++) {
            for (uint32_t i = 0; i < N_SLOT; i++) {
                uint32_t which = (i + turn) % N_SLOT;
                pico_request request = request_of(which, families[family].n_vocab, prompt[which]);
                CHECK_OK(c, pico_decode_start(l.decode, i, &request, error), "starting a text");
            }
            CHECK_OK(c, pico_decode_run(l.decode, NULL, NULL, error), "texts side by side");
            for (uint32_t i = 0; i < N_SLOT; i++) {
                take(&l, i, &got);
                compare(c, &want[(i + turn) % N_SLOT], &got, "side by side");
            }
        }
        const pico_decode_stats *stats = pico_decode_statistics(l.decode);
        CHECK(c, stats->n_accepted <= stats->n_drafted, "more drafts accepted than made");
        loop_close(&l);
        n_run++;
    }
    if (n_run == 0) {
        conform_skip(c, "%s", why);
    }
}

static void greedy_texts(conform *c) {
    texts_equal_plain_ones(c, "sampler.standard.temperature=0", PICO_ACCEPT_MATCH);
}

static void sampled_texts(conform *c) {
    texts_equal_plain_ones(c, "sampler.standard.temperature=1.1", PICO_ACCEPT_MATCH);
}

static void greedy_texts_with_rejection(conform *c) {
    texts_equal_plain_ones(c, "sampler.standard.temperature=0", PICO_ACCEPT_REJECTION);
}

/* The vocabulary's last token ends a text; drafts may run past it. */
static void texts_end_where_they_end(conform *c) {
    char why[512] = "";
    uint32_t n_end = 0, n_run = 0;
    for (uint32_t family = 0; family < N_FAMILY; family++) {
        loop plain, l;
        text want, got;
        int32_t prompt[80];
        static const char sampling[] = "sampler.standard.temperature=3";
        if (!loop_open(c, &l, family, 0, sampling, PICO_ACCEPT_MATCH, why)) {
            continue;
        }
        if (steers(&l)) {
            loop_close(&l);
            conform_skip(c, "it steers, so that its texts are its own");
        }
        CHECK(c, loop_open(c, &plain, family, 1, sampling, PICO_ACCEPT_MATCH, why), "%s", why);
        for (uint32_t seed = 0; seed < 12; seed++) {
            pico_request request = request_of(1, families[family].n_vocab, prompt);
            request.seed = seed;
            CHECK_OK(c, pico_decode_start(plain.decode, 0, &request, error), "plain decoding");
            CHECK_OK(c, pico_decode_run(plain.decode, NULL, NULL, error), "plain decoding");
            take(&plain, 0, &want);
            want.by = "the plain decoder";
            n_end += want.finish == PICO_FINISH_END;
            CHECK_OK(c, pico_decode_start(l.decode, 0, &request, error), "starting a text");
            CHECK_OK(c, pico_decode_run(l.decode, NULL, NULL, error), "a text");
            take(&l, 0, &got);
            compare(c, &want, &got, "until an end token");
        }
        loop_close(&l);
        loop_close(&plain);
        n_run++;
    }
    if (n_run == 0) {
        conform_skip(c, "%s", why);
    }
    CHECK(c, n_end > 0, "no text of the kit met an end token");
}

/* The n-th operation of the device fails: the round fails, the next ones give the rest. */
static void texts_survive_failures(conform *c) {
    char why[512] = "";
    text want[N_SLOT], got;
    loop l;
    int32_t prompt[80];
    static const char sampling[] = "sampler.standard.temperature=0.9";
    uint32_t family = 0;
    while (family < N_FAMILY && !loop_open(c, &l, family, 0, sampling, PICO_ACCEPT_MATCH, why)) {
        family++;
    }
    if (family == N_FAMILY) {
        conform_skip(c, "%s", why);
    }
    plain_texts(c, family, steers(&l), sampling, want);
    for (int64_t n = 0; n < 400; n += 23) {
        pico_request request = request_of(0, families[family].n_vocab, prompt);
        uint32_t live = 1, n_error = 0;
        CHECK_OK(c, pico_decode_start(l.decode, 0, &request, error), "starting a text");
        fault_arm(&l.r.fault, FAULT_OP, n);
        while (live != 0) {
            pico_error err = {0};
            pico_status status = pico_decode_round(l.decode, &live, &err);
            CHECK(c, status == PICO_OK || ++n_error == 1, "the round after a failure fails: %s",
                  err.message);
            live = status == PICO_OK ? live : 1;
        }
        fault_arm(&l.r.fault, 0, -1);
        take(&l, 0, &got);
        compare(c, &want[0], &got, "after a failure");
    }
    loop_close(&l);
}

/* begin, end and begin again; what it asks for stays within what there is. */
static void begins_again_after_its_end(conform *c) {
    char why[512] = "";
    loop l;
    uint32_t n_run = 0;
    for (uint32_t family = 0; family < N_FAMILY; family++) {
        if (!loop_open(c, &l, family, 0, NULL, PICO_ACCEPT_MATCH, why)) {
            continue;
        }
        pico_decode_close(l.decode);
        l.decode = NULL;
        const pico_decoder_ops *ops = &l.r.decoder.loaded->ops.decoder;
        for (uint32_t turn = 0; turn < 3; turn++) {
            pico_decoder_need need = {.struct_size = sizeof need};
            CHECK_OK(c, ops->begin(l.r.decoder.self, l.model, 1 + turn * 4, &need, error), "begin");
            CHECK(c, need.max_proposals <= 4096 && need.want_hidden <= 1 && need.want_q <= 1,
                  "it wants %u proposals, hidden rows %u, distributions %u", need.max_proposals,
                  need.want_hidden, need.want_q);
            CHECK(c,
                  need.n_beam <= PICO_BEAM_MAX && (need.n_beam == 0) == (need.n_continuation == 0),
                  "it wants %u hypotheses and %u continuations", need.n_beam, need.n_continuation);
            if (need.n_beam == 0) {
                pico_sequence none;
                CHECK_OK(c, ops->propose(l.r.decoder.self, &none, 0, error),
                         "propose for no sequence");
            }
            ops->end(l.r.decoder.self);
        }
        loop_close(&l);
        n_run++;
    }
    if (n_run == 0) {
        conform_skip(c, "%s", why);
    }
}

const conform_test conform_decoder[] = {
    {"decoder/begins_again_after_its_end", begins_again_after_its_end},
    {"decoder/greedy_texts_equal_plain_ones", greedy_texts},
    {"decoder/sampled_texts_equal_plain_ones", sampled_texts},
    {"decoder/greedy_texts_with_rejection", greedy_texts_with_rejection},
    {"decoder/texts_end_where_they_end", texts_end_where_they_end},
    {"decoder/texts_survive_failures", texts_survive_failures},
    {NULL, NULL}};
