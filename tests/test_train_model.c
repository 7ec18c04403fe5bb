/* layers: rig train */
/*
 * Training whole models of every family, on the portable kernels, the best ones and behind the queue
 * of a device: losses equal those of the double-precision forward pass, gradients of every parameter
 * equal its central differences; recomputing layers, blocks of rows and micro-batches change
 * nothing that they should not; saving and going on equals going on; misuse is refused.
 */
#include "session_kit.h"

#include "ref_model.h"
#include "ref_train.h"
#include "train_kit.h"

enum { SEQ = 2, LENGTH = 13, ROWS = SEQ * LENGTH };

static const step_weights weights = {
    .kl = 0.7, .ce = 0.3, .mtp = 0.2, .draft = 0.1, .temperature = 3};

/* ---- a model to train ---- */

typedef struct bench {
    rig rig;
    pico_model *model;
    step_kit kit;
    int32_t token[SEQ * (LENGTH + 1)];
    float *teacher; /* (ROWS, n_vocab) */
    uint64_t random;
    char what[96];
} bench;

static void bench_open_with(bench *b, const kit_variant *variant, uint32_t model, uint32_t draft,
                            uint32_t flags, uint32_t block) {
    pico_error err = {0};
    const char *set[3] = {0};
    uint32_t n_set = 0;
    for (uint32_t i = 0; i < 2; i++) {
        if (variant->set[i][0] != '\0') {
            set[n_set++] = variant->set[i];
        }
    }
    const rig_setup setup = {.search = PICO_BUILD_DIR "/plugins",
                             .backend = variant->backend,
                             .set = set,
                             .n_threads = variant->n_threads};
    tiny_model tiny = kit_model(model);
    *b = (bench){.random = 77 + model};
    (void)snprintf(b->what, sizeof b->what, "%s %u on %s", tiny.family, model, variant->name);
    tiny.draft = draft;
    tiny.window[1] = 5;
    tiny.window[2] = 8;
    tiny.heat = 6;
    /* Past the rig's own device, which offers no extension. */
    if (rig_open(&b->rig, &setup, &err) != PICO_OK ||
        pico_device_init(&b->rig.device, &b->rig.backend.loaded->ops.backend, b->rig.backend.self,
                         &err) != PICO_OK ||
        tiny_model_open(&b->rig, &tiny, PICO_DTYPE_F32, &b->model, &err) != PICO_OK) {
        fail_msg("%s: %s", b->what, err.message);
    }
    step_open(&b->kit, b->model, flags, ROWS, LENGTH, block);
    for (uint32_t i = 0; i < SEQ * (LENGTH + 1); i++) {
        b->token[i] = (int32_t)rig_below(&b->random, tiny.n_vocab);
    }
    b->teacher = kit_floats((size_t)ROWS * tiny.n_vocab);
    for (uint32_t i = 0; i < ROWS * tiny.n_vocab; i++) {
        b->teacher[i] = (float)(8 * rig_uniform(&b->random) - 4);
    }
    step_set_teacher(&b->kit, b->teacher, ROWS);
}

static void bench_open(bench *b, const kit_variant *variant, uint32_t model, uint32_t flags,
                       uint32_t block) {
    bench_open_with(b, variant, model, TINY_DRAFT_OWN, flags, block);
}

static void bench_close(bench *b) {
    step_close(&b->kit);
    pico_model_close(b->model);
    rig_close(&b->rig);
    free(b->teacher);
}

static step_losses bench_step(bench *b, int backward) {
    return step_run(&b->kit, b->token, SEQ, LENGTH, 0, &weights, backward);
}

/* ---- the same in double precision ---- */

static double *doubles(const float *x, size_t n) {
    double *y = malloc(n * sizeof *y);
    for (size_t i = 0; i < n; i++) {
        y[i] = (double)x[i];
    }
    return y;
}

/* A term of one head: cross-entropy with the token `ahead` places on, or divergence from the
 * teacher's row ahead - 1 places on, summed; n counts the rows. */
static double term_sum(const bench *b, const double *logits, uint32_t stride, uint32_t seq,
                       uint32_t ahead, const double *teacher, uint32_t *n) {
    const uint32_t n_vocab = b->model->desc.n_vocab;
    double total = 0;
    for (uint32_t t = 0; t + ahead <= LENGTH; t++, (*n)++) {
        const double *z = logits + (size_t)t * stride;
        total += teacher == NULL
                     ? ref_cross_entropy(z, NULL, n_vocab, b->token[seq * (LENGTH + 1) + t + ahead])
                     : ref_divergence(teacher + (size_t)(seq * LENGTH + t + ahead - 1) * n_vocab, z,
                                      NULL, n_vocab, weights.temperature, 0);
    }
    return total;
}

/* The cross-entropy of a slot of a draft head with the tokens that it knows, summed. */
static double known_sum(const bench *b, const double *logits, uint32_t stride, uint32_t seq,
                        uint32_t ahead, uint32_t *n) {
    const pico_model_desc *desc = &b->model->desc;
    double total = 0;
    for (uint32_t t = 0; t + ahead <= LENGTH; t++) {
        for (uint32_t i = 0; i < desc->n_draft_vocab; i++) {
            if (desc->draft_vocab[i] == b->token[seq * (LENGTH + 1) + t + ahead]) {
                total += ref_cross_entropy(logits + (size_t)t * stride, NULL, desc->n_draft_vocab,
                                           (int32_t)i);
                ++*n;
            }
        }
    }
    return total;
}

static double reference_loss(void *arg) {
    const bench *b = arg;
    const pico_model_desc *desc = &b->model->desc;
    const pico_model_file *file = b->model->file;
    const ref_mask mask = {.window_limit = -1};
    const uint32_t n_vocab = desc->n_vocab;
    double *z = malloc((size_t)LENGTH * n_vocab * (desc->n_draft + 1) * sizeof *z);
    double *teacher = doubles(b->teacher, (size_t)ROWS * n_vocab);
    double ce = 0, kl = 0, mtp = 0, draft = 0;
    uint32_t n = 0, n_kl = 0, n_mtp[8] = {0}, n_slot[8] = {0};
    double mtp_sum[8] = {0}, slot_sum[8] = {0};
    for (uint32_t s = 0; s < SEQ; s++) {
        const int32_t *token = b->token + s * (LENGTH + 1);
        assert_true(ref_model_logits(file, &mask, token, LENGTH, z));
        ce += term_sum(b, z, n_vocab, s, 1, NULL, &n);
        kl += term_sum(b, z, n_vocab, s, 1, teacher, &n_kl);
        for (uint32_t k = 0; k < desc->n_mtp_head; k++) {
            assert_true(ref_model_mtp(file, token, LENGTH, k, z));
            mtp_sum[k] += term_sum(b, z, n_vocab, s, k + 2, NULL, &n_mtp[k]);
        }
        if (desc->n_draft != 0) {
            assert_true(ref_model_draft(file, token, LENGTH, z));
        }
        for (uint32_t i = 0; i < desc->n_draft; i++) {
            const uint32_t known = desc->n_draft_vocab;
            const uint32_t ahead = i + (desc->draft_flags & PICO_DRAFT_READS_TOKEN ? 2 : 1);
            slot_sum[i] += known != 0
                               ? known_sum(b, z + (size_t)i * known, desc->n_draft * known, s,
                                           ahead, &n_slot[i])
                               : term_sum(b, z + (size_t)i * n_vocab, desc->n_draft * n_vocab, s,
                                          ahead, teacher, &n_slot[i]);
        }
    }
    for (uint32_t k = 0; k < desc->n_mtp_head; k++) {
        mtp += mtp_sum[k] / n_mtp[k] / desc->n_mtp_head;
    }
    for (uint32_t i = 0; i < desc->n_draft; i++) {
        draft += slot_sum[i] / n_slot[i] / desc->n_draft;
    }
    free(z);
    free(teacher);
    return weights.ce * ce / n +
           weights.kl * weights.temperature * weights.temperature * kl / n_kl + weights.mtp * mtp +
           weights.draft * draft;
}

/* d loss / d value i of a tensor of the file, which is F32. */
static double reference_gradient(bench *b, const char *name, int64_t i) {
    const pico_file_tensor *tensor = pico_model_file_find(b->model->file, name);
    float *value = (float *)(uintptr_t)tensor->data.codes + i;
    const float at = *value, step = 1e-3f;
    const float above = at + step, below = at - step;
    *value = above;
    const double high = reference_loss(b);
    *value = below;
    const double low = reference_loss(b);
    *value = at;
    return (high - low) / ((double)above - (double)below);
}

/* Compares some elements of the gradient of every parameter: those that are largest, and others. */
static void compare_gradients(bench *b) {
    for (uint32_t index = 0; index < pico_train_table.n_params(b->kit.train); index++) {
        pico_param p;
        assert_int_equal(pico_train_table.param(b->kit.train, index, &p), PICO_OK);
        const int64_t n = p.grad.shape[0] * p.grad.shape[1];
        float *got = step_read(&b->kit, &p.grad);
        int64_t largest = 0;
        for (int64_t i = 0; i < n; i++) {
            largest = fabsf(got[i]) > fabsf(got[largest]) ? i : largest;
        }
        const double limit = 2e-3 * fabs((double)got[largest]) + 1e-6;
        for (int place = 0; place < 4; place++) {
            const int64_t i = place == 0 ? largest : (int64_t)rig_below(&b->random, (uint32_t)n);
            const double want = reference_gradient(b, p.name, i);
            if (!(fabs(want - (double)got[i]) <= limit)) {
                fail_msg("%s: gradient of %s[%lld] is %.8g, expected %.8g within %.2g", b->what,
                         p.name, (long long)i, (double)got[i], want, limit);
            }
        }
        free(got);
    }
}

/* Loss and gradients of one step. */
static void check_step(bench *b) {
    assert_int_equal(pico_train_table.zero_grad(b->kit.train), PICO_OK);
    const step_losses got = bench_step(b, 1);
    const double want = reference_loss(b);
    if (!(fabs(got.total - want) <= 2e-5)) {
        fail_msg("%s: the loss is %.8f, expected %.8f", b->what, got.total, want);
    }
    compare_gradients(b);
}

static void gradients_are_those_of_the_forward_pass(void **state) {
    for (uint32_t model = 0; model < KIT_MODELS; model++) {
        bench b;
        bench_open(&b, *state, model, 0, 7);
        check_step(&b);
        bench_close(&b);
    }
}

/* Draft heads that share the output matrix, tied or not, capped or not, whole or some of its rows; the
 * matrix learns from them too. */
static void shared_outputs_have_gradients_too(void **state) {
    static const uint32_t models[] = {0, 2, 4};
    for (uint32_t i = 0; i < 6; i++) {
        bench b;
        bench_open_with(&b, *state, models[i / 2],
                        i % 2 == 0 ? TINY_DRAFT_SHARED : TINY_DRAFT_REDUCED, 0, 7);
        check_step(&b);
        bench_close(&b);
    }
}

/* Draft heads of each form that are told the next token, whose embedding, with a norm or without, learns
 * from them too. Model 2 has learned positions, which are no part of what is read. */
static void heads_that_read_tokens_have_gradients_too(void **state) {
    static const struct {
        uint32_t model, draft;
    } cases[] = {{4, TINY_DRAFT_OWN},    {0, TINY_DRAFT_SHARED},  {2, TINY_DRAFT_SHARED},
                 {4, TINY_DRAFT_SHARED}, {4, TINY_DRAFT_REDUCED}, {5, TINY_DRAFT_SHARED}};
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bench b;
        bench_open_with(&b, *state, cases[i].model, cases[i].draft | TINY_DRAFT_READS, 0, 7);
        assert_true((b.model->desc.draft_flags & PICO_DRAFT_READS_TOKEN) != 0);
        check_step(&b);
        bench_close(&b);
    }
}

/* ---- what must not change a bit ---- */

/* All gradients, one behind the other. */
static float *all_gradients(const bench *b, size_t *n) {
    float *all = NULL;
    *n = 0;
    for (uint32_t i = 0; i < pico_train_table.n_params(b->kit.train); i++) {
        pico_param p;
        assert_int_equal(pico_train_table.param(b->kit.train, i, &p), PICO_OK);
        if (p.grad.buffer == NULL) {
            continue;
        }
        const size_t size = (size_t)(p.grad.shape[0] * p.grad.shape[1]);
        float *one = step_read(&b->kit, &p.grad);
        all = realloc(all, (*n + size) * sizeof *all);
        assert_non_null(all);
        memcpy(all + *n, one, size * sizeof *all);
        *n += size;
        free(one);
    }
    return all;
}

static float *gradients_with(const kit_variant *variant, uint32_t model, uint32_t flags,
                             uint32_t block, size_t *n) {
    bench b;
    bench_open(&b, variant, model, flags, block);
    assert_int_equal(pico_train_table.zero_grad(b.kit.train), PICO_OK);
    (void)bench_step(&b, 1);
    float *all = all_gradients(&b, n);
    bench_close(&b);
    return all;
}

static void recomputing_and_threads_change_no_bit(void **state) {
    kit_variant other = *(const kit_variant *)*state;
    other.n_threads = other.n_threads == 1 ? 2 : 1;
    for (uint32_t model = 0; model < KIT_MODELS; model++) {
        size_t n[3];
        float *plain = gradients_with(*state, model, 0, ROWS, &n[0]);
        float *again = gradients_with(*state, model, PICO_TRAIN_RECOMPUTE, ROWS, &n[1]);
        float *shared = gradients_with(&other, model, 0, ROWS, &n[2]);
        assert_true(n[0] == n[1] && n[0] == n[2]);
        kit_same(plain, again, n[0]);
        kit_same(plain, shared, n[0]);
        free(plain);
        free(again);
        free(shared);
    }
}

static int has_bf16(const kit_variant *variant) {
    bench b;
    bench_open(&b, variant, 0, 0, ROWS);
    const pico_train_ops *ops =
        b.rig.backend.loaded->ops.backend.extension(b.rig.backend.self, PICO_TRAIN_EXTENSION);
    const int has = (ops->features(b.rig.backend.self) & PICO_TRAIN_HAS_BF16) != 0;
    bench_close(&b);
    return has;
}

/* Products in BF16 turn the gradient by little (8 bits of each factor), and never by nothing. They
 * keep the rules of those in F32. */
static void bf16_gradients_point_the_same_way(void **state) {
    kit_variant other = *(const kit_variant *)*state;
    other.n_threads = other.n_threads == 1 ? 2 : 1;
    for (uint32_t model = 0; has_bf16(*state) && model < KIT_MODELS; model++) {
        size_t n[3];
        float *exact = gradients_with(*state, model, 0, ROWS, &n[0]);
        float *rounded = gradients_with(*state, model, PICO_TRAIN_BF16, ROWS, &n[1]);
        float *again =
            gradients_with(&other, model, PICO_TRAIN_BF16 | PICO_TRAIN_RECOMPUTE, ROWS, &n[2]);
        double away = 0, whole = 0;
        for (size_t i = 0; i < n[0]; i++) {
            const double d = (double)rounded[i] - (double)exact[i];
            away += d * d;
            whole += (double)exact[i] * (double)exact[i];
        }
        assert_true(n[0] == n[1] && n[0] == n[2]);
        kit_same(rounded, again, n[0]);
        if (!(away > 0 && sqrt(away / whole) < 0.03)) {
            fail_msg("model %u: the gradient in BF16 is %.3g of its length away", model,
                     sqrt(away / whole));
        }
        free(exact);
        free(rounded);
        free(again);
    }
}

/* Two micro-batches of one sequence each add up to the batch of both, up to rounding. */
static void micro_batches_add_up(void **state) {
    for (uint32_t model = 0; model < KIT_MODELS; model++) {
        bench b;
        size_t n;
        bench_open(&b, *state, model, 0, 5);
        const step_weights half = {.ce = 0.5, .temperature = 1},
                           whole = {.ce = 1, .temperature = 1};
        assert_int_equal(pico_train_table.zero_grad(b.kit.train), PICO_OK);
        (void)step_run(&b.kit, b.token, SEQ, LENGTH, 0, &whole, 1);
        float *together = all_gradients(&b, &n);
        double most = 0;
        for (size_t i = 0; i < n; i++) {
            most = fabs((double)together[i]) > most ? fabs((double)together[i]) : most;
        }
        assert_int_equal(pico_train_table.zero_grad(b.kit.train), PICO_OK);
        for (uint32_t s = 0; s < SEQ; s++) {
            (void)step_run(&b.kit, b.token + s * (LENGTH + 1), 1, LENGTH, 0, &half, 1);
        }
        float *added = all_gradients(&b, &n);
        kit_close_to(together, added, n, 1e-5 * most);
        free(together);
        free(added);
        bench_close(&b);
    }
}

/* ---- heads alone ---- */

static void compare_frozen_trunk(const kit_variant *variant, uint32_t draft) {
    bench b, trunk;
    pico_error err = {0};
    bench_open_with(&trunk, variant, 4, draft, 0, 7);
    bench_open_with(&b, variant, 4, draft, PICO_TRAIN_HEADS, 7);
    assert_int_equal(pico_train_table.zero_grad(b.kit.train), PICO_OK);
    assert_int_equal(pico_train_table.zero_grad(trunk.kit.train), PICO_OK);
    (void)bench_step(&b, 1);
    (void)bench_step(&trunk, 1);
    uint32_t n_trained = 0;
    for (uint32_t i = 0; i < pico_train_table.n_params(b.kit.train); i++) {
        pico_param p, q;
        assert_int_equal(pico_train_table.param(b.kit.train, i, &p), PICO_OK);
        assert_int_equal(pico_train_table.param(trunk.kit.train, i, &q), PICO_OK);
        assert_int_equal(p.trained,
                         strncmp(p.name, "mtp.", 4) == 0 || strncmp(p.name, "draft_", 6) == 0);
        if (p.trained) { /* the same gradient as with a trunk that learns */
            float *got = step_read(&b.kit, &p.grad), *want = step_read(&trunk.kit, &q.grad);
            kit_same(want, got, (size_t)(p.grad.shape[0] * p.grad.shape[1]));
            free(got);
            free(want);
            n_trained++;
        } else {
            assert_null(p.grad.buffer);
            assert_int_equal(pico_train_table.optimizer(b.kit.train, i, PICO_OPTIMIZER_ADAMW, &err),
                             PICO_E_INVALID);
        }
    }
    assert_int_equal(n_trained, draft & TINY_DRAFT_READS ? 6 : 5);
    bench_close(&b);
    bench_close(&trunk);
}

static void heads_learn_on_a_frozen_trunk(void **state) {
    bench b;
    pico_error err = {0};
    compare_frozen_trunk(*state, TINY_DRAFT_OWN);
    compare_frozen_trunk(*state, TINY_DRAFT_SHARED);
    compare_frozen_trunk(*state, TINY_DRAFT_REDUCED);
    compare_frozen_trunk(*state, TINY_DRAFT_SHARED | TINY_DRAFT_READS);
    /* a model without such heads */
    const tiny_model plain = kit_model(0);
    pico_train *train = NULL;
    const pico_train_params params = {.struct_size = sizeof params,
                                      .flags = PICO_TRAIN_HEADS,
                                      .max_rows = 8,
                                      .max_length = 8,
                                      .max_logit_rows = 8};
    bench_open(&b, *state, 0, 0, 7);
    (void)plain;
    pico_train_table.close(b.kit.train);
    assert_int_equal(pico_train_table.open(b.model, &params, &train, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "heads"));
    b.kit.train = NULL;
    bench_close(&b);
}

/* ---- steps, saving ---- */

static void choose_optimizers(bench *b) {
    pico_error err = {0};
    for (uint32_t i = 0; i < pico_train_table.n_params(b->kit.train); i++) {
        pico_param p;
        assert_int_equal(pico_train_table.param(b->kit.train, i, &p), PICO_OK);
        step_check(pico_train_table.optimizer(b->kit.train, i,
                                              p.group == PICO_PARAM_MATRIX ? PICO_OPTIMIZER_MUON
                                                                           : PICO_OPTIMIZER_ADAMW,
                                              &err),
                   &err, p.name);
    }
}

static double train_step(bench *b, uint64_t step) {
    const pico_update update = {.struct_size = sizeof update,
                                .lr = 0.01f,
                                .weight_decay = 0.01f,
                                .beta1 = 0.8f,
                                .beta2 = 0.95f,
                                .eps = 1e-10f,
                                .momentum = 0.9f,
                                .grad_scale = 1,
                                .step = step};
    assert_int_equal(pico_train_table.zero_grad(b->kit.train), PICO_OK);
    const step_losses losses = bench_step(b, 1);
    for (uint32_t i = 0; i < pico_train_table.n_params(b->kit.train); i++) {
        assert_int_equal(pico_train_table.update(b->kit.train, i, &update), PICO_OK);
    }
    return losses.total;
}

static char *saved(const bench *b, uint64_t *bytes) {
    pico_error err = {0};
    step_check(pico_train_table.save(b->kit.train, NULL, bytes, &err), &err, "size");
    char *data = malloc(*bytes);
    step_check(pico_train_table.save(b->kit.train, data, bytes, &err), &err, "save");
    return data;
}

/* Six steps lower the loss; three, a save, a load elsewhere and three more give the same bits. */
static void going_on_from_saved_bytes_changes_no_bit(void **state) {
    for (uint32_t model = 0; model < KIT_MODELS; model++) {
        bench a, b;
        uint64_t n[3];
        pico_error err = {0};
        bench_open(&a, *state, model, 0, 9);
        bench_open(&b, *state, model, PICO_TRAIN_RECOMPUTE, 9);
        choose_optimizers(&a);
        choose_optimizers(&b);
        double first = 0, last = 0;
        char *half = NULL;
        for (uint64_t step = 1; step <= 6; step++) {
            last = train_step(&a, step);
            first = step == 1 ? last : first;
            if (step == 3) {
                half = saved(&a, &n[0]);
            }
        }
        if (!(last < first)) {
            fail_msg("%s: the loss went from %g to %g", a.what, first, last);
        }
        (void)train_step(&b, 1);
        step_check(pico_train_table.load(b.kit.train, half, n[0], &err), &err, "load");
        for (uint64_t step = 4; step <= 6; step++) {
            (void)train_step(&b, step);
        }
        char *all = saved(&a, &n[1]), *other = saved(&b, &n[2]);
        assert_true(n[1] == n[2]);
        assert_memory_equal(all, other, n[1]);
        /* bytes that do not fit change nothing */
        half[4]++;
        assert_int_equal(pico_train_table.load(b.kit.train, half, n[0], &err), PICO_E_CORRUPT);
        assert_int_equal(pico_train_table.load(b.kit.train, all, n[1] - 8, &err), PICO_E_CORRUPT);
        free(other);
        other = saved(&b, &n[2]);
        assert_memory_equal(all, other, n[1]);
        free(half);
        free(all);
        free(other);
        bench_close(&a);
        bench_close(&b);
    }
}

/* The written file holds the values; a model made of it computes what training computes. */
static void a_written_model_is_the_trained_one(void **state) {
    for (uint32_t model = 0; model < KIT_MODELS; model++) {
        char path[] = "/tmp/pico_train_XXXXXX";
        pico_error err = {0};
        bench b;
        pico_model_file *file = NULL;
        const ref_mask mask = {.window_limit = -1};
        const int fd = mkstemp(path);
        assert_true(fd >= 0);
        (void)close(fd);
        bench_open(&b, *state, model, 0, ROWS);
        choose_optimizers(&b);
        (void)train_step(&b, 1);
        step_check(pico_train_write(b.kit.train, path, &err), &err, "write");
        step_check(pico_model_file_open(path, NULL, &file, &err), &err, "open what was written");
        const uint32_t n_vocab = file->desc.n_vocab;
        int32_t tokens[LENGTH];
        memcpy(tokens, b.token, sizeof tokens);
        double *want = malloc((size_t)LENGTH * n_vocab * sizeof *want);
        float *got = kit_floats((size_t)LENGTH * n_vocab);
        pico_tensor logits, d;
        assert_true(ref_model_logits(file, &mask, tokens, LENGTH, want));
        step_check(pico_train_table.forward(b.kit.train, tokens, 1, LENGTH, &err), &err, "forward");
        step_check(pico_train_table.logits(b.kit.train, 0, 0, LENGTH, &logits, &d, &err), &err,
                   "logits");
        assert_int_equal(rig_read(&b.rig, &logits, got, (size_t)LENGTH * n_vocab), PICO_OK);
        for (size_t i = 0; i < (size_t)LENGTH * n_vocab; i++) {
            if (!(fabs(want[i] - (double)got[i]) <= 1e-4)) {
                fail_msg("%s: logit %zu is %g, expected %g", b.what, i, (double)got[i], want[i]);
            }
        }
        free(want);
        free(got);
        pico_model_file_close(file);
        (void)unlink(path);
        bench_close(&b);
    }
}

/* ---- misuse ---- */

static void misuse_is_refused(void **state) {
    const pico_train_api *api = &pico_train_table;
    bench b;
    pico_error err = {0};
    pico_tensor logits, d;
    pico_train *second = NULL;
    int32_t tokens[ROWS] = {0};
    uint32_t index = 0;
    bench_open(&b, *state, 2, 0, 9); /* learned positions */
    pico_train *t = b.kit.train;
    assert_int_equal(api->backward(t, &err), PICO_E_INVALID);
    assert_int_equal(api->logits(t, 0, 0, 1, &logits, &d, &err), PICO_E_LIMIT);
    assert_int_equal(api->forward(t, tokens, 1, LENGTH + 1, &err), PICO_E_LIMIT);
    assert_int_equal(api->forward(t, tokens, SEQ + 1, LENGTH, &err), PICO_E_LIMIT);
    assert_int_equal(api->forward(t, tokens, 0, LENGTH, &err), PICO_E_LIMIT);
    tokens[LENGTH + 2] = (int32_t)b.model->desc.n_vocab;
    assert_int_equal(api->forward(t, tokens, SEQ, LENGTH, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "place 2 of sequence 1"));
    tokens[LENGTH + 2] = -1;
    assert_int_equal(api->forward(t, tokens, SEQ, LENGTH, &err), PICO_E_INVALID);
    tokens[LENGTH + 2] = 1;
    step_check(api->forward(t, tokens, SEQ, LENGTH, &err), &err, "forward");
    assert_int_equal(api->logits(t, 1, 0, 1, &logits, &d, &err), PICO_E_NOT_FOUND);
    assert_int_equal(api->logits(t, 0, ROWS - 1, 2, &logits, &d, &err), PICO_E_LIMIT);
    assert_int_equal(api->logits(t, 0, 0, 10, &logits, &d, &err), PICO_E_LIMIT);
    assert_int_equal(api->backward_head(t, &err), PICO_E_INVALID);
    step_check(api->backward(t, &err), &err, "backward without a head");
    assert_int_equal(api->backward(t, &err), PICO_E_INVALID);
    const pico_update update = {.struct_size = sizeof update, .lr = 1, .step = 1};
    assert_int_equal(api->update(t, 0, &update), PICO_E_INVALID);
    (void)step_param(&b.kit, "output_norm.weight", &index);
    assert_int_equal(api->optimizer(t, index, PICO_OPTIMIZER_MUON, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "AdamW"));
    assert_int_equal(api->batch(t, 1, 1, tokens, &err), PICO_E_UNSUPPORTED);
    pico_train_params params = {
        .struct_size = sizeof params, .max_rows = 8, .max_length = 8, .max_logit_rows = 8};
    assert_ptr_equal(pico_train_of(b.model), t);
    assert_int_equal(api->open(b.model, &params, &second, &err), PICO_E_INVALID);
    params.flags = PICO_TRAIN_FROZEN | PICO_TRAIN_BF16;
    if (!has_bf16(*state)) {
        assert_int_equal(api->open(b.model, &params, &second, &err), PICO_E_UNSUPPORTED);
        assert_non_null(strstr(err.message, "train in F32"));
    }
    params.flags = PICO_TRAIN_FROZEN;
    params.max_length = 9;
    assert_int_equal(api->open(b.model, &params, &second, &err), PICO_E_INVALID);
    params.max_rows = params.max_length = b.model->desc.n_ctx_train + 1;
    assert_int_equal(api->open(b.model, &params, &second, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "learned positions"));
    bench_close(&b);
}

static void a_backend_without_the_extension_is_named(void **state) {
    (void)state;
    kit_variant variants[KIT_VARIANTS];
    (void)kit_variants(variants);
    const char *const set[] = {variants[0].set[0], NULL};
    const rig_setup setup = {.search = PICO_BUILD_DIR "/plugins", .backend = "cpu", .set = set};
    const tiny_model tiny = kit_model(0);
    const pico_train_params params = {
        .struct_size = sizeof params, .max_rows = 8, .max_length = 8, .max_logit_rows = 8};
    rig r;
    pico_model *model = NULL;
    pico_train *train = NULL;
    pico_error err = {0};
    step_check(rig_open(&r, &setup, &err), &err, "rig");
    step_check(tiny_model_open(&r, &tiny, PICO_DTYPE_F32, &model, &err), &err, "model");
    assert_int_equal(pico_train_table.open(model, &params, &train, &err), PICO_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "does not train"));
    assert_null(pico_train_of(model));
    pico_model_close(model);
    rig_close(&r);
}

int main(void) {
    struct CMUnitTest tests[] = {cmocka_unit_test(gradients_are_those_of_the_forward_pass),
                                 cmocka_unit_test(shared_outputs_have_gradients_too),
                                 cmocka_unit_test(heads_that_read_tokens_have_gradients_too),
                                 cmocka_unit_test(recomputing_and_threads_change_no_bit),
                                 cmocka_unit_test(bf16_gradients_point_the_same_way),
                                 cmocka_unit_test(micro_batches_add_up),
                                 cmocka_unit_test(heads_learn_on_a_frozen_trunk),
                                 cmocka_unit_test(going_on_from_saved_bytes_changes_no_bit),
                                 cmocka_unit_test(a_written_model_is_the_trained_one),
                                 cmocka_unit_test(misuse_is_refused),
                                 cmocka_unit_test(a_backend_without_the_extension_is_named)};
    return KIT_RUN("train_model", tests);
}
