/* layers: transform */
/*
 * Whole layers that go. What is left computes what the whole model does with those layers silent, in
 * every family: names, windows, value embeddings, lambdas, the backout layer and the heads behind
 * move along. Stages behind see the smaller model. The host refuses what would be another model,
 * whatever a plugin asks for.
 */
#include "formats_support.h"

#include "formats/expect.h"
#include "prune_kit.h"
#include "transform/depth.h"

/* Which layers of the whole model are left, in their order, by their Wk. */
static void find_layers(pico_model_file *whole, pico_model_file *pruned, int *left) {
    uint32_t at = 0;
    for (uint32_t i = 0; i < whole->desc.n_layer; i++) {
        const pico_file_tensor *a = prune_tensor(whole, i, "attn_k.weight");
        const pico_file_tensor *b = prune_tensor(pruned, at, "attn_k.weight");
        left[i] = b != NULL && a->bytes == b->bytes &&
                  memcmp(a->data.codes, b->data.codes, a->bytes) == 0;
        at += left[i] != 0;
    }
    assert_int_equal(at, pruned->desc.n_layer);
}

/* Attention and feed-forward of the layers that are not left put out zeros. */
static void silence_layers(pico_model_file *whole, const int *left) {
    static const char *const names[] = {"attn_output.weight", "attn_output.bias", "ffn_down.weight",
                                        "ffn_down.bias"};
    for (uint32_t i = 0; i < whole->desc.n_layer; i++) {
        for (size_t j = 0; j < 4 && !left[i]; j++) {
            pico_file_tensor *t = prune_tensor(whole, i, names[j]);
            if (t != NULL) {
                memset((void *)(uintptr_t)t->data.codes, 0, t->bytes);
            }
        }
    }
}

typedef struct layers_case {
    uint32_t model;
    const char *set[4];
    uint32_t n_left;
    double limit; /* lambdas are rounded once more */
} layers_case;

static void equals_the_model_with_silent_layers(void **state) {
    (void)state;
    static const layers_case cases[] = {
        {0, {"1.prune.layers=0.5"}, 1, 0},
        {1, {"1.prune.layers=0.5", "1.prune.score=random"}, 2, 0},
        {2, {"1.prune.layers=0.5", "1.prune.score=random", "1.prune.seed=2"}, 1, 0},
        {3, {"1.prune.layers=0.6"}, 1, 0},
        {4, {"1.prune.layers=0.5"}, 2, 1e-5},
        {4, {"1.prune.layers=0.75", "1.prune.score=random"}, 1, 1e-5},
        {5, {"1.prune.layers=0.33"}, 2, 1e-5},
        {6, {"1.prune.layers=0.5", "1.prune.score=random", "1.prune.seed=4"}, 1, 0},
        {7, {"1.prune.layers=0.4", "1.prune.score=random", "1.prune.seed=5"}, 3, 1e-5},
        {8, {"1.prune.layers=0.6"}, 2, 1e-5},
        {8, {"1.prune.layers=0.2", "1.prune.score=random", "1.prune.seed=6"}, 4, 1e-5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const layers_case *c = &cases[i];
        pico_model_file *whole = prune_model(c->model), *pruned = prune_model(c->model);
        int left[16];
        prune_ok(pruned, c->set);
        assert_int_equal(pruned->desc.n_layer, c->n_left);
        find_layers(whole, pruned, left);
        for (uint32_t l = 0, at = 0; l < whole->desc.n_layer; l++) { /* windows, value embeddings */
            if (left[l]) {
                assert_memory_equal(&whole->desc.layer[l], &pruned->desc.layer[at++],
                                    sizeof(pico_layer_desc));
            }
        }
        silence_layers(whole, left);
        prune_same_logits(whole, pruned, c->limit);
        pico_model_file_close(whole), pico_model_file_close(pruned);
    }
}

/* The layer whose output is taken away again is still that layer. */
static void backout_moves_along(void **state) {
    (void)state;
    pico_model_file *whole = prune_model(8), *pruned = prune_model(8);
    int left[16];
    uint32_t before = 0;
    assert_int_equal(whole->desc.backout_layer, 2);
    prune_ok(pruned, PRUNE_SETTINGS("1.prune.layers=0.6"));
    find_layers(whole, pruned, left);
    assert_true(left[2] && left[4]); /* backout's, and the last */
    before = (uint32_t)left[0] + (uint32_t)left[1];
    assert_int_equal(pruned->desc.backout_layer, before);
    pico_model_file_close(whole), pico_model_file_close(pruned);
}

/* l1: the layers with the smallest sums go. */
static void l1_keeps_the_heaviest_layers(void **state) {
    (void)state;
    static const char *const names[] = {"attn_q.weight",      "attn_k.weight", "attn_v.weight",
                                        "attn_output.weight", "ffn_up.weight", "ffn_down.weight"};
    pico_model_file *whole = prune_model(7), *pruned = prune_model(7);
    double sum[5] = {0}, least_left = INFINITY, most_gone = 0;
    int left[16];
    prune_unbalance(whole), prune_unbalance(pruned);
    for (uint32_t i = 0; i < 5; i++) {
        for (size_t j = 0; j < 6; j++) {
            const pico_file_tensor *t = prune_tensor(whole, i, names[j]);
            float *values = prune_values(&t->data);
            for (int64_t k = 0; k < t->data.rows * t->data.cols; k++) {
                sum[i] += fabs((double)values[k]);
            }
            free(values);
        }
    }
    prune_ok(pruned, PRUNE_SETTINGS("1.prune.layers=0.4"));
    find_layers(whole, pruned, left);
    for (uint32_t i = 0; i < 4; i++) { /* the last cannot go */
        least_left = left[i] ? fmin(least_left, sum[i]) : least_left;
        most_gone = left[i] ? most_gone : fmax(most_gone, sum[i]);
    }
    assert_true(least_left > most_gone);
    pico_model_file_close(whole), pico_model_file_close(pruned);
}

/* Everything in one stage is the same as layers first and the rest behind. */
static void goes_with_heads_and_neurons(void **state) {
    (void)state;
    pico_model_file *once = prune_model(7), *steps = prune_model(7);
    prune_ok(once, PRUNE_SETTINGS("1.prune.layers=0.4", "1.prune.heads=0.25", "1.prune.neurons=0.3",
                                  "1.prune.convert=mean"));
    prune_ok(steps, PRUNE_SETTINGS("1.prune.layers=0.4", "2.prune.heads=0.25",
                                   "2.prune.neurons=0.3", "3.prune.convert=mean"));
    assert_same_tensors(once, steps);
    assert_int_equal(once->desc.n_layer, 3);
    assert_int_equal(once->desc.layer[0].n_head, 3);
    assert_int_equal(once->desc.layer[0].n_kv_head, 1);
    pico_model_file_close(once), pico_model_file_close(steps);
}

/* int8 behind it sees the smaller model, and in front of it does not mind that layers go. */
static void goes_with_int8(void **state) {
    (void)state;
    pico_model_file *chain = prune_model(4), *steps = prune_model(4);
    prune_ok(chain, PRUNE_SETTINGS("1.prune.layers=0.5", "1.prune.neurons=0.2",
                                   "2.int8.granularity=row", "2.int8.keep=blk.1.ffn_up.weight"));
    prune_ok(steps, PRUNE_SETTINGS("1.prune.layers=0.5", "1.prune.neurons=0.2"));
    prune_ok(steps, PRUNE_SETTINGS("1.int8.granularity=row", "1.int8.keep=blk.1.ffn_up.weight"));
    assert_same_tensors(chain, steps);
    assert_int_equal(prune_tensor(chain, 1, "ffn_up.weight")->data.dtype, PICO_DTYPE_F32);
    pico_model_file_close(chain);
    chain = prune_model(4);
    prune_ok(chain, PRUNE_SETTINGS("1.int8.granularity=row", "2.prune.layers=0.5"));
    assert_int_equal(chain->desc.n_layer, 2);
    assert_int_equal(prune_tensor(chain, 1, "ffn_up.weight")->data.dtype, PICO_DTYPE_I8);
    pico_model_file_close(chain), pico_model_file_close(steps);
}

static void says_what_can_be_done(void **state) {
    (void)state;
    pico_model_file *file = prune_model(5);
    prune_fails(file, PICO_E_UNSUPPORTED, "layers = 0.1 of 3 layers is none; set at least 0.333333",
                PRUNE_SETTINGS("1.prune.layers=0.1"));
    prune_fails(file, PICO_E_UNSUPPORTED, "is 2, but at most 1 of this model can go",
                PRUNE_SETTINGS("1.prune.layers=0.6"));
    prune_fails(file, PICO_E_UNSUPPORTED, "[compress.2] prune: [compress.1] removes layers already",
                PRUNE_SETTINGS("1.prune.layers=0.3", "2.prune.layers=0.3"));
    pico_model_file_close(file);
    file = prune_model(0);
    prune_fails(file, PICO_E_UNSUPPORTED, "is 2, but at most 1 of this model can go",
                PRUNE_SETTINGS("1.prune.layers=0.9"));
    pico_model_file_close(file);
}

/* ---- the host, whatever a plugin asks for ---- */

typedef struct dropper {
    uint32_t drops;
    uint8_t drop[8];
    int n_plan, n_apply, has_model;
} dropper;

static uint32_t say_drops(const void *self) {
    return ((const dropper *)self)->drops;
}

static pico_status choose(void *self, const pico_model_desc *model, const pico_tensors *tensors,
                          pico_model *run, uint8_t *drop, pico_error *err) {
    dropper *d = self;
    (void)err;
    assert_true(d->n_plan == 0 && pico_tensors_table.count(tensors) > 0);
    d->has_model = run != NULL;
    memcpy(drop, d->drop, model->n_layer);
    return PICO_OK;
}

/* Plans nonsense for layers that go, which does not matter. */
static pico_status plan(void *self, const pico_model_desc *model, const pico_tensor_info *tensors,
                        uint32_t n, pico_tensor_plan *out, pico_layer_desc *layers,
                        pico_error *err) {
    dropper *d = self;
    (void)model, (void)layers, (void)err;
    d->n_plan++;
    for (uint32_t i = 0; i < n; i++) {
        out[i].bytes += strncmp(tensors[i].name, "blk.0.", 6) == 0 && d->drop[0] ? 1 : 0;
    }
    return PICO_OK;
}

static pico_status apply(void *self, const pico_model_desc *model, pico_tensors *tensors,
                         pico_error *err) {
    dropper *d = self;
    (void)model, (void)tensors, (void)err;
    d->n_apply++;
    return PICO_OK;
}

static const pico_compressor_ops drop_ops = {.struct_size = sizeof drop_ops,
                                             .plan = plan,
                                             .apply = apply,
                                             .drops = say_drops,
                                             .drop_layers = choose};

static pico_status run_dropper(pico_model_file *file, dropper *d, int plan_only, pico_error *err) {
    const pico_stage stage = {.number = 1, .name = "dropper", .ops = &drop_ops, .self = d};
    const pico_chain_callbacks callbacks = {.plan_only = plan_only};
    return pico_compress_chain(file, &stage, 1, &callbacks, err);
}

static void the_host_refuses_another_model(void **state) {
    (void)state;
    static const struct {
        uint32_t model, drops;
        uint8_t drop[5];
        const char *says;
    } cases[] = {{0, PICO_DROPS_BY_WEIGHTS, {1, 1}, "all 2 layers would go"},
                 {4, PICO_DROPS_BY_WEIGHTS, {0, 0, 0, 1}, "layer 3 cannot go: it is the last"},
                 {8, PICO_DROPS_BY_WEIGHTS, {0, 0, 1}, "layer 2 cannot go: what it puts out"},
                 {0, PICO_DROPS_BY_WEIGHTS, {0, 2}, "drop is 2, expected 0 or 1"},
                 {0, PICO_DROPS_BY_RUNNING, {1, 0}, "needs a model to run"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pico_model_file *file = prune_model(cases[i].model);
        dropper d = {.drops = cases[i].drops};
        pico_error err = {0};
        memcpy(d.drop, cases[i].drop, sizeof cases[i].drop);
        assert_int_not_equal(run_dropper(file, &d, 0, &err), PICO_OK);
        if (strstr(err.message, cases[i].says) == NULL) {
            fail_msg("expected \"%s\"; it said: %s", cases[i].says, err.message);
        }
        assert_int_equal(d.n_plan + d.n_apply, 0); /* before any work */
        pico_model_file_close(file);
    }
}

static void a_stage_may_keep_all_its_layers(void **state) {
    (void)state;
    pico_error err = {0};
    pico_model_file *file = prune_model(4), *same = prune_model(4);
    dropper d = {.drops = PICO_DROPS_BY_WEIGHTS};
    assert_int_equal(run_dropper(file, &d, 0, &err), PICO_OK);
    assert_int_equal(file->desc.n_layer, 4);
    d = (dropper){.drops = PICO_DROPS_BY_WEIGHTS, .drop = {1}};
    assert_int_equal(run_dropper(file, &d, 1, &err), PICO_OK); /* a plan alone */
    assert_int_equal(d.n_plan, 1);
    assert_same_tensors(file, same);
    d.n_plan = 0;
    assert_int_equal(run_dropper(file, &d, 0, &err), PICO_OK);
    assert_int_equal(file->desc.n_layer, 3);
    assert_int_equal(pico_expect_match(file, &err), PICO_OK);
    pico_model_file_close(file), pico_model_file_close(same);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_model_with_silent_layers),
        cmocka_unit_test(backout_moves_along),
        cmocka_unit_test(l1_keeps_the_heaviest_layers),
        cmocka_unit_test(goes_with_heads_and_neurons),
        cmocka_unit_test(goes_with_int8),
        cmocka_unit_test(says_what_can_be_done),
        cmocka_unit_test(the_host_refuses_another_model),
        cmocka_unit_test(a_stage_may_keep_all_its_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
