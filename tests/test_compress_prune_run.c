/* layers: rig train */
/*
 * What pruned models do: on the portable kernels, the best ones, AVX2 and behind the queue of a
 * device they compute what the slow reference does, as they are and in int8; a file keeps them;
 * training goes on from them, with the gradients of the forward pass.
 */
#include "formats_support.h"

#include "prune_kit.h"
#include "ref_train.h"
#include "train_kit.h"

/* Pruned in every way that the model allows. */
static pico_model_file *pruned_model(uint32_t index) {
    static const struct {
        uint32_t model;
        const char *set[5];
    } ways[] = {
        {0, {"1.prune.heads=0.5", "1.prune.neurons=0.2"}},
        {1, {"1.prune.heads=0.5", "1.prune.neurons=0.5", "1.prune.layers=0.25"}},
        {2, {"1.prune.heads=0.4", "1.prune.neurons=0.3"}},
        {3, {"1.prune.heads=0.5", "1.prune.neurons=0.2", "1.prune.layers=0.3"}},
        {4, {"1.prune.heads=0.4", "1.prune.neurons=0.3", "1.prune.layers=0.25"}},
        {5, {"1.prune.heads=0.5", "1.prune.groups=whole", "1.prune.neurons=0.3"}},
        {6, {"1.prune.heads=0.5", "1.prune.neurons=0.3", "1.prune.layers=0.5"}},
        {7,
         {"1.prune.heads=0.5", "1.prune.neurons=0.3", "1.prune.layers=0.4",
          "1.prune.convert=mean"}},
        {8, {"1.prune.heads=0.25", "1.prune.neurons=0.2", "1.prune.layers=0.2"}},
        {PRUNE_UNEVEN, {"1.prune.heads=0.5", "1.prune.neurons=0.23", "1.prune.neurons_multiple=1"}},
    };
    pico_model_file *file = prune_model(ways[index].model);
    prune_ok(file, ways[index].set);
    return file;
}

static void open_rig(rig *r, const kit_variant *variant, const char *one_more) {
    pico_error err = {0};
    const char *set[4] = {0};
    uint32_t n_set = 0;
    for (uint32_t i = 0; i < 2; i++) {
        if (variant->set[i][0] != '\0') {
            set[n_set++] = variant->set[i];
        }
    }
    set[n_set] = one_more;
    const rig_setup setup = {.search = PICO_BUILD_DIR "/plugins",
                             .backend = variant->backend,
                             .set = set,
                             .n_threads = variant->n_threads,
                             .hide_optional = variant->hide_optional};
    if (rig_open(r, &setup, &err) != PICO_OK) {
        fail_msg("%s: %s", variant->name, err.message);
    }
}

/* ---- forward ---- */

/* A text in one piece of n rows and row by row, against the reference. Takes the file over. */
static void check_forward(rig *r, pico_model_file *file, uint32_t n, double limit) {
    const ref_mask none = {.window_limit = -1};
    const uint32_t n_vocab = file->desc.n_vocab;
    const pico_session_params params = {
        .n_slots = 2, .max_rows = n, .max_logit_rows = n, .max_top_k = 1};
    pico_model *model = NULL;
    pico_session *session = NULL;
    pico_error err = {0};
    pico_row rows[64];
    int32_t token[64];
    uint64_t random = 77;
    pico_forward_out out;
    double *want = calloc((size_t)n * n_vocab, sizeof *want);
    float *got = kit_floats((size_t)n * n_vocab);
    for (uint32_t i = 0; i < n; i++) {
        token[i] = (int32_t)rig_below(&random, n_vocab);
    }
    assert_true(ref_model_logits(file, &none, token, n, want));
    if (rig_model_open(r, file, PICO_DTYPE_F32, &model, &err) != PICO_OK ||
        pico_session_open(model, &params, &session, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    for (uint32_t step = n; step > 0; step = step == n ? 1 : 0) {
        for (uint32_t at = 0; at < n; at += step) {
            for (uint32_t i = 0; i < step; i++) {
                rows[i] = (pico_row){.token = token[at + i],
                                     .prev = at + i == 0 ? -1 : token[at + i - 1],
                                     .slot = step == n ? 0 : 1,
                                     .pos = (int32_t)(at + i),
                                     .parent = (int32_t)i - 1,
                                     .want = PICO_ROW_LOGITS};
            }
            assert_int_equal(pico_session_forward(session, rows, step, &out, &err), PICO_OK);
            assert_int_equal(rig_read(r, &out.logits, got + (size_t)at * n_vocab, step * n_vocab),
                             PICO_OK);
        }
        for (size_t i = 0; i < (size_t)n * n_vocab; i++) {
            if (!(fabs(want[i] - (double)got[i]) <= limit)) {
                fail_msg("%s, steps of %u: logit %zu is %.9g, expected %.9g within %g",
                         model->desc.family, step, i, (double)got[i], want[i], limit);
            }
        }
    }
    pico_session_close(session);
    pico_model_close(model);
    free(want), free(got);
}

static void computes_what_the_reference_does(void **state) {
    for (uint32_t i = 0; i < PRUNE_MODELS; i++) {
        rig r;
        open_rig(&r, *state, NULL);
        check_forward(&r, pruned_model(i), 40, 1e-4);
        rig_close(&r);
    }
}

/* Widths that are no multiple of anything, in rows and in groups; inputs are not rounded. */
static void computes_in_int8_too(void **state) {
    const kit_variant *variant = *state;
    static const char *const layouts[] = {"1.int8.granularity=row", "1.int8.granularity=group"};
    if (strcmp(variant->backend, "cpu") != 0) {
        skip(); /* there is nothing to set for the device behind the queue */
    }
    for (uint32_t i = 0; i < PRUNE_MODELS; i++) {
        rig r;
        pico_model_file *file = pruned_model(i);
        prune_ok(file, PRUNE_SETTINGS(layouts[i % 2]));
        open_rig(&r, variant, "backend.cpu.activations=f32");
        check_forward(&r, file, 40, 1e-4);
        rig_close(&r);
    }
}

/* ---- files ---- */

static void survives_a_file(void **state) {
    const kit_variant *variant = *state;
    if (variant->hide_optional == 0) {
        skip(); /* once is enough */
    }
    for (uint32_t i = 0; i < PRUNE_MODELS; i++) {
        pico_model_file *file = pruned_model(i), *back = NULL;
        assert_survives_gguf(file, &back);
        prune_same_logits(file, back, 0);
        pico_model_file_close(back);
        prune_ok(file, PRUNE_SETTINGS("1.int8.granularity=row"));
        assert_survives_gguf(file, NULL);
        pico_model_file_close(file);
    }
}

/* ---- training ---- */

enum { SEQ = 2, LENGTH = 11, ROWS = SEQ * LENGTH, N_STEP = 6 };

typedef struct course {
    pico_model *model;
    step_kit kit;
    int32_t token[SEQ * (LENGTH + 1)];
} course;

static const step_weights weights = {.ce = 0.6, .mtp = 0.4, .temperature = 1};

/* Mean cross-entropy of all heads that predict one token, in double precision. */
static double reference_loss(const course *c) {
    const pico_model_desc *desc = &c->model->desc;
    const ref_mask none = {.window_limit = -1};
    double sum[8] = {0}, *z = calloc((size_t)LENGTH * desc->n_vocab, sizeof *z);
    uint32_t n[8] = {0};
    for (uint32_t s = 0; s < SEQ; s++) {
        const int32_t *token = c->token + s * (LENGTH + 1);
        for (uint32_t k = 0; k <= desc->n_mtp_head; k++) {
            assert_true(k == 0 ? ref_model_logits(c->model->file, &none, token, LENGTH, z)
                               : ref_model_mtp(c->model->file, token, LENGTH, k - 1, z));
            for (uint32_t t = 0; t + k < LENGTH; t++, n[k]++) {
                sum[k] += ref_cross_entropy(z + (size_t)t * desc->n_vocab, NULL, desc->n_vocab,
                                            token[t + k + 1]);
            }
        }
    }
    free(z);
    double total = weights.ce * sum[0] / n[0];
    for (uint32_t k = 1; k <= desc->n_mtp_head; k++) {
        total += weights.mtp * sum[k] / n[k] / desc->n_mtp_head;
    }
    return total;
}

/* The largest element of the gradient of each parameter is the slope of the loss. */
static void check_gradients(const course *c) {
    for (uint32_t index = 0; index < pico_train_table.n_params(c->kit.train); index++) {
        pico_param p;
        assert_int_equal(pico_train_table.param(c->kit.train, index, &p), PICO_OK);
        const pico_file_tensor *tensor = pico_model_file_find(c->model->file, p.name);
        float *got = step_read(&c->kit, &p.grad), *value = (float *)(uintptr_t)tensor->data.codes;
        int64_t at = 0;
        for (int64_t i = 0; i < p.grad.shape[0] * p.grad.shape[1]; i++) {
            at = fabsf(got[i]) > fabsf(got[at]) ? i : at;
        }
        const float middle = value[at], above = middle + 1e-3f, below = middle - 1e-3f;
        value[at] = above;
        const double high = reference_loss(c);
        value[at] = below;
        const double low = reference_loss(c);
        value[at] = middle;
        const double want = (high - low) / ((double)above - (double)below);
        if (!(fabs(want - (double)got[at]) <= 2e-3 * fabs(want) + 1e-6)) {
            fail_msg("%s: gradient of %s is %.8g, expected %.8g", c->model->desc.family, p.name,
                     (double)got[at], want);
        }
        free(got);
    }
}

static void take_step(const course *c, uint64_t step) {
    pico_error err = {0};
    for (uint32_t i = 0; i < pico_train_table.n_params(c->kit.train); i++) {
        const pico_update update = {.struct_size = sizeof update,
                                    .lr = 3e-3f,
                                    .beta1 = 0.9f,
                                    .beta2 = 0.95f,
                                    .eps = 1e-8f,
                                    .grad_scale = 1,
                                    .step = step};
        pico_param p;
        assert_int_equal(pico_train_table.param(c->kit.train, i, &p), PICO_OK);
        if (p.trained) {
            step_check(pico_train_table.update(c->kit.train, i, &update), &err, "update");
        }
    }
}

static void training_goes_on(void **state) {
    for (uint32_t m = 0; m < PRUNE_MODELS; m++) {
        rig r;
        course c;
        pico_error err = {0};
        uint64_t random = 5 + m;
        double first = 0, last = 0;
        open_rig(&r, *state, NULL);
        /* Past the rig's own device, which offers no extension. */
        assert_int_equal(
            pico_device_init(&r.device, &r.backend.loaded->ops.backend, r.backend.self, &err),
            PICO_OK);
        assert_int_equal(rig_model_open(&r, pruned_model(m), PICO_DTYPE_F32, &c.model, &err),
                         PICO_OK);
        step_open(&c.kit, c.model, 0, ROWS, LENGTH, 7);
        for (uint32_t i = 0; i < pico_train_table.n_params(c.kit.train); i++) {
            pico_param p;
            assert_int_equal(pico_train_table.param(c.kit.train, i, &p), PICO_OK);
            assert_true(!p.trained || pico_train_table.optimizer(
                                          c.kit.train, i, PICO_OPTIMIZER_ADAMW, &err) == PICO_OK);
        }
        for (uint32_t i = 0; i < SEQ * (LENGTH + 1); i++) {
            c.token[i] = (int32_t)rig_below(&random, c.model->desc.n_vocab);
        }
        for (uint64_t step = 1; step <= N_STEP; step++) {
            assert_int_equal(pico_train_table.zero_grad(c.kit.train), PICO_OK);
            last = step_run(&c.kit, c.token, SEQ, LENGTH, 0, &weights, 1).total;
            if (step == 1) {
                first = last;
                const double want = reference_loss(&c);
                assert_true(fabs(first - want) <= 2e-5);
                check_gradients(&c);
            }
            take_step(&c, step);
        }
        if (!(last < 0.95 * first)) {
            fail_msg("%s %u: the loss went from %g to %g", c.model->desc.family, m, first, last);
        }
        step_close(&c.kit);
        pico_model_close(c.model);
        rig_close(&r);
    }
}

int main(void) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(computes_what_the_reference_does),
        cmocka_unit_test(computes_in_int8_too),
        cmocka_unit_test(survives_a_file),
        cmocka_unit_test(training_goes_on),
    };
    struct CMUnitTest forward[] = {
        cmocka_unit_test(computes_what_the_reference_does),
        cmocka_unit_test(computes_in_int8_too),
    };
    return KIT_RUN("pruned models", tests) + KIT_RUN_AVX2("pruned models, AVX2", forward);
}
