/* layers: transform */
/*
 * The pruning compressor on whole models of every family: a pruned model computes what the whole one
 * does with the same heads and neurons silent, to the last bit of the reference; what stays is what
 * slow formulas of the scores say; ratios of 0 change nothing; what cannot be done is an error that
 * says what can.
 */
#include "formats_support.h"

#include "prune_kit.h"

/* ---- heads and neurons ---- */

typedef struct parts_case {
    uint32_t model;
    const char *set[4];
    uint32_t n_head, n_neuron; /* that go, over all layers */
} parts_case;

static void equals_the_model_with_silent_parts(void **state) {
    (void)state;
    static const parts_case cases[] = {
        /* grouped KV heads: 4 on 2 */
        {0, {"1.prune.heads=0.5", "1.prune.neurons=0.2"}, 4, 16},
        {0, {"1.prune.heads=0.5", "1.prune.groups=whole"}, 4, 0},
        {0, {"1.prune.heads=0.6", "1.prune.score=random", "1.prune.seed=3"}, 4, 0},
        /* a KV head each: 2 and 3 heads */
        {1, {"1.prune.heads=0.5", "1.prune.neurons=0.5"}, 4, 128},
        {2, {"1.prune.heads=0.3", "1.prune.neurons=0.3"}, 2, 30},
        {2, {"1.prune.heads=0.6", "1.prune.score=random"}, 4, 0},
        /* one KV head for all */
        {3, {"1.prune.heads=0.33", "1.prune.neurons=0.1"}, 6, 9},
        {4, {"1.prune.heads=0.4", "1.prune.neurons=0.25"}, 4, 40},
        /* value embeddings, gates, lambdas, smear, backout */
        {5, {"1.prune.heads=0.5", "1.prune.neurons=0.25"}, 6, 33},
        {5, {"1.prune.heads=0.5", "1.prune.groups=whole", "1.prune.score=random"}, 6, 0},
        {7, {"1.prune.heads=0.25", "1.prune.neurons=0.2"}, 5, 40},
        {8, {"1.prune.heads=0.5", "1.prune.score=random", "1.prune.seed=9"}, 10, 0},
        /* layers that differ: of 2 heads of 2 KV heads, 2 of 3, and 4 heads; of 64, 40, 33 */
        {PRUNE_UNEVEN, {"1.prune.heads=0.5", "1.prune.neurons=0.25"}, 7, 34},
        /* biases everywhere; neurons in multiples */
        {6, {"1.prune.heads=0.5", "1.prune.neurons=0.4", "1.prune.neurons_multiple=8"}, 2, 16},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const parts_case *c = &cases[i];
        pico_model_file *whole = prune_model(c->model), *pruned = prune_model(c->model);
        uint32_t n_head = 0, n_neuron = 0;
        prune_ok(pruned, c->set);
        prune_silence_model(whole, pruned, &n_head, &n_neuron);
        assert_int_equal(n_head, c->n_head);
        assert_int_equal(n_neuron, c->n_neuron);
        prune_same_logits(whole, pruned, 0);
        pico_model_file_close(whole);
        pico_model_file_close(pruned);
    }
}

static void ratios_of_zero_change_nothing(void **state) {
    (void)state;
    for (uint32_t model = 0; model < PRUNE_MODELS; model++) {
        pico_model_file *before = prune_model(model), *after = prune_model(model);
        prune_ok(after, PRUNE_SETTINGS("1.prune.heads=0", "1.prune.neurons=0", "1.prune.layers=0"));
        assert_same_tensors(after, before);
        assert_memory_equal(after->desc.layer, before->desc.layer,
                            before->desc.n_layer * sizeof *before->desc.layer);
        pico_model_file_close(before);
        pico_model_file_close(after);
    }
}

/* ---- scores ---- */

/* The sum of |w| over a block. */
static double l1(const pico_file_tensor *t, int64_t row, int64_t n_row, int64_t col,
                 int64_t n_col) {
    double sum = 0;
    float *values = prune_values(&t->data);
    for (int64_t r = row; r < row + n_row; r++) {
        for (int64_t c = col; c < col + n_col; c++) {
            sum += fabs((double)values[r * t->data.cols + c]);
        }
    }
    free(values);
    return sum;
}

/* Score of a query head as the reference fork has it: its own K and V count only without groups. */
static double head_l1(pico_model_file *file, uint32_t layer, uint32_t head) {
    const pico_layer_desc *d = &file->desc.layer[layer];
    const int64_t c = file->desc.n_embd, dim = d->head_dim, at = head * dim;
    double sum = l1(prune_tensor(file, layer, "attn_q.weight"), at, dim, 0, c) +
                 l1(prune_tensor(file, layer, "attn_output.weight"), 0, c, at, dim);
    if (d->n_head == d->n_kv_head) {
        sum += l1(prune_tensor(file, layer, "attn_k.weight"), at, dim, 0, c) +
               l1(prune_tensor(file, layer, "attn_v.weight"), at, dim, 0, c);
    }
    return sum;
}

static double neuron_l1(pico_model_file *file, uint32_t layer, uint32_t n) {
    const int64_t c = file->desc.n_embd;
    const pico_file_tensor *gate = prune_tensor(file, layer, "ffn_gate.weight");
    return l1(prune_tensor(file, layer, "ffn_up.weight"), n, 1, 0, c) +
           l1(prune_tensor(file, layer, "ffn_down.weight"), 0, c, n, 1) +
           (gate == NULL ? 0 : l1(gate, n, 1, 0, c));
}

/* Those of [begin, begin + n) that are left score higher than all that are not; n_left of them. */
static void check_best(const double *score, const int *left, uint32_t begin, uint32_t n,
                       uint32_t n_left) {
    double worst_left = INFINITY, best_gone = -INFINITY;
    uint32_t found = 0;
    for (uint32_t i = begin; i < begin + n; i++) {
        found += left[i] != 0;
        worst_left = left[i] ? fmin(worst_left, score[i]) : worst_left;
        best_gone = left[i] ? best_gone : fmax(best_gone, score[i]);
    }
    assert_int_equal(found, n_left);
    assert_true(worst_left > best_gone);
}

static void l1_keeps_the_largest_weights(void **state) {
    (void)state;
    static const struct {
        uint32_t model, group, n_left; /* heads that compete, and stay */
    } cases[] = {{0, 2, 1}, {2, 3, 2}, {3, 6, 4}, {7, 4, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pico_model_file *whole = prune_model(cases[i].model), *pruned = prune_model(cases[i].model);
        prune_unbalance(whole), prune_unbalance(pruned);
        prune_ok(pruned, PRUNE_SETTINGS(i == 0 ? "1.prune.heads=0.5" : "1.prune.heads=0.3",
                                        "1.prune.neurons=0.3", "1.prune.neurons_multiple=1"));
        for (uint32_t layer = 0; layer < whole->desc.n_layer; layer++) {
            const pico_layer_desc *d = &whole->desc.layer[layer];
            int left[PRUNE_UNITS];
            double score[PRUNE_UNITS];
            prune_left(&prune_tensor(whole, layer, "attn_q.weight")->data,
                       &prune_tensor(pruned, layer, "attn_q.weight")->data, d->head_dim, left);
            for (uint32_t h = 0; h < d->n_head; h++) {
                score[h] = head_l1(whole, layer, h);
            }
            for (uint32_t g = 0; g < d->n_head; g += cases[i].group) {
                check_best(score, left, g, cases[i].group, cases[i].n_left);
            }
            prune_left(&prune_tensor(whole, layer, "ffn_up.weight")->data,
                       &prune_tensor(pruned, layer, "ffn_up.weight")->data, 1, left);
            for (uint32_t n = 0; n < d->n_ff; n++) {
                score[n] = neuron_l1(whole, layer, n);
            }
            check_best(score, left, 0, d->n_ff, pruned->desc.layer[layer].n_ff);
        }
        pico_model_file_close(whole);
        pico_model_file_close(pruned);
    }
}

/* A group as a whole scores as its heads and its KV head together. */
static void whole_groups_score_together(void **state) {
    (void)state;
    pico_model_file *whole = prune_model(0), *pruned = prune_model(0);
    prune_unbalance(whole), prune_unbalance(pruned);
    prune_ok(pruned, PRUNE_SETTINGS("1.prune.heads=0.5", "1.prune.groups=whole"));
    for (uint32_t layer = 0; layer < 2; layer++) {
        const pico_layer_desc *d = &whole->desc.layer[layer];
        int left[PRUNE_UNITS];
        double score[2];
        prune_left(&prune_tensor(whole, layer, "attn_k.weight")->data,
                   &prune_tensor(pruned, layer, "attn_k.weight")->data, d->head_dim, left);
        for (int64_t g = 0; g < 2; g++) {
            const int64_t dim = d->head_dim, c = whole->desc.n_embd;
            score[g] = head_l1(whole, layer, (uint32_t)(2 * g)) +
                       head_l1(whole, layer, (uint32_t)(2 * g + 1)) +
                       l1(prune_tensor(whole, layer, "attn_k.weight"), g * dim, dim, 0, c) +
                       l1(prune_tensor(whole, layer, "attn_v.weight"), g * dim, dim, 0, c);
        }
        check_best(score, left, 0, 2, 1);
        assert_int_equal(pruned->desc.layer[layer].n_head, 2);
        assert_int_equal(pruned->desc.layer[layer].n_kv_head, 1);
    }
    pico_model_file_close(whole);
    pico_model_file_close(pruned);
}

/* The same seed gives the same choice, another one another. */
static void random_follows_the_seed(void **state) {
    (void)state;
    int left[4][PRUNE_UNITS];
    static const char *const seeds[] = {"1.prune.seed=1", "1.prune.seed=1", "1.prune.seed=2",
                                        "1.prune.seed=3"};
    for (int i = 0; i < 4; i++) {
        pico_model_file *whole = prune_model(2), *pruned = prune_model(2);
        prune_ok(pruned, PRUNE_SETTINGS("1.prune.neurons=0.5", "1.prune.score=random", seeds[i]));
        prune_left(&prune_tensor(whole, 0, "ffn_up.weight")->data,
                   &prune_tensor(pruned, 0, "ffn_up.weight")->data, 1, left[i]);
        pico_model_file_close(whole);
        pico_model_file_close(pruned);
    }
    assert_memory_equal(left[0], left[1], 49 * sizeof **left);
    assert_memory_not_equal(left[0], left[2], 49 * sizeof **left);
    assert_memory_not_equal(left[2], left[3], 49 * sizeof **left);
}

/* ---- errors ---- */

static void says_what_can_be_done(void **state) {
    (void)state;
    static const struct {
        uint32_t model;
        pico_status status;
        const char *says;
        const char *set[4]; /* NULL-terminated */
    } cases[] = {
        {0,
         PICO_E_UNSUPPORTED,
         "0.2 of 2 query heads of each KV head is none; expected 0.5 to 0.5; "
         "or groups = whole",
         {"1.prune.heads=0.2"}},
        {0,
         PICO_E_UNSUPPORTED,
         "0.25 of 2 query heads of each KV head is none",
         {"1.prune.heads=0.25"}},
        {0, PICO_E_UNSUPPORTED, "is all of them; expected 0.5 to 0.5", {"1.prune.heads=0.9"}},
        {3,
         PICO_E_UNSUPPORTED,
         "only one to choose from; or groups = within",
         {"1.prune.heads=0.5", "1.prune.groups=whole"}},
        {2,
         PICO_E_UNSUPPORTED,
         "heads = 0.1 of 3 heads is none; expected 0.333333 to 0.666667",
         {"1.prune.heads=0.1"}},
        {1,
         PICO_E_UNSUPPORTED,
         "neurons = 0.2 leaves 64 of 64 in multiples of 32",
         {"1.prune.neurons=0.2", "1.prune.neurons_multiple=32"}},
        {2, PICO_E_UNSUPPORTED, "neurons = 0.99 leaves 0 of 49", {"1.prune.neurons=0.99"}},
        {0,
         PICO_E_UNSUPPORTED,
         "2 KV heads cannot be pooled evenly into kv_heads = 3",
         {"1.prune.convert=mean", "1.prune.kv_heads=3"}},
        {0,
         PICO_E_INVALID,
         "set calibration = FILE",
         {"1.prune.heads=0.5", "1.prune.score=activation"}},
        {0,
         PICO_E_INVALID,
         "has no use with score = l1",
         {"1.prune.heads=0.5", "1.prune.calibration=/none"}},
        {0, PICO_E_INVALID, "without convert = mean", {"1.prune.kv_heads=2"}},
        {0,
         PICO_E_NOT_FOUND,
         "calibration: /none",
         {"1.prune.heads=0.5", "1.prune.score=activation", "1.prune.calibration=/none"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pico_model_file *file = prune_model(cases[i].model);
        prune_fails(file, cases[i].status, cases[i].says, cases[i].set);
        pico_model_file_close(file);
    }
}

static int stop_at_once(void *ctx) {
    (void)ctx;
    return 1;
}

static void can_be_stopped(void **state) {
    (void)state;
    prune_rig p;
    pico_error err = {0};
    const pico_chain_callbacks callbacks = {0};
    pico_model_file *file = prune_model(0), *again = prune_model(0);
    assert_int_equal(prune_chain(&p, file, PRUNE_SETTINGS("1.prune.heads=0.5"), &err), PICO_OK);
    p.r.host.should_stop = stop_at_once;
    assert_int_equal(pico_compress_chain(again, p.stage, p.n, &callbacks, &err), PICO_E_CANCELLED);
    rig_close(&p.r);
    pico_model_file_close(file), pico_model_file_close(again);
}

static void refuses_what_cannot_be_compared(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY};
    for (size_t i = 0; i < 2; i++) {
        pico_model_file *file = prune_model(0);
        ((float *)(uintptr_t)prune_tensor(file, 1, "ffn_up.weight")->data.codes)[17] = bad[i];
        prune_fails(file, PICO_E_INVALID, "layer 1: a weight or an activation is infinite or not a",
                    PRUNE_SETTINGS("1.prune.neurons=0.5"));
        pico_model_file_close(file);
        file = prune_model(0);
        ((float *)(uintptr_t)prune_tensor(file, 1, "ffn_up.weight")->data.codes)[17] = bad[i];
        prune_fails(file, PICO_E_INVALID, "layer 1: a weight or an activation is infinite or not a",
                    PRUNE_SETTINGS("1.prune.layers=0.5"));
        pico_model_file_close(file);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_model_with_silent_parts),
        cmocka_unit_test(ratios_of_zero_change_nothing),
        cmocka_unit_test(l1_keeps_the_largest_weights),
        cmocka_unit_test(whole_groups_score_together),
        cmocka_unit_test(random_follows_the_seed),
        cmocka_unit_test(says_what_can_be_done),
        cmocka_unit_test(can_be_stopped),
        cmocka_unit_test(refuses_what_cannot_be_compared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
