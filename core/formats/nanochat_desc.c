/*
 * The description of a nanochat model. A checkpoint does not say which generation of the code it
 * belongs to, and constants of the computation (rope base, scale of q and k, short windows) depend on
 * it. It is inferred from the parts that exist; whoever knows better may say so, but not against the
 * tensors. A part that is missing is absent, never made up.
 */
#include <string.h>

#include "formats/nanochat.h"

enum { SMEAR_WIDTH = 24, NARROW_GATE = 12, WIDE_GATE = 32 };

typedef struct generation_facts {
    const char *name;
    int has_lambdas, has_smear;
    uint32_t ve_width; /* 0: no value embeddings */
    float ve_scale, qk_scale;
    double rope_base;
    uint32_t rope_table;
} generation_facts;

/* The later generations keep the rope table in the type of the computation: F32 here. */
static const generation_facts facts[] = {
    [PICO_GENERATION_G0] = {"g0", 0, 0, 0, 0.0f, 1.0f, 1e4, PICO_DTYPE_BF16},
    [PICO_GENERATION_G1] = {"g1", 1, 0, 0, 0.0f, 1.0f, 1e4, PICO_DTYPE_BF16},
    [PICO_GENERATION_G2] = {"g2", 1, 0, WIDE_GATE, 2.0f, 1.0f, 1e4, PICO_DTYPE_BF16},
    [PICO_GENERATION_G3] = {"g3", 1, 0, NARROW_GATE, 3.0f, 1.15f, 1e5, PICO_DTYPE_F32},
    [PICO_GENERATION_G4] = {"g4", 1, 1, NARROW_GATE, 3.0f, 1.2f, 1e5, PICO_DTYPE_F32},
};

/* One tensor of each optional part, NULL if the part is absent. */
typedef struct parts {
    const pico_nanochat_entry *lambdas, *value, *gate, *smear, *backout, *head, *draft;
} parts;

static const pico_nanochat_entry *either(const pico_nanochat_table *table, const char *a,
                                         const char *b) {
    const pico_nanochat_entry *entry = pico_nanochat_find_entry(table, a);
    return entry != NULL ? entry : pico_nanochat_find_entry(table, b);
}

static parts find_parts(const pico_nanochat_table *table) {
    parts p = {
        .lambdas = either(table, "resid_lambdas", "x0_lambdas"),
        .value = pico_nanochat_match_entry(table, "value_embeds.", ".weight"),
        .gate = pico_nanochat_match_entry(table, "transformer.h.", ".attn.ve_gate.weight"),
        .smear = either(table, "smear_gate.weight", "smear_lambda"),
        .backout = pico_nanochat_find_entry(table, "backout_lambda"),
        .head = pico_nanochat_find_entry(table, "multi_token_heads.head_2.weight"),
        .draft = either(table, "draft_head.fc2.weight", "draft_head.fc1.weight"),
    };
    p.value = p.value != NULL ? p.value : p.gate;
    return p;
}

/* ---- which generation ---- */

static int64_t gate_width(const parts *p) {
    return p->gate == NULL ? 0 : p->gate->tensor.shape[p->gate->tensor.rank - 1];
}

static uint32_t infer(const parts *p) {
    if (p->smear != NULL || p->backout != NULL) {
        return PICO_GENERATION_G4;
    }
    if (p->value != NULL) {
        return gate_width(p) == NARROW_GATE ? PICO_GENERATION_G3 : PICO_GENERATION_G2;
    }
    return p->lambdas != NULL ? PICO_GENERATION_G1 : PICO_GENERATION_G0;
}

static pico_status contradiction(uint32_t generation, int asked, const pico_nanochat_entry *entry,
                                 const char *why, pico_error *err) {
    return pico_fail(err, asked ? PICO_E_INVALID : PICO_E_CORRUPT,
                     "%s nanochat %s, but tensor %s %s",
                     asked ? "the generation was set to" : "the other tensors are those of",
                     facts[generation].name, entry->name, why);
}

/* Whether every part that exists is one of that generation. */
static pico_status check_parts(const parts *p, uint32_t generation, int asked, pico_error *err) {
    const generation_facts *g = &facts[generation];
    char why[96];
    const struct {
        const pico_nanochat_entry *entry;
        int allowed;
        const char *why;
    } rules[] = {
        {p->lambdas, g->has_lambdas, "exists from g1 on"},
        {p->value, g->ve_width != 0, "exists from g2 on"},
        {p->smear, g->has_smear, "exists in g4"},
        {p->backout, g->has_smear, "exists in g4"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (rules[i].entry != NULL && !rules[i].allowed) {
            return contradiction(generation, asked, rules[i].entry, rules[i].why, err);
        }
    }
    if (p->gate != NULL && gate_width(p) != g->ve_width) {
        (void)snprintf(why, sizeof why, "has %lld inputs, expected %u (g2: %d, g3 and g4: %d)",
                       (long long)gate_width(p), g->ve_width, WIDE_GATE, NARROW_GATE);
        return contradiction(generation, asked, p->gate, why, err);
    }
    return PICO_OK;
}

/* ---- windows ---- */

static int64_t ceil_div(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

/* Keys before its own that a query sees in a layer; -1: all of them. */
static int32_t window_of(const pico_nanochat_config *c, uint32_t generation, int64_t layer) {
    size_t n = strlen(c->window_pattern);
    int64_t parts_of = generation == PICO_GENERATION_G4 ? 4 : 3;
    if (n == 0 && generation == PICO_GENERATION_G0) {
        return -1; /* had no windows at all */
    }
    if (n == 0 || layer == c->n_layer - 1 || c->window_pattern[(size_t)layer % n] == 'L') {
        return (int32_t)c->sequence_len;
    }
    if (generation <= PICO_GENERATION_G2) {
        return (int32_t)(c->sequence_len / 2);
    }
    return (int32_t)(128 * ceil_div(ceil_div(c->sequence_len, parts_of), 128));
}

/* ---- extra heads ---- */

/* As many as there are, one after the other; a head that the configuration promises must exist if
 * any does. */
static uint32_t count_heads(const pico_nanochat_config *c, const pico_nanochat_table *table) {
    uint32_t n = 0;
    char name[64];
    do {
        (void)snprintf(name, sizeof name, "multi_token_heads.head_%u.weight", n + 2);
    } while (pico_nanochat_find_entry(table, name) != NULL && ++n <= PICO_MAX_EXTRA_HEAD);
    return n != 0 && n < c->multi_token_n ? (uint32_t)c->multi_token_n : n;
}

static void describe_draft(const pico_nanochat_config *c, const pico_nanochat_table *table,
                           pico_model_desc *desc) {
    const pico_nanochat_entry *fc1 = pico_nanochat_find_entry(table, "draft_head.fc1.weight"),
                              *fc2 = pico_nanochat_find_entry(table, "draft_head.fc2.weight");
    int64_t slots = fc2 == NULL ? 1 : ceil_div(fc2->tensor.shape[0], c->vocab_size);
    int64_t hidden = fc1 == NULL ? c->n_embd / 2 : fc1->tensor.shape[0];
    slots = c->draft_n > 0 ? c->draft_n : slots;
    desc->n_draft = slots > UINT32_MAX ? UINT32_MAX : (uint32_t)slots;
    desc->draft_hidden = hidden > UINT32_MAX ? UINT32_MAX : (uint32_t)hidden;
}

/* ---- all of it ---- */

static void describe_layers(const pico_nanochat_config *c, const parts *p, uint32_t generation,
                            pico_layer_desc *layer) {
    for (int64_t i = 0; i < c->n_layer; i++) {
        layer[i] = (pico_layer_desc){
            .n_head = (uint32_t)c->n_head,
            .n_kv_head = c->use_mqa ? 1 : (uint32_t)c->n_kv_head,
            .head_dim = (uint32_t)(c->n_embd / c->n_head),
            .n_ff = (uint32_t)(4 * c->n_embd),
            .window = window_of(c, generation, i),
            .has_value_embed = p->value != NULL && i % 2 == (c->n_layer - 1) % 2,
        };
    }
}

/* Rows of the embedding: the vocabulary, in later generations padded to a multiple of 64. */
static uint32_t count_rows(const pico_nanochat_config *c, const pico_nanochat_table *table) {
    const pico_nanochat_entry *wte = pico_nanochat_find_entry(table, "transformer.wte.weight");
    int64_t rows = wte == NULL ? c->vocab_size : wte->tensor.shape[0];
    return rows > UINT32_MAX ? UINT32_MAX : (uint32_t)rows;
}

/* All but the extra heads. */
static pico_status describe(const pico_nanochat_config *c, const parts *p, uint32_t generation,
                            uint32_t n_rows, pico_arena *arena, pico_model_desc *desc,
                            pico_error *err) {
    const generation_facts *g = &facts[generation];
    pico_layer_desc *layer = pico_arena_alloc(arena, (size_t)c->n_layer, sizeof *layer);
    if (layer == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    describe_layers(c, p, generation, layer);
    *desc = (pico_model_desc){
        .family = "nanochat",
        .n_layer = (uint32_t)c->n_layer,
        .n_embd = (uint32_t)c->n_embd,
        .n_vocab = (uint32_t)c->vocab_size,
        .n_vocab_rows = n_rows,
        .n_ctx_train = (uint32_t)c->sequence_len,
        .flags = PICO_EMBED_NORM | PICO_QK_NORM | PICO_ROPE_REVERSED |
                 (p->lambdas != NULL ? (uint32_t)PICO_RESID_LAMBDAS : 0u),
        .norm = PICO_NORM_RMS,
        .norm_eps = 0x1p-23f,
        .pos = PICO_POS_ROPE,
        .rope_layout = PICO_ROPE_HALVES,
        .rope_dim = layer[0].head_dim,
        .rope_table = g->rope_table,
        .rope_base = g->rope_base,
        .act = PICO_ACT_RELU_SQUARED,
        .qk_scale = g->qk_scale,
        .logit_softcap = 15.0f,
        .smear_width = p->smear != NULL ? SMEAR_WIDTH : 0,
        .ve_width = p->value != NULL ? g->ve_width : 0,
        .ve_scale = p->value != NULL ? g->ve_scale : 0.0f,
        .backout_layer = p->backout != NULL ? (int32_t)(c->n_layer / 2) : -1,
        .layer = layer,
    };
    return PICO_OK;
}

pico_status pico_nanochat_describe(const pico_nanochat_config *c, const pico_nanochat_table *table,
                                   pico_arena *arena, uint32_t *generation, pico_model_desc *desc,
                                   pico_error *err) {
    const parts p = find_parts(table);
    int asked = *generation != PICO_GENERATION_AUTO;
    *generation = asked ? *generation : infer(&p);
    pico_status status = check_parts(&p, *generation, asked, err);
    if (status == PICO_OK) {
        status = describe(c, &p, *generation, count_rows(c, table), arena, desc, err);
    }
    if (status != PICO_OK) {
        return status;
    }
    desc->n_mtp_head = p.head != NULL ? count_heads(c, table) : 0;
    if (p.draft != NULL) {
        describe_draft(c, table, desc);
    }
    return pico_desc_check(desc, err);
}

pico_status pico_nanochat_describe_new(const pico_nanochat_config *c, uint32_t generation,
                                       pico_arena *arena, pico_model_desc *desc, pico_error *err) {
    const pico_nanochat_entry present = {0};
    const generation_facts *g = &facts[generation];
    const parts p = {.lambdas = g->has_lambdas ? &present : NULL,
                     .value = g->ve_width != 0 ? &present : NULL,
                     .smear = g->has_smear ? &present : NULL,
                     .backout = g->has_smear ? &present : NULL};
    return describe(c, &p, generation, (uint32_t)(64 * ceil_div(c->vocab_size, 64)), arena, desc,
                    err);
}
