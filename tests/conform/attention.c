/*
 * Attention plugins: what they say of models, and a small model that runs as they say: prefill
 * equals single steps, going back and forth changes nothing.
 */
#include <ctype.h>
#include <math.h>

#include "conform/kit.h"

/* ---- descriptions ---- */

enum { MAX_LAYER = 4 };

typedef struct described {
    const char *what;
    uint32_t n_head[MAX_LAYER], n_kv_head[MAX_LAYER];
    int possible; /* 0: no plugin can run it */
} described;

static const described models[] = {
    {"multi-head attention", {4, 4, 4, 4}, {4, 4, 4, 4}, 1},
    {"grouped KV heads", {8, 8, 8, 8}, {2, 2, 2, 2}, 1},
    {"one KV head", {6, 6, 6, 6}, {1, 1, 1, 1}, 1},
    {"one head", {1, 1, 1, 1}, {1, 1, 1, 1}, 1},
    {"layers that differ", {8, 4, 2, 6}, {8, 2, 1, 3}, 1},
    {"heads that cannot share", {7, 7, 7, 7}, {3, 3, 3, 3}, 0},
    {"one layer that cannot share", {8, 8, 8, 8}, {2, 2, 5, 2}, 0},
    {"more KV heads than heads", {2, 2, 2, 2}, {4, 4, 4, 4}, 0},
};

static void describe(const described *m, pico_layer_desc layer[MAX_LAYER], pico_model_desc *out) {
    *out = (pico_model_desc){.family = "llama",
                             .n_layer = MAX_LAYER,
                             .n_embd = 64,
                             .n_vocab = 100,
                             .n_vocab_rows = 100,
                             .n_ctx_train = 256,
                             .flags = PICO_NORM_WEIGHT | PICO_FFN_GATED,
                             .norm = PICO_NORM_RMS,
                             .norm_eps = 1e-5f,
                             .pos = PICO_POS_ROPE,
                             .rope_layout = PICO_ROPE_PAIRS,
                             .rope_dim = 16,
                             .rope_table = PICO_DTYPE_F32,
                             .rope_base = 10000,
                             .act = PICO_ACT_SILU,
                             .backout_layer = -1,
                             .layer = layer};
    for (uint32_t i = 0; i < MAX_LAYER; i++) {
        layer[i] = (pico_layer_desc){.n_head = m->n_head[i],
                                     .n_kv_head = m->n_kv_head[i],
                                     .head_dim = 16,
                                     .n_ff = 128,
                                     .window = i == 1 ? 32 : -1};
    }
}

/* How many different numbers a text names. */
static uint32_t count_numbers(const char *text) {
    long seen[64];
    uint32_t n = 0;
    while (*text != '\0' && n < 64) {
        if (!isdigit((unsigned char)*text)) {
            text++;
            continue;
        }
        char *end;
        long value = strtol(text, &end, 10);
        uint32_t i = 0;
        while (i < n && seen[i] != value) {
            i++;
        }
        seen[n] = value;
        n += i == n;
        text = end;
    }
    return n;
}

static void check_layers(conform *c, const rig *r, const pico_model_desc *desc, const char *what) {
    const pico_attention_ops *ops = &r->attention.loaded->ops.attention;
    for (uint32_t i = 0; i < desc->n_layer; i++) {
        pico_attention_layer a = {.struct_size = sizeof a, .window = -1}, b = a;
        const pico_layer_desc *layer = &desc->layer[i];
        CHECK_OK(c, ops->layer(r->attention.self, desc, i, &a, error), "layer");
        CHECK_OK(c, ops->layer(r->attention.self, desc, i, &b, error), "layer");
        CHECK(c, memcmp(&a, &b, sizeof a) == 0, "%s, layer %u: asked twice, two answers", what, i);
        CHECK(c, a.n_head == layer->n_head && a.head_dim == layer->head_dim,
              "%s, layer %u: %u heads of %u, the model has %u of %u", what, i, a.n_head, a.head_dim,
              layer->n_head, layer->head_dim);
        CHECK(c, a.n_kv_head == layer->n_kv_head, "%s, layer %u: %u KV heads, the model has %u",
              what, i, a.n_kv_head, layer->n_kv_head);
        CHECK(c, isfinite(a.scale) && a.scale > 0, "%s, layer %u: scale %g", what, i,
              (double)a.scale);
        CHECK(c, a.window >= -1, "%s, layer %u: window %d", what, i, a.window);
        CHECK(c,
              a.kv_dtype == PICO_DTYPE_NONE ||
                  (a.kv_dtype >= PICO_DTYPE_F32 && a.kv_dtype <= PICO_DTYPE_BF16) ||
                  a.kv_dtype == PICO_DTYPE_Q8_0,
              "%s, layer %u: KV dtype %u", what, i, a.kv_dtype);
    }
    pico_attention_layer a = {.struct_size = sizeof a};
    pico_error err = {0};
    CHECK(c, ops->layer(r->attention.self, desc, desc->n_layer, &a, &err) != PICO_OK,
          "%s: layer %u of %u is described", what, desc->n_layer, desc->n_layer);
    CHECK(c, err.message[0] != '\0', "a layer that does not exist is refused without a message");
}

static void models_are_described_or_refused(conform *c) {
    rig r;
    conform_rig(c, &r, NULL);
    const pico_attention_ops *ops = &r.attention.loaded->ops.attention;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        pico_layer_desc layer[MAX_LAYER];
        pico_model_desc desc;
        pico_error err = {0};
        pico_attention_check check = {.struct_size = sizeof check};
        describe(&models[m], layer, &desc);
        pico_status status = ops->check(r.attention.self, &desc, &check, &err);
        if (status != PICO_OK) {
            CHECK(c, status == PICO_E_UNSUPPORTED, "%s: check gives %d", models[m].what,
                  (int)status);
            CHECK(c, count_numbers(err.message) >= 2,
                  "%s: the refusal must name what there is and what is needed: %s", models[m].what,
                  err.message);
            continue;
        }
        if (check.want_kv_heads == 0) {
            CHECK(c, models[m].possible, "%s is accepted", models[m].what);
        }
        for (uint32_t i = 0; check.want_kv_heads != 0 && i < MAX_LAYER; i++) {
            CHECK(c, layer[i].n_kv_head % check.want_kv_heads == 0,
                  "%s: %u KV heads cannot be pooled to %u", models[m].what, layer[i].n_kv_head,
                  check.want_kv_heads);
            layer[i].n_kv_head = check.want_kv_heads;
        }
        check_layers(c, &r, &desc, models[m].what);
    }
    rig_close(&r);
}

/* The scale of the model is used where it has one. */
static void the_models_scale_is_used(conform *c) {
    rig r;
    conform_rig(c, &r, NULL);
    pico_layer_desc layer[MAX_LAYER];
    pico_model_desc desc;
    pico_attention_layer a = {.struct_size = sizeof a}, b = a;
    describe(&models[2], layer, &desc); /* one KV head */
    const pico_attention_ops *ops = &r.attention.loaded->ops.attention;
    pico_attention_check check = {.struct_size = sizeof check};
    if (ops->check(r.attention.self, &desc, &check, NULL) != PICO_OK) {
        conform_skip(c, "it does not take one KV head");
    }
    CHECK_OK(c, ops->layer(r.attention.self, &desc, 0, &a, error), "layer");
    desc.attn_scale = 0.4f;
    CHECK_OK(c, ops->layer(r.attention.self, &desc, 0, &b, error), "layer");
    CHECK(c, fabsf(a.scale - 0.25f) < 1e-6f, "without a scale of its own it is 1/sqrt(16), not %g",
          (double)a.scale);
    CHECK(c, fabsf(b.scale - 0.4f) < 1e-6f, "the model's scale is 0.4, not %g", (double)b.scale);
    rig_close(&r);
}

/* ---- a model that runs ---- */

enum { N_TOKEN = 150 };

typedef struct running {
    rig r;
    pico_model *model;
    pico_session *session;
    uint32_t n_vocab;
    int32_t token[N_TOKEN];
} running;

/* A small model that the plugin takes: with grouped KV heads, else with one. */
static void running_open(conform *c, running *m) {
    tiny_model tiny = {.family = "llama",
                       .n_layer = 3,
                       .n_head = 4,
                       .n_kv_head = 2,
                       .head_dim = 8,
                       .n_ff = 40,
                       .n_vocab = 53,
                       .n_ctx = 256,
                       .window = {-1, 50, -1, -1},
                       .seed = 3};
    pico_error err = {0};
    conform_rig(c, &m->r, NULL);
    pico_status status = tiny_model_open(&m->r, &tiny, PICO_DTYPE_F32, &m->model, &err);
    if (status == PICO_E_UNSUPPORTED) {
        tiny.n_kv_head = 1;
        status = tiny_model_open(&m->r, &tiny, PICO_DTYPE_F32, &m->model, &err);
    }
    if (status == PICO_E_UNSUPPORTED) {
        conform_skip(c, "%s", err.message);
    }
    CHECK(c, status == PICO_OK, "%s", err.message);
    pico_session_params params = {
        .n_slots = 2, .max_rows = N_TOKEN, .max_logit_rows = N_TOKEN, .max_top_k = 1};
    CHECK_OK(c, pico_session_open(m->model, &params, &m->session, error), "opening a session");
    m->n_vocab = tiny.n_vocab;
    for (uint32_t i = 0; i < N_TOKEN; i++) {
        m->token[i] = (int32_t)rig_below(&c->random, tiny.n_vocab);
    }
}

static void running_close(running *m) {
    pico_session_close(m->session);
    pico_model_close(m->model);
    rig_close(&m->r);
}

static void run(conform *c, running *m, uint32_t slot, uint32_t begin, uint32_t n, float *out) {
    pico_row rows[N_TOKEN];
    pico_forward_out result;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t pos = begin + i;
        rows[i] = (pico_row){.token = m->token[pos],
                             .prev = pos == 0 ? -1 : m->token[pos - 1],
                             .slot = slot,
                             .pos = (int32_t)pos,
                             .parent = i == 0 ? -1 : (int32_t)i - 1,
                             .want = PICO_ROW_LOGITS};
    }
    CHECK_OK(c, pico_session_forward(m->session, rows, n, &result, error), "a forward pass");
    CHECK_OK(c, rig_read(&m->r, &result.logits, out, (size_t)n * m->n_vocab), "reading logits");
}

static void prefill_equals_single_steps(conform *c) {
    running m;
    running_open(c, &m);
    size_t n = (size_t)N_TOKEN * m.n_vocab;
    float *whole = conform_alloc(c, n, 4), *steps = conform_alloc(c, n, 4);
    float *chunks = conform_alloc(c, n, 4);
    run(c, &m, 0, 0, N_TOKEN, whole);
    CHECK_OK(c, pico_session_truncate(m.session, 0, 0, error), "truncate");
    for (uint32_t i = 0; i < N_TOKEN; i++) {
        run(c, &m, 0, i, 1, steps + (size_t)i * m.n_vocab);
    }
    for (uint32_t i = 0, take = 1; i < N_TOKEN; i += take, take = 1 + i % 32) {
        take = take < N_TOKEN - i ? take : N_TOKEN - i;
        run(c, &m, 1, i, take, chunks + (size_t)i * m.n_vocab);
    }
    for (size_t i = 0; i < n; i++) {
        CHECK(c, fabsf(whole[i] - steps[i]) <= 1e-4f,
              "logit %zu of position %zu: %g at once, %g "
              "step by step",
              i % m.n_vocab, i / m.n_vocab, (double)whole[i], (double)steps[i]);
        CHECK(c, chunks[i] == steps[i],
              "logit %zu of position %zu: %.9g in chunks, %.9g step by "
              "step",
              i % m.n_vocab, i / m.n_vocab, (double)chunks[i], (double)steps[i]);
    }
    running_close(&m);
}

static void going_back_changes_nothing(conform *c) {
    running m;
    running_open(c, &m);
    size_t n = (size_t)N_TOKEN * m.n_vocab;
    float *want = conform_alloc(c, n, 4), *got = conform_alloc(c, n, 4);
    for (uint32_t i = 0; i < N_TOKEN; i++) {
        run(c, &m, 0, i, 1, want + (size_t)i * m.n_vocab);
    }
    for (uint32_t back = 1; back <= 32; back++) {
        CHECK_OK(c, pico_session_truncate(m.session, 0, N_TOKEN - back, error), "truncate");
        run(c, &m, 0, N_TOKEN - back, back, got);
        CHECK(c,
              memcmp(want + (size_t)(N_TOKEN - back) * m.n_vocab, got,
                     (size_t)back * m.n_vocab * 4) == 0,
              "after going back %u positions the logits differ", back);
    }
    running_close(&m);
}

const conform_test conform_attention[] = {
    {"attention/models_are_described_or_refused", models_are_described_or_refused},
    {"attention/the_models_scale_is_used", the_models_scale_is_used},
    {"attention/prefill_equals_single_steps", prefill_equals_single_steps},
    {"attention/going_back_changes_nothing", going_back_changes_nothing},
    {NULL, NULL}};
